/**
 * Joins the modules of a package that load together into one file. Node takes a millisecond or two for each module, most of
 * it to find what that imports: of the time that it takes to import core, half. tsc's output stays in dist, and the types are
 * published from there.
 *
 *     node bundle.ts <package>…
 *
 * A public module keeps its name, and gives on what is in bundle/internal/modules.js. What is imported only when it is wanted
 * stays apart.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { rolldown } from "rolldown"

/** A program of core that is started by its path. */
const sweeper = "internal/microsandboxSweeper.js"

const bundle = async (folder: string): Promise<void> => {
  const dist = path.resolve(folder, "dist")
  const entries = [
    ...fs.readdirSync(dist).filter((file) => file.endsWith(".js")),
    ...(fs.existsSync(path.join(dist, sweeper)) ? [sweeper] : [])
  ]
  const dir = path.resolve(folder, "bundle")
  fs.rmSync(dir, { recursive: true, force: true })
  const joined = await rolldown({
    input: Object.fromEntries(entries.map((file) => [file.slice(0, -".js".length), path.join(dist, file)])),
    external: /^[^./]/,
    platform: "node",
    preserveEntrySignatures: "strict"
  })
  await joined.write({
    dir,
    format: "esm",
    sourcemap: true,
    chunkFileNames: "internal/[name].js",
    // A program runs when it is loaded: it is no part of what others load.
    codeSplitting: { groups: [{ name: "modules", tags: ["$initial"], test: (id) => !id.endsWith(sweeper) }] }
  })
  await joined.close()
}

for (const folder of process.argv.slice(2)) await bundle(folder)
