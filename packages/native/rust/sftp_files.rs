//! The files of an SFTP server, as `packages/core` makes a file system of them.
//!
//! Version 3 of SFTP knows nine ways to fail, of which servers use three: OpenSSH's says "no such file" of a path through a
//! file and of links in a circle too, and "failure" of what is there already. So what a path is, is asked before or after, and
//! the number that a kernel would have given is told. A server may be hostile, as in `files.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;

use crate::cancel::{Cancel, CancelToken};
use crate::engine::{EngineState, Kind, Live};
use crate::failure::Failure;
use crate::files::{
    BAD_FILE, CHARACTER_DEVICE, CROSSING, EXISTS, FIFO, FileAttributes, FileEntry, FileInfo, IS_DIRECTORY, LOOP,
    NOT_DIRECTORY, OpenOptions, PROMPT_DEVICES, Room, TOO_BIG, TYPE_MASK, UNSUPPORTED, is_missing, join, parent, whole,
};
use crate::outcome::{Outcome, Stop};
use crate::rooted::How;
use crate::sftp::{Answer, Ask, Attributes, COPY_DATA, FSYNC, HARDLINK, Open, POSIX_RENAME, Session, code, put};
use crate::slot::{InEngine, Slot};
use crate::ssh_client::SshClient;

const MISSING: i32 = 2;
const DENIED: i32 = 13;
const NOT_EMPTY: i32 = 39;
const OVERFLOW: i32 = 75;

const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
const REGULAR: u32 = 0o100_000;
const PERMISSIONS: u32 = 0o7777;

/// How many links a kernel follows in one path.
const LINKS: usize = 40;

/// Of `SSH_FXP_OPEN`.
const READ: u32 = 1;
const WRITE: u32 = 2;
const APPEND: u32 = 4;
const CREATE: u32 = 8;
const TRUNCATE: u32 = 16;
const EXCLUSIVE: u32 = 32;

/// How much of one file is on its way at once.
const WINDOW: usize = 4 << 20;

impl Attributes {
    fn kind(&self) -> u32 {
        self.mode.unwrap_or_default() & TYPE_MASK
    }

    fn is_directory(&self) -> bool {
        self.kind() == DIRECTORY
    }

    #[allow(clippy::cast_precision_loss)] // exact up to 8 PiB
    fn info(&self) -> FileInfo {
        let kind = match self.kind() {
            REGULAR => "file",
            DIRECTORY => "dir",
            LINK => "symlink",
            _ => "other",
        };
        let (uid, gid) = self.owner.unwrap_or_default();
        FileInfo {
            kind: kind.into(),
            mode: self.mode.unwrap_or_default(),
            size: self.size.unwrap_or_default() as f64,
            uid,
            gid,
            accessed_at: self.times.map(|(accessed, _)| f64::from(accessed)),
            modified_at: self.times.map(|(_, modified)| f64::from(modified)),
            node: None,
        }
    }
}

/// What a server says of what it did not do, at a path.
fn refusal(path: &str, what: &str, code: u32, message: &str) -> Failure {
    let text = format!("{what}: {}", if message.is_empty() { "the server does not say why" } else { message });
    match code {
        code::NO_SUCH_FILE => Failure::file_errno(path, MISSING, &text),
        code::PERMISSION_DENIED => Failure::file_errno(path, DENIED, &text),
        code::UNSUPPORTED => Failure::file_errno(path, UNSUPPORTED, &text),
        _ => Failure::file(path, text),
    }
}

fn unexpected(what: &str) -> Failure {
    Failure::Protocol { message: format!("the SFTP server answered {what} with something else") }
}

fn done(path: &str, what: &str, answer: Answer) -> Result<(), Failure> {
    match answer {
        Answer::Status { code: code::OK, .. } => Ok(()),
        Answer::Status { code, message } => Err(refusal(path, what, code, &message)),
        _ => Err(unexpected(what)),
    }
}

fn attributes(path: &str, what: &str, answer: Answer) -> Result<Attributes, Failure> {
    match answer {
        Answer::Attributes(attributes) => Ok(attributes),
        Answer::Status { code, message } => Err(refusal(path, what, code, &message)),
        _ => Err(unexpected(what)),
    }
}

/// Of an open file: OpenSSH's server says of a file that is not open for this that there is none.
fn of_handle(failure: Failure, path: &str) -> Failure {
    if is_missing(&failure) { Failure::file_errno(path, BAD_FILE, "it is not open for that") } else { failure }
}

/// Seconds that the protocol can say.
fn seconds(path: &str, time: f64) -> Result<u32, Failure> {
    let time = time.floor();
    if (0.0..=f64::from(u32::MAX)).contains(&time) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it was just looked at
        return Ok(time as u32);
    }
    Err(Failure::file_errno(path, OVERFLOW, "SFTP has times from 1970 to 2106"))
}

/// Whether there is a half of what the protocol has in pairs.
fn has_half(attributes: &FileAttributes) -> bool {
    attributes.uid.is_some() != attributes.gid.is_some()
        || attributes.accessed_at.is_some() != attributes.modified_at.is_some()
}

