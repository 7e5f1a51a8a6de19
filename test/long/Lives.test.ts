/** Many whole lives, one after the other: nothing piles up, in the engine, in the home or on the machine. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Option } from "effect"
import { idle, isFree, layerBackend, rootDirectory } from "../support/Sandboxes.ts"

layer(layerBackend, { timeout: "1 hour", excludeTestServices: true })("a life", (it) => {
  it.effect("leaves what it found, 40 times", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const image = yield* rootDirectory
      const { native } = yield* Backend.Backend
      // The engine's pool opens another connection to its catalogue when it happens to want one, up to its limit.
      const descriptors = fs.readDirectory("/proc/self/fd").pipe(
        Effect.flatMap(Effect.forEach((fd) => Effect.option(fs.readLink(`/proc/self/fd/${fd}`)))),
        Effect.map((links) => links.flatMap(Option.toArray).filter((link) => !link.includes("/db/msb.db")).length)
      )
      const live = Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({ name: "mayfly", image })
        assert.strictEqual((yield* sandbox.shell("echo alive")).stdout, "alive\n")
      }))
      // The first opens what stays open, such as the reader of child processes.
      yield* live
      const before = yield* descriptors
      for (let round = 0; round < 40; round++) {
        yield* live
        assert.isTrue(yield* isFree("mayfly"), `round ${round}`)
      }
      assert.deepStrictEqual(yield* native.live, idle)
      assert.isAtMost(yield* descriptors, before + 2)
    }))
})
