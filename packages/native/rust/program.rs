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
//! When the program is over, and all was said on it without us, the next program may have it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use microsandbox::MicrosandboxError;
use microsandbox::protocol::ProtocolError;
use microsandbox::protocol::core::CoreError;
use microsandbox::protocol::exec::{
    ExecExited, ExecFailed, ExecRequest, ExecResize, ExecSignal, ExecStarted, ExecStderr, ExecStdin, ExecStdinError,
    ExecStdout,
};
use microsandbox::protocol::fs::{FsOp, FsResponse};
use microsandbox::protocol::message::{Message, MessageType};
use microsandbox::sandbox::Sandbox as EngineSandbox;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::guest::{Spares, file_request};
use crate::link::{Connection, Frame, Outgoing, Stream as Frames};
use crate::output::{Item, Queue, Stream, Tail, Wanted};

/// How long a kill waits for the guest's word that the process has gone.
pub(crate) const KILL_CONFIRM: Duration = Duration::from_secs(5);

/// How much may come above the mark after a program was stopped: what the relay and the agent hold for a client that is
/// slow, so that no program that does stop is ever taken for one that does not.
const SLACK: usize = 32 << 20;

/// The agent refuses frames over 4 MiB; a write is cut into pieces well below that.
const STDIN_PIECE: usize = 1 << 20;

/// How often to look whether a program whose exit is waited for is still there; most are over before the first time.
const LOOK: Duration = Duration::from_millis(250);

/// How long what a program has left behind may still print when the exit is waited for.
const GRACE: Duration = Duration::from_millis(400);

/// The guest's agent reads so much of an output at a time: when it has found as much, there is more.
const FULL: usize = 4096;

/// A read while more is sure to come waits for it: each one costs a crossing of the border, which is worth about as much of
/// copying. It gets this much, or what comes within some turns of its reader (see [`patience`]).
const ENOUGH: usize = 128 << 10;

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

impl Policy {
    /// How much a reader may wait for that could have less: never so much that it stops the program, kills it, or has
    /// output dropped that the reader was there for.
    fn worth_waiting_for(self) -> usize {
        match self {
            Self::Wait(limit) | Self::Fail(limit) => ENOUGH.min(limit / 2),
            Self::Keep { .. } | Self::Discard => 0,
        }
    }
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
    connection: Arc<Connection>,
    id: u32,
    /// More was said than what to run and that its input has ended: an answer, or what it costs, may come later.
    spoken: AtomicBool,
    /// Held from the look at who has stopped the program until the signal is on its way.
    order: tokio::sync::Mutex<()>,
}

impl Link {
    /// Say more of the program. False when it is over.
    async fn say<T: Serialize>(&self, kind: MessageType, payload: &T) -> Result<bool, Failure> {
        let what = Outgoing::message(kind, payload).map_err(MicrosandboxError::from)?;
        match self.connection.send(self.id, what, None).await {
            Ok(()) => Ok(true),
            Err(_) if self.connection.is_over(self.id) => Ok(false),
            Err(reason) => Err(reason.into()),
        }
    }

    async fn signal(&self, signal: i32) -> Result<bool, Failure> {
        self.spoken.store(true, Ordering::Relaxed);
        self.say(MessageType::ExecSignal, &ExecSignal { signal }).await
    }

    /// Whether a process is there; when in doubt, it is.
    async fn has(&self, pid: u32) -> bool {
        let op = FsOp::Stat { path: format!("/proc/{pid}"), follow_symlink: false };
        let answer = file_request(&self.connection, op, &[]).await;
        !matches!(answer, Some(FsResponse { error: Some(why), .. }) if why.contains("(os error 2)"))
    }

    /// An empty frame is the end of the input.
    async fn stdin(&self, data: Vec<u8>) -> Result<bool, Failure> {
        if !data.is_empty() {
            self.spoken.store(true, Ordering::Relaxed);
        }
        self.say(MessageType::ExecStdin, &ExecStdin { data }).await
    }
}

/// A request that is on its way, with the connection that its answers come on.
pub(crate) struct Opened {
    link: Arc<Link>,
    frames: Frames,
}

