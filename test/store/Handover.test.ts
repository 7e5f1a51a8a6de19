/** A sandbox in the moment in which the addon hands it over: whoever was interrupted just then has none. */
import { Backend } from "@effect-microsandbox/core"
import type { Native } from "@effect-microsandbox/native"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { acquireSandbox } from "../../packages/core/src/internal/sandbox.ts"
import { layerBackend } from "../support/Sandboxes.ts"

/** What a handle is told at its end. */
const makeHandle = () => {
  const ends: Array<string> = []
  const handle = {
    name: "late",
    id: "local:1",
    end: (ending: string) => {
      ends.push(ending)
      return Promise.resolve({ _tag: "Ok", value: undefined })
    }
  }
  // Only these members are used before the sandbox is the user's.
  return { ends, handle: handle as unknown as Native.Sandbox }
}

layer(layerBackend, { excludeTestServices: true })("a sandbox that is handed over", (it) => {
  const rows = [
    { what: "a new one is destroyed", taking: { onClose: "detach" }, interrupted: "destroy", closed: "detach" },
    { what: "a new one is destroyed", taking: { onClose: "stop" }, interrupted: "destroy", closed: "stop" },
    {
      what: "one that was there before is as it was before",
      taking: { onClose: "destroy", undo: () => "stop" as const },
      interrupted: "stop",
      closed: "destroy"
    }
  ] as const
  for (const { closed, interrupted, taking, what } of rows) {
    it.effect(`to somebody who was interrupted just then: ${what}, although it was to "${closed}"`, () =>
      Effect.gen(function*() {
        const backend = yield* Backend.Backend
        const late = makeHandle()
        // It answers after the cancel, and well.
        const answer = () =>
          new Promise<Native.Outcome<Native.Sandbox>>((resolve) => {
            setTimeout(() => resolve({ _tag: "Ok", value: late.handle }), 200)
          })
        const fiber = yield* Effect.forkChild(
          Effect.scoped(acquireSandbox(backend, { operation: "test" }, taking, answer)),
          { startImmediately: true }
        )
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(late.ends, [interrupted])
        const inTime = makeHandle()
        yield* Effect.scoped(
          acquireSandbox(
            backend,
            { operation: "test" },
            taking,
            () => Promise.resolve({ _tag: "Ok", value: inTime.handle })
          )
        )
        assert.deepStrictEqual(inTime.ends, [closed])
      }))
  }
})
