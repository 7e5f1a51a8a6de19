/** The files of one real guest, held against the suites that Node's are held against, and what only a guest has. */
import { Backend, MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, FileSystem, Layer, Path, type PlatformError, Stream } from "effect"
import * as Crypto from "node:crypto"
import { fileSystem } from "../../conformance/FileSystem.ts"
import { keyValueStore } from "../../conformance/KeyValueStore.ts"
import { path } from "../../conformance/Path.ts"
import { layerBackend, rootDirectory } from "../../support/Sandboxes.ts"

const layerSandbox = Layer.unwrap(
  Effect.map(rootDirectory, (image) => Sandbox.layer({ image, workdir: "/root", memory: "512 MiB" }))
).pipe(Layer.provideMerge(layerBackend))

/** The program's services, of the guest. */
const layerGuest = Layer.unwrap(Effect.map(
  Sandbox.Sandbox,
  (sandbox) => Layer.merge(Layer.succeed(FileSystem.FileSystem, sandbox.fs), Layer.succeed(Path.Path, sandbox.path))
))

const liveFiles = Effect.gen(function*() {
  const { native } = yield* Backend.Backend
  const { calls, execs, files } = yield* native.live
  return { calls, execs, files }
})

const nothing = { calls: 0, execs: 0, files: 0 }

