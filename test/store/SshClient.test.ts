/** An SSH client and Debian's own server, on this machine. There is no VM. */
import { Backend, type MicrosandboxError } from "@effect-microsandbox/core"
import type { SshClient } from "@effect-microsandbox/ssh"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, FileSystem, Inspectable, Option, Redacted, Ref, Scope, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { createHash, randomBytes } from "node:crypto"
import * as net from "node:net"
import { makeKey, run } from "../support/OpenSsh.ts"
import { idle, layerBackend, processesWith, temporaryDirectory } from "../support/Sandboxes.ts"
import { sshd } from "../support/Sshd.ts"

/** Nothing but the backend, and so many clients, is alive in the engine. */
const isIdleBut = Effect.fn("isIdleBut")(function*(sshClients: number) {
  const { native } = yield* Backend.Backend
  assert.deepStrictEqual(yield* native.live, { ...idle, sshClients })
})

const isIdle = isIdleBut(0)

const reasonOf = <A, R>(effect: Effect.Effect<A, MicrosandboxError.MicrosandboxError, R>) =>
  Effect.map(Effect.flip(effect), ({ reason }) => reason)

const sha256 = (data: Uint8Array): string => createHash("sha256").update(data).digest("hex")

const collect = <E, R>(stream: Stream.Stream<Uint8Array, E, R>) =>
  Effect.map(Stream.runCollect(stream), (chunks) => Buffer.concat(chunks))

const until = <E, R>(condition: Effect.Effect<boolean, E, R>): Effect.Effect<void, E, R> =>
  Effect.flatMap(condition, (done) => done ? Effect.void : Effect.delay(until(condition), "20 millis"))

/** Waits until this machine has a process with this word in its command line, or has it no more. */
const appears = (word: string) => until(Effect.map(processesWith(word), (found) => found.length > 0))
const disappears = (word: string) => until(Effect.map(processesWith(word), (found) => found.length === 0))

