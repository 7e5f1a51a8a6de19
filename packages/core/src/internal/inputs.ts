/** Schemas of what users pass in, shared by the options of several operations. */
import * as ByteSize from "effect/ByteSize"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"

const mebibyte = 1n << 20n

/** Whole mebibytes, at least one: the unit in which the engine gives memory to a guest. */
export const Memory = Schema.declare((input: unknown): input is ByteSize.Input => {
  const size = ByteSize.fromInput(input as ByteSize.Input)
  return Option.isSome(size) && size.value >= mebibyte && size.value % mebibyte === 0n
}, { expected: "a whole number of mebibytes, at least 1 MiB, such as \"512 MiB\"" })

export const toMebibytes = (input: ByteSize.Input): number => Number(ByteSize.fromInputUnsafe(input) / mebibyte)

/** A length of time that is not negative. */
export const Span = Schema.declare((input: unknown): input is Duration.Input => {
  // `Duration` reads NaN as zero.
  if (Number.isNaN(input)) return false
  const duration = Duration.fromInput(input as Duration.Input)
  return Option.isSome(duration) && Duration.toMillis(duration.value) >= 0
}, { expected: "a duration that is not negative, such as \"5 seconds\"" })

/** The longest that a timer can hold, a little under 25 days; infinity means the same to a guest. */
const longest = 2 ** 31 - 1

export const toMillis = (input: Duration.Input): number =>
  Math.min(Duration.toMillis(Duration.fromInputUnsafe(input)), longest)

export const toSeconds = (input: Duration.Input): number => Math.ceil(toMillis(input) / 1000)

/** Variables by name; a name holds neither `=` nor a NUL, a value no NUL. */
export const Variables = Schema.Record(
  Schema.String.check(Schema.isPattern(/^[^=\0]+$/, { expected: "a variable name without = and NUL" })),
  Schema.String.check(Schema.isPattern(/^[^\0]*$/, { expected: "a value without NUL" }))
)

/** A guest path, a user, an argument: any text that the kernel can take. */
export const Text = Schema.String.check(Schema.isPattern(/^[^\0]*$/, { expected: "text without NUL" }))

/** An option that was not given is absent at the border, not `undefined`. */
export const defined = <T extends object>(
  options: T
): { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & { [K in keyof T]?: Exclude<T[K], undefined> } =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never
