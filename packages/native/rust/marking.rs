//! A backend that marks what is made through it. A branch takes its labels from its source and a restore has none; the
//! engine's builders for both cannot set any, but they hand what they are about to make to their backend.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use microsandbox::agent::AgentClient;
use microsandbox::backend::{
    Backend, BackendInfo, BackendKind, SandboxBackend, SandboxIdentity, SnapshotBackend, VolumeBackend,
};
use microsandbox::logs::{BootError, LogEntry, LogOptions, LogStreamOptions};
use microsandbox::sandbox::{Sandbox, SandboxConfig, SandboxHandle, SandboxMetrics};
use microsandbox::{LocalBackend, MicrosandboxResult, SandboxListBuilder, SandboxPage};

use crate::owner::{Labels, visible};

type EngineStream<T> = Pin<Box<dyn Stream<Item = MicrosandboxResult<T>> + Send>>;

/// Labels by the name of the sandbox to be.
pub(crate) type Marks = HashMap<String, Labels>;

/// What is made through it belongs to the backend inside, and knows nothing of this one.
pub(crate) struct Marking {
    inner: Arc<dyn Backend>,
    marks: Marks,
    detached: bool,
}

impl Marking {
    pub(crate) fn around(inner: &Arc<dyn Backend>, marks: Marks, detached: bool) -> Arc<dyn Backend> {
        Arc::new(Self { inner: inner.clone(), marks, detached })
    }

    fn sandboxes(&self) -> &dyn SandboxBackend {
        self.inner.sandboxes()
    }

    /// Marks of the source are not the child's.
    fn marked(&self, mut config: SandboxConfig) -> SandboxConfig {
        if let Some(labels) = self.marks.get(&config.spec.name) {
            config.spec.labels = visible(config.spec.labels);
            config.spec.labels.extend(labels.clone());
        }
        config
    }
}

impl Backend for Marking {
    fn kind(&self) -> BackendKind {
        self.inner.kind()
    }

    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    fn sandboxes(&self) -> &dyn SandboxBackend {
        self
    }

    fn volumes(&self) -> &dyn VolumeBackend {
        self.inner.volumes()
    }

    fn snapshots(&self) -> &dyn SnapshotBackend {
        self.inner.snapshots()
    }

    fn as_local(&self) -> Option<&LocalBackend> {
        self.inner.as_local()
    }

    fn with_agent_identity(&self, name: &str, id: &str) -> Option<Arc<dyn Backend>> {
        self.inner.with_agent_identity(name, id)
    }

    fn dial_agent<'a>(&'a self, name: &'a str, timeout: Duration) -> BoxFuture<'a, MicrosandboxResult<AgentClient>> {
        self.inner.dial_agent(name, timeout)
    }
}

