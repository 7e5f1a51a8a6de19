/**
 * The cloud backend, whose every request goes to a control plane on loopback (test/support/ControlPlane.ts): the engine's own
 * client code, its HTTP and its WebSocket.
 */
import {
  Backend,
  Image,
  Metrics,
  type MicrosandboxError,
  Patch,
  Sandbox,
  Snapshot,
  Volume
} from "@effect-microsandbox/core"
import { assert, describe, it } from "@effect/vitest"
import { ByteSize, Effect, Exit, Fiber, FileSystem, Option, Redacted, Result, type Scope, Stream } from "effect"
import * as crypto from "node:crypto"
import { ControlPlane } from "../support/ControlPlane.ts"
import { run } from "../support/ControlPlaneClient.ts"
import { sha256 } from "../support/Poured.ts"

const image = "alpine:3.22"

const mebibyte = 2 ** 20

const make = (name: string, options: Partial<Sandbox.Options> = {}) => Sandbox.make({ name, image, ...options })

/** One that stays when its scope closes. */
const kept = (name: string, options: Partial<Sandbox.Options> = {}) =>
  Effect.scoped(make(name, { onClose: "detach", ...options }))

const plane = ControlPlane

/** Runs an effect, and answers with the routes that it has asked. */
const asking = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const { asked, forget } = yield* plane
    yield* forget
    const value = yield* effect
    return { value, asked: yield* asked }
  })

const reasonOf = <A, R>(effect: Effect.Effect<A, MicrosandboxError.MicrosandboxError, R>) =>
  Effect.map(Effect.flip(Effect.asVoid(effect)), ({ reason }) => reason)

