//! What a sandbox's programs and its runtime have written: read at once, or pulled in batches and followed to the end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use futures_util::{FutureExt, Stream, StreamExt};
use microsandbox::backend::Backend as EngineBackend;
use microsandbox::logs::{
    BootError as EngineBootError, LogCursor, LogEntry as EngineEntry, LogOptions as EngineOptions, LogSource,
    LogStreamOptions as EngineStreamOptions, LogStreamStart,
};
use microsandbox::{MicrosandboxError, MicrosandboxResult};
use napi_derive::napi;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::cancel::{Cancel, CancelToken};
use crate::cloud;
use crate::engine::{EngineState, Kind, Live};
use crate::failure::{Failure, snake_case};
use crate::outcome::{Outcome, Stop};
use crate::pause::current_for_control;
use crate::sandbox::Sandbox;
use crate::slot::{InEngine, Slot};

/// How long a follower is idle before it looks whether the sandbox still runs. The engine's own stream never ends.
const IDLE: Duration = Duration::from_secs(1);

/// `exec.log` and what it is rotated to, as the engine has them.
const FILES: [&str; 5] = ["exec.log", "exec.log.1", "exec.log.2", "exec.log.3", "exec.log.4"];

/// How long a follower of a directory that is gone waits for a last word: over the engine's poll, which is 2 seconds.
const LINGER: Duration = Duration::from_secs(3);

/// The same of a sandbox that a control plane has, which says itself when the logs have ended.
const CLOUD_IDLE: Duration = Duration::from_secs(5);

/// Between two connections to a control plane, the first time and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often in a row a control plane may fail to go on.
const FAILURES: u32 = 8;

/// How many of the last entries are known, in case that a control plane tells them again.
const KNOWN: usize = 1024;

/// Which entries of a sandbox's logs to read.
#[napi(object, object_to_js = false)]
pub struct LogOptions {
    #[napi(ts_type = "Array<'stdout' | 'stderr' | 'output' | 'system'>")]
    pub sources: Option<Vec<String>>,
    /// Milliseconds since 1970, inclusive.
    pub since_ms: Option<f64>,
    /// Milliseconds since 1970, exclusive.
    pub until_ms: Option<f64>,
    /// The last so many of what the others leave.
    pub tail: Option<u32>,
}

/// Which entries of a sandbox's logs to stream.
#[napi(object, object_to_js = false)]
pub struct LogStreamOptions {
    #[napi(ts_type = "Array<'stdout' | 'stderr' | 'output' | 'system'>")]
    pub sources: Option<Vec<String>>,
    /// Milliseconds since 1970, inclusive.
    pub since_ms: Option<f64>,
    /// After the entry that this is the cursor of.
    pub cursor: Option<String>,
    /// Milliseconds since 1970, exclusive.
    pub until_ms: Option<f64>,
    /// Go on with what is written, until the sandbox stops.
    pub follow: Option<bool>,
}

/// One entry of a sandbox's logs.
#[napi(object, object_from_js = false)]
pub struct LogEntry {
    /// When the host got it, in milliseconds since 1970.
    pub timestamp: f64,
    #[napi(ts_type = "'stdout' | 'stderr' | 'output' | 'system'")]
    pub source: &'static str,
    pub session_id: Option<f64>,
    pub text: String,
    pub cursor: String,
}

/// Why a sandbox could not start, as its runtime recorded it.
#[napi(object, object_from_js = false)]
pub struct BootFailure {
    /// Milliseconds since 1970.
    pub timestamp: Option<f64>,
    pub stage: String,
    pub errno: Option<i32>,
    pub message: String,
}

impl From<EngineEntry> for LogEntry {
    fn from(entry: EngineEntry) -> Self {
        Self {
            timestamp: millis(entry.timestamp),
            source: source_name(entry.source),
            #[allow(clippy::cast_precision_loss)] // the agent's numbers have 32 bits
            session_id: entry.session_id.map(|id| id as f64),
            text: String::from_utf8_lossy(&entry.data).into_owned(),
            cursor: entry.cursor.to_string(),
        }
    }
}

impl From<EngineBootError> for BootFailure {
    fn from(error: EngineBootError) -> Self {
        Self {
            timestamp: DateTime::parse_from_rfc3339(&error.t).ok().map(|time| millis(time.with_timezone(&Utc))),
            stage: snake_case(&error.stage),
            errno: error.errno,
            message: error.message,
        }
    }
}

