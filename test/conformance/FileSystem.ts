/** What a `FileSystem` does, whatever it is of: the same cases for this machine and for a guest. Each makes its own files. */
import { assert, type Vitest } from "@effect/vitest"
import { Effect, FileSystem, Option, Path, PlatformError, Ref, type Scope, Stream } from "effect"

type Services = FileSystem.FileSystem | Path.Path

/** A directory of one case, by its real path, and the two services. */
const inDirectory = <A, E>(
  body: (
    fs: FileSystem.FileSystem,
    at: (name: string) => string,
    path: Path.Path
  ) => Effect.Effect<A, E, Services | Scope.Scope>
) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const directory = yield* Effect.flatMap(fs.makeTempDirectoryScoped({ prefix: "conformance-" }), fs.realPath)
    return yield* body(fs, (name) => path.join(directory, name), path)
  }).pipe(Effect.scoped)

/** Fails as a platform does: with this tag, or as a bad argument. */
const fails = Effect.fnUntraced(function*<A, R>(
  effect: Effect.Effect<A, PlatformError.PlatformError, R>,
  tag: PlatformError.SystemErrorTag | "BadArgument"
) {
  const error = yield* Effect.flip(effect)
  assert.isTrue(PlatformError.isPlatformError(error))
  assert.strictEqual(error.reason._tag, tag, error.message)
  assert.strictEqual(error.reason.module, "FileSystem")
  return error.reason
})

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

const permissions = (info: FileSystem.File.Info): string => (info.mode & 0o7777).toString(8)

/** Bytes that differ from place to place. */
const pattern = (size: number): Uint8Array =>
  new Uint8Array(size).map((_, index) => (index * 131 + (index >>> 8) * 7) % 256)

/** All of it. */
export const fileSystem = (it: Vitest.MethodsNonLive<Services>): void => {
  files(it)
  devices(it)
}

