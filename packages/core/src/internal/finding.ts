/** What was found out about a machine: one thing, as data. Here, since the error carries it too. */
import * as Schema from "effect/Schema"
import { optionalSize } from "./size.ts"

export const Status = Schema.Literals(["ok", "warning", "failed", "skipped"])
export type Status = typeof Status.Type

const finding = <const Check extends string, Fields extends Schema.Struct.Fields>(check: Check, fields: Fields) =>
  Schema.Struct({
    check: Schema.Literal(check),
    status: Status,
    message: Schema.String,
    fix: Schema.optionalKey(Schema.String),
    ...fields
  })

const text = Schema.optionalKey(Schema.String)

export const Finding = Schema.Union([
  finding("addon", {}),
  finding("cpu-virtualization", { flag: Schema.optionalKey(Schema.Literals(["vmx", "svm"])) }),
  finding("kvm-device", { path: text }),
  finding("kvm-permission", { path: text, group: text }),
  finding("runtime", { msb: text, libkrunfw: text, origin: text }),
  finding("runtime-version", { expected: Schema.String, actual: text }),
  finding("runtime-start", { msb: text }),
  finding("glibc", { required: Schema.String, actual: text }),
  finding("path-length", { path: text, limit: Schema.optionalKey(Schema.Int) }),
  finding("home", { path: text }),
  finding("xattrs", { path: text }),
  finding("disk-space", { path: text, available: optionalSize }),
  finding("boot", { duration: Schema.optionalKey(Schema.Duration) })
])
export type Finding = typeof Finding.Type
