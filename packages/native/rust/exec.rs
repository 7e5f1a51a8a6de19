//! A program in a sandbox: its output is pulled in batches, and it never outlives its handle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use microsandbox::sandbox::exec::ExecSink;
use microsandbox::sandbox::{ExecOptionsBuilder, Sandbox as EngineSandbox};
use microsandbox::{ExecControl, ExecEvent as EngineEvent, ExecHandle, MicrosandboxResult};
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::cancel::{Cancel, CancelToken};
use crate::engine::Live;
use crate::failure::{Failure, millis};
use crate::outcome::{Outcome, Stop};
use crate::slot::Slot;

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
    /// The guest confirmed that the process has gone. When false, the connection was cut, and the
    /// guest's agent kills the process group for that.
    pub confirmed: bool,
}

struct ExecValue {
    control: ExecControl,
    source: Mutex<Source>,
    stdin: Mutex<Option<ExecSink>>,
    /// Wakes a read that is waiting when the handle is closed.
    closing: CancellationToken,
    live: Live,
}

/// The events of one program, until its last.
struct Source {
    handle: ExecHandle,
    /// Taken from the queue, but not yet given to a reader.
    next: Option<EngineEvent>,
    ended: bool,
}

/// A program that was started.
#[napi]
pub struct Exec {
    slot: Slot<ExecValue>,
}

