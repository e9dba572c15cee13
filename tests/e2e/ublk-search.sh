#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# From write() to search, in a guest: rows are found after a sync, appended and overwritten ones
# too, after a daemon's death, after del and add, on a filesystem made through a raw device.
# Needs root, ublk_drv, vexfs.ko in $VEXFS_MODULE, the binaries in PATH and tests/data.
set -u
data=${VEXFS_ROOT:?}/tests/data
. "$(dirname "$0")/ublk-lib.sh"
cd "$work" || exit 1

# slots ARGS...: the slots found, nearest first.
slots() { vexfs-ublk search --json "$@" | grep -o '"slot":[0-9]*' | cut -d: -f2; }
# The first slot that a row of a query file finds in a path.
nearest() { slots "$1" --query "$2" --row "$3" -k 1; }
header=128 # of the .npy files in tests/data: see the first of them
row=1536
rowof() { dd if="$1" bs=1 skip=$((header + $2 * row)) count=$row status=none; }

if ! grep -q '^vexfs ' /proc/modules; then
    modprobe -a libcrc32c crc32c_generic 2>/dev/null
    insmod "${VEXFS_MODULE:?}" || exit 1
fi
[ "$(head -c $header "$data/packages-2k.npy" | tail -c 1 | od -An -tx1 | tr -d ' ')" = 0a ] ||
    fail "the header of packages-2k.npy is not $header bytes long"

step "rows are found after a sync"
mkfs.vexfs v.img 256M >/dev/null || fail "mkfs"
device=$(vexfs-ublk add --image v.img) || fail "add"
mkdir mnt && mount -t vexfs "$device" mnt || fail "mount"
mkdir mnt/corpus
setfattr -n vexfs.vector -v type=f32,dim=384,metric=cosine mnt/corpus || fail "setfattr"
cp "$data/packages-2k.npy" mnt/corpus/packages.npy
cp "$data/packages-2k.tsv" mnt/corpus/packages.tsv
sync
queries=$data/queries-200.npy
found=0 wanted=0
for i in $(seq 0 7 199); do
    slots mnt/corpus --query "$queries" --row "$i" | sort >near
    slots mnt/corpus --query "$queries" --row "$i" --exact | sort >exact
    found=$((found + $(comm -12 near exact | wc -l)))
    wanted=$((wanted + $(wc -l <exact)))
done
echo "recall of the first 10: $found of $wanted"
[ "$wanted" = 290 ] || fail "exact searches found $wanted of 290"
[ $((found * 100)) -ge $((wanted * 95)) ] || fail "recall $found/$wanted"
for i in 0 999 1999; do
    [ "$(nearest mnt/corpus "$data/packages-2k.npy" $i)" = $i ] || fail "row $i is not its own nearest"
done
vexfs-ublk search mnt/corpus/packages.npy --like 0 -k 1 |
    grep -qF "$(head -n 1 "$data/packages-2k.tsv" | cut -f1)" || fail "no names"
vexfs-ublk search mnt/corpus --like 0 -k 3 2>/dev/null && fail "--like on a directory"
vexfs-ublk stats --id 0 --json | tr -d ' \n' | grep -q '"files":1,.*"vectors":2000' ||
    fail "stats: $(vexfs-ublk stats --id 0)"

step "rows appended and overwritten a moment ago are found"
rowof "$queries" 10 >>mnt/corpus/packages.npy
sync
[ "$(nearest mnt/corpus "$queries" 10)" = 2000 ] || fail "appended row"
rowof "$queries" 20 | dd of=mnt/corpus/packages.npy bs=1 seek=$((header + 5 * row)) conv=notrunc status=none
sync
[ "$(nearest mnt/corpus "$queries" 20)" = 5 ] || fail "overwritten row"
rowof "$queries" 30 | dd of=mnt/corpus/packages.npy bs=$row conv=notrunc,fsync status=none \
    oflag=seek_bytes seek=$((header + 1000 * row))
[ "$(nearest mnt/corpus "$queries" 30)" = 1000 ] || fail "row overwritten with fsync"