describe("a sandbox on a control plane", () => {
  it.live("is asked for with all that it is made of, by the right client, and is gone with its scope", () =>
    run(Effect.gen(function*() {
      const { names, requests } = yield* plane
      yield* Volume.create("data")
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* make("whole", {
          cpus: 2,
          memory: "1 GiB",
          rootDisk: "2 GiB",
          env: { A: "1", B: "two" },
          workdir: "/work",
          shell: "/bin/ash",
          user: "1000",
          labels: { of: "test" },
          scripts: { hello: "echo hello" },
          entrypoint: ["/bin/entry"],
          cmd: ["run"],
          rlimits: { nofile: { soft: 10, hard: 20 } },
          pullPolicy: "always",
          security: "restricted",
          maxDuration: "1 hour",
          idleTimeout: "10 minutes",
          mounts: { "/data": { named: "data", readonly: true }, "/tmp": { tmpfs: true, size: "16 MiB" } },
          patches: [Patch.text("/etc/motd", "hello"), Patch.makeDirectory("/srv")],
          registry: { auth: { username: "me", password: Redacted.make("of the registry") } },
          network: { policy: "none", maxTcpConnections: 7, strict: true }
        })
        assert.strictEqual(yield* sandbox.status, "Running")
        const { config, labels, status } = yield* Sandbox.get("whole")
        assert.deepStrictEqual([labels, status], [{ of: "test" }, "Running"])
        assert.deepInclude(config, { image, cpus: 2, env: { A: "1", B: "two" }, workdir: "/work", user: "1000" })
      }))
      assert.deepStrictEqual((yield* names).sandboxes, [])
      const all = yield* requests
      for (const { headers, isAuthorized, path } of all) {
        assert.isTrue(isAuthorized, path)
        assert.match(String(headers["user-agent"]), /^microsandbox-sdk\/0[.]7[.]2/)
      }
      const created = all.find(({ route }) => route === "POST /v1/sandboxes")!
      assert.strictEqual(created.path, "/v1/sandboxes?start=true&wait_for=running&wait_timeout=90")
      const body = created.body as Record<string, any>
      assert.deepInclude(body, {
        source: "oci",
        reference: image,
        name: "whole",
        env: [{ key: "A", value: "1" }, { key: "B", value: "two" }],
        rlimits: [{ resource: "nofile", soft: 10, hard: 20 }],
        resources: { vcpus: 2, memory_mib: 1024, disk_size_mib: 2048 },
        pull_policy: "always",
        registry: { mode: "inline", username: "me", password: "of the registry" },
        patches: [
          { type: "text", path: "/etc/motd", content: "hello", mode: null, replace: false },
          { type: "mkdir", path: "/srv", mode: null }
        ]
      })
      assert.deepInclude(body.runtime, {
        workdir: "/work",
        shell: "/bin/ash",
        user: "1000",
        scripts: { hello: "echo hello" },
        entrypoint: ["/bin/entry"],
        cmd: ["run"]
      })
      assert.strictEqual(body.labels.of, "test")
      assert.deepInclude(body.lifecycle, { max_duration_secs: 3600, idle_timeout_secs: 600 })
      assert.deepStrictEqual(
        body.mounts.map(({ guest, name, size_mib, type }: Record<string, unknown>) => [type, guest, name, size_mib]),
        [["named", "/data", "data", undefined], ["tmpfs", "/tmp", undefined, 16]]
      )
      assert.isTrue(body.network.enabled)
    })))

  it.live("goes through its life, by its handle and by its name", () =>
    run(
      Effect.gen(function*() {
        const { names } = yield* plane
        type Case = readonly [
          name: string,
          effect: Effect.Effect<unknown, MicrosandboxError.MicrosandboxError, Backend.Backend | Scope.Scope>,
          route: string,
          status: Sandbox.Status | "gone"
        ]
        const sandbox = yield* make("life", { onClose: "detach" })
        const [byName, byId] = ["/v1/sandboxes/by-name/:name", "/v1/sandboxes/:id"]
        const cases: ReadonlyArray<Case> = [
          ["get", Sandbox.get("life"), `GET ${byName}`, "Running"],
          ["connect", Sandbox.connect("life"), `GET ${byId}/agent`, "Running"],
          ["stop by name", Sandbox.stop("life"), `POST ${byId}/stop`, "Stopped"],
          ["stop again", sandbox.stop(), `GET ${byName}`, "Stopped"],
          ["start", Sandbox.start("life", { onClose: "detach" }), `POST ${byId}/start`, "Running"],
          ["restart", sandbox.restart(), `POST ${byId}/start`, "Running"],
          ["info", sandbox.info, `GET ${byName}`, "Running"],
          ["stop", sandbox.stop({ grace: "1 second", thenKill: false }), `POST ${byId}/stop`, "Stopped"],
          ["wait", sandbox.wait, `GET ${byName}`, "Stopped"],
          ["wait by name", Sandbox.wait("life"), `GET ${byName}`, "Stopped"],
          ["restart by name", Sandbox.restart("life", { onClose: "detach" }), `POST ${byId}/start`, "Running"],
          ["stop at last", Sandbox.stop("life"), `POST ${byId}/stop`, "Stopped"],
          ["remove", Sandbox.remove("life"), `DELETE ${byName}`, "gone"]
        ]
        for (const [what, effect, route, status] of cases) {
          const { asked } = yield* asking(effect)
          assert.include(asked, route, what)
          const now = yield* Effect.result(Sandbox.get("life"))
          assert.strictEqual(Result.isSuccess(now) ? now.success.status : "gone", status, what)
        }
        assert.deepStrictEqual((yield* names).sandboxes, [])
        assert.strictEqual((yield* reasonOf(sandbox.status))._tag, "SandboxNotFound")
      }).pipe(Effect.scoped)
    ))

  it.live("is found among others, page by page and by its labels", () =>
    run(Effect.gen(function*() {
      const { requests } = yield* plane
      yield* Effect.forEach([1, 2, 3, 4, 5], (number) => kept(`page-${number}`, { labels: { odd: `${number % 2}` } }))
      const all = yield* Stream.runCollect(Sandbox.list({ pageSize: 2 }))
      assert.deepStrictEqual(all.map(({ name }) => name), [1, 2, 3, 4, 5].map((number) => `page-${number}`))
      const cursors = (yield* requests).filter(({ route }) => route === "GET /v1/sandboxes").map(({ path }) => path)
      assert.deepStrictEqual(cursors.slice(-3).map((path) => /cursor=(\d+)/.exec(path)?.[1]), [undefined, "2", "4"])
      const odd = yield* Stream.runCollect(Sandbox.list({ labels: { odd: "1" } }))
      assert.deepStrictEqual(odd.map(({ name }) => name), ["page-1", "page-3", "page-5"])
    })))

  it.live("ends with its scope as it was told to", () =>
    run(Effect.gen(function*() {
      for (const [onClose, expected] of [["destroy", "gone"], ["stop", "Stopped"], ["detach", "Running"]] as const) {
        yield* Effect.scoped(make(onClose, { onClose }))
        const now = yield* Effect.result(Sandbox.get(onClose))
        assert.strictEqual(Result.isSuccess(now) ? now.success.status : "gone", expected, onClose)
      }
      const taken = yield* reasonOf(Effect.scoped(make("detach")))
      assert.strictEqual(taken._tag, "SandboxAlreadyExists")
      // The one that was there has not been touched.
      assert.strictEqual((yield* Sandbox.get("detach")).status, "Running")
    })))

  it.live("that was removed and made anew is another one for a handle of the old", () =>
    run(Effect.gen(function*() {
      const old = yield* make("twice", { onClose: "detach" })
      yield* Sandbox.stop("twice")
      yield* Sandbox.remove("twice")
      yield* kept("twice")
      for (const effect of [old.status, old.stop(), old.exec("echo")]) {
        const { _tag } = yield* reasonOf<unknown, never>(effect)
        assert.include(["SandboxReplaced", "SandboxNotFound"], _tag)
      }
      assert.strictEqual((yield* Sandbox.get("twice")).status, "Running")
    })))
})

