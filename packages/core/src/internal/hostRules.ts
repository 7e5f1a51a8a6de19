/** What facts about a machine mean for its sandboxes. Nothing here looks at the machine. */
import { Native } from "@effect-microsandbox/native"
import * as ByteSize from "effect/ByteSize"
import type { Finding } from "./finding.ts"
import { hints } from "./hints.ts"

/** The newest symbols that `msb` 0.7.2 takes from the C library. A test holds it against the file. */
export const requiredGlibc = "2.28"

export interface Facts {
  /** By Node's names. */
  readonly platform: string
  readonly arch: string
  readonly user: string
  /** Of `/proc/cpuinfo`; empty where there is none. */
  readonly cpuinfo: string
  readonly container: boolean
  /** What came of opening `/dev/kvm`, which is none but on Linux. */
  readonly kvm: { readonly errno?: string; readonly group?: string; readonly mode?: number; readonly member?: boolean }
  readonly glibc: string | undefined
  /** Why the addon could not be loaded. What it would have said is absent then. */
  readonly addon: string | undefined
  readonly runtime: Native.ResolvedPair | Native.Failure | undefined
  /** What the loader or `msb --version` said when it did not start. */
  readonly start: { readonly ok: boolean; readonly message: string } | undefined
  readonly home: Native.HomeReport | undefined
  /** Of the file system of the home; inodes where it counts them. */
  readonly disk: { readonly available: bigint; readonly inodes: bigint | undefined } | undefined
}

export const findings = (facts: Facts): ReadonlyArray<Finding> => [
  addon(facts),
  cpu(facts),
  device(facts),
  permission(facts),
  runtime(facts),
  version(facts),
  start(facts),
  glibc(facts),
  ...home(facts),
  disk(facts)
]

const unloaded = { status: "skipped", message: "only the addon could say" } as const

const addon = ({ addon }: Facts): Finding =>
  addon === undefined
    ? { check: "addon", status: "ok", message: "the addon is loaded" }
    : { check: "addon", status: "failed", message: addon, fix: hints.AddonMissing ?? "" }

const isLinux = ({ platform }: Facts): boolean => platform === "linux"

const flagsOf = ({ cpuinfo }: Facts): ReadonlySet<string> =>
  new Set(/^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.trim().split(/\s+/))

const flagOf = (facts: Facts): "vmx" | "svm" | undefined => {
  const flags = flagsOf(facts)
  return flags.has("vmx") ? "vmx" : flags.has("svm") ? "svm" : undefined
}

/** On x86 an open `/dev/kvm` proves nothing: a paravirtual KVM opens it and boots no stock guest. The flag tells. */
const cpu = (facts: Facts): Finding => {
  const check = "cpu-virtualization"
  const machine = `${facts.platform}-${facts.arch}`
  if (machine === "darwin-arm64") return { check, status: "ok", message: "the CPU is Apple silicon" }
  if (machine === "linux-arm64") return { check, status: "skipped", message: "on arm64 /dev/kvm tells" }
  if (machine !== "linux-x64") {
    return {
      check,
      status: "failed",
      message: `no microVM runs on ${machine}`,
      fix: "take a machine with Linux (x64, or arm64 with KVM) or macOS (arm64)"
    }
  }
  const flag = flagOf(facts)
  if (flag !== undefined) return { check, status: "ok", message: `the CPU has ${flag}`, flag }
  const flags = flagsOf(facts)
  if (flags.size === 0) return { check, status: "skipped", message: "/proc/cpuinfo tells no flags" }
  return flags.has("hypervisor")
    ? {
      check,
      status: "failed",
      message: "the CPU of this virtual machine has no vmx or svm flag",
      fix: "turn on nested virtualization for it at its host, or take a machine that has it"
    }
    : {
      check,
      status: "failed",
      message: "the CPU has no vmx or svm flag",
      fix: "turn on VT-x or AMD-V in the machine's firmware (BIOS or UEFI)"
    }
}

