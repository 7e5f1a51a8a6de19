//! An SSH client: of any server, or of a sandbox of this process.
//!
//! russh gives a channel new credit when its bytes arrive, read or not, and its one task waits when the queue of a channel is
//! full: a program whose output nobody reads would stop every other channel of its connection, and the signals to itself.
//! So a program that is talked to has a connection of its own, where a slow reader stops nothing but that program, by TCP and
//! the server's own window; what is read to its end without waiting for anybody, such as a collected program or SFTP, shares
//! the first. It also keeps a server's limit on sessions per connection (10 by default) from being a limit of the client.

use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use microsandbox::sandbox::Sandbox as EngineSandbox;
use napi_derive::napi;
use parking_lot::Mutex;
use russh::client::{self, AuthResult, DisconnectReason, Handle, Msg};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::Fingerprint;
use russh::keys::{
    Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate, decode_secret_key,
};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::cancel::CancelToken;
use crate::cut::{Cut, Wire};
use crate::engine::{Engine, EngineState, Kind, Live};
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::sandbox::Sandbox;
use crate::slot::{InEngine, Slot};
use crate::ssh::{generated, invalid, serve_here};
use crate::threads::blocking;

/// How many connections of one client log in at once: an OpenSSH server drops some of more than 10.
const DIALS: usize = 4;

/// After so many keepalives without an answer a connection is lost.
const KEEPALIVES: usize = 3;

/// What a channel holds before its connection waits, in packets of up to 32 KiB.
const QUEUE: usize = 32;

/// How long a connection may take to say goodbye before it is cut.
pub(crate) const LEAVE: Duration = Duration::from_secs(1);

/// To log in to a sandbox of this process: not a network's time, but a guest may be slow to give its agent.
const NEAR: Duration = Duration::from_secs(30);

/// Which server, and who the client is there.
#[napi(object, object_to_js = false)]
pub struct SshClientOptions {
    /// Of TCP, with `port`.
    pub host: Option<String>,
    pub port: Option<u16>,
    /// A Unix socket instead.
    pub path: Option<String>,
    pub user: String,
    /// One of these three: the private key as text, its file, or the socket of an agent.
    pub key: Option<String>,
    pub key_path: Option<String>,
    pub agent: Option<String>,
    /// Of `key` or `key_path`.
    pub passphrase: Option<String>,
    /// Public keys as OpenSSH writes them, or fingerprints.
    pub host_keys: Vec<String>,
    pub connect_ms: f64,
    /// None when absent.
    pub keepalive_ms: Option<f64>,
    pub inactivity_ms: Option<f64>,
}

#[napi]
impl Engine {
    /// Log in to an SSH server.
    #[napi(ts_return_type = "Promise<Outcome<SshClient>>")]
    pub async fn ssh_connect(
        &self,
        options: SshClientOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<SshClient>> {
        let state = self.state.clone();
        let connect = |cancel: crate::cancel::Cancel| async move {
            let live = state.count(Kind::SshClient);
            let way = Way::Remote(Box::new(Remote::of(options).await?));
            Box::pin(cancel.guard(SshClient::open(way, live))).await
        };
        Ok(self.state.run(token.token(), connect).await)
    }
}

#[napi]
impl Sandbox {
    /// Log in to this sandbox within this process: no socket, and keys that nobody else has.
    #[napi(ts_return_type = "Promise<Outcome<SshClient>>")]
    pub async fn ssh_client(&self, user: Option<String>, token: &CancelToken) -> napi::Result<Outcome<SshClient>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let live = value.live.engine().count(Kind::SshClient);
                let way = Way::Sandbox(Box::new(Near::of(&value.sandbox, value.live.engine(), user)?));
                Box::pin(cancel.guard(SshClient::open(way, live))).await
            })
            .await)
    }
}

/// A client that is logged in.
#[napi]
pub struct SshClient {
    pub(crate) slot: Slot<ClientValue>,
    fingerprint: String,
}

