/** The files of a guest, or of a volume, as Effect's `FileSystem`: what Node's does, in one crossing for each operation. */
import type { Native } from "@effect-microsandbox/native"
import * as Arr from "effect/Array"
import * as ByteSize from "effect/ByteSize"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import type * as Path from "effect/Path"
import * as PlatformError from "effect/PlatformError"
import type * as Pull from "effect/Pull"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import { MicrosandboxError } from "../MicrosandboxError.ts"
import { makeCopy } from "./copy.ts"
import { spawn } from "./exec.ts"
import { mapFailure, type Subject, toError } from "./failure.ts"
import { defined } from "./inputs.ts"
import { attributesOf, subjectOf, type Target } from "./operation.ts"
import { toPlatformError } from "./platformError.ts"
import { type Operations, watch } from "./watch.ts"

/** What `readFile` holds in memory at most; more is for `stream`. */
const readLimit = 2 ** 30

/** What crosses the border at once when a file is streamed. */
const batchBytes = 1 << 20

/** The addon's own limit for one read. */
const crossingBytes = 4 << 20

const typeMask = 0o170000

const types: Readonly<Record<number, FileSystem.File.Type>> = {
  0o100000: "File",
  0o040000: "Directory",
  0o120000: "SymbolicLink",
  0o060000: "BlockDevice",
  0o020000: "CharacterDevice",
  0o010000: "FIFO",
  0o140000: "Socket"
}

const openFlags: ReadonlySet<string> = new Set(["r", "r+", "w", "wx", "w+", "wx+", "a", "ax", "a+", "ax+"])

const typeOf = ({ mode }: Native.FileInfo): FileSystem.File.Type => types[mode & typeMask] ?? "Unknown"

/** A guest may say any number; one that is no date is no time. To the millisecond that is nearest, as Node does. */
const toDate = (seconds: number | undefined): Option.Option<Date> => {
  const date = new Date(Math.round((seconds ?? NaN) * 1000))
  return Number.isNaN(date.getTime()) ? Option.none() : Option.some(date)
}

/** The protocol has neither devices nor inodes; one sandbox is one device. */
const toFileInfo = (info: Native.FileInfo): FileSystem.File.Info => {
  const node = Option.fromUndefinedOr(info.node)
  return {
    type: typeOf(info),
    mtime: toDate(info.modifiedAt),
    atime: toDate(info.accessedAt),
    birthtime: Option.none(),
    dev: info.node?.device ?? 0n,
    rdev: Option.map(node, ({ special }) => special),
    ino: Option.map(node, ({ number }) => number),
    mode: info.mode,
    nlink: Option.map(node, ({ links }) => links),
    uid: Option.some(info.uid),
    gid: Option.some(info.gid),
    size: ByteSize.bytes(BigInt(info.size)),
    blksize: Option.map(node, ({ blockSize }) => ByteSize.bytes(blockSize)),
    blocks: Option.map(node, ({ blocks }) => blocks)
  }
}

const badArgument = (method: string, description: string): PlatformError.PlatformError =>
  PlatformError.badArgument({ module: "FileSystem", method, description })

const refuse = (method: string, path: string, tag: PlatformError.SystemErrorTag, description: string) =>
  Effect.fail(
    PlatformError.systemError({ module: "FileSystem", method, _tag: tag, pathOrDescriptor: path, description })
  )

/** A copy: the addon reads it on another thread, where it must not move with a buffer that its owner transfers. */
const toBuffer = (data: Uint8Array): Buffer => Buffer.from(data)

type Failing<A> = Effect.Effect<A, PlatformError.PlatformError>

/** The methods of an open file that the addon has for one of a guest and for one of a volume. */
interface OpenFile extends Pick<Native.GuestFile, "read" | "set" | "stat" | "write"> {
  /** `abandoned`: its writer has failed. A file that is not in its place before it is closed does not take it then. */
  readonly close: (abandoned?: boolean) => Promise<Native.Outcome<void>>
}

