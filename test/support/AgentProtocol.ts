/** As much of the guest agent's protocol as a program needs: frames of `[length][id][flags]` and a CBOR map, in Node. */

/** A value of CBOR that the protocol uses. */
export type Value = number | string | boolean | null | Uint8Array | ReadonlyArray<Value> | {
  readonly [key: string]: Value
}

export interface Frame {
  readonly id: number
  readonly flags: number
  readonly type: string
  readonly version: number
  readonly payload: { readonly [key: string]: Value }
}

/** A piece of a file or of a connection that goes without CBOR; `offset` is where it is in its flow. */
export interface Bulk {
  readonly id: number
  readonly kind: number
  readonly flow: number
  readonly offset: number
  readonly payload: Buffer
}

/** What a flow is of. */
export const kinds = { file: 1, tcp: 2 } as const

/** The two directions of a flow. */
export const flows = { toGuest: 1, toHost: 2 } as const

const head = (major: number, size: number): Buffer => {
  if (size < 24) return Buffer.from([major << 5 | size])
  if (size < 0x100) return Buffer.from([major << 5 | 24, size])
  if (size > 0xffff_ffff) {
    const longest = Buffer.alloc(9)
    longest[0] = major << 5 | 27
    longest.writeBigUInt64BE(BigInt(size), 1)
    return longest
  }
  const wide = size >= 0x1_0000
  const buffer = Buffer.alloc(wide ? 5 : 3)
  buffer[0] = major << 5 | (wide ? 26 : 25)
  if (wide) buffer.writeUInt32BE(size, 1)
  else buffer.writeUInt16BE(size, 1)
  return buffer
}

const encode = (value: Value): Buffer => {
  if (value === null) return Buffer.from([0xf6])
  if (typeof value === "boolean") return Buffer.from([value ? 0xf5 : 0xf4])
  if (typeof value === "number") return value < 0 ? head(1, -1 - value) : head(0, value)
  if (typeof value === "string") {
    const text = Buffer.from(value)
    return Buffer.concat([head(3, text.length), text])
  }
  if (value instanceof Uint8Array) return Buffer.concat([head(2, value.length), value])
  if (Array.isArray(value)) return Buffer.concat([head(4, value.length), ...value.map(encode)])
  const entries = Object.entries(value)
  return Buffer.concat([head(5, entries.length), ...entries.flatMap(([key, item]) => [encode(key), encode(item)])])
}

const decode = (bytes: Buffer): Value => {
  let at = 0
  const size = (short: number): number => {
    if (short < 24) return short
    const length = 1 << (short - 24)
    at += length
    return length === 8 ? Number(bytes.readBigUInt64BE(at - 8)) : bytes.readUIntBE(at - length, length)
  }
  const next = (): Value => {
    const first = bytes[at++]!
    const [major, short] = [first >> 5, first & 31]
    if (major === 7) return short === 22 ? null : short === 21
    const count = size(short)
    switch (major) {
      case 0:
        return count
      case 1:
        return -1 - count
      case 2:
        return bytes.subarray(at, at += count)
      case 3:
        return bytes.toString("utf8", at, at += count)
      case 4:
        return Array.from({ length: count }, next)
      default:
        return Object.fromEntries(Array.from({ length: count }, () => [next() as string, next()]))
    }
  }
  return next()
}

/** After these nothing more comes of the same number. */
const lastWords = new Set(
  "exec.exited exec.failed error fs.response pong touched tcp.closed tcp.failed".split(" ").map((type) =>
    `core.${type}`
  )
)

/** The flags that the protocol gives each message. */
const flagsOf = (type: string): number =>
  lastWords.has(type)
    ? 1
    : type.endsWith(".request") || type === "core.tcp.connect"
    ? 2
    : 0

/** The body of a frame. */
export const envelope = (type: string, payload: Value, version = 9): Buffer =>
  encode({ v: version, t: type, p: encode(payload) })

/** A frame of any body, right or wrong. */
export const rawFrame = (id: number, flags: number, body: Uint8Array): Buffer => {
  const header = Buffer.alloc(9)
  header.writeUInt32BE(body.length + 5, 0)
  header.writeUInt32BE(id, 4)
  header[8] = flags
  return Buffer.concat([header, body])
}

export const frame = (id: number, type: string, payload: Value, version = 9): Buffer =>
  rawFrame(id, flagsOf(type), envelope(type, payload, version))

/** The message of a body. */
export const payloadOf = (body: Uint8Array): Frame["payload"] => {
  const { p } = decode(Buffer.from(body)) as { p: Uint8Array }
  return decode(Buffer.from(p)) as Frame["payload"]
}

/** What a relay says first: a range of ids, and that the agent is ready. */
export const greeting = (): Buffer => {
  const range = Buffer.alloc(8)
  range.writeUInt32BE(1, 0)
  range.writeUInt32BE(33_554_431, 4)
  return Buffer.concat([
    range,
    frame(0, "core.ready", {
      boot_time_ns: 1,
      init_time_ns: 1,
      ready_time_ns: 1,
      agent_version: "0.7.2",
      bulk_transport: {
        profile: "dual-port-v1",
        port: "agent-bulk",
        connection_id: Array.from({ length: 16 }, () => 7)
      },
      relay_lease: { max_format: 1 },
      workload_transport_barrier_version: 2
    })
  ])
}

const bulkFlag = 8

/** A record of a flow. */
export const bulk = ({ flow, id, kind, offset, payload }: Bulk): Buffer => {
  const header = Buffer.alloc(21)
  header.writeUInt32BE(17 + payload.length, 0)
  header.writeUInt32BE(id, 4)
  header[8] = bulkFlag
  header[9] = kind
  header[10] = flow
  header.writeBigUInt64BE(BigInt(offset), 13)
  return Buffer.concat([header, payload])
}

/** Cuts what comes from a socket into frames. */
export const makeReader = (
  received: (frame: Frame) => void,
  receivedBulk: (record: Bulk) => void = () => {}
): (chunk: Buffer) => void => {
  let rest: Buffer = Buffer.alloc(0)
  return (chunk) => {
    rest = Buffer.concat([rest, chunk])
    while (rest.length >= 4 && rest.length >= 4 + rest.readUInt32BE(0)) {
      const end = 4 + rest.readUInt32BE(0)
      if (rest[8] === bulkFlag) {
        receivedBulk({
          id: rest.readUInt32BE(4),
          kind: rest[9]!,
          flow: rest[10]!,
          offset: Number(rest.readBigUInt64BE(13)),
          payload: rest.subarray(21, end)
        })
        rest = rest.subarray(end)
        continue
      }
      const message = decode(rest.subarray(9, end)) as { v: number; t: string; p: Uint8Array }
      received({
        id: rest.readUInt32BE(4),
        flags: rest[8]!,
        type: message.t,
        version: message.v,
        payload: decode(Buffer.from(message.p)) as Frame["payload"]
      })
      rest = rest.subarray(end)
    }
  }
}
