/**
 * A way to a server on loopback that can be held: so many bytes come back through it, and then no more until it is opened.
 * What goes to the server is never held.
 */
import { Deferred, Effect } from "effect"
import * as net from "node:net"

export const make = (host: string, limit: number) =>
  Effect.gen(function*() {
    const held = yield* Deferred.make<void>()
    const connected = yield* Deferred.make<void>()
    const sockets = new Set<net.Socket>()
    let bytes = 0
    let isOpen = false
    const [name, port] = host.split(":")
    const server = net.createServer((client) => {
      const upstream = net.connect(Number(port), name)
      sockets.add(client)
      Deferred.doneUnsafe(connected, Effect.void)
      client.on("close", () => {
        sockets.delete(client)
        upstream.destroy()
      })
      upstream.on("close", () => client.end())
      for (const socket of [client, upstream]) socket.on("error", () => {})
      client.pipe(upstream)
      upstream.on("data", (chunk) => {
        bytes += chunk.length
        const isFull = !isOpen && bytes >= limit
        if (isFull) upstream.pause()
        client.write(chunk, () => {
          if (isFull) Deferred.doneUnsafe(held, Effect.void)
        })
      })
    })
    yield* Effect.acquireRelease(
      Effect.callback<void>((resume) => {
        server.listen(0, "127.0.0.1", () => resume(Effect.void))
      }),
      () =>
        Effect.callback<void>((resume) => {
          for (const socket of sockets) socket.destroy()
          server.close(() => resume(Effect.void))
        })
    )
    return {
      host: `127.0.0.1:${(server.address() as net.AddressInfo).port}`,
      /** Waits for the first connection. */
      connected: Deferred.await(connected),
      /** Waits until the limit is reached, and what came before is with the client's kernel. */
      held: Deferred.await(held),
      /** Lets everything through that comes from now on. */
      open: Effect.sync(() => {
        isOpen = true
      }),
      /** The bytes that came back since this was last asked. */
      passed: Effect.sync(() => {
        const passed = bytes
        bytes = 0
        return passed
      }),
      /** Waits until the other side has closed every connection. */
      silence: Effect.sync(() => sockets.size).pipe(Effect.delay(10), Effect.repeat({ until: (count) => count === 0 }))
    }
  })
