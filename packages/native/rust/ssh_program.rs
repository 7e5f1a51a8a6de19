//! A program of an SSH server: its channel, what it has printed and nobody has read, and its end.
//!
//! A pump takes from the channel while somebody wants it or less than a mark lies unread; else the channel fills, its connection
//! stops, and the server holds the program back. What must reach the server meanwhile, such as a signal, opens the gate for as
//! long as it takes. A channel that closes without an exit status or a signal is no success: nobody knows how the program ended.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cancel::{Cancel, CancelToken};
use crate::engine::{EngineState, Kind, Live};
use crate::exec::{ExecEvent, event};
use crate::failure::Failure;
use crate::outcome::{Outcome, Stop};
use crate::output::{Item, Queue, Stream, Tail, Wanted};
use crate::slot::{InEngine, Slot};
use crate::ssh_client::{Client, Connection, LEAVE, Lane, SshClient};

/// How much may come above the mark for a reader of the other output, or while a signal is on its way.
const SLACK: usize = 32 << 20;

/// How long a program that was killed may take to end before its channel is closed.
const DIE: Duration = Duration::from_secs(2);

/// What to run on a server.
#[napi(object, object_to_js = false)]
pub struct SshProgramOptions {
    /// The user's login shell when absent.
    pub command: Option<String>,
    pub env: Option<BTreeMap<String, String>>,
    pub pty: Option<SshPty>,
    /// Kill the program after this time.
    pub timeout_ms: Option<f64>,
    /// Whether it is written to; an empty input when not.
    pub stdin: bool,
    /// Collected: more than `limit` bytes of output are a failure. Else it waits at so many that nobody has read.
    pub collected: bool,
    pub limit: f64,
}

/// The terminal of a program on a server.
#[napi(object, object_to_js = false)]
pub struct SshPty {
    pub term: String,
    pub rows: u32,
    pub columns: u32,
}

/// How a program ended: its exit code, or the signal that ended it.
#[napi(object, object_from_js = false)]
#[derive(Clone)]
pub struct SshExit {
    pub code: Option<u32>,
    /// Without `SIG`, as the protocol has it.
    pub signal: Option<String>,
    pub core_dumped: bool,
    /// What the server says of the signal; often nothing.
    pub message: String,
}

/// A program's end and the whole of its output.
#[napi(object, object_from_js = false)]
pub struct SshCollected {
    pub exit: SshExit,
    pub stdout: Buffer,
    pub stderr: Buffer,
}

/// Whether the server told that a program has ended.
#[napi(object, object_from_js = false)]
pub struct SshClosed {
    pub confirmed: bool,
}

#[napi]
impl SshClient {
    /// Start a program, or the login shell.
    #[napi(ts_return_type = "Promise<Outcome<SshProgram>>")]
    pub async fn spawn(&self, options: SshProgramOptions, token: &CancelToken) -> napi::Result<Outcome<SshProgram>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let live = value.live.engine().count(Kind::SshProgram);
                let limit = options.timeout_ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
                let deadline = limit.map(|limit| (Instant::now() + limit, limit));
                let program = tokio::select! {
                    biased;
                    () = cancel.requested() => return Err(Stop::Cancelled),
                    limit = late(deadline) => return Err(Stop::Failed(Failure::exec_timeout(limit, <_>::default()))),
                    started = Box::pin(start(&value.client, options, deadline)) => started?,
                };
                let value = ProgramValue { program, closing: CancellationToken::new(), live };
                Ok(SshProgram { slot: Slot::new("SSH program", value) })
            })
            .await)
    }
}