describe("a program on a control plane", () => {
  it.live("gives its outputs, exit code and input through, of any size", () =>
    run(Effect.gen(function*() {
      const { programs } = yield* plane
      const sandbox = yield* make("exec", { env: { A: "1" }, workdir: "/work" })
      const said = yield* sandbox.exec("say", ["out", "err", "3"])
      assert.deepInclude(said, { stdout: "out", stderr: "err", exitCode: 3, success: false })
      assert.strictEqual((yield* sandbox.shell("echo a b")).stdout, "a b")
      const input = new Uint8Array(3 * mebibyte).map((_, index) => index % 251)
      const echoed = yield* sandbox.exec("cat", [], { stdin: input })
      assert.isTrue(Buffer.from(input).equals(echoed.stdoutBytes))
      const bytes = 8 * mebibyte
      const poured = yield* sandbox.exec("pour", [`${bytes}`])
      assert.strictEqual(poured.stdoutBytes.length, bytes)
      assert.strictEqual(crypto.createHash("sha256").update(poured.stdoutBytes).digest("hex"), sha256(bytes))
      const given = { cwd: "/srv", user: "nobody", env: { B: "2" }, tty: true }
      const started = JSON.parse((yield* sandbox.exec("env", ["x"], given)).stdout)
      assert.deepInclude(started, { args: ["x"], cwd: "/srv", user: "nobody", tty: true })
      assert.includeMembers(started.env, ["A=1", "B=2"])
      const missing = yield* reasonOf(sandbox.exec("nothing"))
      assert.deepInclude(missing, { _tag: "ExecFailed", errno: 2 })
      assert.deepStrictEqual(
        (yield* programs).map(([name, { cmd }]) => `${name} ${cmd}`),
        ["say", "/bin/sh", "cat", "pour", "env", "nothing"].map((cmd) => `exec ${cmd}`)
      )
    })))

  it.live("streams, is written to, signalled and killed", () =>
    run(Effect.gen(function*() {
      const sandbox = yield* make("spawn")
      const cat = yield* sandbox.spawn("cat", [], { stdin: "pipe" })
      yield* Stream.run(Stream.make("one ", "two"), cat.stdin)
      assert.strictEqual(yield* Stream.mkString(Stream.decodeText(cat.stdout)), "one two")
      assert.strictEqual((yield* cat.exitStatus).exitCode, 0)
      const waiting = yield* sandbox.spawn("wait")
      assert.strictEqual(
        yield* Stream.mkString(Stream.decodeText(Stream.take(waiting.stdout, 1))),
        "waiting"
      )
      yield* waiting.signal("SIGTERM")
      assert.isTrue((yield* waiting.exitStatus).signaled)
      // Stopped at the mark, and continued as it is read.
      const bytes = 8 * mebibyte
      const slow = yield* sandbox.spawn("pour", [`${bytes}`], { highWater: "1 MiB" })
      const hash = crypto.createHash("sha256")
      yield* Stream.runForEach(slow.stdout, (chunk) => Effect.sync(() => hash.update(chunk)))
      assert.strictEqual(hash.digest("hex"), sha256(bytes))
      const late = yield* reasonOf(sandbox.exec("wait", [], { timeout: "100 millis" }))
      assert.strictEqual(late._tag, "ExecTimeout")
    })))

  it.live("is let go of when it is interrupted, with its connection", () =>
    run(Effect.gen(function*() {
      const { connections, programs } = yield* plane
      const sandbox = yield* make("interrupted")
      const before = yield* connections
      const fiber = yield* Effect.forkChild(sandbox.exec("wait"))
      yield* programs.pipe(Effect.delay("10 millis"), Effect.repeat({ until: (all) => all.length > 0 }))
      yield* Fiber.interrupt(fiber)
      yield* connections.pipe(Effect.delay("10 millis"), Effect.repeat({ until: (count) => count === before }))
    })))

  it.live("reaches the guest of its own sandbox, whoever has the name later", () =>
    run(Effect.gen(function*() {
      const { programs, requests } = yield* plane
      const [a, b] = [yield* make("a"), yield* make("b")]
      yield* Effect.forEach([a, b], ({ exec, name }) => exec("echo", [`to ${name}`]), { concurrency: 2 })
      assert.sameDeepMembers(
        (yield* programs).map(([name, { args }]) => [name, args[0]]),
        [["a", "to a"], ["b", "to b"]]
      )
      const dialled = (yield* requests).filter(({ route }) => route === "GET /v1/sandboxes/:id/agent")
      assert.sameMembers(dialled.map(({ path }) => path), [a.id, b.id].map((id) => `/v1/sandboxes/${id}/agent`))
    })))
})

