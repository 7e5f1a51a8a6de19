/** Schemas of what users pass in, shared by the options of several operations. */
import * as ByteSize from "effect/ByteSize"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"

export const mebibyte = 1n << 20n

/** What the border's 32 bits can say. */
const most = 2n ** 32n - 1n

/** Whole mebibytes, at least one: the unit in which the engine gives memory to a guest. */
export const Memory = Schema.declare((input: unknown): input is ByteSize.Input => {
  const size = ByteSize.fromInput(input as ByteSize.Input)
  return Option.isSome(size) && size.value >= mebibyte && size.value % mebibyte === 0n && size.value / mebibyte <= most
}, { expected: "a whole number of mebibytes, at least 1 MiB, such as \"512 MiB\"" })

/** The smallest ext4 that the engine makes: its journal alone is 64 MiB. A Rust test holds it against the engine. */
const smallestDisk = 68n * mebibyte

export const isDiskSize = (size: ByteSize.Input): boolean => ByteSize.fromInputUnsafe(size) >= smallestDisk

export const tooSmall = "must be 68 MiB or more"

/** The smallest that a guest boots from: one of 68 MiB is full before its agent has made its own directories. */
const smallestRoot = 69n * mebibyte

export const isRootSize = (size: ByteSize.Input): boolean => ByteSize.fromInputUnsafe(size) >= smallestRoot

export const rootTooSmall = "must be 69 MiB or more"

export const RootSize = Memory.check(Schema.makeFilter((size) => isRootSize(size) || rootTooSmall))

export const toMebibytes = (input: ByteSize.Input): number => Number(ByteSize.fromInputUnsafe(input) / mebibyte)

/** The way back, of a whole number of them. */
export const fromMebibytes = (mebibytes: number): ByteSize.ByteSize =>
  ByteSize.fromInputUnsafe(BigInt(mebibytes) * mebibyte)

/** The same for a size that may be left out. */
export const someMebibytes = (input: ByteSize.Input | undefined): number | undefined =>
  input === undefined ? undefined : toMebibytes(input)

/** A length of time that is not negative. */
export const Span = Schema.declare((input: unknown): input is Duration.Input => {
  // `Duration` reads NaN as zero.
  if (Number.isNaN(input)) return false
  const duration = Duration.fromInput(input as Duration.Input)
  return Option.isSome(duration) && Duration.toMillis(duration.value) >= 0
}, { expected: "a duration that is not negative, such as \"5 seconds\"" })

/** One byte or more, as many as a number can say. */
export const Bytes = Schema.declare((input: unknown): input is ByteSize.Input => {
  const size = ByteSize.fromInput(input as ByteSize.Input)
  return Option.isSome(size) && size.value >= 1n && size.value <= BigInt(Number.MAX_SAFE_INTEGER)
}, { expected: "a number of bytes, at least 1, such as \"1 MiB\"" })

export const toBytes = (input: ByteSize.Input): number => Number(ByteSize.fromInputUnsafe(input))

/** A length of time that is more than nothing. */
export const Lifetime = Span.check(
  Schema.makeFilter((input) => Duration.toMillis(Duration.fromInputUnsafe(input)) > 0 || "must be more than zero")
)

/** Whole milliseconds, as many as the border's 32 bits can say. */
export const Millis = Lifetime.check(
  Schema.makeFilter((input) => {
    const millis = Duration.toMillis(Duration.fromInputUnsafe(input))
    return Number.isInteger(millis) && millis < 2 ** 32 || "must be whole milliseconds, and less than 49 days"
  })
)

/** For a timer, which can hold a little under 25 days. */
export const toMillis = (input: Duration.Input): number =>
  Math.min(Duration.toMillis(Duration.fromInputUnsafe(input)), 2 ** 31 - 1)

/** For the guest's own clock; without end is no limit. */
export const toSeconds = (input: Duration.Input | undefined): number | undefined => {
  if (input === undefined) return undefined
  const seconds = Math.ceil(Duration.toSeconds(Duration.fromInputUnsafe(input)))
  return seconds === Infinity ? undefined : Math.min(seconds, Number(most))
}

/** A name of a variable holds neither `=` nor a NUL, its value no NUL. */
export const VariableName = Schema.String.check(
  Schema.isPattern(/^[^=\0]+$/, { expected: "a variable name without = and NUL" })
)

/** Variables by name. */
export const Variables = Schema.Record(
  VariableName,
  Schema.String.check(Schema.isPattern(/^[^\0]*$/, { expected: "a value without NUL" }))
)

/** The labels that the engine and this SDK give are not a user's to change. */
export const LabelName = Schema.String.check(
  Schema.isPattern(/^(?!(?:sandbox|microsandbox|service|effect-microsandbox)\.)[^]/, {
    expected: "a label that does not begin with sandbox., microsandbox., service. or effect-microsandbox."
  })
)

export const Labels = Schema.Record(LabelName, Schema.String)

/** A guest path, a user, an argument: any text that the kernel can take. */
export const Text = Schema.String.check(Schema.isPattern(/^[^\0]*$/, { expected: "text without NUL" }))

/** The name of a sandbox, by the engine's rule. */
export const Name = Schema.String.check(
  Schema.isPattern(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/, {
    expected: "1 to 128 letters, digits, dots, hyphens and underscores, the first a letter or digit"
  })
)

/** What becomes of a sandbox when its scope closes. */
export const OnClose = Schema.Literals(["destroy", "stop", "detach"])

/** A path of the host that the engine can write into its list of mounts. */
export const HostPath = Schema.String.check(
  Schema.isPattern(/^[^\0,;:]+$/, { expected: "a path without , ; : and NUL" })
)

/** An option that was not given is absent at the border, not `undefined`. */
export const defined = <T extends object>(
  options: T
): { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & { [K in keyof T]?: Exclude<T[K], undefined> } =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never
