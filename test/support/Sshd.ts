/**
 * Debian's own sshd on loopback, with keys and settings of its own, for as long as its scope: what a client meets outside of
 * this SDK. It lets the user of these tests in, with one key.
 *
 * Run by root it needs its directory `/run/sshd`, which is made, and lets root in and `nobody`, with a shell: that of Debian 12
 * passes no signal on to a program of root's. It sees another list of users for that, in a mount namespace of its own.
 */
import { SshClient } from "@effect-microsandbox/ssh"
import { assert } from "@effect/vitest"
import { Effect, FileSystem, Schedule } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as net from "node:net"
import * as os from "node:os"
import { makeKey, run } from "./OpenSsh.ts"
import { temporaryDirectory } from "./Sandboxes.ts"

/** A port that was free just now. */
const freePort = Effect.callback<number>((resume) => {
  const server = net.createServer()
  server.listen(0, "127.0.0.1", () => {
    const { port } = server.address() as net.AddressInfo
    server.close(() => resume(Effect.succeed(port)))
  })
})

const accepts = (port: number) =>
  Effect.callback<void, Error>((resume) => {
    const socket = net.connect(port, "127.0.0.1", () => {
      socket.destroy()
      resume(Effect.void)
    })
    socket.on("error", (error) => resume(Effect.fail(error)))
  })

/** Starts the server. `settings` are lines of its configuration. */
export const sshd = Effect.fn("sshd")(function*(...settings: ReadonlyArray<string>) {
  const fs = yield* FileSystem.FileSystem
  const spawner = yield* ChildProcessSpawner
  const directory = yield* temporaryDirectory
  const key = yield* makeKey
  const made = yield* run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", `${directory}/host`])
  assert.strictEqual(made.exitCode, 0, made.stderr)
  const [hostKey = ""] = (yield* fs.readFileString(`${directory}/host.pub`)).split("\n")
  yield* fs.writeFileString(`${directory}/authorized`, key.line)
  // Its users make files there.
  yield* fs.chmod(directory, 0o777)
  const isRoot = os.userInfo().uid === 0
  const users = yield* fs.readFileString("/etc/passwd")
  yield* fs.writeFileString(
    `${directory}/passwd`,
    users.replace(/^nobody:.*$/m, `nobody:x:65534:65534::${directory}:/bin/sh`)
  )
  if (isRoot) yield* fs.makeDirectory("/run/sshd", { recursive: true, mode: 0o755 })
  const port = yield* freePort
  yield* fs.writeFileString(
    `${directory}/config`,
    [
      `HostKey ${directory}/host`,
      `AuthorizedKeysFile ${directory}/authorized`,
      `ListenAddress 127.0.0.1:${port}`,
      "PidFile none",
      "UsePAM no",
      "StrictModes no",
      "PasswordAuthentication no",
      "KbdInteractiveAuthentication no",
      "PermitRootLogin prohibit-password",
      "AcceptEnv GIVEN",
      "Subsystem sftp /usr/lib/openssh/sftp-server",
      ...settings
    ].join("\n")
  )
  // By its whole path, or it does not start.
  const command = `exec /usr/sbin/sshd -D -E ${directory}/log -f ${directory}/config`
  const inNamespace = ["--mount", "sh", "-c", `mount --bind ${directory}/passwd /etc/passwd && ${command}`]
  yield* spawner.spawn(
    isRoot
      ? ChildProcess.make("unshare", inNamespace, { stdin: "ignore", stdout: "ignore", stderr: "inherit" })
      : ChildProcess.make("sh", ["-c", command], { stdin: "ignore", stdout: "ignore", stderr: "inherit" })
  )
  yield* accepts(port).pipe(Effect.retry({ schedule: Schedule.spaced("20 millis"), times: 500 }), Effect.orDie)
  const options: SshClient.ConnectOptions = {
    host: "127.0.0.1",
    port,
    user: isRoot ? "nobody" : os.userInfo().username,
    key: { path: key.file },
    hostKey
  }
  return {
    /** With these a client is let in. */
    options,
    key,
    /** Where all may make files. */
    directory,
    hostKey,
    port,
    log: fs.readFileString(`${directory}/log`),
    connect: (more: Partial<SshClient.ConnectOptions> = {}) => SshClient.connect({ ...options, ...more })
  }
})
