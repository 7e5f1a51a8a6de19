//! A sandbox: boot, stop, remove, and the promise that a boot which fails leaves nothing.

use std::fs::File;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use microsandbox::backend::{Backend as EngineBackend, with_backend};
use microsandbox::sandbox::{PullPolicy, Sandbox as EngineSandbox, SandboxConfig, SandboxHandle, SandboxStatus};
use microsandbox::setup::{resolve_runtime, resolve_runtime_version};
use microsandbox::{LocalBackend, MicrosandboxError, MicrosandboxResult};
use microsandbox_runtime::ipc::try_acquire_transition_guard;
use napi_derive::napi;

use crate::attempt::Attempt;
use crate::backend::{BackendValue, SandboxInfo};
use crate::cancel::{Cancel, CancelToken};
use crate::cloud;
use crate::engine::{EngineState, Kind, Live};
use crate::exec::{Exec, ExecOptions, ExecOutput};
use crate::failure::{Failure, RUNTIME_VERSION};
use crate::guest::Guest;
use crate::logs;
use crate::options::{RegistryOptions, SandboxOptions, build, check_host};
use crate::outcome::{Outcome, Stop};
use crate::owner::{Labels, own};
use crate::pause::{current, current_for_control};
use crate::progress::{Progress, Watch};
use crate::pull::{Pull, PullRequest};
use crate::rooted::Root;
use crate::slot::{InEngine, Slot};
use crate::threads::blocking;

/// The shell of a sandbox that names none, as the engine has it.
const DEFAULT_SHELL: &str = "/bin/sh";

/// How long a call waits for what the engine does by itself. Its own clean-up takes up to 16 seconds.
pub(crate) const SETTLE: Duration = Duration::from_secs(30);

/// How long a boot may take, as the engine has it for the first word of a guest's agent.
const BOOT: Duration = Duration::from_mins(3);

/// How long the guest's agent may take to answer, as long as the engine gives it to take a connection.
const AGENT_TIME: Duration = Duration::from_secs(10);

/// How long the exit status of a VM process that has ended may take to arrive.
const COLLECT: Duration = Duration::from_secs(1);

/// Between two looks.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// How to stop: ask, wait for `grace_ms`, then kill if allowed.
#[napi(object, object_to_js = false)]
pub struct StopOptions {
    pub grace_ms: f64,
    pub then_kill: bool,
}

/// How a sandbox was seen to end.
#[napi(object, object_from_js = false)]
pub struct StopResult {
    pub name: String,
    pub status: String,
    /// Of the VM process, when this process is its parent.
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// Milliseconds since 1970.
    pub observed_at: f64,
    /// Who said so, in the engine's words.
    pub source: Option<String>,
}

/// What becomes of a sandbox when its handle is given back.
#[napi(string_enum = "lowercase")]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    #[default]
    Destroy,
    Stop,
    Detach,
}

pub(crate) struct SandboxValue {
    pub(crate) sandbox: EngineSandbox,
    pub(crate) guest: Guest,
    pub(crate) live: Live,
    /// Lives on when this process ends.
    detached: AtomicBool,
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
    workdir: Option<String>,
    connected: bool,
    /// One restart at a time.
    restarting: tokio::sync::Mutex<()>,
}

impl Sandbox {
    pub(crate) fn adopt(engine: &Arc<EngineState>, sandbox: EngineSandbox) -> Self {
        let shell = sandbox.config().spec.runtime.shell.clone();
        Self {
            name: sandbox.name().to_owned(),
            id: cloud::id_of(&sandbox.id()),
            shell: shell.unwrap_or_else(|| DEFAULT_SHELL.to_owned()),
            workdir: sandbox.config().spec.runtime.workdir.clone(),
            connected: false,
            restarting: tokio::sync::Mutex::new(()),
            slot: Slot::new("sandbox", SandboxValue::new(sandbox, engine, false)),
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

    /// It ran already when this handle was made: the call that made it has begun nothing.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn connected(&self) -> bool {
        self.connected
    }

    /// The shell that its scripts run in.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn shell(&self) -> String {
        self.shell.clone()
    }

