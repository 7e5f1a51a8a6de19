/** The options of a sandbox on their way to the addon: what it must be told, in its units. */
import type { Native } from "@effect-microsandbox/native"
import * as Duration from "effect/Duration"
import * as Redacted from "effect/Redacted"
import type * as Destination from "../Destination.ts"
import * as NetworkPolicy from "../NetworkPolicy.ts"
import type * as Patch from "../Patch.ts"
import type { OnClose } from "../Sandbox.ts"
import type * as SandboxOptions from "../SandboxOptions.ts"
import { defined, someMebibytes, toBytes, toMebibytes, toMillis, toSeconds } from "./inputs.ts"
import { extension, units } from "./optionChecks.ts"

/** Options that have been decoded. */
type Decoded = typeof SandboxOptions.Options.Type

/** An option that is there. */
type Given<K extends keyof Decoded> = NonNullable<Decoded[K]>

const map = <A, B>(value: A | undefined, f: (value: A) => B): B | undefined =>
  value === undefined ? undefined : f(value)

/** What a span says of an image: no more than a user wrote. */
export const imageText = (image: Decoded["image"]): string =>
  typeof image === "string" ? image : image.oci ?? image.directory ?? image.disk ?? ""

const toImage = (image: Decoded["image"]): Native.SandboxOptions["image"] => {
  if (typeof image === "string") return { _tag: "Text", text: image }
  const { directory, disk, followRootSymlinks = false, format, fstype, oci = "" } = image
  if (directory !== undefined) return { _tag: "Directory", path: directory, followRootSymlinks }
  return disk === undefined
    ? { _tag: "Oci", reference: oci }
    : {
      _tag: "Disk",
      path: disk,
      format: format ?? extension(disk) as SandboxOptions.DiskFormat,
      ...defined({ fstype })
    }
}

const toRootDisk = (rootDisk: Given<"rootDisk">): NonNullable<Native.SandboxOptions["rootDisk"]> => {
  if (typeof rootDisk !== "object") return { _tag: "Managed", sizeMib: toMebibytes(rootDisk) }
  const { cloneStrategy, disk, flat, format, fstype, size, tmpfs } = rootDisk
  const sizeMib = someMebibytes(size)
  if (tmpfs) return { _tag: "Tmpfs", ...defined({ sizeMib }) }
  if (flat) return { _tag: "Flat", ...defined({ sizeMib, cloneStrategy, fstype }) }
  return disk === undefined
    ? { _tag: "Managed", ...defined({ sizeMib }) }
    : {
      _tag: "Disk",
      path: disk,
      format: format ?? (extension(disk) === "qcow2" ? "qcow2" : "raw"),
      ...defined({ fstype })
    }
}

const toInit = (init: Given<"init">): NonNullable<Native.SandboxOptions["init"]> =>
  typeof init === "string"
    ? { command: init, args: [], env: {} }
    : { command: init.command, args: [...init.args ?? []], env: { ...init.env } }

const toSource = (mount: Given<"mounts">[string]): Native.MountOptions["source"] => {
  const { bind, disk, format, fstype, labels = {}, mode = "existing", named, owned, quota, size } = mount
  const sizeMib = someMebibytes(size)
  const quotaMib = someMebibytes(quota)
  if (bind !== undefined) return { _tag: "Bind", path: bind, ...defined({ quotaMib }) }
  if (named !== undefined) return { _tag: "Named", name: named, mode, labels, ...defined({ sizeMib, quotaMib }) }
  if (owned) return { _tag: "Owned", ...defined({ sizeMib, quotaMib }) }
  return disk === undefined
    ? { _tag: "Tmpfs", ...defined({ sizeMib }) }
    : { _tag: "Disk", path: disk, ...defined({ format, fstype }) }
}

const toMounts = (mounts: Given<"mounts">): Array<Native.MountOptions> =>
  Object.entries(mounts).map(([guest, mount]) => {
    const { followRootSymlinks, hostPermissions, nodev, noexec, nosuid, owner, readonly, statVirtualization } = mount
    return {
      guest,
      source: toSource(mount),
      ...defined({ readonly, noexec, nosuid, nodev, statVirtualization, hostPermissions, followRootSymlinks, owner })
    }
  })

