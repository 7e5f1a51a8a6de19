/** A real terminal with somebody at it: what is shown is looked at, and keys are typed. */
import { assert } from "@effect/vitest"
import { Effect, Queue, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"

/** A shell script at a terminal of 33 rows and 111 columns. */
export const typed = Effect.fn("typed")(function*(commands: ReadonlyArray<string>) {
  const spawner = yield* ChildProcessSpawner
  const keys = yield* Queue.unbounded<Uint8Array>()
  const script = ["stty rows 33 cols 111; before=$(stty -g); echo tty: $(tty)", ...commands]
  const program = yield* spawner.spawn(
    ChildProcess.make("script", ["-qec", script.join("\n"), "/dev/null"], {
      stdin: Stream.fromQueue(keys),
      env: { TERM: "vt220" },
      extendEnv: true
    })
  )
  let shown = ""
  yield* program.stdout.pipe(
    Stream.decodeText,
    Stream.runForEach((text) =>
      Effect.sync(() => {
        shown += text
      })
    ),
    Effect.forkScoped
  )
  let from = 0
  /** Waits for what is shown next, and answers with what it matched. */
  const see = Effect.fn("see")(function*(pattern: RegExp) {
    const found = yield* Effect.sync(() => pattern.exec(shown.slice(from))).pipe(
      Effect.delay(50),
      Effect.repeat({ until: (match) => match !== null }),
      Effect.timeoutOrElse({
        duration: "4 minutes",
        orElse: () => Effect.die(new Error(`${pattern} was not shown: ${JSON.stringify(shown.slice(from))}`))
      })
    )
    assert.isNotNull(found)
    from += (found?.index ?? 0) + (found?.[0].length ?? 0)
    return found?.[1] ?? ""
  })
  const type = (text: string) => Queue.offer(keys, new TextEncoder().encode(text))
  const device = yield* see(/tty: (\S+)\r/)
  const resize = (rows: number, columns: number) =>
    spawner.exitCode(ChildProcess.make("stty", ["-F", device, "rows", `${rows}`, "cols", `${columns}`]))
  return { see, type, resize }
})
