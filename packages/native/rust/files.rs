//! Files of a running sandbox, as `packages/core` makes a file system of them.
//!
//! The guest may be hostile: what it says of itself is bounded here, and nothing that it says is a path on the host.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use microsandbox::protocol::fs::{FsEntryInfo, FsOp, FsOpenOptions, FsResponseData, FsSetAttrs};
use microsandbox::sandbox::Sandbox as EngineSandbox;
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;

use crate::cancel::{Cancel, CancelToken};
use crate::engine::{EngineState, Kind, Live};
use crate::failure::Failure;
use crate::guest::{Guest, GuestFile as OpenFile, INLINE};
use crate::outcome::{Outcome, Stop};
use crate::rooted::How;
use crate::sandbox::{Sandbox, SandboxValue};
use crate::slot::{InEngine, Slot};

/// What one listing may hold: entries, and bytes of their paths.
const ENTRIES: usize = 1_000_000;
const PATHS: usize = 256 << 20;

/// In one crossing of the border; below the 8 MiB that the guest sends ahead.
pub(crate) const CROSSING: usize = 4 << 20;

pub(crate) const BAD_FILE: i32 = 9;
pub(crate) const EXISTS: i32 = 17;
pub(crate) const NOT_DIRECTORY: i32 = 20;
pub(crate) const IS_DIRECTORY: i32 = 21;
pub(crate) const TOO_BIG: i32 = 27;
pub(crate) const LOOP: i32 = 40;
const OVERFLOW: i32 = 75;
pub(crate) const UNSUPPORTED: i32 = 95;

/// The agent's.
const UMASK: u32 = 0o022;

pub(crate) const TYPE_MASK: u32 = 0o170_000;
pub(crate) const CHARACTER_DEVICE: u32 = 0o020_000;
pub(crate) const FIFO: u32 = 0o010_000;

/// The character devices that answer at once.
pub(crate) const PROMPT_DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// What the guest says of a file.
#[napi(object, object_from_js = false)]
pub struct FileInfo {
    /// `file`, `dir`, `symlink` or `other`.
    pub kind: String,
    /// With the bits of the type.
    pub mode: u32,
    pub size: f64,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970; the protocol has no finer ones.
    pub accessed_at: Option<f64>,
    pub modified_at: Option<f64>,
    /// The protocol has none of a guest's file.
    pub node: Option<FileNode>,
}

/// Where a file of this host is kept.
#[napi(object, object_from_js = false)]
pub struct FileNode {
    pub device: u64,
    pub number: u64,
    pub links: u64,
    /// Which device it is, if it is one.
    pub special: u64,
    pub block_size: u64,
    pub blocks: u64,
}

/// An entry of a listing.
#[napi(object, object_from_js = false)]
pub struct FileEntry {
    /// Below the directory that was listed.
    pub path: String,
    pub info: FileInfo,
}

/// What to change of a file; what is absent stays.
#[napi(object, object_to_js = false)]
pub struct FileAttributes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<f64>,
    /// Seconds since 1970.
    pub accessed_at: Option<f64>,
    pub modified_at: Option<f64>,
}

/// How to open a file.
#[napi(object, object_to_js = false)]
pub struct OpenOptions {
    pub flag: String,
    pub mode: Option<u32>,
    /// Refuse a path that is a symbolic link.
    pub no_follow: bool,
}

impl FileInfo {
    #[allow(clippy::cast_precision_loss)] // sizes are exact up to 8 PiB, times far beyond what a date can be
    fn of(info: &FsEntryInfo) -> Self {
        Self {
            kind: info.kind.clone(),
            mode: info.mode,
            size: info.size as f64,
            uid: info.uid,
            gid: info.gid,
            accessed_at: info.atime.map(|seconds| seconds as f64),
            modified_at: info.mtime.or(info.modified).map(|seconds| seconds as f64),
            node: None,
        }
    }
}

impl FileAttributes {
    fn attrs(&self) -> FsSetAttrs {
        FsSetAttrs {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size: self.size.map(whole),
            atime: self.accessed_at.map(seconds),
            mtime: self.modified_at.map(seconds),
        }
    }
}

