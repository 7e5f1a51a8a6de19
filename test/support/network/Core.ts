/** The scenarios of test/vm/Network.test.ts: three guests that show the most of it. */
import { Destination, NetworkPolicy, Patch, Rule, Sandbox, Secret } from "@effect-microsandbox/core"
import { Effect, FileSystem, Redacted } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as http from "node:http"
import * as https from "node:https"
import { arrived, dns, every, home, never, reach, reachSecurely, root, visit } from "./Guest.ts"
import { canary, machine } from "./Machine.ts"
import * as Servers from "./Servers.ts"

const { listening } = Servers

/** A policy of rules of every kind. Each rule has ports of its own, so that what arrives says which rule let it. */
export const rules = Effect.gen(function*() {
  yield* Servers.answering(8001, 8002, 8003, 8004, 8005, 8006, 8007, 8008, 8009)
  const datagrams = yield* Servers.receiving([9000, 9001, 9002, 9003, 9004, 9005, 9006, 9007], ["udp4", "udp6"])
  yield* Servers.flowing(8010, 1_048_576)
  yield* Servers.names
  const group = (group: Destination.Group, port: number) =>
    Rule.allow({ destination: Destination.group(group), protocols: ["udp"], ports: [port] })
  const sandbox = yield* Sandbox.make({
    image: yield* root(),
    ports: [80, 81, 82, 83, 8009].map((guest) => ({ host: 20_000 + guest, guest })),
    network: {
      dns,
      policy: NetworkPolicy.make({
        defaultIngress: "deny",
        denyDomains: ["evil.shop.example"],
        rules: [
          Rule.deny({ destination: Destination.ip(machine.denied) }),
          Rule.allow({ destination: Destination.ip(machine.public), protocols: ["tcp"], ports: [8001, 8010] }),
          Rule.allow({ destination: Destination.cidr(machine.network), protocols: ["tcp"], ports: [8002] }),
          Rule.allow({ destination: Destination.domain("api.example"), protocols: ["tcp"], ports: [8003] }),
          Rule.allow({ destination: Destination.domainSuffix("shop.example"), protocols: ["tcp"], ports: [8004] }),
          Rule.allow({ protocols: ["tcp"], ports: [{ from: 8005, to: 8006 }] }),
          Rule.allow({
            destination: Destination.cidr(machine.network6),
            protocols: ["tcp", "udp"],
            ports: [8007, 9007]
          }),
          Rule.allow({ destination: Destination.ip(machine.public), protocols: ["udp"], ports: [9000] }),
          group("public", 9001),
          group("private", 9002),
          group("link-local", 9003),
          group("metadata", 9004),
          group("multicast", 9005),
          group("host", 9006),
          Rule.allow({ destination: Destination.cidr(machine.network), protocols: ["icmpv4"] }),
          Rule.allow({ destination: Destination.ip(machine.public6), protocols: ["icmpv6"] }),
          Rule.allow({ direction: "ingress", protocols: ["tcp"], ports: [80] }),
          Rule.allow({ direction: "ingress", destination: Destination.ip("127.0.0.2"), ports: [82] }),
          Rule.allow({ direction: "ingress", destination: Destination.group("loopback"), ports: [83] }),
          Rule.allow({ direction: "any", destination: Destination.any, protocols: ["tcp"], ports: [8009] })
        ]
      })
    }
  })
  yield* sandbox.exec("reach", ["serve", "80", "81", "82", "83", "8009"])
  const { denied, linkLocal, metadata, multicast, private: inside, private6, public: outside, public6 } = machine
  const web = every("web", { outside, outside6: public6, inside, host: "gateway" }, [
    8001,
    8002,
    8003,
    8004,
    8005,
    8006,
    8007,
    8008,
    8009
  ])
  const byName = every("web", {
    "api.example": "api.example",
    "shop.example": "shop.example",
    "www.shop.example": "www.shop.example"
  }, [8001, 8003, 8004])
  const udp = every(
    "udp",
    { outside, outside6: public6, inside, inside6: private6, linkLocal, metadata, multicast, host: "gateway", denied },
    [9000, 9001, 9002, 9003, 9004, 9005, 9006, 9007]
  )
  const answers: Record<string, string> = yield* reach(sandbox, {
    ...web,
    ...byName,
    ...udp,
    ...every("web", { denied }, [8001, 8002, 8005]),
    "ping:outside": `ping ${outside}`,
    "ping:outside6": `ping ${public6}`,
    "ping:inside": `ping ${inside}`,
    "ping:inside6": `ping ${private6}`,
    "ping:denied": `ping ${denied}`,
    "name:www.api.example": "name www.api.example A",
    "name:evil.shop.example": "name evil.shop.example A",
    "name:inner.shop.example": "name inner.shop.example A",
    "name:example": "name example A",
    flowing: `drink ${outside} 8010`
  })
  const { flowing, ...others } = answers
  return {
    reached: arrived(others).filter((name) => !Object.hasOwn(udp, name)),
    api: answers["api.example:8003"],
    datagrams: [...new Set(datagrams.words)].toSorted(),
    flowing,
    ingress: yield* Effect.all({
      open: visit(20_080),
      closed: visit(20_081),
      otherPeer: visit(20_082),
      peer: visit(20_082, { from: "127.0.0.2" }),
      loopback: visit(20_083),
      any: visit(28_009)
    }, { concurrency: "unbounded" })
  }
})

