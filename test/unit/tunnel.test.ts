import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { Target } from "../../packages/core/src/internal/operation.ts"
import { tunnel } from "../../packages/core/src/internal/tunnel.ts"

/** A sandbox of which nothing may be asked. */
const untouched = { name: "untouched", handle: { id: "1" }, native: {} } as Target

describe("an HTTP client of a guest's port", () => {
  it.live("tells a request that comes when its scope has ended, and connects to nothing", () =>
    Effect.gen(function*() {
      const client = yield* Effect.scoped(tunnel(untouched).httpClient(80))
      const error = yield* Effect.flip(client.get("/"))
      assert.strictEqual(error.reason._tag, "TransportError")
      assert.include(String((error.reason as { readonly cause?: unknown }).cause), "the client's scope has ended")
    }))
})
