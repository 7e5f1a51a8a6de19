//! The files of a volume of a control plane: by path, over HTTP, and whole. It has no links, and no owners or modes to set.

use std::sync::Arc;

use bytes::Bytes;
use microsandbox::backend::{Backend as EngineBackend, VolumeBackend};
use microsandbox::sandbox::{FsEntryKind, FsMetadata};
use microsandbox::volume::{VolumeFsReadStream, VolumeFsWriteSink, VolumeHandle};
use microsandbox::{MicrosandboxError, MicrosandboxResult};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::cloud::is_answer;
use crate::failure::Failure;
use crate::files::{FileEntry, FileInfo};
use crate::sandbox::milliseconds_of;

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EBADF: i32 = 9;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;

const TYPE: u32 = 0o170_000;
const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

/// The most entries of a tree, as elsewhere.
const ENTRIES: usize = 1_000_000;

/// One volume and no other of its name.
pub(crate) struct Remote {
    backend: Arc<dyn EngineBackend>,
    /// As the engine addresses a volume by id.
    target: String,
    name: String,
}

/// A path from the root without `.` and `..`, which lead no further than there: a server may take them as they are.
fn place(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn parent(place: &str) -> &str {
    match place.rfind('/') {
        Some(at) if at > 0 => &place[..at],
        _ => "/",
    }
}

/// Where a file comes to be before it takes its place.
fn beside(path: &str) -> String {
    format!("{}.{}", place(path), Uuid::new_v4().simple())
}

fn unsupported(what: &str) -> Failure {
    Failure::Unsupported {
        message: format!("the files of a volume of a control plane have no {what}"),
        operation: "volume.fs".into(),
        reason: "LocalOnly".into(),
        hint: "mount it in a sandbox, and use that sandbox's files".into(),
    }
}

#[allow(clippy::cast_precision_loss)] // sizes are exact up to 8 PiB
fn info_of(metadata: &FsMetadata) -> FileInfo {
    let (kind, bits) = match metadata.kind {
        FsEntryKind::Directory => ("dir", DIRECTORY),
        FsEntryKind::File => ("file", FILE),
        FsEntryKind::Symlink => ("symlink", 0o120_000),
        FsEntryKind::Other => ("other", 0),
    };
    let seconds = |time: Option<chrono::DateTime<chrono::Utc>>| {
        time.map(|time| milliseconds_of(time.timestamp_millis()) / 1000.0)
    };
    FileInfo {
        kind: kind.into(),
        mode: if metadata.mode & TYPE == 0 { metadata.mode | bits } else { metadata.mode },
        size: metadata.size as f64,
        uid: metadata.uid,
        gid: metadata.gid,
        accessed_at: seconds(metadata.accessed),
        modified_at: seconds(metadata.modified),
        node: None,
    }
}

/// Of a file that is not in its place yet.
fn written(size: u64) -> FsMetadata {
    FsMetadata {
        kind: FsEntryKind::File,
        size,
        mode: FILE | 0o644,
        uid: 0,
        gid: 0,
        readonly: false,
        accessed: None,
        modified: None,
        created: None,
    }
}

impl Remote {
    pub(crate) fn of(backend: &Arc<dyn EngineBackend>, volume: &VolumeHandle) -> Option<Self> {
        let target = format!("cloud-id:{}", volume.cloud()?.id);
        Some(Self { backend: backend.clone(), target, name: volume.name().to_owned() })
    }

    fn volumes(&self) -> &dyn VolumeBackend {
        self.backend.volumes()
    }

    fn done<T>(&self, path: &str, done: MicrosandboxResult<T>) -> Result<T, Failure> {
        done.map_err(|error| {
            let errno = match &error {
                // The engine's words for a file that is not there, with a code of the control plane and without.
                MicrosandboxError::SandboxFsOps(_) => ENOENT,
                MicrosandboxError::SandboxNotFound(text) if is_answer(text) => ENOENT,
                MicrosandboxError::CloudHttp { status: 409, .. } => EEXIST,
                MicrosandboxError::CloudHttp { status: 413 | 507, .. } => ENOSPC,
                _ => return Failure::from(error).of_volume(&self.name),
            };
            Failure::file_errno(path, errno, &crate::cloud::scrub(error.to_string()))
        })
    }

    async fn metadata(&self, path: &str) -> Result<FsMetadata, Failure> {
        self.done(path, self.volumes().fs_stat(&self.target, &place(path)).await)
    }

    pub(crate) async fn stat(&self, path: &str) -> Result<FileInfo, Failure> {
        Ok(info_of(&self.metadata(path).await?))
    }

    pub(crate) async fn real_path(&self, path: &str) -> Result<String, Failure> {
        self.metadata(path).await?;
        Ok(place(path))
    }

    async fn exists(&self, path: &str) -> Result<bool, Failure> {
        self.done(path, self.volumes().fs_exists(&self.target, &place(path)).await)
    }

    /// The control plane would make what is missing.
    async fn check_parent(&self, path: &str) -> Result<(), Failure> {
        let place = place(path);
        match parent(&place) {
            "/" => Ok(()),
            above if self.metadata(above).await?.kind == FsEntryKind::Directory => Ok(()),
            above => Err(Failure::file_errno(above, ENOTDIR, "not a directory")),
        }
    }

    pub(crate) async fn make_directory(&self, path: &str, recursive: bool) -> Result<(), Failure> {
        match self.metadata(path).await {
            Ok(there) if recursive && there.kind == FsEntryKind::Directory => return Ok(()),
            Ok(_) => return Err(Failure::file_errno(path, EEXIST, "it exists")),
            Err(Failure::FileFailed { errno: Some(ENOENT), .. }) => {}
            Err(failure) => return Err(failure),
        }
        if !recursive {
            self.check_parent(path).await?;
        }
        self.done(path, self.volumes().fs_mkdir(&self.target, &place(path)).await)
    }

    pub(crate) async fn remove(&self, path: &str, recursive: bool, force: bool) -> Result<(), Failure> {
        let removed = async {
            if self.metadata(path).await?.kind == FsEntryKind::Directory && !recursive {
                return Err(Failure::file_errno(path, EISDIR, "is a directory"));
            }
            self.done(path, self.volumes().fs_remove(&self.target, &place(path), recursive).await)
        };
        match removed.await {
            Err(Failure::FileFailed { errno: Some(ENOENT), .. }) if force => Ok(()),
            removed => removed,
        }
    }

    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        self.metadata(from).await?;
        self.done(from, self.volumes().fs_rename(&self.target, &place(from), &place(to)).await)
    }

    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<(), Failure> {
        self.done(from, self.volumes().fs_copy(&self.target, &place(from), &place(to)).await)
    }

    pub(crate) async fn access(&self, path: &str, writable: bool) -> Result<(), Failure> {
        if self.metadata(path).await?.readonly && writable {
            return Err(Failure::file_errno(path, EACCES, "it is read-only"));
        }
        Ok(())
    }

    pub(crate) async fn list(&self, path: &str, recursive: bool) -> Result<Vec<FileEntry>, Failure> {
        let (root, mut list, mut directories) = (place(path), Vec::new(), vec![String::new()]);
        while let Some(above) = directories.pop() {
            let directory = place(&format!("{root}/{above}"));
            let entries = self.done(path, self.volumes().fs_list(&self.target, &directory).await)?;
            for entry in entries {
                // By its last name, whatever the server says it is below.
                let Some(name) = entry.path.rsplit('/').find(|name| !matches!(*name, "" | "." | "..")) else {
                    continue;
                };
                let below = if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") };
                if recursive && entry.kind == FsEntryKind::Directory {
                    directories.push(below.clone());
                }
                if list.len() == ENTRIES {
                    return Err(Failure::file_errno(path, EFBIG, "it has too many entries for one list"));
                }
                let (size, mode, uid, gid) = (entry.size, entry.mode, entry.uid, entry.gid);
                let (kind, accessed, modified) = (entry.kind, entry.accessed, entry.modified);
                let metadata = FsMetadata { kind, size, mode, uid, gid, accessed, modified, ..written(0) };
                list.push(FileEntry { path: below, info: info_of(&metadata) });
            }
        }
        Ok(list)
    }

    #[allow(clippy::cast_precision_loss)]
    pub(crate) async fn read(&self, path: &str, limit: f64) -> Result<Vec<u8>, Failure> {
        let mut stream = self.stream(path).await?;
        let mut data = Vec::new();
        while let Some(chunk) = self.done(path, stream.recv().await)? {
            data.extend_from_slice(&chunk);
            if data.len() as f64 > limit {
                return Err(Failure::file_errno(path, EFBIG, "it is too big to be held: stream it instead"));
            }
        }
        Ok(data)
    }

    async fn stream(&self, path: &str) -> Result<VolumeFsReadStream, Failure> {
        if self.metadata(path).await?.kind == FsEntryKind::Directory {
            return Err(Failure::file_errno(path, EISDIR, "is a directory"));
        }
        self.done(path, self.volumes().fs_read_stream(&self.target, &place(path)).await)
    }

    /// What a flag asks for, of those that write a file anew.
    async fn check_write(&self, path: &str, flag: &str) -> Result<(), Failure> {
        match flag {
            // Not in one step: who makes it in between loses it.
            "wx" | "wx+" if self.exists(path).await? => return Err(Failure::file_errno(path, EEXIST, "it exists")),
            "w" | "w+" | "wx" | "wx+" => {}
            "r" => return Err(Failure::file_errno(path, EBADF, "it is open for reading")),
            flag => return Err(unsupported(&format!("way to be opened as {flag:?}"))),
        }
        self.check_parent(path).await
    }

    pub(crate) async fn write(&self, path: &str, data: Bytes, flag: &str) -> Result<(), Failure> {
        self.check_write(path, flag).await?;
        self.done(path, self.volumes().fs_write(&self.target, &place(path), data.into()).await)
    }

    async fn put(&self, new: &str, path: &str) -> Result<(), Failure> {
        self.done(path, self.volumes().fs_rename(&self.target, new, &place(path)).await)
    }

    async fn drop_new(&self, new: &str) {
        let _ = self.volumes().fs_remove(&self.target, new, false).await;
    }

    pub(crate) async fn open(self: &Arc<Self>, path: &str, flag: &str) -> Result<RemoteFile, Failure> {
        let way = if flag == "r" {
            Way::Read(Mutex::new(Some(Reading { stream: self.stream(path).await?, at: 0, rest: Bytes::new() })))
        } else {
            if flag.ends_with('+') {
                return Err(unsupported("way to be read and written at once"));
            }
            self.check_write(path, flag).await?;
            // What is written goes beside it: the engine commits whatever was sent, also when its writer fails half way.
            let new = beside(path);
            let sink = self.done(path, self.volumes().fs_write_stream(&self.target, &new).await)?;
            Way::Write(Mutex::new(Some(Writing { sink, at: 0, new })))
        };
        Ok(RemoteFile { remote: self.clone(), path: path.to_owned(), way })
    }

    pub(crate) fn no_links() -> Failure {
        unsupported("links")
    }

    pub(crate) fn no_attributes() -> Failure {
        unsupported("owner, mode, time or size to set")
    }
}

