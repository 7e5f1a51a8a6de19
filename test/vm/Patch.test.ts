/** Patches of a root file system, as the guest sees them. */
import { Patch, Sandbox } from "@effect-microsandbox/core"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Layer } from "effect"
import * as Registry from "../support/Registry.ts"
import { layerBackend, rootDirectory, temporaryDirectory } from "../support/Sandboxes.ts"

layer(layerBackend.pipe(Layer.provideMerge(Registry.layer)), { timeout: "10 minutes", excludeTestServices: true })(
  "patches",
  (it) => {
    it.effect("change the root before the first boot, in their order, and not the image", () =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const registry = yield* Registry.Registry
        const image = yield* registry.push("patched", yield* rootDirectory)
        const here = yield* temporaryDirectory
        yield* fs.makeDirectory(`${here}/tree/below`, { recursive: true })
        yield* fs.writeFileString(`${here}/tree/below/leaf`, "leaf\n", { mode: 0o640 })
        const bytes = Uint8Array.from({ length: 256 }, (_, index) => index)
        const look =
          "cat /etc/motd; tail -n 2 /etc/passwd; stat -c '%a %u' /etc/motd /srv/copy /srv/deep/er /srv/tree/below/leaf; " +
          "md5sum < /srv/bytes; cat /srv/copy /srv/tree/below/leaf; readlink /srv/link; ls /etc/group 2>/dev/null || echo gone"
        const sandbox = yield* Sandbox.make({
          image,
          patches: [
            Patch.text("/etc/motd", "hello\n", { mode: 0o600 }),
            Patch.file("/srv/bytes", bytes),
            Patch.copyFile(`${here}/tree/below/leaf`, "/srv/copy", { mode: 0o755 }),
            Patch.copyDirectory(`${here}/tree`, "/srv/tree"),
            Patch.symlink("/etc/motd", "/srv/link"),
            Patch.makeDirectory("/srv/deep/er", { mode: 0o700 }),
            Patch.remove("/etc/group"),
            Patch.append("/etc/passwd", "guest:x:1000:1000::/:/bin/sh\n"),
            Patch.text("/etc/motd", "hello again\n", { mode: 0o604, replace: true })
          ]
        })
        const { stdout } = yield* sandbox.shell(look)
        assert.deepStrictEqual(stdout.trim().split("\n"), [
          "hello again",
          "nobody:x:65534:65534:nobody:/:/bin/false",
          "guest:x:1000:1000::/:/bin/sh",
          "604 0",
          "755 0",
          "700 0",
          "640 0",
          "e2c865db4162bed963bfaa9ef6ac18f0  -",
          "leaf",
          "leaf",
          "/etc/motd",
          "gone"
        ])
        const plain = yield* Sandbox.make({ image })
        assert.strictEqual(
          (yield* plain.shell("grep -c . /etc/passwd; ls /srv /etc/motd /etc/group 2>/dev/null")).stdout,
          "2\n/etc/group\n"
        )
      }))
  }
)
