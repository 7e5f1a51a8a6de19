/**
 * An SSH client: programs and files of any SSH server, or of a sandbox of this process.
 *
 * {@link connect} logs in to a server over TCP or a Unix socket, {@link open} to a sandbox without any of them. Both give the
 * same client: programs that are collected ({@link SshClient.exec}) or talked to ({@link SshClient.spawn}), shells with or
 * without a terminal, and files as Effect's `FileSystem` ({@link SshClient.sftp}, see `Sftp`).
 *
 * **Details**
 *
 * The server must show a key that it is known by, before the client says who it is. The client logs in with a key, by its text,
 * its file or an agent, and with nothing else. A program that ends without an exit status or a signal is a failure and never 0.
 *
 * Each program that is spawned has a connection of its own, logged in with the same key: one whose output nobody reads waits on
 * its server and stops no other. What is collected, and files, share the first connection as far as the server lets them.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type { Backend, Exec, MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import type * as ByteSize from "effect/ByteSize"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type * as Sink from "effect/Sink"
import type * as Stream from "effect/Stream"
import * as internal from "./internal/sshClient.ts"

/**
 * With which key a client logs in: its text (OpenSSH, PKCS#8 or PKCS#1, without a passphrase), its file with the passphrase if
 * it has one, or each key of an agent, whose socket is given or named by `SSH_AUTH_SOCK` (`{ agent: true }`).
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type Key =
  | Redacted.Redacted<string>
  | { readonly path: string; readonly passphrase?: Redacted.Redacted<string> | undefined }
  | { readonly agent: true | string }

/**
 * Options of a connection. It needs `host` or `path`, a user, a key and the server's key.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface ConnectOptions {
  /** The server's name or address. */
  readonly host?: string | undefined
  /** Its TCP port. Default: 22. */
  readonly port?: number | undefined
  /** The path of a Unix socket instead, on which the server listens. */
  readonly path?: string | undefined
  /** Who the client is on the server. */
  readonly user: string
  readonly key: Key
  /**
   * The server's public key as a line (`ssh-ed25519 AAAA…`, such as `SshServer.HostKey.line`), or its fingerprint
   * (`SHA256:…`); or several of them, of which it shows one. Of a server with keys of several kinds a line asks for the kind
   * that it is of; a fingerprint cannot, and is to be of the key that the server shows first, mostly Ed25519.
   */
  readonly hostKey: string | ReadonlyArray<string>
  /** How long connecting and logging in may take. Default: 15 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /**
   * After how long without a word from the server it is asked whether it is there; after three times without an answer the
   * connection is lost. `Infinity` never asks. Default: 15 seconds.
   */
  readonly keepalive?: Duration.Input | undefined
  /** After how long without a word from either side a connection is given up. Default: `Infinity`, never. */
  readonly inactivityTimeout?: Duration.Input | undefined
}

/**
 * Options of a client of a sandbox.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface OpenOptions {
  /** The guest's user that runs all programs. Default: the sandbox's, or else `root`. */
  readonly user?: string | undefined
}

/**
 * The terminal of a program.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Pty {
  /** Its size in characters, 1 to 65535. Default: 24 rows and 80 columns. */
  readonly rows?: number | undefined
  readonly columns?: number | undefined
  /** Its kind, which the program finds as `TERM`. Default: `xterm-256color`. */
  readonly term?: string | undefined
}

/**
 * Options that every way of running a program takes.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * Variables of the program. A server takes those that it allows (`AcceptEnv` of OpenSSH's, which by default are few): one that
   * it refuses is `SshRequestRefused`, and the program is not started.
   */
  readonly env?: Readonly<Record<string, string>> | undefined
  /**
   * How long the program may run. Then it is killed, and `ExecTimeout` is the reason, with the last 64 KiB of each of its
   * outputs. Default: without end.
   */
  readonly timeout?: Duration.Input | undefined
  /**
   * A terminal for the program: then all of its output comes as `stdout`, and an input that is not given has no end. When one
   * that is given has ended, OpenSSH's server changes the size of the terminal no more. Default: false.
   */
  readonly pty?: boolean | Pty | undefined
}

/**
 * Options of a program whose output is collected.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface ExecOptions<out E = never, out R = never> extends Options {
  /**
   * What the program reads from its standard input. A stream that fails ends the program, and its error is the call's.
   * Default: nothing.
   */
  readonly stdin?: string | Uint8Array | Stream.Stream<string | Uint8Array, E, R> | undefined
  /**
   * How much the program may print, both outputs together. One that prints more is killed, and `OutputOverflow` is the reason.
   * Default: 64 MiB.
   */
  readonly maxOutput?: ByteSize.Input | undefined
}

