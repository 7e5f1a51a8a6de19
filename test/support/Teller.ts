/** A program that keeps what it knows in its memory only, and says it when it is asked: it goes with a branch or it does not. */
import type { Sandbox } from "@effect-microsandbox/core"
import { Effect } from "effect"

/** Starts one in a sandbox. */
export const start = Effect.fn("Teller.start")(function*(sandbox: Sandbox.Sandbox, secret: string) {
  yield* sandbox.shell(`
    mkdir -p /mnt/ram && mount -t tmpfs ram /mnt/ram
    setsid sh -c '
      secret=$0 count=0
      trap "echo \\$secret \\$count > /mnt/ram/said.new; mv /mnt/ram/said.new /mnt/ram/said" USR1
      echo $$ > /mnt/ram/pid
      while :; do count=$((count + 1)); sleep 0.05; done
    ' '${secret}' < /dev/null > /dev/null 2>&1 &
    while [ ! -s /mnt/ram/pid ]; do sleep 0.05; done
  `)
})

/** What it says: its secret, its process number, and how far it has counted. */
export const ask = Effect.fn("Teller.ask")(function*(sandbox: Sandbox.Sandbox) {
  const { stdout } = yield* sandbox.shell(
    `
    rm -f /mnt/ram/said
    pid=$(cat /mnt/ram/pid)
    kill -USR1 $pid || exit 1
    while [ ! -s /mnt/ram/said ]; do sleep 0.05; done
    echo $pid $(cat /mnt/ram/said)
  `,
    { timeout: "60 seconds" }
  )
  const [pid, secret, count] = stdout.trim().split(" ")
  return { pid, secret, count: Number(count) }
})
