/**
 * Sandboxes: real microVMs, as scoped values and layers.
 *
 * {@link make} boots one and ends it with the scope; {@link layer} gives one to a whole program. Interrupting a boot
 * stops it, waits until that is confirmed, and leaves the name free. (Layers of an image that are being downloaded then
 * are finished into the cache.)
 *
 * @stability unstable
 * @since 0.1.0
 */
import type { Native } from "@effect-microsandbox/native"
import type * as ByteSize from "effect/ByteSize"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { Backend } from "./Backend.ts"
import type { BranchOptions, PauseOptions } from "./Branch.ts"
import type { ExecHandle, ExecOptions, ExecOutput, SpawnOptions } from "./Exec.ts"
import { decodeOptions, mapFailure, type Subject } from "./internal/failure.ts"
import {
  defined,
  Labels,
  Memory,
  OnCloseSchema,
  Span,
  Text,
  toMebibytes,
  toSeconds,
  Variables
} from "./internal/inputs.ts"
import { modifyFields, toNativeModify, toPlan } from "./internal/modify.ts"
import { freshName, Name } from "./internal/names.ts"
import { acquireSandbox, StopSchema, toNativeStop, type TypeId } from "./internal/sandbox.ts"
import type { MicrosandboxError } from "./MicrosandboxError.ts"
import type * as Modify from "./Modify.ts"
import type * as Snapshot from "./Snapshot.ts"

/**
 * The state of a sandbox. From the engine's catalogue (`db/lib/entity/sandbox.rs` of the crate, 0.7.2).
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export const Status = Schema.Literals(["Created", "Starting", "Running", "Draining", "Paused", "Stopped", "Crashed"])

/**
 * The state of a sandbox.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Status = typeof Status.Type

/**
 * What becomes of a sandbox when its scope closes: `"destroy"` stops and removes it, `"stop"` keeps its disk and name,
 * `"detach"` lets it run on, after this process too.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type OnClose = "destroy" | "stop" | "detach"

/**
 * What a sandbox is made of.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * Up to 128 letters, digits, dots, hyphens and underscores, the first a letter or digit. It must be free in the
   * backend. Default: a new one for each sandbox.
   */
  readonly name?: string | undefined
  /** An image reference such as `alpine:3.22`, or the path of a root directory or disk (`/…`, `./…` or `../…`). */
  readonly image: string
  /** Virtual CPUs, 1 to 255. Default: the backend's, 1. */
  readonly cpus?: number | undefined
  /** Memory in whole mebibytes. Default: the backend's, 512 MiB. */
  readonly memory?: ByteSize.Input | undefined
  /** Variables for every program in it. */
  readonly env?: Readonly<Record<string, string>> | undefined
  /** Labels to find it by. */
  readonly labels?: Readonly<Record<string, string>> | undefined
  /** Working directory of programs that name none. Default: the image's. */
  readonly workdir?: string | undefined
  /** The shell of `sandbox.shell`. Default: the backend's, `/bin/sh`. */
  readonly shell?: string | undefined
  /** User of programs that name none. Default: the image's. */
  readonly user?: string | undefined
  /** Default: made from the name. */
  readonly hostname?: string | undefined
  /** When to ask the registry. Default: `"if-missing"`. */
  readonly pullPolicy?: "always" | "if-missing" | "never" | undefined
  /** How much the VM process writes to `logs/runtime.log` in the sandbox's directory. Default: nothing. */
  readonly logLevel?: "error" | "warn" | "info" | "debug" | "trace" | undefined
  /** Stop the sandbox when it has run for so long, in whole seconds, rounded up. Default: never. */
  readonly maxDuration?: Duration.Input | undefined
  /** Stop the sandbox when nothing has happened in it for so long, in whole seconds, rounded up. Default: never. */
  readonly idleTimeout?: Duration.Input | undefined
  /** What becomes of it when its scope closes. Default: `"destroy"`. */
  readonly onClose?: OnClose | undefined
}

const Options = Schema.Struct({
  name: Schema.optional(Name),
  image: Text.check(Schema.isMinLength(1)),
  cpus: Schema.optional(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 255 }))),
  memory: Schema.optional(Memory),
  env: Schema.optional(Variables),
  labels: Schema.optional(Labels),
  workdir: Schema.optional(Text),
  shell: Schema.optional(Text),
  user: Schema.optional(Text),
  hostname: Schema.optional(Text),
  pullPolicy: Schema.optional(Schema.Literals(["always", "if-missing", "never"])),
  logLevel: Schema.optional(Schema.Literals(["error", "warn", "info", "debug", "trace"])),
  maxDuration: Schema.optional(Span),
  idleTimeout: Schema.optional(Span),
  onClose: Schema.optional(OnCloseSchema)
})

