//! A TCP connection that the guest makes for the host, without a published port.
//!
//! Each tunnel has an agent connection of its own, and its bytes are bulk records: each side sends only what the other has
//! given credit for. So a reader that sleeps holds back the guest's program, and nothing else: what arrives is taken from
//! the connection at once, is never more than the window, and the relay has no reason to cut the connection.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use microsandbox::MicrosandboxError;
use microsandbox::agent::AgentClient;
use microsandbox::protocol::bulk::{
    BULK_FLOW_MASK_GUEST_TO_HOST, BULK_FLOW_MASK_HOST_TO_GUEST, BulkAccepted, BulkCancel, BulkCancelReason, BulkCredit,
    BulkFinish, BulkFlow, BulkKind, BulkOffer, BulkReceiveState, BulkRecord, BulkSendState,
};
use microsandbox::protocol::message::{Message, MessageType};
use microsandbox::protocol::tcp::{TcpClose, TcpConnect, TcpFailed};
use microsandbox::sandbox::Sandbox as EngineSandbox;
use microsandbox_agent_client::AgentFrame;
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cancel::CancelToken;
use crate::engine::{EngineState, Kind, Live};
use crate::failure::Failure;
use crate::guest::connect;
use crate::outcome::{Outcome, Stop};
use crate::sandbox::Sandbox;
use crate::slot::{InEngine, Slot};

/// What may be on its way to the host, and so what one tunnel holds in memory: much less than the protocol's default of
/// 8 MiB, since a sandbox may have many tunnels, and enough to keep a guest busy between two grants.
const WINDOW: u64 = 1 << 20;

/// The largest buffer that a read answers with: a record's greatest length. Neighbouring small records become one.
const CHUNK: usize = 256 * 1024;

/// How long a close that is to lose nothing waits for the other end's close. Nothing else tells that the guest has it all:
/// its agent answers for what it took with the next credit, which comes for each half of a window.
const LINGER: Duration = Duration::from_secs(10);

/// How long the guest's agent has to confirm the end of a tunnel.
const LEAVE: Duration = Duration::from_secs(10);

#[napi]
impl Sandbox {
    /// Connect to a TCP port, as the guest sees it: `host` is looked up there.
    #[napi(ts_return_type = "Promise<Outcome<Tunnel>>")]
    pub async fn tunnel(&self, host: String, port: u16, token: &CancelToken) -> napi::Result<Outcome<Tunnel>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let live = value.live.engine().count(Kind::Tunnel);
                let opened = Box::pin(cancel.guard(connect_to(&value.sandbox, host, port, live))).await?;
                Ok::<_, Stop>(Tunnel { slot: Slot::new("tunnel", opened) })
            })
            .await)
    }
}

/// A TCP connection from within the guest.
#[napi]
pub struct Tunnel {
    slot: Slot<TunnelValue>,
}

pub(crate) struct TunnelValue {
    flow: Arc<Flow>,
    writes: mpsc::Sender<Write>,
    grants: mpsc::UnboundedSender<BulkCredit>,
    /// One read at a time.
    reading: tokio::sync::Mutex<()>,
    /// Wakes what is waiting when the handle is closed, and the sender, which then ends the tunnel.
    closing: CancellationToken,
    /// A handle that is dropped is closed.
    _closed: DropGuard,
    sending: Mutex<Option<JoinHandle<()>>>,
    live: Live,
}

impl InEngine for TunnelValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

/// What the two tasks of a tunnel and its readers share.
struct Flow {
    inbox: Mutex<Inbox>,
    /// There is something new in the inbox. It keeps one word for a reader that is about to wait.
    arrived: Notify,
    outbound: Mutex<BulkSendState>,
    /// The guest has given credit.
    credited: Notify,
    /// No more will come from the guest's end, and nothing can be sent to it.
    ended: CancellationToken,
    /// The agent has said its last word.
    over: CancellationToken,
}

/// What came from the guest and has no reader yet.
struct Inbox {
    chunks: VecDeque<Vec<u8>>,
    receive: BulkReceiveState,
    /// Up to where readers have taken it.
    taken: u64,
    /// The guest has said how much there was.
    finished: bool,
    end: Option<End>,
}

/// Why no more will come.
#[derive(Clone)]
enum End {
    /// The guest's end was closed.
    Closed,
    /// The connection within the guest failed, in the words of its agent.
    Failed(String),
    /// The connection to the guest's agent is gone.
    Lost,
}

