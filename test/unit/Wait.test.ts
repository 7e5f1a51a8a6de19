import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import { matcher } from "../../packages/core/src/internal/wait.ts"

const entry = (text: string, sessionId = 1) => ({ source: "stdout" as const, sessionId, text })

const first = (pattern: string | RegExp, entries: ReadonlyArray<ReturnType<typeof entry>>) => {
  const match = matcher(pattern)
  for (const one of entries) {
    const line = match(one)
    if (line !== undefined) return line
  }
  return undefined
}

describe("a line that is waited for", () => {
  it("is found by a text or a pattern, with an end or without, and of one program", () => {
    assert.strictEqual(first("ready", [entry("not yet\nready now\nlater")]), "ready now")
    assert.strictEqual(first(/^port (\d+)$/, [entry("port\n"), entry("port 80"), entry("80\r\n")]), "port 80")
    assert.strictEqual(first("password: ", [entry("password: ")]), "password: ")
    assert.strictEqual(first("ab", [entry("a", 1), entry("b", 2)]), undefined)
    // A line's end ends it: nothing is put together over it.
    assert.strictEqual(first("ab", [entry("a\n"), entry("b")]), undefined)
    // A pattern that remembers where it was would miss every other line.
    for (const flags of ["", "g", "y", "gi"]) {
      const match = matcher(new RegExp("ready", flags))
      assert.deepStrictEqual([match(entry("ready\n")), match(entry("ready\n"))], ["ready", "ready"], flags)
    }
  })

  it.prop("is found however the log cuts it", [
    Arbitrary.array(Arbitrary.schema(Schema.Literals([0, 1, 2, 3, 4])), { minLength: 0, maxLength: 20 })
  ], ([lengths]) => {
    const text = "starting\nlistening on 8080\ndone\n"
    const entries: Array<ReturnType<typeof entry>> = []
    let start = 0
    for (const length of lengths) {
      entries.push(entry(text.slice(start, start + length)))
      start += length
    }
    entries.push(entry(text.slice(start)))
    const line = first("listening on", entries)
    assert.isTrue(line !== undefined && "listening on 8080".startsWith(line))
    assert.strictEqual(first(/^listening on \d{4}$/, entries), "listening on 8080")
  })
})
