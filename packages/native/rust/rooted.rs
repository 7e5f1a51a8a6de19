//! A directory of the host as the root of all paths: what a path names is found below it, or not at all.
//!
//! What is in it may be a hostile guest's. A path is gone one name at a time, each in the directory that was opened before
//! it, and the kernel follows no link: links are read here and gone in the same way, from this root where they are
//! absolute. So `..` at the top stays there, and a link that was swapped in is never more than a link. A path means what it
//! means to a process whose root this directory is (`RESOLVE_IN_ROOT` of `openat2`), and not an error where it would lead
//! out (`RESOLVE_BENEATH`): a file system whose paths begin with `/` must take the links that it makes itself. That call
//! itself is Linux's alone and refused in many containers, and does not tell the way that it went. All of it blocks.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    Access, AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, accessat, chownat, fchmod,
    fchown, fstat, ftruncate, futimens, linkat, mkdirat, openat, readlinkat, renameat, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;
use uuid::Uuid;

/// The kernel's own limits on one path.
const PATH: usize = 4096;
const LINKS: usize = 40;

/// Names on the way of one path, those of its links and those that `..` makes it go again too.
const STEPS: usize = 1 << 16;

/// How many directories are open at once while a tree is removed.
const DEEP: usize = 128;

/// What is read or written before a cancel is looked for.
const PIECE: usize = 1 << 20;

/// What one listing may hold: entries, and bytes of their paths.
const ENTRIES: usize = 1_000_000;
const PATHS: usize = 256 << 20;

/// Only who may do what: a file that takes another's place is not setuid because that one was.
const PERMISSIONS: u32 = 0o777;

/// Where the runtime keeps what the guest is told of a file.
const OVERRIDE: &str = "user.msb.override_stat";

/// For a directory that is only gone through.
#[cfg(target_os = "linux")]
const THROUGH: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const THROUGH: OFlags = OFlags::RDONLY;

/// Why something did not work. A cancel is `CANCELED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) errno: Errno,
    pub(crate) why: Option<&'static str>,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self { errno, why: None }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).unwrap_or(Errno::IO).into()
    }
}

const WAITS: Refused = Refused {
    errno: Errno::OPNOTSUPP,
    why: Some("a FIFO, a socket or a device is not opened here: what it does is not known to end"),
};
const IS_DIRECTORY: Refused =
    Refused { errno: Errno::NOTEMPTY, why: Some("it is a directory: remove it with what is in it") };

type Result<T> = std::result::Result<T, Refused>;

/// Asked between two pieces of work that may take long.
pub(crate) type Cancelled<'a> = &'a dyn Fn() -> bool;

fn check(cancelled: Cancelled<'_>) -> Result<()> {
    if cancelled() { Err(Errno::CANCELED.into()) } else { Ok(()) }
}

/// How a file is opened.
#[derive(Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of the kernel's
pub(crate) struct How {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) append: bool,
    pub(crate) create: bool,
    pub(crate) create_new: bool,
    pub(crate) truncate: bool,
    pub(crate) no_follow: bool,
    pub(crate) mode: Option<u32>,
}

impl How {
    pub(crate) const READ: Self = Self {
        read: true,
        write: false,
        append: false,
        create: false,
        create_new: false,
        truncate: false,
        no_follow: false,
        mode: None,
    };

    /// What Node means by a flag; nothing by another word.
    pub(crate) fn of(flag: &str) -> Option<Self> {
        let how = Self::default();
        Some(match flag {
            "r" => Self { read: true, ..how },
            "r+" => Self { read: true, write: true, ..how },
            "w" => Self { write: true, create: true, truncate: true, ..how },
            "w+" => Self { read: true, write: true, create: true, truncate: true, ..how },
            "wx" => Self { write: true, create_new: true, ..how },
            "wx+" => Self { read: true, write: true, create_new: true, ..how },
            "a" => Self { append: true, create: true, ..how },
            "a+" => Self { read: true, append: true, create: true, ..how },
            "ax" => Self { append: true, create_new: true, ..how },
            "ax+" => Self { read: true, append: true, create_new: true, ..how },
            _ => return None,
        })
    }

    fn flags(self) -> OFlags {
        let access = match (self.read, self.write || self.append) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        let mut flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        flags.set(OFlags::APPEND, self.append);
        flags.set(OFlags::CREATE, self.create || self.create_new);
        flags.set(OFlags::EXCL, self.create_new);
        flags.set(OFlags::TRUNC, self.truncate);
        flags
    }
}

/// What to change of a file; what is absent stays. Times are seconds since 1970.
#[derive(Clone, Copy, Default)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed_at: Option<f64>,
    pub(crate) modified_at: Option<f64>,
}

impl Changes {
    fn owner(self) -> Option<(Option<Uid>, Option<Gid>)> {
        // All ones are no id, and leave what is there.
        let known = |id: &u32| *id != u32::MAX;
        let (uid, gid) = (self.uid.filter(known).map(Uid::from_raw), self.gid.filter(known).map(Gid::from_raw));
        (uid.is_some() || gid.is_some()).then_some((uid, gid))
    }

    fn times(self) -> Option<Timestamps> {
        (self.accessed_at.is_some() || self.modified_at.is_some()).then(|| Timestamps {
            last_access: timespec(self.accessed_at),
            last_modification: timespec(self.modified_at),
        })
    }