type Method =
  | "fileCopy"
  | "fileList"
  | "fileMakeDirectory"
  | "fileRead"
  | "fileReadLink"
  | "fileRealPath"
  | "fileRemove"
  | "fileRename"
  | "fileSet"
  | "fileStat"
  | "fileSymlink"
  | "fileWrite"

/** The methods that the addon has for the files of a guest and for those of a volume. */
export interface Files<File extends OpenFile> extends Pick<Native.Sandbox, Method> {
  readonly fileOpen: (
    path: string,
    options: Native.OpenOptions,
    token: Native.CancelToken
  ) => Promise<Native.Outcome<File>>
}

/** What is done differently in a guest, whose agent cannot, and on this host. */
export interface Tools<File> {
  readonly sync: (path: string, file: File) => Failing<void>
  readonly link: (from: string, to: string, path: string) => Failing<void>
  readonly access: (path: string, wants: ReadonlyArray<"-r" | "-w">, given: string) => Failing<void>
  /** How a program is started that tells of changes; without it they are found by looking. */
  readonly start?: Operations["start"]
}

/** Whose files these are. */
export interface Source<File extends OpenFile> {
  readonly native: Native.Native["Service"]
  readonly files: Files<File>
  /** What a path that does not begin with `/` is relative to. */
  readonly workdir: string
  /** Where temporary files are made. */
  readonly temporary: string
  /** What every span says. */
  readonly attributes: Record<string, unknown>
  /** What an error names. */
  readonly subject: (operation: string) => Subject
  readonly tools: (run: Run) => Tools<File>
}

/** What the operations below share: a crossing of the border with its span and its errors. */
export const makeRun = ({ attributes, native, subject, workdir }: Omit<Source<OpenFile>, "files" | "tools">) => {
  const absolute = (path: string): string => path === "" || path.startsWith("/") ? path : `${workdir}/${path}`

  const check = (method: string, ...paths: ReadonlyArray<string>): Failing<void> =>
    paths.some((path) => path.includes("\0")) ? Effect.fail(badArgument(method, "a path holds no NUL")) : Effect.void

  const call = <A>(
    method: string,
    path: string,
    run: (token: Native.CancelToken) => Promise<Native.Outcome<A>>
  ): Failing<A> =>
    native.call(run).pipe(
      mapFailure(subject(`FileSystem.${method}`)),
      Effect.mapError(toPlatformError("FileSystem", method, path))
    )

  const span = (method: string) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.withSpan(effect, `FileSystem.${method}`, { attributes })

  /** One operation that is one crossing. */
  const one = <A>(
    method: string,
    path: string,
    run: (path: string, token: Native.CancelToken) => Promise<Native.Outcome<A>>
  ): Failing<A> =>
    Effect.andThen(check(method, path), call(method, path, (token) => run(absolute(path), token))).pipe(span(method))

  return { absolute, call, check, one, span }
}

export type Run = ReturnType<typeof makeRun>

const openOptions = (
  method: string,
  options: { readonly flag?: string | undefined; readonly mode?: number | undefined } | undefined,
  flag: FileSystem.OpenFlag,
  noFollow = false
): Failing<Native.OpenOptions> => {
  const given = options?.flag ?? flag
  return openFlags.has(given)
    ? Effect.map(
      checkMode(method, options?.mode),
      (mode) => defined({ flag: given, mode, noFollow }) as Native.OpenOptions
    )
    : Effect.fail(badArgument(method, `no such flag: ${given}`))
}

export const checkMode = (method: string, mode: number | undefined): Failing<number | undefined> =>
  mode === undefined || (Number.isInteger(mode) && mode >= 0 && mode < 2 ** 32)
    ? Effect.succeed(mode)
    : Effect.fail(badArgument(method, "a mode is an integer from 0 to 4294967295"))

/** -1 leaves what is there. */
const checkOwner = (method: string, id: number): Failing<number | undefined> =>
  Number.isInteger(id) && id >= -1 && id < 2 ** 32
    ? Effect.succeed(id === -1 || id === 2 ** 32 - 1 ? undefined : id)
    : Effect.fail(badArgument(method, "an owner is an integer from 0 to 4294967294, or -1"))

