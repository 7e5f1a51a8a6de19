/** Images: pulled from real registries, listed as `msb` lists them, removed, and carried in archives that may be bad. */
import { Backend, Image, MicrosandboxError, Progress, type SandboxOptions } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import {
  ByteSize,
  DateTime,
  Effect,
  Fiber,
  FileSystem,
  Layer,
  Path,
  Redacted,
  Schema,
  Stdio,
  Stream,
  Terminal
} from "effect"
import { HttpClientResponse } from "effect/http"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as crypto from "node:crypto"
import * as http from "node:http"
import type * as net from "node:net"
import * as Gate from "../support/Gate.ts"
import * as Registry from "../support/Registry.ts"
import { idle, layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"
import * as Spans from "../support/Spans.ts"
import * as Store from "../support/Store.ts"

const MiB = 1 << 20

const Manifest = Schema.Struct({
  config: Schema.Struct({ digest: Schema.String, size: Schema.Int }),
  layers: Schema.Array(Schema.Struct({ digest: Schema.String, size: Schema.Int }))
})

const manifestOf = Effect.fn("manifestOf")(function*(name: string, tag = "latest") {
  const { get } = yield* Registry.Registry
  const response = yield* get(name, `manifests/${tag}`)
  const digest = response.headers["docker-content-digest"]
  return { ...yield* HttpClientResponse.schemaBodyJson(Manifest)(response), digest: digest ?? "" }
})

const DockerManifest = Schema.fromJsonString(Schema.Array(Schema.Struct({ Layers: Schema.Array(Schema.String) })))

const insecure = { registry: { insecure: true } } as const

/** Why something failed. */
const reasonOf = <A, R>(effect: Effect.Effect<A, MicrosandboxError.MicrosandboxError, R>) =>
  Effect.matchEffect(effect, {
    onFailure: ({ reason }) => Effect.succeed(reason),
    onSuccess: () => Effect.die(new Error("it succeeded"))
  })

const tagOf = <A, R>(effect: Effect.Effect<A, MicrosandboxError.MicrosandboxError, R>) =>
  Effect.map(reasonOf(effect), ({ _tag }) => _tag)

const references = Effect.map(Image.list, (images) => images.map(({ reference }) => reference).toSorted())

/** The files of a directory of the cache: without its locks, which stay. */
const cached = Effect.fn("cached")(function*(directory: "layers" | "fsmeta" | "vmdk" | "tmp" | "manifests") {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const { home } = yield* Backend.Local
  const place = path.join(home, "cache", directory)
  if (!(yield* fs.exists(place))) return []
  return (yield* fs.readDirectory(place)).filter((name) => !name.endsWith(".lock")).toSorted()
})

/** A home of its own, for what counts what is there. */
const inNewHome = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(temporaryDirectory, (home) => Effect.provide(effect, Backend.layerLocal({ home }), { local: true }))
    .pipe(
      Effect.scoped
    )

/** Runs a program of this machine; its output when it succeeds. */
const run = Effect.fn("run")(function*(
  command: string,
  args: ReadonlyArray<string>,
  env: Readonly<Record<string, string>> = {}
) {
  const spawner = yield* ChildProcessSpawner
  const program = yield* spawner.spawn(ChildProcess.make(command, args, { env, extendEnv: true, stderr: "inherit" }))
  const said = yield* Stream.mkString(Stream.decodeText(program.stdout))
  assert.strictEqual(yield* program.exitCode, 0, `${command} ${args.join(" ")}`)
  return said
}, Effect.scoped)

/** The command line of the same version, on the same home. */
const msb = Effect.fn("msb")(function*(...args: ReadonlyArray<string>) {
  const { home } = yield* Backend.Local
  return yield* run("node_modules/@superradcompany/microsandbox-linux-x64-gnu/bin/msb", args, { MSB_HOME: home })
})

const Listed = Schema.fromJsonString(Schema.Array(Schema.Struct({
  reference: Schema.String,
  digest: Schema.String,
  os: Schema.String,
  architecture: Schema.String,
  layer_count: Schema.Int,
  size_bytes: Schema.Int,
  created_at: Schema.String
})))

/** What the command line lists, in the terms of this SDK. */
const msbList = Effect.flatMap(msb("image", "list", "--format", "json"), Schema.decodeEffect(Listed)).pipe(
  Effect.map((images) =>
    images.map(({ created_at, layer_count, size_bytes, ...rest }) => ({
      ...rest,
      layerCount: layer_count,
      size: ByteSize.bytes(size_bytes),
      createdAt: DateTime.makeUnsafe(created_at)
    }))
  )
)

/** The same of what we list: `msb` does not say when an image was last used. */
const ourList = Effect.map(Image.list, (images) => images.map(({ lastUsedAt: _, ...rest }) => rest))

/**
 * A registry on loopback that is the real one, but for what `answer` says. It stands for what Debian's does not do: it has
 * no limits, and never sends bytes that are not those of a digest.
 */
const altered = Effect.fn("altered")(function*(
  host: string,
  answer: (path: string) => { readonly status: number; readonly body: string | Uint8Array } | undefined
) {
  const server = http.createServer((request, response) => {
    const own = answer(request.url ?? "")
    if (own !== undefined) {
      response.writeHead(own.status, { "content-type": "application/json" }).end(own.body)
      return
    }
    const [hostname, port] = host.split(":")
    const options = { hostname, port, path: request.url, method: request.method, headers: request.headers }
    request.pipe(http.request(options, (upstream) => {
      response.writeHead(upstream.statusCode ?? 500, upstream.headers)
      upstream.pipe(response)
    }))
  })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.closeAllConnections()
        server.close(() => resume(Effect.void))
      })
  )
  return `127.0.0.1:${(server.address() as net.AddressInfo).port}`
})

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { excludeTestServices: true, timeout: "2 minutes" })(
  "an image",
  (it) => {
    it.effect("is pulled, listed, looked up, inspected and removed", () =>
      inNewHome(Effect.gen(function*() {
        const { push } = yield* Registry.Registry
        const before = yield* DateTime.now
        const reference = yield* push("whole", yield* rootDirectory, {
          ballast: "1 MiB",
          cmd: ["/bin/echo", "made here"],
          entrypoint: ["/bin/env"],
          env: ["PATH=/bin", "A=b=c"],
          labels: { "org.example.feature": "enabled" },
          user: "nobody",
          workdir: "/srv"
        })
        const manifest = yield* manifestOf("whole")
        const sizes = manifest.layers.map(({ size }) => ByteSize.bytes(size))
        const pulled = yield* Image.pull(reference)
        assert.deepInclude({ ...pulled }, {
          reference,
          digest: manifest.digest,
          os: "linux",
          architecture: Registry.architecture,
          layerCount: 2,
          size: ByteSize.bytes(manifest.layers.reduce((sum, { size }) => sum + size, 0))
        })
        for (const time of [pulled.createdAt, pulled.lastUsedAt]) {
          assert.isTrue(time !== undefined && DateTime.isGreaterThanOrEqualTo(time, before))
        }
        assert.deepStrictEqual(yield* Image.list, [pulled])
        assert.deepStrictEqual(yield* Image.get(reference), pulled)
        const { config, image, layers } = yield* Image.inspect(reference)
        assert.deepStrictEqual(image, pulled)
        assert.deepStrictEqual({ ...config }, {
          digest: manifest.config.digest,
          env: ["PATH=/bin", "A=b=c"],
          cmd: ["/bin/echo", "made here"],
          entrypoint: ["/bin/env"],
          workdir: "/srv",
          user: "nobody",
          labels: { "org.example.feature": "enabled" }
        })
        assert.deepStrictEqual(layers.map(({ digest }) => digest), manifest.layers.map(({ digest }) => digest))
        assert.deepStrictEqual(layers.map(({ size }) => size), sizes)
        assert.isAbove(Number(layers[1]?.unpackedSize), MiB)
        assert.lengthOf(yield* cached("layers"), 2)
        yield* Image.remove(reference)
        assert.deepStrictEqual(yield* Image.list, [])
        for (const directory of ["layers", "fsmeta", "vmdk", "manifests"] as const) {
          assert.deepStrictEqual(yield* cached(directory), [])
        }
        for (const effect of [Image.get(reference), Image.inspect(reference), Image.remove(reference)]) {
          assert.deepInclude({ ...yield* reasonOf(effect) }, {
            _tag: "ImageNotFound",
            reference
          })
        }
      })))

    it.effect("is pulled in a stream that tells its bytes, and that can be drawn", () =>
      Effect.gen(function*() {
        const { push } = yield* Registry.Registry
        const reference = yield* push("watched", yield* rootDirectory, { ballast: "3 MiB" })
        const drawn: Array<string> = []
        const terminal = Terminal.make({
          columns: Effect.succeed(80),
          rows: Effect.succeed(10),
          size: Effect.die("unused"),
          readInput: Effect.die("unused"),
          readLine: Effect.die("unused"),
          display: (text) => Effect.sync(() => drawn.push(text))
        })
        const events = yield* Image.pullStream(reference).pipe(
          Progress.render,
          Stream.runCollect,
          Effect.provideService(Terminal.Terminal, terminal),
          Effect.provide(Stdio.layerTest({ stdoutIsTerminal: Effect.succeed(false) }))
        )
        const ready = events.at(-1)
        if (ready?._tag !== "Ready") return assert.fail("no image")
        assert.deepStrictEqual(ready.image, yield* Image.get(reference))
        const resolved = events.find(({ _tag }) => _tag === "Resolved")
        if (resolved?._tag !== "Resolved") return assert.fail("no Resolved")
        assert.deepInclude({ ...resolved }, { reference, layerCount: 2, totalBytes: Number(ready.image.size) })
        let downloaded = 0
        for (const event of events) if (event._tag === "LayerDownloadComplete") downloaded += event.bytes
        assert.strictEqual(downloaded, resolved.totalBytes)
        assert.isTrue(events.some(({ _tag }) => _tag === "LayerDownloadProgress"))
        assert.deepStrictEqual([drawn[0], drawn.at(-1)], [`resolving ${reference}\n`, "ready\n"])
        assert.isFalse(drawn.includes("booting\n"))
      }))

    it.effect("whose pull is interrupted is not here, and the next pull goes on where that one was", () =>
      Effect.gen(function*() {
        const { host, push } = yield* Registry.Registry
        yield* push("slow", yield* rootDirectory, { ballast: "24 MiB" })
        const gate = yield* Gate.make(host, 12 * MiB)
        const reference = `${gate.host}/slow:latest`
        const pulling = yield* Effect.forkChild(Image.pull(reference, insecure))
        yield* gate.held
        yield* Fiber.interrupt(pulling)
        yield* gate.silence
        assert.isAtLeast(yield* gate.passed, 12 * MiB)
        assert.strictEqual(yield* tagOf(Image.get(reference)), "ImageNotFound")
        const { native } = yield* Backend.Backend
        assert.deepStrictEqual(yield* native.live, idle)
        yield* gate.open
        yield* Image.pull(reference, insecure)
        // What came before is not asked for again.
        assert.isBelow(yield* gate.passed, 24 * MiB)
        yield* Image.get(reference)
      }).pipe(Effect.scoped))

    it.effect("is not downloaded any more when its stream is left", () =>
      Effect.gen(function*() {
        const { host, push } = yield* Registry.Registry
        yield* push("left", yield* rootDirectory, { ballast: "24 MiB" })
        const gate = yield* Gate.make(host, 8 * MiB)
        const reference = `${gate.host}/left:latest`
        const seen = yield* Image.pullStream(reference, insecure).pipe(
          Stream.takeUntil(({ _tag }) => _tag === "LayerDownloadProgress"),
          Stream.runCollect
        )
        assert.strictEqual(seen.at(-1)?._tag, "LayerDownloadProgress")
        yield* gate.silence
        assert.strictEqual(yield* tagOf(Image.get(reference)), "ImageNotFound")
      }).pipe(Effect.scoped))

    it.effect("is asked for as the policy says", () =>
      Effect.gen(function*() {
        const { push } = yield* Registry.Registry
        const root = yield* rootDirectory
        const reference = yield* push("moved", root, { cmd: ["/bin/one"] })
        const missing = yield* reasonOf(Image.pull(reference, { pullPolicy: "never" }))
        assert.strictEqual(missing._tag, "ImageNotCached")
        const one = yield* Image.pull(reference)
        yield* push("moved", root, { cmd: ["/bin/two"] })
        for (const pullPolicy of ["if-missing", "never"] as const) {
          assert.strictEqual((yield* Image.pull(reference, { pullPolicy })).digest, one.digest)
        }
        const two = yield* Image.pull(reference, { pullPolicy: "always" })
        assert.notStrictEqual(two.digest, one.digest)
        assert.deepStrictEqual((yield* Image.inspect(reference)).config?.cmd, ["/bin/two"])
        assert.strictEqual((yield* Image.list).filter((image) => image.reference === reference).length, 1)
      }))

    it.effect("is this machine's of those that there are, and no other's", () =>
      inNewHome(Effect.gen(function*() {
        const { push, pushIndex } = yield* Registry.Registry
        const root = yield* rootDirectory
        const other = Registry.architecture === "arm64" ? "amd64" : "arm64"
        const own = `linux/${Registry.architecture}`
        yield* push("many", root, { tag: "own", cmd: ["/bin/own"] })
        const foreign = yield* push("many", root, { tag: "other", architecture: other, ballast: "1 MiB" })
        const both = yield* pushIndex("many", "both", { [other]: "other", [Registry.architecture]: "own" })
        const strange = yield* pushIndex("many", "strange", { [other]: "other" })
        const manifest = yield* manifestOf("many", "own")
        for (const platform of [undefined, own]) {
          assert.strictEqual((yield* Image.pull(both, { platform, pullPolicy: "always" })).digest, manifest.digest)
        }
        const before = [yield* references, yield* cached("layers"), yield* cached("manifests")]
        const none = yield* reasonOf(Image.pull(strange))
        assert.deepInclude({ ...none }, {
          _tag: "ImagePlatformNotFound",
          reference: strange,
          os: "linux",
          arch: Registry.architecture
        })
        // An image that is in no index says itself what it is for.
        const alone = yield* reasonOf(Image.pull(foreign, { platform: own }))
        assert.deepInclude({ ...alone }, { _tag: "ImagePlatformNotFound", reference: foreign })
        const unsupported = yield* reasonOf(Image.pull(both, { platform: `linux/${other}` }))
        assert.deepInclude({ ...unsupported }, { _tag: "Unsupported", operation: "Image.pull", reason: "NotAvailable" })
        assert.deepStrictEqual([yield* references, yield* cached("layers"), yield* cached("manifests")], before)
        // Nobody said what it must be for.
        yield* Image.pull(foreign)
        assert.deepStrictEqual(yield* references, [both, foreign].toSorted())
        // It was there before it was not the right one, and is there after.
        assert.strictEqual(yield* tagOf(Image.pull(foreign, { platform: own })), "ImagePlatformNotFound")
        yield* Image.pull(foreign, { pullPolicy: "never" })
      })))

    it.effect("that cannot be pulled has its reason", () =>
      Effect.gen(function*() {
        const { host, push } = yield* Registry.Registry
        yield* push("known", yield* rootDirectory)
        for (const reference of [`${host}/unknown:latest`, `${host}/known:other`]) {
          assert.deepInclude({ ...yield* reasonOf(Image.pull(reference)) }, { _tag: "ImageNotFound", reference })
        }
        assert.strictEqual(yield* tagOf(Image.pull("127.0.0.1:1/unreachable")), "ImageRegistry")
        // It speaks plain HTTP at this door too, but nobody said so.
        const gate = yield* Gate.make(host, Infinity)
        const tls = yield* reasonOf(Image.pull(`${gate.host}/known`))
        assert.deepInclude({ ...tls }, { _tag: "ImageTls", reference: `${gate.host}/known` })
        assert.match(tls.message, /corrupt message/)
        const limited = yield* altered(host, (path) =>
          path.includes("/manifests/")
            ? { status: 429, body: JSON.stringify({ errors: [{ code: "TOOMANYREQUESTS", message: "slow down" }] }) }
            : undefined)
        const reference = `${limited}/known`
        const rate = yield* reasonOf(Image.pull(reference, insecure))
        assert.deepInclude({ ...rate }, { _tag: "ImageRateLimited", reference })
        assert.deepStrictEqual(
          yield* references.pipe(Effect.map((all) => all.filter((name) => name.includes("known")))),
          []
        )
      }).pipe(Effect.scoped))

    it.effect("whose bytes are not what they should be is refused, and can be pulled when they are", () =>
      inNewHome(Effect.gen(function*() {
        const { host, push } = yield* Registry.Registry
        yield* push("false", yield* rootDirectory)
        const { config, layers } = yield* manifestOf("false")
        let wrong: { readonly digest: string; readonly size: number } | undefined
        const lying = yield* altered(
          host,
          (path) =>
            wrong !== undefined && path.endsWith(wrong.digest)
              ? { status: 200, body: crypto.randomBytes(wrong.size) }
              : undefined
        )
        const reference = `${lying}/false:latest`
        for (const blob of [config, ...layers]) {
          wrong = blob
          const mismatch = yield* reasonOf(Image.pull(reference, insecure))
          assert.strictEqual(mismatch._tag, "ImageDigestMismatch", mismatch.message)
          if (mismatch._tag === "ImageDigestMismatch") {
            assert.include(blob.digest, mismatch.expected)
            assert.notStrictEqual(mismatch.expected, mismatch.actual)
          }
          assert.strictEqual(yield* tagOf(Image.get(reference)), "ImageNotFound")
        }
        wrong = undefined
        yield* Image.pull(reference, insecure)
      })))

    it.effect("whose bytes are false and too few is pulled at once when they are true: nothing goes on behind them", () =>
      inNewHome(Effect.gen(function*() {
        const { host, push } = yield* Registry.Registry
        yield* push("short", yield* rootDirectory)
        const { layers: [layer] } = yield* manifestOf("short")
        let isLying = true
        const lying = yield* altered(
          host,
          (path) =>
            isLying && path.endsWith(layer?.digest ?? "")
              ? { status: 200, body: crypto.randomBytes((layer?.size ?? 0) >> 1) }
              : undefined
        )
        const reference = `${lying}/short:latest`
        assert.strictEqual(yield* tagOf(Image.pull(reference, insecure)), "ImageDigestMismatch")
        assert.deepStrictEqual((yield* cached("tmp")).filter((name) => name.endsWith(".part")), [])
        isLying = false
        yield* Image.pull(reference, insecure)
      })))

    it.effect("that the disk has no room for says so", () =>
      inNewHome(Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const path = yield* Path.Path
        const { push } = yield* Registry.Registry
        const { home } = yield* Backend.Local
        const reference = yield* push("large", yield* rootDirectory)
        const { layers } = yield* manifestOf("large")
        // The file of a layer that comes is on a disk that is always full: the kernel's own.
        const tmp = path.join(home, "cache/tmp")
        yield* fs.makeDirectory(tmp, { recursive: true })
        const part = path.join(tmp, `${layers[0]?.digest.replace(":", "_")}.part`)
        yield* fs.symlink("/dev/full", part)
        const full = yield* reasonOf(Image.pull(reference))
        assert.deepInclude({ ...full }, { _tag: "DiskFull", path: part })
        assert.deepStrictEqual(yield* references, [])
        yield* fs.remove(part)
        yield* Image.pull(reference)
      })))

    it.effect("is asked for with options that make sense, or the reason names the one that does not", () =>
      Effect.gen(function*() {
        const invalid = (pem: string | Uint8Array) => ({ registry: { caCerts: pem } })
        const empty = yield* temporaryDirectory
        const mistakes: ReadonlyArray<
          readonly [
            string,
            Effect.Effect<unknown, MicrosandboxError.MicrosandboxError, Backend.Backend | Backend.Local>
          ]
        > = [
          ["reference", Image.pull("")],
          ["reference", Image.pull("Not A Reference")],
          ["reference", Stream.runDrain(Image.pullStream("a b"))],
          ["reference", Image.get("")],
          ["reference", Image.inspect("UPPER")],
          ["reference", Image.remove("a\0b")],
          ["platform", Image.pull("a", { platform: "amd64" })],
          ["pullPolicy", Image.pull("a", { pullPolicy: "sometimes" as never })],
          [
            "registry.auth.username",
            Image.pull("a", {
              registry: { auth: { username: "", password: Redacted.make("p") } }
            })
          ],
          [
            "registry.auth.password",
            Image.pull("a", { registry: { auth: { username: "u", password: "p" as never } } })
          ],
          ["registry.caCerts", Image.pull("a", invalid("no certificate"))],
          ["typo", Image.pull("a", { typo: true } as never)],
          ["force", Image.remove("a", { force: 1 as never })],
          ["path", Image.load("")],
          ["tags.0", Image.load("/a", { tags: [""] })],
          ["tags", Image.load("/a", { tags: ["Not A Tag"] })],
          ["references", Image.save([], `${empty}/a`)],
          ["references.0", Image.save([""], `${empty}/a`)],
          ["references", Image.save(["Not A Reference"], `${empty}/a`)],
          ["path", Image.save(["a"], "")],
          ["format", Image.save(["a"], `${empty}/a`, { format: "zip" as never })]
        ]
        for (const [field, effect] of mistakes) {
          const reason = yield* reasonOf(effect)
          assert.deepInclude({ ...reason }, { _tag: "InvalidConfig", field }, reason.message)
          assert.include(reason.message, field)
        }
        const pem = yield* reasonOf(
          Image.pull("a", invalid("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"))
        )
        assert.strictEqual(pem._tag, "ImageCertificateInvalid")
        // A password may be in what is no reference.
        const secret = yield* reasonOf(Image.get("user:hunter2@example.com/image"))
        assert.notInclude(JSON.stringify(secret), "hunter2")
      }))

    it.effect("that a sandbox is made of stays, unless it is forced away, and prune takes what nobody needs", () =>
      inNewHome(Effect.gen(function*() {
        const { push } = yield* Registry.Registry
        const root = yield* rootDirectory
        const used = yield* Image.pull(yield* push("used", root))
        const unused = yield* Image.pull(yield* push("unused", root, { ballast: "1 MiB" }))
        yield* Store.makeRow("user", "Stopped")
        yield* Store.setImage("user", used.reference)
        assert.strictEqual(yield* tagOf(Image.remove(used.reference)), "ImageInUse")
        assert.deepStrictEqual(yield* references, [unused.reference, used.reference])
        const report = yield* Image.prune
        // The lower layer is the other's too.
        assert.deepInclude({ ...report }, { references: 1, manifests: 1, layers: 1, fsmeta: 1, vmdk: 1 })
        assert.isAbove(Number(report.reclaimed), MiB)
        assert.deepStrictEqual(yield* references, [used.reference])
        assert.lengthOf(yield* cached("layers"), 1)
        // Forced, its name goes. What the sandbox is made of does not.
        yield* Image.remove(used.reference, { force: true })
        const pinned = used.reference.replace(":latest", `@${used.digest}`)
        assert.deepStrictEqual(yield* references, [pinned])
        assert.deepStrictEqual([yield* cached("layers"), yield* cached("fsmeta")].map(({ length }) => length), [1, 1])
        assert.strictEqual(yield* tagOf(Image.remove(pinned, { force: true })), "ImageInUse")
        assert.strictEqual((yield* Image.prune).references, 0)
        assert.strictEqual((yield* Image.pull(pinned, { pullPolicy: "never" })).digest, used.digest)
        // With two names one can go at any time.
        yield* Image.pull(used.reference)
        yield* Image.remove(used.reference, { force: true })
        assert.deepStrictEqual(yield* references, [pinned])
        yield* Store.removeRow("user")
        assert.deepInclude({ ...yield* Image.prune }, { references: 1, manifests: 1, layers: 1, fsmeta: 1, vmdk: 1 })
        assert.deepStrictEqual([yield* references, yield* cached("layers"), yield* cached("manifests")], [[], [], []])
        assert.deepStrictEqual({ ...yield* Image.prune }, {
          references: 0,
          manifests: 0,
          layers: 0,
          fsmeta: 0,
          vmdk: 0,
          reclaimed: ByteSize.zero
        })
      })))

    it.effect("is one for msb and for us, whoever pulled, loaded or removed it", () =>
      inNewHome(Effect.gen(function*() {
        const path = yield* Path.Path
        const { push } = yield* Registry.Registry
        const root = yield* rootDirectory
        const ours = yield* push("ours", root)
        const theirs = yield* push("theirs", root, { ballast: "1 MiB", cmd: ["/bin/theirs"] })
        const directory = yield* temporaryDirectory
        yield* Image.pull(ours)
        yield* msb("pull", "--quiet", theirs)
        assert.deepStrictEqual(yield* references, [ours, theirs])
        assert.deepStrictEqual(yield* msbList, yield* ourList)
        assert.deepStrictEqual((yield* Image.inspect(theirs)).config?.cmd, ["/bin/theirs"])
        const { digest } = yield* Image.get(theirs)
        const InspectedDigest = Schema.fromJsonString(Schema.Struct({ digest: Schema.String }))
        const inspected = yield* Effect.flatMap(
          msb("image", "inspect", "--format", "json", theirs),
          Schema.decodeEffect(InspectedDigest)
        )
        assert.strictEqual(inspected.digest, digest)
        const [oursSaved, theirsSaved] = ["ours.tar", "theirs.tar"].map((name) => path.join(directory, name)) as [
          string,
          string
        ]
        yield* Image.save([ours], oursSaved)
        yield* msb("save", "--quiet", "--output", theirsSaved, theirs)
        yield* Image.remove(theirs)
        yield* msb("image", "remove", ours)
        assert.deepStrictEqual([yield* ourList, yield* msbList], [[], []])
        yield* msb("load", "--quiet", "--input", oursSaved)
        yield* Image.load(theirsSaved)
        assert.deepStrictEqual(yield* references, [ours, theirs])
        assert.deepStrictEqual(yield* msbList, yield* ourList)
      })))

    it.effect("goes through an archive of either format, with others, and gets more names", () =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const path = yield* Path.Path
        const { push } = yield* Registry.Registry
        const root = yield* rootDirectory
        const directory = yield* temporaryDirectory
        const one = yield* push("one", root, { cmd: ["/bin/one"], env: ["A=b"], workdir: "/srv" })
        const two = yield* push("two", root, { cmd: ["/bin/two"], ballast: "1 MiB" })
        yield* Image.pull(one)
        yield* Image.pull(two)
        for (const format of ["docker", "oci"] as const) {
          const archive = path.join(directory, `${format}.tar`)
          yield* fs.writeFileString(archive, "what was there before")
          yield* Image.save([one, two], archive, { format })
          const names = yield* run("tar", ["-tf", archive])
          assert.include(names, format === "docker" ? "manifest.json" : "oci-layout")
          yield* inNewHome(Effect.gen(function*() {
            const loaded = yield* Image.load(archive, { tags: ["loaded:1"] })
            assert.sameMembers(loaded.map(({ reference }) => reference), [one, two, "loaded:1"])
            assert.deepStrictEqual(yield* references, [one, "loaded:1", two].toSorted())
            const { config, layers } = yield* Image.inspect("loaded:1")
            assert.deepInclude({ ...config }, { cmd: ["/bin/one"], env: ["A=b"], workdir: "/srv" })
            assert.isAbove(Number(layers[0]?.unpackedSize), 0)
            assert.lengthOf((yield* Image.inspect(two)).layers, 2)
            assert.deepStrictEqual(yield* cached("tmp"), [])
            // It is here: nothing is asked for.
            assert.strictEqual((yield* Image.pull(two, { pullPolicy: "never" })).layerCount, 2)
          }))
        }
        assert.deepStrictEqual((yield* fs.readDirectory(directory)).toSorted(), ["docker.tar", "oci.tar"])
      }).pipe(Effect.scoped))

    it.effect("that cannot be saved leaves what was there before", () =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const path = yield* Path.Path
        const { push } = yield* Registry.Registry
        const directory = yield* temporaryDirectory
        const here = yield* Image.pull(yield* push("here", yield* rootDirectory))
        const archive = path.join(directory, "archive.tar")
        yield* fs.writeFileString(archive, "before")
        const missing = yield* reasonOf(Image.save([here.reference, "nobody/has:this"], archive))
        assert.deepInclude({ ...missing }, { _tag: "ImageNotFound", reference: "nobody/has:this" })
        for (const place of [directory, path.join(directory, "missing/archive.tar"), path.join(archive, "below.tar")]) {
          const reason = yield* reasonOf(Image.save([here.reference], place))
          assert.deepInclude({ ...reason }, { _tag: "HostIo", operation: "create", path: place })
        }
        assert.deepStrictEqual(yield* fs.readDirectory(directory), ["archive.tar"])
        assert.strictEqual(yield* fs.readFileString(archive), "before")
      }).pipe(Effect.scoped))

    it.effect("in an archive that is cut, false or hostile is refused, and nothing of it is listed", () =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const path = yield* Path.Path
        const { push } = yield* Registry.Registry
        const directory = yield* temporaryDirectory
        const reference = yield* push("carried", yield* rootDirectory)
        yield* Image.pull(reference)
        const at = (name: string) => path.join(directory, name)
        const good = { docker: at("docker.tar"), oci: at("oci.tar") }
        for (const format of ["docker", "oci"] as const) yield* Image.save([reference], good[format], { format })

        /** The entries of a good archive in a directory, to be changed there and packed again. */
        const unpacked = Effect.fn("unpacked")(function*(format: "docker" | "oci") {
          const files = yield* temporaryDirectory
          yield* run("tar", ["-xf", good[format], "-C", files])
          return files
        })
        const packed = Effect.fn("packed")(function*(files: string, ...options: ReadonlyArray<string>) {
          const archive = at(`${crypto.randomUUID()}.tar`)
          yield* run("tar", ["-P", "-cf", archive, ...options, "-C", files, ...(yield* fs.readDirectory(files))])
          return archive
        })
        const refused = Effect.fn("refused")(function*(tag: string, archive: string, what: string) {
          yield* inNewHome(Effect.gen(function*() {
            const reason = yield* reasonOf(Image.load(archive))
            assert.strictEqual(reason._tag, tag, `${what}: ${reason.message}`)
            if (reason._tag === "ImageArchiveInvalid") assert.strictEqual(reason.path, archive, what)
            assert.deepStrictEqual(yield* Image.list, [], what)
            assert.deepStrictEqual(yield* cached("manifests"), [], what)
            assert.deepStrictEqual((yield* cached("tmp")).filter((name) => name.endsWith(".blob")), [], what)
          }))
        })

        yield* refused("HostIo", at("missing.tar"), "missing")
        yield* refused("ImageArchiveInvalid", directory, "a directory")
        yield* run("mkfifo", [at("fifo")])
        yield* refused("ImageArchiveInvalid", at("fifo"), "a pipe that nobody writes to")
        for (const format of ["docker", "oci"] as const) {
          const bytes = yield* fs.readFile(good[format])
          for (const part of [0, 100, 700, bytes.length >> 1, bytes.length - 20_000]) {
            const cut = at(`cut-${format}-${part}.tar`)
            yield* fs.writeFile(cut, bytes.subarray(0, part))
            yield* refused("ImageArchiveInvalid", cut, `${format} cut to ${part}`)
          }
        }
        const noise = at("noise.tar")
        yield* fs.writeFile(noise, crypto.randomBytes(100_000))
        yield* refused("ImageArchiveInvalid", noise, "noise")
        yield* run("gzip", ["-k", good.docker])
        yield* refused("ImageArchiveInvalid", `${good.docker}.gz`, "compressed")

        const docker = yield* unpacked("docker")
        const [layer] = (yield* fs.readDirectory(docker)).filter((name) => !name.includes(".")) as [string]
        yield* refused("ImageArchiveInvalid", yield* packed(docker, `--transform=s,^${layer}/,../,`), "a name with ..")
        yield* refused(
          "ImageArchiveInvalid",
          yield* packed(docker, `--transform=s,^${layer}/,/tmp/,`),
          "an absolute name"
        )
        yield* refused("ImageArchiveInvalid", yield* packed(docker, "--exclude=manifest.json"), "no manifest")
        yield* refused("ImageArchiveInvalid", yield* packed(docker, "--exclude=layer.tar"), "no layer")

        // A layer that leads out of its root, by the names of its files.
        const evil = yield* temporaryDirectory
        yield* fs.writeFileString(path.join(evil, "file"), "evil")
        const layerFile = path.join(docker, layer, "layer.tar")
        yield* run("tar", ["-P", "-cf", layerFile, "--transform=s,^file,../../evil,", "-C", evil, "file"])
        yield* refused("ImageArchiveInvalid", yield* packed(docker), "a layer with a name with ..")
        // Files of others, instead of a layer.
        yield* fs.remove(layerFile)
        yield* fs.symlink("/etc/passwd", layerFile)
        yield* refused("ImageDigestMismatch", yield* packed(docker), "a link")
        yield* fs.remove(layerFile)
        yield* run("tar", ["-cf", layerFile, "-C", evil, "file"])
        yield* refused("ImageDigestMismatch", yield* packed(docker), "another layer")
        yield* fs.remove(path.join(docker, "manifest.json"))
        yield* fs.symlink("/etc/passwd", path.join(docker, "manifest.json"))
        yield* refused("ImageArchiveInvalid", yield* packed(docker), "a link for a manifest")

        // The second of two: what the first is called means what it did.
        const other = yield* push("other", yield* rootDirectory, { ballast: "1 MiB", cmd: ["/bin/other"] })
        yield* Image.pull(other)
        yield* Image.save([reference, other], good.docker)
        const two = yield* unpacked("docker")
        const [, second] = (yield* fs.readFileString(path.join(two, "manifest.json")).pipe(
          Effect.flatMap(Schema.decodeEffect(DockerManifest))
        )) as [unknown, typeof DockerManifest.Type[number]]
        yield* run("tar", ["-cf", path.join(two, second.Layers[1] ?? ""), "-C", evil, "file"])
        const halfTrue = yield* packed(two)
        yield* refused("ImageDigestMismatch", halfTrue, "the second of two")
        yield* inNewHome(Effect.gen(function*() {
          yield* push("carried", yield* rootDirectory, { cmd: ["/bin/changed"] })
          const changed = yield* Image.pull(reference, { pullPolicy: "always" })
          assert.strictEqual(yield* tagOf(Image.load(halfTrue)), "ImageDigestMismatch")
          assert.deepStrictEqual((yield* Image.pull(reference, { pullPolicy: "never" })).digest, changed.digest)
          assert.deepStrictEqual((yield* Image.inspect(reference)).config?.cmd, ["/bin/changed"])
          assert.strictEqual(yield* tagOf(Image.pull(other, { pullPolicy: "never" })), "ImageNotCached")
          assert.deepStrictEqual(yield* references, [reference])
        }))

        // One byte of each blob of a layout.
        const blobs = "blobs/sha256"
        for (const blob of yield* fs.readDirectory(path.join(yield* unpacked("oci"), blobs))) {
          const oci = yield* unpacked("oci")
          const file = path.join(oci, blobs, blob)
          const bytes = yield* fs.readFile(file)
          bytes[bytes.length >> 1]! ^= 1
          yield* fs.writeFile(file, bytes)
          yield* refused("ImageDigestMismatch", yield* packed(oci), `a byte of ${bytes.length}`)
        }
        yield* inNewHome(Image.load(good.docker))
      }).pipe(Effect.scoped))

    it.effect("whose archive is interrupted leaves neither a file nor an entry", () =>
      inNewHome(Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const path = yield* Path.Path
        const { push } = yield* Registry.Registry
        const directory = yield* temporaryDirectory
        const archive = path.join(directory, "archive.tar")
        const reference = yield* push("heavy", yield* rootDirectory, { ballast: "64 MiB" })
        yield* Image.pull(reference)
        const until = <E, R>(is: Effect.Effect<boolean, E, R>) =>
          Effect.repeat(Effect.delay(Effect.orDie(is), 1), { until: (is) => is })
        const leftovers = Effect.map(cached("tmp"), (names) => names.filter((name) => /^(load|save)-/.test(name)))
        const { native } = yield* Backend.Backend

        const saving = yield* Effect.forkChild(Image.save([reference], archive))
        yield* until(Effect.map(leftovers, (names) => names.length > 0))
        yield* Fiber.interrupt(saving)
        assert.deepStrictEqual([yield* fs.readDirectory(directory), yield* leftovers], [[], []])
        assert.deepStrictEqual(yield* native.live, idle)

        yield* Image.save([reference], archive)
        yield* Image.remove(reference)
        const loading = yield* Effect.forkChild(Image.load(archive))
        yield* until(Effect.map(leftovers, (names) => names.length > 0))
        yield* Fiber.interrupt(loading)
        assert.deepStrictEqual([yield* Image.list, yield* leftovers], [[], []])
        yield* Image.load(archive)
        assert.deepStrictEqual(yield* references, [reference])
      })))
  }
)

