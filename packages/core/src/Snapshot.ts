/**
 * Snapshots: a sandbox kept as an artifact, from which others are made with `Sandbox.restore`.
 *
 * A snapshot is a directory with a descriptor that never changes. It is a member of a group, which by default has the
 * name of its sandbox and knows which of its members is the head, the newest of one line. A reference is one of:
 *
 * - `group`, its head; or `group:name`
 * - an id, `snap_…`, or a digest, `sha256:…`, when the catalogue knows one copy of it
 * - a path, with a `/` in it or a `.` before it
 *
 * All of it is the engine's own: `msb snapshot` lists and opens what is made here, and the other way around.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type { Native } from "@effect-microsandbox/native"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Backend, Local } from "./Backend.ts"
import type { GuestFlush } from "./Branch.ts"
import { decodeOptions, mapFailure } from "./internal/failure.ts"
import { defined, Labels, Name as SandboxName, Text } from "./internal/inputs.ts"
import {
  captured,
  Create,
  CreateArchive,
  type Head,
  type Info,
  Name,
  Path,
  type Snapshot,
  toHead,
  toInfo,
  toSnapshot,
  toVerification,
  type Verification
} from "./internal/snapshot.ts"
import type { MicrosandboxError } from "./MicrosandboxError.ts"

export {
  /**
   * The head of a group, and how it came to be that: of {@link groupHead}, and of a snapshot that was just made or
   * loaded.
   *
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  Head,
  /**
   * A snapshot as the catalogue has it. {@link open} says more.
   *
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  Info,
  /**
   * One layer of a snapshot's disk.
   *
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  Layer,
  /**
   * A snapshot as its descriptor has it.
   *
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  Snapshot,
  /**
   * What came of {@link verify}.
   *
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  Verification
} from "./internal/snapshot.ts"

interface CaptureOptions {
  /** Keep memory and programs too, and not only the disk; the sandbox must run or be paused. Default: false. */
  readonly full?: boolean | undefined
  /** Default: `"auto"`. */
  readonly guestFlush?: GuestFlush | undefined
  /** Record a digest of what is kept, which reads all of it, for {@link verify}. Default: false. */
  readonly recordIntegrity?: boolean | undefined
  /** Labels of the snapshot, beside its descriptor: a copy may have others. */
  readonly labels?: Readonly<Record<string, string>> | undefined
}

/**
 * Options of {@link create} and of a sandbox's `snapshot`.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options extends CaptureOptions {
  /** Where its group is. Default: the backend's own directory, the only one where a reference finds a group. */
  readonly directory?: string | undefined
  /** The group that it becomes a member of. Made when it is missing. Default: the name of its sandbox. */
  readonly group?: string | undefined
}

/**
 * Options of {@link createArchive}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface ArchiveOptions extends CaptureOptions {
  /** The name that it gets where the archive is loaded. Default: a new one. */
  readonly name?: string | undefined
  /** Write a tar file that is not compressed. Default: false, which is zstd. */
  readonly plainTar?: boolean | undefined
  /** Take the place of a file that is there, instead of failing with `SnapshotAlreadyExists`. Default: false. */
  readonly overwrite?: boolean | undefined
}

/**
 * Options of {@link save}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface SaveOptions {
  /** Put all snapshots before it into the archive too. Default: false. */
  readonly parents?: boolean | undefined
  /** Put its image into the archive too, so that a restore elsewhere needs no registry. Default: false. */
  readonly image?: boolean | undefined
  /** Write a tar file that is not compressed. Default: false, which is zstd. */
  readonly plainTar?: boolean | undefined
  /**
   * Leave out what this snapshot, or this archive, has already. Loading needs it as `base`, or in the same group. Not
   * with `lastLayers` or `parents`.
   */
  readonly since?: string | undefined
  /** Put only so many of the newest layers of the disk into the archive, at least 1. Not with `since` or `parents`. */
  readonly lastLayers?: number | undefined
}

/**
 * Options of {@link load} and {@link loadMany}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface LoadOptions {
  /** Where the group is. Default: the backend's own directory. */
  readonly directory?: string | undefined
  /** The snapshot, or the archive, that has what was left out of this one. Default: the members of `group`. */
  readonly base?: string | undefined
  /** The group that it becomes a member of. Made when it is missing. Default: a new one. */
  readonly group?: string | undefined
  /** Make it the head of the group although it does not follow the one that is. Default: false. */
  readonly setHead?: boolean | undefined
}

/**
 * Options of {@link copy}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface CopyOptions {
  /** Labels of the copy. Default: none. */
  readonly labels?: Readonly<Record<string, string>> | undefined
  /** Record a digest of its disk, which reads all of it. Default: false, and then it has none. */
  readonly recordIntegrity?: boolean | undefined
}

