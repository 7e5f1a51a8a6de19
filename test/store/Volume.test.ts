/** Volumes without a VM: the catalogue, which `msb` shares, and the files, which a hostile guest may have written. */
import { Backend, MicrosandboxError, Volume } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import {
  ByteSize,
  Context,
  Effect,
  Exit,
  Fiber,
  type FileSystem,
  Layer,
  Option,
  type PlatformError,
  Schema,
  Stream
} from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import { idle, layerBackend } from "../support/Sandboxes.ts"
import { seed } from "../support/Seeded.ts"
import { makeRow, setStatus } from "../support/Store.ts"

const reasonOf = <A, R>(effect: Effect.Effect<A, MicrosandboxError.MicrosandboxError, R>) =>
  Effect.map(Effect.flip(Effect.asVoid(effect)), ({ reason }) => reason)

/** This SDK's reason for a failure of the platform. */
const causeOf = <A, R>(effect: Effect.Effect<A, PlatformError.PlatformError, R>) =>
  Effect.map(Effect.flip(Effect.asVoid(effect)), ({ cause, message }) => {
    assert.isTrue(MicrosandboxError.isMicrosandboxError(cause), message)
    return (cause as MicrosandboxError.MicrosandboxError).reason
  })

/** The command line of the same version, on the same home. */
const msb = Effect.fn("msb")(function*(...args: ReadonlyArray<string>) {
  const { home } = yield* Backend.Local
  const spawner = yield* ChildProcessSpawner
  const program = `node_modules/@superradcompany/microsandbox-${process.platform}-${process.arch}-gnu/bin/msb`
  return yield* spawner.string(
    ChildProcess.make(program, args, { env: { MSB_HOME: home }, extendEnv: true, stderr: "inherit" })
  )
})

const volumeDirectory = (name: string) => Effect.map(Backend.Local, ({ home }) => `${home}/volumes/${name}`)

const live = Effect.flatMap(Backend.Backend, ({ native }) => native.live)

