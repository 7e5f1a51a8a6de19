/** What patches must hold beyond their types: the engine's rules (`lib/sandbox/patch.rs` of 0.7.2), before it has begun. */
import * as Schema from "effect/Schema"

export const guestPath = Schema.makeFilter((path: string) => {
  if (!path.startsWith("/")) return "a path in the guest is absolute"
  if (path.includes("\0")) return "a path in the guest is without NUL"
  const parts = path.split("/").filter((part) => part !== "" && part !== ".")
  if (parts.includes("..")) return "a path in the guest is without .."
  return parts.length > 0 || "the root itself cannot be patched"
})
