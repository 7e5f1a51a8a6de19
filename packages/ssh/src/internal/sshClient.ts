/** An SSH client: its options, its programs and files, and the addon's handles of them. */
import { Backend, type Exec, MicrosandboxError, type Sandbox } from "@effect-microsandbox/core"
import {
  attributesOf,
  Bytes,
  decodeOptions,
  defined,
  Lifetime,
  makeFileSystemOf,
  makePath,
  makeReaders,
  makeStdin,
  mapFailure,
  type Native,
  signalNumbers,
  type Source,
  type Subject,
  subjectOf,
  targetOf,
  Text,
  toBytes,
  Variables
} from "@effect-microsandbox/core/Extension"
import * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Sftp } from "../Sftp.ts"
import type {
  ConnectOptions,
  ExecOptions,
  ExitStatus,
  Handle,
  OpenOptions,
  Output,
  Pty,
  SpawnOptions,
  SshClient
} from "../SshClient.ts"

const defaultConnectTimeout = "15 seconds"

const defaultKeepalive = "15 seconds"

const defaultMaxOutput = 64 << 20

const defaultHighWater = 4 << 20

const killConfirm = "5 seconds"

const Name = Text.check(Schema.isMinLength(1))

const Key = Schema.Union([
  Schema.Redacted(Schema.String),
  Schema.Struct({ path: Name, passphrase: Schema.optional(Schema.Redacted(Schema.String)) }),
  Schema.Struct({ agent: Schema.Union([Schema.Literal(true), Name]) })
])

export const ConnectSchema = Schema.Struct({
  host: Schema.optional(Name),
  port: Schema.optional(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))),
  path: Schema.optional(Name),
  user: Name,
  key: Key,
  hostKey: Schema.Union([Name, Schema.NonEmptyArray(Name)]),
  connectTimeout: Schema.optional(Lifetime),
  keepalive: Schema.optional(Lifetime),
  inactivityTimeout: Schema.optional(Lifetime)
}).check(
  Schema.makeFilter(({ host, path, port }) =>
    path === undefined || (host === undefined && port === undefined) ||
    { path: ["path"], issue: "must not be given with host or port: a client connects to one of them" }
  ),
  Schema.makeFilter(({ host, path }) =>
    host !== undefined || path !== undefined ||
    { path: ["host"], issue: "must be the name or address of the server, unless path is its Unix socket" }
  )
)

const OpenSchema = Schema.Struct({ user: Schema.optional(Name) })

const Side = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))

const Size = Schema.Struct({ rows: Side, columns: Side })

const Signal = Schema.Struct({ signal: Schema.Literals(Object.keys(signalNumbers) as Array<Exec.SignalName>) })

const Input = Schema.declare(
  (input: unknown): input is Stream.Stream<string | Uint8Array, unknown, unknown> => Stream.isStream(input),
  { expected: "a stream" }
)

const What = {
  env: Schema.optional(Variables),
  timeout: Schema.optional(Lifetime),
  pty: Schema.optional(Schema.Union([
    Schema.Boolean,
    Schema.Struct({ rows: Schema.optional(Side), columns: Schema.optional(Side), term: Schema.optional(Name) })
  ]))
}

export const ExecSchema = Schema.Struct({
  ...What,
  command: Text,
  stdin: Schema.optional(Schema.Union([Schema.String, Schema.Uint8Array, Input])),
  maxOutput: Schema.optional(Bytes)
})

export const SpawnSchema = Schema.Struct({
  ...What,
  command: Schema.optional(Text),
  stdin: Schema.optional(Schema.Union([Schema.Literal("pipe"), Schema.Uint8Array, Input])),
  highWater: Schema.optional(Bytes)
})

/** None for one that has no end. */
const toMillis = (input: Duration.Input): number | undefined => {
  const millis = Duration.toMillis(Duration.fromInputUnsafe(input))
  return millis === Infinity ? undefined : millis
}

const toPty = (pty: boolean | Pty | undefined): Native.SshProgramOptions["pty"] => {
  if (pty === undefined || pty === false) return undefined
  const { columns = 80, rows = 24, term = "xterm-256color" } = pty === true ? {} : pty
  return { rows, columns, term }
}

