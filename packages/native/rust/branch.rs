//! Branches: children of a sandbox that go on from where it is, with its memory, its programs and its disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::future::join_all;
use microsandbox::backend::{Backend as EngineBackend, with_backend};
use microsandbox::sandbox::{BranchOutcome as EngineOutcome, RootfsSource, Sandbox as EngineSandbox};
use microsandbox::{MicrosandboxError, MicrosandboxResult};
use napi_derive::napi;

use crate::attempt::Attempt;
use crate::cancel::{Cancel, CancelToken};
use crate::engine::EngineState;
use crate::failure::Failure;
use crate::marking::Marking;
use crate::outcome::{Outcome, Stop};
use crate::owner::Labels;
use crate::pause::{current, flush_policy, settled};
use crate::progress::Progress;
use crate::sandbox::{Ending, Sandbox, SandboxValue};
use crate::slot::InEngine;

/// How to branch. What a child is made of is its source's.
#[napi(object, object_to_js = false)]
pub struct BranchOptions {
    /// Whether the guest must write back what it holds for its disks before the cut.
    #[napi(ts_type = "'auto' | 'required' | 'skip'")]
    pub guest_flush: String,
    /// Record a digest of each disk layer that is cut.
    pub record_integrity: bool,
    /// Labels of the child, over those of its source.
    pub labels: BTreeMap<String, String>,
    pub on_close: Ending,
}

/// What became of one child of several.
#[napi(discriminant = "_tag", object_from_js = false)]
pub enum BranchOutcome {
    Started { name: String, sandbox: Sandbox },
    Failed { name: String, failure: Failure },
}