pub(crate) struct ClientValue {
    pub(crate) client: Arc<Client>,
    pub(crate) live: Live,
}

impl InEngine for ClientValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

impl SshClient {
    async fn open(way: Way, live: Live) -> Result<Self, Failure> {
        let first = Arc::new(way.dial().await?);
        let fingerprint = first.seen.lock().fingerprint.clone();
        let connections = Mutex::new(vec![Arc::downgrade(&first)]);
        let client = Arc::new(Client { way, first, connections, dials: Semaphore::new(DIALS) });
        Ok(Self { slot: Slot::new("SSH client", ClientValue { client, live }), fingerprint })
    }
}

#[napi]
impl SshClient {
    /// Of the server's key: `SHA256:…`.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// Close every connection, with what is open on it, and give the handle back.
    #[napi]
    pub async fn close(&self) -> napi::Result<()> {
        let Some(value) = self.slot.take() else { return Ok(()) };
        let engine = value.live.engine().clone();
        engine
            .finish(async {
                value.client.end().await;
                drop(value);
            })
            .await;
        Ok(())
    }
}

/// What a client's programs and files have in common.
pub(crate) struct Client {
    way: Way,
    /// Which all share that do not wait for a reader.
    first: Arc<Connection>,
    connections: Mutex<Vec<Weak<Connection>>>,
    dials: Semaphore,
}

impl Client {
    /// A session on a connection of its own.
    pub(crate) async fn own_lane(&self) -> Result<Lane, Failure> {
        if self.first.over.is_cancelled() {
            return Err(self.first.lost());
        }
        // Never closed.
        let _turn = self.dials.acquire().await;
        let connection = Arc::new(self.way.dial().await?);
        {
            let mut connections = self.connections.lock();
            connections.retain(|connection| connection.strong_count() > 0);
            connections.push(Arc::downgrade(&connection));
        }
        let mut lane = connection.lane().await?;
        lane.channel.own = true;
        Ok(lane)
    }

    /// A session on the shared connection; on a new one when the server gives no more there.
    pub(crate) async fn lane(&self) -> Result<Lane, Failure> {
        match self.first.lane().await {
            Err(Failure::SshRequestRefused { .. }) => self.own_lane().await,
            lane => lane,
        }
    }

    async fn end(&self) {
        let connections = std::mem::take(&mut *self.connections.lock());
        let ending: Vec<_> = connections
            .iter()
            .filter_map(Weak::upgrade)
            .map(|connection| tokio::spawn(async move { connection.end().await }))
            .collect();
        for ended in ending {
            let _ = ended.await;
        }
    }
}

/// How a connection is made.
enum Way {
    Remote(Box<Remote>),
    Sandbox(Box<Near>),
}

struct Remote {
    place: Place,
    user: String,
    identity: Identity,
    pins: Arc<[Pinned]>,
    config: Arc<client::Config>,
    patience: Duration,
}

enum Place {
    Tcp { host: String, port: u16 },
    Unix { path: String },
}

enum Identity {
    Key(Arc<PrivateKey>),
    Agent(String),
}

/// A sandbox of this process, and the two keys of its connections.
struct Near {
    sandbox: EngineSandbox,
    engine: Arc<EngineState>,
    user: String,
    key: Arc<PrivateKey>,
    host_key: PrivateKey,
    pins: Arc<[Pinned]>,
    config: Arc<client::Config>,
}

/// A key that a server may show.
enum Pinned {
    Key(Box<PublicKey>),
    Fingerprint(Fingerprint),
}

impl Pinned {
    fn of(line: &str) -> Result<Self, String> {
        let line = line.trim();
        if line.starts_with("SHA256:") || line.starts_with("SHA512:") {
            return line.parse().map(Self::Fingerprint).map_err(|error| error.to_string());
        }
        PublicKey::from_openssh(line).map(|key| Self::Key(Box::new(key))).map_err(|error| error.to_string())
    }

