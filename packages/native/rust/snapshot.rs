//! Snapshots: sandboxes kept as artifacts, and what is done with these: looked at, verified, put into archives,
//! removed.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;

use microsandbox::backend::Backend as EngineBackend;
use microsandbox::snapshot::{
    DiskLayer, HeadUpdate, HeadUpdateReason, LoadOpts, Manifest, SaveOpts, Snapshot as EngineSnapshot, SnapshotConfig,
    SnapshotConsistency, SnapshotFormat, SnapshotHandle, SnapshotReference, SnapshotRootDisk, SnapshotScope,
    SnapshotState, SnapshotVerifyReport, UpperVerifyStatus,
};
use microsandbox::{MicrosandboxError, MicrosandboxResult, Operation};
use napi_derive::napi;
use uuid::Uuid;

use crate::backend::Backend;
use crate::cancel::{Cancel, CancelToken};
use crate::cloud::is_cloud;
use crate::failure::Failure;
use crate::outcome::{Outcome, Stop};
use crate::pause::{current, flush_policy, settled};
use crate::sandbox::{Sandbox, milliseconds_of};
use crate::settle::settling;

/// What to keep of a sandbox, and how.
#[napi(object, object_to_js = false)]
pub struct SnapshotOptions {
    pub name: String,
    /// Memory and programs too, and not only the disk.
    pub full: bool,
    #[napi(ts_type = "'auto' | 'required' | 'skip'")]
    pub guest_flush: String,
    pub record_integrity: bool,
    pub labels: BTreeMap<String, String>,
    /// Where its group is; the backend's own directory when absent.
    pub directory: Option<String>,
    /// The name of its sandbox when absent.
    pub group: Option<String>,
}

/// How to write an archive of a sandbox.
#[napi(object, object_to_js = false)]
pub struct SnapshotArchiveOptions {
    pub plain_tar: bool,
    /// In the place of a file that is there.
    pub overwrite: bool,
}

/// What to put into an archive of a snapshot.
#[napi(object, object_to_js = false)]
pub struct SnapshotSaveOptions {
    pub parents: bool,
    pub image: bool,
    pub plain_tar: bool,
    pub since: Option<String>,
    pub last_layers: Option<u32>,
}

/// Where to put what comes of archives.
#[napi(object, object_to_js = false)]
pub struct SnapshotLoadOptions {
    pub directory: Option<String>,
    pub base: Option<String>,
    pub group: Option<String>,
    pub set_head: bool,
}

/// One layer of the disk, the oldest first.
#[napi(object, object_from_js = false)]
pub struct SnapshotLayer {
    pub id: String,
    #[napi(ts_type = "'raw' | 'qcow2'")]
    pub format: String,
    /// As the guest sees it.
    pub size: u64,
    pub parent: Option<String>,
    pub algorithm: Option<String>,
    pub digest: Option<String>,
}

/// The head of a group, and how it came to be that.
#[napi(object, object_from_js = false)]
pub struct SnapshotHead {
    pub group: String,
    pub previous: Option<String>,
    pub head: String,
    #[napi(
        ts_type = "'initialized' | 'fast-forwarded' | 'selected' | 'unchanged' | 'diverged' | 'unknown-ancestry' | 'ambiguous-candidates'"
    )]
    pub reason: String,
    pub changed: bool,
}

/// A snapshot as its descriptor has it.
#[napi(object, object_from_js = false)]
pub struct SnapshotDetail {
    pub id: String,
    /// What a restore takes.
    pub reference: String,
    pub path: String,
    pub name: Option<String>,
    pub group: Option<String>,
    pub digest: String,
    #[napi(ts_type = "'disk' | 'full'")]
    pub scope: String,
    pub parent: Option<String>,
    pub image: String,
    pub image_digest: String,
    pub sandbox: Option<String>,
    #[napi(ts_type = "'managed' | 'flat' | 'tmpfs'")]
    pub root_disk: String,
    #[napi(ts_type = "'crash-consistent' | 'filesystem-consistent' | 'application-consistent'")]
    pub consistency: String,
    #[napi(ts_type = "'raw' | 'qcow2'")]
    pub format: Option<String>,
    pub filesystem: Option<String>,
    pub size: Option<u64>,
    pub layers: Vec<SnapshotLayer>,
    pub checkpoint: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// RFC 3339.
    pub created_at: String,
    pub head: Option<SnapshotHead>,
}

