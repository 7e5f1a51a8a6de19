/** What facts about a machine mean: a table of machines, most of them broken in one way. */
import { MicrosandboxError as Errors, Runtime } from "@effect-microsandbox/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { type Facts, findings } from "../../packages/core/src/internal/hostRules.ts"

const pair = {
  msb: "/p/bin/msb",
  msbOrigin: "package",
  version: "0.7.2",
  libkrunfw: "/p/lib/libkrunfw.so.5.6.1",
  libkrunfwOrigin: "package"
} as const

const home = { home: "/home/ada/.microsandbox", existing: "/home/ada", failures: [] }

const good: Facts = {
  platform: "linux",
  arch: "x64",
  user: "ada",
  cpuinfo: "processor\t: 0\nflags\t\t: fpu vmx sse2\nbugs\t\t: svm\n",
  container: false,
  kvm: { group: "kvm", mode: 0o20660, member: true },
  glibc: "2.36",
  addon: undefined,
  runtime: pair,
  start: { ok: true, message: "msb 0.7.2" },
  home,
  disk: { available: 20n << 30n, inodes: 1_000_000n }
}

const flags = (list: string) => `flags\t\t: ${list}\n`
const nothing = flags("fpu sse2")
const failing = (failure: Runtime.Finding | object) => ({ ...home, failures: [failure as never] })
const noLibrary = "msb: error while loading shared libraries: libcap-ng.so.0: cannot open shared object file"

/** A machine, and its findings that are not "ok": how they are, and a part of what mends them. */
const machines: ReadonlyArray<readonly [string, Partial<Facts>, Record<string, readonly [string, string?]>]> = [
  ["a good one", {}, {}],
  ["one of AMD", { cpuinfo: flags("svm") }, {}],
  ["one whose firmware has it off", { cpuinfo: nothing }, { "cpu-virtualization": ["failed", "firmware"] }],
  ["a virtual one whose /dev/kvm opens", { cpuinfo: flags("fpu hypervisor") }, {
    "cpu-virtualization": ["failed", "nested virtualization"]
  }],
  ["one with a flag that only looks like one", { cpuinfo: flags("vmx_flags xsvm svm_lock") }, {
    "cpu-virtualization": ["failed", "firmware"]
  }],
  ["one without /proc", { cpuinfo: "" }, { "cpu-virtualization": ["skipped"] }],
  ["arm64 with KVM", { arch: "arm64", cpuinfo: "Features\t: fp asimd\n" }, { "cpu-virtualization": ["skipped"] }],
  ["a Mac", { platform: "darwin", arch: "arm64", cpuinfo: "", kvm: { errno: "ENOENT" }, glibc: undefined }, {
    "kvm-device": ["skipped"],
    "kvm-permission": ["skipped"],
    glibc: ["skipped"]
  }],
  ["a Mac of Intel", { platform: "darwin", arch: "x64", cpuinfo: "", kvm: { errno: "ENOENT" }, glibc: undefined }, {
    "cpu-virtualization": ["failed", "Linux (x64"],
    "kvm-device": ["skipped"],
    "kvm-permission": ["skipped"],
    glibc: ["skipped"]
  }],
  ["one without the module of Intel", { kvm: { errno: "ENOENT" } }, {
    "kvm-device": ["failed", "sudo modprobe kvm_intel"],
    "kvm-permission": ["skipped"]
  }],
  ["one without the module of AMD", { cpuinfo: flags("svm"), kvm: { errno: "ENOENT" } }, {
    "kvm-device": ["failed", "sudo modprobe kvm_amd"],
    "kvm-permission": ["skipped"]
  }],
  ["a container without the device", { container: true, kvm: { errno: "ENOENT" } }, {
    "kvm-device": ["failed", "--device /dev/kvm"],
    "kvm-permission": ["skipped"]
  }],
  ["a container that may not use the device", { container: true, kvm: { errno: "EPERM", group: "kvm" } }, {
    "kvm-permission": ["failed", "--device /dev/kvm"]
  }],
  ["a device without a module behind it", { kvm: { errno: "ENODEV" } }, {
    "kvm-permission": ["failed", "sudo modprobe kvm_intel"]
  }],
  ["a user who is not in kvm", { kvm: { errno: "EACCES", group: "kvm", mode: 0o20660, member: false } }, {
    "kvm-permission": ["failed", "sudo usermod -aG kvm ada"]
  }],
  ["a user who has just been put into kvm", { kvm: { errno: "EACCES", group: "kvm", mode: 0o20660, member: true } }, {
    "kvm-permission": ["failed", "log in again"]
  }],
  ["a device of a group that has more", { kvm: { errno: "EACCES", group: "disk", mode: 0o20660, member: false } }, {
    "kvm-permission": ["failed", "sudo setfacl -m u:ada:rw /dev/kvm"]
  }],
  ["a device of root alone", { kvm: { errno: "EACCES", group: "kvm", mode: 0o20600, member: false } }, {
    "kvm-permission": ["failed", "sudo setfacl -m u:ada:rw /dev/kvm"]
  }],
  ["one without a runtime", { runtime: { _tag: "RuntimeNotInstalled", message: "none" }, start: undefined }, {
    runtime: ["failed", "npm install"],
    "runtime-version": ["skipped"],
    "runtime-start": ["skipped"]
  }],
  ["half a runtime", { runtime: { _tag: "RuntimeIncomplete", message: "half" }, start: undefined }, {
    runtime: ["failed", "MSB_LIBKRUNFW_PATH"],
    "runtime-version": ["skipped"],
    "runtime-start": ["skipped"]
  }],
  ["another runtime", { runtime: { ...pair, version: "0.6.14" } }, { "runtime-version": ["failed", "MSB_PATH"] }],
  ["a runtime of an unknown version", { runtime: { ...pair, version: undefined } as never }, {
    "runtime-version": ["failed", "MSB_PATH"]
  }],
  ["one without a library", { start: { ok: false, message: noLibrary } }, {
    "runtime-start": ["failed", "apt-get install libcap-ng0"]
  }],
  ["a runtime of another machine", { start: { ok: false, message: "spawn /p/bin/msb ENOEXEC" } }, {
    "runtime-start": ["failed", "again"]
  }],
  ["an old glibc", { glibc: "2.17" }, { glibc: ["failed", "2.28"] }],
  ["the oldest glibc that will do", { glibc: "2.28" }, {}],
  ["musl", { glibc: undefined }, { glibc: ["failed", "2.28"] }],
  ["a long home", { home: failing({ _tag: "HomePathTooLong", message: "long", path: "/h", limit: 55 }) }, {
    "path-length": ["failed", "MSB_HOME"]
  }],
  ["a home of another", { home: failing({ _tag: "HomeNotWritable", message: "no", path: "/h" }) }, {
    home: ["failed", "can write"],
    xattrs: ["skipped"]
  }],
  ["a home on an old tmpfs", { home: failing({ _tag: "HomeWithoutXattrs", message: "no", path: "/h" }) }, {
    xattrs: ["failed", "ext4"]
  }],
  ["a full disk", { disk: { available: 100n << 20n, inodes: 1n } }, { "disk-space": ["failed", "MSB_HOME"] }],
  ["a disk that is nearly full", { disk: { available: 1n << 30n, inodes: 1n } }, {
    "disk-space": ["warning", "MSB_HOME"]
  }],
  ["a disk without inodes", { disk: { available: 20n << 30n, inodes: 0n } }, { "disk-space": ["failed", "MSB_HOME"] }],
  ["a file system that counts no inodes", { disk: { available: 20n << 30n, inodes: undefined } }, {}],
  ["one whose addon does not load", {
    addon: "no addon",
    runtime: undefined,
    start: undefined,
    home: undefined,
    disk: undefined
  }, {
    addon: ["failed", "npm run build:native"],
    runtime: ["skipped"],
    "runtime-version": ["skipped"],
    "runtime-start": ["skipped"],
    "path-length": ["skipped"],
    home: ["skipped"],
    xattrs: ["skipped"],
    "disk-space": ["skipped"]
  }]
]

