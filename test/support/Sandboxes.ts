/** What tests with the real engine share: a backend in a home of its own, and a look at what a sandbox left. */
import { Backend, type MicrosandboxError } from "@effect-microsandbox/core"
import { NodeServices } from "@effect/platform-node"
import { Effect, FileSystem, Layer, Path } from "effect"
import * as Rootfs from "../../demo/Rootfs.ts"

/** A directory that is short enough for a home, and gone with the scope. */
export const temporaryDirectory = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  return yield* fs.makeTempDirectoryScoped({ prefix: "msb-" })
})

/** A new home, and a local backend in it. */
export const layerBackend: Layer.Layer<
  Backend.Backend | NodeServices.NodeServices,
  MicrosandboxError.MicrosandboxError
> = Layer.unwrap(
  Effect.map(temporaryDirectory, (home) => Backend.layerLocal({ home }))
).pipe(Layer.orDie, Layer.provideMerge(NodeServices.layer))

/** A root directory of busybox for one guest: guests write to their root. */
export const rootDirectory = Effect.gen(function*() {
  return yield* Rootfs.make(yield* temporaryDirectory)
})

/** The VM processes on this machine whose command line names a sandbox. */
export const vmProcesses = Effect.fn("vmProcesses")(function*(name: string) {
  const fs = yield* FileSystem.FileSystem
  const pids = (yield* fs.readDirectory("/proc")).filter((entry) => /^\d+$/.test(entry))
  return yield* Effect.filter(pids, (pid) =>
    fs.readFileString(`/proc/${pid}/cmdline`).pipe(
      Effect.map((line) => {
        const words = line.split("\0")
        return words.includes("machine") && words[words.indexOf("--name") + 1] === name
      }),
      // It ended while we looked.
      Effect.orElseSucceed(() => false)
    ))
})

/** What the backend's home still holds of its sandboxes. */
export const sandboxDirectories = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const { home } = yield* Backend.Backend
  const directory = path.join(home, "sandboxes")
  return (yield* fs.exists(directory)) ? yield* fs.readDirectory(directory) : []
})
