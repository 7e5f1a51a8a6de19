//! Images that are on this machine: the engine's catalogue and cache of them, and archives to carry them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use microsandbox::image::{ImageConfigDetail, ImageDetail as EngineDetail, ImageHandle, ImageLayerDetail};
use microsandbox::{Image, ImageArchiveFormat, LocalBackend, MicrosandboxError, MicrosandboxResult, Operation};
use microsandbox_image::{
    CachedImageMetadata, Digest, GlobalCache, ImageError, ImageLoadOptions, ImageSaveRequest, Platform, Reference,
    load_archive,
};
use napi_derive::napi;
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::backend::{Backend, BackendValue};
use crate::cancel::{Cancel, CancelToken};
use crate::failure::Failure;
use crate::leftovers;
use crate::outcome::{Outcome, Stop};
use crate::pull::SETTLE;
use crate::sandbox::milliseconds_of;
use crate::threads::{Threads, blocking, joined};

/// How long a thread that reads or writes an archive may go on after a cancel, to be cleaned up behind at last.
const LONGEST: Duration = Duration::from_hours(1);

/// Threads for an archive: layers are unpacked side by side.
const THREADS: usize = 2;

/// The engine's own limits (`lib/archive/docker.rs` of `microsandbox-image`).
const MOST_ENTRIES: usize = 1_000_000;
const MOST_METADATA: u64 = 16 << 20;

const EISDIR: i32 = 21;

/// What ends a tar archive.
const TAR_END: [u8; 1024] = [0; 1024];

/// An image as the catalogue has it. Sizes in bytes, times in milliseconds since 1970.
#[napi(object, object_from_js = false)]
pub struct ImageInfo {
    pub reference: String,
    /// Of its manifest.
    pub digest: Option<String>,
    pub os: Option<String>,
    pub architecture: Option<String>,
    pub layer_count: u32,
    /// Of the layers as they were downloaded.
    pub size: Option<f64>,
    pub created_at: Option<f64>,
    pub last_used_at: Option<f64>,
}

/// Everything that the catalogue has of an image.
#[napi(object, object_from_js = false)]
pub struct ImageDetail {
    pub image: ImageInfo,
    pub config: Option<ImageConfig>,
    pub layers: Vec<ImageLayer>,
}

/// What an image says of the program that it is for.
#[napi(object, object_from_js = false)]
pub struct ImageConfig {
    pub digest: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub cmd: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
}

/// A layer of an image.
#[napi(object, object_from_js = false)]
pub struct ImageLayer {
    /// Of the layer before it was compressed: what it is, whoever packed it.
    pub diff_id: String,
    /// Of the layer as it was downloaded.
    pub digest: String,
    pub media_type: Option<String>,
    pub size: Option<f64>,
    /// What its file in the cache takes; nothing when there is none.
    pub unpacked_size: Option<f64>,
}

/// What was removed because nothing uses it.
#[napi(object, object_from_js = false)]
pub struct ImagePrune {
    pub references: u32,
    pub manifests: u32,
    pub layers: u32,
    pub fsmeta: u32,
    pub vmdk: u32,
    pub bytes: f64,
}

/// Images to write to an archive.
#[napi(object, object_to_js = false)]
pub struct SaveImagesOptions {
    pub references: Vec<String>,
    pub path: String,
    #[napi(ts_type = "'docker' | 'oci'")]
    pub format: String,
}

#[allow(clippy::cast_precision_loss)] // exact up to 8 PiB
fn bytes(size: u64) -> f64 {
    size as f64
}

fn size(size: Option<i64>) -> Option<f64> {
    size.and_then(|size| u64::try_from(size).ok()).map(bytes)
}

impl ImageInfo {
    fn of(image: &ImageHandle) -> Self {
        Self {
            reference: image.reference().to_owned(),
            digest: image.manifest_digest().map(str::to_owned),
            os: image.os().map(str::to_owned),
            architecture: image.architecture().map(str::to_owned),
            layer_count: u32::try_from(image.layer_count()).unwrap_or(u32::MAX),
            size: size(image.size_bytes()),
            created_at: image.created_at().map(|time| milliseconds_of(time.timestamp_millis())),
            last_used_at: image.last_used_at().map(|time| milliseconds_of(time.timestamp_millis())),
        }
    }
}