describe("the doctor", () => {
  it.effect("finds what is wrong with each machine of a table, and nothing else, and says what mends it", () =>
    Effect.gen(function*() {
      for (const [name, change, expected] of machines) {
        const found = findings({ ...good, ...change })
        const wrong = found.filter(({ status }) => status !== "ok")
        assert.deepStrictEqual(
          Object.fromEntries(wrong.map(({ check, status }) => [check, status])),
          Object.fromEntries(Object.entries(expected).map(([check, [status]]) => [check, status])),
          name
        )
        for (const { check, fix = "" } of wrong) assert.include(fix, expected[check]?.[1] ?? "", `${name}: ${check}`)
        const report = new Runtime.Report({ findings: [...found] })
        assert.strictEqual(report.healthy, wrong.every(({ status }) => status !== "failed"), name)
        const codec = Schema.toCodecJson(Runtime.Report)
        const back = yield* Schema.decodeEffect(codec)(yield* Schema.encodeEffect(codec)(report))
        assert.deepStrictEqual(back.findings, report.findings, name)
      }
    }))

  it.effect("gives a failed boot the findings that explain it, each once, and what mends them", () =>
    Effect.gen(function*() {
      const finding = findings({ ...good, cpuinfo: nothing }).find(({ status }) => status === "failed")
      assert(finding !== undefined)
      const error = new Errors.MicrosandboxError({
        operation: "Sandbox.make",
        sandbox: "box",
        reason: new Errors.BootStart({ message: "no VM", sandbox: "box", stage: "vm" }),
        findings: [finding, { ...finding, message: "no VM" }]
      })
      assert.strictEqual(
        error.message,
        `Sandbox.make (box): no VM; ${finding.message}. To mend it: ${finding.fix}`
      )
      const codec = Schema.toCodecJson(Errors.MicrosandboxError)
      const back = yield* Schema.decodeEffect(codec)(yield* Schema.encodeEffect(codec)(error))
      assert.deepStrictEqual([back.message, back.findings], [error.message, error.findings])
    }))
})
