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
import type * as Exit from "effect/Exit"
import * as FileSystem from "effect/FileSystem"
import type { HttpClient } from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Path from "effect/Path"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Socket } from "effect/socket/Socket"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import type { Terminal } from "effect/Terminal"
import type { Duplex } from "node:stream"
import type * as Attach from "./Attach.ts"
import { Backend, Local } from "./Backend.ts"
import type { BranchOptions, PauseOptions } from "./Branch.ts"
import type { ExecHandle, ExecOptions, ExecOutput, SpawnOptions } from "./Exec.ts"
import { type Boot, streamBoot } from "./internal/boot.ts"
import { PauseSchema } from "./internal/branch.ts"
import { type Info, type Status, type StopResult, toInfo, toStopResult } from "./internal/catalogue.ts"
import { decodeOptions, mapFailure, type Subject } from "./internal/failure.ts"
import {
  defined,
  Labels,
  Lifetime,
  Memory,
  Name,
  OnClose as OnCloseSchema,
  someMebibytes,
  Span,
  Text,
  toMillis,
  toSeconds
} from "./internal/inputs.ts"
import { localBackend } from "./internal/local.ts"
import {
  entries,
  LogOptions,
  LogStreamOptions,
  toEntries,
  toNativeOptions as toNativeLogOptions
} from "./internal/logs.ts"
import { defaultDeadline, sampleOf } from "./internal/metrics.ts"
import { modifyFields, toNativeModify, toPlan } from "./internal/modify.ts"
import { freshName } from "./internal/names.ts"
import { withoutCredentials } from "./internal/operation.ts"
import { acquireSandbox, StopSchema, toNativeStop, type TypeId } from "./internal/sandbox.ts"
import { imageText, toNativeOptions, toRestoredNetwork } from "./internal/sandboxOptions.ts"
import { hostStdio } from "./internal/stdio.ts"
import { sweepBackend, type SweepReport } from "./internal/sweep.ts"
import type * as Logs from "./Logs.ts"
import type * as Metrics from "./Metrics.ts"
import { InvalidConfig, MicrosandboxError } from "./MicrosandboxError.ts"
import type * as Modify from "./Modify.ts"
import type * as NetworkPolicy from "./NetworkPolicy.ts"
import type * as Progress from "./Progress.ts"
import * as SandboxOptions from "./SandboxOptions.ts"
import type * as Snapshot from "./Snapshot.ts"
import type * as Transfer from "./Transfer.ts"
import type * as Tunnel from "./Tunnel.ts"
import type * as Wait from "./Wait.ts"

export {
  /**
   * What a sandbox is made of, as the engine keeps it.
   *
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  Config,
  /**
   * A sandbox as the backend's catalogue has it.
   *
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  Info,
  /**
   * The state of a sandbox.
   *
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  Status,
  /**
   * How a sandbox ended.
   *
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  StopResult
} from "./internal/catalogue.ts"

export type {
  /**
   * What a sweep did.
   *
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  SweepReport
} from "./internal/sweep.ts"
import type { WriteAtomic } from "./internal/writeAtomic.ts"

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

/**
 * Options of {@link connect}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface ConnectOptions {
  /** How long the guest's agent may take to answer. Default: 10 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** What becomes of the sandbox when its scope closes. Default: `"detach"`, since it was there before. */
  readonly onClose?: OnClose | undefined
}