/// `packages/core` checks the range; what is out of it all the same saturates.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn whole(number: f64) -> u64 {
    number as u64
}

#[allow(clippy::cast_possible_truncation)]
fn seconds(number: f64) -> i64 {
    number.floor() as i64
}

impl OpenOptions {
    pub(crate) fn how(&self) -> Result<How, Failure> {
        let how = How::of(&self.flag).ok_or_else(|| Failure::InvalidConfig {
            message: format!("open flag {:?}", self.flag),
            field: Some("flag".into()),
        })?;
        Ok(How { mode: self.mode, no_follow: self.no_follow, ..how })
    }
}

/// The protocol has no word for a link that is not to be followed.
impl From<How> for FsOpenOptions {
    fn from(How { read, write, append, create, create_new, truncate, mode, no_follow: _ }: How) -> Self {
        Self { read, write, append, create, truncate, create_new, mode }
    }
}

/// The agent opens a directory as a file, and then never answers a read of it.
pub(crate) fn refuse_directory(path: &str, info: Option<&FsEntryInfo>) -> Result<(), Failure> {
    match info {
        Some(info) if info.kind == "dir" => Err(Failure::file_errno(path, IS_DIRECTORY, "it is a directory")),
        _ => Ok(()),
    }
}

pub(crate) fn is_missing(failure: &Failure) -> bool {
    matches!(failure, Failure::FileFailed { errno: Some(2), .. })
}

pub(crate) fn join(directory: &str, name: &str) -> String {
    if directory.ends_with('/') { format!("{directory}{name}") } else { format!("{directory}/{name}") }
}

pub(crate) fn parent(path: &str) -> Option<&str> {
    let path = path.trim_end_matches('/');
    let (parent, name) = path.rsplit_once('/')?;
    if name.is_empty() { None } else { Some(if parent.is_empty() { "/" } else { parent }) }
}

/// The files of one sandbox: the kept connection to its guest, and what it takes to make one.
#[derive(Clone, Copy)]
pub(crate) struct Files<'a> {
    pub(crate) guest: &'a Guest,
    pub(crate) sandbox: &'a EngineSandbox,
}

impl<'a> Files<'a> {
    fn of(value: &'a SandboxValue) -> Self {
        Self { guest: &value.guest, sandbox: &value.sandbox }
    }

    pub(crate) async fn ask(self, path: &str, op: FsOp) -> Result<Option<FsResponseData>, Failure> {
        self.guest.request(self.sandbox, path, &op).await
    }

    pub(crate) async fn stat(self, path: &str, follow: bool) -> Result<FsEntryInfo, Failure> {
        self.guest.stat(self.sandbox, path, follow).await
    }

    pub(crate) async fn path(self, path: &str, op: FsOp) -> Result<String, Failure> {
        match self.ask(path, op).await? {
            Some(FsResponseData::Path(path)) => Ok(path),
            _ => Err(Failure::Protocol { message: "the guest's agent answered without a path".into() }),
        }
    }

    pub(crate) async fn canonical(self, path: &str) -> Result<String, Failure> {
        self.path(path, FsOp::RealPath { path: path.to_owned() }).await
    }

    /// The agent answers for a path that does not exist, as long as its directory does.
    async fn real_path(self, path: &str) -> Result<String, Failure> {
        let (canonical, exists) = tokio::join!(self.canonical(path), self.stat(path, true));
        exists?;
        canonical
    }

    /// The agent opens a file while everything else waits: one that waits for somebody, as a FIFO does, would stop it all.
    pub(crate) async fn refuse_blocking(self, path: &str, info: &FsEntryInfo) -> Result<(), Failure> {
        let blocks = match info.mode & TYPE_MASK {
            FIFO => true,
            CHARACTER_DEVICE => !PROMPT_DEVICES.contains(&self.canonical(path).await?.as_str()),
            _ => false,
        };
        if blocks {
            let text = "a FIFO or a terminal can wait for ever, which stops the guest's agent: use a program for it";
            return Err(Failure::file_errno(path, UNSUPPORTED, text));
        }
        Ok(())
    }

    async fn open(self, path: &str, options: &OpenOptions) -> Result<(OpenFile, Option<FsEntryInfo>), Failure> {
        self.open_as(path, &FsOpenOptions::from(options.how()?), options.no_follow).await
    }

