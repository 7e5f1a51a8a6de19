/** Boots a VM to see that one boots, in a home of its own, and removes all of it. */
import { Native } from "@effect-microsandbox/native"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import * as Backend from "../Backend.ts"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import * as Sandbox from "../Sandbox.ts"
import type { Finding } from "./finding.ts"
import { hints } from "./hints.ts"

/** A software CPU takes some ten seconds. */
const patience = Duration.minutes(2)

/** Boots where the home is, or would be. `found` is what is known of the machine by now. */
export const boot = Effect.fn("Runtime.doctor.boot")(function*(
  native: Native.Native["Service"],
  { existing, home }: Native.HomeReport,
  found: ReadonlyArray<Finding>
): Effect.fn.Return<Finding> {
  const broken = found.filter(({ status }) => status === "failed").map(({ check }) => check)
  if (broken.length > 0) return skipped(`it would fail: ${broken.join(", ")}`)
  return yield* Effect.scoped(Effect.gen(function*() {
    const place = yield* temporaryHome(native, [existing, os.tmpdir()])
    if (place === undefined) return skipped(`there is no place for a home with short paths in ${existing}`)
    // The pair of the home, if it has one: which one is launched is to be the same.
    for (const folder of ["bin", "lib"]) {
      yield* Effect.promise(() => fs.symlink(path.join(home, folder), path.join(place, folder)))
    }
    const root = path.join(place, "root")
    // Empty: no program is run in it, and the guest's agent brings itself along.
    yield* Effect.promise(() => fs.mkdir(root))
    const booted = yield* Sandbox.make({ image: root, memory: "256 MiB", network: false, metricsInterval: false }).pipe(
      Effect.flatMap((sandbox) => sandbox.ping),
      Effect.timed,
      Effect.scoped,
      Effect.timeoutOption(patience),
      Effect.provide(Layer.provide(
        Backend.layerLocalNoDeps({ home: place, sweep: false }),
        Layer.succeed(Native.Native, native)
      )),
      Effect.result
    )
    return report(booted)
  }))
})

const report = (
  booted: Result.Result<Option.Option<readonly [up: Duration.Duration, ping: Duration.Duration]>, MicrosandboxError>
): Finding => {
  const check = "boot"
  if (Result.isFailure(booted)) {
    const { reason } = booted.failure
    const fix = hints[reason._tag]
    const message = `no VM came up: ${reason.message}`
    return { check, status: "failed", message, ...(fix === undefined ? {} : { fix }) }
  }
  if (Option.isNone(booted.success)) {
    return { check, status: "failed", message: `no VM was up within ${Duration.format(patience)}` }
  }
  const [duration] = booted.success.value
  return { check, status: "ok", message: `a VM was up within ${Duration.format(duration)}`, duration }
}

export const skipped = (message: string): Finding => ({ check: "boot", status: "skipped", message })

/** In the first of the directories in which a home of this kind works. */
const temporaryHome = Effect.fnUntraced(function*(
  native: Native.Native["Service"],
  directories: ReadonlyArray<string>
) {
  for (const directory of directories) {
    const home = yield* Effect.acquireRelease(
      Effect.promise(() => fs.mkdtemp(path.join(directory, ".dr-")).catch(() => undefined)),
      (home) => home === undefined ? Effect.void : Effect.promise(() => fs.rm(home, { recursive: true, force: true }))
    )
    if (home === undefined) continue
    const report = yield* Effect.orDie(native.call((token) => native.engine.checkHome({ home }, token)))
    if (report.failures.length === 0) return home
  }
  return undefined
})
