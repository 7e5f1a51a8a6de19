/**
 * SSH for sandboxes.
 *
 * @stability unstable
 * @since 0.1.0
 */

/**
 * A sandbox that SSH clients log in to.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as SshServer from "./SshServer.ts"
