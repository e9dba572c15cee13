#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: mem=1024 timeout=120
# The module without the engine: loads, offers nothing to mount, says so, unloads.
. "$(dirname "$0")/lib.sh"

need "it loads" insmod "$VEXFS_DIST/modules/$(uname -r)/safe/vexfs.ko"
check "no filesystem is registered" sh -c '! grep -qw vexfs /proc/filesystems'
check "it says so" sh -c 'dmesg | grep -i "vexfs: .*safe"'
truncate -s 16M /tmp/image
check "a mount is refused" sh -c '! mount -t vexfs -o loop /tmp/image /mnt'
need "it unloads" rmmod vexfs
check "nothing is left" sh -c '! grep -qw vexfs /proc/modules'
finish
