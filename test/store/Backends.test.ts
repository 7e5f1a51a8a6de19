/**
 * Which backend a program has: on this machine, on a control plane, by a profile, or as the environment says. The control
 * plane here is a few lines of HTTP, each test's own.
 */
import { Backend, Image, Metrics, type MicrosandboxError, Runtime, Sandbox, Snapshot } from "@effect-microsandbox/core"
import { Native } from "@effect-microsandbox/native"
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { ConfigProvider, Effect, Exit, Fiber, FileSystem, Layer, Logger, Redacted, Stream } from "effect"
import * as http from "node:http"
import type * as net from "node:net"
import { inspect } from "node:util"
import { temporaryDirectory } from "../support/Sandboxes.ts"
import * as Spans from "../support/Spans.ts"

interface Asked {
  readonly method: string
  readonly path: string
  readonly headers: http.IncomingHttpHeaders
  readonly body: any
}

type Answer = (
  asked: Asked,
  response: http.ServerResponse
) => { readonly status: number; readonly body: unknown } | undefined

/** A server for the length of a scope, and what it was asked. An answer that is none is the test's own to write. */
const serve = Effect.fn("serve")(function*(answer: Answer) {
  const asked: Array<Asked> = []
  const server = http.createServer((request, response) => {
    const chunks: Array<Buffer> = []
    request.on("data", (chunk: Buffer) => chunks.push(chunk))
    request.on("end", () => {
      const text = Buffer.concat(chunks).toString()
      const what = {
        method: request.method ?? "",
        path: request.url ?? "",
        headers: request.headers,
        body: text === "" ? undefined : JSON.parse(text)
      }
      asked.push(what)
      const said = answer(what, response)
      if (said === undefined) return
      response.writeHead(said.status, { "content-type": "application/json" })
      response.end(typeof said.body === "string" ? said.body : JSON.stringify(said.body))
    })
  })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        server.closeAllConnections()
      })
  )
  return { url: `http://127.0.0.1:${(server.address() as net.AddressInfo).port}`, asked }
})

const key = "msb_test_0123456789abcdef"
const apiKey = Redacted.make(key)

const of = (name: string, rest: object = {}) => ({
  id: `id-of-${name}`,
  org_id: "org",
  name,
  slug: name,
  status: "running",
  ephemeral: false,
  created_at: "2026-01-02T03:04:05Z",
  ...rest
})

const reasonOf = <A, R>(effect: Effect.Effect<A, MicrosandboxError.MicrosandboxError, R>) =>
  Effect.map(Effect.flip(Effect.asVoid(effect)), ({ reason }) => reason)

/** Runs with variables and no others. */
const within = (variables: Record<string, string>) =>
  Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(variables)))

const infoOf = (layer: Layer.Layer<Backend.Backend, MicrosandboxError.MicrosandboxError>) =>
  Effect.scoped(Effect.provide(Backend.info, layer))

const plain = ({ ...info }: Backend.Info) => info

/** One that has sandboxes, by name, and nothing else. */
const tiny = Effect.gen(function*() {
  const sandboxes = new Map<string, any>()
  const { asked, url } = yield* serve(({ body, method, path }) => {
    const { pathname, searchParams } = new URL(path, "http://loopback")
    const [, , kind, by, last, verb] = pathname.split("/")
    const missing = { status: 404, body: { code: "sandbox_not_found", message: "no such sandbox" } }
    if (kind !== "sandboxes") return { status: 404, body: "" }
    if (by === undefined && method === "POST") {
      if (sandboxes.has(body.name)) return { status: 409, body: { code: "name_already_exists", message: "taken" } }
      sandboxes.set(body.name, of(body.name, { spec: body }))
      return { status: 200, body: sandboxes.get(body.name) }
    }
    if (by === undefined) {
      const labels = Object.entries(JSON.parse(searchParams.get("labels") ?? "{}"))
      const found = [...sandboxes.values()].filter(({ spec }) =>
        labels.every(([name, value]) => spec.labels[name] === value)
      )
      return { status: 200, body: { data: found, next_cursor: null } }
    }
    const [name, doing] = by === "by-name" ? [last!, verb] : [by.replace("id-of-", ""), last]
    const found = sandboxes.get(name)
    if (found === undefined) return missing
    if (method === "DELETE") {
      sandboxes.delete(name)
      return { status: 200, body: { message: "removed" } }
    }
    if (doing === "stop") sandboxes.set(name, { ...found, status: "stopped" })
    if (doing === "start") sandboxes.set(name, { ...found, status: "running" })
    return { status: 200, body: sandboxes.get(name) }
  })
  return { asked, url, sandboxes, layer: Backend.layerCloud({ url, apiKey }) }
})

