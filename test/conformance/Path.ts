/** What a `Path` of a POSIX system does: the same cases for this machine and for a guest. */
import { assert, type Vitest } from "@effect/vitest"
import { Effect, Option, Path } from "effect"

/** Cases whose answer is in the text alone. */
const pure = (path: Path.Path): ReadonlyArray<readonly [actual: unknown, expected: unknown]> => [
  [path.sep, "/"],
  [path.basename("/a/b.txt"), "b.txt"],
  [path.basename("/a/b.txt", ".txt"), "b"],
  [path.basename("/a/b/"), "b"],
  [path.basename(""), ""],
  [path.dirname("/a/b"), "/a"],
  [path.dirname("/a"), "/"],
  [path.dirname("a"), "."],
  [path.extname("a.b.c"), ".c"],
  [path.extname(".profile"), ""],
  [path.extname("a."), "."],
  [path.isAbsolute("/a"), true],
  [path.isAbsolute("a"), false],
  [path.isAbsolute("C:\\a"), false],
  [path.join("/a", "../b", "./c", ""), "/b/c"],
  [path.join(""), "."],
  [path.join("a", "/b"), "a/b"],
  [path.normalize("/a//b/./c/.."), "/a/b"],
  [path.normalize("../a/../../b/"), "../../b/"],
  [path.normalize(""), "."],
  [path.parse("/a/b.c.d"), { root: "/", dir: "/a", base: "b.c.d", ext: ".d", name: "b.c" }],
  [path.parse("b"), { root: "", dir: "", base: "b", ext: "", name: "b" }],
  [path.format({ dir: "/a", name: "b", ext: ".c" }), "/a/b.c"],
  [path.format({ root: "/", base: "b" }), "/b"],
  [path.relative("/a/b/c", "/a/d"), "../../d"],
  [path.relative("/a", "/a"), ""],
  [path.relative("/", "/a/b"), "a/b"],
  [path.resolve("/a", "b", "../c"), "/a/c"],
  [path.resolve("/a", "/b"), "/b"],
  [path.resolve("/a/"), "/a"],
  [path.toNamespacedPath("/a"), "/a"]
]

export const path = (it: Vitest.MethodsNonLive<Path.Path>, directory: Effect.Effect<string, never, never>): void => {
  it.effect("answers what is in the text", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      for (const [index, [actual, expected]] of pure(path).entries()) {
        assert.deepStrictEqual(actual, expected, `case ${index}`)
      }
    }))

  it.effect("resolves what is relative against the working directory", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      const working = yield* directory
      assert.strictEqual(path.resolve(), working)
      assert.strictEqual(path.resolve(""), working)
      assert.strictEqual(path.resolve("a", "../b"), path.join(working, "b"))
      assert.strictEqual(path.relative("a", "b"), "../b")
      assert.strictEqual(path.relative(working, "a"), "a")
    }))

  it.effect("joins what it has parsed", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      for (const text of ["/a/b.c", "a/b", "/", "a", "../x.tar.gz", ".hidden"]) {
        assert.strictEqual(path.format(path.parse(text)), text)
      }
    }))

  it.effect("normalizes once and for all", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      for (const text of ["", ".", "..", "a//b", "/../a", "a/../..", "./a/", "/a/./b/../../c"]) {
        assert.strictEqual(path.normalize(path.normalize(text)), path.normalize(text))
      }
    }))

  it.effect("goes from one path to another by the relative one", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      const paths = ["/", "/a", "/a/b", "/a/bc", "/x/y/z"]
      for (const from of paths) {
        for (const to of paths) assert.strictEqual(path.resolve(from, path.relative(from, to)), to)
      }
    }))

  it.effect("keeps what is within a root, and nothing else", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      assert.deepStrictEqual(path.resolveWithin("/base", "a/../b"), Option.some("/base/b"))
      for (const out of ["../x", "/etc", "a/../../x"]) {
        assert.isTrue(Option.isNone(path.resolveWithin("/base", out)), out)
      }
    }))

  it.effect("turns a path into a URL and back, whatever it holds", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      for (const text of ["/", "/a b", "/ü/%41", "/a?b#c", "/a/b/"]) {
        assert.strictEqual(yield* path.fromFileUrl(yield* path.toFileUrl(text)), text)
      }
      assert.strictEqual((yield* path.toFileUrl("/a b")).href, "file:///a%20b")
    }))

  it.effect("turns a relative path into the URL of what it means", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      assert.strictEqual(
        yield* path.fromFileUrl(yield* path.toFileUrl("a")),
        path.join(yield* directory, "a")
      )
    }))

  it.effect("refuses a URL that is no path", () =>
    Effect.gen(function*() {
      const path = yield* Path.Path
      for (const url of ["https://example.com/a", "file:///a%2Fb"]) {
        const error = yield* Effect.flip(path.fromFileUrl(new URL(url)))
        assert.strictEqual(error._tag, "BadArgument")
      }
    }))
}
