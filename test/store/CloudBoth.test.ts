/** A local and a cloud backend in one program: nothing that is asked of the one reaches the other. */
import { Backend, Sandbox, Volume } from "@effect-microsandbox/core"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Random, Result, Stream } from "effect"
import { ControlPlane } from "../support/ControlPlane.ts"
import { run } from "../support/ControlPlaneClient.ts"
import * as FakeRelay from "../support/FakeRelay.ts"
import { temporaryDirectory } from "../support/Sandboxes.ts"
import { seeded } from "../support/Seeded.ts"

const operations = 500

/** The sandbox that both have, of one name. */
const shared = "box"

/** What one fiber does on its backend: the same names as the other, and content and programs that say whose they are. */
const work = Effect.fn("work")(function*(owner: string, sandbox: Sandbox.Sandbox) {
  const volumes = new Map<string, string>()
  const seen = { execs: 0, writes: 0, creates: 0, removes: 0 }
  const isTaken = { _tag: "VolumeAlreadyExists" }
  for (let operation = 0; operation < operations; operation++) {
    const name = `volume-${yield* Random.nextIntBetween(0, 7)}`
    const content = `${owner} ${operation}`
    const held = volumes.get(name)
    switch (yield* Random.nextIntBetween(0, 7)) {
      case 0: {
        const made = yield* Effect.result(Effect.scoped(Volume.create(name, { labels: { owner } })))
        if (held === undefined) {
          assert.isTrue(Result.isSuccess(made), `${owner} ${name}`)
          volumes.set(name, "")
        } else assert.deepInclude(Result.isFailure(made) ? made.failure.reason : {}, isTaken)
        seen.creates++
        break
      }
      case 1: {
        if (held === undefined) break
        yield* Effect.scoped(Effect.flatMap(Volume.open(name), ({ fs }) => fs.writeFileString("/of", content)))
        volumes.set(name, content)
        seen.writes++
        break
      }
      case 2: {
        if (held === undefined || held === "") break
        const read = yield* Effect.scoped(Effect.flatMap(Volume.open(name), ({ fs }) => fs.readFileString("/of")))
        assert.strictEqual(read, held)
        break
      }
      case 3: {
        const removed = yield* Effect.result(Volume.remove(name))
        assert.strictEqual(Result.isSuccess(removed), held !== undefined, `${owner} ${name}`)
        if (volumes.delete(name)) seen.removes++
        break
      }
      case 4: {
        const found = yield* Volume.list
        const named = found.filter((info) => info.name !== "")
        assert.sameMembers(named.map((info) => info.name), [...volumes.keys()])
        for (const { labels } of named) assert.strictEqual(labels.owner, owner)
        break
      }
      case 5: {
        assert.strictEqual((yield* sandbox.exec("echo", [owner, `${operation}`])).stdout, `${owner} ${operation}`)
        seen.execs++
        break
      }
      default: {
        const { id } = yield* Sandbox.get(shared)
        assert.strictEqual(id, sandbox.id)
        const [first, ...others] = yield* Stream.runCollect(Sandbox.list())
        assert.deepStrictEqual([first?.id, others.length], [id, 0])
      }
    }
    // The other fiber's turn.
    yield* Effect.yieldNow
  }
  return { volumes, seen }
})

describe("two fibers with two backends", () => {
  it.live("do 500 operations each, and no operation reaches the other's backend", () =>
    run(Effect.gen(function*() {
      const { names, programs, requests } = yield* ControlPlane
      const home = yield* temporaryDirectory
      const layerLocal = Layer.merge(Backend.layerLocal({ home }), NodeServices.layer)
      const local = yield* Layer.build(layerLocal)
      const cloud = yield* Effect.context<Backend.Backend>()
      const relay = yield* Effect.provideContext(FakeRelay.make(shared), local)
      const here = yield* Effect.provideContext(Sandbox.connect(shared), local)
      const there = yield* Sandbox.make({ name: shared, image: "alpine:3.22" })
      assert.notStrictEqual(here.id, there.id)
      const both = [
        Effect.provideContext(seeded(work("local", here), "local"), local),
        Effect.provideContext(seeded(work("cloud", there), "cloud"), cloud)
      ]
      const [ofLocal, ofCloud] = yield* Effect.all(both, { concurrency: 2 })
      const after = yield* names
      assert.sameMembers([...after.volumes], [...ofCloud!.volumes.keys()])
      const kept = yield* Effect.provideContext(Volume.list, local)
      assert.sameMembers(kept.map(({ name }) => name), [...ofLocal!.volumes.keys()])
      for (const [name, content] of ofLocal!.volumes) {
        const { fs } = yield* Effect.provideContext(Volume.open(name), local)
        if (content !== "") assert.strictEqual(yield* fs.readFileString("/of"), content)
      }
      // The control plane's own record: every change is one of the cloud's fiber, and there are as many.
      const record = yield* requests
      const count = (route: string) => record.filter((request) => request.route === route).length
      const { creates, execs, removes, writes } = ofCloud!.seen
      const made = record.filter(({ route }) => route === "POST /v1/volumes")
      for (const { body } of made) assert.deepInclude((body as { labels: object }).labels, { owner: "cloud" })
      assert.strictEqual(made.length, creates)
      assert.strictEqual(count("DELETE /v1/volumes/:id"), removes)
      assert.strictEqual(count("PUT /v1/volumes/:id/files/content"), writes)
      assert.strictEqual(count("POST /v1/sandboxes"), 1)
      const ran = yield* programs
      assert.strictEqual(ran.length, execs)
      for (const [, { args }] of ran) assert.strictEqual(args[0], "cloud")
      // The guest of the local one tells of each of its programs.
      let started = 0
      yield* relay.until((event) => event._tag === "Exited" && ++started === ofLocal!.seen.execs)
      assert.isAbove(execs, 30)
      assert.isAbove(ofLocal!.seen.execs, 30)
    })), 120_000)
})