    /// Where its programs start; at the root, when that is absent.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn workdir(&self) -> Option<String> {
        self.workdir.clone()
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
            .run(token, |value, cancel| async move {
                crate::exec::collect(&value.sandbox, &value.guest.spares, options, cancel).await
            })
            .await)
    }

    /// Start a program and answer with a handle on it.
    #[napi(ts_return_type = "Promise<Outcome<Exec>>")]
    pub async fn spawn(&self, options: ExecOptions, token: &CancelToken) -> napi::Result<Outcome<Exec>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let live = value.live.engine().count(Kind::Exec);
                crate::exec::spawn(&value.sandbox, &value.guest.spares, options, live, cancel).await
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

    /// Ask the VM to end when its work is done, and do not wait.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn drain(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let name = value.sandbox.name();
                cancel.guard(within(name, value.sandbox.request_drain())).await
            })
            .await)
    }

    /// Wait until the VM has ended, whoever ends it.
    #[napi(ts_return_type = "Promise<Outcome<StopResult>>")]
    pub async fn wait(&self, token: &CancelToken) -> napi::Result<Outcome<StopResult>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let waited = match cancel.guard(value.handle()).await {
                    Ok(handle) => wait(&handle, &cancel).await,
                    Err(stop) => Err(stop),
                };
                let mut result = match waited {
                    // Whoever ended it has removed it too.
                    Err(Stop::Failed(Failure::SandboxNotFound { .. } | Failure::SandboxReplaced { .. })) => {
                        StopResult::removed(value.sandbox.name())
                    }
                    waited => waited?,
                };
                if value.sandbox.owns_lifecycle() {
                    // It has ended: what is left is to collect its exit status.
                    let exit = tokio::time::timeout(COLLECT, value.sandbox.wait());
                    if let Ok(Ok(exit)) = cancel.guard(async { Ok::<_, Failure>(exit.await) }).await? {
                        result.exit_code = exit.code();
                        result.signal = exit_signal(exit);
                    }
                }
                Ok(result)
            })
            .await)
    }

    /// Stop, and start again: the same sandbox, in a new VM, behind the same handle.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn restart(
        &self,
        options: StopOptions,
        progress: &Progress,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        let call = self.slot.run(token, |_, cancel| async move {
            let _one = cancel.guard(async { Ok::<_, Failure>(self.restarting.lock().await) }).await?;
            // Another restart may have put a new VM in its place.
            let value = self.slot.get()?;
            cancel.guard(value.stop(&options)).await?;
            let handle = cancel.guard(value.handle()).await?;
            let detached = value.detached.load(Ordering::Relaxed) || !value.sandbox.owns_lifecycle();
            let sandbox = boot(value.sandbox.backend(), &handle, detached, &cancel).await?;
            match self.slot.replace(&value, SandboxValue::new(sandbox, value.live.engine(), detached)) {
                Ok(()) => Ok(()),
                // Its scope has ended meanwhile: there must not be a VM after that.
                Err(new) if new.is_cloud() => {
                    new.stop(&StopOptions { grace_ms: 0.0, then_kill: true }).await?;
                    Err(Failure::handle_closed("sandbox").into())
                }
                Err(new) => {
                    kill(new.sandbox.kill()).await?;
                    Err(Failure::handle_closed("sandbox").into())
                }
            }
        });
        Ok(Box::pin(progress.watch().during(call)).await)
    }

    /// The round trip to the guest's agent, in milliseconds. It does not count as activity.
    #[napi(ts_return_type = "Promise<Outcome<number>>")]
    pub async fn ping(&self, token: &CancelToken) -> napi::Result<Outcome<f64>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let pong = cancel.guard(within_agent_time(value.sandbox.ping())).await?;
                Ok(pong.latency.as_secs_f64() * 1000.0)
            })
            .await)
    }

    /// Count as activity, so that the idle timeout starts anew. Answers with the number of the activity.
    #[napi(ts_return_type = "Promise<Outcome<number>>")]
    pub async fn touch(&self, token: &CancelToken) -> napi::Result<Outcome<f64>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let touched = cancel.guard(within_agent_time(value.sandbox.touch())).await?;
                #[allow(clippy::cast_precision_loss)] // a count of touches
                Ok(touched.activity_seq as f64)
            })
            .await)
    }

    /// The sandbox as the backend's catalogue has it now.
    #[napi(ts_return_type = "Promise<Outcome<SandboxInfo>>")]
    pub async fn info(&self, token: &CancelToken) -> napi::Result<Outcome<SandboxInfo>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move { Ok(SandboxInfo::of(&cancel.guard(value.handle()).await?)) })
            .await)
    }

    /// Let the VM live on when this handle is given back, without an owner.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn detach(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                match cancel.guard(value.handle()).await {
                    // Another's is not this handle's to give away.
                    Ok(handle) if value.owns(&handle) => cancel.guard(own(&handle, &Labels::new())).await?,
                    // Or there is nothing left that could live on.
                    Ok(_) | Err(Stop::Failed(Failure::SandboxNotFound { .. } | Failure::SandboxReplaced { .. })) => {}
                    Err(stop) => return Err(stop),
                }
                value.detached.store(true, Ordering::Relaxed);
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
        let end = async {
            let ended = value.end(&ending, &options).await;
            drop(value);
            ended
        };
        Ok(Box::pin(engine.finish(end)).await.map_err(Stop::Failed).into())
    }
}

