/** The scenarios of test/long/Network.test.ts: each policy by its name, and what is rarer. */
import {
  Backend,
  Destination,
  NetworkPolicy,
  Patch,
  Rule,
  Sandbox,
  type SandboxOptions,
  Secret
} from "@effect-microsandbox/core"
import { Effect, FileSystem, Layer, Redacted } from "effect"
import * as http2 from "node:http2"
import * as https from "node:https"
import * as tls from "node:tls"
import * as Registry from "../Registry.ts"
import { dns, home, never, reach, reachSecurely, root, visit } from "./Guest.ts"
import { canary, machine } from "./Machine.ts"
import * as Servers from "./Servers.ts"

/** What each of several has to say, by its name; one after the other. */
const each = <Name extends string, A, E, R>(
  names: ReadonlyArray<Name>,
  see: (name: Name) => Effect.Effect<A, E, R>
) =>
  Effect.map(
    Effect.forEach(names, (name) => Effect.scoped(see(name))),
    (seen) => Object.fromEntries(names.map((name, at) => [name, seen[at]]))
  )

/** A server by TLS that says who it is. */
const secure = Effect.fn("secure")(function*(port: number, { cert, key }: Servers.Certificate, word: string) {
  const fs = yield* FileSystem.FileSystem
  const files = { cert: yield* fs.readFileString(cert), key: yield* fs.readFileString(key) }
  return yield* Servers.listening((ready) =>
    https.createServer(files, (_request, response) => response.end(`${word}\n`)).listen(port, "::", ready)
  )
})

/** Each policy that has a name. */
export const presets = Effect.gen(function*() {
  yield* Servers.answering(8080)
  yield* Servers.names
  const image = yield* root()
  return yield* each(["public-only", "none", "non-local", "allow-all"], (policy) =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.make({ image, network: { policy, dns }, ports: [{ host: 28_080, guest: 80 }] })
      yield* sandbox.exec("reach", ["serve", "80"])
      const answers = yield* reach(sandbox, {
        public: `web ${machine.public} 8080`,
        public6: `web ${machine.public6} 8080`,
        private: `web ${machine.private} 8080`,
        private6: `web ${machine.private6} 8080`,
        linkLocal: `web ${machine.linkLocal} 8080`,
        metadata: `web ${machine.metadata} 8080`,
        host: "web host.microsandbox.internal 8080",
        name: "web www.shop.example 8080",
        // A public name with a private address.
        rebound: "web inner.example 8080",
        ping: `ping ${machine.public}`,
        pingPrivate: `ping ${machine.private}`
      })
      return { ...answers, ingress: yield* visit(28_080) }
    }))
})

/** A rule for a domain, with and without `strict`, and with TLS opened; and what a guest says to an address of it. */
export const strict = Effect.gen(function*() {
  yield* Servers.answering(8080)
  yield* Servers.greeting(8090, "end")
  yield* Servers.names
  const upstream = yield* Servers.authority("upstream")
  yield* secure(443, yield* Servers.certificate(upstream, ["shop.example"]), "secure")
  const intercept = yield* Servers.authority("intercept")
  const image = yield* root("/usr/bin/openssl")
  return yield* each(["lax", "strict", "opened"], (name) =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.make({
        image,
        patches: [
          Patch.copyFile(name === "opened" ? intercept.cert : upstream.cert, "/etc/authority.pem", { replace: true })
        ],
        network: {
          dns,
          strict: name !== "lax",
          tls: name === "opened" ? { upstreamCaCerts: [upstream.cert], interceptCa: intercept } : undefined,
          policy: NetworkPolicy.make({ rules: [Rule.allow({ destination: Destination.domain("shop.example") })] })
        }
      })
      // The engine knows the addresses of the domain by the guest's question.
      yield* reach(sandbox, { shop: "name shop.example A" })
      const { shop } = machine
      const secure = yield* reachSecurely(sandbox, {
        named: { address: shop, name: "shop.example", authority: "/etc/authority.pem" },
        unnamed: { address: shop, name: "", authority: "/etc/authority.pem" },
        // The name is not enough: the address must be one of it.
        forged: { address: machine.api, name: "shop.example", authority: "/etc/authority.pem" }
      })
      const answers = yield* reach(sandbox, {
        http: `web ${shop} 8080 GET / HTTP/1.1\\r\\nHost: shop.example\\r\\n\\r\\n`,
        otherName: `web ${shop} 8080 GET / HTTP/1.1\\r\\nHost: api.example\\r\\n\\r\\n`,
        otherAddress: `web ${machine.api} 8080 GET / HTTP/1.1\\r\\nHost: shop.example\\r\\n\\r\\n`,
        words: `raw ${shop} 8080 hello`,
        silence: `raw ${shop} 8090 -`,
        half: `raw ${shop} 8080 !`
      }, 12_000)
      return { ...secure, ...answers }
    }))
})

