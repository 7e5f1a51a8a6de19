/** Many ask for one name at once. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Array, Effect } from "effect"
import { isFree, layerBackend, rootDirectory, vmProcesses } from "../support/Sandboxes.ts"

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("a name", (it) => {
  it.effect("that 50 fibers want at once goes to one of them, and the others are told so", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const { native } = yield* Backend.Backend
      yield* Effect.scoped(Effect.gen(function*() {
        const results = yield* Effect.all(
          Array.makeBy(50, () => Effect.result(Sandbox.make({ name: "wanted", image }))),
          { concurrency: "unbounded" }
        )
        const [winners, losers] = Array.partition(results, (result) => result)
        assert.deepStrictEqual(
          losers.map(({ reason }) => reason._tag === "SandboxAlreadyExists" ? reason.sandbox : reason),
          Array.makeBy(49, () => "wanted")
        )
        assert.lengthOf(winners, 1)
        // Nobody's roll-back has touched the winner's.
        assert.strictEqual((yield* winners[0]!.exec("hostname")).stdout, "wanted\n")
        assert.strictEqual((yield* Sandbox.get("wanted")).id, winners[0]?.id)
        assert.lengthOf(yield* vmProcesses("wanted"), 1)
        assert.deepStrictEqual(yield* native.live, { backends: 1, sandboxes: 1, execs: 0, logs: 0, files: 0, calls: 0 })
      }))
      assert.isTrue(yield* isFree("wanted"))
    }))
})
