//! A program in a sandbox, as JavaScript has it: its output is pulled in batches, and it never outlives its handle.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use microsandbox::protocol::exec::{ExecRequest, ExecRlimit};
use microsandbox::sandbox::Sandbox as EngineSandbox;
use microsandbox::{MicrosandboxError, MicrosandboxResult};
use microsandbox_types::resolve_default_command;
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cancel::{Cancel, CancelToken};
use crate::copied::Copied;
use crate::engine::{EngineState, Live};
use crate::failure::Failure;
use crate::guest::Spares;
use crate::options::RlimitOptions;
use crate::outcome::{Outcome, Stop};
use crate::output::{Item, Stream, Wanted};
use crate::program::{KILL_CONFIRM, Opened, Policy, Program, Pump, Terms, open};
use crate::slot::{InEngine, Slot};

/// What to run.
#[napi(object, object_to_js = false)]
pub struct ExecOptions {
    /// The sandbox's default command when absent.
    pub command: Option<String>,
    pub args: Vec<String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub env: Option<BTreeMap<String, String>>,
    pub rlimits: Option<Vec<RlimitOptions>>,
    /// The size of its terminal; none when absent.
    pub tty: Option<TerminalSize>,
    /// Kill the program after this time.
    pub timeout_ms: Option<f64>,
    /// What the program reads from stdin, to its end. Absent with `spawn`, its stdin stays open.
    pub stdin_data: Option<Buffer>,
    pub output: OutputPolicy,
}

#[napi(object, object_to_js = false)]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

/// What becomes of output that nobody reads. Sizes in bytes.
#[napi(discriminant = "_tag", object_to_js = false)]
pub enum OutputPolicy {
    Wait { limit: f64 },
    Fail { limit: f64 },
    Keep { head: f64, tail: f64 },
    Discard,
}

/// A program's whole output.
#[napi(object, object_from_js = false)]
pub struct ExecOutput {
    /// Its exit code; -1 when a signal ended it (the agent of 0.7.2 does not say which).
    pub exit_code: i32,
    #[napi(ts_type = "Buffer")]
    pub stdout: Copied,
    #[napi(ts_type = "Buffer")]
    pub stderr: Copied,
    pub dropped_stdout: f64,
    pub dropped_stderr: f64,
}

/// What happened in a program, in order. Neighbouring output is joined.
#[napi(discriminant = "_tag", object_from_js = false)]
pub enum ExecEvent {
    Started {
        pid: u32,
    },
    Stdout {
        #[napi(ts_type = "Buffer")]
        data: Copied,
    },
    Stderr {
        #[napi(ts_type = "Buffer")]
        data: Copied,
    },
    Dropped {
        #[napi(ts_type = "'stdout' | 'stderr'")]
        output: String,
        bytes: f64,
    },
    StdinFailed {
        message: String,
        errno: Option<i32>,
    },
    Exited {
        code: i32,
    },
}

/// How a handle ended.
#[napi(object, object_from_js = false)]
pub struct ExecClosed {
    /// The guest said that the program has ended. When false, the connection was cut, and the
    /// guest's agent kills the process group for that.
    pub confirmed: bool,
}

struct ExecValue {
    program: Program,
    /// Wakes a read that is waiting when the handle is closed.
    closing: CancellationToken,
    live: Live,
}

impl InEngine for ExecValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

/// A program that was started.
#[napi]
pub struct Exec {
    slot: Slot<ExecValue>,
    pid: u32,
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
            timeout = late => Stop::Failed(Failure::exec_timeout(timeout, <_>::default())),
        }
    }
}

/// Start a program.
pub(crate) async fn spawn(
    sandbox: &EngineSandbox,
    spares: &Arc<Spares>,
    options: ExecOptions,
    live: Live,
    cancel: Cancel,
) -> Result<Exec, Stop> {
    let (mut program, pump, input) = start(sandbox, spares, options, &cancel, false).await?;
    program.drive(pump);
    let started = tokio::select! {
        biased;
        () = cancel.requested() => Err(Stop::Cancelled),
        started = async {
            if let Some(input) = input {
                feed(&program, &input).await;
            }
            program.started().await
        } => started.map_err(Stop::Failed),
    };
    match started {
        Ok(pid) => {
            let value = ExecValue { program, closing: CancellationToken::new(), live };
            Ok(Exec { slot: Slot::new("exec", value), pid })
        }
        Err(stop) => {
            program.kill().await;
            Err(stop)
        }
    }
}

