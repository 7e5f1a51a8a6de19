/**
 * Splits the files of the projects with microVMs so that each shard takes about as long. Vitest's own split is by the
 * files' names: one shard took two thirds longer than the other.
 */
import * as path from "node:path"
import { BaseSequencer, type TestSpecification } from "vitest/node"

/** Seconds in the software host, measured when a file was last found to be longer than it was. Others take a minute. */
const seconds: Readonly<Record<string, number>> = {}

const weigh = ({ moduleId }: TestSpecification, root: string) => {
  const name = path.relative(path.join(root, "test"), moduleId)
  return { name, seconds: seconds[name] ?? 60 }
}

export default class Shards extends BaseSequencer {
  /** The longest first, each to the shard that has the least: the same in each process, whatever order it found them in. */
  override async shard(files: Array<TestSpecification>): Promise<Array<TestSpecification>> {
    const { root, shard } = this.ctx.config
    if (shard === undefined) return files
    const loads = Array.from({ length: shard.count }, () => 0)
    return files
      .map((file) => ({ file, ...weigh(file, root) }))
      .toSorted((a, b) => b.seconds - a.seconds || (a.name < b.name ? -1 : 1))
      .filter((one) => {
        const least = loads.indexOf(Math.min(...loads))
        loads[least] = (loads[least] ?? 0) + one.seconds
        return least === shard.index - 1
      })
      .map(({ file }) => file)
  }
}