describe("a port of a guest on a control plane", () => {
  it.live("is reached without being published, and one where nobody listens is told", () =>
    run(Effect.gen(function*() {
      const sandbox = yield* make("port")
      yield* sandbox.waitForPort(7)
      const duplex = yield* sandbox.duplex(7)
      const data = crypto.randomBytes(3 * mebibyte)
      const hash = crypto.createHash("sha256")
      let back = 0
      yield* Effect.callback<void>((resume) => {
        duplex.on("data", (chunk: Buffer) => {
          hash.update(chunk)
          back += chunk.length
          if (back === data.length) resume(Effect.void)
        })
        duplex.write(data)
      })
      assert.strictEqual(hash.digest("hex"), crypto.createHash("sha256").update(data).digest("hex"))
      const refused = yield* reasonOf(Effect.scoped(sandbox.duplex(8)))
      assert.deepInclude(refused, { _tag: "TunnelRefused", port: 8, errno: 111 })
    })))
})

describe("files of a guest on a control plane", () => {
  it.live("are written, read, listed, moved and removed", () =>
    run(Effect.gen(function*() {
      const { fs } = yield* make("files")
      yield* fs.makeDirectory("/a/b", { recursive: true })
      for (const size of [0, 1, 16_385, 9 * mebibyte]) {
        const data = new Uint8Array(size).map((_, index) => index % 253)
        yield* fs.writeFile("/a/b/file", data)
        assert.isTrue(Buffer.from(data).equals(yield* fs.readFile("/a/b/file")), `${size}`)
      }
      yield* fs.writeFileString("/a/one", "1")
      yield* fs.writeFileString("/a/one", "2", { flag: "a" })
      assert.strictEqual(yield* fs.readFileString("/a/one"), "12")
      assert.deepStrictEqual((yield* fs.readDirectory("/a", { recursive: true })).toSorted(), ["b", "b/file", "one"])
      yield* fs.copyFile("/a/one", "/a/two")
      yield* fs.rename("/a/two", "/a/three")
      yield* fs.symlink("three", "/a/link")
      assert.strictEqual(yield* fs.readLink("/a/link"), "three")
      assert.strictEqual(yield* fs.realPath("/a/link"), "/a/three")
      yield* fs.chmod("/a/three", 0o600)
      yield* fs.truncate("/a/three", 1)
      const info = yield* fs.stat("/a/three")
      assert.deepStrictEqual([info.type, info.mode & 0o777, BigInt(info.size)], ["File", 0o600, 1n])
      assert.strictEqual(
        yield* Stream.mkString(Stream.decodeText(fs.stream("/a/one", { offset: 1 }))),
        "2"
      )
      yield* Stream.run(Stream.make(new Uint8Array([104, 105])), fs.sink("/a/sunk"))
      assert.strictEqual(yield* fs.readFileString("/a/sunk"), "hi")
      yield* fs.remove("/a", { recursive: true })
      assert.isFalse(yield* fs.exists("/a"))
      const gone = yield* Effect.flip(fs.readFile("/a/one"))
      assert.strictEqual(gone.reason._tag, "NotFound")
    })))

  it.live("are carried to and from this host", () =>
    run(Effect.gen(function*() {
      const host = yield* FileSystem.FileSystem
      const directory = yield* host.makeTempDirectoryScoped()
      yield* host.makeDirectory(`${directory}/tree/deep`, { recursive: true })
      yield* host.writeFileString(`${directory}/tree/deep/small`, "small")
      yield* host.writeFile(`${directory}/tree/large`, new Uint8Array(5 * mebibyte).fill(7))
      const sandbox = yield* make("carried")
      const up = yield* sandbox.upload(`${directory}/tree`, "/tree")
      assert.strictEqual(up.files, 2)
      assert.strictEqual(yield* sandbox.fs.readFileString("/tree/deep/small"), "small")
      const down = yield* sandbox.download("/tree", `${directory}/back`)
      assert.strictEqual(down.files, 2)
      assert.isTrue(
        Buffer.from(yield* host.readFile(`${directory}/tree/large`)).equals(
          yield* host.readFile(`${directory}/back/large`)
        )
      )
    })))
})

