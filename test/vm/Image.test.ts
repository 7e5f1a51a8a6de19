/** Sandboxes of images that are pulled from a registry. */
import { Backend, Image, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as Registry from "../support/Registry.ts"
import { idle, isFree, layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { timeout: "10 minutes", excludeTestServices: true })(
  "an image",
  (it) => {
    it.effect("is pulled and boots, with what it says of its programs", () =>
      Effect.gen(function*() {
        const registry = yield* Registry.Registry
        const image = yield* registry.push("pulled", yield* rootDirectory, {
          env: ["PATH=/bin", "COLOUR=blue"],
          workdir: "/etc",
          ballast: "1 MiB"
        })
        yield* Effect.scoped(Effect.gen(function*() {
          const sandbox = yield* Sandbox.make({ name: "pulled", image })
          const { stdout } = yield* sandbox.shell("pwd; echo $COLOUR; wc -c < /ballast")
          assert.deepStrictEqual(stdout.trim().split("\n"), ["/etc", "blue", String(1 << 20)])
        }))
        assert.isTrue(yield* isFree("pulled"))
        // The next of its kind needs no registry.
        yield* Effect.scoped(Sandbox.make({ name: "cached", image, pullPolicy: "never" }))
        const { native } = yield* Backend.Backend
        assert.deepStrictEqual(yield* native.live, idle)
        // Nor does one that came in an archive.
        const archive = `${yield* temporaryDirectory}/archive.tar`
        yield* Image.save([image], archive)
        yield* Image.remove(image)
        yield* Image.load(archive, { tags: ["loaded:1"] })
        yield* Effect.scoped(Effect.gen(function*() {
          const sandbox = yield* Sandbox.make({ name: "loaded", image: "loaded:1", pullPolicy: "never" })
          const { stdout } = yield* sandbox.shell("pwd; echo $COLOUR; wc -c < /ballast")
          assert.deepStrictEqual(stdout.trim().split("\n"), ["/etc", "blue", String(1 << 20)])
          const { reason } = yield* Effect.flip(Image.remove("loaded:1"))
          assert.strictEqual(reason._tag, "ImageInUse")
          // Its names go, and not what it is made of.
          yield* Image.remove(image, { force: true })
          yield* Image.remove("loaded:1", { force: true })
          assert.strictEqual((yield* Image.prune).references, 0)
          yield* sandbox.restart()
          assert.strictEqual((yield* sandbox.shell("echo $COLOUR")).stdout, "blue\n")
        }))
        assert.strictEqual((yield* Image.prune).references, 1)
        assert.deepStrictEqual(yield* Image.list, [])
      }))
  }
)
