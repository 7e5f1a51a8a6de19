/** Chance that can be had again: the seed is printed, and `SEED` in the environment sets it. */
import { type Effect, Random } from "effect"

export const seed = process.env.SEED ?? Math.random().toString(36).slice(2, 10)
console.log(`SEED=${seed}`)

/** Runs an effect with `Random` from the seed. */
export const seeded = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => Random.withSeed(effect, seed)
