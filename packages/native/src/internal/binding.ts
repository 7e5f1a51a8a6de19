// The addon's interface, written by scripts/build-native.sh from packages/native/rust. Do not edit.

/** How a call of the addon answers. A rejected promise is a panic: a bug, never an outcome. */
export type Outcome<A> =
  | { readonly _tag: "Ok"; readonly value: A }
  | { readonly _tag: "Failed"; readonly failure: Failure }
  | { readonly _tag: "Cancelled" }

/** A connection to a guest's agent. */
export declare class AgentClient {
  /** What the agent said of itself when it was connected to; nothing after the handle was closed. */
  ready(): AgentReady | null
  /** Ask for one frame. */
  request(flags: number | undefined | null, body: Buffer, timeoutMs: number, token: CancelToken): Promise<Outcome<AgentFrame>>
  /** Ask for a stream of frames. */
  stream(flags: number | undefined | null, body: Buffer, timeoutMs: number, token: CancelToken): Promise<Outcome<AgentStream>>
  /** Send one more frame on a stream that is open; answers when it is written. */
  send(id: number, flags: number | undefined | null, body: Buffer, timeoutMs: number, token: CancelToken): Promise<Outcome<void>>
  /** Close the connection, with all that is open on it, and give the handle back. */
  close(): Promise<void>
}

/** A stream of frames from a guest's agent. */
export declare class AgentStream {
  /** Of its frames, and of those that are sent on it. */
  get id(): number
  /** The frames that are there, as soon as there are some; none after the last one. */
  read(token: CancelToken): Promise<Outcome<AgentFrame[]>>
  /** Give the stream up, and the handle back. What it is of ends in the guest too, as far as there is a word for that. */
  close(): Promise<void>
}

/** An open backend. */
export declare class Backend {
  /** Connect to the agent of a sandbox that runs. */
  connectAgent(name: string, timeoutMs: number, token: CancelToken): Promise<Outcome<AgentClient>>
  /** Where the agent of a sandbox listens, whether it runs or not. */
  agentSocket(name: string, token: CancelToken): Promise<Outcome<string>>
  /** The directory of a local backend. */
  get home(): string | null
  /** The address of a control plane. */
  get url(): string | null
  /** Boot a sandbox. When this fails or is cancelled, the name is free again before it answers. */
  createSandbox(options: SandboxOptions, progress: Progress, token: CancelToken): Promise<Outcome<Sandbox>>
  /** Start a sandbox that has stopped. A cancel ends the VM and keeps the sandbox. */
  startSandbox(name: string, onClose: Ending, progress: Progress, token: CancelToken): Promise<Outcome<Sandbox>>
  /** Connect to a sandbox that runs. */
  connectSandbox(name: string, timeoutMs: number, token: CancelToken): Promise<Outcome<Sandbox>>
  /** Connect to a sandbox that runs, start one that has stopped, or make it. */
  connectOrCreateSandbox(options: SandboxOptions, timeoutMs: number, progress: Progress, token: CancelToken): Promise<Outcome<Sandbox>>
  /** One page of the sandboxes, the newest first. */
  listSandboxes(options: ListOptions, token: CancelToken): Promise<Outcome<SandboxPage>>
  /** Look a sandbox up by name. */
  getSandbox(name: string, token: CancelToken): Promise<Outcome<SandboxInfo>>
  /** Stop a sandbox by name: gracefully within the grace, then by force. */
  stopSandbox(name: string, options: StopOptions, token: CancelToken): Promise<Outcome<void>>
  /** Kill a sandbox by name, and wait until it is seen to be gone. */
  killSandbox(name: string, token: CancelToken): Promise<Outcome<void>>
  /** Ask a sandbox, by name, to end when its work is done. */
  drainSandbox(name: string, token: CancelToken): Promise<Outcome<void>>
  /** Wait until a sandbox, by name, has ended. */
  waitSandbox(name: string, token: CancelToken): Promise<Outcome<StopResult>>
  /** Remove a stopped sandbox by name: its row, its disk, its directory. */
  removeSandbox(name: string, token: CancelToken): Promise<Outcome<void>>
  /** Give the backend back. Its sandboxes, if any are alive, keep what they need of it. */
  close(): Promise<void>
  /** The images of the catalogue, the newest first. */
  listImages(token: CancelToken): Promise<Outcome<Array<ImageInfo>>>
  /** An image by its reference, as it was pulled. */
  getImage(reference: string, token: CancelToken): Promise<Outcome<ImageInfo>>
  /** Everything about an image. */
  inspectImage(reference: string, token: CancelToken): Promise<Outcome<ImageDetail>>
  /**
   * Remove an image, and what no other has; forced, at least its name. It is not cancelled between the catalogue and the
   * files.
   */
  removeImage(reference: string, force: boolean, token: CancelToken): Promise<Outcome<void>>
  /** Remove the images that no sandbox and no snapshot uses. It is not cancelled between the catalogue and the files. */
  pruneImages(token: CancelToken): Promise<Outcome<ImagePrune>>
  /**
   * Load the images of an archive; `tags` are more references for the first. None is in the catalogue before all of them
   * can be.
   */
  loadImages(path: string, tags: Array<string>, token: CancelToken): Promise<Outcome<Array<ImageInfo>>>
  /** Save images to an archive. Its path has all of it or what it had before. */
  saveImages(options: SaveImagesOptions, token: CancelToken): Promise<Outcome<void>>
  /** All log entries of a sandbox, by name, in the order of their time. */
  sandboxLogs(name: string, options: LogOptions, token: CancelToken): Promise<Outcome<Array<LogEntry>>>
  /** Stream the log entries of a sandbox, by name. */
  sandboxLogStream(name: string, options: LogStreamOptions, token: CancelToken): Promise<Outcome<LogStream>>
  /** Why a sandbox could not start the last time that it could not, if that was recorded. */
  bootError(name: string, token: CancelToken): Promise<Outcome<BootFailure | null>>
  /** The newest sample of a sandbox, by name. Waits for the first one, at most until the deadline. */
  sandboxMetrics(name: string, deadlineMs: number, token: CancelToken): Promise<Outcome<MetricsReading>>
  /** The newest samples of all running sandboxes that have been sampled. */
  allMetrics(token: CancelToken): Promise<Outcome<Array<NamedSample>>>
  /** The same for a sandbox that is known by name. */
  modifySandbox(name: string, changes: ModifyChanges, options: ModifyOptions, token: CancelToken): Promise<Outcome<ModifyPlan>>
  /**
   * Remove what dead owners left in a local backend: their sandboxes, and the directories of creates that never got as
   * far as a row.
   */
  sweep(token: CancelToken): Promise<Outcome<SweepReport>>
  /** Suspend the VM of a sandbox, by name, as `pause` of a sandbox does. */
  pauseSandbox(name: string, guestFlush: 'auto' | 'required' | 'skip', token: CancelToken): Promise<Outcome<void>>
  /** Let the paused VM of a sandbox run on, by name. */
  resumeSandbox(name: string, token: CancelToken): Promise<Outcome<void>>
  /**
   * Pull an image, and enter it into the catalogue. A cancel ends its downloads; what has come of them is kept for the
   * next pull.
   */
  pullImage(options: PullImageOptions, progress: Progress, token: CancelToken): Promise<Outcome<ImageInfo>>
  /** Make a sandbox of a snapshot. When this fails or is cancelled, the name is free again before it answers. */
  restoreSandbox(options: RestoreOptions, progress: Progress, token: CancelToken): Promise<Outcome<Sandbox>>
  /** The same of the sandbox that has this name. */
  createSnapshot(sandbox: string, options: SnapshotOptions, token: CancelToken): Promise<Outcome<SnapshotDetail>>
  /** Write an archive of a sandbox, without a snapshot in between. A cancel leaves no file. */
  createSnapshotArchive(sandbox: string, path: string, options: SnapshotOptions, archive: SnapshotArchiveOptions, token: CancelToken): Promise<Outcome<SnapshotDetail>>
  /** Read the descriptor of a snapshot. */
  openSnapshot(reference: string, token: CancelToken): Promise<Outcome<SnapshotDetail>>
  /** Look a snapshot up. */
  getSnapshot(reference: string, token: CancelToken): Promise<Outcome<SnapshotInfo>>
  /** All snapshots of the catalogue, the newest first. */
  listSnapshots(token: CancelToken): Promise<Outcome<Array<SnapshotInfo>>>
  /** The snapshots of a directory, whether or not the catalogue has them. */
  listSnapshotDirectory(path: string, token: CancelToken): Promise<Outcome<Array<SnapshotDetail>>>
  /** Put the snapshots of a directory into the catalogue, and say how many these are. */
  reindexSnapshots(path: string | undefined | null, token: CancelToken): Promise<Outcome<number>>
  /** Compare a snapshot with the digests that were recorded. */
  verifySnapshot(reference: string, token: CancelToken): Promise<Outcome<SnapshotVerification>>
  /** Write a snapshot into an archive. A cancel leaves no file, and the one that was there before. */
  saveSnapshot(reference: string, path: string, options: SnapshotSaveOptions, token: CancelToken): Promise<Outcome<void>>
  /** Write a copy of a snapshot of a disk into an archive, with other labels. A cancel leaves no file. */
  copySnapshot(reference: string, path: string, labels: Record<string, string>, recordIntegrity: boolean, token: CancelToken): Promise<Outcome<SnapshotDetail>>
  /**
   * Take the snapshots of archives into a group, all or none. What was being published when this was cancelled is whole,
   * and kept; otherwise a failure or a cancel leaves nothing.
   */
  loadSnapshots(paths: Array<string>, options: SnapshotLoadOptions, token: CancelToken): Promise<Outcome<Array<SnapshotInfo>>>
  /** Remove a snapshot. It is not cancelled when it has begun. */
  removeSnapshot(reference: string, force: boolean, token: CancelToken): Promise<Outcome<void>>
  /** Read the head of a group, or make `group:member` its head. */
  snapshotGroupHead(selector: string, token: CancelToken): Promise<Outcome<SnapshotHead>>
  /** Make a volume. When this fails or is cancelled, the name is free again before it answers. */
  createVolume(options: VolumeOptions, token: CancelToken): Promise<Outcome<VolumeInfo>>
  /** Look a volume up by name. */
  getVolume(name: string, token: CancelToken): Promise<Outcome<VolumeInfo>>
  /** All volumes, the newest first. */
  listVolumes(token: CancelToken): Promise<Outcome<Array<VolumeInfo>>>
  /**
   * Remove a volume that no sandbox has mounted, with all that is in it. A removal that has begun goes on when it is
   * cancelled.
   */
  removeVolume(name: string, token: CancelToken): Promise<Outcome<void>>
  /** Open a volume for its files. */
  openVolume(name: string, token: CancelToken): Promise<Outcome<Volume>>
}

