/**
 * The bench: this SDK, the official Node SDK and the engine's crate side by side.
 *
 *     npm run bench [-- <row>…]
 *
 * Prints a table, and writes what it has measured to results/<time>.json. What was measured last of each row is in
 * results/last.json, with a hundred samples of each at most, and drawn in chart.svg: these two are committed.
 */
import { NodeServices } from "@effect/platform-node"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Clock, Console, Effect, FileSystem, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as os from "node:os"
import { BenchError } from "./Contender.ts"
import type { Figure } from "./Figure.ts"
import * as Guests from "./Guests.ts"
import * as Imports from "./Imports.ts"
import * as Native from "./Native.ts"
import { chart, type Run, table, thinned, toJson } from "./Report.ts"

const binary = "packages/native/target/release/bench"

const names = [...Object.keys(Native.rows), "import", ...Object.keys(Guests.rows)]

const wanted = process.argv.slice(2)

const isWanted = (name: string): boolean => wanted.length === 0 || wanted.includes(name)

/** The emulated CPU of the software host is so much slower that sizes and counts shrink by this. */
const emulatedFactor = 16

const nativeRows = Effect.fn("nativeRows")(function*() {
  const figures: Array<Figure> = []
  const rows = Object.entries(Native.rows).filter(([name]) => isWanted(name))
  if (rows.length === 0) return figures
  const sides = yield* Native.connected({ binary }, Native.whole)
  for (const [name, row] of rows) {
    yield* Console.error(`bench: ${name}`)
    figures.push(...(yield* row(sides, Native.whole)))
  }
  return figures
}, Effect.scoped)

/** The rows with a VM, in a program of their own where microVMs can boot. */
const guestRows = Effect.fn("guestRows")(function*(factor: number) {
  const rows = Object.keys(Guests.rows).filter(isWanted)
  if (rows.length === 0) return []
  const spawner = yield* ChildProcessSpawner
  const args = ["test/host/run.sh", "--", process.execPath, "test/bench/vm.ts", `${factor}`, binary, ...rows]
  const program = yield* spawner.spawn(ChildProcess.make("bash", args, { stderr: "inherit" }))
  const output = yield* Stream.mkString(Stream.decodeText(program.stdout))
  const exitCode = yield* program.exitCode
  if (exitCode !== 0) {
    return yield* new BenchError({ side: "the bench", op: "run VMs", why: `status ${exitCode}` })
  }
  return JSON.parse(output.trim().split("\n").at(-1) ?? "[]") as ReadonlyArray<Figure>
}, Effect.scoped)

/** Whether microVMs take the software host here. */
const isEmulated = Effect.gen(function*() {
  const spawner = yield* ChildProcessSpawner
  const why = ChildProcess.make("bash", ["test/host/run.sh", "--why"], { stdout: "ignore", stderr: "ignore" })
  return (yield* spawner.exitCode(why)) === 0
})

/** The rows of a run, and of an older one those that it has not. */
const newest = (run: Run, older: Run): Run => {
  const all = [...run.figures, ...older.figures.filter(({ row }) => !run.figures.some((figure) => figure.row === row))]
  return { ...run, figures: names.flatMap((name) => all.filter(({ row }) => row === name)) }
}

const program = Effect.gen(function*() {
  const unknown = wanted.filter((name) => !names.includes(name))
  if (unknown.length > 0) {
    return yield* new BenchError({
      side: "the bench",
      op: `run ${unknown.join(", ")}`,
      why: `the rows are ${names.join(", ")}`
    })
  }
  const fs = yield* FileSystem.FileSystem
  const emulated = yield* isEmulated
  const factor = emulated ? emulatedFactor : 1
  const at = new Date(yield* Clock.currentTimeMillis).toISOString()
  const measured = [
    ...(yield* nativeRows()),
    ...(isWanted("import")
      ? yield* Effect.scoped(Effect.flatMap(Imports.project(), (directory) => Imports.row(directory, 7)))
      : []),
    ...(yield* guestRows(factor))
  ]
  const figures = measured.map((figure) => ({ ...figure, at }))
  const [processor] = os.cpus()
  const run: Run = {
    at,
    machine: `${os.cpus().length} × ${processor?.model ?? "?"}, Node ${process.version}, VMs ${
      emulated ? "on an emulated CPU" : "on KVM"
    }`,
    factor,
    figures
  }
  const results = "test/bench/results"
  yield* fs.makeDirectory(results, { recursive: true })
  yield* fs.writeFileString(`${results}/${at.replaceAll(":", "-")}.json`, toJson(run))
  const before = yield* Effect.orElseSucceed(fs.readFileString(`${results}/last.json`), () => `{"figures":[]}`)
  const last = newest(thinned(run), JSON.parse(before) as Run)
  yield* fs.writeFileString(`${results}/last.json`, toJson(last))
  yield* fs.writeFileString("test/bench/chart.svg", chart(last))
  yield* Console.log(table(run))
})

program.pipe(Effect.provide(NodeServices.layer), NodeRuntime.runMain)
