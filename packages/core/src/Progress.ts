/**
 * What a boot is doing: the pull of its image by layer and byte, then its stages.
 *
 * `Sandbox.makeStream` gives the events, and `Image.pullStream` those of a pull; {@link render} draws them. {@link reduce} and {@link format} are what it draws
 * with, for a user interface of one's own.
 *
 * @stability unstable
 * @since 0.1.0
 */
import * as ByteSize from "effect/ByteSize"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import * as Terminal from "effect/Terminal"

const layer = { layer: Schema.Int }
const bytes = { bytes: Schema.Finite }
const layerCount = { layerCount: Schema.Int }
const reference = { reference: Schema.String }

/**
 * A stage of a boot that has ended: `pull` is this SDK's, the others are the engine's, in its order: `transition_lock`,
 * `image_resolution`, `patch_tree`, `flat_root_clone`, `writable_disk_create`, `named_volumes`, `persist_start`,
 * `process_launch` (`writable_disk_grow` is part of it), `agent_ready`. Those that do not apply are left out.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export const BootStage = Schema.TaggedStruct("BootStage", {
  stage: Schema.String,
  /** Milliseconds since the operation began. */
  startedMs: Schema.Finite,
  durationMs: Schema.Finite,
  outcome: Schema.Literals(["success", "error", "cancelled"])
})

/**
 * A stage of a boot that has ended.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type BootStage = typeof BootStage.Type

/**
 * Something that happened in a boot.
 *
 * **Details**
 *
 * Layers are numbered from 0, the lowest. Each is downloaded and then unpacked (materialized) by itself, side by side with
 * others; when all are there they are stitched to one root. Counts are in bytes: those of a download are of the compressed
 * layer, and those of unpacking are what was read of it. An image that is in the cache gives `Resolving`, `Resolved` and
 * `PullComplete`; a root directory or disk gives stages only. A reader that is slow gets the newest count of a layer in
 * place of older ones, and each change of phase.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export const Event = Schema.Union([
  Schema.TaggedStruct("Resolving", reference),
  Schema.TaggedStruct("Resolved", {
    ...reference,
    manifestDigest: Schema.String,
    ...layerCount,
    /** What there is to download, if the registry says so. */
    totalBytes: Schema.optionalKey(Schema.Finite)
  }),
  Schema.TaggedStruct("LayerDownloadProgress", {
    ...layer,
    digest: Schema.String,
    ...bytes,
    totalBytes: Schema.optionalKey(Schema.Finite)
  }),
  Schema.TaggedStruct("LayerDownloadComplete", { ...layer, digest: Schema.String, ...bytes }),
  Schema.TaggedStruct("LayerDownloadVerifying", { ...layer, digest: Schema.String }),
  Schema.TaggedStruct("LayerMaterializeStarted", { ...layer, diffId: Schema.String }),
  Schema.TaggedStruct("LayerMaterializeProgress", { ...layer, ...bytes, totalBytes: Schema.Finite }),
  Schema.TaggedStruct("LayerMaterializeWriting", layer),
  Schema.TaggedStruct("LayerMaterializeComplete", { ...layer, diffId: Schema.String }),
  Schema.TaggedStruct("StitchMergingTrees", layerCount),
  Schema.TaggedStruct("StitchWritingFsmeta", {}),
  Schema.TaggedStruct("StitchWritingVmdk", {}),
  Schema.TaggedStruct("StitchComplete", {}),
  Schema.TaggedStruct("PullComplete", { ...reference, ...layerCount }),
  BootStage
])

/**
 * Something that happened in a boot.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Event = typeof Event.Type

/**
 * What the whole is doing now.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export type Phase =
  | "starting"
  | "resolving"
  | "resolved"
  | "downloading"
  | "unpacking"
  | "stitching"
  | "booting"
  | "ready"

/**
 * A layer of the image as far as it is.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface Layer {
  /** Bytes that were downloaded, of the compressed layer. */
  readonly downloaded: number
  /** Bytes of the compressed layer that were unpacked, and how many there are. */
  readonly unpacked: number
  readonly size: number | undefined
  readonly isDownloaded: boolean
  readonly isDone: boolean
}

