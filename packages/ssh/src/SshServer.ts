/**
 * A sandbox that SSH clients log in to: `ssh`, `sftp`, what is built on them.
 *
 * {@link make} serves a sandbox on a TCP port or a Unix socket of the host, until its scope closes. The guest needs no SSH
 * server of its own, no network and no published port: programs, files and forwarded connections go through its agent.
 *
 * **Details**
 *
 * Clients log in with a key, and with nothing else. They run commands and shells, at a terminal or not, forward local ports
 * to the guest (`ssh -L`), and have its files over SFTP. There is no agent forwarding and no forwarding of the guest's ports
 * (`ssh -R`). SFTP is version 3 with OpenSSH's extensions `posix-rename`, `hardlink`, `fsync`, `statvfs`, `lsetstat` and
 * `limits`; hard links, `fsync` and `statvfs` need the programs `ln`, `sync` and `stat` in the guest.
 *
 * A client that takes nothing holds back what it has started, and nothing else: a program that prints is stopped at 1 MiB that
 * its client has not taken.
 *
 * **Gotchas**
 *
 * The guest's agent has files as root only. So SFTP, and with it `scp`, is served to who becomes `root`; anybody else has it
 * by an `sftp-server` of OpenSSH in the guest, which runs as that user, and without one has none. The agent does not say which
 * signal has ended a program: a client is told the last signal that it has sent itself, or else that it is unknown.
 *
 * A program that reads no input is sent it all the same, and the guest's agent holds it in the guest's memory: it does not say
 * when to wait. What waits on the host for the guest is at most 32 MiB of a channel; of more the program is ended. A job of an
 * interactive shell does not stop with the shell: when 32 MiB of its output wait for its client, the shell is ended.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type { MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import * as core from "@effect-microsandbox/core/Sandbox"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as NetAddress from "effect/net/NetAddress"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as internal from "./internal/sshServer.ts"

/**
 * Options of a server. One authorized key is needed; all else has a default.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * The address or name of the host to listen on. Default: `127.0.0.1`, where only this machine's programs reach it.
   */
  readonly host?: string | undefined
  /** The TCP port. Default: 0, any that is free. */
  readonly port?: number | undefined
  /**
   * Listens on a Unix socket at this path instead, whose file only its owner can use, and which is removed at the end. What is
   * there already is refused, not replaced.
   */
  readonly path?: string | undefined
  /**
   * The server's private key: its text (OpenSSH, PKCS#8 or PKCS#1, without a passphrase), or the path of a file, which is made
   * when there is none. Default: a new Ed25519 key, in memory only, with each server.
   */
  readonly hostKey?: Redacted.Redacted<string> | { readonly path: string } | undefined
  /**
   * The public keys that may log in, each a line as in `id_ed25519.pub`: Ed25519, ECDSA or RSA. Options before a key, such as
   * `restrict`, are refused, since they would not be heeded.
   */
  readonly authorizedKeys?: ReadonlyArray<string> | undefined
  /** A file with such lines, as `authorized_keys`. It is read once, when the server is made. */
  readonly authorizedKeysPath?: string | undefined
  /**
   * The keys of an SSH agent of this machine may log in too: `true` for the agent that `SSH_AUTH_SOCK` names, or the path of
   * an agent's socket. It is asked once, when the server is made, for its public keys; certificates are left out. The
   * server's own key cannot be an agent's: the server signs with it itself. Default: false.
   */
  readonly authorizedAgent?: boolean | string | undefined
  /** The guest's user that a client becomes. Default: whom the client logs in as (`ssh root@…`), with any authorized key. */
  readonly user?: string | undefined
  /**
   * Whether there is SFTP: for `root`, the guest's files as its root has them; for another user by an `sftp-server` in the
   * guest. Default: true.
   */
  readonly sftp?: boolean | undefined
  /**
   * After how long without a word from either side a connection is closed; `Infinity` is never. Default: what the `config.json`
   * of the backend's home says, or else 10 minutes.
   */
  readonly inactivityTimeout?: Duration.Input | undefined
  /**
   * How long a client may take to log in; then its connection is closed. `Infinity` is no limit. Default: 2 minutes, as
   * `LoginGraceTime` of OpenSSH.
   */
  readonly loginTimeout?: Duration.Input | undefined
  /**
   * How many connections there are at once, 1 to 100; one more is closed at once. A sandbox's agent takes 128 connections, of
   * which each command of a client has one, each of its SFTP sessions, and each forwarded connection. Default: 64.
   */
  readonly maxConnections?: number | undefined
}

/**
 * The public part of a server's key, for a client to know it by.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface HostKey {
  /** As OpenSSH writes it: `ssh-ed25519 AAAA…`. */
  readonly line: string
  /** As `ssh-keygen -l` writes it: `SHA256:…`. */
  readonly fingerprint: string
}

/**
 * A server that listens.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface SshServer {
  /** Where it listens, with the port that it got. */
  readonly address: NetAddress.SocketAddress
  readonly hostKey: HostKey
  /**
   * The line for a client's `known_hosts`, so that it need not trust what it sees first. On a Unix socket the name in it is
   * that of the sandbox: give the client `HostKeyAlias`.
   */
  readonly knownHosts: string
}

/**
 * The one server of a program, as {@link layer} provides it.
 *
 * @stability unstable
 * @category services
 * @since 0.1.0
 */
export const SshServer: Context.Service<SshServer, SshServer> = Context.Service("@effect-microsandbox/ssh/SshServer")

/**
 * Serves a sandbox to SSH clients until the scope closes.
 *
 * **Details**
 *
 * The end of the scope accepts no more, ends every connection with all that it runs in the guest, and waits for that. So does
 * the end of a connection with its own: a client that is gone leaves no program behind.
 *
 * Fails with `InvalidConfig`, which names the option: no authorized key, a key that is none, a path of a socket where there is
 * something; and with `HostIo` when it cannot listen, or cannot read a file of keys or ask an agent.
 *
 * **Gotchas**
 *
 * Without `user`, each authorized key is good for each user of the guest, its root among them. Make the server after the sandbox
 * in the same scope, or in a scope within, so that it ends first.
 *
 * **Example** (A sandbox for an SSH client)
 *
 * ```ts
 * import { Backend, Sandbox } from "@effect-microsandbox/core"
 * import { SshServer } from "@effect-microsandbox/ssh"
 * import { Console, Effect } from "effect"
 * import { readFileSync } from "node:fs"
 *
 * const program = Effect.gen(function*() {
 *   const sandbox = yield* Sandbox.make({ image: "alpine" })
 *   const server = yield* SshServer.make(sandbox, {
 *     port: 2222,
 *     authorizedKeys: [readFileSync("/home/me/.ssh/id_ed25519.pub", "utf8")]
 *   })
 *   yield* Console.log(`ssh -p 2222 root@127.0.0.1, whose key is ${server.hostKey.fingerprint}`)
 *   yield* Effect.never
 * })
 *
 * Effect.scoped(program).pipe(Effect.provide(Backend.layerLocal()))
 * ```
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const make: (
  sandbox: Sandbox.Sandbox,
  options: Options
) => Effect.Effect<SshServer, MicrosandboxError.MicrosandboxError, Scope.Scope> = internal.make

/**
 * Serves the one sandbox of a program.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: Options
): Layer.Layer<SshServer, MicrosandboxError.MicrosandboxError, Sandbox.Sandbox> =>
  Layer.effect(SshServer, Effect.flatMap(core.Sandbox, (sandbox) => make(sandbox, options)))
