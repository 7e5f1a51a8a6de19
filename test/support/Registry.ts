/**
 * A real OCI registry on loopback, Debian's docker-registry, and images for it that are made here: pushed by the
 * registry's own protocol, so that nothing else is needed.
 *
 * While its layer is open, backends that are opened in this process, or by a program that inherits its environment, speak
 * plain HTTP with it: the engine reads that from the file in `MSB_CONFIG_PATH`, at the moment a backend is opened. Provide
 * the registry to the backend's layer, then:
 *
 *     layerBackend.pipe(Layer.provideMerge(Registry.layer))
 */
import { NodeHttpClient, NodeServices } from "@effect/platform-node"
import { ByteSize, Context, Deferred, Effect, FileSystem, Layer, Path, type PlatformError, Stream } from "effect"
import {
  FetchHttpClient,
  HttpBody,
  HttpClient,
  type HttpClientError,
  HttpClientRequest,
  type HttpClientResponse
} from "effect/http"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as crypto from "node:crypto"
import * as zlib from "node:zlib"

/** What an image says of the program that it is for, and how large it is. */
export interface ImageOptions {
  /** Default: `"latest"`. */
  readonly tag?: string
  /** Default: this machine's, in the words of images: `amd64`. */
  readonly architecture?: string
  /** Default: `["/bin/sh"]`. */
  readonly cmd?: ReadonlyArray<string>
  readonly entrypoint?: ReadonlyArray<string>
  readonly env?: ReadonlyArray<string>
  readonly workdir?: string
  readonly user?: string
  readonly labels?: Readonly<Record<string, string>>
  /** A second layer with a file `/ballast` of so many random bytes, for a pull that takes its time. */
  readonly ballast?: ByteSize.Input
}

type Failure = HttpClientError.HttpClientError | PlatformError.PlatformError

export class Registry extends Context.Service<Registry, {
  /** `127.0.0.1:<port>`. */
  readonly host: string
  /** The certificate of who vouches for it, in PEM; none when it speaks plain HTTP. */
  readonly caCerts: string | undefined
  /** Makes an image of a root directory and pushes it. Answers with its reference, `127.0.0.1:<port>/<name>:latest`. */
  readonly push: (name: string, rootDirectory: string, options?: ImageOptions) => Effect.Effect<string, Failure>
  /** Pushes a tag that leads to images that were pushed with other tags, by architecture. Answers with its reference. */
  readonly pushIndex: (
    name: string,
    tag: string,
    tags: Readonly<Record<string, string>>
  ) => Effect.Effect<string, Failure>
  /** Asks the registry for something of a repository, such as `manifests/latest`. */
  readonly get: (name: string, path: string) => Effect.Effect<HttpClientResponse.HttpClientResponse, Failure>
}>()("test/support/Registry") {}

const media = {
  index: "application/vnd.oci.image.index.v1+json",
  manifest: "application/vnd.oci.image.manifest.v1+json",
  config: "application/vnd.oci.image.config.v1+json",
  layer: "application/vnd.oci.image.layer.v1.tar+gzip"
}

const sha256 = (bytes: Uint8Array) => `sha256:${crypto.createHash("sha256").update(bytes).digest("hex")}`

/** Who may use the registry of {@link layerWithLogin}, and the line of its password file, in bcrypt. */
export const login = { username: "tester", password: "open sesame" }
const passwords = `${login.username}:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n`

/** This machine's processor in the words of images. */
export const architecture = process.arch === "x64" ? "amd64" : process.arch

/** Who may use a registry, and who vouches for it. */
interface Options {
  readonly withLogin?: boolean
  readonly withTls?: boolean
}

/** Makes a certificate for loopback in a directory, and the one of who signed it. */
const makeCertificate = Effect.fn("makeCertificate")(function*(directory: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const spawner = yield* ChildProcessSpawner
  const [ca, caKey, certificate, key] = ["ca.pem", "ca.key", "certificate.pem", "certificate.key"].map((name) =>
    path.join(directory, name)
  ) as [string, string, string, string]
  const openssl = Effect.fn("openssl")(function*(...args: ReadonlyArray<string>) {
    const common = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    const exitCode = yield* spawner.exitCode(
      ChildProcess.make("openssl", [...common, ...args], { stdout: "ignore", stderr: "ignore" })
    )
    if (exitCode !== 0) return yield* Effect.die(new Error(`openssl ${args.join(" ")} failed`))
  })
  yield* openssl("-subj", "/CN=tests", "-keyout", caKey, "-out", ca)
  const name = ["-subj", "/CN=loopback", "-addext", "subjectAltName=IP:127.0.0.1"]
  const leaf = ["-addext", "basicConstraints=critical,CA:FALSE"]
  yield* openssl(...name, ...leaf, "-CA", ca, "-CAkey", caKey, "-keyout", key, "-out", certificate)
  return { caCerts: yield* fs.readFileString(ca), tls: { certificate, key } }
})