layer(layerBackend, { excludeTestServices: true, timeout: "1 minute" })("a volume of a backend", (it) => {
  it.effect("is made, found, listed and removed, and its name can be used again", () =>
    Effect.gen(function*() {
      const before = yield* Volume.list
      const { info } = yield* Effect.scoped(Volume.create("plain", { quota: "3 MiB", labels: { of: "test" } }))
      assert.strictEqual(info.kind, "directory")
      assert.strictEqual(info.path, yield* volumeDirectory("plain"))
      assert.deepStrictEqual(info.quota, ByteSize.fromInputUnsafe("3 MiB"))
      assert.deepStrictEqual(info.labels, { of: "test" })
      assert.strictEqual(BigInt(info.used), 0n)
      assert.isTrue(info.createdAt !== undefined && info.capacity === undefined && info.diskPath === undefined)
      assert.deepStrictEqual(yield* Volume.get("plain"), info)
      // It is still there: the scope has closed its handle.
      assert.deepStrictEqual(yield* Volume.list, [info, ...before])
      const again = yield* reasonOf(Effect.scoped(Volume.create("plain")))
      assert.deepInclude(again, { _tag: "VolumeAlreadyExists", volume: "plain" })
      yield* Volume.remove("plain")
      assert.isFalse(NodeFs.existsSync(info.path))
      for (const gone of [Volume.get("plain"), Volume.remove("plain"), Effect.scoped(Volume.open("plain"))]) {
        assert.deepInclude(yield* reasonOf<unknown, Backend.Backend | Backend.Local>(gone), {
          _tag: "VolumeNotFound",
          volume: "plain"
        })
      }
      yield* Effect.scoped(Volume.create("plain"))
      yield* Volume.remove("plain")
      assert.deepStrictEqual(yield* Volume.list, before)
      assert.deepStrictEqual(yield* live, idle)
    }))

  it.effect("is a disk when it has a size, whose files only a guest can see", () =>
    Effect.gen(function*() {
      const { fs, info, writeAtomic } = yield* Volume.make({ name: "disk", size: "72 MiB" })
      assert.deepStrictEqual(
        [info.kind, info.diskFormat, info.diskFstype, info.diskPath],
        ["disk", "raw", "ext4", `${info.path}/disk.raw`]
      )
      assert.deepStrictEqual(info.capacity, ByteSize.fromInputUnsafe("72 MiB"))
      assert.strictEqual(NodeFs.statSync(info.diskPath ?? "").size, 72 << 20)
      const refused: ReadonlyArray<Effect.Effect<unknown, PlatformError.PlatformError>> = [
        fs.readDirectory("/"),
        fs.readFile("disk.raw"),
        fs.writeFileString("x", ""),
        fs.exists("x"),
        Effect.scoped(fs.open("x")),
        Stream.runDrain(fs.stream("x")),
        Stream.runDrain(fs.watch("/")),
        fs.makeTempDirectory(),
        writeAtomic("x", "")
      ]
      for (const operation of refused) {
        assert.deepInclude(yield* causeOf(operation), {
          _tag: "Unsupported",
          operation: "volume.fs",
          reason: "MountIntoSandbox"
        })
      }
      assert.deepStrictEqual(NodeFs.readdirSync(info.path), ["disk.raw"])
    }).pipe(Effect.scoped))

  it.effect("is what msb lists, and what msb has made is opened", () =>
    Effect.gen(function*() {
      yield* Effect.scoped(Effect.gen(function*() {
        const ours = yield* Volume.make({ name: "ours", quota: "5 MiB", labels: { of: "us" } })
        yield* Volume.make({ name: "ours-disk", size: "68 MiB" })
        yield* ours.fs.writeFileString("file", "content")
        yield* msb("volume", "create", "theirs")
        yield* msb("volume", "create", "theirs-disk", "--kind", "disk", "--size", "80M")
        const told: ReadonlyArray<{ readonly name: string }> = JSON.parse(
          yield* msb("volume", "list", "--format", "json")
        )
        const names = ["ours", "ours-disk", "theirs", "theirs-disk"]
        assert.sameMembers(told.map(({ name }) => name), names)
        assert.sameMembers((yield* Volume.list).map(({ name }) => name), names)
        assert.include(yield* msb("volume", "inspect", "ours"), ours.info.path)
        const theirs = yield* Effect.scoped(Effect.gen(function*() {
          const { fs, info } = yield* Volume.open("theirs")
          yield* fs.writeFileString("file", "ours")
          return info
        }))
        assert.strictEqual(NodeFs.readFileSync(`${theirs.path}/file`, "utf8"), "ours")
        const disk = yield* Volume.get("theirs-disk")
        assert.deepStrictEqual([disk.kind, disk.capacity], ["disk", ByteSize.fromInputUnsafe("80 MiB")])
        yield* Volume.remove("theirs")
        yield* Volume.remove("theirs-disk")
        // Whoever removes a volume: it is gone with its scope, or before.
        yield* msb("volume", "remove", "ours")
        assert.strictEqual((yield* reasonOf(Volume.get("ours")))._tag, "VolumeNotFound")
        assert.deepInclude(yield* causeOf(ours.fs.writeFileString("file", "")), { errnoName: "ENOENT" })
      }))
      assert.deepStrictEqual(JSON.parse(yield* msb("volume", "list", "--format", "json")), [])
    }))

  it.effect("is not removed while a sandbox has it mounted, by its row", () =>
    Effect.gen(function*() {
      const mounts = ["busy", "busy-disk"].map((name) => ({ type: "Named", name, guest: `/${name}` }))
      yield* Effect.scoped(Volume.create("busy"))
      yield* Effect.scoped(Volume.create("busy-disk", { size: "68 MiB" }))
      const sandbox = yield* makeRow("mounting", "Running", { name: "mounting", mounts })
      const { fs } = yield* Volume.open("busy")
      yield* fs.writeFileString("file", "kept")
      for (const volume of ["busy", "busy-disk"]) {
        const reason = yield* reasonOf(Volume.remove(volume))
        assert.deepInclude(reason, { _tag: "VolumeInUse", volume, sandbox: sandbox.name })
        assert.strictEqual((yield* Volume.get(volume)).name, volume)
      }
      assert.strictEqual(yield* fs.readFileString("file"), "kept")
      // One that has stopped has nothing mounted.
      yield* setStatus("mounting", "Stopped")
      yield* Volume.remove("busy")
      yield* Volume.remove("busy-disk")
    }).pipe(Effect.scoped))

  it.effect("is refused with the name of what is wrong", () =>
    Effect.gen(function*() {
      const wrong: ReadonlyArray<readonly [string, string, Volume.Options]> = [
        ["name", "", {}],
        ["name", "../up", {}],
        ["name", ".hidden", {}],
        ["name", "a/b", {}],
        ["name", "n".repeat(241), {}],
        ["size", "v", { kind: "disk" }],
        ["size", "v", { size: "67 MiB" }],
        ["size", "v", { size: 100 }],
        ["size", "v", { kind: "directory", size: "72 MiB" }],
        ["quota", "v", { size: "72 MiB", quota: "1 MiB" }],
        ["quota", "v", { quota: "1 KiB" }],
        ["labels.sandbox.x", "v", { labels: { "sandbox.x": "" } }],
        ["kind", "v", { kind: "tape" as never }],
        ["mode", "v", { mode: 1 } as never]
      ]
      for (const [field, name, options] of wrong) {
        for (const made of [Volume.create(name, options), Volume.make({ ...options, name })]) {
          const reason = yield* reasonOf(Effect.scoped(made))
          assert.deepInclude(reason, { _tag: "InvalidConfig", field }, JSON.stringify([name, options]))
        }
      }
      for (const named of [Volume.get("../up"), Volume.remove("a/b"), Effect.scoped(Volume.open(""))]) {
        assert.deepInclude(yield* reasonOf<unknown, Backend.Backend | Backend.Local>(named), {
          _tag: "InvalidConfig",
          field: "name"
        })
      }
      // The longest name is one that the file system takes.
      yield* Effect.scoped(Volume.make({ name: "n".repeat(240) }))
    }))

  it.effect("is there or not when its making is interrupted, and nothing between", () =>
    Effect.gen(function*() {
      for (let delay = 0; delay < 24; delay++) {
        const making = yield* Effect.forkChild(Effect.scoped(Volume.create("sudden", { size: "68 MiB" })))
        yield* Effect.sleep(delay)
        yield* Fiber.interrupt(making)
        const made = yield* Effect.option(Volume.get("sudden"))
        if (Exit.isSuccess(yield* Fiber.await(making))) assert.isTrue(Option.isSome(made))
        if (Option.isSome(made)) {
          assert.strictEqual(NodeFs.statSync(made.value.diskPath ?? "").size, 68 << 20)
          yield* Volume.remove("sudden")
        }
        assert.strictEqual((yield* reasonOf(Volume.get("sudden")))._tag, "VolumeNotFound")
        assert.isFalse(NodeFs.existsSync(yield* volumeDirectory("sudden")))
      }
      assert.deepStrictEqual(yield* live, idle)
    }))

  it.effect("is gone or there when its removal is interrupted, and nothing between", () =>
    Effect.gen(function*() {
      for (let delay = 0; delay < 12; delay++) {
        const { fs } = yield* Volume.create("leaving")
        yield* Effect.forEach(Array.from({ length: 50 }, (_, at) => `${at}`), (name) => fs.writeFileString(name, ""))
        const removal = yield* Effect.forkChild(Volume.remove("leaving"))
        yield* Effect.sleep(delay)
        yield* Fiber.interrupt(removal)
        const there = yield* Effect.option(Volume.get("leaving"))
        assert.strictEqual(NodeFs.existsSync(yield* volumeDirectory("leaving")), Option.isSome(there))
        if (Option.isSome(there)) {
          assert.lengthOf(yield* fs.readDirectory("/"), 50)
          yield* Volume.remove("leaving")
        }
      }
    }).pipe(Effect.scoped))

  it.effect("is removed however deep a guest has made it", () =>
    Effect.gen(function*() {
      yield* Effect.scoped(Effect.gen(function*() {
        const { fs } = yield* Volume.create("deep")
        // Deeper than what is open at once while it is removed; a Rust test goes deeper.
        let below = "bottom"
        yield* fs.makeDirectory(below)
        for (let round = 0; round < 6; round++) {
          const path = `${round}/`.repeat(50)
          yield* fs.makeDirectory(path, { recursive: true })
          yield* fs.rename(below, `${path}below`)
          below = `${round}`
        }
      }))
      yield* Volume.remove("deep")
      assert.isFalse(NodeFs.existsSync(yield* volumeDirectory("deep")))
    }))

  it.effect("closes what is open with its scope, and is another when it is made anew", () =>
    Effect.gen(function*() {
      const first = yield* Effect.scoped(Effect.gen(function*() {
        const volume = yield* Volume.create("again")
        yield* volume.fs.writeFileString("file", "first")
        const file = yield* volume.fs.open("file")
        assert.deepStrictEqual(yield* live, { ...idle, volumes: 1, files: 1 })
        yield* Volume.remove("again")
        yield* Effect.scoped(Volume.create("again"))
        // What is open is what was opened.
        assert.deepStrictEqual(yield* volume.fs.readDirectory("/"), [])
        assert.deepInclude(yield* causeOf(volume.fs.writeFileString("file", "")), { errnoName: "ENOENT" })
        assert.strictEqual(Buffer.from(Option.getOrThrow(yield* file.readAlloc(9))).toString(), "first")
        return { file, volume }
      }))
      assert.deepStrictEqual(yield* live, idle)
      assert.deepInclude(yield* causeOf(first.volume.fs.readDirectory("/")), { _tag: "HandleClosed", kind: "volume" })
      assert.deepInclude(yield* causeOf(first.file.readAlloc(1)), { _tag: "HandleClosed", kind: "file" })
      yield* Volume.remove("again")
    }))
})

