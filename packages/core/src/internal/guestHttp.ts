/** An HTTP client whose connections go to a guest. A module of its own: whoever needs none does not load it. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Http from "node:http"
import * as Https from "node:https"
import type { Duplex } from "node:stream"
import * as Tls from "node:tls"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import { loopback, toThrown } from "./tunnel.ts"

/** Node's type wants a stream also where there is an error. */
type Created = (error: Error | null, stream: Duplex) => void

/** What a request is told that comes too late. */
const ended = () => new Error("the client's scope has ended")

/**
 * Opens one connection for each request in a scope of the client's, and ends them with it. A request waits for its turn
 * here and not in Node's agents: those count a connection only when it is there, and forget who waits when one fails.
 */
const makeAgents = (
  connect: Effect.Effect<Duplex, MicrosandboxError, Scope.Scope>,
  maxConnections: number
): Effect.Effect<{ readonly http: Http.Agent; readonly https: Https.Agent }, never, Scope.Scope> =>
  Effect.gen(function*() {
    const client = yield* Effect.scope
    // Closed in the other order: first those who have no connection yet, at once and before a turn becomes free.
    const connections = yield* Scope.fork(client, "parallel")
    const connects = yield* Scope.fork(client, "parallel")
    const fork = Effect.runForkWith(yield* Effect.context<never>())
    const turns = yield* Semaphore.make(maxConnections)
    const create = (callback: Created | undefined, wrap: (stream: Duplex) => Duplex): undefined => {
      const connecting = Effect.gen(function*() {
        // Given back with its request, not with the client.
        const scope = yield* Scope.fork(connections)
        const stream = yield* turns.takeScoped(1).pipe(
          Effect.andThen(connect),
          // A request whose client has ended has nothing more to say.
          Effect.tap((stream) => Effect.addFinalizer(() => Effect.sync(() => stream.destroy()))),
          Scope.provide(scope),
          Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
        )
        stream.once("close", () => fork(Scope.close(scope, Exit.void)))
        callback?.(null, wrap(stream))
      })
      // Node asks within the fiber of the request, and nobody connects for one that was given up.
      const requester = Fiber.getCurrent()
      fork(Effect.map(Effect.forkIn(connecting, connects), (fiber) => {
        const forget = requester?.addObserver(() => fiber.interruptUnsafe())
        // By its fiber's end, and not within it: where the client's scope has ended, it ends before it begins.
        fiber.addObserver((exit) => {
          forget?.()
          if (Exit.isSuccess(exit)) return
          callback?.(Cause.hasInterruptsOnly(exit.cause) ? ended() : toThrown(exit.cause), undefined as never)
        })
      }))
      return undefined
    }
    class PlainAgent extends Http.Agent {
      override createConnection(_: Http.ClientRequestArgs, callback?: Created) {
        return create(callback, (stream) => stream)
      }
    }
    class SecureAgent extends Https.Agent {
      override createConnection(to: Https.RequestOptions, callback?: Created) {
        return create(callback, (socket) => Tls.connect({ ...(to as Tls.ConnectionOptions), socket }))
      }
    }
    // Without keep-alive: a connection that waits for its next request is one that the server may close just then.
    const options = { keepAlive: false }
    return { http: new PlainAgent(options), https: new SecureAgent(options) }
  })

const isAbsolute = /^[a-z][a-z0-9+.-]*:\/\//i

/** A client of a port of a guest, for as long as the scope is open. */
export const make = Effect.fnUntraced(function*(
  connect: Effect.Effect<Duplex, MicrosandboxError, Scope.Scope>,
  host: string,
  port: number,
  maxConnections: number
) {
  const agents = yield* makeAgents(connect, maxConnections)
  const client = yield* Effect.provideService(NodeHttpClient.makeNodeHttp, NodeHttpClient.HttpAgent, agents)
  // Servers of development listen to their own names only.
  const base = `http://${host === loopback ? "localhost" : host.includes(":") ? `[${host}]` : host}:${port}`
  return HttpClient.mapRequest(
    client,
    (request) => isAbsolute.test(request.url) ? request : HttpClientRequest.prependUrl(request, base)
  )
})
