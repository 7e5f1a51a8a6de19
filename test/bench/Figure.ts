/** What was measured, what it is held to, and whether it holds. */
import type { Side } from "./Contender.ts"

/** What a figure is held to: a ratio to another's, or an own value. */
export type Target =
  | { readonly of: "official" | "floor"; readonly at: "p50" | "p99"; readonly most?: number; readonly least?: number }
  | { readonly of: "itself"; readonly most: number }

/** The samples of one side, or why there are none. */
export type Samples = ReadonlyArray<number> | string

export interface Figure {
  /** When it was measured. */
  readonly at?: string
  readonly row: string
  readonly name: string
  readonly unit: string
  readonly samples: Readonly<Record<Side, Samples>>
  readonly targets: ReadonlyArray<Target>
  /** Whether more is better, as of a rate. */
  readonly more?: boolean
}

/** What so many parts of the samples are at most, by rank. */
export const percentile = (samples: ReadonlyArray<number>, part: number): number => {
  const sorted = [...samples].sort((a, b) => a - b)
  return sorted[Math.max(0, Math.min(sorted.length - 1, Math.ceil(part * sorted.length) - 1))] ?? Number.NaN
}

export const median = (samples: ReadonlyArray<number>): number => {
  const sorted = [...samples].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** One figure by another, as the only sample of a third. `of` is what of the first; of the second it is the median. */
export const quotient = (
  over: Samples,
  under: Samples,
  of: (samples: ReadonlyArray<number>) => number = median
): Samples => typeof over === "string" ? over : typeof under === "string" ? under : [of(over) / median(under)]

/** One value for a side's samples; undefined when it has none. */
export const value = (figure: Figure, side: Side, at: "p50" | "p99" = "p50"): number | undefined => {
  const samples = figure.samples[side]
  if (typeof samples === "string" || samples.length === 0) return undefined
  // The worst of a hundred is the smallest of what should be large.
  return at === "p50" ? median(samples) : percentile(samples, figure.more === true ? 0.01 : 0.99)
}

/** Ours by another's; undefined when one of both is missing. */
export const ratio = (figure: Figure, side: "official" | "floor", at: "p50" | "p99" = "p50"): number | undefined => {
  const [ours, other] = [value(figure, "ours", at), value(figure, side, at)]
  return ours === undefined || other === undefined || other === 0 ? undefined : ours / other
}

export interface Verdict {
  readonly target: string
  /** Undefined: it could not be compared. */
  readonly reached: boolean | undefined
  readonly actual: number | undefined
}

export const verdicts = (figure: Figure): ReadonlyArray<Verdict> =>
  figure.targets.map((target) => {
    if (target.of === "itself") {
      const actual = value(figure, "ours")
      return {
        target: `≤ ${target.most} ${figure.unit}`,
        actual,
        reached: actual === undefined ? undefined : actual <= target.most
      }
    }
    const actual = ratio(figure, target.of, target.at)
    const { least = -Infinity, most = Infinity } = target
    const bound = target.least === undefined ? `≤ ${target.most}` : `≥ ${target.least}`
    return {
      target: `${target.at} ${bound} × ${target.of}`,
      actual,
      reached: actual === undefined ? undefined : actual <= most && actual >= least
    }
  })
