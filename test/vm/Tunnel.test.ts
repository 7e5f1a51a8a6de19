/** Ports of a real guest, without a published one; and waiting for what is in it. */
import { Backend, MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer, Option, Stream } from "effect"
import { HttpBody, HttpClientRequest } from "effect/http"
import type { HttpClientError } from "effect/http/HttpClientError"
import type { Socket } from "effect/socket"
import { createHash } from "node:crypto"
import { layerBackend, rootDirectory } from "../support/Sandboxes.ts"

const layerSandbox = Layer.unwrap(Effect.map(rootDirectory, (image) => Sandbox.layer({ image }))).pipe(
  Layer.provideMerge(layerBackend)
)

/** A server in the guest that runs a script for each connection, which is the script's input and output. */
const serve = Effect.fn("serve")(function*(port: number, script: string) {
  const sandbox = yield* Sandbox.Sandbox
  yield* sandbox.spawn("nc", ["-ll", "-p", String(port), "-e", "sh", "-c", script])
  yield* sandbox.waitForPort(port)
})

/** The guest's web server: a file of 1 MiB, and scripts that answer with what they were sent, and with a header of it. */
const serveHttp = Effect.gen(function*() {
  const sandbox = yield* Sandbox.Sandbox
  yield* sandbox.shell(`
    mkdir -p /www/cgi-bin
    yes 'a line of text' | head -c 1048576 > /www/large
    printf '#!/bin/sh\\nprintf "Content-Type: text/plain\\r\\n\\r\\n"; exec cat\\n' > /www/cgi-bin/echo
    printf '#!/bin/sh\\nprintf "Content-Type: text/plain\\r\\n\\r\\n$HTTP_HOST"\\n' > /www/cgi-bin/host
    chmod +x /www/cgi-bin/*
  `)
  yield* sandbox.spawn("httpd", ["-f", "-p", "127.0.0.1:8080", "-h", "/www"])
  yield* sandbox.waitForPort(8080)
})

/** Bytes that show when a piece of them is lost, doubled or misplaced. */
const pattern = (length: number): Buffer =>
  Buffer.alloc(length, new Uint8Array(65_521).map((_, index) => (index * 31 + (index >> 8)) % 251))

const sha256 = (data: Uint8Array): string => createHash("sha256").update(data).digest("hex")

/** All that a socket gives, up to its clean end. */
const drain = (pull: Socket.Reader["pull"]) =>
  Effect.gen(function*() {
    const chunks: Array<Uint8Array> = []
    while (true) {
      const batch = yield* Effect.exit(pull)
      if (Exit.isSuccess(batch)) {
        for (const chunk of batch.value) chunks.push(typeof chunk === "string" ? Buffer.from(chunk) : chunk)
      } else {
        const error = Option.getOrThrow(Exit.findErrorOption(batch))
        assert.deepStrictEqual(error.reason._tag === "SocketCloseError" ? error.reason.code : error.reason, 1000)
        return Buffer.concat(chunks)
      }
    }
  })

/** The reason of our error in another's. */
const reasonOf = (cause: unknown): MicrosandboxError.Reason => {
  assert.isTrue(MicrosandboxError.isMicrosandboxError(cause), String(cause))
  return (cause as MicrosandboxError.MicrosandboxError).reason
}

/** Runs an effect, and afterwards there is as much in the engine as before. */
const leavesNothing = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const { native } = yield* Backend.Backend
    const before = yield* native.live
    const value = yield* effect
    assert.deepStrictEqual(yield* native.live, before)
    return value
  })

/** The bound of the issue in the software host. */
const inTime = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.timeoutOrElse(effect, { duration: "10 seconds", orElse: () => Effect.die(new Error("not within 10 seconds")) })

