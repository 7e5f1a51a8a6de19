//! A connection to a guest's agent that trusts nothing that it is told.
//!
//! The engine's own client has no reason to give when a peer breaks the protocol: it closes, or it drops what it does not
//! understand, and one stream that is not read stops all others for as long as that lasts. This one checks every frame
//! before it is kept: its length before anything is allocated, its flags, its envelope, and that its id is one that was
//! asked for and has had no last word. The first frame that breaks a rule ends the connection, with the rule as the reason.
//!
//! What waits for a reader is bounded ([`WINDOW`] for each stream). A stream that is full holds back the whole connection,
//! since nothing else holds back a guest, but not for longer than [`PATIENCE`]: the relay of runtime 0.7.2 cuts a client that
//! takes nothing for 5 seconds, and that would end the streams of others. Then the one that is not read ends instead.
//!
//! A stream that is given up is ended in the guest too, by the word that its kind has for that. A peer that does not mind
//! may send [`REST`] more, which is dropped; then it is taken for one that will never stop.
//!
//! Over a backend that has no socket of its own (a cloud) the engine's client carries the frames, and this checks what that
//! lets through.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use microsandbox::agent::AgentClient;
use microsandbox::protocol::ProtocolError;
use microsandbox::protocol::bulk::MAX_BULK_RECORD_PAYLOAD;
use microsandbox::protocol::codec::{self, MAX_FRAME_SIZE, RawFrame};
use microsandbox::protocol::core::Ready;
use microsandbox::protocol::exec::ExecSignal;
use microsandbox::protocol::message::{
    FLAG_BULK, FLAG_SESSION_START, FLAG_SHUTDOWN, FLAG_TERMINAL, FRAME_HEADER_SIZE, Message, MessageType,
};
use microsandbox::protocol::tcp::TcpClose;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::failure::Failure;
use crate::options::mistake;

/// The largest body of a frame.
pub(crate) const MAX_BODY: usize = MAX_FRAME_SIZE as usize - FRAME_HEADER_SIZE;

/// What may wait for the reader of one stream; a frame that is larger waits alone.
const WINDOW: usize = 1 << 20;

/// What a frame takes beside its body.
const OVERHEAD: usize = 64;

/// How long a reader may leave its stream full.
const PATIENCE: Duration = Duration::from_secs(3);

/// What may still come on a stream that was given up: what the relay and the agent hold (32 MiB each), and what is on its
/// way.
const REST: usize = 80 << 20;

/// How many streams may be open, or wait for their last word, at a time.
const STREAMS: usize = 1024;

/// How many frames may wait to be written.
const WRITES: usize = 8;

/// Frames are written together up to about this size.
const TOGETHER: usize = 64 * 1024;

const SIGKILL: i32 = 9;

/// One frame of the peer's.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) id: u32,
    pub(crate) flags: u8,
    /// None of a bulk record, which has no envelope.
    pub(crate) kind: Option<MessageType>,
    pub(crate) body: Vec<u8>,
}

impl Frame {
    fn is_last(&self) -> bool {
        self.flags & FLAG_TERMINAL != 0
    }

    fn cost(&self) -> usize {
        self.body.len() + OVERHEAD
    }

    /// Its message; nothing of a bulk record.
    pub(crate) fn message(self) -> Result<Option<Message>, ProtocolError> {
        match self.kind {
            Some(_) => {
                codec::raw_frame_to_message(RawFrame { id: self.id, flags: self.flags, body: self.body }).map(Some)
            }
            None => Ok(None),
        }
    }
}

/// One frame for the peer, without its id.
pub(crate) struct Outgoing {
    pub(crate) flags: u8,
    pub(crate) body: Vec<u8>,
    kind: Option<MessageType>,
}

impl Outgoing {
    /// Flags that are not given are those that the protocol gives the message.
    pub(crate) fn new(flags: Option<u32>, body: Vec<u8>) -> Result<Self, Failure> {
        if body.len() > MAX_BODY {
            return Err(mistake("body", &format!("has {} bytes, and a frame takes {MAX_BODY}", body.len())));
        }
        let given = flags.map(|flags| {
            u8::try_from(flags)
                .ok()
                .filter(|flags| matches!(*flags, 0 | FLAG_TERMINAL | FLAG_SESSION_START | FLAG_SHUTDOWN | FLAG_BULK))
                .ok_or_else(|| mistake("flags", "must be 0, 1, 2, 4 or 8"))
        });
        let given = given.transpose()?;
        if given == Some(FLAG_BULK) || (given == Some(FLAG_SHUTDOWN) && body.is_empty()) {
            return Ok(Self { flags: given.unwrap_or_default(), body, kind: None });
        }
        // The relay closes the connection at what is no envelope, and says nothing.
        let frame = RawFrame { id: 0, flags: 0, body };
        let kind = match codec::raw_frame_to_message(frame.clone()) {
            Ok(message) => Some(message.t),
            // It may be one of a newer agent's.
            Err(error) if is_unknown_type(&error) => None,
            Err(_) => return Err(mistake("body", "is no envelope of the protocol: a CBOR map of v, t and p")),
        };
        let flags = given.unwrap_or_else(|| kind.map_or(0, |kind| kind.flags()));
        Ok(Self { flags, body: frame.body, kind })
    }