/** Names that are denied where all else is allowed. */
export const denials = Effect.gen(function*() {
  yield* Servers.answering(8080)
  yield* Servers.names
  const sandbox = yield* Sandbox.make({
    image: yield* root(),
    network: {
      dns,
      policy: NetworkPolicy.make({
        defaultEgress: "allow",
        denyDomains: ["evil.shop.example"],
        denyDomainSuffixes: ["api.example"]
      })
    }
  })
  const { api, shop } = machine
  const request = (host: string) => `8080 GET / HTTP/1.1\\r\\nHost: ${host}\\r\\n\\r\\n`
  return yield* reach(sandbox, {
    evil: "name evil.shop.example A",
    below: "name www.api.example A",
    other: "name shop.example A",
    evilSaid: `web ${shop} ${request("evil.shop.example")}`,
    belowSaid: `web ${api} ${request("www.api.example")}`,
    otherSaid: `web ${shop} ${request("shop.example")}`,
    words: `raw ${shop} 8080 hello`
  })
})

/** Names: of both families, of private addresses, and where none may be asked for. */
export const lookups = Effect.gen(function*() {
  yield* Servers.answering(8080, 853)
  yield* Servers.names
  const image = yield* root()
  return yield* each(["protected", "unprotected", "unasked"], (name) =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.make({
        image,
        network: {
          dns: {
            ...dns,
            rebindProtection: name !== "unprotected",
            queryTimeout: name === "unprotected" ? "12 seconds" : "2 seconds"
          },
          policy: NetworkPolicy.make({
            rules: [
              ...name === "unasked" ? [Rule.denyDns] : [],
              Rule.allow({ destination: Destination.domainSuffix("shop.example") }),
              Rule.allow({ destination: Destination.domain("inner.example") })
            ]
          })
        }
      })
      const found = yield* reach(sandbox, {
        four: "name shop.example A",
        six: "name shop.example AAAA",
        inner: "name inner.example A",
        none: "name none.shop.example A",
        other: "name api.example A"
      })
      // Its answer takes a while.
      const { late } = yield* reach(sandbox, { late: "name late.shop.example A" }, 24_000)
      const answers = yield* reach(sandbox, {
        six: `web ${machine.shop6} 8080 GET / HTTP/1.1\\r\\nHost: shop.example\\r\\n\\r\\n`,
        inner: `web ${machine.private} 8080 GET / HTTP/1.1\\r\\nHost: inner.example\\r\\n\\r\\n`,
        // A question by TLS that cannot be looked into is not let out, to an address that may be reached.
        overTls: `raw ${machine.shop} 853 hello`
      })
      return { found, late, answers }
    }))
})