layer(layerSandbox, { timeout: "10 minutes", excludeTestServices: true })("a port of a guest", (it) => {
  it.effect("is a socket: what is written comes back in order, and its end too", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      yield* serve(7000, "exec cat")
      const socket = yield* sandbox.socket(7000)
      const data = pattern(3_000_001)
      yield* leavesNothing(Effect.forEach([1, 2], () =>
        Effect.scoped(Effect.gen(function*() {
          const { pull } = yield* socket.reader
          const write = Effect.scoped(Effect.gen(function*() {
            const writer = yield* socket.writer
            for (let start = 0; start < data.length; start += 70_001) {
              yield* writer.write(data.subarray(start, start + 70_001))
            }
          }))
          const [echo] = yield* Effect.all([drain(pull), write], { concurrency: 2 })
          assert.strictEqual(echo.length, data.length)
          assert.isTrue(echo.equals(data))
        }))))
    }))

  it.effect("gives away what was written before a scope that ends well", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      // One that begins to read when the scope has ended, and more than its kernel takes for it. The wait's own connection
      // has nothing to say, and may be served at the same time.
      yield* serve(7001, "sleep 2; cat > /tmp/got.$$ && [ -s /tmp/got.$$ ] && mv /tmp/got.$$ /tmp/got")
      const data = pattern(1_000_000)
      yield* Effect.scoped(Effect.gen(function*() {
        const stream = yield* sandbox.duplex(7001)
        stream.write(data)
      }))
      const { stdout } = yield* sandbox.shell(
        "while [ ! -e /tmp/got ]; do sleep 0.1; done; sha256sum < /tmp/got",
        { timeout: "30 seconds" }
      )
      assert.strictEqual(stdout.split(" ")[0], sha256(data))
    }))

  it.effect("that nobody listens on refuses, by whatever way it is tried", () =>
    leavesNothing(Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const socket = yield* Effect.flip(Effect.scoped(Effect.flatMap(sandbox.socket(9), ({ reader }) => reader)))
      const client = yield* Effect.flip(
        Effect.scoped(Effect.flatMap(sandbox.httpClient(9), (client) => client.get("/")))
      )
      const duplex = yield* Effect.flip(Effect.scoped(sandbox.duplex(9)))
      assert.isTrue(client._tag === "HttpClientError" && client.reason._tag === "TransportError")
      for (
        const cause of [
          socket._tag === "SocketError" && socket.reason._tag === "SocketOpenError" ? socket.reason.cause : socket,
          client._tag === "HttpClientError" && client.reason._tag === "TransportError" ? client.reason.cause : client,
          duplex
        ]
      ) {
        const reason = reasonOf(cause)
        assert.deepInclude(reason, { _tag: "TunnelRefused", host: "127.0.0.1", port: 9, errno: 111 })
      }
    })))

  it.effect("checks what it is asked for", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const table: ReadonlyArray<readonly [string, Effect.Effect<void, MicrosandboxError.MicrosandboxError>]> = [
        ["port", Effect.asVoid(Effect.scoped(sandbox.socket(0)))],
        ["port", Effect.asVoid(Effect.scoped(sandbox.duplex(65_536)))],
        ["host", Effect.asVoid(Effect.scoped(sandbox.httpClient(80, { host: "" })))],
        ["maxConnections", Effect.asVoid(Effect.scoped(sandbox.httpClient(80, { maxConnections: 0 })))],
        ["port", sandbox.waitForPort(1.5)],
        ["timeout", sandbox.waitForPort(80, { timeout: "-1 seconds" })],
        ["interval", sandbox.waitForFile("/", { interval: 0 })],
        ["path", sandbox.waitForFile("")],
        ["pattern", Effect.asVoid(sandbox.waitForLog(""))],
        ["pattern", Effect.asVoid(sandbox.waitForLog("two\nlines"))]
      ]
      for (const [field, effect] of table) {
        const { reason } = yield* Effect.flip(effect)
        assert.deepInclude(reason, { _tag: "InvalidConfig", field })
      }
    }))

  it.effect("answers an HTTP client, with large bodies both ways and many requests at once", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      yield* serveHttp
      yield* leavesNothing(Effect.scoped(Effect.gen(function*() {
        const client = yield* sandbox.httpClient(8080, { maxConnections: 6 })
        const file = yield* Effect.flatMap(client.get("/large"), ({ arrayBuffer }) => arrayBuffer)
        const line = Buffer.from("a line of text\n")
        assert.isTrue(Buffer.from(file).equals(Buffer.alloc(1 << 20, line)))
        const body = pattern(1 << 20)
        const echo = yield* client.post("/cgi-bin/echo", {
          body: HttpBody.stream(Stream.fromIterable([body.subarray(0, 5), body.subarray(5)]), "text/plain", body.length)
        })
        assert.strictEqual(sha256(new Uint8Array(yield* echo.arrayBuffer)), sha256(body))
        const statuses = yield* Effect.forEach(
          Array.from({ length: 24 }, (_, index) => index),
          (index) =>
            Effect.map(
              Effect.flatMap(client.get(index % 3 === 0 ? "/nothing" : "/large"), (response) =>
                Effect.map(response.arrayBuffer, ({ byteLength }) => [response.status, byteLength] as const)),
              ([status, length]) =>
                status === (index % 3 === 0 ? 404 : 200) && (index % 3 === 0 || length === 1 << 20)
            ),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(statuses, statuses.map(() => true))
        // The host is what the server is told, and no more.
        for (
          const [url, host] of [["/cgi-bin/host", "localhost:8080"], ["http://a.test/cgi-bin/host", "a.test"]] as const
        ) {
          const response = yield* client.execute(HttpClientRequest.get(url))
          assert.strictEqual(yield* response.text, host)
        }
        // A server without TLS gets no plain request for a secure one, and nobody else gets it either.
        const secure = yield* Effect.flip(client.get("https://localhost:8080/large"))
        assert.strictEqual(secure.reason._tag, "TransportError")
      })))
    }))

  it.effect("whose server leaves in the middle is an error, and no more", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      // Each reads its request whole, and then leaves.
      const request = "while read -r line; do [ ${#line} -le 1 ] && break; done"
      yield* serve(7002, `${request}; printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 1000\\r\\n\\r\\nshort'`)
      yield* serve(7003, request)
      yield* leavesNothing(Effect.scoped(Effect.gen(function*() {
        const short = yield* sandbox.httpClient(7002)
        const response = yield* short.get("/")
        assert.strictEqual(response.status, 200)
        assert.strictEqual((yield* Effect.flip(response.text))._tag, "HttpClientError")
        const none = yield* sandbox.httpClient(7003)
        assert.strictEqual((yield* Effect.flip(none.get("/")))._tag, "HttpClientError")
      })))
    }))

  it.effect("waits for a reader that sleeps, for longer than the relay waits for one, and loses nothing", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      // 12 MiB, made in large pieces: the guest's CPU may be emulated.
      yield* sandbox.shell("seq 1 100000 | head -c 524288 > /tmp/piece")
      yield* serve(7004, "for i in $(seq 24); do cat /tmp/piece; done")
      const piece = Array.from({ length: 100_000 }, (_, index) => `${index + 1}\n`).join("").slice(0, 524_288)
      const expected = Buffer.alloc(24 * 524_288, piece)
      yield* leavesNothing(Effect.scoped(Effect.gen(function*() {
        const socket = yield* sandbox.socket(7004)
        const { pull } = yield* socket.reader
        const [first] = yield* pull
        yield* Effect.sleep("7 seconds")
        assert.strictEqual((yield* sandbox.exec("echo", ["meanwhile"])).stdout, "meanwhile\n")
        const got = Buffer.concat([Buffer.from(first as Uint8Array), yield* drain(pull)])
        assert.strictEqual(got.length, expected.length)
        assert.isTrue(got.equals(expected))
      })))
    }))

  it.effect("waits for a server that sleeps, and other programs of the sandbox do not", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      yield* serve(7005, "sleep 7; md5sum")
      const data = pattern(16 << 20)
      yield* leavesNothing(Effect.scoped(Effect.gen(function*() {
        const stream = yield* sandbox.duplex(7005)
        stream.end(data)
        assert.strictEqual(
          (yield* sandbox.exec("cat", [], { stdin: data.subarray(0, 1 << 20) })).stdoutBytes.length,
          1 << 20
        )
        assert.isFalse(stream.writableFinished)
        const answer = yield* Effect.promise(() => stream.setEncoding("utf8").toArray())
        assert.strictEqual(answer.join("").split(" ")[0], createHash("md5").update(data).digest("hex"))
      })))
    }))

  it.effect("is let go of within bounds when it is interrupted, whatever it was doing", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      yield* serve(7006, "exec yes 'this goes on and on'")
      yield* serve(7007, "exec sleep 8765")
      const idle = pattern(12 << 20)
      const flowing = Effect.scoped(Effect.gen(function*() {
        const { pull } = yield* (yield* sandbox.socket(7006)).reader
        while (true) yield* pull
      }))
      const silent = Effect.scoped(Effect.gen(function*() {
        const { pull } = yield* (yield* sandbox.socket(7007)).reader
        yield* pull
      }))
      const full = Effect.scoped(Effect.gen(function*() {
        const socket = yield* sandbox.socket(7007)
        yield* socket.reader
        const writer = yield* socket.writer
        while (true) yield* writer.write(idle)
      }))
      const streaming = Effect.scoped(Effect.gen(function*() {
        const stream = yield* sandbox.duplex(7006)
        // Not read at all.
        stream.on("readable", () => {})
        return yield* Effect.never
      }))
      const request = Effect.scoped(Effect.gen(function*() {
        const client = yield* sandbox.httpClient(7007)
        yield* client.post("/", { body: HttpBody.uint8Array(idle) })
      }))
      const waiting = sandbox.waitForPort(9)
      const all: Record<
        string,
        Effect.Effect<void, MicrosandboxError.MicrosandboxError | Socket.SocketError | HttpClientError>
      > = { flowing, silent, full, streaming, request, waiting }
      for (const [name, doing] of Object.entries(all)) {
        yield* leavesNothing(Effect.gen(function*() {
          for (const delay of [0, 10, 600]) {
            const fiber = yield* Effect.forkChild(doing)
            yield* Effect.sleep(delay)
            yield* inTime(Fiber.interrupt(fiber))
            const exit = yield* Fiber.await(fiber)
            assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause), `${name}: ${exit}`)
          }
        }))
      }
      // Nothing goes on in the guest either, but for the server that only sleeps and sees no end.
      const { exitCode } = yield* sandbox.shell(
        "for i in $(seq 100); do pidof yes > /dev/null || exit 0; sleep 0.1; done; exit 1"
      )
      assert.strictEqual(exitCode, 0)
    }))

  it.effect("ends with its client's scope, and whoever waits is told", () =>
    leavesNothing(Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      yield* Effect.scoped(Effect.gen(function*() {
        yield* serve(7008, "exec sleep 8764")
        const { ask, early } = yield* Effect.scoped(Effect.gen(function*() {
          const client = yield* sandbox.httpClient(7008, { maxConnections: 1 })
          const ask = Effect.forkDetach(Effect.exit(client.get("/")))
          // One that has its connection, and one that waits for its turn.
          const early = yield* Effect.all([ask, ask])
          yield* Effect.sleep("1 second")
          return { ask, early }
        }))
        for (const request of [...early, yield* ask]) {
          assert.isTrue(Exit.isFailure(yield* inTime(Fiber.join(request))))
        }
      }))
    })))

  it.effect("is waited for, as are a line of the log and a file", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      yield* leavesNothing(Effect.scoped(Effect.gen(function*() {
        yield* sandbox.shell("echo written before")
        yield* sandbox.spawn("sh", [
          "-c",
          "sleep 1; touch /tmp/ready; echo listening on 7009; printf 'name: '; exec nc -l -p 7009 -e cat"
        ])
        assert.strictEqual(yield* sandbox.waitForLog("written"), "written before")
        yield* Effect.all([
          sandbox.waitForPort(7009),
          sandbox.waitForFile("/tmp/ready"),
          Effect.map(sandbox.waitForLog(/^listening on \d+$/), (line) => assert.strictEqual(line, "listening on 7009")),
          Effect.map(sandbox.waitForLog("name:"), (line) => assert.strictEqual(line, "name: "))
        ], { concurrency: "unbounded" })
        for (
          const [what, wait] of [
            ["port 9", sandbox.waitForPort(9, { timeout: "300 millis" })],
            ["file /nothing", sandbox.waitForFile("/nothing", { timeout: "300 millis" })],
            [
              "log /nothing/",
              Effect.asVoid(sandbox.waitForLog(/nothing/, { timeout: "300 millis", sources: ["stderr"] }))
            ]
          ] as const
        ) {
          const { reason } = yield* Effect.flip(wait)
          assert.deepInclude(reason, { _tag: "WaitTimeout", what, timeoutMs: 300 })
        }
      })))
    }))

  // The last one: it ends the sandbox.
  it.effect("of a sandbox that ends is lost, and whoever waits is told at once", () =>
    leavesNothing(Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      yield* Effect.scoped(Effect.gen(function*() {
        yield* serve(7010, "exec sleep 8763")
        const stream = yield* sandbox.duplex(7010)
        stream.resume()
        const waits = yield* Effect.forEach(
          [
            Effect.asVoid(sandbox.waitForPort(9)),
            Effect.asVoid(sandbox.waitForFile("/nothing")),
            Effect.asVoid(sandbox.waitForLog("nothing")),
            Effect.callback<void, MicrosandboxError.MicrosandboxError>((resume) => {
              stream.once("error", (error) => resume(Effect.fail(error as MicrosandboxError.MicrosandboxError)))
            })
          ],
          (wait) => Effect.forkChild(Effect.flip(wait))
        )
        yield* Effect.sleep("1 second")
        yield* sandbox.kill
        const told = yield* inTime(Effect.forEach(waits, (wait) => Fiber.join(wait)))
        const tags = told.map((error) => reasonOf(error)._tag)
        const lost = ["SandboxNotRunning", "TunnelLost", "ExecSessionLost", "AgentClient"]
        for (const tag of tags) assert.include(lost, tag)
        assert.strictEqual(tags[3], "TunnelLost")
      }))
    })))
})
