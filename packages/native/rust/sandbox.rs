//! A sandbox: boot, stop, remove, and the promise that a boot which fails leaves nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use microsandbox::backend::{Backend as EngineBackend, with_backend};
use microsandbox::sandbox::{PullPolicy, Sandbox as EngineSandbox, SandboxBuilder, SandboxHandle};
use microsandbox::setup::{resolve_runtime, resolve_runtime_version};
use microsandbox::{LogLevel, MicrosandboxError, MicrosandboxResult};
use microsandbox_runtime::ipc::try_acquire_transition_guard;
use napi_derive::napi;
use uuid::Uuid;

use crate::backend::{BackendValue, SETTLE};
use crate::cancel::{Cancel, CancelToken};
use crate::engine::{EngineState, Kind, Live};
use crate::exec::{Exec, ExecOptions, ExecOutput};
use crate::failure::{Failure, RUNTIME_VERSION};
use crate::outcome::{Outcome, Stop};
use crate::slot::Slot;

/// Marks a sandbox with the one create that made it, so that its roll-back can tell it from another
/// sandbox of the same name.
const CREATION_LABEL: &str = "effect-microsandbox.creation";

/// What a sandbox is made of.
#[napi(object, object_to_js = false)]
pub struct SandboxOptions {
    pub name: String,
    /// An image reference, or the path of a root directory or disk (`/…`, `./…`, `../…`).
    pub image: String,
    pub cpus: Option<u8>,
    pub memory_mib: Option<u32>,
    pub env: Option<BTreeMap<String, String>>,
    pub labels: Option<BTreeMap<String, String>>,
    pub workdir: Option<String>,
    pub shell: Option<String>,
    pub user: Option<String>,
    pub hostname: Option<String>,
    #[napi(ts_type = "'always' | 'if-missing' | 'never'")]
    pub pull_policy: Option<String>,
    #[napi(ts_type = "'error' | 'warn' | 'info' | 'debug' | 'trace'")]
    pub log_level: Option<String>,
    pub max_duration_secs: Option<u32>,
    pub idle_timeout_secs: Option<u32>,
    /// Survives this process.
    pub detached: bool,
}

/// How to stop: ask, wait for `grace_ms`, then kill if allowed.
#[napi(object, object_to_js = false)]
pub struct StopOptions {
    pub grace_ms: f64,
    pub then_kill: bool,
}

struct SandboxValue {
    sandbox: EngineSandbox,
    live: Live,
}

/// A running sandbox.
#[napi]
pub struct Sandbox {
    slot: Slot<SandboxValue>,
    name: String,
    id: String,
}

impl Sandbox {
    pub(crate) fn adopt(engine: &Arc<EngineState>, sandbox: EngineSandbox) -> Self {
        Self {
            name: sandbox.name().to_owned(),
            id: sandbox.id().as_str().to_owned(),
            slot: Slot::new(
                "sandbox",
                SandboxValue {
                    sandbox,
                    live: engine.count(Kind::Sandbox),
                },
            ),
        }
    }

    async fn run<T, F>(&self, token: &CancelToken, work: impl FnOnce(Arc<SandboxValue>, Cancel) -> F) -> Outcome<T>
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

#[napi]
impl Sandbox {
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone()
    }

    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn id(&self) -> String {
        self.id.clone()
    }

    /// The state of the sandbox, looked up now.
    #[napi(ts_return_type = "Promise<Outcome<string>>")]
    pub async fn status(&self, token: &CancelToken) -> napi::Result<Outcome<String>> {
        Ok(self
            .run(token, |value, cancel| async move {
                Ok(format!("{:?}", cancel.guard(value.sandbox.status()).await?))
            })
            .await)
    }

    /// Run a program to its end and answer with all of its output. A cancel kills it first.
    #[napi(ts_return_type = "Promise<Outcome<ExecOutput>>")]
    pub async fn exec(&self, options: ExecOptions, token: &CancelToken) -> napi::Result<Outcome<ExecOutput>> {
        Ok(self
            .run(token, |value, cancel| async move {
                crate::exec::collect(&value.sandbox, options, cancel).await
            })
            .await)
    }

