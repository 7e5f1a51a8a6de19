/** Copying a tree within a guest as Node's `cp` does it: what is kept, what is replaced and what is refused. */
import type { Native } from "@effect-microsandbox/native"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import type * as Path from "effect/Path"
import * as PlatformError from "effect/PlatformError"

type Failing<A> = Effect.Effect<A, PlatformError.PlatformError>

/** What copying needs of the file system; the first argument is the method that an error names. */
export interface Operations {
  readonly path: Path.Path
  readonly stat: (method: string, at: string, follow: boolean) => Failing<Native.FileInfo>
  readonly list: (method: string, at: string, recursive: boolean) => Failing<ReadonlyArray<Native.FileEntry>>
  readonly realPath: (method: string, at: string) => Failing<string>
  readonly readLink: (method: string, at: string) => Failing<string>
  readonly symlink: (method: string, to: string, at: string) => Failing<void>
  readonly copyFile: (method: string, from: string, to: string) => Failing<void>
  readonly makeDirectory: (method: string, at: string, recursive: boolean) => Failing<void>
  readonly remove: (method: string, at: string) => Failing<void>
  readonly set: (method: string, at: string, attributes: Native.FileAttributes) => Failing<void>
}

const method = "copy"

const permissions = 0o7777

const refuse = (at: string, tag: PlatformError.SystemErrorTag, description: string) =>
  Effect.fail(
    PlatformError.systemError({ module: "FileSystem", method, _tag: tag, pathOrDescriptor: at, description })
  )

const isNotFound = (error: PlatformError.PlatformError): boolean => error.reason._tag === "NotFound"

/** Nothing there is no error. */
const found = <A>(effect: Failing<A>): Failing<Option.Option<A>> =>
  Effect.catchIf(Effect.asSome(effect), isNotFound, () => Effect.succeedNone)

export const makeCopy = (operations: Operations): FileSystem.FileSystem["copy"] => {
  const { copyFile, list, makeDirectory, path, readLink, realPath, remove, set, stat, symlink } = operations

  const isBelow = (above: string, below: string): boolean =>
    below === above || below.startsWith(above === "/" ? above : `${above}/`)

  /** Where the way to `at` really goes: that of the nearest directory which exists. */
  const realParent = (at: string): Failing<string> =>
    Effect.flatMap(
      found(realPath(method, path.dirname(at))),
      Option.match({
        onNone: () => path.dirname(at) === at ? Effect.succeed(at) : realParent(path.dirname(at)),
        onSome: Effect.succeed
      })
    )

  return Effect.fnUntraced(function*(fromPath, toPath, options) {
    const from = path.resolve(fromPath)
    const to = path.resolve(toPath)
    const overwrite = options?.overwrite ?? false
    const source = yield* stat(method, from, false)
    const target = yield* found(stat(method, to, false))
    if (Option.isSome(target)) {
      const same = from === to ||
        (source.kind !== "symlink" && target.value.kind !== "symlink" &&
          (yield* realPath(method, from)) === (yield* realPath(method, to)))
      if (same) return yield* refuse(toPath, "Unknown", "source and destination are the same")
      if ((source.kind === "dir") !== (target.value.kind === "dir")) {
        return yield* refuse(toPath, "Unknown", "a directory and something else cannot replace each other")
      }
    }
    if (source.kind === "dir" && isBelow(yield* realPath(method, from), path.join(yield* realParent(to), "x"))) {
      return yield* refuse(toPath, "Unknown", "a directory cannot be copied into itself")
    }
    yield* makeDirectory(method, path.dirname(to), true)

    const timesAndMode = ({ accessedAt, mode, modifiedAt }: Native.FileInfo): Native.FileAttributes => ({
      mode: mode & permissions,
      ...(options?.preserveTimestamps === true && accessedAt !== undefined && modifiedAt !== undefined
        ? { accessedAt, modifiedAt }
        : {})
    })

    const copyOne = (from: string, to: string, info: Native.FileInfo): Failing<void> => {
      switch (info.kind) {
        case "dir":
          return copyDirectory(from, to, info)
        case "symlink":
          return copyLink(from, to)
        case "file":
          return copyContent(from, to, info)
        default:
          return refuse(from, "Unknown", "neither a file, nor a directory, nor a link")
      }
    }

    const copyContent = Effect.fnUntraced(function*(from: string, to: string, info: Native.FileInfo) {
      const there = yield* found(stat(method, to, false))
      if (Option.isSome(there)) {
        if (!overwrite) return
        yield* remove(method, to)
      }
      yield* copyFile(method, from, to)
      yield* set(method, to, timesAndMode(info))
    })

    const copyLink = Effect.fnUntraced(function*(from: string, to: string) {
      const link = yield* readLink(method, from)
      const there = yield* found(stat(method, to, false))
      if (Option.isSome(there) && there.value.kind === "symlink") {
        // Node looks at what the link leads to before it replaces one.
        yield* stat(method, from, true)
        yield* remove(method, to)
      }
      yield* symlink(method, path.isAbsolute(link) ? link : path.resolve(path.dirname(from), link), to)
    })

    const copyDirectory: (from: string, to: string, info: Native.FileInfo) => Failing<void> = Effect.fnUntraced(
      function*(from, to, info) {
        const there = yield* found(stat(method, to, false))
        if (Option.isNone(there)) yield* makeDirectory(method, to, false)
        else if (there.value.kind !== "dir") return yield* refuse(to, "Unknown", "it is not a directory")
        for (const entry of yield* list(method, from, false)) {
          yield* copyOne(path.join(from, entry.path), path.join(to, entry.path), entry.info)
        }
        if (Option.isNone(there)) yield* set(method, to, { mode: info.mode & permissions })
      }
    )

    yield* copyOne(from, to, source)
  })
}
