#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# vm: disk=512M mem=1536 timeout=600
# Everything about names and inodes on a mount: trees, links, renames, attributes, ACLs, special files,
# unlinked files, directories; and all of it again after a remount.
. "$(dirname "$0")/lib.sh"

disk=${VEXFS_DISK:-/dev/vda}
mnt=/mnt/v
mkdir -p "$mnt"
need "format" mkfs.vexfs --force "$disk"
need "load" insmod "$VEXFS_MODULE"
need "mount" mount -t vexfs "$disk" "$mnt"

remount() { umount "$mnt" && mount -t vexfs "$disk" "$mnt"; }

cat >/tmp/names.py <<'PY'
import ctypes, errno, os, stat, sys
root, phase = sys.argv[1], sys.argv[2]
os.chdir(root)
libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
bad = 0

def ok(name, truth, said=""):
    global bad
    if truth:
        print("ok", name)
    else:
        bad += 1
        print("not ok", name, said)

def fails(name, number, call, *args, **kw):
    try:
        call(*args, **kw)
        ok(name, False, "it succeeded")
    except OSError as e:
        ok(name, e.errno == number, f"errno {e.errno} {e.strerror}")

def rename2(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags):
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))

def put(path, text="x"):
    with open(path, "w") as f:
        f.write(text)

def get(path):
    return open(path).read()

def links(path):
    return os.lstat(path).st_nlink

def test_basic():
    put("a", "one")
    os.link("a", "b")
    ok("a hard link shares inode and count", os.stat("a").st_ino == os.stat("b").st_ino and links("a") == 2)
    os.unlink("a")
    ok("the other name stays", get("b") == "one" and links("b") == 1)
    fails("link onto a name that exists", errno.EEXIST, os.link, "b", "b")
    for n in (1, 59, 60, 640, 641, 1300, 4000, 4095):
        os.symlink("t" * n, f"s{n}")
        ok(f"symlink of {n} bytes", os.readlink(f"s{n}") == "t" * n and os.lstat(f"s{n}").st_size == n)
    os.symlink("b", "sb")
    ok("a symlink is followed", get("sb") == "one")
    fails("a name of 256 bytes", errno.ENAMETOOLONG, put, "n" * 256)
    put("n" * 255, "long")
    ok("a name of 255 bytes", get("n" * 255) == "long")
    put("\xfc\u20ac \n%s", "odd")
    ok("a name of odd characters", "\xfc\u20ac \n%s" in os.listdir("."))
    os.mkfifo("fifo"); os.mknod("chr", 0o600 | stat.S_IFCHR, os.makedev(300, 70000)); os.mknod("blk", 0o600 | stat.S_IFBLK, os.makedev(7, 3))
    s = os.stat("chr")
    ok("a device keeps its number", stat.S_ISCHR(s.st_mode) and s.st_rdev == os.makedev(300, 70000))
    ok("a fifo is a fifo", stat.S_ISFIFO(os.stat("fifo").st_mode))
    fails("unlink of a directory", errno.EISDIR, lambda: (os.mkdir("dir"), os.unlink("dir")))
    put("dir/x")
    fails("rmdir of a full directory", errno.ENOTEMPTY, os.rmdir, "dir")
    fails("rmdir of a file", errno.ENOTDIR, os.rmdir, "b")
    fails("a missing name", errno.ENOENT, os.stat, "missing")
    before = links(".")
    os.mkdir("sub"); os.mkdir("sub/sub")
    ok("a subdirectory counts as a link", links(".") == before + 1 and links("sub") == 3)
    os.rmdir("sub/sub"); os.rmdir("sub")
    ok("and no more once it is gone", links(".") == before)
    os.unlink("dir/x")

def kinds(d):
    put(d + "/file", "file"); os.mkdir(d + "/empty"); os.mkdir(d + "/full"); put(d + "/full/in"); os.symlink("x", d + "/link")

