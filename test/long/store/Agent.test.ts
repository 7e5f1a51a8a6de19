/** A hostile guest's agent for as long as it takes. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Path } from "effect"
import * as AgentFuzz from "../../support/AgentFuzz.ts"
import { temporaryDirectory } from "../../support/Sandboxes.ts"

const frames = Number(process.env.FRAMES ?? 100_000)

describe("an agent", () => {
  it.live(
    "that says 100,000 frames at random neither stops nor fools its client, which takes no more memory",
    () =>
      Effect.gen(function*() {
        const path = yield* Path.Path
        const result = yield* AgentFuzz.run(path.join(yield* temporaryDirectory, "agent.sock"), frames)
        console.log(JSON.stringify(result))
        assert.isBelow(result.growth, 24 << 20)
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
    1_200_000
  )
})
