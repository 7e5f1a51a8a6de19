//! A backend: where sandboxes live. Each call takes it along; nothing here is process-wide.

use std::collections::BTreeMap;
use std::sync::Arc;

use microsandbox::LocalBackend;
use microsandbox::backend::Backend as EngineBackend;
use microsandbox::sandbox::{SandboxHandle, SandboxListBuilder};
use napi_derive::napi;

use crate::cancel::{Cancel, CancelToken};
use crate::catalogue::{self, Reader};
use crate::cloud::{self, CloudOptions};
use crate::config::SandboxConfig;
use crate::engine::{EngineState, Kind, Live};
use crate::failure::Failure;
use crate::home;
use crate::options::SandboxOptions;
use crate::outcome::{Outcome, Stop};
use crate::owner::{Labels, visible};
use crate::progress::Progress;
use crate::sandbox::{
    Ending, Sandbox, StopOptions, StopResult, connect, connect_or_create, create, flatten_stopped, kill,
    milliseconds_of, start, stop, wait, within,
};
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
    pub updated_at: Option<f64>,
    pub last_failure: Option<String>,
    /// What the next start takes.
    pub config: Option<SandboxConfig>,
    /// What the VM that runs was started with.
    pub active_config: Option<SandboxConfig>,
}

/// Which sandboxes to list.
#[napi(object, object_to_js = false)]
pub struct ListOptions {
    /// Of those that have all of these.
    pub labels: BTreeMap<String, String>,
    /// 1 to 100.
    pub limit: u32,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// One page of a list.
#[napi(object, object_from_js = false)]
pub struct SandboxPage {
    pub sandboxes: Vec<SandboxInfo>,
    /// Where to go on; none on the last page.
    pub cursor: Option<String>,
}

pub(crate) struct BackendValue {
    pub(crate) backend: Arc<dyn EngineBackend>,
    pub(crate) live: Live,
    /// Of a backend on this machine. After the backend: it looks whether somebody still uses that.
    _catalogue: Option<Reader>,
    /// Of a control plane: hidden for as long as this lives.
    _key: Option<Arc<str>>,
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

    /// The same, and a failure that names it.
    pub(crate) async fn look_up(&self, name: &str) -> Result<SandboxHandle, Failure> {
        self.lookup(name).await.map_err(|error| Failure::from(error).of_sandbox(name))
    }

    pub(crate) fn is_cloud(&self) -> bool {
        cloud::is_cloud(&self.backend)
    }

