/** What the addon counts, in the types that Effect has for it. */
import type { Native } from "@effect-microsandbox/native"
import * as ByteSize from "effect/ByteSize"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import type { Sample } from "../Metrics.ts"
import { defined } from "./inputs.ts"

const size = (bytes: bigint | undefined): ByteSize.ByteSize | undefined =>
  bytes === undefined ? undefined : ByteSize.bytes(bytes)

export const fieldsOf = (sample: Native.MetricsSample): ConstructorParameters<typeof Sample>[0] => ({
  timestamp: DateTime.makeUnsafe(sample.sampledAt),
  uptime: Duration.millis(sample.uptimeMs),
  cpuPercent: sample.cpuPercent,
  vcpuTime: Duration.nanos(sample.vcpuTimeNs),
  memory: ByteSize.bytes(sample.memory),
  memoryLimit: ByteSize.bytes(sample.memoryLimit),
  diskRead: ByteSize.bytes(sample.diskRead),
  diskWritten: ByteSize.bytes(sample.diskWritten),
  networkReceived: ByteSize.bytes(sample.networkReceived),
  networkSent: ByteSize.bytes(sample.networkSent),
  ...defined({
    memoryAvailable: size(sample.memoryAvailable),
    memoryHostResident: size(sample.memoryHostResident),
    upperUsed: size(sample.upperUsed),
    upperFree: size(sample.upperFree),
    upperHostAllocated: size(sample.upperHostAllocated)
  })
})
