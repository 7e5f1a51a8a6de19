/** The runtime pair: which one is taken, how one is put into a home, and what a machine lacks. */
import { Backend, type MicrosandboxError, Runtime } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, FileSystem, Path, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { requiredGlibc } from "../../packages/core/src/internal/hostRules.ts"
import { checkoutWithoutRuntime } from "../support/Checkout.ts"
import { layerBackend, temporaryDirectory } from "../support/Sandboxes.ts"

const npm = new URL("../../node_modules/@superradcompany/microsandbox-linux-x64-gnu", import.meta.url).pathname
const library = "libkrunfw.so.5.6.1"
const files = { msb: `${npm}/bin/msb`, libkrunfw: `${npm}/lib/${library}` }

interface Answer<A> {
  readonly value?: A
  readonly reason?: MicrosandboxError.Reason
  readonly message?: string
  readonly findings?: ReadonlyArray<Runtime.Finding>
}

interface Question {
  readonly what: "resolve" | "installed" | "ensure" | "make" | "doctor"
  readonly home: string
  readonly directory?: string
  readonly env?: Readonly<Record<string, string>>
}

/** Asks in a process of its own: its environment and its packages name the runtime. */
const ask = Effect.fn("ask")(function*<A = Runtime.Resolved>(questions: ReadonlyArray<Question>, checkout = ".") {
  const spawner = yield* ChildProcessSpawner
  const program = `${checkout}/test/support/programs/runtime.ts`
  const output = yield* spawner.string(ChildProcess.make("node", [program, JSON.stringify(questions)]))
  return JSON.parse(output) as ReadonlyArray<Answer<A>>
})

const run = Effect.fn("run")(function*(script: string, ...values: ReadonlyArray<string>) {
  const spawner = yield* ChildProcessSpawner
  const exitCode = yield* spawner.exitCode(
    ChildProcess.make("sh", ["-ec", script, "sh", ...values], { stderr: "inherit" })
  )
  if (exitCode !== 0) return yield* Effect.die(new Error(`it failed: ${script}`))
})

/** A directory with the pair side by side, by links. */
const linkedPair = Effect.gen(function*() {
  const directory = yield* temporaryDirectory
  yield* run("ln -s \"$2\" \"$1/msb\"; ln -s \"$3\" \"$1\"", directory, files.msb, files.libkrunfw)
  return directory
})

/** The same program but for its version, wherever that stands in it, with the kernel beside it. */
const otherPair = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const directory = yield* linkedPair
  const msb = Buffer.from(yield* fs.readFile(files.msb)).toString("latin1").replaceAll("0.7.2", "0.7.9")
  yield* fs.remove(`${directory}/msb`)
  yield* fs.writeFile(`${directory}/msb`, Buffer.from(msb, "latin1"), { mode: 0o755 })
  return directory
})

/** What a home has, but for the lock of installations. */
const contents = Effect.fn("contents")(function*(home: string) {
  const fs = yield* FileSystem.FileSystem
  const entries = yield* fs.readDirectory(home, { recursive: true })
  return entries.filter((entry) => entry !== ".runtime-install.lock").toSorted()
})

const whole = ["bin", "bin/msb", "lib", "lib/libkrunfw.so", "lib/libkrunfw.so.5", `lib/${library}`]

const sha256 = Effect.fn("sha256")(function*(path: string) {
  const spawner = yield* ChildProcessSpawner
  return (yield* spawner.string(ChildProcess.make("sha256sum", [path]))).slice(0, 64)
})

const inode = Effect.fn("inode")(function*(path: string) {
  const fs = yield* FileSystem.FileSystem
  return (yield* fs.stat(path)).ino
})

const reasonOf = (options: Runtime.InstallOptions) =>
  Effect.map(Effect.flip(Runtime.install(options)), ({ reason }) => reason)

