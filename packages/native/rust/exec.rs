//! A program in a sandbox: its output is pulled in batches, and it never outlives its handle.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use microsandbox::protocol::exec::ExecFailed;
use microsandbox::sandbox::exec::ExecSink;
use microsandbox::sandbox::{ExecOptionsBuilder, Sandbox as EngineSandbox};
use microsandbox::{ExecControl, ExecEvent as EngineEvent, ExecHandle, MicrosandboxResult};
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cancel::{Cancel, CancelToken};
use crate::engine::{EngineState, Live};
use crate::failure::Failure;
use crate::outcome::{Outcome, Stop};
use crate::pause::current_for_control;
use crate::slot::{InEngine, Slot};

/// How long a kill waits for the guest's word that the process has gone.
const KILL_CONFIRM: Duration = Duration::from_secs(5);

/// The agent refuses frames over 4 MiB; a write is cut into pieces well below that.
const STDIN_PIECE: usize = 1 << 20;

/// What to run.
#[napi(object, object_to_js = false)]
pub struct ExecOptions {
    pub command: String,
    pub args: Vec<String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub env: Option<BTreeMap<String, String>>,
    pub tty: Option<bool>,
    /// Kill the program after this time. Collected calls only; a stream is timed by its reader.
    pub timeout_ms: Option<f64>,
    /// `spawn`: keep stdin open for `write`; `/dev/null` otherwise.
    pub stdin: Option<bool>,
    /// `exec`: what the program reads from stdin.
    pub stdin_data: Option<Buffer>,
}

/// A program's whole output.
#[napi(object, object_from_js = false)]
pub struct ExecOutput {
    /// Its exit code; -1 when a signal ended it (the agent of 0.7.2 does not say which).
    pub exit_code: i32,
    pub stdout: Buffer,
    pub stderr: Buffer,
}

/// What happened in a program, in order. Neighbouring output is joined.
#[napi(discriminant = "_tag", object_from_js = false)]
pub enum ExecEvent {
    Started { pid: u32 },
    Stdout { data: Buffer },
    Stderr { data: Buffer },
    StdinFailed { message: String, errno: Option<i32> },
    Exited { code: i32 },
}

/// How a handle ended.
#[napi(object, object_from_js = false)]
pub struct ExecClosed {
    /// The guest said that the program has ended. When false, the connection was cut, and the
    /// guest's agent kills the process group for that.
    pub confirmed: bool,
}

struct ExecValue {
    source: Mutex<Source>,
    /// What talks to the program. Each holds its connection, of which a sandbox has 128: given up at the program's end.
    control: parking_lot::Mutex<Option<ExecControl>>,
    stdin: Mutex<Option<ExecSink>>,
    /// Wakes a read that is waiting when the handle is closed.
    closing: CancellationToken,
    live: Live,
}

impl InEngine for ExecValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

/// The events of one program, until its last.
struct Source {
    /// Until the end; then its connection is given up.
    handle: Option<ExecHandle>,
    /// The sandbox that it runs in, until the program is seen to have started.
    starting: Option<EngineSandbox>,
    /// Taken from the queue, but not yet given to a reader.
    next: Option<EngineEvent>,
    end: Option<End>,
}

/// How a program ended, as every later read is told.
#[derive(Clone)]
enum End {
    Exited,
    NotStarted(ExecFailed),
    /// The sandbox of this name is paused.
    Paused(String),
    Lost,
}

/// A program that was started.
#[napi]
pub struct Exec {
    slot: Slot<ExecValue>,
}

/// What ends a call early: its cancel, or its own time.
struct Limit {
    cancel: Cancel,
    deadline: Option<(Instant, Duration)>,
}

impl Limit {
    fn new(cancel: Cancel, timeout_ms: Option<f64>) -> Self {
        let timeout = timeout_ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
        Self { cancel, deadline: timeout.map(|timeout| (Instant::now() + timeout, timeout)) }
    }

