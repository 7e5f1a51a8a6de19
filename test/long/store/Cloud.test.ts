/** What of a control plane takes its time: the engine's client gives a request 30 seconds, and a guest ten to answer. */
import { MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Schedule, Stream } from "effect"
import { ControlPlane } from "../../support/ControlPlane.ts"
import { run } from "../../support/ControlPlaneClient.ts"

const make = (name: string) => Sandbox.make({ name, image: "alpine:3.22" })

describe("a control plane", () => {
  it.live("lets a log be followed for longer than one request may take, without a loss and without a double", () =>
    run(
      Effect.gen(function*() {
        const { log, requests, stop } = yield* ControlPlane
        yield* make("long")
        const seen = yield* Effect.forkChild(Stream.runCollect(Sandbox.logStream("long", { follow: true })))
        const lines = 150
        let line = 0
        yield* Effect.suspend(() => log("long", `line ${line++}`)).pipe(
          Effect.repeat({ schedule: Schedule.spaced("500 millis"), times: lines - 1 })
        )
        yield* stop("long")
        const texts = (yield* Fiber.join(seen)).map(({ text }) => text)
        assert.deepStrictEqual(texts, Array.from({ length: lines }, (_, index) => `line ${index}`))
        const begun = (yield* requests).filter(({ route }) => route === "GET /v1/sandboxes/:id/logs")
        assert.isAtLeast(begun.length, 3)
      }),
      "2 minutes"
    ))

  it.live("lets a log in which nothing happens be followed for as long", () =>
    run(
      Effect.gen(function*() {
        const { log, stop } = yield* ControlPlane
        yield* make("quiet")
        const seen = yield* Effect.forkChild(Stream.runCollect(Sandbox.logStream("quiet", { follow: true })))
        yield* Effect.sleep("40 seconds")
        yield* log("quiet", "at last")
        yield* stop("quiet")
        assert.deepStrictEqual((yield* Fiber.join(seen)).map(({ text }) => text), ["at last"])
      }),
      "2 minutes"
    ))

  it.live("that takes a connection to a guest and says nothing is given up", () =>
    run(
      Effect.gen(function*() {
        const { inject, injectAgent } = yield* ControlPlane
        const sandbox = yield* make("silent")
        for (
          const silence of [injectAgent("range", "Silence"), inject("GET /v1/sandboxes/:id/agent", { _tag: "Silence" })]
        ) {
          yield* silence
          const error = yield* Effect.flip(sandbox.exec("echo"))
          assert.isTrue(MicrosandboxError.isMicrosandboxError(error))
        }
        assert.strictEqual((yield* sandbox.exec("echo", ["a"])).stdout, "a")
      }),
      "2 minutes"
    ))

  it.live("that does not answer is given up after the time of a request", () =>
    run(
      Effect.gen(function*() {
        const { inject } = yield* ControlPlane
        yield* inject("GET /v1/sandboxes/by-name/:name", { _tag: "Silence" })
        const exit = yield* Effect.exit(Sandbox.get("nobody"))
        assert.isTrue(Exit.isFailure(exit))
        const { reason } = yield* Effect.flip(Effect.flatten(Effect.succeed(exit)))
        assert.deepInclude(reason, { _tag: "Http", timeout: true })
      }),
      "2 minutes"
    ))
})
