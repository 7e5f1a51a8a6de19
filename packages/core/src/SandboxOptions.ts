/**
 * What a sandbox is made of: every option of `Sandbox.make`, as plain data with one schema.
 *
 * Options are checked before anything starts, also against each other. A mistake is an `InvalidConfig` whose `field` is
 * the path of what is wrong: `memory`, `ports.0.host`, `mounts./data.size`.
 *
 * What an option leaves out comes from the backend (its `config.json`), then from the image, then from the engine.
 *
 * @stability unstable
 * @since 0.1.0
 */
import type * as ByteSize from "effect/ByteSize"
import type * as Duration from "effect/Duration"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import {
  Bytes,
  HostPath,
  Lifetime,
  Memory,
  Millis,
  Name,
  OnClose as OnCloseSchema,
  RootSize,
  Span,
  Text,
  VariableName,
  Variables
} from "./internal/inputs.ts"
import * as networkChecks from "./internal/networkChecks.ts"
import * as checks from "./internal/optionChecks.ts"
import * as secretChecks from "./internal/secretChecks.ts"
import * as NetworkPolicy from "./NetworkPolicy.ts"
import * as Patch from "./Patch.ts"
import * as Secret from "./Secret.ts"

/**
 * What becomes of a sandbox when its scope closes: `"destroy"` stops and removes it, `"stop"` keeps its disk and name,
 * `"detach"` lets it run on, after this process too.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type OnClose = "destroy" | "stop" | "detach"

/**
 * The format of a disk image.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type DiskFormat = "raw" | "qcow2" | "vmdk"

/**
 * Where the root file system comes from.
 *
 * **Details**
 *
 * A string that begins with `/`, `./` or `../` is the path of a disk image when it ends in `.raw`, `.qcow2` or `.vmdk`, and
 * of a directory otherwise; any other string is an image reference. The guest writes to a directory or a disk as it is;
 * an image is never changed.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type Image =
  | string
  | {
    /** An image reference, such as `alpine:3.22`. */
    readonly oci: string
  }
  | {
    /** The path of a directory, used as it is. */
    readonly directory: string
    /** Let the path itself lead through symbolic links. Default: false, and such a path fails to boot. */
    readonly followRootSymlinks?: boolean | undefined
  }
  | {
    /** The path of a disk image. */
    readonly disk: string
    /** Default: by the extension, which must then be `.raw`, `.qcow2` or `.vmdk`. */
    readonly format?: DiskFormat | undefined
    /** Its file system. Default: the guest tries those that its kernel has. */
    readonly fstype?: string | undefined
  }

/**
 * The writable layer over an image: its size, or what it is made of. Only images have one.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type RootDisk =
  | ByteSize.Input
  | {
    /** A disk of the sandbox's own, over the image's layers. What a size alone means. */
    readonly managed: true
    /** Whole mebibytes, 69 MiB or more, of which 67 are the file system's own. Default: the backend's, 4 GiB. It takes what is written, not its size. */
    readonly size?: ByteSize.Input | undefined
  }
  | {
    /** In the guest's memory, and empty again at each boot. */
    readonly tmpfs: true
    /** Whole mebibytes, at most `memory`. Default: half of it. */
    readonly size?: ByteSize.Input | undefined
  }
  | {
    /** One whole disk with the image's files, of the sandbox's own. */
    readonly flat: true
    /** Whole mebibytes, and enough for the image. Default: 4 GiB, or more when the image needs it. */
    readonly size?: ByteSize.Input | undefined
    /** How it comes from the cached one. Default: `"auto"`, by reference where the file system can. */
    readonly cloneStrategy?: "auto" | "copy" | "reflink" | undefined
    /** Only `"ext4"`. */
    readonly fstype?: "ext4" | undefined
  }
  | {
    /** The path of a disk image of yours, which the guest writes to. */
    readonly disk: string
    /** Default: by the extension, which must then be `.img`, `.raw` or `.qcow2`. */
    readonly format?: "raw" | "qcow2" | undefined
    /** Its file system. Default: ext4. */
    readonly fstype?: string | undefined
  }

/**
 * A port of the host that leads to one of the guest.
 *
 * **Details**
 *
 * The VM process opens it, and writes to its log when it cannot: a port that is in use fails nothing.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Port {
  /** The host's port, 1 to 65535. */
  readonly host: number
  /** The guest's port, 1 to 65535. */
  readonly guest: number
  /** The address of the host to listen on; `0.0.0.0` or `::` for all. Default: `127.0.0.1`. */
  readonly bind?: string | undefined
  /** Default: `"tcp"`. */
  readonly protocol?: "tcp" | "udp" | undefined
}

