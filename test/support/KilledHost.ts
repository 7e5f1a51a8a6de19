/** What is left when the process that holds a sandbox is killed, in the middle of something. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { assert } from "@effect/vitest"
import { Duration, Effect, Option, Random, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as Registry from "./Registry.ts"
import { processesWith, rootDirectory, runtimeProcesses, sandboxDirectories, temporaryDirectory } from "./Sandboxes.ts"

/** The phases that programs/phase.ts knows. */
export const phases = ["pull", "boot", "exec", "pause", "branch", "branched", "stop"] as const
export type Phase = (typeof phases)[number]

/** How long a phase takes in the software host, about: the moment of the kill is chosen in this time. */
const lengths: Record<Phase, Duration.Input> = {
  pull: "4 seconds",
  boot: "5 seconds",
  exec: "1 second",
  pause: "1 second",
  branch: "4 seconds",
  branched: "1 second",
  stop: "1.5 seconds"
}

/** A pull takes its time; only a sandbox of an image can be branched. */
const imageFor = Effect.fn("imageFor")(function*(phase: Phase) {
  const { push } = yield* Registry.Registry
  const root = yield* rootDirectory
  if (phase === "pull") return yield* push("large", root, { ballast: "24 MiB" })
  return phase === "branch" || phase === "branched" ? yield* push("small", root) : root
})

/**
 * Kills a process that is in a phase, at a moment that `Random` chooses. Then within 10 seconds no process of the runtime
 * is left of it, and the next backend of that home has the name free and nothing of the dead. What the engine starts on its
 * own, a watchdog ends: a program that has to start first, which takes its time in an emulated machine.
 */
export const killIn = Effect.fn("killIn")(function*(phase: Phase) {
  const spawner = yield* ChildProcessSpawner
  const image = yield* imageFor(phase)
  const home = yield* temporaryDirectory
  const name = `killed-in-${phase}`
  const program = yield* spawner.spawn(
    ChildProcess.make("node", ["test/support/programs/phase.ts", home, image, name, phase], { stderr: "inherit" })
  )
  const entered = yield* program.stdout.pipe(Stream.decodeText, Stream.splitLines, Stream.runHead)
  assert.deepStrictEqual(entered, Option.some(phase))
  const moment = yield* Random.nextIntBetween(0, Duration.toMillis(Duration.fromInputUnsafe(lengths[phase])))
  yield* Effect.sleep(moment)
  process.kill(program.pid, "SIGKILL")
  yield* Effect.exit(program.exitCode)
  const [elapsed, gone] = yield* runtimeProcesses(home).pipe(
    Effect.delay(500),
    Effect.repeat({ until: (pids) => pids.length === 0 }),
    Effect.timeoutOption(phase === "branch" || phase === "branched" ? "3 minutes" : "10 seconds"),
    Effect.timed
  )
  const when = `${phase}, ${moment} ms`
  console.log(`killed in ${when}: its VM was gone after ${Duration.format(elapsed)}`)
  assert.isTrue(Option.isSome(gone), `${when}: ${yield* runtimeProcesses(home)}`)
  yield* Effect.gen(function*() {
    yield* Effect.scoped(Effect.gen(function*() {
      const sandbox = yield* Sandbox.make({ name, image, memory: "192 MiB" })
      assert.strictEqual((yield* sandbox.exec("true")).exitCode, 0, when)
    }))
    assert.deepStrictEqual(yield* sandboxDirectories, [], when)
    assert.deepStrictEqual(yield* runtimeProcesses(home), [], when)
  }).pipe(Effect.provide(Backend.layerLocal({ home }), { local: true }))
  // The watchdog of the dead may start to sweep the home as late as this, and would write in it while it is removed.
  const watchdogs = yield* processesWith(`\0${home}\0`).pipe(
    Effect.delay(100),
    Effect.repeat({ until: (pids) => pids.length === 0 }),
    Effect.timeoutOption("3 minutes")
  )
  assert.isTrue(Option.isSome(watchdogs), `${when}: ${yield* processesWith(`\0${home}\0`)}`)
}, Effect.scoped)
