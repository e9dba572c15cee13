#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: mem=2048 timeout=600
# The crash lab under a real device: power cuts, faults and recordings, with ext4 and with vexfs.
. "$(dirname "$0")/lib.sh"

mnt=/mnt/lab
dir=/dev/shm/lab
mkdir -p "$mnt" "$dir"
need "the drivers" modprobe -a ublk_drv loop
need "the module" insmod "$VEXFS_MODULE"
json() { python3 -c "import json, sys; print(eval(sys.argv[1], {'j': json.load(sys.stdin)}))" "$1"; }
cut() { vexfs-ublk crash --id 0 --keep "$1" --seed "${2:-1}" >/dev/null; }

step "ext4 loses nothing that was fsync'ed"
truncate -s 64M "$dir/ext4.img"
need "a raw device" vexfs-ublk add --image "$dir/ext4.img" --raw --crash-model --record "$dir/ext4.rec" --id 0
need "mkfs.ext4" mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/ublkb0
need "mount" mount /dev/ublkb0 "$mnt"
echo promised >"$mnt/a"
check "fsync" sync "$mnt/a"
check "a mark" vexfs-ublk mark --id 0 "a is promised"
for keep in none all random; do
  echo "promised before $keep" >"$mnt/$keep"
  sync "$mnt/$keep"
  dd if=/dev/urandom of="$mnt/open-$keep" bs=64k count=8 status=none
  check "cut, $keep is kept" cut "$keep" 7
  check "everything fails now" bash -c "! dd if=/dev/ublkb0 of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null"
  umount "$mnt"
  same "recover turns the power on" /dev/ublkb0 "$(vexfs-ublk recover --id 0)"
  need "the journal is replayed" mount /dev/ublkb0 "$mnt"
  same "what was promised is there" "promised before $keep" "$(cat "$mnt/$keep")"
  same "and what was promised first" promised "$(cat "$mnt/a")"
  umount "$mnt"
  check "e2fsck finds nothing" e2fsck -fn /dev/ublkb0
  mount /dev/ublkb0 "$mnt"
done
umount "$mnt"
refuses "a recording ends at the first cut" 1 "records nothing" vexfs-ublk mark --id 0 late
check "del" vexfs-ublk del --id 0
check "the image at the mark" vexfs-ublk replay "$dir/ext4.rec" --to "mark:a is promised" --keep none --image "$dir/at.img"
check "mounts" mount -o loop "$dir/at.img" "$mnt"
same "and has what was promised then" promised "$(cat "$mnt/a")"
umount "$mnt"
refuses "a point that is none" 1 "no such point" vexfs-ublk replay "$dir/ext4.rec" --to 99999999 --image "$dir/no.img"

step "every kind of fault, seen by a reader"
truncate -s 16M "$dir/raw.img"
need "a raw device" vexfs-ublk add --image "$dir/raw.img" --raw --crash-model --id 0
fault() { vexfs-ublk fault --id 0 "$@" >/dev/null; }
put() { printf "%04096d" "$1" | dd of=/dev/ublkb0 bs=4k seek="${2:-0}" oflag=direct conv=notrunc status=none; }
get() { dd if=/dev/ublkb0 bs=4k count=1 skip="${1:-0}" iflag=direct status=none | tr -d '\0' | sed 's/^0*//'; }
put 1
fault --set eio --on read --range 0-4096 --times 1
check "eio" bash -c "! dd if=/dev/ublkb0 of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null"
same "once" 1 "$(get)"
fault --set lost --nth 2
put 2; put 3
same "the second write is lost" 2 "$(get)"
fault --set misdirect --to 40960 --times 1
put 4
same "a write goes elsewhere" "2 4" "$(get) $(get 10)"
put 5
fault --set stale --times 1
same "a stale read" 2 "$(get)"
same "only one" 5 "$(get)"
fault --set flip --times 1
check "a bit is inverted" bash -c "[ \"$(get)\" != 5 ]"
fault --set latency --ms 300 --times 1
began=$(now_ms); get >/dev/null
check "a request takes longer" [ $(($(now_ms) - began)) -ge 250 ]
fault --set latency --ms 300 --times 16
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do get >/dev/null; done
# One in eight is measured; those that the lab held up began and ended in one batch of the queue.
check "and the statistics know it" bash -c \
  "vexfs-ublk stats --id 0 --json | python3 -c 'import json, sys; sys.exit(json.load(sys.stdin)[\"requests\"][\"read\"][\"latency_us\"][\"max\"] < 250000)'"
