/**
 * Runs rows with a VM and prints their figures as one line of JSON. npm run bench starts it where microVMs can boot.
 *
 *     vm.ts <factor> <bench binary> <row>…
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Effect } from "effect"
import * as Guests from "./Guests.ts"

const [factor = "1", binary = "", ...wanted] = process.argv.slice(2)

const said = performance.now()

Guests.run(
  { binary },
  wanted as ReadonlyArray<Guests.Name>,
  Number(factor),
  (name) => Console.error(`bench: ${name} (after ${((performance.now() - said) / 1000).toFixed(0)} s)`)
).pipe(
  Effect.flatMap((figures) => Console.log(JSON.stringify(figures))),
  NodeRuntime.runMain
)
