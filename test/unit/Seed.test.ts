import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"
import { API } from "typescript/unstable/sync"
import { type Row, seed } from "../Seed.ts"

const root = new URL("../../", import.meta.url).pathname

/** What a package exports: `Module.export` and `Module.Type.member`, as the compiler sees them. */
const publicNames = (name: string): ReadonlySet<string> => {
  const folder = path.join(root, "packages", name)
  const api = new API({ cwd: folder })
  try {
    const [project] = api.updateSnapshot({ openProjects: [path.join(folder, "tsconfig.json")] }).getProjects()
    const file = project?.program.getSourceFile(path.join(folder, "src/index.ts"))
    const entry = file && project?.checker.getSymbolAtLocation(file)
    assert(project !== undefined && entry !== undefined)
    const { checker } = project
    const names = new Set<string>()
    for (const module of checker.getExportsOfModule(entry)) {
      for (const name of checker.getExportsOfModule(checker.getAliasedSymbol(module))) {
        names.add(`${module.name}.${name.name}`)
        const members = checker.getPropertiesOfType(checker.getDeclaredTypeOfSymbol(name))
        for (const member of members) names.add(`${module.name}.${name.name}.${member.name}`)
      }
    }
    return names
  } finally {
    api.close()
  }
}

const rows = Object.entries(seed).flatMap(([name, methods]) =>
  Object.entries(methods).map(([method, row]): readonly [string, Row] => [`${name}${method}`, row])
)

/** The names of the tests in a file: the first argument of `it(…)`, `it.effect(…)`, `it.effect.prop(…)`. */
const testNames = (file: string): ReadonlyArray<string> =>
  fs.existsSync(path.join(root, file))
    ? [...fs.readFileSync(path.join(root, file), "utf8").matchAll(/\bit(?:\.\w+)*\(\s*"((?:[^"\\]|\\.)*)"/g)]
      .map(([, name]) => JSON.parse(`"${name}"`))
    : []

describe("the seed", () => {
  it("has all classes, and each method once", () => {
    // The classes and modules of the document, and its module functions.
    const all =
      `Destination Patch Rule AgentClient AgentFrame AgentStream Error ExecEvent ExecHandle ExecOutput ExecStdin ExitStatus FS
      FsEntry FsMetadata FsReadStream FsWriteSink Image ImageDetail ImageInfo ImagePruneReport InvalidConfigError LogEntry
      LogStream Metrics MetricsStream NetworkPolicy PullSession Sandbox SandboxHandle SandboxStopResult SftpClient Snapshot
      SnapshotInfo SnapshotVerifyReport SshClient SshOps SshOutput SshServer Volume VolumeFs VolumeInfo Microsandbox`
        .split(/\s+/)
    assert.sameMembers(Object.keys(seed), all)
    for (const [name] of rows) assert.match(name, /^[A-Z]\w*[.#]\w+[?!=]?$/)
    // An object would keep the last of two rows of one name; the source shows both.
    const source = fs.readFileSync(path.join(root, "test/Seed.ts"), "utf8")
    assert.strictEqual([...source.matchAll(/^ {4}"[.#]/gm)].length, rows.length)
  })

  it("has each of its methods here under a name that exists", () => {
    const names = new Set([...publicNames("core"), ...publicNames("ssh")])
    const missing = rows.flatMap(([name, row]) => {
      const here = row.here.replace(/^sandbox\./, "Sandbox.Sandbox.")
      return names.has(here) ? [] : [`${name}: ${row.here}`]
    })
    assert.deepStrictEqual(missing, [])
  })

  it("has each of its methods shown by a test that exists", () => {
    const missing = rows.flatMap(([name, row]) =>
      testNames(row.test.file).includes(row.test.name) ? [] : [`${name}: ${row.test.file}: ${row.test.name}`]
    )
    assert.deepStrictEqual(missing, [])
  })
})
