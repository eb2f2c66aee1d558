/** File handles, name_to_handle_at(2) and open_by_handle_at(2): they lead to the file for as long as it is, whatever the kernel has forgotten. Needs root. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { PosixLab, py } from "./support/posix.ts";

const TEST_TIMEOUT_MS = 60_000;
const lab = new PosixLab();

const HANDLES = py`
    import ctypes, json
    libc = ctypes.CDLL("libc.so.6", use_errno=True)
    class Handle(ctypes.Structure): _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]
    def handle(path):
        h, mount_id = Handle(128), ctypes.c_int()
        if libc.name_to_handle_at(-100, path.encode(), ctypes.byref(h), ctypes.byref(mount_id), 0) < 0: raise OSError(ctypes.get_errno(), "name_to_handle_at")
        return [h.type, bytes(h.data[:h.bytes]).hex()]
    def by_handle(pair, flags=os.O_RDONLY):
        data = bytes.fromhex(pair[1]); h = Handle(len(data), pair[0]); h.data[:len(data)] = data
        root = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            fd = libc.open_by_handle_at(root, ctypes.byref(h), flags)
            if fd < 0: return errno.errorcode[ctypes.get_errno()]
        finally: os.close(root)
        try: return sorted(os.listdir(fd)) if stat.S_ISDIR(os.fstat(fd).st_mode) else os.read(fd, 100).decode()
        finally: os.close(fd)
    def forget(): os.sync(); open("/proc/sys/vm/drop_caches", "w").write("3")
`;

test(
  "a file, a folder, a hard link and what was renamed open by their handles, with caches dropped, and on the next mount; what was deleted is ESTALE",
  async () => {
    const lines = await lab.python(
      lab.mount.path,
      HANDLES +
        py`
            os.makedirs("d/deep/er"); open("d/deep/er/f", "w").write("content"); open("d/gone", "w").write("x"); open("d/a", "w").write("linked")
            os.link("d/a", "d/b"); open("d/old", "w").write("moved"); os.mkdir("d/empty")
            paths = ["d/deep/er/f", "d/deep", "d/a", "d/old", "d/gone", "d/empty", "."]
            handles = {path: handle(path) for path in paths}
            print(handle("d/b") == handles["d/a"], len({tuple(pair) for pair in handles.values()}) == len(paths))
            forget(); print([by_handle(handles[path]) for path in paths])
            os.rename("d/old", "d/deep/new"); os.unlink("d/gone"); os.unlink("d/a"); os.rmdir("d/empty")
            forget(); print([by_handle(handles[path]) for path in paths])
            fd = os.open("d/deep/er/f", os.O_RDONLY); os.unlink("d/deep/er/f"); open("d/deep/er/f", "w").write("another")
            print(by_handle(handles["d/deep/er/f"])); os.close(fd); forget(); print(by_handle(handles["d/deep/er/f"]), by_handle(handle("d/deep/er/f")))
            print(json.dumps(handles))
        `,
    );
    const handles = lines.pop();
    expect(lines).toEqual([
      "True True",
      "['content', ['er'], 'linked', 'moved', 'x', [], ['d']]",
      "['content', ['er', 'new'], 'linked', 'moved', 'ESTALE', 'ESTALE', ['d']]",
      "content",
      "ESTALE another",
    ]);
    await lab.remount();
    const after = await lab.python(
      lab.mount.path,
      HANDLES +
        py`
            handles = json.loads(${JSON.stringify(handles)})
            forget(); print([by_handle(handles[path]) for path in ["d/deep", "d/a", "d/old", "d/gone", "."]])
            # The way up from what nobody has looked up by name.
            fd = os.open(".", os.O_RDONLY); pair = handles["d/deep"]; data = bytes.fromhex(pair[1]); h = Handle(len(data), pair[0]); h.data[:len(data)] = data
            forget(); deep = libc.open_by_handle_at(fd, ctypes.byref(h), os.O_RDONLY | os.O_DIRECTORY); print(os.path.relpath(os.readlink(f"/proc/self/fd/{deep}"), os.getcwd()))
            # Another file's number, or the right one of another time.
            kind, text = handles["d/deep"]; wrong = bytearray(bytes.fromhex(text)); wrong[8] ^= 1; print(by_handle([kind, bytes(wrong).hex()]))
        `,
    );
    expect(after).toEqual(["[['er', 'new'], 'linked', 'moved', 'ESTALE', ['d']]", join("d", "deep"), "ESTALE"]);
  },
  TEST_TIMEOUT_MS,
);