impl ImageDetail {
    fn of(detail: EngineDetail, cache: &GlobalCache) -> Self {
        Self {
            image: ImageInfo::of(&detail.handle),
            config: detail.config.map(ImageConfig::of),
            layers: detail.layers.into_iter().map(|layer| ImageLayer::of(layer, cache)).collect(),
        }
    }
}

impl ImageConfig {
    fn of(config: ImageConfigDetail) -> Self {
        let labels = config.labels.as_ref().and_then(Value::as_object).into_iter().flatten();
        let labels = labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
        Self {
            digest: config.digest,
            env: config.env,
            cmd: config.cmd,
            entrypoint: config.entrypoint,
            workdir: config.working_dir,
            user: config.user,
            labels,
            stop_signal: config.stop_signal,
        }
    }
}

impl ImageLayer {
    fn of(layer: ImageLayerDetail, cache: &GlobalCache) -> Self {
        let file = layer.diff_id.parse().ok().map(|diff_id: Digest| cache.layer_erofs_path(&diff_id));
        Self {
            unpacked_size: file.and_then(|file| fs::metadata(file).ok()).map(|metadata| bytes(metadata.len())),
            size: size(layer.compressed_size_bytes),
            diff_id: layer.diff_id,
            digest: layer.blob_digest,
            media_type: layer.media_type,
        }
    }
}

/// For what the engine has no `Operation`.
pub(crate) fn local_only(operation: &str) -> Failure {
    Failure::Unsupported {
        message: format!("{operation} is for a local backend"),
        operation: operation.into(),
        reason: "LocalOnly".into(),
        hint: "use a local backend".into(),
    }
}

fn local(value: &BackendValue, operation: Operation) -> MicrosandboxResult<&LocalBackend> {
    value.backend.as_local().ok_or_else(|| MicrosandboxError::local_only(operation))
}

/// A reference that is pulled, in the cache and in the catalogue. The cache knows it by its full name, the catalogue by the
/// one that was given, as the engine's create does.
pub(crate) struct Target<'a> {
    local: &'a LocalBackend,
    cache: GlobalCache,
    name: String,
    reference: Reference,
}

impl<'a> Target<'a> {
    pub(crate) fn new(local: &'a LocalBackend, name: String) -> Result<Self, Failure> {
        let reference = parse(&name, "reference")?;
        let cache = GlobalCache::new(&local.cache_dir()).map_err(MicrosandboxError::from)?;
        Ok(Self { local, cache, name, reference })
    }

    pub(crate) async fn cached(&self) -> MicrosandboxResult<Option<CachedImageMetadata>> {
        Ok(self.cache.read_image_metadata_async(&self.reference).await?)
    }

    /// Enter what is in the cache into the catalogue.
    pub(crate) async fn enter(&self) -> MicrosandboxResult<ImageInfo> {
        let metadata =
            self.cached().await?.ok_or_else(|| ImageError::NotCached { reference: self.reference.to_string() })?;
        Image::persist(self.local, &self.name, metadata).await?;
        Ok(ImageInfo::of(&Image::get_local(self.local, &self.name).await?))
    }

    /// An index is asked for a platform. An image that is in none is what it is: where it says that it is another's, what the
    /// cache had before is there again.
    pub(crate) async fn check(&self, platform: &Platform, before: Option<CachedImageMetadata>) -> Result<(), Failure> {
        let Some(now) = self.cached().await? else { return Ok(()) };
        let (os, arch) = (platform.os.to_string(), platform.arch.to_string());
        let config = ImageSaveRequest::from_cached(self.name.as_str(), now.clone()).config;
        let its_os = config.os.unwrap_or_else(|| os.clone());
        let its_arch = config.architecture.unwrap_or_else(|| arch.clone());
        if (&its_os, &its_arch) == (&os, &arch) {
            return Ok(());
        }
        if before.as_ref().is_none_or(|before| before.manifest_digest != now.manifest_digest) {
            self.forget(now, before).await?;
        }
        Err(Failure::ImagePlatformNotFound {
            message: format!("{} is of {its_os}/{its_arch}, and not of {os}/{arch}", self.name),
            reference: self.name.clone(),
            os,
            arch,
        })
    }