/**
 * How to stop a sandbox.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface StopOptions {
  /** How long the guest may take to shut down. Zero kills at once, if that is allowed. Default: 10 seconds. */
  readonly grace?: Duration.Input | undefined
  /** Kill the VM when the grace is over, or when the guest cannot be asked. Default: true. */
  readonly thenKill?: boolean | undefined
}

/**
 * Options of {@link start}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface StartOptions {
  /** What becomes of it when its scope closes. Default: `"stop"`, since it was there before. */
  readonly onClose?: OnClose | undefined
}

const StartOptions = Schema.Struct({ name: Name, onClose: Schema.optional(OnCloseSchema) })

const NameOptions = Schema.Struct({ name: Name })

/**
 * A running sandbox.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Sandbox {
  readonly [TypeId]: TypeId
  /** Its name in the backend. */
  readonly name: string
  /** Stays the same for the sandbox's life, and is not reused with its name. */
  readonly id: string
  /**
   * Runs a program and collects its output; a non-zero exit code is a value, not an error. Interruption kills the
   * program's process group and waits for the guest's word that it has gone, at most 5 seconds.
   */
  readonly exec: (
    command: string,
    args?: ReadonlyArray<string>,
    options?: ExecOptions
  ) => Effect.Effect<ExecOutput, MicrosandboxError>
  /** Runs a script in the sandbox's shell, as `exec` does. */
  readonly shell: (script: string, options?: ExecOptions) => Effect.Effect<ExecOutput, MicrosandboxError>
  /** Starts a program; its scope ends it. */
  readonly spawn: (
    command: string,
    args?: ReadonlyArray<string>,
    options?: SpawnOptions
  ) => Effect.Effect<ExecHandle, MicrosandboxError, Scope.Scope>
  /** The state, looked up now. */
  readonly status: Effect.Effect<Status, MicrosandboxError>
  /**
   * Asks the sandbox to stop, waits for the grace, and then kills it, unless told not to. One that has stopped is no error.
   * Fails with `StopTimeout` when it may not kill, and with `KillTimeout` when a kill is not confirmed within 30 seconds.
   */
  readonly stop: (options?: StopOptions) => Effect.Effect<void, MicrosandboxError>
  /** Kills the VM and waits until it is gone. Fails with `KillTimeout` when that is not confirmed within 30 seconds. */
  readonly kill: Effect.Effect<void, MicrosandboxError>
  /** Lets the sandbox run on when its scope closes. */
  readonly detach: Effect.Effect<void, MicrosandboxError>
  /**
   * Suspends the VM: its programs stop where they are, and its memory stays. One that is paused is no error.
   *
   * A paused sandbox starts nothing: `exec` and `spawn` fail with `SandboxPaused`. What runs goes on
   * when it is resumed. It cannot be asked to stop, so `stop` kills it, unless told not to; the end of its scope does so
   * too. An interrupted pause is taken back.
   */
  readonly pause: (options?: PauseOptions) => Effect.Effect<void, MicrosandboxError>
  /** Lets a paused VM run on, with the clock set right. One that runs is no error. */
  readonly resume: Effect.Effect<void, MicrosandboxError>
  /**
   * Starts a child that goes on from where this sandbox is now: the same memory, the same programs with the same process
   * numbers, the same files; from here on each is on its own. The sandbox itself runs on, or stays paused.
   *
   * The child ends with the scope, and is destroyed unless `onClose` says otherwise. Its name is a new one when none is
   * given. It outlives this process, if that is killed: the engine starts every branch detached. A branch that fails, or
   * that is interrupted, leaves no child, and this sandbox as it was. Connections of its guest with the outside do not go
   * with a child, nor do published ports and mounts of the host.
   *
   * Fails with `CaptureUnsupported` when the root is a directory: only a sandbox of an image can be branched. Other
   * reasons are `SandboxAlreadyExists` and `SandboxNotRunning`.
   */
  readonly branch: (
    name?: string,
    options?: BranchOptions
  ) => Effect.Effect<Sandbox, MicrosandboxError, Scope.Scope>
  /**
   * Starts several children of one and the same moment, by their names or as many as a number says, up to 256.
   *
   * Each has its own exit, in the order of the names: one that cannot start does not keep the others from it. The effect
   * itself fails when there is nothing to start from, as `branch` does. Interrupting it leaves no child.
   */
  readonly branchMany: (
    names: number | ReadonlyArray<string>,
    options?: BranchOptions
  ) => Effect.Effect<ReadonlyArray<Exit.Exit<Sandbox, MicrosandboxError>>, MicrosandboxError, Scope.Scope>
  /**
   * Changes what the sandbox is made of, and answers with what that did. Fails with `RestartRequired` when the VM would have
   * to be started again for it, and with `ChangeRefused` when it cannot be done; then nothing has changed.
   *
   * Several changes of a running VM are no transaction: an interruption between two leaves the first.
   */
  readonly modify: (
    changes: Modify.Changes,
    options?: Modify.Options
  ) => Effect.Effect<Modify.Plan, MicrosandboxError>
  /** Says what `modify` would do, and changes nothing. */
  readonly modifyPlan: (
    changes: Modify.Changes,
    options?: Modify.Options
  ) => Effect.Effect<Modify.Plan, MicrosandboxError>
  /**
   * Keeps the sandbox's disk, or all of it with `full`, as a snapshot for {@link restore}. It may run, be paused, or have
   * stopped, and stays so. Fails with `SnapshotAlreadyExists`, or with `CaptureUnsupported` when its root is a directory.
   * A snapshot that was being published when this was interrupted is kept.
   */
  readonly snapshot: (
    name: string,
    options?: Snapshot.Options
  ) => Effect.Effect<Snapshot.Snapshot, MicrosandboxError>
}

