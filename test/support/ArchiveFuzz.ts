/**
 * Archives of images and of snapshots as chance and malice make them, loaded one after the other into one home: each is taken
 * or refused with a reason, and nothing is read, written or made outside the home, or left in it.
 *
 * No registry and no VM is needed: the images are made here.
 */
import { Backend, Image, type MicrosandboxError, Snapshot } from "@effect-microsandbox/core"
import { NodeServices } from "@effect/platform-node"
import { assert } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Layer, Path, Random, Result } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as crypto from "node:crypto"
import * as NodeFs from "node:fs"
import * as zlib from "node:zlib"
import * as Archive from "./Archive.ts"
import { temporaryDirectory } from "./Sandboxes.ts"
import { makeStopped } from "./Store.ts"

type Entries = ReadonlyArray<Archive.Entry>

// Chance

const below = (end: number) => Random.nextIntBetween(0, end, { halfOpen: true })

const pick = <A>(from: ReadonlyArray<A>): Effect.Effect<A> =>
  Effect.map(below(from.length), (index) => from[index] as A)

const isOnce = (in_: number) => Effect.map(below(in_), (number) => number === 0)

/** The same bytes, but for so many of them. */
const scattered = Effect.fnUntraced(function*(count: number, from: Uint8Array) {
  const changed = from.slice()
  for (let i = 0; i < count && changed.length > 0; i++) changed[yield* below(changed.length)] = yield* below(256)
  return changed
})

// What is outside

const secret = "c4n4ry-that-no-archive-may-have"

/** A home, alone in a directory with what names and links of archives lead to. */
export class Outside extends Context.Service<Outside, {
  /** Names and targets that lead there, and elsewhere. */
  readonly ways: ReadonlyArray<string>
  /** Everything outside, with the times of each change and each reading. */
  readonly look: () => unknown
}>()("test/support/Outside") {}

const stamp = (path: string) => {
  const { atimeNs, ctimeNs, ino, mode, mtimeNs, nlink, size } = NodeFs.lstatSync(path, { bigint: true })
  return { path, ino, mode, nlink, size, ctimeNs, mtimeNs, atimeNs }
}

const makeOutside = Effect.fn("makeOutside")(function*(base: string) {
  const spawner = yield* ChildProcessSpawner
  const outside = `${base}/outside`
  NodeFs.mkdirSync(`${outside}/directory`, { recursive: true })
  NodeFs.writeFileSync(`${outside}/secret`, secret)
  NodeFs.writeFileSync(`${outside}/directory/file`, secret)
  // Who opens it waits for ever.
  yield* spawner.exitCode(ChildProcess.make("mkfifo", [`${outside}/fifo`]))
  const files = ["secret", "directory/file"].map((name) => `${outside}/${name}`)
  // Read long ago and written since: a file system that notes readings now and then notes the next one.
  for (const file of files) NodeFs.utimesSync(file, 1, Date.now() / 1000)
  const places = [base, outside, `${outside}/directory`, `${outside}/fifo`, ...files]
  return Outside.of({
    ways: [
      `${outside}/secret`,
      `${outside}/new`,
      `${outside}/fifo`,
      `${outside}/directory`,
      `${outside}/directory/new`,
      ...[1, 2, 3, 4, 5].flatMap((count) =>
        ["outside/secret", "outside/new", "x"].map((name) => "../".repeat(count) + name)
      ),
      "a/../../outside/new",
      "blobs/sha256/../../../outside/new",
      "/dev/zero",
      "/proc/self/environ",
      "/",
      "..",
      ".",
      "./.",
      "",
      "a/",
      "a//b",
      "\0",
      "ü\n",
      "a".repeat(100)
    ],
    look: () => places.map(stamp)
  })
})

/** A backend whose home is beside {@link Outside}. */
export const layer: Layer.Layer<
  Backend.Backend | Backend.Local | NodeServices.NodeServices | Outside
> = Layer.unwrap(Effect.map(temporaryDirectory, (base) => {
  NodeFs.mkdirSync(`${base}/home`)
  return Layer.merge(Backend.layerLocal({ home: `${base}/home` }), Layer.effect(Outside, makeOutside(base)))
})).pipe(Layer.orDie, Layer.provideMerge(NodeServices.layer))