    pub(crate) async fn open_as(
        self,
        path: &str,
        flags: &FsOpenOptions,
        no_follow: bool,
    ) -> Result<(OpenFile, Option<FsEntryInfo>), Failure> {
        let info = match self.stat(path, !no_follow).await {
            Ok(info) if no_follow && info.kind == "symlink" => {
                return Err(Failure::file_errno(path, LOOP, "open: it is a symbolic link"));
            }
            Ok(info) => Some(info),
            // To be made, or to be told by the open.
            Err(failure) if is_missing(&failure) => None,
            Err(failure) => return Err(failure),
        };
        if let Some(info) = &info {
            self.refuse_blocking(path, info).await?;
        }
        Ok((self.guest.open(self.sandbox, path, flags).await?, info))
    }

    async fn read(self, path: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let read = OpenOptions { flag: "r".into(), mode: None, no_follow: false };
        let (file, info) = self.open(path, &read).await?;
        refuse_directory(path, info.as_ref())?;
        let too_big =
            || Failure::file_errno(path, TOO_BIG, &format!("it has more than {limit} bytes: stream it instead"));
        let expected = info.map_or(0, |info| info.size);
        if expected > limit {
            return Err(too_big());
        }
        // What has no size can be one of the kernel's, whose reads may wait for something.
        if (1..INLINE as u64).contains(&expected) {
            let data = file.read_inline().await?;
            if data.len() < INLINE {
                return if data.len() as u64 > limit { Err(too_big()) } else { Ok(data) };
            }
        }
        // One more than is expected, so that a read to the end finds the end.
        let mut data = Vec::with_capacity(usize::try_from(expected).unwrap_or(0).min(CROSSING));
        let mut read = file.read(0, None);
        while let Some(piece) = read.next().await? {
            if (data.len() + piece.len()) as u64 > limit {
                return Err(too_big());
            }
            data.extend_from_slice(&piece);
        }
        Ok(data)
    }

    async fn write(self, path: &str, data: Bytes, options: &OpenOptions) -> Result<(), Failure> {
        let (file, _) = self.open(path, options).await?;
        if options.flag == "r" {
            return Err(Failure::file_errno(path, BAD_FILE, "write: it is open for reading only"));
        }
        // The close is waited for: a program that was just written must not be busy when it is started.
        file.write_all(data).await
    }

    async fn copy_file(self, from: &str, to: &str) -> Result<(), Failure> {
        let (source, target, to_path) = tokio::join!(self.stat(from, true), self.canonical(from), self.canonical(to));
        let source = source?;
        refuse_directory(from, Some(&source))?;
        self.refuse_blocking(from, &source).await?;
        // The agent would empty it first.
        if target.is_ok_and(|target| to_path.is_ok_and(|to| to == target)) {
            return Ok(());
        }
        match self.stat(to, true).await {
            Ok(info) => {
                refuse_directory(to, Some(&info))?;
                self.refuse_blocking(to, &info).await?;
            }
            Err(failure) if is_missing(&failure) => {}
            Err(failure) => return Err(failure),
        }
        self.ask(from, FsOp::Copy { src: from.to_owned(), dst: to.to_owned() }).await.map(|_| ())
    }

    /// The agent makes all directories that are missing, and has nothing against one that is there.
    pub(crate) async fn make_directory(self, path: &str, recursive: bool, mode: Option<u32>) -> Result<(), Failure> {
        // The agent gives it the whole mode, and only what it opens itself its umask.
        let mode = mode.map(|mode| mode & !UMASK);
        match self.stat(path, recursive).await {
            Ok(info) if recursive && info.kind == "dir" => return Ok(()),
            Ok(_) => return Err(Failure::file_errno(path, EXISTS, "mkdir: File exists")),
            Err(failure) if is_missing(&failure) => {}
            Err(failure) => return Err(failure),
        }
        let mut missing = vec![path];
        let mut at = path;
        while let Some(above) = parent(at) {
            match self.stat(above, true).await {
                Ok(info) if info.kind == "dir" => break,
                Ok(_) => return Err(Failure::file_errno(path, NOT_DIRECTORY, "mkdir: Not a directory")),
                Err(failure) if recursive && is_missing(&failure) => {
                    missing.push(above);
                    at = above;
                }
                Err(failure) => return Err(failure),
            }
        }
        for path in missing.into_iter().rev() {
            self.ask(path, FsOp::Mkdir { path: path.to_owned(), mode }).await?;
        }
        Ok(())
    }