describe("the log of a sandbox on a control plane", () => {
  const follow = (name: string, options: object = {}) => Sandbox.logStream(name, { follow: true, ...options })

  it.live("is followed in its order until the sandbox stops, by source and time", () =>
    run(Effect.gen(function*() {
      const { log, stop } = yield* plane
      yield* kept("log")
      yield* log("log", "one")
      yield* log("log", "two", "stderr")
      yield* log("log", "of the system", "system")
      const seen = yield* Effect.forkChild(Stream.runCollect(follow("log")))
      const errors = yield* Effect.forkChild(Stream.runCollect(follow("log", { sources: ["stderr", "system"] })))
      yield* Effect.sleep("200 millis")
      yield* log("log", "three", "output")
      yield* stop("log")
      assert.deepStrictEqual(
        (yield* Fiber.join(seen)).map(({ source, text }) => `${source} ${text}`),
        ["stdout one", "stderr two", "output three"]
      )
      assert.deepStrictEqual((yield* Fiber.join(errors)).map(({ text }) => text), ["two", "of the system"])
    })))

  it.live("goes on where it was when its connection ends, without a loss and without a double", () =>
    run(Effect.gen(function*() {
      const { inject, log, requests, stop } = yield* plane
      yield* kept("cut")
      const route = "GET /v1/sandboxes/:id/logs"
      // The connection ends as one does after 30 seconds; the next one begins with what is known.
      yield* inject(route, { _tag: "Events", after: 3, how: "cut" })
      yield* inject(route, { _tag: "Again", events: 2 })
      const texts = Array.from({ length: 20 }, (_, index) => `line ${index}`)
      for (const text of texts.slice(0, 10)) yield* log("cut", text)
      const seen: Array<string> = []
      const fiber = yield* Effect.forkChild(Stream.runForEach(follow("cut"), ({ text }) =>
        Effect.sync(() => {
          seen.push(text)
        })))
      yield* Effect.sync(() => seen.length).pipe(
        Effect.delay("10 millis"),
        Effect.repeat({ until: (length) => length >= 10 })
      )
      for (const text of texts.slice(10)) yield* log("cut", text)
      yield* stop("cut")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(seen, texts)
      const begun = (yield* requests).filter((request) => request.route === route)
      assert.isAtLeast(begun.length, 2)
      assert.isUndefined(begun[0]!.headers["last-event-id"])
      assert.isString(begun[1]!.headers["last-event-id"])
    })))

  it.live("can be resumed at an entry's cursor", () =>
    run(Effect.gen(function*() {
      const { log, stop } = yield* plane
      yield* kept("cursor")
      for (const text of ["a", "b", "c"]) yield* log("cursor", text)
      const [first] = yield* Stream.runCollect(Stream.take(follow("cursor"), 1))
      const rest = yield* Stream.runCollect(Stream.take(follow("cursor", { cursor: first!.cursor }), 2))
      assert.deepStrictEqual(rest.map(({ text }) => text), ["b", "c"])
      // The engine lets go of a log with its next event.
      yield* stop("cursor")
    })))
})