    /// The engine removes what belongs to an image in its catalogue: there it gets a name of its own for that.
    async fn forget(&self, now: CachedImageMetadata, before: Option<CachedImageMetadata>) -> MicrosandboxResult<()> {
        let pinned = self.pinned(&now);
        if Image::get_local(self.local, &pinned).await.is_err() {
            Image::persist(self.local, &pinned, now).await?;
            Image::remove_local(self.local, &pinned, false).await?;
        }
        match before {
            Some(before) => self.cache.write_image_metadata_async(&self.reference, &before).await?,
            None => self.cache.delete_image_metadata_async(&self.reference).await?,
        }
        Ok(())
    }

    /// The name that an image has for good.
    fn pinned(&self, metadata: &CachedImageMetadata) -> String {
        format!("{}/{}@{}", self.reference.registry(), self.reference.repository(), metadata.manifest_digest)
    }

    /// Have the catalogue know what a name means by its digest too.
    async fn pin(&self) -> Result<bool, Failure> {
        let image = Image::get_local(self.local, &self.name).await?;
        let others = Image::list_local(self.local).await?;
        if others
            .iter()
            .any(|other| other.reference() != image.reference() && other.manifest_digest() == image.manifest_digest())
        {
            return Ok(true);
        }
        let metadata = self.cached().await?;
        let Some(metadata) = metadata.filter(|found| Some(found.manifest_digest.as_str()) == image.manifest_digest())
        else {
            return Ok(false);
        };
        let pinned = self.pinned(&metadata);
        if pinned == self.name {
            return Ok(false);
        }
        let reference = parse(&pinned, "reference")?;
        let written = self.cache.write_image_metadata_async(&reference, &metadata).await;
        written.map_err(MicrosandboxError::from)?;
        Image::persist(self.local, &pinned, metadata).await?;
        Ok(true)
    }
}

/// The catalogue lets nothing go that a sandbox is made of, and the engine's own force fails on that: here what is needed
/// keeps the name of its digest.
async fn remove(local: &LocalBackend, reference: &str, force: bool) -> Result<(), Failure> {
    match Image::remove_local(local, reference, false).await {
        Err(in_use @ MicrosandboxError::ImageInUse(_)) => {
            if force && Target::new(local, reference.to_owned())?.pin().await? {
                Ok(Image::remove_local(local, reference, true).await?)
            } else {
                Err(in_use.into())
            }
        }
        removed => Ok(removed?),
    }
}

/// What is no reference may hold a password: it is not said again.
fn parse(reference: &str, field: &str) -> Result<Reference, Failure> {
    reference.parse().map_err(|error| Failure::InvalidConfig {
        message: format!("{field}: no reference of an image: {error}"),
        field: Some(field.into()),
    })
}

