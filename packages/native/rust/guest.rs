//! The way into a running guest: a connection to its agent, and the agent's file protocol on it.
//!
//! One connection is kept for each sandbox handle and carries all short work, because a new one costs two shared arenas
//! and a handshake. What is paced by somebody else, such as a transfer, takes a connection of its own with [`dial`]: one
//! slow receiver stops the others of its connection.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use microsandbox::agent::{AgentClient, AgentClientError};
use microsandbox::backend::with_backend;
use microsandbox::protocol::ProtocolError;
use microsandbox::protocol::bulk::{
    BULK_FLOW_MASK_GUEST_TO_HOST, BULK_FLOW_MASK_HOST_TO_GUEST, BulkAccepted, BulkCancel, BulkCancelReason, BulkCredit,
    BulkFinish, BulkFlow, BulkKind, BulkOffer, BulkReceiveState, BulkRecord, BulkSendState, BulkStateError,
    DEFAULT_BULK_WINDOW,
};
use microsandbox::protocol::core::CoreError;
use microsandbox::protocol::fs::{
    FS_CHUNK_SIZE, FsData, FsEntryInfo, FsOp, FsOpenOptions, FsRequest, FsResponse, FsResponseData, FsSetAttrs,
};
use microsandbox::protocol::message::{Message, MessageType};
use microsandbox::sandbox::Sandbox as EngineSandbox;
use microsandbox::{MicrosandboxError, MicrosandboxResult};
use microsandbox_agent_client::AgentFrame;
use tokio::net::UnixStream;
use tokio::sync::mpsc::Receiver;
use tokio::sync::{Mutex, OnceCell};

use crate::failure::Failure;
use crate::link::{Connection as Link, Outgoing, Stream};
use crate::owner::process;
use crate::pause::current_for_control;
use crate::threads::lasting;

/// How long the guest's agent may take to take a connection.
const DIAL: Duration = Duration::from_secs(10);

/// A kept connection that was not used for this long is given up.
const IDLE: Duration = Duration::from_secs(30);

/// How many connections one sandbox handle keeps for its next programs. A sandbox takes 128, of all handles and processes.
const SPARES: usize = 16;

/// The most that one record of a bulk flow carries.
#[allow(dead_code)] // for transfers
pub(crate) const PIECE: usize = FS_CHUNK_SIZE;

/// Up to here data goes along with its request or its answer: a bulk flow would take longer to begin and to end.
pub(crate) const INLINE: usize = 16 * 1024;

/// How much one request reads: what the guest may send without more credit, so that it comes to its end by itself.
const READ: u64 = DEFAULT_BULK_WINDOW;

/// How long a flow may keep silent before its agent is asked about it.
const SILENCE: Duration = Duration::from_secs(10);

/// A setting of the guest's kernel, and how long that may take to be made before the first program goes without.
const RCU_EXPEDITED: &str = "/sys/kernel/rcu_expedited";
const EXPEDITE: Duration = Duration::from_secs(2);

const IO_ERROR: i32 = 5;

/// Entries of a directory in one answer: with the longest paths still well below the largest frame.
const LISTING: u32 = 512;

/// Whether a connection has lost its other end, and with it this request.
enum Broken {
    /// The request was not delivered: it can be made again.
    Unsent(Failure),
    Failed(Failure),
}

/// A connection to the agent of one sandbox.
pub(crate) struct Connection {
    client: AgentClient,
    sandbox: String,
    used: AtomicBool,
}

/// A client of one's own of the agent of this sandbox, and of no other of its name.
pub(crate) async fn connect(sandbox: &EngineSandbox) -> MicrosandboxResult<AgentClient> {
    let dialled = sandbox.backend().dial_agent(sandbox.name(), DIAL).await;
    // After the dial, and not before: the name was this sandbox's until now, so whoever answered was this sandbox. It is
    // also the better reason when nobody answered.
    Box::pin(current_for_control(sandbox)).await?;
    dialled
}

/// Connections for the programs of one sandbox handle. A program has one of its own; when it has ended by itself, and
/// nothing was said on its connection but what it is and that its input has ended, then the connection is as good as new,
/// and the next program need not wait for a handshake and a look into the catalogue.
#[derive(Default)]
pub(crate) struct Spares {
    waiting: parking_lot::Mutex<Waiting>,
    /// The process that listens for this sandbox, when that was last looked up: its VM's, which is no other sandbox's as long
    /// as it lives.
    listener: Mutex<Option<(u32, String)>>,
    /// Where it listens.
    path: OnceLock<PathBuf>,
    /// Its kernel was told to hurry.
    expedited: OnceCell<()>,
}

