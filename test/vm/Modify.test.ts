/** Changes of a sandbox, planned and made. */
import { MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Schedule } from "effect"
import { isFree, layerBackend, rootDirectory } from "../support/Sandboxes.ts"

/** The reason of an error, and the option that it names. */
const why = ({ reason }: MicrosandboxError.MicrosandboxError) => [
  reason._tag,
  "field" in reason ? reason.field : undefined
]

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("a change of a sandbox", (it) => {
  it.effect("is planned without effect, and made at the next start", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({
          name: "changing",
          image,
          memory: "192 MiB",
          labels: { a: "1", b: "2" },
          env: { OLD: "old" },
          onClose: "stop"
        })
        const changes = { labels: { a: "3" }, removeLabels: ["b"], env: { NEW: "new" }, removeEnv: ["OLD"] }

        const now = yield* sandbox.modifyPlan(changes)
        assert.deepStrictEqual([now.sandbox, now.status, now.applied], ["changing", "Running", false])
        assert.deepStrictEqual(
          now.changes.map(({ after, before, change, effect, field }) => [field, change, before, after, effect]),
          [
            ["env", "added", undefined, "NEW=new", "restart"],
            ["env", "removed", "OLD=old", undefined, "restart"],
            ["labels", "updated", "a=1", "a=3", "restart"],
            ["labels", "removed", "b=2", undefined, "restart"]
          ]
        )
        assert.deepStrictEqual(why(yield* Effect.flip(sandbox.modify(changes))), ["RestartRequired", "env"])
        const later = yield* sandbox.modifyPlan(changes, { effect: "next-start" })
        assert.deepStrictEqual(later.changes.map(({ effect }) => effect), Array.from({ length: 4 }, () => "next-start"))
        assert.deepStrictEqual({ ...(yield* Sandbox.get("changing")).labels }, { a: "1", b: "2" })

        const made = yield* sandbox.modify({ ...changes, maxMemory: "512 MiB" }, { effect: "next-start" })
        assert.isTrue(made.applied)
        assert.lengthOf(made.changes, 5)
        assert.deepStrictEqual({ ...(yield* Sandbox.get("changing")).labels }, { a: "3" })
        assert.strictEqual((yield* sandbox.shell("echo $OLD,$NEW")).stdout, "old,\n")
        // What it is already is no change.
        assert.deepStrictEqual((yield* sandbox.modifyPlan({ labels: { a: "3" } })).changes, [])
      }))
      // By name, while it has stopped.
      const stopped = yield* Sandbox.modify("changing", { workdir: "/etc", labels: { c: "4" } })
      assert.deepStrictEqual([stopped.status, stopped.applied], ["Stopped", true])
      assert.deepStrictEqual({ ...(yield* Sandbox.get("changing")).labels }, { a: "3", c: "4" })

      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.start("changing", { onClose: "destroy" })
        assert.strictEqual((yield* sandbox.shell("echo $OLD,$NEW; pwd")).stdout, ",new\n/etc\n")
        const total = Effect.map(
          sandbox.shell("awk '/MemTotal/ { print $2 }' /proc/meminfo"),
          ({ stdout }) => Number(stdout)
        )
        const before = yield* total
        const plan = yield* sandbox.modify({ memory: "320 MiB" })
        assert.deepStrictEqual(plan.changes.map(({ effect, field }) => [field, effect]), [["memory", "live"]])
        assert.deepStrictEqual(plan.resized.map(({ requested, resource }) => [resource, requested]), [
          ["memory", "320 MiB"]
        ])
        // The guest takes its time.
        yield* total.pipe(
          Effect.repeat({ until: (now) => now > before, schedule: Schedule.spaced("200 millis") }),
          Effect.timeout("60 seconds")
        )
        const more = yield* Effect.flip(sandbox.modify({ memory: "1 GiB" }))
        assert.include(["RestartRequired", "ChangeRefused"], more.reason._tag)
      }))
      assert.isTrue(yield* isFree("changing"))
    }))

  it.effect("that contradicts itself, or is no change at all, says which option is wrong", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const sandbox = yield* Sandbox.make({ name: "strict", image, memory: "192 MiB" })
      const both = yield* Effect.flip(sandbox.modify({ env: { A: "1" }, removeEnv: ["A"] }))
      assert.deepStrictEqual(why(both), ["ChangeRefused", "env"])
      const disk = yield* Effect.flip(sandbox.modify({ rootDiskSize: "8 GiB" }))
      assert.deepStrictEqual(why(disk), ["ChangeRefused", "rootDiskSize"])
      const inputs: ReadonlyArray<readonly [object, string]> = [
        [{ cpus: 0 }, "cpus"],
        [{ maxCpus: 256 }, "maxCpus"],
        [{ memory: "1 byte" }, "memory"],
        [{ maxMemory: -1 }, "maxMemory"],
        [{ rootDiskSize: "big" }, "rootDiskSize"],
        [{ env: { "A=B": "" } }, "env"],
        [{ removeEnv: ["\0"] }, "removeEnv"],
        [{ labels: { "effect-microsandbox.creation": "x" } }, "labels"],
        [{ removeLabels: ["effect-microsandbox.creation"] }, "removeLabels"],
        [{ workdir: "\0" }, "workdir"],
        [{ memroy: "1 GiB" }, "memroy"]
      ]
      for (const [changes, field] of inputs) {
        for (const change of [sandbox.modify(changes), Sandbox.modifyPlan("strict", changes)]) {
          const [tag, named] = why(yield* Effect.flip(change))
          assert.strictEqual(tag, "InvalidConfig", field)
          assert.match(named ?? "", new RegExp(`^${field}`))
        }
      }
      const nobody = yield* Effect.flip(Sandbox.modify("nobody", { cpus: 1 }))
      assert.strictEqual(nobody.reason._tag, "SandboxNotFound")
      assert.isTrue(MicrosandboxError.isMicrosandboxError(nobody))
    }))
})
