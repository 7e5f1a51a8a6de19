import { assert, describe, it } from "@effect/vitest"
import { Effect, Redacted, Result, Stream } from "effect"
import { decodeOptions } from "../../packages/core/src/internal/failure.ts"
import { ConnectSchema, ExecSchema, SpawnSchema } from "../../packages/ssh/src/internal/sshClient.ts"

const subject = { operation: "test" }
const connect = decodeOptions(ConnectSchema, subject)
const exec = decodeOptions(ExecSchema, subject)
const spawn = decodeOptions(SpawnSchema, subject)

const text = Redacted.make("the text of a key")
const server = { host: "::1", user: "me", key: text, hostKey: "SHA256:x" }

const fieldOf = (
  decode: (options: unknown) => ReturnType<typeof connect | typeof exec | typeof spawn>,
  options: unknown
) => {
  const result = Effect.runSync(Effect.result(decode(options) as ReturnType<typeof connect>))
  assert.isTrue(Result.isFailure(result), JSON.stringify(options))
  const { reason } = (result as Extract<typeof result, { readonly _tag: "Failure" }>).failure
  assert.notInclude(reason.message, "secret")
  return reason._tag === "InvalidConfig" ? reason.field : reason._tag
}

describe("the options of an SSH client", () => {
  it("are taken as they are documented", () => {
    for (
      const options of [
        server,
        { user: "me", path: "/run/s", key: { agent: true }, hostKey: ["ssh-ed25519 AAAA", "SHA256:x"] },
        { ...server, port: 2222, key: { agent: "/run/agent" }, connectTimeout: "1 second" },
        { ...server, key: { path: "id_ed25519", passphrase: text }, keepalive: Infinity, inactivityTimeout: Infinity }
      ]
    ) assert.deepStrictEqual(Effect.runSync(connect(options)), options as never)
  })

  it("need a server, and one alone", () => {
    const { host: _, ...nobody } = server
    assert.strictEqual(fieldOf(connect, nobody), "host")
    assert.strictEqual(fieldOf(connect, { ...server, path: "/run/s" }), "path")
    assert.strictEqual(fieldOf(connect, { ...nobody, path: "/run/s", port: 22 }), "path")
  })

  it("are refused by the name of the one that is wrong", () => {
    for (
      const [field, wrong] of [
        ["user", { user: "" }],
        ["user", { user: undefined }],
        ["port", { port: 0 }],
        ["key", { key: "secret" }],
        ["hostKey", { hostKey: undefined }],
        ["connectTimeout", { connectTimeout: 0 }],
        ["keepalive", { keepalive: -1 }],
        ["password", { password: "secret" }]
      ] as const
    ) assert.strictEqual(fieldOf(connect, { ...server, ...wrong })?.split(".")[0], field)
    for (const hostKey of [[], ""]) {
      assert.match(`${fieldOf(connect, { ...server, hostKey })}`, /^hostKey/)
    }
  })
})

describe("the options of a program on an SSH server", () => {
  it("are taken as they are documented", () => {
    for (
      const options of [
        { command: "true" },
        { command: "", stdin: "text", maxOutput: "1 MiB", env: { A: "b" }, timeout: "1 second", pty: true },
        { command: "cat", stdin: Stream.make("text"), pty: { rows: 1, columns: 65_535, term: "vt220" } }
      ]
    ) assert.deepStrictEqual(Effect.runSync(exec(options)), options as never)
    for (
      const options of [{}, { command: "cat", stdin: "pipe", highWater: 1 }, { stdin: new Uint8Array(1), pty: {} }]
    ) {
      assert.deepStrictEqual(Effect.runSync(spawn(options)), options as never)
    }
  })

  it("are refused by the name of the one that is wrong", () => {
    for (
      const [field, wrong] of [
        ["command", { command: "a\0b" }],
        ["env.A=B", { env: { "A=B": "" } }],
        ["timeout", { timeout: 0 }],
        ["pty.rows", { pty: { rows: 65_536 } }],
        ["maxOutput", { maxOutput: 0 }],
        ["highWater", { highWater: 1 }]
      ] as const
    ) assert.strictEqual(`${fieldOf(exec, { command: "true", ...wrong })}`.split(".")[0], field.split(".")[0])
    assert.strictEqual(`${fieldOf(spawn, { stdin: "text" })}`.split(".")[0], "stdin")
  })
})
