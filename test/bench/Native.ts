/** The rows that need no VM: all sides against a relay without a guest, at native speed. */
import { Deferred, Effect, FileSystem, Path, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as crypto from "node:crypto"
import { DatabaseSync } from "node:sqlite"
import type { Contender } from "./Contender.ts"
import { type Figure, quotient } from "./Figure.ts"
import { asked, interleaved, mebibyte, pick, rate, type Setup, startAll } from "./Sides.ts"

/** How much of everything. */
export interface Plan {
  readonly execs: number
  readonly rounds: number
  readonly mebibytes: number
  readonly delayMebibytes: number
  /** How long an event loop is watched that has nothing to do. */
  readonly idleSeconds: number
  readonly sipMebibytes: number
  readonly sipSeconds: number
  readonly sandboxes: number
  /** How many programs for each sandbox at once, from few to many. */
  readonly crowds: ReadonlyArray<number>
}

/** The plan of `npm run bench`. */
export const whole: Plan = {
  execs: 100,
  rounds: 6,
  mebibytes: 64,
  delayMebibytes: 1024,
  idleSeconds: 2,
  sipMebibytes: 1024,
  sipSeconds: 15,
  sandboxes: 8,
  crowds: [31, 62, 125]
}

const names = (count: number) => Array.from({ length: count }, (_, index) => `bench-${index}`)

const first = "bench-0"

/** A sandbox that runs, as far as the catalogue knows. */
const addRows = (home: string, sandboxes: ReadonlyArray<string>): void => {
  const database = new DatabaseSync(`${home}/db/msb.db`, { timeout: 10_000 })
  const insert = database.prepare("INSERT INTO sandbox (name, config, status) VALUES (?, ?, 'Running')")
  for (const name of sandboxes) insert.run(name, JSON.stringify({ name, image: { Oci: { reference: "bench" } } }))
  database.close()
}

/** Where the engines of both versions look for the relay of a sandbox. */
const socketOf = (home: string, name: string): string =>
  `${home}/run/sandboxes/${crypto.createHash("sha256").update(name).digest("hex").slice(0, 24)}/agent.sock`

const listen = Effect.fn("listen")(function*({ binary }: Setup, sockets: ReadonlyArray<string>) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const spawner = yield* ChildProcessSpawner
  yield* Effect.forEach(sockets, (socket) => fs.makeDirectory(path.dirname(socket), { recursive: true }))
  const relay = yield* spawner.spawn(
    binary === undefined
      ? ChildProcess.make("node", ["test/support/programs/relay.ts", ...sockets], { stderr: "inherit" })
      : ChildProcess.make(binary, ["relay", ...sockets], { stderr: "inherit" })
  )
  const listening = yield* Deferred.make<void>()
  yield* relay.stdout.pipe(
    Stream.decodeText,
    Stream.splitLines,
    // All that it says is read, so that it never waits for a reader.
    Stream.runForEach((line) => line.includes("Listening") ? Deferred.succeed(listening, undefined) : Effect.void),
    Effect.ensuring(Effect.suspend(() => Deferred.die(listening, new Error("the relay has ended")))),
    Effect.forkScoped
  )
  yield* Deferred.await(listening)
})

/** All sides, each connected to as many sandboxes. */
export const connected = Effect.fn("connected")(function*(setup: Setup, plan: Plan) {
  const fs = yield* FileSystem.FileSystem
  const root = yield* fs.makeTempDirectoryScoped({ prefix: "b-" })
  const sides = yield* startAll(setup, root)
  const sandboxes = names(plan.sandboxes)
  for (const { home } of sides) yield* Effect.sync(() => addRows(home, sandboxes))
  yield* listen(setup, sides.flatMap(({ home }) => sandboxes.map((name) => socketOf(home, name))))
  yield* Effect.forEach(sides, ({ ask }) => ask({ op: "connect", sandboxes }), { discard: true })
  return sides
})

type Sides = ReadonlyArray<Contender>

const pouring = (mebibytes: number) => ({ sandbox: first, command: "pour", args: [`${mebibytes * mebibyte}`] })

