// SPDX-License-Identifier: GPL-2.0-only
/* Names, inodes and extended attributes. */
#include "host.h"

#define NAME(text) (const uint8_t *)(text), (uint32_t)strlen(text)

static struct vexfs_report report;

static void test_create(struct vexfs_volume *v)
{
	struct vexfs_new_attrs file = { .now = NOW, .mode = 0100640, .uid = 3, .gid = 4 };
	struct vexfs_new_attrs dir = { .now = NOW, .mode = 0040755 };
	struct vexfs_new_attrs node = { .now = NOW, .mode = 0020600, .rdev = 0x12345 };
	struct vexfs_attr attr, parent;
	char text[4096], longest[257];
	size_t used = 0;
	uint32_t more;

	memset(longest, 'n', 256);
	longest[256] = 0;
	CHECK("create_file", RUN(v, vexfs_rust_create_file(v, AT(ROOT, "f"), &file, &attr, &parent,
	      &report)) == 0 &&
	      attr.mode == 0100640 && attr.uid == 3 && attr.gid == 4 && attr.nlink == 1 &&
	      parent.ino == ROOT && parent.size == 1);
	CHECK("create_file of a device", RUN(v, vexfs_rust_create_file(v, AT(ROOT, "dev"), &node, &attr,
	      NULL, &report)) == 0 && attr.rdev == 0x12345);
	CHECK("create_file again", RUN(v, vexfs_rust_create_file(v, AT(ROOT, "f"), &file, &attr,
	      &parent, &report)) == -EEXIST);
	CHECK("create_file of a directory", RUN(v, vexfs_rust_create_file(v, AT(ROOT, "x"), &dir, &attr,
	      NULL, &report)) == -EINVAL);
	CHECK("create_file without a name", vexfs_rust_create_file(v, AT_BYTES(ROOT, NULL, 1), &file,
	      &attr, NULL, &report) == -EFAULT);
	CHECK("create_file with an empty name", vexfs_rust_create_file(v, AT(ROOT, ""), &file, &attr,
	      NULL, &report) == -EINVAL);
	CHECK("create_file with a slash", RUN(v, vexfs_rust_create_file(v, AT(ROOT, "a/b"), &file,
	      &attr, NULL, &report)) == -EINVAL);
	CHECK("create_file with a name too long", RUN(v, vexfs_rust_create_file(v, AT(ROOT, longest),
	      &file, &attr, NULL, &report)) == -ENAMETOOLONG);
	CHECK("create_file without attributes", vexfs_rust_create_file(v, AT(ROOT, "x"), NULL, &attr,
	      NULL, &report) == -EFAULT);
	CHECK("create_file without a place", vexfs_rust_create_file(v, AT(ROOT, "x"), &file, NULL, NULL,
	      &report) == -EFAULT);
	CHECK("create_file without a report", vexfs_rust_create_file(v, AT(ROOT, "x"), &file, &attr,
	      NULL, NULL) == -EFAULT);
	CHECK("create_file without a volume", vexfs_rust_create_file(NULL, AT(ROOT, "x"), &file, &attr,
	      NULL, &report) == -EFAULT);
	CHECK("create_file in nothing", RUN(v, vexfs_rust_create_file(v, AT(999, "x"), &file, &attr,
	      NULL, &report)) == -ENOENT);
	CHECK("create_dir", RUN(v, vexfs_rust_create_dir(v, AT(ROOT, "d"), &dir, &attr, &parent,
	      &report)) == 0 && attr.nlink == 2 && parent.nlink == 3);
	CHECK("create_dir with a file's mode", RUN(v, vexfs_rust_create_dir(v, AT(ROOT, "x"), &file,
	      &attr, NULL, &report)) == -EINVAL);
	CHECK("create_file in a file", RUN(v, vexfs_rust_create_file(v, AT(2, "x"), &file, &attr, NULL,
	      &report)) == -ENOTDIR);
	CHECK("symlink", RUN(v, vexfs_rust_symlink(v, AT(ROOT, "l"), LINK_TO(0120000, "../target", 9), &attr, NULL,
	      &report)) == 0 && attr.size == 9);
	CHECK("readlink", RUN(v, vexfs_rust_readlink(v, attr.ino, (uint8_t *)text, sizeof(text), &used,
	      &report)) == 0 && used == 9 && !strcmp(text, "../target"));
	CHECK("readlink without room", RUN(v, vexfs_rust_readlink(v, attr.ino, (uint8_t *)text, 9, &used,
	      &report)) == -ERANGE);
	CHECK("readlink without a buffer", RUN(v, vexfs_rust_readlink(v, attr.ino, NULL, 99, &used,
	      &report)) == -EFAULT);
	CHECK("readlink of a file", RUN(v, vexfs_rust_readlink(v, 2, (uint8_t *)text, 99, &used,
	      &report)) == -EINVAL);
	CHECK("symlink to nothing", vexfs_rust_symlink(v, AT(ROOT, "x"), LINK_TO(0120000, "", 0), &attr, NULL,
	      &report) == -EINVAL);
	CHECK("symlink without a target", vexfs_rust_symlink(v, AT(ROOT, "x"), LINK_TO(0120000, NULL, 5), &attr,
	      NULL, &report) == -EFAULT);
	CHECK("symlink too long", RUN(v, vexfs_rust_symlink(v, AT(ROOT, "x"), LINK_TO(0120000, text, 4096),
	      &attr, NULL, &report)) == -ENAMETOOLONG);
	CHECK("create of a file", RUN(v, vexfs_rust_create(v, AT(ROOT, "any"), &file, &attr, &parent,
	      &report)) == 0 && attr.mode == 0100640 && parent.ino == ROOT);
	CHECK("create of a directory", RUN(v, vexfs_rust_create(v, AT(ROOT, "anydir"), &dir, &attr, NULL,
	      &report)) == 0 && attr.nlink == 2);
	CHECK("create of a symbolic link", RUN(v, vexfs_rust_create(v, AT(ROOT, "anylink"),
	      LINK_TO(0120000, "far", 3), &attr, NULL, &report)) == 0 && attr.size == 3);
	CHECK("create again", RUN(v, vexfs_rust_create(v, AT(ROOT, "any"), &file, &attr, NULL,
	      &report)) == -EEXIST);
	CHECK("create of a file with a target", RUN(v, vexfs_rust_create(v, AT(ROOT, "x"),
	      LINK_TO(0100000, "far", 3), &attr, NULL, &report)) == -EINVAL);
	CHECK("create of a link without a target", RUN(v, vexfs_rust_create(v, AT(ROOT, "x"),
	      LINK_TO(0120000, NULL, 0), &attr, NULL, &report)) == -EINVAL);
	CHECK("create of nothing", RUN(v, vexfs_rust_create(v, AT(ROOT, "x"), LINK_TO(0, NULL, 0), &attr, NULL,
	      &report)) == -EINVAL);
	CHECK("create without a target of that length", vexfs_rust_create(v, AT(ROOT, "x"),
	      LINK_TO(0120000, NULL, 5), &attr, NULL, &report) == -EFAULT);
	CHECK("create without a name", vexfs_rust_create(v, NULL, &file, &attr, NULL, &report) == -EFAULT);
	CHECK("create without attributes", vexfs_rust_create(v, AT(ROOT, "x"), NULL, &attr, NULL,
	      &report) == -EFAULT);
	CHECK("create without a place", vexfs_rust_create(v, AT(ROOT, "x"), &file, NULL, NULL,
	      &report) == -EFAULT);
	RUN(v, vexfs_rust_unlink_file(v, AT(ROOT, "any"), NOW, &attr, NULL, &report));
	RUN(v, vexfs_rust_destroy_inode(v, attr.ino, &more, &report));
	RUN(v, vexfs_rust_unlink_file(v, AT(ROOT, "anylink"), NOW, &attr, NULL, &report));
	RUN(v, vexfs_rust_destroy_inode(v, attr.ino, &more, &report));
	RUN(v, vexfs_rust_remove_dir(v, AT(ROOT, "anydir"), NOW, &attr, NULL, &report));
	RUN(v, vexfs_rust_destroy_inode(v, attr.ino, &more, &report));
	CHECK("symlink with a file's mode", vexfs_rust_symlink(v, AT(ROOT, "x"), LINK_TO(0100000, "t", 1), &attr,
	      NULL, &report) == -EINVAL);
}

