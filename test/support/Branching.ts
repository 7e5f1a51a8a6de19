/** What the tests call of pause and branch. TODO(merge): `Sandbox.Sandbox` itself, once it has them. */
import type { MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import type { Effect, Scope } from "effect"

type Step<A, R = never> = Effect.Effect<A, MicrosandboxError.MicrosandboxError, R>

export interface Branching extends Sandbox.Sandbox {
  readonly pause: (options?: object) => Step<void>
  readonly resume: Step<void>
  readonly branch: (name?: string) => Step<Sandbox.Sandbox, Scope.Scope>
}

export const branching = (sandbox: Sandbox.Sandbox) => sandbox as Branching
