//! One program in a guest, over an agent connection of its own, and the memory that its output may take.
//!
//! The engine's own handle queues output without end. Not to read the socket is no way out: the relay of a sandbox cuts a
//! client that takes nothing for 5 seconds, and the guest's agent kills the programs of a connection that is cut. (Credit
//! for the output of a program comes with generation 10 of the protocol; runtime 0.7.2 has 9.) To spool what is not read to
//! a file would only move the endless growth to a disk, which is often a tmpfs.
//!
//! So a pump reads the socket at all times, and at a mark of unread bytes it stops the program itself: SIGSTOP to its
//! process group, which is a session of its own, and SIGCONT when half of the mark is left. What is under way then still
//! comes (about 150 KiB, as measured). The price is that the program can see it, as it can see a shell's job control. What
//! a process outside of the group prints (of an interactive shell's jobs, of a daemon that has left it) does not end with
//! that: [`SLACK`] above the mark the group is killed and the connection given up. Unread output is in no case more.
//!
//! The agent says that a program has exited when its outputs are closed, and not before: `sleep 999 & exit 3` would take 999
//! seconds, and nothing but the agent, which reaps it at once, knows the 3. So while somebody waits for the exit, the pump
//! looks whether the program itself is still there; [`GRACE`] after it has gone the rest of its group is killed, and the
//! agent tells. What a process outside of the group holds open stays open.
//!
//! A connection of its own, because one slow receiver of the engine's client stalls all others of its connection, and
//! because that the agent kills what a lost connection has started is just what is wanted: nothing outlives this process.

use std::sync::Arc;
use std::time::Duration;

use microsandbox::MicrosandboxResult;
use microsandbox::agent::AgentClient;
use microsandbox::protocol::core::CoreError;
use microsandbox::protocol::exec::{
    ExecExited, ExecFailed, ExecRequest, ExecResize, ExecSignal, ExecStarted, ExecStderr, ExecStdin, ExecStdinError,
    ExecStdout,
};
use microsandbox::protocol::fs::{FsOp, FsRequest, FsResponse};
use microsandbox::protocol::message::{Message, MessageType};
use microsandbox::sandbox::Sandbox as EngineSandbox;
use microsandbox_agent_client::AgentFrame;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::guest::connect;
use crate::output::{Item, Queue, Stream, Tail, Wanted};

/// How long a kill waits for the guest's word that the process has gone.
pub(crate) const KILL_CONFIRM: Duration = Duration::from_secs(5);

/// How much may come above the mark after a program was stopped: what the relay and the agent hold for a client that is
/// slow, so that no program that does stop is ever taken for one that does not.
const SLACK: usize = 32 << 20;

/// The agent refuses frames over 4 MiB; a write is cut into pieces well below that.
const STDIN_PIECE: usize = 1 << 20;

/// How often to look whether a program whose exit is waited for is still there.
const LOOK: Duration = Duration::from_millis(250);

/// How long what a program has left behind may still print when the exit is waited for.
const GRACE: Duration = Duration::from_millis(400);

const SIGKILL: i32 = 9;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

/// What becomes of output that nobody reads.
#[derive(Clone, Copy)]
pub(crate) enum Policy {
    /// Stop the program at this many bytes.
    Wait(usize),
    /// Kill it above this many.
    Fail(usize),
    /// Drop the middle.
    Keep {
        head: usize,
        tail: usize,
    },
    Discard,
}

/// How to run a program.
pub(crate) struct Terms {
    pub(crate) policy: Policy,
    /// The order of the two outputs does not matter.
    pub(crate) collected: bool,
    pub(crate) tty: bool,
    pub(crate) deadline: Option<(Instant, Duration)>,
}

/// How a program ended, as every later read is told.
#[derive(Clone)]
enum End {
    Exited(i32),
    NotStarted(ExecFailed),
    /// The sandbox, or its relay, refused the request in these words.
    Refused(String),
    TimedOut(Duration),
    Overflowed(usize),
    Lost(Option<String>),
}

/// A connection and the program on it. When the last of these goes, the guest kills the program's group.
struct Link {
    client: AgentClient,
    id: u32,
    /// Held from the look at who has stopped the program until the signal is on its way.
    order: tokio::sync::Mutex<()>,
}

