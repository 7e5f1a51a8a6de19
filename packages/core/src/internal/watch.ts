/** Watching the files of a guest: told by its kernel where the guest has a program for that, and found by looking where not. */
import type { Native } from "@effect-microsandbox/native"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import type * as Path from "effect/Path"
import type * as PlatformError from "effect/PlatformError"
import * as Stream from "effect/Stream"

type Failing<A> = Effect.Effect<A, PlatformError.PlatformError>

/** What watching needs of the file system; the first argument is the method that an error names. */
export interface Operations {
  readonly path: Path.Path
  readonly stat: (method: string, at: string, follow: boolean) => Failing<Native.FileInfo>
  readonly list: (method: string, at: string, recursive: boolean) => Failing<ReadonlyArray<Native.FileEntry>>
}

const method = "watch"

/** Between two looks. */
const interval = "250 millis"

type Snapshot = ReadonlyMap<string, Native.FileInfo>

/** The guest tells times in seconds: of two changes within one, a look sees the second only by another size. */
const changed = (before: Native.FileInfo, after: Native.FileInfo): boolean =>
  before.size !== after.size || before.modifiedAt !== after.modifiedAt || before.mode !== after.mode ||
  before.uid !== after.uid || before.gid !== after.gid

export const compare = (before: Snapshot, after: Snapshot): ReadonlyArray<FileSystem.WatchEvent> => {
  const events: Array<FileSystem.WatchEvent> = []
  for (const [path, info] of after) {
    const old = before.get(path)
    if (old === undefined) events.push({ _tag: "Create", path })
    else if (old.kind !== info.kind) events.push({ _tag: "Remove", path }, { _tag: "Create", path })
    // A directory's time and size are those of its entries, which are told themselves.
    else if (info.kind !== "dir" && changed(old, info)) events.push({ _tag: "Update", path })
  }
  for (const path of before.keys()) {
    if (!after.has(path)) events.push({ _tag: "Remove", path })
  }
  return events
}

export const watch = (
  { list, path, stat }: Operations,
  at: string,
  options?: FileSystem.WatchOptions
): Stream.Stream<FileSystem.WatchEvent, PlatformError.PlatformError> =>
  Stream.unwrap(Effect.gen(function*() {
    const info = yield* stat(method, at, true)
    const look: Failing<Snapshot> = info.kind === "dir"
      ? Effect.map(
        list(method, at, options?.recursive ?? false),
        (entries) => new Map(entries.map((entry) => [entry.path, entry.info]))
      )
      : Effect.map(stat(method, at, true), (info) => new Map([[path.basename(at), info]]))
    // What is watched itself may go: then everything in it has.
    const gone = Effect.catchIf(look, (error) => error.reason._tag === "NotFound", () => Effect.succeed(new Map()))
    let last = yield* look
    options?.onReady?.()
    const next = Effect.map(Effect.delay(gone, interval), (snapshot) => {
      const events = compare(last, snapshot)
      last = snapshot
      return events
    })
    return Stream.flattenIterable(Stream.fromEffectRepeat(next))
  }))
