/** An interruption at any moment of a sandbox's life leaves nothing; test/long does it 200 times. */
import { layer } from "@effect/vitest"
import { Layer } from "effect"
import { interruptions } from "../support/Interruptions.ts"
import * as Registry from "../support/Registry.ts"
import { layerBackend } from "../support/Sandboxes.ts"
import { seeded } from "../support/Seeded.ts"

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { timeout: "10 minutes", excludeTestServices: true })(
  "an interruption",
  (it) => {
    it.effect("of a make, a program, a branch or a close leaves nothing, at 8 moments", () =>
      seeded(interruptions(8, 4)))
  }
)
