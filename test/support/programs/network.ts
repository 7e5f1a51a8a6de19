/**
 * Boots sandboxes on a machine whose network is its own, and prints what their guests reached, as JSON: a line for each
 * scenario that its input names.
 *
 *     network.ts <home>
 *
 * Its network has loopback only, with the addresses of `network/Machine.ts` (see `network/Network.ts`). The servers are this
 * process's. It imports no more than it needs: in an emulated machine that alone takes many seconds.
 */
import { Backend, type MicrosandboxError } from "@effect-microsandbox/core"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Cause, Console, Effect, Exit, Layer, type Scope, Stdio, Stream } from "effect"
import type { HttpClientError } from "effect/http"
import type { PlatformError } from "effect/PlatformError"
import type * as Rootfs from "../../../demo/Rootfs.ts"
import * as Core from "../network/Core.ts"
import { home } from "../network/Guest.ts"

type Scenario = Effect.Effect<
  unknown,
  MicrosandboxError.MicrosandboxError | Rootfs.BusyboxMissing | PlatformError | HttpClientError.HttpClientError,
  Backend.Backend | Backend.Local | NodeServices.NodeServices | Scope.Scope
>

const core: Readonly<Record<string, Scenario>> = { ...Core }
const rare: Effect.Effect<Readonly<Record<string, Scenario>>> = Effect.promise(() => import("../network/Rare.ts"))

const run = Effect.fn("run")(function*(name: string) {
  const scenario = core[name] ?? (yield* rare)[name] ?? Effect.die(`no scenario ${name}`)
  const exit = yield* Effect.exit(Effect.scoped(scenario))
  yield* Console.log(
    JSON.stringify(Exit.isSuccess(exit) ? { seen: exit.value } : { failure: `${name}: ${Cause.pretty(exit.cause)}` })
  )
})

Stdio.Stdio.pipe(
  Effect.flatMap(({ stdin }) => Stream.runForEach(Stream.splitLines(Stream.decodeText(stdin)), run)),
  Effect.provide(Layer.provideMerge(Backend.layerLocal({ home }), NodeServices.layer)),
  NodeRuntime.runMain
)
