/** The demo, ended at each of its moments; test/vm ends it at the one where most is to be cleaned up. */
import { NodeServices } from "@effect/platform-node"
import { layer } from "@effect/vitest"
import { Effect } from "effect"
import { endDemo } from "../support/Demo.ts"

layer(NodeServices.layer, { timeout: "10 minutes", excludeTestServices: true })("the demo", (it) => {
  it.effect("leaves nothing, whenever it is ended", () =>
    Effect.gen(function*() {
      yield* endDemo("SIGTERM", "")
      yield* endDemo("SIGINT", "root file system")
      yield* endDemo("SIGTERM", "booting")
      yield* endDemo("SIGINT", "tick 2")
    }))
})
