#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: mem=2048 timeout=600
# What a crash leaves half done is finished while the filesystem is in use already. The device is slow on
# purpose, so that there is a while in which users, freezes and unmounts meet that work.
. "$(dirname "$0")/lib.sh"

need "load" insmod "$VEXFS_MODULE"
mkdir -p /mnt/v
if python3 "$(dirname "$0")/kernel-orphans.py"; then ok "orphans"; else not_ok "orphans"; fi
check "the module unloads" rmmod vexfs
finish
