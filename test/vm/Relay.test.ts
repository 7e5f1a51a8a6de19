/** The relay that stands in for a guest in other tests, held to what a real sandbox's relay says to the same programs. */
import { Agent, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Path, Stream } from "effect"
import type { Frame, Value } from "../support/AgentProtocol.ts"
import * as FakeRelay from "../support/FakeRelay.ts"
import * as RawAgent from "../support/RawAgent.ts"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"
import * as Tee from "../support/Tee.ts"

/** What the fake has as its own programs, for a guest's shell. */
const programs = {
  say: `printf %s "$1"; printf %s "$2" >&2; exit "$3"`,
  wait: "printf waiting; exec sleep 1000",
  leave: `sleep 1000 & exit "$1"`,
  deaf: "exec 0<&-; printf deaf; exec sleep 1000"
}

/** A root directory of a guest with these programs in it. */
const image = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const root = yield* rootDirectory
  for (const [name, script] of Object.entries(programs)) {
    yield* fs.writeFileString(path.join(root, "bin", name), `#!/bin/sh\n${script}\n`)
    yield* fs.chmod(path.join(root, "bin", name), 0o755)
  }
  return root
})

const collected = (sandbox: Sandbox.Sandbox, command: string, args: ReadonlyArray<string>, stdin?: string) =>
  Effect.map(
    sandbox.exec(command, args, stdin === undefined ? {} : { stdin: Buffer.from(stdin) }),
    ({ exitCode, signaled, stderr, stdout }) => ({ exitCode, signaled, stderr, stdout })
  )

/** Reads what a program prints first, so that it is surely there. */
const begun = Effect.fn("begun")(function*(sandbox: Sandbox.Sandbox, command: string) {
  const program = yield* sandbox.spawn(command, [], { stdin: "pipe" })
  const first = yield* Stream.runHead(Stream.decodeText(program.stdout))
  return { program, first }
})

const leaves = "leaves something behind"

type Script = (sandbox: Sandbox.Sandbox) => Effect.Effect<object>

const scripts: Record<string, Script> = {
  "prints to both outputs and exits with a code": (sandbox) =>
    collected(sandbox, "say", ["out", "wrong", "3"]).pipe(Effect.orDie),
  "takes its input": (sandbox) => collected(sandbox, "cat", [], "to the end").pipe(Effect.orDie),
  [leaves]: (sandbox) => collected(sandbox, "leave", ["4"]).pipe(Effect.orDie),
  "is not there": (sandbox) =>
    Effect.flip(collected(sandbox, "no-such-program", [])).pipe(
      Effect.map(({ reason }) => ({ ...reason, sandbox: "" })),
      Effect.orDie
    ),
  "is stopped, continued and killed": (sandbox) =>
    Effect.gen(function*() {
      const { first, program } = yield* begun(sandbox, "wait")
      for (const signal of ["SIGSTOP", "SIGCONT", "SIGKILL"] as const) yield* program.signal(signal)
      return { first, status: yield* program.exitStatus }
    }).pipe(Effect.scoped, Effect.orDie),
  "has closed its input": (sandbox) =>
    Effect.gen(function*() {
      const { first, program } = yield* begun(sandbox, "deaf")
      const { reason } = yield* Effect.flip(Stream.run(Stream.forever(Stream.make("x")), program.stdin))
      yield* program.signal("SIGKILL")
      return { first, reason: reason._tag, status: yield* program.exitStatus }
    }).pipe(Effect.scoped, Effect.orDie)
}

/** The names and the kinds of what a value has, not the value. */
const shape = (value: Value): unknown =>
  value === null
    ? "null"
    : value instanceof Uint8Array
    ? "bytes"
    : Array.isArray(value)
    ? [...new Set(value.map((item) => JSON.stringify(shape(item))))]
    : typeof value === "object"
    ? Object.fromEntries(Object.entries(value).map(([key, item]) => [key, shape(item)]))
    : typeof value

const said = ({ flags, payload, type, version }: Frame) =>
  JSON.stringify({ type, flags, version, payload: shape(payload) })

/** How often output comes, and which of two outputs is first, is up to the guest's scheduler. */
const conversation = (frames: ReadonlyArray<Frame>) => {
  const ofExec = frames.filter(({ type }) => !type.startsWith("core.fs."))
  return { first: ofExec[0]?.type, all: [...new Set(ofExec.map(said))].sort(), last: ofExec.at(-1)?.type }
}

/** The SDK looks from time to time whether a silent program is still there: the last answer that it got. */
const looked = (connections: ReadonlyArray<Tee.Connection>) =>
  connections.flatMap(({ answered }) => answered).filter(({ type }) => type === "core.fs.response").map(said).at(-1)

/** 128 clients share the ids, and the first one of each share is left out. */
const share = Math.floor(0xffff_ffff / 128)

const greeting = ({ answered, range }: Tee.Connection) => {
  const [least, end] = range ?? [0, 0]
  const { id, ...frame } = answered[0]!
  return { ids: end - least, aligned: (least - 1) % share, id, said: said({ id, ...frame }) }
}

/** The end of the input of a program that is refused may be on its way by then, or not: that is up to the schedulers too. */
const untilRefused = (asked: ReadonlyArray<Frame>, answered: ReadonlyArray<Frame>) =>
  answered.some(({ type }) => type === "core.exec.failed")
    ? asked.filter(({ type }) => type !== "core.exec.stdin")
    : asked

const observe = Effect.fn("observe")(function*(sandbox: Sandbox.Sandbox, script: Script) {
  const tee = yield* Tee.make(sandbox.name)
  const result = yield* script(sandbox)
  const connections = yield* tee.take
  return {
    result,
    connections,
    // One connection for each program.
    programs: connections.map(({ answered, asked }) => ({
      asked: conversation(untilRefused(asked, answered)),
      answered: conversation(answered.slice(1)),
      // An answer bears the id of what was asked.
      strangers: answered.slice(1).filter(({ id }) => !asked.some((frame) => frame.id === id)).length
    }))
  }
}, Effect.scoped)

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("the relay without a guest", (it) => {
  it.effect("says what the relay of a real sandbox says", () =>
    Effect.gen(function*() {
      const real = yield* Sandbox.make({ image: yield* image })
      yield* FakeRelay.make("fake")
      const fake = yield* Sandbox.connect("fake")
      for (const [title, script] of Object.entries(scripts)) {
        const [seen, shown] = [yield* observe(real, script), yield* observe(fake, script)]
        if (process.env.SHOW !== undefined) console.log(title, JSON.stringify([seen, shown], undefined, 1))
        assert.isNotEmpty(seen.connections, title)
        assert.deepStrictEqual(shown.result, seen.result, title)
        assert.deepStrictEqual(shown.programs, seen.programs, title)
        if (title === leaves) {
          assert.isDefined(looked(seen.connections))
          assert.strictEqual(looked(shown.connections), looked(seen.connections))
        }
        for (const connection of seen.connections) {
          // The one difference: the fake offers no shared memory, which the tee hides from the SDK.
          const { local_transport, ...payload } = connection.answered[0]!.payload
          assert.deepStrictEqual(shape(local_transport ?? null), { max_format: "number" })
          const answered = [{ ...connection.answered[0]!, payload }]
          assert.deepStrictEqual(greeting(shown.connections[0]!), greeting({ ...connection, answered }), title)
        }
      }
      for (const name of [real.name, "fake"]) {
        assert.deepStrictEqual(yield* RawAgent.converse(yield* Agent.connect(name)), RawAgent.conversation, name)
      }
    }).pipe(Effect.scoped))
})
