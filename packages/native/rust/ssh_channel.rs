//! The two directions of one SSH channel, with bounded memory, and without that one channel stops another.
//!
//! A client's window is held by russh, which has a word for it in neither direction that is enough:
//!
//! - What comes in: russh 0.63 widens the client's window as data arrives, and not as it is taken. What is not taken waits here.
//!   To let the session wait for it would stop all channels, and with them the words that widen ours: a client of `cat` would
//!   wait for ever. So above [`FULL`] the client's window shrinks to almost nothing, and each packet that comes all the same
//!   costs a pause. Above [`MOST`] the channel is ended.
//! - What goes out: russh queues what a window does not take, and then takes nothing of any channel before that is gone. It may
//!   do so although its sender waits for the window, since what it says of the window forgets what is on its way. So one
//!   piece of a channel is on its way at a time, and what a window was told too large by is not used.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelId, ChannelWriteHalf, Sig};
use tokio::sync::Notify;

/// What a client may send ahead of an open channel.
pub(crate) const WINDOW: u32 = 1 << 20;

/// The window of a client whose channel is full. A client whose window is used up has no way to be told of a new one.
const CLOSED_WINDOW: u32 = 2;

/// From here on what waits to be taken holds its client back.
const FULL: usize = WINDOW as usize;

/// More is never held.
const MOST: usize = 32 << 20;

/// What a packet costs beside its bytes, about.
const OVERHEAD: usize = 64;

/// How long a packet of a full channel holds its session back: the more, the fuller it is.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The most that is sent at once.
const PIECE: usize = 16 << 10;

/// What has come from a client and waits for its reader.
#[derive(Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    /// It is not full any more.
    taken: Notify,
}

#[derive(Default)]
struct Waiting {
    chunks: VecDeque<Bytes>,
    cost: usize,
    ended: bool,
    /// Nobody reads it any more.
    unread: bool,
}

/// Too much waits.
#[derive(Debug)]
pub(crate) struct Flooded;

impl Inbox {
    /// Keep what has come. Waits a while when it is full.
    pub(crate) async fn push(&self, data: &[u8]) -> Result<(), Flooded> {
        let cost = {
            let mut waiting = self.waiting.lock();
            if waiting.unread || waiting.ended || data.is_empty() {
                return Ok(());
            }
            waiting.chunks.push_back(Bytes::copy_from_slice(data));
            waiting.cost += data.len() + OVERHEAD;
            waiting.cost
        };
        self.arrived.notify_one();
        if cost > MOST {
            return Err(Flooded);
        }
        if cost > FULL {
            let pause = PAUSE * u32::try_from(cost / FULL).unwrap_or(u32::MAX);
            let _ = tokio::time::timeout(pause.min(LONGEST_PAUSE), self.taken.notified()).await;
        }
        Ok(())
    }

    /// The window that its client is to have.
    pub(crate) fn window(&self) -> u32 {
        if self.waiting.lock().cost > FULL { CLOSED_WINDOW } else { WINDOW }
    }

    /// No more will come.
    pub(crate) fn end(&self) {
        self.waiting.lock().ended = true;
        self.arrived.notify_one();
    }

    /// Nobody reads any more: what comes is dropped.
    pub(crate) fn ignore(&self) {
        *self.waiting.lock() = Waiting { unread: true, ..Waiting::default() };
        self.taken.notify_one();
    }

    /// What came next, as soon as it is there; `None` after the last. There is one reader. It loses nothing when it is
    /// dropped while it waits.
    pub(crate) async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if let Some(chunk) = waiting.chunks.pop_front() {
                    let full = waiting.cost > FULL;
                    waiting.cost -= chunk.len() + OVERHEAD;
                    if full && waiting.cost <= FULL {
                        self.taken.notify_one();
                    }
                    return Some(chunk);
                }
                if waiting.ended || waiting.unread {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }
}

/// What the session knows of the client's window for one channel.
#[derive(Default)]
pub(crate) struct Room {
    /// Bytes on their way to the session.
    under_way: AtomicUsize,
    /// By how much the window was told too large.
    excess: AtomicUsize,
    sent: Notify,
    widened: Notify,
}

impl Room {
    /// The client has widened the window; russh has just told its size, without what is on its way.
    pub(crate) fn widened(&self) {
        self.excess.store(self.under_way.load(Ordering::Acquire), Ordering::Release);
        self.widened.notify_one();
    }
}

/// A piece on its way: the session drops it when it is in a packet.
struct Piece {
    data: Bytes,
    room: Arc<Room>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.room.under_way.store(0, Ordering::Release);
        self.room.sent.notify_one();
    }
}

