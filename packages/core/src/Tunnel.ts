/**
 * Ways to a TCP port of a guest that need no published port: a socket, a Node stream, an HTTP client.
 *
 * Every connection is made by the guest itself, so that it reaches what listens on the guest's loopback only. Both directions
 * have back-pressure: a reader that sleeps holds back the program in the guest, for as long as it likes, and at most 1 MiB
 * of a connection waits in memory for it.
 *
 * **Gotchas**
 *
 * Runtime 0.7.2 keeps the reset of a connection to itself: a server that closes with unread input, or is killed with it, is
 * told to the next write and to the end of writing (`TunnelLost`), and not to who only reads. Give such a read a timeout.
 *
 * @stability unstable
 * @since 0.1.0
 */

/**
 * Where in the guest's network to connect to.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** A name or an address, as the guest sees it. Default: `127.0.0.1`, the guest itself. */
  readonly host?: string | undefined
}

/**
 * Options of an HTTP client.
 *
 * @stability unstable
 * @category options
 * @since 0.1.0
 */
export interface HttpOptions extends Options {
  /**
   * How many requests are under way at once, 1 to 100; the others wait their turn. A sandbox's agent takes 128 connections, of
   * which each request and each program has one. Default: 32.
   */
  readonly maxConnections?: number | undefined
}
