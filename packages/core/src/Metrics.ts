/**
 * What sandboxes use of their host: samples, streams of samples, and gauges.
 *
 * A sandbox samples itself once a second, in memory that its host shares; reading a sample does not ask the guest.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type * as ByteSize from "effect/ByteSize"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Pull from "effect/Pull"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Backend, Local } from "./Backend.ts"
import { mapFailure } from "./internal/failure.ts"
import { localBackend } from "./internal/local.ts"
import { fieldsOf } from "./internal/sample.ts"
import { optionalSize } from "./internal/size.ts"
import type { MicrosandboxError } from "./MicrosandboxError.ts"
import type { Sandbox } from "./Sandbox.ts"

/**
 * What a sandbox uses, at one moment. What the guest or the kind of its root disk does not report is absent.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Sample extends Schema.Class<Sample>("@effect-microsandbox/core/Metrics/Sample")({
  /** When the sandbox was sampled. */
  timestamp: Schema.DateTimeUtc,
  /** For how long the VM has run. */
  uptime: Schema.Duration,
  /** Processor time since the sample before; 100 is one virtual processor's whole time. Zero in the first sample. */
  cpuPercent: Schema.Finite,
  /** Processor time of all virtual processors since the start of the VM. */
  vcpuTime: Schema.Duration,
  /** Memory in use. */
  memory: Schema.ByteSize,
  /** Memory that the guest could still use, as it reports it. */
  memoryAvailable: optionalSize,
  /** Memory of the guest that is resident on the host. */
  memoryHostResident: optionalSize,
  /** Memory that the guest was given. */
  memoryLimit: Schema.ByteSize,
  /** Read from disks since the start. */
  diskRead: Schema.ByteSize,
  /** Written to disks since the start. */
  diskWritten: Schema.ByteSize,
  /** Delivered to the guest since the start. */
  networkReceived: Schema.ByteSize,
  /** Sent by the guest since the start. */
  networkSent: Schema.ByteSize,
  /** Used on the writable layer of an image, as the guest sees it. */
  upperUsed: optionalSize,
  /** Free on the writable layer of an image, as the guest sees it. */
  upperFree: optionalSize,
  /** What the writable layer of an image takes on the host. */
  upperHostAllocated: optionalSize
}) {}

/**
 * Options of a sample by name.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface SampleOptions {
  /** How long to wait for the first sample after a boot before `MetricsNotReady` is the reason. Default: 10 seconds. */
  readonly deadline?: Duration.Input | undefined
}

/**
 * The newest samples of all sandboxes of the backend that run, by name.
 *
 * **Details**
 *
 * It does not wait: a sandbox that has not been sampled yet is not in it, nor one whose sampling is disabled.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const all: Effect.Effect<ReadonlyMap<string, Sample>, MicrosandboxError, Backend | Local> = Effect.gen(
  function*() {
    const { handle, native } = yield* localBackend
    const found = yield* native.call((token) => handle.allMetrics(token)).pipe(mapFailure({ operation: "Metrics.all" }))
    return new Map(found.map(({ name, sample }) => [name, new Sample(fieldsOf(sample))]))
  }
).pipe(Effect.withSpan("Metrics.all"))

/**
 * Options of {@link gauges}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface GaugesOptions {
  /** How often the gauges are updated. Default: 1 second, which is how often a sandbox samples itself. */
  readonly interval?: Duration.Input | undefined
}

type Figure = readonly [
  name: string,
  unit: string,
  value: (sample: Sample) => number | undefined,
  attributes?: Readonly<Record<string, string>>
]

const number = (size: ByteSize.ByteSize | undefined): number | undefined =>
  size === undefined ? undefined : Number(size)

