import { MicrosandboxError as Errors } from "@effect-microsandbox/core"
import type { Native } from "@effect-microsandbox/native"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as fs from "node:fs"
import { hints } from "../../packages/core/src/internal/hints.ts"

/** The tags that the Rust side can answer with, read from its source: the one list that is not ours. */
const rustTags = () => {
  const source = fs.readFileSync(new URL("../../packages/native/rust/failure.rs", import.meta.url), "utf8")
  const body = source.slice(source.indexOf("pub enum Failure {"), source.indexOf("/// Failures of this addon"))
  return [...body.matchAll(/^ {4}(\w+) \{/gm)].map(([, tag]) => tag)
}

const tagsOf = (schema: typeof Errors.Reason) => schema.members.map((member) => member.fields._tag.schema.literal)

describe("MicrosandboxError", () => {
  it("has a reason for every failure of the addon, and for those that this side finds", () => {
    const ours = ["AddonMissing", "AddonMismatch", "RuntimeConflict", "WaitTimeout"]
    assert.isAbove(rustTags().length, 60)
    assert.sameMembers(tagsOf(Errors.Reason), [...rustTags(), ...ours])
  })

  it("says what failed, on what, why, and what to do", () => {
    const error = new Errors.MicrosandboxError({
      operation: "Sandbox.make",
      sandbox: "box",
      reason: new Errors.SandboxAlreadyExists({ message: "sandbox already exists: box", sandbox: "box" })
    })
    assert.strictEqual(
      error.message,
      `Sandbox.make (box): sandbox already exists: box. To mend it: ${hints.SandboxAlreadyExists}`
    )
    assert.isTrue(Errors.isMicrosandboxError(error))
    assert.isFalse(Errors.isMicrosandboxError(error.reason))
  })

  it.effect("survives a wire", () =>
    Effect.gen(function*() {
      const failure: Native.Failure = { _tag: "ExecFailed", message: "no such program", kind: "NotFound", errno: 2 }
      const error = new Errors.MicrosandboxError({
        operation: "Sandbox.exec",
        reason: yield* Schema.decodeEffect(Errors.Reason)(failure)
      })
      const codec = Schema.toCodecJson(Errors.MicrosandboxError)
      const json = JSON.stringify(yield* Schema.encodeEffect(codec)(error))
      const back = yield* Schema.decodeUnknownEffect(codec)(JSON.parse(json))
      assert.deepStrictEqual([back._tag, back.operation, back.message], [error._tag, error.operation, error.message])
      assert.deepStrictEqual({ ...back.reason }, { ...error.reason })
    }))

  it.effect("is recovered from by its reason", () =>
    Effect.gen(function*() {
      const failing = Effect.fail(
        new Errors.MicrosandboxError({
          operation: "Sandbox.get",
          reason: new Errors.SandboxNotFound({ message: "no", sandbox: "box" })
        })
      )
      const name = yield* failing.pipe(
        Effect.catchReason("MicrosandboxError", "SandboxNotFound", (reason) => Effect.succeed(reason.sandbox))
      )
      assert.strictEqual(name, "box")
    }))
})