/** Serves an empty directory, on a port that the system chooses, and answers with `<host>:<port>`. The scope ends it. */
const serve = Effect.fn("serve")(function*({ withLogin, withTls }: Options) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const spawner = yield* ChildProcessSpawner
  const directory = yield* fs.makeTempDirectoryScoped({ prefix: "registry-" })
  const { caCerts, tls } = withTls ? yield* makeCertificate(directory) : {}
  const config = path.join(directory, "config.yml")
  const passwordFile = path.join(directory, "htpasswd")
  yield* fs.writeFileString(passwordFile, passwords)
  // YAML can be written as JSON.
  yield* fs.writeFileString(
    config,
    JSON.stringify({
      version: 0.1,
      log: { level: "info", accesslog: { disabled: true } },
      storage: { filesystem: { rootdirectory: path.join(directory, "storage") } },
      http: { addr: "127.0.0.1:0", tls },
      auth: withLogin ? { htpasswd: { realm: "tests", path: passwordFile } } : undefined
    })
  )
  const server = yield* spawner.spawn(ChildProcess.make("docker-registry", ["serve", config], { stdout: "ignore" }))
  const listening = yield* Deferred.make<string>()
  const log: Array<string> = []
  // It says where when it accepts connections. Its log is read to the end, so that it never waits for a reader.
  yield* server.stderr.pipe(
    Stream.decodeText,
    Stream.splitLines,
    Stream.runForEach((line) =>
      Effect.suspend(() => {
        log.push(line)
        const address = /listening on (127[.]0[.]0[.]1:[0-9]+)/.exec(line)?.[1]
        return address === undefined ? Effect.void : Deferred.succeed(listening, address)
      })
    ),
    Effect.ensuring(
      Effect.suspend(() => Deferred.die(listening, new Error(`docker-registry ended:\n${log.join("\n")}`)))
    ),
    Effect.forkScoped
  )
  return { host: yield* Deferred.await(listening), caCerts }
})

/** Has the engine speak plain HTTP with a host, in backends that are opened before the scope closes. */
const allowPlainHttp = Effect.fn("allowPlainHttp")(function*(host: string) {
  const fs = yield* FileSystem.FileSystem
  const file = yield* fs.makeTempFileScoped({ prefix: "msb-config-" })
  yield* fs.writeFileString(file, JSON.stringify({ registries: { hosts: { [host]: { insecure: true } } } }))
  const { MSB_CONFIG_PATH: before } = process.env
  yield* Effect.acquireRelease(
    Effect.sync(() => {
      process.env.MSB_CONFIG_PATH = file
    }),
    () =>
      Effect.sync(() => {
        if (before === undefined) delete process.env.MSB_CONFIG_PATH
        else process.env.MSB_CONFIG_PATH = before
      })
  )
})

