/**
 * Asks for the runtime in a process of its own, whose environment and packages may be others, and prints the answers.
 *
 *     runtime.ts '[{ "what": "resolve" | "installed" | "ensure" | "make" | "doctor", "home": …, "directory": …, "env": { … } }, …]'
 *
 * `ensure` takes the runtime from the directory, `make` boots it.
 */
import { Backend, type MicrosandboxError, Runtime, Sandbox } from "@effect-microsandbox/core"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Effect } from "effect"

const questions: ReadonlyArray<{
  readonly what: string
  readonly home: string
  readonly directory?: string
  readonly env?: Record<string, string>
}> = JSON.parse(process.argv[2] ?? "[]")

const asked = (
  what: string,
  directory: string
): Effect.Effect<unknown, MicrosandboxError.MicrosandboxError, Backend.Backend | Backend.Local> => {
  switch (what) {
    case "resolve":
      return Runtime.resolve
    case "installed":
      return Runtime.installed
    case "ensure":
      return Runtime.ensure(directory === "" ? {} : { from: { directory } })
    default:
      return Effect.scoped(Effect.as(Sandbox.make({ image: directory, pullPolicy: "never" }), "made"))
  }
}

/** The engine reads its variables anew for each backend and boot. */
const variables = ["MSB_PATH", "MSB_LIBKRUNFW_PATH", "MSB_CONFIG_PATH"]

Effect.forEach(questions, ({ directory = "", env = {}, home, what }) =>
  Effect.suspend(() => {
    for (const variable of variables) delete process.env[variable]
    Object.assign(process.env, env)
    return what === "doctor"
      ? Runtime.doctor({ home })
      : asked(what, directory).pipe(Effect.provide(Backend.layerLocal({ home })))
  }).pipe(
    Effect.map((value) => ({ value })),
    Effect.catchTag(
      "MicrosandboxError",
      ({ findings, message, reason }) => Effect.succeed({ findings, message, reason })
    )
  )).pipe(
    Effect.flatMap((answers) => Console.log(JSON.stringify(answers))),
    NodeRuntime.runMain
  )
