//! The guest's side of a transfer: the file protocol of its agent, which acts as root.
//!
//! The agent takes paths, and follows the guest's own links on the way to a name. What that means is the guest's matter:
//! whatever it plants, it is its own files that are read or written. The name itself is never followed below the root.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use microsandbox::protocol::fs::{FsEntryInfo, FsOp, FsOpenOptions, FsResponseData, FsSetAttrs};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::failure::Failure;
use crate::guest::{BulkRead, BulkWrite, Connection, GuestDirectory, GuestFile};
use crate::host::{Attributes, Kind};
use crate::outcome::Stop;
use crate::tree::{LinkTarget, Listed, Source, Target, WHOLE};

/// An agent that does not answer for this long is not waited for.
const STALL: Duration = Duration::from_mins(1);

/// How long a transfer that ends early waits for the guest, to leave nothing in it that is not whole.
const CLEAN: Duration = Duration::from_secs(3);

/// Of a file that nobody has named yet.
const UNFINISHED: u32 = 0o600;

/// Of a directory that is not complete yet.
const INCOMPLETE: u32 = 0o700;

/// The numbers of Linux, which the guest is.
const ENOENT: i32 = 2;
const ENXIO: i32 = 6;
const ENOTDIR: i32 = 20;
const EINVAL: i32 = 22;
const ELOOP: i32 = 40;

/// A connection, for as long as the transfer is not to stop.
struct Agent {
    connection: Arc<Connection>,
    stop: CancellationToken,
}

impl Agent {
    async fn ask<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Stop::Cancelled),
            answer = tokio::time::timeout(STALL, work) => match answer {
                Ok(answer) => answer.map_err(Stop::Failed),
                Err(_) => Err(Failure::agent_timeout(STALL).into()),
            },
        }
    }

    async fn request(&self, path: &str, op: &FsOp) -> Result<Option<FsResponseData>, Stop> {
        self.ask(self.connection.request(path, op)).await
    }

    /// What is at a path, if anything is.
    async fn look(&self, path: &str) -> Result<Option<Attributes>, Stop> {
        let looked = self.ask(self.connection.stat(path, false)).await;
        Ok(still_there(looked, &[ENOENT])?.map(|info| attributes(&info)))
    }
}

/// None for a failure that says that there is no such thing by now.
fn still_there<T>(result: Result<T, Stop>, gone: &[i32]) -> Result<Option<T>, Stop> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Stop::Failed(Failure::FileFailed { errno: Some(errno), .. })) if gone.contains(&errno) => Ok(None),
        Err(stop) => Err(stop),
    }
}

fn attributes(info: &FsEntryInfo) -> Attributes {
    Attributes {
        kind: match info.kind.as_str() {
            "file" => Kind::File,
            "dir" => Kind::Directory,
            "symlink" => Kind::Symlink,
            _ => Kind::Special,
        },
        size: info.size,
        mode: info.mode & 0o777,
        mtime: info.mtime.or(info.modified),
    }
}

fn unexpected(what: &str) -> Stop {
    Failure::Protocol { message: format!("the guest's agent answered {what} with something else") }.into()
}

/// The path of a name in a directory, of which the root is the empty one.
fn join(directory: &str, name: &str) -> String {
    format!("{directory}/{name}")
}

/// The path of a directory as `join` wants it.
fn directory(path: &str) -> &str {
    path.trim_end_matches('/')
}

/// A file or a tree of a guest, to be read.
pub(crate) struct GuestSource {
    agent: Agent,
    path: String,
}

pub(crate) struct GuestListing {
    directory: GuestDirectory,
    path: String,
}

pub(crate) struct GuestRead {
    file: GuestFile,
    read: BulkRead,
    /// It is gathered, and must not hold the shared memory that it arrived in.
    small: bool,
}

impl GuestSource {
    pub(crate) fn new(connection: Arc<Connection>, path: &str, stop: CancellationToken) -> Self {
        Self { agent: Agent { connection, stop }, path: path.to_owned() }
    }
}

impl Source for GuestSource {
    type Place = String;
    type Folder = GuestListing;
    type File = GuestRead;

    async fn root(&self) -> Result<(Attributes, String), Stop> {
        let op = FsOp::RealPath { path: self.path.clone() };
        let Some(FsResponseData::Path(path)) = self.agent.request(&self.path, &op).await? else {
            return Err(unexpected("realpath"));
        };
        let info = self.agent.ask(self.agent.connection.stat(&path, false)).await?;
        Ok((attributes(&info), path))
    }

