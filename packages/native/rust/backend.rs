//! A backend: where sandboxes live. Each call takes it along; nothing here is process-wide.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use microsandbox::LocalBackend;
use microsandbox::backend::{Backend as EngineBackend, with_backend};
use microsandbox::sandbox::{Sandbox as EngineSandbox, SandboxHandle};
use napi_derive::napi;

use crate::cancel::{Cancel, CancelToken};
use crate::engine::{EngineState, Kind, Live};
use crate::failure::Failure;
use crate::home;
use crate::outcome::{Outcome, Stop};
use crate::sandbox::{Sandbox, SandboxOptions, StopOptions, create, stop_handle};
use crate::slot::Slot;

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

/// An open backend.
#[napi]
pub struct Backend {
    slot: Slot<BackendValue>,
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
            slot: Slot::new(
                "backend",
                BackendValue {
                    backend,
                    live: engine.count(Kind::Backend),
                },
            ),
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
        Ok(self
            .run(
                token,
                |value, cancel| async move { create(value, options, cancel).await },
            )
            .await)
    }

    /// Start a sandbox that has stopped. A cancel stops the boot; the sandbox stays, stopped.
    #[napi(ts_return_type = "Promise<Outcome<Sandbox>>")]
    pub async fn start_sandbox(
        &self,
        name: String,
        detached: bool,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Sandbox>> {
        Ok(self
            .run(token, |value, cancel| async move {
                let backend = value.backend.clone();
                crate::sandbox::check_runtime(&backend)?;
                let start = async {
                    if detached {
                        EngineSandbox::start_detached(&name).await
                    } else {
                        EngineSandbox::start(&name).await
                    }
                };
                let sandbox = cancel.guard(with_backend(backend, start)).await?;
                Ok(Sandbox::adopt(value.live.engine(), sandbox))
            })
            .await)
    }

    /// Look a sandbox up by name.
    #[napi(ts_return_type = "Promise<Outcome<SandboxInfo>>")]
    pub async fn get_sandbox(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<SandboxInfo>> {
        Ok(self
            .run(token, |value, cancel| async move {
                Ok(info(&cancel.guard(lookup(&value, &name)).await?))
            })
            .await)
    }

    /// Stop a sandbox by name: gracefully within `grace`, then by force.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn stop_sandbox(
        &self,
        name: String,
        options: StopOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        Ok(self
            .run(token, |value, cancel| async move {
                let handle = cancel.guard(lookup(&value, &name)).await?;
                cancel.guard(stop_handle(&handle, &options)).await
            })
            .await)
    }

    /// Kill a sandbox by name.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn kill_sandbox(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .run(token, |value, cancel| async move {
                let handle = cancel.guard(lookup(&value, &name)).await?;
                cancel.guard(handle.kill()).await
            })
            .await)
    }

    /// Remove a stopped sandbox by name: its row, its disk, its directory.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn remove_sandbox(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
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

impl Backend {
    async fn run<T, F>(&self, token: &CancelToken, work: impl FnOnce(Arc<BackendValue>, Cancel) -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, Stop>>,
    {
        let token = token.token();
        match self.slot.get() {
            Ok(value) => {
                let engine = value.live.engine().clone();
                engine.run(token, |cancel| work(value, cancel)).await
            }
            Err(failure) => Err(Stop::Failed(failure)).into(),
        }
    }
}

async fn lookup(value: &BackendValue, name: &str) -> microsandbox::MicrosandboxResult<SandboxHandle> {
    value.backend.sandboxes().get(value.backend.clone(), name).await
}

/// How long a call waits for a state that the engine reaches by itself.
pub(crate) const SETTLE: Duration = Duration::from_secs(15);

fn info(handle: &SandboxHandle) -> SandboxInfo {
    SandboxInfo {
        name: handle.name().to_owned(),
        id: handle.id().as_str().to_owned(),
        status: format!("{:?}", handle.status_snapshot()),
        labels: handle.config().map(|config| config.spec.labels).unwrap_or_default(),
        #[allow(clippy::cast_precision_loss)] // milliseconds: exact for 285,000 years
        created_at: handle.created_at().map(|time| time.timestamp_millis() as f64),
        last_failure: handle.last_failure_message_snapshot(),
    }
}