const checkLength = (method: string, length: number | undefined): Failing<number> =>
  length === undefined
    ? Effect.succeed(0)
    : Number.isInteger(length)
    ? Effect.succeed(Math.max(0, length))
    : Effect.fail(badArgument(method, "a length is an integer"))

/** Seconds since 1970, as Node reads them: what is before is now. */
const toSeconds = (time: Date | number): Failing<number> => {
  if (time instanceof Date) {
    const seconds = time.getTime() / 1000
    return Number.isNaN(seconds)
      ? refuse("utime", "", "Unknown", "an invalid date")
      : Effect.succeed(seconds)
  }
  return Number.isFinite(time)
    ? Effect.map(
      Effect.clockWith((clock) => clock.currentTimeMillis),
      (now) => time < 0 ? now / 1000 : time
    )
    : Effect.fail(badArgument("utime", "a time is a date or a number of seconds"))
}

const toPosition = (method: string, position: bigint): Failing<number> =>
  position <= BigInt(Number.MAX_SAFE_INTEGER)
    ? Effect.succeed(Number(position))
    : Effect.fail(badArgument(method, `position exceeds the safe integer range: ${position}`))

/** An open file. Its cursor is here, as Node's is; one operation at a time moves it. */
class CursorFile implements FileSystem.File {
  readonly [FileSystem.FileTypeId]: typeof FileSystem.FileTypeId = FileSystem.FileTypeId
  readonly stat: Failing<FileSystem.File.Info>
  readonly sync: Failing<void>
  private readonly file: OpenFile
  private readonly path: string
  private readonly append: boolean
  private readonly call: Run["call"]
  private readonly one = Semaphore.makeUnsafe(1)
  private position = 0n

  constructor(
    file: OpenFile,
    path: string,
    append: boolean,
    call: Run["call"],
    sync: Failing<void>
  ) {
    this.file = file
    this.path = path
    this.append = append
    this.call = call
    this.sync = sync
    this.stat = Effect.map(call("stat", path, (token) => file.stat(token)), toFileInfo)
  }

  seek(offset: bigint, from: FileSystem.SeekMode): Failing<bigint> {
    return this.one.withPermit(Effect.suspend(() => {
      const position = from === "start" ? offset : this.position + offset
      if (position < 0n) return Effect.fail(badArgument("seek", "Cannot seek before the start of the file"))
      this.position = position
      return Effect.succeed(position)
    }))
  }

  /** Fills `size` bytes as far as the file goes; moves the cursor unless a position is given. */
  private readonly take = Effect.fnUntraced(function*(
    this: CursorFile,
    method: string,
    size: number,
    explicit: bigint | undefined
  ) {
    if (explicit !== undefined && explicit < 0n) {
      return yield* badArgument(method, "Cannot read before the start of the file")
    }
    const position = explicit ?? this.position
    const parts: Array<Uint8Array> = []
    let length = 0
    while (length < size) {
      const offset = Number(position) + length
      const wanted = Math.min(size - length, crossingBytes)
      const part = yield* this.call(method, this.path, (token) => this.file.read(offset, wanted, token))
      if (part.length > 0) parts.push(part)
      length += part.length
      if (part.length < wanted) break
    }
    if (explicit === undefined) this.position = position + BigInt(length)
    return parts.length === 1 ? parts[0]! : Buffer.concat(parts)
  })

  read(buffer: Uint8Array, options?: FileSystem.File.ReadOptions): Failing<number> {
    return this.one.withPermit(Effect.map(this.take("read", buffer.length, options?.position), (data) => {
      buffer.set(data)
      return data.length
    }))
  }

  readAlloc(size: number, options?: FileSystem.File.ReadOptions): Failing<Option.Option<Uint8Array>> {
    return Number.isInteger(size) && size >= 0
      ? this.one.withPermit(Effect.map(
        this.take("readAlloc", size, options?.position),
        (data) => data.length === 0 ? Option.none() : Option.some(data)
      ))
      : Effect.fail(badArgument("readAlloc", "size must be a non-negative integer"))
  }