/** Bounds, and a proxy that knows no datagrams. */
export const limits = Effect.gen(function*() {
  yield* Servers.answering(8001)
  yield* Servers.greeting(8002, "wait")
  yield* Servers.flowing(8010, 1_048_576)
  const datagrams = yield* Servers.receiving([9000, 9001])
  const proxied: Array<string> = []
  yield* Servers.socks4(proxied)
  const sandbox = yield* Sandbox.make({
    image: yield* root(),
    network: {
      policy: "allow-all",
      proxy: { socks4: `127.0.0.1:${machine.proxyPort}`, userId: "guest" },
      maxTcpConnections: 3,
      maxUdpConnections: 2,
      rateLimit: {
        egress: { bandwidth: { size: "128 KiB", per: never, burst: "128 KiB" } },
        ingress: { bandwidth: { size: "192 KiB", per: never } }
      }
    }
  })
  // First: a connection that its server has ended counts for some seconds more.
  const { greeted } = yield* reach(sandbox, { greeted: "hold gateway 8002 5" }, 3000)
  const { two } = yield* reach(sandbox, { two: "talk gateway 9000 2" })
  const { three } = yield* reach(sandbox, { three: "talk gateway 9000 3" })
  const first = yield* reach(sandbox, {
    proxied: `web ${machine.public} 8001`,
    host: "web gateway 8001",
    datagram: `udp ${machine.public} 9000 through-the-proxy`
  }, 3000)
  // The guest's own packets are needed for what it gets: so that comes first.
  const { flowing } = yield* reach(sandbox, { flowing: "drink gateway 8010" }, 4000)
  yield* reach(sandbox, { poured: "pour gateway 9001 1000" }, 4000)
  return {
    ...first,
    datagrams: datagrams.words,
    two,
    three,
    greeted,
    ingress: Number(flowing),
    egress: datagrams.bytes,
    requests: proxied
  }
})

