/** Sizes in what this SDK answers. */
import * as Schema from "effect/Schema"

/**
 * A size that may be absent. It is in a union of one: the JSON codec of effect 4.1.0 tells the last link of an encoding that
 * a key is optional, and a bare `ByteSize` goes to text by a `bigint`, whose own link is not told.
 */
export const optionalSize = Schema.optionalKey(Schema.Union([Schema.ByteSize]))
