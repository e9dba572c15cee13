#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: disk=4G mem=3072 timeout=1500 cut=the-power-goes-now
# Everything once: an image, a ublk device, a mount, files, vectors, a search, a power cut.
# The first boot ends in a power cut; the second one checks what is left.
. "$(dirname "$0")/lib.sh"

image=/data/vexfs.img
corpus=/mnt/corpus
vectors=$VEXFS_ROOT/tests/data/packages-2k.npy
names=$VEXFS_ROOT/tests/data/packages-2k.tsv
queries=$VEXFS_ROOT/tests/data/queries-200.npy
row_bytes=$((384 * 4))

mkdir -p /data
serve() { vexfs-ublk add --image "$image" --id 0 --recovery reissue; }
unserve() { vexfs-ublk del --id 0; }
same_tree() { diff -r --no-dereference "$1" "$2"; }

# A tree of several thousand files that every Debian machine has.
pick_tree() {
  for tree in /usr/lib/python3 /usr/lib/python3.* /usr/share/doc /usr/include /usr/src/rustc-*; do
    if [ -d "$tree" ] && [ "$(find "$tree" | head -n 2000 | wc -l)" -eq 2000 ]; then
      echo "$tree"
      return
    fi
  done
  echo /usr/share
}

# search ARGS...: "slot distance" per hit, nearest first.
search() {
  vexfs-ublk search "$@" --json >/tmp/hits.json || return 1
  python3 - /tmp/hits.json <<'PY'
import json, sys
for hit in json.load(open(sys.argv[1]))["hits"]:
    print(hit["slot"], "%.4f" % hit["distance"])
PY
}

# field NAME: of the first device in the list.
field() {
  vexfs-ublk list --json | python3 -c 'import json, sys
found = json.load(sys.stdin)
print((found["devices"] if isinstance(found, dict) else found)[0][sys.argv[1]])' "$1"
}

# Recall of 20 queries against the truth the host found by brute force.
recall() {
  local row found=0 all=0
  for row in $(seq 0 19); do
    search "$corpus" --query "$queries" --row "$row" -k 10 | cut -d' ' -f1 | sort >/tmp/found
    sed -n "$((row + 1))p" "$VEXFS_TRUTH" | tr ' ' '\n' | sort >/tmp/true
    found=$((found + $(comm -12 /tmp/found /tmp/true | wc -l)))
    all=$((all + $(wc -l </tmp/true)))
  done
  say "recall@10 of 20 queries against brute force: $found of $all"
  [ "$found" -ge $((all * 95 / 100)) ]
}

# nearest ROW: slot of the nearest vector to a row of the queries.
nearest() { search "$corpus" --query "$queries" --row "$1" -k 1 | cut -d' ' -f1; }

# row ROW: the raw bytes of one query vector.
row() {
  local header
  header=$(od -An -tu2 -j8 -N2 "$queries")
  tail -c +$((10 + header + $1 * row_bytes + 1)) "$queries" | head -c "$row_bytes"
}

# run_fio NAME ARGS...: figures of a verified run.
run_fio() {
  local name=$1
  shift
  fio --name="$name" --ioengine=io_uring --verify=crc32c --verify_fatal=1 --group_reporting \
    --output-format=json --output=/tmp/"$name".json "$@" || return 1
  python3 - /tmp/"$name".json "$name" <<'PY'
import json, sys
text = open(sys.argv[1]).read()
job = json.loads(text[text.index("{"):])["jobs"][0]
for kind in ("write", "read"):
    part = job[kind]
    if part["io_bytes"]:
        print("   %s %s: %.0f IOPS, %.1f MB/s, mean %.0f us" % (sys.argv[2], kind, part["iops"],
              part["bw_bytes"] / 1e6, part["lat_ns"]["mean"] / 1000))
sys.exit(job["error"] != 0)
PY
}