layer(layerBackend, { excludeTestServices: true, timeout: "1 minute" })("the files of a volume", (it) => {
  it.effect("are written in one step: a reader has the old content or the new", () =>
    Effect.gen(function*() {
      const { fs, info, writeAtomic } = yield* Volume.make()
      const content = (letter: string) => letter.repeat(3_000_000)
      yield* writeAtomic("file", content("a"), { mode: 0o640 })
      const writing = yield* Effect.forkChild(Effect.forever(
        Effect.andThen(writeAtomic("file", content("b")), writeAtomic("/file", Buffer.from(content("a"))))
      ))
      for (let round = 0; round < 30; round++) {
        const read = NodeFs.readFileSync(`${info.path}/file`, "utf8")
        assert.isTrue(read === content("a") || read === content("b"), `${read.length}`)
        yield* Effect.sleep("1 millis")
      }
      yield* Fiber.interrupt(writing)
      // The mode stays, and nothing is left beside it.
      assert.strictEqual(NodeFs.statSync(`${info.path}/file`).mode & 0o777, 0o640)
      assert.deepStrictEqual(yield* fs.readDirectory("/"), ["file"])
    }).pipe(Effect.scoped))

  it.effect("are as they were when a write in one step is interrupted or fails", () =>
    Effect.gen(function*() {
      const { fs, writeAtomic } = yield* Volume.make()
      yield* fs.writeFileString("file", "old")
      const large = new Uint8Array(200 << 20)
      for (const path of ["file", "new"]) {
        const writing = yield* Effect.forkChild(writeAtomic(path, large))
        // It has begun when there is a second file.
        while ((yield* fs.readDirectory("/")).length < 2) yield* Effect.sleep("1 millis")
        yield* Fiber.interrupt(writing)
        assert.deepStrictEqual(yield* fs.readDirectory("/"), ["file"])
      }
      yield* fs.makeDirectory("directory")
      const refused = { "directory": "BadResource", "missing/file": "NotFound", "file/below": "BadResource" } as const
      for (const [path, tag] of Object.entries(refused)) {
        assert.strictEqual((yield* Effect.flip(writeAtomic(path, "x"))).reason._tag, tag, path)
      }
      assert.strictEqual((yield* Effect.flip(writeAtomic("file", "", { mode: -1 }))).reason._tag, "BadArgument")
      assert.strictEqual(yield* fs.readFileString("file"), "old")
      assert.deepStrictEqual(yield* fs.readDirectory("/"), ["directory", "file"])
    }).pipe(Effect.scoped))

  it.effect("are written in one step from a stream too, and stay as they were when it fails", () =>
    Effect.gen(function*() {
      const { fs, info, writeAtomic } = yield* Volume.make()
      yield* fs.writeFileString("file", "old")
      NodeFs.chmodSync(`${info.path}/file`, 0o640)
      const piece = new Uint8Array(1 << 20).fill(7)
      const whole = Stream.map(Stream.range(1, 20), () => piece)
      const seen = Stream.tap(
        whole,
        () => Effect.map(fs.readFileString("file"), (text) => assert.strictEqual(text, "old"))
      )
      yield* writeAtomic("file", seen)
      assert.isTrue(Buffer.from(yield* fs.readFile("file")).equals(Buffer.alloc(20 << 20, 7)))
      assert.strictEqual(NodeFs.statSync(`${info.path}/file`).mode & 0o777, 0o640)
      yield* writeAtomic("new", Stream.make(Buffer.from("one "), Buffer.from("two")), { mode: 0o600 })
      yield* writeAtomic("empty", Stream.empty)
      assert.strictEqual(yield* fs.readFileString("new"), "one two")
      assert.strictEqual(yield* fs.readFileString("empty"), "")
      const before = yield* fs.readDirectory("/")
      for (const path of ["new", "other"]) {
        const failing = Stream.concat(whole, Stream.fail("the source failed"))
        assert.strictEqual(yield* Effect.flip(writeAtomic(path, failing)), "the source failed")
        // One that is never done: it has begun when there is one more.
        const writing = yield* Effect.forkChild(writeAtomic(path, Stream.concat(whole, Stream.never)))
        while ((yield* fs.readDirectory("/")).length === before.length) yield* Effect.sleep("1 millis")
        yield* Fiber.interrupt(writing)
        assert.deepStrictEqual(yield* fs.readDirectory("/"), before)
      }
      assert.strictEqual(yield* fs.readFileString("new"), "one two")
      assert.deepStrictEqual(yield* live, { ...idle, volumes: 1 })
    }).pipe(Effect.scoped))

  it.effect("stream both ways, and tell the numbers of this host's kernel", () =>
    Effect.gen(function*() {
      const { fs, info } = yield* Volume.make()
      const piece = new Uint8Array(1 << 20).map((_, at) => at % 251)
      yield* Stream.run(Stream.map(Stream.range(1, 24), () => piece), fs.sink("large"))
      const stat = yield* fs.stat("large")
      const there = NodeFs.statSync(`${info.path}/large`, { bigint: true })
      assert.strictEqual(BigInt(stat.size), 24n << 20n)
      assert.deepStrictEqual(
        [stat.dev, stat.ino, stat.nlink, stat.blocks],
        [there.dev, Option.some(there.ino), Option.some(there.nlink), Option.some(there.blocks)]
      )
      let bytes = 0
      yield* Stream.runForEach(fs.stream("large"), (chunk) => Effect.sync(() => bytes += chunk.length))
      assert.strictEqual(bytes, 24 << 20)
      yield* fs.utimes("large", new Date(1_234_567_890_123), -0.5)
      assert.deepStrictEqual((yield* fs.stat("large")).atime, Option.some(new Date(1_234_567_890_123)))
      const link = yield* causeOf(fs.stat("large/below"))
      assert.deepInclude(link, { _tag: "FileFailed", errno: 20, errnoName: "ENOTDIR", path: "//large/below" })
    }).pipe(Effect.scoped))

  it.effect("that could wait for somebody are seen, and not opened", () =>
    Effect.gen(function*() {
      const { fs, info } = yield* Volume.make()
      const spawner = yield* ChildProcessSpawner
      yield* spawner.exitCode(ChildProcess.make("mkfifo", [`${info.path}/pipe`]))
      assert.strictEqual((yield* fs.stat("pipe")).type, "FIFO")
      const refused: ReadonlyArray<Effect.Effect<unknown, PlatformError.PlatformError>> = [
        fs.readFile("pipe"),
        fs.writeFileString("pipe", ""),
        fs.copyFile("pipe", "copy"),
        fs.truncate("pipe"),
        Stream.runDrain(fs.stream("pipe"))
      ]
      for (const blocking of refused) assert.deepInclude(yield* causeOf(blocking), { errnoName: "EOPNOTSUPP" })
      yield* fs.remove("pipe")
      assert.deepStrictEqual(yield* fs.readDirectory("/"), [])
    }).pipe(Effect.scoped))

  it.effect("are not copied into themselves, all of them either", () =>
    Effect.gen(function*() {
      const { fs } = yield* Volume.make()
      yield* fs.writeFileString("file", "")
      for (const to of ["below", "/new/parents/below"]) {
        assert.strictEqual((yield* Effect.flip(fs.copy("/", to))).reason._tag, "Unknown")
      }
      assert.deepStrictEqual(yield* fs.readDirectory("/"), ["file"])
    }).pipe(Effect.scoped))

  it.effect("end a long walk that is interrupted", () =>
    Effect.gen(function*() {
      const { fs } = yield* Volume.make()
      // Two links to where they are: 2^40 paths.
      yield* fs.symlink(".", "one")
      yield* fs.symlink(".", "two")
      const walking = yield* Effect.forkChild(fs.readDirectory("/", { recursive: true }))
      yield* Effect.sleep("50 millis")
      yield* Fiber.interrupt(walking)
      assert.deepStrictEqual(yield* live, { ...idle, volumes: 1 })
    }).pipe(Effect.scoped))
})

