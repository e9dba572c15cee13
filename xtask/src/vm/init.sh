#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# The guest's init: mounts, devices and modules, then the command, then power off.
# It runs on a throw-away layer over the host's root. env.sh beside it says what to run.
run=$(dirname "$0")
. "$run/env.sh"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
say() { echo "vexfs-vm: $*" >/dev/kmsg; }

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /host /share
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
[ -e /dev/stdout ] || { ln -s fd/0 /dev/stdin; ln -s fd/1 /dev/stdout; ln -s fd/2 /dev/stderr; }
mount -t debugfs debugfs /sys/kernel/debug
mount --bind / /host
for dir in /tmp /run /dev/shm; do
  mount -t tmpfs -o mode=1777 tmpfs "$dir"
done
# Directories that are needed and are inside a covered one come back from /host.
for dir in $VM_KEEP; do
  mkdir -p "$dir"
  mount --bind "/host$dir" "$dir"
done
mkdir -p /lib/modules /run/lock
mount --bind "$VM_MODULES" /lib/modules
ln -sf /proc/self/mounts /etc/mtab
hostname vexfs-vm 2>/dev/null || echo vexfs-vm >/proc/sys/kernel/hostname
ip link set lo up 2>/dev/null || busybox ip link set lo up 2>/dev/null || busybox ifconfig lo up
# It boots with one processor: the emulator fails when one patches code that another runs.
for cpu in /sys/devices/system/cpu/cpu[1-9]*/online; do
  [ ! -e "$cpu" ] || echo 1 >"$cpu"
done
echo 1 >/proc/sys/kernel/sysrq
echo 60 >/proc/sys/kernel/hung_task_timeout_secs
modprobe -a virtio_blk virtio_rng ublk_drv || say "BUG: the guest's modules do not load"
[ -z "$VM_SHARE" ] || mount -t virtiofs share /share || say "BUG: the share does not mount"

port() {
  tries=0
  while [ $tries -lt 100 ]; do
    for name in /sys/class/virtio-ports/*/name; do
      if [ -e "$name" ] && [ "$(cat "$name")" = "$1" ]; then
        entry=${name%/name}
        echo "/dev/${entry##*/}"
        return
      fi
    done
    tries=$((tries + 1))
    sleep 0.1
  done
  say "BUG: no port $1"
}

disks=0
while [ "$disks" -lt "$VM_DISKS" ]; do
  letter=$(echo abcdefghij | cut -c $((disks + 1)))
  tries=0
  while [ ! -b "/dev/vd$letter" ] && [ $tries -lt 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
  done
  disks=$((disks + 1))
done

out=$(port vexfs.out)
mkfifo -m 600 /run/vexfs-vm.out
cat </run/vexfs-vm.out >"$out" &
exec 9>/run/vexfs-vm.out
cd "$VM_CWD" 2>/dev/null || cd /
# The kernel searches for leaks once, when the command is done, and not by itself.
leaks=/sys/kernel/debug/kmemleak
[ ! -e $leaks ] || echo scan=off >$leaks
# From here on all of the kernel log is judged.
echo 8 >/proc/sys/kernel/printk
say "command starts"
if [ -n "$VM_SHELL" ]; then
  setsid -c sh "$run/shell.sh" </dev/hvc0 >/dev/hvc0 2>&1
else
  sh "$run/command.sh" </dev/null >/run/vexfs-vm.out 2>&1 9>&-
fi
status=$?
say "command ended with status $status"
sync &
pid=$!
tries=0
while kill -0 $pid 2>/dev/null; do
  tries=$((tries + 1))
  [ $tries -lt 300 ] || { say "BUG: sync does not finish"; echo w >/proc/sysrq-trigger; break; }
  sleep 0.1
done
if [ -e $leaks ]; then
  say "searching for memory that nothing points to"
  echo 1 >/sys/module/kmemleak/parameters/verbose
  # The second scan reports memory that has no pointer to it and has not changed since the first.
  echo scan >$leaks
  sleep 6
  echo scan >$leaks
fi
# The host ends the machine when it has read this; if it does not, the machine powers itself off.
printf '\036%s %d\n' "$VM_TOKEN" "$status" >&9
exec 9>&-
sleep 5
busybox poweroff -f
sleep 60
