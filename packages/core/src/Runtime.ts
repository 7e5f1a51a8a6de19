/**
 * The runtime: the `msb` executable, and the guest kernel (`libkrunfw`) that belongs to it. Which pair a boot would launch,
 * putting one into a home without a network, and what on a machine keeps sandboxes from running.
 *
 * Nothing here downloads. On Linux x64 the pair comes with the npm package, and a program needs nothing of this module to
 * boot.
 *
 * @stability unstable
 * @since 0.1.0
 */
import { Native } from "@effect-microsandbox/native"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Backend, Local } from "./Backend.ts"
import * as doctors from "./internal/doctor.ts"
import { decodeOptions, mapFailure } from "./internal/failure.ts"
import * as findings from "./internal/finding.ts"
import { look } from "./internal/host.ts"
import { findings as judge } from "./internal/hostRules.ts"
import { defined, Text } from "./internal/inputs.ts"
import { localBackend } from "./internal/local.ts"
import { MicrosandboxError, RuntimeNotInstalled, RuntimeVersionMismatch } from "./MicrosandboxError.ts"

// -----------------------------------------------------------------------------
// Versions
// -----------------------------------------------------------------------------

/**
 * The version of the runtime that this SDK launches, and no other.
 *
 * @stability unstable
 * @category constants
 * @since 0.1.0
 */
export const version: string = Native.runtimeVersion

/**
 * The version of this SDK's addon, which is that of its packages.
 *
 * @stability unstable
 * @category constants
 * @since 0.1.0
 */
export const addonVersion: string = Native.addonVersion

// -----------------------------------------------------------------------------
// The pair
// -----------------------------------------------------------------------------

/**
 * A runtime pair, and where each half comes from.
 *
 * **Details**
 *
 * The first of these that names a pair is taken, and must have a whole one: `"environment"` (`MSB_PATH` and
 * `MSB_LIBKRUNFW_PATH`), `"package"` (the npm package of the platform), `"configuration"` (`paths` in the engine's
 * `config.json`), `"home"` (`bin` and `lib` of the backend's home). A library that nobody named is `"beside"`: next to `msb` or
 * in `../lib`. The engine's own rule (`lib/setup/runtime.rs` of the crate, 0.7.2).
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Resolved extends Schema.Class<Resolved>("@effect-microsandbox/core/Runtime/Resolved")({
  msb: Schema.Struct({
    path: Schema.String,
    origin: Schema.Literals(["environment", "package", "configuration", "home"]),
    /** As the executable says it of itself. Absent: it says nothing, as a script does. */
    version: Schema.optionalKey(Schema.String)
  }),
  libkrunfw: Schema.Struct({
    path: Schema.String,
    origin: Schema.Literals(["environment", "package", "configuration", "home", "beside"])
  })
}) {}

const toResolved = ({ libkrunfw, libkrunfwOrigin, msb, msbOrigin, version }: Native.ResolvedPair): Resolved =>
  new Resolved({
    msb: { path: msb, origin: msbOrigin, ...(version === undefined ? {} : { version }) },
    libkrunfw: { path: libkrunfw, origin: libkrunfwOrigin }
  })

const resolveAs = (operation: string) =>
  Effect.gen(function*() {
    const { home, native } = yield* localBackend
    const pair = yield* native.call((token) => native.engine.resolveRuntime({ home }, token)).pipe(
      mapFailure({ operation })
    )
    return toResolved(pair)
  })

/**
 * The pair that a boot would launch, of whatever version. Nothing is made and nothing is executed.
 *
 * **Details**
 *
 * Reasons: `RuntimeNotInstalled` when there is none, `RuntimeIncomplete` when there is half of one.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const resolve: Effect.Effect<Resolved, MicrosandboxError, Backend | Local> = resolveAs("Runtime.resolve").pipe(
  Effect.withSpan("Runtime.resolve")
)

/**
 * Whether there is a whole pair of the right version, as a boot would take it.
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const installed: Effect.Effect<boolean, MicrosandboxError, Backend | Local> = resolveAs("Runtime.installed")
  .pipe(
    Effect.map(({ msb }) => msb.version === version),
    Effect.catchReasons("MicrosandboxError", {
      RuntimeNotInstalled: () => Effect.succeed(false),
      RuntimeIncomplete: () => Effect.succeed(false)
    }),
    Effect.withSpan("Runtime.installed")
  )

/**
 * Where to take a pair from: `"npm"` (the package of this platform, which is installed already), a directory that has the two
 * files side by side or in `bin` and `lib`, or a `.tar.gz` of such a directory, as the engine's releases are.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type Source =
  | "npm"
  | { readonly directory: string }
  | {
    readonly archive: string
    /** What the archive must hash to, as 64 hexadecimal digits. Default: not checked. */
    readonly sha256?: string | undefined
  }

