/**
 * The one error of this SDK, and every reason that it can have.
 *
 * `MicrosandboxError` says which operation failed on which sandbox; its `reason` says why, as data. Recover from one
 * reason with `Effect.catchReason("MicrosandboxError", "SandboxNotFound", …)`, from several with `Effect.catchReasons`,
 * or flatten them into the error channel with `Effect.unwrapReason("MicrosandboxError")`.
 *
 * The reasons mirror `Failure` in packages/native/rust/failure.rs, which mirrors the engine's own error type
 * (`lib/error.rs` of the crate, 0.7.2). Nothing is read out of a message on this side.
 *
 * @stability unstable
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { Finding } from "./internal/finding.ts"
import { hints } from "./internal/hints.ts"

const text = { message: Schema.String }

// -----------------------------------------------------------------------------
// The engine's own variants
// -----------------------------------------------------------------------------

/**
 * A host I/O operation failed.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class Io extends Schema.TaggedError<Io>()("Io", {
  ...text,
  kind: Schema.String,
  errno: Schema.optionalKey(Schema.Int)
}) {}

/**
 * An HTTP request of the engine failed in transport.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class Http extends Schema.TaggedError<Http>()("Http", {
  ...text,
  status: Schema.optionalKey(Schema.Int),
  timeout: Schema.Boolean,
  connect: Schema.Boolean
}) {}

/**
 * The cloud control plane answered with a status that has no reason of its own.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class CloudHttp extends Schema.TaggedError<CloudHttp>()("CloudHttp", {
  ...text,
  status: Schema.Int,
  code: Schema.optionalKey(Schema.String)
}) {}

/**
 * The guest kernel library is missing.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class LibkrunfwNotFound extends Schema.TaggedError<LibkrunfwNotFound>()("LibkrunfwNotFound", text) {}

/**
 * No msb and libkrunfw pair was found.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class RuntimeNotInstalled extends Schema.TaggedError<RuntimeNotInstalled>()("RuntimeNotInstalled", text) {}

/**
 * One half of the runtime pair is missing.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class RuntimeIncomplete extends Schema.TaggedError<RuntimeIncomplete>()("RuntimeIncomplete", text) {}

/**
 * The engine's catalogue (SQLite) failed.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class Database extends Schema.TaggedError<Database>()("Database", text) {}

/**
 * An option was refused; `field` names it where it is known.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class InvalidConfig extends Schema.TaggedError<InvalidConfig>()("InvalidConfig", {
  ...text,
  field: Schema.optionalKey(Schema.String)
}) {}

/**
 * The image has no entrypoint or command to run.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class NoDefaultCommand extends Schema.TaggedError<NoDefaultCommand>()("NoDefaultCommand", text) {}

/**
 * No sandbox has this name.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SandboxNotFound extends Schema.TaggedError<SandboxNotFound>()("SandboxNotFound", {
  ...text,
  sandbox: Schema.String
}) {}

/**
 * The name is taken, by a sandbox that runs or by one that has stopped.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SandboxAlreadyExists extends Schema.TaggedError<SandboxAlreadyExists>()("SandboxAlreadyExists", {
  ...text,
  sandbox: Schema.String
}) {}

/**
 * The name now means another sandbox than this handle's.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SandboxReplaced extends Schema.TaggedError<SandboxReplaced>()("SandboxReplaced", {
  ...text,
  sandbox: Schema.String,
  expected: Schema.String,
  actual: Schema.String
}) {}

/**
 * The sandbox must be stopped for this.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SandboxStillRunning extends Schema.TaggedError<SandboxStillRunning>()("SandboxStillRunning", {
  ...text,
  sandbox: Schema.String
}) {}

/**
 * The sandbox must run for this.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SandboxNotRunning extends Schema.TaggedError<SandboxNotRunning>()("SandboxNotRunning", text) {}

/**
 * A stop did not finish in time. Declared by the engine; 0.7.2 answers `StopTimeout` instead.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SandboxStopTimedOut extends Schema.TaggedError<SandboxStopTimedOut>()("SandboxStopTimedOut", {
  ...text,
  sandbox: Schema.String,
  timeoutMs: Schema.Finite
}) {}

/**
 * The engine failed in a way that it only words.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class Runtime extends Schema.TaggedError<Runtime>()("Runtime", text) {}

/**
 * A graceful stop did not finish within its grace; nothing was killed.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class StopTimeout extends Schema.TaggedError<StopTimeout>()("StopTimeout", {
  ...text,
  sandbox: Schema.String,
  timeoutMs: Schema.Finite
}) {}

/**
 * The VM ended while it booted.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class BootStart extends Schema.TaggedError<BootStart>()("BootStart", {
  ...text,
  sandbox: Schema.String,
  stage: Schema.String,
  errno: Schema.optionalKey(Schema.Int)
}) {}

/**
 * A JSON document of the engine could not be read.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class Json extends Schema.TaggedError<Json>()("Json", text) {}

/**
 * The guest's agent sent what the protocol does not allow.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class Protocol extends Schema.TaggedError<Protocol>()("Protocol", text) {}

/**
 * The connection to the guest's agent failed; `kind` is the engine's variant, or the `Kind` of the module `Agent`.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class AgentClient extends Schema.TaggedError<AgentClient>()("AgentClient", {
  ...text,
  kind: Schema.String
}) {}

/**
 * A control request to the VM process failed; `delivery` says whether it may have arrived.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ControlClient extends Schema.TaggedError<ControlClient>()("ControlClient", {
  ...text,
  delivery: Schema.String
}) {}

/**
 * The VM changed while a live change was recorded; it may have been applied.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ControlStateChanged extends Schema.TaggedError<ControlStateChanged>()("ControlStateChanged", text) {}

/**
 * A batch of live secret changes stopped half way.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ControlSecretBatch extends Schema.TaggedError<ControlSecretBatch>()("ControlSecretBatch", {
  ...text,
  appliedCount: Schema.Int,
  failedIndex: Schema.Int
}) {}

/**
 * A system call failed.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class Nix extends Schema.TaggedError<Nix>()("Nix", {
  ...text,
  errno: Schema.Int
}) {}

/**
 * The program did not end in its time and was killed. `stdout` and `stderr` are what it had printed: the last 64 KiB of each.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ExecTimeout extends Schema.TaggedError<ExecTimeout>()("ExecTimeout", {
  ...text,
  timeoutMs: Schema.Finite,
  stdout: Schema.String,
  stderr: Schema.String
}) {}

/**
 * The program printed more than may be held of its output, and was killed. `stdout` and `stderr` are what it had printed: the
 * last 64 KiB of each.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class OutputOverflow extends Schema.TaggedError<OutputOverflow>()("OutputOverflow", {
  ...text,
  limitBytes: Schema.Finite,
  stdout: Schema.String,
  stderr: Schema.String
}) {}

/**
 * The program has closed its standard input, or has ended, and takes no more.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class StdinFailed extends Schema.TaggedError<StdinFailed>()("StdinFailed", {
  ...text,
  errno: Schema.optionalKey(Schema.Int)
}) {}

/**
 * The program could not be started in the guest; `kind` says why (NotFound, PermissionDenied, BadCwd, …).
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ExecFailed extends Schema.TaggedError<ExecFailed>()("ExecFailed", {
  ...text,
  kind: Schema.String,
  errno: Schema.optionalKey(Schema.Int),
  errnoName: Schema.optionalKey(Schema.String),
  stage: Schema.optionalKey(Schema.String)
}) {}

/**
 * A terminal operation failed.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class Terminal extends Schema.TaggedError<Terminal>()("Terminal", text) {}

/**
 * A file operation in the guest failed; `errno` is the guest's.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SandboxFsOps extends Schema.TaggedError<SandboxFsOps>()("SandboxFsOps", {
  ...text,
  errno: Schema.optionalKey(Schema.Int)
}) {}

/**
 * No such image: the registry, or the local cache, does not know the reference.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageNotFound extends Schema.TaggedError<ImageNotFound>()("ImageNotFound", {
  ...text,
  reference: Schema.String
}) {}

/**
 * Sandboxes still use the image.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageInUse extends Schema.TaggedError<ImageInUse>()("ImageInUse", text) {}

/**
 * No volume has this name.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class VolumeNotFound extends Schema.TaggedError<VolumeNotFound>()("VolumeNotFound", {
  ...text,
  volume: Schema.String
}) {}

/**
 * The volume's name is taken.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class VolumeAlreadyExists extends Schema.TaggedError<VolumeAlreadyExists>()("VolumeAlreadyExists", {
  ...text,
  volume: Schema.String
}) {}

/**
 * A sandbox that is not stopped has the volume mounted; `sandbox` is absent where the engine does not name it.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class VolumeInUse extends Schema.TaggedError<VolumeInUse>()("VolumeInUse", {
  ...text,
  volume: Schema.String,
  sandbox: Schema.optionalKey(Schema.String)
}) {}

/**
 * A network option was refused.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class NetworkBuilder extends Schema.TaggedError<NetworkBuilder>()("NetworkBuilder", text) {}

/**
 * A patch of the root file system failed.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class PatchFailed extends Schema.TaggedError<PatchFailed>()("PatchFailed", text) {}

/**
 * No such snapshot.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SnapshotNotFound extends Schema.TaggedError<SnapshotNotFound>()("SnapshotNotFound", {
  ...text,
  reference: Schema.String
}) {}

/**
 * The snapshot's name is taken.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SnapshotAlreadyExists extends Schema.TaggedError<SnapshotAlreadyExists>()("SnapshotAlreadyExists", {
  ...text,
  reference: Schema.String
}) {}

/**
 * This kind of snapshot needs a stopped sandbox.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SnapshotSandboxRunning extends Schema.TaggedError<SnapshotSandboxRunning>()("SnapshotSandboxRunning", {
  ...text,
  sandbox: Schema.String
}) {}

/**
 * The snapshot's image is not in the cache. Declared by the engine; 0.7.2 never produces it.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SnapshotImageMissing extends Schema.TaggedError<SnapshotImageMissing>()("SnapshotImageMissing", text) {}

/**
 * The snapshot's content does not match its description.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SnapshotIntegrity extends Schema.TaggedError<SnapshotIntegrity>()("SnapshotIntegrity", text) {}

/**
 * The snapshot may be good, but its source could not be resumed.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SnapshotSourceRecovery extends Schema.TaggedError<SnapshotSourceRecovery>()("SnapshotSourceRecovery", {
  ...text,
  sourceSandbox: Schema.String,
  checkpointId: Schema.String,
  checkpointPath: Schema.String,
  artifactPath: Schema.optionalKey(Schema.String),
  detail: Schema.String,
  publicationError: Schema.optionalKey(Schema.String)
}) {}

/**
 * A snapshot of another release could not be migrated.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SnapshotMigration extends Schema.TaggedError<SnapshotMigration>()("SnapshotMigration", {
  ...text,
  code: Schema.String,
  phase: Schema.String,
  artifact: Schema.String,
  detail: Schema.String
}) {}

/**
 * Metrics sampling is off for this sandbox.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class MetricsDisabled extends Schema.TaggedError<MetricsDisabled>()("MetricsDisabled", {
  ...text,
  sandbox: Schema.String
}) {}

/**
 * No valid sample yet. Declared by the engine; 0.7.2 answers `MetricsNotReady` instead.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class MetricsUnavailable extends Schema.TaggedError<MetricsUnavailable>()("MetricsUnavailable", {
  ...text,
  sandbox: Schema.String
}) {}

/**
 * A log reader was too slow: the file that it read is gone.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class MissedRotation extends Schema.TaggedError<MissedRotation>()("MissedRotation", {
  ...text,
  droppedFromOffset: Schema.Finite
}) {}

/**
 * A cursor is malformed, or points to nothing any more.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class InvalidCursor extends Schema.TaggedError<InvalidCursor>()("InvalidCursor", text) {}

/**
 * The backend does not have this operation.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class Unsupported extends Schema.TaggedError<Unsupported>()("Unsupported", {
  ...text,
  operation: Schema.String,
  reason: Schema.String,
  hint: Schema.String
}) {}

/**
 * A failure that the engine only words.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class Custom extends Schema.TaggedError<Custom>()("Custom", text) {}

// -----------------------------------------------------------------------------
// The engine's image failures
// -----------------------------------------------------------------------------

/**
 * The registry could not be reached, or refused.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageRegistry extends Schema.TaggedError<ImageRegistry>()("ImageRegistry", text) {}

/**
 * The image exists, but not for this platform.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImagePlatformNotFound extends Schema.TaggedError<ImagePlatformNotFound>()("ImagePlatformNotFound", {
  ...text,
  reference: Schema.String,
  os: Schema.String,
  arch: Schema.String
}) {}

/**
 * The image's manifest could not be read.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageManifestInvalid extends Schema.TaggedError<ImageManifestInvalid>()("ImageManifestInvalid", text) {}

/**
 * The image's configuration could not be read.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageConfigInvalid extends Schema.TaggedError<ImageConfigInvalid>()("ImageConfigInvalid", text) {}

/**
 * A layer's content is not what its digest says.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageDigestMismatch extends Schema.TaggedError<ImageDigestMismatch>()("ImageDigestMismatch", {
  ...text,
  digest: Schema.String,
  expected: Schema.String,
  actual: Schema.String
}) {}

/**
 * A layer could not be unpacked.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageMaterialize extends Schema.TaggedError<ImageMaterialize>()("ImageMaterialize", {
  ...text,
  digest: Schema.String
}) {}

/**
 * The image cache could not be read or written.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageCache extends Schema.TaggedError<ImageCache>()("ImageCache", {
  ...text,
  path: Schema.String,
  errno: Schema.optionalKey(Schema.Int)
}) {}

/**
 * The pull policy forbids to pull, and the image is not in the cache.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageNotCached extends Schema.TaggedError<ImageNotCached>()("ImageNotCached", {
  ...text,
  reference: Schema.String
}) {}

/**
 * A registry certificate is not valid PEM.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageCertificateInvalid
  extends Schema.TaggedError<ImageCertificateInvalid>()("ImageCertificateInvalid", text)
{}

/**
 * The registry wants to know who asks, or does not let them. Some registries answer so too for what does not exist.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageUnauthorized extends Schema.TaggedError<ImageUnauthorized>()("ImageUnauthorized", {
  ...text,
  reference: Schema.String
}) {}

/**
 * The registry was asked too often.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageRateLimited extends Schema.TaggedError<ImageRateLimited>()("ImageRateLimited", {
  ...text,
  reference: Schema.String
}) {}

/**
 * No TLS connection with the registry: its certificate is not trusted, or it speaks plain HTTP.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageTls extends Schema.TaggedError<ImageTls>()("ImageTls", {
  ...text,
  reference: Schema.String
}) {}

/**
 * An archive of images is not one, is cut off, or does not hold together.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ImageArchiveInvalid extends Schema.TaggedError<ImageArchiveInvalid>()("ImageArchiveInvalid", {
  ...text,
  path: Schema.String
}) {}

/**
 * No space is left on the host, or none of a quota: for an image, a volume, a snapshot, an archive, what is downloaded from a
 * guest, or the backend's catalogue. `path` is the file that was written, where it is known.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class DiskFull extends Schema.TaggedError<DiskFull>()("DiskFull", {
  ...text,
  path: Schema.optionalKey(Schema.String)
}) {}

// -----------------------------------------------------------------------------
// What the engine says only in words; told apart once, in packages/native/rust/failure.rs
// -----------------------------------------------------------------------------

/**
 * The msb that was found is not the one version that this SDK launches.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class RuntimeVersionMismatch extends Schema.TaggedError<RuntimeVersionMismatch>()("RuntimeVersionMismatch", {
  ...text,
  expected: Schema.String,
  actual: Schema.String,
  path: Schema.optionalKey(Schema.String)
}) {}

/**
 * The VM was killed, but is not seen to be gone.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class KillTimeout extends Schema.TaggedError<KillTimeout>()("KillTimeout", text) {}

/**
 * The VM booted, but its agent did not answer in time.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class AgentReadyTimeout extends Schema.TaggedError<AgentReadyTimeout>()("AgentReadyTimeout", text) {}

/**
 * The connection to the guest ended before the program did.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ExecSessionLost extends Schema.TaggedError<ExecSessionLost>()("ExecSessionLost", text) {}

/**
 * The guest could not connect: nothing listens on the port, or the host is unknown or does not answer there.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class TunnelRefused extends Schema.TaggedError<TunnelRefused>()("TunnelRefused", {
  ...text,
  host: Schema.String,
  port: Schema.Int,
  /** The guest's, such as 111 when the connection was refused. */
  errno: Schema.optionalKey(Schema.Int)
}) {}

