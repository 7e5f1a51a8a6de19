//! SFTP, version 3, on a guest's files as its root has them, with the extensions of OpenSSH that a guest can do.
//!
//! Up to [`IN_FLIGHT`] requests of a client are under way. Those of one handle are done in their order; what looks at a path
//! is done beside them; and what changes a path, or opens one, waits for all before it, as all behind it wait for that. So a
//! client that asks ahead sees what it would have seen had it waited.
//!
//! A request to the guest takes long and carries much, and clients ask for little at a time: writes that continue each other
//! and wait together are written as one, and a file that is read in order is read ahead. What was read ahead is not older than
//! [`FRESH`], and is forgotten with each change that the same client makes.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use chrono::{DateTime, Datelike, Timelike};
use microsandbox::protocol::fs::{FsEntryInfo, FsOp, FsOpenOptions, FsSetAttrs};
use microsandbox::sandbox::Sandbox as EngineSandbox;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cancel::Cancel;
use crate::exec::{self, ExecOptions, OutputPolicy};
use crate::failure::Failure;
use crate::files::{Files, is_missing, refuse_directory};
use crate::guest::{Guest, GuestDirectory, GuestFile};
use crate::outcome::Stop;
use crate::ssh_channel::{Exit, Gone, Inbox, Output};
use crate::ssh_session::Service;

const VERSION: u32 = 3;

/// The largest packet of either side, without its length: OpenSSH's.
const LARGEST: usize = 256 << 10;

/// The most that one request reads or writes.
const LONGEST: usize = LARGEST - 1024;

/// Requests under way.
const IN_FLIGHT: u32 = 32;

/// Files and directories that are open.
const HANDLES: usize = 256;

/// What one request to the guest reads ahead, or writes.
const BATCH: usize = 1 << 20;

/// How old what was read ahead may be.
const FRESH: Duration = Duration::from_secs(1);

/// The names of one answer: so many bytes, about.
const NAMES: usize = 128 << 10;

/// How much of a reason is told.
const REASON: usize = 512;

/// How long a program of the guest's may take.
const TOOL_MS: f64 = 60_000.0;

const MODE: u32 = 0o7777;
const HALF_A_YEAR: i64 = 182 * 24 * 60 * 60;

const ENOENT: i32 = 2;
const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const ENOSYS: i32 = 38;
const ELOOP: i32 = 40;
const EOPNOTSUPP: i32 = 95;

/// The kinds of packets.
mod kind {
    pub(super) const INIT: u8 = 1;
    pub(super) const VERSION: u8 = 2;
    pub(super) const OPEN: u8 = 3;
    pub(super) const CLOSE: u8 = 4;
    pub(super) const READ: u8 = 5;
    pub(super) const WRITE: u8 = 6;
    pub(super) const LSTAT: u8 = 7;
    pub(super) const FSTAT: u8 = 8;
    pub(super) const SETSTAT: u8 = 9;
    pub(super) const FSETSTAT: u8 = 10;
    pub(super) const OPENDIR: u8 = 11;
    pub(super) const READDIR: u8 = 12;
    pub(super) const REMOVE: u8 = 13;
    pub(super) const MKDIR: u8 = 14;
    pub(super) const RMDIR: u8 = 15;
    pub(super) const REALPATH: u8 = 16;
    pub(super) const STAT: u8 = 17;
    pub(super) const RENAME: u8 = 18;
    pub(super) const READLINK: u8 = 19;
    pub(super) const SYMLINK: u8 = 20;
    pub(super) const STATUS: u8 = 101;
    pub(super) const HANDLE: u8 = 102;
    pub(super) const DATA: u8 = 103;
    pub(super) const NAME: u8 = 104;
    pub(super) const ATTRS: u8 = 105;
    pub(super) const EXTENDED: u8 = 200;
    pub(super) const EXTENDED_REPLY: u8 = 201;
}

mod status {
    pub(super) const OK: u32 = 0;
    pub(super) const EOF: u32 = 1;
    pub(super) const NO_SUCH_FILE: u32 = 2;
    pub(super) const PERMISSION_DENIED: u32 = 3;
    pub(super) const FAILURE: u32 = 4;
    pub(super) const BAD_MESSAGE: u32 = 5;
    pub(super) const OP_UNSUPPORTED: u32 = 8;
}

/// What attributes there are.
mod attr {
    pub(super) const SIZE: u32 = 1;
    pub(super) const OWNER: u32 = 2;
    pub(super) const MODE: u32 = 4;
    pub(super) const TIMES: u32 = 8;
    pub(super) const EXTENDED: u32 = 0x8000_0000;
}

/// How a file is to be opened.
mod open {
    pub(super) const READ: u32 = 1;
    pub(super) const WRITE: u32 = 2;
    pub(super) const APPEND: u32 = 4;
    pub(super) const CREATE: u32 = 8;
    pub(super) const TRUNCATE: u32 = 16;
    pub(super) const EXCLUSIVE: u32 = 32;
}

const EXTENSIONS: [(&str, &str); 7] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
];

/// Serve a channel until its client has said that this was all: how it then ends.
pub(crate) async fn serve(service: &Service, inbox: &Inbox, output: &Output) -> Result<Exit, Gone> {
    let directory = service.sandbox.config().spec.runtime.workdir.clone().unwrap_or_else(|| "/".into());
    let root =
        Root { sandbox: service.sandbox.clone(), guest: Guest::default(), directory, changes: AtomicU64::new(0) };
    let (replies, mut to_send) = mpsc::unbounded_channel::<Reply>();
    let session = Session {
        root: Arc::new(root),
        replies,
        room: Arc::new(Semaphore::new(IN_FLIGHT as usize)),
        handles: HashMap::new(),
        last: 0,
        tasks: JoinSet::new(),
    };
    let receiving = async { Ok::<_, Gone>(session.receive(inbox).await) };
    let sending = async {
        while let Some(reply) = to_send.recv().await {
            output.send(None, reply.packet).await?;
        }
        Ok::<_, Gone>(())
    };
    let (status, ()) = tokio::try_join!(receiving, sending)?;
    Ok(Exit::Status(status))
}