/** Links that a hostile guest makes, by what they lead to when they are followed as this host's kernel would. */
const hostile: Readonly<Record<string, (outside: string) => string>> = {
  absolute: (outside) => outside,
  up: () => "../outside",
  further: () => "sub/../../../volumes/outside",
  root: () => "/",
  proc: () => "/proc/self/root",
  here: () => ".",
  loop: () => "loop",
  deep: () => "sub/deeper/../../../outside/secret",
  stolen: (outside) => `${outside}/secret`,
  dangling: (outside) => `${outside}/new`
}

const secret = "what only the host may read"

/** One volume, and a directory beside it with a secret; both as they were, for each case. */
class Hostile extends Context.Service<Hostile, {
  readonly volume: Volume.Volume
  readonly reset: Effect.Effect<void>
  /** All that is beside the volume, with the times of every change. */
  readonly look: Effect.Effect<unknown>
  /** The numbers of what nobody may see. */
  readonly secrets: ReadonlySet<bigint>
}>()("test/store/Hostile") {}

const layerHostile = Layer.effect(
  Hostile,
  Effect.gen(function*() {
    const volume = yield* Volume.make({ name: "volume" })
    const root = volume.info.path
    const outside = NodePath.join(NodePath.dirname(root), "outside")
    NodeFs.mkdirSync(outside)
    NodeFs.writeFileSync(`${outside}/secret`, secret)
    const stat = (path: string) => {
      const { ctimeNs, gid, ino, mode, mtimeNs, nlink, size, uid } = NodeFs.lstatSync(path, { bigint: true })
      return { ctimeNs, gid, ino, mode, mtimeNs, nlink, size, uid }
    }
    return Hostile.of({
      volume,
      reset: Effect.sync(() => {
        for (const name of NodeFs.readdirSync(root)) NodeFs.rmSync(`${root}/${name}`, { recursive: true })
        NodeFs.mkdirSync(`${root}/sub/deeper`, { recursive: true })
        NodeFs.writeFileSync(`${root}/file`, "ours")
        for (const [name, target] of Object.entries(hostile)) NodeFs.symlinkSync(target(outside), `${root}/${name}`)
      }),
      look: Effect.sync(() => [
        NodeFs.readdirSync(NodePath.dirname(root)),
        stat(NodePath.dirname(root)),
        NodeFs.readdirSync(outside),
        stat(outside),
        stat(`${outside}/secret`)
      ]),
      secrets: new Set([NodePath.dirname(root), outside, `${outside}/secret`, "/"].map((path) => stat(path).ino))
    })
  })
).pipe(Layer.provideMerge(layerBackend), Layer.orDie)

