/** The servers of a machine with a network of its own. The scope of each ends it. */
import { Effect, FileSystem, type Scope } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { createSocket } from "node:dgram"
import * as net from "node:net"
import { machine } from "./Machine.ts"

/** Holds a server until the scope closes. */
export const listening = <Server extends { close: (done?: () => void) => unknown }>(
  open: (ready: () => void) => Server
): Effect.Effect<Server, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<Server>((resume) => {
      const server: Server = open(() => resume(Effect.succeed(server)))
    }),
    (server) => Effect.sync(() => void server.close())
  )

/** An address of IPv4 as such, on a socket that is for both. */
const plain = (address = "") => address.replace(/^::ffff:/, "")

/** Listens on ports of every address, with what is to be done with each connection. */
const accept = (ports: ReadonlyArray<number>, handle: (client: net.Socket) => void) =>
  Effect.forEach(ports, (port) =>
    listening((ready) =>
      net.createServer((client) => {
        client.on("error", () => client.destroy())
        handle(client)
      }).listen(port, "::", ready)
    ))

/** Answers what comes, HTTP or not, with the address and port that it was sent to. */
export const answering = (...ports: ReadonlyArray<number>) =>
  accept(ports, (client) => {
    client.once("data", (request) => {
      const head = request.includes("HTTP/1.1\r\n") ? "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" : ""
      client.end(`${head}${plain(client.localAddress)} ${client.localPort}\n`)
    })
  })

/** Says something before the client does; and then no more, or nothing more. */
export const greeting = (port: number, then: "end" | "wait") =>
  accept([port], (client) => {
    // What nobody reads has no end either.
    client.resume()
    return then === "end" ? client.end("welcome\n") : client.write("welcome\n")
  })

/** Sends so many bytes. */
export const flowing = (port: number, size: number) => accept([port], (client) => client.end(Buffer.alloc(size, "x")))

/** What came in datagrams, and the bytes of it that no one can read. */
export interface Received {
  readonly words: Array<string>
  bytes: number
}

/** Answers datagrams with where they came from, for the word `who`, or with themselves; and keeps the others. */
export const receiving = Effect.fn("receiving")(function*(
  ports: ReadonlyArray<number>,
  kinds: ReadonlyArray<"udp4" | "udp6"> = ["udp4"]
) {
  const received: Received = { words: [], bytes: 0 }
  for (const port of ports) {
    for (const kind of kinds) {
      yield* listening((ready) => {
        const socket = createSocket({ type: kind, ipv6Only: kind === "udp6" })
        socket.on("message", (message, { address, port: from }) => {
          if (message[0] === 0) return void (received.bytes += message.length)
          const word = message.toString()
          if (word !== "who") received.words.push(`${word} ${port}`)
          socket.send(word === "who" ? String(from) : word, from, address)
        })
        return socket.bind(port, () => {
          if (kind === "udp4") socket.addMembership(machine.multicast, "127.0.0.1")
          ready()
        })
      })
    }
  }
  return received
})

/** The address as bytes, for an answer of a name server. */
const bytesOf = (address: string): ReadonlyArray<number> => {
  if (!address.includes(":")) return address.split(".").map(Number)
  const [head = [], tail = []] = address.split("::").map((part) => part === "" ? [] : part.split(":"))
  const groups = [...head, ...Array.from({ length: 8 - head.length - tail.length }, () => "0"), ...tail]
  return groups.map((group) => parseInt(group, 16)).flatMap((group) => [group >> 8, group & 255])
}

/** A name server: it knows the names in `machine.names` and `machine.names6`, and no other; one it answers late. */
export const names = listening((ready) => {
  const socket = createSocket("udp4")
  socket.on("message", (query, { address, port }) => {
    const labels: Array<string> = []
    let at = 12
    for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
      labels.push(query.toString("ascii", at + 1, at + 1 + length))
      at += length + 1
    }
    const name = labels.join(".").toLowerCase()
    const kind = query.readUInt16BE(at + 1)
    const found = kind === 1 ? machine.names[name] : kind === 28 ? machine.names6[name] : undefined
    const code = machine.names[name] === undefined ? 3 : 0
    const counts = [0, 1, 0, found === undefined ? 0 : 1, 0, 0, 0, 0]
    const question = query.subarray(12, at + 5)
    const data = found === undefined ? [] : bytesOf(found)
    const record = found === undefined ? [] : [0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.length, ...data]
    const head = [...query.subarray(0, 2), 0x81, 0x80 | code, ...counts]
    const answer = Buffer.concat([Buffer.from(head), question, Buffer.from(record)])
    if (name === machine.late) setTimeout(() => socket.send(answer, port, address), 4000).unref()
    else socket.send(answer, port, address)
  })
  return socket.bind(machine.nameserverPort, "127.0.0.1", ready)
})

