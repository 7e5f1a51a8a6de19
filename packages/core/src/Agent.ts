/**
 * The protocol of the guest's agent, frame by frame.
 *
 * **When to use**
 *
 * Use it for what the other modules have no operation for, and to talk to an agent through a socket of your own. All that
 * `Sandbox` does in a guest is made of such frames; this is what it is made of.
 *
 * **Details**
 *
 * A frame is `[length][id][flags][body]`. Its body is an envelope, a CBOR map of `v` (generation of the protocol), `t` (name
 * of the message) and `p` (the message, CBOR in bytes), or, with flags 8, a bulk record. Frames with one id are a stream: of
 * it the guest's last frame has flags 1. This module neither encodes nor decodes bodies, but it looks at the envelope.
 *
 * A guest may be hostile, so that all that it sends is checked first. What the protocol does not allow ends the connection,
 * and each operation on it fails with the reason `AgentClient`, whose `kind` is one of {@link Kind}. A guest that does not
 * answer in time has the reason `AgentReadyTimeout`, and no connection any more. What waits for a reader is at most 1 MiB in
 * each stream, or one frame that is larger; frames have at most 4 MiB.
 *
 * @stability unstable
 * @since 0.1.0
 */
import { Native } from "@effect-microsandbox/native"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { Backend } from "./Backend.ts"
import * as internal from "./internal/agent.ts"
import { decodeOptions, mapFailure, type Subject } from "./internal/failure.ts"
import { Lifetime, Name, Text } from "./internal/inputs.ts"
import type { MicrosandboxError } from "./MicrosandboxError.ts"

/**
 * Why a connection ended, or could not be made: the `kind` of the reason `AgentClient` from this module.
 *
 * **Details**
 *
 * What the guest may not do: `Handshake`, its greeting is none; `Oversized` and `Undersized`, a frame's length is none;
 * `Truncated`, the connection ended within a frame; `InvalidFlags`; `InvalidEnvelope`, a body is none; `UnknownType`, a
 * message has a name that the protocol does not have; `UnknownId`, nobody asked; `ReusedId`, the id has had its last frame;
 * `EndlessStream`, more than 80 MiB came on a stream that was given up. What may happen: `Connect`, nobody listens at the
 * path; `PeerClosed`; `Io`. What ends or refuses one stream and not the connection: `SlowReader`, a full stream was not read
 * for 3 seconds; `StreamEnded`, what was to be sent is for a stream that is not open; `TooManyStreams`, 1024 are;
 * `IdRangeExhausted`, the connection has had as many streams as it can.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Kind =
  | "Connect"
  | "EndlessStream"
  | "Handshake"
  | "IdRangeExhausted"
  | "InvalidEnvelope"
  | "InvalidFlags"
  | "Io"
  | "Oversized"
  | "PeerClosed"
  | "ReusedId"
  | "SlowReader"
  | "StreamEnded"
  | "TooManyStreams"
  | "Truncated"
  | "Undersized"
  | "UnknownId"
  | "UnknownType"

/**
 * A frame from the guest.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Frame {
  /** Of the stream that it belongs to. */
  readonly id: number
  /** 0; 1 of the last frame of a stream; 8 of a bulk record. */
  readonly flags: number
  /** The name of its message, such as `core.exec.stdout`. Absent of a bulk record, which has no envelope. */
  readonly type?: string
  /** All of its envelope, or the bulk record. */
  readonly body: Uint8Array
}

/**
 * A frame for the guest. Its id is that of its stream.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Outgoing {
  /** 0, 1, 2 of the first frame of a session, 4, or 8. Default: those that the protocol gives the message of the body. */
  readonly flags?: 0 | 1 | 2 | 4 | 8 | undefined
  /** An envelope, or a bulk record: at most 4 MiB less 5 bytes. */
  readonly body: Uint8Array
}

export {
  /**
   * What an agent says of itself when it is connected to.
   *
   * @stability unstable
   * @category models
   * @since 0.1.0
   */
  Ready
} from "./internal/agent.ts"

/**
 * Options of {@link connect}, {@link connectPath} and of requests.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * How long the agent may take: to be connected to, to take a frame, and to answer a request. More ends the connection,
   * with the reason `AgentReadyTimeout`. Default: 10 seconds, or what the connection was made with.
   */
  readonly timeout?: Duration.Input | undefined
}

