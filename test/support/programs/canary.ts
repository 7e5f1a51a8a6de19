/**
 * Boots a sandbox that has secrets, in a process of its own, and prints all that can be heard of it.
 *
 *     canary.ts <home> <image>
 *
 * `VALUE`, `VARIABLE` and `ENV` in its environment are what is to be kept.
 */
import { Backend, Sandbox, Secret } from "@effect-microsandbox/core"
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Redacted } from "effect"
import * as Canaries from "../Canaries.ts"

const [home = "", image = ""] = process.argv.slice(2)
const { ENV = "", VALUE = "" } = process.env

Effect.gen(function*() {
  const { exit, text } = yield* Canaries.heard(Effect.scoped(Sandbox.make({
    name: "secretive",
    image,
    env: { ENV },
    logLevel: "trace",
    secrets: [
      Secret.make({ env: "KEY", value: Redacted.make(VALUE), hosts: ["api.example"] }),
      Secret.make({ env: "TOKEN", variable: "VARIABLE", hosts: ["api.example"] })
    ]
  })))
  yield* Console.log(JSON.stringify({ tag: exit._tag, text }))
}).pipe(
  Effect.provide(Backend.layerLocal({ home })),
  NodeRuntime.runMain
)