static void test_move(struct vexfs_volume *v)
{
	struct vexfs_name_at from = { .dir = ROOT, .name = (uint8_t *)"f", .len = 1 };
	struct vexfs_name_at to = { .dir = ROOT, .name = (uint8_t *)"g", .len = 1 };
	struct vexfs_name_at dir = { .dir = ROOT, .name = (uint8_t *)"d", .len = 1 };
	struct vexfs_name_at inside = { .name = (uint8_t *)"in", .len = 2 };
	struct vexfs_rename_result done;
	struct vexfs_attr attr, parent;
	uint64_t ino;

	CHECK("lookup_inode", RUN(v, vexfs_rust_lookup_inode(v, AT(ROOT, "f"), &attr, &report)) == 0 &&
	      attr.mode == 0100640);
	ino = attr.ino;
	CHECK("lookup_inode of nothing", RUN(v, vexfs_rust_lookup_inode(v, AT(ROOT, "none"), &attr,
	      &report)) == -ENOENT);
	CHECK("lookup_inode in a file", RUN(v, vexfs_rust_lookup_inode(v, AT(ino, "none"), &attr,
	      &report)) == -ENOTDIR);
	CHECK("lookup_inode without a place", vexfs_rust_lookup_inode(v, AT(ROOT, "f"), NULL,
	      &report) == -EFAULT);
	CHECK("link", RUN(v, vexfs_rust_link(v, ino, AT(ROOT, "g"), NOW, &attr, &parent, &report)) == 0 &&
	      attr.nlink == 2);
	CHECK("link onto a name", RUN(v, vexfs_rust_link(v, ino, AT(ROOT, "g"), NOW, &attr, NULL,
	      &report)) == -EEXIST);
	CHECK("link of nothing", RUN(v, vexfs_rust_link(v, 999, AT(ROOT, "h"), NOW, &attr, NULL,
	      &report)) == -ENOENT);
	CHECK("link of a directory", RUN(v, vexfs_rust_link(v, ROOT, AT(ROOT, "h"), NOW, &attr, NULL,
	      &report)) == -EISDIR);
	CHECK("link without a place", vexfs_rust_link(v, ino, AT(ROOT, "h"), NOW, NULL, NULL,
	      &report) == -EFAULT);
	CHECK("unlink_file", RUN(v, vexfs_rust_unlink_file(v, AT(ROOT, "g"), NOW, &attr, &parent,
	      &report)) == 0 && attr.nlink == 1);
	CHECK("unlink_file of nothing", RUN(v, vexfs_rust_unlink_file(v, AT(ROOT, "g"), NOW, &attr,
	      NULL, &report)) == -ENOENT);
	CHECK("unlink_file of a directory", RUN(v, vexfs_rust_unlink_file(v, AT(ROOT, "d"), NOW, &attr,
	      NULL, &report)) == -EISDIR);
	CHECK("unlink_file without a place", vexfs_rust_unlink_file(v, AT(ROOT, "f"), NOW, NULL, NULL,
	      &report) == -EFAULT);
	CHECK("rename", RUN(v, vexfs_rust_rename(v, &from, &to, 0, NOW, &done, &report)) == 0 &&
	      done.other.ino == 0 && done.to_dir.ino == ROOT);
	CHECK("rename of nothing", RUN(v, vexfs_rust_rename(v, &from, &to, 0, NOW, &done,
	      &report)) == -ENOENT);
	CHECK("rename without replacing", RUN(v, vexfs_rust_rename(v, &to, &dir, VEXFS_RENAME_NOREPLACE,
	      NOW,
	      &done, &report)) == -EEXIST);
	CHECK("rename with both flags", vexfs_rust_rename(v, &to, &dir, 3, NOW, &done, &report) == -EINVAL);
	CHECK("rename with unknown flags", vexfs_rust_rename(v, &to, &dir, 4, NOW, &done,
	      &report) == -EINVAL);
	CHECK("rename exchanges", RUN(v, vexfs_rust_rename(v, &to, &dir, VEXFS_RENAME_EXCHANGE, NOW, &done,
	      &report)) == 0 && done.other.ino != 0);
	CHECK("and back", RUN(v, vexfs_rust_rename(v, &to, &dir, VEXFS_RENAME_EXCHANGE, NOW, &done,
	      &report)) == 0);
	RUN(v, vexfs_rust_lookup_inode(v, AT(ROOT, "d"), &attr, &report));
	inside.dir = attr.ino;
	CHECK("rename into itself", RUN(v, vexfs_rust_rename(v, &dir, &inside, 0, NOW, &done,
	      &report)) == -EINVAL);
	CHECK("rename without a source", vexfs_rust_rename(v, NULL, &to, 0, NOW, &done,
	      &report) == -EFAULT);
	CHECK("rename without a target", vexfs_rust_rename(v, &to, NULL, 0, NOW, &done,
	      &report) == -EFAULT);
	CHECK("rename without a place", vexfs_rust_rename(v, &to, &dir, 0, NOW, NULL, &report) == -EFAULT);
	from.name = NULL;
	CHECK("rename without a name", vexfs_rust_rename(v, &from, &to, 0, NOW, &done, &report) == -EFAULT);
	CHECK("rename moves", RUN(v, vexfs_rust_rename(v, &to, &inside, 0, NOW, &done, &report)) == 0 &&
	      done.to_dir.ino == inside.dir);
	CHECK("remove_dir of a full one", RUN(v, vexfs_rust_remove_dir(v, AT(ROOT, "d"), NOW, &attr,
	      NULL, &report)) == -ENOTEMPTY);
	CHECK("remove_dir of a symlink", RUN(v, vexfs_rust_remove_dir(v, AT(ROOT, "l"), NOW, &attr,
	      NULL, &report)) == -ENOTDIR);
	CHECK("unlink the last name", RUN(v, vexfs_rust_unlink_file(v, AT(inside.dir, "in"), NOW, &attr,
	      NULL, &report)) == 0 && attr.nlink == 0);
	CHECK("remove_dir", RUN(v, vexfs_rust_remove_dir(v, AT(ROOT, "d"), NOW, &attr, &parent,
	      &report)) == 0 && parent.nlink == 2);
	CHECK("remove_dir of nothing", RUN(v, vexfs_rust_remove_dir(v, AT(ROOT, "d"), NOW, &attr, NULL,
	      &report)) == -ENOENT);
	CHECK("remove_dir without a place", vexfs_rust_remove_dir(v, AT(ROOT, "d"), NOW, NULL, NULL,
	      &report) == -EFAULT);
}