/**
 * Options of {@link remove}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface RemoveOptions {
  /** Although others have it as their parent. Default: false. */
  readonly force?: boolean | undefined
}

type Run<A> = (backend: Native.Backend, token: Native.CancelToken) => Promise<Native.Outcome<A>>

/** One call of the addon, inside of an `Effect.fn`. */
const call = <A>(operation: string, run: Run<A>, sandbox?: string): Effect.Effect<A, MicrosandboxError, Backend> =>
  Effect.flatMap(
    Backend,
    ({ handle, native }) =>
      native.call((token) => run(handle, token)).pipe(mapFailure({ operation, ...defined({ sandbox }) }))
  )

/** The same of what only a backend on this machine can do. */
const callLocal = <A>(
  operation: string,
  run: Run<A>,
  sandbox?: string
): Effect.Effect<A, MicrosandboxError, Backend | Local> => Effect.flatMap(Local, () => call(operation, run, sandbox))

const Reference = Text.check(Schema.isMinLength(1))

const decode = {
  create: decodeOptions(Schema.Struct({ sandbox: SandboxName, ...Create }), { operation: "Snapshot.create" }),
  createArchive: decodeOptions(
    Schema.Struct({
      sandbox: SandboxName,
      ...CreateArchive,
      plainTar: Schema.optional(Schema.Boolean),
      overwrite: Schema.optional(Schema.Boolean)
    }),
    { operation: "Snapshot.createArchive" }
  ),
  open: decodeOptions(Schema.Struct({ reference: Reference }), { operation: "Snapshot.open" }),
  get: decodeOptions(Schema.Struct({ name: Reference }), { operation: "Snapshot.get" }),
  listDirectory: decodeOptions(Schema.Struct({ path: Path }), { operation: "Snapshot.listDirectory" }),
  reindex: decodeOptions(Schema.Struct({ path: Schema.optional(Path) }), { operation: "Snapshot.reindex" }),
  verify: decodeOptions(Schema.Struct({ reference: Reference }), { operation: "Snapshot.verify" }),
  save: decodeOptions(
    Schema.Struct({
      reference: Reference,
      path: Path,
      parents: Schema.optional(Schema.Boolean),
      image: Schema.optional(Schema.Boolean),
      plainTar: Schema.optional(Schema.Boolean),
      since: Schema.optional(Reference),
      lastLayers: Schema.optional(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 2 ** 32 - 1 })))
    }),
    { operation: "Snapshot.save" }
  ),
  load: decodeOptions(
    Schema.Struct({
      paths: Schema.Array(Path).check(Schema.isMinLength(1)),
      directory: Schema.optional(Path),
      base: Schema.optional(Reference),
      group: Schema.optional(Name),
      setHead: Schema.optional(Schema.Boolean)
    }),
    { operation: "Snapshot.load" }
  ),
  copy: decodeOptions(
    Schema.Struct({
      reference: Reference,
      path: Path,
      labels: Schema.optional(Labels),
      recordIntegrity: Schema.optional(Schema.Boolean)
    }),
    { operation: "Snapshot.copy" }
  ),
  remove: decodeOptions(Schema.Struct({ reference: Reference, force: Schema.optional(Schema.Boolean) }), {
    operation: "Snapshot.remove"
  }),
  groupHead: decodeOptions(Schema.Struct({ selector: Reference }), { operation: "Snapshot.groupHead" })
}