layer(layerSandbox, { timeout: "10 minutes", excludeTestServices: true })("a guest", (it) => {
  it.layer(layerGuest)("its file system", fileSystem)

  it.layer(layerGuest)("its path", (it) => path(it, Effect.succeed("/root")))

  it.layer(layerGuest)("a key-value store on its files", keyValueStore)

  it.effect("has what its programs have, and they have what it is given", () =>
    Effect.gen(function*() {
      const { exec, fs, path } = yield* Sandbox.Sandbox
      yield* exec("sh", ["-c", "echo program > from-program"])
      assert.strictEqual(yield* fs.readFileString("from-program"), "program\n")
      assert.strictEqual(yield* fs.realPath("from-program"), path.resolve("from-program"))
      yield* fs.writeFileString("script", "#!/bin/sh\necho ran\n", { mode: 0o755 })
      // Closed by then: a file that is written to cannot be run.
      assert.strictEqual((yield* exec(path.resolve("script"))).stdout, "ran\n")
    }))

  it.effect("takes and gives a large file with an equal hash", () =>
    Effect.gen(function*() {
      const { exec, fs } = yield* Sandbox.Sandbox
      const data = Crypto.randomBytes(16 << 20)
      const hash = Crypto.createHash("sha256").update(data).digest("hex")
      yield* fs.writeFile("large", data)
      assert.strictEqual((yield* exec("sha256sum", ["large"])).stdout.slice(0, 64), hash)
      const back = Crypto.createHash("sha256")
      yield* Stream.runForEach(fs.stream("large"), (chunk) => Effect.sync(() => back.update(chunk)))
      assert.strictEqual(back.digest("hex"), hash)
      assert.strictEqual(Crypto.createHash("sha256").update(yield* fs.readFile("large")).digest("hex"), hash)
      yield* fs.remove("large")
    }))

  it.effect("ends a read, a write and a watch that are interrupted, and keeps nothing of them", () =>
    Effect.gen(function*() {
      const { fs } = yield* Sandbox.Sandbox
      yield* fs.writeFile("big", new Uint8Array(24 << 20))
      const started = yield* Deferred.make<void>()
      const start = Deferred.succeed(started, undefined)
      const forever = Stream.fromEffectRepeat(Effect.as(start, new Uint8Array(1 << 20)))
      const works = {
        read: Effect.andThen(start, Effect.forever(fs.readFile("big"))),
        endless: Effect.andThen(start, fs.readFile("/dev/zero")),
        stream: Stream.runForEach(fs.stream("/dev/zero"), () => start),
        write: Effect.andThen(start, Effect.forever(fs.writeFile("to", new Uint8Array(24 << 20)))),
        sink: Stream.run(Stream.take(forever, 1_000_000), fs.sink("/dev/null")),
        watch: Stream.runDrain(
          fs.watch(".", { recursive: true, onReady: () => Deferred.doneUnsafe(started, Effect.void) })
        )
      }
      for (const [name, work] of Object.entries(works)) {
        const fiber = yield* Effect.forkChild(work)
        yield* Deferred.await(started)
        yield* Effect.sleep("100 millis")
        yield* Fiber.interrupt(fiber)
        const exit = yield* Fiber.await(fiber)
        const why = Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "it came to an end"
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterrupts(exit.cause), `${name}: ${why}`)
        assert.deepStrictEqual(yield* liveFiles, nothing, name)
        // The guest's agent goes on with other work.
        assert.isTrue(yield* fs.exists("big"), name)
      }
    }))

  it.effect("keeps a file whole while another takes its place, and when none does", () =>
    Effect.gen(function*() {
      const { exec, fs, writeAtomic } = yield* Sandbox.Sandbox
      yield* exec("sh", [
        "-c",
        "mkdir atomic; cd atomic; echo old > file; chown 7:8 file; chmod 640 file; ln -s file link"
      ])
      yield* writeAtomic("atomic/link", "new", { sync: true })
      assert.strictEqual((yield* exec("stat", ["-c", "%u:%g %a", "atomic/file"])).stdout, "7:8 640\n")
      assert.strictEqual(yield* fs.readFileString("atomic/file"), "new")
      assert.strictEqual(yield* fs.readLink("atomic/link"), "file")
      const piece = new Uint8Array(1 << 20).fill(7)
      yield* writeAtomic("atomic/made", Stream.make(piece, piece), { mode: 0o600 })
      assert.deepStrictEqual(yield* fs.readFile("atomic/made"), new Uint8Array(2 << 20).fill(7))
      assert.strictEqual((yield* fs.stat("atomic/made")).mode & 0o777, 0o600)
      const started = yield* Deferred.make<void>()
      const endless = Stream.fromEffectRepeat(Effect.as(Deferred.succeed(started, undefined), piece))
      const fiber = yield* Effect.forkChild(writeAtomic("atomic/file", endless))
      yield* Deferred.await(started)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* fs.readFileString("atomic/file"), "new")
      assert.deepStrictEqual((yield* fs.readDirectory("atomic")).sort(), ["file", "link", "made"])
      assert.deepStrictEqual(yield* liveFiles, nothing)
    }))

  it.effect("gives a reader what it asks for and nothing more", () =>
    Effect.gen(function*() {
      const { fs } = yield* Sandbox.Sandbox
      const first = yield* Stream.runCollect(Stream.take(fs.stream("/dev/zero", { chunkSize: 10 }), 3))
      assert.deepStrictEqual(first.map((chunk) => chunk.length), [10, 10, 10])
      assert.deepStrictEqual(yield* liveFiles, nothing)
    }))

  it.effect("is not stopped by what would stop its agent", () =>
    Effect.gen(function*() {
      const { exec, fs } = yield* Sandbox.Sandbox
      yield* exec("mkfifo", ["pipe"])
      for (
        const blocking of [
          fs.readFile("pipe"),
          fs.writeFileString("pipe", ""),
          fs.copyFile("pipe", "copy"),
          fs.copy("pipe", "copy"),
          fs.truncate("pipe"),
          fs.readFile("/dev/console")
        ]
      ) {
        const error = yield* Effect.flip(blocking)
        assert.strictEqual(error.reason._tag, "Unknown")
      }
      assert.strictEqual((yield* fs.stat("pipe")).type, "FIFO")
      assert.strictEqual((yield* exec("true")).exitCode, 0)
    }))

  it.effect("does not take a file that is larger than what may be held", () =>
    Effect.gen(function*() {
      const { exec, fs } = yield* Sandbox.Sandbox
      yield* exec("truncate", ["-s", "8589934592", "/tmp/sparse"])
      const error = yield* Effect.flip(fs.readFile("/tmp/sparse"))
      const { cause } = error
      assert.isTrue(cause instanceof MicrosandboxError.MicrosandboxError)
      const { reason } = cause as MicrosandboxError.MicrosandboxError
      assert.strictEqual(reason._tag === "FileFailed" ? reason.errnoName : reason._tag, "EFBIG")
      assert.strictEqual(BigInt((yield* fs.stat("/tmp/sparse")).size), 1n << 33n)
      yield* fs.remove("/tmp/sparse")
    }))

  it.effect("fails a read that its kernel fails, of which it is not told", () =>
    Effect.gen(function*() {
      const { fs } = yield* Sandbox.Sandbox
      // Nothing is mapped at the start of any process.
      const { cause, reason } = yield* Effect.flip(fs.readFile("/proc/self/mem"))
      assert.strictEqual(reason._tag, "Unknown")
      assert.deepInclude((cause as MicrosandboxError.MicrosandboxError).reason, { _tag: "FileFailed", errno: 5 })
      assert.deepStrictEqual(yield* liveFiles, nothing)
      assert.isFalse(yield* fs.exists("/nothing"))
    }))

  it.effect("says what its user may, and not what its agent may", () =>
    Effect.gen(function*() {
      const { fs } = yield* Sandbox.Sandbox
      yield* fs.writeFileString("mine", "", { mode: 0o400 })
      yield* fs.access("mine", { readable: true, writable: true })
      const error = yield* Effect.flip(fs.access("/proc/self/nothing", { readable: true }))
      assert.strictEqual(error.reason._tag, "NotFound")
    }))

  it.effect("watches one file, and a tree", () =>
    Effect.gen(function*() {
      const { fs } = yield* Sandbox.Sandbox
      yield* fs.makeDirectory("tree/deep", { recursive: true })
      yield* fs.writeFileString("tree/deep/file", "")
      const watched = (at: string, recursive: boolean, change: Effect.Effect<void, PlatformError.PlatformError>) =>
        Effect.gen(function*() {
          const ready = yield* Deferred.make<void>()
          const first = yield* fs.watch(at, {
            recursive,
            onReady: () => Deferred.doneUnsafe(ready, Effect.void)
          })
            .pipe(Stream.take(1), Stream.runCollect, Effect.forkChild)
          yield* Deferred.await(ready)
          yield* change
          return yield* Fiber.join(first)
        })
      assert.deepStrictEqual(
        yield* watched("tree", true, fs.writeFileString("tree/deep/new", "")),
        [{ _tag: "Create", path: "deep/new" }]
      )
      assert.deepStrictEqual(
        yield* watched("tree/deep/file", false, fs.writeFileString("tree/deep/file", "longer")),
        [{ _tag: "Update", path: "file" }]
      )
      assert.deepStrictEqual(yield* liveFiles, nothing)
    }))

  it.effect("can be paused and goes on, with its files and its connection", () =>
    Effect.gen(function*() {
      const { fs, pause, resume } = yield* Sandbox.Sandbox
      yield* fs.writeFileString("before", "kept")
      yield* pause()
      const error = yield* Effect.flip(fs.readFile("before"))
      const { cause } = error
      const { reason } = cause as MicrosandboxError.MicrosandboxError
      yield* resume
      assert.strictEqual(reason._tag, "SandboxPaused")
      assert.strictEqual(yield* fs.readFileString("before"), "kept")
    }))

  it.effect("has its files on a new connection when it was restarted, and none when it is gone", () =>
    Effect.gen(function*() {
      const { fs, kill, restart } = yield* Sandbox.Sandbox
      yield* fs.writeFileString("kept", "over a restart")
      yield* Effect.scoped(Effect.gen(function*() {
        const file = yield* fs.open("kept")
        yield* restart({ grace: "30 seconds" })
        assert.strictEqual(yield* fs.readFileString("kept"), "over a restart")
        // It was open in the VM that has gone.
        assert.strictEqual((yield* Effect.flip(file.readAlloc(1))).reason._tag, "Unknown")
      }))
      yield* kill
      const error = yield* Effect.flip(fs.exists("kept"))
      assert.strictEqual(error.reason._tag, "Unknown")
      assert.isTrue(error.cause instanceof MicrosandboxError.MicrosandboxError)
      assert.deepStrictEqual(yield* liveFiles, nothing)
    }))
})
