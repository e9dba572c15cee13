#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: mem=2048 timeout=900
# Searches through the filesystem: ioctl(VEXFS_IOC_SEARCH) reaches the daemon through the device alone, answers only
# what the caller may read, and neither hangs nor writes where nobody answers.
. "$(dirname "$0")/lib.sh"

here=$(cd "$(dirname "$0")" && pwd)
data=$VEXFS_ROOT/tests/data
vectors=$data/packages-2k.npy
mnt=/mnt/v
dir=/dev/shm/inband
mkdir -p "$mnt" "$dir" && cd "$dir" || exit 1
cp "$here/inband.py" "$vectors" . && chmod 755 . && chmod 644 packages-2k.npy inband.py
modprobe -a dm_mod loop nbd 2>/dev/null
need "load" insmod "$VEXFS_MODULE"

ask() { python3 "$dir/inband.py" "$@"; }
as() { local user=$1; shift; setpriv --reuid "$user" --regid "$user" --clear-groups python3 "$dir/inband.py" "$@"; }
daemon() { vexfs-ublk list --json | sed -n 's/.*"pid": \([0-9]*\).*/\1/p'; }
rows=$dir/packages-2k.npy

step "a search through the device"
need "mkfs" mkfs.vexfs v.img 256M
need "add" vexfs-ublk add --image v.img
same "the window is past the filesystem" $(((256 << 20) + (8 << 20))) "$(blockdev --getsize64 /dev/ublkb0)"
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
same "the image did not grow" $((256 << 20)) "$(stat -c %s v.img)"
mkdir "$mnt/c" "$mnt/c/open" "$mnt/c/closed"
for d in c c/open c/closed; do setfattr -n vexfs.vector -v type=f32,dim=384,metric=cosine "$mnt/$d"; done
cp "$vectors" "$mnt/c/p.npy"
sync -f "$mnt"
same "the rows of a directory" "p.npy:77" "$(ask search "$mnt/c" "$rows" 77 k=1)"
same "the rows of a file" ":1234" "$(ask search "$mnt/c/p.npy" "$rows" 1234 k=1)"
same "compared with each" "c/p.npy:5" "$(ask search "$mnt" "$rows" 5 k=1 flags=1)"
same "as the socket says" "$(vexfs-ublk search "$mnt/c" --query "$data/queries-200.npy" --row 9 -k 10 --json)" \
  "$(VEXFS_RUN_DIR=/none vexfs-ublk search "$mnt/c" --query "$data/queries-200.npy" --row 9 -k 10 --json)"
same "2,000 hits of 16,384" "None 2000" "$(ask hits "$mnt/c/p.npy" "$rows" 16384)"
same "the longest query" "EBADR the query has 65536 dimensions, the vectors there have 384" "$(ask large "$mnt/c" 65536 3)"
check "rows that were just written" sh -c "dd if=$rows of=$mnt/c/p.npy bs=1536 count=1 oflag=seek_bytes,append iflag=skip_bytes skip=128 conv=notrunc,fsync status=none"
same "are found" "1" "$(ask search "$mnt/c/p.npy" "$rows" 0 k=2 | tr ' ' '\n' | grep -c ':2000')"
truncate -s $((128 + 2000 * 1536)) "$mnt/c/p.npy" && sync -f "$mnt"

step "only what the caller may read"
cp "$vectors" "$mnt/c/open/theirs.npy"
cp "$vectors" "$mnt/c/closed/hidden.npy"
chmod 755 "$mnt" "$mnt/c" "$mnt/c/open" && chmod 700 "$mnt/c/closed"
chmod 604 "$mnt/c/open/theirs.npy" "$mnt/c/closed/hidden.npy" && chmod 600 "$mnt/c/p.npy"
sync -f "$mnt"
same "root sees all" "closed/hidden.npy:9 open/theirs.npy:9 p.npy:9" "$(ask search "$mnt/c" "$rows" 9 k=3 | tr ' ' '\n' | sort | tr '\n' ' ' | sed 's/ $//')"
same "a user sees what is his to see" "open/theirs.npy:9" "$(as 2000 search "$mnt/c" "$rows" 9 k=1)"
same "and nothing else" "" "$(as 2000 search "$mnt/c" "$rows" 9 k=100 | tr ' ' '\n' | grep -v '^open/theirs.npy')"
setfacl -m u:2000:r "$mnt/c/p.npy" && sync -f "$mnt"
same "an ACL" "open/theirs.npy:9 p.npy:9" "$(as 2000 search "$mnt/c" "$rows" 9 k=2 | tr ' ' '\n' | sort | tr '\n' ' ' | sed 's/ $//')"
same "is one user's" "open/theirs.npy:9" "$(as 2001 search "$mnt/c" "$rows" 9 k=1)"
setfacl -b "$mnt/c/p.npy"; chmod 600 "$mnt/c/p.npy"; sync -f "$mnt"
# Not committed: the target takes the file for readable, the kernel knows better.
chmod 600 "$mnt/c/open/theirs.npy"
same "a chmod of this moment" "" "$(as 2000 search "$mnt/c" "$rows" 9 k=3 | tr ' ' '\n' | grep theirs)"
chmod 604 "$mnt/c/open/theirs.npy"
same "a file that was removed at this moment" "" "$(rm "$mnt/c/open/theirs.npy"; ask search "$mnt/c" "$rows" 9 k=3 | tr ' ' '\n' | grep theirs)"
same "root without its capabilities" "EBADR" "$(setpriv --bounding-set -all --inh-caps -all --ambient-caps -all python3 inband.py search "$mnt/c" "$rows" 9 | cut -d' ' -f1)"
same "a caller in many groups" "p.npy:9" "$(setpriv --groups "$(seq -s, 10000 10500)" python3 inband.py search "$mnt/c" "$rows" 9 k=1 | tr ' ' '\n' | grep p.npy)"

