/** The standard streams of the host, for programs whose streams are to be the host's. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stdio from "effect/Stdio"

/** The streams that the caller was given, or else those of this process. */
export const hostStdio: Effect.Effect<Stdio.Stdio> = Effect.flatMap(
  Effect.serviceOption(Stdio.Stdio),
  Option.match({
    // Loaded when it is needed.
    onNone: () =>
      Effect.flatMap(
        Effect.promise(() => import("@effect/platform-node/NodeStdio")),
        ({ layer }) => Effect.provide(Stdio.Stdio, layer)
      ),
    onSome: Effect.succeed
  })
)
