/** Writing a file so that it has its old content or the new one, whole, whatever happens: of any file system. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import type * as Path from "effect/Path"
import type * as PlatformError from "effect/PlatformError"
import * as Stream from "effect/Stream"

/** What a file is to hold. */
export type Data<E, R> = string | Uint8Array | Stream.Stream<Uint8Array, E, R>

/** The member of a sandbox, and of whatever else has files. */
export type WriteAtomic = <E = never, R = never>(
  path: string,
  data: Data<E, R>,
  options?: { readonly mode?: number | undefined; readonly sync?: boolean | undefined }
) => Effect.Effect<void, PlatformError.PlatformError | E, R>

const permissions = 0o7777

const isNotFound = (error: PlatformError.PlatformError): boolean => error.reason._tag === "NotFound"

/** Nothing there is no error. */
const found = <A>(effect: Effect.Effect<A, PlatformError.PlatformError>) =>
  Effect.catchIf(Effect.asSome(effect), isNotFound, () => Effect.succeedNone)

export const makeWriteAtomic = (
  fs: FileSystem.FileSystem,
  path: Path.Path,
  attributes: Record<string, unknown>
): WriteAtomic => {
  const write = <E, R>(at: string, data: Data<E, R>): Effect.Effect<void, PlatformError.PlatformError | E, R> =>
    typeof data === "string"
      ? fs.writeFileString(at, data, { flag: "wx" })
      : data instanceof Uint8Array
      ? fs.writeFile(at, data, { flag: "wx" })
      : Stream.run(data, fs.sink(at, { flag: "wx" }))

  /** What somebody put in the place of a file keeps the file's owner, if it may, and its mode. */
  const keep = Effect.fnUntraced(
    function*(at: string, before: Option.Option<FileSystem.File.Info>, mode: number | undefined) {
      if (Option.isSome(before)) {
        const { gid, uid } = before.value
        const now = yield* fs.stat(at)
        const same = Option.getOrUndefined(now.uid) === Option.getOrUndefined(uid) &&
          Option.getOrUndefined(now.gid) === Option.getOrUndefined(gid)
        if (!same) yield* fs.chown(at, Option.getOrElse(uid, () => -1), Option.getOrElse(gid, () => -1))
      }
      const wanted = mode ?? Option.getOrUndefined(Option.map(before, (info) => info.mode & permissions))
      if (wanted !== undefined) yield* fs.chmod(at, wanted)
    }
  )

  return Effect.fn("FileSystem.writeAtomic", { attributes })(function*(at, data, options = {}) {
    // A link goes on leading where it led.
    const to = Option.getOrElse(yield* found(fs.realPath(at)), () => at)
    const before = yield* found(fs.stat(to))
    // In the same directory, as only there a rename is one step.
    const name = `.${path.basename(to).slice(0, 100)}.${crypto.randomUUID().replaceAll("-", "").slice(0, 16)}.tmp`
    const temporary = path.join(path.dirname(to), name)
    yield* Effect.gen(function*() {
      yield* write(temporary, data)
      yield* keep(temporary, before, options.mode)
      if (options.sync === true) {
        yield* Effect.scoped(Effect.flatMap(fs.open(temporary, { flag: "r+" }), (file) => file.sync))
      }
      yield* fs.rename(temporary, to)
    }).pipe(
      Effect.onExit((exit) =>
        // What cannot be removed where writing failed is the smaller trouble.
        Exit.isSuccess(exit) ? Effect.void : Effect.ignore(fs.remove(temporary, { force: true }))
      )
    )
  })
}