/// A snapshot as the backend's catalogue has it.
#[napi(object, object_from_js = false)]
pub struct SnapshotInfo {
    pub id: String,
    pub reference: String,
    pub path: Option<String>,
    pub name: Option<String>,
    pub group: Option<String>,
    pub digest: String,
    #[napi(ts_type = "'disk' | 'full'")]
    pub scope: String,
    pub parent: Option<String>,
    pub image: String,
    #[napi(ts_type = "'raw' | 'qcow2'")]
    pub format: Option<String>,
    pub filesystem: Option<String>,
    pub size: Option<u64>,
    pub checkpoint: Option<String>,
    pub state: String,
    pub locality: String,
    pub availability: String,
    pub migration: String,
    pub migration_error: Option<String>,
    /// Milliseconds since 1970.
    pub created_at: f64,
    pub head: Option<SnapshotHead>,
}

/// What came of comparing a snapshot with the digests that were recorded.
#[napi(object, object_from_js = false)]
pub struct SnapshotVerification {
    pub digest: String,
    pub path: String,
    pub algorithm: Option<String>,
    pub disk: Option<String>,
    pub checkpoint: Option<String>,
}

#[napi]
impl Sandbox {
    /// Keep the sandbox as a snapshot. It goes on, or stays as it is. What was being published when this was cancelled is
    /// whole, and kept.
    #[napi(ts_return_type = "Promise<Outcome<SnapshotDetail>>")]
    pub async fn snapshot(
        &self,
        options: SnapshotOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<SnapshotDetail>> {
        Ok(Box::pin(self.slot.run(token, |value, cancel| async move {
            let backend = value.sandbox.backend();
            cancel.guard(current(&value.sandbox, backend)).await?;
            create(backend, value.sandbox.name(), options, &cancel).await
        }))
        .await)
    }
}

#[napi]
impl Backend {
    /// The same of the sandbox that has this name.
    #[napi(ts_return_type = "Promise<Outcome<SnapshotDetail>>")]
    pub async fn create_snapshot(
        &self,
        sandbox: String,
        options: SnapshotOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<SnapshotDetail>> {
        Ok(Box::pin(
            self.slot
                .run(token, |value, cancel| async move { create(&value.backend, &sandbox, options, &cancel).await }),
        )
        .await)
    }

    /// Write an archive of a sandbox, without a snapshot in between. A cancel leaves no file.
    #[napi(ts_return_type = "Promise<Outcome<SnapshotDetail>>")]
    pub async fn create_snapshot_archive(
        &self,
        sandbox: String,
        path: String,
        options: SnapshotOptions,
        archive: SnapshotArchiveOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<SnapshotDetail>> {
        Ok(Box::pin(self.slot.run(token, |value, cancel| async move {
            let backend = &value.backend;
            local_only(backend)?;
            let config = config(backend, &sandbox, options)?;
            let place = Place::of(&path)?;
            if !archive.overwrite && place.path.exists() {
                return Err(MicrosandboxError::SnapshotAlreadyExists(place.reference()).into());
            }
            let write =
                |out: PathBuf| async move { backend.snapshots().create_archive(config, &out, archive.plain_tar).await };
            let written = place.fill(&cancel, write).await;
            if written.is_err() {
                settled(backend, &sandbox).await;
            }
            let written = written?;
            Ok(SnapshotDetail {
                reference: place.reference(),
                path: place.reference(),
                ..described(written.manifest(), written.descriptor_digest(), written.labels())
            })
        }))
        .await)
    }

    /// Read the descriptor of a snapshot.
    #[napi(ts_return_type = "Promise<Outcome<SnapshotDetail>>")]
    pub async fn open_snapshot(&self, reference: String, token: &CancelToken) -> napi::Result<Outcome<SnapshotDetail>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let opened = async {
                    let opened = open(&value.backend, reference.clone()).await;
                    opened.map_err(|error| Failure::from(error).of_snapshot(&reference))
                };
                Ok(SnapshotDetail::of(&cancel.guard(opened).await?))
            })
            .await)
    }

    /// Look a snapshot up.
    #[napi(ts_return_type = "Promise<Outcome<SnapshotInfo>>")]
    pub async fn get_snapshot(&self, reference: String, token: &CancelToken) -> napi::Result<Outcome<SnapshotInfo>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let found = async {
                    let found = value.backend.snapshots().get(value.backend.clone(), &reference).await;
                    found.map_err(|error| Failure::from(error).of_snapshot(&reference))
                };
                Ok(SnapshotInfo::of(&cancel.guard(found).await?))
            })
            .await)
    }

    /// All snapshots of the catalogue, the newest first.
    #[napi(ts_return_type = "Promise<Outcome<Array<SnapshotInfo>>>")]
    pub async fn list_snapshots(&self, token: &CancelToken) -> napi::Result<Outcome<Vec<SnapshotInfo>>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let listed = cancel.guard(value.backend.snapshots().list(value.backend.clone())).await?;
                Ok(listed.iter().map(SnapshotInfo::of).collect())
            })
            .await)
    }

    /// The snapshots of a directory, whether or not the catalogue has them.
    #[napi(ts_return_type = "Promise<Outcome<Array<SnapshotDetail>>>")]
    pub async fn list_snapshot_directory(
        &self,
        path: String,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Vec<SnapshotDetail>>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let directory = absolute(path).map_err(Failure::from)?;
                let found = cancel.guard(value.backend.snapshots().list_dir(value.backend.clone(), directory)).await?;
                Ok(found.iter().map(SnapshotDetail::of).collect())
            })
            .await)
    }

    /// Put the snapshots of a directory into the catalogue, and say how many these are.
    #[napi(ts_return_type = "Promise<Outcome<number>>")]
    #[allow(clippy::cast_precision_loss)] // fewer than 2^53 directories
    pub async fn reindex_snapshots(&self, path: Option<String>, token: &CancelToken) -> napi::Result<Outcome<f64>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let directory = path.map(absolute).transpose().map_err(Failure::from)?;
                Ok(cancel.guard(value.backend.snapshots().reindex(directory)).await? as f64)
            })
            .await)
    }

    /// Compare a snapshot with the digests that were recorded.
    #[napi(ts_return_type = "Promise<Outcome<SnapshotVerification>>")]
    pub async fn verify_snapshot(
        &self,
        reference: String,
        token: &CancelToken,
    ) -> napi::Result<Outcome<SnapshotVerification>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let verified = async {
                    local_only(&value.backend)?;
                    let opened = open(&value.backend, reference).await?;
                    value.backend.snapshots().verify(&opened).await
                };
                Ok(SnapshotVerification::of(cancel.guard(verified).await?))
            })
            .await)
    }

    /// Write a snapshot into an archive. A cancel leaves no file, and the one that was there before.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn save_snapshot(
        &self,
        reference: String,
        path: String,
        options: SnapshotSaveOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        Ok(Box::pin(self.slot.run(token, |value, cancel| async move {
            let options = SaveOpts {
                with_parents: options.parents,
                with_image: options.image,
                plain_tar: options.plain_tar,
                since: options.since,
                last_layers: options.last_layers.map(|count| count as usize),
            };
            local_only(&value.backend)?;
            let write = |out: PathBuf| async move {
                value.backend.snapshots().save(SnapshotReference::auto(reference), &out, options).await
            };
            Place::of(&path)?.fill(&cancel, write).await.map_err(of_archive)
        }))
        .await)
    }

    /// Write a copy of a snapshot of a disk into an archive, with other labels. A cancel leaves no file.
    #[napi(ts_return_type = "Promise<Outcome<SnapshotDetail>>")]
    pub async fn copy_snapshot(
        &self,
        reference: String,
        path: String,
        labels: BTreeMap<String, String>,
        record_integrity: bool,
        token: &CancelToken,
    ) -> napi::Result<Outcome<SnapshotDetail>> {
        Ok(Box::pin(self.slot.run(token, |value, cancel| async move {
            local_only(&value.backend)?;
            let place = Place::of(&path)?;
            let given = labels.clone();
            let write = |out: PathBuf| async move {
                let source = open(&value.backend, reference).await?;
                value.backend.snapshots().copy(&source, &out, given, record_integrity).await
            };
            let manifest = place.fill(&cancel, write).await?;
            let digest = manifest.digest().map_err(|error| MicrosandboxError::SnapshotIntegrity(error.to_string()))?;
            Ok(SnapshotDetail {
                reference: place.reference(),
                path: place.reference(),
                ..described(&manifest, &digest, &labels)
            })
        }))
        .await)
    }

    /// Take the snapshots of archives into a group, all or none. What was being published when this was cancelled is whole,
    /// and kept; otherwise a failure or a cancel leaves nothing.
    #[napi(ts_return_type = "Promise<Outcome<Array<SnapshotInfo>>>")]
    pub async fn load_snapshots(
        &self,
        paths: Vec<String>,
        options: SnapshotLoadOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Vec<SnapshotInfo>>> {
        Ok(Box::pin(self.slot.run(token, |value, cancel| async move {
            load(&value.backend, paths, options, &cancel).await.map_err(of_archive)
        }))
        .await)
    }

    /// Remove a snapshot. It is not cancelled when it has begun.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn remove_snapshot(
        &self,
        reference: String,
        force: bool,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                cancel.guard(async { Ok::<_, Failure>(()) }).await?;
                let which = SnapshotReference::auto(reference.as_str());
                let removed = value.backend.snapshots().remove(value.backend.clone(), which, force).await;
                removed.map_err(|error| not_removed(Failure::from(error).of_snapshot(&reference)).into())
            })
            .await)
    }

    /// Read the head of a group, or make `group:member` its head.
    #[napi(ts_return_type = "Promise<Outcome<SnapshotHead>>")]
    pub async fn snapshot_group_head(
        &self,
        selector: String,
        token: &CancelToken,
    ) -> napi::Result<Outcome<SnapshotHead>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let head = cancel.guard(value.backend.snapshots().group_head(&selector)).await;
                match head {
                    Ok(update) => Ok(SnapshotHead::of(&update)),
                    // The lookups say this of a group that is not there; this one says what its file system said.
                    Err(Stop::Failed(Failure::Io { kind, .. })) if kind == "NotFound" => {
                        Err(MicrosandboxError::SnapshotNotFound(selector).into())
                    }
                    Err(stop) => Err(stop),
                }
            })
            .await)
    }
}

