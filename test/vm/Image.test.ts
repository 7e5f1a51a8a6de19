/** Sandboxes of images that are pulled from a registry. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as Registry from "../support/Registry.ts"
import { isFree, layerBackend, rootDirectory } from "../support/Sandboxes.ts"

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
        assert.deepStrictEqual(yield* native.live, { backends: 1, sandboxes: 0, execs: 0, logs: 0, files: 0, calls: 0 })
      }))
  }
)
