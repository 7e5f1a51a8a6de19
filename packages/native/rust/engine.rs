//! The engine as one object: what runs in it, what is alive in it, and how it ends.

use std::cell::RefCell;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use microsandbox::config::{set_sdk_libkrunfw_path, set_sdk_msb_path};
use napi::Env;
use napi_derive::napi;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{Backend, LocalOptions};
use crate::cancel::{Cancel, CancelToken};
use crate::cloud::CloudOptions;
use crate::failure::Failure;
use crate::outcome::{Outcome, Stop};
use crate::owner::Session;

/// The runtime pair to launch: the `msb` executable and the guest kernel that belongs to it.
#[napi(object, object_to_js = false)]
pub struct RuntimePair {
    pub msb: String,
    pub libkrunfw: String,
}

/// What is alive in an engine. All zero is the only good answer at its end.
#[napi(object, object_from_js = false)]
#[derive(Clone, Copy)]
pub struct LiveHandles {
    pub backends: u32,
    pub sandboxes: u32,
    pub execs: u32,
    pub logs: u32,
    pub files: u32,
    pub tunnels: u32,
    pub ssh_servers: u32,
    pub ssh_clients: u32,
    pub ssh_programs: u32,
    pub sftps: u32,
    pub volumes: u32,
    pub agents: u32,
    pub agent_streams: u32,
    pub calls: u32,
}

/// The kinds of handle that an engine counts.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Backend,
    Sandbox,
    Exec,
    Logs,
    File,
    Tunnel,
    SshServer,
    SshClient,
    SshProgram,
    Sftp,
    Volume,
    Agent,
    AgentStream,
}

#[derive(Default)]
struct Counters {
    backends: AtomicU32,
    sandboxes: AtomicU32,
    execs: AtomicU32,
    logs: AtomicU32,
    files: AtomicU32,
    tunnels: AtomicU32,
    ssh_servers: AtomicU32,
    ssh_clients: AtomicU32,
    ssh_programs: AtomicU32,
    sftps: AtomicU32,
    volumes: AtomicU32,
    agents: AtomicU32,
    agent_streams: AtomicU32,
}

impl Counters {
    fn of(&self, kind: Kind) -> &AtomicU32 {
        match kind {
            Kind::Backend => &self.backends,
            Kind::Sandbox => &self.sandboxes,
            Kind::Exec => &self.execs,
            Kind::Logs => &self.logs,
            Kind::File => &self.files,
            Kind::Tunnel => &self.tunnels,
            Kind::SshServer => &self.ssh_servers,
            Kind::SshClient => &self.ssh_clients,
            Kind::SshProgram => &self.ssh_programs,
            Kind::Sftp => &self.sftps,
            Kind::Volume => &self.volumes,
            Kind::Agent => &self.agents,
            Kind::AgentStream => &self.agent_streams,
        }
    }
}

/// State that every handle of one engine shares.
pub(crate) struct EngineState {
    live: Counters,
    calls: TaskTracker,
    closing: CancellationToken,
    /// As which this engine owns sandboxes.
    pub(crate) session: Session,
}

/// Keeps a handle counted for as long as it lives.
pub(crate) struct Live {
    engine: Arc<EngineState>,
    kind: Kind,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.engine.live.of(self.kind).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Live {
    pub(crate) fn engine(&self) -> &Arc<EngineState> {
        &self.engine
    }
}

impl EngineState {
    pub(crate) fn count(self: &Arc<Self>, kind: Kind) -> Live {
        self.live.of(kind).fetch_add(1, Ordering::Relaxed);
        Live { engine: self.clone(), kind }
    }

