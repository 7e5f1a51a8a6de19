/**
 * The files of an SSH server as Effect's `FileSystem`, over SFTP.
 *
 * **Details**
 *
 * The protocol is version 3, which OpenSSH and everybody else speaks, with those of OpenSSH's extensions that the server has:
 * renames that replace (`posix-rename`), hard links, `fsync`, copies on the server (`copy-data`), and its limits. Reads and
 * writes keep many requests under way, so that a distant server is no slower than its line.
 *
 * **Gotchas**
 *
 * What the protocol or the server cannot do is an error, with `EOPNOTSUPP` in its cause, and never a wrong success: hard links
 * and `sync` without the extension, whether a directory may be written (`access`), a time before 1970, and a FIFO or a
 * terminal, which would stop the server. Times are whole seconds. The server's umask counts for new files.
 * A change is watched for by looking every 250 milliseconds, and there are no inodes.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type { MicrosandboxError } from "@effect-microsandbox/core"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import * as Path from "effect/Path"
import type * as Scope from "effect/Scope"
import * as internal from "./internal/sshClient.ts"
import { SshClient } from "./SshClient.ts"

/**
 * The files of a server.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Sftp {
  readonly fs: FileSystem.FileSystem
  /** The server's paths, relative to {@link Sftp.home}. */
  readonly path: Path.Path
  /** Where the server begins: what a path that does not begin with `/` is relative to. */
  readonly home: string
  /** The names of the extensions that the server has, such as `hardlink@openssh.com`. */
  readonly extensions: ReadonlyArray<string>
}

/**
 * Starts SFTP with a server, until the scope closes.
 *
 * Fails with `SshRequestRefused` when the server has no SFTP.
 *
 * **Example** (A file of a server)
 *
 * ```ts
 * import { Sftp, type SshClient } from "@effect-microsandbox/ssh"
 * import { Effect } from "effect"
 *
 * const backup = Effect.fn("backup")(function*(client: SshClient.SshClient) {
 *   const { fs } = yield* Sftp.make(client)
 *   yield* fs.copyFile("settings.json", "settings.json.bak")
 * }, Effect.scoped)
 * ```
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const make: (
  client: SshClient
) => Effect.Effect<Sftp, MicrosandboxError.MicrosandboxError, Scope.Scope> = internal.sftp

/**
 * The files and the paths of the server of the one client of a program, as the program's own.
 *
 * @stability unstable
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<FileSystem.FileSystem | Path.Path, MicrosandboxError.MicrosandboxError, SshClient> =
  Layer.effectContext(
    Effect.map(
      Effect.flatMap(SshClient, make),
      ({ fs, path }) => Context.make(FileSystem.FileSystem, fs).pipe(Context.add(Path.Path, path))
    )
  )
