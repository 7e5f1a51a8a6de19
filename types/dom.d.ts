import type { webcrypto } from "node:crypto"
import type * as Workers from "node:worker_threads"

// The few names of the DOM that Effect's declarations use. The rest stays out of sight: this is a library for Node.
declare global {
  type Crypto = webcrypto.Crypto
  type CryptoKey = webcrypto.CryptoKey
  type ImageData = never
  type JsonWebKey = webcrypto.JsonWebKey
  type MessagePort = Workers.MessagePort
  type Transferable = Workers.Transferable
}