/**
 * The one sandbox of a program, as {@link layer} provides it.
 *
 * @stability unstable
 * @category services
 * @since 0.1.0
 */
export const Sandbox: Context.Service<Sandbox, Sandbox> = Context.Service("@effect-microsandbox/core/Sandbox")

/**
 * A sandbox as the backend's catalogue has it.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Info extends Schema.Class<Info>("@effect-microsandbox/core/Sandbox/Info")({
  name: Schema.String,
  id: Schema.String,
  status: Status,
  labels: Schema.Record(Schema.String, Schema.String),
  /** Milliseconds since 1970. */
  createdAt: Schema.optionalKey(Schema.Finite),
  lastFailure: Schema.optionalKey(Schema.String)
}) {}

const makeSubject: Subject = { operation: "Sandbox.make" }
const decodeMake = decodeOptions(Options, makeSubject)

/**
 * Boots a sandbox and ends it with the scope.
 *
 * **Details**
 *
 * It answers when the guest's agent does. A boot that fails, or that is interrupted, is undone before the effect ends:
 * no VM, no directory, and the name is free. The reason says what was wrong: `InvalidConfig` names the option,
 * `SandboxAlreadyExists` the name, `RootfsNotFound` and the `Image…` reasons the image, `RuntimeNotInstalled` and
 * `RuntimeVersionMismatch` the runtime, `BootStart` the stage that failed.
 *
 * **Example** (A sandbox for the length of an effect)
 *
 * ```ts
 * import { Backend, Sandbox } from "@effect-microsandbox/core"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const sandbox = yield* Sandbox.make({ image: "alpine", memory: "512 MiB" })
 *   const { stdout } = yield* sandbox.exec("uname", ["-a"])
 *   return stdout
 * })
 *
 * Effect.scoped(program).pipe(Effect.provide(Backend.layerLocal()))
 * ```
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fn("Sandbox.make")(function*(
  options: Options
): Effect.fn.Return<Sandbox, MicrosandboxError, Backend | Scope.Scope> {
  const { idleTimeout, maxDuration, memory, name = yield* freshName, onClose = "destroy", ...rest } = yield* decodeMake(
    options
  )
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name, "sandbox.image": rest.image })
  const { handle: backend, native } = yield* Backend
  return yield* acquireSandbox(
    native,
    { ...makeSubject, sandbox: name },
    onClose,
    (token) =>
      backend.createSandbox(
        defined({
          ...rest,
          name,
          memoryMib: memory === undefined ? undefined : toMebibytes(memory),
          maxDurationSecs: toSeconds(maxDuration),
          idleTimeoutSecs: toSeconds(idleTimeout),
          detached: onClose === "detach"
        }),
        token
      )
  )
})

const startSubject: Subject = { operation: "Sandbox.start" }
const decodeStart = decodeOptions(StartOptions, startSubject)

/**
 * Starts a sandbox that has stopped, by name; the scope stops it again.
 *
 * **Details**
 *
 * An interrupted start ends the VM and keeps the sandbox. Reasons: `SandboxNotFound`, `SandboxStillRunning`, and those of a
 * boot.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const start = Effect.fn("Sandbox.start")(function*(
  name: string,
  options: StartOptions = {}
): Effect.fn.Return<Sandbox, MicrosandboxError, Backend | Scope.Scope> {
  const { onClose = "stop" } = yield* decodeStart({ ...options, name })
  const { handle: backend, native } = yield* Backend
  return yield* acquireSandbox(
    native,
    { ...startSubject, sandbox: name },
    onClose,
    (token) => backend.startSandbox(name, onClose === "detach", token)
  )
})

/**
 * What a sandbox is made of that comes from a snapshot. What is absent comes from there, or is the backend's default.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface RestoreOptions {
  /** As for {@link make}. Default: a new one. */
  readonly name?: string | undefined
  /** Virtual CPUs, 1 to 255. A full snapshot has its own, and takes no other. */
  readonly cpus?: number | undefined
  /** Memory in whole mebibytes. A full snapshot has its own, and takes no other. */
  readonly memory?: ByteSize.Input | undefined
  /** User of programs that name none. */
  readonly user?: string | undefined
  /** Labels to find it by. */
  readonly labels?: Readonly<Record<string, string>> | undefined
  /** Stop the sandbox when it has run for so long, in whole seconds, rounded up. Default: never. */
  readonly maxDuration?: Duration.Input | undefined
  /** Stop the sandbox when nothing has happened in it for so long, in whole seconds, rounded up. Default: never. */
  readonly idleTimeout?: Duration.Input | undefined
  /** How much the VM process writes to `logs/runtime.log` in the sandbox's directory. Default: nothing. */
  readonly logLevel?: "error" | "warn" | "info" | "debug" | "trace" | undefined
  /** What programs in it may do. Not for a full snapshot, whose programs run already. */
  readonly security?: "default" | "restricted" | undefined
  /** Share the snapshot's memory until it is written to, instead of reading it in. For a full snapshot only. */
  readonly forked?: boolean | undefined
  /** Boot from the disk of a full snapshot, and leave its memory. */
  readonly diskOnly?: boolean | undefined
  /** No network. A full snapshot that has one refuses. */
  readonly disableNetwork?: boolean | undefined
  /** Start although something outside of the snapshot, such as a mount of the host, is missing. */
  readonly allowMissingResources?: boolean | undefined
  /** The snapshot that an archive of differences builds on. */
  readonly snapshotBase?: string | undefined
  /** What becomes of it when its scope closes. Default: `"destroy"`. */
  readonly onClose?: OnClose | undefined
}

