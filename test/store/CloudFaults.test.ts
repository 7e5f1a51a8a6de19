/**
 * A control plane that fails, and a network that does (test/support/ControlPlane.ts): whatever happens, an operation ends, with
 * a reason of its own or with what it was asked for; and then the same operation works again.
 *
 * That the key is in no failure, log or span and that no connection is left open is checked for each of them by `run`.
 */
import { Backend, MicrosandboxError, Sandbox, Secret, Snapshot, Volume } from "@effect-microsandbox/core"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Option, type PlatformError, Redacted, type Scope, Stream } from "effect"
import { inspect } from "node:util"
import { type AgentFault, ControlPlane, type Fault } from "../support/ControlPlane.ts"
import { run } from "../support/ControlPlaneClient.ts"

type Failure = MicrosandboxError.MicrosandboxError | PlatformError.PlatformError

type Operation = Effect.Effect<unknown, Failure, Backend.Backend | Scope.Scope>

const make = (name: string) => Sandbox.make({ name, image: "alpine:3.22" })

const mebibyte = 2 ** 20

/** This SDK's reason, also behind a failure of the platform. A defect is none. */
const reasonOf = (exit: Exit.Exit<unknown, Failure>): MicrosandboxError.Reason | undefined => {
  if (Exit.isSuccess(exit)) return undefined
  const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
  const ours = MicrosandboxError.isMicrosandboxError(error) ? error : error?.cause
  assert.isTrue(MicrosandboxError.isMicrosandboxError(ours), Cause.pretty(exit.cause))
  return (ours as MicrosandboxError.MicrosandboxError).reason
}

/** What is there before an operation, which each operation leaves as it was when it works. */
const prepare = Effect.gen(function*() {
  const sandbox = yield* make("box")
  const { fs } = yield* Volume.make({ name: "data" })
  yield* fs.writeFileString("/file", "content")
  yield* sandbox.snapshot("base")
  return { sandbox, fs }
})

type Prepared = Effect.Success<typeof prepare>

const byName = "/v1/sandboxes/by-name/:name"
const content = "/v1/volumes/:id/files/content"

/** An operation, and the route that is to fail for it. */
const operations: Readonly<Record<string, readonly [route: string, operation: (prepared: Prepared) => Operation]>> = {
  get: [`GET ${byName}`, () => Sandbox.get("box")],
  list: ["GET /v1/sandboxes", () => Stream.runDrain(Sandbox.list())],
  make: ["POST /v1/sandboxes", () => Effect.scoped(make("new"))],
  stop: ["POST /v1/sandboxes/:id/stop", ({ sandbox }) => sandbox.stop({ grace: "1 second", thenKill: false })],
  start: [
    "POST /v1/sandboxes/:id/start",
    () => Effect.andThen(Sandbox.stop("box"), Effect.scoped(Sandbox.start("box")))
  ],
  remove: [
    `DELETE ${byName}`,
    () => Effect.andThen(Effect.scoped(Effect.asVoid(made("removed"))), Sandbox.remove("removed"))
  ],
  "list volumes": ["GET /v1/volumes", () => Volume.list],
  "make a volume": ["POST /v1/volumes", () => Effect.scoped(Volume.make({ name: "other" }))],
  "remove a volume": [
    "DELETE /v1/volumes/:id",
    () => Effect.andThen(Effect.ignore(Effect.scoped(Volume.create("gone"))), Volume.remove("gone"))
  ],
  "read a file": [`GET ${content}`, ({ fs }) => fs.readFile("/file")],
  "write a file": [`PUT ${content}`, ({ fs }) => fs.writeFileString("/file", "content")],
  "list snapshots": ["GET /v1/snapshots", () => Snapshot.list],
  "look at a snapshot": ["GET /v1/snapshots/by-name/:name", () => Snapshot.get("base")],
  "look at a capture": ["GET /v1/snapshot-operations/:id", () =>
    Effect.andThen(
      Effect.ignore(Snapshot.remove("taken")),
      Snapshot.create("box", "taken")
    )]
}

/** One that has stopped, and stays. */
const made = (name: string) => Effect.ignore(Sandbox.make({ name, image: "alpine:3.22", onClose: "stop" }))

const errorBody = (code: string) => ({ error: { code, message: "the plane says no" } })