    /// A message of this side's own.
    pub(crate) fn message<T: Serialize>(kind: MessageType, payload: &T) -> Result<Self, ProtocolError> {
        let RawFrame { flags, body, .. } = raw(&Message::with_payload(kind, 0, payload)?)?;
        Ok(Self { flags, body, kind: Some(kind) })
    }

    fn frame(self, id: u32) -> RawFrame {
        RawFrame { id, flags: self.flags, body: self.body }
    }
}

/// Why a connection, or a stream of it, has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// By this side.
    Closed,
    /// Nothing came, or nothing was taken, for so long.
    Silent(Duration),
    Broken {
        kind: &'static str,
        message: String,
    },
}

impl Reason {
    fn broken(kind: &'static str, message: impl Into<String>) -> Self {
        Self::Broken { kind, message: message.into() }
    }

    fn peer_closed() -> Self {
        Self::broken("PeerClosed", "the guest's agent closed the connection")
    }

    fn truncated() -> Self {
        Self::broken("Truncated", "the connection ended in the middle of a frame")
    }

    fn too_slow() -> Self {
        Self::broken("SlowReader", format!("a stream with {WINDOW} bytes to read was not read for {PATIENCE:?}"))
    }

    /// What an end of the connection says more than that.
    pub(crate) fn told(self) -> Option<String> {
        match self {
            Self::Broken { kind, message } if kind != "PeerClosed" => Some(message),
            _ => None,
        }
    }

    /// In the words of the greeting, which has one reason for all that can be wrong with it.
    fn of_greeting(self) -> Self {
        match self {
            Self::Broken { message, .. } => Self::broken("Handshake", format!("no greeting of an agent: {message}")),
            other => other,
        }
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Closed => Self::handle_closed("agent"),
            Reason::Silent(limit) => Self::agent_timeout(limit),
            Reason::Broken { kind, message } => Self::AgentClient { message, kind: kind.into() },
        }
    }
}

/// What the peer said of itself when it was connected to.
pub(crate) struct Greeting {
    pub(crate) generation: u8,
    pub(crate) ready: Ready,
    pub(crate) body: Vec<u8>,
}

/// What a reader of a stream and the reader of the socket share.
struct Inbox {
    waiting: Mutex<Waiting>,
    /// There is something to read. One reader waits at a time.
    arrived: Notify,
    /// There is room.
    taken: Notify,
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<Frame>,
    cost: usize,
    end: Option<End>,
}

/// Why no more will come.
enum End {
    /// The last word has come.
    Last,
    Broken(Reason),
}

impl Inbox {
    fn new() -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), arrived: Notify::new(), taken: Notify::new() })
    }

    /// Keep a frame, as soon as there is room for it. False when there was none for too long.
    async fn deliver(&self, frame: Frame) -> bool {
        let mut frame = Some(frame);
        loop {
            {
                let mut waiting = self.waiting.lock();
                if waiting.end.is_some() {
                    return true;
                }
                let cost = frame.as_ref().map_or(0, Frame::cost);
                if waiting.frames.is_empty() || waiting.cost + cost <= WINDOW {
                    if let Some(frame) = frame.take() {
                        waiting.cost += cost;
                        if frame.is_last() {
                            waiting.end = Some(End::Last);
                        }
                        waiting.frames.push_back(frame);
                    }
                    drop(waiting);
                    self.arrived.notify_one();
                    return true;
                }
            }
            if tokio::time::timeout(PATIENCE, self.taken.notified()).await.is_err() {
                return false;
            }
        }
    }

    /// The first reason stays.
    fn end(&self, reason: Reason) {
        self.waiting.lock().end.get_or_insert(End::Broken(reason));
        self.arrived.notify_one();
        self.taken.notify_one();
    }

    /// What waits, up to so many frames; waits until there is something. Empty after the last.
    async fn read(&self, most: usize) -> Result<Vec<Frame>, Reason> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if !waiting.frames.is_empty() {
                    let count = waiting.frames.len().min(most);
                    let frames: Vec<Frame> = waiting.frames.drain(..count).collect();
                    waiting.cost -= frames.iter().map(Frame::cost).sum::<usize>();
                    drop(waiting);
                    self.taken.notify_one();
                    return Ok(frames);
                }
                match &waiting.end {
                    Some(End::Broken(reason)) => return Err(reason.clone()),
                    Some(End::Last) => return Ok(Vec::new()),
                    None => {}
                }
            }
            self.arrived.notified().await;
        }
    }
}