/// A file that is read or written from its beginning to its end.
pub(crate) struct RemoteFile {
    remote: Arc<Remote>,
    path: String,
    way: Way,
}

enum Way {
    /// None while it is read: what is dropped then begins anew.
    Read(Mutex<Option<Reading>>),
    /// None when it is closed.
    Write(Mutex<Option<Writing>>),
}

struct Reading {
    stream: VolumeFsReadStream,
    at: u64,
    rest: Bytes,
}

struct Writing {
    sink: VolumeFsWriteSink,
    at: u64,
    new: String,
}

impl RemoteFile {
    pub(crate) async fn stat(&self) -> Result<FileInfo, Failure> {
        if let Way::Write(writing) = &self.way
            && let Some(state) = &*writing.lock().await
        {
            return Ok(info_of(&written(state.at)));
        }
        self.remote.stat(&self.path).await
    }

    /// A jump begins at the beginning again: the control plane has no way to say from where.
    pub(crate) async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Failure> {
        let Way::Read(reading) = &self.way else {
            return Err(Failure::file_errno(&self.path, EBADF, "it is open for writing"));
        };
        let mut kept = reading.lock().await;
        let mut state = match kept.take() {
            Some(state) if state.at <= offset => state,
            _ => Reading { stream: self.remote.stream(&self.path).await?, at: 0, rest: Bytes::new() },
        };
        let (mut data, end) = (Vec::new(), offset + len as u64);
        while state.at < end {
            if state.rest.is_empty() {
                match self.remote.done(&self.path, state.stream.recv().await)? {
                    Some(chunk) => state.rest = chunk,
                    None => break,
                }
                continue;
            }
            let until = if state.at < offset { offset } else { end };
            let count = usize::try_from(until - state.at).unwrap_or(usize::MAX).min(state.rest.len());
            let piece = state.rest.split_to(count);
            if state.at >= offset {
                data.extend_from_slice(&piece);
            }
            state.at += count as u64;
        }
        *kept = Some(state);
        Ok(data)
    }

