/** The bad input table: every mistake is told with its field before anything starts, and leaves nothing. */
import { Backend, Destination, Patch, Rule, Sandbox, type SandboxOptions, type Secret } from "@effect-microsandbox/core"
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
  const { home } = yield* Backend.Local
  const program = ChildProcess.make("node", ["test/support/programs/catalogue.ts", home])
  return JSON.parse(yield* spawner.string(program)) as ReadonlyArray<string>
})

const mounts = (mount: object) => ({ mounts: { "/data": mount } })
const ports = (...ports: ReadonlyArray<object>) => ({ ports })
const port = (more: object) => ports({ host: 8080, guest: 80, ...more })
const rlimit = (limit: unknown) => ({ rlimits: { nofile: limit } })
const network = (more: object) => ({ network: { interface: more } })
const net = (more: object) => ({ network: more })
const rules = (...rules: ReadonlyArray<object>) => ({
  network: { policy: { defaultEgress: "deny", defaultIngress: "deny", rules } }
})
const to = (destination: object) => rules(Rule.allow({ destination: destination as Destination.Destination }))
const dns = (more: object) => net({ dns: more })
const tls = (more: object) => net({ tls: more })
const limit = (more: object) => net({ rateLimit: more })
const secrets = (...secrets: ReadonlyArray<Partial<Secret.Secret> | object>) => ({
  secrets: secrets.map((secret) => ({ env: "KEY", value: Redacted.make("sesame"), hosts: ["a.example"], ...secret }))
})
const patches = (...patches: ReadonlyArray<object>) => ({ patches })
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
  ["rootDisk", oci({ rootDisk: "68 MiB" })],
  ["rootDisk", oci({ rootDisk: {} })],
  ["rootDisk.size", oci({ rootDisk: { managed: true, size: "68 MiB" } })],
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
  ["network", { network: "everything" }],
  ["network.colour", net({ colour: "red" })],
  ["network.policy", net({ policy: "public" })],
  ["network.policy.defaultEgress", net({ policy: { defaultEgress: "drop", defaultIngress: "deny", rules: [] } })],
  ["network.policy.rules.0.action", rules({ ...Rule.allow({}), action: "log" })],
  ["network.policy.rules.1.direction", rules(Rule.allowDns, { ...Rule.allow({}), direction: "both" })],
  ["network.policy.rules.0.destination", to({ _tag: "Planet" })],
  ["network.policy.rules.0.destination.address", to(Destination.ip("203.0.113.256"))],
  ["network.policy.rules.0.destination.address", to(Destination.ip("10.0.0.0/8"))],
  ["network.policy.rules.0.destination.network", to(Destination.cidr("10.0.0.1"))],
  ["network.policy.rules.0.destination.network", to(Destination.cidr("10.0.0.0/33"))],
  ["network.policy.rules.0.destination.network", to(Destination.cidr("fd00::/129"))],
  ["network.policy.rules.0.destination.name", to(Destination.domain(""))],
  ["network.policy.rules.0.destination.name", to(Destination.domain("https://example.com"))],
  ["network.policy.rules.0.destination.name", to(Destination.domain("example.com:443"))],
  ["network.policy.rules.0.destination.name", to(Destination.domain("*.example.com"))],
  ["network.policy.rules.0.destination.name", to(Destination.domain("10.0.0.1"))],
  ["network.policy.rules.0.destination.name", to(Destination.domain(`${"a".repeat(64)}.example`))],
  ["network.policy.rules.0.destination.name", to(Destination.domainSuffix("com"))],
  ["network.policy.rules.0.destination.name", to(Destination.domainSuffix("foo bar.example"))],
  ["network.policy.rules.0.destination.group", to({ _tag: "Group", group: "internet" })],
  ["network.policy.rules.0.protocols.0", rules({ ...Rule.allow({}), protocols: ["sctp"] })],
  ["network.policy.rules.0.protocols.1", rules(Rule.allow({ direction: "ingress", protocols: ["tcp", "icmpv4"] }))],
  ["network.policy.rules.0.protocols.0", rules(Rule.deny({ direction: "any", protocols: ["icmpv6"] }))],
  ["network.policy.rules.0.ports", rules(Rule.allow({ protocols: ["icmpv4"], ports: [80] }))],
  ["network.policy.rules.0.ports.0", rules(Rule.allow({ ports: [0] }))],
  ["network.policy.rules.0.ports.0.to", rules(Rule.allow({ ports: [{ from: 2, to: 1 }] }))],
  ["network.policy.rules.0.ports.0.to", rules(Rule.allow({ ports: [{ from: 2, to: 65_536 }] }))],
  ["network.dns.nameservers.0", dns({ nameservers: ["1.1.1.1:0"] })],
  ["network.dns.nameservers.1", dns({ nameservers: ["::1", "::1:53:"] })],
  ["network.dns.nameservers.0", dns({ nameservers: ["a name"] })],
  ["network.dns.queryTimeout", dns({ queryTimeout: 0 })],
  ["network.dns.queryTimeout", dns({ queryTimeout: "Infinity" })],
  ["network.tls.ports", tls({ ports: [] })],
  ["network.tls.ports.0", tls({ ports: [65_536] })],
  ["network.tls.bypass.0", tls({ bypass: ["*"] })],
  ["network.tls.bypass.0", tls({ bypass: ["api.*.example"] })],
  ["network.tls.verifyUpstreamFor.https://a.example", tls({ verifyUpstreamFor: { "https://a.example": false } })],
  ["network.tls.upstreamCaCerts.0", tls({ upstreamCaCerts: [""] })],
  ["network.tls.upstreamCaCertsFor.a b", tls({ upstreamCaCertsFor: { "a b": ["/ca.pem"] } })],
  ["network.tls.interceptCa.key", tls({ interceptCa: { cert: "/ca.pem" } })],
  ["network.tls.interceptCa.cert", tls({ interceptCa: { key: "/ca.key" } })],
  ["network.proxy", net({ proxy: {} })],
  ["network.proxy.socks5", net({ proxy: { socks5: "localhost:1080" } })],
  ["network.proxy.socks5", net({ proxy: { socks5: "127.0.0.1" } })],
  ["network.proxy.socks5", net({ proxy: { socks5: "127.0.0.1:1080", socks4: "127.0.0.1:1080" } })],
  ["network.proxy.userId", net({ proxy: { socks4: "127.0.0.1:1080", userId: "a".repeat(256) } })],
  ["network.proxy.userId", net({ proxy: { socks5: "127.0.0.1:1080", userId: "a" } })],
  [
    "network.proxy.credentials",
    net({ proxy: { socks4: "127.0.0.1:1080", credentials: { username: "a", passwordVariable: "B" } } })
  ],
  [
    "network.proxy.credentials.username",
    net({ proxy: { socks5: "127.0.0.1:1080", credentials: { username: "", passwordVariable: "B" } } })
  ],
  ["network.rateLimit", limit({})],
  ["network.rateLimit.egress", limit({ egress: {} })],
  ["network.rateLimit.egress.bandwidth.size", limit({ egress: { bandwidth: { size: 0, per: "1 second" } } })],
  ["network.rateLimit.egress.bandwidth.per", limit({ egress: { bandwidth: { size: 1, per: "1 micro" } } })],
  ["network.rateLimit.egress.bandwidth.per", limit({ egress: { bandwidth: { size: 1, per: 1.5 } } })],
  ["network.rateLimit.egress.bandwidth.size", limit({ egress: { bandwidth: { per: 1, burst: 1 } } })],
  ["network.rateLimit.ingress.packets.count", limit({ ingress: { packets: { count: 0, per: 1 } } })],
  ["network.rateLimit.ingress.packets.per", limit({ ingress: { packets: { count: 1, per: "50 days" } } })],
  ["network.maxTcpConnections", net({ maxTcpConnections: 0 })],
  ["network.maxUdpConnections", net({ maxUdpConnections: "many" })],
  ["network.strict", net({ strict: "yes" })],
  ["network.proxy", { ...net({ proxy: { socks5: "127.0.0.1:1080" } }), deploymentProfile: "multi-tenant" }],
  ["network.dns.nameservers", { ...dns({ nameservers: ["1.1.1.1"] }), deploymentProfile: "multi-tenant" }],
  ["network.dns.rebindProtection", { ...dns({ rebindProtection: false }), deploymentProfile: "multi-tenant" }],
  ["network.trustHostCas", { ...net({ trustHostCas: true }), deploymentProfile: "multi-tenant" }],
  // Secrets.
  ["secrets", { ...secrets({}), network: false }],
  ["secrets.0.env", secrets({ env: "" })],
  ["secrets.0.env", secrets({ env: "A=B" })],
  ["secrets.0.env", secrets({ env: "MSB_KEY" })],
  ["secrets.0.env", { ...secrets({}), env: { KEY: "mine" } }],
  ["secrets.1.env", secrets({}, { placeholder: "other" })],
  ["secrets.1.placeholder", secrets({}, { env: "KEY_2" })],
  ["secrets.1.placeholder", secrets({ placeholder: "xyz" }, { env: "OTHER", placeholder: "y" })],
  ["secrets.0.value", secrets({ value: "sesame" })],
  ["secrets.0.value", secrets({ value: Redacted.make("") })],
  ["secrets.0.value", secrets({ value: Redacted.make("a\r\nHost: b") })],
  ["secrets.0", secrets({ value: undefined })],
  ["secrets.0.variable", secrets({ variable: "KEY" })],
  ["secrets.0.variable", secrets({ value: undefined, variable: "" })],
  ["secrets.0.hosts", secrets({ hosts: [] })],
  ["secrets.0.hosts.0", secrets({ hosts: ["https://a.example"] })],
  ["secrets.0.hosts.1", secrets({ hosts: ["a.example", "10.0.0.1"] })],
  ["secrets.0.hosts.0", secrets({ hosts: ["*example.com"] })],
  ["secrets.0.placeholder", secrets({ placeholder: "" })],
  ["secrets.0.placeholder", secrets({ placeholder: "é".repeat(513) })],
  ["secrets.0.placeholder", secrets({ placeholder: "a\nb" })],
  ["secrets.0.placeholder", secrets({ placeholder: "a\0b" })],
  ["secrets.0.substituteIn", secrets({ substituteIn: { headers: false } })],
  ["secrets.0.substituteIn.cookies", secrets({ substituteIn: { cookies: true } })],
  ["secrets.0.passthroughHosts.0", secrets({ passthroughHosts: [""] })],
  ["secrets.0.onViolation", secrets({ onViolation: "passthrough" })],
  ["secretViolation", { secretViolation: "ignore" }],
  // Patches.
  ["patches.0", patches({ _tag: "Rename", path: "/a" })],
  ["patches.0.path", patches(Patch.text("etc/motd", ""))],
  ["patches.0.path", patches(Patch.text("/", ""))],
  ["patches.1.path", patches(Patch.remove("/a"), Patch.append("/a/../b", ""))],
  ["patches.0.path", patches(Patch.makeDirectory("/a\0b"))],
  ["patches.0.content", patches({ _tag: "File", path: "/a", content: "text" })],
  ["patches.0.mode", patches(Patch.text("/a", "", { mode: 0o10000 }))],
  ["patches.0.mode", patches({ _tag: "Symlink", target: "/a", path: "/b", mode: 0o777 })],
  ["patches.0.from", patches(Patch.copyFile("", "/a"))],
  ["patches.0.to", patches(Patch.copyDirectory("/a", "a"))],
  ["patches.0.target", patches(Patch.symlink("", "/a"))],
  ["patches", { ...patches(Patch.remove("/a")), image: "./disk.raw" }],
  ["patches", { ...patches(Patch.remove("/a")), image: { disk: "/disk", format: "raw" } }],
  ["patches", oci({ ...patches(Patch.remove("/a")), rootDisk: { tmpfs: true } })],
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

  it.effect("of a restore are refused with the field that is wrong", () =>
    Effect.gen(function*() {
      const refused: ReadonlyArray<readonly [field: string, options: object]> = [
        ["network", { network: "everything" }],
        ["network.dns", { network: { dns: {} } }],
        ["network.maxTcpConnections", { network: { maxTcpConnections: 0 } }],
        ["network.maxUdpConnections", { network: { maxUdpConnections: 1.5 } }],
        ["network.policy.rules.0.destination.network", to(Destination.cidr("10.0.0.0"))]
      ]
      for (const [field, options] of refused) {
        const { reason } = yield* Effect.flip(Effect.scoped(Sandbox.restore("nothing", options)))
        assert.deepStrictEqual(
          [reason._tag, reason._tag === "InvalidConfig" ? reason.field : reason],
          ["InvalidConfig", field]
        )
      }
      // What is right is looked for.
      const right: Sandbox.RestoreOptions = { network: { policy: "none", maxTcpConnections: "unlimited" } }
      const missing = yield* Effect.flip(Effect.scoped(Sandbox.restore("nothing", right)))
      assert.strictEqual(missing.reason._tag, "SnapshotNotFound")
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
        ["InvalidConfig", "patches.0.from", patches(Patch.copyFile("/no/such/file", "/a"))],
        ["InvalidConfig", "network.tls.upstreamCaCerts.0", tls({ upstreamCaCerts: ["/no/such/ca.pem"] })],
        [
          "InvalidConfig",
          "network.tls.upstreamCaCertsFor.a.example.0",
          tls({
            upstreamCaCertsFor: { "a.example": [file] }
          })
        ],
        ["InvalidConfig", "network.tls.interceptCa.cert", tls({ interceptCa: { cert: file, key: file } })],
        ["InvalidConfig", "secrets.0.variable", secrets({ value: undefined, variable: "NOBODY_HAS_SET_IT" })],
        [
          "InvalidConfig",
          "network.proxy.credentials.passwordVariable",
          net({
            proxy: { socks5: "127.0.0.1:1080", credentials: { username: "a", passwordVariable: "NOBODY_HAS_SET_IT" } }
          })
        ],
        // What is in the way of a patch.
        ["PatchFailed", undefined, patches(Patch.text("/disk.raw", ""))],
        ["PatchFailed", undefined, patches(Patch.append("/no/such/file", ""))],
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
