/**
 * One rule of a network policy: whether packets of some direction, destination, protocol and port pass.
 *
 * Plain data: it is checked where it is used, by `Sandbox.make`. The first rule that matches decides.
 *
 * @stability unstable
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import * as Destination from "./Destination.ts"
import * as checks from "./internal/networkChecks.ts"

/**
 * Whether something passes.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Action = "allow" | "deny"

/**
 * `"egress"` is what the guest begins, `"ingress"` what comes to a published port, `"any"` both.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Direction = "egress" | "ingress" | "any"

/**
 * A protocol that a rule can look at. ICMP only leaves, and of it only `ping`: this machine asks in the guest's name, which
 * Linux allows to the groups in `net.ipv4.ping_group_range`. Of ICMPv6 the engine (0.7.2) answers for the gateway alone: it
 * drops every other answer, whose checksum it takes to be for the guest's address.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Protocol = "tcp" | "udp" | "icmpv4" | "icmpv6"

/**
 * A port, or all from the one to the other, both included.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Ports = number | { readonly from: number; readonly to: number }

/**
 * What a rule looks at. What is absent matches everything.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Match {
  /** Default: `"egress"`. */
  readonly direction?: Direction | undefined
  /** The other side. Default: any. */
  readonly destination?: Destination.Destination | undefined
  /** Default: every protocol. */
  readonly protocols?: ReadonlyArray<Protocol> | undefined
  /** The port that is connected to, whoever begins: the other side's for egress, the guest's for ingress. Default: all. */
  readonly ports?: ReadonlyArray<Ports> | undefined
}

/**
 * One rule of a network policy.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Rule {
  readonly action: Action
  readonly direction: Direction
  readonly destination: Destination.Destination
  /** Empty for every protocol. */
  readonly protocols: ReadonlyArray<Protocol>
  /** Empty for every port. */
  readonly ports: ReadonlyArray<Ports>
}

const rule = (action: Action, match: Match): Rule => ({
  action,
  direction: match.direction ?? "egress",
  destination: match.destination ?? Destination.any,
  protocols: match.protocols ?? [],
  ports: match.ports ?? []
})

/**
 * Lets pass what matches.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const allow = (match: Match): Rule => rule("allow", match)

/**
 * Lets nothing pass that matches: a TCP connection is refused at once, and what is no connection is dropped.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const deny = (match: Match): Rule => rule("deny", match)

const dns: Match = {
  destination: Destination.group("host"),
  protocols: ["udp", "tcp"],
  ports: [53]
}

/**
 * Lets the guest ask for names. A policy that denies by default needs it for a guest that looks up names which no rule
 * allows: a name is asked for before there is an address that a rule could match.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const allowDns: Rule = allow(dns)

/**
 * Lets no name be asked for.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const denyDns: Rule = deny(dns)

const Port = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))

/**
 * The schema of {@link Rule}. It checks, and changes nothing.
 *
 * @stability unstable
 * @category schemas
 * @since 0.1.0
 */
export const Rule = Schema.Struct({
  action: Schema.Literals(["allow", "deny"]),
  direction: Schema.Literals(["egress", "ingress", "any"]),
  destination: Destination.Destination,
  protocols: Schema.Array(Schema.Literals(["tcp", "udp", "icmpv4", "icmpv6"])),
  ports: Schema.Array(Schema.Union([Port, Schema.Struct({ from: Port, to: Port }).check(checks.portRange)]))
}).check(checks.rule)