/// Dropped half way, the channel is closed, which is all that a program knows of its end that has hardly begun.
async fn start(
    client: &Client,
    options: SshProgramOptions,
    deadline: Option<(Instant, Duration)>,
) -> Result<Program, Failure> {
    let mut lane = if options.collected { client.lane().await? } else { client.own_lane().await? };
    let write = lane.channel.write.clone();
    let mut early = Vec::new();
    if let Some(SshPty { term, rows, columns }) = &options.pty {
        let sent = write.request_pty(true, term, *columns, *rows, 0, 0, &[]).await;
        lane.ask("pty", sent, || "the server gives no terminal".into(), &mut early).await?;
    }
    for (name, value) in options.env.iter().flatten() {
        let sent = write.set_env(true, name.as_str(), value.as_str()).await;
        let why =
            || format!("the server takes no variable {name}: allow it there (AcceptEnv), or set it in the command");
        lane.ask("env", sent, why, &mut early).await?;
    }
    if let Some(command) = options.command {
        let sent = write.exec(true, command).await;
        lane.ask("exec", sent, || "the server does not run the command".into(), &mut early).await?;
    } else {
        let sent = write.request_shell(true).await;
        lane.ask("shell", sent, || "the server starts no shell".into(), &mut early).await?;
    }
    if !options.stdin && write.eof().await.is_err() {
        return Err(lane.channel.connection.lost());
    }
    // TypeScript lets whole numbers through that a number holds exactly.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let limit = options.limit as usize;
    Ok(Program::new(lane, early, Terms { collected: options.collected, limit, deadline }))
}

struct Terms {
    collected: bool,
    limit: usize,
    deadline: Option<(Instant, Duration)>,
}

/// A program that runs on a server.
struct Program {
    shared: Arc<Shared>,
    pump: AbortHandle,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

struct Shared {
    terms: Terms,
    write: Arc<ChannelWriteHalf<Msg>>,
    connection: Arc<Connection>,
    own: bool,
    state: parking_lot::Mutex<State>,
    /// Something has come.
    changed: watch::Sender<()>,
    /// Something was taken, or is wanted.
    wanted: Notify,
}

#[derive(Default)]
struct State {
    queue: Queue,
    tails: [Tail; 2],
    exit: Option<SshExit>,
    /// Nothing more will be printed.
    eof: bool,
    /// Why it is being killed.
    ending: Option<Ending>,
    end: Option<End>,
    /// Readers that wait, with nothing in the queue for them.
    waiting: usize,
    /// What is on its way to the server.
    urgent: usize,
}

#[derive(Clone, Copy)]
enum Ending {
    TimedOut(Duration),
    Overflowed(usize),
    /// The handle is closed: nobody reads any more.
    Closed,
}

#[derive(Clone)]
enum End {
    /// The server has closed the channel. How the program ended is in `exit`, or was not told.
    Closed,
    TimedOut(Duration),
    Overflowed(usize),
    Lost,
}

impl Program {
    fn new(lane: Lane, early: Vec<ChannelMsg>, terms: Terms) -> Self {
        let shared = Arc::new(Shared {
            terms,
            write: lane.channel.write.clone(),
            connection: lane.channel.connection.clone(),
            own: lane.channel.own,
            state: parking_lot::Mutex::default(),
            changed: watch::Sender::new(()),
            wanted: Notify::new(),
        });
        let pump = tokio::spawn(pump(shared.clone(), lane, early)).abort_handle();
        Self { shared, pump }
    }

    /// How it ended, as soon as that is told.
    async fn exited(&self) -> Result<SshExit, Failure> {
        self.shared
            .until(|state| match (&state.exit, &state.ending) {
                (Some(exit), None | Some(Ending::Closed)) => Some(Ok(exit.clone())),
                _ => self
                    .shared
                    .ended(state)
                    .map(|end| end.and_then(|exit| exit.ok_or_else(Failure::ssh_no_exit_status))),
            })
            .await
    }

    /// How it ended, when nothing more will come.
    async fn finished(&self) -> Result<SshExit, Failure> {
        let ended = self.shared.until(|state| self.shared.ended(state)).await?;
        ended.ok_or_else(Failure::ssh_no_exit_status)
    }

