/** The doctor where a VM can boot. */
import { Runtime } from "@effect-microsandbox/core"
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Duration, Effect, FileSystem } from "effect"
import * as os from "node:os"
import { processesWith, temporaryDirectory } from "../support/Sandboxes.ts"

/** All that a boot could leave behind. */
const traces = Effect.fn("traces")(function*(home: string) {
  const fs = yield* FileSystem.FileSystem
  const temporary = (yield* fs.readDirectory(os.tmpdir())).filter((entry) => entry.startsWith(".dr-"))
  const vms = yield* processesWith("\0machine\0--name\0")
  return { temporary, vms, home: yield* fs.readDirectory(home), shared: yield* fs.readDirectory("/dev/shm") }
})

layer(NodeServices.layer, { timeout: "5 minutes", excludeTestServices: true })("the doctor", (it) => {
  it.effect("boots a VM, finds a machine that can run sandboxes healthy, and leaves nothing", () =>
    Effect.gen(function*() {
      const home = yield* temporaryDirectory
      const before = yield* traces(home)
      const report = yield* Runtime.doctor({ home })
      assert.deepStrictEqual(report.findings.filter(({ status }) => status !== "ok"), [])
      assert.isTrue(report.healthy)
      const boot = report.findings.find(({ check }) => check === "boot")
      assert(boot?.check === "boot" && boot.duration !== undefined)
      assert.isAbove(Duration.toMillis(boot.duration), 0)
      assert.deepStrictEqual(yield* traces(home), before)
    }))

  it.effect("says why a VM did not boot, when nothing else is wrong, and leaves nothing", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const home = yield* temporaryDirectory
      const before = yield* traces(home)
      // A guest kernel that is none: whole, of the right version, and msb starts.
      const { libkrunfw, msb } = yield* Effect.orDie(pairOfThisMachine)
      const pair = yield* temporaryDirectory
      yield* fs.symlink(msb, `${pair}/msb`)
      yield* fs.writeFileString(`${pair}/${libkrunfw}`, "no kernel")
      const report = yield* withMsb(`${pair}/msb`, Runtime.doctor({ home }))
      const wrong = report.findings.filter(({ status }) => status !== "ok")
      assert.deepStrictEqual(wrong.map(({ check, status }) => [check, status]), [["boot", "failed"]])
      assert.isFalse(report.healthy)
      assert.isAbove(wrong[0]?.message.length ?? 0, 20)
      assert.deepStrictEqual(yield* traces(home), before)
    }))
})

const pairOfThisMachine = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const npm = "node_modules/@superradcompany/microsandbox-linux-x64-gnu"
  const [libkrunfw = ""] = yield* fs.readDirectory(`${npm}/lib`)
  return { libkrunfw, msb: yield* fs.realPath(`${npm}/bin/msb`) }
})

/** The engine reads the variable at each boot. */
const withMsb = <A, E, R>(path: string, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      process.env.MSB_PATH = path
    }),
    () => effect,
    () =>
      Effect.sync(() => {
        delete process.env.MSB_PATH
      })
  )