/// What a reader gets, and what the guest may send on for it.
struct Taken {
    chunk: Vec<u8>,
    grant: Option<BulkCredit>,
}

/// What is to be sent, and who waits for that.
enum Write {
    Data(Bytes, oneshot::Sender<()>),
    Finish(oneshot::Sender<()>),
}

/// Connect to a port of the guest's.
pub(crate) async fn connect_to(
    sandbox: &EngineSandbox,
    host: String,
    port: u16,
    live: Live,
) -> Result<TunnelValue, Failure> {
    let client = connect(sandbox).await?;
    // A guest that is too old for credit would need the engine's older frames, in which a reader that sleeps for
    // 5 seconds is cut off: refused, since runtime 0.7.2 is the only one that is launched.
    client.ensure_version_compat(MessageType::BulkAccepted).map_err(MicrosandboxError::from)?;
    let closing = CancellationToken::new();
    let closed = closing.clone().drop_guard();
    let offer = BulkOffer { guest_to_host_credit_limit: WINDOW, ..BulkOffer::tcp() };
    let request = TcpConnect { host, port, bulk: Some(offer) };
    let (opened, flow) = oneshot::channel();
    let (writes, to_write) = mpsc::channel(1);
    let (grants, to_grant) = mpsc::unbounded_channel();
    // In a task of its own: from here on the tunnel has to be ended, whoever waits for it.
    let sandbox = sandbox.name().to_owned();
    let sending = tokio::spawn({
        let closing = closing.clone();
        async move { run(client, sandbox, request, offer, opened, closing, to_grant, to_write).await }
    });
    let flow =
        flow.await.map_err(|_| Failure::tunnel_lost("the connection to the guest ended before it answered"))??;
    let (reading, sending) = (tokio::sync::Mutex::default(), Mutex::new(Some(sending)));
    Ok(TunnelValue { flow, writes, grants, reading, closing, _closed: closed, sending, live })
}

/// A tunnel from its request to its end.
#[allow(clippy::too_many_arguments)] // the parts of one thing, from its maker
async fn run(
    client: AgentClient,
    sandbox: String,
    request: TcpConnect,
    offer: BulkOffer,
    opened: oneshot::Sender<Result<Arc<Flow>, Failure>>,
    closing: CancellationToken,
    grants: mpsc::UnboundedReceiver<BulkCredit>,
    writes: mpsc::Receiver<Write>,
) {
    let (id, mut frames) = match client.stream_frames(MessageType::TcpConnect, &request).await {
        Ok(stream) => stream,
        Err(error) => {
            let _ = opened.send(Err(MicrosandboxError::from(error).into()));
            return;
        }
    };
    let answered = tokio::select! {
        biased;
        answered = accepted(&mut frames, offer, &sandbox, &request) => answered,
        () = closing.cancelled() => Err(Failure::handle_closed("tunnel")),
    };
    let flow = match answered {
        Ok(flow) => Arc::new(flow),
        Err(failure) => {
            // What refuses a tunnel is its last word, as a rule; a new word would come otherwise.
            let refused = matches!(failure, Failure::TunnelRefused { .. } | Failure::SandboxPaused { .. });
            let _ = opened.send(Err(failure));
            if !refused {
                leave(&client, id, false, drain(frames)).await;
            }
            return;
        }
    };
    let receiving = tokio::spawn(receive(flow.clone(), frames));
    let _ = opened.send(Ok(flow.clone()));
    tokio::select! {
        biased;
        () = closing.cancelled() => {}
        () = send(&client, id, &flow, grants, writes) => {}
    }
    flow.end(End::Closed);
    if !flow.over.is_cancelled() {
        let finished = flow.inbox.lock().finished;
        leave(&client, id, finished, flow.over.cancelled()).await;
    }
    drop(client);
    // The end of its connection is its end.
    let _ = receiving.await;
}

