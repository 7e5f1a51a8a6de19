/** How a command that fails looks to a program that knows nothing but Effect's platform: as Node's spawner tells it. */
import * as PlatformError from "effect/PlatformError"
import type * as ChildProcess from "effect/process/ChildProcess"
import * as CommandLine from "effect/process/CommandLine"
import type { MicrosandboxError, Reason } from "../MicrosandboxError.ts"

const module = "ChildProcess"

/** What Node makes of a number; every other is `Unknown` there. */
const byErrno: Readonly<Record<string, PlatformError.SystemErrorTag>> = {
  ENOENT: "NotFound",
  EACCES: "PermissionDenied",
  EPERM: "PermissionDenied",
  EEXIST: "AlreadyExists",
  EISDIR: "BadResource",
  ENOTDIR: "BadResource",
  ELOOP: "BadResource",
  EBUSY: "Busy"
}

/** What the guest's agent says when it has no such number. */
const byKind: Readonly<Record<string, PlatformError.SystemErrorTag | "BadArgument">> = {
  NotFound: "NotFound",
  BadCwd: "NotFound",
  PermissionDenied: "PermissionDenied",
  NotExecutable: "PermissionDenied",
  BadArgs: "BadArgument",
  OutOfMemory: "Busy",
  ResourceLimit: "Busy"
}

const tagOf = (reason: Reason): PlatformError.SystemErrorTag | "BadArgument" => {
  switch (reason._tag) {
    case "ExecFailed":
      return byErrno[reason.errnoName ?? ""] ?? byKind[reason.kind] ?? "Unknown"
    case "InvalidConfig":
      return "BadArgument"
    case "SandboxPaused":
    case "SandboxBusy":
      return "Busy"
    case "ExecTimeout":
    case "KillTimeout":
    case "AgentReadyTimeout":
      return "TimedOut"
    // A sandbox that has gone is no program that is not there.
    default:
      return "Unknown"
  }
}

/** The command as a shell would be given it, without its secrets. */
const display = ({ args, command }: ChildProcess.StandardCommand): string => CommandLine.display([command, ...args])

export const badArgument = (method: string, description: string): PlatformError.PlatformError =>
  PlatformError.badArgument({ module, method, description })

export const systemError = (
  command: ChildProcess.StandardCommand,
  method: string,
  _tag: PlatformError.SystemErrorTag,
  description: string
): PlatformError.PlatformError =>
  PlatformError.systemError({
    _tag,
    module,
    method,
    pathOrDescriptor: display(command),
    description,
    cause: new Error(description)
  })

/** The error of a sandbox as that of a command; it stays the cause. */
export const toCommandError = (command: ChildProcess.StandardCommand, method: string) =>
(
  error: MicrosandboxError
): PlatformError.PlatformError => {
  const _tag = tagOf(error.reason)
  return _tag === "BadArgument"
    ? PlatformError.badArgument({ module, method, description: error.reason.message, cause: error })
    : PlatformError.systemError({ _tag, module, method, pathOrDescriptor: display(command), cause: error })
}
