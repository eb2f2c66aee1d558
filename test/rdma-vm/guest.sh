#!/bin/sh
# Runs inside the machine as /host/run.sh: queue pairs, then a storage node and mounts, whose content goes by RDMA (a RoCE device in software): by ibverbs
# itself, and by libfabric's verbs.
# Says "PASS what" for each thing that was seen.
set -u
# The RDMA device has a network of its own; TLS goes by the loopback interface.
ADDRESS=10.0.0.1
NODE=127.0.0.1:9100
fail() {
  echo "FAIL $1"
  cat /tmp/serve.log /tmp/mount.log /tmp/low.log /tmp/two.log /tmp/second.log 2> /dev/null
  exit 1
}
ip link add d0 type dummy && ip addr add $ADDRESS/24 dev d0 && ip link set d0 up || fail "a network device"
rdma link add rxe0 type rxe netdev d0 || fail "an RDMA device"
cp /host/kiseki /tmp/kiseki && cd /tmp || fail "the binary"

BUN_BE_BUN=1 ./kiseki /host/queue-pairs.js || fail "queue pairs"
chmod 666 /dev/infiniband/uverbs0
(ulimit -l 64 && BUN_BE_BUN=1 ./kiseki /host/queue-pairs.js memlock) || fail "queue pairs with little memory to pin"

./kiseki serve --data-dir node --listen $NODE --fabric-interface $ADDRESS > serve.log 2>&1 &
NODE_PID=$!
for _ in $(seq 120); do [ -f node/listen ] && break; sleep 1; done
grep -q '"provider":"verbs","domain":"rxe0"' serve.log && grep -q '"provider":"verbs;ofi_rxm","domain":"rxe0"' serve.log || fail "the node finds the device by itself"
echo "PASS the node finds the device by itself"
./kiseki tenant create t --ca node/pki --out t.json || fail "a tenant"
./kiseki transports --data-addr $NODE --credentials t.json --fabric-interface $ADDRESS > transports || fail "kiseki transports"
cat transports
grep -q '^verbs .*rxe0 .*rxe0 .*chosen by transport=auto' transports || fail "verbs is tried and chosen"
grep -q '^libfabric:verbs;ofi_rxm .*rxe0 .*rxe0' transports || fail "libfabric's verbs is tried"
echo "PASS verbs is tried and chosen, before libfabric"

mkdir mnt
./kiseki mount mnt --data-addr $NODE --credentials t.json --cache-mode bypass -o fabric_interface=$ADDRESS --log-file mount.log || fail "a mount"
# Until the slots are pinned, which takes seconds here, content goes by TLS.
for _ in $(seq 60); do grep -q 'bodies go over the fabric' mount.log && break; sleep 1; done
dd if=/dev/urandom of=bytes bs=1M count=24 2> /dev/null
cp bytes mnt/file && sync -f mnt && echo 3 > /proc/sys/vm/drop_caches && cmp bytes mnt/file || fail "the same bytes"
./kiseki cache stats mnt | grep '^transport' | tee stats
grep -q 'fabric verbs: [4-9][0-9]\.[0-9] MiB; by TLS .*, 0 of them' stats || fail "they went by RDMA"
echo "PASS a mount's content goes by RDMA, and is the same"

# Several at a time, of sizes that end anywhere, read again by TLS alone.
for i in 1 2 3; do dd if=bytes of=mnt/part$i bs=65537 count=$((20 * i + 1)) 2> /dev/null & parts="${parts:-} $!"; done
wait $parts && sync -f mnt
mkdir tls && ./kiseki mount tls --data-addr $NODE --credentials t.json --cache-mode bypass -o transport=tcp || fail "a mount by TLS"
for i in 1 2 3; do head -c $((65537 * (20 * i + 1))) bytes | cmp - tls/part$i || fail "part $i by TLS"; done
./kiseki umount tls
mkdir lib
# Where the machine below is busy, the three seconds for its probe can be too short here.
for attempt in 1 2 3; do
  ./kiseki mount lib --data-addr $NODE --credentials t.json --cache-mode bypass -o transport=libfabric:verbs\;ofi_rxm,fabric_interface=$ADDRESS --log-file lib.log && break
  [ $attempt = 3 ] && fail "a mount by libfabric"