impl SandboxValue {
    fn new(sandbox: EngineSandbox, engine: &Arc<EngineState>, detached: bool) -> Self {
        let live = engine.count(Kind::Sandbox);
        Self { sandbox, guest: Guest::default(), live, detached: AtomicBool::new(detached) }
    }

    /// Whether this engine is the owner.
    fn owns(&self, handle: &SandboxHandle) -> bool {
        cloud::labels_of(handle).is_some_and(|labels| self.live.engine().session.owns(&labels))
    }

    /// This sandbox and no other of its name, looked up now.
    async fn handle(&self) -> MicrosandboxResult<SandboxHandle> {
        current(&self.sandbox, self.sandbox.backend()).await
    }

    fn is_cloud(&self) -> bool {
        self.sandbox.cloud().is_some()
    }

    async fn stop(&self, options: &StopOptions) -> Result<(), Failure> {
        if self.is_cloud() {
            return cloud::stop(&self.handle().await?, options).await;
        }
        stop(options, |grace| self.sandbox.stop_with_timeout(grace), || self.sandbox.kill()).await
    }

    async fn end(&self, ending: &Ending, options: &StopOptions) -> Result<(), Failure> {
        let ended = match ending {
            Ending::Detach => Ok(()),
            Ending::Stop => self.stop(options).await,
            Ending::Destroy => match self.stop(options).await {
                Ok(()) if self.is_cloud() => match self.handle().await {
                    Ok(handle) => cloud::remove(&handle).await,
                    Err(error) => Err(error.into()),
                },
                Ok(()) => remove(&self.sandbox).await,
                failed => failed,
            },
        };
        match ended {
            // It ended by itself, or by somebody else.
            Err(Failure::SandboxNotFound { .. } | Failure::SandboxReplaced { .. }) => Ok(()),
            other => other,
        }
    }
}

/// Boot a sandbox, or leave no trace of the attempt.
pub(crate) async fn create(
    value: Arc<BackendValue>,
    options: &SandboxOptions,
    watch: &Watch,
    cancel: Cancel,
) -> Result<Sandbox, Stop> {
    let backend = &value.backend;
    if let Some(local) = backend.as_local() {
        check_host(options, local)?;
    }
    check_runtime(backend)?;
    // The control plane gets them, and may say them in its answer.
    let sent = if value.is_cloud() { secrets_of(options) } else { Vec::new() };
    let _hidden: Vec<_> = sent.into_iter().map(cloud::hide).collect();
    let attempt = Attempt::new(backend, &options.name, &value.engine().session, options.replace.is_some())?;
    let build = async { build(options, &attempt.id)?.labels(value.owner(options.on_close)).build().await };
    let mut config = cancel.guard(Box::pin(with_backend(backend.clone(), build))).await?;
    pull(&value, &mut config, options, watch, &cancel).await?;
    if config.replace_existing {
        cancel.guard(flatten_replaced(&value, &options.name, config.replace_with_timeout)).await?;
    }
    let boot = async {
        if options.on_close == Ending::Detach {
            EngineSandbox::create_detached(config).await
        } else {
            EngineSandbox::create(config).await
        }
    };
    // It has been dropped before anything is undone: this is what kills a VM that is half started.
    let boot = Box::pin(with_backend(backend.clone(), boot));
    let stop = match cancel.guard_to(attempt.until_directory(), boot).await {
        Ok(sandbox) => return Ok(Sandbox::adopt(value.engine(), sandbox)),
        Err(Stop::Failed(failure)) => {
            let failure = failure.of_image(options.image.text()).of_sandbox(&options.name);
            Stop::Failed(with_logs(failure, backend, &options.name))
        }
        Err(Stop::Cancelled) => Stop::Cancelled,
    };
    Err(attempt.undo(stop).await)
}