/**
 * Options of {@link ensure}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface EnsureOptions {
  /** Default: `"npm"`. */
  readonly from?: Source | undefined
}

/**
 * Options of {@link install}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface InstallOptions extends EnsureOptions {
  /** Replace what is there, of whatever version, or half of a pair. Sandboxes that run keep theirs. Default: false. */
  readonly force?: boolean | undefined
  /** The home to put it into. Default: the backend's. */
  readonly home?: string | undefined
}

const Given = Text.check(Schema.isMinLength(1))

/** One struct and not one for each kind, so that a mistake is told of by the field that has it. */
const Files = Schema.Struct({
  directory: Schema.optional(Given),
  archive: Schema.optional(Given),
  sha256: Schema.optional(
    Schema.String.check(Schema.isPattern(/^[0-9a-fA-F]{64}$/, { expected: "64 hexadecimal digits" }))
  )
}).check(
  Schema.makeFilter(({ archive, directory, sha256 }) => {
    if ((archive === undefined) === (directory === undefined)) {
      return "must have a directory or an archive, and not both"
    }
    return sha256 === undefined || archive !== undefined ||
      { path: ["sha256"], issue: "is that of an archive, and there is none" }
  })
)

const Source = Schema.Union([Schema.Literal("npm"), Files])

const EnsureSchema = Schema.Struct({ from: Schema.optional(Source) })

const InstallSchema = Schema.Struct({
  ...EnsureSchema.fields,
  force: Schema.optional(Schema.Boolean),
  home: Schema.optional(Given)
})

const fromNpm = (operation: string) =>
  Effect.suspend(() => {
    const pair = Native.runtimePair()
    return pair === undefined
      ? Effect.fail(
        new MicrosandboxError({
          operation,
          reason: new RuntimeNotInstalled({
            message: "the npm package with the runtime of this platform is not installed"
          })
        })
      )
      : Effect.succeed({ pair })
  })

const put = Effect.fnUntraced(function*(
  operation: string,
  { force = false, from = "npm", home }: typeof InstallSchema.Type
) {
  const backend = yield* localBackend
  const source = from === "npm" ? yield* fromNpm(operation) : defined(from)
  const what = { ...source, force, home: home ?? backend.home }
  const pair = yield* backend.native.call((token) => backend.native.engine.installRuntime(what, token)).pipe(
    mapFailure({ operation })
  )
  return toResolved(pair)
})

const decodeInstall = decodeOptions(InstallSchema, { operation: "Runtime.install" })

/**
 * Puts a pair into a home, and answers with what is there then. A whole pair of the right version that is there already is
 * left as it is.
 *
 * **When to use**
 *
 * Use it where the platform has no npm package with a runtime, or to prepare a home for other programs. A home's pair comes
 * last in the order of {@link Resolved}: where the npm package is installed, boots take that one.
 *
 * **Details**
 *
 * The pair is there whole or not at all, also when this is interrupted or fails. Reasons: `RuntimeVersionMismatch` for
 * another version, in the source or (without `force`) in the home; `RuntimeIncomplete` for half a pair; `RuntimeArchiveInvalid`
 * for an archive that is damaged, has more than a pair in it, or another hash; `RuntimeNotInstalled` for `"npm"` without the
 * package; `HostIo` and `HomeNotWritable` for files that cannot be read or written.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const install: (options?: InstallOptions) => Effect.Effect<Resolved, MicrosandboxError, Backend | Local> = Effect
  .fn(
    "Runtime.install"
  )(function*(options: InstallOptions = {}) {
    return yield* put("Runtime.install", yield* decodeInstall(options))
  })

const decodeEnsure = decodeOptions(EnsureSchema, { operation: "Runtime.ensure" })

/**
 * The pair that a boot would launch; one is put into the backend's home first when there is none at all.
 *
 * **Details**
 *
 * What is there but cannot be launched is told and not mended: `RuntimeIncomplete` and `RuntimeVersionMismatch` are reasons, as
 * are those of {@link install}.
 *
 * @stability unstable
 * @category operations
 * @since 0.1.0
 */