    /// At an offset, which must be its end; none says that it is.
    pub(crate) async fn write(&self, offset: Option<u64>, data: Bytes) -> Result<(), Failure> {
        let Way::Write(writing) = &self.way else {
            return Err(Failure::file_errno(&self.path, EBADF, "it is open for reading"));
        };
        let mut kept = writing.lock().await;
        let Some(state) = &mut *kept else {
            return Err(Failure::file_errno(&self.path, EBADF, "it is closed"));
        };
        if offset.is_some_and(|offset| offset != state.at) {
            return Err(unsupported("way to be written elsewhere than at their end"));
        }
        state.at += data.len() as u64;
        if state.sink.write(data).await.is_ok() {
            return Ok(());
        }
        // It only says that nobody listens; why is told at the end.
        let Some(Writing { sink, new, .. }) = kept.take() else { return Ok(()) };
        let why = self.remote.done(&self.path, sink.close().await);
        self.remote.drop_new(&new).await;
        Err(why.err().unwrap_or_else(|| Failure::file_errno(&self.path, EIO, "nobody took what was written")))
    }

    /// What was written is in its place when this answers; or nowhere, when it is not to be kept.
    pub(crate) async fn close(&self, keep: bool) -> Result<(), Failure> {
        let Way::Write(writing) = &self.way else { return Ok(()) };
        let Some(Writing { sink, new, .. }) = writing.lock().await.take() else { return Ok(()) };
        let stored = async {
            self.remote.done(&self.path, sink.close().await)?;
            if keep { self.remote.put(&new, &self.path).await } else { Ok(()) }
        };
        let stored = stored.await;
        if !keep || stored.is_err() {
            self.remote.drop_new(&new).await;
        }
        match stored {
            Err(failure) if keep && !matches!(failure, Failure::FileFailed { .. }) => {
                Err(Failure::file_errno(&self.path, EIO, &format!("it was not stored: {failure:?}")))
            }
            Err(failure) if keep => Err(failure),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_nowhere_above_the_root() {
        for (path, expected) in
            [("", "/"), ("a/b", "/a/b"), ("/a//./b/", "/a/b"), ("/../../a", "/a"), ("a/../b/c/..", "/b")]
        {
            assert_eq!(place(path), expected);
        }
        assert_eq!((parent("/a"), parent("/a/b"), parent("/")), ("/", "/a", "/"));
    }
}
