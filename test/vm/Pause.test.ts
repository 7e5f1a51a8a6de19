/** Paused sandboxes: they stand still, start nothing, and close all the same. */
import { Backend, type MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, Ref, Stream } from "effect"
import { isFree, layerBackend, rootDirectory } from "../support/Sandboxes.ts"

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("a paused sandbox", (it) => {
  it.effect("stands still, and goes on where it was when it is resumed", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.make({ name: "still", image: yield* rootDirectory, memory: "192 MiB" })
      const counter = yield* sandbox.spawn("sh", ["-c", "while :; do echo tick; sleep 0.05; done"])
      const ticks = yield* Ref.make(0)
      yield* Effect.forkScoped(Stream.runForEach(counter.stdout, () => Ref.update(ticks, (n) => n + 1)))
      const moved = (from: number) => Effect.repeat(Effect.delay(Ref.get(ticks), 20), { until: (n) => n > from })
      yield* moved(0)
      yield* sandbox.pause()
      yield* sandbox.pause()
      assert.deepStrictEqual([yield* sandbox.status, (yield* Sandbox.get("still")).status], ["Paused", "Paused"])
      // What had been said before is read first.
      yield* Effect.sleep(1000)
      const before = yield* Ref.get(ticks)
      yield* Effect.sleep(3000)
      assert.strictEqual(yield* Ref.get(ticks), before)
      yield* sandbox.resume
      yield* sandbox.resume
      assert.strictEqual(yield* sandbox.status, "Running")
      yield* moved(before)
      assert.strictEqual((yield* sandbox.exec("echo", ["again"])).stdout, "again\n")
    }))

  it.effect("that was let go is paused, found so, and resumed by its name", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      yield* Effect.scoped(Sandbox.make({ name: "asleep", image, memory: "192 MiB", onClose: "detach" }))
      yield* Sandbox.pause("asleep")
      for (const call of [Sandbox.connect("asleep"), Sandbox.connectOrCreate({ name: "asleep", image })]) {
        assert.strictEqual((yield* Effect.flip(Effect.scoped(call))).reason._tag, "SandboxPaused")
      }
      yield* Sandbox.resume("asleep")
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.connect("asleep", { onClose: "destroy" })
        assert.strictEqual((yield* sandbox.exec("echo", ["awake"])).stdout, "awake\n")
      }))
      assert.isTrue(yield* isFree("asleep"))
    }))

  it.effect("starts no program, and says so", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.make({ name: "idle", image: yield* rootDirectory, memory: "192 MiB" })
      yield* sandbox.pause()
      const starts: ReadonlyArray<Effect.Effect<unknown, MicrosandboxError.MicrosandboxError>> = [
        sandbox.exec("true"),
        Effect.scoped(sandbox.spawn("true")),
        sandbox.shell("true")
      ]
      for (const start of starts) {
        const error = yield* Effect.flip(Effect.asVoid(start))
        assert.deepStrictEqual([error.reason._tag, error.sandbox], ["SandboxPaused", "idle"])
      }
      yield* sandbox.resume
      assert.strictEqual((yield* sandbox.exec("true")).exitCode, 0)
      const { native } = yield* Backend.Backend
      assert.strictEqual((yield* native.live).execs, 0)
    }))

  it.effect("closes with its scope, is killed by stop, and can be killed", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({ name: "closes", image, memory: "192 MiB" })
        yield* sandbox.spawn("sleep", ["1000"])
        yield* sandbox.pause()
      }))
      assert.isTrue(yield* isFree("closes"))
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({ name: "stops", image, memory: "192 MiB" })
        yield* sandbox.pause()
        // It cannot be asked, and may not be killed.
        const { reason } = yield* Effect.flip(sandbox.stop({ thenKill: false, grace: "1 second" }))
        assert.strictEqual(reason._tag, "SandboxPaused")
        assert.strictEqual(yield* sandbox.status, "Paused")
        yield* sandbox.stop()
        assert.include(["Stopped", "Crashed"], yield* sandbox.status)
        for (const late of [sandbox.pause(), sandbox.resume]) {
          assert.strictEqual((yield* Effect.flip(late)).reason._tag, "SandboxNotRunning")
        }
      }))
      assert.isTrue(yield* isFree("stops"))
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({ name: "killed", image, memory: "192 MiB", onClose: "stop" })
        yield* sandbox.pause()
        yield* sandbox.kill
        assert.include(["Stopped", "Crashed"], yield* sandbox.status)
      }))
      yield* Sandbox.remove("killed")
    }))

  it.effect("is one no more when its pause was interrupted, whenever that was", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.make({ name: "back", image: yield* rootDirectory, memory: "192 MiB" })
      for (const delay of [0, 10, 30, 60, 120, 240]) {
        const fiber = yield* Effect.forkChild(sandbox.pause())
        yield* Effect.sleep(delay)
        yield* Fiber.interrupt(fiber)
        // Unless it had been made by then.
        if ((yield* sandbox.status) === "Paused") yield* sandbox.resume
        assert.strictEqual((yield* sandbox.exec("true")).exitCode, 0, `after ${delay} ms`)
      }
    }))
})