/// What is to be changed; the other half of a pair is what it is now.
fn wanted(path: &str, attributes: &FileAttributes, now: Attributes) -> Result<Attributes, Failure> {
    let owner = match (attributes.uid, attributes.gid) {
        (None, None) => None,
        (uid, gid) => {
            let now = now.owner.unwrap_or_default();
            Some((uid.unwrap_or(now.0), gid.unwrap_or(now.1)))
        }
    };
    let times = match (attributes.accessed_at, attributes.modified_at) {
        (None, None) => None,
        (accessed, modified) => {
            let (now_accessed, now_modified) = now.times.unwrap_or_default();
            let time = |time: Option<f64>, now: u32| time.map_or(Ok(now), |time| seconds(path, time));
            Some((time(accessed, now_accessed)?, time(modified, now_modified)?))
        }
    };
    let mode = attributes.mode.map(|mode| mode & PERMISSIONS);
    Ok(Attributes { size: attributes.size.map(whole), owner, mode, times })
}

/// A file that is open on the server.
struct OpenFile {
    open: Open,
    path: String,
    read: bool,
    write: bool,
    directory: bool,
}

impl Session {
    async fn path_op(&self, ask: Ask, what: &str, path: &str) -> Result<(), Failure> {
        done(path, what, self.ask(ask, |packet| put(packet, path.as_bytes())).await?)
    }

    /// What the server says, and no more.
    async fn stat_as_told(&self, path: &str, follow: bool) -> Result<Attributes, Failure> {
        if path.is_empty() {
            // To some servers this is where they begin.
            return Err(Failure::file_errno(path, MISSING, "an empty path names nothing"));
        }
        let ask = if follow { Ask::Stat } else { Ask::LStat };
        attributes(path, "stat", self.ask(ask, |packet| put(packet, path.as_bytes())).await?)
    }

    async fn stat(&self, path: &str, follow: bool) -> Result<Attributes, Failure> {
        let told = self.stat_as_told(path, follow).await;
        self.sharpened(path, follow, told).await
    }

    /// The better reason for a file that is said to be missing.
    async fn sharpened<T>(&self, path: &str, follow: bool, told: Result<T, Failure>) -> Result<T, Failure> {
        match told {
            Err(failure) if is_missing(&failure) => Err(match self.why_missing(path, follow).await {
                NOT_DIRECTORY => Failure::file_errno(path, NOT_DIRECTORY, "a part of the path is not a directory"),
                LOOP => Failure::file_errno(path, LOOP, "its links lead in a circle"),
                _ => failure,
            }),
            told => told,
        }
    }

    async fn why_missing(&self, path: &str, follow: bool) -> i32 {
        let mut at = path;
        while let Some(above) = parent(at) {
            match self.stat_as_told(above, true).await {
                Ok(info) if info.is_directory() => break,
                Ok(_) => return NOT_DIRECTORY,
                Err(failure) if is_missing(&failure) => at = above,
                Err(_) => return MISSING,
            }
        }
        if at != path || !follow {
            return MISSING;
        }
        let mut target = path.to_owned();
        for _ in 0..LINKS {
            match self.stat_as_told(&target, false).await {
                Ok(info) if info.kind() == LINK => {}
                _ => return MISSING,
            }
            let Ok(to) = self.read_link(&target).await else { return MISSING };
            target = if to.starts_with('/') { to } else { join(parent(&target).unwrap_or("/"), &to) };
        }
        LOOP
    }

    async fn name(&self, ask: Ask, what: &str, path: &str) -> Result<String, Failure> {
        match self.ask(ask, |packet| put(packet, path.as_bytes())).await? {
            Answer::Name(entries) if entries.len() == 1 => Ok(String::from_utf8_lossy(&entries[0].name).into_owned()),
            Answer::Status { code, message } => Err(refusal(path, what, code, &message)),
            _ => Err(unexpected(what)),
        }
    }

    async fn read_link(&self, path: &str) -> Result<String, Failure> {
        self.name(Ask::ReadLink, "readlink", path).await
    }

    /// Servers answer for a path that does not exist, as long as its directory does.
    async fn real_path(&self, path: &str) -> Result<String, Failure> {
        let (real, exists) = tokio::join!(self.name(Ask::RealPath, "realpath", path), self.stat(path, true));
        exists?;
        real
    }

    /// A server that waits for what a FIFO has to say does nothing else meanwhile.
    async fn refuse_blocking(&self, path: &str, info: &Attributes) -> Result<(), Failure> {
        let blocks = match info.kind() {
            FIFO => true,
            CHARACTER_DEVICE => {
                let real = self.name(Ask::RealPath, "realpath", path).await?;
                !PROMPT_DEVICES.contains(&real.as_str())
            }
            _ => false,
        };
        if blocks {
            let text = "a FIFO or a terminal can wait for ever, which stops the SFTP server: use a program for it";
            return Err(Failure::file_errno(path, UNSUPPORTED, text));
        }
        Ok(())
    }

