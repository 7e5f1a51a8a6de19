/** Branches: they go on from where their source is, and leave nothing behind. */
import { Backend, type MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer } from "effect"
import { findDivisor } from "../../demo/RaceBranches.ts"
import * as Registry from "../support/Registry.ts"
import { isFree, layerBackend, rootDirectory, sandboxDirectories } from "../support/Sandboxes.ts"
import * as Teller from "../support/Teller.ts"

const image = Effect.gen(function*() {
  const registry = yield* Registry.Registry
  return yield* registry.push("branch", yield* rootDirectory)
})

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { timeout: "10 minutes", excludeTestServices: true })(
  "a branch",
  (it) => {
    it.effect("has the memory, the programs and the files of its source, and then goes its own way", () =>
      Effect.gen(function*() {
        const parent = yield* Sandbox.make({
          name: "parent",
          image: yield* image,
          memory: "192 MiB",
          labels: { team: "a", round: "1" }
        })
        yield* Teller.start(parent, "sesame")
        yield* parent.shell("echo before > /etc/file; echo before > /mnt/ram/file")
        const before = yield* Teller.ask(parent)
        yield* Effect.scoped(Effect.gen(function*() {
          const child = yield* parent.branch("child", { labels: { round: "2" } })
          assert.deepStrictEqual([child.name, yield* child.status, yield* parent.status], [
            "child",
            "Running",
            "Running"
          ])
          assert.notStrictEqual(child.id, parent.id)
          assert.deepStrictEqual({ ...(yield* Sandbox.get("child")).labels }, { team: "a", round: "2" })
          const told = yield* Teller.ask(child)
          assert.deepStrictEqual([told.pid, told.secret], [before.pid, "sesame"])
          assert.isAtLeast(told.count, before.count)
          assert.strictEqual((yield* child.shell("cat /etc/file /mnt/ram/file")).stdout, "before\nbefore\n")

          yield* child.shell("echo child > /etc/file; echo child > /mnt/ram/file; kill -9 $(cat /mnt/ram/pid)")
          yield* parent.shell("echo parent > /etc/file")
          assert.strictEqual((yield* child.shell("cat /etc/file /mnt/ram/file")).stdout, "child\nchild\n")
          assert.strictEqual((yield* parent.shell("cat /etc/file /mnt/ram/file")).stdout, "parent\nbefore\n")
          assert.strictEqual((yield* Teller.ask(parent)).secret, "sesame")
        }))
        assert.isTrue(yield* isFree("child"))
        assert.strictEqual((yield* Teller.ask(parent)).pid, before.pid)
      }))

    it.effect("of several of one moment has an exit of its own, in the order of the names", () =>
      Effect.gen(function*() {
        const parent = yield* Sandbox.make({ name: "many", image: yield* image, memory: "192 MiB" })
        yield* Teller.start(parent, "sesame")
        const taken = yield* parent.branch("taken")
        yield* Effect.scoped(Effect.gen(function*() {
          const exits = yield* parent.branchMany(["one", "taken", "three"])
          assert.lengthOf(exits, 3)
          const [one, two, three] = exits
          assert.isTrue(Exit.isFailure(two!))
          const error = yield* Effect.flip(two!)
          assert.deepStrictEqual([error.sandbox, error.reason._tag], ["taken", "SandboxAlreadyExists"])
          for (const [exit, name] of [[one!, "one"], [three!, "three"]] as const) {
            const child = yield* exit
            assert.strictEqual(child.name, name)
            assert.strictEqual((yield* Teller.ask(child)).secret, "sesame")
          }
        }))
        assert.deepStrictEqual((yield* sandboxDirectories).toSorted(), ["many", "taken"])
        assert.isTrue((yield* isFree("one")) && (yield* isFree("three")))
        assert.strictEqual((yield* Teller.ask(taken)).secret, "sesame")
        // All names taken: nothing to start, and nothing to fail.
        const none = yield* parent.branchMany(["taken"])
        assert.deepStrictEqual(none.map(Exit.isFailure), [true])
      }))

    it.effect("that is interrupted leaves nothing, and its source as it was, whenever that is", () =>
      Effect.gen(function*() {
        const parent = yield* Sandbox.make({ name: "source", image: yield* image, memory: "192 MiB" })
        yield* Teller.start(parent, "sesame")
        const interrupted = Effect.fn("interrupted")(function*<E>(
          branching: Effect.Effect<unknown, E, never>,
          delay: number
        ) {
          const fiber = yield* Effect.forkChild(branching)
          yield* Effect.sleep(delay)
          yield* Fiber.interrupt(fiber)
          assert.deepStrictEqual(yield* sandboxDirectories, ["source"], `after ${delay} ms`)
        })
        const one = Effect.scoped(Effect.andThen(parent.branch("early"), Effect.never))
        const two = Effect.scoped(Effect.andThen(parent.branchMany(["early", "late"]), Effect.never))
        for (const delay of [0, 150, 800, 3000]) {
          yield* interrupted(one, delay)
          assert.isTrue(yield* isFree("early"), `after ${delay} ms`)
          assert.strictEqual(yield* parent.status, "Running", `after ${delay} ms`)
          assert.strictEqual((yield* Teller.ask(parent)).secret, "sesame", `after ${delay} ms`)
        }
        for (const delay of [300, 3000]) {
          yield* interrupted(two, delay)
          assert.isTrue((yield* isFree("early")) && (yield* isFree("late")), `after ${delay} ms`)
        }
        yield* parent.pause()
        for (const delay of [600]) {
          yield* interrupted(one, delay)
          assert.isTrue(yield* isFree("early"), `after ${delay} ms`)
          assert.strictEqual(yield* parent.status, "Paused", `after ${delay} ms`)
        }
        // The name is good for another: a child of a source that stays paused runs.
        const child = yield* parent.branch("early")
        assert.strictEqual((yield* Teller.ask(child)).secret, "sesame")
        assert.strictEqual(yield* parent.status, "Paused")
        yield* parent.resume
        assert.strictEqual((yield* Teller.ask(parent)).secret, "sesame")
      }))

    it.effect("cannot be of a sandbox whose root is a directory, or that has stopped", () =>
      Effect.gen(function*() {
        const directory = yield* Sandbox.make({ name: "directory", image: yield* rootDirectory, memory: "192 MiB" })
        const refused = yield* Effect.flip(Effect.scoped(directory.branch("no")))
        assert.deepStrictEqual([refused.reason._tag, refused.sandbox], ["CaptureUnsupported", "directory"])
        const all = yield* Effect.flip(Effect.scoped(directory.branchMany(2)))
        assert.strictEqual(all.reason._tag, "CaptureUnsupported")
        const stopped = yield* Sandbox.make({ name: "stopped", image: yield* image, memory: "192 MiB" })
        yield* stopped.stop()
        const gone = yield* Effect.flip(Effect.scoped(stopped.branch("no")))
        assert.strictEqual(gone.reason._tag, "SandboxNotRunning")
        assert.isTrue(yield* isFree("no"))
      }))

    it.effect("names what is wrong with its options before anything starts", () =>
      Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({ name: "strict", image: yield* rootDirectory, memory: "192 MiB" })
        const cases: ReadonlyArray<readonly [Effect.Effect<unknown, MicrosandboxError.MicrosandboxError>, string]> = [
          [Effect.scoped(sandbox.branch("-no")), "name"],
          [Effect.scoped(sandbox.branch("no", { guestFlush: "maybe" as never })), "guestFlush"],
          [Effect.scoped(sandbox.branch("no", { onClose: "keep" as never })), "onClose"],
          [Effect.scoped(sandbox.branch("no", { labels: { "effect-microsandbox.creation": "x" } })), "labels"],
          [Effect.scoped(sandbox.branchMany(0)), "names"],
          [Effect.scoped(sandbox.branchMany([])), "names"],
          [Effect.scoped(sandbox.branchMany(["a", "a"])), "names"],
          [sandbox.pause({ guestFlush: "maybe" as never }), "guestFlush"],
          [sandbox.snapshot(""), "name"]
        ]
        for (const [effect, field] of cases) {
          const { reason } = yield* Effect.flip(Effect.asVoid(effect))
          assert.match(reason._tag === "InvalidConfig" ? reason.field ?? "" : reason._tag, new RegExp(`^${field}`))
        }
      }))

    it.effect("that is first in a race is kept, and the others are destroyed", () =>
      Effect.gen(function*() {
        yield* Effect.scoped(Effect.gen(function*() {
          // 331 is the only divisor up to 1000, in the second quarter.
          const found = yield* findDivisor(yield* image, 999_983 * 331)
          assert.strictEqual(found.divisor, 331)
          assert.strictEqual(found.said, `${999_983 * 331} = 331 times something`)
          assert.sameMembers(yield* sandboxDirectories, [found.sandbox.name, found.branch.name])
          assert.strictEqual(yield* found.branch.status, "Running")
        }))
        assert.deepStrictEqual(yield* sandboxDirectories, [])
        const { native } = yield* Backend.Backend
        assert.strictEqual((yield* native.live).sandboxes, 0)
      }))
  }
)
