/** Much output, and a reader that sleeps first: 1 GiB of a relay that has no guest, and 48 MiB of a real sandbox. */
import { Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import * as FakeRelay from "../support/FakeRelay.ts"
import { sha256 } from "../support/Poured.ts"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"
import { mebibyte, readLate, readShellLate } from "../support/Slow.ts"

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("a program that prints 1 GiB", (it) => {
  it.effect("is read in full by a reader that sleeps for 30 seconds first, in less than 64 MiB", () =>
    Effect.gen(function*() {
      yield* FakeRelay.make("late")
      const bytes = 1024 * mebibyte
      const growth = yield* readLate({
        sandbox: "late",
        bytes,
        seconds: 30,
        command: ["pour", `${bytes}`],
        sha256: sha256(bytes),
        growth: 64
      })
      console.log(`1 GiB, growth: ${growth.toFixed(1)} MiB`)
      assert.isAbove(growth, 0)
    }))
})

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("a real program that prints 48 MiB", (it) => {
  it.effect("is read in full by a reader that sleeps for 30 seconds first, in less than 16 MiB", () =>
    Effect.gen(function*() {
      const { name } = yield* Sandbox.make({ image: yield* rootDirectory })
      yield* readShellLate({ sandbox: name, mebibytes: 48, seconds: 30, highWater: "4 MiB" })
    }).pipe(Effect.scoped))
})
