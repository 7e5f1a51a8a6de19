/**
 * A root file system for a guest, made of the machine's static busybox: enough for a shell and the usual commands, with
 * no registry and no download.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import * as Path from "effect/Path"
import type { PlatformError } from "effect/PlatformError"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"

/** There is no busybox that runs without the machine's libraries. The message says what to do. */
export class BusyboxMissing extends Data.TaggedError("BusyboxMissing")<{ readonly message: string }> {}

/** The static busybox of the machine: the first one in PATH. */
const findBusybox = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const spawner = yield* ChildProcessSpawner
  const candidates = (process.env.PATH ?? "").split(":").map((directory) => path.join(directory, "busybox"))
  const busybox = yield* Effect.findFirst(candidates, (candidate) => fs.exists(candidate))
  const advice = "install Debian's busybox-static (apt-get install busybox-static), or boot an image"
  if (Option.isNone(busybox)) return yield* new BusyboxMissing({ message: `there is no busybox in PATH: ${advice}` })
  // `libc.so.6 => /lib/…`, as test/host/install.sh has it.
  if ((yield* spawner.string(ChildProcess.make("ldd", [busybox.value]))).includes("=>")) {
    return yield* new BusyboxMissing({ message: `${busybox.value} is not static: ${advice}` })
  }
  return busybox.value
})

const directories = ["bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin", "var"]

/** The engine resolves the guest's users in these. */
const files = {
  "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
  "etc/group": "root:x:0:\nnogroup:x:65534:\n",
  "etc/hostname": "sandbox\n"
}

/** Fills `root`, which may exist, and answers with its path. */
export const make = Effect.fn("Rootfs.make")(function*(
  root: string
): Effect.fn.Return<
  string,
  BusyboxMissing | PlatformError,
  FileSystem.FileSystem | Path.Path | ChildProcessSpawner
> {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const busybox = yield* findBusybox
  yield* fs.makeDirectory(root, { recursive: true })
  // A temporary directory is closed to others; the guest's users must be able to enter their root.
  yield* fs.chmod(root, 0o755)
  for (const directory of directories) {
    yield* fs.makeDirectory(path.join(root, directory), { recursive: true })
  }
  for (const [file, content] of Object.entries(files)) {
    yield* fs.writeFileString(path.join(root, file), content)
  }
  yield* fs.copyFile(busybox, path.join(root, "bin/busybox"))
  const spawner = yield* ChildProcessSpawner
  const applets = yield* spawner.lines(ChildProcess.make(busybox, ["--list"]))
  yield* Effect.forEach(
    applets.filter((applet) => applet !== "busybox"),
    (applet) => fs.symlink("/bin/busybox", path.join(root, "bin", applet)),
    { discard: true }
  )
  return root
})