/// Ask a sandbox for a program. `ends`: it gets no input.
pub(crate) async fn open(
    sandbox: &EngineSandbox,
    spares: &Spares,
    request: &ExecRequest,
    ends: bool,
) -> Result<Opened, Failure> {
    let frames = || -> Result<_, ProtocolError> {
        let end =
            ends.then(|| Outgoing::message(MessageType::ExecStdin, &ExecStdin { data: Vec::new() })).transpose()?;
        Ok((Outgoing::message(MessageType::ExecRequest, request)?, end))
    };
    let (connection, frames) = Box::pin(spares.open(sandbox, frames)).await?;
    let (id, spoken) = (frames.id, AtomicBool::new(request.tty));
    Ok(Opened { link: Arc::new(Link { connection, id, spoken, order: tokio::sync::Mutex::new(()) }), frames })
}

/// What reads the connection of a program and steers it, always and to its end.
pub(crate) type Pump = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A program that was asked for.
pub(crate) struct Program {
    shared: Arc<Shared>,
    pump: Option<AbortHandle>,
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(pump) = &self.pump {
            pump.abort();
        }
        self.shared.link.lock().take();
    }
}

struct Shared {
    sandbox: String,
    spares: Arc<Spares>,
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
    /// How much a reader waits for that could have less.
    gathering: Option<usize>,
    /// The last that came was output, and as much of it as the agent takes at a time.
    full: bool,
    /// How many wait for the exit.
    awaited: usize,
    /// When a reader was last given output.
    given: Option<Instant>,
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
    /// A program, and its pump: nothing happens with it unless that is polled, or given to [`Program::drive`].
    pub(crate) fn new(sandbox: &EngineSandbox, spares: &Arc<Spares>, opened: Opened, terms: Terms) -> (Self, Pump) {
        let shared = Arc::new(Shared {
            sandbox: sandbox.name().to_owned(),
            spares: spares.clone(),
            terms,
            link: parking_lot::Mutex::new(Some(opened.link.clone())),
            state: parking_lot::Mutex::default(),
            changed: watch::Sender::new(()),
            wanted: Notify::new(),
        });
        let pump: Pump = Box::pin(pump(shared.clone(), opened));
        (Self { shared, pump: None }, pump)
    }

    /// Have its pump run by itself, unless that has come to its end.
    pub(crate) fn drive(&mut self, pump: Pump) {
        if self.shared.state.lock().end.is_none() {
            self.pump = Some(tokio::spawn(pump).abort_handle());
        }
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
        let enough = self.shared.terms.policy.worth_waiting_for().min(limit);
        let turn = self.shared.state.lock().given.map(|given| given.elapsed());
        let mut gathered = false;
        let items = loop {
            let found = self.shared.until(|state| {
                if !gathered && self.shared.flows(state, enough) {
                    return Some(None);
                }
                let items = state.queue.take(wanted, limit);
                if !items.is_empty() {
                    state.given = Some(Instant::now());
                    return Some(Some(Ok(items)));
                }
                if let Some(end) = self.shared.ended(state) {
                    return Some(Some(end.map(|_| items)));
                }
                if waiting.is_none() {
                    state.waiting += 1;
                    waiting = Some(Waiting(&self.shared));
                    self.shared.wanted.notify_one();
                }
                None
            });
            if let Some(items) = found.await {
                break items;
            }
            drop(waiting.take());
            self.gather(enough, patience(turn)).await;
            gathered = true;
        };
        self.shared.wanted.notify_one();
        items
    }

    /// Wait until so much is there, or no more is sure to come.
    async fn gather(&self, enough: usize, patience: Duration) {
        self.shared.state.lock().gathering = Some(enough);
        let _gathering = Gathering(&self.shared);
        let gathered = self.shared.until(|state| (!self.shared.flows(state, enough)).then_some(()));
        let _ = tokio::time::timeout(patience, gathered).await;
    }

    /// Write to its stdin; answers when the guest's relay has taken it.
    pub(crate) async fn write(&self, data: &[u8]) -> Result<(), Failure> {
        // An empty frame would be taken for the end of the input; `chunks` makes none.
        for piece in data.chunks(STDIN_PIECE) {
            let Some(link) = self.link() else { return Err(self.input_closed()) };
            if self.shared.state.lock().stdin_failed.is_some() {
                return Err(self.input_closed());
            }
            if !link.stdin(piece.to_vec()).await? {
                return Err(self.input_closed());
            }
        }
        Ok(())
    }