/// Before anything is made on this host for what a control plane would refuse.
fn local_only(backend: &Arc<dyn EngineBackend>) -> MicrosandboxResult<()> {
    if is_cloud(backend) { Err(MicrosandboxError::local_only(Operation::SnapshotOps)) } else { Ok(()) }
}

async fn open(backend: &Arc<dyn EngineBackend>, reference: String) -> MicrosandboxResult<EngineSnapshot> {
    backend.snapshots().open(backend.clone(), SnapshotReference::auto(reference)).await
}

fn config(
    backend: &Arc<dyn EngineBackend>,
    sandbox: &str,
    options: SnapshotOptions,
) -> Result<SnapshotConfig, Failure> {
    let mut builder =
        EngineSnapshot::builder(options.name).from_sandbox(sandbox).guest_flush(flush_policy(&options.guest_flush)?);
    for (name, value) in options.labels {
        builder = builder.label(name, value);
    }
    if options.full {
        builder = builder.full();
    }
    if options.record_integrity {
        builder = builder.record_integrity();
    }
    if let Some(directory) = options.directory {
        // That of a control plane is not on this host.
        let directory = if is_cloud(backend) { PathBuf::from(directory) } else { absolute(directory)? };
        builder = builder.dest_dir(directory);
    }
    if let Some(group) = options.group {
        builder = builder.group(group);
    }
    Ok(builder.build()?)
}