    fn is(&self, key: &PublicKey) -> bool {
        match self {
            Self::Key(pinned) => pinned.key_data() == key.key_data(),
            Self::Fingerprint(pinned) => *pinned == key.fingerprint(pinned.algorithm()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Key(key) => key.fingerprint(HashAlg::Sha256).to_string(),
            Self::Fingerprint(fingerprint) => fingerprint.to_string(),
        }
    }
}

fn pins(lines: &[String]) -> Result<Arc<[Pinned]>, Failure> {
    let mut pins = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let pin = Pinned::of(line).map_err(|why| {
            let field = if lines.len() == 1 { "hostKey".into() } else { format!("hostKey.{index}") };
            invalid(
                &field,
                format!("must be a line such as \"ssh-ed25519 AAAA…\", or a fingerprint, \"SHA256:…\": {why}"),
            )
        })?;
        pins.push(pin);
    }
    Ok(pins.into())
}

/// A server with keys of several kinds shows the one that is pinned.
fn kinds(pins: &[Pinned]) -> Option<Vec<Algorithm>> {
    let mut kinds = Vec::new();
    for pin in pins {
        match pin {
            Pinned::Key(key) if matches!(key.algorithm(), Algorithm::Rsa { .. }) => {
                kinds.push(Algorithm::Rsa { hash: Some(HashAlg::Sha512) });
                kinds.push(Algorithm::Rsa { hash: Some(HashAlg::Sha256) });
            }
            Pinned::Key(key) => kinds.push(key.algorithm()),
            // Which kind of key this is of, only the server knows.
            Pinned::Fingerprint(_) => return None,
        }
    }
    Some(kinds)
}

fn config(pins: &[Pinned], keepalive: Option<Duration>, inactivity: Option<Duration>) -> Arc<client::Config> {
    let mut config = client::Config {
        channel_buffer_size: QUEUE,
        keepalive_interval: keepalive,
        keepalive_max: KEEPALIVES,
        inactivity_timeout: inactivity,
        ..client::Config::default()
    };
    if let Some(kinds) = kinds(pins) {
        config.preferred.key = kinds.into();
    }
    Arc::new(config)
}

fn duration(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1000.0).unwrap_or(Duration::MAX)
}

impl Remote {
    async fn of(options: SshClientOptions) -> Result<Self, Failure> {
        let pins = pins(&options.host_keys)?;
        let config = config(&pins, options.keepalive_ms.map(duration), options.inactivity_ms.map(duration));
        let identity = match (options.agent, options.key, options.key_path) {
            (Some(agent), ..) => Identity::Agent(agent),
            (None, key, path) => {
                // To try a passphrase is made to take long.
                let passphrase = options.passphrase;
                let read = move || private_key(key.as_deref(), path.as_deref(), passphrase.as_deref());
                Identity::Key(Arc::new(blocking(read).await?))
            }
        };
        let place = match options.path {
            Some(path) => Place::Unix { path },
            None => Place::Tcp {
                host: options.host.unwrap_or_else(|| "127.0.0.1".into()),
                port: options.port.unwrap_or(22),
            },
        };
        Ok(Self { place, user: options.user, identity, pins, config, patience: duration(options.connect_ms) })
    }
}

/// What is wrong with a key is told without anything of it.
fn private_key(text: Option<&str>, path: Option<&str>, passphrase: Option<&str>) -> Result<PrivateKey, Failure> {
    let read;
    let (text, field) = match (text, path) {
        (Some(text), _) => (text, "key"),
        (None, Some(path)) => {
            read = std::fs::read_to_string(path).map_err(|error| Failure::host_io("read", Path::new(path), &error))?;
            (read.as_str(), "key.path")
        }
        (None, None) => return Err(invalid("key", "must be a private key, its file or an agent")),
    };
    decode_secret_key(text, passphrase).map_err(|error| match (error, passphrase) {
        (russh::keys::Error::KeyIsEncrypted, _) => {
            invalid("key.passphrase", "the key has a passphrase: give { path, passphrase }")
        }
        (_, Some(_)) => invalid("key.passphrase", "the key cannot be read with it"),
        (_, None) => invalid(field, "must be a private key: OpenSSH's, PKCS#8 or PKCS#1"),
    })
}