step "descriptors and structures that are refused"
same "opened for writing" EBADF "$(ask open "$mnt/c/p.npy" write "$rows")"
same "opened as a path" EBADF "$(ask open "$mnt/c/p.npy" path "$rows")"
same "opened for both" None "$(ask open "$mnt/c/p.npy" both "$rows")"
check "every field" ask fields "$mnt/c/p.npy" "$rows"
check "3,000 random structures" ask fuzz "$mnt/c/p.npy" "$rows" 3000 1
# By now it may be committed or not: the reason is another, the error the same.
same "a directory without vectors" EBADR "$(mkdir "$mnt/new"; ask search "$mnt/new" "$rows" 1 | cut -d' ' -f1)"

step "many callers, and callers that are killed"
same "32 at once" all "$(ask many "$mnt/c/p.npy" "$rows" 32 8)"
for i in $(seq 40); do
  ask search "$mnt/c/p.npy" "$rows" 3 >/dev/null 2>&1 &
  pid=$!
  sleep "0.$((i % 10 * 2 + 1))"
  kill -9 $pid 2>/dev/null
  wait $pid 2>/dev/null
done 2>/dev/null
same "killed callers leave no slot behind" all "$(ask many "$mnt/c/p.npy" "$rows" 16 2)"

step "a target that does not answer"
kill -STOP "$(daemon)"
same "the caller gives up" "ETIMEDOUT in time" "$(ask stuck "$mnt/c/p.npy" "$rows" 1500)"
pids=()
for _ in $(seq 20); do
  ask stuck "$mnt/c/p.npy" "$rows" 600000 >/dev/null 2>&1 &
  pids+=($!)
  disown
done
sleep $((2 * ${VEXFS_PATIENCE:-1}))
same "they wait" 20 "$(for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null && echo; done | wc -l)"
kill -9 "${pids[@]}"
check "and can be killed" timeout $((20 * ${VEXFS_PATIENCE:-1})) tail -q --pid="${pids[0]}" --pid="${pids[19]}" -f /dev/null
kill -CONT "$(daemon)"
same "then it answers again" all "$(ask many "$mnt/c/p.npy" "$rows" 20 2)"

step "a target that is killed and comes back"
ask many "$mnt/c/p.npy" "$rows" 8 12 >many.out 2>&1 &
asking=$!
sleep 1
kill -9 "$(daemon)" && sleep 0.5
check "recover" vexfs-ublk recover --id 0
wait $asking
same "callers that waited have their answers" 0 $?
same "all of them" all "$(cat many.out)"
kill -9 "$(daemon)" && sleep 0.5
same "none while it is away" "ETIMEDOUT in time" "$(ask stuck "$mnt/c/p.npy" "$rows" 1000)"
check "recover again" vexfs-ublk recover --id 0
same "and then" ":8" "$(ask search "$mnt/c/p.npy" "$rows" 8 k=1)"
check "umount" umount "$mnt"

step "the window is nobody's storage"
check "all of the device can be read" sh -c "dd if=/dev/ublkb0 of=/dev/null bs=1M status=none && dd if=/dev/ublkb0 of=/dev/null bs=64k iflag=direct status=none"
check "a foreign filesystem fails over it" sh -c "! dd if=/dev/zero of=/dev/ublkb0 bs=1M seek=256 count=8 oflag=direct conv=notrunc status=none 2>/dev/null"
check "trimmed" blkdiscard -o $((256 << 20)) -l $((8 << 20)) /dev/ublkb0
check "the image is as it was" sh -c "vexfs-ublk del --id 0 && fsck.vexfs -n v.img"
need "add" vexfs-ublk add --image v.img
refuses "mkfs.vexfs does not go over it" 1 "is 256 MiB long" mkfs.vexfs --force /dev/ublkb0 260M
check "mkfs.vexfs stays before it" mkfs.vexfs --force /dev/ublkb0
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
setfattr -n vexfs.vector -v type=f32,dim=384,metric=cosine "$mnt" && cp "$vectors" "$mnt/p.npy" && sync -f "$mnt"
same "and the new filesystem is searched" "p.npy:77" "$(ask search "$mnt" "$rows" 77 k=1)"
check "umount" umount "$mnt"

