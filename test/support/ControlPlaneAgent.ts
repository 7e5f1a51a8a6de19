/**
 * The guest of a sandbox of the {@link ControlPlane}: its agent's protocol, generation 9, on a connection that somebody else
 * carries. It has no VM; its files are a directory of this host, its port 7 says what it is told, and its programs are these:
 *
 * `echo <text>` prints; `say <out> <err> <code>` prints to both outputs and exits with that code; `cat` prints its input;
 * `env` prints how it was started, as JSON; `pour <bytes>` prints that much of `poured` and honours SIGSTOP and SIGCONT;
 * `wait` prints and waits for a signal. `/bin/sh -c <words>` is the program of these words. Any other is not there.
 */
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import { getSystemErrorMessage } from "node:util"
import { bulk, flows, type Frame, frame, kinds, makeReader, type Value } from "./AgentProtocol.ts"
import { chunkBytes, poured } from "./Poured.ts"

/** How a program was started. */
export interface Started {
  readonly cmd: string
  readonly args: ReadonlyArray<string>
  readonly cwd: string | null
  readonly user: string | null
  readonly env: ReadonlyArray<string>
  readonly tty: boolean
}

export interface Options {
  /** The directory that is the guest's root. */
  readonly root: string
  /** Sends to the host. `type` is what the bytes are: `range` for the first ones, `bulk`, or the type of a message. */
  readonly send: (type: string, bytes: Buffer) => void
  /** What the host has not taken yet. */
  readonly pending: () => number
  readonly started: (program: Started) => void
}

/** A file that is open: its descriptor, or what is left of a listing. */
type Handle = { readonly file: number; readonly append: boolean; readonly path: string } | {
  readonly left: Array<Value>
}

interface Program {
  readonly input: (data: Uint8Array) => void
  readonly signal: (signal: number) => void
}

/** A connection that says what it is told, as far as its client lets it. */
interface Echo {
  taken: number
  sent: number
  limit: number
  waiting: Buffer
  finished: boolean
}

/** A write that goes on: where its next bytes go. */
interface Write {
  readonly file: number
  /** Where it began in the file; none when it appends. */
  readonly at: number | null
  written: number
}

const [SIGCONT, SIGSTOP] = [18, 19]

/** What a flow may be ahead of its receiver. */
const window = 8 << 20

const record = 256 << 10

/** As the agent words it, which ends with Rust's number. */
const wording = (operation: string, error: unknown): string => {
  const { errno = -5 } = error as NodeJS.ErrnoException
  return `${operation.toLowerCase()}: ${getSystemErrorMessage(errno)} (os error ${-errno})`
}

const kindOf = (stat: NodeFs.Stats): string =>
  stat.isFile() ? "file" : stat.isDirectory() ? "dir" : stat.isSymbolicLink() ? "symlink" : "other"

const infoOf = (stat: NodeFs.Stats, path: string): Value => {
  const seconds = Math.floor(stat.mtimeMs / 1000)
  return {
    path,
    kind: kindOf(stat),
    size: stat.size,
    mode: stat.mode,
    modified: seconds,
    uid: stat.uid,
    gid: stat.gid,
    atime: Math.floor(stat.atimeMs / 1000),
    mtime: seconds
  }
}

