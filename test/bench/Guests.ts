/** The rows with real microVMs, for whatever runs where they can: see vm.ts. */
import { NodeServices } from "@effect/platform-node"
import { Effect, FileSystem } from "effect"
import { make as makeRootDirectory } from "../../demo/Rootfs.ts"
import * as Registry from "../support/Registry.ts"
import type { Contender, Request } from "./Contender.ts"
import { type Figure, percentile, quotient } from "./Figure.ts"
import { type Answers, asked, interleaved, mebibyte, pick, rate, type Setup, startAll } from "./Sides.ts"

type Sides = ReadonlyArray<Contender>

/** A sandbox that is there for several rows. */
const standing = "standing"

/** One of a row's own. */
const passing = "passing"

interface Scene {
  readonly sides: Sides
  readonly image: string
  /** What sizes and counts are divided by. */
  readonly factor: number
}

/** How often each side is asked: on an emulated CPU the same call takes three times as long as the last one. */
const often = 7

const shrunk = (count: number, factor: number) => Math.max(1, Math.round(count / factor))

/** Rounds of what is made and removed again. */
const made = (
  sides: Sides,
  rounds: number,
  request: Request,
  name: string,
  before: (round: number) => Request | undefined = () => undefined
) =>
  interleaved(sides, rounds, ({ ask }, round) =>
    Effect.gen(function*() {
      const first = before(round)
      if (first !== undefined) yield* ask(first)
      const answer = yield* ask(request)
      yield* ask({ op: "destroy", sandbox: name })
      return answer
    }))

const create = Effect.fn("row create")(function*({ factor, image, sides }: Scene) {
  const rounds = Math.max(3, shrunk(32, factor))
  const make: Request = { op: "create", sandbox: passing, image }
  const figure = (name: string, answers: Answers, most?: number): Figure => ({
    row: "create",
    name: `to the end of a first program, ${name}`,
    unit: "ms",
    samples: pick(answers, ({ ms }) => ms),
    targets: most === undefined ? [] : [{ of: "official", at: "p50", most }]
  })
  // Nobody has pulled the image before the first, and each of the others pulls it anew.
  const cold = figure(
    "cold",
    yield* made(sides, rounds, make, passing, (round) => round === 0 ? undefined : { op: "forget", image }),
    1
  )
  const warm = figure("with the image there", yield* made(sides, rounds, make, passing), 1)
  yield* interleaved(sides, 1, asked({ ...make, sandbox: "kept" }))
  yield* interleaved(sides, 1, asked({ op: "keep", sandbox: "kept", snapshot: "snap" }))
  const restore: Request = { op: "restore", sandbox: passing, snapshot: "snap" }
  const restored = figure("from a snapshot", yield* made(sides, rounds, restore, passing), 1)
  yield* interleaved(sides, 1, asked({ ...make, sandbox: standing }))
  const branch: Request = { op: "branch", sandbox: standing, child: passing }
  const branched = figure("branched", yield* made(sides, rounds, branch, passing))
  const byCold: Figure = {
    row: "create",
    name: "branched by cold",
    unit: "×",
    samples: {
      ours: quotient(branched.samples.ours, cold.samples.ours),
      official: "cannot branch",
      floor: quotient(branched.samples.floor, cold.samples.floor)
    },
    targets: [{ of: "itself", most: 0.5 }]
  }
  return [cold, warm, restored, branched, byCold]
})

const exec = Effect.fn("row vmexec")(function*({ factor, sides }: Scene) {
  const count = Math.max(2, shrunk(80, factor))
  // As without a guest: on an emulated CPU what V8 has yet to compile takes as long as the guest.
  yield* interleaved(sides, 1, asked({ op: "exec", sandbox: standing, count: 12 * count }))
  const one = yield* interleaved(sides, 3, asked({ op: "exec", sandbox: standing, count }))
  const crowd = yield* interleaved(sides, 5, asked({ op: "execs", sandboxes: [standing], each: 32 }))
  const figures: ReadonlyArray<Figure> = [
    {
      row: "vmexec",
      name: "round trip of `true` in a guest",
      unit: "ms",
      samples: pick(one, ({ ms }) => ms),
      targets: [
        { of: "official", at: "p50", most: 1 },
        { of: "official", at: "p99", most: 1 },
        { of: "floor", at: "p50", most: 0.9 }
      ]
    },
    {
      row: "vmexec",
      name: "32 of them at once, until the last has ended",
      unit: "ms",
      samples: pick(crowd, ({ wall }) => [wall]),
      targets: [{ of: "official", at: "p50", most: 1 }, { of: "floor", at: "p50", most: 0.9 }]
    }
  ]
  return figures
})

