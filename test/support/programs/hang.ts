/** A worker that makes a sandbox whose registry never answers: `<home> <image>`. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { Effect } from "effect"

const [home = "", image = ""] = process.argv.slice(2)

Effect.runFork(
  Effect.scoped(Sandbox.make({ image })).pipe(Effect.provide(Backend.layerLocal({ home })))
)
