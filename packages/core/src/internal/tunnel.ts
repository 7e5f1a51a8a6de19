/** Connections to ports of a guest: the addon's tunnel as a Node stream, and what is built on that. */
import type { Native } from "@effect-microsandbox/native"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { Duplex } from "node:stream"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import type { Sandbox } from "../Sandbox.ts"
import type { HttpOptions, Options } from "../Tunnel.ts"
import { decodeOptions, mapFailure, type Subject } from "./failure.ts"
import { Text } from "./inputs.ts"
import { attributesOf, subjectOf, type Target } from "./operation.ts"

const Port = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))

const Host = Text.check(Schema.isMinLength(1))

/** Where to connect to. */
export const Place = { port: Port, host: Schema.optional(Host) }

const maxConnections = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 100 }))

/** The guest itself: its agent looks a name up in the guest, and needs no file for this one. */
export const loopback = "127.0.0.1"

/** How long a stream that was ended may take to give its last bytes away, before it is cut. */
const flush = "10 seconds"

type Native_ = Native.Native["Service"]

/** A Node stream over a tunnel: one read and one write of the addon at a time, so that Node's own buffers are the only ones. */
class TunnelStream extends Duplex {
  readonly #native: Native_
  readonly #handle: Native.Tunnel
  readonly #subject: Subject
  readonly #fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>

  constructor(
    native: Native_,
    handle: Native.Tunnel,
    subject: Subject,
    fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>
  ) {
    super({ allowHalfOpen: true })
    this.#native = native
    this.#handle = handle
    this.#subject = subject
    this.#fork = fork
    // What fails is told to whoever reads or writes; a stream without a listener must not end the process.
    this.on("error", () => {})
  }

  override _read(): void {
    this.#call((token) => this.#handle.read(token), (error, chunk) => {
      if (error !== null) this.destroy(error)
      else this.push(chunk === undefined || chunk.length === 0 ? null : chunk)
    })
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    // A copy: the addon reads it on another thread, where it must not move with a buffer that its owner transfers.
    this.#call((token) => this.#handle.write(Buffer.from(chunk), token), callback)
  }

  override _writev(
    chunks: ReadonlyArray<{ readonly chunk: Uint8Array }>,
    callback: (error?: Error | null) => void
  ): void {
    this.#call((token) => this.#handle.write(Buffer.concat(chunks.map(({ chunk }) => chunk)), token), callback)
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.#call((token) => this.#handle.finish(token), callback)
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    const linger = error === null && this.writableFinished
    // Its own reads and writes end with it.
    this.#handle.close(linger).then(() => callback(error), callback)
  }

  /** As a socket of Node's has it: an end that gives away what was written. */
  destroySoon(): void {
    if (this.writable) this.end()
    if (this.writableFinished) this.destroy()
    else this.once("finish", () => this.destroy())
  }

  #call<A>(
    run: (token: Native.CancelToken) => Promise<Native.Outcome<A>>,
    done: (error: Error | null, value?: A) => void
  ): void {
    this.#fork(
      this.#native.call(run).pipe(
        mapFailure(this.#subject),
        Effect.matchCause({
          onFailure: (cause) => done(toThrown(cause)),
          onSuccess: (value) => done(null, value)
        })
      )
    )
  }
}

/** What a Node callback takes. */
export const toThrown = (cause: Cause.Cause<Error>): Error =>
  Option.getOrElse(Cause.findErrorOption(cause), () => new Error("the tunnel failed", { cause: Cause.squash(cause) }))

const isClosed = (stream: Duplex): Effect.Effect<void> =>
  Effect.callback<void>((resume) => {
    if (stream.closed) return resume(Effect.void)
    const onClose = () => resume(Effect.void)
    stream.once("close", onClose)
    return Effect.sync(() => stream.off("close", onClose))
  })

/** Ends a stream with its scope: without loss when all went well, at once otherwise. */
const end = (stream: TunnelStream, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> =>
  Effect.suspend(() => {
    if (Exit.isSuccess(exit)) stream.destroySoon()
    else stream.destroy()
    return isClosed(stream)
  }).pipe(
    Effect.timeoutOrElse({
      duration: flush,
      orElse: () => {
        stream.destroy()
        return isClosed(stream)
      }
    })
  )

/** A connection for as long as the scope is open. */
export const open = (
  { handle, native }: Target,
  subject: Subject,
  port: number,
  host: string = loopback
): Effect.Effect<Duplex, MicrosandboxError, Scope.Scope> =>
  Effect.gen(function*() {
    const fork = Effect.runForkWith(yield* Effect.context<never>())
    const tunnel = yield* native.acquire(
      (token) => handle.tunnel(host, port, token),
      (tunnel) => Effect.promise(() => tunnel.close(false))
    ).pipe(mapFailure(subject))
    const stream = new TunnelStream(native, tunnel, subject, fork)
    yield* Effect.addFinalizer((exit) => end(stream, exit))
    return stream
  })

export const tunnel = (target: Target): Pick<Sandbox, "socket" | "duplex" | "httpClient"> => {
  const attributes = attributesOf(target)
  const socketSubject = subjectOf("Sandbox.socket", target)
  const duplexSubject = subjectOf("Sandbox.duplex", target)
  const httpSubject = subjectOf("Sandbox.httpClient", target)
  const decodeSocket = decodeOptions(Schema.Struct(Place), socketSubject)
  const decodeDuplex = decodeOptions(Schema.Struct(Place), duplexSubject)
  const decodeHttp = decodeOptions(
    Schema.Struct({ ...Place, maxConnections: Schema.optional(maxConnections) }),
    httpSubject
  )
  return {
    socket: Effect.fn("Sandbox.socket", { attributes })(function*(port: number, options: Options = {}) {
      const { host } = yield* decodeSocket({ ...options, port })
      // Loaded when they are needed: they bring a WebSocket client with them.
      const [NodeSocket, Socket] = yield* Effect.promise(() =>
        Promise.all([import("@effect/platform-node/NodeSocket"), import("effect/socket/Socket")])
      )
      return yield* NodeSocket.fromDuplex(
        open(target, socketSubject, port, host).pipe(
          Effect.mapError((cause) =>
            new Socket.SocketError({ reason: new Socket.SocketOpenError({ kind: "Unknown", cause }) })
          )
        )
      )
    }),
    duplex: Effect.fn("Sandbox.duplex", { attributes })(function*(port: number, options: Options = {}) {
      const { host } = yield* decodeDuplex({ ...options, port })
      return yield* open(target, duplexSubject, port, host)
    }),
    httpClient: Effect.fn("Sandbox.httpClient", { attributes })(function*(port: number, options: HttpOptions = {}) {
      const { host = loopback, maxConnections = 32 } = yield* decodeHttp({ ...options, port })
      // Loaded when it is needed: it brings a whole HTTP client with it.
      const guestHttp = yield* Effect.promise(() => import("./guestHttp.ts"))
      return yield* guestHttp.make(open(target, httpSubject, port, host), host, port, maxConnections)
    })
  }
}