/** Whether the input does not end at once. That of a terminal does not: OpenSSH's server would change its size no more. */
const isOpen = (pty: boolean | Pty | undefined, stdin: unknown): boolean =>
  stdin !== undefined || (pty !== undefined && pty !== false)

const toExit = ({ code, signal }: Native.SshExit): ExitStatus => ({
  exitCode: code ?? undefined,
  signal: signal === undefined ? undefined : `SIG${signal}`,
  success: code === 0
})

const decoder = new TextDecoder()

/** Decodes text only when it is asked for. */
class Collected implements Output {
  readonly exitCode: number | undefined
  readonly signal: string | undefined
  readonly success: boolean
  readonly stdoutBytes: Uint8Array
  readonly stderrBytes: Uint8Array

  constructor(exit: ExitStatus, stdout: Uint8Array, stderr: Uint8Array) {
    this.exitCode = exit.exitCode
    this.signal = exit.signal
    this.success = exit.success
    this.stdoutBytes = stdout
    this.stderrBytes = stderr
  }

  get stdout(): string {
    return decoder.decode(this.stdoutBytes)
  }

  get stderr(): string {
    return decoder.decode(this.stderrBytes)
  }
}

/** What the operations of one client share. */
interface Client {
  readonly native: Native.Native["Service"]
  readonly handle: Native.SshClient
  /** What every span says. */
  readonly attributes: Record<string, unknown>
  readonly subject: (operation: string) => Subject
}

/** The addon's side of each client. */
const clients = new WeakMap<SshClient, Client>()

const release = (program: Native.SshProgram): Effect.Effect<void> =>
  Effect.flatMap(
    Effect.promise(() => program.close()),
    ({ confirmed }) => confirmed ? Effect.void : Effect.logWarning("the SSH server did not tell the end of a program")
  )

const start = ({ handle, native }: Client, subject: Subject, options: Native.SshProgramOptions) =>
  native.acquire((token) => handle.spawn(options, token), release).pipe(mapFailure(subject))

const toOptions = (
  { command, env, pty, timeout }: typeof ExecSchema.Type | typeof SpawnSchema.Type,
  rest: Pick<Native.SshProgramOptions, "collected" | "limit" | "stdin">
): Native.SshProgramOptions => ({
  ...defined({ command, env, pty: toPty(pty), timeoutMs: timeout === undefined ? undefined : toMillis(timeout) }),
  ...rest
})

const makeExec = (client: Client): SshClient["exec"] => {
  const { attributes, native } = client
  const subject = client.subject("SshClient.exec")
  const decode = decodeOptions(ExecSchema, subject)
  return Effect.fn("SshClient.exec", { attributes })(function*<E = never, R = never>(
    command: string,
    options: ExecOptions<E, R> = {}
  ): Effect.fn.Return<Output, MicrosandboxError.MicrosandboxError | E, R> {
    const given = yield* decode({ ...options, command })
    // What was given, and is checked: the schema does not know what a stream fails with.
    const { stdin } = options
    const limit = given.maxOutput === undefined ? defaultMaxOutput : toBytes(given.maxOutput)
    const what = toOptions(given, { collected: true, limit, stdin: isOpen(given.pty, stdin) })
    const run: Effect.Effect<Output, MicrosandboxError.MicrosandboxError | E, R> = Effect.scoped(
      Effect.gen(function*() {
        const program = yield* start(client, subject, what)
        const output = native.call((token) => program.collect(token)).pipe(
          mapFailure(subject),
          Effect.map(({ exit, stderr, stdout }) => new Collected(toExit(exit), stdout, stderr))
        )
        if (stdin === undefined) return yield* output
        const source = Stream.isStream(stdin) ? stdin : Stream.make(stdin)
        const fed = Effect.catchIf(
          Stream.run(source, makeStdin(native, program, subject)),
          // A program that reads no more is no failure: its exit tells.
          (error) => error instanceof MicrosandboxError.MicrosandboxError && error.reason._tag === "StdinFailed",
          () => Effect.void
        )
        // The program may end before its input does.
        return yield* Effect.raceFirst(output, Effect.andThen(fed, Effect.never))
      })
    )
    const collected = yield* run
    if (collected.exitCode !== undefined) yield* Effect.annotateCurrentSpan("process.exit.code", collected.exitCode)
    return collected
  })
}

