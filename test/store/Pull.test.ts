/** Pulling images from a real registry: what it says, what it costs, and its end when it is interrupted. */
import { Backend, Progress, Sandbox } from "@effect-microsandbox/core"
import type { Native } from "@effect-microsandbox/native"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, FileSystem, Layer, Schema, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as Gate from "../support/Gate.ts"
import * as Registry from "../support/Registry.ts"
import {
  idle,
  isFree,
  layerBackend,
  rootDirectory,
  sandboxDirectories,
  temporaryDirectory
} from "../support/Sandboxes.ts"

const MiB = 1 << 20

/** Settings of a home that speaks plain HTTP with these hosts. */
const configWith = Effect.fn("configWith")(function*(hosts: ReadonlyArray<string>) {
  const fs = yield* FileSystem.FileSystem
  const file = yield* fs.makeTempFileScoped()
  const insecure = Object.fromEntries(hosts.map((host) => [host, { insecure: true }]))
  yield* fs.writeFileString(file, JSON.stringify({ registries: { hosts: insecure } }))
  return file
})

/** A backend in a new home that has these settings: the engine reads them when the backend is opened. */
const backendWith = Effect.fn("backendWith")(function*(config: string) {
  const { MSB_CONFIG_PATH: before } = process.env
  process.env.MSB_CONFIG_PATH = config
  return yield* Layer.build(Layer.fresh(Backend.layerLocal({ home: yield* temporaryDirectory }))).pipe(
    Effect.ensuring(Effect.sync(() => {
      process.env.MSB_CONFIG_PATH = before
    }))
  )
})

/** Pulls into the cache, and gives the events. Nobody reads them before the pull has ended. */
const pull = Effect.fn("pull")(function*(options: Native.PullImageOptions) {
  const { handle, native } = yield* Backend.Backend
  const progress = native.makeProgress(true)
  yield* native.call((token) => handle.pullImage(options, progress, token))
  const events = yield* native.call((token) => progress.read(token))
  progress.end()
  assert.deepStrictEqual(yield* native.call((token) => progress.read(token)), [])
  return events
})

const tags = (events: ReadonlyArray<Progress.Event | Sandbox.Ready>) => events.map(({ _tag }) => _tag)

const cached = ["Resolving", "Resolved", "PullComplete"]

const layers = [
  "LayerDownloadComplete",
  "LayerDownloadProgress",
  "LayerMaterializeComplete",
  "LayerMaterializeProgress",
  "LayerMaterializeStarted",
  "LayerMaterializeWriting"
]

