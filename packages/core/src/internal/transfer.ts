/** Files and trees through the addon: one call for the whole, and a stream of how far it is. */
import type { Native } from "@effect-microsandbox/native"
import * as Arr from "effect/Array"
import * as ByteSize from "effect/ByteSize"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import type { Sandbox } from "../Sandbox.ts"
import { type Event, type Options, Transferred, type UploadOptions } from "../Transfer.ts"
import { decodeOptions, mapFailure } from "./failure.ts"
import { Text } from "./inputs.ts"
import { attributesOf, call, subjectOf, type Target } from "./operation.ts"

const Bytes = Schema.declare(
  (input: unknown): input is ByteSize.Input => Option.isSome(ByteSize.fromInput(input as ByteSize.Input)),
  { expected: "a size, such as \"16 GiB\"" }
)

const Id = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 32 - 2 }))

const DownloadSchema = Schema.Struct({
  hostPath: Text.check(Schema.isMinLength(1)),
  guestPath: Schema.String.check(Schema.isPattern(/^\/[^\0]*$/, { expected: "an absolute path of the guest" })),
  include: Schema.optional(Schema.Array(Schema.String)),
  exclude: Schema.optional(Schema.Array(Schema.String)),
  symlinks: Schema.optional(Schema.Literals(["inside", "all", "none"])),
  strict: Schema.optional(Schema.Boolean),
  maxEntries: Schema.optional(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))),
  maxBytes: Schema.optional(Bytes),
  maxDepth: Schema.optional(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1000 })))
})

const UploadSchema = Schema.Struct({
  ...DownloadSchema.fields,
  owner: Schema.optional(Schema.Struct({ uid: Id, gid: Id }))
})

const toNativeOptions = ({
  exclude = [],
  guestPath,
  hostPath,
  include,
  maxBytes = "16 GiB",
  maxDepth = 128,
  maxEntries = 1_000_000,
  owner,
  strict = false,
  symlinks = "inside"
}: UploadOptions & { readonly hostPath: string; readonly guestPath: string }): Native.TransferOptions => ({
  hostPath,
  guestPath,
  ...(include === undefined ? {} : { include: [...include] }),
  exclude: [...exclude],
  symlinks,
  strict,
  maxEntries,
  maxBytes: Number(ByteSize.fromInputUnsafe(maxBytes)),
  maxDepth,
  ...owner
})

const toTransferred = ({ bytes, ...rest }: Native.Transferred): Transferred =>
  new Transferred({ ...rest, bytes: ByteSize.bytes(bytes) })

const toEvent = (event: Native.TransferEvent): Event => {
  if (event._tag === "Progress") return { ...event, bytes: ByteSize.bytes(event.bytes) }
  const { totalBytes, ...rest } = event
  return totalBytes === undefined ? rest : { ...rest, totalBytes: ByteSize.bytes(totalBytes) }
}

type Run = (
  handle: Native.Sandbox,
  options: Native.TransferOptions,
  progress: Native.TransferProgress,
  token: Native.CancelToken
) => Promise<Native.Outcome<Native.Transferred>>

/** Both forms of one direction, of options that are still to be decoded. */
const direction = (target: Target, name: string, run: Run) => {
  const { native } = target
  const attributes = attributesOf(target)
  const begin = (operation: string, options: Native.TransferOptions, progress: Native.TransferProgress) =>
    call(target, operation, (handle, token) => run(handle, options, progress, token)).pipe(
      Effect.ensuring(Effect.sync(() => progress.end())),
      Effect.map(toTransferred)
    )
  return {
    one: Effect.fn(name, { attributes })(function*(
      options: Effect.Effect<Native.TransferOptions, MicrosandboxError>
    ): Effect.fn.Return<Transferred, MicrosandboxError> {
      const transferred = yield* begin(name, yield* options, native.makeTransferProgress())
      yield* Effect.annotateCurrentSpan({
        "transfer.files": transferred.files,
        "transfer.bytes": Number(transferred.bytes)
      })
      return transferred
    }),
    stream: (
      options: Effect.Effect<Native.TransferOptions, MicrosandboxError>
    ): Stream.Stream<Event, MicrosandboxError> =>
      Stream.unwrap(Effect.gen(function*() {
        const progress = native.makeTransferProgress()
        // It ends with the stream, also when its reader leaves in the middle.
        const fiber = yield* Effect.forkScoped(begin(`${name}Stream`, yield* options, progress))
        const read = native.call((token) => progress.read(token)).pipe(
          mapFailure(subjectOf(`${name}Stream`, target)),
          Effect.filterOrElse(
            (events): events is Arr.NonEmptyArray<Native.TransferEvent> => events.length > 0,
            () => Cause.done()
          ),
          Effect.map(Arr.map(toEvent))
        )
        const done = Effect.map(Fiber.join(fiber), (transferred): Event => ({ _tag: "Done", transferred }))
        return Stream.concat(Stream.fromPull(Effect.succeed(read)), Stream.fromEffect(done))
      })).pipe(Stream.withSpan(`${name}Stream`, { attributes }))
  }
}

export const transfer = (
  target: Target
): Pick<Sandbox, "upload" | "download" | "uploadStream" | "downloadStream"> => {
  const up = direction(
    target,
    "Sandbox.upload",
    (handle, options, progress, token) => handle.upload(options, progress, token)
  )
  const down = direction(
    target,
    "Sandbox.download",
    (handle, options, progress, token) => handle.download(options, progress, token)
  )
  const decodeUpload = (operation: string) => {
    const decode = decodeOptions(UploadSchema, subjectOf(operation, target))
    return (hostPath: string, guestPath: string, options: UploadOptions = {}) =>
      Effect.map(decode({ ...options, hostPath, guestPath }), toNativeOptions)
  }
  const decodeDownload = (operation: string) => {
    const decode = decodeOptions(DownloadSchema, subjectOf(operation, target))
    return (guestPath: string, hostPath: string, options: Options = {}) =>
      Effect.map(decode({ ...options, hostPath, guestPath }), toNativeOptions)
  }
  const upload = decodeUpload("Sandbox.upload")
  const uploadStream = decodeUpload("Sandbox.uploadStream")
  const download = decodeDownload("Sandbox.download")
  const downloadStream = decodeDownload("Sandbox.downloadStream")
  return {
    upload: (hostPath, guestPath, options) => up.one(upload(hostPath, guestPath, options)),
    uploadStream: (hostPath, guestPath, options) => up.stream(uploadStream(hostPath, guestPath, options)),
    download: (guestPath, hostPath, options) => down.one(download(guestPath, hostPath, options)),
    downloadStream: (guestPath, hostPath, options) => down.stream(downloadStream(guestPath, hostPath, options))
  }
}
