/** Whatever is done to a sandbox, in whatever order, does what a model of it says; test/long does more. */
import { layer } from "@effect/vitest"
import { Arbitrary } from "effect"
import { Command, walk } from "../support/Lifecycle.ts"
import { layerBackend } from "../support/Sandboxes.ts"
import { seed, seeded } from "../support/Seeded.ts"

const commands = Arbitrary.array(Arbitrary.schema(Command), { minLength: 12, maxLength: 12 })

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("a sandbox's life", (it) => {
  it.effect.prop(
    "is what a model of it says, whatever is done to it",
    [commands],
    ([commands]) => seeded(walk(commands)),
    { arbitrary: { runs: 2, maxShrinks: 0, seed } }
  )

  it.effect("ends when it is removed: its handle does nothing to the next of its name", () =>
    walk(["stop", "remove", "make", "detach", "close the scope", "status", "stop", "kill", "exec"]))

  it.effect("knows what two stops at once are, a stop during a start, and any use after its end", () =>
    seeded(walk([
      "stop twice at once",
      "stop while it starts",
      "stop while it starts",
      "exec",
      "close the scope",
      "use after close"
    ])))
})
