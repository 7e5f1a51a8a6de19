/**
 * Boots sandboxes on a machine whose network is its own, and prints what their guests reached, as JSON.
 *
 *     network.ts <scenario> <home>
 *
 * Its network has loopback only, with the addresses in `machine`; busybox gives them (see `test/vm/Network.test.ts`). The
 * servers are this process's.
 */
import {
  Backend,
  Destination,
  type MicrosandboxError,
  NetworkPolicy,
  Patch,
  Rule,
  Sandbox,
  type SandboxOptions,
  Secret
} from "@effect-microsandbox/core"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, FileSystem, Layer, Redacted, type Scope } from "effect"
import type { PlatformError } from "effect/PlatformError"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { createSocket } from "node:dgram"
import * as http from "node:http"
import * as https from "node:https"
import * as net from "node:net"
import * as Rootfs from "../../../demo/Rootfs.ts"
import { canary, machine } from "../Machine.ts"

const [scenario = "", home = ""] = process.argv.slice(2)

// The servers

/** Holds a server until the scope closes. */
const listening = <Server extends { close: (done?: () => void) => unknown }>(
  open: (ready: () => void) => Server
): Effect.Effect<Server, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<Server>((resume) => {
      const server: Server = open(() => resume(Effect.succeed(server)))
    }),
    (server) => Effect.sync(() => void server.close())
  )

/** Answers each request with a word and the address that it was sent to. */
const web = (port: number, word: string) =>
  listening((ready) =>
    http.createServer((request, response) => response.end(`${word} ${request.socket.localAddress}\n`))
      .listen(port, "0.0.0.0", ready)
  )

/** Answers each datagram with itself. */
const echo = (port: number) =>
  listening((ready) => {
    const socket = createSocket("udp4")
    socket.on("message", (message, { address, port }) => socket.send(message, port, address))
    return socket.bind(port, machine.public, ready)
  })

/** A name server: it knows the names in `machine.names`, and no other. */
const names = listening((ready) => {
  const socket = createSocket("udp4")
  socket.on("message", (query, { address, port }) => {
    const labels: Array<string> = []
    let at = 12
    for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
      labels.push(query.toString("ascii", at + 1, at + 1 + length))
      at += length + 1
    }
    const found = machine.names[labels.join(".").toLowerCase()]
    const isA = query.readUInt16BE(at + 1) === 1
    const header = Buffer.from([
      ...query.subarray(0, 2),
      0x81,
      found === undefined ? 0x83 : 0x80,
      0,
      1,
      0,
      0,
      0,
      0,
      0,
      0
    ])
    const question = query.subarray(12, at + 5)
    if (found === undefined || !isA) return socket.send(Buffer.concat([header, question]), port, address)
    header[7] = 1
    const answer = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...found.split(".").map(Number)])
    return socket.send(Buffer.concat([header, question, answer]), port, address)
  })
  return socket.bind(machine.nameserverPort, "127.0.0.1", ready)
})

/** A SOCKS 5 proxy with a password. It keeps where it was asked to connect to. */
const proxy = (password: string, asked: Array<string>) =>
  listening((ready) =>
    net.createServer((client) => {
      client.on("error", () => {})
      client.once("data", () => {
        client.write(Buffer.from([5, 2]))
        client.once("data", (login) => {
          const user = login.toString("utf8", 2, 2 + login[1]!)
          const given = login.toString("utf8", 3 + login[1]!)
          client.write(Buffer.from([1, given === password ? 0 : 1]))
          client.once("data", (request) => {
            const host = [...request.subarray(4, 8)].join(".")
            const port = request.readUInt16BE(8)
            asked.push(`${user} ${host}:${port}`)
            const server = net.connect(port, host, () => {
              client.write(Buffer.from([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]))
              client.pipe(server)
              server.pipe(client)
            })
            server.on("error", () => client.destroy())
          })
        })
      })
    }).listen(machine.proxyPort, "127.0.0.1", ready)
  )

// The guests

