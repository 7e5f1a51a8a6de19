/**
 * Ends a run with one line for each project, `vitest unit: 12 passed, 0 failed`, which scripts/test.sh adds up.
 *
 * A test that fails says so at once: where many wait for something that has gone, the file's own report comes late or never.
 *
 * Stricter than vitest: a test that was skipped, is a todo or never ran counts as failed, and so do an error outside of a
 * test, a file that did not load and a project without tests. Only `-t` may leave tests out.
 */
import type { Reporter, TestCase, TestModule, Vitest } from "vitest/node"

type Errors = Parameters<NonNullable<Reporter["onTestRunEnd"]>>[1]

export default class CountsReporter implements Reporter {
  private vitest: Vitest | undefined

  onInit(vitest: Vitest): void {
    this.vitest = vitest
  }

  onTestCaseResult(test: TestCase): void {
    const { errors = [], state } = test.result()
    const again = (test.diagnostic()?.retryCount ?? 0) > 0
    if (state === "failed" || again) {
      const what = again ? `ran once more and ${state}` : state
      console.log(`${what}: ${test.fullName}: ${errors.map(({ message }) => message).join("; ")}`.slice(0, 2000))
    }
  }

  onTestRunEnd(modules: ReadonlyArray<TestModule>, unhandledErrors: Errors): void {
    const filtered = this.vitest?.config.testNamePattern !== undefined
    const projects = this.vitest?.projects.map((project) => project.name) ?? []
    for (const [index, project] of projects.entries()) {
      let passed = 0
      // An error outside of a test does not say whose it is: it counts once, for the first project.
      let failed = index === 0 ? unhandledErrors.length : 0
      for (const module of modules.filter((module) => module.project.name === project)) {
        for (const test of module.children.allTests()) {
          const { state } = test.result()
          if (state === "passed") {
            passed++
          } else if (state === "failed" || !filtered) {
            failed++
            if (state !== "failed") console.log(`${state === "skipped" ? "skipped" : "never ran"}: ${test.fullName}`)
          }
        }
        // A hook or an import that failed belongs to no test.
        failed += module.errors().length
        for (const suite of module.children.allSuites()) failed += suite.errors().length
      }
      if (passed + failed === 0) {
        console.log("no tests ran")
        failed = 1
      }
      console.log(`vitest ${project}: ${passed} passed, ${failed} failed`)
      if (failed > 0) process.exitCode = 1
    }
  }
}