// What is in the home

/** The database has the rows, which are looked at by themselves; locks stay. */
const isKept = (path: string) => !/^(?:db|run|logs|owners?)(?:\/|$)|[.]lock$/.test(path)

/** Everything in a home: directories by their names, files with what changes when they are written. */
const inside = (home: string): ReadonlyArray<string> =>
  NodeFs.readdirSync(home, { recursive: true, encoding: "utf8" })
    .filter(isKept)
    .map((path) => {
      const { ctimeNs, ino, mode, size } = NodeFs.lstatSync(`${home}/${path}`, { bigint: true })
      return (mode & 0o170000n) === 0o040000n ? path : `${path} ${ino} ${ctimeNs} ${size}`
    })
    .toSorted()

/** No file that is there now, and was not, has the secret. */
const assertDiscreet = (home: string, before: ReadonlySet<string>, what: string): void => {
  for (const entry of inside(home)) {
    if (before.has(entry) || !/ \d+ \d+ \d+$/.test(entry)) continue
    const file = `${home}/${entry.replace(/ \d+ \d+ \d+$/, "")}`
    if (NodeFs.lstatSync(file).isFile()) assert.isFalse(NodeFs.readFileSync(file).includes(secret), `${what}: ${file}`)
  }
}

/** How a load ended: a failure is an error of this SDK, and never a defect. */
const settled = <A>(
  exit: Exit.Exit<A, MicrosandboxError.MicrosandboxError>,
  what: string
): Result.Result<A, MicrosandboxError.Reason> => {
  if (Exit.isSuccess(exit)) return Result.succeed(exit.value)
  const failures = exit.cause.reasons.filter(Cause.isFailReason)
  assert.lengthOf(failures, exit.cause.reasons.length, `${what}: ${Cause.pretty(exit.cause)}`)
  const reason = failures[0]?.error.reason ?? assert.fail(`${what}: no reason`)
  assert.notInclude(reason.message, secret, what)
  return Result.fail(reason)
}

// Changes of any archive

const types = ["0", "1", "2", "3", "4", "5", "6", "7", "D", "g", "K", "L", "M", "N", "S", "V", "x", "\0", "\xff"]

