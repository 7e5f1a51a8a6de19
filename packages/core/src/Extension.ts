/**
 * For the other packages of this SDK, which build on a sandbox's handle of the addon. It is not for users: it may change
 * with any release, and the index does not export it.
 *
 * @internal
 * @stability unstable
 * @since 0.1.0
 */

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
  Text
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
   * The addon's side of a sandbox. An object that only looks like one is a defect.
   *
   * @internal
   * @stability unstable
   * @category queries
   * @since 0.1.0
   */
  targetOf
} from "./internal/sandbox.ts"
