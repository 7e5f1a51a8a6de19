/** A sandbox from the moment that the addon hands it over to the end of its scope. */
import type { Native } from "@effect-microsandbox/native"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Tracer from "effect/Tracer"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import type { OnClose, Sandbox, Status, StopOptions } from "../Sandbox.ts"
import { attach } from "./attach.ts"
import { type Boot, makeBoot, withStages } from "./boot.ts"
import { branch } from "./branch.ts"
import { toInfo, toStopResult } from "./catalogue.ts"
import * as exec from "./exec.ts"
import { decodeOptions, mapFailure, type Subject, toError } from "./failure.ts"
import { makeFileSystem } from "./fileSystem.ts"
import { explained } from "./host.ts"
import { Span, toMillis } from "./inputs.ts"
import { logs } from "./logs.ts"
import { metrics } from "./metrics.ts"
import { modify } from "./modify.ts"
import { attributesOf, call, type Engine, operation, subjectOf, type Target } from "./operation.ts"
import { makePath } from "./path.ts"
import { makeSpawner } from "./spawner.ts"
import { transfer } from "./transfer.ts"
import { tunnel } from "./tunnel.ts"
import { wait } from "./wait.ts"
import { makeWriteAtomic } from "./writeAtomic.ts"

export const TypeId = "~@effect-microsandbox/core/Sandbox"
export type TypeId = typeof TypeId

export const StopSchema = Schema.Struct({ grace: Schema.optional(Span), thenKill: Schema.optional(Schema.Boolean) })

/** The default grace is that of the official SDKs' `stop`. */
export const toNativeStop = ({ grace = "10 seconds", thenKill = true }: StopOptions): Native.StopOptions => ({
  graceMs: toMillis(grace),
  thenKill
})

interface Ending {
  onClose: OnClose
}

/** The addon's side of each sandbox, for the packages that build on it. */
const targets = new WeakMap<Sandbox, Target>()

export const targetOf = (sandbox: Sandbox): Effect.Effect<Target> => {
  const target = targets.get(sandbox)
  return target === undefined
    ? Effect.die(new TypeError("this is no sandbox that this SDK has made, but perhaps a copy of one"))
    : Effect.succeed(target)
}

const makeSandbox = (
  { home, native, watch }: Engine,
  handle: Native.Sandbox,
  ending: Ending,
  scope: Scope.Scope
): Sandbox => {
  const target: Target = { home, native, watch, handle, name: handle.name }
  const attributes = attributesOf(target)
  const path = makePath(handle.workdir ?? "/")
  const fs = makeFileSystem(target, path)
  const run = exec.exec("Sandbox.exec", target)
  const spawn = exec.spawn("Sandbox.spawn", target)
  const runShell = exec.exec("Sandbox.shell", target)
  const runDefault = exec.exec("Sandbox.execDefault", target)
  const startDefault = exec.spawn("Sandbox.spawnDefault", target)
  const decodeStop = decodeOptions(StopSchema, subjectOf("Sandbox.stop", target))
  const decodeRestart = decodeOptions(StopSchema, subjectOf("Sandbox.restart", target))
  const sandbox: Sandbox = {
    [TypeId]: TypeId,
    name: handle.name,
    id: handle.id,
    exec: run,
    shell: (script, options) => runShell(handle.shell, ["-c", script], options),
    spawn,
    spawner: makeSpawner({ exec: run, spawn, fs, path, scope }),
    fs,
    writeAtomic: makeWriteAtomic(fs, path, attributes),
    path,
    ...attach(target),
    ...tunnel(target),
    ...wait(target, path),
    execDefault: (options) => runDefault(undefined, [], options),
    spawnDefault: (options) => startDefault(undefined, [], options),
    ...logs(target),
    ...metrics(target),
    ...branch(target, { one: acquireSandbox, each: acquireBranches }),
    ...modify(target),
    ...transfer(target),
    status: Effect.map(
      operation(target, "Sandbox.status", (handle, token) => handle.status(token)),
      (status) => status as Status
    ),
    stop: Effect.fn("Sandbox.stop", { attributes })(function*(options = {}) {
      const how = toNativeStop(yield* decodeStop(options))
      yield* call(target, "Sandbox.stop", (handle, token) => handle.stop(how, token))
    }),
    kill: operation(target, "Sandbox.kill", (handle, token) => handle.kill(token)),
    drain: operation(target, "Sandbox.drain", (handle, token) => handle.drain(token)),
    wait: Effect.map(operation(target, "Sandbox.wait", (handle, token) => handle.wait(token)), toStopResult),
    restart: Effect.fn("Sandbox.restart", { attributes })(function*(options = {}) {
      const how = toNativeStop(yield* decodeRestart(options))
      const boot = yield* makeBoot(native)
      yield* call(target, "Sandbox.restart", (handle, token) => handle.restart(how, boot.progress, token)).pipe(
        explained(target),
        withStages(boot, subjectOf("Sandbox.restart", target))
      )
    }),
    ping: Effect.map(operation(target, "Sandbox.ping", (handle, token) => handle.ping(token)), Duration.millis),
    touch: operation(target, "Sandbox.touch", (handle, token) => handle.touch(token)),
    info: Effect.map(operation(target, "Sandbox.info", (handle, token) => handle.info(token)), toInfo),
    detach: Effect.tap(
      operation(target, "Sandbox.detach", (handle, token) => handle.detach(token)),
      () =>
        Effect.sync(() => {
          ending.onClose = "detach"
        })
    )
  }
  targets.set(sandbox, target)
  return sandbox
}

