/** An SSH client of a real guest, without a socket: one boot for all of it. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { SshClient, SshServer } from "@effect-microsandbox/ssh"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, FileSystem, Layer, Redacted, Ref, Scope, Stream } from "effect"
import { createHash, randomBytes } from "node:crypto"
import { makeKey } from "../support/OpenSsh.ts"
import { layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"

const layerSandbox = Layer.unwrap(
  Effect.map(rootDirectory, (image) => Sandbox.layer({ image, workdir: "/root", memory: "512 MiB" }))
).pipe(Layer.provideMerge(layerBackend))

const collect = <E, R>(stream: Stream.Stream<Uint8Array, E, R>) =>
  Effect.map(Stream.runCollect(stream), (chunks) => Buffer.concat(chunks))

const sha256 = (data: Uint8Array): string => createHash("sha256").update(data).digest("hex")

/** Whether the guest has a process with this word in its command line, at last. */
const appears = Effect.fn("appears")(function*(word: string, wanted: boolean) {
  const sandbox = yield* Sandbox.Sandbox
  const { exitCode } = yield* sandbox.shell(
    `for i in $(seq 100); do ps -o args | grep -v grep | grep -q '${word}' ${
      wanted ? "&&" : "||"
    } exit 0; sleep 0.1; done; exit 1`
  )
  return exitCode === 0
})

layer(layerSandbox, { timeout: "10 minutes", excludeTestServices: true })("an SSH client of a guest", (it) => {
  it.effect("runs programs, collected and talked to, at a terminal too, and leaves nothing", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const { native } = yield* Backend.Backend
      const scope = yield* Scope.make()
      const client = yield* Scope.provide(SshClient.open(sandbox), scope)
      const output = yield* client.exec("echo out; echo err >&2; id -un; exit 7", { env: { ANY: "one" } })
      assert.deepStrictEqual(
        [output.stdout, output.stderr, output.exitCode, output.success],
        ["out\nroot\n", "err\n", 7, false]
      )
      const data = randomBytes(4 << 20)
      const handle = yield* client.spawn("cat", { stdin: data })
      assert.strictEqual(sha256(yield* collect(handle.stdout)), sha256(data))
      assert.deepStrictEqual(yield* handle.exitStatus, { exitCode: 0, signal: undefined, success: true })
      const shell = yield* client.shell({ pty: { rows: 33, columns: 111, term: "vt220" } })
      const seen = yield* Ref.make("")
      const reading = yield* Stream.decodeText(shell.stdout).pipe(
        Stream.runForEach((text) => Ref.update(seen, (seen) => seen + text)),
        Effect.forkChild
      )
      const typed = yield* Stream.concat(
        Stream.make("stty size; echo kind $TERM; until [ \"$(stty size)\" = '40 120' ]; do sleep 0.1; done; exit 5\n"),
        Stream.never
      ).pipe(Stream.run(shell.stdin), Effect.ignore, Effect.forkChild)
      while (!(yield* Ref.get(seen)).includes("kind vt220\r\n")) yield* Effect.sleep("50 millis")
      assert.include(yield* Ref.get(seen), "33 111\r\n")
      yield* shell.resize(40, 120)
      assert.strictEqual((yield* shell.exitStatus).exitCode, 5)
      yield* Fiber.join(reading)
      yield* Fiber.interrupt(typed)
      const nobody = yield* Effect.scoped(
        Effect.flatMap(SshClient.open(sandbox, { user: "nobody" }), (client) => client.exec("id -un"))
      )
      assert.strictEqual(nobody.stdout, "nobody\n")
      // It ends with its fiber, and what is spawned with the client.
      const collected = yield* Effect.forkChild(client.exec("exec sleep 8771"))
      assert.isTrue(yield* appears("8771", true))
      yield* Fiber.interrupt(collected)
      assert.isTrue(yield* appears("8771", false))
      yield* client.spawn("exec sleep 8772")
      assert.isTrue(yield* appears("8772", true))
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(yield* appears("8772", false))
      assert.strictEqual((yield* native.live).sshClients, 0)
    }))

  it.effect("reaches a served sandbox as it reaches any server, by TCP and by a Unix socket", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const here = yield* FileSystem.FileSystem
      const key = yield* makeKey
      const options = { user: "root", key: Redacted.make(yield* here.readFileString(key.file)) }
      const path = `${yield* temporaryDirectory}/s`
      for (const place of [{ port: 0 }, { path }]) {
        const server = yield* SshServer.make(sandbox, { ...place, authorizedKeys: [key.line] })
        const where = "port" in server.address ? { host: "127.0.0.1", port: server.address.port } : { path }
        const client = yield* SshClient.connect({ ...options, ...where, hostKey: server.hostKey.line })
        assert.strictEqual(client.hostKey, server.hostKey.fingerprint)
        assert.strictEqual((yield* client.exec("tr a-z A-Z; exit 4", { stdin: "words" })).stdout, "WORDS")
        const fs = yield* client.sftp
        yield* fs.writeFileString("/root/over-ssh", "there")
        assert.strictEqual(yield* sandbox.fs.readFileString("/root/over-ssh"), "there")
        yield* fs.remove("/root/over-ssh")
      }
    }))
})