    async fn remove(self, path: &str, recursive: bool, force: bool) -> Result<(), Failure> {
        let removed = async {
            let directory = self.stat(path, false).await?.kind == "dir";
            if directory && !recursive {
                return Err(Failure::file(path, "remove: it is a directory".into()));
            }
            let path_owned = path.to_owned();
            let op = if directory {
                FsOp::RemoveDir { path: path_owned, recursive: true }
            } else {
                FsOp::Remove { path: path_owned }
            };
            self.ask(path, op).await.map(|_| ())
        };
        match removed.await {
            Err(failure) if force && is_missing(&failure) => Ok(()),
            removed => removed,
        }
    }

    /// The entries of one directory by their names, in the order of their bytes.
    async fn entries(self, path: &str, room: &mut Room) -> Result<BTreeMap<String, FsEntryInfo>, Failure> {
        let directory = self.guest.open_directory(self.sandbox, path).await?;
        let mut entries = BTreeMap::new();
        loop {
            let batch = directory.next().await?;
            if batch.is_empty() {
                break;
            }
            for info in batch {
                room.take(path, &info)?;
                let name = info.path.rsplit('/').next().unwrap_or_default();
                if !matches!(name, "" | "." | "..") {
                    entries.insert(name.to_owned(), info);
                }
            }
        }
        directory.close().await?;
        Ok(entries)
    }

    /// The entries of a directory and, if asked for, of those below: in the order in which Node has them, each directory's
    /// together and the last found first. A link to a directory is gone into, as Node does.
    async fn list(self, path: &str, recursive: bool) -> Result<Vec<FileEntry>, Failure> {
        let mut room = Room::WHOLE;
        let mut list = Vec::new();
        let mut directories = vec![(String::new(), self.entries(path, &mut room).await?)];
        while let Some((above, entries)) = directories.pop() {
            for (name, info) in entries {
                let below = if above.is_empty() { name } else { join(&above, &name) };
                let full = join(path, &below);
                let enter = recursive
                    && match info.kind.as_str() {
                        "dir" => true,
                        "symlink" => self.stat(&full, true).await.is_ok_and(|target| target.kind == "dir"),
                        _ => false,
                    };
                if enter {
                    directories.push((below.clone(), self.entries(&full, &mut room).await?));
                }
                list.push(FileEntry { path: below, info: FileInfo::of(&info) });
            }
        }
        Ok(list)
    }
}

/// What a listing may still take of this process's memory.
pub(crate) struct Room {
    entries: usize,
    bytes: usize,
}

impl Room {
    pub(crate) const WHOLE: Self = Self { entries: ENTRIES, bytes: PATHS };

    fn take(&mut self, path: &str, info: &FsEntryInfo) -> Result<(), Failure> {
        self.take_bytes(path, info.path.len() + info.kind.len())
    }

    pub(crate) fn take_bytes(&mut self, path: &str, bytes: usize) -> Result<(), Failure> {
        match (self.entries.checked_sub(1), self.bytes.checked_sub(bytes)) {
            (Some(entries), Some(bytes)) => {
                (self.entries, self.bytes) = (entries, bytes);
                Ok(())
            }
            _ => Err(Failure::file_errno(path, OVERFLOW, &format!("it has more than {ENTRIES} entries"))),
        }
    }
}

#[napi]
impl Sandbox {
    /// What the guest says of a file, or of the link itself.
    #[napi(ts_return_type = "Promise<Outcome<FileInfo>>")]
    pub async fn file_stat(&self, path: String, follow: bool, token: &CancelToken) -> napi::Result<Outcome<FileInfo>> {
        let run = |value: Arc<SandboxValue>, cancel: Cancel| async move {
            let info = cancel.guard(Files::of(&value).stat(&path, follow)).await?;
            Ok(FileInfo::of(&info))
        };
        Ok(self.slot.run(token, run).await)
    }

