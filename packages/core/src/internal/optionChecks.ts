/**
 * What the options of a sandbox must hold beyond their types, each alone and against each other. Where the engine has a
 * rule, it is the engine's (`lib/sandbox/{builder,types,init}.rs` and `microsandbox-types` of 0.7.2); the rest is what it
 * would drop in silence, or leave to a boot that fails.
 */
import * as ByteSize from "effect/ByteSize"
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import { isDiskSize, isRootSize, rootTooSmall, tooSmall } from "./inputs.ts"

export type Issue = Schema.FilterIssue | undefined

export const at = (path: ReadonlyArray<PropertyKey>, issue: string): Schema.FilterIssue => ({ path, issue })

export const firstIssue = <A>(items: Iterable<A>, check: (item: A) => Issue): Issue => {
  for (const item of items) {
    const issue = check(item)
    if (issue !== undefined) return issue
  }
  return undefined
}

const text = (pattern: RegExp, expected: string) => Schema.isPattern(pattern, { expected })

const bytes = (input: string): number => new TextEncoder().encode(input).length

const isMore = (size: ByteSize.Input, than: ByteSize.Input): boolean =>
  ByteSize.fromInputUnsafe(size) > ByteSize.fromInputUnsafe(than)

type Kinds = { readonly [Kind in string]: ReadonlyArray<string> }

/** Data of one of several kinds: the key that is there says which, and each kind has options of its own. */
const checkKind = (kinds: Kinds, data: object): Issue => {
  const given = Object.entries(data).flatMap(([key, value]) => value === undefined ? [] : [key])
  const [kind, other] = given.filter((key) => Object.hasOwn(kinds, key))
  if (kind === undefined) return `must have one of ${Object.keys(kinds).join(", ")}`
  if (other !== undefined) return at([other], `cannot be combined with ${kind}`)
  const foreign = given.find((key) => key !== kind && !kinds[kind]!.includes(key))
  return foreign === undefined ? undefined : at([foreign], `is not an option of ${kind}`)
}

// Images

/** The grammar of the registries (`distribution/reference`): a name, then a tag, a digest or both. */
const referencePattern = (() => {
  const part = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*"
  const label = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
  const host = `(?:${label}(?:\\.${label})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?`
  const digest = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
  return new RegExp(`^(?:${host}/)?${part}(?:/${part})*(?::\\w[\\w.-]{0,127})?(?:@${digest})?$`)
})()

const isPath = (input: string): boolean => /^(?:\.{1,2}$|\.{0,2}\/)/.test(input)

const isReference = (input: string): boolean => input.length <= 512 && referencePattern.test(input)

export const reference = Schema.makeFilter((input: string) => isReference(input) || "must be an image reference")

export const imageText = Schema.makeFilter((input: string) =>
  isPath(input) || isReference(input) || "must be an image reference, or a path that begins with /, ./ or ../"
)

const imageKinds = { oci: [], directory: ["followRootSymlinks"], disk: ["format", "fstype"] }

/** What a file name ends in, as the engine reads it. */
export const extension = (path: string): string => /[^/]\.([^./]*)$/.exec(path)?.[1] ?? ""

interface ImageData {
  readonly oci?: string | undefined
  readonly disk?: string | undefined
  readonly format?: string | undefined
}

export const imageData = Schema.makeFilter((data: ImageData): Issue =>
  checkKind(imageKinds, data) ?? (
    data.disk !== undefined && data.format === undefined && !/^(?:raw|qcow2|vmdk)$/.test(extension(data.disk))
      ? at(["format"], "is needed: the path does not end in .raw, .qcow2 or .vmdk")
      : undefined
  )
)

const isImage = (image: string | ImageData): boolean =>
  typeof image === "string" ? !isPath(image) : image.oci !== undefined

const isDisk = (image: string | ImageData): boolean =>
  typeof image === "string" ? isPath(image) && /^(?:raw|qcow2|vmdk)$/.test(extension(image)) : image.disk !== undefined

// Disks

const rootDiskKinds = {
  managed: ["size"],
  tmpfs: ["size"],
  flat: ["size", "cloneStrategy", "fstype"],
  disk: ["format", "fstype"]
}

interface RootDiskData {
  readonly tmpfs?: true | undefined
  readonly flat?: true | undefined
  readonly disk?: string | undefined
  readonly size?: ByteSize.Input | undefined
  readonly format?: string | undefined
  readonly fstype?: string | undefined
}

