// The addon's interface, written by scripts/build-native.sh from packages/native/rust. Do not edit.

/** How a call of the addon answers. A rejected promise is a panic: a bug, never an outcome. */
export type Outcome<A> =
  | { readonly _tag: "Ok"; readonly value: A }
  | { readonly _tag: "Failed"; readonly failure: Failure }
  | { readonly _tag: "Cancelled" }

/** An open backend. */
export declare class Backend {
  /** The directory of a local backend. */
  get home(): string | null
  /** Boot a sandbox. When this fails or is cancelled, the name is free again before it answers. */
  createSandbox(options: SandboxOptions, token: CancelToken): Promise<Outcome<Sandbox>>
  /** Start a sandbox that has stopped. A cancel ends the VM and keeps the sandbox. */
  startSandbox(name: string, detached: boolean, token: CancelToken): Promise<Outcome<Sandbox>>
  /** Look a sandbox up by name. */
  getSandbox(name: string, token: CancelToken): Promise<Outcome<SandboxInfo>>
  /** Stop a sandbox by name: gracefully within the grace, then by force. */
  stopSandbox(name: string, options: StopOptions, token: CancelToken): Promise<Outcome<void>>
  /** Kill a sandbox by name, and wait until it is seen to be gone. */
  killSandbox(name: string, token: CancelToken): Promise<Outcome<void>>
  /** Remove a stopped sandbox by name: its row, its disk, its directory. */
  removeSandbox(name: string, token: CancelToken): Promise<Outcome<void>>
  /** Give the backend back. Its sandboxes, if any are alive, keep what they need of it. */
  close(): Promise<void>
  /** The same for a sandbox that is known by name. */
  modifySandbox(name: string, changes: ModifyChanges, options: ModifyOptions, token: CancelToken): Promise<Outcome<ModifyPlan>>
  /** Make a sandbox of a snapshot. When this fails or is cancelled, the name is free again before it answers. */
  restoreSandbox(options: RestoreOptions, token: CancelToken): Promise<Outcome<Sandbox>>
}

/** Cancels the one call that it is passed to. The call answers `Cancelled` when its work is undone. */
export declare class CancelToken {
  constructor()
  /** Ask the call to stop. Idempotent, and harmless after the call has ended. */
  cancel(): void
}

/** One engine: made when the `Native` service is built, closed when its scope closes. */
export declare class Engine {
  constructor()
  /** Open a backend on this machine. */
  openLocal(options: LocalOptions, token: CancelToken): Promise<Outcome<Backend>>
  /** What is alive now. */
  live(): LiveHandles
  /**
   * Refuse new calls, cancel the ones in flight, wait until the last has ended, and say what is
   * still alive. Idempotent.
   */
  close(): Promise<LiveHandles>
}

/** A program that was started. */
export declare class Exec {
  /**
   * The next events: waits for one, then takes what else is there, up to about `max_bytes`.
   * An empty list means that the program has ended and all of it was read.
   */
  read(maxBytes: number, token: CancelToken): Promise<Outcome<Array<ExecEvent>>>
  /** Write to the program's stdin; answers when the guest's relay has taken it. */
  write(data: Buffer, token: CancelToken): Promise<Outcome<void>>
  /** End the program's stdin. Idempotent. */
  closeStdin(token: CancelToken): Promise<Outcome<void>>
  /** Send a signal to the program's process group. */
  signal(signal: number, token: CancelToken): Promise<Outcome<void>>
  /** Tell the program's terminal its size. */
  resize(rows: number, columns: number, token: CancelToken): Promise<Outcome<void>>
  /** Kill the program if it still runs, wait for the guest's word, and give the handle back. */
  close(): Promise<ExecClosed>
}

