/** What the options do, seen from inside the guest and from the host. */
import { Backend, Sandbox, type SandboxOptions } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Path, Result } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { createSocket } from "node:dgram"
import { createServer } from "node:net"
import { isFree, layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"

/** Waits for what comes by itself. */
const until = <A, E, R>(
  look: Effect.Effect<A, E, R>,
  isThere: (value: A) => boolean
): Effect.Effect<A, E, R> => look.pipe(Effect.delay(100), Effect.repeat({ until: isThere }))

const get = (url: string) =>
  Effect.result(Effect.tryPromise((signal) => fetch(url, { signal }).then((response) => response.text())))

/** Says a word to a UDP port until there is an answer. */
const ask = (host: string, port: number, word: string) =>
  Effect.acquireUseRelease(
    Effect.sync(() => createSocket("udp4")),
    (socket) => {
      const answer = Effect.callback<string>((resume) => {
        socket.once("message", (message) => resume(Effect.succeed(String(message))))
      })
      const say = Effect.sync(() => socket.send(word, port, host))
      return Effect.raceFirst(answer, Effect.forever(Effect.delay(say, 200)))
    },
    (socket) => Effect.sync(() => socket.close())
  )

/** A socket of the host that answers each word in capitals. */
const shoutingSocket = (path: string) =>
  Effect.acquireRelease(
    Effect.callback<ReturnType<typeof createServer>>((resume) => {
      const server = createServer((connection) => {
        connection.on("data", (word) => connection.end(String(word).toUpperCase()))
        connection.on("error", () => {})
      })
      server.listen(path, () => resume(Effect.succeed(server)))
    }),
    (server) => Effect.callback<void>((resume) => void server.close(() => resume(Effect.void)))
  )

/** A root directory with the program for what busybox cannot do. */
const rootWithSockets = Effect.gen(function*() {
  const root = yield* rootDirectory
  const spawner = yield* ChildProcessSpawner
  const source = "test/support/programs/sockets.c"
  const compiler = ChildProcess.make("cc", ["-static", "-o", `${root}/bin/sockets`, source])
  assert.strictEqual(yield* spawner.exitCode(compiler), 0)
  return root
})

/** The flags of a mount, as the guest's kernel has them. */
const flagsOf = (mountTable: string, guest: string): ReadonlyArray<string> =>
  mountTable.split("\n").map((line) => line.split(" ")).find(([, at]) => at === guest)?.[3]?.split(",") ?? []

const port = 28_080

layer(layerBackend, { timeout: "10 minutes", excludeTestServices: true })("the options of a sandbox", (it) => {
  it.effect("make what is in the guest: its variables, scripts, limits, sockets and rights", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const image = yield* rootWithSockets
      const { home } = yield* Backend.Local
      const sockets = yield* temporaryDirectory
      yield* shoutingSocket(`${sockets}/shout.sock`)
      const sandbox = yield* Sandbox.make({
        name: "inside",
        image: { directory: image },
        cpus: 1,
        maxCpus: 1,
        memory: "256 MiB",
        maxMemory: "512 MiB",
        cpuPlacement: "auto",
        transparentHugePages: "never",
        env: { COLOUR: "red", EMPTY: "" },
        workdir: "/etc",
        shell: "/bin/ash",
        user: "nobody",
        hostname: "made",
        labels: { purpose: "test" },
        scripts: { greet: "#!/bin/sh\necho hello $1\n" },
        entrypoint: ["/bin/echo"],
        cmd: ["a"],
        rlimits: { nofile: { soft: 100, hard: 200 }, core: 0, stack: "unlimited" },
        vsock: [{ path: `${sockets}/shout.sock`, port: 5000 }],
        logLevel: "debug",
        metricsInterval: false,
        security: "restricted",
        network: false
      })
      const { stdout } = yield* sandbox.shell(
        "echo $COLOUR:$EMPTY; pwd; id -u; hostname; readlink /proc/$$/exe; which greet; greet you; " +
          "ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -s; sockets vsock 5000 shout; echo; ls /sys/class/net/eth0 2>/dev/null || echo no network"
      )
      assert.deepStrictEqual(stdout.trim().split("\n"), [
        "red:",
        "/etc",
        "65534",
        "made",
        "/bin/busybox",
        "/.msb/scripts/greet",
        "hello you",
        "100",
        "200",
        "0",
        "unlimited",
        "SHOUT",
        "no network"
      ])
      assert.include((yield* sandbox.exec("cat", ["/sys/kernel/mm/transparent_hugepage/enabled"])).stdout, "[never]")
      // No way to more privileges, and without CAP_SYS_ADMIN (bit 21), for root too.
      const status = (yield* sandbox.exec("cat", ["/proc/self/status"], { user: "root" })).stdout
      assert.match(status, /NoNewPrivs:\s*1/)
      const capabilities = BigInt(`0x${/CapEff:\s*([0-9a-f]+)/.exec(status)?.[1] ?? ""}`)
      assert.strictEqual(capabilities >> 21n & 1n, 0n, status)
      const { config, labels } = yield* Sandbox.get("inside")
      assert.deepStrictEqual(labels, { purpose: "test" })
      assert.deepStrictEqual(config?.rlimits.toSorted((one, other) => one.resource.localeCompare(other.resource)), [
        { resource: "core", soft: 0, hard: 0 },
        { resource: "nofile", soft: 100, hard: 200 },
        { resource: "stack", soft: "unlimited", hard: "unlimited" }
      ])
      assert.strictEqual((yield* Effect.flip(sandbox.metrics)).reason._tag, "MetricsDisabled")
      assert.isAbove((yield* fs.readFileString(`${home}/sandboxes/inside/logs/runtime.log`)).length, 0)
    }))

  it.effect("make the guest's network: ports with their address and protocol, and the interface", () =>
    Effect.gen(function*() {
      const image = yield* rootWithSockets
      const sandbox = yield* Sandbox.make({
        image,
        ports: [
          { host: port, guest: 80, bind: "127.0.0.2" },
          { host: port, guest: 81 },
          { host: port, guest: 5353, bind: "127.0.0.2", protocol: "udp" }
        ],
        network: { interface: { mac: "02:00:00:00:00:2a", mtu: 1400, ipv4: "10.9.8.6" } }
      })
      const { stdout } = yield* sandbox.shell(
        "mkdir -p /www/1 /www/2; echo bound > /www/1/index.html; echo loopback > /www/2/index.html; " +
          "httpd -p 80 -h /www/1; httpd -p 81 -h /www/2; " +
          "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu; ip -o -4 addr show eth0"
      )
      const [mac, mtu, address] = stdout.split("\n")
      assert.deepStrictEqual([mac, mtu], ["02:00:00:00:00:2a", "1400"])
      assert.include(address, "10.9.8.6/30")
      for (const [host, page] of [["127.0.0.2", "bound\n"], ["127.0.0.1", "loopback\n"]] as const) {
        const answer = yield* until(get(`http://${host}:${port}/`), Result.isSuccess)
        assert.strictEqual(Result.getOrThrow(answer), page)
      }
      // Where no port is bound, nobody listens.
      assert.isTrue(Result.isFailure(yield* get(`http://127.0.0.3:${port}/`)))
      yield* sandbox.spawn("sockets", ["udp", "5353"])
      assert.strictEqual(yield* ask("127.0.0.2", port, "anyone?"), "anyone?")
    }))

  it.effect("make the guest's mounts, with what each may do", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const { home } = yield* Backend.Local
      const directory = yield* temporaryDirectory
      // The root itself is reached through a link.
      yield* fs.symlink(yield* rootDirectory, `${directory}/root`)
      const image = { directory: `${directory}/root`, followRootSymlinks: true }
      for (const name of ["read", "write", "mirror"]) {
        yield* fs.makeDirectory(`${directory}/${name}`)
        yield* fs.writeFileString(`${directory}/${name}/host`, "from the host\n", { mode: 0o644 })
      }
      const volume = { named: "cache", mode: "create", size: "72 MiB", labels: { of: "test" } } as const
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({
          image,
          mounts: {
            "/read": { bind: `${directory}/read`, readonly: true, owner: { uid: 7, gid: 8 } },
            // Relative, and with little room.
            "/write": { bind: path.relative("", `${directory}/write`), quota: "1 MiB", noexec: true },
            "/mirror": { bind: `${directory}/mirror`, hostPermissions: "mirror" },
            "/cache": volume,
            "/shelf": { named: "shelf", mode: "ensure-exists", quota: "1 GiB" },
            "/own": { owned: true, size: "72 MiB", nosuid: true },
            "/ram": { tmpfs: true, size: "2 MiB", noexec: true, nosuid: true, nodev: true }
          }
        })
        const run = (script: string) => Effect.map(sandbox.shell(script), ({ stdout }) => stdout.trim())
        const table = yield* run("cat /proc/mounts")
        assert.include(flagsOf(table, "/read"), "ro")
        assert.includeMembers([...flagsOf(table, "/write")], ["rw", "noexec"])
        assert.includeMembers([...flagsOf(table, "/own")], ["rw", "nosuid"])
        assert.includeMembers([...flagsOf(table, "/ram")], ["rw", "nosuid", "nodev", "noexec", "size=2048k"])
        assert.strictEqual(yield* run("stat -c %u:%g /read/host; touch /read/new || echo refused"), "7:8\nrefused")
        assert.strictEqual(
          yield* run("cat /write/host; echo guest > /write/guest; cat /write/guest"),
          "from the host\nguest"
        )
        assert.strictEqual(yield* fs.readFileString(`${directory}/write/guest`), "guest\n")
        assert.strictEqual(yield* run("dd if=/dev/zero of=/write/big bs=1M count=3 2>/dev/null || echo full"), "full")
        yield* run("chmod 600 /write/host /mirror/host")
        assert.strictEqual((yield* fs.stat(`${directory}/write/host`)).mode & 0o777, 0o644)
        assert.strictEqual((yield* fs.stat(`${directory}/mirror/host`)).mode & 0o777, 0o600)
        for (const place of ["/cache", "/shelf", "/own", "/ram"]) {
          assert.strictEqual(yield* run(`echo kept > ${place}/file; cat ${place}/file`), "kept", place)
        }
        yield* run("sync")
      }))
      const again = yield* Effect.flip(Effect.scoped(Sandbox.make({ name: "second", image, mounts: { "/c": volume } })))
      assert.strictEqual(again.reason._tag, "VolumeAlreadyExists")
      assert.isTrue(yield* isFree("second"))
      // The volumes are there when the sandbox is gone; one is a disk image, which can be mounted as such.
      const disk = (yield* fs.readDirectory(`${home}/volumes`, { recursive: true }))
        .find((entry) => entry.endsWith(".raw"))
      yield* fs.copyFile(`${home}/volumes/${disk}`, `${directory}/disk.img`)
      const sandbox = yield* Sandbox.make({
        image,
        mounts: {
          "/cache": { named: "cache" },
          "/shelf": { named: "shelf", readonly: true },
          "/copy": { disk: `${directory}/disk.img`, fstype: "ext4", readonly: true }
        }
      })
      const { stdout } = yield* sandbox.shell("cat /cache/file /shelf/file /copy/file; touch /copy/new || echo refused")
      assert.strictEqual(stdout, "kept\nkept\nkept\nrefused\n")
    }))

  it.effect("hand the guest over to an init of its own", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const sandbox = yield* Sandbox.make({
        image,
        init: { command: "/bin/sh", args: ["-c", "echo $MARK > /tmp/mark; exec sleep 100000"], env: { MARK: "first" } }
      })
      const { stdout } = yield* sandbox.shell("tr '\\0' ' ' < /proc/1/cmdline; echo; cat /tmp/mark")
      assert.strictEqual(stdout, "sleep 100000 \nfirst\n")
    }))

  it.effect("end it by themselves: when its time is over, or when nothing happens", () =>
    Effect.gen(function*() {
      // The time of a life begins with its boot.
      for (const life of [{ maxDuration: "20 seconds" }, { idleTimeout: "3 seconds" }] as const) {
        yield* Effect.scoped(Effect.gen(function*() {
          const sandbox = yield* Sandbox.make({ name: "brief", image: yield* rootDirectory, ...life })
          yield* until(sandbox.status, (status) => status === "Stopped" || status === "Crashed")
        }))
        assert.isTrue(yield* isFree("brief"))
      }
    }))

  it.effect("let nothing stay of a sandbox that is ephemeral, whoever ends it", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      const options: SandboxOptions.Options = { name: "passing", image, ephemeral: true }
      yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make(options)
        yield* sandbox.stop()
        yield* until(isFree("passing"), (free) => free)
      }))
      // One that nobody stops goes with its scope, or when its last owner lets it end.
      yield* Effect.scoped(Sandbox.make(options))
      assert.isTrue(yield* isFree("passing"))
      yield* Effect.scoped(Sandbox.make({ ...options, onClose: "detach", maxDuration: "20 seconds" }))
      yield* until(isFree("passing"), (free) => free)
    }))

  it.effect("replace the sandbox that has the name, running or stopped", () =>
    Effect.gen(function*() {
      const image = yield* rootDirectory
      for (const [onClose, replace] of [["detach", { timeout: 0 }], ["stop", true]] as const) {
        const first = yield* Effect.scoped(Sandbox.make({ name: "heir", image, onClose, env: { WHO: "first" } }))
        yield* Effect.scoped(Effect.gen(function*() {
          const second = yield* Sandbox.make({ name: "heir", image, replace, env: { WHO: "second" } })
          assert.notStrictEqual(second.id, first.id)
          assert.strictEqual((yield* Sandbox.get("heir")).id, second.id)
          assert.strictEqual((yield* second.shell("echo $WHO")).stdout, "second\n")
        }))
        assert.isTrue(yield* isFree("heir"))
      }
      // Where there is none, it is made as any other.
      yield* Effect.scoped(Sandbox.make({ name: "heir", image, replace: true }))
      assert.isTrue(yield* isFree("heir"))
    }))
})
