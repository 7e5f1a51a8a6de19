//! Where work runs: on threads of its own, which end with it, or where it comes to its end whoever waits for it.

use std::future::{Future, pending};
use std::panic::resume_unwind;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, spawn, spawn_blocking};

use crate::failure::Failure;

/// A runtime of its own. Dropped while the process ends, it waits for nothing: a runtime must not, where others run.
pub(crate) struct Threads(Option<Runtime>);

impl Threads {
    pub(crate) fn new(name: &str, count: usize) -> Result<Self, Failure> {
        let runtime = Builder::new_multi_thread().worker_threads(count).thread_name(name).enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("a runtime until its end")
    }

    /// End everything on it, and wait for threads that cannot be interrupted. One that does not end is left behind. It
    /// blocks.
    pub(crate) fn join(mut self, limit: Duration) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(limit);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Run what blocks on a thread that may. It runs to its end also when nobody waits for it any more.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(spawn_blocking(work)).await
}

/// Run what must not be left half done. It runs to its end also when nobody waits for it any more.
pub(crate) async fn lasting<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    joined(spawn(work)).await
}

/// A bug in the work is a bug of who waits for it.
pub(crate) async fn joined<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is going down, and who waits with it.
            Err(_) => pending().await,
        },
    }
}