const answer = (status: number, body?: unknown): Fault => ({ _tag: "Answer", status, body })

/** A tag, or what the reason has at least. */
type Expected = string | Readonly<Record<string, unknown>>

const check = (exit: Exit.Exit<unknown, Failure>, expected: Expected, what: string) => {
  const reason = reasonOf(exit)
  if (reason === undefined) return assert.fail(`${what} was a success`)
  const told = `${what}: ${reason._tag}: ${reason.message}`
  if (typeof expected === "string") return assert.strictEqual(reason._tag, expected, told)
  return assert.deepInclude(reason, expected, told)
}

/** Each operation with a fault: it fails as is expected, and works when it is tried again. */
const each = (fault: Fault, expected: (name: string) => Expected, names = Object.keys(operations)) =>
  run(Effect.gen(function*() {
    const { inject, pending } = yield* ControlPlane
    const prepared = yield* prepare
    for (const name of names) {
      const [route, operation] = operations[name]!
      yield* inject(route, fault)
      check(yield* Effect.exit(operation(prepared)), expected(name), name)
      assert.strictEqual(yield* pending, 0, name)
      const again = yield* Effect.exit(operation(prepared))
      assert.isTrue(Exit.isSuccess(again), `${name} again: ${reasonOf(again)?.message}`)
    }
  }))

const all = (expected: Expected) => () => expected

/** Operations that read the body of the answer as JSON. */
const unread = Object.keys(operations).filter((name) => !name.includes("file"))

describe("a control plane that answers with a status", () => {
  const status = (status: number) => ({ _tag: "CloudHttp", status })

  it.live("401 is told as it is", () => each(answer(401, errorBody("unauthorized")), all(status(401))))

  it.live("403 is told as it is", () => each(answer(403), all(status(403))))

  it.live("404 is that of what was asked for", () =>
    each(answer(404), (name) =>
      name.includes("snapshot") || name.includes("capture")
        ? "SnapshotNotFound"
        : name.includes("volume")
        ? "VolumeNotFound"
        : name.includes("file")
        ? "FileFailed"
        : "SandboxNotFound"))

  it.live("422 is an option that was refused", () => each(answer(422, errorBody("any")), all("InvalidConfig")))

  it.live("429 is told as it is", () => each(answer(429, errorBody("slow_down")), all(status(429))))

  it.live("500 is told as it is", () => each(answer(500, "<html>oops</html>"), all(status(500))))

  it.live("502 is the engine's word for it", () => each(answer(502), all("Runtime")))

  it.live("409 is the name that is taken, or a sandbox that runs", () =>
    each(
      answer(409, errorBody("any")),
      (name) =>
        name === "make" ? "SandboxAlreadyExists" : name === "remove" ? "SandboxStillRunning" : "VolumeAlreadyExists",
      ["make", "make a volume", "remove"]
    ))
})

describe("a control plane whose answer", () => {
  it.live("does not come is told when the time is over, and can be interrupted", () =>
    run(
      Effect.gen(function*() {
        const { apiKey, connections, inject, pending, url } = yield* ControlPlane
        const prepared = yield* prepare
        const impatient = Backend.layerCloud({ url, apiKey, requestTimeout: "300 millis" })
        yield* inject(`GET ${byName}`, { _tag: "Silence" })
        const late = yield* Effect.exit(Effect.provide(Sandbox.get("box"), impatient))
        check(late, { _tag: "Http", timeout: true }, "get")
        // What changes a volume is waited for when it is interrupted: its name is free then, or it is there and whole.
        const awaited = new Set(["make a volume", "remove a volume"])
        for (const [name, [route, operation]] of Object.entries(operations)) {
          yield* inject(route, awaited.has(name) ? { _tag: "Delay", millis: 300 } : { _tag: "Silence" })
          const before = yield* connections
          const fiber = yield* Effect.forkChild(Effect.exit(operation(prepared)))
          yield* pending.pipe(Effect.delay("5 millis"), Effect.repeat({ until: (count) => count === 0 }))
          yield* Fiber.interrupt(fiber)
          yield* connections.pipe(Effect.delay("5 millis"), Effect.repeat({ until: (count) => count <= before }))
          const again = yield* Effect.exit(operation(prepared))
          assert.isTrue(Exit.isSuccess(again), `${name} again: ${reasonOf(again)?.message}`)
        }
      }),
      "50 seconds"
    ))

  it.live("comes late is waited for", () =>
    run(Effect.gen(function*() {
      const { inject } = yield* ControlPlane
      const prepared = yield* prepare
      for (const [name, [route, operation]] of Object.entries(operations)) {
        yield* inject(route, { _tag: "Delay", millis: 100 })
        assert.isTrue(Exit.isSuccess(yield* Effect.exit(operation(prepared))), name)
      }
    })))

  it.live("is cut before its first line is a failure of the transport", () =>
    each({ _tag: "Cut", after: "none" }, all("Http")))

  it.live("is cut in its middle is a failure, and not half of an answer", () =>
    // What was made is taken back: each is done again after it.
    each({ _tag: "Cut", after: 3 }, all("Json"), unread))

  it.live("is no JSON is a failure that says of what", () =>
    each(answer(200, "<html>not what you think</html>"), all("Json"), unread))

  it.live("is JSON of another kind is a failure that says of what", () =>
    each(answer(200, { unknown: "thing" }), all("Json"), unread))

  it.live("holds the key, as that of a debugging proxy does, does not tell it", () =>
    each({ _tag: "Answer", status: 500, echo: true }, all({ _tag: "CloudHttp", status: 500, code: "debug" })))
})

