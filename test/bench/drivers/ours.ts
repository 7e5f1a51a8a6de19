/** The calls of the bench on this SDK, as a user would write them: `ours.ts <home>`. */
import { Backend, Image, type MicrosandboxError, Sandbox, Snapshot } from "@effect-microsandbox/core"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type { PlatformError } from "effect/PlatformError"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type Answer, memoryMebibytes, reply, type Request, requests, since, sip, watchDelay } from "./lines.ts"

const [home = ""] = process.argv.slice(2)

interface Kept {
  readonly sandbox: Sandbox.Sandbox
  readonly scope: Scope.Closeable
}

const kept = new Map<string, Kept>()

/** By the names that the bench has for snapshots. */
const references = new Map<string, string>()

const of = (name: string) =>
  Effect.suspend(() => {
    const found = kept.get(name)
    return found === undefined ? Effect.die(new Error(`no sandbox ${name}`)) : Effect.succeed(found.sandbox)
  })

const keep = Effect.fnUntraced(function*<E, R>(name: string, make: Effect.Effect<Sandbox.Sandbox, E, R>) {
  const scope = yield* Scope.make()
  const sandbox = yield* Scope.provide(make, scope)
  kept.set(name, { sandbox, scope })
  return sandbox
})

const release = Effect.fnUntraced(function*(name: string) {
  const found = kept.get(name)
  kept.delete(name)
  if (found !== undefined) yield* Scope.close(found.scope, Exit.void)
})

const runTrue = (sandbox: Sandbox.Sandbox) =>
  Effect.flatMap(
    sandbox.exec("true"),
    ({ success }) => success ? Effect.void : Effect.die(new Error("`true` failed"))
  )

/** A start ends when a first program has. */
const started = Effect.fnUntraced(function*<E, R>(name: string, make: Effect.Effect<Sandbox.Sandbox, E, R>) {
  const start = performance.now()
  yield* runTrue(yield* keep(name, make))
  return { ms: [since(start)] }
})

const pour = Effect.fnUntraced(function*({ args, command, sandbox }: Request) {
  const program = yield* (yield* of(sandbox)).spawn(command, args)
  let bytes = 0
  yield* Stream.runForEach(program.stdout, (chunk) =>
    Effect.sync(() => {
      bytes += chunk.length
    }))
  return bytes
}, Effect.scoped)

const operations: Record<
  string,
  (
    request: Request
  ) => Effect.Effect<Answer, MicrosandboxError.MicrosandboxError | PlatformError, Backend.Backend | Backend.Local>