/** Cancels the one call that it is passed to. The call answers `Cancelled` when its work is undone. */
export declare class CancelToken {
  constructor()
  /** Ask the call to stop. Idempotent, and harmless after the call has ended. */
  cancel(): void
}

/** One engine: made when the `Native` service is built, closed when its scope closes. */
export declare class Engine {
  /** Connect to whatever agent listens at a path. */
  connectAgent(path: string, timeoutMs: number, token: CancelToken): Promise<Outcome<AgentClient>>
  constructor()
  /** Open a backend on this machine. */
  openLocal(options: LocalOptions, token: CancelToken): Promise<Outcome<Backend>>
  /** Open a backend on a control plane. Nothing is sent to it yet. */
  openCloud(options: CloudOptions, token: CancelToken): Promise<Outcome<Backend>>
  /** What is alive now. */
  live(): LiveHandles
  /**
   * Refuse new calls, cancel the ones in flight, wait until the last has ended, and say what is
   * still alive. Idempotent.
   */
  close(): Promise<LiveHandles>
  /** The pair that a boot in this home would launch. Nothing is made and nothing is executed. */
  resolveRuntime(options: LocalOptions, token: CancelToken): Promise<Outcome<ResolvedPair>>
  /** What is wrong with a home, which need not exist. Nothing stays that was not there. */
  checkHome(options: LocalOptions, token: CancelToken): Promise<Outcome<HomeReport>>
  /**
   * Put a pair of the right version into a home, whole or not at all. A cancel that comes after the last file was
   * written comes too late. A whole pair that is there already stays, unless it is of another version or `force`.
   */
  installRuntime(options: InstallOptions, token: CancelToken): Promise<Outcome<ResolvedPair>>
  /** Log in to an SSH server. */
  sshConnect(options: SshClientOptions, token: CancelToken): Promise<Outcome<SshClient>>
}

