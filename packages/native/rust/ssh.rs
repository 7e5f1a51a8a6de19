//! A sandbox that SSH clients log in to, by a TCP port or a Unix socket of the host.
//!
//! Here are the listener, the keys, the limits, and the end. What a client says and gets is `ssh_session`.

use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use microsandbox::sandbox::Sandbox as EngineSandbox;
use napi_derive::napi;
use parking_lot::Mutex;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey, decode_secret_key, load_secret_key};
use russh::server::Config;
use russh::{MethodKind, MethodSet};
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::cancel::CancelToken;
use crate::cut::Wire;
use crate::engine::{EngineState, Kind, Live};
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::sandbox::Sandbox;
use crate::slot::{InEngine, Slot};
use crate::ssh_channel::WINDOW;
use crate::ssh_session::{Service, serve};

/// After this long, a new connection is tried for again when the system had none to give.
const PAUSE: Duration = Duration::from_millis(100);

/// What a client of this process and its server may have sent each other and not read: more than the windows of some channels,
/// since a session of russh that writes does not read. It is memory only as far as it is used.
const PIPE: usize = 64 << 20;

/// How long a client waits for the refusal of a key, whatever was wrong with it.
const REJECTION: Duration = Duration::from_millis(300);

/// How long an SSH agent may take to say which keys it has.
const AGENT: Duration = Duration::from_secs(10);

/// The most that a client sends in one packet.
const PACKET: u32 = 32 << 10;

/// When neither its maker nor the configuration says how long a connection may be silent.
const INACTIVITY: Duration = Duration::from_mins(10);

/// What an SSH server is.
#[napi(object, object_to_js = false)]
pub struct SshServerOptions {
    /// Of TCP, with `port`.
    pub host: Option<String>,
    pub port: Option<u16>,
    /// Of a Unix socket instead.
    pub path: Option<String>,
    /// The private key, as text. Made anew when there is neither this nor a path.
    pub host_key: Option<String>,
    /// Made there when there is none.
    pub host_key_path: Option<String>,
    /// Lines of OpenSSH's.
    pub authorized_keys: Vec<String>,
    pub authorized_keys_path: Option<String>,
    /// The socket of an SSH agent, whose keys may log in too.
    pub authorized_agent: Option<String>,
    /// Who a client becomes, whatever it calls itself.
    pub user: Option<String>,
    pub sftp: bool,
    /// 0 is no limit; the backend's configuration has a default.
    pub inactivity_ms: Option<f64>,
    /// How long a client may take to log in; 0 is no limit.
    pub login_ms: f64,
    pub max_connections: u32,
}

#[napi]
impl Sandbox {
    /// Serve this sandbox to SSH clients until the handle is closed.
    #[napi(ts_return_type = "Promise<Outcome<SshServer>>")]
    pub async fn ssh_server(&self, options: SshServerOptions, token: &CancelToken) -> napi::Result<Outcome<SshServer>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let live = value.live.engine().count(Kind::SshServer);
                Box::pin(cancel.guard(open(&value.sandbox, options, live))).await
            })
            .await)
    }
}

/// An SSH server of a sandbox.
#[napi]
pub struct SshServer {
    slot: Slot<ServerValue>,
    place: Place,
    host_key: String,
    fingerprint: String,
}

struct ServerValue {
    closing: CancellationToken,
    /// A handle that is dropped is closed.
    _closed: DropGuard,
    accepting: Mutex<Option<JoinHandle<()>>>,
    live: Live,
}

impl InEngine for ServerValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

/// Where a server listens.
enum Place {
    Tcp { host: String, port: u16 },
    Unix { path: String },
}

enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// The file of a Unix socket, which goes with its listener, unless another has taken its place.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// How a sandbox is served.
struct Serving {
    host_key: PrivateKey,
    authorized: Vec<PublicKey>,
    /// Who a client becomes; whom it calls itself when absent.
    user: Option<String>,
    sftp: bool,
    /// For how long a connection may be silent.
    inactivity: Option<Duration>,
    /// How long a client may take to log in.
    login: Option<Duration>,
}

