//! Frames of the agent's protocol as JavaScript has them: by a sandbox's name, or by the path of a socket.

use std::future::Future;
use std::io::ErrorKind::{ConnectionRefused, NotFound};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use microsandbox::agent::AgentClient as EngineClient;
use microsandbox::backend::with_backend;
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use tokio::net::UnixStream;

use crate::backend::{Backend, BackendValue};
use crate::cancel::CancelToken;
use crate::engine::{Engine, EngineState, Kind, Live};
use crate::failure::Failure;
use crate::image::local_only;
use crate::link::{Connection, Frame, Greeting, Outgoing, Reason, Stream};
use crate::outcome::Outcome;
use crate::slot::{InEngine, Slot};

/// As good as no limit, where the engine wants one.
const LONG: Duration = Duration::from_hours(365 * 24);

/// By how much the engine's limit is longer than the one that counts.
const LATER: Duration = Duration::from_secs(1);

/// One frame from the guest.
#[napi(object, object_from_js = false)]
pub struct AgentFrame {
    pub id: u32,
    pub flags: u32,
    /// The name of its message; none of a bulk record.
    pub kind: Option<String>,
    /// All that follows the header: the envelope in CBOR, or the bulk record.
    pub body: Buffer,
}

/// What a guest's agent says of itself first.
#[napi(object, object_from_js = false)]
pub struct AgentReady {
    /// Of the protocol.
    pub generation: u32,
    /// Empty when the agent does not say.
    pub agent_version: String,
    pub boot_time_ns: u64,
    pub init_time_ns: u64,
    pub ready_time_ns: u64,
    /// The whole envelope.
    pub body: Buffer,
}

impl AgentReady {
    fn of(greeting: &Greeting) -> Self {
        let ready = &greeting.ready;
        Self {
            generation: greeting.generation.into(),
            agent_version: ready.agent_version.clone(),
            boot_time_ns: ready.boot_time_ns,
            init_time_ns: ready.init_time_ns,
            ready_time_ns: ready.ready_time_ns,
            body: Buffer::from(greeting.body.clone()),
        }
    }
}

impl AgentFrame {
    fn of(frame: Frame) -> Self {
        Self {
            id: frame.id,
            flags: frame.flags.into(),
            kind: frame.kind.map(|kind| kind.as_str().to_owned()),
            body: Buffer::from(frame.body),
        }
    }
}

/// A connection to a guest's agent.
#[napi]
pub struct AgentClient {
    slot: Slot<ClientValue>,
}

struct ClientValue {
    connection: Connection,
    live: Live,
}

impl InEngine for ClientValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

/// A stream of frames from a guest's agent.
#[napi]
pub struct AgentStream {
    slot: Slot<StreamValue>,
    id: u32,
}

struct StreamValue {
    stream: Stream,
    live: Live,
}

impl InEngine for StreamValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

#[napi]
impl Backend {
    /// Connect to the agent of a sandbox that runs.
    #[napi(ts_return_type = "Promise<Outcome<AgentClient>>")]
    pub async fn connect_agent(
        &self,
        name: String,
        timeout_ms: f64,
        token: &CancelToken,
    ) -> napi::Result<Outcome<AgentClient>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let live = value.live.engine().count(Kind::Agent);
                let connection = Box::pin(cancel.guard(by_name(&value, &name, limit_of(timeout_ms)))).await?;
                Ok(AgentClient::new(connection, live))
            })
            .await)
    }

    /// Where the agent of a sandbox listens, whether it runs or not.
    #[napi(ts_return_type = "Promise<Outcome<string>>")]
    pub async fn agent_socket(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<String>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let path = Box::pin(cancel.guard(socket_of(&value, &name))).await?;
                Ok(path.display().to_string())
            })
            .await)
    }
}

#[napi]
impl Engine {
    /// Connect to whatever agent listens at a path.
    #[napi(ts_return_type = "Promise<Outcome<AgentClient>>")]
    pub async fn connect_agent(
        &self,
        path: String,
        timeout_ms: f64,
        token: &CancelToken,
    ) -> napi::Result<Outcome<AgentClient>> {
        let state = self.state.clone();
        Ok(self
            .state
            .run(token.token(), |cancel| async move {
                let live = state.count(Kind::Agent);
                let connected = connect(Path::new(&path), limit_of(timeout_ms));
                let connection = Box::pin(cancel.guard(connected)).await?;
                Ok(AgentClient::new(connection, live))
            })
            .await)
    }
}

/// None is no limit.
fn limit_of(timeout_ms: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(timeout_ms / 1000.0).ok()
}

async fn within<T, E>(limit: Option<Duration>, work: impl Future<Output = Result<T, E>>) -> Result<T, Failure>
where
    Failure: From<E>,
{
    match limit {
        None => Ok(work.await?),
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(Reason::Silent(limit).into()),
        },
    }
}

/// Why nobody could be connected to.
enum Unconnected {
    /// Nobody listens there.
    Nobody(String),
    Failed(Failure),
}

impl From<Unconnected> for Failure {
    fn from(unconnected: Unconnected) -> Self {
        match unconnected {
            Unconnected::Nobody(message) => Self::AgentClient { message, kind: "Connect".into() },
            Unconnected::Failed(failure) => failure,
        }
    }
}