/** A program that was started. */
export declare class Exec {
  /** The process id in the guest. */
  get pid(): number
  /**
   * The next events of those that are wanted: waits for one, then takes what else is there, up to about `max_bytes`.
   * An empty list means that the program has ended and all of them were read.
   */
  read(wanted: 'stdout' | 'stderr' | 'all' | 'events', maxBytes: number, token: CancelToken): Promise<Outcome<Array<ExecEvent>>>
  /** Wait for the program's end: its exit code. What it has printed may not have been read by then. */
  wait(token: CancelToken): Promise<Outcome<number>>
  /** Wait for the program's end and take the output that nobody has read. */
  collect(token: CancelToken): Promise<Outcome<ExecOutput>>
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

/** A file that is open in the guest. */
export declare class GuestFile {
  /** What the guest says of it. */
  stat(token: CancelToken): Promise<Outcome<FileInfo>>
  /** Up to `len` bytes at `offset`; fewer at the end of the file, and never more than 4 MiB. */
  read(offset: number, len: number, token: CancelToken): Promise<Outcome<Buffer>>
  /** Write all of `data` at `offset`, or at the end when the file was opened for that. */
  write(offset: number, data: Buffer, token: CancelToken): Promise<Outcome<void>>
  /** Change what is known of it. */
  set(attributes: FileAttributes, token: CancelToken): Promise<Outcome<void>>
  /** Close it, and give the handle back. */
  close(): Promise<Outcome<void>>
}

/** The logs of a sandbox, as they are read. */
export declare class LogStream {
  /** The next entries: waits for one, then takes what else is there, up to about `max_bytes`. An empty list is the end. */
  read(maxBytes: number, token: CancelToken): Promise<Outcome<Array<LogEntry>>>
  /** Give the handle back. */
  close(): Promise<void>
}

/** Where one call that boots a sandbox says what it does. */
export declare class Progress {
  /** `listens`: somebody will read the events. The stages are kept in any case. */
  constructor(listens: boolean)
  /** The next events: waits for one, then takes all that are there. An empty list means that there will be no more. */
  read(token: CancelToken): Promise<Outcome<Array<ProgressEvent>>>
  /** There will be no more events: the call has ended, or was never made. */
  end(): void
  /** The stages that have ended, in the order of their ends. */
  stages(): Array<BootStage>
}

/** A running sandbox. */
export declare class Sandbox {
  /**
   * Cut the sandbox as it is now and start a child from there; the sandbox itself goes on, or stays paused. When this
   * fails or is cancelled, nothing of the child is left before it answers.
   */
  branch(name: string, options: BranchOptions, progress: Progress, token: CancelToken): Promise<Outcome<Sandbox>>
  /**
   * The same for several children of one cut, each with its own outcome, in the order of the names. A failure of all
   * is one of the source. A cancel leaves no child.
   */
  branchMany(names: Array<string>, options: BranchOptions, token: CancelToken): Promise<Outcome<Array<BranchOutcome>>>
  /** What the guest says of a file, or of the link itself. */
  fileStat(path: string, follow: boolean, token: CancelToken): Promise<Outcome<FileInfo>>
  /** A path without links, of something that exists. */
  fileRealPath(path: string, token: CancelToken): Promise<Outcome<string>>
  /** Where a link points to. */
  fileReadLink(path: string, token: CancelToken): Promise<Outcome<string>>
  /** Make a link to whatever `target` is. */
  fileSymlink(target: string, path: string, token: CancelToken): Promise<Outcome<void>>
  /** Make a directory; with `recursive` also those above, and none that is there. */
  fileMakeDirectory(path: string, recursive: boolean, mode: number | undefined | null, token: CancelToken): Promise<Outcome<void>>
  /** Remove a file or a link; with `recursive` also a directory and all below. With `force` it need not exist. */
  fileRemove(path: string, recursive: boolean, force: boolean, token: CancelToken): Promise<Outcome<void>>
  /** Rename a file or a directory within the guest. */
  fileRename(from: string, to: string, token: CancelToken): Promise<Outcome<void>>
  /** Copy the content and the mode of a file within the guest. */
  fileCopy(from: string, to: string, token: CancelToken): Promise<Outcome<void>>
  /** Change what is known of a file. */
  fileSet(path: string, attributes: FileAttributes, token: CancelToken): Promise<Outcome<void>>
  /** The entries of a directory, or of the whole tree below it; at most a million. */
  fileList(path: string, recursive: boolean, token: CancelToken): Promise<Outcome<Array<FileEntry>>>
  /** A whole file, if it has no more than `limit` bytes, whatever it says about its size. */
  fileRead(path: string, limit: number, token: CancelToken): Promise<Outcome<Buffer>>
  /** Write a whole file. When it is cancelled, a part of it may be written. */
  fileWrite(path: string, data: Buffer, options: OpenOptions, token: CancelToken): Promise<Outcome<void>>
  /** Open a file. */
  fileOpen(path: string, options: OpenOptions, token: CancelToken): Promise<Outcome<GuestFile>>
  /** All log entries that are there, in the order of their time. */
  logs(options: LogOptions, token: CancelToken): Promise<Outcome<Array<LogEntry>>>
  /** Stream the log entries. */
  logStream(options: LogStreamOptions, token: CancelToken): Promise<Outcome<LogStream>>
  /** The newest sample of this sandbox. Waits for the first one, at most until the deadline. */
  metrics(deadlineMs: number, token: CancelToken): Promise<Outcome<MetricsReading>>
  /**
   * Change the sandbox, or say what a change would do. Not atomic: what a running VM has taken when this fails or is
   * cancelled stays.
   */
  modify(changes: ModifyChanges, options: ModifyOptions, token: CancelToken): Promise<Outcome<ModifyPlan>>
  /** Suspend the VM, which keeps its memory. One that is paused is no failure. A cancelled pause is taken back. */
  pause(guestFlush: 'auto' | 'required' | 'skip', token: CancelToken): Promise<Outcome<void>>
  /** Let a paused VM run on. One that runs is no failure. When this is cancelled, the VM may run or not. */
  resume(token: CancelToken): Promise<Outcome<void>>
  get name(): string
  get id(): string
  /** It ran already when this handle was made: the call that made it has begun nothing. */
  get connected(): boolean
  /** The shell that its scripts run in. */
  get shell(): string
  /** Where its programs start; at the root, when that is absent. */
  get workdir(): string | null
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
  /** Ask the VM to end when its work is done, and do not wait. */
  drain(token: CancelToken): Promise<Outcome<void>>
  /** Wait until the VM has ended, whoever ends it. */
  wait(token: CancelToken): Promise<Outcome<StopResult>>
  /** Stop, and start again: the same sandbox, in a new VM, behind the same handle. */
  restart(options: StopOptions, progress: Progress, token: CancelToken): Promise<Outcome<void>>
  /** The round trip to the guest's agent, in milliseconds. It does not count as activity. */
  ping(token: CancelToken): Promise<Outcome<number>>
  /** Count as activity, so that the idle timeout starts anew. Answers with the number of the activity. */
  touch(token: CancelToken): Promise<Outcome<number>>
  /** The sandbox as the backend's catalogue has it now. */
  info(token: CancelToken): Promise<Outcome<SandboxInfo>>
  /** Let the VM live on when this handle is given back, without an owner. */
  detach(token: CancelToken): Promise<Outcome<void>>
  /**
   * End the sandbox and give the handle back. Runs to its own deadlines, also while the engine is closing: this is
   * what keeps the promise that nothing is left.
   */
  end(ending: Ending, options: StopOptions): Promise<Outcome<void>>
  /**
   * Keep the sandbox as a snapshot. It goes on, or stays as it is. What was being published when this was cancelled is
   * whole, and kept.
   */
  snapshot(options: SnapshotOptions, token: CancelToken): Promise<Outcome<SnapshotDetail>>
  /** Serve this sandbox to SSH clients until the handle is closed. */
  sshServer(options: SshServerOptions, token: CancelToken): Promise<Outcome<SshServer>>
  /** Log in to this sandbox within this process: no socket, and keys that nobody else has. */
  sshClient(user: string | undefined | null, token: CancelToken): Promise<Outcome<SshClient>>
  /** Carry a file or a tree of the host into the guest. */
  upload(options: TransferOptions, progress: TransferProgress, token: CancelToken): Promise<Outcome<Transferred>>
  /** Carry a file or a tree of the guest to the host. */
  download(options: TransferOptions, progress: TransferProgress, token: CancelToken): Promise<Outcome<Transferred>>
  /** Connect to a TCP port, as the guest sees it: `host` is looked up there. */
  tunnel(host: string, port: number, token: CancelToken): Promise<Outcome<Tunnel>>
}

/** The files of a server. */
export declare class Sftp {
  /** Where the server begins, and what a path that does not begin with `/` is relative to. */
  get home(): string
  /** What the server has beyond version 3, by name. */
  get extensions(): Array<string>
  /** What the server says of a file, or of the link itself. */
  fileStat(path: string, follow: boolean, token: CancelToken): Promise<Outcome<FileInfo>>
  /** A path without links, of something that exists. */
  fileRealPath(path: string, token: CancelToken): Promise<Outcome<string>>
  /** Where a link points to. */
  fileReadLink(path: string, token: CancelToken): Promise<Outcome<string>>
  /** Make a link to whatever `target` is. */
  fileSymlink(target: string, path: string, token: CancelToken): Promise<Outcome<void>>
  /** Give a file a second name. */
  fileLink(from: string, to: string, token: CancelToken): Promise<Outcome<void>>
  /** Whether the server's user may read and write it. */
  fileAccess(path: string, readable: boolean, writable: boolean, token: CancelToken): Promise<Outcome<void>>
  /** Make a directory; with `recursive` also those above, and none that is there. */
  fileMakeDirectory(path: string, recursive: boolean, mode: number | undefined | null, token: CancelToken): Promise<Outcome<void>>
  /** Remove a file or a link; with `recursive` also a directory and all below. With `force` it need not exist. */
  fileRemove(path: string, recursive: boolean, force: boolean, token: CancelToken): Promise<Outcome<void>>
  /** Rename a file or a directory. */
  fileRename(from: string, to: string, token: CancelToken): Promise<Outcome<void>>
  /** Copy the content and the mode of a file. */
  fileCopy(from: string, to: string, token: CancelToken): Promise<Outcome<void>>
  /** Change what is known of a file. */
  fileSet(path: string, attributes: FileAttributes, token: CancelToken): Promise<Outcome<void>>
  /** The entries of a directory, or of the whole tree below it; at most a million. */
  fileList(path: string, recursive: boolean, token: CancelToken): Promise<Outcome<Array<FileEntry>>>
  /** A whole file, if it has no more than `limit` bytes, whatever it says about its size. */
  fileRead(path: string, limit: number, token: CancelToken): Promise<Outcome<Buffer>>
  /** Write a whole file. When it is cancelled, a part of it may be written. */
  fileWrite(path: string, data: Buffer, options: OpenOptions, token: CancelToken): Promise<Outcome<void>>
  /** Open a file. */
  fileOpen(path: string, options: OpenOptions, token: CancelToken): Promise<Outcome<SftpFile>>
  /** End SFTP, with all that is open, and give the handle back. */
  close(): Promise<void>
}

/** A file that is open on a server. */
export declare class SftpFile {
  /** What the server says of it. */
  stat(token: CancelToken): Promise<Outcome<FileInfo>>
  /** Up to `len` bytes at `offset`; fewer at the end of the file, and never more than 4 MiB. */
  read(offset: number, len: number, token: CancelToken): Promise<Outcome<Buffer>>
  /** Write all of `data` at `offset`, or at the end when the file was opened for that. */
  write(offset: number, data: Buffer, token: CancelToken): Promise<Outcome<void>>
  /** Change what is known of it. */
  set(attributes: FileAttributes, token: CancelToken): Promise<Outcome<void>>
  /** What is written goes to the server's disk. */
  sync(token: CancelToken): Promise<Outcome<void>>
  /** Close it, and give the handle back. */
  close(): Promise<Outcome<void>>
}

/** A client that is logged in. */
export declare class SshClient {
  /** Start SFTP. */
  sftp(token: CancelToken): Promise<Outcome<Sftp>>
  /** Of the server's key: `SHA256:…`. */
  get fingerprint(): string
  /** Close every connection, with what is open on it, and give the handle back. */
  close(): Promise<void>
  /** Start a program, or the login shell. */
  spawn(options: SshProgramOptions, token: CancelToken): Promise<Outcome<SshProgram>>
}

/** A program that was started on a server. */
export declare class SshProgram {
  /**
   * The next output of what is wanted: waits for some, then takes what else is there, up to about `max_bytes`. An empty
   * list means that all was read.
   */
  read(wanted: 'stdout' | 'stderr' | 'all' | 'events', maxBytes: number, token: CancelToken): Promise<Outcome<Array<ExecEvent>>>
  /** Wait for the program's end. What it has printed may not have been read by then. */
  wait(token: CancelToken): Promise<Outcome<SshExit>>
  /** Wait for the end of the program and of all of its output, and take that. */
  collect(token: CancelToken): Promise<Outcome<SshCollected>>
  /** Write to the program's stdin; answers when the server has room for it. */
  write(data: Buffer, token: CancelToken): Promise<Outcome<void>>
  /** End the program's stdin. Idempotent. */
  closeStdin(token: CancelToken): Promise<Outcome<void>>
  /** Send a signal, by its name without `SIG`. The protocol has no answer to that. */
  signal(name: string, token: CancelToken): Promise<Outcome<void>>
  /** Tell the program's terminal its size. */
  resize(rows: number, columns: number, token: CancelToken): Promise<Outcome<void>>
  /** Kill the program if it still runs, wait a while for the server's word, and give the handle back. */
  close(): Promise<SshClosed>
}

/** An SSH server of a sandbox. */
export declare class SshServer {
  /** The address, of TCP. */
  get host(): string | null
  /** The port, of TCP. */
  get port(): number | null
  /** The file, of a Unix socket. */
  get path(): string | null
  /** The public part of the host key, as a line of OpenSSH's. */
  get hostKey(): string
  /** Of the host key: `SHA256:…`. */
  get fingerprint(): string
  /** Accept no more, end every connection, wait for that, and give the handle back. */
  close(): Promise<void>
}

/** Where one transfer says how far it is: its newest state, whenever it is asked. */
export declare class TransferProgress {
  constructor()
  /** What is new: waits for something, and a little since the last time. An empty list means that there will be no more. */
  read(token: CancelToken): Promise<Outcome<Array<TransferEvent>>>
  /** There will be no more: the call has ended, or was never made. */
  end(): void
}

/** A TCP connection from within the guest. */
export declare class Tunnel {
  /**
   * The next bytes, as soon as there are some; empty at the end of what the guest's end sends. A read that is cancelled
   * has taken nothing.
   */
  read(token: CancelToken): Promise<Outcome<Buffer>>
  /**
   * Write bytes; answers when the guest's end has given credit for all of them. When this is cancelled, they are written
   * or not, all of them, and before those of later writes.
   */
  write(data: Buffer, token: CancelToken): Promise<Outcome<void>>
  /** End what the host's end sends, after all that was written. Idempotent. */
  finish(token: CancelToken): Promise<Outcome<void>>
  /**
   * End the tunnel and give the handle back. With `linger`, what was written is delivered first, as far as the guest's
   * end takes it within 10 seconds.
   */
  close(linger: boolean): Promise<void>
}

/** An open volume: the methods of a sandbox for its files, and those that a guest needs a program for. */
export declare class Volume {
  /** What the catalogue said when it was opened. */
  get info(): VolumeInfo
  /** What is known of a file, or of the link itself. */
  fileStat(path: string, follow: boolean, token: CancelToken): Promise<Outcome<FileInfo>>
  /** A path without links, of something that exists. */
  fileRealPath(path: string, token: CancelToken): Promise<Outcome<string>>
  /** Where a link points to. */
  fileReadLink(path: string, token: CancelToken): Promise<Outcome<string>>
  /** Make a link to whatever `target` is. */
  fileSymlink(target: string, path: string, token: CancelToken): Promise<Outcome<void>>
  /** Make a directory; with `recursive` also those above, and none that is there. */
  fileMakeDirectory(path: string, recursive: boolean, mode: number | undefined | null, token: CancelToken): Promise<Outcome<void>>
  /** Remove a file or a link; with `recursive` also a directory and all below. With `force` it need not exist. */
  fileRemove(path: string, recursive: boolean, force: boolean, token: CancelToken): Promise<Outcome<void>>
  /** Rename a file or a directory. */
  fileRename(from: string, to: string, token: CancelToken): Promise<Outcome<void>>
  /** Copy the content and the mode of a file. */
  fileCopy(from: string, to: string, token: CancelToken): Promise<Outcome<void>>
  /** Give a file a second name. */
  fileLink(from: string, to: string, token: CancelToken): Promise<Outcome<void>>
  /** Whether this process may read and write a file. */
  fileAccess(path: string, readable: boolean, writable: boolean, token: CancelToken): Promise<Outcome<void>>
  /** Change what is known of a file. */
  fileSet(path: string, attributes: FileAttributes, token: CancelToken): Promise<Outcome<void>>
  /** The entries of a directory, or of the whole tree below it; at most a million. */
  fileList(path: string, recursive: boolean, token: CancelToken): Promise<Outcome<Array<FileEntry>>>
  /** A whole file, if it has no more than `limit` bytes. */
  fileRead(path: string, limit: number, token: CancelToken): Promise<Outcome<Buffer>>
  /** Write a whole file. When it is cancelled, a part of it may be written. */
  fileWrite(path: string, data: Buffer, options: OpenOptions, token: CancelToken): Promise<Outcome<void>>
  /** Begin a file that takes the place of the one that is there in one step. */
  fileReplace(path: string, mode: number | undefined | null, token: CancelToken): Promise<Outcome<VolumeReplacement>>
  /** Open a file. */
  fileOpen(path: string, options: OpenOptions, token: CancelToken): Promise<Outcome<VolumeFile>>
  /** Give the volume back. Its open files stay open. */
  close(): Promise<void>
}

/** An open file of a volume. */
export declare class VolumeFile {
  /** What is known of it. */
  stat(token: CancelToken): Promise<Outcome<FileInfo>>
  /** Up to `len` bytes at `offset`; fewer at the end of the file, and never more than 4 MiB. */
  read(offset: number, len: number, token: CancelToken): Promise<Outcome<Buffer>>
  /** Write all of `data` at `offset`, or at the end when the file was opened for that. */
  write(offset: number, data: Buffer, token: CancelToken): Promise<Outcome<void>>
  /** Change what is known of it. */
  set(attributes: FileAttributes, token: CancelToken): Promise<Outcome<void>>
  /** What was written is on the disk when this answers. */
  sync(token: CancelToken): Promise<Outcome<void>>
  /**
   * Close it, and give the handle back. What was written to a file of a control plane is dropped when its writer has
   * abandoned it; elsewhere it is written already.
   */
  close(abandoned?: boolean | undefined | null): Promise<Outcome<void>>
}

/** A file that is written before it takes the place of another. */
export declare class VolumeReplacement {
  /** Write more of it. */
  write(data: Buffer, token: CancelToken): Promise<Outcome<void>>
  /** Put it in its place, all of it on the disk. When this fails or is cancelled, the old one stays. */
  publish(token: CancelToken): Promise<Outcome<void>>
  /** Give the handle back. What is not in its place is gone when this answers. */
  close(): Promise<void>
}

/** One frame from the guest. */
export interface AgentFrame {
  id: number
  flags: number
  /** The name of its message; none of a bulk record. */
  kind?: string
  /** All that follows the header: the envelope in CBOR, or the bulk record. */
  body: Buffer
}

/** What a guest's agent says of itself first. */
export interface AgentReady {
  /** Of the protocol. */
  generation: number
  /** Empty when the agent does not say. */
  agentVersion: string
  bootTimeNs: bigint
  initTimeNs: bigint
  readyTimeNs: bigint
  /** The whole envelope. */
  body: Buffer
}

/** Who asks a registry. Not `Debug`: it holds a password. */
export interface AuthOptions {
  username: string
  password: string
}

/** Why a sandbox could not start, as its runtime recorded it. */
export interface BootFailure {
  /** Milliseconds since 1970. */
  timestamp?: number
  stage: string
  errno?: number
  message: string
}

/** A stage that has ended. */
export interface BootStage {
  stage: string
  /** Since the `Progress` was made. */
  startedMs: number
  durationMs: number
  outcome: 'success' | 'error' | 'cancelled'
}

/** How to branch. What a child is made of is its source's. */
export interface BranchOptions {
  /** Whether the guest must write back what it holds for its disks before the cut. */
  guestFlush: 'auto' | 'required' | 'skip'
  /** Record a digest of each disk layer that is cut. */
  recordIntegrity: boolean
  /** Labels of the child, over those of its source. */
  labels: Record<string, string>
  onClose: Ending
}

/** What became of one child of several. */
export type BranchOutcome =
  | { _tag: 'Started'; name: string; sandbox: Sandbox }
  | { _tag: 'Failed'; name: string; failure: Failure }

/** So many in so long, and once so many more. */
export interface BucketOptions {
  size: number
  perMs: number
  burst?: number
}

/** Where a control plane is, and as whom to ask. */
export interface CloudOptions {
  /** The engine's own when absent. */
  url?: string
  apiKey: string
  /** How long one request may take, its answer included; the engine's 30 seconds when absent. */
  requestTimeoutMs?: number
}

/** The other side of a packet. */
export interface DestinationOptions {
  kind: 'any' | 'ip' | 'cidr' | 'domain' | 'domain-suffix' | 'group'
  /** Empty for any. */
  value: string
}

/** Who answers questions for names. */
export interface DnsOptions {
  nameservers?: Array<string>
  rebindProtection?: boolean
  queryTimeoutMs?: number
}

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
  | { _tag: 'Dropped'; output: 'stdout' | 'stderr'; bytes: number }
  | { _tag: 'StdinFailed'; message: string; errno?: number }
  | { _tag: 'Exited'; code: number }

/** What to run. */
export interface ExecOptions {
  /** The sandbox's default command when absent. */
  command?: string
  args: Array<string>
  cwd?: string
  user?: string
  env?: Record<string, string>
  rlimits?: Array<RlimitOptions>
  /** The size of its terminal; none when absent. */
  tty?: TerminalSize
  /** Kill the program after this time. */
  timeoutMs?: number
  /** What the program reads from stdin, to its end. Absent with `spawn`, its stdin stays open. */
  stdinData?: Buffer
  output: OutputPolicy
}

/** A program's whole output. */
export interface ExecOutput {
  /** Its exit code; -1 when a signal ended it (the agent of 0.7.2 does not say which). */
  exitCode: number
  stdout: Buffer
  stderr: Buffer
  droppedStdout: number
  droppedStderr: number
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
  | { _tag: 'ExecTimeout'; message: string; timeoutMs: number; stdout: string; stderr: string }
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
  | { _tag: 'ImageUnauthorized'; message: string; reference: string }
  | { _tag: 'ImageRateLimited'; message: string; reference: string }
  | { _tag: 'ImageTls'; message: string; reference: string }
  | { _tag: 'ImageArchiveInvalid'; message: string; path: string }
  | { _tag: 'DiskFull'; message: string; path?: string }
  | { _tag: 'RuntimeVersionMismatch'; message: string; expected: string; actual: string; path?: string }
  | { _tag: 'KillTimeout'; message: string }
  | { _tag: 'AgentReadyTimeout'; message: string }
  | { _tag: 'ExecSessionLost'; message: string }
  | { _tag: 'OutputOverflow'; message: string; limitBytes: number; stdout: string; stderr: string }
  | { _tag: 'StdinFailed'; message: string; errno?: number }
  | { _tag: 'MetricsNotReady'; message: string }
  | { _tag: 'TunnelRefused'; message: string; host: string; port: number; errno?: number }
  | { _tag: 'TunnelLost'; message: string; errno?: number }
  | { _tag: 'SshConnectFailed'; message: string; errno?: number }
  | { _tag: 'SshHostKeyMismatch'; message: string; expected: Array<string>; actual: string }
  | { _tag: 'SshLoginRefused'; message: string; user: string }
  | { _tag: 'SshRequestRefused'; message: string; request: string }
  | { _tag: 'SshConnectionLost'; message: string }
  | { _tag: 'SshNoExitStatus'; message: string }
  | { _tag: 'HomePathTooLong'; message: string; path: string; limit: number }
  | { _tag: 'HomeNotWritable'; message: string; path: string; errno?: number }
  | { _tag: 'HomeWithoutXattrs'; message: string; path: string; errno?: number }
  | { _tag: 'RootfsNotFound'; message: string; path: string }
  | { _tag: 'RuntimeArchiveInvalid'; message: string; path: string }
  | { _tag: 'RollbackIncomplete'; message: string; sandbox: string }
  | { _tag: 'SandboxBusy'; message: string; sandbox: string }
  | { _tag: 'SandboxPaused'; message: string }
  | { _tag: 'CaptureUnsupported'; message: string }
  | { _tag: 'VolumeInUse'; message: string; volume: string; sandbox?: string }
  | { _tag: 'FileFailed'; message: string; path: string; errno?: number; errnoName?: string }
  | { _tag: 'ChangeRefused'; message: string; field: string }
  | { _tag: 'RestartRequired'; message: string; field: string }
  | { _tag: 'HostIo'; message: string; operation: string; path: string; errno?: number }
  | { _tag: 'UnsafeName'; message: string; name: string; path: string }
  | { _tag: 'TransferConflict'; message: string; path: string; expected: string; found: string }
  | { _tag: 'TransferLimit'; message: string; limit: string; maximum: number; path: string }
  | { _tag: 'TransferRefused'; message: string; path: string; why: string }
  | { _tag: 'EngineClosed'; message: string }
  | { _tag: 'HandleClosed'; message: string; kind: string }

/** What to change of a file; what is absent stays. */
export interface FileAttributes {
  mode?: number
  uid?: number
  gid?: number
  size?: number
  /** Seconds since 1970. */
  accessedAt?: number
  modifiedAt?: number
}

/** An entry of a listing. */
export interface FileEntry {
  /** Below the directory that was listed. */
  path: string
  info: FileInfo
}

/** What the guest says of a file. */
export interface FileInfo {
  /** `file`, `dir`, `symlink` or `other`. */
  kind: string
  /** With the bits of the type. */
  mode: number
  size: number
  uid: number
  gid: number
  /** Seconds since 1970; the protocol has no finer ones. */
  accessedAt?: number
  modifiedAt?: number
  /** The protocol has none of a guest's file. */
  node?: FileNode
}

/** Where a file of this host is kept. */
export interface FileNode {
  device: bigint
  number: bigint
  links: bigint
  /** Which device it is, if it is one. */
  special: bigint
  blockSize: bigint
  blocks: bigint
}

/** What a home can hold. */
export interface HomeReport {
  home: string
  /** The home, or what exists above it. */
  existing: string
  /** All that is wrong with it. */
  failures: Array<Failure>
}

/** What an image says of the program that it is for. */
export interface ImageConfig {
  digest: string
  /** `NAME=value`. */
  env: Array<string>
  cmd?: Array<string>
  entrypoint?: Array<string>
  workdir?: string
  user?: string
  labels: Record<string, string>
  stopSignal?: string
}

/** Everything that the catalogue has of an image. */
export interface ImageDetail {
  image: ImageInfo
  config?: ImageConfig
  layers: Array<ImageLayer>
}

/** An image as the catalogue has it. Sizes in bytes, times in milliseconds since 1970. */
export interface ImageInfo {
  reference: string
  /** Of its manifest. */
  digest?: string
  os?: string
  architecture?: string
  layerCount: number
  /** Of the layers as they were downloaded. */
  size?: number
  createdAt?: number
  lastUsedAt?: number
}

/** A layer of an image. */
export interface ImageLayer {
  /** Of the layer before it was compressed: what it is, whoever packed it. */
  diffId: string
  /** Of the layer as it was downloaded. */
  digest: string
  mediaType?: string
  size?: number
  /** What its file in the cache takes; nothing when there is none. */
  unpackedSize?: number
}

/** Where the root file system comes from. */
export type ImageOptions =
  | { _tag: 'Text'; text: string }
  | { _tag: 'Oci'; reference: string }
  | { _tag: 'Directory'; path: string; followRootSymlinks: boolean }
  | { _tag: 'Disk'; path: string; format: 'raw' | 'qcow2' | 'vmdk'; fstype?: string }

/** What was removed because nothing uses it. */
export interface ImagePrune {
  references: number
  manifests: number
  layers: number
  fsmeta: number
  vmdk: number
  bytes: number
}

/** The guest's first process. */
export interface InitOptions {
  command: string
  args: Array<string>
  env: Record<string, string>
}

/** A pair to put into a home, by one of its sources. */
export interface InstallOptions {
  home?: string
  pair?: RuntimePair
  directory?: string
  /** A `.tar.gz`. */
  archive?: string
  /** Of the archive, in hexadecimal digits. */
  sha256?: string
  /** Replace what is there. */
  force: boolean
}

/** The files of a certificate and its key. */
export interface InterceptCaOptions {
  cert: string
  key: string
}

/** What the guest's network interface has instead of what the engine picks. */
export interface InterfaceOptions {
  mac?: Array<number>
  mtu?: number
  ipv4?: string
  ipv4Pool?: string
  ipv6?: string
  ipv6Pool?: string
}

/** Which sandboxes to list. */
export interface ListOptions {
  /** Of those that have all of these. */
  labels: Record<string, string>
  /** 1 to 100. */
  limit: number
  /** Where the page before ended. */
  cursor?: string
}

/** What is alive in an engine. All zero is the only good answer at its end. */
export interface LiveHandles {
  backends: number
  sandboxes: number
  execs: number
  logs: number
  files: number
  tunnels: number
  sshServers: number
  sshClients: number
  sshPrograms: number
  sftps: number
  volumes: number
  agents: number
  agentStreams: number
  calls: number
}

/** Where a local backend keeps its state. */
export interface LocalOptions {
  /** Its directory; the engine's own rule (`MSB_HOME`, then `~/.microsandbox`) when absent. */
  home?: string
}

/** One entry of a sandbox's logs. */
export interface LogEntry {
  /** When the host got it, in milliseconds since 1970. */
  timestamp: number
  source: 'stdout' | 'stderr' | 'output' | 'system'
  sessionId?: number
  text: string
  cursor: string
}

/** Which entries of a sandbox's logs to read. */
export interface LogOptions {
  sources?: Array<'stdout' | 'stderr' | 'output' | 'system'>
  /** Milliseconds since 1970, inclusive. */
  sinceMs?: number
  /** Milliseconds since 1970, exclusive. */
  untilMs?: number
  /** The last so many of what the others leave. */
  tail?: number
}

/** Which entries of a sandbox's logs to stream. */
export interface LogStreamOptions {
  sources?: Array<'stdout' | 'stderr' | 'output' | 'system'>
  /** Milliseconds since 1970, inclusive. */
  sinceMs?: number
  /** After the entry that this is the cursor of. */
  cursor?: string
  /** Milliseconds since 1970, exclusive. */
  untilMs?: number
  /** Go on with what is written, until the sandbox stops. */
  follow?: boolean
}

/** What came of asking a sandbox for a sample. */
export type MetricsReading =
  | { _tag: 'Running'; sample: MetricsSample }
  | { _tag: 'Ended' }

/** One sample. Sizes in bytes; 64-bit counters cross as `bigint`, since a number would round them in the end. */
export interface MetricsSample {
  /** When the sandbox was sampled, in milliseconds since 1970. */
  sampledAt: number
  uptimeMs: number
  /** 100 is one processor's whole time. */
  cpuPercent: number
  vcpuTimeNs: bigint
  memory: bigint
  memoryAvailable?: bigint
  memoryHostResident?: bigint
  memoryLimit: bigint
  diskRead: bigint
  diskWritten: bigint
  networkReceived: bigint
  networkSent: bigint
  upperUsed?: bigint
  upperFree?: bigint
  upperHostAllocated?: bigint
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

export interface MountedVolume {
  guest: string
  kind: string
  /** The host path, or the name of the volume. */
  source?: string
  readonly: boolean
}

/** Something at a path of the guest. */
export interface MountOptions {
  guest: string
  source: MountSource
  readonly?: boolean
  noexec?: boolean
  nosuid?: boolean
  nodev?: boolean
  statVirtualization?: 'strict' | 'relaxed' | 'off'
  hostPermissions?: 'private' | 'mirror'
  followRootSymlinks?: boolean
  owner?: OwnerOptions
}

/** What is mounted. */
export type MountSource =
  | { _tag: 'Bind'; path: string; quotaMib?: number }
  | { _tag: 'Owned'; sizeMib?: number; quotaMib?: number }
  | { _tag: 'Named'; name: string; mode: 'existing' | 'create' | 'ensure-exists'; sizeMib?: number; quotaMib?: number; labels: Record<string, string> }
  | { _tag: 'Tmpfs'; sizeMib?: number }
  | { _tag: 'Disk'; path: string; format?: 'raw' | 'qcow2' | 'vmdk'; fstype?: string }

/** A sample of one of several sandboxes. */
export interface NamedSample {
  name: string
  sample: MetricsSample
}

/** The network of a sandbox. */
export interface NetworkOptions {
  policy?: PolicyOptions
  dns?: DnsOptions
  tls?: TlsOptions
  proxy?: ProxyOptions
  egressLimit?: RateLimitOptions
  ingressLimit?: RateLimitOptions
  /** Zero is no limit. */
  maxTcpConnections?: number
  /** Zero is no limit. */
  maxUdpConnections?: number
  strict?: boolean
  trustHostCas?: boolean
  interface?: InterfaceOptions
}

/** How to open a file. */
export interface OpenOptions {
  flag: string
  mode?: number
  /** Refuse a path that is a symbolic link. */
  noFollow: boolean
}

/** What becomes of output that nobody reads. Sizes in bytes. */
export type OutputPolicy =
  | { _tag: 'Wait'; limit: number }
  | { _tag: 'Fail'; limit: number }
  | { _tag: 'Keep'; head: number; tail: number }
  | { _tag: 'Discard' }

/** The guest's owner of files that the host made. */
export interface OwnerOptions {
  uid: number
  gid: number
}

/** One change. */
export type PatchOptions =
  | { _tag: 'Text'; path: string; content: string; mode?: number; replace: boolean }
  | { _tag: 'File'; path: string; content: Buffer; mode?: number; replace: boolean }
  | { _tag: 'CopyFile'; from: string; to: string; mode?: number; replace: boolean }
  | { _tag: 'CopyDirectory'; from: string; to: string; replace: boolean }
  | { _tag: 'Symlink'; target: string; path: string; replace: boolean }
  | { _tag: 'MakeDirectory'; path: string; mode?: number }
  | { _tag: 'Remove'; path: string }
  | { _tag: 'Append'; path: string; content: string }

/** One change of a plan. */
export interface PlannedChange {
  field: string
  change: 'added' | 'updated' | 'removed'
  before?: string
  after?: string
  effect: 'live' | 'next-start' | 'restart' | 'unsupported'
  reason?: string
}

/** What a guest may reach, and who may reach it. */
export interface PolicyOptions {
  defaultEgress: 'allow' | 'deny'
  defaultIngress: 'allow' | 'deny'
  rules: Array<RuleOptions>
}

/** A port of the host that leads to one of the guest. */
export interface PortOptions {
  /** An address of the host. */
  bind: string
  host: number
  guest: number
  udp: boolean
}

/** Ports, both ends included. */
export interface PortRangeOptions {
  from: number
  to: number
}

/** What a boot tells: the engine's `PullProgress`, then the stages of the boot. */
export type ProgressEvent =
  | { _tag: 'Resolving'; reference: string }
  | { _tag: 'Resolved'; reference: string; manifestDigest: string; layerCount: number; totalBytes?: number }
  | { _tag: 'LayerDownloadProgress'; layer: number; digest: string; bytes: number; totalBytes?: number }
  | { _tag: 'LayerDownloadComplete'; layer: number; digest: string; bytes: number }
  | { _tag: 'LayerDownloadVerifying'; layer: number; digest: string }
  | { _tag: 'LayerMaterializeStarted'; layer: number; diffId: string }
  | { _tag: 'LayerMaterializeProgress'; layer: number; bytes: number; totalBytes: number }
  | { _tag: 'LayerMaterializeWriting'; layer: number }
  | { _tag: 'LayerMaterializeComplete'; layer: number; diffId: string }
  | { _tag: 'StitchMergingTrees'; layerCount: number }
  | { _tag: 'StitchWritingFsmeta' }
  | { _tag: 'StitchWritingVmdk' }
  | { _tag: 'StitchComplete' }
  | { _tag: 'PullComplete'; reference: string; layerCount: number }
  | { _tag: 'BootStage'; stage: string; /** Since the `Progress` was made. */
  startedMs: number; durationMs: number; outcome: 'success' | 'error' | 'cancelled' }

/** Who asks a proxy. The password is in a variable of this process. */
export interface ProxyCredentials {
  username: string
  passwordVariable: string
}

/** A proxy for what the guest sends. */
export type ProxyOptions =
  | { _tag: 'Socks4'; address: string; userId?: string }
  | { _tag: 'Socks5'; address: string; credentials?: ProxyCredentials }

export interface PublishedPort {
  host: number
  guest: number
  protocol: string
  bind: string
}

/** An image to pull into the cache of a backend. Not `Debug`: it holds a password. */
export interface PullImageOptions {
  reference: string
  pullPolicy?: 'always' | 'if-missing' | 'never'
  registry?: RegistryOptions
  /** `os/architecture` or `os/architecture/variant`. */
  platform?: string
  /** Make the flat root file system of it, instead of the layered one. */
  flat?: boolean
}

/** How much may pass in one direction. */
export interface RateLimitOptions {
  /** In bytes. */
  bandwidth?: BucketOptions
  packets?: BucketOptions
}

/** How to talk to a registry. Not `Debug`: it holds a password. */
export interface RegistryOptions {
  auth?: AuthOptions
  insecure: boolean
  caCerts?: Buffer
}

/** How the sandbox that has the name is ended first. */
export interface ReplaceOptions {
  timeoutMs?: number
}

/** How far a running VM has come with a new size. */
export interface Resized {
  resource: 'cpus' | 'memory'
  requested: string
  actual: string
  enforced: string
  state: 'accepted' | 'converging' | 'applied' | 'guest-refused' | 'failed'
}

/** A whole pair, and where each half comes from. */
export interface ResolvedPair {
  msb: string
  msbOrigin: 'environment' | 'package' | 'configuration' | 'home'
  /** As `msb` says it of itself; none when it says nothing. */
  version?: string
  libkrunfw: string
  libkrunfwOrigin: 'environment' | 'package' | 'configuration' | 'home' | 'beside'
}

export interface ResourceLimit {
  resource: string
  soft: number
  hard: number
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
  policy?: PolicyOptions
  /** Zero is no limit. */
  maxTcpConnections?: number
  /** Zero is no limit. */
  maxUdpConnections?: number
  allowMissingResources: boolean
  snapshotBase?: string
  labels: Record<string, string>
  onClose: Ending
}

/** A limit of every process in the guest; infinity is none. */
export interface RlimitOptions {
  resource: string
  soft: number
  hard: number
}

/** The writable layer over an image. */
export type RootDiskOptions =
  | { _tag: 'Managed'; sizeMib?: number }
  | { _tag: 'Tmpfs'; sizeMib?: number }
  | { _tag: 'Flat'; sizeMib?: number; cloneStrategy?: 'auto' | 'copy' | 'reflink'; fstype?: string }
  | { _tag: 'Disk'; path: string; format: 'raw' | 'qcow2'; fstype?: string }

/** One rule of a policy. No protocols are all of them, and no ports too. */
export interface RuleOptions {
  action: 'allow' | 'deny'
  direction: 'egress' | 'ingress' | 'any'
  destination: DestinationOptions
  protocols: Array<'tcp' | 'udp' | 'icmpv4' | 'icmpv6'>
  ports: Array<PortRangeOptions>
}

/** The runtime pair to launch: the `msb` executable and the guest kernel that belongs to it. */
export interface RuntimePair {
  msb: string
  libkrunfw: string
}

/** What a sandbox is made of, as the engine keeps it. Values of secrets are not part of it. */
export interface SandboxConfig {
  image: string
  cpus: number
  maxCpus: number
  memoryMib: number
  maxMemoryMib: number
  env: Record<string, string>
  labels: Record<string, string>
  workdir?: string
  shell?: string
  user?: string
  hostname?: string
  entrypoint?: Array<string>
  cmd?: Array<string>
  /** By name. */
  scripts: Record<string, string>
  ports: Array<PublishedPort>
  mounts: Array<MountedVolume>
  rlimits: Array<ResourceLimit>
  pullPolicy: string
  security: string
  logLevel?: string
  network: boolean
  /** None: no samples are taken. */
  metricsIntervalMs?: number
  ephemeral: boolean
  maxDurationSecs?: number
  idleTimeoutSecs?: number
}

/** A sandbox as the backend's catalogue has it. */
export interface SandboxInfo {
  name: string
  id: string
  status: string
  labels: Record<string, string>
  /** Milliseconds since 1970. */
  createdAt?: number
  updatedAt?: number
  lastFailure?: string
  /** What the next start takes. */
  config?: SandboxConfig
  /** What the VM that runs was started with. */
  activeConfig?: SandboxConfig
}

/** What a sandbox is made of. */
export interface SandboxOptions {
  name: string
  image: ImageOptions
  rootDisk?: RootDiskOptions
  cpus?: number
  maxCpus?: number
  memoryMib?: number
  maxMemoryMib?: number
  cpuPlacement?: 'inherit' | 'auto' | 'spread' | 'compact'
  placementProfile?: string
  transparentHugePages?: 'always' | 'madvise' | 'never'
  env?: Record<string, string>
  labels?: Record<string, string>
  workdir?: string
  shell?: string
  user?: string
  hostname?: string
  scripts?: Record<string, string>
  entrypoint?: Array<string>
  cmd?: Array<string>
  init?: InitOptions
  ports?: Array<PortOptions>
  mounts?: Array<MountOptions>
  vsock?: Array<VsockOptions>
  rlimits?: Array<RlimitOptions>
  pullPolicy?: 'always' | 'if-missing' | 'never'
  registry?: RegistryOptions
  logLevel?: 'quiet' | 'error' | 'warn' | 'info' | 'debug' | 'trace'
  /** Zero switches sampling off. */
  metricsIntervalMs?: number
  security?: 'default' | 'restricted'
  deploymentProfile?: 'single-tenant' | 'multi-tenant'
  maxDurationSecs?: number
  idleTimeoutSecs?: number
  ephemeral?: boolean
  replace?: ReplaceOptions
  /** Has no network device at all. */
  withoutNetwork?: boolean
  network?: NetworkOptions
  secrets?: Array<SecretOptions>
  secretViolation?: 'block' | 'block-and-log' | 'block-and-terminate'
  patches?: Array<PatchOptions>
  onClose: Ending
}

/** One page of a list. */
export interface SandboxPage {
  sandboxes: Array<SandboxInfo>
  /** Where to go on; none on the last page. */
  cursor?: string
}

/** Images to write to an archive. */
export interface SaveImagesOptions {
  references: Array<string>
  path: string
  format: 'docker' | 'oci'
}

/** A secret, and who may have it: a value, or the variable of this process that has it. Not `Debug`. */
export interface SecretOptions {
  env: string
  value?: string
  variable?: string
  hosts: Array<string>
  placeholder?: string
  inHeaders: boolean
  inQuery: boolean
  inBody: boolean
  passthroughHosts: Array<string>
  onViolation?: 'block' | 'block-and-log' | 'block-and-terminate'
  requireTlsIdentity: boolean
}

/** An entry that was left out. */
export interface SkippedEntry {
  path: string
  why: 'special' | 'link' | 'name' | 'vanished'
}

/** How to write an archive of a sandbox. */
export interface SnapshotArchiveOptions {
  plainTar: boolean
  /** In the place of a file that is there. */
  overwrite: boolean
}

/** A snapshot as its descriptor has it. */
export interface SnapshotDetail {
  id: string
  /** What a restore takes. */
  reference: string
  path: string
  name?: string
  group?: string
  digest: string
  scope: 'disk' | 'full'
  parent?: string
  image: string
  imageDigest: string
  sandbox?: string
  rootDisk: 'managed' | 'flat' | 'tmpfs'
  consistency: 'crash-consistent' | 'filesystem-consistent' | 'application-consistent'
  format?: 'raw' | 'qcow2'
  filesystem?: string
  size?: bigint
  layers: Array<SnapshotLayer>
  checkpoint?: string
  labels: Record<string, string>
  /** RFC 3339. */
  createdAt: string
  head?: SnapshotHead
}

/** The head of a group, and how it came to be that. */
export interface SnapshotHead {
  group: string
  previous?: string
  head: string
  reason: 'initialized' | 'fast-forwarded' | 'selected' | 'unchanged' | 'diverged' | 'unknown-ancestry' | 'ambiguous-candidates'
  changed: boolean
}

/** A snapshot as the backend's catalogue has it. */
export interface SnapshotInfo {
  id: string
  reference: string
  path?: string
  name?: string
  group?: string
  digest: string
  scope: 'disk' | 'full'
  parent?: string
  image: string
  format?: 'raw' | 'qcow2'
  filesystem?: string
  size?: bigint
  checkpoint?: string
  state: string
  locality: string
  availability: string
  migration: string
  migrationError?: string
  /** Milliseconds since 1970. */
  createdAt: number
  head?: SnapshotHead
}

/** One layer of the disk, the oldest first. */
export interface SnapshotLayer {
  id: string
  format: 'raw' | 'qcow2'
  /** As the guest sees it. */
  size: bigint
  parent?: string
  algorithm?: string
  digest?: string
}

/** Where to put what comes of archives. */
export interface SnapshotLoadOptions {
  directory?: string
  base?: string
  group?: string
  setHead: boolean
}

/** What to keep of a sandbox, and how. */
export interface SnapshotOptions {
  name: string
  /** Memory and programs too, and not only the disk. */
  full: boolean
  guestFlush: 'auto' | 'required' | 'skip'
  recordIntegrity: boolean
  labels: Record<string, string>
  /** Where its group is; the backend's own directory when absent. */
  directory?: string
  /** The name of its sandbox when absent. */
  group?: string
}

/** What to put into an archive of a snapshot. */
export interface SnapshotSaveOptions {
  parents: boolean
  image: boolean
  plainTar: boolean
  since?: string
  lastLayers?: number
}

/** What came of comparing a snapshot with the digests that were recorded. */
export interface SnapshotVerification {
  digest: string
  path: string
  algorithm?: string
  disk?: string
  checkpoint?: string
}

/** Which server, and who the client is there. */
export interface SshClientOptions {
  /** Of TCP, with `port`. */
  host?: string
  port?: number
  /** A Unix socket instead. */
  path?: string
  user: string
  /** One of these three: the private key as text, its file, or the socket of an agent. */
  key?: string
  keyPath?: string
  agent?: string
  /** Of `key` or `key_path`. */
  passphrase?: string
  /** Public keys as OpenSSH writes them, or fingerprints. */
  hostKeys: Array<string>
  connectMs: number
  /** None when absent. */
  keepaliveMs?: number
  inactivityMs?: number
}

/** Whether the server told that a program has ended. */
export interface SshClosed {
  confirmed: boolean
}

/** A program's end and the whole of its output. */
export interface SshCollected {
  exit: SshExit
  stdout: Buffer
  stderr: Buffer
}

/** How a program ended: its exit code, or the signal that ended it. */
export interface SshExit {
  code?: number
  /** Without `SIG`, as the protocol has it. */
  signal?: string
  coreDumped: boolean
  /** What the server says of the signal; often nothing. */
  message: string
}

/** What to run on a server. */
export interface SshProgramOptions {
  /** The user's login shell when absent. */
  command?: string
  env?: Record<string, string>
  pty?: SshPty
  /** Kill the program after this time. */
  timeoutMs?: number
  /** Whether it is written to; an empty input when not. */
  stdin: boolean
  /** Collected: more than `limit` bytes of output are a failure. Else it waits at so many that nobody has read. */
  collected: boolean
  limit: number
}

/** The terminal of a program on a server. */
export interface SshPty {
  term: string
  rows: number
  columns: number
}

/** What an SSH server is. */
export interface SshServerOptions {
  /** Of TCP, with `port`. */
  host?: string
  port?: number
  /** Of a Unix socket instead. */
  path?: string
  /** The private key, as text. Made anew when there is neither this nor a path. */
  hostKey?: string
  /** Made there when there is none. */
  hostKeyPath?: string
  /** Lines of OpenSSH's. */
  authorizedKeys: Array<string>
  authorizedKeysPath?: string
  /** The socket of an SSH agent, whose keys may log in too. */
  authorizedAgent?: string
  /** Who a client becomes, whatever it calls itself. */
  user?: string
  sftp: boolean
  /** 0 is no limit; the backend's configuration has a default. */
  inactivityMs?: number
  /** How long a client may take to log in; 0 is no limit. */
  loginMs: number
  maxConnections: number
}

/** How to stop: ask, wait for `grace_ms`, then kill if allowed. */
export interface StopOptions {
  graceMs: number
  thenKill: boolean
}

/** How a sandbox was seen to end. */
export interface StopResult {
  name: string
  status: string
  /** Of the VM process, when this process is its parent. */
  exitCode?: number
  signal?: number
  /** Milliseconds since 1970. */
  observedAt: number
  /** Who said so, in the engine's words. */
  source?: string
}

export interface SweepFailure {
  sandbox: string
  message: string
}

/** What a sweep did. */
export interface SweepReport {
  /** Sandboxes whose owner had gone: ended and removed. */
  removed: Array<string>
  /** Those that were to be kept: ended. */
  stopped: Array<string>
  /** Those that could not be removed within the time. */
  failed: Array<SweepFailure>
}

export interface TerminalSize {
  rows: number
  columns: number
}

/** Opening the guest's TLS on this machine. */
export interface TlsOptions {
  ports?: Array<number>
  bypass?: Array<string>
  verifyUpstream?: boolean
  verifyUpstreamFor?: Record<string, boolean>
  blockQuic?: boolean
  upstreamCaCerts?: Array<string>
  upstreamCaCertsFor?: Record<string, Array<string>>
  interceptCa?: InterceptCaOptions
}

/** How far a transfer is. */
export type TransferEvent =
  | { _tag: 'Started'; kind: 'file' | 'directory'; /** Of a file. */
  totalBytes?: number }
  | { _tag: 'Progress'; files: number; directories: number; symlinks: number; bytes: number; skippedCount: number; path: string }

/** What to carry, and how much of it at most. */
export interface TransferOptions {
  hostPath: string
  guestPath: string
  include?: Array<string>
  exclude: Array<string>
  symlinks: 'inside' | 'all' | 'none'
  strict: boolean
  maxEntries: number
  maxBytes: number
  maxDepth: number
  uid?: number
  gid?: number
}

/** What was carried. */
export interface Transferred {
  files: number
  directories: number
  symlinks: number
  bytes: number
  /** The first of those that were left out. */
  skipped: Array<SkippedEntry>
  skippedCount: number
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

/** A volume as the backend's catalogue has it. */
export interface VolumeInfo {
  name: string
  kind: 'directory' | 'disk'
  /** The directory on this host; that of a disk has its image. */
  path: string
  quotaMib?: number
  capacity?: number
  used: number
  diskPath?: string
  diskFormat?: string
  diskFstype?: string
  labels: Record<string, string>
  /** Milliseconds since 1970. */
  createdAt?: number
}

/** What a volume is made as. */
export interface VolumeOptions {
  name: string
  kind: 'directory' | 'disk'
  /** Of a disk. */
  sizeMib?: number
  /** Of a directory. */
  quotaMib?: number
  labels: Record<string, string>
}

/** A socket of the host that the guest reaches by a vsock port. */
export interface VsockOptions {
  path: string
  port: number
  datagram: boolean
}
