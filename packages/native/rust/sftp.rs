//! SFTP, version 3: its packets, and a session with a server in which many requests are under way.
//!
//! Of our own, and not russh-sftp: that one reads handles and names as text (OpenSSH's handle 128 is no UTF-8, and would be
//! another), lets a server ask for 4 GiB of memory, and leaves requests waiting when the connection has ended. What a server
//! says is bounded here: a packet in its length, answers by the requests under way, and what nobody asked for ends the session.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::failure::Failure;
use crate::ssh_client::{Channel, Client, Connection, LEAVE, Lane};

const VERSION: u32 = 3;

/// The longest packet of a server: OpenSSH's are up to 256 KiB.
const PACKET: usize = 1 << 20;

/// What a read or a write carries when the server says nothing of limits: the protocol lets servers take no more.
const PIECE: usize = 32 << 10;

/// And at most.
const LARGEST: usize = 256 << 10;

/// Requests under way at once.
const UNDER_WAY: usize = 64;

pub(crate) const POSIX_RENAME: &str = "posix-rename@openssh.com";
pub(crate) const HARDLINK: &str = "hardlink@openssh.com";
pub(crate) const FSYNC: &str = "fsync@openssh.com";
pub(crate) const COPY_DATA: &str = "copy-data";
const LIMITS: &str = "limits@openssh.com";

/// What is asked of a server.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Ask {
    Init = 1,
    Open = 3,
    Close = 4,
    Read = 5,
    Write = 6,
    LStat = 7,
    FStat = 8,
    SetStat = 9,
    FSetStat = 10,
    OpenDir = 11,
    ReadDir = 12,
    Remove = 13,
    MkDir = 14,
    RmDir = 15,
    RealPath = 16,
    Stat = 17,
    Rename = 18,
    ReadLink = 19,
    SymLink = 20,
    Extended = 200,
}

/// Of a status.
pub(crate) mod code {
    pub(crate) const OK: u32 = 0;
    pub(crate) const EOF: u32 = 1;
    pub(crate) const NO_SUCH_FILE: u32 = 2;
    pub(crate) const PERMISSION_DENIED: u32 = 3;
    pub(crate) const UNSUPPORTED: u32 = 8;
}

/// What a server says of a file. What is absent it has not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) size: Option<u64>,
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mode: Option<u32>,
    /// Accessed, modified: seconds since 1970.
    pub(crate) times: Option<(u32, u32)>,
}

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const MODE: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;

/// A server broke the protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken(&'static str);

impl Attributes {
    pub(crate) fn write(&self, packet: &mut BytesMut) {
        let flag = |is_there: bool, flag: u32| if is_there { flag } else { 0 };
        packet.put_u32(
            flag(self.size.is_some(), SIZE)
                | flag(self.owner.is_some(), OWNER)
                | flag(self.mode.is_some(), MODE)
                | flag(self.times.is_some(), TIMES),
        );
        if let Some(size) = self.size {
            packet.put_u64(size);
        }
        if let Some((uid, gid)) = self.owner {
            packet.put_u32(uid);
            packet.put_u32(gid);
        }
        if let Some(mode) = self.mode {
            packet.put_u32(mode);
        }
        if let Some((accessed, modified)) = self.times {
            packet.put_u32(accessed);
            packet.put_u32(modified);
        }
    }

    fn read(packet: &mut Bytes) -> Result<Self, Broken> {
        let flags = take_u32(packet)?;
        let mut attributes = Self::default();
        if flags & SIZE != 0 {
            attributes.size = Some(take_u64(packet)?);
        }
        if flags & OWNER != 0 {
            attributes.owner = Some((take_u32(packet)?, take_u32(packet)?));
        }
        if flags & MODE != 0 {
            attributes.mode = Some(take_u32(packet)?);
        }
        if flags & TIMES != 0 {
            attributes.times = Some((take_u32(packet)?, take_u32(packet)?));
        }
        if flags & EXTENDED != 0 {
            for _ in 0..take_u32(packet)? {
                take_bytes(packet)?;
                take_bytes(packet)?;
            }
        }
        Ok(attributes)
    }
}

fn take_u32(packet: &mut Bytes) -> Result<u32, Broken> {
    packet.try_get_u32().map_err(|_| Broken("a packet that is too short"))
}

fn take_u64(packet: &mut Bytes) -> Result<u64, Broken> {
    packet.try_get_u64().map_err(|_| Broken("a packet that is too short"))
}

fn take_bytes(packet: &mut Bytes) -> Result<Bytes, Broken> {
    let length = take_u32(packet)? as usize;
    if length > packet.len() {
        return Err(Broken("a text that is longer than its packet"));
    }
    Ok(packet.split_to(length))
}