/**
 * Everything that the events so far have said.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export interface State {
  readonly phase: Phase
  /** The image, when there is one. */
  readonly reference: string | undefined
  readonly layers: ReadonlyArray<Layer>
  readonly totalBytes: number | undefined
  readonly stages: ReadonlyArray<BootStage>
  /** When the phase began, in the milliseconds that were given to {@link reduce}. */
  readonly since: number | undefined
}

/**
 * Before the first event.
 *
 * @stability unstable
 * @category models
 * @since 0.1.0
 */
export const initial: State = {
  phase: "starting",
  reference: undefined,
  layers: [],
  totalBytes: undefined,
  stages: [],
  since: undefined
}

const newLayer: Layer = { downloaded: 0, unpacked: 0, size: undefined, isDownloaded: false, isDone: false }

/**
 * Takes one event in; `now` is the time in milliseconds. What it does not know (`Ready` aside) it leaves alone, so that the
 * elements of `Sandbox.makeStream` and `Image.pullStream` can be given to it as they are.
 *
 * @stability unstable
 * @category folding
 * @since 0.1.0
 */
export const reduce = (state: State, event: Event | { readonly _tag: "Ready" }, now: number): State => {
  const enter = (phase: Phase, changes: Partial<State> = {}): State => ({
    ...state,
    ...changes,
    phase,
    since: state.phase === phase ? state.since : now
  })
  /** Layers overlap: the whole is downloading while one layer is. */
  const change = (index: number, changes: Partial<Layer>): State => {
    const layers = Array.from(
      { length: Math.max(state.layers.length, index + 1) },
      (_, at) => at === index ? { ...newLayer, ...state.layers[at], ...changes } : state.layers[at] ?? newLayer
    )
    return enter(layers.every(({ isDownloaded }) => isDownloaded) ? "unpacking" : "downloading", { layers })
  }
  switch (event._tag) {
    case "Resolving":
      return enter("resolving", { reference: event.reference })
    case "Resolved":
      return enter("resolved", {
        reference: event.reference,
        layers: Array.from({ length: event.layerCount }, () => newLayer),
        totalBytes: event.totalBytes
      })
    case "LayerDownloadProgress":
      return change(event.layer, {
        downloaded: event.bytes,
        ...(event.totalBytes === undefined ? {} : { size: event.totalBytes })
      })
    case "LayerDownloadVerifying":
      return change(event.layer, {})
    case "LayerDownloadComplete":
      return change(event.layer, { downloaded: event.bytes, size: event.bytes, isDownloaded: true })
    case "LayerMaterializeStarted":
    case "LayerMaterializeWriting":
      return change(event.layer, { isDownloaded: true })
    case "LayerMaterializeProgress":
      return change(event.layer, { unpacked: event.bytes, size: event.totalBytes, isDownloaded: true })
    case "LayerMaterializeComplete": {
      const size = state.layers[event.layer]?.size
      return change(event.layer, {
        isDownloaded: true,
        isDone: true,
        ...(size === undefined ? {} : { unpacked: size })
      })
    }
    case "StitchMergingTrees":
    case "StitchWritingFsmeta":
    case "StitchWritingVmdk":
    case "StitchComplete":
      return enter("stitching")
    case "PullComplete":
      // A boot may follow, or not.
      return enter(state.phase)
    case "BootStage":
      return enter(event.stage === "pull" ? state.phase : "booting", { stages: [...state.stages, event] })
    case "Ready":
      return enter("ready")
  }
}

const sum = (numbers: ReadonlyArray<number>): number => numbers.reduce((total, number) => total + number, 0)

const size = (bytes: number): string => ByteSize.format(ByteSize.bytes(Math.round(bytes)), { precision: 1 })

const bar = (part: number): string => `[${"#".repeat(Math.round(part * 20)).padEnd(20, ".")}]`

/** A measured phase: a bar, what is done and what there is to do, and how fast it goes. */
const meter = (done: number, total: number | undefined, milliseconds: number): string => {
  const rate = milliseconds > 0 ? `  ${size((done / milliseconds) * 1000)}/s` : ""
  if (total === undefined || total === 0) return `${size(done)}${rate}`
  const part = Math.min(done / total, 1)
  return `${bar(part)} ${`${Math.floor(part * 100)}`.padStart(3)} %  ${size(done)} of ${size(total)}${rate}`
}

