// SPDX-License-Identifier: GPL-2.0-only
/*
 * ioctl(VEXFS_IOC_SEARCH): a search for vectors, through the command window.
 *
 * The target is told who asks, as this kernel knows it, and covers what they may
 * read in the committed tree. What it answers is checked once more here: a hit
 * whose file is gone, or may not be read now, is dropped. It can waste the caller's
 * time and invent hits in files the caller may read; nothing more.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "vexfs.h"
#include "vexfs_ioctl.h"

#define TIMEOUT_MS 60000
#define TIMEOUT_MS_MAX 600000
/* How often a request is sent again because the target was restarted. */
#define TRIES 4
/* An answer "not yet" that came sooner than this was not waited for: sleep instead. */
#define PENDING_MS 100

/* A file that was looked at. */
struct vexfs_seen {
	u64 ino;
	bool readable;
};

struct vexfs_asking {
	struct file *file;
	struct vexfs_talk *talk;
	/* The caller's structure, and what goes to its data. */
	struct vexfs_search head;
	u8 *out;
	size_t room;
	size_t used;
	/* The request. */
	struct vexfs_window_search search;
	u8 *request;
	u32 total;
	struct vexfs_window_answer answer;
	struct vexfs_seen seen[16];
	unsigned int seen_next;
};

/* Checks the caller's structure, and that it has room for the hits. */
static int vexfs_check_head(const struct vexfs_search *head)
{
	if (head->version != VEXFS_SEARCH_VERSION || head->size < sizeof(*head) ||
	    head->size > VEXFS_SEARCH_SIZE_MAX || head->timeout_ms > TIMEOUT_MS_MAX ||
	    memchr_inv(head->reserved, 0, sizeof(head->reserved)))
		return -EINVAL;
	if (!head->k || head->k > VEXFS_SEARCH_K_MAX ||
	    head->k > (head->size - sizeof(*head)) / sizeof(struct vexfs_search_hit))
		return -EINVAL;
	return 0;
}

/* Who asks, as the filesystem knows it. Groups follow the head of the request. */
static int vexfs_fill_caller(struct vexfs_window_search *search)
{
	const struct cred *cred = current_cred();

	if (cred->group_info->ngroups > VEXFS_WINDOW_GROUPS_MAX)
		return -E2BIG;
	search->uid = from_kuid(&init_user_ns, current_fsuid());
	search->gid = from_kgid(&init_user_ns, current_fsgid());
	search->groups = cred->group_info->ngroups;
	search->rights = ns_capable_noaudit(&init_user_ns, CAP_DAC_READ_SEARCH) ||
			 ns_capable_noaudit(&init_user_ns, CAP_DAC_OVERRIDE);
	return 0;
}

/* Makes the request, but for its head. */
static int vexfs_make_request(struct vexfs_asking *ask, const struct vexfs_search __user *user)
{
	const struct vexfs_search *head = &ask->head;
	const struct group_info *groups = current_cred()->group_info;
	struct vexfs_window_search *search = &ask->search;
	__le32 *place;
	u32 i;
	int err;

	*search = (struct vexfs_window_search){
		.token = get_random_u64(),
		.ino = file_inode(ask->file)->i_ino,
		.like = head->like,
		.flags = head->flags,
		.k = head->k,
		.ef = head->ef,
		.element = head->element,
		.dim = head->dim,
	};
	err = vexfs_fill_caller(search) ?: vexfs_rust_window_plan(search, &ask->total);
	if (err)
		return err;
	if (search->query_bytes > head->size - sizeof(*head))
		return -EINVAL;
	ask->request = kvzalloc(ask->total, GFP_KERNEL_ACCOUNT);
	if (!ask->request)
		return -ENOMEM;
	place = (__le32 *)(ask->request + VEXFS_WINDOW_REQUEST_BYTES);
	for (i = 0; i < search->groups; i++)
		*place++ = cpu_to_le32(from_kgid(&init_user_ns, groups->gid[i]));
	return copy_from_user(place, user->data, search->query_bytes) ? -EFAULT : 0;
}

/* Sends the request to a slot. */
static int vexfs_send(struct vexfs_asking *ask)
{
	struct vexfs_talk *talk = ask->talk;
	size_t len = round_up(ask->total, VEXFS_WINDOW_PAGE_BYTES);
	int err;

	err = vexfs_talk_room(talk, len) ?:
	      vexfs_talk_claim(talk) ?:
	      vexfs_rust_window_request(&ask->search, ask->request, ask->total);
	if (err)
		return err;
	memcpy(talk->data, ask->request, ask->total);
	memset(talk->data + ask->total, 0, len - ask->total);
	return vexfs_talk_write(talk, len);
}

