/** `ChildProcessSpawner` for a guest: what Node's does for the programs of a host. */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as PlatformError from "effect/PlatformError"
import * as ChildProcess from "effect/process/ChildProcess"
import * as ChildProcessSpawner from "effect/process/ChildProcessSpawner"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import type { ExecHandle, ExitStatus } from "../Exec.ts"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import type { Sandbox } from "../Sandbox.ts"
import { badArgument, systemError, toCommandError } from "./commandError.ts"
import { findDescriptors, type OpenDescriptor, openDescriptors } from "./descriptors.ts"
import { byShell, findInherited, findMistake, type GuestCommand, type Inherited, prepare } from "./guestCommand.ts"
import { signalGroup } from "./processGroup.ts"
import { signalNumbers } from "./signals.ts"
import { hostStdio } from "./stdio.ts"

/** What a spawner needs of its sandbox. */
export interface Guest {
  readonly exec: Sandbox["exec"]
  readonly spawn: Sandbox["spawn"]
  readonly fs: Sandbox["fs"]
  readonly path: Sandbox["path"]
  /** The sandbox's own: a program that was let go runs on until this closes. */
  readonly scope: Scope.Scope
}

type Input = Sink.Sink<void, Uint8Array, never, PlatformError.PlatformError>
type Output = Stream.Stream<Uint8Array, PlatformError.PlatformError>

/** How long what is left of a process group may take to end, as on a host. */
const grace = Duration.seconds(1)

export const makeSpawner = (guest: Guest): ChildProcessSpawner.ChildProcessSpawner["Service"] => {
  let known: Inherited | undefined
  /** The same for the sandbox's whole life. */
  const inherited = Effect.suspend(() =>
    known !== undefined
      ? Effect.succeed(known)
      : Effect.tap(findInherited(guest.exec), (found) =>
        Effect.sync(() => {
          known = found
        }))
  )
  const spawn = (
    command: ChildProcess.Command
  ): ReturnType<ChildProcessSpawner.ChildProcessSpawner["Service"]["spawn"]> =>
    command._tag === "StandardCommand" ? spawnOne(guest, inherited, command) : spawnPipeline(spawn, command)
  return ChildProcessSpawner.make(spawn)
}

/** A directory of work must be there before anything is started; the agent does not tell it from a missing program. */
const resolveDirectory = (
  { fs, path }: Guest,
  { options: { cwd } }: ChildProcess.StandardCommand
): Effect.Effect<string | undefined, PlatformError.PlatformError> =>
  cwd === undefined ? Effect.undefined : Effect.as(fs.access(cwd), path.resolve(cwd))

const spawnOne = (
  guest: Guest,
  inherited: Effect.Effect<Inherited, MicrosandboxError>,
  command: ChildProcess.StandardCommand
): Effect.Effect<ChildProcessSpawner.ChildProcessHandle, PlatformError.PlatformError, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const mistake = findMistake(command)
      if (mistake !== undefined) return yield* badArgument("spawn", mistake)
      const streams = streamsOf(command)
      const descriptors = yield* findDescriptors(command)
      // Its own scope, which a program that was let go keeps when the caller's has closed.
      const scope = yield* Scope.fork(guest.scope)
      const close = Scope.close(scope, Exit.void)
      const started = yield* restore(Effect.gen(function*() {
        const cwd = yield* resolveDirectory(guest, command)
        const prepared = yield* prepare(guest.exec, command, cwd, inherited)
        const { guest: run, open } = yield* openDescriptors(guest, command, prepared, descriptors)
        return { handle: yield* start(guest, command, run, streams), open }
      })).pipe(Scope.provide(scope), Effect.onError(() => close))
      return yield* manage(guest, command, streams, started, scope)
    })
  )

/** A file that the kernel takes for no program is a script for the shell, as `execvp` has it. */
const start = (
  { spawn }: Guest,
  command: ChildProcess.StandardCommand,
  run: GuestCommand,
  { stderr, stdin, stdout }: Streams
): Effect.Effect<ExecHandle, PlatformError.PlatformError, Scope.Scope> => {
  const begin = ({ args, command, options }: GuestCommand) =>
    spawn(command, args, {
      ...options,
      ...stdin.stream === "ignore" ? {} : { stdin: "pipe" as const },
      ...stdout === "ignore" && stderr === "ignore" ? { output: "discard" as const } : {}
    })
  return begin(run).pipe(
    Effect.catchIf(
      ({ reason }) => reason._tag === "ExecFailed" && reason.kind === "NotExecutable" && !run.wrapped,
      () => begin(byShell(run))
    ),
    Effect.mapError(toCommandError(command, "spawn"))
  )
}

