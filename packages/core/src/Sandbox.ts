/**
 * Sandboxes: real microVMs, as scoped values and layers.
 *
 * {@link make} boots one and ends it with the scope; {@link layer} gives one to a whole program. Interrupting a boot
 * stops it, the downloads of its image included, waits until that is confirmed, and leaves the name free.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type { Native } from "@effect-microsandbox/native"
import type * as ByteSize from "effect/ByteSize"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { Backend } from "./Backend.ts"
import type { ExecHandle, ExecOptions, ExecOutput, SpawnOptions } from "./Exec.ts"
import { type Boot, streamBoot } from "./internal/boot.ts"
import { decodeOptions, mapFailure, type Subject } from "./internal/failure.ts"
import { defined, Memory, Span, Text, toMebibytes, toSeconds, Variables } from "./internal/inputs.ts"
import { withoutCredentials } from "./internal/operation.ts"
import { acquireSandbox, StopSchema, toNativeStop, type TypeId } from "./internal/sandbox.ts"
import type { MicrosandboxError } from "./MicrosandboxError.ts"
import type * as Progress from "./Progress.ts"

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

const Name = Schema.String.check(
  Schema.isPattern(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/, {
    expected: "1 to 128 letters, digits, dots, hyphens and underscores, the first a letter or digit"
  })
)

const OnClose = Schema.Literals(["destroy", "stop", "detach"])

const Options = Schema.Struct({
  name: Schema.optional(Name),
  image: Text.check(Schema.isMinLength(1)),
  cpus: Schema.optional(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 255 }))),
  memory: Schema.optional(Memory),
  env: Schema.optional(Variables),
  labels: Schema.optional(Schema.Record(Schema.String, Schema.String)),
  workdir: Schema.optional(Text),
  shell: Schema.optional(Text),
  user: Schema.optional(Text),
  hostname: Schema.optional(Text),
  pullPolicy: Schema.optional(Schema.Literals(["always", "if-missing", "never"])),
  logLevel: Schema.optional(Schema.Literals(["error", "warn", "info", "debug", "trace"])),
  maxDuration: Schema.optional(Span),
  idleTimeout: Schema.optional(Span),
  onClose: Schema.optional(OnClose)
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

const StartOptions = Schema.Struct({ name: Name, onClose: Schema.optional(OnClose) })

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
export const make = (options: Options): Effect.Effect<Sandbox, MicrosandboxError, Backend | Scope.Scope> =>
  makeWatched(options)

const makeWatched = Effect.fn("Sandbox.make")(function*(
  options: Options,
  boot?: Boot
): Effect.fn.Return<Sandbox, MicrosandboxError, Backend | Scope.Scope> {
  const { idleTimeout, maxDuration, memory, name = yield* freshName, onClose = "destroy", ...rest } = yield* decodeMake(
    options
  )
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name, "sandbox.image": withoutCredentials(rest.image) })
  const { handle: backend, native } = yield* Backend
  return yield* acquireSandbox(
    native,
    { ...makeSubject, sandbox: name },
    onClose,
    (token, progress) =>
      backend.createSandbox(
        defined({
          ...rest,
          name,
          memoryMib: memory === undefined ? undefined : toMebibytes(memory),
          maxDurationSecs: toSeconds(maxDuration),
          idleTimeoutSecs: toSeconds(idleTimeout),
          detached: onClose === "detach"
        }),
        progress,
        token
      ),
    boot
  )
})

/**
 * The last element of {@link makeStream}.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Ready {
  readonly _tag: "Ready"
  readonly sandbox: Sandbox
}

/**
 * Boots a sandbox as {@link make} does, and says what it is doing: the events of the pull and of the boot, and at last the
 * sandbox.
 *
 * **Details**
 *
 * The sandbox belongs to the scope of whoever runs the stream. Leaving the stream before its last element undoes the boot,
 * as an interruption of `make` does. A slow reader does not slow the boot. It fails as `make` does.
 *
 * **Example** (The bytes of a pull)
 *
 * ```ts
 * import { Sandbox } from "@effect-microsandbox/core"
 * import { Console, Effect, Stream } from "effect"
 *
 * const boot = Sandbox.makeStream({ image: "alpine" }).pipe(
 *   Stream.tap((event) => event._tag === "LayerDownloadProgress" ? Console.log(event.layer, event.bytes) : Effect.void),
 *   Sandbox.fromStream
 * )
 * ```
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const makeStream = (
  options: Options
): Stream.Stream<Progress.Event | Ready, MicrosandboxError, Backend | Scope.Scope> =>
  Stream.flatMap(
    Stream.fromEffect(Effect.service(Backend)),
    ({ native }) =>
      streamBoot(native, makeSubject, (boot) =>
        makeWatched(options, boot), (sandbox): Ready => ({ _tag: "Ready", sandbox }))
  )

/**
 * Runs {@link makeStream} to its end, whatever was put behind it, and gives the sandbox.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const fromStream = <E, R>(
  stream: Stream.Stream<Progress.Event | Ready, E, R>
): Effect.Effect<Sandbox, E, R> =>
  Effect.flatMap(
    Stream.runLast(stream),
    Option.match({
      onNone: () => Effect.die(new Error("the stream of a boot ended without its sandbox")),
      onSome: (last) =>
        last._tag === "Ready"
          ? Effect.succeed(last.sandbox)
          : Effect.die(new Error("the stream of a boot ended without its sandbox"))
    })
  )

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
    (token, progress) => backend.startSandbox(name, onClose === "detach", progress, token)
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
