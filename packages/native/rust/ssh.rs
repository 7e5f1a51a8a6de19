//! A sandbox that SSH clients log in to, by a TCP port or a Unix socket of the host.
//!
//! The engine speaks SSH, on any stream; here are the listener, the limits, and the end. The engine leaves the programs of a
//! connection behind when its client is gone without a word: they would run on in the guest, each with an agent connection, of
//! which a sandbox has 128. So each connection has a small runtime of its own, and all that the engine began for it ends with
//! that: the agent connections are closed, and a guest kills the programs of an agent connection that is gone.

use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use microsandbox::sandbox::Sandbox as EngineSandbox;
use microsandbox::sandbox::ssh::SshServer as EngineServer;
use napi_derive::napi;
use parking_lot::Mutex;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey, decode_secret_key, load_secret_key};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::cancel::CancelToken;
use crate::engine::{EngineState, Kind, Live};
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::sandbox::Sandbox;
use crate::slot::{InEngine, Slot};

/// After this long, a new connection is tried for again when the system had none to give.
const PAUSE: Duration = Duration::from_millis(100);

/// What a client of this process and its server may have sent each other and not read: more than the windows of some channels,
/// since a session of russh that writes does not read. It is memory only as far as it is used.
const PIPE: usize = 64 << 20;

/// How long what a connection had begun on threads of its own may take to end.
const LEAVE: Duration = Duration::from_secs(1);

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
    /// Who a client becomes, whatever it calls itself.
    pub user: Option<String>,
    pub sftp: bool,
    /// 0 is no limit; the engine has a default.
    pub inactivity_ms: Option<f64>,
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

/// A connection on its way to the runtime that it is served on.
enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Here(DuplexStream),
}

pub(crate) fn invalid(field: &str, why: impl std::fmt::Display) -> Failure {
    Failure::InvalidConfig { message: format!("{field}: {why}"), field: Some(field.into()) }
}

async fn open(sandbox: &EngineSandbox, options: SshServerOptions, live: Live) -> Result<SshServer, Failure> {
    let authorized = authorized_keys(&options.authorized_keys, options.authorized_keys_path.as_deref())?;
    let key = host_key(options.host_key.as_deref(), options.host_key_path.as_deref())?;
    let unreadable = |error| Failure::Custom { message: format!("the host key cannot be written as text: {error}") };
    let public = key.public_key();
    let fingerprint = public.fingerprint(HashAlg::Sha256).to_string();
    let host_key = public.to_openssh().map_err(unreadable)?;
    let server = sandbox
        .ssh()
        .server_with(|engine| {
            let mut engine = engine.host_key(key).sftp(options.sftp);
            for key in authorized {
                engine = engine.authorized_key(key);
            }
            if let Some(user) = options.user {
                engine = engine.user(user);
            }
            match options.inactivity_ms {
                Some(limit) => {
                    engine.inactivity_timeout(Duration::try_from_secs_f64(limit / 1000.0).unwrap_or_default())
                }
                None => engine,
            }
        })
        .await?;
    let (listener, place) = match options.path {
        Some(path) => listen_at(path)?,
        None => listen_on(options.host.unwrap_or_else(|| "127.0.0.1".into()), options.port.unwrap_or(0)).await?,
    };
    let closing = CancellationToken::new();
    let closed = closing.clone().drop_guard();
    let accepting = tokio::spawn(accept(listener, server, options.max_connections as usize, closing.clone()));
    let value = ServerValue { closing, _closed: closed, accepting: Mutex::new(Some(accepting)), live };
    Ok(SshServer { slot: Slot::new("SSH server", value), place, host_key, fingerprint })
}

/// Serve one client of this process, who has the one authorized key, until its stream is dropped. When the tracker is empty,
/// all that was begun for it has ended.
pub(crate) async fn serve_on(
    sandbox: &EngineSandbox,
    host_key: PrivateKey,
    authorized: String,
    user: String,
) -> Result<(DuplexStream, TaskTracker), Failure> {
    let server = sandbox
        .ssh()
        .server_with(|engine| {
            engine.host_key(host_key).authorized_key(authorized).user(user).sftp(true).disable_inactivity_timeout()
        })
        .await?;
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let begun = TaskTracker::new();
    let connection = Connection { _place: None, _counted: begun.token() };
    begun.close();
    connection.begin(Accepted::Here(theirs), server, CancellationToken::new());
    Ok((ours, begun))
}

