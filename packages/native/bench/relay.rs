//! A relay without a guest: the agent's protocol on Unix sockets, and programs that cost next to nothing.
//!
//! `true` ends; `pour <bytes>` prints that much in frames of 4 KiB, as the guest's agent does, and honours SIGSTOP, SIGCONT
//! and SIGKILL; `wait` waits for SIGKILL.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use microsandbox::protocol::codec;
use microsandbox::protocol::core::{Pong, Ready};
use microsandbox::protocol::exec::{
    ExecExited, ExecFailed, ExecFailureKind, ExecRequest, ExecSignal, ExecStarted, ExecStdout,
};
use microsandbox::protocol::fs::FsResponse;
use microsandbox::protocol::message::{Message, MessageType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use crate::Result;

const CHUNK: usize = 4096;

/// How many chunks are written at once.
const TOGETHER: usize = 16;

const SIGKILL: i32 = 9;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

static PIDS: AtomicU32 = AtomicU32::new(100);

pub(crate) async fn listen(sockets: &[String]) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for socket in sockets {
        let listener = UnixListener::bind(socket)?;
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move { drop(serve(stream).await) });
            }
        });
    }
    println!("{{\"_tag\":\"Listening\"}}");
    while tasks.join_next().await.is_some() {}
    Ok(())
}

fn encoded<T: serde::Serialize>(kind: MessageType, id: u32, payload: &T) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    codec::encode_to_buf(&Message::with_payload(kind, id, payload)?, &mut bytes)?;
    Ok(bytes)
}

#[derive(Clone, Copy, PartialEq)]
enum Course {
    Run,
    Stop,
    Die,
}

async fn serve(stream: UnixStream) -> Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let (out, mut to_write) = mpsc::channel::<Bytes>(2);
    tokio::spawn(async move {
        while let Some(bytes) = to_write.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut greeting = [1_u32.to_be_bytes(), 33_554_431_u32.to_be_bytes()].concat();
    let ready = Ready { agent_version: "0.7.2".into(), ..Ready::default() };
    greeting.extend(encoded(MessageType::Ready, 0, &ready)?);
    out.send(greeting.into()).await?;
    let mut programs: HashMap<u32, Arc<watch::Sender<Course>>> = HashMap::new();
    let mut received = Vec::new();
    loop {
        while let Some(message) = codec::try_decode_from_buf(&mut received)? {
            let id = message.id;
            match message.t {
                MessageType::ExecRequest => {
                    let request: ExecRequest = message.payload()?;
                    match request.cmd.as_str() {
                        "true" => out.send(ends(id, 0)?).await?,
                        "pour" | "wait" => {
                            let bytes = request.args.first().and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
                            let course = Arc::new(watch::Sender::new(Course::Run));
                            programs.insert(id, course.clone());
                            let out = out.clone();
                            tokio::spawn(
                                async move { drop(run(id, bytes, request.cmd == "wait", &course, &out).await) },
                            );
                        }
                        _ => out.send(missing(id)?).await?,
                    }
                }
                MessageType::ExecSignal => {
                    let ExecSignal { signal } = message.payload()?;
                    if let Some(program) = programs.get(&id) {
                        program.send_if_modified(|course| {
                            let next = match signal {
                                SIGKILL => Course::Die,
                                SIGSTOP if *course == Course::Run => Course::Stop,
                                SIGCONT if *course == Course::Stop => Course::Run,
                                _ => return false,
                            };
                            *course = next;
                            true
                        });
                    }
                }
                MessageType::Ping => out.send(encoded(MessageType::Pong, id, &Pong {})?.into()).await?,
                MessageType::FsRequest => {
                    // Whoever asks whether a program is still there is told nothing.
                    let error = Some("permission denied (os error 13)".into());
                    let answer = FsResponse { ok: false, error, data: None };
                    out.send(encoded(MessageType::FsResponse, id, &answer)?.into()).await?;
                }
                _ => {}
            }
        }
        if reader.read_buf(&mut received).await? == 0 {
            for program in programs.values() {
                program.send_replace(Course::Die);
            }
            return Ok(());
        }
    }
}

fn started(id: u32) -> Result<Vec<u8>> {
    encoded(MessageType::ExecStarted, id, &ExecStarted { pid: PIDS.fetch_add(1, Ordering::Relaxed) })
}

fn exited(id: u32, code: i32) -> Result<Bytes> {
    Ok(encoded(MessageType::ExecExited, id, &ExecExited { code })?.into())
}

/// A program that is over at once.
fn ends(id: u32, code: i32) -> Result<Bytes> {
    let mut frames = started(id)?;
    frames.extend_from_slice(&exited(id, code)?);
    Ok(frames.into())
}

fn missing(id: u32) -> Result<Bytes> {
    let failed = ExecFailed {
        kind: ExecFailureKind::NotFound,
        errno: Some(2),
        errno_name: Some("ENOENT".into()),
        message: "No such file or directory (os error 2)".into(),
        stage: None,
    };
    Ok(encoded(MessageType::ExecFailed, id, &failed)?.into())
}

async fn run(
    id: u32,
    bytes: usize,
    waits: bool,
    course: &watch::Sender<Course>,
    out: &mpsc::Sender<Bytes>,
) -> Result<()> {
    let mut changes = course.subscribe();
    out.send(started(id)?.into()).await?;
    let chunk = encoded(MessageType::ExecStdout, id, &ExecStdout { data: vec![b'x'; CHUNK] })?;
    let together = Bytes::from(chunk.repeat(TOGETHER));
    let mut left = bytes / CHUNK;
    while left > 0 || waits {
        let now = *changes.borrow_and_update();
        match now {
            Course::Die => {
                out.send(exited(id, -1)?).await?;
                return Ok(());
            }
            Course::Run if left > 0 => {
                let count = left.min(TOGETHER);
                left -= count;
                out.send(together.slice(..count * chunk.len())).await?;
            }
            Course::Run | Course::Stop => changes.changed().await?,
        }
    }
    out.send(exited(id, 0)?).await?;
    Ok(())
}
