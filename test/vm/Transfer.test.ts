/** Files and trees between the host and one real sandbox. */
import { Backend, type MicrosandboxError, Sandbox, Transfer } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { ByteSize, Effect, Exit, Fiber, FileSystem, Layer, Option, Path, type PlatformError, Stream } from "effect"
import * as crypto from "node:crypto"
import { layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"

const layerSandbox = Layer.unwrap(
  Effect.map(
    rootDirectory,
    (image) => Sandbox.layer({ image, mounts: { "/data": { tmpfs: true, size: "256 MiB" } } })
  )
).pipe(Layer.provideMerge(layerBackend))

/** Runs a script in the guest that must succeed. */
const guest = Effect.fn("guest")(function*(script: string) {
  const sandbox = yield* Sandbox.Sandbox
  const { exitCode, stderr, stdout } = yield* sandbox.exec("sh", ["-ec", script])
  assert.strictEqual(exitCode, 0, stderr)
  return stdout
})

/** A directory of the host, with files by their paths. */
const hostTree = Effect.fn("hostTree")(function*(files: Record<string, string>) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const root = path.join(yield* temporaryDirectory, "tree")
  yield* fs.makeDirectory(root)
  for (const [name, content] of Object.entries(files)) {
    const file = path.join(root, name)
    yield* fs.makeDirectory(path.dirname(file), { recursive: true })
    if (!name.endsWith("/")) yield* fs.writeFileString(file, content)
    else yield* fs.makeDirectory(file, { recursive: true })
  }
  return root
})

/** What is below a directory of the host, in order: kind, permissions, seconds of a file's time, path, and hash or target. */
const describeHost = Effect.fn("describeHost")(function*(root: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const walk: (below: string) => Effect.Effect<ReadonlyArray<string>, PlatformError.PlatformError> = Effect.fnUntraced(
    function*(below: string) {
      const lines: Array<string> = []
      for (const name of yield* fs.readDirectory(path.join(root, below))) {
        const entry = path.join(below, name)
        const full = path.join(root, entry)
        const target = yield* Effect.option(fs.readLink(full))
        if (Option.isSome(target)) {
          lines.push(`link ${entry} -> ${target.value}`)
          continue
        }
        const { mode, mtime, type } = yield* fs.stat(full)
        const permissions = (mode & 0o7777).toString(8)
        if (type === "Directory") {
          lines.push(`directory ${permissions} ${entry}`, ...yield* walk(entry))
          continue
        }
        const hash = crypto.createHash("sha256").update(yield* fs.readFile(full)).digest("hex")
        const seconds = Math.floor(Option.getOrThrow(mtime).getTime() / 1000)
        lines.push(`file ${permissions} ${seconds} ${entry} ${hash}`)
      }
      return lines
    }
  )
  return [...yield* walk("")].sort()
})