layer(layerBackend, { excludeTestServices: true })("an SSH client", (it) => {
  it.effect("runs commands with their exit, their outputs, their input and their variables", () =>
    Effect.gen(function*() {
      yield* Effect.scoped(Effect.gen(function*() {
        const server = yield* sshd()
        const client = yield* server.connect()
        assert.match(client.hostKey, /^SHA256:[\w+/]{43}$/)
        const output = yield* client.exec("echo out; echo err >&2; exit 7")
        assert.deepStrictEqual(
          [output.stdout, output.stderr, output.exitCode, output.signal, output.success],
          ["out\n", "err\n", 7, undefined, false]
        )
        const none = yield* client.exec("cat")
        assert.deepStrictEqual([none.stdoutBytes.length, none.exitCode, none.success], [0, 0, true])
        assert.strictEqual((yield* client.exec("tr a-z A-Z", { stdin: "words" })).stdout, "WORDS")
        const streamed = yield* client.exec("wc -c", { stdin: Stream.make(new Uint8Array(100_000), "more") })
        assert.strictEqual(streamed.stdout.trim(), "100004")
        // One that does not read it all is no failure.
        assert.strictEqual((yield* client.exec("exit 3", { stdin: new Uint8Array(8 << 20) })).exitCode, 3)
        assert.strictEqual((yield* client.exec("echo $GIVEN", { env: { GIVEN: "a 'value'" } })).stdout, "a 'value'\n")
        const refused = yield* reasonOf(client.exec("true", { env: { OTHER: "x" } }))
        assert.deepInclude(refused, { _tag: "SshRequestRefused", request: "env" })
        const failing = yield* Effect.flip(client.exec("cat", { stdin: Stream.fail("no input") }))
        assert.strictEqual(failing, "no input")
      }))
      yield* isIdle
    }))

  it.effect("tells the signal that ended a program, and not an exit code", () =>
    Effect.gen(function*() {
      const client = yield* (yield* sshd()).connect()
      const killed = yield* client.exec("kill -TERM $$")
      assert.deepStrictEqual([killed.exitCode, killed.signal, killed.success], [undefined, "SIGTERM", false])
      const handle = yield* client.spawn("echo ready; exec sleep 100")
      yield* Stream.runHead(handle.stdout)
      yield* handle.signal("SIGINT")
      assert.deepStrictEqual(yield* handle.exitStatus, { exitCode: undefined, signal: "SIGINT", success: false })
      // To signal what has ended is nothing.
      yield* handle.signal("SIGKILL")
      yield* handle.kill
    }))

  it.effect("takes a connection that is cut in the middle for a failure, and never for an exit", () =>
    Effect.gen(function*() {
      yield* Effect.scoped(Effect.gen(function*() {
        const server = yield* sshd()
        const client = yield* server.connect()
        const { directory } = server
        const fs = yield* FileSystem.FileSystem
        const handle = yield* client.spawn("echo $PPID; exec sleep 100")
        const pid = Number(Option.getOrThrow(yield* Stream.runHead(Stream.decodeText(handle.stdout))))
        const reading = yield* Effect.forkChild(Stream.runDrain(handle.stdout))
        process.kill(pid, "SIGKILL")
        assert.strictEqual((yield* reasonOf(handle.exitStatus))._tag, "SshConnectionLost")
        assert.strictEqual((yield* reasonOf(Fiber.join(reading)))._tag, "SshConnectionLost")
        assert.strictEqual((yield* reasonOf(Stream.run(Stream.make("x"), handle.stdin)))._tag, "StdinFailed")
        // The other connection is as it was, until it is cut.
        assert.strictEqual((yield* client.exec("echo fine")).stdout, "fine\n")
        const running = yield* Effect.forkChild(client.exec(`echo $PPID > ${directory}/pid; exec sleep 100`))
        yield* until(
          Effect.map(
            Effect.option(fs.readFileString(`${directory}/pid`)),
            (text) => Option.exists(text, (text) => text.endsWith("\n"))
          )
        )
        process.kill(Number(yield* fs.readFileString(`${directory}/pid`)), "SIGKILL")
        assert.strictEqual((yield* reasonOf(Fiber.join(running)))._tag, "SshConnectionLost")
        const late = [
          Effect.asVoid(client.exec("true")),
          Effect.scoped(Effect.asVoid(client.spawn("true"))),
          Effect.scoped(Effect.asVoid(client.sftp))
        ]
        for (const call of late) assert.strictEqual((yield* reasonOf(call))._tag, "SshConnectionLost")
      }))
      yield* isIdle
    }))

  it.effect("says nothing to a server with another key than the one that it is known by", () =>
    Effect.gen(function*() {
      const server = yield* sshd()
      const fs = yield* FileSystem.FileSystem
      const other = yield* makeKey
      const rsa = `${yield* temporaryDirectory}/rsa`
      yield* run("ssh-keygen", ["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", rsa])
      const { hostKey } = yield* server.connect()
      for (const wrong of [other.line, "SHA256:yVmOcVhbyh0BDYkEvLjLsVKIWhEqo9GkLXPwgXvHkXU"]) {
        const reason = yield* reasonOf(server.connect({ hostKey: wrong }))
        assert.strictEqual(reason._tag, "SshHostKeyMismatch")
        if (reason._tag === "SshHostKeyMismatch") assert.strictEqual(reason.actual, hostKey)
      }
      const kind = yield* reasonOf(server.connect({ hostKey: yield* fs.readFileString(`${rsa}.pub`) }))
      assert.strictEqual(kind._tag, "SshHostKeyMismatch")
      yield* Effect.scoped(server.connect({ hostKey }))
      yield* Effect.scoped(server.connect({ hostKey: [other.line, server.hostKey] }))
      // Who it would have been, the server was told by those alone that knew it.
      const logins = [...(yield* server.log).matchAll(/Accepted publickey/g)]
      assert.strictEqual(logins.length, 3)
      assert.notMatch(yield* server.log, /Failed|Invalid user/)
      const unknown = yield* reasonOf(server.connect({ hostKey: "ssh-ed25519 AAAA" }))
      assert.deepInclude(unknown, { _tag: "InvalidConfig", field: "hostKey" })
      yield* isIdleBut(1)
    }))

  it.effect("logs in with a key as text, as a file with a passphrase, and from an agent, and with no other", () =>
    Effect.gen(function*() {
      const server = yield* sshd()
      const fs = yield* FileSystem.FileSystem
      const spawner = yield* ChildProcessSpawner
      const directory = yield* temporaryDirectory
      const works = (key: SshClient.Key) =>
        Effect.scoped(Effect.flatMap(server.connect({ key }), (client) => client.exec("echo in"))).pipe(
          Effect.map(({ stdout }) => stdout)
        )
      const text = yield* fs.readFileString(server.key.file)
      assert.strictEqual(yield* works(Redacted.make(text)), "in\n")
      const secret = "a passphrase that nobody sees"
      const file = `${directory}/locked`
      yield* fs.writeFileString(file, text, { mode: 0o600 })
      const locked = yield* run("ssh-keygen", ["-q", "-p", "-P", "", "-N", secret, "-f", file])
      assert.strictEqual(locked.exitCode, 0, locked.stderr)
      assert.strictEqual(yield* works({ path: file, passphrase: Redacted.make(secret) }), "in\n")
      for (const key of [{ path: file }, { path: file, passphrase: Redacted.make("another of them") }]) {
        const error = yield* Effect.flip(works(key))
        assert.deepInclude(error.reason, { _tag: "InvalidConfig", field: "key.passphrase" })
        assert.notInclude(Inspectable.toStringUnknown(error) + error.message, "another of them")
      }
      const broken = yield* Effect.flip(works(Redacted.make(text.slice(0, 200))))
      assert.deepInclude(broken.reason, { _tag: "InvalidConfig", field: "key" })
      assert.notInclude(broken.message, text.slice(100, 120))
      assert.strictEqual((yield* reasonOf(works({ path: `${directory}/none` })))._tag, "HostIo")
      const stranger = yield* makeKey
      const refused = yield* reasonOf(works({ path: stranger.file }))
      assert.strictEqual(refused._tag, "SshLoginRefused")

      const socket = `${directory}/agent`
      yield* spawner.spawn(ChildProcess.make("ssh-agent", ["-D", "-a", socket], { stdin: "ignore", stdout: "ignore" }))
      yield* until(fs.exists(socket))
      assert.strictEqual((yield* reasonOf(works({ agent: socket })))._tag, "SshLoginRefused")
      const add = (file: string) => run("env", [`SSH_AUTH_SOCK=${socket}`, "ssh-add", "-q", file])
      assert.strictEqual((yield* add(stranger.file)).exitCode, 0)
      assert.strictEqual((yield* reasonOf(works({ agent: socket })))._tag, "SshLoginRefused")
      assert.strictEqual((yield* add(server.key.file)).exitCode, 0)
      assert.strictEqual(yield* works({ agent: socket }), "in\n")
      assert.strictEqual((yield* reasonOf(works({ agent: `${directory}/none` })))._tag, "HostIo")
      yield* isIdle
    }))

  it.effect("finds nobody, one who does not answer, and one who is no server, within its time", () =>
    Effect.gen(function*() {
      const server = yield* sshd()
      const listening = yield* Effect.acquireRelease(
        Effect.callback<net.Server>((resume) => {
          const listening = net.createServer((socket) => socket.on("error", () => {}))
          listening.listen(0, "127.0.0.1", () => resume(Effect.succeed(listening)))
        }),
        (listening) => Effect.sync(() => listening.close())
      )
      const { port } = listening.address() as net.AddressInfo
      const silent = yield* reasonOf(server.connect({ port, connectTimeout: "300 millis" }))
      assert.strictEqual(silent._tag, "SshConnectFailed")
      assert.include(silent.message, "300ms")
      listening.on("connection", (socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"))
      assert.strictEqual((yield* reasonOf(server.connect({ port })))._tag, "SshConnectFailed")
      const nobody = yield* reasonOf(server.connect({ port: 1 }))
      assert.deepInclude(nobody, { _tag: "SshConnectFailed", errno: 111 })
      yield* isIdle
    }))

  it.effect("reaches a server on a Unix socket", () =>
    Effect.gen(function*() {
      const server = yield* sshd()
      const path = `${yield* temporaryDirectory}/s`
      yield* Effect.acquireRelease(
        Effect.callback<net.Server>((resume) => {
          const proxy = net.createServer((near) => {
            const far = net.connect(server.port, "127.0.0.1")
            near.pipe(far)
            far.pipe(near)
            for (const socket of [near, far]) socket.on("error", () => {})
          })
          proxy.listen(path, () => resume(Effect.succeed(proxy)))
        }),
        (proxy) => Effect.sync(() => proxy.close())
      )
      const client = yield* server.connect({ host: undefined, port: undefined, path })
      assert.strictEqual((yield* client.exec("echo there")).stdout, "there\n")
    }))

  it.effect("carries 32 MiB to a program and back, with equal hashes", () =>
    Effect.gen(function*() {
      const client = yield* (yield* sshd()).connect()
      const data = randomBytes(32 << 20)
      const pieces = Stream.fromIterable(
        Array.from({ length: 64 }, (_, index) => data.subarray(index << 19, (index + 1) << 19))
      )
      const handle = yield* client.spawn("cat", { stdin: pieces })
      assert.strictEqual(sha256(yield* collect(handle.stdout)), sha256(data))
      assert.deepStrictEqual(yield* handle.exitStatus, { exitCode: 0, signal: undefined, success: true })
      const collected = yield* client.exec("cat", { stdin: data })
      assert.strictEqual(sha256(collected.stdoutBytes), sha256(data))
    }))

  it.effect("holds a program back whose output nobody reads, and nothing else", () =>
    Effect.gen(function*() {
      yield* Effect.scoped(Effect.gen(function*() {
        const server = yield* sshd()
        const fs = yield* FileSystem.FileSystem
        const client = yield* server.connect()
        const file = `${server.directory}/count`
        const handle = yield* client.spawn(
          `i=0; while head -c 1048576 /dev/zero; do i=$((i+1)); echo $i > ${file}.new; mv ${file}.new ${file}; done`,
          { highWater: "1 MiB" }
        )
        const count = Effect.map(Effect.orElseSucceed(fs.readFileString(file), () => "0"), Number)
        /** The count at which it stands still for a while. */
        const standstill: Effect.Effect<number> = Effect.gen(function*() {
          const before = yield* count
          yield* Effect.sleep("700 millis")
          return before > 0 && before === (yield* count) ? before : yield* standstill
        })
        const held = yield* standstill
        // What this side holds, the window, and what kernels hold between them.
        assert.isBelow(held, 24)
        // Others of the same client run, and what is told to the program reaches it.
        assert.strictEqual((yield* client.exec("echo fine")).stdout, "fine\n")
        const other = yield* client.spawn("echo fine too")
        assert.strictEqual((yield* collect(other.stdout)).toString(), "fine too\n")
        // It goes on as it is read, and not further.
        const seen = yield* Ref.make(0)
        yield* Stream.runForEachWhile(handle.stdout, (chunk) =>
          Effect.map(Ref.updateAndGet(seen, (seen) => seen + chunk.length), (seen) => seen < 64 << 20))
        const later = yield* standstill
        assert.isAtLeast(later, 64)
        assert.isBelow(later, 64 + 24)
        yield* handle.signal("SIGTERM")
        yield* Stream.runDrain(handle.stdout)
        assert.strictEqual((yield* handle.exitStatus).signal, "SIGTERM")
        // Of two outputs, who reads one is not kept waiting by the other.
        const both = yield* client.spawn("head -c 8388608 /dev/zero; echo last >&2", { highWater: "1 MiB" })
        assert.strictEqual((yield* collect(both.stderr)).toString(), "last\n")
        assert.strictEqual((yield* collect(both.stdout)).length, 8 << 20)
      }))
      yield* isIdle
    }))

  it.effect("kills a program for its time and for its output, and keeps what it had printed", () =>
    Effect.gen(function*() {
      const client = yield* (yield* sshd()).connect()
      const late = yield* reasonOf(client.exec("echo said; exec sleep 86001", { timeout: "500 millis" }))
      assert.deepInclude(late, { _tag: "ExecTimeout", stdout: "said\n", timeoutMs: 500 })
      yield* disappears("86001")
      const much = yield* reasonOf(client.exec("cat /dev/zero; : 86002", { maxOutput: "1 MiB" }))
      assert.deepInclude(much, { _tag: "OutputOverflow", limitBytes: 1 << 20 })
      yield* disappears("86002")
      const handle = yield* client.spawn("exec sleep 86003", { timeout: "300 millis" })
      assert.strictEqual((yield* reasonOf(handle.exitStatus))._tag, "ExecTimeout")
      yield* disappears("86003")
      assert.strictEqual((yield* client.exec("echo fine")).stdout, "fine\n")
    }))

  it.effect("gives a program a terminal of its size and kind, which changes", () =>
    Effect.gen(function*() {
      const client = yield* (yield* sshd()).connect()
      const handle = yield* client.spawn(
        "stty size; echo $TERM; trap 'stty size; exit 5' WINCH; while :; do sleep 0.1; done",
        { pty: { rows: 33, columns: 111, term: "vt220" } }
      )
      const seen = yield* Ref.make("")
      const reading = yield* Stream.decodeText(handle.stdout).pipe(
        Stream.runForEach((text) => Ref.update(seen, (seen) => seen + text)),
        Effect.forkChild
      )
      yield* until(Effect.map(Ref.get(seen), (seen) => seen.includes("33 111\r\nvt220\r\n")))
      yield* handle.resize(40, 120)
      assert.strictEqual((yield* handle.exitStatus).exitCode, 5)
      yield* Fiber.join(reading)
      assert.include(yield* Ref.get(seen), "40 120\r\n")
      const invalid = yield* reasonOf(handle.resize(0, 1))
      assert.deepInclude(invalid, { _tag: "InvalidConfig", field: "rows" })
    }))

  it.effect("starts the login shell, with a terminal and without", () =>
    Effect.gen(function*() {
      const client = yield* (yield* sshd()).connect()
      const plain = yield* client.shell()
      yield* Stream.run(Stream.make("echo $((6 * 7)); tty; exit 9\n"), plain.stdin)
      assert.strictEqual((yield* collect(plain.stdout)).toString().trim(), "42\nnot a tty")
      assert.strictEqual((yield* plain.exitStatus).exitCode, 9)
      const interactive = yield* client.shell({ pty: true })
      yield* Stream.run(Stream.make("stty size; tty; exit 8\n"), interactive.stdin)
      assert.match((yield* collect(interactive.stdout)).toString(), /24 80\r\n\/dev\/pts\/\d+/)
      assert.strictEqual((yield* interactive.exitStatus).exitCode, 8)
    }))

  it.effect("runs 20 programs at once, whether they are collected or talked to", () =>
    Effect.gen(function*() {
      const server = yield* sshd()
      yield* Effect.scoped(Effect.gen(function*() {
        const client = yield* server.connect()
        const numbers = Array.from({ length: 20 }, (_, index) => index)
        // More than a server lets sessions be on one connection.
        const all = yield* Effect.forEach(numbers, (index) => client.exec(`sleep 0.5; echo ${index}; exit ${index}`), {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(all.map(({ exitCode, stdout }) => [exitCode, stdout]), numbers.map((n) => [n, `${n}\n`]))
        const talked = yield* Effect.forEach(numbers, (index) =>
          Effect.scoped(Effect.gen(function*() {
            const handle = yield* client.spawn("read line; echo got $line", { stdin: "pipe" })
            yield* Stream.run(Stream.make(`${index}\n`), handle.stdin)
            return (yield* collect(handle.stdout)).toString()
          })), { concurrency: "unbounded" })
        assert.deepStrictEqual(talked, numbers.map((n) => `got ${n}\n`))
      }))
      yield* isIdle
    }))

  it.effect("ends what it runs when it is interrupted, or a scope ends", () =>
    Effect.gen(function*() {
      const server = yield* sshd()
      const scope = yield* Scope.make()
      const client = yield* Scope.provide(server.connect(), scope)
      const collected = yield* Effect.forkChild(client.exec("exec sleep 86011"))
      yield* appears("86011")
      yield* Fiber.interrupt(collected)
      yield* disappears("86011")
      const spawned = yield* Effect.forkChild(
        Effect.scoped(
          Effect.flatMap(client.spawn("trap '' TERM HUP PIPE; exec sleep 86012"), (handle) => handle.exitStatus)
        )
      )
      yield* appears("86012")
      yield* Fiber.interrupt(spawned)
      yield* disappears("86012")
      const opening = yield* Effect.forkChild(Effect.scoped(client.spawn("exec sleep 86013")))
      yield* Fiber.interrupt(opening)
      yield* disappears("86013")
      // A client that ends takes what is open on it with it.
      const handle = yield* client.spawn("exec sleep 86014", { pty: true })
      yield* appears("86014")
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* reasonOf(handle.exitStatus))._tag, "SshConnectionLost")
      assert.strictEqual((yield* reasonOf(client.exec("true")))._tag, "HandleClosed")
      yield* disappears("86014")
    }))

  it.effect("loses a server that is silent after its keepalives, and not one that answers", () =>
    Effect.gen(function*() {
      const server = yield* sshd()
      const client = yield* server.connect({ keepalive: "200 millis" })
      const handle = yield* client.spawn("echo $PPID; exec sleep 100")
      const pid = Number(Option.getOrThrow(yield* Stream.runHead(Stream.decodeText(handle.stdout))))
      const waiting = yield* Effect.forkChild(handle.exitStatus)
      yield* Effect.sleep("2 seconds")
      assert.isUndefined(waiting.pollUnsafe())
      process.kill(pid, "SIGSTOP")
      assert.strictEqual((yield* reasonOf(Fiber.join(waiting)))._tag, "SshConnectionLost")
      process.kill(pid, "SIGKILL")
      assert.strictEqual((yield* client.exec("echo fine")).stdout, "fine\n")
    }))
})
