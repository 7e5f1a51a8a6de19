/** A connection to a guest's agent through the addon, which checks what comes. */
import type { Native } from "@effect-microsandbox/native"
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Pull from "effect/Pull"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Agent, Frame, Options, Outgoing, Session } from "../Agent.ts"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import { decodeOptions, mapFailure, type Subject } from "./failure.ts"
import { Lifetime } from "./inputs.ts"

/** The greeting of an agent. */
export class Ready extends Schema.Class<Ready>("@effect-microsandbox/core/Agent/Ready")({
  /** The generation of the protocol that it speaks. */
  generation: Schema.Int,
  /** Absent when it does not say. */
  agentVersion: Schema.optionalKey(Schema.String),
  /** From the start of the guest's kernel to that of the agent. */
  bootTime: Schema.Duration,
  /** How long the agent took to set the guest up. */
  initTime: Schema.Duration,
  /** From the start of the guest's kernel until the agent was ready. */
  readyTime: Schema.Duration,
  /** The envelope that all of this is from, with what else it says. */
  bytes: Schema.Uint8Array
}) {}

/** What a frame takes of the protocol's 4 MiB beside its header. */
const maxBody = (4 << 20) - 5

const frame = {
  flags: Schema.optional(Schema.Literals([0, 1, 2, 4, 8])),
  body: Schema.Uint8Array.check(
    Schema.makeFilter((body) => body.length <= maxBody || `has ${body.length} bytes, and a frame takes ${maxBody}`)
  )
}
const Id = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 32 - 1 }))

const toFrame = ({ body, flags, id, kind }: Native.AgentFrame): Frame => ({
  id,
  flags,
  ...(kind === undefined ? {} : { type: kind }),
  body
})

const toReady = (ready: Native.AgentReady): Ready =>
  new Ready({
    generation: ready.generation,
    ...(ready.agentVersion === "" ? {} : { agentVersion: ready.agentVersion }),
    bootTime: Duration.nanos(ready.bootTimeNs),
    initTime: Duration.nanos(ready.initTimeNs),
    readyTime: Duration.nanos(ready.readyTimeNs),
    bytes: ready.body
  })

/** A copy: the addon reads it on another thread, where it must not move with a buffer that its owner transfers. */
const toBody = (body: Uint8Array): Buffer => Buffer.from(body)

/** Without end is no limit at the border. */
const toMillis = (timeout: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(timeout))

type Connect = (millis: number, token: Native.CancelToken) => Promise<Native.Outcome<Native.AgentClient>>

/** A connection for as long as the scope is open. */
export const acquire = (
  native: Native.Native["Service"],
  subject: Subject,
  timeout: Duration.Input = "10 seconds",
  connect: Connect
): Effect.Effect<Agent, MicrosandboxError, Scope.Scope> =>
  Effect.gen(function*() {
    const client = yield* native.acquire(
      (token) => connect(toMillis(timeout), token),
      (client) => Effect.promise(() => client.close())
    ).pipe(mapFailure(subject))
    const ready = client.ready()
    if (ready === null) return yield* Effect.die(new Error("a connection was closed before its scope"))
    return make(native, client, toReady(ready), subject, toMillis(timeout))
  })

const make = (
  native: Native.Native["Service"],
  client: Native.AgentClient,
  ready: Ready,
  { sandbox }: Subject,
  millis: number
): Agent => {
  const attributes = sandbox === undefined ? {} : { "sandbox.name": sandbox }
  const subjectOf = (operation: string): Subject => sandbox === undefined ? { operation } : { operation, sandbox }
  const requestSubject = subjectOf("Agent.request")
  const openSubject = subjectOf("Agent.open")
  const streamSubject = subjectOf("Agent.stream")
  const sendSubject = subjectOf("Agent.send")
  const decodeRequest = decodeOptions(
    Schema.Struct({ ...frame, timeout: Schema.optional(Lifetime) }),
    requestSubject
  )
  const decodeOpen = decodeOptions(Schema.Struct(frame), openSubject)
  const decodeStream = decodeOptions(Schema.Struct(frame), streamSubject)
  const decodeSend = decodeOptions(Schema.Struct({ ...frame, id: Id }), sendSubject)

  const begin = (subject: Subject, { body, flags }: Outgoing) =>
    native.acquire(
      (token) => client.stream(flags, toBody(body), millis, token),
      (handle) => Effect.promise(() => handle.close())
    ).pipe(mapFailure(subject))

  const frames = (subject: Subject, handle: Native.AgentStream): Stream.Stream<Frame, MicrosandboxError> => {
    // A batch is kept as it arrives, before any fiber sees it, so that an interrupted pull loses nothing.
    let kept: ReadonlyArray<Native.AgentFrame> = []
    let ended = false
    const read = native.call((token) => handle.read(token), (batch) => {
      kept = batch
      ended = batch.length === 0
    }).pipe(mapFailure(subject))
    const pull: Pull.Pull<Arr.NonEmptyReadonlyArray<Frame>, MicrosandboxError> = Effect.suspend(() => {
      if (ended) return Cause.done()
      const chunk = kept.map(toFrame)
      kept = []
      return Arr.isReadonlyArrayNonEmpty(chunk) ? Effect.succeed(chunk) : Effect.andThen(read, pull)
    })
    return Stream.fromPull(Effect.succeed(pull))
  }

  const send = Effect.fn("Agent.send", { attributes })(function*(what: Outgoing & { readonly id: number }) {
    const { body, flags, id } = yield* decodeSend(what)
    yield* native.call((token) => client.send(id, flags, toBody(body), millis, token)).pipe(mapFailure(sendSubject))
  })

  return {
    ready,
    send,
    request: Effect.fn("Agent.request", { attributes })(function*(what: Outgoing, options: Options = {}) {
      const { body, flags, timeout } = yield* decodeRequest({ ...options, ...what })
      const limit = timeout === undefined ? millis : toMillis(timeout)
      const answer = yield* native.call((token) => client.request(flags, toBody(body), limit, token)).pipe(
        mapFailure(requestSubject)
      )
      return toFrame(answer)
    }),
    open: Effect.fn("Agent.open", { attributes })(function*(what: Outgoing) {
      const handle = yield* begin(openSubject, yield* decodeOpen(what))
      const session: Session = {
        id: handle.id,
        frames: frames(openSubject, handle),
        send: (what) => send({ ...what, id: handle.id })
      }
      return session
    }),
    stream: (what) =>
      Stream.unwrap(
        decodeStream(what).pipe(
          Effect.flatMap((what) => begin(streamSubject, what)),
          Effect.map((handle) => frames(streamSubject, handle))
        )
      ).pipe(Stream.withSpan("Agent.stream", { attributes }))
  }
}
