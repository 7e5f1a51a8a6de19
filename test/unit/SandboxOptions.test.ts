import {
  Destination,
  MicrosandboxError,
  NetworkPolicy,
  Patch,
  Rule,
  SandboxOptions,
  Secret
} from "@effect-microsandbox/core"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Redacted, Result, Schema } from "effect"
import { decodeOptions } from "../../packages/core/src/internal/failure.ts"
import { toNativeOptions } from "../../packages/core/src/internal/sandboxOptions.ts"

const decode = decodeOptions(SandboxOptions.Options, { operation: "test" })

const tryDecode = (options: unknown) => Effect.runSyncExit(decode(options))

/** Everything that can be said of a sandbox at once. */
const whole: SandboxOptions.Options = {
  name: "whole",
  image: { oci: "alpine:3.22" },
  rootDisk: { flat: true, size: "1 GiB", cloneStrategy: "copy", fstype: "ext4" },
  cpus: 1,
  maxCpus: 2,
  memory: "512 MiB",
  maxMemory: "1 GiB",
  cpuPlacement: "spread",
  placementProfile: "near",
  transparentHugePages: "never",
  env: { A: "b" },
  workdir: "/",
  shell: "/bin/ash",
  user: "nobody",
  hostname: "h",
  labels: { a: "b" },
  scripts: { run: "true" },
  entrypoint: ["/bin/a"],
  cmd: [],
  init: { command: "/sbin/init", args: ["a"], env: { A: "b" } },
  ports: [{ host: 8080, guest: 80 }, { host: 53, guest: 53, bind: "::1", protocol: "udp" }],
  mounts: {
    "/bind": { bind: "./data", readonly: true, quota: "1 GiB", owner: { uid: 1, gid: 2 } },
    "/named": { named: "cache", mode: "create", size: "1 GiB", labels: { a: "b" } },
    "/owned": { owned: true, kind: "directory", quota: "1 GiB", statVirtualization: "off" },
    "/tmpfs": { tmpfs: true, size: "1 MiB", noexec: true, nosuid: true, nodev: true },
    "/disk": { disk: "/disk.img", format: "raw", fstype: "ext4" }
  },
  vsock: [{ path: "/a.sock", port: 1, type: "dgram" }],
  rlimits: { nofile: 10, nproc: { soft: 1, hard: "unlimited" }, as: "unlimited" },
  pullPolicy: "always",
  registry: { auth: { username: "a", password: Redacted.make("b") }, insecure: true },
  logLevel: "quiet",
  metricsInterval: false,
  security: "restricted",
  deploymentProfile: "single-tenant",
  maxDuration: "1 hour",
  idleTimeout: "1 minute",
  ephemeral: true,
  replace: { timeout: "1 second" },
  network: {
    policy: NetworkPolicy.make({
      defaultEgress: "deny",
      defaultIngress: "allow",
      denyDomains: ["evil.example"],
      denyDomainSuffixes: ["ads.example"],
      rules: [
        Rule.allowDns,
        Rule.allow({ destination: Destination.ip("203.0.113.1"), protocols: ["tcp"], ports: [80, { from: 1, to: 9 }] }),
        Rule.allow({ destination: Destination.cidr("fd00::/8"), direction: "any" }),
        Rule.allow({ destination: Destination.domain("example.com") }),
        Rule.deny({ destination: Destination.domainSuffix("example.com") }),
        Rule.deny({ destination: Destination.group("metadata"), direction: "ingress" }),
        Rule.allow({ protocols: ["icmpv4"] })
      ]
    }),
    dns: { nameservers: ["1.1.1.1", "[::1]:53", "dns.example:53"], rebindProtection: false, queryTimeout: "2 seconds" },
    tls: {
      ports: [443, 8443],
      bypass: ["*.bank.example"],
      verifyUpstream: true,
      verifyUpstreamFor: { "old.example": false },
      blockQuic: false,
      upstreamCaCerts: ["/ca.pem"],
      upstreamCaCertsFor: { "*.corp.example": ["/corp.pem"] },
      interceptCa: { cert: "/own.pem", key: "/own.key" }
    },
    proxy: { socks5: "127.0.0.1:1080", credentials: { username: "a", passwordVariable: "PROXY_PASSWORD" } },
    rateLimit: {
      egress: { bandwidth: { size: "1 MiB", per: "1 second", burst: "1 KiB" } },
      ingress: { packets: { count: 1000, per: 500, burst: 10 } }
    },
    maxTcpConnections: 100,
    maxUdpConnections: "unlimited",
    strict: true,
    trustHostCas: true,
    interface: { mac: "02:00:00:00:00:01", mtu: 1400, ipv4: "10.0.0.2", ipv6Pool: "fd00::/48" }
  },
  secrets: [
    Secret.make({ env: "API_KEY", value: Redacted.make("sesame"), hosts: ["api.example.com"] }),
    Secret.make({
      env: "TOKEN",
      variable: "HOST_TOKEN",
      hosts: ["*.example.com", "example.org"],
      placeholder: "replace-me",
      substituteIn: { headers: false, query: true, body: true },
      passthroughHosts: ["*"],
      onViolation: "block-and-terminate",
      requireTlsIdentity: false
    })
  ],
  secretViolation: "block",
  patches: [
    Patch.text("/etc/motd", "hello\n", { mode: 0o600, replace: true }),
    Patch.file("/data.bin", Uint8Array.of(1, 2, 3)),
    Patch.copyFile("./a", "/a"),
    Patch.copyDirectory("/b", "/b", { replace: true }),
    Patch.symlink("/a", "/link"),
    Patch.makeDirectory("/var/lib/mine", { mode: 0o700 }),
    Patch.remove("/etc/issue"),
    Patch.append("/etc/hosts", "127.0.0.1 mine\n")
  ],
  onClose: "destroy"
}

