/** Archives as chance and malice make them. Ten thousand of them are in `test/long/store/Archives.test.ts`. */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import * as ArchiveFuzz from "../support/ArchiveFuzz.ts"
import { seeded } from "../support/Seeded.ts"

layer(ArchiveFuzz.layer, { excludeTestServices: true, timeout: "2 minutes" })(
  "an archive that chance has made",
  (it) => {
    it.effect(
      "of images is taken or refused with a reason, and nothing outside is read, written or made",
      () =>
        seeded(Effect.gen(function*() {
          const outcomes = yield* ArchiveFuzz.images(200)
          console.log(`archives of images: ${JSON.stringify(outcomes)}`)
          for (const what of ["taken", "ImageArchiveInvalid", "ImageDigestMismatch"]) {
            assert.isAbove(outcomes[what] ?? 0, 0)
          }
        })),
      120_000
    )

    it.effect(
      "of snapshots is taken or refused with a reason, and nothing outside is read, written or made",
      () =>
        seeded(Effect.gen(function*() {
          const outcomes = yield* ArchiveFuzz.snapshots(100)
          console.log(`archives of snapshots: ${JSON.stringify(outcomes)}`)
          for (const what of ["taken", "SnapshotIntegrity"]) assert.isAbove(outcomes[what] ?? 0, 0)
        })),
      120_000
    )
  }
)
