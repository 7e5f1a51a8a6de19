/**
 * Splits the files of the projects with microVMs so that each shard takes about as long. Vitest's own split is by the
 * files' names: one shard took two thirds longer than the other.
 */
import * as path from "node:path"
import { BaseSequencer, type TestSpecification } from "vitest/node"

/** Seconds in the software host, measured when a file was last found to be longer than it was. Others take a minute. */
const seconds: Readonly<Record<string, number>> = {
  "long/Branches.test.ts": 360,
  "long/Demo.test.ts": 160,
  "long/Files.test.ts": 325,
  "long/Interruption.test.ts": 1050,
  "long/Killed.test.ts": 1500,
  "long/Lifecycle.test.ts": 490,
  "long/Lives.test.ts": 520,
  "long/Output.test.ts": 300,
  "long/Network.test.ts": 900,
  "long/Ssh.test.ts": 300,
  "long/Transfer.test.ts": 550,
  "vm/Attach.test.ts": 120,
  "vm/Branch.test.ts": 265,
  "vm/Canary.test.ts": 70,
  "vm/Exec.test.ts": 45,
  "vm/Image.test.ts": 55,
  "vm/Interruption.test.ts": 45,
  "vm/Killed.test.ts": 135,
  "vm/Life.test.ts": 285,
  "vm/Lifecycle.test.ts": 140,
  "vm/Logs.test.ts": 45,
  "vm/Metrics.test.ts": 55,
  "vm/Modify.test.ts": 35,
  "vm/Network.test.ts": 140,
  "vm/Output.test.ts": 95,
  "vm/Patch.test.ts": 40,
  "vm/Pause.test.ts": 85,
  "vm/Process.test.ts": 140,
  "vm/Progress.test.ts": 70,
  "vm/Race.test.ts": 25,
  "vm/Relay.test.ts": 30,
  "vm/Restore.test.ts": 55,
  "vm/Runtime.test.ts": 10,
  "vm/Sandbox.test.ts": 190,
  "vm/SandboxOptions.test.ts": 230,
  "vm/Snapshot.test.ts": 110,
  "vm/Spawner.test.ts": 30,
  "vm/SshClient.test.ts": 60,
  "vm/SshServer.test.ts": 155,
  "vm/Transfer.test.ts": 130,
  "vm/Tunnel.test.ts": 135,
  "vm/Volume.test.ts": 15,
  "vm/Watch.test.ts": 20,
  "vm/conformance/ChildProcessSpawner.test.ts": 150,
  "vm/conformance/Files.test.ts": 200
}

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
