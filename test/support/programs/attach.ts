/** A program at a terminal that attaches it to a sandbox: `<home> <name> shell|defect|again`. */
import { Attach, Backend, Sandbox } from "@effect-microsandbox/core"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Console, Effect, Layer } from "effect"

const [home = "", name = "", what = ""] = process.argv.slice(2)

const said = (end: Attach.End) =>
  Console.log(end._tag === "Exited" ? `ended: exit ${end.status.exitCode}` : "ended: detached")

Effect.gen(function*() {
  const sandbox = yield* Sandbox.connect(name)
  yield* Console.log(`pid: ${process.pid} `)
  switch (what) {
    case "shell":
      return yield* Effect.flatMap(sandbox.attachShell(), said)
    case "defect":
      return yield* Effect.raceFirst(
        sandbox.attachShell(),
        Effect.andThen(sandbox.waitForFile("/tmp/break"), Effect.die("broken on purpose"))
      )
    case "again": {
      const program = yield* sandbox.spawn("sh", ["-i", "-s", "8760"], { tty: true, stdin: "pipe" })
      for (const detachKeys of ["ctrl-p,ctrl-q", undefined]) {
        yield* said(yield* Attach.run(program, { detachKeys }))
      }
    }
  }
}).pipe(
  Effect.scoped,
  Effect.provide(Layer.merge(Backend.layerLocal({ home, sweep: false }), NodeServices.layer)),
  NodeRuntime.runMain
)
