/** A boot that is watched: its events, its spans, and what they do not say. */
import { Backend, Progress, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Layer, Schema, Stream } from "effect"
import * as Registry from "../support/Registry.ts"
import { isFree, layerBackend, rootDirectory } from "../support/Sandboxes.ts"
import * as Spans from "../support/Spans.ts"

const stages = [
  "transition_lock",
  "named_volumes",
  "persist_start",
  "writable_disk_grow",
  "process_launch",
  "agent_ready"
]

const imageStages = ["image_resolution", "writable_disk_create"]

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { timeout: "10 minutes", excludeTestServices: true })(
  "a boot that is watched",
  (it) => {
    it.effect("tells the phases and bytes of a pull and a boot, and ends with the sandbox", () =>
      Effect.gen(function*() {
        const registry = yield* Registry.Registry
        const image = yield* registry.push("watched", yield* rootDirectory, { ballast: "2 MiB" })
        yield* Effect.scoped(Effect.gen(function*() {
          const events = yield* Stream.runCollect(Sandbox.makeStream({ name: "watched", image }))
          const last = events.at(-1)
          if (last?._tag !== "Ready") return assert.fail("no sandbox")
          assert.strictEqual((yield* last.sandbox.exec("wc", ["-c", "/ballast"])).stdout.trim(), "2097152 /ballast")
          let state = Progress.initial
          const phases: Array<Progress.Phase> = []
          for (const [index, event] of events.entries()) {
            if (event._tag !== "Ready") yield* Schema.decodeEffect(Progress.Event)(event)
            state = Progress.reduce(state, event, index)
            if (phases.at(-1) !== state.phase) phases.push(state.phase)
          }
          // A layer that is small may be unpacked while another has not begun.
          assert.includeOrderedMembers(phases, [
            "resolving",
            "resolved",
            "downloading",
            "unpacking",
            "stitching",
            "booting",
            "ready"
          ])
          assert.isAbove(state.layers.reduce((sum, { downloaded }) => sum + downloaded, 0), 2 << 20)
          assert.isTrue(state.layers.every(({ isDone }) => isDone))
          assert.sameMembers(state.stages.map(({ stage }) => stage), ["pull", ...imageStages, ...stages])
          assert.isTrue(state.stages.every(({ outcome }) => outcome === "success"))
          // The name is taken: nothing is pulled for it.
          const other = yield* registry.push("other", yield* rootDirectory, { ballast: "1 MiB" })
          const refused = yield* Sandbox.makeStream({ name: "watched", image: other }).pipe(
            Stream.map(({ _tag }) => _tag),
            Stream.catchTag("MicrosandboxError", ({ reason }) => Stream.succeed(reason._tag)),
            Stream.runCollect
          )
          assert.deepStrictEqual(refused, ["BootStage", "SandboxAlreadyExists"])
        }))
        assert.isTrue(yield* isFree("watched"))
      }))

    it.effect("tells the stages of a root directory, and of a start", () =>
      Effect.gen(function*() {
        const image = yield* rootDirectory
        const { exit, spans } = yield* Spans.recorded(Effect.gen(function*() {
          yield* Effect.scoped(Sandbox.make({ name: "again", image, onClose: "stop" }))
          yield* Effect.scoped(Sandbox.start("again", { onClose: "destroy" }))
        }))
        assert.isTrue(Exit.isSuccess(exit), String(exit))
        Spans.check(spans)
        const below = (name: string) =>
          Spans.named(spans, name).flatMap((span) => Spans.children(spans, span)).map(({ name }) => name)
        assert.sameMembers(below("Sandbox.make"), stages.map((stage) => `Sandbox.boot.${stage}`))
        assert.sameMembers(
          below("Sandbox.start"),
          ["writable_disk_grow", "process_launch", "agent_ready"].map((stage) => `Sandbox.boot.${stage}`)
        )
      }))

    it.effect("keeps to itself what programs are given", () =>
      Effect.gen(function*() {
        const secret = "c4n4ry"
        const image = yield* rootDirectory
        const { exit, spans } = yield* Spans.recorded(Effect.scoped(Effect.gen(function*() {
          const sandbox = yield* Sandbox.make({ name: "discreet", image, env: { SECRET: secret } })
          const options = { env: { SECRET: secret }, stdin: secret }
          yield* sandbox.exec("/bin/echo", [secret], options)
          const { exitCode } = yield* sandbox.shell(`cat > /tmp/x; echo ${secret}; exit 3`, options)
          assert.strictEqual(exitCode, 3)
          const missing = yield* Effect.flip(sandbox.exec("no-such-program", [secret], options))
          const late = yield* Effect.flip(
            sandbox.exec("sh", ["-c", "sleep 9", secret], { ...options, timeout: "1 second" })
          )
          const wrong = yield* Effect.flip(sandbox.exec("echo", [`${secret}\0`], options))
          for (const error of [missing, late, wrong]) {
            assert.notInclude(JSON.stringify(error) + error.message + String(error.stack), secret)
          }
          const program = yield* sandbox.spawn("sh", ["-c", "cat", secret], { env: { SECRET: secret }, stdin: true })
          yield* Stream.run(Stream.succeed(secret), program.stdin)
          yield* program.exitStatus
        })))
        assert.isTrue(Exit.isSuccess(exit), String(exit))
        Spans.check(spans)
        assert.notInclude(Spans.text(spans), secret)
        const said = (name: string, attribute: string) =>
          Spans.named(spans, name).map(({ attributes }) => attributes.get(attribute))
        assert.deepStrictEqual(said("Sandbox.exec", "process.executable.name"), [
          "echo",
          "no-such-program",
          "sh",
          undefined
        ])
        assert.deepStrictEqual(said("Sandbox.exec", "process.exit.code"), [0, undefined, undefined, undefined])
        assert.deepStrictEqual(said("Sandbox.shell", "process.executable.name"), ["sh"])
        assert.deepStrictEqual(said("Sandbox.shell", "process.exit.code"), [3])
        assert.deepStrictEqual(said("Sandbox.spawn", "process.executable.name"), ["sh"])
        const { native } = yield* Backend.Backend
        assert.deepStrictEqual(yield* native.live, { backends: 1, sandboxes: 0, execs: 0, logs: 0, files: 0, calls: 0 })
      }))
  }
)