    /// Make the changes to an open file.
    pub(crate) fn apply(self, file: &File) -> Result<()> {
        if let Some(size) = self.size {
            ftruncate(file, size)?;
        }
        if let Some((uid, gid)) = self.owner() {
            fchown(file, uid, gid)?;
        }
        if let Some(mode) = self.mode {
            fchmod(file, mode_of(mode))?;
        }
        if let Some(times) = self.times() {
            futimens(file, &times)?;
        }
        Ok(())
    }
}

/// To the microsecond, which is what a number of seconds of today can say.
#[allow(clippy::cast_possible_truncation)] // out of range saturates, and the kernel takes it or does not
fn timespec(seconds: Option<f64>) -> Timespec {
    match seconds {
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(seconds) => {
            let micros = ((seconds - seconds.floor()) * 1e6).round() as i64;
            let whole = seconds.floor() as i64;
            Timespec { tv_sec: whole.saturating_add(micros / 1_000_000), tv_nsec: (micros % 1_000_000) * 1000 }
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::unnecessary_cast)] // 16 bits on macOS
fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode((mode & 0o7777) as rustix::fs::RawMode)
}

fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_special(stat: &Stat) -> bool {
    !matches!(kind_of(stat), FileType::RegularFile | FileType::Directory | FileType::Symlink)
}

/// An entry of a listing.
pub(crate) struct Entry {
    /// Below the directory that was listed.
    pub(crate) path: String,
    pub(crate) stat: Stat,
}

/// A directory that no path leaves.
pub(crate) struct Root {
    top: Arc<File>,
}

/// A name in an open directory. It is `.` for the root alone.
struct Place {
    folder: Arc<File>,
    name: Vec<u8>,
    /// The names from the root to the directory: no link is among them.
    above: Vec<Vec<u8>>,
    /// The path says that it is a directory, by a `/` at its end.
    directory: bool,
}

impl Place {
    fn is_root(&self) -> bool {
        self.name == b"."
    }

    /// What is there, and not where it leads.
    fn stat(&self) -> Result<Stat> {
        let stat = statat(&self.folder, &*self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        if self.directory && kind_of(&stat) != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        Ok(stat)
    }

    /// For what would be no directory.
    fn stat_file(&self) -> Result<Option<Stat>> {
        match self.stat() {
            Ok(stat) => Ok(Some(stat)),
            Err(Refused { errno: Errno::NOENT, .. }) if self.directory => Err(Errno::ISDIR.into()),
            Err(Refused { errno: Errno::NOENT, .. }) => Ok(None),
            Err(refused) => Err(refused),
        }
    }

    /// For what is to be made there, or moved.
    fn named(&self) -> Result<&[u8]> {
        if self.is_root() { Err(Errno::BUSY.into()) } else { Ok(&self.name) }
    }
}

/// Put the names of a path on a stack, the first on top, and say whether it names a directory by how it ends.
fn push(pending: &mut Vec<Vec<u8>>, path: &[u8]) -> bool {
    let mut names = path.split(|byte| *byte == b'/').rev();
    let directory = matches!(names.clone().next(), Some(b"" | b"." | b".."));
    pending.extend(names.by_ref().filter(|name| !matches!(*name, b"" | b".")).map(<[u8]>::to_vec));
    directory
}

/// The path above, by its text.
fn parent(path: &str) -> Option<&str> {
    let path = path.trim_end_matches('/');
    let (parent, name) = path.rsplit_once('/')?;
    if name.is_empty() { None } else { Some(if parent.is_empty() { "/" } else { parent }) }
}

fn enter(folder: &File, name: &[u8]) -> Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn temporary_name() -> String {
    format!(".{}.part", Uuid::new_v4().simple())
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() || directory.ends_with('/') {
        format!("{directory}{name}")
    } else {
        format!("{directory}/{name}")
    }
}

impl Root {
    /// The directory itself may be reached through links: it was named by who may name it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { top: Arc::new(openat(CWD, path, flags, Mode::empty())?.into()) })
    }

