//! The runtime pair of a home: which one a boot would launch, and putting one there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use flate2::read::GzDecoder;
use microsandbox::LocalBackend;
use microsandbox::setup::{ResolvedRuntime, RuntimeOrigin, resolve_runtime, resolve_runtime_version};
use microsandbox_utils::{BIN_SUBDIR, LIB_SUBDIR, LIBKRUNFW_ABI, libkrunfw_filename, msb_binary_filename};
use napi_derive::napi;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::backend::LocalOptions;
use crate::cancel::{Cancel, CancelToken};
use crate::engine::{Engine, RuntimePair};
use crate::failure::{Failure, RUNTIME_VERSION};
use crate::home;
use crate::outcome::{Outcome, Stop};
use crate::threads::blocking;

/// A whole pair, and where each half comes from.
#[napi(object, object_from_js = false)]
pub struct ResolvedPair {
    pub msb: String,
    #[napi(ts_type = "'environment' | 'package' | 'configuration' | 'home'")]
    pub msb_origin: String,
    /// As `msb` says it of itself; none when it says nothing.
    pub version: Option<String>,
    pub libkrunfw: String,
    #[napi(ts_type = "'environment' | 'package' | 'configuration' | 'home' | 'beside'")]
    pub libkrunfw_origin: String,
}

/// What a home can hold.
#[napi(object, object_from_js = false)]
pub struct HomeReport {
    pub home: String,
    /// The home, or what exists above it.
    pub existing: String,
    /// All that is wrong with it.
    pub failures: Vec<Failure>,
}

/// A pair to put into a home, by one of its sources.
#[napi(object, object_to_js = false)]
pub struct InstallOptions {
    pub home: Option<String>,
    pub pair: Option<RuntimePair>,
    pub directory: Option<String>,
    /// A `.tar.gz`.
    pub archive: Option<String>,
    /// Of the archive, in hexadecimal digits.
    pub sha256: Option<String>,
    /// Replace what is there.
    pub force: bool,
}

