/**
 * A recipe: bring a sandbox to a point from where there are several ways, try each in a branch of its own, and keep the one
 * that gets there first.
 *
 *     node demo/RaceBranches.ts alpine
 */
import { Backend, type MicrosandboxError, Sandbox } from "@effect-microsandbox/core"
import { NodeRuntime } from "@effect/platform-node"
import { Console, Data, Effect, Exit, Scope } from "effect"

/** A way from here on: what to do in a branch. It fails when it leads nowhere. */
export type Way<A, E, R> = (branch: Sandbox.Sandbox) => Effect.Effect<A, E, R>

/**
 * Branches a sandbox once for each way, and answers with the first that succeeds: its value, and its branch, which lives as
 * long as the caller's scope. The others are destroyed, wherever they have come to. It fails when every way has failed.
 */
export const raceBranches = Effect.fn("raceBranches")(function*<A, E, R>(
  sandbox: Sandbox.Sandbox,
  ways: ReadonlyArray<Way<A, E, R>>
): Effect.fn.Return<
  { readonly branch: Sandbox.Sandbox; readonly value: A },
  E | MicrosandboxError.MicrosandboxError,
  R | Scope.Scope
> {
  const scope = yield* Effect.scope
  // A scope for each way, within the caller's: what loses is closed early.
  const lanes = yield* Effect.forEach(ways, (way) => Effect.map(Scope.fork(scope), (lane) => ({ way, lane })))
  const attempts = lanes.map(({ lane, way }) =>
    Effect.gen(function*() {
      const branch = yield* Scope.provide(sandbox.branch(), lane)
      return { branch, lane, value: yield* way(branch) }
    })
  )
  const { branch, value } = yield* Effect.raceAll(attempts).pipe(
    Effect.onExit((exit) =>
      Effect.forEach(
        lanes.filter(({ lane }) => !(Exit.isSuccess(exit) && exit.value.lane === lane)),
        ({ lane }) => Scope.close(lane, exit),
        { concurrency: "unbounded", discard: true }
      )
    )
  )
  return { branch, value }
})

class NotFound extends Data.TaggedError("NotFound")<{ readonly from: number }> {}

/** How many candidates each branch looks at. */
const share = 250

/** Looks for a divisor of the number that the sandbox has in memory, among its share of the candidates. */
const search = (from: number): Way<number, NotFound | MicrosandboxError.MicrosandboxError, never> => (branch) =>
  branch.shell(`
    number=$(cat /dev/shm/number)
    for candidate in $(seq ${from} ${from + share - 1}); do
      [ $((number % candidate)) -eq 0 ] && echo $candidate > /dev/shm/divisor && exec cat /dev/shm/divisor
    done
    exit 1
  `).pipe(
    Effect.filterOrFail(({ exitCode }) => exitCode === 0, () => new NotFound({ from })),
    Effect.map(({ stdout }) => Number(stdout))
  )

/** Which divisor of a number is found first, and what the branch that found it has to say then. */
export const findDivisor = Effect.fn("findDivisor")(function*(image: string, number: number) {
  const sandbox = yield* Sandbox.make({ image, memory: "192 MiB" })
  yield* sandbox.shell(`mkdir -p /dev/shm && echo ${number} > /dev/shm/number`)
  const { branch, value } = yield* raceBranches(sandbox, [2, 252, 502, 752].map(search))
  const { stdout } = yield* branch.shell("echo $(cat /dev/shm/number) = $(cat /dev/shm/divisor) times something")
  return { branch, sandbox, divisor: value, said: stdout.trim() }
})

if (import.meta.main) {
  findDivisor(process.argv[2] ?? "alpine", 999_983 * 331).pipe(
    Effect.tap(({ said }) => Console.log(said)),
    Effect.scoped,
    Effect.provide(Backend.layerLocal()),
    NodeRuntime.runMain
  )
}