/// A text or a handle.
#[allow(clippy::cast_possible_truncation)] // what is sent is far below 4 GiB
pub(crate) fn put(packet: &mut BytesMut, bytes: &[u8]) {
    packet.put_u32(bytes.len() as u32);
    packet.put_slice(bytes);
}

/// An entry of a directory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Bytes,
    pub(crate) attributes: Attributes,
}

#[derive(Debug)]
pub(crate) enum Answer {
    Status { code: u32, message: String },
    Handle(Open),
    Data(Bytes),
    Name(Vec<Entry>),
    Attributes(Attributes),
    Extended(Bytes),
}

/// Something that is open on the server. When it is dropped, the server is told to close it, and nobody waits for that.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) handle: Bytes,
    wire: Arc<Wire>,
    closed: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.closed {
            self.wire.send(Ask::Close, None, |packet| put(packet, &self.handle));
        }
    }
}

/// The way to the server, and who waits for its answers.
#[derive(Debug)]
struct Wire {
    out: mpsc::UnboundedSender<Bytes>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u32,
    /// Nobody, for an answer that says nothing.
    answers: HashMap<u32, Option<oneshot::Sender<Answer>>>,
    /// Why there will be no more answers.
    over: Option<String>,
}

impl Wire {
    /// False when the session has ended.
    fn send(&self, ask: Ask, answer: Option<oneshot::Sender<Answer>>, body: impl FnOnce(&mut BytesMut)) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.over.is_some() {
            return false;
        }
        let id = waiting.next;
        waiting.next = id.wrapping_add(1);
        waiting.answers.insert(id, answer);
        let packet = packet(ask, |packet| {
            packet.put_u32(id);
            body(packet);
        });
        // In the order of the ids: what was asked first is done first.
        self.out.send(packet).is_ok()
    }

    /// Give an answer to who waits for it.
    fn receive(self: &Arc<Self>, mut packet: Bytes) -> Result<(), Broken> {
        let kind = packet.try_get_u8().map_err(|_| Broken("an empty packet"))?;
        let id = take_u32(&mut packet)?;
        let answer = match kind {
            101 => {
                let code = take_u32(&mut packet)?;
                // Old servers leave the text out.
                let message = take_bytes(&mut packet).unwrap_or_default();
                Answer::Status { code, message: String::from_utf8_lossy(&message).into_owned() }
            }
            102 => {
                let handle = take_bytes(&mut packet)?;
                Answer::Handle(Open { handle, wire: self.clone(), closed: false })
            }
            103 => Answer::Data(take_bytes(&mut packet)?),
            104 => {
                let count = take_u32(&mut packet)?;
                let mut entries = Vec::new();
                for _ in 0..count {
                    let name = take_bytes(&mut packet)?;
                    take_bytes(&mut packet)?;
                    entries.push(Entry { name, attributes: Attributes::read(&mut packet)? });
                }
                Answer::Name(entries)
            }
            105 => Answer::Attributes(Attributes::read(&mut packet)?),
            201 => Answer::Extended(packet),
            _ => return Err(Broken("a packet of an unknown kind")),
        };
        let waiting = self.waiting.lock().answers.remove(&id);
        match waiting {
            // What nobody waits for any more is dropped outside of the lock: what is open closes then.
            Some(Some(waiting)) => drop(waiting.send(answer)),
            Some(None) => {}
            None => return Err(Broken("an answer that nobody has asked for")),
        }
        Ok(())
    }

    fn end(&self, why: String) {
        let answers = {
            let mut waiting = self.waiting.lock();
            waiting.over.get_or_insert(why);
            std::mem::take(&mut waiting.answers)
        };
        drop(answers);
    }
}

#[allow(clippy::cast_possible_truncation)] // what is sent is far below 4 GiB
fn packet(ask: Ask, body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut packet = BytesMut::with_capacity(64);
    packet.put_u32(0);
    packet.put_u8(ask as u8);
    body(&mut packet);
    let length = packet.len() - 4;
    packet[..4].copy_from_slice(&(length as u32).to_be_bytes());
    packet.freeze()
}

/// Packets out of what comes on a channel.
struct Reader {
    read: ChannelReadHalf,
    buffer: BytesMut,
}

impl Reader {
    /// The next packet; none at the end of the channel.
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            if let Some(length) = self.buffer.first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > PACKET {
                    return Err(Broken("a packet that is too long"));
                }
                if self.buffer.len() >= 4 + length {
                    self.buffer.advance(4);
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
            }
            match self.read.wait().await {
                Some(ChannelMsg::Data { data }) => self.buffer.extend_from_slice(&data),
                Some(ChannelMsg::Close | ChannelMsg::Eof) | None => return Ok(None),
                Some(_) => {}
            }
        }
    }
}

