/** The same cases as on this machine, over the programs of one real guest. */
import { Sandbox } from "@effect-microsandbox/core"
import { Effect, Layer } from "effect"
import { suite } from "../../conformance/ChildProcessSpawner.ts"
import { layerBackend, rootDirectory } from "../../support/Sandboxes.ts"

const layerServices = Layer.unwrap(
  Effect.map(rootDirectory, (image) => Sandbox.services({ image, memory: "256 MiB" }))
).pipe(Layer.provide(layerBackend))

suite("a program of a guest", layerServices, { duplex: false })
