//! Directories of the host by their descriptors, so that nothing that is written or read through one can leave it.
//!
//! Every name is a single component below an open directory, and no call follows a link: there is no path that somebody
//! could turn to another place in the meantime, and so nothing to resolve. All of it blocks.

use std::ffi::{CStr, OsStr};
use std::fs::{File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, mkdirat, openat, readlinkat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use uuid::Uuid;

use crate::failure::Failure;

/// Only who may do what: no setuid, setgid or sticky bit comes from another machine.
const PERMISSIONS: u32 = 0o777;

/// What a directory must grant its owner, or the next transfer into it and its removal would fail.
const OWNER_ALL: u32 = 0o700;

/// What is at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    /// A device, a FIFO, a socket.
    Special,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Special => "special",
        }
    }

    fn of(stat: &Stat) -> Self {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            _ => Self::Special,
        }
    }
}

/// What is known of an entry without opening it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    /// Seconds since 1970.
    pub(crate) mtime: Option<i64>,
}

impl Attributes {
    fn of(stat: &Stat) -> Self {
        Self {
            kind: Kind::of(stat),
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            #[allow(clippy::useless_conversion)] // 16 bits on macOS
            mode: u32::from(stat.st_mode) & PERMISSIONS,
            #[allow(clippy::useless_conversion)] // 64 bits on every platform of ours
            mtime: Some(i64::from(stat.st_mtime)),
        }
    }
}

/// Whether a text is the name of something in a directory, and nothing more.
pub(crate) fn is_component(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}

/// An open directory.
pub(crate) struct HostFolder {
    file: File,
    /// For messages only.
    path: PathBuf,
    /// It was made by this transfer: its mode and times are ours to set.
    fresh: bool,
}

impl HostFolder {
    /// A directory that the user has named: links on the way to it are the user's own.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = openat(CWD, path, flags, Mode::empty()).map_err(|errno| failed("open", path, errno))?;
        Ok(Self { file: file.into(), path: path.to_owned(), fresh: false })
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    pub(crate) fn path_of(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    /// What is at a name, if anything is.
    pub(crate) fn look(&self, name: impl AsRef<OsStr>) -> Result<Option<Attributes>, Failure> {
        match statat(&self.file, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Attributes::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("stat", &self.path_of(name), errno)),
        }
    }

    /// The directory at a name; none when there is another thing by now, or nothing.
    pub(crate) fn enter(&self, name: impl AsRef<OsStr>) -> Result<Option<Self>, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.file, name.as_ref(), flags, Mode::empty()) {
            Ok(file) => Ok(Some(Self { file: file.into(), path: self.path_of(name), fresh: false })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => Ok(None),
            Err(errno) => Err(failed("open", &self.path_of(name), errno)),
        }
    }

    /// The directory at a name, made when there is none, for its owner alone until `finish`.
    pub(crate) fn make(&self, name: &str) -> Result<Self, Failure> {
        let fresh = match mkdirat(&self.file, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(failed("mkdir", &self.path_of(name), errno)),
        };
        match self.enter(name)? {
            Some(folder) => Ok(Self { fresh, ..folder }),
            None => Err(self.conflict(name, Kind::Directory)),
        }
    }

    /// Give a directory that was made here its own mode and time, when all is in it.
    pub(crate) fn finish(&self, attributes: &Attributes) -> Result<(), Failure> {
        if !self.fresh {
            return Ok(());
        }
        set_attributes(&self.file, attributes.mode | OWNER_ALL, attributes.mtime)
            .map_err(|error| Failure::host_io("chmod", &self.path, &error))
    }

    /// A new file that nobody sees under a name of theirs until it is published.
    pub(crate) fn stage(self: &Arc<Self>, name: &str) -> Result<Staged, Failure> {
        self.check_replaceable(name, Kind::File)?;
        let temporary = temporary_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.file, &*temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed("create", &self.path_of(name), errno))?;
        Ok(Staged { folder: self.clone(), name: name.to_owned(), temporary: Some(temporary), file: file.into() })
    }

    /// A link, in place of a file or a link that is there.
    pub(crate) fn link(&self, name: &str, target: &str) -> Result<(), Failure> {
        self.check_replaceable(name, Kind::Symlink)?;
        let temporary = temporary_name();
        let path = self.path_of(name);
        symlinkat(target, &self.file, &*temporary).map_err(|errno| failed("symlink", &path, errno))?;
        renameat(&self.file, &*temporary, &self.file, name).map_err(|errno| {
            // The failure that is told is the first one.
            let _ = unlinkat(&self.file, &*temporary, AtFlags::empty());
            self.conflict_or("rename", name, Kind::Symlink, errno)
        })
    }

    /// The file at a name; none when there is another thing by now, or nothing. It does not wait for the writer of a FIFO.
    pub(crate) fn open_file(&self, name: impl AsRef<OsStr>) -> Result<Option<File>, Failure> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = self.path_of(name.as_ref());
        let file: File = match openat(&self.file, name.as_ref(), flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(Errno::NOENT | Errno::LOOP | Errno::MLINK | Errno::NXIO) => return Ok(None),
            Err(errno) => return Err(failed("open", &path, errno)),
        };
        let metadata = file.metadata().map_err(|error| Failure::host_io("stat", &path, &error))?;
        Ok(metadata.is_file().then_some(file))
    }

    /// Where the link at a name leads; none when there is no link by now.
    pub(crate) fn read_link(&self, name: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>, Failure> {
        match readlinkat(&self.file, name.as_ref(), Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(errno) => Err(failed("readlink", &self.path_of(name), errno)),
        }
    }

    pub(crate) fn names(&self) -> Result<Names, Failure> {
        let entries = Dir::read_from(&self.file).map_err(|errno| failed("read", &self.path, errno))?;
        Ok(Names { entries, path: self.path.clone() })
    }

    /// A file or a link can take the place of a file or a link, and of nothing else.
    fn check_replaceable(&self, name: &str, kind: Kind) -> Result<(), Failure> {
        match self.look(name)? {
            None | Some(Attributes { kind: Kind::File | Kind::Symlink, .. }) => Ok(()),
            Some(_) => Err(self.conflict(name, kind)),
        }
    }

    fn conflict(&self, name: &str, wanted: Kind) -> Failure {
        let found = self.look(name).ok().flatten().map_or("nothing", |found| found.kind.word());
        Failure::transfer_conflict(&self.path_of(name).display().to_string(), wanted.word(), found)
    }

    /// A directory that appeared in the meantime is a conflict as one that was there before.
    fn conflict_or(&self, operation: &str, name: &str, wanted: Kind, errno: Errno) -> Failure {
        match errno {
            Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => self.conflict(name, wanted),
            errno => failed(operation, &self.path_of(name), errno),
        }
    }
}