const ConnectOptions = Schema.Struct({
  name: Name,
  timeout: Schema.optional(Span),
  onClose: Schema.optional(OnCloseSchema)
})

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
   *
   * It does not wait for what the program has left behind: when the program has ended and another process of its group
   * still holds an output open, that gets 400 milliseconds and is killed. One that is to live on redirects its outputs.
   *
   * The guest's agent moves each program into a cgroup, where the kernel waits for a grace period of RCU unless
   * `/sys/kernel/rcu_expedited` is 1: the first program of a handle sets that, but over a cloud.
   */
  readonly exec: <E = never, R = never>(
    command: string,
    args?: ReadonlyArray<string>,
    options?: ExecOptions<E, R>
  ) => Effect.Effect<ExecOutput, MicrosandboxError | E, R>
  /** Runs a script in the sandbox's shell, as `exec` does. */
  readonly shell: <E = never, R = never>(
    script: string,
    options?: ExecOptions<E, R>
  ) => Effect.Effect<ExecOutput, MicrosandboxError | E, R>
  /** Runs the sandbox's entrypoint and command, as `exec` does. Fails with `NoDefaultCommand` when it has none. */
  readonly execDefault: <E = never, R = never>(
    options?: ExecOptions<E, R>
  ) => Effect.Effect<ExecOutput, MicrosandboxError | E, R>
  /** Starts a program; its scope ends it. */
  readonly spawn: (
    command: string,
    args?: ReadonlyArray<string>,
    options?: SpawnOptions
  ) => Effect.Effect<ExecHandle, MicrosandboxError, Scope.Scope>
  /** Starts the sandbox's entrypoint and command, as `spawn` does. Fails with `NoDefaultCommand` when it has none. */
  readonly spawnDefault: (options?: SpawnOptions) => Effect.Effect<ExecHandle, MicrosandboxError, Scope.Scope>
  /**
   * Runs the commands of `effect/process` in the guest, as Node's spawner runs them on a host; {@link servicesOf} gives it to
   * a whole program. An error is a `PlatformError` whose cause is the `MicrosandboxError`.
   *
   * A program that was let go with `unref` runs on until the sandbox's own scope closes. What is `"inherit"` is the `Stdio`
   * of the caller, or of this process. Variables that are taken away take an `env` in the guest, and more descriptors than
   * three a shell.
   */
  readonly spawner: ChildProcessSpawner["Service"]
  /**
   * The guest's files as Effect's `FileSystem`: a program that uses one works on them when it is given this. A relative path
   * is relative to the sandbox's working directory. A failure is a `PlatformError` with this SDK's error as its cause; the
   * reason of a sandbox that has gone is `Unknown`.
   *
   * The guest's agent does the work, as root, and what is made belongs to root; `access` asks for the sandbox's user. Times
   * are whole seconds. `link`, `File.sync` and `access` for reading or writing need `ln`, `sync` and a shell in the guest.
   * `readFile` takes at most 1 GiB, and a directory at most a million entries. A FIFO and a terminal are refused: use a
   * program for them.
   */
  readonly fs: FileSystem.FileSystem
  /**
   * Writes a file of the guest so that whoever reads it finds the old content or the new one, whole, also after a failure or an
   * interruption: it writes another beside it, which takes its place at the end. A stream is written as it comes.
   *
   * A file that is there keeps its owner, and its mode unless `mode` says another; a link goes on leading where it led.
   * `sync` has the guest write the content to its disk before, for which it needs the program `sync`. Default: false.
   */
  readonly writeAtomic: WriteAtomic
  /** The guest's paths, relative to the sandbox's working directory, as Effect's `Path`. */
  readonly path: Path.Path
  /**
   * Runs a program face to face with the host's terminal, until it ends or the detach keys are typed (default: `ctrl-]`). The
   * host's terminal gets its mode back on every way out. The detach keys end the program too: {@link Attach.run} is for one
   * that is to go on. Fails with `Terminal` when the standard input is no terminal.
   */
  readonly attach: (
    command: string,
    args?: ReadonlyArray<string>,
    options?: Attach.Options
  ) => Effect.Effect<Attach.End, MicrosandboxError, Stdio.Stdio | Terminal>
  /** Runs the sandbox's shell face to face with the host's terminal, as `attach` does. */
  readonly attachShell: (
    options?: Attach.Options
  ) => Effect.Effect<Attach.End, MicrosandboxError, Stdio.Stdio | Terminal>
  /**
   * A socket to a TCP port of the guest, which needs no published port. It connects when its reader is acquired, and ends with
   * that scope; it can be acquired again. A failure to connect is a `SocketOpenError` with our error as its cause, whose
   * reason is `TunnelRefused` when nothing listens. An end without failure gives away what was written, for
   * which the guest has 10 seconds.
   */
  readonly socket: (port: number, options?: Tunnel.Options) => Effect.Effect<Socket, MicrosandboxError>
  /**
   * The same as a Node stream that is connected, for libraries that take one. It ends with the scope. Fails with
   * `TunnelRefused` when nothing listens; an error of the stream is our error.
   */
  readonly duplex: (port: number, options?: Tunnel.Options) => Effect.Effect<Duplex, MicrosandboxError, Scope.Scope>
  /**
   * An HTTP client whose requests all go to a port of the guest, whatever their URL says; one that begins with a path is of
   * `http://localhost:<port>`. Each request has a connection of its own, which ends with it, and all end with the scope.
   *
   * A request that cannot connect, or whose connection breaks, fails with `TransportError` and our error as its cause.
   */
  readonly httpClient: (
    port: number,
    options?: Tunnel.HttpOptions
  ) => Effect.Effect<HttpClient, MicrosandboxError, Scope.Scope>
  /** Waits until a TCP port of the guest accepts a connection, by connecting to it again and again. */
  readonly waitForPort: (port: number, options?: Wait.PortOptions) => Effect.Effect<void, MicrosandboxError>
  /**
   * Waits for a line in the logs that has a text, or that matches, and answers with the line. One that was written before
   * counts too.
   */
  readonly waitForLog: (pattern: string | RegExp, options?: Wait.LogOptions) => Effect.Effect<string, MicrosandboxError>
  /** Waits until something has a path in the guest. */
  readonly waitForFile: (path: string, options?: Wait.PollOptions) => Effect.Effect<void, MicrosandboxError>
  /**
   * What it uses: its newest sample. Right after a boot it waits for the first one, at most 10 seconds, and fails with
   * `MetricsNotReady` then. Fails with `MetricsDisabled`, and with `SandboxNotRunning` when the sandbox has stopped.
   */
  readonly metrics: Effect.Effect<Metrics.Sample, MicrosandboxError>
  /**
   * A sample at once, and then one for each interval (default: 1 second, which is how often a sandbox samples itself), until
   * the sandbox stops. A sample is taken when it is asked for: a slow reader gets no burst of what it missed.
   */
  readonly metricsStream: (interval?: Duration.Input) => Stream.Stream<Metrics.Sample, MicrosandboxError>
  /**
   * What its programs have written, in the order of time; `sources` says what else. All of it is held in
   * memory: at most what the files hold.
   */
  readonly logs: (options?: Logs.Options) => Effect.Effect<ReadonlyArray<Logs.Entry>, MicrosandboxError>
  /**
   * The same as a stream, which can be resumed at an entry's `cursor`. With `follow` it goes on until the sandbox stops, and
   * has what was written until then. The entries of one source come in their order.
   *
   * In a cloud only `follow` is there; its connection is made anew where it ends, after the last entry that was read.
   *
   * Fails with `InvalidCursor`, and with `MissedRotation` when a reader is so slow that what it had to read next was
   * rotated away (40 MiB later). Each stream that follows takes one inotify instance, of which a user has 128 by default.
   */
  readonly logStream: (options?: Logs.StreamOptions) => Stream.Stream<Logs.Entry, MicrosandboxError>
  /**
   * Carries a file or a tree of the host into the guest; `guestPath` is absolute, and directories that are missing on the
   * way to it are made. A link is followed where it is named here, and nowhere below. The files are root's unless `owner`
   * says otherwise. See {@link Transfer.Options} for filters and limits, and the module for what replaces what.
   *
   * Interrupting it stops it at once; what is whole by then stays, and nothing that is not, as long as the guest still
   * answers (it is waited for 3 seconds). Fails with `HostIo`, with `FileFailed` for the guest's own files, and with
   * `TransferConflict`, `TransferLimit` or `TransferRefused`; a download also with `DiskFull`.
   */
  readonly upload: (
    hostPath: string,
    guestPath: string,
    options?: Transfer.UploadOptions
  ) => Effect.Effect<Transfer.Transferred, MicrosandboxError>
  /**
   * Carries a file or a tree of the guest to the host, as `upload` does the other way. Nothing that the guest says leads out of `hostPath`. A new
   * directory can be entered and written by its owner, whatever its mode is in the guest.
   *
   * Interrupting it stops it at once, and leaves no file that is not whole. Fails as `upload` does, and with `UnsafeName`
   * when the guest names an entry in a way that no file system does.
   */
  readonly download: (
    guestPath: string,
    hostPath: string,
    options?: Transfer.Options
  ) => Effect.Effect<Transfer.Transferred, MicrosandboxError>
  /**
   * The same as `upload`, and says how far it is; the last element is what was carried. A slow reader does not slow it, and
   * leaving the stream before its end interrupts it.
   */
  readonly uploadStream: (
    hostPath: string,
    guestPath: string,
    options?: Transfer.UploadOptions
  ) => Stream.Stream<Transfer.Event, MicrosandboxError>
  /** The same as `download`, and says how far it is, as `uploadStream` does. */
  readonly downloadStream: (
    guestPath: string,
    hostPath: string,
    options?: Transfer.Options
  ) => Stream.Stream<Transfer.Event, MicrosandboxError>
  /** The state, looked up now. */
  readonly status: Effect.Effect<Status, MicrosandboxError>
  /**
   * Asks the sandbox to stop, waits for the grace, and then kills it, unless told not to. One that has stopped is no error. In a
   * cloud, which has no kill, it waits for 30 seconds at least instead.
   * Fails with `StopTimeout` when it may not kill, and with `KillTimeout` when a kill is not confirmed within 30 seconds.
   */
  readonly stop: (options?: StopOptions) => Effect.Effect<void, MicrosandboxError>
  /** Kills the VM and waits until it is gone. Fails with `KillTimeout` when that is not confirmed within 30 seconds. */
  readonly kill: Effect.Effect<void, MicrosandboxError>
  /**
   * Asks the VM to end when the programs in it have, and does not wait: new programs are refused from then on. One that has
   * stopped is no error.
   */
  readonly drain: Effect.Effect<void, MicrosandboxError>
  /** Waits until the VM has ended, whoever ends it; a sandbox that has stopped answers at once. */
  readonly wait: Effect.Effect<StopResult, MicrosandboxError>
  /**
   * Stops the sandbox as `stop` does and starts it again: the same name, id and disk in a new VM, with the configuration of
   * the next start. Programs in it end. When the start fails or is interrupted, the sandbox stays, stopped;
   * interrupted before that, its old VM may run on or end.
   */
  readonly restart: (options?: StopOptions) => Effect.Effect<void, MicrosandboxError>
  /** The round trip to the guest's agent. It does not count as activity. Fails with `AgentReadyTimeout` after 10 seconds. */
  readonly ping: Effect.Effect<Duration.Duration, MicrosandboxError>
  /** Counts as activity, so that the idle timeout starts anew; answers with the number of the activity. */
  readonly touch: Effect.Effect<number, MicrosandboxError>
  /** What the catalogue says now: its state, and its configuration for the next start and of the VM that runs. */
  readonly info: Effect.Effect<Info, MicrosandboxError>
  /**
   * Lets the sandbox run on when its scope closes, and when this process ends, if it is this process that started it: a VM
   * that another one started ends with that one.
   */
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
   * given. The engine starts every branch on its own, so when this process is killed, a watchdog ends the child within
   * seconds. A branch that fails, or that is interrupted, leaves no child, and this sandbox as it was. Connections of its guest with the outside do not go
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
   * When this is interrupted nothing goes on, and a snapshot that was being published is whole, and kept. One that is known
   * by its name only: `Snapshot.create`.
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
export const make = (options: Options): Effect.Effect<Sandbox, MicrosandboxError, Backend | Scope.Scope> =>
  makeWatched(options)