    async fn enter(&self, path: &String) -> Result<Option<GuestListing>, Stop> {
        let opened = self.agent.ask(self.agent.connection.open_directory(path)).await;
        let opened = still_there(opened, &[ENOENT, ENOTDIR, ELOOP])?;
        Ok(opened.map(|opened| GuestListing { directory: opened, path: directory(path).to_owned() }))
    }

    async fn next(&self, listing: &mut GuestListing) -> Result<Vec<Listed<String>>, Stop> {
        let entries = self.agent.ask(listing.directory.next()).await?;
        Ok(entries.iter().map(|info| listed(&listing.path, info)).collect())
    }

    async fn leave(&self, listing: GuestListing) -> Result<(), Stop> {
        self.agent.ask(listing.directory.close()).await
    }

    async fn open(&self, path: &String, limit: Option<u64>) -> Result<Option<GuestRead>, Stop> {
        let options = FsOpenOptions { read: true, ..FsOpenOptions::default() };
        let opened = self.agent.ask(self.agent.connection.open(path, &options)).await;
        let Some(file) = still_there(opened, &[ENOENT, ENXIO, ENOTDIR, ELOOP])? else { return Ok(None) };
        let read = file.read(0, limit);
        Ok(Some(GuestRead { file, read, small: limit.is_none_or(|limit| limit <= WHOLE) }))
    }

    async fn read(&self, file: &mut GuestRead) -> Result<Option<Bytes>, Stop> {
        let data = self.agent.ask(file.read.next()).await?;
        Ok(data.map(|data| if file.small { Bytes::copy_from_slice(&data) } else { data }))
    }

    async fn close(&self, file: GuestRead) -> Result<(), Stop> {
        self.agent.ask(file.file.close()).await
    }

    async fn target(&self, path: &String) -> Result<Option<LinkTarget>, Stop> {
        let answer = self.agent.request(path, &FsOp::ReadLink { path: path.clone() }).await;
        match still_there(answer, &[ENOENT, ENOTDIR, EINVAL])? {
            None => Ok(None),
            // The agent writes this for what is not UTF-8.
            Some(Some(FsResponseData::Path(to))) if to.contains(char::REPLACEMENT_CHARACTER) => {
                Ok(Some(LinkTarget::Unnameable))
            }
            Some(Some(FsResponseData::Path(to))) => Ok(Some(LinkTarget::Text(to))),
            Some(_) => Err(unexpected("readlink")),
        }
    }
}

/// An entry, by the name that the agent says that it has in this directory. What is no name is for the walk to refuse.
fn listed(directory: &str, info: &FsEntryInfo) -> Listed<String> {
    let name = info.path.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')).unwrap_or(&info.path);
    Listed::Entry { name: name.to_owned(), place: join(directory, name), attributes: attributes(info) }
}

/// Whose the files of an upload are.
#[derive(Clone, Copy, Default)]
pub(crate) struct Owner {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// Where a file or a tree is written in a guest.
pub(crate) struct GuestTarget {
    agent: Agent,
    path: String,
    owner: Owner,
    /// What was begun and is not whole.
    unfinished: Mutex<HashSet<String>>,
}

pub(crate) struct GuestFolder {
    path: String,
    /// It was made by this transfer: nothing is in it that is not ours.
    fresh: bool,
}

pub(crate) struct GuestWrite {
    file: GuestFile,
    write: BulkWrite,
    /// Where it is written, and where it belongs.
    at: String,
    to: String,
}

impl GuestTarget {
    pub(crate) fn new(connection: Arc<Connection>, path: &str, owner: Owner, stop: CancellationToken) -> Self {
        let unfinished = Mutex::default();
        Self { agent: Agent { connection, stop }, path: path.to_owned(), owner, unfinished }
    }

    /// The path as a name in a directory, which is made when it is missing; none for the root.
    async fn named(&self) -> Result<Option<(Arc<GuestFolder>, String)>, Stop> {
        let Some((parent, name)) = directory(&self.path).rsplit_once('/') else { return Ok(None) };
        let parent = directory(parent);
        if !parent.is_empty() {
            self.agent.request(parent, &FsOp::Mkdir { path: parent.to_owned(), mode: None }).await?;
        }
        Ok(Some((Arc::new(GuestFolder { path: parent.to_owned(), fresh: false }), name.to_owned())))
    }

    fn attributes(&self, attributes: Option<Attributes>) -> FsSetAttrs {
        FsSetAttrs {
            mode: attributes.map(|attributes| attributes.mode),
            uid: self.owner.uid,
            gid: self.owner.gid,
            mtime: attributes.and_then(|attributes| attributes.mtime),
            ..FsSetAttrs::default()
        }
    }