#[napi]
impl Engine {
    /// The pair that a boot in this home would launch. Nothing is made and nothing is executed.
    #[napi(ts_return_type = "Promise<Outcome<ResolvedPair>>")]
    pub async fn resolve_runtime(
        &self,
        options: LocalOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<ResolvedPair>> {
        let found = || local(options.home).and_then(|local| resolve(&local)).map_err(Stop::Failed);
        Ok(self.state.run(token.token(), |_| async move { found() }).await)
    }

    /// What is wrong with a home, which need not exist. Nothing stays that was not there.
    #[napi(ts_return_type = "Promise<Outcome<HomeReport>>")]
    pub async fn check_home(&self, options: LocalOptions, token: &CancelToken) -> napi::Result<Outcome<HomeReport>> {
        Ok(self
            .state
            .run(token.token(), |_| async move {
                let local = local(options.home)?;
                let home = local.config().home();
                let (existing, failures) = home::report(&home, &local.config().run_dir());
                Ok(HomeReport { home: home.display().to_string(), existing: existing.display().to_string(), failures })
            })
            .await)
    }

    /// Put a pair of the right version into a home, whole or not at all. A cancel that comes after the last file was
    /// written comes too late. A whole pair that is there already stays, unless it is of another version or `force`.
    #[napi(ts_return_type = "Promise<Outcome<ResolvedPair>>")]
    pub async fn install_runtime(
        &self,
        options: InstallOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<ResolvedPair>> {
        Ok(self.state.run(token.token(), |cancel| install(options, cancel)).await)
    }
}

fn local(home: Option<String>) -> Result<LocalBackend, Failure> {
    let builder = LocalBackend::builder();
    let builder = if let Some(home) = home { builder.home(home) } else { builder };
    builder.try_build_lazy().map_err(Failure::from)
}

fn resolve(local: &LocalBackend) -> Result<ResolvedPair, Failure> {
    let ResolvedRuntime { msb_path, libkrunfw_path, origin } = resolve_runtime(local.config())?;
    let msb_origin = match origin {
        RuntimeOrigin::Environment => "environment",
        RuntimeOrigin::SdkPackage => "package",
        RuntimeOrigin::Configuration => "configuration",
        RuntimeOrigin::Home | RuntimeOrigin::Installed => "home",
    };
    // `resolve_runtime` says one origin for both: a library that nobody named was found beside `msb`.
    let libkrunfw_origin = match origin {
        RuntimeOrigin::Environment if std::env::var_os("MSB_LIBKRUNFW_PATH").is_none() => "beside",
        RuntimeOrigin::Configuration if local.config().paths.libkrunfw.is_none() => "beside",
        _ => msb_origin,
    };
    Ok(ResolvedPair {
        version: resolve_runtime_version(&msb_path).ok().flatten().map(|version| version.to_string()),
        msb: msb_path.display().to_string(),
        msb_origin: msb_origin.to_owned(),
        libkrunfw: libkrunfw_path.display().to_string(),
        libkrunfw_origin: libkrunfw_origin.to_owned(),
    })
}

async fn install(options: InstallOptions, cancel: Cancel) -> Result<ResolvedPair, Stop> {
    let home = local(options.home)?.config().home();
    let source = match (options.pair, options.directory, options.archive) {
        (Some(pair), None, None) => Source::Pair(Pair { msb: pair.msb.into(), libkrunfw: pair.libkrunfw.into() }),
        (None, Some(directory), None) => Source::Directory(directory.into()),
        (None, None, Some(path)) => Source::Archive { path: path.into(), sha256: options.sha256 },
        _ => {
            return Err(Stop::Failed(Failure::InvalidConfig {
                message: "from: one source and no other".into(),
                field: Some("from".into()),
            }));
        }
    };
    let cancelled = CancellationToken::new();
    let work = Work { home, source, force: options.force, cancelled: cancelled.clone() };
    // Waited for to its end also when it is cancelled: it has removed what it had begun by then.
    let mut done = std::pin::pin!(blocking(move || work.run()));
    tokio::select! {
        result = &mut done => result,
        () = cancel.requested() => {
            cancelled.cancel();
            done.await
        }
    }
}

/// The files of a pair.
struct Pair {
    msb: PathBuf,
    libkrunfw: PathBuf,
}

#[derive(PartialEq)]
enum Presence {
    Whole,
    Half,
    Absent,
}

impl Pair {
    fn beside(directory: &Path) -> Self {
        Self {
            msb: directory.join(msb_binary_filename(std::env::consts::OS)),
            libkrunfw: directory.join(libkrunfw_filename(std::env::consts::OS)),
        }
    }

    /// As a home and an npm package have it.
    fn below(root: &Path) -> Self {
        Self {
            msb: Self::beside(&root.join(BIN_SUBDIR)).msb,
            libkrunfw: Self::beside(&root.join(LIB_SUBDIR)).libkrunfw,
        }
    }

    fn presence(&self) -> Presence {
        match (self.msb.is_file(), self.libkrunfw.is_file()) {
            (true, true) => Presence::Whole,
            (false, false) => Presence::Absent,
            _ => Presence::Half,
        }
    }

    fn check_version(&self, named: &Path) -> Result<(), Failure> {
        // What is no executable at all has no version either.
        match resolve_runtime_version(&self.msb) {
            Ok(Some(version)) if version.to_string() == RUNTIME_VERSION => Ok(()),
            other => Err(Failure::runtime_version_mismatch(
                &other.ok().flatten().map_or_else(|| "unknown".to_owned(), |version| version.to_string()),
                Some(named.display().to_string()),
            )),
        }
    }
}

enum Source {
    Pair(Pair),
    Directory(PathBuf),
    Archive { path: PathBuf, sha256: Option<String> },
}

/// An installation, on a thread that may block.
struct Work {
    home: PathBuf,
    source: Source,
    force: bool,
    cancelled: CancellationToken,
}

/// Where an installation collects its files, on the file system of the home. Gone with it.
struct Stage(PathBuf);

/// The engine's own installer has the same for its stages.
const STAGE_PREFIX: &str = ".runtime-stage-";

impl Stage {
    fn create(home: &Path) -> io::Result<Self> {
        let path = home.join(format!("{STAGE_PREFIX}{}", uuid::Uuid::new_v4()));
        fs::create_dir(&path).map(|()| Self(path))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Each half has some 50 MB: what has more is none, such as what a small archive unfolds to without end.
const LARGEST: u64 = 256 << 20;

const CHUNK: usize = 1 << 20;

impl Work {
    fn run(self) -> Result<ResolvedPair, Stop> {
        let unwritable = |error: io::Error| Failure::home_not_writable(&self.home, &error);
        fs::create_dir_all(&self.home).map_err(unwritable)?;
        let _lock = self.lock()?;
        // Whoever holds the lock is the only one: what other stages there are belonged to the dead.
        for entry in fs::read_dir(&self.home).map_err(unwritable)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(STAGE_PREFIX) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let target = Pair::below(&self.home);
        match target.presence() {
            Presence::Whole if !self.force => target.check_version(&target.msb)?,
            Presence::Half if !self.force => {
                return Err(Stop::Failed(Failure::runtime_incomplete(format!(
                    "of {} and {} one is missing: install with force to replace the other",
                    target.msb.display(),
                    target.libkrunfw.display()
                ))));
            }
            _ => {
                let stage = Stage::create(&self.home).map_err(unwritable)?;
                let pair = Pair::beside(&stage.0);
                let named = self.collect(&pair)?;
                pair.check_version(&named)?;
                self.continues()?;
                publish(&pair, &target, &stage.0).map_err(|error| Failure::host_io("install", &self.home, &error))?;
            }
        }
        Ok(ResolvedPair {
            msb: target.msb.display().to_string(),
            msb_origin: "home".to_owned(),
            version: Some(RUNTIME_VERSION.to_owned()),
            libkrunfw: target.libkrunfw.display().to_string(),
            libkrunfw_origin: "home".to_owned(),
        })
    }

    fn continues(&self) -> Result<(), Stop> {
        if self.cancelled.is_cancelled() { Err(Stop::Cancelled) } else { Ok(()) }
    }

    /// The lock of the engine's own installer.
    fn lock(&self) -> Result<File, Stop> {
        let path = self.home.join(".runtime-install.lock");
        let unwritable = |error: io::Error| Failure::home_not_writable(&self.home, &error);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(unwritable)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    self.continues()?;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::Error(error)) => return Err(Stop::Failed(unwritable(error))),
            }
        }
    }

    /// Bring the two files together, and say by what path to name them.
    fn collect(&self, into: &Pair) -> Result<PathBuf, Stop> {
        match &self.source {
            Source::Pair(from) => self.copy_pair(from, into),
            Source::Directory(directory) => {
                fs::read_dir(directory).map_err(|error| Failure::host_io("readdir", directory, &error))?;
                let layouts = [Pair::beside(directory), Pair::below(directory)];
                let Some(from) = layouts.iter().find(|pair| pair.presence() == Presence::Whole) else {
                    return Err(Stop::Failed(not_both(directory)));
                };
                self.copy_pair(from, into)
            }
            Source::Archive { path, sha256 } => {
                self.unpack(path, sha256.as_deref(), into)?;
                Ok(path.clone())
            }
        }
    }

    fn copy_pair(&self, from: &Pair, into: &Pair) -> Result<PathBuf, Stop> {
        for (from, into) in [(&from.msb, &into.msb), (&from.libkrunfw, &into.libkrunfw)] {
            let unreadable = |error: io::Error| Failure::host_io("read", from, &error);
            self.pour(&mut File::open(from).map_err(unreadable)?, into, unreadable)?;
        }
        Ok(from.msb.clone())
    }

    fn pour(&self, from: &mut impl Read, into: &Path, unreadable: impl Fn(io::Error) -> Failure) -> Result<(), Stop> {
        let unwritable = |error: io::Error| Failure::host_io("write", into, &error);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(into).map_err(unwritable)?;
        self.each_chunk(from, &unreadable, |chunk| file.write_all(chunk).map_err(unwritable))?;
        // Whatever the umask is: other users may share a home.
        file.set_permissions(fs::Permissions::from_mode(0o755)).map_err(unwritable)?;
        file.sync_all().map_err(unwritable)?;
        Ok(())
    }

    fn each_chunk(
        &self,
        from: &mut impl Read,
        unreadable: &impl Fn(io::Error) -> Failure,
        mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Stop> {
        let mut chunk = vec![0; CHUNK];
        let mut size = 0;
        loop {
            self.continues()?;
            match from.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    size += count as u64;
                    if size > LARGEST {
                        return Err(Stop::Failed(unreadable(io::Error::other("it is too large"))));
                    }
                    take(&chunk[..count])?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stop::Failed(unreadable(error))),
            }
        }
    }