/** A running sandbox. */
export declare class Sandbox {
  /**
   * Cut the sandbox as it is now and start a child from there; the sandbox itself goes on, or stays paused. When this
   * fails or is cancelled, nothing of the child is left before it answers.
   */
  branch(name: string, options: BranchOptions, token: CancelToken): Promise<Outcome<Sandbox>>
  /**
   * The same for several children of one cut, each with its own outcome, in the order of the names. A failure of all
   * is one of the source. A cancel leaves no child.
   */
  branchMany(names: Array<string>, options: BranchOptions, token: CancelToken): Promise<Outcome<Array<BranchOutcome>>>
  /**
   * Change the sandbox, or say what a change would do. Not atomic: what a running VM has taken when this fails or is
   * cancelled stays.
   */
  modify(changes: ModifyChanges, options: ModifyOptions, token: CancelToken): Promise<Outcome<ModifyPlan>>
  /** Suspend the VM, which keeps its memory. One that is paused is no failure. A cancelled pause is taken back. */
  pause(guestFlush: 'auto' | 'required' | 'skip', token: CancelToken): Promise<Outcome<void>>
  /** Let a paused VM run on. One that runs is no failure. When this is cancelled, the VM may run or not. */
  resume(token: CancelToken): Promise<Outcome<void>>
  /**
   * Keep the sandbox as a snapshot. It goes on, or stays as it is. A snapshot that was being published when this was
   * cancelled is kept.
   */
  snapshot(options: SnapshotOptions, token: CancelToken): Promise<Outcome<SnapshotInfo>>
  get name(): string
  get id(): string
  /** The shell that its scripts run in. */
  get shell(): string
  /** The state of the sandbox, looked up now. */
  status(token: CancelToken): Promise<Outcome<string>>
  /** Run a program to its end and answer with all of its output. A cancel kills it first. */
  exec(options: ExecOptions, token: CancelToken): Promise<Outcome<ExecOutput>>
  /** Start a program and answer with a handle on it. */
  spawn(options: ExecOptions, token: CancelToken): Promise<Outcome<Exec>>
  /** Stop: gracefully within the grace, then by force. A sandbox that has stopped is no failure. */
  stop(options: StopOptions, token: CancelToken): Promise<Outcome<void>>
  /** Kill the VM and wait until it is seen to be gone. */
  kill(token: CancelToken): Promise<Outcome<void>>
  /** Let the VM live on when this handle is given back. */
  detach(token: CancelToken): Promise<Outcome<void>>
  /**
   * End the sandbox and give the handle back. Runs to its own deadlines, also while the engine is closing: this is
   * what keeps the promise that nothing is left.
   */
  end(ending: Ending, options: StopOptions): Promise<Outcome<void>>
}

/** How to branch. What a child is made of is its source's. */
export interface BranchOptions {
  /** Whether the guest must write back what it holds for its disks before the cut. */
  guestFlush: 'auto' | 'required' | 'skip'
  /** Record a digest of each disk layer that is cut. */
  recordIntegrity: boolean
  /** Labels of the child, over those of its source. */
  labels: Record<string, string>
}

/** What became of one child of several. */
export type BranchOutcome =
  | { _tag: 'Started'; name: string; sandbox: Sandbox }
  | { _tag: 'Failed'; name: string; failure: Failure }

/** What becomes of a sandbox when its handle is given back. */
export type Ending = 'destroy' | 'stop' | 'detach'

/** How a handle ended. */
export interface ExecClosed {
  /**
   * The guest said that the program has ended. When false, the connection was cut, and the
   * guest's agent kills the process group for that.
   */
  confirmed: boolean
}

/** What happened in a program, in order. Neighbouring output is joined. */
export type ExecEvent =
  | { _tag: 'Started'; pid: number }
  | { _tag: 'Stdout'; data: Buffer }
  | { _tag: 'Stderr'; data: Buffer }
  | { _tag: 'StdinFailed'; message: string; errno?: number }
  | { _tag: 'Exited'; code: number }

/** What to run. */
export interface ExecOptions {
  command: string
  args: Array<string>
  cwd?: string
  user?: string
  env?: Record<string, string>
  tty?: boolean
  /** Kill the program after this time. Collected calls only; a stream is timed by its reader. */
  timeoutMs?: number
  /** `spawn`: keep stdin open for `write`; `/dev/null` otherwise. */
  stdin?: boolean
  /** `exec`: what the program reads from stdin. */
  stdinData?: Buffer
}

/** A program's whole output. */
export interface ExecOutput {
  /** Its exit code; -1 when a signal ended it (the agent of 0.7.2 does not say which). */
  exitCode: number
  stdout: Buffer
  stderr: Buffer
}