/**
 * Keeps a sandbox's disk, or all of it with `full`, as a snapshot.
 *
 * **When to use**
 *
 * Use it for a sandbox that is known by its name, such as one that has stopped; `snapshot` of a sandbox otherwise.
 *
 * **Details**
 *
 * The sandbox may run, be paused, or have stopped, and stays so; for a full one it must run or be paused. A disk is
 * kept as it is at one moment. When this is interrupted it waits until nothing goes on: nothing is left, unless the
 * snapshot was being published, which then is whole. Reasons: `SandboxNotFound`, `SnapshotAlreadyExists` when its
 * group has a member of the name, `CaptureUnsupported` when its root is no image, `SnapshotSandboxRunning` while it is
 * stopping, `InvalidConfig`, `Unsupported` for a full one of a sandbox that has stopped, `DiskFull`.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const create = Effect.fn("Snapshot.create")(function*(
  sandbox: string,
  name: string,
  options: Options = {}
): Effect.fn.Return<Snapshot, MicrosandboxError, Backend> {
  const { sandbox: source, ...given } = yield* decode.create({ ...options, sandbox, name })
  yield* Effect.annotateCurrentSpan({ "sandbox.name": source, "snapshot.name": name })
  const made = yield* call(
    "Snapshot.create",
    (backend, token) => backend.createSnapshot(source, captured(given), token),
    source
  )
  return toSnapshot(made)
})

/**
 * Keeps a sandbox as an archive, without a snapshot in between.
 *
 * **Details**
 *
 * As {@link create}, and then {@link save}. The file is there when it is whole. `Sandbox.restore` takes its path, as
 * {@link load} does.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const createArchive = Effect.fn("Snapshot.createArchive")(function*(
  sandbox: string,
  path: string,
  options: ArchiveOptions = {}
): Effect.fn.Return<Snapshot, MicrosandboxError, Backend | Local> {
  const { name = "", overwrite = false, path: out, plainTar = false, sandbox: source, ...given } = yield* decode
    .createArchive({ ...options, sandbox, path })
  yield* Effect.annotateCurrentSpan({ "sandbox.name": source })
  const made = yield* callLocal(
    "Snapshot.createArchive",
    (backend, token) =>
      backend.createSnapshotArchive(source, out, captured({ ...given, name }), { overwrite, plainTar }, token),
    source
  )
  return toSnapshot(made)
})

/**
 * Reads the descriptor of a snapshot, whether or not the catalogue has it, and sees that its files are there.
 *
 * **Details**
 *
 * It does not read what is in them: see {@link verify}. Reasons: `SnapshotNotFound`, `SnapshotIntegrity`,
 * `SnapshotMigration` of one that another release made, and `InvalidConfig` of an id or digest that several copies
 * have.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const open = Effect.fn("Snapshot.open")(function*(
  reference: string
): Effect.fn.Return<Snapshot, MicrosandboxError, Backend> {
  yield* decode.open({ reference })
  return toSnapshot(yield* call("Snapshot.open", (backend, token) => backend.openSnapshot(reference, token)))
})

/**
 * Looks a snapshot up, by any reference; one that the catalogue did not have is in it from now on.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const get = Effect.fn("Snapshot.get")(function*(
  name: string
): Effect.fn.Return<Info, MicrosandboxError, Backend> {
  yield* decode.get({ name })
  return toInfo(yield* call("Snapshot.get", (backend, token) => backend.getSnapshot(name, token)))
})

/**
 * The snapshots that the catalogue has, the newest first.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const list: Effect.Effect<ReadonlyArray<Info>, MicrosandboxError, Backend> = call(
  "Snapshot.list",
  (backend, token) => backend.listSnapshots(token)
).pipe(Effect.map((found) => found.map(toInfo)), Effect.withSpan("Snapshot.list"))

/**
 * The snapshots that are in a directory, in it or in groups in it, whether or not the catalogue has them. What is
 * broken is left out; a directory that is not there has none.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const listDirectory = Effect.fn("Snapshot.listDirectory")(function*(
  path: string
): Effect.fn.Return<ReadonlyArray<Snapshot>, MicrosandboxError, Backend | Local> {
  yield* decode.listDirectory({ path })
  const found = yield* callLocal(
    "Snapshot.listDirectory",
    (backend, token) => backend.listSnapshotDirectory(path, token)
  )
  return found.map(toSnapshot)
})

/**
 * Puts the snapshots of a directory into the catalogue, and says how many these are. Default: the backend's own
 * directory.
 *
 * **When to use**
 *
 * Use it when directories were brought by other means, or when the catalogue was lost. What is no longer there stays
 * in the catalogue: see {@link remove}.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const reindex = Effect.fn("Snapshot.reindex")(function*(
  path?: string
): Effect.fn.Return<number, MicrosandboxError, Backend | Local> {
  yield* decode.reindex({ path })
  return yield* callLocal("Snapshot.reindex", (backend, token) => backend.reindexSnapshots(path, token))
})

/**
 * Compares what is in a snapshot with the digests that were recorded, which reads all of it.
 *
 * **Details**
 *
 * Fails with `SnapshotIntegrity` where they differ. The memory and devices of a full one always have their digests; a
 * disk has one when it was asked for with `recordIntegrity`.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const verify = Effect.fn("Snapshot.verify")(function*(
  reference: string
): Effect.fn.Return<Verification, MicrosandboxError, Backend | Local> {
  yield* decode.verify({ reference })
  return toVerification(
    yield* callLocal("Snapshot.verify", (backend, token) => backend.verifySnapshot(reference, token))
  )
})

/**
 * Writes a snapshot into an archive.
 *
 * **Details**
 *
 * The file takes the place of one that is there when it is whole, and not before; when this fails or is interrupted,
 * nothing has changed. Reasons: those of {@link open}, `InvalidConfig` when `since` is not what the snapshot was built
 * on, `SnapshotIntegrity` when the image is asked for and not in the cache, `DiskFull`, and `Io`.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const save = Effect.fn("Snapshot.save")(function*(
  reference: string,
  path: string,
  options: SaveOptions = {}
): Effect.fn.Return<void, MicrosandboxError, Backend | Local> {
  const { image = false, parents = false, path: out, plainTar = false, reference: source, ...rest } = yield* decode
    .save({ ...options, reference, path })
  yield* callLocal(
    "Snapshot.save",
    (backend, token) => backend.saveSnapshot(source, out, { image, parents, plainTar, ...defined(rest) }, token)
  )
})

/**
 * Takes the snapshot of an archive, and those before it that are in it too, into a group. Answers with the one that was
 * saved.
 *
 * **Details**
 *
 * All of the archive is checked before anything is published. An archive that is truncated, corrupted or hostile is a
 * `SnapshotIntegrity`, and leaves nothing, as an interruption does; what was being published when it came is whole.
 * The hashes of an archive are its writer's, who may forge or leave them out; and there is no bound on what it unpacks
 * to. What was recorded of a disk is compared by {@link verify}, and not here. Other reasons: `SnapshotAlreadyExists`
 * when the group has another member of the name, `InvalidConfig`, `DiskFull`, and `Io`.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const load = Effect.fn("Snapshot.load")(function*(
  path: string,
  options: LoadOptions = {}
): Effect.fn.Return<Info, MicrosandboxError, Backend | Local> {
  const [info] = yield* loaded([path], options)
  return info
})

/**
 * Takes several archives into one group, all or none; each may have what is left out of another. Answers with the
 * snapshot of each.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const loadMany = Effect.fn("Snapshot.loadMany")(function*(
  paths: ReadonlyArray<string>,
  options: LoadOptions = {}
): Effect.fn.Return<ReadonlyArray<Info>, MicrosandboxError, Backend | Local> {
  return yield* loaded(paths, options)
})

const loaded = Effect.fnUntraced(function*(
  archives: ReadonlyArray<string>,
  options: LoadOptions
): Effect.fn.Return<readonly [Info, ...ReadonlyArray<Info>], MicrosandboxError, Backend | Local> {
  const { paths, setHead = false, ...rest } = yield* decode.load({ ...options, paths: archives })
  const [first, ...others] = yield* callLocal(
    "Snapshot.load",
    (backend, token) => backend.loadSnapshots([...paths], { setHead, ...defined(rest) }, token)
  )
  // The engine answers with one for each archive.
  if (first === undefined) return yield* Effect.die(new Error("the engine loaded nothing"))
  return [toInfo(first), ...others.map(toInfo)]
})

/**
 * Writes a copy of a snapshot of a disk into an archive, with labels of its own.
 *
 * **Details**
 *
 * The copy has the same id, unless a digest is recorded that the snapshot does not have, or left out that it has. The
 * file is there when it is whole. Fails with `Unsupported` for a full one: see {@link save}.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const copy = Effect.fn("Snapshot.copy")(function*(
  reference: string,
  path: string,
  options: CopyOptions = {}
): Effect.fn.Return<Snapshot, MicrosandboxError, Backend | Local> {
  const { labels = {}, path: out, recordIntegrity = false, reference: source } = yield* decode.copy({
    ...options,
    reference,
    path
  })
  const made = yield* callLocal(
    "Snapshot.copy",
    (backend, token) => backend.copySnapshot(source, out, { ...labels }, recordIntegrity, token)
  )
  return toSnapshot(made)
})

/**
 * Removes a snapshot: its directory, and what the catalogue has of it.
 *
 * **Details**
 *
 * Fails with `SnapshotNotFound`; with `InvalidConfig` when others have it as their parent, unless it is forced; and
 * with `InvalidConfig` when it is the head of a group that has other members, which must get another head first: see
 * {@link groupHead}. It is not interrupted when it has begun.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const remove = Effect.fn("Snapshot.remove")(function*(
  reference: string,
  options: RemoveOptions = {}
): Effect.fn.Return<void, MicrosandboxError, Backend> {
  const { force = false } = yield* decode.remove({ ...options, reference })
  yield* call("Snapshot.remove", (backend, token) => backend.removeSnapshot(reference, force, token))
})

/**
 * Reads which snapshot is the head of a group, or with `group:name` makes that member the head.
 *
 * **Details**
 *
 * Only groups in the backend's own directory. Fails with `SnapshotNotFound`, also for a group that has no head.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const groupHead = Effect.fn("Snapshot.groupHead")(function*(
  selector: string
): Effect.fn.Return<Head, MicrosandboxError, Backend | Local> {
  yield* decode.groupHead({ selector })
  return toHead(yield* callLocal("Snapshot.groupHead", (backend, token) => backend.snapshotGroupHead(selector, token)))
})