/**
 * A connection to a port of the guest broke: reset by its other end, or gone with the sandbox.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class TunnelLost extends Schema.TaggedError<TunnelLost>()("TunnelLost", {
  ...text,
  /** The guest's, such as 104 when the connection was reset. */
  errno: Schema.optionalKey(Schema.Int)
}) {}

/**
 * There was no connection to an SSH server, or no login within its time: it is not there, does not answer, or is no SSH server
 * that this client understands.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SshConnectFailed extends Schema.TaggedError<SshConnectFailed>()("SshConnectFailed", {
  ...text,
  /** This host's, such as 111 when the connection was refused. */
  errno: Schema.optionalKey(Schema.Int)
}) {}

/**
 * An SSH server showed another key than the one that it is known by. Nothing was sent to it but the key exchange.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SshHostKeyMismatch extends Schema.TaggedError<SshHostKeyMismatch>()("SshHostKeyMismatch", {
  ...text,
  /** The fingerprints of the keys that it may show. */
  expected: Schema.Array(Schema.String),
  /** The fingerprint of the key that it showed, or the kinds of its keys when none is of the right kind. */
  actual: Schema.String
}) {}

/**
 * An SSH server did not let the client in.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SshLoginRefused extends Schema.TaggedError<SshLoginRefused>()("SshLoginRefused", {
  ...text,
  user: Schema.String
}) {}

/**
 * An SSH server refused what a logged in client asked for.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SshRequestRefused extends Schema.TaggedError<SshRequestRefused>()("SshRequestRefused", {
  ...text,
  /** What was asked for: `session`, `pty`, `env`, `exec`, `shell` or `sftp`. */
  request: Schema.String
}) {}