interface Streams {
  readonly stdin: { readonly stream: ChildProcess.CommandInput; readonly endOnDone: boolean }
  readonly stdout: ChildProcess.CommandOutput
  readonly stderr: ChildProcess.CommandOutput
}

const streamsOf = ({ options }: ChildProcess.StandardCommand): Streams => ({
  stdin: stdinOf(options),
  stdout: outputOf(options.stdout),
  stderr: outputOf(options.stderr)
})

const stdinOf = ({ stdin = "pipe" }: ChildProcess.CommandOptions): Streams["stdin"] =>
  typeof stdin === "string" || Stream.isStream(stdin)
    ? { stream: stdin, endOnDone: true }
    : { stream: stdin.stream, endOnDone: stdin.endOnDone ?? true }

const outputOf = (output: ChildProcess.CommandOptions["stdout"] = "pipe"): ChildProcess.CommandOutput =>
  typeof output === "string" || Sink.isSink(output) ? output : output.stream ?? "pipe"

/** A program that runs, from its start to the end of its scope. */
const manage = Effect.fnUntraced(function*(
  guest: Guest,
  command: ChildProcess.StandardCommand,
  streams: Streams,
  { handle, open }: { readonly handle: ExecHandle; readonly open: ReadonlyArray<OpenDescriptor> },
  scope: Scope.Closeable
): Effect.fn.Return<ChildProcessSpawner.ChildProcessHandle, never, Scope.Scope> {
  const { detached = true } = command.options
  const exit = yield* Deferred.make<ExitStatus, MicrosandboxError>()
  const kill = killer(guest, command, handle, exit)
  const cleanUp = yield* Effect.cached(Effect.ignore(kill(command.options)))
  let referenced = true
  let failed = false

  yield* Effect.forkIn(
    Effect.andThen(Deferred.into(handle.exitStatus, exit), Deferred.await(exit)).pipe(
      Effect.flatMap(({ signaled, success }) => {
        failed = !success && !signaled
        // A program that has failed takes with it what it has started.
        return failed && detached ? Effect.forkIn(cleanUp, scope) : Effect.void
      }),
      Effect.ignore
    ),
    scope
  )

  const pumps: Array<Fiber.Fiber<void>> = []
  /** What was printed is where it belongs before an end is told, unless others hold the outputs open. */
  const flushed = Effect.suspend(() => Effect.ignore(Effect.timeout(Fiber.awaitAll(pumps), grace)))

  yield* Effect.addFinalizer(Effect.fnUntraced(function*() {
    const running = !(yield* Deferred.isDone(exit))
    if (running && !referenced) {
      const ended = Effect.exit(Deferred.await(exit))
      yield* Effect.forkIn(Effect.andThen(ended, Scope.close(scope, Exit.void)), guest.scope)
    } else {
      if (running || (detached && (referenced || failed))) yield* cleanUp
      yield* flushed
      yield* Scope.close(scope, Exit.void)
    }
  }))

  const inputFailure = yield* Deferred.make<never, PlatformError.PlatformError>()
  const feed = (source: Output, sink: Input) =>
    Effect.forkScoped(
      Effect.ignore(Stream.run(Stream.tapError(source, (error) => Deferred.fail(inputFailure, error)), sink))
    )
  const inputOf = ({ stdin }: ExecHandle, name: string): Input =>
    Sink.mapError(stdin, toCommandError(command, `fromWritable(${name})`))
  const outputOf = (output: ExecHandle["stdout"], name: string): Output =>
    Stream.mapError(output, toCommandError(command, `fromReadable(${name})`))

  const openInput = Effect.fnUntraced(function*(): Effect.fn.Return<Input, never, Scope.Scope> {
    const { endOnDone, stream } = streams.stdin
    if (stream === "ignore") return Sink.drain
    const all = inputOf(handle, "stdin")
    if (stream === "inherit") {
      const { stdin } = yield* hostStdio
      yield* Effect.forkIn(Effect.ignore(Stream.run(stdin, all)), scope)
      return Sink.drain
    }
    const sink = endOnDone ? all : yield* openEnded(all, scope)
    if (Stream.isStream(stream)) yield* feed(stream, sink)
    return sink
  })

  const openOutput = Effect.fnUntraced(function*(name: "stdout" | "stderr"): Effect.fn.Return<Output> {
    const stream = streams[name]
    const output = outputOf(handle[name], name)
    if (stream === "ignore") {
      yield* Effect.forkIn(Effect.ignore(Stream.runDrain(output)), scope)
      return Stream.empty
    }
    if (stream === "inherit") {
      const sink = (yield* hostStdio)[name]({ endOnDone: false })
      pumps.push(yield* Effect.forkIn(Effect.ignore(Stream.run(output, sink)), scope))
      return Stream.empty
    }
    return Sink.isSink(stream) ? Stream.transduce(output, stream) : output
  })

  const stdin = yield* openInput()
  const stdout = yield* openOutput("stdout")
  const stderr = yield* openOutput("stderr")
  const inOrder = streams.stdout === "pipe" && streams.stderr === "pipe"

  const inputs = new Map<number, Input>()
  const outputs = new Map<number, Output>()
  for (const { config, fd, peer } of open) {
    if (config.type === "input") {
      const sink = inputOf(peer, `fd${fd}`)
      inputs.set(fd, sink)
      if (config.stream !== undefined) yield* feed(config.stream, sink)
    } else {
      const output = outputOf(peer.stdout, `fd${fd}`)
      outputs.set(fd, config.sink === undefined ? output : Stream.transduce(output, config.sink))
    }
  }

  const reref = Effect.sync(() => {
    referenced = true
  })
  return ChildProcessSpawner.makeHandle({
    pid: ChildProcessSpawner.ProcessId(handle.pid),
    // An input that has failed was cut short: whatever the program says of it is not the answer.
    exitCode: Effect.raceFirst(
      Effect.flatMap(
        Effect.mapError(Deferred.await(exit), toCommandError(command, "exitCode")),
        ({ exitCode, signaled }) =>
          Effect.flatMap(Deferred.isDone(inputFailure), (cut) => {
            if (cut) return Deferred.await(inputFailure)
            return signaled
              ? Effect.fail(systemError(command, "exitCode", "Unknown", "a signal ended the program"))
              : Effect.as(flushed, ChildProcessSpawner.ExitCode(exitCode))
          })
      ),
      Deferred.await(inputFailure)
    ),
    isRunning: Effect.map(Deferred.isDone(exit), (done) => !done),
    kill,
    stdin,
    stdout,
    stderr,
    all: inOrder ? outputOf(handle.all, "all") : Stream.merge(stdout, stderr),
    getInputFd: (fd) => inputs.get(fd) ?? Sink.drain,
    getOutputFd: (fd) => outputs.get(fd) ?? Stream.empty,
    unref: Effect.sync(() => {
      referenced = false
      return reref
    })
  })
})

