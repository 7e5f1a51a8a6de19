//! What a JavaScript object owns: a value that can be given back before the object is collected.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cancel::{Cancel, CancelToken};
use crate::engine::EngineState;
use crate::failure::Failure;
use crate::outcome::{Outcome, Stop};
use crate::runtime::drop_within;

/// A value that lives in an engine.
pub(crate) trait InEngine {
    fn engine(&self) -> &Arc<EngineState>;
}

/// A native value behind a JavaScript object.
///
/// Garbage collection is no resource policy: `take` is how a handle ends. The destructor only sees
/// what was forgotten, and lets it go inside the runtime.
pub(crate) struct Slot<T: Send + Sync + 'static> {
    kind: &'static str,
    value: Mutex<Option<Arc<T>>>,
}

impl<T: Send + Sync + 'static> Slot<T> {
    pub(crate) fn new(kind: &'static str, value: T) -> Self {
        Self { kind, value: Mutex::new(Some(Arc::new(value))) }
    }

    /// The value, or a failure that says which handle was used after it was closed.
    pub(crate) fn get(&self) -> Result<Arc<T>, Failure> {
        self.value.lock().clone().ok_or_else(|| Failure::handle_closed(self.kind))
    }

    /// Put a new value in the place of `old`. When the handle was ended in the meantime, or has another value, the new one
    /// is given back.
    pub(crate) fn replace(&self, old: &Arc<T>, new: T) -> Result<(), T> {
        let mut value = self.value.lock();
        match value.as_ref() {
            Some(current) if Arc::ptr_eq(current, old) => {
                *value = Some(Arc::new(new));
                Ok(())
            }
            _ => Err(new),
        }
    }

    /// End the handle. Calls that are still running keep the value until they end.
    pub(crate) fn take(&self) -> Option<Arc<T>> {
        self.value.lock().take()
    }
}

impl<T: InEngine + Send + Sync + 'static> Slot<T> {
    /// Run one call on the value, in its engine.
    pub(crate) async fn run<A, F>(&self, token: &CancelToken, work: impl FnOnce(Arc<T>, Cancel) -> F) -> Outcome<A>
    where
        F: Future<Output = Result<A, Stop>>,
    {
        let token = token.token();
        match self.get() {
            Ok(value) => {
                let engine = value.engine().clone();
                engine.run(token, |cancel| work(value, cancel)).await
            }
            Err(failure) => Err(Stop::Failed(failure)).into(),
        }
    }
}

impl<T: Send + Sync + 'static> Drop for Slot<T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.get_mut().take() {
            drop_within(value);
        }
    }
}
