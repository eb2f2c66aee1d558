# shellcheck shell=bash
# Sourced by the Slurm scripts beside this file. What the variables mean: kiseki.conf.

# Slurm gives prologs and epilogs none.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

say() { printf 'kiseki: %s\n' "$*" >&2; }

# shellcheck source=contrib/slurm/kiseki.conf
. "${KISEKI_SLURM_CONF:-/etc/kiseki/slurm.conf}" || exit 1
# shellcheck disable=SC2154 # set by Slurm
if ! [[ ${SLURM_JOB_ID:-} =~ ^[0-9]+$ ]]; then
  say "SLURM_JOB_ID is not set: this script is for Slurm to run"
  exit 1
fi
JOB_FOLDER=$KISEKI_SLURM_ROOT/job-$SLURM_JOB_ID
# For task-prolog.sh: it runs as the job's user.
# shellcheck disable=SC2034 # used by who sources this
JOB_ENVIRONMENT=$JOB_FOLDER.env
# Of the staging daemon. Deleted with the folder.
# shellcheck disable=SC2034
JOB_LOG=$JOB_FOLDER.log

# kiseki_as USER CACHE_DIR ARGUMENT...: runs kiseki as this user, with the settings above.
kiseki_as() {
  local user=$1 cache=$2 home name
  shift 2
  home=$(getent passwd "$user" | cut -d: -f6)
  local settings=("HOME=${home:-/}" "PATH=$PATH" "KISEKI_CACHE_DIR=$cache")
  for name in $(compgen -v KISEKI_); do
    case $name in
      KISEKI_CACHE_DIR | KISEKI_CACHE_POOL_ID | KISEKI_SLURM_* | KISEKI_STAGE_* | KISEKI_DATASETS) ;;
      *) settings+=("$name=${!name}") ;;
    esac
  done
  local become=()
  [ "$(id -u "$user")" -eq "$(id -u)" ] || become=(setpriv "--reuid=$user" "--regid=$(id -g "$user")" --init-groups)
  "${become[@]}" env -i "${settings[@]}" "$KISEKI" "$@"
}

# clear_folder FOLDER: what dead processes left in a job's folder is overwritten and deleted, and the folder with it. False: something is
# still in it, because it is in use or can't be deleted.
clear_folder() {
  local owner
  owner=$(stat -c %U "$1") || return 1
  kiseki_as "$owner" "$1" scrub --cache-dir "$1" >&2 || return 1
  rm -f "$1/node.lock"
  find "$1" -mindepth 1 -maxdepth 1 -type d -empty -delete
  rmdir "$1" && rm -f "$1.env" "$1.log"
}