/** Whom the engine trusts when it opens TLS, and whom the guest. */
export const trust = Effect.gen(function*() {
  const [upstream, local] = [yield* Servers.authority("upstream"), yield* Servers.authority("local")]
  const names = ["api.example", "shop.example", "pass.example"]
  const server = yield* Servers.certificate(upstream, names)
  yield* secure(8443, server, "opened")
  yield* secure(443, server, "closed")
  yield* secure(444, yield* Servers.certificate(local, names), "local")
  yield* Servers.receiving([8443])
  yield* Servers.names
  // Whom this machine trusts is what the VM process has in this variable.
  process.env.SSL_CERT_FILE = local.cert
  yield* Effect.addFinalizer(() => Effect.sync(() => delete process.env.SSL_CERT_FILE))
  return yield* each(["host", "own", "both"], (name) =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.make({
        image: yield* root("/usr/bin/openssl"),
        patches: [Patch.copyFile(upstream.cert, "/etc/upstream.pem")],
        network: {
          dns,
          trustHostCas: name !== "own",
          tls: name === "host" ? undefined : {
            ports: [8443],
            blockQuic: name === "own",
            upstreamCaCertsFor: { "api.example": [upstream.cert] },
            verifyUpstreamFor: { "shop.example": false }
          }
        }
      })
      yield* reach(sandbox, Object.fromEntries(names.map((name) => [name, `name ${name} A`])))
      const secure = yield* reachSecurely(sandbox, {
        // By an authority that the engine made, and that the guest has been told of.
        trusted: { address: machine.api, port: 8443, name: "api.example" },
        unverified: { address: machine.shop, port: 8443, name: "shop.example" },
        untrusted: { address: machine.api, port: 8443, name: "pass.example" },
        // Not one of the ports: the server's own certificate comes.
        closed: { address: machine.api, name: "api.example", authority: "/etc/upstream.pem" },
        local: { address: machine.api, port: 444, name: "api.example" }
      })
      const { quic } = yield* reach(sandbox, { quic: `udp ${machine.public} 8443 quic` }, 4000)
      return { ...secure, quic }
    }))
})

/** What is written of a violation, by how much the VM process says at all. */
export const violations = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  yield* Servers.answering(8080)
  yield* Servers.names
  const image = yield* root()
  return yield* each(["default", "warn"], (name) =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.make({
        name,
        image,
        logLevel: name === "warn" ? "warn" : undefined,
        network: { dns },
        secretViolation: "block-and-log",
        secrets: ["LOGGED", "SILENT"].map((env) =>
          Secret.make({
            env,
            value: Redacted.make("sesame"),
            hosts: ["shop.example"],
            requireTlsIdentity: false,
            onViolation: env === "SILENT" ? "block" : undefined
          })
        )
      })
      const request = (env: string) =>
        `web api.example 8080 GET / HTTP/1.1\\r\\nHost: api.example\\r\\nX-Key: $MSB_${env}\\r\\n\\r\\n`
      const answers = yield* reach(sandbox, { logged: request("LOGGED"), silent: request("SILENT") })
      const log = yield* Effect.orElseSucceed(fs.readFileString(`${home}/sandboxes/${name}/logs/runtime.log`), () => "")
      const told = ["LOGGED", "SILENT"].filter((env) => log.includes(`$MSB_${env}`))
      return { ...answers, told, isAlive: (yield* sandbox.exec("true")).exitCode === 0 }
    }))
})

/** A request of HTTP/2 in frames, whose headers are literal. */
const http2Request = (host: string, headers: Readonly<Record<string, string>>) => {
  const text = (word: string) => [word.length, ...Buffer.from(word)]
  const all = { ":method": "GET", ":scheme": "https", ":path": "/", ":authority": host, ...headers }
  const block = Object.entries(all).flatMap(([name, value]) => [0, ...text(name), ...text(value)])
  const frame = (kind: number, flags: number, stream: number, payload: ReadonlyArray<number>) => [
    0,
    payload.length >> 8,
    payload.length & 255,
    kind,
    flags,
    0,
    0,
    0,
    stream,
    ...payload
  ]
  // Settings; and headers, which end both themselves and the request.
  const frames = [...frame(4, 0, 0, []), ...frame(1, 0x5, 1, block)]
  return Buffer.concat([Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Buffer.from(frames)])
}