/// The guest's answer, and what the tunnel then is.
async fn accepted(
    frames: &mut mpsc::Receiver<AgentFrame>,
    offer: BulkOffer,
    sandbox: &str,
    request: &TcpConnect,
) -> Result<Flow, Failure> {
    answer(frames.recv().await, MessageType::TcpConnected, sandbox, request)?;
    let accepted = answer(frames.recv().await, MessageType::BulkAccepted, sandbox, request)?;
    let accepted = accepted
        .payload::<BulkAccepted>()
        .map_err(broken_rules)?
        .validate_against(offer, BulkKind::Tcp, BULK_FLOW_MASK_HOST_TO_GUEST | BULK_FLOW_MASK_GUEST_TO_HOST)
        .map_err(broken_rules)?;
    let (record, credit) = (accepted.max_record_payload, accepted.guest_to_host_credit_limit);
    let receive =
        BulkReceiveState::new(BulkKind::Tcp, BulkFlow::GuestToHost, record, credit, WINDOW).map_err(broken_rules)?;
    let credit = accepted.host_to_guest_credit_limit;
    let send = BulkSendState::new(BulkKind::Tcp, BulkFlow::HostToGuest, record, credit).map_err(broken_rules)?;
    Ok(Flow::new(receive, send))
}

/// End a tunnel that the guest has not ended, so that nothing of it is under way when its agent connection goes. The relay
/// of runtime 0.7.2 takes a record for a client that is just leaving for a fault of the whole relay, and ends the VM with
/// it; the same if the guest's `BulkFinish` comes after the answer to a cancel. So the agent is first told to let go of the
/// socket, then asked for something whose answer queues behind all that it had to say of it, and only then is the flow cut.
async fn leave(client: &AgentClient, id: u32, finished: bool, over: impl Future<Output = ()>) {
    let left = async {
        if !finished {
            client.send(id, MessageType::TcpClose, &TcpClose {}).await?;
            // Nobody listens at port 0.
            let nowhere = TcpConnect { host: "127.0.0.1".into(), port: 0, bulk: None };
            client.request(MessageType::TcpConnect, &nowhere).await?;
        }
        let (kind, reason) = (BulkKind::Tcp, BulkCancelReason::CallerCancelled);
        client.cancel_bulk(id, &BulkCancel { kind, reason, message: "the tunnel is closed".into() }).await?;
        over.await;
        Ok::<_, microsandbox::agent::AgentClientError>(())
    };
    let _ = tokio::time::timeout(LEAVE, left).await;
}

async fn drain(mut frames: mpsc::Receiver<AgentFrame>) {
    while let Some(frame) = frames.recv().await {
        if matches!(&frame, AgentFrame::Control(message) if is_last(message)) {
            return;
        }
    }
}

fn is_last(message: &Message) -> bool {
    matches!(message.t, MessageType::TcpClosed | MessageType::TcpFailed | MessageType::CoreError)
}

/// The message that is due, or what the guest said instead.
fn answer(
    frame: Option<AgentFrame>,
    due: MessageType,
    sandbox: &str,
    request: &TcpConnect,
) -> Result<Message, Failure> {
    match frame {
        Some(AgentFrame::Control(message)) if message.t == due => Ok(message),
        Some(AgentFrame::Control(message)) if message.t == MessageType::TcpFailed => {
            let TcpFailed { error } = message.payload().map_err(broken_rules)?;
            Err(Failure::tunnel_refused(error, &request.host, request.port))
        }
        // The relay of a paused sandbox answers for it.
        Some(AgentFrame::Control(message)) if message.t == MessageType::CoreError => {
            Err(Failure::sandbox_paused(sandbox))
        }
        Some(_) => Err(Failure::tunnel_lost("the guest's agent answered with something else")),
        None => Err(Failure::tunnel_lost("the connection to the guest ended before it answered")),
    }
}

fn broken_rules(error: impl std::fmt::Display) -> Failure {
    Failure::tunnel_lost(&format!("the guest's agent broke the rules of the protocol: {error}"))
}

/// Take what comes from the guest as it comes, until its last word.
async fn receive(flow: Arc<Flow>, mut frames: mpsc::Receiver<AgentFrame>) {
    loop {
        let (step, last) = match frames.recv().await {
            // What comes after the end is of no use to anybody.
            Some(AgentFrame::Bulk(_)) if flow.ended.is_cancelled() => (None, false),
            Some(AgentFrame::Bulk(record)) => (flow.accept(&record), false),
            Some(AgentFrame::Control(message)) => (flow.control(&message), is_last(&message)),
            None => (Some(End::Lost), true),
        };
        if let Some(end) = step {
            flow.end(end);
        }
        if last {
            return flow.over.cancel();
        }
    }
}

