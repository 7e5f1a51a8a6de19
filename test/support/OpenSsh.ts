/** OpenSSH's own clients, with a key of their own, and strict about the server's. */
import type { Sandbox } from "@effect-microsandbox/core"
import { SshServer } from "@effect-microsandbox/ssh"
import { assert } from "@effect/vitest"
import { Effect, FileSystem, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { temporaryDirectory } from "./Sandboxes.ts"

const bytes = Stream.runFold(() => Buffer.alloc(0), (all: Buffer, chunk: Uint8Array) => Buffer.concat([all, chunk]))

/** Runs a program of this machine with an input, up to its end. */
export const run = Effect.fn("run")(function*(
  command: string,
  args: ReadonlyArray<string>,
  stdin: Uint8Array = new Uint8Array()
) {
  const spawner = yield* ChildProcessSpawner
  const handle = yield* spawner.spawn(ChildProcess.make(command, args, { stdin: Stream.succeed(stdin) }))
  const [stdout, stderr, exitCode] = yield* Effect.all([bytes(handle.stdout), bytes(handle.stderr), handle.exitCode], {
    concurrency: "unbounded"
  })
  return { stdout: stdout.toString(), stderr: stderr.toString(), exitCode: Number(exitCode) }
}, Effect.scoped)

/** A key pair as a user has it. */
export const makeKey = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const file = `${yield* temporaryDirectory}/key`
  const made = yield* run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "a user", "-f", file])
  assert.strictEqual(made.exitCode, 0, made.stderr)
  return { file, line: yield* fs.readFileString(`${file}.pub`) }
})

/** What the clients are told on their command line; none of the machine's own settings counts. */
export const settings = Effect.fn("settings")(function*(key: string, knownHosts: string) {
  const fs = yield* FileSystem.FileSystem
  const known = `${yield* temporaryDirectory}/known_hosts`
  yield* fs.writeFileString(known, `${knownHosts}\n`)
  return [
    "-F",
    "none",
    ...[
      `IdentityFile=${key}`,
      "IdentitiesOnly=yes",
      "BatchMode=yes",
      `UserKnownHostsFile=${known}`,
      "GlobalKnownHostsFile=/dev/null",
      "StrictHostKeyChecking=yes"
    ].flatMap((option) => ["-o", option])
  ]
})

/** A server of a sandbox on a TCP port, and a user who may log in. */
export const served = Effect.fn("served")(function*(
  sandbox: Sandbox.Sandbox,
  options: SshServer.Options = {}
) {
  const key = yield* makeKey
  const server = yield* SshServer.make(sandbox, { authorizedKeys: [key.line], ...options })
  const port = "port" in server.address ? `${server.address.port}` : ""
  const args = yield* settings(key.file, server.knownHosts)
  return {
    server,
    port,
    args,
    ssh: (words: ReadonlyArray<string>, stdin?: Uint8Array) =>
      run("ssh", [...args, "-p", port, "root@127.0.0.1", ...words], stdin)
  }
})
