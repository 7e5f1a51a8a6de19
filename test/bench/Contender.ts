/** Who is measured: programs that all take the same requests, one line of JSON each, and answer with the times they took. */
import { type Cause, Data, Duration, Effect, Queue, Schema, Semaphore, Stream } from "effect"
import * as FileSystem from "effect/FileSystem"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"

export type Side = "ours" | "official" | "floor"

/** What a program is asked for. `drivers/ours.ts`, `drivers/official.ts` and `floor.rs` say what each does. */
export interface Request {
  readonly op: string
  readonly [field: string]: string | number | ReadonlyArray<string>
}

const Answer = Schema.Struct({
  error: Schema.optionalKey(Schema.String),
  /** How long each of what was asked for took, in milliseconds. */
  ms: Schema.optionalKey(Schema.Array(Schema.Finite)),
  wall: Schema.optionalKey(Schema.Finite),
  bytes: Schema.optionalKey(Schema.Finite),
  wrote: Schema.optionalKey(Schema.Finite),
  idle: Schema.optionalKey(Schema.Finite),
  busy: Schema.optionalKey(Schema.Finite)
})

const decodeAnswer = Schema.decodeEffect(Schema.fromJsonString(Answer))

/** Something could not be measured. */
export class BenchError extends Data.TaggedError("BenchError")<{
  readonly side: string
  readonly op: string
  readonly why: string
}> {
  override get message(): string {
    return `${this.side} cannot ${this.op}: ${this.why}`
  }
}

export interface Answered {
  readonly ms: ReadonlyArray<number>
  readonly wall: number
  readonly bytes: number
  readonly wrote: number
  readonly idle: number
  readonly busy: number
  /** The time that the process took of its processors, in milliseconds. */
  readonly cpu: number
  /** By how much the memory of the process was larger than before, at most, in MiB. */
  readonly grown: number
}

export interface Contender {
  readonly side: Side
  readonly home: string
  readonly pid: number
  readonly ask: (request: Request) => Effect.Effect<Answered, BenchError>
}

/** What is asked for its memory. To look takes processor time, which the others would be measured with. */
const watched: ReadonlySet<string> = new Set(["execs", "sip"])

/** The clock tick of Linux, in which it counts the time of a process. */
const tick = 10

const pageMebibytes = 4096 / (1 << 20)

/** What a process has taken so far. (Other systems than Linux do not tell: zero.) */
const usage = Effect.fnUntraced(function*(pid: number) {
  const fs = yield* FileSystem.FileSystem
  const [stat = "", statm = ""] = yield* Effect.forEach(
    ["stat", "statm"],
    (file) => Effect.orElseSucceed(fs.readFileString(`/proc/${pid}/${file}`), () => "")
  )
  // What follows the name, which may hold anything, begins with the third field.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
  return {
    cpu: (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) * tick,
    mebibytes: Number(statm.split(" ")[1] ?? 0) * pageMebibytes
  }
})

/** Starts a program; the scope ends it. */
export const start = Effect.fn("Contender.start")(function*(
  side: Side,
  home: string,
  command: readonly [string, ...ReadonlyArray<string>],
  env: Readonly<Record<string, string>>,
  patience: Duration.Input = "5 minutes"
) {
  const context = yield* Effect.context<FileSystem.FileSystem>()
  const spawner = yield* ChildProcessSpawner
  const requests = yield* Queue.unbounded<string, Cause.Done>()
  const answers = yield* Queue.unbounded<string, Cause.Done>()
  const [program, ...args] = command
  const handle = yield* spawner.spawn(
    ChildProcess.make(program, args, {
      env,
      extendEnv: true,
      stderr: "inherit",
      stdin: Stream.encodeText(Stream.fromQueue(requests))
    })
  )
  yield* handle.stdout.pipe(
    Stream.decodeText,
    Stream.splitLines,
    Stream.runForEach((line) => Queue.offer(answers, line)),
    Effect.ensuring(Queue.end(answers)),
    Effect.forkScoped
  )
  const turn = yield* Semaphore.make(1)
  const asked = Effect.fnUntraced(function*(request: Request) {
    const failed = (why: string) => new BenchError({ side, op: request.op, why })
    const before = yield* usage(handle.pid)
    let most = before.mebibytes
    const look = usage(handle.pid).pipe(
      Effect.map(({ mebibytes }) => {
        most = Math.max(most, mebibytes)
      }),
      Effect.andThen(Effect.sleep("50 millis")),
      Effect.forever
    )
    yield* Queue.offer(requests, `${JSON.stringify(request)}\n`)
    const answered = Queue.take(answers)
    const line = yield* (watched.has(request.op) ? Effect.raceFirst(answered, look) : answered).pipe(
      Effect.mapError(() => failed("its process has ended")),
      Effect.timeoutOrElse({
        duration: patience,
        orElse: () => Effect.fail(failed(`no answer within ${Duration.format(Duration.fromInputUnsafe(patience))}`))
      })
    )
    const answer = yield* Effect.mapError(decodeAnswer(line), () => failed(`it said ${line}`))
    if (answer.error !== undefined) return yield* failed(answer.error)
    const after = yield* usage(handle.pid)
    return {
      ms: [],
      wall: 0,
      bytes: 0,
      wrote: 0,
      idle: 0,
      busy: 0,
      ...answer,
      cpu: after.cpu - before.cpu,
      grown: Math.max(most, after.mebibytes) - before.mebibytes
    }
  })
  const ask: Contender["ask"] = (request) => turn.withPermit(Effect.provide(asked(request), context))
  yield* ask({ op: "ready" })
  return { side, home, pid: handle.pid, ask } satisfies Contender
})