/** Secrets, opened TLS, and the proxy that the same guest's requests take; and what becomes of who gives one away. */
export const secrets = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const spawner = yield* ChildProcessSpawner
  const upstream = yield* Servers.authority("upstream")
  const intercept = yield* Servers.authority("intercept")
  const hosts = ["api.example", "shop.example", "pass.example", "closed.example"]
  const server = yield* Servers.certificate(upstream, hosts)
  const received: Array<string> = []
  const receive: http.RequestListener = (request, response) => {
    let body = ""
    request.on("data", (part) => {
      body += part
    })
    request.on("end", () => {
      const { authorization = "", host = "" } = request.headers
      received.push(`${host} ${request.url} ${authorization} ${body}`.trim())
      response.end("received\n")
    })
  }
  const [cert, key] = [yield* fs.readFileString(server.cert), yield* fs.readFileString(server.key)]
  yield* listening((ready) => https.createServer({ cert, key }, receive).listen(443, "0.0.0.0", ready))
  yield* listening((ready) => http.createServer(receive).listen(8080, "0.0.0.0", ready))
  const datagrams = yield* Servers.receiving([443, 9000])
  yield* Servers.names
  const proxied: Array<string> = []
  yield* Servers.socks5(proxied, "open up")
  process.env.PROXY_PASSWORD = "open up"
  process.env.HOST_TOKEN = canary.variable
  const sandbox = yield* Sandbox.make({
    name: "secretive",
    image: yield* root("/usr/bin/openssl"),
    logLevel: "debug",
    patches: [
      Patch.copyFile(intercept.cert, "/etc/intercept.pem"),
      Patch.copyFile(upstream.cert, "/etc/upstream.pem")
    ],
    network: {
      policy: "public-only",
      dns,
      tls: { bypass: ["closed.example"], upstreamCaCerts: [upstream.cert], interceptCa: intercept },
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
        substituteIn: { headers: true, query: true, body: true },
        passthroughHosts: ["pass.example"],
        onViolation: "block-and-log"
      }),
      Secret.make({
        env: "TOKEN",
        variable: "HOST_TOKEN",
        hosts: ["*.shop.example"],
        placeholder: "a-token-of-the-guest",
        requireTlsIdentity: false
      }),
      Secret.make({
        env: "LAST",
        value: Redacted.make(`last-${canary.value}`),
        hosts: ["api.example"],
        onViolation: "block-and-terminate"
      })
    ]
  })
  // A secret goes to a host by its name: the guest must have looked it up.
  yield* reach(
    sandbox,
    Object.fromEntries(hosts.map((host) => [host, `name ${host} A`]))
  )
  const opened = "/etc/intercept.pem"
  const secure = yield* reachSecurely(sandbox, {
    allowed: {
      address: machine.api,
      name: "api.example",
      authority: opened,
      path: "/?key=$API_KEY",
      authorization: "$API_KEY",
      body: "it is $API_KEY"
    },
    elsewhere: { address: machine.shop, name: "shop.example", authority: opened, authorization: "$API_KEY" },
    passed: {
      address: machine.api,
      name: "pass.example",
      authority: opened,
      path: "/passed",
      authorization: "$API_KEY"
    },
    closed: {
      address: machine.shop,
      name: "closed.example",
      authority: "/etc/upstream.pem",
      path: "/closed",
      authorization: "$API_KEY"
    }
  })
  const plain = (host: string, authorization: string) =>
    `web ${host} 8080 GET /plain HTTP/1.1\\r\\nHost: ${host}\\r\\nAuthorization: Bearer ${authorization}\\r\\n` +
    `Connection: close\\r\\n\\r\\n`
  const open = yield* reach(sandbox, {
    token: plain("shop.example", "a-token-of-the-guest"),
    tokenElsewhere: plain("api.example", "a-token-of-the-guest"),
    keyWithoutTls: plain("api.example", "$MSB_API_KEY"),
    quic: `udp ${machine.public} 443 quic`,
    datagram: `udp ${machine.public} 9000 datagram`
  }, 6000)
  const { stdout: environment } = yield* sandbox.shell("echo $API_KEY $TOKEN")
  const told = JSON.stringify([
    yield* sandbox.info,
    yield* Sandbox.get("secretive"),
    yield* sandbox.logs({ sources: ["stdout", "stderr", "output", "system"] })
  ], (_key, value: unknown) => typeof value === "bigint" ? String(value) : value)
  // What the guest has in environments, command lines and files: the words that it is given now to look for, once. The
  // places of programs and libraries are left out: the test filled them before the boot.
  const words = `${canary.value}\n${canary.variable}\n`
  const { stdout: inside } = yield* sandbox.shell(
    "cat > /tmp/words; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/cmdline 2>/dev/null | " +
      "grep -c -a -F -f /tmp/words; for place in /* /.[a-z]*; do case $place in " +
      "/proc | /sys | /dev | /bin | /sbin | /lib | /lib64 | /usr) ;; " +
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
  const keptThen = {
    value: yield* kept(canary.value),
    variable: yield* kept(canary.variable),
    password: yield* kept("open up")
  }
  // The last that this guest does.
  yield* Effect.exit(reach(sandbox, { last: plain("shop.example", "$MSB_LAST") }))
  const { status } = yield* sandbox.wait
  const log = yield* fs.readFileString(`${home}/sandboxes/secretive/logs/runtime.log`)
  const violations = log.split("\n").filter((line) => line.includes("placeholder detected"))
    // oxlint-disable-next-line no-control-regex -- the log may have colours
    .flatMap((line) => /secret_env_var=(\w+)/.exec(line.replace(/\x1b\[[0-9;]*m/g, ""))?.[1] ?? line)
  return {
    secure,
    open,
    datagrams: [...new Set(datagrams.words)],
    received: received.toSorted(),
    environment: environment.trim(),
    inside: inside.trim().split("\n"),
    kept: keptThen,
    isTold: [canary.value, canary.variable].some((secret) => told.includes(secret) || log.includes(secret)),
    proxied: [...new Set(proxied)].toSorted(),
    strayAuthority: yield* fs.exists(`${process.env.HOME}/.microsandbox/tls`),
    status,
    violations
  }
})
