/** Logs without a VM: the engine reads files that we write as its runtime does. */
import { Backend, Logs, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { DateTime, Effect, Fiber, FileSystem, Option, Queue, Ref, Result, Schema, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { layerBackend } from "../support/Sandboxes.ts"
import { line, makeRow, removeRow, setStatus } from "../support/Store.ts"

const start = Date.parse("2026-05-01T00:00:00Z")

const texts = (entries: ReadonlyArray<Logs.Entry>) => entries.map(({ text }) => text)

const collect = (name: string, options?: Logs.StreamOptions) => Stream.runCollect(Sandbox.logStream(name, options))

const reasonOf = (name: string, options?: Logs.StreamOptions) =>
  Effect.map(Effect.flip(collect(name, options)), ({ reason }) => reason)

/** A reader of a stream, and what it has seen. */
const follow = Effect.fn("follow")(function*(name: string, options: Logs.StreamOptions = {}) {
  const seen = yield* Queue.unbounded<string>()
  const fiber = yield* Effect.forkChild(Stream.runForEach(
    Sandbox.logStream(name, { ...options, follow: true }),
    ({ text }) => Queue.offer(seen, text)
  ))
  return {
    ended: Fiber.join(fiber),
    interrupt: Fiber.interrupt(fiber),
    next: Queue.take(seen),
    rest: Queue.clear(seen)
  }
})

layer(layerBackend, { excludeTestServices: true, timeout: "1 minute" })("the logs of a sandbox", (it) => {
  it.effect("are read by source, time and number, in the order of their time", () =>
    Effect.gen(function*() {
      const sandbox = yield* makeRow("read", "Stopped")
      yield* sandbox.write("exec.log.1", line(start, "a", "stdout", 7) + line(start + 1000, "b", "stderr", 7))
      yield* sandbox.write(
        "exec.log",
        `${line(start + 2000, "c", "output", 8)}not a line\n${line(start + 3000, "d", "system")}${
          line(start + 4000, "e", "stdout", 9)
        }`
      )
      yield* sandbox.write("runtime.log", "2026-05-01T00:00:01.500Z  INFO booting\n")
      const cases: ReadonlyArray<readonly [options: Logs.Options, expected: ReadonlyArray<string>]> = [
        [{}, ["a", "b", "c", "e"]],
        [{ sources: ["stdout"] }, ["a", "e"]],
        [{ sources: ["stderr", "output"] }, ["b", "c"]],
        [{ sources: ["stdout", "stderr", "output", "system"] }, ["a", "b", "INFO booting\n", "c", "d", "e"]],
        [{ since: start + 1000 }, ["b", "c", "e"]],
        [{ until: new Date(start + 2000) }, ["a", "b"]],
        [{ since: "2026-05-01T00:00:01Z", until: DateTime.makeUnsafe(start + 4000) }, ["b", "c"]],
        [{ tail: 2 }, ["c", "e"]],
        [{ tail: 0 }, []],
        [{ tail: 100, until: start + 1 }, ["a"]],
        [{ since: 8.64e15 }, []],
        [{ since: -8.64e15, tail: 1 }, ["e"]]
      ]
      for (const [options, expected] of cases) {
        assert.deepStrictEqual(texts(yield* Sandbox.logs("read", options)), expected, JSON.stringify(options))
        if (options.tail === undefined) {
          // Among sources a stream has no order; these have one file, or are sorted.
          const streamed = yield* collect("read", options)
          assert.deepStrictEqual(texts(streamed).sort(), [...expected].sort(), JSON.stringify(options))
        }
      }
      const [first] = yield* Sandbox.logs("read", { tail: 4 })
      assert.deepStrictEqual(
        [first!.source, first!.sessionId, DateTime.toEpochMillis(first!.timestamp)],
        ["stdout", 7, start]
      )
      const [system] = yield* Sandbox.logs("read", { sources: ["system"], until: start + 2000 })
      assert.deepStrictEqual([system!.source, system!.sessionId], ["system", undefined])
      // An entry is data.
      assert.isTrue(Schema.is(Logs.Entry)(first))
    }))

  it.effect("are refused with the field that is wrong, or the sandbox that is missing", () =>
    Effect.gen(function*() {
      yield* makeRow("strict", "Stopped")
      const mistakes: ReadonlyArray<readonly [field: string, options: object]> = [
        ["sources", { sources: [] }],
        ["sources.0", { sources: ["kernel"] }],
        ["since", { since: "yesterday" }],
        ["since", { since: Number.NaN }],
        ["until", { until: "" }],
        ["colour", { colour: "red" }]
      ]
      const collected: typeof mistakes = [["tail", { tail: -1 }], ["tail", { tail: 1.5 }], ["tail", { tail: 2 ** 32 }]]
      const streamed: typeof mistakes = [
        ["cursor", { cursor: 1 }],
        ["cursor", { cursor: "", since: start }],
        ["follow", { follow: "yes" }]
      ]
      for (const [field, options] of [...mistakes, ...collected]) {
        const { reason } = yield* Effect.flip(Sandbox.logs("strict", options))
        assert.deepStrictEqual(reason._tag === "InvalidConfig" ? reason.field : reason, field, JSON.stringify(options))
      }
      for (const [field, options] of [...mistakes, ...streamed]) {
        const reason = yield* reasonOf("strict", options)
        assert.deepStrictEqual(reason._tag === "InvalidConfig" ? reason.field : reason, field, JSON.stringify(options))
      }
      assert.strictEqual((yield* reasonOf("../strict"))._tag, "InvalidConfig")
      for (const options of [{}, { follow: true }]) {
        assert.strictEqual((yield* reasonOf("nobody", options))._tag, "SandboxNotFound")
      }
      assert.strictEqual((yield* Effect.flip(Sandbox.logs("nobody"))).reason._tag, "SandboxNotFound")
    }))

  it.effect("come complete and in order, in batches, through all rotated files", () =>
    Effect.gen(function*() {
      const sandbox = yield* makeRow("many", "Stopped")
      const lines = Array.from({ length: 10_000 }, (_, index) => `${index} ${"x".repeat(index % 97)}\n`)
      for (const [index, log] of ["exec.log.4", "exec.log.3", "exec.log.2", "exec.log.1", "exec.log"].entries()) {
        const part = lines.slice(index * 2000, (index + 1) * 2000)
        yield* sandbox.write(log, part.map((text, at) => line(start + index * 2000 + at, text)).join(""))
      }
      const batches: Array<number> = []
      const entries = yield* Stream.runCollect(
        Sandbox.logStream("many").pipe(Stream.mapArray((chunk) => {
          batches.push(chunk.length)
          return chunk
        }))
      )
      assert.deepStrictEqual(texts(entries), lines)
      // Neither one by one nor all at once.
      assert.isTrue(batches.length > 1 && batches.length < 1000, String(batches.length))
      assert.deepStrictEqual(texts(yield* Sandbox.logs("many")), lines)
    }))

  // Made once, since a property is tried many times.
  const parts = Effect.gen(function*() {
    if (Option.isSome(yield* Effect.option(Sandbox.get("many-parts")))) return
    const sandbox = yield* makeRow("many-parts", "Stopped")
    for (const [index, log] of ["exec.log.2", "exec.log.1", "exec.log"].entries()) {
      const numbers = Array.from({ length: index < 2 ? 15 : 10 }, (_, at) => index * 15 + at)
      yield* sandbox.write(
        log,
        numbers.map((number) => line(start + number, `${number}`, number % 3 === 0 ? "stderr" : "stdout")).join("")
      )
    }
    const kernel = Array.from({ length: 10 }, (_, at) => `2026-05-01T00:00:00.0${at}Z kernel ${at}\n`)
    yield* sandbox.write("kernel.log", kernel.join(""))
  })

  it.effect.prop("are resumed at any entry without loss or repetition", [
    Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 9 }))).check(Schema.isMaxLength(12)),
    Schema.Boolean
  ], ([counts, withSystem]) =>
    Effect.gen(function*() {
      yield* parts
      const sources: ReadonlyArray<Logs.Source> = withSystem ? ["stdout", "stderr", "system"] : ["stdout", "stderr"]
      const whole = yield* collect("many-parts", { sources })
      const read: Array<Logs.Entry> = []
      for (const count of counts) {
        const cursor = read.at(-1)?.cursor
        read.push(
          ...(yield* Stream.runCollect(Stream.take(
            Sandbox.logStream("many-parts", cursor === undefined ? { sources } : { sources, cursor }),
            count
          )))
        )
      }
      const cursor = read.at(-1)?.cursor
      read.push(...(yield* collect("many-parts", cursor === undefined ? { sources } : { sources, cursor })))
      assert.lengthOf(whole, withSystem ? 50 : 40)
      // The system's entries come between the others as the files are read; each have their order.
      const [ours, theirs] = [read, whole].map((entries) => [
        texts(entries.filter(({ source }) => source === "system")),
        texts(entries.filter(({ source }) => source !== "system"))
      ])
      assert.deepStrictEqual(ours, theirs)
    }))

  it.effect("are refused for a cursor that is none, or whose file is gone", () =>
    Effect.gen(function*() {
      const sandbox = yield* makeRow("cursors", "Stopped")
      yield* sandbox.write("exec.log", line(start, "a"))
      const [{ cursor }] = (yield* Sandbox.logs("cursors")) as [Logs.Entry]
      assert.deepStrictEqual(yield* collect("cursors", { cursor }), [])
      // Kept under another name: a cursor knows its file by its number, which the file system would give to the next.
      const fs = yield* FileSystem.FileSystem
      yield* fs.link(`${sandbox.logs}/exec.log`, `${sandbox.logs}/kept`)
      for (let round = 0; round < 5; round++) yield* sandbox.rotate
      for (const bad of [cursor, "", "nonsense!", cursor.slice(4), `${cursor}${cursor}`]) {
        assert.strictEqual((yield* reasonOf("cursors", { cursor: bad }))._tag, "InvalidCursor", bad)
      }
    }))

  it.effect("are followed until the sandbox stops, and have all that was written until then", () =>
    Effect.gen(function*() {
      const sandbox = yield* makeRow("followed", "Running")
      yield* sandbox.write("exec.log", line(start, "before"))
      const reader = yield* follow("followed")
      assert.strictEqual(yield* reader.next, "before")
      for (const text of ["one", "two", "three"]) {
        yield* sandbox.append("exec.log", line(Date.now(), text))
        assert.strictEqual(yield* reader.next, text)
      }
      yield* sandbox.append("exec.log", line(Date.now(), "last"))
      yield* setStatus("followed", "Stopped")
      yield* reader.ended
      assert.deepStrictEqual(yield* reader.rest, ["last"])
      // Of a sandbox that has stopped there is nothing to wait for.
      assert.deepStrictEqual(texts(yield* collect("followed", { follow: true })), [
        "before",
        "one",
        "two",
        "three",
        "last"
      ])
    }))

  it.effect("are followed through rotations, from a cursor too", () =>
    Effect.gen(function*() {
      const sandbox = yield* makeRow("rotated", "Running")
      yield* sandbox.write("exec.log", line(start, "0"))
      const [{ cursor }] = (yield* Sandbox.logs("rotated")) as [Logs.Entry]
      const whole = yield* follow("rotated")
      const later = yield* follow("rotated", { cursor })
      assert.strictEqual(yield* whole.next, "0")
      for (const text of ["1", "2", "3", "4", "5", "6", "7"]) {
        yield* sandbox.append("exec.log", line(Date.now(), text))
        assert.strictEqual(yield* whole.next, text)
        assert.strictEqual(yield* later.next, text)
        yield* sandbox.rotate
        yield* sandbox.append("exec.log", line(Date.now(), `${text}, after`))
        assert.strictEqual(yield* whole.next, `${text}, after`)
        assert.strictEqual(yield* later.next, `${text}, after`)
      }
      yield* setStatus("rotated", "Stopped")
      yield* whole.ended
      yield* later.ended
    }))

  it.effect("are whole up to where their follower is told that it was too slow, however fast they are written", () =>
    Effect.gen(function*() {
      const spawner = yield* ChildProcessSpawner
      const lines = 40_000
      const sandbox = yield* makeRow("fast", "Running")
      yield* sandbox.write("exec.log", "")
      const reader = yield* follow("fast")
      const program = ["test/support/programs/writeLogs.ts", sandbox.logs, `${lines}`]
      assert.strictEqual(yield* spawner.exitCode(ChildProcess.make("node", program, { stderr: "inherit" })), 0)
      yield* setStatus("fast", "Stopped")
      const exit = yield* Effect.result(reader.ended)
      const seen = (yield* reader.rest).map((text) => Number(text.split(":")[0]))
      assert.deepStrictEqual(seen, seen.map((_, index) => index))
      if (Result.isFailure(exit)) {
        assert.strictEqual(exit.failure.reason._tag, "MissedRotation")
      } else {
        assert.lengthOf(seen, lines)
      }
    }))

  it.effect("tell a reader whose file was rotated away", () =>
    Effect.gen(function*() {
      const sandbox = yield* makeRow("missed", "Running")
      yield* sandbox.write("exec.log", line(start, "a"))
      const reader = yield* follow("missed")
      assert.strictEqual(yield* reader.next, "a")
      const fs = yield* FileSystem.FileSystem
      yield* fs.remove(`${sandbox.logs}/exec.log`)
      yield* sandbox.write("exec.log", line(start, "b"))
      const { reason } = yield* Effect.flip(reader.ended)
      assert.strictEqual(reason._tag === "MissedRotation" ? reason.droppedFromOffset : reason, line(start, "a").length)
    }))

  it.effect("end for their follower when the sandbox is removed, or replaced by another of its name", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      for (const replaced of [false, true]) {
        const sandbox = yield* makeRow("removed", "Running")
        yield* sandbox.write("exec.log", line(start, "a"))
        const reader = yield* follow("removed")
        assert.strictEqual(yield* reader.next, "a")
        yield* removeRow("removed")
        yield* fs.remove(sandbox.logs, { recursive: true })
        if (replaced) yield* makeRow("removed", "Running")
        yield* reader.ended
        assert.deepStrictEqual(yield* reader.rest, [])
        if (replaced) yield* removeRow("removed")
      }
    }))

  it.effect("end at their time, also when nothing is written after it", () =>
    Effect.gen(function*() {
      const sandbox = yield* makeRow("timed", "Running")
      const silent = yield* makeRow("silent", "Running")
      for (const { write } of [sandbox, silent]) yield* write("exec.log", line(start, "a"))
      const until = Date.now() + 300
      const quiet = yield* follow("silent", { until })
      yield* sandbox.append("exec.log", line(until - 1, "b") + line(until, "c") + line(until - 1, "d"))
      const busy = yield* follow("timed", { until })
      yield* quiet.ended
      assert.deepStrictEqual(yield* quiet.rest, ["a"])
      yield* busy.ended
      assert.deepStrictEqual(yield* busy.rest, ["a", "b", "d"])
      // A time that has passed is a reason not to wait at all.
      assert.deepStrictEqual(texts(yield* collect("timed", { follow: true, until: start + 1 })), ["a"])
    }))

  it.effect("lose nothing to a reader that is interrupted again and again", () =>
    Effect.gen(function*() {
      const sandbox = yield* makeRow("hasty", "Running")
      const lines = Array.from({ length: 300 }, (_, index) => `${index}`)
      const read = yield* Ref.make<ReadonlyArray<string>>([])
      yield* Effect.scoped(Effect.gen(function*() {
        const pull = yield* Stream.toPull(Sandbox.logStream("hasty", { follow: true }))
        yield* Effect.forkScoped(Effect.forEach(lines, (text) =>
          Effect.andThen(sandbox.append("exec.log", line(Date.now(), text)), Effect.sleep(2))))
        while ((yield* Ref.get(read)).length < lines.length) {
          // Whatever comes is noted in the pull's own step; an interruption is before or after it.
          yield* Effect.flatMap(pull, (entries) =>
            Ref.update(read, (all) => [...all, ...texts(entries)])).pipe(
              Effect.uninterruptible,
              Effect.timeoutOption(3)
            )
        }
      }))
      assert.deepStrictEqual(yield* Ref.get(read), lines)
    }))

  it.effect("give their handle back when the reader goes away, wherever it is", () =>
    Effect.gen(function*() {
      const sandbox = yield* makeRow("abandoned", "Running")
      yield* sandbox.write("exec.log", line(start, "a") + line(start, "b"))
      const { native } = yield* Backend.Backend
      const before = yield* native.live
      const [first] = yield* Stream.runCollect(Stream.take(Sandbox.logStream("abandoned", { follow: true }), 1))
      assert.strictEqual(first?.text, "a")
      assert.deepStrictEqual(yield* native.live, before)
      const reader = yield* follow("abandoned")
      yield* reader.next
      yield* reader.next
      assert.strictEqual((yield* native.live).logs, before.logs + 1)
      yield* reader.interrupt
      assert.deepStrictEqual(yield* native.live, before)
      yield* Effect.exit(collect("abandoned", { cursor: "nonsense!" }))
      assert.deepStrictEqual(yield* native.live, before)
    }))

  it.effect("say why the sandbox could not start, if it could not", () =>
    Effect.gen(function*() {
      const sandbox = yield* makeRow("unbootable", "Stopped")
      assert.deepStrictEqual(yield* Logs.bootError("unbootable"), Option.none())
      yield* sandbox.write(
        "boot-error.json",
        JSON.stringify({ t: "2026-05-01T00:00:00Z", stage: "build_vm", errno: 13, message: "no" })
      )
      const found = Option.getOrThrow(yield* Logs.bootError("unbootable"))
      assert.deepStrictEqual(
        [found.stage, found.errno, found.message, found.timestamp && DateTime.toEpochMillis(found.timestamp)],
        ["build_vm", 13, "no", start]
      )
    }))
})
