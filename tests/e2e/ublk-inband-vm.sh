#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: mem=2560 timeout=1500
# A search from a virtual machine to which the device was passed: a guest in this guest has /dev/ublkb0 as its disk,
# mounts it with its own kernel module, and its ioctl is answered by the daemon out here.
. "$(dirname "$0")/lib.sh"

data=$VEXFS_ROOT/tests/data
mnt=/mnt/v
dir=/dev/shm/vm
release=$(uname -r)
kernel=$(ls "$VEXFS_DIST"/../vm/kernel-*"$release"/boot/vmlinuz-"$release" 2>/dev/null | head -n 1)
mkdir -p "$mnt" "$dir/root" && cd "$dir" || exit 1
need "a kernel for the guest" test -f "$kernel"
need "load" insmod "$VEXFS_MODULE"

step "a served filesystem with vectors"
need "mkfs" mkfs.vexfs v.img 128M
need "add" vexfs-ublk add --image v.img
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
setfattr -n vexfs.vector -v type=f32,dim=384,metric=cosine "$mnt"
cp "$data/packages-2k.npy" "$mnt/p.npy"
cp "$data/packages-2k.npy" "$mnt/root.npy"
chmod 755 "$mnt" && chmod 644 "$mnt/p.npy" && chmod 600 "$mnt/root.npy"
check "umount" umount "$mnt"

step "a guest with the device as its disk"
# Everything it needs: busybox, modules, the tool and setpriv with their libraries, a query.
cp "$(command -v busybox)" root/busybox
cp "$VEXFS_MODULE" root/vexfs.ko
cp "$data/packages-2k.npy" root/q.npy
: >root/insmod
modprobe --show-depends virtio_blk 2>/dev/null | while read -r what module _; do
  [ "$what" = insmod ] || continue
  name=$(basename "$module")
  case $module in *.xz) xz -dc "$module" >"root/${name%.xz}" ;; *) cp "$module" root/ ;; esac
  echo "${name%.xz}" >>root/insmod
done
for program in vexfs-ublk setpriv; do
  path=$(command -v "$program")
  cp "$path" "root/$program"
  ldd "$path" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "root$(dirname "$library")" && cp -L "$library" "root$library"
  done
done
cat >root/init <<'INIT'
#!/busybox sh
b=/busybox
$b mkdir -p /proc /sys /dev /mnt /run
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for module in $($b cat /insmod); do $b insmod /$module; done
$b insmod /vexfs.ko
$b mount -t vexfs /dev/vda /mnt && echo "said: mounted"
search() { "$@" /vexfs-ublk search /mnt --query /q.npy --row 77 -k 1 --json; }
echo "said: root $(search | $b grep -o 'path.*slot":[0-9]*')"
echo "said: user $(/setpriv --reuid 2000 --regid 2000 --clear-groups /vexfs-ublk search /mnt --query /q.npy --row 77 -k 9 --json |
  $b grep -o '/mnt/[a-z.]*' | $b sort -u)"
$b head -c 1664 /q.npy | $b tail -c 1536 >>/mnt/p.npy; $b sync
echo "said: appended $(/vexfs-ublk search /mnt/p.npy --query /q.npy -k 2 --json | $b grep -o 'slot":[0-9]*' | $b sort | $b tr '\n' ' ')"
echo "said: log $($b dmesg | $b grep -c -e 'BUG' -e 'WARNING' -e 'Oops')"
$b umount /mnt && echo "said: unmounted"
$b poweroff -f
INIT
chmod 755 root/init root/busybox root/vexfs-ublk root/setpriv
need "its initramfs" sh -c "cd root && find . | busybox cpio -o -H newc >../initramfs"
# boot CACHE: what the guest said.
boot() {
  timeout $((1200 * ${VEXFS_PATIENCE:-1})) qemu-system-x86_64 -M q35 -accel tcg -cpu max -m 512 -nographic -no-reboot \
    -drive "file=/dev/ublkb0,if=virtio,format=raw,cache=$1" -kernel "$kernel" -initrd initramfs \
    -append "console=ttyS0 panic=-1 quiet rdinit=/init" </dev/null >"console.$1" 2>&1
  tr -d '\r' <"console.$1" | sed -n 's/.*said: //p'
}
boot none >said
check "it came up" grep -qx mounted said || tail -n 20 console.none
same "root's search" "root path\":\"/mnt/p.npy\",\"slot\":77" "$(grep '^root' said | sed 's/root.npy/p.npy/')"
same "a user's search" "user /mnt/p.npy" "$(grep '^user' said)"
same "a row that the guest wrote" 'appended slot":0 slot":2000 ' "$(grep '^appended' said)"
same "its kernel's log is clean" "log 0" "$(grep '^log' said)"
check "it unmounted" grep -qx unmounted said

step "after that"
need "mount" mount -t vexfs /dev/ublkb0 "$mnt"
same "the guest's row is there" $((128 + 2001 * 1536)) "$(stat -c %s "$mnt/p.npy")"
check "umount" umount "$mnt"
check "del" vexfs-ublk del --id 0
check "clean" fsck.vexfs -n v.img
check "the module unloads" rmmod vexfs
finish
