/** kill -9 of the process that holds a sandbox, at several moments of each phase of its life. */
import { NodeServices } from "@effect/platform-node"
import { layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { killIn, phases } from "../support/KilledHost.ts"
import * as Registry from "../support/Registry.ts"
import { seeded } from "../support/Seeded.ts"

layer(Layer.merge(NodeServices.layer, Registry.layer), { timeout: "1 hour", excludeTestServices: true })(
  "a process that is killed",
  (it) => {
    it.effect("leaves no VM, and its sandbox's name to the next, at 4 moments of each phase", () =>
      seeded(Effect.gen(function*() {
        for (let round = 0; round < 4; round++) {
          for (const phase of phases) yield* killIn(phase)
        }
      })))
  }
)
