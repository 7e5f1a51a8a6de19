/**
 * What was written in sandboxes: by their programs, and by the runtime around them.
 *
 * The logs of a sandbox are files in its directory, and are there for as long as it is, stopped or not. A file is rotated
 * at 10 MiB, and four rotated ones are kept.
 *
 * @stability unstable
 * @since 0.1.0
 */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { Backend } from "./Backend.ts"
import { mapFailure } from "./internal/failure.ts"
import { defined } from "./internal/inputs.ts"
import type { MicrosandboxError } from "./MicrosandboxError.ts"

/**
 * Where an entry comes from: a program's outputs, or `output` for both of them with a terminal; `system` is what the
 * runtime and the guest's kernel say.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export const Source = Schema.Literals(["stdout", "stderr", "output", "system"])

/**
 * Where an entry comes from.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Source = typeof Source.Type

/**
 * A piece of what was written: of a program, what came at once, up to 4 KiB, with its line ends; of the system, a line.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Entry extends Schema.Class<Entry>("@effect-microsandbox/core/Logs/Entry")({
  /** When the host got it. */
  timestamp: Schema.DateTimeUtc,
  source: Source,
  /** Which program wrote it: the same number for all that one program writes. Absent for the system's entries. */
  sessionId: Schema.optionalKey(Schema.Finite),
  /** As text: the runtime has replaced bytes that are not UTF-8 by U+FFFD, also where a piece ends inside of a letter. */
  text: Schema.String,
  /** Where this entry ends, to go on from there: opaque, and good for as long as the file is kept. */
  cursor: Schema.String
}) {}

/**
 * Which entries to read.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** Default: `stdout`, `stderr` and `output`. */
  readonly sources?: ReadonlyArray<Source> | undefined
  /** From this time on. */
  readonly since?: DateTime.DateTime.Input | undefined
  /** Before this time. */
  readonly until?: DateTime.DateTime.Input | undefined
  /** Only the last so many of these. */
  readonly tail?: number | undefined
}

/**
 * Which entries to stream.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface StreamOptions {
  /** Default: `stdout`, `stderr` and `output`. */
  readonly sources?: ReadonlyArray<Source> | undefined
  /** From this time on. Default: from the oldest entry. Not together with `cursor`. */
  readonly since?: DateTime.DateTime.Input | undefined
  /** After the entry with this cursor, which must have been read with the same sources. */
  readonly cursor?: string | undefined
  /** Before this time. A stream that follows ends a second or two after it. */
  readonly until?: DateTime.DateTime.Input | undefined
  /** Go on with what is written, until the sandbox stops. Default: false, which ends where the logs end now. */
  readonly follow?: boolean | undefined
}

/**
 * Why a sandbox could not start, as its runtime recorded it.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class BootError extends Schema.Class<BootError>("@effect-microsandbox/core/Logs/BootError")({
  timestamp: Schema.optionalKey(Schema.DateTimeUtc),
  /** `mount`, `build_vm`, `config`, `network`, `image` or `other`. */
  stage: Schema.String,
  errno: Schema.optionalKey(Schema.Int),
  message: Schema.String
}) {}

/**
 * Why a sandbox could not start when it was last tried; nothing when it could.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const bootError = Effect.fn("Logs.bootError")(function*(
  name: string
): Effect.fn.Return<Option.Option<BootError>, MicrosandboxError, Backend> {
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
  const { handle, native } = yield* Backend
  const found = yield* native.call((token) => handle.bootError(name, token)).pipe(
    mapFailure({ operation: "Logs.bootError", sandbox: name })
  )
  return Option.map(
    Option.fromNullishOr(found),
    ({ timestamp, ...rest }) =>
      new BootError({
        ...rest,
        ...defined({ timestamp: timestamp === undefined ? undefined : DateTime.makeUnsafe(timestamp) })
      })
  )
})
