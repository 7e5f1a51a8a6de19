//! What a home directory must be able to hold, checked before the engine finds out half way.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use microsandbox_runtime::ipc::{canonical_agent_endpoint, control_socket_path_for, validate_socket_pair};

use crate::failure::Failure;

/// Check that sandboxes can live under `home`: its sockets' paths fit, it can be written, and its
/// file system keeps user extended attributes (the guest's owners and modes are stored in them).
pub(crate) fn check(home: &Path, run_dir: &Path) -> Result<(), Failure> {
    check_length(home, run_dir)?;
    let not_writable = |error: std::io::Error| Failure::home_not_writable(home, &error);
    std::fs::create_dir_all(home).map_err(not_writable)?;
    let probe = Probe::create(home).map_err(not_writable)?;
    xattr::set(&probe.0, "user.microsandbox.probe", b"1").map_err(|error| Failure::home_without_xattrs(home, &error))
}

/// The engine's database has the values of secrets as they are, and the engine makes it as readable as the umask lets it:
/// here nobody but its owner gets at it. One that is another user's stays as it is.
pub(crate) fn keep_private(home: &Path) -> Result<(), Failure> {
    const OTHERS: u32 = 0o077;
    let directory = home.join("db");
    let not_writable = |error: std::io::Error| Failure::home_not_writable(home, &error);
    std::fs::create_dir_all(&directory).map_err(not_writable)?;
    let mode = std::fs::metadata(&directory).map_err(not_writable)?.permissions().mode();
    if mode & OTHERS != 0 {
        let _ = std::fs::set_permissions(&directory, Permissions::from_mode(mode & !OTHERS));
    }
    Ok(())
}

/// All that [`check`] would find, and what exists of the home; none of it is made.
pub(crate) fn report(home: &Path, run_dir: &Path) -> (PathBuf, Vec<Failure>) {
    let home = std::path::absolute(home).unwrap_or_else(|_| home.to_owned());
    let existing = home.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned();
    let mut failures: Vec<Failure> = check_length(&home, run_dir).err().into_iter().collect();
    match Probe::create(&existing) {
        Err(error) => failures.push(Failure::home_not_writable(&home, &error)),
        Ok(probe) => {
            let marked = xattr::set(&probe.0, "user.microsandbox.probe", b"1");
            failures.extend(marked.err().map(|error| Failure::home_without_xattrs(&home, &error)));
        }
    }
    (existing, failures)
}

/// Every sandbox has sockets of the same path length, whatever its name: the name is hashed.
fn check_length(home: &Path, run_dir: &Path) -> Result<(), Failure> {
    let agent = canonical_agent_endpoint(run_dir, "any");
    if validate_socket_pair(&agent).is_ok() {
        return Ok(());
    }
    let longest = [agent.clone(), control_socket_path_for(&agent)]
        .iter()
        .map(|path| path.as_os_str().len())
        .max()
        .unwrap_or_default();
    // What the longest socket path has over the limit of `sun_path` must come off the home.
    let over = longest.saturating_sub(SOCKET_PATH_LIMIT);
    Err(Failure::home_path_too_long(home, home.as_os_str().len().saturating_sub(over)))
}

/// `sockaddr_un.sun_path` less its terminating zero.
const SOCKET_PATH_LIMIT: usize = if cfg!(target_os = "macos") { 103 } else { 107 };

/// A file that is gone when the check is over.
struct Probe(PathBuf);

impl Probe {
    fn create(home: &Path) -> std::io::Result<Self> {
        let path = home.join(format!(".probe-{}", uuid::Uuid::new_v4()));
        std::fs::File::create_new(&path).map(|_| Self(path))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_at(home: &Path) -> Result<(), Failure> {
        check(home, &home.join("run"))
    }

    #[test]
    fn the_limit_that_is_named_is_the_limit_that_holds() {
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        let Err(Failure::HomePathTooLong { limit, .. }) = check_at(&long) else { panic!("a long home was taken") };
        let of = |length: usize| PathBuf::from(format!("/{}", "x".repeat(length - 1)));
        let limit = usize::try_from(limit).expect("a length");
        assert!(check_length(&of(limit), &of(limit).join("run")).is_ok());
        assert!(check_length(&of(limit + 1), &of(limit + 1).join("run")).is_err());
    }

    #[test]
    fn a_home_that_does_not_exist_is_reported_on_by_what_does() {
        let directory = tempfile::tempdir().expect("a directory");
        let home = directory.path().join("a/b");
        let (existing, failures) = report(&home, &home.join("run"));
        assert_eq!((existing.as_path(), failures.len()), (directory.path(), 0));
        assert_eq!(std::fs::read_dir(directory.path()).expect("a list").count(), 0);

        let long = PathBuf::from(format!("/proc/{}", "x".repeat(200)));
        let (_, failures) = report(&long, &long.join("run"));
        assert!(matches!(failures[..], [Failure::HomePathTooLong { .. }, Failure::HomeNotWritable { .. }]));
    }

    #[test]
    fn the_database_is_its_owners_alone_also_where_it_was_not() {
        let home = tempfile::tempdir().expect("a directory");
        let mode = || std::fs::metadata(home.path().join("db")).expect("a directory").permissions().mode() & 0o7777;
        keep_private(home.path()).expect("made");
        assert_eq!(mode(), 0o700);
        for open in [0o755, 0o777, 0o1770] {
            std::fs::set_permissions(home.path().join("db"), Permissions::from_mode(open)).expect("opened");
            keep_private(home.path()).expect("closed");
            assert_eq!(mode(), open & !0o077);
        }
    }

    #[test]
    fn a_home_under_a_file_is_not_writable() {
        let file = std::env::temp_dir().join(format!("home-{}", uuid::Uuid::new_v4()));
        std::fs::write(&file, b"").expect("a file");
        assert!(matches!(check_at(&file.join("h")), Err(Failure::HomeNotWritable { .. })));
        std::fs::remove_file(&file).expect("removed");
    }
}
