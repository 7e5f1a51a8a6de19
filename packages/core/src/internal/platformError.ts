/** How a failure of a sandbox looks to a program that knows nothing but Effect's platform. */
import * as PlatformError from "effect/PlatformError"
import type { MicrosandboxError } from "../MicrosandboxError.ts"

/** What Node's file system makes of them; every other number is `Unknown` there too. */
const tags: Readonly<Record<string, PlatformError.SystemErrorTag>> = {
  ENOENT: "NotFound",
  EACCES: "PermissionDenied",
  EPERM: "PermissionDenied",
  EEXIST: "AlreadyExists",
  EISDIR: "BadResource",
  ENOTDIR: "BadResource",
  ELOOP: "BadResource",
  EBUSY: "Busy"
}

/** A sandbox that has gone is no file that is not there: its error is the cause of an `Unknown`. */
export const toPlatformError =
  (module: string, method: string, path: string) => (error: MicrosandboxError): PlatformError.PlatformError =>
    PlatformError.systemError({
      _tag: error.reason._tag === "FileFailed" ? tags[error.reason.errnoName ?? ""] ?? "Unknown" : "Unknown",
      module,
      method,
      pathOrDescriptor: path,
      description: error.message,
      cause: error
    })