/**
 * The connection to an SSH server ended. How its programs ended, nobody knows.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SshConnectionLost extends Schema.TaggedError<SshConnectionLost>()("SshConnectionLost", text) {}

/**
 * An SSH server told the end of a program without an exit status or a signal. It may have done anything, and is no success.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SshNoExitStatus extends Schema.TaggedError<SshNoExitStatus>()("SshNoExitStatus", text) {}

/**
 * What was waited for did not come within its time.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class WaitTimeout extends Schema.TaggedError<WaitTimeout>()("WaitTimeout", {
  ...text,
  /** What was waited for: `port 8080`, `file /tmp/ready`, `log /ready/`. */
  what: Schema.String,
  timeoutMs: Schema.Finite
}) {}

/**
 * The sandbox has no metrics yet, or no longer.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class MetricsNotReady extends Schema.TaggedError<MetricsNotReady>()("MetricsNotReady", text) {}

// -----------------------------------------------------------------------------
// What this SDK finds before the engine does, or after it
// -----------------------------------------------------------------------------

/**
 * The native addon was not found for this platform.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class AddonMissing extends Schema.TaggedError<AddonMissing>()("AddonMissing", {
  ...text,
  platform: Schema.String
}) {}

/**
 * The native addon is of another version than its TypeScript side.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class AddonMismatch extends Schema.TaggedError<AddonMismatch>()("AddonMismatch", {
  ...text,
  expected: Schema.String,
  actual: Schema.String
}) {}

/**
 * This process already launches another runtime pair; the engine keeps one per process.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class RuntimeConflict extends Schema.TaggedError<RuntimeConflict>()("RuntimeConflict", {
  ...text,
  msb: Schema.String
}) {}

/**
 * The home's path is too long for the sockets below it.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class HomePathTooLong extends Schema.TaggedError<HomePathTooLong>()("HomePathTooLong", {
  ...text,
  path: Schema.String,
  limit: Schema.Int
}) {}

/**
 * The home cannot be made or written.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class HomeNotWritable extends Schema.TaggedError<HomeNotWritable>()("HomeNotWritable", {
  ...text,
  path: Schema.String,
  errno: Schema.optionalKey(Schema.Int)
}) {}

/**
 * The home's file system has no user extended attributes, where the guest's owners and modes are kept.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class HomeWithoutXattrs extends Schema.TaggedError<HomeWithoutXattrs>()("HomeWithoutXattrs", {
  ...text,
  path: Schema.String,
  errno: Schema.optionalKey(Schema.Int)
}) {}

/**
 * A file is no archive of a runtime pair: it is damaged, has something else in it, or has another hash.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class RuntimeArchiveInvalid extends Schema.TaggedError<RuntimeArchiveInvalid>()("RuntimeArchiveInvalid", {
  ...text,
  path: Schema.String
}) {}

/**
 * The directory or disk that was named as the root file system is missing.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class RootfsNotFound extends Schema.TaggedError<RootfsNotFound>()("RootfsNotFound", {
  ...text,
  path: Schema.String
}) {}

/**
 * A failed or interrupted create could not be undone.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class RollbackIncomplete extends Schema.TaggedError<RollbackIncomplete>()("RollbackIncomplete", {
  ...text,
  sandbox: Schema.String
}) {}

/**
 * The sandbox could not be removed in time, because another operation, perhaps of another process, holds its name.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SandboxBusy extends Schema.TaggedError<SandboxBusy>()("SandboxBusy", {
  ...text,
  sandbox: Schema.String
}) {}

/**
 * The sandbox is paused: its guest starts no program and no file operation until it is resumed.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class SandboxPaused extends Schema.TaggedError<SandboxPaused>()("SandboxPaused", text) {}

/**
 * The sandbox holds something that a branch or a snapshot cannot take along, such as a root that is a directory of the host.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class CaptureUnsupported extends Schema.TaggedError<CaptureUnsupported>()("CaptureUnsupported", text) {}

/**
 * A change contradicts what the sandbox is, or is one that cannot be made.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class ChangeRefused extends Schema.TaggedError<ChangeRefused>()("ChangeRefused", {
  ...text,
  field: Schema.String
}) {}

/**
 * An operation on a file of a guest or of a volume failed; `errno` is Linux's number for it, and `errnoName` its name, such
 * as `ENOENT`.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class FileFailed extends Schema.TaggedError<FileFailed>()("FileFailed", {
  ...text,
  path: Schema.String,
  errno: Schema.optionalKey(Schema.Int),
  errnoName: Schema.optionalKey(Schema.String)
}) {}

/**
 * A change cannot be made to a VM that runs.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class RestartRequired extends Schema.TaggedError<RestartRequired>()("RestartRequired", {
  ...text,
  field: Schema.String
}) {}

/**
 * A file or directory of the host could not be read or written by a transfer.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class HostIo extends Schema.TaggedError<HostIo>()("HostIo", {
  ...text,
  /** Such as `open`, `write` or `mkdir`. */
  operation: Schema.String,
  path: Schema.String,
  errno: Schema.optionalKey(Schema.Int)
}) {}