def test_rename():
    n = 0
    for src in ("file", "empty", "full", "link"):
        for dst in ("none", "file", "empty", "full", "link"):
            for how in ("same", "other"):
                for flags in (0, NOREPLACE, EXCHANGE):
                    n += 1
                    os.mkdir(f"r{n}"); os.mkdir(f"r{n}/p"); os.mkdir(f"r{n}/q")
                    kinds(f"r{n}/p")
                    target = f"r{n}/" + ("p" if how == "same" else "q") + "/target"
                    if dst == "file": put(target, "target")
                    if dst in ("empty", "full"): os.mkdir(target)
                    if dst == "full": put(target + "/in")
                    if dst == "link": os.symlink("y", target)
                    source = f"r{n}/p/{src}"
                    sdir, ddir = src in ("empty", "full"), dst in ("empty", "full")
                    want = 0
                    if flags == NOREPLACE and dst != "none": want = errno.EEXIST
                    elif flags == EXCHANGE and dst == "none": want = errno.ENOENT
                    elif flags != EXCHANGE and dst != "none":
                        if sdir and not ddir: want = errno.ENOTDIR
                        elif ddir and not sdir: want = errno.EISDIR
                        elif dst == "full": want = errno.ENOTEMPTY
                    sino = os.lstat(source).st_ino
                    tino = os.lstat(target).st_ino if dst != "none" else None
                    got = 0
                    try:
                        rename2(source, target, flags)
                    except OSError as e:
                        got = e.errno
                    good = got == want
                    if good and not want:
                        good = os.lstat(target).st_ino == sino
                        if flags == EXCHANGE: good = good and os.lstat(source).st_ino == tino
                        else: good = good and not os.path.lexists(source)
                    for d in (f"r{n}/p", f"r{n}/q"):
                        subs = sum(stat.S_ISDIR(os.lstat(d + "/" + e).st_mode) for e in os.listdir(d))
                        good = good and links(d) == 2 + subs and os.stat(d).st_size == len(os.listdir(d))
                    if not good:
                        ok(f"rename {src} to {dst} in the {how} directory, flags {flags}", False, f"errno {got}, expected {want}")
    ok(f"{n} renames of every kind onto every kind", not bad)
    os.makedirs("x/y/z")
    fails("a directory into itself", errno.EINVAL, os.rename, "x", "x/y/z/x")
    fails("whiteouts are refused", errno.EINVAL, rename2, "x", "w", WHITEOUT)
    put("h1"); os.link("h1", "h2")
    os.rename("h1", "h2")
    ok("a rename onto another name of the same inode does nothing", os.path.exists("h1") and os.path.exists("h2"))
    put("over", "old"); fd = os.open("over", os.O_RDWR)
    put("new", "new"); os.rename("new", "over")
    ok("an open file that was replaced stays readable", os.read(fd, 9) == b"old" and os.fstat(fd).st_nlink == 0)
    os.close(fd)

def test_orphans():
    fd = os.open("gone", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"d" * 100000)
    os.unlink("gone")
    os.pwrite(fd, b"more", 200000); os.fsync(fd)
    ok("an unlinked file works while it is open", os.fstat(fd).st_nlink == 0 and os.fstat(fd).st_size == 200004 and os.pread(fd, 4, 200000) == b"more")
    os.close(fd)
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"tmp")
    ok("O_TMPFILE has no name", os.fstat(fd).st_nlink == 0)
    # os.link() cannot be told to follow.
    done = libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, b"tmpname", 0x400)
    ok("and can be given one", not done and get("tmpname") == "tmp" and links("tmpname") == 1, ctypes.get_errno())
    os.close(fd)
    os.mkdir("rd"); d = os.open("rd", os.O_RDONLY); os.rmdir("rd")
    fails("nothing is created in a removed directory", errno.ENOENT, os.open, "f", os.O_CREAT | os.O_WRONLY, dir_fd=d)
    os.close(d)

def test_attrs():
    put("at")
    os.chmod("at", 0o4751); os.chown("at", 12, 34)
    s = os.stat("at")
    ok("chown takes setuid away", (s.st_uid, s.st_gid, s.st_mode & 0o7777) == (12, 34, 0o751))
    os.utime("at", ns=(1_000_000_007, -5_000_000_001))
    s = os.stat("at")
    ok("times have nanoseconds and may be before 1970", (s.st_atime_ns, s.st_mtime_ns) == (1_000_000_007, -5_000_000_001))
    os.utime("at", ns=(2**33 * 10**9, 2**33 * 10**9 + 1))
    ok("and after 2106", os.stat("at").st_mtime_ns == 2**33 * 10**9 + 1)
    os.mkdir("sg"); os.chown("sg", 0, 77); os.chmod("sg", 0o2775); put("sg/f"); os.mkdir("sg/d")
    ok("a setgid directory passes its group on", os.stat("sg/f").st_gid == 77 and os.stat("sg/d").st_mode & 0o2000)