first_boot() {
  need "the data disk" mkfs.ext4 -q "$VEXFS_DISK"
  need "the data disk is mounted" mount "$VEXFS_DISK" /data

  step "1. an image, a device, a mount"
  need "mkfs.vexfs formats an image file" mkfs.vexfs -L demo "$image" 2G
  need "vexfs.ko loads" insmod "$VEXFS_MODULE"
  device=$(serve)
  same "vexfs-ublk add prints the device" /dev/ublkb0 "$device"
  need "mount -t vexfs" mount -t vexfs /dev/ublkb0 /mnt
  say "$(df -h /mnt | tail -n 1)"

  step "2. a tree of files"
  tree=$(pick_tree)
  echo "$tree" >/data/tree
  began=$(now_ms)
  need "cp -a $tree" cp -a "$tree" /mnt/tree
  say "$(find /mnt/tree | wc -l) entries, $(du -sm /mnt/tree | cut -f1) MiB in $(($(now_ms) - began)) ms"
  check "diff -r is empty" same_tree "$tree" /mnt/tree
  need "umount" umount /mnt
  need "vexfs-ublk del" unserve
  need "vexfs-ublk add again" serve
  need "mount again" mount -t vexfs /dev/ublkb0 /mnt
  check "diff -r is empty again" same_tree "$tree" /mnt/tree

  step "3. vectors"
  need "mkdir" mkdir "$corpus"
  need "setfattr marks the directory" \
    setfattr -n vexfs.vector -v type=f32,dim=384,metric=cosine "$corpus"
  say "$(getfattr --absolute-names --only-values -n vexfs.vector "$corpus")"
  need "cp packages.npy is the insert" cp "$vectors" "$corpus/packages.npy"
  sync
  need "a search answers" search "$corpus" --query "$queries" --row 0 -k 3
  say "like '$(cut -f1,3 "$VEXFS_ROOT/tests/data/queries-200.tsv" | head -n 1)':"
  search "$corpus" --query "$queries" --row 0 -k 3 | while read -r slot distance; do
    say "  $distance  $(sed -n "$((slot + 1))p" "$names" | cut -f1,3)"
  done
  recall
  same "the true neighbours are found" 0 $?
  row 50 >>"$corpus/packages.npy"
  sync
  same "a row appended a moment ago is found" 2000 "$(nearest 50)"
  header=$(($(od -An -tu2 -j8 -N2 "$vectors") + 10))
  row 51 | dd of="$corpus/packages.npy" bs="$row_bytes" seek=$((header + 7 * row_bytes)) \
    oflag=seek_bytes conv=notrunc status=none
  sync
  same "a row overwritten a moment ago is found" 7 "$(nearest 51)"
  { printf 'package\tsection\tabout\n' && cat "$names"; } >"$corpus/packages.tsv"
  chmod 755 /mnt "$corpus" && chmod 644 "$corpus"/*
  sync
  install -m 755 "$(command -v vexfs-ublk)" /tmp/ask && install -m 644 "$queries" /tmp/queries.npy
  say "an ordinary user asks for python packages only:"
  setpriv --reuid 2000 --regid 2000 --clear-groups /tmp/ask search "$corpus" --query /tmp/queries.npy \
    --row 0 -k 3 --where 'row.section = "python"' --show section,package >/tmp/chosen 2>/dev/null
  sed 1d /tmp/chosen | while read -r distance _ section package _; do
    say "  $distance  $section  $package"
  done
  same "he finds those" 3 "$(grep -c '  python  ' /tmp/chosen)"

  step "4. fio, verified"
  truncate -s 256M /data/raw.img
  raw=$(vexfs-ublk add --image /data/raw.img --raw --id 1)
  same "a raw device beside it" /dev/ublkb1 "$raw"
  run_fio device --filename=/dev/ublkb1 --size=64m --bs=4k --rw=randwrite --iodepth=32 --direct=1
  same "fio on the device" 0 $?
  check "the raw device goes" vexfs-ublk del --id 1
  run_fio file --filename=/mnt/fio --size=64m --bs=4k --rw=randwrite --iodepth=32 --direct=1
  same "fio on a file" 0 $?
  run_fio buffered --filename=/mnt/fio2 --size=64m --bs=64k --rw=write --fsync=16
  same "fio on a file, buffered with fsync" 0 $?

  step "5. kill -9 and a power cut"
  fio --name=load --filename=/mnt/fio --size=64m --bs=4k --rw=randrw --iodepth=16 --direct=1 \
    --ioengine=io_uring --time_based --runtime=20 --output=/tmp/load.txt &
  load=$!
  sleep 5
  pid=$(field pid)
  need "the daemon is killed under load" kill -9 "$pid"
  sleep 1
  need "vexfs-ublk recover" vexfs-ublk recover --id 0
  wait "$load"
  same "fio sees no error" 0 $?
  same "the appended row is still found" 2000 "$(nearest 50)"

  mkdir /mnt/synced
  for number in $(seq 1 40); do
    head -c $((number * 3000)) /dev/urandom >/tmp/blob
    dd if=/tmp/blob of="/mnt/synced/$number" bs=64k conv=fsync status=none || not_ok "fsync $number"
    echo "$(sha256sum </tmp/blob | cut -d' ' -f1)  /mnt/synced/$number" >>/data/manifest
  done
  sync -f /data/manifest
  (while :; do head -c 1M /dev/urandom; done >/mnt/unsynced) &
  (cp -a /usr/include /mnt/halfway) &
  sleep 3
  [ "$failures" -eq 0 ] || finish
  ok "40 files fsynced, much else under way"
  echo "the-power-goes-now"
  sleep 600
}

second_boot() {
  need "the data disk is mounted after the cut" mount "$VEXFS_DISK" /data
  check "fsck.vexfs says clean" fsck.vexfs -n -f "$image"
  need "vexfs.ko loads" insmod "$VEXFS_MODULE"
  need "vexfs-ublk add" serve
  took=$(mount_ms /dev/ublkb0 /mnt)
  need "mount works at once" mountpoint /mnt
  say "mount(2) took $took ms"
  same "every fsynced file was noted" 40 "$(wc -l </data/manifest)"
  check "every fsynced file is whole" sha256sum --quiet -c /data/manifest
  check "the tree is as it was" same_tree "$(cat /data/tree)" /mnt/tree
  recall
  same "search answers" 0 $?
  same "the appended row is found after the crash" 2000 "$(nearest 50)"
  same "the overwritten row is found after the crash" 7 "$(nearest 51)"
  check "what was half written can be removed" rm -rf /mnt/halfway /mnt/unsynced

  step "6. the end"
  need "umount" umount /mnt
  need "vexfs-ublk del" unserve
  check "fsck.vexfs says clean at the end" fsck.vexfs -n -f "$image"
  need "the module unloads" rmmod vexfs
  check "nothing of it is left" sh -c '! grep -q vexfs /proc/filesystems /proc/modules'
  # The host reads the whole kernel log and fails the run for any warning, oops or leak in it.
}

if [ "${VEXFS_BOOT:-1}" = 1 ]; then first_boot; else second_boot; fi
finish
