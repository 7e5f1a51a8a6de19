/** The output of programs in one real sandbox: bounded, and told with the end of the program. */
import { Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Scope, Stream } from "effect"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"
import { mebibyte, readShellLate } from "../support/Slow.ts"

const layerSandbox = Layer.unwrap(
  Effect.map(rootDirectory, (image) => Sandbox.layer({ image, entrypoint: ["echo", "the"], cmd: ["default"] }))
).pipe(Layer.provideMerge(layerBackend))

layer(layerSandbox, { timeout: "10 minutes", excludeTestServices: true })("the output of a program", (it) => {
  it.effect("is all there for a reader that comes late, and takes little memory until then", () =>
    Effect.gen(function*() {
      const { name } = yield* Sandbox.Sandbox
      // Longer than the relay waits for a client that does not read.
      yield* readShellLate({ sandbox: name, mebibytes: 6, seconds: 6, highWater: "1 MiB" })
    }))

  it.effect("ends with the program when its reader is interrupted and its scope closes", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const scope = yield* Scope.make()
      const program = yield* sandbox.spawn("yes", ["4242"], { highWater: "64 KiB" }).pipe(Scope.provide(scope))
      const reader = yield* Effect.forkChild(Stream.runForEach(program.stdout, () => Effect.never))
      const state = Effect.map(
        sandbox.exec("cat", [`/proc/${program.pid}/stat`]),
        ({ stdout }) => stdout.split(" ")[2]
      )
      // Stopped for its output.
      yield* Effect.repeat(Effect.delay(state, 50), { until: (state) => state === "T" })
      yield* Fiber.interrupt(reader)
      yield* Scope.close(scope, Exit.void)
      assert.notStrictEqual((yield* sandbox.exec("test", ["-e", `/proc/${program.pid}`])).exitCode, 0)
    }))

  it.effect("does not keep the exit of a program back that left something behind", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const output = yield* sandbox.shell("sleep 999 & (sleep 0.1; echo late) & echo out; exit 3")
      assert.deepStrictEqual([output.exitCode, output.stdout, output.signaled], [3, "out\nlate\n", false])
      const program = yield* sandbox.spawn("sh", ["-c", "sleep 998 & echo out; exit 4"])
      assert.deepStrictEqual(yield* program.exitStatus, { exitCode: 4, success: false, signaled: false })
      assert.strictEqual(yield* Stream.mkString(Stream.decodeText(program.stdout)), "out\n")
      const { stdout } = yield* sandbox.exec("ps", ["-o", "args"])
      assert.notMatch(stdout, /sleep 99[89]/)
    }).pipe(Effect.scoped))

  it.effect("is told with the time that a program took too long, and with its limits", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const late = yield* Effect.flip(sandbox.shell("echo so far; echo wrong >&2; sleep 997", { timeout: "2 seconds" }))
      assert.deepInclude(late.reason, { _tag: "ExecTimeout", stdout: "so far\n", stderr: "wrong\n" })
      const much = yield* Effect.flip(sandbox.exec("yes", [], { maxOutput: "100 KiB" }))
      assert.deepInclude(much.reason, { _tag: "OutputOverflow", limitBytes: 102_400, stdout: "y\n".repeat(32_768) })
      const limited = yield* sandbox.shell("ulimit -n; ulimit -c", { rlimits: { nofile: 77, core: "unlimited" } })
      assert.strictEqual(limited.stdout, "77\nunlimited\n")
      assert.strictEqual((yield* sandbox.execDefault()).stdout, "the default\n")
    }))

  it.effect("comes from what a stream or a terminal gives the program", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const piece = new Uint8Array(mebibyte).fill(120)
      const stdin = Stream.take(Stream.forever(Stream.make(piece)), 6)
      assert.strictEqual((yield* sandbox.exec("wc", ["-c"], { stdin })).stdout.trim(), `${6 * mebibyte}`)
      const head = yield* sandbox.exec("head", ["-c", "2"], { stdin: Stream.forever(Stream.make("ab")) })
      assert.strictEqual(head.stdout, "ab")
      const broken = yield* Effect.flip(sandbox.exec("cat", [], { stdin: Stream.fail("broken" as const) }))
      assert.strictEqual(broken, "broken")
      const tty = yield* sandbox.shell("stty size; echo $TERM | wc -w", { tty: { rows: 33, columns: 111 } })
      assert.strictEqual(tty.stdout, "33 111\r\n1\r\n")
      const deaf = yield* sandbox.spawn("sh", ["-c", "exec 0<&-; sleep 1"], { stdin: "pipe" })
      const closed = yield* Effect.flip(Stream.run(Stream.forever(Stream.make("x")), deaf.stdin))
      assert.strictEqual(closed.reason._tag, "StdinFailed")
      const told = yield* Stream.runCollect(deaf.events)
      assert.lengthOf(told.filter(({ _tag }) => _tag === "StdinFailed"), 1)
      const program = yield* sandbox.spawn("sleep", ["996"])
      yield* program.signal("SIGTERM")
      assert.deepStrictEqual(yield* program.exitStatus, { exitCode: -1, success: false, signaled: true })
    }).pipe(Effect.scoped))
})