/** A secret in requests of HTTP/2, to who may have it and to another. */
export const http2Secret = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const upstream = yield* Servers.authority("upstream")
  const intercept = yield* Servers.authority("intercept")
  const { cert, key } = yield* Servers.certificate(upstream, ["api.example", "shop.example"])
  const received: Array<string> = []
  const files = { cert: yield* fs.readFileString(cert), key: yield* fs.readFileString(key) }
  yield* Servers.listening((ready) => {
    // The engine negotiates no protocol, towards nobody: this is for those who say nothing of it beforehand.
    const server = tls.createServer(files, (socket) => {
      const session = http2.performServerHandshake(socket)
      session.on("error", () => session.destroy())
      session.on("stream", (stream, headers) => {
        received.push(`${headers[":authority"]} ${headers.authorization}`)
        stream.respond({ ":status": 200 })
        stream.end("received")
      })
    })
    return server.listen(443, "0.0.0.0", ready)
  })
  yield* Servers.names
  const requests = { api: machine.api, shop: machine.shop }
  const directory = yield* fs.makeTempDirectoryScoped()
  for (const name of Object.keys(requests)) {
    const request = http2Request(`${name}.example`, { authorization: "Bearer $MSB_API_KEY" })
    yield* fs.writeFile(`${directory}/${name}`, request)
  }
  const sandbox = yield* Sandbox.make({
    image: yield* root("/usr/bin/openssl"),
    patches: [
      Patch.copyFile(intercept.cert, "/etc/intercept.pem"),
      Patch.copyDirectory(directory, "/etc/requests")
    ],
    network: {
      policy: "public-only",
      dns,
      tls: { upstreamCaCerts: [upstream.cert], interceptCa: intercept }
    },
    secretViolation: "block",
    secrets: [Secret.make({ env: "API_KEY", value: Redacted.make(canary.value), hosts: ["api.example"] })]
  })
  yield* reach(sandbox, { api: "name api.example A", shop: "name shop.example A" })
  const answers: Record<string, string> = {}
  for (const [name, address] of Object.entries(requests)) {
    const client = `openssl s_client -quiet -verify_return_error -CAfile /etc/intercept.pem ` +
      `-servername ${name}.example -connect ${address}:443`
    const script = `(cat /etc/requests/${name}; sleep 8) | timeout 20 ${client} 2>/dev/null | grep -c received`
    answers[name] = (yield* sandbox.shell(script)).stdout.trim()
  }
  return { answers, received }
})

/** Proxies: with a password that is right or wrong, or without one. */
export const proxies = Effect.gen(function*() {
  yield* Servers.answering(8080)
  yield* Servers.receiving([9000])
  const image = yield* root()
  return yield* each(["open", "right", "wrong"], (name) =>
    Effect.gen(function*() {
      const requests: Array<string> = []
      yield* Servers.socks5(requests, name === "open" ? undefined : "open up")
      process.env.PROXY_PASSWORD = name === "right" ? "open up" : "let me in"
      const credentials = { username: "guest", passwordVariable: "PROXY_PASSWORD" }
      const sandbox = yield* Sandbox.make({
        image,
        network: {
          policy: "allow-all",
          proxy: {
            socks5: `127.0.0.1:${machine.proxyPort}`,
            credentials: name === "open" ? undefined : credentials
          }
        }
      })
      const answers = yield* reach(sandbox, {
        web: `web ${machine.public} 8080`,
        datagram: `udp ${machine.public} 9000 hello`,
        host: "web gateway 8080"
      }, 5000)
      return { ...answers, requests: [...new Set(requests)].toSorted() }
    }))
})

