/**
 * For the other packages of this SDK, which build on a sandbox's handle of the addon. It is not for users: it may change
 * with any release, and the index does not export it.
 *
 * @internal
 * @stability unstable
 * @since 0.1.0
 */

export type {
  /**
   * The addon's objects and plain data.
   *
   * @internal
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  Native
} from "@effect-microsandbox/native"

export {
  /**
   * The streams of what a handle's program prints.
   *
   * @internal
   * @stability unstable
   * @category constructors
   * @since 0.1.0
   */
  makeReaders,
  /**
   * The sink of what a handle's program reads.
   *
   * @internal
   * @stability unstable
   * @category constructors
   * @since 0.1.0
   */
  makeStdin
} from "./internal/exec.ts"

export {
  /**
   * Decodes options; a mistake is an `InvalidConfig` that names the field.
   *
   * @internal
   * @stability unstable
   * @category errors
   * @since 0.1.0
   */
  decodeOptions,
  /**
   * Gives an effect's native failures the operation and the sandbox that they belong to.
   *
   * @internal
   * @stability unstable
   * @category errors
   * @since 0.1.0
   */
  mapFailure,
  /**
   * What an operation is about, for its error.
   *
   * @internal
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  type Subject
} from "./internal/failure.ts"

export {
  /**
   * Files that the addon has, as a file system.
   *
   * @internal
   * @stability unstable
   * @category constructors
   * @since 0.1.0
   */
  makeFileSystemOf,
  /**
   * Whose files these are.
   *
   * @internal
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  type Source
} from "./internal/fileSystem.ts"

export {
  /**
   * One byte or more.
   *
   * @internal
   * @stability unstable
   * @category options
   * @since 0.1.0
   */
  Bytes,
  /**
   * Leaves out what is `undefined`.
   *
   * @internal
   * @stability unstable
   * @category options
   * @since 0.1.0
   */
  defined,
  /**
   * A length of time that is more than nothing.
   *
   * @internal
   * @stability unstable
   * @category options
   * @since 0.1.0
   */
  Lifetime,
  /**
   * Any text without NUL.
   *
   * @internal
   * @stability unstable
   * @category options
   * @since 0.1.0
   */
  Text,
  /**
   * A number of bytes.
   *
   * @internal
   * @stability unstable
   * @category options
   * @since 0.1.0
   */
  toBytes,
  /**
   * Variables by name.
   *
   * @internal
   * @stability unstable
   * @category options
   * @since 0.1.0
   */
  Variables
} from "./internal/inputs.ts"

export {
  /**
   * What the span of every operation on a sandbox says.
   *
   * @internal
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  attributesOf,
  /**
   * What the error of an operation on a sandbox names.
   *
   * @internal
   * @stability unstable
   * @category errors
   * @since 0.1.0
   */
  subjectOf,
  /**
   * A sandbox as the addon has it.
   *
   * @internal
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  type Target
} from "./internal/operation.ts"

export {
  /**
   * Paths that are relative to a directory of their own.
   *
   * @internal
   * @stability unstable
   * @category constructors
   * @since 0.1.0
   */
  makePath
} from "./internal/path.ts"

export {
  /**
   * The addon's side of a sandbox. An object that only looks like one is a defect.
   *
   * @internal
   * @stability unstable
   * @category queries
   * @since 0.1.0
   */
  targetOf
} from "./internal/sandbox.ts"

export {
  /**
   * The signals of Linux that have a name.
   *
   * @internal
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  signalNumbers
} from "./internal/signals.ts"
