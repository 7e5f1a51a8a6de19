//! What the engine leaves in the cache of images when a pull or a load fails, and who may remove it: each file has a lock,
//! and who has it by now needs the file, and sees to it.

use std::fs::{self, File};
use std::path::Path;

use microsandbox::{Image, LocalBackend, MicrosandboxError, MicrosandboxResult};
use microsandbox_image::{Digest, GlobalCache};
use rustix::fs::{FlockOperation, flock};

/// What the engine writes while it unpacks a layer, and truncates before that.
const WORK: [&str; 2] = [".spool", ".erofs.part"];

/// Remove a file, unless somebody has its lock.
fn remove(file: &Path, lock: &Path) {
    let Ok(lock) = File::options().write(true).create(true).truncate(false).open(lock) else { return };
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        let _ = fs::remove_file(file);
    }
}

/// Remove what has come of a blob that was not what it should be. The engine leaves it where it is shorter than that, and
/// the next pull would go on behind it, in vain.
pub(crate) fn remove_part(cache: &GlobalCache, digest: &str) {
    if let Ok(digest) = digest.parse::<Digest>() {
        remove(&cache.part_path(&digest), &cache.download_lock_path(&digest));
    }
}

/// Remove what was written while layers were unpacked that came to no end.
pub(crate) fn remove_work(cache: &GlobalCache) {
    for entry in fs::read_dir(cache.tmp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(layer) = name.to_str().and_then(|name| WORK.iter().find_map(|suffix| name.strip_suffix(*suffix)))
        else {
            continue;
        };
        if let Ok(layer) = layer.replacen('_', ":", 1).parse::<Digest>() {
            remove(&entry.path(), &cache.layer_erofs_lock_path(&layer));
        }
    }
}

/// Remove the layers that were unpacked of an archive in vain. What an image of the catalogue has by now, stays.
pub(crate) async fn remove_layers(
    local: &LocalBackend,
    cache: &GlobalCache,
    layers: &[Digest],
) -> MicrosandboxResult<()> {
    let mut left: Vec<_> = layers.iter().filter(|layer| cache.layer_erofs_path(layer).exists()).collect();
    if left.is_empty() {
        return Ok(());
    }
    for image in Image::list_local(local).await? {
        match Image::inspect_local(local, image.reference()).await {
            Ok(detail) => left.retain(|layer| detail.layers.iter().all(|other| other.diff_id != layer.to_string())),
            // It went meanwhile.
            Err(MicrosandboxError::ImageNotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    for layer in left {
        remove(&cache.layer_erofs_path(layer), &cache.layer_erofs_lock_path(layer));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_locked_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = GlobalCache::new(directory.path()).expect("a cache");
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64)).parse::<Digest>().expect("a digest");
        let work = |letter: &str, suffix: &str| cache.tmp_dir().join(format!("sha256_{}{suffix}", letter.repeat(64)));
        let (free, held) = (digest("a"), digest("b"));
        let stay = [work("b", ".spool"), work("a", ".part"), cache.tmp_dir().join("other.spool")];
        let go = [work("a", ".spool"), work("a", ".erofs.part")];
        for file in stay.iter().chain(&go).chain(&[cache.part_path(&held)]) {
            fs::write(file, "").expect("written");
        }
        let take = |path: &Path| {
            let lock = File::create(path).expect("a lock");
            flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("locked");
            lock
        };
        let _layer = take(&cache.layer_erofs_lock_path(&held));
        let _download = take(&cache.download_lock_path(&held));
        remove_work(&cache);
        remove_part(&cache, &held.to_string());
        remove_part(&cache, "no digest");
        assert!(stay.iter().all(|file| file.exists()) && go.iter().all(|file| !file.exists()));
        assert!(cache.part_path(&held).exists() && cache.part_path(&free).exists());
        remove_part(&cache, &free.to_string());
        assert!(!cache.part_path(&free).exists());
    }
}
