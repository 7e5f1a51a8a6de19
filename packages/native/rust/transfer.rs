//! Files and trees between the host and a guest: one call for the whole, and an account of it for who asks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use microsandbox::sandbox::Sandbox as EngineSandbox;
use napi_derive::napi;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cancel::{Cancel, CancelToken};
use crate::failure::Failure;
use crate::guest::dial;
use crate::outcome::{Outcome, Stop};
use crate::sandbox::Sandbox;
use crate::tree::{Filter, Links, Rules, Source, Tally, Target, Transfer};
use crate::tree_guest::{GuestSource, GuestTarget, Owner};
use crate::tree_host::{HostSource, HostTarget};

/// Between two reports to one reader.
const EVERY: Duration = Duration::from_millis(100);

/// What to carry, and how much of it at most.
#[napi(object, object_to_js = false)]
pub struct TransferOptions {
    pub host_path: String,
    pub guest_path: String,
    pub include: Option<Vec<String>>,
    pub exclude: Vec<String>,
    #[napi(ts_type = "'inside' | 'all' | 'none'")]
    pub symlinks: String,
    pub strict: bool,
    pub max_entries: f64,
    pub max_bytes: f64,
    pub max_depth: u32,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// An entry that was left out.
#[napi(object, object_from_js = false)]
pub struct SkippedEntry {
    pub path: String,
    #[napi(ts_type = "'special' | 'link' | 'name' | 'vanished'")]
    pub why: String,
}

/// What was carried.
#[napi(object, object_from_js = false)]
pub struct Transferred {
    pub files: f64,
    pub directories: f64,
    pub symlinks: f64,
    pub bytes: f64,
    /// The first of those that were left out.
    pub skipped: Vec<SkippedEntry>,
    pub skipped_count: f64,
}

/// How far a transfer is.
#[napi(discriminant = "_tag", object_from_js = false)]
pub enum TransferEvent {
    Started {
        #[napi(ts_type = "'file' | 'directory'")]
        kind: String,
        /// Of a file.
        total_bytes: Option<f64>,
    },
    Progress {
        files: f64,
        directories: f64,
        symlinks: f64,
        bytes: f64,
        skipped_count: f64,
        path: String,
    },
}

/// Where one transfer says how far it is: its newest state, whenever it is asked.
#[napi]
pub struct TransferProgress {
    tally: Arc<Tally>,
    told: Mutex<Told>,
}

/// What the reader knows.
#[derive(Default)]
struct Told {
    changes: u64,
    started: bool,
    at: Option<Instant>,
}

#[napi]
impl TransferProgress {
    #[napi(constructor)]
    #[must_use]
    #[allow(clippy::new_without_default)] // only JavaScript makes one
    pub fn new() -> Self {
        Self { tally: Arc::default(), told: Mutex::default() }
    }

    /// What is new: waits for something, and a little since the last time. An empty list means that there will be no more.
    #[napi(ts_return_type = "Promise<Outcome<Array<TransferEvent>>>")]
    pub async fn read(&self, token: &CancelToken) -> napi::Result<Outcome<Vec<TransferEvent>>> {
        Ok(self.next(token.token()).await.into())
    }

    /// There will be no more: the call has ended, or was never made.
    #[napi(catch_unwind)]
    pub fn end(&self) {
        self.tally.end();
    }
}

impl TransferProgress {
    async fn next(&self, cancelled: CancellationToken) -> Result<Vec<TransferEvent>, Stop> {
        loop {
            let (changes, ended) = self.tally.changes();
            let (is_new, due) = {
                let told = self.told.lock();
                (changes != told.changes, told.at.map(|at| at + EVERY))
            };
            let is_due = due.is_none_or(|due| due <= Instant::now());
            if is_new && (is_due || ended) {
                let events = self.tell(changes);
                if ended || !events.is_empty() {
                    return Ok(events);
                }
            } else if ended {
                return Ok(Vec::new());
            }
            let waited = async {
                match due.filter(|_| is_new && !is_due) {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = cancelled.cancelled() => return Err(Stop::Cancelled),
                () = waited => {}
                () = self.tally.changed() => {}
            }
        }
    }

    fn tell(&self, changes: u64) -> Vec<TransferEvent> {
        let mut told = self.told.lock();
        told.changes = changes;
        // A transfer that failed before it knew what it is about has nothing to tell.
        let Some((kind, size)) = self.tally.root() else { return Vec::new() };
        told.at = Some(Instant::now());
        let mut events = Vec::new();
        if !std::mem::replace(&mut told.started, true) {
            events.push(TransferEvent::Started { kind: kind.word().into(), total_bytes: size.map(number) });
        }
        let counts = self.tally.counts();
        events.push(TransferEvent::Progress {
            files: number(counts.files),
            directories: number(counts.directories),
            symlinks: number(counts.symlinks),
            bytes: number(counts.bytes),
            skipped_count: number(counts.skipped),
            path: counts.path,
        });
        events
    }
}

#[napi]
impl Sandbox {
    /// Carry a file or a tree of the host into the guest.
    #[napi(ts_return_type = "Promise<Outcome<Transferred>>")]
    pub async fn upload(
        &self,
        options: TransferOptions,
        progress: &TransferProgress,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Transferred>> {
        let tally = progress.tally.clone();
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                Box::pin(transfer(&value.sandbox, options, tally, cancel, Direction::Up)).await
            })
            .await)
    }