#[allow(clippy::cast_precision_loss)] // milliseconds: exact for 285,000 years
fn millis(time: DateTime<Utc>) -> f64 {
    time.timestamp_millis() as f64
}

/// A time that the calendar does not have is its first or last.
#[allow(clippy::cast_possible_truncation)] // saturates
fn time(millis: f64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis as i64).unwrap_or(if millis < 0.0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    })
}

fn source_name(source: LogSource) -> &'static str {
    match source {
        LogSource::Stdout => "stdout",
        LogSource::Stderr => "stderr",
        LogSource::Output => "output",
        LogSource::System => "system",
    }
}

fn sources(names: Option<Vec<String>>) -> Result<Vec<LogSource>, Failure> {
    names
        .unwrap_or_default()
        .into_iter()
        .map(|name| match name.as_str() {
            "stdout" => Ok(LogSource::Stdout),
            "stderr" => Ok(LogSource::Stderr),
            "output" => Ok(LogSource::Output),
            "system" => Ok(LogSource::System),
            _ => Err(MicrosandboxError::InvalidConfig(format!("log source {name:?}")).into()),
        })
        .collect()
}

fn cursor(text: &str) -> Result<LogCursor, Failure> {
    text.parse::<LogCursor>().map_err(|error| MicrosandboxError::InvalidCursor(error.to_string()).into())
}

/// Where a cursor is in `exec.log`, which is the first file of every stream.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Position {
    generation: u64,
    offset: u64,
}

/// The engine keeps this to itself, but writes it into the cursor's text: a count, and for each file its generation and the
/// offset. `None` while nothing of the file was read.
fn position(cursor: &LogCursor) -> Option<Position> {
    let bytes = STANDARD.decode(cursor.to_string()).ok()?;
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let position = Position { generation: number(1)?, offset: number(9)? };
    (position.generation != 0).then_some(position)
}

/// All entries that are there, in the order of their time.
async fn collect(backend: &Arc<dyn EngineBackend>, name: &str, options: LogOptions) -> Result<Vec<LogEntry>, Failure> {
    let options = EngineOptions {
        tail: options.tail.map(|tail| tail as usize),
        since: options.since_ms.map(time),
        until: options.until_ms.map(time),
        sources: sources(options.sources)?,
    };
    let entries = backend.sandboxes().logs(backend.clone(), name, &options).await?;
    Ok(entries.into_iter().map(LogEntry::from).collect())
}

type EngineStream = Pin<Box<dyn Stream<Item = MicrosandboxResult<EngineEntry>> + Send>>;

/// What is read: the logs of one sandbox.
struct Origin {
    backend: Arc<dyn EngineBackend>,
    name: String,
    sources: Vec<LogSource>,
    start: LogStreamStart,
}

/// How far it was read, and how it ends.
struct Reader {
    origin: Origin,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    /// Until the end.
    stream: Option<EngineStream>,
    mode: Mode,
    /// Where the last entry ended that was taken from the engine.
    last: Option<LogCursor>,
    /// The first entry of another file than the last one's, until it is known that nothing was skipped.
    held: Option<EngineEntry>,
    /// The stream was opened at the last entry: what comes next is what follows it.
    joined: bool,
    /// What ended the entries of a batch, told by the next read.
    failed: Option<Failure>,
    /// Of a control plane.
    connection: Connection,
}

/// The connections to a control plane. The engine gives each only the time of one request, and then takes it for its end.
#[derive(Default)]
struct Connection {
    /// It is to be made again, then.
    again: Option<Instant>,
    /// When the last one was made.
    made: Option<Instant>,
    /// So many in a row were short, and brought nothing.
    vain: u32,
    /// So many in a row could not be made.
    failures: u32,
    /// What the last entries are told by.
    known: VecDeque<String>,
    /// When the last entry was written.
    last: Option<DateTime<Utc>>,
    /// What comes now may be known.
    resumed: bool,
}

