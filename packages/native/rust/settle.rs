//! Work of the engine that goes on in threads and tasks when its future is dropped, and its end when it is cancelled.
//!
//! The engine writes files in blocking threads and publishes in tasks of the runtime that its future is polled in.
//! Here that is a runtime of the work's own. Work that is cancelled is polled no more; then its threads are waited
//! for; and only then its future is dropped, which removes what it had begun. So nothing is written after the removal.

use std::future::{Future, poll_fn};
use std::pin::pin;

use microsandbox::MicrosandboxResult;

use crate::cancel::Cancel;
use crate::outcome::Stop;
use crate::sandbox::{POLL, SETTLE};
use crate::threads::Threads;
use crate::threads::blocking;

/// Run `work` to its end, or until it is cancelled and at rest.
///
/// What is `committing` is not stopped: it is whole in a moment, and half of it would be worse. It is asked with the
/// number of tasks that the work has.
pub(crate) async fn settling<T>(
    cancel: &Cancel,
    committing: impl Fn(usize) -> bool,
    work: impl Future<Output = MicrosandboxResult<T>>,
) -> Result<T, Stop> {
    let threads = Threads::new("msb-settle", 1)?;
    let handle = threads.runtime().handle().clone();
    // Dropped after the threads have ended.
    let mut work = pin!(work);
    let mut running = poll_fn(|context| {
        let _entered = handle.enter();
        work.as_mut().poll(context)
    });
    let stop = match cancel.guard(&mut running).await {
        Err(Stop::Cancelled) => Stop::Cancelled,
        ended => return ended,
    };
    while committing(handle.metrics().num_alive_tasks()) {
        if let Ok(ended) = tokio::time::timeout(POLL, &mut running).await {
            return ended.map_err(Stop::from);
        }
    }
    blocking(move || threads.join(SETTLE)).await;
    Err(stop)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::{Cancel, Stop, settling};

    /// Says that it was dropped, and whether the thread had ended by then.
    struct Work {
        written: Arc<AtomicBool>,
        dropped_after: Arc<AtomicBool>,
    }

    impl Drop for Work {
        fn drop(&mut self) {
            self.dropped_after.store(self.written.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }

    fn slow_write(written: &Arc<AtomicBool>) -> impl FnOnce() + Send + 'static {
        let written = written.clone();
        move || {
            std::thread::sleep(Duration::from_millis(200));
            written.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn work_that_is_cancelled_is_dropped_when_its_threads_have_ended() {
        let cancel = Cancel { call: CancellationToken::new(), engine: CancellationToken::new() };
        let (written, dropped_after) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let work = Work { written: written.clone(), dropped_after: dropped_after.clone() };
        let write = slow_write(&written);
        let token = cancel.call.clone();
        let ended = settling(&cancel, |_| false, async move {
            let _work = work;
            let task = tokio::task::spawn_blocking(write);
            token.cancel();
            let _ = task.await;
            Ok(())
        })
        .await;
        assert!(matches!(ended, Err(Stop::Cancelled)));
        assert!(dropped_after.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn work_that_is_committing_comes_to_its_end() {
        let cancel = Cancel { call: CancellationToken::new(), engine: CancellationToken::new() };
        let token = cancel.call.clone();
        let ended = settling(&cancel, |tasks| tasks > 0, async move {
            let task = tokio::spawn(async move {
                token.cancel();
                tokio::time::sleep(Duration::from_millis(100)).await;
                7
            });
            Ok(task.await.expect("a task"))
        })
        .await;
        assert!(matches!(ended, Ok(7)));
    }
}
