//! What a program has printed and nobody has read yet.

use std::collections::VecDeque;

/// Neighbouring output is joined into chunks of this size, so that a program that prints byte by byte costs no more memory
/// than its bytes.
const CHUNK: usize = 64 << 10;

/// What a chunk costs beside its bytes, about.
const OVERHEAD: usize = 64;

/// How much of each output an error says.
const TAIL: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Started { pid: u32 },
    Output { stream: Stream, data: Vec<u8> },
    Dropped { stream: Stream, bytes: usize },
    StdinFailed { message: String, errno: Option<i32> },
    Exited { code: i32 },
}

/// What a reader takes; everything else stays for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    One(Stream),
    Both,
    Events,
}

impl Wanted {
    fn has(self, stream: Stream) -> bool {
        self != Self::One(if stream == Stream::Stdout { Stream::Stderr } else { Stream::Stdout })
    }
}

#[derive(Default)]
pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    held: [usize; 2],
}

struct Entry {
    item: Item,
    /// So much at the beginning of the output has been dropped.
    start: usize,
}

impl Entry {
    fn output(&self, of: Stream) -> Option<usize> {
        match &self.item {
            Item::Output { stream, data } if *stream == of => Some(data.len() - self.start),
            _ => None,
        }
    }
}

impl Queue {
    pub(crate) fn push(&mut self, item: Item) {
        self.entries.push_back(Entry { item, start: 0 });
    }

    /// `together`: the order of the two streams does not matter, so that they can be joined more often.
    pub(crate) fn output(&mut self, of: Stream, mut bytes: &[u8], together: bool) {
        self.held[of as usize] += bytes.len();
        // The open chunks of both outputs are the last two.
        for entry in self.entries.iter_mut().rev().take(if together { 2 } else { 1 }) {
            if let Item::Output { stream, data } = &mut entry.item
                && *stream == of
            {
                let (joined, rest) = bytes.split_at(bytes.len().min(CHUNK.saturating_sub(data.len())));
                data.extend_from_slice(joined);
                bytes = rest;
                break;
            }
        }
        for chunk in bytes.chunks(CHUNK) {
            self.push(Item::Output { stream: of, data: chunk.to_vec() });
        }
    }

    /// How much memory is held, about.
    pub(crate) fn cost(&self) -> usize {
        self.bytes() + self.entries.len() * OVERHEAD
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.held.iter().sum()
    }

    /// Drop what lies between the first `head` and the last `tail` bytes of an output, and leave a mark there.
    pub(crate) fn keep(&mut self, of: Stream, head: usize, tail: usize) {
        let mut excess = self.held[of as usize].saturating_sub(head.saturating_add(tail));
        if excess == 0 {
            return;
        }
        self.held[of as usize] -= excess;
        let (mut at, mark) = self.behind(of, head);
        let mark = mark.unwrap_or_else(|| {
            self.entries.insert(at, Entry { item: Item::Dropped { stream: of, bytes: 0 }, start: 0 });
            at += 1;
            at - 1
        });
        if let Item::Dropped { bytes, .. } = &mut self.entries[mark].item {
            *bytes += excess;
        }
        while excess > 0 && at < self.entries.len() {
            match self.entries[at].output(of) {
                Some(length) if length <= excess => {
                    excess -= length;
                    self.entries.remove(at);
                }
                Some(_) => {
                    self.entries[at].start += excess;
                    excess = 0;
                }
                None => at += 1,
            }
        }
    }

    /// Where the output behind its first `head` bytes begins, made the beginning of an entry, and the mark before it.
    fn behind(&mut self, of: Stream, head: usize) -> (usize, Option<usize>) {
        let (mut seen, mut mark) = (0, None);
        for index in 0..self.entries.len() {
            let entry = &mut self.entries[index];
            if seen == head && matches!(entry.item, Item::Dropped { stream, .. } if stream == of) {
                mark = Some(index);
            }
            let Some(length) = entry.output(of) else { continue };
            if seen == head {
                return (index, mark);
            }
            if seen + length > head {
                let cut = entry.start + head - seen;
                let Item::Output { data, .. } = &mut entry.item else { continue };
                let rest = data.split_off(cut);
                self.entries.insert(index + 1, Entry { item: Item::Output { stream: of, data: rest }, start: 0 });
                return (index + 1, None);
            }
            seen += length;
        }
        (self.entries.len(), mark)
    }

    /// The first items that a reader wants, up to about `limit` bytes.
    pub(crate) fn take(&mut self, wanted: Wanted, limit: usize) -> Vec<Item> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let mut index = 0;
        while index < self.entries.len() && bytes < limit {
            let wants = match &self.entries[index].item {
                // Only `Events` gives a mark to its reader, but nobody else may leave it behind.
                Item::Output { stream, .. } | Item::Dropped { stream, .. } => wanted.has(*stream),
                _ => wanted == Wanted::Events,
            };
            if !wants {
                index += 1;
                continue;
            }
            let Some(Entry { mut item, start }) = self.entries.remove(index) else { break };
            if let Item::Output { stream, data } = &mut item {
                data.drain(..start);
                bytes += data.len();
                self.held[*stream as usize] -= data.len();
            } else if wanted != Wanted::Events {
                continue;
            }
            taken.push(item);
        }
        taken
    }
}

