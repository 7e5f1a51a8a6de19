/** What a span may say of an operation. */
import { assert, describe, it } from "@effect/vitest"
import { executable, withoutCredentials } from "../../packages/core/src/internal/operation.ts"

const digest = `sha256:${"0".repeat(64)}`

describe("a span", () => {
  it("names an image without what could be a password", () => {
    const images = [
      ["alpine", "alpine"],
      ["alpine:3.22", "alpine:3.22"],
      [`alpine@${digest}`, `alpine@${digest}`],
      [`registry.example:5000/a/b:c@${digest}`, `registry.example:5000/a/b:c@${digest}`],
      ["user:secret@registry.example/a", "registry.example/a"],
      ["https://user:secret@registry.example/a", "registry.example/a"],
      [`user:s@cret/x@registry.example/a@${digest}`, `registry.example/a@${digest}`],
      ["user:secret\n@registry.example/a", "registry.example/a"],
      ["/srv/a@b/root", "/srv/a@b/root"],
      ["./a@b", "./a@b"],
      ["../a@b", "../a@b"]
    ] as const
    for (const [image, named] of images) assert.strictEqual(withoutCredentials(image), named, image)
  })

  it("names a program without its directory", () => {
    for (const command of ["sh", "/bin/sh", "./sh", "a/b/sh"]) assert.strictEqual(executable(command), "sh", command)
  })
})
