/** What a user can do about a reason, where there is one thing to do. */
import type { Reason } from "../MicrosandboxError.ts"

export const hints: { readonly [Tag in Reason["_tag"]]?: string } = {
  LibkrunfwNotFound: "install the runtime pair again: npm install @superradcompany/microsandbox-linux-x64-gnu@0.7.2",
  RuntimeNotInstalled: "npm install @superradcompany/microsandbox-linux-x64-gnu@0.7.2, or set MSB_PATH",
  RuntimeIncomplete: "msb and libkrunfw belong together: set both MSB_PATH and MSB_LIBKRUNFW_PATH, or neither",
  NoDefaultCommand: "name a command, or give the sandbox an entrypoint or cmd",
  SandboxAlreadyExists: "choose another name, or remove the sandbox first (Sandbox.remove)",
  SandboxStillRunning: "stop it first (Sandbox.stop)",
  SandboxNotRunning: "start it first (Sandbox.start)",
  StopTimeout: "give more grace, or let it kill: stop({ thenKill: true })",
  BootStart: "see logs/runtime.log of the sandbox, and whether /dev/kvm can be used",
  ControlStateChanged: "look at the state before trying again",
  ImageInUse: "remove them first, or force",
  ImageRegistry: "check the reference, the network and the credentials",
  ImageNotCached: "pull it once, or use another pull policy",
  RuntimeVersionMismatch: "unset MSB_PATH, or point it at the expected version",
  AddonMissing: "install the platform package that the message names, or build it: npm run build:native",
  AddonMismatch: "install the same version of both",
  RuntimeConflict: "use one runtime pair for a process",
  HomePathTooLong: "use a shorter home, such as one below /tmp, or set MSB_HOME",
  HomeNotWritable: "choose a home that this user can write",
  HomeWithoutXattrs: "put the home on ext4, xfs or btrfs (a tmpfs needs Linux 6.6)",
  RootfsNotFound: "check the path; an image reference must not start with /, ./ or ../",
  RollbackIncomplete: "remove the sandbox by name (Sandbox.remove)"
}
