/** A reader that comes late, in a process of its own: only there is the growth of memory that of the reader. */
import { Backend } from "@effect-microsandbox/core"
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as crypto from "node:crypto"

export const mebibyte = 1 << 20

/** Runs programs/slow.ts and holds it to what it may take. */
export const readLate = Effect.fn("readLate")(function*(what: {
  readonly sandbox: string
  readonly bytes: number
  readonly seconds: number
  /** The mark at which the program is stopped: the SDK's own if there is none. */
  readonly highWater?: string
  readonly command: readonly [string, ...ReadonlyArray<string>]
  readonly sha256: string
  readonly growth: number
}) {
  const { home } = yield* Backend.Local
  const spawner = yield* ChildProcessSpawner
  const { bytes, highWater = "4 MiB", sandbox, seconds } = what
  const args = ["test/support/programs/slow.ts", home, sandbox, `${bytes}`, `${seconds}`, highWater]
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

/** 1 MiB of numbers, less the four bytes that say which of the blocks it is. */
const block = Array.from({ length: 149_796 }, (_, index) => `${100_000 + index}\n`).join("")

/** Has the shell of a real guest print so many MiB, no two of them the same, for a reader that comes late. */
export const readShellLate = Effect.fn("readShellLate")(function*(what: {
  readonly sandbox: string
  readonly mebibytes: number
  readonly seconds: number
  readonly highWater: string
}) {
  const printed = Array.from({ length: what.mebibytes }, (_, index) => `${String(index).padStart(3, "0")}\n${block}`)
  const loop = `for i in $(seq 0 ${what.mebibytes - 1}); do printf '%03d\\n' $i; cat /tmp/block; done`
  const growth = yield* readLate({
    ...what,
    bytes: what.mebibytes * mebibyte,
    command: ["sh", "-c", `seq 100000 249795 > /tmp/block; ${loop}`],
    sha256: crypto.createHash("sha256").update(printed.join("")).digest("hex"),
    growth: 16
  })
  console.log(`${what.mebibytes} MiB, growth: ${growth.toFixed(1)} MiB`)
})
