/**
 * Begins a boot and ends the process at its first events, without a word to anybody.
 *
 *     exit.ts <home> <image>
 */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { Effect, Stream } from "effect"

const [home = "", image = ""] = process.argv.slice(2)

Sandbox.makeStream({ image }).pipe(
  Stream.runForEach((event) => Effect.sync(() => event._tag === "LayerDownloadProgress" ? process.exit(7) : undefined)),
  Effect.scoped,
  Effect.provide(Backend.layerLocal({ home })),
  Effect.runFork
)
