/** Which backend the environment and the engine's configuration file name, by the engine's own rule (0.7.2). */
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { InvalidConfig, MicrosandboxError, Unsupported } from "../MicrosandboxError.ts"
import type { Subject } from "./failure.ts"
import { defined } from "./inputs.ts"

/** What named a backend. */
export const Source = Schema.Literals([
  "programmatic",
  "MSB_BACKEND",
  "MSB_PROFILE",
  "profile",
  "active_profile",
  "default"
])

export type Source = typeof Source.Type

interface Named {
  readonly source: Source
  readonly profile?: string
}

export type Selected =
  | Named & { readonly kind: "local"; readonly home?: string }
  | Named & { readonly kind: "cloud"; readonly url?: string; readonly apiKey: Redacted.Redacted<string> }

/** A mistake in what was given, and never its value: that could be a key. */
const mistake = (subject: Subject, field: string, why: string): MicrosandboxError =>
  new MicrosandboxError({ ...subject, reason: new InvalidConfig({ message: `${field}: ${why}`, field }) })

/** Without the value, which a `ConfigError` may have in its text. */
const read = <A>(subject: Subject, name: string, config: Config.Config<A>): Effect.Effect<A, MicrosandboxError> =>
  Effect.mapError(config, () => mistake(subject, name, "cannot be read from the configuration"))

/** Blank is as good as absent. */
const text = (subject: Subject, name: string): Effect.Effect<string | undefined, MicrosandboxError> =>
  Effect.map(read(subject, name, Config.option(Config.String(name))), (value) => {
    const given = Option.getOrElse(value, () => "").trim()
    return given === "" ? undefined : given
  })

const secret = (
  subject: Subject,
  name: string
): Effect.Effect<Redacted.Redacted<string> | undefined, MicrosandboxError> =>
  Effect.map(
    read(subject, name, Config.option(Config.Redacted(name))),
    (value) => Option.getOrUndefined(Option.filter(value, (value) => Redacted.value(value).trim() !== ""))
  )

const Profile = Schema.Struct({
  backend: Schema.Literals(["local", "cloud"]),
  url: Schema.optional(Schema.NullOr(Schema.String)),
  api_key_ref: Schema.optional(Schema.NullOr(Schema.String))
})

type Profile = typeof Profile.Type

/** The engine keeps much else in the same file. */
const File = Schema.Struct({
  active_profile: Schema.optional(Schema.NullOr(Schema.String)),
  profiles: Schema.optional(Schema.Record(Schema.String, Profile))
})

const decodeFile = Schema.decodeUnknownEffect(File)

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1({ leafHook: SchemaIssue.defaultLeafHook })

const parse = (content: string): Option.Option<unknown> => {
  try {
    return Option.some(JSON.parse(content))
  } catch {
    return Option.none()
  }
}

/** Where the engine's files are, unless something else is said. */
const homeOf = Effect.fnUntraced(function*(subject: Subject, home: string | undefined) {
  const named = home ?? (yield* text(subject, "MSB_HOME"))
  if (named !== undefined) return named
  return path.join((yield* text(subject, "HOME")) ?? os.homedir(), ".microsandbox")
})

const loadFile = Effect.fnUntraced(function*(subject: Subject, home: string | undefined) {
  const file = (yield* text(subject, "MSB_CONFIG_PATH")) ?? path.join(yield* homeOf(subject, home), "config.json")
  const content = yield* Effect.tryPromise({
    try: () =>
      fs.readFile(file, "utf8").catch((error: NodeJS.ErrnoException) => {
        if (error.code === "ENOENT") return "{}"
        throw error
      }),
    catch: (error) => mistake(subject, file, `cannot be read: ${(error as NodeJS.ErrnoException).code ?? "unknown"}`)
  })
  const json = parse(content)
  if (Option.isNone(json)) return yield* mistake(subject, file, "is not JSON")
  return yield* Effect.mapError(decodeFile(json.value), (error) => {
    const [issue] = formatIssue(error.issue).issues
    const field = (issue?.path ?? []).map((segment) => String(typeof segment === "object" ? segment.key : segment))
    return mistake(subject, field.join("."), `is not what a profile has there (${file})`)
  })
})

