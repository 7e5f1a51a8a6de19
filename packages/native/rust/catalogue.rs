//! Keeps the catalogue (the engine's `db/msb.db`) whole while this process has it open.
//!
//! `SQLite` guards an open database by POSIX locks, which a process loses when it closes any descriptor of the file. The
//! engine does that each time it opens a catalogue (`bind_database` compares two handles of the file and drops one). From
//! then on the next `msb` that closes the catalogue takes itself for the last, and removes the write-ahead log under this
//! process, whose reads then fail (`SQLITE_IOERR_SHORT_READ`) and whose writes reach nobody. A lock of an open file
//! description is not lost so: here is one more reader, which stands for all connections of this process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use microsandbox::LocalBackend;
use microsandbox::backend::Backend as EngineBackend;
use microsandbox_utils::{DB_FILENAME, DB_SUBDIR};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use parking_lot::Mutex;

use crate::failure::Failure;

/// The locks of this process, each for as long as its backend is used: a sandbox uses it after its backend was closed.
static READERS: Mutex<Vec<(Weak<dyn EngineBackend>, File)>> = Mutex::new(Vec::new());

/// Where `SQLite` has the bytes that each reader of a database locks (`os.h`, `SHARED_FIRST` and `SHARED_SIZE`).
const SHARED_FIRST: i64 = 0x4000_0002;
const SHARED_SIZE: i64 = 510;

/// Where a database says that it is read with a write-ahead log, and how (the file format, 1.3).
const READ_VERSION: u64 = 19;
const WAL: u8 = 2;

/// Who closes the catalogue as the last one holds it alone, for as long as it takes to copy its log.
const TRIES: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// A reader of a backend's catalogue. Let go of when nobody uses the backend any more.
pub(crate) struct Reader(());

impl Drop for Reader {
    fn drop(&mut self) {
        READERS.lock().retain(|(backend, _)| backend.strong_count() > 0);
    }
}

/// Open the catalogue of a backend, and keep it.
pub(crate) async fn open(local: LocalBackend) -> Result<(Arc<dyn EngineBackend>, Reader), Failure> {
    let home = local.config().home();
    let path = home.join(DB_SUBDIR).join(DB_FILENAME);
    let failed = |error: io::Error| Failure::home_not_writable(&home, &error);
    // Before it is opened, so that there is no moment without. What is wrong with it, the engine tells.
    let earlier = read(&path).await.unwrap_or_default();
    local.db().await?;
    let file = match earlier {
        None => read(&path).await.map_err(failed)?,
        kept => kept,
    };
    let backend: Arc<dyn EngineBackend> = local.into();
    if let Some(file) = file {
        let mut readers = READERS.lock();
        readers.retain(|(backend, _)| backend.strong_count() > 0);
        readers.push((Arc::downgrade(&backend), file));
    }
    Ok((backend, Reader(())))
}

/// Lock a catalogue as its reader. Nothing when there is none yet, or one that has no log: to give it one takes that
/// nobody reads.
async fn read(path: &Path) -> io::Result<Option<File>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut version = [0];
    if file.read_at(&mut version, READ_VERSION)? == 0 || version != [WAL] {
        return Ok(None);
    }
    let mut tries = 0;
    loop {
        match lock(&file) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < TRIES => tries += 1,
            locked => return locked.map(|()| Some(file)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn lock(file: &File) -> io::Result<()> {
    // Not of one type on all platforms.
    #[allow(clippy::cast_possible_truncation)]
    let readers = libc::flock {
        l_type: libc::F_RDLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: SHARED_FIRST,
        l_len: SHARED_SIZE,
        l_pid: 0,
    };
    #[cfg(target_os = "linux")]
    let request = FcntlArg::F_OFD_SETLK(&readers);
    // Lost when another backend of this process opens the same catalogue.
    #[cfg(not(target_os = "linux"))]
    let request = FcntlArg::F_SETLK(&readers);
    fcntl(file, request)?;
    Ok(())
}
