/**
 * Carrying files and trees between the host and a guest: `upload` and `download` of a sandbox.
 *
 * **Details**
 *
 * What is at the source is then at the destination: a file becomes that file, and a directory becomes that directory, with
 * what is in it. (Nothing is ever put *into* a directory that happens to be there.) A directory that is there already is
 * merged with, and keeps its own mode; a file or a link is replaced in one step, when the new one is whole. Any other
 * difference of kinds is a `TransferConflict`. Permissions and times (in seconds) are kept; setuid, setgid and sticky bits
 * are not, nor owners; a hard link becomes a file of its own, and holes are filled.
 *
 * A guest may be hostile. What it says can never lead a download out of its destination: each name is a single component
 * below an open directory, no link is followed on the host, and links that would lead out are not made. How much it may
 * take of the host has limits.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type * as ByteSize from "effect/ByteSize"
import * as Schema from "effect/Schema"
import { optionalSize } from "./internal/size.ts"

/**
 * What to carry, and how much of it at most.
 *
 * **Details**
 *
 * The filter is patterns and no function: it is asked for every entry, and a million calls of JavaScript would take longer
 * than the transfer.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * What to leave out: lines as of a `.gitignore` at the root of the tree. A directory is left out with all that is in it,
   * and `!` takes back.
   */
  readonly exclude?: ReadonlyArray<string> | undefined
  /**
   * What to carry, by the same patterns, with all that is in a directory that matches. A directory that is only gone
   * through is not made. What is also excluded is left out. Default: everything.
   */
  readonly include?: ReadonlyArray<string> | undefined
  /**
   * Which symbolic links to make. `"inside"` (the default): those that stay within the tree whatever else is there, which
   * are relative and go up only at their beginning; the others are told in `skipped`. `"all"`: each as it is, wherever it
   * leads. `"none"`: leave them out.
   */
  readonly symlinks?: "inside" | "all" | "none" | undefined
  /** Fail with `TransferRefused` at what would be told in `skipped`. Default: false. */
  readonly strict?: boolean | undefined
  /** Files, directories, links and what is skipped, but not what is excluded. Default: 1 000 000. */
  readonly maxEntries?: number | undefined
  /** The sizes of all files, holes included. Default: 16 GiB. */
  readonly maxBytes?: ByteSize.Input | undefined
  /** Directories below the root, one in the other; up to 1000. Default: 128. */
  readonly maxDepth?: number | undefined
}

/**
 * What to carry into a guest, and as whose.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface UploadOptions extends Options {
  /** By number. Default: root. A directory that was there keeps its owner. */
  readonly owner?: { readonly uid: number; readonly gid: number } | undefined
}

/**
 * An entry that was left out: a device, a FIFO or a socket (`"special"`), a link that leads out of the tree (`"link"`), a
 * name or a link's text that is not UTF-8 (`"name"`), or one that went while the tree was read (`"vanished"`).
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export const Skipped = Schema.Struct({
  /** From the root of the tree. */
  path: Schema.String,
  why: Schema.Literals(["special", "link", "name", "vanished"])
})

/**
 * An entry that was left out.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Skipped = typeof Skipped.Type

const counts = {
  files: Schema.Int,
  /** Made or merged with, the root among them. */
  directories: Schema.Int,
  symlinks: Schema.Int,
  /** Of the contents of files. */
  bytes: Schema.ByteSize,
  /** Entries that were left out, but not those that the options exclude. */
  skippedCount: Schema.Int
}

/**
 * What was carried.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Transferred extends Schema.Class<Transferred>("@effect-microsandbox/core/Transfer/Transferred")({
  ...counts,
  /** The first 100 of the entries that were left out. */
  skipped: Schema.Array(Skipped)
}) {}

/**
 * How far a transfer is: once what it is about, then its newest state, ten times a second at most, and at last what was
 * carried. How much there will be is known for a file only: a tree is carried while it is read.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export const Event = Schema.Union([
  Schema.TaggedStruct("Started", {
    kind: Schema.Literals(["file", "directory"]),
    /** Of a file. */
    totalBytes: optionalSize
  }),
  Schema.TaggedStruct("Progress", {
    ...counts,
    /** The entry that was touched last, from the root of the tree. */
    path: Schema.String
  }),
  Schema.TaggedStruct("Done", { transferred: Transferred })
])

/**
 * How far a transfer is.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Event = typeof Event.Type