step "a user finds what he may read, and nothing else"
chmod 755 . mnt mnt/corpus
# The checkout may be out of his reach.
install -m 755 "$(command -v vexfs-ublk)" ./ask
install -m 644 "$data/packages-2k.npy" ./row.npy
as() { user=$1; shift; setpriv --reuid "$user" --regid "$user" --clear-groups "$@"; }
# found USER PATH: the names of the files in which a user finds rows like row 999.
found() {
    as "$1" ./ask search --json "$2" --query row.npy --row 999 -k 3 |
        grep -o '"path":"[^"]*"' | sed 's/.*\///; s/"//' | sort -u | tr '\n' ' '
}
mkdir -m 755 mnt/corpus/shared mnt/corpus/closed
chmod 700 mnt/corpus/closed
cp "$data/packages-2k.npy" mnt/corpus/shared/theirs.npy
cp "$data/packages-2k.npy" mnt/corpus/closed/hidden.npy
chmod 600 mnt/corpus/packages.npy
chmod 604 mnt/corpus/shared/theirs.npy mnt/corpus/closed/hidden.npy
sync
[ "$(found 0 mnt/corpus)" = "hidden.npy packages.npy theirs.npy " ] || fail "root: $(found 0 mnt/corpus)"
[ "$(found 2000 mnt/corpus)" = "theirs.npy " ] || fail "a user: $(found 2000 mnt/corpus)"
as 2000 ./ask search mnt/corpus --query row.npy 2>&1 >/dev/null | grep -q packages.npy &&
    fail "a note about a file that he may not read"
refused "may not read" as 2000 ./ask search mnt/corpus/packages.npy --query row.npy
refused "only root" as 2000 ./ask stats --id 0
setfacl -m u:2000:r mnt/corpus/packages.npy && sync
[ "$(found 2000 mnt/corpus)" = "packages.npy theirs.npy " ] || fail "an ACL: $(found 2000 mnt/corpus)"
[ "$(found 2001 mnt/corpus)" = "theirs.npy " ] || fail "another user's ACL: $(found 2001 mnt/corpus)"
mv mnt/corpus/shared/theirs.npy mnt/corpus/closed/ && sync
[ "$(found 2000 mnt/corpus)" = "packages.npy " ] || fail "a file that moved: $(found 2000 mnt/corpus)"
setfacl -b mnt/corpus/packages.npy && chmod 600 mnt/corpus/packages.npy && sync
refused "may not read" as 2000 ./ask search mnt/corpus --query row.npy

