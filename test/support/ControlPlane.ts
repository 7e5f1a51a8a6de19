/**
 * A control plane on loopback: it speaks what the engine's cloud backend speaks, HTTP and WebSocket (`lib/backend/cloud` of
 * the crate, 0.7.2), keeps a record of what it was asked, and does on request what a bad network or a bad server does.
 *
 * What it has is in {@link ControlPlaneCloud}, and who answers for a guest in {@link ControlPlaneAgent}.
 */
import { Backend } from "@effect-microsandbox/core"
import { NodeServices } from "@effect/platform-node"
import { Context, Effect, FileSystem, Layer, Redacted } from "effect"
import * as crypto from "node:crypto"
import * as http from "node:http"
import type * as net from "node:net"
import type { Duplex } from "node:stream"
import { type WebSocket, WebSocketServer } from "ws"
import * as Agent from "./ControlPlaneAgent.ts"
import * as Cloud from "./ControlPlaneCloud.ts"

/** What was asked of it: without the key, but with whether that was right. */
export interface Request {
  readonly route: string
  readonly method: string
  /** With its query. */
  readonly path: string
  readonly isAuthorized: boolean
  /** All headers but `authorization`. */
  readonly headers: Readonly<Record<string, unknown>>
  /** The document of a JSON body, the number of bytes of another, nothing of none. */
  readonly body: unknown
}

/** What happens in place of the answer of a route. */
export type Fault =
  /** Another answer; `echo` puts the request into its body, with the key. */
  | { readonly _tag: "Answer"; readonly status: number; readonly body?: unknown; readonly echo?: boolean }
  /** The true answer, changed. */
  | { readonly _tag: "Change"; readonly change: (body: any) => unknown }
  /** The true answer, so late. */
  | { readonly _tag: "Delay"; readonly millis: number }
  /** No answer at all. */
  | { readonly _tag: "Silence" }
  /** The connection is cut after so many bytes of the answer's body; before its first line when that is `"none"`. */
  | { readonly _tag: "Cut"; readonly after: number | "none" }
  /** Of a log: it ends after so many events, is cut there, or says what is no event. Without an `after`, after the last. */
  | { readonly _tag: "Events"; readonly after: number; readonly how: "end" | "cut" | "garbage" }
  /** Of a log: so many events come again, of those that came before the one that the client has. */
  | { readonly _tag: "Again"; readonly events: number }

/** What happens to the connection with a guest in place of what it would say. */
export type AgentFault =
  /** A frame of the WebSocket is begun, and the connection cut in it. */
  | "CutFrame"
  /** A message of the agent is begun, and the WebSocket closed in it, properly. */
  | "CutMessage"
  /** The WebSocket is closed, properly. */
  | "Close"
  /** This side of the connection ends without a word; the other is read on. */
  | "HalfClose"
  /** Bytes that are no frame of a WebSocket. */
  | "GarbageFrame"
  /** Bytes that are no message of the agent. */
  | "GarbageMessage"
  /** A message of a size that is not allowed. */
  | "HugeMessage"
  /** Text where bytes belong, which the client ignores, and then the true message. */
  | "Text"
  /** The message comes twice. */
  | "Twice"
  /** Nothing more is said. */
  | "Silence"

export class ControlPlane extends Context.Service<ControlPlane, {
  /** `http://127.0.0.1:<port>`. */
  readonly url: string
  readonly apiKey: Redacted.Redacted
  /** Everything that it was asked, in order. */
  readonly requests: Effect.Effect<ReadonlyArray<Request>>
  /** The routes of these, one word of the record for each. */
  readonly asked: Effect.Effect<ReadonlyArray<string>>
  /** The programs that were started in its guests, by the name of the sandbox. */
  readonly programs: Effect.Effect<ReadonlyArray<readonly [sandbox: string, program: Agent.Started]>>
  /** Forgets what it was asked. */
  readonly forget: Effect.Effect<void>
  /** Has a fault happen the next time, or the next times, that a route is asked. */
  readonly inject: (route: string, fault: Fault, times?: number) => Effect.Effect<void>
  /** Has a fault happen the next time that a guest would say something: `range`, `bulk`, or the type of a message. */
  readonly injectAgent: (type: string, fault: AgentFault) => Effect.Effect<void>
  /** Faults that have not happened yet. */
  readonly pending: Effect.Effect<number>
  /** Connections that are open: requests that wait for their answer, logs that are followed, and guests that are talked to. */
  readonly connections: Effect.Effect<number>
  /** Names of what it has. */
  readonly names: Effect.Effect<
    Readonly<Record<"sandboxes" | "volumes" | "snapshots", ReadonlyArray<string>>>
  >
  /** Has a program of a sandbox write to its log. */
  readonly log: (sandbox: string, text: string, source?: Cloud.Source) => Effect.Effect<void>
  /** Stops a sandbox that nobody has asked to stop. */
  readonly stop: (sandbox: string) => Effect.Effect<void>
}>()("test/support/ControlPlane") {}