describe("the secrets of a sandbox", () => {
  it.live("are in no failure, whatever the control plane says of the request", () =>
    run(Effect.gen(function*() {
      const { inject, requests } = yield* ControlPlane
      const options = {
        registry: { auth: { username: "me", password: Redacted.make("hunter2-of-the-registry") } },
        secrets: [Secret.make({ env: "TOKEN", value: Redacted.make("t0ken-of-the-guest"), hosts: ["api.example.com"] })]
      }
      yield* inject("POST /v1/sandboxes", { _tag: "Answer", status: 500, echo: true })
      const exit = yield* Effect.exit(Effect.scoped(Sandbox.make({ name: "secret", image: "alpine:3.22", ...options })))
      check(exit, { _tag: "CloudHttp", status: 500 }, "make")
      const sent = JSON.stringify(yield* requests)
      const told = `${JSON.stringify(exit)} ${inspect(exit, { depth: 12 })}`
      for (const secret of ["hunter2-of-the-registry", "t0ken-of-the-guest"]) {
        assert.include(sent, secret)
        assert.notInclude(told, secret)
      }
    })))
})

describe("a file on a volume of a control plane", () => {
  it.live("whose answer is cut is a failure, and not half of the file", () =>
    run(Effect.gen(function*() {
      const { inject } = yield* ControlPlane
      const { fs } = yield* prepare
      for (const read of [fs.readFile("/file"), Stream.runCollect(fs.stream("/file"))]) {
        yield* inject(`GET ${content}`, { _tag: "Cut", after: 3 })
        check(yield* Effect.exit<unknown, Failure, never>(read), "Http", "read")
      }
      assert.strictEqual(yield* fs.readFileString("/file"), "content")
    })))

  it.live("keeps its content when what was to take its place fails half way", () =>
    run(Effect.gen(function*() {
      const { fs } = yield* prepare
      const fails = Stream.concat(Stream.make(new Uint8Array([1, 2])), Stream.fail(new Error("half way")))
      assert.isTrue(Exit.isFailure(yield* Effect.exit(Stream.run(fails, fs.sink("/file")))))
      assert.strictEqual(yield* fs.readFileString("/file"), "content")
    })))
})

