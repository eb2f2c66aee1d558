#!/bin/bash
# Starts the machine that build.sh made, with FOLDER as /host inside (read only): it runs FOLDER/run.sh,
# whose exit status this one's is.   run.sh OUTDIR FOLDER [SECONDS]
set -euo pipefail
OUT=$1 FOLDER=$2 LIMIT=${3:-240}
LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT
# No KVM on CI machines. One thread, and not before others: the rest of the machine is not ours.
nice -n 10 timeout "$LIMIT" qemu-system-x86_64 -machine q35 -accel tcg,thread=single -cpu max -smp 1 -m 1500 -nodefaults -no-user-config \
  -display none -no-reboot -serial stdio -kernel "$OUT/vmlinuz" -initrd "$OUT/initrd.zst" \
  -append "console=ttyS0 quiet panic=-1 mitigations=off tsc=unstable" \
  -virtfs "local,path=$FOLDER,mount_tag=host,security_model=none,readonly=on" \
  -device virtio-rng-pci < /dev/null | tee "$LOG"
STATUS=$(sed -n 's/^VM_STATUS=\([0-9]*\).*/\1/p' "$LOG" | tail -n 1)
exit "${STATUS:-99}"
