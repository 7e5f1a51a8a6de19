/** kill -9 of the process that holds a sandbox, in some phases of its life; test/long does it in each, again and again. */
import { NodeServices } from "@effect/platform-node"
import { layer } from "@effect/vitest"
import { Layer } from "effect"
import { killIn } from "../support/KilledHost.ts"
import * as Registry from "../support/Registry.ts"
import { seeded } from "../support/Seeded.ts"

layer(Layer.merge(NodeServices.layer, Registry.layer), { timeout: "10 minutes", excludeTestServices: true })(
  "a process that is killed",
  (it) => {
    for (const phase of ["exec", "branched"] as const) {
      it.effect(`in ${phase} leaves no VM, and its sandbox's name to the next`, () => seeded(killIn(phase), phase))
    }
  }
)
