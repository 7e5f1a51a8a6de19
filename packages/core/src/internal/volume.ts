/** A volume from the moment that the addon hands it over to the end of its scope. */
import type { Native } from "@effect-microsandbox/native"
import * as ByteSize from "effect/ByteSize"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Backend } from "../Backend.ts"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import type { Volume } from "../Volume.ts"
import { mapFailure, type Subject, toError } from "./failure.ts"
import { checkMode, makeFileSystemOf, makeRun, type Run, type Source, type Tools } from "./fileSystem.ts"
import { fromMebibytes } from "./inputs.ts"
import { makePath } from "./path.ts"
import { toPlatformError } from "./platformError.ts"
import { optionalSize } from "./size.ts"
import type { Data } from "./writeAtomic.ts"

export const TypeId = "~@effect-microsandbox/core/Volume"
export type TypeId = typeof TypeId

/** A volume as the backend's catalogue has it. */
export class Info extends Schema.Class<Info>("@effect-microsandbox/core/Volume/Info")({
  name: Schema.String,
  kind: Schema.Literals(["directory", "disk"]),
  /** Its directory on this host; that of a disk holds the image. Empty of one in a cloud. */
  path: Schema.String,
  /** How much guests may write to a directory. Absent: no limit. */
  quota: optionalSize,
  /** The size of a disk, as a guest sees it. */
  capacity: optionalSize,
  /** As the catalogue has it: the local backend of the engine, 0.7.2, never writes it there, and it is 0. */
  used: Schema.ByteSize,
  /** The image of a disk on this host. */
  diskPath: Schema.optionalKey(Schema.String),
  /** Of the image of a disk, such as `raw`. */
  diskFormat: Schema.optionalKey(Schema.String),
  /** What is in the image of a disk, such as `ext4`. */
  diskFstype: Schema.optionalKey(Schema.String),
  labels: Schema.Record(Schema.String, Schema.String),
  createdAt: Schema.optionalKey(Schema.DateTimeUtc)
}) {}

const bytes = (size: number): ByteSize.ByteSize => ByteSize.fromInputUnsafe(BigInt(size))

export const toInfo = ({ capacity, createdAt, quotaMib, used, ...rest }: Native.VolumeInfo): Info =>
  new Info({
    ...rest,
    used: bytes(used),
    ...quotaMib === undefined ? {} : { quota: fromMebibytes(quotaMib) },
    ...capacity === undefined ? {} : { capacity: bytes(capacity) },
    ...createdAt === undefined ? {} : { createdAt: DateTime.makeUnsafe(createdAt) }
  })

/** What a guest needs a program for, this host's kernel does. */
const makeTools = (handle: Native.Volume, { absolute, call }: Run): Tools<Native.VolumeFile> => ({
  sync: (path, file) => call("sync", path, (token) => file.sync(token)),
  link: (from, to, path) => call("link", path, (token) => handle.fileLink(from, to, token)),
  access: (path, wants, given) =>
    call(
      "access",
      given,
      (token) => handle.fileAccess(absolute(path), wants.includes("-r"), wants.includes("-w"), token)
    )
})

const encoder = new TextEncoder()

const toStream = <E, R>(data: Data<E, R>): Stream.Stream<Uint8Array, E, R> =>
  typeof data === "string"
    ? Stream.make(encoder.encode(data))
    : data instanceof Uint8Array
    ? Stream.make(data)
    : data

/** In one step, by this host's kernel: what is written is nowhere to be seen before. */
const makeWriteAtomic = (source: Source<Native.VolumeFile>, handle: Native.Volume): Volume["writeAtomic"] => {
  const { absolute, call, check, span } = makeRun(source)
  const begin = (at: string, mode: number | undefined) =>
    source.native.acquire(
      (token) => handle.fileReplace(absolute(at), mode, token),
      (file) => Effect.promise(() => file.close())
    ).pipe(
      mapFailure(source.subject("FileSystem.writeAtomic")),
      Effect.mapError(toPlatformError("FileSystem", "writeAtomic", at))
    )
  const write = <E, R>(at: string, data: Data<E, R>, mode: number | undefined) =>
    Effect.scopedWith((scope) =>
      Effect.gen(function*() {
        const file = yield* Effect.provideService(begin(at, mode), Scope.Scope, scope)
        yield* Stream.runForEachArray(toStream(data), (pieces) =>
          // A copy: it must not move while another thread reads it.
          call("writeAtomic", at, (token) => file.write(Buffer.concat(pieces), token)))
        yield* call("writeAtomic", at, (token) => file.publish(token))
      })
    )
  return (at, data, options) =>
    check("writeAtomic", at).pipe(
      Effect.andThen(checkMode("writeAtomic", options?.mode)),
      Effect.flatMap((mode) => write(at, data, mode)),
      span("writeAtomic")
    )
}

const makeVolume = (native: Native.Native["Service"], handle: Native.Volume): Volume => {
  const info = toInfo(handle.info)
  const path = makePath("/")
  const source: Source<Native.VolumeFile> = {
    native,
    files: handle,
    workdir: "/",
    temporary: "/",
    attributes: { "volume.name": info.name },
    subject: (operation) => ({ operation }),
    tools: (run) => makeTools(handle, run)
  }
  return {
    [TypeId]: TypeId,
    name: info.name,
    info,
    fs: makeFileSystemOf(source, path),
    path,
    writeAtomic: makeWriteAtomic(source, handle)
  }
}

/** Opens a volume for as long as the scope is open. */
export const open = (
  { handle, native }: Backend["Service"],
  subject: Subject,
  name: string
): Effect.Effect<Volume, MicrosandboxError, Scope.Scope> =>
  native.acquire(
    (token) => handle.openVolume(name, token),
    (volume) => Effect.promise(() => volume.close())
  ).pipe(
    mapFailure(subject),
    Effect.map((volume) => makeVolume(native, volume))
  )

/** Makes a volume, and removes it with the scope if it is temporary by then. */
export const acquire = (
  { handle, native }: Backend["Service"],
  subject: Subject,
  options: Native.VolumeOptions,
  isTemporary: () => boolean
): Effect.Effect<void, MicrosandboxError, Scope.Scope> =>
  Effect.asVoid(
    mapFailure(subject)(native.acquire(
      (token) => handle.createVolume(options, token),
      () =>
        Effect.suspend(() =>
          isTemporary()
            ? native.call((token) => handle.removeVolume(options.name, token)).pipe(
              // Somebody else has removed it, which is no leak; what cannot be removed is one, and a leak is a defect.
              Effect.catch((error) =>
                error.failure._tag === "VolumeNotFound"
                  ? Effect.void
                  : Effect.die(toError({ operation: "Volume.close" }, error.failure))
              ),
              Effect.withSpan("Volume.close", { attributes: { "volume.name": options.name } })
            )
            : Effect.void
        )
    ))
  )