    async fn open_file(&self, path: &str, how: How) -> Result<OpenFile, Failure> {
        let write = how.write || how.append;
        let info = match self.stat_as_told(path, !how.no_follow).await {
            Ok(info) if how.no_follow && info.kind() == LINK => {
                return Err(Failure::file_errno(path, LOOP, "open: it is a symbolic link"));
            }
            Ok(info) => Some(info),
            // To be made, or to be told by the open.
            Err(failure) if is_missing(&failure) => None,
            Err(failure) => return Err(failure),
        };
        let exists = || Failure::file_errno(path, EXISTS, "open: File exists");
        if let Some(info) = &info {
            if how.create_new {
                return Err(exists());
            }
            if info.is_directory() && write {
                return Err(Failure::file_errno(path, IS_DIRECTORY, "it is a directory"));
            }
            self.refuse_blocking(path, info).await?;
        }
        let directory = info.is_some_and(|info| info.is_directory());
        let flag = |is_so: bool, flag: u32| if is_so { flag } else { 0 };
        let flags = flag(how.read, READ)
            | flag(write, WRITE)
            | flag(how.append, APPEND)
            | flag(how.create || how.create_new, CREATE)
            | flag(how.truncate, TRUNCATE)
            | flag(how.create_new, EXCLUSIVE);
        let body = |packet: &mut BytesMut| {
            put(packet, path.as_bytes());
            packet.put_u32(flags);
            Attributes { mode: how.mode.map(|mode| mode & PERMISSIONS), ..Attributes::default() }.write(packet);
        };
        let told = match self.ask(Ask::Open, body).await? {
            Answer::Handle(open) => Ok(open),
            Answer::Status { code, message } => Err(refusal(path, "open", code, &message)),
            _ => Err(unexpected("open")),
        };
        match told {
            Ok(open) => Ok(OpenFile { open, path: path.to_owned(), read: how.read, write, directory }),
            // A link that leads nowhere is there too.
            Err(_) if how.create_new && self.stat_as_told(path, false).await.is_ok() => Err(exists()),
            Err(failure) => self.sharpened(path, true, Err(failure)).await,
        }
    }

    async fn close_file(&self, file: OpenFile) -> Result<(), Failure> {
        done(&file.path, "close", self.close(file.open).await?).map_err(|failure| of_handle(failure, &file.path))
    }

    /// One piece, as far as the file goes.
    async fn read_piece(&self, file: &OpenFile, offset: u64, length: usize) -> Result<(Bytes, bool), Failure> {
        let mut piece = Bytes::new();
        let mut whole = BytesMut::new();
        while whole.len() + piece.len() < length {
            whole.extend_from_slice(&piece);
            let (at, wanted) = (offset.saturating_add(whole.len() as u64), length - whole.len());
            let body = |packet: &mut BytesMut| {
                put(packet, &file.open.handle);
                packet.put_u64(at);
                packet.put_u32(u32::try_from(wanted).unwrap_or(u32::MAX));
            };
            piece = match self.ask(Ask::Read, body).await? {
                Answer::Data(data) if data.len() > wanted => return Err(unexpected("read")),
                // Nothing, without an end: it is taken for one.
                Answer::Data(data) if data.is_empty() => return Ok((whole.freeze(), true)),
                Answer::Data(data) => data,
                Answer::Status { code: code::EOF, .. } => return Ok((whole.freeze(), true)),
                Answer::Status { code, message } => {
                    return Err(of_handle(refusal(&file.path, "read", code, &message), &file.path));
                }
                _ => return Err(unexpected("read")),
            };
        }
        if whole.is_empty() {
            return Ok((piece, false));
        }
        whole.extend_from_slice(&piece);
        Ok((whole.freeze(), false))
    }

    /// Up to `length` bytes at `offset`: fewer at the end of the file only. Several pieces are under way at once.
    async fn read_at(&self, file: &OpenFile, offset: u64, length: usize) -> Result<Vec<u8>, Failure> {
        if file.directory {
            return Err(Failure::file_errno(&file.path, IS_DIRECTORY, "read: it is a directory"));
        }
        if !file.read {
            return Err(Failure::file_errno(&file.path, BAD_FILE, "read: it is open for writing only"));
        }
        let mut data = Vec::new();
        let mut pieces = FuturesOrdered::new();
        let mut asked = 0;
        loop {
            while asked < length && pieces.len() < WINDOW / self.read_piece {
                let wanted = self.read_piece.min(length - asked);
                pieces.push_back(self.read_piece(file, offset.saturating_add(asked as u64), wanted));
                asked += wanted;
            }
            match pieces.next().await {
                None => return Ok(data),
                Some(piece) => {
                    let (piece, is_last) = piece?;
                    data.extend_from_slice(&piece);
                    if is_last {
                        return Ok(data);
                    }
                }
            }
        }
    }

    /// Write all of it; several pieces are under way at once. A server does them in their order.
    async fn write_at(&self, file: &OpenFile, offset: u64, data: Bytes) -> Result<(), Failure> {
        if !file.write {
            return Err(Failure::file_errno(&file.path, BAD_FILE, "write: it is open for reading only"));
        }
        let mut pieces = FuturesOrdered::new();
        let mut sent = 0;
        loop {
            while sent < data.len() && pieces.len() < WINDOW / self.write_piece {
                let piece = data.slice(sent..data.len().min(sent + self.write_piece));
                let at = offset.saturating_add(sent as u64);
                sent += piece.len();
                pieces.push_back(self.write_piece(file, at, piece));
            }
            match pieces.next().await {
                None => return Ok(()),
                Some(piece) => piece?,
            }
        }
    }