    pub(crate) async fn close_stdin(&self) -> Result<(), Failure> {
        if let Some(link) = self.link() {
            link.stdin(Vec::new()).await?;
        }
        Ok(())
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
        // Only a terminal has a size, and its connection is given up with it.
        if let Some(link) = self.link() {
            link.say(MessageType::ExecResize, &ExecResize { rows, cols }).await?;
        }
        Ok(())
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

struct Gathering<'a>(&'a Shared);

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        self.0.state.lock().gathering = None;
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

    /// Whether there is output, less than so much, and more of it is sure to come.
    fn flows(&self, state: &State, enough: usize) -> bool {
        let room = !state.queue.is_empty() && state.queue.bytes() < enough;
        room && state.full && state.end.is_none() && !state.throttled && self.course(state) == Course::Run
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

    /// Whether all who wait, wait for more than has come.
    fn gathers(&self) -> bool {
        let state = self.state.lock();
        state.waiting == 0 && state.gathering.is_some_and(|enough| self.flows(&state, enough))
    }

    /// Take in what the guest says; the end, if that was the last.
    fn receive(&self, frame: Frame) -> Option<End> {
        let broken = |error: &dyn std::fmt::Display| Some(End::Lost(Some(error.to_string())));
        match frame.message() {
            Ok(Some(message)) => match self.take_in(&message) {
                Ok(end) => end,
                Err(error) => broken(&error),
            },
            Ok(None) => broken(&"a bulk record on the stream of a program"),
            Err(error) => broken(&error),
        }
    }

    fn take_in(&self, message: &Message) -> Result<Option<End>, ProtocolError> {
        let mut state = self.state.lock();
        state.full = false;
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
        state.full = data.len() >= FULL;
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
        loop {
            tokio::time::sleep(LOOK).await;
            if !link.has(pid).await {
                break;
            }
        }
        tokio::time::sleep(GRACE).await;
    }

    fn finish(&self, link: &Link, end: End) {
        self.link.lock().take();
        let silent = link.connection.is_over(link.id) && !link.spoken.load(Ordering::Relaxed);
        if silent && matches!(end, End::Exited(_)) {
            self.spares.put(link.connection.clone());
        }
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

/// How long a reader may wait for more than it could have, when its last turn took so long: most of its time it then waits,
/// whatever a turn costs on this machine.
fn patience(turn: Option<Duration>) -> Duration {
    (turn.unwrap_or_default() * 16).clamp(Duration::from_millis(2), Duration::from_millis(250))
}

/// Reads all that comes, always, and steers the program.
async fn pump(shared: Arc<Shared>, Opened { link, frames }: Opened) {
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
            received = frames.read() => {
                let received = match received {
                    Ok(received) if !received.is_empty() => received,
                    Ok(_) => break End::Lost(None),
                    Err(reason) => break End::Lost(reason.told()),
                };
                // Readers are woken once for all that has come.
                if let Some(end) = received.into_iter().find_map(|frame| shared.receive(frame)) {
                    break end;
                }
                if !shared.gathers() {
                    shared.changed.send_replace(());
                }
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
    shared.finish(&link, end);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_waits_for_less_than_what_stops_or_kills_its_program() {
        for limit in [0, 1, 4096, 65_536, ENOUGH, 4 << 20, usize::MAX] {
            for policy in [Policy::Wait(limit), Policy::Fail(limit)] {
                let worth = policy.worth_waiting_for();
                assert!(worth <= ENOUGH && worth <= limit / 2, "{limit}: {worth}");
            }
        }
        assert_eq!(Policy::Wait(4 << 20).worth_waiting_for(), ENOUGH);
        assert_eq!(Policy::Keep { head: 1 << 20, tail: 1 << 20 }.worth_waiting_for(), 0);
    }

    #[test]
    fn a_reader_waits_for_some_of_its_own_turns() {
        let millis = |turn| patience(Some(Duration::from_millis(turn))).as_millis();
        assert_eq!((patience(None).as_millis(), millis(0), millis(10), millis(1000)), (2, 2, 160, 250));
    }
}