describe("a volume on a control plane", () => {
  it.live("is made, found, listed and removed", () =>
    run(Effect.gen(function*() {
      const { names, requests } = yield* plane
      const { info } = yield* Volume.create("data", { quota: "2 GiB", labels: { of: "test" } })
      assert.deepInclude(info, { name: "data", kind: "directory", labels: { of: "test" } })
      const body = (yield* requests).find(({ route }) => route === "POST /v1/volumes")!.body as Record<string, unknown>
      const { "effect-microsandbox.creation": creation, ...labels } = body.labels as Record<string, unknown>
      assert.deepStrictEqual({ ...body, labels }, { name: "data", labels: { of: "test" }, capacity_gib: 2 })
      // By which it is known again when its answer is lost.
      assert.match(String(creation), /^[0-9a-f-]{36}$/)
      assert.deepStrictEqual(yield* Volume.get("data"), info)
      assert.include((yield* Volume.list).map(({ name }) => name), "data")
      assert.deepStrictEqual(info.capacity, ByteSize.fromInputUnsafe("2 GiB"))
      assert.strictEqual((yield* reasonOf(Effect.scoped(Volume.create("data"))))._tag, "VolumeAlreadyExists")
      yield* Volume.remove("data")
      assert.strictEqual((yield* reasonOf(Volume.get("data")))._tag, "VolumeNotFound")
      yield* Effect.scoped(Volume.make({ name: "scoped" }))
      assert.deepStrictEqual((yield* names).volumes, [])
    })))

  it.live("has files that are written, read, listed, copied, moved and removed", () =>
    run(Effect.gen(function*() {
      const { asked } = yield* plane
      const { fs } = yield* Volume.create("files")
      yield* fs.makeDirectory("/a/b", { recursive: true })
      for (const size of [0, 1, 3 * mebibyte]) {
        const data = new Uint8Array(size).map((_, index) => index % 253)
        yield* fs.writeFile("/a/b/file", data)
        assert.isTrue(Buffer.from(data).equals(yield* fs.readFile("/a/b/file")), `${size}`)
      }
      yield* fs.writeFileString("/a/one", "one")
      assert.deepStrictEqual((yield* fs.readDirectory("/a")).toSorted(), ["b", "one"])
      const info = yield* fs.stat("/a/one")
      assert.deepStrictEqual([info.type, BigInt(info.size)], ["File", 3n])
      yield* fs.copyFile("/a/one", "/a/two")
      yield* fs.rename("/a/two", "/a/three")
      assert.strictEqual(yield* fs.readFileString("/a/three"), "one")
      assert.strictEqual(yield* Stream.mkString(Stream.decodeText(fs.stream("/a/three"))), "one")
      yield* Stream.run(Stream.make(new Uint8Array([104, 105])), fs.sink("/a/sunk"))
      assert.strictEqual(yield* fs.readFileString("/a/sunk"), "hi")
      assert.isTrue(yield* fs.exists("/a/one"))
      yield* fs.remove("/a/one")
      assert.isFalse(yield* fs.exists("/a/one"))
      yield* fs.remove("/a", { recursive: true })
      const gone = yield* Effect.flip(fs.readFile("/a/three"))
      assert.strictEqual(gone.reason._tag, "NotFound")
      const routes = new Set(yield* asked)
      for (const route of ["stat", "content", "mkdir", "copy", "rename"]) {
        assert.isTrue([...routes].some((asked) => asked.endsWith(`/files/${route}`)), route)
      }
    })))

  it.live("keeps its files inside, whatever a path says", () =>
    run(Effect.gen(function*() {
      const { fs } = yield* Volume.create("inside")
      yield* fs.writeFileString("/../../up", "up")
      assert.strictEqual(yield* fs.readFileString("/up"), "up")
    })))
})

