/** A machine with a network of its own, of loopback alone, where `programs/network.ts` runs. */

/** What is where. */
export const machine = {
  /** Addresses for documentation (RFC 5737, RFC 3849), which the engine's policies take for public ones. */
  public: "203.0.113.10",
  denied: "203.0.113.11",
  public6: "2001:db8::10",
  /** Its name server does not; these are public for both. Nothing leaves this machine. */
  api: "11.22.33.1",
  shop: "11.22.33.2",
  shop6: "2600:77::2",
  private: "10.77.0.10",
  private6: "fd77::10",
  linkLocal: "169.254.7.7",
  /** Where a cloud tells its machines about themselves. */
  metadata: "169.254.169.254",
  multicast: "239.7.7.7",
  /** The network of the first two, and of the third. */
  network: "203.0.113.0/24",
  network6: "2001:db8::/32",
  names: {
    "api.example": "11.22.33.1",
    "www.api.example": "11.22.33.1",
    "shop.example": "11.22.33.2",
    "www.shop.example": "11.22.33.2",
    "evil.shop.example": "11.22.33.2",
    "pass.example": "11.22.33.1",
    "closed.example": "11.22.33.2",
    "late.shop.example": "11.22.33.2",
    "inner.example": "10.77.0.10",
    "inner.shop.example": "10.77.0.10",
    example: "203.0.113.10"
  } as Readonly<Record<string, string>>,
  /** The name server takes its time for this one. */
  late: "late.shop.example",
  names6: { "shop.example": "2600:77::2" } as Readonly<Record<string, string>>,
  nameserverPort: 5353,
  proxyPort: 1080
}

/** Values that only this machine may have. */
export const canary = { value: "c4n4ry-of-the-value", variable: "c4n4ry-of-the-variable" }

const { api, denied, linkLocal, metadata, private: inside, private6, public: outside, public6, shop, shop6 } = machine

/**
 * The shell commands that give the addresses. The routes are for the engine: it looks whether the machine has them. The
 * range is of the groups whose programs may ping, by default none.
 */
export const commands = [
  "busybox ip link set lo up",
  ...[outside, denied, api, shop, inside, linkLocal, metadata]
    .map((address) => `busybox ip addr add ${address}/32 dev lo`),
  ...[public6, shop6, private6].map((address) => `busybox ip -6 addr add ${address}/128 dev lo`),
  "busybox ip route add default dev lo",
  "busybox ip -6 route add default dev lo",
  "echo 0 0 > /proc/sys/net/ipv4/ping_group_range"
].join("; ")
