/** Metrics without a VM: what is said of sandboxes that have none. */
import { Backend, Metrics, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Duration, Effect, Fiber } from "effect"
import { layerBackend } from "../support/Sandboxes.ts"
import { makeRow } from "../support/Store.ts"

const whyNot = (name: string, options?: Metrics.SampleOptions) =>
  Effect.map(Effect.flip(Sandbox.metrics(name, options)), ({ reason }) => reason)

layer(layerBackend, { excludeTestServices: true, timeout: "1 minute" })("the metrics of a sandbox", (it) => {
  it.effect("are refused with the reason why there are none", () =>
    Effect.gen(function*() {
      yield* makeRow("stopped", "Stopped")
      yield* makeRow("silent", "Running")
      yield* makeRow("disabled", "Running", { runtime: { disable_metrics_sample: true } })
      assert.strictEqual((yield* whyNot("nobody"))._tag, "SandboxNotFound")
      assert.strictEqual((yield* whyNot("stopped"))._tag, "SandboxNotRunning")
      assert.strictEqual((yield* whyNot("disabled"))._tag, "MetricsDisabled")
      for (const deadline of [0, "200 millis"] as const) {
        const reason = yield* whyNot("silent", { deadline })
        assert.strictEqual(reason._tag, "MetricsNotReady")
        assert.include(reason.message, deadline === 0 ? "0ns" : "200ms")
      }
      const reason = yield* whyNot("silent", { deadline: "-1 seconds" })
      assert.strictEqual(reason._tag === "InvalidConfig" ? reason.field : reason, "deadline")
    }))

  it.effect("are waited for until the fiber is interrupted", () =>
    Effect.gen(function*() {
      yield* makeRow("late", "Running")
      const { native } = yield* Backend.Backend
      const fiber = yield* Effect.forkChild(Sandbox.metrics("late", { deadline: Duration.infinity }))
      yield* Effect.sync(() => native.engine.live().calls).pipe(
        Effect.delay(10),
        Effect.repeat({ until: (calls) => calls === 1 })
      )
      yield* Fiber.interrupt(fiber)
      assert.strictEqual((yield* native.live).calls, 0)
    }))

  it.effect("are those of no sandbox where none runs", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* Metrics.all, new Map())
    }))
})
