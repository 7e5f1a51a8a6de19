/** Paths of a guest: POSIX, whatever the host is, and relative to the guest's working directory. */
import * as Effect from "effect/Effect"
import * as Path from "effect/Path"

const posix = Effect.runSync(Effect.provide(Path.Path, Path.layer))

export const makePath = (workdir: string): Path.Path => {
  const directory = workdir.startsWith("/") ? workdir : `/${workdir}`
  const resolve: Path.Path["resolve"] = (...segments) => posix.resolve(directory, ...segments)
  return Path.make({
    ...posix,
    resolve,
    relative: (from, to) => posix.relative(resolve(from), resolve(to)),
    toFileUrl: (path) => posix.toFileUrl(/[^/]\/+$/.test(path) ? `${resolve(path)}/` : resolve(path))
  })
}
