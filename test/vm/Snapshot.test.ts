/** Snapshots of sandboxes that run: their disks, layer by layer, and all of them; and archives in another home. */
import { Backend, Sandbox, Snapshot } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, FileSystem, Layer, Path } from "effect"
import * as Registry from "../support/Registry.ts"
import { layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"
import { msb } from "../support/Store.ts"
import * as Teller from "../support/Teller.ts"

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { timeout: "10 minutes", excludeTestServices: true })(
  "a snapshot",
  (it) => {
    it.effect("of a sandbox that runs or is paused is one of a line, and leaves the sandbox as it is", () =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const path = yield* Path.Path
        const { home } = yield* Backend.Local
        const registry = yield* Registry.Registry
        const image = yield* registry.push("line", yield* rootDirectory)
        const source = yield* Sandbox.make({ name: "line", image, memory: "192 MiB" })

        // The disk of one that runs: each time a layer more, and the same ones below.
        const base = yield* Snapshot.create("line", "base")
        yield* source.shell("echo two > /etc/two")
        yield* source.pause({ guestFlush: "required" })
        const next = yield* Snapshot.create("line", "next", { recordIntegrity: true })
        const full = yield* source.snapshot("full", { full: true })
        assert.strictEqual(yield* source.status, "Paused")
        yield* source.resume
        assert.deepStrictEqual([base.scope, next.scope, full.scope], ["disk", "disk", "full"])
        assert.deepStrictEqual([base.parent, next.parent, full.parent], [undefined, base.id, next.id])
        assert.isAbove(next.layers.length, base.layers.length)
        assert.deepStrictEqual(
          next.layers.slice(0, base.layers.length).map(({ id }) => id),
          base.layers.map(({ id }) => id)
        )
        const [disk, whole] = yield* Effect.forEach(["line:next", "line:full"], Snapshot.verify)
        assert.deepStrictEqual([disk?.status, disk?.checkpoint], ["verified", undefined])
        assert.deepStrictEqual([whole?.status, whole?.checkpoint], ["verified", full.checkpoint])
        const listed = JSON.parse(yield* msb("snapshot", "list", "--format", "json")) as Array<Record<string, unknown>>
        assert.deepStrictEqual(
          (yield* Snapshot.list).map((
            { checkpoint, id, parent, scope }
          ) => [id, scope, parent ?? null, checkpoint ?? null]),
          listed.map((row) => [row.snapshot_id, row.scope, row.parent_digest, row.checkpoint_manifest_digest])
        )
        const unsupported = yield* Effect.flip(Snapshot.copy("line:full", path.join(home, "copy.msb")))
        assert.strictEqual(unsupported.reason._tag, "Unsupported")

        for (const [delay, isFull] of [[50, false], [0, true], [400, true]] as const) {
          const fiber = yield* Effect.forkChild(Snapshot.create("line", "early", { full: isFull }))
          yield* Effect.sleep(delay)
          yield* Fiber.interrupt(fiber)
          const group = (yield* fs.readDirectory(path.join(home, "snapshots", "line"))).filter((name) =>
            !name.startsWith("snap_")
          )
          assert.sameMembers(group, [".group.lock", "group.json"], `after ${delay} ms`)
          if ((yield* Snapshot.list).some(({ name }) => name === "early")) {
            // It was being published, and is whole.
            yield* Snapshot.verify("line:early")
            yield* Snapshot.groupHead("line:full")
            yield* Snapshot.remove("line:early", { force: true })
          }
          assert.strictEqual((yield* source.exec("cat", ["/etc/two"])).stdout, "two\n")
        }
      }))

    it.effect("goes to a home that has nothing: with its image, by what is different, with its memory", () =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const path = yield* Path.Path
        const directory = yield* temporaryDirectory
        const registry = yield* Registry.Registry
        const image = yield* registry.push("carried", yield* rootDirectory)
        const files = ["base.msb", "delta.msb", "full.msb"].map((name) => path.join(directory, name))
        const [baseFile = "", deltaFile = "", fullFile = ""] = files
        const [base, next] = yield* Effect.scoped(Effect.gen(function*() {
          const source = yield* Sandbox.make({ name: "carried", image, memory: "192 MiB" })
          yield* Teller.start(source, "sesame")
          yield* source.shell("echo one > /etc/one")
          const base = yield* source.snapshot("base", { recordIntegrity: true })
          yield* source.shell("echo two > /etc/two")
          const next = yield* source.snapshot("next", { recordIntegrity: true })
          yield* Snapshot.save("carried:base", baseFile, { image: true })
          yield* Snapshot.save("carried:next", deltaFile, { since: "carried:base" })
          const full = yield* Snapshot.createArchive("carried", fullFile, { full: true })
          assert.deepStrictEqual([full.scope, full.parent], ["full", next.id])
          return [base, next]
        }))
        assert.sameMembers(yield* fs.readDirectory(directory), files.map((file) => path.basename(file)))
        const sizes = yield* Effect.forEach(
          [baseFile, deltaFile],
          (file) => Effect.map(fs.stat(file), ({ size }) => size)
        )
        assert.isTrue((sizes[1] ?? 0n) < (sizes[0] ?? 0n))

        // No image in the cache, and no registry that is asked.
        yield* Effect.gen(function*() {
          const alone = yield* Effect.flip(Snapshot.load(deltaFile, { group: "there" }))
          assert.strictEqual(alone.reason._tag, "SnapshotIntegrity")
          assert.deepStrictEqual(yield* Snapshot.list, [])
          const first = yield* Snapshot.load(baseFile, { group: "there" })
          const second = yield* Snapshot.load(deltaFile, { group: "there" })
          assert.deepStrictEqual([first.id, second.id, second.head?.reason], [base?.id, next?.id, "fast-forwarded"])
          assert.strictEqual((yield* Snapshot.verify("there")).status, "verified")
          assert.strictEqual((yield* Snapshot.load(deltaFile, { base: "there:base" })).id, next?.id)
          yield* Effect.scoped(Effect.gen(function*() {
            const restored = yield* Sandbox.restore("there", { memory: "192 MiB" })
            assert.strictEqual((yield* restored.shell("cat /etc/one /etc/two")).stdout, "one\ntwo\n")
          }))
          // One with its memory goes on where it was, straight from its archive; and not from half of it.
          const half = path.join(directory, "half.msb")
          yield* fs.writeFile(half, (yield* fs.readFile(fullFile)).subarray(0, 1 << 20))
          const broken = yield* Effect.flip(Effect.scoped(Sandbox.restore(half, { name: "broken" })))
          assert.strictEqual(broken.reason._tag, "SnapshotIntegrity")
          yield* Effect.scoped(Effect.gen(function*() {
            const restored = yield* Sandbox.restore(fullFile, { name: "resumed" })
            assert.strictEqual((yield* Teller.ask(restored)).secret, "sesame")
          }))
        }).pipe(Effect.provide(Backend.layerLocal({ home: yield* temporaryDirectory })))
      }))
  }
)
