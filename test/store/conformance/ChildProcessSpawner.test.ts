/** The oracle: Node's own spawner, over the programs of this machine. */
import { NodeServices } from "@effect/platform-node"
import { suite } from "../../conformance/ChildProcessSpawner.ts"

suite("a program of this machine", NodeServices.layer, { duplex: true })
