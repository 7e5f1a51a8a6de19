//! The one tokio runtime of the process, shared by every engine and every worker thread of Node.

use std::sync::OnceLock;

use napi::bindgen_prelude::create_custom_tokio_runtime;
use tokio::runtime::{Builder, Handle};

/// Worker threads of the runtime. Read once, when the addon is loaded: the runtime is made before
/// any JavaScript can pass an option.
const THREADS_VARIABLE: &str = "EFFECT_MICROSANDBOX_THREADS";
const DEFAULT_THREADS: usize = 4;

/// The way to the runtime from threads that are not its own. Valid, and harmless, also after its end.
static RUNTIME: OnceLock<Handle> = OnceLock::new();

/// Give napi our runtime: named threads (they show up in `top -H`), a count that the user can set.
pub(crate) fn install() {
    let built = Builder::new_multi_thread()
        .worker_threads(thread_count(std::env::var(THREADS_VARIABLE).ok().as_deref()))
        .thread_name("microsandbox")
        .enable_all()
        .build();
    match built {
        Ok(runtime) => {
            RUNTIME.get_or_init(|| runtime.handle().clone());
            create_custom_tokio_runtime(runtime);
        }
        // napi falls back to a runtime of its own; nothing but thread names and count is lost.
        Err(error) => eprintln!("effect-microsandbox: no tokio runtime of our own: {error}"),
    }
}

/// The engine never needs more threads than the machine has cores, nor fewer than two: one call
/// that blocks its thread must not stop the others.
fn thread_count(setting: Option<&str>) -> usize {
    setting
        .and_then(|text| text.trim().parse::<usize>().ok())
        .filter(|count| (1..=512).contains(count))
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from).clamp(2, DEFAULT_THREADS))
}

/// Drop `value` on the runtime.
///
/// The engine's destructors spawn their clean-up (creation roll-back, bulk cancel) on the current
/// tokio runtime and lose it when there is none, as on the JavaScript thread in a finalizer.
///
/// After the runtime's end, as in a finalizer that runs while the process exits, `spawn` drops the
/// value at once: there is nothing left that it could clean up.
pub(crate) fn drop_within<T: Send + 'static>(value: T) {
    match RUNTIME.get() {
        Some(runtime) => {
            let _entered = runtime.enter();
            drop(runtime.spawn(async move { drop(value) }));
        }
        None => drop(value),
    }
}

#[cfg(test)]
mod tests {
    use super::thread_count;

    #[test]
    fn the_thread_count_is_taken_only_when_it_makes_sense() {
        let default = thread_count(None);
        assert!((2..=4).contains(&default));
        assert_eq!(thread_count(Some(" 7 ")), 7);
        for nonsense in ["", "0", "-1", "many", "513", "1.5"] {
            assert_eq!(thread_count(Some(nonsense)), default, "{nonsense:?}");
        }
    }
}
