/**
 * Microsandbox sandboxes as Effect services, layers, scopes and streams.
 *
 * @stability unstable
 * @since 0.1.0
 */

/**
 * Where sandboxes live.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Backend from "./Backend.ts"

/**
 * Pausing and branching a sandbox.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Branch from "./Branch.ts"

/**
 * Programs in a sandbox.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Exec from "./Exec.ts"

/**
 * The one error of this SDK, and every reason that it can have.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as MicrosandboxError from "./MicrosandboxError.ts"

/**
 * Changing what a sandbox is made of.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Modify from "./Modify.ts"

/**
 * Sandboxes: real microVMs, as scoped values and layers.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Sandbox from "./Sandbox.ts"

/**
 * Sandboxes kept as artifacts.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Snapshot from "./Snapshot.ts"
