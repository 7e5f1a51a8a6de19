/** Interruption of branches, at many moments: chosen by a generator with a fixed seed, so that a run can be repeated. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, Layer, Random } from "effect"
import * as Registry from "../support/Registry.ts"
import { isFree, layerBackend, rootDirectory, sandboxDirectories } from "../support/Sandboxes.ts"
import * as Teller from "../support/Teller.ts"

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { timeout: "1 hour", excludeTestServices: true })(
  "interruption",
  (it) => {
    it.effect("of a branch, or of several, leaves no child and the source as it was, at 60 moments", () =>
      Effect.gen(function*() {
        const registry = yield* Registry.Registry
        const image = yield* registry.push("branches", yield* rootDirectory)
        const parent = yield* Sandbox.make({ name: "source", image, memory: "192 MiB" })
        yield* Teller.start(parent, "sesame")
        const { native } = yield* Backend.Backend
        const before = yield* native.live
        const one = Effect.scoped(Effect.andThen(parent.branch("early"), Effect.never))
        const several = Effect.scoped(Effect.andThen(parent.branchMany(["early", "late"]), Effect.never))
        for (let round = 0; round < 60; round++) {
          const paused = round % 5 === 4
          if (paused) yield* parent.pause()
          const delay = yield* Random.nextIntBetween(0, 5000)
          const fiber = yield* Effect.forkChild(round % 3 === 2 ? several : one)
          yield* Effect.sleep(delay)
          yield* Fiber.interrupt(fiber)
          const moment = `round ${round}, after ${delay} ms`
          assert.deepStrictEqual(yield* sandboxDirectories, ["source"], moment)
          assert.isTrue((yield* isFree("early")) && (yield* isFree("late")), moment)
          assert.strictEqual(yield* parent.status, paused ? "Paused" : "Running", moment)
          if (paused) yield* parent.resume
          assert.strictEqual((yield* Teller.ask(parent)).secret, "sesame", moment)
          assert.deepStrictEqual(yield* native.live, before, moment)
        }
      }).pipe(Random.withSeed("effect-microsandbox")))
  }
)
