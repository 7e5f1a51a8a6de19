/** Samples of a sandbox through the addon: one, or a stream of them. */
import type { Native } from "@effect-microsandbox/native"
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { Sample } from "../Metrics.ts"
import { MicrosandboxError, SandboxNotRunning } from "../MicrosandboxError.ts"
import type { Sandbox } from "../Sandbox.ts"
import { decodeOptions, type Subject } from "./failure.ts"
import { attributesOf, call, subjectOf, type Target } from "./operation.ts"
import { fieldsOf } from "./sample.ts"

/** How long a sample is waited for, when nothing else was said. */
export const defaultDeadline = "10 seconds"

const Interval = Schema.Struct({
  interval: Schema.declare((input: unknown): input is Duration.Input => {
    // `Duration` reads NaN as zero.
    if (Number.isNaN(input)) return false
    const duration = Duration.fromInput(input as Duration.Input)
    return duration._tag === "Some" && Duration.toMillis(duration.value) >= 1
  }, { expected: "a duration of at least 1 millisecond, such as \"1 second\"" })
})

/** A sandbox that has ended has no sample. */
export const sampleOf = (
  subject: Subject,
  reading: Native.MetricsReading
): Effect.Effect<Sample, MicrosandboxError> =>
  reading._tag === "Running"
    ? Effect.succeed(new Sample(fieldsOf(reading.sample)))
    : Effect.fail(
      new MicrosandboxError({
        ...subject,
        reason: new SandboxNotRunning({ message: "a sandbox that has stopped has no metrics" })
      })
    )

const read = (target: Target, name: string): Effect.Effect<Native.MetricsReading, MicrosandboxError> =>
  call(target, name, (handle, token) => handle.metrics(Duration.toMillis(defaultDeadline), token))

export const metrics = (target: Target): Pick<Sandbox, "metrics" | "metricsStream"> => {
  const decode = decodeOptions(Interval, subjectOf("Sandbox.metricsStream", target))
  return {
    metrics: Effect.flatMap(
      read(target, "Sandbox.metrics"),
      (reading) => sampleOf(subjectOf("Sandbox.metrics", target), reading)
    ).pipe(Effect.withSpan("Sandbox.metrics", { attributes: attributesOf(target) })),
    metricsStream: (interval = "1 second") =>
      Stream.unwrap(
        Effect.map(decode({ interval }), ({ interval }) =>
          samples(read(target, "Sandbox.metricsStream"), Duration.toNanosUnsafe(interval)))
      ).pipe(
        Stream.withSpan("Sandbox.metricsStream", { attributes: attributesOf(target) })
      )
  }
}

/**
 * A sample at once, and then one for each interval; ends when the sandbox has. A sample is taken when it is asked for:
 * what a slow reader misses is never made up for.
 */
const samples = (
  read: Effect.Effect<Native.MetricsReading, MicrosandboxError>,
  interval: bigint
): Stream.Stream<Sample, MicrosandboxError> =>
  Stream.fromPull(Effect.sync(() => {
    let due: bigint | undefined
    return Effect.gen(function*() {
      const now = yield* Clock.monotonicTimeNanos
      if (due !== undefined && due > now) yield* Effect.sleep(Duration.nanos(due - now))
      const reading = yield* read
      if (reading._tag === "Ended") return yield* Cause.done()
      const next = due === undefined ? now + interval : due + interval
      due = next > now ? next : now + interval
      const chunk: Arr.NonEmptyReadonlyArray<Sample> = [new Sample(fieldsOf(reading.sample))]
      return chunk
    })
  }))
