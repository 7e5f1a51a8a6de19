//! Taking files, directories and links from one place to another, within limits, whatever the source says.
//!
//! One walk for both directions: a [`Source`] is read and a [`Target`] is written, and neither knows of the other. The
//! walk is depth first and reads a directory in batches, so that what is held does not grow with the tree; files are
//! carried beside it, several at once.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::host::{Attributes, Kind, is_component};
use crate::outcome::Stop;

/// How many files are carried at once: what hides the round trips of each.
const SMALL_AT_ONCE: usize = 8;

/// How many of them are large: each holds a window of several megabytes.
const LARGE_AT_ONCE: usize = 3;

/// What is gathered and then written in one go. A file that is longer is written as it comes.
pub(crate) const WHOLE: u64 = 1 << 20;

/// How many of the entries that were left out are named.
const NAMED: usize = 100;

/// What is read.
pub(crate) trait Source: Send + Sync + 'static {
    type Place: Clone + Send + Sync + 'static;
    type Folder: Send + 'static;
    type File: Send + 'static;

    /// What the user has named; links are followed up to here, and nowhere below.
    fn root(&self) -> impl Future<Output = Result<(Attributes, Self::Place), Stop>> + Send;
    /// None where there is no directory by now, here and below.
    fn enter(&self, place: &Self::Place) -> impl Future<Output = Result<Option<Self::Folder>, Stop>> + Send;
    /// The next entries; none at the end.
    fn next(&self, folder: &mut Self::Folder) -> impl Future<Output = Result<Vec<Listed<Self::Place>>, Stop>> + Send;
    fn leave(&self, folder: Self::Folder) -> impl Future<Output = Result<(), Stop>> + Send;
    /// At most so many bytes will be read of it.
    fn open(
        &self,
        place: &Self::Place,
        limit: Option<u64>,
    ) -> impl Future<Output = Result<Option<Self::File>, Stop>> + Send;
    fn read(&self, file: &mut Self::File) -> impl Future<Output = Result<Option<Bytes>, Stop>> + Send;
    fn close(&self, file: Self::File) -> impl Future<Output = Result<(), Stop>> + Send;
    fn target(&self, place: &Self::Place) -> impl Future<Output = Result<Option<LinkTarget>, Stop>> + Send;
}

/// What is written. A directory is finished when all is in it.
pub(crate) trait Target: Send + Sync + 'static {
    type Folder: Clone + Send + Sync + 'static;
    type File: Send + 'static;

    /// The destination, as a directory.
    fn root(&self) -> impl Future<Output = Result<Self::Folder, Stop>> + Send;
    /// The destination as a name in a directory.
    fn parent(&self) -> impl Future<Output = Result<(Self::Folder, String), Stop>> + Send;
    fn folder(&self, parent: &Self::Folder, name: &str) -> impl Future<Output = Result<Self::Folder, Stop>> + Send;
    fn finish(&self, folder: &Self::Folder, attributes: Attributes) -> impl Future<Output = Result<(), Stop>> + Send;
    /// A whole file, of at most a few megabytes.
    fn put(
        &self,
        folder: &Self::Folder,
        name: &str,
        attributes: Attributes,
        data: Vec<Bytes>,
    ) -> impl Future<Output = Result<(), Stop>> + Send;
    fn create(&self, folder: &Self::Folder, name: &str) -> impl Future<Output = Result<Self::File, Stop>> + Send;
    fn write(&self, file: &mut Self::File, data: Bytes) -> impl Future<Output = Result<(), Stop>> + Send;
    fn publish(&self, file: Self::File, attributes: Attributes) -> impl Future<Output = Result<(), Stop>> + Send;
    fn link(&self, folder: &Self::Folder, name: &str, to: &str) -> impl Future<Output = Result<(), Stop>> + Send;
    /// Nothing that was begun is under way any more: remove what is not whole.
    fn clean(&self) -> impl Future<Output = ()> + Send;
}

/// An entry of a directory, as its source lists it.
pub(crate) enum Listed<P> {
    Entry {
        name: String,
        place: P,
        attributes: Attributes,
    },
    /// Its name is not UTF-8, and the guest's agent has no other. Its place of the unreadable letters is taken by U+FFFD.
    Unnameable(String),
}

/// Where a link leads.
pub(crate) enum LinkTarget {
    Text(String),
    /// Not UTF-8.
    Unnameable,
}

/// Why an entry was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A device, a FIFO or a socket.
    Special,
    /// A link that leads out of the tree.
    Link,
    /// Its name, or what a link says, is not UTF-8.
    Name,
    /// It went while the tree was read.
    Vanished,
}

impl Why {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Special => "special",
            Self::Link => "link",
            Self::Name => "name",
            Self::Vanished => "vanished",
        }
    }
}

/// What becomes of links.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// Those that stay in the tree are made.
    Inside,
    All,
    None,
}

/// What may be carried.
pub(crate) struct Rules {
    pub(crate) filter: Filter,
    pub(crate) links: Links,
    /// What would be left out is a failure.
    pub(crate) strict: bool,
    pub(crate) max_entries: u64,
    pub(crate) max_bytes: u64,
    pub(crate) max_depth: u32,
}