/** Why a call failed. `message` is the engine's own sentence. */
export type Failure =
  | { _tag: 'Io'; message: string; kind: string; errno?: number }
  | { _tag: 'Http'; message: string; status?: number; timeout: boolean; connect: boolean }
  | { _tag: 'CloudHttp'; message: string; status: number; code?: string }
  | { _tag: 'LibkrunfwNotFound'; message: string }
  | { _tag: 'RuntimeNotInstalled'; message: string }
  | { _tag: 'RuntimeIncomplete'; message: string }
  | { _tag: 'Database'; message: string }
  | { _tag: 'InvalidConfig'; message: string; field?: string }
  | { _tag: 'NoDefaultCommand'; message: string }
  | { _tag: 'SandboxNotFound'; message: string; sandbox: string }
  | { _tag: 'SandboxAlreadyExists'; message: string; sandbox: string }
  | { _tag: 'SandboxReplaced'; message: string; sandbox: string; expected: string; actual: string }
  | { _tag: 'SandboxStillRunning'; message: string; sandbox: string }
  | { _tag: 'SandboxNotRunning'; message: string }
  | { _tag: 'SandboxStopTimedOut'; message: string; sandbox: string; timeoutMs: number }
  | { _tag: 'Runtime'; message: string }
  | { _tag: 'StopTimeout'; message: string; sandbox: string; timeoutMs: number }
  | { _tag: 'BootStart'; message: string; sandbox: string; stage: string; errno?: number }
  | { _tag: 'Json'; message: string }
  | { _tag: 'Protocol'; message: string }
  | { _tag: 'AgentClient'; message: string; kind: string }
  | { _tag: 'ControlClient'; message: string; delivery: string }
  | { _tag: 'ControlStateChanged'; message: string }
  | { _tag: 'ControlSecretBatch'; message: string; appliedCount: number; failedIndex: number }
  | { _tag: 'Nix'; message: string; errno: number }
  | { _tag: 'ExecTimeout'; message: string; timeoutMs: number }
  | { _tag: 'ExecFailed'; message: string; kind: string; errno?: number; errnoName?: string; stage?: string }
  | { _tag: 'Terminal'; message: string }
  | { _tag: 'SandboxFsOps'; message: string; errno?: number }
  | { _tag: 'ImageNotFound'; message: string; reference: string }
  | { _tag: 'ImageInUse'; message: string }
  | { _tag: 'VolumeNotFound'; message: string; volume: string }
  | { _tag: 'VolumeAlreadyExists'; message: string; volume: string }
  | { _tag: 'NetworkBuilder'; message: string }
  | { _tag: 'PatchFailed'; message: string }
  | { _tag: 'SnapshotNotFound'; message: string; reference: string }
  | { _tag: 'SnapshotAlreadyExists'; message: string; reference: string }
  | { _tag: 'SnapshotSandboxRunning'; message: string; sandbox: string }
  | { _tag: 'SnapshotImageMissing'; message: string }
  | { _tag: 'SnapshotIntegrity'; message: string }
  | { _tag: 'SnapshotSourceRecovery'; message: string; sourceSandbox: string; checkpointId: string; checkpointPath: string; artifactPath?: string; detail: string; publicationError?: string }
  | { _tag: 'SnapshotMigration'; message: string; code: string; phase: string; artifact: string; detail: string }
  | { _tag: 'MetricsDisabled'; message: string; sandbox: string }
  | { _tag: 'MetricsUnavailable'; message: string; sandbox: string }
  | { _tag: 'MissedRotation'; message: string; droppedFromOffset: number }
  | { _tag: 'InvalidCursor'; message: string }
  | { _tag: 'Unsupported'; message: string; operation: string; reason: string; hint: string }
  | { _tag: 'Custom'; message: string }
  | { _tag: 'ImageRegistry'; message: string }
  | { _tag: 'ImagePlatformNotFound'; message: string; reference: string; os: string; arch: string }
  | { _tag: 'ImageManifestInvalid'; message: string }
  | { _tag: 'ImageConfigInvalid'; message: string }
  | { _tag: 'ImageDigestMismatch'; message: string; digest: string; expected: string; actual: string }
  | { _tag: 'ImageMaterialize'; message: string; digest: string }
  | { _tag: 'ImageCache'; message: string; path: string; errno?: number }
  | { _tag: 'ImageNotCached'; message: string; reference: string }
  | { _tag: 'ImageCertificateInvalid'; message: string }
  | { _tag: 'RuntimeVersionMismatch'; message: string; expected: string; actual: string; path?: string }
  | { _tag: 'KillTimeout'; message: string }
  | { _tag: 'AgentReadyTimeout'; message: string }
  | { _tag: 'ExecSessionLost'; message: string }
  | { _tag: 'MetricsNotReady'; message: string }
  | { _tag: 'HomePathTooLong'; message: string; path: string; limit: number }
  | { _tag: 'HomeNotWritable'; message: string; path: string; errno?: number }
  | { _tag: 'HomeWithoutXattrs'; message: string; path: string; errno?: number }
  | { _tag: 'RootfsNotFound'; message: string; path: string }
  | { _tag: 'RollbackIncomplete'; message: string; sandbox: string }
  | { _tag: 'SandboxBusy'; message: string; sandbox: string }
  | { _tag: 'SandboxPaused'; message: string }
  | { _tag: 'CaptureUnsupported'; message: string }
  | { _tag: 'ChangeRefused'; message: string; field: string }
  | { _tag: 'RestartRequired'; message: string; field: string }
  | { _tag: 'EngineClosed'; message: string }
  | { _tag: 'HandleClosed'; message: string; kind: string }

