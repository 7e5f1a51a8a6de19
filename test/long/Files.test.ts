/** A file that is large even for the software host, up and down. */
import { Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer, Stream } from "effect"
import * as Crypto from "node:crypto"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"

const layerSandbox = Layer.unwrap(
  Effect.map(rootDirectory, (image) => Sandbox.layer({ image, memory: "512 MiB" }))
).pipe(Layer.provideMerge(layerBackend))

const sha256 = (data: Uint8Array): string => Crypto.createHash("sha256").update(data).digest("hex")

layer(layerSandbox, { timeout: "10 minutes", excludeTestServices: true })("128 MiB", (it) => {
  it.effect("go up and down with equal hashes, at once and as a stream", () =>
    Effect.gen(function*() {
      const { exec, fs } = yield* Sandbox.Sandbox
      const data = Crypto.randomBytes(128 << 20)
      const hash = sha256(data)
      yield* fs.writeFile("/var/whole", data)
      assert.strictEqual((yield* exec("sha256sum", ["/var/whole"])).stdout.slice(0, 64), hash)
      assert.strictEqual(sha256(yield* fs.readFile("/var/whole")), hash)
      yield* fs.remove("/var/whole")
      const pieces = Stream.range(0, 2047).pipe(
        Stream.map((index) => data.subarray(index << 16, (index + 1) << 16))
      )
      yield* Stream.run(pieces, fs.sink("/var/piecewise"))
      const back = Crypto.createHash("sha256")
      yield* Stream.runForEach(fs.stream("/var/piecewise"), (chunk) => Effect.sync(() => back.update(chunk)))
      assert.strictEqual(back.digest("hex"), hash)
    }))
})