/** A sink that can be run again and again, in front of one whose end is the end of the input. */
const openEnded = Effect.fnUntraced(function*(sink: Input, scope: Scope.Scope): Effect.fn.Return<Input> {
  const queue = yield* Queue.bounded<Uint8Array>(1)
  const ended = yield* Deferred.make<void, PlatformError.PlatformError>()
  yield* Effect.forkIn(
    Effect.ensuring(Deferred.into(Stream.run(Stream.fromQueue(queue), sink), ended), Queue.shutdown(queue)),
    scope
  )
  return Sink.forEach((chunk: Uint8Array) =>
    Effect.flatMap(Queue.offer(queue, chunk), (taken) => taken ? Effect.void : Deferred.await(ended))
  )
})

/** Sends a signal to the program and its group, by force after a time when that is wanted, and waits for the end of both. */
const killer = (
  { exec }: Guest,
  command: ChildProcess.StandardCommand,
  handle: ExecHandle,
  exit: Deferred.Deferred<ExitStatus, MicrosandboxError>
): ChildProcessSpawner.ChildProcessHandle["kill"] => {
  const ended = Effect.exit(Deferred.await(exit))
  const group = (signal: number, wait: Duration.Duration) =>
    signalGroup(exec, handle.pid, signal, Duration.toMillis(wait))
  return Effect.fnUntraced(function*({ forceKillAfter, killSignal = "SIGTERM" } = {}) {
    const number = (signalNumbers as Readonly<Record<string, number>>)[killSignal]
    if (number === undefined) return yield* badArgument("kill", `a Linux guest has no ${killSignal}`)
    const force = forceKillAfter === undefined ? undefined : Duration.fromInputUnsafe(forceKillAfter)
    const signal = (number: number) => Effect.mapError(handle.signal(number), toCommandError(command, "kill"))

    if (yield* Deferred.isDone(exit)) {
      const left = yield* group(number, force ?? grace)
      if (left === "none") return yield* systemError(command, "kill", "Unknown", "the program has ended")
      if (left === "alive" && force !== undefined) yield* group(signalNumbers.SIGKILL, grace)
      return
    }
    yield* signal(number)
    const end = (wait: Duration.Duration) => Effect.andThen(ended, group(0, wait))
    if (force === undefined) {
      yield* end(grace)
      return
    }
    const left = yield* Effect.timeoutOption(end(force), force)
    if (Option.isSome(left) && left.value !== "alive") return
    yield* (yield* Deferred.isDone(exit)) ? group(signalNumbers.SIGKILL, grace) : signal(signalNumbers.SIGKILL)
    yield* end(grace)
  })
}

