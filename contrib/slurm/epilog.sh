#!/bin/bash
# Slurm's Epilog: ends what the job has left mounted, lets go of what was staged for it, and sees to it that nothing of it is left on the
# disk. If something is, it fails, and Slurm drains the node.
set -uo pipefail
HERE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=contrib/slurm/common.sh
. "$HERE/common.sh"

# Seconds for a mount that was left to write out what it has, and to wipe its pool.
PATIENCE=60

rm -f "$JOB_ENVIRONMENT" "$JOB_LOG"
[ -d "$JOB_FOLDER" ] || exit 0
user=$(stat -c %U "$JOB_FOLDER") || exit 1

kiseki_as "$user" "$JOB_FOLDER" stage --status --json | sed -n 's/.*"mountpoint":"\([^"]*\)".*/\1/p' |
  while IFS= read -r mountpoint; do
    say "job $SLURM_JOB_ID has left $mountpoint mounted"
    kiseki_as "$user" "$JOB_FOLDER" umount --lazy "$mountpoint" >&2 </dev/null ||
      kiseki_as "$user" "$JOB_FOLDER" umount --force "$mountpoint" >&2 </dev/null
  done
kiseki_as "$user" "$JOB_FOLDER" stage --release-all >&2

end=$((SECONDS + PATIENCE))
until clear_folder "$JOB_FOLDER"; do
  if [ "$SECONDS" -ge "$end" ]; then
    say "$JOB_FOLDER: something of job $SLURM_JOB_ID is still there"
    exit 1
  fi
  sleep 1
done
