/** A tracer that keeps every span. */
import { assert } from "@effect/vitest"
import { Cause, Effect, Exit, Option, Tracer } from "effect"

/** Everything that the spans say: their names, attributes and events, and what they ended with. */
export const text = (spans: ReadonlyArray<Tracer.NativeSpan>): string =>
  JSON.stringify(
    spans.map(({ attributes, events, links, name, status }) => [
      name,
      [...attributes],
      events,
      links,
      status._tag === "Ended" && Exit.isFailure(status.exit) ? [status.exit, Cause.pretty(status.exit.cause)] : []
    ]),
    (_key, value: unknown) => typeof value === "bigint" ? String(value) : value
  )

/** The spans of a name. */
export const named = (spans: ReadonlyArray<Tracer.NativeSpan>, name: string) =>
  spans.filter((span) => span.name === name)

/** A tree of spans that is as it should be: attributes are named as OpenTelemetry does, and a child is within its parent. */
export const check = (spans: ReadonlyArray<Tracer.NativeSpan>): void => {
  for (const { attributes, name, parent, status } of spans) {
    for (const attribute of attributes.keys()) assert.match(attribute, /^[a-z]+(\.[a-z_]+)+$/, name)
    if (status._tag !== "Ended") assert.fail(`${name} has not ended`)
    assert.isTrue(status.startTime <= status.endTime, name)
    const above = Option.getOrUndefined(parent)
    if (above?._tag !== "Span" || above.status._tag !== "Ended") continue
    assert.isTrue(above.status.startTime <= status.startTime, `${name} began before ${above.name}`)
    assert.isTrue(status.endTime <= above.status.endTime, `${name} ended after ${above.name}`)
  }
}

/** The children of a span. */
export const children = (spans: ReadonlyArray<Tracer.NativeSpan>, { spanId }: Tracer.NativeSpan) =>
  spans.filter(({ parent }) => Option.isSome(parent) && parent.value.spanId === spanId)

/** Runs an effect and gives how it ended, and the spans of it. */
export const recorded = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<
  { readonly exit: Exit.Exit<A, E>; readonly spans: ReadonlyArray<Tracer.NativeSpan> },
  never,
  R
> =>
  Effect.suspend(() => {
    const spans: Array<Tracer.NativeSpan> = []
    const tracer = Tracer.make({
      span(options) {
        const span = new Tracer.NativeSpan(options)
        spans.push(span)
        return span
      }
    })
    return Effect.map(Effect.exit(Effect.withTracer(effect, tracer)), (exit) => ({ exit, spans }))
  })

/** How a span ended. */
export const exitOf = ({ status }: Tracer.NativeSpan): Exit.Exit<unknown, unknown> =>
  status._tag === "Ended" ? status.exit : Exit.die("it has not ended")