const makeWatched = Effect.fn("Sandbox.make")(function*(
  options: Options,
  boot?: Boot
): Effect.fn.Return<Sandbox, MicrosandboxError, Backend | Scope.Scope> {
  const { name = yield* freshName, onClose = "destroy", ...rest } = yield* decodeMake(options)
  yield* Effect.annotateCurrentSpan({
    "sandbox.name": name,
    "sandbox.image": withoutCredentials(imageText(rest.image))
  })
  const backend = yield* Backend
  const what = toNativeOptions({ ...rest, name, onClose })
  return yield* acquireSandbox(
    backend,
    { ...makeSubject, sandbox: name },
    { onClose, boot },
    (token, progress) => backend.handle.createSandbox(what, progress, token)
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
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
  const backend = yield* Backend
  return yield* acquireSandbox(
    backend,
    { ...startSubject, sandbox: name },
    { onClose, undo: () => "stop" },
    (token, progress) => backend.handle.startSandbox(name, onClose, progress, token)
  )
})

/** How long a connection to the guest's agent may take, as the engine has it. */
const connectTime = "10 seconds"

const connectSubject: Subject = { operation: "Sandbox.connect" }
const decodeConnect = decodeOptions(ConnectOptions, connectSubject)

/**
 * Connects to a sandbox that runs, whoever started it; the scope lets it run on, unless told otherwise.
 *
 * **Details**
 *
 * Reasons: `SandboxNotFound`, `SandboxNotRunning`, `SandboxPaused` (see {@link resume}), and `AgentClient` when its agent does
 * not answer within the timeout.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const connect = Effect.fn("Sandbox.connect")(function*(
  name: string,
  options: ConnectOptions = {}
): Effect.fn.Return<Sandbox, MicrosandboxError, Backend | Scope.Scope> {
  const { onClose = "detach", timeout = connectTime } = yield* decodeConnect({ ...options, name })
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
  const backend = yield* Backend
  return yield* acquireSandbox(
    backend,
    { ...connectSubject, sandbox: name },
    { onClose, undo: () => "detach" },
    (token) => backend.handle.connectSandbox(name, toMillis(timeout), token)
  )
})

/** What was there already runs on; what was begun here is stopped, and kept for the next time. */
const whenFound = (handle: Native.Sandbox): OnClose => handle.connected ? "detach" : "stop"

const connectOrCreateSubject: Subject = { operation: "Sandbox.connectOrCreate" }
const decodeConnectOrCreate = decodeOptions(SandboxOptions.Options, connectOrCreateSubject)

/**
 * Connects to the sandbox of a name when it runs, starts it when it has stopped, and makes it when there is none: for a
 * sandbox that is to be there from one run of a program to the next.
 *
 * **Details**
 *
 * An existing sandbox keeps its own configuration; the options are for making one, and `replace` is not among them. One that is
 * paused is a `SandboxPaused`. Whoever does the same at the same time
 * gets the same sandbox. When the scope closes, a sandbox that was made or started here is stopped and keeps its disk and
 * name, and one that ran already is let run on; `onClose` says otherwise for both.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const connectOrCreate = Effect.fn("Sandbox.connectOrCreate")(function*(
  options: Options & { readonly name: string }
): Effect.fn.Return<Sandbox, MicrosandboxError, Backend | Scope.Scope> {
  const { name, onClose, replace, ...rest } = yield* decodeConnectOrCreate(options)
  const refuse = (field: string, why: string) =>
    new MicrosandboxError({
      ...connectOrCreateSubject,
      reason: new InvalidConfig({ message: `${field}: ${why}`, field })
    })
  if (name === undefined) return yield* refuse("name", "which sandbox to connect to")
  if (replace !== undefined && replace !== false) {
    return yield* refuse("replace", "a sandbox that is there is connected to")
  }
  yield* Effect.annotateCurrentSpan({
    "sandbox.name": name,
    "sandbox.image": withoutCredentials(imageText(rest.image))
  })
  const backend = yield* Backend
  const what = toNativeOptions({ ...rest, name, onClose: onClose ?? "stop" })
  return yield* acquireSandbox(
    backend,
    { ...connectOrCreateSubject, sandbox: name },
    { onClose: (handle) => onClose ?? whenFound(handle), undo: whenFound },
    (token, progress) => backend.handle.connectOrCreateSandbox(what, toMillis(connectTime), progress, token)
  )
})

const decodeRestart = decodeOptions(
  Schema.Struct({ ...StartOptions.fields, ...StopSchema.fields }),
  { operation: "Sandbox.restart" }
)

/**
 * Stops a sandbox, by name, when it runs, and starts it: the scope stops it again, unless told otherwise. Fails with
 * `SandboxNotFound`, and with the reasons of `stop` and `start`.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const restart = Effect.fn("Sandbox.restart")(function*(
  name: string,
  options: StartOptions & StopOptions = {}
): Effect.fn.Return<Sandbox, MicrosandboxError, Backend | Scope.Scope> {
  const { onClose, ...how } = yield* decodeRestart({ ...options, name })
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
  yield* stop(name, { grace: how.grace, thenKill: how.thenKill })
  return yield* start(name, { onClose })
})

/**
 * Which sandboxes to list.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface ListOptions {
  /** Those that have all of these labels. Default: all sandboxes. */
  readonly labels?: Readonly<Record<string, string>> | undefined
  /** How many to ask for at a time, 1 to 100. Default: 100. */
  readonly pageSize?: number | undefined
}

