/** What a guest reaches, in a network of loopback alone whose servers are the test's. */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { canary, commands, machine } from "../support/Machine.ts"
import { temporaryDirectory } from "../support/Sandboxes.ts"

/** Runs a scenario of `programs/network.ts` in a network namespace, and gives what its guests saw. */
const run = Effect.fn("run")(function*(scenario: string) {
  const spawner = yield* ChildProcessSpawner
  const home = yield* temporaryDirectory
  const script = `${commands}; exec node test/support/programs/network.ts ${scenario} ${home}`
  const output = yield* spawner.string(
    ChildProcess.make("unshare", [process.getuid?.() === 0 ? "-n" : "-rn", "sh", "-ec", script], {
      env: { HOME: home },
      extendEnv: true,
      stderr: "inherit"
    })
  )
  // A scenario that fails prints its error.
  return output.startsWith("{") ? JSON.parse(output) : assert.fail(output)
})

layer(NodeServices.layer, { timeout: "10 minutes", excludeTestServices: true })("the network of a sandbox", (it) => {
  it.effect("lets through what each policy with a name says, and nothing else", () =>
    Effect.gen(function*() {
      const seen = yield* run("presets")
      const [web, inside] = [`web ${machine.public}`, `web ${machine.private}`]
      const common = { public: web, name: `web ${machine.shop}`, ingress: "guest" }
      assert.deepStrictEqual(seen, {
        "public-only": { ...common, private: "denied", host: "denied", rebound: "denied" },
        none: {
          public: "denied",
          private: "denied",
          host: "denied",
          name: "denied",
          rebound: "denied",
          ingress: "denied"
        },
        "non-local": { ...common, private: inside, host: "denied", rebound: inside },
        "allow-all": { ...common, private: inside, host: "web 127.0.0.1", rebound: "denied" }
      })
    }))

  it.effect("lets through what rules say: by network, address, name, protocol, port and direction", () =>
    Effect.gen(function*() {
      const seen = yield* run("rules")
      assert.deepStrictEqual(seen, {
        network: `web ${machine.public}`,
        address: "denied",
        port: "denied",
        udp: "hello",
        udpPort: "denied",
        domain: `web ${machine.api}`,
        askedDomain: "found",
        belowDomain: "denied",
        suffix: `web ${machine.shop}`,
        belowSuffix: `web ${machine.shop}`,
        deniedDomain: "denied",
        otherDomain: "denied",
        ingress: { open: "open", closed: "denied" },
        full: "denied"
      })
    }))

  it.effect("carries a secret to who may have it, and never to the guest; through a proxy, and opened for it", () =>
    Effect.gen(function*() {
      const seen = yield* run("secrets")
      assert.deepStrictEqual(seen, {
        answers: {
          allowed: "received",
          elsewhere: "blocked",
          variable: "received",
          plainElsewhere: "blocked",
          plain: "received"
        },
        received: [
          `api.example /?key=${canary.value} Bearer ${canary.value} it is ${canary.value}`,
          `shop.example /plain Bearer ${canary.variable} `,
          `shop.example /variable Bearer ${canary.variable} `
        ],
        environment: "$MSB_API_KEY a-token-of-the-guest",
        inside: ["0", "/tmp/words"],
        isTold: false,
        // A value is in the engine's database, as it is: a later start needs it. Of a variable there is the name alone.
        kept: { value: ["db"], variable: [], password: [] },
        proxied: [
          `guest ${machine.api}:443`,
          `guest ${machine.api}:8080`,
          `guest ${machine.shop}:443`,
          `guest ${machine.shop}:8080`
        ],
        strayAuthority: false
      })
    }))
})
