/**
 * SSH: a server of sandboxes, and a client of any server.
 *
 * @stability unstable
 * @since 0.1.0
 */

/**
 * The files of an SSH server.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Sftp from "./Sftp.ts"

/**
 * An SSH client.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as SshClient from "./SshClient.ts"

/**
 * A sandbox that SSH clients log in to.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as SshServer from "./SshServer.ts"
