import { defineConfig } from "vitest/config"

/**
 * Packages from node_modules are imported by Node itself (vitest's default): in the emulated machine that runs the `vm`
 * project, a transform of all of Effect would take minutes.
 */
export default defineConfig({
  test: {
    environment: "node",
    pool: "forks",
    passWithNoTests: false,
    reporters: ["default", "./test/support/CountsReporter.ts"],
    projects: [
      // Pure code.
      { extends: true, test: { name: "unit", include: ["test/unit/**/*.test.ts"] } },
      // The real engine, no VM.
      { extends: true, test: { name: "store", include: ["test/store/**/*.test.ts"], testTimeout: 60_000 } },
      // Real microVMs: one file at a time, and patient, since the CPU may be emulated.
      {
        extends: true,
        test: {
          name: "vm",
          include: ["test/vm/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 300_000,
          hookTimeout: 600_000
        }
      },
      // The long matrices, in real microVMs too.
      {
        extends: true,
        test: {
          name: "long",
          include: ["test/long/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 3_600_000,
          hookTimeout: 600_000
        }
      }
    ]
  }
})
