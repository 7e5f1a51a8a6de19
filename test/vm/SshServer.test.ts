/** OpenSSH's clients and a real guest: one boot for all of them. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { SshServer } from "@effect-microsandbox/ssh"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, FileSystem, Layer, Option, Scope, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { createHash } from "node:crypto"
import { connect } from "node:net"
import { makeKey, run, served, settings } from "../support/OpenSsh.ts"
import { idle, layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"
import { typed } from "../support/Typed.ts"

const layerSandbox = Layer.unwrap(Effect.map(rootDirectory, (image) => Sandbox.layer({ image }))).pipe(
  Layer.provideMerge(layerBackend)
)

/** Nothing but the sandbox is alive in the engine. */
const isIdle = Effect.gen(function*() {
  const { native } = yield* Backend.Backend
  assert.deepStrictEqual(yield* native.live, { ...idle, sandboxes: 1 })
})

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

/** Connects, says nothing, and waits for the other end to close: what it has said. */
const closed = (port: number) =>
  Effect.callback<string>((resume) => {
    let said = ""
    const socket = connect(port, "127.0.0.1", () => {})
    socket.on("data", (data) => {
      said += data.toString("latin1")
    })
    socket.on("error", () => {})
    socket.on("close", () => resume(Effect.succeed(said)))
    return Effect.sync(() => socket.destroy())
  })

const sha256 = (data: Uint8Array): string => createHash("sha256").update(data).digest("hex")