/// Why a request was refused.
#[derive(Debug)]
struct Refused {
    status: u32,
    reason: String,
}

impl Refused {
    fn new(status: u32, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }

    fn malformed() -> Self {
        Self::new(status::BAD_MESSAGE, "the request is malformed")
    }

    fn end() -> Self {
        Self::new(status::EOF, "end of file")
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::FileFailed { message, errno, .. } => {
                let status = match errno {
                    Some(ENOENT | ELOOP) => status::NO_SUCH_FILE,
                    Some(EPERM | EACCES) => status::PERMISSION_DENIED,
                    Some(ENOSYS | EOPNOTSUPP) => status::OP_UNSUPPORTED,
                    _ => status::FAILURE,
                };
                // What the protocol has no number for, a client of ours reads from the words.
                match errno {
                    Some(errno) if !message.contains("(os error ") => {
                        Self::new(status, format!("{message} (os error {errno})"))
                    }
                    _ => Self::new(status, message),
                }
            }
            Failure::SandboxPaused { message, .. } => Self::new(status::FAILURE, message),
            _ => Self::new(status::FAILURE, "the guest did not answer"),
        }
    }
}

/// What a request gives.
#[derive(Debug)]
enum Answer {
    Done,
    Handle(u32),
    Data(Bytes),
    Path(String),
    Names(Vec<FsEntryInfo>),
    Attributes(FsEntryInfo),
    Extended(Vec<u64>),
}

/// A packet for the client, and the place of its request.
struct Reply {
    packet: Bytes,
    _place: OwnedSemaphorePermit,
}

/// Where the replies to one request go.
struct Client {
    id: u32,
    place: OwnedSemaphorePermit,
    replies: mpsc::UnboundedSender<Reply>,
}

impl Client {
    fn reply(self, answer: &Result<Answer, Refused>) {
        // Nobody to tell, when the session is gone.
        let _ = self.replies.send(Reply { packet: encode(self.id, answer, now()), _place: self.place });
    }
}

/// A request, by what it has to wait for.
#[derive(Debug)]
enum Request {
    Handle(u32, Job),
    Look(Look),
    Change(Change),
}

/// What is asked of something open.
#[derive(Debug)]
enum Job {
    Read { offset: u64, length: usize },
    Write { offset: u64, data: Bytes },
    Stat,
    Set(FsSetAttrs),
    Names,
    Sync,
    Space,
    Close,
}

#[derive(Debug)]
enum Look {
    Stat { path: String, follow: bool },
    RealPath(String),
    ReadLink(String),
    Space(String),
    Limits,
}

#[derive(Debug)]
enum Change {
    Open { path: String, options: FsOpenOptions },
    OpenDirectory(String),
    Set { path: String, follow: bool, attributes: FsSetAttrs },
    Remove(String),
    MakeDirectory { path: String, mode: Option<u32> },
    RemoveDirectory(String),
    Rename { from: String, to: String, replace: bool },
    Symlink { target: String, path: String },
    Link { from: String, to: String },
}

/// The fields of a packet that are left.
struct Fields(Bytes);

impl Fields {
    fn take(&mut self, length: usize) -> Result<Bytes, Refused> {
        if self.0.len() < length { Err(Refused::malformed()) } else { Ok(self.0.split_to(length)) }
    }

    fn byte(&mut self) -> Result<u8, Refused> {
        Ok(self.take(1)?.get_u8())
    }

    fn number(&mut self) -> Result<u32, Refused> {
        Ok(self.take(4)?.get_u32())
    }

    fn large(&mut self) -> Result<u64, Refused> {
        Ok(self.take(8)?.get_u64())
    }

