/** The bench in a small form: that each row measures what it says, for both SDKs. How fast that is, only `npm run bench` says. */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { type Figure, median, percentile, ratio, verdicts } from "../bench/Figure.ts"
import * as Imports from "../bench/Imports.ts"
import * as Native from "../bench/Native.ts"
import { chart, table, thinned, toJson } from "../bench/Report.ts"

const plan: Native.Plan = {
  execs: 2,
  rounds: 2,
  mebibytes: 1,
  delayMebibytes: 1,
  idleSeconds: 0.2,
  sipMebibytes: 8,
  sipSeconds: 1,
  sandboxes: 2,
  crowds: [2, 4]
}

const isMeasured = (samples: Figure["samples"]["ours"]): boolean =>
  typeof samples !== "string" && samples.length > 0 && samples.every((sample) => Number.isFinite(sample) && sample >= 0)

layer(NodeServices.layer, { excludeTestServices: true })("the bench", (it) => {
  it.effect("measures both SDKs against a relay without a guest", () =>
    Effect.gen(function*() {
      // Without the binary that only the bench builds: the relay is the tests' own, and the floor is left out.
      const sides = yield* Native.connected({ binary: undefined }, plan)
      assert.deepStrictEqual(sides.map(({ side }) => side), ["ours", "official"])
      const figures: Array<Figure> = []
      for (const [name, row] of Object.entries(Native.rows)) {
        const measured = yield* row(sides, plan)
        assert.isAbove(measured.length, 0, name)
        figures.push(...measured)
      }
      for (const { name, row, samples } of figures) {
        assert.isTrue(isMeasured(samples.ours), `ours, ${row}: ${name}: ${JSON.stringify(samples.ours)}`)
        assert.isTrue(isMeasured(samples.official), `official, ${row}: ${name}: ${JSON.stringify(samples.official)}`)
        assert.isString(samples.floor)
      }
      const counted = figures.filter(({ name }) => name.endsWith("until each has ended"))
      assert.deepStrictEqual(counted.map(({ samples }) => samples.ours.length), [3 * 2 * 2, 3 * 4 * 2])
      const run = { at: "now", machine: "a test", factor: 1, figures }
      for (const { name, row } of figures) assert.include(table(run), `${row}: ${name}`)
      assert.match(chart(run), /^<svg [^]*round trip[^]*<\/svg>\n$/)
    }).pipe(Effect.scoped))

  it.effect("measures what an import costs", () =>
    Effect.gen(function*() {
      // The sources: what is published is made by another test at the same time.
      const figures = yield* Imports.row(".", 1)
      for (const { name, samples } of figures) assert.isTrue(isMeasured(samples.ours), name)
    }).pipe(Effect.scoped))

  it.effect("holds a figure to its targets", () =>
    Effect.sync(() => {
      const figure: Figure = {
        row: "row",
        name: "figure",
        unit: "ms",
        samples: { ours: [1, 2, 9], official: [4, 4, 4], floor: "is not there" },
        targets: [
          { of: "official", at: "p50", most: 0.5 },
          { of: "official", at: "p99", most: 1 },
          { of: "floor", at: "p50", most: 1 },
          { of: "itself", most: 2 }
        ]
      }
      assert.deepStrictEqual(verdicts(figure).map(({ reached }) => reached), [true, false, undefined, true])
      assert.deepStrictEqual([ratio(figure, "official"), ratio(figure, "official", "p99")], [0.5, 2.25])
      assert.isUndefined(ratio(figure, "floor"))
      const rate: Figure = { ...figure, more: true, targets: [{ of: "official", at: "p99", least: 0.25 }] }
      assert.deepStrictEqual(verdicts(rate).map(({ reached }) => reached), [true])
      const ours = Array.from({ length: 1000 }, (_, index) => (index * 7) % 1000 + 1)
      const figures = [{ ...figure, samples: { ...figure.samples, ours } }]
      const run = thinned({ at: "now", machine: "a test", factor: 1, figures })
      assert.deepStrictEqual(JSON.parse(toJson(run)), run)
      const kept = run.figures[0]!.samples.ours as ReadonlyArray<number>
      assert.deepStrictEqual([kept.length, median(kept), percentile(kept, 0.99)], [101, 500, 990])
      assert.strictEqual(percentile(ours, 0.99), 990)
      assert.deepStrictEqual([median([4, 1, 3, 2]), percentile([3, 1, 2], 0.99), percentile([5], 0.01)], [2.5, 3, 5])
    }))
})