    /// Unpack an archive that has the two files and nothing else, read once: what is unpacked is what is hashed.
    fn unpack(&self, path: &Path, sha256: Option<&str>, into: &Pair) -> Result<(), Stop> {
        let unreadable = |error: io::Error| Failure::host_io("open", path, &error);
        if !fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(Stop::Failed(Failure::runtime_archive_invalid(path, "it is no file")));
        }
        let invalid = |error: io::Error| Failure::runtime_archive_invalid(path, &error.to_string());
        let mut bytes = Hashed { file: File::open(path).map_err(unreadable)?, hash: Sha256::new() };
        let mut archive = tar::Archive::new(GzDecoder::new(&mut bytes).take(2 * LARGEST));
        for entry in archive.entries().map_err(invalid)? {
            self.continues()?;
            let mut entry = entry.map_err(invalid)?;
            let name = entry.path().map_err(invalid)?.into_owned();
            let kind = entry.header().entry_type();
            if kind.is_dir() && ["", BIN_SUBDIR, LIB_SUBDIR].iter().any(|allowed| is(&name, allowed)) {
                continue;
            }
            let half = [&into.msb, &into.libkrunfw].into_iter().find(|half| is_half(&name, half));
            let Some(half) = half.filter(|half| kind.is_file() && !half.exists()) else {
                let what = format!("it has more than the two files of a pair: {}", name.display());
                return Err(Stop::Failed(Failure::runtime_archive_invalid(path, &what)));
            };
            self.pour(&mut entry, half, invalid)?;
        }
        // The end of the compressed data has its checksum, and what is behind it counts for the archive's.
        let nothing = |_: &[u8]| Ok(());
        let mut rest = archive.into_inner();
        self.each_chunk(&mut rest, &invalid, nothing)?;
        if rest.limit() == 0 {
            return Err(Stop::Failed(invalid(io::Error::other("it is too large"))));
        }
        self.each_chunk(&mut bytes, &invalid, nothing)?;
        let actual = hexadecimal(&bytes.hash.finalize());
        if let Some(expected) = sha256.filter(|expected| !expected.eq_ignore_ascii_case(&actual)) {
            let what = format!("its SHA-256 is {actual}, and not {expected}");
            return Err(Stop::Failed(Failure::runtime_archive_invalid(path, &what)));
        }
        if into.presence() == Presence::Whole { Ok(()) } else { Err(Stop::Failed(not_both(path))) }
    }
}

