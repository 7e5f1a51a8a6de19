/** One call of the addon as an operation of a sandbox: its span, its attributes and its error. */
import type { Native } from "@effect-microsandbox/native"
import * as Effect from "effect/Effect"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import { mapFailure, type Subject } from "./failure.ts"

/** What an operation needs of the backend. */
export interface Engine {
  readonly native: Native.Native["Service"]
  /** The directory of the backend, when it is on this machine. */
  readonly home: string | undefined
  /** To be run before something is begun that does not end with this process. */
  readonly watch: Effect.Effect<void>
}

/** What an operation needs of the sandbox that it is on. */
export interface Target extends Engine {
  readonly handle: Native.Sandbox
  readonly name: string
}

/** What the error of an operation names. */
export const subjectOf = (operation: string, { name }: Target): Subject => ({ operation, sandbox: name })

/** What the span of every operation on a sandbox says; never an argument, an environment or a secret. */
export const attributesOf = ({ handle, name }: Target): Record<string, unknown> => ({
  "sandbox.name": name,
  "sandbox.id": handle.id
})

type Run<A> = (handle: Native.Sandbox, token: Native.CancelToken) => Promise<Native.Outcome<A>>

/** A call that takes no options, as an effect. Those with options use `Effect.fn` and {@link call}. */
export const operation = <A>(target: Target, name: string, run: Run<A>): Effect.Effect<A, MicrosandboxError> =>
  call(target, name, run).pipe(Effect.withSpan(name, { attributes: attributesOf(target) }))

/** The same without a span, for the inside of an `Effect.fn`. */
export const call = <A>(target: Target, name: string, run: Run<A>): Effect.Effect<A, MicrosandboxError> =>
  target.native.call((token) => run(target.handle, token)).pipe(mapFailure(subjectOf(name, target)))

/** An image as a span may name it: whatever stands before an `@` that begins no digest could be a password. */
export const withoutCredentials = (image: string): string =>
  /^\.{0,2}\//.test(image) ? image : image.replace(/^.*@(?![a-z0-9+._-]+:[0-9a-f]+$)/is, "")

/** The program of a span: its name, and never what it was given. */
export const executable = (command: string): string => command.slice(command.lastIndexOf("/") + 1)
