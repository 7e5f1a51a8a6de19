/** The removal of what dead owners left: what `Sandbox.sweep` does, and the building of a local backend layer. */
import type { Native } from "@effect-microsandbox/native"
import * as Effect from "effect/Effect"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import { mapFailure } from "./failure.ts"

export interface SweepReport {
  /** The names of the sandboxes that were removed. */
  readonly removed: ReadonlyArray<string>
  /** The names of those that were to be kept, and ran. */
  readonly stopped: ReadonlyArray<string>
  /** Those that could not be removed, and what was in the way. The next sweep tries again. */
  readonly failed: ReadonlyArray<{ readonly sandbox: string; readonly message: string }>
}

export const sweepBackend = (
  native: Native.Native["Service"],
  backend: Native.Backend
): Effect.Effect<SweepReport, MicrosandboxError> =>
  native.call((token) => backend.sweep(token)).pipe(
    mapFailure({ operation: "Sandbox.sweep" }),
    Effect.tap(({ removed }) => Effect.annotateCurrentSpan({ "sandbox.sweep.removed": removed.length })),
    Effect.withSpan("Sandbox.sweep")
  )
