/** The engine as a service: what it refuses, cancels, waits for, and says at its end. */
import { Native } from "@effect-microsandbox/native"
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, FileSystem, Layer, Logger, Path, Result, Scope } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as net from "node:net"
import { Worker } from "node:worker_threads"
import { temporaryDirectory } from "../support/Sandboxes.ts"

const openBackend = Effect.fn("openBackend")(function*(
  native: Native.Native["Service"],
  release: (backend: Native.Backend) => Effect.Effect<void> = (backend) => Effect.promise(() => backend.close())
) {
  const home = yield* temporaryDirectory
  return yield* native.acquire((token) => native.engine.openLocal({ home }, token), release)
})

/** A server on loopback that takes connections and never says a word; knows the ones that are open. */
const silentServer = Effect.gen(function*() {
  const connected = yield* Deferred.make<void>()
  const open = new Set<net.Socket>()
  const server = yield* Effect.acquireRelease(
    Effect.callback<net.Server>((resume) => {
      const server = net.createServer((socket) => {
        open.add(socket)
        socket.on("error", () => {}).on("data", () => {}).on("close", () => open.delete(socket))
        Deferred.doneUnsafe(connected, Exit.void)
      })
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.callback<void>((resume) => {
        for (const socket of open) socket.destroy()
        server.close(() => resume(Effect.void))
      })
  )
  return {
    port: (server.address() as net.AddressInfo).port,
    connected: Deferred.await(connected),
    /** Waits until the other side has closed every connection. */
    silence: Effect.sync(() => open.size).pipe(Effect.delay(10), Effect.repeat({ until: (count) => count === 0 }))
  }
})

/** A call that hangs: a create whose registry is silent. */
const hangingCreate = (native: Native.Native["Service"], backend: Native.Backend, port: number) =>
  native.call((token) =>
    backend.createSandbox(
      { name: "hangs", image: { _tag: "Oci", reference: `127.0.0.1:${port}/hangs:1` }, onClose: "destroy" },
      native.makeProgress(false),
      token
    )
  )

layer(NodeServices.layer, { excludeTestServices: true })("the engine", (it) => {
  it.effect("counts what is alive, and nothing is when its users have given it back", () =>
    Effect.gen(function*() {
      const native = yield* Native.Native
      assert.deepStrictEqual(yield* native.live, { backends: 0, sandboxes: 0, execs: 0, logs: 0, files: 0, calls: 0 })
      yield* Effect.scoped(Effect.gen(function*() {
        yield* openBackend(native)
        assert.strictEqual((yield* native.live).backends, 1)
      }))
      assert.strictEqual((yield* native.live).backends, 0)
    }).pipe(Effect.provide(Native.layer)))

  it.effect("dies of a handle that is alive at its end, or warns of it in production", () =>
    Effect.gen(function*() {
      const leak = (policy: "die" | "warn") => {
        const messages: Array<unknown> = []
        const logger = Logger.make(({ logLevel, message }) => {
          messages.push([logLevel, message])
        })
        return Effect.gen(function*() {
          const native = yield* Native.Native
          yield* Effect.scoped(openBackend(native, () => Effect.void))
        }).pipe(
          Effect.provide(Native.layer),
          Effect.provideService(Native.LeakPolicy, policy),
          Effect.provide(Logger.layer([logger])),
          Effect.exit,
          Effect.map((exit) => ({ exit, messages: JSON.stringify(messages) }))
        )
      }
      const died = yield* leak("die")
      assert.isTrue(Exit.isFailure(died.exit) && Cause.hasDies(died.exit.cause))
      assert.include(String(Exit.isFailure(died.exit) ? Cause.squash(died.exit.cause) : ""), "1 backends")
      const warned = yield* leak("warn")
      assert.isTrue(Exit.isSuccess(warned.exit))
      assert.include(warned.messages, "1 backends")
      assert.include(warned.messages, "Warn")
    }))

  it.effect("refuses calls when it is closed", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const native = Context.get(yield* Layer.buildWithScope(Native.layer, scope), Native.Native)
      yield* Scope.close(scope, Exit.void)
      const error = yield* Effect.flip(openBackend(native))
      assert.strictEqual(error._tag === "NativeError" ? error.failure._tag : error, "EngineClosed")
    }))

  it.effect("refuses calls on a handle that was given back", () =>
    Effect.gen(function*() {
      const native = yield* Native.Native
      const backend = yield* Effect.scoped(openBackend(native))
      const { failure } = yield* Effect.flip(native.call((token) => backend.getSandbox("any", token)))
      assert.deepStrictEqual([failure._tag, failure._tag === "HandleClosed" ? failure.kind : ""], [
        "HandleClosed",
        "backend"
      ])
      // Giving back twice is giving back.
      yield* Effect.promise(() => backend.close())
    }).pipe(Effect.provide(Native.layer)))

  it.effect("cancels a call with the fiber that made it, and answers when the work has stopped", () =>
    Effect.gen(function*() {
      const native = yield* Native.Native
      const backend = yield* openBackend(native)
      const server = yield* silentServer
      const fiber = yield* Effect.forkChild(hangingCreate(native, backend, server.port))
      yield* server.connected
      assert.strictEqual((yield* native.live).calls, 1)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual((yield* native.live).calls, 0)
      // The download's connection goes with it.
      yield* server.silence
      const { failure } = yield* Effect.flip(native.call((token) => backend.getSandbox("hangs", token)))
      assert.strictEqual(failure._tag, "SandboxNotFound")
    }).pipe(Effect.scoped, Effect.provide(Native.layer)))

  it.effect("cancels what is in flight when it closes, and waits for it", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const native = Context.get(yield* Layer.buildWithScope(Native.layer, scope), Native.Native)
      const backend = yield* openBackend(native, () => Effect.void)
      const server = yield* silentServer
      const fiber = yield* Effect.forkChild(Effect.result(hangingCreate(native, backend, server.port)))
      yield* server.connected
      yield* Effect.promise(() => backend.close())
      yield* Scope.close(scope, Exit.void)
      const result = yield* Fiber.join(fiber)
      assert.isTrue(Result.isFailure(result) && result.failure.failure._tag === "EngineClosed")
    }))

  it.effect("takes an argument of the wrong type for a bug, not for a failure", () =>
    Effect.gen(function*() {
      const native = yield* Native.Native
      const exit = yield* Effect.exit(native.call((token) => native.engine.openLocal({ home: 7 as never }, token)))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
    }).pipe(Effect.provide(Native.layer)))

  it.effect("works in a worker, and a worker that is ended in the middle of a call takes the call with it", () =>
    Effect.gen(function*() {
      const server = yield* silentServer
      const home = yield* temporaryDirectory
      const worker = new Worker(new URL("../support/programs/hang.ts", import.meta.url), {
        argv: [home, `127.0.0.1:${server.port}/hangs:1`]
      })
      yield* server.connected
      yield* Effect.promise(() => worker.terminate())
      yield* server.silence
      const live = yield* Effect.scoped(Effect.gen(function*() {
        const native = yield* Native.Native
        yield* openBackend(native)
        return yield* native.live
      })).pipe(Effect.provide(Native.layer))
      assert.strictEqual(live.backends, 1)
    }))
})

