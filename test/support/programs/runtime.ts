/**
 * Asks for the runtime in a process of its own, whose environment and packages may be others, and prints what came of it.
 *
 *     runtime.ts <home> resolve | installed | ensure | make [<directory>]
 *
 * `ensure` takes the runtime from the directory, `make` a root from it.
 */
import { Backend, type MicrosandboxError, Runtime, Sandbox } from "@effect-microsandbox/core"
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect } from "effect"

const [home = "", what = "", directory = ""] = process.argv.slice(2)

const asked: Record<string, Effect.Effect<unknown, MicrosandboxError.MicrosandboxError, Backend.Backend>> = {
  resolve: Runtime.resolve,
  installed: Runtime.installed,
  ensure: Runtime.ensure({ from: { directory } }),
  make: Effect.scoped(Effect.asVoid(Sandbox.make({ image: directory, pullPolicy: "never" })))
}

const program = asked[what] ?? Effect.die(new Error(`unknown: ${what}`))

program.pipe(
  Effect.map((value) => ({ value })),
  Effect.catchTag(
    "MicrosandboxError",
    ({ findings, message, reason }) => Effect.succeed({ findings, message, reason })
  ),
  Effect.flatMap((outcome) => Console.log(JSON.stringify(outcome))),
  Effect.provide(Backend.layerLocal({ home })),
  NodeRuntime.runMain
)