/**
 * How the guest may use a mount.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface MountFlags {
  /** The guest cannot write. Default: false. */
  readonly readonly?: boolean | undefined
  /** No program on it can be run directly; an interpreter can still read it. Default: false. */
  readonly noexec?: boolean | undefined
  /** Setuid and setgid bits on it have no effect. Default: false; always on in a restricted sandbox. */
  readonly nosuid?: boolean | undefined
  /** Device files on it have no effect. Default: false; always on in a restricted sandbox. */
  readonly nodev?: boolean | undefined
}

/**
 * How files of the host look in the guest.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface SharedFlags {
  /**
   * Whether owners and modes that the guest sets are kept beside the host's: `"strict"` needs user extended attributes,
   * `"relaxed"` does without where there are none, `"off"` shows the host's own. Default: `"strict"`.
   */
  readonly statVirtualization?: "strict" | "relaxed" | "off" | undefined
  /** Whether the guest's `chmod` reaches the host's files, `"mirror"`, or not. Default: `"private"`. */
  readonly hostPermissions?: "private" | "mirror" | undefined
  /** Who owns files that the host made. Default: the engine's choice. Not with `statVirtualization: "off"`. */
  readonly owner?: { readonly uid: number; readonly gid: number } | undefined
}

/**
 * Something at a path of the guest. The key that is there says what: `bind`, `named`, `owned`, `tmpfs` or `disk`.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type Mount =
  & MountFlags
  & (
    | SharedFlags & {
      /** A directory or file of the host, which must exist. A relative path is taken from this process's working directory. */
      readonly bind: string
      /** How much the guest may add to what is there, in whole mebibytes. Default: 4 GiB. */
      readonly quota?: ByteSize.Input | undefined
      /** Let the path itself lead through symbolic links. Default: false. */
      readonly followRootSymlinks?: boolean | undefined
    }
    | SharedFlags & {
      /** A volume of the backend, by name; it outlives the sandbox. */
      readonly named: string
      /**
       * `"existing"` fails with `VolumeNotFound` when there is none, `"create"` with `VolumeAlreadyExists` when there is one,
       * `"ensure-exists"` takes what fits or makes it. Default: `"existing"`.
       */
      readonly mode?: "existing" | "create" | "ensure-exists" | undefined
      /** What to make. Default: `"disk"` when there is a `size`, `"directory"` otherwise. */
      readonly kind?: "directory" | "disk" | undefined
      /** The size of a disk, in whole mebibytes, 68 MiB or more. */
      readonly size?: ByteSize.Input | undefined
      /** How much a directory may hold, in whole mebibytes. Default: no limit. */
      readonly quota?: ByteSize.Input | undefined
      /** Labels of the volume that is made. */
      readonly labels?: Readonly<Record<string, string>> | undefined
      /** Let the path of the volume lead through symbolic links. Default: false. */
      readonly followRootSymlinks?: boolean | undefined
    }
    | SharedFlags & {
      /** Storage of the sandbox's own, removed with it. */
      readonly owned: true
      /** Default: `"disk"` when there is a `size`, `"directory"` otherwise. */
      readonly kind?: "directory" | "disk" | undefined
      /** The size of a disk, in whole mebibytes, 68 MiB or more. */
      readonly size?: ByteSize.Input | undefined
      /** How much a directory may hold, in whole mebibytes. Default: 4 GiB. */
      readonly quota?: ByteSize.Input | undefined
    }
    | {
      /** Memory of the guest. */
      readonly tmpfs: true
      /** In whole mebibytes. Default: the guest kernel's. */
      readonly size?: ByteSize.Input | undefined
    }
    | {
      /** A disk image of the host, which must exist. One image can be mounted once. */
      readonly disk: string
      /** Default: by the extension, or else `"raw"`. */
      readonly format?: DiskFormat | undefined
      /** Its file system. Default: the guest tries those that its kernel has. */
      readonly fstype?: string | undefined
    }
  )

/**
 * A Unix socket of the host that the guest reaches by a vsock port of the host (CID 2).
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Vsock {
  /** The absolute path of the socket, at most 107 bytes. */
  readonly path: string
  /** 1 to 4294967294; 123 is not for datagrams. */
  readonly port: number
  /** Default: `"stream"`. */
  readonly type?: "stream" | "dgram" | undefined
}

