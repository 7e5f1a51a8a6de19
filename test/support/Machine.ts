/** A machine with a network of its own, of loopback alone, where `programs/network.ts` runs. */

/** What is where. */
export const machine = {
  /** Addresses for documentation (RFC 5737), which the engine's policies take for public ones. */
  public: "203.0.113.10",
  denied: "203.0.113.11",
  /** Its name server does not; these are public for both. Nothing leaves this machine. */
  api: "11.22.33.1",
  shop: "11.22.33.2",
  private: "10.77.0.10",
  /** The network of the first two. */
  network: "203.0.113.0/24",
  names: {
    "api.example": "11.22.33.1",
    "www.api.example": "11.22.33.1",
    "shop.example": "11.22.33.2",
    "www.shop.example": "11.22.33.2",
    "evil.shop.example": "11.22.33.2",
    "inner.example": "10.77.0.10",
    example: "203.0.113.10"
  } as Readonly<Record<string, string>>,
  nameserverPort: 5353,
  proxyPort: 1080
}

/** Values that only this machine may have. */
export const canary = { value: "c4n4ry-of-the-value", variable: "c4n4ry-of-the-variable" }

/** The shell commands that give the addresses. The route is for the engine: it looks whether the machine has one. */
export const commands = [
  "busybox ip link set lo up",
  ...[machine.public, machine.denied, machine.api, machine.shop, machine.private]
    .map((address) => `busybox ip addr add ${address}/32 dev lo`),
  "busybox ip route add default dev lo"
].join("; ")