const keyOf = Effect.fnUntraced(function*(subject: Subject, name: string, { api_key_ref: reference }: Profile) {
  const field = `profiles.${name}.api_key_ref`
  if (reference === undefined || reference === null || reference.trim() === "") {
    return yield* mistake(subject, field, "a profile of a cloud needs one, such as \"env:MSB_API_KEY\"")
  }
  const [kind, rest] = splitOnce(reference.trim())
  switch (kind) {
    case "env": {
      const key = yield* secret(subject, rest)
      // Somebody may have put the key itself there.
      const named = /^[A-Z][A-Z0-9_]*$/.test(rest) ? rest : "what it names"
      return key ?? (yield* mistake(subject, field, `${named} is not set`))
    }
    case "inline":
      return rest.trim() === ""
        ? yield* mistake(subject, field, "has no key after \"inline:\"")
        : Redacted.make(rest.trim())
    case "keyring":
      return yield* new MicrosandboxError({
        ...subject,
        reason: new Unsupported({
          message: `${field}: keys of a keyring are not read`,
          operation: subject.operation,
          reason: "NotAvailable",
          hint: "refer to a variable with \"env:NAME\""
        })
      })
    default:
      return yield* mistake(subject, field, "must begin with \"env:\" or \"inline:\"")
  }
})

const splitOnce = (text: string): readonly [string, string] => {
  const at = text.indexOf(":")
  return at < 0 ? ["", text] : [text.slice(0, at), text.slice(at + 1)]
}

const ofProfile = Effect.fnUntraced(function*(
  subject: Subject,
  name: string,
  source: Source,
  home: string | undefined,
  file: typeof File.Type
): Effect.fn.Return<Selected, MicrosandboxError> {
  const profiles = file.profiles ?? {}
  const profile = Object.hasOwn(profiles, name) ? profiles[name] : undefined
  if (profile === undefined) {
    return yield* mistake(subject, `profiles.${name}`, "there is no such profile in the configuration file")
  }
  if (profile.backend === "local") {
    if (source === "MSB_BACKEND") {
      return yield* mistake(subject, `profiles.${name}`, "MSB_BACKEND is cloud, and it is local")
    }
    return { kind: "local", source, profile: name, ...defined({ home: home ?? (yield* text(subject, "MSB_HOME")) }) }
  }
  const apiKey = yield* keyOf(subject, name, profile)
  return { kind: "cloud", source, profile: name, apiKey, ...defined({ url: profile.url ?? undefined }) }
})

/** The backend of a profile that is named. */
export const selectProfile = Effect.fnUntraced(function*(subject: Subject, name: string, home: string | undefined) {
  return yield* ofProfile(subject, name, "profile", home, yield* loadFile(subject, home))
})

/** The backend that nobody named in the program. A key alone names none. */
export const select = Effect.fnUntraced(function*(
  subject: Subject,
  home: string | undefined
): Effect.fn.Return<Selected, MicrosandboxError> {
  const kind = (yield* text(subject, "MSB_BACKEND"))?.toLowerCase()
  const local = Effect.fnUntraced(function*(source: Source): Effect.fn.Return<Selected, MicrosandboxError> {
    return { kind: "local", source, ...defined({ home: home ?? (yield* text(subject, "MSB_HOME")) }) }
  })
  if (kind === "local") return yield* local("MSB_BACKEND")
  if (kind !== undefined && kind !== "cloud") return yield* mistake(subject, "MSB_BACKEND", "must be local or cloud")
  if (kind === "cloud") {
    const apiKey = yield* secret(subject, "MSB_API_KEY")
    if (apiKey !== undefined) {
      return { kind, source: "MSB_BACKEND", apiKey, ...defined({ url: yield* text(subject, "MSB_API_URL") }) }
    }
  }
  const named = yield* text(subject, "MSB_PROFILE")
  const file = yield* loadFile(subject, home)
  const active = file.active_profile?.trim()
  const profile = named ?? (active === "" ? undefined : active)
  if (profile !== undefined) {
    const source = kind === "cloud" ? "MSB_BACKEND" : named === undefined ? "active_profile" : "MSB_PROFILE"
    return yield* ofProfile(subject, profile, source, home, file)
  }
  return kind === "cloud"
    ? yield* mistake(subject, "MSB_API_KEY", "MSB_BACKEND is cloud, which needs a key or a profile of a cloud")
    : yield* local("default")
})
