//! The host's side of a transfer.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::failure::Failure;
use crate::host::{Attributes, HostFolder, Names, Staged};
use crate::outcome::Stop;
use crate::threads::blocking;
use crate::tree::{LinkTarget, Listed, Source, Target, WHOLE};

/// How many entries are looked at in one go.
const BATCH: usize = 256;

/// A file or a tree of the host, to be read.
pub(crate) struct HostSource {
    path: PathBuf,
}

/// A name in an open directory.
#[derive(Clone)]
pub(crate) struct HostPlace {
    folder: Arc<HostFolder>,
    name: OsString,
}

pub(crate) struct HostListing {
    folder: Arc<HostFolder>,
    /// None while they are read, and after the last.
    names: Option<Names>,
}

pub(crate) struct HostFile {
    file: Option<File>,
    /// What was read when it was opened.
    first: Option<Bytes>,
    left: u64,
    path: PathBuf,
}

impl HostSource {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }
}

impl Source for HostSource {
    type Place = HostPlace;
    type Folder = HostListing;
    type File = HostFile;

    async fn root(&self) -> Result<(Attributes, HostPlace), Stop> {
        let path = self.path.clone();
        Ok(blocking(move || {
            let path = path.canonicalize().map_err(|error| Failure::host_io("open", &path, &error))?;
            let (parent, name) = match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => (parent, name),
                _ => (path.as_path(), OsStr::new(".")),
            };
            let place = HostPlace { folder: Arc::new(HostFolder::open(parent)?), name: name.to_owned() };
            match place.folder.look(&place.name)? {
                Some(attributes) => Ok((attributes, place)),
                None => Err(Failure::host_io("open", &path, &std::io::ErrorKind::NotFound.into())),
            }
        })
        .await?)
    }

    async fn enter(&self, place: &HostPlace) -> Result<Option<HostListing>, Stop> {
        let place = place.clone();
        Ok(blocking(move || {
            let Some(folder) = place.folder.enter(&place.name)? else { return Ok::<_, Failure>(None) };
            let names = Some(folder.names()?);
            Ok(Some(HostListing { folder: Arc::new(folder), names }))
        })
        .await?)
    }

    async fn next(&self, listing: &mut HostListing) -> Result<Vec<Listed<HostPlace>>, Stop> {
        let Some(mut names) = listing.names.take() else { return Ok(Vec::new()) };
        let folder = listing.folder.clone();
        let (entries, names) = blocking(move || {
            let mut entries = Vec::new();
            while entries.len() < BATCH {
                let Some(name) = names.next() else { return Ok((entries, None)) };
                match String::from_utf8(name?) {
                    Ok(name) => {
                        if let Some(attributes) = folder.look(&name)? {
                            let place = HostPlace { folder: folder.clone(), name: name.clone().into() };
                            entries.push(Listed::Entry { name, place, attributes });
                        }
                    }
                    Err(error) => {
                        entries.push(Listed::Unnameable(String::from_utf8_lossy(error.as_bytes()).into_owned()));
                    }
                }
            }
            Ok::<_, Failure>((entries, Some(names)))
        })
        .await?;
        listing.names = names;
        Ok(entries)
    }

    async fn leave(&self, _: HostListing) -> Result<(), Stop> {
        Ok(())
    }

    async fn open(&self, place: &HostPlace, limit: Option<u64>) -> Result<Option<HostFile>, Stop> {
        let place = place.clone();
        Ok(blocking(move || {
            let Some(file) = place.folder.open_file(&place.name)? else { return Ok::<_, Failure>(None) };
            let path = place.folder.path_of(&place.name);
            let mut file = HostFile { file: Some(file), first: None, left: limit.unwrap_or(u64::MAX), path };
            file.first = file.chunk()?;
            Ok(Some(file))
        })
        .await?)
    }

    async fn read(&self, file: &mut HostFile) -> Result<Option<Bytes>, Stop> {
        if let Some(first) = file.first.take() {
            return Ok(Some(first));
        }
        if file.file.is_none() {
            return Ok(None);
        }
        let mut moved = HostFile { file: file.file.take(), first: None, left: file.left, path: file.path.clone() };
        let (moved, chunk) = blocking(move || {
            let chunk = moved.chunk();
            (moved, chunk)
        })
        .await;
        *file = moved;
        Ok(chunk?)
    }

    async fn close(&self, _: HostFile) -> Result<(), Stop> {
        Ok(())
    }

    async fn target(&self, place: &HostPlace) -> Result<Option<LinkTarget>, Stop> {
        let place = place.clone();
        let target = blocking(move || place.folder.read_link(&place.name)).await?;
        Ok(target.map(|target| String::from_utf8(target).map_or(LinkTarget::Unnameable, LinkTarget::Text)))
    }
}

