/** Sandboxes that have no VM: a row of the catalogue, and the log files that a runtime would have written. */
import { Backend } from "@effect-microsandbox/core"
import { Effect, FileSystem, Path } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"

const program = `
const [path, sql, ...values] = process.argv.slice(1)
const { DatabaseSync } = require("node:sqlite")
new DatabaseSync(path, { timeout: 10_000 }).prepare(sql).run(...values)
`

/**
 * Runs a statement on the catalogue of the backend, in a process of its own: SQLite's locks are those of a process, and
 * this one has the engine's SQLite in it.
 */
const execute = Effect.fn("execute")(function*(sql: string, ...values: ReadonlyArray<string>) {
  const path = yield* Path.Path
  const { home } = yield* Backend.Local
  const spawner = yield* ChildProcessSpawner
  const exitCode = yield* spawner.exitCode(
    ChildProcess.make("node", ["-e", program, path.join(home, "db/msb.db"), sql, ...values], { stderr: "inherit" })
  )
  if (exitCode !== 0) return yield* Effect.die(new Error(`the statement failed: ${sql}`))
})

/** Has a sandbox that has a row be made of an image that is in the catalogue. */
export const setImage = (name: string, reference: string) =>
  execute(
    `INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode)
     SELECT sandbox.id, image_ref.manifest_id, 'erofs' FROM sandbox, image_ref WHERE name = ? AND reference = ?`,
    name,
    reference
  )

/** The engine takes a row without a run for what the row says: `Running` stays `Running`. */
export const setStatus = (name: string, status: "Running" | "Stopped") =>
  execute("UPDATE sandbox SET status = ? WHERE name = ?", status, name)

export const removeRow = (name: string) => execute("DELETE FROM sandbox WHERE name = ?", name)

/** Makes a row, and the directory of its logs. */
export const makeRow = Effect.fn("makeRow")(function*(
  name: string,
  status: "Running" | "Stopped",
  config: object = {}
) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const { home } = yield* Backend.Local
  yield* execute("INSERT INTO sandbox (name, config, status) VALUES (?, ?, ?)", name, JSON.stringify(config), status)
  const logs = path.join(home, "sandboxes", name, "logs")
  yield* fs.makeDirectory(logs, { recursive: true })
  const file = (log: string) => path.join(logs, log)
  return {
    name,
    logs,
    write: (log: string, content: string) => fs.writeFileString(file(log), content),
    append: (log: string, content: string) => fs.writeFileString(file(log), content, { flag: "a" }),
    /** Moves `exec.log` to `exec.log.1`, and each of these one further; the fifth is lost. */
    rotate: Effect.gen(function*() {
      for (const index of [3, 2, 1]) {
        if (yield* fs.exists(file(`exec.log.${index}`))) {
          yield* fs.rename(file(`exec.log.${index}`), file(`exec.log.${index + 1}`))
        }
      }
      yield* fs.rename(file("exec.log"), file("exec.log.1"))
      yield* fs.writeFileString(file("exec.log"), "")
    })
  }
})

/**
 * Makes the row and the disk of a sandbox of an image that has stopped, which is all that the engine asks for to keep
 * it as a snapshot: it does not read what is on the disk. This one is of 1 MiB, with `content` at its beginning and a
 * hole after it.
 */
export const makeStopped = Effect.fn("makeStopped")(function*(name: string, content: string | Uint8Array = "kept") {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const { home } = yield* Backend.Local
  yield* makeRow(name, "Stopped", {
    name,
    image: { Oci: { reference: "127.0.0.1:1/kept:latest" } },
    manifest_digest: imageDigest
  })
  const disk = path.join(home, "sandboxes", name, "upper.ext4")
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content
  yield* fs.writeFile(disk, bytes)
  yield* fs.truncate(disk, Math.max(1 << 20, bytes.length))
  return { disk }
})

/** Of the image that these sandboxes say they are of. */
export const imageDigest = `sha256:${"ab".repeat(32)}`

/** What the command line of the runtime says, on the home of the backend. */
export const msb = Effect.fn("msb")(function*(...args: ReadonlyArray<string>) {
  const { home } = yield* Backend.Local
  const spawner = yield* ChildProcessSpawner
  const program = "node_modules/@superradcompany/microsandbox-linux-x64-gnu/bin/msb"
  return yield* spawner.string(
    ChildProcess.make(program, args, { env: { MSB_HOME: home }, extendEnv: true, stderr: "ignore" })
  )
})

/** A line of `exec.log`, as the runtime writes it. */
export const line = (millis: number, text: string, source = "stdout", id?: number): string =>
  `${JSON.stringify({ t: new Date(millis).toISOString(), s: source, d: text, ...(id === undefined ? {} : { id }) })}\n`