fn not_both(source: &Path) -> Failure {
    let wanted = Pair::beside(Path::new(""));
    Failure::runtime_incomplete(format!(
        "{} has not both {} and {}, side by side or in {BIN_SUBDIR} and {LIB_SUBDIR}",
        source.display(),
        wanted.msb.display(),
        wanted.libkrunfw.display()
    ))
}

/// Whether a name in an archive is `wanted`, but for a leading `./`.
fn is(name: &Path, wanted: &str) -> bool {
    name.components().filter(|part| *part != Component::CurDir).eq(Path::new(wanted).components())
}

fn is_half(name: &Path, half: &Path) -> bool {
    let file = half.file_name().unwrap_or_default().to_string_lossy();
    let folder = if file.starts_with("libkrunfw") { LIB_SUBDIR } else { BIN_SUBDIR };
    is(name, &file) || is(name, &format!("{folder}/{file}"))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A file, and the hash of what was read of it.
struct Hashed {
    file: File,
    hash: Sha256,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// Move a pair to its place by renames alone, `msb` out first and in last: who sees it sees a whole pair. What was there
/// goes to the stage, and comes back when this fails.
fn publish(pair: &Pair, target: &Pair, stage: &Path) -> io::Result<()> {
    let old = Pair { msb: stage.join("old-msb"), libkrunfw: stage.join("old-libkrunfw") };
    let moved = || {
        for path in [&target.msb, &target.libkrunfw] {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
        }
        set_aside(&target.msb, &old.msb)?;
        set_aside(&target.libkrunfw, &old.libkrunfw)?;
        fs::rename(&pair.libkrunfw, &target.libkrunfw)?;
        link_library(&target.libkrunfw)?;
        fs::rename(&pair.msb, &target.msb)
    };
    moved().inspect_err(|_| {
        if !pair.libkrunfw.exists() {
            let _ = fs::remove_file(&target.libkrunfw);
        }
        for (kept, path) in [(&old.libkrunfw, &target.libkrunfw), (&old.msb, &target.msb)] {
            if kept.exists() {
                let _ = fs::rename(kept, path);
            }
        }
    })
}

fn set_aside(path: &Path, kept: &Path) -> io::Result<()> {
    match fs::rename(path, kept) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The names that the engine's own installer gives the library too.
fn link_library(library: &Path) -> io::Result<()> {
    let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let links = if cfg!(target_os = "macos") {
        vec![("libkrunfw.dylib".to_owned(), name)]
    } else {
        let soname = format!("libkrunfw.so.{LIBKRUNFW_ABI}");
        vec![(soname.clone(), name), ("libkrunfw.so".to_owned(), soname)]
    };
    for (link, goal) in links {
        let path = library.with_file_name(link);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => symlink(goal, path)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair_at(directory: &Path, text: &str) -> Pair {
        fs::create_dir_all(directory).expect("a directory");
        let pair = Pair::beside(directory);
        fs::write(&pair.msb, text).expect("msb");
        fs::write(&pair.libkrunfw, text).expect("libkrunfw");
        pair
    }

    fn texts(pair: &Pair) -> (String, String) {
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        (read(&pair.msb), read(&pair.libkrunfw))
    }

    #[test]
    fn a_pair_replaces_another_whole_or_not_at_all() {
        let home = tempfile::tempdir().expect("a directory");
        let target = Pair::below(home.path());
        let stage = home.path().join("one");
        publish(&pair_at(&stage, "one"), &target, &stage).expect("published");
        assert_eq!(texts(&target), ("one".into(), "one".into()));
        let link = target.libkrunfw.with_file_name("libkrunfw.so");
        assert_eq!(fs::read_to_string(link).expect("a link"), "one");

        // A directory where a link is to be: the library is in its place by then.
        let blocked = target.libkrunfw.with_file_name(format!("libkrunfw.so.{LIBKRUNFW_ABI}"));
        fs::remove_file(&blocked).expect("removed");
        fs::create_dir(&blocked).expect("a directory");
        let stage = home.path().join("two");
        publish(&pair_at(&stage, "two"), &target, &stage).expect_err("published over a directory");
        assert_eq!(texts(&target), ("one".into(), "one".into()));

        let fresh = Pair::below(&home.path().join("fresh"));
        fs::create_dir_all(fresh.libkrunfw.with_file_name(format!("libkrunfw.so.{LIBKRUNFW_ABI}")))
            .expect("a directory");
        let stage = home.path().join("three");
        publish(&pair_at(&stage, "three"), &fresh, &stage).expect_err("published over a directory");
        assert!(fresh.presence() == Presence::Absent);
    }

    #[test]
    fn an_archive_may_have_the_halves_by_their_names_alone() {
        let pair = Pair::beside(Path::new("/stage"));
        for name in ["msb", "./msb", "bin/msb", "./bin/msb"] {
            assert!(is_half(Path::new(name), &pair.msb), "{name}");
        }
        for name in ["../msb", "/msb", "lib/msb", "bin/../msb", "x/msb", "msb/msb", ".", ""] {
            assert!(!is_half(Path::new(name), &pair.msb), "{name}");
        }
    }
}
