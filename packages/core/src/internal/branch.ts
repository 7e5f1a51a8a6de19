/** Pausing a sandbox, branching it, and keeping it as a snapshot. */
import type { Native } from "@effect-microsandbox/native"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { BranchOptions, PauseOptions } from "../Branch.ts"
import { MicrosandboxError, Unsupported } from "../MicrosandboxError.ts"
import type { OnClose, Sandbox } from "../Sandbox.ts"
import type { Options as SnapshotOptions } from "../Snapshot.ts"
import { decodeOptions, type Subject } from "./failure.ts"
import { Labels, Name, OnClose as OnCloseSchema } from "./inputs.ts"
import { freshName } from "./names.ts"
import { attributesOf, call, type Engine, operation, subjectOf, type Target } from "./operation.ts"
import { captured as kept, Create, GuestFlush, toSnapshot } from "./snapshot.ts"

const Capture = {
  guestFlush: Schema.optional(GuestFlush),
  recordIntegrity: Schema.optional(Schema.Boolean),
  labels: Schema.optional(Labels)
}

export const PauseSchema = Schema.Struct({ guestFlush: Schema.optional(GuestFlush) })

const BranchSchema = Schema.Struct({ name: Schema.optional(Name), ...Capture, onClose: Schema.optional(OnCloseSchema) })

/** The engine starts four at a time; the bound is on what one call may ask of a machine. */
const Children = Schema.Union([
  Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 256 })),
  Schema.NonEmptyArray(Name).check(Schema.isUnique())
])

const BranchManySchema = Schema.Struct({ names: Children, ...Capture, onClose: Schema.optional(OnCloseSchema) })

const SnapshotSchema = Schema.Struct(Create)

/** How a child becomes a sandbox of a scope. */
export interface Acquire {
  readonly one: (
    engine: Engine,
    subject: Subject,
    how: { readonly onClose: OnClose; readonly name: string },
    run: (token: Native.CancelToken, progress: Native.Progress) => Promise<Native.Outcome<Native.Sandbox>>
  ) => Effect.Effect<Sandbox, MicrosandboxError, Scope.Scope>
  readonly each: (
    engine: Engine,
    subject: Subject,
    onClose: OnClose,
    run: (token: Native.CancelToken) => Promise<Native.Outcome<ReadonlyArray<Native.BranchOutcome>>>
  ) => Effect.Effect<ReadonlyArray<Exit.Exit<Sandbox, MicrosandboxError>>, MicrosandboxError, Scope.Scope>
}

const captured = ({ guestFlush = "auto", labels = {}, recordIntegrity = false }: Omit<BranchOptions, "onClose">) => ({
  guestFlush,
  labels: { ...labels },
  recordIntegrity
})

/** The engine says it of a sandbox in a cloud as a mistake in its configuration. */
const checkLocal = (operation: string, target: Target): Effect.Effect<void, MicrosandboxError> =>
  target.home !== undefined
    ? Effect.void
    : Effect.fail(
      new MicrosandboxError({
        ...subjectOf(operation, target),
        reason: new Unsupported({
          message: `${operation} is for a local backend`,
          operation,
          reason: "LocalOnly",
          hint: "use a local backend, or make several sandboxes of one snapshot"
        })
      })
    )

export const branch = (target: Target, acquire: Acquire) => {
  const { handle } = target
  const attributes = attributesOf(target)
  const decodePause = decodeOptions(PauseSchema, subjectOf("Sandbox.pause", target))
  const decodeBranch = decodeOptions(BranchSchema, subjectOf("Sandbox.branch", target))
  const decodeBranchMany = decodeOptions(BranchManySchema, subjectOf("Sandbox.branchMany", target))
  const decodeSnapshot = decodeOptions(SnapshotSchema, subjectOf("Sandbox.snapshot", target))
  return {
    pause: Effect.fn("Sandbox.pause", { attributes })(function*(options: PauseOptions = {}) {
      const { guestFlush = "auto" } = yield* decodePause(options)
      yield* call(target, "Sandbox.pause", (handle, token) => handle.pause(guestFlush, token))
    }),
    resume: operation(target, "Sandbox.resume", (handle, token) => handle.resume(token)),
    branch: Effect.fn("Sandbox.branch", { attributes })(function*(
      name?: string,
      options: BranchOptions = {}
    ): Effect.fn.Return<Sandbox, MicrosandboxError, Scope.Scope> {
      const { name: given, onClose = "destroy", ...rest } = yield* decodeBranch({ ...options, name })
      yield* checkLocal("Sandbox.branch", target)
      const child = given ?? (yield* freshName)
      yield* Effect.annotateCurrentSpan("sandbox.child", child)
      yield* target.watch
      return yield* acquire.one(
        target,
        subjectOf("Sandbox.branch", target),
        { onClose, name: child },
        (token, progress) => handle.branch(child, { ...captured(rest), onClose }, progress, token)
      )
    }),
    branchMany: Effect.fn("Sandbox.branchMany", { attributes })(function*(
      names: number | ReadonlyArray<string>,
      options: BranchOptions = {}
    ): Effect.fn.Return<ReadonlyArray<Exit.Exit<Sandbox, MicrosandboxError>>, MicrosandboxError, Scope.Scope> {
      const { names: children, onClose = "destroy", ...rest } = yield* decodeBranchMany({ ...options, names })
      yield* checkLocal("Sandbox.branchMany", target)
      const given = typeof children === "number"
        ? yield* Effect.replicateEffect(freshName, children)
        : [...children]
      yield* Effect.annotateCurrentSpan("sandbox.children", given.length)
      yield* target.watch
      return yield* acquire.each(
        target,
        subjectOf("Sandbox.branchMany", target),
        onClose,
        (token) => handle.branchMany(given, { ...captured(rest), onClose }, token)
      )
    }),
    snapshot: Effect.fn("Sandbox.snapshot", { attributes })(function*(name: string, options: SnapshotOptions = {}) {
      const given = yield* decodeSnapshot({ ...options, name })
      const snapshot = yield* call(
        target,
        "Sandbox.snapshot",
        (handle, token) => handle.snapshot(kept(given), token)
      )
      return toSnapshot(snapshot)
    })
  }
}
