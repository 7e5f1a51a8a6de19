/**
 * Images: what sandboxes are made of, on this machine and on its way here.
 *
 * A sandbox pulls its image by itself. Pull one with this module to have it before it is needed, or to see it come; look at
 * what is here, remove what is not wanted any more, and carry images in archives where there is no registry.
 *
 * The catalogue and the cache are those of the backend's home, which other programs and the `msb` command line of the same
 * version share: what one has, all have. A reference is looked up as it was given when the image came: `alpine` and
 * `docker.io/library/alpine:latest` are two entries of one image.
 *
 * Images are a local backend's: everything here asks for `Backend.Local`. A control plane pulls what it needs by itself.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type { Native } from "@effect-microsandbox/native"
import * as ByteSize from "effect/ByteSize"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { Backend, Local } from "./Backend.ts"
import { type Boot, makeBoot, streamBoot } from "./internal/boot.ts"
import { decodeOptions, mapFailure, type Subject } from "./internal/failure.ts"
import * as internal from "./internal/image.ts"
import { localBackend } from "./internal/local.ts"
import { withoutCredentials } from "./internal/operation.ts"
import { optionalSize } from "./internal/size.ts"
import type { MicrosandboxError } from "./MicrosandboxError.ts"
import type * as Progress from "./Progress.ts"
import type * as SandboxOptions from "./SandboxOptions.ts"

// -----------------------------------------------------------------------------
// Models
// -----------------------------------------------------------------------------

/**
 * An image as the catalogue has it.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Info extends Schema.Class<Info>("@effect-microsandbox/core/Image/Info")({
  /** As it was given when the image came. */
  reference: Schema.String,
  /** Of its manifest, `sha256:…`. Of an image for several platforms it is this platform's. */
  digest: Schema.optionalKey(Schema.String),
  /** The platform that it was pulled for, which is the host's, whatever the image says of itself. */
  os: Schema.optionalKey(Schema.String),
  architecture: Schema.optionalKey(Schema.String),
  layerCount: Schema.Int,
  /** Of its layers as they were downloaded or loaded. */
  size: optionalSize,
  createdAt: Schema.optionalKey(Schema.DateTimeUtc),
  /** When it was last pulled, loaded or made a sandbox of. */
  lastUsedAt: Schema.optionalKey(Schema.DateTimeUtc)
}) {}

/**
 * What an image says of the program that it is for.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Config extends Schema.Class<Config>("@effect-microsandbox/core/Image/Config")({
  digest: Schema.String,
  /** `NAME=value`, as the image has them. */
  env: Schema.Array(Schema.String),
  cmd: Schema.optionalKey(Schema.Array(Schema.String)),
  entrypoint: Schema.optionalKey(Schema.Array(Schema.String)),
  workdir: Schema.optionalKey(Schema.String),
  user: Schema.optionalKey(Schema.String),
  labels: Schema.Record(Schema.String, Schema.String),
  /** Never there in 0.7.2: the engine does not keep it. */
  stopSignal: Schema.optionalKey(Schema.String)
}) {}

/**
 * A layer of an image.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Layer extends Schema.Class<Layer>("@effect-microsandbox/core/Image/Layer")({
  /** Of the layer before it was compressed: the same layer has the same one, whoever compressed it. */
  diffId: Schema.String,
  /** Of the layer as it was downloaded. */
  digest: Schema.String,
  mediaType: Schema.optionalKey(Schema.String),
  /** As it was downloaded. */
  size: optionalSize,
  /** What it takes in the cache. Absent when it is not there, or only as part of a flat root. */
  unpackedSize: optionalSize
}) {}

/**
 * Everything that the catalogue has of an image.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Detail extends Schema.Class<Detail>("@effect-microsandbox/core/Image/Detail")({
  image: Info,
  config: Schema.optionalKey(Config),
  /** The lowest first. */
  layers: Schema.Array(Layer)
}) {}

/**
 * What a {@link prune} removed.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class PruneReport extends Schema.Class<PruneReport>("@effect-microsandbox/core/Image/PruneReport")({
  /** Entries of {@link list}. */
  references: Schema.Int,
  manifests: Schema.Int,
  layers: Schema.Int,
  /** Files that joined the layers of an image. */
  fsmeta: Schema.Int,
  vmdk: Schema.Int,
  /** What the files took that were removed. */
  reclaimed: Schema.ByteSize
}) {}