/// Send grants and data, one after the other: all that goes to the guest goes through here, and no cancelled call can
/// stop it half way.
async fn send(
    client: &AgentClient,
    id: u32,
    flow: &Flow,
    mut grants: mpsc::UnboundedReceiver<BulkCredit>,
    mut writes: mpsc::Receiver<Write>,
) {
    let mut current: Option<Write> = None;
    let mut finished = false;
    loop {
        // A grant first: what the guest may send does not wait for what it takes.
        if let Ok(grant) = grants.try_recv() {
            if client.send(id, MessageType::BulkCredit, &grant).await.is_err() {
                return flow.end(End::Lost);
            }
            continue;
        }
        match current.take() {
            // Nobody waits for credit after the end: its writer is told by the loss of `done`.
            Some(Write::Data(..)) if finished => continue,
            Some(Write::Data(mut data, done)) => {
                if let Some(record) = flow.admit(id, &mut data) {
                    if client.send_bulk(record).await.is_err() {
                        return flow.end(End::Lost);
                    }
                    if data.is_empty() {
                        let _ = done.send(());
                    } else {
                        current = Some(Write::Data(data, done));
                    }
                    continue;
                }
                current = Some(Write::Data(data, done));
            }
            Some(Write::Finish(done)) => {
                finished = true;
                let finish = flow.outbound.lock().finish();
                // A second one has nothing to say.
                if let Ok(finish) = finish
                    && client.send(id, MessageType::BulkFinish, &finish).await.is_err()
                {
                    return flow.end(End::Lost);
                }
                let _ = done.send(());
                continue;
            }
            None => {}
        }
        tokio::select! {
            Some(grant) = grants.recv() => {
                if client.send(id, MessageType::BulkCredit, &grant).await.is_err() {
                    return flow.end(End::Lost);
                }
            }
            write = writes.recv(), if current.is_none() => match write {
                Some(write) => current = Some(write),
                None => return,
            },
            () = flow.credited.notified(), if current.is_some() => {}
            // The agent connection is given up with the guest's end of the tunnel: a sandbox has 128.
            () = flow.ended.cancelled() => return,
        }
    }
}

impl Flow {
    fn new(receive: BulkReceiveState, send: BulkSendState) -> Self {
        let inbox = Inbox { chunks: VecDeque::new(), receive, taken: 0, finished: false, end: None };
        Self {
            inbox: Mutex::new(inbox),
            arrived: Notify::new(),
            outbound: Mutex::new(send),
            credited: Notify::new(),
            ended: CancellationToken::new(),
            over: CancellationToken::new(),
        }
    }

    fn accept(&self, record: &BulkRecord) -> Option<End> {
        let mut inbox = self.inbox.lock();
        if let Err(error) = inbox.receive.accept_record(record) {
            return Some(End::Failed(error.to_string()));
        }
        // A copy: the record lies in memory that is shared with the VM process, which has few places for more.
        match inbox.chunks.back_mut() {
            Some(last) if last.len() + record.payload.len() <= CHUNK => last.extend_from_slice(&record.payload),
            _ => inbox.chunks.push_back(record.payload.to_vec()),
        }
        drop(inbox);
        self.arrived.notify_one();
        None
    }

    fn control(&self, message: &Message) -> Option<End> {
        let understood = match message.t {
            MessageType::BulkCredit => message
                .payload::<BulkCredit>()
                .map_err(|error| error.to_string())
                .and_then(|credit| self.outbound.lock().apply_credit(credit).map_err(|error| error.to_string())),
            MessageType::BulkFinish => {
                message.payload::<BulkFinish>().map_err(|error| error.to_string()).and_then(|finish| {
                    let mut inbox = self.inbox.lock();
                    inbox.receive.accept_finish(finish).map_err(|error| error.to_string())?;
                    inbox.finished = true;
                    inbox.end.get_or_insert(End::Closed);
                    Ok(true)
                })
            }
            MessageType::TcpClosed => return Some(End::Closed),
            MessageType::TcpFailed => {
                let error = message.payload().map_or_else(|error| error.to_string(), |TcpFailed { error }| error);
                return Some(End::Failed(error));
            }
            MessageType::BulkCancel => {
                let error =
                    message.payload().map_or_else(|error| error.to_string(), |BulkCancel { message, .. }| message);
                return Some(End::Failed(error));
            }
            // Another generation's; nothing of it is for a tunnel.
            _ => Ok(false),
        };
        match understood {
            Ok(_) => {
                self.credited.notify_one();
                self.arrived.notify_one();
                None
            }
            Err(error) => Some(End::Failed(error)),
        }
    }