    /// A path without links, of something that exists.
    #[napi(ts_return_type = "Promise<Outcome<string>>")]
    pub async fn file_real_path(&self, path: String, token: &CancelToken) -> napi::Result<Outcome<String>> {
        let run = |value: Arc<SandboxValue>, cancel: Cancel| async move {
            cancel.guard(Files::of(&value).real_path(&path)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Where a link points to.
    #[napi(ts_return_type = "Promise<Outcome<string>>")]
    pub async fn file_read_link(&self, path: String, token: &CancelToken) -> napi::Result<Outcome<String>> {
        let run = |value: Arc<SandboxValue>, cancel: Cancel| async move {
            cancel.guard(Files::of(&value).path(&path, FsOp::ReadLink { path: path.clone() })).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Make a link to whatever `target` is.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_symlink(&self, target: String, path: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<SandboxValue>, cancel: Cancel| async move {
            let op = FsOp::Symlink { target, link_path: path.clone() };
            cancel.guard(Files::of(&value).ask(&path, op)).await.map(|_| ())
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
        let run = |value: Arc<SandboxValue>, cancel: Cancel| async move {
            cancel.guard(Files::of(&value).make_directory(&path, recursive, mode)).await
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
        let run = |value: Arc<SandboxValue>, cancel: Cancel| async move {
            cancel.guard(Files::of(&value).remove(&path, recursive, force)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Rename a file or a directory within the guest.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_rename(&self, from: String, to: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<SandboxValue>, cancel: Cancel| async move {
            let op = FsOp::Rename { src: from.clone(), dst: to };
            cancel.guard(Files::of(&value).ask(&from, op)).await.map(|_| ())
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Copy the content and the mode of a file within the guest.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_copy(&self, from: String, to: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<SandboxValue>, cancel: Cancel| async move {
            cancel.guard(Files::of(&value).copy_file(&from, &to)).await
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
        let run = |value: Arc<SandboxValue>, cancel: Cancel| async move {
            let files = Files::of(&value);
            if attributes.size.is_some() {
                let info = cancel.guard(files.stat(&path, true)).await?;
                cancel.guard(files.refuse_blocking(&path, &info)).await?;
            }
            let op = FsOp::SetStat { path: path.clone(), follow_symlink: true, attrs: attributes.attrs() };
            cancel.guard(files.ask(&path, op)).await.map(|_| ())
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
        let run = |value: Arc<SandboxValue>, cancel: Cancel| async move {
            cancel.guard(Files::of(&value).list(&path, recursive)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// A whole file, if it has no more than `limit` bytes, whatever it says about its size.
    #[napi(ts_return_type = "Promise<Outcome<Buffer>>")]
    pub async fn file_read(&self, path: String, limit: f64, token: &CancelToken) -> napi::Result<Outcome<Buffer>> {
        let run = |value: Arc<SandboxValue>, cancel: Cancel| async move {
            cancel.guard(Files::of(&value).read(&path, whole(limit))).await.map(Buffer::from)
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
        let run = |value: Arc<SandboxValue>, cancel: Cancel| async move {
            cancel.guard(Files::of(&value).write(&path, Bytes::from_owner(data), &options)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Open a file.
    #[napi(ts_return_type = "Promise<Outcome<GuestFile>>")]
    pub async fn file_open(
        &self,
        path: String,
        options: OpenOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<GuestFile>> {
        let run = |value: Arc<SandboxValue>, cancel: Cancel| async move {
            let (file, info) = cancel.guard(Files::of(&value).open(&path, &options)).await?;
            let unreadable = refuse_directory(&path, info.as_ref()).is_err().then_some(path);
            let live = value.live.engine().count(Kind::File);
            Ok(GuestFile {
                slot: Slot::new("file", FileValue { file: tokio::sync::Mutex::new(Some(file)), unreadable, live }),
            })
        };
        Ok(self.slot.run(token, run).await)
    }
}

struct FileValue {
    /// The agent does one thing at a time with a file; `None` when it is closed.
    file: tokio::sync::Mutex<Option<OpenFile>>,
    /// The path of a directory.
    unreadable: Option<String>,
    live: Live,
}

impl InEngine for FileValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

impl FileValue {
    async fn with<T>(&self, ask: impl AsyncFnOnce(&OpenFile) -> Result<T, Failure>) -> Result<T, Failure> {
        match &*self.file.lock().await {
            Some(file) => ask(file).await,
            None => Err(Failure::handle_closed("file")),
        }
    }
}

/// A file that is open in the guest.
#[napi]
pub struct GuestFile {
    slot: Slot<FileValue>,
}

#[napi]
impl GuestFile {
    /// What the guest says of it.
    #[napi(ts_return_type = "Promise<Outcome<FileInfo>>")]
    pub async fn stat(&self, token: &CancelToken) -> napi::Result<Outcome<FileInfo>> {
        let run = |value: Arc<FileValue>, cancel: Cancel| async move {
            let info = cancel.guard(value.with(async |file| file.stat().await)).await?;
            Ok(FileInfo::of(&info))
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Up to `len` bytes at `offset`; fewer at the end of the file, and never more than 4 MiB.
    #[napi(ts_return_type = "Promise<Outcome<Buffer>>")]
    pub async fn read(&self, offset: f64, len: u32, token: &CancelToken) -> napi::Result<Outcome<Buffer>> {
        let run = |value: Arc<FileValue>, cancel: Cancel| async move {
            if let Some(path) = &value.unreadable {
                return Err(Failure::file_errno(path, IS_DIRECTORY, "read: Is a directory").into());
            }
            let len = (len as usize).min(CROSSING);
            let data = cancel.guard(value.with(async |file| file.read_at(whole(offset), len).await)).await?;
            Ok(Buffer::from(data))
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Write all of `data` at `offset`, or at the end when the file was opened for that.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn write(&self, offset: f64, data: Buffer, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<FileValue>, cancel: Cancel| async move {
            let data = Bytes::from_owner(data);
            cancel.guard(value.with(async |file| file.write_at(whole(offset), data).await)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Change what is known of it.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn set(&self, attributes: FileAttributes, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<FileValue>, cancel: Cancel| async move {
            cancel.guard(value.with(async |file| file.set(attributes.attrs()).await)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Close it, and give the handle back.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn close(&self) -> napi::Result<Outcome<()>> {
        let Some(value) = self.slot.take() else { return Ok(Ok(()).into()) };
        let engine = value.live.engine().clone();
        let closed = engine
            .finish(async {
                let file = value.file.lock().await.take();
                let closed = match file {
                    Some(file) => file.close().await,
                    None => Ok(()),
                };
                drop(value);
                closed
            })
            .await;
        Ok(closed.map_err(Stop::Failed).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_above_a_path_is_found_in_its_text() {
        for (path, above) in [("/a/b", Some("/a")), ("/a", Some("/")), ("/a/b/", Some("/a")), ("/", None), ("", None)] {
            assert_eq!(parent(path), above, "{path:?}");
        }
    }

    #[test]
    fn a_listing_takes_no_more_than_its_room() {
        let info = FsEntryInfo {
            path: "/a/b".into(),
            kind: "file".into(),
            size: 0,
            mode: 0,
            modified: None,
            uid: 0,
            gid: 0,
            atime: None,
            mtime: Some(i64::MIN),
        };
        let mut room = Room { entries: 2, bytes: 100 };
        assert!(room.take("/a", &info).is_ok() && room.take("/a", &info).is_ok());
        let refused = room.take("/a", &info);
        assert!(matches!(refused, Err(Failure::FileFailed { errno: Some(OVERFLOW), .. })));
        assert!(Room { entries: 9, bytes: 7 }.take("/a", &info).is_err());
        assert!(FileInfo::of(&info).modified_at.is_some_and(|seconds| seconds < -1e15));
    }

    #[test]
    fn numbers_out_of_range_saturate() {
        assert_eq!((whole(-1.0), whole(f64::NAN), whole(f64::INFINITY)), (0, 0, u64::MAX));
        assert_eq!((seconds(-0.5), seconds(1.9), seconds(f64::NEG_INFINITY)), (-1, 1, i64::MIN));
    }
}