describe("a sandbox that a control plane makes", () => {
  const lost: Readonly<Record<string, readonly [fault: Fault, expected: Expected]>> = {
    "but whose answer is cut": [{ _tag: "Cut", after: 3 }, "Json"],
    "but whose answer is no JSON": [{ _tag: "Change", change: () => "<html>" }, "Json"],
    "but does not start": [
      { _tag: "Change", change: (body) => ({ ...body, status: "failed", last_failure_message: "no image" }) },
      "BootStart"
    ],
    "but starts too late": [
      { _tag: "Change", change: (body) => ({ ...body, status: "starting" }) },
      "AgentReadyTimeout"
    ],
    "but whose state nobody knows": [{ _tag: "Change", change: (body) => ({ ...body, status: "levitating" }) }, "Json"]
  }
  for (const [what, [fault, expected]] of Object.entries(lost)) {
    it.live(`${what} is taken back: nothing is left, and the name is free`, () =>
      run(Effect.gen(function*() {
        const { inject, names } = yield* ControlPlane
        yield* inject("POST /v1/sandboxes", fault)
        check(yield* Effect.exit(Effect.scoped(make("lost"))), expected, what)
        assert.deepStrictEqual((yield* names).sandboxes, [])
        yield* Effect.scoped(make("lost"))
      })))
  }

  it.live("while it is interrupted is taken back too", () =>
    run(Effect.gen(function*() {
      const { asked, inject, names } = yield* ControlPlane
      yield* inject("POST /v1/sandboxes", { _tag: "Delay", millis: 300 })
      const fiber = yield* Effect.forkChild(Effect.scoped(make("interrupted")))
      yield* asked.pipe(
        Effect.delay("5 millis"),
        Effect.repeat({ until: (routes) => routes.includes("POST /v1/sandboxes") })
      )
      yield* Fiber.interrupt(fiber)
      // The control plane goes on with what nobody waits for.
      yield* Effect.sleep("500 millis")
      assert.deepStrictEqual((yield* names).sandboxes, [])
    })))

  it.live("is not taken away from whoever has the name", () =>
    run(Effect.gen(function*() {
      const { inject, names } = yield* ControlPlane
      yield* Effect.scoped(Sandbox.make({ name: "theirs", image: "alpine:3.22", onClose: "detach" }))
      yield* inject("POST /v1/sandboxes", answer(500))
      check(yield* Effect.exit(Effect.scoped(make("theirs"))), { _tag: "CloudHttp", status: 500 }, "make")
      assert.deepStrictEqual((yield* names).sandboxes, ["theirs"])
      assert.strictEqual((yield* Sandbox.get("theirs")).status, "Running")
    })))
})

describe("a capture that fails on a control plane", () => {
  it.live("says what the control plane says of it, and nothing that is not whole is taken", () =>
    run(Effect.gen(function*() {
      const { inject } = yield* ControlPlane
      const { sandbox } = yield* prepare
      const changes: ReadonlyArray<readonly [(body: any) => unknown, Expected]> = [
        [(body) => ({ ...body, status: "failed", error: { code: "disk_full", message: "no space" } }), "Runtime"],
        [(body) => ({ ...body, status: "succeeded" }), "Runtime"],
        [(body) => ({ ...body, status: "unheard_of" }), "Json"]
      ]
      for (const [index, [change, expected]] of changes.entries()) {
        yield* inject("GET /v1/snapshot-operations/:id", { _tag: "Change", change })
        check(yield* Effect.exit(sandbox.snapshot(`failed-${index}`)), expected, `${index}`)
      }
      // A descriptor that somebody has changed is none.
      yield* inject("GET /v1/snapshots/by-name/:name", {
        _tag: "Change",
        change: (body) => ({ ...body, manifest: { ...body.manifest, labels: { forged: "yes" } } })
      })
      check(yield* Effect.exit(Snapshot.get("base")), "SnapshotIntegrity", "forged")
    })))
})

