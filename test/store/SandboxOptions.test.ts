/** The bad input table: every mistake is told with its field before anything starts, and leaves nothing. */
import { Backend, Sandbox, type SandboxOptions } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Redacted } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { layerBackend, sandboxDirectories, temporaryDirectory } from "../support/Sandboxes.ts"

const whyNot = (options: object) =>
  Sandbox.make(options as Sandbox.Options).pipe(Effect.scoped, Effect.flip, Effect.map(({ reason }) => reason))

/** The names of all rows of the backend's catalogue. */
const catalogue = Effect.gen(function*() {
  const spawner = yield* ChildProcessSpawner
  const { home } = yield* Backend.Backend
  const program = ChildProcess.make("node", ["test/support/programs/catalogue.ts", home])
  return JSON.parse(yield* spawner.string(program)) as ReadonlyArray<string>
})

const mounts = (mount: object) => ({ mounts: { "/data": mount } })
const ports = (...ports: ReadonlyArray<object>) => ({ ports })
const port = (more: object) => ports({ host: 8080, guest: 80, ...more })
const rlimit = (limit: unknown) => ({ rlimits: { nofile: limit } })
const network = (more: object) => ({ network: { interface: more } })
const oci = (more: object) => ({ image: "alpine", ...more })

/** What is wrong with it, in an option object that is right but for that. */
const mistakes: ReadonlyArray<readonly [field: string, options: object]> = [
  // What there is.
  ["colour", { colour: "red" }],
  ["name", { name: "" }],
  ["name", { name: "-a" }],
  ["name", { name: "a/b" }],
  ["name", { name: "../a" }],
  ["name", { name: "a".repeat(129) }],
  ["name", { name: 1 }],
  ["onClose", { onClose: "explode" }],
  // Images.
  ["image", { image: undefined }],
  ["image", { image: "" }],
  ["image", { image: "Alpine" }],
  ["image", { image: "alpine:" }],
  ["image", { image: "al pine" }],
  ["image", { image: 1 }],
  ["image", { image: {} }],
  ["image.oci", { image: { oci: "./root" } }],
  ["image.directory", { image: { oci: "alpine", directory: "/root" } }],
  ["image.directory", { image: { directory: "" } }],
  ["image.format", { image: { directory: "/root", format: "raw" } }],
  ["image.format", { image: { disk: "/disk.img" } }],
  ["image.format", { image: { disk: "/disk.raw", format: "vdi" } }],
  ["image.followRootSymlinks", { image: { disk: "/disk.raw", followRootSymlinks: true } }],
  ["image.fstype", { image: { disk: "/disk.raw", fstype: "ext4,rw" } }],
  ["registry", { registry: { insecure: true } }],
  ["registry.auth.password", oci({ registry: { auth: { username: "a", password: "open" } } })],
  ["registry.auth.username", oci({ registry: { auth: { username: "", password: Redacted.make("") } } })],
  ["registry.caCerts", oci({ registry: { caCerts: "a certificate" } })],
  ["pullPolicy", { pullPolicy: "sometimes" }],
  // The root disk.
  ["rootDisk", { rootDisk: "1 GiB" }],
  ["rootDisk", { image: "./disk.raw", rootDisk: { tmpfs: true } }],
  ["rootDisk", oci({ rootDisk: "1 MiB" })],
  ["rootDisk", oci({ rootDisk: {} })],
  ["rootDisk.size", oci({ rootDisk: { managed: true, size: "67 MiB" } })],
  ["rootDisk.flat", oci({ rootDisk: { tmpfs: true, flat: true } })],
  ["rootDisk.size", oci({ rootDisk: { disk: "/disk.raw", size: "1 GiB" } })],
  ["rootDisk.size", oci({ rootDisk: { tmpfs: true, size: "1 GiB" }, memory: "512 MiB" })],
  ["rootDisk.cloneStrategy", oci({ rootDisk: { managed: true, cloneStrategy: "copy" } })],
  ["rootDisk.fstype", oci({ rootDisk: { flat: true, fstype: "xfs" } })],
  ["rootDisk.format", oci({ rootDisk: { disk: "/disk.vmdk" } })],
  ["rootDisk.format", oci({ rootDisk: { disk: "/disk", format: "vmdk" } })],
  // Resources.
  ["cpus", { cpus: 0 }],
  ["cpus", { cpus: 1.5 }],
  ["cpus", { cpus: 256 }],
  ["maxCpus", { maxCpus: 0 }],
  ["maxCpus", { cpus: 2, maxCpus: 1 }],
  ["memory", { memory: 0 }],
  ["memory", { memory: -1 }],
  ["memory", { memory: "0 MiB" }],
  ["memory", { memory: "1 kB" }],
  ["memory", { memory: "a lot" }],
  ["memory", { memory: "4 PiB" }],
  ["maxMemory", { memory: "1 GiB", maxMemory: "512 MiB" }],
  ["cpuPlacement", { cpuPlacement: "scatter" }],
  ["placementProfile", { placementProfile: "" }],
  ["transparentHugePages", { transparentHugePages: true }],
  // The guest.
  ["env.A=B", { env: { "A=B": "c" } }],
  ["env.A", { env: { A: "\0" } }],
  ["env.MSB_A", { env: { MSB_A: "b" } }],
  ["workdir", { workdir: "a\0b" }],
  ["workdir", { workdir: "" }],
  ["shell", { shell: "" }],
  ["user", { user: "" }],
  ["hostname", { hostname: "" }],
  ["hostname", { hostname: "é".repeat(33) }],
  ["labels.", { labels: { "": "empty" } }],
  ["labels.sandbox.name", { labels: { "sandbox.name": "a" } }],
  ["labels.microsandbox.id", { labels: { "microsandbox.id": "a" } }],
  ["labels.service.name", { labels: { "service.name": "a" } }],
  ["labels.effect-microsandbox.creation", { labels: { "effect-microsandbox.creation": "a" } }],
  ["labels.count", { labels: { count: 1 } }],
  ["scripts.../run", { scripts: { "../run": "true" } }],
  ["scripts...", { scripts: { "..": "true" } }],
  ["scripts.", { scripts: { "": "true" } }],
  ["entrypoint.0", { entrypoint: [""] }],
  ["cmd.0", { cmd: ["", "a"] }],
  ["cmd.1", { cmd: ["a", "\0"] }],
  ["init", { init: "sbin/init" }],
  ["init.command", { init: { command: "C:\\init" } }],
  ["init.args.0", { init: { command: "auto", args: ["\0"] } }],
  ["init.env.=", { init: { command: "auto", env: { "=": "a" } } }],
  ["security", { security: "strict" }],
  ["rlimits.files", { rlimits: { files: 1 } }],
  ["rlimits.nofile", rlimit(-1)],
  ["rlimits.nofile", rlimit(1.5)],
  ["rlimits.nofile", rlimit("endless")],
  ["rlimits.nofile.hard", rlimit({ soft: 1 })],
  ["rlimits.nofile.soft", rlimit({ soft: 2, hard: 1 })],
  ["rlimits.nofile.soft", rlimit({ soft: "unlimited", hard: 1 })],
  // Ports and the network.
  ["ports.0.host", port({ host: 0 })],
  ["ports.0.host", port({ host: 65_536 })],
  ["ports.0.guest", port({ guest: 0 })],
  ["ports.0.guest", port({ guest: "http" })],
  ["ports.0.bind", port({ bind: "localhost" })],
  ["ports.0.bind", port({ bind: "127.0.0.256" })],
  ["ports.0.bind", port({ bind: "fe80::1%eth0" })],
  ["ports.0.protocol", port({ protocol: "sctp" })],
  ["ports.1.host", ports({ host: 80, guest: 80 }, { host: 80, guest: 81, bind: "127.0.0.1" })],
  ["ports.1.host", ports({ host: 80, guest: 80 }, { host: 80, guest: 81, bind: "0.0.0.0" })],
  ["ports.1.host", ports({ host: 80, guest: 80, bind: "::1" }, { host: 80, guest: 81, bind: "0:0::1" })],
  ["ports", { ...port({}), network: false }],
  ["ports", { ...port({}), deploymentProfile: "multi-tenant" }],
  ["network", { network: true }],
  ["network.interface", { ...network({ mtu: 1500 }), deploymentProfile: "multi-tenant" }],
  ["network.interface.mac", network({ mac: "02:00:00:00:00" })],
  ["network.interface.mac", network({ mac: "01:00:00:00:00:01" })],
  ["network.interface.mtu", network({ mtu: 1279 })],
  ["network.interface.mtu", network({ mtu: 65_536 })],
  ["network.interface.ipv4", network({ ipv4: "10.0.0.300" })],
  ["network.interface.ipv4", network({ ipv4: "10.0.0.1" })],
  ["network.interface.ipv4", network({ ipv4: "127.0.0.2" })],
  ["network.interface.ipv4Pool", network({ ipv4Pool: "10.0.0.0/31" })],
  ["network.interface.ipv4Pool", network({ ipv4Pool: "10.0.0.0" })],
  ["network.interface.ipv4Pool", network({ ipv4: "10.0.0.2", ipv4Pool: "10.0.0.0/16" })],
  ["network.interface.ipv6", network({ ipv6: "fd00::1" })],
  ["network.interface.ipv6", network({ ipv6: "::1]/" })],
  ["network.interface.ipv6", network({ ipv6: "ff02::2" })],
  ["network.interface.ipv6Pool", network({ ipv6Pool: "fd00::/65" })],
  ["vsock.0.path", { vsock: [{ path: "agent.sock", port: 1 }] }],
  ["vsock.0.path", { vsock: [{ path: `/${"a".repeat(107)}`, port: 1 }] }],
  ["vsock.0.port", { vsock: [{ path: "/agent.sock", port: 0 }] }],
  ["vsock.0.port", { vsock: [{ path: "/agent.sock", port: 4_294_967_295 }] }],
  ["vsock.0.port", { vsock: [{ path: "/agent.sock", port: 123, type: "dgram" }] }],
  ["vsock.1.port", { vsock: [{ path: "/a", port: 1 }, { path: "/b", port: 1 }] }],
  ["vsock", { vsock: [{ path: "/a", port: 1 }], deploymentProfile: "multi-tenant" }],
  // Mounts.
  ["mounts.data", { mounts: { data: { tmpfs: true } } }],
  ["mounts./", { mounts: { "/": { tmpfs: true } } }],
  ["mounts./.", { mounts: { "/.": { tmpfs: true } } }],
  ["mounts./a/../b", { mounts: { "/a/../b": { tmpfs: true } } }],
  ["mounts./a:b", { mounts: { "/a:b": { tmpfs: true } } }],
  ["mounts./data/", { mounts: { "/data": { tmpfs: true }, "/data/": { tmpfs: true } } }],
  ["mounts./data", mounts({})],
  ["mounts./data", mounts({ readonly: true })],
  ["mounts./data.tmpfs", mounts({ bind: "/a", tmpfs: true })],
  ["mounts./data.captured", mounts({ captured: true })],
  ["mounts./data.bind", mounts({ bind: "" })],
  ["mounts./data.bind", mounts({ bind: "/a:b" })],
  ["mounts./data.size", mounts({ bind: "/a", size: "1 GiB" })],
  ["mounts./data.quota", mounts({ bind: "/a", quota: "1 B" })],
  ["mounts./data.owner.gid", mounts({ bind: "/a", owner: { uid: 1 } })],
  ["mounts./data.owner.uid", mounts({ bind: "/a", owner: { uid: -1, gid: 1 } })],
  ["mounts./data.owner", mounts({ bind: "/a", owner: { uid: 1, gid: 1 }, statVirtualization: "off" })],
  ["mounts./data.hostPermissions", mounts({ bind: "/a", hostPermissions: "mirror", statVirtualization: "off" })],
  ["mounts./data.quota", mounts({ tmpfs: true, quota: "1 GiB" })],
  ["mounts./data.size", mounts({ tmpfs: true, size: 0 })],
  ["mounts./data.statVirtualization", mounts({ tmpfs: true, statVirtualization: "off" })],
  ["mounts./data.format", mounts({ tmpfs: true, format: "raw" })],
  ["mounts./data.owner", mounts({ disk: "/a.raw", owner: { uid: 1, gid: 1 } })],
  ["mounts./data.fstype", mounts({ disk: "/a.raw", fstype: "" })],
  ["mounts./other.disk", { mounts: { "/data": { disk: "/a.raw" }, "/other": { disk: "/a.raw" } } }],
  ["mounts./data.named", mounts({ named: "../cache" })],
  ["mounts./data.mode", mounts({ named: "cache", mode: "replace" })],
  ["mounts./data.mode", mounts({ owned: true, mode: "create" })],
  ["mounts./data.size", mounts({ named: "cache", size: "1 GiB" })],
  ["mounts./data.labels", mounts({ named: "cache", mode: "existing", labels: {} })],
  ["mounts./data.size", mounts({ named: "cache", mode: "create", kind: "disk" })],
  ["mounts./data.size", mounts({ named: "cache", mode: "create", size: "67 MiB" })],
  ["mounts./data.size", mounts({ named: "cache", mode: "create", kind: "directory", size: "1 GiB" })],
  ["mounts./data.quota", mounts({ owned: true, size: "1 GiB", quota: "1 GiB" })],
  ["mounts./data.hostPermissions", mounts({ owned: true, size: "1 GiB", hostPermissions: "private" })],
  ["mounts./data.followRootSymlinks", mounts({ owned: true, followRootSymlinks: true })],
  // Its life.
  ["logLevel", { logLevel: "loud" }],
  ["metricsInterval", { metricsInterval: 0 }],
  ["metricsInterval", { metricsInterval: true }],
  ["metricsInterval", { metricsInterval: "Infinity" }],
  ["deploymentProfile", { deploymentProfile: "no-tenant" }],
  ["maxDuration", { maxDuration: 0 }],
  ["maxDuration", { maxDuration: -1 }],
  ["idleTimeout", { idleTimeout: "0 seconds" }],
  ["idleTimeout", { idleTimeout: "soon" }],
  ["onClose", { ephemeral: true, onClose: "stop" }],
  ["ephemeral", { ephemeral: "yes" }],
  ["replace", { name: undefined, replace: true }],
  ["replace.timeout", { replace: { timeout: -1 } }]
]

