/**
 * Options of pausing a sandbox and of branching it: see `pause`, `branch` and `branchMany` of a sandbox.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type { OnClose } from "./Sandbox.ts"

/**
 * Whether the guest must write back what it holds for its disks first: `"required"` or `"skip"`. `"auto"` does so for a
 * snapshot of a running sandbox's disk, and not where memory is kept too, which holds the same.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type GuestFlush = "auto" | "required" | "skip"

/**
 * Options of `pause`.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface PauseOptions {
  /** Default: `"auto"`. A disk snapshot of a paused sandbox needs `"required"` here. */
  readonly guestFlush?: GuestFlush | undefined
}

/**
 * Options of `branch` and `branchMany`. A child is made of what its source is; nothing else can be chosen.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface BranchOptions {
  /** Default: `"auto"`. */
  readonly guestFlush?: GuestFlush | undefined
  /** Record a digest of each disk layer of the cut, which reads all of it. Default: false. */
  readonly recordIntegrity?: boolean | undefined
  /** Labels of the child, on top of its source's. */
  readonly labels?: Readonly<Record<string, string>> | undefined
  /** What becomes of a child when its scope closes. Default: `"destroy"`. */
  readonly onClose?: OnClose | undefined
}