/**
 * A limit of every process in the guest, in the kernel's units: whole numbers, or `"unlimited"`. One value is both.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type Rlimit = number | "unlimited" | {
  readonly soft: number | "unlimited"
  readonly hard: number | "unlimited"
}

/**
 * What has a limit, as `setrlimit` calls it.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type RlimitResource =
  | "as"
  | "core"
  | "cpu"
  | "data"
  | "fsize"
  | "locks"
  | "memlock"
  | "msgqueue"
  | "nice"
  | "nofile"
  | "nproc"
  | "rss"
  | "rtprio"
  | "rttime"
  | "sigpending"
  | "stack"

/**
 * Limits by what they limit.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type Rlimits = { readonly [Resource in RlimitResource]?: Rlimit | undefined }

/**
 * How to talk to an image's registry.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Registry {
  /**
   * Default: what the backend's own configuration has for the registry (`registries.hosts` in its `config.json`), what Docker
   * has (`auths` and credential helpers in the `config.json` of `DOCKER_CONFIG` or `~/.docker`), or nobody.
   */
  readonly auth?: { readonly username: string; readonly password: Redacted.Redacted<string> } | undefined
  /** Plain HTTP. Default: false. */
  readonly insecure?: boolean | undefined
  /** Certificates to trust besides the system's, in PEM. */
  readonly caCerts?: string | Uint8Array | undefined
}

/**
 * What the guest's network interface has instead of what the engine picks.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface NetworkInterface {
  /** A unicast MAC address, `02:00:00:00:00:01`. Default: by the sandbox's slot in the backend. */
  readonly mac?: string | undefined
  /** 1280 to 65535. Default: 1500. */
  readonly mtu?: number | undefined
  /**
   * The guest's IPv4 address. It is the second of the two hosts of a /30 network, so that its last byte leaves 2 when it is
   * divided by 4; the first is the gateway. Default: one of `ipv4Pool`.
   */
  readonly ipv4?: string | undefined
  /** Where to take the address from, `10.9.0.0/16`, /30 or larger. Default: `172.16.0.0/12`. */
  readonly ipv4Pool?: string | undefined
  /** The guest's IPv6 address, in a /64 network whose `::1` is the gateway. Default: one of `ipv6Pool`. */
  readonly ipv6?: string | undefined
  /** Where to take the network from, /64 or larger. Default: `fd42:6d73:62::/48`. */
  readonly ipv6Pool?: string | undefined
}

/**
 * Who answers the guest's questions for names. All go through this machine.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Dns {
  /**
   * Addresses or names, with or without a port (53). A name is looked up once, by this machine. Default: those of this
   * machine's `/etc/resolv.conf`.
   */
  readonly nameservers?: ReadonlyArray<string> | undefined
  /**
   * Refuse an answer with an address that is private, local or reserved, unless a rule without ports allows the address, by
   * itself, its network or its group; what a policy allows by default does not count. Default: true.
   */
  readonly rebindProtection?: boolean | undefined
  /** How long a question may take, in whole milliseconds. Default: 5 seconds. */
  readonly queryTimeout?: Duration.Input | undefined
}

/**
 * Opening the guest's TLS on this machine, which gives the guest certificates of its own making. Where secrets are put in,
 * it is on by itself. Patterns are a domain name, or `*.` and one for it and all names below it.
 *
 * TLS that is opened negotiates no protocol (ALPN), so that clients which know HTTP/2 too speak HTTP/1.1. Secrets are put
 * into requests of either.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Tls {
  /** The ports whose TLS is opened. Default: 443. */
  readonly ports?: ReadonlyArray<number> | undefined
  /** Servers whose TLS stays closed. No secret goes there, and a placeholder is no violation: nobody sees it. Default: none. */
  readonly bypass?: ReadonlyArray<string> | undefined
  /** Verify the servers' certificates. Default: true. */
  readonly verifyUpstream?: boolean | undefined
  /** The same for servers by pattern. */
  readonly verifyUpstreamFor?: Readonly<Record<string, boolean>> | undefined
  /** Drop UDP to these ports, so that no QUIC goes around it. Default: true. */
  readonly blockQuic?: boolean | undefined
  /** Files of certificates in PEM to trust besides this machine's. */
  readonly upstreamCaCerts?: ReadonlyArray<string> | undefined
  /** The same for servers by pattern. */
  readonly upstreamCaCertsFor?: Readonly<Record<string, ReadonlyArray<string>>> | undefined
  /**
   * The files of the authority that signs what the guest is shown, in PEM. Default: one that the engine makes and keeps in
   * `tls` of the VM process's own home, `MSB_HOME` or `~/.microsandbox`, whatever the backend's home is.
   */
  readonly interceptCa?: { readonly cert: string; readonly key: string } | undefined
}

