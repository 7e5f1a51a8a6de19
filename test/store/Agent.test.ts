/** The agent's protocol frame by frame, with a relay that speaks it and with relays that do not. */
import { Agent, Backend, type MicrosandboxError } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, FileSystem, Path, Schedule, Scope, Stream } from "effect"
import type * as net from "node:net"
import * as AgentFuzz from "../support/AgentFuzz.ts"
import { envelope, type Frame, frame, greeting, payloadOf, rawFrame } from "../support/AgentProtocol.ts"
import * as FakeRelay from "../support/FakeRelay.ts"
import * as HostileRelay from "../support/HostileRelay.ts"
import { poured } from "../support/Poured.ts"
import * as RawAgent from "../support/RawAgent.ts"
import { idle, layerBackend, temporaryDirectory } from "../support/Sandboxes.ts"
import { makeRow } from "../support/Store.ts"

const mebibyte = 1 << 20

const live = Effect.flatMap(Backend.Backend, ({ native }) => native.live)

const kindOf = ({ reason }: MicrosandboxError.MicrosandboxError): string =>
  reason._tag === "AgentClient" ? `AgentClient ${reason.kind}` : reason._tag

type Operation = Effect.Effect<unknown, MicrosandboxError.MicrosandboxError, Backend.Backend | Scope.Scope>

/** The error of what must not succeed. */
const errorOf = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<E, never, R> =>
  Effect.orDie(Effect.flip(effect))

const pong = (id: number) => frame(id, "core.pong", {})
const printed = (id: number) => frame(id, "core.exec.stdout", { data: Buffer.from("x") })

const says = (bytes: (id: number) => Buffer) => (asked: Frame, socket: net.Socket) => void socket.write(bytes(asked.id))
const ends = (bytes: (id: number) => Buffer) => (asked: Frame, socket: net.Socket) => void socket.end(bytes(asked.id))

const withLength = (bytes: Buffer, length: number): Buffer => {
  bytes.writeUInt32BE(length, 0)
  return bytes
}

const range = (start: number, end: number): Buffer => {
  const bytes = greeting()
  bytes.writeUInt32BE(start, 0)
  bytes.writeUInt32BE(end, 4)
  return bytes
}

