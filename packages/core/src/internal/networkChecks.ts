/**
 * What policies and the options of a network must hold beyond their types. The rules are the engine's (`lib/model` of
 * `microsandbox-network` 0.7.2), and it would leave some mistakes to a VM that then reaches nothing.
 */
import * as Schema from "effect/Schema"
import { at, isCidr, isIpv4, isIpv6, type Issue } from "./optionChecks.ts"

export { address } from "./optionChecks.ts"

export const cidr = Schema.makeFilter((input: string) =>
  isCidr(input, { ipv4: 32, ipv6: 128 }) || "must be an IPv4 or IPv6 network, such as 10.0.0.0/8"
)

/** What a name server can answer: labels that begin with a letter, a digit or an underscore. */
const domainPattern = /^[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*$/

export const isDomain = (input: string): boolean => input.length <= 253 && domainPattern.test(input) && !isIpv4(input)

/** The engine takes a name with the dot of the root, and a suffix with a dot before it. */
const bare = (input: string): string => input.replace(/^\./, "").replace(/\.$/, "")

const isName = (input: string): boolean => !input.startsWith(".") && isDomain(bare(input))

export const domain = Schema.makeFilter((input: string) =>
  isName(input) || "must be a domain name; for an address use ip, for all names below it domainSuffix"
)

export const domainSuffix = Schema.makeFilter((input: string) =>
  isDomain(bare(input)) && bare(input).includes(".") || "must be a domain name of two labels or more"
)

/** `example.com`, or `*.example.com` for it and all below it. */
export const isPattern = (input: string): boolean => isDomain(input.replace(/^\*\./, ""))

export const pattern = Schema.makeFilter((input: string) =>
  isPattern(input) || "must be a domain name, or *. and one for all names below it"
)

export const patterns = Schema.makeFilter((record: Readonly<Record<string, unknown>>): Issue => {
  const wrong = Object.keys(record).find((key) => !isPattern(key))
  return wrong === undefined ? undefined : at([wrong], "must be a domain name, or *. and one for all names below it")
})

const isPort = (input: string): boolean => /^[1-9]\d{0,4}$/.test(input) && Number(input) <= 65_535

/** An address and its port, as `127.0.0.1:1080` or `[::1]:1080`. */
const isSocketAddress = (input: string): boolean => {
  const [, ipv6, ipv4 = "", port = ""] = /^(?:\[(.*)\]|([^[\]:]*)):(\d+)$/.exec(input) ?? []
  return isPort(port) && (ipv6 === undefined ? isIpv4(ipv4) : isIpv6(ipv6))
}

export const socketAddress = Schema.makeFilter((input: string) =>
  isSocketAddress(input) || "must be an address and a port, such as 127.0.0.1:1080 or [::1]:1080"
)

const isNameserver = (input: string): boolean => {
  if (isIpv4(input) || isIpv6(input) || isSocketAddress(input) || isDomain(input)) return true
  const [, name = "", port = ""] = /^([^:]*):(\d+)$/.exec(input) ?? []
  return isDomain(name) && isPort(port)
}

export const nameserver = Schema.makeFilter((input: string) =>
  isNameserver(input) || "must be an address or a name, with or without a port, such as 1.1.1.1 or [::1]:53"
)

export const portRange = Schema.makeFilter(({ from, to }: { readonly from: number; readonly to: number }): Issue =>
  from > to ? at(["to"], "must not be less than from") : undefined
)

interface RuleData {
  readonly direction: "egress" | "ingress" | "any"
  readonly protocols: ReadonlyArray<"tcp" | "udp" | "icmpv4" | "icmpv6">
  readonly ports: ReadonlyArray<unknown>
}

export const rule = Schema.makeFilter(({ direction, ports, protocols }: RuleData): Issue => {
  const icmp = protocols.findIndex((protocol) => protocol.startsWith("icmp"))
  if (icmp === -1) return undefined
  if (direction !== "egress") return at(["protocols", icmp], "ICMP only leaves: the direction must be egress")
  return ports.length > 0 ? at(["ports"], "ICMP has no ports: a rule for it cannot have any") : undefined
})

const only = <K extends string>(data: { readonly [Key in K]?: unknown }, keys: ReadonlyArray<K>): Issue =>
  keys.every((key) => data[key] === undefined) ? `must have ${keys.join(" or ")}` : undefined

export const rateLimits = Schema.makeFilter((
  limits: { readonly egress?: unknown; readonly ingress?: unknown }
): Issue => only(limits, ["egress", "ingress"]))

export const rateLimit = Schema.makeFilter(
  (limit: { readonly bandwidth?: unknown; readonly packets?: unknown }): Issue => only(limit, ["bandwidth", "packets"])
)

interface ProxyData {
  readonly socks4?: string | undefined
  readonly socks5?: string | undefined
  readonly userId?: string | undefined
  readonly credentials?: unknown
}

export const proxy = Schema.makeFilter((proxy: ProxyData): Issue => {
  const issue = only(proxy, ["socks4", "socks5"])
  if (issue !== undefined) return issue
  if (proxy.socks4 !== undefined && proxy.socks5 !== undefined) return at(["socks5"], "cannot be combined with socks4")
  if (proxy.socks4 !== undefined && proxy.credentials !== undefined) {
    return at(["credentials"], "is not an option of socks4")
  }
  return proxy.socks5 !== undefined && proxy.userId !== undefined
    ? at(["userId"], "is not an option of socks5")
    : undefined
})

/** A field of the protocol, whose length is one byte. */
export const credential = Schema.makeFilter((input: string) => {
  const bytes = new TextEncoder().encode(input).length
  return bytes >= 1 && bytes <= 255 && !input.includes("\0") || "must be of 1 to 255 bytes, without NUL"
})
