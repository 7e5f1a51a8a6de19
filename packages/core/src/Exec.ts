/**
 * Programs in a sandbox: what to run, what came of it, and a handle on one that runs.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type * as ByteSize from "effect/ByteSize"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Sink from "effect/Sink"
import type * as Stream from "effect/Stream"
import type { signalNumbers } from "./internal/signals.ts"
import type { MicrosandboxError } from "./MicrosandboxError.ts"
import type { Rlimits } from "./SandboxOptions.ts"

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
  /** Limits of the program and of what it starts, on top of the sandbox's. */
  readonly rlimits?: Rlimits | undefined
  /**
   * How long the program may run. Then its process group is killed and `ExecTimeout` is the reason, with the last 64 KiB of
   * each of its outputs. Default: without end.
   */
  readonly timeout?: Duration.Input | undefined
  /**
   * Give the program a terminal, of 24 rows and 80 columns or of the size given here: then all of its output comes as
   * `stdout`. Default: false.
   */
  readonly tty?: boolean | TerminalSize | undefined
}

/**
 * The size of a terminal, in characters (1 to 65535).
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface TerminalSize {
  readonly rows: number
  readonly columns: number
}

/**
 * Keep what came first and what came last of an output, each at most so many bytes, and drop what lies between.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Keep {
  readonly keep: { readonly head: ByteSize.Input; readonly tail: ByteSize.Input }
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
   * How much the program may print, both outputs together. Default: 64 MiB.
   */
  readonly maxOutput?: ByteSize.Input | undefined
  /**
   * What becomes of a program that prints more than `maxOutput`: with `"fail"`, the default, it is killed, and
   * `OutputOverflow` is the reason; with {@link Keep}, which then says how much of each output is held instead of
   * `maxOutput`, it runs on, and `dropped` says what is missing.
   */
  readonly output?: "fail" | Keep | undefined
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
   * What the program reads: bytes or a stream, or `"pipe"` to write to {@link ExecHandle.stdin}. Default: an empty input.
   */
  readonly stdin?: "pipe" | Uint8Array | Stream.Stream<string | Uint8Array> | undefined
  /** How much output may lie unread on this side before `output` says what happens. Default: 4 MiB. */
  readonly highWater?: ByteSize.Input | undefined
  /**
   * What becomes of a program that prints faster than it is read. Default: `"wait"`.
   *
   * - `"wait"`: at the high-water mark its process group is stopped (SIGSTOP), and it is continued when half of that was
   *   read. Nothing is lost. A program that prints on nevertheless, from a process group of its own, is killed 32 MiB above
   *   the mark, with `OutputOverflow` after what it had printed.
   * - `"fail"`: it is killed at the mark, and readers get `OutputOverflow` after what it had printed.
   * - {@link Keep}: unread output beyond `head` and `tail` is dropped from the middle; `events` tell how much.
   * - `"discard"`: no output is held at all.
   */
  readonly output?: "wait" | "fail" | "discard" | Keep | undefined
}

/**
 * A program's whole output, held in memory. A non-zero exit code is a value, not an error.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface ExecOutput extends ExitStatus {
  /** Standard output as text; bytes that are not UTF-8 become U+FFFD. */
  readonly stdout: string
  /** Standard error as text; bytes that are not UTF-8 become U+FFFD. */
  readonly stderr: string
  readonly stdoutBytes: Uint8Array
  readonly stderrBytes: Uint8Array
  /** How many bytes are missing between the head and the tail of each output. Zero unless `output` is {@link Keep}. */
  readonly dropped: { readonly stdout: number; readonly stderr: number }
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
  /** Whether a signal ended the program. The agent of runtime 0.7.2 does not say which. */
  readonly signaled: boolean
}

/**
 * What happened in a program, in the order in which it happened. A program that cannot be started has no events: `spawn`
 * fails with `ExecFailed`.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type ExecEvent =
  | { readonly _tag: "Started"; readonly pid: number }
  | { readonly _tag: "Stdout"; readonly data: Uint8Array }
  | { readonly _tag: "Stderr"; readonly data: Uint8Array }
  /** Output was dropped here, by the policy {@link Keep}. */
  | { readonly _tag: "Dropped"; readonly output: "stdout" | "stderr"; readonly bytes: number }
  /** The program has closed its standard input. Told once. */
  | { readonly _tag: "StdinFailed"; readonly message: string; readonly errno?: number }
  | { readonly _tag: "Exited"; readonly code: number; readonly signaled: boolean }

/**
 * A signal, by its number (1 to 64) or its name.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Signal = number | SignalName

/**
 * The signals of Linux that have a name.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type SignalName = keyof typeof signalNumbers

/**
 * A program that was started. Its scope ends it: the process group is killed, and that is confirmed, if it still runs.
 *
 * **Gotchas**
 *
 * Each event goes to one reader: `stdout`, `stderr`, `all` and `events` take from the same output, and what one of them
 * has taken no other sees. What no reader has taken counts against `highWater`, of whichever output it is: a program whose
 * output nobody reads waits there, as one that writes to a full pipe does, and `exitStatus` with it. A reader of one output
 * is not kept waiting by the other: while it waits, the program runs on, and when 32 MiB more of the other output have
 * gathered, the program is killed and the reason is `OutputOverflow`. So read both, or discard.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface ExecHandle {
  /** The process id in the guest; also that of its process group. */
  readonly pid: number
  /**
   * Takes what the program reads; its end is the end of the input. Needs `stdin: "pipe"`. Fails with `StdinFailed` when the
   * program has closed its input.
   */
  readonly stdin: Sink.Sink<void, string | Uint8Array, never, MicrosandboxError>
  /** Standard output, as it is printed; with a terminal, all output. */
  readonly stdout: Stream.Stream<Uint8Array, MicrosandboxError>
  /** Standard error, as it is printed. */
  readonly stderr: Stream.Stream<Uint8Array, MicrosandboxError>
  /** Both, in the order in which they came. */
  readonly all: Stream.Stream<Uint8Array, MicrosandboxError>
  /** Everything that happens, in its order, up to `Exited`. */
  readonly events: Stream.Stream<ExecEvent, MicrosandboxError>
  /**
   * Waits for the program's end. Can be asked again and again, and beside any reader.
   *
   * The agent of runtime 0.7.2 tells the exit only when both outputs are closed, also by what the program has left behind.
   * So once the program itself has ended while its exit is waited for, the rest of its process group gets 400 milliseconds
   * and is killed; what it had printed can still be read. A process that is to live on closes or redirects its outputs. What
   * has left the group and holds an output keeps this waiting.
   */
  readonly exitStatus: Effect.Effect<ExitStatus, MicrosandboxError>
  /** Sends a signal to the program's process group. A program that has ended is no error. */
  readonly signal: (signal: Signal) => Effect.Effect<void, MicrosandboxError>
  /**
   * Sends SIGKILL to the program's process group and waits for the program's end. Fails with `KillTimeout` when the guest
   * does not confirm that within 5 seconds.
   */
  readonly kill: Effect.Effect<void, MicrosandboxError>
  /** Tells the program's terminal its size, in characters (1 to 65535). Needs `tty`. */
  readonly resize: (rows: number, columns: number) => Effect.Effect<void, MicrosandboxError>
}
