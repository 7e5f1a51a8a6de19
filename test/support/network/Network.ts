/** What guests reach in a network of the test's own. */
import { assert } from "@effect/vitest"
import { Context, Effect, FileSystem, Layer, Queue, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { commands } from "./Machine.ts"

export class Network extends Context.Service<Network, {
  /** Runs a scenario of `programs/network.ts`, and gives what its guests saw. */
  readonly run: (scenario: string) => Effect.Effect<any>
}>()("test/support/network/Network") {}

const make = Effect.gen(function*() {
  const spawner = yield* ChildProcessSpawner
  const fs = yield* FileSystem.FileSystem
  const home = yield* fs.makeTempDirectoryScoped({ prefix: "msb-" })
  const asked = yield* Queue.unbounded<string>()
  const answers = yield* Queue.unbounded<string>()
  const script = `${commands}; exec node test/support/programs/network.ts ${home}`
  const program = yield* spawner.spawn(
    ChildProcess.make("unshare", [process.getuid?.() === 0 ? "-n" : "-rn", "sh", "-ec", script], {
      env: { HOME: home },
      extendEnv: true,
      stderr: "inherit",
      stdin: Stream.encodeText(Stream.fromQueue(asked))
    })
  )
  yield* program.stdout.pipe(
    Stream.decodeText,
    Stream.splitLines,
    Stream.runForEach((line) => Queue.offer(answers, line)),
    Effect.ensuring(Queue.offer(answers, JSON.stringify({ failure: "the program has ended" }))),
    Effect.forkScoped
  )
  return Network.of({
    run: Effect.fn("Network.run")(function*(scenario: string) {
      yield* Queue.offer(asked, `${scenario}\n`)
      const answer = yield* Queue.take(answers)
      if (process.env.REACH_WHY !== undefined) process.stderr.write(`${answer}\n`)
      const { failure, seen } = JSON.parse(answer)
      return failure === undefined ? seen : assert.fail(failure)
    })
  })
})

/** One program for all scenarios: in an emulated machine its start alone takes many seconds. */
export const layer = Layer.effect(Network, make).pipe(Layer.orDie)
