/**
 * npm ignores `publishConfig.exports`. Around a pack (`prepack`, `postpack`) this swaps `exports` with it: packages point
 * at src in the workspace and at dist when published. Twice restores the file.
 */
import * as fs from "node:fs"

const want = process.argv[2]
const pkg = JSON.parse(fs.readFileSync("package.json", "utf8"))
const has = pkg.exports["."].includes("/dist/") ? "dist" : "src"
if (want !== has) {
  const { exports } = pkg
  pkg.exports = pkg.publishConfig.exports
  pkg.publishConfig.exports = exports
  fs.writeFileSync("package.json", `${JSON.stringify(pkg, null, 2)}\n`)
}
