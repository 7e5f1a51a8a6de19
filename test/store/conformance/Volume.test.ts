/** The files of a volume, held against the suites that Node's are held against. There is no VM. */
import { Volume } from "@effect-microsandbox/core"
import { layer } from "@effect/vitest"
import { Effect, FileSystem, Layer, Path } from "effect"
import { files } from "../../conformance/FileSystem.ts"
import { keyValueStore } from "../../conformance/KeyValueStore.ts"
import { path } from "../../conformance/Path.ts"
import { layerBackend } from "../../support/Sandboxes.ts"

/** The program's services, of the volume. */
const layerVolume = Layer.unwrap(Effect.map(
  Volume.make(),
  ({ fs, path }) => Layer.merge(Layer.succeed(FileSystem.FileSystem, fs), Layer.succeed(Path.Path, path))
)).pipe(Layer.provide(layerBackend), Layer.orDie)

layer(layerVolume, { excludeTestServices: true })("the file system of a volume", files)

layer(layerVolume)("the path of a volume", (it) => path(it, Effect.succeed("/")))

layer(layerVolume)("a key-value store on the files of a volume", keyValueStore)