/// The session is gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl From<russh::Error> for Gone {
    fn from(_: russh::Error) -> Self {
        Self
    }
}

/// How what ran on a channel has ended.
pub(crate) enum Exit {
    Status(u32),
    Signal(Sig, &'static str),
}

/// The way to the client of one channel. It has one sender at a time.
pub(crate) struct Output {
    write: ChannelWriteHalf<Msg>,
    session: Handle,
    pub(crate) room: Arc<Room>,
}

impl Output {
    pub(crate) fn new(channel: Channel<Msg>, session: Handle) -> Self {
        // What comes in is taken from the session itself, which would wait for the reader of this half.
        let (_, write) = channel.split();
        Self { write, session, room: Arc::default() }
    }

    pub(crate) fn id(&self) -> ChannelId {
        self.write.id()
    }

    /// Send data, as the client takes it.
    pub(crate) async fn send(&self, extended: Option<u32>, mut data: Bytes) -> Result<(), Gone> {
        let mut packet = 0;
        while !data.is_empty() {
            while self.room.under_way.load(Ordering::Acquire) > 0 {
                self.room.sent.notified().await;
            }
            let usable = loop {
                let told = self.write.writable_packet_size().await;
                packet = packet.max(told);
                let usable = told.saturating_sub(self.room.excess.load(Ordering::Acquire));
                if usable > 0 {
                    break usable;
                }
                self.room.widened.notified().await;
            };
            // Half a packet at most: then a large window is never hidden by what it was told too large by.
            let length = data.len().min(usable).min(PIECE).min((packet / 2).max(1));
            let piece = Piece { data: data.split_to(length), room: self.room.clone() };
            self.room.under_way.store(length, Ordering::Release);
            let piece = Bytes::from_owner(piece);
            match extended {
                None => self.write.data_bytes(piece).await?,
                Some(kind) => self.write.extended_data_bytes(kind, piece).await?,
            }
        }
        Ok(())
    }

    pub(crate) async fn eof(&self) -> Result<(), Gone> {
        Ok(self.write.eof().await?)
    }

    pub(crate) async fn close(&self) -> Result<(), Gone> {
        Ok(self.write.close().await?)
    }

    /// Say how it has ended, and close.
    pub(crate) async fn exit(&self, exit: Exit) -> Result<(), Gone> {
        match exit {
            Exit::Status(status) => self.write.exit_status(status).await?,
            Exit::Signal(signal, why) => {
                let told = self.session.exit_signal_request(self.id(), signal, false, why.into(), "en".into());
                told.await.map_err(|()| Gone)?;
            }
        }
        self.eof().await?;
        self.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_in_is_read_in_order_and_then_ends() {
        let inbox = Inbox::default();
        for data in [&b"one"[..], b"", b"two"] {
            assert!(inbox.push(data).await.is_ok());
        }
        inbox.end();
        assert!(inbox.push(b"late").await.is_ok());
        let mut read = Vec::new();
        while let Some(chunk) = inbox.next().await {
            read.push(chunk);
        }
        assert_eq!(read, ["one", "two"]);
    }

    #[tokio::test]
    async fn a_full_channel_closes_its_clients_window_until_it_was_read() {
        let inbox = Inbox::default();
        let packet = vec![0; 256 << 10];
        let mut held = 0;
        while inbox.window() == WINDOW {
            assert!(inbox.push(&packet).await.is_ok());
            held += packet.len();
        }
        assert!(held > FULL / 2 && held <= FULL + packet.len(), "{held}");
        while inbox.window() != WINDOW {
            assert!(inbox.next().await.is_some());
        }
    }

    #[tokio::test]
    async fn what_nobody_takes_is_bounded() {
        let inbox = Inbox::default();
        let packet = vec![0; MOST / 2];
        assert!(inbox.push(&packet).await.is_ok());
        assert!(matches!(inbox.push(&packet).await, Err(Flooded)));
        inbox.ignore();
        assert!(inbox.push(&packet).await.is_ok());
        assert!(inbox.next().await.is_none());
    }

    #[test]
    fn a_window_is_told_too_large_by_what_is_on_its_way() {
        let room = Arc::new(Room::default());
        let piece = Piece { data: Bytes::from_static(b"12345"), room: room.clone() };
        room.under_way.store(5, Ordering::Release);
        room.widened();
        assert_eq!(room.excess.load(Ordering::Acquire), 5);
        drop(Bytes::from_owner(piece));
        assert_eq!(room.under_way.load(Ordering::Acquire), 0);
        room.widened();
        assert_eq!(room.excess.load(Ordering::Acquire), 0);
    }
}
