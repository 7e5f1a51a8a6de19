/**
 * Does what writes to a home on a disk with less and less room, and prints how each try ended and what it left, as JSON: a
 * line for each.
 *
 *     full.ts <home> <image> <archive of an image>
 *
 * The home is a small file system of its own, which this program fills.
 */
import { Backend, Image, type MicrosandboxError, Snapshot, Volume } from "@effect-microsandbox/core"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Console, Effect, FileSystem, Layer } from "effect"
import { statfsSync } from "node:fs"
import * as Store from "../Store.ts"

const [home = "", image = "", archive = ""] = process.argv.slice(2)
const [filler, copy, saved] = [`${home}/filler`, `${home}/copy.tar`, `${home}/saved.tar`]

/** Leaves so many bytes on the disk while an effect runs. */
const withRoom = Effect.fn("withRoom")(function*<A, E, R>(bytes: number, effect: Effect.Effect<A, E, R>) {
  const fs = yield* FileSystem.FileSystem
  const { bavail, bsize } = statfsSync(home)
  yield* fs.writeFile(filler, new Uint8Array(Math.max(0, bavail * bsize - bytes)))
  return yield* Effect.ensuring(effect, Effect.orDie(fs.remove(filler)))
})

/** What there is that can be named, and the files that are not the cache's: a download goes on from what it has. */
const left = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const images = (yield* Image.list).map(({ reference }) => reference)
  const volumes = (yield* Volume.list).map(({ name }) => name)
  const snapshots = (yield* Snapshot.list).map(({ name }) => name)
  const files = (yield* fs.readDirectory(home, { recursive: true }))
    .filter((file) => !/^(cache|db|run|sandboxes)(\/|$)|^(snapshots|volumes)$|[.]locks?(\/|$)/.test(file)).toSorted()
  return { images, volumes, snapshots, files }
})

/** Room for nothing, for a page or two, and for more and more of what an image takes. */
const rooms = [0, 4, 16, 64, 256, 1024, 2048, 3072, 4096, 5120, 6144, 8192].map((kibibytes) => kibibytes * 1024)

const program = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const removeImages = Effect.flatMap(Image.list, Effect.forEach(({ reference }) => Image.remove(reference)))
  const removeSnapshots = Effect.flatMap(Snapshot.list, Effect.forEach(({ reference }) => Snapshot.remove(reference)))
  yield* Store.makeStopped("origin", crypto.getRandomValues(new Uint8Array(65_536)))

  /** Tries something with each room, from none on, and what undoes it after each time that it was done. */
  const attempt = Effect.fn("attempt")(function*<R1, E2, R2>(
    name: string,
    what: Effect.Effect<unknown, MicrosandboxError.MicrosandboxError, R1>,
    undo: Effect.Effect<unknown, E2, R2>
  ) {
    const before = yield* left
    for (const room of rooms) {
      const ended = yield* withRoom(
        room,
        Effect.match(what, { onFailure: ({ reason }) => reason, onSuccess: () => ({ _tag: "Done", message: "" }) })
      )
      const after = yield* left
      yield* Console.log(JSON.stringify({ name, room, tag: ended._tag, message: ended.message, before, after }))
      if (ended._tag === "Done") yield* undo
    }
  })

  yield* attempt("pull", Image.pull(image), Effect.andThen(removeImages, Image.prune))
  yield* attempt("load", Image.load(archive), Effect.andThen(removeImages, Image.prune))
  yield* Image.pull(image)
  yield* attempt("save", Image.save([image], copy), fs.remove(copy))
  yield* attempt("directory", Effect.scoped(Volume.create("kept")), Volume.remove("kept"))
  const disk = Volume.create("kept", { kind: "disk", size: "68 MiB" })
  yield* attempt("disk", Effect.scoped(disk), Volume.remove("kept"))
  yield* attempt("snapshot", Snapshot.create("origin", "taken"), removeSnapshots)
  yield* Snapshot.create("origin", "taken")
  yield* attempt("archive", Snapshot.save("origin:taken", copy), fs.remove(copy))
  yield* Snapshot.save("origin:taken", saved)
  yield* removeSnapshots
  yield* attempt("unpack", Snapshot.load(saved), removeSnapshots)
})

program.pipe(
  Effect.provide(Layer.provideMerge(Backend.layerLocal({ home }), NodeServices.layer)),
  NodeRuntime.runMain
)
