/**
 * Interactive sessions: the host's terminal and a program of a sandbox, face to face.
 *
 * `sandbox.attach` runs a program in a terminal of its own, of the size that the host's has, and follows its changes. Keys go
 * to the program as they are typed, Ctrl+C too, until it ends or the detach keys are typed. The host's terminal is in raw
 * mode meanwhile, and gets its old mode back on every way out.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type { ExitStatus, Options as ExecOptions } from "./Exec.ts"

/**
 * Options of a session.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface SessionOptions {
  /**
   * The keys that end the session, and are not given to the program: single characters and `ctrl-` with a letter or one of
   * `@[\]^_`, separated by commas, such as `ctrl-p,ctrl-q`. Default: `ctrl-]`.
   */
  readonly detachKeys?: string | undefined
}

/**
 * Options of a program that is run for a session. It gets the host's `TERM` when `env` has none.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options extends ExecOptions, SessionOptions {}

/**
 * How a session ended: the program did, or the detach keys were typed.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type End =
  | { readonly _tag: "Exited"; readonly status: ExitStatus }
  | { readonly _tag: "Detached" }

export {
  /**
   * Puts the host's terminal into raw mode for as long as a scope is open. Default: the process's own terminal. For programs
   * whose `Stdio` is another one.
   *
   * @stability unstable
   * @category references
   * @since 0.1.0
   */
  RawMode,
  /**
   * Attaches the host's terminal to a program that runs already, until it ends or the detach keys are typed.
   *
   * **When to use**
   *
   * Use when the program is to go on after the detach keys: it was spawned with `tty` and `stdin`, its own scope ends it, and
   * it can be attached to again. What it prints meanwhile is there for the next session.
   *
   * **Details**
   *
   * Reasons: `Terminal` when the standard input is no terminal, or when it fails; those of the program's streams.
   *
   * @stability unstable
   * @category operations
   * @since 0.1.0
   */
  run
} from "./internal/attach.ts"