impl Link {
    async fn signal(&self, signal: i32) -> MicrosandboxResult<()> {
        Ok(self.client.send(self.id, MessageType::ExecSignal, &ExecSignal { signal }).await?)
    }

    /// Whether a process is there; when in doubt, it is.
    async fn has(&self, pid: u32) -> bool {
        let op = FsOp::Stat { path: format!("/proc/{pid}"), follow_symlink: false };
        match self.client.request(MessageType::FsRequest, &FsRequest { op, bulk: None }).await {
            Ok(answer) if answer.t == MessageType::FsResponse => {
                !matches!(answer.payload(), Ok(FsResponse { error: Some(why), .. }) if why.contains("(os error 2)"))
            }
            _ => true,
        }
    }

    /// An empty frame is the end of the input.
    async fn stdin(&self, data: Vec<u8>) -> MicrosandboxResult<()> {
        Ok(self.client.send(self.id, MessageType::ExecStdin, &ExecStdin { data }).await?)
    }
}

/// A request that is on its way, with the connection that its answers come on.
pub(crate) struct Opened {
    link: Arc<Link>,
    frames: mpsc::Receiver<AgentFrame>,
}

/// Ask a sandbox for a program.
pub(crate) async fn open(sandbox: &EngineSandbox, request: &ExecRequest) -> MicrosandboxResult<Opened> {
    let client = connect(sandbox).await?;
    let (id, frames) = Box::pin(client.stream_frames(MessageType::ExecRequest, request)).await?;
    Ok(Opened { link: Arc::new(Link { client, id, order: tokio::sync::Mutex::new(()) }), frames })
}

/// A program that was asked for.
pub(crate) struct Program {
    shared: Arc<Shared>,
    pump: AbortHandle,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.pump.abort();
        self.shared.link.lock().take();
    }
}

struct Shared {
    sandbox: String,
    terms: Terms,
    /// Given up at the program's end: a sandbox has 128 connections.
    link: parking_lot::Mutex<Option<Arc<Link>>>,
    state: parking_lot::Mutex<State>,
    /// Something has come.
    changed: watch::Sender<()>,
    /// Something was taken, or is wanted.
    wanted: Notify,
}

#[derive(Default)]
#[allow(clippy::struct_excessive_bools)] // facts that do not depend on each other
struct State {
    queue: Queue,
    tails: [Tail; 2],
    pid: Option<u32>,
    exit: Option<i32>,
    stdin_failed: Option<(String, Option<i32>)>,
    /// Why the program is being killed.
    ending: Option<Ending>,
    end: Option<End>,
    /// Readers that wait, with nothing in the queue for them.
    waiting: usize,
    /// How many wait for the exit.
    awaited: usize,
    /// The program has gone, and what it has left behind keeps its outputs open.
    abandoned: bool,
    /// Stopped by us.
    throttled: bool,
    /// Stopped by the user, who alone continues it.
    halted: bool,
    /// A signal was sent to a program that we had stopped: it runs on until it prints again, to get that signal.
    leave: bool,
    killed: bool,
}

#[derive(Clone)]
enum Ending {
    TimedOut(Duration),
    Overflowed(usize),
    /// The handle is closed: nobody reads any more.
    Closed,
}

/// What the process group should do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    Run,
    Stop,
    Die,
}

impl Program {
    pub(crate) fn new(sandbox: &EngineSandbox, opened: Opened, terms: Terms) -> Self {
        let shared = Arc::new(Shared {
            sandbox: sandbox.name().to_owned(),
            terms,
            link: parking_lot::Mutex::new(Some(opened.link.clone())),
            state: parking_lot::Mutex::default(),
            changed: watch::Sender::new(()),
            wanted: Notify::new(),
        });
        let pump = tokio::spawn(pump(shared.clone(), opened.link, opened.frames)).abort_handle();
        Self { shared, pump }
    }

    /// Its process id, when it has started.
    pub(crate) async fn started(&self) -> Result<u32, Failure> {
        self.shared.until(|state| state.pid.map(Ok).or_else(|| Some(self.shared.ended(state)?.map(|_| 0)))).await
    }

