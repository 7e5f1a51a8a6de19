//! A sandbox: boot, stop, remove, and the promise that a boot which fails leaves nothing.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use microsandbox::backend::{Backend as EngineBackend, with_backend};
use microsandbox::sandbox::{Sandbox as EngineSandbox, SandboxHandle, SandboxStatus};
use microsandbox::setup::{resolve_runtime, resolve_runtime_version};
use microsandbox::{MicrosandboxError, MicrosandboxResult};
use microsandbox_runtime::ipc::try_acquire_transition_guard;
use napi_derive::napi;
use uuid::Uuid;

use crate::backend::BackendValue;
use crate::cancel::{Cancel, CancelToken};
use crate::engine::{EngineState, Kind, Live};
use crate::exec::{Exec, ExecOptions, ExecOutput};
use crate::failure::{Failure, RUNTIME_VERSION};
use crate::options::{SandboxOptions, build, check_host};
use crate::outcome::{Outcome, Stop};
use crate::slot::{InEngine, Slot};

/// Marks a sandbox with the one create that made it, so that its roll-back can tell it from another
/// sandbox of the same name.
pub(crate) const CREATION_LABEL: &str = "effect-microsandbox.creation";

/// The shell of a sandbox that names none, as the engine has it.
const DEFAULT_SHELL: &str = "/bin/sh";

/// How long a call waits for what the engine does by itself. Its own clean-up takes up to 16 seconds.
const SETTLE: Duration = Duration::from_secs(30);

/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// How to stop: ask, wait for `grace_ms`, then kill if allowed.
#[napi(object, object_to_js = false)]
pub struct StopOptions {
    pub grace_ms: f64,
    pub then_kill: bool,
}

/// What becomes of a sandbox when its handle is given back.
#[napi(string_enum = "lowercase")]
pub enum Ending {
    Destroy,
    Stop,
    Detach,
}

pub(crate) struct SandboxValue {
    pub(crate) sandbox: EngineSandbox,
    pub(crate) live: Live,
}

impl InEngine for SandboxValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

/// A running sandbox.
#[napi]
pub struct Sandbox {
    pub(crate) slot: Slot<SandboxValue>,
    name: String,
    id: String,
    shell: String,
}

impl Sandbox {
    pub(crate) fn adopt(engine: &Arc<EngineState>, sandbox: EngineSandbox) -> Self {
        let shell = sandbox.config().spec.runtime.shell.clone();
        Self {
            name: sandbox.name().to_owned(),
            id: sandbox.id().as_str().to_owned(),
            shell: shell.unwrap_or_else(|| DEFAULT_SHELL.to_owned()),
            slot: Slot::new("sandbox", SandboxValue { sandbox, live: engine.count(Kind::Sandbox) }),
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

    /// The shell that its scripts run in.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn shell(&self) -> String {
        self.shell.clone()
    }

    /// The state of the sandbox, looked up now.
    #[napi(ts_return_type = "Promise<Outcome<string>>")]
    pub async fn status(&self, token: &CancelToken) -> napi::Result<Outcome<String>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move { Ok(format!("{:?}", cancel.guard(value.sandbox.status()).await?)) })
            .await)
    }

    /// Run a program to its end and answer with all of its output. A cancel kills it first.
    #[napi(ts_return_type = "Promise<Outcome<ExecOutput>>")]
    pub async fn exec(&self, options: ExecOptions, token: &CancelToken) -> napi::Result<Outcome<ExecOutput>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move { crate::exec::collect(&value.sandbox, options, cancel).await })
            .await)
    }

    /// Start a program and answer with a handle on it.
    #[napi(ts_return_type = "Promise<Outcome<Exec>>")]
    pub async fn spawn(&self, options: ExecOptions, token: &CancelToken) -> napi::Result<Outcome<Exec>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let live = value.live.engine().count(Kind::Exec);
                crate::exec::spawn(&value.sandbox, options, live, cancel).await
            })
            .await)
    }

    /// Stop: gracefully within the grace, then by force. A sandbox that has stopped is no failure.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn stop(&self, options: StopOptions, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self.slot.run(token, |value, cancel| async move { cancel.guard(value.stop(&options)).await }).await)
    }

    /// Kill the VM and wait until it is seen to be gone.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn kill(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self.slot.run(token, |value, cancel| async move { cancel.guard(kill(value.sandbox.kill())).await }).await)
    }

    /// Let the VM live on when this handle is given back.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn detach(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, _| async move {
                value.sandbox.clone().detach().await;
                Ok(())
            })
            .await)
    }

    /// End the sandbox and give the handle back. Runs to its own deadlines, also while the engine is closing: this is
    /// what keeps the promise that nothing is left.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn end(&self, ending: Ending, options: StopOptions) -> napi::Result<Outcome<()>> {
        let Some(value) = self.slot.take() else { return Ok(Ok(()).into()) };
        let engine = value.live.engine().clone();
        let ended = engine
            .finish(async {
                let ended = value.end(&ending, &options).await;
                drop(value);
                ended
            })
            .await;
        Ok(ended.map_err(Stop::Failed).into())
    }
}

