/**
 * What a guest reaches, in a network of loopback alone whose servers are the test's: one guest with rules of every kind, one
 * with secrets, and one with bounds. What is rarer, and each policy by its name, is in test/long/Network.test.ts.
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { canary, machine } from "../support/network/Machine.ts"
import * as Network from "../support/network/Network.ts"

const layerNetwork = Network.layer.pipe(Layer.provide(NodeServices.layer))

layer(layerNetwork, { timeout: "10 minutes", excludeTestServices: true })("the network of a sandbox", (it) => {
  it.effect("lets through what rules say: by network, address, name, group, protocol, port and direction", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      assert.deepStrictEqual(yield* network.run("rules"), {
        reached: [
          "outside:8001",
          "outside:8002",
          "outside:8005",
          "outside:8006",
          "outside:8009",
          "outside6:8005",
          "outside6:8006",
          "outside6:8007",
          "outside6:8009",
          "inside:8005",
          "inside:8006",
          "inside:8009",
          "host:8005",
          "host:8006",
          "host:8009",
          "api.example:8003",
          "shop.example:8004",
          "www.shop.example:8004",
          // None of IPv6: the engine drops the answers.
          "ping:outside"
        ],
        api: `${machine.api} 8003`,
        datagrams: [
          "host 9006",
          "inside 9002",
          "inside6 9002",
          "linkLocal 9003",
          "metadata 9004",
          "multicast 9005",
          "outside 9000",
          "outside 9001",
          "outside6 9001",
          "outside6 9007"
        ],
        flowing: "1048576",
        ingress: {
          open: "guest 80",
          closed: "denied",
          otherPeer: "denied",
          peer: "guest 82",
          loopback: "guest 83",
          any: "guest 8009"
        }
      })
    }))

  it.effect("carries a secret to who may have it, and never to the guest; through a proxy, and opened for it", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      assert.deepStrictEqual(yield* network.run("secrets"), {
        secure: { allowed: "received", elsewhere: "denied", passed: "received", closed: "received" },
        open: {
          token: "received",
          tokenElsewhere: "denied",
          keyWithoutTls: "denied",
          quic: "denied",
          datagram: "datagram"
        },
        datagrams: ["datagram 9000"],
        received: [
          `api.example /?key=${canary.value} Bearer ${canary.value} it is ${canary.value}`,
          "closed.example /closed Bearer $MSB_API_KEY",
          "pass.example /passed Bearer $MSB_API_KEY",
          `shop.example /plain Bearer ${canary.variable}`
        ],
        environment: "$MSB_API_KEY a-token-of-the-guest",
        inside: ["0", "/tmp/words"],
        // A value is in the engine's database, as it is: a later start needs it. Of a variable there is the name alone.
        kept: { value: ["db"], variable: [], password: [] },
        isTold: false,
        proxied: [
          `guest ${machine.api}:443`,
          `guest ${machine.api}:8080`,
          `guest ${machine.shop}:443`,
          `guest ${machine.shop}:8080`,
          `guest udp ${machine.public}:9000`
        ],
        strayAuthority: false,
        status: "Stopped",
        violations: ["API_KEY", "API_KEY", "LAST"]
      })
    }))

  it.effect("has bounds: connections at a time, and bytes by direction; and a proxy that knows no datagrams", () =>
    Effect.gen(function*() {
      const network = yield* Network.Network
      const { egress, ingress, ...seen } = yield* network.run("limits")
      assert.deepStrictEqual(seen, {
        proxied: `${machine.public} 8001`,
        host: "127.0.0.1 8001",
        datagram: "denied",
        datagrams: [],
        // Of two conversations at a time the first is as it was; of three it was ended for the last.
        two: "same",
        three: "other",
        greeted: "3",
        requests: [`guest ${machine.public}:8001`]
      })
      // Of a mebibyte as many bytes as the buckets hold, less the heads of the packets, and what was said before.
      assert.isAtMost(ingress, 192 * 1024)
      assert.isAtLeast(ingress, 128 * 1024)
      assert.isAtMost(egress, 256 * 1024)
      assert.isAtLeast(egress, 128 * 1024)
    }))
})
