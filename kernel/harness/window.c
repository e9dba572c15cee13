// SPDX-License-Identifier: GPL-2.0-only
/* The command window's messages, from C: a request, and answers that are refused. */
#include "host.h"

void test_window(void)
{
	struct vexfs_window_search search = {
		.token = 1, .session = 2, .ino = 3, .k = 1, .element = 1, .dim = 2, .groups = 1,
	};
	static uint8_t buffer[VEXFS_WINDOW_PAGE_BYTES];
	uint8_t uuid[16] = { 0 };
	struct vexfs_window_answer answer;
	struct vexfs_window_proof proof = { 0 };
	struct vexfs_window_note note;
	struct vexfs_window_hit hit;
	uint32_t total = 0;

	CHECK("window_plan", vexfs_rust_window_plan(&search, &total) == 0 && search.query_bytes == 8 &&
	      total == VEXFS_WINDOW_REQUEST_BYTES + 12);
	CHECK("window_plan without a search", vexfs_rust_window_plan(NULL, &total) == -EFAULT);
	CHECK("window_plan without a place", vexfs_rust_window_plan(&search, NULL) == -EFAULT);
	CHECK("window_request", vexfs_rust_window_request(&search, buffer, sizeof(buffer)) == 0 &&
	      !memcmp(buffer, "VexFSask", 8));
	CHECK("window_request without room",
	      vexfs_rust_window_request(&search, buffer, total - 1) == -EINVAL);
	CHECK("window_request without a buffer",
	      vexfs_rust_window_request(&search, NULL, total) == -EFAULT);
	CHECK("window_request without a search",
	      vexfs_rust_window_request(NULL, buffer, sizeof(buffer)) == -EFAULT);
	search.k = 0;
	CHECK("window_plan of no hits", vexfs_rust_window_plan(&search, &total) == -EINVAL);

	/* What was written is no answer, no header and no echo. */
	CHECK("window_answer", vexfs_rust_window_answer(buffer, sizeof(buffer), &search, &answer) ==
	      -EPROTO);
	CHECK("window_answer of nothing",
	      vexfs_rust_window_answer(NULL, 0, &search, &answer) == -EPROTO);
	CHECK("window_answer without bytes",
	      vexfs_rust_window_answer(NULL, 9, &search, &answer) == -EFAULT);
	CHECK("window_header", vexfs_rust_window_header(buffer, sizeof(buffer), uuid, &proof) ==
	      -EOPNOTSUPP);
	CHECK("window_header without a UUID",
	      vexfs_rust_window_header(buffer, sizeof(buffer), NULL, &proof) == -EFAULT);
	CHECK("window_prove", vexfs_rust_window_prove(&proof, 1, buffer, sizeof(buffer)) ==
	      -EOPNOTSUPP);
	CHECK("window_prove without a proof",
	      vexfs_rust_window_prove(NULL, 1, buffer, sizeof(buffer)) == -EFAULT);
	memset(buffer, 0, sizeof(buffer));
	CHECK("window_hit of none", vexfs_rust_window_hit(buffer, sizeof(buffer), 0, &hit) == -ENOENT);
	CHECK("window_hit without a place",
	      vexfs_rust_window_hit(buffer, sizeof(buffer), 0, NULL) == -EFAULT);
	CHECK("window_note behind the last",
	      vexfs_rust_window_note(buffer, sizeof(buffer), sizeof(buffer), &note) == -ENOENT);
	CHECK("window_note without a place",
	      vexfs_rust_window_note(buffer, sizeof(buffer), 0, NULL) == -EFAULT);
}
