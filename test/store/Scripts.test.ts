/** What the scripts say on a machine that lacks something: one line that says what to do, and nothing begun. */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Path, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { temporaryDirectory } from "../support/Sandboxes.ts"

/** A checkout without node_modules, and without what a build has made. */
const freshCheckout = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const checkout = yield* temporaryDirectory
  for (
    const name of [
      "package.json",
      "package-lock.json",
      ".npmrc",
      "scripts",
      "test/host",
      "packages/native/package.json"
    ]
  ) {
    yield* fs.makeDirectory(path.join(checkout, path.dirname(name)), { recursive: true })
    yield* fs.copy(name, path.join(checkout, name))
  }
  return checkout
})

/** A folder of all of the machine's commands but some. */
const commandsWithout = Effect.fn("commandsWithout")(function*(...missing: ReadonlyArray<string>) {
  const fs = yield* FileSystem.FileSystem
  const folder = yield* temporaryDirectory
  for (const name of yield* fs.readDirectory("/usr/bin")) {
    if (!missing.includes(name)) yield* fs.symlink(`/usr/bin/${name}`, `${folder}/${name}`)
  }
  return folder
})

const run = Effect.fn("run")(function*(checkout: string, env: Record<string, string>, ...words: ReadonlyArray<string>) {
  const spawner = yield* ChildProcessSpawner
  const handle = yield* spawner.spawn(ChildProcess.make("bash", words, { cwd: checkout, env, extendEnv: true }))
  const output = yield* Stream.mkString(Stream.decodeText(handle.all))
  return { status: yield* handle.exitCode, last: output.trim().split("\n").at(-1) ?? "" }
}, Effect.scoped)

layer(NodeServices.layer, { excludeTestServices: true, timeout: "2 minutes" })("a machine", (it) => {
  it.effect("without cargo is told to install Rust", () =>
    Effect.gen(function*() {
      const checkout = yield* freshCheckout
      const { last, status } = yield* run(checkout, { PATH: yield* commandsWithout("cargo") }, "scripts/setup.sh")
      assert.strictEqual(status, 69)
      assert.match(last, /^cargo is missing: install Rust/)
    }))

  it.effect("without the npm registry is told to look at the connection", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const checkout = yield* freshCheckout
      const unreachable = {
        npm_config_registry: "http://127.0.0.1:1",
        npm_config_cache: yield* temporaryDirectory,
        npm_config_fetch_retries: "0"
      }
      const { last, status } = yield* run(checkout, unreachable, "scripts/setup.sh", "--no-native")
      assert.strictEqual(status, 1)
      assert.include(last, "the npm registry could not be reached")
      assert.isFalse(yield* fs.exists(`${checkout}/node_modules/.package-lock.json`))
    }))

  it.effect("without QEMU or a registry, and without the means to install it, is told what is missing", () =>
    Effect.gen(function*() {
      const checkout = yield* freshCheckout
      const PATH = yield* commandsWithout("qemu-system-x86_64", "docker-registry", "apt-get")
      for (const [what, missing] of [["host", "qemu-system-x86"], ["registry", "docker-registry"]] as const) {
        const { last, status } = yield* run(checkout, { PATH }, "test/host/install.sh", what)
        assert.strictEqual(status, 69)
        assert.match(last, new RegExp(`missing.*: ${missing}$`))
      }
    }))

  it.effect("is not asked for a part of the tests that does not exist", () =>
    Effect.gen(function*() {
      const { last, status } = yield* run(yield* freshCheckout, {}, "scripts/test.sh", "nonsense")
      assert.strictEqual(status, 64)
      assert.include(last, "there is no part nonsense")
    }))
})
