/** Words that only their owners may have, and all the places where one could get out. */
import { MicrosandboxError } from "@effect-microsandbox/core"
import { Cause, Effect, Exit, FileSystem, Logger, References, Schema, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import { inspect } from "node:util"
import * as Spans from "./Spans.ts"

/** What is to be kept, by what it is for. */
export type Words = Readonly<Record<string, string>>

const codec = Schema.toCodecJson(MicrosandboxError.MicrosandboxError)

/** All the ways in which a program shows an error. */
export const shown = Effect.fn("shown")(function*(error: unknown) {
  const json = MicrosandboxError.isMicrosandboxError(error)
    ? JSON.stringify(yield* Schema.encodeEffect(codec)(error))
    : ""
  const cause = Cause.fail(error)
  return [
    json,
    JSON.stringify(error, (_key, value: unknown) => typeof value === "bigint" ? String(value) : value),
    String(error),
    Cause.pretty(cause),
    inspect(error, { depth: 20, showHidden: true, maxStringLength: null }),
    inspect(cause, { depth: 20 }),
    error instanceof Error ? `${error.message}\n${error.stack}` : ""
  ]
})

/**
 * Runs an effect, and gives how it ended and all that can be heard of it: its spans, its log with every level and with the
 * failure in it, and the failure in every form.
 */
export const heard = Effect.fn("heard")(function*<A, E, R>(effect: Effect.Effect<A, E, R>) {
  const lines: Array<string> = []
  const logger = Logger.make((options) => {
    lines.push(
      Logger.formatJson.log(options),
      Logger.formatLogFmt.log(options),
      inspect(options.message, { depth: 20 })
    )
  })
  const logged = effect.pipe(
    Effect.tapCause((cause) => Effect.logError("it failed", cause)),
    Effect.provideService(References.MinimumLogLevel, "All"),
    Effect.provide(Logger.layer([logger]))
  )
  const { exit, spans } = yield* Spans.recorded(logged)
  const failures = Exit.isFailure(exit) ? exit.cause.reasons : []
  const errors = yield* Effect.forEach(failures, (reason) => shown(Cause.isFailReason(reason) ? reason.error : reason))
  return { exit, text: [Spans.text(spans), ...lines, ...errors.flat()].join("\n") }
})

/** Which of the words are in a text. */
export const wordsIn = (words: Words, text: string): ReadonlyArray<string> =>
  Object.keys(words).filter((name) => text.includes(words[name] ?? ""))

/** The files below a directory that have a word in them, by the word: their names from there. */
export const filesWith = Effect.fn("filesWith")(function*(directory: string, words: Words) {
  const spawner = yield* ChildProcessSpawner
  // In one pass, for there are disks and memories among them; and the words must be in no command line.
  const patterns = new TextEncoder().encode(Object.values(words).map((word) => `${word}\n`).join(""))
  const found = yield* spawner.string(
    ChildProcess.make("grep", ["-r", "-o", "-H", "-Z", "-a", "-F", "-f", "-", directory], {
      stdin: Stream.make(patterns),
      stderr: "ignore"
    })
  )
  const hits = found.split("\n").filter((hit) => hit !== "").map((hit) => hit.split("\0"))
  return Object.fromEntries(
    Object.entries(words).map(([name, word]) => {
      const files = hits.flatMap(([file = "", match]) => match === word ? [file.slice(directory.length + 1)] : [])
      return [name, [...new Set(files)].toSorted()]
    })
  )
})

/** The processes of this machine that have a word in their command lines or environments, by the word: `what pid`. */
export const processesWith = Effect.fn("processesWith")(function*(what: "cmdline" | "environ", words: Words) {
  const fs = yield* FileSystem.FileSystem
  const pids = (yield* fs.readDirectory("/proc")).filter((entry) => /^\d+$/.test(entry))
  const texts = yield* Effect.forEach(pids, (pid) =>
    // It ended while we looked, or is another user's.
    Effect.map(
      Effect.orElseSucceed(fs.readFileString(`/proc/${pid}/${what}`), () => ""),
      (text) => [pid, text] as const
    ))
  return Object.fromEntries(
    Object.entries(words).map((
      [name, word]
    ) => [name, texts.flatMap(([pid, text]) => text.includes(word) ? [pid] : [])])
  )
})