#[napi]
impl Backend {
    /// The images of the catalogue, the newest first.
    #[napi(ts_return_type = "Promise<Outcome<Array<ImageInfo>>>")]
    pub async fn list_images(&self, token: &CancelToken) -> napi::Result<Outcome<Vec<ImageInfo>>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let local = local(&value, Operation::ImageList)?;
                let images = cancel.guard(Image::list_local(local)).await?;
                Ok(images.iter().map(ImageInfo::of).collect())
            })
            .await)
    }

    /// An image by its reference, as it was pulled.
    #[napi(ts_return_type = "Promise<Outcome<ImageInfo>>")]
    pub async fn get_image(&self, reference: String, token: &CancelToken) -> napi::Result<Outcome<ImageInfo>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let local = local(&value, Operation::ImageGet)?;
                parse(&reference, "reference")?;
                let image = cancel.guard(Image::get_local(local, &reference)).await?;
                Ok(ImageInfo::of(&image))
            })
            .await)
    }

    /// Everything about an image.
    #[napi(ts_return_type = "Promise<Outcome<ImageDetail>>")]
    pub async fn inspect_image(&self, reference: String, token: &CancelToken) -> napi::Result<Outcome<ImageDetail>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let local = local(&value, Operation::ImageInspect)?;
                parse(&reference, "reference")?;
                let detail = cancel.guard(Image::inspect_local(local, &reference)).await?;
                let cache = GlobalCache::new(&local.cache_dir()).map_err(MicrosandboxError::from)?;
                Ok(ImageDetail::of(detail, &cache))
            })
            .await)
    }

    /// Remove an image, and what no other has; forced, at least its name. It is not cancelled between the catalogue and the
    /// files.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn remove_image(&self, reference: String, force: bool, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, _| async move {
                let local = local(&value, Operation::ImageRemove)?;
                parse(&reference, "reference")?;
                Ok(Box::pin(remove(local, &reference, force)).await?)
            })
            .await)
    }

    /// Remove the images that no sandbox and no snapshot uses. It is not cancelled between the catalogue and the files.
    #[napi(ts_return_type = "Promise<Outcome<ImagePrune>>")]
    pub async fn prune_images(&self, token: &CancelToken) -> napi::Result<Outcome<ImagePrune>> {
        Ok(self
            .slot
            .run(token, |value, _| async move {
                let local = local(&value, Operation::ImagePrune)?;
                let report = Box::pin(Image::prune_local(local)).await?;
                Ok(ImagePrune {
                    references: report.image_refs_removed,
                    manifests: report.manifests_removed,
                    layers: report.layers_removed,
                    fsmeta: report.fsmeta_removed,
                    vmdk: report.vmdk_removed,
                    bytes: bytes(report.bytes_reclaimed.unwrap_or_default()),
                })
            })
            .await)
    }

    /// Load the images of an archive; `tags` are more references for the first. None is in the catalogue before all of them
    /// can be.
    #[napi(ts_return_type = "Promise<Outcome<Array<ImageInfo>>>")]
    pub async fn load_images(
        &self,
        path: String,
        tags: Vec<String>,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Vec<ImageInfo>>> {
        let call = self.slot.run(token, |value, cancel| async move { load(&value, path.into(), tags, &cancel).await });
        Ok(Box::pin(call).await)
    }

    /// Save images to an archive. Its path has all of it or what it had before.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn save_images(&self, options: SaveImagesOptions, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let call = self.slot.run(token, |value, cancel| async move { save(&value, options, &cancel).await });
        Ok(Box::pin(call).await)
    }
}

async fn load(value: &BackendValue, path: PathBuf, tags: Vec<String>, cancel: &Cancel) -> Result<Vec<ImageInfo>, Stop> {
    let local = local(value, Operation::ImageLoad)?;
    for tag in &tags {
        parse(tag, "tags")?;
    }
    let input = path.clone();
    let Contents { references, layers } = cancel.guard(blocking(move || scan(&input))).await?;
    let turn = turn(cancel).await?;
    let directory = local.cache_dir();
    let cache = GlobalCache::new(&directory).map_err(MicrosandboxError::from)?;
    let known = Known::of(local, references.iter().chain(&tags)).await?;
    let new: Vec<_> = layers.into_iter().filter(|layer| !cache.layer_erofs_path(layer).exists()).collect();
    let loaded = in_archive(&turn, &directory.clone(), cancel, async move {
        let options = ImageLoadOptions { tags, progress: None };
        let loaded = load_archive(&directory, &path, options).await.map_err(MicrosandboxError::from);
        loaded.map_err(|error| Failure::from(error).in_archive(&path))
    })
    .await;
    if loaded.is_err() {
        known.restore().await;
        leftovers::remove_work(&cache);
        let _ = leftovers::remove_layers(local, &cache, &new).await;
    }
    let loaded = loaded?;
    let mut images = Vec::with_capacity(loaded.len());
    for image in loaded {
        Image::persist(local, &image.reference, image.metadata).await?;
        images.push(ImageInfo::of(&Image::get_local(local, &image.reference).await?));
    }
    Ok(images)
}

/// What the cache knows by the names of an archive. The engine tells the cache of each of its images when it has it: when a
/// later one is bad, these names must mean what they did, and what came of the others goes.
struct Known<'a>(Vec<(Target<'a>, Option<CachedImageMetadata>)>);

