/** The guests of a machine with a network of its own. */
import type { MicrosandboxError, Sandbox, SandboxOptions } from "@effect-microsandbox/core"
import { type Duration, Effect, FileSystem } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as net from "node:net"
import * as Rootfs from "../../../demo/Rootfs.ts"
import { machine } from "./Machine.ts"

/** Where the backend is. */
export const [home = ""] = process.argv.slice(2)

export const dns: SandboxOptions.Dns = { nameservers: [`127.0.0.1:${machine.nameserverPort}`] }

/** Programs of this machine, with their libraries. */
const copyPrograms = Effect.fn("copyPrograms")(function*(directory: string, programs: ReadonlyArray<string>) {
  const fs = yield* FileSystem.FileSystem
  const spawner = yield* ChildProcessSpawner
  for (const program of programs) {
    const libraries = (yield* spawner.lines(ChildProcess.make("ldd", [program])))
      .flatMap((line) => /(\/\S+) \(/.exec(line)?.[1] ?? [])
    for (const file of [program, ...libraries]) {
      yield* fs.makeDirectory(`${directory}${file.slice(0, file.lastIndexOf("/"))}`, { recursive: true })
      yield* fs.copyFile(file, `${directory}${file}`)
    }
  }
})

/** A root directory of busybox and `reach`, which is compiled once, and of more programs of this machine. */
export const root = Effect.fn("root")(function*(...programs: ReadonlyArray<string>) {
  const fs = yield* FileSystem.FileSystem
  const spawner = yield* ChildProcessSpawner
  const reach = `${home}/reach`
  if (!(yield* fs.exists(reach))) {
    const compiler = ChildProcess.make("cc", ["-static", "-o", reach, "test/support/programs/reach.c"])
    if ((yield* spawner.exitCode(compiler)) !== 0) return yield* Effect.die(new Error("reach.c does not compile"))
  }
  const directory = yield* Rootfs.make(yield* fs.makeTempDirectoryScoped({ prefix: "msb-" }))
  yield* fs.copyFile(reach, `${directory}/bin/reach`)
  yield* copyPrograms(directory, programs)
  return directory
})

/**
 * What the guest reaches: by name of a try, what came, or `denied`. The tries are lines of `programs/reach.c`, made side by
 * side; one that nothing comes of waits for as long as there is patience.
 */
export const reach = Effect.fn("reach")(function*<Name extends string>(
  sandbox: Sandbox.Sandbox,
  tries: Readonly<Record<Name, string>>,
  patience = 8000
): Effect.fn.Return<Record<Name, string>, MicrosandboxError.MicrosandboxError> {
  const names = Object.keys(tries) as Array<Name>
  const stdin = names.map((name) => `${name} ${tries[name]}\n`).join("")
  const { stderr, stdout } = yield* sandbox.exec("reach", [String(patience)], { stdin })
  // For whoever wonders.
  if (process.env.REACH_WHY !== undefined) process.stderr.write(stderr)
  const answers = new Map(
    stdout.trim().split("\n").map((line) => {
      const [name = "", ...words] = line.split(" ")
      return [name, words.join(" ")]
    })
  )
  return Object.fromEntries(names.map((name) => [name, answers.get(name) ?? "nothing"])) as Record<Name, string>
})

/** Tries of one kind: every host with every port. The name of one has both. */
export const every = (
  kind: "web" | "udp",
  hosts: Readonly<Record<string, string>>,
  ports: ReadonlyArray<number>
): Record<string, string> =>
  Object.fromEntries(
    Object.entries(hosts).flatMap(([name, host]) =>
      ports.map((port) => [`${name}:${port}`, `${kind} ${host} ${port}${kind === "udp" ? ` ${name}` : ""}`])
    )
  )

/** The names of those that something came of. */
export const arrived = (answers: Readonly<Record<string, string>>): ReadonlyArray<string> =>
  Object.keys(answers).filter((name) => answers[name] !== "denied")

/** What a connection of this machine to a port of its own gets that leads to a guest. */
export const visit = (port: number, { from = "127.0.0.1", patience = 8000 } = {}): Effect.Effect<string> =>
  Effect.callback<string>((resume) => {
    let text = ""
    const socket = net.connect({ port, host: "127.0.0.1", localAddress: from })
    socket.setTimeout(patience, () => socket.destroy())
    socket.on("data", (part) => {
      text += part
    })
    socket.on("error", () => {})
    socket.on("close", () => resume(Effect.succeed(text.trim() || "denied")))
    return Effect.sync(() => socket.destroy())
  })

/** How long a bucket takes to fill that is not to fill while a test runs. */
export const never: Duration.Input = "1 hour"

/** Asks a server by TLS, with openssl, whom the guest trusts or whom it is told to; and gives the last line of the answer. */
export interface Secure {
  readonly address: string
  readonly port?: number
  /** The name to ask for; empty for none. */
  readonly name: string
  readonly authority?: string
  /** What to ask by HTTP, `\r\n` and variables of the guest in it. Default: for nothing in particular. */
  readonly path?: string
  readonly authorization?: string
  readonly body?: string
}

const secureScript = ({ address, authority, authorization = "", body = "", name, path = "/", port = 443 }: Secure) => {
  const request = `POST %s HTTP/1.1\\r\\nHost: ${name}\\r\\nAuthorization: Bearer %s\\r\\n` +
    `Content-Length: %d\\r\\nConnection: close\\r\\n\\r\\n%s`
  const trust = authority === undefined ? "" : `-CAfile ${authority}`
  const asked = name === "" ? "-noservername" : `-servername ${name} -verify_hostname ${name}`
  return `b="${body}"; printf '${request}' "${path}" "${authorization}" \${#b} "$b" | ` +
    `timeout 40 openssl s_client -quiet -verify_return_error ${trust} ${asked} -connect ${address}:${port} ` +
    `2>/dev/null | tail -n 1`
}

/** Side by side, as {@link reach} does. */
export const reachSecurely = Effect.fn("reachSecurely")(function*<Name extends string>(
  sandbox: Sandbox.Sandbox,
  tries: Readonly<Record<Name, Secure>>
): Effect.fn.Return<Record<Name, string>, MicrosandboxError.MicrosandboxError> {
  const names = Object.keys(tries) as Array<Name>
  const scripts = names.map((name) => `(${secureScript(tries[name])}) >/tmp/try-${name} </dev/null &`)
  const read = names.map((name) => `echo "$(cat /tmp/try-${name})"`)
  const { stdout } = yield* sandbox.shell([...scripts, "wait", ...read].join("\n"))
  const answers = stdout.split("\n")
  return Object.fromEntries(names.map((name, at) => [name, answers[at]?.trim() || "denied"])) as Record<Name, string>
})