> = {
  ready: () => Effect.as(Stream.runDrain(Sandbox.list()), {}),
  connect: ({ sandboxes }) => Effect.as(Effect.forEach(sandboxes, (name) => keep(name, Sandbox.connect(name))), {}),
  create: ({ image, sandbox }) =>
    started(sandbox, Sandbox.make({ name: sandbox, image, memory: `${memoryMebibytes} MiB` })),
  restore: ({ sandbox, snapshot }) =>
    started(sandbox, Sandbox.restore(references.get(snapshot) ?? snapshot, { name: sandbox })),
  branch: ({ child, sandbox }) => started(child, Effect.flatMap(of(sandbox), (source) => source.branch(child))),
  keep: Effect.fnUntraced(function*({ sandbox, snapshot }) {
    const source = yield* of(sandbox)
    yield* source.stop()
    const { reference } = yield* Snapshot.create(sandbox, snapshot)
    references.set(snapshot, reference)
    yield* release(sandbox)
    return {}
  }),
  destroy: ({ sandbox }) => Effect.as(release(sandbox), {}),
  forget: ({ image }) => Effect.as(Effect.andThen(Image.remove(image, { force: true }), Image.prune), {}),
  exec: Effect.fnUntraced(function*({ count, sandbox }) {
    const found = yield* of(sandbox)
    const ms: Array<number> = []
    for (let index = 0; index < count; index++) {
      const start = performance.now()
      yield* runTrue(found)
      ms.push(since(start))
    }
    return { ms }
  }),
  execs: Effect.fnUntraced(function*({ each, sandboxes }) {
    const found = yield* Effect.forEach(sandboxes, of)
    const start = performance.now()
    const all = found.flatMap((sandbox) => Array.from({ length: each }, () => sandbox))
    const ms = yield* Effect.forEach(all, (sandbox) => Effect.map(runTrue(sandbox), () => since(start)), {
      concurrency: "unbounded"
    })
    return { ms, wall: since(start) }
  }),
  pour: Effect.fnUntraced(function*(request) {
    const start = performance.now()
    const bytes = yield* pour(request)
    return { ms: [since(start)], bytes }
  }),
  delay: Effect.fnUntraced(function*(request) {
    const stopIdle = watchDelay()
    yield* Effect.sleep(request.seconds * 1000)
    const idle = stopIdle()
    const stopBusy = watchDelay()
    const bytes = yield* pour(request)
    return { idle, busy: stopBusy(), bytes }
  }),
  sip: Effect.fnUntraced(function*({ args, command, sandbox, seconds }) {
    const program = yield* (yield* of(sandbox)).spawn(command, args)
    let bytes = 0
    let due = 0
    yield* program.stdout.pipe(
      Stream.runForEach((chunk) => {
        bytes += chunk.length
        due += chunk.length
        const times = Math.floor(due / sip.bytes)
        due -= times * sip.bytes
        return Effect.sleep(times * sip.millis)
      }),
      Effect.timeoutOption(`${seconds} seconds`)
    )
    return { bytes }
  }, Effect.scoped),
  write: Effect.fnUntraced(function*({ bytes, path, sandbox }) {
    const { fs } = yield* of(sandbox)
    const data = new Uint8Array(bytes).fill(120)
    const start = performance.now()
    yield* fs.writeFile(path, data)
    return { ms: [since(start)] }
  }),
  read: Effect.fnUntraced(function*({ path, sandbox }) {
    const { fs } = yield* of(sandbox)
    const start = performance.now()
    const { length } = yield* fs.readFile(path)
    return { ms: [since(start)], bytes: length }
  }),
  small: Effect.fnUntraced(function*({ count, path, sandbox }) {
    const { fs } = yield* of(sandbox)
    const data = new Uint8Array(1024).fill(120)
    const start = performance.now()
    yield* fs.makeDirectory(path)
    for (let index = 0; index < count; index++) yield* fs.writeFile(`${path}/${index}`, data)
    const wrote = since(start)
    for (let index = 0; index < count; index++) yield* fs.readFile(`${path}/${index}`)
    return { ms: [since(start)], wrote }
  }),
  interrupt: Effect.fnUntraced(function*({ args, command, count, sandbox }) {
    const found = yield* of(sandbox)
    const ms: Array<number> = []
    for (let index = 0; index < count; index++) {
      const scope = yield* Scope.make()
      // It is there when this answers; what is measured is the interruption of a fiber that waits for its end.
      const program = yield* Scope.provide(found.spawn(command, args), scope)
      const waiting = yield* Effect.forkChild(
        Effect.ensuring(program.exitStatus, Effect.suspend(() => Scope.close(scope, Exit.void)))
      )
      yield* Effect.yieldNow
      const start = performance.now()
      yield* Fiber.interrupt(waiting)
      ms.push(since(start))
    }
    return { ms }
  })
}

const program = Stream.orDie(Stream.fromAsyncIterable(requests(), (cause) => cause)).pipe(
  Stream.runForEach((request) => {
    const operation = operations[request.op] ?? (() => Effect.die(new Error(`no operation ${request.op}`)))
    return Effect.matchCause(operation(request), {
      onFailure: (cause) => reply({ error: String(cause) }),
      onSuccess: reply
    })
  }),
  Effect.andThen(Effect.suspend(() => Effect.forEach([...kept.keys()], release, { discard: true })))
)

program.pipe(Effect.provide(Backend.layerLocal({ home })), NodeRuntime.runMain)
