/**
 * Prints the names of all sandboxes and volumes in the catalogue of a home, as JSON.
 *
 * A process of its own: SQLite's locks are a process's, and a second SQLite in one drops those of the first.
 */
import { DatabaseSync } from "node:sqlite"

const [home = ""] = process.argv.slice(2)
const database = new DatabaseSync(`${home}/db/msb.db`, { readOnly: true })
const rows = database.prepare("select name from sandbox union all select name from volume").all()
database.close()
console.log(JSON.stringify(rows.map(({ name }) => name)))
