/** What a spawner of a guest has beside what every spawner has: its errors' cause, the host's streams, and its sandbox. */
import { Backend, MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Layer, type PlatformError, Scope, Sink, Stdio, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ExitCode } from "effect/process/ChildProcessSpawner"
import { program } from "../../demo/SameProgram.ts"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"

const layerSandbox = Layer.unwrap(
  Effect.map(rootDirectory, (image) => Sandbox.layer({ image, memory: "256 MiB" }))
).pipe(Layer.provideMerge(layerBackend))

const layerGuest = Layer.unwrap(Effect.map(Sandbox.Sandbox, Sandbox.servicesOf)).pipe(Layer.provideMerge(layerSandbox))

const sh = (script: string, options?: ChildProcess.CommandOptions) => ChildProcess.make("sh", ["-c", script], options)

/** A host whose input is a text, and what is written to it. */
const makeHost = (stdin: string) => {
  const written: Record<"stdout" | "stderr", Array<string>> = { stdout: [], stderr: [] }
  const to = (name: "stdout" | "stderr") => () =>
    Sink.forEach((chunk: string | Uint8Array) =>
      Effect.sync(() => {
        written[name].push(Buffer.from(chunk as Uint8Array).toString())
      })
    )
  return {
    written,
    stdio: Stdio.make({
      args: Effect.succeed([]),
      stdin: Stream.make(new TextEncoder().encode(stdin)),
      stdout: to("stdout"),
      stderr: to("stderr")
    })
  }
}

layer(layerGuest, { timeout: "10 minutes", excludeTestServices: true })("the spawner of a guest", (it) => {
  it.effect("runs a program that knows nothing of sandboxes, to the same answer as on this machine", () =>
    Effect.gen(function*() {
      const there = yield* program
      const here = yield* Effect.provide(program, NodeServices.layer)
      assert.isAbove(there.length, 10)
      assert.deepStrictEqual(there, here)
    }))

  it.effect("is the guest's, and not this machine's", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      assert.match(yield* sandbox.spawner.string(ChildProcess.make`uname -r`), /^6\.12\./)
    }))

  it.effect("has the sandbox's error as the cause of its own", () =>
    Effect.gen(function*() {
      const { reason } = yield* Effect.flip(ChildProcess.make("no-such-program", []))
      assert.strictEqual(reason._tag, "NotFound")
      assert(MicrosandboxError.isMicrosandboxError(reason.cause))
      assert.strictEqual(reason.cause.reason._tag, "ExecFailed")
    }))

  it.effect("tells as errors what Node throws", () =>
    Effect.gen(function*() {
      const tag = (command: ChildProcess.Command) =>
        Effect.map(Effect.flip(command), ({ reason }: PlatformError.PlatformError) => reason._tag)
      assert.strictEqual(yield* tag(ChildProcess.make("/etc/passwd/program", [])), "BadResource")
      assert.strictEqual(yield* tag(ChildProcess.make("pwd", [], { cwd: "/etc/passwd" })), "BadResource")
      assert.strictEqual(yield* tag(ChildProcess.make("", [])), "BadArgument")
      assert.strictEqual(yield* tag(ChildProcess.make("a=b", [], { env: {} })), "NotFound")
      assert.strictEqual(
        yield* tag(ChildProcess.make("true", [], { additionalFds: { fd10: { type: "output" } } })),
        "BadArgument"
      )
    }))

  it.effect("gives a program the host's streams, all of what it prints before its end is told", () =>
    Effect.gen(function*() {
      const { stdio, written } = makeHost("from the host\n")
      const code = yield* sh("cat; echo err >&2; exit 3", { stdin: "inherit", stdout: "inherit", stderr: "inherit" })
        .pipe(
          Effect.flatMap((handle) => handle.exitCode),
          Effect.scoped,
          Effect.provideService(Stdio.Stdio, stdio)
        )
      assert.strictEqual(code, ExitCode(3))
      assert.deepStrictEqual([written.stdout.join(""), written.stderr.join("")], ["from the host\n", "err\n"])
    }))

  it.effect("gives back all that it took, whatever became of the programs", () =>
    Effect.gen(function*() {
      const { native } = yield* Backend.Backend
      const before = yield* native.live
      yield* Effect.exit(Effect.scoped(ChildProcess.make("no-such-program", [])))
      yield* Effect.scoped(sh("cat <&3", { additionalFds: { fd3: { type: "input" } } }))
      yield* Effect.scoped(ChildProcess.pipeTo(sh("exec sleep 600"), sh("exec sleep 600")))
      const scope = yield* Scope.make()
      const handle = yield* Scope.provide(sh("exec sleep 600"), scope)
      yield* Effect.asVoid(handle.unref)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* native.live, { ...before, execs: before.execs + 1 })
    }))
})
