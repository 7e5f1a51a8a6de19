/** What secrets must hold beyond their types: the engine's rules (`lib/domain.rs` of `microsandbox-types` 0.7.2), and what it would do in silence. */
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { isPattern } from "./networkChecks.ts"
import { at, firstIssue, type Issue } from "./optionChecks.ts"

export const host = Schema.makeFilter((input: string) =>
  input === "*" || isPattern(input) || "must be a domain name, *. and one for all names below it, or * for everyone"
)

export const variable = Schema.makeFilter((name: string) => !name.startsWith("MSB_") || "the prefix MSB_ is reserved")

export const placeholder = Schema.makeFilter((input: string) =>
  input !== "" && !/[\r\n]/.test(input) && new TextEncoder().encode(input).length <= 1024 ||
  "must be one line of 1 to 1024 bytes"
)

export interface SecretData {
  readonly env: string
  readonly value?: Redacted.Redacted<string> | undefined
  readonly variable?: string | undefined
  readonly placeholder?: string | undefined
  readonly substituteIn?: {
    readonly headers?: boolean | undefined
    readonly query?: boolean | undefined
    readonly body?: boolean | undefined
  } | undefined
}

export const secret = Schema.makeFilter(({ substituteIn = {}, value, variable }: SecretData): Issue => {
  if (value === undefined && variable === undefined) return "must have value or variable"
  if (value !== undefined && variable !== undefined) return at(["variable"], "cannot be combined with value")
  const { body = false, headers = true, query = false } = substituteIn
  if (!headers && !query && !body) return at(["substituteIn"], "must have a place where the value may be")
  if (value === undefined) return undefined
  if (Redacted.value(value) === "") return at(["value"], "must not be empty")
  return (headers || query) && /[\r\n\0]/.test(Redacted.value(value))
    ? at(["value"], "must be one line where it is put into headers or a query")
    : undefined
})

/** What the guest sees of it. */
const shown = ({ env, placeholder = `$MSB_${env}` }: SecretData): string => placeholder

/** Each has its variable and its placeholder: one that holds another's would be taken for it. */
export const secrets = Schema.makeFilter((secrets: ReadonlyArray<SecretData>): Issue =>
  firstIssue(secrets.entries(), ([index, secret]) => {
    const before = secrets.slice(0, index)
    if (before.some(({ env }) => env === secret.env)) return at([index, "env"], "another secret has it")
    const mine = shown(secret)
    const other = before.find((one) => mine.includes(shown(one)) || shown(one).includes(mine))
    return other === undefined
      ? undefined
      : at([index, "placeholder"], `${mine} and ${shown(other)}: none may be a part of the other; give it another one`)
  })
)