/** The program was killed for one of its limits, or nobody was told how it ended: it has ended. */
const isEnd = ({ reason }: MicrosandboxError.MicrosandboxError): boolean =>
  reason._tag === "ExecTimeout" || reason._tag === "OutputOverflow" || reason._tag === "SshNoExitStatus"

const makeSpawn = (client: Client, operation: string) => {
  const { attributes, native } = client
  const subject = client.subject(operation)
  const decode = decodeOptions(SpawnSchema, subject)
  const decodeSignal = decodeOptions(Signal, subject)
  const decodeSize = decodeOptions(Size, subject)
  const unconfirmed = new MicrosandboxError.MicrosandboxError({
    ...subject,
    reason: new MicrosandboxError.KillTimeout({
      message: `the server did not tell the end of the program within ${killConfirm}`
    })
  })
  return Effect.fn(operation, { attributes })(function*(
    command: string | undefined,
    options: SpawnOptions
  ): Effect.fn.Return<Handle, MicrosandboxError.MicrosandboxError, Scope.Scope> {
    const given = yield* decode({ ...options, command })
    const { stdin } = options
    const limit = given.highWater === undefined ? defaultHighWater : toBytes(given.highWater)
    const program = yield* start(
      client,
      subject,
      toOptions(given, { collected: false, limit, stdin: isOpen(given.pty, stdin) })
    )
    const input = makeStdin(native, program, subject)
    if (stdin !== undefined && stdin !== "pipe") {
      const source = Stream.isStream(stdin) ? stdin : Stream.make(stdin)
      // What it does not read, it does not want; what else is wrong, every reader is told.
      yield* Effect.forkScoped(Effect.ignore(Stream.run(source, input)))
    }
    const readers = yield* makeReaders(native, program, subject)
    const data = (event: Exec.ExecEvent) => event._tag === "Stdout" || event._tag === "Stderr" ? event.data : undefined
    const exitStatus = native.call((token) => program.wait(token)).pipe(mapFailure(subject), Effect.map(toExit))
    const signal = (name: string) =>
      native.call((token) => program.signal(name.slice(3), token)).pipe(mapFailure(subject))
    return {
      stdin: input,
      stdout: readers("stdout", data),
      stderr: readers("stderr", data),
      all: readers("all", data),
      exitStatus,
      signal: (name) => Effect.flatMap(decodeSignal({ signal: name }), (given) => signal(given.signal)),
      kill: Effect.andThen(signal("SIGKILL"), Effect.catchIf(Effect.asVoid(exitStatus), isEnd, () => Effect.void)).pipe(
        Effect.timeoutOrElse({ duration: killConfirm, orElse: () => Effect.fail(unconfirmed) })
      ),
      resize: (rows, columns) =>
        Effect.andThen(
          decodeSize({ rows, columns }),
          native.call((token) => program.resize(rows, columns, token)).pipe(mapFailure(subject))
        )
    }
  })
}

/** What a program of a guest or this host's kernel does elsewhere, the server does, if it can. */
const makeTools = (files: Native.Sftp): Source<Native.SftpFile>["tools"] => ({ call }) => ({
  sync: (path, file) => call("sync", path, (token) => file.sync(token)),
  link: (from, to, path) => call("link", path, (token) => files.fileLink(from, to, token)),
  access: (path, wants, given) =>
    call("access", given, (token) => files.fileAccess(path, wants.includes("-r"), wants.includes("-w"), token))
})

const makeSftp = ({ attributes, handle, native, subject }: Client) =>
  native.acquire(
    (token) => handle.sftp(token),
    (files) => Effect.promise(() => files.close())
  ).pipe(
    mapFailure(subject("Sftp.make")),
    Effect.map((files): Sftp => {
      const path = makePath(files.home)
      const fs = makeFileSystemOf<Native.SftpFile>({
        native,
        files,
        workdir: files.home,
        temporary: "/tmp",
        attributes,
        subject,
        tools: makeTools(files)
      }, path)
      return { fs, path, home: files.home, extensions: files.extensions }
    }),
    Effect.withSpan("Sftp.make", { attributes })
  )

export const sftp = (client: SshClient): Effect.Effect<Sftp, MicrosandboxError.MicrosandboxError, Scope.Scope> => {
  const known = clients.get(client)
  return known === undefined
    ? Effect.die(new TypeError("this is no client that this SDK has made, but perhaps a copy of one"))
    : makeSftp(known)
}

