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
    it.effect("of a sandbox that runs or is paused is one of a line, and goes in archives to a home that has nothing", () =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const path = yield* Path.Path
        const { home } = yield* Backend.Backend
        const directory = yield* temporaryDirectory
        const registry = yield* Registry.Registry
        const image = yield* registry.push("line", yield* rootDirectory)
        const source = yield* Sandbox.make({ name: "line", image, memory: "192 MiB" })
        yield* Teller.start(source, "sesame")

        // The disk of one that runs: each time a layer more, and the same ones below.
        yield* source.shell("echo one > /etc/one")
        const base = yield* Snapshot.create("line", "base", { recordIntegrity: true })
        yield* source.shell("echo two > /etc/two")
        yield* source.pause({ guestFlush: "required" })
        const next = yield* Snapshot.create("line", "next", { recordIntegrity: true })
        const paused = yield* source.snapshot("paused", { full: true })
        assert.deepStrictEqual([paused.scope, paused.parent, yield* source.status], ["full", next.id, "Paused"])
        yield* source.resume
        assert.deepStrictEqual([base.scope, next.scope, next.parent], ["disk", "disk", base.id])
        assert.isAbove(next.layers.length, base.layers.length)
        assert.deepStrictEqual(
          next.layers.slice(0, base.layers.length).map(({ id }) => id),
          base.layers.map(({ id }) => id)
        )
        const full = yield* source.snapshot("full", { full: true })
        assert.deepStrictEqual([full.scope, full.parent, full.layers], ["full", paused.id, []])
        const [checked, whole] = yield* Effect.forEach(["line:next", "line:full"], Snapshot.verify)
        assert.deepStrictEqual([checked?.status, whole?.status], ["verified", "verified"])
        assert.deepStrictEqual([checked?.checkpoint, whole?.checkpoint], [undefined, full.checkpoint])
        const listed = JSON.parse(yield* msb("snapshot", "list", "--format", "json")) as Array<Record<string, unknown>>
        assert.deepStrictEqual(
          (yield* Snapshot.list).map((
            { checkpoint, id, parent, scope }
          ) => [id, scope, parent ?? null, checkpoint ?? null]),
          listed.map((row) => [row.snapshot_id, row.scope, row.parent_digest, row.checkpoint_manifest_digest])
        )
        const unsupported = yield* Effect.flip(Snapshot.copy("line:full", path.join(directory, "copy.msb")))
        assert.strictEqual(unsupported.reason._tag, "Unsupported")

        // One that is interrupted leaves the sandbox as it is, and nothing else.
        const left = Effect.gen(function*() {
          const group = (yield* fs.readDirectory(path.join(home, "snapshots", "line"))).filter((name) =>
            !name.startsWith("snap_")
          )
          const named = (yield* Snapshot.list).map(({ name }) => name)
          return [group.toSorted(), named.includes("early")]
        })
        for (
          const [delay, isFull] of [[0, false], [30, false], [150, false], [0, true], [200, true], [600, true]] as const
        ) {
          const fiber = yield* Effect.forkChild(Snapshot.create("line", "early", { full: isFull }))
          yield* Effect.sleep(delay)
          yield* Fiber.interrupt(fiber)
          const [group, isThere] = yield* left
          assert.deepStrictEqual(group, [".group.lock", "group.json"], `after ${delay} ms`)
          if (isThere === true) {
            // It was being published, and is whole.
            yield* Snapshot.verify("line:early")
            yield* Snapshot.groupHead("line:full")
            yield* Snapshot.remove("line:early", { force: true })
          }
          assert.strictEqual((yield* source.exec("cat", ["/etc/two"])).stdout, "two\n")
        }
        const { secret } = yield* Teller.ask(source)
        assert.strictEqual(secret, "sesame")

        // What the second has more than the first is less than all of it.
        const files = ["base.msb", "delta.msb", "full.msb", "direct.msb"].map((name) => path.join(directory, name))
        const [baseFile = "", deltaFile = "", fullFile = "", directFile = ""] = files
        yield* Snapshot.save("line:base", baseFile, { image: true })
        yield* Snapshot.save("line:next", deltaFile, { since: "line:base" })
        yield* Snapshot.save("line:full", fullFile)
        const direct = yield* Snapshot.createArchive("line", directFile)
        assert.strictEqual(direct.scope, "disk")
        assert.sameMembers(yield* fs.readDirectory(directory), files.map((file) => path.basename(file)))
        yield* source.stop()

        // Elsewhere: no image in the cache, and no registry that is asked.
        const elsewhere = Backend.layerLocal({ home: yield* temporaryDirectory })
        yield* Effect.gen(function*() {
          assert.deepStrictEqual(yield* Snapshot.list, [])
          const alone = yield* Effect.flip(Snapshot.load(deltaFile, { group: "there" }))
          assert.strictEqual(alone.reason._tag, "SnapshotIntegrity")
          assert.deepStrictEqual(yield* Snapshot.list, [])
          const first = yield* Snapshot.load(baseFile, { group: "there" })
          const second = yield* Snapshot.load(deltaFile, { group: "there" })
          assert.deepStrictEqual([first.id, second.id, second.head?.reason], [base.id, next.id, "fast-forwarded"])
          assert.strictEqual((yield* Snapshot.verify("there")).status, "verified")
          const apart = yield* Snapshot.load(deltaFile, { base: "there:base" })
          assert.strictEqual(apart.id, next.id)
          yield* Effect.scoped(Effect.gen(function*() {
            const restored = yield* Sandbox.restore("there", { memory: "192 MiB" })
            assert.strictEqual((yield* restored.shell("cat /etc/one /etc/two")).stdout, "one\ntwo\n")
          }))
          const cut = `${fullFile}.cut`
          yield* fs.writeFile(cut, (yield* fs.readFile(fullFile)).subarray(0, 1 << 20))
          const broken = yield* Effect.flip(Effect.scoped(Sandbox.restore(cut, { name: "broken" })))
          assert.strictEqual(broken.reason._tag, "SnapshotIntegrity")
          // A full one goes on where it was, straight from its archive.
          yield* Effect.scoped(Effect.gen(function*() {
            const restored = yield* Sandbox.restore(fullFile, { name: "resumed" })
            assert.strictEqual((yield* Teller.ask(restored)).secret, "sesame")
          }))
        }).pipe(Effect.provide(elsewhere))
      }))
  }
)