/* Waits for the answer. -ENOENT: the target does not know the request. */
static int vexfs_receive(struct vexfs_asking *ask)
{
	struct vexfs_talk *talk = ask->talk;
	struct vexfs_window_answer *answer = &ask->answer;
	size_t len = VEXFS_WINDOW_PAGE_BYTES;
	unsigned int pause = 1;
	unsigned long began;
	int err;

	for (;;) {
		began = jiffies;
		err = vexfs_talk_room(talk, len) ?:
		      vexfs_talk_read(talk, len);
		if (err)
			return err;
		err = vexfs_rust_window_answer(talk->data, len, &ask->search, answer);
		if (err == -EMSGSIZE && len == VEXFS_WINDOW_PAGE_BYTES) {
			len = round_up(answer->total, VEXFS_WINDOW_PAGE_BYTES);
			continue;
		}
		if (err)
			return err == -EMSGSIZE ? -EPROTO : err;
		if (!answer->status)
			return -ENOENT;
		if (answer->status != 1)
			return 0;
		if (time_before(jiffies, began + msecs_to_jiffies(PENDING_MS))) {
			err = vexfs_talk_sleep(talk, pause);
			if (err)
				return err;
			pause = min(pause * 2, 64U);
		}
	}
}

static int vexfs_ask(struct vexfs_asking *ask)
{
	int err = -EAGAIN, tries;

	for (tries = 0; tries < TRIES; tries++) {
		err = vexfs_talk_prove(ask->talk, &ask->search.session) ?:
		      vexfs_send(ask) ?:
		      vexfs_receive(ask);
		/* -EIO: a new target does not take the rest of a request that an old one began. */
		if (err != -ENOENT && err != -EIO)
			return err;
		vexfs_talk_forget(ask->talk, ask->search.session);
	}
	return err == -EIO ? err : -EAGAIN;
}

/* Whether the caller may read an inode that the target named: 1, 0, or an error. */
static int vexfs_may_read(struct vexfs_asking *ask, u64 ino)
{
	struct file *file = ask->file;
	struct vexfs_seen *seen;
	struct inode *inode;
	unsigned int i;

	/* It was opened for reading. */
	if (ino == file_inode(file)->i_ino)
		return 1;
	for (i = 0; i < ARRAY_SIZE(ask->seen); i++)
		if (ask->seen[i].ino == ino)
			return ask->seen[i].readable;
	seen = &ask->seen[ask->seen_next++ % ARRAY_SIZE(ask->seen)];
	seen->ino = ino;
	seen->readable = false;
	/* No inode that a directory names has these numbers. */
	if (!ino || ino > S64_MAX)
		return 0;
	inode = vexfs_iget(file_inode(file)->i_sb, ino, NULL, 0);
	if (IS_ERR(inode)) {
		if (PTR_ERR(inode) != -ENOENT && PTR_ERR(inode) != -ESTALE)
			return PTR_ERR(inode);
		return 0;
	}
	seen->readable = S_ISREG(inode->i_mode) && READ_ONCE(inode->i_nlink) &&
			 !inode_permission(file_mnt_idmap(file), inode, MAY_READ);
	iput(inode);
	cond_resched();
	return seen->readable;
}

static int vexfs_take_hits(struct vexfs_asking *ask)
{
	struct vexfs_search_hit *out = (struct vexfs_search_hit *)ask->out;
	struct vexfs_window_hit hit;
	int err;
	u32 i;

	for (i = 0; i < ask->answer.hits; i++) {
		err = vexfs_rust_window_hit(ask->talk->data, ask->answer.total, i, &hit);
		if (err)
			return -EPROTO;
		err = vexfs_may_read(ask, hit.ino);
		if (err < 0)
			return err;
		if (fatal_signal_pending(current))
			return -EINTR;
		if (!err) {
			ask->head.out_flags |= VEXFS_SEARCH_DROPPED;
			continue;
		}
		/* There is room for k hits, and the answer has no more. */
		out[ask->head.hits++] = (struct vexfs_search_hit){
			.ino = hit.ino, .slot = hit.slot, .distance = hit.distance,
		};
	}
	ask->used = ask->head.hits * sizeof(*out);
	return 0;
}