    /// Start a program and answer with a handle on it.
    #[napi(ts_return_type = "Promise<Outcome<Exec>>")]
    pub async fn spawn(&self, options: ExecOptions, token: &CancelToken) -> napi::Result<Outcome<Exec>> {
        Ok(self
            .run(token, |value, cancel| async move {
                let live = value.live.engine().count(Kind::Exec);
                crate::exec::spawn(&value.sandbox, options, live, cancel).await
            })
            .await)
    }

    /// Stop: gracefully within the grace, then by force. A sandbox that has stopped is no failure.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn stop(&self, options: StopOptions, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .run(token, |value, cancel| async move {
                cancel.guard(stop(&value.sandbox, &options)).await
            })
            .await)
    }

    /// Kill the VM and wait until it is seen to be gone.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn kill(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .run(token, |value, cancel| async move {
                cancel.guard(value.sandbox.kill()).await
            })
            .await)
    }

    /// Remove the stopped sandbox: this one, not another that has taken its name.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn remove(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .run(token, |value, cancel| async move {
                cancel.guard(remove(&value.sandbox)).await
            })
            .await)
    }

    /// Let the VM live on when this handle is closed.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn detach(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .run(token, |value, _| async move {
                value.sandbox.clone().detach().await;
                Ok(())
            })
            .await)
    }

    /// Give the handle back. An attached VM that is still running stops with it.
    #[napi]
    pub async fn close(&self) -> napi::Result<()> {
        drop(self.slot.take());
        Ok(())
    }
}

/// Boot a sandbox, or leave no trace of the attempt.
pub(crate) async fn create(value: Arc<BackendValue>, options: SandboxOptions, cancel: Cancel) -> Result<Sandbox, Stop> {
    let backend = &value.backend;
    if let Some(root) = local_root(&options.image)
        && !root.exists()
    {
        return Err(Failure::rootfs_not_found(&options.image).into());
    }
    check_runtime(backend)?;
    let attempt = Attempt::new(backend, &options.name);
    let boot = async {
        let builder = build(&options, &attempt.id)?;
        if options.detached {
            builder.create_detached().await
        } else {
            builder.create().await
        }
    };
    // `guard` drops the boot before it answers, which is what kills a VM that is half started.
    match cancel.guard(Box::pin(with_backend(backend.clone(), boot))).await {
        Ok(sandbox) => Ok(Sandbox::adopt(value.live.engine(), sandbox)),
        Err(stop) => {
            attempt.roll_back().await?;
            Err(stop)
        }
    }
}

/// Refuse a runtime of another version before anything is started: the engine would only say so in
/// words, half way through a boot.
pub(crate) fn check_runtime(backend: &Arc<dyn EngineBackend>) -> Result<(), Failure> {
    let Some(local) = backend.as_local() else { return Ok(()) };
    let pair = resolve_runtime(local.config())?;
    let actual = resolve_runtime_version(&pair.msb_path)?;
    match actual {
        Some(version) if version.to_string() == RUNTIME_VERSION => Ok(()),
        other => Err(Failure::runtime_version_mismatch(
            &other.map_or_else(|| "unknown".to_owned(), |version| version.to_string()),
            Some(pair.msb_path.display().to_string()),
        )),
    }
}

/// The engine's own rule for telling a path from an image reference.
fn local_root(image: &str) -> Option<&Path> {
    ["/", "./", "../"]
        .iter()
        .any(|prefix| image.starts_with(prefix))
        .then(|| Path::new(image))
}

/// Must run inside the backend's scope: a builder takes its defaults from it.
fn build(options: &SandboxOptions, creation: &str) -> MicrosandboxResult<SandboxBuilder> {
    let mut builder = EngineSandbox::builder(&options.name).image(options.image.as_str());
    if let Some(cpus) = options.cpus {
        builder = builder.cpus(cpus);
    }
    if let Some(memory) = options.memory_mib {
        builder = builder.memory(memory);
    }
    if let Some(env) = &options.env {
        builder = builder.envs(env.clone());
    }
    if let Some(labels) = &options.labels {
        builder = builder.labels(labels.clone());
    }
    if let Some(workdir) = &options.workdir {
        builder = builder.workdir(workdir);
    }
    if let Some(shell) = &options.shell {
        builder = builder.shell(shell);
    }
    if let Some(user) = &options.user {
        builder = builder.user(user);
    }
    if let Some(hostname) = &options.hostname {
        builder = builder.hostname(hostname);
    }
    if let Some(policy) = &options.pull_policy {
        builder = builder.pull_policy(pull_policy(policy)?);
    }
    if let Some(level) = &options.log_level {
        builder = builder.log_level(log_level(level)?);
    }
    if let Some(seconds) = options.max_duration_secs {
        builder = builder.max_duration(seconds.into());
    }
    if let Some(seconds) = options.idle_timeout_secs {
        builder = builder.idle_timeout(seconds.into());
    }
    Ok(builder.label(CREATION_LABEL, creation).detached(options.detached))
}

