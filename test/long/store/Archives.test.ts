/** Archives as chance and malice make them, ten thousand of them. The short form is in `test/store/Archives.test.ts`. */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import * as ArchiveFuzz from "../../support/ArchiveFuzz.ts"
import { seeded } from "../../support/Seeded.ts"

const total = (outcomes: Readonly<Record<string, number>>) =>
  Object.values(outcomes).reduce((sum, count) => sum + count)

layer(ArchiveFuzz.layer, { excludeTestServices: true, timeout: "2 minutes" })("10,000 archives", (it) => {
  it.effect("of images or snapshots are taken or refused, and nothing outside is read, written or made", () =>
    Effect.gen(function*() {
      const images = yield* seeded(ArchiveFuzz.images(6000), "images")
      console.log(`archives of images: ${JSON.stringify(images)}`)
      const snapshots = yield* seeded(ArchiveFuzz.snapshots(4000), "snapshots")
      console.log(`archives of snapshots: ${JSON.stringify(snapshots)}`)
      assert.strictEqual(total(images) + total(snapshots), 10_000)
      // Neither are all refused, nor all taken.
      for (const outcomes of [images, snapshots]) {
        assert.isAbove(outcomes.taken ?? 0, 20)
        assert.isAbove(total(outcomes) - (outcomes.taken ?? 0), 1000)
      }
    }))
})
