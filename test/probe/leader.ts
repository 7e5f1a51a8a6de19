import { Backend, Sandbox } from "@effect-microsandbox/core"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Effect, FileSystem, Layer } from "effect"
import * as Rootfs from "../../demo/Rootfs.ts"

const program = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const image = yield* Rootfs.make(yield* fs.makeTempDirectoryScoped({ prefix: "msb-" }))
  const sandbox = yield* Sandbox.make({ image })
  const look = (label: string, script: string) =>
    Effect.gen(function*() {
      const t0 = Date.now()
      const p = yield* sandbox.spawn("sh", ["-c", script])
      yield* Effect.sleep(500)
      const stat = yield* sandbox.shell(
        `cat /proc/${p.pid}/stat; ps -o pid,ppid,pgid,stat,args | grep -v '\\['; ls -l /proc/1/fd`
      )
      console.log(label, p.pid, stat.stdout, stat.stderr)
      const st = yield* p.exitStatus.pipe(Effect.timeoutOption("2 seconds"))
      console.log(label, "exit", JSON.stringify(st), Date.now() - t0)
    }).pipe(Effect.scoped)
  yield* look("A", "sleep 999 & exit 3")
  yield* look("B", "sleep 998 & kill -9 $$")
  yield* look("C", "kill -15 $$")
  yield* look("D", "sleep 997 >/dev/null 2>&1 & exit 3")
  const c = yield* sandbox.shell(
    "zcat /proc/config.gz | grep -E 'ACCT|TASKSTATS|PROC_EVENTS|PTRACE|FANOTIFY|FTRACE|BPF|CGROUP|CHECKPOINT|PIDFD|TRACING|DEBUG_FS'; uname -a; cat /proc/mounts; cat /proc/1/status | head -20; cat /proc/1/cgroup"
  )
  console.log(c.stdout)
})
Effect.scoped(program).pipe(
  Effect.provide(Backend.layerLocal({ home: "/tmp/msb-probe" }).pipe(Layer.provideMerge(NodeServices.layer))),
  NodeRuntime.runMain
)