impl Serving {
    /// What [`serve`] takes, for one client or many.
    fn service(self, sandbox: &EngineSandbox, engine: &Arc<EngineState>) -> Arc<Service> {
        let config = Config {
            methods: MethodSet::from(&[MethodKind::PublicKey][..]),
            auth_rejection_time: REJECTION,
            auth_rejection_time_initial: Some(Duration::ZERO),
            keys: vec![self.host_key],
            inactivity_timeout: self.inactivity,
            window_size: WINDOW,
            maximum_packet_size: PACKET,
            ..Config::default()
        };
        Arc::new(Service {
            sandbox: sandbox.clone(),
            spares: Arc::default(),
            engine: engine.clone(),
            config: Arc::new(config),
            authorized: self.authorized,
            user: self.user,
            sftp: self.sftp,
            login: self.login,
        })
    }
}

/// Milliseconds of an option, of which 0 is no limit.
fn limit(millis: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(millis / 1000.0).ok().filter(|limit| !limit.is_zero())
}

/// For how long a connection may be silent when its server does not say.
fn inactivity(sandbox: &EngineSandbox) -> Option<Duration> {
    let backend = sandbox.backend();
    let configured = backend.as_local().map(|local| Duration::from_secs(local.config().ssh.inactivity_timeout_secs));
    Some(configured.unwrap_or(INACTIVITY)).filter(|limit| !limit.is_zero())
}

pub(crate) fn invalid(field: &str, why: impl std::fmt::Display) -> Failure {
    Failure::InvalidConfig { message: format!("{field}: {why}"), field: Some(field.into()) }
}

async fn open(sandbox: &EngineSandbox, options: SshServerOptions, live: Live) -> Result<SshServer, Failure> {
    let authorized = authorized(&options).await?;
    let key = host_key(options.host_key.as_deref(), options.host_key_path.as_deref())?;
    let unreadable = |error| Failure::Custom { message: format!("the host key cannot be written as text: {error}") };
    let public = key.public_key();
    let fingerprint = public.fingerprint(HashAlg::Sha256).to_string();
    let host_key = public.to_openssh().map_err(unreadable)?;
    let serving = Serving {
        host_key: key,
        authorized,
        user: options.user,
        sftp: options.sftp,
        inactivity: options.inactivity_ms.map_or_else(|| inactivity(sandbox), limit),
        login: limit(options.login_ms),
    };
    let service = serving.service(sandbox, live.engine());
    let (listener, place) = match options.path {
        Some(path) => listen_at(path)?,
        None => listen_on(options.host.unwrap_or_else(|| "127.0.0.1".into()), options.port.unwrap_or(0)).await?,
    };
    let closing = CancellationToken::new();
    let closed = closing.clone().drop_guard();
    let accepting = tokio::spawn(accept(listener, service, options.max_connections as usize, closing.clone()));
    let value = ServerValue { closing, _closed: closed, accepting: Mutex::new(Some(accepting)), live };
    Ok(SshServer { slot: Slot::new("SSH server", value), place, host_key, fingerprint })
}

/// Serve one client of this process, who has the one authorized key, until its stream is dropped. When the tracker is empty,
/// all that was begun for it has ended.
pub(crate) fn serve_here(
    sandbox: &EngineSandbox,
    engine: &Arc<EngineState>,
    host_key: PrivateKey,
    authorized: PublicKey,
    user: String,
) -> (DuplexStream, TaskTracker) {
    let authorized = vec![authorized];
    let serving = Serving { host_key, authorized, user: Some(user), sftp: true, inactivity: None, login: None };
    let service = serving.service(sandbox, engine);
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let begun = TaskTracker::new();
    begun.spawn(async move { serve(service, Box::new(theirs), &CancellationToken::new()).await });
    begun.close();
    (ours, begun)
}

/// The keys that may log in.
async fn authorized(options: &SshServerOptions) -> Result<Vec<PublicKey>, Failure> {
    let mut keys = authorized_keys(&options.authorized_keys, options.authorized_keys_path.as_deref())?;
    if let Some(socket) = &options.authorized_agent {
        keys.extend(agent_keys(socket).await?);
    }
    if keys.is_empty() {
        let field = if options.authorized_agent.is_some() {
            "authorizedAgent"
        } else if options.authorized_keys_path.is_some() {
            "authorizedKeysPath"
        } else {
            "authorizedKeys"
        };
        return Err(invalid(
            field,
            "nobody could log in: give one public key or more, such as the text of id_ed25519.pub",
        ));
    }
    Ok(keys)
}

