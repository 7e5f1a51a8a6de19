/**
 * A model of one sandbox name and of the handles on it, and the commands that change them: after each, what the engine
 * answered and what it shows must be what the model says.
 */
import { Backend, type MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import { assert } from "@effect/vitest"
import { Effect, Exit, Fiber, Random, Result, Schema, Scope } from "effect"
import { isFree, rootDirectory, vmProcesses } from "./Sandboxes.ts"

export const Command = Schema.Literals([
  "make",
  "start",
  "stop",
  "stop twice at once",
  "stop by name and kill at once",
  "stop while it starts",
  "kill",
  "pause",
  "resume",
  "status",
  "exec",
  "detach",
  "remove",
  "close the scope",
  "use after close"
])
export type Command = typeof Command.Type

type State = "running" | "paused" | "stopped"

/** The states in which a sandbox stays. */
const states: { readonly [status in Sandbox.Status]?: State } = {
  Running: "running",
  Paused: "paused",
  Stopped: "stopped",
  Crashed: "stopped"
}

/** A handle, and the scope that it belongs to. */
interface Held {
  readonly sandbox: Sandbox.Sandbox
  readonly scope: Scope.Closeable
  onClose: Sandbox.OnClose
}

const name = "modelled"

type Call<A> = Effect.Effect<A, MicrosandboxError.MicrosandboxError, Backend.Backend | Backend.Local>

/** What came of a call: a value, or a reason's tag. */
const answer = <A, R>(call: Effect.Effect<A, MicrosandboxError.MicrosandboxError, R>) =>
  Effect.match(call, { onSuccess: (value): unknown => value, onFailure: (error) => error.reason._tag })

/** Runs commands one after the other on a name that is free before and after. */
export const walk = Effect.fn("walk")(function*(commands: ReadonlyArray<Command>) {
  const image = yield* rootDirectory
  const { native } = yield* Backend.Backend
  const idle = yield* native.live

  /** What the name means: nothing, or a sandbox of this identity in this state. */
  let box: { readonly id: string; readonly state: State } | undefined
  /** The handles whose scopes are open, the last one the newest; and the last one whose scope has closed. */
  const held: Array<Held> = []
  let closed: Held | undefined

  const expect = (actual: unknown, expected: unknown, what: string) =>
    assert.deepStrictEqual(actual, expected, `${what}, after ${history.join(", ")}`)
  const history: Array<string> = []

  /** How the newest handle stands to what its name means now. */
  const relation = ({ sandbox }: Held) => box === undefined ? "removed" : box.id !== sandbox.id ? "replaced" : box.state

  const become = (state: State) => {
    if (box !== undefined) box = { ...box, state }
  }

  const hold = Effect.fnUntraced(function*(
    onClose: Sandbox.OnClose,
    make: Effect.Effect<
      Sandbox.Sandbox,
      MicrosandboxError.MicrosandboxError,
      Backend.Backend | Backend.Local | Scope.Scope
    >
  ) {
    const scope = yield* Scope.make()
    const made = yield* Effect.result(Scope.provide(make, scope))
    if (Result.isFailure(made)) {
      yield* Scope.close(scope, Exit.void)
      return made.failure.reason._tag
    }
    held.push({ sandbox: made.success, scope, onClose })
    box = { id: made.success.id, state: "running" }
    return "up"
  })

  /** What ends the newest handle's sandbox by that handle answers so. */
  const endings = {
    running: undefined,
    paused: undefined,
    stopped: undefined,
    removed: undefined,
    replaced: "SandboxReplaced"
  } as const
  const endBy = Effect.fnUntraced(function*(what: string, calls: (newest: Held) => ReadonlyArray<Call<void>>) {
    const newest = held.at(-1)
    if (newest === undefined) return
    const stands = relation(newest)
    const answers = yield* Effect.forEach(calls(newest), answer, { concurrency: "unbounded" })
    expect(answers, answers.map(() => endings[stands]), what)
    if (stands === "running" || stands === "paused") become("stopped")
  })

  /** Pauses the newest handle's sandbox, or resumes it. */
  const turn = Effect.fnUntraced(function*(what: string, state: State, call: (sandbox: Sandbox.Sandbox) => Call<void>) {
    const newest = held.at(-1)
    if (newest === undefined) return
    const expected = {
      running: undefined,
      paused: undefined,
      stopped: "SandboxNotRunning",
      removed: "SandboxNotFound",
      replaced: "SandboxReplaced"
    }[relation(newest)]
    expect(yield* answer(call(newest.sandbox)), expected, what)
    if (expected === undefined) become(state)
  })

  const run: Record<Command, Effect.Effect<void, never, Backend.Backend | Backend.Local>> = {
    make: Effect.gen(function*() {
      const expected = box === undefined ? "up" : "SandboxAlreadyExists"
      expect(yield* hold("destroy", Sandbox.make({ name, image })), expected, "make")
    }),
    start: Effect.gen(function*() {
      const expected = box === undefined ? "SandboxNotFound" : box.state !== "stopped" ? "SandboxStillRunning" : "up"
      expect(yield* hold("stop", Sandbox.start(name)), expected, "start")
    }),
    stop: endBy("stop", ({ sandbox }) => [sandbox.stop()]),
    "stop twice at once": endBy("stop twice", ({ sandbox }) => [sandbox.stop(), sandbox.stop()]),
    "stop by name and kill at once": Effect.gen(function*() {
      const expected = box === undefined ? "SandboxNotFound" : undefined
      const calls: ReadonlyArray<Call<void>> = [Sandbox.stop(name), Sandbox.kill(name)]
      expect(yield* Effect.forEach(calls, answer, { concurrency: "unbounded" }), [expected, expected], "stop by name")
      become("stopped")
    }),
    "stop while it starts": Effect.gen(function*() {
      if (box?.state !== "stopped") return
      const starting = yield* Effect.forkChild(hold("stop", Sandbox.start(name)))
      yield* Effect.sleep(yield* Random.nextIntBetween(0, 3000))
      const stop = yield* answer(Sandbox.stop(name))
      const start = yield* Fiber.join(starting)
      history.push(`(${String(start)}, ${String(stop)})`)
      // Whichever came first, what is left is one of the two, and it is what the next commands find.
      const info = yield* Effect.orDie(Sandbox.get(name))
      assert.isDefined(states[info.status], info.status)
      box = { id: info.id, state: states[info.status] ?? "stopped" }
    }),
    kill: endBy("kill", ({ sandbox }) => [sandbox.kill]),
    pause: turn("pause", "paused", (sandbox) => sandbox.pause()),
    resume: turn("resume", "running", (sandbox) => sandbox.resume),
    status: Effect.gen(function*() {
      const newest = held.at(-1)
      if (newest === undefined) return
      const status = yield* answer(newest.sandbox.status)
      const expected = {
        running: ["Running"],
        paused: ["Paused"],
        stopped: ["Stopped", "Crashed"],
        removed: ["SandboxNotFound"],
        replaced: ["SandboxReplaced"]
      }[relation(newest)]
      assert.include(expected, String(status), `status, after ${history.join(", ")}`)
    }),
    exec: Effect.gen(function*() {
      const newest = held.at(-1)
      if (newest === undefined) return
      const expected = {
        running: `${name}\n`,
        paused: "SandboxPaused",
        stopped: "SandboxNotRunning",
        removed: "SandboxNotFound",
        replaced: "SandboxReplaced"
      }[relation(newest)]
      expect(yield* answer(Effect.map(newest.sandbox.exec("hostname"), ({ stdout }) => stdout)), expected, "exec")
    }),
    detach: Effect.gen(function*() {
      const newest = held.at(-1)
      if (newest === undefined) return
      expect(yield* answer(newest.sandbox.detach), undefined, "detach")
      newest.onClose = "detach"
    }),
    remove: Effect.gen(function*() {
      const expected = box === undefined
        ? "SandboxNotFound"
        : box.state !== "stopped"
        ? "SandboxStillRunning"
        : undefined
      expect(yield* answer(Sandbox.remove(name)), expected, "remove")
      if (box?.state === "stopped") box = undefined
    }),
    "close the scope": Effect.gen(function*() {
      const newest = held.pop()
      if (newest === undefined) return
      const stands = relation(newest)
      yield* Scope.close(newest.scope, Exit.void)
      closed = newest
      if (newest.onClose === "detach" || stands === "removed" || stands === "replaced") return
      if (newest.onClose === "destroy") box = undefined
      else become("stopped")
    }),
    "use after close": Effect.gen(function*() {
      if (closed === undefined) return
      const { sandbox } = closed
      const calls: ReadonlyArray<Call<unknown>> = [
        sandbox.exec("true"),
        sandbox.status,
        sandbox.stop(),
        sandbox.kill,
        sandbox.detach
      ]
      expect(yield* Effect.forEach(calls, answer), calls.map(() => "HandleClosed"), "use after close")
    })
  }

  const look = Effect.gen(function*() {
    const shown = yield* answer(Effect.map(Sandbox.get(name), ({ id, status }) => ({ id, state: states[status] })))
    expect(shown, box ?? "SandboxNotFound", "get")
    expect((yield* vmProcesses(name)).length, box === undefined || box.state === "stopped" ? 0 : 1, "VMs")
  })

  yield* Effect.gen(function*() {
    for (const command of ["make", ...commands] as const) {
      history.push(command)
      yield* run[command]
      yield* look
    }
  }).pipe(Effect.ensuring(Effect.gen(function*() {
    while (held.length > 0) yield* run["close the scope"]
    yield* Effect.ignore(Sandbox.kill(name))
    yield* Effect.ignore(Sandbox.remove(name))
  })))
  assert.isTrue(yield* isFree(name))
  assert.deepStrictEqual(yield* native.live, idle)
})
