/**
 * npm ignores most of `publishConfig`. Around a pack (`prepack`, `postpack`) this swaps its fields with those of the
 * package: `exports` point at src in the workspace and at dist when published, and the platform's addon is a dependency
 * only of a published package. Twice restores the file.
 *
 *     node publish-fields.ts dist|src
 */
import * as fs from "node:fs"

const want = process.argv[2]
const pkg = JSON.parse(fs.readFileSync("package.json", "utf8"))
const has = pkg.exports["."].includes("/dist/") ? "dist" : "src"
if (want !== has) {
  for (const field of Object.keys(pkg.publishConfig)) {
    // npm reads this one itself.
    if (field === "access") continue
    const mine = pkg[field]
    pkg[field] = pkg.publishConfig[field]
    pkg.publishConfig[field] = mine
  }
  fs.writeFileSync("package.json", `${JSON.stringify(pkg, null, 2)}\n`)
}
