/**
 * SSH for sandboxes, in three modules that are still to come: an SSH client (commands and shells in a sandbox), SFTP
 * (a sandbox's files over the SSH file protocol), and an SSH server (a sandbox that other tools log in to).
 *
 * @stability unstable
 * @since 0.1.0
 */
export {}