    /// Run one call of this engine: refused when the engine is closing, counted while it runs.
    ///
    /// `work` is handed the cancel to watch, so that each call decides what it must undo first.
    pub(crate) async fn run<T, F>(&self, token: CancellationToken, work: impl FnOnce(Cancel) -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, Stop>>,
    {
        // Counted before the check: `close` either sees this call or this call sees the close.
        let counted = self.calls.token();
        if self.closing.is_cancelled() {
            return Err(Stop::Failed(Failure::engine_closed())).into();
        }
        let result = work(Cancel { call: token, engine: self.closing.clone() }).await;
        drop(counted);
        result.into()
    }

    /// The calls that give handles back: never refused and never cancelled, so that they can end
    /// what is alive while the engine itself is closing, which waits for them.
    pub(crate) async fn finish<T>(&self, work: impl Future<Output = T>) -> T {
        let counted = self.calls.token();
        let value = work.await;
        drop(counted);
        value
    }

    fn live(&self) -> LiveHandles {
        LiveHandles {
            backends: self.live.backends.load(Ordering::Relaxed),
            sandboxes: self.live.sandboxes.load(Ordering::Relaxed),
            execs: self.live.execs.load(Ordering::Relaxed),
            logs: self.live.logs.load(Ordering::Relaxed),
            files: self.live.files.load(Ordering::Relaxed),
            tunnels: self.live.tunnels.load(Ordering::Relaxed),
            ssh_servers: self.live.ssh_servers.load(Ordering::Relaxed),
            ssh_clients: self.live.ssh_clients.load(Ordering::Relaxed),
            ssh_programs: self.live.ssh_programs.load(Ordering::Relaxed),
            sftps: self.live.sftps.load(Ordering::Relaxed),
            volumes: self.live.volumes.load(Ordering::Relaxed),
            agents: self.live.agents.load(Ordering::Relaxed),
            agent_streams: self.live.agent_streams.load(Ordering::Relaxed),
            calls: u32::try_from(self.calls.len()).unwrap_or(u32::MAX),
        }
    }
}

thread_local! {
    /// The engines of this thread's Node environment; `None` until it has one.
    static ENGINES: RefCell<Option<Vec<Weak<EngineState>>>> = const { RefCell::new(None) };
}

/// A worker that is terminated closes no scope: end its calls with its environment, or they would go on for as long as
/// the process does, on a runtime that all environments share.
fn close_with_environment(env: Env, state: &Arc<EngineState>) -> napi::Result<()> {
    ENGINES.with_borrow_mut(|engines| {
        if engines.is_none() {
            env.add_env_cleanup_hook((), |()| {
                let engines = ENGINES.with_borrow_mut(Option::take).unwrap_or_default();
                for state in engines.iter().filter_map(Weak::upgrade) {
                    state.closing.cancel();
                    state.session.close();
                }
            })?;
        }
        let engines = engines.get_or_insert_default();
        engines.retain(|engine| engine.strong_count() > 0);
        engines.push(Arc::downgrade(state));
        Ok(())
    })
}

/// The pair that this process launches. The crate keeps it in a `OnceLock`, so a second, other pair
/// would be ignored in silence; here it is refused.
static PAIR: Mutex<Option<(PathBuf, PathBuf)>> = Mutex::new(None);

/// Hand the runtime pair to the engine by path. `MSB_PATH` still wins, as everywhere.
///
/// Answers false when this process already launches another pair.
#[napi(catch_unwind)]
#[must_use]
pub fn use_runtime(pair: RuntimePair) -> bool {
    let wanted = (PathBuf::from(pair.msb), PathBuf::from(pair.libkrunfw));
    let mut current = PAIR.lock();
    if let Some(current) = current.as_ref() {
        return *current == wanted;
    }
    set_sdk_msb_path(wanted.0.clone());
    set_sdk_libkrunfw_path(wanted.1.clone());
    *current = Some(wanted);
    true
}

/// One engine: made when the `Native` service is built, closed when its scope closes.
#[napi]
pub struct Engine {
    pub(crate) state: Arc<EngineState>,
}

#[napi]
impl Engine {
    #[napi(constructor)]
    pub fn new(env: Env) -> napi::Result<Self> {
        let state = Arc::new(EngineState {
            live: Counters::default(),
            calls: TaskTracker::new(),
            closing: CancellationToken::new(),
            session: Session::open(),
        });
        close_with_environment(env, &state)?;
        Ok(Self { state })
    }

    /// Open a backend on this machine.
    #[napi(ts_return_type = "Promise<Outcome<Backend>>")]
    pub async fn open_local(&self, options: LocalOptions, token: &CancelToken) -> napi::Result<Outcome<Backend>> {
        let state = self.state.clone();
        Ok(self.state.run(token.token(), |cancel| Backend::open_local(state, options, cancel)).await)
    }

    /// Open a backend on a control plane. Nothing is sent to it yet.
    #[napi(ts_return_type = "Promise<Outcome<Backend>>")]
    pub async fn open_cloud(&self, options: CloudOptions, token: &CancelToken) -> napi::Result<Outcome<Backend>> {
        let state = &self.state;
        Ok(state.run(token.token(), |_| async move { Ok(Backend::open_cloud(state, &options)?) }).await)
    }

    /// What is alive now.
    #[napi(catch_unwind)]
    #[must_use]
    pub fn live(&self) -> LiveHandles {
        self.state.live()
    }

    /// Refuse new calls, cancel the ones in flight, wait until the last has ended, and say what is
    /// still alive. Idempotent.
    #[napi]
    pub async fn close(&self) -> napi::Result<LiveHandles> {
        self.state.closing.cancel();
        self.state.calls.close();
        self.state.calls.wait().await;
        self.state.session.close();
        Ok(self.state.live())
    }
}