/** Connects a client of a proxy with whom it asked for, when `answer` has been sent. */
const relay = (client: net.Socket, host: string, port: number, answer: Buffer) => {
  const server = net.connect(port, host, () => {
    client.write(answer)
    client.pipe(server)
    server.pipe(client)
  })
  server.on("error", () => client.destroy())
  client.on("close", () => server.destroy())
}

/** A SOCKS 4 proxy. It keeps who asked it, and for what. */
export const socks4 = (asked: Array<string>) =>
  accept([machine.proxyPort], (client) => {
    client.once("data", (request) => {
      const [port, host] = [request.readUInt16BE(2), [...request.subarray(4, 8)].join(".")]
      asked.push(`${request.toString("utf8", 8, request.indexOf(0, 8))} ${host}:${port}`)
      relay(client, host, port, Buffer.from([0, 90, 0, 0, 0, 0, 0, 0]))
    })
  })

/** Takes datagrams on behalf of a client of a SOCKS 5 proxy, and answers with the port for them. */
const datagrams = Effect.fn("datagrams")(function*(asked: Array<string>, user: string) {
  const inside = yield* listening((ready) => createSocket("udp4").bind(machine.proxyPort + 1, "127.0.0.1", ready))
  const outside = yield* listening((ready) => createSocket("udp4").bind(0, ready))
  let client = 0
  let head = Buffer.alloc(0)
  inside.on("message", (message, { port }) => {
    client = port
    head = Buffer.from(message.subarray(0, 10))
    const [host, to] = [[...message.subarray(4, 8)].join("."), message.readUInt16BE(8)]
    asked.push(`${user} udp ${host}:${to}`)
    outside.send(message.subarray(10), to, host)
  })
  outside.on("message", (message) => inside.send(Buffer.concat([head, message]), client, "127.0.0.1"))
  return machine.proxyPort + 1
})

/** A SOCKS 5 proxy, with a password or without. It keeps who asked it, and for what. */
export const socks5 = Effect.fn("socks5")(function*(asked: Array<string>, password?: string) {
  const user = password === undefined ? "anyone" : "guest"
  const port = yield* datagrams(asked, user)
  yield* accept([machine.proxyPort], (client) => {
    const serve = (request: Buffer) => {
      const [host, to] = [[...request.subarray(4, 8)].join("."), request.readUInt16BE(8)]
      if (request[1] === 3) return client.write(Buffer.from([5, 0, 0, 1, 127, 0, 0, 1, port >> 8, port & 255]))
      asked.push(`${user} ${host}:${to}`)
      return relay(client, host, to, Buffer.from([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]))
    }
    client.once("data", () => {
      client.write(Buffer.from([5, password === undefined ? 0 : 2]))
      client.once("data", (message) => {
        if (password === undefined) return serve(message)
        const isRight = message.toString("utf8", 3 + message[1]!) === password &&
          message.toString("utf8", 2, 2 + message[1]!) === user
        client.write(Buffer.from([1, isRight ? 0 : 1]))
        return isRight ? client.once("data", serve) : client.end()
      })
    })
  })
})

const key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"

/** The files of a certificate and its key. */
export interface Certificate {
  readonly cert: string
  readonly key: string
}

const certify = Effect.fn("certify")(function*(name: string, ...options: ReadonlyArray<string>) {
  const fs = yield* FileSystem.FileSystem
  const spawner = yield* ChildProcessSpawner
  const directory = yield* fs.makeTempDirectoryScoped({ prefix: "msb-" })
  const files: Certificate = { cert: `${directory}/${name}.pem`, key: `${directory}/${name}.key` }
  const words = `req -x509 ${key} -subj /CN=${name} -keyout ${files.key} -out ${files.cert}`.split(" ")
  const code = yield* spawner.exitCode(
    ChildProcess.make("openssl", [...words, ...options], { stdout: "ignore", stderr: "ignore" })
  )
  if (code !== 0) return yield* Effect.die(new Error(`openssl made no certificate for ${name}`))
  return files
})

/** One who vouches for others. */
export const authority = (name: string) => certify(name)

/** The certificate of a server with some names, and who vouches for it. */
export const certificate = ({ cert, key }: Certificate, names: ReadonlyArray<string>) =>
  certify(
    "server",
    "-addext",
    `subjectAltName=${names.map((name) => `DNS:${name}`).join(",")}`,
    "-addext",
    "basicConstraints=critical,CA:FALSE",
    "-CA",
    cert,
    "-CAkey",
    key
  )