const stdout = Effect.fn("row vmstdout")(function*({ factor, sides }: Scene) {
  const mebibytes = shrunk(64, factor)
  const pour: Request = {
    op: "pour",
    sandbox: standing,
    command: "dd",
    args: ["if=/dev/zero", "bs=64k", `count=${mebibytes * 16}`, "status=none"]
  }
  const answers = yield* interleaved(sides, often, asked(pour))
  const figures: ReadonlyArray<Figure> = [
    {
      row: "vmstdout",
      name: `${mebibytes} MiB from a guest as a stream`,
      unit: "MiB/s",
      more: true,
      samples: pick(answers, (answer) => [rate(answer)]),
      targets: [{ of: "official", at: "p50", least: 1.3 }, { of: "floor", at: "p50", least: 0.9 }]
    },
    {
      row: "vmstdout",
      name: "host's processor time",
      unit: "ms/MiB",
      samples: pick(answers, ({ bytes, cpu }) => [cpu / (bytes / mebibyte)]),
      targets: [{ of: "official", at: "p50", most: 0.4 }]
    }
  ]
  return figures
})

const files = Effect.fn("row files")(function*({ factor, sides }: Scene) {
  const bytes = shrunk(64, factor) * mebibyte
  const count = shrunk(2000, factor)
  const path = "/tmp/large"
  const wrote = yield* interleaved(sides, often, asked({ op: "write", sandbox: standing, path, bytes }))
  const read = yield* interleaved(sides, often, asked({ op: "read", sandbox: standing, path }))
  const small = yield* interleaved(
    sides,
    3,
    ({ ask }, round) => ask({ op: "small", sandbox: standing, path: `/tmp/small-${round}`, count })
  )
  const speed = (name: string, samples: Figure["samples"], least: number): Figure => ({
    row: "files",
    name,
    unit: "MiB/s",
    more: true,
    samples,
    targets: [{ of: "official", at: "p50", least }, { of: "floor", at: "p50", least: 0.9 }]
  })
  return [
    speed(`write ${bytes / mebibyte} MiB`, pick(wrote, ({ ms }) => [rate({ ms, bytes })]), 1.2),
    speed(`read ${bytes / mebibyte} MiB`, pick(read, (answer) => [rate(answer)]), 1.7),
    {
      ...speed(
        `${count} files of 1 KiB, written and read`,
        pick(small, ({ ms: [took = 0] }) => [count / (took / 1000)]),
        1.5
      ),
      unit: "files/s"
    }
  ]
})

const interrupt = Effect.fn("row interrupt")(function*({ factor, sides }: Scene) {
  const count = Math.max(3, shrunk(80, factor))
  const trips = yield* interleaved(sides, 1, asked({ op: "exec", sandbox: standing, count: 5 }))
  const sleep = { sandbox: standing, command: "sleep", args: ["1000"] }
  const answers = yield* interleaved(sides, 2, asked({ op: "interrupt", ...sleep, count }))
  const [ends, trip] = [pick(answers, ({ ms }) => ms), pick(trips, ({ ms }) => ms)]
  const worst = (samples: ReadonlyArray<number>) => percentile(samples, 0.99)
  const figures: ReadonlyArray<Figure> = [
    { row: "interrupt", name: "to the guest's process gone", unit: "ms", samples: ends, targets: [] },
    {
      row: "interrupt",
      name: "its p99 by one exec",
      unit: "×",
      samples: {
        ours: quotient(ends.ours, trip.ours, worst),
        official: quotient(ends.official, trip.official, worst),
        floor: quotient(ends.floor, trip.floor, worst)
      },
      targets: [{ of: "itself", most: 2 }]
    }
  ]
  return figures
})

/** By name, in the order in which they run. */
export const rows = { create, vmexec: exec, vmstdout: stdout, files, interrupt }

export type Name = keyof typeof rows

/** The same with a line for each answer: it takes minutes, and somebody waits. */
const told = (contender: Contender, say: (line: string) => Effect.Effect<void>): Contender => ({
  ...contender,
  ask: (request) =>
    contender.ask(request).pipe(
      Effect.tap(({ ms }) => say(`  ${contender.side} ${request.op} ${ms.slice(0, 3).map(Math.round).join(" ")}`)),
      Effect.tapError(({ message }) => say(`  ${message}`))
    )
})

/** Runs rows with all sides in one place. */
export const run = Effect.fn("Guests.run")(
  function*(setup: Setup, wanted: ReadonlyArray<Name>, factor: number, say: (line: string) => Effect.Effect<void>) {
    const fs = yield* FileSystem.FileSystem
    const root = yield* fs.makeTempDirectoryScoped({ prefix: "b-" })
    const registry = yield* Registry.Registry
    const image = yield* registry.push("bench", yield* makeRootDirectory(`${root}/root`))
    const sides = (yield* startAll(setup, root)).map((contender) => told(contender, say))
    const scene: Scene = { sides, image, factor }
    const figures: Array<Figure> = []
    let stands = false
    for (
      const name of Object.keys(rows).filter((name): name is Name => (wanted as ReadonlyArray<string>).includes(name))
    ) {
      yield* say(name)
      if (name === "create") stands = true
      if (!stands) {
        yield* interleaved(sides, 1, asked({ op: "create", sandbox: standing, image }))
        stands = true
      }
      figures.push(...(yield* rows[name](scene)))
    }
    if (stands) yield* interleaved(sides, 1, asked({ op: "destroy", sandbox: standing }))
    return figures
  },
  Effect.scoped,
  Effect.provide([Registry.layer, NodeServices.layer])
)