const kvm = "/dev/kvm"
const isMissing = ({ kvm }: Facts): boolean => kvm.errno === "ENOENT"

const loadModule = (facts: Facts): string | undefined => {
  if (facts.container) return "give the container the device: --device /dev/kvm"
  const flag = flagOf(facts)
  return flag === undefined ? undefined : `sudo modprobe ${flag === "vmx" ? "kvm_intel" : "kvm_amd"}`
}

const fixed = (fix: string | undefined): { readonly fix?: string } => fix === undefined ? {} : { fix }

const device = (facts: Facts): Finding => {
  const check = "kvm-device"
  if (!isLinux(facts)) return { check, status: "skipped", message: "only Linux has it" }
  if (isMissing(facts)) {
    return { check, status: "failed", message: `there is no ${kvm}`, path: kvm, ...fixed(loadModule(facts)) }
  }
  return { check, status: "ok", message: `there is ${kvm}`, path: kvm }
}

const permission = (facts: Facts): Finding => {
  const check = "kvm-permission"
  const { errno, group } = facts.kvm
  if (!isLinux(facts) || isMissing(facts)) return { check, status: "skipped", message: `there is no ${kvm}` }
  const about = { path: kvm, ...(group === undefined ? {} : { group }) }
  if (errno === undefined) return { check, status: "ok", message: `${kvm} can be read and written`, ...about }
  const message = `${kvm} cannot be opened by ${facts.user}: ${errno}`
  // EPERM is the word of a container's list of devices, and not of the file's mode.
  const fix = errno === "EACCES" ? grant(facts) : errno === "EPERM" || facts.container
    ? "give the container the device: --device /dev/kvm"
    : loadModule(facts)
  return { check, status: "failed", message, ...about, ...fixed(fix) }
}

/** A group is joined only where it is the device's own: any other may give more than this. */
const grant = ({ kvm: { group, member, mode = 0 }, user }: Facts): string => {
  if (group !== "kvm" || (mode & 0o060) !== 0o060) return `sudo setfacl -m u:${user}:rw ${kvm}`
  return member === true
    ? "log in again: this session is older than the membership of kvm"
    : `sudo usermod -aG kvm ${user}, and log in again`
}

const isFailure = (runtime: Native.ResolvedPair | Native.Failure): runtime is Native.Failure => "_tag" in runtime

const runtime = ({ runtime }: Facts): Finding => {
  const check = "runtime"
  if (runtime === undefined) return { check, ...unloaded }
  if (isFailure(runtime)) {
    return { check, status: "failed", message: runtime.message, ...fixed(hints[runtime._tag]) }
  }
  const { libkrunfw, msb, msbOrigin: origin } = runtime
  return { check, status: "ok", message: `${msb} and ${libkrunfw}, from the ${origin}`, msb, libkrunfw, origin }
}

const noRuntime = { status: "skipped", message: "there is no runtime" } as const

const version = ({ runtime }: Facts): Finding => {
  const check = "runtime-version"
  const expected = Native.runtimeVersion
  if (runtime === undefined || isFailure(runtime)) return { check, ...noRuntime, expected }
  const { msb, version: actual } = runtime
  if (actual === expected) return { check, status: "ok", message: `${msb} is ${actual}`, expected, actual }
  return {
    check,
    status: "failed",
    message: `${msb} is ${actual ?? "of an unknown version"}; this SDK launches exactly ${expected}`,
    expected,
    ...(actual === undefined ? {} : { actual }),
    fix: hints.RuntimeVersionMismatch ?? ""
  }
}

