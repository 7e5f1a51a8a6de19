/** Snapshots as the user's data, and the options of what keeps one. */
import type { Native } from "@effect-microsandbox/native"
import * as ByteSize from "effect/ByteSize"
import * as DateTime from "effect/DateTime"
import * as Schema from "effect/Schema"
import type { Options } from "../Snapshot.ts"
import { defined, Labels, Text } from "./inputs.ts"
import { optionalSize } from "./size.ts"

export const GuestFlush = Schema.Literals(["auto", "required", "skip"])

export const Path = Text.check(Schema.isMinLength(1))

/** The engine's rule for the names of snapshots and groups, which are in paths and in `group:name`. */
export const Name = Schema.String.check(
  Schema.isPattern(/^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?$/, {
    expected: "1 to 128 letters, digits, dots, hyphens and underscores, the first a letter or digit, the last no dot"
  })
)

const Capture = {
  full: Schema.optional(Schema.Boolean),
  guestFlush: Schema.optional(GuestFlush),
  recordIntegrity: Schema.optional(Schema.Boolean),
  // They are data beside the descriptor: none is this SDK's or the engine's own.
  labels: Schema.optional(Labels)
}

/** Of keeping one as an artifact. */
export const Create = {
  name: Name,
  ...Capture,
  directory: Schema.optional(Path),
  group: Schema.optional(Name)
}

/** Of keeping one as an archive. */
export const CreateArchive = { name: Schema.optional(Name), ...Capture, path: Path }

export const captured = (
  { full = false, guestFlush = "auto", labels = {}, recordIntegrity = false, ...rest }: Options & {
    readonly name: string
  }
) => ({ full, guestFlush, labels: { ...labels }, recordIntegrity, ...defined(rest) })

const Scope = Schema.Literals(["disk", "full"])
const Format = Schema.Literals(["raw", "qcow2"])

/** The head of a group. */
export class Head extends Schema.Class<Head>("@effect-microsandbox/core/Snapshot/Head")({
  group: Schema.String,
  /** The id of the head before, when there was one. */
  previous: Schema.optionalKey(Schema.String),
  /** The id of the snapshot that is the head now. */
  head: Schema.String,
  /** Why the head is what it is: the new snapshot became it, or why it did not. */
  reason: Schema.Literals([
    "initialized",
    "fast-forwarded",
    "selected",
    "unchanged",
    "diverged",
    "unknown-ancestry",
    "ambiguous-candidates"
  ]),
  changed: Schema.Boolean
}) {}

/** One layer of a disk. */
export class Layer extends Schema.Class<Layer>("@effect-microsandbox/core/Snapshot/Layer")({
  id: Schema.String,
  format: Format,
  /** As the guest sees it. */
  size: Schema.ByteSize,
  /** The id of the layer below. */
  parent: Schema.optionalKey(Schema.String),
  /** What was recorded of its content. */
  integrity: Schema.optionalKey(Schema.Struct({ algorithm: Schema.String, digest: Schema.String }))
}) {}

const shared = {
  id: Schema.String,
  reference: Schema.String,
  digest: Schema.String,
  name: Schema.optionalKey(Schema.String),
  group: Schema.optionalKey(Schema.String),
  scope: Scope,
  parent: Schema.optionalKey(Schema.String),
  image: Schema.String,
  format: Schema.optionalKey(Format),
  filesystem: Schema.optionalKey(Schema.String),
  size: optionalSize,
  checkpoint: Schema.optionalKey(Schema.String),
  createdAt: Schema.DateTimeUtc,
  head: Schema.optionalKey(Head)
}

/** A snapshot, as its own description has it. */
export class Snapshot extends Schema.Class<Snapshot>("@effect-microsandbox/core/Snapshot")({
  /** Stays the same wherever it is copied. */
  id: shared.id,
  /** What `Sandbox.restore` and the functions of this module take. */
  reference: shared.reference,
  /** The directory, or the file of an archive. */
  path: Schema.String,
  /** Its name in its group. Absent in an archive. */
  name: shared.name,
  group: shared.group,
  /** Of its descriptor, `sha256:…`. */
  digest: shared.digest,
  /** Whether memory and programs are in it. */
  scope: shared.scope,
  /** The id of the snapshot that its sandbox was made of, or that was made of its sandbox before. */
  parent: shared.parent,
  /** The image that its sandbox was made of. */
  image: shared.image,
  /** Of that image's manifest, `sha256:…`: a restore takes this very one. */
  imageDigest: Schema.String,
  /** The name that its sandbox had. */
  sandbox: Schema.optionalKey(Schema.String),
  /** What the root disk is: a layer over the image, the whole file system, or memory. */
  rootDisk: Schema.Literals(["managed", "flat", "tmpfs"]),
  consistency: Schema.Literals(["crash-consistent", "filesystem-consistent", "application-consistent"]),
  /** Of the newest layer of the disk. Absent for a full one, as `filesystem`, `size` and `layers` are. */
  format: shared.format,
  filesystem: shared.filesystem,
  /** Of the disk, as the guest sees it. */
  size: shared.size,
  /** Of the disk, the oldest first. */
  layers: Schema.Array(Layer),
  /** The digest over memory, devices and disks of a full one. */
  checkpoint: shared.checkpoint,
  labels: Schema.Record(Schema.String, Schema.String),
  createdAt: shared.createdAt,
  /** What became of the head of its group. Only of one that was just made. */
  head: shared.head
}) {}