/**
 * A proxy for all that the guest sends, but for names and this machine itself.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type Proxy =
  | {
    /** The address and port of a SOCKS 4 proxy. UDP does not go through it, and is dropped. */
    readonly socks4: string
    /** 1 to 255 bytes. Default: none. */
    readonly userId?: string | undefined
  }
  | {
    /** The address and port of a SOCKS 5 proxy. */
    readonly socks5: string
    /** Default: none. */
    readonly credentials?: {
      /** 1 to 255 bytes. */
      readonly username: string
      /** The environment variable of this process that has the password; only its name is kept. Read at each start. */
      readonly passwordVariable: string
    } | undefined
  }

/**
 * How much may pass in one direction, in bytes and in packets; what is more waits.
 *
 * **Details**
 *
 * It is a bucket that is full at first and fills at an even pace. Counted are the packets of the guest's interface with their
 * headers, to this machine and for names too.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface RateLimit {
  /** So many bytes in a time of whole milliseconds. `burst` may pass once beyond them. */
  readonly bandwidth?: {
    readonly size: ByteSize.Input
    readonly per: Duration.Input
    readonly burst?: ByteSize.Input | undefined
  } | undefined
  /** So many packets in a time of whole milliseconds. `burst` may pass once beyond them. */
  readonly packets?: {
    readonly count: number
    readonly per: Duration.Input
    readonly burst?: number | undefined
  } | undefined
}

/**
 * The network of a sandbox.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Network {
  /** What the guest may reach, and who may reach it. Default: `"public-only"`. */
  readonly policy?: NetworkPolicy.Preset | NetworkPolicy.NetworkPolicy | undefined
  /** Who answers its questions for names. */
  readonly dns?: Dns | undefined
  /** Open its TLS. Default: only where there are secrets. */
  readonly tls?: Tls | undefined
  /** Default: none. */
  readonly proxy?: Proxy | undefined
  /** How much may pass. Default: all. */
  readonly rateLimit?: {
    /** From the guest. */
    readonly egress?: RateLimit | undefined
    /** To the guest. */
    readonly ingress?: RateLimit | undefined
  } | undefined
  /**
   * TCP connections at a time, 1 or more; one more is refused. One that its server has ended counts for some seconds more.
   * Default: unlimited, or the engine's limit for `"multi-tenant"`.
   */
  readonly maxTcpConnections?: number | "unlimited" | undefined
  /**
   * UDP conversations at a time, 1 or more. One more is not refused: it ends the one that was quiet for longest, and what is
   * answered to that does not arrive. Default: unlimited; 1024 for `"multi-tenant"`.
   */
  readonly maxUdpConnections?: number | "unlimited" | undefined
  /**
   * A rule that allows a domain does not allow what hides whom it is for: TLS that is not opened (see `tls`) or that names
   * nobody, and connections where the server speaks first. Plain HTTP for the domain passes, and so do words that are neither
   * TLS nor HTTP, to an address that the guest has got for the domain: the engine (0.7.2) lets them be. Default: false.
   */
  readonly strict?: boolean | undefined
  /** Let the guest trust the authorities that this machine trusts. Default: false. */
  readonly trustHostCas?: boolean | undefined
  /** What its interface has instead of what the engine picks. */
  readonly interface?: NetworkInterface | undefined
}