const figures: ReadonlyArray<Figure> = [
  ["uptime", "seconds", ({ uptime }) => Duration.toSeconds(uptime)],
  ["cpu.time", "seconds", ({ vcpuTime }) => Duration.toSeconds(vcpuTime)],
  ["cpu.utilization", "1", ({ cpuPercent }) => cpuPercent / 100],
  ["memory.usage", "bytes", ({ memory }) => number(memory)],
  ["memory.available", "bytes", ({ memoryAvailable }) => number(memoryAvailable)],
  ["memory.host_resident", "bytes", ({ memoryHostResident }) => number(memoryHostResident)],
  ["memory.limit", "bytes", ({ memoryLimit }) => number(memoryLimit)],
  ["disk.io", "bytes", ({ diskRead }) => number(diskRead), { "disk.io.direction": "read" }],
  ["disk.io", "bytes", ({ diskWritten }) => number(diskWritten), { "disk.io.direction": "write" }],
  ["network.io", "bytes", ({ networkReceived }) => number(networkReceived), { "network.io.direction": "receive" }],
  ["network.io", "bytes", ({ networkSent }) => number(networkSent), { "network.io.direction": "transmit" }],
  ["filesystem.usage", "bytes", ({ upperUsed }) => number(upperUsed), { "filesystem.state": "used" }],
  ["filesystem.usage", "bytes", ({ upperFree }) => number(upperFree), { "filesystem.state": "free" }],
  ["filesystem.host_allocated", "bytes", ({ upperHostAllocated }) => number(upperHostAllocated)]
]

/**
 * Publishes what a sandbox uses as gauges of Effect's metrics, for as long as the scope is open and the sandbox runs.
 *
 * **When to use**
 *
 * Use it with an exporter, such as `effect/observability`'s `Otlp` or `PrometheusMetrics`.
 *
 * **Details**
 *
 * It answers when the gauges have their first values. They have the attributes `sandbox.name` and `sandbox.id`, and are
 * removed when the scope closes or the sandbox stops:
 *
 * - `microsandbox.uptime`, `microsandbox.cpu.time` (seconds), `microsandbox.cpu.utilization` (1 is one processor)
 * - `microsandbox.memory.usage`, `.available`, `.host_resident`, `.limit` (bytes)
 * - `microsandbox.disk.io` (bytes, with `disk.io.direction`), `microsandbox.network.io` (bytes, with
 *   `network.io.direction`)
 * - `microsandbox.filesystem.usage` (bytes, with `filesystem.state`), `microsandbox.filesystem.host_allocated` (bytes)
 *
 * Fails as `metrics` of a sandbox does, but one that has stopped just has no gauges. Should a later sample fail, that is a warning in the log, and the gauges are
 * removed.
 *
 * @stability unstable
 * @category observability
 * @since 0.1.0
 */
export const gauges = Effect.fn("Metrics.gauges")(function*(
  sandbox: Sandbox,
  options: GaugesOptions = {}
): Effect.fn.Return<void, MicrosandboxError, Scope.Scope> {
  yield* Effect.annotateCurrentSpan({ "sandbox.name": sandbox.name, "sandbox.id": sandbox.id })
  // The registry, and the attributes that make a series, are those of the caller.
  const context = yield* Effect.context<never>()
  const gauges = figures.map(([name, unit, value, attributes]) => ({
    gauge: Metric.gauge(`microsandbox.${name}`, {
      attributes: { "sandbox.name": sandbox.name, "sandbox.id": sandbox.id, unit, ...attributes }
    }),
    value
  }))
  const update = (sample: Sample): void => {
    for (const { gauge, value } of gauges) {
      const current = value(sample)
      if (current !== undefined) gauge.updateUnsafe(current, context)
    }
  }
  const remove = Effect.sync(() => {
    for (const { gauge } of gauges) Metric.removeUnsafe(gauge, context)
  })
  yield* Effect.addFinalizer(() => remove)
  const pull = yield* Stream.toPull(sandbox.metricsStream(options.interval))
  const next = Effect.map(pull, (samples) => samples.forEach(update))
  // The first values are there, or told to be missing, when this answers. A sandbox that has stopped has none.
  const started = yield* next.pipe(Effect.as(true), Pull.catchDone(() => Effect.succeed(false)))
  if (!started) return
  yield* Effect.forever(next).pipe(
    Pull.catchDone(() => Effect.void),
    Effect.catch((error) => Effect.logWarning("a sandbox's gauges have ended", error)),
    Effect.ensuring(remove),
    Effect.forkScoped
  )
})
