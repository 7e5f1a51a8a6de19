/** Snapshots of sandboxes that have stopped, and archives of these: no VM is needed. */
import { Backend, type MicrosandboxError, Snapshot } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { ByteSize, DateTime, Effect, Exit, Fiber, FileSystem, Path, Random } from "effect"
import * as crypto from "node:crypto"
import * as zlib from "node:zlib"
import * as Archive from "../support/Archive.ts"
import { layerBackend, temporaryDirectory } from "../support/Sandboxes.ts"
import { seeded } from "../support/Seeded.ts"
import * as Spans from "../support/Spans.ts"
import { imageDigest, makeStopped, msb } from "../support/Store.ts"

const reasonOf = <A, R>(effect: Effect.Effect<A, MicrosandboxError.MicrosandboxError, R>) =>
  Effect.map(Effect.flip(effect), ({ reason }) => reason)

const tagOf = <A, R>(effect: Effect.Effect<A, MicrosandboxError.MicrosandboxError, R>) =>
  Effect.map(reasonOf(effect), ({ _tag }) => _tag)

/** What `msb snapshot list` says of a snapshot, of what we say. */
const asListed = (info: Snapshot.Info) => ({
  artifact_path: info.path,
  availability: info.availability,
  checkpoint_manifest_digest: info.checkpoint ?? null,
  digest: info.digest,
  format: info.format ?? null,
  fstype: info.filesystem ?? null,
  group: info.group ?? null,
  image_ref: info.image,
  locality: info.locality,
  migration_error_code: info.migrationError ?? null,
  migration_state: info.migration,
  name: info.name ?? null,
  parent_digest: info.parent ?? null,
  reference: info.reference,
  reference_kind: "path",
  scope: info.scope,
  size_bytes: info.size === undefined ? null : Number(info.size),
  snapshot_id: info.id,
  state_kind: info.state
})

interface Listed extends ReturnType<typeof asListed> {
  readonly created_at: string
}

const listedByMsb = Effect.map(msb("snapshot", "list", "--format", "json"), (text) => JSON.parse(text) as Array<Listed>)

/** All that is in a home but its catalogue and the directories that the engine makes once; files with their content. */
const contents = Effect.fn("contents")(function*(directory: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const entries = (yield* fs.readDirectory(directory, { recursive: true }))
    .filter((entry) => !/^(?:db|run|cache|logs|owners?)(?:\/|$)/.test(entry))
  return yield* Effect.forEach(entries.toSorted(), (entry) =>
    Effect.gen(function*() {
      const full = path.join(directory, entry)
      if ((yield* fs.stat(full)).type !== "File") return entry
      const digest = crypto.createHash("sha256").update(yield* fs.readFile(full)).digest("hex")
      return `${entry} ${digest}`
    }))
})

/** What is in the cache of images, where the engine unpacks those of an archive. */
const cached = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const { home } = yield* Backend.Local
  const directory = path.join(home, "cache")
  if (!(yield* fs.exists(directory))) return []
  const found: Array<string> = []
  for (const entry of yield* fs.readDirectory(directory, { recursive: true })) {
    if ((yield* fs.stat(path.join(directory, entry))).type === "File" || entry.startsWith("tmp/")) found.push(entry)
  }
  return found
})

/** All that a load could leave: files, rows, and what the engine unpacks elsewhere. */
const everything = Effect.gen(function*() {
  const { home } = yield* Backend.Local
  return { files: yield* contents(home), rows: yield* listedByMsb, cached: yield* cached }
})

/** A snapshot with a parent, in an archive with it that is not compressed. */
const archiveOf = Effect.fn("archiveOf")(function*(name: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const file = path.join(yield* temporaryDirectory, "archive.tar")
  yield* makeStopped(name, "a".repeat(5000))
  yield* Snapshot.create(name, "parent", { labels: { of: "parent" } })
  yield* Snapshot.create(name, "child", { labels: { of: "child" }, recordIntegrity: true })
  yield* Snapshot.save(name, file, { parents: true, plainTar: true })
  return { file, bytes: yield* fs.readFile(file) }
})

