/** Builds the layer of the native package in a folder and prints why that failed: `<folder>`. */
import { Console, Effect, Layer, Result } from "effect"
import type * as Native from "../../../packages/native/src/Native.ts"

const [folder = ""] = process.argv.slice(2)
const { layer }: typeof Native = await import(`${folder}/src/Native.ts`)

Effect.runFork(Effect.gen(function*() {
  const result = yield* Effect.result(Effect.scoped(Layer.build(layer)))
  yield* Console.log(JSON.stringify(Result.isFailure(result) ? result.failure.failure : { _tag: "Loaded" }))
}))