/// The names in a directory, as it is read: never all of them at once.
pub(crate) struct Names {
    entries: Dir,
    path: PathBuf,
}

impl Names {
    pub(crate) fn next(&mut self) -> Option<Result<Vec<u8>, Failure>> {
        loop {
            return match self.entries.next()? {
                Ok(entry) if is_dot(entry.file_name()) => continue,
                Ok(entry) => Some(Ok(entry.file_name().to_bytes().to_vec())),
                Err(errno) => Some(Err(failed("read", &self.path, errno))),
            };
        }
    }
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// A file that is being written. It is gone when it is dropped before it is published.
pub(crate) struct Staged {
    folder: Arc<HostFolder>,
    name: String,
    temporary: Option<String>,
    file: File,
}

impl Staged {
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        io::Write::write_all(&mut self.file, data)
            .map_err(|error| Failure::host_io("write", &self.folder.path_of(&self.name), &error))
    }

    /// Put it in its place, in one step.
    pub(crate) fn publish(mut self, attributes: &Attributes) -> Result<(), Failure> {
        let Self { folder, name, file, .. } = &self;
        set_attributes(file, attributes.mode, attributes.mtime)
            .map_err(|error| Failure::host_io("chmod", &folder.path_of(name), &error))?;
        folder.check_replaceable(name, Kind::File)?;
        if let Some(temporary) = &self.temporary {
            renameat(&folder.file, &**temporary, &folder.file, &**name)
                .map_err(|errno| folder.conflict_or("rename", name, Kind::File, errno))?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // Nothing can be done where this fails: the directory is gone, or the disk.
            let _ = unlinkat(&self.folder.file, &*temporary, AtFlags::empty());
        }
    }
}

fn set_attributes(file: &File, mode: u32, mtime: Option<i64>) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode & PERMISSIONS))?;
    // A time that the host cannot say is left as it is.
    let time = mtime.and_then(|seconds| {
        let span = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { UNIX_EPOCH.checked_sub(span) } else { UNIX_EPOCH.checked_add(span) }
    });
    match time.map(|time| file.set_times(FileTimes::new().set_modified(time))) {
        Some(Err(error)) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
        _ => Ok(()),
    }
}

fn temporary_name() -> String {
    format!(".{}.part", Uuid::new_v4().simple())
}

