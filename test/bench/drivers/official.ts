/** The same calls on the official SDK, whose home is in MSB_HOME: `official.ts`. */
import { Image, Sandbox, Snapshot } from "microsandbox"
import * as timers from "node:timers/promises"
import { type Answer, memoryMebibytes, reply, type Request, requests, since, sip, watchDelay } from "./lines.ts"

const kept = new Map<string, Sandbox>()

const of = (name: string): Sandbox => {
  const found = kept.get(name)
  if (found === undefined) throw new Error(`no sandbox ${name}`)
  return found
}

const runTrue = async (sandbox: Sandbox) => {
  if (!(await sandbox.exec("true")).success) throw new Error("`true` failed")
}

const started = async (name: string, make: () => Promise<Sandbox>) => {
  const start = performance.now()
  const sandbox = await make()
  await runTrue(sandbox)
  const took = since(start)
  kept.set(name, sandbox)
  return { ms: [took] }
}

const pour = async ({ args, command, sandbox }: Request) => {
  const program = await of(sandbox).execStream(command, args)
  let bytes = 0
  for await (const event of program) if (event.kind === "stdout") bytes += event.data.length
  return bytes
}

const operations: Record<string, (request: Request) => Promise<Answer>> = {
  ready: async () => {
    await Sandbox.list()
    return {}
  },
  connect: async ({ sandboxes }) => {
    for (const name of sandboxes) kept.set(name, await (await Sandbox.get(name)).connect())
    return {}
  },
  create: ({ image, sandbox }) =>
    started(
      sandbox,
      () =>
        Sandbox.builder(sandbox).image(image).memory(memoryMebibytes).registry((registry) => registry.insecure())
          .create()
    ),
  restore: ({ sandbox, snapshot }) =>
    started(sandbox, () => Sandbox.builder(sandbox).fromSnapshot(snapshot).memory(memoryMebibytes).create()),
  keep: async ({ sandbox, snapshot }) => {
    await of(sandbox).stopWithTimeout(60_000)
    await Snapshot.builder(snapshot).fromSandbox(sandbox).create()
    kept.delete(sandbox)
    return {}
  },
  destroy: async ({ sandbox }) => {
    await of(sandbox).killWithTimeout(60_000)
    kept.delete(sandbox)
    await Sandbox.remove(sandbox).catch((error: unknown) => {
      if (!/not found/i.test(String(error))) throw error
    })
    return {}
  },
  forget: async ({ image }) => {
    await Image.remove(image, { force: true })
    await Image.prune()
    return {}
  },
  exec: async ({ count, sandbox }) => {
    const ms: Array<number> = []
    for (let index = 0; index < count; index++) {
      const start = performance.now()
      await runTrue(of(sandbox))
      ms.push(since(start))
    }
    return { ms }
  },
  execs: async ({ each, sandboxes }) => {
    const start = performance.now()
    const all = sandboxes.flatMap((name) => Array.from({ length: each }, () => of(name)))
    const ms = await Promise.all(all.map(async (sandbox) => {
      await runTrue(sandbox)
      return since(start)
    }))
    return { ms, wall: since(start) }
  },
  pour: async (request) => {
    const start = performance.now()
    const bytes = await pour(request)
    return { ms: [since(start)], bytes }
  },
  delay: async (request) => {
    const stopIdle = watchDelay()
    await timers.setTimeout(request.seconds * 1000)
    const idle = stopIdle()
    const stopBusy = watchDelay()
    const bytes = await pour(request)
    return { idle, busy: stopBusy(), bytes }
  },
  sip: async ({ args, command, sandbox, seconds }) => {
    const start = performance.now()
    const program = await of(sandbox).execStream(command, args)
    let bytes = 0
    let due = 0
    for await (const event of program) {
      if (event.kind !== "stdout") continue
      bytes += event.data.length
      due += event.data.length
      for (; due >= sip.bytes; due -= sip.bytes) await timers.setTimeout(sip.millis)
      if (since(start) > seconds * 1000) break
    }
    await program.kill()
    return { bytes }
  },
  write: async ({ bytes, path, sandbox }) => {
    const data = new Uint8Array(bytes).fill(120)
    const start = performance.now()
    await of(sandbox).fs().write(path, data)
    return { ms: [since(start)] }
  },
  read: async ({ path, sandbox }) => {
    const start = performance.now()
    const { length } = await of(sandbox).fs().read(path)
    return { ms: [since(start)], bytes: length }
  },
  small: async ({ count, path, sandbox }) => {
    const fs = of(sandbox).fs()
    const data = new Uint8Array(1024).fill(120)
    const start = performance.now()
    await fs.mkdir(path)
    for (let index = 0; index < count; index++) await fs.write(`${path}/${index}`, data)
    const wrote = since(start)
    for (let index = 0; index < count; index++) await fs.read(`${path}/${index}`)
    return { ms: [since(start)], wrote }
  },
  interrupt: async ({ args, command, count, sandbox }) => {
    const ms: Array<number> = []
    for (let index = 0; index < count; index++) {
      const program = await of(sandbox).execStream(command, args)
      while ((await program.recv())?.kind !== "started");
      // It has no cancellation: this is what a user would do for one.
      const start = performance.now()
      await program.kill()
      await program.wait()
      ms.push(since(start))
    }
    return { ms }
  }
}

for await (const request of requests()) {
  const operation = operations[request.op]
  if (operation === undefined) {
    reply({ error: `the official SDK has no ${request.op}` })
    continue
  }
  try {
    reply(await operation(request))
  } catch (error) {
    reply({ error: String(error) })
  }
}
process.exit()
