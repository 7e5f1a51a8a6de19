/**
 * Changing what a sandbox is made of, and the plan that says what a change does: see `modify` and `modifyPlan`.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type * as ByteSize from "effect/ByteSize"
import * as Schema from "effect/Schema"

/**
 * What is to be different. What is absent stays as it is.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Changes {
  /** Virtual CPUs, 1 to 255. A running VM takes a number up to the maximum that it was started with. */
  readonly cpus?: number | undefined
  /** The most CPUs that the VM can have from its next start. */
  readonly maxCpus?: number | undefined
  /** Memory in whole mebibytes. A running VM takes a size up to the maximum that it was started with. */
  readonly memory?: ByteSize.Input | undefined
  /** The most memory that the VM can have from its next start, in whole mebibytes. */
  readonly maxMemory?: ByteSize.Input | undefined
  /** The root disk's size in whole mebibytes. It only grows; an image root has one, a directory has none. */
  readonly rootDiskSize?: ByteSize.Input | undefined
  /** Variables to set. */
  readonly env?: Readonly<Record<string, string>> | undefined
  /** Names of variables to remove. */
  readonly removeEnv?: ReadonlyArray<string> | undefined
  /** Labels to set. */
  readonly labels?: Readonly<Record<string, string>> | undefined
  /** Names of labels to remove. */
  readonly removeLabels?: ReadonlyArray<string> | undefined
  /** Working directory of programs that name none. */
  readonly workdir?: string | undefined
}

/**
 * Options of `modify` and `modifyPlan`.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * `"now"` changes a running VM too, and fails with `RestartRequired` where it cannot; `"next-start"` leaves it as it is
   * until it is started again. The same for one that has stopped. Default: `"now"`.
   */
  readonly effect?: "now" | "next-start" | undefined
}

/**
 * One change of a plan.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Change extends Schema.Class<Change>("@effect-microsandbox/core/Modify/Change")({
  /** The option that changes, such as `memory`; `env` and `labels` come once for each name. */
  field: Schema.String,
  change: Schema.Literals(["added", "updated", "removed"]),
  /** What it was, as text: `name=value` for variables and labels. */
  before: Schema.optionalKey(Schema.String),
  /** What it will be, as text. */
  after: Schema.optionalKey(Schema.String),
  /** When: in the running VM, at the next start, with a restart only, or never. */
  effect: Schema.Literals(["live", "next-start", "restart", "unsupported"]),
  /** Why so, as text. */
  reason: Schema.optionalKey(Schema.String)
}) {}

/**
 * Something that a plan says of an option.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Note extends Schema.Class<Note>("@effect-microsandbox/core/Modify/Note")({
  field: Schema.String,
  message: Schema.String
}) {}

/**
 * How far a running VM had come with a new size when `modify` answered: the guest takes its time.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Resized extends Schema.Class<Resized>("@effect-microsandbox/core/Modify/Resized")({
  resource: Schema.Literals(["cpus", "memory"]),
  requested: Schema.String,
  actual: Schema.String,
  enforced: Schema.String,
  state: Schema.Literals(["accepted", "converging", "applied", "guest-refused", "failed"])
}) {}

/**
 * What changes would do, or have done.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export class Plan extends Schema.Class<Plan>("@effect-microsandbox/core/Modify/Plan")({
  sandbox: Schema.String,
  /** The sandbox's state when the plan was made. */
  status: Schema.String,
  /** False for a plan that was only made. */
  applied: Schema.Boolean,
  /** What differs from what the sandbox is: a value that it has already is no change. */
  changes: Schema.Array(Change),
  /** What makes `modify` fail with `ChangeRefused`. */
  conflicts: Schema.Array(Note),
  warnings: Schema.Array(Note),
  /** One for each size that a running VM took. */
  resized: Schema.Array(Resized)
}) {}