enum Route {
    Open {
        inbox: Arc<Inbox>,
        kind: Option<MessageType>,
        /// Whether the peer can know of it.
        sent: bool,
    },
    /// Given up by this side, and not yet ended by the peer, who may send so much more.
    Left { budget: usize, sent: bool },
}

struct Routes {
    table: HashMap<u32, Route>,
    start: u32,
    next: u32,
    end: u32,
    /// How many frames were sent that the peer may answer with an error also when it has said its last word on their id.
    complaints: u32,
    over: Option<Reason>,
}

impl Routes {
    /// Whose frame it is; nobody's when it is one of a stream that was given up.
    fn take_in(&mut self, frame: &Frame) -> Result<Option<Arc<Inbox>>, Reason> {
        let id = frame.id;
        let last = frame.is_last();
        let asked = match self.table.get_mut(&id) {
            Some(Route::Open { inbox, sent: true, .. }) => Some(Some(inbox.clone())),
            Some(Route::Left { budget, sent: true }) => {
                *budget = budget.checked_sub(frame.cost()).ok_or_else(|| {
                    let message = format!("more than {REST} bytes came on stream {id} after it was given up");
                    Reason::broken("EndlessStream", message)
                })?;
                Some(None)
            }
            _ => None,
        };
        if let Some(inbox) = asked {
            if last {
                self.table.remove(&id);
            }
            return Ok(inbox);
        }
        if !(self.start..self.next).contains(&id) || self.table.contains_key(&id) {
            return Err(Reason::broken("UnknownId", format!("a frame with id {id}, which was not asked for")));
        }
        if frame.kind == Some(MessageType::CoreError) && self.complaints > 0 {
            self.complaints -= 1;
            return Ok(None);
        }
        Err(Reason::broken("ReusedId", format!("a frame with id {id}, which had its last frame before")))
    }
}

/// How frames get to the peer.
enum Out {
    Socket { writes: mpsc::Sender<Write>, farewells: mpsc::UnboundedSender<RawFrame> },
    Engine(Mutex<Option<Arc<AgentClient>>>),
}

struct Write {
    frame: RawFrame,
    opening: bool,
    written: oneshot::Sender<()>,
}

struct Shared {
    routes: Mutex<Routes>,
    out: Out,
    over: CancellationToken,
}

impl Shared {
    fn new(out: Out, start: u32, end: u32) -> Arc<Self> {
        let routes = Routes { table: HashMap::new(), start, next: start, end, complaints: 0, over: None };
        Arc::new(Self { routes: Mutex::new(routes), out, over: CancellationToken::new() })
    }

    /// End the connection, and all that is open on it. The first reason stays.
    fn end(&self, reason: Reason) {
        let open = {
            let mut routes = self.routes.lock();
            if routes.over.is_some() {
                return;
            }
            routes.over = Some(reason.clone());
            std::mem::take(&mut routes.table)
        };
        for route in open.into_values() {
            if let Route::Open { inbox, .. } = route {
                inbox.end(reason.clone());
            }
        }
        if let Out::Engine(client) = &self.out {
            client.lock().take();
        }
        self.over.cancel();
    }

    fn why(&self) -> Reason {
        self.routes.lock().over.clone().unwrap_or_else(Reason::peer_closed)
    }

    fn room(routes: &Routes) -> Result<(), Reason> {
        if let Some(reason) = &routes.over {
            return Err(reason.clone());
        }
        if routes.table.len() >= STREAMS {
            let message = format!("{STREAMS} streams are open, or were given up and have had no last frame");
            return Err(Reason::broken("TooManyStreams", message));
        }
        Ok(())
    }

    /// An id, and where its frames will wait.
    fn reserve(self: &Arc<Self>, kind: Option<MessageType>) -> Result<Stream, Reason> {
        let mut routes = self.routes.lock();
        Self::room(&routes)?;
        if routes.next >= routes.end {
            return Err(Reason::broken("IdRangeExhausted", "the connection has had all of its ids: connect anew"));
        }
        let (id, inbox) = (routes.next, Inbox::new());
        routes.next += 1;
        routes.table.insert(id, Route::Open { inbox: inbox.clone(), kind, sent: false });
        Ok(Stream { shared: self.clone(), id, inbox, reading: tokio::sync::Mutex::default() })
    }

    /// Whether a frame is still to be written. What was given up before that the peer need not hear of.
    fn sending(&self, id: u32, opening: bool) -> bool {
        let mut routes = self.routes.lock();
        if !opening {
            routes.complaints = routes.complaints.saturating_add(1);
            return true;
        }
        if let Some(Route::Open { sent, .. }) = routes.table.get_mut(&id) {
            *sent = true;
            return true;
        }
        routes.table.remove(&id);
        false
    }