#[derive(Default)]
struct Waiting {
    /// The last one is the one that was used last.
    links: Vec<(Instant, Arc<Link>)>,
    /// A task looks for those that are old.
    watched: bool,
}

impl Spares {
    /// Not one to a cloud, which counts what is open.
    pub(crate) fn put(self: &Arc<Self>, link: Arc<Link>) {
        let mut waiting = self.waiting.lock();
        if link.is_socket() && waiting.links.len() < SPARES {
            waiting.links.push((Instant::now(), link));
            if !std::mem::replace(&mut waiting.watched, true) {
                tokio::spawn(give_up_when_old(Arc::downgrade(self)));
            }
        }
    }

    fn take(&self) -> Option<Arc<Link>> {
        self.waiting.lock().links.pop().map(|(_, link)| link)
    }

    /// The socket of a sandbox on this machine. When nobody listens there, the engine knows to say why.
    async fn socket(&self, sandbox: &EngineSandbox) -> Option<UnixStream> {
        sandbox.backend().as_local()?;
        if let Some(path) = self.path.get() {
            return UnixStream::connect(path).await.ok();
        }
        let name = sandbox.name().to_owned();
        let path = Box::pin(with_backend(sandbox.backend().clone(), async move { AgentClient::socket_path(&name) }));
        let path = path.await.ok()?;
        let stream = UnixStream::connect(&path).await.ok()?;
        let _ = self.path.set(path);
        Some(stream)
    }

    /// A new one, of this sandbox and no other of its name, as [`connect`] has it. A program has no use for shared arenas: a
    /// plain socket is made sooner, and one read of it takes many frames.
    async fn connect(&self, sandbox: &EngineSandbox) -> Result<Link, Failure> {
        let Some(stream) = self.socket(sandbox).await else {
            return Ok(Link::over_engine(connect(sandbox).await?).map_err(MicrosandboxError::from)?);
        };
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).and_then(|pid| u32::try_from(pid).ok());
        let listener = pid.and_then(process);
        let (reader, writer) = stream.into_split();
        let greeted = Box::pin(tokio::time::timeout(DIAL, Link::over(reader, writer))).await;
        let greeted = greeted.map_err(|_| Failure::agent_timeout(DIAL)).and_then(|greeted| Ok(greeted?));
        let mut known = self.listener.lock().await;
        if greeted.is_err() || listener.is_none() || *known != listener {
            Box::pin(current_for_control(sandbox)).await?;
            *known = listener;
        }
        let link = greeted?;
        let hurry = async { drop(tokio::time::timeout(EXPEDITE, expedite(&link)).await) };
        self.expedited.get_or_init(|| hurry).await;
        Ok(link)
    }

    /// Ask for a stream on a connection that nobody else uses, and say more on it with the same breath.
    pub(crate) async fn open(
        &self,
        sandbox: &EngineSandbox,
        frames: impl Fn() -> Result<(Outgoing, Option<Outgoing>), ProtocolError>,
    ) -> Result<(Arc<Link>, Stream), Failure> {
        let frames = || frames().map_err(MicrosandboxError::from);
        while let Some(link) = self.take() {
            let (what, more) = frames()?;
            // One that was cut in the meantime takes no request.
            if let Ok(stream) = link.open_with(what, more).await {
                return Ok((link, stream));
            }
        }
        let (what, more) = frames()?;
        let link = Arc::new(self.connect(sandbox).await?);
        let stream = link.open_with(what, more).await?;
        Ok((link, stream))
    }
}

/// Have the guest's kernel not let its programs wait for a grace period of RCU. The agent moves each program that it starts
/// into a cgroup, and the kernel waits for one there, which can be most of what a short program takes. A guest that has no
/// such setting is as slow as it is.
async fn expedite(link: &Link) -> Option<()> {
    let options = FsOpenOptions { write: true, ..FsOpenOptions::default() };
    let opened = file_request(link, FsOp::OpenFile { path: RCU_EXPEDITED.to_owned(), options }, &[]).await?;
    let FsResponse { ok: true, data: Some(FsResponseData::Handle(handle)), .. } = opened else { return None };
    file_request(link, FsOp::Write { handle, offset: 0, len: Some(1) }, &[b"1", b""]).await?;
    file_request(link, FsOp::CloseHandle { handle }, &[]).await.map(|_| ())
}

