//! Volumes: storage of a backend by name, and the files of those that are directories of this host.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use microsandbox::sandbox::{SandboxListBuilder, SandboxStatus, VolumeMount};
use microsandbox::volume::{VolumeConfig, VolumeHandle, VolumeKind};
use microsandbox::{MicrosandboxError, MicrosandboxResult};
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use parking_lot::Mutex;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use uuid::Uuid;

use crate::attempt::ANSWER;
use crate::backend::{Backend, BackendValue};
use crate::cancel::{Cancel, CancelToken};
use crate::cloud;
use crate::engine::{EngineState, Kind, Live};
use crate::failure::Failure;
use crate::files::{FileAttributes, FileEntry, FileInfo, FileNode, OpenOptions, whole};
use crate::outcome::{Outcome, Stop};
use crate::owner::{CREATION_LABEL, visible};
use crate::rooted::{self, Changes, Refused, Replacement, Root};
use crate::sandbox::{SETTLE, milliseconds_of};
use crate::slot::{InEngine, Slot};
use crate::threads::blocking;
use crate::volume_cloud::{Remote, RemoteFile};

/// In one crossing of the border.
const CROSSING: usize = 4 << 20;

/// What a volume is made as.
#[napi(object, object_to_js = false)]
pub struct VolumeOptions {
    pub name: String,
    #[napi(ts_type = "'directory' | 'disk'")]
    pub kind: String,
    /// Of a disk.
    pub size_mib: Option<u32>,
    /// Of a directory.
    pub quota_mib: Option<u32>,
    pub labels: BTreeMap<String, String>,
}

/// A volume as the backend's catalogue has it.
#[napi(object, object_from_js = false)]
#[derive(Clone)]
pub struct VolumeInfo {
    pub name: String,
    #[napi(ts_type = "'directory' | 'disk'")]
    pub kind: String,
    /// The directory on this host; that of a disk has its image.
    pub path: String,
    pub quota_mib: Option<u32>,
    pub capacity: Option<f64>,
    pub used: f64,
    pub disk_path: Option<String>,
    pub disk_format: Option<String>,
    pub disk_fstype: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since 1970.
    pub created_at: Option<f64>,
}

impl VolumeInfo {
    #[allow(clippy::cast_precision_loss)] // sizes are exact up to 8 PiB
    fn of(handle: &VolumeHandle) -> Self {
        let path = handle.local().map(|local| local.path.display().to_string());
        Self {
            name: handle.name().to_owned(),
            kind: if handle.kind() == VolumeKind::Disk { "disk" } else { "directory" }.to_owned(),
            path: path.unwrap_or_default(),
            quota_mib: handle.quota_mib(),
            capacity: handle.capacity_bytes().map(|bytes| bytes as f64),
            used: handle.used_bytes() as f64,
            disk_path: handle.disk_path().map(|path| path.display().to_string()),
            disk_format: handle.disk_format().map(str::to_owned),
            disk_fstype: handle.disk_fstype().map(str::to_owned),
            labels: visible(handle.labels().iter().cloned().collect()),
            created_at: handle.created_at().map(|time| milliseconds_of(time.timestamp_millis())),
        }
    }
}

impl BackendValue {
    /// An empty name is that of the default volume of a control plane, which has none.
    async fn find_volume(&self, name: &str) -> MicrosandboxResult<VolumeHandle> {
        if name.is_empty() {
            return self.backend.volumes().get_default(self.backend.clone()).await;
        }
        self.backend.volumes().get(self.backend.clone(), name).await
    }

    /// The sandbox that has a volume mounted, by the catalogue: the engine's own rule.
    async fn mounting(&self, volume: &str) -> MicrosandboxResult<Option<String>> {
        use SandboxStatus::{Draining, Paused, Running, Starting};
        if self.is_cloud() {
            // It sees to that itself.
            return Ok(None);
        }
        let mounts = |mount: &VolumeMount| matches!(mount, VolumeMount::Named { name, .. } if name == volume);
        let mut cursor: Option<String> = None;
        loop {
            let mut query = SandboxListBuilder::default().limit(100);
            if let Some(cursor) = cursor {
                query = query.cursor(cursor);
            }
            let page = self.backend.sandboxes().list(self.backend.clone(), query).await?;
            for sandbox in page.sandboxes {
                let active = matches!(sandbox.status_snapshot(), Starting | Running | Draining | Paused);
                if active && sandbox.config()?.spec.mounts.iter().any(mounts) {
                    return Ok(Some(sandbox.name().to_owned()));
                }
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(None);
            }
        }
    }
}

