/**
 * A peer that says things at random to the client of an agent, the same in each run. `SEED=… FRAMES=…` in the environment
 * is another or a longer run, and `CASE=…` of it one case only, as a failure names it.
 */
import { Agent } from "@effect-microsandbox/core"
import { Effect, Stream } from "effect"
import * as crypto from "node:crypto"
import type * as net from "node:net"
import { envelope, type Frame, frame, greeting, rawFrame } from "./AgentProtocol.ts"
import * as HostileRelay from "./HostileRelay.ts"
import { residentMemory } from "./Interruptions.ts"
import { ping, program } from "./RawAgent.ts"
import { seed } from "./Seeded.ts"

/** Numbers at random from a text: mulberry32. */
const makeRandom = (text: string) => {
  let state = crypto.createHash("sha256").update(text).digest().readUInt32BE(0)
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
  const below = (end: number): number => next() % end
  return {
    below,
    word: next,
    one: <A>(items: ReadonlyArray<A>): A => items[below(items.length)]!,
    bytes: (length: number): Buffer => Buffer.from(Array.from({ length }, () => below(256)))
  }
}

type Random = ReturnType<typeof makeRandom>

const types = [
  "core.exec.started",
  "core.exec.stdout",
  "core.exec.stderr",
  "core.error",
  "core.fs.data",
  "core.tcp.eof"
]

const right = (random: Random, id: number): Buffer =>
  frame(id, random.one(types), { data: random.bytes(random.below(300)) })

const withLength = (bytes: Buffer, length: number): Buffer => {
  bytes.writeUInt32BE(length >>> 0, 0)
  return bytes
}

/** What a peer may say next on a stream; most of it is wrong. */
const pieces: ReadonlyArray<(random: Random, id: number) => Buffer> = [
  right,
  right,
  right,
  right,
  (_, id) => frame(id, "core.exec.exited", { code: 0 }),
  // Of another stream, or of none.
  (random) => right(random, random.one([0, 1, 2, 3, random.word()])),
  (random, id) => rawFrame(id, random.below(256), envelope("core.exec.stdout", {})),
  (random, id) => rawFrame(id, 0, envelope(random.bytes(random.below(20)).toString("latin1"), {})),
  (random, id) => rawFrame(id, random.one([0, 1]), random.bytes(random.below(60))),
  // A bulk record, rightly or not.
  (random, id) =>
    rawFrame(id, 8, Buffer.concat([Buffer.from([random.below(4), random.below(4), 0, 0]), random.bytes(20)])),
  (random, id) => rawFrame(id, 8, random.bytes(random.below(20))),
  // A few bytes changed, also those of the length.
  (random, id) => {
    const bytes = right(random, id)
    for (let count = random.below(4); count >= 0; count--) bytes[random.below(bytes.length)] = random.below(256)
    return bytes
  },
  (random, id) => {
    const bytes = right(random, id)
    return bytes.subarray(0, random.below(bytes.length))
  },
  (random, id) => withLength(right(random, id), random.one([0, 1, 4, 5, 0x0040_0001, 0x7fff_ffff, 0xffff_ffff])),
  // CBOR that says it is large, or deep.
  (random, id) =>
    rawFrame(id, 0, Buffer.concat([Buffer.from([random.one([0x5b, 0x7b, 0x9b, 0xbb])]), Buffer.alloc(8, 0x7f)])),
  (random, id) =>
    rawFrame(id, 0, Buffer.alloc(1 + random.below(100_000), random.one([0x81, 0x9f, 0xa1, 0xbf, 0xc0, 0xd8]))),
  (random, id) =>
    rawFrame(id, 0, Buffer.concat([Buffer.from([0xa3, 0x61, 0x76, 0x09]), random.bytes(random.below(50))]))
]

interface Case {
  readonly greeting: Buffer
  /** Whether it is the right one. */
  readonly greets: boolean
  /** How the pieces are asked for. */
  readonly way: "stream" | "request" | "give up" | "ask again"
  readonly answer: (id: number) => ReadonlyArray<Buffer>
  readonly count: number
  /** Whether the peer says nothing more, and stays. */
  readonly stays: boolean
}

