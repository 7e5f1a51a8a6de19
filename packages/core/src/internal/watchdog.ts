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
import { fileURLToPath } from "node:url"

const program = fileURLToPath(import.meta.url).replace(/watchdog(\.[jt]s)$/, "sweeper$1")

/** Answers with an effect that starts it, once. The scope ends it. */
export const makeWatchdog = (home: string): Effect.Effect<Effect.Effect<void>, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync((): { child: ChildProcess | undefined } => ({ child: undefined })),
      ({ child }) => child === undefined ? Effect.void : dismiss(child)
    ),
    (watchdog) =>
      Effect.sync(() => {
        watchdog.child ??= start(home)
      })
  )

const start = (home: string): ChildProcess => {
  const child = spawn("/bin/sh", ["-c", "read -r _ || exec \"$@\"", "sh", process.execPath, program, home], {
    // A session of its own, so that what ends this process's group does not end it.
    detached: true,
    cwd: "/",
    stdio: ["pipe", "ignore", "ignore"]
  })
  // Without it, the next backend on this home still sweeps.
  child.on("error", () => {})
  child.stdin?.on("error", () => {})
  child.unref()
  return child
}

/** A word is the sign that all is well. */
const dismiss = (child: ChildProcess): Effect.Effect<void> =>
  Effect.callback((resume) => {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return resume(Effect.void)
    child.once("exit", () => resume(Effect.void))
    child.ref()
    child.stdin?.end("\n")
  })
