/** Names of sandboxes. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

export const Name = Schema.String.check(
  Schema.isPattern(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/, {
    expected: "1 to 128 letters, digits, dots, hyphens and underscores, the first a letter or digit"
  })
)

export const freshName = Effect.sync(() => `sandbox-${crypto.randomUUID().slice(0, 13)}`)
