/** What is refused before a VM is started, and what that leaves: nothing. */
import { Backend, type MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Path } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { checkoutWithoutRuntime } from "../support/Checkout.ts"
import { layerBackend, sandboxDirectories, temporaryDirectory } from "../support/Sandboxes.ts"
import { makeRow } from "../support/Store.ts"

const whyNot = (options: Sandbox.Options) =>
  Sandbox.make(options).pipe(Effect.scoped, Effect.flip, Effect.map(({ reason }) => reason))

/** Boots in a process of its own, whose environment names the runtime: the engine reads it once. */
const whyNotWith = Effect.fn("whyNotWith")(function*(env: Record<string, string>, checkout = ".") {
  const spawner = yield* ChildProcessSpawner
  const home = yield* temporaryDirectory
  const program = `${checkout}/test/support/programs/make.ts`
  const output = yield* spawner.string(
    ChildProcess.make("node", [program, home, yield* temporaryDirectory], {
      env,
      extendEnv: true
    })
  )
  return JSON.parse(output) as MicrosandboxError.Reason
})

layer(layerBackend, { excludeTestServices: true, timeout: "1 minute" })("a sandbox that cannot be", (it) => {
  it.effect("is refused by the engine with a reason, and its name stays free", () =>
    Effect.gen(function*() {
      const refused = [
        ["RootfsNotFound", { image: "/no/such/root" }],
        ["RootfsNotFound", { image: "./no/such/root" }],
        ["ImageNotCached", { image: "never-pulled", pullPolicy: "never" }],
        // Nothing listens on port 1.
        ["ImageRegistry", { image: "127.0.0.1:1/unreachable" }]
      ] as const
      for (const [tag, options] of refused) {
        assert.strictEqual((yield* whyNot({ name: "refused", ...options }))._tag, tag, JSON.stringify(options))
        assert.strictEqual((yield* Effect.flip(Sandbox.get("refused"))).reason._tag, "SandboxNotFound")
        assert.deepStrictEqual(yield* sandboxDirectories, [])
      }
    }))

  it.effect("is not found by any operation", () =>
    Effect.gen(function*() {
      for (
        const operation of [
          Sandbox.get,
          Sandbox.remove,
          Sandbox.kill,
          (name: string) => Effect.scoped(Sandbox.start(name))
        ]
      ) {
        const { reason } = yield* Effect.flip(operation("nobody"))
        assert.deepStrictEqual([reason._tag, reason._tag === "SandboxNotFound" ? reason.sandbox : reason], [
          "SandboxNotFound",
          "nobody"
        ])
        assert.strictEqual((yield* Effect.flip(operation("no/body"))).reason._tag, "InvalidConfig")
      }
    }))

  it.effect("is not connected to or created without a name, nor in the place of another", () =>
    Effect.gen(function*() {
      const image = yield* temporaryDirectory
      const rows = [
        ["name", { image } as { readonly image: string; readonly name: string }],
        ["replace", { image, name: "here", replace: true }]
      ] as const
      for (const [field, options] of rows) {
        const { reason } = yield* Effect.flip(Effect.scoped(Sandbox.connectOrCreate(options)))
        assert.strictEqual(reason._tag === "InvalidConfig" ? reason.field : reason, field)
      }
      assert.deepStrictEqual(yield* sandboxDirectories, [])
    }))

  it.effect("is not booted by a runtime of another version, or by none", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryDirectory
      const installed = "node_modules/@superradcompany/microsandbox-linux-x64-gnu"
      const [kernel = ""] = yield* fs.readDirectory(`${installed}/lib`)
      yield* fs.copyFile(`${installed}/lib/${kernel}`, `${directory}/${kernel}`)
      const msb = yield* fs.readFile(`${installed}/bin/msb`)
      // The same program but for its version, wherever that stands in it.
      const other = Buffer.from(Buffer.from(msb).toString("latin1").replaceAll("0.7.2", "0.7.9"), "latin1")
      yield* fs.writeFile(`${directory}/msb`, other, { mode: 0o755 })
      const mismatch = yield* whyNotWith({ MSB_PATH: `${directory}/msb` })
      assert.strictEqual(mismatch._tag, "RuntimeVersionMismatch")
      if (mismatch._tag === "RuntimeVersionMismatch") {
        assert.deepStrictEqual([mismatch.expected, mismatch.actual, mismatch.path], [
          "0.7.2",
          "0.7.9",
          `${directory}/msb`
        ])
      }
      assert.strictEqual((yield* whyNotWith({}, yield* checkoutWithoutRuntime))._tag, "RuntimeNotInstalled")
      assert.strictEqual((yield* whyNotWith({ MSB_PATH: "/no/such/msb" }))._tag, "RuntimeIncomplete")
      yield* fs.remove(`${directory}/${kernel}`)
      assert.strictEqual((yield* whyNotWith({ MSB_PATH: `${directory}/msb` }))._tag, "RuntimeIncomplete")
    }))

  it.effect("is not booted without KVM, and leaves nothing", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const spawner = yield* ChildProcessSpawner
      const [home, image] = [yield* temporaryDirectory, yield* temporaryDirectory]
      // In a mount namespace of its own, where the device, if there is one, is another.
      const hide = "[ ! -e /dev/kvm ] || mount --bind /dev/null /dev/kvm"
      const script = `${hide}; exec node test/support/programs/make.ts ${home} ${image}`
      const output = yield* spawner.string(ChildProcess.make("unshare", ["-rm", "sh", "-c", script]))
      assert.strictEqual(JSON.parse(output)._tag, "BootStart")
      assert.deepStrictEqual(yield* fs.readDirectory(`${home}/sandboxes`), [])
    }))
})

layer(layerBackend, { excludeTestServices: true, timeout: "1 minute" })("a sandbox that has stopped", (it) => {
  it.effect("is removed however deep its guest has made the directories of its own", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const { home } = yield* Backend.Local
      // In memory, where that can be: a disk may take its time for each directory.
      const memory = (yield* fs.exists("/dev/shm")) ? "/dev/shm" : undefined
      const place = yield* fs.makeTempDirectoryScoped({ directory: memory, prefix: "msb-" })
      yield* fs.remove(path.join(home, "sandboxes"), { force: true, recursive: true })
      yield* fs.symlink(place, path.join(home, "sandboxes"))
      yield* makeRow("deep", "Stopped", { name: "deep" })
      const data = path.join(home, "sandboxes/deep/owned-volumes/of-a-mount/data")
      yield* fs.makeDirectory(path.join(data, "bottom"), { recursive: true })
      // 20,000 directories, each in the one before: a path has not room for all of them at once.
      let below = "bottom"
      for (let round = 0; round < 80; round++) {
        const above = path.join(data, `${round}`, "d/".repeat(250))
        yield* fs.makeDirectory(above, { recursive: true })
        yield* fs.rename(path.join(data, below), path.join(above, "below"))
        below = `${round}`
      }
      yield* makeRow("running", "Running", { name: "running" })
      const kept = path.join(home, "sandboxes/running/owned-volumes/of-a-mount/data", "d/".repeat(1000))
      yield* fs.makeDirectory(kept, { recursive: true })
      yield* Sandbox.remove("deep")
      assert.deepStrictEqual(yield* sandboxDirectories, ["running"])
      // What runs is as its guest has made it.
      assert.strictEqual((yield* Effect.flip(Sandbox.remove("running"))).reason._tag, "SandboxStillRunning")
      assert.isTrue(yield* fs.exists(kept))
    }).pipe(Effect.scoped))
})