const ListOptions = Schema.Struct({
  labels: Schema.optional(Schema.Record(Schema.String, Schema.String)),
  pageSize: Schema.optional(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 100 })))
})

const listSubject: Subject = { operation: "Sandbox.list" }
const decodeList = decodeOptions(ListOptions, listSubject)

/**
 * All sandboxes of the backend, the newest first, page by page as they are asked for.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const list = (options: ListOptions = {}): Stream.Stream<Info, MicrosandboxError, Backend> =>
  Stream.unwrap(Effect.gen(function*() {
    const { labels = {}, pageSize = 100 } = yield* decodeList(options)
    const { handle, native } = yield* Backend
    const page = (cursor: string | undefined) =>
      native.call((token) => handle.listSandboxes(defined({ labels, limit: pageSize, cursor }), token)).pipe(
        mapFailure(listSubject),
        Effect.withSpan("Sandbox.list")
      )
    return Stream.paginate(
      undefined as string | undefined,
      (cursor) =>
        Effect.map(
          page(cursor),
          ({ cursor, sandboxes }) =>
            [sandboxes.map(toInfo), cursor === undefined ? Option.none() : Option.some(cursor)] as const
        )
    )
  }))

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
  /**
   * A policy by its name, or more; `false`: no network, which a full snapshot that has one refuses. Default: the snapshot's.
   */
  readonly network?: false | NetworkPolicy.Preset | SandboxOptions.RestoredNetwork | undefined
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
  user: Schema.optional(Text.check(Schema.isMinLength(1))),
  labels: Schema.optional(Labels),
  maxDuration: Schema.optional(Lifetime),
  idleTimeout: Schema.optional(Lifetime),
  logLevel: Schema.optional(Schema.Literals(["error", "warn", "info", "debug", "trace"])),
  security: Schema.optional(Schema.Literals(["default", "restricted"])),
  forked: Schema.optional(Schema.Boolean),
  diskOnly: Schema.optional(Schema.Boolean),
  network: Schema.optional(SandboxOptions.RestoredNetwork),
  allowMissingResources: Schema.optional(Schema.Boolean),
  snapshotBase: Schema.optional(Text),
  onClose: Schema.optional(OnCloseSchema)
})

