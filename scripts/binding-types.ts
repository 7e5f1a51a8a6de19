/**
 * Turns what napi's macros wrote while cargo compiled into one TypeScript file.
 *
 *     node scripts/binding-types.ts <folder of the macros> <output file>
 */
import { generateTypeDef, readNapiConfig } from "@napi-rs/cli"
import * as fs from "node:fs"
import * as path from "node:path"

const [typeDefDir, output] = process.argv.slice(2)
if (typeDefDir === undefined || output === undefined) throw new Error("usage: binding-types.ts <folder> <output>")

const cwd = path.resolve(import.meta.dirname, "../packages/native")
const { constEnum = false, dtsHeaderFile = "binding-header.txt" } = await readNapiConfig(path.join(cwd, "package.json"))
const { dts, exports } = await generateTypeDef({ typeDefDir, cwd, constEnum, dtsHeaderFile })
if (exports.length === 0) throw new Error(`the addon exports nothing: ${typeDefDir} has no type definitions`)
fs.writeFileSync(output, `${dts.trimEnd()}\n`)
