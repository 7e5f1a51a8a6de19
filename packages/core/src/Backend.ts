/**
 * Where sandboxes live.
 *
 * A backend is a service: provide a layer of this module once, at the program's edge, and every operation uses it;
 * provide another around an effect, and only that effect uses the other. Two fibers can use two backends at once. There
 * is no process-wide default to set.
 *
 * @stability unstable
 * @since 0.1.0
 */
import { Native } from "@effect-microsandbox/native"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { decodeOptions, mapFailure, toError } from "./internal/failure.ts"
import { defined, Text } from "./internal/inputs.ts"
import { sweepBackend } from "./internal/sweep.ts"
import { makeWatchdog } from "./internal/watchdog.ts"
import type { MicrosandboxError } from "./MicrosandboxError.ts"

/**
 * An open backend.
 *
 * @stability unstable
 * @category services
 * @since 0.1.0
 */
export class Backend extends Context.Service<Backend, {
  /** What kind of backend this is. */
  readonly kind: "local"
  /** The directory that holds its sandboxes, images and catalogue. */
  readonly home: string
  /** For the modules of this package: the engine, and the backend's object in it. */
  readonly native: Native.Native["Service"]
  readonly handle: Native.Backend
  /** For the same: from now on, what is left when this process is killed is swept at once, and not by the next program. */
  readonly watch: Effect.Effect<void>
}>()("@effect-microsandbox/core/Backend") {}

/**
 * Options of a local backend.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface LocalOptions {
  /**
   * Its directory. Made when it is missing; it must be writable, on a file system with user extended attributes, and its
   * path short (about 55 bytes): sockets live below it. Default: `MSB_HOME`, then `~/.microsandbox`.
   */
  readonly home?: string | undefined
  /**
   * Remove what dead programs left in the home while the layer is built (see `Sandbox.sweep`), and start a watchdog beside
   * the first branch or restore, which does the same when this process is killed. What cannot be removed is a warning in the log,
   * and no reason for the layer to fail. Default: true.
   */
  readonly sweep?: boolean | undefined
}

const LocalOptions = Schema.Struct({
  home: Schema.optional(Text.check(Schema.isMinLength(1))),
  sweep: Schema.optional(Schema.Boolean)
})

const openLocal = Effect.fn("Backend.layerLocal")(function*(options: LocalOptions) {
  const subject = { operation: "Backend.layerLocal" }
  const { home, sweep = true } = yield* decodeOptions(LocalOptions, subject)(options)
  const native = yield* Native.Native
  const handle = yield* native.acquire(
    (token) => native.engine.openLocal(defined({ home }), token),
    (handle) => Effect.promise(() => handle.close())
  ).pipe(mapFailure(subject))
  const directory = handle.home ?? ""
  if (sweep) yield* sweepQuietly(native, handle)
  return Backend.of({
    kind: "local",
    home: directory,
    native,
    handle,
    watch: sweep ? yield* makeWatchdog(directory) : Effect.void
  })
})

const sweepQuietly = (native: Native.Native["Service"], handle: Native.Backend): Effect.Effect<void> =>
  sweepBackend(native, handle).pipe(
    Effect.tap(({ removed }) =>
      removed.length > 0 ? Effect.logInfo("removed sandboxes that a dead program had left", { removed }) : Effect.void
    ),
    Effect.tap(({ failed }) =>
      failed.length > 0 ? Effect.logWarning("could not remove what a dead program had left", { failed }) : Effect.void
    ),
    Effect.catch((error) => Effect.logWarning("could not look for what dead programs had left", error))
  )

/**
 * A backend on this machine, on an engine that is in the context already.
 *
 * **When to use**
 *
 * Use it to run several backends on one engine, or in tests of the engine itself; {@link layerLocal} otherwise.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layerLocalNoDeps = (
  options: LocalOptions = {}
): Layer.Layer<Backend, MicrosandboxError, Native.Native> => Layer.effect(Backend, openLocal(options))

/**
 * A backend on this machine: each sandbox is a child process with a VM in it; there is no daemon.
 *
 * **Details**
 *
 * The home is checked when the layer is built: a path that is too long, that cannot be written, or that is on a file
 * system without user extended attributes is a reason of its own. What programs left in it that were killed is removed
 * first, unless told not to. Sandboxes and backends may share a home with other
 * processes and with the `msb` command line of the same version.
 *
 * **Example** (One backend for a program, another for one effect)
 *
 * ```ts
 * import { Backend, Sandbox } from "@effect-microsandbox/core"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const one = yield* Sandbox.make({ image: "alpine" })
 *   yield* Effect.scoped(Sandbox.make({ image: "alpine" })).pipe(
 *     Effect.provide(Backend.layerLocal({ home: "/tmp/other" }))
 *   )
 *   return one.name
 * })
 *
 * Effect.scoped(program).pipe(Effect.provide(Backend.layerLocal()))
 * ```
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layerLocal = (options: LocalOptions = {}): Layer.Layer<Backend, MicrosandboxError> =>
  layerLocalNoDeps(options).pipe(
    Layer.provide(layerEngine)
  )

const layerEngine = Native.layer.pipe(
  Layer.catchTag(
    "NativeError",
    (error) => Layer.effect(Native.Native, Effect.fail(toError({ operation: "Backend.layerLocal" }, error.failure)))
  )
)
