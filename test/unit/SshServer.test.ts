import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted, Result } from "effect"
import { decodeOptions } from "../../packages/core/src/internal/failure.ts"
import { OptionsSchema } from "../../packages/ssh/src/internal/sshServer.ts"

const decode = decodeOptions(OptionsSchema, { operation: "test" })

const key = { authorizedKeys: ["ssh-ed25519 AAAA me"] }

const fieldOf = (options: unknown) => {
  const result = Effect.runSync(Effect.result(decode(options)))
  assert.isTrue(Result.isFailure(result), JSON.stringify(options))
  return Result.isFailure(result) && result.failure.reason._tag === "InvalidConfig"
    ? [result.failure.reason.field, result.failure.reason.message]
    : []
}

describe("the options of an SSH server", () => {
  it("are taken as they are documented", () => {
    for (
      const options of [
        key,
        { authorizedKeysPath: "/keys" },
        { authorizedAgent: true },
        { authorizedAgent: "/run/agent", loginTimeout: 30_000 },
        { ...key, host: "::1", port: 0, loginTimeout: Infinity },
        { ...key, path: "/run/s", hostKey: { path: "host" }, sftp: false, user: "me" },
        { ...key, hostKey: Redacted.make("text"), inactivityTimeout: Infinity, maxConnections: 100 }
      ]
    ) assert.deepStrictEqual(Effect.runSync(decode(options)), options)
  })

  it("need a key that may log in, and a server listens on one thing", () => {
    for (const none of [{}, { authorizedKeys: [] }, { authorizedAgent: false }]) {
      const [field, message] = fieldOf(none)
      assert.strictEqual(field, "authorizedKeys")
      assert.include(message, "one public key or more")
    }
    for (const both of [{ port: 1 }, { host: "::1" }]) {
      const [field, message] = fieldOf({ ...key, ...both, path: "/run/s" })
      assert.strictEqual(field, "path")
      assert.include(message, "host or port")
    }
  })

  it("are refused by the name of the one that is wrong", () => {
    for (
      const [field, wrong] of [
        ["host", { host: "" }],
        ["port", { port: 65_536 }],
        ["path", { path: "a\0b" }],
        ["hostKey", { hostKey: "not redacted" }],
        ["authorizedKeys.1", { authorizedKeys: ["one", 2] }],
        ["authorizedAgent", { authorizedAgent: "" }],
        ["user", { user: "" }],
        ["loginTimeout", { loginTimeout: 0 }],
        ["inactivityTimeout", { inactivityTimeout: 0 }],
        ["maxConnections", { maxConnections: 101 }],
        ["listen", { listen: true }]
      ] as const
    ) assert.strictEqual(fieldOf({ ...key, ...wrong })[0], field)
  })
})
