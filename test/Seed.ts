/**
 * The seed of this SDK is the Ruby binding of the same engine (gem microsandbox-rb 0.9.0): every method of its classes, its
 * name here, and the test that shows it. test/unit/Seed.test.ts checks that each name and each test exists.
 *
 * A method of a class is written as Ruby's documentation writes it: `.create` is the
 * class's own, `#exec` an instance's. A name here is `Module.export`, or `Module.Type.member`; `sandbox.member` is short for
 * `Sandbox.Sandbox.member`.
 */

export interface Test {
  readonly file: string
  readonly name: string
}

/** What took a method's place, and what shows it. */
export type Row = { readonly here: string; readonly test: Test }

const row = (here: string, test: Test): Row => ({ here, test })

const file = (path: string) => (name: string): Test => ({ file: `test/${path}.test.ts`, name })
const exec = file("vm/Exec")
const output = file("vm/Output")
const lifecycle = file("vm/Lifecycle")
const life = file("vm/Life")
const sandbox = file("vm/Sandbox")
const logs = file("vm/Logs")
const metrics = file("vm/Metrics")
const progress = file("vm/Progress")
const files = file("vm/conformance/Files")
const network = file("vm/Network")
const pull = file("store/Pull")
const image = file("store/Image")
const written = file("store/Logs")
const paired = file("store/Runtime")

const attached = file("vm/Attach")("is let go of within bounds when it is interrupted, and its program too")
const terminal = file("vm/Attach")("is the program's: its size and kind, its keys, its exit; and then it is as it was")
const collected = exec("answers with its exit code and both of its outputs, whatever the code")
const streamed = exec("streams its output while it runs")
const given = exec("reads its standard input, of any size, and gives its bytes back unchanged")
const eventful = exec("tells both of its outputs, and all that happens, in order")
const signalled = exec("can be signalled and killed")
const born = sandbox("is stopped and removed with its scope, and its name can be used again")
const kept = sandbox("keeps its disk and name when its scope only stops it, and starts again")
const detached = sandbox("lives on when it is detached, and can be killed by name")
const ended = sandbox("can be stopped, killed and stopped again before its scope closes")
const spared = sandbox("is not killed by a stop that may not kill")
const modelled = lifecycle("is what a model of it says, whatever is done to it")
const listed = life("is listed with the others, page by page, and found by its labels")
const drained = life("ends by itself when it is drained")
const waited = life("is waited for, by its handle and by its name, until it has ended")
const told = life("that is killed is told with the signal")
const configured = life("answers a ping, counts a touch, and says what it is made of")
const pulled = pull("tells each phase of each layer, and its bytes, however late it is read")
const booted = progress("tells the phases and bytes of a pull and a boot, and ends with the sandbox")
const sampled = metrics("are there right after the boot, of all that run, and of no other")
const watched = metrics("come at once and then at their interval, without a burst, and end when it stops")
const carried = file("vm/Transfer")("carries one file to the very path that is named, and follows a link that is named")
const read = written("are read by source, time and number, in the order of their time")
const resumed = written("are followed through rotations, from a cursor too")
const resolved = paired("is the first pair that is named, and each half says from where it comes")
const installed = paired(
  "is put into a home from npm, a directory or an archive, byte for byte, and is left as it is then"
)
const shared = files("has what its programs have, and they have what it is given")
const transferred = files("takes and gives a large file with an equal hash")
const paced = files("gives a reader what it asks for and nothing more")
const patched = file("vm/Patch")("change the root before the first boot, in their order, and not the image")
const preset = file("long/Network")("lets through what each policy with a name says, and nothing else")
const ruled = network("lets through what rules say: by network, address, name, group, protocol, port and direction")
/** The suite of a file system, which runs on Node's files and on a guest's. */
const conforms = (name: string): Test => ({ file: "test/conformance/FileSystem.ts", name })
const described = conforms("says what a file is")
const imaged = image("is pulled, listed, looked up, inspected and removed")
const pruned = image("that a sandbox is made of stays, unless it is forced away, and prune takes what nobody needs")
const archived = image("goes through an archive of either format, with others, and gets more names")
const snapshot = file("store/Snapshot")
const found = snapshot("is kept of a sandbox that has stopped, and found by each of its references, and by msb")
const placed = snapshot("is in the group and directory that it is told")
const verified = snapshot("is verified with what was recorded, and only then")
const exported = snapshot("carries a snapshot, its parents and its labels into a new group, and into one of msb")
const removed = snapshot("is removed, but neither as a parent nor as the head of others")
const volumes = file("store/Volume")
const shelved = volumes("is made, found, listed and removed, and its name can be used again")
const sized = volumes("is a disk when it has a size, whose files only a guest can see")
const ssh = file("vm/SshServer")
const reached = ssh("runs commands for OpenSSH's client, many at once, and only for one that has the key")
const closed = ssh("leaves no program behind when a client is gone, or the server's scope ends")
const near = file("vm/SshClient")("runs programs, collected and talked to, at a terminal too, and leaves nothing")
const client = file("store/SshClient")
const answered = client("runs commands with their exit, their outputs, their input and their variables")
const abandoned = client("ends what it runs when it is interrupted, or a scope ends")
const shelled = client("starts the login shell, with a terminal and without")
const sftp = file("store/conformance/Sftp")
const ferried = sftp("carries 32 MiB both ways with equal hashes, whole and as a stream")
const finished = sftp("gives back what it had open when it is interrupted, closed or cut")
const explained = file("unit/MicrosandboxError")("says what failed, on what, why, and what to do")
const refused = file("store/SandboxOptions")(
  "are refused with the field that is wrong, and nothing is left of the attempt"
)
const agent = file("store/Agent")
const raw = agent("says what it is, answers a ping and runs programs, by raw frames")
const cut = agent("kills a program whose stream is given up, and closes with its scope what is open on it")
const logged = logs("have what its programs print, as they print it, until it stops, and after that")

