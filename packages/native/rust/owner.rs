//! Who a sandbox belongs to, and the removal of what dead owners left.
//!
//! A sandbox that is to end with its scope, however, carries its owner as labels: the process, told from another of the
//! same number by its start and by the boot that it belongs to, and the engine in it. A detached one has no owner. An owner that cannot be judged from here counts
//! as alive: one whose process numbers are those of another container, or of which nothing can be read.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::join_all;
use microsandbox::backend::Backend as EngineBackend;
use microsandbox::sandbox::{SandboxHandle, SandboxListBuilder};
use microsandbox::{LocalBackend, MicrosandboxError, MicrosandboxResult};
use microsandbox_runtime::ipc::try_acquire_transition_guard;
use napi_derive::napi;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::backend::{Backend, BackendValue};
use crate::cancel::{Cancel, CancelToken};
use crate::failure::Failure;
use crate::image::local_only;
use crate::outcome::{Outcome, Stop};
use crate::sandbox::{Ending, POLL, SETTLE, can_start, flatten, remove_stopped};

/// Labels of this SDK: not the user's to set, and not shown to the user.
pub(crate) const RESERVED: &str = "effect-microsandbox.";

/// Marks a sandbox with the one attempt that made it, so that its roll-back can tell it from another
/// sandbox of the same name.
pub(crate) const CREATION_LABEL: &str = "effect-microsandbox.creation";

/// What is to become of a sandbox without its owner: one of the next two.
const ON_CLOSE: &str = "effect-microsandbox.on-close";
const DESTROY: &str = "destroy";
const STOP: &str = "stop";

const PID: &str = "effect-microsandbox.owner.pid";
const STARTED: &str = "effect-microsandbox.owner.started";
const BOOT: &str = "effect-microsandbox.owner.boot";
const PIDS: &str = "effect-microsandbox.owner.pid-namespace";
const SESSION: &str = "effect-microsandbox.owner.session";

/// The largest page that the engine gives.
const PAGE: u32 = 100;

/// The engines of this process that were closed. Those of another copy of this addon are not known here, and count as
/// open for as long as the process lives.
static CLOSED: Mutex<Option<HashSet<Uuid>>> = Mutex::new(None);

/// One engine's life, as an owner of sandboxes.
pub(crate) struct Session(Uuid);

impl Session {
    pub(crate) fn open() -> Self {
        Self(Uuid::new_v4())
    }

    /// From here on, what is left of it has no owner. Idempotent.
    pub(crate) fn close(&self) {
        CLOSED.lock().get_or_insert_default().insert(self.0);
    }

    /// Whether these are the labels of what this session owns.
    pub(crate) fn owns(&self, labels: &Labels) -> bool {
        labels.get(SESSION) == Some(&self.0.to_string())
    }

