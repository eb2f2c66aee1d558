#!/bin/bash
# Starts two of the machine that build.sh made, a and b, joined by a network cable. In each FOLDER is /host (read only), EXCHANGE the 9p share "exchange",
# which both may write to, and the kernel's argument who= says which one it is. Both run FOLDER/run.sh; exits with the first status that is not 0.
#   two.sh OUTDIR FOLDER EXCHANGE [SECONDS]
set -euo pipefail
OUT=$1 FOLDER=$2 EXCHANGE=$3 LIMIT=${4:-240}
SCRATCH=$(mktemp -d)
CABLE=$SCRATCH/cable
trap 'rm -rf "$SCRATCH"' EXIT
boot() { # who, its end of the cable, last digit of its address
  nice -n 10 timeout "$LIMIT" qemu-system-x86_64 -machine q35 -accel tcg,thread=single -cpu max -smp 1 -m 1200 -nodefaults -no-user-config \
    -display none -no-reboot -serial stdio -kernel "$OUT/vmlinuz" -initrd "$OUT/initrd.zst" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off tsc=unstable who=$1" \
    -virtfs "local,path=$FOLDER,mount_tag=host,security_model=none,readonly=on" \
    -virtfs "local,path=$EXCHANGE,mount_tag=exchange,security_model=none" -device virtio-rng-pci \
    -netdev "stream,id=n0,$2" -device "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:0$3" < /dev/null > "$SCRATCH/$1"
}
boot a "server=on,addr.type=unix,addr.path=$CABLE" 1 &
for _ in $(seq 50); do [ -S "$CABLE" ] && break; sleep 0.1; done
boot b "server=off,addr.type=unix,addr.path=$CABLE" 2 || true
wait || true
STATUS=0
for who in a b; do
  cat "$SCRATCH/$who"
  status=$(sed -n 's/^VM_STATUS=\([0-9]*\).*/\1/p' "$SCRATCH/$who" | tail -n 1)
  [ "$STATUS" != 0 ] || STATUS=${status:-99}
done
exit "$STATUS"