/**
 * What a sandbox that is made of a snapshot may have of its own of a network.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export type RestoredNetwork = Pick<Network, "policy" | "maxTcpConnections" | "maxUdpConnections">

/**
 * What a sandbox is made of.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /**
   * Up to 128 letters, digits, dots, hyphens and underscores, the first a letter or digit. It must be free in the
   * backend. Default: a new one for each sandbox.
   */
  readonly name?: string | undefined
  /** A reference such as `alpine:3.22`, the path of a root directory or disk (`/…`, `./…` or `../…`), or data. */
  readonly image: Image
  /** The writable layer over an image. Default: a disk of the backend's size, 4 GiB. */
  readonly rootDisk?: RootDisk | undefined
  /** Virtual CPUs, 1 to 255. Default: the backend's, 1. */
  readonly cpus?: number | undefined
  /** To how many CPUs the sandbox may be modified while it runs, 1 to 255. Default: `cpus`. */
  readonly maxCpus?: number | undefined
  /** Memory in whole mebibytes. Default: the backend's, 512 MiB. */
  readonly memory?: ByteSize.Input | undefined
  /** To how much memory the sandbox may be modified while it runs, in whole mebibytes. Default: `memory`. */
  readonly maxMemory?: ByteSize.Input | undefined
  /** How the CPUs are laid over the host's. Default: the backend's, `"inherit"`: as this process runs. */
  readonly cpuPlacement?: "inherit" | "auto" | "spread" | "compact" | undefined
  /** A profile of the backend's `config.json` (`runtime.placement_profiles`). Default: the backend's, none. */
  readonly placementProfile?: string | undefined
  /** The guest kernel's policy. Default: the backend's, `"madvise"`. */
  readonly transparentHugePages?: "always" | "madvise" | "never" | undefined
  /** Variables for every program in it, over the image's. A name does not begin with `MSB_`. */
  readonly env?: Readonly<Record<string, string>> | undefined
  /** Working directory of programs that name none; it must exist in the guest. Default: the image's. */
  readonly workdir?: string | undefined
  /** The shell of `sandbox.shell`. Default: the backend's, `/bin/sh`. */
  readonly shell?: string | undefined
  /** User of programs that name none: a name or number, or `user:group`. Default: the image's. */
  readonly user?: string | undefined
  /** At most 64 bytes. Default: made from the name. */
  readonly hostname?: string | undefined
  /**
   * Labels to find it by. A key is not empty and does not begin with `sandbox.`, `microsandbox.`, `service.` or
   * `effect-microsandbox.`.
   */
  readonly labels?: Readonly<Record<string, string>> | undefined
  /** Programs for the guest by name, in `/.msb/scripts`, which is in its `PATH`. */
  readonly scripts?: Readonly<Record<string, string>> | undefined
  /** In place of the image's. Empty for none. */
  readonly entrypoint?: ReadonlyArray<string> | undefined
  /** In place of the image's. Empty for none. */
  readonly cmd?: ReadonlyArray<string> | undefined
  /**
   * What becomes the guest's first process when the agent has set it up: `"auto"` for the init of the image, or the
   * absolute path of one. Default: the agent stays the first.
   */
  readonly init?: string | {
    readonly command: string
    readonly args?: ReadonlyArray<string> | undefined
    readonly env?: Readonly<Record<string, string>> | undefined
  } | undefined
  /** Ports of the host that lead to the guest. Default: none. */
  readonly ports?: ReadonlyArray<Port> | undefined
  /** What is mounted, by absolute path in the guest. */
  readonly mounts?: Readonly<Record<string, Mount>> | undefined
  /** Sockets of the host that the guest can reach. Default: none. */
  readonly vsock?: ReadonlyArray<Vsock> | undefined
  /** Limits of every process in the guest. Default: the guest kernel's. */
  readonly rlimits?: Rlimits | undefined
  /** When to ask the registry. Default: `"if-missing"`. */
  readonly pullPolicy?: "always" | "if-missing" | "never" | undefined
  /** How to ask it. Only for images. */
  readonly registry?: Registry | undefined
  /**
   * How much the VM process writes to `logs/runtime.log` in the sandbox's directory; `"quiet"` for nothing. Default: the
   * backend's, and then `"warn"`.
   */
  readonly logLevel?: "quiet" | "error" | "warn" | "info" | "debug" | "trace" | undefined
  /** How often its metrics are sampled, in whole milliseconds; false for never. Default: the backend's, 1 second. */
  readonly metricsInterval?: Duration.Input | false | undefined
  /**
   * `"restricted"` takes `CAP_SYS_ADMIN` and the way to more privileges (`sudo`, setuid) from programs in the guest, and
   * mounts with `nosuid` and `nodev`. Default: `"default"`.
   */
  readonly security?: "default" | "restricted" | undefined
  /**
   * `"multi-tenant"` is for a host that is shared: it bounds connections and takes away what reaches into the host's
   * network, so that `ports`, `vsock` and `network.interface` are refused with it. Default: `"single-tenant"`.
   */
  readonly deploymentProfile?: "single-tenant" | "multi-tenant" | undefined
  /**
   * Stop the sandbox when it has run for so long, in whole seconds, rounded up. The time begins with the boot: one that is
   * too short for it fails the boot with `BootStart`. Default: never.
   */
  readonly maxDuration?: Duration.Input | undefined
  /** Stop the sandbox when nothing has happened in it for so long, in whole seconds, rounded up. Default: never. */
  readonly idleTimeout?: Duration.Input | undefined
  /** Remove the sandbox, with its logs, as soon as its VM has ended, whoever ended it. Default: false. */
  readonly ephemeral?: boolean | undefined
  /**
   * End and remove the sandbox that has the name, if there is one. It may take the timeout to shut down, and is killed
   * then; zero kills it at once. Default: false; with true, 10 seconds.
   */
  readonly replace?: boolean | { readonly timeout?: Duration.Input | undefined } | undefined
  /** A policy by its name, or more; false for no network device at all. Default: `"public-only"`. */
  readonly network?: false | NetworkPolicy.Preset | Network | undefined
  /** Secrets that the guest uses and never has. They need a network. Default: none. */
  readonly secrets?: ReadonlyArray<Secret.Secret> | undefined
  /** What becomes of a request with a secret's placeholder that may not have the secret. Default: `"block-and-log"`. */
  readonly secretViolation?: Secret.Violation | undefined
  /**
   * Changes to the root file system before the first boot, in their order. A root that is a directory is changed itself;
   * one that is a disk image, or that is under a `rootDisk` of `tmpfs` or `disk`, takes none. Default: none.
   */
  readonly patches?: ReadonlyArray<Patch.Patch> | undefined
  /** What becomes of it when its scope closes. Default: `"destroy"`. */
  readonly onClose?: OnClose | undefined
}