    /// The labels of a sandbox that this session ends in this way.
    pub(crate) fn owner(&self, on_close: Ending) -> Labels {
        let ending = match on_close {
            Ending::Destroy => DESTROY,
            Ending::Stop => STOP,
            Ending::Detach => return Labels::new(),
        };
        let process = Process::current();
        [
            (ON_CLOSE, ending.to_owned()),
            (PID, process.pid.to_string()),
            (STARTED, process.started.clone()),
            (BOOT, process.boot.clone()),
            (PIDS, process.namespace.clone()),
            (SESSION, self.0.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }
}

pub(crate) type Labels = BTreeMap<String, String>;

/// A user's labels, without ours.
pub(crate) fn visible(mut labels: Labels) -> Labels {
    labels.retain(|key, _| !key.starts_with(RESERVED));
    labels
}

/// A process, told from every other that ever had its number.
struct Process {
    pid: u32,
    started: String,
    boot: String,
    namespace: String,
}

impl Process {
    fn current() -> &'static Self {
        static CURRENT: OnceLock<Process> = OnceLock::new();
        CURRENT.get_or_init(|| {
            let pid = std::process::id();
            Self {
                pid,
                started: match host::look(pid) {
                    host::Seen::Started(started) => started,
                    host::Seen::Gone | host::Seen::Unknown => String::new(),
                },
                boot: host::boot(),
                namespace: host::pid_namespace(),
            }
        })
    }

    fn is_dead(&self) -> bool {
        let here = Self::current();
        let unknown = |process: &Self| process.started.is_empty() || process.boot.is_empty();
        if unknown(self) || unknown(here) || self.namespace != here.namespace {
            return false;
        }
        // Whatever ran before the last boot does not run now.
        self.boot != here.boot
            || match host::look(self.pid) {
                host::Seen::Started(started) => started != self.started,
                host::Seen::Gone => true,
                host::Seen::Unknown => false,
            }
    }
}

/// Whether the owner that these labels name has gone. Without an owner, nothing has.
fn is_orphaned(labels: &Labels) -> bool {
    let text = |key: &str| labels.get(key).cloned();
    let (Some(pid), Some(started), Some(boot), Some(namespace), Some(session)) =
        (text(PID).and_then(|pid| pid.parse().ok()), text(STARTED), text(BOOT), text(PIDS), text(SESSION))
    else {
        return false;
    };
    let owner = Process { pid, started, boot, namespace };
    let ours = || {
        let here = Process::current();
        owner.pid == here.pid && owner.namespace == here.namespace
    };
    let closed = || {
        let session = Uuid::parse_str(&session);
        session.is_ok_and(|session| CLOSED.lock().as_ref().is_some_and(|closed| closed.contains(&session)))
    };
    owner.is_dead() || (ours() && closed())
}

/// Give a sandbox this owner, or none, and take the mark of the attempt that made it, which has ended. Its stored
/// configuration says so from now on, whatever runs. The engine finds the sandbox by its name: whoever calls this knows
/// that the name is not another's meanwhile.
pub(crate) async fn own(handle: &SandboxHandle, owner: &Labels) -> MicrosandboxResult<()> {
    let labels = handle.config()?.spec.labels;
    let stale = labels.keys().filter(|key| key.starts_with(RESERVED) && !owner.contains_key(*key));
    let changed = owner.iter().filter(|(key, value)| labels.get(*key) != Some(value));
    let mut change = None;
    for key in stale {
        change = Some(change.unwrap_or_else(|| handle.modify().next_start()).remove_label(key));
    }
    for (key, value) in changed {
        change = Some(change.unwrap_or_else(|| handle.modify().next_start()).label(key, value));
    }
    if let Some(change) = change {
        Box::pin(change.apply()).await?;
    }
    Ok(())
}

/// Where this SDK keeps its own files below a home.
fn directory(home: &Path) -> PathBuf {
    home.join("effect-microsandbox")
}

/// A create that has begun, written down until it has ended: when this process is killed before the engine has a row of
/// the sandbox, this is what tells that the directory of that name is an orphan.
pub(crate) struct Intent(PathBuf);

impl Intent {
    pub(crate) fn write(home: &Path, creation: &str, name: &str, session: &Session) -> std::io::Result<Self> {
        let path = directory(home).join("creating").join(creation);
        std::fs::create_dir_all(path.parent().unwrap_or(home))?;
        // Whatever is to become of the sandbox: what was not made is removed.
        let lines = session.owner(Ending::Destroy).into_iter().map(|(key, value)| format!("{key}={value}"));
        let lines = std::iter::once(name.to_owned()).chain(lines).collect::<Vec<_>>();
        // By rename, so that nobody reads the half of one.
        let new = path.with_extension("new");
        std::fs::write(&new, lines.join("\n"))?;
        std::fs::rename(new, &path)?;
        Ok(Self(path))
    }

