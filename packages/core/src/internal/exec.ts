/** Running programs through the addon: collected in one call, or pulled from a handle. */
import type { Native } from "@effect-microsandbox/native"
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import type { ExecEvent, ExecHandle, ExecOptions, ExecOutput, ExitStatus, SpawnOptions } from "../Exec.ts"
import { KillTimeout, MicrosandboxError } from "../MicrosandboxError.ts"
import { decodeOptions, mapFailure, type Subject } from "./failure.ts"
import { defined, Span, Text, toMillis, Variables } from "./inputs.ts"
import { attributesOf, executable, subjectOf, type Target } from "./operation.ts"

/** Enough to amortize a crossing of the border, little enough to start work on soon. */
const batchBytes = 256 * 1024

const sigkill = 9

/** The addon's own limit for a confirmed kill. */
const killConfirm = "5 seconds"

const Signal = Schema.Struct({ signal: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 64 })) })

const Side = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))

const Size = Schema.Struct({ rows: Side, columns: Side })

const Options = {
  cwd: Schema.optional(Text),
  user: Schema.optional(Text),
  env: Schema.optional(Variables)
}

const ExecOptions = Schema.Struct({
  command: Text.check(Schema.isMinLength(1)),
  args: Schema.Array(Text),
  ...Options,
  stdin: Schema.optional(Schema.Union([Schema.String, Schema.Uint8Array])),
  timeout: Schema.optional(Span)
})

const SpawnOptions = Schema.Struct({
  command: Text.check(Schema.isMinLength(1)),
  args: Schema.Array(Text),
  ...Options,
  tty: Schema.optional(Schema.Boolean),
  stdin: Schema.optional(Schema.Boolean)
})

const decoder = new TextDecoder()

/** A copy: the addon reads it on another thread, where it must not move with a buffer that its owner transfers. */
const toBuffer = (chunk: string | Uint8Array): Buffer => Buffer.from(chunk as Uint8Array)

const exitStatus = (exitCode: number): ExitStatus => ({ exitCode, success: exitCode === 0 })

export const exec = (operation: string, target: Target) => {
  const { handle, native } = target
  const subject = subjectOf(operation, target)
  const decode = decodeOptions(ExecOptions, subject)
  return Effect.fn(operation, { attributes: attributesOf(target) })(function*(
    command: string,
    args: ReadonlyArray<string> = [],
    options: ExecOptions = {}
  ): Effect.fn.Return<ExecOutput, MicrosandboxError> {
    const { stdin, timeout, ...rest } = yield* decode({ ...options, command, args })
    yield* Effect.annotateCurrentSpan("process.executable.name", executable(command))
    const output = yield* native.call((token) =>
      handle.exec(
        defined({
          ...rest,
          args: [...rest.args],
          stdinData: stdin === undefined ? undefined : toBuffer(stdin),
          timeoutMs: timeout === undefined ? undefined : toMillis(timeout)
        }),
        token
      )
    ).pipe(mapFailure(subject))
    yield* Effect.annotateCurrentSpan("process.exit.code", output.exitCode)
    return new Output(output.exitCode, output.stdout, output.stderr)
  })
}

/** Decodes text only when it is asked for. */
class Output implements ExecOutput {
  readonly exitCode: number
  readonly stdoutBytes: Uint8Array
  readonly stderrBytes: Uint8Array

  constructor(exitCode: number, stdoutBytes: Uint8Array, stderrBytes: Uint8Array) {
    this.exitCode = exitCode
    this.stdoutBytes = stdoutBytes
    this.stderrBytes = stderrBytes
  }

  get success(): boolean {
    return this.exitCode === 0
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
    command: string,
    args: ReadonlyArray<string> = [],
    options: SpawnOptions = {}
  ): Effect.fn.Return<ExecHandle, MicrosandboxError, Scope.Scope> {
    const what = yield* decode({ ...options, command, args })
    yield* Effect.annotateCurrentSpan("process.executable.name", executable(command))
    // A scope of its own: a program that could not be started is given back now, and not when a long scope closes.
    const scope = yield* Scope.fork(yield* Effect.scope)
    const { events, handle, pid } = yield* Effect.gen(function*() {
      const handle = yield* native.acquire(
        (token) => sandbox.spawn(defined({ ...what, args: [...what.args] }), token),
        (handle) => release(handle, name)
      ).pipe(mapFailure(subject))
      const events = yield* makeEvents(native, handle, subject)
      return { events, handle, pid: yield* events.started }
    }).pipe(Scope.provide(scope), Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause))))
    yield* Effect.annotateCurrentSpan("process.pid", pid)
    const control = (run: (token: Native.CancelToken) => ReturnType<Native.Exec["signal"]>) =>
      native.call(run).pipe(mapFailure(subject))
    const exited = Effect.map(events.exited, exitStatus)
    return {
      pid,
      stdin: Sink.forEachArray((chunks: Arr.NonEmptyReadonlyArray<string | Uint8Array>) =>
        Effect.forEach(
          chunks,
          (chunk) => control((token) => handle.write(toBuffer(chunk), token)),
          { discard: true }
        )
      ).pipe(Sink.mapEffectEnd(() => Effect.as(control((token) => handle.closeStdin(token)), [undefined] as const))),
      stdout: events.stream((event) => event._tag === "Stdout" ? event.data : undefined),
      stderr: events.stream((event) => event._tag === "Stderr" ? event.data : undefined),
      all: events.stream((event) => event._tag === "Stdout" || event._tag === "Stderr" ? event.data : undefined),
      events: events.stream((event) => event),
      exitStatus: exited,
      signal: (signal) => Effect.andThen(decodeSignal({ signal }), control((token) => handle.signal(signal, token))),
      kill: Effect.andThen(control((token) => handle.signal(sigkill, token)), Effect.asVoid(exited)).pipe(
        Effect.timeoutOrElse({ duration: killConfirm, orElse: () => Effect.fail(unconfirmed(subject)) })
      ),
      resize: (rows, columns) =>
        Effect.andThen(decodeSize({ rows, columns }), control((token) => handle.resize(rows, columns, token)))
    }
  })
}