async fn create(
    backend: &Arc<dyn EngineBackend>,
    sandbox: &str,
    options: SnapshotOptions,
    cancel: &Cancel,
) -> Result<SnapshotDetail, Stop> {
    let config = config(backend, sandbox, options)?;
    if is_cloud(backend) {
        // It goes on with what it has begun, whoever waits.
        let name = config.name.clone();
        let made = async {
            let made = backend.snapshots().create(backend.clone(), config).await;
            made.map_err(|error| Failure::from(error).of_snapshot(&name).of_sandbox(sandbox))
        };
        let made = cancel.guard(Box::pin(made)).await?;
        return Ok(SnapshotDetail { name: Some(name), ..SnapshotDetail::of(&made) });
    }
    let group = Group::before(backend, config.dest_dir.clone(), config.group.as_deref().unwrap_or(sandbox));
    // Publication is in a task: the group, the head and the ancestry of the sandbox change in it together. After it there is
    // the index, without which nobody would find what is published.
    let publishing = |tasks: usize| tasks > 0 || group.has_more();
    let made = settling(cancel, publishing, Box::pin(backend.snapshots().create(backend.clone(), config))).await;
    match made {
        Ok(snapshot) => Ok(SnapshotDetail::of(&snapshot)),
        Err(stop) => {
            settled(backend, sandbox).await;
            group.undo();
            Err(stop)
        }
    }
}

