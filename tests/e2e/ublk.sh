#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# The block device alone, in a guest: every operation's contents and allocation, daemons that die
# under load, bad inputs. Run it as root where ublk_drv is loaded and vexfs-ublk is in PATH.
set -u
. "$(dirname "$0")/ublk-lib.sh"
cd "$work" || exit 1

zeroes() { cmp -s -n "$3" -i "$2:0" "$1" /dev/zero; }
# Allocated bytes of a range of a file, counted by its data extents.
allocated() { filefrag -v "$1" | awk -v first="$2" -v n="$3" '
    $1 ~ /^[0-9]+:$/ { gsub(/[.:]/, " "); a = $2; b = $3
        if (a < first) a = first; if (b > first + n - 1) b = first + n - 1
        if (b >= a) sum += b - a + 1 } END { print sum + 0 }'; }

step "bad inputs"
refused "none.img: No such file" vexfs-ublk add --image none.img --raw
refused "neither a regular file nor a block device" vexfs-ublk add --image . --raw
: >empty.img
refused "empty.img: empty" vexfs-ublk add --image empty.img --raw
truncate -s 1000001 odd.img
refused "1000001 bytes is not a multiple" vexfs-ublk add --image odd.img --raw
truncate -s 64M plain.img
refused "not a VexFS image" vexfs-ublk add --image plain.img
refused "there is no ublk device 99" vexfs-ublk del --id 99
refused "there is no ublk device 99" vexfs-ublk recover --id 99
modprobe loop
loop=$(losetup -f --show plain.img) || fail "losetup"
refused "attached to $loop" vexfs-ublk add --image plain.img --raw
losetup -d "$loop"
for usage in "add" "del" "del --id 1 --all" "add --image plain.img --queues 0" "nonsense"; do
    # shellcheck disable=SC2086 # words on purpose
    vexfs-ublk $usage >/dev/null 2>&1
    [ $? = 2 ] || fail "usage: $usage"
done
[ -z "$(ls /dev/ublkb* 2>/dev/null)" ] || fail "a refused image left a device"

step "add, list, features"
out=$(vexfs-ublk add --image plain.img --raw --id 3 --queues 2 --depth 32)
[ "$out" = /dev/ublkb3 ] || fail "add printed: $out"
[ -b /dev/ublkb3 ] || fail "no block device"
[ "$(blockdev --getsize64 /dev/ublkb3)" = $((64 << 20)) ] || fail "size"
[ "$(blockdev --getss --getpbsz /dev/ublkb3 | tr '\n' ' ')" = "512 4096 " ] || fail "block sizes"
queue=/sys/block/ublkb3/queue
[ "$(cat $queue/write_cache)" = "write back" ] || fail "write cache"
[ "$(cat $queue/fua)" = 1 ] || fail "fua"
[ "$(cat $queue/discard_granularity)" = 4096 ] || fail "discard granularity"
[ "$(cat $queue/write_zeroes_max_bytes)" -gt 1048576 ] || fail "write zeroes limit"
vexfs-ublk list | grep -q "/dev/ublkb3  live" || fail "list"
vexfs-ublk list --json | grep -q '"queues": 2' || fail "list --json"
vexfs-ublk features | grep -q "USER_RECOVERY  *yes" || fail "features"
vexfs-ublk features --json | grep -q '"USER_RECOVERY": true' || fail "features --json"
[ -f "$(vexfs-ublk list --json | sed -n 's/.*"log": "\(.*\)".*/\1/p')" ] || fail "no log"
refused "served already: process $(daemon 3)" vexfs-ublk add --image plain.img --raw
truncate -s 1M second.img
refused "device 3 exists already" vexfs-ublk add --image second.img --raw --id 3
refused "process $(daemon 3) serves it" vexfs-ublk recover --id 3

step "contents: fio verifies what it wrote, and the image holds it"
fio --name=v --filename=/dev/ublkb3 --rw=randwrite --bsrange=512-256k --ba=512 \
    --ioengine=io_uring --iodepth=16 --direct=1 --size=48M --verify=crc32c --fsync=32 \
    --minimal >fio.out || { cat fio.out; fail "fio verify"; }
sync
vexfs-ublk del --id 3 || fail "del"
[ ! -e /dev/ublkb3 ] && [ ! -e /dev/ublkc3 ] || fail "del left nodes"
[ -z "$(vexfs-ublk list)" ] || fail "del left a listing"
cp plain.img before.img
vexfs-ublk add --image plain.img --raw >/dev/null || fail "add again"
cmp before.img /dev/ublkb0 || fail "contents after add again"
vexfs-ublk del --id 0 || fail "del again"

# An image on a filesystem that punches holes and zeroes ranges, and that can be full.
step "discard and write zeroes on ext4"
modprobe null_blk nr_devices=1 memory_backed=1 gb=1 2>/dev/null
mkfs.ext4 -q -b 4096 -E lazy_itable_init=0 /dev/nullb0 && mkdir disk && mount /dev/nullb0 disk ||
    fail "ext4"
for mode in "" --buffered; do
    truncate -s 64M disk/x.img
    device=$(vexfs-ublk add --image disk/x.img --raw $mode) || fail "add $mode"
    dd if=/dev/urandom of="$device" bs=1M count=64 oflag=direct status=none || fail "fill"
    dd if="$device" of=copy.img bs=1M iflag=direct status=none
    blkdiscard -o 4M -l 8M "$device" || fail "discard"
    fallocate -p -o 20M -l 8M "$device" || fail "punch"
    blkdiscard -z -o $((40 << 20 | 512)) -l 8M "$device" || fail "zeroes"
    sync -f disk
    for at in $((4 << 20)) $((20 << 20)) $((40 << 20 | 512)); do
        zeroes "$device" "$at" $((8 << 20)) || fail "$mode: not zero at $at"
    done
    for range in "0 4" "12 8" "28 12"; do
        read -r from count <<<"$range"
        cmp -s -i $((from << 20)) -n $((count << 20)) "$device" copy.img || fail "neighbours $range"
    done
    [ "$(allocated disk/x.img 1024 2048)" = 0 ] || fail "$mode: discard freed nothing"
    [ "$(allocated disk/x.img 5120 2048)" = 0 ] || fail "$mode: unmap freed nothing"
    [ "$(allocated disk/x.img 10240 2048)" = 2048 ] || fail "$mode: NOUNMAP freed blocks"
    vexfs-ublk del --all || fail "del --all"
    rm disk/x.img
done

step "a full disk beneath the image is ENOSPC"
truncate -s 4G disk/big.img
device=$(vexfs-ublk add --image disk/big.img --raw)
dd if=/dev/zero of="$device" bs=1M count=2048 oflag=direct 2>&1 | grep -q "No space left" ||
    fail "no ENOSPC"
dd if="$device" of=/dev/null bs=1M count=1 iflag=direct status=none || fail "reads after ENOSPC"
grep -q "make room there" "$(vexfs-ublk list --json | sed -n 's/.*"log": "\(.*\)".*/\1/p')" ||
    fail "the log says nothing of the full disk"
vexfs-ublk del --id 0 || fail "del after ENOSPC"
rm disk/big.img

step "read-only"
device=$(vexfs-ublk add --image plain.img --raw --read-only)
[ "$(blockdev --getro "$device")" = 1 ] || fail "not read-only"
dd if=/dev/zero of="$device" bs=4096 count=1 oflag=direct status=none 2>/dev/null &&
    fail "a read-only device was written"
cmp plain.img "$device" || fail "read-only contents"
vexfs-ublk del --id 0 || fail "del read-only"
cmp plain.img before.img || fail "a read-only image changed"

step "killed under load, recovered, twice; fio sees no error"
device=$(vexfs-ublk add --image plain.img --raw --queues 2)
fio --name=load --filename="$device" --rw=randrw --bs=4k --ioengine=io_uring --iodepth=32 \
    --direct=1 --size=32M --verify=crc32c --verify_backlog=256 --time_based --runtime=8 \
    --minimal >fio.out 2>fio.err &
fio=$!
for _ in 1 2; do
    sleep 2
    kill -9 "$(daemon 0)" || fail "no daemon to kill"
    [ "$(vexfs-ublk recover --id 0)" = "$device" ] || fail "recover"
done
wait $fio || { cat fio.out fio.err; fail "fio under recovery"; }
vexfs-ublk list | grep -q "  live" || fail "not live after recovery"

# The driver takes no second START_USER_RECOVERY before a queue was there: a daemon that was killed
# between the two left a device that could not be recovered any more.
step "a recovery that dies at any system call of the ring is recovered from"
# One queue: where only some of several were there, this kernel leaves nothing but `del`.
vexfs-ublk del --id 0 && device=$(vexfs-ublk add --image plain.img --raw) || fail "add with one queue"
for call in 2 3 4 5 6 7; do
    dd if="$device" of=/dev/null bs=64k count=64 iflag=direct status=none &
    reader=$!
    kill -9 "$(daemon 0)"
    strace -f -o /dev/null -e trace=io_uring_enter -e "inject=io_uring_enter:signal=KILL:when=$call" \
        vexfs-ublk recover --id 0 >/dev/null 2>&1
    vexfs-ublk list | grep -q "  live" ||
        timeout 60 vexfs-ublk recover --id 0 >/dev/null || fail "recover after a death at call $call"
    wait $reader || fail "a reader saw an error after a death at call $call"
done

step "a daemon that stays dead: its mounted device can be removed and unmounted"
mkfs.ext4 -q "$device" && mkdir mnt && mount "$device" mnt && echo data >mnt/file && sync
refused "in use" vexfs-ublk del --id 0
kill -9 "$(daemon 0)"
sleep 0.2
timeout 20 vexfs-ublk del --id 0 2>/dev/null || fail "del of a dead device"
timeout 20 umount mnt || fail "umount of a dead device"

step "without recovery requests fail"
device=$(vexfs-ublk add --image second.img --raw --recovery none)
kill -9 "$(daemon 0)"
sleep 0.5
refused "recovery none" vexfs-ublk recover --id 0
timeout 10 dd if="$device" of=/dev/null bs=4096 count=1 iflag=direct status=none 2>/dev/null &&
    fail "a dead device was read"
vexfs-ublk del --id 0 || fail "del without recovery"

step "an image that shrinks or is replaced fails requests and says so"
device=$(vexfs-ublk add --image second.img --raw)
log=$(vexfs-ublk list --json | sed -n 's/.*"log": "\(.*\)".*/\1/p')
truncate -s 64K second.img
dd if="$device" of=/dev/null bs=64K skip=4 count=1 iflag=direct status=none 2>/dev/null &&
    fail "read past a shrunk image"
grep -q "shrunk from 1048576 to 65536" "$log" || fail "the log says nothing: $(cat "$log")"
vexfs-ublk del --id 0 || fail "del of a shrunk image"

step "the foreground stops on a signal"
vexfs-ublk add --image plain.img --raw --foreground >fg.out &
fg=$!
for _ in $(seq 100); do [ -s fg.out ] && break; sleep 0.1; done
[ "$(cat fg.out)" = /dev/ublkb0 ] || fail "foreground printed: $(cat fg.out)"
kill -INT $fg
wait $fg || fail "foreground exit code"
[ ! -e /dev/ublkb0 ] || fail "foreground left its device"

step "memory: under 64 MiB after large requests on all tags"
device=$(vexfs-ublk add --image plain.img --raw)
fio --name=m --filename="$device" --rw=read --bs=1M --ioengine=io_uring --iodepth=64 --direct=1 \
    --size=64M --loops=4 --minimal >fio.out || fail "fio"
rss=$(sed -n 's/VmRSS:\s*\([0-9]*\) kB/\1/p' "/proc/$(daemon 0)/status")
echo "resident: $rss KiB"
[ "$rss" -lt 65536 ] || fail "resident $rss KiB"
vexfs-ublk del --all || fail "del --all"

umount disk
rm -rf "$work"
[ "$failures" = 0 ] && echo "ublk: passed" && exit 0
echo "ublk: $failures failures"
exit 1