    fn bytes(&mut self) -> Result<Bytes, Refused> {
        let length = self.number()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// The guest's agent takes text and nothing else.
    fn text(&mut self) -> Result<String, Refused> {
        let bytes = self.bytes()?;
        match String::from_utf8(bytes.to_vec()) {
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err(Refused::new(status::FAILURE, "a path must be UTF-8 text without NUL")),
        }
    }

    fn handle(&mut self) -> Result<u32, Refused> {
        let bytes = self.bytes()?;
        let bytes: [u8; 4] = bytes.as_ref().try_into().map_err(|_| unknown_handle())?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn attributes(&mut self) -> Result<FsSetAttrs, Refused> {
        let flags = self.number()?;
        let mut attributes = FsSetAttrs::default();
        if flags & attr::SIZE != 0 {
            attributes.size = Some(self.large()?);
        }
        if flags & attr::OWNER != 0 {
            attributes.uid = Some(self.number()?);
            attributes.gid = Some(self.number()?);
        }
        if flags & attr::MODE != 0 {
            attributes.mode = Some(self.number()? & MODE);
        }
        if flags & attr::TIMES != 0 {
            attributes.atime = Some(self.number()?.into());
            attributes.mtime = Some(self.number()?.into());
        }
        if flags & attr::EXTENDED != 0 {
            for _ in 0..self.number()? {
                self.bytes()?;
                self.bytes()?;
            }
        }
        Ok(attributes)
    }
}

fn unknown_handle() -> Refused {
    Refused::new(status::FAILURE, "the handle is not open")
}

/// What a packet asks for, with paths as the guest has them.
fn decode(kind: u8, fields: &mut Fields, directory: &str) -> Result<Request, Refused> {
    let path = |fields: &mut Fields| Ok::<_, Refused>(absolute(&fields.text()?, directory));
    Ok(match kind {
        kind::OPEN => {
            let (path, flags, attributes) = (path(fields)?, fields.number()?, fields.attributes()?);
            Request::Change(Change::Open { path, options: open_options(flags, attributes.mode)? })
        }
        kind::CLOSE => Request::Handle(fields.handle()?, Job::Close),
        kind::READ => {
            let (handle, offset, length) = (fields.handle()?, fields.large()?, fields.number()?);
            Request::Handle(handle, Job::Read { offset, length: (length as usize).min(LONGEST) })
        }
        kind::WRITE => Request::Handle(fields.handle()?, Job::Write { offset: fields.large()?, data: fields.bytes()? }),
        kind::LSTAT => Request::Look(Look::Stat { path: path(fields)?, follow: false }),
        kind::STAT => Request::Look(Look::Stat { path: path(fields)?, follow: true }),
        kind::FSTAT => Request::Handle(fields.handle()?, Job::Stat),
        kind::SETSTAT => {
            Request::Change(Change::Set { path: path(fields)?, follow: true, attributes: fields.attributes()? })
        }
        kind::FSETSTAT => Request::Handle(fields.handle()?, Job::Set(fields.attributes()?)),
        kind::OPENDIR => Request::Change(Change::OpenDirectory(path(fields)?)),
        kind::READDIR => Request::Handle(fields.handle()?, Job::Names),
        kind::REMOVE => Request::Change(Change::Remove(path(fields)?)),
        kind::MKDIR => Request::Change(Change::MakeDirectory { path: path(fields)?, mode: fields.attributes()?.mode }),
        kind::RMDIR => Request::Change(Change::RemoveDirectory(path(fields)?)),
        kind::REALPATH => Request::Look(Look::RealPath(path(fields)?)),
        kind::RENAME => Request::Change(Change::Rename { from: path(fields)?, to: path(fields)?, replace: false }),
        kind::READLINK => Request::Look(Look::ReadLink(path(fields)?)),
        // OpenSSH has the two the other way round than the draft, and so have its clients and the others.
        kind::SYMLINK => Request::Change(Change::Symlink { target: fields.text()?, path: path(fields)? }),
        kind::EXTENDED => match fields.text()?.as_str() {
            "posix-rename@openssh.com" => {
                Request::Change(Change::Rename { from: path(fields)?, to: path(fields)?, replace: true })
            }
            "statvfs@openssh.com" => Request::Look(Look::Space(path(fields)?)),
            "fstatvfs@openssh.com" => Request::Handle(fields.handle()?, Job::Space),
            "hardlink@openssh.com" => Request::Change(Change::Link { from: path(fields)?, to: path(fields)? }),
            "fsync@openssh.com" => Request::Handle(fields.handle()?, Job::Sync),
            "lsetstat@openssh.com" => {
                Request::Change(Change::Set { path: path(fields)?, follow: false, attributes: fields.attributes()? })
            }
            "limits@openssh.com" => Request::Look(Look::Limits),
            other => {
                let other: String = other.chars().take(REASON).collect();
                return Err(Refused::new(status::OP_UNSUPPORTED, format!("there is no extension {other}")));
            }
        },
        _ => return Err(Refused::new(status::OP_UNSUPPORTED, "there is no such request")),
    })
}

/// A path from the directory in which a client begins.
fn absolute(path: &str, directory: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else if path.is_empty() {
        directory.to_owned()
    } else {
        format!("{}/{path}", directory.trim_end_matches('/'))
    }
}

fn open_options(flags: u32, mode: Option<u32>) -> Result<FsOpenOptions, Refused> {
    let has = |flag: u32| flags & flag != 0;
    let (read, append) = (has(open::READ), has(open::APPEND));
    let write = has(open::WRITE) || append;
    if !read && !write {
        return Err(Refused::new(status::FAILURE, "a file is opened to read or to write"));
    }
    if (has(open::CREATE) || has(open::TRUNCATE)) && !write {
        return Err(Refused::new(status::FAILURE, "a file that is made or emptied is opened to write"));
    }
    let create_new = has(open::CREATE) && has(open::EXCLUSIVE);
    Ok(FsOpenOptions {
        read,
        write,
        // Of a file that is emptied the end is where its client writes.
        append: append && !has(open::TRUNCATE),
        create: has(open::CREATE) && !create_new,
        truncate: has(open::TRUNCATE),
        create_new,
        mode,
    })
}

/// The packets in what a client sends.
struct Packets<'a> {
    inbox: &'a Inbox,
    buffer: BytesMut,
}

impl Packets<'_> {
    /// The next packet; nothing at the end. Fails for one of no length that there may be.
    async fn next(&mut self) -> Result<Option<Bytes>, ()> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if length == 0 || length > LARGEST {
                    return Err(());
                }
                if self.buffer.len() >= 4 + length {
                    self.buffer.advance(4);
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
            }
            match self.inbox.next().await {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

struct Session {
    root: Arc<Root>,
    replies: mpsc::UnboundedSender<Reply>,
    /// A place for each request under way.
    room: Arc<Semaphore>,
    handles: HashMap<u32, mpsc::UnboundedSender<(Job, Client)>>,
    last: u32,
    tasks: JoinSet<()>,
}

impl Session {
    /// Take requests to the end, and wait for the last answer: the exit status.
    async fn receive(mut self, inbox: &Inbox) -> u32 {
        let mut packets = Packets { inbox, buffer: BytesMut::new() };
        let status = loop {
            match packets.next().await {
                Ok(Some(packet)) => {
                    if self.take(Fields(packet)).await.is_err() {
                        break 1;
                    }
                }
                Ok(None) => break 0,
                Err(()) => break 1,
            }
        };
        // What is open is closed now.
        self.handles.clear();
        while self.tasks.join_next().await.is_some() {}
        status
    }

    async fn places(&self, count: u32) -> Result<OwnedSemaphorePermit, Refused> {
        // Never closed.
        self.room.clone().acquire_many_owned(count).await.map_err(|_| Refused::malformed())
    }

    /// Begin what a packet asks for. Fails for one that cannot be answered.
    async fn take(&mut self, mut fields: Fields) -> Result<(), Refused> {
        while self.tasks.try_join_next().is_some() {}
        let kind = fields.byte()?;
        let id = fields.number()?;
        if kind == kind::INIT {
            let reply = Reply { packet: greeting(), _place: self.places(1).await? };
            let _ = self.replies.send(reply);
            return Ok(());
        }
        let request = decode(kind, &mut fields, &self.root.directory);
        let places = if matches!(request, Ok(Request::Change(_))) { IN_FLIGHT } else { 1 };
        let client = Client { id, place: self.places(places).await?, replies: self.replies.clone() };
        match request {
            Ok(Request::Handle(handle, job)) => self.hand(handle, job, client),
            Ok(Request::Look(look)) => {
                let root = self.root.clone();
                self.tasks.spawn(async move { client.reply(&root.look(look).await) });
            }
            Ok(Request::Change(change)) => {
                self.root.changes.fetch_add(1, Ordering::Relaxed);
                let answer = self.change(change).await;
                client.reply(&answer);
            }
            Err(refused) => client.reply(&Err(refused)),
        }
        Ok(())
    }

    fn hand(&mut self, handle: u32, job: Job, client: Client) {
        let queue =
            if matches!(job, Job::Close) { self.handles.remove(&handle) } else { self.handles.get(&handle).cloned() };
        match queue {
            // Its task is there for as long as the queue is.
            Some(queue) => drop(queue.send((job, client))),
            None => client.reply(&Err(unknown_handle())),
        }
    }

    async fn change(&mut self, change: Change) -> Result<Answer, Refused> {
        match change {
            Change::Open { .. } | Change::OpenDirectory(_) if self.handles.len() >= HANDLES => {
                Err(Refused::new(status::FAILURE, format!("{HANDLES} files and directories are open")))
            }
            Change::Open { path, options } => {
                let (file, info) = self.root.files().open_as(&path, &options, false).await?;
                refuse_directory(&path, info.as_ref())?;
                let file = OpenFile { root: self.root.clone(), file, path, ahead: Ahead::default() };
                Ok(self.opened(|jobs| file.run(jobs)))
            }
            Change::OpenDirectory(path) => {
                let directory = self.root.guest.open_directory(&self.root.sandbox, &path).await?;
                let directory =
                    OpenDirectory { root: self.root.clone(), directory, path, names: VecDeque::new(), over: false };
                Ok(self.opened(|jobs| directory.run(jobs)))
            }
            change => self.root.change(change).await.map(|()| Answer::Done),
        }
    }

    /// A handle for what is open, whose task takes what is asked of it.
    fn opened<F>(&mut self, run: impl FnOnce(mpsc::UnboundedReceiver<(Job, Client)>) -> F) -> Answer
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.last = self.last.wrapping_add(1);
        let (queue, jobs) = mpsc::unbounded_channel();
        self.handles.insert(self.last, queue);
        self.tasks.spawn(run(jobs));
        Answer::Handle(self.last)
    }
}

/// The files of the guest, for one client.
struct Root {
    sandbox: EngineSandbox,
    guest: Guest,
    /// Where a client begins.
    directory: String,
    /// How many changes it has made.
    changes: AtomicU64,
}

impl Root {
    fn files(&self) -> Files<'_> {
        Files { guest: &self.guest, sandbox: &self.sandbox }
    }

