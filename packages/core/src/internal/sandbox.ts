/** A sandbox from the moment that the addon hands it over to the end of its scope. */
import type { Native } from "@effect-microsandbox/native"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import type { OnClose, Sandbox, Status, StopOptions } from "../Sandbox.ts"
import { branch } from "./branch.ts"
import * as exec from "./exec.ts"
import { decodeOptions, mapFailure, type Subject, toError } from "./failure.ts"
import { Span, toMillis } from "./inputs.ts"
import { modify } from "./modify.ts"
import { attributesOf, call, operation, subjectOf, type Target } from "./operation.ts"

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

const makeSandbox = (native: Native.Native["Service"], handle: Native.Sandbox, ending: Ending): Sandbox => {
  const target: Target = { native, handle, name: handle.name }
  const attributes = attributesOf(target)
  const runShell = exec.exec("Sandbox.shell", target)
  const decodeStop = decodeOptions(StopSchema, subjectOf("Sandbox.stop", target))
  return {
    [TypeId]: TypeId,
    name: handle.name,
    id: handle.id,
    exec: exec.exec("Sandbox.exec", target),
    shell: (script, options) => runShell(handle.shell, ["-c", script], options),
    spawn: exec.spawn("Sandbox.spawn", target),
    ...branch(target, { one: acquireSandbox, each: acquireBranches }),
    ...modify(target),
    status: Effect.map(
      operation(target, "Sandbox.status", (handle, token) => handle.status(token)),
      (status) => status as Status
    ),
    stop: Effect.fn("Sandbox.stop", { attributes })(function*(options = {}) {
      const how = toNativeStop(yield* decodeStop(options))
      yield* call(target, "Sandbox.stop", (handle, token) => handle.stop(how, token))
    }),
    kill: operation(target, "Sandbox.kill", (handle, token) => handle.kill(token)),
    detach: Effect.tap(
      operation(target, "Sandbox.detach", (handle, token) => handle.detach(token)),
      () =>
        Effect.sync(() => {
          ending.onClose = "detach"
        })
    )
  }
}

/**
 * Ends a sandbox as `onClose` says and gives its handle back, to the addon's own deadlines. What cannot be ended is a
 * leak, and a leak is a defect; a sandbox that somebody else has ended is not.
 */
const close = (handle: Native.Sandbox, { onClose }: Ending): Effect.Effect<void> =>
  Effect.promise(() => handle.end(onClose, toNativeStop({}))).pipe(
    Effect.flatMap((outcome) =>
      outcome._tag === "Failed"
        ? Effect.die(toError({ operation: "Sandbox.close", sandbox: handle.name }, outcome.failure))
        : Effect.void
    ),
    Effect.withSpan("Sandbox.close", { attributes: { "sandbox.name": handle.name, "sandbox.on_close": onClose } })
  )

/** Takes a sandbox from a call of the addon, and ends it with the scope. */
export const acquireSandbox = (
  native: Native.Native["Service"],
  subject: Subject,
  onClose: OnClose,
  run: (token: Native.CancelToken) => Promise<Native.Outcome<Native.Sandbox>>
): Effect.Effect<Sandbox, MicrosandboxError, Scope.Scope> => {
  const ending: Ending = { onClose }
  return native.acquire(run, (handle) => close(handle, ending)).pipe(
    mapFailure(subject),
    Effect.map((handle) => makeSandbox(native, handle, ending))
  )
}

/** Takes the children of one call: each has its own outcome, and those that started end with the scope, all at once. */
const acquireBranches = (
  native: Native.Native["Service"],
  subject: Subject,
  onClose: OnClose,
  run: (token: Native.CancelToken) => Promise<Native.Outcome<ReadonlyArray<Native.BranchOutcome>>>
): Effect.Effect<ReadonlyArray<Exit.Exit<Sandbox, MicrosandboxError>>, MicrosandboxError, Scope.Scope> => {
  const endings = new Map<string, Ending>()
  const release = (outcomes: ReadonlyArray<Native.BranchOutcome>): Effect.Effect<void> =>
    Effect.forEach(
      outcomes,
      (outcome) =>
        outcome._tag === "Started"
          ? Effect.exit(close(outcome.sandbox, endings.get(outcome.name) ?? { onClose }))
          : Effect.succeed(Exit.void),
      { concurrency: "unbounded" }
    ).pipe(Effect.flatMap((exits) => Exit.asVoidAll(exits)))
  return native.acquire(run, release).pipe(
    mapFailure(subject),
    Effect.map((outcomes) =>
      outcomes.map((outcome) => {
        if (outcome._tag === "Failed") return Exit.fail(toError({ ...subject, sandbox: outcome.name }, outcome.failure))
        const ending: Ending = { onClose }
        endings.set(outcome.name, ending)
        return Exit.succeed(makeSandbox(native, outcome.sandbox, ending))
      })
    )
  )
}
