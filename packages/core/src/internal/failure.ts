/** The one place where a native failure becomes the SDK's error. */
import type { Native } from "@effect-microsandbox/native"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import { InvalidConfig, MicrosandboxError, Reason } from "../MicrosandboxError.ts"

const decodeReason = Schema.decodeSync(Reason)

/** What an operation is about, for its error. */
export interface Subject {
  readonly operation: string
  readonly sandbox?: string
}

export const toError = (subject: Subject, failure: Native.Failure): MicrosandboxError =>
  // Every failure of the addon has its reason: the compiler refuses this call when one is missing.
  new MicrosandboxError({ ...subject, reason: decodeReason(named(subject, failure)) })

/** What a control plane answers does not say of which sandbox. */
const named = (subject: Subject, failure: Native.Failure): Native.Failure =>
  "sandbox" in failure && failure.sandbox === "" && subject.sandbox !== undefined
    ? { ...failure, sandbox: subject.sandbox }
    : failure

/** Gives an effect's native failures the operation and the sandbox that they belong to. */
export const mapFailure = (subject: Subject) =>
<A, R>(
  effect: Effect.Effect<A, Native.NativeError, R>
): Effect.Effect<A, MicrosandboxError, R> => Effect.mapError(effect, (error) => toError(subject, error.failure))

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1({ leafHook: SchemaIssue.defaultLeafHook })

/** Decodes options; a mistake is an `InvalidConfig` that names the field. */
export const decodeOptions = <S extends Schema.ConstraintDecoder<unknown>>(schema: S, subject: Subject) => {
  const decode = Schema.decodeUnknownEffect(schema)
  return (options: unknown): Effect.Effect<S["Type"], MicrosandboxError, S["DecodingServices"]> =>
    Effect.mapError(decode(options, { onExcessProperty: "error" }), (error) => {
      const [issue] = formatIssue(error.issue).issues
      const field = (issue?.path ?? [])
        .map((segment) => String(typeof segment === "object" ? segment.key : segment)).join(".")
      const message = issue?.message ?? error.message
      return new MicrosandboxError({
        ...subject,
        reason: field === ""
          ? new InvalidConfig({ message })
          : new InvalidConfig({ message: `${field}: ${message}`, field })
      })
    })
}
