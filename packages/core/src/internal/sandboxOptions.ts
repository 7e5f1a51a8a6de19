/** The options of a sandbox on their way to the addon: what it must be told, in its units. */
import type { Native } from "@effect-microsandbox/native"
import * as Duration from "effect/Duration"
import * as Redacted from "effect/Redacted"
import type { OnClose } from "../Sandbox.ts"
import type * as SandboxOptions from "../SandboxOptions.ts"
import { defined, someMebibytes, toMebibytes, toMillis, toSeconds } from "./inputs.ts"
import { extension, units } from "./optionChecks.ts"

/** Options that have been decoded. */
type Decoded = typeof SandboxOptions.Options.Type

/** An option that is there. */
type Given<K extends keyof Decoded> = NonNullable<Decoded[K]>

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

const toInterface = ({ mac, ...rest }: NonNullable<Exclude<Given<"network">, false>["interface"]>) =>
  defined({ ...rest, mac: mac?.split(":").map((byte) => parseInt(byte, 16)) })

const toReplace = (replace: Given<"replace">) => {
  if (typeof replace === "boolean") return replace ? {} : undefined
  return replace.timeout === undefined ? {} : { timeoutMs: toMillis(replace.timeout) }
}

/** Zero for never. */
const toInterval = (interval: Given<"metricsInterval">): number =>
  interval === false ? 0 : Math.ceil(Duration.toMillis(Duration.fromInputUnsafe(interval)))

const map = <A, B>(value: A | undefined, f: (value: A) => B): B | undefined =>
  value === undefined ? undefined : f(value)

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
    networkInterface: network === false ? undefined : map(network?.interface, toInterface)
  })
}
