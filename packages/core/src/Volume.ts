/**
 * Volumes: storage of a backend by name, which outlives the sandboxes that mount it.
 *
 * **Details**
 *
 * A sandbox mounts one with `mounts: { "/data": { named: "cache" } }`. A volume is a directory of this host, whose files
 * this module gives as Effect's `FileSystem` without any VM, or the image of an ext4 disk, whose files only a guest can see.
 * The `msb` command line of the same version and home has the same volumes.
 *
 * A volume in a cloud is one of its control plane. Its files are read and written over HTTP, from the beginning to the end: there
 * are no links, nothing is appended, and owners, modes and times are not set. A file that is written takes its place when it is
 * closed, and not at all when its writer has failed. All of one file goes in one request, which has the `requestTimeout` of the
 * backend. What there is not fails with `Unsupported`; the files of a sandbox that mounts it have it all.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type { Native } from "@effect-microsandbox/native"
import type * as ByteSize from "effect/ByteSize"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import type * as Path from "effect/Path"
import type * as PlatformError from "effect/PlatformError"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { Backend } from "./Backend.ts"
import { decodeOptions, mapFailure, type Subject } from "./internal/failure.ts"
import { defined, Labels, Memory, someMebibytes } from "./internal/inputs.ts"
import * as checks from "./internal/optionChecks.ts"
import * as internal from "./internal/volume.ts"
import type { MicrosandboxError } from "./MicrosandboxError.ts"

export {
  /**
   * A volume as the backend's catalogue has it.
   *
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  Info
} from "./internal/volume.ts"

/**
 * What a volume is made as.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** Default: `"disk"` when there is a `size`, `"directory"` otherwise. */
  readonly kind?: "directory" | "disk" | undefined
  /** The size of a disk, in whole mebibytes, 68 MiB or more. Its image grows as it is written to. */
  readonly size?: ByteSize.Input | undefined
  /** How much guests may write to a directory, in whole mebibytes; this host may write more. Default: no limit. */
  readonly quota?: ByteSize.Input | undefined
  /** Labels to find it by. */
  readonly labels?: Readonly<Record<string, string>> | undefined
}

/**
 * Options of {@link make}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface MakeOptions extends Options {
  /** Default: a new one. */
  readonly name?: string | undefined
}

/**
 * Options of a volume's `writeAtomic`.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface WriteAtomicOptions {
  /** Of the file, without what the umask takes. Default: that of the file which is there, or 0o666. */
  readonly mode?: number | undefined
}

/**
 * An open volume. It is closed with the scope that opened it.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Volume {
  readonly [internal.TypeId]: internal.TypeId
  readonly name: string
  /** What the catalogue said of it when it was opened. */
  readonly info: internal.Info
  /**
   * The files of a directory volume, without a VM. A failure is a `PlatformError` with this SDK's error as its cause: the
   * reason of a file is `FileFailed`, that of a disk volume `Unsupported`.
   *
   * Paths are of the volume: `/` is its root, whatever it is mounted as, and a relative path begins there. Nothing that a
   * path or a link names is outside: `..` at the root stays there, and an absolute link leads from the root of the volume.
   * What is in it may be a hostile guest's. A FIFO, a socket and a device are seen but not opened.
   *
   * This is the host's view. By default the runtime keeps what a guest sees of modes, owners and kinds in an extended
   * attribute (`user.msb.override_stat`): a link that a guest makes is a file with its target here, and a mode that a guest
   * sets is not seen, unless it is mounted with `statVirtualization: "off"`. Content and names are the same on both sides.
   *
   * `watch` looks four times a second. `readFile` takes at most 1 GiB, a listing at most a million entries. Temporary files
   * are made at the root.
   */
  readonly fs: FileSystem.FileSystem
  /** Paths of the volume. */
  readonly path: Path.Path
  /**
   * Writes a whole file in one step: who reads it has all of the old content or all of the new. A link is followed. When
   * it or the stream that it reads fails, or it is interrupted, the old content stays, and nothing else; only a killed host
   * can leave a `.….part` beside it. What was written is on the disk when it answers. Without a mode, the file keeps that of
   * the one which was there, and what guests see of it.
   */
  readonly writeAtomic: <E = never, R = never>(
    path: string,
    data: string | Uint8Array | Stream.Stream<Uint8Array, E, R>,
    options?: WriteAtomicOptions
  ) => Effect.Effect<void, PlatformError.PlatformError | E, R>
}

const Name = Schema.String.check(checks.volumeName, Schema.isMaxLength(240))

const VolumeOptions = Schema.Struct({
  name: Name,
  kind: Schema.optional(Schema.Literals(["directory", "disk"])),
  size: Schema.optional(Memory),
  quota: Schema.optional(Memory),
  labels: Schema.optional(Labels)
}).check(checks.volume)

const toNativeOptions = ({ labels = {}, name, quota, size, kind = size === undefined ? "directory" : "disk" }: {
  readonly name: string
} & Options): Native.VolumeOptions =>
  defined({ name, kind, sizeMib: someMebibytes(size), quotaMib: someMebibytes(quota), labels })

const annotate = (name: string) => Effect.annotateCurrentSpan({ "volume.name": name })

const createSubject: Subject = { operation: "Volume.create" }
const decodeCreate = decodeOptions(VolumeOptions, createSubject)

