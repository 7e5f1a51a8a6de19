//! Changing what a sandbox is made of, and saying beforehand what a change would do.

use std::collections::BTreeMap;
use std::sync::Arc;

use microsandbox::backend::{Backend as EngineBackend, with_backend};
use microsandbox::sandbox::{
    ModificationDisposition, PlannedChange as EngineChange, ResourceResizeStatus, SandboxHandle,
    SandboxModificationBuilder, SandboxModificationPlan,
};
use napi_derive::napi;

use crate::backend::Backend;
use crate::cancel::{Cancel, CancelToken};
use crate::config::name;
use crate::failure::Failure;
use crate::outcome::{Outcome, Stop};
use crate::pause::current;
use crate::sandbox::Sandbox;

/// What is to be different. What is absent stays.
#[napi(object, object_to_js = false)]
pub struct ModifyChanges {
    pub cpus: Option<u8>,
    pub max_cpus: Option<u8>,
    pub memory_mib: Option<u32>,
    pub max_memory_mib: Option<u32>,
    pub root_disk_mib: Option<u32>,
    pub env: Option<BTreeMap<String, String>>,
    pub remove_env: Option<Vec<String>>,
    pub labels: Option<BTreeMap<String, String>>,
    pub remove_labels: Option<Vec<String>>,
    pub workdir: Option<String>,
}

/// What to do with changes.
#[napi(object, object_to_js = false)]
pub struct ModifyOptions {
    /// Do them; say what they would do otherwise.
    pub apply: bool,
    /// Leave a VM that runs as it is.
    pub next_start: bool,
}

/// What changes would do, or have done.
#[napi(object, object_from_js = false)]
pub struct ModifyPlan {
    pub sandbox: String,
    pub status: String,
    pub applied: bool,
    pub changes: Vec<PlannedChange>,
    pub conflicts: Vec<ModifyNote>,
    pub warnings: Vec<ModifyNote>,
    pub resized: Vec<Resized>,
}

/// One change of a plan.
#[napi(object, object_from_js = false)]
pub struct PlannedChange {
    pub field: String,
    #[napi(ts_type = "'added' | 'updated' | 'removed'")]
    pub change: String,
    pub before: Option<String>,
    pub after: Option<String>,
    #[napi(ts_type = "'live' | 'next-start' | 'restart' | 'unsupported'")]
    pub effect: String,
    pub reason: Option<String>,
}

/// Something that a plan says of a field.
#[napi(object, object_from_js = false)]
pub struct ModifyNote {
    pub field: String,
    pub message: String,
}

/// How far a running VM has come with a new size.
#[napi(object, object_from_js = false)]
pub struct Resized {
    #[napi(ts_type = "'cpus' | 'memory'")]
    pub resource: String,
    pub requested: String,
    pub actual: String,
    pub enforced: String,
    #[napi(ts_type = "'accepted' | 'converging' | 'applied' | 'guest-refused' | 'failed'")]
    pub state: String,
}

#[napi]
impl Sandbox {
    /// Change the sandbox, or say what a change would do. Not atomic: what a running VM has taken when this fails or is
    /// cancelled stays.
    #[napi(ts_return_type = "Promise<Outcome<ModifyPlan>>")]
    pub async fn modify(
        &self,
        changes: ModifyChanges,
        options: ModifyOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<ModifyPlan>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let backend = value.sandbox.backend();
                let handle = cancel.guard(current(&value.sandbox, backend)).await?;
                modify(backend, &handle, changes, &options, &cancel).await
            })
            .await)
    }
}