/// Which entries are wanted, by patterns as in a `.gitignore` at the root of the tree.
pub(crate) struct Filter {
    include: Option<Gitignore>,
    exclude: Gitignore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Out,
    /// A directory that is wanted only for what may be in it.
    Through,
    In,
}

impl Filter {
    pub(crate) fn new(include: Option<&[String]>, exclude: &[String]) -> Result<Self, Failure> {
        Ok(Self {
            include: include.map(|lines| patterns("include", lines)).transpose()?,
            exclude: patterns("exclude", exclude)?,
        })
    }

    /// `inside`: a directory above it is included by itself.
    fn judge(&self, path: &str, is_directory: bool, inside: bool) -> Verdict {
        if self.exclude.matched(path, is_directory).is_ignore() {
            return Verdict::Out;
        }
        match &self.include {
            Some(include) if !inside && !include.matched(path, is_directory).is_ignore() => {
                if is_directory {
                    Verdict::Through
                } else {
                    Verdict::Out
                }
            }
            _ => Verdict::In,
        }
    }
}

fn patterns(field: &str, lines: &[String]) -> Result<Gitignore, Failure> {
    let mut builder = GitignoreBuilder::new("");
    for (index, line) in lines.iter().enumerate() {
        builder.add_line(None, line).map_err(|error| Failure::InvalidConfig {
            message: format!("{field}.{index}: {error}"),
            field: Some(format!("{field}.{index}")),
        })?;
    }
    builder
        .build()
        .map_err(|error| Failure::InvalidConfig { message: format!("{field}: {error}"), field: Some(field.into()) })
}

/// Whether a link in a directory at this depth stays in the tree, wherever the tree's own links lead: each `..` comes
/// first, where it goes up real directories. Behind a name it would go up from wherever that name leads.
fn stays_inside(target: &str, depth: u32) -> bool {
    let (mut up, mut down) = (0, false);
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if down => return false,
            ".." => up += 1,
            _ => down = true,
        }
    }
    !target.is_empty() && !target.starts_with('/') && up <= depth
}

/// How far a transfer is.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    pub(crate) files: u64,
    pub(crate) directories: u64,
    pub(crate) symlinks: u64,
    pub(crate) bytes: u64,
    pub(crate) skipped: u64,
    /// The last entry that was touched.
    pub(crate) path: String,
}

#[derive(Default)]
struct Account {
    counts: Counts,
    /// Entries that were seen, and bytes that were let in: what the limits are held against.
    entries: u64,
    admitted: u64,
    named: Vec<(String, Why)>,
    root: Option<(Kind, Option<u64>)>,
    changes: u64,
    ended: bool,
}

/// What was done so far, for who reads it meanwhile and for the end.
#[derive(Default)]
pub(crate) struct Tally {
    account: Mutex<Account>,
    changed: Notify,
}

impl Tally {
    fn change<T>(&self, change: impl FnOnce(&mut Account) -> T) -> T {
        let mut account = self.account.lock();
        let value = change(&mut account);
        account.changes += 1;
        drop(account);
        self.changed.notify_one();
        value
    }

    pub(crate) fn end(&self) {
        self.change(|account| account.ended = true);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.account.lock().counts.clone()
    }

    /// The entries that were left out, the first of them.
    pub(crate) fn named(&self) -> Vec<(String, Why)> {
        self.account.lock().named.clone()
    }

    /// The kind of what is transferred, and its size when it is a file.
    pub(crate) fn root(&self) -> Option<(Kind, Option<u64>)> {
        self.account.lock().root
    }

    /// The number of changes so far; none when there will be no more.
    pub(crate) fn changes(&self) -> (u64, bool) {
        let account = self.account.lock();
        (account.changes, account.ended)
    }

    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn begin(&self, kind: Kind, size: Option<u64>) {
        self.change(|account| account.root = Some((kind, size)));
    }

    fn see(&self, path: &str, rules: &Rules) -> Result<(), Failure> {
        let mut account = self.account.lock();
        account.entries += 1;
        if account.entries > rules.max_entries {
            return Err(Failure::transfer_limit("maxEntries", rules.max_entries, path));
        }
        Ok(())
    }

    fn admit(&self, path: &str, bytes: u64, rules: &Rules) -> Result<(), Failure> {
        let mut account = self.account.lock();
        match account.admitted.checked_add(bytes).filter(|sum| *sum <= rules.max_bytes) {
            Some(sum) => {
                account.admitted = sum;
                Ok(())
            }
            None => Err(Failure::transfer_limit("maxBytes", rules.max_bytes, path)),
        }
    }

    pub(crate) fn bytes(&self, path: &str, count: u64) {
        self.change(|account| {
            account.counts.bytes += count;
            touch(account, path);
        });
    }

    pub(crate) fn done(&self, path: &str, kind: Kind) {
        self.change(|account| {
            let counts = &mut account.counts;
            match kind {
                Kind::Directory => counts.directories += 1,
                Kind::Symlink => counts.symlinks += 1,
                _ => counts.files += 1,
            }
            touch(account, path);
        });
    }