/// Ask for something of a file on a program's connection, and send data with it. Nothing when there is no answer.
pub(crate) async fn file_request(link: &Link, op: FsOp, data: &[&[u8]]) -> Option<FsResponse> {
    let what = Outgoing::message(MessageType::FsRequest, &FsRequest { op, bulk: None }).ok()?;
    let stream = link.open(what, None).await.ok()?;
    for data in data {
        let data = Outgoing::message(MessageType::FsData, &FsData { data: data.to_vec() }).ok()?;
        link.send(stream.id, data, None).await.ok()?;
    }
    let answer = stream.read().await.ok()?.pop()?.message().ok()??;
    if answer.t == MessageType::FsResponse { answer.payload().ok() } else { None }
}

/// Gives up what was not used for long. Ends when nothing is left.
async fn give_up_when_old(spares: Weak<Spares>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(spares) = spares.upgrade() else { return };
        let mut waiting = spares.waiting.lock();
        waiting.links.retain(|(since, _)| since.elapsed() < IDLE);
        if waiting.links.is_empty() {
            waiting.watched = false;
            return;
        }
    }
}

/// A client of one's own for the file protocol, of this sandbox and no other of its name.
pub(crate) async fn dial(sandbox: &EngineSandbox) -> Result<Arc<Connection>, Failure> {
    let client = connect(sandbox).await?;
    Ok(Arc::new(Connection { client, sandbox: sandbox.name().to_owned(), used: AtomicBool::new(true) }))
}

type Kept = Mutex<Option<Arc<Connection>>>;

/// The kept connection of one sandbox handle: made at its first use, again when it was cut, and given up when idle.
#[derive(Default)]
pub(crate) struct Guest {
    kept: Arc<Kept>,
    pub(crate) spares: Arc<Spares>,
}

impl Guest {
    /// The kept connection, for work that does not wait for anybody but the guest.
    pub(crate) async fn connection(&self, sandbox: &EngineSandbox) -> Result<Arc<Connection>, Failure> {
        let mut kept = self.kept.lock().await;
        if let Some(connection) = &*kept {
            connection.used.store(true, Ordering::Relaxed);
            return Ok(connection.clone());
        }
        let connection = dial(sandbox).await?;
        *kept = Some(connection.clone());
        tokio::spawn(give_up_when_idle(Arc::downgrade(&self.kept)));
        Ok(connection)
    }

    async fn forget(&self, connection: &Arc<Connection>) {
        let mut kept = self.kept.lock().await;
        if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, connection)) {
            kept.take();
        }
    }

    /// Run `ask` on the kept connection, and once more on a new one when the request was not delivered.
    async fn ask<T, F>(&self, sandbox: &EngineSandbox, ask: impl Fn(Arc<Connection>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Broken>>,
    {
        let mut again = true;
        loop {
            let connection = self.connection(sandbox).await?;
            match ask(connection.clone()).await {
                Ok(value) => return Ok(value),
                Err(Broken::Unsent(failure)) => {
                    self.forget(&connection).await;
                    if !std::mem::take(&mut again) {
                        return Err(failure);
                    }
                }
                Err(Broken::Failed(failure)) => {
                    if matches!(failure, Failure::AgentClient { .. }) {
                        self.forget(&connection).await;
                    }
                    return Err(failure);
                }
            }
        }
    }

    /// Ask for something that one answer tells. `path` is what a failure names.
    pub(crate) async fn request(
        &self,
        sandbox: &EngineSandbox,
        path: &str,
        op: &FsOp,
    ) -> Result<Option<FsResponseData>, Failure> {
        self.ask(sandbox, |connection| async move { connection.ask(path, op).await }).await
    }

    pub(crate) async fn stat(&self, sandbox: &EngineSandbox, path: &str, follow: bool) -> Result<FsEntryInfo, Failure> {
        let op = FsOp::Stat { path: path.to_owned(), follow_symlink: follow };
        match self.request(sandbox, path, &op).await? {
            Some(FsResponseData::Stat(info)) => Ok(info),
            _ => Err(unexpected("stat")),
        }
    }

    /// Open a file on the kept connection.
    pub(crate) async fn open(
        &self,
        sandbox: &EngineSandbox,
        path: &str,
        options: &FsOpenOptions,
    ) -> Result<GuestFile, Failure> {
        self.ask(sandbox, |connection| connection.opened(path, options)).await
    }

    /// Open a directory on the kept connection.
    pub(crate) async fn open_directory(&self, sandbox: &EngineSandbox, path: &str) -> Result<GuestDirectory, Failure> {
        self.ask(sandbox, |connection| connection.opened_directory(path)).await
    }
}

/// Looks at times whether a connection was used since the last look. Ends with the connection.
async fn give_up_when_idle(kept: Weak<Kept>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(kept) = kept.upgrade() else { return };
        let mut kept = kept.lock().await;
        match &*kept {
            // A file that is open has it too.
            Some(connection) if connection.used.swap(false, Ordering::Relaxed) || Arc::strong_count(connection) > 1 => {
            }
            _ => {
                kept.take();
                return;
            }
        }
    }
}