/// What of a sandbox's options is nobody's business but the control plane's.
fn secrets_of(options: &SandboxOptions) -> Vec<&str> {
    let password = options.registry.iter().filter_map(|registry| registry.auth.as_ref()).map(|auth| &*auth.password);
    let values = options.secrets.iter().flatten().filter_map(|secret| secret.value.as_deref());
    password.chain(values).collect()
}

/// Pull the image of a sandbox that is about to be created, unless it is there, or the name is not free: then the engine
/// refuses the sandbox before it would pull.
async fn pull(
    value: &BackendValue,
    config: &mut SandboxConfig,
    options: &SandboxOptions,
    watch: &Watch,
    cancel: &Cancel,
) -> Result<(), Stop> {
    let Some(local) = value.backend.as_local() else { return Ok(()) };
    let defaults = &local.config().sandbox_defaults.oci;
    let registry = options.registry.as_ref().map(RegistryOptions::overrides).unwrap_or_default();
    let Some(request) = PullRequest::of(config, defaults, registry) else { return Ok(()) };
    let Some(pull) = Pull::needed(&value.backend, request, watch)? else { return Ok(()) };
    if !config.replace_existing && value.lookup(&config.spec.name).await.is_ok() {
        return Ok(());
    }
    pull.run(watch, cancel).await?;
    // The registry was asked: create need not ask again.
    config.spec.pull_policy = PullPolicy::IfMissing;
    Ok(())
}

/// Start a sandbox that has stopped.
pub(crate) async fn start(
    value: Arc<BackendValue>,
    name: String,
    on_close: Ending,
    cancel: Cancel,
) -> Result<Sandbox, Stop> {
    check_runtime(&value.backend)?;
    let handle = cancel.guard(value.look_up(&name)).await?;
    start_handle(&value, &handle, on_close, &cancel).await
}

async fn start_handle(
    value: &BackendValue,
    handle: &SandboxHandle,
    on_close: Ending,
    cancel: &Cancel,
) -> Result<Sandbox, Stop> {
    let owner = value.owner(on_close);
    cancel.guard(own_stopped(value, handle, |_| Some(&owner))).await?;
    let none = Labels::new();
    match boot(&value.backend, handle, on_close == Ending::Detach, cancel).await {
        Ok(sandbox) => {
            if value.is_cloud() {
                return Ok(Sandbox::adopt(value.engine(), sandbox));
            }
            // Another start may have written its owner since, and lost. This one has won.
            let won = async {
                let now = current_for_control(&sandbox).await?;
                own(&now, &owner).await
            };
            match cancel.guard(won).await {
                Ok(()) => Ok(Sandbox::adopt(value.engine(), sandbox)),
                Err(stop) => {
                    drop(sandbox);
                    until_ended(&value.backend, handle.name()).await;
                    Err(stop)
                }
            }
        }
        Err(stop) => {
            // It was there before: a start that failed must not make it this engine's to destroy.
            let session = &value.engine().session;
            let give_up = own_stopped(value, handle, |labels| session.owns(labels).then_some(&none));
            let _ = tokio::time::timeout(SETTLE, give_up).await;
            Err(stop)
        }
    }
}

/// Give a sandbox an owner while it cannot be started or removed by anybody else, if it is still there, and stopped.
async fn own_stopped<'a>(
    value: &BackendValue,
    handle: &SandboxHandle,
    owner: impl FnOnce(&Labels) -> Option<&'a Labels>,
) -> Result<(), Failure> {
    let Some(local) = value.backend.as_local() else { return Ok(()) };
    let _lock = within(handle.name(), hold_name(local, handle.name())).await?;
    let now = value.lookup(handle.name()).await?;
    if now.id() != handle.id() || !can_start(now.status_snapshot()) {
        return Ok(());
    }
    let labels = now.config()?.spec.labels;
    match owner(&labels) {
        Some(owner) => Ok(own(&now, owner).await?),
        None => Ok(()),
    }
}