    fn skip(&self, path: &str, why: Why) {
        self.change(|account| {
            account.counts.skipped += 1;
            if account.named.len() < NAMED {
                account.named.push((path.to_owned(), why));
            }
        });
    }
}

fn touch(account: &mut Account, path: &str) {
    if account.counts.path != path {
        path.clone_into(&mut account.counts.path);
    }
}

/// A directory of the tree on its way.
struct Node<F> {
    parent: Option<Arc<Self>>,
    name: String,
    /// From the root of the tree, for the filter and for messages.
    path: String,
    depth: u32,
    /// Included, with all that is in it.
    inside: bool,
    attributes: Attributes,
    /// Made at once, or with the first that is put into it.
    made: OnceCell<F>,
    /// What is still to be put into it, and its listing.
    open: AtomicUsize,
}

/// A directory that is being listed.
struct Level<S: Source, T: Target> {
    node: Arc<Node<T::Folder>>,
    folder: S::Folder,
    waiting: VecDeque<Listed<S::Place>>,
}

/// A file or a link that is to be carried.
struct Item<S: Source, T: Target> {
    node: Arc<Node<T::Folder>>,
    name: String,
    path: String,
    place: S::Place,
    attributes: Attributes,
    /// The end is where it ends: its size is not to be relied on.
    endless: bool,
}