describe("the connection to a guest of a control plane", () => {
  const faults: ReadonlyArray<AgentFault> = [
    "CutFrame",
    "CutMessage",
    "Close",
    "HalfClose",
    "GarbageFrame",
    "HugeMessage",
    "GarbageMessage"
  ]

  /** What is asked of a guest, in the message of whose answer the fault happens; and what that is told as. */
  const asked: ReadonlyArray<readonly [type: string, operation: (prepared: Prepared) => Operation, reason: string]> = [
    ["core.ready", ({ sandbox }) => sandbox.exec("echo", ["a"]), "AgentClient"],
    ["core.exec.started", ({ sandbox }) => sandbox.exec("echo", ["a"]), "ExecSessionLost"],
    ["core.exec.stdout", ({ sandbox }) => sandbox.exec("echo", ["a"]), "ExecSessionLost"],
    ["core.exec.exited", ({ sandbox }) => sandbox.exec("echo", ["a"]), "ExecSessionLost"],
    ["core.ready", ({ sandbox }) => sandbox.fs.stat("/large"), "AgentClient"],
    ["core.fs.response", ({ sandbox }) => sandbox.fs.stat("/large"), "AgentClient"],
    [
      "core.fs.data",
      ({ sandbox: { fs } }) => Effect.andThen(fs.writeFile("/small", large.subarray(0, 9)), fs.readFile("/small")),
      "AgentClient"
    ],
    ["core.bulk.accepted", ({ sandbox }) => sandbox.fs.readFile("/large"), "AgentClient"],
    ["bulk", ({ sandbox }) => sandbox.fs.readFile("/large"), "AgentClient"],
    ["core.bulk.finish", ({ sandbox }) => sandbox.fs.readFile("/large"), "AgentClient"],
    ["core.bulk.credit", ({ sandbox }) => sandbox.fs.writeFile("/large", large), "AgentClient"]
  ]
  const large = new Uint8Array(2 * mebibyte).fill(1)

  for (const fault of faults) {
    it.live(`that breaks by ${fault} is told, whatever is under way, and the next one works`, () =>
      run(Effect.gen(function*() {
        const { injectAgent, pending, stop } = yield* ControlPlane
        for (const [index, [type, operation, reason]] of asked.entries()) {
          // A new one, so that no connection is kept.
          const sandbox = yield* make(`agent-${index}`)
          const prepared = { sandbox, fs: sandbox.fs }
          if (type !== "core.ready") yield* sandbox.fs.writeFile("/large", large)
          yield* injectAgent(type, fault)
          check(yield* Effect.exit(operation(prepared)), reason, `${fault} at ${type}`)
          assert.strictEqual(yield* pending, 0, type)
          yield* sandbox.fs.writeFile("/large", large)
          assert.strictEqual((yield* sandbox.fs.readFile("/large")).length, large.length)
          assert.strictEqual((yield* sandbox.exec("echo", ["b"])).stdout, "b")
          yield* stop(sandbox.name)
        }
      })))
  }

  it.live("takes text that means nothing, and what comes twice after its end", () =>
    run(Effect.gen(function*() {
      const { injectAgent, pending } = yield* ControlPlane
      const sandbox = yield* make("patient")
      for (const type of ["range", "core.ready", "core.exec.started", "core.exec.stdout", "core.exec.exited"]) {
        yield* injectAgent(type, "Text")
        assert.strictEqual((yield* sandbox.exec("echo", ["a"])).stdout, "a", type)
      }
      for (const type of ["core.exec.started", "core.exec.exited"]) {
        yield* injectAgent(type, "Twice")
        assert.strictEqual((yield* sandbox.exec("echo", ["a"])).stdout, "a", type)
      }
      assert.strictEqual(yield* pending, 0)
    })))

  it.live("that says nothing more ends with the time that the program has, and can be interrupted", () =>
    run(Effect.gen(function*() {
      const { connections, injectAgent, pending } = yield* ControlPlane
      const sandbox = yield* make("silent")
      yield* injectAgent("core.exec.exited", "Silence")
      const late = yield* Effect.exit(sandbox.exec("echo", ["a"], { timeout: "200 millis" }))
      check(late, "ExecTimeout", "exec")
      for (const operation of [sandbox.exec("echo"), sandbox.fs.readFile("/nothing")]) {
        yield* injectAgent("core.ready", "Silence")
        const before = yield* connections
        const fiber = yield* Effect.forkChild(Effect.exit<unknown, Failure, never>(operation))
        yield* pending.pipe(Effect.delay("5 millis"), Effect.repeat({ until: (count) => count === 0 }))
        yield* Fiber.interrupt(fiber)
        yield* connections.pipe(Effect.delay("5 millis"), Effect.repeat({ until: (count) => count <= before }))
      }
      assert.strictEqual((yield* sandbox.exec("echo", ["b"])).stdout, "b")
    })))

  it.live("that is refused says with what", () =>
    run(Effect.gen(function*() {
      const { inject } = yield* ControlPlane
      const sandbox = yield* make("refused")
      const route = "GET /v1/sandboxes/:id/agent"
      const faults: ReadonlyArray<Fault> = [
        ...[401, 403, 404, 409, 422, 429, 500, 503].map((status) => answer(status, errorBody("any"))),
        { _tag: "Answer", status: 500, echo: true },
        { _tag: "Cut", after: "none" }
      ]
      for (const fault of faults) {
        yield* inject(route, fault)
        const expected = fault._tag === "Answer" ? { _tag: "CloudHttp", status: fault.status } : "AgentClient"
        check(yield* Effect.exit(sandbox.exec("echo")), expected, JSON.stringify(fault))
      }
      assert.strictEqual((yield* sandbox.exec("echo", ["b"])).stdout, "b")
    })))

  it.live("ends with the sandbox, and what is under way is told", () =>
    run(Effect.gen(function*() {
      const { programs, stop } = yield* ControlPlane
      const sandbox = yield* make("stopped")
      const fiber = yield* Effect.forkChild(Effect.exit(sandbox.exec("wait")))
      yield* programs.pipe(Effect.delay("5 millis"), Effect.repeat({ until: (all) => all.length > 0 }))
      yield* stop("stopped")
      check(yield* Fiber.join(fiber), "ExecSessionLost", "wait")
    })))
})

