/** What is left of the secrets of a boot that failed. */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as Canaries from "../support/Canaries.ts"
import { rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"

const words = {
  password: "c4n4ry-of-the-password",
  value: "c4n4ry-of-the-value",
  variable: "c4n4ry-of-the-variable",
  env: "c4n4ry-of-the-environment"
}

layer(NodeServices.layer, { excludeTestServices: true, timeout: "2 minutes" })("a secret", (it) => {
  it.effect("of a boot that failed is in no log of the engine's: a value is in its database, and a variable nowhere", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const spawner = yield* ChildProcessSpawner
      const [home, image] = [yield* temporaryDirectory, yield* rootDirectory]
      const { env, value, variable } = words
      // In a mount namespace of its own, where there is no KVM: by then the engine has all of it.
      const hide = "[ ! -e /dev/kvm ] || mount --bind /dev/null /dev/kvm"
      const script = `${hide}; exec node test/support/programs/canary.ts ${home} ${image}`
      const program = yield* spawner.spawn(
        ChildProcess.make("unshare", ["-rm", "sh", "-c", script], {
          env: { VALUE: value, VARIABLE: variable, ENV: env },
          extendEnv: true
        })
      )
      const [stdout, stderr] = yield* Effect.all([
        Stream.mkString(Stream.decodeText(program.stdout)),
        Stream.mkString(Stream.decodeText(program.stderr))
      ], { concurrency: 2 })
      const { tag, text } = JSON.parse(stdout) as { readonly tag: string; readonly text: string }
      assert.strictEqual(tag, "Failure")
      assert.include(text, "BootStart")
      assert.deepStrictEqual(Canaries.wordsIn(words, text + stderr), [])
      assert.deepStrictEqual(yield* fs.readDirectory(`${home}/sandboxes`), [])
      const found = yield* Canaries.filesWith(home, words)
      const places = Object.fromEntries(
        Object.entries(found).map(([word, files]) => [word, [...new Set(files.map((file) => file.split("/")[0]))]])
      )
      // Its row has gone, and SQLite has not yet used that place for something else. Whatever a start needs is there.
      assert.deepStrictEqual(places, { password: [], value: ["db"], variable: [], env: ["db"] })
      // And nobody else's to read.
      assert.strictEqual((yield* fs.stat(`${home}/db`)).mode & 0o777, 0o700)
    }).pipe(Effect.scoped))
})