impl Connection {
    /// Whether an entry was there before the connection was made again. Notes the others.
    fn knows(&mut self, entry: &EngineEntry) -> bool {
        let key = if entry.cursor == LogCursor::empty() {
            format!("{}/{}/{}", entry.timestamp, source_name(entry.source), String::from_utf8_lossy(&entry.data))
        } else {
            entry.cursor.to_string()
        };
        if self.resumed && self.known.contains(&key) {
            return true;
        }
        (self.resumed, self.vain) = (false, 0);
        if self.known.len() == KNOWN {
            self.known.pop_front();
        }
        self.known.push_back(key);
        self.last = Some(entry.timestamp);
        false
    }

    fn lost(&mut self) {
        if self.made.take().is_some_and(|made| made.elapsed() >= AGAIN.1) {
            self.vain = 0;
        }
        self.again = Some(Instant::now() + (AGAIN.0 * 2_u32.pow(self.vain.min(6))).min(AGAIN.1));
        self.vain += 1;
    }
}

/// What the end of a stream is.
enum Mode {
    /// The end of the files.
    Read,
    /// The end of the sandbox of this id.
    Follow { id: String },
    /// The end of the sandbox, which is known: what is left is read without following.
    Finish,
    /// Silence, since the files can no longer be opened by name; the engine still has them open.
    Linger,
}

impl Origin {
    /// The engine's stream, after the `last` entry that was read. `until` is not the engine's: its stream ends at the first
    /// later entry of any file, and with it what another file has of before.
    ///
    /// The engine finds files by number and opens them by name; when they are rotated in between it has the wrong ones.
    async fn stream(&self, last: Option<LogCursor>, follow: bool) -> MicrosandboxResult<EngineStream> {
        let options = EngineStreamOptions {
            sources: self.sources.clone(),
            start: last.map_or_else(|| self.start.clone(), LogStreamStart::From),
            until: None,
            follow,
        };
        loop {
            let before = self.files();
            let stream = self.backend.sandboxes().log_stream(self.backend.clone(), &self.name, &options).await?;
            if before.iter().map(|file| file.generation).eq(self.files().iter().map(|file| file.generation)) {
                return Ok(stream);
            }
        }
    }

    /// `exec.log` and its rotated files, the newest first, each with its length as the offset. Looked at in the direction in
    /// which they move, so that none is overlooked; one that moved on is seen twice.
    fn files(&self) -> Vec<Position> {
        let Some(local) = self.backend.as_local() else { return Vec::new() };
        let directory = local.sandboxes_dir().join(&self.name).join("logs");
        let mut files: Vec<Position> = Vec::new();
        for name in FILES {
            if let Ok(metadata) = std::fs::metadata(directory.join(name)) {
                let file = Position { generation: metadata.ino(), offset: metadata.len() };
                if files.iter().all(|other| other.generation != file.generation) {
                    files.push(file);
                }
            }
        }
        files
    }

