/** What tests with the real engine share: a backend in a home of its own, and a look at what a sandbox left. */
import { Backend, type MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import { NodeServices } from "@effect/platform-node"
import { Effect, FileSystem, Layer, Path, Result } from "effect"
import * as Rootfs from "../../demo/Rootfs.ts"

/** A directory that is short enough for a home, and gone with the scope. */
export const temporaryDirectory = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  return yield* fs.makeTempDirectoryScoped({ prefix: "msb-" })
})

/** A new home, and a local backend in it. */
export const layerBackend: Layer.Layer<
  Backend.Backend | Backend.Local | NodeServices.NodeServices,
  MicrosandboxError.MicrosandboxError
> = Layer.unwrap(
  Effect.map(temporaryDirectory, (home) => Backend.layerLocal({ home }))
).pipe(Layer.orDie, Layer.provideMerge(NodeServices.layer))

/** What is alive in an engine that has nothing but a backend. */
export const idle = {
  backends: 1,
  sandboxes: 0,
  execs: 0,
  logs: 0,
  files: 0,
  tunnels: 0,
  sshServers: 0,
  sshClients: 0,
  sshPrograms: 0,
  sftps: 0,
  volumes: 0,
  agents: 0,
  agentStreams: 0,
  calls: 0
}

/** A root directory of busybox for one guest: guests write to their root. */
export const rootDirectory = Effect.gen(function*() {
  return yield* Rootfs.make(yield* temporaryDirectory)
})

/** The processes on this machine whose command line has a text. */
export const processesWith = Effect.fn("processesWith")(function*(text: string) {
  const fs = yield* FileSystem.FileSystem
  const pids = (yield* fs.readDirectory("/proc")).filter((entry) => /^\d+$/.test(entry))
  return yield* Effect.filter(pids, (pid) =>
    fs.readFileString(`/proc/${pid}/cmdline`).pipe(
      Effect.map((line) => line.includes(text)),
      // It ended while we looked.
      Effect.orElseSucceed(() => false)
    ))
})

/** The VM processes of a sandbox. */
export const vmProcesses = (name: string) => processesWith(`\0--name\0${name}\0`)

/** The processes of the runtime, of whatever sandbox, that have a file of a home open: all of that home's. */
export const runtimeProcesses = Effect.fn("runtimeProcesses")(function*(home: string) {
  return yield* Effect.filter(yield* processesWith("\0machine\0"), (pid) => hasOpenBelow(pid, `${home}/`))
})

const hasOpenBelow = Effect.fn("hasOpenBelow")(function*(pid: string, directory: string) {
  const fs = yield* FileSystem.FileSystem
  const entries = yield* fs.readDirectory(`/proc/${pid}/fd`)
  const files = yield* Effect.forEach(entries, (entry) =>
    // It was closed while we looked.
    Effect.orElseSucceed(fs.readLink(`/proc/${pid}/fd/${entry}`), () => ""))
  return files.some((file) => file.startsWith(directory))
}, Effect.orElseSucceed(() => false))

/** Whether nothing of a sandbox is left in the backend or on this machine: its name can be used again. */
export const isFree = Effect.fn("isFree")(function*(name: string) {
  const found = yield* Effect.result(Sandbox.get(name))
  return Result.isFailure(found) && found.failure.reason._tag === "SandboxNotFound" &&
    !(yield* sandboxDirectories).includes(name) && (yield* vmProcesses(name)).length === 0
})

/** What the backend's home still holds of its sandboxes. */
export const sandboxDirectories = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const { home } = yield* Backend.Local
  const directory = path.join(home, "sandboxes")
  return (yield* fs.exists(directory)) ? yield* fs.readDirectory(directory) : []
})
