/** Every offset, size and constant of layout.ts and kernel.ts, compared with what a C compiler makes of the installed headers. */
import { expect, test } from "bun:test";
import { compiled, expressions } from "../test-layout.ts";
import * as kernel from "./kernel.ts";
import * as layout from "./layout.ts";

/** Names that are ours, with the C expression that they must equal; null: not in the headers of every version. */
const OUR_NAMES = {
  fuse_lowlevel_ops_size: "offsetof(struct fuse_lowlevel_ops, lseek) + sizeof(void *)",
  fuse_buf_room: null,
  libfuse_version_size: null,
};
const FLAGS = ["-I/usr/include/fuse3", "-D_FILE_OFFSET_BITS=64"];

test("layout.ts agrees with the installed libfuse3 headers", async () => {
  const wanted = expressions(layout, OUR_NAMES);
  expect(wanted.size).toBeGreaterThan(60);
  const include =
    "#define FUSE_USE_VERSION 310\n#include <fuse_lowlevel.h>\n#include <fuse_log.h>\n#include <poll.h>\n#include <sys/uio.h>";
  expect(await compiled(include, wanted.keys(), FLAGS)).toEqual(wanted);
});

test("kernel.ts agrees with the installed linux/fuse.h and linux/fs.h", async () => {
  const wanted = expressions(kernel);
  expect(wanted.size).toBeGreaterThan(150);
  expect(await compiled("#include <linux/fuse.h>\n#include <linux/fs.h>", wanted.keys(), FLAGS)).toEqual(wanted);
});
