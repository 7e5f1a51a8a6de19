/** The backend, for what only one on this machine can do. */
import * as Effect from "effect/Effect"
import { Backend, Local } from "../Backend.ts"

export const localBackend = Effect.gen(function*() {
  const { home } = yield* Local
  const { handle, native } = yield* Backend
  return { handle, native, home }
})