/// One transfer.
pub(crate) struct Transfer<S, T> {
    source: S,
    target: T,
    rules: Rules,
    tally: Arc<Tally>,
    /// Ends everything that waits.
    stop: CancellationToken,
    failed: Mutex<Option<Failure>>,
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl<S: Source, T: Target> Transfer<S, T> {
    pub(crate) fn new(source: S, target: T, rules: Rules, tally: Arc<Tally>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            source,
            target,
            rules,
            tally,
            stop,
            failed: Mutex::new(None),
            small: Arc::new(Semaphore::new(SMALL_AT_ONCE)),
            large: Arc::new(Semaphore::new(LARGE_AT_ONCE)),
        })
    }

    /// Carry everything. When this answers, nothing is under way and nothing is left that is not whole. It must not be
    /// dropped while it waits: `stop` is how it ends early.
    pub(crate) async fn run(self: &Arc<Self>) -> Result<(), Stop> {
        let mut jobs = JoinSet::new();
        if let Err(stop) = self.walk(&mut jobs).await {
            self.fail(stop);
        }
        while let Some(joined) = jobs.join_next().await {
            settled(joined);
        }
        let failed = self.failed.lock().take();
        if let Some(failure) = failed {
            self.target.clean().await;
            return Err(Stop::Failed(failure));
        }
        if self.stop.is_cancelled() {
            self.target.clean().await;
            return Err(Stop::Cancelled);
        }
        Ok(())
    }

    /// The first failure is the one that is told; the others follow from it.
    fn fail(&self, stop: Stop) {
        if let Stop::Failed(failure) = stop {
            let mut failed = self.failed.lock();
            if failed.is_none() && !self.stop.is_cancelled() {
                *failed = Some(failure);
            }
        }
        self.stop.cancel();
    }

    fn check(&self) -> Result<(), Stop> {
        if self.stop.is_cancelled() { Err(Stop::Cancelled) } else { Ok(()) }
    }

    fn skip(&self, path: &str, why: Why) -> Result<(), Stop> {
        if self.rules.strict {
            return Err(Failure::transfer_refused(path, why.word()).into());
        }
        self.tally.skip(path, why);
        Ok(())
    }

    async fn walk(self: &Arc<Self>, jobs: &mut JoinSet<()>) -> Result<(), Stop> {
        let (attributes, place) = self.source.root().await?;
        match attributes.kind {
            Kind::Directory => self.tally.begin(Kind::Directory, None),
            Kind::File => return self.only(jobs, attributes, place).await,
            kind => return Err(Failure::transfer_refused("", kind.word()).into()),
        }
        let folder = self.source.enter(&place).await?;
        let folder = folder.ok_or_else(|| Failure::transfer_refused("", Why::Vanished.word()))?;
        let root = Node::top(self.target.root().await?, attributes);
        self.tally.done("", Kind::Directory);
        let mut levels = vec![Level { node: root, folder, waiting: VecDeque::new() }];
        while let Some(level) = levels.last_mut() {
            self.check()?;
            let Some(listed) = level.waiting.pop_front() else {
                level.waiting = self.source.next(&mut level.folder).await?.into();
                if level.waiting.is_empty()
                    && let Some(Level { node, folder, .. }) = levels.pop()
                {
                    let transfer = self.clone();
                    self.begin(jobs, None, async move {
                        transfer.source.leave(folder).await?;
                        transfer.release(node).await
                    });
                }
                continue;
            };
            let node = level.node.clone();
            if let Some(below) = self.take(jobs, node, listed).await? {
                levels.push(below);
            }
        }
        Ok(())
    }

    /// The user has named a file.
    async fn only(
        self: &Arc<Self>,
        jobs: &mut JoinSet<()>,
        attributes: Attributes,
        place: S::Place,
    ) -> Result<(), Stop> {
        self.tally.begin(Kind::File, Some(attributes.size));
        let (folder, name) = self.target.parent().await?;
        let node = Node::top(folder, attributes);
        let item = Item { node, path: name.clone(), name, place, attributes, endless: attributes.size == 0 };
        self.carry(jobs, item).await
    }

    /// One entry: begun, left out, or a directory to go into.
    async fn take(
        self: &Arc<Self>,
        jobs: &mut JoinSet<()>,
        node: Arc<Node<T::Folder>>,
        listed: Listed<S::Place>,
    ) -> Result<Option<Level<S, T>>, Stop> {
        let (name, place, attributes) = match listed {
            Listed::Entry { name, place, attributes } => (name, place, attributes),
            Listed::Unnameable(name) => {
                let path = node.path_of(&name);
                self.tally.see(&path, &self.rules)?;
                self.skip(&path, Why::Name)?;
                return Ok(None);
            }
        };
        if !is_component(&name) {
            return Err(Failure::unsafe_name(&name, &node.path).into());
        }
        let path = node.path_of(&name);
        let is_directory = attributes.kind == Kind::Directory;
        let verdict = self.rules.filter.judge(&path, is_directory, node.inside);
        if verdict == Verdict::Out || (attributes.kind == Kind::Symlink && self.rules.links == Links::None) {
            return Ok(None);
        }
        self.tally.see(&path, &self.rules)?;
        match attributes.kind {
            Kind::Special => self.skip(&path, Why::Special)?,
            Kind::File | Kind::Symlink => {
                self.carry(jobs, Item { node, name, path, place, attributes, endless: false }).await?;
            }
            Kind::Directory => {
                let depth = node.depth + 1;
                if depth > self.rules.max_depth {
                    return Err(Failure::transfer_limit("maxDepth", self.rules.max_depth.into(), &path).into());
                }
                let Some(folder) = self.source.enter(&place).await? else {
                    self.skip(&path, vanished(&name))?;
                    return Ok(None);
                };
                node.open.fetch_add(1, Ordering::Relaxed);
                let inside = node.inside || (verdict == Verdict::In && self.rules.filter.include.is_some());
                let below = Node::below(node, name, path, inside, attributes);
                if verdict == Verdict::In {
                    self.made(&below).await?;
                }
                return Ok(Some(Level { node: below, folder, waiting: VecDeque::new() }));
            }
        }
        Ok(None)
    }

    /// Begin to carry a file or a link, when there is room for one more.
    async fn carry(self: &Arc<Self>, jobs: &mut JoinSet<()>, item: Item<S, T>) -> Result<(), Stop> {
        let is_link = item.attributes.kind == Kind::Symlink;
        if !is_link {
            self.tally.admit(&item.path, item.attributes.size, &self.rules)?;
        }
        let room = if !is_link && (item.endless || item.attributes.size > WHOLE) { &self.large } else { &self.small };
        let permit = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Stop::Cancelled),
            permit = room.clone().acquire_owned() => permit.map_err(|_| Stop::Cancelled)?,
        };
        item.node.open.fetch_add(1, Ordering::Relaxed);
        let transfer = self.clone();
        self.begin(jobs, Some(permit), async move {
            let node = item.node.clone();
            if is_link {
                transfer.link(item).await?;
            } else {
                transfer.file(item).await?;
            }
            transfer.release(node).await
        });
        Ok(())
    }

    fn begin(
        self: &Arc<Self>,
        jobs: &mut JoinSet<()>,
        permit: Option<OwnedSemaphorePermit>,
        job: impl Future<Output = Result<(), Stop>> + Send + 'static,
    ) {
        let transfer = self.clone();
        jobs.spawn(async move {
            if let Err(stop) = job.await {
                transfer.fail(stop);
            }
            drop(permit);
        });
        while let Some(joined) = jobs.try_join_next() {
            settled(joined);
        }
    }

    async fn file(&self, item: Item<S, T>) -> Result<(), Stop> {
        let Item { node, name, path, place, attributes, endless } = item;
        let mut whole = Vec::new();
        let mut created = None;
        if attributes.size > 0 || endless {
            let limit = (!endless).then_some(attributes.size);
            let Some(mut file) = self.source.open(&place, limit).await? else {
                return self.skip(&path, vanished(&name));
            };
            let mut length = 0;
            while let Some(data) = self.source.read(&mut file).await? {
                self.check()?;
                let count = data.len() as u64;
                length += count;
                if limit.is_none_or(|limit| length > limit) {
                    self.tally.admit(&path, count, &self.rules)?;
                }
                self.tally.bytes(&path, count);
                match &mut created {
                    Some(file) => self.target.write(file, data).await?,
                    None => whole.push(data),
                }
                if created.is_none() && length > WHOLE {
                    let mut file = self.target.create(self.made(&node).await?, &name).await?;
                    for data in whole.drain(..) {
                        self.target.write(&mut file, data).await?;
                    }
                    created = Some(file);
                }
            }
            self.source.close(file).await?;
        }
        self.check()?;
        match created {
            Some(file) => self.target.publish(file, attributes).await?,
            None => self.target.put(self.made(&node).await?, &name, attributes, whole).await?,
        }
        self.tally.done(&path, Kind::File);
        Ok(())
    }

    async fn link(&self, item: Item<S, T>) -> Result<(), Stop> {
        let Item { node, name, path, place, .. } = item;
        let to = match self.source.target(&place).await? {
            None => return self.skip(&path, vanished(&name)),
            Some(LinkTarget::Unnameable) => return self.skip(&path, Why::Name),
            Some(LinkTarget::Text(to)) => to,
        };
        let is_safe = self.rules.links == Links::All || stays_inside(&to, node.depth);
        if !is_safe || to.is_empty() || to.contains('\0') {
            return self.skip(&path, Why::Link);
        }
        self.check()?;
        self.target.link(self.made(&node).await?, &name, &to).await?;
        self.tally.done(&path, Kind::Symlink);
        Ok(())
    }

    /// The directory of a node, made with those above it when it is the first time that it is needed.
    async fn made<'a>(&self, node: &'a Arc<Node<T::Folder>>) -> Result<&'a T::Folder, Stop> {
        node.made
            .get_or_try_init(|| async {
                // Only the top has no parent, and it is made with its node.
                let parent = node.parent.as_ref().ok_or(Stop::Cancelled)?;
                let above = Box::pin(self.made(parent)).await?;
                let folder = self.target.folder(above, &node.name).await?;
                self.tally.done(&node.path, Kind::Directory);
                Ok(folder)
            })
            .await
    }

    /// One thing less to be put into a directory. When it was the last, the directory is finished, and so may be those above.
    async fn release(&self, mut node: Arc<Node<T::Folder>>) -> Result<(), Stop> {
        while node.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            if let Some(folder) = node.made.get() {
                self.target.finish(folder, node.attributes).await?;
            }
            match &node.parent {
                Some(parent) => node = parent.clone(),
                None => break,
            }
        }
        Ok(())
    }
}

