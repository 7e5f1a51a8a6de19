/** Secrets that are given to whatever takes one, and where they are found afterwards. */
import { Backend, Image, type MicrosandboxError, Sandbox, Secret, Snapshot } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Layer, Redacted, type Scope, Stream } from "effect"
import * as Canaries from "../support/Canaries.ts"
import * as Registry from "../support/Registry.ts"
import { layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"
import { makeStopped } from "../support/Store.ts"

const words = {
  password: "c4n4ry-of-the-password",
  value: "c4n4ry-of-the-value",
  variable: "c4n4ry-of-the-variable",
  env: "c4n4ry-of-the-environment"
}

type Operation = Effect.Effect<
  unknown,
  MicrosandboxError.MicrosandboxError,
  Backend.Backend | Backend.Local | Scope.Scope
>

layer(layerBackend.pipe(Layer.provideMerge(Registry.layerWithTlsAndLogin)), {
  excludeTestServices: true,
  timeout: "2 minutes"
})("a secret", (it) => {
  it.effect("is in no error, log or span, whatever fails of what it was given to, and in no file", () =>
    Effect.gen(function*() {
      const { caCerts = "", host, push } = yield* Registry.Registry
      const root = yield* rootDirectory
      const reference = yield* push("closed", root)
      const { username } = Registry.login
      const auth = { username, password: Redacted.make(words.password) }
      const registry = { auth, caCerts }
      const env = { ENV: words.env }
      const value = { env: "KEY", value: Redacted.make(words.value), hosts: ["api.example"] }
      process.env.CANARY_VARIABLE = words.variable
      const variable = { env: "TOKEN", variable: "CANARY_VARIABLE", hosts: ["api.example"] }
      const secrets = [value, variable].map(Secret.make)
      const out = `${yield* temporaryDirectory}/out.tar`
      yield* makeStopped("stopped")
      const make = (options: Omit<Sandbox.Options, "image"> & { readonly image?: string }): Operation =>
        Sandbox.make({ image: root, env, secrets, ...options })

      const operations: Readonly<Record<string, readonly [tag: MicrosandboxError.Reason["_tag"], Operation]>> = {
        "a wrong password": ["ImageUnauthorized", Image.pull(reference, { registry })],
        "a wrong password, in a stream": [
          "ImageUnauthorized",
          Stream.runDrain(Image.pullStream(reference, { registry }))
        ],
        "no trust": ["ImageTls", Image.pull(reference, { registry: { auth } })],
        "no TLS": ["ImageRegistry", Image.pull(reference, { registry: { auth, insecure: true } })],
        "no such image": ["ImageUnauthorized", Image.pull(`${host}/unknown:latest`, { registry })],
        "nobody there": ["ImageRegistry", Image.pull("127.0.0.1:1/unreachable", { registry })],
        "never": ["ImageNotCached", Image.pull(reference, { registry, pullPolicy: "never" })],
        "no platform": ["Unsupported", Image.pull(reference, { registry, platform: "linux/pdp11" })],
        "no certificate": ["InvalidConfig", Image.pull(reference, { registry: { auth, caCerts: words.password } })],
        "a password that is text": [
          "InvalidConfig",
          Image.pull(reference, { registry: { auth: { username, password: words.password as never } } })
        ],
        "credentials in a reference": ["InvalidConfig", Image.pull(`user:${words.password}@${host}/closed`)],
        "the same of a lookup": ["InvalidConfig", Image.get(`user:${words.password}@${host}/closed`)],
        "the same of an inspection": ["InvalidConfig", Image.inspect(`user:${words.password}@${host}/closed`)],
        "the same of a removal": ["InvalidConfig", Image.remove(`user:${words.password}@${host}/closed`)],
        "the same of an archive": ["InvalidConfig", Image.save([`user:${words.password}@${host}/closed`], out)],
        "the same of tags": ["InvalidConfig", Image.load(out, { tags: [`user:${words.password}@${host}/closed`] })],
        "a sandbox of it": ["ImageUnauthorized", make({ image: reference, registry })],
        "a sandbox of it, in a stream": [
          "ImageUnauthorized",
          Stream.runDrain(Sandbox.makeStream({ image: reference, env, secrets, registry }))
        ],
        "one that is connected to or made": [
          "ImageUnauthorized",
          Sandbox.connectOrCreate({ name: "fresh", image: reference, env, secrets, registry })
        ],
        "a sandbox of credentials": [
          "InvalidConfig",
          make({ image: `user:${words.password}@${host}/closed`, registry })
        ],
        "a sandbox of a URL": [
          "InvalidConfig",
          make({ image: `https://user:${words.password}@${host}/closed`, registry })
        ],
        "no root": ["RootfsNotFound", make({ image: "/no/such/root" })],
        "no network": ["InvalidConfig", make({ network: false })],
        "two of a name": ["InvalidConfig", make({ secrets: [...secrets, ...secrets] })],
        "a value of two lines": [
          "InvalidConfig",
          make({ secrets: [{ ...value, value: Redacted.make(`${words.value}\n`) }] })
        ],
        "a value that is text": ["InvalidConfig", make({ secrets: [{ ...value, value: words.value as never }] })],
        "both": ["InvalidConfig", make({ secrets: [{ ...value, variable: "CANARY_VARIABLE" }] })],
        "for nobody": ["InvalidConfig", make({ secrets: [{ ...value, hosts: [] }] })],
        "no such variable": ["InvalidConfig", make({ secrets: [value, { ...variable, variable: "CANARY_MISSING" }] })],
        "a variable with a NUL": ["InvalidConfig", make({ env: { ENV: `${words.env}\0` } })],
        "a directory with a NUL": ["InvalidConfig", make({ workdir: `/${words.env}\0` })],
        "a mistake beside it": ["InvalidConfig", make({ hostname: "x".repeat(300) })],
        "a patch that cannot be": [
          "PatchFailed",
          make({ patches: [{ _tag: "Append", path: "/nowhere", content: words.value }] })
        ],
        "a name that is taken": ["SandboxAlreadyExists", make({ name: "stopped" })],
        "a change of nobody": ["SandboxNotFound", Sandbox.modify("nobody", { env })],
        "a change that cannot be": ["InvalidConfig", Sandbox.modify("stopped", { env: { ENV: `${words.env}\0` } })],
        "a restore of nothing": ["SnapshotNotFound", Sandbox.restore("nothing:here", { labels: { of: "nothing" } })],
        "an archive of nothing": ["SnapshotNotFound", Snapshot.save("nothing", out)]
      }
      const wrong: Record<string, unknown> = {}
      for (const [what, [tag, operation]] of Object.entries(operations)) {
        const { exit, text } = yield* Canaries.heard(Effect.scoped(operation))
        const told = Exit.isFailure(exit)
          ? exit.cause.reasons.map((reason) => reason._tag === "Fail" ? reason.error.reason._tag : reason._tag)
          : ["Success"]
        const found = Canaries.wordsIn(words, text)
        if (told.join() !== tag || found.length > 0) wrong[what] = { told, tag, found }
      }
      assert.deepStrictEqual(wrong, {})

      // What works says nothing either.
      const password = Redacted.make(Registry.login.password)
      const good = yield* Canaries.heard(Image.pull(reference, { registry: { caCerts, auth: { username, password } } }))
      assert.isTrue(Exit.isSuccess(good.exit))
      assert.notInclude(good.text, Registry.login.password)
      const { home } = yield* Backend.Local
      assert.deepStrictEqual(
        yield* Canaries.filesWith(home, { ...words, login: Registry.login.password }),
        { password: [], value: [], variable: [], env: [], login: [] }
      )
    }))
})