    async fn reached(&self) -> Stop {
        let late = async {
            match self.deadline {
                Some((deadline, timeout)) => {
                    tokio::time::sleep_until(deadline).await;
                    timeout
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.requested() => Stop::Cancelled,
            timeout = late => Stop::Failed(Failure::exec_timeout(timeout)),
        }
    }
}

/// Start a program.
pub(crate) async fn spawn(
    sandbox: &EngineSandbox,
    options: ExecOptions,
    live: Live,
    cancel: Cancel,
) -> Result<Exec, Stop> {
    let mut handle = open(sandbox, options, &Limit::new(cancel, None)).await?;
    Ok(Exec {
        slot: Slot::new(
            "exec",
            ExecValue {
                control: parking_lot::Mutex::new(Some(handle.control())),
                stdin: Mutex::new(handle.take_stdin()),
                source: Mutex::new(Source::new(sandbox, handle)),
                closing: CancellationToken::new(),
                live,
            },
        ),
    })
}

/// Run a program to its end: one crossing of the border for the whole of its output.
pub(crate) async fn collect(
    sandbox: &EngineSandbox,
    mut options: ExecOptions,
    cancel: Cancel,
) -> Result<ExecOutput, Stop> {
    let limit = Limit::new(cancel, options.timeout_ms);
    let input = options.stdin_data.take();
    options.stdin = Some(input.is_some());
    let mut handle = open(sandbox, options, &limit).await?;
    let stdin = handle.take_stdin();
    let mut source = Source::new(sandbox, handle);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let gathered = {
        let output = async {
            loop {
                match source.take().await? {
                    Some(EngineEvent::Stdout(data)) => stdout.extend_from_slice(&data),
                    Some(EngineEvent::Stderr(data)) => stderr.extend_from_slice(&data),
                    Some(EngineEvent::Exited { code }) => return Ok(code),
                    Some(_) => {}
                    // Only after `Exited`, which returns.
                    None => return Err(Failure::exec_session_lost()),
                }
            }
        };
        tokio::select! {
            biased;
            gathered = while_feeding(output, feed(stdin, input)) => gathered.map_err(Stop::Failed),
            stop = limit.reached() => Err(stop),
        }
    };
    match gathered {
        Ok(exit_code) => Ok(ExecOutput { exit_code, stdout: stdout.into(), stderr: stderr.into() }),
        Err(stop) => {
            source.kill().await;
            Err(stop)
        }
    }
}

/// Write all input, then end it. A program that stops reading early is no failure: its exit tells.
async fn feed(stdin: Option<ExecSink>, input: Option<Buffer>) {
    let (Some(stdin), Some(input)) = (stdin, input) else {
        return;
    };
    if write_pieces(&stdin, &input).await.is_ok() {
        let _ = stdin.close().await;
    }
}

/// `output`'s result, while `feed` makes progress beside it for as long as it has something to do.
async fn while_feeding<T>(output: impl Future<Output = T>, feed: impl Future<Output = ()>) -> T {
    tokio::pin!(output, feed);
    tokio::select! {
        result = &mut output => return result,
        () = &mut feed => {}
    }
    output.await
}

/// An empty frame would be taken for the end of the input; `chunks` makes none.
async fn write_pieces(stdin: &ExecSink, data: &[u8]) -> MicrosandboxResult<()> {
    for piece in data.chunks(STDIN_PIECE) {
        stdin.write(piece).await?;
    }
    Ok(())
}

/// Start a program. When that is stopped half way, it waits for the start and then kills what was started: if the
/// connection were merely dropped, nobody could say whether the guest has begun.
async fn open(sandbox: &EngineSandbox, options: ExecOptions, limit: &Limit) -> Result<ExecHandle, Stop> {
    let command = options.command.clone();
    let opening = async {
        // The engine finds the guest by the sandbox's name, which may be another's by now.
        current_for_control(sandbox).await?;
        sandbox.exec_stream_with(command, move |builder| configure(builder, options)).await
    };
    tokio::pin!(opening);
    let stop = tokio::select! {
        biased;
        opened = &mut opening => return opened.map_err(Stop::from),
        stop = limit.reached() => stop,
    };
    if let Ok(Ok(handle)) = tokio::time::timeout(KILL_CONFIRM, opening).await {
        Source::new(sandbox, handle).kill().await;
    }
    Err(stop)
}

fn configure(mut builder: ExecOptionsBuilder, options: ExecOptions) -> ExecOptionsBuilder {
    builder = builder.args(options.args).envs(options.env.unwrap_or_default());
    if let Some(cwd) = options.cwd {
        builder = builder.cwd(cwd);
    }
    if let Some(user) = options.user {
        builder = builder.user(user);
    }
    builder = builder.tty(options.tty.unwrap_or(false));
    if options.stdin.unwrap_or(false) { builder.stdin_pipe() } else { builder.stdin_null() }
}

impl Source {
    fn new(sandbox: &EngineSandbox, handle: ExecHandle) -> Self {
        Self { handle: Some(handle), starting: Some(sandbox.clone()), next: None, end: None }
    }

    /// Why a connection ended without a word. A paused sandbox refuses to start a program in a message that the engine
    /// drops.
    async fn lost(&self) -> End {
        let Some(sandbox) = &self.starting else { return End::Lost };
        // It waits for the VM's other work.
        match tokio::time::timeout(KILL_CONFIRM, Box::pin(sandbox.pause_state())).await {
            Ok(Ok(state)) if state.paused => End::Paused(sandbox.name().to_owned()),
            _ => End::Lost,
        }
    }

    /// The next event; `None` after the last. A program that could not start, and a connection that was lost, are
    /// failures, for this read and for every later one.
    async fn take(&mut self) -> Result<Option<EngineEvent>, Failure> {
        let event = match (self.next.take(), &mut self.handle) {
            (Some(event), _) => Some(event),
            // `recv` loses nothing when it is dropped while it waits.
            (None, Some(handle)) => handle.recv().await,
            (None, None) => return self.end.clone().unwrap_or(End::Lost).again(),
        };
        if event.is_some() {
            self.starting = None;
        }
        match event {
            Some(EngineEvent::Exited { code }) => {
                self.finish(End::Exited);
                Ok(Some(EngineEvent::Exited { code }))
            }
            Some(EngineEvent::Failed(failed)) => self.finish(End::NotStarted(failed)).again(),
            Some(event) => Ok(Some(event)),
            None => {
                let end = self.lost().await;
                self.finish(end).again()
            }
        }
    }

    fn finish(&mut self, end: End) -> End {
        self.handle = None;
        self.end = Some(end.clone());
        end
    }

    /// What is there already, up to about `limit` bytes; waits for the first event only. Empty after the last.
    async fn batch(&mut self, limit: usize) -> Result<Vec<ExecEvent>, Failure> {
        let mut batch = Batch::new(limit);
        if let Some(event) = self.take().await? {
            batch.push(event);
        }
        while !batch.full() {
            let Some(received) = self.handle.as_mut().and_then(|handle| handle.recv().now_or_never()) else { break };
            match received {
                // A failure must not swallow the output before it: it is told by the next read.
                Some(failed @ EngineEvent::Failed(_)) => {
                    self.next = Some(failed);
                    break;
                }
                Some(event) => {
                    if matches!(event, EngineEvent::Exited { .. }) {
                        self.finish(End::Exited);
                    }
                    batch.push(event);
                }
                None => break,
            }
        }
        Ok(batch.finish())
    }

    /// Kill the process group and wait for the guest's word that the program has ended. True when that word came, now or
    /// before.
    async fn kill(&mut self) -> bool {
        let killed = async {
            if let Some(handle) = &self.handle {
                // A connection that is gone cannot carry it; what the guest said before is still in the queue.
                let _ = handle.kill().await;
            }
            while let Ok(Some(_)) = self.take().await {}
        };
        let _ = tokio::time::timeout(KILL_CONFIRM, killed).await;
        matches!(self.end, Some(End::Exited | End::NotStarted(_) | End::Paused(_)))
    }
}

impl End {
    fn again(self) -> Result<Option<EngineEvent>, Failure> {
        match self {
            Self::Exited => Ok(None),
            Self::NotStarted(failed) => Err(failed.into()),
            Self::Paused(name) => Err(Failure::sandbox_paused(&name)),
            Self::Lost => Err(Failure::exec_session_lost()),
        }
    }
}

/// Events on their way to JavaScript; neighbouring frames of one stream become one buffer.
struct Batch {
    events: Vec<ExecEvent>,
    open: Option<(Stream, Vec<u8>)>,
    bytes: usize,
    limit: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

impl Batch {
    fn new(limit: usize) -> Self {
        Self { events: Vec::new(), open: None, bytes: 0, limit }
    }

    fn full(&self) -> bool {
        self.bytes >= self.limit
    }

    fn push(&mut self, event: EngineEvent) {
        match event {
            EngineEvent::Stdout(data) => self.output(Stream::Stdout, &data),
            EngineEvent::Stderr(data) => self.output(Stream::Stderr, &data),
            EngineEvent::Started { pid } => self.mark(ExecEvent::Started { pid }),
            EngineEvent::Exited { code } => self.mark(ExecEvent::Exited { code }),
            EngineEvent::StdinError(error) => {
                self.mark(ExecEvent::StdinFailed { message: error.message, errno: error.errno });
            }
            // `Source` answers this one as a failure.
            EngineEvent::Failed(_) => {}
        }
    }

    fn output(&mut self, stream: Stream, data: &[u8]) {
        self.bytes += data.len();
        match &mut self.open {
            Some((current, buffer)) if *current == stream => buffer.extend_from_slice(data),
            _ => {
                self.seal();
                self.open = Some((stream, data.to_vec()));
            }
        }
    }

    fn mark(&mut self, event: ExecEvent) {
        self.seal();
        self.events.push(event);
    }

    fn seal(&mut self) {
        if let Some((stream, buffer)) = self.open.take() {
            let data = buffer.into();
            self.events.push(match stream {
                Stream::Stdout => ExecEvent::Stdout { data },
                Stream::Stderr => ExecEvent::Stderr { data },
            });
        }
    }

    fn finish(mut self) -> Vec<ExecEvent> {
        self.seal();
        self.events
    }
}

impl ExecValue {
    /// The next events; at the end, the connection is given up.
    async fn read(&self, limit: usize, cancel: &Cancel) -> Result<Vec<ExecEvent>, Stop> {
        let mut source = cancel.guard(async { Ok::<_, Failure>(self.source.lock().await) }).await?;
        let batch = tokio::select! {
            biased;
            () = self.closing.cancelled() => Err(Stop::Failed(Failure::handle_closed("exec"))),
            batch = cancel.guard(source.batch(limit)) => batch,
        };
        if source.end.is_some() {
            self.control.lock().take();
            // A write that is under way lets go by itself.
            if let Ok(mut stdin) = self.stdin.try_lock() {
                stdin.take();
            }
        }
        batch
    }

    async fn write(&self, data: &[u8]) -> Result<(), Failure> {
        match self.stdin.lock().await.as_ref() {
            Some(stdin) => Ok(write_pieces(stdin, data).await?),
            None => Err(Failure::handle_closed("stdin")),
        }
    }

    async fn close_stdin(&self) -> MicrosandboxResult<()> {
        match self.stdin.lock().await.take() {
            Some(stdin) => stdin.close().await,
            None => Ok(()),
        }
    }

    /// Nothing to control is no failure: the program has ended.
    fn control(&self) -> Option<ExecControl> {
        self.control.lock().clone()
    }
}

#[napi]
impl Exec {
    /// The next events: waits for one, then takes what else is there, up to about `max_bytes`.
    /// An empty list means that the program has ended and all of it was read.
    #[napi(ts_return_type = "Promise<Outcome<Array<ExecEvent>>>")]
    pub async fn read(&self, max_bytes: u32, token: &CancelToken) -> napi::Result<Outcome<Vec<ExecEvent>>> {
        Ok(self.slot.run(token, |value, cancel| async move { value.read(max_bytes as usize, &cancel).await }).await)
    }

    /// Write to the program's stdin; answers when the guest's relay has taken it.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn write(&self, data: Buffer, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self.slot.run(token, |value, cancel| async move { cancel.guard(value.write(&data)).await }).await)
    }

    /// End the program's stdin. Idempotent.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn close_stdin(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self.slot.run(token, |value, cancel| async move { cancel.guard(value.close_stdin()).await }).await)
    }

    /// Send a signal to the program's process group.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn signal(&self, signal: i32, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                match value.control() {
                    Some(control) => cancel.guard(control.signal(signal)).await,
                    None => Ok(()),
                }
            })
            .await)
    }

    /// Tell the program's terminal its size.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn resize(&self, rows: u16, columns: u16, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                match value.control() {
                    Some(control) => cancel.guard(control.resize(rows, columns)).await,
                    None => Ok(()),
                }
            })
            .await)
    }

    /// Kill the program if it still runs, wait for the guest's word, and give the handle back.
    #[napi]
    pub async fn close(&self) -> napi::Result<ExecClosed> {
        let Some(value) = self.slot.take() else { return Ok(ExecClosed { confirmed: true }) };
        let engine = value.live.engine().clone();
        let confirmed = engine
            .finish(async {
                value.closing.cancel();
                let confirmed = value.source.lock().await.kill().await;
                drop(value);
                confirmed
            })
            .await;
        Ok(ExecClosed { confirmed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stdout(text: &'static [u8]) -> EngineEvent {
        EngineEvent::Stdout(text.into())
    }

    fn stderr(text: &'static [u8]) -> EngineEvent {
        EngineEvent::Stderr(text.into())
    }

    fn shape(events: &[ExecEvent]) -> Vec<String> {
        events
            .iter()
            .map(|event| match event {
                ExecEvent::Started { pid } => format!("started {pid}"),
                ExecEvent::Stdout { data } => format!("out {}", String::from_utf8_lossy(data)),
                ExecEvent::Stderr { data } => format!("err {}", String::from_utf8_lossy(data)),
                ExecEvent::StdinFailed { message, .. } => format!("stdin {message}"),
                ExecEvent::Exited { code } => format!("exited {code}"),
            })
            .collect()
    }

    #[test]
    fn neighbouring_output_is_joined_and_the_order_is_kept() {
        let mut batch = Batch::new(1 << 20);
        for event in [
            EngineEvent::Started { pid: 7 },
            stdout(b"a"),
            stdout(b"b"),
            stderr(b"c"),
            stdout(b"d"),
            EngineEvent::Exited { code: 3 },
        ] {
            batch.push(event);
        }
        assert_eq!(shape(&batch.finish()), ["started 7", "out ab", "err c", "out d", "exited 3"]);
    }

    #[test]
    fn a_batch_is_full_at_its_limit() {
        let mut batch = Batch::new(3);
        batch.push(stdout(b"ab"));
        assert!(!batch.full());
        batch.push(stderr(b"c"));
        assert!(batch.full());
    }
}