/// The engine's steps leave a directory without a row, or the reverse, when they are dropped between two of them: they are
/// let come to their end. What waits for somebody's lock all the time has not begun.
async fn whole_step<T>(
    cancel: &Cancel,
    work: impl Future<Output = MicrosandboxResult<T>>,
) -> Result<MicrosandboxResult<T>, Stop> {
    cancel.guard(async { Ok::<_, Failure>(()) }).await?;
    let mut work = Box::pin(work);
    tokio::select! {
        biased;
        done = &mut work => Ok(done),
        () = cancel.requested() => tokio::time::timeout(SETTLE, work).await.map_err(|_| Stop::Cancelled),
    }
}

async fn create(value: &BackendValue, options: VolumeOptions, cancel: &Cancel) -> Result<VolumeInfo, Stop> {
    let mut labels: Vec<_> = options.labels.into_iter().collect();
    let creation = value.is_cloud().then(|| Uuid::new_v4().to_string());
    labels.extend(creation.iter().map(|id| (CREATION_LABEL.to_owned(), id.clone())));
    let config = VolumeConfig {
        name: options.name.clone(),
        kind: if options.kind == "disk" { VolumeKind::Disk } else { VolumeKind::Directory },
        quota_mib: options.quota_mib,
        capacity_mib: options.size_mib,
        labels,
    };
    let volumes = value.backend.volumes();
    let made = match whole_step(cancel, volumes.create(value.backend.clone(), config)).await {
        Ok(made) => made.map_err(|error| Stop::Failed(Failure::from(error).of_volume(&options.name))),
        Err(stop) => Err(stop),
    };
    if let (Err(stop), Some(creation)) = (&made, &creation)
        && !cloud::was_refused(stop)
    {
        take_back(value, &options.name, creation).await;
    }
    made?;
    let found = cancel.guard(value.find_volume(&options.name)).await;
    if matches!(found, Err(Stop::Cancelled)) {
        // It has what no guest has written.
        volumes.remove(value.backend.clone(), &options.name).await?;
    }
    Ok(VolumeInfo::of(&found?))
}

/// Remove the volume of a create that a control plane did not say the end of, if it has made it. One that does not answer
/// to this either keeps it.
async fn take_back(value: &BackendValue, name: &str, creation: &str) {
    let ours = |(key, id): &(String, String)| key == CREATION_LABEL && id == creation;
    let taken = async {
        let mut pace = cloud::Pace::new();
        loop {
            match value.find_volume(name).await {
                Ok(found) if found.labels().iter().any(ours) => {
                    if value.backend.volumes().remove(value.backend.clone(), name).await.is_ok() {
                        return;
                    }
                }
                Ok(_) | Err(MicrosandboxError::VolumeNotFound(_)) => return,
                Err(_) => {}
            }
            pace.wait().await;
        }
    };
    let _ = tokio::time::timeout(ANSWER, taken).await;
}

async fn remove(value: &BackendValue, name: &str, cancel: &Cancel) -> Result<(), Stop> {
    let handle = cancel.guard(value.find_volume(name)).await?;
    if let Some(sandbox) = cancel.guard(value.mounting(name)).await? {
        return Err(Failure::volume_in_use(name, &sandbox).into());
    }
    if let (VolumeKind::Directory, Some(local)) = (handle.kind(), handle.local()) {
        let path = local.path.clone();
        let asked = cancel.clone();
        let flat = blocking(move || Root::open(&path)?.flatten(&|| asked.is_requested())).await;
        if flat.is_err_and(|refused| refused.errno == Errno::CANCELED) {
            return Err(Stop::Cancelled);
        }
    }
    // Also when it is cancelled by now: what has begun to go, goes.
    let removed = whole_step(cancel, value.backend.volumes().remove(value.backend.clone(), name)).await?;
    removed.map_err(|error| match Failure::from(error).of_volume(name) {
        // The control plane's word for one that a sandbox has mounted.
        Failure::CloudHttp { message, status: 409, .. } => {
            Failure::VolumeInUse { message, volume: name.to_owned(), sandbox: None }.into()
        }
        failure => failure.into(),
    })
}