impl<'a> Known<'a> {
    async fn of(local: &'a LocalBackend, names: impl Iterator<Item = &String>) -> MicrosandboxResult<Self> {
        let mut known = Vec::new();
        for target in names.filter_map(|name| Target::new(local, name.clone()).ok()) {
            let metadata = target.cached().await?;
            known.push((target, metadata));
        }
        Ok(Self(known))
    }

    async fn restore(self) {
        for (target, before) in self.0 {
            let Ok(Some(now)) = target.cached().await else { continue };
            if before.as_ref().is_none_or(|before| before.manifest_digest != now.manifest_digest) {
                // The failure that is told is the archive's.
                let _ = target.forget(now, before).await;
            }
        }
    }
}

async fn save(value: &BackendValue, options: SaveImagesOptions, cancel: &Cancel) -> Result<(), Stop> {
    let local = local(value, Operation::ImageSave)?;
    let SaveImagesOptions { references, path, format } = options;
    let format = if format == "oci" { ImageArchiveFormat::Oci } else { ImageArchiveFormat::Docker };
    for reference in &references {
        parse(reference, "references")?;
    }
    let part = Part::new(path.into())?;
    let (backend, output) = (value.backend.clone(), part.path.clone());
    in_archive(&turn(cancel).await?, &local.cache_dir(), cancel, async move {
        let Some(local) = backend.as_local() else { return Err(local_only("Image.save")) };
        Ok(Image::save_local(local, &references, &output, format).await?)
    })
    .await?;
    Ok(blocking(move || part.publish()).await?)
}

/// A file beside the one that it becomes; gone when it does not.
struct Part {
    path: PathBuf,
    becomes: PathBuf,
}

impl Part {
    fn new(becomes: PathBuf) -> Result<Self, Failure> {
        if becomes.is_dir() {
            return Err(Failure::host_io("create", &becomes, &io::Error::from_raw_os_error(EISDIR)));
        }
        let path = becomes.with_file_name(format!(".{}.part", Uuid::new_v4()));
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        made.map_err(|error| Failure::host_io("create", &becomes, &error))?;
        Ok(Self { path, becomes })
    }

    /// The engine does not see it when the last of its writes fails: what is there is looked at before it gets its name.
    fn publish(self) -> Result<(), Failure> {
        let incomplete = || io::Error::from(io::ErrorKind::WriteZero);
        let complete = || {
            scan(&self.path).map_err(|_| incomplete())?;
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::End(-i64::try_from(TAR_END.len()).unwrap_or(i64::MAX)))?;
            let mut end = TAR_END;
            file.read_exact(&mut end)?;
            file.sync_all()?;
            if end == TAR_END { fs::rename(&self.path, &self.becomes) } else { Err(incomplete()) }
        };
        complete().map_err(|error| Failure::host_io("write", &self.becomes, &error))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Renamed, it is not there.
        let _ = fs::remove_file(&self.path);
    }
}

/// Looks at the headers of an archive: all of each entry is there, and none has a name that leads out of the archive. The
/// engine never uses these names for files, but who makes them means no good. Answers with what it says is in it.
fn scan(path: &Path) -> Result<Contents, Failure> {
    let unopened = |error: io::Error| Failure::host_io("open", path, &error);
    let metadata = fs::metadata(path).map_err(unopened)?;
    let invalid = |why: &str| Failure::archive_invalid(path, why);
    let unreadable = |error: io::Error| Failure::archive_invalid(path, &error.to_string());
    if !metadata.is_file() {
        return Err(invalid("it is not a file"));
    }
    let mut archive = tar::Archive::new(File::open(path).map_err(unopened)?);
    let mut contents = Contents::default();
    for (count, entry) in archive.entries_with_seek().map_err(unreadable)?.enumerate() {
        let mut entry = entry.map_err(unreadable)?;
        let name = entry.path_bytes().into_owned();
        if name.starts_with(b"/") || name.split(|byte| *byte == b'/').any(|part| part == b"..") {
            return Err(invalid(&format!("its entry {:?} leads out of it", String::from_utf8_lossy(&name))));
        }
        if entry.raw_file_position().saturating_add(entry.size()) > metadata.len() {
            return Err(invalid(&format!("it ends within its entry {:?}", String::from_utf8_lossy(&name))));
        }
        if count >= MOST_ENTRIES {
            return Err(invalid(&format!("it has more than {MOST_ENTRIES} entries")));
        }
        let lists = matches!(name.strip_prefix(b"./").unwrap_or(&name), b"manifest.json" | b"index.json");
        let mut json = vec![0];
        if entry.size() > MOST_METADATA || entry.read_exact(&mut json).is_err() {
            continue;
        }
        if !lists && !matches!(json[..], [b'{' | b' ' | b'\t' | b'\r' | b'\n']) {
            continue;
        }
        entry.read_to_end(&mut json).map_err(unreadable)?;
        if lists {
            contents.references.extend(references_in(&json));
        } else {
            contents.layers.extend(layers_in(&json));
        }
    }
    Ok(contents)
}

