/**
 * Goes into a phase of a sandbox's life, says so on standard output, and does not come out by itself: whoever began it
 * kills it there.
 *
 *     phase.ts <home> <image> <name> <phase>
 */
import { Backend, type MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Effect } from "effect"
import { flushCompileCache } from "node:module"
import type { Phase } from "../KilledHost.ts"

// For the next such program: this one does not come to its end.
flushCompileCache()

const [home = "", image = "", name = "", phase = "boot"] = process.argv.slice(2)

const enter = Console.log(phase)

/** What is done in a phase, of a sandbox that runs. */
const steps: Record<
  Exclude<Phase, "pull" | "boot" | "branched">,
  (
    sandbox: Sandbox.Sandbox
  ) => Effect.Effect<unknown, MicrosandboxError.MicrosandboxError>
> = {
  exec: (sandbox) => Effect.forever(sandbox.exec("sleep", ["0.5"])),
  pause: (sandbox) => Effect.forever(Effect.andThen(sandbox.pause(), sandbox.resume)),
  branch: (sandbox) => Effect.forever(Effect.scoped(sandbox.branch())),
  stop: (sandbox) => sandbox.stop()
}

const program = Effect.gen(function*() {
  if (phase === "pull" || phase === "boot") yield* enter
  // A VM that is being branched ends when its memory is written: of this size, within seconds also in the software host.
  const sandbox = yield* Sandbox.make({ name, image, memory: "128 MiB" })
  if (phase === "branched") {
    yield* sandbox.branch()
    yield* enter
  }
  if (phase in steps) {
    yield* enter
    yield* steps[phase as keyof typeof steps](sandbox)
  }
  return yield* Effect.never
})

Effect.scoped(program).pipe(Effect.provide(Backend.layerLocal({ home })), NodeRuntime.runMain)
