//! The promise that a sandbox which was not made leaves nothing: how its traces are told from those of others, and removed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use microsandbox::backend::Backend as EngineBackend;
use microsandbox::sandbox::{SandboxHandle, SandboxListBuilder};
use microsandbox::{MicrosandboxError, MicrosandboxResult};
use microsandbox_runtime::ipc::try_acquire_transition_guard;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::cloud;
use crate::failure::Failure;
use crate::outcome::Stop;
use crate::owner::{CREATION_LABEL, Intent, Labels, Session};
use crate::sandbox::{POLL, SETTLE, flatten, remove_stopped};

/// How long an undoing may take. The engine gives up what it waits for after 30 seconds (a start that says nothing, a
/// connection to its catalogue); then there is time for one more try.
const UNDO: Duration = Duration::from_mins(1);

/// How long a control plane may be out of reach before it is given up that it says what came of an attempt.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// One try to make a sandbox, and what it takes to undo it.
pub(crate) struct Attempt {
    backend: Arc<dyn EngineBackend>,
    name: String,
    pub(crate) id: String,
    /// The sandbox's directory, when what is in it now cannot be another's: then it is ours to remove.
    fresh_directory: Option<PathBuf>,
    /// The same for the case that this process is killed: gone with the attempt, unless that could not be undone.
    intent: Mutex<Option<Intent>>,
}

impl Attempt {
    /// `replaces`: a sandbox of the name may be there, which the engine removes first.
    pub(crate) fn new(
        backend: &Arc<dyn EngineBackend>,
        name: &str,
        session: &Session,
        replaces: bool,
    ) -> Result<Self, Failure> {
        // A name with a separator is refused by the engine; it must not reach a path of ours.
        let fresh_directory = backend
            .as_local()
            .filter(|_| microsandbox::sandbox::validate_sandbox_name(name).is_ok())
            .map(|local| local.sandboxes_dir().join(name))
            .filter(|directory| replaces || !directory.exists());
        let id = Uuid::new_v4().to_string();
        let intent = backend
            .as_local()
            .filter(|_| fresh_directory.is_some())
            .map(|local| Intent::write(&local.config().home(), &id, name, session))
            .transpose()?;
        Ok(Self { backend: backend.clone(), name: name.to_owned(), id, fresh_directory, intent: Mutex::new(intent) })
    }

    /// The labels that make a sandbox one of this attempt, among those that it is to have.
    pub(crate) fn mark(&self, mut labels: Labels) -> Labels {
        labels.insert(CREATION_LABEL.to_owned(), self.id.clone());
        labels
    }

    /// Wait until there is a row of this attempt, or no longer.
    pub(crate) async fn until_row(&self) {
        if cloud::is_cloud(&self.backend) {
            let made = async {
                let mut pace = cloud::Pace::new();
                while !self.find().await.is_ok_and(|found| found.is_some()) {
                    pace.wait().await;
                }
            };
            let _ = tokio::time::timeout(cloud::LATE, made).await;
            return;
        }
        let made = async {
            while !self.lookup().await.is_ok_and(|handle| self.made(&handle)) {
                tokio::time::sleep(POLL).await;
            }
        };
        let _ = tokio::time::timeout(SETTLE, made).await;
    }

    /// Wait for as long as what makes the sandbox may be making its directory; on a control plane there is a row instead. The
    /// engine does that in a thread, which goes on when its future is dropped: a directory that was not there when all was
    /// undone would be left, and keep its name taken.
    pub(crate) async fn until_directory(&self) {
        if cloud::is_cloud(&self.backend) {
            return self.until_row().await;
        }
        let made = async {
            while self.may_make_directory() {
                tokio::time::sleep(POLL).await;
            }
        };
        let _ = tokio::time::timeout(SETTLE, made).await;
    }

    /// It is made while the name's lock is held, and once. (Nothing changes while the engine's future is not polled but what
    /// its threads do.)
    fn may_make_directory(&self) -> bool {
        self.fresh_directory.as_ref().is_some_and(|directory| !directory.exists())
            && !matches!(self.hold_name(), Ok(Some(_)))
    }