/** What is alive in an engine. All zero is the only good answer at its end. */
export interface LiveHandles {
  backends: number
  sandboxes: number
  execs: number
  calls: number
}

/** Where a local backend keeps its state. */
export interface LocalOptions {
  /** Its directory; the engine's own rule (`MSB_HOME`, then `~/.microsandbox`) when absent. */
  home?: string
}

/** What is to be different. What is absent stays. */
export interface ModifyChanges {
  cpus?: number
  maxCpus?: number
  memoryMib?: number
  maxMemoryMib?: number
  rootDiskMib?: number
  env?: Record<string, string>
  removeEnv?: Array<string>
  labels?: Record<string, string>
  removeLabels?: Array<string>
  workdir?: string
}

/** Something that a plan says of a field. */
export interface ModifyNote {
  field: string
  message: string
}

/** What to do with changes. */
export interface ModifyOptions {
  /** Do them; say what they would do otherwise. */
  apply: boolean
  /** Leave a VM that runs as it is. */
  nextStart: boolean
}

/** What changes would do, or have done. */
export interface ModifyPlan {
  sandbox: string
  status: string
  applied: boolean
  changes: Array<PlannedChange>
  conflicts: Array<ModifyNote>
  warnings: Array<ModifyNote>
  resized: Array<Resized>
}

/** One change of a plan. */
export interface PlannedChange {
  field: string
  change: 'added' | 'updated' | 'removed'
  before?: string
  after?: string
  effect: 'live' | 'next-start' | 'restart' | 'unsupported'
  reason?: string
}

/** How far a running VM has come with a new size. */
export interface Resized {
  resource: 'cpus' | 'memory'
  requested: string
  actual: string
  enforced: string
  state: 'accepted' | 'converging' | 'applied' | 'guest-refused' | 'failed'
}

/** What a sandbox is made of that comes from a snapshot. */
export interface RestoreOptions {
  /** A reference, a name or a path. */
  snapshot: string
  name: string
  cpus?: number
  memoryMib?: number
  user?: string
  maxDurationSecs?: number
  idleTimeoutSecs?: number
  logLevel?: 'error' | 'warn' | 'info' | 'debug' | 'trace'
  security?: 'default' | 'restricted'
  forked: boolean
  diskOnly: boolean
  disableNetwork: boolean
  allowMissingResources: boolean
  snapshotBase?: string
  labels: Record<string, string>
  /** Survives this process. What resumes a memory does so in any case. */
  detached: boolean
}

/** The runtime pair to launch: the `msb` executable and the guest kernel that belongs to it. */
export interface RuntimePair {
  msb: string
  libkrunfw: string
}

/** A sandbox as the backend's catalogue has it. */
export interface SandboxInfo {
  name: string
  id: string
  status: string
  labels: Record<string, string>
  /** Milliseconds since 1970. */
  createdAt?: number
  lastFailure?: string
}

/** What a sandbox is made of. */
export interface SandboxOptions {
  name: string
  /** An image reference, or the path of a root directory or disk (`/…`, `./…`, `../…`). */
  image: string
  cpus?: number
  memoryMib?: number
  env?: Record<string, string>
  labels?: Record<string, string>
  workdir?: string
  shell?: string
  user?: string
  hostname?: string
  pullPolicy?: 'always' | 'if-missing' | 'never'
  logLevel?: 'error' | 'warn' | 'info' | 'debug' | 'trace'
  maxDurationSecs?: number
  idleTimeoutSecs?: number
  /** Survives this process. */
  detached: boolean
}

/** A snapshot that was made. */
export interface SnapshotInfo {
  id: string
  /** What a restore takes. */
  reference: string
  digest: string
  scope: 'disk' | 'full'
}

/** What to keep of a sandbox, and how. */
export interface SnapshotOptions {
  name: string
  /** Memory and programs too, and not only the disk. */
  full: boolean
  guestFlush: 'auto' | 'required' | 'skip'
  recordIntegrity: boolean
  labels: Record<string, string>
}

/** How to stop: ask, wait for `grace_ms`, then kill if allowed. */
export interface StopOptions {
  graceMs: number
  thenKill: boolean
}

/**
 * Hand the runtime pair to the engine by path. `MSB_PATH` still wins, as everywhere.
 *
 * Answers false when this process already launches another pair.
 */
export declare function useRuntime(pair: RuntimePair): boolean

/** Versions of the addon and of the runtime that it needs. */
export declare function versions(): Versions

/** The versions that the TypeScript side holds against its own constants. */
export interface Versions {
  /** Version of this addon. */
  addon: string
  /** The one `msb` version that this addon launches. */
  runtime: string
}
