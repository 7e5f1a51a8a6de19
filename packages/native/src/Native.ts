/**
 * The native engine as a resource-managed Effect service.
 *
 * {@link Native} loads the addon, checks that it is the one that this package was built with, and owns everything that
 * runs in it. When its scope closes, new calls are refused, calls in flight are cancelled and awaited, and a handle that
 * is still alive is a leak that is told loudly.
 *
 * This module knows the addon and nothing of sandboxes: packages/core says what a call means.
 *
 * @stability unstable
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { type Addon, loadAddon, type LoadFailure, runtimePair } from "./internal/addon.ts"
import type * as Binding from "./internal/binding.ts"

/**
 * The addon's objects and plain data, for the modules that call it.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type {
  AgentClient,
  AgentFrame,
  AgentReady,
  AgentStream,
  Backend,
  BootStage,
  BranchOutcome,
  CancelToken,
  DestinationOptions,
  DnsOptions,
  Exec,
  ExecEvent,
  ExecOptions,
  ExecOutput,
  FileAttributes,
  FileEntry,
  FileInfo,
  GuestFile,
  HomeReport,
  ImageDetail,
  ImageInfo,
  ImagePrune,
  InterfaceOptions,
  LiveHandles,
  LogEntry,
  LogOptions,
  LogStream,
  LogStreamOptions,
  MetricsReading,
  MetricsSample,
  ModifyChanges,
  ModifyOptions,
  ModifyPlan,
  MountOptions,
  NetworkOptions,
  OpenOptions,
  Outcome,
  PatchOptions,
  PolicyOptions,
  Progress,
  ProgressEvent,
  ProxyOptions,
  PullImageOptions,
  RateLimitOptions,
  ResolvedPair,
  Sandbox,
  SandboxConfig,
  SandboxInfo,
  SandboxOptions,
  SecretOptions,
  Sftp,
  SftpFile,
  SnapshotDetail,
  SnapshotHead,
  SnapshotInfo,
  SnapshotLayer,
  SnapshotVerification,
  SshClient,
  SshClientOptions,
  SshCollected,
  SshExit,
  SshProgram,
  SshProgramOptions,
  SshServer,
  SshServerOptions,
  StopOptions,
  StopResult,
  TlsOptions,
  TransferEvent,
  TransferOptions,
  TransferProgress,
  Transferred,
  Tunnel,
  Volume,
  VolumeFile,
  VolumeInfo,
  VolumeOptions,
  VolumeReplacement
} from "./internal/binding.ts"

/**
 * The runtime version that this SDK launches, and no other.
 *
 * @stability unstable
 * @category constants
 * @since 0.1.0
 */
export { runtimeVersion } from "./internal/addon.ts"

/**
 * The version of this package and of its addon.
 *
 * @stability unstable
 * @category constants
 * @since 0.1.0
 */
export { addonVersion } from "./internal/addon.ts"

/**
 * The runtime pair of the platform's npm package. Undefined when it is not installed, or there is none.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export { runtimePair } from "./internal/addon.ts"

/**
 * Why a call failed, as plain data: the addon's own failures and those of loading it.
 *
 * @stability unstable
 * @category errors
 * @since 0.1.0
 */
export type Failure = Binding.Failure | LoadFailure

/**
 * A call of the addon failed, or the addon could not be loaded.
 *
 * @stability unstable
 * @category errors
 * @since 0.1.0
 */
export class NativeError extends Data.TaggedError("NativeError")<{ readonly failure: Failure }> {
  override get message(): string {
    return this.failure.message
  }
}

/**
 * What to do when the engine's scope closes while a handle is alive: a defect, or a warning in the log.
 *
 * **Details**
 *
 * The default is `"die"` under a test runner (`NODE_ENV` is `test`) and `"warn"` otherwise.
 *
 * @stability unstable
 * @category references
 * @since 0.1.0
 */
export const LeakPolicy: Context.Reference<"die" | "warn"> = Context.Reference<"die" | "warn">(
  "@effect-microsandbox/native/Native/LeakPolicy",
  { defaultValue: () => process.env.NODE_ENV === "test" ? "die" : "warn" }
)

/** A call of the addon: given the token that cancels it. */
type Call<A> = (token: Binding.CancelToken) => Promise<Binding.Outcome<A>>

/**
 * The engine, for the modules of this SDK.
 *
 * @stability unstable
 * @category services
 * @since 0.1.0
 */
export class Native extends Context.Service<Native, {
  /** The engine's own object: the start of every call. */
  readonly engine: Binding.Engine

  /**
   * Run one call of the addon.
   *
   * Interruption cancels the call and waits until the addon has acknowledged: what the call had begun is undone by then.
   * `received` sees the value as soon as it is there, also when the fiber was interrupted in that moment.
   */
  readonly call: <A>(run: Call<A>, received?: (value: A) => void) => Effect.Effect<A, NativeError>

