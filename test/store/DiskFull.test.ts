/** A home whose disk has no room, as a real file system says it: what is tried says so, and leaves nothing half done. */
import { Image } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer, Schema, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as Registry from "../support/Registry.ts"
import { layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"

const Left = Schema.Struct({
  images: Schema.Array(Schema.String),
  volumes: Schema.Array(Schema.String),
  snapshots: Schema.Array(Schema.NullOr(Schema.String)),
  files: Schema.Array(Schema.String)
})

/** A line of programs/full.ts. */
const Try = Schema.fromJsonString(Schema.Struct({
  name: Schema.String,
  room: Schema.Int,
  tag: Schema.String,
  message: Schema.String,
  before: Left,
  after: Left
}))

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { timeout: "5 minutes", excludeTestServices: true })(
  "a disk without room",
  (it) => {
    it.effect("is told as such by whatever writes to it, which leaves nothing half done", () =>
      Effect.gen(function*() {
        const registry = yield* Registry.Registry
        const spawner = yield* ChildProcessSpawner
        const [home, directory] = [yield* temporaryDirectory, yield* temporaryDirectory]
        const root = yield* rootDirectory
        const image = yield* registry.push("pulled", root, { ballast: "1 MiB" })
        const other = yield* registry.push("loaded", root, { ballast: "1 MiB" })
        const archive = `${directory}/loaded.tar`
        yield* Image.pull(other)
        yield* Image.save([other], archive)
        // The home is in a mount namespace of its own, so that it ends with the program.
        const script = "mount -t tmpfs -o size=32m tmpfs \"$1\" && exec node test/support/programs/full.ts \"$@\""
        const tries = yield* ChildProcess.make(
          "unshare",
          ["--map-root-user", "--mount", "sh", "-c", script, "sh", home, image, archive],
          { stderr: "inherit" }
        ).pipe(
          spawner.streamLines,
          // Else it is what the program has to say of itself.
          Stream.mapEffect((line) => Effect.orElseSucceed(Schema.decodeEffect(Try)(line), () => assert.fail(line))),
          Stream.runCollect
        )
        for (const name of ["pull", "load", "save", "directory", "disk", "snapshot", "archive", "unpack"]) {
          const own = tries.filter((one) => one.name === name)
          assert.strictEqual(own[0]?.tag, "DiskFull", name)
          assert.strictEqual(own.at(-1)?.tag, "Done", name)
          for (const { after, before, message, room, tag } of own) {
            const what = `${name} with room for ${room} bytes: ${message}`
            if (tag === "Done") assert.notDeepEqual(after, before, what)
            else assert.deepStrictEqual([tag, after], ["DiskFull", before], what)
          }
        }
      }), 240_000)
  }
)
