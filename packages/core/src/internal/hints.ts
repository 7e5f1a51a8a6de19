/** What a user can do about a reason, where there is one thing to do. */
import { Native } from "@effect-microsandbox/native"
import type { Reason } from "../MicrosandboxError.ts"

const runtimePackage = `npm install @superradcompany/microsandbox-linux-x64-gnu@${Native.runtimeVersion}`

export const hints: { readonly [Tag in Reason["_tag"]]?: string } = {
  LibkrunfwNotFound: `install the runtime pair again: ${runtimePackage}`,
  RuntimeNotInstalled: `${runtimePackage}, with npm on Node 22 or newer, or set MSB_PATH`,
  RuntimeIncomplete:
    "msb and libkrunfw belong together: keep them in one folder (or in bin and lib), or set both MSB_PATH and MSB_LIBKRUNFW_PATH",
  NoDefaultCommand: "name a command, or give the sandbox an entrypoint or cmd",
  SandboxAlreadyExists: "choose another name, or remove the sandbox first (Sandbox.remove)",
  SandboxStillRunning: "stop it first (Sandbox.stop)",
  SandboxNotRunning: "start it first (Sandbox.start)",
  StopTimeout: "give more grace, or let it kill: stop({ thenKill: true })",
  BootStart: "the CPU must have virtualization (vmx or svm), and /dev/kvm must exist and be writable by this user",
  ControlStateChanged: "look at the state before trying again",
  VolumeInUse: "stop or remove the sandbox that mounts it first",
  ImageInUse: "remove them first, or force",
  ImageRegistry: "check the reference and the network",
  ImageUnauthorized: "give registry.auth, or log in with Docker; check the reference",
  ImageRateLimited: "wait, or give registry.auth: most registries allow more to who is known",
  ImageTls: "give its CA as registry.caCerts, or registry.insecure for plain HTTP",
  ImageArchiveInvalid: "save it again: Image.save, docker save, or an OCI layout in an uncompressed tar",
  DiskFull: "free some space (Image.prune), or put the home on a larger disk",
  ImageNotCached: "pull it once, or use another pull policy",
  TunnelRefused: "start what is to listen, and wait for it: sandbox.waitForPort",
  SshConnectFailed: "check the host and the port, and that an SSH server listens there",
  SshHostKeyMismatch: "do not go on before you know why: the key was changed, or this is another server",
  SshLoginRefused: "check the user, and that the server has the public part of the key among its authorized keys",
  RuntimeVersionMismatch: "unset MSB_PATH, or point it at the expected version",
  AddonMissing: "install the platform package that the message names, or build it: npm run build:native",
  AddonMismatch: "install the same version of both",
  RuntimeConflict: "use one runtime pair for a process",
  HomePathTooLong: "use a shorter home, such as one below /tmp, or set MSB_HOME",
  HomeNotWritable: "choose a home that this user can write",
  HomeWithoutXattrs: "put the home on ext4, xfs or btrfs (a tmpfs needs Linux 6.6)",
  RuntimeArchiveInvalid: "take the .tar.gz of the engine's release of this platform and version, and its SHA-256",
  RootfsNotFound: "check the path; an image reference must not start with /, ./ or ../",
  RollbackIncomplete: "remove the sandbox by name (Sandbox.remove)",
  SandboxPaused: "resume it first: sandbox.resume",
  CaptureUnsupported: "make the sandbox of an image reference, without mounts of the host",
  TransferLimit: "give it a higher limit, or leave something out: { exclude: […] }",
  RestartRequired: "modify with { effect: \"next-start\" }, and then stop and start the sandbox"
}
