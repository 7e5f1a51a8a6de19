/**
 * Waiting until something in a sandbox is ready: a port that accepts connections, a line in the logs, a file.
 *
 * Each wait has a deadline, and fails with `WaitTimeout` then; interruption ends it. A sandbox that stops in the meantime, or
 * that is replaced or paused, fails the wait at once, with its own reason.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import type * as Logs from "./Logs.ts"

/**
 * How long to wait.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** Default: 60 seconds. */
  readonly timeout?: Duration.Input | undefined
}

/**
 * How long to wait, and how often to look.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface PollOptions extends Options {
  /** The pause between two looks. Default: 100 milliseconds. */
  readonly interval?: Duration.Input | undefined
}

/**
 * Options of waiting for a port.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface PortOptions extends PollOptions {
  /** A name or an address, as the guest sees it. Default: `127.0.0.1`, the guest itself. */
  readonly host?: string | undefined
}

/**
 * Options of waiting for a line.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface LogOptions extends Options {
  /** Where the line comes from. Default: `stdout`, `stderr` and `output`. */
  readonly sources?: ReadonlyArray<Logs.Source> | undefined
}
