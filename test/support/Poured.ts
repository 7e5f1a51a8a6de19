/** Output of any size whose every word says where it belongs. */
import * as crypto from "node:crypto"

/** What one frame of the guest's agent holds. */
export const chunkBytes = 4096

/** The bytes of one chunk: the numbers of its 32-bit words. */
export const poured = (index: number): Uint8Array => {
  const words = new Uint32Array(chunkBytes / 4)
  const first = index * words.length
  for (let word = 0; word < words.length; word++) words[word] = first + word
  return new Uint8Array(words.buffer)
}

/** The hash of so many bytes of it. */
export const sha256 = (bytes: number): string => {
  const hash = crypto.createHash("sha256")
  for (let index = 0; index < bytes / chunkBytes; index++) hash.update(poured(index))
  return hash.digest("hex")
}