layer(layerBackend.pipe(Layer.provideMerge(Registry.layerWithTlsAndLogin)), {
  excludeTestServices: true,
  timeout: "1 minute"
})("an image of a registry with TLS and a login", (it) => {
  it.effect("is for who trusts its certificate and has the password, which is never told", () =>
    Effect.gen(function*() {
      const { caCerts = "", push } = yield* Registry.Registry
      const reference = yield* push("closed", yield* rootDirectory)
      const { password, username } = Registry.login
      const auth = { username, password: Redacted.make(password) }
      const attempts: ReadonlyArray<
        readonly [MicrosandboxError.Reason["_tag"] | "", SandboxOptions.Registry | undefined]
      > = [
        ["ImageTls", undefined],
        ["ImageTls", { auth }],
        ["ImageUnauthorized", { caCerts }],
        ["ImageUnauthorized", { caCerts, auth: { username, password: Redacted.make(`not ${password}`) } }],
        ["", { caCerts, auth }],
        ["", { caCerts: new TextEncoder().encode(caCerts), auth }]
      ]
      for (const [tag, registry] of attempts) {
        const { exit, spans } = yield* Spans.recorded(
          Effect.match(Image.pull(reference, { registry, pullPolicy: "always" }), {
            onFailure: (error) => error,
            onSuccess: (image) => image
          })
        )
        if (exit._tag === "Failure") return assert.fail("it died")
        const { value } = exit
        if (MicrosandboxError.isMicrosandboxError(value)) {
          assert.strictEqual(value.reason._tag, tag, value.message)
          assert.notInclude(JSON.stringify(value) + value.message, password)
        } else assert.deepStrictEqual([value.reference, tag], [reference, ""])
        Spans.check(spans)
        assert.deepStrictEqual(Spans.named(spans, "Image.pull").length, 1)
        assert.notInclude(Spans.text(spans), password)
      }
      // Plain HTTP is not what it speaks.
      const plain = yield* tagOf(Image.pull(reference, { registry: { insecure: true }, pullPolicy: "always" }))
      assert.strictEqual(plain, "ImageRegistry")
    }))

  it.effect("is pulled with the password that Docker has for it", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const { caCerts, host, push } = yield* Registry.Registry
      const reference = yield* push("docker", yield* rootDirectory)
      const directory = yield* temporaryDirectory
      const write = (password: string) => {
        const auth = Buffer.from(`${Registry.login.username}:${password}`).toString("base64")
        return fs.writeFileString(path.join(directory, "config.json"), JSON.stringify({ auths: { [host]: { auth } } }))
      }
      const registry = { caCerts }
      // The engine looks for Docker's configuration when it pulls.
      const { DOCKER_CONFIG: before } = process.env
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          process.env.DOCKER_CONFIG = directory
        }),
        () =>
          Effect.sync(() => {
            if (before === undefined) delete process.env.DOCKER_CONFIG
            else process.env.DOCKER_CONFIG = before
          })
      )
      assert.strictEqual(yield* tagOf(Image.pull(reference, { registry })), "ImageUnauthorized")
      yield* write("another")
      assert.strictEqual(yield* tagOf(Image.pull(reference, { registry })), "ImageUnauthorized")
      yield* write(Registry.login.password)
      assert.strictEqual((yield* Image.pull(reference, { registry })).reference, reference)
      // What is given goes before what Docker has.
      const auth = { username: "nobody", password: Redacted.make("nothing") }
      const given = Image.pull(reference, { registry: { ...registry, auth }, pullPolicy: "always" })
      assert.strictEqual(yield* tagOf(given), "ImageUnauthorized")
    }).pipe(Effect.scoped))
})