/** Starts the programs of a pipeline from its left to its right, each with what the one before prints. */
const spawnPipeline = Effect.fnUntraced(function*(
  spawn: ChildProcessSpawner.ChildProcessSpawner["Service"]["spawn"],
  pipeline: ChildProcess.PipedCommand
) {
  const { commands: [first, ...rest], joints } = flatten(pipeline)
  const handles = [yield* spawn(first)]
  let last = handles[0]!
  for (const [index, command] of rest.entries()) {
    const { from = "stdout", to = "stdin" } = joints[index]!
    last = yield* spawn(joined(command, outputNamed(last, from), to))
    handles.push(last)
  }
  return ChildProcessSpawner.makeHandle({
    ...last,
    stdin: handles[0]!.stdin,
    kill: (options) =>
      Effect.forEach([...handles].reverse(), (handle) => Effect.ignore(handle.kill(options)), { discard: true }),
    unref: Effect.map(
      Effect.forEach(handles, ({ unref }) => unref),
      (rerefs) => Effect.forEach([...rerefs].reverse(), (reref) => reref, { discard: true })
    )
  })
})

interface Pipeline {
  readonly commands: readonly [ChildProcess.StandardCommand, ...ReadonlyArray<ChildProcess.StandardCommand>]
  readonly joints: ReadonlyArray<ChildProcess.PipeOptions>
}

const flatten = (command: ChildProcess.Command): Pipeline => {
  if (command._tag === "StandardCommand") return { commands: [command], joints: [] }
  const left = flatten(command.left)
  const right = flatten(command.right)
  return {
    commands: [...left.commands, ...right.commands],
    joints: [...left.joints, command.options, ...right.joints]
  }
}

const outputNamed = (handle: ChildProcessSpawner.ChildProcessHandle, name: ChildProcess.PipeFromOption): Output => {
  if (name === "stderr" || name === "all") return handle[name]
  const fd = ChildProcess.parseFdName(name)
  return fd === undefined ? handle.stdout : handle.getOutputFd(fd)
}

/** The command with a stream for one of its inputs. */
const joined = (
  { args, command, options }: ChildProcess.StandardCommand,
  stream: Output,
  to: ChildProcess.PipeToOption
): ChildProcess.StandardCommand => {
  const fd = ChildProcess.parseFdName(to)
  if (fd === undefined) {
    return ChildProcess.make(command, args, { ...options, stdin: { ...stdinOf(options), stream } })
  }
  const name = `fd${fd}` as const
  const type = options.additionalFds?.[name]?.type === "duplex" ? "duplex" : "input"
  return ChildProcess.make(command, args, {
    ...options,
    additionalFds: { ...options.additionalFds, [name]: { type, stream } }
  })
}
