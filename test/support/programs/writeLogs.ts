/** Writes a sandbox's `exec.log` as its runtime does, fast, and rotates it often: `writeLogs.ts <directory> <lines>`. */
import * as fs from "node:fs"
import * as path from "node:path"
import { line } from "../Store.ts"

const [directory = ".", lines = "0"] = process.argv.slice(2)
const file = (index: number) => path.join(directory, index === 0 ? "exec.log" : `exec.log.${index}`)

let log = fs.openSync(file(0), "a")
for (let index = 0; index < Number(lines); index++) {
  if (index % 1000 === 999) {
    for (const older of [3, 2, 1, 0]) if (fs.existsSync(file(older))) fs.renameSync(file(older), file(older + 1))
    fs.closeSync(log)
    log = fs.openSync(file(0), "a")
  }
  fs.writeSync(log, line(Date.now(), `${index}:${"x".repeat(1000)}`))
  const end = process.hrtime.bigint() + 60_000n
  while (process.hrtime.bigint() < end);
}
