/** All that are measured, started together and asked in turn. */
import { Effect, FileSystem, Path, Result } from "effect"
import { fileURLToPath } from "node:url"
import { type Answered, type Contender, type Request, type Side, start } from "./Contender.ts"
import type { Figure } from "./Figure.ts"

export interface Setup {
  /** The bench binary of packages/native; without it there is no floor, and the relay is the one of the tests. */
  readonly binary: string | undefined
}

export const mebibyte = 1 << 20

const driver = (name: string) => fileURLToPath(new URL(`drivers/${name}.ts`, import.meta.url))

const runtime = "node_modules/@superradcompany/microsandbox-linux-x64-gnu"

/** Starts one program for each side, with a home of its own below `root`. */
export const startAll = Effect.fn("startAll")(function*({ binary }: Setup, root: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const homeOf = (side: Side) => path.join(root, side)
  yield* Effect.forEach(["ours", "official", "floor"] as const, (side) => fs.makeDirectory(homeOf(side)))
  const found = yield* Effect.orElseSucceed(fs.readDirectory(`${runtime}/lib`), () => [])
  const pair = {
    BENCH_MSB: path.resolve(runtime, "bin/msb"),
    BENCH_LIBKRUNFW: path.resolve(runtime, "lib", found.find((file) => file.startsWith("libkrunfw.")) ?? "missing")
  }
  const nodes = [
    start("ours", homeOf("ours"), [process.execPath, driver("ours"), homeOf("ours")], {}),
    start("official", homeOf("official"), [process.execPath, driver("official")], { MSB_HOME: homeOf("official") })
  ]
  const floor = binary === undefined
    ? []
    : [start("floor", homeOf("floor"), [binary, "floor", homeOf("floor")], pair)]
  return yield* Effect.all([...nodes, ...floor])
})

export type Answers = Readonly<Record<Side, ReadonlyArray<Answered> | string>>

/** Asks each side in turn, so often, and begins with another one each time. A side that cannot is left out from there. */
export const interleaved = Effect.fn("interleaved")(function*(
  sides: ReadonlyArray<Contender>,
  rounds: number,
  ask: (contender: Contender, round: number) => ReturnType<Contender["ask"]>
) {
  const answers: Record<Side, Array<Answered> | string> = {
    ours: "was not asked",
    official: "was not asked",
    floor: "was not asked, or its program was not built"
  }
  for (const { side } of sides) answers[side] = []
  for (let round = 0; round < rounds; round++) {
    for (let index = 0; index < sides.length; index++) {
      const contender = sides[(index + round) % sides.length]!
      const before = answers[contender.side]
      if (typeof before === "string") continue
      const answer = yield* Effect.result(ask(contender, round))
      if (Result.isSuccess(answer)) before.push(answer.success)
      else answers[contender.side] = answer.failure.why
    }
  }
  return answers as Answers
})

/** The same request for all. */
export const asked = (request: Request) => ({ ask }: Contender) => ask(request)

/** The samples of a figure, out of what all sides have answered. */
export const pick = (
  answers: Answers,
  samples: (answer: Answered) => ReadonlyArray<number>
): Figure["samples"] => {
  const of = (side: Side) => {
    const given = answers[side]
    return typeof given === "string" ? given : given.flatMap(samples)
  }
  return { ours: of("ours"), official: of("official"), floor: of("floor") }
}

/** MiB in a second. */
export const rate = ({ bytes, ms }: Pick<Answered, "bytes" | "ms">): number =>
  bytes / mebibyte / ((ms[0] ?? Number.NaN) / 1000)
