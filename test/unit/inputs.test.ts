import { assert, describe, it } from "@effect/vitest"
import { ByteSize, Duration, Schema } from "effect"
import { defined, Memory, Span, toMebibytes, toMillis, toSeconds } from "../../packages/core/src/internal/inputs.ts"

const accepts = (schema: typeof Memory | typeof Span, input: unknown) => Schema.is(schema)(input)

describe("memory", () => {
  it("is a whole number of mebibytes, from one up", () => {
    for (const [input, mebibytes] of [["1 MiB", 1], ["2 GiB", 2048], [512n << 20n, 512], [1 << 20, 1]] as const) {
      assert.isTrue(accepts(Memory, input), String(input))
      assert.strictEqual(toMebibytes(input), mebibytes)
    }
    for (const input of [0, -1, 1, "1 kB", "0 MiB", "1.5 MiB", "1 MB", "4 PiB", "much", NaN, Infinity, null, {}]) {
      assert.isFalse(accepts(Memory, input), String(input))
    }
  })

  it.prop("keeps its value on the way to the engine", [
    Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1e6 }))
  ], ([count]) => {
    const size = ByteSize.mebibytes(count)
    assert.isTrue(accepts(Memory, size))
    assert.strictEqual(toMebibytes(size), count)
  })
})

describe("a length of time", () => {
  it("is not negative", () => {
    for (const input of [0, 1, "5 seconds", 10n, Duration.infinity, "Infinity"]) {
      assert.isTrue(accepts(Span, input), String(input))
    }
    for (const input of [-1, "-5 seconds", -1n, NaN, "soon", Duration.negativeInfinity, { seconds: -1 }, null]) {
      assert.isFalse(accepts(Span, input), String(input))
    }
  })

  it("is never cut short, and never more than a timer can hold", () => {
    assert.strictEqual(toMillis("1.5 seconds"), 1500)
    assert.strictEqual(toSeconds("1.5 seconds"), 2)
    assert.strictEqual(toMillis(Duration.infinity), 2 ** 31 - 1)
    // The guest's clock holds more than a timer.
    assert.strictEqual(toSeconds("30 days"), 30 * 24 * 3600)
    assert.strictEqual(toSeconds(Duration.infinity), undefined)
  })
})

describe("an option that was not given", () => {
  it("is absent at the border", () => {
    assert.deepStrictEqual(Object.keys(defined({ a: 1, b: undefined, c: null })), ["a", "c"])
  })
})