#[napi]
impl Backend {
    /// Make a volume. When this fails or is cancelled, the name is free again before it answers.
    #[napi(ts_return_type = "Promise<Outcome<VolumeInfo>>")]
    pub async fn create_volume(
        &self,
        options: VolumeOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<VolumeInfo>> {
        Ok(self.slot.run(token, |value, cancel| async move { create(&value, options, &cancel).await }).await)
    }

    /// Look a volume up by name.
    #[napi(ts_return_type = "Promise<Outcome<VolumeInfo>>")]
    pub async fn get_volume(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<VolumeInfo>> {
        let run = |value: Arc<BackendValue>, cancel: Cancel| async move {
            Ok(VolumeInfo::of(&cancel.guard(value.find_volume(&name)).await?))
        };
        Ok(self.slot.run(token, run).await)
    }

    /// All volumes, the newest first.
    #[napi(ts_return_type = "Promise<Outcome<Array<VolumeInfo>>>")]
    pub async fn list_volumes(&self, token: &CancelToken) -> napi::Result<Outcome<Vec<VolumeInfo>>> {
        let run = |value: Arc<BackendValue>, cancel: Cancel| async move {
            let listed = cancel.guard(value.backend.volumes().list(value.backend.clone())).await?;
            Ok(listed.iter().map(VolumeInfo::of).collect())
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Remove a volume that no sandbox has mounted, with all that is in it. A removal that has begun goes on when it is
    /// cancelled.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn remove_volume(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self.slot.run(token, |value, cancel| async move { remove(&value, &name, &cancel).await }).await)
    }

    /// Open a volume for its files.
    #[napi(ts_return_type = "Promise<Outcome<Volume>>")]
    pub async fn open_volume(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<Volume>> {
        let run = |value: Arc<BackendValue>, cancel: Cancel| async move {
            let handle = cancel.guard(value.find_volume(&name)).await?;
            let info = VolumeInfo::of(&handle);
            let files = if let Some(remote) = Remote::of(&value.backend, &handle) {
                Files::Cloud(Arc::new(remote))
            } else if info.kind == "disk" {
                Files::Image
            } else {
                let path = info.path.clone();
                let opened = blocking(move || Root::open(Path::new(&path))).await;
                Files::Host(Arc::new(opened.map_err(|refused| stop(&info.path, refused))?))
            };
            let live = value.engine().count(Kind::Volume);
            Ok(Volume { slot: Slot::new("volume", VolumeValue { files, live }), info })
        };
        Ok(self.slot.run(token, run).await)
    }
}

struct VolumeValue {
    files: Files,
    live: Live,
}

/// Where the files of a volume are.
enum Files {
    Host(Arc<Root>),
    /// Only a guest can see them.
    Image,
    Cloud(Arc<Remote>),
}

impl InEngine for VolumeValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

/// A cancel is one only when it was asked for.
fn stop(path: &str, Refused { errno, why }: Refused) -> Stop {
    if errno == Errno::CANCELED {
        return Stop::Cancelled;
    }
    // The numbers of Linux, as for the files of a guest.
    let number = match errno {
        Errno::LOOP => 40,
        Errno::NAMETOOLONG => 36,
        Errno::NOTEMPTY => 39,
        Errno::OPNOTSUPP => 95,
        Errno::OVERFLOW => 75,
        errno => errno.raw_os_error(),
    };
    Failure::file_errno(path, number, &why.map_or_else(|| errno.to_string(), str::to_owned)).into()
}

impl VolumeValue {
    /// Do something with the files, on a thread that may block. It has ended when this answers, cancelled or not.
    async fn work<T: Send + 'static>(
        &self,
        path: String,
        cancel: Cancel,
        work: impl FnOnce(&Root, &str, rooted::Cancelled<'_>) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Stop> {
        let Files::Host(root) = &self.files else { return Err(Failure::volume_is_disk().into()) };
        let root = root.clone();
        cancel.guard(async { Ok::<_, Failure>(()) }).await?;
        blocking(move || work(&root, &path, &|| cancel.is_requested()).map_err(|refused| stop(&path, refused))).await
    }
}

#[allow(
    clippy::cast_precision_loss, // sizes are exact up to 8 PiB, times to a microsecond
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::unnecessary_cast, // they differ from platform to platform
)]
fn info_of(stat: &Stat) -> FileInfo {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "symlink",
        _ => "other",
    };
    FileInfo {
        kind: kind.to_owned(),
        mode: stat.st_mode as u32,
        size: stat.st_size as f64,
        uid: stat.st_uid,
        gid: stat.st_gid,
        accessed_at: Some(stat.st_atime as f64 + stat.st_atime_nsec as f64 / 1e9),
        modified_at: Some(stat.st_mtime as f64 + stat.st_mtime_nsec as f64 / 1e9),
        node: Some(FileNode {
            device: stat.st_dev as u64,
            number: stat.st_ino as u64,
            links: stat.st_nlink as u64,
            special: stat.st_rdev as u64,
            block_size: stat.st_blksize as u64,
            blocks: stat.st_blocks as u64,
        }),
    }
}

fn changes(attributes: &FileAttributes) -> Changes {
    Changes {
        mode: attributes.mode,
        uid: attributes.uid,
        gid: attributes.gid,
        size: attributes.size.map(whole),
        accessed_at: attributes.accessed_at,
        modified_at: attributes.modified_at,
    }
}

/// An open volume: the methods of a sandbox for its files, and those that a guest needs a program for.
#[napi]
pub struct Volume {
    slot: Slot<VolumeValue>,
    info: VolumeInfo,
}

#[napi]
impl Volume {
    /// What the catalogue said when it was opened.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn info(&self) -> VolumeInfo {
        self.info.clone()
    }