fn authorized_keys(lines: &[String], path: Option<&str>) -> Result<Vec<PublicKey>, Failure> {
    let mut keys = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        keys.push(authorized_key(line).map_err(|why| invalid(&format!("authorizedKeys.{index}"), why))?);
    }
    if let Some(path) = path {
        let text = std::fs::read_to_string(path).map_err(|error| Failure::host_io("read", Path::new(path), &error))?;
        for (index, line) in text.lines().map(str::trim).enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                let wrong = |why| invalid("authorizedKeysPath", format!("line {} of {path}: {why}", index + 1));
                keys.push(authorized_key(line).map_err(wrong)?);
            }
        }
    }
    Ok(keys)
}

/// A line may have no options before its key: nobody would heed what they forbid.
fn authorized_key(line: &str) -> Result<PublicKey, String> {
    let wrong = |why: String| {
        format!("must be a public key as OpenSSH writes it, such as \"ssh-ed25519 AAAA… name\", without options: {why}")
    };
    let key = PublicKey::from_openssh(line.trim()).map_err(|error| wrong(error.to_string()))?;
    if !is_served(&key) {
        return Err(wrong(format!("{} is not served", key.algorithm())));
    }
    Ok(key)
}

fn is_served(key: &PublicKey) -> bool {
    matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::Ecdsa { .. } | Algorithm::Rsa { .. })
}

/// The public keys that an SSH agent holds now. Others of its identities, such as certificates, are left out.
async fn agent_keys(socket: &str) -> Result<Vec<PublicKey>, Failure> {
    let failed = |error: io::Error| Failure::host_io("ask the SSH agent at", Path::new(socket), &error);
    let asking = async {
        let mut agent = AgentClient::connect(UnixStream::connect(socket).await?);
        agent.request_identities().await.map_err(io::Error::other)
    };
    let late = || io::Error::new(ErrorKind::TimedOut, "it did not answer");
    let identities = tokio::time::timeout(AGENT, asking).await.map_err(|_| failed(late()))?.map_err(failed)?;
    Ok(identities
        .into_iter()
        .filter_map(|identity| match identity {
            AgentIdentity::PublicKey { key, .. } => Some(key).filter(is_served),
            AgentIdentity::Certificate { .. } => None,
        })
        .collect())
}

fn host_key(text: Option<&str>, path: Option<&str>) -> Result<PrivateKey, Failure> {
    match (text, path) {
        (Some(text), _) => decode_secret_key(text, None).map_err(|error| {
            invalid("hostKey", format!("must be a private key as text, without a passphrase: {error}"))
        }),
        (None, Some(path)) => host_key_at(Path::new(path)),
        (None, None) => generated(),
    }
}

pub(crate) fn generated() -> Result<PrivateKey, Failure> {
    PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519)
        .map_err(|error| Failure::Custom { message: format!("no host key could be made: {error}") })
}

/// The key of a file, which is made when it is not there.
fn host_key_at(path: &Path) -> Result<PrivateKey, Failure> {
    let wrong = |why: String| invalid("hostKey.path", format!("must be a private key's, without a passphrase: {why}"));
    match std::fs::symlink_metadata(path) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = generated()?;
            let text =
                key.to_openssh(russh::keys::ssh_key::LineEnding::LF).map_err(|error| wrong(error.to_string()))?;
            match write_new(path, text.as_bytes()) {
                Ok(()) => return Ok(key),
                // Another server made it just now.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Failure::host_io("write", path, &error)),
            }
        }
        Err(error) => return Err(Failure::host_io("read", path, &error)),
    }
    load_secret_key(path, None).map_err(|error| match error {
        russh::keys::Error::IO(error) => Failure::host_io("read", path, &error),
        error => wrong(error.to_string()),
    })
}

/// A file that only its owner reads, all of it or none.
fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let draft = directory.join(format!(".{}.tmp", uuid::Uuid::new_v4()));
    let written = std::fs::write(&draft, "")
        .and_then(|()| std::fs::set_permissions(&draft, Permissions::from_mode(0o600)))
        .and_then(|()| std::fs::write(&draft, text))
        // A link, since a rename would take the place of another's.
        .and_then(|()| std::fs::hard_link(&draft, path));
    let _ = std::fs::remove_file(&draft);
    written
}

