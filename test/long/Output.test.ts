/** Much output, and a reader that sleeps first. More of it, of a relay that has no guest, is in store/Exec. */
import { Sandbox } from "@effect-microsandbox/core"
import { layer } from "@effect/vitest"
import { Effect } from "effect"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"
import { readShellLate } from "../support/Slow.ts"

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("a real program that prints 48 MiB", (it) => {
  it.effect("is read in full by a reader that sleeps for 30 seconds first, in less than 16 MiB", () =>
    Effect.gen(function*() {
      const { name } = yield* Sandbox.make({ image: yield* rootDirectory })
      yield* readShellLate({ sandbox: name, mebibytes: 48, seconds: 30, highWater: "4 MiB" })
    }).pipe(Effect.scoped))
})