/** What needs nothing but a place for files. */
export const files = (it: Vitest.MethodsNonLive<Services>): void => {
  it.effect("writes a file and reads the same bytes, of any size", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      for (const size of [0, 1, 16_383, 16_384, 16_385, 65_537, 3 * 1024 * 1024 + 1, 9 * 1024 * 1024]) {
        const data = pattern(size)
        yield* fs.writeFile(at("file"), data)
        const read = yield* fs.readFile(at("file"))
        assert.strictEqual(read.length, size)
        assert.isTrue(Buffer.from(data).equals(read))
      }
    })))

  it.effect("writes and reads text", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("file"), "grüße\n\0€")
      assert.strictEqual(yield* fs.readFileString(at("file")), "grüße\n\0€")
      assert.strictEqual(yield* fs.readFileString(at("file"), "utf-8"), "grüße\n\0€")
      yield* fails(fs.readFileString(at("file"), "no-such-encoding"), "BadArgument")
    })))

  it.effect("replaces what a file held, and appends when it is told to", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("file"), "a long first content")
      yield* fs.writeFileString(at("file"), "short")
      assert.strictEqual(yield* fs.readFileString(at("file")), "short")
      yield* fs.writeFileString(at("file"), "er", { flag: "a" })
      assert.strictEqual(yield* fs.readFileString(at("file")), "shorter")
      yield* fs.writeFileString(at("file"), "SH", { flag: "r+" })
      assert.strictEqual(yield* fs.readFileString(at("file")), "SHorter")
      yield* fails(fs.writeFileString(at("file"), "", { flag: "wx" }), "AlreadyExists")
      yield* fails(fs.writeFileString(at("file"), "", { flag: "r" }), "Unknown")
      assert.strictEqual(yield* fs.readFileString(at("file")), "SHorter")
    })))

  it.effect("gives a new file the mode that was asked for, without what the umask takes", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("private"), "", { mode: 0o600 })
      yield* fs.writeFileString(at("program"), "", { mode: 0o777 })
      yield* fs.writeFileString(at("plain"), "")
      assert.strictEqual(permissions(yield* fs.stat(at("private"))), "600")
      assert.strictEqual(permissions(yield* fs.stat(at("program"))), "755")
      assert.strictEqual(permissions(yield* fs.stat(at("plain"))), "644")
    })))

  it.effect("tells what is missing, and where it looked", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      const missing = at("missing")
      const operations = {
        access: fs.access(missing),
        chmod: fs.chmod(missing, 0o600),
        chown: fs.chown(missing, 0, 0),
        copy: fs.copy(missing, at("x")),
        copyFile: fs.copyFile(missing, at("x")),
        link: fs.link(missing, at("x")),
        lstat: fs.lstat(missing),
        open: Effect.scoped(fs.open(missing)),
        readDirectory: fs.readDirectory(missing),
        readDirectoryEntries: fs.readDirectoryEntries(missing),
        readFile: fs.readFile(missing),
        readLink: fs.readLink(missing),
        realPath: fs.realPath(missing),
        remove: fs.remove(missing),
        rename: fs.rename(missing, at("x")),
        stat: fs.stat(missing),
        truncate: fs.truncate(missing),
        utime: fs.utimes(missing, 1, 1)
      }
      for (const [method, operation] of Object.entries(operations)) {
        const reason = yield* fails(operation, "NotFound")
        assert.strictEqual(reason.method, method)
        assert.strictEqual(reason._tag === "BadArgument" ? "" : reason.pathOrDescriptor, missing)
        assert.isDefined(reason.cause)
      }
      yield* fails(Stream.runDrain(fs.stream(missing)), "NotFound")
      yield* fails(Stream.runDrain(fs.watch(missing)), "NotFound")
      yield* fails(fs.writeFileString(at("no/such/file"), ""), "NotFound")
      yield* fails(fs.makeDirectory(at("no/such")), "NotFound")
      yield* fails(fs.symlink("x", at("no/such")), "NotFound")
      yield* fails(fs.makeTempDirectory({ directory: missing }), "NotFound")
      assert.isFalse(yield* fs.exists(missing))
    })))

  it.effect("takes a directory for no file, and a file for no directory", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.makeDirectory(at("directory"))
      yield* fs.writeFileString(at("file"), "")
      yield* fails(fs.readFile(at("directory")), "BadResource")
      yield* fails(Stream.runDrain(fs.stream(at("directory"))), "BadResource")
      yield* fails(fs.writeFileString(at("directory"), ""), "BadResource")
      yield* fails(fs.copyFile(at("directory"), at("x")), "BadResource")
      yield* fails(fs.copyFile(at("file"), at("directory")), "BadResource")
      yield* fails(fs.truncate(at("directory")), "BadResource")
      yield* fails(fs.readDirectory(at("file")), "BadResource")
      yield* fails(fs.stat(at("file/below")), "BadResource")
      yield* fails(fs.makeDirectory(at("file/below")), "BadResource")
      yield* fails(fs.makeDirectory(at("file/below"), { recursive: true }), "BadResource")
      yield* fails(fs.exists(at("file/below")), "BadResource")
    })))

  it.effect("refuses a path with a NUL, and one that is too long", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fails(fs.stat("a\0b"), "BadArgument")
      yield* fails(fs.writeFileString(at("a\0b"), ""), "BadArgument")
      yield* fails(fs.rename(at("a"), "b\0"), "BadArgument")
      yield* fails(fs.stat(at("x".repeat(300))), "Unknown")
      yield* fails(fs.stat(""), "NotFound")
    })))

  it.effect("keeps names as they are", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      const names = [" ", "$HOME `x`", "--", "-rf", "a\nb", "grüße", "日本", "'\"\\", "..."]
      for (const name of names) yield* fs.writeFileString(at(name), name)
      for (const name of names) assert.strictEqual(yield* fs.readFileString(at(name)), name)
      assert.deepStrictEqual(new Set(yield* fs.readDirectory(at("."))), new Set(names))
    })))

  it.effect("makes a directory once, and its parents when it is told to", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.makeDirectory(at("a"))
      yield* fails(fs.makeDirectory(at("a")), "AlreadyExists")
      yield* fails(fs.makeDirectory(at("b/c")), "NotFound")
      yield* fs.makeDirectory(at("b/c/d"), { recursive: true })
      yield* fs.makeDirectory(at("b/c/d"), { recursive: true })
      assert.strictEqual((yield* fs.stat(at("b/c/d"))).type, "Directory")
      yield* fs.writeFileString(at("file"), "")
      yield* fails(fs.makeDirectory(at("file")), "AlreadyExists")
      yield* fails(fs.makeDirectory(at("file"), { recursive: true }), "AlreadyExists")
      yield* fs.symlink("nowhere", at("dangling"))
      yield* fails(fs.makeDirectory(at("dangling")), "AlreadyExists")
    })))

  it.effect("gives a new directory its mode, and leaves that of one that is there", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.makeDirectory(at("plain"))
      yield* fs.makeDirectory(at("private"), { mode: 0o700 })
      yield* fs.makeDirectory(at("open"), { mode: 0o777 })
      yield* fs.makeDirectory(at("a/b"), { mode: 0o750, recursive: true })
      assert.strictEqual(permissions(yield* fs.stat(at("plain"))), "755")
      assert.strictEqual(permissions(yield* fs.stat(at("private"))), "700")
      assert.strictEqual(permissions(yield* fs.stat(at("open"))), "755")
      assert.strictEqual(permissions(yield* fs.stat(at("a"))), "750")
      assert.strictEqual(permissions(yield* fs.stat(at("a/b"))), "750")
      yield* fs.makeDirectory(at("private"), { mode: 0o755, recursive: true })
      assert.strictEqual(permissions(yield* fs.stat(at("private"))), "700")
    })))

  it.effect("lists a directory by name", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      assert.deepStrictEqual(yield* fs.readDirectory(at(".")), [])
      for (const name of ["z", "a", "M", "é", "10", "9"]) yield* fs.writeFileString(at(name), "")
      yield* fs.makeDirectory(at("dir"))
      assert.deepStrictEqual(yield* fs.readDirectory(at(".")), ["10", "9", "M", "a", "dir", "z", "é"])
    })))

  it.effect("lists a tree in the order of Node, through links to directories too", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.makeDirectory(at("a/b/c"), { recursive: true })
      yield* fs.makeDirectory(at("d"))
      yield* fs.writeFileString(at("a/b/f"), "")
      yield* fs.writeFileString(at("d/q"), "")
      yield* fs.writeFileString(at("z"), "")
      yield* fs.symlink("d", at("ld"))
      yield* fs.symlink("nowhere", at("ln"))
      assert.deepStrictEqual(
        yield* fs.readDirectory(at("."), { recursive: true }),
        ["a", "d", "ld", "ln", "z", "ld/q", "d/q", "a/b", "a/b/c", "a/b/f"]
      )
    })))

  it.effect("lists more entries than fit into one answer", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.makeDirectory(at("many"))
      const names = Array.from({ length: 260 }, (_, index) => `${"n".repeat(250)}-${index}`)
      yield* Effect.forEach(names, (name) => fs.symlink("x", at(`many/${name}`)), { concurrency: 16, discard: true })
      assert.deepStrictEqual(new Set(yield* fs.readDirectory(at("many"))), new Set(names))
    })))

  it.effect("says of each entry what it is", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.makeDirectory(at("directory"))
      yield* fs.writeFileString(at("file"), "")
      yield* fs.symlink("directory", at("link"))
      const entries = yield* fs.readDirectoryEntries(at("."))
      assert.deepStrictEqual(
        [...entries].sort((a, b) => a.name < b.name ? -1 : 1),
        [
          { name: "directory", type: "Directory" },
          { name: "file", type: "File" },
          { name: "link", type: "SymbolicLink" }
        ]
      )
    })))

  it.effect("says what a file is", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFile(at("file"), pattern(12_345))
      const info = yield* fs.stat(at("file"))
      assert.strictEqual(info.type, "File")
      assert.strictEqual(BigInt(info.size), 12_345n)
      assert.strictEqual(info.mode & 0o170000, 0o100000)
      assert.isTrue(Option.isSome(info.mtime) && Math.abs(info.mtime.value.getTime() - Date.now()) < 600_000)
      assert.isTrue(Option.isSome(info.uid) && Option.isSome(info.gid))
      assert.strictEqual(typeof info.dev, "bigint")
      assert.strictEqual((yield* fs.stat(at("."))).type, "Directory")
    })))

  it.effect("follows a link, or looks at it", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("file"), "content")
      yield* fs.symlink("file", at("link"))
      assert.strictEqual(yield* fs.readLink(at("link")), "file")
      assert.strictEqual((yield* fs.stat(at("link"))).type, "File")
      assert.strictEqual((yield* fs.lstat(at("link"))).type, "SymbolicLink")
      assert.strictEqual(yield* fs.readFileString(at("link")), "content")
      assert.strictEqual(yield* fs.realPath(at("link")), at("file"))
      yield* fails(fs.readLink(at("file")), "Unknown")
      yield* fails(fs.symlink("other", at("link")), "AlreadyExists")
    })))

  it.effect("tells a link that leads nowhere, and one that leads to itself", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.symlink("nowhere", at("dangling"))
      yield* fs.symlink("loop", at("loop"))
      yield* fails(fs.stat(at("dangling")), "NotFound")
      yield* fails(fs.realPath(at("dangling")), "NotFound")
      assert.isFalse(yield* fs.exists(at("dangling")))
      yield* fails(fs.stat(at("loop")), "BadResource")
      yield* fails(fs.readFile(at("loop")), "BadResource")
      yield* fs.writeFileString(at("dangling"), "made")
      assert.strictEqual(yield* fs.readFileString(at("nowhere")), "made")
    })))

  it.effect("resolves a path by its text first, and then through its links", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.makeDirectory(at("a/b"), { recursive: true })
      yield* fs.symlink("a/b", at("link"))
      assert.strictEqual(yield* fs.realPath(`${at("link")}/../a/.`), at("a"))
      assert.strictEqual(yield* fs.realPath(`${at("link")}/../link`), at("a/b"))
      assert.strictEqual(yield* fs.realPath(`${at("a")}//b/`), at("a/b"))
    })))

  it.effect("links one file under two names", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("one"), "1")
      yield* fs.link(at("one"), at("two"))
      yield* fs.writeFileString(at("two"), "2")
      assert.strictEqual(yield* fs.readFileString(at("one")), "2")
      yield* fails(fs.link(at("one"), at("two")), "AlreadyExists")
      yield* fs.makeDirectory(at("directory"))
      yield* fails(fs.link(at("one"), at("directory")), "AlreadyExists")
      yield* fails(fs.link(at("directory"), at("x")), "PermissionDenied")
    })))

  it.effect("changes a mode", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("file"), "")
      for (const mode of [0o600, 0o755, 0o4711, 0]) {
        yield* fs.chmod(at("file"), mode)
        assert.strictEqual(permissions(yield* fs.stat(at("file"))), mode.toString(8))
      }
      yield* fails(fs.chmod(at("file"), 1.5), "BadArgument")
      yield* fails(fs.chmod(at("file"), -1), "BadArgument")
    })))

  it.effect("changes an owner, and leaves what it is not told", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("file"), "")
      const info = yield* fs.stat(at("file"))
      yield* fs.chown(at("file"), Option.getOrThrow(info.uid), Option.getOrThrow(info.gid))
      yield* fs.chown(at("file"), -1, -1)
      const after = yield* fs.stat(at("file"))
      assert.deepStrictEqual([after.uid, after.gid], [info.uid, info.gid])
      yield* fails(fs.chown(at("file"), 0.5, 0), "BadArgument")
    })))

  it.effect("sets times, by date and by second", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("file"), "")
      yield* fs.utimes(at("file"), 1_000_000_000, new Date("2012-03-04T05:06:07Z"))
      const info = yield* fs.stat(at("file"))
      assert.deepStrictEqual(info.atime, Option.some(new Date(1_000_000_000_000)))
      assert.deepStrictEqual(info.mtime, Option.some(new Date("2012-03-04T05:06:07Z")))
      yield* fails(fs.utimes(at("file"), NaN, 1), "BadArgument")
      yield* fails(fs.utimes(at("file"), 1, Infinity), "BadArgument")
    })))

  it.effect("shortens and lengthens a file", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("file"), "0123456789")
      yield* fs.truncate(at("file"), 4)
      assert.strictEqual(yield* fs.readFileString(at("file")), "0123")
      yield* fs.truncate(at("file"), 6)
      assert.strictEqual(yield* fs.readFileString(at("file")), "0123\0\0")
      yield* fs.truncate(at("file"))
      assert.strictEqual(BigInt((yield* fs.stat(at("file"))).size), 0n)
      yield* fs.writeFileString(at("file"), "x")
      yield* fs.truncate(at("file"), -5)
      assert.strictEqual(yield* fs.readFileString(at("file")), "")
      yield* fails(fs.truncate(at("file"), 1.5), "BadArgument")
    })))

  it.effect("renames, over a file and never over what is in a directory", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("a"), "a")
      yield* fs.writeFileString(at("b"), "b")
      yield* fs.rename(at("a"), at("b"))
      assert.isFalse(yield* fs.exists(at("a")))
      assert.strictEqual(yield* fs.readFileString(at("b")), "a")
      yield* fs.makeDirectory(at("full/below"), { recursive: true })
      yield* fs.makeDirectory(at("empty"))
      yield* fails(fs.rename(at("empty"), at("full")), "Unknown")
      yield* fails(fs.rename(at("empty"), at("b")), "BadResource")
      yield* fails(fs.rename(at("b"), at("empty")), "BadResource")
      yield* fs.rename(at("full"), at("empty"))
      assert.deepStrictEqual(yield* fs.readDirectory(at("empty")), ["below"])
    })))

  it.effect("removes a file, a link and nothing that it leads to", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.makeDirectory(at("directory"))
      yield* fs.writeFileString(at("directory/file"), "")
      yield* fs.symlink("directory", at("link"))
      yield* fs.remove(at("link"))
      yield* fs.symlink("directory", at("link"))
      yield* fs.remove(at("link"), { recursive: true })
      assert.isTrue(yield* fs.exists(at("directory/file")))
      yield* fails(fs.remove(at("directory")), "Unknown")
      yield* fs.remove(at("directory/file"))
      yield* fails(fs.remove(at("directory")), "Unknown")
      yield* fs.remove(at("directory"), { recursive: true })
      assert.deepStrictEqual(yield* fs.readDirectory(at(".")), [])
    })))

  it.effect("removes a tree, and minds what is missing unless it is forced", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.makeDirectory(at("a/b/c"), { recursive: true })
      yield* fs.writeFileString(at("a/b/file"), "")
      yield* fs.symlink("/", at("a/root"))
      yield* fs.remove(at("a"), { recursive: true })
      yield* fails(fs.remove(at("a"), { recursive: true }), "NotFound")
      yield* fs.remove(at("a"), { force: true, recursive: true })
      yield* fs.remove(at("a"), { force: true })
      yield* fs.writeFileString(at("file"), "")
      yield* fails(fs.remove(at("file/below"), { force: true }), "BadResource")
    })))

  it.effect("copies a file over another, with its mode", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFile(at("from"), pattern(100_000), { mode: 0o700 })
      yield* fs.copyFile(at("from"), at("to"))
      assert.isTrue(Buffer.from(pattern(100_000)).equals(yield* fs.readFile(at("to"))))
      assert.strictEqual(permissions(yield* fs.stat(at("to"))), "700")
      yield* fs.writeFileString(at("other"), "other")
      yield* fs.copyFile(at("from"), at("other"))
      assert.strictEqual(BigInt((yield* fs.stat(at("other"))).size), 100_000n)
      yield* fs.copyFile(at("from"), at("from"))
      assert.strictEqual(BigInt((yield* fs.stat(at("from"))).size), 100_000n)
    })))

  it.effect("copies a tree: modes, links and parents", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.makeDirectory(at("from/sub"), { recursive: true })
      yield* fs.writeFileString(at("from/sub/file"), "content", { mode: 0o640 })
      yield* fs.symlink("sub/file", at("from/relative"))
      yield* fs.symlink("/nowhere", at("from/absolute"))
      yield* fs.chmod(at("from/sub"), 0o711)
      yield* fs.copy(at("from"), at("new/parents/to"))
      assert.deepStrictEqual(
        yield* fs.readDirectory(at("new/parents/to"), { recursive: true }),
        ["absolute", "relative", "sub", "sub/file"]
      )
      assert.strictEqual(yield* fs.readFileString(at("new/parents/to/sub/file")), "content")
      assert.strictEqual(permissions(yield* fs.stat(at("new/parents/to/sub/file"))), "640")
      assert.strictEqual(permissions(yield* fs.stat(at("new/parents/to/sub"))), "711")
      assert.strictEqual(yield* fs.readLink(at("new/parents/to/relative")), at("from/sub/file"))
      assert.strictEqual(yield* fs.readLink(at("new/parents/to/absolute")), "/nowhere")
    })))

  it.effect("copies over nothing that is there, unless it may", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.makeDirectory(at("from"))
      yield* fs.writeFileString(at("from/a"), "new")
      yield* fs.writeFileString(at("from/b"), "new")
      yield* fs.makeDirectory(at("to"))
      yield* fs.writeFileString(at("to/a"), "old")
      yield* fs.copy(at("from"), at("to"))
      assert.strictEqual(yield* fs.readFileString(at("to/a")), "old")
      assert.strictEqual(yield* fs.readFileString(at("to/b")), "new")
      yield* fs.copy(at("from/a"), at("to/a"))
      assert.strictEqual(yield* fs.readFileString(at("to/a")), "old")
      yield* fs.copy(at("from"), at("to"), { overwrite: true })
      assert.strictEqual(yield* fs.readFileString(at("to/a")), "new")
    })))

  it.effect("copies times when it is told to", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("from"), "")
      yield* fs.utimes(at("from"), 1_100_000_000, 1_200_000_000)
      yield* fs.copy(at("from"), at("kept"), { preserveTimestamps: true })
      assert.deepStrictEqual((yield* fs.stat(at("kept"))).mtime, Option.some(new Date(1_200_000_000_000)))
    })))

  it.effect("refuses to copy what cannot be", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.makeDirectory(at("directory/sub"), { recursive: true })
      yield* fs.writeFileString(at("file"), "")
      yield* fails(fs.copy(at("file"), at("file")), "Unknown")
      yield* fails(fs.copy(at("directory"), at("file")), "Unknown")
      yield* fails(fs.copy(at("file"), at("directory")), "Unknown")
      yield* fails(fs.copy(at("directory"), at("directory/sub/below")), "Unknown")
      assert.deepStrictEqual(yield* fs.readDirectory(at("directory"), { recursive: true }), ["sub"])
    })))

  it.effect("says whether a file can be read and written", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("file"), "")
      yield* fs.access(at("file"))
      yield* fs.access(at("file"), { ok: true })
      yield* fs.access(at("file"), { readable: true, writable: true })
      yield* fails(fs.access(at("missing"), { readable: true }), "NotFound")
      yield* fails(
        fs.access("/proc/version", { writable: true }).pipe(
          // Root may write what nobody can, so ask for what the kernel refuses to all.
          Effect.andThen(fs.writeFileString("/proc/version", "x"))
        ),
        "Unknown"
      ).pipe(Effect.catchCause(() => Effect.void))
      assert.isTrue(yield* fs.exists(at("file")))
    })))

  it.effect("makes temporary files and directories, each another, and keeps them", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at, path) {
      const directory = at(".")
      const one = yield* fs.makeTempDirectory({ directory, prefix: "p-" })
      const two = yield* fs.makeTempDirectory({ directory, prefix: "p-" })
      assert.notStrictEqual(one, two)
      assert.isTrue(path.basename(one).startsWith("p-"))
      assert.strictEqual(path.dirname(one), path.dirname(at("x")))
      assert.strictEqual(permissions(yield* fs.stat(one)), "700")
      const file = yield* fs.makeTempFile({ directory, prefix: "f-", suffix: ".txt" })
      assert.isTrue(file.endsWith(".txt"))
      assert.isTrue(path.basename(path.dirname(file)).startsWith("f-"))
      assert.strictEqual(yield* fs.readFileString(file), "")
      const plain = yield* fs.makeTempDirectory()
      assert.isTrue(path.isAbsolute(plain))
      yield* fs.remove(plain, { recursive: true })
    })))

  it.effect("removes temporary files and directories with their scope", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at, path) {
      const made = yield* Ref.make<ReadonlyArray<string>>([])
      yield* Effect.scoped(Effect.gen(function*() {
        const directory = yield* fs.makeTempDirectoryScoped({ directory: at(".") })
        yield* fs.writeFileString(path.join(directory, "file"), "")
        const file = yield* fs.makeTempFileScoped({ directory: at(".") })
        assert.isTrue(yield* fs.exists(file))
        // One that its user has removed is no defect.
        const gone = yield* fs.makeTempDirectoryScoped({ directory: at(".") })
        yield* fs.remove(gone, { recursive: true })
        yield* Ref.set(made, [directory, file, path.dirname(file)])
      }))
      for (const at of yield* Ref.get(made)) assert.isFalse(yield* fs.exists(at))
      assert.deepStrictEqual(yield* fs.readDirectory(at(".")), [])
    })))

  it.effect("opens with each flag as it says", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      const flags = ["r", "r+", "w", "wx", "w+", "wx+", "a", "ax", "a+", "ax+"] as const
      const verdicts: Record<string, string> = {}
      for (const flag of flags) {
        for (const there of [true, false]) {
          yield* fs.remove(at("file"), { force: true })
          if (there) yield* fs.writeFileString(at("file"), "old")
          const tried = yield* Effect.gen(function*() {
            const file = yield* fs.open(at("file"), { flag })
            const read = yield* Effect.option(file.readAlloc(10))
            const wrote = yield* Effect.option(file.writeAll(bytes("new")))
            return `${
              Option.match(read, {
                onNone: () => "-",
                onSome: Option.match({ onNone: () => "empty", onSome: text })
              })
            } ${Option.isSome(wrote) ? "wrote" : "-"}`
          }).pipe(Effect.scoped, Effect.catchTag("PlatformError", (error) => Effect.succeed(error.reason._tag)))
          const content = yield* Effect.orElseSucceed(fs.readFileString(at("file")), () => "missing")
          verdicts[`${flag} ${there ? "there" : "missing"}`] = `${tried}: ${content}`
        }
      }
      assert.deepStrictEqual(verdicts, {
        "r there": "old -: old",
        "r missing": "NotFound: missing",
        "r+ there": "old wrote: oldnew",
        "r+ missing": "NotFound: missing",
        "w there": "- wrote: new",
        "w missing": "- wrote: new",
        "wx there": "AlreadyExists: old",
        "wx missing": "- wrote: new",
        "w+ there": "empty wrote: new",
        "w+ missing": "empty wrote: new",
        "wx+ there": "AlreadyExists: old",
        "wx+ missing": "empty wrote: new",
        "a there": "- wrote: oldnew",
        "a missing": "- wrote: new",
        "ax there": "AlreadyExists: old",
        "ax missing": "- wrote: new",
        "a+ there": "old wrote: oldnew",
        "a+ missing": "empty wrote: new",
        "ax+ there": "AlreadyExists: old",
        "ax+ missing": "empty wrote: new"
      })
    })))

  it.effect("refuses to open a link when it may not follow", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("file"), "content")
      yield* fs.symlink("file", at("link"))
      yield* fails(Effect.scoped(fs.open(at("link"), { noFollow: true })), "BadResource")
      const read = yield* Effect.scoped(
        Effect.flatMap(fs.open(at("file"), { noFollow: true }), (file) => file.readAlloc(100))
      )
      assert.strictEqual(text(Option.getOrThrow(read)), "content")
    })))

  it.effect("moves a cursor by what is read, written and sought", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("file"), "0123456789")
      yield* Effect.scoped(Effect.gen(function*() {
        const file = yield* fs.open(at("file"), { flag: "r+" })
        const buffer = new Uint8Array(4)
        assert.strictEqual(yield* file.read(buffer), 4)
        assert.strictEqual(text(buffer), "0123")
        assert.strictEqual(yield* file.seek(2n, "current"), 6n)
        assert.strictEqual(yield* file.write(bytes("ab")), 2)
        assert.strictEqual(yield* file.read(buffer), 2)
        assert.strictEqual(text(buffer), "8923")
        assert.strictEqual(yield* file.read(buffer), 0)
        assert.strictEqual(yield* file.seek(-3n, "current"), 7n)
        assert.strictEqual(yield* file.seek(1n, "start"), 1n)
        yield* fails(file.seek(-1n, "start"), "BadArgument")
        yield* fails(file.seek(-2n, "current"), "BadArgument")
        assert.strictEqual(text(Option.getOrThrow(yield* file.readAlloc(100))), "12345ab89")
        assert.isTrue(Option.isNone(yield* file.readAlloc(1)))
      }))
      assert.strictEqual(yield* fs.readFileString(at("file")), "012345ab89")
    })))

  it.effect("reads at a position without moving the cursor", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("file"), "0123456789")
      yield* Effect.scoped(Effect.gen(function*() {
        const file = yield* fs.open(at("file"))
        const buffer = new Uint8Array(3)
        assert.strictEqual(yield* file.read(buffer, { position: 5n }), 3)
        assert.strictEqual(text(buffer), "567")
        assert.strictEqual(text(Option.getOrThrow(yield* file.readAlloc(2, { position: 8n }))), "89")
        assert.strictEqual(text(Option.getOrThrow(yield* file.readAlloc(2))), "01")
        assert.isTrue(Option.isNone(yield* file.readAlloc(2, { position: 10n })))
        yield* fails(file.read(buffer, { position: -1n }), "BadArgument")
        yield* fails(file.readAlloc(1, { position: -1n }), "BadArgument")
        yield* fails(file.readAlloc(-1), "BadArgument")
        yield* fails(file.readAlloc(0.5), "BadArgument")
        yield* fails(file.write(buffer), "Unknown")
      }))
    })))

  it.effect("writes beyond the end, and says how long a file is", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* Effect.scoped(Effect.gen(function*() {
        const file = yield* fs.open(at("file"), { flag: "w+" })
        yield* file.seek(3n, "start")
        yield* file.writeAll(bytes("end"))
        assert.strictEqual(BigInt((yield* file.stat).size), 6n)
        yield* file.truncate(4)
        assert.strictEqual(BigInt((yield* file.stat).size), 4n)
        // The cursor comes back to the new end.
        yield* file.writeAll(bytes("!"))
        yield* file.sync
        yield* file.writeAll(new Uint8Array(0))
      }))
      assert.strictEqual(yield* fs.readFileString(at("file")), "\0\0\0e!")
    })))

  it.effect("appends wherever the cursor is", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("file"), "01")
      yield* Effect.scoped(Effect.gen(function*() {
        const file = yield* fs.open(at("file"), { flag: "a+" })
        yield* file.writeAll(bytes("23"))
        assert.strictEqual(text(Option.getOrThrow(yield* file.readAlloc(2))), "01")
        yield* file.writeAll(bytes("45"))
        assert.strictEqual(text(Option.getOrThrow(yield* file.readAlloc(9))), "2345")
      }))
    })))

  it.effect("streams a file in pieces of the size that was asked for", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      const data = pattern(1_000_000)
      yield* fs.writeFile(at("file"), data)
      for (const chunkSize of [undefined, 1000, 65_536, 3_000_000]) {
        const chunks = yield* Stream.runCollect(fs.stream(at("file"), { chunkSize }))
        assert.isTrue(Buffer.from(data).equals(Buffer.concat(chunks)))
        if (chunkSize !== undefined) {
          assert.isTrue(chunks.slice(0, -1).every((chunk) => chunk.length === chunkSize))
        }
      }
      yield* fs.writeFile(at("empty"), new Uint8Array(0))
      assert.deepStrictEqual(yield* Stream.runCollect(fs.stream(at("empty"))), [])
    })))

  it.effect("streams a part of a file", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("file"), "0123456789")
      const read = (options: Parameters<typeof fs.stream>[1]) =>
        Effect.map(Stream.runCollect(fs.stream(at("file"), options)), (chunks) => text(Buffer.concat(chunks)))
      assert.strictEqual(yield* read({ offset: 3, bytesToRead: 4 }), "3456")
      assert.strictEqual(yield* read({ offset: 8n, bytesToRead: 100 }), "89")
      assert.strictEqual(yield* read({ offset: 100 }), "")
      assert.strictEqual(yield* read({ bytesToRead: 0 }), "")
      assert.strictEqual(yield* read({ bytesToRead: 5, chunkSize: 2 }), "01234")
      yield* fails(Stream.runDrain(fs.stream(at("file"), { chunkSize: -1 })), "BadArgument")
    })))

  it.effect("takes a stream into a file", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      const data = pattern(2_500_000)
      const pieces = Stream.range(0, 99).pipe(
        Stream.map((index) => data.subarray(index * 25_000, (index + 1) * 25_000))
      )
      yield* Stream.run(pieces, fs.sink(at("file")))
      assert.isTrue(Buffer.from(data).equals(yield* fs.readFile(at("file"))))
      yield* Stream.run(Stream.make(bytes("more")), fs.sink(at("file"), { flag: "a" }))
      assert.strictEqual(BigInt((yield* fs.stat(at("file"))).size), 2_500_004n)
      yield* Stream.run(Stream.empty, fs.sink(at("file")))
      assert.strictEqual(BigInt((yield* fs.stat(at("file"))).size), 0n)
      yield* fails(Stream.run(Stream.make(bytes("x")), fs.sink(at("no/file"))), "NotFound")
    })))

  it.effect("finds files by a pattern", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.makeDirectory(at("src/deep"), { recursive: true })
      for (const name of ["src/a.ts", "src/b.js", "src/deep/c.ts"]) yield* fs.writeFileString(at(name), "")
      const found = yield* fs.glob("**/*.ts", { root: at(".") })
      assert.deepStrictEqual(found.map((name) => name.replace(/^.*src\//, "")).sort(), ["a.ts", "deep/c.ts"])
    })))

  it.effect("does many things at once", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* Effect.forEach(
        Array.from({ length: 40 }, (_, index) => index),
        (index) =>
          Effect.gen(function*() {
            const data = pattern(index * 5000)
            yield* fs.writeFile(at(`${index}`), data)
            assert.isTrue(Buffer.from(data).equals(yield* fs.readFile(at(`${index}`))))
          }),
        { concurrency: 20, discard: true }
      )
      assert.strictEqual((yield* fs.readDirectory(at("."))).length, 40)
    })))

  it.effect("tells of what is made, changed and removed in a directory", () =>
    inDirectory(Effect.fnUntraced(function*(fs, at) {
      yield* fs.writeFileString(at("changed"), "")
      yield* fs.writeFileString(at("removed"), "")
      const seen = yield* Ref.make<ReadonlyArray<string>>([])
      let ready = false
      yield* fs.watch(at("."), { onReady: () => (ready = true) }).pipe(
        Stream.runForEach((event) => Ref.update(seen, (seen) => [...seen, `${event._tag} ${event.path}`])),
        Effect.forkScoped
      )
      const until = (condition: Effect.Effect<boolean>): Effect.Effect<void> =>
        Effect.flatMap(condition, (done) => done ? Effect.void : Effect.delay(until(condition), "20 millis"))
      yield* until(Effect.sync(() => ready))
      yield* fs.writeFileString(at("made"), "")
      yield* until(Effect.map(Ref.get(seen), (seen) => seen.includes("Create made")))
      yield* fs.writeFileString(at("changed"), "longer")
      yield* until(Effect.map(Ref.get(seen), (seen) => seen.includes("Update changed")))
      yield* fs.remove(at("removed"))
      yield* until(Effect.map(Ref.get(seen), (seen) => seen.includes("Remove removed")))
    })))
}

/** What needs the files that a kernel makes up, below `/dev` and `/proc`. */
export const devices = (it: Vitest.MethodsNonLive<Services>): void => {
  it.effect("reads what the kernel makes up", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const devices = yield* fs.readDirectoryEntries("/dev")
      assert.deepStrictEqual(devices.find(({ name }) => name === "null"), { name: "null", type: "CharacterDevice" })
      assert.strictEqual((yield* fs.stat("/dev/null")).type, "CharacterDevice")
      assert.match(yield* fs.readFileString("/proc/version"), /^Linux version/)
      assert.strictEqual((yield* fs.readFile("/dev/null")).length, 0)
      const zeros = yield* Stream.runCollect(fs.stream("/dev/zero", { bytesToRead: 100_000 }))
      assert.isTrue(Buffer.concat(zeros).equals(Buffer.alloc(100_000)))
    }))
}