    async fn look(&self, look: Look) -> Result<Answer, Refused> {
        let files = self.files();
        Ok(match look {
            Look::Stat { path, follow } => Answer::Attributes(files.stat(&path, follow).await?),
            Look::RealPath(path) => Answer::Path(files.canonical(&path).await?),
            Look::ReadLink(path) => Answer::Path(files.path(&path, FsOp::ReadLink { path: path.clone() }).await?),
            Look::Space(path) => Answer::Extended(self.space(&path).await?),
            Look::Limits => Answer::Extended(vec![LARGEST as u64, LONGEST as u64, LONGEST as u64, HANDLES as u64]),
        })
    }

    async fn change(&self, change: Change) -> Result<(), Refused> {
        let files = self.files();
        let (path, op) = match change {
            Change::Set { path, follow, attributes } => return self.set(path, follow, attributes).await,
            Change::MakeDirectory { path, mode } => {
                return Ok(files.make_directory(&path, false, Some(mode.unwrap_or(0o777))).await?);
            }
            Change::Link { from, to } => return self.link(&from, &to).await,
            Change::Rename { from, to, replace } => {
                if !replace {
                    self.absent(&to).await?;
                }
                (from.clone(), FsOp::Rename { src: from, dst: to })
            }
            Change::Remove(path) => (path.clone(), FsOp::Remove { path }),
            Change::RemoveDirectory(path) => (path.clone(), FsOp::RemoveDir { path, recursive: false }),
            Change::Symlink { target, path } => (path.clone(), FsOp::Symlink { target, link_path: path }),
            Change::Open { .. } | Change::OpenDirectory(_) => return Err(Refused::malformed()),
        };
        files.ask(&path, op).await?;
        Ok(())
    }

    async fn set(&self, path: String, follow: bool, attributes: FsSetAttrs) -> Result<(), Refused> {
        let files = self.files();
        if attributes.size.is_some() {
            let info = files.stat(&path, follow).await?;
            files.refuse_blocking(&path, &info).await?;
        }
        files.ask(&path, FsOp::SetStat { path: path.clone(), follow_symlink: follow, attrs: attributes }).await?;
        Ok(())
    }

