/**
 * What a guest may reach, and who may reach it.
 *
 * Plain data: it is checked where it is used, by `Sandbox.make`. A policy is also the start of another:
 * `NetworkPolicy.make({ ...NetworkPolicy.publicOnly, denyDomains: ["example.com"] })`.
 *
 * @stability unstable
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import * as Destination from "./Destination.ts"
import * as Rule from "./Rule.ts"

/**
 * A policy that has a name, for options: `"public-only"` is {@link publicOnly}, and so on.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Preset = "public-only" | "none" | "allow-all" | "non-local"

/**
 * Rules, of which the first that matches decides, and what holds when none does.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface NetworkPolicy {
  /** For what the guest begins. */
  readonly defaultEgress: Rule.Action
  /** For what comes to a published port. */
  readonly defaultIngress: Rule.Action
  readonly rules: ReadonlyArray<Rule.Rule>
}

const profile = (groups: ReadonlyArray<Destination.Group>): NetworkPolicy => ({
  defaultEgress: "deny",
  defaultIngress: "allow",
  rules: [Rule.allowDns, ...groups.map((group) => Rule.allow({ destination: Destination.group(group) }))]
})

/**
 * Public addresses and names, and nothing of this machine or its networks; published ports are open. What a sandbox has by
 * default.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const publicOnly: NetworkPolicy = profile(["public"])

/**
 * Nothing, in either direction: names are not found, and a published port lets nobody in. `network: false` is stronger, and
 * leaves the guest without a network device.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const none: NetworkPolicy = { defaultEgress: "deny", defaultIngress: "deny", rules: [] }

/**
 * Everything, this machine's loopback too (as `host.microsandbox.internal`).
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const allowAll: NetworkPolicy = { defaultEgress: "allow", defaultIngress: "allow", rules: [] }

/**
 * Public and private addresses, and not this machine's loopback, link-local addresses, and a cloud's metadata.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const nonLocal: NetworkPolicy = profile(["public", "private"])

/**
 * The policies by their names.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const presets: Readonly<Record<Preset, NetworkPolicy>> = {
  "public-only": publicOnly,
  none,
  "allow-all": allowAll,
  "non-local": nonLocal
}

/**
 * Options of {@link make}.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** Default: `"deny"`. */
  readonly defaultEgress?: Rule.Action | undefined
  /** Default: `"allow"`. */
  readonly defaultIngress?: Rule.Action | undefined
  readonly rules?: ReadonlyArray<Rule.Rule> | undefined
  /**
   * Names that the guest must not reach, before every rule. They are not found, and no TLS or HTTP may be for them; to an
   * address that the guest knows, other words go by the other rules.
   */
  readonly denyDomains?: ReadonlyArray<string> | undefined
  /** Names that the guest must not reach, nor any name below them, before every rule. */
  readonly denyDomainSuffixes?: ReadonlyArray<string> | undefined
}

/**
 * A policy of rules.
 *
 * @stability unstable
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): NetworkPolicy => ({
  defaultEgress: options.defaultEgress ?? "deny",
  defaultIngress: options.defaultIngress ?? "allow",
  rules: [
    ...(options.denyDomains ?? []).map((name) => Rule.deny({ destination: Destination.domain(name) })),
    ...(options.denyDomainSuffixes ?? []).map((name) => Rule.deny({ destination: Destination.domainSuffix(name) })),
    ...options.rules ?? []
  ]
})

/**
 * The schema of {@link NetworkPolicy}. It checks, and changes nothing.
 *
 * @stability unstable
 * @category schemas
 * @since 0.1.0
 */
export const NetworkPolicy = Schema.Struct({
  defaultEgress: Schema.Literals(["allow", "deny"]),
  defaultIngress: Schema.Literals(["allow", "deny"]),
  rules: Schema.Array(Rule.Rule)
})
