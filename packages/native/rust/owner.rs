//! Who a sandbox belongs to, and the removal of what dead owners left.
//!
//! A sandbox that is to be destroyed with its scope carries its owner as labels: the process, told from another of the
//! same number by its start and by the boot that it belongs to, and the engine in it. An owner that cannot be judged
//! from here, because its process numbers are those of another container, counts as alive.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use futures_util::future::join_all;
use microsandbox::backend::Backend as EngineBackend;
use microsandbox::sandbox::{SandboxHandle, SandboxListBuilder};
use microsandbox::{MicrosandboxError, MicrosandboxResult};
use microsandbox_runtime::ipc::try_acquire_transition_guard;
use napi_derive::napi;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::backend::{Backend, BackendValue};
use crate::cancel::{Cancel, CancelToken};
use crate::failure::Failure;
use crate::outcome::{Outcome, Stop};
use crate::sandbox::{POLL, SETTLE};

/// Labels of this SDK: not the user's to set, and not shown to the user.
pub(crate) const RESERVED: &str = "effect-microsandbox.";

/// Marks a sandbox with the one attempt that made it, so that its roll-back can tell it from another
/// sandbox of the same name.
pub(crate) const CREATION_LABEL: &str = "effect-microsandbox.creation";

/// What is to become of a sandbox without its owner. Only what is to be destroyed has an owner at all.
const ON_CLOSE: (&str, &str) = ("effect-microsandbox.on-close", "destroy");

const PID: &str = "effect-microsandbox.owner.pid";
const STARTED: &str = "effect-microsandbox.owner.started";
const BOOT: &str = "effect-microsandbox.owner.boot";
const PIDS: &str = "effect-microsandbox.owner.pid-namespace";
const SESSION: &str = "effect-microsandbox.owner.session";

/// The largest page that the engine gives.
const PAGE: u32 = 100;

/// The engines of this process that are open.
static SESSIONS: Mutex<Option<HashSet<Uuid>>> = Mutex::new(None);

/// One engine's life, as an owner of sandboxes.
pub(crate) struct Session(Uuid);

impl Session {
    pub(crate) fn open() -> Self {
        let session = Uuid::new_v4();
        SESSIONS.lock().get_or_insert_default().insert(session);
        Self(session)
    }

    /// From here on, what is left of it has no owner. Idempotent.
    pub(crate) fn close(&self) {
        if let Some(sessions) = SESSIONS.lock().as_mut() {
            sessions.remove(&self.0);
        }
    }

    /// The labels of a sandbox that ends with this session.
    pub(crate) fn labels(&self) -> Labels {
        let process = Process::current();
        [
            (ON_CLOSE.0, ON_CLOSE.1.to_owned()),
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
                started: host::started(pid).unwrap_or_default(),
                boot: host::boot(),
                namespace: host::pid_namespace(),
            }
        })
    }

    fn is_dead(&self) -> bool {
        let here = Self::current();
        // Whatever ran before the last boot does not run now.
        self.boot != here.boot
            || (self.namespace == here.namespace && host::started(self.pid).as_ref() != Some(&self.started))
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
        !session.is_ok_and(|session| SESSIONS.lock().as_ref().is_some_and(|open| open.contains(&session)))
    };
    owner.is_dead() || (ours() && closed())
}