impl HostFile {
    /// The next bytes, at most `WHOLE`; the file is given up at its end.
    fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(file) = &mut self.file else { return Ok(None) };
        let most = self.left.min(WHOLE);
        let mut data = Vec::new();
        let read = file.take(most).read_to_end(&mut data).map_err(|error| Failure::host_io("read", &self.path, &error));
        let length = read? as u64;
        self.left -= length;
        if length < most || self.left == 0 {
            self.file = None;
        }
        Ok((length > 0).then(|| data.into()))
    }
}

/// Where a file or a tree is written on the host.
pub(crate) struct HostTarget {
    path: PathBuf,
}

/// A file that is being written. It is never shared: taken while it is away on another thread.
pub(crate) struct HostStaged(Option<Staged>);

impl HostTarget {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }
}

/// The directory that a path is in, made when it is missing: the user has named it, links and all.
fn parent_of(path: &Path) -> Result<Option<(Arc<HostFolder>, String)>, Failure> {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else { return Ok(None) };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).map_err(|error| Failure::host_io("mkdir", parent, &error))?;
    Ok(Some((Arc::new(HostFolder::open(parent)?), name.to_owned())))
}

impl Target for HostTarget {
    type Folder = Arc<HostFolder>;
    type File = HostStaged;

    async fn root(&self) -> Result<Arc<HostFolder>, Stop> {
        let path = self.path.clone();
        Ok(blocking(move || {
            Ok::<_, Failure>(Arc::new(match parent_of(&path)? {
                Some((parent, name)) => parent.make(&name)?,
                None => HostFolder::open(&path)?,
            }))
        })
        .await?)
    }

    async fn parent(&self) -> Result<(Arc<HostFolder>, String), Stop> {
        let path = self.path.clone();
        Ok(blocking(move || {
            parent_of(&path)?
                .ok_or_else(|| Failure::transfer_conflict(&path.display().to_string(), "file", "directory"))
        })
        .await?)
    }

    async fn folder(&self, parent: &Arc<HostFolder>, name: &str) -> Result<Arc<HostFolder>, Stop> {
        let (parent, name) = (parent.clone(), name.to_owned());
        Ok(Arc::new(blocking(move || parent.make(&name)).await?))
    }

    async fn finish(&self, folder: &Arc<HostFolder>, attributes: Attributes) -> Result<(), Stop> {
        if !folder.is_fresh() {
            return Ok(());
        }
        let folder = folder.clone();
        Ok(blocking(move || folder.finish(&attributes)).await?)
    }

    async fn put(
        &self,
        folder: &Arc<HostFolder>,
        name: &str,
        attributes: Attributes,
        data: Vec<Bytes>,
    ) -> Result<(), Stop> {
        let (folder, name) = (folder.clone(), name.to_owned());
        Ok(blocking(move || {
            let mut staged = folder.stage(&name)?;
            for data in data {
                staged.write(&data)?;
            }
            staged.publish(&attributes)
        })
        .await?)
    }

    async fn create(&self, folder: &Arc<HostFolder>, name: &str) -> Result<HostStaged, Stop> {
        let (folder, name) = (folder.clone(), name.to_owned());
        Ok(HostStaged(Some(blocking(move || folder.stage(&name)).await?)))
    }

    async fn write(&self, file: &mut HostStaged, data: Bytes) -> Result<(), Stop> {
        let Some(mut staged) = file.0.take() else { return Err(Stop::Cancelled) };
        let (staged, written) = blocking(move || {
            let written = staged.write(&data);
            (staged, written)
        })
        .await;
        file.0 = Some(staged);
        Ok(written?)
    }

    async fn publish(&self, file: HostStaged, attributes: Attributes) -> Result<(), Stop> {
        let Some(staged) = file.0 else { return Err(Stop::Cancelled) };
        Ok(blocking(move || staged.publish(&attributes)).await?)
    }

    async fn link(&self, folder: &Arc<HostFolder>, name: &str, to: &str) -> Result<(), Stop> {
        let (folder, name, to) = (folder.clone(), name.to_owned(), to.to_owned());
        Ok(blocking(move || folder.link(&name, &to)).await?)
    }

    /// What is not published is gone with its handle.
    async fn clean(&self) {}
}