fn failed(operation: &str, path: &Path, errno: Errno) -> Failure {
    Failure::host_io(operation, path, &errno.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    const FILE: Attributes = Attributes { kind: Kind::File, size: 0, mode: 0o6644, mtime: Some(1_000_000_000) };

    struct Place {
        root: tempfile::TempDir,
        folder: Arc<HostFolder>,
    }

    impl Place {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a directory");
            let folder = Arc::new(HostFolder::open(root.path()).expect("open"));
            Self { root, folder }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn put(&self, name: &str, data: &[u8]) -> Result<(), Failure> {
            let mut staged = self.folder.stage(name)?;
            staged.write(data)?;
            staged.publish(&FILE)
        }

        fn listed(&self) -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(self.root.path())
                .expect("read")
                .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        }
    }

    fn found(result: Result<impl Sized, Failure>) -> String {
        match result {
            Err(Failure::TransferConflict { found, .. }) => found,
            Err(other) => format!("{other:?}"),
            Ok(_) => "no failure".into(),
        }
    }

    #[test]
    fn a_name_is_one_component() {
        for name in ["a", ".a", "..a", "...", "a b", "\n", "ü", "\u{fffd}", &"x".repeat(255)] {
            assert!(is_component(name), "{name:?}");
        }
        for name in ["", ".", "..", "/", "a/b", "../a", "/etc/passwd", "a\0b", "a/", "./a"] {
            assert!(!is_component(name), "{name:?}");
        }
    }

    #[test]
    fn a_file_appears_whole_with_its_mode_and_time_and_without_setuid() {
        let place = Place::new();
        let mut staged = place.folder.stage("file").expect("stage");
        staged.write(b"whole").expect("write");
        assert!(!place.listed().contains(&"file".to_owned()));
        staged.publish(&FILE).expect("publish");
        assert_eq!(place.listed(), ["file"]);
        let metadata = fs::metadata(place.at("file")).expect("stat");
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o644, 1_000_000_000));
        assert_eq!(fs::read(place.at("file")).expect("read"), b"whole");
    }

    #[test]
    fn a_file_that_is_not_published_leaves_nothing_and_the_old_one_in_its_place() {
        let place = Place::new();
        fs::write(place.at("file"), "old").expect("write");
        let mut staged = place.folder.stage("file").expect("stage");
        staged.write(b"half").expect("write");
        assert_eq!(place.listed().len(), 2);
        drop(staged);
        assert_eq!(place.listed(), ["file"]);
        assert_eq!(fs::read(place.at("file")).expect("read"), b"old");
    }

    #[test]
    fn a_link_at_the_destination_is_replaced_and_never_followed() {
        let (place, outside) = (Place::new(), Place::new());
        fs::write(outside.at("victim"), "untouched").expect("write");
        symlink(outside.at("victim"), place.at("file")).expect("symlink");
        symlink(outside.at("missing"), place.at("dangling")).expect("symlink");
        place.put("file", b"ours").expect("put");
        place.put("dangling", b"ours").expect("put");
        assert_eq!(fs::read(outside.at("victim")).expect("read"), b"untouched");
        assert_eq!(outside.listed(), ["victim"]);
        assert!(fs::symlink_metadata(place.at("file")).expect("stat").is_file());
        place.folder.link("file", "elsewhere").expect("link");
        assert_eq!(fs::read_link(place.at("file")).expect("readlink"), Path::new("elsewhere"));
        assert_eq!(place.listed(), ["dangling", "file"]);
    }

    #[test]
    fn a_link_that_is_swapped_in_while_a_file_is_written_is_not_followed() {
        let (place, outside) = (Place::new(), Place::new());
        fs::write(outside.at("victim"), "untouched").expect("write");
        let mut staged = place.folder.stage("file").expect("stage");
        symlink(outside.at("victim"), place.at("file")).expect("symlink");
        staged.write(b"ours").expect("write");
        staged.publish(&FILE).expect("publish");
        assert_eq!(fs::read(outside.at("victim")).expect("read"), b"untouched");
        assert_eq!(fs::read(place.at("file")).expect("read"), b"ours");
    }

    #[test]
    fn a_directory_that_is_swapped_for_a_link_is_still_the_one_that_was_opened() {
        let (place, outside) = (Place::new(), Place::new());
        let below = Arc::new(place.folder.make("below").expect("make"));
        fs::rename(place.at("below"), place.at("moved")).expect("rename");
        symlink(outside.root.path(), place.at("below")).expect("symlink");
        let mut staged = below.stage("file").expect("stage");
        staged.write(b"ours").expect("write");
        staged.publish(&FILE).expect("publish");
        assert!(outside.listed().is_empty());
        assert!(place.at("moved/file").exists());
        // And whoever asks for it anew is refused.
        assert_eq!(found(place.folder.make("below")), "symlink");
    }

    #[test]
    fn kinds_that_do_not_fit_are_conflicts_and_stay_as_they_are() {
        let (place, outside) = (Place::new(), Place::new());
        fs::write(place.at("file"), "file").expect("write");
        fs::create_dir(place.at("directory")).expect("mkdir");
        symlink(outside.root.path(), place.at("link")).expect("symlink");
        let socket = std::os::unix::net::UnixListener::bind(place.at("socket")).expect("bind");
        assert_eq!(found(place.folder.make("file")), "file");
        assert_eq!(found(place.folder.make("link")), "symlink");
        assert_eq!(found(place.folder.make("socket")), "special");
        assert_eq!(found(place.put("directory", b"")), "directory");
        assert_eq!(found(place.put("socket", b"")), "special");
        assert_eq!(found(place.folder.link("directory", "x")), "directory");
        assert_eq!(found(place.folder.link("socket", "x")), "special");
        assert_eq!(place.listed(), ["directory", "file", "link", "socket"]);
        drop(socket);
    }

    #[test]
    fn a_directory_that_appears_while_a_file_is_written_is_a_conflict_and_no_temporary_file_stays() {
        let place = Place::new();
        let staged = place.folder.stage("name").expect("stage");
        fs::create_dir(place.at("name")).expect("mkdir");
        assert_eq!(found(staged.publish(&FILE)), "directory");
        assert_eq!(place.listed(), ["name"]);
    }

    #[test]
    fn a_directory_merges_and_keeps_its_own_mode_and_a_new_one_can_always_be_entered_by_its_owner() {
        let place = Place::new();
        fs::create_dir(place.at("old")).expect("mkdir");
        fs::set_permissions(place.at("old"), Permissions::from_mode(0o750)).expect("chmod");
        let attributes = Attributes { kind: Kind::Directory, size: 0, mode: 0o1055, mtime: Some(1_000_000_000) };
        for name in ["old", "new"] {
            place.folder.make(name).expect("make").finish(&attributes).expect("finish");
        }
        let of = |name: &str| fs::metadata(place.at(name)).expect("stat");
        assert_eq!(of("old").mode() & 0o7777, 0o750);
        assert_ne!(of("old").mtime(), 1_000_000_000);
        assert_eq!((of("new").mode() & 0o7777, of("new").mtime()), (0o755, 1_000_000_000));
    }

    #[test]
    fn only_files_are_read_and_only_where_they_are() {
        let (place, outside) = (Place::new(), Place::new());
        fs::write(outside.at("secret"), "secret").expect("write");
        fs::write(place.at("file"), "file").expect("write");
        symlink(outside.at("secret"), place.at("link")).expect("symlink");
        symlink(outside.root.path(), place.at("way")).expect("symlink");
        fs::create_dir(place.at("directory")).expect("mkdir");
        let socket = std::os::unix::net::UnixListener::bind(place.at("socket")).expect("bind");
        // A FIFO without a writer would hold who opens it.
        rustix::fs::mknodat(CWD, place.at("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("mkfifo");
        for (name, is_file) in
            [("file", true), ("link", false), ("directory", false), ("socket", false), ("fifo", false), ("none", false)]
        {
            assert_eq!(place.folder.open_file(name).expect(name).is_some(), is_file, "{name}");
        }
        assert!(place.folder.enter("way").expect("enter").is_none());
        assert_eq!(place.folder.read_link("link").expect("readlink").map(|target| target.len() > 1), Some(true));
        assert_eq!(place.folder.read_link("file").expect("readlink"), None);
        let mut names = place.folder.names().expect("names");
        let mut seen = Vec::new();
        while let Some(name) = names.next() {
            seen.push(String::from_utf8(name.expect("name")).expect("text"));
        }
        seen.sort();
        assert_eq!(seen, place.listed());
        drop(socket);
    }

    #[test]
    fn times_before_1970_and_beyond_all_clocks_are_no_failure() {
        let place = Place::new();
        for (name, mtime) in [("early", -1), ("never", i64::MIN), ("late", 4_000_000_000), ("end", i64::MAX)] {
            let staged = place.folder.stage(name).expect("stage");
            staged.publish(&Attributes { mtime: Some(mtime), ..FILE }).expect(name);
        }
        assert_eq!(fs::metadata(place.at("early")).expect("stat").mtime(), -1);
        assert_eq!(fs::metadata(place.at("late")).expect("stat").mtime(), 4_000_000_000);
    }
}
