/**
 * Microsandbox sandboxes as Effect services, layers, scopes and streams.
 *
 * @stability unstable
 * @since 0.1.0
 */

/**
 * The protocol of the guest's agent, frame by frame.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Agent from "./Agent.ts"

/**
 * Interactive sessions on the host's terminal.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Attach from "./Attach.ts"

/**
 * Where sandboxes live.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Backend from "./Backend.ts"

/**
 * Pausing and branching a sandbox.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Branch from "./Branch.ts"

/**
 * Where the guest's packets may go, or come from.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Destination from "./Destination.ts"

/**
 * Programs in a sandbox.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Exec from "./Exec.ts"

/**
 * Images: pulling, listing and removing them, and archives of them.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Image from "./Image.ts"

/**
 * What was written in sandboxes.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Logs from "./Logs.ts"

/**
 * What sandboxes use of their host.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Metrics from "./Metrics.ts"

/**
 * The one error of this SDK, and every reason that it can have.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as MicrosandboxError from "./MicrosandboxError.ts"

/**
 * Changing what a sandbox is made of.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Modify from "./Modify.ts"

/**
 * What a guest may reach, and who may reach it.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as NetworkPolicy from "./NetworkPolicy.ts"

/**
 * Changes to a root file system before its first boot.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Patch from "./Patch.ts"

/**
 * What a boot is doing, and a renderer for it.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Progress from "./Progress.ts"

/**
 * One rule of a network policy.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Rule from "./Rule.ts"

/**
 * The runtime pair, and whether a machine can run sandboxes.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Runtime from "./Runtime.ts"

/**
 * Sandboxes: real microVMs, as scoped values and layers.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Sandbox from "./Sandbox.ts"

/**
 * What a sandbox is made of: every option of `Sandbox.make`, as plain data with one schema.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as SandboxOptions from "./SandboxOptions.ts"

/**
 * Secrets that the guest uses and never has.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Secret from "./Secret.ts"

/**
 * Sandboxes kept as artifacts.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Snapshot from "./Snapshot.ts"

/**
 * Carrying files and trees between the host and a guest.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Transfer from "./Transfer.ts"

/**
 * Ways to a port of a guest.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Tunnel from "./Tunnel.ts"

/**
 * Storage by name, and its files.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Volume from "./Volume.ts"

/**
 * Waiting until something in a sandbox is ready.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Wait from "./Wait.ts"
