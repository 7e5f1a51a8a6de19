import { defineConfig } from "vitest/config"
import Shards from "./test/support/Shards.ts"

/**
 * On an emulated CPU one guest in a thousand or so is over before its agent speaks, as if it had been switched off: its
 * runtime ends with status 0 and no word. Such a test, and no other, runs once more there, and the reporter tells it.
 */
const emulated = () =>
  process.env.HOST_KIND === "software"
    ? { count: 1, condition: /exited \(exit status: 0\) before agent relay became available/ }
    : 0

/**
 * Real microVMs, perhaps on an emulated CPU. One file at a time, and all in one process: there the import of Effect takes
 * half a minute.
 */
const guests = { fileParallelism: false, isolate: false, hookTimeout: 600_000, retry: emulated() }

/**
 * Packages from node_modules are imported by Node itself (vitest's default): in the emulated machine that runs the `vm`
 * project, a transform of all of Effect would take minutes.
 */
export default defineConfig({
  test: {
    environment: "node",
    pool: "forks",
    passWithNoTests: false,
    // Vitest leaves one processor for itself, which is half of CI's.
    maxWorkers: "100%",
    sequence: { sequencer: Shards },
    reporters: ["default", "./test/support/CountsReporter.ts"],
    projects: [
      // Pure code.
      { extends: true, test: { name: "unit", include: ["test/unit/**/*.test.ts"] } },
      // The real engine, no VM.
      { extends: true, test: { name: "store", include: ["test/store/**/*.test.ts"], testTimeout: 60_000 } },
      // In microVMs.
      { extends: true, test: { ...guests, name: "vm", include: ["test/vm/**/*.test.ts"], testTimeout: 300_000 } },
      // The long ones of the real engine without a VM.
      {
        extends: true,
        test: {
          name: "longstore",
          include: ["test/long/store/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 3_600_000
        }
      },
      // The long matrices, in microVMs too.
      { extends: true, test: { ...guests, name: "long", include: ["test/long/*.test.ts"], testTimeout: 3_600_000 } }
    ]
  }
})