done
for _ in $(seq 60); do grep -q 'bodies go over the fabric' lib.log && break; sleep 1; done
dd if=/dev/urandom of=others bs=1M count=12 2> /dev/null
cp others lib/others && sync -f lib && cmp others mnt/others || fail "what libfabric wrote"
cmp bytes lib/file || fail "what libfabric reads"
./kiseki cache stats lib | grep '^transport' | tee stats
grep -q 'fabric verbs;ofi_rxm: [1-9][0-9.]* MiB; by TLS .*, 0 of them' stats || fail "it went by libfabric"
./kiseki umount lib
echo "PASS what several wrote at a time by RDMA is read by TLS, and by libfabric"

# One that may pin 40 MiB has fewer slots.
mkdir low && (ulimit -l 40960 && BUN_BE_BUN=1 ./kiseki /host/without-ipc-lock.js /tmp/kiseki mount low --data-addr $NODE --credentials t.json --cache-mode bypass \
  -o transport=verbs --log-file low.log) || fail "a mount with little memory to pin"
for _ in $(seq 60); do grep -q 'bodies go over the fabric' low.log && break; sleep 1; done
cmp others low/others || fail "what it reads"
grep -o '[0-9]* of 20 slots for the fabric can be pinned' low.log && ./kiseki cache stats low | grep '^transport' | grep 'fabric verbs: [1-9]' || fail "it has fewer slots"
./kiseki umount low
echo "PASS with little memory to pin there are fewer slots"

# A node with two adapters, each on a network of its own: both are offered, and a client finds the one that it reaches.
ip link add d1 type dummy && ip addr add 10.0.1.1/24 dev d1 && ip link set d1 up && rdma link add rxe1 type rxe netdev d1 || fail "a second RDMA device"
TWO=127.0.0.1:9101
./kiseki serve --data-dir two --listen $TWO --transports verbs > two.log 2>&1 &
TWO_PID=$!
for _ in $(seq 60); do [ -f two/listen ] && break; sleep 1; done
grep -q '"domain":"rxe0"' two.log && grep -q '"domain":"rxe1"' two.log || fail "two devices are offered"
./kiseki tenant create u --ca two/pki --out u.json || fail "a tenant"
./kiseki transports --data-addr $TWO --credentials u.json > transports || fail "kiseki transports with two devices"
cat transports
for device in rxe0 rxe1; do
  grep -q "^verbs .*$device .*$device .*chosen by transport=auto" transports || fail "$device is tried with the node's of the same number"
done
mkdir second && ./kiseki mount second --data-addr $TWO --credentials u.json --cache-mode bypass -o transport=verbs,fabric_interface=rxe1 --log-file second.log ||
  fail "a mount by the second device"
for _ in $(seq 60); do grep -q 'bodies go over the fabric verbs (rxe1)' second.log && break; sleep 1; done
cp others second/others && sync -f second && echo 3 > /proc/sys/vm/drop_caches && cmp others second/others || fail "the same bytes by the second device"
./kiseki cache stats second | grep '^transport' | tee stats
grep -q 'fabric verbs: [2-9][0-9]\.[0-9] MiB; by TLS .*, 0 of them' stats || fail "they went by the second device"
./kiseki umount second
kill $TWO_PID
wait $TWO_PID || fail "the node with two adapters ends with status 0"
echo "PASS a node with two adapters offers both, and the one that is reached is used"

# Its network goes down, and TLS takes over.
ip link set d0 down
cp bytes mnt/again && sync -f mnt && echo 3 > /proc/sys/vm/drop_caches && cmp bytes mnt/again && cmp bytes mnt/file || fail "TLS takes over"
grep -q 'bodies go by TLS' mount.log || fail "TLS takes over, and the log says so"
echo "PASS the fabric's network is down: TLS takes over"
./kiseki umount mnt || fail "umount"
kill $NODE_PID
wait $NODE_PID || fail "the node ends with status 0"
echo "PASS node and mount end in order"