export const rootDisk = Schema.makeFilter((data: RootDiskData): Issue => {
  const issue = checkKind(rootDiskKinds, data)
  if (issue !== undefined) return issue
  if (data.disk !== undefined && data.format === undefined && !/^(?:img|raw|qcow2)$/.test(extension(data.disk))) {
    return at(["format"], "is needed: the path does not end in .img, .raw or .qcow2")
  }
  if (data.flat && data.fstype !== undefined && data.fstype !== "ext4") return at(["fstype"], "must be ext4")
  if (!data.tmpfs && data.size !== undefined && !isRootSize(data.size)) return at(["size"], rootTooSmall)
  return undefined
})

// The guest

const reservedLabels = ["sandbox.", "microsandbox.", "service.", "effect-microsandbox."]

export const labels = Schema.makeFilter((labels: Readonly<Record<string, string>>): Issue =>
  firstIssue(Object.keys(labels), (key) => {
    if (key === "") return at([key], "a label's key is not empty")
    const prefix = reservedLabels.find((prefix) => key.startsWith(prefix))
    return prefix === undefined ? undefined : at([key], `the prefix ${prefix} is reserved`)
  })
)

export const environment = Schema.makeFilter((variables: Readonly<Record<string, string>>): Issue =>
  firstIssue(
    Object.keys(variables),
    (name) => name.startsWith("MSB_") ? at([name], "the prefix MSB_ is reserved") : undefined
  )
)

export const hostname = Schema.makeFilter((input: string) => bytes(input) <= 64 || "must be at most 64 bytes")

export const scripts = Schema.makeFilter((scripts: Readonly<Record<string, string>>): Issue =>
  firstIssue(Object.keys(scripts), (name) =>
    /^\.{0,2}$|[/\\\0]/.test(name) || bytes(name) > 255
      ? at([name], "a script's name is a file name of at most 255 bytes")
      : undefined)
)

export const words = Schema.makeFilter((words: ReadonlyArray<string>): Issue =>
  words[0] === "" ? at([0], "the program is not empty") : undefined
)

export const initCommand = text(/^(?:auto|\/[^\\]*)$/, "\"auto\" or an absolute path in the guest")

interface RlimitData {
  readonly soft: number | "unlimited"
  readonly hard: number | "unlimited"
}

export const units = (limit: number | "unlimited"): number => limit === "unlimited" ? Infinity : limit

export const rlimit = Schema.makeFilter(({ hard, soft }: RlimitData): Issue =>
  units(soft) > units(hard) ? at(["soft"], "must not be more than hard") : undefined
)

// The network

const octet = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
const ipv4Pattern = new RegExp(`^${octet}(?:\\.${octet}){3}$`)

export const isIpv4 = (input: string): boolean => ipv4Pattern.test(input)

/** An IPv6 address in the one way that it is written, or undefined. */
const ipv6 = (input: string): string | undefined => {
  const url = `http://[${input}]/`
  return /^[0-9a-fA-F:.]+$/.test(input) && URL.canParse(url) ? new URL(url).hostname.slice(1, -1) : undefined
}

export const isIpv6 = (input: string): boolean => ipv6(input) !== undefined

/** The eight numbers of an address that is written in the one way. */
const groups = (address: string): ReadonlyArray<number> => {
  const [head = [], tail = []] = address.split("::").map((half) => half === "" ? [] : half.split(":"))
  const zeros = Array.from({ length: 8 - head.length - tail.length }, () => "0")
  return [...head, ...zeros, ...tail].map((group) => parseInt(group, 16))
}

export const address = Schema.makeFilter((input: string) =>
  isIpv4(input) || isIpv6(input) || "must be an IPv4 or IPv6 address"
)

const loopback = "127.0.0.1"

interface PortData {
  readonly host: number
  readonly bind?: string | undefined
  readonly protocol?: "tcp" | "udp" | undefined
}

/** Whether one listener keeps the other from its port: `::` takes IPv4 too. */
const collide = (a: string, b: string): boolean =>
  a === b || a === "::" || b === "::" || (isIpv4(a) && isIpv4(b) && (a === "0.0.0.0" || b === "0.0.0.0"))

export const ports = Schema.makeFilter((ports: ReadonlyArray<PortData>): Issue => {
  const taken: Array<readonly [key: string, bind: string]> = []
  return firstIssue(ports.entries(), ([index, { bind = loopback, host, protocol = "tcp" }]) => {
    const key = `${protocol} ${host}`
    const where = ipv6(bind) ?? bind
    if (taken.some(([other, at]) => other === key && collide(at, where))) {
      return at([index, "host"], "another port listens there")
    }
    taken.push([key, where])
    return undefined
  })
})