const NonEmpty = Text.check(Schema.isMinLength(1))

const DiskFormat = Schema.Literals(["raw", "qcow2", "vmdk"])

const Fstype = Text.check(
  Schema.isPattern(/^[^,;:=]+$/, { expected: "the name of a file system, without , ; : and =" })
)

const Image = Schema.Union([
  NonEmpty.check(checks.imageText),
  Schema.Struct({
    oci: Schema.optional(NonEmpty.check(checks.reference)),
    directory: Schema.optional(NonEmpty),
    followRootSymlinks: Schema.optional(Schema.Boolean),
    disk: Schema.optional(NonEmpty),
    format: Schema.optional(DiskFormat),
    fstype: Schema.optional(Fstype)
  }).check(checks.imageData)
])

/** The data first: a size looks at any value, and of two complaints the first is told. */
const RootDisk = Schema.Union([
  Schema.Struct({
    managed: Schema.optional(Schema.Literal(true)),
    tmpfs: Schema.optional(Schema.Literal(true)),
    flat: Schema.optional(Schema.Literal(true)),
    disk: Schema.optional(NonEmpty),
    size: Schema.optional(Memory),
    cloneStrategy: Schema.optional(Schema.Literals(["auto", "copy", "reflink"])),
    format: Schema.optional(Schema.Literals(["raw", "qcow2"])),
    fstype: Schema.optional(Fstype)
  }).check(checks.rootDisk),
  RootSize
])

const Cpus = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 255 }))

const PortNumber = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))

const Port = Schema.Struct({
  host: PortNumber,
  guest: PortNumber,
  bind: Schema.optional(Schema.String.check(checks.address)),
  protocol: Schema.optional(Schema.Literals(["tcp", "udp"]))
})

const UserId = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 4_294_967_295 }))

const Mount = Schema.Struct({
  bind: Schema.optional(HostPath),
  named: Schema.optional(Schema.String.check(checks.volumeName)),
  owned: Schema.optional(Schema.Literal(true)),
  tmpfs: Schema.optional(Schema.Literal(true)),
  disk: Schema.optional(HostPath),
  mode: Schema.optional(Schema.Literals(["existing", "create", "ensure-exists"])),
  kind: Schema.optional(Schema.Literals(["directory", "disk"])),
  size: Schema.optional(Memory),
  quota: Schema.optional(Memory),
  labels: Schema.optional(Schema.Record(Schema.String, Schema.String)),
  format: Schema.optional(DiskFormat),
  fstype: Schema.optional(Fstype),
  readonly: Schema.optional(Schema.Boolean),
  noexec: Schema.optional(Schema.Boolean),
  nosuid: Schema.optional(Schema.Boolean),
  nodev: Schema.optional(Schema.Boolean),
  statVirtualization: Schema.optional(Schema.Literals(["strict", "relaxed", "off"])),
  hostPermissions: Schema.optional(Schema.Literals(["private", "mirror"])),
  followRootSymlinks: Schema.optional(Schema.Boolean),
  owner: Schema.optional(Schema.Struct({ uid: UserId, gid: UserId }))
}).check(checks.mount)

