#!/bin/bash
# Slurm's TaskProlog: what it prints as "export NAME=VALUE" is in the environment of the job's tasks.
HERE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=contrib/slurm/common.sh
. "$HERE/common.sh"

[ -r "$JOB_ENVIRONMENT" ] || exit 0
while IFS= read -r line; do printf 'export %s\n' "$line"; done <"$JOB_ENVIRONMENT"
