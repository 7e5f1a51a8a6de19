/** What it costs to import the SDK, as it is published, in a process that has done nothing else. */
import { Effect, FileSystem, Path, Schema, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { BenchError, type Side } from "./Contender.ts"
import type { Figure } from "./Figure.ts"

const decodeTimes = Schema.decodeEffect(Schema.fromJsonString(Schema.Array(Schema.Finite)))

/** A project with the packages in it as npm would put them there: built, and with the exports that are published. */
export const project = Effect.fn("project")(function*() {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const directory = yield* fs.makeTempDirectoryScoped({ prefix: "imports-" })
  const modules = path.join(directory, "node_modules")
  for (const name of ["native", "core"]) {
    const to = path.join(modules, "@effect-microsandbox", name)
    yield* fs.makeDirectory(to, { recursive: true })
    yield* fs.copy(`packages/${name}/bundle`, path.join(to, "bundle"))
    const manifest = JSON.parse(yield* fs.readFileString(`packages/${name}/package.json`)) as {
      readonly publishConfig: object
    }
    yield* fs.writeFileString(path.join(to, "package.json"), JSON.stringify({ ...manifest, ...manifest.publishConfig }))
  }
  for (const name of ["effect", "@effect", "@superradcompany", "microsandbox"]) {
    yield* fs.symlink(path.resolve("node_modules", name), path.join(modules, name))
  }
  return directory
})

/** How long each of the modules takes after those before it, in milliseconds. */
const timed = Effect.fnUntraced(function*(directory: string, modules: ReadonlyArray<string>) {
  const spawner = yield* ChildProcessSpawner
  const program = `
    const took = []
    for (const name of ${JSON.stringify(modules)}) {
      const start = performance.now()
      await import(name)
      took.push(performance.now() - start)
    }
    console.log(JSON.stringify(took))`
  const output = yield* Effect.scoped(Effect.flatMap(
    spawner.spawn(
      ChildProcess.make(process.execPath, ["--input-type=module", "-e", program], { cwd: directory, stderr: "inherit" })
    ),
    ({ stdout }) => Stream.mkString(Stream.decodeText(stdout))
  ))
  return yield* Effect.mapError(
    decodeTimes(output),
    () => new BenchError({ side: "ours", op: "import", why: `it said ${output}` })
  )
})

const above = ["effect", "@effect-microsandbox/core"]

/** The row `import`, as a program in a directory sees it. */
export const row = Effect.fn("row import")(function*(directory: string, times: number) {
  const samples: Record<"above" | "alone" | "effect" | "official", Array<number>> = {
    above: [],
    alone: [],
    effect: [],
    official: []
  }
  // The first of each brings the files into the system's cache.
  for (let round = 0; round <= times; round++) {
    const both = yield* timed(directory, above)
    const [alone = Number.NaN] = yield* timed(directory, ["@effect-microsandbox/core"])
    const [official = Number.NaN] = yield* timed(directory, ["microsandbox"])
    if (round === 0) continue
    samples.effect.push(both[0] ?? Number.NaN)
    samples.above.push(both[1] ?? Number.NaN)
    samples.alone.push(alone)
    samples.official.push(official)
  }
  const no = { official: "has no part in this", floor: "is no module" } satisfies Partial<Record<Side, string>>
  const figures: ReadonlyArray<Figure> = [
    {
      row: "import",
      name: "core, after `effect`",
      unit: "ms",
      samples: { ...no, ours: samples.above },
      targets: [{ of: "itself", most: 120 }]
    },
    {
      row: "import",
      name: "core, with the modules of Effect that it uses",
      unit: "ms",
      samples: { ours: samples.alone, official: samples.official, floor: no.floor },
      targets: []
    },
    { row: "import", name: "all of `effect`", unit: "ms", samples: { ...no, ours: samples.effect }, targets: [] }
  ]
  return figures
})