const stitched = ["StitchMergingTrees", "StitchWritingFsmeta", "StitchWritingVmdk", "StitchComplete"]

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { excludeTestServices: true, timeout: "1 minute" })(
  "a pull",
  (it) => {
    it.effect("tells each phase of each layer, and its bytes, however late it is read", () =>
      Effect.gen(function*() {
        const registry = yield* Registry.Registry
        const reference = yield* registry.push("told", yield* rootDirectory, { ballast: "3 MiB" })
        const events = yield* pull({ reference })
        for (const event of events) yield* Schema.decodeEffect(Progress.Event)(event)
        const told = tags(events)
        assert.deepStrictEqual(told.slice(0, 2), ["Resolving", "Resolved"])
        assert.deepStrictEqual(told.slice(-6), [...stitched, "PullComplete", "BootStage"])
        const resolved = events[1]
        if (resolved?._tag !== "Resolved") return assert.fail("no Resolved")
        assert.deepStrictEqual([resolved.reference, resolved.layerCount], [reference, 2])
        let downloaded = 0
        for (const layer of [0, 1]) {
          const ofLayer = events.filter((event) => "layer" in event && event.layer === layer)
          // Each phase once: the counts of a layer that nobody had read were replaced by the newest.
          assert.deepStrictEqual(tags(ofLayer).toSorted(), layers)
          for (const event of ofLayer) if (event._tag === "LayerDownloadComplete") downloaded += event.bytes
        }
        assert.isAbove(downloaded, 3 * MiB)
        assert.strictEqual(downloaded, resolved.totalBytes)
        const stage = events.at(-1)
        assert.deepInclude(stage, { _tag: "BootStage", stage: "pull", outcome: "success" })
      }))

    it.effect("of what is in the cache asks nobody, unless it must", () =>
      Effect.gen(function*() {
        const registry = yield* Registry.Registry
        yield* registry.push("kept", yield* rootDirectory, { ballast: "1 MiB" })
        const gate = yield* Gate.make(registry.host, Infinity)
        const reference = `${gate.host}/kept:latest`
        yield* pull({ reference, registry: { insecure: true } })
        assert.isAbove(yield* gate.passed, MiB)
        assert.deepStrictEqual(tags(yield* pull({ reference })), cached)
        assert.deepStrictEqual(tags(yield* pull({ reference, pullPolicy: "never" })), cached)
        assert.strictEqual(yield* gate.passed, 0)
        const always = yield* pull({ reference, pullPolicy: "always", registry: { insecure: true } })
        assert.deepStrictEqual(tags(always), [...cached, "BootStage"])
        const asked = yield* gate.passed
        assert.isAbove(asked, 0)
        // The manifest and the image's configuration, and no layer.
        assert.isBelow(asked, 10_000)
        // The layers are there; the flat root is made of them.
        assert.include(tags(yield* pull({ reference, flat: true, registry: { insecure: true } })), "BootStage")
        assert.deepStrictEqual(tags(yield* pull({ reference, flat: true })), cached)
      }))

    it.effect("that cannot be has its reason, and leaves the name free", () =>
      Effect.gen(function*() {
        const registry = yield* Registry.Registry
        yield* registry.push("known", yield* rootDirectory)
        const reasons = [
          ["ImageNotFound", `${registry.host}/unknown:latest`],
          ["ImageNotFound", `${registry.host}/known:other`],
          ["ImageRegistry", "127.0.0.1:1/unreachable:latest"],
          ["InvalidConfig", "Not A Reference"]
        ] as const
        for (const [tag, image] of reasons) {
          const events: Array<Progress.Event | Sandbox.Ready> = []
          const { reason } = yield* Sandbox.makeStream({ name: "refused", image }).pipe(
            Stream.tap((event) => Effect.sync(() => events.push(event))),
            Sandbox.fromStream,
            Effect.scoped,
            Effect.flip
          )
          assert.strictEqual(reason._tag, tag, image)
          if (reason._tag === "ImageNotFound") assert.strictEqual(reason.reference, image)
          if (tag !== "InvalidConfig") {
            assert.deepStrictEqual(tags(events), ["Resolving", "BootStage"])
            assert.deepInclude(events[1], { stage: "pull", outcome: "error" })
          }
          assert.isTrue(yield* isFree("refused"))
        }
      }))

    it.effect("that is interrupted has ended: no connection, no lock, and the next one goes on where it was", () =>
      Effect.gen(function*() {
        const registry = yield* Registry.Registry
        yield* registry.push("slow", yield* rootDirectory, { ballast: "24 MiB" })
        const gate = yield* Gate.make(registry.host, 12 * MiB)
        const reference = `${gate.host}/slow:latest`
        const backend = yield* backendWith(yield* configWith([gate.host]))
        yield* Effect.provide(
          Effect.gen(function*() {
            const booting = yield* Effect.forkChild(Effect.scoped(Sandbox.make({ name: "slow", image: reference })))
            yield* gate.held
            // Another that wants the same image waits for it, and need not wait any longer.
            const waiting = yield* Effect.forkChild(Effect.scoped(Sandbox.make({ name: "waits", image: reference })))
            yield* Effect.sleep("200 millis")
            yield* Fiber.interrupt(waiting)
            yield* Fiber.interrupt(booting)
            yield* gate.silence
            assert.isTrue(yield* isFree("slow"))
            assert.isTrue(yield* isFree("waits"))
            assert.deepStrictEqual(yield* sandboxDirectories, [])
            const before = yield* gate.passed
            yield* gate.open
            assert.include(tags(yield* pull({ reference })), "PullComplete")
            const after = yield* gate.passed
            assert.isBelow(after, 24 * MiB, `${before} bytes had been pulled`)
            const { native } = yield* Backend.Backend
            assert.deepStrictEqual(yield* native.live, idle)
          }),
          backend
        )
      }).pipe(Effect.scoped))

    it.effect("ends with the stream that tells of it", () =>
      Effect.gen(function*() {
        const registry = yield* Registry.Registry
        yield* registry.push("left", yield* rootDirectory, { ballast: "24 MiB" })
        const gate = yield* Gate.make(registry.host, 12 * MiB)
        const backend = yield* backendWith(yield* configWith([gate.host]))
        yield* Effect.provide(
          Effect.scoped(Effect.gen(function*() {
            const seen = yield* Sandbox.makeStream({ name: "left", image: `${gate.host}/left:latest` }).pipe(
              Stream.takeUntil((event) => event._tag === "LayerDownloadProgress"),
              Stream.runCollect
            )
            assert.strictEqual(seen.at(-1)?._tag, "LayerDownloadProgress")
            // The scope is open, and still there is nothing of it.
            yield* gate.silence
            assert.isTrue(yield* isFree("left"))
          })),
          backend
        )
      }).pipe(Effect.scoped))

    it.effect("ends with its process, in silence", () =>
      Effect.gen(function*() {
        const registry = yield* Registry.Registry
        yield* registry.push("exited", yield* rootDirectory, { ballast: "24 MiB" })
        const gate = yield* Gate.make(registry.host, 12 * MiB)
        const config = yield* configWith([gate.host])
        const spawner = yield* ChildProcessSpawner
        const program = yield* spawner.spawn(ChildProcess.make(
          "node",
          ["test/support/programs/exit.ts", yield* temporaryDirectory, `${gate.host}/exited:latest`],
          { env: { MSB_CONFIG_PATH: config }, extendEnv: true }
        ))
        const said = yield* Stream.mkString(Stream.decodeText(program.all))
        assert.deepStrictEqual([yield* program.exitCode, said], [7, ""])
        yield* gate.silence
      }).pipe(Effect.scoped))
  }
)
