/** A terminal and a program in a real guest, face to face. */
import { Attach, Backend, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer, Queue, Stdio, Stream, Terminal } from "effect"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"
import { typed } from "../support/Typed.ts"

const layerSandbox = Layer.unwrap(Effect.map(rootDirectory, (image) => Sandbox.layer({ image }))).pipe(
  Layer.provideMerge(layerBackend)
)

/** The guest has no process with this word in its command line, or will not have soon. */
const isGone = Effect.fn("isGone")(function*(word: string) {
  const sandbox = yield* Sandbox.Sandbox
  const { exitCode } = yield* sandbox.shell(
    `for i in $(seq 50); do ps -o args | grep -v grep | grep -q '${word}' || exit 0; sleep 0.1; done; exit 1`
  )
  return exitCode === 0
})

/** A program at a terminal, and the settings of the terminal before and after. */
const atTerminal = Effect.fn("atTerminal")(function*(what: string) {
  const sandbox = yield* Sandbox.Sandbox
  const { home } = yield* Backend.Local
  return yield* typed([
    `node test/support/programs/attach.ts ${home} ${sandbox.name} ${what}`,
    "echo code: $?",
    "[ \"$before\" = \"$(stty -g)\" ] && echo the same || echo another"
  ])
})

layer(layerSandbox, { timeout: "10 minutes", excludeTestServices: true })("an attached terminal", (it) => {
  it.effect("is the program's: its size and kind, its keys, its exit; and then it is as it was", () =>
    Effect.gen(function*() {
      const { resize, see, type } = yield* atTerminal("shell")
      yield* see(/# /)
      yield* type("stty size; echo kind $TERM\r")
      yield* see(/\n33 111\r/)
      yield* see(/\nkind vt220\r/)
      yield* resize(40, 120)
      yield* type("until [ \"$(stty size)\" = '40 120' ]; do sleep 0.1; done; echo it is re''sized\r")
      yield* see(/it is resized/)
      // An interrupt is the guest's, and does not end the session.
      yield* type("echo sleep''ing; sleep 8762\r")
      yield* see(/sleeping/)
      yield* type("\x03")
      yield* see(/# /)
      yield* type("echo still he''re\r")
      yield* see(/still here/)
      yield* type("exit 7\r")
      yield* see(/ended: exit 7/)
      yield* see(/code: 0\r/)
      yield* see(/the same/)
    }))

  it.effect("is as it was also when its process is told to end, or breaks", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      yield* Effect.scoped(Effect.gen(function*() {
        const { see, type } = yield* atTerminal("shell")
        const pid = Number(yield* see(/pid: (\d+) \r?/))
        yield* see(/# /)
        yield* type("echo wait''ing; sleep 8761\r")
        yield* see(/waiting/)
        process.kill(pid, "SIGINT")
        yield* see(/code: 130\r/)
        yield* see(/the same/)
      }))
      assert.isTrue(yield* isGone("8761"))
      yield* Effect.scoped(Effect.gen(function*() {
        const { see } = yield* atTerminal("defect")
        yield* see(/# /)
        yield* sandbox.shell("touch /tmp/break")
        yield* see(/broken on purpose/)
        yield* see(/code: 1\r/)
        yield* see(/the same/)
      }))
    }))

  it.effect("leaves a program by its keys and comes back to it, until its scope ends", () =>
    Effect.gen(function*() {
      const { see, type } = yield* atTerminal("again")
      yield* see(/# /)
      yield* type("kept=yes\r")
      yield* see(/# /)
      yield* type("\x10")
      yield* type("\x11")
      yield* see(/ended: detached/)
      yield* type("echo it has $kept\r")
      yield* see(/it has yes/)
      yield* type("\x1d")
      yield* see(/ended: detached/)
      yield* see(/code: 0\r/)
      yield* see(/the same/)
      assert.isTrue(yield* isGone("8760"))
    }))

  it.effect("is refused where there is none, and so are keys that there are not", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const none = yield* Effect.flip(sandbox.attachShell())
      assert.deepStrictEqual([none.operation, none.reason._tag], ["Sandbox.attachShell", "Terminal"])
      const { reason } = yield* Effect.flip(sandbox.attach("sh", [], { detachKeys: "ctrl-ä" }))
      assert.deepInclude(reason, { _tag: "InvalidConfig", field: "detachKeys" })
    }).pipe(Effect.provide(Layer.merge(Stdio.layerTest({}), layerTerminal))))

  it.effect("is let go of within bounds when it is interrupted, and its program too", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const { native } = yield* Backend.Backend
      const before = yield* native.live
      let raw = 0
      const rawMode = Effect.asVoid(Effect.acquireRelease(
        Effect.sync(() => raw++),
        () => Effect.sync(() => raw--)
      ))
      for (const delay of [0, 20, 100, 1000]) {
        const fiber = yield* Effect.forkChild(
          sandbox.attach("sleep", ["8759"]).pipe(Effect.provideService(Attach.RawMode, rawMode))
        )
        yield* Effect.sleep(delay)
        yield* Effect.timeoutOrElse(Fiber.interrupt(fiber), {
          duration: "10 seconds",
          orElse: () => Effect.die(new Error("not within 10 seconds"))
        })
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        assert.deepStrictEqual([raw, yield* native.live], [0, before], `after ${delay} ms`)
      }
      assert.isTrue(yield* isGone("8759"))
    }).pipe(
      Effect.provide(
        Layer.merge(
          Stdio.layerTest({ stdinIsTerminal: Effect.succeed(true), stdin: Stream.never }),
          layerTerminal
        )
      )
    ))
})

/** Of no size, as a terminal that does not tell it. */
const layerTerminal = Layer.succeed(
  Terminal.Terminal,
  Terminal.make({
    columns: Effect.succeed(0),
    rows: Effect.succeed(0),
    size: Effect.flatMap(
      Queue.unbounded<Terminal.Size, Cause.Done>(),
      (queue) => Effect.as(Queue.offer(queue, { columns: 0, rows: 0 }), queue)
    ),
    readInput: Effect.never,
    readLine: Effect.never,
    display: () => Effect.void
  })
)
