/** A file that is large even for the software host, by OpenSSH's SFTP client. */
import { Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Layer } from "effect"
import * as Crypto from "node:crypto"
import { run, served } from "../support/OpenSsh.ts"
import { layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"

const layerSandbox = Layer.unwrap(
  Effect.map(rootDirectory, (image) => Sandbox.layer({ image, memory: "512 MiB" }))
).pipe(Layer.provideMerge(layerBackend))

const sha256 = (data: Uint8Array): string => Crypto.createHash("sha256").update(data).digest("hex")

layer(layerSandbox, { timeout: "10 minutes", excludeTestServices: true })("64 MiB", (it) => {
  it.effect("go up and down by SFTP with equal hashes", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryDirectory
      const data = Crypto.randomBytes(64 << 20)
      yield* fs.writeFile(`${directory}/data`, data)
      const { args, port } = yield* served(sandbox)
      const sftp = (command: string) =>
        run("sftp", [...args, "-P", port, "-b", "-", "root@127.0.0.1"], Buffer.from(`${command}\n`))
      const up = yield* sftp(`put ${directory}/data /var/data`)
      assert.strictEqual(up.exitCode, 0, up.stderr)
      assert.strictEqual((yield* sandbox.exec("sha256sum", ["/var/data"])).stdout.slice(0, 64), sha256(data))
      const down = yield* sftp(`get /var/data ${directory}/back`)
      assert.strictEqual(down.exitCode, 0, down.stderr)
      assert.strictEqual(sha256(yield* fs.readFile(`${directory}/back`)), sha256(data))
    }))
})
