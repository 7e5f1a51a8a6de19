/**
 * What a guest reaches, in a network of loopback alone whose servers are the test's: each policy by its name, and what is
 * rarer than what test/vm/Network.test.ts has.
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { canary, machine } from "../support/network/Machine.ts"
import * as Network from "../support/network/Network.ts"

const layerNetwork = Network.layer.pipe(Layer.provide(NodeServices.layer))

layer(layerNetwork, { timeout: "10 minutes", excludeTestServices: true })("the network of a sandbox", (it) => {
  it.effect("lets through what each policy with a name says, and nothing else", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      const at = (address: string) => `${address} 8080`
      const nothing = {
        public: "denied",
        public6: "denied",
        private: "denied",
        private6: "denied",
        linkLocal: "denied",
        metadata: "denied",
        host: "denied",
        name: "denied",
        rebound: "denied",
        ping: "denied",
        pingPrivate: "denied",
        ingress: "denied"
      }
      const outside = {
        ...nothing,
        public: at(machine.public),
        public6: at(machine.public6),
        name: at(machine.shop),
        ping: "pong",
        ingress: "guest 80"
      }
      const inside = {
        ...outside,
        private: at(machine.private),
        private6: at(machine.private6),
        rebound: at(machine.private),
        pingPrivate: "pong"
      }
      assert.deepStrictEqual(yield* network.run("presets"), {
        "public-only": outside,
        none: nothing,
        "non-local": inside,
        // Protection from names of private addresses goes by what rules allow, and it has none.
        "allow-all": {
          ...inside,
          linkLocal: at(machine.linkLocal),
          metadata: at(machine.metadata),
          host: at("127.0.0.1"),
          rebound: "denied"
        }
      })
    }))

  it.effect("goes by what is said where a rule allows a domain, and with strict by nothing that hides it", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      const at = `${machine.shop} 8080`
      // Words that are neither HTTP nor TLS pass with strict too, of which the option's docs tell.
      const all = { forged: "denied", http: at, otherName: "denied", otherAddress: "denied", words: at }
      const strict = { ...all, unnamed: "denied", silence: "denied", half: "denied" }
      assert.deepStrictEqual(yield* network.run("strict"), {
        lax: { ...all, named: "secure", unnamed: "secure", silence: "welcome", half: at },
        // Of TLS that stays closed nobody knows for whom its requests are.
        strict: { ...strict, named: "denied" },
        opened: { ...strict, named: "secure" }
      })
    }))

  it.effect("does not find a name that is denied, nor let it be said; an address of it is an address", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      assert.deepStrictEqual(yield* network.run("denials"), {
        evil: "denied",
        below: "denied",
        other: machine.shop,
        evilSaid: "denied",
        belowSaid: "denied",
        otherSaid: `${machine.shop} 8080`,
        words: `${machine.shop} 8080`
      })
    }))

  it.effect("finds the names that rules allow, those of private addresses when it is told to, and none when none may be asked", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      const found = { four: machine.shop, six: machine.shop6, inner: "denied", none: "denied", other: "denied" }
      const answers = { six: `${machine.shop6} 8080`, inner: "denied", overTls: "denied" }
      assert.deepStrictEqual(yield* network.run("lookups"), {
        // What comes after the time for a question is no answer.
        protected: { found, late: "denied", answers },
        unprotected: {
          found: { ...found, inner: machine.private },
          late: machine.shop,
          answers: { ...answers, inner: `${machine.private} 8080` }
        },
        unasked: {
          found: { ...found, four: "denied", six: "denied" },
          late: "denied",
          answers: { ...answers, six: "denied" }
        }
      })
    }))

  it.effect("opens TLS towards those that it trusts, and has the guest trust it, and whom this machine trusts", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      const closed = { trusted: "denied", unverified: "denied", untrusted: "denied", closed: "closed" }
      const opened = { ...closed, trusted: "opened", unverified: "opened" }
      assert.deepStrictEqual(yield* network.run("trust"), {
        // The guest has them, and openssl is told of them where TLS is opened.
        host: { ...closed, local: "denied", quic: "quic" },
        own: { ...opened, local: "denied", quic: "denied" },
        both: { ...opened, local: "local", quic: "quic" }
      })
    }))

  it.effect("writes of violations that are to be written of, and of no other", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      const blocked = { logged: "denied", silent: "denied", isAlive: true }
      assert.deepStrictEqual(yield* network.run("violations"), {
        default: { ...blocked, told: ["LOGGED"] },
        warn: { ...blocked, told: ["LOGGED"] }
      })
    }))

  it.effect("carries a secret in a request of HTTP/2 to who may have it, and to nobody else", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      assert.deepStrictEqual(yield* network.run("http2Secret"), {
        answers: { api: "1", shop: "0" },
        received: [`api.example Bearer ${canary.value}`]
      })
    }))

  it.effect("takes a proxy for connections and datagrams, and nothing leaves when that does not take it", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      const passed = { web: `${machine.public} 8080`, datagram: "hello", host: "127.0.0.1 8080" }
      const requests = (user: string) => [`${user} ${machine.public}:8080`, `${user} udp ${machine.public}:9000`]
      assert.deepStrictEqual(yield* network.run("proxies"), {
        open: { ...passed, requests: requests("anyone") },
        right: { ...passed, requests: requests("guest") },
        wrong: { ...passed, web: "denied", datagram: "denied", requests: [] }
      })
    }))

  it.effect("is on an interface with the addresses that it is told, of both families", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      const { addresses, pools } = yield* network.run("interfaces")
      const reached = { public: `${machine.public} 8080`, public6: `${machine.public6} 8080` }
      assert.deepStrictEqual(addresses, {
        ...reached,
        interface: ["02:00:00:00:00:2a", "1280", "10.9.8.6/30", "fd00:9:8::7/64", "10.9.8.5"]
      })
      const [mac, mtu, four, six] = pools.interface
      assert.deepStrictEqual({ ...pools, interface: mtu }, { ...reached, interface: "9000" })
      assert.match(mac, /^02:/)
      assert.match(four, /^10[.]9[.].*\/30$/)
      assert.match(six, /^fd00:9:.*::2\/64$/)
    }))

  it.effect("lets so many packets through, by direction", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      const { limited, unlimited } = yield* network.run("packets")
      assert.strictEqual(unlimited.ingress, 1_048_576)
      assert.isAbove(unlimited.egress, 500)
      // A packet has at most 1460 bytes of a stream, and some of the 150 are for other things.
      assert.isAtMost(limited.ingress, 150 * 1460)
      assert.isAtLeast(limited.ingress, 75 * 1460)
      assert.isAtMost(limited.egress, 150)
    }))

  it.effect("is that of the snapshot after a restore, or what the restore says", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      const asTaken = { public: `${machine.public} 8080`, private: "denied" }
      const more = { ...asTaken, private: `${machine.private} 8080` }
      assert.deepStrictEqual(yield* network.run("restored"), {
        before: asTaken,
        full: asTaken,
        fullNone: { public: "denied", private: "denied" },
        fullMore: more,
        disk: asTaken,
        diskMore: more,
        bounded: { greeted: "3", two: "same", three: "other" }
      })
    }))
})