export const ensure: (options?: EnsureOptions) => Effect.Effect<Resolved, MicrosandboxError, Backend | Local> = Effect
  .fn(
    "Runtime.ensure"
  )(function*(options: EnsureOptions = {}) {
    const operation = "Runtime.ensure"
    const given = yield* decodeEnsure(options)
    const resolved = yield* resolveAs(operation).pipe(
      Effect.catchReason("MicrosandboxError", "RuntimeNotInstalled", () => put(operation, given))
    )
    const { path, version: actual = "unknown" } = resolved.msb
    if (actual === version) return resolved
    return yield* new MicrosandboxError({
      operation,
      reason: new RuntimeVersionMismatch({
        message: `the runtime at ${path} is version ${actual}; this SDK launches exactly ${version}`,
        expected: version,
        actual,
        path
      })
    })
  })

// -----------------------------------------------------------------------------
// The doctor
// -----------------------------------------------------------------------------

/**
 * One thing that was found out about a machine, by `check`: how it is, in words and as data, and what mends it (a command
 * or a sentence).
 *
 * **Details**
 *
 * `"failed"` keeps sandboxes from running, `"warning"` will, and `"skipped"` could not or need not be found out.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export const Finding = findings.Finding

/**
 * One thing that was found out about a machine.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Finding = findings.Finding

/**
 * All that was found out about a machine.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Report extends Schema.Class<Report>("@effect-microsandbox/core/Runtime/Report")({
  findings: Schema.Array(Finding)
}) {
  /** Whether nothing that was looked at keeps sandboxes from running. */
  get healthy(): boolean {
    return this.findings.every(({ status }) => status !== "failed")
  }
}

/**
 * Options of {@link doctor}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface DoctorOptions {
  /** Where sandboxes are to live; it need not exist. Default: `MSB_HOME`, then `~/.microsandbox`. */
  readonly home?: string | undefined
  /** Boot a VM too, when nothing else has failed. Default: true. */
  readonly probe?: boolean | undefined
}

const decodeDoctor = decodeOptions(
  Schema.Struct({ home: Schema.optional(Given), probe: Schema.optional(Schema.Boolean) }),
  { operation: "Runtime.doctor" }
)

/**
 * Finds out whether sandboxes can run on this machine, and if not, why and what mends it.
 *
 * **Details**
 *
 * It needs no backend, since it is for machines where there may be none: what is broken is a finding and no error; the only
 * reason is `InvalidConfig`. The probe boots an empty VM from a directory of its own beside the home's files, without a
 * network or an image, and removes all of it. Nothing else on the machine is changed.
 *
 * A boot that fails (`Sandbox.make` and the like) carries the findings that can explain it in its error's `findings`, without a
 * probe.
 *
 * **Example** (What is wrong with this machine?)
 *
 * ```ts
 * import { Runtime } from "@effect-microsandbox/core"
 * import { Console, Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const report = yield* Runtime.doctor()
 *   for (const { check, fix = "", message, status } of report.findings) {
 *     yield* Console.log(status, check, message, fix)
 *   }
 *   return report.healthy
 * })
 * ```
 *
 * @stability unstable
 * @category queries
 * @since 0.1.0
 */
export const doctor: (options?: DoctorOptions) => Effect.Effect<Report, MicrosandboxError> = Effect.fn(
  "Runtime.doctor"
)(function*(options: DoctorOptions = {}) {
  const { home, probe = true } = yield* decodeDoctor(options)
  return yield* Effect.scoped(Effect.gen(function*() {
    const loaded = yield* Effect.result(Effect.map(Layer.build(Native.layer), Context.get(Native.Native)))
    const facts = yield* look(loaded, home)
    const found = judge(facts)
    const booted = !probe
      ? doctors.skipped("it was not asked for")
      : Result.isFailure(loaded) || facts.home === undefined
      ? doctors.skipped("the addon does not work")
      : yield* doctors.boot(loaded.success, facts.home, found)
    return new Report({ findings: [...found, booted] })
  }))
})
