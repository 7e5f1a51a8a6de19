/** The program that a watchdog becomes: building a local backend sweeps its home. One that has gone is not made anew. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { existsSync } from "node:fs"
import * as Backend from "../Backend.ts"

const [home] = process.argv.slice(2)

if (home !== undefined && existsSync(home)) Effect.runFork(Effect.scoped(Layer.build(Backend.layerLocal({ home }))))
