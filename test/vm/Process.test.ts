/** Whole programs, in processes of their own: signals end them, and with them everything that they began. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { endDemo } from "../support/Demo.ts"
import { isFree, layerBackend, rootDirectory, temporaryDirectory, vmProcesses } from "../support/Sandboxes.ts"

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("a program", (it) => {
  // By SIGINT it is the demo, below.
  it.effect("that is ended by SIGTERM ends its sandbox first", () =>
    Effect.gen(function*() {
      const spawner = yield* ChildProcessSpawner
      const [home, image] = [yield* temporaryDirectory, yield* rootDirectory]
      const name = "open"
      const program = yield* spawner.spawn(
        ChildProcess.make("node", ["test/support/programs/make.ts", home, image, name], { stderr: "inherit" })
      )
      const line = yield* program.stdout.pipe(Stream.decodeText, Stream.splitLines, Stream.runHead)
      assert.deepStrictEqual(line._tag === "Some" ? JSON.parse(line.value) : line, { _tag: "Made", name })
      assert.lengthOf(yield* vmProcesses(name), 1)
      const [elapsed] = yield* Effect.timed(Effect.andThen(
        Effect.sync(() => process.kill(program.pid, "SIGTERM")),
        Effect.exit(program.exitCode)
      ))
      // The promise is 5 seconds, on a CPU; an emulated one, with another beside it, gets more.
      const limit = process.env.HOST_KIND === "software" ? Duration.seconds(30) : Duration.seconds(5)
      console.log(`SIGTERM to exit: ${Duration.format(elapsed)}`)
      assert.isTrue(Duration.isLessThan(elapsed, limit), Duration.format(elapsed))
      assert.deepStrictEqual(yield* vmProcesses(name), [])
      const { reason } = yield* Effect.flip(Sandbox.get(name)).pipe(Effect.provide(Backend.layerLocal({ home })))
      assert.strictEqual(reason._tag, "SandboxNotFound")
    }))

  it.effect("that detaches its sandbox leaves it running", () =>
    Effect.gen(function*() {
      const spawner = yield* ChildProcessSpawner
      const [home, image] = [yield* temporaryDirectory, yield* rootDirectory]
      const output = yield* spawner.string(
        ChildProcess.make("node", ["test/support/programs/make.ts", home, image], {
          env: { DETACH: "yes" },
          extendEnv: true
        })
      )
      const { name } = JSON.parse(output)
      assert.lengthOf(yield* vmProcesses(name), 1)
      yield* Effect.gen(function*() {
        assert.strictEqual((yield* Sandbox.get(name)).status, "Running")
        yield* Sandbox.stop(name)
        yield* Sandbox.remove(name)
        assert.isTrue(yield* isFree(name))
      }).pipe(Effect.provide(Backend.layerLocal({ home })))
    }))

  it.effect("the demo leaves nothing when it is ended in the middle", () => endDemo("SIGINT", "tick 2"))

  it.effect("still learns of the end of its own child processes, before and after a boot", () =>
    Effect.gen(function*() {
      const spawner = yield* ChildProcessSpawner
      const code = spawner.exitCode(ChildProcess.make("sh", ["-c", "exit 4"]))
      assert.strictEqual(yield* code, 4)
      const image = yield* rootDirectory
      const early = yield* spawner.spawn(ChildProcess.make("sh", ["-c", "read line; exit 5"]))
      yield* Effect.scoped(Effect.gen(function*() {
        yield* Sandbox.make({ image })
        assert.strictEqual(yield* code, 4)
        yield* Stream.run(Stream.make(new TextEncoder().encode("\n")), early.stdin)
        assert.strictEqual(yield* early.exitCode, 5)
      }))
      assert.strictEqual(yield* code, 4)
    }))

  it.effect("is told that a file system has no user extended attributes", () =>
    Effect.gen(function*() {
      const spawner = yield* ChildProcessSpawner
      const mount = yield* temporaryDirectory
      // ramfs has none, on any kernel; a mount namespace of its own keeps it from the rest of the machine.
      const script = `mount -t ramfs none ${mount} && exec node test/support/programs/make.ts ${mount}/h ${mount}`
      const output = yield* spawner.string(ChildProcess.make("unshare", ["-rm", "sh", "-c", script]))
      const reason = JSON.parse(output)
      assert.deepStrictEqual([reason._tag, reason.path], ["HomeWithoutXattrs", `${mount}/h`])
    }))

  it.effect("that leaks a sandbox is told at the end of its engine", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const exit = yield* Effect.gen(function*() {
        const { handle, native } = yield* Backend.Backend
        yield* Effect.scoped(native.acquire(
          (token) =>
            handle.createSandbox(
              { name: "leaked", image: { _tag: "Text", text: image }, onClose: "destroy" },
              native.makeProgress(false),
              token
            ),
          // Ends the VM, and forgets the handle.
          (sandbox) => Effect.ignore(native.call((token) => sandbox.kill(token)))
        ))
      }).pipe(
        // `local`: with an engine of its own, and not with the suite's.
        Effect.provide(Backend.layerLocal({ home: yield* temporaryDirectory }), { local: true }),
        Effect.exit
      )
      assert.include(String(Exit.isFailure(exit) ? Cause.squash(exit.cause) : exit), "1 sandboxes")
    }))
})
