/**
 * Where sandboxes live.
 *
 * A backend is a service: provide a layer of this module once, at the program's edge, and every operation uses it;
 * provide another around an effect, and only that effect uses the other. Two fibers can use two backends at once. There
 * is no process-wide default to set.
 *
 * What only a backend on this machine can do asks for {@link Local} too, which {@link layerLocal} provides and
 * {@link layerCloud} does not: a program that has only a cloud and pulls an image into it does not compile. What is known of
 * a sandbox only when it runs, such as pausing it, fails with `Unsupported` and says the operation and the reason.
 *
 * @stability unstable
 * @since 0.1.0
 */
import { Native } from "@effect-microsandbox/native"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as LayerMap from "effect/LayerMap"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { decodeOptions, mapFailure, type Subject, toError } from "./internal/failure.ts"
import { defined, Millis, Text, toMillis } from "./internal/inputs.ts"
import { select, type Selected, selectProfile, Source } from "./internal/profile.ts"
import { sweepBackend } from "./internal/sweep.ts"
import { makeWatchdog } from "./internal/watchdog.ts"
import { InvalidConfig, MicrosandboxError, Unsupported } from "./MicrosandboxError.ts"

/**
 * What is known of a backend. It has no secret.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Info extends Schema.Class<Info>("@effect-microsandbox/core/Backend/Info")({
  kind: Schema.Literals(["local", "cloud"]),
  /** The directory of a local one. */
  home: Schema.optionalKey(Schema.String),
  /** The address of the control plane of a cloud. */
  url: Schema.optionalKey(Schema.String),
  /**
   * What named it: the program (`"programmatic"`), a variable of the environment, a profile that the program named
   * (`"profile"`), the active one of the configuration file, or nothing at all.
   */
  source: Source,
  /** The name of the profile that it was made of. */
  profile: Schema.optionalKey(Schema.String)
}) {}

/**
 * An open backend.
 *
 * @stability unstable
 * @category services
 * @since 0.1.0
 */
export class Backend extends Context.Service<Backend, {
  /** What kind of backend this is. */
  readonly kind: "local" | "cloud"
  /** The directory of a local backend, with its sandboxes, images and catalogue. {@link Local} has it without a doubt. */
  readonly home: string | undefined
  readonly info: Info
  /** For the modules of this package: the engine, and the backend's object in it. */
  readonly native: Native.Native["Service"]
  readonly handle: Native.Backend
  /** For the same: from now on, what is left when this process is killed is swept at once, and not by the next program. */
  readonly watch: Effect.Effect<void>
}>()("@effect-microsandbox/core/Backend") {}

/**
 * That the backend is one on this machine.
 *
 * **When to use**
 *
 * Nothing needs it but the operations that ask for it: images, metrics of all sandboxes, archives of snapshots, the runtime.
 * {@link requireLocal} gives it to a program whose backend is known only when it runs.
 *
 * @stability unstable
 * @category services
 * @since 0.1.0
 */
export class Local extends Context.Service<Local, {
  /** The directory that holds its sandboxes, images and catalogue. */
  readonly home: string
}>()("@effect-microsandbox/core/Backend/Local") {}

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

const localFields = {
  home: Schema.optional(Text.check(Schema.isMinLength(1))),
  sweep: Schema.optional(Schema.Boolean)
}

const LocalOptions = Schema.Struct(localFields)

/**
 * Options of a cloud backend.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface CloudOptions {
  /**
   * The address of its control plane, `http://` or `https://`, without a user, a query or a fragment. Default: the engine's
   * own, `https://api.microsandbox.dev`.
   */
  readonly url?: string | undefined
  /** Says whose sandboxes these are. It is in no error, log or span. */
  readonly apiKey: Redacted.Redacted<string>
  /**
   * How long one request may take, its answer included; a boot has 95 seconds. Logs that are followed go on after it: the
   * engine asks anew, from the last entry. Default: 30 seconds.
   */
  readonly requestTimeout?: Duration.Input | undefined
}

const CloudOptions = Schema.Struct({
  url: Schema.optional(Text),
  apiKey: Schema.Redacted(Schema.String),
  requestTimeout: Schema.optional(Millis)
})

type Named = Pick<Info, "source" | "profile">

const programmatic: Named = { source: "programmatic" }