impl SandboxValue {
    async fn stop(&self, options: &StopOptions) -> Result<(), Failure> {
        stop(options, |grace| self.sandbox.stop_with_timeout(grace), || self.sandbox.kill()).await
    }

    async fn end(&self, ending: &Ending, options: &StopOptions) -> Result<(), Failure> {
        let ended = match ending {
            Ending::Detach => Ok(()),
            Ending::Stop => self.stop(options).await,
            Ending::Destroy => match self.stop(options).await {
                Ok(()) => remove(&self.sandbox).await,
                failed => failed,
            },
        };
        match ended {
            // Somebody else has ended it.
            Err(Failure::SandboxNotFound { .. } | Failure::SandboxReplaced { .. }) => Ok(()),
            other => other,
        }
    }
}

/// Boot a sandbox, or leave no trace of the attempt.
pub(crate) async fn create(value: Arc<BackendValue>, options: SandboxOptions, cancel: Cancel) -> Result<Sandbox, Stop> {
    let backend = &value.backend;
    if let Some(local) = backend.as_local() {
        check_host(&options, local)?;
    }
    check_runtime(backend)?;
    let attempt = Attempt::new(backend, &options.name);
    let boot = async {
        let builder = build(&options, &attempt.id)?;
        if options.detached { builder.create_detached().await } else { builder.create().await }
    };
    // `guard` drops the boot before it answers, which is what kills a VM that is half started.
    let stop = match cancel.guard(Box::pin(with_backend(backend.clone(), boot))).await {
        Ok(sandbox) => return Ok(Sandbox::adopt(value.engine(), sandbox)),
        Err(Stop::Failed(Failure::ImageNotFound { message, .. })) => {
            Stop::Failed(Failure::ImageNotFound { message, reference: options.image.text().to_owned() })
        }
        Err(stop) => stop,
    };
    match attempt.roll_back().await {
        Ok(()) => Err(stop),
        Err(detail) => Err(Failure::rollback_incomplete(&options.name, &detail, &stop).into()),
    }
}

/// Start a sandbox that has stopped.
pub(crate) async fn start(
    value: Arc<BackendValue>,
    name: String,
    detached: bool,
    cancel: Cancel,
) -> Result<Sandbox, Stop> {
    let backend = &value.backend;
    check_runtime(backend)?;
    let boot =
        async { if detached { EngineSandbox::start_detached(&name).await } else { EngineSandbox::start(&name).await } };
    match cancel.guard(with_backend(backend.clone(), boot)).await {
        Ok(sandbox) => Ok(Sandbox::adopt(value.engine(), sandbox)),
        Err(stop) => {
            if matches!(stop, Stop::Cancelled) {
                until_ended(backend, &name).await;
            }
            Err(stop)
        }
    }
}

