import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Result, Schema } from "effect"
import { detector, parseKeys } from "../../packages/core/src/internal/attach.ts"

const bytes = (text: string) => new TextEncoder().encode(text)

/** All that gets through, whatever the pieces; and whether the keys were seen. */
const typeIn = (keys: Uint8Array, pieces: ReadonlyArray<Uint8Array>) => {
  const detect = detector(keys)
  const forward: Array<number> = []
  for (const piece of pieces) {
    const seen = detect(piece)
    forward.push(...seen.forward)
    if (seen.isDetached) return { forward, isDetached: true }
  }
  return { forward, isDetached: false }
}

const cut = (typed: Uint8Array, lengths: ReadonlyArray<number>): Array<Uint8Array> => {
  const pieces: Array<Uint8Array> = []
  let start = 0
  for (const length of lengths) {
    pieces.push(typed.subarray(start, start + length))
    start += length
  }
  return [...pieces, typed.subarray(start)]
}

describe("the detach keys", () => {
  it("are read as the engine reads them", () => {
    const table: ReadonlyArray<readonly [string, ReadonlyArray<number>]> = [
      ["ctrl-]", [0x1d]],
      ["ctrl-p,ctrl-q", [0x10, 0x11]],
      ["ctrl-a, Q", [0x01, 0x51]],
      ["CTRL-Z", [0x1a]],
      ["ctrl-@,ctrl-[,ctrl-\\,ctrl-^,ctrl-_", [0x00, 0x1b, 0x1c, 0x1e, 0x1f]],
      ["~,.", [0x7e, 0x2e]]
    ]
    for (const [keys, expected] of table) {
      assert.deepStrictEqual([...Result.getOrThrow(parseKeys(keys))], [...expected], keys)
    }
    for (const keys of ["", ",", "ctrl-", "ctrl-ab", "ctrl-1", "ab", "ctrl-p,", "ü"]) {
      assert.isTrue(Result.isFailure(parseKeys(keys)), keys)
    }
  })

  // Few letters, so that beginnings of the keys are typed often.
  const letters = (minLength: number, maxLength: number) =>
    Arbitrary.array(Arbitrary.schema(Schema.Literals(["a", "b"])), { minLength, maxLength })
  const lengths = Arbitrary.array(Arbitrary.schema(Schema.Literals([0, 1, 2, 3])), { minLength: 0, maxLength: 12 })

  it.prop(
    "end the session wherever they are cut, and all that was typed before them is the program's",
    [letters(1, 4), letters(0, 24), lengths],
    ([keyLetters, typedLetters, lengths]) => {
      const [keys, typed] = [keyLetters.join(""), typedLetters.join("")]
      const { forward, isDetached } = typeIn(bytes(keys), cut(bytes(typed), lengths))
      const sent = new TextDecoder().decode(Uint8Array.from(forward))
      const at = typed.indexOf(keys)
      assert.strictEqual(isDetached, at >= 0)
      if (at >= 0) {
        assert.strictEqual(sent, typed.slice(0, at))
      } else {
        // What is held back is a beginning of the keys.
        assert.isTrue(typed.startsWith(sent) && keys.startsWith(typed.slice(sent.length)), `${keys} ${typed} ${sent}`)
      }
    },
    { arbitrary: { runs: 1000 } }
  )
})