/// Start a program.
pub(crate) async fn spawn(
    sandbox: &EngineSandbox,
    options: ExecOptions,
    live: Live,
    cancel: Cancel,
) -> Result<Exec, Stop> {
    let mut handle = open_or_undo(sandbox, options, &cancel).await?;
    Ok(Exec {
        slot: Slot::new(
            "exec",
            ExecValue {
                control: handle.control(),
                stdin: Mutex::new(handle.take_stdin()),
                source: Mutex::new(Source {
                    handle,
                    next: None,
                    ended: false,
                }),
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
    let timeout = options
        .timeout_ms
        .and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
    let input = options.stdin_data.take();
    options.stdin = Some(input.is_some());
    let mut handle = cancel.guard(open(sandbox, options)).await?;
    let stdin = handle.take_stdin();
    let mut source = Source {
        handle,
        next: None,
        ended: false,
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let gathered = {
        let output = async {
            loop {
                match source.take().await? {
                    EngineEvent::Stdout(data) => stdout.extend_from_slice(&data),
                    EngineEvent::Stderr(data) => stderr.extend_from_slice(&data),
                    EngineEvent::Exited { code } => return Ok::<_, Failure>(code),
                    _ => {}
                }
            }
        };
        let gather = while_feeding(output, feed(stdin, input));
        match timeout {
            None => cancel.guard(gather).await,
            Some(limit) => {
                cancel
                    .guard(async {
                        tokio::time::timeout(limit, gather)
                            .await
                            .unwrap_or_else(|_| Err(timed_out(limit)))
                    })
                    .await
            }
        }
    };
    match gathered {
        Ok(exit_code) => Ok(ExecOutput {
            exit_code,
            stdout: stdout.into(),
            stderr: stderr.into(),
        }),
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

fn timed_out(limit: Duration) -> Failure {
    Failure::ExecTimeout {
        message: format!("exec timed out after {limit:?}"),
        timeout_ms: millis(limit),
    }
}

/// Start a program. A cancel in the middle of that waits for the start and then kills what was started: when the
/// connection is merely dropped, nobody can say whether the guest has begun.
async fn open_or_undo(sandbox: &EngineSandbox, options: ExecOptions, cancel: &Cancel) -> Result<ExecHandle, Stop> {
    let opening = open(sandbox, options);
    tokio::pin!(opening);
    tokio::select! {
        biased;
        opened = &mut opening => return opened.map_err(Stop::from),
        () = cancel.requested() => {}
    }
    if let Ok(Ok(handle)) = tokio::time::timeout(KILL_CONFIRM, opening).await {
        Source::new(handle).kill().await;
    }
    Err(Stop::Cancelled)
}

async fn open(sandbox: &EngineSandbox, options: ExecOptions) -> MicrosandboxResult<ExecHandle> {
    let command = options.command.clone();
    sandbox
        .exec_stream_with(command, move |builder| configure(builder, options))
        .await
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
    if options.stdin.unwrap_or(false) {
        builder.stdin_pipe()
    } else {
        builder.stdin_null()
    }
}

impl Source {
    fn new(handle: ExecHandle) -> Self {
        Self {
            handle,
            next: None,
            ended: false,
        }
    }

    /// The next event. A program that could not start, and a connection that was lost, are failures.
    async fn take(&mut self) -> Result<EngineEvent, Failure> {
        let event = match self.next.take() {
            Some(event) => event,
            // `recv` loses nothing when it is dropped while it waits.
            None => self.handle.recv().await.ok_or_else(|| {
                self.ended = true;
                Failure::exec_session_lost()
            })?,
        };
        match event {
            EngineEvent::Exited { .. } => self.ended = true,
            EngineEvent::Failed(failed) => {
                self.ended = true;
                return Err(failed.into());
            }
            _ => {}
        }
        Ok(event)
    }

    /// What is there already, up to about `limit` bytes; waits for the first event only.
    async fn batch(&mut self, limit: usize) -> Result<Vec<ExecEvent>, Failure> {
        if self.ended {
            return Ok(Vec::new());
        }
        let mut batch = Batch::new(limit);
        batch.push(self.take().await?);
        while !self.ended && !batch.full() {
            let Some(received) = self.handle.recv().now_or_never() else {
                break;
            };
            match received {
                // A failure must not swallow the output before it: it is told by the next read.
                Some(failed @ EngineEvent::Failed(_)) => {
                    self.next = Some(failed);
                    break;
                }
                Some(event) => {
                    self.next = Some(event);
                    batch.push(self.take().await?);
                }
                None => break,
            }
        }
        Ok(batch.finish())
    }

    /// Kill the process group and wait for the guest's word that the process has gone.
    async fn kill(&mut self) -> bool {
        if self.ended {
            return true;
        }
        let killed = async {
            self.handle.kill().await.map_err(Failure::from)?;
            while !self.ended {
                self.take().await?;
            }
            Ok::<_, Failure>(())
        };
        tokio::time::timeout(KILL_CONFIRM, killed).await.is_ok() && self.ended
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
        Self {
            events: Vec::new(),
            open: None,
            bytes: 0,
            limit,
        }
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
                self.mark(ExecEvent::StdinFailed {
                    message: error.message,
                    errno: error.errno,
                });
            }
            // `Source::take` answers this one as a failure.
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

impl Exec {
    async fn run<T, F>(&self, token: &CancelToken, work: impl FnOnce(Arc<ExecValue>, Cancel) -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, Stop>>,
    {
        let token = token.token();
        match self.slot.get() {
            Ok(value) => {
                let engine = value.live.engine().clone();
                engine.run(token, |cancel| work(value, cancel)).await
            }
            Err(failure) => Err(Stop::Failed(failure)).into(),
        }
    }
}

#[napi]
impl Exec {
    /// The next events: waits for one, then takes what else is there, up to about `max_bytes`.
    /// An empty list means that the program has ended and all of it was read.
    #[napi(ts_return_type = "Promise<Outcome<Array<ExecEvent>>>")]
    pub async fn read(&self, max_bytes: u32, token: &CancelToken) -> napi::Result<Outcome<Vec<ExecEvent>>> {
        Ok(self
            .run(token, |value, cancel| async move {
                let mut source = cancel
                    .guard(async { Ok::<_, Failure>(value.source.lock().await) })
                    .await?;
                tokio::select! {
                    biased;
                    () = value.closing.cancelled() => Err(Stop::Failed(Failure::handle_closed("exec"))),
                    batch = cancel.guard(source.batch(max_bytes as usize)) => batch,
                }
            })
            .await)
    }

    /// Write to the program's stdin; answers when the guest's relay has taken it.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn write(&self, data: Buffer, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .run(token, |value, cancel| async move {
                cancel
                    .guard(async {
                        let stdin = value.stdin.lock().await;
                        let sink = stdin.as_ref().ok_or_else(|| Failure::handle_closed("stdin"))?;
                        write_pieces(sink, &data).await.map_err(Failure::from)
                    })
                    .await
            })
            .await)
    }

    /// End the program's stdin. Idempotent.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn close_stdin(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .run(token, |value, cancel| async move {
                cancel
                    .guard(async {
                        match value.stdin.lock().await.take() {
                            Some(sink) => sink.close().await,
                            None => Ok(()),
                        }
                    })
                    .await
            })
            .await)
    }

    /// Send a signal to the program's process group.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn signal(&self, signal: i32, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .run(token, |value, cancel| async move {
                cancel.guard(value.control.signal(signal)).await
            })
            .await)
    }

    /// Tell the program's terminal its size.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn resize(&self, rows: u16, columns: u16, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .run(token, |value, cancel| async move {
                cancel.guard(value.control.resize(rows, columns)).await
            })
            .await)
    }

    /// Kill the program if it still runs, wait for the guest's word, and give the handle back.
    #[napi]
    pub async fn close(&self) -> napi::Result<ExecClosed> {
        let Some(value) = self.slot.take() else {
            return Ok(ExecClosed { confirmed: true });
        };
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
        assert_eq!(
            shape(&batch.finish()),
            ["started 7", "out ab", "err c", "out d", "exited 3"]
        );
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