  truncate(length?: number): Failing<void> {
    return this.one.withPermit(
      Effect.flatMap(checkLength("truncate", length), (size) =>
        Effect.map(
          this.call("truncate", this.path, (token) => this.file.set({ size }, token)),
          () => {
            if (!this.append && this.position > BigInt(size)) this.position = BigInt(size)
          }
        ))
    )
  }

  private put(method: string, buffer: Uint8Array): Failing<number> {
    return this.one.withPermit(Effect.suspend(() =>
      buffer.length === 0
        ? Effect.succeed(0)
        : Effect.flatMap(
          this.append ? Effect.succeed(0) : toPosition(method, this.position),
          (offset) =>
            Effect.map(
              this.call(method, this.path, (token) => this.file.write(offset, toBuffer(buffer), token)),
              () => {
                if (!this.append) this.position += BigInt(buffer.length)
                return buffer.length
              }
            )
        )
    ))
  }

  write(buffer: Uint8Array): Failing<number> {
    return this.put("write", buffer)
  }

  writeAll(buffer: Uint8Array): Failing<void> {
    return Effect.asVoid(this.put("writeAll", buffer))
  }
}

/** What these programs print is a message. */
const toolOutput = { _tag: "Fail", limit: 1 << 20 } as const

/** What a program of the guest does instead of its agent, which cannot. */
const makeTools = (target: Target, { call }: Run): Tools<unknown> => {
  const spawnWatch = spawn("FileSystem.watch", target)
  const exec = (method: string, path: string, command: string, args: Array<string>, user?: string) =>
    call(method, path, (token) => target.handle.exec(defined({ command, args, user, output: toolOutput }), token)).pipe(
      Effect.catchTag(
        "PlatformError",
        (error) =>
          error.cause instanceof MicrosandboxError && error.cause.reason._tag === "ExecFailed" &&
            error.cause.reason.kind === "NotFound"
            ? refuse(method, path, "Unknown", `this needs the program ${command} in the guest, which has none`)
            : Effect.fail(error)
      )
    )
  const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes).trim()

  return {
    /** Data that the guest has written goes to its disk; the agent's protocol has no word for one file. */
    sync: (path) =>
      Effect.flatMap(
        exec("sync", path, "sync", [], "0"),
        ({ exitCode, stderr }) => exitCode === 0 ? Effect.void : refuse("sync", path, "Unknown", text(stderr))
      ),

    link: (from, to, path) =>
      Effect.flatMap(exec("link", path, "ln", ["--", from, to], "0"), ({ exitCode, stderr }) => {
        if (exitCode === 0) return Effect.void
        const why = text(stderr)
        const tag = /file exists/i.test(why)
          ? "AlreadyExists"
          : /not permitted|permission denied/i.test(why)
          ? "PermissionDenied"
          : /no such file/i.test(why)
          ? "NotFound"
          : "Unknown"
        return refuse("link", path, tag, why)
      }),

    /** Whether the sandbox's user may, and not the agent, which is root: the guest's kernel says so. */
    access: (path, wants, given) => {
      const script = `for want in "$@"; do test "$want" "$path" || exit 13; done`
      return Effect.flatMap(
        call("access", given, (token) =>
          target.handle.exec(
            { command: target.handle.shell, args: ["-c", script, "sh", ...wants], env: { path }, output: toolOutput },
            token
          )),
        ({ exitCode, stderr }) =>
          exitCode === 0
            ? Effect.void
            : refuse("access", given, exitCode === 13 ? "PermissionDenied" : "Unknown", text(stderr))
      )
    },

    // As the agent, which everything else of this file system is done by.
    start: (command, args) => spawnWatch(command, args, { user: "0" })
  }
}

/** The files of a guest. */
export const makeFileSystem = (target: Target, path: Path.Path): FileSystem.FileSystem =>
  makeFileSystemOf({
    native: target.native,
    files: target.handle,
    workdir: target.handle.workdir ?? "/",
    temporary: "/tmp",
    attributes: attributesOf(target),
    subject: (operation) => subjectOf(operation, target),
    tools: (run) => makeTools(target, run)
  }, path)