/**
 * The last element of {@link pullStream}.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Ready {
  readonly _tag: "Ready"
  readonly image: Info
}

const toInfo = (info: Native.ImageInfo): Info => new Info(internal.infoFields(info))

// -----------------------------------------------------------------------------
// Pulling
// -----------------------------------------------------------------------------

/**
 * Options of a pull.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface PullOptions {
  /**
   * `"always"` asks the registry whether the image has changed and downloads the layers that are not here; `"if-missing"`
   * asks it when the image is not here; `"never"` does not ask it: what is not here is `ImageNotCached`. Default:
   * `"if-missing"`.
   */
  readonly pullPolicy?: "always" | "if-missing" | "never" | undefined
  /** How to ask the registry, and who asks. */
  readonly registry?: SandboxOptions.Registry | undefined
  /**
   * The platform that the image must be for: `linux/amd64`, `linux/arm64` or, for one of the variants of an image,
   * `linux/arm64/v8`. It can only be the host's: the cache has one image for a reference, and sandboxes of it run on this
   * processor, so that another's would be taken for the host's. Another is `Unsupported`, before anything is asked. Default:
   * the host's, and an image that comes for one platform only is taken as it is.
   */
  readonly platform?: string | undefined
  /** Make the root of it that a sandbox with `rootDisk: { flat: true }` takes, instead of the layered one. Default: false. */
  readonly flat?: boolean | undefined
}

const pullSubject: Subject = { operation: "Image.pull" }
const decodePull = decodeOptions(internal.Pull, pullSubject)

/**
 * Pulls an image from its registry into the cache, and enters it into the catalogue.
 *
 * **Details**
 *
 * An interruption ends the downloads before it answers. What has come of a layer is kept, and the next pull goes on there,
 * if the registry can (HTTP ranges). Two pulls of one image do its work once. Reasons: `ImageNotFound`, `ImageUnauthorized`
 * (some registries answer so for what does not exist), `ImageRateLimited`, `ImageTls`, `ImageDigestMismatch`,
 * `ImagePlatformNotFound`, `ImageNotCached`, `DiskFull`, `ImageRegistry` for any other answer of the registry or the way to
 * it, and `InvalidConfig`, which names the option.
 *
 * **Example** (An image from a private registry)
 *
 * ```ts
 * import { Image } from "@effect-microsandbox/core"
 * import { Config, Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const password = yield* Config.Redacted("REGISTRY_PASSWORD")
 *   return yield* Image.pull("registry.example.com/team/app:1", {
 *     registry: { auth: { username: "ci", password } }
 *   })
 * })
 * ```
 *
 * @stability unstable
 * @category pulling
 * @since 0.1.0
 */
export const pull = (
  reference: string,
  options: PullOptions = {}
): Effect.Effect<Info, MicrosandboxError, Backend | Local> => pullWatched(reference, options)

const pullWatched = Effect.fn("Image.pull")(function*(
  reference: string,
  options: PullOptions,
  boot?: Boot
): Effect.fn.Return<Info, MicrosandboxError, Backend | Local> {
  const decoded = yield* decodePull({ ...options, reference })
  yield* Effect.annotateCurrentSpan({ "image.reference": withoutCredentials(reference) })
  const { handle, native } = yield* localBackend
  const { progress } = boot ?? (yield* makeBoot(native))
  const pulled = native.call((token) => handle.pullImage(internal.toNativePull(decoded), progress, token))
  return toInfo(yield* mapFailure(pullSubject)(pulled))
})

/**
 * Pulls an image as {@link pull} does, and says what it is doing: the bytes and phases of each layer, and at last the image.
 *
 * **Details**
 *
 * The events are those of a sandbox's boot, and `Progress.render` draws them. The pull begins with whoever runs the stream,
 * and ends with them: leaving the stream ends the downloads. A slow reader does not slow the pull. It fails as `pull` does.
 *
 * **Example** (A pull that can be watched)
 *
 * ```ts
 * import { Image, Progress } from "@effect-microsandbox/core"
 * import { Stream } from "effect"
 *
 * const pull = Image.pullStream("alpine").pipe(Progress.render, Stream.runDrain)
 * ```
 *
 * @stability unstable
 * @category pulling
 * @since 0.1.0
 */