/**
 * A guest gave an entry of a directory a name that is none, such as `..` or one with a slash.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class UnsafeName extends Schema.TaggedError<UnsafeName>()("UnsafeName", {
  ...text,
  name: Schema.String,
  /** The directory that it is an entry of, from the root of the tree. */
  path: Schema.String
}) {}

/**
 * At the destination of a transfer is something of a kind that is neither replaced nor merged with.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class TransferConflict extends Schema.TaggedError<TransferConflict>()("TransferConflict", {
  ...text,
  path: Schema.String,
  expected: Schema.String,
  found: Schema.String
}) {}

/**
 * A transfer reached one of its limits: `maxEntries`, `maxBytes` or `maxDepth`.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class TransferLimit extends Schema.TaggedError<TransferLimit>()("TransferLimit", {
  ...text,
  limit: Schema.String,
  maximum: Schema.Finite,
  path: Schema.String
}) {}

/**
 * What was to be transferred is no file, directory or link that can be: `why` is as in `Transfer.Skipped`, and `path` is empty
 * for what was named itself.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class TransferRefused extends Schema.TaggedError<TransferRefused>()("TransferRefused", {
  ...text,
  path: Schema.String,
  why: Schema.String
}) {}

/**
 * The engine is closed: its layer's scope has ended.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class EngineClosed extends Schema.TaggedError<EngineClosed>()("EngineClosed", text) {}

/**
 * The handle was used after its scope had ended.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export class HandleClosed extends Schema.TaggedError<HandleClosed>()("HandleClosed", {
  ...text,
  kind: Schema.String
}) {}

// -----------------------------------------------------------------------------
// The error
// -----------------------------------------------------------------------------

/**
 * Why an operation failed.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export const Reason = Schema.Union([
  Io,
  Http,
  CloudHttp,
  LibkrunfwNotFound,
  RuntimeNotInstalled,
  RuntimeIncomplete,
  Database,
  InvalidConfig,
  NoDefaultCommand,
  SandboxNotFound,
  SandboxAlreadyExists,
  SandboxReplaced,
  SandboxStillRunning,
  SandboxNotRunning,
  SandboxStopTimedOut,
  Runtime,
  StopTimeout,
  BootStart,
  Json,
  Protocol,
  AgentClient,
  ControlClient,
  ControlStateChanged,
  ControlSecretBatch,
  Nix,
  ExecTimeout,
  OutputOverflow,
  StdinFailed,
  ExecFailed,
  Terminal,
  SandboxFsOps,
  ImageNotFound,
  ImageInUse,
  VolumeNotFound,
  VolumeAlreadyExists,
  VolumeInUse,
  NetworkBuilder,
  PatchFailed,
  SnapshotNotFound,
  SnapshotAlreadyExists,
  SnapshotSandboxRunning,
  SnapshotImageMissing,
  SnapshotIntegrity,
  SnapshotSourceRecovery,
  SnapshotMigration,
  MetricsDisabled,
  MetricsUnavailable,
  MissedRotation,
  InvalidCursor,
  Unsupported,
  Custom,
  ImageRegistry,
  ImagePlatformNotFound,
  ImageManifestInvalid,
  ImageConfigInvalid,
  ImageDigestMismatch,
  ImageMaterialize,
  ImageCache,
  ImageNotCached,
  ImageCertificateInvalid,
  ImageUnauthorized,
  ImageRateLimited,
  ImageTls,
  ImageArchiveInvalid,
  DiskFull,
  RuntimeVersionMismatch,
  KillTimeout,
  AgentReadyTimeout,
  ExecSessionLost,
  MetricsNotReady,
  TunnelRefused,
  TunnelLost,
  SshConnectFailed,
  SshHostKeyMismatch,
  SshLoginRefused,
  SshRequestRefused,
  SshConnectionLost,
  SshNoExitStatus,
  WaitTimeout,
  AddonMissing,
  AddonMismatch,
  RuntimeConflict,
  HomePathTooLong,
  HomeNotWritable,
  HomeWithoutXattrs,
  RootfsNotFound,
  RuntimeArchiveInvalid,
  RollbackIncomplete,
  SandboxBusy,
  SandboxPaused,
  CaptureUnsupported,
  FileFailed,
  ChangeRefused,
  RestartRequired,
  HostIo,
  UnsafeName,
  TransferConflict,
  TransferLimit,
  TransferRefused,
  EngineClosed,
  HandleClosed
])

/**
 * Why an operation failed.
 *
 * @stability unstable
 * @category reasons
 * @since 0.1.0
 */
