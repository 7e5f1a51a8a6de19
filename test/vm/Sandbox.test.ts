/** The life of real sandboxes: what a scope begins, it ends. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, FileSystem, Path, Scope, Stream } from "effect"
import { isFree, layerBackend, rootDirectory, temporaryDirectory, vmProcesses } from "../support/Sandboxes.ts"

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("a sandbox", (it) => {
  it.effect("is stopped and removed with its scope, and its name can be used again", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      for (const round of [1, 2]) {
        yield* Effect.scoped(Effect.gen(function*() {
          const sandbox = yield* Sandbox.make({ name: "again", image, labels: { round: String(round) } })
          assert.strictEqual((yield* sandbox.exec("hostname")).stdout, "again\n")
          assert.lengthOf(yield* vmProcesses("again"), 1)
          const info = yield* Sandbox.get("again")
          assert.deepStrictEqual([info.id, info.status, info.labels.round], [sandbox.id, "Running", String(round)])
        }))
        assert.isTrue(yield* isFree("again"))
      }
    }))

  it.effect("cannot take a name that another has, and leaves the other alone", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const first = yield* Sandbox.make({ name: "taken", image })
      const error = yield* Effect.flip(Effect.scoped(Sandbox.make({ name: "taken", image })))
      assert.deepStrictEqual(error.reason._tag === "SandboxAlreadyExists" ? error.reason.sandbox : error, "taken")
      assert.strictEqual((yield* first.exec("true")).exitCode, 0)
      // Stopped, and so without a VM that would protect it from a roll-back by name.
      yield* first.stop()
      const again = yield* Effect.flip(Effect.scoped(Sandbox.make({ name: "taken", image })))
      assert.strictEqual(again.reason._tag, "SandboxAlreadyExists")
      assert.strictEqual((yield* Sandbox.get("taken")).id, first.id)
    }))

  it.effect("leaves no name, directory or process when its boot is interrupted, whenever that is", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      for (const delay of [0, 20, 100, 300, 1000, 2500]) {
        const booting = Effect.andThen(Sandbox.make({ name: "early", image }), Effect.never)
        const fiber = yield* Effect.forkChild(Effect.scoped(booting))
        yield* Effect.sleep(delay)
        yield* Fiber.interrupt(fiber)
        assert.isTrue(yield* isFree("early"), `after ${delay} ms`)
      }
      // And the name is good for another.
      yield* Effect.scoped(Sandbox.make({ name: "early", image }))
    }))

  it.effect("keeps its disk and name when its scope only stops it, and starts again", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({ name: "kept", image, shell: "/bin/ash", onClose: "stop" })
        yield* sandbox.shell("echo kept > /tmp/file")
      }))
      assert.strictEqual((yield* Sandbox.get("kept")).status, "Stopped")
      assert.lengthOf(yield* vmProcesses("kept"), 0)
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.start("kept")
        assert.strictEqual((yield* sandbox.exec("cat", ["/tmp/file"])).stdout, "kept\n")
        // Its scripts still run in its own shell.
        assert.strictEqual(
          (yield* sandbox.shell("tr '\\0' ' ' < /proc/$$/cmdline | cut -d ' ' -f 1")).stdout,
          "/bin/ash\n"
        )
        const { reason } = yield* Effect.flip(Sandbox.remove("kept"))
        assert.strictEqual(reason._tag, "SandboxStillRunning")
      }))
      assert.strictEqual((yield* Sandbox.get("kept")).status, "Stopped")
      yield* Sandbox.remove("kept")
      assert.isTrue(yield* isFree("kept"))
    }))

  it.effect("stays, stopped, when its start is interrupted", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      yield* Effect.scoped(Sandbox.make({ name: "slow", image, onClose: "stop" }))
      for (const delay of [0, 300, 1500]) {
        const fiber = yield* Effect.forkChild(Effect.scoped(Effect.andThen(Sandbox.start("slow"), Effect.never)))
        yield* Effect.sleep(delay)
        yield* Fiber.interrupt(fiber)
        assert.lengthOf(yield* vmProcesses("slow"), 0, `after ${delay} ms`)
        assert.include(["Stopped", "Crashed"], (yield* Sandbox.get("slow")).status, `after ${delay} ms`)
      }
      const sandbox = yield* Sandbox.start("slow", { onClose: "destroy" })
      assert.strictEqual((yield* sandbox.exec("true")).exitCode, 0)
    }))

  it.effect("lives on when it is detached, and can be killed by name", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      // Detached later, or from the start.
      yield* Effect.scoped(Effect.flatMap(Sandbox.make({ name: "let-go", image }), (sandbox) => sandbox.detach))
      assert.lengthOf(yield* vmProcesses("let-go"), 1)
      yield* Sandbox.stop("let-go")
      assert.strictEqual((yield* Sandbox.get("let-go")).status, "Stopped")
      yield* Sandbox.stop("let-go")
      yield* Sandbox.remove("let-go")
      assert.isTrue(yield* isFree("let-go"))
      yield* Effect.scoped(Sandbox.make({ name: "free", image, onClose: "detach" }))
      assert.lengthOf(yield* vmProcesses("free"), 1)
      assert.strictEqual((yield* Sandbox.get("free")).status, "Running")
      yield* Sandbox.kill("free")
      assert.lengthOf(yield* vmProcesses("free"), 0)
      yield* Sandbox.remove("free")
      assert.isTrue(yield* isFree("free"))
    }))

  it.effect("can be stopped, killed and stopped again before its scope closes", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({ name: "ended", image })
        const { reason } = yield* Effect.flip(sandbox.stop({ grace: "-1 seconds" }))
        assert.strictEqual(reason._tag, "InvalidConfig")
        yield* sandbox.stop({ grace: 0 })
        yield* sandbox.stop()
        yield* sandbox.kill
        assert.include(["Stopped", "Crashed"], yield* sandbox.status)
        const afterwards = yield* Effect.flip(sandbox.exec("true"))
        assert.strictEqual(afterwards.reason._tag, "SandboxNotRunning")
      }))
      assert.isTrue(yield* isFree("ended"))
    }))

  it.effect("dies with a program in it, and that program's readers are told, each of them", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const sandbox = yield* Sandbox.make({ name: "killed", image })
      const program = yield* sandbox.spawn("sh", ["-c", "echo on; sleep 1000"])
      yield* Stream.runHead(program.stdout)
      yield* sandbox.kill
      for (const reader of [program.exitStatus, Stream.runDrain(program.stdout), program.exitStatus]) {
        assert.strictEqual((yield* Effect.flip(reader)).reason._tag, "ExecSessionLost")
      }
    }))

  it.effect("is not killed by a stop that may not kill", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const sandbox = yield* Sandbox.make({ name: "spared", image })
      for (const stop of [sandbox.stop, (options: Sandbox.StopOptions) => Sandbox.stop("spared", options)]) {
        const { reason } = yield* Effect.flip(stop({ grace: 0, thenKill: false }))
        assert.strictEqual(reason._tag, "StopTimeout")
      }
      assert.strictEqual((yield* sandbox.exec("true")).exitCode, 0)
    }))

  it.effect("has what it was made of", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const sandbox = yield* Sandbox.make({
        image,
        cpus: 1,
        memory: "300 MiB",
        hostname: "made",
        user: "nobody",
        workdir: "/etc",
        shell: "/bin/ash",
        env: { COLOUR: "red" },
        labels: { purpose: "test" },
        logLevel: "info",
        maxDuration: "1 hour",
        idleTimeout: "1 hour"
      })
      const { stdout } = yield* sandbox.shell("nproc; hostname; id -u; pwd; echo $COLOUR; grep MemTotal /proc/meminfo")
      const lines = stdout.trim().split("\n")
      assert.deepStrictEqual(lines.slice(0, 5), ["1", "made", "65534", "/etc", "red"])
      const kibibytes = Number(lines[5]?.match(/\d+/)?.[0])
      // The engine rounds up, and the kernel keeps some; the default is 512 MiB.
      assert.isTrue(kibibytes > 250 * 1024 && kibibytes < 350 * 1024, stdout)
      assert.deepStrictEqual((yield* Sandbox.get(sandbox.name)).labels, { purpose: "test" })
    }))

  it.effect("ends also when its backend has been closed before it, and that is told as a leak", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const home = yield* temporaryDirectory
      const scope = yield* Scope.make()
      const exit = yield* Sandbox.make({ name: "late", image }).pipe(
        Scope.provide(scope),
        // `local`: an engine of its own, closed at the end of this effect.
        Effect.provide(Backend.layerLocal({ home }), { local: true }),
        Effect.exit
      )
      assert.include(String(Exit.isFailure(exit) ? Cause.squash(exit.cause) : exit), "1 sandboxes")
      assert.lengthOf(yield* vmProcesses("late"), 1)
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(yield* isFree("late").pipe(Effect.provide(Backend.layerLocal({ home }))))
    }))

  it.effect("is one of two of the same name in two backends at once", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const other = yield* temporaryDirectory
      const path = yield* Path.Path
      const fs = yield* FileSystem.FileSystem
      let up = 0
      const use = Effect.fn("use")(function*(mark: string) {
        const { home } = yield* Backend.Local
        const sandbox = yield* Sandbox.make({ name: "twin", image, env: { MARK: mark } })
        // Both are up at once.
        up++
        yield* Effect.sync(() => up).pipe(Effect.delay(10), Effect.repeat({ until: (count) => count === 2 }))
        assert.isTrue(yield* fs.exists(path.join(home, "sandboxes/twin")))
        return (yield* sandbox.shell("echo $MARK")).stdout
      }, Effect.scoped)
      const outputs = yield* Effect.all([
        use("one"),
        Effect.provide(use("two"), Backend.layerLocal({ home: other }))
      ], { concurrency: 2 })
      assert.deepStrictEqual(outputs, ["one\n", "two\n"])
      assert.isTrue(yield* isFree("twin"))
    }))
})
