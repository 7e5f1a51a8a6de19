/** The registry that tests pull from: what is pushed is there, and a pull by the engine finds it. */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer, Schema } from "effect"
import { FetchHttpClient, HttpClient, HttpClientResponse } from "effect/http"
import * as Registry from "../support/Registry.ts"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"

const Descriptor = Schema.Struct({ digest: Schema.String, size: Schema.Int })
const Manifest = Schema.Struct({ config: Descriptor, layers: Schema.Array(Descriptor) })
const Config = Schema.Struct({ config: Schema.Struct({ Cmd: Schema.Array(Schema.String) }) })

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { excludeTestServices: true })("a registry", (it) => {
  it.effect("gives back the image that was pushed to it", () =>
    Effect.gen(function*() {
      const registry = yield* Registry.Registry
      const options = { cmd: ["/bin/echo", "made here"], ballast: "1 MiB" } as const
      const reference = yield* registry.push("some/image", yield* rootDirectory, options)
      assert.strictEqual(reference, `${registry.host}/some/image:latest`)
      const manifest = yield* Effect.flatMap(
        registry.get("some/image", "manifests/latest"),
        HttpClientResponse.schemaBodyJson(Manifest)
      )
      // Busybox with its links, and what cannot be packed smaller.
      assert.lengthOf(manifest.layers, 2)
      assert.isAbove(manifest.layers[1]?.size ?? 0, 1 << 20)
      for (const { digest, size } of manifest.layers) {
        const layer = yield* Effect.flatMap(registry.get("some/image", `blobs/${digest}`), (blob) => blob.arrayBuffer)
        assert.strictEqual(layer.byteLength, size)
      }
      const { config } = yield* Effect.flatMap(
        registry.get("some/image", `blobs/${manifest.config.digest}`),
        HttpClientResponse.schemaBodyJson(Config)
      )
      assert.deepStrictEqual(config.Cmd, options.cmd)
    }))
})

layer(Layer.merge(NodeServices.layer, Registry.layerWithLogin), { excludeTestServices: true })(
  "a registry with a login",
  (it) => {
    it.effect("takes an image from who has it, and answers nobody else", () =>
      Effect.gen(function*() {
        const { get, host, push } = yield* Registry.Registry
        yield* push("closed", yield* rootDirectory)
        assert.strictEqual((yield* get("closed", "manifests/latest")).status, 200)
        const stranger = yield* HttpClient.get(`http://${host}/v2/closed/manifests/latest`)
        assert.strictEqual(stranger.status, 401)
      }).pipe(Effect.provide(FetchHttpClient.layer)))
  }
)
