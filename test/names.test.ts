/** File names: any byte but / and NUL, to 255 bytes. */
import { PosixLab, py } from "./support/posix.ts";

const lab = new PosixLab();

lab.same(
  "every byte from 0x01 to 0xff, alone, first, last, and all of them",
  py`
    every = [bytes([b]) for b in range(1, 256) if b != 0x2f]
    names = [b for b in every if b != b"."] + [b"a" + b for b in every] + [b + b"z" for b in every]
    everything = b"".join(every); names += [everything[:127], everything[127:], everything]
    wrong = []
    for name in names:
        try:
            put(name, name)
            if get(name) != name: wrong.append(name)
        except OSError as error: wrong.append((name, name_of(error)))
    show("wrong", wrong)
    found = sorted(os.listdir(b"."))
    show("listed", found == sorted(set(names))); show("count", len(found))
    for name in names[:600:7]: os.rename(name, b"to " + name); os.link(b"to " + name, b"ln " + name); os.symlink(name, b"sy " + name)
    show("read links", all(os.readlink(b"sy " + name) == name for name in names[:600:7]))
    show("hash", digest(b"\0".join(sorted(os.listdir(b".")))))
    for name in os.listdir(b"."): os.unlink(name)
    show("left", os.listdir(b"."))
  `,
  { shows: ["wrong: []", "listed: True", "left: []"] },
);

lab.same(
  "lengths: 255 bytes for every call, 256 is ENAMETOOLONG",
  py`
    for length in [254, 255, 256, 300, 1000, 4000]:
        for unit in [b"n", "ü".encode(), "日".encode()]:
            name = (unit * 4000)[:length]
            label = f"{length} of {unit!r}"
            do(f"{label}: create", put, name, "x"); do("  stat", st, name); do("  open", lambda: os.close(os.open(name, os.O_RDONLY)))
            do("  mkdir", os.mkdir, name[:-1] + b"d"); do("  rmdir", os.rmdir, name[:-1] + b"d"); do("  symlink", os.symlink, "x", name[:-1] + b"s"); do("  mknod", os.mknod, name[:-1] + b"m")
            do("  link", os.link, name, name[:-1] + b"l"); do("  rename", os.rename, name, name[:-1] + b"r"); do("  truncate", os.truncate, name[:-1] + b"r", 0)
            do("  readlink", lambda: os.readlink(name[:-1] + b"s")); do("  chmod", os.chmod, name[:-1] + b"r", 0o600); do("  xattr", os.setxattr, name[:-1] + b"r", "user.a", b"1")
            show("  all", digest(b"\0".join(sorted(os.listdir(b".")))))
            for left in os.listdir(b"."): os.unlink(left)
  `,
);

lab.same(
  "names that look alike are different names",
  py`
    import unicodedata
    names = ["a", "A", "a ", " a", "a.", ".a", "..a", "...", "a\n", "é", unicodedata.normalize("NFD", "é"), "Å", "Å", "ﬁ", "fi", "-", "--", "*", "?", "\\", "CON", "~", "#a#", "\u200b", "\u202e"]
    for number, name in enumerate(names): put(name, str(number))
    show("contents", [get(name) for name in names]); show("count", len(os.listdir("."))); show("list", listing())
  `,
);
