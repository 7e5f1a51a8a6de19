//! A backend: where sandboxes live. Each call takes it along; nothing here is process-wide.

use std::collections::BTreeMap;
use std::sync::Arc;

use microsandbox::LocalBackend;
use microsandbox::backend::Backend as EngineBackend;
use microsandbox::sandbox::SandboxHandle;
use napi_derive::napi;

use crate::attempt::CREATION_LABEL;
use crate::cancel::{Cancel, CancelToken};
use crate::engine::{EngineState, Kind, Live};
use crate::failure::Failure;
use crate::home;
use crate::outcome::{Outcome, Stop};
use crate::sandbox::{Sandbox, SandboxOptions, StopOptions, create, kill, start, stop};
use crate::slot::{InEngine, Slot};

/// Where a local backend keeps its state.
#[napi(object, object_to_js = false)]
pub struct LocalOptions {
    /// Its directory; the engine's own rule (`MSB_HOME`, then `~/.microsandbox`) when absent.
    pub home: Option<String>,
}

/// A sandbox as the backend's catalogue has it.
#[napi(object, object_from_js = false)]
pub struct SandboxInfo {
    pub name: String,
    pub id: String,
    pub status: String,
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since 1970.
    pub created_at: Option<f64>,
    pub last_failure: Option<String>,
}

pub(crate) struct BackendValue {
    pub(crate) backend: Arc<dyn EngineBackend>,
    pub(crate) live: Live,
}

impl InEngine for BackendValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

impl BackendValue {
    pub(crate) async fn lookup(&self, name: &str) -> microsandbox::MicrosandboxResult<SandboxHandle> {
        self.backend.sandboxes().get(self.backend.clone(), name).await
    }
}

/// An open backend.
#[napi]
pub struct Backend {
    pub(crate) slot: Slot<BackendValue>,
    home: Option<String>,
}

impl Backend {
    pub(crate) async fn open_local(
        engine: Arc<EngineState>,
        options: LocalOptions,
        cancel: Cancel,
    ) -> Result<Self, Stop> {
        let mut builder = LocalBackend::builder();
        if let Some(home) = &options.home {
            builder = builder.home(home);
        }
        let local = builder.try_build_lazy().map_err(Failure::from)?;
        let home = local.config().home();
        home::check(&home, &local.config().run_dir())?;
        // Opened here and not at the first call, so that a broken catalogue fails the layer.
        cancel.guard(local.db()).await?;
        let backend: Arc<dyn EngineBackend> = local.into();
        Ok(Self {
            slot: Slot::new("backend", BackendValue { backend, live: engine.count(Kind::Backend) }),
            home: Some(home.display().to_string()),
        })
    }
}

#[napi]
impl Backend {
    /// The directory of a local backend.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn home(&self) -> Option<String> {
        self.home.clone()
    }

    /// Boot a sandbox. When this fails or is cancelled, the name is free again before it answers.
    #[napi(ts_return_type = "Promise<Outcome<Sandbox>>")]
    pub async fn create_sandbox(&self, options: SandboxOptions, token: &CancelToken) -> napi::Result<Outcome<Sandbox>> {
        Ok(Box::pin(self.slot.run(token, |value, cancel| create(value, options, cancel))).await)
    }

    /// Start a sandbox that has stopped. A cancel ends the VM and keeps the sandbox.
    #[napi(ts_return_type = "Promise<Outcome<Sandbox>>")]
    pub async fn start_sandbox(
        &self,
        name: String,
        detached: bool,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Sandbox>> {
        Ok(Box::pin(self.slot.run(token, |value, cancel| start(value, name, detached, cancel))).await)
    }

    /// Look a sandbox up by name.
    #[napi(ts_return_type = "Promise<Outcome<SandboxInfo>>")]
    pub async fn get_sandbox(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<SandboxInfo>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move { Ok(info(&cancel.guard(value.lookup(&name)).await?)) })
            .await)
    }

    /// Stop a sandbox by name: gracefully within the grace, then by force.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn stop_sandbox(
        &self,
        name: String,
        options: StopOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let handle = cancel.guard(value.lookup(&name)).await?;
                cancel.guard(stop(&options, |grace| handle.stop_with_timeout(grace), || handle.kill())).await
            })
            .await)
    }

    /// Kill a sandbox by name, and wait until it is seen to be gone.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn kill_sandbox(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let handle = cancel.guard(value.lookup(&name)).await?;
                cancel.guard(kill(handle.kill())).await
            })
            .await)
    }

    /// Remove a stopped sandbox by name: its row, its disk, its directory.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn remove_sandbox(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let backend = value.backend.clone();
                cancel.guard(value.backend.sandboxes().remove(backend, &name)).await
            })
            .await)
    }

    /// Give the backend back. Its sandboxes, if any are alive, keep what they need of it.
    #[napi]
    pub async fn close(&self) -> napi::Result<()> {
        drop(self.slot.take());
        Ok(())
    }
}

fn info(handle: &SandboxHandle) -> SandboxInfo {
    let mut labels = handle.config().map(|config| config.spec.labels).unwrap_or_default();
    labels.remove(CREATION_LABEL);
    SandboxInfo {
        name: handle.name().to_owned(),
        id: handle.id().as_str().to_owned(),
        status: format!("{:?}", handle.status_snapshot()),
        labels,
        #[allow(clippy::cast_precision_loss)] // milliseconds: exact for 285,000 years
        created_at: handle.created_at().map(|time| time.timestamp_millis() as f64),
        last_failure: handle.last_failure_message_snapshot(),
    }
}
