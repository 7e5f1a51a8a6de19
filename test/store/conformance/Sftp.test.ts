/** The files of Debian's own SFTP server, held against the suites that Node's are held against. There is no VM. */
import { Backend, MicrosandboxError } from "@effect-microsandbox/core"
import { Sftp, SshClient } from "@effect-microsandbox/ssh"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, FileSystem, Layer, type PlatformError, Stream } from "effect"
import { createHash, randomBytes } from "node:crypto"
import * as os from "node:os"
import { fileSystem } from "../../conformance/FileSystem.ts"
import { keyValueStore } from "../../conformance/KeyValueStore.ts"
import { path } from "../../conformance/Path.ts"
import { idle, layerBackend, temporaryDirectory } from "../../support/Sandboxes.ts"
import { sshd } from "../../support/Sshd.ts"

const layerClient = Layer.unwrap(
  Effect.map(sshd(), ({ options }) => SshClient.layer({ ...options, user: os.userInfo().username }))
).pipe(
  Layer.provideMerge(layerBackend),
  Layer.orDie
)

/** The program's services, of the server. */
const layerFiles = Sftp.layer.pipe(Layer.provide(layerClient), Layer.orDie)

layer(layerFiles, { excludeTestServices: true })("the file system of an SFTP server", fileSystem)

layer(layerFiles, { excludeTestServices: true })(
  "the path of an SFTP server",
  (it) => path(it, Effect.sync(() => os.userInfo().homedir))
)

layer(layerFiles, { excludeTestServices: true })("a key-value store on the files of an SFTP server", keyValueStore)

/** What the server would have said in numbers. */
const errnoOf = <A, R>(effect: Effect.Effect<A, PlatformError.PlatformError, R>) =>
  Effect.map(
    Effect.flip(effect),
    ({ cause }) =>
      cause instanceof MicrosandboxError.MicrosandboxError && cause.reason._tag === "FileFailed"
        ? cause.reason.errnoName
        : undefined
  )

layer(layerClient, { excludeTestServices: true })("SFTP", (it) => {
  it.effect("has what OpenSSH's server has beyond version 3", () =>
    Effect.gen(function*() {
      const { extensions, home } = yield* Sftp.make(yield* SshClient.SshClient)
      assert.isTrue(home.startsWith("/"))
      assert.includeMembers([...extensions], [
        "copy-data",
        "fsync@openssh.com",
        "hardlink@openssh.com",
        "limits@openssh.com",
        "posix-rename@openssh.com"
      ])
    }))

  it.effect("carries 32 MiB both ways with equal hashes, whole and as a stream", () =>
    Effect.gen(function*() {
      const fs = yield* (yield* SshClient.SshClient).sftp
      const here = yield* FileSystem.FileSystem
      const directory = yield* temporaryDirectory
      const data = randomBytes(32 << 20)
      const sha256 = (data: Uint8Array) => createHash("sha256").update(data).digest("hex")
      yield* fs.writeFile(`${directory}/whole`, data)
      assert.strictEqual(sha256(yield* here.readFile(`${directory}/whole`)), sha256(data))
      assert.strictEqual(sha256(yield* fs.readFile(`${directory}/whole`)), sha256(data))
      yield* Stream.run(fs.stream(`${directory}/whole`), fs.sink(`${directory}/copy`))
      assert.strictEqual(sha256(yield* here.readFile(`${directory}/copy`)), sha256(data))
    }))

  it.effect("opens more files at once than its handles have ASCII letters", () =>
    Effect.gen(function*() {
      const fs = yield* (yield* SshClient.SshClient).sftp
      const directory = yield* temporaryDirectory
      const numbers = Array.from({ length: 300 }, (_, index) => index)
      const files = yield* Effect.forEach(numbers, (index) => fs.open(`${directory}/${index}`, { flag: "w+" }))
      yield* Effect.forEach(numbers, (index) => files[index]!.writeAll(new TextEncoder().encode(`${index}`)), {
        concurrency: 50
      })
      for (const index of numbers) {
        assert.strictEqual(yield* fs.readFileString(`${directory}/${index}`), `${index}`)
      }
    }))

  it.effect("says what the protocol cannot, and does not pretend", () =>
    Effect.gen(function*() {
      const fs = yield* (yield* SshClient.SshClient).sftp
      const directory = yield* temporaryDirectory
      yield* fs.writeFileString(`${directory}/file`, "")
      assert.strictEqual(yield* errnoOf(fs.utimes(`${directory}/file`, new Date("1960-01-01"), 0)), "EOVERFLOW")
      assert.strictEqual(yield* errnoOf(fs.access(directory, { writable: true })), "EOPNOTSUPP")
      yield* fs.access(directory, { readable: true })
      // What would stop the server.
      const made = yield* (yield* SshClient.SshClient).exec(`mkfifo ${directory}/fifo`)
      assert.isTrue(made.success)
      for (
        const blocking of [
          Effect.asVoid(fs.readFile(`${directory}/fifo`)),
          fs.copyFile(`${directory}/fifo`, `${directory}/x`)
        ]
      ) assert.strictEqual(yield* errnoOf(blocking), "EOPNOTSUPP")
      assert.strictEqual((yield* fs.stat(`${directory}/fifo`)).type, "FIFO")
    }))

  it.effect("gives back what it had open when it is interrupted, closed or cut", () =>
    Effect.gen(function*() {
      const { native } = yield* Backend.Backend
      const client = yield* SshClient.SshClient
      const directory = yield* temporaryDirectory
      const file = `${directory}/pid`
      yield* Effect.scoped(Effect.gen(function*() {
        const fs = yield* client.sftp
        const endless = yield* Effect.forkChild(Stream.runDrain(fs.stream("/dev/zero")))
        yield* Effect.sleep("300 millis")
        yield* Fiber.interrupt(endless)
        assert.deepStrictEqual(yield* native.live, { ...idle, sshClients: 1, sftps: 1 })
        yield* fs.writeFileString(file, "there")
      }))
      assert.deepStrictEqual(yield* native.live, { ...idle, sshClients: 1 })
      yield* Effect.scoped(Effect.gen(function*() {
        const fs = yield* client.sftp
        const open = yield* fs.open(file)
        // Its own, and not that of whoever else runs tests here.
        const found = yield* client.exec("pgrep -n -P $PPID sftp-server")
        process.kill(Number(found.stdout), "SIGKILL")
        const error = yield* Effect.flip(Effect.forever(open.readAlloc(1, { position: 0n })))
        assert.instanceOf(error.cause, MicrosandboxError.MicrosandboxError)
        assert.strictEqual((error.cause as MicrosandboxError.MicrosandboxError).reason._tag, "SshConnectionLost")
        assert.strictEqual((yield* client.exec("echo fine")).stdout, "fine\n")
      }))
      assert.deepStrictEqual(yield* native.live, { ...idle, sshClients: 1 })
    }))
})
