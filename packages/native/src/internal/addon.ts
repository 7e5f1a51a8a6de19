/** Finds and loads the addon, and the runtime pair that it launches. */
import * as Effect from "effect/Effect"
import { existsSync, readdirSync } from "node:fs"
import { createRequire } from "node:module"
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import packageJson from "../../package.json" with { type: "json" }
import type * as Binding from "./binding.ts"

export type Addon = typeof Binding

export type LoadFailure =
  | { readonly _tag: "AddonMissing"; readonly message: string; readonly platform: string }
  | { readonly _tag: "AddonMismatch"; readonly message: string; readonly expected: string; readonly actual: string }
  | { readonly _tag: "RuntimeConflict"; readonly message: string; readonly msb: string }

/** The one runtime version that this package launches; the addon and package.json are held against it. */
export const runtimeVersion = "0.7.2"

/** The version of this package, and of the addon that it loads. */
export const addonVersion: string = packageJson.version

const require = createRequire(import.meta.url)

/** Platforms that an addon is published for, by Node's names. */
const platforms: Record<string, { readonly addon: string; readonly runtime: string | undefined }> = {
  "linux-x64": { addon: "linux-x64-gnu", runtime: "@superradcompany/microsandbox-linux-x64-gnu" },
  // No runtime package of this version is published for these: MSB_PATH names the pair.
  "linux-arm64": { addon: "linux-arm64-gnu", runtime: undefined },
  "darwin-arm64": { addon: "darwin-arm64", runtime: undefined }
}

const platform = `${process.platform}-${process.arch}`

export const loadAddon: Effect.Effect<Addon, LoadFailure> = Effect.suspend(() => {
  const names = platforms[platform]
  if (names === undefined) {
    const known = Object.keys(platforms).join(", ")
    return Effect.fail(missing(`there is no addon for ${platform}; there are ones for ${known}`))
  }
  const published = `@effect-microsandbox/native-${names.addon}`
  const built = fileURLToPath(new URL(`../../binding/effect-microsandbox.${names.addon}.node`, import.meta.url))
  return Effect.flatMap(
    Effect.try({
      try: () => require(existsSync(built) ? built : published) as Addon,
      catch: (cause) => missing(`${published} could not be loaded: ${reasonOf(cause)}`)
    }),
    checkVersions
  )
})

const missing = (message: string): LoadFailure => ({ _tag: "AddonMissing", message, platform })

const reasonOf = (cause: unknown): string =>
  cause instanceof Error ? cause.message.split("\n", 1).join("") : String(cause)

const checkVersions = (addon: Addon): Effect.Effect<Addon, LoadFailure> => {
  const actual = addon.versions()
  const expected = { addon: addonVersion, runtime: runtimeVersion }
  return actual.addon === expected.addon && actual.runtime === expected.runtime
    ? Effect.succeed(addon)
    : Effect.fail({
      _tag: "AddonMismatch",
      message: `the addon is ${actual.addon} for runtime ${actual.runtime}; ` +
        `this package is ${expected.addon} for runtime ${expected.runtime}`,
      expected: expected.addon,
      actual: actual.addon
    })
}

/**
 * The runtime pair of the platform's npm package. Undefined when the package is not installed: stores still work then,
 * and a boot answers `RuntimeNotInstalled`.
 */
export const runtimePair = (): Binding.RuntimePair | undefined => {
  const name = platforms[platform]?.runtime
  if (name === undefined) return undefined
  const root = packageRoot(name)
  if (root === undefined) return undefined
  const lib = path.join(root, "lib")
  const kernel = existsSync(lib) ? readdirSync(lib).find((file) => file.startsWith("libkrunfw.")) : undefined
  return kernel === undefined ? undefined : { msb: path.join(root, "bin", "msb"), libkrunfw: path.join(lib, kernel) }
}

const packageRoot = (name: string): string | undefined =>
  // By folder and not by `require.resolve`: the package exports no file that could be resolved.
  (require.resolve.paths(name) ?? []).map((folder) => path.join(folder, name)).find(existsSync)
