/** Output of any size whose every word says where it belongs. */

/** What one frame of the guest's agent holds. */
export const chunkBytes = 4096

/** The bytes of one chunk: the numbers of its 32-bit words. */
export const poured = (index: number): Uint8Array => {
  const words = new Uint32Array(chunkBytes / 4)
  const first = index * words.length
  for (let word = 0; word < words.length; word++) words[word] = first + word
  return new Uint8Array(words.buffer)
}
