/** Programs behind a relay that speaks the agent's protocol and has no guest: at native speed. */
import { Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope, Stream } from "effect"
import * as crypto from "node:crypto"
import * as FakeRelay from "../support/FakeRelay.ts"
import { poured, sha256 } from "../support/Poured.ts"
import { layerBackend } from "../support/Sandboxes.ts"
import { mebibyte, readLate } from "../support/Slow.ts"

const SIGKILL = 9
const SIGCONT = 18
const SIGSTOP = 19

const open = Effect.fn("open")(function*(name: string) {
  const relay = yield* FakeRelay.make(name)
  return { relay, sandbox: yield* Sandbox.connect(name) }
})

const signals = (told: ReadonlyArray<FakeRelay.Told>) =>
  told.flatMap((event) => event._tag === "Signal" ? [event.signal] : [])

const exited = (event: FakeRelay.Told) => event._tag === "Exited"

layer(layerBackend, { timeout: "5 minutes", excludeTestServices: true })("a program's output", (it) => {
  it.effect(
    "is all there for a reader that comes late, and takes little memory until then",
    () =>
      Effect.gen(function*() {
        yield* FakeRelay.make("late")
        const bytes = 1024 * mebibyte
        const growth = yield* readLate({
          sandbox: "late",
          bytes,
          // Longer than the relay waits for a client that does not read.
          seconds: 30,
          command: ["pour", `${bytes}`],
          sha256: sha256(bytes),
          growth: 64
        })
        console.log(`1 GiB, growth: ${growth.toFixed(1)} MiB`)
      }),
    300_000
  )

  it.effect("stops the program at the mark and lets it go on when half was read", () =>
    Effect.gen(function*() {
      const { relay, sandbox } = yield* open("marks")
      const program = yield* sandbox.spawn("pour", [`${8 * mebibyte}`], { highWater: "1 MiB" })
      const stopped = yield* relay.until((event) => event._tag === "Signal")
      assert.deepStrictEqual(signals(stopped), [SIGSTOP])
      const chunks = yield* Stream.runCollect(program.stdout)
      assert.strictEqual(crypto.createHash("sha256").update(Buffer.concat(chunks)).digest("hex"), sha256(8 * mebibyte))
      const sent = signals(yield* relay.until(exited))
      assert.strictEqual(sent[0], SIGCONT)
      assert.isFalse(sent.includes(SIGKILL))
      assert.strictEqual((yield* program.exitStatus).exitCode, 0)
    }).pipe(Effect.scoped))

  it.effect("does not let a program go on that the user has stopped", () =>
    Effect.gen(function*() {
      const { relay, sandbox } = yield* open("user")
      const program = yield* sandbox.spawn("pour", [`${4 * mebibyte}`], { highWater: "1 MiB" })
      yield* relay.until((event) => event._tag === "Signal")
      yield* program.signal("SIGSTOP")
      const read = yield* Effect.forkChild(Stream.runCollect(program.stdout))
      // Answers after all that was asked before it.
      yield* sandbox.exec("echo")
      assert.deepStrictEqual(signals(yield* relay.until(exited)), [SIGSTOP])
      yield* program.signal(SIGCONT)
      const chunks = yield* Fiber.join(read)
      assert.strictEqual(crypto.createHash("sha256").update(Buffer.concat(chunks)).digest("hex"), sha256(4 * mebibyte))
    }).pipe(Effect.scoped))

  it.effect("ends a program that does not stop, after all that it had printed", () =>
    Effect.gen(function*() {
      const { relay, sandbox } = yield* open("evades")
      const program = yield* sandbox.spawn("evade", [], { highWater: "1 MiB" })
      const told = yield* relay.until(exited)
      assert.deepStrictEqual(signals(told), [SIGSTOP, SIGKILL])
      let bytes = 0
      const error = yield* Effect.flip(Stream.runForEach(program.stdout, (chunk) =>
        Effect.sync(() => {
          bytes += chunk.length
        })))
      assert.strictEqual(error.reason._tag, "OutputOverflow")
      assert.isAbove(bytes, 32 * mebibyte)
      assert.isBelow(bytes, 35 * mebibyte)
    }).pipe(Effect.scoped))

  it.effect("can be failed by, kept in part, or discarded", () =>
    Effect.gen(function*() {
      const { sandbox } = yield* open("policies")
      const all = Buffer.concat(Array.from({ length: 1024 }, (_, index) => poured(index)))
      const fails = yield* Effect.flip(sandbox.exec("pour", [`${all.length}`], { maxOutput: all.length - 1 }))
      assert.deepInclude(fails.reason, { _tag: "OutputOverflow", limitBytes: all.length - 1 })
      const fits = yield* sandbox.exec("pour", [`${all.length}`], { maxOutput: all.length })
      assert.isTrue(all.equals(fits.stdoutBytes))
      const keep = { head: 5000, tail: "10 kB" } as const
      const kept = yield* sandbox.exec("pour", [`${all.length}`], { output: { keep } })
      assert.deepStrictEqual(kept.dropped, { stdout: all.length - 15_000, stderr: 0 })
      assert.isTrue(Buffer.concat([all.subarray(0, 5000), all.subarray(-10_000)]).equals(kept.stdoutBytes))
      const spawned = yield* sandbox.spawn("pour", [`${all.length}`], { output: { keep } })
      yield* spawned.exitStatus
      const events = yield* Stream.runCollect(spawned.events)
      assert.deepStrictEqual(
        events.map((event) =>
          event._tag === "Stdout" ? event.data.length : event._tag === "Dropped" ? -event.bytes : event._tag
        ),
        ["Started", 5000, -(all.length - 15_000), 10_000, "Exited"]
      )
      const discarded = yield* sandbox.spawn("pour", [`${64 * mebibyte}`], { output: "discard" })
      assert.strictEqual((yield* discarded.exitStatus).exitCode, 0)
      assert.deepStrictEqual(yield* Stream.runCollect(discarded.all), [])
      const strict = yield* sandbox.spawn("pour", [`${all.length}`], { output: "fail", highWater: "1 MiB" })
      assert.strictEqual((yield* Effect.flip(strict.exitStatus)).reason._tag, "OutputOverflow")
    }).pipe(Effect.scoped))

  it.effect("is in the error of a program that took too long", () =>
    Effect.gen(function*() {
      const { sandbox } = yield* open("times")
      const exec = yield* Effect.flip(sandbox.exec("wait", [], { timeout: "300 millis" }))
      assert.deepInclude(exec.reason, { _tag: "ExecTimeout", timeoutMs: 300, stdout: "waiting", stderr: "" })
      const spawned = yield* sandbox.spawn("wait", [], { timeout: "300 millis" })
      assert.strictEqual(
        yield* Effect.flip(spawned.exitStatus).pipe(Effect.map(({ reason }) => reason._tag)),
        "ExecTimeout"
      )
      const read = yield* Effect.flip(Stream.runDrain(spawned.stdout))
      assert.deepInclude(read.reason, { _tag: "ExecTimeout", stdout: "waiting" })
    }).pipe(Effect.scoped))

  it.effect("ends with the program when its reader is interrupted and its scope closes", () =>
    Effect.gen(function*() {
      const { relay, sandbox } = yield* open("gone")
      const scope = yield* Scope.make()
      const program = yield* sandbox.spawn("pour", [`${64 * mebibyte}`]).pipe(Scope.provide(scope))
      const reader = yield* Effect.forkChild(Stream.runForEach(program.stdout, () => Effect.never))
      yield* relay.until((event) => event._tag === "Signal")
      yield* Fiber.interrupt(reader)
      yield* Scope.close(scope, Exit.void)
      const told = yield* relay.until(exited)
      assert.deepInclude(told.at(-1), { _tag: "Exited", cmd: "pour", code: -1 })
    }).pipe(Effect.scoped))

  it.effect("comes with the exit of a program that left something behind", () =>
    Effect.gen(function*() {
      const { sandbox } = yield* open("left")
      assert.strictEqual((yield* sandbox.exec("leave", ["3"])).exitCode, 3)
      const program = yield* sandbox.spawn("leave", ["4"])
      assert.strictEqual((yield* program.exitStatus).exitCode, 4)
    }).pipe(Effect.scoped))

  it.effect("of a connection that is lost is no exit", () =>
    Effect.gen(function*() {
      const { sandbox } = yield* open("lost")
      const program = yield* sandbox.spawn("vanish")
      assert.strictEqual((yield* Effect.flip(program.exitStatus)).reason._tag, "ExecSessionLost")
      assert.strictEqual((yield* Effect.flip(sandbox.exec("vanish"))).reason._tag, "ExecSessionLost")
      assert.strictEqual((yield* Effect.flip(sandbox.exec("garbage"))).reason._tag, "ExecSessionLost")
    }).pipe(Effect.scoped))

  it.effect("comes by the connection of the program before, unless that may still have something to say", () =>
    Effect.gen(function*() {
      const { relay, sandbox } = yield* open("reuses")
      const connected = Effect.fnUntraced(function*(exits = 1) {
        const told = yield* relay.until((event) => exited(event) && --exits === 0)
        return told.filter(({ _tag }) => _tag === "Connected").length
      })
      yield* sandbox.exec("true")
      yield* connected()
      for (let time = 0; time < 5; time++) {
        assert.strictEqual((yield* sandbox.exec("say", ["out", "err", `${time}`])).exitCode, time)
        assert.strictEqual(yield* connected(), 0)
      }
      // Two at once have one each.
      yield* Effect.forEach([1, 2], () => sandbox.exec("true"), { concurrency: 2 })
      assert.isAtMost(yield* connected(2), 1)
      // What was killed, or has had an input, gives its connection to nobody.
      for (const stdin of ["in", "put"]) {
        assert.strictEqual((yield* sandbox.exec("cat", [], { stdin })).stdout, stdin)
        yield* connected()
      }
      yield* Effect.scoped(sandbox.spawn("wait"))
      yield* connected()
      yield* Effect.flip(sandbox.exec("vanish"))
      assert.strictEqual((yield* sandbox.exec("say", ["on", "", "0"])).stdout, "on")
      assert.strictEqual(yield* connected(), 2)
    }).pipe(Effect.scoped))

  it.effect("is that of the sandbox's default command where none is given", () =>
    Effect.gen(function*() {
      const { sandbox } = yield* open("default")
      assert.strictEqual((yield* sandbox.execDefault()).stdout, "the default")
      const program = yield* sandbox.spawnDefault()
      assert.strictEqual(yield* Stream.mkString(Stream.decodeText(program.stdout)), "the default")
    }).pipe(Effect.scoped))
})
