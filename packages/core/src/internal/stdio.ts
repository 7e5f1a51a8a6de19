/** The standard streams of the host, for programs whose streams are to be the host's. */
import * as NodeStdio from "@effect/platform-node/NodeStdio"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stdio from "effect/Stdio"

/** The streams that the caller was given, or else those of this process. */
export const hostStdio: Effect.Effect<Stdio.Stdio> = Effect.flatMap(
  Effect.serviceOption(Stdio.Stdio),
  Option.match({
    onNone: () => Effect.provide(Stdio.Stdio, NodeStdio.layer),
    onSome: Effect.succeed
  })
)
