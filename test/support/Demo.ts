/** The demo, ended before its end. */
import { assert } from "@effect/vitest"
import { Effect, FileSystem, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { processesWith, temporaryDirectory } from "./Sandboxes.ts"

/** Ends it by a signal when it prints a line with this text, or as Node starts when the text is empty: then nothing is left. */
export const endDemo = Effect.fn("endDemo")(function*(signal: "SIGINT" | "SIGTERM", moment: string) {
  const fs = yield* FileSystem.FileSystem
  const spawner = yield* ChildProcessSpawner
  const directory = yield* temporaryDirectory
  const program = yield* spawner.spawn(
    ChildProcess.make("node", ["demo/main.ts"], { env: { TMPDIR: directory }, extendEnv: true, stderr: "inherit" })
  )
  const seen = moment === "" ? Effect.sleep(200) : program.stdout.pipe(
    Stream.decodeText,
    Stream.splitLines,
    Stream.takeUntil((line) => line.includes(moment)),
    Stream.runCollect,
    Effect.map((lines) => assert.include(lines.at(-1), moment))
  )
  yield* seen
  process.kill(program.pid, signal)
  yield* Effect.exit(program.exitCode)
  assert.deepStrictEqual(yield* fs.readDirectory(directory), [], `${signal} at ${moment}`)
  assert.deepStrictEqual(yield* processesWith(directory), [], `${signal} at ${moment}`)
}, Effect.scoped)
