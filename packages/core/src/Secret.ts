/**
 * Secrets that the guest uses and never has: its programs see a placeholder in their environment, and what they send to a
 * host that may have the secret leaves this machine with the value in the placeholder's place.
 *
 * Plain data: it is checked where it is used, by `Sandbox.make`. With a secret all TLS of the guest to the intercepted ports
 * (443) is opened and closed again on this machine; the guest trusts the certificates that are made for it.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { Text, VariableName } from "./internal/inputs.ts"
import * as checks from "./internal/secretChecks.ts"

/**
 * What becomes of a request that would carry a placeholder where the secret may not go. It does not leave; with
 * `"block-and-log"` the VM process says so in `logs/runtime.log`, and `"block-and-terminate"` ends the sandbox.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Violation = "block" | "block-and-log" | "block-and-terminate"

/**
 * Where in a request a placeholder becomes the value.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Places {
  /** Header values, and the credentials of Basic authentication. Default: true. */
  readonly headers?: boolean | undefined
  /** The query of the URL. Default: false. */
  readonly query?: boolean | undefined
  /** The body of an HTTP/1 request of up to 16 MiB, or in chunks, that is not compressed. Default: false. */
  readonly body?: boolean | undefined
}

/**
 * A secret, and who may have it. It has a `value` or a `variable`.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Secret {
  /** The variable of the guest's environment that holds the placeholder. */
  readonly env: string
  /**
   * The secret itself. The engine keeps it with the sandbox's configuration, in plain text, in its database (`db` in the
   * backend's home, which this SDK closes to other users), since a later start needs it; and the file still has it after the
   * sandbox was removed, until the database writes something else there. Use
   * `variable` where nothing may be kept.
   */
  readonly value?: Redacted.Redacted<string> | undefined
  /**
   * The name of an environment variable of this process that has the secret. It is read at each start of the VM, by the
   * process that starts it, and only the name is kept. One that is empty or missing fails the start with `InvalidConfig`.
   */
  readonly variable?: string | undefined
  /**
   * Who may have it: `api.example.com`, `*.example.com` with `example.com` itself, or `*` for everyone. The guest must have
   * looked the name up: to an address alone nothing is sent.
   */
  readonly hosts: ReadonlyArray<string>
  /** At most 1024 bytes on one line. Default: `$MSB_` and the name in `env`. */
  readonly placeholder?: string | undefined
  /** Where the placeholder becomes the value; elsewhere it is a violation. Default: in headers. */
  readonly substituteIn?: Places | undefined
  /** Who may get the placeholder itself. Default: nobody. */
  readonly passthroughHosts?: ReadonlyArray<string> | undefined
  /** Default: the option `secretViolation`. */
  readonly onViolation?: Violation | undefined
  /** Only to a server whose certificate was verified; false for plain HTTP too. Default: true. */
  readonly requireTlsIdentity?: boolean | undefined
}

/**
 * A secret, and who may have it.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const make = (secret: Secret): Secret => secret

/**
 * The schema of {@link Violation}.
 *
 * @stability unstable
 * @category schemas
 * @since 0.1.0
 */
export const Violation = Schema.Literals(["block", "block-and-log", "block-and-terminate"])

const Host = Schema.String.check(checks.host)

/**
 * The schema of {@link Secret}. It checks, and changes nothing.
 *
 * @stability unstable
 * @category schemas
 * @since 0.1.0
 */
export const Secret = Schema.Struct({
  env: VariableName.check(checks.variable),
  value: Schema.optional(Schema.Redacted(Schema.String)),
  variable: Schema.optional(VariableName),
  hosts: Schema.Array(Host).check(Schema.isMinLength(1)),
  placeholder: Schema.optional(Text.check(checks.placeholder)),
  substituteIn: Schema.optional(Schema.Struct({
    headers: Schema.optional(Schema.Boolean),
    query: Schema.optional(Schema.Boolean),
    body: Schema.optional(Schema.Boolean)
  })),
  passthroughHosts: Schema.optional(Schema.Array(Host)),
  onViolation: Schema.optional(Violation),
  requireTlsIdentity: Schema.optional(Schema.Boolean)
}).check(checks.secret)