const makeClient = (client: Client): SshClient => {
  const spawn = makeSpawn(client, "SshClient.spawn")
  const shell = makeSpawn(client, "SshClient.shell")
  const made: SshClient = {
    hostKey: client.handle.fingerprint,
    exec: makeExec(client),
    spawn: (command, options = {}) => spawn(command, options),
    shell: (options = {}) => shell(undefined, { stdin: "pipe", ...options }),
    sftp: Effect.map(makeSftp(client), ({ fs }) => fs)
  }
  clients.set(made, client)
  return made
}

const acquire = (
  native: Native.Native["Service"],
  run: (token: Native.CancelToken) => Promise<Native.Outcome<Native.SshClient>>
) => native.acquire(run, (handle) => Effect.promise(() => handle.close()))

/** Without the value, which may be a secret in the wrong place. */
const noAgent = (subject: Subject) =>
  new MicrosandboxError.MicrosandboxError({
    ...subject,
    reason: new MicrosandboxError.InvalidConfig({
      message: "key.agent: SSH_AUTH_SOCK is not set; start an agent, or give the path of its socket",
      field: "key.agent"
    })
  })

type Identity = Partial<Record<"agent" | "key" | "keyPath" | "passphrase", string | undefined>>

const toIdentity = (
  key: typeof Key.Type,
  subject: Subject
): Effect.Effect<Identity, MicrosandboxError.MicrosandboxError> => {
  if (Redacted.isRedacted(key)) return Effect.succeed({ key: Redacted.value(key) })
  if ("path" in key) {
    const { passphrase, path } = key
    return Effect.succeed({
      keyPath: path,
      passphrase: passphrase === undefined ? undefined : Redacted.value(passphrase)
    })
  }
  return key.agent === true
    ? Config.NonEmptyString("SSH_AUTH_SOCK").pipe(
      Effect.mapError(() => noAgent(subject)),
      Effect.map((agent) => ({ agent }))
    )
    : Effect.succeed({ agent: key.agent })
}

export const connect = (
  options: ConnectOptions
): Effect.Effect<SshClient, MicrosandboxError.MicrosandboxError, Backend.Backend | Scope.Scope> => {
  const subject: Subject = { operation: "SshClient.connect" }
  return Effect.gen(function*() {
    const { native } = yield* Backend.Backend
    const {
      connectTimeout = defaultConnectTimeout,
      hostKey,
      inactivityTimeout = Infinity,
      keepalive = defaultKeepalive,
      key,
      ...given
    } = yield* decodeOptions(ConnectSchema, subject)(options)
    const identity = yield* toIdentity(key, subject)
    const attributes = defined({ "server.address": given.path ?? given.host, "server.port": given.port })
    yield* Effect.annotateCurrentSpan(attributes)
    const handle = yield* acquire(native, (token) =>
      native.engine.sshConnect({
        ...defined({
          ...given,
          ...identity,
          keepaliveMs: toMillis(keepalive),
          inactivityMs: toMillis(inactivityTimeout)
        }),
        user: given.user,
        hostKeys: typeof hostKey === "string" ? [hostKey] : [...hostKey],
        connectMs: Duration.toMillis(Duration.fromInputUnsafe(connectTimeout))
      }, token)).pipe(mapFailure(subject))
    return makeClient({ native, handle, attributes, subject: (operation) => ({ operation }) })
  }).pipe(Effect.withSpan("SshClient.connect"))
}

export const open = (
  sandbox: Sandbox.Sandbox,
  options: OpenOptions = {}
): Effect.Effect<SshClient, MicrosandboxError.MicrosandboxError, Scope.Scope> =>
  Effect.flatMap(targetOf(sandbox), (target) => {
    const { native } = target
    const subject = subjectOf("SshClient.open", target)
    const attributes = attributesOf(target)
    return Effect.gen(function*() {
      const { user } = yield* decodeOptions(OpenSchema, subject)(options)
      const handle = yield* acquire(native, (token) => target.handle.sshClient(user ?? null, token)).pipe(
        mapFailure(subject)
      )
      return makeClient({ native, handle, attributes, subject: (operation) => subjectOf(operation, target) })
    }).pipe(Effect.withSpan("SshClient.open", { attributes }))
  })