def test_xattrs():
    put("xa"); os.mkdir("xd"); os.symlink("q", "xl")
    for path in ("xa", "xd"):
        for n in (0, 1, 300, 640, 5000, 65536):
            os.setxattr(path, f"user.v{n}", bytes(i * 7 % 256 for i in range(n)))
        good = all(os.getxattr(path, f"user.v{n}") == bytes(i * 7 % 256 for i in range(n)) for n in (0, 1, 300, 640, 5000, 65536))
        ok(f"values up to 64 KiB on {path}", good)
        ok(f"they are listed on {path}", sorted(os.listxattr(path)) == sorted(f"user.v{n}" for n in (0, 1, 300, 640, 5000, 65536)))
        fails("create of one that exists", errno.EEXIST, os.setxattr, path, "user.v1", b"", os.XATTR_CREATE)
        fails("replace of one that does not", errno.ENODATA, os.setxattr, path, "user.none", b"", os.XATTR_REPLACE)
        os.setxattr(path, "user.v5000", b"short"); os.removexattr(path, "user.v300")
        ok("replaced and removed", os.getxattr(path, "user.v5000") == b"short" and "user.v300" not in os.listxattr(path))
        fails("remove of one that is not there", errno.ENODATA, os.removexattr, path, "user.v300")
    os.setxattr("xa", "trusted.t", b"t"); os.setxattr("xa", "security.s", b"s")
    os.setxattr("xl", "trusted.t", b"link", follow_symlinks=False)
    ok("trusted and security attributes", os.getxattr("xa", "trusted.t") == b"t" and os.getxattr("xl", "trusted.t", follow_symlinks=False) == b"link")
    fails("user attributes on a symlink", errno.EPERM, os.setxattr, "xl", "user.x", b"", follow_symlinks=False)

def test_vector():
    os.mkdir("corpus")
    text = b"type=f32,dim=384,metric=cosine"
    os.setxattr("corpus", "vexfs.vector", text)
    ok("vexfs.vector reads back", os.getxattr("corpus", "vexfs.vector") == text)
    put("corpus/v", ""); os.mkdir("corpus/d")
    ok("files and directories inherit it", os.getxattr("corpus/v", "vexfs.vector") == text and os.getxattr("corpus/d", "vexfs.vector") == text)
    ok("it is listed", "vexfs.vector" in os.listxattr("corpus"))
    fails("nonsense is refused", errno.EINVAL, os.setxattr, "corpus", "vexfs.vector", b"type=f33")
    put("full", "data")
    for _ in range(2):
        os.setxattr("full", "vexfs.vector", text)
    ok("a file with contents takes it, and takes it again", os.getxattr("full", "vexfs.vector") == text)
    os.removexattr("full", "vexfs.vector")
    ok("and gives it back", "vexfs.vector" not in os.listxattr("full") and open("full").read() == "data")
    for wrong in (b"m=1", b"m=65", b"ef_construction=7", b"ef_construction=2001"):
        fails("the index's limits are known", errno.EINVAL, os.setxattr, "full", "vexfs.vector", text + b"," + wrong)
    os.removexattr("corpus/d", "vexfs.vector")
    fails("it can be removed", errno.ENODATA, os.getxattr, "corpus/d", "vexfs.vector")
    fails("other names under vexfs. are refused", errno.EOPNOTSUPP, os.setxattr, "corpus", "vexfs.other", b"x")