    async fn receive(&self, frame: RawFrame) -> Result<(), Reason> {
        let frame = decode(frame)?;
        let id = frame.id;
        let inbox = {
            let mut routes = self.routes.lock();
            // What the engine's client has queued for a stream that was just given up.
            let left = matches!(self.out, Out::Engine(_)) && !routes.table.contains_key(&id);
            if left { None } else { routes.take_in(&frame)? }
        };
        if let Some(inbox) = inbox
            && !inbox.deliver(frame).await
        {
            inbox.end(Reason::too_slow());
            self.leave(id);
        }
        Ok(())
    }

    /// Give a stream up, and tell the peer so if it has a word for that.
    fn leave(&self, id: u32) {
        let (inbox, kind, sent) = {
            let mut routes = self.routes.lock();
            let Some(route) = routes.table.get_mut(&id) else { return };
            let Route::Open { inbox, kind, sent } = route else { return };
            let found = (inbox.clone(), *kind, *sent);
            *route = Route::Left { budget: REST, sent: found.2 };
            if matches!(self.out, Out::Engine(_)) {
                routes.table.remove(&id);
            }
            found
        };
        inbox.end(Reason::Closed);
        let farewell = if sent { farewell(id, kind) } else { None };
        match &self.out {
            Out::Socket { farewells, .. } => {
                if let Some(frame) = farewell {
                    // Nobody writes any more when the peer is gone.
                    let _ = farewells.send(frame);
                }
            }
            Out::Engine(client) => {
                let Some(client) = client.lock().clone() else { return };
                tokio::spawn(async move {
                    if let Some(frame) = farewell {
                        let _ = client.send_raw(frame.id, frame.flags, &frame.body).await;
                    }
                    client.forget_stream(id).await;
                });
            }
        }
    }

    fn is_open(&self, id: u32) -> bool {
        matches!(self.routes.lock().table.get(&id), Some(Route::Open { .. }))
    }
}

/// What ends a session in the guest. A file that is read has no such word, nor has what offers bulk records.
fn farewell(id: u32, kind: Option<MessageType>) -> Option<RawFrame> {
    let message = match kind? {
        MessageType::ExecRequest => Message::with_payload(MessageType::ExecSignal, id, &ExecSignal { signal: SIGKILL }),
        MessageType::TcpConnect => Message::with_payload(MessageType::TcpClose, id, &TcpClose {}),
        _ => return None,
    };
    raw(&message.ok()?).ok()
}

fn raw(message: &Message) -> Result<RawFrame, ProtocolError> {
    let mut buffer = Vec::new();
    codec::encode_to_buf(message, &mut buffer)?;
    Ok(RawFrame { id: message.id, flags: message.flags, body: buffer.split_off(4 + FRAME_HEADER_SIZE) })
}

/// A stream of frames that was asked for. It is given up when it is dropped.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    pub(crate) id: u32,
    inbox: Arc<Inbox>,
    reading: tokio::sync::Mutex<()>,
}

impl Stream {
    /// The frames that are there, as soon as there are some; none after the last one. A read that is dropped while it
    /// waits has taken nothing.
    pub(crate) async fn read(&self) -> Result<Vec<Frame>, Reason> {
        let _one = self.reading.lock().await;
        self.inbox.read(usize::MAX).await
    }

    /// Give it up: also a read that is waiting ends.
    pub(crate) fn leave(&self) {
        self.inbox.end(Reason::Closed);
        self.shared.leave(self.id);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A connection that has been greeted. It is closed when it is dropped.
pub(crate) struct Connection {
    pub(crate) greeting: Greeting,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.end(Reason::Closed);
    }
}

impl Connection {
    /// Be greeted over a socket.
    pub(crate) async fn over<R, W>(reader: R, sink: W) -> Result<Self, Reason>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let mut reader = BufReader::with_capacity(64 * 1024, reader);
        let (start, end, greeting) = greet(&mut reader).await.map_err(Reason::of_greeting)?;
        let (writes, to_write) = mpsc::channel(WRITES);
        let (farewells, to_leave) = mpsc::unbounded_channel();
        let shared = Shared::new(Out::Socket { writes, farewells }, start, end);
        let tasks = TaskTracker::new();
        tasks.spawn(until_over(shared.clone(), read(reader, shared.clone())));
        tasks.spawn(until_over(shared.clone(), write(sink, shared.clone(), to_write, to_leave)));
        Ok(Self { greeting, shared, tasks })
    }

    /// Use a client of the engine's, which has been greeted.
    pub(crate) fn over_engine(client: AgentClient) -> Result<Self, microsandbox::agent::AgentClientError> {
        let greeting = Greeting {
            generation: client.negotiated_version(),
            ready: client.ready()?,
            body: client.ready_bytes().to_vec(),
        };
        let shared = Shared::new(Out::Engine(Mutex::new(Some(Arc::new(client)))), 1, u32::MAX);
        Ok(Self { greeting, shared, tasks: TaskTracker::new() })
    }

    /// Ask for a stream.
    pub(crate) async fn open(&self, what: Outgoing, limit: Option<Duration>) -> Result<Stream, Reason> {
        self.within(limit, self.open_with(what, None)).await
    }