/** One connection. `received` takes what comes from the host, `closed` is its end. */
export const connect = ({ pending, root, send, started }: Options) => {
  const programs = new Map<number, Program>()
  const pids = new Map<number, number>()
  const handles = new Map<number, Handle>()
  const writes = new Map<number, Write>()
  const echoes = new Map<number, Echo>()
  let [nextHandle, pid, isClosed] = [1, 100, false]
  const say = (id: number, type: string, payload: Value) => send(type, frame(id, type, payload))
  const respond = (id: number, data: Value = null) => say(id, "core.fs.response", { ok: true, error: null, data })
  const refuse = (id: number, error: string) => say(id, "core.fs.response", { ok: false, error, data: null })

  const start = (id: number, { args, cmd, cwd, env, tty, user }: Started): void => {
    if (cmd === "/bin/sh" && args[0] === "-c") {
      const [program = "", ...rest] = args[1]!.split(" ")
      return start(id, { cmd: program, args: rest, cwd, env, tty, user })
    }
    const print = (text: string | Uint8Array, output = "stdout") =>
      say(id, `core.exec.${output}`, { data: typeof text === "string" ? Buffer.from(text) : text })
    const exit = (code: number) => {
      if (programs.delete(id)) say(id, "core.exec.exited", { code })
    }
    const simple: Program = {
      input: () => {},
      signal: (signal) => signal === SIGSTOP || signal === SIGCONT || exit(-1)
    }
    const run = (program: Program, body = () => {}) => {
      programs.set(id, program)
      pids.set(id, ++pid)
      say(id, "core.exec.started", { pid })
      body()
    }
    switch (cmd) {
      case "echo":
        return run(simple, () => {
          print(args.join(" "))
          exit(0)
        })
      case "say": {
        const [out = "", wrong = "", code = "0"] = args
        return run(simple, () => {
          print(out)
          print(wrong, "stderr")
          exit(Number(code))
        })
      }
      case "env":
        return run(simple, () => {
          print(JSON.stringify({ args, cwd, env, tty, user }))
          exit(0)
        })
      case "cat":
        return run({ ...simple, input: (data) => data.length === 0 ? exit(0) : print(data) })
      case "wait":
        return run(simple, () => print("waiting"))
      case "pour": {
        const total = Number(args[0]) / chunkBytes
        let [index, stopped] = [0, false]
        const mayGoOn = () => !isClosed && !stopped && programs.has(id)
        const pour = () => {
          for (let turn = 0; turn < 64 && mayGoOn(); turn++) {
            if (index === total) return exit(0)
            print(poured(index++))
          }
          if (mayGoOn()) setTimeout(pour, pending() > window ? 5 : 0)
        }
        return run({
          ...simple,
          signal: (signal) => {
            if (signal !== SIGSTOP && signal !== SIGCONT) return exit(-1)
            const before = stopped
            stopped = signal === SIGSTOP
            if (before && !stopped) pour()
          }
        }, pour)
      }
      default:
        return say(id, "core.exec.failed", {
          kind: "not_found",
          errno: 2,
          errno_name: "ENOENT",
          message: `spawn ${cmd}: No such file or directory (os error 2)`,
          stage: "Command::spawn"
        })
    }
  }

  const at = (path: string) => NodePath.join(root, NodePath.join("/", path))
  const inside = (path: string) => NodePath.join("/", NodePath.relative(root, path))
  const fileOf = (id: number) => {
    const handle = handles.get(id)
    if (handle === undefined || !("file" in handle)) throw Object.assign(new Error("bad handle"), { errno: -9 })
    return handle
  }
  const keep = (handle: Handle): Value => {
    handles.set(nextHandle, handle)
    return { Handle: nextHandle++ }
  }
  const entries = (path: string): Array<Value> =>
    NodeFs.readdirSync(at(path)).map((name) =>
      infoOf(NodeFs.lstatSync(NodePath.join(at(path), name)), NodePath.join(path, name))
    )

  type Fields = { readonly [key: string]: any }
  const set = (path: string, { atime, gid, mode, mtime, size, uid }: Fields) => {
    if (mode !== null) NodeFs.chmodSync(path, mode)
    if (uid !== null || gid !== null) NodeFs.chownSync(path, uid ?? -1, gid ?? -1)
    if (size !== null) NodeFs.truncateSync(path, size)
    const stat = NodeFs.statSync(path)
    if (atime !== null || mtime !== null) NodeFs.utimesSync(path, atime ?? stat.atime, mtime ?? stat.mtime)
  }

  /** What one answer tells. */
  const operations: Record<string, (fields: Fields) => Value | void> = {
    RealPath: ({ path }) => ({
      Path: inside(
        NodeFs.existsSync(at(path))
          ? NodeFs.realpathSync(at(path))
          : NodePath.join(NodeFs.realpathSync(NodePath.dirname(at(path))), NodePath.basename(path))
      )
    }),
    // A program that runs has a directory there.
    Stat: ({ follow_symlink, path }) => ({
      Stat: [...programs.keys()].some((id) => path === `/proc/${pids.get(id)}`)
        ? infoOf(NodeFs.statSync(root), path)
        : infoOf(follow_symlink ? NodeFs.statSync(at(path)) : NodeFs.lstatSync(at(path)), path)
    }),
    SetStat: ({ attrs, path }) => set(at(path), attrs),
    List: ({ path }) => ({ List: entries(path) }),
    ReadLink: ({ path }) => ({ Path: NodeFs.readlinkSync(at(path)) }),
    Symlink: ({ link_path, target }) => NodeFs.symlinkSync(target, at(link_path)),
    Mkdir: ({ mode, path }) => {
      NodeFs.mkdirSync(at(path), { recursive: true })
      if (mode !== null) NodeFs.chmodSync(at(path), mode)
    },
    Remove: ({ path }) => NodeFs.unlinkSync(at(path)),
    RemoveDir: ({ path, recursive }) => recursive ? NodeFs.rmSync(at(path), { recursive }) : NodeFs.rmdirSync(at(path)),
    Copy: ({ dst, src }) => NodeFs.cpSync(at(src), at(dst), { recursive: true }),
    Rename: ({ dst, src }) => NodeFs.renameSync(at(src), at(dst)),
    OpenFile: ({ options, path }) => {
      const { O_APPEND, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY } = NodeFs.constants
      const writes = options.write || options.append
      const flags = (options.read ? writes ? O_RDWR : O_RDONLY : O_WRONLY) |
        (options.append ? O_APPEND : 0) |
        (options.create || options.create_new ? O_CREAT : 0) |
        (options.create_new ? O_EXCL : 0) |
        (options.truncate ? O_TRUNC : 0)
      return keep({
        file: NodeFs.openSync(at(path), flags, options.mode ?? 0o644),
        append: options.append,
        path: at(path)
      })
    },
    OpenDir: ({ path }) => keep({ left: entries(path) }),
    CloseHandle: ({ handle }) => {
      const open = handles.get(handle)
      if (open !== undefined && "file" in open) NodeFs.closeSync(open.file)
      handles.delete(handle)
    },
    ReadDir: ({ handle, limit }) => {
      const open = handles.get(handle)
      return { List: open !== undefined && "left" in open ? open.left.splice(0, limit ?? 128) : [] }
    },
    FStat: ({ handle }) => {
      const { file, path } = fileOf(handle)
      return { Stat: infoOf(NodeFs.fstatSync(file), inside(path)) }
    },
    FSetStat: ({ attrs, handle }) => set(`/proc/self/fd/${fileOf(handle).file}`, attrs)
  }

  const read = (id: number, { handle, len, offset }: Fields, offer: Fields | null) => {
    const { file } = fileOf(handle)
    const end = Math.min(NodeFs.fstatSync(file).size, offset + (len ?? Number.MAX_SAFE_INTEGER))
    const next = (from: number) => {
      const payload = Buffer.alloc(Math.min(record, end - from))
      NodeFs.readSync(file, payload, 0, payload.length, from)
      return payload
    }
    if (offer === null) {
      for (let at = offset; at < end; at += record) say(id, "core.fs.data", { data: next(at) })
      return respond(id)
    }
    say(id, "core.bulk.accepted", {
      kind: kinds.file,
      flows: 2,
      format: 1,
      max_record_payload: Math.min(offer.max_record_payload, record),
      host_to_guest_credit_limit: 0,
      guest_to_host_credit_limit: offer.guest_to_host_credit_limit
    })
    let sent = 0
    while (offset + sent < end) {
      const payload = next(offset + sent)
      send("bulk", bulk({ id, kind: kinds.file, flow: flows.toHost, offset: sent, payload }))
      sent += payload.length
    }
    say(id, "core.bulk.finish", { kind: kinds.file, flow: flows.toHost, final_offset: sent })
    respond(id)
  }

  const write = (id: number, { handle, offset }: Fields, offer: Fields | null) => {
    const { append, file } = fileOf(handle)
    writes.set(id, { file, at: append ? null : offset, written: 0 })
    if (offer === null) return
    say(id, "core.bulk.accepted", {
      kind: kinds.file,
      flows: 1,
      format: 1,
      max_record_payload: offer.max_record_payload,
      host_to_guest_credit_limit: window,
      guest_to_host_credit_limit: offer.guest_to_host_credit_limit
    })
  }

  const put = (id: number, data: Uint8Array): Write | undefined => {
    const flow = writes.get(id)
    if (flow === undefined) return
    NodeFs.writeSync(flow.file, data, 0, data.length, flow.at === null ? null : flow.at + flow.written)
    flow.written += data.length
    return flow
  }

  const echo = (id: number, port: number, offer: Fields | null) => {
    if (port !== 7 || offer === null) {
      return say(id, "core.tcp.failed", { error: "Connection refused (os error 111)" })
    }
    const limit = offer.guest_to_host_credit_limit
    echoes.set(id, { taken: 0, sent: 0, limit, waiting: Buffer.alloc(0), finished: false })
    say(id, "core.tcp.connected", {})
    say(id, "core.bulk.accepted", {
      kind: kinds.tcp,
      flows: 3,
      format: 1,
      max_record_payload: Math.min(offer.max_record_payload, record),
      host_to_guest_credit_limit: window,
      guest_to_host_credit_limit: limit
    })
  }

  const sayAgain = (id: number, echo: Echo) => {
    while (echo.waiting.length > 0 && echo.sent < echo.limit) {
      const payload = echo.waiting.subarray(0, Math.min(record, echo.limit - echo.sent))
      send("bulk", bulk({ id, kind: kinds.tcp, flow: flows.toHost, offset: echo.sent, payload }))
      echo.waiting = echo.waiting.subarray(payload.length)
      echo.sent += payload.length
    }
    if (!echo.finished || echo.waiting.length > 0) return
    say(id, "core.bulk.finish", { kind: kinds.tcp, flow: flows.toHost, final_offset: echo.sent })
    endEcho(id)
  }

  const endEcho = (id: number) => {
    if (echoes.delete(id)) say(id, "core.tcp.closed", {})
  }

  const ask = (id: number, { bulk: offer = null, op }: Fields) => {
    const [[operation, fields]] = Object.entries(op) as [[string, Fields]]
    try {
      if (operation === "Read") return read(id, fields, offer)
      if (operation === "Write") return write(id, fields, offer)
      return respond(id, operations[operation]!(fields) ?? null)
    } catch (error) {
      return refuse(id, wording(operation, error))
    }
  }

  const take = makeReader(({ id, payload, type }: Frame) => {
    switch (type) {
      case "core.exec.request": {
        const { args, cmd, cwd, env, tty, user } = payload as unknown as Started
        started({ cmd, args, cwd, env, tty, user })
        return start(id, { cmd, args, cwd, env, tty, user })
      }
      case "core.exec.stdin":
        return programs.get(id)?.input(payload.data as Uint8Array)
      case "core.exec.signal":
        return programs.get(id)?.signal(payload.signal as number)
      case "core.fs.request":
        return ask(id, payload)
      case "core.fs.data": {
        const data = payload.data as Uint8Array
        if (data.length > 0) return void put(id, data)
        writes.delete(id)
        return respond(id)
      }
      case "core.tcp.connect":
        return echo(id, payload.port as number, (payload.bulk ?? null) as Fields | null)
      case "core.bulk.credit": {
        const connection = echoes.get(id)
        if (connection === undefined) return
        connection.limit = payload.credit_limit as number
        return sayAgain(id, connection)
      }
      case "core.bulk.finish": {
        const connection = echoes.get(id)
        if (connection !== undefined) {
          connection.finished = true
          return sayAgain(id, connection)
        }
        writes.delete(id)
        return respond(id)
      }
      case "core.bulk.cancel":
        if (echoes.has(id)) return endEcho(id)
        return writes.delete(id) ? refuse(id, "the host has cancelled it") : undefined
      case "core.ping":
        return say(id, "core.pong", {})
      case "core.touch":
        return say(id, "core.touched", { activity_seq: 1 })
    }
  }, ({ id, kind, payload }) => {
    const credit = (taken: number) =>
      say(id, "core.bulk.credit", { kind, flow: flows.toGuest, consumed_offset: taken, credit_limit: taken + window })
    const connection = echoes.get(id)
    if (connection !== undefined) {
      connection.waiting = Buffer.concat([connection.waiting, payload])
      credit(connection.taken += payload.length)
      return sayAgain(id, connection)
    }
    const write = put(id, payload)
    if (write !== undefined) credit(write.written)
  })

  const range = Buffer.alloc(8)
  range.writeUInt32BE(1, 0)
  range.writeUInt32BE(33_554_431, 4)
  send("range", range)
  say(0, "core.ready", { boot_time_ns: 1, init_time_ns: 1, ready_time_ns: 1, agent_version: "0.7.2" })
  return {
    received: take,
    closed: () => {
      isClosed = true
      programs.clear()
      for (const handle of handles.values()) if ("file" in handle) NodeFs.closeSync(handle.file)
      handles.clear()
    }
  }
}