impl<F> Node<F> {
    fn top(folder: F, attributes: Attributes) -> Arc<Self> {
        Arc::new(Self {
            parent: None,
            name: String::new(),
            path: String::new(),
            depth: 0,
            inside: false,
            attributes,
            made: OnceCell::new_with(Some(folder)),
            open: AtomicUsize::new(1),
        })
    }

    fn below(parent: Arc<Self>, name: String, path: String, inside: bool, attributes: Attributes) -> Arc<Self> {
        let depth = parent.depth + 1;
        let (made, open) = (OnceCell::new(), AtomicUsize::new(1));
        Arc::new(Self { parent: Some(parent), name, path, depth, inside, attributes, made, open })
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }
}

/// What the guest's agent could not name is not there under the name that it gave.
fn vanished(name: &str) -> Why {
    if name.contains(char::REPLACEMENT_CHARACTER) { Why::Name } else { Why::Vanished }
}

/// A bug in a job is a bug of the call.
fn settled(joined: Result<(), JoinError>) {
    if let Err(error) = joined
        && let Ok(panic) = error.try_into_panic()
    {
        resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::tree_host::{HostSource, HostTarget};

    fn rules() -> Rules {
        Rules {
            filter: Filter::new(None, &[]).expect("a filter"),
            links: Links::Inside,
            strict: false,
            max_entries: 10_000,
            max_bytes: 1 << 30,
            max_depth: 64,
        }
    }

    fn filtered(include: Option<&[&str]>, exclude: &[&str]) -> Rules {
        let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        Rules { filter: Filter::new(include.map(owned).as_deref(), &owned(exclude)).expect("a filter"), ..rules() }
    }

    struct Places {
        root: tempfile::TempDir,
    }

    impl Places {
        /// Files by their paths below the source; a path that ends in a slash is a directory.
        fn new(entries: &[&str]) -> Self {
            let places = Self { root: tempfile::tempdir().expect("a directory") };
            fs::create_dir(places.source()).expect("mkdir");
            for entry in entries {
                let path = places.source().join(entry);
                let directory = if entry.ends_with('/') { Some(&*path) } else { path.parent() };
                fs::create_dir_all(directory.expect("a parent")).expect("mkdir");
                if !entry.ends_with('/') {
                    fs::write(path, entry).expect("write");
                }
            }
            places
        }

        fn source(&self) -> PathBuf {
            self.root.path().join("source")
        }

        fn target(&self) -> PathBuf {
            self.root.path().join("target")
        }

        fn run(&self, rules: Rules) -> (Result<(), Stop>, Arc<Tally>) {
            run(HostSource::new(&self.source()), &self.target(), rules)
        }

        /// What is below the target, directories with a slash, in order.
        fn arrived(&self) -> Vec<String> {
            let mut found = Vec::new();
            list(&self.target(), "", &mut found);
            found.sort();
            found
        }
    }

    fn list(directory: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let entry = entry.expect("entry");
            let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().expect("type").is_dir() {
                list(&entry.path(), &format!("{path}/"), found);
                found.push(format!("{path}/"));
            } else {
                found.push(path);
            }
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
    }

    fn run<S: Source>(source: S, target: &Path, rules: Rules) -> (Result<(), Stop>, Arc<Tally>) {
        let tally = Arc::new(Tally::default());
        let transfer = Transfer::new(source, HostTarget::new(target), rules, tally.clone(), CancellationToken::new());
        (runtime().block_on(transfer.run()), tally)
    }

    fn failure(result: Result<(), Stop>) -> Failure {
        match result {
            Err(Stop::Failed(failure)) => failure,
            Err(Stop::Cancelled) => panic!("cancelled"),
            Ok(()) => panic!("no failure"),
        }
    }

    fn skipped(tally: &Tally) -> Vec<(String, &'static str)> {
        let mut named: Vec<_> = tally.named().into_iter().map(|(path, why)| (path, why.word())).collect();
        named.sort();
        named
    }

    #[test]
    fn a_tree_arrives_with_its_contents_modes_times_links_and_empty_directories() {
        let places = Places::new(&["a", "b/c", "b/d/e", "empty/", "b/none/at/all/"]);
        fs::set_permissions(places.source().join("a"), Permissions::from_mode(0o751)).expect("chmod");
        fs::set_permissions(places.source().join("b/d"), Permissions::from_mode(0o550)).expect("chmod");
        symlink("../a", places.source().join("b/up")).expect("symlink");
        fs::write(places.source().join("large"), vec![7; 5 << 20]).expect("write");
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::File::open(places.source().join("b/d/e")).expect("open").set_modified(old).expect("times");
        fs::File::open(places.source().join("b/d")).expect("open").set_modified(old).expect("times");
        let (result, tally) = places.run(rules());
        assert!(result.is_ok());
        assert_eq!(
            places.arrived(),
            ["a", "b/", "b/c", "b/d/", "b/d/e", "b/none/", "b/none/at/", "b/none/at/all/", "b/up", "empty/", "large"]
        );
        let of = |path: &str| fs::symlink_metadata(places.target().join(path)).expect("stat");
        assert_eq!(of("a").mode() & 0o7777, 0o751);
        assert_eq!((of("b/d").mode() & 0o7777, of("b/d").mtime()), (0o750, 1_000_000_000));
        assert_eq!(of("b/d/e").mtime(), 1_000_000_000);
        assert_eq!(fs::read_link(places.target().join("b/up")).expect("readlink"), Path::new("../a"));
        assert_eq!(fs::read(places.target().join("large")).expect("read"), vec![7; 5 << 20]);
        assert_eq!(fs::read(places.target().join("b/d/e")).expect("read"), b"b/d/e");
        let Counts { files, directories, symlinks, bytes, skipped, .. } = tally.counts();
        assert_eq!((files, directories, symlinks, skipped), (4, 7, 1, 0));
        assert_eq!(bytes, (5 << 20) + 1 + 3 + 5);
    }

    #[test]
    fn a_file_takes_the_destination_itself_and_its_directory_is_made() {
        let places = Places::new(&["a"]);
        symlink("a", places.source().join("link")).expect("symlink");
        let target = places.target().join("new/name");
        let (result, tally) = run(HostSource::new(&places.source().join("link")), &target, rules());
        assert!(result.is_ok());
        assert_eq!(places.arrived(), ["new/", "new/name"]);
        assert_eq!(tally.root(), Some((Kind::File, Some(1))));
    }

    #[test]
    fn a_file_whose_size_is_not_told_is_read_to_its_end() {
        let places = Places::new(&[]);
        let (result, _) = run(HostSource::new(Path::new("/proc/self/status")), &places.target(), rules());
        assert!(result.is_ok());
        assert!(fs::read_to_string(places.target()).expect("read").contains("Pid:"));
    }

    #[test]
    fn a_link_stays_only_where_each_way_up_comes_first() {
        for (target, depth, stays) in [
            ("a", 0, true),
            ("a/b", 0, true),
            ("./a", 0, true),
            ("../a", 1, true),
            (".././../a", 2, true),
            ("a//b/", 0, true),
            ("..", 1, true),
            ("..a", 0, true),
            ("", 0, false),
            ("/", 9, false),
            ("/etc/passwd", 9, false),
            ("..", 0, false),
            ("../../a", 1, false),
            // Where `a` is a link to the root, this is its parent.
            ("a/../b", 1, false),
            ("a/..", 9, false),
        ] {
            assert_eq!(stays_inside(target, depth), stays, "{target:?} at {depth}");
        }
    }

    #[test]
    fn links_that_lead_out_are_told_and_not_made() {
        let places = Places::new(&["d/a"]);
        for (to, link) in [
            ("/etc/passwd", "absolute"),
            ("../../../etc/passwd", "d/up"),
            ("..", "top"),
            ("d/../d/../..", "zigzag"),
            ("../d", "d/inside"),
            ("missing", "dangling"),
        ] {
            symlink(to, places.source().join(link)).expect("symlink");
        }
        let (result, tally) = places.run(rules());
        assert!(result.is_ok());
        assert_eq!(places.arrived(), ["d/", "d/a", "d/inside", "dangling"]);
        assert_eq!(
            skipped(&tally),
            ["absolute", "d/up", "top", "zigzag"].map(|path| (path.to_owned(), "link")).to_vec()
        );
        let (all, none) = (Places::new(&[]), Places::new(&[]));
        let (result, _) = run(HostSource::new(&places.source()), &all.target(), Rules { links: Links::All, ..rules() });
        assert!(result.is_ok());
        assert_eq!(all.arrived().len(), 8);
        let rules_without = Rules { links: Links::None, ..rules() };
        let (result, tally) = run(HostSource::new(&places.source()), &none.target(), rules_without);
        assert!(result.is_ok());
        assert_eq!(none.arrived(), ["d/", "d/a"]);
        assert_eq!((tally.counts().symlinks, tally.counts().skipped), (0, 0));
        let failed = failure(places.run(Rules { strict: true, ..rules() }).0);
        assert!(matches!(failed, Failure::TransferRefused { ref why, .. } if why == "link"), "{failed:?}");
    }

    #[test]
    fn what_is_no_file_is_told_and_not_waited_for() {
        let places = Places::new(&["a"]);
        let fifo = places.source().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).expect("mkfifo");
        let socket = std::os::unix::net::UnixListener::bind(places.source().join("socket")).expect("bind");
        let bad = std::ffi::OsString::from_vec(b"bad-\xff".to_vec());
        fs::write(places.source().join(bad), "").expect("write");
        let (result, tally) = places.run(rules());
        assert!(result.is_ok());
        assert_eq!(places.arrived(), ["a"]);
        assert_eq!(
            skipped(&tally),
            [("bad-\u{fffd}", "name"), ("fifo", "special"), ("socket", "special")]
                .map(|(path, why)| (path.to_owned(), why))
                .to_vec()
        );
        drop(socket);
        let failed = failure(run(HostSource::new(&fifo), &places.target(), rules()).0);
        assert!(matches!(failed, Failure::TransferRefused { ref why, .. } if why == "special"), "{failed:?}");
    }

    #[test]
    fn patterns_mean_what_they_mean_in_a_gitignore() {
        let entries = &["a.log", "keep.log", "src/a.ts", "src/a.log", "src/deep/b.ts", "node_modules/x/y.ts", "docs/"];
        for (include, exclude, arrived) in [
            (
                None,
                &["*.log", "!keep.log", "node_modules/"][..],
                &["docs/", "keep.log", "src/", "src/a.ts", "src/deep/", "src/deep/b.ts"][..],
            ),
            (
                None,
                &["/src"],
                &["a.log", "docs/", "keep.log", "node_modules/", "node_modules/x/", "node_modules/x/y.ts"],
            ),
            (
                None,
                &["*", "!*/", "!*.ts"],
                &[
                    "docs/",
                    "node_modules/",
                    "node_modules/x/",
                    "node_modules/x/y.ts",
                    "src/",
                    "src/a.ts",
                    "src/deep/",
                    "src/deep/b.ts",
                ],
            ),
            // What is only gone through is not made.
            (Some(&["*.ts"][..]), &["node_modules"], &["src/", "src/a.ts", "src/deep/", "src/deep/b.ts"]),
            (Some(&["/src/deep", "docs"]), &[], &["docs/", "src/", "src/deep/", "src/deep/b.ts"]),
            (Some(&["src"]), &["*.log"], &["src/", "src/a.ts", "src/deep/", "src/deep/b.ts"]),
            (Some(&[]), &[], &[]),
        ] {
            let places = Places::new(entries);
            let (result, _) = places.run(filtered(include, exclude));
            assert!(result.is_ok());
            assert_eq!(places.arrived(), arrived, "{include:?} {exclude:?}");
        }
        let failed = Filter::new(None, &["fine".into(), "[z-a]".into()]).err();
        assert!(
            matches!(failed, Some(Failure::InvalidConfig { field: Some(ref field), .. }) if field == "exclude.1"),
            "{failed:?}"
        );
    }

    #[test]
    fn limits_stop_it_and_leave_no_temporary_file() {
        let entries: Vec<_> = (0..40).map(|index| format!("{index:02}/file")).collect();
        let entries: Vec<_> = entries.iter().map(String::as_str).chain(["deep/er/and/deeper/"]).collect();
        for (rules, expected) in [
            (Rules { max_entries: 20, ..rules() }, ("maxEntries", 20.0)),
            (Rules { max_bytes: 30, ..rules() }, ("maxBytes", 30.0)),
            (Rules { max_depth: 3, ..rules() }, ("maxDepth", 3.0)),
        ] {
            let places = Places::new(&entries);
            let Failure::TransferLimit { limit, maximum, .. } = failure(places.run(rules).0) else { panic!() };
            assert_eq!((limit.as_str(), maximum), expected);
            assert!(places.arrived().iter().all(|path| !path.contains(".part")));
        }
    }

    #[test]
    fn the_holes_of_a_sparse_file_count() {
        let places = Places::new(&[]);
        let file = fs::File::create(places.source().join("sparse")).expect("create");
        file.set_len(1 << 40).expect("truncate");
        let failed = failure(places.run(rules()).0);
        assert!(matches!(failed, Failure::TransferLimit { ref limit, .. } if limit == "maxBytes"), "{failed:?}");
        assert_eq!(places.arrived(), Vec::<String>::new());
    }

    #[test]
    fn a_transfer_that_is_stopped_leaves_whole_files_only() {
        let entries: Vec<_> = (0..400).map(|index| format!("{}/{index}", index % 20)).collect();
        let places = Places::new(&entries.iter().map(String::as_str).collect::<Vec<_>>());
        let (stop, tally) = (CancellationToken::new(), Arc::new(Tally::default()));
        let (source, target) = (HostSource::new(&places.source()), HostTarget::new(&places.target()));
        let transfer = Transfer::new(source, target, rules(), tally.clone(), stop.clone());
        let result = runtime().block_on(async {
            let running = transfer.run();
            tokio::pin!(running);
            loop {
                tokio::select! {
                    result = &mut running => return result,
                    () = tally.changed(), if !stop.is_cancelled() => if tally.counts().files > 10 { stop.cancel() },
                }
            }
        });
        assert!(matches!(result, Err(Stop::Cancelled)));
        let arrived = places.arrived();
        assert!(arrived.len() < 400);
        for path in arrived.iter().filter(|path| !path.ends_with('/')) {
            assert_eq!(&fs::read_to_string(places.target().join(path)).expect("read"), path);
        }
    }

    /// A source that says whatever it wants.
    struct Hostile(Mutex<Vec<Listed<()>>>);

    const FILE: Attributes = Attributes { kind: Kind::File, size: 4, mode: 0o644, mtime: None };

    impl Hostile {
        fn file(name: &str) -> Self {
            Self(Mutex::new(vec![Listed::Entry { name: name.into(), place: (), attributes: FILE }]))
        }
    }

    impl Source for Hostile {
        type Place = ();
        type Folder = ();
        type File = usize;

        async fn root(&self) -> Result<(Attributes, ()), Stop> {
            Ok((Attributes { kind: Kind::Directory, ..FILE }, ()))
        }

        async fn enter(&self, (): &()) -> Result<Option<()>, Stop> {
            Ok(Some(()))
        }

        async fn next(&self, (): &mut ()) -> Result<Vec<Listed<()>>, Stop> {
            Ok(std::mem::take(&mut *self.0.lock()))
        }

        async fn leave(&self, (): ()) -> Result<(), Stop> {
            Ok(())
        }

        async fn open(&self, (): &(), _: Option<u64>) -> Result<Option<usize>, Stop> {
            Ok(Some(64))
        }

        /// More than was said.
        async fn read(&self, left: &mut usize) -> Result<Option<Bytes>, Stop> {
            if *left == 0 {
                return Ok(None);
            }
            *left -= 1;
            Ok(Some(vec![0; 1 << 16].into()))
        }

        async fn close(&self, _: usize) -> Result<(), Stop> {
            Ok(())
        }

        async fn target(&self, (): &()) -> Result<Option<LinkTarget>, Stop> {
            Ok(None)
        }
    }

    #[test]
    fn a_name_that_is_no_name_of_a_file_ends_it() {
        for name in ["", ".", "..", "../out", "/etc/passwd", "a/b", "a\0b"] {
            let places = Places::new(&[]);
            let failed = failure(run(Hostile::file(name), &places.target(), rules()).0);
            assert!(matches!(failed, Failure::UnsafeName { name: ref told, .. } if told == name), "{failed:?}");
            assert_eq!(fs::read_dir(places.root.path()).expect("read").count(), 2);
        }
        let places = Places::new(&[]);
        assert!(run(Hostile::file("\n..\u{202e}"), &places.target(), rules()).0.is_ok());
    }

    #[test]
    fn a_file_that_is_longer_than_it_was_said_to_be_is_held_against_the_limit() {
        let places = Places::new(&[]);
        let rules = Rules { max_bytes: 1 << 20, ..rules() };
        let failed = failure(run(Hostile::file("long"), &places.target(), rules).0);
        assert!(matches!(failed, Failure::TransferLimit { ref limit, .. } if limit == "maxBytes"), "{failed:?}");
        assert_eq!(places.arrived(), Vec::<String>::new());
    }

    #[test]
    fn of_what_is_left_out_so_many_are_named_and_all_are_counted() {
        let listed = (0..150).map(|index| Listed::Unnameable(format!("{index}\u{fffd}"))).collect();
        let places = Places::new(&[]);
        let (result, tally) = run(Hostile(Mutex::new(listed)), &places.target(), rules());
        assert!(result.is_ok());
        assert_eq!((tally.counts().skipped, tally.named().len()), (150, NAMED));
    }
}
