/** Many whole lives, one after the other: nothing piles up, in the engine, in the home or on the machine. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { isFree, layerBackend, rootDirectory } from "../support/Sandboxes.ts"

layer(layerBackend, { timeout: "1 hour", excludeTestServices: true })("a life", (it) => {
  it.effect("leaves what it found, 40 times", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const image = yield* rootDirectory
      const { native } = yield* Backend.Backend
      const descriptors = Effect.map(fs.readDirectory("/proc/self/fd"), (files) => files.length)
      const live = Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({ name: "mayfly", image })
        assert.strictEqual((yield* sandbox.shell("echo alive")).stdout, "alive\n")
      }))
      // The first opens what stays open: the catalogue's connections, the reader of child processes.
      yield* live
      const before = yield* descriptors
      for (let round = 0; round < 40; round++) {
        yield* live
        assert.isTrue(yield* isFree("mayfly"), `round ${round}`)
      }
      assert.deepStrictEqual(yield* native.live, { backends: 1, sandboxes: 0, execs: 0, logs: 0, files: 0, calls: 0 })
      assert.isAtMost(yield* descriptors, before + 5)
    }))
})