    /// What is there for a reader; waits until something is. Empty after the last.
    async fn read(&self, wanted: Wanted, limit: usize) -> Result<Vec<Item>, Failure> {
        let mut waiting = None;
        let items = self
            .shared
            .until(|state| {
                let items = state.queue.take(wanted, limit);
                if !items.is_empty() || (state.eof && state.ending.is_none()) {
                    return Some(Ok(items));
                }
                if let Some(end) = self.shared.ended(state) {
                    return Some(match end {
                        Ok(Some(_)) => Ok(items),
                        Ok(None) => Err(Failure::ssh_no_exit_status()),
                        Err(failure) => Err(failure),
                    });
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

    /// Write to its stdin; waits for the server's window.
    async fn write(&self, data: Bytes) -> Result<(), Failure> {
        let gone = self.shared.until(|state| state.end.as_ref().map(|_| ()));
        let closed = || Failure::StdinFailed { message: "the program has ended".into(), errno: None };
        tokio::select! {
            biased;
            () = gone => Err(closed()),
            sent = self.shared.write.data_bytes(data) => sent.map_err(|_| closed()),
        }
    }

    /// Whatever waits for the connection goes on until `ask` is done and the server has seen it.
    async fn control(&self, ask: impl Future<Output = Result<(), russh::Error>>) -> Result<(), Failure> {
        if self.shared.state.lock().end.is_some() {
            return Ok(());
        }
        self.shared.state.lock().urgent += 1;
        let _urgent = Urgent(&self.shared);
        self.shared.wanted.notify_one();
        let gone = self.shared.until(|state| state.end.as_ref().map(|_| ()));
        tokio::select! {
            biased;
            () = gone => Ok(()),
            sent = async {
                ask.await?;
                self.shared.connection.ping().await;
                Ok::<_, russh::Error>(())
            } => sent.map_err(|_| self.shared.connection.lost()),
        }
    }

    /// Kill it, if it runs. True when the server has told that it has ended, now or before.
    async fn kill(&self) -> bool {
        self.shared.state.lock().ending.get_or_insert(Ending::Closed);
        self.shared.wanted.notify_one();
        self.shared
            .until(|state| state.end.as_ref().map(|end| matches!(end, End::Closed) || state.exit.is_some()))
            .await
    }

    fn rest(&self) -> Vec<Item> {
        self.shared.state.lock().queue.take(Wanted::Both, usize::MAX)
    }
}

struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

struct Urgent<'a>(&'a Shared);

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.state.lock().urgent -= 1;
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

    /// Why nothing more will come; without an exit when that was not told.
    fn ended(&self, state: &State) -> Option<Result<Option<SshExit>, Failure>> {
        let output = || (state.tails[0].text(), state.tails[1].text());
        Some(match state.end.as_ref()? {
            End::Closed => Ok(state.exit.clone()),
            End::TimedOut(limit) => Err(Failure::exec_timeout(*limit, output())),
            End::Overflowed(limit) => Err(Failure::output_overflow(*limit, output())),
            End::Lost => Err(self.connection.lost()),
        })
    }

    /// Whether to take what comes.
    fn is_open(&self) -> bool {
        let state = self.state.lock();
        self.terms.collected
            || self.connection.over.is_cancelled()
            || state.ending.is_some()
            || state.urgent > 0
            || state.waiting > 0
            || state.queue.cost() < self.terms.limit.max(1)
    }

    /// Take in what the server says; whether that was the last.
    fn receive(&self, message: ChannelMsg) -> bool {
        let mut state = self.state.lock();
        match message {
            ChannelMsg::Data { data } => self.output(&mut state, Stream::Stdout, &data),
            // The protocol has no other.
            ChannelMsg::ExtendedData { data, .. } => self.output(&mut state, Stream::Stderr, &data),
            ChannelMsg::Eof => state.eof = true,
            ChannelMsg::ExitStatus { exit_status } => {
                state.exit =
                    Some(SshExit { code: Some(exit_status), signal: None, core_dumped: false, message: String::new() });
            }
            ChannelMsg::ExitSignal { signal_name, core_dumped, error_message, .. } => {
                let signal = Some(name_of(&signal_name));
                state.exit = Some(SshExit { code: None, signal, core_dumped, message: error_message });
            }
            ChannelMsg::Close => return true,
            _ => {}
        }
        false
    }

    fn output(&self, state: &mut State, stream: Stream, data: &[u8]) {
        if matches!(state.ending, Some(Ending::Overflowed(_) | Ending::Closed)) {
            return;
        }
        state.tails[stream as usize].push(data);
        state.queue.output(stream, data, self.terms.collected);
        let over = if self.terms.collected {
            state.queue.bytes() > self.terms.limit
        } else {
            state.queue.cost() > self.terms.limit.saturating_add(SLACK)
        };
        if over {
            state.ending.get_or_insert(Ending::Overflowed(self.terms.limit));
        }
    }

    /// Ask the server for the program's end: by a signal, and by closing the channel when that does not help, or when the
    /// server knows no signals. Nothing of the channel comes after that.
    async fn end_it(&self) {
        let _ = self.write.signal(Sig::KILL).await;
        tokio::time::sleep(DIE).await;
        let _ = self.write.close().await;
        self.connection.ping().await;
    }

    fn finish(&self, end: End) {
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

fn name_of(signal: &Sig) -> String {
    match signal {
        Sig::Custom(name) => name.clone(),
        signal => format!("{signal:?}"),
    }
}

/// Takes what comes when it is wanted, and kills the program when it must end.
async fn pump(shared: Arc<Shared>, mut lane: Lane, early: Vec<ChannelMsg>) {
    let mut closed = early.into_iter().any(|message| shared.receive(message));
    let mut ending: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
    let end = loop {
        if closed {
            lane.channel.over = true;
            break End::Closed;
        }
        if ending.is_none() && shared.state.lock().ending.is_some() {
            let shared = shared.clone();
            ending = Some(Box::pin(async move {
                let _ = tokio::time::timeout(DIE + 3 * LEAVE, shared.end_it()).await;
            }));
        }
        let open = shared.is_open();
        tokio::select! {
            message = next(&mut lane.read), if open => match message {
                Some(message) => {
                    closed = shared.receive(message);
                    shared.changed.send_replace(());
                }
                None => break End::Lost,
            },
            () = shared.wanted.notified() => {}
            // What is left in the channel can be taken, and then its end.
            () = shared.connection.over.cancelled(), if !open => {}
            limit = late(shared.terms.deadline), if ending.is_none() => {
                shared.state.lock().ending.get_or_insert(Ending::TimedOut(limit));
            }
            () = async { if let Some(ending) = ending.as_mut() { ending.await } }, if ending.is_some() => break End::Lost,
        }
    };
    // Before the end is told: it closes the channel, or its connection.
    drop(ending);
    drop(lane);
    shared.finish(end);
}

async fn next(read: &mut ChannelReadHalf) -> Option<ChannelMsg> {
    read.wait().await
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

struct ProgramValue {
    program: Program,
    /// Wakes what is waiting when the handle is closed.
    closing: CancellationToken,
    live: Live,
}

impl InEngine for ProgramValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

impl ProgramValue {
    /// What `waiting` gives, unless the call is cancelled or the handle closed first.
    async fn wait<T>(&self, cancel: &Cancel, waiting: impl Future<Output = Result<T, Failure>>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => Err(Stop::Failed(Failure::handle_closed("SSH program"))),
            value = cancel.guard(waiting) => value,
        }
    }
}

/// A program that was started on a server.
#[napi]
pub struct SshProgram {
    slot: Slot<ProgramValue>,
}

#[napi]
impl SshProgram {
    /// The next output of what is wanted: waits for some, then takes what else is there, up to about `max_bytes`. An empty
    /// list means that all was read.
    #[napi(ts_return_type = "Promise<Outcome<Array<ExecEvent>>>")]
    pub async fn read(
        &self,
        #[napi(ts_arg_type = "'stdout' | 'stderr' | 'all' | 'events'")] wanted: String,
        max_bytes: u32,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Vec<ExecEvent>>> {
        let wanted = match wanted.as_str() {
            "stdout" => Wanted::One(Stream::Stdout),
            "stderr" => Wanted::One(Stream::Stderr),
            _ => Wanted::Both,
        };
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let items = value.wait(&cancel, value.program.read(wanted, max_bytes as usize)).await?;
                Ok(items.into_iter().map(event).collect())
            })
            .await)
    }

    /// Wait for the program's end. What it has printed may not have been read by then.
    #[napi(ts_return_type = "Promise<Outcome<SshExit>>")]
    pub async fn wait(&self, token: &CancelToken) -> napi::Result<Outcome<SshExit>> {
        Ok(self.slot.run(token, |value, cancel| async move { value.wait(&cancel, value.program.exited()).await }).await)
    }

    /// Wait for the end of the program and of all of its output, and take that.
    #[napi(ts_return_type = "Promise<Outcome<SshCollected>>")]
    pub async fn collect(&self, token: &CancelToken) -> napi::Result<Outcome<SshCollected>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let exit = value.wait(&cancel, value.program.finished()).await?;
                let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
                for item in value.program.rest() {
                    if let Item::Output { stream, data } = item {
                        let whole = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
                        whole.extend_from_slice(&data);
                    }
                }
                Ok(SshCollected { exit, stdout: stdout.into(), stderr: stderr.into() })
            })
            .await)
    }

    /// Write to the program's stdin; answers when the server has room for it.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn write(&self, data: Buffer, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                value.wait(&cancel, value.program.write(Bytes::from_owner(data))).await
            })
            .await)
    }

    /// End the program's stdin. Idempotent.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn close_stdin(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let eof = value.program.shared.write.eof();
                value.wait(&cancel, value.program.control(eof)).await
            })
            .await)
    }

    /// Send a signal, by its name without `SIG`. The protocol has no answer to that.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn signal(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let signal = value.program.shared.write.signal(Sig::Custom(name));
                value.wait(&cancel, value.program.control(signal)).await
            })
            .await)
    }

    /// Tell the program's terminal its size.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn resize(&self, rows: u32, columns: u32, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let resize = value.program.shared.write.window_change(columns, rows, 0, 0);
                value.wait(&cancel, value.program.control(resize)).await
            })
            .await)
    }

    /// Kill the program if it still runs, wait a while for the server's word, and give the handle back.
    #[napi]
    pub async fn close(&self) -> napi::Result<SshClosed> {
        let Some(value) = self.slot.take() else { return Ok(SshClosed { confirmed: true }) };
        let engine = value.live.engine().clone();
        let confirmed = engine
            .finish(async {
                value.closing.cancel();
                let confirmed = value.program.kill().await;
                if value.program.shared.own {
                    value.program.shared.connection.end().await;
                }
                drop(value);
                confirmed
            })
            .await;
        Ok(SshClosed { confirmed })
    }
}

