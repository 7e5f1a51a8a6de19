/** What the backend's catalogue says of a sandbox, as the user's data. */
import type { Native } from "@effect-microsandbox/native"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import { fromMebibytes } from "./inputs.ts"

/** The state of a sandbox. From the engine's catalogue (`db/lib/entity/sandbox.rs` of the crate, 0.7.2). */
export const Status = Schema.Literals(["Created", "Starting", "Running", "Draining", "Paused", "Stopped", "Crashed"])

/** The state of a sandbox. */
export type Status = typeof Status.Type

const Limit = Schema.Union([Schema.Finite, Schema.Literal("unlimited")])

/** What a sandbox is made of, as the engine keeps it. */
export class Config extends Schema.Class<Config>("@effect-microsandbox/core/Sandbox/Config")({
  /** A reference, or the path of a root directory or disk. */
  image: Schema.String,
  cpus: Schema.Int,
  maxCpus: Schema.Int,
  memory: Schema.ByteSize,
  maxMemory: Schema.ByteSize,
  env: Schema.Record(Schema.String, Schema.String),
  labels: Schema.Record(Schema.String, Schema.String),
  workdir: Schema.optionalKey(Schema.String),
  shell: Schema.optionalKey(Schema.String),
  user: Schema.optionalKey(Schema.String),
  hostname: Schema.optionalKey(Schema.String),
  entrypoint: Schema.optionalKey(Schema.Array(Schema.String)),
  cmd: Schema.optionalKey(Schema.Array(Schema.String)),
  scripts: Schema.Record(Schema.String, Schema.String),
  ports: Schema.Array(Schema.Struct({
    host: Schema.Int,
    guest: Schema.Int,
    protocol: Schema.String,
    bind: Schema.String
  })),
  mounts: Schema.Array(Schema.Struct({
    guest: Schema.String,
    kind: Schema.String,
    /** The host path, or the name of the volume. */
    source: Schema.optionalKey(Schema.String),
    readonly: Schema.Boolean
  })),
  rlimits: Schema.Array(Schema.Struct({ resource: Schema.String, soft: Limit, hard: Limit })),
  pullPolicy: Schema.String,
  security: Schema.String,
  logLevel: Schema.optionalKey(Schema.String),
  /** Whether it has a network at all. */
  network: Schema.Boolean,
  /** Absent: no samples are taken. */
  metricsInterval: Schema.optionalKey(Schema.Duration),
  ephemeral: Schema.Boolean,
  maxDuration: Schema.optionalKey(Schema.Duration),
  idleTimeout: Schema.optionalKey(Schema.Duration)
}) {}

/** A sandbox as the backend's catalogue has it. */
export class Info extends Schema.Class<Info>("@effect-microsandbox/core/Sandbox/Info")({
  name: Schema.String,
  id: Schema.String,
  status: Status,
  labels: Schema.Record(Schema.String, Schema.String),
  createdAt: Schema.optionalKey(Schema.DateTimeUtc),
  updatedAt: Schema.optionalKey(Schema.DateTimeUtc),
  lastFailure: Schema.optionalKey(Schema.String),
  /** What the next start takes. Absent when this version of the engine cannot read it. */
  config: Schema.optionalKey(Config),
  /** What the VM that runs was started with. */
  activeConfig: Schema.optionalKey(Config)
}) {}

/** How a sandbox ended. */
export class StopResult extends Schema.Class<StopResult>("@effect-microsandbox/core/Sandbox/StopResult")({
  name: Schema.String,
  status: Status,
  /** Of the VM process, when this process started it and it ended by itself. */
  exitCode: Schema.optionalKey(Schema.Int),
  /** The signal that ended the VM process, when this process started it. */
  signal: Schema.optionalKey(Schema.Int),
  /** When the end was seen. */
  observedAt: Schema.DateTimeUtc,
  /** Who said so, in the engine's words. */
  source: Schema.optionalKey(Schema.String)
}) {}

/** The kernel's word for no limit is the largest number. */
const limit = (value: number): number | "unlimited" => value >= 2 ** 64 ? "unlimited" : value

const toConfig = (
  { idleTimeoutSecs, maxDurationSecs, maxMemoryMib, memoryMib, metricsIntervalMs, rlimits, ...rest }:
    Native.SandboxConfig
): Config =>
  new Config({
    ...rest,
    rlimits: rlimits.map(({ hard, resource, soft }) => ({ resource, soft: limit(soft), hard: limit(hard) })),
    memory: fromMebibytes(memoryMib),
    maxMemory: fromMebibytes(maxMemoryMib),
    ...metricsIntervalMs === undefined ? {} : { metricsInterval: Duration.millis(metricsIntervalMs) },
    ...maxDurationSecs === undefined ? {} : { maxDuration: Duration.seconds(maxDurationSecs) },
    ...idleTimeoutSecs === undefined ? {} : { idleTimeout: Duration.seconds(idleTimeoutSecs) }
  })

export const toInfo = (
  { activeConfig, config, createdAt, status, updatedAt, ...rest }: Native.SandboxInfo
): Info =>
  new Info({
    ...rest,
    status: status as Status,
    ...createdAt === undefined ? {} : { createdAt: DateTime.makeUnsafe(createdAt) },
    ...updatedAt === undefined ? {} : { updatedAt: DateTime.makeUnsafe(updatedAt) },
    ...config === undefined ? {} : { config: toConfig(config) },
    ...activeConfig === undefined ? {} : { activeConfig: toConfig(activeConfig) }
  })

export const toStopResult = ({ observedAt, status, ...rest }: Native.StopResult): StopResult =>
  new StopResult({ ...rest, status: status as Status, observedAt: DateTime.makeUnsafe(observedAt) })