async fn load(
    backend: &Arc<dyn EngineBackend>,
    paths: Vec<String>,
    options: SnapshotLoadOptions,
    cancel: &Cancel,
) -> Result<Vec<SnapshotInfo>, Stop> {
    local_only(backend)?;
    let paths = paths.into_iter().map(absolute).collect::<Result<Vec<_>, _>>().map_err(Failure::from)?;
    let directory = options.directory.map(absolute).transpose().map_err(Failure::from)?;
    // The engine would make a name too, and could not be asked for it when it fails.
    let name = options.group.unwrap_or_else(|| format!("msb-{}", &Uuid::new_v4().simple().to_string()[..8]));
    let group = Group::before(backend, directory.clone(), &name);
    let root = group.root.clone();
    let options = LoadOpts { dest: directory, base: options.base, group: Some(name), set_head: options.set_head };
    // All is checked by the time that there is a directory of what is to be published; what is published is to be indexed.
    let is_begun = move || entries(&root).iter().any(|name| name.starts_with(".msb-snapshot-batch-"));
    let publishing = |_: usize| is_begun() || group.has_more();
    let loaded = async { backend.snapshots().load_many(backend.clone(), &paths, options).await };
    match settling(cancel, publishing, Box::pin(loaded)).await {
        Ok(handles) => Ok(handles.iter().map(SnapshotInfo::of).collect()),
        Err(stop) => {
            group.undo();
            Err(stop)
        }
    }
}

fn snapshots_in(group: &Path) -> impl Iterator<Item = String> {
    entries(group).into_iter().filter(|name| name.starts_with("snap_"))
}

/// The names of what is in a directory; none when it cannot be read.
fn entries(directory: &Path) -> Vec<String> {
    let Ok(read) = std::fs::read_dir(directory) else { return Vec::new() };
    read.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A group that may come to be, and the directory that it is in. The engine makes both before it knows that something
/// will be in them.
struct Group {
    root: PathBuf,
    directory: PathBuf,
    /// The snapshots in it.
    before: BTreeSet<String>,
    /// What was not there before, with what the engine itself puts into it.
    fresh: Vec<(PathBuf, &'static [&'static str])>,
}