fn pull_policy(name: &str) -> MicrosandboxResult<PullPolicy> {
    match name {
        "always" => Ok(PullPolicy::Always),
        "if-missing" => Ok(PullPolicy::IfMissing),
        "never" => Ok(PullPolicy::Never),
        _ => Err(MicrosandboxError::InvalidConfig(format!("pull policy {name:?}"))),
    }
}

fn log_level(name: &str) -> MicrosandboxResult<LogLevel> {
    match name {
        "error" => Ok(LogLevel::Error),
        "warn" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        _ => Err(MicrosandboxError::InvalidConfig(format!("log level {name:?}"))),
    }
}

/// One try to make a sandbox, and what it takes to undo it.
struct Attempt {
    backend: Arc<dyn EngineBackend>,
    name: String,
    id: String,
    /// The sandbox's directory, when it was not there before: then it is ours to remove.
    fresh_directory: Option<PathBuf>,
}

impl Attempt {
    fn new(backend: &Arc<dyn EngineBackend>, name: &str) -> Self {
        // A name with a separator is refused by the engine; it must not reach a path of ours.
        let fresh_directory = backend
            .as_local()
            .filter(|_| microsandbox::sandbox::validate_sandbox_name(name).is_ok())
            .map(|local| local.sandboxes_dir().join(name))
            .filter(|directory| !directory.exists());
        Self {
            backend: backend.clone(),
            name: name.to_owned(),
            id: Uuid::new_v4().to_string(),
            fresh_directory,
        }
    }

    /// Wait until the engine's own clean-up is done, then remove what it keeps.
    ///
    /// After a failed or dropped create the engine leaves a stopped row (so that a restore can be
    /// tried again), or, in a short window, a directory without a row; both keep the name taken.
    async fn roll_back(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let trace = self.try_roll_back().await;
            match trace {
                Ok(Trace::Gone) => return Ok(()),
                _ if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
                // The engine's clean-up is bounded, and shorter than this: who still holds the name is another
                // create, and it could not have come so far with anything of this attempt in its way.
                Ok(Trace::NameHeld) => return Ok(()),
                Err(error) => return Err(Failure::rollback_incomplete(&self.name, &error.to_string())),
            }
        }
    }

    async fn try_roll_back(&self) -> MicrosandboxResult<Trace> {
        match self.backend.sandboxes().get(self.backend.clone(), &self.name).await {
            Ok(handle) if !self.made(&handle) => return Ok(Trace::Gone),
            // The engine refuses the name itself: nothing can have been made.
            Err(MicrosandboxError::InvalidConfig(_)) => return Ok(Trace::Gone),
            _ => {}
        }
        // The engine's clean-up holds the name's transition lock to its end: look again when it is free.
        let Some(lock) = self.hold_name()? else {
            return Ok(Trace::NameHeld);
        };
        match self.backend.sandboxes().get(self.backend.clone(), &self.name).await {
            Ok(handle) if self.made(&handle) => {
                // `remove` takes the lock itself.
                drop(lock);
                self.backend
                    .sandboxes()
                    .remove(self.backend.clone(), &self.name)
                    .await?;
            }
            Err(MicrosandboxError::SandboxNotFound(_)) => self.remove_orphan(&lock)?,
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        Ok(Trace::Gone)
    }

    /// The lock under which the engine makes, starts and removes a sandbox of this name.
    fn hold_name(&self) -> MicrosandboxResult<Option<NameLock>> {
        let Some(local) = self.backend.as_local() else {
            return Ok(Some(NameLock { _file: None }));
        };
        let file = try_acquire_transition_guard(&local.config().run_dir(), &self.name)?;
        Ok(file.map(|file| NameLock { _file: Some(file) }))
    }

    fn made(&self, handle: &SandboxHandle) -> bool {
        handle
            .config()
            .is_ok_and(|config| config.spec.labels.get(CREATION_LABEL) == Some(&self.id))
    }

    /// A directory that has no row, made while this attempt ran, while nobody else holds the name.
    fn remove_orphan(&self, _held: &NameLock) -> MicrosandboxResult<()> {
        match &self.fresh_directory {
            Some(directory) if directory.exists() => Ok(std::fs::remove_dir_all(directory)?),
            _ => Ok(()),
        }
    }
}

