/**
 * The demo: boots a microVM and uses it, from one Effect program.
 *
 *     npm run demo
 *     npm run demo -- --image alpine
 */
import { Backend, MicrosandboxError, Progress, Sandbox } from "@effect-microsandbox/core"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Cause, Clock, Console, Effect, FileSystem, Layer, Option, Path, Ref, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import * as os from "node:os"
import * as Rootfs from "./Rootfs.ts"

const image = Flag.String("image").pipe(
  Flag.withDescription("Boot this image from its registry, instead of a root file system made of busybox"),
  Flag.optional
)

/** Prints what was done, and the time that it took since the last step. */
const makeSteps = Effect.gen(function*() {
  const last = yield* Ref.make(yield* Clock.currentTimeMillis)
  return Effect.fnUntraced(function*(text: string) {
    const now = yield* Clock.currentTimeMillis
    const before = yield* Ref.getAndSet(last, now)
    yield* Console.log(`${((now - before) / 1000).toFixed(2).padStart(7)} s  ${text}`)
  })
})

const ticks = "for i in 1 2 3 4 5; do echo tick $i; sleep 0.5; done"

const demo = Effect.fn("demo")(function*(image: Option.Option<string>) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const step = yield* makeSteps
  const { home } = yield* Backend.Local

  const root = Option.isSome(image) ? image.value : yield* Rootfs.make(path.join(home, "demo-root"))
  if (Option.isNone(image)) yield* step("made a root file system of busybox")

  yield* Effect.scoped(Effect.gen(function*() {
    const sandbox = yield* Sandbox.makeStream({ image: root, memory: "256 MiB" }).pipe(
      Progress.render,
      Sandbox.fromStream
    )
    yield* step(`booted the microVM ${sandbox.name}`)

    const uname = yield* sandbox.exec("uname", ["-a"])
    yield* step(`asked for its kernel:  ${uname.stdout.trim()}`)

    const program = yield* sandbox.spawn("sh", ["-c", ticks])
    yield* program.stdout.pipe(
      Stream.decodeText,
      Stream.splitLines,
      Stream.runForEach((line) => step(`streamed a line as it was printed:  ${line}`))
    )
    const { exitCode } = yield* program.exitStatus
    yield* step(`the program exited with ${exitCode}`)

    yield* sandbox.shell("cat > /tmp/hello.txt", { stdin: "hello from the host\n" })
    yield* step("wrote /tmp/hello.txt in the guest")
    const file = yield* sandbox.exec("cat", ["/tmp/hello.txt"])
    yield* step(`read it back:  ${file.stdout.trim()}`)
  }))
  yield* step("stopped the microVM and removed it")

  const left = yield* fs.readDirectory(path.join(home, "sandboxes"))
  if (left.length > 0) return yield* Effect.die(new Error(`left behind: ${left.join(", ")}`))
}, Effect.scoped)

/** One line for what a user can mend, everything for a bug, nothing for Ctrl-C. */
const tell = (cause: Cause.Cause<unknown>): Effect.Effect<void> => {
  const error = Cause.squash(cause)
  if (Cause.hasInterruptsOnly(cause)) return Effect.void
  return MicrosandboxError.isMicrosandboxError(error) || error instanceof Rootfs.BusyboxMissing
    ? Console.error(`demo: ${error.message}`)
    : Effect.logError(cause)
}

/** A backend in a home of its own, which is gone when the demo ends, however it ends. */
const layerBackend = Layer.unwrap(Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const prefix = "msb-"
  // Sockets live below a home: its path has at most 55 bytes. The name gets six random characters.
  const fits = Buffer.byteLength(`${os.tmpdir()}/${prefix}`) + 6 <= 55
  return Backend.layerLocal({
    home: yield* fs.makeTempDirectoryScoped({ prefix, directory: fits ? os.tmpdir() : "/tmp" })
  })
}))

Command.make("demo", { image }, ({ image }) => demo(image).pipe(Effect.provide(layerBackend))).pipe(
  Command.withDescription("Boot a microVM from an Effect program and use it"),
  Command.run({ version: "0.1.0" }),
  Effect.tapCause(tell),
  Effect.provide(NodeServices.layer),
  NodeRuntime.runMain({ disableErrorReporting: true })
)