layer(layerBackend, { excludeTestServices: true, timeout: "1 minute" })("options of a sandbox", (it) => {
  it.effect("are refused with the field that is wrong, and nothing is left of the attempt", () =>
    Effect.gen(function*() {
      const image = yield* temporaryDirectory
      assert.isAtLeast(mistakes.length, 60)
      for (const [field, options] of mistakes) {
        const reason = yield* whyNot({ name: "bad", image, ...options })
        assert.deepStrictEqual(
          [reason._tag, reason._tag === "InvalidConfig" ? reason.field : reason],
          ["InvalidConfig", field],
          `${field}: ${reason.message}`
        )
        assert.include(reason.message, field)
      }
      assert.deepStrictEqual(yield* sandboxDirectories, [])
      assert.deepStrictEqual(yield* catalogue, [])
    }))

  it.effect("that only this machine and the engine can judge are refused with a reason, and nothing is left of the attempt", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const image = yield* temporaryDirectory
      const file = `${image}/disk.raw`
      yield* fs.writeFileString(file, "")
      const refused: ReadonlyArray<readonly [tag: string, field: string | undefined, options: object]> = [
        ["RootfsNotFound", undefined, { image: { directory: "/no/such/root" } }],
        ["RootfsNotFound", undefined, { image: { disk: "/no/such/disk.raw" } }],
        ["InvalidConfig", undefined, { image: { directory: file } }],
        ["InvalidConfig", undefined, { image: { disk: image, format: "raw" } }],
        ["InvalidConfig", "placementProfile", { placementProfile: "nobody-made-it" }],
        ["InvalidConfig", "rootDisk.disk", { image: "alpine", rootDisk: { disk: "/no/such/disk.raw" } }],
        ["InvalidConfig", "mounts./data.bind", mounts({ bind: "/no/such/directory" })],
        ["InvalidConfig", "mounts./data.disk", mounts({ disk: "/no/such/disk.raw" })],
        // What the backend gives is more than the ceiling, and one image has two paths: the engine says so.
        ["InvalidConfig", undefined, { maxMemory: "1 MiB" }],
        ["InvalidConfig", undefined, { mounts: { "/a": { disk: file }, "/b": { disk: `/${file}` } } }],
        ["VolumeNotFound", undefined, mounts({ named: "nobody-made-it" })],
        [
          "ImageNotCached",
          undefined,
          { image: { oci: "never-pulled" }, pullPolicy: "never", rootDisk: { tmpfs: true } }
        ]
      ]
      for (const [tag, field, options] of refused) {
        const reason = yield* whyNot({ name: "bad", image, ...options })
        assert.deepStrictEqual(
          [reason._tag, reason._tag === "InvalidConfig" ? reason.field : undefined],
          [tag, field],
          `${JSON.stringify(options)}: ${reason.message}`
        )
        assert.deepStrictEqual(yield* sandboxDirectories, [])
      }
      assert.deepStrictEqual(yield* catalogue, [])
    }))
})

// What a user writes is what the schema takes: the compiler says so.
export type Written = SandboxOptions.Options extends (typeof SandboxOptions.Options)["Encoded"] ? true : never
export const written: Written = true