const Vsock = Schema.Struct({
  path: Text.check(checks.socketPath),
  port: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 4_294_967_294 })),
  type: Schema.optional(Schema.Literals(["stream", "dgram"]))
})

const Units = Schema.Union([
  Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })),
  Schema.Literal("unlimited")
])

const Rlimit = Schema.optional(
  Schema.Union([...Units.members, Schema.Struct({ soft: Units, hard: Units }).check(checks.rlimit)])
)

const Rlimits = Schema.Struct({
  as: Rlimit,
  core: Rlimit,
  cpu: Rlimit,
  data: Rlimit,
  fsize: Rlimit,
  locks: Rlimit,
  memlock: Rlimit,
  msgqueue: Rlimit,
  nice: Rlimit,
  nofile: Rlimit,
  nproc: Rlimit,
  rss: Rlimit,
  rtprio: Rlimit,
  rttime: Rlimit,
  sigpending: Rlimit,
  stack: Rlimit
})

const Command = Text.check(checks.initCommand)

/**
 * The schema of {@link Registry}. It checks, and changes nothing.
 *
 * @stability unstable
 * @category schemas
 * @since 0.1.0
 */
export const Registry = Schema.Struct({
  auth: Schema.optional(Schema.Struct({ username: NonEmpty, password: Schema.Redacted(Schema.String) })),
  insecure: Schema.optional(Schema.Boolean),
  caCerts: Schema.optional(Schema.Union([Schema.String, Schema.Uint8Array]).check(checks.pem))
})

const NetworkInterface = Schema.Struct({
  mac: Schema.optional(Schema.String.check(checks.mac)),
  mtu: Schema.optional(Schema.Int.check(Schema.isBetween({ minimum: 1280, maximum: 65_535 }))),
  ipv4: Schema.optional(Schema.String.check(checks.guestIpv4)),
  ipv4Pool: Schema.optional(Schema.String.check(checks.ipv4Pool)),
  ipv6: Schema.optional(Schema.String.check(checks.guestIpv6)),
  ipv6Pool: Schema.optional(Schema.String.check(checks.ipv6Pool))
}).check(checks.networkInterface)

const Pem = Text.check(Schema.isMinLength(1))

const Tls = Schema.Struct({
  ports: Schema.optional(Schema.Array(PortNumber).check(Schema.isMinLength(1))),
  bypass: Schema.optional(Schema.Array(Schema.String.check(networkChecks.pattern))),
  verifyUpstream: Schema.optional(Schema.Boolean),
  verifyUpstreamFor: Schema.optional(Schema.Record(Schema.String, Schema.Boolean).check(networkChecks.patterns)),
  blockQuic: Schema.optional(Schema.Boolean),
  upstreamCaCerts: Schema.optional(Schema.Array(Pem)),
  upstreamCaCertsFor: Schema.optional(
    Schema.Record(Schema.String, Schema.Array(Pem)).check(networkChecks.patterns)
  ),
  interceptCa: Schema.optional(Schema.Struct({ cert: Pem, key: Pem }))
})

const Dns = Schema.Struct({
  nameservers: Schema.optional(Schema.Array(Schema.String.check(networkChecks.nameserver))),
  rebindProtection: Schema.optional(Schema.Boolean),
  queryTimeout: Schema.optional(Millis)
})

const Proxy = Schema.Struct({
  socks4: Schema.optional(Schema.String.check(networkChecks.socketAddress)),
  userId: Schema.optional(Schema.String.check(networkChecks.credential)),
  socks5: Schema.optional(Schema.String.check(networkChecks.socketAddress)),
  credentials: Schema.optional(Schema.Struct({
    username: Schema.String.check(networkChecks.credential),
    passwordVariable: VariableName
  }))
}).check(networkChecks.proxy)

const Count = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER }))

const RateLimit = Schema.Struct({
  bandwidth: Schema.optional(Schema.Struct({ size: Bytes, per: Millis, burst: Schema.optional(Bytes) })),
  packets: Schema.optional(Schema.Struct({ count: Count, per: Millis, burst: Schema.optional(Count) }))
}).check(networkChecks.rateLimit)

/** Zero is the border's word for no limit. */
const MaxConnections = Schema.Union([
  Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 4_294_967_295 })),
  Schema.Literal("unlimited")
])

const PresetName = Schema.Literals(["public-only", "none", "allow-all", "non-local"])