/** `path` is of the same file system. */
export const makeFileSystemOf = <File extends OpenFile>(
  source: Source<File>,
  path: Path.Path
): FileSystem.FileSystem => {
  const run = makeRun(source)
  const { absolute, call, check, one, span } = run
  const { files, native, subject, temporary } = source
  const tools = source.tools(run)

  const statAs = (method: string, at: string, follow: boolean) =>
    one(method, at, (at, token) => files.fileStat(at, follow, token))

  const stat = (at: string) => Effect.map(statAs("stat", at, true), toFileInfo)
  const lstat = (at: string) => Effect.map(statAs("lstat", at, false), toFileInfo)

  const realPathAs = (method: string, at: string) =>
    // By its text first, as Node does it.
    one(method, at, (_, token) => files.fileRealPath(path.resolve(at), token))
  const readLinkAs = (method: string, at: string) => one(method, at, (at, token) => files.fileReadLink(at, token))
  const symlinkAs = (method: string, to: string, at: string) =>
    Effect.andThen(
      check(method, to),
      one(method, at, (at, token) => files.fileSymlink(to, at, token))
    )
  const removeAs = (
    method: string,
    at: string,
    options?: { readonly recursive?: boolean | undefined; readonly force?: boolean | undefined }
  ) =>
    one(
      method,
      at,
      (at, token) => files.fileRemove(at, options?.recursive ?? false, options?.force ?? false, token)
    )
  const makeDirectoryAs = (method: string, at: string, recursive: boolean, mode?: number) =>
    Effect.flatMap(
      checkMode(method, mode),
      (mode) => one(method, at, (at, token) => files.fileMakeDirectory(at, recursive, mode, token))
    )
  const copyFileAs = (method: string, from: string, to: string) =>
    Effect.andThen(
      check(method, to),
      one(method, from, (from, token) => files.fileCopy(from, absolute(to), token))
    )
  const setAs = (method: string, at: string, attributes: Native.FileAttributes) =>
    one(method, at, (at, token) => files.fileSet(at, attributes, token))
  const listAs = (method: string, at: string, recursive: boolean) =>
    one(method, at, (at, token) => files.fileList(at, recursive, token))

  const chmodAs = (method: string, at: string, mode: number) =>
    Effect.flatMap(checkMode(method, mode), (mode) => setAs(method, at, defined({ mode })))

  const writeFile: FileSystem.FileSystem["writeFile"] = (at, data, options) =>
    Effect.flatMap(
      openOptions("writeFile", options, "w"),
      (how) => one("writeFile", at, (at, token) => files.fileWrite(at, toBuffer(data), how, token))
    )

  const openAs = (
    method: string,
    at: string,
    options?: {
      readonly flag?: FileSystem.OpenFlag | undefined
      readonly mode?: number | undefined
      readonly noFollow?: boolean | undefined
    }
  ): Effect.Effect<CursorFile, PlatformError.PlatformError, Scope.Scope> =>
    Effect.gen(function*() {
      yield* check(method, at)
      const how = yield* openOptions(method, options, "r", options?.noFollow ?? false)
      let abandoned = false
      const file = yield* native.acquire(
        (token) => files.fileOpen(absolute(at), how, token),
        (file) => close(subject("FileSystem.close"), method, at, () => file.close(abandoned))
      ).pipe(
        mapFailure(subject(`FileSystem.${method}`)),
        Effect.mapError(toPlatformError("FileSystem", method, at))
      )
      // The last to be added is the first to be run.
      yield* Effect.addFinalizer((exit) =>
        Effect.sync(() => {
          abandoned = Exit.isFailure(exit)
        })
      )
      return new CursorFile(file, at, how.flag.startsWith("a"), call, tools.sync(at, file))
    }).pipe(span(method))

  const makeTempDirectoryAs = (method: string) =>
    Effect.fnUntraced(function*(
      options?: { readonly directory?: string | undefined; readonly prefix?: string | undefined }
    ) {
      const prefix = options?.prefix ?? ""
      const directory = options?.directory === undefined ? temporary : path.join(options.directory, ".")
      const random = crypto.randomUUID().replaceAll("-", "").slice(0, 16)
      const at = `${prefix === "" ? directory.replace(/\/?$/, "/") : path.join(directory, prefix)}${random}`
      yield* makeDirectoryAs(method, at, false, 0o700)
      return at
    })

  const makeTempFileAs = (method: string): FileSystem.FileSystem["makeTempFile"] => {
    const makeDirectory = makeTempDirectoryAs(method)
    return Effect.fnUntraced(function*(options) {
      const directory = yield* makeDirectory(options)
      const at = path.join(directory, `${crypto.randomUUID().slice(0, 13)}${options?.suffix ?? ""}`)
      yield* writeFile(at, new Uint8Array(0))
      return at
    })
  }
  const makeTempDirectory = makeTempDirectoryAs("makeTempDirectoryScoped")
  const makeTempFile = makeTempFileAs("makeTempFileScoped")

  const copy = makeCopy({
    path,
    stat: statAs,
    list: listAs,
    realPath: realPathAs,
    readLink: readLinkAs,
    symlink: symlinkAs,
    copyFile: copyFileAs,
    makeDirectory: makeDirectoryAs,
    remove: removeAs,
    set: setAs
  })

  const fs = FileSystem.make({
    access: (at, options) =>
      Effect.gen(function*() {
        yield* statAs("access", at, true)
        const wants = [
          ...(options?.readable === true ? ["-r" as const] : []),
          ...(options?.writable === true ? ["-w" as const] : [])
        ]
        if (wants.length > 0) yield* tools.access(absolute(at), wants, at)
      }),
    copy: (from, to, options) => span("copy")(copy(from, to, options)),
    copyFile: (from, to) => copyFileAs("copyFile", from, to),
    chmod: (at, mode) => chmodAs("chmod", at, mode),
    chown: (at, uid, gid) =>
      Effect.flatMap(
        Effect.all([checkOwner("chown", uid), checkOwner("chown", gid)]),
        ([uid, gid]) => setAs("chown", at, defined({ uid, gid }))
      ),
    link: (from, to) =>
      Effect.gen(function*() {
        const info = yield* statAs("link", from, false)
        if (typeOf(info) === "Directory") {
          return yield* refuse("link", from, "PermissionDenied", "a directory has no second name")
        }
        yield* check("link", to)
        const there = yield* Effect.option(statAs("link", to, false))
        if (Option.isSome(there)) return yield* refuse("link", from, "AlreadyExists", `${to} exists`)
        yield* tools.link(absolute(from), absolute(to), from)
      }),
    lstat,
    makeDirectory: (at, options) => makeDirectoryAs("makeDirectory", at, options?.recursive ?? false, options?.mode),
    makeTempDirectory: makeTempDirectoryAs("makeTempDirectory"),
    makeTempDirectoryScoped: (options) =>
      Effect.acquireRelease(
        makeTempDirectory(options),
        (at) => whileThere(removeAs("makeTempDirectoryScoped", at, { recursive: true, force: true }))
      ),
    makeTempFile: makeTempFileAs("makeTempFile"),
    makeTempFileScoped: (options) =>
      Effect.acquireRelease(
        makeTempFile(options),
        (at) => whileThere(removeAs("makeTempFileScoped", path.dirname(at), { recursive: true, force: true }))
      ),
    open: (at, options) => openAs("open", at, options),
    readDirectory: (at, options) =>
      Effect.map(
        listAs("readDirectory", at, options?.recursive ?? false),
        (entries) => entries.map((entry) => entry.path)
      ),
    readDirectoryEntries: (at) =>
      Effect.map(
        listAs("readDirectoryEntries", at, false),
        (entries) => entries.map(({ info, path }) => ({ name: path, type: typeOf(info) }))
      ),
    readFile: (at) => one("readFile", at, (at, token) => files.fileRead(at, readLimit, token)),
    readLink: (at) => readLinkAs("readLink", at),
    realPath: (at) => realPathAs("realPath", at),
    remove: (at, options) => removeAs("remove", at, options),
    rename: (from, to) =>
      Effect.andThen(
        check("rename", to),
        one("rename", from, (from, token) => files.fileRename(from, absolute(to), token))
      ),
    stat,
    symlink: (to, at) => symlinkAs("symlink", to, at),
    truncate: (at, length) =>
      Effect.flatMap(checkLength("truncate", length), (size) => setAs("truncate", at, { size })),
    utimes: (at, atime, mtime) =>
      Effect.flatMap(
        Effect.all([toSeconds(atime), toSeconds(mtime)]),
        ([accessedAt, modifiedAt]) => setAs("utime", at, { accessedAt, modifiedAt })
      ),
    watch: (at, options) => watch({ absolute, list: listAs, path, start: tools.start, stat: statAs }, at, options),
    writeFile
  })

  return {
    ...fs,
    stream: (at, options = {}) =>
      Stream.unwrap(Effect.gen(function*() {
        const { bytesToRead, chunkSize = batchBytes, offset } = options
        if (!Number.isInteger(chunkSize) || chunkSize < 0) {
          return yield* badArgument("stream", "chunkSize must be a non-negative integer")
        }
        const file = yield* openAs("stream", at)
        if (offset !== undefined) yield* file.seek(ByteSize.fromInputUnsafe(offset), "start")
        return chunks(file, chunkSize, bytesToRead === undefined ? undefined : ByteSize.fromInputUnsafe(bytesToRead))
      })),
    sink: (at, options) =>
      Sink.unwrap(
        Effect.map(openAs("sink", at, { ...options, flag: options?.flag ?? "w" }), (file) =>
          Sink.forEachArray((pieces: Arr.NonEmptyReadonlyArray<Uint8Array>) =>
            file.writeAll(Buffer.concat(pieces))
          ))
      )
  }
}

