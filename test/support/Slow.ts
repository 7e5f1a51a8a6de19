/** A reader that comes late, in a process of its own: only there is the growth of memory that of the reader. */
import { Backend } from "@effect-microsandbox/core"
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"

export const mebibyte = 1 << 20

/** Runs programs/slow.ts and holds it to what it may take. */
export const readLate = Effect.fn("readLate")(function*(what: {
  readonly sandbox: string
  readonly bytes: number
  readonly seconds: number
  readonly command: readonly [string, ...ReadonlyArray<string>]
  readonly sha256: string
  readonly growth: number
}) {
  const { home } = yield* Backend.Backend
  const spawner = yield* ChildProcessSpawner
  const args = ["test/support/programs/slow.ts", home, what.sandbox, `${what.bytes}`, `${what.seconds}`]
  // A small young generation: V8 is in no hurry to collect buffers that were read, and those are not what is measured.
  const output = yield* spawner.string(
    ChildProcess.make("node", ["--expose-gc", "--max-semi-space-size=1", ...args, ...what.command], {
      stderr: "inherit"
    })
  )
  const { growth, ...rest } = JSON.parse(output) as { growth: number }
  assert.deepStrictEqual<unknown>(rest, { complete: true, sha256: what.sha256, answer: "hello", exitCode: 0 })
  assert.isBelow(growth / mebibyte, what.growth)
  return growth / mebibyte
})
