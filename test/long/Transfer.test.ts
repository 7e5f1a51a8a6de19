/** Transfers of a size that takes a while. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { ByteSize, Effect, FileSystem, Layer, Path, Stream } from "effect"
import * as crypto from "node:crypto"
import { createReadStream } from "node:fs"
import { layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"

const layerSandbox = Layer.unwrap(
  Effect.map(
    rootDirectory,
    (image) => Sandbox.layer({ image, memory: "1 GiB", mounts: { "/data": { tmpfs: true, size: "512 MiB" } } })
  )
).pipe(Layer.provideMerge(layerBackend))

/** The software host is some fifty times slower. */
const count = process.env.HOST_KIND === "software" ? 2000 : 10_000

const mebibyte = 1024 * 1024

const sha256 = (file: string) =>
  Effect.promise(async () => {
    const hash = crypto.createHash("sha256")
    for await (const chunk of createReadStream(file)) hash.update(chunk)
    return hash.digest("hex")
  })

const timed = <A, E, R>(label: string, effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(
    Effect.timed(effect),
    ([duration, value]) => Effect.as(Effect.log(`${label}: ${String(duration)}`), value)
  )

layer(layerSandbox, { timeout: "30 minutes", excludeTestServices: true })("a large transfer", (it) => {
  it.effect("of a file of 128 MiB has the same hash up and down, and one that is left in the middle leaves no handle", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const { native } = yield* Backend.Backend
      const before = yield* native.live
      const root = yield* temporaryDirectory
      const file = path.join(root, "file")
      for (let index = 0; index < 128; index++) {
        yield* fs.writeFile(file, crypto.randomBytes(mebibyte), { flag: "a" })
      }
      const hash = yield* sha256(file)
      const up = yield* timed("128 MiB up", sandbox.upload(file, "/data/file"))
      assert.strictEqual(up.bytes, ByteSize.mebibytes(128))
      assert.include((yield* sandbox.exec("sha256sum", ["/data/file"])).stdout, hash)
      yield* timed("128 MiB down", sandbox.download("/data/file", `${file}-down`))
      assert.strictEqual(yield* sha256(`${file}-down`), hash)
      const events = yield* sandbox.downloadStream("/data/file", `${file}-cut`).pipe(
        Stream.takeUntil((event) => event._tag === "Progress" && event.bytes > 0n),
        Stream.runCollect
      )
      assert.isTrue(events.every(({ _tag }) => _tag !== "Done"))
      assert.deepStrictEqual(yield* native.live, before)
      assert.deepStrictEqual((yield* fs.readDirectory(root)).sort(), ["file", "file-down"])
      yield* sandbox.exec("rm", ["/data/file"])
    }))

  it.effect(`of a tree of ${count} small files is the same up and down`, () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const root = path.join(yield* temporaryDirectory, "tree")
      for (let index = 0; index < count; index++) {
        const directory = path.join(root, `${index % 100}`)
        if (index < 100) yield* fs.makeDirectory(directory, { recursive: true })
        yield* fs.writeFileString(path.join(directory, `${index}`), `${index} `.repeat(index % 1000))
      }
      const up = yield* timed(`${count} files up`, sandbox.upload(root, "/data/tree"))
      assert.deepStrictEqual([up.files, up.directories], [count, 101])
      const { stdout } = yield* sandbox.shell("cd /data/tree && find . -type f | sort | xargs cat | sha256sum")
      const down = path.join(root, "../down")
      assert.deepStrictEqual(yield* timed(`${count} files down`, sandbox.download("/data/tree", down)), up)
      const hash = crypto.createHash("sha256")
      const files = (yield* fs.readDirectory(down, { recursive: true })).filter((name) => name.includes("/"))
      // As the guest's `sort` has them: by bytes.
      for (const file of files.sort()) {
        const content = yield* fs.readFile(path.join(down, file))
        assert.isTrue(Buffer.from(content).equals(yield* fs.readFile(path.join(root, file))), file)
        hash.update(content)
      }
      assert.include(stdout, hash.digest("hex"))
      yield* sandbox.exec("rm", ["-r", "/data/tree"])
    }))
})
