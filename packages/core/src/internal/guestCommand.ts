/** What is run in a guest so that a command has there what it has on a host: its directory, its variables, its shell. */
import * as Effect from "effect/Effect"
import type { PlatformError } from "effect/PlatformError"
import type * as ChildProcess from "effect/process/ChildProcess"
import type * as CommandLine from "effect/process/CommandLine"
import * as Redacted from "effect/Redacted"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import type { Sandbox } from "../Sandbox.ts"
import { badArgument, systemError, toCommandError } from "./commandError.ts"

/** A program for {@link Sandbox.spawn}. */
export interface GuestCommand {
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly options: { readonly cwd?: string; readonly env?: Readonly<Record<string, string>> }
  /** By that another program stands before it, which the agent starts in its place. */
  readonly wrapped: boolean
}

const unwrap = (word: CommandLine.Word): string => Redacted.isRedacted(word) ? Redacted.value(word) : word

/** What stands in no error: the words themselves may be secret. */
export const findMistake = ({ args, command, options }: ChildProcess.StandardCommand): string | undefined => {
  const { cwd, env = {}, shell } = options
  if (shell !== undefined && shell !== false && args.length > 0) {
    return "a shell takes one script and no arguments: put them into the script, quoted"
  }
  if (command === "") return "the command is empty"
  if (command.includes("\0")) return "the command has a NUL in it"
  if (cwd?.includes("\0") === true) return "the working directory has a NUL in it"
  const arg = args.findIndex((word) => unwrap(word).includes("\0"))
  if (arg !== -1) return `argument ${arg + 1} has a NUL in it`
  for (const [name, value] of Object.entries(env)) {
    if (value !== undefined && (name.includes("\0") || unwrap(value).includes("\0"))) {
      return `the variable ${name.replaceAll("\0", "?")} has a NUL in it`
    }
    if (value !== undefined && (name === "" || name.includes("="))) return "a variable has a name that none can have"
  }
  return undefined
}

/** How variables are taken from a program: where `env` is, and the names of all that a program has without being given any. */
export interface Inherited {
  readonly env: string
  readonly names: ReadonlyArray<string>
}

const envPaths = ["/usr/bin/env", "/bin/env"] as const

/**
 * The agent starts a program with all of its own variables, and cannot take one away, so `env` in the guest does. It is given
 * names only: a value on its command line could be read by others.
 */
export const findInherited = (exec: Sandbox["exec"]): Effect.Effect<Inherited, MicrosandboxError> => {
  const find = (env: string) =>
    Effect.map(
      exec(env, ["cat", "/proc/self/environ"], { cwd: "/" }),
      ({ stdout }): Inherited => ({
        env,
        names: stdout.split("\0").filter((line) => line !== "").map((line) => line.slice(0, line.indexOf("=")))
      })
    )
  return Effect.catchReason(find(envPaths[0]), "MicrosandboxError", "ExecFailed", () => find(envPaths[1]))
}

/** As `execvp` searches: the first that can be run, or else what the last one could not. */
const search = `
result=127
look() {
  if [ -f "$1" ] && [ -x "$1" ]; then exit 0; fi
  if [ -e "$1" ]; then result=126; fi
}
case $1 in
*/*) look "$1" ;;
*) IFS=:; set -f; for directory in \${2-$PATH}; do look "\${directory:-.}/$1"; done ;;
esac
exit $result
`

/** Where a program is searched by whoever has no PATH. */
const defaultPath = "/bin:/usr/bin"

/**
 * Whether a program is there. The agent says so itself of a program that it starts; one that another program starts in its
 * place would only exit with 127.
 */
export const lookUp = Effect.fnUntraced(function*(
  exec: Sandbox["exec"],
  command: ChildProcess.StandardCommand,
  { command: program, options }: GuestCommand,
  replaced: boolean
): Effect.fn.Return<void, PlatformError> {
  const path = options.env?.PATH ?? (replaced ? defaultPath : undefined)
  const { exitCode } = yield* exec(
    "/bin/sh",
    ["-c", search, "sh", program, ...path === undefined ? [] : [path]],
    options.cwd === undefined ? {} : { cwd: options.cwd }
  ).pipe(Effect.mapError(toCommandError(command, "spawn")))
  if (exitCode === 126) return yield* systemError(command, "spawn", "PermissionDenied", "it cannot be run")
  if (exitCode !== 0) return yield* systemError(command, "spawn", "NotFound", "there is no such program")
})

/** The command itself, before anything stands in front of it. */
const plain = ({ args, command, options }: ChildProcess.StandardCommand, cwd: string | undefined): GuestCommand => {
  const env = options.env === undefined ? undefined : Object.fromEntries(
    Object.entries(options.env).flatMap(([name, value]) => value === undefined ? [] : [[name, unwrap(value)]])
  )
  const shell = options.shell === true ? "/bin/sh" : options.shell
  return {
    ...typeof shell === "string" ? { command: shell, args: ["-c", command] } : { command, args: args.map(unwrap) },
    options: { ...cwd === undefined ? {} : { cwd }, ...env === undefined ? {} : { env } },
    wrapped: false
  }
}

/** Puts `env` before a command that must not have some of the variables it would inherit. */
export const prepare = Effect.fnUntraced(function*(
  exec: Sandbox["exec"],
  command: ChildProcess.StandardCommand,
  cwd: string | undefined,
  inherited: Effect.Effect<Inherited, MicrosandboxError>
): Effect.fn.Return<GuestCommand, PlatformError> {
  const { env: given, extendEnv = false } = command.options
  const guest = plain(command, cwd)
  const replaced = given !== undefined && !extendEnv
  const dropped = Object.entries(given ?? {}).flatMap(([name, value]) => value === undefined ? [name] : [])
  const wrapped = replaced || dropped.length > 0
  if (wrapped || command.options.additionalFds !== undefined) yield* lookUp(exec, command, guest, replaced)
  if (!wrapped) return guest
  if (guest.command.includes("=")) {
    return yield* badArgument("spawn", "in a guest, a program with = in its name cannot have variables taken from it")
  }
  const { env, names } = yield* Effect.mapError(inherited, toCommandError(command, "spawn"))
  const variables = guest.options.env ?? {}
  const unset = replaced ? names.filter((name) => variables[name] === undefined) : dropped
  // The agent puts its own directory before a PATH that it is given.
  const path = replaced && variables.PATH !== undefined ? [`PATH=${variables.PATH}`] : []
  return {
    ...guest,
    command: env,
    args: [...unset.flatMap((name) => ["-u", name]), ...path, guest.command, ...guest.args],
    wrapped: true
  }
})

/** What `execvp` does with a file that the kernel takes for no program. */
export const byShell = (guest: GuestCommand): GuestCommand => ({
  ...guest,
  command: "/bin/sh",
  args: [guest.command, ...guest.args],
  wrapped: true
})