/**
 * Makes a volume, which stays when the scope closes, and opens it.
 *
 * **Details**
 *
 * Fails with `VolumeAlreadyExists`, with `DiskFull`, or with `InvalidConfig`, which names the option. When it is interrupted,
 * the name is free again; one that was done in that moment is there, and whole. What a control plane has made without saying
 * so is taken back.
 *
 * **Example** (A file for a guest, and one from it)
 *
 * ```ts
 * import { Backend, Sandbox, Volume } from "@effect-microsandbox/core"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const { fs } = yield* Volume.create("data", { quota: "1 GiB" })
 *   yield* fs.writeFileString("input", "3 4")
 *   const sandbox = yield* Sandbox.make({ image: "alpine", mounts: { "/data": { named: "data" } } })
 *   yield* sandbox.shell("cd /data && tr ' ' + < input | bc > output")
 *   return yield* fs.readFileString("output")
 * })
 *
 * Effect.scoped(program).pipe(Effect.provide(Backend.layerLocal()))
 * ```
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const create = Effect.fn("Volume.create")(function*(
  name: string,
  options: Options = {}
): Effect.fn.Return<Volume, MicrosandboxError, Backend | Scope.Scope> {
  const what = toNativeOptions(yield* decodeCreate({ ...options, name }))
  yield* annotate(name)
  const backend = yield* Backend
  let kept = false
  yield* internal.acquire(backend, createSubject, what, () => !kept)
  const volume = yield* internal.open(backend, createSubject, name)
  kept = true
  return volume
})

const makeSubject: Subject = { operation: "Volume.make" }
const decodeMake = decodeOptions(VolumeOptions, makeSubject)

/**
 * Makes a volume that is removed with the scope, and opens it. Close what mounts it first: a volume that is in use then is a
 * defect.
 *
 * **When to use**
 *
 * Use it for what a few sandboxes share for the length of an effect, and in tests; {@link create} for what is to stay.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fn("Volume.make")(function*(
  options: MakeOptions = {}
): Effect.fn.Return<Volume, MicrosandboxError, Backend | Scope.Scope> {
  const { name = `volume-${crypto.randomUUID().slice(0, 13)}`, ...rest } = options
  const what = toNativeOptions(yield* decodeMake({ ...rest, name }))
  yield* annotate(name)
  const backend = yield* Backend
  yield* internal.acquire(backend, makeSubject, what, () => true)
  return yield* internal.open(backend, makeSubject, name)
})

const byName = <A>(
  operation: string,
  run: (backend: Native.Backend, name: string, token: Native.CancelToken) => Promise<Native.Outcome<A>>
) => {
  const decode = decodeOptions(Schema.Struct({ name: Name }), { operation })
  return Effect.fn(operation)(function*(name: string): Effect.fn.Return<A, MicrosandboxError, Backend> {
    yield* decode({ name })
    yield* annotate(name)
    const { handle, native } = yield* Backend
    return yield* native.call((token) => run(handle, name, token)).pipe(mapFailure({ operation }))
  })
}

const openSubject: Subject = { operation: "Volume.open" }
const decodeOpen = decodeOptions(Schema.Struct({ name: Name }), openSubject)

/**
 * Opens a volume that exists, whoever made it. Fails with `VolumeNotFound`.
 *
 * **Details**
 *
 * When it is removed and made anew while it is open, this one is still the old one, which is empty.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const open = Effect.fn("Volume.open")(function*(
  name: string
): Effect.fn.Return<Volume, MicrosandboxError, Backend | Scope.Scope> {
  yield* decodeOpen({ name })
  yield* annotate(name)
  return yield* internal.open(yield* Backend, openSubject, name)
})

/**
 * Opens the default volume of a cloud, which all of its sandboxes can share. It has no name: its `name` is empty. A backend on
 * this machine has none, and the reason is `Unsupported`.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const openDefault: Effect.Effect<Volume, MicrosandboxError, Backend | Scope.Scope> = Effect.flatMap(
  Backend,
  (backend) => internal.open(backend, { operation: "Volume.openDefault" }, "")
).pipe(Effect.withSpan("Volume.openDefault"))

/**
 * Looks a volume up by name. Fails with `VolumeNotFound`.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const get = (name: string): Effect.Effect<internal.Info, MicrosandboxError, Backend> =>
  Effect.map(getInfo(name), internal.toInfo)

const getInfo = byName("Volume.get", (backend, name, token) => backend.getVolume(name, token))

/**
 * All volumes of the backend, the newest first.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const list: Effect.Effect<ReadonlyArray<internal.Info>, MicrosandboxError, Backend> = Effect.gen(function*() {
  const { handle, native } = yield* Backend
  const volumes = yield* native.call((token) => handle.listVolumes(token)).pipe(
    mapFailure({ operation: "Volume.list" })
  )
  return volumes.map(internal.toInfo)
}).pipe(Effect.withSpan("Volume.list"))

/**
 * Removes a volume with all that is in it. Fails with `VolumeNotFound`, or with `VolumeInUse` while a sandbox that starts,
 * runs, drains or is paused mounts it; one that has stopped loses it. A removal that has begun goes on when it is
 * interrupted.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const remove: (name: string) => Effect.Effect<void, MicrosandboxError, Backend> = byName(
  "Volume.remove",
  (backend, name, token) => backend.removeVolume(name, token)
)