/// The keys that may log in.
fn authorized_keys(lines: &[String], path: Option<&str>) -> Result<Vec<String>, Failure> {
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
    if keys.is_empty() {
        let field = if path.is_some() { "authorizedKeysPath" } else { "authorizedKeys" };
        return Err(invalid(
            field,
            "nobody could log in: give one public key or more, such as the text of id_ed25519.pub",
        ));
    }
    Ok(keys)
}

/// A line may have no options before its key: the engine would not heed what they forbid.
fn authorized_key(line: &str) -> Result<String, String> {
    let wrong = |why: String| {
        format!("must be a public key as OpenSSH writes it, such as \"ssh-ed25519 AAAA… name\", without options: {why}")
    };
    let key = PublicKey::from_openssh(line.trim()).map_err(|error| wrong(error.to_string()))?;
    if !matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::Ecdsa { .. } | Algorithm::Rsa { .. }) {
        return Err(wrong(format!("{} is not served", key.algorithm())));
    }
    Ok(line.trim().to_owned())
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
    async fn next(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream.into_std()?))
            }
            Self::Unix { listener, .. } => Ok(Accepted::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

/// Take connections until the server closes, and then wait for the last one's end.
async fn accept(listener: Listener, server: EngineServer, limit: usize, closing: CancellationToken) {
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
                    let connection = Connection { _place: Some(place), _counted: connections.token() };
                    connection.begin(stream, server.clone(), closing.clone());
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

/// What a connection takes up, until its thread has ended.
struct Connection {
    /// One that a server has listened for.
    _place: Option<OwnedSemaphorePermit>,
    _counted: TaskTrackerToken,
}

impl Connection {
    /// Serve it on a thread of its own. When there is none to be had, it is closed.
    fn begin(self, stream: Accepted, server: EngineServer, closing: CancellationToken) {
        let _ = std::thread::Builder::new().name("microsandbox-ssh".into()).spawn(move || {
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                runtime.block_on(async move {
                    tokio::select! {
                        biased;
                        () = closing.cancelled() => {}
                        () = serve(stream, &server) => {}
                    }
                });
                runtime.shutdown_timeout(LEAVE);
            }
            drop(self);
        });
    }
}

async fn serve(stream: Accepted, server: &EngineServer) {
    match stream {
        Accepted::Tcp(stream) => speak(TcpStream::from_std(stream), server).await,
        Accepted::Unix(stream) => speak(UnixStream::from_std(stream), server).await,
        Accepted::Here(stream) => speak(Ok(stream), server).await,
    }
}

/// How a connection ended is its client's to know.
async fn speak<S>(stream: io::Result<S>, server: &EngineServer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if let Ok(stream) = stream {
        let _ = server.serve(stream).await;
    }
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

    fn field(failure: Failure) -> Option<String> {
        match failure {
            Failure::InvalidConfig { field, .. } => field,
            _ => None,
        }
    }

    #[test]
    fn a_key_is_taken_with_its_comment_and_never_with_options() {
        let lines = |line: &str| authorized_keys(&[line.to_owned()], None);
        assert_eq!(lines(&format!(" {KEY} me@here ")).ok(), Some(vec![format!("{KEY} me@here")]));
        for wrong in [format!("restrict,command=\"/bin/true\" {KEY}"), "ssh-ed25519".into(), "nonsense".into()] {
            assert_eq!(lines(&wrong).err().and_then(field).as_deref(), Some("authorizedKeys.0"), "{wrong}");
        }
        assert_eq!(authorized_keys(&[], None).err().and_then(field).as_deref(), Some("authorizedKeys"));
    }

    #[test]
    fn a_file_of_keys_may_have_comments_and_must_have_a_key() {
        let Ok(file) = tempfile::NamedTempFile::new() else { panic!("no file") };
        let path = file.path().display().to_string();
        let keys = |text: &str| {
            assert!(std::fs::write(file.path(), text).is_ok());
            authorized_keys(&[], Some(&path))
        };
        assert_eq!(keys(&format!("# mine\n\n{KEY} me\n")).ok(), Some(vec![format!("{KEY} me")]));
        for wrong in ["# none\n", "nonsense\n"] {
            assert_eq!(keys(wrong).err().and_then(field).as_deref(), Some("authorizedKeysPath"), "{wrong:?}");
        }
        assert!(matches!(authorized_keys(&[], Some("/no/such/file")), Err(Failure::HostIo { .. })));
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
