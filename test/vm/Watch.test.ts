/** Watching the files of a guest that has inotify-tools. One that has not is in conformance/Files. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Deferred, Effect, FileSystem, Layer, Path, Queue, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { idle, layerBackend, rootDirectory } from "../support/Sandboxes.ts"

/** Busybox, and this machine's own `inotifywait` with its libraries. */
const rootWithTools = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const spawner = yield* ChildProcessSpawner
  const root = yield* rootDirectory
  const libraries = yield* spawner.string(ChildProcess.make("ldd", ["/usr/bin/inotifywait"]))
  for (const file of ["/usr/bin/inotifywait", ...libraries.match(/\/\S+(?= \()/g) ?? []]) {
    yield* fs.makeDirectory(path.dirname(path.join(root, file)), { recursive: true })
    yield* fs.copyFile(yield* fs.realPath(file), path.join(root, file))
    yield* fs.chmod(path.join(root, file), 0o755)
  }
  return root
})

const layerSandbox = Layer.unwrap(
  Effect.map(rootWithTools, (image) => Sandbox.layer({ image, workdir: "/root" }))
).pipe(Layer.provideMerge(layerBackend))

layer(layerSandbox, { timeout: "10 minutes", excludeTestServices: true })("a guest whose kernel is asked", (it) => {
  it.effect("tells of what a look cannot see, in what was made meanwhile too, and goes on when nobody tells it", () =>
    Effect.gen(function*() {
      const { fs, name, shell } = yield* Sandbox.Sandbox
      const { native } = yield* Backend.Backend
      const before = yield* native.live
      assert.deepStrictEqual(before, { ...idle, sandboxes: 1 }, name)
      yield* fs.makeDirectory("tree/deep", { recursive: true })
      // Its time lies ahead: writing the same length again and setting the time leaves no trace but the kernel's word.
      yield* fs.writeFileString("tree/deep/same", "abc")
      yield* shell("touch -d '2030-01-01 00:00' tree/deep/same")
      yield* Effect.scoped(Effect.gen(function*() {
        const ready = yield* Deferred.make<void>()
        const events = yield* Queue.unbounded<FileSystem.WatchEvent>()
        yield* fs.watch("tree", { recursive: true, onReady: () => Deferred.doneUnsafe(ready, Effect.void) }).pipe(
          Stream.runForEach((event) => Queue.offer(events, event)),
          Effect.forkScoped
        )
        yield* Deferred.await(ready)
        const running = shell("ps -o args | grep -v grep | grep -c inotifywait")
        assert.strictEqual((yield* running).stdout, "1\n")
        yield* shell("printf xyz > tree/deep/same; touch -d '2030-01-01 00:00' tree/deep/same")
        assert.deepStrictEqual(yield* Queue.take(events), { _tag: "Update", path: "deep/same" })
        yield* Queue.takeAll(events).pipe(Effect.delay("1 second"), Effect.timeoutOption("2 seconds"))
        yield* fs.makeDirectory("tree/new")
        assert.deepStrictEqual(yield* Queue.take(events), { _tag: "Create", path: "new" })
        yield* fs.writeFileString("tree/new/file", "")
        assert.deepStrictEqual(yield* Queue.take(events), { _tag: "Create", path: "new/file" })
        yield* shell("killall inotifywait")
        yield* fs.remove("tree/new/file")
        const after = yield* Stream.fromQueue(events).pipe(
          Stream.filter(({ _tag }) => _tag === "Remove"),
          Stream.runHead
        )
        assert.deepInclude(after, { value: { _tag: "Remove", path: "new/file" } })
      }))
      assert.deepStrictEqual(yield* native.live, before)
    }))

  it.effect("is asked no more by a watch that ends", () =>
    Effect.gen(function*() {
      const { fs, shell } = yield* Sandbox.Sandbox
      const { native } = yield* Backend.Backend
      const before = yield* native.live
      yield* fs.writeFileString("file", "")
      const ready = yield* Deferred.make<void>()
      const watching = fs.watch("file", { onReady: () => Deferred.doneUnsafe(ready, Effect.void) })
      const first = yield* Effect.raceFirst(
        Stream.runHead(watching),
        Effect.andThen(Effect.andThen(Deferred.await(ready), shell("printf abc > file")), Effect.never)
      )
      assert.deepInclude(first, { value: { _tag: "Update", path: "file" } })
      assert.strictEqual((yield* shell("ps -o args | grep -v grep | grep inotifywait")).stdout, "")
      assert.deepStrictEqual(yield* native.live, before)
    }))
})
