/** Requests from the standard input and answers to the standard output, one line of JSON each. */
import { monitorEventLoopDelay } from "node:perf_hooks"
import * as readline from "node:readline"

export type Answer = Readonly<Record<string, unknown>>

export interface Request {
  readonly op: string
  readonly sandbox: string
  readonly sandboxes: ReadonlyArray<string>
  readonly image: string
  readonly snapshot: string
  readonly child: string
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly path: string
  readonly bytes: number
  readonly count: number
  readonly each: number
  readonly seconds: number
}

/** Every sandbox has this much memory. */
export const memoryMebibytes = 256

/** What a reader of one mebibyte in a second takes before it waits. */
export const sip = { bytes: 64 * 1024, millis: 62.5 }

export const requests = async function*(): AsyncGenerator<Request> {
  for await (const line of readline.createInterface({ input: process.stdin })) yield JSON.parse(line) as Request
}

export const reply = (answer: Answer): void => {
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}

export const since = (start: number): number => performance.now() - start

/** The delay of the event loop, in milliseconds, that one turn in a hundred has at least. Ends what it watches. */
export const watchDelay = (): () => number => {
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  return () => {
    delay.disable()
    return delay.percentile(99) / 1e6
  }
}