/** Sizes that are none, or that nobody has: in octal, and as GNU's and others' tar write large ones. */
const sizes: ReadonlyArray<string | Uint8Array> = [
  "",
  "x",
  "-1",
  "00000000001",
  "77777777777",
  "17777777777",
  "8",
  new Uint8Array(12).fill(0xff),
  Uint8Array.of(0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
  Uint8Array.of(0x80, 0, 0, 0, 0, 0, 0, 0, 0x01, 0, 0, 0)
]

/** Mode, owner, group, size, time, prefix of the name, and GNU's sparse map: what a header has besides name, type and link. */
const fields = [[100, 8], [108, 8], [116, 8], [124, 12], [136, 12], [257, 8], [345, 155], [386, 96], [482, 13]] as const

/** Attributes of the entry that follows, as `pax` writes them. */
const attributes = (records: Readonly<Record<string, string>>): Archive.Entry => {
  const lines = Object.entries(records).map(([name, value]) => {
    const rest = ` ${name}=${value}\n`
    const length = new TextEncoder().encode(rest).length
    let total = length + 1
    while (String(total).length + length !== total) total++
    return `${total}${rest}`
  })
  return Archive.withType(Archive.file("PaxHeaders/x", lines.join("")), "x")
}

/** GNU's entry with the name of the one that follows. */
const longName = (name: string, type: "K" | "L"): Archive.Entry =>
  Archive.withType(Archive.file("././@LongLink", `${name}\0`), type)

/** Pieces of descriptions, and what stands in their places. */
const pieces = [
  /sha256:[0-9a-f]+/,
  /[0-9a-f]{64}/,
  /snap_[0-9a-f]+/,
  /layer_[0-9a-f]+/,
  /"(?:Layers|Config|RepoTags|diff_ids|layers|config|manifests|parent|size|digest|mediaType|architecture)"/,
  /application\/[^"]+/,
  /-?\d+/,
  /:\{/,
  /:\[/,
  /null/,
  /"[^"]*"/,
  /"[^"]*"$/
]
const strange = [
  "snap_00",
  "sha256:00",
  `sha256:${"0".repeat(64)}`,
  "sha512:00",
  "\"x\"",
  "999999999999999999999",
  "18446744073709551615",
  "-1",
  "1e400",
  "[".repeat(2000),
  "null",
  "{}",
  "\"\\ud800\"",
  "a".repeat(5000)
]

/** One change to a list of entries. */
const changed = Effect.fnUntraced(function*(list: Entries, ways: ReadonlyArray<string>) {
  if (list.length === 0) return list
  const index = yield* below(list.length)
  const entry = list[index] as Archive.Entry
  const replace = (other: Archive.Entry) => list.toSpliced(index, 1, other)
  switch (yield* below(14)) {
    case 0:
      return replace(Archive.withName(entry, yield* pick([...ways, ...list.map(Archive.nameOf)])))
    case 1:
      return replace(Archive.withType(entry, yield* pick(types)))
    case 2: {
      const link = Archive.withLink(entry, yield* pick([...ways, ...list.map(Archive.nameOf)]))
      return replace(Archive.withType(link, yield* pick(["1", "2", "0"])))
    }
    case 3:
      return replace(Archive.withData(entry, yield* scattered(3, entry.data)))
    case 4: {
      const text = new TextDecoder("latin1").decode(entry.data.subarray(0, 1 << 16))
      return replace(Archive.withData(entry, text.replace(yield* pick(pieces), yield* pick([...strange, ...ways]))))
    }
    case 5:
      return list.toSpliced(index, 1)
    case 6:
      return [...list, entry]
    case 7:
      return [entry, ...list]
    case 8: {
      const [start, length] = yield* pick(fields)
      const value = yield* scattered(length, new Uint8Array(length))
      return replace({ ...entry, header: Archive.withField(entry.header, start, length, value) })
    }
    case 9:
      return replace({ ...entry, header: Archive.withField(entry.header, 124, 12, yield* pick(sizes)) })
    case 10:
      // A link, and the same name as a way through it.
      return list.toSpliced(
        index,
        1,
        Archive.withLink(Archive.withType(Archive.file("way", ""), "2"), yield* pick(ways)),
        Archive.file("way/through", "written"),
        Archive.withName(entry, "way")
      )
    case 11:
      return list.toSpliced(
        index,
        0,
        attributes({
          [yield* pick(["path", "linkpath", "size", "GNU.sparse.size", "x"])]: yield* pick([...ways, "-1"])
        })
      )
    case 12:
      return list.toSpliced(
        index,
        0,
        longName(yield* pick([...ways, "long/".repeat(20_000), "a".repeat(1 << 20)]), yield* pick(["K", "L"] as const))
      )
    default:
      // Cut, or longer than it says.
      return replace({ ...entry, data: entry.data.slice(0, yield* below(entry.data.length + 1)) })
  }
})

const times = Effect.fnUntraced(function*<A, E, R>(
  most: number,
  from: A,
  change: (from: A) => Effect.Effect<A, E, R>
) {
  let value = from
  for (let count = yield* Random.nextIntBetween(1, most); count > 0; count--) value = yield* change(value)
  return value
})

/** What becomes of the bytes of an archive as a whole. */
const disturbed = Effect.fnUntraced(function*(bytes: Uint8Array) {
  switch (yield* below(12)) {
    case 0:
      return yield* scattered(3, bytes)
    case 1:
      return bytes.slice(0, yield* below(bytes.length))
    case 2:
      return Buffer.concat([bytes.subarray(0, (yield* below(bytes.length)) & ~511), new Uint8Array(512), bytes])
    case 3:
      return Buffer.concat([bytes, crypto.createHash("sha256").update(bytes).digest()])
    default:
      return bytes
  }
})

// Images

const sha256 = (bytes: Uint8Array) => crypto.createHash("sha256").update(bytes).digest("hex")

/** An image by what is in its layers. */
interface Model {
  readonly name: string
  readonly layers: ReadonlyArray<Entries>
}

const directory = (name: string): Archive.Entry => Archive.withType(Archive.file(name, ""), "5")

const model = (name: string): Model => ({
  name,
  layers: [
    [directory("etc/"), Archive.file("etc/greeting", "hello"), Archive.file("etc/other", "x".repeat(2000))],
    [directory("etc/"), Archive.file("etc/.wh.other", ""), Archive.file("srv", name)]
  ]
})

/** Its archive as Docker or the OCI has it, in which everything is true. */
const packed = ({ layers, name }: Model, format: "docker" | "oci", compresses = false): Entries => {
  const tars = layers.map(Archive.serialize)
  const config = new TextEncoder().encode(JSON.stringify({
    architecture: process.arch === "x64" ? "amd64" : process.arch,
    os: "linux",
    config: { Cmd: ["/bin/sh"], Env: ["PATH=/bin"] },
    rootfs: { type: "layers", diff_ids: tars.map((tar) => `sha256:${sha256(tar)}`) }
  }))
  if (format === "docker") {
    const places = tars.map((tar) => `${sha256(tar)}/layer.tar`)
    const manifest = [{ Config: `${sha256(config)}.json`, RepoTags: [name], Layers: places }]
    return [
      Archive.file(`${sha256(config)}.json`, config),
      ...tars.map((tar, index) => Archive.file(places[index] ?? "", tar)),
      Archive.file("manifest.json", JSON.stringify(manifest))
    ]
  }
  const blob = (mediaType: string, bytes: Uint8Array) => ({
    entry: Archive.file(`blobs/sha256/${sha256(bytes)}`, bytes),
    descriptor: {
      mediaType: `application/vnd.oci.image.${mediaType}`,
      digest: `sha256:${sha256(bytes)}`,
      size: bytes.length
    }
  })
  const blobs = tars.map((tar) =>
    compresses ? blob("layer.v1.tar+gzip", zlib.gzipSync(tar, { level: 1 })) : blob("layer.v1.tar", tar)
  )
  const configBlob = blob("config.v1+json", config)
  const manifest = blob(
    "manifest.v1+json",
    new TextEncoder().encode(JSON.stringify({
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: configBlob.descriptor,
      layers: blobs.map(({ descriptor }) => descriptor)
    }))
  )
  const annotations = { "org.opencontainers.image.ref.name": name }
  return [
    Archive.file("oci-layout", JSON.stringify({ imageLayoutVersion: "1.0.0" })),
    Archive.file(
      "index.json",
      JSON.stringify({ schemaVersion: 2, manifests: [{ ...manifest.descriptor, annotations }] })
    ),
    ...[...blobs, configBlob, manifest].map(({ entry }) => entry)
  ]
}

const keeper = "fuzz.example/keeper:1"
const mutant = "fuzz.example/mutant:1"
const another = "fuzz.example/another:1"

/** Docker's archive of two images. */
const joined = (one: Model, other: Model): Entries => {
  const [first, second] = [packed(one, "docker"), packed(other, "docker")]
  const manifests = [first, second].flatMap((entries) =>
    JSON.parse(new TextDecoder().decode(entries.at(-1)?.data)) as ReadonlyArray<unknown>
  )
  return [...first.slice(0, -1), ...second.slice(0, -1), Archive.file("manifest.json", JSON.stringify(manifests))]
}

/** An archive that is not what it seems: changed in its layers, with digests that are right, and as it is. */
const makeImageArchive = Effect.fnUntraced(function*(ways: ReadonlyArray<string>) {
  const format = yield* pick(["docker", "oci"] as const)
  const good = model(mutant)
  // Half of them as who knows the format would make them.
  const isForged = yield* isOnce(2)
  const layers = isForged
    ? yield* Effect.forEach(good.layers, (layer) => times(3, layer, (layer) => changed(layer, ways)))
    : good.layers
  const image = { ...good, layers }
  let entries = (yield* isOnce(5)) ? joined(model(another), image) : packed(image, format, yield* isOnce(2))
  if (!isForged || (yield* isOnce(3))) entries = yield* times(3, entries, (entries) => changed(entries, ways))
  const bytes = Archive.serialize(entries)
  return isForged ? bytes : yield* disturbed(bytes)
})

/** Loads so many archives of images, and says how often what came of it. */
export const images = Effect.fn("images")(function*(rounds: number) {
  const path = yield* Path.Path
  const { home } = yield* Backend.Local
  const { look, ways } = yield* Outside
  const directory = yield* temporaryDirectory
  const file = path.join(directory, "mutant.tar")
  const write = (name: string, bytes: Uint8Array) => NodeFs.writeFileSync(path.join(directory, name), bytes)

  write("keeper.tar", Archive.serialize(packed(model(keeper), "oci")))
  yield* Image.load(path.join(directory, "keeper.tar"))
  /** What the keeper is to who uses it. */
  const kept = Effect.gen(function*() {
    const to = path.join(directory, "saved.tar")
    yield* Image.pull(keeper, { pullPolicy: "never" })
    yield* Image.save([keeper], to)
    const { config, image: { digest, layerCount }, layers } = yield* Image.inspect(keeper)
    return { config, digest, layerCount, layers, saved: sha256(NodeFs.readFileSync(to)) }
  })
  // The true ones are taken.
  for (const format of ["docker", "oci"] as const) {
    write("mutant.tar", Archive.serialize(packed(model(mutant), format, true)))
    assert.deepStrictEqual((yield* Image.load(file)).map(({ reference }) => reference), [mutant], format)
    yield* Image.remove(mutant)
  }
  const before = { kept: yield* kept, inside: inside(home), outside: look() }
  const known = new Set(before.inside)

  const outcomes: Record<string, number> = {}
  const count = (what: string) => {
    outcomes[what] = (outcomes[what] ?? 0) + 1
  }
  for (let round = 0; round < rounds; round++) {
    const what = `image ${round}`
    write("mutant.tar", yield* makeImageArchive(ways))
    const loaded = settled(yield* Effect.exit(Image.load(file)), what)
    assert.deepStrictEqual(look(), before.outside, what)
    if (Result.isSuccess(loaded)) {
      count("taken")
      assertDiscreet(home, known, what)
      for (const { reference } of loaded.success) yield* Image.remove(reference)
    } else {
      count(loaded.failure._tag)
      assert.include(
        ["ImageArchiveInvalid", "ImageDigestMismatch"],
        loaded.failure._tag,
        `${what}: ${loaded.failure.message}`
      )
    }
    assert.deepStrictEqual((yield* Image.list).map(({ reference }) => reference), [keeper], what)
    assert.deepStrictEqual(inside(home), before.inside, what)
    if (round % 250 === 249) assert.deepStrictEqual(yield* kept, before.kept, what)
  }
  assert.deepStrictEqual(yield* kept, before.kept)
  assert.deepStrictEqual(NodeFs.readdirSync(directory).toSorted(), ["keeper.tar", "mutant.tar", "saved.tar"])
  return outcomes
}, Effect.scoped)

// Snapshots

/** Loads so many archives of snapshots, and says how often what came of it. */
export const snapshots = Effect.fn("snapshots")(function*(rounds: number) {
  const path = yield* Path.Path
  const { home } = yield* Backend.Local
  const { look, ways } = yield* Outside
  const directory = yield* temporaryDirectory
  const at = (name: string) => path.join(directory, name)
  // A snapshot with a parent, in an archive with it that is not compressed.
  yield* makeStopped("fuzzed", "a".repeat(5000))
  yield* Snapshot.create("fuzzed", "parent", { labels: { of: "parent" } })
  yield* Snapshot.create("fuzzed", "child", { labels: { of: "child" }, recordIntegrity: true })
  yield* Snapshot.save("fuzzed", at("good.tar"), { parents: true, plainTar: true })
  const good = Archive.parse(NodeFs.readFileSync(at("good.tar")))
  const names = [
    ...ways,
    "archive.json",
    "group.json",
    ".group.lock",
    "snapshots",
    "x/snapshot.json",
    "x/upper.ext4",
    "images/manifests/x",
    "cache/layers/x"
  ]
  const make = Effect.gen(function*() {
    let entries = yield* times(4, good, (entries) => changed(entries, names))
    // Half of them as who knows the format would make them.
    const isForged = yield* isOnce(2)
    if (isForged) {
      const changes = entries
      entries = yield* Effect.orElseSucceed(Effect.try(() => Archive.resealed(changes)), () => changes)
    }
    const bytes = Archive.serialize(entries)
    const archive = isForged ? bytes : yield* disturbed(bytes)
    return { isForged, archive: (yield* isOnce(4)) ? new Uint8Array(zlib.zstdCompressSync(archive)) : archive }
  })
  const rows = Effect.map(Snapshot.list, (all) => all.map(({ reference }) => reference))
  const root = at("root")
  // The first load makes directories that stay.
  yield* Snapshot.load(at("good.tar"), { directory: root, group: "loaded" })
  NodeFs.rmSync(root, { recursive: true })
  const before = { rows: yield* rows, inside: inside(home), outside: look() }
  const known = new Set(before.inside)

  const outcomes: Record<string, number> = {}
  let listed = before.rows
  for (let round = 0; round < rounds; round++) {
    const what = `snapshot ${round}`
    const { archive, isForged } = yield* make
    NodeFs.writeFileSync(at("mutant.tar"), archive)
    const loaded = settled(
      yield* Effect.exit(Snapshot.load(at("mutant.tar"), { directory: root, group: "loaded" })),
      what
    )
    assert.deepStrictEqual(look(), before.outside, what)
    const around = NodeFs.readdirSync(directory).filter((name) => !/^(?:good|mutant)[.]tar$/.test(name))
    const tag = Result.isSuccess(loaded) ? "taken" : loaded.failure._tag
    outcomes[tag] = (outcomes[tag] ?? 0) + 1
    if (Result.isSuccess(loaded)) {
      assert.deepStrictEqual(around, ["root"], what)
      for (const entry of NodeFs.readdirSync(root)) assert.match(entry, /^(?:loaded|[.]groups[.]lock)$/, what)
      assertDiscreet(root, new Set(), what)
      for (const { reference } of yield* Snapshot.listDirectory(root)) {
        const verified = yield* Effect.exit(Snapshot.verify(reference))
        // The hashes of a forged one are left out: what was recorded of its disk is all that can tell.
        if (!isForged) assert.isTrue(Exit.isSuccess(verified), what)
      }
      for (const { group, reference } of (yield* Snapshot.list).toReversed()) {
        if (!reference.startsWith(root)) continue
        assert.strictEqual(group, "loaded", what)
        yield* Effect.ignore(Snapshot.remove(reference, { force: true }))
      }
      NodeFs.rmSync(root, { recursive: true })
      // Of the head of a group, which cannot be removed, its row is left.
      listed = yield* rows
    } else {
      assert.include(
        ["SnapshotIntegrity", "InvalidConfig", "Io", "Unsupported"],
        loaded.failure._tag,
        `${what}: ${loaded.failure.message}`
      )
      assert.deepStrictEqual(around, [], `${what}: ${loaded.failure.message}`)
      assert.deepStrictEqual(yield* rows, listed, what)
    }
    assertDiscreet(home, known, what)
    assert.deepStrictEqual(inside(home), before.inside, what)
    if (round % 250 === 249) assert.strictEqual((yield* Snapshot.verify("fuzzed:child")).status, "verified", what)
  }
  // The one that was not touched is good, and the ones that were there are.
  yield* Snapshot.load(at("good.tar"), { group: "good" })
  assert.strictEqual((yield* Snapshot.verify("fuzzed:child")).status, "verified")
  const ours = before.rows.filter((reference) => reference.startsWith(`${home}/`))
  assert.lengthOf(ours, 2)
  assert.includeMembers([...yield* rows], ours)
  return outcomes
}, Effect.scoped)