    /// Its exit code, when it has ended.
    pub(crate) async fn exited(&self) -> Result<i32, Failure> {
        self.shared.state.lock().awaited += 1;
        let _awaited = Awaited(&self.shared);
        self.shared.wanted.notify_one();
        self.shared
            .until(|state| match (state.exit, &state.ending) {
                (Some(code), None | Some(Ending::Closed)) => Some(Ok(code)),
                _ => self.shared.ended(state),
            })
            .await
    }

    /// What is there for a reader; waits until something is. Empty after the last.
    pub(crate) async fn read(&self, wanted: Wanted, limit: usize) -> Result<Vec<Item>, Failure> {
        let mut waiting = None;
        let items = self
            .shared
            .until(|state| {
                let items = state.queue.take(wanted, limit);
                if !items.is_empty() {
                    return Some(Ok(items));
                }
                if let Some(end) = self.shared.ended(state) {
                    return Some(end.map(|_| items));
                }
                if waiting.is_none() {
                    state.waiting += 1;
                    waiting = Some(Waiting(&self.shared));
                    self.shared.wanted.notify_one();
                }
                None
            })
            .await;
        self.shared.wanted.notify_one();
        items
    }

    /// Write to its stdin; answers when the guest's relay has taken it.
    pub(crate) async fn write(&self, data: &[u8]) -> Result<(), Failure> {
        // An empty frame would be taken for the end of the input; `chunks` makes none.
        for piece in data.chunks(STDIN_PIECE) {
            let Some(link) = self.link() else { return Err(self.input_closed()) };
            if self.shared.state.lock().stdin_failed.is_some() {
                return Err(self.input_closed());
            }
            link.stdin(piece.to_vec()).await?;
        }
        Ok(())
    }

    pub(crate) async fn close_stdin(&self) -> Result<(), Failure> {
        match self.link() {
            Some(link) => Ok(link.stdin(Vec::new()).await?),
            None => Ok(()),
        }
    }

    fn input_closed(&self) -> Failure {
        match &self.shared.state.lock().stdin_failed {
            Some((message, errno)) => Failure::StdinFailed { message: message.clone(), errno: *errno },
            None => Failure::StdinFailed { message: "the program has ended".into(), errno: None },
        }
    }

    /// Send a signal to its process group. Nothing to signal is no failure: the program has ended.
    pub(crate) async fn signal(&self, signal: i32) -> Result<(), Failure> {
        let Some(link) = self.link() else { return Ok(()) };
        let _order = link.order.lock().await;
        let throttled = {
            let mut state = self.shared.state.lock();
            match signal {
                SIGSTOP => state.halted = true,
                SIGCONT => state.halted = false,
                _ => {}
            }
            state.throttled
        };
        // It is continued when its output is read.
        if signal == SIGCONT && throttled {
            return Ok(());
        }
        link.signal(signal).await?;
        if throttled && signal != SIGSTOP && signal != SIGKILL {
            let halted = {
                let mut state = self.shared.state.lock();
                (state.throttled, state.leave) = (false, true);
                state.halted
            };
            if !halted {
                link.signal(SIGCONT).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn resize(&self, rows: u16, cols: u16) -> Result<(), Failure> {
        match self.link() {
            Some(link) => Ok(link
                .client
                .send(link.id, MessageType::ExecResize, &ExecResize { rows, cols })
                .await
                .map_err(microsandbox::MicrosandboxError::from)?),
            None => Ok(()),
        }
    }

    /// Kill the process group and wait for the guest's word that the program has ended. True when that word came, now or
    /// before.
    pub(crate) async fn kill(&self) -> bool {
        {
            let mut state = self.shared.state.lock();
            state.ending.get_or_insert(Ending::Closed);
        }
        self.shared.wanted.notify_one();
        let ended = self.shared.until(|state| state.end.as_ref().map(|_| state.confirmed()));
        tokio::time::timeout(KILL_CONFIRM, ended).await.unwrap_or(false)
    }

    /// The rest of the output, when the program has ended.
    pub(crate) fn rest(&self, wanted: Wanted) -> Vec<Item> {
        self.shared.state.lock().queue.take(wanted, usize::MAX)
    }

    fn link(&self) -> Option<Arc<Link>> {
        self.shared.link.lock().clone()
    }
}

struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

struct Awaited<'a>(&'a Shared);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.state.lock().awaited -= 1;
    }
}