/// Wait until a start that was dropped has ended: its VM was killed, or is shutting down because its owner let go, and a
/// look at the row settles it. Nothing is killed here, because the VM could be somebody else's.
async fn until_ended(backend: &Arc<dyn EngineBackend>, name: &str) {
    let ended = async {
        while let Ok(handle) = backend.sandboxes().get(backend.clone(), name).await {
            use SandboxStatus::{Crashed, Created, Stopped};
            if matches!(handle.status_snapshot(), Created | Stopped | Crashed) {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let _ = tokio::time::timeout(SETTLE, ended).await;
}

/// Refuse a runtime of another version before anything is started: the engine would only say so in
/// words, half way through a boot.
fn check_runtime(backend: &Arc<dyn EngineBackend>) -> Result<(), Failure> {
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
        Self { backend: backend.clone(), name: name.to_owned(), id: Uuid::new_v4().to_string(), fresh_directory }
    }

    /// Wait until the engine's own clean-up is done, then remove what it keeps. The error says what is in the way.
    ///
    /// After a failed or dropped create the engine leaves a stopped row (so that a restore can be
    /// tried again), or, in a short window, a directory without a row; both keep the name taken.
    async fn roll_back(&self) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + SETTLE;
        loop {
            let tried = tokio::time::timeout_at(deadline, self.try_roll_back()).await;
            let late = tokio::time::Instant::now() >= deadline;
            match tried {
                Ok(Ok(Trace::Gone)) => return Ok(()),
                // The engine's clean-up is bounded, and shorter than this: who still holds the name is another
                // create, and it could not have come so far with anything of this attempt in its way.
                Ok(Ok(Trace::NameHeld { ours: false })) if late => return Ok(()),
                Ok(Ok(Trace::NameHeld { ours: true })) if late => return Err("its clean-up has not ended".into()),
                Ok(Err(error)) if late => return Err(error.to_string()),
                Err(_) => return Err("another operation holds the name".into()),
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }

    async fn try_roll_back(&self) -> MicrosandboxResult<Trace> {
        let ours = match self.lookup().await {
            Ok(handle) if self.made(&handle) => true,
            // Another has the name, or the engine refuses it: nothing can have been made.
            Ok(_) | Err(MicrosandboxError::InvalidConfig(_)) => return Ok(Trace::Gone),
            Err(_) => false,
        };
        // The engine's clean-up holds the name's transition lock to its end: look again when it is free.
        let Some(lock) = self.hold_name()? else { return Ok(Trace::NameHeld { ours }) };
        match self.lookup().await {
            Ok(handle) if self.made(&handle) => {
                // `remove` takes the lock itself, and removes this sandbox and no other.
                drop(lock);
                handle.remove().await?;
            }
            Err(MicrosandboxError::SandboxNotFound(_)) => self.remove_orphan(&lock)?,
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        Ok(Trace::Gone)
    }

    async fn lookup(&self) -> MicrosandboxResult<SandboxHandle> {
        self.backend.sandboxes().get(self.backend.clone(), &self.name).await
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
        handle.config().is_ok_and(|config| config.spec.labels.get(CREATION_LABEL) == Some(&self.id))
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
    /// Somebody holds the name: the engine's clean-up of this attempt, or another create. `ours`: there is a row of it.
    NameHeld {
        ours: bool,
    },
}

/// Held for as long as it lives. Empty where a backend has no such lock.
struct NameLock {
    _file: Option<std::fs::File>,
}

/// Ask a sandbox to stop, and kill it when the grace is over or when it cannot be asked, if that is allowed. One that
/// has stopped is no failure.
pub(crate) async fn stop<A, K>(
    options: &StopOptions,
    ask: impl FnOnce(Duration) -> A,
    force: impl FnOnce() -> K,
) -> Result<(), Failure>
where
    A: Future<Output = MicrosandboxResult<()>>,
    K: Future<Output = MicrosandboxResult<()>>,
{
    let grace = Duration::try_from_secs_f64(options.grace_ms / 1000.0).unwrap_or(Duration::ZERO);
    if !grace.is_zero() || !options.then_kill {
        match ask(grace).await {
            Ok(()) | Err(MicrosandboxError::SandboxNotRunning(_)) => return Ok(()),
            Err(error) if !options.then_kill => return Err(error.into()),
            // Paused, unresponsive, or gone: force settles all three.
            Err(_) => {}
        }
    }
    kill(force()).await
}

/// Kill, within a time. The engine bounds only its look at the result, and not its wait for the name's lock. Nothing to
/// kill is what a kill wants.
pub(crate) async fn kill(force: impl Future<Output = MicrosandboxResult<()>>) -> Result<(), Failure> {
    match tokio::time::timeout(SETTLE, force).await {
        Ok(Ok(()) | Err(MicrosandboxError::SandboxNotRunning(_) | MicrosandboxError::SandboxNotFound(_))) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Failure::kill_timeout(SETTLE)),
    }
}

/// Remove a sandbox that has stopped. The runtime lets go of it a moment after its VM is seen to be gone.
async fn remove(sandbox: &EngineSandbox) -> Result<(), Failure> {
    let removed = async {
        loop {
            match sandbox.remove_persisted().await {
                Err(MicrosandboxError::SandboxStillRunning(_)) => tokio::time::sleep(POLL).await,
                other => return other,
            }
        }
    };
    match tokio::time::timeout(SETTLE, removed).await {
        Ok(removed) => removed.map_err(Failure::from),
        Err(_) => Err(Failure::sandbox_busy(sandbox.name(), SETTLE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was done to a sandbox that answers `asked` when it is asked to stop.
    fn done(grace_ms: f64, then_kill: bool, asked: MicrosandboxResult<()>) -> (Vec<&'static str>, bool) {
        let log = std::cell::RefCell::new(Vec::new());
        let options = StopOptions { grace_ms, then_kill };
        let stopping = stop(
            &options,
            |_| async {
                log.borrow_mut().push("asked");
                asked
            },
            || async {
                log.borrow_mut().push("killed");
                Ok(())
            },
        );
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let stopped = runtime.block_on(stopping).is_ok();
        (log.into_inner(), stopped)
    }

    #[test]
    fn a_stop_ends_in_a_kill_unless_it_worked_or_may_not() {
        let failed = || Err(MicrosandboxError::Custom("paused".into()));
        let gone = || Err(MicrosandboxError::SandboxNotRunning("a".into()));
        assert_eq!(done(1.0, true, Ok(())), (vec!["asked"], true));
        assert_eq!(done(1.0, true, failed()), (vec!["asked", "killed"], true));
        assert_eq!(done(1.0, false, failed()), (vec!["asked"], false));
        assert_eq!(done(1.0, false, gone()), (vec!["asked"], true));
        for nothing in [0.0, -1.0, f64::NAN] {
            assert_eq!(done(nothing, true, Ok(())), (vec!["killed"], true));
            assert_eq!(done(nothing, false, failed()), (vec!["asked"], false));
        }
    }
}
