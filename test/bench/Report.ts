/** The figures as a table for a person, as JSON for a program, and as a chart. */
import type { Side } from "./Contender.ts"
import { type Figure, percentile, ratio, type Samples, value, verdicts } from "./Figure.ts"

export interface Run {
  readonly at: string
  readonly machine: string
  /** By how much sizes and counts of the rows with a VM were divided. */
  readonly factor: number
  readonly figures: ReadonlyArray<Figure>
}

/** Each list of numbers on a line of its own. */
export const toJson = (run: Run): string =>
  `${
    JSON.stringify(run, (_, value: unknown) => typeof value === "number" ? Number(value.toPrecision(4)) : value, 1)
      .replaceAll(/\[[-\d.e+,\s]*\]/g, (list) => list.replaceAll(/\s+/g, ""))
  }\n`

/** Of many samples the hundredths, by rank: medians and p99 stay what they are. */
export const thinned = (run: Run): Run => {
  const few = (samples: Samples): Samples =>
    typeof samples === "string" || samples.length <= 101
      ? samples
      : Array.from({ length: 101 }, (_, hundredth) => percentile(samples, hundredth / 100))
  const figures = run.figures.map((figure) => {
    const { floor, official, ours } = figure.samples
    return { ...figure, samples: { ours: few(ours), official: few(official), floor: few(floor) } }
  })
  return { ...run, figures }
}

const number = (given: number | undefined): string =>
  given === undefined
    ? "-"
    : Math.abs(given) >= 100
    ? given.toFixed(0)
    : Math.abs(given) >= 10
    ? given.toFixed(1)
    : given.toFixed(2)

const sides: ReadonlyArray<Side> = ["ours", "official", "floor"]

const cell = (figure: Figure, side: Side): string => {
  const samples = figure.samples[side]
  if (typeof samples === "string") return "-"
  const [p50, p99] = [value(figure, side), value(figure, side, "p99")]
  return samples.length > 1 ? `${number(p50)} (${number(p99)})` : number(p50)
}

/** One line for a figure: medians (and p99), ratios of ours to the others', and the targets. */
export const table = ({ factor, figures, machine }: Run): string => {
  const head = ["figure", "unit", "ours p50 (p99)", "official", "crate", "by official", "by crate", "target"]
  const lines = figures.map((figure) => [
    `${figure.row}: ${figure.name}`,
    figure.unit,
    ...sides.map((side) => cell(figure, side)),
    number(ratio(figure, "official")),
    number(ratio(figure, "floor")),
    verdicts(figure).map(({ actual, reached, target }) =>
      `${target}: ${
        reached === undefined ? "cannot be compared" : reached ? "reached" : `NOT reached (${number(actual)})`
      }`
    ).join("; ")
  ])
  const widths = head.map((_, column) => Math.max(...[head, ...lines].map((line) => line[column]!.length)))
  const row = (line: ReadonlyArray<string>) =>
    line.map((text, column) => text.padEnd(widths[column]!)).join("  ").trimEnd()
  const reasons = new Set(
    figures.flatMap(({ samples }) =>
      sides.flatMap((side) => typeof samples[side] === "string" ? [`${side}: ${samples[side]}`] : [])
    )
  )
  return [
    row(head),
    row(widths.map((width) => "─".repeat(width))),
    ...lines.map(row),
    "",
    ...[...reasons].map((reason) => `- ${reason}`),
    `on ${machine}; rows with a VM: sizes and counts by ${factor}. Ratios are of ours to the other's: compare them, and not the times.`
  ].join("\n")
}

const escape = (text: string) => text.replace(/[&<>]/g, (char) => `&#${char.charCodeAt(0)};`)

const hasSamples = (samples: Samples): samples is ReadonlyArray<number> =>
  typeof samples !== "string" && samples.length > 0

/** Bars of how many times better than the official SDK each figure is, on a scale of powers of two. */
export const chart = ({ figures }: Run): string => {
  const compared = figures.flatMap((figure) => {
    const by = ratio(figure, "official")
    if (by === undefined || by <= 0 || !hasSamples(figure.samples.ours)) return []
    return [{ name: `${figure.row}: ${figure.name}`, times: figure.more === true ? by : 1 / by }]
  })
  const [unit, line] = [50, 22]
  // About what a letter takes.
  const left = 20 + 6.4 * Math.max(0, ...compared.map(({ name }) => name.length))
  const logs = compared.map(({ times }) => Math.max(-3, Math.min(7, Math.log2(times))))
  const lowest = Math.floor(Math.min(0, ...logs))
  const highest = Math.ceil(Math.max(1, ...logs))
  const x = (log: number) => left + (log - lowest) * unit
  const height = compared.length * line + 50
  const width = x(highest) + 70
  const bars = compared.map(({ name, times }, index) => {
    const y = 30 + index * line
    const end = x(logs[index]!)
    const from = Math.min(end, x(0))
    const colour = times >= 1 ? "#2f7d5b" : "#b5543c"
    return `<text x="${left - 8}" y="${y + 12}" text-anchor="end">${escape(name)}</text>` +
      `<rect x="${from.toFixed(1)}" y="${y}" width="${
        Math.max(1, Math.abs(end - x(0))).toFixed(1)
      }" height="15" fill="${colour}"/>` +
      `<text x="${(Math.max(end, x(0)) + 5).toFixed(1)}" y="${y + 12}">${number(times)}×</text>`
  })
  const grid = Array.from({ length: highest - lowest + 1 }, (_, index) => lowest + index).map((log) =>
    `<line x1="${x(log)}" x2="${x(log)}" y1="24" y2="${height - 14}" stroke="${log === 0 ? "#777" : "#ddd"}"/>` +
    `<text x="${x(log)}" y="18" text-anchor="middle" fill="#777">${log < 0 ? `1/${2 ** -log}` : 2 ** log}×</text>`
  )
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" ` +
    `font-family="system-ui, sans-serif" font-size="12" fill="#333">` +
    `<title>How many times better than the official Node SDK</title><rect width="100%" height="100%" fill="#fff"/>\n` +
    `${[...grid, ...bars].join("\n")}\n</svg>\n`
}