/// Run a program to its end: one crossing of the border for the whole of its output, and one task on this side of it.
pub(crate) async fn collect(
    sandbox: &EngineSandbox,
    spares: &Arc<Spares>,
    options: ExecOptions,
    cancel: Cancel,
) -> Result<ExecOutput, Stop> {
    let (mut program, mut pump, input) = start(sandbox, spares, options, &cancel, true).await?;
    let exited = async {
        match input {
            Some(input) => while_feeding(program.exited(), feed(&program, &input)).await,
            None => program.exited().await,
        }
    };
    let ended = tokio::select! {
        biased;
        () = cancel.requested() => Err(Stop::Cancelled),
        ended = while_feeding(exited, &mut pump) => ended.map_err(Stop::Failed),
    };
    match ended {
        Ok(exit_code) => Ok(gather(&program, exit_code)),
        Err(stop) => {
            program.drive(pump);
            program.kill().await;
            Err(stop)
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn gather(program: &Program, exit_code: i32) -> ExecOutput {
    let (mut stdout, mut stderr) = ((Vec::new(), 0), (Vec::new(), 0));
    for item in program.rest(Wanted::Events) {
        match item {
            Item::Output { stream, data } => {
                let (whole, _) = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
                if whole.is_empty() {
                    *whole = data;
                } else {
                    whole.extend_from_slice(&data);
                }
            }
            Item::Dropped { stream, bytes } => {
                let (_, dropped) = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
                *dropped += bytes;
            }
            _ => {}
        }
    }
    ExecOutput {
        exit_code,
        stdout: stdout.0.into(),
        stderr: stderr.0.into(),
        dropped_stdout: stdout.1 as f64,
        dropped_stderr: stderr.1 as f64,
    }
}

/// Write all input, then end it. A program that stops reading early is no failure: its exit tells.
async fn feed(program: &Program, input: &[u8]) {
    if program.write(input).await.is_ok() {
        let _ = program.close_stdin().await;
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

/// Ask for a program. When that is stopped half way, it waits for the answer and then kills what was started: if the
/// connection were merely dropped, nobody could say whether the guest has begun.
async fn start(
    sandbox: &EngineSandbox,
    spares: &Arc<Spares>,
    mut options: ExecOptions,
    cancel: &Cancel,
    collected: bool,
) -> Result<(Program, Pump, Option<Buffer>), Stop> {
    let limit = Limit::new(cancel.clone(), options.timeout_ms);
    let input = options.stdin_data.take();
    // What has no input is told so at once; what is spawned without a word of it has one that stays open.
    let ends = input.as_ref().map_or(collected, |input| input.is_empty());
    let input = input.filter(|input| !input.is_empty());
    let terms =
        Terms { policy: policy(&options.output), collected, tty: options.tty.is_some(), deadline: limit.deadline };
    let request = request(sandbox, options)?;
    let program = |opened: Opened| Program::new(sandbox, spares, opened, terms);
    let opening = open(sandbox, spares, &request, ends);
    tokio::pin!(opening);
    let stop = tokio::select! {
        biased;
        opened = &mut opening => {
            let (program, pump) = program(opened?);
            return Ok((program, pump, input));
        }
        stop = limit.reached() => stop,
    };
    if let Ok(Ok(opened)) = tokio::time::timeout(KILL_CONFIRM, opening).await {
        let (mut program, pump) = program(opened);
        program.drive(pump);
        program.kill().await;
    }
    Err(stop)
}

/// TypeScript lets whole numbers through that a number holds exactly.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn policy(output: &OutputPolicy) -> Policy {
    match *output {
        OutputPolicy::Wait { limit } => Policy::Wait(limit as usize),
        OutputPolicy::Fail { limit } => Policy::Fail(limit as usize),
        OutputPolicy::Keep { head, tail } => Policy::Keep { head: head as usize, tail: tail as usize },
        OutputPolicy::Discard => Policy::Discard,
    }
}

/// What the engine would ask for: the sandbox's own settings, under those of this program.
pub(crate) fn request(sandbox: &EngineSandbox, options: ExecOptions) -> MicrosandboxResult<ExecRequest> {
    let spec = &sandbox.config().spec;
    let (cmd, args) = if let Some(command) = options.command {
        (command, options.args)
    } else {
        let (entrypoint, cmd) = (spec.runtime.entrypoint.as_deref(), spec.runtime.cmd.as_deref());
        let mut default = resolve_default_command(entrypoint, cmd, None).map_err(MicrosandboxError::from)?;
        default.args.extend(options.args);
        (default.program, default.args)
    };
    let mut env: BTreeMap<_, _> = spec.env.iter().map(|var| (var.key.clone(), var.value.clone())).collect();
    env.extend(options.env.unwrap_or_default());
    if options.tty.is_some() {
        env.entry("TERM".into()).or_insert_with(terminal);
    }
    let rlimits = options.rlimits.into_iter().flatten().map(|limit| {
        let (soft, hard) = limit.units();
        ExecRlimit { resource: limit.resource, soft, hard }
    });
    let size = options.tty.as_ref().map_or((24, 80), |tty| (tty.rows, tty.columns));
    Ok(ExecRequest {
        cmd,
        args,
        env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        cwd: options.cwd.or_else(|| spec.runtime.workdir.clone()).or_else(|| Some("/".into())),
        user: options.user.or_else(|| spec.runtime.user.clone()),
        tty: options.tty.is_some(),
        rows: size.0,
        cols: size.1,
        rlimits: rlimits.collect(),
    })
}

/// The kind of terminal that this process has.
fn terminal() -> String {
    match std::env::var("TERM") {
        Ok(term) if !term.trim().is_empty() && term != "dumb" => term,
        _ => "xterm".into(),
    }
}

impl ExecValue {
    /// What `waiting` gives, unless the call is cancelled or the handle closed first.
    async fn wait<T>(&self, cancel: &Cancel, waiting: impl Future<Output = Result<T, Failure>>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => Err(Stop::Failed(Failure::handle_closed("exec"))),
            value = cancel.guard(waiting) => value,
        }
    }
}

#[allow(clippy::cast_precision_loss)]
pub(crate) fn event(item: Item) -> ExecEvent {
    match item {
        Item::Started { pid } => ExecEvent::Started { pid },
        Item::Output { stream: Stream::Stdout, data } => ExecEvent::Stdout { data: data.into() },
        Item::Output { stream: Stream::Stderr, data } => ExecEvent::Stderr { data: data.into() },
        Item::Dropped { stream, bytes } => {
            let output = if stream == Stream::Stdout { "stdout" } else { "stderr" };
            ExecEvent::Dropped { output: output.into(), bytes: bytes as f64 }
        }
        Item::StdinFailed { message, errno } => ExecEvent::StdinFailed { message, errno },
        Item::Exited { code } => ExecEvent::Exited { code },
    }
}

#[napi]
impl Exec {
    /// The process id in the guest.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The next events of those that are wanted: waits for one, then takes what else is there, up to about `max_bytes`.
    /// An empty list means that the program has ended and all of them were read.
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
            "all" => Wanted::Both,
            _ => Wanted::Events,
        };
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let items = value.wait(&cancel, value.program.read(wanted, max_bytes as usize)).await?;
                Ok(items.into_iter().map(event).collect())
            })
            .await)
    }

    /// Wait for the program's end: its exit code. What it has printed may not have been read by then.
    #[napi(ts_return_type = "Promise<Outcome<number>>")]
    pub async fn wait(&self, token: &CancelToken) -> napi::Result<Outcome<i32>> {
        Ok(self.slot.run(token, |value, cancel| async move { value.wait(&cancel, value.program.exited()).await }).await)
    }

    /// Wait for the program's end and take the output that nobody has read.
    #[napi(ts_return_type = "Promise<Outcome<ExecOutput>>")]
    pub async fn collect(&self, token: &CancelToken) -> napi::Result<Outcome<ExecOutput>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let code = value.wait(&cancel, value.program.exited()).await?;
                Ok(gather(&value.program, code))
            })
            .await)
    }

    /// Write to the program's stdin; answers when the guest's relay has taken it.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn write(&self, data: Buffer, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move { value.wait(&cancel, value.program.write(&data)).await })
            .await)
    }

    /// End the program's stdin. Idempotent.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn close_stdin(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move { value.wait(&cancel, value.program.close_stdin()).await })
            .await)
    }

    /// Send a signal to the program's process group.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn signal(&self, signal: i32, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move { value.wait(&cancel, value.program.signal(signal)).await })
            .await)
    }

    /// Tell the program's terminal its size.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn resize(&self, rows: u16, columns: u16, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move { value.wait(&cancel, value.program.resize(rows, columns)).await })
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
                let confirmed = value.program.kill().await;
                drop(value);
                confirmed
            })
            .await;
        Ok(ExecClosed { confirmed })
    }
}
