/** Names of sandboxes. */
import * as Effect from "effect/Effect"

export const freshName = Effect.sync(() => `sandbox-${crypto.randomUUID().slice(0, 13)}`)
