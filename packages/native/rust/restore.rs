//! Restoring: sandboxes that are made of a snapshot.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use microsandbox::MicrosandboxResult;
use microsandbox::backend::with_backend;
use microsandbox::sandbox::{RestoreBuilder, Sandbox as EngineSandbox};
use microsandbox::snapshot::SnapshotReference;
use napi_derive::napi;

use crate::attempt::Attempt;
use crate::backend::{Backend, BackendValue};
use crate::cancel::{Cancel, CancelToken};
use crate::failure::Failure;
use crate::marking::Marking;
use crate::network::{PolicyOptions, policy};
use crate::options::{log_level, security};
use crate::outcome::{Outcome, Stop};
use crate::progress::Progress;
use crate::sandbox::{Ending, Sandbox, check_runtime};
use crate::slot::InEngine;
use crate::snapshot::of_archive;

/// What a sandbox is made of that comes from a snapshot.
#[napi(object, object_to_js = false)]
#[allow(clippy::struct_excessive_bools)] // each is a switch of the engine's own
pub struct RestoreOptions {
    /// A reference, a name or a path.
    pub snapshot: String,
    pub name: String,
    pub cpus: Option<u8>,
    pub memory_mib: Option<u32>,
    pub user: Option<String>,
    pub max_duration_secs: Option<u32>,
    pub idle_timeout_secs: Option<u32>,
    #[napi(ts_type = "'error' | 'warn' | 'info' | 'debug' | 'trace'")]
    pub log_level: Option<String>,
    #[napi(ts_type = "'default' | 'restricted'")]
    pub security: Option<String>,
    pub forked: bool,
    pub disk_only: bool,
    pub disable_network: bool,
    pub policy: Option<PolicyOptions>,
    /// Zero is no limit.
    pub max_tcp_connections: Option<u32>,
    /// Zero is no limit.
    pub max_udp_connections: Option<u32>,
    pub allow_missing_resources: bool,
    pub snapshot_base: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub on_close: Ending,
}

#[napi]
impl Backend {
    /// Make a sandbox of a snapshot. When this fails or is cancelled, the name is free again before it answers.
    #[napi(ts_return_type = "Promise<Outcome<Sandbox>>")]
    pub async fn restore_sandbox(
        &self,
        options: RestoreOptions,
        progress: &Progress,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Sandbox>> {
        let call = self.slot.run(token, |value, cancel| restore(value, options, cancel));
        Ok(Box::pin(progress.watch().during(call)).await)
    }
}

async fn restore(value: Arc<BackendValue>, options: RestoreOptions, cancel: Cancel) -> Result<Sandbox, Stop> {
    check_runtime(&value.backend)?;
    let attempt = Attempt::new(&value.backend, &options.name, &value.engine().session, false)?;
    let mut labels = options.labels.clone();
    labels.extend(value.owner(options.on_close));
    let marks = HashMap::from([(options.name.clone(), attempt.mark(labels))]);
    let backend = Marking::around(&value.backend, marks, options.on_close == Ending::Detach);
    cancel.guard(async { Ok::<_, Failure>(()) }).await?;
    // An archive that is broken is told as one.
    let told: fn(Stop) -> Stop = if Path::new(&options.snapshot).is_file() { of_archive } else { |stop| stop };
    let name = options.name.clone();
    let reference = cancel.guard(Box::pin(reference(&value, &options.snapshot))).await?;
    // The engine copies a snapshot in threads that go on when its future is dropped, and would make the sandbox's directory
    // anew when all is undone. They are done when there is a row.
    let boot = Box::pin(with_backend(backend, async { build(options, reference)?.restore().await }));
    let stop = match cancel.guard_to(attempt.until_row(), boot).await {
        Ok(sandbox) => return Ok(Sandbox::adopt(value.engine(), sandbox)),
        Err(Stop::Failed(failure)) => told(Stop::Failed(failure.of_sandbox(&name))),
        Err(Stop::Cancelled) => Stop::Cancelled,
    };
    Err(attempt.undo(stop).await)
}

/// A control plane makes sandboxes of ids only: what may be a name is looked up.
async fn reference(value: &BackendValue, snapshot: &str) -> Result<SnapshotReference, Failure> {
    let given = SnapshotReference::auto(snapshot);
    if !value.is_cloud() {
        return Ok(given);
    }
    let opened = value.backend.snapshots().open(value.backend.clone(), given).await;
    Ok(opened.map_err(|error| Failure::from(error).of_snapshot(snapshot))?.reference())
}

/// Must run inside the backend's scope: a builder takes its defaults from it.
fn build(options: RestoreOptions, snapshot: SnapshotReference) -> MicrosandboxResult<RestoreBuilder> {
    let mut builder = EngineSandbox::restore_ref(snapshot).name(options.name);
    if let Some(cpus) = options.cpus {
        builder = builder.cpus(cpus);
    }
    if let Some(memory) = options.memory_mib {
        builder = builder.memory(memory);
    }
    if let Some(user) = options.user {
        builder = builder.user(user);
    }
    if let Some(seconds) = options.max_duration_secs {
        builder = builder.max_duration(seconds.into());
    }
    if let Some(seconds) = options.idle_timeout_secs {
        builder = builder.idle_timeout(seconds.into());
    }
    if let Some(level) = &options.log_level {
        builder = builder.log_level(log_level(level)?);
    }
    if let Some(profile) = &options.security {
        builder = builder.security(security(profile)?);
    }
    if options.forked {
        builder = builder.forked();
    }
    if options.disk_only {
        builder = builder.disk_only();
    }
    if options.disable_network {
        builder = builder.disable_network();
    }
    if let Some(options) = &options.policy {
        builder = builder.network_policy(policy(options)?);
    }
    if let Some(most) = options.max_tcp_connections {
        builder = builder.max_tcp_connections(most as usize);
    }
    if let Some(most) = options.max_udp_connections {
        builder = builder.max_udp_connections(most as usize);
    }
    if options.allow_missing_resources {
        builder = builder.allow_missing_resources();
    }
    if let Some(base) = options.snapshot_base {
        builder = builder.snapshot_base(base);
    }
    Ok(builder)
}