export const pullStream = (
  reference: string,
  options: PullOptions = {}
): Stream.Stream<Progress.Event | Ready, MicrosandboxError, Backend | Local> =>
  Stream.fromEffect(localBackend).pipe(
    Stream.flatMap(({ native }) =>
      streamBoot(
        native,
        pullSubject,
        (boot) => pullWatched(reference, options, boot),
        (image): Ready => ({ _tag: "Ready", image })
      )
    ),
    Stream.scoped
  )

// -----------------------------------------------------------------------------
// What is here
// -----------------------------------------------------------------------------

/**
 * The images that are here, the newest first.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const list: Effect.Effect<ReadonlyArray<Info>, MicrosandboxError, Backend | Local> = Effect.gen(function*() {
  const { handle, native } = yield* localBackend
  const found = yield* native.call((token) => handle.listImages(token)).pipe(mapFailure({ operation: "Image.list" }))
  return found.map(toInfo)
}).pipe(Effect.withSpan("Image.list"))

const getSubject: Subject = { operation: "Image.get" }
const decodeGet = decodeOptions(internal.Reference, getSubject)

/**
 * An image that is here, by the reference that {@link list} has. `ImageNotFound` when it is not.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const get = Effect.fn("Image.get")(function*(
  reference: string
): Effect.fn.Return<Info, MicrosandboxError, Backend | Local> {
  yield* decodeGet({ reference })
  yield* Effect.annotateCurrentSpan({ "image.reference": withoutCredentials(reference) })
  const { handle, native } = yield* localBackend
  return toInfo(yield* native.call((token) => handle.getImage(reference, token)).pipe(mapFailure(getSubject)))
})

const inspectSubject: Subject = { operation: "Image.inspect" }
const decodeInspect = decodeOptions(internal.Reference, inspectSubject)

/**
 * Everything about an image that is here: what it runs, and its layers. `ImageNotFound` when it is not.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const inspect = Effect.fn("Image.inspect")(function*(
  reference: string
): Effect.fn.Return<Detail, MicrosandboxError, Backend | Local> {
  yield* decodeInspect({ reference })
  yield* Effect.annotateCurrentSpan({ "image.reference": withoutCredentials(reference) })
  const { handle, native } = yield* localBackend
  const { config, image, layers } = yield* native.call((token) => handle.inspectImage(reference, token)).pipe(
    mapFailure(inspectSubject)
  )
  return new Detail({
    image: toInfo(image),
    ...config === undefined ? {} : { config: new Config(config) },
    layers: layers.map((layer) => new Layer(internal.layerFields(layer)))
  })
})

// -----------------------------------------------------------------------------
// Removing
// -----------------------------------------------------------------------------

/**
 * Options of a removal.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface RemoveOptions {
  /**
   * Also when sandboxes are made of it: its name goes, and what they need stays under its digest (`…@sha256:…`), until
   * {@link prune} finds that nobody needs it any more. Default: false.
   */
  readonly force?: boolean | undefined
}

const removeSubject: Subject = { operation: "Image.remove" }
const decodeRemove = decodeOptions(internal.Remove, removeSubject)

/**
 * Removes an image: its entry, and the layers that no other image has.
 *
 * **Details**
 *
 * Once begun it is not interrupted: catalogue and files belong together. Reasons: `ImageNotFound`, and `ImageInUse` when a
 * sandbox is made of it: not forced, or forced when it has no name but its digest. The flat root of an image (`rootDisk: { flat: true }`) stays in the cache: the engine (0.7.2) does
 * not remove these.
 *
 * @stability unstable
 * @category removing
 * @since 0.1.0
 */
export const remove = Effect.fn("Image.remove")(function*(
  reference: string,
  options: RemoveOptions = {}
): Effect.fn.Return<void, MicrosandboxError, Backend | Local> {
  const { force = false } = yield* decodeRemove({ ...options, reference })
  yield* Effect.annotateCurrentSpan({ "image.reference": withoutCredentials(reference) })
  const { handle, native } = yield* localBackend
  yield* native.call((token) => handle.removeImage(reference, force, token)).pipe(mapFailure(removeSubject))
})

