/** Secrets of a sandbox that runs: in which processes, logs, files, snapshots and branches they are, and in no other. */
import { Backend, Sandbox, Secret, Snapshot } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, FileSystem, Layer, Redacted, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as Canaries from "../support/Canaries.ts"
import * as Registry from "../support/Registry.ts"
import { layerBackend, rootDirectory, temporaryDirectory, vmProcesses } from "../support/Sandboxes.ts"

const words = {
  value: "c4n4ry-of-the-value",
  variable: "c4n4ry-of-the-variable",
  env: "c4n4ry-of-the-environment",
  argument: "c4n4ry-of-the-argument",
  token: "c4n4ry-of-the-token",
  input: "c4n4ry-of-the-input"
}
const none = { value: [], variable: [], env: [], argument: [], token: [], input: [] }

/** The first directories of where the words are. */
const places = (found: Readonly<Record<string, ReadonlyArray<string>>>) =>
  Object.fromEntries(
    Object.entries(found).map(([word, files]) => [
      word,
      [...new Set(files.map((file) => file.split("/").slice(0, 1).join("/")))]
    ])
  )

/** The words that are anywhere. */
const hits = (found: Readonly<Record<string, ReadonlyArray<string>>>) =>
  Object.keys(found).filter((word) => (found[word] ?? []).length > 0).toSorted()

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { timeout: "10 minutes", excludeTestServices: true })(
  "a secret of a sandbox",
  (it) => {
    it.effect("is where it must be, and nowhere else: processes, logs, files, snapshots, branches", () =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const spawner = yield* ChildProcessSpawner
        const { push } = yield* Registry.Registry
        const { home } = yield* Backend.Local
        const directory = yield* temporaryDirectory
        const image = yield* push("canary", yield* rootDirectory)
        process.env.CANARY_VARIABLE = words.variable

        const { exit, text } = yield* Canaries.heard(Effect.gen(function*() {
          const sandbox = yield* Sandbox.make({
            name: "canary",
            image,
            memory: "128 MiB",
            // The smallest that boots.
            rootDisk: "69 MiB",
            env: { ENV: words.env },
            logLevel: "trace",
            secrets: [
              Secret.make({ env: "KEY", value: Redacted.make(words.value), hosts: ["api.example"] }),
              Secret.make({ env: "TOKEN", variable: "CANARY_VARIABLE", hosts: ["api.example"] })
            ]
          })
          // A program that is given all of them runs while this looks.
          const command = ChildProcess.make(
            "sh",
            ["-c", "read input; exec sleep 1000", Redacted.make(words.argument)],
            {
              env: { ACCESS: Redacted.make(words.token) },
              extendEnv: true,
              stdin: Stream.make(new TextEncoder().encode(`${words.input}\n`))
            }
          )
          const program = yield* sandbox.spawner.spawn(command)
          const { stdout } = yield* sandbox.shell("echo $KEY $TOKEN; tr '\\0' '\\n' < /proc/*/environ | grep -c c4n4ry")
          assert.match(stdout, /^\$MSB_KEY \$MSB_TOKEN\n/)

          const vms = yield* vmProcesses("canary")
          assert.lengthOf(vms, 1)
          const running = {
            arguments: yield* Canaries.processesWith("cmdline", words),
            environments: yield* Canaries.processesWith("environ", words),
            logs: yield* Canaries.filesWith(`${home}/sandboxes/canary/logs`, words),
            home: places(yield* Canaries.filesWith(home, words))
          }
          const branched = yield* Canaries.heard(Effect.scoped(sandbox.branch("child")))
          yield* sandbox.snapshot("full", { full: true })
          yield* program.kill()
          yield* sandbox.stop()
          yield* sandbox.snapshot("disk", { recordIntegrity: true })
          return { branched, running, vms }
        }))
        if (Exit.isFailure(exit)) return assert.fail(text)
        const { branched, running, vms } = exit.value
        const archived: Record<string, unknown> = {}
        for (const what of ["full", "disk"]) {
          const kept = `${directory}/${what}`
          yield* fs.makeDirectory(kept)
          yield* Snapshot.save(`canary:${what}`, `${kept}.tar`, { plainTar: true })
          // With holes where the disk has them, as a file system would have it.
          assert.strictEqual(yield* spawner.exitCode(ChildProcess.make("tar", ["-xSf", `${kept}.tar`, "-C", kept])), 0)
          archived[what] = hits(yield* Canaries.filesWith(kept, words))
        }
        const seen = {
          running,
          told: [...Canaries.wordsIn(words, text), ...Canaries.wordsIn(words, branched.text)],
          archived,
          snapshots: hits(yield* Canaries.filesWith(`${home}/snapshots`, words)),
          logs: hits(yield* Canaries.filesWith(`${home}/logs`, words))
        }
        // What a guest was given is in its memory, and so in a snapshot of that. What it never had is not.
        const given = ["argument", "env", "input", "token"]
        assert.deepStrictEqual(seen, {
          running: {
            arguments: none,
            // The VM's process has what this one has, whose variable it is.
            environments: { ...none, variable: vms },
            logs: none,
            home: { ...none, value: ["db"], env: ["db"] }
          },
          told: [],
          archived: { full: given, disk: [] },
          snapshots: given,
          logs: []
        })
        yield* Sandbox.remove("canary")
      }).pipe(Effect.scoped))
  }
)