static void test_inodes(struct vexfs_volume *v)
{
	struct vexfs_new_attrs file = { .now = NOW, .mode = 0100600 }, dir = { .now = NOW,
	      .mode = 0040700 };
	struct vexfs_set_attrs set = { .valid = VEXFS_ATTR_MODE | VEXFS_ATTR_UID | VEXFS_ATTR_MTIME,
	      .mode = 0100444, .uid = 77,
		.mtime = { .seconds = -5, .nanos = 999999999 }, .ctime = NOW };
	struct vexfs_attr attr;
	uint64_t orphan = 0, first;
	uint32_t more = 1;
	int orphans = 0;

	CHECK("init_inode", RUN(v, vexfs_rust_init_inode(v, ROOT, &attr, &report)) == 0 &&
	      attr.ino == ROOT &&
	      attr.parent == ROOT);
	CHECK("init_inode of nothing", RUN(v, vexfs_rust_init_inode(v, 12345, &attr, &report)) == -ENOENT);
	CHECK("init_inode of 0", RUN(v, vexfs_rust_init_inode(v, 0, &attr, &report)) == -ENOENT);
	CHECK("init_inode of all ones", RUN(v, vexfs_rust_init_inode(v, UINT64_MAX, &attr,
	      &report)) == -ENOENT);
	CHECK("init_inode without a place", vexfs_rust_init_inode(v, ROOT, NULL, &report) == -EFAULT);
	CHECK("next_orphan", RUN(v, vexfs_rust_next_orphan(v, 0, &orphan, &report)) == 0 && orphan != 0);
	CHECK("next_orphan from there", RUN(v, vexfs_rust_next_orphan(v, orphan, &first,
	      &report)) == 0 && first == orphan);
	CHECK("next_orphan beyond", RUN(v, vexfs_rust_next_orphan(v, UINT64_MAX, &first,
	      &report)) == 0 && !first);
	CHECK("next_orphan without a place", vexfs_rust_next_orphan(v, 0, NULL, &report) == -EFAULT);
	while (orphan && orphans < 9) {
		do
			if (RUN(v, vexfs_rust_destroy_inode(v, orphan, &more, &report)))
				break;
		while (more);
		orphans++;
		RUN(v, vexfs_rust_next_orphan(v, 0, &orphan, &report));
	}
	CHECK("destroy_inode of every orphan", !orphan && orphans == 2);
	CHECK("destroy_inode of nothing", RUN(v, vexfs_rust_destroy_inode(v, 12345, &more, &report)) == 0 &&
	      !more);
	CHECK("destroy_inode of the root leaves it", RUN(v, vexfs_rust_destroy_inode(v, ROOT, &more,
	      &report)) == 0 &&
	      RUN(v, vexfs_rust_init_inode(v, ROOT, &attr, &report)) == 0 && attr.size > 0);
	CHECK("destroy_inode without a place", vexfs_rust_destroy_inode(v, ROOT, NULL, &report) == -EFAULT);
	CHECK("new_inode", RUN(v, vexfs_rust_new_inode(v, &file, &attr, &report)) == 0 && attr.nlink == 0);
	first = attr.ino;
	CHECK("new_inode of a directory", RUN(v, vexfs_rust_new_inode(v, &dir, &attr, &report)) == -EINVAL);
	CHECK("new_inode without attributes", vexfs_rust_new_inode(v, NULL, &attr, &report) == -EFAULT);
	CHECK("new_inode without a place", vexfs_rust_new_inode(v, &file, NULL, &report) == -EFAULT);
	CHECK("link gives it a name", RUN(v, vexfs_rust_link(v, first, AT(ROOT, "t"), NOW, &attr, NULL,
	      &report)) == 0 && attr.nlink == 1);
	CHECK("write_inode", RUN(v, vexfs_rust_write_inode(v, first, &set, &attr, &report)) == 0 &&
	      attr.mode == 0100444 &&
	      attr.uid == 77 && attr.gid == 0 && attr.mtime.seconds == -5 && attr.mtime.nanos == 999999999);
	CHECK("write_inode without a place", RUN(v, vexfs_rust_write_inode(v, first, &set, NULL,
	      &report)) == 0);
	CHECK("write_inode without attributes", vexfs_rust_write_inode(v, first, NULL, &attr,
	      &report) == -EFAULT);
	CHECK("write_inode of nothing", RUN(v, vexfs_rust_write_inode(v, 12345, &set, &attr,
	      &report)) == -ENOENT);
	set.valid = 1u << 31;
	CHECK("write_inode with unknown bits", vexfs_rust_write_inode(v, first, &set, &attr,
	      &report) == -EINVAL);
}