export type Reason = typeof Reason.Type

/**
 * An operation of this SDK failed.
 *
 * **Details**
 *
 * The message ends with what to do, where that is known. A boot that failed for what is wrong with the machine says that too,
 * in `findings`.
 *
 * @stability unstable
 * @category errors
 * @since 0.1.0
 */
export class MicrosandboxError extends Schema.TaggedError<MicrosandboxError>()("MicrosandboxError", {
  /** The name of the function and of its span, such as `Sandbox.make`. */
  operation: Schema.String,
  /** The name of the sandbox that it was about, if it was about one. */
  sandbox: Schema.optionalKey(Schema.String),
  /** Why it failed. */
  reason: Reason,
  /** What is wrong with the machine that can explain it, when a boot failed: see `Runtime.doctor`. */
  findings: Schema.optionalKey(Schema.NonEmptyArray(Finding))
}) {
  override get message(): string {
    const of = this.sandbox === undefined ? this.operation : `${this.operation} (${this.sandbox})`
    const findings = this.findings ?? []
    const causes = [this.reason.message, ...findings.map(({ message }) => message)]
    const fixes = findings.flatMap(({ fix }) => fix === undefined ? [] : [fix])
    const mend = fixes.length > 0 ? fixes : [hints[this.reason._tag]].filter((hint) => hint !== undefined)
    // A finding may say what the reason says.
    const message = `${of}: ${[...new Set(causes)].join("; ")}`
    return mend.length === 0 ? message : `${message}. To mend it: ${[...new Set(mend)].join("; ")}`
  }
}

/**
 * Whether a value is a `MicrosandboxError`.
 *
 * @stability unstable
 * @category guards
 * @since 0.1.0
 */
export const isMicrosandboxError: (value: unknown) => value is MicrosandboxError = Schema.is(MicrosandboxError)