/// The lock under which a sandbox of a name is made, started and removed.
async fn hold_name(local: &LocalBackend, name: &str) -> MicrosandboxResult<File> {
    let run = local.config().run_dir();
    loop {
        match try_acquire_transition_guard(&run, name)? {
            Some(lock) => return Ok(lock),
            None => tokio::time::sleep(POLL).await,
        }
    }
}

/// Connect to a sandbox that runs, whoever started it.
pub(crate) async fn connect(
    value: Arc<BackendValue>,
    name: String,
    timeout_ms: f64,
    cancel: Cancel,
) -> Result<Sandbox, Stop> {
    let timeout = milliseconds(timeout_ms);
    let handle = cancel.guard(value.look_up(&name)).await?;
    if handle.status_snapshot() == SandboxStatus::Paused {
        return Err(Failure::sandbox_paused(&name).into());
    }
    let sandbox = cancel.guard(handle.connect_with_timeout(timeout)).await?;
    let sandbox = Sandbox { connected: true, ..Sandbox::adopt(value.engine(), sandbox) };
    if value.is_cloud() {
        // The engine would find out with the first program whether its agent answers.
        let connected = sandbox.slot.get()?;
        let answers = tokio::time::timeout(timeout, connected.guest.connection(&connected.sandbox));
        let answered = cancel.guard(async { Ok::<_, Failure>(answers.await) }).await?;
        answered.map_err(|_| Failure::agent_timeout(timeout))??;
    }
    Ok(sandbox)
}

/// How often a sandbox may come and go between two looks before that is told.
const TURNS: usize = 5;

/// Connect to a sandbox that runs, start it when it has stopped, make it when there is none. Others may do the same at
/// the same time: then all of them get the one that was made first.
pub(crate) async fn connect_or_create(
    value: Arc<BackendValue>,
    options: &SandboxOptions,
    timeout_ms: f64,
    watch: &Watch,
    cancel: Cancel,
) -> Result<Sandbox, Stop> {
    let deadline = tokio::time::Instant::now() + BOOT;
    let mut turn = 0;
    loop {
        turn += 1;
        let tried = match cancel.guard(value.lookup(&options.name)).await {
            Err(Stop::Failed(Failure::SandboxNotFound { .. })) => {
                Box::pin(create(value.clone(), options, watch, cancel.clone())).await
            }
            Err(stop) => Err(stop),
            Ok(handle) if handle.status_snapshot() == SandboxStatus::Starting => {
                // Somebody else starts it: look again.
                if tokio::time::Instant::now() < deadline {
                    turn -= 1;
                    cancel.guard(pause()).await?;
                    continue;
                }
                Err(Failure::sandbox_busy(&options.name, BOOT).into())
            }
            Ok(handle) if can_start(handle.status_snapshot()) => {
                check_runtime(&value.backend)?;
                start_handle(&value, &handle, options.on_close, &cancel).await
            }
            Ok(_) => connect(value.clone(), options.name.clone(), timeout_ms, cancel.clone()).await,
        };
        match tried {
            // Made, started, removed or stopped by another between the look and the deed.
            Err(Stop::Failed(
                Failure::SandboxAlreadyExists { .. }
                | Failure::SandboxStillRunning { .. }
                | Failure::SandboxNotFound { .. }
                | Failure::SandboxReplaced { .. },
            )) if turn < TURNS => cancel.guard(pause()).await?,
            other => return other,
        }
    }
}

async fn pause() -> Result<(), Failure> {
    tokio::time::sleep(POLL * 5).await;
    Ok(())
}

pub(crate) fn can_start(status: SandboxStatus) -> bool {
    matches!(status, SandboxStatus::Created | SandboxStatus::Stopped | SandboxStatus::Crashed)
}