/** A copy of the package's sources, with what a test changes in it. */
const copyOfPackage = Effect.fn("copyOfPackage")(
  function*(change: { readonly version?: string; readonly addon: boolean }) {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const original = path.resolve("packages/native")
    const copy = yield* temporaryDirectory
    yield* fs.copy(path.join(original, "src"), path.join(copy, "src"))
    if (change.addon) yield* fs.symlink(path.join(original, "binding"), path.join(copy, "binding"))
    yield* fs.symlink(path.resolve("node_modules"), path.join(copy, "node_modules"))
    const manifest = JSON.parse(yield* fs.readFileString(path.join(original, "package.json")))
    yield* fs.writeFileString(
      path.join(copy, "package.json"),
      JSON.stringify({ ...manifest, version: change.version ?? manifest.version })
    )
    return copy
  }
)

/** Builds the layer of a package in a process of its own and answers with the failure. */
const loadFailure = Effect.fn("loadFailure")(function*(root: string, ...options: ReadonlyArray<string>) {
  const spawner = yield* ChildProcessSpawner
  const output = yield* spawner.string(
    ChildProcess.make("node", [...options, "test/support/programs/load.ts", root])
  )
  return JSON.parse(output) as Native.Failure
})

layer(NodeServices.layer, { excludeTestServices: true, timeout: "1 minute" })("an addon", (it) => {
  it.effect("that is missing is told with the package that has it", () =>
    Effect.gen(function*() {
      const failure = yield* loadFailure(yield* copyOfPackage({ addon: false }))
      assert.strictEqual(failure._tag, "AddonMissing")
      assert.include(failure.message, "@effect-microsandbox/native-")
    }))

  it.effect("that does not exist for the platform is told with the platforms that have one", () =>
    Effect.gen(function*() {
      const riscv = "data:text/javascript,Object.defineProperty(process,'arch',{value:'riscv64'})"
      const failure = yield* loadFailure(yield* copyOfPackage({ addon: true }), "--import", riscv)
      assert.strictEqual(failure._tag, "AddonMissing")
      assert.include(failure.message, "linux-riscv64")
      assert.include(failure.message, "linux-x64")
    }))

  it.effect("of another version is refused", () =>
    Effect.gen(function*() {
      const failure = yield* loadFailure(yield* copyOfPackage({ addon: true, version: "9.9.9" }))
      assert.strictEqual(failure._tag, "AddonMismatch")
      assert.include(failure.message, "9.9.9")
    }))
})