impl Group {
    fn before(backend: &Arc<dyn EngineBackend>, directory: Option<PathBuf>, name: &str) -> Self {
        let own = || backend.as_local().map(microsandbox::LocalBackend::snapshots_dir).unwrap_or_default();
        let root = directory.unwrap_or_else(own);
        let directory = root.join(name);
        let mut fresh: Vec<(PathBuf, &'static [&'static str])> = Vec::new();
        // A name with a separator is refused by the engine; it must not reach a path of ours.
        if microsandbox::sandbox::validate_sandbox_name(name).is_ok() && !directory.exists() {
            fresh.push((directory.clone(), &["group.json", ".group.lock"]));
        }
        if !root.exists() {
            fresh.push((root.clone(), &[".groups.lock"]));
            fresh.extend(missing(&root).into_iter().map(|directory| (directory, &[] as &[&str])));
        }
        let before = snapshots_in(&directory).collect();
        Self { root, directory, before, fresh }
    }

    /// Whether it has a snapshot that it had not.
    fn has_more(&self) -> bool {
        snapshots_in(&self.directory).any(|name| !self.before.contains(&name))
    }

    /// Remove them again, unless something is in them.
    fn undo(&self) {
        for (directory, own) in &self.fresh {
            if entries(directory).iter().all(|name| own.contains(&name.as_str())) {
                for name in *own {
                    let _ = std::fs::remove_file(directory.join(name));
                }
                let _ = std::fs::remove_dir(directory);
            }
        }
    }
}

/// Where an archive comes to be: written in a directory beside, and put in its place when it is whole.
struct Place {
    path: PathBuf,
    name: PathBuf,
    staging: PathBuf,
}

impl Place {
    fn of(path: &str) -> Result<Self, Failure> {
        let path = absolute(path)?;
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Failure::InvalidConfig {
                message: "path: an archive needs the path of a file".into(),
                field: Some("path".into()),
            });
        };
        let staging = directory.join(format!(".msb-archive-{}", Uuid::new_v4()));
        Ok(Self { name: name.into(), staging, path })
    }

    fn reference(&self) -> String {
        self.path.display().to_string()
    }

    async fn fill<T, F>(&self, cancel: &Cancel, write: impl FnOnce(PathBuf) -> F) -> Result<T, Stop>
    where
        F: Future<Output = MicrosandboxResult<T>>,
    {
        let _staging = Staging::make(&self.staging).map_err(Failure::from)?;
        let out = self.staging.join(&self.name);
        let written = settling(cancel, |_| false, Box::pin(write(out.clone()))).await?;
        std::fs::rename(out, &self.path).map_err(Failure::from)?;
        if let Some(directory) = self.path.parent() {
            std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(Failure::from)?;
        }
        Ok(written)
    }
}

/// A directory that is gone with its scope; so are those above that were made for it and have nothing in them.
struct Staging {
    directory: PathBuf,
    made: Vec<PathBuf>,
}