/** What a peer does, and the reason that a request has then: its first one, or the one to connect. */
const hostile: Record<string, readonly [HostileRelay.Behaviour, string]> = {
  "says nothing at all": [{ greeting: Buffer.alloc(0) }, "AgentReadyTimeout"],
  "says a half of its greeting, and no more": [{ greeting: greeting().subarray(0, 30) }, "AgentReadyTimeout"],
  "closes before its greeting": [{ greeting: Buffer.alloc(0), leaves: true }, "AgentClient Handshake"],
  "closes within its greeting": [{ greeting: greeting().subarray(0, 30), leaves: true }, "AgentClient Handshake"],
  "greets with garbage": [
    { greeting: Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"), leaves: true },
    "AgentClient Handshake"
  ],
  "has no ids": [{ greeting: range(7, 7) }, "AgentClient Handshake"],
  "begins with another message": [
    { greeting: Buffer.concat([greeting().subarray(0, 8), pong(0)]) },
    "AgentClient Handshake"
  ],
  "greets with a frame that is too long": [
    { greeting: Buffer.concat([greeting().subarray(0, 8), Buffer.from([0x80, 0, 0, 0])]) },
    "AgentClient Handshake"
  ],
  "does not answer": [{}, "AgentReadyTimeout"],
  "does not take what it is sent": [{ deaf: true }, "AgentReadyTimeout"],
  "closes instead of an answer": [{ answer: ends(() => Buffer.alloc(0)) }, "AgentClient PeerClosed"],
  "says a length that is too long": [
    { answer: says((id) => withLength(pong(id), 4 * mebibyte + 1)) },
    "AgentClient Oversized"
  ],
  "says a length that is too short": [{ answer: says((id) => withLength(pong(id), 4)) }, "AgentClient Undersized"],
  "closes in the middle of a frame": [{ answer: ends((id) => pong(id).subarray(0, 12)) }, "AgentClient Truncated"],
  "closes in the middle of a length": [{ answer: ends((id) => pong(id).subarray(0, 2)) }, "AgentClient Truncated"],
  "sets flags that are the host's": [
    { answer: says((id) => rawFrame(id, 4, envelope("core.shutdown", {}))) },
    "AgentClient InvalidFlags"
  ],
  "answers with a message of no known type": [
    { answer: says((id) => frame(id, "core.surprise", {})) },
    "AgentClient UnknownType"
  ],
  "answers with no message": [
    { answer: says((id) => rawFrame(id, 1, Buffer.alloc(9, 0xff))) },
    "AgentClient InvalidEnvelope"
  ],
  "answers with CBOR that says it is larger than all memory": [
    { answer: says((id) => rawFrame(id, 1, Buffer.from([0x5b, ...Array<number>(8).fill(0x7f)]))) },
    "AgentClient InvalidEnvelope"
  ],
  "answers with CBOR of a million levels": [
    { answer: says((id) => rawFrame(id, 1, Buffer.alloc(mebibyte, 0x81))) },
    "AgentClient InvalidEnvelope"
  ],
  "answers with a bulk record that is none": [
    { answer: says((id) => rawFrame(id, 8, Buffer.alloc(5))) },
    "AgentClient InvalidEnvelope"
  ],
  "answers what it was not asked": [{ answer: says((id) => pong(id + 1)) }, "AgentClient UnknownId"],
  "answers with the relay's own id": [{ answer: says(() => pong(0)) }, "AgentClient UnknownId"]
}

layer(layerBackend, { timeout: "5 minutes", excludeTestServices: true })("an agent", (it) => {
  it.effect("says what it is, answers a ping and runs programs, by raw frames", () =>
    Effect.gen(function*() {
      yield* FakeRelay.make("speaks")
      yield* Effect.scoped(Effect.gen(function*() {
        const agent = yield* Agent.connect("speaks")
        assert.deepStrictEqual(yield* RawAgent.converse(agent), RawAgent.conversation)
        assert.deepInclude(payloadOf(agent.ready.bytes), { agent_version: "0.7.2", relay_lease: { max_format: 1 } })
        const [frame] = yield* Stream.runCollect(Stream.take(agent.stream(RawAgent.program("echo", "one")), 1))
        assert.deepInclude(frame, { flags: 0, type: "core.exec.started" })
        assert.hasAllKeys(payloadOf(frame!.body), ["pid"])
        assert.deepInclude(yield* live, { agents: 1, agentStreams: 0 })
      }))
      assert.deepStrictEqual(yield* live, idle)
    }).pipe(Effect.scoped))

  it.effect("is connected to by the path of its socket, without a backend", () =>
    Effect.gen(function*() {
      yield* FakeRelay.make("by-path")
      const path = yield* Agent.socketPath("by-path")
      assert.strictEqual(path, yield* FakeRelay.agentSocket("by-path"))
      const connected: Effect.Effect<object, MicrosandboxError.MicrosandboxError, Scope.Scope> = Effect.flatMap(
        Agent.connectPath(path),
        RawAgent.converse
      )
      assert.deepStrictEqual(yield* connected, RawAgent.conversation)
    }).pipe(Effect.scoped))

  it.effect("kills a program whose stream is given up, and closes with its scope what is open on it", () =>
    Effect.gen(function*() {
      const relay = yield* FakeRelay.make("kills")
      const scope = yield* Scope.make()
      const agent = yield* Agent.connect("kills").pipe(Scope.provide(scope))
      const reading = yield* Effect.forkChild(Stream.runDrain(agent.stream(RawAgent.program("wait"))))
      yield* relay.until(({ _tag }) => _tag === "Started")
      yield* Fiber.interrupt(reading)
      const told = yield* relay.until(({ _tag }) => _tag === "Exited")
      assert.deepInclude(told, { _tag: "Signal", signal: 9 })
      // The connection is as good as before.
      assert.strictEqual((yield* agent.request(RawAgent.ping)).type, "core.pong")
      const session = yield* Effect.scoped(agent.open(RawAgent.program("wait")))
      yield* relay.until(({ _tag }) => _tag === "Exited")
      assert.strictEqual(kindOf(yield* errorOf(Stream.runDrain(session.frames))), "HandleClosed")
      const open = yield* agent.open(RawAgent.program("wait")).pipe(Scope.provide(scope))
      const waiting = yield* Effect.forkChild(errorOf(Stream.runDrain(open.frames)))
      yield* relay.until(({ _tag }) => _tag === "Started")
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(kindOf(yield* Fiber.join(waiting)), "HandleClosed")
      assert.strictEqual(kindOf(yield* errorOf(agent.request(RawAgent.ping))), "HandleClosed")
      yield* relay.until(({ _tag }) => _tag === "Exited")
      assert.deepStrictEqual(yield* live, idle)
    }).pipe(Effect.scoped))

  it.effect("gives a reader all of a long stream, at the reader's pace", () =>
    Effect.gen(function*() {
      yield* FakeRelay.make("paces")
      const agent = yield* Agent.connect("paces")
      const bytes = 16 * mebibyte
      let index = 0
      const frames = agent.stream(RawAgent.program("pour", `${bytes}`)).pipe(
        Stream.filter(({ type }) => type === "core.exec.stdout"),
        // Slower than it comes.
        Stream.tap(() => index % 500 === 0 ? Effect.sleep("20 millis") : Effect.void)
      )
      yield* Stream.runForEach(frames, ({ body }) =>
        Effect.sync(() => {
          const data = payloadOf(body).data as Uint8Array
          assert.isTrue(Buffer.from(poured(index)).equals(data), `chunk ${index}`)
          index++
        }))
      assert.strictEqual(index * poured(0).length, bytes)
    }).pipe(Effect.scoped))

  it.effect("that is hostile is told off with a reason, and its connection is closed", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      yield* makeRow("hostile", "Running", { name: "hostile" })
      const socket = yield* Agent.socketPath("hostile")
      yield* fs.makeDirectory(path.dirname(socket), { recursive: true })
      const got: Record<string, string> = {}
      for (const [title, [behaviour]] of Object.entries(hostile)) {
        yield* Effect.scoped(Effect.gen(function*() {
          const relay = yield* HostileRelay.make(socket, () => behaviour)
          const asked = Effect.gen(function*() {
            const agent = yield* Agent.connect("hostile", { timeout: "300 millis" })
            // Larger than what the kernel takes for a peer that does not.
            const body = envelope("core.exec.stdin", { data: Buffer.alloc(behaviour.deaf === true ? 3 * mebibyte : 1) })
            const error = yield* errorOf(agent.request({ body }))
            // The connection is closed, and not with its scope only.
            yield* relay.closed
            const later = yield* errorOf(agent.request(RawAgent.ping))
            assert.strictEqual(kindOf(later), kindOf(error), title)
            return error
          })
          const error = yield* Effect.catch(Effect.scoped(asked), Effect.succeed)
          yield* relay.closed
          got[title] = kindOf(error)
        }))
        assert.deepStrictEqual(yield* live, idle, title)
      }
      assert.deepStrictEqual(
        got,
        Object.fromEntries(Object.entries(hostile).map(([title, [, wrong]]) => [title, wrong]))
      )
    }).pipe(Effect.scoped))

  it.effect("that uses an id again, after the last frame that it had, has no connection any more", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      const socket = path.join(yield* temporaryDirectory, "agent.sock")
      const relay = yield* HostileRelay.make(socket, () => ({
        answer: says((id) => Buffer.concat([printed(id), frame(id, "core.exec.exited", { code: 0 }), printed(id)]))
      }))
      const agent = yield* Agent.connectPath(socket)
      const frames = yield* Stream.runCollect(agent.stream(RawAgent.program("echo")))
      assert.deepStrictEqual(frames.map(({ type }) => type), ["core.exec.stdout", "core.exec.exited"])
      yield* relay.closed
      assert.strictEqual(kindOf(yield* errorOf(agent.request(RawAgent.ping))), "AgentClient ReusedId")
    }).pipe(Effect.scoped))

  it.effect("that never stops has at most 1 MiB kept of it, and ends its stream first and its connection then", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      const socket = path.join(yield* temporaryDirectory, "agent.sock")
      const relay = yield* HostileRelay.make(socket, () => ({
        answer: ({ id, type }, socket) => {
          const data = Buffer.alloc(32 * 1024)
          if (type === "core.exec.request") HostileRelay.pour(socket, frame(id, "core.exec.stdout", { data }))
        }
      }))
      const agent = yield* Agent.connectPath(socket)
      const session = yield* agent.open(RawAgent.program("yes"))
      // Nobody reads.
      yield* relay.closed
      let bytes = 0
      const error = yield* errorOf(Stream.runForEach(session.frames, ({ body }) =>
        Effect.sync(() => {
          bytes += body.length
        })))
      assert.strictEqual(kindOf(error), "AgentClient SlowReader")
      assert.isAbove(bytes, mebibyte / 2)
      assert.isAtMost(bytes, mebibyte)
      assert.strictEqual(kindOf(yield* errorOf(agent.request(RawAgent.ping))), "AgentClient EndlessStream")
    }).pipe(Effect.scoped))

  it.effect("answers others while one stream is not read, and is told to end that", () =>
    Effect.gen(function*() {
      const relay = yield* FakeRelay.make("evades")
      const agent = yield* Agent.connect("evades")
      const session = yield* agent.open(RawAgent.program("evade"))
      // It is held back by the full stream at first.
      assert.strictEqual((yield* agent.request(RawAgent.ping)).type, "core.pong")
      assert.deepInclude(yield* relay.until(({ _tag }) => _tag === "Exited"), { _tag: "Signal", signal: 9 })
      assert.strictEqual(kindOf(yield* errorOf(Stream.runDrain(session.frames))), "AgentClient SlowReader")
    }).pipe(Effect.scoped))

  it.effect("whose request is interrupted may still answer it, and its connection stays", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      const socket = path.join(yield* temporaryDirectory, "agent.sock")
      let first: number | undefined
      yield* HostileRelay.make(socket, () => ({
        answer: ({ id }, socket) => {
          if (first === undefined) first = id
          // With the second one only.
          else socket.write(Buffer.concat([pong(first), pong(id)]))
        }
      }))
      const agent = yield* Agent.connectPath(socket)
      const asking = yield* Effect.forkChild(agent.request(RawAgent.ping))
      yield* Effect.suspend(() => first === undefined ? Effect.fail("not yet") : Effect.void).pipe(
        Effect.retry(Schedule.spaced("5 millis"))
      )
      yield* Fiber.interrupt(asking)
      assert.strictEqual((yield* agent.request(RawAgent.ping)).id, first! + 1)
    }).pipe(Effect.scoped))

  it.effect("is not there for a sandbox that does not run, nor for a path where nobody listens", () =>
    Effect.gen(function*() {
      yield* makeRow("sleeps", "Stopped", { name: "sleeps" })
      const failed = (operation: Operation) => Effect.map(errorOf(operation), kindOf)
      assert.strictEqual(yield* failed(Agent.connect("sleeps")), "SandboxNotRunning")
      assert.strictEqual(yield* failed(Agent.connect("nobody")), "SandboxNotFound")
      assert.strictEqual(yield* failed(Agent.connectPath("/nowhere/agent.sock")), "AgentClient Connect")
      assert.strictEqual(yield* failed(Agent.connectPath(`/${"x".repeat(200)}`)), "AgentClient Connect")
      assert.deepStrictEqual(yield* live, idle)
    }).pipe(Effect.scoped))

  it.effect("is asked for nothing that a frame cannot be, and the field is named", () =>
    Effect.gen(function*() {
      yield* FakeRelay.make("checks")
      const agent = yield* Agent.connect("checks")
      const body = RawAgent.ping.body
      const wrong: Record<string, Effect.Effect<unknown, Parameters<typeof kindOf>[0], Backend.Backend | Scope.Scope>> =
        {
          name: Agent.connect("no name"),
          path: Agent.connectPath(""),
          timeout: Agent.connect("checks", { timeout: -1 }),
          body: agent.request({ body: Buffer.from("no envelope") }),
          "body ": agent.open({ body: Buffer.alloc(4 * mebibyte) }),
          "body  ": Stream.runDrain(agent.stream({ body: Buffer.alloc(0) })),
          flags: agent.request({ flags: 3 as never, body }),
          id: agent.send({ id: -1, body })
        }
      for (const [field, effect] of Object.entries(wrong)) {
        const { reason } = yield* errorOf(effect)
        assert.deepInclude(reason, { _tag: "InvalidConfig", field: field.trim() })
      }
      assert.strictEqual(kindOf(yield* errorOf(agent.send({ id: 77, body }))), "AgentClient StreamEnded")
      assert.strictEqual((yield* agent.request(RawAgent.ping)).type, "core.pong")
    }).pipe(Effect.scoped))

  it.effect("that says 5,000 frames at random neither stops nor fools its client", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      const result = yield* AgentFuzz.run(path.join(yield* temporaryDirectory, "agent.sock"), 5000)
      console.log(JSON.stringify(result))
      const { read, ...reasons } = result.ends
      assert.isAbove(read ?? 0, 10)
      assert.isAbove(Object.keys(reasons).length, 6)
      assert.deepStrictEqual(yield* live, idle)
    }).pipe(Effect.scoped))
})
