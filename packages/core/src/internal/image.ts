/** Images on their way through the addon: options that are checked, and what the catalogue says in the user's terms. */
import type { Native } from "@effect-microsandbox/native"
import * as ByteSize from "effect/ByteSize"
import * as DateTime from "effect/DateTime"
import * as Schema from "effect/Schema"
import { Registry } from "../SandboxOptions.ts"
import { defined, Text } from "./inputs.ts"
import { toRegistry } from "./sandboxOptions.ts"

const NonEmpty = Text.check(Schema.isMinLength(1))

export const Reference = Schema.Struct({ reference: NonEmpty })

export const Pull = Schema.Struct({
  reference: NonEmpty,
  pullPolicy: Schema.optional(Schema.Literals(["always", "if-missing", "never"])),
  registry: Schema.optional(Registry),
  platform: Schema.optional(
    Schema.String.check(
      Schema.isPattern(/^[a-z0-9]+\/[a-z0-9_]+(\/[a-z0-9]+)?$/, {
        expected: "an operating system and an architecture, such as \"linux/amd64\" or \"linux/arm64/v8\""
      })
    )
  ),
  flat: Schema.optional(Schema.Boolean)
})

export const Remove = Schema.Struct({ reference: NonEmpty, force: Schema.optional(Schema.Boolean) })

export const Load = Schema.Struct({ path: NonEmpty, tags: Schema.optional(Schema.Array(NonEmpty)) })

export const Save = Schema.Struct({
  references: Schema.Array(NonEmpty).check(Schema.isMinLength(1)),
  path: NonEmpty,
  format: Schema.optional(Schema.Literals(["docker", "oci"]))
})

export const toNativePull = ({ registry, ...rest }: typeof Pull.Type): Native.PullImageOptions =>
  defined({ ...rest, registry: registry && toRegistry(registry) })

const bytes = (size: number | undefined) => size === undefined ? undefined : ByteSize.bytes(size)
const time = (milliseconds: number | undefined) =>
  milliseconds === undefined ? undefined : DateTime.makeUnsafe(milliseconds)

export const infoFields = ({ createdAt, lastUsedAt, size, ...rest }: Native.ImageInfo) => ({
  ...rest,
  ...defined({ size: bytes(size), createdAt: time(createdAt), lastUsedAt: time(lastUsedAt) })
})

export const layerFields = ({ size, unpackedSize, ...rest }: Native.ImageDetail["layers"][number]) => ({
  ...rest,
  ...defined({ size: bytes(size), unpackedSize: bytes(unpackedSize) })
})