    /// The labels of a sandbox that this engine ends in this way. A control plane gets none: what they say of this process
    /// is not its business, and nobody there could tell whether it has died.
    pub(crate) fn owner(&self, on_close: Ending) -> Labels {
        if self.is_cloud() { Labels::new() } else { self.engine().session.owner(on_close) }
    }
}

/// An open backend.
#[napi]
pub struct Backend {
    pub(crate) slot: Slot<BackendValue>,
    home: Option<String>,
    url: Option<String>,
}

impl Backend {
    pub(crate) fn open_cloud(engine: &Arc<EngineState>, options: &CloudOptions) -> Result<Self, Failure> {
        let key = cloud::hide(&options.api_key);
        let client = cloud::client(options)?;
        let url = client.url().to_owned();
        let live = engine.count(Kind::Backend);
        let value = BackendValue { backend: client.into(), live, _catalogue: None, _key: Some(key) };
        Ok(Self { slot: Slot::new("backend", value), home: None, url: Some(url) })
    }

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
        home::keep_private(&home)?;
        // Opened here and not at the first call, so that a broken catalogue fails the layer.
        let (backend, catalogue) = cancel.guard(catalogue::open(local)).await?;
        let live = engine.count(Kind::Backend);
        Ok(Self {
            slot: Slot::new("backend", BackendValue { backend, live, _catalogue: Some(catalogue), _key: None }),
            home: Some(home.display().to_string()),
            url: None,
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

    /// The address of a control plane.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn url(&self) -> Option<String> {
        self.url.clone()
    }

    /// Boot a sandbox. When this fails or is cancelled, the name is free again before it answers.
    #[napi(ts_return_type = "Promise<Outcome<Sandbox>>")]
    pub async fn create_sandbox(
        &self,
        options: SandboxOptions,
        progress: &Progress,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Sandbox>> {
        let watch = progress.watch();
        let call = self.slot.run(token, |value, cancel| {
            let watch = watch.clone();
            async move { Box::pin(create(value, &options, &watch, cancel)).await }
        });
        Ok(Box::pin(watch.clone().during(call)).await)
    }

    /// Start a sandbox that has stopped. A cancel ends the VM and keeps the sandbox.
    #[napi(ts_return_type = "Promise<Outcome<Sandbox>>")]
    pub async fn start_sandbox(
        &self,
        name: String,
        on_close: Ending,
        progress: &Progress,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Sandbox>> {
        let call = self.slot.run(token, |value, cancel| start(value, name, on_close, cancel));
        Ok(Box::pin(progress.watch().during(call)).await)
    }

    /// Connect to a sandbox that runs.
    #[napi(ts_return_type = "Promise<Outcome<Sandbox>>")]
    pub async fn connect_sandbox(
        &self,
        name: String,
        timeout_ms: f64,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Sandbox>> {
        Ok(Box::pin(self.slot.run(token, |value, cancel| connect(value, name, timeout_ms, cancel))).await)
    }

    /// Connect to a sandbox that runs, start one that has stopped, or make it.
    #[napi(ts_return_type = "Promise<Outcome<Sandbox>>")]
    pub async fn connect_or_create_sandbox(
        &self,
        options: SandboxOptions,
        timeout_ms: f64,
        progress: &Progress,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Sandbox>> {
        let watch = progress.watch();
        let call = self.slot.run(token, |value, cancel| {
            let watch = watch.clone();
            async move { Box::pin(connect_or_create(value, &options, timeout_ms, &watch, cancel)).await }
        });
        Ok(Box::pin(watch.clone().during(call)).await)
    }

    /// One page of the sandboxes, the newest first.
    #[napi(ts_return_type = "Promise<Outcome<SandboxPage>>")]
    pub async fn list_sandboxes(
        &self,
        options: ListOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<SandboxPage>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let mut query = SandboxListBuilder::default().limit(options.limit).labels(options.labels);
                if let Some(cursor) = options.cursor {
                    query = query.cursor(cursor);
                }
                let listed = value.backend.sandboxes().list(value.backend.clone(), query);
                let page = cancel.guard(listed).await?;
                Ok(SandboxPage {
                    sandboxes: page.sandboxes.iter().map(SandboxInfo::of).collect(),
                    cursor: page.next_cursor,
                })
            })
            .await)
    }

    /// Look a sandbox up by name.
    #[napi(ts_return_type = "Promise<Outcome<SandboxInfo>>")]
    pub async fn get_sandbox(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<SandboxInfo>> {
        Ok(self.by_name(name, token, |_, handle, _| async move { Ok(SandboxInfo::of(&handle)) }).await)
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
            .by_name(name, token, |_, handle, cancel| async move {
                if handle.cloud().is_some() {
                    return cancel.guard(cloud::stop(&handle, &options)).await;
                }
                cancel.guard(stop(&options, |grace| handle.stop_with_timeout(grace), || handle.kill())).await
            })
            .await)
    }

    /// Kill a sandbox by name, and wait until it is seen to be gone.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn kill_sandbox(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self.by_name(name, token, |_, handle, cancel| async move { cancel.guard(kill(handle.kill())).await }).await)
    }

    /// Ask a sandbox, by name, to end when its work is done.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn drain_sandbox(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .by_name(name, token, |_, handle, cancel| async move {
                cancel.guard(within(handle.name(), handle.request_drain())).await
            })
            .await)
    }

    /// Wait until a sandbox, by name, has ended.
    #[napi(ts_return_type = "Promise<Outcome<StopResult>>")]
    pub async fn wait_sandbox(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<StopResult>> {
        Ok(self
            .by_name(name, token, |_, handle, cancel| async move {
                match wait(&handle, &cancel).await {
                    // Whoever ended it has removed it too.
                    Err(Stop::Failed(Failure::SandboxNotFound { .. } | Failure::SandboxReplaced { .. })) => {
                        Ok(StopResult::removed(handle.name()))
                    }
                    waited => waited,
                }
            })
            .await)
    }

    /// Remove a stopped sandbox by name: its row, its disk, its directory.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn remove_sandbox(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let backend = &value.backend;
                let removed = async {
                    flatten_stopped(backend, &name).await?;
                    backend.sandboxes().remove(backend.clone(), &name).await
                };
                let removed = cancel.guard(within(&name, removed)).await;
                // The control plane's word for one that runs.
                if let Err(Stop::Failed(Failure::CloudHttp { message, status: 409, .. })) = removed {
                    return Err(Failure::SandboxStillRunning { message, sandbox: name }.into());
                }
                removed.map_err(|stop| match stop {
                    Stop::Failed(failure) => Stop::Failed(failure.of_sandbox(&name)),
                    Stop::Cancelled => Stop::Cancelled,
                })
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
    /// Run one call on the sandbox that has this name now.
    pub(crate) async fn by_name<T, F>(
        &self,
        name: String,
        token: &CancelToken,
        work: impl FnOnce(Arc<BackendValue>, SandboxHandle, Cancel) -> F,
    ) -> Outcome<T>
    where
        F: Future<Output = Result<T, Stop>>,
    {
        self.slot
            .run(token, |value, cancel| async move {
                let handle = cancel.guard(value.look_up(&name)).await?;
                work(value, handle, cancel).await
            })
            .await
    }
}

impl SandboxInfo {
    pub(crate) fn of(handle: &SandboxHandle) -> Self {
        let spec = cloud::spec_of(handle);
        let active = handle.active_config().ok().flatten();
        Self {
            name: handle.name().to_owned(),
            id: cloud::id_of(&handle.id()),
            status: format!("{:?}", handle.status_snapshot()),
            labels: cloud::labels_of(handle).map(visible).unwrap_or_default(),
            created_at: handle.created_at().map(|time| milliseconds_of(time.timestamp_millis())),
            updated_at: handle.updated_at().map(|time| milliseconds_of(time.timestamp_millis())),
            last_failure: handle.last_failure_message_snapshot(),
            config: spec.map(SandboxConfig::of),
            active_config: active.map(|config| SandboxConfig::of(config.spec)),
        }
    }
}