layer(layerSandbox, { timeout: "10 minutes", excludeTestServices: true })("an SSH server", (it) => {
  it.effect("runs commands for OpenSSH's client, many at once, and only for one that has the key", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      yield* Effect.scoped(Effect.gen(function*() {
        const { port, server, ssh } = yield* served(sandbox)
        assert.match(server.hostKey.fingerprint, /^SHA256:[\w+/]{43}$/)
        assert.deepStrictEqual(yield* ssh(["echo out; echo err >&2; exit 7"]), {
          stdout: "out\n",
          stderr: "err\n",
          exitCode: 7
        })
        assert.strictEqual((yield* ssh(["tr a-z A-Z"], Buffer.from("words"))).stdout, "WORDS")
        // OpenSSH's client has no exit code for a signal; that it was told of one it says only when asked.
        const killed = yield* ssh(["-v", "kill -9 $$"])
        assert.strictEqual(killed.exitCode, 255)
        assert.include(killed.stderr, "rtype exit-signal")
        const all = yield* Effect.forEach(
          Array.from({ length: 20 }, (_, index) => index),
          (index) => ssh([`echo ${index}; exit ${index}`]),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(
          all.map(({ exitCode, stdout }) => [exitCode, stdout]),
          all.map((_, index) => [index, `${index}\n`])
        )
        const other = yield* makeKey
        const strange = yield* settings(other.file, server.knownHosts)
        const stranger = yield* run("ssh", [...strange, "-p", port, "root@127.0.0.1", "true"])
        assert.strictEqual(stranger.exitCode, 255)
        assert.include(stranger.stderr, "Permission denied")
      }))
      yield* isIdle
    }))

  it.effect("gives a client a terminal, whose size changes with the client's", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const { args, port } = yield* served(sandbox)
      const { resize, see, type } = yield* typed([
        ["ssh", ...args, "-t", "-p", port, "root@127.0.0.1"].join(" "),
        "echo code: $?"
      ])
      yield* see(/# /)
      yield* type("stty size; echo kind $TERM\r")
      yield* see(/\n33 111\r/)
      yield* see(/\nkind vt220\r/)
      yield* resize(40, 120)
      yield* type("until [ \"$(stty size)\" = '40 120' ]; do sleep 0.1; done; echo it is re''sized\r")
      yield* see(/it is resized/)
      yield* type("exit 7\r")
      yield* see(/code: 7\r/)
    }))

  it.effect("takes and gives files by scp and sftp, with equal hashes, unless it has no SFTP", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryDirectory
      const data = Buffer.alloc(8 << 20, new Uint8Array(65_521).map((_, index) => (index * 31 + (index >> 8)) % 251))
      yield* fs.writeFile(`${directory}/data`, data)
      const { args, port } = yield* served(sandbox)
      const sftp = (port: string, args: ReadonlyArray<string>, ...commands: ReadonlyArray<string>) =>
        run("sftp", [...args, "-P", port, "-b", "-", "root@127.0.0.1"], Buffer.from(`${commands.join("\n")}\n`))
      const hashOf = (path: string) =>
        Effect.map(sandbox.exec("sha256sum", [path]), ({ stdout }) => stdout.split(" ")[0])
      const up = yield* sftp(port, args, `put ${directory}/data /root/data`)
      assert.strictEqual(up.exitCode, 0, up.stderr)
      assert.strictEqual(yield* hashOf("/root/data"), sha256(data))
      const down = yield* sftp(
        port,
        args,
        "rename /root/data /root/moved",
        `get /root/moved ${directory}/back`,
        "ls -l /root",
        "rm /root/moved"
      )
      assert.strictEqual(down.exitCode, 0, down.stderr)
      assert.include(down.stdout, "moved")
      assert.strictEqual(sha256(yield* fs.readFile(`${directory}/back`)), sha256(data))
      assert.isFalse(yield* sandbox.fs.exists("/root/moved"))
      const scp = (...args_: ReadonlyArray<string>) => run("scp", [...args, "-P", port, ...args_])
      const succeeds = Effect.fn("succeeds")(function*(what: ReturnType<typeof run>) {
        const done = yield* what
        assert.deepStrictEqual([done.exitCode, done.stderr], [0, ""])
        return done.stdout
      })
      const small = data.subarray(0, 100_000)
      yield* fs.writeFile(`${directory}/small`, small)
      yield* succeeds(scp(`${directory}/small`, "root@127.0.0.1:/root/copy"))
      assert.strictEqual(yield* hashOf("/root/copy"), sha256(small))
      yield* succeeds(scp("root@127.0.0.1:/root/copy", `${directory}/copy`))
      assert.strictEqual(sha256(yield* fs.readFile(`${directory}/copy`)), sha256(small))
      yield* fs.makeDirectory(`${directory}/tree/below`, { recursive: true })
      yield* Effect.forEach(
        Array.from({ length: 40 }, (_, index) => index),
        (index) => fs.writeFileString(`${directory}/tree/below/${index}`, `${index}`)
      )
      yield* succeeds(scp("-rp", `${directory}/tree`, "root@127.0.0.1:/root/tree"))
      assert.strictEqual((yield* sandbox.fs.readDirectory("/root/tree/below")).length, 40)
      assert.strictEqual(yield* sandbox.fs.readFileString("/root/tree/below/39"), "39")
      yield* succeeds(scp("-rp", "root@127.0.0.1:/root/tree", `${directory}/again`))
      assert.strictEqual(yield* fs.readFileString(`${directory}/again/below/17`), "17")
      assert.strictEqual((yield* scp("root@127.0.0.1:/root/none", `${directory}/none`)).exitCode, 1)
      // What OpenSSH asks for by its extensions, and the rename of version 3, which replaces nothing.
      const space = yield* succeeds(
        sftp(
          port,
          args,
          `put -fp ${directory}/small /root/new`,
          "ln /root/new /root/second",
          "ln -s second /root/link",
          "rename /root/new /root/copy",
          "-rename -l /root/link /root/copy",
          "chmod 600 /root/copy",
          "mkdir /root/made",
          "rmdir /root/made",
          "df /root"
        ).pipe(Effect.map(({ stderr, ...done }) => {
          assert.match(stderr.trim(), /^remote rename "\/root\/link" to "\/root\/copy": Failure$/)
          return { ...done, stderr: "" }
        }))
      )
      assert.match(space, /Avail/)
      assert.strictEqual(
        (yield* sandbox.shell("cd /root; stat -c '%h %a' copy; readlink link; ls")).stdout,
        "2 600\nsecond\ncopy\nlink\nsecond\ntree\n"
      )
      // The agent's files are its root's: who is another needs an sftp-server of the guest's.
      const nobody = yield* run(
        "sftp",
        [...args, "-P", port, "-b", "-", "nobody@127.0.0.1"],
        Buffer.from(`put ${directory}/small /root/nobodys\n`)
      )
      assert.strictEqual(nobody.exitCode, 255)
      assert.include(nobody.stderr, "only for its root")
      assert.isFalse(yield* sandbox.fs.exists("/root/nobodys"))
      const without = yield* served(sandbox, { sftp: false })
      const refused = yield* sftp(without.port, without.args, `put ${directory}/small /root/data`)
      assert.notStrictEqual(refused.exitCode, 0)
      assert.isFalse(yield* sandbox.fs.exists("/root/data"))
    }))

  it.effect("forwards a port to the guest, also for a client that is gone in the middle", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const spawner = yield* ChildProcessSpawner
      const { args, port } = yield* served(sandbox)
      const directory = yield* temporaryDirectory
      yield* sandbox.spawn("nc", ["-ll", "-p", "7001", "-e", "sh", "-c", "read line; echo got $line"])
      yield* sandbox.spawn("nc", ["-ll", "-p", "7002", "-e", "yes"])
      yield* sandbox.waitForPort(7001)
      yield* sandbox.waitForPort(7002)
      const forwards = ["-L", `${directory}/one:127.0.0.1:7001`, "-L", `${directory}/two:127.0.0.1:7002`]
      const client = yield* spawner.spawn(
        ChildProcess.make("ssh", [...args, "-N", ...forwards, "-p", port, "root@127.0.0.1"])
      )
      const fs = yield* FileSystem.FileSystem
      yield* fs.exists(`${directory}/two`).pipe(Effect.delay(50), Effect.repeat({ until: (there) => there }))
      const read = (name: string, input: string) =>
        run("node", ["test/support/programs/socket.ts", `${directory}/${name}`], Buffer.from(input))
      assert.strictEqual((yield* read("one", "this\n")).stdout, "got this\n")
      const endless = yield* Effect.forkScoped(read("two", "\n"))
      yield* Effect.sleep("3 seconds")
      yield* client.kill({ killSignal: "SIGKILL" })
      yield* Fiber.await(endless)
      yield* Effect.sleep("1 second")
      yield* sandbox.ping
    }))

  it.effect("lets no channel of a client stop another, when its client does not read it", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const spawner = yield* ChildProcessSpawner
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryDirectory
      const { args, port } = yield* served(sandbox)
      const socket = `${directory}/m`
      yield* spawner.spawn(ChildProcess.make("ssh", [...args, "-MN", "-S", socket, "-p", port, "root@127.0.0.1"]))
      yield* fs.exists(socket).pipe(Effect.delay(50), Effect.repeat({ until: (there) => there }))
      const beside = ["-S", socket, "-p", port, "root@127.0.0.1"]
      // Nobody reads what it prints.
      yield* spawner.spawn(ChildProcess.make("ssh", [...beside, "yes 8766"]))
      assert.isTrue(yield* appears("8766", true))
      yield* Effect.sleep("3 seconds")
      assert.strictEqual((yield* run("ssh", [...beside, "echo through"])).stdout, "through\n")
      const through = yield* run("ssh", [...beside, "cat"], Buffer.alloc(100_000))
      assert.strictEqual(through.stdout.length, 100_000)
    }))

  it.effect("leaves no program behind when a client is gone, or the server's scope ends", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const spawner = yield* ChildProcessSpawner
      const scope = yield* Scope.make()
      const { args, port } = yield* Scope.provide(served(sandbox), scope)
      const start = (command: string) =>
        spawner.spawn(ChildProcess.make("ssh", [...args, "-p", port, "root@127.0.0.1", command]))
      const killed = yield* start("sleep 8763")
      const open = yield* start("sleep 8764")
      assert.isTrue(yield* appears("8763", true))
      assert.isTrue(yield* appears("8764", true))
      yield* killed.kill({ killSignal: "SIGKILL" })
      assert.isTrue(yield* appears("8763", false))
      yield* Scope.close(scope, Exit.void)
      yield* isIdle
      assert.strictEqual(Number(yield* open.exitCode), 255)
      assert.isTrue(yield* appears("8764", false))
      const late = yield* run("ssh", [...args, "-p", port, "root@127.0.0.1", "true"])
      assert.include(late.stderr, "Connection refused")
    }))

  it.effect("closes the connection of a client that does not log in, and of no other", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const { port, ssh } = yield* served(sandbox, { loginTimeout: "2 seconds", maxConnections: 2 })
      const silent = yield* Effect.forkScoped(closed(Number(port)))
      assert.strictEqual((yield* ssh(["sleep 4; echo still here"])).stdout, "still here\n")
      assert.match(yield* Fiber.join(silent), /^SSH-2\.0-/)
    }))

  it.effect("listens on a Unix socket, with a key that stays, to as many as it may", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const fs = yield* FileSystem.FileSystem
      const spawner = yield* ChildProcessSpawner
      const directory = yield* temporaryDirectory
      const path = `${directory}/s`
      const key = yield* makeKey
      const options = { path, hostKey: { path: `${directory}/host` }, authorizedKeysPath: `${key.file}.pub` }
      const lines = yield* Effect.forEach([1, 2], () =>
        Effect.scoped(Effect.gen(function*() {
          const server = yield* SshServer.make(sandbox, { ...options, user: "nobody", maxConnections: 1 })
          const taken = yield* Effect.flip(SshServer.make(sandbox, options))
          assert.deepInclude(taken.reason, { _tag: "InvalidConfig", field: "path" })
          const args = yield* settings(key.file, server.knownHosts)
          const proxy = `ProxyCommand=node test/support/programs/socket.ts ${path}`
          const through = ["-o", `HostKeyAlias=${sandbox.name}`, "-o", proxy, "root@sandbox"]
          const first = yield* spawner.spawn(
            ChildProcess.make("ssh", [...args, ...through, "id -un; exec sleep 8765"])
          )
          assert.deepStrictEqual(yield* Stream.runHead(Stream.decodeText(first.stdout)), Option.some("nobody\n"))
          // The one place is taken.
          assert.strictEqual((yield* run("ssh", [...args, ...through, "true"])).exitCode, 255)
          return server.hostKey.line
        })))
      assert.strictEqual(lines[0], lines[1])
      assert.isFalse(yield* fs.exists(path))
      yield* isIdle
    }))
})
