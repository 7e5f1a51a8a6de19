/** What the events of a boot come to, and how that is written. */
import { Progress } from "@effect-microsandbox/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema, Stdio, Stream, Terminal } from "effect"

type Step = readonly [event: Progress.Event | { readonly _tag: "Ready" }, phase: Progress.Phase, line: string]

const digest = "sha256:0"
const MiB = 1 << 20

const boot: ReadonlyArray<Step> = [
  [{ _tag: "Resolving", reference: "alpine:3.22" }, "resolving", "resolving alpine:3.22"],
  [
    { _tag: "Resolved", reference: "alpine:3.22", manifestDigest: digest, layerCount: 2, totalBytes: 4 * MiB },
    "resolved",
    "resolved alpine:3.22: 2 layers, 4 MiB"
  ],
  [
    { _tag: "LayerDownloadProgress", layer: 0, digest, bytes: MiB, totalBytes: 3 * MiB },
    "downloading",
    "downloading [#####...............]  25 %  1 MiB of 4 MiB  0 of 2 layers"
  ],
  [
    { _tag: "LayerDownloadProgress", layer: 1, digest, bytes: MiB, totalBytes: MiB },
    "downloading",
    "downloading [##########..........]  50 %  2 MiB of 4 MiB  2 MiB/s  0 of 2 layers"
  ],
  [
    { _tag: "LayerDownloadComplete", layer: 1, digest, bytes: MiB },
    "downloading",
    "downloading [##########..........]  50 %  2 MiB of 4 MiB  1 MiB/s  1 of 2 layers"
  ],
  // The one is unpacked while the other is downloaded.
  [
    { _tag: "LayerMaterializeStarted", layer: 1, diffId: digest },
    "downloading",
    "downloading [##########..........]  50 %  2 MiB of 4 MiB  682.7 KiB/s  1 of 2 layers"
  ],
  [
    { _tag: "LayerDownloadVerifying", layer: 0, digest },
    "downloading",
    "downloading [##########..........]  50 %  2 MiB of 4 MiB  512 KiB/s  1 of 2 layers"
  ],
  [
    { _tag: "LayerDownloadComplete", layer: 0, digest, bytes: 3 * MiB },
    "unpacking",
    "unpacking [....................]   0 %  0 B of 4 MiB  0 of 2 layers"
  ],
  [
    { _tag: "LayerMaterializeProgress", layer: 0, bytes: 2 * MiB, totalBytes: 3 * MiB },
    "unpacking",
    "unpacking [##########..........]  50 %  2 MiB of 4 MiB  2 MiB/s  0 of 2 layers"
  ],
  [
    { _tag: "LayerMaterializeWriting", layer: 0 },
    "unpacking",
    "unpacking [##########..........]  50 %  2 MiB of 4 MiB  1 MiB/s  0 of 2 layers"
  ],
  [
    { _tag: "LayerMaterializeComplete", layer: 0, diffId: digest },
    "unpacking",
    "unpacking [###############.....]  75 %  3 MiB of 4 MiB  1 MiB/s  1 of 2 layers"
  ],
  [
    { _tag: "LayerMaterializeComplete", layer: 1, diffId: digest },
    "unpacking",
    "unpacking [####################] 100 %  4 MiB of 4 MiB  1 MiB/s  2 of 2 layers"
  ],
  [{ _tag: "StitchMergingTrees", layerCount: 2 }, "stitching", "joining 2 layers"],
  [{ _tag: "StitchWritingFsmeta" }, "stitching", "joining 2 layers  1 s"],
  [{ _tag: "StitchWritingVmdk" }, "stitching", "joining 2 layers  2 s"],
  [{ _tag: "StitchComplete" }, "stitching", "joining 2 layers  3 s"],
  [{ _tag: "PullComplete", reference: "alpine:3.22", layerCount: 2 }, "stitching", "joining 2 layers  4 s"],
  [
    { _tag: "BootStage", stage: "pull", startedMs: 0, durationMs: 15_000, outcome: "success" },
    "stitching",
    "joining 2 layers  5 s"
  ],
  [
    { _tag: "BootStage", stage: "agent_ready", startedMs: 15_000, durationMs: 2000, outcome: "success" },
    "booting",
    "booting"
  ],
  [{ _tag: "Ready" }, "ready", "ready"]
]

const events = boot.map(([event]) => event)

/** What is written when a boot is drawn on something that is a terminal, or is none. */
const drawn = Effect.fn("drawn")(function*(isTerminal: boolean) {
  const written: Array<string> = []
  const terminal = Layer.succeed(Terminal.Terminal, {
    ...Terminal.make({
      columns: Effect.succeed(40),
      rows: Effect.succeed(10),
      size: Effect.die("unused"),
      readInput: Effect.die("unused"),
      readLine: Effect.die("unused"),
      display: (text) => Effect.sync(() => written.push(text))
    })
  })
  const stdio = Stdio.layerTest({ stdoutIsTerminal: Effect.succeed(isTerminal) })
  const passed = yield* Stream.fromIterable(events).pipe(
    Stream.tap(() => Effect.sleep("30 millis")),
    Progress.render,
    Stream.runCollect,
    Effect.provide([terminal, stdio])
  )
  assert.deepStrictEqual(passed, events)
  return written
})

describe("progress", () => {
  it("of a whole boot is what its events say, one second after another", () => {
    let state = Progress.initial
    for (const [index, [event, phase, line]] of boot.entries()) {
      state = Progress.reduce(state, event, index * 1000)
      assert.deepStrictEqual([state.phase, Progress.format(state, 100, index * 1000)], [phase, line], event._tag)
    }
    assert.deepStrictEqual(state.stages.map(({ stage }) => stage), ["pull", "agent_ready"])
  })

  it("has a line before the first event, and none that is wider than the terminal", () => {
    assert.strictEqual(Progress.format(Progress.initial, 80, 0), "starting")
    let state = Progress.initial
    for (const event of events) {
      state = Progress.reduce(state, event, 0)
      for (const columns of [0, 1, 10, 40]) assert.isAtMost(Progress.format(state, columns, 9000).length, columns)
    }
  })

  it("knows a layer that nobody had announced, and a size that nobody said", () => {
    const state = Progress.reduce(Progress.initial, { _tag: "LayerDownloadProgress", layer: 2, digest, bytes: 10 }, 0)
    assert.lengthOf(state.layers, 3)
    assert.strictEqual(Progress.format(state, 80, 1000), "downloading 10 B  10 B/s  0 of 3 layers")
  })

  it("can be sent as JSON", () => {
    const codec = Schema.fromJsonString(Progress.Event)
    for (const event of events) {
      if (event._tag === "Ready") continue
      assert.deepStrictEqual(Schema.decodeSync(codec)(Schema.encodeSync(codec)(event)), event)
    }
  })

  it.live("is a line for each phase where there is no terminal", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* drawn(false), [
        "resolving alpine:3.22\n",
        "resolved alpine:3.22: 2 layers, 4 MiB\n",
        "downloading 2 layers, 4 MiB\n",
        "unpacking 2 layers\n",
        "joining 2 layers\n",
        "booting\n",
        "ready\n"
      ])
    }))

  it.live("is one line that is redrawn on a terminal, and gone at the end", () =>
    Effect.gen(function*() {
      const written = yield* drawn(true)
      assert.isAbove(written.length, 1)
      const clear = "\r\u001b[2K"
      for (const text of written) {
        assert.isTrue(text.startsWith(clear), JSON.stringify(text))
        assert.match(text.slice(clear.length), /^[^\r\n]{0,39}$/)
      }
      assert.strictEqual(written.at(-1), clear)
    }))
})
