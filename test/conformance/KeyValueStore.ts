/** What a `KeyValueStore` on a file system does: the same cases for this machine and for a guest. */
import { assert, type Vitest } from "@effect/vitest"
import { Effect, FileSystem, Layer, Path, type PlatformError, Schema } from "effect"
import { KeyValueStore } from "effect/persistence"

type Services = FileSystem.FileSystem | Path.Path

/** Twice the same store: the second time as one that comes later. */
const inStore = <A, E>(
  body: (
    store: KeyValueStore.KeyValueStore,
    again: Effect.Effect<KeyValueStore.KeyValueStore, PlatformError.PlatformError, Services>
  ) => Effect.Effect<A, E, Services>
) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const directory = path.join(yield* fs.makeTempDirectoryScoped({ prefix: "store-" }), "made", "below")
    const open = Effect.provide(
      KeyValueStore.KeyValueStore,
      Layer.fresh(KeyValueStore.layerFileSystem(directory))
    )
    return yield* body(yield* open, open)
  }).pipe(Effect.scoped)

export const keyValueStore = (it: Vitest.MethodsNonLive<Services>): void => {
  it.effect("has nothing at first", () =>
    inStore(Effect.fnUntraced(function*(store) {
      assert.isTrue(yield* store.isEmpty)
      assert.strictEqual(yield* store.size, 0)
      assert.isUndefined(yield* store.get("key"))
      assert.isUndefined(yield* store.getUint8Array("key"))
      assert.isFalse(yield* store.has("key"))
    })))

  it.effect("keeps text and bytes under any key", () =>
    inStore(Effect.fnUntraced(function*(store) {
      const keys = ["a", "a/b", "../up", " ", "ü", "%2F", "a\nb", "CON"]
      for (const key of keys) yield* store.set(key, `of ${key}`)
      for (const key of keys) assert.strictEqual(yield* store.get(key), `of ${key}`)
      assert.strictEqual(yield* store.size, keys.length)
      const bytes = new Uint8Array([0, 255, 128, 10])
      yield* store.set("bytes", bytes)
      const read = yield* store.getUint8Array("bytes")
      assert.deepStrictEqual([...read ?? []], [...bytes])
    })))

  it.effect("replaces a value", () =>
    inStore(Effect.fnUntraced(function*(store) {
      yield* store.set("key", "a longer value")
      yield* store.set("key", "short")
      assert.strictEqual(yield* store.get("key"), "short")
      assert.strictEqual(yield* store.size, 1)
    })))

  it.effect("removes a value", () =>
    inStore(Effect.fnUntraced(function*(store) {
      yield* store.set("key", "value")
      yield* store.set("other", "value")
      yield* store.remove("key")
      assert.isUndefined(yield* store.get("key"))
      assert.isTrue(yield* store.has("other"))
    })))

  it.effect("changes a value by what it is", () =>
    inStore(Effect.fnUntraced(function*(store) {
      yield* store.set("count", "1")
      yield* store.modify("count", (count) => `${Number(count) + 1}`)
      assert.strictEqual(yield* store.get("count"), "2")
      yield* store.modify("missing", (value) => `${value}!`)
      assert.isFalse(yield* store.has("missing"))
    })))

  it.effect("forgets everything", () =>
    inStore(Effect.fnUntraced(function*(store) {
      for (const key of ["a", "b", "c"]) yield* store.set(key, key)
      yield* store.clear
      assert.isTrue(yield* store.isEmpty)
      yield* store.set("a", "again")
      assert.strictEqual(yield* store.get("a"), "again")
    })))

  it.effect("has what an earlier one kept", () =>
    inStore(Effect.fnUntraced(function*(store, again) {
      yield* store.set("key", "value")
      assert.strictEqual(yield* (yield* again).get("key"), "value")
    })))

  it.effect("refuses a key that is no name", () =>
    inStore(Effect.fnUntraced(function*(store) {
      for (const key of ["", ".", ".."]) {
        const error = yield* Effect.flip(store.set(key, "value"))
        assert.strictEqual(error._tag, "KeyValueStoreError")
        assert.strictEqual(error.key, key)
      }
    })))

  it.effect("keeps a large value", () =>
    inStore(Effect.fnUntraced(function*(store) {
      const large = "0123456789abcdef".repeat(128 * 1024)
      yield* store.set("large", large)
      assert.isTrue((yield* store.get("large")) === large)
    })))

  it.effect("keeps values of a schema", () =>
    inStore(Effect.fnUntraced(function*(store) {
      const points = KeyValueStore.toSchemaStore(store, Schema.Struct({ x: Schema.Int, at: Schema.DateFromString }))
      const point = { x: 1, at: new Date(0) }
      yield* points.set("point", point)
      const read = yield* points.get("point")
      assert.deepStrictEqual(JSON.parse(JSON.stringify(read)).value ?? read, JSON.parse(JSON.stringify(point)))
    })))
}
