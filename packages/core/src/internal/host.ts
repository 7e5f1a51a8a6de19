/** Looks at the machine, and says of a failure what there explains it. */
import type { Native } from "@effect-microsandbox/native"
import * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { execFile } from "node:child_process"
import { constants } from "node:fs"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import { MicrosandboxError, type Reason } from "../MicrosandboxError.ts"
import type { Finding } from "./finding.ts"
import { type Facts, findings } from "./hostRules.ts"
import { defined } from "./inputs.ts"
import type { Engine } from "./operation.ts"

/** The engine, or why there is none. */
export type Loaded = Result.Result<Native.Native["Service"], Native.NativeError>

/** Without an engine there is only what Node can see. Nothing on the machine is changed. */
export const look = Effect.fnUntraced(function*(loaded: Loaded, home: string | undefined): Effect.fn.Return<Facts> {
  const native = Result.isSuccess(loaded) ? loaded.success : undefined
  const ask = <A>(run: (native: Native.Native["Service"], token: Native.CancelToken) => Promise<Native.Outcome<A>>) =>
    native === undefined ? Effect.undefined : Effect.result(native.call((token) => run(native, token)))
  const options = defined({ home })
  const resolved = yield* ask(({ engine }, token) => engine.resolveRuntime(options, token))
  const runtime = resolved === undefined
    ? undefined
    : Result.isSuccess(resolved)
    ? resolved.success
    : resolved.failure.failure
  const report = yield* ask(({ engine }, token) => engine.checkHome(options, token))
  const checked = report !== undefined && Result.isSuccess(report) ? report.success : undefined
  return {
    platform: process.platform,
    arch: process.arch,
    user: os.userInfo().username,
    cpuinfo: (yield* read("/proc/cpuinfo")) ?? "",
    container: (yield* exists("/.dockerenv")) || (yield* exists("/run/.containerenv")),
    kvm: yield* openKvm,
    glibc: glibcVersion(),
    addon: Result.isFailure(loaded) ? loaded.failure.message : undefined,
    runtime,
    start: runtime === undefined || "_tag" in runtime ? undefined : yield* start(runtime.msb),
    home: checked,
    disk: checked === undefined ? undefined : yield* space(checked.existing)
  }
})

const attempt = <A>(run: () => Promise<A>): Effect.Effect<A | undefined> =>
  Effect.promise(() => run().catch(() => undefined))

const read = (path: string) => attempt(() => fs.readFile(path, "utf8"))

const exists = (path: string) => Effect.map(attempt(() => fs.stat(path)), (stat) => stat !== undefined)

/** Opening is what the engine does, and changes nothing: the file's mode alone does not say what it will meet. */
const openKvm = Effect.gen(function*() {
  const errno = yield* Effect.promise(() =>
    fs.open("/dev/kvm", constants.O_RDWR).then(
      (file) => file.close().then(() => undefined),
      ({ code }: NodeJS.ErrnoException) => code ?? "EIO"
    )
  )
  const stat = yield* attempt(() => fs.stat("/dev/kvm"))
  const groups = (yield* read("/etc/group")) ?? ""
  const line = groups.split("\n").map((line) => line.split(":")).find(([, , id]) => id === String(stat?.gid))
  const [group, , , members = ""] = line ?? []
  return defined({
    errno,
    group,
    mode: stat?.mode,
    member: line === undefined ? undefined : members.split(",").includes(os.userInfo().username)
  })
})

/** Undefined where the C library is another. */
const glibcVersion = (): string | undefined => {
  // The network's names can take seconds to look up.
  const report: NodeJS.ProcessReport & { excludeNetwork?: boolean | undefined } = process.report
  const { excludeNetwork } = report
  report.excludeNetwork = true
  try {
    const { header } = report.getReport() as { readonly header?: { readonly glibcVersionRuntime?: string } }
    return header?.glibcVersionRuntime
  } finally {
    report.excludeNetwork = excludeNetwork
  }
}

/** The loader is the one that knows which libraries `msb` lacks. */
const start = (msb: string): Effect.Effect<NonNullable<Facts["start"]>> =>
  Effect.callback((resume) => {
    const child = execFile(msb, ["--version"], { timeout: 10_000 }, (error, stdout, stderr) =>
      resume(Effect.succeed(
        error === null
          ? { ok: true, message: stdout.trim() }
          : { ok: false, message: stderr.trim().split("\n", 1).join("") || error.message }
      )))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

const space = (path: string) =>
  Effect.map(attempt(() => fs.statfs(path, { bigint: true })), (stat) =>
    stat === undefined
      ? undefined
      // Some file systems count no inodes.
      : { available: stat.bavail * stat.bsize, inodes: stat.files === 0n ? undefined : stat.ffree })

type Check = Finding["check"]

const pair: ReadonlyArray<Check> = ["runtime", "runtime-version"]
const machine: ReadonlyArray<Check> = [
  "cpu-virtualization",
  "kvm-device",
  "kvm-permission",
  "runtime-start",
  "glibc",
  "home",
  "xattrs",
  "disk-space"
]

/** What of a machine can be behind a reason. */
const behind: { readonly [Tag in Reason["_tag"]]?: ReadonlyArray<Check> } = {
  RuntimeNotInstalled: pair,
  RuntimeIncomplete: pair,
  LibkrunfwNotFound: pair,
  RuntimeVersionMismatch: pair,
  BootStart: machine,
  Runtime: machine,
  AgentReadyTimeout: machine,
  AgentClient: machine,
  Io: machine,
  Custom: machine
}

/** Gives the error of a boot what is wrong with the machine, where that can be the cause. Looks only then. */
export const explained = ({ home, native }: Engine) =>
<A, R>(
  boot: Effect.Effect<A, MicrosandboxError, R>
): Effect.Effect<A, MicrosandboxError, R> =>
  Effect.catch(boot, (error) => {
    const checks = behind[error.reason._tag]
    // What boots somewhere else, this machine is not behind.
    if (checks === undefined || home === undefined) return Effect.fail(error)
    return Effect.flatMap(look(Result.succeed(native), home), (facts) => {
      const found = findings(facts).filter(({ check, status }) => status === "failed" && checks.includes(check))
      return Effect.fail(
        Arr.isReadonlyArrayNonEmpty(found) ? new MicrosandboxError({ ...subject(error), findings: found }) : error
      )
    })
  })

const subject = ({ operation, reason, sandbox }: MicrosandboxError) => defined({ operation, reason, sandbox })