const plural = (count: number): string => `${count} layer${count === 1 ? "" : "s"}`

/**
 * One line that says how far it is, at most so many columns wide; `now` is the time in milliseconds.
 *
 * @stability unstable
 * @category formatting
 * @since 0.1.0
 */
export const format = (state: State, columns: number, now: number): string => {
  const elapsed = state.since === undefined ? 0 : Math.max(now - state.since, 0)
  const { layers } = state
  const line = () => {
    switch (state.phase) {
      case "downloading":
        return `downloading ${meter(sum(layers.map(({ downloaded }) => downloaded)), state.totalBytes, elapsed)}  ${
          layers.filter(({ isDownloaded }) => isDownloaded).length
        } of ${plural(layers.length)}`
      case "unpacking":
        return `unpacking ${
          meter(sum(layers.map(({ unpacked }) => unpacked)), sum(layers.map(({ size = 0 }) => size)), elapsed)
        }  ${layers.filter(({ isDone }) => isDone).length} of ${plural(layers.length)}`
      default:
        return `${describe(state)}${elapsed < 1000 ? "" : `  ${(elapsed / 1000).toFixed(0)} s`}`
    }
  }
  return line().slice(0, Math.max(columns, 0))
}

/**
 * The phase in words, without what changes within it.
 *
 * @stability unstable
 * @category formatting
 * @since 0.1.0
 */
export const describe = ({ layers, phase, reference, totalBytes }: State): string => {
  switch (phase) {
    case "starting":
      return "starting"
    case "resolving":
      return `resolving ${reference}`
    case "resolved":
      return `resolved ${reference}: ${plural(layers.length)}${totalBytes === undefined ? "" : `, ${size(totalBytes)}`}`
    case "downloading":
      return `downloading ${plural(layers.length)}${totalBytes === undefined ? "" : `, ${size(totalBytes)}`}`
    case "unpacking":
      return `unpacking ${plural(layers.length)}`
    case "stitching":
      return `joining ${plural(layers.length)}`
    case "booting":
      return "booting"
    case "ready":
      return "ready"
  }
}

/**
 * Draws the events of a boot as they pass, and passes them on.
 *
 * **Details**
 *
 * On a terminal it is one line that is redrawn, and gone at the end; elsewhere it is a line for each change of phase. It
 * draws ten times a second at most, whatever the events do, and what cannot be written is not missed.
 *
 * **Example** (A boot that can be watched)
 *
 * ```ts
 * import { Progress, Sandbox } from "@effect-microsandbox/core"
 *
 * const boot = Sandbox.makeStream({ image: "alpine" }).pipe(Progress.render, Sandbox.fromStream)
 * ```
 *
 * @stability unstable
 * @category rendering
 * @since 0.1.0
 */
export const render = <A extends Event | { readonly _tag: "Ready" }, E, R>(
  self: Stream.Stream<A, E, R>
): Stream.Stream<A, E, R | Terminal.Terminal | Stdio.Stdio> =>
  Stream.unwrap(Effect.gen(function*() {
    const terminal = yield* Terminal.Terminal
    const clock = yield* Clock.Clock
    let state = initial
    const take = (event: A) => {
      const before = state
      state = reduce(state, event, clock.currentTimeMillisUnsafe())
      return before.phase !== state.phase
    }
    const write = (text: string) => Effect.ignore(terminal.display(text))

    if (!(yield* (yield* Stdio.Stdio).stdoutIsTerminal)) {
      return Stream.tap(self, (event) => take(event) ? write(`${describe(state)}\n`) : Effect.void)
    }
    const draw = Effect.flatMap(terminal.columns, (columns) =>
      // The last column is left free: a terminal wraps there. One that does not say how wide it is has 0.
      write(`${clearLine}${format(state, (columns || 80) - 1, clock.currentTimeMillisUnsafe())}`))
    yield* Effect.addFinalizer(() => write(clearLine))
    yield* Effect.forkScoped(Effect.repeat(draw, Schedule.spaced("100 millis")))
    return Stream.tap(self, (event) => Effect.sync(() => take(event)))
  }))

const clearLine = "\r\u001b[2K"
