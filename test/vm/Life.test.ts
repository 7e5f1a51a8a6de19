/** What can be done with a sandbox between its boot and its end, by its handle and by its name. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { ByteSize, Clock, DateTime, Duration, Effect, Exit, Fiber, Scope, Stream } from "effect"
import { isFree, layerBackend, rootDirectory, vmProcesses } from "../support/Sandboxes.ts"

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("a sandbox", (it) => {
  it.effect("answers a ping, counts a touch, and says what it is made of", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const sandbox = yield* Sandbox.make({
        name: "known",
        image,
        memory: "200 MiB",
        env: { COLOUR: "red" },
        labels: { purpose: "test" },
        idleTimeout: "1 hour"
      })
      assert.isTrue(Duration.isGreaterThan(yield* sandbox.ping, Duration.zero))
      const first = yield* sandbox.touch
      assert.isAbove(yield* sandbox.touch, first)
      const info = yield* sandbox.info
      assert.deepStrictEqual(
        [info.name, info.id, info.status, info.labels],
        ["known", sandbox.id, "Running", { purpose: "test" }]
      )
      for (const config of [info.config, info.activeConfig]) {
        assert.deepStrictEqual(
          [config?.image, config?.cpus, config?.env, config?.labels, config?.idleTimeout],
          [image, 1, { COLOUR: "red" }, { purpose: "test" }, Duration.hours(1)]
        )
        assert.strictEqual(config?.memory, ByteSize.fromInputUnsafe("200 MiB"))
      }
      assert.deepStrictEqual(yield* Sandbox.get("known"), yield* sandbox.info)
    }))

  it.effect("is waited for, by its handle and by its name, until it has ended", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const sandbox = yield* Sandbox.make({ name: "awaited", image })
      const waiting = yield* Effect.forkChild(
        Effect.all([sandbox.wait, sandbox.wait, Sandbox.wait("awaited")], { concurrency: "unbounded" }),
        { startImmediately: true }
      )
      yield* sandbox.exec("true")
      // A wait holds up nothing else.
      yield* sandbox.stop()
      const [one, other, byName] = yield* Fiber.join(waiting)
      assert.deepStrictEqual([one.name, one.status, one.exitCode, one.signal], ["awaited", "Stopped", 0, undefined])
      assert.isNotEmpty(one.source)
      assert.isAtMost(Math.abs(DateTime.toEpochMillis(one.observedAt) - (yield* Clock.currentTimeMillis)), 60_000)
      assert.deepStrictEqual([other.status, byName.status], ["Stopped", "Stopped"])
      assert.strictEqual((yield* sandbox.wait).status, "Stopped")
    }))

  it.effect("is waited for also by those who learn that it has been removed", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const scope = yield* Scope.make()
      const sandbox = yield* Scope.provide(Sandbox.make({ name: "mourned", image }), scope)
      const waiting = yield* Effect.forkChild(
        Effect.all([sandbox.wait, Sandbox.wait("mourned")], { concurrency: "unbounded" }),
        { startImmediately: true }
      )
      yield* sandbox.exec("true")
      yield* Scope.close(scope, Exit.void)
      const results = yield* Fiber.join(waiting)
      assert.deepStrictEqual(results.map(({ name, status }) => [name, status]), [
        ["mourned", "Stopped"],
        ["mourned", "Stopped"]
      ])
    }))

  it.effect("that is killed is told with the signal", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const sandbox = yield* Sandbox.make({ image })
      yield* sandbox.kill
      const result = yield* sandbox.wait
      assert.deepStrictEqual([result.exitCode, result.signal], [undefined, 9])
    }))

  it.effect("ends by itself when it is drained", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const sandbox = yield* Sandbox.make({ name: "drained", image })
      yield* sandbox.drain
      assert.include(["Stopped", "Crashed"], (yield* sandbox.wait).status)
      assert.lengthOf(yield* vmProcesses("drained"), 0)
      yield* sandbox.drain
      yield* Sandbox.drain("drained")
    }))

  it.effect("is the same sandbox in a new VM after a restart", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({ name: "again", image })
        yield* sandbox.shell("echo kept > /tmp/file")
        const boot = yield* sandbox.exec("cat", ["/proc/sys/kernel/random/boot_id"])
        const program = yield* sandbox.spawn("sleep", ["1000"])
        const [vm] = yield* vmProcesses("again")
        yield* sandbox.restart()
        assert.strictEqual((yield* Effect.flip(program.exitStatus)).reason._tag, "ExecSessionLost")
        assert.strictEqual((yield* sandbox.exec("cat", ["/tmp/file"])).stdout, "kept\n")
        assert.notStrictEqual((yield* sandbox.exec("cat", ["/proc/sys/kernel/random/boot_id"])).stdout, boot.stdout)
        assert.strictEqual((yield* sandbox.info).id, sandbox.id)
        assert.notInclude(yield* vmProcesses("again"), vm)
        // A stop in between is no matter.
        yield* sandbox.stop()
        yield* sandbox.restart({ grace: 0 })
        assert.strictEqual(yield* sandbox.status, "Running")
      }))
      assert.isTrue(yield* isFree("again"))
    }))

  it.effect("stays, stopped, when its restart is interrupted, and ends with its scope", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({ name: "half", image })
        for (const delay of [0, 1000, 3000]) {
          const fiber = yield* Effect.forkChild(Effect.andThen(sandbox.restart({ grace: 0 }), Effect.never))
          yield* Effect.sleep(delay)
          yield* Fiber.interrupt(fiber)
          // Interrupted in the middle of a kill, the VM has yet to go; then the catalogue and the machine say the same.
          const [status] = yield* Effect.all([sandbox.status, vmProcesses("half")]).pipe(
            Effect.delay(50),
            Effect.repeat({ until: ([status, vms]) => (status === "Running") === (vms.length === 1) })
          )
          assert.include(["Stopped", "Crashed", "Running"], status, `after ${delay} ms`)
        }
      }))
      assert.isTrue(yield* isFree("half"))
    }))

  it.effect("is connected to from elsewhere, and lets itself be used by both", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const sandbox = yield* Sandbox.make({ name: "shared", image })
      const { home } = yield* Backend.Local
      yield* Effect.scoped(Effect.gen(function*() {
        const other = yield* Sandbox.connect("shared")
        assert.strictEqual(other.id, sandbox.id)
        yield* other.shell("echo from the other > /tmp/file")
        assert.strictEqual((yield* sandbox.exec("cat", ["/tmp/file"])).stdout, "from the other\n")
      })).pipe(Effect.provide(Backend.layerLocal({ home }), { local: true }))
      // The scope of a connection lets it run on.
      assert.strictEqual((yield* sandbox.exec("true")).exitCode, 0)
      // Unless told otherwise.
      yield* Effect.scoped(Sandbox.connect("shared", { onClose: "stop" }))
      assert.strictEqual(yield* sandbox.status, "Stopped")
      assert.strictEqual((yield* Effect.flip(Sandbox.connect("shared"))).reason._tag, "SandboxNotRunning")
      assert.strictEqual((yield* Effect.flip(Sandbox.connect("nobody"))).reason._tag, "SandboxNotFound")
    }))

  it.effect("is made, connected to or started, whatever it takes to have it", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const have = Sandbox.connectOrCreate({ name: "steady", image, env: { ROUND: "one" } })
      const id = yield* Effect.scoped(Effect.gen(function*() {
        const made = yield* have
        yield* made.shell("echo kept > /tmp/file")
        yield* Effect.scoped(Effect.map(have, (found) => {
          assert.strictEqual(found.id, made.id)
        }))
        // The inner scope has only let go of what was there before it.
        assert.strictEqual(yield* made.status, "Running")
        return made.id
      }))
      assert.strictEqual((yield* Sandbox.get("steady")).status, "Stopped")
      // Its own configuration holds, not that of the options; and `onClose` is obeyed.
      yield* Effect.scoped(Effect.gen(function*() {
        const started = yield* Sandbox.connectOrCreate({
          name: "steady",
          image,
          env: { ROUND: "two" },
          onClose: "destroy"
        })
        assert.strictEqual(started.id, id)
        assert.strictEqual((yield* started.shell("cat /tmp/file; echo $ROUND")).stdout, "kept\none\n")
      }))
      assert.isTrue(yield* isFree("steady"))
    }))

  it.effect("is one, however many want to connect to it or to create it at once", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const use = Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.connectOrCreate({ name: "crowded", image, onClose: "detach" })
        assert.strictEqual((yield* sandbox.exec("true")).exitCode, 0)
        return sandbox.id
      }))
      const ids = yield* Effect.all(Array.from({ length: 8 }, () => use), { concurrency: "unbounded" })
      assert.strictEqual(new Set(ids).size, 1)
      yield* Sandbox.kill("crowded")
      yield* Sandbox.remove("crowded")
    }))

  it.effect("is restarted by its name", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      yield* Effect.scoped(Sandbox.make({ name: "renewed", image, onClose: "detach" }))
      const wrong = yield* Effect.flip(Effect.scoped(Sandbox.restart("renewed", { onClose: "keep" as "stop" })))
      assert.strictEqual(wrong.reason._tag === "InvalidConfig" ? wrong.reason.field : wrong.reason, "onClose")
      // A mistake stops nothing.
      assert.lengthOf(yield* vmProcesses("renewed"), 1)
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.restart("renewed", { onClose: "destroy", grace: 0 })
        assert.strictEqual((yield* sandbox.exec("true")).exitCode, 0)
      }))
      assert.isTrue(yield* isFree("renewed"))
    }))

  it.effect("is listed with the others, page by page, and found by its labels", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const names = ["listed-1", "listed-2", "listed-3"]
      for (const [index, name] of names.entries()) {
        yield* Effect.scoped(Sandbox.make({
          name,
          image,
          labels: { group: "listed", parity: index % 2 === 0 ? "even" : "odd" },
          onClose: "stop"
        }))
      }
      const named = (options?: Sandbox.ListOptions) =>
        Sandbox.list(options).pipe(
          Stream.map((info) => info.name),
          Stream.filter((name) => names.includes(name)),
          Stream.runCollect
        )
      const newestFirst = names.toReversed()
      assert.deepStrictEqual(yield* named(), newestFirst)
      assert.deepStrictEqual(yield* named({ pageSize: 1, labels: { group: "listed" } }), newestFirst)
      assert.deepStrictEqual(yield* named({ labels: { group: "listed", parity: "even" } }), ["listed-3", "listed-1"])
      assert.deepStrictEqual(yield* named({ labels: { group: "nothing" } }), [])
      const { reason } = yield* Effect.flip(named({ pageSize: 0 }))
      assert.strictEqual(reason._tag === "InvalidConfig" ? reason.field : reason, "pageSize")
      yield* Effect.forEach(names, Sandbox.remove, { discard: true })
    }))

  it.effect("that a scope is to end is not swept while its owner lives, and is ended as it was to be afterwards", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const { home } = yield* Backend.Local
      const sandbox = yield* Sandbox.make({ name: "owned", image })
      assert.deepStrictEqual(yield* Sandbox.sweep, { removed: [], stopped: [], failed: [] })
      assert.strictEqual((yield* sandbox.exec("true")).exitCode, 0)
      // Made in an engine that is closed before its sandbox: nobody is left who would end it.
      const scope = yield* Scope.fork(yield* Effect.scope)
      for (const [name, onClose] of [["left", "destroy"], ["kept", "stop"], ["free", "detach"]] as const) {
        yield* Sandbox.make({ name, image, onClose }).pipe(
          Scope.provide(scope),
          Effect.provide(Backend.layerLocal({ home, sweep: false }), { local: true }),
          Effect.exit
        )
      }
      assert.deepStrictEqual(yield* Sandbox.sweep, { removed: ["left"], stopped: ["kept"], failed: [] })
      assert.isTrue(yield* isFree("left"))
      assert.lengthOf(yield* vmProcesses("kept"), 0)
      assert.strictEqual((yield* Sandbox.get("kept")).status, "Stopped")
      assert.deepStrictEqual(yield* Sandbox.sweep, { removed: [], stopped: [], failed: [] })
      assert.lengthOf(yield* vmProcesses("free"), 1)
      yield* Sandbox.kill("free")
      yield* Sandbox.remove("free")
    }))

  it.effect("that was detached has no owner any more", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const { home } = yield* Backend.Local
      const exit = yield* Effect.exit(
        Effect.scoped(Effect.flatMap(Sandbox.make({ name: "given-away", image }), (sandbox) => sandbox.detach)).pipe(
          Effect.provide(Backend.layerLocal({ home, sweep: false }), { local: true })
        )
      )
      assert.isTrue(Exit.isSuccess(exit))
      assert.deepStrictEqual(yield* Sandbox.sweep, { removed: [], stopped: [], failed: [] })
      assert.lengthOf(yield* vmProcesses("given-away"), 1)
      // It stays so through a restart, which is detached as well.
      yield* Effect.scoped(Effect.flatMap(Sandbox.connect("given-away"), (sandbox) => sandbox.restart({ grace: 0 })))
      assert.lengthOf(yield* vmProcesses("given-away"), 1)
      // Started again to be destroyed, it has one.
      yield* Sandbox.kill("given-away")
      yield* Effect.scoped(Sandbox.start("given-away", { onClose: "destroy" }))
      assert.isTrue(yield* isFree("given-away"))
    }))
})