const unconfirmed = (subject: Subject): MicrosandboxError =>
  new MicrosandboxError({
    ...subject,
    reason: new KillTimeout({ message: `the guest did not confirm the end of the program within ${killConfirm}` })
  })

/** Kills what still runs. Without the guest's word, the connection was cut, and the guest kills the group for that. */
const release = (handle: Native.Exec, sandbox: string): Effect.Effect<void> =>
  Effect.flatMap(Effect.promise(() => handle.close()), ({ confirmed }) =>
    confirmed
      ? Effect.void
      : Effect.logWarning("the guest did not confirm the end of a program", { sandbox }))

interface Events {
  readonly started: Effect.Effect<number, MicrosandboxError>
  readonly exited: Effect.Effect<number, MicrosandboxError>
  readonly stream: <A>(select: (event: ExecEvent) => A | undefined) => Stream.Stream<A, MicrosandboxError>
}

/**
 * One queue in front of the handle, shared by all readers. A reader takes what it wants of what is there, and pulls the
 * next batch when there is nothing for it. A batch is queued as it arrives, before any fiber sees it, so that an
 * interruption loses nothing.
 */
const makeEvents = Effect.fnUntraced(function*(
  native: Native.Native["Service"],
  handle: Native.Exec,
  subject: Subject
): Effect.fn.Return<Events> {
  const one = yield* Semaphore.make(1)
  const queue: Array<ExecEvent> = []
  let batches = 0
  let started: number | undefined
  let exited: number | undefined
  let end: Effect.Effect<undefined, MicrosandboxError> | undefined

  const receive = (batch: ReadonlyArray<ExecEvent>): void => {
    batches++
    if (batch.length === 0) end = Effect.undefined
    for (const event of batch) {
      if (event._tag === "Started") started = event.pid
      if (event._tag === "Exited") exited = event.code
      queue.push(event)
    }
  }

  const read = native.call((token) => handle.read(batchBytes, token), receive).pipe(
    mapFailure(subject),
    Effect.tapError((error) =>
      Effect.sync(() => {
        end = Effect.fail(error)
      })
    )
  )

  /** Reads batches until `take` finds something; undefined at the end. One reader at a time crosses the border. */
  const pull = <A>(take: () => A | undefined): Effect.Effect<A | undefined, MicrosandboxError> =>
    Effect.suspend(() => {
      const found = take()
      if (found !== undefined) return Effect.succeed(found)
      if (end !== undefined) return end
      const seen = batches
      // Another reader may have brought the next batch while this one waited for its turn.
      const next = Effect.suspend(() => batches === seen && end === undefined ? read : Effect.void)
      return Effect.andThen(one.withPermit(next), pull(take))
    })

  const until = (value: () => number | undefined): Effect.Effect<number, MicrosandboxError> =>
    Effect.filterOrElse(
      pull(value),
      (found) => found !== undefined,
      () => Effect.die(new Error("the events of a program ended without the one that ends them"))
    )

  const stream = <A>(select: (event: ExecEvent) => A | undefined): Stream.Stream<A, MicrosandboxError> => {
    // One at a time: what a reader does not ask for stays for the next.
    const take = (): Arr.NonEmptyReadonlyArray<A> | undefined => {
      for (let index = 0; index < queue.length; index++) {
        const value = select(queue[index]!)
        if (value === undefined) continue
        queue.splice(index, 1)
        return [value]
      }
      return undefined
    }
    return Stream.fromPull(Effect.succeed(
      Effect.filterOrElse(pull(take), (chunk) => chunk !== undefined, () => Cause.done())
    ))
  }

  return { started: until(() => started), exited: until(() => exited), stream }
})
