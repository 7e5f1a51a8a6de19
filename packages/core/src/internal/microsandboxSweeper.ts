/** The program that a watchdog becomes: building a local backend sweeps its home. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Backend from "../Backend.ts"

const [home] = process.argv.slice(2)

Effect.runFork(Effect.scoped(Layer.build(Backend.layerLocal({ home }))))
