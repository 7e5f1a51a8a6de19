import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Path, PlatformError, Stream } from "effect"
import { makeWriteAtomic } from "../../packages/core/src/internal/writeAtomic.ts"

const refused = PlatformError.systemError({ module: "FileSystem", method: "rename", _tag: "Unknown" })

layer(NodeServices.layer)("a file that is written whole or not at all", (it) => {
  const setup = Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const directory = yield* fs.makeTempDirectoryScoped()
    const file = path.join(directory, "file")
    yield* fs.writeFileString(file, "old")
    return { fs, path, directory, file, writeAtomic: makeWriteAtomic(fs, path, {}) }
  })

  it.effect("has the new content, at any length of its name, and nothing is left beside it", () =>
    Effect.gen(function*() {
      const { directory, file, fs, path, writeAtomic } = yield* setup
      yield* writeAtomic(file, "new")
      yield* writeAtomic(path.join(directory, "n".repeat(255)), new Uint8Array([1, 2]))
      yield* writeAtomic(path.join(directory, "streamed"), Stream.make(new Uint8Array([3]), new Uint8Array([4])))
      assert.strictEqual(yield* fs.readFileString(file), "new")
      assert.deepStrictEqual([...yield* fs.readFile(path.join(directory, "n".repeat(255)))], [1, 2])
      assert.deepStrictEqual([...yield* fs.readFile(path.join(directory, "streamed"))], [3, 4])
      assert.lengthOf(yield* fs.readDirectory(directory), 3)
    }))

  it.effect("is what a link leads to, and a link that leads nowhere is replaced", () =>
    Effect.gen(function*() {
      const { directory, file, fs, path, writeAtomic } = yield* setup
      const at = (name: string) => path.join(directory, name)
      yield* fs.symlink(file, at("link"))
      yield* fs.symlink("nowhere", at("dangling"))
      yield* writeAtomic(at("link"), "new")
      yield* writeAtomic(at("dangling"), "made")
      assert.strictEqual(yield* fs.readFileString(file), "new")
      assert.strictEqual(yield* fs.readLink(at("link")), file)
      assert.strictEqual((yield* fs.lstat(at("dangling"))).type, "File")
    }))

  it.effect("keeps its mode, unless it is told another", () =>
    Effect.gen(function*() {
      const { file, fs, writeAtomic } = yield* setup
      yield* fs.chmod(file, 0o640)
      yield* writeAtomic(file, "new", { sync: true })
      assert.strictEqual((yield* fs.stat(file)).mode & 0o7777, 0o640)
      yield* writeAtomic(file, "newer", { mode: 0o604 })
      assert.strictEqual((yield* fs.stat(file)).mode & 0o7777, 0o604)
    }))

  it.effect("has its old content when any step fails, and nothing is left beside it", () =>
    Effect.gen(function*() {
      const { directory, file, fs, path } = yield* setup
      const data = Stream.concat(Stream.make(new Uint8Array([1])), Stream.fail("the source failed"))
      const steps = {
        rename: { fs: { ...fs, rename: () => Effect.fail(refused) }, data: "new" },
        chmod: { fs: { ...fs, chmod: () => Effect.fail(refused) }, data: "new" },
        write: { fs, data }
      }
      for (const [name, step] of Object.entries(steps)) {
        const exit = yield* Effect.exit(makeWriteAtomic(step.fs, path, {})(file, step.data, { mode: 0o600 }))
        assert.strictEqual(exit._tag, "Failure", name)
        assert.strictEqual(yield* fs.readFileString(file), "old", name)
        assert.deepStrictEqual(yield* fs.readDirectory(directory), ["file"], name)
      }
      const error = yield* Effect.flip(makeWriteAtomic(fs, path, {})(directory, "new"))
      assert.strictEqual(error._tag, "PlatformError")
      assert.lengthOf(
        yield* fs.readDirectory(path.dirname(directory)).pipe(
          Effect.map((names) =>
            names.filter((name) => name.endsWith(".tmp") && name.includes(path.basename(directory)))
          )
        ),
        0
      )
    }))
})