async fn connect(path: &Path, limit: Option<Duration>) -> Result<Connection, Unconnected> {
    let greeted = async {
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error) => {
                let message = format!("connect to {}: {error}", path.display());
                return Ok(Err(if matches!(error.kind(), NotFound | ConnectionRefused) {
                    Unconnected::Nobody(message)
                } else {
                    Unconnected::Failed(Failure::AgentClient { message, kind: "Connect".into() })
                }));
            }
        };
        let (reader, writer) = stream.into_split();
        Ok::<_, Reason>(Ok(Connection::over(reader, writer).await?))
    };
    within(limit, greeted).await.map_err(Unconnected::Failed)?
}

async fn by_name(value: &BackendValue, name: &str, limit: Option<Duration>) -> Result<Connection, Failure> {
    // The better reason when there is none of this name.
    value.lookup(name).await?;
    if value.backend.as_local().is_none() {
        // The engine has no call without a limit of its own.
        let dialled = value.backend.dial_agent(name, limit.map_or(LONG, |limit| limit.saturating_add(LATER)));
        let client = within(limit, dialled).await?;
        return Connection::over_engine(client).map_err(|error| microsandbox::MicrosandboxError::from(error).into());
    }
    match connect(&socket_of(value, name).await?, limit).await {
        Ok(connection) => Ok(connection),
        Err(Unconnected::Nobody(why)) => {
            Err(Failure::SandboxNotRunning { message: format!("sandbox {name:?} does not run: {why}") })
        }
        Err(Unconnected::Failed(failure)) => Err(failure),
    }
}

async fn socket_of(value: &BackendValue, name: &str) -> Result<PathBuf, Failure> {
    if value.backend.as_local().is_none() {
        return Err(local_only("Agent.socketPath"));
    }
    let name = name.to_owned();
    Ok(Box::pin(with_backend(value.backend.clone(), async move { EngineClient::socket_path(&name) })).await?)
}

impl AgentClient {
    fn new(connection: Connection, live: Live) -> Self {
        Self { slot: Slot::new("agent", ClientValue { connection, live }) }
    }
}

#[napi]
impl AgentClient {
    /// What the agent said of itself when it was connected to; nothing after the handle was closed.
    #[napi(catch_unwind)]
    #[must_use]
    pub fn ready(&self) -> Option<AgentReady> {
        self.slot.get().ok().map(|value| AgentReady::of(&value.connection.greeting))
    }

    /// Ask for one frame.
    #[napi(ts_return_type = "Promise<Outcome<AgentFrame>>")]
    pub async fn request(
        &self,
        flags: Option<u32>,
        body: Buffer,
        timeout_ms: f64,
        token: &CancelToken,
    ) -> napi::Result<Outcome<AgentFrame>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let what = Outgoing::new(flags, body.to_vec())?;
                let asked = value.connection.request(what, limit_of(timeout_ms));
                Ok(AgentFrame::of(cancel.guard(asked).await?))
            })
            .await)
    }

    /// Ask for a stream of frames.
    #[napi(ts_return_type = "Promise<Outcome<AgentStream>>")]
    pub async fn stream(
        &self,
        flags: Option<u32>,
        body: Buffer,
        timeout_ms: f64,
        token: &CancelToken,
    ) -> napi::Result<Outcome<AgentStream>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let what = Outgoing::new(flags, body.to_vec())?;
                let live = value.live.engine().count(Kind::AgentStream);
                let stream = cancel.guard(value.connection.open(what, limit_of(timeout_ms))).await?;
                Ok(AgentStream { id: stream.id, slot: Slot::new("agent stream", StreamValue { stream, live }) })
            })
            .await)
    }

    /// Send one more frame on a stream that is open; answers when it is written.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn send(
        &self,
        id: u32,
        flags: Option<u32>,
        body: Buffer,
        timeout_ms: f64,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let what = Outgoing::new(flags, body.to_vec())?;
                cancel.guard(value.connection.send(id, what, limit_of(timeout_ms))).await
            })
            .await)
    }

    /// Close the connection, with all that is open on it, and give the handle back.
    #[napi]
    pub async fn close(&self) -> napi::Result<()> {
        let Some(value) = self.slot.take() else { return Ok(()) };
        let engine = value.live.engine().clone();
        engine
            .finish(async {
                value.connection.close().await;
                drop(value);
            })
            .await;
        Ok(())
    }
}

#[napi]
impl AgentStream {
    /// Of its frames, and of those that are sent on it.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The frames that are there, as soon as there are some; none after the last one.
    #[napi(ts_return_type = "Promise<Outcome<AgentFrame[]>>")]
    pub async fn read(&self, token: &CancelToken) -> napi::Result<Outcome<Vec<AgentFrame>>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let frames = cancel.guard(value.stream.read()).await?;
                Ok(frames.into_iter().map(AgentFrame::of).collect())
            })
            .await)
    }

    /// Give the stream up, and the handle back. What it is of ends in the guest too, as far as there is a word for that.
    #[napi]
    pub async fn close(&self) -> napi::Result<()> {
        if let Some(value) = self.slot.take() {
            value.stream.leave();
        }
        Ok(())
    }
}