step "through a layer that only forwards, as a virtual machine's disk does"
if dmsetup create forward --table "0 $((264 << 11)) linear /dev/ublkb0 0" 2>/dev/null; then
  dmsetup mknodes 2>/dev/null
  need "mount" mount -t vexfs /dev/mapper/forward "$mnt"
  same "linear" "p.npy:77" "$(ask search "$mnt" "$rows" 77 k=1)"
  same "no daemon is known by that name" "77" "$(vexfs-ublk search "$mnt" --query "$rows" --row 77 -k 1 --json | grep -o '"slot":[0-9]*' | cut -d: -f2)"
  same "as an ordinary user" "p.npy:77" "$(as 2000 search "$mnt" "$rows" 77 k=1)"
  umount "$mnt"
  dmsetup remove forward
  need "one that ends early" dmsetup create short --table "0 $((263 << 11)) linear /dev/ublkb0 0"
  dmsetup mknodes 2>/dev/null
  need "mount" mount -t vexfs /dev/mapper/short "$mnt"
  same "has no window" EOPNOTSUPP "$(ask search "$mnt" "$rows" 77 k=1)"
  umount "$mnt"
  dmsetup remove short
else
  not_ok "dm-linear"
fi
loop=$(losetup --show -f --direct-io=on --sector-size 4096 /dev/ublkb0)
need "mount" mount -t vexfs "$loop" "$mnt"
same "a loop device without a cache" "p.npy:77" "$(ask search "$mnt" "$rows" 77 k=1)"
umount "$mnt" && losetup -d "$loop"
loop=$(losetup --show -f --direct-io=off /dev/ublkb0)
need "mount" mount -t vexfs "$loop" "$mnt"
same "one with a cache, which keeps copies" EOPNOTSUPP "$(ask search "$mnt" "$rows" 77 k=1)"
umount "$mnt" && losetup -d "$loop"
check "del" vexfs-ublk del --id 0

step "where nobody answers"
size=$(stat -c %s v.img)
truncate -s $(((256 << 20) + (32 << 20))) v.img
head -c 8M /dev/urandom | dd of=v.img bs=1M seek=280 conv=notrunc status=none
sha256sum <v.img >before
loop=$(losetup --show -f v.img)
need "an image with something behind its filesystem, on a loop device" mount -t vexfs -o ro "$loop" "$mnt"
same "is not searched" EOPNOTSUPP "$(ask search "$mnt" "$rows" 77)"
same "nor by the tool" 1 "$(vexfs-ublk search "$mnt" --query "$rows" 2>&1 | grep -c "not on a mounted device")"
umount "$mnt" && losetup -d "$loop"
same "and not written to" "$(cat before)" "$(sha256sum <v.img)"
# What a window says, as a file: the header and the echoes are right, but never the answer to what was read.
truncate -s "$size" v.img
need "add" vexfs-ublk add --image v.img
dd if=/dev/ublkb0 of=copy.img bs=1M iflag=direct status=none
# The echoes page by page, as one who asks reads them.
dd if=/dev/ublkb0 of=copy.img bs=4k skip=$((263 << 8)) seek=$((263 << 8)) count=256 iflag=direct conv=notrunc status=none
check "del" vexfs-ublk del --id 0
sha256sum <copy.img >before
loop=$(losetup --show -f --direct-io=on copy.img)
need "a copy of all of the device" mount -t vexfs -o ro "$loop" "$mnt"
same "does not pass for one" EOPNOTSUPP "$(ask search "$mnt" "$rows" 77)"
umount "$mnt" && losetup -d "$loop"
same "and is not written to" "$(cat before)" "$(sha256sum <copy.img)"
need "read-only" vexfs-ublk add --image v.img --read-only
need "mount" mount -t vexfs -o ro /dev/ublkb0 "$mnt"
same "has no window" "EOPNOTSUPP $((256 << 20))" "$(ask search "$mnt" "$rows" 77) $(blockdev --getsize64 /dev/ublkb0)"
check "umount" sh -c "umount $mnt && vexfs-ublk del --id 0"

step "the power of the crash lab"
need "add" vexfs-ublk add --image v.img --crash-model --record rec
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
same "a search" "p.npy:77" "$(ask search "$mnt" "$rows" 77 k=1)"
check "is not in the recording, which replays" sh -c "vexfs-ublk mark --id 0 here && umount $mnt && vexfs-ublk crash --id 0 && vexfs-ublk replay rec --to mark:here --image replayed.img && fsck.vexfs -n replayed.img"
check "recover" vexfs-ublk recover --id 0
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
check "off" vexfs-ublk crash --id 0
same "nobody answers" EIO "$(ask search "$mnt" "$rows" 77 k=1)"
umount "$mnt"
check "del" vexfs-ublk del --id 0
check "the image is clean" fsck.vexfs -n v.img
check "the module unloads" rmmod vexfs
finish