  /**
   * Run a call that answers with a handle, and release the handle when the scope closes.
   *
   * The call itself can be interrupted; a handle that arrives too late is released at once.
   */
  readonly acquire: <A>(
    run: Call<A>,
    release: (handle: A) => Effect.Effect<void>
  ) => Effect.Effect<A, NativeError, Scope.Scope>

  /** Where one call that boots a sandbox says what it does. `listens`: its events will be read. */
  readonly makeProgress: (listens: boolean) => Binding.Progress

  /** Where one transfer says how far it is. */
  readonly makeTransferProgress: () => Binding.TransferProgress

  /** What is alive in the engine now. */
  readonly live: Effect.Effect<Binding.LiveHandles>
}>()("@effect-microsandbox/native/Native") {}

const makeCall = (addon: Addon): Native["Service"]["call"] => {
  // To make one costs as much as a short call does, and one that did not cancel anything is as good as new.
  const unused: Array<Binding.CancelToken> = []
  return (run, received) =>
    Effect.callback((resume) => {
      const token = unused.pop() ?? new addon.CancelToken()
      let isUnderWay = true
      let isCancelled = false
      const ended = () => {
        isUnderWay = false
        if (!isCancelled) unused.push(token)
      }
      const settled = start(run, token).then(
        (outcome) => {
          ended()
          switch (outcome._tag) {
            case "Ok":
              received?.(outcome.value)
              resume(Effect.succeed(outcome.value))
              break
            case "Failed":
              resume(Effect.fail(new NativeError({ failure: outcome.failure })))
              break
            case "Cancelled":
              // Not by this fiber, which no longer listens when it was: the engine is closing.
              resume(Effect.fail(closed))
          }
          return outcome
        },
        (defect: unknown) => {
          ended()
          resume(Effect.die(defect))
          return undefined
        }
      )
      return Effect.suspend(() => {
        // By now it may be another call's.
        if (isUnderWay) {
          isCancelled = true
          token.cancel()
        }
        return Effect.flatMap(Effect.promise(() => settled), (outcome) =>
          outcome?._tag === "Failed"
            ? Effect.logWarning("a cancelled call failed", outcome.failure)
            : Effect.void)
      })
    })
}

/** The addon throws at once, and not by its promise, when an argument has the wrong type. */
const start = <A>(run: Call<A>, token: Binding.CancelToken): Promise<Binding.Outcome<A>> => {
  try {
    return run(token)
  } catch (defect) {
    return Promise.reject(defect)
  }
}

const closed = new NativeError({
  failure: { _tag: "EngineClosed", message: "the engine is closed: its Native layer's scope has ended" }
})

const makeAcquire = (call: Native["Service"]["call"]): Native["Service"]["acquire"] => (run, release) =>
  Effect.uninterruptibleMask((restore) =>
    Effect.suspend(() => {
      let handle: { readonly value: Parameters<typeof release>[0] } | undefined
      return restore(call(run, (value) => {
        handle = { value }
      })).pipe(
        Effect.onError(() => handle === undefined ? Effect.void : release(handle.value)),
        Effect.tap((value) => Effect.addFinalizer(() => release(value)))
      )
    })
  )

const make = Effect.gen(function*() {
  const addon = yield* Effect.mapError(loadAddon, (failure) => new NativeError({ failure }))
  const pair = runtimePair()
  if (pair !== undefined && !addon.useRuntime(pair)) {
    return yield* new NativeError({
      failure: {
        _tag: "RuntimeConflict",
        message: `this process already launches another runtime pair than ${pair.msb}`,
        msb: pair.msb
      }
    })
  }
  const leakPolicy = yield* LeakPolicy
  const engine = yield* Effect.acquireRelease(
    Effect.sync(() => new addon.Engine()),
    (engine) => Effect.flatMap(Effect.promise(() => engine.close()), (live) => reportLeaks(live, leakPolicy))
  )
  const call = makeCall(addon)
  return Native.of({
    engine,
    call,
    acquire: makeAcquire(call),
    makeProgress: (listens) => new addon.Progress(listens),
    makeTransferProgress: () => new addon.TransferProgress(),
    live: Effect.sync(() => engine.live())
  })
})

const reportLeaks = (live: Binding.LiveHandles, policy: "die" | "warn"): Effect.Effect<void> => {
  const leaked = Object.entries(live).filter(([, count]) => count > 0)
  if (leaked.length === 0) return Effect.void
  const message = `the engine was closed with live handles: ${
    leaked.map(([kind, count]) => `${count} ${kind}`).join(", ")
  }`
  return policy === "die" ? Effect.die(new Error(message)) : Effect.logWarning(message)
}

/**
 * Loads the engine for as long as the scope is open.
 *
 * **Details**
 *
 * The runtime pair (`msb` and `libkrunfw`) is the one of the platform's npm package, handed to the engine by path;
 * `MSB_PATH` overrides it. The engine keeps one pair for a process.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Native, NativeError> = Layer.effect(Native, make)