    async fn write_piece(&self, file: &OpenFile, offset: u64, piece: Bytes) -> Result<(), Failure> {
        let body = |packet: &mut BytesMut| {
            packet.reserve(piece.len() + file.open.handle.len() + 16);
            put(packet, &file.open.handle);
            packet.put_u64(offset);
            put(packet, &piece);
        };
        done(&file.path, "write", self.ask(Ask::Write, body).await?).map_err(|failure| of_handle(failure, &file.path))
    }

    async fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let file = self.open_file(path, How::READ).await?;
        let too_big =
            || Failure::file_errno(path, TOO_BIG, &format!("it has more than {limit} bytes: stream it instead"));
        let mut data = Vec::new();
        loop {
            let piece = self.read_at(&file, data.len() as u64, CROSSING).await?;
            if (data.len() + piece.len()) as u64 > limit {
                return Err(too_big());
            }
            let is_last = piece.len() < CROSSING;
            if data.is_empty() {
                data = piece;
            } else {
                data.extend_from_slice(&piece);
            }
            if is_last {
                break;
            }
        }
        self.close_file(file).await?;
        Ok(data)
    }

    async fn write(&self, path: &str, data: Bytes, how: How) -> Result<(), Failure> {
        let file = self.open_file(path, how).await?;
        if !file.write {
            return Err(Failure::file_errno(path, BAD_FILE, "write: it is open for reading only"));
        }
        self.write_at(&file, 0, data).await?;
        self.close_file(file).await
    }

    async fn fstat(&self, file: &OpenFile) -> Result<Attributes, Failure> {
        let told = attributes(&file.path, "stat", self.ask(Ask::FStat, |packet| put(packet, &file.open.handle)).await?);
        told.map_err(|failure| of_handle(failure, &file.path))
    }

    async fn set(&self, path: &str, attributes: &FileAttributes) -> Result<(), Failure> {
        if attributes.size.is_some() {
            let info = self.stat(path, true).await?;
            if info.is_directory() {
                return Err(Failure::file_errno(path, IS_DIRECTORY, "it is a directory"));
            }
            self.refuse_blocking(path, &info).await?;
        }
        let now = if has_half(attributes) { self.stat(path, true).await? } else { Attributes::default() };
        let wanted = wanted(path, attributes, now)?;
        let body = |packet: &mut BytesMut| {
            put(packet, path.as_bytes());
            wanted.write(packet);
        };
        let told = done(path, "setstat", self.ask(Ask::SetStat, body).await?);
        self.sharpened(path, true, told).await
    }

    async fn fset(&self, file: &OpenFile, attributes: &FileAttributes) -> Result<(), Failure> {
        let now = if has_half(attributes) { self.fstat(file).await? } else { Attributes::default() };
        let wanted = wanted(&file.path, attributes, now)?;
        let body = |packet: &mut BytesMut| {
            put(packet, &file.open.handle);
            wanted.write(packet);
        };
        let told = done(&file.path, "setstat", self.ask(Ask::FSetStat, body).await?);
        told.map_err(|failure| of_handle(failure, &file.path))
    }

    async fn symlink(&self, target: &str, path: &str) -> Result<(), Failure> {
        // The protocol has them in the other order. OpenSSH's server took them in this one, and now all do.
        let body = |packet: &mut BytesMut| {
            put(packet, target.as_bytes());
            put(packet, path.as_bytes());
        };
        match done(path, "symlink", self.ask(Ask::SymLink, body).await?) {
            Err(failure) if is_missing(&failure) => self.sharpened(path, false, Err(failure)).await,
            Err(_) if self.stat_as_told(path, false).await.is_ok() => {
                Err(Failure::file_errno(path, EXISTS, "symlink: File exists"))
            }
            told => told,
        }
    }

    async fn make_directory(&self, path: &str, recursive: bool, mode: Option<u32>) -> Result<(), Failure> {
        match self.stat_as_told(path, recursive).await {
            Ok(info) if recursive && info.is_directory() => return Ok(()),
            Ok(_) => return Err(Failure::file_errno(path, EXISTS, "mkdir: File exists")),
            Err(failure) if is_missing(&failure) => {}
            Err(failure) => return Err(failure),
        }
        let mut missing = vec![path];
        let mut at = path;
        while let Some(above) = parent(at) {
            match self.stat_as_told(above, true).await {
                Ok(info) if info.is_directory() => break,
                Ok(_) => return Err(Failure::file_errno(path, NOT_DIRECTORY, "mkdir: Not a directory")),
                Err(failure) if recursive && is_missing(&failure) => {
                    missing.push(above);
                    at = above;
                }
                Err(failure) => return self.sharpened(path, false, Err(failure)).await,
            }
        }
        for path in missing.into_iter().rev() {
            let body = |packet: &mut BytesMut| {
                put(packet, path.as_bytes());
                Attributes { mode: mode.map(|mode| mode & PERMISSIONS), ..Attributes::default() }.write(packet);
            };
            match done(path, "mkdir", self.ask(Ask::MkDir, body).await?) {
                // A link that leads nowhere, or another was faster.
                Err(_) if self.stat_as_told(path, false).await.is_ok() => {
                    return Err(Failure::file_errno(path, EXISTS, "mkdir: File exists"));
                }
                told => told?,
            }
        }
        Ok(())
    }

    async fn remove(&self, path: &str, recursive: bool, force: bool) -> Result<(), Failure> {
        let removed = async {
            if !self.stat(path, false).await?.is_directory() {
                let told = self.path_op(Ask::Remove, "remove", path).await;
                return self.sharpened(path, false, told).await;
            }
            if !recursive {
                return Err(Failure::file(path, "remove: it is a directory".into()));
            }
            self.remove_tree(path).await
        };
        match removed.await {
            Err(failure) if force && is_missing(&failure) => Ok(()),
            removed => removed,
        }
    }

    /// What is in it first. What somebody else has removed in the meantime is removed.
    async fn remove_tree(&self, path: &str) -> Result<(), Failure> {
        let mut room = Room::WHOLE;
        let mut left = vec![(path.to_owned(), false)];
        while let Some((at, is_empty)) = left.pop() {
            let told = if is_empty {
                self.path_op(Ask::RmDir, "rmdir", &at).await
            } else {
                match self.entries(&at, &mut room).await {
                    Ok(entries) => {
                        left.push((at.clone(), true));
                        for (name, info) in entries {
                            let below = join(&at, &name);
                            if info.is_directory() {
                                left.push((below, false));
                            } else {
                                match self.path_op(Ask::Remove, "remove", &below).await {
                                    Err(failure) if !is_missing(&failure) => return Err(failure),
                                    _ => {}
                                }
                            }
                        }
                        Ok(())
                    }
                    Err(failure) => Err(failure),
                }
            };
            match told {
                Err(failure) if is_missing(&failure) => {}
                told => told?,
            }
        }
        Ok(())
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        let body = |packet: &mut BytesMut| {
            put(packet, from.as_bytes());
            put(packet, to.as_bytes());
        };
        let answer = if self.has(POSIX_RENAME) {
            self.ask_extended(POSIX_RENAME, body).await?
        } else {
            // Whether this takes another's place is the server's to say.
            self.ask(Ask::Rename, body).await?
        };
        let Err(failure) = done(from, "rename", answer) else { return Ok(()) };
        let (from_info, to_info) = tokio::join!(self.stat_as_told(from, false), self.stat_as_told(to, false));
        let errno = match (from_info, to_info) {
            (Err(_), _) => return self.sharpened(from, false, Err(failure)).await,
            (Ok(_), Err(_)) => return self.sharpened(to, false, Err(failure)).await,
            (Ok(from), Ok(to)) => match (from.is_directory(), to.is_directory()) {
                (true, false) => NOT_DIRECTORY,
                (false, true) => IS_DIRECTORY,
                (true, true) => NOT_EMPTY,
                (false, false) if !self.has(POSIX_RENAME) => EXISTS,
                (false, false) => return Err(failure),
            },
        };
        Err(Failure::file_errno(from, errno, &format!("rename to {to:?}: there is something that cannot be replaced")))
    }

    /// The content and the mode. The server does it itself if it can.
    async fn copy(&self, from: &str, to: &str) -> Result<(), Failure> {
        let (source, target, to_path) = tokio::join!(
            self.stat(from, true),
            self.name(Ask::RealPath, "realpath", from),
            self.name(Ask::RealPath, "realpath", to)
        );
        let source = source?;
        let is_directory = |path: &str| Failure::file_errno(path, IS_DIRECTORY, "it is a directory");
        if source.is_directory() {
            return Err(is_directory(from));
        }
        // To open it would empty it first.
        if target.is_ok_and(|target| to_path.is_ok_and(|to| to == target)) {
            return Ok(());
        }
        let mode = source.mode.map(|mode| mode & 0o777);
        let writing = How { write: true, create: true, truncate: true, mode, ..How::default() };
        let reading = self.open_file(from, How::READ).await?;
        let written = self.open_file(to, writing).await?;
        if self.has(COPY_DATA) {
            let body = |packet: &mut BytesMut| {
                put(packet, &reading.open.handle);
                packet.put_u64(0);
                // To the end.
                packet.put_u64(0);
                put(packet, &written.open.handle);
                packet.put_u64(0);
            };
            done(from, "copy", self.ask_extended(COPY_DATA, body).await?)?;
        } else {
            let mut at = 0;
            loop {
                let piece = self.read_at(&reading, at, CROSSING).await?;
                let length = piece.len();
                self.write_at(&written, at, piece.into()).await?;
                at += length as u64;
                if length < CROSSING {
                    break;
                }
            }
        }
        if let Some(mode) = mode {
            let mode = FileAttributes {
                mode: Some(mode),
                uid: None,
                gid: None,
                size: None,
                accessed_at: None,
                modified_at: None,
            };
            self.fset(&written, &mode).await?;
        }
        self.close_file(reading).await?;
        self.close_file(written).await
    }

    async fn link(&self, from: &str, to: &str) -> Result<(), Failure> {
        if !self.has(HARDLINK) {
            return Err(Failure::file_errno(from, UNSUPPORTED, "link: the SFTP server has no hard links"));
        }
        let body = |packet: &mut BytesMut| {
            put(packet, from.as_bytes());
            put(packet, to.as_bytes());
        };
        match done(from, "link", self.ask_extended(HARDLINK, body).await?) {
            Err(failure) if is_missing(&failure) => self.sharpened(from, false, Err(failure)).await,
            Err(_) if self.stat_as_told(to, false).await.is_ok() => {
                Err(Failure::file_errno(from, EXISTS, "link: File exists"))
            }
            told => told,
        }
    }

    async fn sync(&self, file: &OpenFile) -> Result<(), Failure> {
        if !self.has(FSYNC) {
            return Err(Failure::file_errno(&file.path, UNSUPPORTED, "sync: the SFTP server cannot"));
        }
        let answer = self.ask_extended(FSYNC, |packet| put(packet, &file.open.handle)).await?;
        done(&file.path, "sync", answer).map_err(|failure| of_handle(failure, &file.path))
    }

    /// By opening it, which only the server's kernel knows.
    async fn access(&self, path: &str, readable: bool, writable: bool) -> Result<(), Failure> {
        let info = self.stat(path, true).await?;
        if info.is_directory() {
            if writable {
                let text = "SFTP cannot tell whether a directory can be written: make something in it";
                return Err(Failure::file_errno(path, UNSUPPORTED, text));
            }
            let directory = self.open_directory(path).await?;
            self.close(directory).await?;
            return Ok(());
        }
        let how = How { read: readable, write: writable, ..How::default() };
        let file = self.open_file(path, how).await?;
        self.close_file(file).await
    }

    async fn open_directory(&self, path: &str) -> Result<Open, Failure> {
        let told = match self.ask(Ask::OpenDir, |packet| put(packet, path.as_bytes())).await? {
            Answer::Handle(open) => return Ok(open),
            Answer::Status { code, message } => Err(refusal(path, "opendir", code, &message)),
            _ => return Err(unexpected("opendir")),
        };
        match self.stat_as_told(path, true).await {
            Ok(info) if !info.is_directory() => {
                Err(Failure::file_errno(path, NOT_DIRECTORY, "opendir: Not a directory"))
            }
            _ => self.sharpened(path, true, told).await,
        }
    }

    /// The entries of one directory by their names, in the order of their bytes. A name that is no text is told as Node tells it.
    async fn entries(&self, path: &str, room: &mut Room) -> Result<BTreeMap<String, Attributes>, Failure> {
        let directory = self.open_directory(path).await?;
        let mut entries = BTreeMap::new();
        loop {
            match self.ask(Ask::ReadDir, |packet| put(packet, &directory.handle)).await? {
                Answer::Name(batch) => {
                    for entry in batch {
                        room.take_bytes(path, entry.name.len())?;
                        let name = String::from_utf8_lossy(&entry.name);
                        // A name is one step down; a server that says more is not followed.
                        if !matches!(&*name, "" | "." | "..") && !name.contains('/') {
                            entries.insert(name.into_owned(), entry.attributes);
                        }
                    }
                }
                Answer::Status { code: code::EOF, .. } => break,
                Answer::Status { code, message } => return Err(refusal(path, "readdir", code, &message)),
                _ => return Err(unexpected("readdir")),
            }
        }
        self.close(directory).await?;
        Ok(entries)
    }

    /// In the order in which Node has them, as `files.rs` does it. A link to a directory is gone into.
    async fn list(&self, path: &str, recursive: bool) -> Result<Vec<FileEntry>, Failure> {
        let mut room = Room::WHOLE;
        let mut list = Vec::new();
        let mut directories = vec![(String::new(), self.entries(path, &mut room).await?)];
        while let Some((above, entries)) = directories.pop() {
            for (name, info) in entries {
                let below = if above.is_empty() { name } else { join(&above, &name) };
                let full = join(path, &below);
                let enter = recursive
                    && (info.is_directory()
                        || info.kind() == LINK
                            && self.stat_as_told(&full, true).await.is_ok_and(|target| target.is_directory()));
                if enter {
                    directories.push((below.clone(), self.entries(&full, &mut room).await?));
                }
                list.push(FileEntry { path: below, info: info.info() });
            }
        }
        Ok(list)
    }
}

