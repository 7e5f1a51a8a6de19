/** A relay in this process, on a Unix socket, that says what a test tells it to. */
import { Effect } from "effect"
import * as net from "node:net"
import { type Frame, greeting, makeReader } from "./AgentProtocol.ts"

export interface Behaviour {
  /** What it says first. Default: what a relay says. */
  readonly greeting?: Buffer | undefined
  /** Whether it closes the connection after that. */
  readonly leaves?: boolean | undefined
  /** What it does when it is asked for something. Default: nothing. */
  readonly answer?: ((frame: Frame, socket: net.Socket) => void) | undefined
  /** Whether it takes nothing. */
  readonly deaf?: boolean | undefined
}

/** Says the same thing for ever, as fast as it is taken. */
export const pour = (socket: net.Socket, bytes: Buffer): void => {
  while (!socket.destroyed && socket.write(bytes));
  if (!socket.destroyed) socket.once("drain", () => pour(socket, bytes))
}

/** Listens until the scope closes; each connection has what `behave` answers with. */
export const make = Effect.fn("HostileRelay.make")(function*(path: string, behave: () => Behaviour) {
  const sockets = new Set<net.Socket>()
  const { promise, resolve } = Promise.withResolvers<void>()
  const server = net.createServer({ pauseOnConnect: true }, (socket) => {
    const { answer, deaf = false, greeting: first = greeting(), leaves = false } = behave()
    sockets.add(socket)
    socket.on("error", () => {})
    socket.on("close", () => {
      sockets.delete(socket)
      resolve()
    })
    socket.on("data", makeReader((frame) => answer?.(frame, socket)))
    // To listen for data is to ask for it.
    if (deaf) socket.pause()
    else socket.resume()
    if (leaves) socket.end(first)
    else socket.write(first)
  })
  yield* Effect.acquireRelease(
    Effect.promise(() => new Promise<void>((resolve) => server.listen(path, resolve))),
    () =>
      Effect.promise(() =>
        new Promise<void>((resolve) => {
          for (const socket of sockets) socket.destroy()
          server.close(() => resolve())
        })
      )
  )
  return {
    /** Waits until the first connection is closed; one that takes nothing has to look at it for that. */
    closed: Effect.promise(() => {
      for (const socket of sockets) socket.resume()
      return promise
    })
  }
})