/// What is left of an attempt.
enum Trace {
    Gone,
    /// Somebody holds the name: the engine's clean-up of this attempt, or another create.
    NameHeld,
}

/// Held for as long as it lives. Empty where a backend has no such lock.
struct NameLock {
    _file: Option<std::fs::File>,
}

async fn stop(sandbox: &EngineSandbox, options: &StopOptions) -> MicrosandboxResult<()> {
    let grace = grace(options);
    let asked = if grace.is_zero() {
        None
    } else {
        Some(sandbox.stop_with_timeout(grace).await)
    };
    match settled(asked, options.then_kill) {
        Some(result) => result,
        None => gone_or(sandbox.kill().await),
    }
}

/// `stop` for a sandbox that is known only by its row.
pub(crate) async fn stop_handle(handle: &SandboxHandle, options: &StopOptions) -> MicrosandboxResult<()> {
    let grace = grace(options);
    let asked = if grace.is_zero() {
        None
    } else {
        Some(handle.stop_with_timeout(grace).await)
    };
    match settled(asked, options.then_kill) {
        Some(result) => result,
        None => gone_or(handle.kill().await),
    }
}

fn grace(options: &StopOptions) -> Duration {
    Duration::try_from_secs_f64(options.grace_ms / 1000.0).unwrap_or(Duration::ZERO)
}

/// The result of asking, when it is final; `None` when it is time to kill.
fn settled(asked: Option<MicrosandboxResult<()>>, then_kill: bool) -> Option<MicrosandboxResult<()>> {
    match asked {
        None => None,
        // Paused, unresponsive, or gone already: force settles all three.
        Some(Err(_)) if then_kill => None,
        Some(Ok(()) | Err(MicrosandboxError::SandboxNotRunning(_))) => Some(Ok(())),
        Some(Err(error)) => Some(Err(error)),
    }
}

/// Nothing to kill is what a kill wants.
fn gone_or(killed: MicrosandboxResult<()>) -> MicrosandboxResult<()> {
    match killed {
        Err(MicrosandboxError::SandboxNotRunning(_) | MicrosandboxError::SandboxNotFound(_)) => Ok(()),
        other => other,
    }
}

/// The runtime lets go of a sandbox a moment after its VM is seen to be gone.
async fn remove(sandbox: &EngineSandbox) -> MicrosandboxResult<()> {
    let deadline = Instant::now() + SETTLE;
    loop {
        match sandbox.remove_persisted().await {
            Err(MicrosandboxError::SandboxNotFound(_)) => return Ok(()),
            Err(MicrosandboxError::SandboxStillRunning(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_from_references_as_the_engine_does() {
        for path in ["/srv/root", "./root", "../root"] {
            assert!(local_root(path).is_some(), "{path}");
        }
        for reference in [
            "alpine",
            "alpine:3.20",
            "127.0.0.1:5000/a/b@sha256:0",
            ".hidden",
            "a/./b",
            "",
        ] {
            assert!(local_root(reference).is_none(), "{reference}");
        }
    }

    #[test]
    fn a_stop_ends_in_a_kill_unless_it_worked_or_may_not() {
        let failed = || Some(Err(MicrosandboxError::Custom("paused".into())));
        let gone = || Some(Err(MicrosandboxError::SandboxNotRunning("a".into())));
        assert!(matches!(settled(Some(Ok(())), true), Some(Ok(()))));
        assert!(settled(None, false).is_none());
        assert!(settled(failed(), true).is_none());
        assert!(matches!(settled(failed(), false), Some(Err(_))));
        assert!(matches!(settled(gone(), false), Some(Ok(()))));
    }

    #[test]
    fn no_grace_is_read_into_nonsense() {
        let of = |grace_ms| {
            grace(&StopOptions {
                grace_ms,
                then_kill: true,
            })
        };
        assert_eq!(of(1500.0), Duration::from_millis(1500));
        for nonsense in [-1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(of(nonsense), Duration::ZERO, "{nonsense}");
        }
    }
}