/// Boot this sandbox and no other of its name. A boot that is dropped is waited for: its VM has gone by then.
async fn boot(
    backend: &Arc<dyn EngineBackend>,
    handle: &SandboxHandle,
    detached: bool,
    cancel: &Cancel,
) -> Result<EngineSandbox, Stop> {
    let boot = async { if detached { handle.start_detached().await } else { handle.start().await } };
    let boot = Box::pin(with_backend(backend.clone(), boot));
    let is_cloud = handle.cloud().is_some();
    let place = async {
        if is_cloud {
            cloud::until_started(handle).await;
        }
    };
    match cancel.guard_to(place, boot).await {
        Err(Stop::Cancelled) => {
            if is_cloud {
                cloud::take_back_start(handle).await;
            } else {
                until_ended(backend, handle.name()).await;
            }
            Err(Stop::Cancelled)
        }
        Err(Stop::Failed(failure)) => Err(Stop::Failed(with_logs(failure, backend, handle.name()))),
        booted => booted,
    }
}

/// A VM that went without a reason, told by its logs: they go with the sandbox.
fn with_logs(mut failure: Failure, backend: &Arc<dyn EngineBackend>, name: &str) -> Failure {
    if let (Failure::BootStart { message, stage, .. }, Some(local)) = (&mut failure, backend.as_local())
        && stage == "other"
    {
        message.push_str(&logs::ends(&local.sandboxes_dir().join(name)));
    }
    failure
}

impl StopResult {
    pub(crate) fn removed(name: &str) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            name: name.to_owned(),
            status: "Stopped".to_owned(),
            exit_code: None,
            signal: None,
            observed_at: (now.as_secs_f64() * 1000.0).floor(),
            source: Some("removed".to_owned()),
        }
    }
}

/// Wait until a sandbox has ended. The engine looks ten times a second.
pub(crate) async fn wait(handle: &SandboxHandle, cancel: &Cancel) -> Result<StopResult, Stop> {
    if handle.cloud().is_some() {
        let status = cancel.guard(cloud::ended(handle)).await?;
        let source = Some("the control plane".to_owned());
        return Ok(StopResult { status: format!("{status:?}"), source, ..StopResult::removed(handle.name()) });
    }
    let stopped = cancel.guard(handle.wait_until_stopped()).await?;
    Ok(StopResult {
        name: stopped.name,
        source: stopped.source,
        status: format!("{:?}", stopped.status),
        exit_code: stopped.exit_code,
        signal: stopped.signal,
        observed_at: milliseconds_of(stopped.observed_at.timestamp_millis()),
    })
}

/// Since 1970.
#[allow(clippy::cast_precision_loss)] // exact for 285,000 years
pub(crate) fn milliseconds_of(milliseconds: i64) -> f64 {
    milliseconds as f64
}

#[cfg(unix)]
fn exit_signal(exit: std::process::ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&exit)
}

/// A question to the guest's agent: one that is not answered, as by a paused guest, is a failure.
async fn within_agent_time<T>(ask: impl Future<Output = MicrosandboxResult<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(AGENT_TIME, ask).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::agent_timeout(AGENT_TIME)),
    }
}

/// What waits for a sandbox's name, within a time: the engine itself would wait for ever.
pub(crate) async fn within<T>(name: &str, ask: impl Future<Output = MicrosandboxResult<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(SETTLE, ask).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Failure::sandbox_busy(name, SETTLE)),
    }
}

