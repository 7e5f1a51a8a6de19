/**
 * Stands between the SDK and a sandbox's relay, and keeps what both say. Node cannot pass descriptors on, so an offer of
 * shared memory does not reach the SDK: all that it says then comes through the socket.
 */
import { Effect, FileSystem } from "effect"
import * as net from "node:net"
import { type Frame, frame, makeReader } from "./AgentProtocol.ts"
import { agentSocket } from "./FakeRelay.ts"

/** What was said on one connection. */
export interface Connection {
  /** The range of ids that the relay gave it, as it came. */
  range: readonly [least: number, end: number] | undefined
  readonly asked: Array<Frame>
  /** With the relay's own greeting, as it was before the offer was taken out. */
  readonly answered: Array<Frame>
}

const rangeBytes = 8

/** Hands what the relay says over, the greeting without its offer. */
const makeGreeting = (connection: Connection, over: (bytes: Buffer) => void) => {
  let rest = Buffer.alloc(0)
  const read = makeReader((received) => connection.answered.push(received))
  return (chunk: Buffer) => {
    if (connection.answered.length > 0) {
      read(chunk)
      return over(chunk)
    }
    rest = Buffer.concat([rest, chunk])
    if (rest.length < rangeBytes + 4) return
    const end = rangeBytes + 4 + rest.readUInt32BE(rangeBytes)
    if (rest.length < end) return
    connection.range = [rest.readUInt32BE(0), rest.readUInt32BE(4)]
    over(rest.subarray(0, rangeBytes))
    read(rest.subarray(rangeBytes))
    const { id, payload: { local_transport: _, ...payload }, type, version } = connection.answered[0]!
    over(frame(id, type, payload, version))
    over(rest.subarray(end))
  }
}

/** Lasts as long as its scope. Answers with what was said since the last time one asked. */
export const make = Effect.fn("Tee.make")(function*(name: string) {
  const fs = yield* FileSystem.FileSystem
  const socket = yield* agentSocket(name)
  const behind = `${socket}.real`
  const connections: Array<Connection> = []
  const open = new Set<net.Socket>()
  const server = net.createServer((client) => {
    const connection: Connection = { range: undefined, asked: [], answered: [] }
    connections.push(connection)
    const relay = net.connect(behind)
    const ask = makeReader((received) => connection.asked.push(received))
    const answer = makeGreeting(connection, (bytes) => client.write(bytes))
    client.on("data", (chunk: Buffer) => {
      ask(chunk)
      relay.write(chunk)
    })
    relay.on("data", answer)
    for (const [one, other] of [[client, relay], [relay, client]] as const) {
      open.add(one)
      one.on("error", () => {})
      one.on("close", () => {
        open.delete(one)
        other.destroy()
      })
    }
  })
  yield* Effect.acquireRelease(
    fs.rename(socket, behind),
    () => Effect.orDie(fs.rename(behind, socket))
  )
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => void server.listen(socket, () => resume(Effect.void))),
    () =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const one of open) one.destroy()
      })
  )
  return { take: Effect.sync(() => connections.splice(0)) }
})
