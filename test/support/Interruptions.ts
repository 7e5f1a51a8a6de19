/** Interruptions at moments that `Random` chooses, in every phase of a sandbox's life, and what each leaves: nothing. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { assert } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Random } from "effect"
import * as v8 from "node:v8"
import * as vm from "node:vm"
import * as Registry from "./Registry.ts"
import { isFree, rootDirectory, runtimeProcesses, sandboxDirectories } from "./Sandboxes.ts"

/** What is interrupted, in turn. A close ends the sandbox that the programs and the branches are of. */
const turns = ["make", "exec", "branch", "exec", "make", "exec", "branch", "close"] as const

/** Interrupts an effect after some milliseconds, fewer than `longest`, and waits for its end. Answers with the number. */
const interruptWithin = Effect.fn("interruptWithin")(
  function*<A, E, R>(longest: number, effect: Effect.Effect<A, E, R>) {
    const moment = yield* Random.nextIntBetween(0, longest)
    const fiber = yield* Effect.forkChild(effect)
    yield* Effect.sleep(moment)
    yield* Fiber.interrupt(fiber)
    return moment
  }
)

/** The memory of this process that is still in use, in bytes. */
export const residentMemory = Effect.sync(() => {
  v8.setFlagsFromString("--expose-gc")
  vm.runInNewContext("gc")()
  return process.memoryUsage.rss()
})

/** A sandbox that lives until it is told to close, and then tells when that has begun. */
const makeParent = Effect.fn("makeParent")(function*(image: string) {
  const made = yield* Deferred.make<Sandbox.Sandbox>()
  const leave = yield* Deferred.make<void>()
  const life = Effect.gen(function*() {
    yield* Deferred.succeed(made, yield* Sandbox.make({ name: "parent", image, memory: "192 MiB" }))
    yield* Deferred.await(leave)
  })
  const fiber = yield* Effect.forkChild(Effect.scoped(life))
  const sandbox = yield* Effect.raceFirst(Deferred.await(made), Effect.andThen(Fiber.join(fiber), Effect.never))
  const close = Effect.andThen(Deferred.succeed(leave, undefined), Fiber.await(fiber))
  return { sandbox, fiber, close }
})

/**
 * So many interruptions, of a make, a program, a branch and a close in turn. After each the engine holds no handle of what
 * was interrupted, no process of the runtime is left of it, and its name is free; in the end of 100 or more this process has
 * no more memory than after the first `warmUp`, but for a tenth.
 */
export const interruptions = Effect.fn("interruptions")(function*(rounds: number, warmUp: number) {
  // Of an image: only such a sandbox can be branched.
  const registry = yield* Registry.Registry
  const image = yield* registry.push("interrupted", yield* rootDirectory)
  const { home } = yield* Backend.Local
  const { native } = yield* Backend.Backend
  const times: Record<string, Array<number>> = {}
  let before = 0
  let parent: Effect.Success<ReturnType<typeof makeParent>> | undefined

  const left = Effect.all({
    live: native.live,
    processes: Effect.map(runtimeProcesses(home), (pids) => pids.length),
    directories: sandboxDirectories
  })
  // The backend, and nothing else.
  const idle = yield* native.live
  const expected = () =>
    parent === undefined
      ? { live: idle, processes: 0, directories: [] }
      : { live: { ...idle, sandboxes: 1 }, processes: 1, directories: ["parent"] }

  const round = {
    make: Effect.gen(function*() {
      const moment = yield* interruptWithin(
        6000,
        Effect.scoped(Effect.andThen(Sandbox.make({ name: "early", image, memory: "192 MiB" }), Effect.never))
      )
      assert.isTrue(yield* isFree("early"), `make, ${moment} ms`)
      assert.deepStrictEqual(yield* left, expected(), `make, ${moment} ms`)
    }),
    exec: Effect.gen(function*() {
      parent ??= yield* makeParent(image)
      const moment = yield* interruptWithin(400, parent.sandbox.shell("sleep 9876 & sleep 9876"))
      assert.deepStrictEqual(yield* left, expected(), `exec, ${moment} ms`)
      assert.notInclude((yield* parent.sandbox.exec("ps", ["-o", "args"])).stdout, "9876", `exec, ${moment} ms`)
    }),
    branch: Effect.gen(function*() {
      parent ??= yield* makeParent(image)
      const moment = yield* interruptWithin(
        4000,
        Effect.scoped(Effect.andThen(parent.sandbox.branch(), Effect.never))
      )
      assert.deepStrictEqual(yield* left, expected(), `branch, ${moment} ms`)
      assert.strictEqual((yield* parent.sandbox.exec("true")).exitCode, 0, `branch, ${moment} ms`)
    }),
    close: Effect.gen(function*() {
      const { close, fiber } = parent ?? (yield* makeParent(image))
      parent = undefined
      const moment = yield* Random.nextIntBetween(0, 1500)
      yield* Effect.forkChild(close)
      yield* Effect.sleep(moment)
      yield* Fiber.interrupt(fiber)
      assert.isTrue(yield* isFree("parent"), `close, ${moment} ms`)
      assert.deepStrictEqual(yield* left, expected(), `close, ${moment} ms`)
    })
  }

  for (let index = 0; index < rounds; index++) {
    if (index === warmUp) before = yield* residentMemory
    const kind = turns[index % turns.length]!
    const [elapsed] = yield* Effect.timed(round[kind])
    ;(times[kind] ??= []).push(Duration.toSeconds(elapsed))
  }
  const after = yield* residentMemory
  for (const [kind, seconds] of Object.entries(times)) {
    console.log(`${kind}: ${seconds.length} interruptions, ${seconds.reduce((sum, each) => sum + each).toFixed(1)} s`)
  }
  console.log(`memory: ${(before / 2 ** 20).toFixed(1)} MiB before, ${(after / 2 ** 20).toFixed(1)} MiB after`)
  // A few rounds say nothing: what is done for the first time after the warm-up counts for too much.
  if (rounds >= 100) assert.isAtMost(after, before * 1.1)
})
