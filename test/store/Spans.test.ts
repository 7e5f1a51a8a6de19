/** The spans of boots that fail: what they say, and what they must not. */
import { Agent, Backend, Logs, type MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, FileSystem, Layer, Redacted } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as Gate from "../support/Gate.ts"
import * as Registry from "../support/Registry.ts"
import { layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"
import * as Spans from "../support/Spans.ts"

const secret = "c4n4ry"

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { excludeTestServices: true, timeout: "1 minute" })(
  "the spans of a boot that fails",
  (it) => {
    it.effect("name the stage, which failed as the whole did", () =>
      Effect.gen(function*() {
        const { host } = yield* Registry.Registry
        const image = `${host}/unknown:latest`
        const { exit, spans } = yield* Spans.recorded(Effect.scoped(Sandbox.make({ name: "traced", image })))
        Spans.check(spans)
        const [make] = Spans.named(spans, "Sandbox.make")
        assert.isDefined(make)
        assert.deepStrictEqual([...make.attributes], [["sandbox.name", "traced"], ["sandbox.image", image]])
        const stages = Spans.children(spans, make)
        assert.deepStrictEqual(stages.map(({ name }) => name), ["Sandbox.boot.pull"])
        assert.deepStrictEqual([...stages[0]!.attributes], [["sandbox.name", "traced"], ["sandbox.stage", "pull"]])
        assert.deepStrictEqual(Spans.exitOf(stages[0]!), exit)
      }))

    it.effect("name the stage of the engine that failed", () =>
      Effect.gen(function*() {
        const spawner = yield* ChildProcessSpawner
        const [home, image] = [yield* temporaryDirectory, yield* rootDirectory]
        // In a mount namespace of its own, where there is no KVM.
        const hide = "[ ! -e /dev/kvm ] || mount --bind /dev/null /dev/kvm"
        const script = `${hide}; exec node test/support/programs/spans.ts ${home} ${image}`
        const output = yield* spawner.string(
          ChildProcess.make("unshare", ["-rm", "sh", "-c", script], { env: { CANARY: secret }, extendEnv: true })
        )
        const { isDiscreet, spans } = JSON.parse(output)
        assert.deepStrictEqual(
          spans.filter(({ failure }: { failure?: string }) => failure !== undefined),
          [
            { name: "Sandbox.make", failure: "BootStart" },
            { name: "Sandbox.boot.agent_ready", parent: "Sandbox.make", failure: "BootStart" }
          ]
        )
        assert.isTrue(isDiscreet)
      }))

    const nobody: Record<
      string,
      Effect.Effect<unknown, MicrosandboxError.MicrosandboxError, Backend.Backend | Backend.Local>
    > = {
      "Sandbox.get": Sandbox.get("nobody"),
      "Sandbox.start": Effect.scoped(Sandbox.start("nobody")),
      "Sandbox.connect": Effect.scoped(Sandbox.connect("nobody")),
      "Sandbox.restart": Effect.scoped(Sandbox.restart("nobody")),
      "Sandbox.stop": Sandbox.stop("nobody"),
      "Sandbox.kill": Sandbox.kill("nobody"),
      "Sandbox.drain": Sandbox.drain("nobody"),
      "Sandbox.wait": Sandbox.wait("nobody"),
      "Sandbox.remove": Sandbox.remove("nobody"),
      "Sandbox.pause": Sandbox.pause("nobody"),
      "Sandbox.resume": Sandbox.resume("nobody"),
      "Sandbox.modify": Sandbox.modify("nobody", { cpus: 2 }),
      "Sandbox.modifyPlan": Sandbox.modifyPlan("nobody", { cpus: 2 }),
      "Sandbox.metrics": Sandbox.metrics("nobody"),
      "Sandbox.logs": Sandbox.logs("nobody"),
      "Logs.bootError": Logs.bootError("nobody"),
      "Agent.connect": Effect.scoped(Agent.connect("nobody"))
    }
    it.effect("name the sandbox of whatever is asked of it by its name", () =>
      Effect.gen(function*() {
        for (const [name, operation] of Object.entries(nobody)) {
          const { spans } = yield* Spans.recorded(operation)
          Spans.check(spans)
          const [span] = Spans.named(spans, name)
          assert.strictEqual(span?.attributes.get("sandbox.name"), "nobody", name)
        }
      }))

    it.effect("end with the interruption of it", () =>
      Effect.gen(function*() {
        const gate = yield* Gate.make((yield* Registry.Registry).host, 0)
        const { spans } = yield* Spans.recorded(Effect.gen(function*() {
          const fiber = yield* Effect.forkChild(Effect.scoped(Sandbox.make({ image: `${gate.host}/held:latest` })))
          yield* gate.connected
          yield* Fiber.interrupt(fiber)
        }))
        Spans.check(spans)
        const [pull] = Spans.named(spans, "Sandbox.boot.pull")
        assert.isDefined(pull)
        assert.isTrue(Exit.hasInterrupts(Spans.exitOf(pull)))
      }))

    it.effect("hold no credentials, wherever they were put", () =>
      Effect.gen(function*() {
        const root = yield* rootDirectory
        const { host } = yield* Registry.Registry
        const env = { SECRET: secret }
        const secrets = [{ env: "KEY", value: Redacted.make(secret), hosts: ["api.example"] }]
        const options: ReadonlyArray<Sandbox.Options> = [
          { image: `user:${secret}@${host}/image`, env },
          { image: `https://user:${secret}@${host}/image@sha256:${"0".repeat(64)}`, env },
          { image: `${host}/unknown@sha256:${"0".repeat(64)}`, env },
          { image: root, env, hostname: "x".repeat(300) },
          { image: root, env, workdir: `${secret}\0` },
          { image: root, secrets, network: false },
          { image: root, secrets: [...secrets, ...secrets] },
          // What fails in the engine, which knows the secret by then.
          { image: root, secrets, patches: [{ _tag: "Append", path: "/nowhere", content: secret }] }
        ]
        for (const option of options) {
          const { exit, spans } = yield* Spans.recorded(Effect.scoped(Sandbox.make(option)))
          Spans.check(spans)
          assert.isTrue(Exit.isFailure(exit))
          assert.notInclude(Spans.text(spans), secret)
          assert.notInclude(JSON.stringify(exit), secret)
        }
      }))

    it.effect("hold no password of a registry", () =>
      Effect.gen(function*() {
        const { host } = yield* Registry.Registry
        const fs = yield* FileSystem.FileSystem
        const file = process.env.MSB_CONFIG_PATH ?? ""
        process.env.CANARY = secret
        const auth = { username: Registry.login.username, password_env: "CANARY" }
        yield* fs.writeFileString(file, JSON.stringify({ registries: { hosts: { [host]: { insecure: true, auth } } } }))
        const { exit, spans } = yield* Spans.recorded(
          Effect.scoped(Sandbox.make({ image: `${host}/closed:latest` })).pipe(
            Effect.provide(Backend.layerLocal({ home: yield* temporaryDirectory }), { local: true })
          )
        )
        Spans.check(spans)
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) assert.include(JSON.stringify(exit), "ImageUnauthorized")
        assert.notInclude(Spans.text(spans), secret)
        assert.notInclude(JSON.stringify(exit), secret)
      }).pipe(Effect.provide(Registry.layerWithLogin)))
  }
)
