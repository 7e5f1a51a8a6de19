//! Threads of one piece of work: what it has begun ends with it.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

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
