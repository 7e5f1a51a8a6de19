/** The suite of every FileSystem, in a guest over SFTP. */
import { Sandbox } from "@effect-microsandbox/core"
import { Sftp, SshClient } from "@effect-microsandbox/ssh"
import { layer } from "@effect/vitest"
import { Context, Effect, FileSystem, Layer, Path } from "effect"
import { fileSystem } from "../conformance/FileSystem.ts"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"

const layerSandbox = Layer.unwrap(
  Effect.map(rootDirectory, (image) => Sandbox.layer({ image, workdir: "/root", memory: "512 MiB" }))
).pipe(Layer.provideMerge(layerBackend))

/** The program's services, of the guest, over SFTP. */
const layerFiles = Layer.effectContext(Effect.gen(function*() {
  const client = yield* SshClient.open(yield* Sandbox.Sandbox)
  const { fs, path } = yield* Sftp.make(client)
  return Context.make(FileSystem.FileSystem, fs).pipe(Context.add(Path.Path, path))
}))

layer(layerSandbox, { timeout: "10 minutes", excludeTestServices: true })("a guest over SFTP", (it) => {
  it.layer(layerFiles)("its files", (it) => fileSystem(it))
})
