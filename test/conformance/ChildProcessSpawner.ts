/**
 * What `ChildProcessSpawner` promises, as cases that hold for whoever implements it: the machine's own programs by Node,
 * and the programs of a guest by this SDK. The cases use what busybox and POSIX have, and make their files by programs.
 */
import { assert, layer as layerOf } from "@effect/vitest"
import {
  Array,
  Cause,
  Deferred,
  Effect,
  Exit,
  Fiber,
  type Layer,
  PlatformError,
  Redacted,
  Scope,
  Sink,
  Stream
} from "effect"
import { ChildProcess, CommandLine } from "effect/process"
import { type ChildProcessHandle, ChildProcessSpawner, ExitCode } from "effect/process/ChildProcessSpawner"
import { inspect } from "node:util"

/** What an implementation cannot do. Each is told as a typed error, and a case holds that. */
export interface Limits {
  /** Descriptors that are written and read: a socket on a host. */
  readonly duplex: boolean
}

const encoder = new TextEncoder()
const decoder = new TextDecoder()

const bytes = (text: string) => encoder.encode(text)
const text = (chunks: ReadonlyArray<Uint8Array>) => decoder.decode(Buffer.concat(chunks))

const sh = (script: string, options?: ChildProcess.CommandOptions) => ChildProcess.make("sh", ["-c", script], options)

/** A script with arguments. */
const shWith = (script: string, args: ReadonlyArray<CommandLine.Word>, options?: ChildProcess.CommandOptions) =>
  ChildProcess.make("sh", ["-c", script, "sh", ...args], options)

const spawner = ChildProcessSpawner
const string = (command: ChildProcess.Command) => spawner.use((_) => _.string(command))
const lines = (command: ChildProcess.Command) => spawner.use((_) => _.lines(command))
const exitCode = (command: ChildProcess.Command) => spawner.use((_) => _.exitCode(command))

const collect = <E, R>(stream: Stream.Stream<Uint8Array, E, R>) => Effect.map(Stream.runCollect(stream), text)

/** The reason of a failure that must be a PlatformError, and nothing else. */
const reasonOf = <A, R>(effect: Effect.Effect<A, PlatformError.PlatformError, R>) =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.instanceOf(error, PlatformError.PlatformError)
    return error.reason
  })

/** Whether a process runs; one that has ended and was not waited for does not. */
const isAlive = (pid: number) =>
  Effect.map(
    string(shWith("grep '^State:' /proc/$1/status 2>/dev/null | grep -v Z || true", [String(pid)])),
    (state) => state !== ""
  )

/** Waits until a process is gone; a test that waits in vain fails by its time. */
const untilGone = (pid: number): Effect.Effect<void, PlatformError.PlatformError, ChildProcessSpawner> =>
  Effect.flatMap(
    isAlive(pid),
    (alive) => alive ? Effect.andThen(Effect.sleep("20 millis"), untilGone(pid)) : Effect.void
  )

const temporaryDirectory = Effect.acquireRelease(
  Effect.map(string(ChildProcess.make("mktemp", ["-d"])), (path) => path.trim()),
  (path) => Effect.ignore(exitCode(ChildProcess.make("rm", ["-rf", path])))
)

/** The first line that a program prints, with the rest of its output still to come. */
const firstLine = (handle: ChildProcessHandle) =>
  handle.stdout.pipe(
    Stream.decodeText,
    Stream.splitLines,
    Stream.runHead,
    Effect.map((line) => line._tag === "Some" ? line.value : "")
  )

const broken = PlatformError.systemError({
  _tag: "InvalidData",
  module: "Test",
  method: "read",
  description: "the source broke"
})

const secret = "hunter2-of-the-test"

/** Everything that somebody could print of an error. */
const printed = (error: unknown): string =>
  [String(error), JSON.stringify(error), inspect(error, { depth: 12, showHidden: true })].join("\n")

const kibi = 1024