/**
 * A stream that was asked for, to which more can be sent. It is given up with its scope.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Session {
  /** Of its frames. */
  readonly id: number
  /** What comes, up to the last frame. Each frame is read once. */
  readonly frames: Stream.Stream<Frame, MicrosandboxError>
  /** Sends one more frame, such as a program's input; answers when it is written. Fails with `StreamEnded` after its end. */
  readonly send: (frame: Outgoing) => Effect.Effect<void, MicrosandboxError>
}

/**
 * A connection to a guest's agent.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Agent {
  /** What the agent said of itself. */
  readonly ready: internal.Ready
  /** Asks for one frame. When that is not the last one of its stream, the stream is given up. */
  readonly request: (frame: Outgoing, options?: Options) => Effect.Effect<Frame, MicrosandboxError>
  /**
   * Asks for a stream, whose frames are pulled. When it is interrupted, or not read to its end, it is given up: a program is
   * killed in the guest, a TCP connection closed; of other messages the rest is dropped as it comes.
   */
  readonly stream: (frame: Outgoing) => Stream.Stream<Frame, MicrosandboxError>
  /** The same, with its id and a way to send more on it, until the scope closes. */
  readonly open: (frame: Outgoing) => Effect.Effect<Session, MicrosandboxError, Scope.Scope>
  /** Sends one more frame on a stream that is open, or with id 0 and flags 4 a shutdown; answers when it is written. */
  readonly send: (frame: Outgoing & { readonly id: number }) => Effect.Effect<void, MicrosandboxError>
}

const connectSubject: Subject = { operation: "Agent.connect" }
const decodeConnect = decodeOptions(
  Schema.Struct({ name: Name, timeout: Schema.optional(Lifetime) }),
  connectSubject
)

/**
 * Connects to the agent of a sandbox that runs, until the scope closes. All that was begun on the connection ends with it.
 *
 * **Details**
 *
 * Fails with `SandboxNotFound` and `SandboxNotRunning`. A sandbox takes 128 connections at a time, of which each of its
 * programs has one. One that is too many is closed by the relay, which is a `Handshake`.
 *
 * **Gotchas**
 *
 * Close what has offered bulk records by the protocol's rules before the scope ends: the relay of runtime 0.7.2 takes a bulk
 * record for a client that has just left for a fault of its own, and ends the VM.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const connect = Effect.fn("Agent.connect")(function*(
  name: string,
  options: Options = {}
): Effect.fn.Return<Agent, MicrosandboxError, Backend | Scope.Scope> {
  const { timeout } = yield* decodeConnect({ ...options, name })
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
  const { handle, native } = yield* Backend
  return yield* internal.acquire(
    native,
    { ...connectSubject, sandbox: name },
    timeout,
    (millis, token) => handle.connectAgent(name, millis, token)
  )
})

const pathSubject: Subject = { operation: "Agent.connectPath" }
const decodePath = decodeOptions(
  Schema.Struct({ path: Text.check(Schema.isMinLength(1)), timeout: Schema.optional(Lifetime) }),
  pathSubject
)

/**
 * Connects to whatever agent listens on a Unix socket, until the scope closes. It needs no backend.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const connectPath = Effect.fn("Agent.connectPath")(function*(
  path: string,
  options: Options = {}
): Effect.fn.Return<Agent, MicrosandboxError, Scope.Scope> {
  const { timeout } = yield* decodePath({ ...options, path })
  const engine = yield* Layer.build(Native.layer).pipe(mapFailure(pathSubject))
  const native = Context.get(engine, Native.Native)
  return yield* internal.acquire(
    native,
    pathSubject,
    timeout,
    (millis, token) => native.engine.connectAgent(path, millis, token)
  )
})

const decodeName = decodeOptions(Schema.Struct({ name: Name }), { operation: "Agent.socketPath" })

/**
 * Where the agent of a sandbox listens when it runs, of a backend on this machine. It does not look whether it does.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const socketPath = Effect.fn("Agent.socketPath")(function*(
  name: string
): Effect.fn.Return<string, MicrosandboxError, Backend> {
  yield* decodeName({ name })
  yield* Effect.annotateCurrentSpan({ "sandbox.name": name })
  const { handle, native } = yield* Backend
  return yield* native.call((token) => handle.agentSocket(name, token)).pipe(
    mapFailure({ operation: "Agent.socketPath", sandbox: name })
  )
})