describe("a snapshot on a control plane", () => {
  it.live("is kept, found, listed, restored and removed", () =>
    run(
      Effect.gen(function*() {
        const { names, requests } = yield* plane
        const sandbox = yield* make("source")
        const made = yield* sandbox.snapshot("base", { labels: { of: "test" }, recordIntegrity: true })
        assert.deepInclude(made, { name: "base", scope: "disk", image, sandbox: "source", labels: { of: "test" } })
        const body = (yield* requests).find(({ route }) => route === "POST /v1/snapshots")!.body
        assert.deepStrictEqual(body, {
          kind: "disk",
          sandbox_id: sandbox.id,
          name: "base",
          labels: { of: "test" },
          record_integrity: true
        })
        for (const name of ["second", "third"]) yield* Snapshot.create("source", name)
        // The plane gives two at a time.
        assert.sameMembers((yield* Snapshot.list).map(({ name }) => name), ["base", "second", "third"])
        const found = yield* Snapshot.get("base")
        assert.strictEqual(found.digest, made.digest)
        const opened = yield* Snapshot.open("base")
        assert.deepStrictEqual([opened.digest, opened.reference], [made.digest, made.reference])
        yield* Effect.scoped(Effect.gen(function*() {
          yield* Sandbox.restore(made.reference, { name: "restored", cpus: 2, memory: "1 GiB" })
          const restored = (yield* requests).findLast(({ route }) => route === "POST /v1/sandboxes")!
          assert.deepInclude(restored.body as object, {
            source: "disk_snapshot",
            name: "restored",
            disk_snapshot_ref: { type: "managed", id: made.reference },
            resources: { vcpus: 2, memory_mib: 1024 }
          })
        }))
        assert.deepStrictEqual((yield* names).sandboxes, ["source"])
        for (const name of ["base", "second", "third"]) yield* Snapshot.remove(name)
        assert.deepStrictEqual((yield* names).snapshots, [])
        assert.strictEqual((yield* reasonOf(Snapshot.get("base")))._tag, "SnapshotNotFound")
      }).pipe(Effect.scoped)
    ))

  it.live("can lie on the default volume, and is found there by its path", () =>
    run(Effect.gen(function*() {
      yield* kept("hosted")
      const made = yield* Snapshot.create("hosted", "base", { directory: "snapshots" })
      assert.strictEqual(made.reference, "snapshots/base")
      assert.strictEqual((yield* Snapshot.open("snapshots/base")).digest, made.digest)
      yield* Effect.scoped(Sandbox.restore("snapshots/base", { name: "from-path" }))
      yield* Snapshot.remove("snapshots/base")
      assert.strictEqual((yield* Effect.exit(Snapshot.open("snapshots/base")))._tag, "Failure")
    })))
})