const restoreSubject: Subject = { operation: "Sandbox.restore" }
const decodeRestore = decodeOptions(RestoreOptions, restoreSubject)

/**
 * Makes a sandbox of a snapshot, by its reference (see the module `Snapshot`), or of an archive of one, by its path; and
 * ends it with the scope.
 *
 * **Details**
 *
 * A snapshot of a disk boots; a full one goes on where it was taken, with its memory and programs; when this
 * process is killed, a watchdog ends it within seconds. A restore that fails, or that is interrupted, leaves nothing, and the name is free. Reasons:
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
    diskOnly = false,
    forked = false,
    idleTimeout,
    labels = {},
    maxDuration,
    memory,
    name = yield* freshName,
    network,
    onClose = "destroy",
    ...rest
  } = yield* decodeRestore({ ...options, snapshot })
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
  const backend = yield* Backend
  // What goes on with its memory is detached, whatever is to become of it.
  yield* backend.watch
  return yield* acquireSandbox(
    backend,
    { ...restoreSubject, sandbox: name },
    { onClose },
    (token, progress) =>
      backend.handle.restoreSandbox(
        defined({
          ...rest,
          name,
          allowMissingResources,
          disableNetwork: network === false,
          ...toRestoredNetwork(network),
          diskOnly,
          forked,
          labels: { ...labels },
          memoryMib: someMebibytes(memory),
          maxDurationSecs: toSeconds(maxDuration),
          idleTimeoutSecs: toSeconds(idleTimeout),
          onClose
        }),
        progress,
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
    yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
    const { handle, native } = yield* Backend
    return yield* native.call((token) => run(handle, name, token)).pipe(mapFailure({ operation, sandbox: name }))
  })
}

/** The same of what only a backend on this machine can do. */
const byNameLocally = <A>(
  operation: string,
  run: (backend: Native.Backend, name: string, token: Native.CancelToken) => Promise<Native.Outcome<A>>
) => {
  const find = byName(operation, run)
  return (name: string): Effect.Effect<A, MicrosandboxError, Backend | Local> => Effect.flatMap(Local, () => find(name))
}

