/** Programs by raw frames. */
import type { Agent } from "@effect-microsandbox/core"
import { Effect, Stream } from "effect"
import { envelope, payloadOf } from "./AgentProtocol.ts"

export const ping: Agent.Outgoing = { body: envelope("core.ping", {}) }

/** What runs a program. */
export const program = (cmd: string, ...args: ReadonlyArray<string>): Agent.Outgoing => ({
  body: envelope("core.exec.request", {
    cmd,
    args,
    env: ["PATH=/bin"],
    cwd: null,
    user: null,
    tty: false,
    rows: 24,
    cols: 80,
    rlimits: []
  })
})

export const input = (data: Uint8Array): Agent.Outgoing => ({ body: envelope("core.exec.stdin", { data }) })

/** What was printed in some frames, and the exit code. */
export const printed = (frames: ReadonlyArray<Agent.Frame>) => ({
  stdout: Buffer.concat(
    frames.flatMap(({ body, type }) => type === "core.exec.stdout" ? [payloadOf(body).data as Uint8Array] : [])
  ).toString(),
  code: frames.flatMap(({ body, type }) => type === "core.exec.exited" ? [payloadOf(body).code] : [])
})

/** The same with a fake as with a real guest. */
export const converse = Effect.fn("converse")(function*(agent: Agent.Agent) {
  const { flags, type } = yield* agent.request(ping)
  const said = printed(yield* Stream.runCollect(agent.stream(program("echo", "by", "raw", "frames"))))
  const session = yield* agent.open(program("cat"))
  yield* session.send(input(Buffer.from("to the ")))
  yield* agent.send({ ...input(Buffer.from("end")), id: session.id })
  // An empty one is the end of the input.
  yield* session.send(input(Buffer.alloc(0)))
  const repeated = printed(yield* Stream.runCollect(session.frames))
  const late = yield* Effect.orDie(Effect.flip(session.send(input(Buffer.from("more")))))
  return {
    generation: agent.ready.generation,
    version: agent.ready.agentVersion,
    answer: { flags, type },
    said: { ...said, stdout: said.stdout.trim() },
    repeated,
    late: late.reason._tag === "AgentClient" ? late.reason.kind : late.reason._tag
  }
}, Effect.scoped)

/** What it answers with. */
export const conversation = {
  generation: 9,
  version: "0.7.2",
  answer: { flags: 1, type: "core.pong" },
  said: { stdout: "by raw frames", code: [0] },
  repeated: { stdout: "to the end", code: [0] },
  late: "StreamEnded"
}