const makeCase = (index: number): Case => {
  const random = makeRandom(`${seed}/${index}`)
  let hello = greeting()
  const greets = random.below(20) !== 0
  if (!greets) {
    for (let count = random.below(6); count >= 0; count--) hello[random.below(hello.length)] = random.below(256)
    if (random.below(2) === 0) hello = hello.subarray(0, random.below(hello.length))
  }
  const count = 1 + random.below(12)
  return {
    greeting: hello,
    greets,
    way: random.one(["stream", "stream", "request", "give up", "ask again", "ask again"]),
    answer: (id) => {
      const all = Array.from({ length: count }, () => random.one(pieces)(random, id))
      // Now and then as long as a frame may be.
      if (random.below(500) === 0) all.unshift(frame(id, "core.exec.stdout", { data: Buffer.alloc((4 << 20) - 100) }))
      return all
    },
    count,
    stays: random.below(300) === 0
  }
}

/** Says all of it, in parts that have nothing to do with the frames. */
const say = (socket: net.Socket, all: Buffer, stays: boolean): void => {
  const cut = all.length >> 1
  socket.write(all.subarray(0, cut))
  setImmediate(() => stays ? socket.write(all.subarray(cut)) : socket.end(all.subarray(cut)))
}

/** Whether frames are what a reader may get of one stream. */
const isStream = (frames: ReadonlyArray<Agent.Frame>): boolean =>
  frames.every(({ flags, id, type }, index) =>
    id === frames[0]!.id && [0, 1, 8].includes(flags) && (type === undefined) === (flags === 8) &&
    (flags !== 1 || index === frames.length - 1)
  )

/** What the client made of a case, which has to be one of its reasons. */
const meet = Effect.fnUntraced(function*(path: string, { stays, way }: Case) {
  const agent = yield* Agent.connectPath(path, { timeout: stays ? "100 millis" : "10 seconds" })
  if (way === "request") return [yield* agent.request(ping)]
  const session = yield* agent.open(program("echo"))
  // A stream has no deadline: where the peer stays, a request ends the connection.
  if (stays) yield* Effect.forkScoped(Effect.ignore(agent.request(ping)))
  const read = yield* Stream.runCollect(way === "give up" ? Stream.take(session.frames, 1) : session.frames)
  // What is wrong with what came after the last frame is told to the next one.
  if (way === "ask again" && isStream(read)) yield* agent.request(ping)
  return read
}, Effect.scoped)

/** A second in which this process runs: on a machine that has no time for it, its turns come late. */
const second = Effect.repeat(Effect.sleep(10), { times: 99 })

/**
 * Has a client meet such a peer until that has said so many frames. Dies with the first case that takes a second, that ends
 * with anything but a reason of the client's, or that gives a reader what no stream may have. Answers with what the cases
 * ended with, and by how many bytes this process has grown since the first quarter.
 */
export const run = Effect.fn("AgentFuzz.run")(function*(path: string, frames: number) {
  let current = makeCase(0)
  yield* HostileRelay.make(path, () => {
    const { answer, greeting, greets, stays } = current
    let asked = false
    return {
      greeting,
      answer: (received: Frame, socket) => {
        if (asked) return
        asked = true
        say(socket, Buffer.concat(answer(received.id)), stays)
      },
      // Most wrong greetings promise more, for which a client would wait.
      leaves: !greets
    }
  })
  const ends = new Map<string, number>()
  const only = process.env.CASE === undefined ? undefined : Number(process.env.CASE)
  let said = 0
  let before: number | undefined
  for (let index = only ?? 0; said < frames; index++) {
    current = makeCase(index)
    const failed = (why: string) => Effect.die(new Error(`SEED=${seed} CASE=${index}: ${why}`))
    const end = yield* meet(path, current).pipe(
      Effect.flatMap((read) => isStream(read) ? Effect.succeed("read") : failed(JSON.stringify(read))),
      Effect.catch(({ message, reason }) =>
        reason._tag === "AgentClient"
          ? Effect.succeed(reason.kind)
          : reason._tag === "AgentReadyTimeout"
          ? Effect.succeed(reason._tag)
          : failed(message)
      ),
      Effect.raceFirst(Effect.andThen(second, failed("it hangs")))
    )
    ends.set(end, (ends.get(end) ?? 0) + 1)
    said += current.count
    if (said * 4 > frames) before ??= yield* residentMemory
    if (only !== undefined) break
  }
  const growth = (yield* residentMemory) - (before ?? Infinity)
  return { said, growth, ends: Object.fromEntries([...ends].sort()) }
}, Effect.scoped)
