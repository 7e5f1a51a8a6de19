/** Programs in one real sandbox. */
import { Backend, type Exec, type MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { type Cause, Deferred, Effect, Exit, Fiber, Layer, Queue, Scope, Stream } from "effect"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"

const layerSandbox = Layer.unwrap(
  Effect.map(rootDirectory, (image) => Sandbox.layer({ image, env: { GREETING: "hello" } }))
).pipe(Layer.provideMerge(layerBackend))

/** The processes of the guest whose command line has a word. */
const guestProcesses = Effect.fn("guestProcesses")(function*(word: string) {
  const sandbox = yield* Sandbox.Sandbox
  const { stdout } = yield* sandbox.exec("ps", ["-o", "args"])
  return stdout.split("\n").filter((line) => line.split(" ").includes(word))
})

layer(layerSandbox, { timeout: "10 minutes", excludeTestServices: true })("a program in a sandbox", (it) => {
  it.effect("runs on the guest's own kernel", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const { stdout } = yield* sandbox.exec("uname", ["-sr"])
      assert.match(stdout, /^Linux 6\.12\.\d+\n$/)
      assert.strictEqual(yield* sandbox.status, "Running")
      // Its agent moves each program into a cgroup, and with this the kernel does not wait for a grace period of RCU there.
      assert.strictEqual(yield* sandbox.fs.readFileString("/sys/kernel/rcu_expedited"), "1\n")
    }))

  it.effect("answers with its exit code and both of its outputs, whatever the code", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      for (const exitCode of [0, 7, 255]) {
        const output = yield* sandbox.shell(`echo out; echo err >&2; exit ${exitCode}`)
        assert.deepStrictEqual(
          [output.exitCode, output.success, output.stdout, output.stderr],
          [exitCode, exitCode === 0, "out\n", "err\n"]
        )
      }
    }))

  it.effect("takes its arguments, directory, user and variables as they are", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const args = ["", " a  b ", "'\"$HOME`\\", "ü\n"]
      const echoed = yield* sandbox.exec("sh", ["-c", "for a in \"$@\"; do printf '<%s>' \"$a\"; done", "sh", ...args])
      assert.strictEqual(echoed.stdout, args.map((arg) => `<${arg}>`).join(""))
      const { stdout } = yield* sandbox.shell("pwd; id -u; echo $GREETING $NAME", {
        cwd: "/etc",
        user: "nobody",
        env: { NAME: "world" }
      })
      assert.strictEqual(stdout, "/etc\n65534\nhello world\n")
    }))

  it.effect("reads its standard input, of any size, and gives its bytes back unchanged", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      for (const size of [0, 1, 65_537, 5 * 1024 * 1024]) {
        const stdin = new Uint8Array(size).map((_, index) => (index * 31) % 251)
        const output = yield* sandbox.exec("cat", [], { stdin })
        assert.strictEqual(output.stdoutBytes.length, size)
        assert.isTrue(Buffer.from(stdin).equals(output.stdoutBytes))
      }
      assert.strictEqual((yield* sandbox.exec("head", ["-c", "3"], { stdin: "a long input" })).stdout, "a l")
    }))

  it.effect("fails with a reason when it cannot be started", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const kinds = yield* Effect.forEach(
        [
          sandbox.exec("no-such-program"),
          sandbox.exec("/etc/passwd"),
          sandbox.exec("true", [], { cwd: "/no/such/directory" })
        ],
        (program) =>
          Effect.map(Effect.flip(program), ({ reason }) => reason._tag === "ExecFailed" ? reason.kind : reason._tag)
      )
      // The agent of runtime 0.7.2 does not tell a missing directory from a missing program.
      assert.deepStrictEqual(kinds, ["NotFound", "PermissionDenied", "NotFound"])
      const spawned = yield* Effect.flip(Effect.scoped(sandbox.spawn("no-such-program")))
      assert.strictEqual(spawned.reason._tag, "ExecFailed")
    }))

  it.effect("streams its output while it runs", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      // It goes on only when we answer, and we answer only to what it has printed.
      const program = yield* sandbox.spawn("sh", ["-c", "echo first; read line; echo got $line; exit 3"], {
        stdin: "pipe"
      })
      assert.isAbove(program.pid, 0)
      const seen: Array<string> = []
      yield* program.stdout.pipe(
        Stream.decodeText,
        Stream.splitLines,
        Stream.runForEach((line) => {
          seen.push(line)
          return line === "first" ? Stream.run(Stream.make("answer\n"), program.stdin) : Effect.void
        })
      )
      assert.deepStrictEqual(seen, ["first", "got answer"])
      assert.deepStrictEqual(yield* program.exitStatus, { exitCode: 3, success: false, signaled: false })
    }))

  it.effect("keeps its two outputs apart, and in order", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const program = yield* sandbox.spawn("sh", ["-c", "seq 1 2000; seq 2001 4000 >&2; seq 4001 6000"])
      const numbers = (stream: typeof program.stdout) =>
        stream.pipe(Stream.decodeText, Stream.splitLines, Stream.map(Number), Stream.runCollect)
      const [stdout, stderr] = yield* Effect.all([numbers(program.stdout), numbers(program.stderr)], { concurrency: 2 })
      const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index)
      assert.deepStrictEqual(stdout, [...range(1, 2000), ...range(4001, 6000)])
      assert.deepStrictEqual(stderr, range(2001, 4000))
    }))

  it.effect("tells both of its outputs, and all that happens, in order", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const script = "echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three; exit 4"
      const decoder = new TextDecoder()
      const both = yield* sandbox.spawn("sh", ["-c", script])
      assert.strictEqual(yield* Stream.mkString(Stream.decodeText(both.all)), "one\ntwo\nthree\n")
      const program = yield* sandbox.spawn("sh", ["-c", script])
      const events = yield* Stream.runCollect(program.events)
      assert.deepStrictEqual(
        events.map((event) => "data" in event ? [event._tag, decoder.decode(event.data)] : event),
        [
          { _tag: "Started", pid: program.pid },
          ["Stdout", "one\n"],
          ["Stderr", "two\n"],
          ["Stdout", "three\n"],
          { _tag: "Exited", code: 4, signaled: false }
        ]
      )
    }))

  it.effect("loses nothing to a reader that is interrupted just as output comes", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const program = yield* sandbox.spawn("cat", [], { stdin: "pipe" })
      const lines = Array.from({ length: 40 }, (_, index) => `line ${index}\n`)
      const input = yield* Queue.make<string, Cause.Done>()
      yield* Effect.forkChild(Stream.run(Stream.fromQueue(input), program.stdin))
      let seen = ""
      const decoder = new TextDecoder()
      for (const [index, line] of lines.entries()) {
        const reader = yield* Effect.forkChild(Stream.runHead(program.stdout))
        yield* Queue.offer(input, line)
        // Before it comes, about when it comes, and after.
        yield* Effect.sleep((index % 5) * 10)
        yield* Fiber.interrupt(reader)
        const exit = yield* Fiber.await(reader)
        if (Exit.isSuccess(exit) && exit.value._tag === "Some") seen += decoder.decode(exit.value.value)
      }
      yield* Queue.end(input)
      seen += yield* Stream.mkString(Stream.decodeText(program.stdout))
      assert.strictEqual(seen, lines.join(""))
      assert.deepStrictEqual(yield* program.exitStatus, { exitCode: 0, success: true, signaled: false })
    }))

  it.effect("is told apart from a connection that was lost", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const scope = yield* Scope.make()
      const program = yield* sandbox.spawn("sleep", ["1000"]).pipe(Scope.provide(scope))
      yield* Scope.close(scope, Exit.void)
      for (
        const use of [program.exitStatus, Stream.runDrain(program.stdout), program.signal(15), program.resize(1, 1)]
      ) {
        assert.strictEqual((yield* Effect.flip(use)).reason._tag, "HandleClosed")
      }
    }))

  it.effect("can be signalled and killed", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const trapped = yield* sandbox.spawn("sh", [
        "-c",
        "trap 'echo term; exit 5' TERM; echo on; while :; do sleep 0.1; done"
      ])
      yield* Stream.runHead(trapped.stdout)
      yield* trapped.signal(15)
      assert.deepStrictEqual(yield* trapped.exitStatus, { exitCode: 5, success: false, signaled: false })
      const stubborn = yield* sandbox.spawn("sh", ["-c", "trap '' TERM; echo on; sleep 4321"])
      yield* Stream.runHead(stubborn.stdout)
      yield* stubborn.kill
      assert.deepStrictEqual(yield* stubborn.exitStatus, { exitCode: -1, success: false, signaled: true })
      assert.deepStrictEqual(yield* guestProcesses("4321"), [])
    }))

  it.effect("gets a terminal of the size that it is told", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const program = yield* sandbox.spawn("sh", ["-c", "read line; stty size"], { tty: true, stdin: "pipe" })
      yield* program.resize(40, 132)
      yield* Stream.run(Stream.make("\n"), program.stdin)
      assert.include(yield* Stream.mkString(Stream.decodeText(program.stdout)), "40 132")
    }))

  it.effect("is killed when it takes longer than it may", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const error = yield* Effect.flip(sandbox.exec("sleep", ["5432"], { timeout: "500 millis" }))
      assert.strictEqual(error.reason._tag, "ExecTimeout")
      assert.deepStrictEqual(yield* guestProcesses("5432"), [])
    }))

  it.effect("is gone, with its group, when the fiber that runs it is interrupted", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const fiber = yield* Effect.forkChild(sandbox.shell("sleep 6543 & sleep 6543"))
      yield* guestProcesses("6543").pipe(Effect.repeat({ until: (found) => found.length === 2 }))
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* guestProcesses("6543"), [])
    }))

  it.effect("is gone when the scope of its handle closes, also in the middle of a read", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const reading = yield* Deferred.make<void>()
      const fiber = yield* Effect.forkChild(Effect.scoped(Effect.gen(function*() {
        const program = yield* sandbox.spawn("sh", ["-c", "echo on; exec sleep 7654"])
        yield* Stream.runForEach(program.stdout, () => Deferred.succeed(reading, undefined))
      })))
      yield* Deferred.await(reading)
      assert.lengthOf(yield* guestProcesses("7654"), 1)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* guestProcesses("7654"), [])
    }))

  it.effect("refuses mistakes before it starts anything, and names the field", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const mistakes = [
        [sandbox.exec(""), "command"],
        [sandbox.exec("a\0b"), "command"],
        [sandbox.exec("true", ["a", "b\0"]), "args.1"],
        [sandbox.exec("true", [], { timeout: -1 }), "timeout"],
        [sandbox.exec("true", [], { env: { "A=B": "c" } }), "env.A=B"],
        [Effect.flatMap(sandbox.spawn("true"), (program) => program.signal(0)), "signal"],
        [Effect.flatMap(sandbox.spawn("true"), (program) => program.signal(NaN)), "signal"],
        [Effect.flatMap(sandbox.spawn("true"), (program) => program.resize(70_000, 1)), "rows"],
        [Effect.flatMap(sandbox.spawn("true"), (program) => program.resize(1, 0)), "columns"]
      ] as const
      for (const [program, field] of mistakes) {
        const { reason } = yield* Effect.flip(
          Effect.scoped<void | Exec.ExecOutput, MicrosandboxError.MicrosandboxError, Scope.Scope>(program)
        )
        assert.deepStrictEqual([reason._tag, reason._tag === "InvalidConfig" ? reason.field : undefined], [
          "InvalidConfig",
          field
        ])
      }
    }))

  it.effect("runs beside others, each with its own answer", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const codes = Array.from({ length: 8 }, (_, index) => index)
      const outputs = yield* Effect.forEach(codes, (code) => sandbox.shell(`echo ${code}; exit ${code}`), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(
        outputs.map(({ exitCode, stdout }) => [exitCode, stdout]),
        codes.map((code) => [
          code,
          `${code}\n`
        ])
      )
    }))

  it.effect("leaves no handle in the engine, however it ended", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const { native } = yield* Backend.Backend
      const before = yield* native.live
      yield* Effect.scoped(sandbox.spawn("true"))
      yield* Effect.scoped(Effect.flatMap(sandbox.spawn("sleep", ["1000"]), (program) => program.kill))
      yield* Effect.ignore(Effect.scoped(sandbox.spawn("no-such-program")))
      for (const delay of [0, 5, 20, 80, 320]) {
        const fiber = yield* Effect.forkChild(
          Effect.scoped(Effect.andThen(sandbox.spawn("sleep", ["8765"]), Effect.never))
        )
        yield* Effect.sleep(delay)
        yield* Fiber.interrupt(fiber)
      }
      assert.deepStrictEqual(yield* native.live, before)
      assert.deepStrictEqual(yield* guestProcesses("8765"), [])
    }))
})
