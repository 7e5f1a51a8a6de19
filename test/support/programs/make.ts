/**
 * Makes a sandbox in a process of its own and prints what came of it: the reason's tag and fields, or the sandbox's name.
 *
 *     make.ts <home> <image> [name]
 *
 * With `DETACH` in its environment the sandbox is let go. With a name it says so on standard output when the sandbox is up, and then stays until it is interrupted.
 */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Effect } from "effect"
import { flushCompileCache } from "node:module"

// For the next such program: this one may not come to its end.
flushCompileCache()

const [home = "", image = "", name] = process.argv.slice(2)

const program = Effect.gen(function*() {
  const onClose = process.env.DETACH === undefined ? "destroy" : "detach"
  const sandbox = yield* Sandbox.make({ image, name, pullPolicy: "never", onClose })
  yield* Console.log(JSON.stringify({ _tag: "Made", name: sandbox.name }))
  if (name !== undefined) return yield* Effect.never
})

Effect.scoped(program).pipe(
  Effect.provide(Backend.layerLocal({ home })),
  Effect.catchTag("MicrosandboxError", ({ reason }) => Console.log(JSON.stringify(reason))),
  NodeRuntime.runMain
)