/**
 * Removes every image that no sandbox is made of and no snapshot needs, and the layers that only these had. Once begun it is
 * not interrupted.
 *
 * @stability unstable
 * @category removing
 * @since 0.1.0
 */
export const prune: Effect.Effect<PruneReport, MicrosandboxError, Backend | Local> = Effect.gen(function*() {
  const { handle, native } = yield* localBackend
  const { bytes, ...counts } = yield* native.call((token) => handle.pruneImages(token)).pipe(
    mapFailure({ operation: "Image.prune" })
  )
  return new PruneReport({ ...counts, reclaimed: ByteSize.bytes(bytes) })
}).pipe(Effect.withSpan("Image.prune"))

// -----------------------------------------------------------------------------
// Archives
// -----------------------------------------------------------------------------

/**
 * Options of {@link load}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface LoadOptions {
  /** More references for the first image of the archive; needed when the archive names none. */
  readonly tags?: ReadonlyArray<string> | undefined
}

const loadSubject: Subject = { operation: "Image.load" }
const decodeLoad = decodeOptions(internal.Load, loadSubject)

/**
 * Loads the images of an archive into the cache and the catalogue, and gives an entry for each reference.
 *
 * **When to use**
 *
 * Use it where there is no registry, with what {@link save}, `docker save` or `msb save` wrote, or with an OCI image layout
 * in a tar. The archive itself must not be compressed; its layers may be.
 *
 * **Details**
 *
 * All of its images are in the catalogue, or none: an archive that is cut off, that holds an entry whose name leads out of
 * it, or that does not hold together is `ImageArchiveInvalid`, and content that is not what its digest says is
 * `ImageDigestMismatch`. A file that cannot be opened is `HostIo`. Of an archive with several platforms the host's is taken.
 * References that are here already are the archive's from then on. An interruption waits for a layer that is being read, at
 * most 30 seconds; one archive at a time is loaded or saved in a process.
 *
 * @stability unstable
 * @category archives
 * @since 0.1.0
 */
export const load = Effect.fn("Image.load")(function*(
  path: string,
  options: LoadOptions = {}
): Effect.fn.Return<ReadonlyArray<Info>, MicrosandboxError, Backend | Local> {
  const { tags = [] } = yield* decodeLoad({ ...options, path })
  yield* Effect.annotateCurrentSpan({ "image.archive": path })
  const { handle, native } = yield* localBackend
  const loaded = yield* native.call((token) => handle.loadImages(path, [...tags], token)).pipe(mapFailure(loadSubject))
  return loaded.map(toInfo)
})

/**
 * Options of {@link save}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface SaveOptions {
  /** What `docker save` writes, or an OCI image layout in a tar. Default: `"docker"`. */
  readonly format?: "docker" | "oci" | undefined
}

const saveSubject: Subject = { operation: "Image.save" }
const decodeSave = decodeOptions(internal.Save, saveSubject)

/**
 * Saves images that are here to one archive.
 *
 * **Details**
 *
 * The archive gets its name when all of it is written: a save that fails or is interrupted leaves what was there before. A
 * file of that name is replaced. An interruption waits for a layer that is being written, at most 30 seconds. The layers are
 * packed anew from the cache, uncompressed, so that digests are not those of the registry. Reasons: `ImageNotFound`,
 * `DiskFull`, and `HostIo` where the file cannot be made.
 *
 * @stability unstable
 * @category archives
 * @since 0.1.0
 */
export const save = Effect.fn("Image.save")(function*(
  references: ReadonlyArray<string>,
  path: string,
  options: SaveOptions = {}
): Effect.fn.Return<void, MicrosandboxError, Backend | Local> {
  const { format = "docker" } = yield* decodeSave({ ...options, references, path })
  yield* Effect.annotateCurrentSpan({ "image.archive": path })
  const { handle, native } = yield* localBackend
  yield* native.call((token) => handle.saveImages({ references: [...references], path, format }, token)).pipe(
    mapFailure(saveSubject)
  )
})
