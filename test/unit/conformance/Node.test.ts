/** The oracle: what a guest's services are held against is true of Node's. */
import { NodeServices } from "@effect/platform-node"
import { layer } from "@effect/vitest"
import { Effect } from "effect"
import { fileSystem } from "../../conformance/FileSystem.ts"
import { keyValueStore } from "../../conformance/KeyValueStore.ts"
import { path } from "../../conformance/Path.ts"

layer(NodeServices.layer, { excludeTestServices: true })("the file system of Node", fileSystem)

layer(NodeServices.layer)("the path of Node", (it) => path(it, Effect.sync(() => process.cwd())))

layer(NodeServices.layer)("the key-value store on Node's files", keyValueStore)
