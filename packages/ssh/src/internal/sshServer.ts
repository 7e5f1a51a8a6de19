/** An SSH server of a sandbox: its options, and the addon's handle of it. */
import type { Sandbox } from "@effect-microsandbox/core"
import {
  attributesOf,
  decodeOptions,
  defined,
  Lifetime,
  mapFailure,
  type Subject,
  subjectOf,
  targetOf,
  Text
} from "@effect-microsandbox/core/Extension"
import { InvalidConfig, MicrosandboxError } from "@effect-microsandbox/core/MicrosandboxError"
import * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as NetAddress from "effect/net/NetAddress"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Options, SshServer } from "../SshServer.ts"

const Name = Text.check(Schema.isMinLength(1))

const Port = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 65_535 }))

export const OptionsSchema = Schema.Struct({
  host: Schema.optional(Name),
  port: Schema.optional(Port),
  path: Schema.optional(Name),
  hostKey: Schema.optional(Schema.Union([Schema.Redacted(Schema.String), Schema.Struct({ path: Name })])),
  authorizedKeys: Schema.optional(Schema.Array(Text)),
  authorizedKeysPath: Schema.optional(Name),
  authorizedAgent: Schema.optional(Schema.Union([Schema.Boolean, Name])),
  user: Schema.optional(Name),
  sftp: Schema.optional(Schema.Boolean),
  inactivityTimeout: Schema.optional(Lifetime),
  loginTimeout: Schema.optional(Lifetime),
  maxConnections: Schema.optional(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 100 })))
}).check(
  Schema.makeFilter(({ host, path, port }) =>
    path === undefined || (host === undefined && port === undefined) ||
    { path: ["path"], issue: "must not be given with host or port: a server listens on one of them" }
  ),
  Schema.makeFilter(({ authorizedAgent = false, authorizedKeys = [], authorizedKeysPath }) =>
    authorizedKeys.length > 0 || authorizedKeysPath !== undefined || authorizedAgent !== false ||
    {
      path: ["authorizedKeys"],
      issue: "must have one public key or more, such as the text of id_ed25519.pub, or nobody could log in"
    }
  )
)

/** At the border 0 is no limit. */
const toMillis = (timeout: Duration.Input): number => {
  const millis = Duration.toMillis(Duration.fromInputUnsafe(timeout))
  return millis === Infinity ? 0 : millis
}

/** The socket of an agent that was given, or of the one that this machine's `ssh-add` speaks to. */
const agentSocket = Effect.fnUntraced(function*(subject: Subject, agent: boolean | string) {
  if (agent === false) return undefined
  if (agent !== true) return agent
  const found = yield* Effect.orElseSucceed(Config.option(Config.String("SSH_AUTH_SOCK")), () => Option.none<string>())
  if (Option.isSome(found) && found.value !== "") return found.value
  const message = "authorizedAgent: SSH_AUTH_SOCK names no agent; give the path of an agent's socket"
  return yield* new MicrosandboxError({ ...subject, reason: new InvalidConfig({ message, field: "authorizedAgent" }) })
})

const knownName = (address: NetAddress.SocketAddress, sandbox: string): string => {
  if (address._tag === "UnixPathAddress") return sandbox
  const host = NetAddress.formatIp(address.address)
  return address.port === 22 ? host : `[${host}]:${address.port}`
}

export const make = (
  sandbox: Sandbox.Sandbox,
  options: Options
): Effect.Effect<SshServer, MicrosandboxError, Scope.Scope> =>
  Effect.flatMap(targetOf(sandbox), (target) => {
    const subject = subjectOf("SshServer.make", target)
    return Effect.gen(function*() {
      const {
        authorizedAgent = false,
        authorizedKeys = [],
        hostKey,
        inactivityTimeout,
        loginTimeout = "2 minutes",
        maxConnections = 64,
        sftp = true,
        ...given
      } = yield* decodeOptions(OptionsSchema, subject)(options)
      const key = Redacted.isRedacted(hostKey)
        ? { hostKey: Redacted.value(hostKey) }
        : { hostKeyPath: hostKey?.path }
      const agent = yield* agentSocket(subject, authorizedAgent)
      const server = yield* target.native.acquire(
        (token) =>
          target.handle.sshServer({
            ...defined({
              ...given,
              ...key,
              authorizedAgent: agent,
              inactivityMs: inactivityTimeout === undefined ? undefined : toMillis(inactivityTimeout)
            }),
            authorizedKeys: [...authorizedKeys],
            loginMs: toMillis(loginTimeout),
            sftp,
            maxConnections
          }, token),
        (server) => Effect.promise(() => server.close())
      ).pipe(mapFailure(subject))
      const address = NetAddress.socketAddressFromInputUnsafe(
        server.path === null ? { address: server.host ?? "", port: server.port ?? 0 } : { path: server.path }
      )
      return {
        address,
        hostKey: { line: server.hostKey, fingerprint: server.fingerprint },
        knownHosts: `${knownName(address, target.name)} ${server.hostKey}`
      }
    }).pipe(Effect.withSpan("SshServer.make", { attributes: attributesOf(target) }))
  })
