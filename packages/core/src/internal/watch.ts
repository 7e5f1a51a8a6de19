/** Watching files: told by a guest's kernel where the guest has a program for that, and found by looking where not. */
import type { Native } from "@effect-microsandbox/native"
import type * as Arr from "effect/Array"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import type * as Path from "effect/Path"
import type * as PlatformError from "effect/PlatformError"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { ExecHandle } from "../Exec.ts"
import type { MicrosandboxError } from "../MicrosandboxError.ts"

type Failing<A> = Effect.Effect<A, PlatformError.PlatformError>

/** What watching needs of the file system; the first argument is the method that an error names. */
export interface Operations {
  readonly path: Path.Path
  readonly absolute: (at: string) => string
  readonly stat: (method: string, at: string, follow: boolean) => Failing<Native.FileInfo>
  readonly list: (method: string, at: string, recursive: boolean) => Failing<ReadonlyArray<Native.FileEntry>>
  readonly start:
    | ((command: string, args: ReadonlyArray<string>) => Effect.Effect<ExecHandle, MicrosandboxError, Scope.Scope>)
    | undefined
}

const method = "watch"

/** Between two looks where nobody tells of a change, and where the kernel does: it is not told what a host does in a mount. */
const intervals = { alone: "250 millis", told: "2 seconds" } as const

/** What inotify-tools needs to be ready, for a tree of a size that is worth watching. */
const patience = "10 seconds"

type Snapshot = ReadonlyMap<string, Native.FileInfo>

/** The guest tells times in seconds: of two changes within one, a look sees the second only by another size. */
const changed = (before: Native.FileInfo, after: Native.FileInfo): boolean =>
  before.size !== after.size || before.modifiedAt !== after.modifiedAt || before.mode !== after.mode ||
  before.uid !== after.uid || before.gid !== after.gid

/** `written` is what is known to have changed, though it may look the same. */
export const compare = (
  before: Snapshot,
  after: Snapshot,
  written: ReadonlySet<string>
): ReadonlyArray<FileSystem.WatchEvent> => {
  const events: Array<FileSystem.WatchEvent> = []
  for (const [path, info] of after) {
    const old = before.get(path)
    if (old === undefined) events.push({ _tag: "Create", path })
    else if (old.kind !== info.kind) events.push({ _tag: "Remove", path }, { _tag: "Create", path })
    // A directory's time and size are those of its entries, which are told themselves.
    else if (info.kind !== "dir" && (written.has(path) || changed(old, info))) events.push({ _tag: "Update", path })
  }
  for (const path of before.keys()) {
    if (!after.has(path)) events.push({ _tag: "Remove", path })
  }
  return events
}

/**
 * What the guest's kernel tells of `at`, if the guest has inotify-tools for that: the paths of what was written, and nothing
 * of what came or went, which a look shows. Ready when it answers.
 */
const listen = (
  { absolute, path, start }: Operations,
  given: string,
  recursive: boolean
): Effect.Effect<Option.Option<Stream.Stream<string>>, never, Scope.Scope> =>
  start === undefined ? Effect.succeedNone : Effect.gen(function*() {
    const at = absolute(given)
    const how = ["--monitor", ...(recursive ? ["--recursive"] : []), "--format", "%e %w%f"]
    const events = ["create", "delete", "modify", "attrib", "move", "delete_self", "move_self"]
    const { stderr, stdout } = yield* start("inotifywait", [
      ...how,
      ...events.flatMap((name) => ["--event", name]),
      "--",
      at
    ])
    const ready = yield* stderr.pipe(
      Stream.decodeText,
      Stream.splitLines,
      Stream.filter((line) => line.startsWith("Watches established")),
      Stream.runHead,
      Effect.timeoutOption(patience)
    )
    const lines = stdout.pipe(
      Stream.decodeText,
      Stream.splitLines,
      Stream.map((line) => {
        const written = /^(?:MODIFY|ATTRIB) (.*)$/.exec(line)?.[1]
        return written === undefined ? "" : path.relative(at, written) || path.basename(at)
      }),
      // It ends with its sandbox, or because somebody in the guest has ended it.
      Stream.catch(() => Stream.empty)
    )
    return Option.as(Option.flatten(ready), lines)
  }).pipe(Effect.orElseSucceed(Option.none))

export const watch = (
  operations: Operations,
  at: string,
  options?: FileSystem.WatchOptions
): Stream.Stream<FileSystem.WatchEvent, PlatformError.PlatformError> =>
  Stream.unwrap(Effect.gen(function*() {
    const { list, path, stat } = operations
    const recursive = options?.recursive ?? false
    const info = yield* stat(method, at, true)
    const look: Failing<Snapshot> = info.kind === "dir"
      ? Effect.map(list(method, at, recursive), (entries) => new Map(entries.map((entry) => [entry.path, entry.info])))
      : Effect.map(stat(method, at, true), (info) => new Map([[path.basename(at), info]]))
    // What is watched itself may go: then everything in it has.
    const gone = Effect.catchIf(look, (error) => error.reason._tag === "NotFound", () => Effect.succeed(new Map()))
    const heard = yield* listen(operations, at, recursive)
    let interval: Duration.Input = Option.isSome(heard) ? intervals.told : intervals.alone
    let last = yield* look
    options?.onReady?.()
    const ticks = Stream.fromEffectRepeat(Effect.suspend(() => Effect.as(Effect.sleep(interval), noPaths)))
    const told = Option.getOrElse(heard, (): Stream.Stream<string> => Stream.empty).pipe(
      Stream.mapArray((paths): Arr.NonEmptyReadonlyArray<ReadonlySet<string>> => [new Set(paths)]),
      Stream.concat(Stream.sync(() => {
        interval = intervals.alone
        return noPaths
      }))
    )
    return Stream.merge(told, ticks).pipe(
      Stream.mapEffect((written) =>
        Effect.map(gone, (snapshot) => {
          const events = compare(last, snapshot, written)
          last = snapshot
          return events
        })
      ),
      Stream.flattenIterable
    )
  }))

const noPaths: ReadonlySet<string> = new Set()