    /// The guest would replace it, or make its new name within it.
    async fn absent(&self, path: &str) -> Result<(), Refused> {
        match self.files().stat(path, false).await {
            Ok(_) => Err(Failure::file_errno(path, EEXIST, "the new name exists already").into()),
            Err(failure) if is_missing(&failure) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    /// The agent has no word for a second name, nor for what follows.
    async fn link(&self, from: &str, to: &str) -> Result<(), Refused> {
        self.files().stat(from, false).await?;
        self.absent(to).await?;
        self.tool("ln", &["--", from, to]).await.map(|_| ())
    }

    async fn sync(&self) -> Result<(), Refused> {
        self.tool("sync", &[]).await.map(|_| ())
    }

    async fn space(&self, path: &str) -> Result<Vec<u64>, Refused> {
        self.files().stat(path, true).await?;
        let said = self.tool("stat", &["-f", "-c", "%s %S %b %f %a %c %d %i %l", "--", path]).await?;
        space(&said).ok_or_else(|| Refused::new(status::FAILURE, "the guest's stat says nothing of its file system"))
    }

    /// What a program of the guest's prints, as its root.
    async fn tool(&self, command: &str, args: &[&str]) -> Result<String, Refused> {
        let options = ExecOptions {
            command: Some(command.into()),
            args: args.iter().map(|&arg| arg.into()).collect(),
            cwd: Some("/".into()),
            user: Some("0".into()),
            env: None,
            rlimits: None,
            tty: None,
            timeout_ms: Some(TOOL_MS),
            stdin_data: None,
            output: OutputPolicy::Fail { limit: 65_536.0 },
        };
        let cancel = Cancel { call: CancellationToken::new(), engine: CancellationToken::new() };
        match Box::pin(exec::collect(&self.sandbox, &self.guest.spares, options, cancel)).await {
            Ok(output) if output.exit_code == 0 => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(output) => Err(Refused::new(status::FAILURE, String::from_utf8_lossy(&output.stderr).trim())),
            Err(Stop::Failed(Failure::ExecFailed { .. })) => {
                let reason = format!("this needs the program {command} in the guest, which has none");
                Err(Refused::new(status::OP_UNSUPPORTED, reason))
            }
            Err(Stop::Failed(failure)) => Err(failure.into()),
            Err(Stop::Cancelled) => Err(Refused::new(status::FAILURE, "it was cancelled")),
        }
    }
}

/// What a file system has left, in the order of `statvfs`, from what `stat -f` says: of both sizes of its blocks, blocks, those
/// that are free, and free for all, files, those that are free, its identity, and the longest name.
fn space(said: &str) -> Option<Vec<u64>> {
    let words: Vec<&str> = said.split_whitespace().collect();
    let [optimal, size, blocks, free, available, files, free_files, identity, name] = words[..] else { return None };
    let number = |word: &str| word.parse::<u64>().ok();
    let identity = u64::from_str_radix(identity, 16).unwrap_or(0);
    let free_files = number(free_files)?;
    Some(vec![
        number(optimal)?,
        number(size)?,
        number(blocks)?,
        number(free)?,
        number(available)?,
        number(files)?,
        free_files,
        free_files,
        identity,
        0,
        number(name)?,
    ])
}

struct OpenFile {
    root: Arc<Root>,
    file: GuestFile,
    path: String,
    ahead: Ahead,
}

/// What was read ahead of its reader.
#[derive(Default)]
struct Ahead {
    offset: u64,
    data: Bytes,
    read: Option<(Instant, u64)>,
}

impl Ahead {
    /// What there is from `offset` on, if it is still what the file has.
    fn take(&mut self, offset: u64, changes: u64) -> Bytes {
        let fresh = self.read.is_some_and(|(at, then)| at.elapsed() < FRESH && then == changes);
        let skip = offset.checked_sub(self.offset).and_then(|skip| usize::try_from(skip).ok());
        let mut data = std::mem::take(&mut self.data);
        match skip {
            Some(skip) if fresh && skip <= data.len() => data.split_off(skip),
            _ => Bytes::new(),
        }
    }

    /// Whether a reader that is at `offset` reads in order.
    fn follows(&self, offset: u64) -> bool {
        offset == self.offset
    }
}

/// One after the other; without a copy when only one has something.
fn joined(pieces: &[Bytes]) -> Bytes {
    let mut filled = pieces.iter().filter(|piece| !piece.is_empty());
    match (filled.next(), filled.next()) {
        (None, _) => Bytes::new(),
        (Some(only), None) => only.clone(),
        _ => {
            let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
            for piece in pieces {
                whole.put_slice(piece);
            }
            whole.freeze()
        }
    }
}

impl OpenFile {
    async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<(Job, Client)>) {
        let mut next = None;
        loop {
            let taken = match next.take() {
                Some(taken) => Some(taken),
                None => jobs.recv().await,
            };
            match taken {
                Some((Job::Write { offset, data }, client)) => {
                    let mut clients = vec![client];
                    let mut pieces = vec![data];
                    let mut length = pieces[0].len();
                    while length < BATCH {
                        match jobs.try_recv() {
                            Ok((Job::Write { offset: at, data }, client))
                                if offset.checked_add(length as u64) == Some(at) =>
                            {
                                length += data.len();
                                pieces.push(data);
                                clients.push(client);
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    let written = self.write(offset, pieces).await;
                    for client in clients {
                        client.reply(&match &written {
                            Ok(()) => Ok(Answer::Done),
                            Err(Refused { status, reason }) => Err(Refused::new(*status, reason.clone())),
                        });
                    }
                }
                Some((Job::Close, client)) => {
                    let closed = self.file.close().await;
                    return client.reply(&closed.map(|()| Answer::Done).map_err(Refused::from));
                }
                Some((job, client)) => client.reply(&self.answer(job).await),
                None => {
                    let _ = self.file.close().await;
                    return;
                }
            }
        }
    }

    fn change(&mut self) {
        self.root.changes.fetch_add(1, Ordering::Relaxed);
    }

    async fn write(&mut self, offset: u64, pieces: Vec<Bytes>) -> Result<(), Refused> {
        let data = joined(&pieces);
        if data.is_empty() {
            return Ok(());
        }
        self.change();
        let written = self.file.write_at(offset, data).await;
        self.change();
        Ok(written?)
    }

    async fn answer(&mut self, job: Job) -> Result<Answer, Refused> {
        match job {
            Job::Read { offset, length } => Ok(Answer::Data(self.read(offset, length).await?)),
            Job::Stat => Ok(Answer::Attributes(self.file.stat().await?)),
            Job::Set(attributes) => {
                self.change();
                self.file.set(attributes).await?;
                Ok(Answer::Done)
            }
            Job::Sync => self.root.sync().await.map(|()| Answer::Done),
            Job::Space => Ok(Answer::Extended(self.root.space(&self.path).await?)),
            Job::Names | Job::Write { .. } | Job::Close => Err(Refused::new(status::FAILURE, "the handle is a file's")),
        }
    }

    async fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, Refused> {
        let changes = self.root.changes.load(Ordering::Relaxed);
        let in_order = self.ahead.follows(offset);
        let (mut data, mut read) = (self.ahead.take(offset, changes), self.ahead.read);
        if data.len() < length {
            let missing = length - data.len();
            let more = if in_order { missing.max(BATCH) } else { missing };
            let from = offset.saturating_add(data.len() as u64);
            let more = Bytes::from(self.file.read_at(from, more).await?);
            read = Some((Instant::now(), changes));
            data = joined(&[data, more]);
        }
        let answer = data.split_to(length.min(data.len()));
        self.ahead = Ahead { offset: offset.saturating_add(answer.len() as u64), data, read };
        if answer.is_empty() && length > 0 { Err(Refused::end()) } else { Ok(answer) }
    }
}

struct OpenDirectory {
    root: Arc<Root>,
    directory: GuestDirectory,
    path: String,
    names: VecDeque<FsEntryInfo>,
    over: bool,
}

impl OpenDirectory {
    async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<(Job, Client)>) {
        while let Some((job, client)) = jobs.recv().await {
            if matches!(job, Job::Close) {
                let closed = self.directory.close().await;
                return client.reply(&closed.map(|()| Answer::Done).map_err(Refused::from));
            }
            client.reply(&self.answer(job).await);
        }
        let _ = self.directory.close().await;
    }

    async fn answer(&mut self, job: Job) -> Result<Answer, Refused> {
        match job {
            Job::Names => self.next().await,
            Job::Stat => Ok(Answer::Attributes(self.root.files().stat(&self.path, true).await?)),
            Job::Set(attributes) => {
                self.root.changes.fetch_add(1, Ordering::Relaxed);
                self.root.set(self.path.clone(), true, attributes).await.map(|()| Answer::Done)
            }
            Job::Sync => self.root.sync().await.map(|()| Answer::Done),
            Job::Space => Ok(Answer::Extended(self.root.space(&self.path).await?)),
            Job::Read { .. } | Job::Write { .. } | Job::Close => {
                Err(Refused::new(status::FAILURE, "the handle is a directory's"))
            }
        }
    }

    async fn next(&mut self) -> Result<Answer, Refused> {
        if self.names.is_empty() && !self.over {
            self.names = self.directory.next().await?.into();
            self.over = self.names.is_empty();
        }
        let (mut names, mut length) = (Vec::new(), 0);
        while length < NAMES
            && let Some(info) = self.names.pop_front()
        {
            // Its name twice, and what else there is of it.
            length += 2 * info.path.len() + 128;
            if !matches!(name_of(&info), "" | "." | "..") {
                names.push(info);
            }
        }
        if names.is_empty() { Err(Refused::end()) } else { Ok(Answer::Names(names)) }
    }
}

fn name_of(info: &FsEntryInfo) -> &str {
    info.path.rsplit('/').next().unwrap_or_default()
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

fn put(packet: &mut BytesMut, bytes: &[u8]) {
    packet.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    packet.put_slice(bytes);
}

/// The protocol's times end in 2106.
fn time(seconds: Option<i64>) -> u32 {
    u32::try_from(seconds.unwrap_or(0).max(0)).unwrap_or(u32::MAX)
}

fn put_attributes(packet: &mut BytesMut, info: &FsEntryInfo) {
    packet.put_u32(attr::SIZE | attr::OWNER | attr::MODE | attr::TIMES);
    packet.put_u64(info.size);
    packet.put_u32(info.uid);
    packet.put_u32(info.gid);
    packet.put_u32(info.mode);
    packet.put_u32(time(info.atime));
    packet.put_u32(time(info.mtime.or(info.modified)));
}

fn finished(mut packet: BytesMut) -> Bytes {
    let length = u32::try_from(packet.len() - 4).unwrap_or(u32::MAX);
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet.freeze()
}

fn begun(kind: u8, room: usize) -> BytesMut {
    let mut packet = BytesMut::with_capacity(room + 16);
    packet.put_u32(0);
    packet.put_u8(kind);
    packet
}

fn greeting() -> Bytes {
    let mut packet = begun(kind::VERSION, 256);
    packet.put_u32(VERSION);
    for (name, version) in EXTENSIONS {
        put(&mut packet, name.as_bytes());
        put(&mut packet, version.as_bytes());
    }
    finished(packet)
}

fn encode(id: u32, answer: &Result<Answer, Refused>, now: i64) -> Bytes {
    let (kind, room) = match answer {
        Ok(Answer::Done) | Err(_) => (kind::STATUS, REASON),
        Ok(Answer::Handle(_)) => (kind::HANDLE, 16),
        Ok(Answer::Data(data)) => (kind::DATA, data.len()),
        Ok(Answer::Path(path)) => (kind::NAME, 2 * path.len()),
        Ok(Answer::Names(_)) => (kind::NAME, NAMES),
        Ok(Answer::Attributes(_)) => (kind::ATTRS, 64),
        Ok(Answer::Extended(numbers)) => (kind::EXTENDED_REPLY, 8 * numbers.len()),
    };
    let mut packet = begun(kind, room);
    packet.put_u32(id);
    match answer {
        Ok(Answer::Done) => put_status(&mut packet, status::OK, "done"),
        Err(Refused { status, reason }) => put_status(&mut packet, *status, reason),
        Ok(Answer::Handle(handle)) => put(&mut packet, &handle.to_be_bytes()),
        Ok(Answer::Data(data)) => put(&mut packet, data),
        Ok(Answer::Path(path)) => {
            packet.put_u32(1);
            put(&mut packet, path.as_bytes());
            put(&mut packet, path.as_bytes());
            packet.put_u32(0);
        }
        Ok(Answer::Names(names)) => {
            packet.put_u32(u32::try_from(names.len()).unwrap_or(u32::MAX));
            for info in names {
                put(&mut packet, name_of(info).as_bytes());
                put(&mut packet, line(info, now).as_bytes());
                put_attributes(&mut packet, info);
            }
        }
        Ok(Answer::Attributes(info)) => put_attributes(&mut packet, info),
        Ok(Answer::Extended(numbers)) => numbers.iter().for_each(|number| packet.put_u64(*number)),
    }
    finished(packet)
}

fn put_status(packet: &mut BytesMut, status: u32, reason: &str) {
    packet.put_u32(status);
    let end = reason.floor_char_boundary(REASON);
    put(packet, &reason.as_bytes()[..end]);
    put(packet, b"en");
}

/// An entry as `ls -l` shows it. The agent does not say how many names a file has.
fn line(info: &FsEntryInfo, now: i64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = info.mtime.or(info.modified).unwrap_or(0);
    let at = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    let recent = (now - HALF_A_YEAR..=now + 60).contains(&seconds);
    let month = MONTHS[at.month0() as usize % 12];
    let year = if recent { format!("{:02}:{:02}", at.hour(), at.minute()) } else { format!("{:>5}", at.year()) };
    let (mode, name) = (permissions(info), name_of(info));
    let (uid, gid, size, day) = (info.uid, info.gid, info.size, at.day());
    let mut line = String::new();
    let _ = write!(line, "{mode}    1 {uid:<8} {gid:<8} {size:>8} {month} {day:>2} {year} {name}");
    line
}

fn permissions(info: &FsEntryInfo) -> String {
    let mut text = String::with_capacity(10);
    text.push(match (info.mode >> 12) & 0o17 {
        0o04 => 'd',
        0o12 => 'l',
        0o06 => 'b',
        0o02 => 'c',
        0o01 => 'p',
        0o14 => 's',
        _ => '-',
    });
    for (shift, special, sign) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = info.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (info.mode & special != 0, bits & 1 != 0) {
            (true, true) => sign,
            (true, false) => sign.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(path: &str, mode: u32) -> FsEntryInfo {
        FsEntryInfo {
            path: path.into(),
            kind: "file".into(),
            size: 7,
            mode,
            modified: None,
            uid: 1,
            gid: 2,
            atime: Some(-1),
            mtime: Some(86_400),
        }
    }

    fn fields(parts: &[&[u8]]) -> Fields {
        Fields(parts.concat().into())
    }

    fn word(text: &str) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        put(&mut bytes, text.as_bytes());
        bytes.to_vec()
    }

    #[test]
    fn a_path_is_taken_from_where_a_client_begins() {
        for (path, from) in [("", "/w"), (".", "/w/."), ("a/b", "/w/a/b"), ("/a", "/a"), ("../a", "/w/../a")] {
            assert_eq!(absolute(path, "/w"), from);
        }
        assert_eq!(absolute("a", "/"), "/a");
        let request = decode(kind::LSTAT, &mut fields(&[&word("a")]), "/");
        assert!(matches!(request, Ok(Request::Look(Look::Stat { path, follow: false })) if path == "/a"));
    }

    #[test]
    fn a_request_that_is_cut_or_unknown_is_refused_by_its_own_status() {
        let refused = |kind, fields: &mut Fields| decode(kind, fields, "/").err().map(|refused| refused.status);
        assert_eq!(refused(kind::STAT, &mut fields(&[&[0, 0, 0, 9], b"short"])), Some(status::BAD_MESSAGE));
        assert_eq!(refused(kind::STAT, &mut fields(&[&[255; 4]])), Some(status::BAD_MESSAGE));
        assert_eq!(refused(kind::STAT, &mut fields(&[&[0, 0, 0, 1], &[0xff]])), Some(status::FAILURE));
        assert_eq!(refused(kind::STAT, &mut fields(&[&word("a\0b")])), Some(status::FAILURE));
        assert_eq!(refused(kind::CLOSE, &mut fields(&[&word("no handle of ours")])), Some(status::FAILURE));
        assert_eq!(refused(99, &mut fields(&[])), Some(status::OP_UNSUPPORTED));
        assert_eq!(refused(kind::EXTENDED, &mut fields(&[&word("x@y")])), Some(status::OP_UNSUPPORTED));
        let endless = [&word("/a")[..], &attr::EXTENDED.to_be_bytes(), &[255; 4]];
        assert_eq!(refused(kind::SETSTAT, &mut fields(&endless)), Some(status::BAD_MESSAGE));
    }

    #[test]
    fn a_read_asks_for_no_more_than_there_may_be_in_a_packet() {
        let handle = [0, 0, 0, 4, 0, 0, 0, 1];
        let request = decode(kind::READ, &mut fields(&[&handle, &[0; 8], &[255; 4]]), "/");
        assert!(matches!(request, Ok(Request::Handle(1, Job::Read { offset: 0, length: LONGEST }))));
    }

    #[test]
    fn the_attributes_that_are_given_are_set_and_no_others() {
        let numbers = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
        let all = attr::SIZE | attr::OWNER | attr::MODE | attr::TIMES;
        let set = fields(&[&numbers(&[all, 0, 5, 1, 2, 0o107_755, 3, 4])]).attributes();
        let Ok(set) = set else { panic!("refused") };
        assert_eq!((set.size, set.uid, set.gid, set.mode), (Some(5), Some(1), Some(2), Some(0o7755)));
        assert_eq!((set.atime, set.mtime), (Some(3), Some(4)));
        let Ok(none) = fields(&[&numbers(&[0])]).attributes() else { panic!("refused") };
        assert!(none.size.is_none() && none.uid.is_none() && none.mode.is_none() && none.mtime.is_none());
    }

    #[test]
    fn a_file_is_opened_as_its_client_means_it() {
        let open = |flags| open_options(flags, Some(0o600));
        let Ok(new) = open(open::WRITE | open::CREATE | open::EXCLUSIVE) else { panic!("refused") };
        assert!(new.create_new && !new.create && new.write && !new.read);
        let Ok(put) = open(open::WRITE | open::CREATE | open::TRUNCATE) else { panic!("refused") };
        assert!(put.create && put.truncate && !put.create_new && put.mode == Some(0o600));
        let Ok(append) = open(open::APPEND) else { panic!("refused") };
        assert!(append.append && append.write);
        for wrong in [0, open::CREATE, open::READ | open::TRUNCATE] {
            assert!(open(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_failure_of_the_guest_has_its_status() {
        for (errno, status) in [
            (ENOENT, status::NO_SUCH_FILE),
            (EACCES, status::PERMISSION_DENIED),
            (EPERM, status::PERMISSION_DENIED),
            (EOPNOTSUPP, status::OP_UNSUPPORTED),
            (EEXIST, status::FAILURE),
        ] {
            assert_eq!(Refused::from(Failure::file_errno("/a", errno, "why")).status, status, "{errno}");
        }
        assert_eq!(Refused::from(Failure::exec_session_lost(None)).status, status::FAILURE);
    }

    #[test]
    fn a_reason_is_cut_at_a_whole_character() {
        let refused = Err(Refused::new(status::FAILURE, "ü".repeat(REASON)));
        let packet = encode(9, &refused, 0);
        assert_eq!(packet.len(), 4 + 1 + 4 + 4 + 4 + REASON + 4 + 2);
        assert_eq!(u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]) as usize, packet.len() - 4);
        assert!(std::str::from_utf8(&packet[17..17 + REASON]).is_ok());
    }

    #[test]
    fn an_entry_is_shown_as_ls_shows_it() {
        let file = line(&info("/d/a b", 0o100_644), 90_000);
        assert_eq!(file, "-rw-r--r--    1 1        2               7 Jan  2 00:00 a b");
        let later = 90_000 + 2 * HALF_A_YEAR;
        assert!(line(&info("/d", 0o041_777), later).starts_with("drwxrwxrwt    1 "));
        assert!(line(&info("/d", 0o041_777), later).ends_with(" Jan  2  1970 d"));
        assert_eq!(permissions(&info("/s", 0o104_755)), "-rwsr-xr-x");
        assert_eq!(time(Some(-1)), 0);
        assert_eq!(time(Some(1 << 40)), u32::MAX);
    }

    #[test]
    fn what_a_file_system_has_is_read_from_what_stat_says() {
        let said = "4096 4096 100 50 40 1000 900 8400f5e2a1b2c3d4 255\n";
        let numbers = [4096, 4096, 100, 50, 40, 1000, 900, 900, 0x8400_f5e2_a1b2_c3d4, 0, 255];
        assert_eq!(space(said), Some(numbers.to_vec()));
        for wrong in ["", "stat: unrecognized option", "1 2 3 4 5 6 7 8 nine"] {
            assert_eq!(space(wrong), None);
        }
    }

    #[test]
    fn what_was_read_ahead_is_given_once_and_only_while_it_is_fresh() {
        let ahead = || Ahead { offset: 10, data: Bytes::from_static(b"abcdef"), read: Some((Instant::now(), 3)) };
        assert_eq!(ahead().take(12, 3), "cdef");
        assert!(ahead().take(9, 3).is_empty() && ahead().take(17, 3).is_empty() && ahead().take(10, 4).is_empty());
        let mut once = ahead();
        assert_eq!(once.take(10, 3), "abcdef");
        assert!(once.take(10, 3).is_empty());
        assert!(once.follows(10) && !once.follows(11));
    }

    #[test]
    fn pieces_are_joined_in_their_order() {
        let pieces = [Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c")];
        assert_eq!((joined(&pieces), joined(&pieces[..2]), joined(&[])), ("abc".into(), "ab".into(), Bytes::new()));
    }

    #[tokio::test]
    async fn packets_are_found_however_they_come_and_none_is_too_long() {
        let inbox = Inbox::default();
        for byte in [0, 0, 0, 2, 5, 6, 0, 0, 0, 1, 7] {
            assert!(inbox.push(&[byte]).await.is_ok());
        }
        let mut packets = Packets { inbox: &inbox, buffer: BytesMut::new() };
        assert_eq!(packets.next().await.ok().flatten().as_deref(), Some(&[5, 6][..]));
        assert_eq!(packets.next().await.ok().flatten().as_deref(), Some(&[7][..]));
        assert!(inbox.push(&[0, 16, 0, 0]).await.is_ok());
        assert!(packets.next().await.is_err());
        let ended = Inbox::default();
        ended.end();
        assert!(matches!(Packets { inbox: &ended, buffer: BytesMut::new() }.next().await, Ok(None)));
    }
}
