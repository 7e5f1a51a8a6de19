/** A sandbox without a VM: a row of the catalogue that runs, and programs/relay.ts in the place of its relay. */
import { Backend } from "@effect-microsandbox/core"
import { Effect, FileSystem, Path, Queue, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as crypto from "node:crypto"
import { makeRow } from "./Store.ts"

/** What the relay tells of its programs. */
export type Told =
  | { readonly _tag: "Listening" }
  | { readonly _tag: "Connected" }
  | { readonly _tag: "Started"; readonly cmd: string; readonly pid: number }
  | { readonly _tag: "Signal"; readonly signal: number }
  | { readonly _tag: "Exited"; readonly cmd: string; readonly pid: number; readonly code: number }
  | { readonly _tag: "Stalled" }

const runtime = { entrypoint: ["echo", "the"], cmd: ["default"] }

/** The socket of a sandbox's relay, where the engine looks for it. */
export const agentSocket = Effect.fn("agentSocket")(function*(name: string) {
  const path = yield* Path.Path
  const { home } = yield* Backend.Local
  const id = crypto.createHash("sha256").update(name).digest("hex").slice(0, 24)
  return path.join(home, "run/sandboxes", id, "agent.sock")
})

/** Answers with what the relay tells, up to the first that is asked for. */
export const make = Effect.fn("FakeRelay.make")(function*(name: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const spawner = yield* ChildProcessSpawner
  yield* makeRow(name, "Running", { name, runtime })
  const socket = yield* agentSocket(name)
  yield* fs.makeDirectory(path.dirname(socket), { recursive: true })
  const relay = yield* spawner.spawn(
    ChildProcess.make("node", ["test/support/programs/relay.ts", socket], { stderr: "inherit" })
  )
  const told = yield* Queue.unbounded<Told>()
  yield* relay.stdout.pipe(
    Stream.decodeText,
    Stream.splitLines,
    Stream.runForEach((line) => Queue.offer(told, JSON.parse(line) as Told)),
    Effect.forkScoped
  )
  const until = (done: (event: Told) => boolean) =>
    Stream.fromQueue(told).pipe(Stream.takeUntil(done), Stream.runCollect)
  yield* until(({ _tag }) => _tag === "Listening")
  return { until }
})