#[napi]
impl SshClient {
    /// Start SFTP.
    #[napi(ts_return_type = "Promise<Outcome<Sftp>>")]
    pub async fn sftp(&self, token: &CancelToken) -> napi::Result<Outcome<Sftp>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let live = value.live.engine().count(Kind::Sftp);
                let opening = async {
                    let session = Session::open(&value.client).await?;
                    let home = session.name(Ask::RealPath, "realpath", ".").await?;
                    Ok::<_, Failure>((session, home))
                };
                let (session, home) = Box::pin(cancel.guard(opening)).await?;
                let extensions = session.extensions();
                let value = SftpValue { session: Arc::new(session), live };
                Ok(Sftp { slot: Slot::new("SFTP", value), home, extensions })
            })
            .await)
    }
}

struct SftpValue {
    session: Arc<Session>,
    live: Live,
}

impl InEngine for SftpValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

/// The files of a server.
#[napi]
pub struct Sftp {
    slot: Slot<SftpValue>,
    home: String,
    extensions: Vec<String>,
}

#[napi]
impl Sftp {
    /// Where the server begins, and what a path that does not begin with `/` is relative to.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn home(&self) -> String {
        self.home.clone()
    }

    /// What the server has beyond version 3, by name.
    #[napi(getter, catch_unwind)]
    #[must_use]
    pub fn extensions(&self) -> Vec<String> {
        self.extensions.clone()
    }

    /// What the server says of a file, or of the link itself.
    #[napi(ts_return_type = "Promise<Outcome<FileInfo>>")]
    pub async fn file_stat(&self, path: String, follow: bool, token: &CancelToken) -> napi::Result<Outcome<FileInfo>> {
        let run = |value: Arc<SftpValue>, cancel: Cancel| async move {
            let info = cancel.guard(value.session.stat(&path, follow)).await?;
            Ok(info.info())
        };
        Ok(self.slot.run(token, run).await)
    }

    /// A path without links, of something that exists.
    #[napi(ts_return_type = "Promise<Outcome<string>>")]
    pub async fn file_real_path(&self, path: String, token: &CancelToken) -> napi::Result<Outcome<String>> {
        let run =
            |value: Arc<SftpValue>, cancel: Cancel| async move { cancel.guard(value.session.real_path(&path)).await };
        Ok(self.slot.run(token, run).await)
    }

    /// Where a link points to.
    #[napi(ts_return_type = "Promise<Outcome<string>>")]
    pub async fn file_read_link(&self, path: String, token: &CancelToken) -> napi::Result<Outcome<String>> {
        let run = |value: Arc<SftpValue>, cancel: Cancel| async move {
            let reading = async {
                let told = value.session.read_link(&path).await;
                value.session.sharpened(&path, false, told).await
            };
            cancel.guard(reading).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Make a link to whatever `target` is.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_symlink(&self, target: String, path: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<SftpValue>, cancel: Cancel| async move {
            cancel.guard(value.session.symlink(&target, &path)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Give a file a second name.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_link(&self, from: String, to: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run =
            |value: Arc<SftpValue>, cancel: Cancel| async move { cancel.guard(value.session.link(&from, &to)).await };
        Ok(self.slot.run(token, run).await)
    }

    /// Whether the server's user may read and write it.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_access(
        &self,
        path: String,
        readable: bool,
        writable: bool,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<SftpValue>, cancel: Cancel| async move {
            cancel.guard(value.session.access(&path, readable, writable)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Make a directory; with `recursive` also those above, and none that is there.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_make_directory(
        &self,
        path: String,
        recursive: bool,
        mode: Option<u32>,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<SftpValue>, cancel: Cancel| async move {
            cancel.guard(value.session.make_directory(&path, recursive, mode)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Remove a file or a link; with `recursive` also a directory and all below. With `force` it need not exist.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_remove(
        &self,
        path: String,
        recursive: bool,
        force: bool,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<SftpValue>, cancel: Cancel| async move {
            cancel.guard(value.session.remove(&path, recursive, force)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Rename a file or a directory.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_rename(&self, from: String, to: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run =
            |value: Arc<SftpValue>, cancel: Cancel| async move { cancel.guard(value.session.rename(&from, &to)).await };
        Ok(self.slot.run(token, run).await)
    }

    /// Copy the content and the mode of a file.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_copy(&self, from: String, to: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run =
            |value: Arc<SftpValue>, cancel: Cancel| async move { cancel.guard(value.session.copy(&from, &to)).await };
        Ok(self.slot.run(token, run).await)
    }

    /// Change what is known of a file.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_set(
        &self,
        path: String,
        attributes: FileAttributes,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<SftpValue>, cancel: Cancel| async move {
            cancel.guard(value.session.set(&path, &attributes)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// The entries of a directory, or of the whole tree below it; at most a million.
    #[napi(ts_return_type = "Promise<Outcome<Array<FileEntry>>>")]
    pub async fn file_list(
        &self,
        path: String,
        recursive: bool,
        token: &CancelToken,
    ) -> napi::Result<Outcome<Vec<FileEntry>>> {
        let run = |value: Arc<SftpValue>, cancel: Cancel| async move {
            cancel.guard(value.session.list(&path, recursive)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// A whole file, if it has no more than `limit` bytes, whatever it says about its size.
    #[napi(ts_return_type = "Promise<Outcome<Buffer>>")]
    pub async fn file_read(&self, path: String, limit: f64, token: &CancelToken) -> napi::Result<Outcome<Buffer>> {
        let run = |value: Arc<SftpValue>, cancel: Cancel| async move {
            cancel.guard(value.session.read(&path, whole(limit))).await.map(Buffer::from)
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Write a whole file. When it is cancelled, a part of it may be written.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn file_write(
        &self,
        path: String,
        data: Buffer,
        options: OpenOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<SftpValue>, cancel: Cancel| async move {
            let how = options.how()?;
            cancel.guard(value.session.write(&path, Bytes::from_owner(data), how)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Open a file.
    #[napi(ts_return_type = "Promise<Outcome<SftpFile>>")]
    pub async fn file_open(
        &self,
        path: String,
        options: OpenOptions,
        token: &CancelToken,
    ) -> napi::Result<Outcome<SftpFile>> {
        let run = |value: Arc<SftpValue>, cancel: Cancel| async move {
            let how = options.how()?;
            let file = cancel.guard(value.session.open_file(&path, how)).await?;
            let live = value.live.engine().count(Kind::File);
            let file = FileValue { file: tokio::sync::RwLock::new(Some(file)), session: value.session.clone(), live };
            Ok(SftpFile { slot: Slot::new("file", file) })
        };
        Ok(self.slot.run(token, run).await)
    }

    /// End SFTP, with all that is open, and give the handle back.
    #[napi]
    pub async fn close(&self) -> napi::Result<()> {
        let Some(value) = self.slot.take() else { return Ok(()) };
        let engine = value.live.engine().clone();
        engine
            .finish(async {
                value.session.end().await;
                drop(value);
            })
            .await;
        Ok(())
    }
}

struct FileValue {
    /// `None` when it is closed, which waits for what is under way.
    file: tokio::sync::RwLock<Option<OpenFile>>,
    session: Arc<Session>,
    live: Live,
}

impl InEngine for FileValue {
    fn engine(&self) -> &Arc<EngineState> {
        self.live.engine()
    }
}

impl FileValue {
    async fn with<T>(&self, ask: impl AsyncFnOnce(&Session, &OpenFile) -> Result<T, Failure>) -> Result<T, Failure> {
        match &*self.file.read().await {
            Some(file) => ask(&self.session, file).await,
            None => Err(Failure::handle_closed("file")),
        }
    }
}

/// A file that is open on a server.
#[napi]
pub struct SftpFile {
    slot: Slot<FileValue>,
}

#[napi]
impl SftpFile {
    /// What the server says of it.
    #[napi(ts_return_type = "Promise<Outcome<FileInfo>>")]
    pub async fn stat(&self, token: &CancelToken) -> napi::Result<Outcome<FileInfo>> {
        let run = |value: Arc<FileValue>, cancel: Cancel| async move {
            let info = cancel.guard(value.with(async |session, file| session.fstat(file).await)).await?;
            Ok(info.info())
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Up to `len` bytes at `offset`; fewer at the end of the file, and never more than 4 MiB.
    #[napi(ts_return_type = "Promise<Outcome<Buffer>>")]
    pub async fn read(&self, offset: f64, len: u32, token: &CancelToken) -> napi::Result<Outcome<Buffer>> {
        let run = |value: Arc<FileValue>, cancel: Cancel| async move {
            let len = (len as usize).min(CROSSING);
            let read = value.with(async |session, file| session.read_at(file, whole(offset), len).await);
            Ok(Buffer::from(cancel.guard(read).await?))
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Write all of `data` at `offset`, or at the end when the file was opened for that.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn write(&self, offset: f64, data: Buffer, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<FileValue>, cancel: Cancel| async move {
            let data = Bytes::from_owner(data);
            cancel.guard(value.with(async |session, file| session.write_at(file, whole(offset), data).await)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Change what is known of it.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn set(&self, attributes: FileAttributes, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<FileValue>, cancel: Cancel| async move {
            cancel.guard(value.with(async |session, file| session.fset(file, &attributes).await)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// What is written goes to the server's disk.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn sync(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        let run = |value: Arc<FileValue>, cancel: Cancel| async move {
            cancel.guard(value.with(async |session, file| session.sync(file).await)).await
        };
        Ok(self.slot.run(token, run).await)
    }

    /// Close it, and give the handle back.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn close(&self) -> napi::Result<Outcome<()>> {
        let Some(value) = self.slot.take() else { return Ok(Ok(()).into()) };
        let engine = value.live.engine().clone();
        let closed = engine
            .finish(async {
                let file = value.file.write().await.take();
                let closed = match file {
                    Some(file) => value.session.close_file(file).await,
                    None => Ok(()),
                };
                drop(value);
                closed
            })
            .await;
        Ok(closed.map_err(Stop::Failed).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_the_protocol_cannot_say_are_refused() {
        assert_eq!(seconds("/a", 1.9).ok(), Some(1));
        assert_eq!(seconds("/a", f64::from(u32::MAX)).ok(), Some(u32::MAX));
        for time in [-1.0, f64::from(u32::MAX) + 1.0, f64::NAN] {
            assert!(matches!(seconds("/a", time), Err(Failure::FileFailed { errno: Some(OVERFLOW), .. })), "{time}");
        }
    }

    #[test]
    fn a_refusal_has_the_number_that_its_code_stands_for() {
        for (code, wanted) in [(2, Some(MISSING)), (3, Some(DENIED)), (8, Some(UNSUPPORTED)), (4, None), (99, None)] {
            let failure = refusal("/a", "stat", code, "");
            assert!(matches!(failure, Failure::FileFailed { errno, .. } if errno == wanted), "{code}");
        }
    }
}