impl Staging {
    fn make(directory: &Path) -> std::io::Result<Self> {
        let staging = Self { directory: directory.to_owned(), made: missing(directory) };
        std::fs::create_dir_all(directory)?;
        Ok(staging)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
        for directory in &self.made {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// The directories above a path that are not there, the innermost first.
fn missing(path: &Path) -> Vec<PathBuf> {
    path.ancestors().skip(1).take_while(|directory| !directory.exists()).map(Path::to_path_buf).collect()
}

/// What the engine says of an archive that it cannot take is in its drawers: text, a decoder's error without a number
/// of the system, or JSON.
pub(crate) fn of_archive(stop: Stop) -> Stop {
    match stop {
        Stop::Failed(
            Failure::Custom { message } | Failure::Json { message } | Failure::Io { message, errno: None, .. },
        ) => Stop::Failed(Failure::SnapshotIntegrity { message }),
        other => other,
    }
}

/// A removal is refused with the words of the command line.
fn not_removed(failure: Failure) -> Failure {
    match failure {
        Failure::Custom { message } if message.contains("indexed child snapshot") => Failure::InvalidConfig {
            message: message.replace("pass --force", "pass force: true"),
            field: Some("force".into()),
        },
        Failure::InvalidConfig { message, .. } if message.contains("cannot remove current head") => {
            Failure::InvalidConfig { message: format!("{message}, or with Snapshot.groupHead"), field: None }
        }
        other => other,
    }
}

fn format_name(format: SnapshotFormat) -> String {
    match format {
        SnapshotFormat::Raw => "raw",
        SnapshotFormat::Qcow2 => "qcow2",
    }
    .to_owned()
}

fn scope_name(scope: SnapshotScope) -> String {
    match scope {
        SnapshotScope::Disk => "disk",
        SnapshotScope::Full => "full",
    }
    .to_owned()
}

/// The name of an installed copy, and its group: files beside the descriptor say them, as the engine's catalogue does.
fn address(path: &Path) -> (Option<String>, Option<String>) {
    let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
    let group = path.parent().filter(|parent| parent.join("group.json").is_file());
    let member = std::fs::read(path.join("group-member.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
        .and_then(|member| member["name"].as_str().map(str::to_owned));
    (member.or_else(|| path.file_name().map(text)), group.and_then(Path::file_name).map(text))
}

/// What the descriptor says, without where it is.
fn described(manifest: &Manifest, digest: &str, labels: &BTreeMap<String, String>) -> SnapshotDetail {
    let (file, checkpoint) = match &manifest.state {
        SnapshotState::File(file) => (Some(file), None),
        SnapshotState::Checkpoint(checkpoint) => (None, Some(checkpoint.checkpoint_root.clone())),
    };
    SnapshotDetail {
        id: manifest.snapshot_id.to_string(),
        reference: String::new(),
        path: String::new(),
        name: None,
        group: None,
        digest: digest.to_owned(),
        scope: scope_name(manifest.scope),
        parent: manifest.parent.as_ref().map(ToString::to_string),
        image: manifest.image.reference.clone(),
        image_digest: manifest.image.manifest_digest.clone(),
        sandbox: manifest.capture.source_lineage.clone(),
        root_disk: match &manifest.root_disk {
            SnapshotRootDisk::Managed => "managed",
            SnapshotRootDisk::Flat => "flat",
            SnapshotRootDisk::Tmpfs { .. } => "tmpfs",
        }
        .to_owned(),
        consistency: match manifest.capture.consistency {
            SnapshotConsistency::CrashConsistent => "crash-consistent",
            SnapshotConsistency::FilesystemConsistent => "filesystem-consistent",
            SnapshotConsistency::ApplicationConsistent => "application-consistent",
        }
        .to_owned(),
        format: file.map(|file| format_name(file.disk_format)),
        filesystem: file.map(|file| file.filesystem.clone()),
        size: file.map(|file| file.virtual_size),
        layers: file.map(|file| file.layers.iter().map(SnapshotLayer::of).collect()).unwrap_or_default(),
        checkpoint,
        labels: labels.clone(),
        created_at: manifest.capture.created_at.clone(),
        head: None,
    }
}

impl SnapshotDetail {
    fn of(snapshot: &EngineSnapshot) -> Self {
        let path = snapshot.path().map(Path::to_path_buf).unwrap_or_default();
        let (name, group) = address(&path);
        Self {
            reference: snapshot.reference().value().to_owned(),
            path: path.display().to_string(),
            name,
            group,
            head: snapshot.head_update().map(SnapshotHead::of),
            ..described(snapshot.manifest(), snapshot.digest(), snapshot.labels())
        }
    }
}

impl SnapshotLayer {
    fn of(layer: &DiskLayer) -> Self {
        let integrity = layer.payload.integrity.as_ref();
        Self {
            id: layer.layer_id.to_string(),
            format: format_name(layer.format),
            size: layer.virtual_size,
            parent: layer.backing.as_ref().map(ToString::to_string),
            algorithm: integrity.map(|integrity| integrity.algorithm().to_owned()),
            digest: integrity.map(|integrity| integrity.value().to_owned()),
        }
    }
}

impl SnapshotInfo {
    fn of(handle: &SnapshotHandle) -> Self {
        Self {
            id: handle.id().to_owned(),
            reference: handle.reference().value().to_owned(),
            path: handle.path().ok().map(|path| path.display().to_string()),
            name: handle.name().map(str::to_owned),
            group: handle.group().map(str::to_owned),
            digest: handle.digest().to_owned(),
            scope: scope_name(handle.scope()),
            parent: handle.parent_digest().map(str::to_owned),
            image: handle.image_ref().to_owned(),
            format: handle.format().map(format_name),
            filesystem: handle.fstype().map(str::to_owned),
            size: handle.size_bytes(),
            checkpoint: handle.checkpoint_manifest_digest().map(str::to_owned),
            state: handle.state_kind().to_owned(),
            locality: handle.locality().to_owned(),
            availability: handle.availability().to_owned(),
            migration: handle.migration_state().to_owned(),
            migration_error: handle.migration_error_code().map(str::to_owned),
            created_at: milliseconds_of(handle.created_at().and_utc().timestamp_millis()),
            head: handle.head_update().map(SnapshotHead::of),
        }
    }
}

impl SnapshotHead {
    fn of(update: &HeadUpdate) -> Self {
        Self {
            group: update.group.clone(),
            previous: update.previous.clone(),
            head: update.head.clone(),
            reason: match update.reason {
                HeadUpdateReason::Initialized => "initialized",
                HeadUpdateReason::FastForwarded => "fast-forwarded",
                HeadUpdateReason::Selected => "selected",
                HeadUpdateReason::Unchanged => "unchanged",
                HeadUpdateReason::Diverged => "diverged",
                HeadUpdateReason::UnknownAncestry => "unknown-ancestry",
                HeadUpdateReason::AmbiguousCandidates => "ambiguous-candidates",
            }
            .to_owned(),
            changed: update.changed,
        }
    }
}

impl SnapshotVerification {
    fn of(report: SnapshotVerifyReport) -> Self {
        let (algorithm, disk) = match report.upper {
            UpperVerifyStatus::NotRecorded => (None, None),
            UpperVerifyStatus::Verified { algorithm, digest } => (Some(algorithm), Some(digest)),
        };
        Self {
            digest: report.digest,
            path: report.path.display().to_string(),
            algorithm,
            disk,
            checkpoint: report.checkpoint.map(|checkpoint| checkpoint.root),
        }
    }
}

#[cfg(test)]
mod tests {
    use microsandbox::LocalBackend;

    use super::*;

    #[test]
    fn a_group_has_more_when_a_snapshot_is_published_into_it() {
        let root = std::env::temp_dir().join(format!("group-{}", Uuid::new_v4()));
        let backend: Arc<dyn EngineBackend> =
            LocalBackend::builder().home(root.join("home")).try_build_lazy().expect("a backend").into();
        let make = |name: &str| std::fs::create_dir_all(root.join("group").join(name)).expect("a directory");
        let before = || Group::before(&backend, Some(root.clone()), "group");
        let fresh = before();
        assert!(!fresh.has_more());
        make(".msb-snapshot-1");
        assert!(!fresh.has_more(), "that is not published");
        make("snap_1");
        assert!(fresh.has_more());
        let known = before();
        assert!(!known.has_more());
        make("snap_2");
        assert!(known.has_more());
        std::fs::remove_dir_all(root).expect("the end of the groups");
    }
}