#[cfg(test)]
mod tests {
    use russh::server::{self, Auth, ChannelOpenHandle, Session};
    use russh::{Channel, ChannelId};

    use super::*;
    use crate::ssh::generated;

    /// A server whose programs end as their command says: no real one can be told to.
    struct Odd;

    impl server::Handler for Odd {
        type Error = russh::Error;

        async fn auth_publickey(&mut self, _: &str, _: &russh::keys::PublicKey) -> Result<Auth, russh::Error> {
            Ok(Auth::Accept)
        }

        async fn channel_open_session(
            &mut self,
            _: Channel<server::Msg>,
            reply: ChannelOpenHandle,
            _: &mut Session,
        ) -> Result<(), russh::Error> {
            reply.accept().await;
            Ok(())
        }

        async fn exec_request(
            &mut self,
            channel: ChannelId,
            command: &[u8],
            session: &mut Session,
        ) -> Result<(), russh::Error> {
            session.channel_success(channel)?;
            session.data(channel, Bytes::from_static(b"printed"))?;
            match command {
                b"0" => session.exit_status_request(channel, 0)?,
                b"gone" => return Err(russh::Error::Disconnect),
                _ => {}
            }
            session.eof(channel)?;
            session.close(channel)?;
            Ok(())
        }
    }

    async fn ended(command: &str) -> Result<SshExit, Failure> {
        let host_key = generated()?;
        let public = host_key.public_key().clone();
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let config = Arc::new(server::Config { keys: vec![host_key], ..server::Config::default() });
        let serving = tokio::spawn(async move {
            if let Ok(session) = server::run_stream(config, theirs, Odd).await {
                let _ = session.await;
            }
        });
        let client = Client::on(ours, &public).await?;
        let options = SshProgramOptions {
            command: Some(command.into()),
            env: None,
            pty: None,
            timeout_ms: None,
            stdin: false,
            collected: true,
            limit: 1024.0,
        };
        let program = start(&client, options, None).await?;
        let ended = program.finished().await;
        assert_eq!(ended.is_ok(), program.exited().await.is_ok());
        drop((program, client));
        let _ = serving.await;
        ended
    }

    #[tokio::test]
    async fn an_end_that_is_not_told_is_a_failure_and_no_exit() {
        assert!(matches!(ended("0").await, Ok(SshExit { code: Some(0), signal: None, .. })));
        assert!(matches!(ended("silent").await, Err(Failure::SshNoExitStatus { .. })));
        assert!(matches!(ended("gone").await, Err(Failure::SshConnectionLost { .. })));
    }
}
