/** Many walks through what can be done to a sandbox: each does what the model says. */
import { layer } from "@effect/vitest"
import { Arbitrary } from "effect"
import { Command, walk } from "../support/Lifecycle.ts"
import { layerBackend } from "../support/Sandboxes.ts"
import { seed, seeded } from "../support/Seeded.ts"

const commands = Arbitrary.array(Arbitrary.schema(Command), { minLength: 20, maxLength: 20 })

layer(layerBackend, { timeout: "1 hour", excludeTestServices: true })("a sandbox's life", (it) => {
  it.effect.prop(
    "is what a model of it says, in 12 walks",
    [commands],
    ([commands]) => seeded(walk(commands)),
    { arbitrary: { runs: 12, maxShrinks: 20, seed } }
  )
})