    /// Carry a file or a tree of the guest to the host.
    #[napi(ts_return_type = "Promise<Outcome<Transferred>>")]
    pub async fn download(
        &self,
        options: TransferOptions,
        progress: &TransferProgress,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Transferred>> {
        let tally = progress.tally.clone();
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                Box::pin(transfer(&value.sandbox, options, tally, cancel, Direction::Down)).await
            })
            .await)
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

async fn transfer(
    sandbox: &EngineSandbox,
    options: TransferOptions,
    tally: Arc<Tally>,
    cancel: Cancel,
    direction: Direction,
) -> Result<Transferred, Stop> {
    let rules = rules(&options)?;
    let connection = cancel.guard(dial(sandbox)).await?;
    let stop = CancellationToken::new();
    let (host, guest) = (Path::new(&options.host_path), options.guest_path.as_str());
    let carried = match direction {
        Direction::Up => {
            let owner = Owner { uid: options.uid, gid: options.gid };
            let target = GuestTarget::new(connection, guest, owner, stop.clone());
            let transfer = Transfer::new(HostSource::new(host), target, rules, tally.clone(), stop.clone());
            carry(&transfer, &cancel, &stop).await
        }
        Direction::Down => {
            let source = GuestSource::new(connection, guest, stop.clone());
            let transfer = Transfer::new(source, HostTarget::new(host), rules, tally.clone(), stop.clone());
            carry(&transfer, &cancel, &stop).await
        }
    };
    match carried {
        Ok(()) => Ok(summary(&tally)),
        Err(Stop::Failed(failure)) => {
            let counts = tally.counts();
            let done = counts.files + counts.directories + counts.symlinks;
            Err(Stop::Failed(if done == 0 {
                failure
            } else {
                failure.after(&format!("{done} entries were there by then"))
            }))
        }
        Err(Stop::Cancelled) => Err(Stop::Cancelled),
    }
}

/// A transfer that is cancelled is told to stop, and then waited for.
async fn carry<S: Source, T: Target>(
    transfer: &Arc<Transfer<S, T>>,
    cancel: &Cancel,
    stop: &CancellationToken,
) -> Result<(), Stop> {
    let running = transfer.run();
    tokio::pin!(running);
    tokio::select! {
        biased;
        carried = &mut running => return carried,
        () = cancel.requested() => stop.cancel(),
    }
    // One that was done all the same is done.
    running.await.map_err(|_| Stop::Cancelled)
}

fn rules(options: &TransferOptions) -> Result<Rules, Failure> {
    let links = match options.symlinks.as_str() {
        "inside" => Links::Inside,
        "all" => Links::All,
        "none" => Links::None,
        other => {
            let (message, field) = (format!("symlinks: {other:?}"), Some("symlinks".into()));
            return Err(Failure::InvalidConfig { message, field });
        }
    };
    Ok(Rules {
        filter: Filter::new(options.include.as_deref(), &options.exclude)?,
        links,
        strict: options.strict,
        max_entries: whole(options.max_entries),
        max_bytes: whole(options.max_bytes),
        max_depth: options.max_depth,
    })
}

fn summary(tally: &Tally) -> Transferred {
    let counts = tally.counts();
    let skipped = tally.named().into_iter().map(|(path, why)| SkippedEntry { path, why: why.word().into() });
    Transferred {
        files: number(counts.files),
        directories: number(counts.directories),
        symlinks: number(counts.symlinks),
        bytes: number(counts.bytes),
        skipped: skipped.collect(),
        skipped_count: number(counts.skipped),
    }
}

#[allow(clippy::cast_precision_loss)] // exact up to 8 PiB
fn number(count: u64) -> f64 {
    count as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates, and the schema lets in what is whole
fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Kind;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
    }

    async fn read(progress: &TransferProgress) -> Vec<String> {
        let events = progress.next(CancellationToken::new()).await.ok().expect("events");
        let shape = |event: &TransferEvent| match event {
            TransferEvent::Started { kind, total_bytes } => format!("{kind} {total_bytes:?}"),
            TransferEvent::Progress { files, bytes, path, .. } => format!("{files} {bytes} {path}"),
        };
        events.iter().map(shape).collect()
    }

    #[test]
    fn a_reader_is_told_the_newest_state_and_not_more_often_than_it_should() {
        run(async {
            let progress = TransferProgress::new();
            progress.tally.begin(Kind::File, Some(7));
            assert_eq!(read(&progress).await, ["file Some(7.0)", "0 0 "]);
            let first = Instant::now();
            for _ in 0..1000 {
                progress.tally.bytes("a", 3);
                progress.tally.done("b", Kind::File);
            }
            assert_eq!(read(&progress).await, ["1000 3000 b"]);
            assert!(first.elapsed() >= EVERY);
            progress.tally.bytes("c", 1);
            progress.end();
            assert_eq!(read(&progress).await, ["1000 3001 c"]);
            assert_eq!(read(&progress).await, Vec::<String>::new());
        });
    }

    #[test]
    fn a_reader_is_told_the_end_of_what_never_began_and_can_leave() {
        run(async {
            let progress = TransferProgress::new();
            let token = CancellationToken::new();
            let (left, ()) = tokio::join!(progress.next(token.clone()), async { token.cancel() });
            assert!(matches!(left, Err(Stop::Cancelled)));
            let (events, ()) = tokio::join!(read(&progress), async { progress.end() });
            assert_eq!(events, Vec::<String>::new());
        });
    }
}