describe("the log of a control plane", () => {
  const route = "GET /v1/sandboxes/:id/logs"
  const follow = Sandbox.logStream("log", { follow: true })
  const start = Effect.asVoid(Sandbox.make({ name: "log", image: "alpine:3.22" }))

  const refused: ReadonlyArray<readonly [fault: Fault, expected: Expected]> = [
    [answer(401), { _tag: "CloudHttp", status: 401 }],
    [answer(404), "SandboxNotFound"],
    [answer(422), "InvalidConfig"],
    [answer(429), { _tag: "CloudHttp", status: 429 }],
    [answer(500), { _tag: "CloudHttp", status: 500 }],
    [{ _tag: "Cut", after: "none" }, "Http"],
    [{ _tag: "Answer", status: 500, echo: true }, { _tag: "CloudHttp", status: 500 }]
  ]

  it.live("that is refused is told as a failure, and not as the end of the log", () =>
    run(Effect.gen(function*() {
      const { inject } = yield* ControlPlane
      yield* start
      for (const [fault, expected] of refused) {
        yield* inject(route, fault)
        check(yield* Effect.exit(Stream.runDrain(follow)), expected, JSON.stringify(fault))
      }
    })))

  it.live("that says what is no event is told as a failure, after what came before", () =>
    run(Effect.gen(function*() {
      const { inject, log } = yield* ControlPlane
      yield* start
      for (const text of ["a", "b", "c"]) yield* log("log", text)
      yield* inject(route, { _tag: "Events", after: 2, how: "garbage" })
      const seen: Array<string> = []
      const exit = yield* Effect.exit(Stream.runForEach(follow, ({ text }) =>
        Effect.sync(() => {
          seen.push(text)
        })))
      check(exit, "Json", "garbage")
      assert.deepStrictEqual(seen, ["a", "b"])
    })))

  it.live("that breaks again and again loses nothing and says nothing twice", () =>
    run(Effect.gen(function*() {
      const { inject, log, pending, stop } = yield* ControlPlane
      yield* start
      const texts = Array.from({ length: 30 }, (_, index) => `line ${index}`)
      for (const text of texts) yield* log("log", text)
      const faults: ReadonlyArray<Fault> = [
        { _tag: "Events", after: 5, how: "cut" },
        { _tag: "Events", after: 0, how: "cut" },
        { _tag: "Events", after: 5, how: "end" },
        answer(503),
        { _tag: "Cut", after: "none" },
        { _tag: "Events", after: 7, how: "cut" },
        { _tag: "Again", events: 9 }
      ]
      for (const fault of faults) yield* inject(route, fault)
      const seen: Array<string> = []
      const fiber = yield* Effect.forkChild(Stream.runForEach(follow, ({ text }) =>
        Effect.sync(() => {
          seen.push(text)
        })))
      yield* pending.pipe(Effect.delay("10 millis"), Effect.repeat({ until: (count) => count === 0 }))
      yield* log("log", "last")
      yield* stop("log")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(seen, [...texts, "last"])
    })))

  it.live("ends at once when nobody follows it any more", () =>
    run(Effect.gen(function*() {
      const { connections, log } = yield* ControlPlane
      yield* start
      yield* log("log", "a")
      const before = yield* connections
      yield* Stream.runDrain(Stream.take(follow, 1))
      // The engine's reader learns of it with the next event.
      yield* log("log", "b")
      yield* connections.pipe(Effect.delay("5 millis"), Effect.repeat({ until: (count) => count <= before }))
    })))
})
