/**
 * Boots sandboxes on a machine whose network is its own, and prints what their guests reached, as JSON: a line for each
 * scenario that its input names.
 *
 *     network.ts <home>
 *
 * Its network has loopback only, with the addresses of `network/Machine.ts` (see `network/Network.ts`). The servers are this
 * process's.
 */
import { Backend, type MicrosandboxError } from "@effect-microsandbox/core"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Cause, Console, Effect, Exit, Layer, type Scope, Stdio, Stream } from "effect"
import type { HttpClientError } from "effect/http"
import type { PlatformError } from "effect/PlatformError"
import type * as Rootfs from "../../../demo/Rootfs.ts"
import * as Core from "../network/Core.ts"
import { home } from "../network/Guest.ts"
import * as Rare from "../network/Rare.ts"

type Scenario = Effect.Effect<
  unknown,
  MicrosandboxError.MicrosandboxError | Rootfs.BusyboxMissing | PlatformError | HttpClientError.HttpClientError,
  Backend.Backend | NodeServices.NodeServices | Scope.Scope
>

const scenarios: Readonly<Record<string, Scenario>> = { ...Core, ...Rare }

const run = Effect.fn("run")(function*(name: string) {
  const exit = yield* Effect.exit(Effect.scoped(scenarios[name] ?? Effect.die(`no scenario ${name}`)))
  yield* Console.log(
    JSON.stringify(Exit.isSuccess(exit) ? { seen: exit.value } : { failure: `${name}: ${Cause.pretty(exit.cause)}` })
  )
})

Stdio.Stdio.pipe(
  Effect.flatMap(({ stdin }) => Stream.runForEach(Stream.splitLines(Stream.decodeText(stdin)), run)),
  Effect.provide(Layer.provideMerge(Backend.layerLocal({ home }), NodeServices.layer)),
  NodeRuntime.runMain
)
