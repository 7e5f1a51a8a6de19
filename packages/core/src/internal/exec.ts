/** Running programs through the addon: collected in one call, or pulled from a handle. */
import type { Native } from "@effect-microsandbox/native"
import type * as Arr from "effect/Array"
import * as ByteSize from "effect/ByteSize"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import type {
  ExecEvent,
  ExecHandle,
  ExecOptions,
  ExecOutput,
  ExitStatus,
  Keep,
  SignalName,
  SpawnOptions
} from "../Exec.ts"
import { KillTimeout, MicrosandboxError } from "../MicrosandboxError.ts"
import * as SandboxOptions from "../SandboxOptions.ts"
import { decodeOptions, mapFailure, type Subject } from "./failure.ts"
import { defined, Span, Text, toMillis, Variables } from "./inputs.ts"
import { attributesOf, executable, subjectOf, type Target } from "./operation.ts"
import { toRlimits } from "./sandboxOptions.ts"
import { signalNumbers } from "./signals.ts"

/** Enough to amortize a crossing of the border, little enough to start work on soon. */
const batchBytes = 256 * 1024

const defaultHighWater = 4 << 20

const defaultMaxOutput = 64 << 20

const sigkill = 9

/** The addon's own limit for a confirmed kill. */
const killConfirm = "5 seconds"

const isSignalName = Schema.is(Schema.Literals(Object.keys(signalNumbers) as Array<SignalName>))

const Signal = Schema.Struct({
  signal: Schema.Union([
    Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 64 })),
    Schema.declare(isSignalName, { expected: "a signal's name, such as \"SIGTERM\"" })
  ])
})

const Side = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))

const Size = Schema.Struct({ rows: Side, columns: Side })

/** As much as one buffer can have. */
const largest = 4n << 30n

const Bytes = (smallest: bigint) =>
  Schema.declare((input: unknown): input is ByteSize.Input => {
    const size = ByteSize.fromInput(input as ByteSize.Input)
    return Option.isSome(size) && size.value >= smallest && size.value <= largest
  }, { expected: `a size from ${smallest} bytes to 4 GiB, such as "4 MiB"` })

const Keep = Schema.Struct({ keep: Schema.Struct({ head: Bytes(0n), tail: Bytes(0n) }) })

const Input = Schema.declare(
  (input: unknown): input is Stream.Stream<string | Uint8Array, unknown, unknown> => Stream.isStream(input),
  { expected: "a stream" }
)

const What = {
  command: Schema.optional(Text.check(Schema.isMinLength(1))),
  args: Schema.Array(Text),
  cwd: Schema.optional(Text),
  user: Schema.optional(Text),
  env: Schema.optional(Variables),
  rlimits: SandboxOptions.Options.fields.rlimits,
  timeout: Schema.optional(Span),
  tty: Schema.optional(Schema.Union([Schema.Boolean, Size]))
}

const ExecOptions = Schema.Struct({
  ...What,
  stdin: Schema.optional(Schema.Union([Schema.String, Schema.Uint8Array, Input])),
  maxOutput: Schema.optional(Bytes(0n)),
  output: Schema.optional(Schema.Union([Schema.Literal("fail"), Keep]))
})

const SpawnOptions = Schema.Struct({
  ...What,
  stdin: Schema.optional(Schema.Union([Schema.Literal("pipe"), Schema.Uint8Array, Input])),
  highWater: Schema.optional(Bytes(1n)),
  output: Schema.optional(Schema.Union([Schema.Literals(["wait", "fail", "discard"]), Keep]))
})

const decoder = new TextDecoder()

const nothing = Buffer.alloc(0)

/** A copy: the addon reads it on another thread, where it must not move with a buffer that its owner transfers. */
const toBuffer = (chunk: string | Uint8Array): Buffer => Buffer.from(chunk as Uint8Array)

const toBytes = (size: ByteSize.Input): number => Number(ByteSize.fromInputUnsafe(size))

const toKeep = ({ keep }: Keep): Native.ExecOptions["output"] => ({
  _tag: "Keep",
  head: toBytes(keep.head),
  tail: toBytes(keep.tail)
})