#[napi]
impl Backend {
    /// The same for a sandbox that is known by name.
    #[napi(ts_return_type = "Promise<Outcome<ModifyPlan>>")]
    pub async fn modify_sandbox(
        &self,
        name: String,
        changes: ModifyChanges,
        options: ModifyOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<ModifyPlan>> {
        Ok(self
            .by_name(name, token, |value, handle, cancel| async move {
                modify(&value.backend, &handle, changes, &options, &cancel).await
            })
            .await)
    }
}

/// Within the backend's scope: the growth of a root disk looks there, and nowhere else.
async fn modify(
    backend: &Arc<dyn EngineBackend>,
    handle: &SandboxHandle,
    changes: ModifyChanges,
    options: &ModifyOptions,
    cancel: &Cancel,
) -> Result<ModifyPlan, Stop> {
    let builder = build(handle.modify(), changes);
    let builder = if options.next_start { builder.next_start() } else { builder };
    let planned = async {
        if options.apply {
            refuse(&builder.clone().dry_run().await?)?;
            Ok::<_, Failure>(builder.apply().await?)
        } else {
            Ok(builder.dry_run().await?)
        }
    };
    Ok(plan(cancel.guard(Box::pin(with_backend(backend.clone(), planned))).await?))
}

fn build(mut builder: SandboxModificationBuilder, changes: ModifyChanges) -> SandboxModificationBuilder {
    if let Some(cpus) = changes.cpus {
        builder = builder.cpus(cpus);
    }
    if let Some(cpus) = changes.max_cpus {
        builder = builder.max_cpus(cpus);
    }
    if let Some(memory) = changes.memory_mib {
        builder = builder.memory(memory);
    }
    if let Some(memory) = changes.max_memory_mib {
        builder = builder.max_memory(memory);
    }
    if let Some(size) = changes.root_disk_mib {
        builder = builder.root_disk_size(size);
    }
    for (name, value) in changes.env.unwrap_or_default() {
        builder = builder.env(name, value);
    }
    for name in changes.remove_env.unwrap_or_default() {
        builder = builder.remove_env(name);
    }
    for (name, value) in changes.labels.unwrap_or_default() {
        builder = builder.label(name, value);
    }
    for name in changes.remove_labels.unwrap_or_default() {
        builder = builder.remove_label(name);
    }
    if let Some(workdir) = changes.workdir {
        builder = builder.workdir(workdir);
    }
    builder
}

/// What the engine would refuse, with its field: it says so in words only.
fn refuse(plan: &SandboxModificationPlan) -> Result<(), Failure> {
    if let Some(conflict) = plan.conflicts.first() {
        return Err(Failure::change_refused(option_name(&conflict.field), &conflict.message));
    }
    for change in &plan.changes {
        let (field, disposition, reason) = match change {
            EngineChange::Config(change) => (&change.field, change.disposition, &change.reason),
            EngineChange::Secret(change) => (&change.field, change.disposition, &change.reason),
        };
        let (field, reason) = (option_name(field), reason.as_deref());
        match disposition {
            ModificationDisposition::Unsupported => {
                return Err(Failure::change_refused(field, reason.unwrap_or("it cannot be changed")));
            }
            ModificationDisposition::RequiresRestart => return Err(Failure::restart_required(field, reason)),
            ModificationDisposition::Live | ModificationDisposition::NextStart => {}
        }
    }
    Ok(())
}

fn plan(plan: SandboxModificationPlan) -> ModifyPlan {
    let note = |(field, message): (String, String)| ModifyNote { field: option_name(&field).to_owned(), message };
    ModifyPlan {
        sandbox: plan.sandbox,
        status: capitalized(&plan.status),
        applied: plan.applied,
        changes: plan.changes.into_iter().map(planned_change).collect(),
        conflicts: plan.conflicts.into_iter().map(|it| (it.field, it.message)).map(note).collect(),
        warnings: plan.warnings.into_iter().map(|it| (it.field, it.message)).map(note).collect(),
        resized: plan.resize_status.into_iter().map(resized).collect(),
    }
}

fn planned_change(change: EngineChange) -> PlannedChange {
    match change {
        EngineChange::Config(change) => PlannedChange {
            field: option_name(&change.field).to_owned(),
            change: name(change.change),
            before: change.before,
            after: change.after,
            effect: effect(change.disposition).to_owned(),
            reason: change.reason,
        },
        EngineChange::Secret(change) => PlannedChange {
            field: option_name(&change.field).to_owned(),
            change: name(change.change),
            before: change.before_ref,
            after: change.after_ref,
            effect: effect(change.disposition).to_owned(),
            reason: change.reason,
        },
    }
}

/// The option that a field of the engine's is.
fn option_name(field: &str) -> &str {
    match field {
        "max_cpus" => "maxCpus",
        "max_memory" => "maxMemory",
        "root_disk_size" => "rootDiskSize",
        "label" => "labels",
        field => field,
    }
}

fn effect(disposition: ModificationDisposition) -> &'static str {
    match disposition {
        ModificationDisposition::Live => "live",
        ModificationDisposition::NextStart => "next-start",
        ModificationDisposition::RequiresRestart => "restart",
        ModificationDisposition::Unsupported => "unsupported",
    }
}

fn resized(status: ResourceResizeStatus) -> Resized {
    Resized {
        resource: name(status.resource),
        requested: status.requested,
        actual: status.actual,
        enforced: status.enforced,
        state: name(status.state),
    }
}

/// A plan says `running` where everything else says `Running`.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use microsandbox::sandbox::{ChangeKind, ResourceConvergenceState, SandboxStatus};

    use super::*;

    #[test]
    fn the_engines_names_become_those_of_the_border() {
        assert_eq!(name(ChangeKind::Added), "added");
        assert_eq!(name(ResourceConvergenceState::GuestRefused), "guest-refused");
        for status in [SandboxStatus::Running, SandboxStatus::Paused, SandboxStatus::Crashed] {
            let name = format!("{status:?}");
            assert_eq!(capitalized(&name.to_lowercase()), name);
        }
    }
}
