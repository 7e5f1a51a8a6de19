/**
 * More descriptors than three for a program of a guest: the agent has none, so each is a named pipe there, which a `cat` of
 * its own fills or empties, and which a shell opens before the program takes its place.
 */
import * as Effect from "effect/Effect"
import type { PlatformError } from "effect/PlatformError"
import * as ChildProcess from "effect/process/ChildProcess"
import type * as Scope from "effect/Scope"
import type { ExecHandle } from "../Exec.ts"
import type { Sandbox } from "../Sandbox.ts"
import { badArgument, systemError, toCommandError } from "./commandError.ts"
import type { GuestCommand } from "./guestCommand.ts"

type Config = Exclude<ChildProcess.AdditionalFdConfig, { readonly type: "duplex" }>

/** One that was asked for. */
export interface Descriptor {
  readonly fd: number
  readonly config: Config
}

/** One that is open, by the program at its other end. */
export interface OpenDescriptor extends Descriptor {
  readonly peer: ExecHandle
}

/** The shells of small guests know no numbers of two digits here. */
const last = 9

/** What was asked for, in the order of its numbers; a name that is none is no descriptor. */
export const findDescriptors = Effect.fnUntraced(function*(
  { options }: ChildProcess.StandardCommand
): Effect.fn.Return<ReadonlyArray<Descriptor>, PlatformError> {
  const found: Array<Descriptor> = []
  for (const [name, config] of Object.entries(options.additionalFds ?? {})) {
    const fd = ChildProcess.parseFdName(name)
    if (fd === undefined) continue
    if (fd > last) return yield* badArgument("spawn", `in a guest, the last descriptor is fd${last}`)
    if (config.type === "duplex") {
      return yield* badArgument("spawn", "in a guest, a descriptor is written or read, and not both")
    }
    found.push({ fd, config })
  }
  return found.sort((one, other) => one.fd - other.fd)
})

const makePipes = `
directory=$(mktemp -d) || exit
for fd; do
  mkfifo "$directory/$fd" || { rm -rf "$directory"; exit 1; }
done
printf %s "$directory"
`

/** The numbers between those that were asked for are open too, and empty: what a program opens itself comes after them. */
const openPipes = (descriptors: ReadonlyArray<Descriptor>): string => {
  const opened = new Map(descriptors.map(({ config, fd }) => [fd, config.type === "input" ? "<" : ">"]))
  const lines = Array.from({ length: Math.max(...opened.keys()) - 2 }, (_, index) => {
    const fd = index + 3
    const direction = opened.get(fd)
    return direction === undefined ? `exec ${fd}<>/dev/null` : `exec ${fd}${direction}"$directory/${fd}"`
  })
  return ["directory=$1", "shift", ...lines, "rm -rf \"$directory\"", "exec \"$@\""].join("\n")
}

/** Opens the pipes, and says what is to be run so that the program has them. */
export const openDescriptors = Effect.fnUntraced(function*(
  sandbox: Pick<Sandbox, "exec" | "spawn">,
  command: ChildProcess.StandardCommand,
  guest: GuestCommand,
  descriptors: ReadonlyArray<Descriptor>
): Effect.fn.Return<
  { readonly guest: GuestCommand; readonly open: ReadonlyArray<OpenDescriptor> },
  PlatformError,
  Scope.Scope
> {
  if (descriptors.length === 0) return { guest, open: [] }
  const toError = Effect.mapError(toCommandError(command, "spawn"))
  const made = yield* toError(sandbox.exec(
    "/bin/sh",
    ["-c", makePipes, "sh", ...descriptors.map(({ fd }) => String(fd))],
    { cwd: "/" }
  ))
  if (!made.success) {
    return yield* systemError(command, "spawn", "Unknown", `no named pipes in the guest: ${made.stderr}`)
  }
  const directory = made.stdout
  // The shell has removed it by then, unless it was not started.
  const remove = Effect.ignore(sandbox.exec("/bin/rm", ["-rf", directory], { cwd: "/" }))
  const open = yield* Effect.forEach(descriptors, (descriptor) => {
    const direction = descriptor.config.type === "input" ? ">" : "<"
    return toError(Effect.map(
      sandbox.spawn("/bin/sh", ["-c", `exec cat ${direction}"$1"`, "sh", `${directory}/${descriptor.fd}`], {
        cwd: "/",
        stdin: "pipe"
      }),
      (peer): OpenDescriptor => ({ ...descriptor, peer })
    ))
  }).pipe(Effect.onError(() => remove))
  return {
    guest: {
      ...guest,
      command: "/bin/sh",
      args: ["-c", openPipes(descriptors), "sh", directory, guest.command, ...guest.args],
      wrapped: true
    },
    open
  }
})