export const seed: Readonly<Record<string, Readonly<Record<string, Row>>>> = {
  Sandbox: {
    ".create": row("Sandbox.make", born),
    ".create_with_progress": row("Sandbox.makeStream", pulled),
    ".start": row("Sandbox.start", kept),
    ".get": row("Sandbox.get", born),
    ".list": row("Sandbox.list", listed),
    ".list_with": row("Sandbox.list", listed),
    ".remove": row("Sandbox.remove", kept),
    "#name": row("sandbox.name", born),
    "#exec": row("sandbox.exec", collected),
    "#shell": row("sandbox.shell", kept),
    "#exec_stream": row("sandbox.spawn", streamed),
    "#shell_stream": row("sandbox.spawn", streamed),
    "#attach": row("sandbox.attach", attached),
    "#attach_shell": row("sandbox.attachShell", terminal),
    "#fs": row("sandbox.fs", shared),
    "#ssh": row("SshClient.open", near),
    "#metrics": row("sandbox.metrics", sampled),
    "#metrics_stream": row("sandbox.metricsStream", watched),
    "#logs": row("sandbox.logs", logged),
    "#log_stream": row("sandbox.logStream", logged),
    "#stop": row("sandbox.stop", ended),
    "#stop_and_wait": row("sandbox.wait", waited),
    "#kill": row("sandbox.kill", ended),
    "#drain": row("sandbox.drain", drained),
    "#wait": row("sandbox.wait", waited),
    "#status": row("sandbox.status", modelled),
    "#owns_lifecycle?": row("Sandbox.Options.onClose", detached),
    "#detach": row("sandbox.detach", detached)
  },
  SandboxHandle: {
    "#name": row("Sandbox.Info.name", listed),
    "#status": row("Sandbox.Info.status", born),
    "#running?": row("Sandbox.Info.status", born),
    "#stopped?": row("Sandbox.Info.status", kept),
    "#created_at": row("Sandbox.Info.createdAt", listed),
    "#updated_at": row("Sandbox.Info.updatedAt", listed),
    "#stop": row("Sandbox.stop", detached),
    "#stop_with_timeout": row("Sandbox.StopOptions.grace", spared),
    "#kill": row("Sandbox.kill", detached),
    "#kill_with_timeout": row("Sandbox.kill", detached),
    // To ask without waiting is to fork.
    "#request_stop": row("Sandbox.stop", modelled),
    "#request_kill": row("Sandbox.kill", modelled),
    "#request_drain": row("Sandbox.drain", drained),
    "#wait_until_stopped": row("Sandbox.wait", waited),
    "#config": row("Sandbox.Info.config", configured),
    "#config_json": row("Sandbox.Info.config", configured),
    "#snapshot": row("Snapshot.create", found),
    "#snapshot_to": row("Snapshot.Options.directory", placed)
  },
  SandboxStopResult: {
    // Who waits knows the name; and an exit code or a signal is there when the VM was seen to end by its parent.
    "#name": row("Sandbox.StopResult.name", waited),
    "#status": row("Sandbox.StopResult.status", waited),
    "#exit_code": row("Sandbox.StopResult.exitCode", waited),
    "#signal": row("Sandbox.StopResult.signal", told),
    "#source": row("Sandbox.StopResult.source", waited),
    "#stopped?": row("Sandbox.StopResult.status", waited),
    "#crashed?": row("Sandbox.StopResult.status", waited),
    "#observed_at": row("Sandbox.StopResult.observedAt", waited)
  },
  SshOps: {
    "#open_client": row("SshClient.open", near),
    "#prepare_server": row("SshServer.make", reached)
  },
  SshClient: {
    "#exec": row("SshClient.SshClient.exec", answered),
    // A program of its own takes the place of this process's terminal: its streams are the terminal's.
    "#attach": row("SshClient.SshClient.shell", shelled),
    "#sftp": row("SshClient.SshClient.sftp", ferried),
    "#close": row("SshClient.open", abandoned)
  },
  SshOutput: {
    // Ruby's is 0 when the server tells no exit.
    "#exit_code": row("SshClient.Output.exitCode", answered),
    "#success?": row("SshClient.Output.success", answered),
    "#failure?": row("SshClient.Output.success", answered),
    "#stdout": row("SshClient.Output.stdout", answered),
    "#stderr": row("SshClient.Output.stderr", answered),
    "#stdout_bytes": row("SshClient.Output.stdoutBytes", answered),
    "#stderr_bytes": row("SshClient.Output.stderrBytes", answered)
  },
  SftpClient: {
    "#read": row("Sftp.Sftp.fs", conforms("writes a file and reads the same bytes, of any size")),
    "#read_text": row("Sftp.Sftp.fs", conforms("writes and reads text")),
    "#write": row("Sftp.Sftp.fs", conforms("writes a file and reads the same bytes, of any size")),
    "#mkdir": row("Sftp.Sftp.fs", conforms("makes a directory once, and its parents when it is told to")),
    "#remove_file": row("Sftp.Sftp.fs", conforms("removes a file, a link and nothing that it leads to")),
    "#remove_dir": row("Sftp.Sftp.fs", conforms("removes a tree, and minds what is missing unless it is forced")),
    "#rename": row("Sftp.Sftp.fs", conforms("renames, over a file and never over what is in a directory")),
    "#symlink": row("Sftp.Sftp.fs", conforms("follows a link, or looks at it")),
    "#real_path": row("Sftp.Sftp.fs", conforms("resolves a path by its text first, and then through its links")),
    "#read_link": row("Sftp.Sftp.fs", conforms("follows a link, or looks at it")),
    "#close": row("Sftp.make", finished)
  },
  SshServer: {
    // Ruby's serves its own standard input and output; this one listens.
    "#serve_connection": row("SshServer.make", reached),
    "#close": row("SshServer.make", closed)
  },
  ExitStatus: {
    "#exit_code": row("Exec.ExitStatus.exitCode", signalled),
    "#success?": row("Exec.ExitStatus.success", signalled),
    "#failure?": row("Exec.ExitStatus.success", signalled)
  },
  ExecOutput: {
    "#exit_code": row("Exec.ExecOutput", collected),
    "#success?": row("Exec.ExecOutput", collected),
    "#failure?": row("Exec.ExecOutput", collected),
    "#stdout": row("Exec.ExecOutput.stdout", collected),
    "#to_s": row("Exec.ExecOutput.stdout", collected),
    "#stderr": row("Exec.ExecOutput.stderr", collected),
    "#stdout_bytes": row("Exec.ExecOutput.stdoutBytes", given),
    "#stderr_bytes": row("Exec.ExecOutput.stderrBytes", collected)
  },
  ExecHandle: {
    // The group's process id takes the place of a number that only the connection knows.
    "#id": row("Exec.ExecHandle.pid", eventful),
    "#each": row("Exec.ExecHandle.events", eventful),
    "#wait": row("Exec.ExecHandle.exitStatus", signalled),
    "#collect": row("Exec.ExecHandle.all", eventful),
    "#signal": row("Exec.ExecHandle.signal", signalled),
    "#kill": row("Exec.ExecHandle.kill", signalled),
    "#resize": row("Exec.ExecHandle.resize", exec("gets a terminal of the size that it is told")),
    "#stdin": row("Exec.ExecHandle.stdin", streamed)
  },
  ExecStdin: {
    "#write": row("Exec.ExecHandle.stdin", streamed),
    "#close": row("Exec.ExecHandle.stdin", exec("loses nothing to a reader that is interrupted just as output comes"))
  },
  ExecEvent: {
    "#type": row("Exec.ExecEvent", eventful),
    "#pid": row("Exec.ExecEvent", eventful),
    "#code": row("Exec.ExecEvent", eventful),
    "#data": row("Exec.ExecEvent", eventful),
    "#text": row("Exec.ExecEvent", eventful),
    "#started?": row("Exec.ExecEvent", eventful),
    "#stdout?": row("Exec.ExecEvent", eventful),
    "#stderr?": row("Exec.ExecEvent", eventful),
    "#exited?": row("Exec.ExecEvent", eventful),
    "#failed?": row("MicrosandboxError.ExecFailed", exec("fails with a reason when it cannot be started")),
    "#stdin_error?": row("Exec.ExecEvent", output("comes from what a stream or a terminal gives the program"))
  },
  Metrics: {
    "#cpu_percent": row("Metrics.Sample.cpuPercent", sampled),
    "#vcpu_time_ns": row("Metrics.Sample.vcpuTime", sampled),
    "#memory_bytes": row("Metrics.Sample.memory", sampled),
    "#memory_available_bytes": row("Metrics.Sample.memoryAvailable", sampled),
    "#memory_host_resident_bytes": row("Metrics.Sample.memoryHostResident", sampled),
    "#memory_limit_bytes": row("Metrics.Sample.memoryLimit", sampled),
    "#disk_read_bytes": row("Metrics.Sample.diskRead", sampled),
    "#disk_write_bytes": row("Metrics.Sample.diskWritten", sampled),
    "#net_rx_bytes": row("Metrics.Sample.networkReceived", sampled),
    "#net_tx_bytes": row("Metrics.Sample.networkSent", sampled),
    "#upper_used_bytes": row("Metrics.Sample.upperUsed", sampled),
    "#upper_free_bytes": row("Metrics.Sample.upperFree", sampled),
    "#upper_host_allocated_bytes": row("Metrics.Sample.upperHostAllocated", sampled),
    "#uptime_secs": row("Metrics.Sample.uptime", sampled),
    "#timestamp": row("Metrics.Sample.timestamp", sampled)
  },
  MetricsStream: {
    "#each": row("sandbox.metricsStream", watched)
  },
  LogEntry: {
    "#source": row("Logs.Entry.source", read),
    "#session_id": row("Logs.Entry.sessionId", read),
    "#cursor": row("Logs.Entry.cursor", resumed),
    "#data": row("Logs.Entry.text", read),
    "#text": row("Logs.Entry.text", read),
    "#timestamp": row("Logs.Entry.timestamp", read)
  },
  LogStream: {
    "#each": row("sandbox.logStream", logged)
  },
  PullSession: {
    "#each": row("Sandbox.makeStream", booted),
    "#sandbox": row("Sandbox.fromStream", booted)
  },
  Image: {
    ".list": row("Image.list", imaged),
    ".get": row("Image.get", imaged),
    ".inspect": row("Image.inspect", imaged),
    ".remove": row("Image.remove", pruned),
    ".prune": row("Image.prune", pruned),
    ".load": row("Image.load", archived),
    ".save": row("Image.save", archived)
  },
  ImageInfo: {
    "#reference": row("Image.Info.reference", imaged),
    "#size_bytes": row("Image.Info.size", imaged),
    "#manifest_digest": row("Image.Info.digest", imaged),
    "#architecture": row("Image.Info.architecture", imaged),
    "#os": row("Image.Info.os", imaged),
    "#layer_count": row("Image.Info.layerCount", imaged),
    "#created_at": row("Image.Info.createdAt", imaged),
    "#last_used_at": row("Image.Info.lastUsedAt", imaged)
  },
  ImageDetail: {
    "#handle": row("Image.Detail.image", imaged),
    "#config": row("Image.Detail.config", imaged),
    "#layers": row("Image.Detail.layers", imaged),
    "#reference": row("Image.Info.reference", imaged)
  },
  ImagePruneReport: {
    "#image_refs_removed": row("Image.PruneReport.references", pruned),
    "#manifests_removed": row("Image.PruneReport.manifests", pruned),
    "#layers_removed": row("Image.PruneReport.layers", pruned),
    "#fsmeta_removed": row("Image.PruneReport.fsmeta", pruned),
    "#vmdk_removed": row("Image.PruneReport.vmdk", pruned),
    "#bytes_reclaimed": row("Image.PruneReport.reclaimed", pruned)
  },
  // Effect's `FileSystem` takes the place of these classes: its members are not this package's to name.
  FS: {
    "#read": row("sandbox.fs", conforms("writes a file and reads the same bytes, of any size")),
    "#read_text": row("sandbox.fs", conforms("writes and reads text")),
    "#write": row("sandbox.fs", conforms("replaces what a file held, and appends when it is told to")),
    "#read_stream": row("sandbox.fs", transferred),
    "#write_stream": row("sandbox.fs", conforms("takes a stream into a file")),
    "#list": row("sandbox.fs", conforms("says of each entry what it is")),
    "#stat": row("sandbox.fs", described),
    "#exists?": row("sandbox.fs", conforms("tells what is missing, and where it looked")),
    "#mkdir": row("sandbox.fs", conforms("makes a directory once, and its parents when it is told to")),
    "#remove": row("sandbox.fs", conforms("removes a file, a link and nothing that it leads to")),
    "#remove_dir": row("sandbox.fs", conforms("removes a tree, and minds what is missing unless it is forced")),
    "#copy": row("sandbox.fs", conforms("copies a tree: modes, links and parents")),
    "#rename": row("sandbox.fs", conforms("renames, over a file and never over what is in a directory")),
    "#copy_from_host": row("sandbox.upload", carried),
    "#copy_to_host": row("sandbox.download", carried)
  },
  FsEntry: {
    "#path": row("sandbox.fs", conforms("lists a directory by name")),
    "#kind": row("sandbox.fs", conforms("says of each entry what it is")),
    "#size": row("sandbox.fs", described),
    "#mode": row("sandbox.fs", described),
    "#modified": row("sandbox.fs", described)
  },
  FsMetadata: {
    "#kind": row("sandbox.fs", described),
    "#size": row("sandbox.fs", described),
    "#mode": row("sandbox.fs", described),
    "#readonly": row("sandbox.fs", conforms("changes a mode")),
    "#modified": row("sandbox.fs", described),
    "#created": row("sandbox.fs", described)
  },
  FsReadStream: {
    "#recv": row("sandbox.fs", paced),
    "#each": row("sandbox.fs", conforms("streams a file in pieces of the size that was asked for")),
    "#collect": row("sandbox.fs", conforms("streams a file in pieces of the size that was asked for"))
  },
  FsWriteSink: {
    "#write": row("sandbox.fs", conforms("takes a stream into a file")),
    "#close": row("sandbox.fs", conforms("takes a stream into a file"))
  },
  Snapshot: {
    ".create": row("Snapshot.create", found),
    ".open": row("Snapshot.open", found),
    ".get": row("Snapshot.get", found),
    ".list": row("Snapshot.list", found),
    ".list_dir": row("Snapshot.listDirectory", placed),
    ".reindex": row("Snapshot.reindex", placed),
    ".remove": row("Snapshot.remove", removed),
    ".verify": row("Snapshot.verify", verified),
    ".export": row("Snapshot.save", exported),
    ".import": row("Snapshot.load", exported)
  },
  SnapshotInfo: {
    "#digest": row("Snapshot.Snapshot.digest", found),
    "#path": row("Snapshot.Snapshot.path", found),
    "#name": row("Snapshot.Snapshot.name", found),
    "#parent_digest": row("Snapshot.Snapshot.parent", found),
    "#image_ref": row("Snapshot.Snapshot.image", found),
    "#image_manifest_digest": row("Snapshot.Snapshot.imageDigest", found),
    "#format": row("Snapshot.Snapshot.format", found),
    "#fstype": row("Snapshot.Snapshot.filesystem", found),
    "#source_sandbox": row("Snapshot.Snapshot.sandbox", found),
    "#labels": row("Snapshot.Snapshot.labels", found),
    "#size_bytes": row("Snapshot.Snapshot.size", found),
    "#created_at": row("Snapshot.Snapshot.createdAt", found),
    "#open": row("Snapshot.open", found),
    "#remove": row("Snapshot.remove", removed)
  },
  SnapshotVerifyReport: {
    "#digest": row("Snapshot.Verification.digest", verified),
    "#path": row("Snapshot.Verification.path", verified),
    "#status": row("Snapshot.Verification.status", verified),
    "#verified?": row("Snapshot.Verification.status", verified),
    "#algorithm": row("Snapshot.Verification.algorithm", verified),
    "#content_digest": row("Snapshot.Verification.contentDigest", verified)
  },
  Patch: {
    ".text": row("Patch.text", patched),
    ".file": row("Patch.file", patched),
    ".copy_file": row("Patch.copyFile", patched),
    ".copy_dir": row("Patch.copyDirectory", patched),
    ".symlink": row("Patch.symlink", patched),
    ".mkdir": row("Patch.makeDirectory", patched),
    ".remove": row("Patch.remove", patched),
    ".append": row("Patch.append", patched)
  },
  NetworkPolicy: {
    ".public_only": row("NetworkPolicy.publicOnly", preset),
    ".none": row("NetworkPolicy.none", preset),
    ".allow_all": row("NetworkPolicy.allowAll", preset),
    ".non_local": row("NetworkPolicy.nonLocal", preset),
    ".custom": row("NetworkPolicy.make", ruled)
  },
  Rule: {
    ".allow": row("Rule.allow", ruled),
    ".deny": row("Rule.deny", ruled)
  },
  Destination: {
    ".any": row("Destination.any", ruled),
    ".ip": row("Destination.ip", ruled),
    ".cidr": row("Destination.cidr", ruled),
    ".domain": row("Destination.domain", ruled),
    ".domain_suffix": row("Destination.domainSuffix", ruled),
    ".group": row("Destination.group", ruled)
  },
  Volume: {
    ".create": row("Volume.create", shelved),
    ".get": row("Volume.get", shelved),
    ".list": row("Volume.list", shelved),
    ".remove": row("Volume.remove", shelved),
    "#name": row("Volume.Volume.name", shelved),
    "#path": row("Volume.Info.path", shelved),
    "#fs": row(
      "Volume.Volume.fs",
      file("vm/Volume")(
        "has the same files on both sides, and no link of the guest's leads this host out"
      )
    )
  },
  VolumeInfo: {
    "#name": row("Volume.Info.name", shelved),
    "#kind": row("Volume.Info.kind", shelved),
    "#quota_mib": row("Volume.Info.quota", shelved),
    "#used_bytes": row("Volume.Info.used", shelved),
    "#capacity_bytes": row("Volume.Info.capacity", sized),
    "#disk_format": row("Volume.Info.diskFormat", sized),
    "#disk_fstype": row("Volume.Info.diskFstype", sized),
    "#labels": row("Volume.Info.labels", shelved),
    "#created_at": row("Volume.Info.createdAt", shelved),
    "#fs": row("Volume.open", volumes("is what msb lists, and what msb has made is opened"))
  },
  // The suite of a file system runs on a volume too: test/store/conformance/Volume.test.ts.
  VolumeFs: {
    "#read": row("Volume.Volume.fs", conforms("writes a file and reads the same bytes, of any size")),
    "#read_text": row("Volume.Volume.fs", conforms("writes and reads text")),
    "#write": row("Volume.Volume.fs", conforms("replaces what a file held, and appends when it is told to")),
    "#list": row("Volume.Volume.fs", conforms("says of each entry what it is")),
    "#mkdir": row("Volume.Volume.fs", conforms("makes a directory once, and its parents when it is told to")),
    "#remove_file": row("Volume.Volume.fs", conforms("removes a file, a link and nothing that it leads to")),
    "#remove_dir": row("Volume.Volume.fs", conforms("removes a tree, and minds what is missing unless it is forced")),
    "#exists?": row("Volume.Volume.fs", conforms("tells what is missing, and where it looked")),
    "#copy": row("Volume.Volume.fs", conforms("copies a file over another, with its mode")),
    "#rename": row("Volume.Volume.fs", conforms("renames, over a file and never over what is in a directory")),
    "#stat": row("Volume.Volume.fs", described)
  },
  Error: {
    "#message": row("MicrosandboxError.MicrosandboxError.message", explained),
    // A class for each kind there; a reason with a tag here.
    "#code": row("MicrosandboxError.MicrosandboxError.reason", explained)
  },
  InvalidConfigError: {
    "#message": row("MicrosandboxError.InvalidConfig.message", refused)
  },
  AgentClient: {
    ".connect_sandbox": row("Agent.connect", raw),
    ".connect_path": row("Agent.connectPath", agent("is connected to by the path of its socket, without a backend")),
    ".socket_path": row("Agent.socketPath", agent("is connected to by the path of its socket, without a backend")),
    "#request": row("Agent.Agent.request", raw),
    "#stream": row("Agent.Agent.stream", raw),
    "#send_frame": row("Agent.Agent.send", raw),
    "#ready_bytes": row("Agent.Ready.bytes", raw),
    // With its scope.
    "#close": row("Agent.connect", cut)
  },
  AgentFrame: {
    "#id": row("Agent.Frame.id", raw),
    "#flags": row("Agent.Frame.flags", raw),
    "#body": row("Agent.Frame.body", raw)
  },
  AgentStream: {
    "#id": row("Agent.Session.id", raw),
    "#recv": row("Agent.Session.frames", raw),
    "#each": row("Agent.Agent.stream", raw),
    // With its scope.
    "#close": row("Agent.Agent.open", cut)
  },
  Microsandbox: {
    // There is no default to set: a layer is provided, to a program or to an effect.
    ".set_default_backend": row(
      "Backend.layer",
      file("store/Backends")("is the one that the environment names, and a key alone names none")
    ),
    ".with_backend": row(
      "Backend.layerCloud",
      file("store/Backends")("is another one for each fiber, at the same time")
    ),
    ".default_backend_kind": row("Backend.kind", file("store/Backends")("says what it is, and has no secret")),
    ".all_sandbox_metrics": row("Metrics.all", sampled),
    ".version": row(
      "Runtime.addonVersion",
      file("unit/versions")(
        "of the packages are one, in each package, its dependants, its platform packages and the crate"
      )
    ),
    ".runtime_version": row(
      "Runtime.version",
      paired("is installed when a boot would find it whole and of the right version")
    ),
    ".installed?": row(
      "Runtime.installed",
      paired("is installed when a boot would find it whole and of the right version")
    ),
    ".install": row("Runtime.install", installed),
    ".setup": row("Runtime.install", installed),
    ".ensure_runtime!": row(
      "Runtime.ensure",
      paired("is ensured: put there when there is none at all, and told when it cannot be launched")
    ),
    ".runtime_path": row("Runtime.Resolved.msb", resolved),
    // MSB_PATH and MSB_LIBKRUNFW_PATH name another pair.
    ".runtime_path=": row("Runtime.Resolved.msb", resolved),
    ".libkrunfw_path=": row("Runtime.Resolved.libkrunfw", resolved)
  }
}