/** A root directory of busybox; `programs` of this machine come with their libraries. */
const root = Effect.fn("root")(function*(...programs: ReadonlyArray<string>) {
  const fs = yield* FileSystem.FileSystem
  const spawner = yield* ChildProcessSpawner
  const directory = yield* Rootfs.make(yield* fs.makeTempDirectoryScoped({ prefix: "msb-" }))
  for (const program of programs) {
    const libraries = (yield* spawner.lines(ChildProcess.make("ldd", [program])))
      .flatMap((line) => /(\/\S+) \(/.exec(line)?.[1] ?? [])
    for (const file of [program, ...libraries]) {
      yield* fs.makeDirectory(`${directory}${file.slice(0, file.lastIndexOf("/"))}`, { recursive: true })
      yield* fs.copyFile(file, `${directory}${file}`)
    }
  }
  return directory
})

/**
 * Runs probes side by side in the guest, and says of each what it printed. A packet that is denied is dropped: the guest's
 * kernel asks twice, for 3 seconds, and gives up.
 */
const probe = Effect.fn("probe")(function*(sandbox: Sandbox.Sandbox, probes: Readonly<Record<string, string>>) {
  const script = Object.entries(probes)
    .map(([name, command]) => `(${command}) >/tmp/probe-${name} 2>/dev/null </dev/null &`).join("\n")
  yield* sandbox.shell(`echo 1 > /proc/sys/net/ipv4/tcp_syn_retries\n${script}\nwait`)
  const read = Object.keys(probes).map((name) => `cat /tmp/probe-${name}; echo ---`).join("\n")
  const answers = (yield* sandbox.shell(read)).stdout.split("---\n").map((answer) => answer.trim())
  return Object.fromEntries(Object.keys(probes).map((name, index) => [name, answers[index]]))
})

/**
 * Puts the address of a name into `$a`; of an address that is itself. By nslookup: the programs of a static busybox have no
 * other way to a name server.
 */
const resolve = (host: string) =>
  /^[\d.]+$/.test(host)
    ? `a=${host}`
    : `a=$(nslookup -type=a ${host} | sed -n 's/^Address: \\([0-9.]*\\)$/\\1/p' | head -n 1)`

const fetched = (host: string, port = 8080) => {
  const get = `wget -q -O - --header "Host: ${host}:${port}" http://$a:${port}/`
  return `${resolve(host)}; [ -n "$a" ] && ${get} || echo denied`
}

/** Whether a name has an address. */
const asked = (name: string) => `${resolve(name)}; [ -n "$a" ] && echo found || echo denied`

const datagram = (host: string, port: number) => `sockets say ${host} ${port} hello 2>/dev/null || echo denied`

/** What a request of this machine to a published port of the guest gets. */
const visited = (port: number) => {
  const text = (signal: AbortSignal) => fetch(`http://127.0.0.1:${port}/`, { signal }).then((answer) => answer.text())
  return Effect.tryPromise(text).pipe(
    Effect.map((text) => text.trim()),
    Effect.timeoutOrElse({ duration: "15 seconds", orElse: () => Effect.succeed("denied") }),
    Effect.orElseSucceed(() => "denied")
  )
}

const serve = (port: number, word: string) =>
  `mkdir -p /www/${port}; echo ${word} > /www/${port}/index.html; httpd -p ${port} -h /www/${port}`

const dns: SandboxOptions.Dns = { nameservers: [`127.0.0.1:${machine.nameserverPort}`] }

type Result = Effect.Effect<
  unknown,
  MicrosandboxError.MicrosandboxError | Rootfs.BusyboxMissing | PlatformError,
  Backend.Backend | Backend.Local | NodeServices.NodeServices | Scope.Scope
>

const scenarios: Readonly<Record<string, Result>> = {
  /** Each policy that has a name. */
  presets: Effect.gen(function*() {
    yield* web(8080, "web")
    yield* names
    const image = yield* root()
    const seen: Record<string, unknown> = {}
    for (const policy of ["public-only", "none", "non-local", "allow-all"] as const) {
      seen[policy] = yield* Effect.scoped(Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({
          image,
          network: { policy, dns },
          ports: [{ host: 28_080, guest: 80 }]
        })
        yield* sandbox.shell(serve(80, "guest"))
        const answers = yield* probe(sandbox, {
          public: fetched(machine.public),
          private: fetched(machine.private),
          host: fetched("host.microsandbox.internal"),
          name: fetched("www.shop.example"),
          // A public name with a private address.
          rebound: fetched("inner.example")
        })
        return { ...answers, ingress: yield* visited(28_080) }
      }))
    }
    return seen
  }),

  /** A policy of rules. */
  rules: Effect.gen(function*() {
    yield* web(8080, "web")
    yield* web(8081, "other")
    yield* names
    yield* echo(9000)
    yield* echo(9001)
    const spawner = yield* ChildProcessSpawner
    const image = yield* root()
    const compiler = ChildProcess.make("cc", [
      "-static",
      "-o",
      `${image}/bin/sockets`,
      "test/support/programs/sockets.c"
    ])
    if ((yield* spawner.exitCode(compiler)) !== 0) return yield* Effect.die("no compiler")
    const tcp = { protocols: ["tcp"], ports: [8080] } as const
    const sandbox = yield* Sandbox.make({
      image,
      ports: [{ host: 28_080, guest: 80 }, { host: 28_081, guest: 81 }],
      network: {
        dns,
        maxTcpConnections: 3,
        policy: NetworkPolicy.make({
          defaultIngress: "deny",
          denyDomains: ["evil.shop.example"],
          rules: [
            Rule.deny({ destination: Destination.ip(machine.denied) }),
            Rule.allow({ destination: Destination.cidr(machine.network), ...tcp }),
            Rule.allow({
              destination: Destination.ip(machine.public),
              protocols: ["udp"],
              ports: [{ from: 8999, to: 9000 }]
            }),
            Rule.allow({ destination: Destination.domain("api.example"), ...tcp }),
            Rule.allow({ destination: Destination.domainSuffix("shop.example"), ...tcp }),
            Rule.allow({ direction: "ingress", protocols: ["tcp"], ports: [80] })
          ]
        })
      }
    })
    yield* sandbox.shell(`${serve(80, "open")}; ${serve(81, "closed")}`)
    const answers = {
      // In a network that a rule allows, but for one address, and for one port.
      ...yield* probe(sandbox, {
        network: fetched(machine.public),
        address: fetched(machine.denied),
        port: fetched(machine.public, 8081)
      }),
      ...yield* probe(sandbox, {
        udp: datagram(machine.public, 9000),
        udpPort: datagram(machine.public, 9001),
        domain: fetched("api.example"),
        askedDomain: asked("api.example"),
        belowDomain: asked("www.api.example")
      }),
      ...yield* probe(sandbox, {
        suffix: fetched("shop.example"),
        belowSuffix: fetched("www.shop.example"),
        deniedDomain: asked("evil.shop.example"),
        otherDomain: asked("example")
      })
    }
    const ingress = { open: yield* visited(28_080), closed: yield* visited(28_081) }
    // As many connections as there may be are held, and one more is tried.
    const held = `(sleep 60 | nc ${machine.public} 8080) >/dev/null 2>&1 </dev/null &`
    yield* sandbox.shell(`for i in 1 2 3; do ${held} done; sleep 1`)
    const { full } = yield* probe(sandbox, { full: fetched(machine.public) })
    return { ...answers, ingress, full }
  }),

  /** Secrets, and the proxy that the same guest's requests take. */
  secrets: Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const spawner = yield* ChildProcessSpawner
    const directory = yield* fs.makeTempDirectoryScoped({ prefix: "msb-" })
    const file = (name: string) => `${directory}/${name}`
    const openssl = (words: string) => spawner.string(ChildProcess.make("openssl", words.split(" ")))
    const key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for (const authority of ["upstream", "intercept"]) {
      const files = `-keyout ${file(`${authority}.key`)} -out ${file(`${authority}.pem`)}`
      yield* openssl(`req -x509 ${key} -days 2 -subj /CN=${authority} ${files}`)
    }
    yield* fs.writeFileString(file("names"), "subjectAltName=DNS:api.example,DNS:shop.example")
    yield* openssl(`req ${key} -subj /CN=server -keyout ${file("server.key")} -out ${file("server.csr")}`)
    const authority = `-CA ${file("upstream.pem")} -CAkey ${file("upstream.key")} -CAcreateserial`
    const extensions = `-days 2 -extfile ${file("names")}`
    yield* openssl(`x509 -req -in ${file("server.csr")} ${authority} ${extensions} -out ${file("server.pem")}`)
    const received: Array<string> = []
    const [certificate, privateKey] = [
      yield* fs.readFileString(file("server.pem")),
      yield* fs.readFileString(file("server.key"))
    ]
    const receive: http.RequestListener = (request, response) => {
      let body = ""
      request.on("data", (part) => {
        body += part
      })
      request.on("end", () => {
        const { authorization = "", host = "" } = request.headers
        received.push(`${host} ${request.url} ${authorization} ${body}`)
        response.end("received\n")
      })
    }
    yield* listening((ready) =>
      https.createServer({ cert: certificate, key: privateKey }, receive).listen(443, "0.0.0.0", ready)
    )
    yield* listening((ready) => http.createServer(receive).listen(8080, "0.0.0.0", ready))
    yield* names
    const proxied: Array<string> = []
    yield* proxy("open up", proxied)
    process.env.PROXY_PASSWORD = "open up"
    process.env.HOST_TOKEN = canary.variable
    const sandbox = yield* Sandbox.make({
      name: "secretive",
      image: yield* root("/usr/bin/openssl"),
      logLevel: "debug",
      patches: [Patch.copyFile(file("intercept.pem"), "/etc/authority.pem")],
      network: {
        policy: "public-only",
        dns,
        tls: {
          upstreamCaCerts: [file("upstream.pem")],
          interceptCa: { cert: file("intercept.pem"), key: file("intercept.key") }
        },
        proxy: {
          socks5: `127.0.0.1:${machine.proxyPort}`,
          credentials: { username: "guest", passwordVariable: "PROXY_PASSWORD" }
        }
      },
      secretViolation: "block",
      secrets: [
        Secret.make({
          env: "API_KEY",
          value: Redacted.make(canary.value),
          hosts: ["api.example"],
          substituteIn: { headers: true, query: true, body: true }
        }),
        Secret.make({
          env: "TOKEN",
          variable: "HOST_TOKEN",
          hosts: ["*.shop.example"],
          placeholder: "a-token-of-the-guest",
          requireTlsIdentity: false
        })
      ]
    })
    const request = (host: string, path: string, authorization: string, body = "") =>
      `printf 'POST %s HTTP/1.1\\r\\nHost: ${host}\\r\\nAuthorization: Bearer %s\\r\\n` +
      `Content-Length: %d\\r\\nConnection: close\\r\\n\\r\\n%s' ` +
      `"${path}" "${authorization}" $(printf %s "${body}" | wc -c) "${body}"; sleep 3`
    const isReceived = "tail -n 1 | grep received || echo blocked"
    const secure = (host: string, path: string, authorization: string, body?: string) =>
      `${resolve(host)}; (${request(host, path, authorization, body)}) | timeout 40 openssl s_client -quiet ` +
      `-verify_return_error -CAfile /etc/authority.pem -servername ${host} -connect $a:443 2>/dev/null | ${isReceived}`
    const plain = (host: string, authorization: string) =>
      `${resolve(host)}; (${request(host, "/plain", authorization)}) | timeout 40 nc $a 8080 | ${isReceived}`
    const answers = yield* probe(sandbox, {
      allowed: secure("api.example", "/?key=$API_KEY", "$API_KEY", "it is $API_KEY"),
      elsewhere: secure("shop.example", "/elsewhere", "$API_KEY"),
      variable: secure("shop.example", "/variable", "$TOKEN"),
      plainElsewhere: plain("api.example", "$TOKEN"),
      plain: plain("shop.example", "$TOKEN")
    })
    const { stdout: environment } = yield* sandbox.shell("echo $API_KEY $TOKEN")
    const told = JSON.stringify([
      yield* sandbox.info,
      yield* Sandbox.get("secretive"),
      yield* sandbox.logs({ sources: ["stdout", "stderr", "output", "system"] })
    ], (_key, value: unknown) => typeof value === "bigint" ? String(value) : value)
    // What the guest has in environments, command lines and files: the words that it is given now to look for, once.
    const words = `${canary.value}\n${canary.variable}\n`
    const { stdout: inside } = yield* sandbox.shell(
      "cat > /tmp/words; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/cmdline 2>/dev/null | " +
        "grep -c -a -F -f /tmp/words; for place in /*; do case $place in /proc | /sys | /dev) ;; " +
        "*) grep -r -l -F -f /tmp/words $place 2>/dev/null ;; esac; done; exit 0",
      { stdin: words }
    )
    // What this machine keeps on its disk.
    const kept = (word: string) =>
      Effect.map(
        spawner.string(ChildProcess.make("grep", ["-r", "-l", "-a", "-F", word, home])),
        (files) => [
          ...new Set(
            files.split("\n").filter((line) => line !== "").map((line) => line.slice(home.length + 1).split("/")[0])
          )
        ]
      )
    return {
      answers,
      received: received.toSorted(),
      environment: environment.trim(),
      inside: inside.trim().split("\n"),
      kept: {
        value: yield* kept(canary.value),
        variable: yield* kept(canary.variable),
        password: yield* kept("open up")
      },
      isTold: [canary.value, canary.variable].some((secret) => told.includes(secret)),
      proxied: [...new Set(proxied)].toSorted(),
      strayAuthority: yield* fs.exists(`${process.env.HOME}/.microsandbox/tls`)
    }
  })
}

Effect.flatMap(
  Effect.scoped(scenarios[scenario] ?? Effect.die(`no scenario ${scenario}`)),
  (seen) => Console.log(JSON.stringify(seen))
).pipe(
  Effect.provide(Layer.provideMerge(Backend.layerLocal({ home }), NodeServices.layer)),
  NodeRuntime.runMain
)