    /// Ask for one frame. When it is not the last one, the stream is given up.
    pub(crate) async fn request(&self, what: Outgoing, limit: Option<Duration>) -> Result<Frame, Reason> {
        let asked = async {
            let stream = self.open_with(what, None).await?;
            let mut frames = stream.inbox.read(1).await?;
            frames.pop().ok_or_else(|| self.shared.why())
        };
        self.within(limit, asked).await
    }

    /// Whether it is a socket of this machine, and nobody's in between.
    pub(crate) fn is_socket(&self) -> bool {
        matches!(self.shared.out, Out::Socket { .. })
    }

    /// Whether a stream has had its last word, on a connection that has not.
    pub(crate) fn is_over(&self, id: u32) -> bool {
        self.shared.routes.lock().over.is_none() && !self.shared.is_open(id)
    }

    /// Send one more frame on a stream; answers when it is written.
    pub(crate) async fn send(&self, id: u32, what: Outgoing, limit: Option<Duration>) -> Result<(), Reason> {
        let ends_the_guest = id == 0 && what.flags == FLAG_SHUTDOWN;
        if !ends_the_guest && !self.shared.is_open(id) {
            let over = self.shared.routes.lock().over.clone();
            let message = format!("stream {id} is not open on this connection: it has ended, or was never asked for");
            return Err(over.unwrap_or_else(|| Reason::broken("StreamEnded", message)));
        }
        let sent = async {
            match &self.shared.out {
                Out::Socket { writes, .. } => {
                    let (written, done) = oneshot::channel();
                    let write = Write { frame: what.frame(id), opening: false, written };
                    writes.send(write).await.map_err(|_| self.shared.why())?;
                    done.await.map_err(|_| self.shared.why())
                }
                Out::Engine(client) => {
                    let client = client.lock().clone().ok_or_else(|| self.shared.why())?;
                    client.send_raw(id, what.flags, &what.body).await.map_err(|_| self.shared.why())
                }
            }
        };
        self.within(limit, sent).await
    }