/**
 * Options of a program that is started and then talked to.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface SpawnOptions extends Options {
  /**
   * What the program reads: bytes or a stream, or `"pipe"` to write to {@link Handle.stdin}. Default: an empty input; of a shell,
   * `"pipe"`.
   */
  readonly stdin?: "pipe" | Uint8Array | Stream.Stream<string | Uint8Array> | undefined
  /**
   * How much output may lie unread on this side before the server is held back. What is under way then, a few MiB, comes on top.
   * Default: 4 MiB.
   */
  readonly highWater?: ByteSize.Input | undefined
}

/**
 * How a program ended: with an exit code, or by a signal.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface ExitStatus {
  /** The exit code; undefined when a signal ended the program. */
  readonly exitCode: number | undefined
  /** The signal that ended the program, such as `SIGKILL`; undefined when it has an exit code. */
  readonly signal: string | undefined
  /** Whether the exit code is 0. */
  readonly success: boolean
}

/**
 * A program's end and whole output, held in memory. A non-zero exit code or a signal is a value, not an error.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Output extends ExitStatus {
  /** Standard output as text; bytes that are not UTF-8 become U+FFFD. */
  readonly stdout: string
  /** Standard error as text; bytes that are not UTF-8 become U+FFFD. */
  readonly stderr: string
  readonly stdoutBytes: Uint8Array
  readonly stderrBytes: Uint8Array
}

/**
 * A program that was started. Its scope ends it: it gets SIGKILL if it still runs, its channel is closed when that does not
 * help within 2 seconds, and its connection ends.
 *
 * **Gotchas**
 *
 * `stdout`, `stderr` and `all` take from the same output, and what one of them has taken no other sees. What nobody has read
 * counts against `highWater`, of whichever output it is: a program whose output nobody reads waits there, and `exitStatus` with
 * it. A reader of one output is not kept waiting by the other; when 32 MiB more of the other have gathered, the program is
 * killed and the reason is `OutputOverflow`. So read both.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Handle {
  /**
   * Takes what the program reads; its end is the end of the input. Needs `stdin: "pipe"`. Fails with `StdinFailed` when the
   * program has ended. One that has closed its input and lives on is written to in vain: the protocol does not tell.
   */
  readonly stdin: Sink.Sink<void, string | Uint8Array, never, MicrosandboxError.MicrosandboxError>
  /** Standard output, as it is printed; with a terminal, all output. */
  readonly stdout: Stream.Stream<Uint8Array, MicrosandboxError.MicrosandboxError>
  /** Standard error, as it is printed. */
  readonly stderr: Stream.Stream<Uint8Array, MicrosandboxError.MicrosandboxError>
  /** Both, in the order in which they came. */
  readonly all: Stream.Stream<Uint8Array, MicrosandboxError.MicrosandboxError>
  /**
   * Waits for the program's end. Can be asked again and again, and beside any reader. Fails with `SshNoExitStatus` when the
   * server does not tell how it ended, and with `SshConnectionLost` when the connection is gone before.
   */
  readonly exitStatus: Effect.Effect<ExitStatus, MicrosandboxError.MicrosandboxError>
  /**
   * Sends a signal. The protocol has no answer to that: a server that knows no signals, or not this one, ignores it. A program
   * that has ended is no error.
   */
  readonly signal: (signal: Exec.SignalName) => Effect.Effect<void, MicrosandboxError.MicrosandboxError>
  /**
   * Sends SIGKILL and waits for the program's end. Fails with `KillTimeout` when the server does not tell that within 5 seconds.
   */
  readonly kill: Effect.Effect<void, MicrosandboxError.MicrosandboxError>
  /** Tells the program's terminal its size, in characters (1 to 65535). Needs `pty`. */
  readonly resize: (rows: number, columns: number) => Effect.Effect<void, MicrosandboxError.MicrosandboxError>
}

