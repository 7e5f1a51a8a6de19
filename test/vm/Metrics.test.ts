/** The metrics of real sandboxes. */
import { Backend, Metrics, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { ByteSize, DateTime, Duration, Effect, Fiber, Metric, Schema, Stream } from "effect"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"

const mebibytes = (count: number) => ByteSize.mebibytes(count)

/** The gauges of a sandbox that the registry has, by name. */
const gaugesOf = (sandbox: Sandbox.Sandbox) =>
  Effect.map(
    Metric.snapshot,
    (metrics) =>
      metrics.filter(({ attributes, id }) =>
        id.startsWith("microsandbox.") && attributes?.["sandbox.name"] === sandbox.name &&
        attributes["sandbox.id"] === sandbox.id
      )
  )

const makeSandbox = (name: string) =>
  Effect.flatMap(rootDirectory, (image) => Sandbox.make({ name, image, memory: "300 MiB" }))

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("the metrics of a sandbox", (it) => {
  it.effect("are there right after the boot, of all that run, and of no other", () =>
    Effect.gen(function*() {
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* makeSandbox("measured")
        const sample = yield* sandbox.metrics
        assert.isTrue(Schema.is(Metrics.Sample)(sample))
        assert.strictEqual(sample.memoryLimit, mebibytes(300))
        assert.isTrue(sample.memory > 0n && sample.memory <= mebibytes(600), String(sample.memory))
        assert.isTrue(Duration.isGreaterThan(sample.vcpuTime, Duration.zero))
        const other = yield* makeSandbox("other")
        yield* other.metrics
        const all = yield* Metrics.all
        assert.deepStrictEqual([...all.keys()].sort(), ["measured", "other"])
        assert.strictEqual(all.get("measured")?.memoryLimit, mebibytes(300))
        assert.strictEqual((yield* Sandbox.metrics("measured")).memoryLimit, mebibytes(300))
        yield* other.stop()
        assert.deepStrictEqual([...(yield* Metrics.all).keys()], ["measured"])
        for (const gone of [other.metrics, Sandbox.metrics("other")]) {
          assert.strictEqual((yield* Effect.flip(gone)).reason._tag, "SandboxNotRunning")
        }
        const { reason } = yield* Effect.flip(Stream.runDrain(sandbox.metricsStream(0)))
        assert.strictEqual(reason._tag === "InvalidConfig" ? reason.field : reason, "interval")
      }))
      assert.strictEqual((yield* Metrics.all).size, 0)
      assert.strictEqual((yield* Effect.flip(Sandbox.metrics("measured"))).reason._tag, "SandboxNotFound")
    }))

  it.effect("come at once and then at their interval, without a burst, and end when it stops", () =>
    Effect.gen(function*() {
      const sandbox = yield* makeSandbox("streamed")
      // The first does not wait for an interval.
      const [first] = yield* Stream.runCollect(Stream.take(sandbox.metricsStream("1 hour"), 1))
      assert.strictEqual(first?.memoryLimit, mebibytes(300))
      const times: Array<number> = []
      let resumed = 0
      const stalled = yield* Stream.runCollect(
        Stream.take(sandbox.metricsStream("500 millis"), 5).pipe(
          Stream.tap(() => {
            times.push(Date.now())
            if (times.length > 1) return Effect.void
            return Effect.andThen(
              Effect.sleep("5 seconds"),
              Effect.sync(() => {
                resumed = Date.now()
              })
            )
          })
        )
      )
      // What was missed is not made up for: after the stall one may come at once, and each other an interval later. A timer
      // is late on a slow machine, but never early.
      for (const [index, time] of times.slice(1).entries()) assert.isAtLeast(time - resumed, index * 500 - 20)
      // It is of the time when it was asked for.
      assert.isTrue(DateTime.isGreaterThan(stalled[1]!.timestamp, stalled[0]!.timestamp))
      const { native } = yield* Backend.Backend
      const running = yield* Effect.forkChild(Stream.runCollect(sandbox.metricsStream("100 millis")))
      yield* sandbox.exec("true")
      yield* sandbox.kill
      assert.isNotEmpty(yield* Fiber.join(running))
      assert.deepStrictEqual(yield* Stream.runCollect(sandbox.metricsStream()), [])
      assert.strictEqual((yield* native.live).calls, 0)
    }))

  it.effect("are gauges for as long as a scope is open and the sandbox runs", () =>
    Effect.gen(function*() {
      const sandbox = yield* makeSandbox("gauged")
      assert.lengthOf(yield* gaugesOf(sandbox), 0)
      yield* Effect.scoped(Effect.gen(function*() {
        yield* Metrics.gauges(sandbox, { interval: "100 millis" })
        const gauges = yield* gaugesOf(sandbox)
        const limit = gauges.find(({ id }) => id === "microsandbox.memory.limit")
        assert.deepStrictEqual(limit?.state, { value: Number(mebibytes(300)) })
        assert.include(gauges.map(({ id }) => id), "microsandbox.cpu.utilization")
        assert.lengthOf(gauges.filter(({ id }) => id === "microsandbox.network.io"), 2)
        // They are updated.
        const uptime = Effect.map(
          gaugesOf(sandbox),
          (gauges) => JSON.stringify(gauges.find(({ id }) => id === "microsandbox.uptime")?.state)
        )
        const before = yield* uptime
        assert.isString(before)
        yield* uptime.pipe(Effect.delay(50), Effect.repeat({ until: (after) => after !== before }))
      }))
      assert.lengthOf(yield* gaugesOf(sandbox), 0)
      yield* Metrics.gauges(sandbox, { interval: "100 millis" })
      assert.isNotEmpty(yield* gaugesOf(sandbox))
      yield* sandbox.kill
      yield* gaugesOf(sandbox).pipe(Effect.delay(50), Effect.repeat({ until: (gauges) => gauges.length === 0 }))
      // Of a sandbox that has stopped there are none.
      yield* Metrics.gauges(sandbox)
      assert.lengthOf(yield* gaugesOf(sandbox), 0)
    }))
})