/** What the guest's interface has, by what it was told. */
export const interfaces = Effect.gen(function*() {
  yield* Servers.answering(8080)
  const image = yield* root()
  const given: Readonly<Record<string, SandboxOptions.NetworkInterface>> = {
    pools: { ipv4Pool: "10.9.0.0/16", ipv6Pool: "fd00:9::/48", mtu: 9000 },
    addresses: { mac: "02:00:00:00:00:2a", ipv4: "10.9.8.6", ipv6: "fd00:9:8::7", mtu: 1280 }
  }
  return yield* each(Object.keys(given), (name) =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.make({ image, network: { interface: given[name] } })
      const answers = yield* reach(sandbox, {
        public: `web ${machine.public} 8080`,
        public6: `web ${machine.public6} 8080`
      })
      const { stdout } = yield* sandbox.shell(
        "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu; " +
          "ip -o addr show dev eth0 scope global | sed 's/.* inet6* \\([^ ]*\\).*/\\1/'; " +
          "ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'"
      )
      return { ...answers, interface: stdout.trim().split("\n") }
    }))
})

/** Buckets of packets, against none. */
export const packets = Effect.gen(function*() {
  yield* Servers.flowing(8010, 1_048_576)
  const datagrams = yield* Servers.receiving([9001])
  const image = yield* root()
  return yield* each(["unlimited", "limited"], (name) =>
    Effect.gen(function*() {
      const limit: SandboxOptions.RateLimit = { packets: { count: 100, per: never, burst: 50 } }
      const sandbox = yield* Sandbox.make({
        image,
        network: {
          policy: "allow-all",
          rateLimit: name === "limited" ? { egress: limit, ingress: limit } : undefined
        }
      })
      const { flowing } = yield* reach(sandbox, { flowing: "drink gateway 8010" }, 4000)
      datagrams.bytes = 0
      yield* reach(sandbox, { poured: "pour gateway 9001 1000" }, 4000)
      return { ingress: Number(flowing), egress: datagrams.bytes / 1000 }
    }))
})

/** Guests of snapshots, with the policy that they were taken with, and with others. */
export const restored = Effect.gen(function*() {
  yield* Servers.answering(8080)
  yield* Servers.greeting(8002, "wait")
  yield* Servers.receiving([9000])
  const registry = yield* Registry.Registry
  const image = yield* registry.push("restored", yield* root())
  const tries = (sandbox: Sandbox.Sandbox) =>
    reach(sandbox, { public: `web ${machine.public} 8080`, private: `web ${machine.private} 8080` }, 3000)
  const source = yield* Sandbox.make({ name: "origin", image, memory: "192 MiB", network: "public-only" })
  const before = yield* tries(source)
  const full = yield* source.snapshot("full", { full: true })
  yield* source.stop()
  const disk = yield* source.snapshot("disk")
  const see = (reference: string, options: Sandbox.RestoreOptions) =>
    Effect.scoped(Effect.flatMap(Sandbox.restore(reference, options), tries))
  return {
    before,
    full: yield* see(full.reference, {}),
    fullNone: yield* see(full.reference, { network: "none" }),
    fullMore: yield* see(full.reference, { network: "non-local" }),
    disk: yield* see(disk.reference, {}),
    diskMore: yield* see(disk.reference, { network: "non-local" }),
    bounded: yield* Effect.scoped(
      Effect.gen(function*() {
        const bounds = { policy: "allow-all", maxTcpConnections: 3, maxUdpConnections: 2 } as const
        const sandbox = yield* Sandbox.restore(full.reference, { network: bounds })
        const { greeted } = yield* reach(sandbox, { greeted: "hold gateway 8002 5" }, 3000)
        const { two } = yield* reach(sandbox, { two: "talk gateway 9000 2" })
        const { three } = yield* reach(sandbox, { three: "talk gateway 9000 3" })
        return { greeted, two, three }
      })
    )
  }
}).pipe(
  // The engine reads of plain registries when a backend is opened.
  Effect.provide(Backend.layerLocal({ home: `${home}/r` }).pipe(Layer.provideMerge(Registry.layer)))
)