/**
 * A client that is logged in.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface SshClient {
  /** The fingerprint of the key that the server has shown: `SHA256:…`. */
  readonly hostKey: string
  /**
   * Runs a command with the user's shell on the server, and collects what it prints. It has ended when its outputs are closed,
   * also by what it has left behind, as with `ssh`.
   *
   * Fails with `SshNoExitStatus` or `SshConnectionLost` when nobody knows how the program ended, `ExecTimeout`, `OutputOverflow`,
   * and `SshRequestRefused`. Interruption kills the program, and waits for its end for 5 seconds at most.
   *
   * A server that passes no signals on, as OpenSSH 9.2 does for root, can only be told that nobody listens any more: there a
   * program without a terminal lives on until it reads or prints, and a warning in the log says that its end was not told.
   */
  readonly exec: <E = never, R = never>(
    command: string,
    options?: ExecOptions<E, R>
  ) => Effect.Effect<Output, MicrosandboxError.MicrosandboxError | E, R>
  /** Starts a command with the user's shell on the server, on a connection of its own. */
  readonly spawn: (
    command: string,
    options?: SpawnOptions
  ) => Effect.Effect<Handle, MicrosandboxError.MicrosandboxError, Scope.Scope>
  /** Starts the user's login shell, on a connection of its own; with `pty` it is an interactive one. */
  readonly shell: (options?: SpawnOptions) => Effect.Effect<Handle, MicrosandboxError.MicrosandboxError, Scope.Scope>
  /** The server's files. `Sftp.make` says more of them. */
  readonly sftp: Effect.Effect<FileSystem.FileSystem, MicrosandboxError.MicrosandboxError, Scope.Scope>
}

/**
 * The one client of a program, as {@link layer} provides it.
 *
 * @stability unstable
 * @category services
 * @since 0.1.0
 */
export const SshClient: Context.Service<SshClient, SshClient> = Context.Service("@effect-microsandbox/ssh/SshClient")

/**
 * Logs in to an SSH server, until the scope closes.
 *
 * **Details**
 *
 * Fails with `SshHostKeyMismatch` when the server shows another key, before anything else is said to it; `SshLoginRefused`;
 * `SshConnectFailed`, also when it takes longer than `connectTimeout`; `HostIo` when the file of a key, or an agent, cannot be
 * used; and `InvalidConfig`, which names the option. None of them holds anything of a key or a passphrase.
 *
 * The backend lends its engine and is not asked anything: the server may be anywhere.
 *
 * **Example** (A command on a server)
 *
 * ```ts
 * import { Backend } from "@effect-microsandbox/core"
 * import { SshClient } from "@effect-microsandbox/ssh"
 * import { Console, Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const client = yield* SshClient.connect({
 *     host: "build.example.com",
 *     user: "me",
 *     key: { agent: true },
 *     hostKey: "SHA256:yVmOcVhbyh0BDYkEvLjLsVKIWhEqo9GkLXPwgXvHkXU"
 *   })
 *   const { exitCode, stdout } = yield* client.exec("uname -a")
 *   yield* Console.log(exitCode, stdout)
 * })
 *
 * Effect.scoped(program).pipe(Effect.provide(Backend.layerLocal()))
 * ```
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const connect: (
  options: ConnectOptions
) => Effect.Effect<SshClient, MicrosandboxError.MicrosandboxError, Backend.Backend | Scope.Scope> = internal.connect

/**
 * Logs in to a sandbox within this process, until the scope closes.
 *
 * **When to use**
 *
 * For code that speaks to servers over SSH and is to run against a sandbox. There is no socket and no key to handle: the keys of
 * both sides are made for this client alone. For everything else `sandbox.exec` and `sandbox.fs` are the shorter way.
 *
 * **Gotchas**
 *
 * Open it after the sandbox in the same scope, or in a scope within, so that it ends first. SFTP is root's, whoever the user is.
 *
 * **Example** (A shell at a terminal of a sandbox)
 *
 * ```ts
 * import { Backend, Sandbox } from "@effect-microsandbox/core"
 * import { SshClient } from "@effect-microsandbox/ssh"
 * import { Console, Effect, Stream } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const sandbox = yield* Sandbox.make({ image: "alpine" })
 *   const client = yield* SshClient.open(sandbox)
 *   const shell = yield* client.shell({ pty: { rows: 40, columns: 120 } })
 *   yield* Stream.run(Stream.make("stty size; exit\n"), shell.stdin)
 *   yield* Stream.runForEach(Stream.decodeText(shell.stdout), (text) => Console.log(text))
 * })
 *
 * Effect.scoped(program).pipe(Effect.provide(Backend.layerLocal()))
 * ```
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const open: (
  sandbox: Sandbox.Sandbox,
  options?: OpenOptions
) => Effect.Effect<SshClient, MicrosandboxError.MicrosandboxError, Scope.Scope> = internal.open

/**
 * The client of one server.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: ConnectOptions
): Layer.Layer<SshClient, MicrosandboxError.MicrosandboxError, Backend.Backend> =>
  Layer.effect(SshClient, connect(options))