const junk: ReadonlyArray<unknown> = [
  undefined,
  null,
  true,
  false,
  0,
  -0,
  -1,
  1.5,
  NaN,
  Infinity,
  2 ** 53,
  1n,
  -1n,
  10n ** 30n,
  "",
  " ",
  "\0",
  "\ud800",
  ".",
  "..",
  "/",
  "a".repeat(300),
  "%".repeat(100),
  "::",
  "1::1::1",
  "1 MiB",
  "99999999999999999999999 YiB",
  "1e400 seconds",
  "-Infinity",
  [],
  [[]],
  {},
  { "": "" },
  JSON.parse("{\"__proto__\":{\"a\":1},\"constructor\":1,\"toString\":2}"),
  Object.create(null),
  Symbol.iterator,
  () => 0,
  new Date(NaN),
  new Map([["a", 1]]),
  new Uint8Array(3),
  Redacted.make("a"),
  new Error("a")
]

/** Every place in a value, as a path. */
const places = (value: unknown): ReadonlyArray<ReadonlyArray<string>> =>
  typeof value === "object" && value !== null && !Redacted.isRedacted(value)
    ? [[], ...Object.entries(value).flatMap(([key, inner]) => places(inner).map((rest) => [key, ...rest]))]
    : [[]]

/** A copy in which one place is another, is gone, or has one more beside it. */
const mutate = (value: unknown, [key, ...rest]: ReadonlyArray<string>, how: string, by: unknown): unknown => {
  if (key === undefined) {
    return how !== "add" || typeof value !== "object"
      ? by
      : Array.isArray(value)
      ? [...value, by]
      : { ...value, more: by }
  }
  const entries = Object.entries(value as object).flatMap(([name, inner]) => {
    if (name !== key) return [[name, inner] as const]
    return how === "remove" && rest.length === 0 ? [] : [[name, mutate(inner, rest, how, by)] as const]
  })
  return Array.isArray(value) ? entries.map(([, inner]) => inner) : Object.fromEntries(entries)
}

/** Right, and then it can be said to the engine; or wrong in the one way that there is. */
const assertTold = (options: unknown) => {
  const exit = tryDecode(options)
  if (Exit.isSuccess(exit)) {
    toNativeOptions({ ...exit.value, name: "a", onClose: "destroy" })
    return
  }
  const found = Cause.findError(exit.cause)
  const error = Result.isSuccess(found) ? found.success : assert.fail(Cause.pretty(exit.cause))
  assert.instanceOf(error, MicrosandboxError.MicrosandboxError)
  assert.strictEqual(error.reason._tag, "InvalidConfig")
}

const Index = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1e6 }))

const How = Schema.Literals(["replace", "remove", "add"])