export const mac = Schema.makeFilter((input: string) =>
  /^[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}$/.test(input) && parseInt(input.slice(0, 2), 16) % 2 === 0 &&
    /[1-9a-fA-F]/.test(input) || "must be a unicast MAC address, such as 02:00:00:00:00:01"
)

/** In a /30 there are two hosts: the gateway, and after it the guest. */
export const guestIpv4 = Schema.makeFilter((input: string) => {
  if (!isIpv4(input)) return "must be an IPv4 address"
  const [first = 0, , , last = 0] = input.split(".").map(Number)
  if (first === 0 || first === 127 || first >= 224) return "must be an address that a guest can have"
  return last % 4 === 2 || "must be the second host of a /30: its last byte leaves 2 when divided by 4"
})

export const guestIpv6 = Schema.makeFilter((input: string) => {
  const canonical = ipv6(input)
  if (canonical === undefined) return "must be an IPv6 address"
  const [first = 0, ...rest] = groups(canonical)
  const [third = 0, second = 0, next = 0, last = 0] = rest.slice(3)
  if (first >= 0xff00 || first === 0) return "must be an address that a guest can have"
  return third + second + next > 0 || last > 1 || "must not be the network or its gateway, ::1"
})

/** An address and the length of its prefix. */
const isPool = (input: string, most: number, isAddress: (address: string) => boolean): boolean => {
  const [address = "", prefix = "", ...rest] = input.split("/")
  return rest.length === 0 && isAddress(address) && /^(?:0|[1-9]\d{0,2})$/.test(prefix) && Number(prefix) <= most
}

export const isCidr = (input: string, most: { readonly ipv4: number; readonly ipv6: number }): boolean =>
  isPool(input, most.ipv4, isIpv4) || isPool(input, most.ipv6, isIpv6)

export const ipv4Pool = Schema.makeFilter((input: string) =>
  isPool(input, 30, isIpv4) || "must be an IPv4 network of /30 or larger, such as 10.9.0.0/16"
)

export const ipv6Pool = Schema.makeFilter((input: string) =>
  isPool(input, 64, isIpv6) ||
  "must be an IPv6 network of /64 or larger, such as fd00:9::/48"
)

interface InterfaceData {
  readonly ipv4?: string | undefined
  readonly ipv4Pool?: string | undefined
  readonly ipv6?: string | undefined
  readonly ipv6Pool?: string | undefined
}

export const networkInterface = Schema.makeFilter((data: InterfaceData): Issue => {
  if (data.ipv4 !== undefined && data.ipv4Pool !== undefined) return at(["ipv4Pool"], "has no effect beside ipv4")
  if (data.ipv6 !== undefined && data.ipv6Pool !== undefined) return at(["ipv6Pool"], "has no effect beside ipv6")
  return undefined
})

export const socketPath = Schema.makeFilter((path: string) =>
  path.startsWith("/") && bytes(path) <= 107 || "must be an absolute path of at most 107 bytes"
)

interface VsockData {
  readonly port: number
  readonly type?: "stream" | "dgram" | undefined
}

export const vsock = Schema.makeFilter((routes: ReadonlyArray<VsockData>): Issue => {
  const taken = new Set<string>()
  return firstIssue(routes.entries(), ([index, { port, type = "stream" }]) => {
    if (type === "dgram" && port === 123) return at([index, "port"], "datagrams to 123 set the guest's clock")
    const key = `${type} ${port}`
    if (taken.has(key)) return at([index, "port"], "another socket has it")
    taken.add(key)
    return undefined
  })
})

export const pem = Schema.makeFilter((certificates: string | Uint8Array) =>
  (typeof certificates === "string" ? certificates : new TextDecoder().decode(certificates))
    .includes("-----BEGIN CERTIFICATE-----") || "must be certificates in PEM"
)

// Mounts

export const volumeName = text(
  /^[A-Za-z0-9][A-Za-z0-9._-]*$/,
  "letters, digits, dots, hyphens and underscores, the first a letter or digit"
)

const shared = ["statVirtualization", "hostPermissions", "owner"]

const flags = ["readonly", "noexec", "nosuid", "nodev"]