def test_big_directory():
    os.mkdir("big")
    names = {f"name-{i}-{'p' * (i % 40)}" for i in range(5000)}
    for n in names: put("big/" + n, "")
    ok("5000 names are listed once each", sorted(os.listdir("big")) == sorted(names))
    seen = []
    with os.scandir("big") as it:
        for i, e in enumerate(it):
            seen.append(e.name)
            if i % 3 == 0: os.unlink("big/" + e.name)
    ok("each is listed once while some are removed", sorted(seen) == sorted(names))
    ok("the rest stays", len(os.listdir("big")) == os.stat("big").st_size == 5000 - (5000 + 2) // 3)

def state():
    out = []
    for d, dirs, files in os.walk("."):
        dirs.sort()
        for e in sorted(dirs + files):
            p = os.path.join(d, e); s = os.lstat(p)
            what = os.readlink(p) if stat.S_ISLNK(s.st_mode) else get(p) if stat.S_ISREG(s.st_mode) else ""
            x = sorted((n, os.getxattr(p, n, follow_symlinks=False)) for n in os.listxattr(p, follow_symlinks=False))
            out.append(repr((p, s.st_ino, s.st_mode, s.st_nlink, s.st_uid, s.st_gid, s.st_size, s.st_blocks, s.st_rdev, s.st_mtime_ns, s.st_ctime_ns, what, x)))
    return "\n".join(out)

if phase == "work":
    for test in (test_basic, test_rename, test_orphans, test_attrs, test_xattrs, test_vector, test_big_directory):
        test()
    os.sync()
    open("/tmp/names.state", "w").write(state())
else:
    now, then = state(), open("/tmp/names.state").read()
    ok("every name, attribute and content is as before the remount", now == then,
       "\n".join(f"{a}\n{b}" for a, b in zip(now.split("\n"), then.split("\n")) if a != b)[:2000])
sys.exit(bad > 0)
PY

run() { python3 /tmp/names.py "$mnt" "$1" || failures=$((failures + 1)); }
run work
check "remount" remount
run compare

if command -v setfacl >/dev/null; then
  mkdir "$mnt/acl"
  check "a default ACL" setfacl -d -m u:12:rwx,g:34:rx "$mnt/acl"
  touch "$mnt/acl/file"
  check "is inherited" sh -c "getfacl -cp $mnt/acl/file | grep -q '^user:12:rwx'"
  check "an ACL is kept over a remount" sh -c "setfacl -m u:99:r $mnt/acl/file && umount $mnt && mount -t vexfs $disk $mnt && getfacl -cp $mnt/acl/file | grep -q '^user:99:r'"
else
  # As setfacl would: version 2; owner, one user, group, mask, other.
  check "an ACL by its attribute" python3 - "$mnt" <<'PY'
import os, struct, sys
path = sys.argv[1] + "/acl"
os.mkdir(path)
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in [(1, 7, 0xffffffff), (2, 7, 12), (4, 5, 0xffffffff), (16, 7, 0xffffffff), (32, 0, 0xffffffff)])
os.setxattr(path, "system.posix_acl_default", acl)
os.setxattr(path, "system.posix_acl_access", acl)
assert os.stat(path).st_mode & 0o777 == 0o770
open(path + "/file", "w").close()
got = os.getxattr(path + "/file", "system.posix_acl_access")
assert struct.pack("<HHI", 2, 7, 12) in got, got
os.chmod(path, 0o700)
assert struct.pack("<HHI", 16, 0, 0xffffffff) in os.getxattr(path, "system.posix_acl_access")
PY
  check "an ACL is kept over a remount" sh -c "umount $mnt && mount -t vexfs $disk $mnt && python3 -c 'import os; os.getxattr(\"$mnt/acl/file\", \"system.posix_acl_access\")'"
fi

step "a tree"
tree=$(ls -d /usr/lib/python3.* | head -n 1)
cp -a "$tree" "$mnt/tree"
check "a tree is the same" diff -r --no-dereference "$tree" "$mnt/tree"
check "and after a remount" sh -c "umount $mnt && mount -t vexfs $disk $mnt && diff -r --no-dereference $tree $mnt/tree"
check "it is deleted" rm -rf "$mnt/tree"
check "many hands" python3 - "$mnt" <<'PY'
import os, random, shutil, sys, multiprocessing as mp
root = sys.argv[1] + "/hands"
os.mkdir(root)
def hand(i):
    r = random.Random(i)
    for n in range(400):
        d = f"{root}/d{r.randrange(4)}"
        try:
            os.makedirs(d, exist_ok=True)
            a, b = f"{d}/f{r.randrange(20)}", f"{root}/d{r.randrange(4)}/f{r.randrange(20)}"
            op = r.randrange(6)
            if op == 0: open(a, "w").write("x" * r.randrange(9000))
            elif op == 1: os.rename(a, b)
            elif op == 2: os.unlink(a)
            elif op == 3: os.link(a, b)
            elif op == 4: [os.lstat(f"{d}/{e}") for e in os.listdir(d)]
            else: shutil.rmtree(d) if r.random() < .2 else os.sync() if r.random() < .1 else None
        except (FileNotFoundError, FileExistsError, OSError):
            pass
with mp.Pool(4) as pool:
    pool.map(hand, range(8))
PY
check "unmount" umount "$mnt"
check "the image is clean" fsck.vexfs -n -f "$disk"
check "unload" rmmod vexfs
finish
