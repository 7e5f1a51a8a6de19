/**
 * A relay without a guest, which speaks the agent's protocol on a Unix socket. It says on its standard output what happens
 * to its programs, one JSON object in a line.
 *
 *     relay.ts <socket> [socket...]
 *
 * Its programs: `true` ends; `echo <text>` prints; `say <out> <err> <code>` prints to both outputs and exits with that code; `cat` prints
 * its input; `deaf` prints, has closed its input and waits for SIGKILL; `pour <bytes>` prints that much of `poured`, and honours SIGSTOP, SIGCONT and SIGKILL
 * with a little under way; `evade` prints for ever and honours SIGKILL only; `wait` waits for SIGKILL; `leave <code>` has
 * ended with that code, but something that it has left behind holds its outputs open until SIGKILL; `vanish` cuts the
 * connection; `garbage` says what nobody understands. Any other is not there. test/vm/Relay.test.ts holds it to a real one.
 */
import * as net from "node:net"
import { type Frame, frame, greeting, makeReader } from "../AgentProtocol.ts"
import { chunkBytes, poured } from "../Poured.ts"

const sockets = process.argv.slice(2)
const tell = (event: object) => process.stdout.write(`${JSON.stringify(event)}\n`)

/** The real relay cuts a client that takes nothing for so long. */
const stall = 5000

const [SIGKILL, SIGCONT, SIGSTOP] = [9, 18, 19]

/** What was printed before a signal took effect. */
const underWay = 32

const names = new Set("cat deaf echo evade garbage leave pour say true vanish wait".split(" "))

let pid = 100

const serve = (socket: net.Socket): void => {
  tell({ _tag: "Connected" })
  const programs = new Map<
    number,
    { input: (data: Uint8Array) => unknown; left: boolean; stopped: boolean; killed: boolean; resume: () => void }
  >()
  const send = (id: number, type: string, payload: Parameters<typeof frame>[2]) =>
    socket.write(frame(id, type, payload))
  let wake = () => {}
  socket.on("drain", () => wake())
  socket.on("close", () => wake())
  const drained = async () => {
    const timer = setTimeout(() => {
      tell({ _tag: "Stalled" })
      socket.destroy()
    }, stall)
    await new Promise<void>((resolve) => wake = resolve)
    clearTimeout(timer)
  }
  const start = async ({ id, payload }: Frame) => {
    const [cmd, args] = [payload.cmd as string, payload.args as ReadonlyArray<string>]
    if (!names.has(cmd)) {
      const message = `spawn ${cmd}: No such file or directory (os error 2)`
      return send(id, "core.exec.failed", {
        kind: "not_found",
        errno: 2,
        errno_name: "ENOENT",
        message,
        stage: "Command::spawn"
      })
    }
    const program = {
      input: (_: Uint8Array): unknown => undefined,
      left: cmd === "leave",
      stopped: false,
      killed: false,
      resume: () => {}
    }
    programs.set(id, program)
    send(id, "core.exec.started", { pid: ++pid })
    tell({ _tag: "Started", cmd, pid })
    const ended = pid
    const exit = (code: number) => {
      programs.delete(id)
      send(id, "core.exec.exited", { code })
      tell({ _tag: "Exited", cmd, pid: ended, code })
    }
    if (cmd === "true") return exit(0)
    if (cmd === "echo") {
      send(id, "core.exec.stdout", { data: Buffer.from(args.join(" ")) })
      return exit(0)
    }
    if (cmd === "say") {
      const [out = "", wrong = "", code = ""] = args
      send(id, "core.exec.stdout", { data: Buffer.from(out) })
      send(id, "core.exec.stderr", { data: Buffer.from(wrong) })
      return exit(Number(code))
    }
    if (cmd === "cat") {
      program.input = (data) => data.length === 0 ? exit(0) : send(id, "core.exec.stdout", { data })
      return
    }
    if (cmd === "deaf") {
      program.input = () =>
        send(id, "core.exec.stdin.error", {
          errno: 32,
          errno_name: "EPIPE",
          message: "Broken pipe (os error 32)"
        })
      send(id, "core.exec.stdout", { data: Buffer.from("deaf") })
    }
    if (cmd === "vanish") return socket.destroy()
    if (cmd === "garbage") return void socket.write(Buffer.from([0, 0, 0, 6, 0, 0, 0, id, 0, 0xff]))
    if (cmd === "wait") send(id, "core.exec.stdout", { data: Buffer.from("waiting") })
    const total = cmd === "pour" ? Number(args[0]) / chunkBytes : cmd === "evade" ? Infinity : 0
    let late = 0
    for (let index = 0; index < total && !socket.destroyed; index++) {
      if (program.killed) return exit(-1)
      if (program.stopped && cmd === "pour" && ++late > underWay) {
        await new Promise<void>((resolve) => program.resume = resolve)
        late = 0
        if (program.killed) return exit(-1)
      }
      if (!send(id, "core.exec.stdout", { data: poured(index) })) await drained()
      if (index % 64 === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    if (cmd === "pour" && !socket.destroyed) return exit(0)
    const code = cmd === "leave" ? Number(args[0]) : -1
    program.resume = () => program.killed ? exit(code) : undefined
    program.resume()
  }
  const read = makeReader((received) => {
    const program = programs.get(received.id)
    if (received.type === "core.exec.request") void start(received)
    if (received.type === "core.ping") send(received.id, "core.pong", {})
    if (received.type === "core.fs.request") {
      // The programs that leave something behind are gone themselves; nobody looks at others for long enough.
      const error = [...programs.values()].some(({ left }) => left)
        ? "stat: No such file or directory (os error 2)"
        : "permission denied (os error 13)"
      send(received.id, "core.fs.response", { ok: false, error, data: null })
    }
    if (received.type === "core.exec.stdin") program?.input(received.payload.data as Uint8Array)
    if (received.type === "core.exec.signal" && program !== undefined) {
      const signal = received.payload.signal as number
      tell({ _tag: "Signal", signal })
      if (signal === SIGSTOP) program.stopped = true
      if (signal === SIGCONT) program.stopped = false
      if (signal === SIGKILL) program.killed = true
      if (signal !== SIGSTOP) program.resume()
    }
  })
  socket.on("data", read)
  socket.on("error", () => {})
  socket.on("close", () => {
    for (const program of programs.values()) {
      program.killed = true
      program.resume()
    }
  })
  socket.write(greeting())
}

let listening = 0
for (const path of sockets) {
  net.createServer(serve).listen(path, () => {
    if (++listening === sockets.length) tell({ _tag: "Listening" })
  })
}
