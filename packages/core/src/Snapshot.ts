/**
 * Snapshots: a sandbox kept as an artifact, from which others are made with `Sandbox.restore`.
 *
 * @stability unstable
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import type { GuestFlush } from "./Branch.ts"

/**
 * Options of a sandbox's `snapshot`.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** Keep memory and programs too, and not only the disk; the sandbox must run or be paused. Default: false. */
  readonly full?: boolean | undefined
  /** Default: `"auto"`. */
  readonly guestFlush?: GuestFlush | undefined
  /** Record a digest of what is kept, which reads all of it. Default: false. */
  readonly recordIntegrity?: boolean | undefined
  /** Labels to find it by. */
  readonly labels?: Readonly<Record<string, string>> | undefined
}

/**
 * A snapshot that was made.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Snapshot extends Schema.Class<Snapshot>("@effect-microsandbox/core/Snapshot")({
  /** Its name among the snapshots of its sandbox. */
  name: Schema.String,
  /** Stays the same wherever it is copied. */
  id: Schema.String,
  /** What `Sandbox.restore` takes. */
  reference: Schema.String,
  /** Of its descriptor, `sha256:…`. */
  digest: Schema.String,
  /** Whether memory and programs are in it. */
  scope: Schema.Literals(["disk", "full"])
}) {}
