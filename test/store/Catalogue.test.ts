/** The engine's catalogue, which other programs open and close too. */
import { Backend, Sandbox } from "@effect-microsandbox/core"
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, FileSystem, Layer, Option, Scope, Stream } from "effect"
import { temporaryDirectory } from "../support/Sandboxes.ts"

// The bytes of a database that SQLite locks for each who reads it, and who closes it as the last locks alone.
const range = "1073741826 1073742335"

layer(NodeServices.layer, { excludeTestServices: true })("a catalogue", (it) => {
  // Who closes it as the last removes its log: a failed boot's `msb` did so under the backend that was about to undo it.
  it.effect("is closed by nobody as the last while a backend has it open, whichever other backend is closed", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const home = yield* temporaryDirectory
      const readers = Effect.gen(function*() {
        const inode = Option.getOrThrow((yield* fs.stat(`${home}/db/msb.db`)).ino)
        const locks = yield* fs.readFileString("/proc/locks")
        // Not those of the engine's own connections (`POSIX`): there are some until it closes a descriptor.
        const isHeld = (lock: string) => lock.endsWith(`:${inode} ${range}`) && /OFDLCK .* READ /.test(lock)
        return locks.split("\n").filter(isHeld).length
      })
      const open = Effect.gen(function*() {
        const scope = yield* Scope.make()
        return { scope, services: yield* Layer.buildWithScope(Layer.fresh(Backend.layerLocal({ home })), scope) }
      })
      const first = yield* open
      yield* Effect.addFinalizer((exit) => Scope.close(first.scope, exit))
      assert.strictEqual(yield* readers, 1)
      // The engine closes a descriptor of the file whenever it opens one, and the system takes that for the end of all locks.
      const second = yield* open
      assert.strictEqual(yield* readers, 2)
      yield* Scope.close(second.scope, Exit.void)
      assert.strictEqual(yield* readers, 1)
      assert.deepStrictEqual(yield* Stream.runCollect(Sandbox.list()).pipe(Effect.provide(first.services)), [])
      yield* Scope.close(first.scope, Exit.void)
      assert.strictEqual(yield* readers, 0)
    }).pipe(Effect.scoped))
})
