/** The logs of a sandbox through the addon: collected in one call, or pulled from a handle. */
import type { Native } from "@effect-microsandbox/native"
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Pull from "effect/Pull"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { Entry, type Options, Source, type StreamOptions } from "../Logs.ts"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import type { Sandbox } from "../Sandbox.ts"
import { decodeOptions, mapFailure, type Subject } from "./failure.ts"
import { defined } from "./inputs.ts"
import { attributesOf, call, subjectOf, type Target } from "./operation.ts"

/** Enough to amortize a crossing of the border, little enough to start work on soon. */
const batchBytes = 256 * 1024

const Time = Schema.declare(
  (input: unknown): input is DateTime.DateTime.Input => Option.isSome(DateTime.make(input as DateTime.DateTime.Input)),
  { expected: "a time, such as a Date, milliseconds since 1970, or \"2026-01-01T00:00:00Z\"" }
)

const Sources = Schema.Array(Source).check(Schema.isMinLength(1))

export const LogOptions = Schema.Struct({
  sources: Schema.optional(Sources),
  since: Schema.optional(Time),
  until: Schema.optional(Time),
  tail: Schema.optional(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 32 - 1 })))
})

export const LogStreamOptions = Schema.Struct({
  sources: Schema.optional(Sources),
  since: Schema.optional(Time),
  cursor: Schema.optional(Schema.String),
  until: Schema.optional(Time),
  follow: Schema.optional(Schema.Boolean)
}).check(
  Schema.makeFilter(({ cursor, since }) =>
    cursor === undefined || since === undefined
      ? undefined
      : { path: ["cursor"], issue: "a stream starts at a cursor or at a time, not at both" }
  )
)

const toMillis = (time: DateTime.DateTime.Input | undefined): number | undefined =>
  time === undefined ? undefined : DateTime.toEpochMillis(DateTime.makeUnsafe(time))

export const toNativeOptions = ({ since, sources, tail, until }: Options): Native.LogOptions =>
  defined({
    sources: sources === undefined ? undefined : [...sources],
    sinceMs: toMillis(since),
    untilMs: toMillis(until),
    tail
  })

const toNativeStreamOptions = (
  { cursor, follow, since, sources, until }: StreamOptions
): Native.LogStreamOptions =>
  defined({
    sources: sources === undefined ? undefined : [...sources],
    sinceMs: toMillis(since),
    cursor,
    untilMs: toMillis(until),
    follow
  })

export const toEntries = (entries: ReadonlyArray<Native.LogEntry>): ReadonlyArray<Entry> => entries.map(toEntry)

const toEntry = ({ timestamp, ...rest }: Native.LogEntry): Entry =>
  new Entry({ ...rest, timestamp: DateTime.makeUnsafe(timestamp) })

export const logs = (target: Target): Pick<Sandbox, "logs" | "logStream"> => {
  const subject = subjectOf("Sandbox.logStream", target)
  const attributes = attributesOf(target)
  const decode = decodeOptions(LogOptions, subjectOf("Sandbox.logs", target))
  const decodeStream = decodeOptions(LogStreamOptions, subject)
  return {
    logs: Effect.fn("Sandbox.logs", { attributes })(function*(options: Options = {}) {
      const which = toNativeOptions(yield* decode(options))
      return toEntries(yield* call(target, "Sandbox.logs", (handle, token) => handle.logs(which, token)))
    }),
    logStream: (options = {}) =>
      Stream.unwrap(
        Effect.map(decodeStream(options), (which) =>
          entries(target.native, subject, which, (options, token) => target.handle.logStream(options, token)))
      ).pipe(
        Stream.withSpan("Sandbox.logStream", { attributes })
      )
  }
}

/** The entries of a handle, which lives for as long as the stream does. */
export const entries = (
  native: Native.Native["Service"],
  subject: Subject,
  options: StreamOptions,
  open: (options: Native.LogStreamOptions, token: Native.CancelToken) => Promise<Native.Outcome<Native.LogStream>>
): Stream.Stream<Entry, MicrosandboxError> =>
  Stream.unwrap(Effect.gen(function*() {
    const which = toNativeStreamOptions(options)
    const handle = yield* native.acquire(
      (token) => open(which, token),
      (handle) => Effect.promise(() => handle.close())
    ).pipe(mapFailure(subject))
    // A batch is kept as it arrives, before any fiber sees it, so that an interrupted pull loses nothing.
    let kept: ReadonlyArray<Native.LogEntry> = []
    let ended = false
    const read = native.call((token) => handle.read(batchBytes, token), (batch) => {
      kept = batch
      ended = batch.length === 0
    }).pipe(mapFailure(subject))
    const pull: Pull.Pull<Arr.NonEmptyReadonlyArray<Entry>, MicrosandboxError> = Effect.suspend(() => {
      if (ended) return Cause.done()
      const chunk = toEntries(kept)
      kept = []
      return Arr.isReadonlyArrayNonEmpty(chunk) ? Effect.succeed(chunk) : Effect.andThen(read, pull)
    })
    return Stream.fromPull(Effect.succeed(pull))
  }))