layer(layerBackend, { excludeTestServices: true, timeout: "2 minutes" })("a snapshot", (it) => {
  it.effect("is kept of a sandbox that has stopped, and found by each of its references, and by msb", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const { home } = yield* Backend.Local
      const { disk } = yield* makeStopped("found")
      const first = yield* Snapshot.create("found", "first", { labels: { kind: "test" } })
      const second = yield* Snapshot.create("found", "second", { recordIntegrity: true })
      const rest = { path: first.path, reference: first.reference, digest: first.digest, id: first.id }
      assert.deepStrictEqual({ ...first, labels: { ...first.labels } }, {
        ...rest,
        name: "first",
        group: "found",
        scope: "disk",
        image: "127.0.0.1:1/kept:latest",
        imageDigest,
        sandbox: "found",
        rootDisk: "managed",
        consistency: "crash-consistent",
        format: "raw",
        filesystem: "ext4",
        size: ByteSize.mebibytes(1),
        layers: first.layers,
        labels: { kind: "test" },
        createdAt: first.createdAt,
        head: new Snapshot.Head({ group: "found", head: first.id, reason: "initialized", changed: true })
      })
      assert.match(first.id, /^snap_[0-9a-f]{32}$/)
      assert.match(first.digest, /^sha256:[0-9a-f]{64}$/)
      assert.deepStrictEqual([second.parent, second.head?.previous, second.head?.reason], [
        first.id,
        first.id,
        "fast-forwarded"
      ])
      const [layer] = second.layers
      assert.deepStrictEqual(
        [layer?.format, layer?.size, layer?.parent, layer?.integrity?.algorithm],
        ["raw", ByteSize.mebibytes(1), undefined, "msb-file-merkle-blake3-v1"]
      )
      const kept = yield* fs.readFile(`${first.path}/layers/${first.layers[0]?.id}.raw`)
      assert.deepStrictEqual(kept, yield* fs.readFile(disk))

      for (const reference of ["found:first", first.id, `found:${first.id}`, first.digest, first.path]) {
        const { head: _, ...opened } = first
        assert.deepStrictEqual({ ...(yield* Snapshot.open(reference)) }, opened, reference)
        assert.strictEqual((yield* Snapshot.get(reference)).id, first.id, reference)
      }
      assert.strictEqual((yield* Snapshot.open("found")).id, second.id)
      const listed = (yield* Snapshot.list).filter(({ group }) => group === "found")
      assert.deepStrictEqual(listed.map(({ id }) => id), [second.id, first.id])
      assert.deepStrictEqual({ ...(yield* Snapshot.get("found")) }, { ...listed[0] })
      const seen = yield* Snapshot.listDirectory(`${home}/snapshots`)
      assert.sameMembers(seen.filter(({ group }) => group === "found").map(({ id }) => id), [first.id, second.id])

      // What we made, msb lists; and what msb makes, we open.
      const made = (yield* msb("snapshot", "create", "--from-sandbox", "found", "--label", "by=msb", "-q", "third"))
        .trim()
      assert.strictEqual(made, "")
      const third = yield* Snapshot.open("found:third")
      assert.deepStrictEqual([third.parent, { ...third.labels }], [second.id, { by: "msb" }])
      const theirs = yield* listedByMsb
      const ours = yield* Snapshot.list
      assert.deepStrictEqual(ours.map(asListed), theirs.map(({ created_at: _, ...row }) => row))
      assert.deepStrictEqual(
        ours.map(({ createdAt }) => DateTime.toEpochMillis(createdAt)),
        theirs.map(({ created_at }) => Math.floor(DateTime.toEpochMillis(DateTime.makeUnsafe(created_at))))
      )

      assert.deepStrictEqual(
        yield* Snapshot.groupHead("found"),
        new Snapshot.Head({
          group: "found",
          previous: third.id,
          head: third.id,
          reason: "unchanged",
          changed: false
        })
      )
      const selected = yield* Snapshot.groupHead("found:first")
      assert.deepStrictEqual([selected.head, selected.reason, selected.changed], [first.id, "selected", true])
      const head = JSON.parse(yield* msb("snapshot", "head", "found", "--format", "json")) as { readonly head: string }
      assert.strictEqual(head.head, first.id)
      assert.strictEqual((yield* Snapshot.open("found")).id, first.id)
    }))

  it.effect("is in the group and directory that it is told", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      yield* makeStopped("placed")
      const grouped = yield* Snapshot.create("placed", "one", { group: "team" })
      assert.deepStrictEqual([grouped.group, grouped.name], ["team", "one"])
      assert.strictEqual((yield* Snapshot.open("team:one")).id, grouped.id)
      const elsewhere = path.join(yield* temporaryDirectory, "not", "yet", "there")
      const out = yield* Snapshot.create("placed", "two", { directory: elsewhere })
      assert.deepStrictEqual([out.path, out.group, out.parent], [`${elsewhere}/placed/${out.id}`, "placed", grouped.id])
      assert.strictEqual(yield* tagOf(Snapshot.open("placed:two")), "SnapshotNotFound")
      const [found, ...others] = yield* Snapshot.listDirectory(elsewhere)
      assert.deepStrictEqual([found?.id, found?.name, others], [out.id, "two", []])
      assert.deepStrictEqual(yield* Snapshot.listDirectory(`${elsewhere}/nowhere`), [])

      // The catalogue forgets, and is told again.
      const { home } = yield* Backend.Local
      yield* Snapshot.remove(out.reference)
      assert.isFalse(yield* fs.exists(out.path))
      const taken = path.join(yield* temporaryDirectory, "taken")
      yield* fs.copy(path.dirname(grouped.path), path.join(taken, "team"))
      assert.strictEqual(yield* Snapshot.reindex(taken), 1)
      const copies = (yield* Snapshot.list).filter(({ id }) => id === grouped.id).map(({ path }) => path)
      assert.sameMembers(copies, [grouped.path, `${taken}/team/${grouped.id}`])
      // Now its id is that of two.
      assert.strictEqual(yield* tagOf(Snapshot.open(grouped.id)), "InvalidConfig")
      yield* Snapshot.remove(`${taken}/team/${grouped.id}`)
      assert.isAtLeast(yield* Snapshot.reindex(), 1)
      assert.strictEqual((yield* Snapshot.open(grouped.id)).path, `${home}/snapshots/team/${grouped.id}`)
    }))

  it.effect("is verified with what was recorded, and only then", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      yield* makeStopped("verified", "content")
      const without = yield* Snapshot.create("verified", "without")
      const recorded = yield* Snapshot.create("verified", "with", { recordIntegrity: true })
      assert.deepStrictEqual(
        { ...(yield* Snapshot.verify("verified:without")) },
        { digest: without.digest, path: without.path, status: "not-recorded" }
      )
      assert.deepStrictEqual({ ...(yield* Snapshot.verify("verified:with")) }, {
        digest: recorded.digest,
        path: recorded.path,
        status: "verified",
        algorithm: "msb-file-merkle-blake3-v1",
        contentDigest: recorded.layers[0]?.integrity?.digest
      })
      const disk = `${recorded.path}/layers/${recorded.layers[0]?.id}.raw`
      const bytes = yield* fs.readFile(disk)
      bytes.set([bytes[3] === 0 ? 1 : 0], 3)
      yield* fs.writeFile(disk, bytes)
      assert.strictEqual(yield* tagOf(Snapshot.verify("verified:with")), "SnapshotIntegrity")
      yield* fs.truncate(disk, 100)
      assert.strictEqual(yield* tagOf(Snapshot.open("verified:with")), "SnapshotIntegrity")
      yield* fs.writeFileString(`${without.path}/snapshot.json`, "{}")
      assert.strictEqual(yield* tagOf(Snapshot.open(without.path)), "SnapshotIntegrity")
    }))

  it.effect("is removed, but neither as a parent nor as the head of others", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      yield* makeStopped("removed")
      const first = yield* Snapshot.create("removed", "first")
      const second = yield* Snapshot.create("removed", "second")
      const parent = yield* reasonOf(Snapshot.remove("removed:first"))
      assert.deepStrictEqual([parent._tag, parent._tag === "InvalidConfig" ? parent.field : parent], [
        "InvalidConfig",
        "force"
      ])
      const head = yield* reasonOf(Snapshot.remove("removed:second", { force: true }))
      assert.strictEqual(head._tag, "InvalidConfig")
      assert.include(head.message, "Snapshot.groupHead")
      yield* Snapshot.remove("removed:first", { force: true })
      assert.isFalse(yield* fs.exists(first.path))
      yield* Snapshot.remove(second.reference)
      assert.isFalse(yield* fs.exists(second.path))
      assert.deepStrictEqual((yield* Snapshot.list).filter(({ group }) => group === "removed"), [])
      for (const reference of ["removed", "removed:first", first.id, first.path]) {
        assert.strictEqual(yield* tagOf(Snapshot.remove(reference)), "SnapshotNotFound", reference)
      }
    }))

  it.effect("is refused with a reason that names the mistake, and leaves nothing", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      const directory = yield* temporaryDirectory
      yield* makeStopped("refused")
      yield* Snapshot.create("refused", "there")
      const out = path.join(directory, "a", "b", "archive.msb")
      const before = yield* everything
      const field = <A, R>(effect: Effect.Effect<A, MicrosandboxError.MicrosandboxError, R>) =>
        Effect.map(reasonOf(effect), (reason) => reason._tag === "InvalidConfig" ? reason.field : reason)
      assert.strictEqual(yield* field(Snapshot.create("refused", "../up")), "name")
      assert.strictEqual(yield* field(Snapshot.create("re/fused", "x")), "sandbox")
      assert.strictEqual(yield* field(Snapshot.create("refused", "x", { group: "../up" })), "group")
      assert.strictEqual(yield* field(Snapshot.create("refused", "x", { directory: "" })), "directory")
      assert.strictEqual(yield* field(Snapshot.open("")), "reference")
      assert.strictEqual(yield* field(Snapshot.save("refused", "/")), "path")
      assert.strictEqual(yield* field(Snapshot.save("refused", out, { lastLayers: 0 })), "lastLayers")
      assert.strictEqual(yield* field(Snapshot.loadMany([])), "paths")
      assert.strictEqual(yield* field(Snapshot.load(out, { group: "a:b" })), "group")
      const rows = [
        ["SnapshotAlreadyExists", Snapshot.create("refused", "there")],
        ["SandboxNotFound", Snapshot.create("nobody", "x")],
        ["Unsupported", Snapshot.create("refused", "x", { full: true, group: "fresh" })],
        ["InvalidConfig", Snapshot.create("refused", "x", { guestFlush: "required", group: "fresh" })],
        ["InvalidConfig", Snapshot.save("refused", out, { since: "refused", lastLayers: 1 })],
        ["SnapshotNotFound", Snapshot.save("nothing", out)],
        // Its image was never pulled.
        ["SnapshotIntegrity", Snapshot.save("refused", out, { image: true })],
        ["SnapshotNotFound", Snapshot.copy("nothing", out)],
        ["SandboxNotFound", Snapshot.createArchive("nobody", out)],
        ["Io", Snapshot.load(out, { directory: path.join(directory, "new") })],
        ["SnapshotNotFound", Snapshot.groupHead("nothing")],
        ["SnapshotNotFound", Snapshot.groupHead("refused:nothing")],
        ["SnapshotNotFound", Snapshot.get("nothing")]
      ] as const
      for (const [tag, effect] of rows) {
        const reason = yield* reasonOf(Effect.asVoid(effect))
        assert.strictEqual(reason._tag, tag, reason.message)
      }
      assert.deepStrictEqual(yield* everything, before)
      assert.deepStrictEqual(yield* contents(directory), [])
    }))

  it.effect("has spans that name it, and its sandbox, and no labels", () =>
    Effect.gen(function*() {
      yield* makeStopped("traced")
      const { exit, spans } = yield* Spans.recorded(Effect.gen(function*() {
        yield* Snapshot.create("traced", "one", { labels: { secret: "hunter2" } })
        yield* Snapshot.open("traced")
        yield* Snapshot.list
        yield* Snapshot.verify("traced")
      }))
      assert.isTrue(Exit.isSuccess(exit))
      Spans.check(spans)
      assert.includeMembers(spans.map(({ name }) => name), [
        "Snapshot.create",
        "Snapshot.open",
        "Snapshot.list",
        "Snapshot.verify"
      ])
      const [made] = Spans.named(spans, "Snapshot.create")
      assert.deepStrictEqual([...made?.attributes ?? []], [["sandbox.name", "traced"], ["snapshot.name", "one"]])
      assert.notInclude(Spans.text(spans), "hunter2")
    }))
})

