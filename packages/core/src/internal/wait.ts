/** Waiting for a port, a line or a file of a guest: looks that are repeated, or a stream that is read, with a deadline. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { Path } from "effect/Path"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { type Entry, Source } from "../Logs.ts"
import { MicrosandboxError, SandboxNotRunning, WaitTimeout } from "../MicrosandboxError.ts"
import type { Sandbox } from "../Sandbox.ts"
import type { LogOptions, PollOptions, PortOptions } from "../Wait.ts"
import { decodeOptions, mapFailure, type Subject } from "./failure.ts"
import { Lifetime, Span, Text, toMillis } from "./inputs.ts"
import { logs } from "./logs.ts"
import { attributesOf, subjectOf, type Target } from "./operation.ts"
import { loopback, Place } from "./tunnel.ts"

const defaultTimeout = "60 seconds"

const defaultInterval = "100 millis"

const Timeout = { timeout: Schema.optional(Span) }

const Poll = { ...Timeout, interval: Schema.optional(Lifetime) }

const PortOptions = Schema.Struct({ ...Place, ...Poll })

const FileOptions = Schema.Struct({ path: Text.check(Schema.isMinLength(1)), ...Poll })

const LogOptions = Schema.Struct({
  pattern: Schema.Union([
    Schema.String.check(
      Schema.isMinLength(1),
      Schema.isPattern(/^[^\n]*$/, { expected: "text without a line's end: lines are looked at one by one" })
    ),
    Schema.instanceOf(RegExp)
  ]),
  sources: Schema.optional(Schema.Array(Source).check(Schema.isMinLength(1))),
  ...Timeout
})

const within =
  (subject: Subject, what: string, timeout: Duration.Input = defaultTimeout) =>
  <A, R>(wait: Effect.Effect<A, MicrosandboxError, R>): Effect.Effect<A, MicrosandboxError, R> =>
    Effect.timeoutOrElse(wait, {
      duration: timeout,
      orElse: () =>
        Effect.fail(
          new MicrosandboxError({
            ...subject,
            reason: new WaitTimeout({
              message: `${what} was not there within ${Duration.format(Duration.fromInputUnsafe(timeout))}`,
              what,
              timeoutMs: toMillis(timeout)
            })
          })
        )
    })

/** Looks until it is there. */
const until = (
  look: Effect.Effect<boolean, MicrosandboxError>,
  interval: Duration.Input = defaultInterval
): Effect.Effect<void, MicrosandboxError> =>
  Effect.flatMap(
    look,
    (isThere) => isThere ? Effect.void : Effect.andThen(Effect.sleep(interval), until(look, interval))
  )

/**
 * The first line that matches, also one that has no end yet. Each program's output has lines of its own, which the pieces of
 * the log cut anywhere.
 */
export const matcher = (
  pattern: string | RegExp
): (entry: Pick<Entry, "source" | "sessionId" | "text">) => string | undefined => {
  const open = new Map<string, string>()
  // A pattern that is global or sticky goes on where it has stopped.
  const isMatch = typeof pattern === "string"
    ? (line: string) => line.includes(pattern)
    : (line: string) => new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, "")).test(line)
  return ({ sessionId, source, text }) => {
    const key = `${source} ${sessionId ?? ""}`
    const lines = `${open.get(key) ?? ""}${text}`.split(/\r?\n/)
    // A line of the system's has no end in its text.
    open.set(key, source === "system" ? "" : (lines.at(-1) ?? "").slice(-maxLine))
    return lines.find(isMatch)
  }
}

/** How much of a line that does not end is kept: a program that never ends its line must not fill the host's memory. */
const maxLine = 64 * 1024

export const wait = (
  target: Target,
  { resolve }: Path
): Pick<Sandbox, "waitForPort" | "waitForLog" | "waitForFile"> => {
  const { handle, native } = target
  const attributes = attributesOf(target)
  const { logStream } = logs(target)
  const portSubject = subjectOf("Sandbox.waitForPort", target)
  const logSubject = subjectOf("Sandbox.waitForLog", target)
  const fileSubject = subjectOf("Sandbox.waitForFile", target)
  const decodePort = decodeOptions(PortOptions, portSubject)
  const decodeLog = decodeOptions(LogOptions, logSubject)
  const decodeFile = decodeOptions(FileOptions, fileSubject)
  return {
    waitForPort: Effect.fn("Sandbox.waitForPort", { attributes })(function*(port: number, options: PortOptions = {}) {
      const { host = loopback, interval, timeout } = yield* decodePort({ ...options, port })
      const connect = native.acquire(
        (token) => handle.tunnel(host, port, token),
        (tunnel) => Effect.promise(() => tunnel.close(false))
      ).pipe(
        Effect.scoped,
        mapFailure(portSubject),
        Effect.as(true),
        Effect.catchReason("MicrosandboxError", "TunnelRefused", () => Effect.succeed(false))
      )
      yield* until(connect, interval).pipe(within(portSubject, `port ${port}`, timeout))
    }),
    waitForLog: Effect.fn("Sandbox.waitForLog", { attributes })(
      function*(pattern: string | RegExp, options: LogOptions = {}) {
        const { sources, timeout } = yield* decodeLog({ ...options, pattern })
        const match = matcher(pattern)
        const found = yield* logStream({ sources, follow: true }).pipe(
          Stream.mapError(({ reason }) => new MicrosandboxError({ ...logSubject, reason })),
          Stream.map(match),
          Stream.filter((line) => line !== undefined),
          Stream.runHead,
          within(logSubject, `log ${pattern}`, timeout)
        )
        if (Option.isSome(found)) return found.value
        return yield* new MicrosandboxError({
          ...logSubject,
          reason: new SandboxNotRunning({ message: `the sandbox stopped before it wrote ${pattern}` })
        })
      }
    ),
    waitForFile: Effect.fn("Sandbox.waitForFile", { attributes })(function*(path: string, options: PollOptions = {}) {
      const { interval, timeout } = yield* decodeFile({ ...options, path })
      const absolute = resolve(path)
      const look = native.call((token) => handle.fileStat(absolute, true, token)).pipe(
        mapFailure(fileSubject),
        Effect.as(true),
        // What leads there may not be there yet either, or not be a directory yet.
        Effect.catchIf(
          ({ reason }) => reason._tag === "FileFailed" && ["ENOENT", "ENOTDIR"].includes(reason.errnoName ?? ""),
          () => Effect.succeed(false)
        )
      )
      yield* until(look, interval).pipe(within(fileSubject, `file ${path}`, timeout))
    })
  }
}