    async fn set(&self, path: &str, attributes: Option<Attributes>) -> Result<(), Stop> {
        let attrs = self.attributes(attributes);
        let op = FsOp::SetStat { path: path.to_owned(), follow_symlink: false, attrs };
        self.agent.request(path, &op).await.map(|_| ())
    }

    /// A file or a link can take the place of a file or a link, and of nothing else.
    async fn check_replaceable(&self, path: &str, wanted: Kind) -> Result<(), Stop> {
        match self.agent.look(path).await? {
            None | Some(Attributes { kind: Kind::File | Kind::Symlink, .. }) => Ok(()),
            Some(found) => Err(Failure::transfer_conflict(path, wanted.word(), found.kind.word()).into()),
        }
    }

    /// Where to write what belongs at a path: in a directory of this transfer right there, and elsewhere beside it, so
    /// that what was there stays until it is replaced by a whole.
    async fn begin(&self, folder: &GuestFolder, to: &str, kind: Kind) -> Result<String, Stop> {
        if folder.fresh {
            return Ok(to.to_owned());
        }
        self.check_replaceable(to, kind).await?;
        Ok(join(&folder.path, &format!(".{}.part", Uuid::new_v4().simple())))
    }

    /// Run what makes something at a path. It is not cut short, or nobody could say whether there is something to remove.
    async fn making<T>(&self, at: &str, making: impl Future<Output = Result<T, Failure>>) -> Result<T, Stop> {
        if self.agent.stop.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        self.unfinished.lock().insert(at.to_owned());
        let limit = async {
            tokio::select! {
                () = tokio::time::sleep(STALL) => {}
                () = async {
                    self.agent.stop.cancelled().await;
                    tokio::time::sleep(CLEAN).await;
                } => {}
            }
        };
        let made = tokio::select! {
            biased;
            made = making => made,
            () = limit => return Err(Failure::agent_timeout(STALL).into()),
        };
        if matches!(made, Err(Failure::FileFailed { .. })) {
            // Whatever is there is not ours.
            self.unfinished.lock().remove(at);
        }
        made.map_err(Stop::Failed)
    }

    async fn open_new(&self, at: &str) -> Result<GuestFile, Stop> {
        let mode = Some(UNFINISHED);
        let options = FsOpenOptions { write: true, create_new: true, mode, ..FsOpenOptions::default() };
        self.making(at, self.agent.connection.open(at, &options)).await
    }

    /// Give what was written its name.
    async fn settle(&self, at: &str, to: &str) -> Result<(), Stop> {
        if at != to {
            let op = FsOp::Rename { src: at.to_owned(), dst: to.to_owned() };
            self.agent.request(to, &op).await?;
        }
        self.unfinished.lock().remove(at);
        Ok(())
    }
}

impl Target for GuestTarget {
    type Folder = Arc<GuestFolder>;
    type File = GuestWrite;

    async fn root(&self) -> Result<Arc<GuestFolder>, Stop> {
        match self.named().await? {
            Some((parent, name)) => self.folder(&parent, &name).await,
            None => Ok(Arc::new(GuestFolder { path: String::new(), fresh: false })),
        }
    }

    async fn parent(&self) -> Result<(Arc<GuestFolder>, String), Stop> {
        let named = self.named().await?;
        Ok(named.ok_or_else(|| Failure::transfer_conflict("/", Kind::File.word(), Kind::Directory.word()))?)
    }

    async fn folder(&self, parent: &Arc<GuestFolder>, name: &str) -> Result<Arc<GuestFolder>, Stop> {
        let path = join(&parent.path, name);
        if !parent.fresh {
            match self.agent.look(&path).await?.map(|found| found.kind) {
                None => {}
                Some(Kind::Directory) => return Ok(Arc::new(GuestFolder { path, fresh: false })),
                Some(kind) => {
                    return Err(Failure::transfer_conflict(&path, Kind::Directory.word(), kind.word()).into());
                }
            }
        }
        self.agent.request(&path, &FsOp::Mkdir { path: path.clone(), mode: Some(INCOMPLETE) }).await?;
        Ok(Arc::new(GuestFolder { path, fresh: true }))
    }

    async fn finish(&self, folder: &Arc<GuestFolder>, attributes: Attributes) -> Result<(), Stop> {
        if folder.fresh { self.set(&folder.path, Some(attributes)).await } else { Ok(()) }
    }