const RestoreOptions = Schema.Struct({
  snapshot: Text.check(Schema.isMinLength(1)),
  name: Schema.optional(Name),
  cpus: Schema.optional(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 255 }))),
  memory: Schema.optional(Memory),
  user: Schema.optional(Text),
  labels: Schema.optional(Labels),
  maxDuration: Schema.optional(Span),
  idleTimeout: Schema.optional(Span),
  logLevel: Schema.optional(Schema.Literals(["error", "warn", "info", "debug", "trace"])),
  security: Schema.optional(Schema.Literals(["default", "restricted"])),
  forked: Schema.optional(Schema.Boolean),
  diskOnly: Schema.optional(Schema.Boolean),
  disableNetwork: Schema.optional(Schema.Boolean),
  allowMissingResources: Schema.optional(Schema.Boolean),
  snapshotBase: Schema.optional(Text),
  onClose: Schema.optional(OnCloseSchema)
})

const restoreSubject: Subject = { operation: "Sandbox.restore" }
const decodeRestore = decodeOptions(RestoreOptions, restoreSubject)

/**
 * Makes a sandbox of a snapshot, by its reference, name or path, and ends it with the scope.
 *
 * **Details**
 *
 * A snapshot of a disk boots; a full one goes on where it was taken, with its memory and programs, and outlives this
 * process if that is killed. A restore that fails, or that is interrupted, leaves nothing, and the name is free. Reasons:
 * `SnapshotNotFound`, `SnapshotIntegrity`, `SandboxAlreadyExists`, `InvalidConfig`, and those of a boot.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const restore = Effect.fn("Sandbox.restore")(function*(
  snapshot: string,
  options: RestoreOptions = {}
): Effect.fn.Return<Sandbox, MicrosandboxError, Backend | Scope.Scope> {
  const {
    allowMissingResources = false,
    disableNetwork = false,
    diskOnly = false,
    forked = false,
    idleTimeout,
    labels = {},
    maxDuration,
    memory,
    name = yield* freshName,
    onClose = "destroy",
    ...rest
  } = yield* decodeRestore({ ...options, snapshot })
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
  const { handle: backend, native } = yield* Backend
  return yield* acquireSandbox(
    native,
    { ...restoreSubject, sandbox: name },
    onClose,
    (token) =>
      backend.restoreSandbox(
        defined({
          ...rest,
          name,
          allowMissingResources,
          disableNetwork,
          diskOnly,
          forked,
          labels: { ...labels },
          memoryMib: memory === undefined ? undefined : toMebibytes(memory),
          maxDurationSecs: toSeconds(maxDuration),
          idleTimeoutSecs: toSeconds(idleTimeout),
          detached: onClose === "detach"
        }),
        token
      )
  )
})

/** An operation on a sandbox that is known by its name only. */
const byName = <A>(
  operation: string,
  run: (backend: Native.Backend, name: string, token: Native.CancelToken) => Promise<Native.Outcome<A>>
) => {
  const decode = decodeOptions(NameOptions, { operation })
  return Effect.fn(operation)(function*(name: string): Effect.fn.Return<A, MicrosandboxError, Backend> {
    yield* decode({ name })
    const { handle, native } = yield* Backend
    return yield* native.call((token) => run(handle, name, token)).pipe(mapFailure({ operation, sandbox: name }))
  })
}