/// The last of an output, for an error.
#[derive(Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL)..]);
        if self.0.len() > 2 * TAIL {
            self.0.drain(..self.0.len() - TAIL);
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut bytes = &self.0[self.0.len().saturating_sub(TAIL)..];
        if bytes.len() < self.0.len() || bytes.len() == TAIL {
            // Do not begin in the middle of a character.
            let middle = bytes.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
            bytes = &bytes[middle..];
        }
        String::from_utf8_lossy(bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::Stream::{Stderr, Stdout};
    use super::*;

    fn shape(items: &[Item]) -> Vec<String> {
        items
            .iter()
            .map(|item| match item {
                Item::Started { pid } => format!("started {pid}"),
                Item::Output { stream: Stdout, data } => format!("out {}", String::from_utf8_lossy(data)),
                Item::Output { stream: Stderr, data } => format!("err {}", String::from_utf8_lossy(data)),
                Item::Dropped { stream, bytes } => format!("dropped {stream:?} {bytes}"),
                Item::StdinFailed { message, .. } => format!("stdin {message}"),
                Item::Exited { code } => format!("exited {code}"),
            })
            .collect()
    }

    fn filled() -> Queue {
        let mut queue = Queue::default();
        queue.push(Item::Started { pid: 7 });
        for (stream, text) in [(Stdout, "a"), (Stdout, "b"), (Stderr, "c"), (Stdout, "d")] {
            queue.output(stream, text.as_bytes(), false);
        }
        queue.push(Item::Exited { code: 3 });
        queue
    }

    #[test]
    fn neighbouring_output_is_joined_and_the_order_is_kept() {
        assert_eq!(
            shape(&filled().take(Wanted::Events, 1 << 20)),
            ["started 7", "out ab", "err c", "out d", "exited 3"]
        );
        assert_eq!(shape(&filled().take(Wanted::Both, 1 << 20)), ["out ab", "err c", "out d"]);
    }

    #[test]
    fn a_reader_takes_its_own_and_leaves_the_rest() {
        let mut queue = filled();
        assert_eq!(shape(&queue.take(Wanted::One(Stderr), 1 << 20)), ["err c"]);
        assert_eq!(shape(&queue.take(Wanted::One(Stdout), 1)), ["out ab"]);
        assert_eq!(
            (queue.bytes(), shape(&queue.take(Wanted::Events, 9))),
            (1, vec!["started 7".into(), "out d".into(), "exited 3".into()])
        );
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn byte_by_byte_costs_little_more_than_the_bytes() {
        let mut queue = Queue::default();
        for _ in 0..CHUNK * 3 {
            queue.output(Stdout, b"x", true);
            queue.output(Stderr, b"y", true);
        }
        assert!(queue.entries.len() <= 8, "{}", queue.entries.len());
        assert_eq!(queue.bytes(), CHUNK * 6);
    }

    #[test]
    fn the_middle_is_dropped_whatever_the_pieces() {
        let text: Vec<u8> = (0..=255).cycle().take(3000).collect();
        for (head, tail, piece) in
            [(0, 0, 1), (0, 10, 7), (10, 0, 7), (100, 50, 1), (100, 50, 4096), (5000, 5, 13), (999, 2001, 100)]
        {
            let mut queue = Queue::default();
            for bytes in text.chunks(piece) {
                queue.output(Stdout, bytes, false);
                queue.keep(Stdout, head, tail);
                queue.output(Stderr, b"-", false);
                queue.keep(Stderr, 1, 0);
            }
            let (mut before, mut after, mut gap) = (Vec::new(), Vec::new(), 0);
            for item in queue.take(Wanted::Events, usize::MAX) {
                match item {
                    Item::Output { stream: Stdout, data } if gap == 0 => before.extend(data),
                    Item::Output { stream: Stdout, data } => after.extend(data),
                    Item::Dropped { stream: Stdout, bytes } => {
                        assert_eq!(gap, 0, "one mark");
                        gap = bytes;
                    }
                    _ => {}
                }
            }
            let kept = text.len().min(head + tail);
            assert_eq!(gap, text.len() - kept, "{head} {tail} {piece}");
            if gap == 0 {
                assert_eq!(before, text);
            } else {
                assert_eq!((before.as_slice(), after.as_slice()), (&text[..head], &text[text.len() - tail..]));
            }
            assert_eq!(queue.bytes(), 0);
        }
    }

    #[test]
    fn a_mark_is_taken_with_the_output_around_it() {
        let mut queue = Queue::default();
        for _ in 0..3 {
            queue.output(Stdout, b"0123456789", false);
            queue.keep(Stdout, 2, 2);
            assert_eq!(shape(&queue.take(Wanted::One(Stdout), 99)), ["out 01", "out 89"]);
            assert!(queue.entries.is_empty());
        }
    }

    #[test]
    fn a_tail_begins_with_a_whole_character() {
        let mut tail = Tail::default();
        for _ in 0..TAIL {
            tail.push("ü".as_bytes());
        }
        tail.push(b".");
        let text = tail.text();
        assert!(text.len() >= TAIL - 4 && text.len() <= TAIL);
        assert!(text.trim_end_matches('.').chars().all(|char| char == 'ü'));
    }
}