/** A snapshot, as the catalogue of the backend has it. */
export class Info extends Schema.Class<Info>("@effect-microsandbox/core/Snapshot/Info")({
  /** Stays the same wherever it is copied. */
  id: shared.id,
  /** What `Sandbox.restore` and the functions of this module take. */
  reference: shared.reference,
  /** Its directory. */
  path: Schema.optionalKey(Schema.String),
  name: shared.name,
  group: shared.group,
  /** Of its descriptor, `sha256:…`. */
  digest: shared.digest,
  /** Whether memory and programs are in it. */
  scope: shared.scope,
  /** The id of the snapshot before. */
  parent: shared.parent,
  image: shared.image,
  format: shared.format,
  filesystem: shared.filesystem,
  /** Of the disk, as the guest sees it. */
  size: shared.size,
  checkpoint: shared.checkpoint,
  /** What it is made of: `"file"` or `"checkpoint"`. */
  state: Schema.String,
  /** Whether its content is in its directory: `"embedded"`, or `"linked"`. */
  locality: Schema.String,
  /** `"ready"` when it can be used. */
  availability: Schema.String,
  /** What became of a descriptor of an earlier release: `"canonical"` when it is of this one. */
  migration: Schema.String,
  migrationError: Schema.optionalKey(Schema.String),
  createdAt: shared.createdAt,
  /** What became of the head of its group. Only of one that was just loaded. */
  head: shared.head
}) {}

/** What came of comparing a snapshot with what was recorded. */
export class Verification extends Schema.Class<Verification>("@effect-microsandbox/core/Snapshot/Verification")({
  /** Of its descriptor. */
  digest: Schema.String,
  path: Schema.String,
  /** Whether there was something to compare with, and all of it matched. */
  status: Schema.Literals(["verified", "not-recorded"]),
  /** How the digest of the disk was made. */
  algorithm: Schema.optionalKey(Schema.String),
  /** The digest of the newest layer of the disk. */
  contentDigest: Schema.optionalKey(Schema.String),
  /** The digest over memory, devices and disks of a full one. */
  checkpoint: Schema.optionalKey(Schema.String)
}) {}

export const toHead = (head: Native.SnapshotHead): Head => new Head(head)

const toLayer = ({ algorithm, digest, size, ...rest }: Native.SnapshotLayer): Layer =>
  new Layer({
    ...rest,
    size: ByteSize.bytes(size),
    ...algorithm === undefined || digest === undefined ? {} : { integrity: { algorithm, digest } }
  })

const sized = (size: bigint | undefined) => size === undefined ? {} : { size: ByteSize.bytes(size) }

const headed = (head: Native.SnapshotHead | undefined) => head === undefined ? {} : { head: toHead(head) }

export const toSnapshot = (
  { createdAt, head, layers, size, ...rest }: Native.SnapshotDetail
): Snapshot =>
  new Snapshot({
    ...rest,
    ...sized(size),
    ...headed(head),
    layers: layers.map(toLayer),
    createdAt: DateTime.makeUnsafe(createdAt)
  })

export const toInfo = ({ createdAt, head, size, ...rest }: Native.SnapshotInfo): Info =>
  new Info({ ...rest, ...sized(size), ...headed(head), createdAt: DateTime.makeUnsafe(createdAt) })

export const toVerification = ({ algorithm, checkpoint, digest, disk, path }: Native.SnapshotVerification) =>
  new Verification({
    digest,
    path,
    status: disk === undefined && checkpoint === undefined ? "not-recorded" : "verified",
    ...defined({ algorithm, contentDigest: disk, checkpoint })
  })