const toNative = (
  { args, command, cwd, env, rlimits, timeout, tty = false, user }: typeof SpawnOptions.Type | typeof ExecOptions.Type,
  output: Native.ExecOptions["output"],
  stdinData?: Buffer
): Native.ExecOptions =>
  defined({
    command,
    args: [...args],
    cwd,
    user,
    env,
    rlimits: rlimits === undefined ? undefined : toRlimits(rlimits),
    tty: tty === true ? { rows: 24, columns: 80 } : tty === false ? undefined : tty,
    timeoutMs: timeout === undefined ? undefined : toMillis(timeout),
    stdinData,
    output
  })

/** The agent says -1 for a program that a signal has ended, and no more. */
const exitStatus = (exitCode: number): ExitStatus => ({ exitCode, success: exitCode === 0, signaled: exitCode < 0 })

const spanOf = (command: string | undefined) =>
  command === undefined
    ? Effect.void
    : Effect.annotateCurrentSpan("process.executable.name", executable(command))

export const exec = (operation: string, target: Target) => {
  const { handle, native } = target
  const subject = subjectOf(operation, target)
  const decode = decodeOptions(ExecOptions, subject)
  return Effect.fn(operation, { attributes: attributesOf(target) })(function*<E = never, R = never>(
    command: string | undefined,
    args: ReadonlyArray<string> = [],
    options: ExecOptions<E, R> = {}
  ): Effect.fn.Return<ExecOutput, MicrosandboxError | E, R> {
    const given = yield* decode({ ...options, command, args })
    yield* spanOf(command)
    const output: "fail" | Keep = given.output ?? "fail"
    // What was given, and is checked: the schema does not know what a stream fails with.
    const stdin: string | Uint8Array | Stream.Stream<string | Uint8Array, E, R> = options.stdin ?? nothing
    const policy: Native.ExecOptions["output"] = output === "fail"
      ? { _tag: "Fail", limit: given.maxOutput === undefined ? defaultMaxOutput : toBytes(given.maxOutput) }
      : toKeep(output)
    const run: Effect.Effect<Native.ExecOutput, MicrosandboxError | E, R> =
      typeof stdin === "string" || stdin instanceof Uint8Array
        // No input is told by its absence: a buffer that crosses is held and given back, which costs as much as the call.
        ? native.call((token) =>
          handle.exec(toNative(given, policy, stdin.length === 0 ? undefined : toBuffer(stdin)), token)
        ).pipe(mapFailure(subject))
        : collect(target, subject, toNative(given, policy), stdin)
    const collected = yield* run
    yield* Effect.annotateCurrentSpan("process.exit.code", collected.exitCode)
    return new Output(collected)
  })
}

/** Runs a program to its end while a stream is what it reads. Their first failure ends both. */
const collect = <E, R>(
  { handle: sandbox, name, native }: Target,
  subject: Subject,
  what: Native.ExecOptions,
  stdin: Stream.Stream<string | Uint8Array, E, R>
) =>
  Effect.scoped(Effect.gen(function*() {
    const handle = yield* native.acquire(
      (token) => sandbox.spawn(what, token),
      (handle) => release(handle, name)
    ).pipe(mapFailure(subject))
    const output = native.call((token) => handle.collect(token)).pipe(mapFailure(subject))
    const fed = Effect.catchIf(
      Stream.run(stdin, makeStdin(native, handle, subject)),
      // A program that reads no more is no failure: its exit tells.
      (error) => error instanceof MicrosandboxError && error.reason._tag === "StdinFailed",
      () => Effect.void
    )
    // The program may end before its input does.
    return yield* Effect.raceFirst(output, Effect.andThen(fed, Effect.never))
  }))

/** Decodes text only when it is asked for. */
class Output implements ExecOutput {
  readonly exitCode: number
  readonly stdoutBytes: Uint8Array
  readonly stderrBytes: Uint8Array
  readonly dropped: ExecOutput["dropped"]

