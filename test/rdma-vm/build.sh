#!/bin/bash
# Makes a kernel and an initrd for a small virtual machine with RDMA in software (rdma_rxe) and FUSE, from Debian's packages: the kernels of CI machines
# have no InfiniBand.   build.sh OUTDIR
# Needs: apt with Debian 12's sources, busybox-static, cpio, kmod, zstd, rdma-core, ibverbs-providers, librdmacm1, libfabric1.
set -euo pipefail
OUT=$1
LIBRARIES=/usr/lib/x86_64-linux-gnu
PROGRAMS=(/usr/bin/rdma /sbin/ip /sbin/tc)
MODULES=(rdma_rxe rdma_ucm ib_uverbs dummy virtio_net virtio_pci 9pnet_virtio 9p sch_netem crc32_generic fuse)
mkdir -p "$OUT"
cd "$OUT"
ROOT=$PWD/root
rm -rf "$ROOT" kernel
mkdir -p kernel "$ROOT"/{bin,sbin,usr/bin,lib64,proc,sys,dev,tmp,run,mnt,host,etc/libibverbs.d} "$ROOT$LIBRARIES/libibverbs" "$ROOT/lib"

# The full kernel: the one for clouds has no rdma_rxe.
PACKAGE=$(apt-cache depends linux-image-amd64 | awk '/Depends:/ { print $2; exit }')
VERSION=${PACKAGE#linux-image-}
compgen -G "$PACKAGE"_*.deb > /dev/null || apt-get download -o APT::Sandbox::User=root "$PACKAGE"
dpkg-deb -x "$PACKAGE"_*.deb kernel
depmod -b kernel "$VERSION"
for module in "${MODULES[@]}"; do modprobe -d kernel -S "$VERSION" --show-depends "$module"; done | awk '/^insmod/ { print $2 }' | sort -u |
  while read -r file; do install -D "$file" "$ROOT/lib/modules/$VERSION/${file#*lib/modules/"$VERSION"/}"; done
cp kernel/lib/modules/"$VERSION"/modules.{order,builtin,builtin.modinfo} "$ROOT/lib/modules/$VERSION/"
depmod -b "$ROOT" "$VERSION"

cp /bin/busybox "$ROOT/bin/"
ln -s "..$LIBRARIES" "$ROOT/lib/x86_64-linux-gnu"
echo "driver rxe" > "$ROOT/etc/libibverbs.d/rxe.driver"
for program in "${PROGRAMS[@]}"; do cp "$(readlink -f "$program")" "$ROOT/usr/bin/$(basename "$program")"; done
PROVIDER=$(echo "$LIBRARIES"/libibverbs/librxe-rdmav*.so)
cp "$PROVIDER" "$ROOT$LIBRARIES/libibverbs/"
LOADED=("$LIBRARIES"/{libfabric.so.1,libibverbs.so.1,librdmacm.so.1,libc.so.6,libpthread.so.0,libdl.so.2,libm.so.6})
{
  printf '%s\n' "${LOADED[@]}"
  for file in "${PROGRAMS[@]}" "${LOADED[@]}" "$PROVIDER"; do ldd "$file" | grep -o '/[^ ]*\.so[^ ]*' || true; done
} | sort -u | while read -r file; do cp -f "$(readlink -f "$file")" "$ROOT$LIBRARIES/$(basename "$file")"; done
cp "$(readlink -f /lib64/ld-linux-x86-64.so.2)" "$ROOT/lib64/ld-linux-x86-64.so.2"

cat > "$ROOT/init" << 'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
rm -f /bin/ip /bin/tc
ln -sf /bin/busybox /sbin/modprobe
export PATH=/usr/bin:/bin:/sbin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o size=90% tmpfs /tmp
mount -t tmpfs tmpfs /run
for module in crc32_generic virtio_pci virtio_net 9pnet_virtio 9p fuse ib_uverbs rdma_ucm rdma_rxe dummy; do modprobe $module; done
ip link set lo up
mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576,ro host /host
ulimit -l unlimited
sh /host/run.sh
echo "VM_STATUS=$?"
poweroff -f
INIT
chmod +x "$ROOT/init"
(cd "$ROOT" && find . | cpio -o -H newc --quiet) | zstd -q -3 -f -o initrd.zst
cp "kernel/boot/vmlinuz-$VERSION" vmlinuz
rm -rf kernel "$ROOT"
