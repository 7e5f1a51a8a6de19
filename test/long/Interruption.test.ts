/** What test/vm shows for a few moments, for many. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, Layer, Random } from "effect"
import { interruptions } from "../support/Interruptions.ts"
import * as Registry from "../support/Registry.ts"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"
import { seeded } from "../support/Seeded.ts"

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { timeout: "1 hour", excludeTestServices: true })(
  "an interruption",
  (it) => {
    it.effect("of a make, a program, a branch or a close leaves nothing, at 200 moments", () =>
      seeded(interruptions(200, 20)))
  }
)

const layerSandbox = Layer.unwrap(Effect.map(rootDirectory, (image) => Sandbox.layer({ image }))).pipe(
  Layer.provideMerge(layerBackend)
)

layer(layerSandbox, { timeout: "1 hour", excludeTestServices: true })("interruption", (it) => {
  it.effect("of a program leaves no process and no handle, at 300 moments", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const { native } = yield* Backend.Backend
      const before = yield* native.live
      const programs = [
        sandbox.shell("sleep 9876 & sleep 9876"),
        Effect.scoped(Effect.andThen(sandbox.spawn("sleep", ["9876"]), Effect.never))
      ] as const
      for (let round = 0; round < 300; round++) {
        const fiber = yield* Effect.forkChild(programs[round % 2] as (typeof programs)[number])
        yield* Effect.sleep(yield* Random.nextIntBetween(0, 300))
        yield* Fiber.interrupt(fiber)
        if (round % 25 === 24) {
          const { stdout } = yield* sandbox.exec("ps", ["-o", "args"])
          assert.notInclude(stdout, "9876", `round ${round}`)
        }
      }
      assert.deepStrictEqual(yield* native.live, before)
    }).pipe(seeded))

  it.effect("or the end of many programs in one scope leaves no connection: a sandbox has 128", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const { native } = yield* Backend.Backend
      for (let round = 0; round < 140; round++) {
        const program = yield* sandbox.spawn("true")
        assert.strictEqual((yield* program.exitStatus).exitCode, 0, `round ${round}`)
        yield* Effect.flip(sandbox.spawn("no-such-program"))
      }
      assert.strictEqual((yield* native.live).execs, 140)
    }))
})
