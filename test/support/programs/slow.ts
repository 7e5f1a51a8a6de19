/**
 * Reads a program's output late, in a process of its own, and prints by how much its memory has grown and what came.
 *
 *     slow.ts <home> <sandbox> <bytes> <seconds> <mark> <command> [args...]
 *
 * While it sleeps, another program of the sandbox has to answer.
 */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Effect, Stream } from "effect"
import type * as ByteSize from "effect/ByteSize"
import * as crypto from "node:crypto"

const [home = "", name = "", bytes = "", seconds = "", highWater = "", command = "", ...args] = process.argv.slice(2)

const program = Effect.gen(function*() {
  const sandbox = yield* Sandbox.connect(name)
  const echo = Effect.map(sandbox.exec("echo", ["hello"]), ({ stdout }) => stdout.trim())
  yield* echo
  global.gc?.()
  const before = process.memoryUsage.rss()
  let most = before
  const look = setInterval(() => {
    most = Math.max(most, process.memoryUsage.rss())
  }, 50)
  const slow = yield* sandbox.spawn(command, args, { highWater: highWater as ByteSize.Input })
  yield* Effect.sleep(`${Number(seconds) / 2} seconds`)
  const answer = yield* echo
  yield* Effect.sleep(`${Number(seconds) / 2} seconds`)
  const hash = crypto.createHash("sha256")
  let [got, collected] = [0, 0]
  yield* Stream.runForEach(slow.stdout, (chunk) =>
    Effect.sync(() => {
      hash.update(chunk)
      got += chunk.length
      // What was read and dropped is garbage, of which V8 lets many MiB come together: it is not what is measured.
      if (got - collected >= 1 << 20) {
        collected = got
        global.gc?.({ type: "minor" })
      }
    }))
  clearInterval(look)
  const { exitCode } = yield* slow.exitStatus
  yield* Console.log(JSON.stringify({
    growth: most - before,
    complete: got === Number(bytes),
    sha256: hash.digest("hex"),
    answer,
    exitCode
  }))
})

Effect.scoped(program).pipe(Effect.provide(Backend.layerLocal({ home })), NodeRuntime.runMain)
