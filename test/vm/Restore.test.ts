/** Sandboxes made of snapshots. */
import { Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, Layer } from "effect"
import * as Registry from "../support/Registry.ts"
import { isFree, layerBackend, rootDirectory, sandboxDirectories } from "../support/Sandboxes.ts"
import * as Teller from "../support/Teller.ts"

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { timeout: "10 minutes", excludeTestServices: true })(
  "a restore",
  (it) => {
    it.effect("brings back the memory and programs of a full snapshot, and the files of one of a disk", () =>
      Effect.gen(function*() {
        const registry = yield* Registry.Registry
        const image = yield* registry.push("restore", yield* rootDirectory)
        const source = yield* Sandbox.make({ name: "origin", image, memory: "192 MiB" })
        yield* Teller.start(source, "sesame")
        yield* source.shell("echo kept > /etc/kept")
        const full = yield* source.snapshot("full", { full: true, labels: { kind: "test" } })
        assert.deepStrictEqual([full.name, full.scope], ["full", "full"])
        const again = yield* Effect.flip(source.snapshot("full", { full: true }))
        assert.strictEqual(again.reason._tag, "SnapshotAlreadyExists")
        const told = yield* Teller.ask(source)
        assert.strictEqual(told.secret, "sesame")
        yield* source.stop()
        const disk = yield* source.snapshot("disk")
        assert.deepStrictEqual([disk.name, disk.scope], ["disk", "disk"])

        yield* Effect.scoped(Effect.gen(function*() {
          const restored = yield* Sandbox.restore(full.reference, { name: "resumed", labels: { made: "of-full" } })
          const back = yield* Teller.ask(restored)
          assert.deepStrictEqual([back.pid, back.secret], [told.pid, "sesame"])
          assert.strictEqual((yield* restored.shell("cat /etc/kept")).stdout, "kept\n")
          assert.deepStrictEqual({ ...(yield* Sandbox.get("resumed")).labels }, { made: "of-full" })
        }))
        assert.isTrue(yield* isFree("resumed"))

        yield* Effect.scoped(Effect.gen(function*() {
          const restored = yield* Sandbox.restore(disk.reference, { name: "booted", memory: "192 MiB" })
          assert.strictEqual((yield* restored.shell("cat /etc/kept; ls /mnt/ram")).stdout, "kept\n")
          const taken = yield* Effect.flip(Effect.scoped(Sandbox.restore(disk.reference, { name: "booted" })))
          assert.strictEqual(taken.reason._tag, "SandboxAlreadyExists")
          assert.strictEqual((yield* restored.exec("true")).exitCode, 0)
        }))
        assert.isTrue(yield* isFree("booted"))

        for (
          const [reference, delays] of [[full.reference, [0, 200, 800, 2000]], [disk.reference, [300, 2000]]] as const
        ) {
          for (const delay of delays) {
            const restoring = Sandbox.restore(reference, { name: "early" })
            const fiber = yield* Effect.forkChild(Effect.scoped(Effect.andThen(restoring, Effect.never)))
            yield* Effect.sleep(delay)
            yield* Fiber.interrupt(fiber)
            assert.isTrue(yield* isFree("early"), `after ${delay} ms`)
          }
        }

        assert.deepStrictEqual(yield* sandboxDirectories, ["origin"])

        const unknown = yield* Effect.flip(Effect.scoped(Sandbox.restore("no-such-snapshot", { name: "early" })))
        assert.strictEqual(unknown.reason._tag, "SnapshotNotFound")
        assert.isTrue(yield* isFree("early"))
        // A full snapshot has its own memory.
        const larger = yield* Effect.flip(Effect.scoped(Sandbox.restore(full.reference, { memory: "512 MiB" })))
        assert.include(["InvalidConfig", "Unsupported"], larger.reason._tag)
      }))
  }
)
