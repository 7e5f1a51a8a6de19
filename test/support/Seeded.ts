/** Chance that can be had again: the same in each run, unless `SEED` in the environment says otherwise. */
import { type Effect, Random } from "effect"

export const seed = process.env.SEED ?? "effect-microsandbox"
console.log(`SEED=${seed}`)

/** Runs an effect with `Random` from the seed; `what` tells one of several effects in a test from the others. */
export const seeded = <A, E, R>(effect: Effect.Effect<A, E, R>, what = ""): Effect.Effect<A, E, R> =>
  Random.withSeed(effect, `${seed}${what}`)