const openLocal = Effect.fnUntraced(function*(subject: Subject, options: LocalOptions, named: Named) {
  const { home, sweep = true } = yield* decodeOptions(LocalOptions, subject)(options)
  const native = yield* Native.Native
  const handle = yield* native.acquire(
    (token) => native.engine.openLocal(defined({ home }), token),
    (handle) => Effect.promise(() => handle.close())
  ).pipe(mapFailure(subject))
  const directory = handle.home ?? ""
  if (sweep) yield* sweepQuietly(native, handle)
  const backend = Backend.of({
    kind: "local",
    home: directory,
    info: new Info({ kind: "local", home: directory, ...named }),
    native,
    handle,
    watch: sweep ? yield* makeWatchdog(directory) : Effect.void
  })
  return Context.make(Backend, backend).pipe(Context.add(Local, { home: directory }))
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

/** Without what was given: an address can have a password in it, and a key must not be told at all. */
const refuse = (subject: Subject, field: string, why: string) =>
  new MicrosandboxError({ ...subject, reason: new InvalidConfig({ message: `${field}: ${why}`, field }) })

const isAddress = (text: string): boolean => {
  const url = URL.parse(text)
  return url !== null && /^https?:$/.test(url.protocol) && url.username === "" && url.password === "" &&
    url.search === "" && url.hash === "" && !/[?#\s]/.test(text)
}

const openCloud = Effect.fnUntraced(function*(subject: Subject, options: CloudOptions, named: Named) {
  const { apiKey, requestTimeout, url } = yield* decodeOptions(CloudOptions, subject)(options)
  const key = Redacted.value(apiKey).trim()
  if (!/^[\x21-\x7e]+$/.test(key)) return yield* refuse(subject, "apiKey", "must be printable ASCII without spaces")
  if (url !== undefined && !isAddress(url)) {
    return yield* refuse(subject, "url", "must be http:// or https://, without a user, a query or a fragment")
  }
  const native = yield* Native.Native
  const what = {
    apiKey: key,
    ...defined({ url, requestTimeoutMs: requestTimeout === undefined ? undefined : toMillis(requestTimeout) })
  }
  const handle = yield* native.acquire(
    (token) => native.engine.openCloud(what, token),
    (handle) => Effect.promise(() => handle.close())
  ).pipe(mapFailure(subject))
  return Context.make(
    Backend,
    Backend.of({
      kind: "cloud",
      home: undefined,
      info: new Info({ kind: "cloud", ...defined({ url: handle.url ?? undefined }), ...named }),
      native,
      handle,
      watch: Effect.void
    })
  )
})

const localSubject: Subject = { operation: "Backend.layerLocal" }
const cloudSubject: Subject = { operation: "Backend.layerCloud" }
const profileSubject: Subject = { operation: "Backend.layerProfile" }
const layerSubject: Subject = { operation: "Backend.layer" }

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
): Layer.Layer<Backend | Local, MicrosandboxError, Native.Native> =>
  Layer.effectContext(openLocal(localSubject, options, programmatic).pipe(Effect.withSpan("Backend.layerLocal")))

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
export const layerLocal = (options: LocalOptions = {}): Layer.Layer<Backend | Local, MicrosandboxError> =>
  layerLocalNoDeps(options).pipe(
    Layer.provide(layerEngine(localSubject))
  )

/**
 * A cloud backend, on an engine that is in the context already.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layerCloudNoDeps = (options: CloudOptions): Layer.Layer<Backend, MicrosandboxError, Native.Native> =>
  Layer.effectContext(openCloud(cloudSubject, options, programmatic).pipe(Effect.withSpan("Backend.layerCloud")))

/**
 * A backend on a control plane somewhere else, over HTTP: the hosted one, or one of your own.
 *
 * **Details**
 *
 * Nothing is sent while the layer is built. Sandboxes, programs, files, tunnels, logs that are followed, volumes and
 * snapshots of disks are as they are on this machine. There is no kill there: where one would be allowed, a stop waits for
 * 30 seconds at least. What a control plane refuses has its own reason: `CloudHttp` with its status and code,
 * `SandboxNotFound`, `SandboxAlreadyExists`, `InvalidConfig`, and so on; `Http` when it cannot be reached, and `Json` when
 * its answer makes no sense. What it does not have fails with `Unsupported`.
 *
 * A create that fails or is interrupted is taken back: what came of it is found by a label of its own. When this process is
 * killed, its sandboxes there run on, and nothing sweeps them.
 *
 * **Example** (A sandbox in a cloud)
 *
 * ```ts
 * import { Backend, Sandbox } from "@effect-microsandbox/core"
 * import { Config, Effect, Layer } from "effect"
 *
 * const cloud = Layer.unwrap(Effect.map(Config.Redacted("MSB_API_KEY"), (apiKey) => Backend.layerCloud({ apiKey })))
 *
 * const program = Effect.gen(function*() {
 *   const sandbox = yield* Sandbox.make({ image: "alpine" })
 *   return yield* sandbox.exec("uname", ["-a"])
 * })
 *
 * Effect.scoped(program).pipe(Effect.provide(cloud))
 * ```
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layerCloud = (options: CloudOptions): Layer.Layer<Backend, MicrosandboxError> =>
  layerCloudNoDeps(options).pipe(Layer.provide(layerEngine(cloudSubject)))

const openSelected = (
  subject: Subject,
  { sweep }: LocalOptions,
  selected: Selected
): Effect.Effect<Context.Context<Backend>, MicrosandboxError, Native.Native | Scope.Scope> => {
  const named = defined({ source: selected.source, profile: selected.profile })
  return selected.kind === "local"
    ? openLocal(subject, { home: selected.home, sweep }, named)
    : openCloud(subject, { apiKey: selected.apiKey, url: selected.url }, named)
}

/**
 * The backend of a profile of the engine's configuration file: `MSB_CONFIG_PATH`, or `config.json` in the home.
 *
 * **Details**
 *
 * A profile says `backend` (`"local"` or `"cloud"`) and, for a cloud, `url` and `api_key_ref`: `env:NAME` for a variable,
 * or `inline:KEY`. A key in a keyring (`keyring:…`) is `Unsupported`. The file is the engine's own; nothing else in it is read
 * here. Variables are read from the `ConfigProvider`. What is wrong is an `InvalidConfig` that names the field.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layerProfile = (name: string, options: LocalOptions = {}): Layer.Layer<Backend, MicrosandboxError> =>
  Layer.effectContext(
    Effect.gen(function*() {
      const { home } = yield* decodeOptions(LocalOptions, profileSubject)(options)
      return yield* openSelected(profileSubject, options, yield* selectProfile(profileSubject, name, home))
    }).pipe(Effect.withSpan("Backend.layerProfile"))
  ).pipe(Layer.provide(layerEngine(profileSubject)))

/**
 * The backend that the environment names, by the rule of the engine.
 *
 * **Details**
 *
 * The first of these decides: `MSB_BACKEND` (`local`, or `cloud` with `MSB_API_KEY` and, if you like, `MSB_API_URL`);
 * `MSB_PROFILE`; `active_profile` of the configuration file (see {@link layerProfile}); and otherwise it is local. A key alone
 * never selects a cloud. All of it is read from the `ConfigProvider`, each time that the layer is built.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: LocalOptions = {}): Layer.Layer<Backend, MicrosandboxError> =>
  Layer.effectContext(
    Effect.gen(function*() {
      const { home } = yield* decodeOptions(LocalOptions, layerSubject)(options)
      return yield* openSelected(layerSubject, options, yield* select(layerSubject, home))
    }).pipe(Effect.withSpan("Backend.layer"))
  ).pipe(Layer.provide(layerEngine(layerSubject)))

/**
 * {@link Local}, when the backend is one on this machine. Fails with `Unsupported` otherwise.
 *
 * **Example** (Images, wherever the environment says)
 *
 * ```ts
 * import { Backend, Image } from "@effect-microsandbox/core"
 * import { Effect, Layer } from "effect"
 *
 * const local = Backend.requireLocal.pipe(Layer.provideMerge(Backend.layer()))
 *
 * Image.pull("alpine").pipe(Effect.provide(local))
 * ```
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const requireLocal: Layer.Layer<Local, MicrosandboxError, Backend> = Layer.effect(
  Local,
  Effect.flatMap(Backend, ({ home }) =>
    home === undefined
      ? Effect.fail(
        new MicrosandboxError({
          operation: "Backend.requireLocal",
          reason: new Unsupported({
            message: "this is for a local backend, and the backend is a cloud",
            operation: "Backend.requireLocal",
            reason: "LocalOnly",
            hint: "use a local backend"
          })
        })
      )
      : Effect.succeed(Local.of({ home })))
)

/**
 * What is known of the backend.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const info: Effect.Effect<Info, never, Backend> = Effect.map(Backend, ({ info }) => info)

/**
 * What kind of backend it is.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const kind: Effect.Effect<"local" | "cloud", never, Backend> = Effect.map(Backend, ({ kind }) => kind)

/**
 * One backend of {@link Map}: by a profile, or by the options of {@link layerLocal} or {@link layerCloud}.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Key =
  | { readonly profile: string }
  | { readonly local: LocalOptions }
  | { readonly cloud: CloudOptions }

const layerOf = (key: Key): Layer.Layer<Backend, MicrosandboxError> =>
  "cloud" in key ? layerCloud(key.cloud) : "local" in key ? layerLocal(key.local) : layerProfile(key.profile)

/**
 * Many backends in one program: each is opened when it is first asked for, shared by those who ask for an equal key, and closed
 * when the last of them is done.
 *
 * **Example** (The same work on two backends at once)
 *
 * ```ts
 * import { Backend, Sandbox } from "@effect-microsandbox/core"
 * import { Effect, Stream } from "effect"
 *
 * const count = Stream.runCount(Sandbox.list())
 *
 * const counts = Effect.forEach(
 *   ["here", "there"],
 *   (profile) => Effect.provide(count, Backend.Map.get({ profile })),
 *   { concurrency: "unbounded" }
 * )
 *
 * Effect.provide(counts, Backend.Map.layer)
 * ```
 *
 * @stability unstable
 * @category services
 * @since 0.1.0
 */
export class Map extends LayerMap.Service<Map>()("@effect-microsandbox/core/Backend/Map", {
  lookup: layerOf
}) {}

/** One layer for each place that can fail, so that all backends of a place share an engine. */
const layerEngine = (subject: Subject): Layer.Layer<Native.Native, MicrosandboxError> =>
  Native.layer.pipe(
    Layer.catchTag(
      "NativeError",
      (error) => Layer.effect(Native.Native, Effect.fail(toError(subject, error.failure)))
    )
  )