/** Reads as much as is worth a crossing, and hands it out in the size that was asked for. */
const chunks = (
  file: CursorFile,
  chunkSize: number,
  bytesToRead: bigint | undefined
): Stream.Stream<Uint8Array, PlatformError.PlatformError> => {
  const batch = chunkSize * Math.max(1, Math.floor(batchBytes / Math.max(1, chunkSize)))
  let left = bytesToRead
  return Stream.fromPull(Effect.succeed(
    Effect.suspend((): Pull.Pull<Arr.NonEmptyReadonlyArray<Uint8Array>, PlatformError.PlatformError> => {
      const size = left === undefined || left > BigInt(batch) ? batch : Number(left)
      if (size === 0) return Cause.done()
      return Effect.flatMap(file.readAlloc(size), (read): Pull.Pull<Arr.NonEmptyReadonlyArray<Uint8Array>> => {
        if (Option.isNone(read)) return Cause.done()
        if (left !== undefined) left -= BigInt(read.value.length)
        return Effect.succeed(Arr.map(
          Arr.range(0, Math.ceil(read.value.length / chunkSize) - 1),
          (index) => read.value.subarray(index * chunkSize, (index + 1) * chunkSize)
        ))
      })
    })
  ))
}

/** A file that cannot be closed has lost data, and says so loudly, as Node's does; a sandbox that has gone has lost all. */
const close = (subject: Subject, method: string, path: string, run: OpenFile["close"]): Effect.Effect<void> =>
  Effect.flatMap(
    Effect.promise(() => run()),
    (outcome) =>
      outcome._tag === "Failed" && outcome.failure._tag === "FileFailed"
        ? Effect.die(
          toPlatformError("FileSystem", method, path)(
            toError(subject, outcome.failure)
          )
        )
        : Effect.void
  )

/** Removes what a scope has made, as Node does: what cannot be removed is a defect, but for a sandbox that has gone. */
const whileThere = (removed: Failing<void>): Effect.Effect<void> =>
  Effect.catchTag(
    removed,
    "PlatformError",
    (error) =>
      error.cause instanceof MicrosandboxError && error.cause.reason._tag === "FileFailed"
        ? Effect.die(error)
        : Effect.void
  )