describe("the options of a sandbox", () => {
  it("are right when they are right", () => {
    const exit = tryDecode(whole)
    assert.isTrue(Exit.isSuccess(exit), String(exit))
    // Nothing is changed.
    assert.deepStrictEqual(Exit.isSuccess(exit) ? exit.value : undefined, whole)
    for (
      const options of [
        { image: "alpine" },
        { image: "127.0.0.1:5000/a/b_c:1.2@sha256:" + "0".repeat(64) },
        { image: "[::1]:5000/a" },
        { image: "./root" },
        { image: ".." },
        { image: { directory: "root", followRootSymlinks: true } },
        { image: { disk: "/disk", format: "qcow2" } },
        { image: { disk: "/disk.vmdk", fstype: "ext4" } },
        { image: "alpine", rootDisk: 1 << 30 },
        { image: "alpine", rootDisk: { tmpfs: true, size: "1 MiB" } },
        { image: "alpine", rootDisk: { disk: "/disk.img" } },
        { image: "alpine", replace: false, network: false, ports: [] },
        { image: "alpine", init: "auto", maxDuration: "Infinity" },
        { image: "alpine", ports: [{ host: 1, guest: 1 }, { host: 1, guest: 1, protocol: "udp" }] },
        { image: "alpine", ports: [{ host: 1, guest: 1 }, { host: 1, guest: 1, bind: "127.0.0.2" }] },
        { image: "alpine", registry: { caCerts: "-----BEGIN CERTIFICATE-----\n" } },
        { image: "alpine", network: "non-local" },
        { image: "alpine", network: { policy: "none", proxy: { socks4: "[::1]:1080", userId: "me" } } },
        { image: "alpine", network: { policy: NetworkPolicy.publicOnly, tls: {}, dns: {} } },
        { image: "alpine", network: { rateLimit: { egress: { packets: { count: 1, per: 1 } } } } },
        { image: "alpine", secrets: [{ env: "A", variable: "B", hosts: ["*"] }], deploymentProfile: "multi-tenant" },
        { image: "alpine", rootDisk: { flat: true }, patches: [Patch.remove("/a")] },
        { image: "./root", patches: [Patch.text("/a", "")] },
        { image: "alpine", network: { interface: { ipv4: "10.0.0.254", ipv6: "fd00::a:0:0:2" } } },
        { image: "alpine", mounts: { "/a": { disk: "/a.raw" }, "/a/b": { disk: "/b.raw" } } }
      ]
    ) {
      assert.isTrue(Exit.isSuccess(tryDecode(options)), JSON.stringify(options))
    }
  })

  it("do not show a password that is wrong", () => {
    const options = { image: "alpine", registry: { auth: { username: "a", password: "open-secret" } } }
    const exit = tryDecode(options)
    assert.isTrue(Exit.isFailure(exit))
    assert.notInclude(JSON.stringify(exit), "open-secret")
    assert.notInclude(String(exit), "open-secret")
  })

  it("do not show a secret, right or wrong", () => {
    const canary = "open-secret"
    for (
      const secret of [
        { env: "A", hosts: ["a.example"], value: canary },
        { env: "A", hosts: ["a.example"], value: Redacted.make(`${canary}\n`) },
        { env: "A", hosts: [], value: Redacted.make(canary) },
        { env: "A", hosts: ["a.example"], value: Redacted.make(canary), variable: "B" },
        { env: "A", hosts: ["a.example"], value: Redacted.make(canary) }
      ]
    ) {
      const exit = tryDecode({ image: "alpine", secrets: [secret] })
      for (const text of [JSON.stringify(exit), String(exit)]) assert.notInclude(text, canary)
    }
  })

  it("say a policy to the engine with what each part of it is", () => {
    const exit = tryDecode(whole)
    const { network } = Exit.isSuccess(exit)
      ? toNativeOptions({ ...exit.value, name: "a", onClose: "destroy" })
      : assert.fail(String(exit))
    assert.deepStrictEqual(
      network?.policy?.rules.map(({ action, destination, direction }) => (
        `${action} ${direction} ${destination.kind} ${destination.value}`
      )),
      [
        "deny egress domain evil.example",
        "deny egress domain-suffix ads.example",
        "allow egress group host",
        "allow egress ip 203.0.113.1",
        "allow any cidr fd00::/8",
        "allow egress domain example.com",
        "deny egress domain-suffix example.com",
        "deny ingress group metadata",
        "allow egress any "
      ]
    )
    assert.deepStrictEqual(network?.policy?.rules[3]?.ports, [{ from: 80, to: 80 }, { from: 1, to: 9 }])
    assert.deepStrictEqual(network?.egressLimit, { bandwidth: { size: 1 << 20, perMs: 1000, burst: 1024 } })
    assert.deepStrictEqual([network?.maxTcpConnections, network?.maxUdpConnections], [100, 0])
    assert.deepStrictEqual(network?.proxy, {
      _tag: "Socks5",
      address: "127.0.0.1:1080",
      credentials: { username: "a", passwordVariable: "PROXY_PASSWORD" }
    })
  })

  it("are told of as one mistake when they are junk", () => {
    for (const value of junk) {
      assertTold(value)
      for (const key of Object.keys(whole)) {
        assertTold({ image: "alpine", [key]: value })
        assertTold({ ...whole, [key]: value })
      }
    }
  })

  it.prop("are told of as one mistake when they are nearly right", [
    Schema.Array(Schema.Struct({ place: Index, how: How, by: Index })).check(Schema.isBetweenLength(1, 3))
  ], ([mutations]) => {
    assertTold(mutations.reduce<unknown>((options, { by, how, place }) => {
      const all = places(options)
      return mutate(options, all[place % all.length] ?? [], how, junk[by % junk.length])
    }, whole))
  }, { arbitrary: { runs: 2500 }, timeout: 60_000 })

  it.prop("are told of as one mistake when they are any data", [
    Schema.Record(Schema.String, Schema.Unknown),
    Schema.Literals(Object.keys(whole) as [keyof SandboxOptions.Options]),
    Schema.Unknown
  ], ([any, key, value]) => {
    assertTold(any)
    assertTold(value)
    assertTold({ ...whole, [key]: value })
  }, { arbitrary: { runs: 500 }, timeout: 60_000 })
})
