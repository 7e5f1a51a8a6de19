/** The logs of real sandboxes. */
import { type Logs, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Deferred, Effect, Fiber, Stream } from "effect"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"

const textOf = (entries: ReadonlyArray<Logs.Entry>, source: Logs.Source) =>
  entries.filter((entry) => entry.source === source).map(({ text }) => text).join("")

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("the logs of a sandbox", (it) => {
  it.effect("have what its programs print, as they print it, until it stops, and after that", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const whole = yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({ name: "logged", image, onClose: "stop" })
        const printed = yield* Deferred.make<Logs.Entry>()
        const follower = yield* Effect.forkChild(Stream.runCollect(Stream.tap(
          sandbox.logStream({ follow: true, sources: ["stdout", "stderr"] }),
          (entry) => entry.text === "first\n" ? Deferred.succeed(printed, entry) : Effect.void
        )))
        const program = yield* sandbox.spawn("sh", ["-c", "echo first; read line; echo $line; echo wrong >&2"], {
          stdin: "pipe"
        })
        // It is in the log while the program still runs.
        const { sessionId, source } = yield* Deferred.await(printed)
        assert.strictEqual(source, "stdout")
        assert.isNumber(sessionId)
        yield* Stream.run(Stream.make("second\n"), program.stdin)
        yield* program.exitStatus
        yield* sandbox.shell("echo other")
        const entries = yield* sandbox.logs()
        assert.strictEqual(textOf(entries, "stdout"), "first\nsecond\nother\n")
        assert.strictEqual(textOf(entries, "stderr"), "wrong\n")
        // One number for each program.
        const sessions = new Map(entries.map(({ sessionId, text }) => [text, sessionId]))
        assert.strictEqual(sessions.get("wrong\n"), sessionId)
        assert.notStrictEqual(sessions.get("other\n"), sessionId)
        assert.deepStrictEqual((yield* sandbox.logs({ tail: 1 })).map(({ text }) => text), ["other\n"])
        yield* sandbox.stop()
        return yield* Fiber.join(follower)
      }))
      assert.strictEqual(textOf(whole, "stdout"), "first\nsecond\nother\n")
      assert.strictEqual(textOf(whole, "stderr"), "wrong\n")
      const afterwards = yield* Sandbox.logs("logged")
      assert.strictEqual(textOf(afterwards, "stdout"), "first\nsecond\nother\n")
      const system = yield* Sandbox.logs("logged", { sources: ["system"] })
      assert.isNotEmpty(system)
      const rest = yield* Stream.runCollect(Sandbox.logStream("logged", {
        sources: ["stdout", "stderr"],
        cursor: whole[0]!.cursor,
        follow: true
      }))
      assert.deepStrictEqual(rest.map(({ text }) => text), whole.slice(1).map(({ text }) => text))
      yield* Sandbox.remove("logged")
    }))

  it.effect("end for their follower when the sandbox is killed, or ends with its scope", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      for (const kill of [true, false]) {
        const entries = yield* Effect.scoped(Effect.gen(function*() {
          const sandbox = yield* Sandbox.make({ name: "ended", image })
          const started = yield* Deferred.make<void>()
          // Not of the sandbox's scope: it must end by itself.
          const follower = yield* Effect.forkDetach(Stream.runCollect(Stream.tap(
            sandbox.logStream({ follow: true }),
            () => Deferred.succeed(started, undefined)
          )))
          yield* sandbox.shell("echo on")
          yield* Deferred.await(started)
          if (kill) yield* sandbox.kill
          return follower
        }))
        assert.strictEqual(textOf(yield* Fiber.join(entries), "stdout"), "on\n")
      }
    }))
})
