/** The control plane of these tests, held to a client that is not ours: the vendor's own binding of the engine. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as ControlPlane from "../support/ControlPlane.ts"

interface Told {
  readonly what: string
  readonly value?: unknown
  readonly error?: string
}

describe("the control plane of the tests", () => {
  it.live("is one for the vendor's own client, on every kind of route", () =>
    Effect.gen(function*() {
      const { apiKey, asked, log, names, requests, stop, url } = yield* ControlPlane.ControlPlane
      const spawner = yield* ChildProcessSpawner
      const vendor = yield* spawner.spawn(
        ChildProcess.make("node", ["test/support/programs/vendor.ts", url], {
          env: { MSB_API_KEY: Redacted.value(apiKey) },
          extendEnv: true,
          stderr: "inherit"
        })
      )
      const told = new Map<string, unknown>()
      yield* vendor.stdout.pipe(
        Stream.decodeText,
        Stream.splitLines,
        Stream.runForEach((line) => {
          const { error, value, what } = JSON.parse(line) as Told
          told.set(what, error ?? value)
          return what === "following" ? Effect.andThen(log("box", "hello"), stop("box")) : Effect.void
        }),
        Effect.timeoutOrElse({ duration: "40 seconds", orElse: () => Effect.die(new Error("it hangs")) })
      )
      const gone = String(told.get("gone"))
      assert.include(gone, "box")
      told.delete("gone")
      assert.deepStrictEqual(Object.fromEntries(told), {
        exec: ["3", "out", "err"],
        read: true,
        list: ["/d/large", "/d/moved"],
        exists: false,
        "volume read": "one",
        "volume stat": 3,
        "volume list": ["/a/one", "/a/three"],
        "volume exists": false,
        volumes: 2,
        snapshot: true,
        "hosted snapshot": true,
        snapshots: 1,
        following: undefined,
        log: ["hello"]
      })
      assert.deepStrictEqual(yield* names, { sandboxes: [], volumes: [], snapshots: [] })
      assert.isTrue((yield* requests).every(({ isAuthorized }) => isAuthorized))
      assert.notInclude(yield* asked, "unknown")
    }).pipe(Effect.scoped, Effect.provide(Layer.merge(ControlPlane.layer, NodeServices.layer))))
})