impl State {
    fn confirmed(&self) -> bool {
        self.exit.is_some() || matches!(self.end, Some(End::NotStarted(_) | End::Refused(_)))
    }
}

impl Shared {
    /// What `found` finds, as soon as it does. It loses nothing when it is dropped while it waits.
    async fn until<T>(&self, mut found: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut changes = self.changed.subscribe();
        loop {
            if let Some(value) = found(&mut self.state.lock()) {
                return value;
            }
            // Never an error: the sender is ours.
            let _ = changes.changed().await;
        }
    }

    /// Why nothing more will come.
    fn ended(&self, state: &State) -> Option<Result<i32, Failure>> {
        let output = || (state.tails[0].text(), state.tails[1].text());
        Some(match state.end.as_ref()? {
            End::Exited(code) => Ok(*code),
            End::NotStarted(failed) => Err(failed.clone().into()),
            End::Refused(message) => Err(Failure::exec_refused(&self.sandbox, message)),
            End::TimedOut(limit) => Err(Failure::exec_timeout(*limit, output())),
            End::Overflowed(limit) => Err(Failure::output_overflow(*limit, output())),
            End::Lost(why) => Err(Failure::exec_session_lost(why.as_deref())),
        })
    }

    fn course(&self, state: &State) -> Course {
        if state.ending.is_some() || state.abandoned {
            return Course::Die;
        }
        let Policy::Wait(high) = self.terms.policy else { return Course::Run };
        // A reader that waits gets nothing from a program that is stopped.
        if state.leave || state.waiting > 0 {
            return Course::Run;
        }
        let mark = if state.throttled { high / 2 } else { high };
        if state.queue.cost() >= mark.max(1) { Course::Stop } else { Course::Run }
    }

    /// Whether there is a signal to be sent.
    fn due(&self) -> bool {
        let state = self.state.lock();
        match self.course(&state) {
            Course::Run => state.throttled,
            Course::Stop => !state.throttled,
            Course::Die => !state.killed,
        }
    }

    /// Send the signal that is due. A connection that is gone cannot carry it, and needs none.
    async fn steer(&self, link: &Link) {
        let _order = link.order.lock().await;
        let signal = {
            let mut state = self.state.lock();
            let course = self.course(&state);
            let changes = match course {
                Course::Run => std::mem::replace(&mut state.throttled, false),
                Course::Stop => !std::mem::replace(&mut state.throttled, true),
                Course::Die => !std::mem::replace(&mut state.killed, true),
            };
            match course {
                Course::Die if changes => SIGKILL,
                Course::Run if changes && !state.halted => SIGCONT,
                Course::Stop if changes && !state.halted => SIGSTOP,
                _ => return,
            }
        };
        let _ = link.signal(signal).await;
    }

    /// Take in what the guest says; the end, if that was the last.
    fn receive(&self, frame: AgentFrame) -> Option<End> {
        let broken = |error: &dyn std::fmt::Display| Some(End::Lost(Some(error.to_string())));
        let AgentFrame::Control(message) = frame else { return broken(&"a bulk record on the stream of a program") };
        match self.take_in(&message) {
            Ok(end) => end,
            Err(error) => broken(&error),
        }
    }

    fn take_in(&self, message: &Message) -> Result<Option<End>, microsandbox::protocol::ProtocolError> {
        let mut state = self.state.lock();
        match message.t {
            MessageType::ExecStarted => {
                let ExecStarted { pid } = message.payload()?;
                state.pid = Some(pid);
                state.queue.push(Item::Started { pid });
            }
            MessageType::ExecStdout => {
                let ExecStdout { data } = message.payload()?;
                self.output(&mut state, Stream::Stdout, &data);
            }
            MessageType::ExecStderr => {
                let ExecStderr { data } = message.payload()?;
                self.output(&mut state, Stream::Stderr, &data);
            }
            MessageType::ExecStdinError => {
                let ExecStdinError { message, errno, .. } = message.payload()?;
                if state.stdin_failed.is_none() {
                    state.stdin_failed = Some((message.clone(), errno));
                    state.queue.push(Item::StdinFailed { message, errno });
                }
            }
            MessageType::ExecExited => {
                let ExecExited { code } = message.payload()?;
                state.exit = Some(code);
                state.queue.push(Item::Exited { code });
                return Ok(Some(End::Exited(code)));
            }
            MessageType::ExecFailed => return Ok(Some(End::NotStarted(message.payload()?))),
            MessageType::CoreError => {
                let CoreError { message, .. } = message.payload()?;
                return Ok(Some(End::Refused(message)));
            }
            other => return Ok(Some(End::Lost(Some(format!("{} on the stream of a program", other.as_str()))))),
        }
        Ok(None)
    }

