#!/bin/bash
# Slurm's Prolog: stages what the job asks for on this node, before the job starts.
#
#     sbatch --comment 'kiseki:/datasets/imagenet,/models/base' job.sh
#
# The job finds KISEKI_CACHE_DIR and KISEKI_CACHE_POOL_ID in its environment (task-prolog.sh), and its `kiseki mount` takes the pool over.
set -uo pipefail
HERE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=contrib/slurm/common.sh
. "$HERE/common.sh"

# What jobs of a crashed machine have left: a scrub never touches what is in use.
for folder in "$KISEKI_SLURM_ROOT"/job-*/; do
  if [ -d "$folder" ]; then clear_folder "${folder%/}" 2>/dev/null || true; fi
done

# The words of the comment that begin with kiseki: name datasets.
datasets=${KISEKI_DATASETS:-}
# Whoever submits a job writes the comment: it is split into words, and nothing in it is expanded.
IFS=$' \t\n' read -r -d '' -a words < <(printf '%s\0' "${SLURM_JOB_COMMENT:-}")
for word in "${words[@]}"; do
  case $word in kiseki:*) datasets=${word#kiseki:} ;; esac
done
[ -n "$datasets" ] || exit 0

# give_up: the job gets nothing of what is here.
give_up() {
  rm -f "$JOB_ENVIRONMENT" "$JOB_LOG"
  if [ -d "$JOB_FOLDER" ]; then
    kiseki_as "$SLURM_JOB_USER" "$JOB_FOLDER" stage --release-all >&2
    clear_folder "$JOB_FOLDER"
  fi
  [ "${KISEKI_STAGE_REQUIRED:-no}" != yes ] || exit 1
  say "job $SLURM_JOB_ID starts without staged data"
  exit 0
}

install -d -m 755 "$KISEKI_SLURM_ROOT" || give_up
install -d -m 700 -o "$SLURM_JOB_USER" -g "$(id -g "$SLURM_JOB_USER")" "$JOB_FOLDER" || give_up
install -m 600 -o "$SLURM_JOB_USER" -g "$(id -g "$SLURM_JOB_USER")" /dev/null "$JOB_LOG" || give_up

pool=
end=$((SECONDS + ${KISEKI_STAGE_TIMEOUT:-1800}))
IFS=, read -ra paths <<<"$datasets"
for path in "${paths[@]}"; do
  left=$((end - SECONDS))
  [ "$left" -gt 0 ] || { say "$path: not staged within ${KISEKI_STAGE_TIMEOUT:-1800} s"; give_up; }
  if [ -z "$pool" ]; then
    pool=$(kiseki_as "$SLURM_JOB_USER" "$JOB_FOLDER" stage "--dataset=$path" --timeout "$left" --daemon --log-file "$JOB_LOG") || give_up
  else
    kiseki_as "$SLURM_JOB_USER" "$JOB_FOLDER" stage "--dataset=$path" --timeout "$left" --pool "$pool" >&2 || give_up
  fi
done
printf 'KISEKI_CACHE_DIR=%s\nKISEKI_CACHE_POOL_ID=%s\n' "$JOB_FOLDER" "$pool" >"$JOB_ENVIRONMENT" || give_up
