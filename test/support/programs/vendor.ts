/**
 * The vendor's own binding of the engine, as a client of a control plane: it does one thing after another, and prints what came
 * of each as one JSON object in a line.
 *
 *     vendor.ts <url>
 *
 * The key is in `MSB_API_KEY`. The binding comes with the runtime's package, of the same version. Its backend is one for the
 * whole process, which is why it has one of its own.
 */
import { createRequire } from "node:module"

const platform = `${process.platform}-${process.arch}-gnu`
const binding = createRequire(import.meta.url)(
  `@superradcompany/microsandbox-${platform}/microsandbox.${platform}.node`
)

const [url = ""] = process.argv.slice(2)
const { MSB_API_KEY: key = "" } = process.env
binding.setDefaultBackend("cloud", url, key)

const tell = async (what: string, run: () => Promise<unknown>): Promise<void> => {
  const result = await run().then(
    (value) => ({ what, value: value ?? null }),
    (error: Error) => ({ what, error: error.message })
  )
  process.stdout.write(`${JSON.stringify(result)}\n`)
}

const sandbox = await new binding.SandboxBuilder("box").image("alpine").env("A", "1").create()
await tell("exec", async () => {
  const output = await sandbox.exec("say", ["out", "err", "3"])
  return [String(output.code), output.stdout(), output.stderr()]
})
const files = sandbox.fs()
const bytes = Buffer.alloc(9 << 20, 7)
await files.mkdir("/d")
await files.write("/d/large", bytes)
await tell("read", async () => bytes.equals(await files.read("/d/large")))
await files.copy("/d/large", "/d/copy")
await files.rename("/d/copy", "/d/moved")
await tell("list", async () => (await files.list("/d")).map(({ path }: { path: string }) => path).sort())
await files.remove("/d/moved")
await tell("exists", () => files.exists("/d/moved"))

await new binding.VolumeBuilder("data").quota(2048).create()
const volume = (await binding.Volume.get("data")).fs()
await volume.mkdir("/a")
await volume.write("/a/one", Buffer.from("one"))
await volume.copy("/a/one", "/a/two")
await volume.rename("/a/two", "/a/three")
await tell("volume read", async () => String(await volume.read("/a/three")))
await tell("volume stat", async () => (await volume.stat("/a/three")).size)
await tell("volume list", async () => (await volume.list("/a")).map(({ path }: { path: string }) => path).sort())
await volume.removeDir("/a")
await tell("volume exists", () => volume.exists("/a"))
await tell("volumes", async () => (await binding.Volume.list()).length)
await binding.Volume.remove("data")

const made = await new binding.SnapshotBuilder("base").fromSandbox("box").label("of", "test").create()
await tell("snapshot", async () => (await binding.Snapshot.get("base")).digest === made.digest)
const hosted = await new binding.SnapshotBuilder("hosted").fromSandbox("box").destDir("snapshots").create()
await tell("hosted snapshot", async () => (await binding.Snapshot.open("snapshots/hosted")).digest === hosted.digest)
await tell("snapshots", async () => (await binding.Snapshot.list()).length)
await binding.Snapshot.remove("base")

const log = await sandbox.logStream({ follow: true })
process.stdout.write(`${JSON.stringify({ what: "following" })}\n`)
await tell("log", async () => {
  const texts: Array<string> = []
  for (let entry = await log.recv(); entry !== null; entry = await log.recv()) texts.push(String(entry.data))
  return texts
})
await binding.Sandbox.start("box")
await sandbox.stop()
await binding.Sandbox.remove("box")
await tell("gone", () => binding.Sandbox.get("box"))
// It would wait for the engine's threads.
process.exit(0)