const mountKinds = {
  bind: [...flags, ...shared, "followRootSymlinks", "quota"],
  named: [...flags, ...shared, "followRootSymlinks", "mode", "kind", "size", "quota", "labels"],
  owned: [...flags, ...shared, "kind", "size", "quota"],
  tmpfs: [...flags, "size"],
  disk: [...flags, "format", "fstype"]
}

interface MountData {
  readonly bind?: string | undefined
  readonly named?: string | undefined
  readonly owned?: true | undefined
  readonly disk?: string | undefined
  readonly mode?: "existing" | "create" | "ensure-exists" | undefined
  readonly kind?: "directory" | "disk" | undefined
  readonly size?: ByteSize.Input | undefined
  readonly quota?: ByteSize.Input | undefined
  readonly labels?: Readonly<Record<string, string>> | undefined
  readonly statVirtualization?: "strict" | "relaxed" | "off" | undefined
  readonly hostPermissions?: "private" | "mirror" | undefined
  readonly followRootSymlinks?: boolean | undefined
  readonly owner?: unknown
}

/** What a volume is made as, when it is made. */
const checkVolume = (mount: MountData): Issue => {
  if (mount.named !== undefined && (mount.mode ?? "existing") === "existing") {
    const key = (["kind", "size", "quota", "labels"] as const).find((key) => mount[key] !== undefined)
    return key === undefined ? undefined : at([key], "is for a volume that is made: the mode is existing")
  }
  const { kind = mount.size === undefined ? "directory" : "disk" } = mount
  if (kind === "directory") return mount.size === undefined ? undefined : at(["size"], "is for a disk: use quota")
  if (mount.size === undefined) return at(["size"], "is needed for a disk")
  if (!isDiskSize(mount.size)) return at(["size"], tooSmall)
  const key = (["quota", "statVirtualization", "hostPermissions", "owner", "followRootSymlinks"] as const)
    .find((key) => mount[key] !== undefined)
  return key === undefined ? undefined : at([key], "is for a directory")
}

export const volume = Schema.makeFilter((volume: MountData): Issue => checkVolume(volume))

export const mount = Schema.makeFilter((mount: MountData): Issue => {
  const issue = checkKind(mountKinds, mount)
  if (issue !== undefined) return issue
  if (mount.named !== undefined || mount.owned) {
    const issue = checkVolume(mount)
    if (issue !== undefined) return issue
  }
  if (mount.statVirtualization !== "off") return undefined
  if (mount.hostPermissions === "mirror") {
    return at(["hostPermissions"], "mirror has no effect: statVirtualization is off")
  }
  if (mount.owner !== undefined) return at(["owner"], "cannot be: statVirtualization is off")
  return undefined
})

/** The path that the engine makes of it: without `.`, and without a slash too many. */
const normalize = (path: string): string =>
  `/${path.split("/").filter((part) => part !== "" && part !== ".").join("/")}`

const checkGuestPath = (path: string): string | undefined => {
  if (!path.startsWith("/")) return "a path in the guest is absolute"
  if (/[:;,\0]/.test(path)) return "a path in the guest is without : ; , and NUL"
  if (path.split("/").includes("..")) return "a path in the guest is without .."
  return normalize(path) === "/" ? "the root cannot be mounted over" : undefined
}

export const mounts = Schema.makeFilter((mounts: Readonly<Record<string, MountData>>): Issue => {
  const taken = new Set<string>()
  const disks = new Set<string>()
  return firstIssue(Object.entries(mounts), ([guest, { disk }]) => {
    const issue = checkGuestPath(guest)
    if (issue !== undefined) return at([guest], issue)
    if (taken.has(normalize(guest))) return at([guest], "another mount has this path")
    taken.add(normalize(guest))
    if (disk === undefined) return undefined
    if (disks.has(disk)) return at([guest, "disk"], "another mount has this image")
    disks.add(disk)
    return undefined
  })
})

// All of them

/** What the border can say, and no less than a millisecond. */
export const interval = Schema.makeFilter((interval: Duration.Input) => {
  const millis = Duration.toMillis(Duration.fromInputUnsafe(interval))
  return millis >= 1 && millis < 2 ** 32 || "must be a millisecond or more, and less than 49 days; false for never"
})

interface NetworkData {
  readonly interface?: InterfaceData | undefined
  readonly dns?: {
    readonly nameservers?: ReadonlyArray<string> | undefined
    readonly rebindProtection?: boolean | undefined
  } | undefined
  readonly proxy?: unknown
  readonly trustHostCas?: boolean | undefined
}