const logsRoute = "GET /v1/sandboxes/:id/logs"
const agentRoute = "GET /v1/sandboxes/:id/agent"

const patternOf = (route: string): RegExp => {
  const [method, path] = route.split(" ") as [string, string]
  return new RegExp(`^${method} ${path.replaceAll(/:\w+/g, "([^/]+)")}$`)
}

/** A frame of a WebSocket that would have 1000 bytes, and has ten. */
const cutFrame = Buffer.concat([Buffer.from([0x82, 126, 0x03, 0xe8]), Buffer.alloc(10, 1)])

/** An opcode and flags that no WebSocket has. */
const garbageFrame = Buffer.from([0xff, 0x00])

const makeServer = (directory: string, apiKey: string) => {
  const requests: Array<Request> = []
  const programs: Array<readonly [string, Agent.Started]> = []
  const faults = new Map<string, Array<Fault>>()
  const agentFaults = new Map<string, Array<AgentFault>>()
  const sockets = new Set<net.Socket>()
  /** What is to be told of a change of a sandbox. */
  const watchers = new Map<string, Set<() => void>>()
  let open = 0

  const cloud = Cloud.make(directory, ({ id }) => {
    watchers.get(id)?.forEach((watcher) => watcher())
  })
  const patterns = [logsRoute, agentRoute, ...Object.keys(cloud.routes)].map((route) => ({
    route,
    pattern: patternOf(route)
  }))

  const watch = (id: string, watcher: () => void) => {
    const all = watchers.get(id) ?? new Set()
    watchers.set(id, all.add(watcher))
    return () => all.delete(watcher)
  }

  const isAuthorized = ({ headers }: http.IncomingMessage) => headers.authorization === `Bearer ${apiKey}`

  /** Notes a request, and answers with its route and what its path says. */
  const note = (request: http.IncomingMessage, bytes: Buffer) => {
    const { method = "", url = "" } = request
    const { pathname, searchParams } = new URL(url, "http://loopback")
    const found = patterns.find(({ pattern }) => pattern.test(`${method} ${pathname}`))
    const names = found?.pattern.exec(`${method} ${pathname}`)?.slice(1).map(decodeURIComponent) ?? []
    const route = found?.route ?? "unknown"
    const { authorization: _, ...headers } = request.headers
    const isJson = headers["content-type"] === "application/json"
    requests.push({
      route,
      method,
      path: url,
      isAuthorized: isAuthorized(request),
      headers,
      body: bytes.length === 0 ? undefined : isJson ? JSON.parse(bytes.toString()) : bytes.length
    })
    return { route, names, query: searchParams, headers, bytes }
  }

  const take = <A>(table: Map<string, Array<A>>, key: string): A | undefined => table.get(key)?.shift()

  const write = (response: http.ServerResponse, { body, status }: Cloud.Answer, cutAfter?: number) => {
    const isBytes = body instanceof Uint8Array
    const bytes = isBytes ? body : Buffer.from(typeof body === "string" ? body : JSON.stringify(body ?? ""))
    response.writeHead(status, {
      "content-type": isBytes ? "application/octet-stream" : "application/json",
      "content-length": bytes.length
    })
    if (cutAfter === undefined) return void response.end(bytes)
    response.write(bytes.subarray(0, cutAfter), () => response.socket?.destroySoon())
  }

  const unauthorized: Cloud.Answer = {
    status: 401,
    body: { error: { code: "unauthorized", message: "the API key is not known" } }
  }

  // -----------------------------------------------------------------------------
  // Logs
  // -----------------------------------------------------------------------------

  const blockOf = ({ id, source, text, ts }: Cloud.LogEvent, end: string) =>
    [`id: ${id}`, "event: log", `data: ${JSON.stringify({ source, ts, text })}`, "", ""].join(end)

  const follow = (asked: ReturnType<typeof note>, response: http.ServerResponse, fault: Fault | undefined) => {
    const sandbox = cloud.sandbox(asked.names[0]!)
    if (sandbox === undefined) {
      return write(response, { status: 404, body: { code: "sandbox_not_found", message: "it is not there" } })
    }
    const sources = new Set((asked.query.get("sources") ?? "").split(","))
    const last = asked.headers["last-event-id"]
    const begin = last === undefined ? 0 : sandbox.events.findIndex(({ id }) => id === last) + 1
    let next = fault?._tag === "Again" ? Math.max(0, begin - fault.events) : begin
    let sent = 0
    response.writeHead(200, { "content-type": "text/event-stream" })
    response.write(": what the client ignores\n\n")
    const more = () => {
      while (next < sandbox.events.length && !response.writableEnded) {
        if (fault?._tag === "Events" && sent === fault.after) break
        const event = sandbox.events[next++]!
        if (!sources.has(event.source)) continue
        // In two pieces, and with both ends of a line that are allowed.
        const block = blockOf(event, sent % 2 === 0 ? "\n" : "\r\n")
        response.write(block.slice(0, 20))
        response.write(block.slice(20))
        sent++
      }
      if (fault?._tag === "Events" && sent === fault.after) {
        if (fault.how === "garbage") response.write("event: log\ndata: {nobody reads this\n\n")
        if (fault.how === "cut") response.write("id: ", () => response.socket?.destroySoon())
        else response.end()
        return
      }
      if (sandbox.document.status !== "running") response.end("event: end\ndata: {}\n\n")
    }
    const unwatch = watch(sandbox.id, more)
    response.on("close", unwatch)
    more()
  }

  // -----------------------------------------------------------------------------
  // Requests
  // -----------------------------------------------------------------------------

  const answer = (request: http.IncomingMessage, response: http.ServerResponse, bytes: Buffer) => {
    const asked = note(request, bytes)
    const fault = take(faults, asked.route)
    switch (fault?._tag) {
      case "Silence":
        return
      case "Answer":
        return write(response, {
          status: fault.status,
          body: fault.echo
            ? { error: { code: "debug", message: `could not serve ${JSON.stringify(request.headers)} ${bytes}` } }
            : fault.body
        })
      case "Cut":
        if (fault.after === "none") return void request.socket.destroy()
    }
    const truth = () => {
      if (!isAuthorized(request)) return write(response, unauthorized)
      if (asked.route === logsRoute) return follow(asked, response, fault)
      const run = cloud.routes[asked.route]
      if (run === undefined) return write(response, { status: 404, body: "there is nothing here" })
      const answer = run(asked)
      if (fault?._tag === "Change") return write(response, { ...answer, body: fault.change(answer.body) })
      return write(response, answer, fault?._tag === "Cut" ? fault.after as number : undefined)
    }
    if (fault?._tag === "Delay") setTimeout(truth, fault.millis)
    else truth()
  }

  // What is kept alive stays so: a server that gives it up meets a request that is on its way, and on a slow machine often.
  const server = http.createServer({ keepAliveTimeout: 300_000 }, (request, response) => {
    open++
    response.on("close", () => open--)
    const chunks: Array<Buffer> = []
    request.on("data", (chunk: Buffer) => chunks.push(chunk))
    request.on("end", () => answer(request, response, Buffer.concat(chunks)))
    request.on("error", () => {})
  })
  server.on("connection", (socket) => {
    sockets.add(socket)
    socket.on("close", () => sockets.delete(socket))
    socket.on("error", () => {})
  })

  // -----------------------------------------------------------------------------
  // Guests
  // -----------------------------------------------------------------------------

  const webSockets = new WebSocketServer({ noServer: true, perMessageDeflate: false })

  /** Does to a connection what was asked for. Whether the message is still to be sent, once or twice. */
  const harm = (fault: AgentFault, bytes: Buffer, webSocket: WebSocket, socket: Duplex): number => {
    switch (fault) {
      case "Text":
        webSocket.send("text")
        return 1
      case "Twice":
        return 2
      case "CutMessage":
        webSocket.send(bytes.subarray(0, bytes.length >> 1))
        webSocket.close(1000)
        break
      case "Close":
        webSocket.close(1000)
        break
      case "CutFrame":
        socket.write(cutFrame, () => socket.destroy())
        break
      case "HalfClose":
        socket.end()
        break
      case "GarbageFrame":
        socket.write(garbageFrame)
        break
      case "GarbageMessage":
        // The head of the message is right, and what it says is no CBOR.
        webSocket.send(Buffer.concat([Buffer.from([0, 0, 0, 6]), bytes.subarray(4, 9), Buffer.from([0xff])]))
        break
      case "HugeMessage":
        webSocket.send(Buffer.from([0xff, 0xff, 0xff, 0xff, ...bytes.subarray(4, 9)]))
        break
    }
    return 0
  }

  const talk = (sandbox: Cloud.Sandbox, webSocket: WebSocket, socket: Duplex) => {
    open++
    let isSilent = false
    const guest = Agent.connect({
      root: sandbox.root,
      pending: () => webSocket.bufferedAmount,
      started: (program) => programs.push([sandbox.name, program]),
      send: (type, bytes) => {
        if (isSilent || webSocket.readyState !== webSocket.OPEN) return
        const fault = take(agentFaults, type)
        const times = fault === undefined ? 1 : harm(fault, bytes, webSocket, socket)
        // A peer that speaks nonsense once speaks on; of a connection that is broken nothing more comes.
        if (times === 0 && fault !== "GarbageMessage") isSilent = true
        for (let time = 0; time < times; time++) webSocket.send(bytes)
      }
    })
    const unwatch = watch(sandbox.id, () => {
      if (sandbox.document.status !== "running") webSocket.close(1001)
    })
    webSocket.on("message", (data: Buffer, isBinary) => {
      if (isBinary && !isSilent) guest.received(data)
    })
    webSocket.on("error", () => {})
    webSocket.on("close", () => {
      open--
      unwatch()
      guest.closed()
    })
  }

  const refuse = (socket: Duplex, status: number, body: string): void =>
    void socket.end(
      `HTTP/1.1 ${status} ${
        http.STATUS_CODES[status]
      }\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`
    )

  const upgrade = (request: http.IncomingMessage, socket: Duplex, head: Buffer): void => {
    socket.on("error", () => {})
    const asked = note(request, Buffer.alloc(0))
    const fault = take(faults, asked.route)
    if (fault?._tag === "Silence") return
    if (fault?._tag === "Cut") return void socket.destroy()
    if (fault?._tag === "Answer") {
      return refuse(socket, fault.status, JSON.stringify(fault.echo ? request.headers : fault.body ?? ""))
    }
    if (!isAuthorized(request)) return refuse(socket, 401, JSON.stringify(unauthorized.body))
    const sandbox = asked.route === agentRoute ? cloud.sandbox(asked.names[0]!) : undefined
    if (sandbox === undefined) return refuse(socket, 404, "")
    if (sandbox.document.status !== "running") return refuse(socket, 409, "")
    const accept = () =>
      webSockets.handleUpgrade(request, socket, head, (webSocket) => talk(sandbox, webSocket, socket))
    if (fault?._tag === "Delay") setTimeout(accept, fault.millis)
    else accept()
  }
  server.on("upgrade", upgrade)

  const named = (name: string) => {
    const sandbox = cloud.sandboxNamed(name)
    if (sandbox === undefined) throw new Error(`the control plane has no sandbox ${name}`)
    return sandbox
  }

  const add = <A>(table: Map<string, Array<A>>, key: string, fault: A, times: number) => {
    const all = table.get(key) ?? []
    table.set(key, [...all, ...Array.from({ length: times }, () => fault)])
  }

  const count = (table: Map<string, ReadonlyArray<unknown>>) =>
    [...table.values()].reduce((sum, all) => sum + all.length, 0)

  return {
    server,
    close: () => {
      for (const socket of sockets) socket.destroy()
    },
    service: {
      requests: Effect.sync(() => [...requests]),
      asked: Effect.sync(() => requests.map(({ route }) => route)),
      programs: Effect.sync(() => [...programs]),
      forget: Effect.sync(() => {
        requests.length = 0
        programs.length = 0
      }),
      inject: (route: string, fault: Fault, times = 1) =>
        Effect.sync(() => {
          if (patterns.every((known) => known.route !== route)) throw new Error(`there is no route ${route}`)
          add(faults, route, fault, times)
        }),
      injectAgent: (type: string, fault: AgentFault) => Effect.sync(() => add(agentFaults, type, fault, 1)),
      pending: Effect.sync(() => count(faults) + count(agentFaults)),
      connections: Effect.sync(() => open),
      names: Effect.sync(cloud.names),
      log: (sandbox: string, text: string, source?: Cloud.Source) =>
        Effect.sync(() => cloud.log(named(sandbox), text, source)),
      stop: (sandbox: string) => Effect.sync(() => cloud.stop(named(sandbox)))
    }
  }
}

const make = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const directory = yield* fs.makeTempDirectoryScoped({ prefix: "control-plane-" })
  const apiKey = `msb_test_${crypto.randomUUID()}`
  const { close, server, service } = makeServer(directory, apiKey)
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        close()
      })
  )
  const { port } = server.address() as net.AddressInfo
  return ControlPlane.of({ ...service, url: `http://127.0.0.1:${port}`, apiKey: Redacted.make(apiKey) })
})

/** A control plane, empty at first; gone with the scope. */
export const layer: Layer.Layer<ControlPlane> = Layer.effect(ControlPlane, make).pipe(
  Layer.provide(NodeServices.layer),
  Layer.orDie
)

/** A control plane, and a backend that is its client. */
export const layerBackend: Layer.Layer<Backend.Backend | ControlPlane> = Layer.unwrap(
  Effect.map(ControlPlane, ({ apiKey, url }) => Backend.layerCloud({ url, apiKey }))
).pipe(Layer.orDie, Layer.provideMerge(layer))