export const toRlimits = (rlimits: Given<"rlimits">): NonNullable<Native.SandboxOptions["rlimits"]> =>
  Object.entries(rlimits).flatMap(([resource, limit]) => {
    if (limit === undefined) return []
    const { hard, soft } = typeof limit === "object" ? limit : { hard: limit, soft: limit }
    return [{ resource, soft: units(soft), hard: units(hard) }]
  })

/** Here, and nowhere before, a password is a text. */
export const toRegistry = ({ auth, caCerts, insecure = false }: Given<"registry">) => ({
  insecure,
  ...defined({
    auth: auth && { username: auth.username, password: Redacted.value(auth.password) },
    caCerts: caCerts === undefined ? undefined : Buffer.from(caCerts as Uint8Array)
  })
})

/** Options of a network; none of them is a policy that has a name. */
type Network = Exclude<Given<"network">, false | string>

/** Options that are there. */
type Part<K extends keyof Network> = NonNullable<Network[K]>

const toInterface = ({ mac, ...rest }: Part<"interface">): Native.InterfaceOptions =>
  defined({ ...rest, mac: mac?.split(":").map((byte) => parseInt(byte, 16)) })

const toDestination = (destination: Destination.Destination): Native.DestinationOptions => {
  switch (destination._tag) {
    case "Any":
      return { kind: "any", value: "" }
    case "Ip":
      return { kind: "ip", value: destination.address }
    case "Cidr":
      return { kind: "cidr", value: destination.network }
    case "Domain":
      return { kind: "domain", value: destination.name }
    case "DomainSuffix":
      return { kind: "domain-suffix", value: destination.name }
    case "Group":
      return { kind: "group", value: destination.group }
  }
}

const toPolicy = (policy: NetworkPolicy.Preset | NetworkPolicy.NetworkPolicy): Native.PolicyOptions => {
  const { defaultEgress, defaultIngress, rules } = typeof policy === "string" ? NetworkPolicy.presets[policy] : policy
  return {
    defaultEgress,
    defaultIngress,
    rules: rules.map(({ action, destination, direction, ports, protocols }) => ({
      action,
      direction,
      destination: toDestination(destination),
      protocols: [...protocols],
      ports: ports.map((port) => typeof port === "number" ? { from: port, to: port } : { from: port.from, to: port.to })
    }))
  }
}

const toDns = ({ nameservers, queryTimeout, rebindProtection }: Part<"dns">): Native.DnsOptions =>
  defined({
    nameservers: map(nameservers, (servers) => [...servers]),
    rebindProtection,
    queryTimeoutMs: map(queryTimeout, toMillis)
  })

const toTls = (tls: Part<"tls">): Native.TlsOptions =>
  defined({
    ...tls,
    ports: map(tls.ports, (ports) => [...ports]),
    bypass: map(tls.bypass, (patterns) => [...patterns]),
    upstreamCaCerts: map(tls.upstreamCaCerts, (paths) => [...paths]),
    upstreamCaCertsFor: map(tls.upstreamCaCertsFor, (scoped) =>
      Object.fromEntries(Object.entries(scoped).map(([pattern, paths]) => [pattern, [...paths]])))
  })

const toProxy = ({ credentials, socks4, socks5 = "", userId }: Part<"proxy">): Native.ProxyOptions =>
  socks4 === undefined
    ? { _tag: "Socks5", address: socks5, ...defined({ credentials }) }
    : { _tag: "Socks4", address: socks4, ...defined({ userId }) }

const toRateLimit = (
  { bandwidth, packets }: NonNullable<Part<"rateLimit">["egress"]>
): Native.RateLimitOptions =>
  defined({
    bandwidth: map(bandwidth, ({ burst, per, size }) => (
      { size: toBytes(size), perMs: toMillis(per), ...defined({ burst: map(burst, toBytes) }) }
    )),
    packets: map(packets, ({ burst, count, per }) => ({ size: count, perMs: toMillis(per), ...defined({ burst }) }))
  })

/** Zero is no limit. */
const toMaxConnections = (most: number | "unlimited"): number => most === "unlimited" ? 0 : most