    /// The next record of `data`, as far as credit allows.
    fn admit(&self, id: u32, data: &mut Bytes) -> Option<BulkRecord> {
        let mut state = self.outbound.lock();
        let credit = usize::try_from(state.available_credit()).unwrap_or(usize::MAX);
        let length = data.len().min(state.max_record_payload() as usize).min(credit);
        let offset = state.admit(length).ok()?;
        Some(BulkRecord {
            id,
            kind: BulkKind::Tcp,
            flow: BulkFlow::HostToGuest,
            offset,
            payload: data.split_to(length),
        })
    }

    /// The first reason stays: after the guest has closed its half, a reader has all there is, whatever follows.
    fn end(&self, end: End) {
        self.inbox.lock().end.get_or_insert(end);
        self.ended.cancel();
        self.arrived.notify_one();
    }

    /// What a reader gets now: nothing yet, or a chunk, which is empty at the end.
    fn take(&self) -> Result<Option<Taken>, Failure> {
        let mut inbox = self.inbox.lock();
        if let Some(chunk) = inbox.chunks.pop_front() {
            inbox.taken += chunk.len() as u64;
            let taken = inbox.taken;
            let grant = inbox.receive.consume(taken).map_err(broken_rules)?;
            return Ok(Some(Taken { chunk, grant }));
        }
        match &inbox.end {
            None => Ok(None),
            Some(End::Closed) => Ok(Some(Taken { chunk: Vec::new(), grant: None })),
            Some(End::Failed(error)) => Err(Failure::tunnel_lost(error)),
            Some(End::Lost) => Err(Failure::tunnel_lost("the connection to the guest is gone")),
        }
    }

    /// Why nothing can be written.
    fn unwritable(&self) -> Failure {
        match &self.inbox.lock().end {
            Some(End::Failed(error)) => Failure::tunnel_lost(error),
            Some(End::Lost) => Failure::tunnel_lost("the connection to the guest is gone"),
            Some(End::Closed) | None => {
                Failure::tunnel_lost("the tunnel takes no more: its end was written, or closed")
            }
        }
    }
}

impl TunnelValue {
    /// The next bytes; empty at the end of what the guest's end sends.
    pub(crate) async fn read(&self) -> Result<Vec<u8>, Failure> {
        let _one = self.reading.lock().await;
        loop {
            // Taken and answered in one step: a read that is cancelled while it waits has taken nothing.
            if let Some(Taken { chunk, grant }) = self.flow.take()? {
                if let Some(grant) = grant {
                    // Nobody to tell, when the guest's end is gone.
                    let _ = self.grants.send(grant);
                }
                return Ok(chunk);
            }
            self.flow.arrived.notified().await;
        }
    }

    async fn ask(&self, write: impl FnOnce(oneshot::Sender<()>) -> Write) -> Result<(), Failure> {
        let (done, written) = oneshot::channel();
        self.writes.send(write(done)).await.map_err(|_| self.flow.unwritable())?;
        written.await.map_err(|_| self.flow.unwritable())
    }

    /// Write bytes; answers when the guest's end has given credit for all of them.
    pub(crate) async fn write(&self, data: Bytes) -> Result<(), Failure> {
        self.ask(|done| Write::Data(data, done)).await
    }

    /// End what this end sends.
    pub(crate) async fn finish(&self) -> Result<(), Failure> {
        self.ask(Write::Finish).await
    }

    /// Wait until nothing can be written any more. What has come may still be read.
    pub(crate) async fn ended(&self) {
        self.flow.ended.cancelled().await;
    }

    /// End the tunnel. To lose nothing that was written, the guest's agent must still be there when it writes it: an agent
    /// connection that ends takes the tunnel with it at once.
    pub(crate) async fn close(&self, linger: bool) {
        if linger {
            let closed = async {
                if self.finish().await.is_ok() {
                    self.flow.ended.cancelled().await;
                }
            };
            let _ = tokio::time::timeout(LINGER, closed).await;
        }
        self.closing.cancel();
        let sending = self.sending.lock().take();
        if let Some(sending) = sending {
            // Until then its agent connection is there.
            let _ = sending.await;
        }
    }

    /// Run a part of a call until the handle is closed.
    async fn until_closed<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => Err(Failure::handle_closed("tunnel")),
            done = work => done,
        }
    }
}

