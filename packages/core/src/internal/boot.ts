/** What is told of a call of the addon that boots a sandbox: events for who reads them, spans for the stages. */
import type { Native } from "@effect-microsandbox/native"
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as References from "effect/References"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import type { Event } from "../Progress.ts"
import { mapFailure, type Subject } from "./failure.ts"

/** The addon's account of one boot, and the time from which it counts. */
export interface Boot {
  readonly progress: Native.Progress
  readonly began: bigint
}

/** `listens`: the events will be read. */
export const makeBoot = (native: Native.Native["Service"], listens = false): Effect.Effect<Boot> =>
  Effect.clockWith((clock) =>
    Effect.sync(() => {
      // The clock first: no stage ends after its parent does.
      const began = clock.currentTimeNanosUnsafe()
      return { began, progress: native.makeProgress(listens) }
    })
  )

/** Ends the events with the call, and gives the current span a child for each stage, at its own time. */
export const withStages =
  ({ began, progress }: Boot, { sandbox }: Subject) =>
  <A, E, R>(call: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.onExit(call, (exit) =>
      Effect.gen(function*() {
        progress.end()
        const clock = yield* Clock.Clock
        const now = clock.currentTimeNanosUnsafe()
        const isTimed = yield* References.TracerTimingEnabled
        // A test's clock may stand still.
        const time = (milliseconds: number) => min(began + BigInt(Math.floor(milliseconds * 1e6)), now)
        for (const { durationMs, outcome, stage, startedMs } of progress.stages()) {
          const span = yield* Effect.makeSpan(`Sandbox.boot.${stage}`, {
            attributes: { ...(sandbox === undefined ? {} : { "sandbox.name": sandbox }), "sandbox.stage": stage }
          }).pipe(Effect.provideService(Clock.Clock, at(clock, time(startedMs))))
          span.end(isTimed ? time(startedMs + durationMs) : 0n, stageExit(outcome, exit))
        }
      }))

const min = (one: bigint, other: bigint): bigint => one < other ? one : other

/** A clock that shows the time of something that has been. */
const at = (clock: Clock.Clock, time: bigint): Clock.Clock => ({
  ...clock,
  currentTimeNanosUnsafe: () => time,
  currentTimeNanos: Effect.succeed(time)
})

/** A stage fails with what the whole fails with. */
const stageExit = <A, E>(outcome: Native.BootStage["outcome"], exit: Exit.Exit<A, E>): Exit.Exit<void, E> => {
  if (outcome === "success" || Exit.isSuccess(exit)) return Exit.void
  return outcome === "cancelled" ? Exit.failCause(Cause.interrupt()) : Exit.failCause(exit.cause)
}

/**
 * The events of a boot, then what came of it. The boot runs beside the reader, who may be slow; a reader that leaves before
 * the end undoes it. What it made is in the scope of the stream's user from the last element on.
 */
export const streamBoot = <A, B, R>(
  native: Native.Native["Service"],
  subject: Subject,
  run: (boot: Boot) => Effect.Effect<A, MicrosandboxError, R>,
  last: (value: A) => B
): Stream.Stream<Event | B, MicrosandboxError, R | Scope.Scope> =>
  Stream.flatMap(Stream.fromEffect(Effect.scope), (user) =>
    Stream.unwrap(Effect.gen(function*() {
      const boot = yield* makeBoot(native, true)
      const scope = yield* Scope.fork(user)
      let isTaken = false
      yield* Effect.addFinalizer((exit) => isTaken ? Effect.void : Scope.close(scope, exit))
      const fiber = yield* run(boot).pipe(
        Scope.provide(scope),
        Effect.ensuring(Effect.sync(() => boot.progress.end())),
        Effect.forkScoped
      )
      const read = native.call((token) => boot.progress.read(token)).pipe(
        mapFailure(subject),
        Effect.filterOrElse(
          (events): events is Arr.NonEmptyArray<Native.ProgressEvent> => events.length > 0,
          () => Cause.done()
        )
      )
      const ready = Effect.map(Fiber.join(fiber), (value) => {
        isTaken = true
        return last(value)
      })
      return Stream.concat(Stream.fromPull(Effect.succeed(read)), Stream.fromEffect(ready))
    })))