impl Connection {
    async fn ask(&self, path: &str, op: &FsOp) -> Result<Option<FsResponseData>, Broken> {
        let request = FsRequest { op: op.clone(), bulk: None };
        match self.client.request(MessageType::FsRequest, &request).await {
            Ok(message) => self.answer(path, &message).map_err(Broken::Failed),
            Err(error) => Err(broken(error)),
        }
    }

    /// Ask for something that one answer tells, on this connection and no other.
    pub(crate) async fn request(&self, path: &str, op: &FsOp) -> Result<Option<FsResponseData>, Failure> {
        self.ask(path, op).await.map_err(Broken::into_failure)
    }

    pub(crate) async fn stat(&self, path: &str, follow: bool) -> Result<FsEntryInfo, Failure> {
        let op = FsOp::Stat { path: path.to_owned(), follow_symlink: follow };
        match self.request(path, &op).await? {
            Some(FsResponseData::Stat(info)) => Ok(info),
            _ => Err(unexpected("stat")),
        }
    }

    /// Open a file. It belongs to this connection.
    pub(crate) async fn open(self: &Arc<Self>, path: &str, options: &FsOpenOptions) -> Result<GuestFile, Failure> {
        self.clone().opened(path, options).await.map_err(Broken::into_failure)
    }

    /// Open a directory. It belongs to this connection.
    pub(crate) async fn open_directory(self: &Arc<Self>, path: &str) -> Result<GuestDirectory, Failure> {
        self.clone().opened_directory(path).await.map_err(Broken::into_failure)
    }

    fn opened(
        self: Arc<Self>,
        path: &str,
        options: &FsOpenOptions,
    ) -> impl Future<Output = Result<GuestFile, Broken>> + Send + use<> {
        let op = FsOp::OpenFile { path: path.to_owned(), options: options.clone() };
        let handle = self.handle(path.to_owned(), op);
        async move { handle.await.map(|handle| GuestFile(Arc::new(handle))) }
    }

    fn opened_directory(
        self: Arc<Self>,
        path: &str,
    ) -> impl Future<Output = Result<GuestDirectory, Broken>> + Send + use<> {
        let handle = self.handle(path.to_owned(), FsOp::OpenDir { path: path.to_owned() });
        async move { handle.await.map(GuestDirectory) }
    }

    /// In a task of its own, so that a handle which arrives when nobody waits for it any more is closed.
    async fn handle(self: Arc<Self>, path: String, op: FsOp) -> Result<Handle, Broken> {
        lasting(async move {
            match self.ask(&path, &op).await? {
                Some(FsResponseData::Handle(id)) => {
                    Ok(Handle { connection: self, id, path, open: AtomicBool::new(true) })
                }
                _ => Err(Broken::Failed(unexpected("open"))),
            }
        })
        .await
    }

    fn answer(&self, path: &str, message: &Message) -> Result<Option<FsResponseData>, Failure> {
        match message.t {
            MessageType::FsResponse => {
                let response: FsResponse = payload(message)?;
                if response.ok {
                    Ok(response.data)
                } else {
                    Err(Failure::file(path, response.error.unwrap_or_default()))
                }
            }
            MessageType::CoreError => {
                let error: CoreError = payload(message)?;
                Err(if error.message.contains("paused") {
                    Failure::sandbox_paused(&self.sandbox)
                } else {
                    Failure::from(MicrosandboxError::Runtime(format!("{:?}: {}", error.kind, error.message)))
                })
            }
            MessageType::BulkCancel => {
                let cancel: BulkCancel = payload(message)?;
                Err(Failure::file(path, cancel.message))
            }
            _ => Err(unexpected(message.t.as_str())),
        }
    }
}

impl Broken {
    fn into_failure(self) -> Failure {
        match self {
            Self::Unsent(failure) | Self::Failed(failure) => failure,
        }
    }
}

/// The reader's end says that the request may have been delivered; every other error comes before that.
fn is_unsent(error: &AgentClientError) -> bool {
    matches!(error, AgentClientError::Io(_) | AgentClientError::Closed | AgentClientError::IdRangeExhausted)
}

fn broken(error: AgentClientError) -> Broken {
    let make = if is_unsent(&error) { Broken::Unsent } else { Broken::Failed };
    make(MicrosandboxError::from(error).into())
}

fn lost(error: AgentClientError) -> Failure {
    MicrosandboxError::from(error).into()
}