layer(NodeServices.layer, { excludeTestServices: true })("a backend", (it) => {
  it.effect("says what it is, and has no secret", () =>
    Effect.gen(function*() {
      const home = yield* temporaryDirectory
      assert.deepStrictEqual(plain(yield* infoOf(Backend.layerLocal({ home }))), {
        kind: "local",
        home,
        source: "programmatic"
      })
      const { asked, url } = yield* serve(() => ({ status: 500, body: "" }))
      const cloud = yield* infoOf(Backend.layerCloud({ url: `${url}/`, apiKey }))
      assert.deepStrictEqual(plain(cloud), { kind: "cloud", url, source: "programmatic" })
      assert.strictEqual((yield* infoOf(Backend.layerCloud({ apiKey }))).url, "https://api.microsandbox.dev")
      assert.strictEqual(yield* Effect.provide(Backend.kind, Backend.layerCloud({ url, apiKey })), "cloud")
      assert.deepStrictEqual(asked, [])
      const service = yield* Effect.provide(Backend.Backend, Backend.layerCloud({ url, apiKey }))
      assert.notInclude(inspect(service, { depth: 10, showHidden: true }), key)
    }))

  it.effect("is refused an address or a key that cannot be right, without a word of it", () =>
    Effect.gen(function*() {
      const addresses = [
        "",
        "ftp://a",
        "a.example.com",
        "http://user:secret@a",
        "http://a/?key=secret",
        "http://a/#secret"
      ]
      for (const url of addresses) {
        const reason = yield* reasonOf(infoOf(Backend.layerCloud({ url, apiKey })))
        assert.deepInclude(reason, { _tag: "InvalidConfig", field: "url" }, url)
        assert.notInclude(reason.message, "secret")
      }
      for (const secret of ["", "  ", "two words", "line\nbreak", "ключ"]) {
        const reason = yield* reasonOf(infoOf(Backend.layerCloud({ apiKey: Redacted.make(secret) })))
        assert.deepInclude(reason, { _tag: "InvalidConfig", field: "apiKey" })
        if (secret.trim() !== "") assert.notInclude(reason.message, secret)
      }
      const bare = { apiKey: key } as unknown as Backend.CloudOptions
      const reason = yield* reasonOf(infoOf(Backend.layerCloud(bare)))
      assert.deepInclude(reason, { _tag: "InvalidConfig", field: "apiKey" })
      assert.notInclude(reason.message, key)
    }))

  it.effect("is the one that the environment names, and a key alone names none", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const home = yield* temporaryDirectory
      const file = `${home}/named.json`
      const profiles = {
        here: { backend: "local" },
        there: { backend: "cloud", url: "http://there.example", api_key_ref: "env:KEY_OF_THERE" },
        inline: { backend: "cloud", url: "http://inline.example", api_key_ref: `inline:${key}` }
      }
      yield* fs.writeFileString(file, JSON.stringify({ active_profile: "there", profiles, log_level: "info" }))
      // The engine's own file, in the home.
      yield* fs.writeFileString(`${home}/config.json`, JSON.stringify({ active_profile: "here", profiles }))
      const set = { MSB_API_KEY: key, KEY_OF_THERE: key }
      const local = (source: string, profile?: string) => ({ kind: "local", home, source, ...profile && { profile } })
      const cloud = (url: string, source: string, profile?: string) => ({
        kind: "cloud",
        url,
        source,
        ...profile && { profile }
      })
      const hosted = "https://api.microsandbox.dev"
      const rows: ReadonlyArray<readonly [variables: Record<string, string>, info: object]> = [
        [{ ...set, MSB_BACKEND: "local", MSB_CONFIG_PATH: file, MSB_PROFILE: "there" }, local("MSB_BACKEND")],
        [{ ...set, MSB_BACKEND: " Local " }, local("MSB_BACKEND")],
        [{ ...set, MSB_BACKEND: "cloud" }, cloud(hosted, "MSB_BACKEND")],
        [
          { ...set, MSB_BACKEND: "cloud", MSB_API_URL: "http://a.example/", MSB_PROFILE: "here" },
          cloud("http://a.example", "MSB_BACKEND")
        ],
        [
          { MSB_BACKEND: "cloud", MSB_CONFIG_PATH: file, KEY_OF_THERE: key },
          cloud("http://there.example", "MSB_BACKEND", "there")
        ],
        [
          { MSB_BACKEND: "cloud", MSB_PROFILE: "inline", MSB_CONFIG_PATH: file },
          cloud("http://inline.example", "MSB_BACKEND", "inline")
        ],
        [{ MSB_PROFILE: "inline", MSB_CONFIG_PATH: file }, cloud("http://inline.example", "MSB_PROFILE", "inline")],
        [{ ...set, MSB_PROFILE: "here", MSB_CONFIG_PATH: file }, local("MSB_PROFILE", "here")],
        [{ ...set, MSB_CONFIG_PATH: file }, cloud("http://there.example", "active_profile", "there")],
        [{ ...set }, local("active_profile", "here")],
        [{ ...set, MSB_PROFILE: "  " }, local("active_profile", "here")],
        [{ ...set, MSB_CONFIG_PATH: `${home}/missing.json` }, local("default")],
        [
          { MSB_API_KEY: key, MSB_API_URL: "http://a.example", MSB_CONFIG_PATH: `${home}/missing.json` },
          local("default")
        ]
      ]
      for (const [variables, expected] of rows) {
        const info = yield* infoOf(Backend.layer()).pipe(within({ MSB_HOME: home, ...variables }))
        assert.deepStrictEqual<object>(plain(info), expected, JSON.stringify(variables))
      }
      const byOption = yield* infoOf(Backend.layer({ home })).pipe(within({ MSB_HOME: "/proc/never" }))
      assert.deepStrictEqual<object>(plain(byOption), local("active_profile", "here"))
      const named = yield* infoOf(Backend.layerProfile("inline", { home })).pipe(within({}))
      assert.deepStrictEqual<object>(plain(named), cloud("http://inline.example", "profile", "inline"))
    }))

  it.effect("is refused a profile that is none, without a word of its key", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const home = yield* temporaryDirectory
      const write = (content: unknown) =>
        fs.writeFileString(`${home}/config.json`, typeof content === "string" ? content : JSON.stringify(content))
      const profile = (api_key_ref: unknown, backend: unknown = "cloud") => ({
        profiles: { it: { backend, api_key_ref } }
      })
      const field = "profiles.it.api_key_ref"
      const rows: ReadonlyArray<readonly [content: unknown, reason: object]> = [
        [{ profiles: {} }, { _tag: "InvalidConfig", field: "profiles.it" }],
        [{ profiles: { it: { backend: "cloud" } } }, { _tag: "InvalidConfig", field }],
        [profile("  "), { _tag: "InvalidConfig", field }],
        [profile(key), { _tag: "InvalidConfig", field }],
        [profile(`plain:${key}`), { _tag: "InvalidConfig", field }],
        [profile("inline: "), { _tag: "InvalidConfig", field }],
        [profile("env:NOT_SET"), { _tag: "InvalidConfig", field, message: `${field}: NOT_SET is not set` }],
        [profile(`env:${key}`), { _tag: "InvalidConfig", field }],
        [profile("keyring:service:name"), { _tag: "Unsupported", reason: "NotAvailable" }],
        [profile([key]), { _tag: "InvalidConfig", field }],
        [profile(`inline:${key}`, "moon"), { _tag: "InvalidConfig", field: "profiles.it.backend" }],
        [profile(`inline:two ${key}`), { _tag: "InvalidConfig", field: "apiKey" }],
        [`{"profiles":{"it":"${key}`, { _tag: "InvalidConfig", field: `${home}/config.json` }]
      ]
      for (const [content, expected] of rows) {
        yield* write(content)
        const error = yield* Effect.flip(infoOf(Backend.layerProfile("it", { home })).pipe(within({})))
        assert.deepInclude(error.reason, expected, JSON.stringify(content))
        assert.notInclude(inspect(error, { depth: 10, showHidden: true }), key)
      }
      yield* write({ profiles: { it: { backend: "local" } } })
      const cases: ReadonlyArray<readonly [variables: Record<string, string>, field: string]> = [
        [{ MSB_BACKEND: "moon" }, "MSB_BACKEND"],
        [{ MSB_BACKEND: "cloud" }, "MSB_API_KEY"],
        [{ MSB_BACKEND: "cloud", MSB_API_KEY: " " }, "MSB_API_KEY"],
        [{ MSB_BACKEND: "cloud", MSB_PROFILE: "it" }, "profiles.it"],
        [{ MSB_PROFILE: "other" }, "profiles.other"],
        [{ MSB_PROFILE: "toString" }, "profiles.toString"],
        [{ MSB_CONFIG_PATH: home }, home]
      ]
      for (const [variables, field] of cases) {
        const reason = yield* reasonOf(infoOf(Backend.layer({ home })).pipe(within(variables)))
        assert.deepInclude(reason, { _tag: "InvalidConfig", field }, JSON.stringify(variables))
      }
    }))

  it.effect("on a control plane has for each of its answers a reason, and the key in none of them", () =>
    Effect.gen(function*() {
      let next: { readonly status: number; readonly body: unknown } = { status: 200, body: "" }
      // As a server that says in its answer what it was sent.
      const { asked, url } = yield* serve(({ headers }) => ({
        status: next.status,
        body: typeof next.body === "string" ? next.body.replace("KEY", String(headers.authorization)) : next.body
      }))
      const told = (code: string) => ({ error: { code, message: `of ${key}` } })
      const sandbox = "a"
      const rows: ReadonlyArray<readonly [status: number, body: unknown, reason: object]> = [
        [401, told("unauthorized"), { _tag: "CloudHttp", status: 401, code: "unauthorized" }],
        [403, "no KEY", { _tag: "CloudHttp", status: 403 }],
        [404, told("sandbox_not_found"), { _tag: "SandboxNotFound", sandbox }],
        [404, "", { _tag: "SandboxNotFound", sandbox }],
        [409, told("conflict"), { _tag: "CloudHttp", status: 409, code: "conflict" }],
        [422, told("invalid_request"), { _tag: "InvalidConfig" }],
        [429, told("slow_down"), { _tag: "CloudHttp", status: 429 }],
        [500, "<html>KEY</html>", { _tag: "CloudHttp", status: 500 }],
        [502, "KEY", { _tag: "Runtime" }],
        [503, "", { _tag: "CloudHttp", status: 503 }],
        [200, "KEY", { _tag: "Json" }],
        [200, {}, { _tag: "Json" }]
      ]
      const logged: Array<string> = []
      const logger = Logger.make(({ cause, message }) => {
        logged.push(inspect([message, cause], { depth: 10, showHidden: true }))
      })
      const failed: Array<MicrosandboxError.MicrosandboxError> = []
      for (const [status, body, expected] of rows) {
        next = { status, body }
        const { exit, spans } = yield* Sandbox.get(sandbox).pipe(
          Effect.tapError((error) => Effect.logError("failed", error)),
          Effect.flip,
          Effect.provide(Layer.merge(Backend.layerCloud({ url, apiKey }), Logger.layer([logger]))),
          Spans.recorded
        )
        if (Exit.isFailure(exit)) assert.fail(`${status} is no failure`)
        assert.deepInclude(exit.value.reason, expected, `${status} ${JSON.stringify(body)}`)
        assert.strictEqual(exit.value.sandbox, sandbox)
        assert.notInclude(`${Spans.text(spans)} ${String(exit.value)}`, key)
        failed.push(exit.value)
      }
      const said = `${JSON.stringify(failed)} ${inspect(failed, { depth: 12, showHidden: true })} ${logged.join("\n")}`
      assert.notInclude(said, key)
      assert.include(said, "<redacted>")
      for (const { headers } of asked) assert.strictEqual(headers.authorization, `Bearer ${key}`)

      const nobody = Backend.layerCloud({ url: "http://127.0.0.1:1", apiKey })
      const refused = yield* reasonOf(Effect.provide(Sandbox.get(sandbox), nobody))
      assert.deepInclude(refused, { _tag: "Http", connect: true })
      const { url: silent } = yield* serve(() => undefined)
      const late = Backend.layerCloud({ url: silent, apiKey, requestTimeout: "200 millis" })
      assert.deepInclude(yield* reasonOf(Effect.provide(Sandbox.get(sandbox), late)), { _tag: "Http", timeout: true })
    }))

  it.effect("is another one for each fiber, at the same time", () =>
    Effect.gen(function*() {
      const answering = (labels: string) =>
        serve(({ path }) => ({
          status: 200,
          body: of(decodeURIComponent(path.split("/").at(-1)!), { spec: { labels: { labels } } })
        }))
      const [one, two] = [yield* answering("one"), yield* answering("two")]
      const looks = (at: string, url: string) =>
        Effect.gen(function*() {
          const seen = new Set<string>()
          for (let turn = 0; turn < 50; turn++) {
            seen.add(JSON.stringify((yield* Sandbox.get(`${at}-${turn}`)).labels))
            yield* Effect.yieldNow
          }
          return [...seen]
        }).pipe(Effect.provide(Backend.layerCloud({ url, apiKey: Redacted.make(`${key}-${at}`) })))
      const seen = yield* Effect.all([looks("one", one.url), looks("two", two.url)], { concurrency: 2 })
      assert.deepStrictEqual(seen, [["{\"labels\":\"one\"}"], ["{\"labels\":\"two\"}"]])
      for (const [at, { asked }] of [["one", one], ["two", two]] as const) {
        assert.strictEqual(asked.length, 50)
        assert.isTrue(
          asked.every(({ headers, path }) =>
            headers.authorization === `Bearer ${key}-${at}` && path.includes(`/${at}-`)
          )
        )
      }
    }))

  it.effect("is opened once for all that ask a map for it, and closed when the last is done", () =>
    Effect.gen(function*() {
      const { layer: _, url } = yield* tiny
      const home = yield* temporaryDirectory
      const { handle, live } = yield* Effect.gen(function*() {
        const get = (key: Backend.Key) => Effect.provide(Backend.Backend, Backend.Map.get(key))
        const [a, again, other, local] = yield* Effect.all([
          get({ cloud: { url, apiKey } }),
          get({ cloud: { url, apiKey: Redacted.make(key) } }),
          get({ cloud: { url, apiKey: Redacted.make("msb_test_of_another") } }),
          get({ local: { home } })
        ]).pipe(Effect.provide(Backend.Map.get({ cloud: { url, apiKey } })))
        assert.strictEqual(a.handle, again.handle)
        assert.notStrictEqual(a.handle, other.handle)
        assert.deepStrictEqual([local.kind, local.home], ["local", home])
        return { handle: a.handle, live: local.native.live }
      }).pipe(Effect.provide(Backend.Map.layer))
      assert.isDefined(handle)
      assert.strictEqual((yield* live).backends, 0)
    }))

  it.effect("on a control plane gives a sandbox that is gone with its scope, and takes back one that is interrupted", () =>
    Effect.gen(function*() {
      const { asked, layer, sandboxes } = yield* tiny
      yield* Effect.gen(function*() {
        yield* Effect.scoped(Effect.gen(function*() {
          const sandbox = yield* Sandbox.make({ name: "a", image: "alpine", labels: { of: "test" } })
          assert.strictEqual(sandbox.id, "id-of-a")
          const { config, labels } = yield* sandbox.info
          assert.deepStrictEqual([config?.image, labels], ["alpine", { of: "test" }])
          // What says of which process it is stays here.
          const sent = Object.keys(sandboxes.get("a").spec.labels)
          assert.deepStrictEqual(sent.filter((name) => name.includes("owner")), [])
          const taken = yield* reasonOf(Effect.scoped(Sandbox.make({ name: "a", image: "alpine" })))
          assert.deepInclude(taken, { _tag: "SandboxAlreadyExists", sandbox: "a" })
          assert.isTrue(sandboxes.has("a"))
        }))
        assert.deepStrictEqual([...sandboxes.keys()], [])
        assert.isTrue(asked.some(({ path }) => path === "/v1/sandboxes/id-of-a/stop"))
      }).pipe(Effect.provide(layer))

      // Made, and never said so.
      const made = new Map<string, any>()
      const { url } = yield* serve(({ body, method, path }) => {
        const route = `${method} ${path.split("?")[0]}`
        if (route === "POST /v1/sandboxes") {
          made.set(body.name, of(body.name, { spec: body, status: "stopped" }))
          return undefined
        }
        if (route === "GET /v1/sandboxes") return { status: 200, body: { data: [...made.values()], next_cursor: null } }
        if (method === "DELETE") made.clear()
        return { status: 200, body: method === "DELETE" ? { message: "removed" } : [...made.values()][0] }
      })
      const fiber = yield* Effect.scoped(Sandbox.make({ name: "late", image: "alpine" })).pipe(
        Effect.provide(Backend.layerCloud({ url, apiKey })),
        Effect.forkChild
      )
      yield* Effect.sync(() => made.size).pipe(
        Effect.delay("5 millis"),
        Effect.repeat({ until: (size) => size === 1 })
      )
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(made.size, 0)
    }))

  it.effect("on a control plane says of what it does not have which operation that is, and why", () =>
    Effect.gen(function*() {
      const { layer } = yield* tiny
      yield* Effect.gen(function*() {
        const sandbox = yield* Sandbox.make({ name: "a", image: "alpine" })
        const rows: Record<string, Effect.Effect<unknown, MicrosandboxError.MicrosandboxError, never>> = {
          kill: sandbox.kill,
          drain: sandbox.drain,
          ping: sandbox.ping,
          touch: sandbox.touch,
          pause: sandbox.pause(),
          resume: sandbox.resume,
          metrics: sandbox.metrics,
          logs: sandbox.logs(),
          logStream: Stream.runDrain(sandbox.logStream()),
          branch: Effect.scoped(sandbox.branch("b")),
          branchMany: Effect.scoped(sandbox.branchMany(2)),
          modify: sandbox.modify({ labels: { a: "b" } }),
          snapshot: sandbox.snapshot("full", { full: true })
        }
        for (const [what, effect] of Object.entries(rows)) {
          const reason = yield* reasonOf(effect)
          if (reason._tag !== "Unsupported") assert.fail(`${what}: ${reason._tag} ${reason.message}`)
          assert.isTrue(reason.operation !== "" && reason.reason !== "" && reason.hint !== "", what)
        }
      }).pipe(Effect.scoped, Effect.provide(layer))
      const local = Backend.requireLocal.pipe(Layer.provideMerge(layer))
      const reason = yield* reasonOf(Effect.provide(Image.list, local))
      assert.deepInclude(reason, { _tag: "Unsupported", operation: "Backend.requireLocal", reason: "LocalOnly" })
    }))

  it.effect("on a control plane is no place for what only this machine can do, and the compiler says so", () =>
    Effect.gen(function*() {
      const { layer: cloud } = yield* tiny
      const home = yield* temporaryDirectory
      const here = Backend.layerLocal({ home })
      const complete = (_: Effect.Effect<unknown, MicrosandboxError.MicrosandboxError>) => undefined
      // @effect-diagnostics missingEffectContext:off
      // @ts-expect-error: a cloud provides no `Local`
      complete(Effect.provide(Image.list, cloud))
      // @ts-expect-error: as for all of these
      complete(Effect.provide(Image.pull("alpine"), cloud))
      // @ts-expect-error
      complete(Effect.provide(Metrics.all, cloud))
      // @ts-expect-error
      complete(Effect.provide(Runtime.resolve, cloud))
      // @ts-expect-error
      complete(Effect.provide(Sandbox.sweep, cloud))
      // @ts-expect-error
      complete(Effect.provide(Sandbox.kill("a"), cloud))
      // @ts-expect-error
      complete(Effect.provide(Snapshot.verify("a"), cloud))
      // @ts-expect-error: it is known only when it runs
      complete(Effect.provide(Image.list, Backend.layer()))
      // @effect-diagnostics missingEffectContext:error
      complete(Effect.provide(Image.list, here))
      complete(Effect.provide(Sandbox.sweep, here))
      complete(Effect.provide(Sandbox.stop("a"), cloud))
      const found = Backend.requireLocal.pipe(Layer.provideMerge(Backend.layer({ home })))
      assert.deepStrictEqual(yield* Effect.provide(Image.list, found).pipe(within({})), [])
      // One of another kind around it is found out when it runs.
      const mixed = Effect.provide(Image.list, Layer.merge(here, cloud))
      assert.deepInclude(yield* reasonOf(mixed), { _tag: "Unsupported", reason: "LocalOnly" })
    }))

  it.effect("on a control plane follows a log past the time of a request, and tells nothing twice", () =>
    Effect.gen(function*() {
      const lines = Array.from({ length: 12 }, (_, index) => `line ${index}`)
      const cursor = (index: number) => {
        const bytes = Buffer.alloc(17)
        bytes[0] = 1
        bytes.writeBigUInt64LE(7n, 1)
        bytes.writeBigUInt64LE(BigInt(index), 9)
        return bytes.toString("base64")
      }
      const followed: Array<string | undefined> = []
      let status = "running"
      const { url } = yield* serve(({ headers, path }, response) => {
        if (!path.includes("/logs")) return { status: 200, body: of("a", { status }) }
        const last = headers["last-event-id"] as string | undefined
        const begin = lines.findIndex((_, index) => cursor(index) === last)
        followed.push(last)
        response.writeHead(200, { "content-type": "text/event-stream" })
        // Three at a time; each time the last one that is known comes again, and then there is silence.
        const end = begin + 4
        for (let index = Math.max(0, begin); index < Math.min(end, lines.length); index++) {
          const data = { source: "stdout", ts: "2026-01-02T03:04:05Z", text: lines[index] }
          response.write(`id: ${cursor(index)}\nevent: log\ndata: ${JSON.stringify(data)}\n\n`)
        }
        if (end >= lines.length) {
          status = "stopped"
          response.end("event: end\ndata: {}\n\n")
        }
        return undefined
      })
      const seen = yield* Stream.runCollect(Sandbox.logStream("a", { follow: true })).pipe(
        Effect.provide(Backend.layerCloud({ url, apiKey, requestTimeout: "300 millis" }))
      )
      assert.deepStrictEqual(seen.map(({ text }) => text), lines)
      assert.isUndefined(followed[0])
      assert.isAtLeast(new Set(followed).size, 4)
    }))
})

layer(Layer.merge(NodeServices.layer, Native.layer), { excludeTestServices: true })("backends", (it) => {
  it.effect("of both kinds share an engine, which is idle when they are closed", () =>
    Effect.gen(function*() {
      const native = yield* Native.Native
      const home = yield* temporaryDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        yield* Layer.build(Backend.layerLocalNoDeps({ home }))
        yield* Layer.build(Backend.layerCloudNoDeps({ url: "http://127.0.0.1:1", apiKey }))
        assert.strictEqual((yield* native.live).backends, 2)
      }))
      assert.strictEqual((yield* native.live).backends, 0)
    }))
})
