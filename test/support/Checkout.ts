/** Copies of this checkout, for what depends on the packages that are installed. */
import { Effect, FileSystem, Path } from "effect"
import { temporaryDirectory } from "./Sandboxes.ts"

/** This checkout, as it is where the runtime's npm package was not installed. */
export const checkoutWithoutRuntime = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const checkout = yield* temporaryDirectory
  for (const directory of ["packages/core/src", "packages/native/src", "packages/native/binding", "test/support"]) {
    yield* fs.copy(directory, path.join(checkout, directory))
  }
  for (const name of ["core", "native"]) {
    yield* fs.copyFile(`packages/${name}/package.json`, path.join(checkout, `packages/${name}/package.json`))
  }
  const modules = path.join(checkout, "node_modules")
  yield* fs.makeDirectory(modules)
  for (const name of yield* fs.readDirectory("node_modules")) {
    if (name === "@superradcompany" || name === "@effect-microsandbox") continue
    yield* fs.symlink(path.resolve("node_modules", name), path.join(modules, name))
  }
  yield* fs.symlink(path.join(checkout, "packages"), path.join(modules, "@effect-microsandbox"))
  return checkout
})
