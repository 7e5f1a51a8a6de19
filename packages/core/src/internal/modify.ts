/** Changes of a sandbox, on a handle or by name. */
import type { Native } from "@effect-microsandbox/native"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { MicrosandboxError } from "../MicrosandboxError.ts"
import { type Changes, type Options, Plan } from "../Modify.ts"
import { decodeOptions } from "./failure.ts"
import { defined, LabelName, Labels, Memory, someMebibytes, Text, VariableName, Variables } from "./inputs.ts"
import { attributesOf, call, subjectOf, type Target } from "./operation.ts"

const Cpus = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 255 }))

export const modifyFields = {
  cpus: Schema.optional(Cpus),
  maxCpus: Schema.optional(Cpus),
  memory: Schema.optional(Memory),
  maxMemory: Schema.optional(Memory),
  rootDiskSize: Schema.optional(Memory),
  env: Schema.optional(Variables),
  removeEnv: Schema.optional(Schema.Array(VariableName)),
  labels: Schema.optional(Labels),
  removeLabels: Schema.optional(Schema.Array(LabelName)),
  workdir: Schema.optional(Text),
  effect: Schema.optional(Schema.Literals(["now", "next-start"]))
}

const decodePlan = Schema.decodeSync(Plan)

/** Decoded changes and options, for the border. */
export const toNativeModify = (
  decoded: Changes & Options,
  apply: boolean
): [Native.ModifyChanges, Native.ModifyOptions] => [
  defined({
    cpus: decoded.cpus,
    maxCpus: decoded.maxCpus,
    memoryMib: someMebibytes(decoded.memory),
    maxMemoryMib: someMebibytes(decoded.maxMemory),
    rootDiskMib: someMebibytes(decoded.rootDiskSize),
    env: decoded.env && { ...decoded.env },
    removeEnv: decoded.removeEnv && [...decoded.removeEnv],
    labels: decoded.labels && { ...decoded.labels },
    removeLabels: decoded.removeLabels && [...decoded.removeLabels],
    workdir: decoded.workdir
  }),
  { apply, nextStart: decoded.effect === "next-start" }
]

export const toPlan = (plan: Native.ModifyPlan): Plan => decodePlan(plan as typeof Plan.Encoded)

const change = (operation: string, apply: boolean, target: Target) => {
  const decode = decodeOptions(Schema.Struct(modifyFields), subjectOf(operation, target))
  return Effect.fn(operation, { attributes: attributesOf(target) })(function*(
    changes: Changes,
    options: Options = {}
  ): Effect.fn.Return<Plan, MicrosandboxError> {
    const [native, how] = toNativeModify(yield* decode({ ...options, ...changes }), apply)
    return toPlan(yield* call(target, operation, (handle, token) => handle.modify(native, how, token)))
  })
}

export const modify = (target: Target) => ({
  modify: change("Sandbox.modify", true, target),
  modifyPlan: change("Sandbox.modifyPlan", false, target)
})