const exec = Effect.fn("row exec")(function*(sides: Sides, { execs, rounds }: Plan) {
  // What is made at first use is not what is measured, nor is JavaScript that V8 has yet to compile.
  yield* interleaved(sides, 1, asked({ op: "exec", sandbox: first, count: 3 * execs }))
  const answers = yield* interleaved(sides, rounds, asked({ op: "exec", sandbox: first, count: execs }))
  const figure: Figure = {
    row: "exec",
    name: "round trip of `true`, no guest",
    unit: "ms",
    samples: pick(answers, ({ ms }) => ms),
    targets: [
      { of: "official", at: "p50", most: 0.5 },
      { of: "official", at: "p99", most: 1 },
      { of: "floor", at: "p50", most: 0.9 }
    ]
  }
  return [figure]
})

const stdout = Effect.fn("row stdout")(function*(sides: Sides, { mebibytes, rounds }: Plan) {
  yield* interleaved(sides, 1, asked({ op: "pour", ...pouring(mebibytes) }))
  const answers = yield* interleaved(sides, rounds, asked({ op: "pour", ...pouring(mebibytes) }))
  const speed: Figure = {
    row: "stdout",
    name: `${mebibytes} MiB as a stream, no guest`,
    unit: "MiB/s",
    more: true,
    samples: pick(answers, (answer) => [rate(answer)]),
    targets: [{ of: "official", at: "p50", least: 3 }, { of: "floor", at: "p50", least: 0.9 }]
  }
  const cost: Figure = {
    row: "stdout",
    name: "host's processor time",
    unit: "ms/MiB",
    samples: pick(answers, ({ bytes, cpu }) => [cpu / (bytes / mebibyte)]),
    targets: [{ of: "official", at: "p50", most: 0.4 }]
  }
  return [speed, cost]
})

const delay = Effect.fn("row delay")(function*(sides: Sides, { delayMebibytes, idleSeconds }: Plan) {
  const scripts = sides.filter(({ side }) => side !== "floor")
  const answers = yield* interleaved(
    scripts,
    1,
    asked({ op: "delay", ...pouring(delayMebibytes), seconds: idleSeconds })
  )
  const figure: Figure = {
    row: "delay",
    name: `event loop's p99 above idle, ${delayMebibytes} MiB`,
    unit: "ms",
    samples: { ...pick(answers, ({ busy, idle }) => [Math.max(0, busy - idle)]), floor: "has no event loop" },
    targets: [{ of: "itself", most: 5 }]
  }
  return [figure]
})

const rss = Effect.fn("row rss")(function*(sides: Sides, { sipMebibytes, sipSeconds }: Plan) {
  const answers = yield* interleaved(
    sides,
    1,
    asked({ op: "sip", ...pouring(sipMebibytes), seconds: sipSeconds })
  )
  const figure: Figure = {
    row: "rss",
    name: `memory for ${sipMebibytes} MiB at 1 MiB/s (${sipSeconds} s of it)`,
    unit: "MiB",
    samples: pick(answers, ({ grown }) => [Math.max(0, grown)]),
    targets: [{ of: "itself", most: 64 }]
  }
  return [figure]
})

const many = Effect.fn("row many")(function*(sides: Sides, { crowds, sandboxes }: Plan) {
  const figures: Array<Figure> = []
  const perProgram: Array<Figure["samples"]> = []
  for (const each of crowds) {
    const count = each * sandboxes
    const answers = yield* interleaved(sides, 3, asked({ op: "execs", sandboxes: names(sandboxes), each }))
    const one = pick(answers, ({ wall }) => [wall / count])
    perProgram.push(one)
    figures.push({
      row: "many",
      name: `${count} programs at once over ${sandboxes} sandboxes: until each has ended`,
      unit: "ms",
      samples: pick(answers, ({ ms }) => ms.length === count ? ms : []),
      targets: []
    }, {
      row: "many",
      name: `${count} at once: time for one of them`,
      unit: "ms",
      samples: one,
      targets: []
    }, {
      row: "many",
      name: `${count} at once: memory`,
      unit: "MiB",
      samples: pick(answers, ({ grown }) => [Math.max(0, grown)]),
      targets: []
    })
  }
  const [few, most] = [perProgram[0]!, perProgram.at(-1)!]
  figures.push({
    row: "many",
    name: `time for one, of ${(crowds.at(-1) ?? 0) * sandboxes} by of ${(crowds[0] ?? 0) * sandboxes}: linear is 1`,
    unit: "×",
    samples: {
      ours: quotient(most.ours, few.ours),
      official: quotient(most.official, few.official),
      floor: quotient(most.floor, few.floor)
    },
    targets: [{ of: "itself", most: 1.5 }]
  })
  return figures
})

/** By name, in the order in which they run. */
export const rows = { exec, stdout, delay, rss, many }
