/** The packages as a user installs them: packed, in a project of their own, with no sources and no Rust. */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Path, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { temporaryDirectory } from "../support/Sandboxes.ts"

const run = Effect.fn("run")(function*(cwd: string, command: string, ...args: ReadonlyArray<string>) {
  const spawner = yield* ChildProcessSpawner
  const handle = yield* spawner.spawn(ChildProcess.make(command, args, { cwd, stderr: "inherit" }))
  const output = yield* Stream.mkString(Stream.decodeText(handle.stdout))
  assert.strictEqual(yield* handle.exitCode, 0, `${command} ${args.join(" ")}\n${output}`)
  return output.trim()
}, Effect.scoped)

/** Packs a package of a checkout and unpacks it where a package manager would put it. */
const install = Effect.fn("install")(function*(folder: string, name: string, project: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const tarball = (yield* run(folder, "npm", "pack", "--silent")).split("\n").at(-1) ?? ""
  const target = path.join(project, "node_modules", name)
  yield* fs.makeDirectory(target, { recursive: true })
  yield* run(folder, "tar", "xzf", tarball, "-C", target, "--strip-components=1")
  return target
})

layer(NodeServices.layer, { excludeTestServices: true })("the packages", (it) => {
  it.effect("work as they are published", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const packages = ["packages/native", "packages/core", "packages/ssh"]
      yield* run(".", "tsc", "-b", "--force", ...packages)
      yield* run(".", "node", "scripts/bundle.ts", ...packages)

      // What `npm publish` sees: a copy, because packing writes to package.json.
      const checkout = yield* temporaryDirectory
      for (const name of ["native", "core", "ssh"]) {
        for (const part of ["package.json", "LICENSE", "src", "dist", "bundle"]) {
          yield* fs.copy(`packages/${name}/${part}`, path.join(checkout, "packages", name, part))
        }
      }
      yield* fs.copy("scripts", path.join(checkout, "scripts"))
      const platform = path.join(checkout, "packages/native/npm/linux-x64-gnu")
      yield* fs.copy("packages/native/npm/linux-x64-gnu", platform)
      const addon = "effect-microsandbox.linux-x64-gnu.node"
      yield* fs.copyFile(`packages/native/binding/${addon}`, path.join(platform, addon))

      const project = yield* temporaryDirectory
      const native = yield* install(path.join(checkout, "packages/native"), "@effect-microsandbox/native", project)
      const core = yield* install(path.join(checkout, "packages/core"), "@effect-microsandbox/core", project)
      yield* install(path.join(checkout, "packages/ssh"), "@effect-microsandbox/ssh", project)
      yield* install(platform, "@effect-microsandbox/native-linux-x64-gnu", project)
      for (const name of ["effect", "@effect", "@superradcompany"]) {
        yield* fs.symlink(path.resolve("node_modules", name), path.join(project, "node_modules", name))
      }
      assert.isFalse(yield* fs.exists(path.join(native, "rust")))
      assert.isFalse(yield* fs.exists(path.join(native, "binding")))

      // A package manager brings the platform's addon, because the package asks for it.
      const manifest = JSON.parse(yield* fs.readFileString(path.join(native, "package.json")))
      for (const name of ["linux-x64-gnu", "linux-arm64-gnu", "darwin-arm64"]) {
        assert.strictEqual(manifest.optionalDependencies[`@effect-microsandbox/native-${name}`], manifest.version)
      }

      yield* fs.writeFileString(
        path.join(project, "main.mjs"),
        `import { Backend, Sandbox } from "@effect-microsandbox/core"
import { SshServer } from "@effect-microsandbox/ssh"
import { Effect } from "effect"
const program = Effect.gen(function*() {
  const { reason } = yield* Effect.flip(Sandbox.get("nobody"))
  const booted = yield* Effect.flip(Effect.scoped(Sandbox.make({ image: "/no/such/root" })))
  console.log(reason._tag, booted.reason._tag, typeof SshServer.make)
})
await Effect.runPromise(Effect.provide(program, Backend.layerLocal({ home: ${JSON.stringify(`${project}/h`)} })))
`
      )
      assert.strictEqual(yield* run(project, "node", "main.mjs"), "SandboxNotFound RootfsNotFound function")

      // Types are there for each module, and one copy of what runs.
      const modules = (yield* fs.readDirectory(path.join(core, "bundle"))).filter((file) => file.endsWith(".js"))
      assert.isAbove(modules.length, 20)
      for (const file of modules) {
        assert.isTrue(yield* fs.exists(path.join(core, "dist", file.replace(/js$/, "d.ts"))), file)
        assert.isFalse(yield* fs.exists(path.join(core, "dist", file)), file)
      }

      // What a watchdog becomes when the process beside it is killed; to import the package does nothing of the kind.
      const sweeper = path.join(core, "bundle/internal/microsandboxSweeper.js")
      yield* run(
        project,
        "env",
        `HOME=${project}`,
        "node",
        "--input-type=module",
        "-e",
        "import '@effect-microsandbox/core'"
      )
      assert.isFalse(yield* fs.exists(`${project}/.microsandbox`))
      const [home, gone] = [path.join(project, "swept"), path.join(project, "gone")]
      yield* fs.makeDirectory(home)
      yield* run(project, "node", sweeper, home)
      assert.isTrue(yield* fs.exists(path.join(home, "db")))
      yield* run(project, "node", sweeper, gone)
      assert.isFalse(yield* fs.exists(gone))
    }), 180_000)
})
