/** A session between the host's terminal and a program in a guest. */
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { PlatformError } from "effect/PlatformError"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Sink from "effect/Sink"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import * as Terminal from "effect/Terminal"
import type { End, Options, SessionOptions } from "../Attach.ts"
import type { ExecHandle } from "../Exec.ts"
import { MicrosandboxError, Terminal as TerminalReason } from "../MicrosandboxError.ts"
import type { Sandbox } from "../Sandbox.ts"
import { spawn } from "./exec.ts"
import { decodeOptions, type Subject } from "./failure.ts"
import { attributesOf, subjectOf, type Target } from "./operation.ts"

/** The engine's own default. */
const defaultKeys = "ctrl-]"

/** The bytes that a terminal in raw mode sends for a sequence of keys. */
export const parseKeys = (keys: string): Result.Result<Uint8Array, string> => {
  const bytes: Array<number> = []
  for (const key of keys.split(",").map((key) => key.trim())) {
    const control = /^ctrl-([a-z@[\\\]^_])$/i.exec(key)?.[1]
    if (control !== undefined) bytes.push(control.toUpperCase().charCodeAt(0) & 0x1f)
    else if (/^[\x21-\x7e]$/.test(key)) bytes.push(key.charCodeAt(0))
    else return Result.fail(`no key is called ${JSON.stringify(key)}`)
  }
  return Result.succeed(Uint8Array.from(bytes))
}

const Keys = Schema.String.check(Schema.makeFilter((keys: string) => {
  const parsed = parseKeys(keys)
  return Result.isSuccess(parsed) || parsed.failure
}))

const Session = Schema.Struct({ detachKeys: Schema.optional(Keys) })

/**
 * Tells what was typed for the program from the detach keys, however the input is cut. What may become those keys is held back
 * until the next key tells; after them, nothing is for the program.
 */
export const detector = (
  keys: Uint8Array
): (typed: Uint8Array) => { readonly forward: Uint8Array; readonly isDetached: boolean } => {
  let held = 0
  return (typed) => {
    const forward: Array<number> = []
    for (const byte of typed) {
      const seen = [...keys.subarray(0, held), byte]
      // The longest end of what was seen that can still become the keys.
      let length = Math.min(seen.length, keys.length)
      while (
        length > 0 && !keys.subarray(0, length).every((key, index) => key === seen[seen.length - length + index])
      ) {
        length--
      }
      forward.push(...seen.slice(0, seen.length - length))
      held = length
      if (held === keys.length) return { forward: Uint8Array.from(forward), isDetached: true }
    }
    return { forward: Uint8Array.from(forward), isDetached: false }
  }
}

const terminalError = (subject: Subject) => (error: PlatformError): MicrosandboxError =>
  new MicrosandboxError({ ...subject, reason: new TerminalReason({ message: error.message }) })

const requireTerminal = (subject: Subject): Effect.Effect<void, MicrosandboxError, Stdio.Stdio> =>
  Effect.flatMap(
    Stdio.Stdio,
    ({ stdinIsTerminal }) =>
      Effect.flatMap(stdinIsTerminal, (isTerminal) =>
        isTerminal ? Effect.void : Effect.fail(
          new MicrosandboxError({
            ...subject,
            reason: new TerminalReason({ message: "the standard input is not a terminal" })
          })
        ))
  )

/** What Node does after this turn of its loop is done. */
const turn = Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))

/** Puts the process's own terminal into raw mode. */
export const processRawMode: Effect.Effect<void, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => {
    const { isRaw, readableFlowing } = process.stdin
    if (process.stdin.isTTY) process.stdin.setRawMode(true)
    return { isRaw, readableFlowing }
  }),
  ({ isRaw, readableFlowing }) =>
    Effect.gen(function*() {
      if (process.stdin.isTTY) process.stdin.setRawMode(isRaw)
      // A terminal that is still read keeps the process from ending. The stream learns a turn later that its reader has
      // left, and until then a pause does not reach the terminal.
      yield* turn
      if (readableFlowing === true) return
      process.stdin.pause()
      // The terminal is paused a turn later too, and with it a reader that has come meanwhile.
      yield* turn
    })
).pipe(Effect.asVoid)

export const RawMode: Context.Reference<Effect.Effect<void, never, Scope.Scope>> = Context.Reference<
  Effect.Effect<void, never, Scope.Scope>
>("@effect-microsandbox/core/Attach/RawMode", { defaultValue: () => processRawMode })

