/**
 * One program over FileSystem, Path and ChildProcessSpawner that knows nothing of sandboxes. What it answers is the same
 * wherever its services come from: `NodeServices.layer`, or `Sandbox.services`. test/vm/SameProgram.test.ts holds that.
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Path from "effect/Path"
import type { PlatformError } from "effect/PlatformError"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"

const poem = "the quick brown fox\njumps over the lazy dog\nthe dog sleeps\n"

/** Keeps a small archive: writes files, packs and unpacks them, and tells what it finds. */
export const program: Effect.Effect<
  ReadonlyArray<string>,
  PlatformError,
  FileSystem.FileSystem | Path.Path | ChildProcessSpawner
> = Effect.scoped(Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const { exitCode, lines, string } = yield* ChildProcessSpawner
  const cwd = yield* fs.makeTempDirectoryScoped({ prefix: "same-" })
  const told: Array<string> = []

  const notes = path.join(cwd, "notes")
  yield* fs.makeDirectory(path.join(notes, "deep"), { recursive: true })
  yield* fs.writeFileString(path.join(notes, "poem.txt"), poem)
  yield* fs.writeFile(path.join(notes, "deep", "bytes"), Uint8Array.from({ length: 256 }, (_, index) => index))
  yield* exitCode(ChildProcess.make({ cwd })`tar -cf notes.tar notes`)
  told.push(...(yield* lines(ChildProcess.make({ cwd })`tar -tf notes.tar`)).sort())

  yield* fs.rename(notes, path.join(cwd, "before"))
  yield* exitCode(ChildProcess.make({ cwd })`tar -xf notes.tar`)
  told.push(...yield* lines(ChildProcess.make({ cwd })`sha256sum notes/poem.txt notes/deep/bytes before/deep/bytes`))
  told.push(`${(yield* fs.stat(path.join(notes, "deep", "bytes"))).size} bytes`)
  told.push((yield* fs.readFileString(path.join(notes, "poem.txt"))) === poem ? "the same poem" : "another poem")
  told.push(`${(yield* fs.readDirectory(cwd)).sort().join(" ")}`)

  const words = ChildProcess.make({ cwd })`tr ${" "} ${"\n"}`.pipe(
    ChildProcess.pipeTo(ChildProcess.make`sort`),
    ChildProcess.pipeTo(ChildProcess.make`uniq -c`),
    ChildProcess.pipeTo(ChildProcess.make`sort -k ${"1,1nr"} -k ${"2,2"}`),
    ChildProcess.pipeTo(ChildProcess.make`head -n 2`)
  )
  const counted = ChildProcess.make({ cwd })`cat notes/poem.txt`.pipe(ChildProcess.pipeTo(words))
  told.push(...(yield* lines(counted)).map((line) => line.trim().replace(/\s+/, " ")))

  told.push(`exit ${yield* exitCode(ChildProcess.make({ cwd })`test -e no-such-file`)}`)
  told.push(
    yield* string(ChildProcess.make({ cwd })`no-such-program`).pipe(
      Effect.catchReason(
        "PlatformError",
        "NotFound",
        ({ method, module }) => Effect.succeed(`no program: ${module}.${method}`)
      )
    )
  )
  told.push(
    yield* fs.readFileString(path.join(cwd, "no-such-file")).pipe(
      Effect.catchReason("PlatformError", "NotFound", ({ module }) => Effect.succeed(`no file: ${module}`))
    )
  )
  return told
}))