/// A session with a server.
pub(crate) struct Session {
    wire: Arc<Wire>,
    write: Arc<ChannelWriteHalf<Msg>>,
    connection: Arc<Connection>,
    under_way: Semaphore,
    extensions: HashSet<String>,
    /// What one read and one write carry.
    pub(crate) read_piece: usize,
    pub(crate) write_piece: usize,
    tasks: [AbortHandle; 2],
}

impl Drop for Session {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Session {
    pub(crate) async fn open(client: &Client) -> Result<Self, Failure> {
        let mut lane = client.lane().await?;
        let mut early = Vec::new();
        let write = lane.channel.write.clone();
        let sent = write.request_subsystem(true, "sftp").await;
        lane.ask("sftp", sent, || "the server has no SFTP".into(), &mut early).await?;
        let connection = lane.channel.connection.clone();
        let broken = |Broken(why): Broken| Failure::Protocol { message: format!("the SFTP server sent {why}") };
        let lost = || Failure::ssh_lost("the server ended SFTP");
        let hello = packet(Ask::Init, |packet| packet.put_u32(VERSION));
        write.data_bytes(hello).await.map_err(|_| connection.lost())?;
        let Lane { read, channel } = lane;
        let mut reader = Reader { read, buffer: BytesMut::new() };
        for message in early {
            if let ChannelMsg::Data { data } = message {
                reader.buffer.extend_from_slice(&data);
            }
        }
        let mut version = reader.next().await.map_err(broken)?.ok_or_else(lost)?;
        let extensions = extensions(&mut version).map_err(broken)?;
        let (out, packets) = mpsc::unbounded_channel();
        let wire = Arc::new(Wire { out, waiting: Mutex::default() });
        let reading = tokio::spawn(receive(reader, wire.clone(), connection.clone())).abort_handle();
        let writing = tokio::spawn(send(packets, channel, wire.clone())).abort_handle();
        let mut session = Self {
            wire,
            write,
            connection,
            under_way: Semaphore::new(UNDER_WAY),
            extensions,
            read_piece: PIECE,
            write_piece: PIECE,
            tasks: [reading, writing],
        };
        if session.has(LIMITS) {
            session.heed_limits().await?;
        }
        Ok(session)
    }

    async fn heed_limits(&mut self) -> Result<(), Failure> {
        if let Answer::Extended(mut limits) = self.ask_extended(LIMITS, |_| {}).await? {
            let mut next = || limits.try_get_u64().ok().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
            let (_packet, read, write) = (next(), next(), next());
            // 0 is no limit that the server knows of.
            let piece = |limit: usize| if limit == 0 { PIECE } else { limit.min(LARGEST) };
            (self.read_piece, self.write_piece) = (piece(read), piece(write));
        }
        Ok(())
    }

    pub(crate) fn has(&self, extension: &str) -> bool {
        self.extensions.contains(extension)
    }

    pub(crate) fn extensions(&self) -> Vec<String> {
        let mut extensions: Vec<_> = self.extensions.iter().cloned().collect();
        extensions.sort();
        extensions
    }

    pub(crate) async fn ask(&self, ask: Ask, body: impl FnOnce(&mut BytesMut)) -> Result<Answer, Failure> {
        // Never closed.
        let _turn = self.under_way.acquire().await;
        let (give, take) = oneshot::channel();
        if !self.wire.send(ask, Some(give), body) {
            return Err(self.over());
        }
        take.await.map_err(|_| self.over())
    }

    pub(crate) async fn ask_extended(
        &self,
        extension: &str,
        body: impl FnOnce(&mut BytesMut),
    ) -> Result<Answer, Failure> {
        self.ask(Ask::Extended, |packet| {
            put(packet, extension.as_bytes());
            body(packet);
        })
        .await
    }

    /// Close what is open, and wait for the server's word.
    pub(crate) async fn close(&self, mut open: Open) -> Result<Answer, Failure> {
        open.closed = true;
        self.ask(Ask::Close, |packet| put(packet, &open.handle)).await
    }

    fn over(&self) -> Failure {
        if self.connection.over.is_cancelled() {
            return self.connection.lost();
        }
        let why = self.wire.waiting.lock().over.clone();
        Failure::ssh_lost(&why.unwrap_or_else(|| "SFTP is closed".into()))
    }

