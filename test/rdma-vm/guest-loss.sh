#!/bin/sh
# Runs inside two machines as /host/run.sh: a storage node in a, a mount in b, RoCE in software between them by a network that loses one packet of a hundred.
# Says "PASS what" for each thing that was seen.
set -u
WHO=$(sed -n 's/.*who=\([ab]\).*/\1/p' /proc/cmdline)
NODE=10.0.0.1:9100
mkdir /tmp/exchange && mount -t 9p -o trans=virtio,version=9p2000.L exchange /tmp/exchange || exit 1
fail() {
  echo "FAIL $WHO: $1"
  cat /tmp/serve.log /tmp/mount.log 2> /dev/null
  touch /tmp/exchange/failed
  exit 1
}
wait_for() { # file, seconds
  for _ in $(seq "$2"); do
    [ -f "$1" ] && return
    [ -f /tmp/exchange/failed ] && break
    sleep 1
  done
  fail "waiting for $1"
}
[ "$WHO" = a ] && ADDRESS=10.0.0.1 || ADDRESS=10.0.0.2
ip link set eth0 up && ip addr add $ADDRESS/24 dev eth0 || fail "the network"
modprobe sch_netem
/usr/bin/tc qdisc add dev eth0 root netem loss 1% || fail "a network that loses packets"
rdma link add rxe0 type rxe netdev eth0 || fail "an RDMA device"
cp /host/kiseki /tmp/kiseki && cd /tmp || fail "the binary"

if [ "$WHO" = a ]; then
  ./kiseki serve --data-dir node --listen $NODE > serve.log 2>&1 &
  wait_for node/listen 120
  ./kiseki tenant create t --ca node/pki --out t.json || fail "a tenant"
  cp t.json exchange/t.part && mv exchange/t.part exchange/t.json
  wait_for exchange/done 200
  /usr/bin/tc -s qdisc show dev eth0
  /usr/bin/tc -s qdisc show dev eth0 | grep -q 'dropped [1-9]' || fail "packets were lost"
  kill %1
  wait %1 || fail "the node ends with status 0"
  echo "PASS packets were lost on the way"
  exit 0
fi

wait_for exchange/t.json 180
cp exchange/t.json t.json && chmod 600 t.json && mkdir mnt
./kiseki mount mnt --data-addr $NODE --credentials t.json --cache-mode bypass -o transport=verbs --log-file mount.log || fail "a mount"
for _ in $(seq 60); do grep -q 'bodies go over the fabric' mount.log && break; sleep 1; done
dd if=/dev/urandom of=bytes bs=1M count=12 2> /dev/null
cp bytes mnt/file && sync -f mnt && echo 3 > /proc/sys/vm/drop_caches && cmp bytes mnt/file || fail "the same bytes"
./kiseki cache stats mnt | grep '^transport' | tee stats
grep -q 'fabric verbs: [1-9][0-9.]* MiB' stats || fail "they went by RDMA"
./kiseki umount mnt || fail "umount"
touch exchange/done
echo "PASS content goes by RDMA, and is the same, though packets are lost"