describe("what a control plane cannot do", () => {
  it.live("is refused by name, also to who says that it is on this machine, and changes nothing", () =>
    run(Effect.gen(function*() {
      const { asked } = yield* plane
      const sandbox = yield* make("refusing")
      type Services = Backend.Backend | Backend.Local | Scope.Scope
      type Refused = Effect.Effect<unknown, MicrosandboxError.MicrosandboxError, Services>
      const refused: Readonly<Record<string, Refused>> = {
        kill: sandbox.kill,
        drain: sandbox.drain,
        ping: sandbox.ping,
        touch: sandbox.touch,
        metrics: sandbox.metrics,
        metricsStream: Stream.runDrain(sandbox.metricsStream()),
        logs: sandbox.logs(),
        logStream: Stream.runDrain(sandbox.logStream()),
        pause: sandbox.pause(),
        resume: sandbox.resume,
        branch: sandbox.branch("branch"),
        modify: sandbox.modify({ cpus: 2 }),
        modifyPlan: sandbox.modifyPlan({ cpus: 2 }),
        full: sandbox.snapshot("full", { full: true }),
        group: sandbox.snapshot("grouped", { group: "group" }),
        "kill by name": Sandbox.kill("refusing"),
        "drain by name": Sandbox.drain("refusing"),
        "metrics by name": Sandbox.metrics("refusing"),
        "logs by name": Sandbox.logs("refusing"),
        "pause by name": Sandbox.pause("refusing"),
        "resume by name": Sandbox.resume("refusing"),
        "modify by name": Sandbox.modify("refusing", { cpus: 2 }),
        "all metrics": Metrics.all,
        "pull an image": Image.pull(image),
        "list images": Image.list,
        prune: Image.prune,
        verify: Snapshot.verify("base"),
        save: Snapshot.save("base", "/tmp/nowhere.tar"),
        load: Snapshot.load("/tmp/nowhere.tar"),
        copy: Snapshot.copy("base", "/tmp/nowhere.tar"),
        reindex: Snapshot.reindex(),
        listDirectory: Snapshot.listDirectory("/tmp"),
        disk: Volume.create("disk", { kind: "disk", size: "128 MiB" }),
        sweep: Sandbox.sweep
      }
      for (const [what, effect] of Object.entries(refused)) {
        const claimed = Effect.provideService(Effect.scoped(effect), Backend.Local, { home: "/nowhere" })
        const { value: reason } = yield* asking(reasonOf(claimed))
        assert.include(["Unsupported", "InvalidConfig"], reason._tag, what)
        const changed = (yield* asked).filter((route) => !route.startsWith("GET "))
        assert.deepStrictEqual(changed, [], what)
      }
      assert.strictEqual(yield* sandbox.status, "Running")
    })))

  it.live("is refused of a sandbox before it is asked for, with the option's name", () =>
    run(Effect.gen(function*() {
      const { asked } = yield* plane
      const host = yield* FileSystem.FileSystem
      const directory = yield* host.makeTempDirectoryScoped()
      const options: Readonly<Record<string, Partial<Sandbox.Options>>> = {
        directory: { image: { directory } },
        maxCpus: { cpus: 1, maxCpus: 2 },
        maxMemory: { memory: "512 MiB", maxMemory: "1 GiB" },
        hostname: { hostname: "worker" },
        metricsInterval: { metricsInterval: "5 seconds" },
        noMetrics: { metricsInterval: false },
        replace: { replace: true },
        insecure: { registry: { insecure: true } },
        caCerts: { registry: { caCerts: "-----BEGIN CERTIFICATE-----" } },
        ports: { ports: [{ host: 8080, guest: 80 }] },
        vsock: { vsock: [{ path: "/tmp/socket", port: 5000 }] },
        owned: { mounts: { "/data": { owned: true } } },
        inline: { mounts: { "/data": { named: "data", mode: "create" } } },
        tmpfsRoot: { rootDisk: { tmpfs: true, size: "64 MiB" } },
        proxy: { network: { proxy: { socks5: "127.0.0.1:1080" } } },
        rateLimit: { network: { rateLimit: { egress: { packets: { count: 1, per: "1 second" } } } } },
        nameservers: { network: { dns: { nameservers: ["1.1.1.1"] } } },
        interface: { network: { interface: { mtu: 1400 } } }
      }
      for (const [what, option] of Object.entries(options)) {
        const reason = yield* reasonOf(Effect.scoped(make(`refused-${what}`, option)))
        assert.include(["Unsupported", "InvalidConfig"], reason._tag, what)
      }
      assert.notInclude(yield* asked, "POST /v1/sandboxes")
    })))
})

describe("a cloud backend", () => {
  it.live("says what it is, and asks nothing before it is used", () =>
    run(Effect.gen(function*() {
      const { requests, url } = yield* plane
      const backend = yield* Backend.Backend
      assert.strictEqual(backend.kind, "cloud")
      assert.deepStrictEqual(yield* requests, [])
      assert.notInclude(url, "msb_test")
    })))

  it.live("is another one for another key, and each is told from the other", () =>
    run(Effect.gen(function*() {
      const { requests, url } = yield* plane
      yield* kept("shared")
      const stranger = Backend.layerCloud({ url: `${url}/`, apiKey: Redacted.make("msb_test_of_a_stranger") })
      const [ours, theirs] = yield* Effect.all(
        [Effect.exit(Sandbox.get("shared")), Effect.exit(Effect.provide(Sandbox.get("shared"), stranger))],
        { concurrency: 2 }
      )
      assert.isTrue(Exit.isSuccess(ours))
      const reason = Exit.isFailure(theirs) ? Option.getOrThrow(Exit.findErrorOption(theirs)).reason : undefined
      assert.deepInclude(reason, { _tag: "CloudHttp", status: 401 })
      assert.isFalse((yield* requests).findLast(({ isAuthorized }) => !isAuthorized)!.isAuthorized)
    })))
})