    /// What is known of a file, or of the link itself.
    #[napi(ts_return_type = "Promise<Outcome<FileInfo>>")]
    pub async fn file_stat(&self, path: String, follow: bool, token: &CancelToken) -> napi::Result<Outcome<FileInfo>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(remote) = &value.files {
                return cancel.guard(remote.stat(&path)).await;
            }
            value.work(path, cancel, move |root, path, _| Ok(info_of(&root.stat(path, follow)?))).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// A path without links, of something that exists.
    #[napi(ts_return_type = "Promise<Outcome<string>>")]
    pub async fn file_real_path(&self, path: String, token: &CancelToken) -> napi::Result<Outcome<String>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(remote) = &value.files {
                return cancel.guard(remote.real_path(&path)).await;
            }
            value.work(path, cancel, |root, path, _| root.real_path(path)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Where a link points to.
    #[napi(ts_return_type = "Promise<Outcome<string>>")]
    pub async fn file_read_link(&self, path: String, token: &CancelToken) -> napi::Result<Outcome<String>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(_) = &value.files {
                return Err(Remote::no_links().into());
            }
            value.work(path, cancel, |root, path, _| root.read_link(path)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Make a link to whatever `target` is.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_symlink(&self, target: String, path: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(_) = &value.files {
                return Err(Remote::no_links().into());
            }
            value.work(path, cancel, move |root, path, _| root.symlink(&target, path)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Make a directory; with `recursive` also those above, and none that is there.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_make_directory(
        &self,
        path: String,
        recursive: bool,
        mode: Option<u32>,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(remote) = &value.files {
                return cancel.guard(remote.make_directory(&path, recursive)).await;
            }
            value.work(path, cancel, move |root, path, _| root.make_directory(path, recursive, mode)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Remove a file or a link; with `recursive` also a directory and all below. With `force` it need not exist.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_remove(
        &self,
        path: String,
        recursive: bool,
        force: bool,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(remote) = &value.files {
                return cancel.guard(remote.remove(&path, recursive, force)).await;
            }
            value.work(path, cancel, move |root, path, cancelled| root.remove(path, recursive, force, cancelled)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Rename a file or a directory.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_rename(&self, from: String, to: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(remote) = &value.files {
                return cancel.guard(remote.rename(&from, &to)).await;
            }
            value.work(from, cancel, move |root, from, _| root.rename(from, &to)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Copy the content and the mode of a file.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_copy(&self, from: String, to: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(remote) = &value.files {
                return cancel.guard(remote.copy(&from, &to)).await;
            }
            value.work(from, cancel, move |root, from, cancelled| root.copy_file(from, &to, cancelled)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Give a file a second name.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_link(&self, from: String, to: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(_) = &value.files {
                return Err(Remote::no_links().into());
            }
            value.work(from, cancel, move |root, from, _| root.link(from, &to)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Whether this process may read and write a file.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_access(
        &self,
        path: String,
        readable: bool,
        writable: bool,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(remote) = &value.files {
                return cancel.guard(remote.access(&path, writable)).await;
            }
            value.work(path, cancel, move |root, path, _| root.access(path, readable, writable)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Change what is known of a file.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_set(
        &self,
        path: String,
        attributes: FileAttributes,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(_) = &value.files {
                return Err(Remote::no_attributes().into());
            }
            value.work(path, cancel, move |root, path, _| root.set(path, changes(&attributes))).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// The entries of a directory, or of the whole tree below it; at most a million.
    #[napi(ts_return_type = "Promise<Outcome<Array<FileEntry>>>")]
    pub async fn file_list(
        &self,
        path: String,
        recursive: bool,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Vec<FileEntry>>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(remote) = &value.files {
                return cancel.guard(remote.list(&path, recursive)).await;
            }
            let list =
                move |root: &Root, path: &str, cancelled: rooted::Cancelled<'_>| root.list(path, recursive, cancelled);
            let entries = value.work(path, cancel, list).await?;
            Ok(entries.into_iter().map(|entry| FileEntry { info: info_of(&entry.stat), path: entry.path }).collect())
        };
        Ok(self.slot.run(token, run).await)
    }

    /// A whole file, if it has no more than `limit` bytes.
    #[napi(ts_return_type = "Promise<Outcome<Buffer>>")]
    pub async fn file_read(&self, path: String, limit: f64, token: &CancelToken) -> napi::Result<Outcome<Buffer>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(remote) = &value.files {
                return cancel.guard(remote.read(&path, limit)).await.map(Buffer::from);
            }
            let read = move |root: &Root, path: &str, cancelled: rooted::Cancelled<'_>| {
                root.read(path, whole(limit), cancelled)
            };
            value.work(path, cancel, read).await.map(Buffer::from)
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Write a whole file. When it is cancelled, a part of it may be written.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_write(
        &self,
        path: String,
        data: Buffer,
        options: OpenOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            if let Files::Cloud(remote) = &value.files {
                return cancel.guard(remote.write(&path, Bytes::from_owner(data), &options.flag)).await;
            }
            let (data, how) = (Bytes::from_owner(data), options.how()?);
            value.work(path, cancel, move |root, path, cancelled| root.write(path, &data, how, cancelled)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Begin a file that takes the place of the one that is there in one step.
    #[napi(ts_return_type = "Promise<Outcome<VolumeReplacement>>")]
    pub async fn file_replace(
        &self,
        path: String,
        mode: Option<u32>,
        token: &CancelToken,
    ) -> napi::Result<Outcome<VolumeReplacement>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            let live = value.live.engine().count(Kind::File);
            let new = if let Files::Cloud(remote) = &value.files {
                New::Cloud(cancel.guard(remote.open(&path, "w")).await?)
            } else {
                let begin = move |root: &Root, path: &str, _: rooted::Cancelled<'_>| root.replace(path, mode);
                New::Host(Mutex::new(Some(value.work(path.clone(), cancel, begin).await?)))
            };
            Ok(VolumeReplacement { slot: Slot::new("file", VolumeReplacementValue { new, path, live }) })
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Open a file.
    #[napi(ts_return_type = "Promise<Outcome<VolumeFile>>")]
    pub async fn file_open(
        &self,
        path: String,
        options: OpenOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<VolumeFile>> {
        let run = |value: Arc<VolumeValue>, cancel: Cancel| async move {
            let live = value.live.engine().count(Kind::File);
            if let Files::Cloud(remote) = &value.files {
                let file = Opened::Cloud(Box::new(cancel.guard(remote.open(&path, &options.flag)).await?));
                return Ok(VolumeFile { slot: Slot::new("file", VolumeFileValue { file, path, live }) });
            }
            let how = options.how()?;
            let open = move |root: &Root, path: &str, _: rooted::Cancelled<'_>| root.open_file(path, how);
            let (file, _) = value.work(path.clone(), cancel, open).await?;
            let file = Opened::Host { file: Arc::new(file), append: how.append };
            Ok(VolumeFile { slot: Slot::new("file", VolumeFileValue { file, path, live }) })
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Give the volume back. Its open files stay open.
    #[napi]
    pub async fn close(&self) -> napi::Result<()> {
        drop(self.slot.take());
        Ok(())
    }
}

struct VolumeFileValue {
    file: Opened,
    path: String,
    live: Live,
}

enum Opened {
    Host { file: Arc<File>, append: bool },
    Cloud(Box<RemoteFile>),
}

impl InEngine for VolumeFileValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

impl VolumeFileValue {
    async fn work<T: Send + 'static>(
        &self,
        cancel: Cancel,
        work: impl FnOnce(&File, bool) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Stop> {
        cancel.guard(async { Ok::<_, Failure>(()) }).await?;
        // The callers have seen to the others.
        let Opened::Host { file, append } = &self.file else { return Err(Remote::no_attributes().into()) };
        let (file, append) = (file.clone(), *append);
        blocking(move || work(&file, append)).await.map_err(|refused| stop(&self.path, refused))
    }
}

/// An open file of a volume.
#[napi]
pub struct VolumeFile {
    slot: Slot<VolumeFileValue>,
}

#[napi]
impl VolumeFile {
    /// What is known of it.
    #[napi(ts_return_type = "Promise<Outcome<FileInfo>>")]
    pub async fn stat(&self, token: &CancelToken) -> napi::Result<Outcome<FileInfo>> {
        let run = |value: Arc<VolumeFileValue>, cancel: Cancel| async move {
            if let Opened::Cloud(file) = &value.file {
                return cancel.guard(file.stat()).await;
            }
            value.work(cancel, |file, _| Ok(info_of(&rustix::fs::fstat(file)?))).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Up to `len` bytes at `offset`; fewer at the end of the file, and never more than 4 MiB.
    #[napi(ts_return_type = "Promise<Outcome<Buffer>>")]
    pub async fn read(&self, offset: f64, len: u32, token: &CancelToken) -> napi::Result<Outcome<Buffer>> {
        let run = |value: Arc<VolumeFileValue>, cancel: Cancel| async move {
            let len = (len as usize).min(CROSSING);
            if let Opened::Cloud(file) = &value.file {
                return cancel.guard(file.read(whole(offset), len)).await.map(Buffer::from);
            }
            value.work(cancel, move |file, _| rooted::read_at(file, whole(offset), len)).await.map(Buffer::from)
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Write all of `data` at `offset`, or at the end when the file was opened for that.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn write(&self, offset: f64, data: Buffer, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeFileValue>, cancel: Cancel| async move {
            let data = Bytes::from_owner(data);
            if let Opened::Cloud(file) = &value.file {
                return cancel.guard(file.write(Some(whole(offset)), data)).await;
            }
            value.work(cancel, move |file, append| rooted::write_at(file, whole(offset), &data, append)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Change what is known of it.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn set(&self, attributes: FileAttributes, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeFileValue>, cancel: Cancel| async move {
            value.work(cancel, move |file, _| changes(&attributes).apply(file)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// What was written is on the disk when this answers.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn sync(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeFileValue>, cancel: Cancel| async move {
            if let Opened::Cloud(_) = &value.file {
                // It is stored when it is closed, and not before.
                return Ok(());
            }
            value.work(cancel, |file, _| Ok(file.sync_all()?)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Close it, and give the handle back. What was written to a file of a control plane is dropped when its writer has
    /// abandoned it; elsewhere it is written already.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn close(&self, abandoned: Option<bool>) -> napi::Result<Outcome<()>> {
        let Some(value) = self.slot.take() else { return Ok(Ok(()).into()) };
        let engine = value.live.engine().clone();
        let closed = engine
            .finish(async {
                let closed = match &value.file {
                    Opened::Host { .. } => Ok(()),
                    Opened::Cloud(file) => file.close(!abandoned.unwrap_or(false)).await,
                };
                drop(value);
                closed
            })
            .await;
        Ok(closed.map_err(Stop::Failed).into())
    }
}

/// What is written before it takes the place of another.
enum New {
    /// None when it is in its place, or was given up.
    Host(Mutex<Option<Replacement>>),
    Cloud(RemoteFile),
}

struct VolumeReplacementValue {
    new: New,
    path: String,
    live: Live,
}

impl InEngine for VolumeReplacementValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

impl VolumeReplacementValue {
    /// Do something with one on this machine, on a thread that may block. It has ended when this answers, cancelled or not.
    async fn work(
        self: Arc<Self>,
        cancel: Cancel,
        work: impl FnOnce(&mut Option<Replacement>, rooted::Cancelled<'_>) -> Result<(), Refused> + Send + 'static,
    ) -> Result<(), Stop> {
        cancel.guard(async { Ok::<_, Failure>(()) }).await?;
        let value = self.clone();
        let done = blocking(move || match &value.new {
            New::Host(new) => work(&mut new.lock(), &|| cancel.is_requested()),
            New::Cloud(_) => Ok(()),
        })
        .await;
        done.map_err(|refused| stop(&self.path, refused))
    }
}

/// A file that is written before it takes the place of another.
#[napi]
pub struct VolumeReplacement {
    slot: Slot<VolumeReplacementValue>,
}

#[napi]
impl VolumeReplacement {
    /// Write more of it.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn write(&self, data: Buffer, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeReplacementValue>, cancel: Cancel| async move {
            let data = Bytes::from_owner(data);
            if let New::Cloud(file) = &value.new {
                return cancel.guard(file.write(None, data)).await;
            }
            let write = move |new: &mut Option<Replacement>, cancelled: rooted::Cancelled<'_>| match new {
                Some(new) => new.write(&data, cancelled),
                None => Err(Errno::BADF.into()),
            };
            value.work(cancel, write).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Put it in its place, all of it on the disk. When this fails or is cancelled, the old one stays.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn publish(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<VolumeReplacementValue>, cancel: Cancel| async move {
            if let New::Cloud(file) = &value.new {
                // To its end, whoever asks for another: half way there would be two.
                return value.live.engine().finish(file.close(true)).await.map_err(Stop::Failed);
            }
            let publish = |new: &mut Option<Replacement>, cancelled: rooted::Cancelled<'_>| match new.take() {
                Some(new) => new.publish(cancelled),
                None => Err(Errno::BADF.into()),
            };
            value.work(cancel, publish).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Give the handle back. What is not in its place is gone when this answers.
    #[napi]
    pub async fn close(&self) -> napi::Result<()> {
        let Some(value) = self.slot.take() else { return Ok(()) };
        let engine = value.live.engine().clone();
        engine
            .finish(async move {
                match &value.new {
                    New::Host(_) => blocking(move || drop(value)).await,
                    // What is left beside it there cannot be told to anybody any more.
                    New::Cloud(file) => drop(file.close(false).await),
                }
            })
            .await;
        Ok(())
    }
}