    /// Close it, and wait until its socket is closed.
    pub(crate) async fn close(&self) {
        self.shared.end(Reason::Closed);
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Ask for a stream, and say more on it with the same breath.
    pub(crate) async fn open_with(&self, what: Outgoing, more: Option<Outgoing>) -> Result<Stream, Reason> {
        match &self.shared.out {
            Out::Socket { writes, .. } => {
                // A place first: from the moment that an id is taken, its frame is on its way.
                let count = 1 + usize::from(more.is_some());
                let mut places = writes.reserve_many(count).await.map_err(|_| self.shared.why())?;
                let stream = self.shared.reserve(what.kind)?;
                let (written, done) = oneshot::channel();
                if let Some(place) = places.next() {
                    place.send(Write { frame: what.frame(stream.id), opening: true, written });
                }
                if let (Some(place), Some(more)) = (places.next(), more) {
                    // Nobody waits for it.
                    let (written, _) = oneshot::channel();
                    place.send(Write { frame: more.frame(stream.id), opening: false, written });
                }
                drop(places);
                done.await.map_err(|_| self.shared.why())?;
                Ok(stream)
            }
            Out::Engine(client) => {
                let client = client.lock().clone().ok_or_else(|| self.shared.why())?;
                Shared::room(&self.shared.routes.lock())?;
                let kind = what.kind;
                let (id, frames) = client.stream_raw(what.flags, what.body).await.map_err(|_| Reason::peer_closed())?;
                if let Some(more) = more {
                    // The request is out: a connection that breaks now is told by the stream's end.
                    let _ = client.send_raw(id, more.flags, &more.body).await;
                }
                let inbox = Inbox::new();
                {
                    let mut routes = self.shared.routes.lock();
                    Shared::room(&routes)?;
                    routes.table.insert(id, Route::Open { inbox: inbox.clone(), kind, sent: true });
                }
                let shared = self.shared.clone();
                self.tasks.spawn(until_over(shared.clone(), pump(shared, id, frames)));
                Ok(Stream { shared: self.shared.clone(), id, inbox, reading: tokio::sync::Mutex::default() })
            }
        }
    }

    /// A peer that is silent for so long has no connection any more.
    async fn within<T>(
        &self,
        limit: Option<Duration>,
        work: impl Future<Output = Result<T, Reason>>,
    ) -> Result<T, Reason> {
        let Some(limit) = limit else { return work.await };
        if let Ok(done) = tokio::time::timeout(limit, work).await {
            return done;
        }
        self.shared.end(Reason::Silent(limit));
        Err(Reason::Silent(limit))
    }
}

/// Run a part of a connection for as long as that is there; what the part ends with, it ends with.
async fn until_over(shared: Arc<Shared>, work: impl Future<Output = Option<Reason>>) {
    tokio::select! {
        biased;
        () = shared.over.cancelled() => {}
        reason = work => if let Some(reason) = reason { shared.end(reason) },
    }
}

async fn read<R: AsyncRead + Unpin>(mut reader: R, shared: Arc<Shared>) -> Option<Reason> {
    loop {
        let received = match read_frame(&mut reader).await {
            Ok(frame) => shared.receive(frame).await,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = received {
            return Some(reason);
        }
    }
}

/// Frames of one stream of the engine's client.
async fn pump(shared: Arc<Shared>, id: u32, mut frames: mpsc::Receiver<RawFrame>) -> Option<Reason> {
    while let Some(frame) = frames.recv().await {
        if let Err(reason) = shared.receive(frame).await {
            return Some(reason);
        }
        if !shared.is_open(id) {
            return None;
        }
    }
    shared.is_open(id).then(Reason::peer_closed)
}

/// Writes what is to be written, one frame after the other, so that no call that is cancelled stops half way. A peer that
/// takes no more may still have something to say: the end is the reader's to find.
async fn write<W: AsyncWrite + Unpin>(
    mut sink: W,
    shared: Arc<Shared>,
    mut writes: mpsc::Receiver<Write>,
    mut farewells: mpsc::UnboundedReceiver<RawFrame>,
) -> Option<Reason> {
    let mut bytes = Vec::new();
    loop {
        let mut next = tokio::select! {
            Some(Write { frame, opening, written }) = writes.recv() => Some((frame, opening, Some(written))),
            Some(frame) = farewells.recv() => Some((frame, false, None)),
            else => return None,
        };
        let mut told = Vec::new();
        while let Some((frame, opening, written)) = next {
            if shared.sending(frame.id, opening) {
                codec::encode_raw_to_buf(&frame, &mut bytes).ok()?;
                told.extend(written);
            }
            // What waits goes along: one write for all.
            next = if bytes.len() < TOGETHER { writes.try_recv().ok() } else { None }
                .map(|Write { frame, opening, written }| (frame, opening, Some(written)));
        }
        if sink.write_all(&bytes).await.is_err() || sink.flush().await.is_err() {
            return None;
        }
        bytes.clear();
        bytes.shrink_to(TOGETHER);
        for written in told {
            // Nobody waits when the call was cancelled.
            let _ = written.send(());
        }
    }
}

/// The range of ids, and the first frame.
async fn greet<R: AsyncRead + Unpin>(reader: &mut R) -> Result<(u32, u32, Greeting), Reason> {
    let (mut start, mut end) = ([0; 4], [0; 4]);
    exactly(reader, &mut start).await?;
    exactly(reader, &mut end).await?;
    // Id 0 is the relay's own.
    let (start, end) = (u32::from_be_bytes(start).max(1), u32::from_be_bytes(end));
    if start >= end {
        return Err(Reason::broken("Handshake", format!("a range of ids from {start} to {end}")));
    }
    let RawFrame { flags, body, .. } = read_frame(reader).await?;
    let message = codec::raw_frame_to_message(RawFrame { id: 0, flags, body: body.clone() }).map_err(invalid)?;
    if message.t != MessageType::Ready {
        return Err(Reason::broken("Handshake", format!("{} comes first", message.t.as_str())));
    }
    let ready = message.payload::<Ready>().map_err(invalid)?;
    Ok((start, end, Greeting { generation: message.v, ready, body }))
}

async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R) -> Result<RawFrame, Reason> {
    let mut length = [0; 4];
    match fill(reader, &mut length).await? {
        0 => return Err(Reason::peer_closed()),
        4 => {}
        _ => return Err(Reason::truncated()),
    }
    let length = u32::from_be_bytes(length);
    if length > MAX_FRAME_SIZE {
        return Err(Reason::broken("Oversized", format!("a frame of {length} bytes; {MAX_FRAME_SIZE} are allowed")));
    }
    let Some(length) = usize::try_from(length).ok().and_then(|length| length.checked_sub(FRAME_HEADER_SIZE)) else {
        return Err(Reason::broken("Undersized", format!("a frame of {length} bytes, which is no header")));
    };
    let mut header = [0; FRAME_HEADER_SIZE];
    exactly(reader, &mut header).await?;
    let [a, b, c, d, flags] = header;
    // A guest starts no session, and shuts nothing down.
    if !matches!(flags, 0 | FLAG_TERMINAL | FLAG_BULK) {
        return Err(Reason::broken("InvalidFlags", format!("a frame with flags {flags}, which are not a guest's")));
    }
    let mut body = vec![0; length];
    exactly(reader, &mut body).await?;
    Ok(RawFrame { id: u32::from_be_bytes([a, b, c, d]), flags, body })
}

async fn exactly<R: AsyncRead + Unpin>(reader: &mut R, buffer: &mut [u8]) -> Result<(), Reason> {
    if fill(reader, buffer).await? < buffer.len() { Err(Reason::truncated()) } else { Ok(()) }
}

/// Fill a buffer, or as much of it as comes before the end.
async fn fill<R: AsyncRead + Unpin>(reader: &mut R, buffer: &mut [u8]) -> Result<usize, Reason> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]).await {
            Ok(0) => break,
            Ok(count) => filled += count,
            // Closed with something unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(Reason::broken("Io", error.to_string())),
        }
    }
    Ok(filled)
}