    async fn is_alive(&self, id: &str) -> MicrosandboxResult<bool> {
        match self.backend.sandboxes().get(self.backend.clone(), &self.name).await {
            Ok(handle) => Ok(handle.id().as_str() == id && handle.status_snapshot().has_active_runtime_state()),
            Err(MicrosandboxError::SandboxNotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_cloud(&self) -> bool {
        cloud::is_cloud(&self.backend)
    }

    async fn id(&self) -> MicrosandboxResult<String> {
        Ok(self.backend.sandboxes().get(self.backend.clone(), &self.name).await?.id().as_str().to_owned())
    }
}

impl Reader {
    async fn open(
        backend: Arc<dyn EngineBackend>,
        name: String,
        id: Option<String>,
        options: LogStreamOptions,
    ) -> Result<Self, Failure> {
        let since = options.since_ms.map(time);
        let start = match (&options.cursor, since) {
            (Some(text), _) => LogStreamStart::From(cursor(text)?),
            (None, Some(since)) => LogStreamStart::Since(since),
            (None, None) => LogStreamStart::Beginning,
        };
        let mut reader = Self {
            origin: Origin { backend, name, sources: sources(options.sources)?, start },
            since,
            until: options.until_ms.map(time),
            stream: None,
            mode: Mode::Read,
            last: None,
            held: None,
            joined: false,
            failed: None,
            connection: Connection::default(),
        };
        if options.follow.unwrap_or(false) && !reader.is_past_until() {
            let id = match id {
                Some(id) => id,
                None => reader.origin.id().await?,
            };
            if reader.origin.is_alive(&id).await? {
                reader.mode = Mode::Follow { id };
            }
        }
        let follow = matches!(reader.mode, Mode::Follow { .. });
        reader.stream = Some(reader.origin.stream(None, follow).await?);
        reader.connection.made = Some(Instant::now());
        Ok(reader)
    }

    /// With a margin for what was captured in time and written a moment later.
    fn is_past_until(&self) -> bool {
        self.until.is_some_and(|until| Utc::now() - IDLE >= until)
    }

    /// The next entry; `None` after the last. Loses nothing when it is dropped while it waits.
    async fn next(&mut self) -> Result<Option<EngineEntry>, Failure> {
        loop {
            if let Some(time) = self.connection.again {
                tokio::time::sleep_until(time).await;
                self.connect_again().await?;
                continue;
            }
            if self.held.is_some()
                && let Some(entry) = self.join().await?
            {
                return Ok(Some(entry));
            }
            if matches!(self.mode, Mode::Finish) {
                self.finish().await?;
            }
            let Some(stream) = &mut self.stream else { return Ok(None) };
            let patience = match self.mode {
                Mode::Follow { .. } if self.origin.is_cloud() => Some(CLOUD_IDLE),
                Mode::Follow { .. } => Some(IDLE),
                Mode::Linger => Some(LINGER),
                Mode::Read | Mode::Finish => None,
            };
            let idle = async {
                match patience {
                    Some(patience) => tokio::time::sleep(patience).await,
                    None => std::future::pending().await,
                }
            };
            let item = tokio::select! {
                biased;
                item = stream.next() => item,
                () = idle => {
                    self.when_idle().await?;
                    continue;
                }
            };
            let following = matches!(self.mode, Mode::Follow { .. }) && self.origin.is_cloud();
            match item {
                Some(Ok(entry)) if self.origin.is_cloud() && self.connection.knows(&entry) => {}
                Some(Ok(entry)) => {
                    if self.may_have_skipped(&entry) {
                        self.held = Some(entry);
                    } else if let Some(entry) = self.take(entry) {
                        return Ok(Some(entry));
                    }
                }
                Some(Err(error)) if following && cloud::may_pass(&error) => {
                    self.stream = None;
                    self.connection.lost();
                }
                Some(Err(error)) => {
                    self.stream = None;
                    // Nobody writes any more: what ends the silence does not matter.
                    if !matches!(self.mode, Mode::Linger) || !self.origin.is_cloud() {
                        return Err(error.into());
                    }
                }
                None => {
                    self.stream = None;
                    if following {
                        self.connection.lost();
                    }
                }
            }
        }
    }

    /// Go on after the last entry while the sandbox runs. Can be dropped, and tries again then.
    async fn connect_again(&mut self) -> Result<(), Failure> {
        let (Mode::Follow { id }, false) = (&self.mode, self.is_past_until()) else {
            self.connection.again = None;
            return Ok(());
        };
        let start = match (&self.last, self.connection.last) {
            (Some(cursor), _) if *cursor != LogCursor::empty() => LogStreamStart::From(cursor.clone()),
            (_, Some(time)) => LogStreamStart::Since(time),
            (_, None) => self.origin.start.clone(),
        };
        let connected = async {
            let alive = self.origin.is_alive(id).await?;
            let Origin { backend, name, sources, .. } = &self.origin;
            let options = EngineStreamOptions { sources: sources.clone(), start, until: None, follow: true };
            match backend.sandboxes().log_stream(backend.clone(), name, &options).await {
                Ok(stream) => Ok((Some(stream), alive)),
                // It has ended, and what was not read by then is gone with it.
                Err(_) if !alive => Ok((None, alive)),
                Err(error) => Err(error),
            }
        };
        match connected.await {
            Ok((stream, alive)) => {
                self.stream = stream;
                if !alive {
                    self.mode = Mode::Linger;
                }
                let Connection { again, failures, made, resumed, .. } = &mut self.connection;
                (*again, *failures, *made, *resumed) = (None, 0, Some(Instant::now()), true);
                Ok(())
            }
            // One that is just stopping says so in its own way, and has stopped at the next look.
            Err(error) if self.connection.failures < FAILURES && !is_final(&error) => {
                self.connection.failures += 1;
                self.connection.lost();
                Ok(())
            }
            Err(error) => {
                self.connection.again = None;
                Err(error.into())
            }
        }
    }

    /// Note how far the engine is, and say whether the reader wants the entry.
    fn take(&mut self, entry: EngineEntry) -> Option<EngineEntry> {
        let generation = |cursor: &LogCursor| position(cursor).map(|position| position.generation);
        if self.last.as_ref().and_then(generation) != generation(&entry.cursor) {
            self.joined = false;
        }
        self.last = Some(entry.cursor.clone());
        if self.until.is_some_and(|until| entry.timestamp >= until) {
            // The other files may still have something of before, but nobody needs to wait for it.
            if matches!(self.mode, Mode::Follow { .. }) {
                self.mode = Mode::Finish;
            }
            return None;
        }
        self.since.is_none_or(|since| entry.timestamp >= since).then_some(entry)
    }

    /// Whether an entry is of another file than the last one, and not of the one after it, or not all of the last one was
    /// read. The engine goes on to the next file when it finds that the one that it follows was rotated, and not when it
    /// has read it to its end: what was written between its last read and the rotation is lost to its stream, without a
    /// word.
    fn may_have_skipped(&self, entry: &EngineEntry) -> bool {
        let (Mode::Follow { .. }, Some(last), Some(next)) =
            (&self.mode, self.last.as_ref().and_then(position), position(&entry.cursor))
        else {
            return false;
        };
        if next.generation == last.generation || self.origin.backend.as_local().is_none() {
            return false;
        }
        let files = self.origin.files();
        match files.iter().position(|file| file.generation == last.generation) {
            Some(at) if at > 0 && files[at - 1].generation == next.generation => {
                !self.joined && files[at].offset > last.offset
            }
            _ => true,
        }
    }

    /// Go on from the last entry with a new stream, which has the rest of its file and then the next. Answers with the entry
    /// that was held, when the files can no longer be opened by name.
    async fn join(&mut self) -> Result<Option<EngineEntry>, Failure> {
        match self.origin.stream(self.last.clone(), true).await {
            Ok(stream) => {
                self.stream = Some(stream);
                self.joined = true;
                self.held = None;
                Ok(None)
            }
            Err(MicrosandboxError::SandboxNotFound(_)) => {
                let entry = self.held.take();
                Ok(entry.and_then(|entry| self.take(entry)))
            }
            Err(MicrosandboxError::InvalidCursor(_)) => {
                self.stream = None;
                self.held = None;
                let last = self.last.as_ref().and_then(position);
                let dropped_from_offset = last.map(|last| last.offset).unwrap_or_default();
                Err(MicrosandboxError::MissedRotation { dropped_from_offset }.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Nothing was written for a while: is anybody there who could?
    async fn when_idle(&mut self) -> Result<(), Failure> {
        match &self.mode {
            Mode::Follow { id } if self.origin.is_cloud() => {
                if self.is_past_until() {
                    self.mode = Mode::Finish;
                } else {
                    match self.origin.is_alive(id).await {
                        Ok(false) => self.mode = Mode::Linger,
                        Err(error) if !cloud::may_pass(&error) => return Err(error.into()),
                        Ok(true) | Err(_) => {}
                    }
                }
            }
            Mode::Follow { id } => {
                if self.is_past_until() || !self.origin.is_alive(id).await? {
                    self.mode = Mode::Finish;
                }
            }
            _ => self.stream = None,
        }
        Ok(())
    }

    /// Change to a stream that ends where the files do: the sandbox may have written until it ended.
    async fn finish(&mut self) -> Result<(), Failure> {
        if self.origin.is_cloud() {
            // There are no files, and what is wanted of the stream was read.
            (self.stream, self.mode) = (None, Mode::Read);
            return Ok(());
        }
        match self.origin.stream(self.last.clone(), false).await {
            Ok(stream) => {
                self.stream = Some(stream);
                self.mode = Mode::Read;
                Ok(())
            }
            // Removed, or rotated away. The stream that follows has its files open and says what it misses.
            Err(MicrosandboxError::SandboxNotFound(_) | MicrosandboxError::InvalidCursor(_)) => {
                self.mode = Mode::Linger;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What is there already, up to about `limit` bytes; waits for the first entry only. Empty after the last.
    async fn batch(&mut self, limit: usize) -> Result<Vec<LogEntry>, Failure> {
        if let Some(failure) = self.failed.take() {
            return Err(failure);
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut next = self.next().await?;
        while let Some(entry) = next {
            bytes += entry.data.len();
            batch.push(entry.into());
            if bytes >= limit {
                break;
            }
            next = match self.next().now_or_never() {
                Some(Ok(next)) => next,
                // Must not swallow the entries before it.
                Some(Err(failure)) => {
                    self.failed = Some(failure);
                    None
                }
                None => None,
            };
        }
        Ok(batch)
    }
}

/// Whether asking again is no use.
fn is_final(error: &MicrosandboxError) -> bool {
    match error {
        MicrosandboxError::CloudHttp { status, .. } => matches!(status, 401 | 403),
        MicrosandboxError::InvalidCursor(_) | MicrosandboxError::Unsupported { .. } => true,
        _ => false,
    }
}

struct LogsValue {
    reader: Mutex<Reader>,
    live: Live,
}

impl InEngine for LogsValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

/// How the logs of a VM end that has gone without saying why: of its runtime, and of its kernel.
pub(crate) fn ends(sandbox: &Path) -> String {
    let mut text = String::new();
    for name in ["runtime.log", "kernel.log"] {
        let last = last_lines(&sandbox.join("logs").join(name)).unwrap_or_default();
        if !last.is_empty() {
            text = format!("{text}; {name} ends with {last:?}");
        }
    }
    text
}

/// The last lines of a log, short enough for a message. The kernel's own line of its command is left out: that is long, and
/// may hold more than it should.
fn last_lines(log: &Path) -> std::io::Result<String> {
    const LINES: usize = 4;
    const LINE: usize = 200;
    const BYTES: u64 = 4096;
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
    let mut bytes = Vec::new();
    file.take(BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("ommand line:")).collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    let short: Vec<String> = last.iter().map(|line| line.chars().take(LINE).collect()).collect();
    Ok(short.join("\n"))
}

/// The logs of a sandbox, as they are read.
#[napi]
pub struct LogStream {
    slot: Slot<LogsValue>,
}

async fn open(
    backend: &Arc<dyn EngineBackend>,
    name: String,
    id: Option<String>,
    options: LogStreamOptions,
    live: Live,
    cancel: &Cancel,
) -> Result<LogStream, Stop> {
    let reader = cancel.guard(Reader::open(backend.clone(), name, id, options)).await?;
    Ok(LogStream { slot: Slot::new("logs", LogsValue { reader: Mutex::new(reader), live }) })
}

#[napi]
impl LogStream {
    /// The next entries: waits for one, then takes what else is there, up to about `max_bytes`. An empty list is the end.
    #[napi(ts_return_type = "Promise<Outcome<Array<LogEntry>>>")]
    pub async fn read(&self, max_bytes: u32, token: &CancelToken) -> napi::Result<Outcome<Vec<LogEntry>>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                cancel.guard(Box::pin(async { value.reader.lock().await.batch(max_bytes as usize).await })).await
            })
            .await)
    }

    /// Give the handle back.
    #[napi]
    pub async fn close(&self) -> napi::Result<()> {
        drop(self.slot.take());
        Ok(())
    }
}

#[napi]
impl Sandbox {
    /// All log entries that are there, in the order of their time.
    #[napi(ts_return_type = "Promise<Outcome<Array<LogEntry>>>")]
    pub async fn logs(&self, options: LogOptions, token: &CancelToken) -> napi::Result<Outcome<Vec<LogEntry>>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let sandbox = &value.sandbox;
                cancel.guard(current_for_control(sandbox)).await?;
                cancel.guard(Box::pin(collect(sandbox.backend(), sandbox.name(), options))).await
            })
            .await)
    }

    /// Stream the log entries.
    #[napi(ts_return_type = "Promise<Outcome<LogStream>>")]
    pub async fn log_stream(&self, options: LogStreamOptions, token: &CancelToken) -> napi::Result<Outcome<LogStream>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let (sandbox, live) = (&value.sandbox, value.live.engine().count(Kind::Logs));
                cancel.guard(current_for_control(sandbox)).await?;
                let id = Some(sandbox.id().as_str().to_owned());
                Box::pin(open(sandbox.backend(), sandbox.name().to_owned(), id, options, live, &cancel)).await
            })
            .await)
    }
}