fn payload<T: serde::de::DeserializeOwned>(message: &Message) -> Result<T, Failure> {
    message.payload().map_err(|error| MicrosandboxError::from(error).into())
}

fn unexpected(what: &str) -> Failure {
    Failure::Protocol { message: format!("the guest's agent answered {what} with something else") }
}

fn disordered(error: &BulkStateError) -> Failure {
    Failure::Protocol { message: format!("the guest's agent broke the rules of a bulk flow: {error}") }
}

/// Something that is open in the guest, for one connection.
struct Handle {
    connection: Arc<Connection>,
    id: u64,
    path: String,
    open: AtomicBool,
}

impl Handle {
    async fn ask(&self, op: FsOp) -> Result<Option<FsResponseData>, Failure> {
        self.connection.request(&self.path, &op).await
    }

    async fn close(&self) -> Result<(), Failure> {
        self.open.store(false, Ordering::Relaxed);
        self.ask(FsOp::CloseHandle { handle: self.id }).await.map(|_| ())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let (true, Ok(runtime)) = (*self.open.get_mut(), tokio::runtime::Handle::try_current()) {
            let (connection, path, op) =
                (self.connection.clone(), std::mem::take(&mut self.path), FsOp::CloseHandle { handle: self.id });
            runtime.spawn(async move { drop(connection.request(&path, &op).await) });
        }
    }
}

/// A file that is open in the guest. Closed when it is dropped, then without a word whether that worked.
///
/// The agent does one thing at a time with a file, and everything else waits for that: never ask for anything while a
/// [`BulkRead`] of the same file is not read to its end.
pub(crate) struct GuestFile(Arc<Handle>);

impl GuestFile {
    pub(crate) async fn stat(&self) -> Result<FsEntryInfo, Failure> {
        match self.0.ask(FsOp::FStat { handle: self.0.id }).await? {
            Some(FsResponseData::Stat(info)) => Ok(info),
            _ => Err(unexpected("stat")),
        }
    }

    pub(crate) async fn set(&self, attrs: FsSetAttrs) -> Result<(), Failure> {
        self.0.ask(FsOp::FSetStat { handle: self.0.id, attrs }).await.map(|_| ())
    }

    /// Close it. While a flow of it is still being ended, that waits, and nobody for it.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        match Arc::into_inner(self.0) {
            Some(handle) => handle.close().await,
            None => Ok(()),
        }
    }

    /// Read from `offset`, to the end of the file or of `len`.
    pub(crate) fn read(&self, offset: u64, len: Option<u64>) -> BulkRead {
        BulkRead { handle: self.0.clone(), offset, left: len.unwrap_or(u64::MAX), part: None, again: true }
    }

    /// Read up to `len` bytes at `offset` into memory; fewer at the end of the file.
    pub(crate) async fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, Failure> {
        let mut data = Vec::new();
        let mut read = self.read(offset, Some(len as u64));
        while let Some(piece) = read.next().await? {
            data.extend_from_slice(&piece);
        }
        Ok(data)
    }

    /// Write at `offset`, or at the end when the file was opened for that. `len` is how much it will be, if that is known:
    /// the guest refuses more and less.
    pub(crate) async fn write(&self, offset: u64, len: Option<u64>) -> Result<BulkWrite, Failure> {
        let op = FsOp::Write { handle: self.0.id, offset, len };
        let (flow, accepted) =
            Flow::open(&self.0, op, BulkOffer::filesystem_write(), BULK_FLOW_MASK_HOST_TO_GUEST).await?;
        let state = BulkSendState::new(
            BulkKind::Filesystem,
            BulkFlow::HostToGuest,
            accepted.max_record_payload,
            accepted.host_to_guest_credit_limit,
        );
        Ok(BulkWrite { flow, state: state.map_err(|error| disordered(&error))? })
    }

    /// Write all of `data` at `offset`.
    pub(crate) async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), Failure> {
        if data.len() <= INLINE {
            return self.write_inline(offset, data, false).await;
        }
        let mut write = self.write(offset, Some(data.len() as u64)).await?;
        write.send(data).await?;
        write.finish().await
    }

    /// Write all of a file, and close it.
    pub(crate) async fn write_all(self, data: Bytes) -> Result<(), Failure> {
        match data.len() {
            0 => {}
            1..=INLINE => return self.write_inline(0, data, true).await,
            _ => self.write_at(0, data).await?,
        }
        self.close().await
    }

    async fn write_inline(&self, offset: u64, data: Bytes, last: bool) -> Result<(), Failure> {
        let op = FsOp::Write { handle: self.0.id, offset, len: Some(data.len() as u64) };
        inline(self.0.clone(), op, Some(data), last).await.map(|_| ())
    }

    /// Read the first [`INLINE`] bytes, fewer at the end of the file. Of one that answers at once: nothing watches over such
    /// a read.
    pub(crate) async fn read_inline(&self) -> Result<Vec<u8>, Failure> {
        let op = FsOp::Read { handle: self.0.id, offset: 0, len: Some(INLINE as u64) };
        inline(self.0.clone(), op, None, false).await
    }
}