export const suite = <E>(
  name: string,
  layer: Layer.Layer<ChildProcessSpawner, E>,
  { duplex }: Limits
): void =>
  layerOf(layer, { timeout: "10 minutes", excludeTestServices: true })(name, (it) => {
    // Starting

    it.effect("gives a program its arguments as they are", () =>
      Effect.gen(function*() {
        const args = ["", " a  b ", "'\"$HOME`\\", "*", "~", "ü\n😀", "-n", "a=b", "#x", ";", "&&"]
        const echoed = yield* string(shWith("for a in \"$@\"; do printf '<%s>' \"$a\"; done", args))
        assert.strictEqual(echoed, args.map((arg) => `<${arg}>`).join(""))
      }))

    it.effect("is what a command does by itself", () =>
      Effect.gen(function*() {
        const handle = yield* sh("echo out; exit 4")
        assert.strictEqual(yield* collect(handle.stdout), "out\n")
        assert.strictEqual(yield* handle.exitCode, ExitCode(4))
      }))

    it.effect("takes the words of a template", () =>
      Effect.gen(function*() {
        const word = "two  words; and 'more'"
        const more = ["x y", "$z"]
        assert.strictEqual(
          yield* string(ChildProcess.make`printf ${"<%s>"} a 'b c' "d e" ${word} ${more} ${5}${true}`),
          ["a", "b c", "d e", word, ...more, "5true"].map((arg) => `<${arg}>`).join("")
        )
        assert.strictEqual(yield* string(ChildProcess.make({ cwd: "/" })`pwd`), "/\n")
      }))

    it.effect("refuses the syntax of a shell in a template", () =>
      Effect.gen(function*() {
        yield* Effect.void
        assert.throws(() => ChildProcess.make`echo a | cat`, CommandLine.CommandLineError)
      }))

    it.effect("numbers its programs, each by the id that it has itself", () =>
      Effect.gen(function*() {
        const handles = yield* Effect.all([sh("echo $$"), sh("echo $$")])
        const own = yield* Effect.forEach(handles, (handle) => collect(handle.stdout))
        assert.deepStrictEqual(own.map(Number), handles.map(({ pid }) => pid))
        assert.notStrictEqual(handles[0].pid, handles[1].pid)
      }))

    it.effect("runs many programs at once, each with its own output", () =>
      Effect.gen(function*() {
        const numbers = Array.range(1, 12)
        const outputs = yield* Effect.forEach(
          numbers,
          (number) =>
            string(shWith("read -r line; echo $1 $line", [String(number)], { stdin: Stream.make(bytes("in\n")) })),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(outputs, numbers.map((number) => `${number} in\n`))
      }))

    it.effect("says that it runs until it has ended", () =>
      Effect.gen(function*() {
        const handle = yield* ChildProcess.make("cat", [])
        assert.isTrue(yield* handle.isRunning)
        yield* Stream.run(Stream.empty, handle.stdin)
        yield* handle.exitCode
        assert.isFalse(yield* handle.isRunning)
      }))

    // Not starting

    const unstartable: ReadonlyArray<
      readonly [
        string,
        ChildProcess.Command,
        { readonly tag: string; readonly method: string; readonly module: string }
      ]
    > = [
      [
        "a program that is not there",
        ChildProcess.make("no-such-program", ["a b"]),
        { tag: "NotFound", method: "spawn", module: "ChildProcess" }
      ],
      [
        "a path that is not there",
        ChildProcess.make("/no/such/program", []),
        { tag: "NotFound", method: "spawn", module: "ChildProcess" }
      ],
      [
        "a file that may not be run",
        ChildProcess.make("/etc/passwd", []),
        { tag: "PermissionDenied", method: "spawn", module: "ChildProcess" }
      ],
      [
        "a directory",
        ChildProcess.make("/etc", []),
        { tag: "PermissionDenied", method: "spawn", module: "ChildProcess" }
      ],
      [
        "a shell that is not there",
        ChildProcess.make("echo", { shell: "/no/such/shell" }),
        { tag: "NotFound", method: "spawn", module: "ChildProcess" }
      ],
      [
        "a program that is not there, with variables of its own",
        ChildProcess.make("no-such-program", [], { env: { PATH: "/bin:/usr/bin" } }),
        { tag: "NotFound", method: "spawn", module: "ChildProcess" }
      ],
      [
        "a program that is not in the PATH it is given",
        ChildProcess.make("sh", ["-c", "exit"], { env: { PATH: "/etc" } }),
        { tag: "NotFound", method: "spawn", module: "ChildProcess" }
      ],
      [
        "a directory of work that is not there",
        ChildProcess.make("pwd", { cwd: "/no/such/directory" }),
        { tag: "NotFound", method: "access", module: "FileSystem" }
      ],
      [
        "arguments for a shell",
        ChildProcess.make("echo", ["a"], { shell: true }),
        { tag: "BadArgument", method: "spawn", module: "ChildProcess" }
      ],
      [
        "a NUL in the command",
        ChildProcess.make("ec\0ho", []),
        { tag: "BadArgument", method: "spawn", module: "ChildProcess" }
      ],
      [
        "a NUL in an argument",
        ChildProcess.make("echo", ["a", Redacted.make(`${secret}\0`)]),
        { tag: "BadArgument", method: "spawn", module: "ChildProcess" }
      ],
      [
        "a NUL in a variable",
        ChildProcess.make("echo", [], { env: { A: Redacted.make(`${secret}\0`) } }),
        { tag: "BadArgument", method: "spawn", module: "ChildProcess" }
      ]
    ]

    it.effect.each(unstartable)("does not start %s, and says why", ([, command, expected]) =>
      Effect.gen(function*() {
        const { reason } = yield* Effect.flip(command)
        assert.deepStrictEqual({ tag: reason._tag, method: reason.method, module: reason.module }, expected)
        // The derived helpers fail in the same way.
        for (
          const helper of [
            Effect.asVoid(string(command)),
            Effect.asVoid(lines(command)),
            Effect.asVoid(exitCode(command))
          ]
        ) {
          assert.strictEqual((yield* reasonOf(helper))._tag, expected.tag)
        }
      }))

    it.effect("does not start what its system refuses, be it as an error or as a defect", () =>
      Effect.gen(function*() {
        // Node throws an ENOTDIR, which its spawner does not catch.
        const refused = [ChildProcess.make("/etc/passwd/program", []), ChildProcess.make("pwd", { cwd: "/etc/passwd" })]
        for (const command of refused) {
          const exit = yield* Effect.exit(Effect.scoped(command))
          assert(Exit.isFailure(exit))
          const error = Cause.squash(exit.cause)
          if (PlatformError.isPlatformError(error)) assert.strictEqual(error.reason._tag, "BadResource")
          else assert.propertyVal(error, "code", "ENOTDIR")
        }
      }))

    it.effect("names the command in its error, as a line of a shell", () =>
      Effect.gen(function*() {
        const reason = yield* reasonOf(ChildProcess.make("no-such-program", ["a b", "c"]))
        assert(reason._tag !== "BadArgument")
        assert.strictEqual(reason.pathOrDescriptor, "no-such-program 'a b' c")
      }))

    // Secrets

    it.effect("gives a secret argument and a secret variable to the program", () =>
      Effect.gen(function*() {
        const told = yield* string(
          shWith("printf '%s %s' \"$1\" \"$TOKEN\"", [Redacted.make(secret)], {
            env: { TOKEN: Redacted.make(`${secret}!`) },
            extendEnv: true
          })
        )
        assert.strictEqual(told, `${secret} ${secret}!`)
      }))

    it.effect("shows a secret in no error", () =>
      Effect.gen(function*() {
        const args = [Redacted.make(secret)]
        const env = { TOKEN: Redacted.make(secret) }
        const errors = [
          yield* Effect.flip(ChildProcess.make("no-such-program", args, { env, extendEnv: true })),
          yield* Effect.flip(ChildProcess.make("no-such-program", args, { env })),
          yield* Effect.flip(exitCode(shWith("kill -9 $$", args, { env, extendEnv: true }))),
          yield* Effect.flip(ChildProcess.make("true", [...args, "\0"], { env })),
          yield* Effect.flip(ChildProcess.make("true", args, { env: { TOKEN: Redacted.make(`${secret}\0`) } }))
        ]
        for (const error of errors) assert.notInclude(printed(error), secret)
        assert.include(errors[0]!.message, "<redacted>")
      }))

    // Directory and variables

    it.effect("works where it is told to", () =>
      Effect.gen(function*() {
        assert.strictEqual(yield* string(ChildProcess.make("pwd", { cwd: "/etc" })), "/etc\n")
        const here = yield* string(ChildProcess.make("pwd", []))
        assert.strictEqual(yield* string(ChildProcess.make("pwd", { cwd: "." })), here)
      }))

    it.effect("finds a program by a path from where it works", () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        yield* exitCode(
          shWith("printf '#!/bin/sh\\necho from the script\\n' > \"$1/run\"; chmod +x \"$1/run\"", [directory])
        )
        assert.strictEqual(yield* string(ChildProcess.make("./run", { cwd: directory })), "from the script\n")
        assert.strictEqual(
          yield* string(ChildProcess.make("./run", { cwd: directory, env: { PATH: "/bin:/usr/bin" } })),
          "from the script\n"
        )
      }))

    it.effect("runs a script without a first line for its interpreter by the shell", () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        yield* exitCode(shWith("echo 'echo by the shell: $1' > \"$1/run\"; chmod +x \"$1/run\"", [directory]))
        assert.strictEqual(yield* string(ChildProcess.make(`${directory}/run`, ["a b"])), "by the shell: a b\n")
      }))

    it.effect("inherits its variables when none are given", () =>
      Effect.gen(function*() {
        const inherited = yield* lines(ChildProcess.make("env", []))
        assert.isTrue(inherited.some((line) => line.startsWith("PATH=")))
        assert.deepStrictEqual(yield* lines(ChildProcess.make("env", [], { extendEnv: false })), inherited)
      }))

    it.effect("has the variables that are given, and no other", () =>
      Effect.gen(function*() {
        const env = { PATH: "/bin:/usr/bin", A: "", B: "a b=c", C: "ü\n😀'\"$\\", DROPPED: undefined }
        const printed = yield* string(ChildProcess.make("env", [], { env }))
        assert.deepStrictEqual(
          printed.split(/\n(?=[A-Z]+=)/).map((line) => line.replace(/\n$/, "")).sort(),
          ["A=", "B=a b=c", "C=ü\n😀'\"$\\", "PATH=/bin:/usr/bin"]
        )
      }))

    it.effect("has no variables when none are in what is given", () =>
      Effect.gen(function*() {
        assert.strictEqual(yield* string(ChildProcess.make("env", [], { env: {} })), "")
        assert.strictEqual(yield* string(ChildProcess.make("env", [], { env: { PATH: undefined } })), "")
      }))

    it.effect("adds variables to the inherited ones, changes and drops them", () =>
      Effect.gen(function*() {
        const inherited = yield* lines(ChildProcess.make("env", []))
        const path = inherited.find((line) => line.startsWith("PATH="))!
        const without = inherited.filter((line) => !/^(?:HOME|ADDED)=/.test(line))
        const env = (env: Record<string, string | undefined>) =>
          lines(ChildProcess.make("env", [], { env, extendEnv: true }))
        assert.sameMembers(yield* env({ HOME: undefined, ADDED: "1" }), [...without, "ADDED=1"])
        assert.sameMembers(yield* env({ HOME: "/h", ADDED: "1" }), [...without, "HOME=/h", "ADDED=1"])
        assert.include(yield* env({}), path)
      }))

    // A shell

    it.effect("runs a script in a shell, whichever it is told", () =>
      Effect.gen(function*() {
        for (const shell of [true, "/bin/sh"]) {
          const script = "printf '%s' \"$((40 + 2))\" | tr 4 5; A=1; exit $((A + 5))"
          const handle = yield* ChildProcess.make(script, { shell })
          assert.strictEqual(yield* collect(handle.stdout), "52")
          assert.strictEqual(yield* handle.exitCode, ExitCode(6))
        }
        assert.strictEqual(yield* string(ChildProcess.make({ shell: true })`echo "$A" | cat`), "\n")
        assert.strictEqual(
          yield* string(ChildProcess.make("echo \"$A\"", { shell: true, env: { A: "b  c" } })),
          "b  c\n"
        )
      }))

    // Standard input

    it.effect("reads a stream, of any size, up to its end", () =>
      Effect.gen(function*() {
        for (const size of [0, 1, 64 * kibi + 1, kibi * kibi]) {
          const data = new Uint8Array(size).map((_, index) => (index * 31) % 251)
          const parts = Array.makeBy(
            Math.ceil(size / 100_000),
            (index) => data.slice(index * 100_000, (index + 1) * 100_000)
          )
          const handle = yield* ChildProcess.make("cat", { stdin: Stream.fromIterable(parts) })
          const echoed = Buffer.concat(yield* Stream.runCollect(handle.stdout))
          assert.isTrue(echoed.equals(data), `${size} bytes`)
          assert.strictEqual(yield* handle.exitCode, ExitCode(0))
        }
      }))

    it.effect("reads what its sink is given, up to its end", () =>
      Effect.gen(function*() {
        const handle = yield* ChildProcess.make("cat", [])
        yield* Stream.run(Stream.make(bytes("one\n"), bytes(""), bytes("two\n")), handle.stdin)
        assert.strictEqual(yield* collect(handle.stdout), "one\ntwo\n")
        assert.strictEqual(yield* handle.exitCode, ExitCode(0))
      }))

    it.effect("waits for input until there is some", () =>
      Effect.gen(function*() {
        const handle = yield* sh("echo ready; read -r line; echo got $line")
        yield* handle.stdout.pipe(
          Stream.decodeText,
          Stream.splitLines,
          Stream.take(1),
          Stream.runDrain
        )
        assert.isTrue(yield* handle.isRunning)
        yield* Stream.run(Stream.make(bytes("a line\n")), handle.stdin)
        assert.strictEqual(yield* handle.exitCode, ExitCode(0))
      }))

    it.effect("leaves the input open when it is told to", () =>
      Effect.gen(function*() {
        const handle = yield* sh("read -r a; echo got $a; read -r b; echo got $b; cat", {
          stdin: { stream: "pipe", endOnDone: false }
        })
        const seen: Array<string> = []
        yield* Stream.run(Stream.make(bytes("1\n")), handle.stdin)
        yield* handle.stdout.pipe(
          Stream.decodeText,
          Stream.splitLines,
          Stream.take(2),
          Stream.runForEach((line) => {
            seen.push(line)
            return Stream.run(Stream.make(bytes("2\n")), handle.stdin)
          })
        )
        assert.deepStrictEqual(seen, ["got 1", "got 2"])
        assert.isTrue(yield* handle.isRunning)
      }))

    it.effect("leaves the input open after a stream when it is told to", () =>
      Effect.gen(function*() {
        const handle = yield* sh("read -r a; echo got $a; read -r b; echo got $b", {
          stdin: { stream: Stream.make(bytes("1\n")), endOnDone: false }
        })
        const seen: Array<string> = []
        yield* handle.stdout.pipe(
          Stream.decodeText,
          Stream.splitLines,
          Stream.runForEach((line) => {
            seen.push(line)
            return seen.length === 1 ? Stream.run(Stream.make(bytes("2\n")), handle.stdin) : Effect.void
          })
        )
        assert.deepStrictEqual(seen, ["got 1", "got 2"])
        assert.strictEqual(yield* handle.exitCode, ExitCode(0))
      }))

    it.effect("has an empty input when it is to ignore it", () =>
      Effect.gen(function*() {
        const handle = yield* sh("cat; echo end", { stdin: "ignore" })
        assert.strictEqual(yield* collect(handle.stdout), "end\n")
        // What is written goes nowhere.
        yield* Stream.run(Stream.make(bytes("x")), handle.stdin)
        assert.strictEqual(yield* handle.exitCode, ExitCode(0))
      }))

    it.effect("fails with what its input failed with, and does not wait for the program", () =>
      Effect.gen(function*() {
        const input = Stream.concat(Stream.make(bytes("a")), Stream.fail(broken))
        const handle = yield* sh("sleep 600", { stdin: input })
        assert.strictEqual(yield* Effect.flip(handle.exitCode), broken)
        assert.strictEqual(yield* Effect.flip(exitCode(sh("sleep 600", { stdin: input }))), broken)
      }))

    it.effect("does not mind a program that reads less than there is", () =>
      Effect.gen(function*() {
        const much = Stream.fromIterable(Array.makeBy(64, () => new Uint8Array(16 * kibi)))
        assert.strictEqual(yield* exitCode(ChildProcess.make("true", { stdin: much })), ExitCode(0))
        assert.strictEqual(yield* string(ChildProcess.make("head", ["-c", "0"], { stdin: much })), "")
      }))

    // Output

    it.effect("keeps its two outputs apart", () =>
      Effect.gen(function*() {
        const handle = yield* sh("echo out; echo err >&2")
        const [stdout, stderr] = yield* Effect.all([collect(handle.stdout), collect(handle.stderr)], { concurrency: 2 })
        assert.deepStrictEqual([stdout, stderr], ["out\n", "err\n"])
      }))

    it.effect("has both of its outputs in one", () =>
      Effect.gen(function*() {
        const handle = yield* sh("echo 1; echo 2 >&2; echo 3; echo 4 >&2")
        assert.sameMembers((yield* collect(handle.all)).trim().split("\n"), ["1", "2", "3", "4"])
      }))

    it.effect("gives every byte as it is", () =>
      Effect.gen(function*() {
        const all = new Uint8Array(256).map((_, index) => index)
        const octal = [...all].map((byte) => `\\${byte.toString(8).padStart(3, "0")}`).join("")
        const handle = yield* ChildProcess.make("printf", [octal])
        assert.deepStrictEqual(Buffer.concat(yield* Stream.runCollect(handle.stdout)), Buffer.from(all))
      }))

    it.effect("gives all of a large output, in order", () =>
      Effect.gen(function*() {
        const printed = yield* lines(ChildProcess.make("seq", ["1", "100000"]))
        assert.strictEqual(printed.length, 100_000)
        assert.isTrue(printed.every((line, index) => line === String(index + 1)))
      }))

    it.effect("can be read while it runs", () =>
      Effect.gen(function*() {
        // Each line is an answer to the one before: nothing may wait for the end.
        const handle = yield* sh("echo 0; while read -r n; do echo $((n + 1)); done", {
          stdin: { stream: "pipe", endOnDone: false }
        })
        const last = yield* handle.stdout.pipe(
          Stream.decodeText,
          Stream.splitLines,
          Stream.tap((line) => Stream.run(Stream.make(bytes(`${line}\n`)), handle.stdin)),
          Stream.take(10),
          Stream.runLast
        )
        assert.deepStrictEqual(last._tag === "Some" && last.value, "9")
      }))

    it.effect("can be told to ignore either output", () =>
      Effect.gen(function*() {
        const script = "seq 1 50000; seq 1 50000 >&2; echo end >&2"
        const silent = yield* sh(script, { stdout: "ignore", stderr: "ignore" })
        assert.strictEqual(yield* collect(silent.stdout), "")
        assert.strictEqual(yield* collect(silent.stderr), "")
        assert.strictEqual(yield* collect(silent.all), "")
        assert.strictEqual(yield* silent.exitCode, ExitCode(0))
        const handle = yield* sh("echo out; echo err >&2", { stdout: "ignore" })
        assert.strictEqual(yield* collect(handle.all), "err\n")
      }))

    it.effect("can be given the names of its streams one by one", () =>
      Effect.gen(function*() {
        const handle = yield* sh("cat; echo err >&2", {
          stdin: { stream: Stream.make(bytes("in\n")) },
          stdout: { stream: "pipe" },
          stderr: { stream: "ignore" }
        })
        assert.strictEqual(yield* collect(handle.all), "in\n")
      }))

    /** Answers with what it has read, in capitals, when there is no more. */
    const capitals = Sink.map(
      Sink.collect<Uint8Array>(),
      (chunks): Uint8Array => bytes(text(chunks).toUpperCase())
    )

    it.effect("sends an output through a sink as it is read", () =>
      Effect.gen(function*() {
        const handle = yield* sh("echo out; echo err >&2", { stdout: capitals, stderr: { stream: capitals } })
        const [stdout, stderr] = yield* Effect.all([collect(handle.stdout), collect(handle.stderr)], { concurrency: 2 })
        assert.deepStrictEqual([stdout, stderr], ["OUT\n", "ERR\n"])
        assert.strictEqual(yield* string(sh("echo out; echo err >&2", { stdout: capitals })), "OUT\n")
        const all = yield* sh("echo out; echo err >&2", { stdout: capitals })
        assert.sameMembers((yield* collect(all.all)).trim().split("\n"), ["OUT", "err"])
      }))

    it.effect("fails a helper with what a sink failed with", () =>
      Effect.gen(function*() {
        for (const options of [{ stdout: Sink.fail(broken) }, { stderr: Sink.fail(broken) }]) {
          assert.strictEqual(yield* Effect.flip(exitCode(sh("echo out; echo err >&2; sleep 600", options))), broken)
          assert.strictEqual(yield* Effect.flip(string(sh("echo out; echo err >&2; sleep 600", options))), broken)
        }
      }))

    it.effect("has its text, and its lines, with the other output or without", () =>
      Effect.gen(function*() {
        const command = sh("printf 'a\\nb\\r\\n'; printf 'e\\nf\\n' >&2; printf 'ü'")
        const service = yield* ChildProcessSpawner
        assert.strictEqual(yield* service.string(command), "a\nb\r\nü")
        assert.deepStrictEqual(yield* service.lines(command), ["a", "b", "ü"])
        const both = yield* service.lines(command, { includeStderr: true })
        assert.sameMembers([...both.join("")], [..."abeüf"])
        assert.deepStrictEqual([...(yield* Stream.runCollect(service.streamLines(command)))], ["a", "b", "ü"])
        assert.strictEqual(yield* Stream.mkString(service.streamString(command)), "a\nb\r\nü")
      }))

    it.effect("is not held up by the output that a helper does not return", () =>
      Effect.gen(function*() {
        const much = "seq 1 20000 >&2; seq 1 20000 >&2"
        assert.strictEqual(yield* string(sh(`${much}; echo end`)), "end\n")
        assert.deepStrictEqual(yield* lines(sh(`${much}; echo end`)), ["end"])
        assert.strictEqual(yield* exitCode(sh(`${much}; seq 1 20000; exit 5`)), ExitCode(5))
      }))

    it.effect("ends a program when nobody reads its lines any more", () =>
      Effect.gen(function*() {
        const service = yield* ChildProcessSpawner
        const [pid] = yield* Stream.runCollect(Stream.take(service.streamLines(sh("echo $$; sleep 600")), 1))
        yield* untilGone(Number(pid))
      }))

    // The end

    it.effect("answers with the exit code, whatever it is, and as often as it is asked", () =>
      Effect.gen(function*() {
        for (const code of [0, 1, 126, 127, 129, 137, 143, 255]) {
          assert.strictEqual(yield* exitCode(sh(`exit ${code}`)), ExitCode(code))
        }
        const handle = yield* sh("exit 9")
        const codes = yield* Effect.all([handle.exitCode, handle.exitCode, handle.exitCode], { concurrency: 3 })
        assert.deepStrictEqual([...codes, yield* handle.exitCode], Array.makeBy(4, () => ExitCode(9)))
      }))

    it.effect("has no exit code when a signal ended the program", () =>
      Effect.gen(function*() {
        for (const signal of ["KILL", "TERM", "SEGV"]) {
          const reason = yield* reasonOf(exitCode(sh(`kill -${signal} $$; sleep 600`)))
          assert.deepStrictEqual([reason._tag, reason.module, reason.method], ["Unknown", "ChildProcess", "exitCode"])
        }
      }))

    it.effect("ends with the program, whoever holds its outputs open", () =>
      Effect.gen(function*() {
        for (const code of [0, 3]) {
          assert.strictEqual(yield* exitCode(sh(`sleep 600 & exit ${code}`)), ExitCode(code))
          const handle = yield* sh(`sleep 600 & echo $!; exit ${code}`)
          assert.strictEqual(yield* handle.exitCode, ExitCode(code))
          assert.isFalse(yield* handle.isRunning)
          yield* firstLine(handle)
        }
      }))

    it.effect("keeps what a program has printed when others hold its outputs open", () =>
      Effect.gen(function*() {
        const handle = yield* sh("sleep 600 & echo out")
        assert.strictEqual(yield* handle.exitCode, ExitCode(0))
        assert.strictEqual(yield* firstLine(handle), "out")
      }))

    it.effect("takes what a program that failed has started with it", () =>
      Effect.gen(function*() {
        const handle = yield* sh("sleep 600 >/dev/null 2>&1 & echo $!; exit 3")
        const descendant = Number(yield* firstLine(handle))
        assert.strictEqual(yield* handle.exitCode, ExitCode(3))
        yield* untilGone(descendant)
      }))

    // Killing

    it.effect("kills with SIGTERM and waits for the end", () =>
      Effect.gen(function*() {
        const handle = yield* sh("echo ready; exec sleep 600")
        yield* firstLine(handle)
        yield* handle.kill()
        assert.isFalse(yield* handle.isRunning)
        assert.strictEqual((yield* reasonOf(handle.exitCode)).method, "exitCode")
        assert.isFalse(yield* isAlive(handle.pid))
      }))

    it.effect("kills with the signal that it is told", () =>
      Effect.gen(function*() {
        const signals = { SIGINT: 2, SIGQUIT: 3, SIGUSR1: 10, SIGUSR2: 12 } as const
        for (const [signal, code] of Object.entries(signals)) {
          const handle = yield* shWith("trap 'exit '$2 ${1#SIG}; echo ready; while :; do sleep 0.05; done", [
            signal,
            String(code)
          ])
          yield* handle.stdout.pipe(Stream.take(1), Stream.runDrain)
          yield* handle.kill({ killSignal: signal as keyof typeof signals })
          assert.strictEqual(yield* handle.exitCode, ExitCode(code))
        }
      }))

    it.effect("kills by force what does not end in its time", () =>
      Effect.gen(function*() {
        const handle = yield* sh("trap '' TERM; echo ready; while :; do sleep 0.05; done")
        yield* handle.stdout.pipe(Stream.take(1), Stream.runDrain)
        yield* handle.kill({ forceKillAfter: "100 millis" })
        assert.strictEqual((yield* reasonOf(handle.exitCode)).method, "exitCode")
        assert.isFalse(yield* isAlive(handle.pid))
      }))

    it.effect("kills what the program has started too", () =>
      Effect.gen(function*() {
        const handle = yield* sh("sleep 600 >/dev/null 2>&1 & echo $!; wait")
        const descendant = Number(yield* firstLine(handle))
        yield* handle.kill()
        yield* untilGone(descendant)
      }))

    it.effect("cannot kill what has ended", () =>
      Effect.gen(function*() {
        const handle = yield* ChildProcess.make("true", [])
        yield* handle.exitCode
        const reason = yield* reasonOf(handle.kill())
        assert.deepStrictEqual([reason._tag, reason.module, reason.method], ["Unknown", "ChildProcess", "kill"])
      }))

    // The scope

    it.effect("ends the program with its scope, and waits for that", () =>
      Effect.gen(function*() {
        const pid = yield* Effect.scoped(Effect.gen(function*() {
          const handle = yield* sh("echo ready; exec sleep 600")
          yield* firstLine(handle)
          return handle.pid
        }))
        assert.isFalse(yield* isAlive(pid))
      }))

    it.effect("ends the program when its fiber is interrupted", () =>
      Effect.gen(function*() {
        const started = yield* Deferred.make<number>()
        const fiber = yield* Effect.forkChild(Effect.scoped(Effect.gen(function*() {
          const handle = yield* sh("echo ready; exec sleep 600")
          yield* firstLine(handle)
          yield* Deferred.succeed(started, handle.pid)
          return yield* handle.exitCode
        })))
        const pid = yield* Deferred.await(started)
        yield* Fiber.interrupt(fiber)
        assert.isFalse(yield* isAlive(pid))
      }))

    it.effect("ends a program whose output nobody reads", () =>
      Effect.gen(function*() {
        const pid = yield* Effect.scoped(Effect.gen(function*() {
          const handle = yield* sh("echo ready; while :; do echo more and more and more; done")
          yield* handle.stdout.pipe(Stream.take(1), Stream.runDrain)
          return handle.pid
        }))
        assert.isFalse(yield* isAlive(pid))
      }))

    it.effect("ends with the signal of its command, by force when it is told so", () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const script = "trap 'echo told > \"$1/file\"' INT; trap '' TERM; echo ready; while :; do sleep 0.05; done"
        const pid = yield* Effect.scoped(Effect.gen(function*() {
          const handle = yield* shWith(script, [directory], { killSignal: "SIGINT", forceKillAfter: "1 second" })
          yield* handle.stdout.pipe(Stream.take(1), Stream.runDrain)
          return handle.pid
        }))
        assert.isFalse(yield* isAlive(pid))
        assert.strictEqual(yield* string(ChildProcess.make("cat", [`${directory}/file`])), "told\n")
      }))

    it.effect("takes with it what a program that has ended has started", () =>
      Effect.gen(function*() {
        const descendant = yield* Effect.scoped(Effect.gen(function*() {
          const handle = yield* sh("sleep 600 >/dev/null 2>&1 & echo $!; exit 0")
          const descendant = Number(yield* firstLine(handle))
          assert.strictEqual(yield* handle.exitCode, ExitCode(0))
          assert.isTrue(yield* isAlive(descendant))
          return descendant
        }))
        yield* untilGone(descendant)
      }))

    it.effect("takes with it what holds the outputs of a program that has ended", () =>
      Effect.gen(function*() {
        const descendant = yield* Effect.scoped(Effect.gen(function*() {
          const handle = yield* sh("sleep 600 & echo $!; exit 0")
          const descendant = Number(yield* firstLine(handle))
          assert.strictEqual(yield* handle.exitCode, ExitCode(0))
          return descendant
        }))
        yield* untilGone(descendant)
      }))

    it.effect("leaves a program that was let go, and takes one that was taken back", () =>
      Effect.gen(function*() {
        const run = (back: boolean) =>
          Effect.scoped(Effect.gen(function*() {
            const handle = yield* sh("echo ready; exec sleep 600", { stdin: "ignore" })
            yield* firstLine(handle)
            const reref = yield* handle.unref
            if (back) yield* reref
            return handle.pid
          }))
        const free = yield* run(false)
        assert.isTrue(yield* isAlive(free))
        yield* exitCode(shWith("kill -9 $1", [String(free)]))
        yield* untilGone(free)
        assert.isFalse(yield* isAlive(yield* run(true)))
      }))

    // Pipelines

    const upper = ChildProcess.make("tr", ["a-z", "A-Z"])

    it.effect("joins programs by their outputs and inputs", () =>
      Effect.gen(function*() {
        const pipeline = sh("printf 'c\\nb\\na\\nb\\n'").pipe(
          ChildProcess.pipeTo(ChildProcess.make("sort", ["-u"])),
          ChildProcess.pipeTo(upper)
        )
        assert.strictEqual(yield* string(pipeline), "A\nB\nC\n")
      }))

    it.effect("joins them whichever way they are grouped", () =>
      Effect.gen(function*() {
        const tail = ChildProcess.make("sort", []).pipe(ChildProcess.pipeTo(upper))
        assert.strictEqual(yield* string(ChildProcess.pipeTo(sh("printf 'b\\na\\n'"), tail)), "A\nB\n")
      }))

    it.effect("ends a pipeline with the exit code of its last program", () =>
      Effect.gen(function*() {
        assert.strictEqual(yield* exitCode(ChildProcess.pipeTo(sh("exit 3"), sh("cat; exit 5"))), ExitCode(5))
        assert.strictEqual(yield* exitCode(ChildProcess.pipeTo(sh("exit 3"), sh("cat"))), ExitCode(0))
      }))

    it.effect("joins the output that it is told", () =>
      Effect.gen(function*() {
        const both = sh("echo out; echo err >&2")
        assert.strictEqual(yield* string(ChildProcess.pipeTo(both, upper, { from: "stderr" })), "ERR\n")
        assert.strictEqual(yield* string(ChildProcess.pipeTo(both, upper, { from: "stdout" })), "OUT\n")
        const all = yield* string(ChildProcess.pipeTo(both, upper, { from: "all" }))
        assert.sameMembers(all.trim().split("\n"), ["OUT", "ERR"])
      }))

    it.effect("gives each program of a pipeline its own options", () =>
      Effect.gen(function*() {
        const variable = (value: string) => ({ env: { A: value }, extendEnv: true })
        const pipeline = sh("echo $A; pwd", { ...variable("1"), cwd: "/etc" }).pipe(
          ChildProcess.pipeTo(sh("cat; echo $A; pwd", { ...variable("2"), cwd: "/" }))
        )
        assert.strictEqual(yield* string(pipeline), "1\n/etc\n2\n/\n")
      }))

    it.effect("moves much through a pipeline", () =>
      Effect.gen(function*() {
        const pipeline = ChildProcess.make("seq", ["1", "100000"]).pipe(
          ChildProcess.pipeTo(ChildProcess.make("cat", [])),
          ChildProcess.pipeTo(ChildProcess.make("wc", ["-l"]))
        )
        assert.strictEqual((yield* string(pipeline)).trim(), "100000")
      }))

    it.effect("writes to the first program of a pipeline, and has the last one's id", () =>
      Effect.gen(function*() {
        const handle = yield* ChildProcess.pipeTo(ChildProcess.make("cat", []), sh("echo $$; tr a-z A-Z"))
        yield* Stream.run(Stream.make(bytes("abc")), handle.stdin)
        assert.strictEqual(yield* collect(handle.stdout), `${handle.pid}\nABC`)
      }))

    it.effect("ends a pipeline whose last program has enough", () =>
      Effect.gen(function*() {
        const pipeline = ChildProcess.pipeTo(
          sh("while :; do echo line; done"),
          ChildProcess.make("head", ["-n", "2"])
        )
        assert.strictEqual(yield* string(pipeline), "line\nline\n")
      }))

    it.effect("kills all programs of a pipeline", () =>
      Effect.gen(function*() {
        const handle = yield* ChildProcess.pipeTo(sh("echo $$; exec sleep 600"), sh("head -n 1; exec sleep 600"))
        const first = Number(yield* firstLine(handle))
        yield* handle.kill()
        yield* untilGone(first)
        yield* untilGone(handle.pid)
      }))

    it.effect("starts no pipeline of which one program cannot be started", () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const first = shWith("echo $$ > \"$1/pid\"; exec sleep 600", [directory])
        const reason = yield* reasonOf(
          Effect.scoped(ChildProcess.pipeTo(first, ChildProcess.make("no-such-program", [])))
        )
        assert.deepStrictEqual([reason._tag, reason.method], ["NotFound", "spawn"])
        const pid = yield* string(sh(`cat ${directory}/pid 2>/dev/null || true`))
        if (pid !== "") yield* untilGone(Number(pid))
      }))

    // More descriptors

    it.effect("reads and writes more descriptors than three", () =>
      Effect.gen(function*() {
        const handle = yield* sh("cat <&3 >&4; echo end >&5; echo out", {
          additionalFds: {
            fd3: { type: "input", stream: Stream.make(bytes("a "), bytes("stream")) },
            fd4: { type: "output" },
            fd5: { type: "output", sink: capitals }
          }
        })
        const read = yield* Effect.all(
          [collect(handle.getOutputFd(4)), collect(handle.getOutputFd(5)), collect(handle.stdout)],
          { concurrency: 3 }
        )
        assert.deepStrictEqual(read, ["a stream", "END\n", "out\n"])
        assert.strictEqual(yield* handle.exitCode, ExitCode(0))
      }))

    it.effect("writes to a descriptor by its sink", () =>
      Effect.gen(function*() {
        const handle = yield* sh("cat <&3", { additionalFds: { fd3: { type: "input" } } })
        yield* Stream.run(Stream.make(bytes("one "), bytes("two")), handle.getInputFd(3))
        assert.strictEqual(yield* collect(handle.stdout), "one two")
      }))

    it.effect("has nothing in a descriptor that was not asked for", () =>
      Effect.gen(function*() {
        const handle = yield* sh("cat <&4; echo end >&3", {
          additionalFds: { fd3: { type: "output" }, fd5: { type: "output" } }
        })
        yield* Stream.run(Stream.make(bytes("x")), handle.getInputFd(7))
        assert.strictEqual(yield* collect(handle.getOutputFd(7)), "")
        assert.strictEqual(yield* collect(handle.getOutputFd(3)), "end\n")
        assert.strictEqual(yield* collect(handle.getOutputFd(5)), "")
        assert.strictEqual(yield* handle.exitCode, ExitCode(0))
      }))

    it.effect("has the directory, the variables and the arguments that it is told beside more descriptors", () =>
      Effect.gen(function*() {
        const handle = yield* shWith("pwd >&3; echo $A $1 >&3; env | grep -c '^HOME=' >&3; exit 6", ["x  y"], {
          cwd: "/etc",
          env: { A: "b", PATH: "/bin:/usr/bin" },
          additionalFds: { fd3: { type: "output" } }
        })
        assert.strictEqual(yield* collect(handle.getOutputFd(3)), "/etc\nb x y\n0\n")
        assert.strictEqual(yield* handle.exitCode, ExitCode(6))
      }))

    it.effect("fails with what the input of a descriptor failed with", () =>
      Effect.gen(function*() {
        const handle = yield* sh("sleep 600", {
          additionalFds: { fd3: { type: "input", stream: Stream.fail(broken) } }
        })
        assert.strictEqual(yield* Effect.flip(handle.exitCode), broken)
      }))

    it.effect("does not start what is not there beside more descriptors", () =>
      Effect.gen(function*() {
        const additionalFds = { fd3: { type: "input" as const } }
        const missing = yield* reasonOf(ChildProcess.make("no-such-program", [], { additionalFds }))
        assert.deepStrictEqual([missing._tag, missing.method], ["NotFound", "spawn"])
      }))

    it.effect("joins programs by more descriptors", () =>
      Effect.gen(function*() {
        const source = sh("echo three >&3; echo out", { additionalFds: { fd3: { type: "output" } } })
        assert.strictEqual(yield* string(ChildProcess.pipeTo(source, upper, { from: "fd3" })), "THREE\n")
        assert.strictEqual(yield* string(ChildProcess.pipeTo(sh("echo in"), sh("cat <&3"), { to: "fd3" })), "in\n")
      }))

    it.effect("writes and reads one descriptor, or says that it cannot", () =>
      Effect.gen(function*() {
        const command = sh("read -r line <&3; echo got $line >&3", {
          additionalFds: { fd3: { type: "duplex", stream: Stream.make(bytes("line\n")) } }
        })
        if (duplex) {
          const handle = yield* command
          assert.strictEqual(yield* collect(handle.getOutputFd(3)), "got line\n")
        } else {
          const reason = yield* reasonOf(command)
          assert.deepStrictEqual([reason._tag, reason.module, reason.method], ["BadArgument", "ChildProcess", "spawn"])
        }
      }))

    it.effect("ends what many scopes hold when the one above them closes", () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const handles = yield* Effect.forEach(
          Array.range(1, 4),
          () => Scope.provide(scope)(sh("echo ready; exec sleep 600")),
          { concurrency: "unbounded" }
        )
        yield* Effect.forEach(handles, firstLine)
        yield* Scope.close(scope, Exit.void)
        const alive = yield* Effect.forEach(handles, ({ pid }) => isAlive(pid))
        assert.deepStrictEqual(alive, [false, false, false, false])
      }))
  })
