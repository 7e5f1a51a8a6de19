/** A client of a {@link ControlPlane}, held to what holds for all of them, whatever comes of what it does. */
import type { Backend } from "@effect-microsandbox/core"
import { NodeServices } from "@effect/platform-node"
import { assert } from "@effect/vitest"
import {
  Cause,
  type Duration,
  Effect,
  Exit,
  Layer,
  Logger,
  Redacted,
  References,
  type Scope,
  type Tracer
} from "effect"
import { inspect } from "node:util"
import * as ControlPlane from "./ControlPlane.ts"
import * as Spans from "./Spans.ts"

type Services = Backend.Backend | ControlPlane.ControlPlane | NodeServices.NodeServices | Scope.Scope

/** Every word of a failure, also where it would not show it by itself. */
const words = (exit: Exit.Exit<unknown, unknown>): string =>
  Exit.isSuccess(exit)
    ? ""
    : [Cause.pretty(exit.cause), JSON.stringify(exit), inspect(exit, { depth: 12, showHidden: true })].join("\n")

const wordsOf = ({ status }: Tracer.NativeSpan): string => status._tag === "Ended" ? words(status.exit) : ""

/**
 * Runs an effect as the client of a new control plane. It must end, and what takes longer than `patience` hangs; and then the key is in no failure, log or span, and no
 * connection is left open.
 */
export const run = <A, E>(
  effect: Effect.Effect<A, E, Services>,
  patience: Duration.Input = "30 seconds"
): Effect.Effect<A, E> =>
  Effect.gen(function*() {
    const plane = yield* ControlPlane.ControlPlane
    const logged: Array<string> = []
    const logger = Logger.make(({ cause, message }) => {
      logged.push(inspect([message, cause], { depth: 12, showHidden: true }))
    })
    const { exit, spans } = yield* Effect.scoped(effect).pipe(
      Effect.timeoutOrElse({
        duration: patience,
        orElse: () => Effect.die(new Error("it hangs"))
      }),
      Effect.provide(Logger.layer([logger])),
      Effect.provideService(References.MinimumLogLevel, "All"),
      Spans.recorded
    )
    const said = [Spans.text(spans), ...spans.map(wordsOf), words(exit), ...logged].join("\n")
    assert.notInclude(said, Redacted.value(plane.apiKey))
    yield* plane.connections.pipe(
      Effect.delay("20 millis"),
      Effect.repeat({ until: (count) => count === 0 }),
      Effect.timeoutOrElse({
        duration: patience,
        orElse: () => Effect.die(new Error("a connection is left open"))
      })
    )
    return yield* exit
  }).pipe(Effect.provide(Layer.merge(ControlPlane.layerBackend, NodeServices.layer)))