#[napi]
impl Sandbox {
    /// Cut the sandbox as it is now and start a child from there; the sandbox itself goes on, or stays paused. When this
    /// fails or is cancelled, nothing of the child is left before it answers.
    #[napi(ts_return_type = "Promise<Outcome<Sandbox>>")]
    pub async fn branch(
        &self,
        name: String,
        options: BranchOptions,
        progress: &Progress,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Sandbox>> {
        let call = self.slot.run(token, |value, cancel| branch(value, name, options, cancel));
        Ok(Box::pin(progress.watch().during(call)).await)
    }

    /// The same for several children of one cut, each with its own outcome, in the order of the names. A failure of all
    /// is one of the source. A cancel leaves no child.
    #[napi(ts_return_type = "Promise<Outcome<Array<BranchOutcome>>>")]
    pub async fn branch_many(
        &self,
        names: Vec<String>,
        options: BranchOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Vec<BranchOutcome>>> {
        Ok(Box::pin(self.slot.run(token, |value, cancel| branch_many(value, names, options, cancel))).await)
    }
}

async fn branch(
    value: Arc<SandboxValue>,
    name: String,
    options: BranchOptions,
    cancel: Cancel,
) -> Result<Sandbox, Stop> {
    let source = &value.sandbox;
    capturable(source)?;
    let flush = flush_policy(&options.guest_flush)?;
    let attempt = Attempt::new(source.backend(), &name, &value.engine().session, false)?;
    let backend = marking(source, [(&name, &attempt)], &labels_of(&value, &options));
    let cut = async {
        let branch = current(source, &backend).await?.branch(name).guest_flush(flush);
        let branch = if options.record_integrity { branch.record_integrity() } else { branch };
        Box::pin(branch.branch()).await
    };
    let cut = Box::pin(with_backend(backend.clone(), cut));
    match cancel.guard_to(attempt.until_directory(), cut).await {
        Ok(child) => Ok(Sandbox::adopt(value.engine(), child)),
        Err(stop) => {
            settled(source.backend(), source.name()).await;
            Err(attempt.undo(stop).await)
        }
    }
}

async fn branch_many(
    value: Arc<SandboxValue>,
    names: Vec<String>,
    options: BranchOptions,
    cancel: Cancel,
) -> Result<Vec<BranchOutcome>, Stop> {
    let source = &value.sandbox;
    capturable(source)?;
    let flush = flush_policy(&options.guest_flush)?;
    let session = &value.engine().session;
    let attempts: HashMap<_, _> = names
        .iter()
        .map(|name| Ok((name.clone(), Attempt::new(source.backend(), name, session, false)?)))
        .collect::<Result<_, Failure>>()?;
    let backend = marking(source, &attempts, &labels_of(&value, &options));
    let cut = async {
        // The engine makes none where one name is taken: leave that one out.
        let (mut free, mut outcomes) = (Vec::new(), HashMap::new());
        for name in &names {
            if is_taken(source.backend(), name).await? {
                outcomes.insert(name.clone(), Err(taken(name)));
            } else {
                free.push(name.clone());
            }
        }
        while !free.is_empty() {
            let branch = current(source, &backend).await?.branch_many(free.clone()).guest_flush(flush);
            let branch = if options.record_integrity { branch.record_integrity() } else { branch };
            match Box::pin(branch.branch()).await {
                Ok(made) => {
                    outcomes.extend(made.into_iter().map(|EngineOutcome { name, result }| (name, result)));
                    break;
                }
                // Taken since that look.
                Err(MicrosandboxError::SandboxAlreadyExists(text)) => {
                    let Some(index) = free.iter().position(|name| is_about(&text, name)) else {
                        return Err(MicrosandboxError::SandboxAlreadyExists(text));
                    };
                    let name = free.remove(index);
                    outcomes.insert(name, Err(MicrosandboxError::SandboxAlreadyExists(text)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(outcomes)
    };
    let cut = Box::pin(with_backend(backend.clone(), cut));
    let directories = async {
        join_all(attempts.values().map(Attempt::until_directory)).await;
    };
    match cancel.guard_to(directories, cut).await {
        Ok(mut outcomes) => {
            let outcomes = names.iter().cloned().map(|name| {
                let outcome = outcomes.remove(&name);
                settle_child(value.engine(), &attempts, name, outcome)
            });
            Ok(join_all(outcomes).await)
        }
        Err(stop) => {
            settled(source.backend(), source.name()).await;
            let undone = join_all(attempts.values().map(|attempt| attempt.undo(Stop::Cancelled))).await;
            // What could not be removed matters more than why there is something to remove.
            Err(undone.into_iter().find(|undone| matches!(undone, Stop::Failed(_))).unwrap_or(stop))
        }
    }
}

async fn settle_child(
    engine: &Arc<EngineState>,
    attempts: &HashMap<String, Attempt>,
    name: String,
    outcome: Option<MicrosandboxResult<EngineSandbox>>,
) -> BranchOutcome {
    let error = match outcome {
        Some(Ok(child)) => return BranchOutcome::Started { name, sandbox: Sandbox::adopt(engine, child) },
        Some(Err(error)) => error,
        // Named twice.
        None => taken(&name),
    };
    let stop = Stop::from(error);
    let stop = match attempts.get(&name) {
        Some(attempt) => attempt.undo(stop).await,
        None => stop,
    };
    let failure = match stop {
        Stop::Failed(failure) => failure,
        Stop::Cancelled => Failure::engine_closed(),
    };
    BranchOutcome::Failed { name, failure }
}

/// A child has its source's labels, those that it is given, and an owner unless it is detached.
fn labels_of(value: &SandboxValue, options: &BranchOptions) -> Labels {
    let mut labels = options.labels.clone();
    labels.extend(value.engine().session.owner(options.on_close));
    labels
}

fn marking<'a>(
    source: &EngineSandbox,
    attempts: impl IntoIterator<Item = (&'a String, &'a Attempt)>,
    labels: &Labels,
) -> Arc<dyn EngineBackend> {
    let marks = attempts.into_iter().map(|(name, attempt)| (name.clone(), attempt.mark(labels.clone()))).collect();
    // A child resumes what was captured, and the engine detaches that whatever it is asked for.
    Marking::around(source.backend(), marks, true)
}

/// The engine finds out half way, and says so in terms of devices.
fn capturable(source: &EngineSandbox) -> Result<(), Failure> {
    match &source.config().spec.image {
        RootfsSource::Bind { path, .. } => Err(Failure::directory_root(source.name(), path)),
        _ => Ok(()),
    }
}

async fn is_taken(backend: &Arc<dyn EngineBackend>, name: &str) -> MicrosandboxResult<bool> {
    match backend.sandboxes().get(backend.clone(), name).await {
        Ok(_) => Ok(true),
        Err(MicrosandboxError::SandboxNotFound(_)) => {
            Ok(backend.as_local().is_some_and(|local| local.sandboxes_dir().join(name).exists()))
        }
        Err(error) => Err(error),
    }
}

fn taken(name: &str) -> MicrosandboxError {
    MicrosandboxError::SandboxAlreadyExists(format!("sandbox '{name}' already exists"))
}

/// The engine says a bare name in one place and a sentence that quotes it in another.
fn is_about(text: &str, name: &str) -> bool {
    text == name || text.contains(&format!("'{name}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_is_taken_is_found_in_either_text() {
        assert!(is_about("child", "child"));
        assert!(is_about("sandbox 'child' already exists; remove it", "child"));
        assert!(!is_about("sandbox 'child-2' already exists", "child"));
        assert!(!is_about("child-2", "child"));
    }
}