step "a user finds the files and rows that he asks for, by what he may read of them"
mkdir -m 755 mnt/corpus/some
cp "$data/packages-2k.npy" mnt/corpus/some/a.npy
awk 'BEGIN { print "n\tkind"; for (n = 0; n < 2000; n++) print n "\t" (n % 2 ? "odd" : "even") }' >mnt/corpus/some/a.tsv
chmod 644 mnt/corpus/some/*
setfattr -n user.lang -v en mnt/corpus/some/a.npy && sync
# chosen PATH EXPRESSION: the slots that the user finds near row 999, in order.
chosen() {
    as 2000 ./ask search --json "$1" --query row.npy --row 999 -k 3 --where "$2" |
        grep -o '"slot":[0-9]*' | cut -d: -f2 | sort -n | tr '\n' ' '
}
[ "$(chosen mnt/corpus 'row.n = 999')" = "999 " ] || fail "a row: $(chosen mnt/corpus 'row.n = 999')"
[ "$(chosen mnt/corpus 'row.kind = "odd" and slot in (7, 8, 9)')" = "7 9 " ] || fail "odd rows"
[ "$(chosen mnt/corpus/some/a.npy 'row.n < 2 and path ~ "*.npy"')" = "0 1 " ] || fail "a single file"
[ "$(chosen mnt/corpus 'user.lang = "en" and path ~ "some/*" and owner = "root" and slot < 3 and mtime > "2020-01-01"')" = "0 1 2 " ] ||
    fail "a file by what is known of it"
[ -z "$(chosen mnt/corpus 'user.lang = "de"')" ] || fail "a file that was not asked for"
as 2000 ./ask search mnt/corpus --query row.npy --row 999 -k 1 --where 'slot = 999' --show n,kind |
    grep -q '999  odd  mnt/corpus/some/a.npy' || fail "metadata is not shown"
refused "column 8" as 2000 ./ask search mnt/corpus --query row.npy --where 'slot < '
chmod 600 mnt/corpus/some/a.tsv && sync
[ -z "$(chosen mnt/corpus 'row.n = 999' 2>/dev/null)" ] || fail "metadata that he may not read"
as 2000 ./ask search mnt/corpus --query row.npy --where 'row.n = 999' 2>&1 >/dev/null |
    grep -q 'may not read a.tsv' || fail "no note about metadata that he may not read"

step "a batch, a radius and a wished recall"
vexfs-ublk search mnt/corpus/some/a.npy --query "$queries" --batch -k 2 --json | grep -o '"slot"' | wc -l |
    grep -qx 400 || fail "200 queries for 2 rows each"
[ "$(slots mnt/corpus/some/a.npy --like 999 --within 0.0001)" = 999 ] || fail "a radius"
vexfs-ublk search mnt/corpus/some/a.npy --like 999 --within 2 -k 5 2>&1 >/dev/null | grep -q "more than 5" ||
    fail "a radius that is cut is not told"
vexfs-ublk search mnt/corpus/some/a.npy --like 999 --recall .9 2>&1 >/dev/null | grep -q "for a recall of 0.9" ||
    fail "the width is not told"
rm -r mnt/corpus/shared mnt/corpus/closed mnt/corpus/some ask row.npy
sync

step "bad queries and files get one line"
refused "NaN" vexfs-ublk search mnt/corpus --query <(
    head -c $header "$queries"; printf '\0\0\300\177'; head -c $((200 * row - 4)) /dev/zero)
mkdir mnt/plain && cp "$queries" mnt/plain/q.npy
refused "not committed yet" vexfs-ublk search mnt/plain --query "$queries"
sync
refused "not a vector file" vexfs-ublk search mnt/plain/q.npy --query "$queries"
refused "no vector files" vexfs-ublk search mnt/plain --query "$queries"
refused "no row 200" vexfs-ublk search mnt/corpus --query "$queries" --row 200
refused "not a usable .npy file" vexfs-ublk search mnt/corpus --query "$data/packages-2k.tsv"
refused "not on a mounted device" vexfs-ublk search / --query "$queries"
refused "No such file" vexfs-ublk search mnt/none --query "$queries"
refused "text" vexfs-ublk search mnt/corpus/packages.tsv --query "$queries"
mkdir mnt/small && setfattr -n vexfs.vector -v type=f32,dim=8,metric=l2 mnt/small
head -c 3200 /dev/zero >mnt/small/raw
touch mnt/small/whole && setfattr -n vexfs.vector -v type=f32,dim=8,metric=l2,header=0 mnt/small/whole
head -c 3200 /dev/zero >mnt/small/whole
cp -a mnt/small/whole mnt/small/broken && printf x >>mnt/small/broken
cp "$queries" mnt/small/wrong.npy
sync
refused "384 dimensions, the vectors there have 8" vexfs-ublk search mnt/small/whole --query "$queries"
vexfs-ublk search mnt/small/broken --like 0 -k 1 2>&1 | grep -q "1 are left" || fail "no note"
refused "raw bytes" vexfs-ublk search mnt/small/raw --like 0
vexfs-ublk search mnt/small --query <(head -c 128 "$queries" | sed 's/(200, 384)/(1, 8)    /'
    head -c 32 /dev/zero) 2>&1 >/dev/null | grep -q "raw: left out: .*raw bytes" || fail "no reason"
refused "f32 x 384" vexfs-ublk search mnt/small/wrong.npy --like 0
rm -r mnt/small

step "a killed daemon is recovered and searches as before"
kill -9 "$(daemon 0)"
refused "no daemon answers" vexfs-ublk search mnt/corpus --query "$queries"
vexfs-ublk recover --id 0 >/dev/null || fail "recover"
[ "$(nearest mnt/corpus "$queries" 10)" = 2000 ] || fail "appended row after recovery"
[ "$(nearest mnt/corpus "$queries" 20)" = 5 ] || fail "overwritten row after recovery"
rowof "$queries" 40 >>mnt/corpus/packages.npy
sync
[ "$(nearest mnt/corpus "$queries" 40)" = 2001 ] || fail "row appended after recovery"

step "removed rows and files are not found"
truncate -s $((header + 2001 * row)) mnt/corpus/packages.npy
sync
[ "$(nearest mnt/corpus "$queries" 40)" = 2001 ] && fail "a cut row is found"
umount mnt && vexfs-ublk del --id 0 || fail "umount, del"

step "after del, add and mount the index is there"
device=$(vexfs-ublk add --image v.img) && mount -t vexfs "$device" mnt || fail "add, mount"
[ "$(nearest mnt/corpus "$queries" 10)" = 2000 ] || fail "appended row after add"
[ "$(nearest mnt/corpus "$queries" 20)" = 5 ] || fail "overwritten row after add"
rm mnt/corpus/packages.npy
sync
refused "no vector files" vexfs-ublk search mnt/corpus --query "$queries"
umount mnt && vexfs-ublk del --id 0 || fail "umount, del"
fsck.vexfs -n v.img || fail "fsck"

step "a raw image that is formatted through the device is recognised"
truncate -s 128M raw.img
device=$(vexfs-ublk add --image raw.img --raw) || fail "add --raw"
mkfs.vexfs "$device" >/dev/null && mount -t vexfs "$device" mnt || fail "mkfs, mount"
setfattr -n vexfs.vector -v type=f32,dim=384,metric=dot mnt
cp "$data/packages-2k.npy" mnt/p.npy
sync
[ "$(slots mnt --query "$data/packages-2k.npy" --row 77 -k 1)" = 77 ] || fail "search on a raw device"
umount mnt && vexfs-ublk del --all || fail "umount, del"
[ "$(stat -c %s raw.img)" = $((128 << 20)) ] || fail "a raw image changed its length"

rm -rf "$work"
[ "$failures" = 0 ] && echo "ublk-search: passed" && exit 0
echo "ublk-search: $failures failures"
exit 1