const Policy = Schema.Union([PresetName, NetworkPolicy.NetworkPolicy])

const Network = Schema.Struct({
  policy: Schema.optional(Policy),
  dns: Schema.optional(Dns),
  tls: Schema.optional(Tls),
  proxy: Schema.optional(Proxy),
  rateLimit: Schema.optional(
    Schema.Struct({ egress: Schema.optional(RateLimit), ingress: Schema.optional(RateLimit) })
      .check(networkChecks.rateLimits)
  ),
  maxTcpConnections: Schema.optional(MaxConnections),
  maxUdpConnections: Schema.optional(MaxConnections),
  strict: Schema.optional(Schema.Boolean),
  trustHostCas: Schema.optional(Schema.Boolean),
  interface: Schema.optional(NetworkInterface)
})

/**
 * The schema of {@link RestoredNetwork}, of a policy's name alone, and of false for no network device.
 *
 * @stability unstable
 * @category schemas
 * @since 0.1.0
 */
export const RestoredNetwork = Schema.Union([
  Schema.Literal(false),
  PresetName,
  Schema.Struct({
    policy: Schema.optional(Policy),
    maxTcpConnections: Schema.optional(MaxConnections),
    maxUdpConnections: Schema.optional(MaxConnections)
  })
])

/**
 * The schema of {@link Options}. It checks, and changes nothing.
 *
 * @stability unstable
 * @category schemas
 * @since 0.1.0
 */
export const Options = Schema.Struct({
  name: Schema.optional(Name),
  image: Image,
  rootDisk: Schema.optional(RootDisk),
  cpus: Schema.optional(Cpus),
  maxCpus: Schema.optional(Cpus),
  memory: Schema.optional(Memory),
  maxMemory: Schema.optional(Memory),
  cpuPlacement: Schema.optional(Schema.Literals(["inherit", "auto", "spread", "compact"])),
  placementProfile: Schema.optional(NonEmpty),
  transparentHugePages: Schema.optional(Schema.Literals(["always", "madvise", "never"])),
  env: Schema.optional(Variables.check(checks.environment)),
  workdir: Schema.optional(NonEmpty),
  shell: Schema.optional(NonEmpty),
  user: Schema.optional(NonEmpty),
  hostname: Schema.optional(NonEmpty.check(checks.hostname)),
  labels: Schema.optional(Schema.Record(Schema.String, Schema.String).check(checks.labels)),
  scripts: Schema.optional(Schema.Record(Schema.String, Schema.String).check(checks.scripts)),
  entrypoint: Schema.optional(Schema.Array(Text).check(checks.words)),
  cmd: Schema.optional(Schema.Array(Text).check(checks.words)),
  init: Schema.optional(Schema.Union([
    Command,
    Schema.Struct({
      command: Command,
      args: Schema.optional(Schema.Array(Text)),
      env: Schema.optional(Variables)
    })
  ])),
  ports: Schema.optional(Schema.Array(Port).check(checks.ports)),
  mounts: Schema.optional(Schema.Record(Schema.String, Mount).check(checks.mounts)),
  vsock: Schema.optional(Schema.Array(Vsock).check(checks.vsock)),
  rlimits: Schema.optional(Rlimits),
  pullPolicy: Schema.optional(Schema.Literals(["always", "if-missing", "never"])),
  registry: Schema.optional(Registry),
  logLevel: Schema.optional(Schema.Literals(["quiet", "error", "warn", "info", "debug", "trace"])),
  metricsInterval: Schema.optional(Schema.Union([Schema.Literal(false), Lifetime.check(checks.interval)])),
  security: Schema.optional(Schema.Literals(["default", "restricted"])),
  deploymentProfile: Schema.optional(Schema.Literals(["single-tenant", "multi-tenant"])),
  maxDuration: Schema.optional(Lifetime),
  idleTimeout: Schema.optional(Lifetime),
  ephemeral: Schema.optional(Schema.Boolean),
  replace: Schema.optional(Schema.Union([Schema.Boolean, Schema.Struct({ timeout: Schema.optional(Span) })])),
  network: Schema.optional(Schema.Union([Schema.Literal(false), PresetName, Network])),
  secrets: Schema.optional(Schema.Array(Secret.Secret).check(secretChecks.secrets)),
  secretViolation: Schema.optional(Secret.Violation),
  patches: Schema.optional(Schema.Array(Patch.Patch)),
  onClose: Schema.optional(OnCloseSchema)
}).check(checks.options)