    /// Undo what the attempt has left, and answer with why it ended.
    pub(crate) async fn undo(&self, stop: Stop) -> Stop {
        let undone = if cloud::is_cloud(&self.backend) { self.take_back(&stop).await } else { self.roll_back().await };
        match undone {
            Ok(()) => stop,
            Err(detail) => {
                // What it left is for the sweep that comes when this engine has gone.
                std::mem::forget(self.intent.lock().take());
                Failure::rollback_incomplete(&self.name, &detail, &stop).into()
            }
        }
    }

    /// The same of a control plane, which cleans up nothing by itself.
    async fn take_back(&self, stop: &Stop) -> Result<(), String> {
        if cloud::was_refused(stop) {
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + ANSWER;
        let (mut pace, mut why) = (cloud::Pace::new(), "the control plane did not answer".to_owned());
        let found = loop {
            match tokio::time::timeout_at(deadline, self.find()).await {
                Ok(Ok(found)) => break found,
                // It has said that it fails, and does so still.
                Ok(Err(_)) if matches!(stop, Stop::Failed(Failure::CloudHttp { .. })) => return Ok(()),
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => return Err(why),
            }
            pace.wait().await;
        };
        match found {
            Some(handle) => cloud::destroy(&handle).await.map_err(|failure| format!("{failure:?}")),
            None => Ok(()),
        }
    }

    /// The sandbox of this attempt on a control plane. It finds by label what it may not show the labels of.
    async fn find(&self) -> MicrosandboxResult<Option<SandboxHandle>> {
        let query = SandboxListBuilder::default().limit(100).label(CREATION_LABEL, &self.id);
        let page = self.backend.sandboxes().list(self.backend.clone(), query).await?;
        let ours = |handle: &SandboxHandle| {
            let shown = cloud::labels_of(handle);
            handle.name() == self.name && shown.is_none_or(|labels| labels.get(CREATION_LABEL) == Some(&self.id))
        };
        Ok(page.sandboxes.into_iter().find(ours))
    }

    /// Wait until the engine's own clean-up is done, then remove what it keeps. The error says what is in the way.
    ///
    /// After a failed or dropped create the engine leaves a stopped row (so that a restore can be
    /// tried again), or, in a short window, a directory without a row; both keep the name taken.
    async fn roll_back(&self) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + UNDO;
        let mut last = None;
        loop {
            match tokio::time::timeout_at(deadline, self.try_roll_back()).await {
                Ok(Ok(Trace::Gone)) => return Ok(()),
                Ok(tried) => last = Some(tried),
                Err(_) => {
                    return match last {
                        // The engine's clean-up is bounded, and shorter than this: who still holds the name is another
                        // create, and it could not have come so far with anything of this attempt in its way.
                        Some(Ok(Trace::NameHeld { ours: false })) => Ok(()),
                        Some(Ok(_)) => Err("its clean-up has not ended".into()),
                        Some(Err(error)) => Err(error.to_string()),
                        None => Err("the catalogue did not answer".into()),
                    };
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn try_roll_back(&self) -> MicrosandboxResult<Trace> {
        let ours = match self.lookup().await {
            Ok(handle) if self.made(&handle) => true,
            // Another has the name, or the engine refuses it: nothing can have been made.
            Ok(_) | Err(MicrosandboxError::InvalidConfig(_)) => return Ok(Trace::Gone),
            Err(MicrosandboxError::SandboxNotFound(_)) => false,
            Err(error) => return Err(error),
        };
        // The engine's clean-up holds the name's transition lock to its end: look again when it is free.
        let Some(lock) = self.hold_name()? else { return Ok(Trace::NameHeld { ours }) };
        match self.lookup().await {
            Ok(handle) if self.made(&handle) => {
                // `remove` takes the lock itself, and removes this sandbox and no other.
                drop(lock);
                match remove_stopped(&self.backend, &handle).await {
                    // It was finished before its siblings of a batch, which ended without it; or somebody else has started
                    // what was left of it, and then it is no longer of this attempt.
                    Err(MicrosandboxError::SandboxStillRunning(_)) => match self.lookup().await {
                        Ok(now) if self.made(&now) => {
                            now.kill().await?;
                            remove_stopped(&self.backend, &now).await?;
                        }
                        Ok(_) | Err(MicrosandboxError::SandboxNotFound(_)) => {}
                        Err(error) => return Err(error),
                    },
                    removed => removed?,
                }
            }
            Err(MicrosandboxError::SandboxNotFound(_)) => self.remove_orphan(&lock)?,
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        Ok(Trace::Gone)
    }

    async fn lookup(&self) -> MicrosandboxResult<SandboxHandle> {
        self.backend.sandboxes().get(self.backend.clone(), &self.name).await
    }

    /// The lock under which the engine makes, starts and removes a sandbox of this name.
    fn hold_name(&self) -> MicrosandboxResult<Option<NameLock>> {
        let Some(local) = self.backend.as_local() else {
            return Ok(Some(NameLock { _file: None }));
        };
        let file = try_acquire_transition_guard(&local.config().run_dir(), &self.name)?;
        Ok(file.map(|file| NameLock { _file: Some(file) }))
    }

    fn made(&self, handle: &SandboxHandle) -> bool {
        handle.config().is_ok_and(|config| config.spec.labels.get(CREATION_LABEL) == Some(&self.id))
    }

    /// A directory that has no row, made while this attempt ran, while nobody else holds the name.
    fn remove_orphan(&self, _held: &NameLock) -> MicrosandboxResult<()> {
        match &self.fresh_directory {
            Some(directory) if directory.exists() => {
                flatten(directory);
                Ok(std::fs::remove_dir_all(directory)?)
            }
            _ => Ok(()),
        }
    }
}

/// What is left of an attempt.
enum Trace {
    Gone,
    /// Somebody holds the name: the engine's clean-up of this attempt, or another create. `ours`: there is a row of it.
    NameHeld {
        ours: bool,
    },
}

/// Held for as long as it lives. Empty where a backend has no such lock.
struct NameLock {
    _file: Option<std::fs::File>,
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use microsandbox::LocalBackend;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::cancel::Cancel;

    #[tokio::test]
    async fn a_directory_that_a_thread_makes_after_a_cancel_is_removed_too() {
        let home = std::env::temp_dir().join(format!("attempt-{}", Uuid::new_v4()));
        let local = LocalBackend::builder().home(&home).try_build_lazy().expect("a backend");
        let (sandboxes, run) = (local.sandboxes_dir(), local.config().run_dir());
        std::fs::create_dir_all(&sandboxes).expect("the directory of the sandboxes");
        let backend: Arc<dyn EngineBackend> = local.into();
        let attempt = Attempt::new(&backend, "child", &Session::open(), false).expect("an attempt");
        let directory = sandboxes.join("child");
        let child = directory.clone();
        let making = Box::pin(async move {
            let _lock = try_acquire_transition_guard(&run, "child").expect("a lock").expect("the name");
            let make = tokio::task::spawn_blocking(move || {
                std::thread::sleep(Duration::from_millis(300));
                std::fs::create_dir(child)
            });
            make.await.expect("a thread").expect("a directory");
            pending::<Result<(), Failure>>().await
        });
        let token = CancellationToken::new();
        let cancel = Cancel { call: token.clone(), engine: CancellationToken::new() };
        tokio::spawn(async move {
            tokio::time::sleep(POLL).await;
            token.cancel();
        });
        let made = cancel.guard_to(attempt.until_directory(), making).await;
        assert!(matches!(made, Err(Stop::Cancelled)));
        assert!(matches!(attempt.undo(Stop::Cancelled).await, Stop::Cancelled));
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!directory.exists());
        std::fs::remove_dir_all(home).expect("the end of its home");
    }
}