/// Give a sandbox this owner, or none. Its stored configuration says so from now on, whatever runs.
pub(crate) async fn own(handle: &SandboxHandle, owner: &Labels) -> MicrosandboxResult<()> {
    let labels = handle.config()?.spec.labels;
    let is_owner = |key: &str| key.starts_with("effect-microsandbox.owner.") || key == ON_CLOSE.0;
    let stale = labels.keys().filter(|key| is_owner(key) && !owner.contains_key(*key));
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
    /// `labels`: those of the owner, whatever is to become of the sandbox.
    pub(crate) fn write(home: &Path, creation: &str, name: &str, session: &Session) -> std::io::Result<Self> {
        let path = directory(home).join("creating").join(creation);
        std::fs::create_dir_all(path.parent().unwrap_or(home))?;
        let lines = session.labels().into_iter().map(|(key, value)| format!("{key}={value}"));
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
    let mut report = SweepReport { removed: Vec::new(), failed: Vec::new() };
    let Some(local) = backend.as_local() else { return Ok(report) };
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
        let removed = remove(&handle).await;
        (handle.name().to_owned(), removed)
    });
    // Each removal is bounded; a cancel leaves the rest to the next sweep.
    for (sandbox, removed) in cancel.guard(async { Ok::<_, Failure>(join_all(removals).await) }).await? {
        match removed {
            Ok(()) => report.removed.push(sandbox),
            Err(message) => report.failed.push(SweepFailure { sandbox, message }),
        }
    }
    for (path, name) in begun {
        let cleared = cancel.guard(clear(backend, &local.sandboxes_dir(), &local.config().run_dir(), &name)).await;
        match cleared {
            Ok(true) => report.removed.push(name),
            Ok(false) => {}
            Err(Stop::Cancelled) => return Err(Stop::Cancelled),
            Err(Stop::Failed(failure)) => {
                report.failed.push(SweepFailure { sandbox: name, message: format!("{failure:?}") });
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
    let mut cursor = None;
    loop {
        let mut query = SandboxListBuilder::default().limit(PAGE).label(ON_CLOSE.0, ON_CLOSE.1);
        if let Some(cursor) = cursor {
            query = query.cursor(cursor);
        }
        let page = backend.sandboxes().list(backend.clone(), query).await?;
        let orphan = |handle: &SandboxHandle| handle.config().is_ok_and(|config| is_orphaned(&config.spec.labels));
        found.extend(page.sandboxes.into_iter().filter(orphan));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(found);
        }
    }
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

/// Kill and remove one sandbox, this one and no other of its name.
async fn remove(handle: &SandboxHandle) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + SETTLE;
    loop {
        let removed = async {
            handle.request_kill().await?;
            handle.remove().await
        };
        let error = match tokio::time::timeout_at(deadline, removed).await {
            Ok(Ok(()) | Err(MicrosandboxError::SandboxNotFound(_) | MicrosandboxError::SandboxReplaced { .. })) => {
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "another operation holds the name".to_owned(),
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(error);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Remove the directory of a create that got no row. True when there was one.
async fn clear(backend: &Arc<dyn EngineBackend>, sandboxes: &Path, run: &Path, name: &str) -> MicrosandboxResult<bool> {
    microsandbox::sandbox::validate_sandbox_name(name)?;
    let directory = sandboxes.join(name);
    if !directory.exists() {
        return Ok(false);
    }
    // Who holds the name is making a sandbox of it now: then the directory is not an orphan.
    let Some(_lock) = try_acquire_transition_guard(run, name)? else { return Ok(false) };
    match backend.sandboxes().get(backend.clone(), name).await {
        Err(MicrosandboxError::SandboxNotFound(_)) => {
            std::fs::remove_dir_all(directory)?;
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the operating system says of processes.
#[cfg(target_os = "linux")]
mod host {
    /// Its start, in clock ticks since boot; `None` when there is no such process.
    pub(super) fn started(pid: u32) -> Option<String> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        start_of(&stat)
    }

    /// The 22nd field; the second is a name in brackets that may hold anything.
    pub(super) fn start_of(stat: &str) -> Option<String> {
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        // A zombie has ended; it waits for its parent.
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        fields.nth(18).map(str::to_owned)
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

    fn output(command: &mut Command) -> Option<String> {
        let output = command.output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    pub(super) fn started(pid: u32) -> Option<String> {
        output(Command::new("ps").args(["-o", "lstart=", "-p", &pid.to_string()]))
    }

    pub(super) fn boot() -> String {
        output(Command::new("sysctl").args(["-n", "kern.bootsessionuuid"])).unwrap_or_default()
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
    fn a_sandbox_is_orphaned_when_its_process_or_its_engine_has_gone() {
        let session = Session::open();
        let labels = session.labels();
        assert!(!is_orphaned(&labels), "its owner is this test");
        assert!(!is_orphaned(&Labels::new()), "it has no owner");
        assert!(!is_orphaned(&changed(&labels, PID, "many")), "its owner cannot be read");
        assert!(is_orphaned(&changed(&labels, STARTED, "1")), "another process has the number now");
        assert!(is_orphaned(&changed(&labels, BOOT, "before")), "the machine was started again");
        let foreign = changed(&changed(&labels, PIDS, "pid:[1]"), STARTED, "1");
        assert!(!is_orphaned(&foreign), "the number is one of another container");
        assert!(is_orphaned(&changed(&labels, SESSION, &Uuid::new_v4().to_string())), "another engine of this process");
        session.close();
        assert!(is_orphaned(&labels), "its engine is closed");
    }

    #[test]
    fn the_labels_of_this_sdk_are_not_the_users() {
        let session = Session::open();
        let labels = changed(&session.labels(), "purpose", "test");
        assert_eq!(visible(labels), Labels::from([("purpose".into(), "test".into())]));
        session.close();
    }

    #[test]
    fn an_intent_is_read_as_it_was_written_and_gone_when_dropped() {
        let home = std::env::temp_dir().join(format!("intent-{}", Uuid::new_v4()));
        let session = Session::open();
        let intent = Intent::write(&home, "one", "name", &session).expect("written");
        assert_eq!(Intent::read(&intent.0), Some(("name".to_owned(), session.labels())));
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
        assert_eq!(host::start_of(&format!("9 (a) b) ({rest}) {rest}")), Some("4711".into()));
        assert_eq!(host::start_of("9 (a) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"), None);
        assert_eq!(host::start_of("nonsense"), None);
        assert!(host::started(std::process::id()).is_some());
    }
}