/** A directory as a layer: everything is root's, and the same files are the same bytes. */
const tar = Effect.fn("tar")(function*(directory: string) {
  const spawner = yield* ChildProcessSpawner
  const normal = ["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "--mtime=@0"]
  const program = yield* spawner.spawn(
    ChildProcess.make("tar", [...normal, "-C", directory, "-c", "."], { stderr: "inherit" })
  )
  return yield* Stream.mkUint8Array(program.stdout)
}, Effect.scoped)

const makeRegistry = Effect.fn("makeRegistry")(function*(options: Options) {
  const { caCerts, host } = yield* serve(options)
  if (caCerts === undefined) yield* allowPlainHttp(host)
  const origin = `${caCerts === undefined ? "http" : "https"}://${host}`
  const context = yield* Effect.context<FileSystem.FileSystem | Path.Path | ChildProcessSpawner>()
  const clients = caCerts === undefined ? FetchHttpClient.layer : NodeHttpClient.layerNodeHttpOptions({ ca: caCerts })
  const client = Context.get(yield* Layer.build(clients), HttpClient.HttpClient).pipe(
    HttpClient.mapRequest(HttpClientRequest.basicAuth(login.username, login.password)),
    HttpClient.filterStatusOk
  )

  const pushBlob = Effect.fn("pushBlob")(function*(name: string, bytes: Uint8Array, mediaType: string) {
    const digest = sha256(bytes)
    const upload = yield* client.post(`${origin}/v2/${name}/blobs/uploads/`)
    const location = new URL(upload.headers.location ?? "", origin)
    location.searchParams.set("digest", digest)
    yield* client.put(location, { body: HttpBody.uint8Array(bytes, "application/octet-stream") })
    return { mediaType, digest, size: bytes.length }
  })

  const ballastDirectory = Effect.fn("ballastDirectory")(function*(size: ByteSize.Input) {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const directory = yield* fs.makeTempDirectoryScoped({ prefix: "ballast-" })
    const bytes = crypto.randomBytes(Number(ByteSize.fromInputUnsafe(size)))
    yield* fs.writeFile(path.join(directory, "ballast"), bytes)
    return directory
  })

  const pushManifest = Effect.fn("pushManifest")(function*(
    name: string,
    tag: string,
    manifest: { readonly mediaType: string; readonly [field: string]: unknown }
  ) {
    yield* client.put(`${origin}/v2/${name}/manifests/${tag}`, {
      body: HttpBody.text(JSON.stringify(manifest), manifest.mediaType)
    })
    return `${host}/${name}:${tag}`
  })

  return Registry.of({
    host,
    caCerts,
    push: Effect.fn("Registry.push")(
      function*(name, rootDirectory, options = {}) {
        const { ballast, cmd = ["/bin/sh"], entrypoint, env = ["PATH=/bin:/sbin"], labels, user, workdir } = options
        const { tag = "latest" } = options
        const directories = [rootDirectory, ...(ballast === undefined ? [] : [yield* ballastDirectory(ballast)])]
        const layers = yield* Effect.forEach(directories, (directory) => tar(directory))
        const config = {
          architecture: options.architecture ?? architecture,
          os: "linux",
          config: { Cmd: cmd, Entrypoint: entrypoint, Env: env, Labels: labels, User: user, WorkingDir: workdir },
          rootfs: { type: "layers", diff_ids: layers.map(sha256) }
        }
        const manifest = {
          schemaVersion: 2,
          mediaType: media.manifest,
          config: yield* pushBlob(name, Buffer.from(JSON.stringify(config)), media.config),
          layers: yield* Effect.forEach(
            layers,
            (layer) => pushBlob(name, zlib.gzipSync(layer, { level: 1 }), media.layer)
          )
        }
        return yield* pushManifest(name, tag, manifest)
      },
      Effect.scoped,
      Effect.provide(context)
    ),
    pushIndex: Effect.fn("Registry.pushIndex")(function*(name, tag, tags) {
      const manifests = yield* Effect.forEach(Object.entries(tags), ([architecture, tag]) =>
        Effect.gen(function*() {
          const found = yield* client.get(`${origin}/v2/${name}/manifests/${tag}`, { accept: media.manifest })
          const bytes = Buffer.from(yield* found.arrayBuffer)
          const platform = { os: "linux", architecture }
          return { mediaType: media.manifest, digest: sha256(bytes), size: bytes.length, platform }
        }))
      return yield* pushManifest(name, tag, { schemaVersion: 2, mediaType: media.index, manifests })
    }),
    get: Effect.fn("Registry.get")(function*(name, path) {
      return yield* client.get(`${origin}/v2/${name}/${path}`, { accept: media.manifest })
    })
  })
})

const make = (options: Options): Layer.Layer<Registry> =>
  Layer.effect(Registry, makeRegistry(options)).pipe(Layer.provide(NodeServices.layer), Layer.orDie)

/** A registry, empty at first; gone with the scope. */
export const layer = make({})

/** The same, for who knows the {@link login}. `push` and `get` do. */
export const layerWithLogin = make({ withLogin: true })

/** With TLS, under a certificate that nobody knows who has not got `caCerts`. */
export const layerWithTls = make({ withTls: true })

/** With both. */
export const layerWithTlsAndLogin = make({ withLogin: true, withTls: true })