    fn output(&self, state: &mut State, stream: Stream, data: &[u8]) {
        // After a limit was passed, nothing is held; after a time was, there is a reader for the rest.
        if matches!(state.ending, Some(Ending::Overflowed(_) | Ending::Closed)) {
            return;
        }
        state.tails[stream as usize].push(data);
        state.leave = false;
        if matches!(self.terms.policy, Policy::Discard) {
            return;
        }
        state.queue.output(stream, data, self.terms.collected);
        let limit = match self.terms.policy {
            Policy::Keep { head, tail } => return state.queue.keep(stream, head, tail),
            Policy::Wait(high) => (state.queue.cost() > high.saturating_add(SLACK)).then_some(high),
            Policy::Fail(limit) => (state.queue.bytes() > limit).then_some(limit),
            Policy::Discard => None,
        };
        if let Some(limit) = limit {
            state.ending.get_or_insert(Ending::Overflowed(limit));
        }
    }

    /// The process whose end is to be watched for. A terminal is hung up, and thereby closed, when its leader ends.
    fn watched(&self) -> Option<u32> {
        let state = self.state.lock();
        let watched = state.awaited > 0 && state.ending.is_none() && !state.abandoned && !self.terms.tty;
        state.pid.filter(|_| watched)
    }

    /// Wait until a program has gone, and then a while for the agent to say so.
    async fn gone(&self, link: &Link, pid: u32) {
        while link.has(pid).await {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(GRACE).await;
    }

    fn finish(&self, end: End) {
        self.link.lock().take();
        {
            let mut state = self.state.lock();
            state.end = Some(match (&state.ending, end) {
                (Some(Ending::TimedOut(limit)), _) => End::TimedOut(*limit),
                (Some(Ending::Overflowed(limit)), _) => End::Overflowed(*limit),
                (_, end) => end,
            });
        }
        self.changed.send_replace(());
    }
}

/// Reads all that comes, always, and steers the program.
async fn pump(shared: Arc<Shared>, link: Arc<Link>, mut frames: mpsc::Receiver<AgentFrame>) {
    let mut steering = None;
    let mut watching = None;
    // Until when a program that was killed may take.
    let mut last = None;
    let end = loop {
        if steering.is_none() && shared.due() {
            steering = Some(Box::pin(shared.steer(&link)));
        }
        match shared.watched() {
            Some(pid) if watching.is_none() => watching = Some(Box::pin(shared.gone(&link, pid))),
            None => watching = None,
            Some(_) => {}
        }
        if last.is_none() && shared.state.lock().ending.is_some() {
            last = Some(Instant::now() + KILL_CONFIRM);
        }
        tokio::select! {
            () = async { if let Some(steering) = steering.as_mut() { steering.await } }, if steering.is_some() => {
                steering = None;
            }
            frame = frames.recv() => {
                let Some(frame) = frame else { break End::Lost(None) };
                let end = shared.receive(frame);
                if let Some(end) = end {
                    break end;
                }
                shared.changed.send_replace(());
            }
            () = async { if let Some(watching) = watching.as_mut() { watching.await } }, if watching.is_some() => {
                shared.state.lock().abandoned = true;
            }
            () = shared.wanted.notified() => {}
            limit = late(shared.terms.deadline), if last.is_none() => {
                shared.state.lock().ending.get_or_insert(Ending::TimedOut(limit));
            }
            () = at(last) => break End::Lost(None),
        }
    };
    drop((steering, watching));
    shared.finish(end);
}

async fn late(deadline: Option<(Instant, Duration)>) -> Duration {
    match deadline {
        Some((deadline, limit)) => {
            tokio::time::sleep_until(deadline).await;
            limit
        }
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