layer(layerBackend, { excludeTestServices: true, timeout: "2 minutes" })("the runtime", (it) => {
  it.effect("is the first pair that is named, and each half says from where it comes", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const [empty, full, half] = [yield* temporaryDirectory, yield* temporaryDirectory, yield* temporaryDirectory]
      const pair = yield* linkedPair
      for (const folder of ["bin", "lib"]) yield* fs.symlink(path.join(npm, folder), path.join(full, folder))
      yield* fs.symlink(path.join(npm, "bin"), path.join(half, "bin"))
      const configured = Effect.fn("configured")(function*(paths: object) {
        const file = path.join(yield* temporaryDirectory, "config.json")
        yield* fs.writeFileString(file, JSON.stringify({ paths }))
        return { MSB_CONFIG_PATH: file }
      })
      const [msb, libkrunfw] = [path.join(pair, "msb"), path.join(pair, library)]
      type Row = readonly [home: string, env: Record<string, string>, expected: ReadonlyArray<string>]
      const withPackage: ReadonlyArray<Row> = [
        [empty, {}, ["package", files.msb, "package", files.libkrunfw]],
        [full, {}, ["package", files.msb, "package", files.libkrunfw]],
        [full, { MSB_PATH: msb }, ["environment", msb, "beside", libkrunfw]],
        [full, { MSB_PATH: files.msb }, ["environment", files.msb, "beside", `${npm}/bin/../lib/${library}`]],
        [full, { MSB_LIBKRUNFW_PATH: libkrunfw }, ["RuntimeIncomplete"]],
        [full, { MSB_PATH: "/no/such/msb" }, ["RuntimeIncomplete"]]
      ]
      const withoutPackage: ReadonlyArray<Row> = [
        [full, { MSB_PATH: msb, MSB_LIBKRUNFW_PATH: files.libkrunfw }, [
          "environment",
          msb,
          "environment",
          files.libkrunfw
        ]],
        [full, yield* configured({ msb }), ["configuration", msb, "beside", libkrunfw]],
        [full, yield* configured({ msb, libkrunfw: files.libkrunfw }), [
          "configuration",
          msb,
          "configuration",
          files.libkrunfw
        ]],
        [full, {}, ["home", `${full}/bin/msb`, "home", `${full}/lib/${library}`]],
        [empty, {}, ["RuntimeNotInstalled"]],
        [half, {}, ["RuntimeIncomplete"]]
      ]
      for (const [rows, checkout] of [[withPackage, "."], [withoutPackage, yield* checkoutWithoutRuntime]] as const) {
        const answers = yield* ask(rows.map(([home, env]) => ({ what: "resolve", home, env })), checkout)
        const found = answers.map(({ reason, value }) =>
          value === undefined
            ? [reason?._tag]
            : [value.msb.origin, value.msb.path, value.libkrunfw.origin, value.libkrunfw.path]
        )
        assert.deepStrictEqual(found, rows.map(([, , expected]) => [...expected]))
        for (const { value } of answers) assert.strictEqual(value?.msb.version ?? Runtime.version, Runtime.version)
      }
    }))

  it.effect("is installed when a boot would find it whole and of the right version", () =>
    Effect.gen(function*() {
      assert.isTrue(yield* Runtime.installed)
      assert.strictEqual(Runtime.version, "0.7.2")
      const home = yield* temporaryDirectory
      const envs = [
        { MSB_PATH: "/no/such/msb" },
        { MSB_PATH: `${yield* otherPair}/msb` },
        // What is no executable has no version.
        { MSB_PATH: "/etc/passwd", MSB_LIBKRUNFW_PATH: "/etc/passwd" },
        { MSB_PATH: `${yield* linkedPair}/msb` }
      ]
      const answers = yield* ask<boolean>(envs.map((env) => ({ what: "installed", home, env })))
      assert.deepStrictEqual(answers.map(({ value }) => value), [false, false, false, true])
    }))

  it.effect("is put into a home from npm, a directory or an archive, byte for byte, and is left as it is then", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const pair = yield* linkedPair
      const archives = yield* temporaryDirectory
      const [flat, deep] = [path.join(archives, "flat.tar.gz"), path.join(archives, "deep.tar.gz")]
      yield* run("tar -C \"$1\" -chf - msb libkrunfw.so.5.6.1 | gzip -1 > \"$2\"", pair, flat)
      yield* run("tar -C \"$1\" -cf - ./bin ./lib | gzip -1 > \"$2\"", npm, deep)
      const sources: ReadonlyArray<Runtime.Source> = [
        "npm",
        { directory: pair },
        { directory: npm },
        { archive: flat, sha256: (yield* sha256(flat)).toUpperCase() },
        { archive: deep }
      ]
      for (const from of sources) {
        const home = path.join(yield* temporaryDirectory, "new")
        const resolved = yield* Runtime.install({ from, home })
        const [msb, libkrunfw] = [path.join(home, "bin/msb"), path.join(home, "lib", library)]
        assert.deepStrictEqual({ ...resolved }, {
          msb: { path: msb, origin: "home", version: "0.7.2" },
          libkrunfw: { path: libkrunfw, origin: "home" }
        })
        assert.deepStrictEqual(yield* contents(home), whole, JSON.stringify(from))
        assert.deepStrictEqual(
          [yield* sha256(msb), yield* sha256(path.join(home, "lib/libkrunfw.so"))],
          [yield* sha256(files.msb), yield* sha256(files.libkrunfw)]
        )
        assert.strictEqual((yield* fs.stat(msb)).mode & 0o777, 0o755)
        const before = yield* inode(msb)
        yield* Runtime.install({ from, home })
        assert.deepStrictEqual(yield* inode(msb), before)
      }
    }))

  it.effect("is not mended in silence: half a pair and another version stay, unless it is forced", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const home = yield* temporaryDirectory
      yield* Runtime.install({ home })
      const before = yield* inode(`${home}/bin/msb`)
      yield* Runtime.install({ home, force: true })
      assert.notDeepEqual(yield* inode(`${home}/bin/msb`), before)
      assert.deepStrictEqual(yield* contents(home), whole)
      yield* fs.remove(`${home}/bin/msb`)
      const left = whole.filter((entry) => entry !== "bin/msb")
      // What an installation that was killed had begun.
      yield* fs.makeDirectory(`${home}/.runtime-stage-dead`)
      assert.strictEqual((yield* reasonOf({ home }))._tag, "RuntimeIncomplete")
      assert.deepStrictEqual(yield* contents(home), left)
      yield* Runtime.install({ home, force: true })
      assert.deepStrictEqual(yield* contents(home), whole)

      const other = yield* otherPair
      const mismatch = yield* reasonOf({ home, from: { directory: other }, force: true })
      assert.deepStrictEqual(
        mismatch._tag === "RuntimeVersionMismatch" && [mismatch.expected, mismatch.actual, mismatch.path],
        ["0.7.2", "0.7.9", `${other}/msb`]
      )
      assert.strictEqual(yield* sha256(`${home}/bin/msb`), yield* sha256(files.msb))
      yield* fs.copyFile(`${other}/msb`, `${home}/bin/msb`)
      const there = yield* reasonOf({ home })
      assert.strictEqual(there._tag === "RuntimeVersionMismatch" && there.path, `${home}/bin/msb`)
      yield* Runtime.install({ home, force: true })
      assert.strictEqual(yield* sha256(`${home}/bin/msb`), yield* sha256(files.msb))
      assert.deepStrictEqual(yield* contents(home), whole)
    }))

  it.effect("is not taken from what is no pair, and then nothing is there", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      const source = yield* temporaryDirectory
      const at = (name: string) => path.join(source, name)
      // Small files by the right names are enough for an archive that is refused before its end.
      yield* run(
        `cd "$1"
        mkdir pair; echo msb > pair/msb; echo lib > pair/${library}; echo more > pair/more; mkfifo fifo
        tar -C pair -czf text.tar.gz msb ${library}
        tar -C pair -czf half.tar.gz msb
        tar -C pair -czf more.tar.gz msb ${library} more
        tar -C pair -czf twice.tar.gz --hard-dereference msb ${library} msb
        tar -C pair -czPf above.tar.gz --transform 's,^msb,../msb,' ${library} msb
        tar -C pair -czPf absolute.tar.gz --transform 's,^msb,/tmp/msb,' ${library} msb
        mkdir linked; ln -s /etc/passwd linked/msb; cp pair/${library} linked
        tar -C linked -czf link.tar.gz msb ${library}
        tar -C pair -cf plain.tar.gz msb ${library}
        tar -C "$2" -cf - bin lib | gzip -1 > whole; head -c 1000000 whole > cut.tar.gz
        head -c 100 text.tar.gz > cutearly.tar.gz; head -c -6 text.tar.gz > cutlate.tar.gz
        mkdir large; cp pair/* large; truncate -s 257M large/msb
        tar -C large -cf - msb ${library} | gzip -1 > large.tar.gz
        : > empty.tar.gz`,
        source,
        npm
      )
      const archive = (name: string): Runtime.Source => ({ archive: at(`${name}.tar.gz`) })
      const rows: ReadonlyArray<readonly [Runtime.Source, MicrosandboxError.Reason["_tag"], string]> = [
        [archive("text"), "RuntimeVersionMismatch", "unknown"],
        [archive("half"), "RuntimeIncomplete", library],
        [archive("more"), "RuntimeArchiveInvalid", "more"],
        [archive("twice"), "RuntimeArchiveInvalid", "more than the two files"],
        [archive("above"), "RuntimeArchiveInvalid", "../msb"],
        [archive("absolute"), "RuntimeArchiveInvalid", "/tmp/msb"],
        [archive("link"), "RuntimeArchiveInvalid", "msb"],
        [archive("plain"), "RuntimeArchiveInvalid", "plain.tar.gz"],
        [archive("cut"), "RuntimeArchiveInvalid", "cut.tar.gz"],
        [archive("cutearly"), "RuntimeArchiveInvalid", "cutearly.tar.gz"],
        [archive("cutlate"), "RuntimeArchiveInvalid", "cutlate.tar.gz"],
        [archive("empty"), "RuntimeArchiveInvalid", "empty.tar.gz"],
        // It has some megabytes, and unfolds to more than a pair ever has.
        [archive("large"), "RuntimeArchiveInvalid", "too large"],
        [{ directory: at("large") }, "HostIo", "too large"],
        [{ archive: at("text.tar.gz"), sha256: "0".repeat(64) }, "RuntimeArchiveInvalid", "SHA-256"],
        [{ archive: at("fifo") }, "RuntimeArchiveInvalid", "no file"],
        [archive("missing"), "HostIo", "missing"],
        [{ directory: at("missing") }, "HostIo", "missing"],
        [{ directory: at("fifo") }, "HostIo", "fifo"],
        [{ directory: source }, "RuntimeIncomplete", library],
        [{ directory: at("pair") }, "RuntimeVersionMismatch", "unknown"]
      ]
      const home = yield* temporaryDirectory
      for (const [from, tag, part] of rows) {
        const reason = yield* reasonOf({ from, home })
        assert.strictEqual(reason._tag, tag, `${JSON.stringify(from)}: ${reason.message}`)
        assert.include(reason.message, part)
        assert.deepStrictEqual(yield* contents(home), [], JSON.stringify(from))
      }
      for (
        const [field, options] of [
          ["from", { from: "web" }],
          ["from", { from: {} }],
          ["from", { from: { archive: "a", directory: "b" } }],
          ["from.sha256", { from: { directory: "a", sha256: "0".repeat(64) } }],
          ["from.archive", { from: { archive: "" } }],
          ["from.directory", { from: { directory: 1 } }],
          ["from.sha256", { from: { archive: "a", sha256: "12" } }],
          ["home", { home: "" }],
          ["version", { version: "1" }]
        ] as const
      ) {
        const reason = yield* reasonOf(options as Runtime.InstallOptions)
        assert.strictEqual(reason._tag === "InvalidConfig" ? reason.field : reason, field)
      }
      const unwritable = yield* reasonOf({ home: `${at("pair/msb")}/home` })
      assert.strictEqual(unwritable._tag, "HomeNotWritable")
    }))

  it.effect("is there whole or not at all when its installation is interrupted", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const spawner = yield* ChildProcessSpawner
      const home = yield* temporaryDirectory
      // Another process is at it.
      yield* Effect.scoped(Effect.gen(function*() {
        const lock = ["-x", `${home}/.runtime-install.lock`, "sh", "-c", "echo locked; exec sleep 600"]
        const other = yield* spawner.spawn(ChildProcess.make("flock", lock))
        yield* Stream.runHead(other.stdout)
        const waiting = yield* Effect.forkChild(Runtime.install({ home }))
        yield* Effect.sleep("200 millis")
        assert.isUndefined(waiting.pollUnsafe())
        yield* Fiber.interrupt(waiting)
      }))
      assert.deepStrictEqual(yield* contents(home), [])
      for (const millis of [0, 5, 10, 20, 40, 80, 160]) {
        const fiber = yield* Effect.forkChild(Runtime.install({ home }))
        yield* Effect.sleep(millis)
        yield* Fiber.interrupt(fiber)
        const found = yield* contents(home)
        if (found.length > 0) {
          assert.deepStrictEqual(found, whole)
          assert.strictEqual(yield* sha256(`${home}/bin/msb`), yield* sha256(files.msb))
        }
        for (const folder of ["bin", "lib"]) yield* fs.remove(`${home}/${folder}`, { recursive: true, force: true })
      }
    }))

  it.effect("is ensured: put there when there is none at all, and told when it cannot be launched", () =>
    Effect.gen(function*() {
      const [home, pair] = [yield* temporaryDirectory, yield* linkedPair]
      const question = { what: "ensure", home, directory: pair } as const
      const [nowhere, put, found, unasked, other, half] = yield* ask([
        // The npm package is what it would take it from.
        { what: "ensure", home },
        question,
        question,
        // The source is not even looked at.
        { ...question, directory: "/no/such/pair" },
        { ...question, env: { MSB_PATH: `${yield* otherPair}/msb` } },
        { ...question, env: { MSB_PATH: "/no/such/msb" } }
      ], yield* checkoutWithoutRuntime)
      assert.strictEqual(nowhere?.reason?._tag, "RuntimeNotInstalled")
      for (const answer of [put, found, unasked]) {
        assert.deepStrictEqual(
          [answer?.value?.msb.path, answer?.value?.libkrunfw.origin, answer?.reason],
          [`${home}/bin/msb`, "home", undefined]
        )
      }
      assert.deepStrictEqual([other?.reason?._tag, half?.reason?._tag], [
        "RuntimeVersionMismatch",
        "RuntimeIncomplete"
      ])
      assert.strictEqual((yield* Runtime.ensure()).msb.path, files.msb)
    }))

  it.effect("needs no newer glibc than the doctor says", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      // A third number, as in 2.2.5, has not been for long.
      const number = (version: string) => Number(version.split(".")[1])
      for (const file of [files.msb, files.libkrunfw]) {
        const text = Buffer.from(yield* fs.readFile(file)).toString("latin1")
        const versions = [...text.matchAll(/GLIBC_(2\.\d+)[.\d]*\0/g)].map(([, version = ""]) => version)
        assert.isAbove(versions.length, 0)
        for (const version of versions) assert.isAtMost(number(version), number(requiredGlibc), file)
        if (file === files.msb) assert.include(versions, requiredGlibc)
      }
    }))
})