/** The same of a directory of the guest, by the guest's own programs. */
const describeGuest = Effect.fn("describeGuest")(function*(root: string) {
  const text = yield* guest(`cd ${root}
    find . -mindepth 1 -type d -exec stat -c 'directory %a %n' {} +
    find . -type l | while read -r l; do echo "link $l -> $(readlink "$l")"; done
    find . -type f -exec stat -c 'stat %a %Y %n' {} +
    find . -type f -exec sha256sum {} + | sed 's/^/hash /'`)
  const stats = new Map<string, string>()
  const lines: Array<string> = []
  for (const line of text.trim().split("\n")) {
    const stat = /^stat (\d+ \d+) \.\/(.*)$/.exec(line)
    const hash = /^hash (\w+) {2}\.\/(.*)$/.exec(line)
    if (stat !== null) stats.set(stat[2]!, stat[1]!)
    else if (hash !== null) lines.push(`file ${stats.get(hash[2]!)} ${hash[2]} ${hash[1]}`)
    else lines.push(line.replace(/^(link|directory \d+) \.\//, "$1 "))
  }
  return lines.sort()
})

const tagOf = (error: MicrosandboxError.MicrosandboxError) => error.reason._tag

layer(layerSandbox, { timeout: "10 minutes", excludeTestServices: true })("a transfer", (it) => {
  it.effect("carries a tree of 60 files up and down as it is, with its modes, times, links and empty directories", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const root = yield* hostTree({ "empty/": "", "deep/er/and/deeper/": "", "ünicode\nname": "x", ".hidden": "" })
      for (let index = 0; index < 60; index++) {
        const directory = path.join(root, `${index % 10}`)
        if (index < 10) {
          yield* fs.makeDirectory(directory)
          yield* fs.symlink("../.hidden", path.join(directory, "link"))
        }
        const file = path.join(directory, `file ${index}`)
        yield* fs.writeFileString(file, `${index} `.repeat(index * 10), {
          mode: [0o644, 0o755, 0o600, 0o440][index % 4]!
        })
        yield* fs.utimes(file, 1_600_000_000 + index, 1_600_000_000 + index)
      }
      // Too long for one piece.
      yield* fs.writeFile(path.join(root, "large"), crypto.randomBytes(5 * 1024 * 1024))
      yield* fs.chmod(path.join(root, "9"), 0o750)
      const expected = yield* describeHost(root)
      const up = yield* sandbox.upload(root, "/data/new/tree")
      assert.deepStrictEqual(
        [up.files, up.directories, up.symlinks, up.skippedCount],
        [63, 16, 10, 0]
      )
      // The newline of one name would split its line.
      yield* guest("test -f \"/data/new/tree/ünicode\nname\"")
      const inGuest = yield* describeGuest("/data/new/tree")
      const isPlain = (line: string) => !line.includes("nicode") && !/^(hash )?name/.test(line)
      assert.deepStrictEqual(inGuest.filter(isPlain), expected.filter(isPlain))
      const back = path.join(yield* temporaryDirectory, "not/there/yet")
      const down = yield* sandbox.download("/data/new/tree", back)
      assert.deepStrictEqual(yield* describeHost(back), expected)
      assert.deepStrictEqual(down, up)
      yield* guest("rm -r /data/new")
    }))

  it.effect("carries one file to the very path that is named, and follows a link that is named", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const root = yield* hostTree({ "file": "content", "empty": "" })
      yield* fs.symlink("file", path.join(root, "link"))
      const up = yield* sandbox.upload(path.join(root, "link"), "/data/one/file", { owner: { uid: 7, gid: 9 } })
      assert.deepStrictEqual([up.files, up.directories, up.bytes], [1, 0, ByteSize.bytes(7)])
      assert.strictEqual(
        yield* guest("cat /data/one/file; stat -c ' %u %g %F' /data/one/file"),
        "content 7 9 regular file\n"
      )
      yield* sandbox.upload(path.join(root, "empty"), "/data/one/empty")
      yield* guest("ln -s file /data/one/link")
      for (const [name, content] of [["link", "content"], ["empty", ""]] as const) {
        yield* sandbox.download(`/data/one/${name}`, path.join(root, "down", name))
        assert.strictEqual(yield* fs.readFileString(path.join(root, "down", name)), content)
        assert.isTrue(Option.isNone(yield* Effect.option(fs.readLink(path.join(root, "down", name)))))
      }
      // Its size says nothing.
      yield* sandbox.download("/proc/cpuinfo", path.join(root, "cpuinfo"))
      assert.include(yield* fs.readFileString(path.join(root, "cpuinfo")), "processor")
      yield* guest("rm -r /data/one")
    }))

  it.effect("of a hostile guest stays in its destination, and tells what it left out", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const deep = Array.from({ length: 100 }, () => "d").join("/")
      const long = "n".repeat(255)
      yield* guest(`mkdir /data/bad; cd /data/bad
        ln -s /etc/passwd absolute; ln -s ../../outside up; ln -s /etc way; ln -s . here; ln -s here/../.. zigzag
        mkdir -p '..a/...' 'a b'; echo 1 > '..a/.../..'x; echo 2 > "$(printf 'new\\nline')"; echo 3 > ${long}; echo 4 > '\\..\\x'
        echo 5 > "$(printf 'bad\\377name')"; mkdir "$(printf 'dir\\376')"; echo 6 > '%2e%2e%2f'
        echo linked > one; ln one two; chmod 6755 one; mkfifo fifo; mknod null c 1 3; mkdir -p ${deep}; echo bottom > ${deep}/file
        mkdir closed; echo in > closed/in; chmod 0 closed`)
      const root = path.join(yield* temporaryDirectory, "root")
      const result = yield* sandbox.download("/data/bad", root)
      assert.deepStrictEqual(
        result.skipped.map(({ path, why }) => `${why} ${path}`).sort(),
        [
          "link absolute",
          "link up",
          "link way",
          "link zigzag",
          "name bad\ufffdname",
          "name dir\ufffd",
          "special fifo",
          "special null"
        ]
      )
      assert.strictEqual(result.skippedCount, 8)
      assert.deepStrictEqual(
        (yield* fs.readDirectory(root)).sort(),
        ["%2e%2e%2f", "..a", "\\..\\x", "a b", "closed", "d", "here", long, "new\nline", "one", "two"].sort()
      )
      assert.deepStrictEqual(yield* fs.readDirectory(path.dirname(root)), ["root"])
      for (
        const [name, content] of [["one", "linked"], ["two", "linked"], [`${deep}/file`, "bottom"], ["closed/in", "in"]]
      ) {
        assert.strictEqual(yield* fs.readFileString(path.join(root, name!)), `${content}\n`)
      }
      const one = yield* fs.stat(path.join(root, "one"))
      assert.deepStrictEqual([one.mode & 0o7777, Number(Option.getOrThrow(one.nlink))], [0o755, 1])
      assert.strictEqual((yield* fs.stat(path.join(root, "closed"))).mode & 0o7777, 0o700)
      // The same again, over what is there now: links are replaced and never gone through.
      yield* fs.remove(path.join(root, "d"), { recursive: true })
      yield* fs.symlink(path.dirname(root), path.join(root, "d"))
      const conflict = yield* Effect.flip(sandbox.download("/data/bad", root))
      assert.strictEqual(conflict.reason._tag === "TransferConflict" ? conflict.reason.found : conflict, "symlink")
      assert.deepStrictEqual(yield* fs.readDirectory(path.dirname(root)), ["root"])
      const strict = yield* Effect.flip(sandbox.download("/data/bad", `${root}-strict`, { strict: true }))
      assert.strictEqual(tagOf(strict), "TransferRefused")
      yield* guest("rm -rf /data/bad")
    }))

  it.effect("has limits, of which a file of holes cannot take more than its size", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      yield* guest(`mkdir -p /data/big/a/b; cd /data/big; for i in $(seq 50); do echo $i > $i; done
        truncate -s 1099511627776 a/sparse; truncate -s 1048576 a/b/hole`)
      const host = yield* temporaryDirectory
      for (
        const [options, limit] of [
          [{}, "maxBytes"],
          [{ exclude: ["sparse"], maxBytes: "1 MiB" }, "maxBytes"],
          [{ exclude: ["sparse"], maxEntries: 52 }, "maxEntries"],
          [{ exclude: ["sparse"], maxDepth: 1 }, "maxDepth"]
        ] as const
      ) {
        const { reason } = yield* Effect.flip(sandbox.download("/data/big", path.join(host, "down"), options))
        assert.strictEqual(reason._tag === "TransferLimit" ? reason.limit : reason, limit)
        const left = yield* fs.readDirectory(path.join(host, "down"), { recursive: true })
        assert.deepStrictEqual(left.filter((name) => name.endsWith(".part")), [])
      }
      const fits = { exclude: ["sparse"], maxBytes: "2 MiB", maxEntries: 53, maxDepth: 2 } as const
      const { bytes, files } = yield* sandbox.download("/data/big", path.join(host, "down"), fits)
      assert.deepStrictEqual([files, bytes], [51, ByteSize.bytes(1048576 + 9 * 2 + 41 * 3)])
      const up = yield* Effect.flip(sandbox.upload(path.join(host, "down"), "/data/up", { maxBytes: "1 KiB" }))
      assert.strictEqual(tagOf(up), "TransferLimit")
      for (
        const [options, field] of [
          [{ maxDepth: 1001 }, "maxDepth"],
          [{ maxEntries: -1 }, "maxEntries"],
          [{ exclude: ["fine", "[z-a]"] }, "exclude.1"]
        ] as const
      ) {
        const { reason } = yield* Effect.flip(sandbox.download("/data/big", host, options))
        assert.strictEqual(reason._tag === "InvalidConfig" ? reason.field : reason, field)
      }
      const { reason } = yield* Effect.flip(sandbox.upload(host, "relative"))
      assert.strictEqual(reason._tag === "InvalidConfig" ? reason.field : reason, "guestPath")
      yield* guest("rm -r /data/big /data/up")
    }))

  it.effect("carries what a filter lets through, both ways", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const path = yield* Path.Path
      const root = yield* hostTree({
        "package.json": "{}",
        "src/a.ts": "a",
        "src/a.log": "log",
        "node_modules/x/index.ts": "x",
        "docs/": ""
      })
      yield* sandbox.upload(root, "/data/filtered", { exclude: ["node_modules/", "*.log"] })
      assert.strictEqual(
        yield* guest("cd /data/filtered; find . -mindepth 1 | sort"),
        "./docs\n./package.json\n./src\n./src/a.ts\n"
      )
      const down = path.join(root, "down")
      yield* sandbox.download("/data/filtered", down, { include: ["*.ts"] })
      assert.deepStrictEqual(
        (yield* describeHost(down)).map((line) => line.split(" ").slice(0, 4).pop()),
        ["src", "src/a.ts"]
      )
      yield* guest("rm -r /data/filtered")
    }))

  it.effect("merges directories, replaces files and links in one step, and leaves what does not fit", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const root = yield* hostTree({ "both/new": "new", "both/same": "theirs", "link": "file now" })
      yield* guest(
        `mkdir -p /data/merge/both; cd /data/merge; chmod 700 both; echo -n old > both/same; echo kept > both/old
        echo -n victim > victim; ln -s victim link`
      )
      yield* sandbox.upload(root, "/data/merge")
      assert.strictEqual(
        yield* guest(
          "cd /data/merge; stat -c %a both; ls -A both | tr '\\n' ' '; cat both/same; stat -c ' %F' link; cat victim"
        ),
        "700\nnew old same theirs regular file\nvictim"
      )
      // A directory of the guest where a file is to be, and the other way; a link is no directory.
      yield* guest("cd /data/merge; rm -r both link; ln -s /tmp both; mkdir link")
      for (const exclude of [["/both"], ["/link"]]) {
        const error = yield* Effect.flip(sandbox.upload(root, "/data/merge", { exclude }))
        assert.strictEqual(tagOf(error), "TransferConflict")
      }
      assert.strictEqual(yield* guest("ls -A /tmp; ls -A /data/merge | tr '\\n' ' '"), "both link victim ")
      for (
        const [from, to, tag] of [
          [root, "/", undefined],
          [`${root}/none`, "/data/none", "HostIo"],
          [`${root}/link`, "/", "TransferConflict"],
          ["/dev/null", "/data/null", "TransferRefused"]
        ] as const
      ) {
        const exit = yield* Effect.exit(sandbox.upload(from, to, { exclude: ["*"] }))
        assert.strictEqual(Exit.isFailure(exit) ? tagOf(yield* Effect.flip(exit)) : undefined, tag, from)
      }
      for (const [from, tag] of [["/data/none", "FileFailed"], ["/dev/null", "TransferRefused"]] as const) {
        assert.strictEqual(tagOf(yield* Effect.flip(sandbox.download(from, `${root}-down`))), tag)
      }
      yield* guest("rm -r /data/merge")
    }))

  it.effect("says how far it is, and at last what it carried", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const path = yield* Path.Path
      const root = yield* hostTree({ "file": "x".repeat(3_000_000), "more/file": "y" })
      for (
        const stream of [
          sandbox.uploadStream(root, "/data/told"),
          sandbox.downloadStream("/data/told", path.join(root, "down"))
        ]
      ) {
        const events = yield* Stream.runCollect(stream)
        assert.deepStrictEqual(events[0], { _tag: "Started", kind: "directory" })
        const last = events.at(-1)
        assert.isTrue(last?._tag === "Done" && last.transferred instanceof Transfer.Transferred)
        assert.strictEqual(last?._tag === "Done" ? last.transferred.bytes : last, ByteSize.bytes(3_000_001))
        const progress = events.filter((event) => event._tag === "Progress")
        assert.lengthOf(progress, events.length - 2)
        assert.deepInclude(progress.at(-1), { files: 2, directories: 2, bytes: ByteSize.bytes(3_000_001) })
        for (const [index, { bytes }] of progress.entries()) {
          assert.isTrue(index === 0 || bytes >= progress[index - 1]!.bytes)
        }
      }
      const one = yield* Stream.runHead(sandbox.downloadStream("/data/told/file", path.join(root, "one")))
      assert.deepStrictEqual(
        Option.getOrThrow(one),
        { _tag: "Started", kind: "file", totalBytes: ByteSize.bytes(3_000_000) }
      )
      const failed = yield* Effect.flip(Stream.runDrain(sandbox.downloadStream("/data/none", root)))
      assert.deepStrictEqual([failed.operation, tagOf(failed)], ["Sandbox.downloadStream", "FileFailed"])
      yield* guest("rm -r /data/told")
    }))

  it.effect("that is interrupted, or whose reader leaves, leaves no handle and no part of a file", () =>
    Effect.gen(function*() {
      const sandbox = yield* Sandbox.Sandbox
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const { native } = yield* Backend.Backend
      const names = Array.from(
        { length: 120 },
        (_, index) => [`${index % 8}/${index}`, `${index}`.repeat(500)] as const
      )
      const root = yield* hostTree(Object.fromEntries([...names, ["large", "x".repeat(8_000_000)]]))
      const before = yield* native.live
      const down = path.join(root, "../down")
      const whole = yield* describeHost(root)
      const hashes = new Set(whole.map((line) => line.split(" ").slice(-2).join(" ")))
      for (const delay of [0, 60, 250, 1000]) {
        const fiber = yield* Effect.forkChild(sandbox.upload(root, `/data/cut/${delay}`))
        yield* Effect.sleep(delay)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* native.live, before)
        const left = yield* guest("mkdir -p /data/cut; cd /data/cut; find . -name '*.part'")
        assert.strictEqual(left, "", `after ${delay} ms`)
      }
      // What is there is whole.
      for (const delay of [0, 1000]) {
        yield* guest(`mkdir -p /data/cut/${delay}`)
        for (const line of (yield* describeGuest(`/data/cut/${delay}`)).filter((line) => line.startsWith("file"))) {
          assert.isTrue(hashes.has(line.split(" ").slice(-2).join(" ")), line)
        }
      }
      yield* guest("rm -r /data/cut")
      yield* sandbox.upload(root, "/data/source")
      for (const delay of [0, 60, 250, 1000]) {
        const fiber = yield* Effect.forkChild(sandbox.download("/data/source", down))
        yield* Effect.sleep(delay)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* native.live, before)
        const left = (yield* fs.exists(down)) ? yield* fs.readDirectory(down, { recursive: true }) : []
        assert.deepStrictEqual(left.filter((name) => name.endsWith(".part")), [], `after ${delay} ms`)
      }
      const taken = yield* sandbox.downloadStream("/data/source", down).pipe(
        Stream.filter((event) => event._tag === "Progress"),
        Stream.take(2),
        Stream.runCollect
      )
      assert.lengthOf(taken, 2)
      assert.deepStrictEqual(yield* native.live, before)
      // And the sandbox is as good as before.
      yield* sandbox.download("/data/source", down)
      assert.deepStrictEqual(
        (yield* describeHost(down)).filter((line) => line.startsWith("file")),
        whole.filter((line) => line.startsWith("file"))
      )
      yield* guest("rm -r /data/source")
    }))
})
