# Sourced by build, test and quickstart: brings what they need onto a bare Debian 12 with Node and npm, and nothing when it is all
# there already. Sets REPO (the repository's folder) and BUN.
set -euo pipefail

REPO=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
BUN=$REPO/node_modules/.bin/bun

# What building needs: libfuse3.so.3 (embedded in the binary) and fusermount3.
BUILD_PACKAGES=(fuse3 libfuse3-3)
# What the tests need besides: headers and a compiler for the ABI test, and the programs that are run on a mount.
TEST_PACKAGES=(libfuse3-dev libfabric-dev libibverbs-dev gcc libc6-dev git sqlite3 rsync attr acl tar python3 make e2fsprogs strace systemd shellcheck iproute2
  # A virtual machine with RDMA in software: test/rdma-vm.
  qemu-system-x86 busybox-static cpio kmod zstd rdma-core ibverbs-providers librdmacm1)

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename -- "$0"): $*"; exit 1; }

# install_packages NAME...: installs the Debian packages that are missing. Needs root (or sudo without a password) only for that.
install_packages() {
  local missing=() name
  for name in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null || true)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    else
      die "missing Debian packages: ${missing[*]}. Installing them needs root: run 'apt-get install ${missing[*]}' as root, then this again"
    fi
  fi
  say "installing Debian packages: ${missing[*]}"
  local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}")
  # The package lists of a fresh container are empty or old: refresh them only when the first try fails.
  if ! "${install[@]}" >/dev/null 2>&1; then
    "${as_root[@]}" apt-get update -qq >&2 || die "apt-get update failed: is the network reachable?"
    "${install[@]}" >&2 || die "apt-get could not install: ${missing[*]}"
  fi
}

# install_modules: the npm packages of package-lock.json, unless exactly these are installed.
install_modules() {
  command -v npm >/dev/null || die "npm is missing: install Node 20 or newer, which brings it"
  local stamp=$REPO/node_modules/.installed-lock
  if [ -x "$BUN" ] && cmp -s "$REPO/package-lock.json" "$stamp"; then return 0; fi
  say "installing npm packages"
  (cd "$REPO" && npm ci --no-audit --no-fund --loglevel=error >&2) || die "npm ci failed"
  cp -- "$REPO/package-lock.json" "$stamp"
  "$BUN" --version >/dev/null || die "bun does not start: npm must be allowed to run install scripts"
}
