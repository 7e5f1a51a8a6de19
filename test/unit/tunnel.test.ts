import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Exit, Fiber, Schema, Scope } from "effect"
import { Duplex } from "node:stream"
import { make } from "../../packages/core/src/internal/guestHttp.ts"
import type { Target } from "../../packages/core/src/internal/operation.ts"
import { tunnel } from "../../packages/core/src/internal/tunnel.ts"
import { MicrosandboxError, TunnelRefused } from "../../packages/core/src/MicrosandboxError.ts"

/** A sandbox of which nothing may be asked. */
const untouched = { name: "untouched", handle: { id: "1" }, native: {} } as Target

const refused = new MicrosandboxError({
  operation: "Sandbox.httpClient",
  reason: new TunnelRefused({ message: "refused", host: "127.0.0.1", port: 80 })
})

const millis = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 15 })))
const few = Arbitrary.schema(Schema.Literals([1, 2, 3]))

/** Connections to a server that never answers, some of which it refuses. */
const silent = (connectMs: number, closeMs: number, isRefused: (index: number) => boolean) => {
  const seen = { asked: 0, open: 0, most: 0 }
  const connect = Effect.gen(function*() {
    const index = seen.asked++
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        seen.most = Math.max(seen.most, ++seen.open)
      }),
      () => Effect.sync(() => seen.open--)
    )
    yield* Effect.uninterruptible(Effect.sleep(connectMs))
    if (isRefused(index)) return yield* refused
    const stream = new Duplex({
      read: () => {},
      write: (_chunk, _encoding, callback) => callback(),
      destroy: (error, callback) => void setTimeout(() => callback(error), closeMs)
    }).on("error", () => {})
    yield* Effect.addFinalizer(() =>
      Effect.callback<void>((resume) => {
        if (stream.closed) return resume(Effect.void)
        stream.once("close", () => resume(Effect.void)).destroy()
      })
    )
    return stream
  })
  return { seen, connect }
}

describe("an HTTP client of a guest's port", () => {
  it.live("tells a request that comes when its scope has ended, and connects to nothing", () =>
    Effect.gen(function*() {
      const client = yield* Effect.scoped(tunnel(untouched).httpClient(80))
      const error = yield* Effect.flip(client.get("/"))
      assert.strictEqual(error.reason._tag, "TransportError")
      assert.include(String((error.reason as { readonly cause?: unknown }).cause), "the client's scope has ended")
    }))

  it.live.prop(
    "has no more connections than it may, and with its scope's end everybody is told, also who waits for a turn",
    [few, few, few, Arbitrary.array(millis, { minLength: 5, maxLength: 5 }), Arbitrary.schema(Schema.Boolean)],
    ([maxConnections, firsts, more, [connectMs, closeMs, pause, age, rest], refuses]) =>
      Effect.gen(function*() {
        const { seen, connect } = silent(connectMs!, closeMs!, (index) => refuses && index % 2 === 0)
        const scope = yield* Scope.make()
        const client = yield* Scope.provide(make(connect, "127.0.0.1", 80, maxConnections), scope)
        const ask = Effect.forkDetach(Effect.exit(client.get("/")))
        const given = yield* ask
        const requests = yield* Effect.replicateEffect(ask, firsts - 1)
        yield* Effect.sleep(pause!)
        requests.push(...yield* Effect.replicateEffect(ask, more))
        yield* Effect.sleep(age!)
        // One gives up, whether it has its connection or waits for it.
        yield* Fiber.interrupt(given)
        yield* Effect.sleep(rest!)
        yield* Scope.close(scope, Exit.void)
        const { asked } = seen
        for (const request of requests) assert.isTrue(Exit.isFailure(yield* Fiber.join(request)))
        assert.isAtMost(seen.most, maxConnections)
        assert.deepStrictEqual({ ...seen, most: 0 }, { asked, open: 0, most: 0 })
      }),
    { timeout: 60_000 }
  )

  it.live("connects for nobody who gave up while waiting for a turn", () =>
    Effect.gen(function*() {
      const { seen, connect } = silent(0, 0, (index) => index > 0)
      yield* Effect.scoped(Effect.gen(function*() {
        const client = yield* make(connect, "127.0.0.1", 80, 1)
        const first = yield* Effect.forkChild(client.get("/"))
        while (seen.open === 0) yield* Effect.sleep(1)
        const others = yield* Effect.replicateEffect(Effect.forkChild(client.get("/")), 5)
        yield* Effect.sleep(5)
        yield* Fiber.interruptAll(others)
        yield* Fiber.interrupt(first)
        yield* Effect.flip(client.get("/"))
      }))
      assert.strictEqual(seen.asked, 2)
    }))

  it.live("goes on after connections that were refused, with everybody who waits for a turn", () =>
    Effect.gen(function*() {
      const { seen, connect } = silent(1, 0, () => true)
      yield* Effect.scoped(Effect.gen(function*() {
        const client = yield* make(connect, "127.0.0.1", 80, 2)
        const exits = yield* Effect.forEach(
          Array.from({ length: 9 }),
          () => Effect.flip(client.get("/")),
          { concurrency: "unbounded" }
        )
        for (const { reason } of exits) {
          assert.deepStrictEqual((reason as { readonly cause?: unknown }).cause, refused)
        }
      }))
      assert.deepStrictEqual(seen, { asked: 9, open: 0, most: 2 })
    }))
})