    async fn put(
        &self,
        folder: &Arc<GuestFolder>,
        name: &str,
        attributes: Attributes,
        data: Vec<Bytes>,
    ) -> Result<(), Stop> {
        let to = join(&folder.path, name);
        let at = self.begin(folder, &to, Kind::File).await?;
        let file = self.open_new(&at).await?;
        let data = joined(data);
        if !data.is_empty() {
            self.agent.ask(file.write_at(0, data)).await?;
        }
        self.agent.ask(file.set(self.attributes(Some(attributes)))).await?;
        self.agent.ask(file.close()).await?;
        self.settle(&at, &to).await
    }

    async fn create(&self, folder: &Arc<GuestFolder>, name: &str) -> Result<GuestWrite, Stop> {
        let to = join(&folder.path, name);
        let at = self.begin(folder, &to, Kind::File).await?;
        let file = self.open_new(&at).await?;
        let write = self.agent.ask(file.write(0, None)).await?;
        Ok(GuestWrite { file, write, at, to })
    }

    async fn write(&self, file: &mut GuestWrite, data: Bytes) -> Result<(), Stop> {
        self.agent.ask(file.write.send(data)).await
    }

    async fn publish(&self, file: GuestWrite, attributes: Attributes) -> Result<(), Stop> {
        let GuestWrite { file, write, at, to } = file;
        self.agent.ask(write.finish()).await?;
        self.agent.ask(file.set(self.attributes(Some(attributes)))).await?;
        self.agent.ask(file.close()).await?;
        self.settle(&at, &to).await
    }

    async fn link(&self, folder: &Arc<GuestFolder>, name: &str, to: &str) -> Result<(), Stop> {
        let path = join(&folder.path, name);
        let at = self.begin(folder, &path, Kind::Symlink).await?;
        let op = FsOp::Symlink { target: to.to_owned(), link_path: at.clone() };
        self.making(&at, self.agent.connection.request(&at, &op)).await?;
        if self.owner.uid.is_some() || self.owner.gid.is_some() {
            self.set(&at, None).await?;
        }
        self.settle(&at, &path).await
    }

    async fn clean(&self) {
        let mut unfinished: VecDeque<String> = self.unfinished.lock().drain().collect();
        let removing = async {
            while let Some(path) = unfinished.pop_front() {
                // One that is not there is as good.
                let _ = self.agent.connection.request(&path, &FsOp::Remove { path: path.clone() }).await;
            }
        };
        // A guest that does not answer keeps what it has.
        let _ = tokio::time::timeout(CLEAN, removing).await;
    }
}

fn joined(data: Vec<Bytes>) -> Bytes {
    let mut data = data.into_iter();
    match (data.next(), data.len()) {
        (None, _) => Bytes::new(),
        (Some(only), 0) => only,
        (Some(first), _) => {
            let mut all = BytesMut::from(first);
            for next in data {
                all.extend_from_slice(&next);
            }
            all.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::is_component;

    fn name(directory: &str, path: &str) -> (String, String) {
        let info = FsEntryInfo {
            path: path.into(),
            kind: "file".into(),
            size: 0,
            mode: 0o100_644,
            modified: None,
            uid: 0,
            gid: 0,
            atime: None,
            mtime: Some(1),
        };
        match listed(directory, &info) {
            Listed::Entry { name, place, .. } => (name, place),
            Listed::Unnameable(name) => (name, String::new()),
        }
    }

    #[test]
    fn an_entry_is_named_by_what_follows_its_directory() {
        assert_eq!(name("/a/b", "/a/b/c"), ("c".into(), "/a/b/c".into()));
        assert_eq!(name("", "/c"), ("c".into(), "/c".into()));
        assert_eq!(name("/a", "/a/\n ü"), ("\n ü".into(), "/a/\n ü".into()));
    }

    #[test]
    fn an_agent_that_lies_about_where_an_entry_is_names_none() {
        for path in ["/a/b/..", "/a/b/../c", "/etc/passwd", "/a/b", "/a/b/", "/a/b/c/d", "/a/bc", "..", "", "/a/b/c\0"]
        {
            assert!(!is_component(&name("/a/b", path).0), "{path:?}");
        }
    }

    #[test]
    fn pieces_are_joined_in_their_order() {
        for (pieces, whole) in [(&[][..], ""), (&["a"], "a"), (&["a", "b", "c"], "abc")] {
            let pieces = pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
            assert_eq!(joined(pieces), whole.as_bytes());
        }
    }
}