/**
 * Ends a sandbox as `onClose` says and gives its handle back, to the addon's own deadlines. What cannot be ended is a
 * leak, and a leak is a defect; a sandbox that somebody else has ended is not.
 */
const close = (handle: Native.Sandbox, { onClose }: Ending, span: Tracer.SpanOptions): Effect.Effect<void> =>
  Effect.promise(() => handle.end(onClose, toNativeStop({}))).pipe(
    Effect.flatMap((outcome) =>
      outcome._tag === "Failed"
        ? Effect.die(toError({ operation: "Sandbox.close", sandbox: handle.name }, outcome.failure))
        : Effect.void
    ),
    Effect.withSpan("Sandbox.close", {
      ...span,
      attributes: { "sandbox.name": handle.name, "sandbox.on_close": onClose }
    })
  )

/** The span of a sandbox's end belongs where that of its beginning does, and not below it: that one has ended by then. */
const besideCurrent: Effect.Effect<Tracer.SpanOptions> = Effect.map(
  Effect.option(Effect.currentSpan),
  (current) =>
    Option.match(Option.flatMap(current, ({ parent }) => parent), {
      onNone: () => ({ root: true }),
      onSome: (parent) => ({ parent })
    })
)

/** How a sandbox is taken from a call of the addon. */
export interface Taking {
  /** What becomes of it when the scope closes. */
  readonly onClose: OnClose | ((handle: Native.Sandbox) => OnClose)
  /** What becomes of it when the call is interrupted just as it answers: what an earlier interruption leaves. */
  readonly undo?: ((handle: Native.Sandbox) => OnClose) | undefined
  readonly boot?: Boot | undefined
  /** Which sandbox boots, where the error is about another. */
  readonly name?: string | undefined
}

/** Takes a sandbox from a call of the addon that boots it, and ends it with the scope. */
export const acquireSandbox = (
  engine: Engine,
  subject: Subject,
  { boot: watched, name, onClose, undo = () => "destroy" }: Taking,
  run: (token: Native.CancelToken, progress: Native.Progress) => Promise<Native.Outcome<Native.Sandbox>>
): Effect.Effect<Sandbox, MicrosandboxError, Scope.Scope> =>
  Effect.gen(function*() {
    const boot = watched ?? (yield* makeBoot(engine.native))
    const span = yield* besideCurrent
    let ending: Ending | undefined
    const handle = yield* engine.native.acquire(
      (token) => run(token, boot.progress),
      (handle) => close(handle, ending ?? { onClose: undo(handle) }, span)
    ).pipe(
      mapFailure(subject),
      explained(engine),
      withStages(boot, name === undefined ? subject : { ...subject, sandbox: name })
    )
    ending = { onClose: typeof onClose === "function" ? onClose(handle) : onClose }
    return makeSandbox(engine, handle, ending, yield* Effect.scope)
  })

/** Takes the children of one call: each has its own outcome, and those that started end with the scope, all at once. */
const acquireBranches = (
  engine: Engine,
  subject: Subject,
  onClose: OnClose,
  run: (token: Native.CancelToken) => Promise<Native.Outcome<ReadonlyArray<Native.BranchOutcome>>>
): Effect.Effect<ReadonlyArray<Exit.Exit<Sandbox, MicrosandboxError>>, MicrosandboxError, Scope.Scope> =>
  Effect.gen(function*() {
    const span = yield* besideCurrent
    const endings = new Map<string, Ending>()
    const release = (outcomes: ReadonlyArray<Native.BranchOutcome>): Effect.Effect<void> =>
      Effect.forEach(
        outcomes,
        (outcome) =>
          outcome._tag === "Started"
            ? Effect.exit(close(outcome.sandbox, endings.get(outcome.name) ?? { onClose: "destroy" }, span))
            : Effect.succeed(Exit.void),
        { concurrency: "unbounded" }
      ).pipe(Effect.flatMap((exits) => Exit.asVoidAll(exits)))
    const outcomes = yield* mapFailure(subject)(engine.native.acquire(run, release))
    const scope = yield* Effect.scope
    return outcomes.map((outcome) => {
      if (outcome._tag === "Failed") return Exit.fail(toError({ ...subject, sandbox: outcome.name }, outcome.failure))
      const ending: Ending = { onClose }
      endings.set(outcome.name, ending)
      return Exit.succeed(makeSandbox(engine, outcome.sandbox, ending, scope))
    })
  })
