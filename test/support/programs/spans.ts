/**
 * Boots a sandbox in a process of its own and prints its spans: for each its name, its parent's and the reason of its
 * failure, and then whether any of them says what the environment has as `CANARY`.
 *
 *     spans.ts <home> <image>
 */
import { Backend, MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Cause, Console, Effect, Exit, Option } from "effect"
import * as Spans from "../Spans.ts"

const [home = "", image = ""] = process.argv.slice(2)
const { CANARY = "" } = process.env

const reason = (exit: Exit.Exit<unknown, unknown>) => {
  if (Exit.isSuccess(exit)) return undefined
  const error = Cause.squash(exit.cause)
  return MicrosandboxError.isMicrosandboxError(error) ? error.reason._tag : String(error)
}

Effect.gen(function*() {
  const { spans } = yield* Spans.recorded(Effect.scoped(Sandbox.make({ image, env: { CANARY } })))
  Spans.check(spans)
  const told = spans.map((span) => ({
    name: span.name,
    parent: Option.match(span.parent, { onNone: () => undefined, onSome: (parent) => "name" in parent && parent.name }),
    failure: reason(Spans.exitOf(span))
  }))
  yield* Console.log(JSON.stringify({ spans: told, isDiscreet: !Spans.text(spans).includes(CANARY) }))
}).pipe(
  Effect.provide(Backend.layerLocal({ home })),
  NodeRuntime.runMain
)
