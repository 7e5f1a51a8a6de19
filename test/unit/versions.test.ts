import { Runtime } from "@effect-microsandbox/core"
import { Native } from "@effect-microsandbox/native"
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"

const read = (path: string) => fs.readFileSync(new URL(`../../${path}`, import.meta.url), "utf8")
const json = (path: string) => JSON.parse(read(path))

describe("versions", () => {
  it("of the runtime are one, in the constant, the crate, its lock and the runtime package", () => {
    const version = Native.runtimeVersion
    assert.strictEqual(Runtime.version, version)
    assert.include(read("packages/native/Cargo.toml"), `microsandbox = { version = "=${version}"`)
    assert.include(read("packages/native/Cargo.lock"), `name = "microsandbox"\nversion = "${version}"`)
    assert.strictEqual(
      json("packages/native/package.json").optionalDependencies["@superradcompany/microsandbox-linux-x64-gnu"],
      version
    )
  })

  it("of the packages are one, in each package, its dependants, its platform packages and the crate", () => {
    const { version } = json("packages/native/package.json")
    assert.strictEqual(Runtime.addonVersion, version)
    assert.match(read("packages/native/Cargo.toml"), new RegExp(`^version = "${version}"$`, "m"))
    for (const name of ["core", "ssh"]) {
      const manifest = json(`packages/${name}/package.json`)
      assert.strictEqual(manifest.version, version)
      for (const [dependency, range] of Object.entries(manifest.dependencies ?? {})) {
        if (dependency.startsWith("@effect-microsandbox/")) assert.strictEqual(range, version)
      }
    }
    const { publishConfig } = json("packages/native/package.json")
    for (const platform of ["linux-x64-gnu", "linux-arm64-gnu", "darwin-arm64"]) {
      assert.strictEqual(json(`packages/native/npm/${platform}/package.json`).version, version)
      assert.strictEqual(publishConfig.optionalDependencies[`@effect-microsandbox/native-${platform}`], version)
    }
  })
})
