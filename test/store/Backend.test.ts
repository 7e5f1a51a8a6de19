/** Local backends, and what a home must be able to hold. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Layer, Path } from "effect"
import { temporaryDirectory } from "../support/Sandboxes.ts"

/** Builds the layer and answers with the reason why that failed. */
const whyNot = (home: string) =>
  Layer.build(Backend.layerLocal({ home })).pipe(
    Effect.scoped,
    Effect.flip,
    Effect.map(({ reason }) => reason)
  )

layer(NodeServices.layer, { excludeTestServices: true })("a local backend", (it) => {
  it.effect("makes its home", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const home = (yield* temporaryDirectory) + "/new"
      const { home: actual, kind } = yield* Backend.Backend.pipe(Effect.provide(Backend.layerLocal({ home })))
      assert.deepStrictEqual([actual, kind], [home, "local"])
      assert.deepStrictEqual((yield* fs.readDirectory(home)).filter((file) => file.startsWith(".probe")), [])
    }))

  it.effect("names the length that its home may have, and that length holds", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      const directory = yield* temporaryDirectory
      const reason = yield* whyNot(path.join(directory, "x".repeat(100)))
      assert.strictEqual(reason._tag, "HomePathTooLong")
      const limit = reason._tag === "HomePathTooLong" ? reason.limit : 0
      const ofLength = (length: number) => path.join(directory, "x".repeat(length - directory.length - 1))
      assert.strictEqual((yield* whyNot(ofLength(limit + 1)))._tag, "HomePathTooLong")
      yield* Effect.scoped(Layer.build(Backend.layerLocal({ home: ofLength(limit) })))
    }))

  it.effect("says that its home cannot be written, and why", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const file = path.join(yield* temporaryDirectory, "file")
      yield* fs.writeFileString(file, "")
      for (const home of [file, path.join(file, "home"), "/proc/home"]) {
        const reason = yield* whyNot(home)
        assert.deepStrictEqual([reason._tag, reason._tag === "HomeNotWritable" ? reason.path : ""], [
          "HomeNotWritable",
          home
        ])
      }
    }))

  it.effect("fails with a reason when its catalogue is broken", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const home = yield* temporaryDirectory
      yield* fs.makeDirectory(`${home}/db`)
      yield* fs.writeFileString(`${home}/db/msb.db`, "this is no database".repeat(1000))
      assert.include(["Database", "Custom"], (yield* whyNot(home))._tag)
    }))

  it.effect("refuses options that it does not know", () =>
    Effect.gen(function*() {
      for (const options of [{ home: "" }, { home: "a\0b" }, { home: 1 }, { hom: "/tmp" }]) {
        const { reason } = yield* Effect.flip(
          Effect.scoped(Layer.build(Backend.layerLocal(options as Backend.LocalOptions)))
        )
        assert.deepStrictEqual([reason._tag, reason._tag === "InvalidConfig" ? reason.field : ""], [
          "InvalidConfig",
          Object.keys(options)[0]
        ])
      }
    }))

  it.effect("is the one that is provided, for each fiber", () =>
    Effect.gen(function*() {
      const [one, two] = [yield* temporaryDirectory, yield* temporaryDirectory]
      const homes = Effect.gen(function*() {
        const seen = new Set<string>()
        for (let turn = 0; turn < 20; turn++) {
          seen.add((yield* Backend.Local).home)
          yield* Effect.flip(Sandbox.get("nobody"))
        }
        return [...seen]
      })
      const outer = Backend.layerLocal({ home: one })
      const inner = Backend.layerLocal({ home: two })
      const found = yield* Effect.all([homes, Effect.provide(homes, inner), homes], { concurrency: 3 }).pipe(
        Effect.provide(outer)
      )
      assert.deepStrictEqual(found, [[one], [two], [one]])
    }))
})
