/**
 * The native engine behind `@effect-microsandbox/core`, as an Effect service.
 *
 * @stability unstable
 * @since 0.1.0
 */

/**
 * The native engine as a resource-managed Effect service.
 *
 * @stability unstable
 * @since 0.1.0
 */
export * as Native from "./Native.ts"