const byCheck = (report: Runtime.Report) => new Map(report.findings.map((finding) => [finding.check, finding]))

layer(layerBackend, { excludeTestServices: true })("the doctor", (it) => {
  it.effect("says of this machine what is so, and whether a VM would be worth a try", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const { home } = yield* Backend.Local
      const cpuinfo = yield* fs.readFileString("/proc/cpuinfo")
      const flag = /^flags.*\b(vmx|svm)\b/m.exec(cpuinfo)?.[1]
      const before = yield* contents(home)
      const report = yield* Runtime.doctor({ home, probe: false })
      assert.deepStrictEqual(yield* contents(home), before)
      const found = byCheck(report)
      const cpu = found.get("cpu-virtualization")
      assert.deepStrictEqual(
        [cpu?.status, cpu?.fix !== undefined],
        flag === undefined ? ["failed", true] : ["ok", false]
      )
      for (
        const check of [
          "addon",
          "runtime",
          "runtime-version",
          "runtime-start",
          "glibc",
          "path-length",
          "home",
          "xattrs"
        ]
      ) {
        const finding = found.get(check as Runtime.Finding["check"])
        assert.strictEqual(finding?.status, "ok", JSON.stringify(finding?.message))
      }
      const disk = found.get("disk-space")
      assert.isTrue(disk?.check === "disk-space" && disk.available !== undefined && disk.available > 0n)
      assert.strictEqual(found.get("boot")?.status, "skipped")
      if (flag === undefined) {
        assert.isFalse(report.healthy)
        const probed = byCheck(yield* Runtime.doctor({ home })).get("boot")
        assert.strictEqual(probed?.status, "skipped")
        assert.include(probed?.message, "cpu-virtualization")
        assert.deepStrictEqual(yield* contents(home), before)
      }
    }))

  it.effect("needs no home, and says what one could not be", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryDirectory
      yield* fs.writeFileString(`${directory}/file`, "")
      const rows = [
        [`${directory}/a/b`, []],
        [`${directory}/${"x".repeat(100)}`, ["path-length"]],
        [`${directory}/file/h`, ["home"]],
        ["/proc/h", ["home"]]
      ] as const
      for (const [home, expected] of rows) {
        const found = byCheck(yield* Runtime.doctor({ home, probe: false }))
        const failed = (["path-length", "home", "xattrs"] as const).filter((check) =>
          found.get(check)?.status === "failed"
        )
        assert.deepStrictEqual(failed, [...expected], home)
      }
      assert.deepStrictEqual(yield* fs.readDirectory(directory), ["file"])
      const { reason } = yield* Effect.flip(Runtime.doctor({ home: "" }))
      assert.strictEqual(reason._tag === "InvalidConfig" ? reason.field : reason, "home")
    }))

  it.effect("needs no addon, and says that there is none", () =>
    Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const checkout = yield* checkoutWithoutRuntime
      yield* fs.remove(`${checkout}/packages/native/binding`, { recursive: true })
      const home = yield* temporaryDirectory
      const [answer] = yield* ask<Runtime.Report>([{ what: "doctor", home }], checkout)
      const found = new Map(answer?.value?.findings.map(({ check, status }) => [check, status]))
      assert.deepStrictEqual(
        (["addon", "glibc", "runtime", "xattrs", "boot"] as const).map((check) => found.get(check)),
        ["failed", "ok", "skipped", "skipped", "skipped"]
      )
      assert.deepStrictEqual(yield* fs.readDirectory(home), [])
    }))

  it.effect("has its findings in the error of a boot that they explain", () =>
    Effect.gen(function*() {
      const [home, root] = [yield* temporaryDirectory, yield* temporaryDirectory]
      const question: Question = { what: "make", home, directory: root }
      const questions = JSON.stringify([{ ...question, env: { MSB_PATH: "/no/such/msb" } }, question])
      // In a mount namespace of its own, where /dev has everything but the device.
      const spawner = yield* ChildProcessSpawner
      const script = `
        for name in null zero full random urandom tty; do : > "$1/$name"; mount --bind "/dev/$name" "$1/$name"; done
        for name in pts shm; do mkdir "$1/$name"; mount --rbind "/dev/$name" "$1/$name"; done
        mount --rbind "$1" /dev
        exec node test/support/programs/runtime.ts "$2"`
      const output = yield* spawner.string(
        ChildProcess.make("unshare", [
          "-rm",
          "sh",
          "-ec",
          script,
          "sh",
          yield* temporaryDirectory,
          questions
        ])
      )
      const [missing, { findings = [], message, reason } = {}] = JSON.parse(output) as ReadonlyArray<Answer<never>>
      assert.strictEqual(missing?.reason?._tag, "RuntimeIncomplete")
      assert.deepStrictEqual(missing?.findings?.map(({ check }) => check), ["runtime"])
      assert.strictEqual(reason?._tag, "BootStart")
      const device = findings.find(({ check }) => check === "kvm-device")
      assert.strictEqual(device?.status, "failed")
      assert.isTrue(findings.every(({ status }) => status === "failed"))
      assert.include(message, "there is no /dev/kvm")
    }))
})