const start = ({ runtime, start }: Facts): Finding => {
  const check = "runtime-start"
  if (start === undefined || runtime === undefined || isFailure(runtime)) return { check, ...noRuntime }
  const { msb } = runtime
  if (start.ok) return { check, status: "ok", message: `${msb} starts`, msb }
  const library = /loading shared libraries: (lib[\w.+-]+?)\.so/.exec(start.message)?.[1]
  return {
    check,
    status: "failed",
    message: `${msb} does not start: ${start.message}`,
    msb,
    fix: library === undefined
      ? "install the runtime pair of this platform again"
      : library === "libcap-ng"
      ? "install libcap-ng: sudo apt-get install libcap-ng0 (Fedora: sudo dnf install libcap-ng)"
      : `install the package of this distribution that has ${library}`
  }
}

const glibc = (facts: Facts): Finding => {
  const check = "glibc"
  const required = requiredGlibc
  const actual = facts.glibc
  if (!isLinux(facts)) return { check, status: "skipped", message: "only Linux has it", required }
  const fix = `take a distribution with glibc ${required} or newer, such as Debian 10`
  if (actual === undefined) {
    return { check, status: "failed", message: "the C library is not glibc", required, fix }
  }
  return isOlder(actual, required)
    ? { check, status: "failed", message: `glibc is ${actual}, older than ${required}`, required, actual, fix }
    : { check, status: "ok", message: `glibc is ${actual}`, required, actual }
}

const isOlder = (one: string, other: string): boolean => {
  const [[major, minor], [otherMajor, otherMinor]] = [numbers(one), numbers(other)]
  return major < otherMajor || major === otherMajor && minor < otherMinor
}

const numbers = (version: string): readonly [number, number] => {
  const [major = 0, minor = 0] = version.split(".").map(Number)
  return [major, minor]
}

const home = ({ home }: Facts): ReadonlyArray<Finding> => {
  if (home === undefined) {
    return [{ check: "path-length", ...unloaded }, { check: "home", ...unloaded }, { check: "xattrs", ...unloaded }]
  }
  const path = home.home
  const tooLong = home.failures.find((failure) => failure._tag === "HomePathTooLong")
  const unwritable = home.failures.find((failure) => failure._tag === "HomeNotWritable")
  const without = home.failures.find((failure) => failure._tag === "HomeWithoutXattrs")
  return [
    tooLong === undefined
      ? { check: "path-length", status: "ok", message: `sockets below ${path} have paths that fit`, path }
      : {
        check: "path-length",
        status: "failed",
        message: tooLong.message,
        path,
        limit: tooLong.limit,
        ...fixed(hints.HomePathTooLong)
      },
    unwritable === undefined
      ? { check: "home", status: "ok", message: `${path} can be written`, path }
      : { check: "home", status: "failed", message: unwritable.message, path, ...fixed(hints.HomeNotWritable) },
    unwritable !== undefined
      ? { check: "xattrs", status: "skipped", message: `${path} cannot be written`, path }
      : without === undefined
      ? { check: "xattrs", status: "ok", message: `the file system of ${path} has user extended attributes`, path }
      : { check: "xattrs", status: "failed", message: without.message, path, ...fixed(hints.HomeWithoutXattrs) }
  ]
}

/** The smallest disk that the engine makes has a journal of 64 MiB, and an image is unpacked beside it. */
const leastSpace = 256n << 20n
const goodSpace = 2n << 30n

const disk = ({ disk, home }: Facts): Finding => {
  const check = "disk-space"
  if (disk === undefined || home === undefined) return { check, ...unloaded }
  const path = home.home
  const available = ByteSize.fromInputUnsafe(disk.available)
  const about = { path, available }
  const fix = `free some space on the file system of ${path}, or choose a home on another (MSB_HOME)`
  const said = `${ByteSize.format(available)} are free for ${path}`
  if (disk.inodes === 0n) return { check, status: "failed", message: `no inode is free for ${path}`, ...about, fix }
  if (disk.available < leastSpace) return { check, status: "failed", message: said, ...about, fix }
  return disk.available < goodSpace
    ? { check, status: "warning", message: said, ...about, fix }
    : { check, status: "ok", message: said, ...about }
}