pub(crate) fn milliseconds(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1000.0).unwrap_or(Duration::ZERO)
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
    let grace = milliseconds(options.grace_ms);
    if !grace.is_zero() || !options.then_kill {
        let Err(error) = ask(grace).await else { return Ok(()) };
        let stopped = matches!(error, MicrosandboxError::SandboxNotRunning(_));
        match Failure::from(error) {
            // Paused, unresponsive, or gone: force settles all three. To the engine, what is paused does not run.
            Failure::SandboxPaused { .. } if options.then_kill => {}
            paused @ Failure::SandboxPaused { .. } => return Err(paused),
            _ if stopped => return Ok(()),
            failure if !options.then_kill => return Err(failure),
            _ => {}
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

/// Where the engine keeps the directories of a sandbox's own that its guest writes to (`lib/runtime/owned_volumes.rs`).
const OWNED: &str = "owned-volumes";

/// Leave no directory in a sandbox so deep below others that the engine's removal would not come to its end: that calls
/// itself for each, with an open file, and ends the process when its stack is full. It blocks. What cannot be done here,
/// the removal tells.
pub(crate) fn flatten(sandbox: &Path) {
    if let Ok(root) = Root::open(&sandbox.join(OWNED)) {
        let _ = root.flatten(&|| false);
    }
}

/// The same for a sandbox by its name that is about to be removed. One that runs is refused, as the removal would.
pub(crate) async fn flatten_stopped(backend: &Arc<dyn EngineBackend>, name: &str) -> MicrosandboxResult<()> {
    let Some(local) = backend.as_local() else { return Ok(()) };
    // A name with a separator is refused by the engine; it must not reach a path of ours.
    microsandbox::sandbox::validate_sandbox_name(name)?;
    let directory = local.sandboxes_dir().join(name);
    if !directory.join(OWNED).exists() {
        return Ok(());
    }
    // Without the lock first: a look settles what a VM that has gone has left, and takes it for that.
    refuse_running(backend, name).await?;
    let lock = hold_name(local, name).await?;
    refuse_running(backend, name).await?;
    // With the lock: dropped, it goes on, and nobody starts what it is at.
    blocking(move || {
        flatten(&directory);
        drop(lock);
    })
    .await;
    Ok(())
}

async fn refuse_running(backend: &Arc<dyn EngineBackend>, name: &str) -> MicrosandboxResult<()> {
    let status = match backend.sandboxes().get(backend.clone(), name).await {
        Ok(now) => now.status_snapshot(),
        Err(MicrosandboxError::SandboxNotFound(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    if can_start(status) {
        return Ok(());
    }
    Err(MicrosandboxError::SandboxStillRunning(format!("cannot remove sandbox {name:?}: status is {status:?}")))
}

/// The engine removes what a create replaces: what has directories of its own is stopped before that, as it would be, and
/// made ready.
async fn flatten_replaced(value: &BackendValue, name: &str, grace: Duration) -> Result<(), Failure> {
    match flatten_stopped(&value.backend, name).await {
        Err(MicrosandboxError::SandboxStillRunning(_)) => {}
        done => return Ok(done?),
    }
    let handle = match value.backend.sandboxes().get(value.backend.clone(), name).await {
        Err(MicrosandboxError::SandboxNotFound(_)) => return Ok(()),
        found => found?,
    };
    let options = StopOptions { grace_ms: grace.as_secs_f64() * 1000.0, then_kill: true };
    stop(&options, |grace| handle.stop_with_timeout(grace), || handle.kill()).await?;
    within(name, settled(|| flatten_stopped(&value.backend, name))).await
}

/// The runtime lets go of a sandbox a moment after its VM is seen to be gone.
async fn settled<F>(remove: impl Fn() -> F) -> MicrosandboxResult<()>
where
    F: Future<Output = MicrosandboxResult<()>>,
{
    loop {
        match remove().await {
            Err(MicrosandboxError::SandboxStillRunning(_)) => tokio::time::sleep(POLL).await,
            other => return other,
        }
    }
}

/// Remove a sandbox that has stopped.
async fn remove(sandbox: &EngineSandbox) -> Result<(), Failure> {
    let once = || async {
        flatten_stopped(sandbox.backend(), sandbox.name()).await?;
        sandbox.remove_persisted().await
    };
    within(sandbox.name(), settled(once)).await
}

/// The same by a handle, once.
pub(crate) async fn remove_stopped(backend: &Arc<dyn EngineBackend>, handle: &SandboxHandle) -> MicrosandboxResult<()> {
    flatten_stopped(backend, handle.name()).await?;
    handle.remove().await
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
        let paused = || Err(MicrosandboxError::SandboxNotRunning("cannot gracefully stop paused sandbox".into()));
        assert_eq!(done(1.0, true, Ok(())), (vec!["asked"], true));
        assert_eq!(done(1.0, true, failed()), (vec!["asked", "killed"], true));
        assert_eq!(done(1.0, false, failed()), (vec!["asked"], false));
        assert_eq!(done(1.0, false, gone()), (vec!["asked"], true));
        assert_eq!(done(1.0, true, paused()), (vec!["asked", "killed"], true));
        assert_eq!(done(1.0, false, paused()), (vec!["asked"], false));
        for nothing in [0.0, -1.0, f64::NAN] {
            assert_eq!(done(nothing, true, Ok(())), (vec!["killed"], true));
            assert_eq!(done(nothing, false, failed()), (vec!["asked"], false));
        }
    }
}