    fn read(path: &Path) -> Option<(String, Labels)> {
        let text = std::fs::read_to_string(path).ok()?;
        let mut lines = text.lines();
        let name = lines.next()?.to_owned();
        let labels = lines.filter_map(|line| line.split_once('='));
        Some((name, labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What a sweep did.
#[napi(object, object_from_js = false)]
pub struct SweepReport {
    /// Sandboxes whose owner had gone: ended and removed.
    pub removed: Vec<String>,
    /// Those that were to be kept: ended.
    pub stopped: Vec<String>,
    /// Those that could not be removed within the time.
    pub failed: Vec<SweepFailure>,
}

#[napi(object, object_from_js = false)]
pub struct SweepFailure {
    pub sandbox: String,
    pub message: String,
}

#[napi]
impl Backend {
    /// Remove what dead owners left in a local backend: their sandboxes, and the directories of creates that never got as
    /// far as a row.
    #[napi(ts_return_type = "Promise<Outcome<SweepReport>>")]
    pub async fn sweep(&self, token: &CancelToken) -> napi::Result<Outcome<SweepReport>> {
        Ok(Box::pin(self.slot.run(token, sweep)).await)
    }
}

async fn sweep(value: Arc<BackendValue>, cancel: Cancel) -> Result<SweepReport, Stop> {
    let backend = &value.backend;
    let mut report = SweepReport { removed: Vec::new(), stopped: Vec::new(), failed: Vec::new() };
    let Some(local) = backend.as_local() else { return Err(local_only("Sandbox.sweep").into()) };
    let home = local.config().home();
    let orphans = async || Ok::<_, Stop>((cancel.guard(orphaned(backend)).await?, intents(&home)));
    let (sandboxes, begun) = orphans().await?;
    if sandboxes.is_empty() && begun.is_empty() {
        return Ok(report);
    }
    // One at a time on a home. Who waited looks again: there may be nothing left to do.
    let _lock = cancel.guard(lock(&home)).await?;
    let (sandboxes, begun) = orphans().await?;
    let removals = sandboxes.into_iter().map(async |handle| {
        let swept = end(backend, &handle).await;
        (handle.name().to_owned(), swept)
    });
    // Each removal is bounded; a cancel leaves the rest to the next sweep.
    for (sandbox, swept) in cancel.guard(async { Ok::<_, Failure>(join_all(removals).await) }).await? {
        match swept {
            Ok(Swept::Removed) => report.removed.push(sandbox),
            Ok(Swept::Stopped) => report.stopped.push(sandbox),
            Ok(Swept::Spared) => {}
            Err(message) => report.failed.push(SweepFailure { sandbox, message }),
        }
    }
    for (path, name) in begun {
        let creation = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match cancel.guard(async { Ok::<_, Failure>(clear(backend, local, &name, &creation).await) }).await? {
            Ok(Cleared::Removed) => report.removed.push(name),
            Ok(Cleared::Nothing) => {}
            // Who holds the name is making a sandbox of it now: the next sweep looks again.
            Ok(Cleared::Held) => continue,
            Err(message) => {
                report.failed.push(SweepFailure { sandbox: name, message });
                continue;
            }
        }
        let _ = std::fs::remove_file(path);
    }
    Ok(report)
}

/// The sandboxes whose owner has gone.
async fn orphaned(backend: &Arc<dyn EngineBackend>) -> MicrosandboxResult<Vec<SandboxHandle>> {
    let mut found = Vec::new();
    for ending in [DESTROY, STOP] {
        let mut cursor = None;
        loop {
            let mut query = SandboxListBuilder::default().limit(PAGE).label(ON_CLOSE, ending);
            if let Some(cursor) = cursor {
                query = query.cursor(cursor);
            }
            let page = backend.sandboxes().list(backend.clone(), query).await?;
            let orphan = |handle: &SandboxHandle| {
                // What was to be stopped and has stopped is as its owner wanted it.
                (ending == DESTROY || !can_start(handle.status_snapshot()))
                    && labels_of(handle).is_some_and(|labels| is_orphaned(&labels))
            };
            found.extend(page.sandboxes.into_iter().filter(orphan));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
    }
    Ok(found)
}

fn labels_of(handle: &SandboxHandle) -> Option<Labels> {
    handle.config().ok().map(|config| config.spec.labels)
}

/// The creates that were begun and not ended, by owners that have gone.
fn intents(home: &Path) -> Vec<(PathBuf, String)> {
    let Ok(entries) = std::fs::read_dir(directory(home).join("creating")) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter_map(|path| Intent::read(&path).map(|(name, labels)| (path, name, labels)))
        .filter(|(_, _, labels)| is_orphaned(labels))
        .map(|(path, name, _)| (path, name))
        .collect()
}

/// Ends with the file, so also with a process that is killed.
async fn lock(home: &Path) -> std::io::Result<std::fs::File> {
    let path = directory(home).join("sweep.lock");
    std::fs::create_dir_all(directory(home))?;
    let file = std::fs::File::create(path)?;
    let deadline = tokio::time::Instant::now() + SETTLE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(POLL).await;
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(std::io::ErrorKind::WouldBlock.into()),
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
        }
    }
}

enum Swept {
    Removed,
    Stopped,
    /// It has gone, or has an owner again.
    Spared,
}

/// End one sandbox as its dead owner would have, this one and no other of its name, for as long as nobody has taken it.
async fn end(backend: &Arc<dyn EngineBackend>, orphan: &SandboxHandle) -> Result<Swept, String> {
    until(SETTLE, || try_end(backend, orphan)).await
}

/// Try until it succeeds, or for so long; then the last error.
async fn until<T, F>(time: Duration, mut attempt: impl FnMut() -> F) -> Result<T, String>
where
    F: Future<Output = MicrosandboxResult<T>>,
{
    let deadline = tokio::time::Instant::now() + time;
    let mut why = "the catalogue did not answer".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => return Err(why),
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn try_end(backend: &Arc<dyn EngineBackend>, orphan: &SandboxHandle) -> MicrosandboxResult<Swept> {
    let now = match backend.sandboxes().get(backend.clone(), orphan.name()).await {
        Ok(now) if now.id() == orphan.id() => now,
        Ok(_) | Err(MicrosandboxError::SandboxNotFound(_)) => return Ok(Swept::Spared),
        Err(error) => return Err(error),
    };
    let Some(labels) = labels_of(&now).filter(is_orphaned) else { return Ok(Swept::Spared) };
    now.request_kill().await?;
    if labels.get(ON_CLOSE).is_some_and(|ending| ending == STOP) {
        // It says so when it still runs.
        now.wait_until_stopped().await?;
        own(&now, &Labels::new()).await?;
        return Ok(Swept::Stopped);
    }
    match remove_stopped(backend, &now).await {
        Ok(()) => Ok(Swept::Removed),
        Err(MicrosandboxError::SandboxNotFound(_) | MicrosandboxError::SandboxReplaced { .. }) => Ok(Swept::Spared),
        Err(error) => Err(error),
    }
}

enum Cleared {
    Removed,
    Nothing,
    Held,
}

/// Remove what a create left that never ended: its row, when it got one, or else the directory of its name.
async fn clear(
    backend: &Arc<dyn EngineBackend>,
    local: &LocalBackend,
    name: &str,
    creation: &str,
) -> Result<Cleared, String> {
    until(SETTLE, || try_clear(backend, local, name, creation)).await
}

async fn try_clear(
    backend: &Arc<dyn EngineBackend>,
    local: &LocalBackend,
    name: &str,
    creation: &str,
) -> MicrosandboxResult<Cleared> {
    microsandbox::sandbox::validate_sandbox_name(name)?;
    let Some(lock) = try_acquire_transition_guard(&local.config().run_dir(), name)? else { return Ok(Cleared::Held) };
    match backend.sandboxes().get(backend.clone(), name).await {
        Err(MicrosandboxError::SandboxNotFound(_)) => {
            let directory = local.sandboxes_dir().join(name);
            if !directory.exists() {
                return Ok(Cleared::Nothing);
            }
            flatten(&directory);
            std::fs::remove_dir_all(directory)?;
            Ok(Cleared::Removed)
        }
        Ok(row)
            if labels_of(&row).is_some_and(|labels| labels.get(CREATION_LABEL).is_some_and(|id| id == creation)) =>
        {
            // The engine takes the lock itself.
            drop(lock);
            row.request_kill().await?;
            remove_stopped(backend, &row).await?;
            Ok(Cleared::Removed)
        }
        Ok(_) => Ok(Cleared::Nothing),
        Err(error) => Err(error),
    }
}

/// Which process has a number now: the same as the one that had it when this was asked before, if the answers are the same.
/// Only where it costs next to nothing to know.
pub(crate) fn process(pid: u32) -> Option<(u32, String)> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    match host::look(pid) {
        host::Seen::Started(started) => Some((pid, started)),
        _ => None,
    }
}

/// What the operating system says of processes.
#[cfg(target_os = "linux")]
mod host {
    use std::io::ErrorKind;

    pub(super) enum Seen {
        /// When, in clock ticks since boot.
        Started(String),
        Gone,
        Unknown,
    }

    pub(super) fn look(pid: u32) -> Seen {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => read(&stat),
            // It ended while it was read: ESRCH.
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(3) => Seen::Gone,
            Err(_) => Seen::Unknown,
        }
    }

    /// The 22nd field; the second is a name in brackets that may hold anything.
    pub(super) fn read(stat: &str) -> Seen {
        let Some((_, fields)) = stat.rsplit_once(')') else { return Seen::Unknown };
        let mut fields = fields.split_whitespace();
        match fields.next() {
            // A zombie has ended; it waits for its parent.
            Some("Z" | "X") => Seen::Gone,
            Some(_) => fields.nth(18).map_or(Seen::Unknown, |started| Seen::Started(started.to_owned())),
            None => Seen::Unknown,
        }
    }

    pub(super) fn boot() -> String {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
    }

    pub(super) fn pid_namespace() -> String {
        std::fs::read_link("/proc/self/ns/pid").map(|path| path.display().to_string()).unwrap_or_default()
    }
}

#[cfg(not(target_os = "linux"))]
mod host {
    use std::process::Command;

    pub(super) enum Seen {
        Started(String),
        Gone,
        Unknown,
    }

    fn output(command: &mut Command) -> Option<(bool, String)> {
        // The same words for everybody who asks.
        let output = command.env("TZ", "UTC").env("LC_ALL", "C").output().ok()?;
        Some((output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }

    pub(super) fn look(pid: u32) -> Seen {
        match output(Command::new("ps").args(["-o", "lstart=", "-p", &pid.to_string()])) {
            Some((true, started)) if !started.is_empty() => Seen::Started(started),
            Some((false, text)) if text.is_empty() => Seen::Gone,
            _ => Seen::Unknown,
        }
    }

    pub(super) fn boot() -> String {
        output(Command::new("sysctl").args(["-n", "kern.bootsessionuuid"])).map(|(_, uuid)| uuid).unwrap_or_default()
    }

    /// There are no namespaces of processes.
    pub(super) fn pid_namespace() -> String {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(labels: &Labels, key: &str, value: &str) -> Labels {
        let mut labels = labels.clone();
        labels.insert(key.into(), value.into());
        labels
    }

    #[test]
    fn a_sandbox_has_an_owner_unless_it_is_detached() {
        let session = Session::open();
        assert_eq!(session.owner(Ending::Destroy)[ON_CLOSE], DESTROY);
        assert_eq!(session.owner(Ending::Stop)[ON_CLOSE], STOP);
        assert!(session.owns(&session.owner(Ending::Stop)));
        assert!(session.owner(Ending::Detach).is_empty());
    }

    #[test]
    fn a_sandbox_is_orphaned_when_its_process_or_its_engine_has_gone() {
        let session = Session::open();
        let labels = session.owner(Ending::Destroy);
        assert!(!is_orphaned(&labels), "its owner is this test");
        assert!(!is_orphaned(&Labels::new()), "it has no owner");
        assert!(!is_orphaned(&changed(&labels, PID, "many")), "its owner cannot be read");
        assert!(is_orphaned(&changed(&labels, STARTED, "1")), "another process has the number now");
        assert!(!is_orphaned(&changed(&labels, STARTED, "")), "its start is not known");
        assert!(is_orphaned(&changed(&labels, BOOT, "before")), "the machine was started again");
        let foreign = changed(&changed(&labels, PIDS, "pid:[1]"), STARTED, "1");
        assert!(!is_orphaned(&foreign), "the number is one of another container");
        let other = changed(&labels, SESSION, &Uuid::new_v4().to_string());
        assert!(!is_orphaned(&other), "an engine of another copy of the addon in this process");
        session.close();
        assert!(is_orphaned(&labels), "its engine is closed");
    }

    #[test]
    fn the_labels_of_this_sdk_are_not_the_users() {
        let session = Session::open();
        let labels = changed(&session.owner(Ending::Destroy), "purpose", "test");
        assert_eq!(visible(labels), Labels::from([("purpose".into(), "test".into())]));
        session.close();
    }

    #[test]
    fn an_intent_is_read_as_it_was_written_and_gone_when_dropped() {
        let home = std::env::temp_dir().join(format!("intent-{}", Uuid::new_v4()));
        let session = Session::open();
        let intent = Intent::write(&home, "one", "name", &session).expect("written");
        assert_eq!(Intent::read(&intent.0), Some(("name".to_owned(), session.owner(Ending::Destroy))));
        assert!(intents(&home).is_empty(), "its owner is alive");
        session.close();
        assert_eq!(intents(&home), vec![(intent.0.clone(), "name".to_owned())]);
        drop(intent);
        assert!(intents(&home).is_empty());
        std::fs::remove_dir_all(home).expect("removed");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_start_of_a_process_is_read_whatever_its_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        let started = |stat: &str| match host::read(stat) {
            host::Seen::Started(started) => started,
            host::Seen::Gone => "gone".into(),
            host::Seen::Unknown => "unknown".into(),
        };
        assert_eq!(started(&format!("9 (a) b) ({rest}) {rest}")), "4711");
        assert_eq!(started(&format!("9 (a) {}", rest.replace('S', "Z"))), "gone");
        assert_eq!(started("nonsense"), "unknown");
        assert_eq!(started("9 (a) S 1"), "unknown");
        assert!(matches!(host::look(std::process::id()), host::Seen::Started(_)));
        assert!(matches!(host::look(u32::MAX), host::Seen::Gone));
    }
}
