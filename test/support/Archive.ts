/**
 * Tar archives as lists of entries, to be changed and put together again, with headers as GNU's tar writes them; and
 * the inventory of a snapshot's archive, to go with what was changed.
 */
import * as crypto from "node:crypto"

export interface Entry {
  /** 512 bytes. */
  readonly header: Uint8Array
  readonly data: Uint8Array
}

const block = 512
const encoder = new TextEncoder()
const decoder = new TextDecoder()

const field = (header: Uint8Array, start: number, length: number): string =>
  decoder.decode(header.subarray(start, start + length)).replace(/\0.*$/s, "")

const padded = (size: number): number => Math.ceil(size / block) * block

export const nameOf = ({ header }: Entry): string => field(header, 0, 100)

/** Its entries. Sparse ones must have their map in the header. */
export const parse = (bytes: Uint8Array): ReadonlyArray<Entry> => {
  // A `Buffer` would slice views of itself.
  const archive = new Uint8Array(bytes)
  const entries: Array<Entry> = []
  let offset = 0
  while (offset + block <= archive.length && archive[offset] !== 0) {
    const header = archive.slice(offset, offset + block)
    const size = parseInt(field(header, 124, 12), 8)
    if (header[482] === 1) throw new Error("a sparse map in more than the header")
    entries.push({ header, data: archive.slice(offset + block, offset + block + size) })
    offset += block + padded(size)
  }
  return entries
}

export const serialize = (entries: ReadonlyArray<Entry>): Uint8Array => {
  const archive = new Uint8Array(
    entries.reduce((sum, { data }) => sum + block + padded(data.length), 0) + 2 * block
  )
  let offset = 0
  for (const { data, header } of entries) {
    archive.set(header, offset)
    archive.set(data, offset + block)
    offset += block + padded(data.length)
  }
  return archive
}

/** A header with other bytes at a place, and the checksum that they ask for. */
export const withField = (
  header: Uint8Array,
  start: number,
  length: number,
  value: string | Uint8Array
): Uint8Array => {
  const changed = header.slice()
  changed.fill(0, start, start + length)
  changed.set((typeof value === "string" ? encoder.encode(value) : value).subarray(0, length), start)
  changed.fill(32, 148, 156)
  const sum = changed.reduce((sum, byte) => sum + byte, 0)
  changed.set(encoder.encode(`${sum.toString(8).padStart(6, "0")}\0 `), 148)
  return changed
}

export const withName = (entry: Entry, name: string): Entry => ({
  ...entry,
  header: withField(entry.header, 0, 100, name)
})

export const withType = (entry: Entry, type: string): Entry => ({
  ...entry,
  header: withField(entry.header, 156, 1, type)
})

export const withLink = (entry: Entry, target: string): Entry => ({
  ...entry,
  header: withField(entry.header, 157, 100, target)
})

/** With other content, and its size in the header. */
export const withData = (entry: Entry, data: string | Uint8Array): Entry => {
  const bytes = typeof data === "string" ? encoder.encode(data) : data
  return { header: withField(entry.header, 124, 12, bytes.length.toString(8).padStart(11, "0")), data: bytes }
}

/** A regular file. */
export const file = (name: string, data: string | Uint8Array): Entry => {
  let header: Uint8Array = new Uint8Array(block)
  const fields = [[0, 100, name], [100, 8, "0000644"], [156, 1, "0"], [257, 8, "ustar  "]] as const
  for (const [start, length, value] of fields) header = withField(header, start, length, value)
  return withData({ header, data: new Uint8Array() }, data)
}

interface Inventory {
  readonly members: ReadonlyArray<{ readonly descriptor_path: string; descriptor_digest: string }>
  readonly entries: ReadonlyArray<{
    readonly path: string
    encoded_size: number
    apparent_size: number
    integrity: { readonly algorithm: string; digest: string } | null
    transport_integrity?: unknown
  }>
  requires: ReadonlyArray<string>
}

/**
 * The archive of a snapshot as who knows its format would forge it: the inventory has the sizes and digests of what is
 * there, and the hashes that it may leave out are left out. `forge` changes the inventory before.
 */
export const resealed = (
  entries: ReadonlyArray<Entry>,
  forge: (inventory: any) => void = () => {}
): ReadonlyArray<Entry> =>
  entries.map((entry) => {
    if (nameOf(entry) !== "archive.json") return entry
    const inventory = JSON.parse(decoder.decode(entry.data)) as Inventory
    forge(inventory)
    inventory.requires = inventory.requires.filter((name) => !name.includes("blake3"))
    const found = (path: string) => entries.find((other) => nameOf(other) === path)
    const digestOf = ({ data }: Entry) => `sha256:${crypto.createHash("sha256").update(data).digest("hex")}`
    for (const member of inventory.members) {
      const descriptor = found(member.descriptor_path)
      if (descriptor !== undefined) member.descriptor_digest = digestOf(descriptor)
    }
    for (const item of inventory.entries) {
      delete item.transport_integrity
      const content = found(item.path)
      if (content === undefined) continue
      item.encoded_size = content.data.length
      if (content.header[156] !== 83) item.apparent_size = content.data.length
      if (item.integrity?.algorithm === "sha256") item.integrity.digest = digestOf(content)
    }
    return withData(entry, JSON.stringify(inventory))
  })