#[napi]
impl Backend {
    /// All log entries of a sandbox, by name, in the order of their time.
    #[napi(ts_return_type = "Promise<Outcome<Array<LogEntry>>>")]
    pub async fn sandbox_logs(
        &self,
        name: String,
        options: LogOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Vec<LogEntry>>> {
        Ok(self
            .slot
            .run(
                token,
                |value, cancel| async move { cancel.guard(Box::pin(collect(&value.backend, &name, options))).await },
            )
            .await)
    }

    /// Stream the log entries of a sandbox, by name.
    #[napi(ts_return_type = "Promise<Outcome<LogStream>>")]
    pub async fn sandbox_log_stream(
        &self,
        name: String,
        options: LogStreamOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<LogStream>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let live = value.live.engine().count(Kind::Logs);
                Box::pin(open(&value.backend, name, None, options, live, &cancel)).await
            })
            .await)
    }

    /// Why a sandbox could not start the last time that it could not, if that was recorded.
    #[napi(ts_return_type = "Promise<Outcome<BootFailure | null>>")]
    pub async fn boot_error(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<Option<BootFailure>>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let found = cancel.guard(value.backend.sandboxes().boot_error(value.backend.clone(), &name)).await?;
                Ok(found.map(BootFailure::from))
            })
            .await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_its_last_lines_and_not_the_kernels_command() {
        let sandbox = tempfile::tempdir().expect("a directory");
        assert_eq!(ends(sandbox.path()), "");
        std::fs::create_dir(sandbox.path().join("logs")).expect("a directory");
        let long = "x".repeat(300);
        let lines =
            ["a\n".repeat(5000).as_str(), "Kernel command line: TOKEN=1\n\n", &long, "\nb\nc \u{1b}[0m\n"].concat();
        std::fs::write(sandbox.path().join("logs/kernel.log"), lines).expect("a log");
        let last = format!("; kernel.log ends with \"a\\n{}\\nb\\nc \\u{{1b}}[0m\"", "x".repeat(200));
        assert_eq!(ends(sandbox.path()), last);
    }

    #[test]
    fn a_time_outside_of_the_calendar_is_its_end() {
        assert_eq!(millis(time(1_234.0)).to_bits(), 1_234.0_f64.to_bits());
        assert_eq!(time(f64::MAX), DateTime::<Utc>::MAX_UTC);
        assert_eq!(time(f64::MIN), DateTime::<Utc>::MIN_UTC);
    }

    #[test]
    fn a_cursor_says_where_it_is() {
        let bytes = [vec![1], 42_u64.to_le_bytes().to_vec(), 7_u64.to_le_bytes().to_vec()].concat();
        let cursor = cursor(&STANDARD.encode(bytes)).unwrap_or_default();
        assert!(position(&cursor) == Some(Position { generation: 42, offset: 7 }));
    }

    #[test]
    fn what_a_control_plane_tells_again_is_known() {
        let entry = |text: &str, cursor: LogCursor| EngineEntry {
            timestamp: time(1.0),
            source: LogSource::Stdout,
            session_id: None,
            data: bytes::Bytes::copy_from_slice(text.as_bytes()),
            cursor,
        };
        let at = |offset: u64| {
            let bytes = [vec![1], 42_u64.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()].concat();
            cursor(&STANDARD.encode(bytes)).unwrap_or_default()
        };
        let mut connection = Connection::default();
        // The same line twice is two lines, unless the connection was made again in between.
        for text in ["a", "a", "b"] {
            assert!(!connection.knows(&entry(text, LogCursor::empty())));
        }
        connection.resumed = true;
        assert!(connection.knows(&entry("b", LogCursor::empty())));
        assert!(!connection.knows(&entry("c", LogCursor::empty())));
        assert!(!connection.knows(&entry("b", LogCursor::empty())));
        assert!(!connection.knows(&entry("d", at(1))) && !connection.knows(&entry("d", at(2))));
        connection.resumed = true;
        assert!(connection.knows(&entry("d", at(2))) && !connection.knows(&entry("d", at(3))));
    }

    #[test]
    fn a_cursor_that_is_none_is_told() {
        assert!(matches!(cursor("nonsense!"), Err(Failure::InvalidCursor { .. })));
        assert!(matches!(cursor(""), Err(Failure::InvalidCursor { .. })));
        let empty = LogCursor::empty();
        assert!(position(&empty).is_none());
        assert_eq!(cursor(&empty.to_string()).ok(), Some(empty));
    }
}