async fn listen_on(host: String, port: u16) -> Result<(Listener, Place), Failure> {
    let failed = |error: io::Error| Failure::host_io("listen on", Path::new(&format!("{host}:{port}")), &error);
    let listener = TcpListener::bind((host.as_str(), port)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((Listener::Tcp(listener), Place::Tcp { host: address.ip().to_string(), port: address.port() }))
}

fn listen_at(path: String) -> Result<(Listener, Place), Failure> {
    let listener = UnixListener::bind(&path).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            invalid("path", format!("there is something at {path} already; remove it, or give another"))
        }
        ErrorKind::InvalidInput => invalid("path", format!("{path} is too long for a socket; give a shorter one")),
        _ => Failure::host_io("listen at", Path::new(&path), &error),
    })?;
    let failed = |error: io::Error| Failure::host_io("listen at", Path::new(&path), &error);
    let file = SocketFile::of(PathBuf::from(&path)).map_err(failed)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok((Listener::Unix { listener, _file: file }, Place::Unix { path }))
}

impl SocketFile {
    fn of(path: PathBuf) -> io::Result<Self> {
        let identity = Self::identity_of(&path)?;
        Ok(Self { path, identity })
    }

    fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
        std::fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::identity_of(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    async fn next(&self) -> io::Result<Box<dyn Wire>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix { listener, .. } => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

/// Take connections until the server closes, and then wait for the last one's end.
async fn accept(listener: Listener, service: Arc<Service>, limit: usize, closing: CancellationToken) {
    let places = Arc::new(Semaphore::new(limit));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = closing.cancelled() => break,
            accepted = listener.next() => accepted,
        };
        match accepted {
            Ok(stream) => {
                // One too many is closed at once: a client that waits does not know what for.
                if let Ok(place) = places.clone().try_acquire_owned() {
                    let (service, closing) = (service.clone(), closing.clone());
                    connections.spawn(async move {
                        serve(service, stream, &closing).await;
                        drop(place);
                    });
                }
            }
            // That connection's own fault, or the lack of a descriptor for it.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

#[napi]
impl SshServer {
    /// The address, of TCP.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn host(&self) -> Option<String> {
        match &self.place {
            Place::Tcp { host, .. } => Some(host.clone()),
            Place::Unix { .. } => None,
        }
    }

    /// The port, of TCP.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self.place {
            Place::Tcp { port, .. } => Some(port),
            Place::Unix { .. } => None,
        }
    }