const names: ReadonlyArray<string> = ["..", ".", "", "...", "file", "sub", "deeper", "nope", "outside", "secret", "ü\n"]

const Name = Schema.Literals([...names, ...Object.keys(hostile)])

const PathText = Schema.Tuple([Schema.Boolean, Schema.Array(Name).check(Schema.isMaxLength(6))])

const operations = `
  readFile stream stat lstat realPath readLink readDirectory access open
  writeFile append writeAtomic makeDirectory makeDirectories makeTempFile truncate
  remove removeTree rename copyFile copy link symlink chmod chown utimes
`.trim().split(/\s+/)

const Step = Schema.Struct({ operation: Schema.Literals(operations), from: PathText, to: PathText })

layer(layerHostile, { excludeTestServices: true, timeout: "1 minute" })("a path of a volume", (it) => {
  it.effect.prop(
    "leads nowhere outside, whatever it is and whatever a guest has made there",
    [Schema.Array(Step).check(Schema.isMinLength(1), Schema.isMaxLength(3))],
    ([steps]) =>
      Effect.gen(function*() {
        const { look, reset, secrets, volume: { fs, info, writeAtomic } } = yield* Hostile
        yield* reset
        const before = yield* look
        const read = (bytes: Uint8Array) => assert.notInclude(Buffer.from(bytes).toString(), secret)
        const see = ({ ino }: FileSystem.File.Info) => assert.isFalse(secrets.has(Option.getOrThrow(ino)))
        const real = (at: string) => {
          // It is what the kernel has at that place, without a link on the way.
          const path = NodePath.join(info.path, at).replace(/\/$/, "")
          assert.strictEqual(NodeFs.realpathSync(path), path)
        }
        for (const { from, operation, to } of steps) {
          const [one, two] = [from, to].map(([absolute, parts]) => (absolute ? "/" : "") + parts.join("/")) as [
            string,
            string
          ]
          const work: Readonly<Record<string, Effect.Effect<unknown, PlatformError.PlatformError>>> = {
            readFile: Effect.map(fs.readFile(one), read),
            stream: Stream.runForEach(fs.stream(one), (bytes) => Effect.sync(() => read(bytes))),
            stat: Effect.map(fs.stat(one), see),
            lstat: Effect.map(fs.lstat(one), see),
            realPath: Effect.map(fs.realPath(one), real),
            readLink: fs.readLink(one),
            readDirectory: Effect.map(fs.readDirectory(one), (found) => assert.notDeepEqual([...found], ["secret"])),
            access: fs.access(one, { readable: true, writable: true }),
            open: Effect.scoped(Effect.gen(function*() {
              const file = yield* fs.open(one, { flag: "r+" })
              see(yield* file.stat)
              read(Option.getOrElse(yield* file.readAlloc(100), () => new Uint8Array(0)))
              yield* file.writeAll(Buffer.from("written"))
            })),
            writeFile: fs.writeFileString(one, "written"),
            append: fs.writeFileString(one, "written", { flag: "a" }),
            writeAtomic: writeAtomic(one, "written"),
            makeDirectory: fs.makeDirectory(one),
            makeDirectories: fs.makeDirectory(one, { recursive: true }),
            makeTempFile: fs.makeTempFile({ directory: one, prefix: two }),
            truncate: fs.truncate(one, 3),
            remove: fs.remove(one),
            removeTree: fs.remove(one, { recursive: true, force: true }),
            rename: fs.rename(one, two),
            copyFile: Effect.andThen(fs.copyFile(one, two), Effect.map(fs.readFile(two), read)),
            copy: fs.copy(one, two, { overwrite: true }),
            link: fs.link(one, two),
            symlink: fs.symlink(one, two),
            chmod: fs.chmod(one, 0o700),
            chown: fs.chown(one, 1, 1),
            utimes: fs.utimes(one, 1, 1)
          }
          assert.isDefined(work[operation])
          // A failure is an answer; a defect, such as an assertion's, is none.
          yield* Effect.ignore(work[operation] ?? Effect.void)
        }
        assert.deepStrictEqual(yield* look, before)
      }),
    { arbitrary: { runs: 10_000, seed }, timeout: 600_000 }
  )
})