impl Near {
    fn of(sandbox: &EngineSandbox, engine: &Arc<EngineState>, user: Option<String>) -> Result<Self, Failure> {
        let host_key = generated()?;
        let pins: Arc<[Pinned]> = Arc::new([Pinned::Key(Box::new(host_key.public_key().clone()))]);
        let user = user.or_else(|| sandbox.config().spec.runtime.user.clone()).unwrap_or_else(|| "root".into());
        let config = config(&pins, None, None);
        let (sandbox, engine) = (sandbox.clone(), engine.clone());
        Ok(Self { sandbox, engine, user, key: Arc::new(generated()?), host_key, pins, config })
    }
}

impl Way {
    /// Connect and log in.
    async fn dial(&self) -> Result<Connection, Failure> {
        let patience = match self {
            Self::Remote(remote) => remote.patience,
            Self::Sandbox(_) => NEAR,
        };
        let late = || Failure::SshConnectFailed {
            message: format!("the server did not let the client in within {patience:?}"),
            errno: None,
        };
        tokio::time::timeout(patience, self.log_in()).await.unwrap_or_else(|_| Err(late()))
    }

    async fn log_in(&self) -> Result<Connection, Failure> {
        match self {
            Self::Remote(remote) => {
                let stream = remote.place.connect().await?;
                let (config, pins) = (remote.config.clone(), remote.pins.clone());
                Connection::open(stream, config, pins, &remote.user, &remote.identity, None).await
            }
            Self::Sandbox(near) => {
                let (authorized, user) = (near.key.public_key().clone(), near.user.clone());
                let (stream, served) = serve_here(&near.sandbox, &near.engine, near.host_key.clone(), authorized, user);
                let identity = Identity::Key(near.key.clone());
                let (config, pins) = (near.config.clone(), near.pins.clone());
                Connection::open(Box::new(stream), config, pins, &near.user, &identity, Some(served)).await
            }
        }
    }
}

impl Place {
    async fn connect(&self) -> Result<Box<dyn Wire>, Failure> {
        let failed = |at: &str, error: &io::Error| Failure::SshConnectFailed {
            message: format!("cannot connect to {at}: {error}"),
            errno: error.raw_os_error(),
        };
        match self {
            Self::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(|error| failed(&format!("{host}:{port}"), &error))?;
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Self::Unix { path } => Ok(Box::new(UnixStream::connect(path).await.map_err(|error| failed(path, &error))?)),
        }
    }
}

/// What the handler of a connection has seen.
#[derive(Default)]
struct Seen {
    fingerprint: String,
    refused: bool,
    ended: Option<String>,
}

struct Known {
    pins: Arc<[Pinned]>,
    seen: Arc<Mutex<Seen>>,
    /// The task of the connection drops this at its end.
    _over: DropGuard,
}

impl client::Handler for Known {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let mut seen = self.seen.lock();
        let is_pinned = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                seen.fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
                self.pins.iter().any(|pin| pin.is(key))
            }
            // None was asked for.
            PublicKeyOrCertificate::Certificate(_) => false,
        };
        seen.refused = !is_pinned;
        Ok(is_pinned)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        self.seen.lock().ended = Some(match reason {
            DisconnectReason::ReceivedDisconnect(told) => format!("the server said: {}", told.message),
            DisconnectReason::Error(error) => error.to_string(),
        });
        Ok(())
    }
}

/// A connection on which the client is logged in.
pub(crate) struct Connection {
    handle: Handle<Known>,
    seen: Arc<Mutex<Seen>>,
    /// Its task has ended.
    pub(crate) over: CancellationToken,
    /// Cuts its stream, also when it is dropped.
    cut: DropGuard,
    /// What a sandbox of this process has for it.
    served: Option<TaskTracker>,
}