/// Read or write a little of a file. In a task of its own, which has the file: nothing but its end ends this.
///
/// `last`: the file is closed with the same breath. The agent writes what comes in the order in which it comes, so that this
/// is good for a write; with a read that goes on it would wait for the file, and for nothing else.
async fn inline(handle: Arc<Handle>, op: FsOp, data: Option<Bytes>, last: bool) -> Result<Vec<u8>, Failure> {
    lasting(async move {
        let Connection { client, .. } = &*handle.connection;
        let request = FsRequest { op, bulk: None };
        let (id, mut frames) = client.stream_frames(MessageType::FsRequest, &request).await.map_err(lost)?;
        for data in data.into_iter().flat_map(|data| [data.into(), Vec::new()]) {
            client.send(id, MessageType::FsData, &FsData { data }).await.map_err(lost)?;
        }
        let answered = async {
            let mut read = Vec::new();
            loop {
                match frames.recv().await {
                    Some(AgentFrame::Control(message)) if message.t == MessageType::FsData => {
                        let FsData { data } = payload(&message)?;
                        read.extend_from_slice(&data);
                        if read.len() > INLINE {
                            return Err(unexpected("more than was asked for"));
                        }
                    }
                    Some(AgentFrame::Control(message)) => {
                        return handle.connection.answer(&handle.path, &message).map(|_| read);
                    }
                    Some(AgentFrame::Bulk(_)) => return Err(unexpected("a file")),
                    None => return Err(lost(AgentClientError::ReaderClosed(id))),
                }
            }
        };
        let closed = async { if last { handle.close().await } else { Ok(()) } };
        let (answered, closed) = tokio::join!(answered, closed);
        let read = answered?;
        closed.map(|()| read)
    })
    .await
}

/// A bulk flow of one file.
///
/// It is never left: dropped early, it is brought to its end in the background, and has the file and the connection until
/// then. The relay of runtime 0.7.2 takes a record for a client that is just leaving for a fault of the whole relay, and
/// ends the VM with it; and the agent would wait for a flow of a file that is closed, and for nothing else. A write is
/// cancelled, since only the host can end it. A read is not: a `BulkFinish` that crosses its cancel is a fault of the whole
/// relay too.
struct Flow {
    rest: Option<Rest>,
}

/// What there is of a flow on this side.
struct Rest {
    handle: Arc<Handle>,
    id: u32,
    frames: Receiver<AgentFrame>,
    /// Only the host ends it.
    ours: bool,
}

impl Flow {
    async fn open(
        handle: &Arc<Handle>,
        op: FsOp,
        offer: BulkOffer,
        flows: u8,
    ) -> Result<(Self, BulkAccepted), Failure> {
        let (handle, ours) = (handle.clone(), flows == BULK_FLOW_MASK_HOST_TO_GUEST);
        // In a task of its own, so that a flow which begins when nobody waits for it any more is one all the same.
        lasting(async move {
            let request = FsRequest { op, bulk: Some(offer) };
            let opened = handle.connection.client.stream_frames(MessageType::FsRequest, &request).await;
            let (id, frames) = opened.map_err(lost)?;
            let mut flow = Self { rest: Some(Rest { handle, id, frames, ours }) };
            let message = flow.control().await?;
            if message.t != MessageType::BulkAccepted {
                return Err(flow.end(&message).err().unwrap_or_else(|| unexpected("a bulk offer")));
            }
            let accepted: BulkAccepted = payload(&message)?;
            match accepted.validate_against(offer, BulkKind::Filesystem, flows) {
                Ok(accepted) => Ok((flow, accepted)),
                Err(error) => Err(disordered(&error)),
            }
        })
        .await
    }

    /// What there is of it; nothing after its end.
    fn rest(&mut self) -> Result<&mut Rest, Failure> {
        self.rest.as_mut().ok_or_else(|| unexpected("a flow that has ended"))
    }

    async fn frame(&mut self) -> Result<AgentFrame, Failure> {
        let rest = self.rest()?;
        if let Some(frame) = rest.frames.recv().await {
            return Ok(frame);
        }
        let id = rest.id;
        self.rest = None;
        Err(lost(AgentClientError::ReaderClosed(id)))
    }