static void test_list(struct vexfs_volume *v)
{
	struct vexfs_new_attrs file = { .now = NOW, .mode = 0100600 }, dir = { .now = NOW,
	      .mode = 0040700 };
	struct vexfs_attr attr;
	_Alignas(8) uint8_t buffer[2048];
	uint64_t cookie = 0, parent;
	size_t used = 0, at, seen = 0;
	int bad = 0;

	RUN(v, vexfs_rust_create_dir(v, AT(ROOT, "many"), &dir, &attr, NULL, &report));
	parent = attr.ino;
	for (int i = 0; i < 300; i++) {
		char name[32];

		snprintf(name, sizeof(name), "entry number %d", i);
		bad |= RUN(v, vexfs_rust_create_file(v, AT(parent, name), &file, &attr, NULL, &report));
	}
	CHECK("300 entries", !bad);
	for (int round = 0; round < 400; round++) {
		if (RUN(v, vexfs_rust_readdir(v, parent, cookie, buffer, sizeof(buffer), &used,
		      &report)) || !used)
			break;
		for (at = 0; at < used; seen++) {
			const struct vexfs_dir_record *record = (const void *)(buffer + at);

			bad |= record->file_type != 8 || record->cookie <= cookie || record->record_len % 8 ||
			       memcmp(record + 1, "entry number ", 13) != 0;
			cookie = record->cookie;
			at += record->record_len;
		}
	}
	CHECK("readdir lists each once", seen == 300 && !bad && used == 0);
	CHECK("readdir without room", RUN(v, vexfs_rust_readdir(v, parent, 0, buffer, 24, &used,
	      &report)) == -ERANGE);
	CHECK("readdir of a file", RUN(v, vexfs_rust_readdir(v, attr.ino, 0, buffer, 512, &used,
	      &report)) == -ENOTDIR);
	CHECK("readdir without a buffer", vexfs_rust_readdir(v, parent, 0, NULL, 512, &used,
	      &report) == -EFAULT);
	CHECK("readdir unaligned", vexfs_rust_readdir(v, parent, 0, buffer + 1, 512, &used,
	      &report) == -EINVAL);
	CHECK("readdir without a place", vexfs_rust_readdir(v, parent, 0, buffer, 512, NULL,
	      &report) == -EFAULT);
}

