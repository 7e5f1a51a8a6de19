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
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { Backend } from "./Backend.ts"
import type { ExecHandle, ExecOptions, ExecOutput, SpawnOptions } from "./Exec.ts"
import { decodeOptions, mapFailure, type Subject } from "./internal/failure.ts"
import { Name, OnClose as OnCloseSchema } from "./internal/inputs.ts"
import { acquireSandbox, StopSchema, toNativeStop, type TypeId } from "./internal/sandbox.ts"
import { imageText, toNativeOptions } from "./internal/sandboxOptions.ts"
import type { MicrosandboxError } from "./MicrosandboxError.ts"
import * as SandboxOptions from "./SandboxOptions.ts"

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
 * What becomes of a sandbox when its scope closes.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type OnClose = SandboxOptions.OnClose

/**
 * What a sandbox is made of.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type Options = SandboxOptions.Options

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
const decodeMake = decodeOptions(SandboxOptions.Options, makeSubject)

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
  const { name = yield* freshName, onClose = "destroy", ...rest } = yield* decodeMake(options)
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name, "sandbox.image": imageText(rest.image) })
  const { handle: backend, native } = yield* Backend
  return yield* acquireSandbox(
    native,
    { ...makeSubject, sandbox: name },
    onClose,
    (token) => backend.createSandbox(toNativeOptions({ ...rest, name, detached: onClose === "detach" }), token)
  )
})

const freshName = Effect.sync(() => `sandbox-${crypto.randomUUID().slice(0, 13)}`)

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

/**
 * One sandbox for a whole program.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Sandbox, MicrosandboxError, Backend> =>
  Layer.effect(Sandbox, make(options))
