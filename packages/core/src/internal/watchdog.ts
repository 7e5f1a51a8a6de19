/**
 * A process that outlives this one when it is killed, and then removes what this one left.
 *
 * A VM that this process started ends with it: the engine sees to that. The children of a branch do not, since the engine
 * starts them on their own. So a shell waits at the end of a pipe: when the pipe closes without a word, it becomes a
 * program that sweeps the home.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, spawn } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { fileURLToPath } from "node:url"

/**
 * The program beside this module, if it is there: in a bundle of somebody's own it is not, and then the next backend sweeps.
 * Its name is one that nothing else has, since this module may be part of any file.
 */
const program = (): string | undefined => {
  if (!import.meta.url.startsWith("file:") || process.versions.electron !== undefined) return undefined
  const here = fileURLToPath(import.meta.url)
  const sweeper = path.join(path.dirname(here), `microsandboxSweeper${path.extname(here)}`)
  return fs.existsSync(sweeper) ? sweeper : undefined
}

/** Answers with an effect that starts it, unless it runs. The scope ends it. */
export const makeWatchdog = (home: string): Effect.Effect<Effect.Effect<void>, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync((): { child: ChildProcess | undefined } => ({ child: undefined })),
      ({ child }) => child === undefined ? Effect.void : dismiss(child)
    ),
    (watchdog) =>
      // Without it, the next backend on this home still sweeps.
      Effect.ignore(Effect.try(() => {
        if (watchdog.child === undefined || hasEnded(watchdog.child)) watchdog.child = start(path.resolve(home))
      }))
  )

const start = (home: string): ChildProcess | undefined => {
  const sweeper = program()
  if (sweeper === undefined) return undefined
  const child = spawn("/bin/sh", ["-c", "read -r _ || exec \"$@\"", "sh", process.execPath, sweeper, home], {
    // A session of its own, so that what ends this process's group does not end it.
    detached: true,
    cwd: "/",
    stdio: ["pipe", "ignore", "ignore"]
  })
  child.on("error", () => {})
  child.stdin?.on("error", () => {})
  child.unref()
  return child
}

const hasEnded = ({ exitCode, pid, signalCode }: ChildProcess): boolean =>
  pid === undefined || exitCode !== null || signalCode !== null

/** A word is the sign that all is well. */
const dismiss = (child: ChildProcess): Effect.Effect<void> =>
  Effect.callback((resume) => {
    if (hasEnded(child)) return resume(Effect.void)
    child.once("exit", () => resume(Effect.void))
    child.ref()
    child.stdin?.end("\n")
  })