  constructor({ droppedStderr, droppedStdout, exitCode, stderr, stdout }: Native.ExecOutput) {
    this.exitCode = exitCode
    this.stdoutBytes = stdout
    this.stderrBytes = stderr
    this.dropped = { stdout: droppedStdout, stderr: droppedStderr }
  }

  get success(): boolean {
    return this.exitCode === 0
  }

  get signaled(): boolean {
    return exitStatus(this.exitCode).signaled
  }

  get stdout(): string {
    return decoder.decode(this.stdoutBytes)
  }

  get stderr(): string {
    return decoder.decode(this.stderrBytes)
  }
}

export const spawn = (operation: string, target: Target) => {
  const { handle: sandbox, name, native } = target
  const subject = subjectOf(operation, target)
  const decode = decodeOptions(SpawnOptions, subject)
  const decodeSignal = decodeOptions(Signal, subject)
  const decodeSize = decodeOptions(Size, subject)
  return Effect.fn(operation, { attributes: attributesOf(target) })(function*(
    command: string | undefined,
    args: ReadonlyArray<string> = [],
    options: SpawnOptions = {}
  ): Effect.fn.Return<ExecHandle, MicrosandboxError, Scope.Scope> {
    const given = yield* decode({ ...options, command, args })
    yield* spanOf(command)
    const highWater = given.highWater === undefined ? defaultHighWater : toBytes(given.highWater)
    const output: "wait" | "fail" | "discard" | Keep = given.output ?? "wait"
    const { stdin } = options
    const what = toNative(given, toPolicy(output, highWater), stdin === undefined ? nothing : undefined)
    const handle = yield* native.acquire(
      (token) => sandbox.spawn(what, token),
      (handle) => release(handle, name)
    ).pipe(mapFailure(subject))
    yield* Effect.annotateCurrentSpan("process.pid", handle.pid)
    const input = makeStdin(native, handle, subject)
    if (stdin !== undefined && stdin !== "pipe") {
      const source = Stream.isStream(stdin) ? stdin : Stream.make(stdin)
      // What it does not read, it does not want; what else is wrong, every reader is told.
      yield* Effect.forkScoped(Effect.ignore(Stream.run(source, input)))
    }
    const readers = yield* makeReaders(native, handle, subject)
    const control = (run: (token: Native.CancelToken) => ReturnType<Native.Exec["signal"]>) =>
      native.call(run).pipe(mapFailure(subject))
    const exited = native.call((token) => handle.wait(token)).pipe(mapFailure(subject), Effect.map(exitStatus))
    const data = (event: ExecEvent) => event._tag === "Stdout" || event._tag === "Stderr" ? event.data : undefined
    return {
      pid: handle.pid,
      stdin: input,
      stdout: readers("stdout", data),
      stderr: readers("stderr", data),
      all: readers("all", data),
      events: readers("events", (event) => event),
      exitStatus: exited,
      signal: (signal) =>
        Effect.flatMap(
          decodeSignal({ signal }),
          ({ signal }) =>
            control((token) => handle.signal(typeof signal === "number" ? signal : signalNumbers[signal], token))
        ),
      kill: Effect.andThen(
        control((token) => handle.signal(sigkill, token)),
        // Killed is killed, whatever else there is to say of it.
        Effect.catchIf(Effect.asVoid(exited), isEnd, () => Effect.void)
      ).pipe(Effect.timeoutOrElse({ duration: killConfirm, orElse: () => Effect.fail(unconfirmed(subject)) })),
      resize: (rows, columns) =>
        Effect.andThen(decodeSize({ rows, columns }), control((token) => handle.resize(rows, columns, token)))
    }
  })
}

const toPolicy = (
  output: "wait" | "fail" | "discard" | Keep,
  limit: number
): Native.ExecOptions["output"] => {
  switch (output) {
    case "wait":
      return { _tag: "Wait", limit }
    case "fail":
      return { _tag: "Fail", limit }
    case "discard":
      return { _tag: "Discard" }
    default:
      return toKeep(output)
  }
}

/** The program was killed for one of its limits. */
const isEnd = ({ reason }: MicrosandboxError): boolean =>
  reason._tag === "ExecTimeout" || reason._tag === "OutputOverflow"

