/** A volume with a real guest on one side and this host on the other. */
import { MicrosandboxError, Sandbox, Volume } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, type PlatformError } from "effect"
import { layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"

const errnoOf = <A>(effect: Effect.Effect<A, PlatformError.PlatformError>) =>
  Effect.map(Effect.flip(effect), ({ cause }) => {
    const reason = MicrosandboxError.isMicrosandboxError(cause) ? cause.reason : undefined
    return reason?._tag === "FileFailed" ? reason.errnoName : reason?._tag
  })

layer(layerBackend, { excludeTestServices: true, timeout: "10 minutes" })("a volume that a guest has mounted", (it) => {
  it.effect("has the same files on both sides, and no link of the guest's leads this host out", () =>
    Effect.gen(function*() {
      const host = yield* FileSystem.FileSystem
      const outside = yield* temporaryDirectory
      yield* host.writeFileString(`${outside}/secret`, "the host's")
      const [shared, raw] = [yield* Volume.make({ quota: "64 MiB" }), yield* Volume.make()]
      yield* shared.fs.makeDirectory("below")
      yield* shared.fs.writeFileString("below/from-host", "host\n")
      const sandbox = yield* Sandbox.make({
        image: yield* rootDirectory,
        mounts: {
          "/shared": { named: shared.name },
          // Here a link of the guest's is a link of the host's.
          "/raw": { named: raw.name, statVirtualization: "off" }
        }
      })
      const run = (script: string) =>
        Effect.map(sandbox.shell(script), ({ exitCode, stderr, stdout }) => {
          assert.strictEqual(exitCode, 0, stderr)
          return stdout.trim()
        })

      assert.strictEqual(yield* run("cat /shared/below/from-host; cd /shared; echo guest > from-guest; sync"), "host")
      assert.strictEqual(yield* shared.fs.readFileString("from-guest"), "guest\n")
      yield* run("chmod 600 /shared/from-guest")
      yield* shared.writeAtomic("from-guest", "replaced\n")
      // Whatever the guest's kernel still remembers, it sees the new file, as it has made the old one.
      assert.strictEqual(
        yield* run("until grep -q replaced /shared/from-guest; do sleep 0.2; done; stat -c %a /shared/from-guest"),
        "600"
      )

      yield* run([
        "cd /raw",
        `ln -s ${outside} out`,
        `ln -s ../../../../../../../..${outside} up`,
        "ln -s / root",
        "echo ours > ours",
        "sync"
      ].join(" && "))
      assert.strictEqual((yield* raw.fs.lstat("out")).type, "SymbolicLink")
      assert.strictEqual(yield* host.readFileString(`${raw.info.path}/out/secret`), "the host's")
      for (const way of ["out", "up", "root/out", `root${outside}`]) {
        assert.strictEqual(yield* errnoOf(raw.fs.readFile(`${way}/secret`)), "ENOENT", way)
        assert.strictEqual(yield* errnoOf(raw.fs.writeFileString(`${way}/new`, "")), "ENOENT", way)
        assert.strictEqual(yield* errnoOf(raw.writeAtomic(`${way}/new`, "")), "ENOENT", way)
      }
      assert.strictEqual(yield* raw.fs.readFileString("root/ours"), "ours\n")
      assert.deepStrictEqual(yield* host.readDirectory(outside), ["secret"])

      const { reason } = yield* Effect.flip(Volume.remove(shared.name))
      assert.deepInclude(reason, { _tag: "VolumeInUse", volume: shared.name, sandbox: sandbox.name })
    }).pipe(Effect.scoped))
})