/// What a frame is, which must be something that the protocol has.
fn decode(frame: RawFrame) -> Result<Frame, Reason> {
    let RawFrame { id, flags, .. } = frame;
    let kind = if flags == FLAG_BULK {
        codec::raw_frame_to_bulk(frame.clone(), MAX_BULK_RECORD_PAYLOAD).map_err(invalid)?;
        None
    } else {
        Some(codec::raw_frame_to_message(frame.clone()).map_err(invalid)?.t)
    };
    Ok(Frame { id, flags, kind, body: frame.body })
}

/// A name that nobody knows is in the text alone: the decoder has one kind of error.
fn is_unknown_type(error: &ProtocolError) -> bool {
    error.to_string().contains("unknown message type")
}

fn invalid(error: ProtocolError) -> Reason {
    let kind = if is_unknown_type(&error) { "UnknownType" } else { "InvalidEnvelope" };
    // It may quote what the peer said, which may be long.
    let text: String = error.to_string().chars().take(200).collect();
    Reason::broken(kind, text)
}

#[cfg(test)]
mod tests {
    use microsandbox::protocol::core::{Ping, Pong};
    use microsandbox::protocol::exec::ExecRequest;
    use tokio::io::{AsyncWriteExt, DuplexStream};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => panic!("{error}"),
        }
    }

    fn message(kind: MessageType, id: u32, payload: &impl serde::Serialize) -> RawFrame {
        let mut buffer = Vec::new();
        let Ok(message) = Message::with_payload(kind, id, payload) else { panic!("the payload") };
        let Ok(()) = codec::encode_to_buf(&message, &mut buffer) else { panic!("the message") };
        let Ok(Some(frame)) = codec::try_decode_raw_from_buf(&mut buffer) else { panic!("the frame") };
        frame
    }

    fn outgoing(kind: MessageType, payload: &impl serde::Serialize) -> Outgoing {
        let Ok(outgoing) = Outgoing::new(None, message(kind, 0, payload).body) else { panic!("the frame") };
        outgoing
    }

    async fn say(peer: &mut DuplexStream, frame: &RawFrame) {
        let Ok(()) = codec::write_raw_frame(peer, frame).await else { panic!("the peer's socket") };
    }

    async fn hear(peer: &mut DuplexStream) -> Message {
        let Ok(message) = codec::read_message(peer).await else { panic!("nothing was said") };
        message
    }

    fn ready() -> RawFrame {
        message(
            MessageType::Ready,
            0,
            &Ready {
                boot_time_ns: 1,
                init_time_ns: 2,
                ready_time_ns: 3,
                agent_version: "0.7.2".into(),
                bulk_transport: None,
                relay_lease: None,
                local_transport: None,
                workload_transport_barrier_version: None,
            },
        )
    }

    async fn welcome(peer: &mut DuplexStream, end: u8) {
        let Ok(()) = peer.write_all(&[0, 0, 0, 5, 0, 0, 0, end]).await else { panic!("the peer's socket") };
        say(peer, &ready()).await;
    }

    async fn connected() -> (Connection, DuplexStream) {
        let (ours, mut peer) = tokio::io::duplex(1 << 16);
        let (reader, writer) = tokio::io::split(ours);
        welcome(&mut peer, 7).await;
        match Connection::over(reader, writer).await {
            Ok(connection) => (connection, peer),
            Err(reason) => panic!("{reason:?}"),
        }
    }

    fn kind(reason: &Reason) -> &'static str {
        match reason {
            Reason::Broken { kind, .. } => kind,
            other => panic!("{other:?}"),
        }
    }

    fn request() -> ExecRequest {
        ExecRequest {
            cmd: "yes".into(),
            args: <_>::default(),
            env: <_>::default(),
            cwd: None,
            user: None,
            tty: false,
            rows: 24,
            cols: 80,
            rlimits: <_>::default(),
        }
    }

    #[test]
    fn ids_are_used_once_and_from_the_range_of_the_greeting() {
        runtime().block_on(async {
            let (connection, mut peer) = connected().await;
            for id in [5, 6] {
                let answered = async {
                    assert_eq!(hear(&mut peer).await.id, id);
                    say(&mut peer, &message(MessageType::Pong, id, &Pong {})).await;
                };
                let (answer, ()) =
                    tokio::join!(connection.request(outgoing(MessageType::Ping, &Ping {}), None), answered);
                assert!(matches!(answer, Ok(Frame { kind: Some(MessageType::Pong), .. })));
            }
            let spent = connection.request(outgoing(MessageType::Ping, &Ping {}), None).await;
            assert_eq!(spent.err().as_ref().map(kind), Some("IdRangeExhausted"));
        });
    }

    #[test]
    fn a_stream_that_is_given_up_is_ended_in_the_guest_and_its_id_stays_taken() {
        runtime().block_on(async {
            let (connection, mut peer) = connected().await;
            let Ok(stream) = connection.open(outgoing(MessageType::ExecRequest, &request()), None).await else {
                panic!("no stream")
            };
            assert_eq!(hear(&mut peer).await.t, MessageType::ExecRequest);
            drop(stream);
            let farewell = hear(&mut peer).await;
            assert_eq!((farewell.id, farewell.t), (5, MessageType::ExecSignal));
            // What was on its way is dropped, and so is the error that the signal may have; a second one is one too many.
            let exited = message(MessageType::ExecExited, 5, &microsandbox::protocol::exec::ExecExited { code: -1 });
            say(&mut peer, &exited).await;
            let error = message(
                MessageType::CoreError,
                5,
                &microsandbox::protocol::core::CoreError {
                    kind: microsandbox::protocol::core::CoreErrorKind::InvalidSession,
                    message: "no such session".into(),
                    offending_type: None,
                    workload_failure: None,
                },
            );
            say(&mut peer, &error).await;
            say(&mut peer, &error).await;
            connection.shared.over.cancelled().await;
            assert_eq!(kind(&connection.shared.why()), "ReusedId");
        });
    }

    #[test]
    fn what_was_given_up_before_it_was_written_is_never_written() {
        runtime().block_on(async {
            let (connection, mut peer) = connected().await;
            let Ok(stream) = connection.shared.reserve(Some(MessageType::ExecRequest)) else { panic!("no id") };
            let id = stream.id;
            drop(stream);
            assert!(!connection.shared.sending(id, true));
            assert!(connection.shared.routes.lock().table.is_empty());
            let (answer, heard) =
                tokio::join!(connection.open(outgoing(MessageType::Ping, &Ping {}), None), hear(&mut peer));
            assert!(answer.is_ok());
            assert_eq!(heard.t, MessageType::Ping);
        });
    }

    #[test]
    fn the_engines_client_carries_it_where_there_is_no_socket() {
        runtime().block_on(async {
            let (ours, mut peer) = tokio::io::duplex(1 << 16);
            welcome(&mut peer, 20).await;
            let limit = Duration::from_secs(5);
            let Ok(client) = AgentClient::connect_stream_with_timeout(ours, limit).await else { panic!("no client") };
            let Ok(connection) = Connection::over_engine(client) else { panic!("no connection") };
            assert_eq!(connection.greeting.ready.agent_version, "0.7.2");
            let answered = async {
                let id = hear(&mut peer).await.id;
                say(&mut peer, &message(MessageType::Pong, id, &Pong {})).await;
            };
            let ping = connection.request(outgoing(MessageType::Ping, &Ping {}), Some(limit));
            let (answer, ()) = tokio::join!(ping, answered);
            assert!(matches!(answer, Ok(Frame { kind: Some(MessageType::Pong), .. })));
            let Ok(stream) = connection.open(outgoing(MessageType::ExecRequest, &request()), None).await else {
                panic!("no stream")
            };
            assert_eq!(hear(&mut peer).await.t, MessageType::ExecRequest);
            let waiting = connection.open(outgoing(MessageType::Ping, &Ping {}), None).await;
            assert!(waiting.is_ok());
            drop(waiting);
            drop(stream);
            let mut said = vec![hear(&mut peer).await.t, hear(&mut peer).await.t];
            said.sort_by_key(MessageType::as_str);
            assert_eq!(said, [MessageType::ExecSignal, MessageType::Ping]);
            let Ok(lost) = connection.open(outgoing(MessageType::Ping, &Ping {}), None).await else {
                panic!("no stream")
            };
            drop(peer);
            assert_eq!(lost.read().await.err().as_ref().map(kind), Some("PeerClosed"));
            connection.close().await;
        });
    }

    #[test]
    fn what_is_sent_is_checked_too() {
        let field = |flags, body| match Outgoing::new(flags, body) {
            Err(Failure::InvalidConfig { field, .. }) => field,
            _ => None,
        };
        let ping = message(MessageType::Ping, 0, &Ping {}).body;
        assert_eq!(field(None, vec![0; MAX_BODY + 1]).as_deref(), Some("body"));
        assert_eq!(field(None, vec![0xff]).as_deref(), Some("body"));
        assert_eq!(field(Some(3), ping.clone()).as_deref(), Some("flags"));
        assert!(matches!(Outgoing::new(None, ping), Ok(Outgoing { flags: 0, kind: Some(MessageType::Ping), .. })));
        let exec = message(MessageType::ExecRequest, 0, &request()).body;
        assert!(matches!(Outgoing::new(None, exec), Ok(Outgoing { flags: FLAG_SESSION_START, .. })));
    }
}
