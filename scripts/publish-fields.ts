/**
 * npm ignores most of `publishConfig`. Around a pack (`prepack`, `postpack`) this swaps its fields with those of the
 * package: `exports` point at src in the workspace and at what `npm run build` makes when published, and the platform's
 * addon is a dependency only of a published package. Twice restores the file.
 *
 *     node publish-fields.ts published|workspace
 */
import * as fs from "node:fs"

const want = process.argv[2]
const pkg = JSON.parse(fs.readFileSync("package.json", "utf8"))
const has = typeof pkg.exports["."] === "string" ? "workspace" : "published"
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