interface OptionsData {
  readonly name?: string | undefined
  readonly image: string | ImageData
  readonly rootDisk?: ByteSize.Input | RootDiskData | undefined
  readonly cpus?: number | undefined
  readonly maxCpus?: number | undefined
  readonly memory?: ByteSize.Input | undefined
  readonly maxMemory?: ByteSize.Input | undefined
  readonly ports?: ReadonlyArray<PortData> | undefined
  readonly vsock?: ReadonlyArray<VsockData> | undefined
  readonly registry?: unknown
  readonly deploymentProfile?: "single-tenant" | "multi-tenant" | undefined
  readonly ephemeral?: boolean | undefined
  readonly replace?: unknown
  readonly env?: Readonly<Record<string, string>> | undefined
  readonly network?: false | string | NetworkData | undefined
  readonly secrets?: ReadonlyArray<{ readonly env: string }> | undefined
  readonly patches?: ReadonlyArray<unknown> | undefined
  readonly onClose?: "destroy" | "stop" | "detach" | undefined
}

const checkResources = ({ cpus, maxCpus, maxMemory, memory, rootDisk }: OptionsData): Issue => {
  if (cpus !== undefined && maxCpus !== undefined && maxCpus < cpus) {
    return at(["maxCpus"], "must not be less than cpus")
  }
  if (memory === undefined) return undefined
  if (maxMemory !== undefined && isMore(memory, maxMemory)) return at(["maxMemory"], "must not be less than memory")
  return typeof rootDisk === "object" && "tmpfs" in rootDisk && rootDisk.size !== undefined &&
      isMore(rootDisk.size, memory)
    ? at(["rootDisk", "size"], "must not be more than memory, where it is")
    : undefined
}

const checkImage = ({ image, registry, rootDisk }: OptionsData): Issue => {
  if (isImage(image)) return undefined
  if (rootDisk !== undefined) return at(["rootDisk"], "is for an image: a directory or a disk is written as it is")
  return registry === undefined ? undefined : at(["registry"], "is for an image: this one is on this machine")
}

/** What the engine takes away from a sandbox on a host that is shared (`enforce_deployment_profile`). */
const checkTenants = ({ network, ports = [], vsock = [] }: OptionsData): Issue => {
  const why = "cannot be in a multi-tenant deployment"
  if (ports.length > 0) return at(["ports"], why)
  if (vsock.length > 0) return at(["vsock"], why)
  if (typeof network !== "object") return undefined
  if (network.interface !== undefined) return at(["network", "interface"], why)
  if (network.proxy !== undefined) return at(["network", "proxy"], why)
  if (network.trustHostCas === true) return at(["network", "trustHostCas"], why)
  if ((network.dns?.nameservers ?? []).length > 0) return at(["network", "dns", "nameservers"], why)
  return network.dns?.rebindProtection === false ? at(["network", "dns", "rebindProtection"], why) : undefined
}

const checkNetwork = (options: OptionsData): Issue => {
  const { deploymentProfile, env = {}, network, ports = [], secrets = [] } = options
  if (network === false && ports.length > 0) return at(["ports"], "need a network, and there is none")
  if (network === false && secrets.length > 0) return at(["secrets"], "need a network, and there is none")
  const taken = secrets.findIndex((secret) => Object.hasOwn(env, secret.env))
  if (taken !== -1) return at(["secrets", taken, "env"], "is a variable of env")
  return deploymentProfile === "multi-tenant" ? checkTenants(options) : undefined
}

/** The engine writes patches to a directory, or to the disk of the sandbox's own over an image. */
const checkPatches = ({ image, patches = [], rootDisk }: OptionsData): Issue => {
  if (patches.length === 0) return undefined
  if (isDisk(image)) return at(["patches"], "are not for a disk image, which is used as it is")
  return typeof rootDisk === "object" && ("tmpfs" in rootDisk || "disk" in rootDisk)
    ? at(["patches"], "need a root disk that is managed or flat")
    : undefined
}

const checkLife = ({ ephemeral, name, onClose, replace }: OptionsData): Issue => {
  if (replace !== undefined && replace !== false && name === undefined) {
    return at(["replace"], "needs a name: a new one is free")
  }
  return ephemeral === true && onClose === "stop"
    ? at(["onClose"], "an ephemeral sandbox is removed when it stops")
    : undefined
}

export const options = Schema.makeFilter((options: OptionsData): Issue =>
  checkResources(options) ?? checkImage(options) ?? checkPatches(options) ?? checkNetwork(options) ?? checkLife(options)
)