const toNetwork = (network: NetworkPolicy.Preset | Network): Native.NetworkOptions => {
  if (typeof network === "string") return { policy: toPolicy(network) }
  const { dns, maxTcpConnections, maxUdpConnections, policy, proxy, rateLimit, strict, tls, trustHostCas } = network
  return defined({
    policy: map(policy, toPolicy),
    dns: map(dns, toDns),
    tls: map(tls, toTls),
    proxy: map(proxy, toProxy),
    egressLimit: map(rateLimit?.egress, toRateLimit),
    ingressLimit: map(rateLimit?.ingress, toRateLimit),
    maxTcpConnections: map(maxTcpConnections, toMaxConnections),
    maxUdpConnections: map(maxUdpConnections, toMaxConnections),
    strict,
    trustHostCas,
    interface: map(network.interface, toInterface)
  })
}

/** What a restore takes of it. */
export const toRestoredNetwork = (network: typeof SandboxOptions.RestoredNetwork.Type | undefined) => {
  if (network === undefined || network === false) return {}
  const { maxTcpConnections, maxUdpConnections, policy } = toNetwork(network)
  return defined({ maxTcpConnections, maxUdpConnections, policy })
}

/** Here, and nowhere before, a secret is a text. */
const toSecret = (secret: Given<"secrets">[number]): Native.SecretOptions => {
  const { env, hosts, onViolation, passthroughHosts = [], placeholder, substituteIn = {}, value, variable } = secret
  return {
    env,
    hosts: [...hosts],
    passthroughHosts: [...passthroughHosts],
    inHeaders: substituteIn.headers ?? true,
    inQuery: substituteIn.query ?? false,
    inBody: substituteIn.body ?? false,
    requireTlsIdentity: secret.requireTlsIdentity ?? true,
    ...defined({ value: map(value, Redacted.value), variable, placeholder, onViolation })
  }
}

const toPatch = (patch: Patch.Patch): Native.PatchOptions => {
  switch (patch._tag) {
    case "Text":
    case "CopyFile":
    case "CopyDirectory":
    case "Symlink":
      return { replace: false, ...defined(patch) }
    case "File":
      return { replace: false, ...defined(patch), content: Buffer.from(patch.content) }
    case "MakeDirectory":
    case "Remove":
    case "Append":
      return defined(patch)
  }
}

const toReplace = (replace: Given<"replace">) => {
  if (typeof replace === "boolean") return replace ? {} : undefined
  return replace.timeout === undefined ? {} : { timeoutMs: toMillis(replace.timeout) }
}

/** Zero for never. */
const toInterval = (interval: Given<"metricsInterval">): number =>
  interval === false ? 0 : Math.ceil(Duration.toMillis(Duration.fromInputUnsafe(interval)))

export const toNativeOptions = (
  options: Omit<Decoded, "name" | "onClose"> & { readonly name: string; readonly onClose: OnClose }
): Native.SandboxOptions => {
  const { idleTimeout, maxDuration, maxMemory, memory, metricsInterval, network, ...rest } = options
  return defined({
    ...rest,
    image: toImage(options.image),
    rootDisk: map(options.rootDisk, toRootDisk),
    memoryMib: someMebibytes(memory),
    maxMemoryMib: someMebibytes(maxMemory),
    entrypoint: map(options.entrypoint, (words) => [...words]),
    cmd: map(options.cmd, (words) => [...words]),
    init: map(options.init, toInit),
    ports: options.ports?.map(({ bind = "127.0.0.1", guest, host, protocol }) => (
      { bind, guest, host, udp: protocol === "udp" }
    )),
    mounts: map(options.mounts, toMounts),
    vsock: options.vsock?.map(({ path, port, type }) => ({ path, port, datagram: type === "dgram" })),
    rlimits: map(options.rlimits, toRlimits),
    registry: map(options.registry, toRegistry),
    metricsIntervalMs: map(metricsInterval, toInterval),
    maxDurationSecs: toSeconds(maxDuration),
    idleTimeoutSecs: toSeconds(idleTimeout),
    replace: map(options.replace, toReplace),
    withoutNetwork: network === false,
    network: network === false ? undefined : map(network, toNetwork),
    secrets: options.secrets?.map(toSecret),
    patches: options.patches?.map(toPatch)
  })
}