const unconfirmed = (subject: Subject): MicrosandboxError =>
  new MicrosandboxError({
    ...subject,
    reason: new KillTimeout({ message: `the guest did not confirm the end of the program within ${killConfirm}` })
  })

export const makeStdin = (
  native: Native.Native["Service"],
  handle: Pick<Native.Exec, "closeStdin" | "write">,
  subject: Subject
): ExecHandle["stdin"] =>
  Sink.forEachArray((chunks: Arr.NonEmptyReadonlyArray<string | Uint8Array>) =>
    Effect.forEach(
      chunks,
      (chunk) => native.call((token) => handle.write(toBuffer(chunk), token)).pipe(mapFailure(subject)),
      { discard: true }
    )
  ).pipe(
    Sink.mapEffectEnd(() =>
      Effect.as(native.call((token) => handle.closeStdin(token)).pipe(mapFailure(subject)), [undefined] as const)
    )
  )

/** Kills what still runs. Without the guest's word, the connection was cut, and the guest kills the group for that. */
const release = (handle: Native.Exec, sandbox: string): Effect.Effect<void> =>
  Effect.flatMap(Effect.promise(() => handle.close()), ({ confirmed }) =>
    confirmed
      ? Effect.void
      : Effect.logWarning("the guest did not confirm the end of a program", { sandbox }))

export type Wanted = Parameters<Native.Exec["read"]>[0]

export type Readers = <A>(
  wanted: Wanted,
  select: (event: ExecEvent) => A | undefined
) => Stream.Stream<A, MicrosandboxError>

/** Which readers may have what another has brought. */
const concerns = (wanted: Wanted, { _tag }: ExecEvent): boolean =>
  wanted === "events" ||
  (_tag === "Stdout" && wanted !== "stderr") ||
  (_tag === "Stderr" && wanted !== "stdout")

/**
 * What is not read stays on the native side, which bounds it. A reader brings a batch of what it wants, and gives of that
 * one event at a time: the rest stays here, for whoever reads next. A batch is kept as it arrives, before any fiber sees it,
 * so that an interruption loses nothing.
 */
export const makeReaders: (
  native: Native.Native["Service"],
  handle: Pick<Native.Exec, "read">,
  subject: Subject
) => Effect.Effect<Readers> = Effect.fnUntraced(function*(native, handle, subject) {
  const turns: Record<Wanted, Semaphore.Semaphore> = {
    stdout: yield* Semaphore.make(1),
    stderr: yield* Semaphore.make(1),
    all: yield* Semaphore.make(1),
    events: yield* Semaphore.make(1)
  }
  const brought: Array<ExecEvent> = []

  const take = (wanted: Wanted): ExecEvent | undefined => {
    const index = brought.findIndex((event) => concerns(wanted, event))
    return index < 0 ? undefined : brought.splice(index, 1)[0]
  }

  const receive = (batch: ReadonlyArray<Native.ExecEvent>): void => {
    for (const event of batch) {
      brought.push(event._tag === "Exited" ? { ...event, signaled: event.code < 0 } : event)
    }
  }

  /** The next event; undefined after the last. */
  const next = (wanted: Wanted): Effect.Effect<ExecEvent | undefined, MicrosandboxError> =>
    turns[wanted].withPermit(Effect.suspend(() => {
      const found = take(wanted)
      if (found !== undefined) return Effect.succeed(found)
      return native.call((token) => handle.read(wanted, batchBytes, token), receive).pipe(
        mapFailure(subject),
        Effect.map(() => take(wanted))
      )
    }))

  return <A>(wanted: Wanted, select: (event: ExecEvent) => A | undefined) => {
    const pull: Effect.Effect<Arr.NonEmptyReadonlyArray<A>, MicrosandboxError | Cause.Done> = Effect.flatMap(
      next(wanted),
      (event) => {
        if (event === undefined) return Cause.done()
        const value = select(event)
        return value === undefined ? pull : Effect.succeed([value] as const)
      }
    )
    return Stream.fromPull(Effect.succeed(pull))
  }
})