fault --set ignore-flush
sync /dev/ublkb0; blockdev --flushbufs /dev/ublkb0
say "$(vexfs-ublk fault --id 0 | tail -n 1)"
same "faults are listed" 8 "$(vexfs-ublk fault --id 0 --json | json "len(j['faults'])")"
check "and cleared" vexfs-ublk fault --id 0 --clear all
same "all of them" "no faults" "$(vexfs-ublk fault --id 0)"
put 6
fault --set die --on read
check "the device dies" bash -c "! dd if=/dev/ublkb0 of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null"
same "and comes back" /dev/ublkb0 "$(vexfs-ublk recover --id 0)"
check "without what was in its cache" bash -c "[ \"$(get)\" != 6 ]"
vexfs-ublk fault --id 0 --set eio --range 9-3 2>/dev/null
same "a wrong range is wrong usage" 2 "$?"
check "del" vexfs-ublk del --id 0
need "a device without the lab" vexfs-ublk add --image "$dir/raw.img" --raw --id 0
refuses "has none" 1 "added without the crash lab" vexfs-ublk crash --id 0
check "del" vexfs-ublk del --id 0

step "a mounted vexfs, recorded and explored"
need "mkfs" mkfs.vexfs "$dir/v.img" 16M
need "a device" vexfs-ublk add --image "$dir/v.img" --crash-model --record "$dir/v.rec" --id 0
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
mkdir "$mnt/d"
for i in 1 2 3 4 5 6; do
  echo "file $i" >"$mnt/d/f$i"
  sync "$mnt/d/f$i"
  dd if=/dev/urandom of="$mnt/big" bs=8k count=$i conv=notrunc status=none
  [ $((i % 2)) = 0 ] && mv "$mnt/d/f$i" "$mnt/d/g$i"
  vexfs-ublk mark --id 0 "file $i"
done
check "sync" sync -f "$mnt"
check "cut" cut random 3
umount "$mnt"
same "recover" /dev/ublkb0 "$(vexfs-ublk recover --id 0)"
check "fsck" fsck.vexfs -n /dev/ublkb0
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
same "all files are there" 6 "$(cat "$mnt"/d/* | wc -l)"
umount "$mnt"
check "del" vexfs-ublk del --id 0

# Every root record (FUA, in the ring) comes after a flush that came after all other writes.
vexfs-ublk replay "$dir/v.rec" --list --json >"$dir/events.json"
check "nodes, flush, root record with FUA, in this order" python3 - "$dir/events.json" <<'PY'
import json, sys
open_writes, roots = set(), 0
done = set()
for event in json.load(open(sys.argv[1]))["events"]:
    kind = event["kind"]
    root = kind == "write" and 4096 <= event["at"] < 33 * 4096
    if root:
        assert event["fua"], f"a root record without FUA: {event}"
        # Data of later transactions may be under way; nodes of this one may not.
        assert flushed, f"a root record without a flush before it: {event}"
        roots += 1
        flushed = False
    elif kind == "flush":
        flushed = True
    elif kind == "write":
        assert not event["fua"], f"only root records are FUA: {event}"
assert roots >= 6, f"only {roots} commits"
PY
explored=$(vexfs-ublk explore "$dir/v.rec" --samples 64 --json)
status=$?
say "$(json "f\"{j['states']} states of {j['points']} points, {j['evaluations']} runs, {j['wrong_states']} wrong\"" <<<"$explored")"
same "every state of the recording is right" 0 "$status"
check "there were many" [ "$(json "j['distinct_states']" <<<"$explored")" -gt 500 ]
refuses "a recording without a vexfs" 1 "no VexFS was committed" vexfs-ublk explore "$dir/ext4.rec"
check "the module unloads" rmmod vexfs
finish
