/** What this package answers, as JSON and back. */
import * as Core from "@effect-microsandbox/core"
import { assert, describe, it } from "@effect/vitest"
import { ByteSize, DateTime, Duration, Effect, Schema, type SchemaAST } from "effect"

interface Class extends Schema.Codec<object> {
  new(value: object): object
  readonly identifier: string
  readonly fields: Readonly<Record<string, Schema.Top>>
}

const isClass = (value: unknown): value is Class => Schema.isSchema(value) && "identifier" in value && "fields" in value

/** All public classes of data, by their names. */
const classes: ReadonlyMap<string, Class> = new Map(
  Object.entries(Core).flatMap(([module, members]) =>
    Object.entries(members).flatMap(([name, value]) => isClass(value) ? [[`${module}.${name}`, value] as const] : [])
  )
)

const constructors = new Map([...classes.values()].map((schema) => [schema.identifier, schema]))

/** A value for what is no class: of those that are declared, by what they are known by. */
const declared: Readonly<Record<string, unknown>> = {
  "effect/schema/ByteSize": ByteSize.bytes(2n ** 60n),
  "effect/schema/DateTimeUtc": DateTime.makeUnsafe(1_234_567_890_123),
  "effect/schema/Duration": Duration.millis(1500),
  "effect/schema/Uint8Array": new Uint8Array([0, 255, 7])
}

const isOptional = (ast: SchemaAST.AST): boolean => ast.context?.isOptional === true

/** A value with everything that may be absent, or with none of it. */
const valueOf = (ast: SchemaAST.AST, isWhole: boolean): unknown => {
  switch (ast._tag) {
    case "String":
      return "text"
    case "Number":
      return 3
    case "Boolean":
      return true
    case "BigInt":
      return 3n
    case "Literal":
      return ast.literal
    case "Union":
      return valueOf(ast.types[isWhole ? ast.types.length - 1 : 0] as SchemaAST.AST, isWhole)
    case "Arrays":
      return isWhole ? ast.rest.map((item) => valueOf(item, isWhole)) : []
    case "Objects":
      return Object.fromEntries([
        ...ast.propertySignatures
          .filter(({ type }) => isWhole || !isOptional(type))
          .map(({ name, type }) => [name, valueOf(type, isWhole)] as const),
        ...ast.indexSignatures.map(({ type }) => ["key", valueOf(type, isWhole)] as const)
      ])
    case "Declaration": {
      const { identifier, representation } = ast.annotations ?? {}
      const known = declared[(representation as { readonly id?: string } | undefined)?.id ?? ""]
      if (known !== undefined) return known
      const constructor = constructors.get(String(identifier))
      return constructor === undefined
        ? assert.fail(`no value for a ${JSON.stringify(ast.annotations)}`)
        : make(constructor, isWhole)
    }
    default:
      return assert.fail(`no value for a ${ast._tag}`)
  }
}

/** `_tag` is the class's own. */
const make = (schema: Class, isWhole: boolean): object =>
  new schema(Object.fromEntries(
    Object.entries(schema.fields)
      .filter(([key, { ast }]) => key !== "_tag" && (isWhole || !isOptional(ast)))
      .map(([key, { ast }]) => [key, valueOf(ast, isWhole)])
  ))

/** Its own fields: an error has a stack besides. */
const fieldsOf = ({ fields }: Class, value: object): object =>
  Object.fromEntries(Object.entries(value).filter(([key]) => key in fields))

/** Through text and back. */
const carried = <A>(schema: Schema.Codec<A>, value: A): Effect.Effect<A, Schema.SchemaError> =>
  Effect.gen(function*() {
    const codec = Schema.toCodecJson(schema)
    const json = JSON.stringify(yield* Schema.encodeEffect(codec)(value))
    return yield* Schema.decodeUnknownEffect(codec)(JSON.parse(json))
  })

describe("what this package answers", () => {
  it("is in classes that are found here, and nearly all that may be absent is of them", () => {
    assert.includeMembers([...classes.keys()], [
      "Image.Detail",
      "Image.Layer",
      "Logs.BootError",
      "Metrics.Sample",
      "MicrosandboxError.MicrosandboxError",
      "MicrosandboxError.SandboxNotFound",
      "Modify.Plan",
      "Runtime.Report",
      "Sandbox.Info",
      "Snapshot.Info",
      "Transfer.Transferred",
      "Volume.Info"
    ])
    const optional = [...classes.values()].flatMap(({ fields }) =>
      Object.values(fields).filter(({ ast }) => isOptional(ast))
    )
    assert.isAbove(optional.length, 60)
  })

  it.effect("survives a wire with all that may be absent, and without it", () =>
    Effect.gen(function*() {
      for (const [name, schema] of classes) {
        for (const isWhole of [true, false]) {
          const value = make(schema, isWhole)
          const told = (error: Schema.SchemaError) => assert.fail(`${name}: ${error.message}`)
          const back = yield* Effect.catch(carried<object>(schema, value), (error) => Effect.sync(() => told(error)))
          assert.instanceOf(back, schema)
          assert.deepStrictEqual(fieldsOf(schema, back), fieldsOf(schema, value), name)
        }
      }
    }))

  it.effect("survives it as an event or a finding of each kind too", () =>
    Effect.gen(function*() {
      for (const union of [Core.Transfer.Event, Core.Runtime.Finding]) {
        const schema = union as unknown as Schema.Codec<unknown>
        for (const { ast } of union.members) {
          for (const isWhole of [true, false]) {
            const value = valueOf(ast, isWhole)
            assert.deepStrictEqual(yield* carried(schema, value), value)
          }
        }
      }
    }))
})
