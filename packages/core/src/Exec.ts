/**
 * Programs in a sandbox: what to run, what came of it, and a handle on one that runs.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Sink from "effect/Sink"
import type * as Stream from "effect/Stream"
import type { MicrosandboxError } from "./MicrosandboxError.ts"

/**
 * Options that every way of running a program takes.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** Working directory in the guest. Default: the sandbox's. */
  readonly cwd?: string | undefined
  /** User, by name or id, with an optional `:group`. Default: the sandbox's. */
  readonly user?: string | undefined
  /** Variables on top of the sandbox's own. */
  readonly env?: Readonly<Record<string, string>> | undefined
}

/**
 * Options of a program whose output is collected.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface ExecOptions extends Options {
  /** What the program reads from its standard input. Default: nothing. */
  readonly stdin?: string | Uint8Array | undefined
  /** How long the program may run before it is killed and `ExecTimeout` is the reason. Default: without end. */
  readonly timeout?: Duration.Input | undefined
}

/**
 * Options of a program that is started and then talked to.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface SpawnOptions extends Options {
  /** Give the program a terminal: then all of its output comes as `stdout`. Default: false. */
  readonly tty?: boolean | undefined
  /** Keep standard input open for {@link ExecHandle.stdin}. Default: false, which is an empty input. */
  readonly stdin?: boolean | undefined
}

/**
 * A program's whole output, held in memory. A non-zero exit code is a value, not an error.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface ExecOutput {
  /** The exit code; -1 when a signal ended the program (the agent of runtime 0.7.2 does not say which). */
  readonly exitCode: number
  /** Whether the exit code is 0. */
  readonly success: boolean
  /** Standard output as text; bytes that are not UTF-8 become U+FFFD. */
  readonly stdout: string
  /** Standard error as text; bytes that are not UTF-8 become U+FFFD. */
  readonly stderr: string
  readonly stdoutBytes: Uint8Array
  readonly stderrBytes: Uint8Array
}

/**
 * How a program ended.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface ExitStatus {
  /** The exit code; -1 when a signal ended the program. */
  readonly exitCode: number
  /** Whether the exit code is 0. */
  readonly success: boolean
}

/**
 * What happened in a program, in the order in which it happened.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type ExecEvent =
  | { readonly _tag: "Started"; readonly pid: number }
  | { readonly _tag: "Stdout"; readonly data: Uint8Array }
  | { readonly _tag: "Stderr"; readonly data: Uint8Array }
  | { readonly _tag: "StdinFailed"; readonly message: string; readonly errno?: number }
  | { readonly _tag: "Exited"; readonly code: number }

/**
 * A program that was started. Its scope ends it: the process group is killed, and that is confirmed, if it still runs.
 *
 * **Gotchas**
 *
 * Each event goes to one reader: `stdout`, `stderr`, `all` and `events` take from the same output, and what one of them
 * has taken no other sees. What is not read stays in memory until the program ends or the scope closes.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface ExecHandle {
  /** The process id in the guest. */
  readonly pid: number
  /** Takes what the program reads; its end is the end of the input. Needs `stdin: true`. */
  readonly stdin: Sink.Sink<void, string | Uint8Array, never, MicrosandboxError>
  /** Standard output, as it is printed; with a terminal, all output. */
  readonly stdout: Stream.Stream<Uint8Array, MicrosandboxError>
  /** Standard error, as it is printed. */
  readonly stderr: Stream.Stream<Uint8Array, MicrosandboxError>
  /** Both, in the order in which they came. */
  readonly all: Stream.Stream<Uint8Array, MicrosandboxError>
  /** Everything that happens, in its order, up to `Exited`. */
  readonly events: Stream.Stream<ExecEvent, MicrosandboxError>
  /** Waits for the program's end. Can be asked again and again, and beside any reader. */
  readonly exitStatus: Effect.Effect<ExitStatus, MicrosandboxError>
  /** Sends a signal, by number (1 to 64), to the program's process group. A program that has ended is no error. */
  readonly signal: (signal: number) => Effect.Effect<void, MicrosandboxError>
  /**
   * Sends SIGKILL to the program's process group and waits for the program's end. Fails with `KillTimeout` when the guest
   * does not confirm that within 5 seconds.
   */
  readonly kill: Effect.Effect<void, MicrosandboxError>
  /** Tells the program's terminal its size, in characters (1 to 65535). Needs `tty: true`. */
  readonly resize: (rows: number, columns: number) => Effect.Effect<void, MicrosandboxError>
}