impl Connection {
    async fn open(
        stream: Box<dyn Wire>,
        config: Arc<client::Config>,
        pins: Arc<[Pinned]>,
        user: &str,
        identity: &Identity,
        served: Option<TaskTracker>,
    ) -> Result<Self, Failure> {
        let token = CancellationToken::new();
        let stream = Cut::new(stream, &token);
        // From here on: when this is dropped, so is the connection.
        let cut = token.drop_guard();
        let over = CancellationToken::new();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let known = Known { pins: pins.clone(), seen: seen.clone(), _over: over.clone().drop_guard() };
        let handle = client::connect_stream(config, stream, known)
            .await
            .map_err(|error| not_connected(&error, &pins, &seen.lock()))?;
        let mut connection = Self { handle, seen, over, cut, served };
        connection.authenticate(user, identity).await?;
        Ok(connection)
    }

    async fn authenticate(&mut self, user: &str, identity: &Identity) -> Result<(), Failure> {
        let refused = |message: String| Failure::SshLoginRefused { message, user: user.into() };
        let result = match identity {
            Identity::Key(key) => {
                let hash = self.hash_of(&key.algorithm()).await?;
                let key = PrivateKeyWithHashAlg::new(key.clone(), hash);
                self.handle.authenticate_publickey(user, key).await.map_err(|error| self.broken(&error))?
            }
            Identity::Agent(path) => self.authenticate_by_agent(user, path).await?,
        };
        match result {
            AuthResult::Success => Ok(()),
            // russh says the same of a connection that is gone.
            AuthResult::Failure { .. } if self.over.is_cancelled() || self.handle.is_closed() => {
                Err(refused(format!("the server ended the connection at the login of {user:?}: {}", self.why())))
            }
            AuthResult::Failure { remaining_methods, partial_success } => {
                let methods: Vec<String> = remaining_methods.iter().map(String::from).collect();
                let wants = methods.join(", ");
                Err(refused(if partial_success {
                    format!("the server took the key of {user:?}, but wants more: {wants}")
                } else {
                    format!("the server did not let {user:?} in with this key; it takes: {wants}")
                }))
            }
        }
    }

    async fn authenticate_by_agent(&mut self, user: &str, path: &str) -> Result<AuthResult, Failure> {
        let refused = |message: String| Failure::SshLoginRefused { message, user: user.into() };
        let mut agent = AgentClient::connect_uds(path).await.map_err(|error| match error {
            russh::keys::Error::IO(error) => Failure::host_io("connect to the agent at", Path::new(path), &error),
            error => refused(format!("the agent cannot be used: {error}")),
        })?;
        let identities = agent
            .request_identities()
            .await
            .map_err(|error| refused(format!("the agent does not say which keys it has: {error}")))?;
        let mut last = None;
        for identity in identities {
            let AgentIdentity::PublicKey { key, .. } = identity else { continue };
            let hash = self.hash_of(&key.algorithm()).await?;
            let result = self
                .handle
                .authenticate_publickey_with(user, key, hash, &mut agent)
                .await
                .map_err(|error| refused(format!("the agent did not sign: {error}")))?;
            let more = matches!(&result, AuthResult::Failure { partial_success: false, .. });
            last = Some(result);
            if !more || self.handle.is_closed() {
                break;
            }
        }
        last.ok_or_else(|| refused("the agent has no key".into()))
    }

    /// Of RSA keys only: what the server says that it takes, and never SHA-1 when it says nothing.
    async fn hash_of(&self, algorithm: &Algorithm) -> Result<Option<HashAlg>, Failure> {
        if !matches!(algorithm, Algorithm::Rsa { .. }) {
            return Ok(None);
        }
        let best = self.handle.best_supported_rsa_hash().await.map_err(|error| self.broken(&error))?;
        Ok(best.unwrap_or(Some(HashAlg::Sha256)))
    }

    fn why(&self) -> String {
        self.seen.lock().ended.clone().unwrap_or_else(|| "without a word".into())
    }

    pub(crate) fn lost(&self) -> Failure {
        Failure::ssh_lost(&self.why())
    }