    /// Where a path leads. Its last name need not exist. Unless `follow`, it may be a link, which is not gone.
    fn find(&self, path: &str, follow: bool) -> Result<Place> {
        if path.is_empty() {
            return Err(Errno::NOENT.into());
        }
        if path.len() >= PATH {
            return Err(Errno::NAMETOOLONG.into());
        }
        let (mut folder, mut above) = (self.top.clone(), Vec::<Vec<u8>>::new());
        let mut pending = Vec::new();
        let mut directory = push(&mut pending, path.as_bytes());
        let (mut links, mut steps) = (0, 0);
        loop {
            steps += 1;
            if steps > STEPS {
                return Err(Errno::LOOP.into());
            }
            let Some(name) = pending.pop() else {
                if above.is_empty() {
                    return Ok(Place { folder, name: b".".to_vec(), above, directory: true });
                }
                // It ended in a directory; its own name is asked for.
                directory = true;
                pending.extend(above.drain(..).rev());
                folder = self.top.clone();
                continue;
            };
            if name == b".." {
                // By what was gone, and not by where the kernel thinks that a directory is now.
                above.pop();
                pending.extend(above.drain(..).rev());
                folder = self.top.clone();
                continue;
            }
            let last = pending.is_empty();
            if last && !follow && !directory {
                return Ok(Place { folder, name, above, directory });
            }
            if !last {
                let flags = THROUGH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(&folder, &*name, flags, Mode::empty()) {
                    Ok(entered) => {
                        folder = Arc::new(entered.into());
                        above.push(name);
                        continue;
                    }
                    // A link, or a file.
                    Err(Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            match readlinkat(&folder, &*name, Vec::new()) {
                Ok(target) => {
                    links += 1;
                    if links > LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let target = target.as_bytes();
                    if target.first() == Some(&b'/') {
                        folder = self.top.clone();
                        above.clear();
                    }
                    directory |= push(&mut pending, target) && last;
                }
                Err(Errno::INVAL | Errno::NOENT) if last => return Ok(Place { folder, name, above, directory }),
                Err(Errno::INVAL) => return Err(Errno::NOTDIR.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    pub(crate) fn stat(&self, path: &str, follow: bool) -> Result<Stat> {
        self.find(path, follow)?.stat()
    }

    /// The path without links of something that exists.
    pub(crate) fn real_path(&self, path: &str) -> Result<String> {
        let place = self.find(path, true)?;
        place.stat()?;
        let mut real = String::new();
        let own = if place.is_root() { None } else { Some(&place.name) };
        for name in place.above.iter().chain(own) {
            real.push('/');
            real.push_str(&String::from_utf8_lossy(name));
        }
        Ok(if real.is_empty() { "/".to_owned() } else { real })
    }

    pub(crate) fn read_link(&self, path: &str) -> Result<String> {
        let place = self.find(path, false)?;
        let target = readlinkat(&place.folder, &*place.name, Vec::new())?;
        Ok(String::from_utf8_lossy(target.as_bytes()).into_owned())
    }

    pub(crate) fn symlink(&self, target: &str, path: &str) -> Result<()> {
        let place = self.find(path, false)?;
        if place.directory {
            place.stat()?;
        }
        Ok(symlinkat(target, &place.folder, &*place.name)?)
    }

    fn make_one(&self, path: &str, mode: Option<u32>) -> Result<()> {
        let place = self.find(path, false)?;
        Ok(mkdirat(&place.folder, &*place.name, mode_of(mode.unwrap_or(0o777)))?)
    }

    /// Make a directory; with `recursive` also those above, and none that is there.
    pub(crate) fn make_directory(&self, path: &str, recursive: bool, mode: Option<u32>) -> Result<()> {
        if !recursive {
            return self.make_one(path, mode);
        }
        let mut missing = Vec::new();
        let mut at = path;
        loop {
            match self.make_one(at, mode) {
                Ok(()) => break,
                Err(Refused { errno: Errno::EXIST, .. }) if self.is_directory(at) => break,
                Err(Refused { errno: Errno::NOENT, .. }) => {
                    missing.push(at);
                    at = parent(at).ok_or(Errno::NOENT)?;
                }
                Err(refused) => return Err(refused),
            }
        }
        for at in missing.into_iter().rev() {
            match self.make_one(at, mode) {
                Err(Refused { errno: Errno::EXIST, .. }) if self.is_directory(at) => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn is_directory(&self, path: &str) -> bool {
        self.stat(path, true).is_ok_and(|stat| kind_of(&stat) == FileType::Directory)
    }

    /// Remove a file or a link; with `recursive` also a directory and all below. With `force` it need not exist.
    pub(crate) fn remove(&self, path: &str, recursive: bool, force: bool, cancelled: Cancelled<'_>) -> Result<()> {
        let removed = self.find(path, false).and_then(|place| {
            let name = place.named()?;
            match kind_of(&place.stat()?) {
                FileType::Directory if !recursive => Err(IS_DIRECTORY),
                FileType::Directory => remove_tree(&place.folder, name, cancelled),
                _ => Ok(unlinkat(&place.folder, name, AtFlags::empty())?),
            }
        });
        match removed {
            Err(Refused { errno: Errno::NOENT, .. }) if force => Ok(()),
            removed => removed,
        }
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.find(from, false)?, self.find(to, false)?);
        let (old, new) = (from.named()?, to.named()?);
        let stat = from.stat()?;
        if to.directory && kind_of(&stat) != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        Ok(renameat(&from.folder, old, &to.folder, new)?)
    }

    /// A second name for a file, or for a link itself.
    pub(crate) fn link(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.find(from, false)?, self.find(to, false)?);
        from.stat()?;
        to.stat_file()?;
        Ok(linkat(&from.folder, &*from.name, &to.folder, &*to.name, AtFlags::empty())?)
    }

    /// Open a file, or a directory to be looked at. Nothing that could wait for somebody is opened.
    pub(crate) fn open_file(&self, path: &str, how: How) -> Result<(File, Stat)> {
        let place = self.find(path, !(how.no_follow || how.create_new))?;
        let creates = how.create || how.create_new;
        match place.stat_file() {
            Ok(Some(stat)) if is_special(&stat) && !how.create_new => return Err(WAITS),
            Ok(Some(_)) => {}
            Ok(None) if creates => {}
            Ok(None) => return Err(Errno::NOENT.into()),
            Err(Refused { errno: Errno::ISDIR, .. }) if !creates => return Err(Errno::NOENT.into()),
            Err(refused) => return Err(refused),
        }
        let file: File = match openat(&place.folder, &*place.name, how.flags(), mode_of(how.mode.unwrap_or(0o666))) {
            Ok(file) => file.into(),
            // A FIFO that was swapped in.
            Err(Errno::NXIO) => return Err(WAITS),
            Err(Errno::MLINK) => return Err(Errno::LOOP.into()),
            Err(errno) => return Err(errno.into()),
        };
        let stat = fstat(&file)?;
        if is_special(&stat) { Err(WAITS) } else { Ok((file, stat)) }
    }

    /// A whole file, if it has no more than `limit` bytes.
    pub(crate) fn read(&self, path: &str, limit: u64, cancelled: Cancelled<'_>) -> Result<Vec<u8>> {
        const MORE: Refused = Refused { errno: Errno::FBIG, why: Some("it is too big to be held: stream it instead") };
        let (file, stat) = self.open_file(path, How::READ)?;
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        if kind_of(&stat) == FileType::RegularFile && size > limit {
            return Err(MORE);
        }
        let mut data = Vec::new();
        loop {
            check(cancelled)?;
            let read = (&file).take(PIECE as u64).read_to_end(&mut data)?;
            if data.len() as u64 > limit {
                return Err(MORE);
            }
            if read < PIECE {
                return Ok(data);
            }
        }
    }

    /// Write a whole file. When it is cancelled, a part of it may be written.
    pub(crate) fn write(&self, path: &str, data: &[u8], how: How, cancelled: Cancelled<'_>) -> Result<()> {
        let (mut file, _) = self.open_file(path, how)?;
        if !(how.write || how.append) {
            return Err(Errno::BADF.into());
        }
        write_all(&mut file, data, cancelled)
    }

    /// Begin a file in the place of another. Without a mode it gets that of the other.
    pub(crate) fn replace(&self, path: &str, mode: Option<u32>) -> Result<Replacement> {
        let place = self.find(path, true)?;
        place.stat_replaced()?;
        let staged = Staged::make(&place.folder, mode.unwrap_or(0o666))?;
        Ok(Replacement { place, mode, staged })
    }

    /// Copy the content and the mode of a file over another, or to where there is none.
    pub(crate) fn copy_file(&self, from: &str, to: &str, cancelled: Cancelled<'_>) -> Result<()> {
        let (mut source, stat) = self.open_file(from, How::READ)?;
        if kind_of(&stat) == FileType::Directory {
            return Err(Errno::ISDIR.into());
        }
        #[allow(clippy::useless_conversion)] // 16 bits on macOS
        let mode = u32::from(stat.st_mode);
        let how = How { write: true, create: true, mode: Some(mode), ..How::default() };
        let (mut target, there) = self.open_file(to, how)?;
        if (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino) {
            return Ok(());
        }
        ftruncate(&target, 0)?;
        fchmod(&target, mode_of(mode))?;
        let mut piece = vec![0; PIECE];
        loop {
            check(cancelled)?;
            let read = source.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            target.write_all(&piece[..read])?;
        }
    }

    /// Change what is known of what a path leads to.
    pub(crate) fn set(&self, path: &str, changes: Changes) -> Result<()> {
        if changes.size.is_some() {
            let (file, _) = self.open_file(path, How { write: true, ..How::default() })?;
            return changes.apply(&file);
        }
        let place = self.find(path, true)?;
        place.stat()?;
        if let Some((uid, gid)) = changes.owner() {
            chownat(&place.folder, &*place.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(mode) = changes.mode {
            place.set_mode(mode)?;
        }
        if let Some(times) = changes.times() {
            utimensat(&place.folder, &*place.name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Whether this process may read and write what a path leads to.
    pub(crate) fn access(&self, path: &str, readable: bool, writable: bool) -> Result<()> {
        let place = self.find(path, true)?;
        place.stat()?;
        let mut wanted = Access::EXISTS;
        wanted.set(Access::READ_OK, readable);
        wanted.set(Access::WRITE_OK, writable);
        Ok(accessat(&place.folder, &*place.name, wanted, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The entries of a directory and, if asked for, of those below: in the order in which Node has them, each directory's
    /// together and the last found first. A link to a directory is gone into, as Node does.
    pub(crate) fn list(&self, path: &str, recursive: bool, cancelled: Cancelled<'_>) -> Result<Vec<Entry>> {
        let mut room = (ENTRIES, PATHS);
        let mut list = Vec::new();
        let mut directories = vec![(String::new(), self.entries(path, &mut room, cancelled)?)];
        while let Some((above, entries)) = directories.pop() {
            for (name, stat) in entries {
                check(cancelled)?;
                let below = join(&above, &name);
                let full = join(path, &below);
                let enter = recursive
                    && match kind_of(&stat) {
                        FileType::Directory => true,
                        FileType::Symlink => self.is_directory(&full),
                        _ => false,
                    };
                if enter {
                    directories.push((below.clone(), self.entries(&full, &mut room, cancelled)?));
                }
                list.push(Entry { path: below, stat });
            }
        }
        Ok(list)
    }

    /// The entries of one directory, in the order of their names. A name that is no text is told as Node tells it.
    fn entries(&self, path: &str, room: &mut (usize, usize), cancelled: Cancelled<'_>) -> Result<Vec<(String, Stat)>> {
        const FULL: Refused = Refused { errno: Errno::OVERFLOW, why: Some("it has too many entries for one list") };
        let place = self.find(path, true)?;
        place.stat()?;
        let Some(folder) = enter(&place.folder, &place.name)? else { return Err(Errno::NOTDIR.into()) };
        let names = Dir::read_from(&folder)?;
        let mut entries = Vec::new();
        for entry in names {
            check(cancelled)?;
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let Ok(stat) = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let (Some(count), Some(bytes)) = (room.0.checked_sub(1), room.1.checked_sub(path.len() + name.len()))
            else {
                return Err(FULL);
            };
            *room = (count, bytes);
            entries.push((String::from_utf8_lossy(name).into_owned(), stat));
        }
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(entries)
    }

    /// Leave no directory so deep below others that a recursive program could not remove it: those are moved up. The
    /// standard library's removal, which is the engine's, goes one frame deeper with each, and ends the process.
    pub(crate) fn flatten(&self, cancelled: Cancelled<'_>) -> Result<()> {
        thin(&self.top, false, cancelled).map(|_| ())
    }
}

impl Place {
    /// What is there, if it may be replaced by a file.
    fn stat_replaced(&self) -> Result<Option<Stat>> {
        let old = self.stat_file()?;
        match old.as_ref().map(kind_of) {
            None | Some(FileType::RegularFile) => Ok(old),
            Some(FileType::Directory) => Err(Errno::ISDIR.into()),
            Some(_) => Err(WAITS),
        }
    }

    /// Give a file what another has that it takes the place of: its owner as far as that may be, its permissions, and what
    /// a guest is told of it.
    fn keep_attributes(&self, old: &Stat, file: &File) -> Result<()> {
        let owner = Changes { uid: Some(old.st_uid), gid: Some(old.st_gid), ..Changes::default() };
        // Only root may give a file away.
        let _ = owner.apply(file);
        #[allow(clippy::useless_conversion)] // 16 bits on macOS
        fchmod(file, mode_of(u32::from(old.st_mode) & PERMISSIONS))?;
        if let Ok(source) = openat(&self.folder, &*self.name, How::READ.flags(), Mode::empty()) {
            use xattr::FileExt as _;
            let source = File::from(source);
            // A file system without attributes has none to keep.
            if let Ok(Some(value)) = source.get_xattr(OsStr::from_bytes(OVERRIDE.as_bytes())) {
                let _ = file.set_xattr(OVERRIDE, &value);
            }
        }
        Ok(())
    }

    /// By a descriptor of the thing itself: Linux has no call for it that follows no link.
    #[cfg(target_os = "linux")]
    fn set_mode(&self, mode: u32) -> Result<()> {
        use std::os::fd::AsRawFd;
        let file = openat(&self.folder, &*self.name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if kind_of(&fstat(&file)?) == FileType::Symlink {
            return Err(Errno::LOOP.into());
        }
        Ok(rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode_of(mode))?)
    }

    #[cfg(not(target_os = "linux"))]
    fn set_mode(&self, mode: u32) -> Result<()> {
        Ok(rustix::fs::chmodat(&self.folder, &*self.name, mode_of(mode), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Up to `len` bytes at `offset`; fewer at the end of the file.
pub(crate) fn read_at(file: &File, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut data = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut data[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    data.truncate(done);
    Ok(data)
}

/// Write all of `data` at `offset`, or at the end when the file was opened for that.
pub(crate) fn write_at(file: &File, offset: u64, data: &[u8], append: bool) -> Result<()> {
    if append {
        return Ok((&*file).write_all(data)?);
    }
    Ok(file.write_all_at(data, offset)?)
}

fn write_all(file: &mut File, data: &[u8], cancelled: Cancelled<'_>) -> Result<()> {
    for piece in data.chunks(PIECE) {
        check(cancelled)?;
        file.write_all(piece)?;
    }
    Ok(())
}

/// A whole file that takes the place of another in one step: whoever looks sees all of the old one or all of the new one.
/// Dropped before that, it leaves the old one.
pub(crate) struct Replacement {
    place: Place,
    mode: Option<u32>,
    staged: Staged,
}

impl Replacement {
    /// Write more of it.
    pub(crate) fn write(&mut self, data: &[u8], cancelled: Cancelled<'_>) -> Result<()> {
        write_all(&mut self.staged.file, data, cancelled)
    }

    /// Put it in its place. It is on the disk by then.
    pub(crate) fn publish(self, cancelled: Cancelled<'_>) -> Result<()> {
        let Self { place, mode, staged } = self;
        if let (Some(old), None) = (place.stat_replaced()?, mode) {
            place.keep_attributes(&old, &staged.file)?;
        }
        staged.file.sync_all()?;
        check(cancelled)?;
        staged.publish(&place.name)?;
        // It is in its place by now; that its name is on the disk too is as good as the disk.
        if let Ok(Some(folder)) = enter(&place.folder, b".") {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

/// A file that nobody sees under a name of theirs. It is gone when it is dropped before it is published.
struct Staged {
    folder: Arc<File>,
    name: Option<String>,
    file: File,
}

impl Staged {
    fn make(folder: &Arc<File>, mode: u32) -> Result<Self> {
        let name = temporary_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(folder, &*name, flags, mode_of(mode))?;
        Ok(Self { folder: folder.clone(), name: Some(name), file: file.into() })
    }

    fn publish(mut self, name: &[u8]) -> Result<()> {
        if let Some(temporary) = &self.name {
            renameat(&self.folder, &**temporary, &self.folder, name)?;
        }
        self.name = None;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            // Nothing can be done where this fails: the directory is gone, or the disk.
            let _ = unlinkat(&self.folder, &*name, AtFlags::empty());
        }
    }
}

fn remove_tree(folder: &File, name: &[u8], cancelled: Cancelled<'_>) -> Result<()> {
    loop {
        let Some(top) = enter(folder, name)? else { return Err(Errno::NOTDIR.into()) };
        let removed_some = thin(&top, true, cancelled)?;
        match unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if removed_some => {}
            removed => return Ok(removed?),
        }
    }
}

/// Go through a tree once, never more than `DEEP` directories deep: those below are moved up into `top`, and gone through
/// after the others. With `remove`, all on the way is removed. Answers whether anything was.
fn thin(top: &File, remove: bool, cancelled: Cancelled<'_>) -> Result<bool> {
    struct Level {
        folder: File,
        names: Dir,
        name: Vec<u8>,
    }
    let mut removed = false;
    let mut moved = Vec::<Vec<u8>>::new();
    let mut levels = vec![Level { folder: top.try_clone()?, names: Dir::read_from(top)?, name: Vec::new() }];
    loop {
        check(cancelled)?;
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { return Ok(removed) };
        let Some(entry) = level.names.next() else {
            if depth == 1
                && let Some(name) = moved.pop()
            {
                if let Some(folder) = enter(top, &name)? {
                    levels.push(Level { names: Dir::read_from(&folder)?, folder, name });
                }
                continue;
            }
            let done = levels.pop();
            if let (true, Some(done), Some(above)) = (remove, done, levels.last()) {
                match unlinkat(&above.folder, &*done.name, AtFlags::REMOVEDIR) {
                    Ok(()) => removed = true,
                    // Something was written meanwhile.
                    Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            continue;
        };
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match statat(&level.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => kind_of(&stat),
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            },
            kind => kind,
        };
        if kind != FileType::Directory {
            if remove {
                match unlinkat(&level.folder, name, AtFlags::empty()) {
                    Ok(()) => removed = true,
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        } else if depth == DEEP {
            let new = temporary_name();
            renameat(&level.folder, name, top, &*new)?;
            moved.push(new.into_bytes());
        } else if depth == 1 && moved.iter().any(|moved| moved == name) {
            // Its turn comes.
        } else if let Some(folder) = enter(&level.folder, name)? {
            let names = Dir::read_from(&folder)?;
            levels.push(Level { folder, names, name: name.to_vec() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const NEVER: Cancelled<'static> = &|| false;

    /// A root, and a directory beside it that nothing may see.
    struct Beside {
        place: tempfile::TempDir,
        root: Root,
    }

    impl Beside {
        fn new() -> Self {
            let place = tempfile::tempdir().expect("a directory");
            for name in ["root", "outside"] {
                fs::create_dir(place.path().join(name)).expect("mkdir");
            }
            fs::write(place.path().join("outside/secret"), "secret").expect("write");
            let root = Root::open(&place.path().join("root")).expect("open");
            Self { place, root }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.place.path().join("root").join(name)
        }

        fn outside(&self) -> PathBuf {
            self.place.path().join("outside")
        }

        fn write(&self, path: &str, data: &str) -> Result<()> {
            let how = How { write: true, create: true, truncate: true, ..How::default() };
            self.root.write(path, data.as_bytes(), how, NEVER)
        }

        fn write_atomic(&self, path: &str, data: &[u8], mode: Option<u32>, cancelled: Cancelled<'_>) -> Result<()> {
            let mut new = self.root.replace(path, mode)?;
            new.write(data, cancelled)?;
            new.publish(cancelled)
        }

        fn read(&self, path: &str) -> Result<String> {
            self.root.read(path, 1 << 20, NEVER).map(|data| String::from_utf8(data).expect("text"))
        }

        fn listed(&self, path: &str) -> Vec<String> {
            let list = self.root.list(path, true, NEVER).expect("list");
            list.into_iter().map(|entry| entry.path).collect()
        }

        /// What is outside is as it was.
        fn check(&self) {
            let names: Vec<_> =
                fs::read_dir(self.outside()).expect("read").map(|entry| entry.expect("entry")).collect();
            assert_eq!(names.len(), 1);
            assert_eq!(fs::read(self.outside().join("secret")).expect("read"), b"secret");
            let beside: Vec<_> = fs::read_dir(self.place.path()).expect("read").collect();
            assert_eq!(beside.len(), 2);
        }
    }

    fn errno<T>(result: Result<T>) -> Option<Errno> {
        result.err().map(|refused| refused.errno)
    }

    #[test]
    fn what_is_above_the_root_is_the_root() {
        let there = Beside::new();
        there.write("/../../a", "a").expect("write");
        assert_eq!(there.read("a").expect("read"), "a");
        assert_eq!(errno(there.root.make_directory("/b/../c", false, None)), Some(Errno::NOENT));
        there.root.make_directory("b", false, None).expect("mkdir");
        there.root.make_directory("/b/../../c/d", true, None).expect("mkdir");
        assert_eq!(there.listed("/"), ["a", "b", "c", "c/d"]);
        assert_eq!(there.root.real_path("/c/d/../../../..").expect("real"), "/");
        assert_eq!(there.root.real_path("b/../c/./d/").expect("real"), "/c/d");
        assert_eq!(errno(there.read("../outside/secret")), Some(Errno::NOENT));
        // The engine's own check takes a first name that is missing for a reason to look no further.
        assert_eq!(errno(there.write("nope/../../../outside/new", "x")), Some(Errno::NOENT));
        there.check();
    }

    #[test]
    fn a_link_leads_from_the_root_and_never_out() {
        let there = Beside::new();
        let outside = there.outside();
        symlink(&outside, there.at("absolute")).expect("symlink");
        symlink("../outside", there.at("up")).expect("symlink");
        symlink("../../../../../../proc/self/root", there.at("proc")).expect("symlink");
        symlink("/", there.at("top")).expect("symlink");
        symlink(".", there.at("here")).expect("symlink");
        symlink("loop", there.at("loop")).expect("symlink");
        there.write("file", "ours").expect("write");
        for name in ["absolute", "up", "proc"] {
            for path in [format!("{name}/secret"), format!("{name}/../secret"), name.to_owned()] {
                assert!(there.read(&path).is_err(), "{path}");
                assert!(there.root.list(&path, true, NEVER).is_err(), "{path}");
                assert!(there.root.stat(&path, true).is_err(), "{path}");
            }
            assert!(there.write(&format!("{name}/new"), "x").is_err());
            assert!(there.root.make_directory(&format!("{name}/new"), false, None).is_err());
            assert!(there.root.rename("file", &format!("{name}/new")).is_err());
            assert!(there.root.link("file", &format!("{name}/new")).is_err());
            assert!(there.root.set(name, Changes { mode: Some(0o777), ..Changes::default() }).is_err());
        }
        assert_eq!(there.read("top/here/top/file").expect("read"), "ours");
        assert_eq!(there.root.real_path("top/here/.").expect("real"), "/");
        assert_eq!(errno(there.read("loop")), Some(Errno::LOOP));
        // A link that leads nowhere makes what it names: inside.
        symlink("/etc-of-the-volume", there.at("dangling")).expect("symlink");
        there.write("dangling", "inside").expect("write");
        assert_eq!(fs::read(there.at("etc-of-the-volume")).expect("read"), b"inside");
        // To remove is to remove the link.
        for name in ["absolute", "up", "top"] {
            there.root.remove(name, true, false, NEVER).expect(name);
        }
        assert_eq!(there.read("file").expect("read"), "ours");
        there.check();
    }

    #[test]
    fn a_directory_that_is_swapped_for_a_link_is_never_gone_out_by() {
        let there = Beside::new();
        let stopped = AtomicBool::new(false);
        fs::create_dir(there.at("way")).expect("mkdir");
        symlink("../outside", there.at("link")).expect("symlink");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stopped.load(Ordering::Relaxed) {
                    fs::rename(there.at("way"), there.at("aside")).expect("rename");
                    fs::rename(there.at("link"), there.at("way")).expect("rename");
                    fs::rename(there.at("way"), there.at("link")).expect("rename");
                    fs::rename(there.at("aside"), there.at("way")).expect("rename");
                }
            });
            for round in 0..5_000 {
                assert!(there.read("way/secret").is_err());
                let _ = there.write("way/new", "x");
                if round % 100 == 0 {
                    // It waits for the disk.
                    let _ = there.write_atomic("way/atomic", b"x", None, NEVER);
                }
                let _ = there.root.set("way/new", Changes { mode: Some(0o600), ..Changes::default() });
                let _ = there.root.remove("way/new", true, true, NEVER);
            }
            stopped.store(true, Ordering::Relaxed);
        });
        there.check();
    }

    #[test]
    fn what_could_wait_for_somebody_is_not_opened() {
        let there = Beside::new();
        rustix::fs::mknodat(CWD, there.at("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("mkfifo");
        let socket = std::os::unix::net::UnixListener::bind(there.at("socket")).expect("bind");
        there.write("file", "").expect("write");
        for name in ["fifo", "socket"] {
            assert_eq!(there.read(name), Err(WAITS), "{name}");
            assert_eq!(there.write(name, "x"), Err(WAITS), "{name}");
            assert_eq!(there.write_atomic(name, b"x", None, NEVER), Err(WAITS), "{name}");
            assert_eq!(there.root.copy_file(name, "copy", NEVER), Err(WAITS), "{name}");
            assert_eq!(there.root.copy_file("file", name, NEVER), Err(WAITS), "{name}");
            assert_eq!(there.root.set(name, Changes { size: Some(0), ..Changes::default() }), Err(WAITS), "{name}");
            there.root.set(name, Changes { mode: Some(0o640), ..Changes::default() }).expect(name);
            assert_eq!(there.root.stat(name, true).expect(name).st_mode & 0o777, 0o640, "{name}");
            there.root.remove(name, false, false, NEVER).expect(name);
        }
        assert_eq!(there.listed("/"), ["file"]);
        drop(socket);
    }

    #[test]
    fn a_file_is_replaced_in_one_step_or_not_at_all() {
        let there = Beside::new();
        there.write_atomic("file", b"first", Some(0o640), NEVER).expect("write");
        assert_eq!(fs::metadata(there.at("file")).expect("stat").mode() & 0o7777, 0o640);
        xattr::set(there.at("file"), OVERRIDE, b"what a guest is told").expect("xattr");
        fs::set_permissions(there.at("file"), fs::Permissions::from_mode(0o4751)).expect("chmod");
        let before = fs::metadata(there.at("file")).expect("stat").ino();
        there.write_atomic("file", b"second", None, NEVER).expect("write");
        let after = fs::metadata(there.at("file")).expect("stat");
        assert_ne!(after.ino(), before);
        assert_eq!(after.mode() & 0o7777, 0o751);
        let kept = xattr::get(there.at("file"), OVERRIDE).expect("xattr");
        assert_eq!(kept.as_deref(), Some(&b"what a guest is told"[..]));
        // A link stays one, and what it leads to is replaced.
        symlink("file", there.at("link")).expect("symlink");
        there.write_atomic("link", b"third", None, NEVER).expect("write");
        assert!(fs::symlink_metadata(there.at("link")).expect("stat").is_symlink());
        assert_eq!(there.read("file").expect("read"), "third");
        // Cancelled after its first piece, it leaves what there was, and nothing beside it.
        let asked = AtomicBool::new(false);
        let second = || asked.swap(true, Ordering::Relaxed);
        let large = vec![1; 2 * PIECE];
        assert_eq!(errno(there.write_atomic("file", &large, None, &second)), Some(Errno::CANCELED));
        asked.store(false, Ordering::Relaxed);
        assert_eq!(errno(there.write_atomic("new", &large, None, &second)), Some(Errno::CANCELED));
        assert_eq!(there.read("file").expect("read"), "third");
        there.root.make_directory("directory", false, None).expect("mkdir");
        for path in ["directory", "directory/", "new/", "/"] {
            assert_eq!(errno(there.write_atomic(path, b"x", None, NEVER)), Some(Errno::ISDIR), "{path}");
        }
        assert_eq!(there.listed("/"), ["directory", "file", "link"]);
    }

    #[test]
    fn a_path_that_ends_in_a_slash_names_a_directory() {
        let there = Beside::new();
        there.write("file", "").expect("write");
        there.root.make_directory("a/", false, None).expect("mkdir");
        symlink("a", there.at("link")).expect("symlink");
        assert_eq!(errno(there.root.stat("file/", true)), Some(Errno::NOTDIR));
        assert_eq!(errno(there.root.stat("file/.", false)), Some(Errno::NOTDIR));
        assert_eq!(errno(there.write("new/", "")), Some(Errno::ISDIR));
        assert_eq!(errno(there.root.symlink("x", "a/")), Some(Errno::EXIST));
        assert_eq!(errno(there.root.symlink("x", "new/")), Some(Errno::NOENT));
        assert_eq!(errno(there.root.rename("file", "new/")), Some(Errno::NOTDIR));
        assert_eq!(kind_of(&there.root.stat("link/", false).expect("stat")), FileType::Directory);
        there.root.rename("a/", "b/").expect("rename");
        assert_eq!(errno(there.root.rename("/", "c")), Some(Errno::BUSY));
        assert_eq!(errno(there.root.remove("/", true, true, NEVER)), Some(Errno::BUSY));
        assert_eq!(errno(there.root.make_directory("/", false, None)), Some(Errno::EXIST));
        assert_eq!(errno(there.root.stat("", true)), Some(Errno::NOENT));
        assert_eq!(errno(there.root.stat(&"x/".repeat(3000), true)), Some(Errno::NAMETOOLONG));
        assert_eq!(errno(there.root.stat(&"../".repeat(1300), true)), None);
        assert_eq!(there.listed("/"), ["b", "file", "link"]);
    }

    /// Deeper than a path can say.
    fn dig(root: &Root, depth: usize) {
        let mut folder =
            File::from(openat(&root.top, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("open"));
        for _ in 0..depth {
            mkdirat(&folder, "d", Mode::RWXU).expect("mkdir");
            folder = enter(&folder, b"d").expect("enter").expect("a directory");
            openat(&folder, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("create");
        }
    }

    #[test]
    fn a_tree_of_any_depth_is_removed_and_can_be_made_flat() {
        let there = Beside::new();
        dig(&there.root, 1_500);
        symlink("../outside", there.at("d/link")).expect("symlink");
        there.root.flatten(NEVER).expect("flatten");
        // As deep as the standard library goes without harm.
        let mut deepest = 0;
        let mut levels = vec![(there.place.path().join("root"), 0)];
        let mut directories = 0;
        while let Some((path, depth)) = levels.pop() {
            deepest = deepest.max(depth);
            for entry in fs::read_dir(path).expect("read") {
                let entry = entry.expect("entry");
                if entry.file_type().expect("type").is_dir() {
                    directories += 1;
                    levels.push((entry.path(), depth + 1));
                }
            }
        }
        assert!(deepest <= DEEP, "{deepest}");
        assert_eq!(directories, 1_500);
        let cancelled = there.root.remove("d", true, false, &|| true);
        assert_eq!(errno(cancelled), Some(Errno::CANCELED));
        for entry in fs::read_dir(there.place.path().join("root")).expect("read") {
            let name = entry.expect("entry").file_name().into_string().expect("text");
            there.root.remove(&name, true, false, NEVER).expect("remove");
        }
        dig(&there.root, 1_500);
        there.root.remove("d", true, false, NEVER).expect("remove");
        assert_eq!(there.listed("/"), [""; 0]);
        there.check();
    }

    #[test]
    fn links_that_multiply_end_as_a_list_that_is_too_long() {
        let there = Beside::new();
        assert_eq!(there.listed("/"), [""; 0]);
        symlink(".", there.at("here")).expect("symlink");
        // Forty links and no more.
        assert_eq!(there.listed("/").len(), LINKS + 1);
    }

    #[test]
    fn times_are_exact_to_the_microsecond_whatever_their_sign() {
        for (seconds, sec, nsec) in [
            (0.0, 0, 0),
            (1_234_567_890.123, 1_234_567_890, 123_000_000),
            (-0.25, -1, 750_000_000),
            (0.999_999_9, 1, 0),
        ] {
            let time = timespec(Some(seconds));
            assert_eq!((time.tv_sec, time.tv_nsec), (sec, nsec), "{seconds}");
        }
        assert_eq!(timespec(Some(f64::INFINITY)).tv_sec, i64::MAX);
    }
}