    async fn control(&mut self) -> Result<Message, Failure> {
        match self.frame().await? {
            AgentFrame::Control(message) => Ok(message),
            AgentFrame::Bulk(_) => Err(unexpected("a bulk flow")),
        }
    }

    async fn send<T: serde::Serialize>(&mut self, kind: MessageType, message: &T) -> Result<(), Failure> {
        let Rest { handle, id, .. } = self.rest()?;
        handle.connection.client.send(*id, kind, message).await.map_err(lost)
    }

    /// What a control message says of the whole flow.
    fn end(&mut self, message: &Message) -> Result<(), Failure> {
        let Rest { handle, .. } = self.rest()?;
        let said = handle.connection.answer(&handle.path, message).map(|_| ());
        if is_last(message) {
            self.rest = None;
        }
        said
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if let (Some(rest), Ok(runtime)) = (self.rest.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(rest.end());
        }
    }
}

impl Rest {
    async fn end(mut self) {
        let mut cancelled = false;
        if self.ours {
            cancelled = true;
            self.cancel().await;
        }
        loop {
            match tokio::time::timeout(SILENCE, self.frames.recv()).await {
                Ok(Some(AgentFrame::Control(message))) if is_last(&message) => return,
                Ok(Some(_)) => {}
                // Of a read that fails half way the relay keeps the agent's last word to itself.
                Err(_) if !cancelled => {
                    cancelled = true;
                    self.cancel().await;
                }
                Ok(None) | Err(_) => return,
            }
        }
    }

    async fn cancel(&self) {
        let cancel = BulkCancel {
            kind: BulkKind::Filesystem,
            reason: BulkCancelReason::CallerCancelled,
            message: "the host wants no more".into(),
        };
        let _ = self.handle.connection.client.cancel_bulk(self.id, &cancel).await;
    }
}

fn is_last(message: &Message) -> bool {
    matches!(message.t, MessageType::FsResponse | MessageType::CoreError)
}

/// Data on its way from a file, [`READ`] bytes with each request.
pub(crate) struct BulkRead {
    handle: Arc<Handle>,
    offset: u64,
    left: u64,
    part: Option<Part>,
    /// It has not been silent since it last went on.
    again: bool,
}

/// The answer to one request.
struct Part {
    flow: Flow,
    state: BulkReceiveState,
    /// How much of what was asked for has not come: at its end, the file's end is there.
    left: u64,
    finished: bool,
    /// The agent was asked whether it still reads.
    asked: bool,
}

enum Next {
    Piece(Bytes),
    End,
    /// The agent does not read any more, and did not say why.
    Stopped,
}

impl BulkRead {
    /// The next piece, at most [`PIECE`] long; `None` at the end. A piece holds a place in shared memory, of which there
    /// are few: copy it soon. Loses nothing when it is dropped while it waits.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while self.left > 0 {
            let part = match &mut self.part {
                Some(part) => part,
                none => none.insert(Part::begin(&self.handle, self.offset, self.left.min(READ)).await?),
            };
            match part.next().await? {
                Next::Piece(piece) => {
                    self.again = true;
                    self.offset += piece.len() as u64;
                    self.left = self.left.saturating_sub(piece.len() as u64);
                    return Ok(Some(piece));
                }
                Next::End if part.left > 0 => self.left = 0,
                Next::End => {}
                // Once more: it may have come to its end, and only its last words were on their way for so long.
                Next::Stopped if std::mem::take(&mut self.again) => {}
                Next::Stopped => {
                    return Err(Failure::file_errno(&self.handle.path, IO_ERROR, "read: the guest cannot read it"));
                }
            }
            self.part = None;
        }
        // The last part has still to say that it is whole.
        if let Some(part) = &mut self.part {
            part.next().await?;
            self.part = None;
        }
        Ok(None)
    }
}

impl Part {
    async fn begin(handle: &Arc<Handle>, offset: u64, len: u64) -> Result<Self, Failure> {
        let op = FsOp::Read { handle: handle.id, offset, len: Some(len) };
        let (flow, accepted) =
            Flow::open(handle, op, BulkOffer::filesystem_read(), BULK_FLOW_MASK_GUEST_TO_HOST).await?;
        let (record, credit) = (accepted.max_record_payload, accepted.guest_to_host_credit_limit);
        let state = BulkReceiveState::new(BulkKind::Filesystem, BulkFlow::GuestToHost, record, credit, READ);
        Ok(Self { flow, state: state.map_err(|error| disordered(&error))?, left: len, finished: false, asked: false })
    }

