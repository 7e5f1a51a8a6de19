/**
 * Changes to the root file system before the sandbox boots for the first time, in their order.
 *
 * Plain data: it is checked where it is used, by `Sandbox.make`. Over an image they are part of the sandbox's own disk. A
 * root that is a directory is changed itself, and stays changed. Parents that are missing are made, and all is root's.
 *
 * @stability unstable
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { Text } from "./internal/inputs.ts"
import * as checks from "./internal/patchChecks.ts"

/**
 * Options of patches that make a file.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface FileOptions {
  /** Permission bits, such as `0o600`. Default: `0o644`, or those of the file that is copied. */
  readonly mode?: number | undefined
  /** Take the place of what is there; without it the sandbox is not made. Default: false. */
  readonly replace?: boolean | undefined
}

/**
 * Options of patches that make a link or a tree.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface ReplaceOptions {
  /** Take the place of what is there; without it the sandbox is not made. Default: false. */
  readonly replace?: boolean | undefined
}

/**
 * One change. `path` and `to` are absolute paths in the guest, `from` is one of this machine.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Patch =
  | FileOptions & { readonly _tag: "Text"; readonly path: string; readonly content: string }
  | FileOptions & { readonly _tag: "File"; readonly path: string; readonly content: Uint8Array }
  | FileOptions & { readonly _tag: "CopyFile"; readonly from: string; readonly to: string }
  | ReplaceOptions & { readonly _tag: "CopyDirectory"; readonly from: string; readonly to: string }
  | ReplaceOptions & { readonly _tag: "Symlink"; readonly target: string; readonly path: string }
  | { readonly _tag: "MakeDirectory"; readonly path: string; readonly mode?: number | undefined }
  | { readonly _tag: "Remove"; readonly path: string }
  | { readonly _tag: "Append"; readonly path: string; readonly content: string }

/**
 * A file with a text, in UTF-8.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const text = (path: string, content: string, options?: FileOptions): Patch => ({
  _tag: "Text",
  path,
  content,
  ...options
})

/**
 * A file of bytes.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const file = (path: string, content: Uint8Array, options?: FileOptions): Patch => ({
  _tag: "File",
  path,
  content,
  ...options
})

/**
 * A copy of a file of this machine.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const copyFile = (from: string, to: string, options?: FileOptions): Patch => ({
  _tag: "CopyFile",
  from,
  to,
  ...options
})

/**
 * A copy of a directory of this machine and all that is in it.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const copyDirectory = (from: string, to: string, options?: ReplaceOptions): Patch => ({
  _tag: "CopyDirectory",
  from,
  to,
  ...options
})

/**
 * A symbolic link at `path` that leads to `target`, as in Effect's `FileSystem.symlink`.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const symlink = (target: string, path: string, options?: ReplaceOptions): Patch => ({
  _tag: "Symlink",
  target,
  path,
  ...options
})

/**
 * A directory; one that is there stays. Permission bits default to `0o755`.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const makeDirectory = (path: string, options?: { readonly mode?: number | undefined }): Patch => ({
  _tag: "MakeDirectory",
  path,
  ...options
})

/**
 * Removes a file, or a directory with all that is in it. What is not there is not missed.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const remove = (path: string): Patch => ({ _tag: "Remove", path })

/**
 * More text at the end of a file, which must be there.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const append = (path: string, content: string): Patch => ({ _tag: "Append", path, content })

const GuestPath = Schema.String.check(checks.guestPath)

const HostPath = Text.check(Schema.isMinLength(1))

const Mode = Schema.optional(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0o7777 })))

const Replace = Schema.optional(Schema.Boolean)

/**
 * The schema of {@link Patch}. It checks, and changes nothing.
 *
 * @stability unstable
 * @category schemas
 * @since 0.1.0
 */
export const Patch = Schema.Union([
  Schema.TaggedStruct("Text", { path: GuestPath, content: Schema.String, mode: Mode, replace: Replace }),
  Schema.TaggedStruct("File", { path: GuestPath, content: Schema.Uint8Array, mode: Mode, replace: Replace }),
  Schema.TaggedStruct("CopyFile", { from: HostPath, to: GuestPath, mode: Mode, replace: Replace }),
  Schema.TaggedStruct("CopyDirectory", { from: HostPath, to: GuestPath, replace: Replace }),
  Schema.TaggedStruct("Symlink", { target: HostPath, path: GuestPath, replace: Replace }),
  Schema.TaggedStruct("MakeDirectory", { path: GuestPath, mode: Mode }),
  Schema.TaggedStruct("Remove", { path: GuestPath }),
  Schema.TaggedStruct("Append", { path: GuestPath, content: Schema.String })
])
