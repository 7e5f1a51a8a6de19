/**
 * Where the guest's packets may go, or come from: what a {@link Rule} of a network policy looks at.
 *
 * Plain data: it is checked where it is used, by `Sandbox.make`.
 *
 * @stability unstable
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import * as checks from "./internal/networkChecks.ts"

/**
 * A set of addresses that the engine knows by name (`engine/policy/destination.rs` of its network crate, 0.7.2). Each
 * address is in one of them: `"host"` is this machine as the guest sees it, by the gateway's address, which is also
 * `host.microsandbox.internal`; `"metadata"` is 169.254.169.254; `"private"` is RFC 1918, unique local and carrier grade
 * addresses; `"loopback"` is for ingress, and there the programs of this machine, since what a guest sends to
 * 127.0.0.1 stays in it; `"public"` is what is in no other.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Group = "public" | "private" | "loopback" | "link-local" | "metadata" | "multicast" | "host"

/**
 * Some addresses of the other side: where a packet of the guest goes, or whom one for the guest comes from.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Destination =
  | { readonly _tag: "Any" }
  | { readonly _tag: "Ip"; readonly address: string }
  | { readonly _tag: "Cidr"; readonly network: string }
  | { readonly _tag: "Domain"; readonly name: string }
  | { readonly _tag: "DomainSuffix"; readonly name: string }
  | { readonly _tag: "Group"; readonly group: Group }

/**
 * Every address.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const any: Destination = { _tag: "Any" }

/**
 * One IPv4 or IPv6 address.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const ip = (address: string): Destination => ({ _tag: "Ip", address })

/**
 * The addresses of a network, such as `10.0.0.0/8` or `fd00::/8`.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const cidr = (network: string): Destination => ({ _tag: "Cidr", network })

/**
 * A domain name, and no name below it. The engine knows the addresses of a name when the guest has asked it for them; by
 * TLS it goes by the name that the guest asks the server for.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const domain = (name: string): Destination => ({ _tag: "Domain", name })

/**
 * A domain name and all names below it, of two labels or more: `example.com`.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const domainSuffix = (name: string): Destination => ({ _tag: "DomainSuffix", name })

/**
 * The addresses of a {@link Group}.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const group = (group: Group): Destination => ({ _tag: "Group", group })

/**
 * The schema of {@link Destination}. It checks, and changes nothing.
 *
 * @stability unstable
 * @category schemas
 * @since 0.1.0
 */
export const Destination = Schema.Union([
  Schema.TaggedStruct("Any", {}),
  Schema.TaggedStruct("Ip", { address: Schema.String.check(checks.address) }),
  Schema.TaggedStruct("Cidr", { network: Schema.String.check(checks.cidr) }),
  Schema.TaggedStruct("Domain", { name: Schema.String.check(checks.domain) }),
  Schema.TaggedStruct("DomainSuffix", { name: Schema.String.check(checks.domainSuffix) }),
  Schema.TaggedStruct("Group", {
    group: Schema.Literals(["public", "private", "loopback", "link-local", "metadata", "multicast", "host"])
  })
])