    /// The file, of a Unix socket.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn path(&self) -> Option<String> {
        match &self.place {
            Place::Tcp { .. } => None,
            Place::Unix { path } => Some(path.clone()),
        }
    }

    /// The public part of the host key, as a line of OpenSSH's.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn host_key(&self) -> String {
        self.host_key.clone()
    }

    /// Of the host key: `SHA256:…`.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// Accept no more, end every connection, wait for that, and give the handle back.
    #[napi]
    pub async fn close(&self) -> napi::Result<()> {
        let Some(value) = self.slot.take() else { return Ok(()) };
        let engine = value.live.engine().clone();
        engine
            .finish(async {
                value.closing.cancel();
                let accepting = value.accepting.lock().take();
                if let Some(accepting) = accepting {
                    let _ = accepting.await;
                }
                drop(value);
            })
            .await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn key() -> PublicKey {
        let Ok(key) = PublicKey::from_openssh(KEY) else { panic!("no key") };
        key
    }

    /// Which of the keys, without their comments, is that one.
    fn known(keys: Result<Vec<PublicKey>, Failure>) -> Option<Vec<bool>> {
        Some(keys.ok()?.iter().map(|known| known.key_data() == key().key_data()).collect())
    }

    fn field(failure: Failure) -> Option<String> {
        match failure {
            Failure::InvalidConfig { field, .. } => field,
            _ => None,
        }
    }

    #[test]
    fn a_key_is_taken_with_its_comment_and_never_with_options() {
        let lines = |line: &str| authorized_keys(&[line.to_owned()], None);
        assert_eq!(known(lines(&format!(" {KEY} me@here "))), Some(vec![true]));
        for wrong in [format!("restrict,command=\"/bin/true\" {KEY}"), "ssh-ed25519".into(), "nonsense".into()] {
            assert_eq!(lines(&wrong).err().and_then(field).as_deref(), Some("authorizedKeys.0"), "{wrong}");
        }
    }

    #[test]
    fn a_file_of_keys_may_have_comments() {
        let Ok(file) = tempfile::NamedTempFile::new() else { panic!("no file") };
        let path = file.path().display().to_string();
        let keys = |text: &str| {
            assert!(std::fs::write(file.path(), text).is_ok());
            authorized_keys(&[], Some(&path))
        };
        assert_eq!(known(keys(&format!("# mine\n\n{KEY} me\n"))), Some(vec![true]));
        assert_eq!(known(keys("# none\n")), Some(Vec::new()));
        assert_eq!(keys("nonsense\n").err().and_then(field).as_deref(), Some("authorizedKeysPath"));
        assert!(matches!(authorized_keys(&[], Some("/no/such/file")), Err(Failure::HostIo { .. })));
    }

    fn options(authorized_keys: &[&str], authorized_agent: Option<String>) -> SshServerOptions {
        SshServerOptions {
            host: None,
            port: None,
            path: None,
            host_key: None,
            host_key_path: None,
            authorized_keys: authorized_keys.iter().map(|&key| key.to_owned()).collect(),
            authorized_keys_path: None,
            authorized_agent,
            user: None,
            sftp: true,
            inactivity_ms: None,
            login_ms: 0.0,
            max_connections: 1,
        }
    }

    #[tokio::test]
    async fn the_keys_that_an_agent_holds_may_log_in() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let Ok(directory) = tempfile::tempdir() else { panic!("no directory") };
        let path = directory.path().join("agent");
        let socket = path.display().to_string();
        let Ok(listener) = UnixListener::bind(&path) else { panic!("no socket") };
        // Two agents: of one key, and of none.
        let blob = key().to_bytes().unwrap_or_default();
        let serving = tokio::spawn(async move {
            for keys in [vec![blob], Vec::new()] {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let mut request = [0; 5];
                let _ = stream.read_exact(&mut request).await;
                let number = |number: usize| u32::try_from(number).unwrap_or_default().to_be_bytes();
                let mut answer = vec![12];
                answer.extend(number(keys.len()));
                for key in keys {
                    answer.extend(number(key.len()));
                    answer.extend(key);
                    answer.extend(number(2));
                    answer.extend(b"me");
                }
                let _ = stream.write_all(&number(answer.len())).await;
                let _ = stream.write_all(&answer).await;
            }
        });
        assert_eq!(known(authorized(&options(&[], Some(socket.clone()))).await), Some(vec![true]));
        let none = authorized(&options(&[], Some(socket.clone()))).await;
        assert_eq!(none.err().and_then(field).as_deref(), Some("authorizedAgent"));
        assert!(serving.await.is_ok());
        assert!(matches!(authorized(&options(&[], Some(socket))).await, Err(Failure::HostIo { .. })));
        assert_eq!(authorized(&options(&[], None)).await.err().and_then(field).as_deref(), Some("authorizedKeys"));
        assert_eq!(known(authorized(&options(&[KEY], None)).await), Some(vec![true]));
    }

    #[test]
    fn no_limit_is_0() {
        assert_eq!((limit(0.0), limit(1500.0), limit(f64::NAN)), (None, Some(Duration::from_millis(1500)), None));
    }

    #[test]
    fn a_host_key_is_made_once_for_a_path_and_only_for_its_owner() {
        let Ok(directory) = tempfile::tempdir() else { panic!("no directory") };
        let path = directory.path().join("host_key");
        let (Ok(made), Ok(read)) = (host_key_at(&path), host_key_at(&path)) else { panic!("no key") };
        assert_eq!(made.public_key().key_data(), read.public_key().key_data());
        let permissions = std::fs::metadata(&path).map(|metadata| metadata.permissions().mode() & 0o777);
        assert_eq!(permissions.ok(), Some(0o600));
        assert_eq!(std::fs::read_dir(directory.path()).map(Iterator::count).ok(), Some(1));
        assert!(std::fs::write(&path, "nonsense").is_ok());
        assert_eq!(host_key_at(&path).err().and_then(field).as_deref(), Some("hostKey.path"));
        assert_eq!(host_key(Some("nonsense"), None).err().and_then(field).as_deref(), Some("hostKey"));
    }

    #[tokio::test]
    async fn a_sockets_file_goes_with_it_unless_it_is_anothers() {
        let Ok(directory) = tempfile::tempdir() else { panic!("no directory") };
        let path = directory.path().join("s");
        let text = path.display().to_string();
        let Ok((listener, _)) = listen_at(text.clone()) else { panic!("no socket") };
        assert_eq!(listen_at(text.clone()).err().and_then(field).as_deref(), Some("path"));
        drop(listener);
        assert!(!path.exists());
        let Ok((listener, _)) = listen_at(text) else { panic!("no socket") };
        assert!(std::fs::rename(&path, directory.path().join("old")).is_ok());
        assert!(std::fs::write(&path, "another's").is_ok());
        drop(listener);
        assert!(path.exists());
    }
}