    fn broken(&self, error: &russh::Error) -> Failure {
        let ended = self.seen.lock().ended.clone();
        Failure::ssh_lost(&ended.unwrap_or_else(|| error.to_string()))
    }

    /// Open a session. In a task of its own, so that one which comes when nobody waits any more is closed.
    async fn lane(self: &Arc<Self>) -> Result<Lane, Failure> {
        let (give, take) = oneshot::channel();
        let connection = self.clone();
        tokio::spawn(async move {
            let opened = match connection.handle.channel_open_session().await {
                Ok(channel) => {
                    let (read, write) = channel.split();
                    let write = Arc::new(write);
                    Ok(Lane { read, channel: Channel { write, connection, own: false, over: false } })
                }
                Err(russh::Error::ChannelOpenFailure(reason)) => {
                    Err(Failure::ssh_refused("session", &format!("the server opens no session: {reason:?}")))
                }
                Err(error) => Err(connection.broken(&error)),
            };
            let _ = give.send(opened);
        });
        take.await.unwrap_or_else(|_| Err(self.lost()))
    }

    /// Whether the server has answered: what was sent before has reached it.
    pub(crate) async fn ping(&self) -> bool {
        tokio::time::timeout(LEAVE, self.handle.send_ping()).await.is_ok_and(|sent| sent.is_ok())
    }

    /// Say goodbye, or else cut; and wait for the end.
    pub(crate) async fn end(&self) {
        let goodbye = self.handle.disconnect(Disconnect::ByApplication, "", "");
        let _ = tokio::time::timeout(LEAVE, goodbye).await;
        if tokio::time::timeout(LEAVE, self.over.cancelled()).await.is_err() {
            self.cut.token().cancel();
            let _ = tokio::time::timeout(LEAVE, self.over.cancelled()).await;
        }
        if let Some(served) = &self.served {
            let _ = tokio::time::timeout(2 * LEAVE, served.wait()).await;
        }
    }
}

/// What went wrong before anybody was logged in.
fn not_connected(error: &russh::Error, pins: &[Pinned], seen: &Seen) -> Failure {
    let expected: Vec<String> = pins.iter().map(Pinned::text).collect();
    let pinned = expected.join(" or ");
    match error {
        _ if seen.refused => Failure::SshHostKeyMismatch {
            message: format!("the server shows the key {}, and not {pinned}", seen.fingerprint),
            expected,
            actual: seen.fingerprint.clone(),
        },
        russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, theirs, .. } => {
            let theirs = theirs.join(", ");
            Failure::SshHostKeyMismatch {
                message: format!("the server has no key of the kind of {pinned}, but {theirs}"),
                expected,
                actual: theirs,
            }
        }
        error => Failure::SshConnectFailed {
            message: format!("the server and this client do not come to an understanding: {error}"),
            errno: match error {
                russh::Error::IO(error) => error.raw_os_error(),
                _ => None,
            },
        },
    }
}

/// A session of a connection.
pub(crate) struct Lane {
    pub(crate) read: ChannelReadHalf,
    pub(crate) channel: Channel,
}

/// Its side to the server. When this is dropped, the channel is closed.
pub(crate) struct Channel {
    pub(crate) write: Arc<ChannelWriteHalf<Msg>>,
    pub(crate) connection: Arc<Connection>,
    /// Nobody else is on the connection.
    pub(crate) own: bool,
    /// The server has closed it.
    pub(crate) over: bool,
}

impl Lane {
    /// Wait for the answer to a request; what comes before it is kept.
    pub(crate) async fn answered(
        &mut self,
        request: &str,
        why: impl FnOnce() -> String,
        early: &mut Vec<ChannelMsg>,
    ) -> Result<(), Failure> {
        loop {
            match self.read.wait().await {
                Some(ChannelMsg::Success) => return Ok(()),
                Some(ChannelMsg::Failure) => return Err(Failure::ssh_refused(request, &why())),
                Some(ChannelMsg::Close) => {
                    self.channel.over = true;
                    return Err(Failure::ssh_refused(request, "the server closed the session instead"));
                }
                Some(message) => early.push(message),
                None => return Err(self.channel.connection.lost()),
            }
        }
    }

