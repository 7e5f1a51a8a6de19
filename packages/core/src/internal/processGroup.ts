/** What a program has left behind: the other members of its process group, once it has ended itself. */
import * as Effect from "effect/Effect"
import type { Sandbox } from "../Sandbox.ts"

const perSecond = 50

/**
 * A number of a group is not given to a new process while the group has members. So a process of that number that is alive,
 * after the leader has ended, belongs to somebody else, and so does what is in its group.
 */
const script = `
while read -r key value rest; do
  [ "$key" = State: ] && [ "$value" != Z ] && exit 3
done 2>/dev/null </proc/$2/status
kill "-$1" "-$2" 2>/dev/null || exit 3
n=$3
while kill -0 "-$2" 2>/dev/null; do
  [ "$n" -gt 0 ] || exit 4
  n=$((n - 1))
  sleep ${1 / perSecond}
done
`

/** Of a group: it had no members, they are gone, or some are still there. */
export type Group = "none" | "gone" | "alive"

/**
 * Sends a signal to what is left of a group (0 only asks) and waits, at most so many milliseconds, until it is gone. A
 * session of the agent carries no more signals by then, so it takes a shell in the guest; without one, nothing is found.
 */
export const signalGroup = (
  exec: Sandbox["exec"],
  leader: number,
  signal: number,
  waitMillis: number
): Effect.Effect<Group> =>
  exec(
    "/bin/sh",
    ["-c", script, "sh", String(signal), String(leader), String(Math.ceil(waitMillis / 1000 * perSecond))],
    { cwd: "/" }
  ).pipe(
    Effect.map(({ exitCode }): Group => exitCode === 0 ? "gone" : exitCode === 4 ? "alive" : "none"),
    Effect.orElseSucceed((): Group => "none")
  )