    async fn next(&mut self) -> Result<Next, Failure> {
        loop {
            let Ok(frame) = tokio::time::timeout(SILENCE, self.flow.frame()).await else {
                self.ask().await?;
                continue;
            };
            match frame? {
                AgentFrame::Bulk(record) => {
                    self.state.accept_record(&record).map_err(|error| disordered(&error))?;
                    let left = self.left.checked_sub(record.payload.len() as u64);
                    self.left = left.ok_or_else(|| unexpected("more than was asked for"))?;
                    return Ok(Next::Piece(record.payload));
                }
                AgentFrame::Control(message) if message.t == MessageType::BulkFinish => {
                    let finish: BulkFinish = payload(&message)?;
                    self.state.accept_finish(finish).map_err(|error| disordered(&error))?;
                    self.finished = true;
                }
                AgentFrame::Control(message) if message.t == MessageType::BulkCancel && self.asked => {
                    return Ok(Next::Stopped);
                }
                AgentFrame::Control(message) => {
                    self.flow.end(&message)?;
                    return if self.finished { Ok(Next::End) } else { Err(unexpected("the end of a read")) };
                }
            }
        }
    }

    /// Of a read that fails the relay of runtime 0.7.2 keeps the agent's last word to itself. But the agent takes credit
    /// only for a read that goes on, which has no need of it, and cancels any other aloud.
    async fn ask(&mut self) -> Result<(), Failure> {
        self.asked = true;
        let (kind, flow) = (BulkKind::Filesystem, BulkFlow::GuestToHost);
        let credit = BulkCredit { kind, flow, consumed_offset: 0, credit_limit: READ };
        self.flow.send(MessageType::BulkCredit, &credit).await
    }
}

/// Data on its way into a file. Nothing is certain before [`BulkWrite::finish`]; dropped before that, what has arrived stays.
pub(crate) struct BulkWrite {
    flow: Flow,
    state: BulkSendState,
}

impl BulkWrite {
    /// Send data of any length. Waits while the guest is more than 8 MiB behind.
    pub(crate) async fn send(&mut self, mut data: Bytes) -> Result<(), Failure> {
        while !data.is_empty() {
            // The agent's words are taken as they come: what waits in this queue stops the whole connection.
            while let Ok(frame) = self.flow.rest()?.frames.try_recv() {
                self.take(&frame)?;
            }
            while self.state.available_credit() == 0 {
                let frame = self.flow.frame().await?;
                self.take(&frame)?;
            }
            let credit = usize::try_from(self.state.available_credit()).unwrap_or(usize::MAX);
            let payload = data.split_to(data.len().min(credit).min(self.state.max_record_payload() as usize));
            let offset = self.state.admit(payload.len()).map_err(|error| disordered(&error))?;
            let Rest { handle, id, .. } = self.flow.rest()?;
            let (kind, flow) = (BulkKind::Filesystem, BulkFlow::HostToGuest);
            let record = BulkRecord { id: *id, kind, flow, offset, payload };
            handle.connection.client.send_bulk(record).await.map_err(lost)?;
        }
        Ok(())
    }

    /// Say that this was all, and wait until the guest has written it.
    pub(crate) async fn finish(mut self) -> Result<(), Failure> {
        let finish = self.state.finish().map_err(|error| disordered(&error))?;
        self.flow.send(MessageType::BulkFinish, &finish).await?;
        loop {
            let message = self.flow.control().await?;
            if message.t != MessageType::BulkCredit {
                return self.flow.end(&message);
            }
        }
    }

    fn take(&mut self, frame: &AgentFrame) -> Result<(), Failure> {
        match frame {
            AgentFrame::Control(message) if message.t == MessageType::BulkCredit => {
                let credit: BulkCredit = payload(message)?;
                self.state.apply_credit(credit).map(|_| ()).map_err(|error| disordered(&error))
            }
            AgentFrame::Control(message) => {
                self.flow.end(message)?;
                Err(unexpected("a write that goes on"))
            }
            AgentFrame::Bulk(_) => Err(unexpected("a write")),
        }
    }
}

/// A directory that is open in the guest.
pub(crate) struct GuestDirectory(Handle);

impl GuestDirectory {
    /// The next entries, of which there may be a million; empty after the last. An entry's path is below the directory's
    /// path as that was given, or so an honest guest says.
    pub(crate) async fn next(&self) -> Result<Vec<FsEntryInfo>, Failure> {
        match self.0.ask(FsOp::ReadDir { handle: self.0.id, limit: Some(LISTING) }).await? {
            Some(FsResponseData::List(entries)) => Ok(entries),
            _ => Err(unexpected("a listing")),
        }
    }

    pub(crate) async fn close(self) -> Result<(), Failure> {
        self.0.close().await
    }
}