/** The terminal and the program, until one of them ends the session. */
const session = (
  subject: Subject,
  program: ExecHandle,
  keys: Uint8Array
): Effect.Effect<End, MicrosandboxError, Stdio.Stdio | Terminal.Terminal> =>
  Effect.gen(function*() {
    const stdio = yield* Stdio.Stdio
    const terminal = yield* Terminal.Terminal
    yield* yield* RawMode
    // Its first element is the size now, which a program that runs already does not know.
    const sizes = yield* terminal.size
    yield* Stream.fromQueue(sizes).pipe(
      Stream.filter(({ columns, rows }) => columns > 0 && rows > 0),
      Stream.runForEach(({ columns, rows }) => program.resize(rows, columns)),
      // A program that has ended has no terminal; its end is told by its output.
      Effect.ignore,
      Effect.forkScoped
    )
    const left = yield* Deferred.make<void, MicrosandboxError>()
    const leave = Effect.andThen(Deferred.succeed(left, undefined), Effect.never)
    const detect = detector(keys)
    let isDetached = false
    const typed = stdio.stdin.pipe(
      Stream.catch((error) =>
        Stream.fromEffect(Effect.andThen(Deferred.fail(left, terminalError(subject)(error)), Effect.never))
      ),
      Stream.map(detect),
      Stream.takeUntil((typed) => {
        isDetached = typed.isDetached
        return isDetached
      }),
      Stream.map(({ forward }) => forward),
      Stream.filter(({ length }) => length > 0),
      // The program's input ends with the terminal's, but not with a session that is left.
      Stream.concat(Stream.suspend(() => isDetached ? Stream.fromEffect(leave) : Stream.empty))
    )
    // What a program no longer reads is no failure: its end tells.
    const input = Stream.run(typed, program.stdin).pipe(Effect.ignore, Effect.andThen(Effect.never))
    const output = Stream.run(program.stdout, Sink.mapError(stdio.stdout(), terminalError(subject))).pipe(
      Effect.andThen(program.exitStatus),
      Effect.map((status): End => ({ _tag: "Exited", status }))
    )
    const detached = Effect.map(Deferred.await(left), (): End => ({ _tag: "Detached" }))
    return yield* Effect.raceAllFirst([output, detached, input])
  }).pipe(Effect.scoped)

const runSubject: Subject = { operation: "Attach.run" }
const decodeRun = decodeOptions(Session, runSubject)

export const run = Effect.fn("Attach.run")(function*(
  program: ExecHandle,
  options: SessionOptions = {}
): Effect.fn.Return<End, MicrosandboxError, Stdio.Stdio | Terminal.Terminal> {
  const { detachKeys = defaultKeys } = yield* decodeRun(options)
  yield* requireTerminal(runSubject)
  return yield* session(runSubject, program, toBytes(detachKeys))
})

/** The keys were decoded. */
const toBytes = (keys: string): Uint8Array => Result.getOrThrow(parseKeys(keys))

/** The program's terminal is of the host's kind, unless `env` says otherwise. */
const environment = (env: Options["env"]): Effect.Effect<NonNullable<Options["env"]>> =>
  Config.option(Config.String("TERM")).pipe(
    Effect.orElseSucceed(Option.none),
    Effect.map((term) => Option.isSome(term) ? { TERM: term.value, ...env } : { ...env })
  )

export const attach = (target: Target): Pick<Sandbox, "attach" | "attachShell"> => {
  const runIn = (operation: string) => {
    const subject = subjectOf(operation, target)
    const decode = decodeOptions(Session, subject)
    const start = spawn(operation, target)
    return Effect.fn(operation, { attributes: attributesOf(target) })(function*(
      command: string,
      args: ReadonlyArray<string> = [],
      { detachKeys, env, ...rest }: Options = {}
    ): Effect.fn.Return<End, MicrosandboxError, Stdio.Stdio | Terminal.Terminal> {
      const keys = yield* decode({ detachKeys })
      yield* requireTerminal(subject)
      const program = start(command, args, { ...rest, env: yield* environment(env), tty: true, stdin: "pipe" })
      return yield* Effect.flatMap(
        program,
        (program) => session(subject, program, toBytes(keys.detachKeys ?? defaultKeys))
      ).pipe(Effect.scoped)
    })
  }
  const attach = runIn("Sandbox.attach")
  const attachShell = runIn("Sandbox.attachShell")
  return { attach, attachShell: (options) => attachShell(target.handle.shell, [], options) }
}
