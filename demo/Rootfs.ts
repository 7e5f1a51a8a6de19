/**
 * A root file system for a guest, made of the machine's static busybox: enough for a shell and the usual commands, with
 * no registry and no download.
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Path from "effect/Path"
import type { PlatformError } from "effect/PlatformError"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"

/** Where Debian's busybox-static puts it. */
const busybox = "/bin/busybox"

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
  PlatformError,
  FileSystem.FileSystem | Path.Path | ChildProcessSpawner
> {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
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