/// What an archive says is in it.
#[derive(Default)]
struct Contents {
    references: Vec<String>,
    /// What its layers are before they are compressed.
    layers: Vec<Digest>,
}

/// Of an image's configuration, by whatever name it has.
fn layers_in(json: &[u8]) -> Vec<Digest> {
    let Ok(json) = serde_json::from_slice::<Value>(json) else { return Vec::new() };
    let layers = json.get("rootfs").and_then(|root| root.get("diff_ids")).and_then(Value::as_array);
    layers.into_iter().flatten().filter_map(|layer| layer.as_str()?.parse().ok()).collect()
}

/// Of Docker's `manifest.json`, or of the `index.json` of a layout. Both are looked at: the engine takes one of them.
fn references_in(json: &[u8]) -> Vec<String> {
    let Ok(json) = serde_json::from_slice::<Value>(json) else { return Vec::new() };
    let images = json.as_array().or_else(|| json.get("manifests")?.as_array()).into_iter().flatten();
    images
        .flat_map(|image| {
            let tags = image.get("RepoTags").and_then(Value::as_array).into_iter().flatten();
            tags.chain(image.get("annotations").and_then(|all| all.get("org.opencontainers.image.ref.name")))
        })
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// One archive at a time: the engine's files for one are known by this process's id, and those that it leaves when it
/// fails or is dropped are removed here.
static ONE: Mutex<()> = Mutex::const_new(());

type Turn = Arc<MutexGuard<'static, ()>>;

async fn turn(cancel: &Cancel) -> Result<Turn, Stop> {
    cancel.guard(async { Ok::<_, Failure>(Arc::new(ONE.lock().await)) }).await
}

/// Run the engine's work on an archive on a runtime of its own, which ends with it. A thread of the engine that reads or
/// writes cannot be interrupted: a cancel waits for it, and at last leaves it to end by itself, with the turn.
async fn in_archive<T: Send + 'static>(
    turn: &Turn,
    cache: &Path,
    cancel: &Cancel,
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Stop> {
    let threads = Threads::new("msb-archive", THREADS)?;
    let result = cancel.guard(joined(threads.runtime().spawn(work))).await;
    let (turn, failed, files) = (turn.clone(), result.is_err(), cache.join("tmp"));
    let ended = blocking(move || {
        threads.join(LONGEST);
        if failed {
            remove_leftovers(&files, std::process::id());
        }
        drop(turn);
    });
    let _ = tokio::time::timeout(SETTLE, ended).await;
    result
}

/// `load-<number>-<process>-<number>.blob` and `save-<process>-<number>.layer.tar`.
fn remove_leftovers(directory: &Path, process: u32) {
    let is_ours = |name: &str| {
        let parts: Vec<_> = name.split_once('.').map_or("", |(stem, _)| stem).split('-').collect();
        match parts[..] {
            ["load", _, owner, _] | ["save", owner, _] => owner == process.to_string(),
            _ => false,
        }
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_ours) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn archive(directory: &Path, name: &[u8], content: &[u8]) -> PathBuf {
        let path = directory.join("archive.tar");
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut archive = tar::Builder::new(File::create(&path).expect("a file"));
        archive.append(&header, content).expect("an entry");
        archive.finish().expect("an end");
        path
    }

    #[test]
    fn an_archive_that_is_cut_or_leads_out_of_itself_is_invalid() {
        let directory = tempfile::tempdir().expect("a directory");
        let why = |path: &Path| match scan(path) {
            Ok(_) => String::new(),
            Err(Failure::ImageArchiveInvalid { message, .. }) => message,
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(why(&archive(directory.path(), b"./a/..b", b"content")), "");
        for name in [&b"/a"[..], b"..", b"../a", b"a/../../b", b"a/.."] {
            assert!(why(&archive(directory.path(), name, b"content")).contains("leads out of it"), "{name:?}");
        }
        let cut = archive(directory.path(), b"a", &[1; 5000]);
        File::options().write(true).open(&cut).expect("a file").set_len(3000).expect("cut");
        assert!(why(&cut).contains("ends within its entry \"a\""));
        fs::write(&cut, b"no archive, and more than the five hundred and twelve bytes of a header".repeat(20))
            .expect("written");
        assert!(!why(&cut).is_empty());
        assert!(why(directory.path()).contains("not a file"));
        assert!(matches!(scan(&directory.path().join("missing")), Err(Failure::HostIo { errno: Some(2), .. })));
    }

    #[test]
    fn the_references_of_an_archive_are_found() {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, json, expected) in [
            ("manifest.json", r#"[{"RepoTags": ["a:1", "b"]}, {"RepoTags": null}, {"RepoTags": ["c", 1]}]"#, "a:1 b c"),
            (
                "./index.json",
                r#"{"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "a"}}, {}]}"#,
                "a",
            ),
            ("manifest.json", "[", ""),
            ("other.json", r#"[{"RepoTags": ["a"]}]"#, ""),
        ] {
            let path = archive(directory.path(), name.as_bytes(), json.as_bytes());
            assert_eq!(scan(&path).expect("an archive").references.join(" "), expected, "{json}");
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        for (json, expected) in [
            (format!(r#"{{"rootfs": {{"diff_ids": ["{digest}", 1, "x"]}}}}"#), vec![digest.clone()]),
            (format!(r#"["{digest}"]"#), vec![]),
            (r#"{"rootfs": {"diff_ids"#.to_owned(), vec![]),
            (String::new(), vec![]),
        ] {
            let path = archive(directory.path(), b"blobs/sha256/x", json.as_bytes());
            let layers = scan(&path).expect("an archive").layers;
            assert_eq!(layers.iter().map(Digest::to_string).collect::<Vec<_>>(), expected, "{json}");
        }
    }

    #[test]
    fn an_archive_gets_its_name_when_all_of_it_is_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let names = || fs::read_dir(directory.path()).expect("a directory").count();
        let whole = fs::read(archive(directory.path(), b"a", b"content")).expect("an archive");
        let to = directory.path().join("saved.tar");
        let publish = |content: &[u8]| {
            let part = Part::new(to.clone()).expect("a part");
            OpenOptions::new().write(true).open(&part.path).expect("a file").write_all(content).expect("written");
            part.publish()
        };
        publish(&whole).expect("whole");
        assert_eq!(fs::read(&to).expect("saved"), whole);
        // Its last write failed.
        assert!(matches!(publish(&whole[..whole.len() - 512]), Err(Failure::HostIo { .. })));
        assert_eq!(fs::read(&to).expect("saved"), whole);
        drop(Part::new(to.clone()).expect("a part"));
        assert_eq!(names(), 2);
        for place in [directory.path().to_owned(), directory.path().join("missing/saved.tar")] {
            assert!(matches!(Part::new(place), Err(Failure::HostIo { .. })));
        }
    }

    #[test]
    fn what_an_archive_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let kept = ["load-7-8-9.blob", "save-8-7.layer.tar", "load-7.blob", "sha256_7.part", "load-0-7-1", "7"];
        for name in kept.iter().chain(&["load-0-7-1.blob", "save-7-2.layer.tar"]) {
            fs::write(directory.path().join(name), "").expect("written");
        }
        remove_leftovers(directory.path(), 7);
        let mut left: Vec<_> = fs::read_dir(directory.path())
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        left.sort();
        let mut kept = kept.map(str::to_owned);
        kept.sort();
        assert_eq!(left, kept);
        remove_leftovers(&directory.path().join("missing"), 7);
    }
}