static int vexfs_take_notes(struct vexfs_asking *ask)
{
	struct vexfs_window_note note = { };
	struct vexfs_search_note head;
	size_t size;
	int err;

	while (note.next < ask->answer.note_bytes) {
		err = vexfs_rust_window_note(ask->talk->data, ask->answer.total, note.next, &note);
		if (err)
			return -EPROTO;
		if (note.kind == VEXFS_NOTE_PATH || note.kind == VEXFS_NOTE_FILE) {
			err = vexfs_may_read(ask, note.ino);
			if (err < 0)
				return err;
			if (!err)
				continue;
		} else if (note.kind == VEXFS_NOTE_REASON || note.kind == VEXFS_NOTE_INDEX) {
			note.ino = 0;
		} else {
			continue;
		}
		size = sizeof(head) + round_up(note.text_len, 8);
		if (size > ask->room - ask->used) {
			ask->head.out_flags |= VEXFS_SEARCH_NOTES_CUT;
			break;
		}
		head = (struct vexfs_search_note){
			.ino = note.ino, .kind = note.kind, .len = note.text_len,
		};
		memset(ask->out + ask->used, 0, size);
		memcpy(ask->out + ask->used, &head, sizeof(head));
		memcpy(ask->out + ask->used + sizeof(head), ask->talk->data + note.text_at,
		       note.text_len);
		ask->used += size;
		ask->head.note_bytes += size;
	}
	return 0;
}

/* Takes over what the caller may see of the answer. */
static int vexfs_take_answer(struct vexfs_asking *ask)
{
	struct vexfs_search *head = &ask->head;

	head->generation = ask->answer.generation;
	head->searched = ask->answer.searched;
	head->denied = ask->answer.denied;
	head->out_flags = ask->answer.flags & (VEXFS_SEARCH_CAUGHT_UP | VEXFS_SEARCH_NOTES_CUT);
	head->hits = 0;
	head->note_bytes = 0;
	head->reserved_out = 0;
	ask->room = head->size - sizeof(*head);
	ask->out = kvmalloc(ask->room, GFP_KERNEL_ACCOUNT);
	if (!ask->out)
		return -ENOMEM;
	return vexfs_take_hits(ask) ?: vexfs_take_notes(ask);
}

static int vexfs_search_answer(struct vexfs_asking *ask, struct vexfs_search __user *user)
{
	int err;

	err = vexfs_ask(ask);
	if (err)
		return err;
	/* 2: hits; 3: refused, with a reason. */
	if (ask->answer.status != 2 && ask->answer.status != 3)
		return -EPROTO;
	err = vexfs_take_answer(ask);
	if (err)
		return err;
	if (copy_to_user(user->data, ask->out, ask->used) ||
	    copy_to_user(user, &ask->head, sizeof(ask->head)))
		return -EFAULT;
	return ask->answer.status == 3 ? -EBADR : 0;
}

static long vexfs_search(struct file *file, struct vexfs_search __user *user)
{
	struct vexfs_fs *fs = VEXFS_SB(file_inode(file)->i_sb);
	struct vexfs_asking *ask;
	u32 timeout;
	int err;

	if (!(file->f_mode & FMODE_READ))
		return -EBADF;
	if (vexfs_dead(fs))
		return -EIO;
	ask = kzalloc(sizeof(*ask), GFP_KERNEL);
	if (!ask)
		return -ENOMEM;
	ask->file = file;
	err = copy_from_user(&ask->head, user, sizeof(ask->head)) ? -EFAULT :
	      vexfs_check_head(&ask->head) ?:
	      vexfs_make_request(ask, user);
	if (err)
		goto out;
	timeout = ask->head.timeout_ms ?: TIMEOUT_MS;
	ask->talk = vexfs_talk_begin(fs, jiffies + msecs_to_jiffies(timeout));
	if (ask->talk) {
		err = vexfs_search_answer(ask, user);
		vexfs_talk_end(ask->talk);
	} else {
		err = -ENOMEM;
	}
out:
	kvfree(ask->out);
	kvfree(ask->request);
	kfree(ask);
	return err;
}

/* For files and directories. */
long vexfs_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	switch (cmd) {
	case VEXFS_IOC_SEARCH:
		return vexfs_search(file, (struct vexfs_search __user *)arg);
	default:
		return -ENOTTY;
	}
}