/**
 * Looks a sandbox up by name. Fails with `SandboxNotFound`.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const get = (name: string): Effect.Effect<Info, MicrosandboxError, Backend> => Effect.map(getInfo(name), toInfo)

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
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
  const { handle, native } = yield* Backend
  yield* native.call((token) => handle.stopSandbox(name, how, token)).pipe(
    mapFailure({ ...stopSubject, sandbox: name })
  )
})

/**
 * Asks a sandbox, by name, to end when the programs in it have, and does not wait. Fails with `SandboxNotFound`.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const drain: (name: string) => Effect.Effect<void, MicrosandboxError, Backend | Local> = byNameLocally(
  "Sandbox.drain",
  (backend, name, token) => backend.drainSandbox(name, token)
)

/**
 * Waits until a sandbox, by name, has ended; one that has stopped answers at once. Fails with `SandboxNotFound`.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const wait = (name: string): Effect.Effect<StopResult, MicrosandboxError, Backend> =>
  Effect.map(waitByName(name), toStopResult)

const waitByName = byName("Sandbox.wait", (backend, name, token) => backend.waitSandbox(name, token))

/**
 * Removes the sandboxes that programs left which ended without closing their scopes, by `kill -9` for one: only what was to
 * be destroyed with a scope, and whose owner is seen to be dead; never by a name. Building a local backend layer does it
 * too, unless told not to.
 *
 * **Details**
 *
 * The owner is on each sandbox as labels: its process, that process's start, the boot of the machine, and the engine in it. A
 * sandbox that was detached, or is kept when its scope closes, has none. (But for what the engine starts on its own, branches
 * and full restores: that is stopped.) An owner that cannot be judged from here counts as alive: one in another container, or of
 * another machine that shares the home. One sweep runs at a time on a home, and it takes at most a minute.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const sweep: Effect.Effect<SweepReport, MicrosandboxError, Backend | Local> = Effect.flatMap(
  localBackend,
  ({ handle, native }) => sweepBackend(native, handle)
)

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
export const kill: (name: string) => Effect.Effect<void, MicrosandboxError, Backend | Local> = byNameLocally(
  "Sandbox.kill",
  (backend, name, token) => backend.killSandbox(name, token)
)

const metricsSubject: Subject = { operation: "Sandbox.metrics" }
const decodeMetrics = decodeOptions(
  Schema.Struct({ name: Name, deadline: Schema.optional(Span) }),
  metricsSubject
)

/**
 * What a sandbox uses, by name: as `metrics` of a sandbox, with a deadline that can be chosen. Fails with `SandboxNotFound`,
 * `SandboxNotRunning`, `MetricsDisabled` or `MetricsNotReady`.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const metrics = Effect.fn("Sandbox.metrics")(function*(
  name: string,
  options: Metrics.SampleOptions = {}
): Effect.fn.Return<Metrics.Sample, MicrosandboxError, Backend | Local> {
  const { deadline = defaultDeadline } = yield* decodeMetrics({ ...options, name })
  const subject = { ...metricsSubject, sandbox: name }
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
  const { handle, native } = yield* localBackend
  const reading = yield* native.call((token) => handle.sandboxMetrics(name, toMillis(deadline), token)).pipe(
    mapFailure(subject)
  )
  return yield* sampleOf(subject, reading)
})

const logsSubject: Subject = { operation: "Sandbox.logs" }
const decodeLogs = decodeOptions(Schema.Struct({ name: Name, ...LogOptions.fields }), logsSubject)

/**
 * What was written in a sandbox, by name, also when it has stopped: as `logs` of a sandbox. Fails with `SandboxNotFound`.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const logs = Effect.fn("Sandbox.logs")(function*(
  name: string,
  options: Logs.Options = {}
): Effect.fn.Return<ReadonlyArray<Logs.Entry>, MicrosandboxError, Backend | Local> {
  const which = toNativeLogOptions(yield* decodeLogs({ ...options, name }))
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
  const { handle, native } = yield* localBackend
  return toEntries(
    yield* native.call((token) => handle.sandboxLogs(name, which, token)).pipe(
      mapFailure({ ...logsSubject, sandbox: name })
    )
  )
})

const logStreamSubject: Subject = { operation: "Sandbox.logStream" }
const decodeName = decodeOptions(NameOptions, logStreamSubject)
const decodeLogStream = decodeOptions(LogStreamOptions, logStreamSubject)

/**
 * What was written in a sandbox, as a stream, by name, also when it has stopped: as `logStream` of a sandbox. Fails with
 * `SandboxNotFound`, `InvalidCursor` or `MissedRotation`.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const logStream = (
  name: string,
  options: Logs.StreamOptions = {}
): Stream.Stream<Logs.Entry, MicrosandboxError, Backend> =>
  Stream.unwrap(Effect.gen(function*() {
    yield* decodeName({ name })
    const which = yield* decodeLogStream(options)
    const { handle, native } = yield* Backend
    return entries(
      native,
      { ...logStreamSubject, sandbox: name },
      which,
      (options, token) => handle.sandboxLogStream(name, options, token)
    )
  })).pipe(Stream.withSpan("Sandbox.logStream", { attributes: { "sandbox.name": name } }))

const pauseSubject: Subject = { operation: "Sandbox.pause" }
const decodePause = decodeOptions(Schema.Struct({ name: Name, ...PauseSchema.fields }), pauseSubject)

/**
 * Suspends the VM of a sandbox, by name, as `pause` of a sandbox does. Fails with `SandboxNotFound` or `SandboxNotRunning`.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const pause = Effect.fn("Sandbox.pause")(function*(
  name: string,
  options: PauseOptions = {}
): Effect.fn.Return<void, MicrosandboxError, Backend | Local> {
  const { guestFlush = "auto" } = yield* decodePause({ ...options, name })
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
  const { handle, native } = yield* localBackend
  yield* native.call((token) => handle.pauseSandbox(name, guestFlush, token)).pipe(
    mapFailure({ ...pauseSubject, sandbox: name })
  )
})

/**
 * Lets the paused VM of a sandbox run on, by name: the way back to one that was paused and let go. Fails with
 * `SandboxNotFound` or `SandboxNotRunning`.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const resume: (name: string) => Effect.Effect<void, MicrosandboxError, Backend | Local> = byNameLocally(
  "Sandbox.resume",
  (backend, name, token) => backend.resumeSandbox(name, token)
)

const modifyByName = (operation: string, apply: boolean) => {
  const decode = decodeOptions(Schema.Struct({ name: Name, ...modifyFields }), { operation })
  return Effect.fn(operation)(function*(
    name: string,
    changes: Modify.Changes,
    options: Modify.Options = {}
  ): Effect.fn.Return<Modify.Plan, MicrosandboxError, Backend | Local> {
    const [changed, how] = toNativeModify(yield* decode({ ...options, ...changes, name }), apply)
    yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
    const { handle, native } = yield* localBackend
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
) => Effect.Effect<Modify.Plan, MicrosandboxError, Backend | Local> = modifyByName("Sandbox.modify", true)

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
) => Effect.Effect<Modify.Plan, MicrosandboxError, Backend | Local> = modifyByName("Sandbox.modifyPlan", false)

/**
 * One sandbox for a whole program.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Sandbox, MicrosandboxError, Backend> =>
  Layer.effect(Sandbox, make(options))

/**
 * What a program finds in a guest as it would find it on a host.
 *
 * @stability unstable
 * @category services
 * @since 0.1.0
 */
export type Services = ChildProcessSpawner | FileSystem.FileSystem | Path.Path | Stdio.Stdio

/**
 * The services of a sandbox that is there: with them, a program that knows nothing of sandboxes runs in the guest.
 *
 * **Details**
 *
 * Programs, files and paths are the guest's. `Stdio` is the caller's or else this process's: what such a program prints is for
 * whoever runs it.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const servicesOf = (sandbox: Sandbox): Layer.Layer<Services> =>
  Layer.effectContext(Effect.map(hostStdio, (stdio) =>
    Context.make(ChildProcessSpawner, sandbox.spawner).pipe(
      Context.add(FileSystem.FileSystem, sandbox.fs),
      Context.add(Path.Path, sandbox.path),
      Context.add(Stdio.Stdio, stdio)
    )))

/**
 * One sandbox for a whole program that knows nothing of sandboxes: the services that `NodeServices.layer` has, of the guest.
 *
 * **When to use**
 *
 * Use to run an Effect program in a sandbox by giving it another layer. {@link servicesOf} does so with a sandbox that is
 * there already.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const services = (
  options: Options
): Layer.Layer<Services, MicrosandboxError, Backend> => Layer.unwrap(Effect.map(make(options), servicesOf))