impl SandboxBackend for Marking {
    fn create(
        &self,
        _: Arc<dyn Backend>,
        config: SandboxConfig,
        start: bool,
    ) -> BoxFuture<'_, MicrosandboxResult<Sandbox>> {
        self.sandboxes().create(self.inner.clone(), self.marked(config), start)
    }

    /// The builders of branches and restores always ask for this. What resumes captured execution is detached whatever
    /// it is asked for; a boot need not be.
    fn create_detached(
        &self,
        backend: Arc<dyn Backend>,
        config: SandboxConfig,
    ) -> BoxFuture<'_, MicrosandboxResult<Sandbox>> {
        if !self.detached {
            return self.create(backend, config, true);
        }
        self.sandboxes().create_detached(self.inner.clone(), self.marked(config))
    }

    /// With this backend, so that a branch of what is found comes through here.
    fn get<'a>(&'a self, backend: Arc<dyn Backend>, name: &'a str) -> BoxFuture<'a, MicrosandboxResult<SandboxHandle>> {
        self.sandboxes().get(backend, name)
    }

    fn start<'a>(&'a self, backend: Arc<dyn Backend>, name: &'a str) -> BoxFuture<'a, MicrosandboxResult<Sandbox>> {
        self.sandboxes().start(backend, name)
    }

    fn start_detached<'a>(
        &'a self,
        backend: Arc<dyn Backend>,
        name: &'a str,
    ) -> BoxFuture<'a, MicrosandboxResult<Sandbox>> {
        self.sandboxes().start_detached(backend, name)
    }

    fn start_identified<'a>(
        &'a self,
        backend: Arc<dyn Backend>,
        name: &'a str,
        identity: SandboxIdentity,
    ) -> BoxFuture<'a, MicrosandboxResult<Sandbox>> {
        self.sandboxes().start_identified(backend, name, identity)
    }

    fn start_detached_identified<'a>(
        &'a self,
        backend: Arc<dyn Backend>,
        name: &'a str,
        identity: SandboxIdentity,
    ) -> BoxFuture<'a, MicrosandboxResult<Sandbox>> {
        self.sandboxes().start_detached_identified(backend, name, identity)
    }

    fn list(
        &self,
        backend: Arc<dyn Backend>,
        query: SandboxListBuilder,
    ) -> BoxFuture<'_, MicrosandboxResult<SandboxPage>> {
        self.sandboxes().list(backend, query)
    }

    fn remove<'a>(&'a self, backend: Arc<dyn Backend>, name: &'a str) -> BoxFuture<'a, MicrosandboxResult<()>> {
        self.sandboxes().remove(backend, name)
    }

    fn remove_identified<'a>(
        &'a self,
        backend: Arc<dyn Backend>,
        name: &'a str,
        identity: SandboxIdentity,
    ) -> BoxFuture<'a, MicrosandboxResult<()>> {
        self.sandboxes().remove_identified(backend, name, identity)
    }

    fn stop<'a>(&'a self, backend: Arc<dyn Backend>, name: &'a str) -> BoxFuture<'a, MicrosandboxResult<()>> {
        self.sandboxes().stop(backend, name)
    }

    fn stop_identified<'a>(
        &'a self,
        backend: Arc<dyn Backend>,
        name: &'a str,
        identity: SandboxIdentity,
    ) -> BoxFuture<'a, MicrosandboxResult<()>> {
        self.sandboxes().stop_identified(backend, name, identity)
    }

    fn kill<'a>(&'a self, backend: Arc<dyn Backend>, name: &'a str) -> BoxFuture<'a, MicrosandboxResult<()>> {
        self.sandboxes().kill(backend, name)
    }

    fn kill_identified<'a>(
        &'a self,
        backend: Arc<dyn Backend>,
        name: &'a str,
        identity: SandboxIdentity,
    ) -> BoxFuture<'a, MicrosandboxResult<()>> {
        self.sandboxes().kill_identified(backend, name, identity)
    }

    fn drain<'a>(&'a self, backend: Arc<dyn Backend>, name: &'a str) -> BoxFuture<'a, MicrosandboxResult<()>> {
        self.sandboxes().drain(backend, name)
    }

    fn drain_identified<'a>(
        &'a self,
        backend: Arc<dyn Backend>,
        name: &'a str,
        identity: SandboxIdentity,
    ) -> BoxFuture<'a, MicrosandboxResult<()>> {
        self.sandboxes().drain_identified(backend, name, identity)
    }

    fn boot_error<'a>(
        &'a self,
        backend: Arc<dyn Backend>,
        name: &'a str,
    ) -> BoxFuture<'a, MicrosandboxResult<Option<BootError>>> {
        self.sandboxes().boot_error(backend, name)
    }

    fn logs<'a>(
        &'a self,
        backend: Arc<dyn Backend>,
        name: &'a str,
        options: &'a LogOptions,
    ) -> BoxFuture<'a, MicrosandboxResult<Vec<LogEntry>>> {
        self.sandboxes().logs(backend, name, options)
    }

    fn log_stream<'a>(
        &'a self,
        backend: Arc<dyn Backend>,
        name: &'a str,
        options: &'a LogStreamOptions,
    ) -> BoxFuture<'a, MicrosandboxResult<EngineStream<LogEntry>>> {
        self.sandboxes().log_stream(backend, name, options)
    }

    fn follow_logs<'a>(
        &'a self,
        backend: Arc<dyn Backend>,
        name: &'a str,
        options: &'a LogOptions,
    ) -> BoxFuture<'a, MicrosandboxResult<EngineStream<LogEntry>>> {
        self.sandboxes().follow_logs(backend, name, options)
    }

    fn metrics<'a>(
        &'a self,
        backend: Arc<dyn Backend>,
        name: &'a str,
        config: &'a SandboxConfig,
    ) -> BoxFuture<'a, MicrosandboxResult<SandboxMetrics>> {
        self.sandboxes().metrics(backend, name, config)
    }

    fn metrics_stream(
        &self,
        backend: Arc<dyn Backend>,
        name: String,
        config: SandboxConfig,
        interval: Duration,
    ) -> EngineStream<SandboxMetrics> {
        self.sandboxes().metrics_stream(backend, name, config, interval)
    }
}