static void test_xattrs(struct vexfs_volume *v)
{
	uint8_t *large = calloc(1, 70000), back[64];
	size_t used = 0;

	CHECK("xattr_set", RUN(v, vexfs_rust_xattr_set(v, ROOT, NAME("user.a"), NAME("value"), 0, NOW,
	      &report)) == 0);
	CHECK("xattr_get", RUN(v, vexfs_rust_xattr_get(v, ROOT, NAME("user.a"), back, sizeof(back), &used,
	      &report)) == 0 && used == 5 && !memcmp(back, "value", 5));
	CHECK("xattr_get of the length", RUN(v, vexfs_rust_xattr_get(v, ROOT, NAME("user.a"), NULL, 0,
	      &used,
	      &report)) == 0 && used == 5);
	CHECK("xattr_get without room", RUN(v, vexfs_rust_xattr_get(v, ROOT, NAME("user.a"), back, 4, &used,
	      &report)) == -ERANGE);
	CHECK("xattr_get of nothing", RUN(v, vexfs_rust_xattr_get(v, ROOT, NAME("user.b"), back, 9, &used,
	      &report)) == -ENODATA);
	CHECK("xattr_get without a buffer", vexfs_rust_xattr_get(v, ROOT, NAME("user.a"), NULL, 9, &used,
	      &report) == -EFAULT);
	CHECK("xattr_get without a place", vexfs_rust_xattr_get(v, ROOT, NAME("user.a"), back, 9, NULL,
	      &report) == -EFAULT);
	CHECK("xattr_get without a name", vexfs_rust_xattr_get(v, ROOT, NULL, 3, back, 9, &used,
	      &report) == -EFAULT);
	CHECK("xattr_get with a name too long", vexfs_rust_xattr_get(v, ROOT, large, 256, back, 9, &used,
	      &report) == -ERANGE);
	CHECK("xattr_set creating", RUN(v, vexfs_rust_xattr_set(v, ROOT, NAME("user.a"), NAME("x"),
	      VEXFS_XATTR_CREATE, NOW, &report)) == -EEXIST);
	CHECK("xattr_set replacing", RUN(v, vexfs_rust_xattr_set(v, ROOT, NAME("user.b"), NAME("x"),
	      VEXFS_XATTR_REPLACE, NOW, &report)) == -ENODATA);
	CHECK("xattr_set with unknown flags", vexfs_rust_xattr_set(v, ROOT, NAME("user.b"), NAME("x"), 3,
	      NOW, &report) == -EINVAL);
	CHECK("xattr_set of 64 KiB", RUN(v, vexfs_rust_xattr_set(v, ROOT, NAME("user.large"), large, 65536,
	      0, NOW, &report)) == 0);
	CHECK("xattr_set of more", RUN(v, vexfs_rust_xattr_set(v, ROOT, NAME("user.large"), large, 65537, 0,
	      NOW, &report)) == -E2BIG);
	CHECK("xattr_set without a value", vexfs_rust_xattr_set(v, ROOT, NAME("user.b"), NULL, 5, 0, NOW,
	      &report) == -EFAULT);
	CHECK("xattr_list of the length", RUN(v, vexfs_rust_xattr_list(v, ROOT, NULL, 0, &used,
	      &report)) == 0 && used == 7 + 11);
	CHECK("xattr_list", RUN(v, vexfs_rust_xattr_list(v, ROOT, back, sizeof(back), &used,
	      &report)) == 0 &&
	      used == 18 &&
	      (!strcmp((char *)back, "user.a") || !strcmp((char *)back, "user.large")));
	CHECK("xattr_list without room", RUN(v, vexfs_rust_xattr_list(v, ROOT, back, 17, &used,
	      &report)) == -ERANGE);
	CHECK("xattr_list without a place", vexfs_rust_xattr_list(v, ROOT, back, 17, NULL,
	      &report) == -EFAULT);
	{
		struct vexfs_set_attrs set = { .valid = VEXFS_ATTR_MODE, .mode = 0750, .ctime = NOW };
		struct vexfs_attr attr;

		CHECK("set_acl", RUN(v, vexfs_rust_set_acl(v, ROOT, NAME("system.acl"), NAME("rules"), &set,
		      &report)) == 0 &&
		      RUN(v, vexfs_rust_init_inode(v, ROOT, &attr, &report)) == 0 &&
		      (attr.mode & 07777) == 0750 &&
		      RUN(v, vexfs_rust_xattr_get(v, ROOT, NAME("system.acl"), NULL, 0, &used,
		      &report)) == 0 &&
		      used == 5);
		set.mode = 0700;
		CHECK("set_acl that takes it away", RUN(v, vexfs_rust_set_acl(v, ROOT,
		      NAME("system.acl"), NULL, 0,
		      &set, &report)) == 0 &&
		      RUN(v, vexfs_rust_xattr_get(v, ROOT, NAME("system.acl"), NULL, 0, &used,
		      &report)) == -ENODATA);
		set.mode = 0755;
		CHECK("set_acl that takes away what is not there", RUN(v, vexfs_rust_set_acl(v, ROOT,
		      NAME("system.acl"), NULL, 0, &set, &report)) == 0 &&
		      RUN(v, vexfs_rust_init_inode(v, ROOT, &attr, &report)) == 0 &&
		      (attr.mode & 07777) == 0755);
		set.valid = 0x8000;
		CHECK("set_acl with unknown bits", vexfs_rust_set_acl(v, ROOT, NAME("system.acl"),
		      NAME("x"), &set,
		      &report) == -EINVAL);
		CHECK("set_acl without attributes", vexfs_rust_set_acl(v, ROOT, NAME("system.acl"),
		      NAME("x"), NULL,
		      &report) == -EFAULT);
		CHECK("set_acl without a value of that length", vexfs_rust_set_acl(v, ROOT,
		      NAME("system.acl"), NULL,
		      4, &set, &report) < 0);
	}
	CHECK("xattr_remove", RUN(v, vexfs_rust_xattr_remove(v, ROOT, NAME("user.large"), NOW,
	      &report)) == 0);
	CHECK("xattr_remove of nothing", RUN(v, vexfs_rust_xattr_remove(v, ROOT, NAME("user.large"), NOW,
	      &report)) == -ENODATA);
	CHECK("xattr_remove without a volume", vexfs_rust_xattr_remove(NULL, ROOT, NAME("user.a"), NOW,
	      &report) == -EFAULT);
	free(large);
}

void test_names(void)
{
	struct memory_device device;
	struct vexfs_volume *volume;

	device_make(&device, 8 << 20);
	format(&device);
	volume = open_volume(&device, 0);
	test_create(volume);
	test_move(volume);
	test_inodes(volume);
	test_list(volume);
	test_xattrs(volume);
	CHECK("all of it is committed", vexfs_rust_sync_fs(volume, NOW, NULL, &report) == 0 &&
	      vexfs_rust_put_super(volume) == 0);
	vexfs_rust_cleanup_superblock(volume);
	device_free(&device);
}