layer(layerBackend, { excludeTestServices: true, timeout: "2 minutes" })("an archive", (it) => {
  it.effect("carries a snapshot, its parents and its labels into a new group, and into one of msb", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const directory = yield* temporaryDirectory
      const { disk } = yield* makeStopped("carried", "first")
      const first = yield* Snapshot.create("carried", "first", { labels: { n: "1" } })
      yield* fs.writeFile(disk, (yield* fs.readFile(disk)).fill(7, 0, 100))
      const second = yield* Snapshot.create("carried", "second", { recordIntegrity: true })
      const alone = path.join(directory, "alone.msb")
      const both = path.join(directory, "new", "both.tar")
      yield* Snapshot.save("carried", alone)
      yield* Snapshot.save("carried", both, { parents: true, plainTar: true })
      assert.deepStrictEqual([...(yield* fs.readFile(alone)).subarray(0, 4)], [0x28, 0xb5, 0x2f, 0xfd])
      assert.deepStrictEqual(yield* fs.readDirectory(path.dirname(both)), ["both.tar"])

      const info = yield* Snapshot.load(both, { group: "arrived" })
      assert.deepStrictEqual(
        [info.id, info.digest, info.name, info.group, info.parent, info.head?.reason],
        [second.id, second.digest, "second", "arrived", first.id, "initialized"]
      )
      const parent = yield* Snapshot.open("arrived:first")
      assert.deepStrictEqual([parent.id, parent.digest, { ...parent.labels }], [first.id, first.digest, { n: "1" }])
      assert.strictEqual((yield* Snapshot.verify("arrived")).status, "verified")
      const layer = second.layers[0]?.id
      assert.deepStrictEqual(
        yield* fs.readFile(`${info.path}/layers/${layer}.raw`),
        yield* fs.readFile(`${second.path}/layers/${layer}.raw`)
      )
      // A second time it is there already, and no other can have its name.
      const again = yield* Snapshot.load(both, { group: "arrived" })
      assert.deepStrictEqual([again.id, again.head?.reason], [second.id, "unchanged"])
      yield* makeStopped("other")
      yield* Snapshot.create("other", "second")
      yield* Snapshot.save("other", path.join(directory, "other.msb"))
      assert.strictEqual(
        yield* tagOf(Snapshot.load(path.join(directory, "other.msb"), { group: "arrived" })),
        "SnapshotAlreadyExists"
      )

      // Without a name, the group has a new one; several are taken together.
      const generated = yield* Snapshot.load(alone)
      assert.match(generated.group ?? "", /^msb-[0-9a-f]{8}$/)
      const many = yield* Snapshot.loadMany([alone, path.join(directory, "other.msb")], {
        directory: path.join(directory, "elsewhere"),
        group: "many"
      }).pipe(Effect.flip)
      assert.strictEqual(many.reason._tag, "SnapshotAlreadyExists")
      assert.isFalse(yield* fs.exists(path.join(directory, "elsewhere")))
      const [one, two] = yield* Snapshot.loadMany([alone, both], { group: "many" })
      assert.deepStrictEqual([one?.id, two?.id, two?.group], [second.id, second.id, "many"])

      // The command line takes ours, and we take its.
      yield* msb("snapshot", "load", both, "--group", "theirs")
      assert.strictEqual((yield* Snapshot.open("theirs:first")).id, first.id)
      const saved = path.join(directory, "saved.msb")
      yield* msb("snapshot", "save", "carried:first", saved)
      assert.strictEqual((yield* Snapshot.load(saved, { group: "ours" })).id, first.id)
    }))

  it.effect("of a copy has other labels, and a digest when it is asked for", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      const directory = yield* temporaryDirectory
      yield* makeStopped("copied")
      const source = yield* Snapshot.create("copied", "source", { labels: { of: "source" } })
      const same = yield* Snapshot.copy("copied", path.join(directory, "same.msb"), { labels: { of: "copy" } })
      assert.deepStrictEqual(
        [same.id, same.digest, { ...same.labels }, same.name],
        [source.id, source.digest, { of: "copy" }, undefined]
      )
      const digested = yield* Snapshot.copy("copied", path.join(directory, "digested.msb"), { recordIntegrity: true })
      assert.notStrictEqual(digested.id, source.id)
      for (const [copy, status] of [[same, "not-recorded"], [digested, "verified"]] as const) {
        const loaded = yield* Snapshot.load(copy.path)
        assert.deepStrictEqual([loaded.id, loaded.digest], [copy.id, copy.digest])
        assert.deepStrictEqual({ ...(yield* Snapshot.open(loaded.reference)).labels }, { ...copy.labels })
        assert.strictEqual((yield* Snapshot.verify(loaded.reference)).status, status)
      }
      assert.deepStrictEqual({ ...(yield* Snapshot.open("copied")).labels }, { of: "source" })
    }))

  it.effect("of a sandbox is written without a snapshot in between, and in no other's place", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      const file = path.join(yield* temporaryDirectory, "direct.msb")
      yield* makeStopped("direct")
      const rows = yield* Snapshot.list
      const first = yield* Snapshot.createArchive("direct", file, { labels: { n: "1" }, name: "kept" })
      assert.deepStrictEqual([first.path, first.reference, first.sandbox], [file, file, "direct"])
      assert.strictEqual(yield* tagOf(Snapshot.createArchive("direct", file)), "SnapshotAlreadyExists")
      const second = yield* Snapshot.createArchive("direct", file, { overwrite: true, plainTar: true })
      assert.strictEqual(second.parent, first.id)
      assert.deepStrictEqual(yield* Snapshot.list, rows)
      const loaded = yield* Snapshot.load(file)
      assert.deepStrictEqual([loaded.id, loaded.parent], [second.id, first.id])
    }))

  it.effect("that is cut, changed or hostile is refused with its reason, and leaves nothing", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const { bytes, file } = yield* archiveOf("broken")
      const directory = path.dirname(file)
      const canary = path.join(yield* temporaryDirectory, "canary")
      yield* fs.writeFileString(canary, "alive")
      const broken = path.join(directory, "broken.tar")
      const before = yield* everything

      const refuse = Effect.fnUntraced(function*(what: string, content: Uint8Array, tags: ReadonlyArray<string>) {
        yield* fs.writeFile(broken, content)
        for (const options of [{}, { group: "fresh", directory: path.join(directory, "new", "root") }]) {
          const { reason } = yield* Effect.flip(Effect.mapError(Snapshot.load(broken, options), (error) => error))
          assert.include(tags, reason._tag, `${what}: ${reason.message}`)
        }
        assert.deepStrictEqual(
          yield* contents(directory),
          yield* Effect.map(
            contents(directory),
            (all) => all.filter((entry) => /^(?:archive|broken)\.tar /.test(entry))
          ),
          what
        )
      })
      const integrity = ["SnapshotIntegrity"]

      // Cut: in the first header, in each entry, before the inventory, and compressed.
      const compressed = new Uint8Array(zlib.zstdCompressSync(bytes))
      for (const length of [0, 1, 100, 512, 700, 2000, 5000, bytes.length >> 1, bytes.length - 4000]) {
        yield* refuse(`cut at ${length}`, bytes.slice(0, length), integrity)
      }
      for (const part of [0.1, 0.5, 0.9]) {
        yield* refuse(
          `compressed, cut at ${part}`,
          compressed.slice(0, Math.floor(compressed.length * part)),
          integrity
        )
      }

      const entries = Archive.parse(bytes)
      const at = (pattern: RegExp) => {
        const index = entries.findIndex((entry) => pattern.test(Archive.nameOf(entry)))
        assert.isAtLeast(index, 0, String(pattern))
        return index
      }
      const changed = (index: number, change: (entry: Archive.Entry) => Archive.Entry) =>
        Archive.serialize(entries.map((entry, i) => i === index ? change(entry) : entry))
      const flipped = (entry: Archive.Entry): Archive.Entry => ({
        ...entry,
        data: entry.data.map((byte, index) => index === entry.data.length >> 1 ? byte ^ 1 : byte)
      })
      for (const pattern of [/snapshot\.json$/, /metadata\.json$/, /^layers\//, /^archive\.json$/]) {
        yield* refuse(`a bit of ${pattern}`, changed(at(pattern), flipped), integrity)
      }
      yield* refuse(
        "a header",
        changed(0, (entry) => ({ ...entry, header: entry.header.slice().fill(65, 100, 107) })),
        integrity
      )
      yield* refuse("no inventory's entry", Archive.serialize(entries.slice(1)), integrity)
      yield* refuse("an entry twice", Archive.serialize([...entries, ...entries.slice(0, 1)]), integrity)

      // Hostile: names that lead out, links that lead out and are written through, devices, and what fills a disk.
      const outside = path.relative(path.join(directory, "x"), canary)
      for (
        const name of [
          canary,
          outside,
          "../../canary",
          "snapshots/../../x",
          "layers/../x",
          "./.",
          "",
          "snapshots//..",
          "\0"
        ]
      ) {
        yield* refuse(
          `the name ${JSON.stringify(name)}`,
          changed(0, (entry) => Archive.withName(entry, name)),
          integrity
        )
        yield* refuse(
          `one more, ${JSON.stringify(name)}`,
          Archive.serialize([...entries, Archive.file(name, "dead")]),
          integrity
        )
      }
      for (
        const [type, what] of [["1", "a hard link"], ["2", "a link"], ["3", "a device"], ["6", "a FIFO"], ["x", "pax"]]
      ) {
        for (const target of [canary, "../../../canary", "snapshots"]) {
          const link = Archive.withLink(Archive.withType(Archive.file("snapshots", ""), type ?? ""), target)
          yield* refuse(`${what} to ${target}`, Archive.serialize([link, ...entries]), integrity)
        }
      }
      const sparse = Archive.withType(Archive.file("layers/layer_00000000000000000000000000000000.raw", ""), "S")
      const huge = Archive.withField(sparse.header, 386, 24, "77777777777\0\0" + "0".repeat(11))
      const bomb = { ...sparse, header: Archive.withField(huge, 483, 12, "77777777777\0") }
      yield* refuse("a hole of 8 GiB", Archive.serialize([bomb, ...entries]), integrity)
      const zeros = zlib.zstdCompressSync(
        Archive.serialize([...entries, Archive.file("layers/layer_1.raw", new Uint8Array(64 << 20))])
      )
      assert.isBelow(zeros.length, 100_000)
      yield* refuse("64 MiB of zeros in a few bytes", new Uint8Array(zeros), integrity)
      // Forged: all digests are right, and what they are of is not.
      const [parent, child] = entries.flatMap((entry) =>
        /(snap_\w+)\/snapshot/.exec(Archive.nameOf(entry))?.slice(1) ?? []
      )
      const text = (entry: Archive.Entry) => new TextDecoder().decode(entry.data)
      const cycle = entries.map((entry) =>
        Archive.nameOf(entry) === `snapshots/${parent}/snapshot.json`
          ? Archive.withData(entry, text(entry).replace("\"parent\":null", `"parent":"${child}"`))
          : entry
      )
      yield* refuse("each the parent of the other", Archive.serialize(Archive.resealed(cycle)), integrity)
      for (const name of ["../../x", `snap_${"0".repeat(32)}`, "", "a/b", ".", "a".repeat(300)]) {
        const named = Archive.resealed(entries, (inventory) => {
          inventory.extensions["msb-snapshot-member-names"] = { [child ?? ""]: name }
        })
        yield* refuse(`the member ${name}`, Archive.serialize(named), ["InvalidConfig", "SnapshotIntegrity"])
      }
      yield* refuse(
        "a head that is no member",
        Archive.serialize(Archive.resealed(entries, (inventory) => {
          inventory.head = `snap_${"0".repeat(32)}`
        })),
        integrity
      )
      yield* refuse("no archive at all", new TextEncoder().encode("#!/bin/sh\n".repeat(200)), integrity)

      assert.strictEqual(yield* fs.readFileString(canary), "alive")
      assert.deepStrictEqual(yield* everything, before)
      // The one that was not touched is good.
      yield* Snapshot.load(file, { group: "good" })
    }))

  it.effect("that chance has changed is taken into its group or refused with a reason, and nothing else happens", () =>
    seeded(Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const { home } = yield* Backend.Local
      const { bytes, file } = yield* archiveOf("fuzzed")
      const directory = path.dirname(file)
      const mutant = path.join(directory, "mutant.tar")
      const root = path.join(directory, "root")
      const entries = Archive.parse(bytes)
      const names = [
        ...entries.map(Archive.nameOf),
        "../x",
        "/tmp/x",
        "snapshots/../../x",
        "archive.json",
        "group.json",
        ".group.lock",
        "snapshots",
        "x/snapshot.json",
        "x/upper.ext4",
        "images/manifests/x",
        "cache/layers/x",
        "a".repeat(100)
      ]
      const below = (end: number) => Random.nextIntBetween(0, end, { halfOpen: true })
      const pick = <A>(from: ReadonlyArray<A>) => Effect.map(below(from.length), (index) => from[index] as A)
      const bytesAt = (count: number, from: Uint8Array) =>
        Effect.gen(function*() {
          const changed = from.slice()
          for (let i = 0; i < count; i++) {
            if (changed.length === 0) break
            changed[yield* below(changed.length)] = yield* below(256)
          }
          return changed
        })
      /** One change to the list of entries. */
      const change = (list: ReadonlyArray<Archive.Entry>) =>
        Effect.gen(function*() {
          if (list.length === 0) return list
          const index = yield* below(list.length)
          const entry = list[index] as Archive.Entry
          const replace = (other: Archive.Entry) => list.map((entry, i) => i === index ? other : entry)
          switch (yield* below(9)) {
            case 0:
              return replace(Archive.withName(entry, yield* pick(names)))
            case 1:
              return replace(
                Archive.withType(entry, yield* pick(["0", "1", "2", "5", "7", "L", "S", "K", "x", "g", "\0"]))
              )
            case 2:
              return replace(Archive.withLink(entry, yield* pick(names)))
            case 3:
              return replace(Archive.withData(entry, yield* bytesAt(3, entry.data)))
            case 4:
              // JSON in which a piece is another.
              return replace(Archive.withData(
                entry,
                new TextDecoder("latin1").decode(entry.data.subarray(0, 1 << 16)).replace(
                  yield* pick([
                    /snap_[0-9a-f]+/,
                    /layer_[0-9a-f]+/,
                    /"parent"/,
                    /\d+/,
                    /:\{/,
                    /null/,
                    /sha256/,
                    /"[^"]*"$/
                  ]),
                  yield* pick(["snap_00", "../../x", "\"x\"", "999999999999999999999", "[[[[", "null", "-1"])
                )
              ))
            case 5:
              return list.toSpliced(index, 1)
            case 6:
              return [...list, entry]
            case 7:
              return list.toSpliced(0, 0, entry)
            default: {
              // A field of the header, with a checksum that is right.
              const [start, length] = yield* pick([[100, 8], [108, 8], [124, 12], [136, 12], [345, 41], [386, 96], [
                482,
                13
              ]])
              const value = yield* bytesAt(length ?? 1, new Uint8Array(length ?? 1))
              return replace({ ...entry, header: Archive.withField(entry.header, start ?? 0, length ?? 0, value) })
            }
          }
        })
      const before = yield* everything
      const outcomes: Record<string, number> = {}
      for (let round = 0; round < 400; round++) {
        let list = entries
        // Half of them as who knows the format would make them.
        const isForged = (yield* below(2)) === 0
        const changes = yield* Random.nextIntBetween(1, 4)
        for (let i = 0; i < changes; i++) list = yield* change(list)
        if (isForged) list = yield* Effect.orElseSucceed(Effect.try(() => Archive.resealed(list)), () => list)
        let archive = Archive.serialize(list)
        if (!isForged && (yield* below(4)) === 0) archive = yield* bytesAt(3, archive)
        if (!isForged && (yield* below(8)) === 0) {
          archive = archive.slice(0, yield* below(archive.length))
        }
        yield* fs.writeFile(mutant, archive)
        const exit = yield* Effect.exit(Snapshot.load(mutant, { directory: root, group: "fuzzed" }))
        const around = (yield* contents(directory)).filter((entry) => !/^(?:archive|mutant)\.tar /.test(entry))
        if (Exit.isSuccess(exit)) {
          outcomes.taken = (outcomes.taken ?? 0) + 1
          for (const entry of around) {
            assert.match(entry, /^root(?:$|\/\.groups\.lock |\/fuzzed(?:$|\/))/, `round ${round}`)
          }
          for (const { reference } of yield* Snapshot.listDirectory(root)) {
            const verified = yield* Effect.exit(Snapshot.verify(reference))
            // The hashes of a forged one are left out: what was recorded of its disk is all that can tell.
            if (!isForged) assert.isTrue(Exit.isSuccess(verified), `round ${round}`)
          }
          for (const { group, reference } of (yield* Snapshot.list).toReversed()) {
            if (!reference.startsWith(root)) continue
            assert.strictEqual(group, "fuzzed")
            yield* Effect.ignore(Snapshot.remove(reference, { force: true }))
          }
          yield* fs.remove(root, { recursive: true })
        } else {
          const { reason } = yield* Effect.flip(exit)
          outcomes[reason._tag] = (outcomes[reason._tag] ?? 0) + 1
          assert.include(["SnapshotIntegrity", "InvalidConfig", "Io"], reason._tag, `round ${round}: ${reason.message}`)
          assert.deepStrictEqual(around, [], `round ${round}: ${reason.message}`)
        }
      }
      console.log(`fuzzed archives: ${JSON.stringify(outcomes)}`)
      assert.isAbove(outcomes.SnapshotIntegrity ?? 0, 100)
      assert.isAbove(outcomes.taken ?? 0, 5)
      const { rows: _, ...after } = yield* everything
      const { rows: __, ...was } = before
      assert.deepStrictEqual(after, was)
      assert.isTrue(yield* fs.exists(path.join(home, "snapshots", "fuzzed")))
    })))

  it.effect("that is interrupted leaves no file, no directory and no row, or is whole", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const directory = yield* temporaryDirectory
      const noise = crypto.createHash("shake256", { outputLength: 12 << 20 }).update("noise").digest()
      yield* makeStopped("interrupted", noise)
      const source = yield* Snapshot.create("interrupted", "whole", { recordIntegrity: true })
      const archive = path.join(directory, "whole.tar")
      yield* Snapshot.save("interrupted", archive, { plainTar: true })
      const whole = crypto.createHash("sha256").update(yield* fs.readFile(archive)).digest("hex")
      // Of a snapshot that was published before its interruption, the sandbox knows that it is its last.
      const last = /^sandboxes\/interrupted\/snapshot-lineage\.json /
      const rest = Effect.map(everything, (all) => ({ ...all, files: all.files.filter((file) => !last.test(file)) }))
      const before = yield* rest
      let stopped = 0
      const interrupt = Effect.fnUntraced(function*<A, E, R>(effect: Effect.Effect<A, E, R>, delay: number) {
        const fiber = yield* Effect.forkChild(effect)
        yield* Effect.sleep(delay)
        yield* Fiber.interrupt(fiber)
        const exit = yield* Fiber.await(fiber)
        if (Exit.hasInterrupts(exit)) stopped++
        return Exit.isSuccess(exit)
      })
      for (const delay of [0, 2, 10, 30, 60, 120]) {
        const out = path.join(directory, "saved.tar")
        yield* interrupt(Snapshot.save("interrupted", out, { plainTar: true }), delay)
        const left = (yield* contents(directory)).filter((entry) => !entry.startsWith("whole.tar "))
        if (left.length > 0) assert.deepStrictEqual(left, [`saved.tar ${whole}`], `saved, after ${delay} ms`)
        yield* fs.remove(out, { force: true })

        yield* interrupt(Snapshot.load(archive, { group: "loaded" }), delay)
        const loaded = (yield* Snapshot.list).filter(({ group }) => group === "loaded")
        for (const info of loaded) {
          assert.strictEqual((yield* Snapshot.verify(info.reference)).status, "verified")
          yield* Snapshot.remove(info.reference)
          yield* fs.remove(path.dirname(info.reference), { recursive: true })
        }
        assert.deepStrictEqual(yield* rest, before, `loaded, after ${delay} ms`)

        yield* interrupt(Snapshot.create("interrupted", "early", { group: "created", recordIntegrity: true }), delay)
        const created = (yield* Snapshot.list).filter(({ group }) => group === "created")
        for (const info of created) {
          assert.strictEqual((yield* Snapshot.verify(info.reference)).status, "verified")
          yield* Snapshot.remove(info.reference, { force: true })
          yield* fs.remove(path.dirname(info.reference), { recursive: true })
        }
        assert.deepStrictEqual(yield* rest, before, `created, after ${delay} ms`)
      }
      assert.isAbove(stopped, 5)
      assert.strictEqual((yield* Snapshot.verify(source.reference)).status, "verified")
    }))
})