#[napi]
impl Tunnel {
    /// The next bytes, as soon as there are some; empty at the end of what the guest's end sends. A read that is cancelled
    /// has taken nothing.
    #[napi(ts_return_type = "Promise<Outcome<Buffer>>")]
    pub async fn read(&self, token: &CancelToken) -> napi::Result<Outcome<Buffer>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let chunk = cancel.guard(value.until_closed(value.read())).await?;
                Ok::<_, Stop>(Buffer::from(chunk))
            })
            .await)
    }

    /// Write bytes; answers when the guest's end has given credit for all of them. When this is cancelled, they are written
    /// or not, all of them, and before those of later writes.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn write(&self, data: Buffer, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                if data.is_empty() {
                    return Ok(());
                }
                let data = Bytes::from_owner(data);
                cancel.guard(value.until_closed(value.write(data))).await
            })
            .await)
    }

    /// End what the host's end sends, after all that was written. Idempotent.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn finish(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move { cancel.guard(value.until_closed(value.finish())).await })
            .await)
    }

    /// End the tunnel and give the handle back. With `linger`, what was written is delivered first, as far as the guest's
    /// end takes it within 10 seconds.
    #[napi]
    pub async fn close(&self, linger: bool) -> napi::Result<()> {
        let Some(value) = self.slot.take() else { return Ok(()) };
        let engine = value.live.engine().clone();
        engine
            .finish(async {
                value.close(linger).await;
                drop(value);
            })
            .await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(window: u64) -> Flow {
        let receive = BulkReceiveState::new(BulkKind::Tcp, BulkFlow::GuestToHost, 1 << 18, window, window);
        let send = BulkSendState::new(BulkKind::Tcp, BulkFlow::HostToGuest, 1 << 14, 1 << 15);
        let (Ok(receive), Ok(send)) = (receive, send) else { panic!("the window") };
        Flow::new(receive, send)
    }

    fn record(offset: u64, payload: &'static [u8]) -> BulkRecord {
        BulkRecord {
            id: 1,
            kind: BulkKind::Tcp,
            flow: BulkFlow::GuestToHost,
            offset,
            payload: Bytes::from_static(payload),
        }
    }

    #[test]
    fn small_records_become_one_chunk_and_the_end_comes_after_them() {
        let flow = flow(1 << 16);
        assert!(flow.accept(&record(0, b"ab")).is_none());
        assert!(flow.accept(&record(2, b"c")).is_none());
        flow.end(End::Closed);
        flow.end(End::Lost);
        assert!(matches!(flow.take(), Ok(Some(Taken { chunk, .. })) if chunk == b"abc"));
        for _ in 0..2 {
            assert!(matches!(flow.take(), Ok(Some(Taken { chunk, .. })) if chunk.is_empty()));
        }
    }

    #[test]
    fn a_grant_comes_with_what_is_read_and_not_with_what_arrives() {
        static HALF: [u8; 1 << 15] = [0; 1 << 15];
        let flow = flow(1 << 16);
        assert!(flow.accept(&record(0, &HALF)).is_none());
        assert!(flow.accept(&record(1 << 15, &HALF)).is_none());
        assert!(matches!(flow.accept(&record(1 << 16, b"more than the window")), Some(End::Failed(_))));
        let Ok(Some(Taken { grant: Some(grant), .. })) = flow.take() else { panic!("no grant") };
        assert_eq!((grant.consumed_offset, grant.credit_limit), (1 << 16, 1 << 17));
    }

    #[test]
    fn what_is_sent_is_cut_into_records_and_stops_at_the_credit() {
        let flow = flow(1 << 16);
        let mut data = Bytes::from(vec![7; 1 << 16]);
        let offsets: Vec<u64> = std::iter::from_fn(|| flow.admit(1, &mut data)).map(|record| record.offset).collect();
        assert_eq!((offsets, data.len()), (vec![0, 1 << 14], 1 << 15));
    }

    #[test]
    fn a_failure_is_told_to_readers_and_writers_in_the_guests_words() {
        let flow = flow(1 << 16);
        flow.end(End::Failed("read TCP stream: Connection reset by peer (os error 104)".into()));
        for failure in [flow.take().err(), Some(flow.unwritable())] {
            assert!(matches!(failure, Some(Failure::TunnelLost { errno: Some(104), .. })));
        }
    }
}
