//! Cancellation that is asked for on one side and acknowledged on the other.

use std::future::Future;

use napi_derive::napi;
use tokio_util::sync::CancellationToken;

use crate::outcome::Stop;

/// Cancels the one call that it is passed to. The call answers `Cancelled` when its work is undone.
#[napi]
pub struct CancelToken {
    token: CancellationToken,
}

#[napi]
impl CancelToken {
    #[napi(constructor)]
    #[must_use]
    #[allow(clippy::new_without_default)] // only JavaScript makes one
    pub fn new() -> Self {
        Self { token: CancellationToken::new() }
    }

    /// Ask the call to stop. Idempotent, and harmless after the call has ended.
    #[napi(catch_unwind)]
    pub fn cancel(&self) {
        self.token.cancel();
    }
}

impl CancelToken {
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

/// What one call watches: its own token, and the engine that it runs in.
#[derive(Clone)]
pub(crate) struct Cancel {
    pub(crate) call: CancellationToken,
    pub(crate) engine: CancellationToken,
}

impl Cancel {
    pub(crate) async fn requested(&self) {
        tokio::select! {
            () = self.call.cancelled() => {}
            () = self.engine.cancelled() => {}
        }
    }

    /// For work that cannot be dropped, between two pieces of it.
    pub(crate) fn is_requested(&self) -> bool {
        self.call.is_cancelled() || self.engine.is_cancelled()
    }

    /// Run `future` until it is done or a cancel is asked for; then drop it, which is what stops the
    /// engine's work, before the answer goes out.
    pub(crate) async fn guard<T, E>(&self, future: impl Future<Output = Result<T, E>>) -> Result<T, Stop>
    where
        Stop: From<E>,
    {
        tokio::select! {
            biased;
            () = self.requested() => Err(Stop::Cancelled),
            result = future => result.map_err(Stop::from),
        }
    }

    /// The same for work that leaves something behind when it is dropped too soon, since it goes on in threads of the engine or
    /// on a control plane: after a cancel it is polled on until `place` is reached, where it can be left.
    pub(crate) async fn guard_to<T, E>(
        &self,
        place: impl Future<Output = ()>,
        mut work: impl Future<Output = Result<T, E>> + Unpin,
    ) -> Result<T, Stop>
    where
        Stop: From<E>,
    {
        let ended = self.guard(&mut work).await;
        if matches!(ended, Err(Stop::Cancelled)) {
            tokio::select! {
                biased;
                () = place => {}
                _ = work => {}
            }
        }
        ended
    }
}