    pub(crate) async fn end(&self) {
        self.wire.end("SFTP is closed".into());
        let _ = tokio::time::timeout(LEAVE, self.write.close()).await;
        self.connection.ping().await;
    }
}

fn extensions(version: &mut Bytes) -> Result<HashSet<String>, Broken> {
    if version.try_get_u8() != Ok(2) {
        return Err(Broken("something else than its version"));
    }
    if take_u32(version)? < VERSION {
        return Err(Broken("a version before 3"));
    }
    let mut extensions = HashSet::new();
    while !version.is_empty() {
        let name = take_bytes(version)?;
        take_bytes(version)?;
        extensions.insert(String::from_utf8_lossy(&name).into_owned());
    }
    Ok(extensions)
}

async fn receive(mut reader: Reader, wire: Arc<Wire>, connection: Arc<Connection>) {
    let why = loop {
        match reader.next().await {
            Ok(Some(packet)) => {
                if let Err(Broken(why)) = wire.receive(packet) {
                    break format!("the SFTP server sent {why}");
                }
            }
            Ok(None) if connection.over.is_cancelled() => break "the connection has ended".into(),
            Ok(None) => break "the server ended SFTP".into(),
            Err(Broken(why)) => break format!("the SFTP server sent {why}"),
        }
    };
    wire.end(why);
}

async fn send(mut packets: mpsc::UnboundedReceiver<Bytes>, channel: Channel, wire: Arc<Wire>) {
    while let Some(packet) = packets.recv().await {
        if channel.write.data_bytes(packet).await.is_err() {
            wire.end("the connection has ended".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> (Arc<Wire>, mpsc::UnboundedReceiver<Bytes>) {
        let (out, packets) = mpsc::unbounded_channel();
        (Arc::new(Wire { out, waiting: Mutex::default() }), packets)
    }

    fn answer(kind: u8, id: u32, body: impl FnOnce(&mut BytesMut)) -> Bytes {
        let mut packet = BytesMut::new();
        packet.put_u8(kind);
        packet.put_u32(id);
        body(&mut packet);
        packet.freeze()
    }

    #[test]
    fn attributes_are_read_as_they_are_written() {
        for attributes in [
            Attributes::default(),
            Attributes { size: Some(u64::MAX), owner: None, mode: Some(0o100_644), times: None },
            Attributes { size: Some(7), owner: Some((1, 2)), mode: Some(3), times: Some((4, u32::MAX)) },
        ] {
            let mut packet = BytesMut::new();
            attributes.write(&mut packet);
            let mut packet = packet.freeze();
            assert_eq!(Attributes::read(&mut packet), Ok(attributes));
            assert!(packet.is_empty());
        }
    }

    #[test]
    fn a_handle_is_bytes_and_is_closed_when_nobody_has_it() {
        let (wire, mut packets) = wire();
        let (give, take) = oneshot::channel();
        assert!(wire.send(Ask::Open, Some(give), |_| {}));
        assert!(packets.try_recv().is_ok());
        drop(take);
        let handle = [0, 0, 0, 0x80];
        assert_eq!(wire.receive(answer(102, 0, |packet| put(packet, &handle))), Ok(()));
        let Ok(close) = packets.try_recv() else { panic!("not closed") };
        assert_eq!(close[4], Ask::Close as u8);
        assert!(close.ends_with(&handle));
        // Its answer is nobody's, but was asked for.
        assert_eq!(wire.receive(answer(101, 1, |packet| packet.put_u32(0))), Ok(()));
        assert!(wire.waiting.lock().answers.is_empty());
    }

    #[test]
    fn what_breaks_the_protocol_is_told() {
        let (wire, _packets) = wire();
        for packet in [
            Bytes::new(),
            Bytes::from_static(&[101, 0]),
            answer(101, 9, |packet| packet.put_u32(0)),
            answer(77, 0, |_| {}),
            answer(103, 0, |packet| packet.put_u32(1000)),
            answer(104, 0, |packet| packet.put_u32(u32::MAX)),
        ] {
            assert!(wire.receive(packet.clone()).is_err(), "{packet:?}");
        }
        for mut version in [Bytes::from_static(&[3, 0, 0, 0, 3]), Bytes::from_static(&[2, 0, 0, 0, 2])] {
            assert!(extensions(&mut version).is_err());
        }
    }

    #[test]
    fn who_waits_is_told_the_end() {
        let (wire, _packets) = wire();
        let (give, mut take) = oneshot::channel();
        assert!(wire.send(Ask::Stat, Some(give), |_| {}));
        wire.end("gone".into());
        assert!(take.try_recv().is_err());
        assert!(!wire.send(Ask::Stat, None, |_| {}));
    }
}