/**
 * Looks a sandbox up by name. Fails with `SandboxNotFound`.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const get = (name: string): Effect.Effect<Info, MicrosandboxError, Backend> =>
  Effect.map(getInfo(name), (info) => new Info({ ...info, status: info.status as Status }))

const getInfo = byName("Sandbox.get", (backend, name, token) => backend.getSandbox(name, token))

const stopSubject: Subject = { operation: "Sandbox.stop" }
const decodeStopByName = decodeOptions(Schema.Struct({ name: Name, ...StopSchema.fields }), stopSubject)

/**
 * Stops a sandbox by name, as `stop` of a sandbox does: asks, waits for the grace, then kills, unless told not to. One that
 * has stopped is no error. Fails with `SandboxNotFound`, or with `StopTimeout` when it may not kill.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const stop = Effect.fn("Sandbox.stop")(function*(
  name: string,
  options: StopOptions = {}
): Effect.fn.Return<void, MicrosandboxError, Backend> {
  const how = toNativeStop(yield* decodeStopByName({ ...options, name }))
  const { handle, native } = yield* Backend
  yield* native.call((token) => handle.stopSandbox(name, how, token)).pipe(
    mapFailure({ ...stopSubject, sandbox: name })
  )
})

/**
 * Removes a stopped sandbox by name: its row, its disk, its directory. Fails with `SandboxNotFound` or
 * `SandboxStillRunning`.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const remove: (name: string) => Effect.Effect<void, MicrosandboxError, Backend> = byName(
  "Sandbox.remove",
  (backend, name, token) => backend.removeSandbox(name, token)
)

/**
 * Kills a sandbox by name and waits until it is gone. Fails with `SandboxNotFound`.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const kill: (name: string) => Effect.Effect<void, MicrosandboxError, Backend> = byName(
  "Sandbox.kill",
  (backend, name, token) => backend.killSandbox(name, token)
)

const modifyByName = (operation: string, apply: boolean) => {
  const decode = decodeOptions(Schema.Struct({ name: Name, ...modifyFields }), { operation })
  return Effect.fn(operation)(function*(
    name: string,
    changes: Modify.Changes,
    options: Modify.Options = {}
  ): Effect.fn.Return<Modify.Plan, MicrosandboxError, Backend> {
    const [changed, how] = toNativeModify(yield* decode({ ...options, ...changes, name }), apply)
    const { handle, native } = yield* Backend
    const plan = yield* native.call((token) => handle.modifySandbox(name, changed, how, token)).pipe(
      mapFailure({ operation, sandbox: name })
    )
    return toPlan(plan)
  })
}

/**
 * Changes what a sandbox is made of, by name, as `modify` of a sandbox does; it may have stopped.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const modify: (
  name: string,
  changes: Modify.Changes,
  options?: Modify.Options
) => Effect.Effect<Modify.Plan, MicrosandboxError, Backend> = modifyByName("Sandbox.modify", true)

/**
 * Says what {@link modify} would do, and changes nothing.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const modifyPlan: (
  name: string,
  changes: Modify.Changes,
  options?: Modify.Options
) => Effect.Effect<Modify.Plan, MicrosandboxError, Backend> = modifyByName("Sandbox.modifyPlan", false)

/**
 * One sandbox for a whole program.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Sandbox, MicrosandboxError, Backend> =>
  Layer.effect(Sandbox, make(options))
