/**
 * Microsandbox sandboxes as Effect services, layers, scopes and streams.
 *
 * @since 0.1.0
 */

/**
 * Where sandboxes live.
 *
 * @since 0.1.0
 */
export * as Backend from "./Backend.ts"

/**
 * Programs in a sandbox.
 *
 * @since 0.1.0
 */
export * as Exec from "./Exec.ts"

/**
 * The one error of this SDK, and every reason that it can have.
 *
 * @since 0.1.0
 */
export * as MicrosandboxError from "./MicrosandboxError.ts"

/**
 * Sandboxes: real microVMs, as scoped values and layers.
 *
 * @since 0.1.0
 */
export * as Sandbox from "./Sandbox.ts"
