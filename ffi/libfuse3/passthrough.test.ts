/** passthrough.ts compared with linux/fuse.h, where that is of protocol 7.40 or later; else with what this kernel accepts (src/mount). */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as passthrough from "./passthrough.ts";

const SOURCE = `
#include <linux/fuse.h>
#include <stddef.h>
#include <stdio.h>
int main(void) {
  printf("%u %zu %zu", FUSE_INIT_EXT, offsetof(struct fuse_init_in, flags2), sizeof(struct fuse_init_in));
#ifdef FUSE_PASSTHROUGH
  printf(" %llu %zu %d %zu", FUSE_PASSTHROUGH >> 32, offsetof(struct fuse_init_out, max_stack_depth), FOPEN_PASSTHROUGH,
         offsetof(struct fuse_open_out, backing_id));
#endif
}`;

test("passthrough.ts agrees with the installed linux/fuse.h", async () => {
  const folder = mkdtempSync(join(tmpdir(), "kiseki-layout-"));
  try {
    writeFileSync(join(folder, "layout.c"), SOURCE);
    expect(await Bun.spawn(["gcc", "-o", join(folder, "layout"), join(folder, "layout.c")]).exited).toBe(0);
    const printed = await new Response(Bun.spawn([join(folder, "layout")]).stdout).text();
    const { FUSE_INIT_EXT, fuse_init_in_ext, FUSE_PASSTHROUGH_FLAGS2, fuse_init_out_passthrough } = passthrough;
    const { FOPEN_PASSTHROUGH, fuse_open_out_passthrough } = passthrough;
    const ours = [FUSE_INIT_EXT, fuse_init_in_ext.flags2, fuse_init_in_ext.SIZE, FUSE_PASSTHROUGH_FLAGS2];
    ours.push(fuse_init_out_passthrough.max_stack_depth, FOPEN_PASSTHROUGH, fuse_open_out_passthrough.backing_id);
    const theirs = printed.split(" ").map(Number);
    expect(theirs).toEqual(ours.slice(0, theirs.length));
  } finally {
    rmSync(folder, { recursive: true });
  }
});