    /// Send a request that is answered.
    pub(crate) async fn ask(
        &mut self,
        request: &str,
        sent: Result<(), russh::Error>,
        why: impl FnOnce() -> String,
        early: &mut Vec<ChannelMsg>,
    ) -> Result<(), Failure> {
        if sent.is_err() {
            return Err(self.channel.connection.lost());
        }
        self.answered(request, why, early).await
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if self.over || self.own {
            return;
        }
        // Its connection lives on, and would keep it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let write = self.write.clone();
            runtime.spawn(async move { tokio::time::timeout(LEAVE, write.close()).await.map(drop) });
        }
    }
}

#[cfg(test)]
impl Client {
    /// One that is logged in on a stream, to whatever is at its other end, and has no other connection.
    pub(crate) async fn on(stream: tokio::io::DuplexStream, host_key: &PublicKey) -> Result<Self, Failure> {
        let pins: Arc<[Pinned]> = Arc::new([Pinned::Key(Box::new(host_key.clone()))]);
        let config = config(&pins, None, None);
        let key = Arc::new(generated()?);
        let identity = Identity::Key(key.clone());
        let first = Connection::open(Box::new(stream), config.clone(), pins.clone(), "me", &identity, None)
            .await
            .map(Arc::new)?;
        let way = Way::Remote(Box::new(Remote {
            place: Place::Unix { path: "/no/such/socket".into() },
            user: "me".into(),
            identity,
            pins,
            config,
            patience: LEAVE,
        }));
        Ok(Self { way, first, connections: Mutex::default(), dials: Semaphore::new(1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn field(failure: Option<Failure>) -> Option<String> {
        match failure {
            Some(Failure::InvalidConfig { field, .. }) => field,
            _ => None,
        }
    }

    #[test]
    fn a_pin_is_a_line_or_a_fingerprint_of_the_very_key() {
        let (Ok(key), Ok(other)) = (PublicKey::from_openssh(KEY), generated()) else { panic!("no key") };
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        for line in [KEY, &format!("{KEY} a name\n"), &fingerprint, &key.fingerprint(HashAlg::Sha512).to_string()] {
            let Ok(pin) = Pinned::of(line) else { panic!("{line}") };
            assert!(pin.is(&key) && !pin.is(other.public_key()), "{line}");
        }
        assert_eq!(Pinned::of(KEY).map(|pin| pin.text()).ok(), Some(fingerprint));
        for wrong in ["", "ssh-ed25519", "SHA256:", "SHA256:AAAA", "MD5:00:11"] {
            assert_eq!(field(pins(&[wrong.into()]).err()).as_deref(), Some("hostKey"), "{wrong}");
        }
        assert_eq!(field(pins(&[KEY.into(), "x".into()]).err()).as_deref(), Some("hostKey.1"));
    }

    #[test]
    fn a_line_asks_for_its_kind_and_a_fingerprint_for_none() {
        let Ok(line) = pins(&[KEY.into()]) else { panic!("no pin") };
        assert_eq!(kinds(&line), Some(vec![Algorithm::Ed25519]));
        let Ok(both) = pins(&[KEY.into(), line[0].text()]) else { panic!("no pin") };
        assert_eq!(kinds(&both), None);
    }

    #[test]
    fn what_is_wrong_with_a_key_is_told_without_it() {
        let secret = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n";
        for (passphrase, wanted) in [(None, "key"), (Some("open sesame"), "key.passphrase")] {
            let failure = private_key(Some(secret), None, passphrase).err();
            let told = format!("{failure:?}");
            assert!(!told.contains("c2VjcmV0") && !told.contains("sesame"), "{told}");
            assert_eq!(field(failure).as_deref(), Some(wanted));
        }
        assert!(matches!(private_key(None, Some("/no/such/file"), None), Err(Failure::HostIo { .. })));
    }
}
