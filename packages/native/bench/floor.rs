//! The calls of test/bench straight on the engine's crate. One request and one answer a line; times in milliseconds.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use microsandbox::backend::{LocalBackend, set_default_backend};
use microsandbox::config::{set_sdk_libkrunfw_path, set_sdk_msb_path};
use microsandbox::image::Image;
use microsandbox::sandbox::exec::ExecEvent;
use microsandbox::sandbox::{PullPolicy, Sandbox};
use microsandbox::snapshot::Snapshot;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::Result;

const MEMORY: u32 = 256;

/// A reader of one mebibyte in a second takes this much at a time.
const SIP: usize = 64 << 10;

#[derive(Default)]
struct Floor {
    sandboxes: HashMap<String, Arc<Sandbox>>,
    /// By the names that the bench has for snapshots.
    references: HashMap<String, String>,
}

pub(crate) async fn serve(home: &str) -> Result<()> {
    if let (Ok(msb), Ok(libkrunfw)) = (std::env::var("BENCH_MSB"), std::env::var("BENCH_LIBKRUNFW")) {
        set_sdk_msb_path(PathBuf::from(msb));
        set_sdk_libkrunfw_path(PathBuf::from(libkrunfw));
    }
    set_default_backend(LocalBackend::builder().home(home).build().await?);
    let mut floor = Floor::default();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let request: Value = serde_json::from_str(&line)?;
        let answer = match floor.answer(&request).await {
            Ok(answer) => answer,
            Err(error) => json!({ "error": error.to_string() }),
        };
        println!("{answer}");
    }
    Ok(())
}

fn text<'a>(request: &'a Value, field: &str) -> Result<&'a str> {
    request[field].as_str().ok_or_else(|| format!("no {field}").into())
}

fn number(request: &Value, field: &str) -> Result<usize> {
    Ok(usize::try_from(request[field].as_u64().ok_or_else(|| format!("no {field}"))?)?)
}

fn texts(request: &Value, field: &str) -> Vec<String> {
    request[field].as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

impl Floor {
    fn of(&self, request: &Value) -> Result<Arc<Sandbox>> {
        let name = text(request, "sandbox")?;
        self.sandboxes.get(name).cloned().ok_or_else(|| format!("no sandbox {name}").into())
    }

    /// The end of a start: a first program has ended.
    async fn started(&mut self, start: Instant, name: &str, sandbox: Sandbox) -> Result<Value> {
        ran(&sandbox).await?;
        let took = since(start);
        self.sandboxes.insert(name.to_owned(), Arc::new(sandbox));
        Ok(json!({ "ms": [took] }))
    }

    async fn answer(&mut self, request: &Value) -> Result<Value> {
        let start = Instant::now();
        match text(request, "op")? {
            "ready" => {
                drop(Sandbox::list().await?);
                Ok(json!({}))
            }
            "connect" => {
                for name in texts(request, "sandboxes") {
                    let sandbox = Sandbox::get(&name).await?.connect().await?;
                    self.sandboxes.insert(name, Arc::new(sandbox));
                }
                Ok(json!({}))
            }
            "create" => {
                let name = text(request, "sandbox")?;
                let image = text(request, "image")?;
                let builder =
                    Sandbox::builder(name).image(image).memory(MEMORY).registry(|registry| registry.insecure());
                let sandbox = Box::pin(builder.pull_policy(PullPolicy::IfMissing).create()).await?;
                self.started(start, name, sandbox).await
            }
            "restore" => {
                let name = text(request, "sandbox")?;
                let snapshot = text(request, "snapshot")?;
                let reference = self.references.get(snapshot).map_or(snapshot, String::as_str);
                let sandbox = Box::pin(Sandbox::restore(reference).name(name).restore()).await?;
                self.started(start, name, sandbox).await
            }
            "branch" => {
                let name = text(request, "child")?;
                let source = self.of(request)?;
                let sandbox = Box::pin(source.branch(name).branch()).await?;
                self.started(start, name, sandbox).await
            }
            "keep" => {
                let name = text(request, "sandbox")?;
                let sandbox = self.of(request)?;
                sandbox.stop_with_timeout(Duration::from_secs(60)).await?;
                let snapshot = text(request, "snapshot")?;
                Snapshot::builder(snapshot).from_sandbox(name).create().await?;
                // Its group has the name of its sandbox.
                self.references.insert(snapshot.to_owned(), format!("{name}:{snapshot}"));
                self.sandboxes.remove(name);
                Ok(json!({}))
            }
            "destroy" => {
                let sandbox = self.of(request)?;
                drop(sandbox.kill_with_timeout(Duration::from_secs(60)).await);
                self.sandboxes.remove(text(request, "sandbox")?);
                drop(sandbox);
                Sandbox::remove(text(request, "sandbox")?).await?;
                Ok(json!({}))
            }
            "forget" => {
                Image::remove(text(request, "image")?, true).await?;
                Image::prune().await?;
                Ok(json!({}))
            }
            "exec" => {
                let sandbox = self.of(request)?;
                let mut took = Vec::new();
                for _ in 0..number(request, "count")? {
                    let start = Instant::now();
                    ran(&sandbox).await?;
                    took.push(since(start));
                }
                Ok(json!({ "ms": took }))
            }
            "execs" => {
                let each = number(request, "each")?;
                let names = texts(request, "sandboxes");
                let running = names.iter().filter_map(|name| self.sandboxes.get(name)).flat_map(|sandbox| {
                    (0..each).map(move |_| async move {
                        ran(sandbox).await?;
                        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(since(start))
                    })
                });
                let took = try_join_all(running).await?;
                Ok(json!({ "ms": took, "wall": since(start) }))
            }
            "pour" => {
                let sandbox = self.of(request)?;
                let mut program = sandbox.exec_stream(text(request, "command")?, texts(request, "args")).await?;
                let mut bytes = 0;
                while let Some(event) = program.recv().await {
                    if let ExecEvent::Stdout(data) = event {
                        bytes += data.len();
                    }
                }
                Ok(json!({ "ms": [since(start)], "bytes": bytes }))
            }
            "sip" => {
                let sandbox = self.of(request)?;
                let limit = Duration::from_secs(number(request, "seconds")? as u64);
                let mut program = sandbox.exec_stream(text(request, "command")?, texts(request, "args")).await?;
                let (mut bytes, mut due) = (0, 0);
                while start.elapsed() < limit {
                    let Some(event) = program.recv().await else { break };
                    if let ExecEvent::Stdout(data) = event {
                        bytes += data.len();
                        due += data.len();
                    }
                    while due >= SIP {
                        due -= SIP;
                        tokio::time::sleep(Duration::from_micros(62_500)).await;
                    }
                }
                drop(program);
                Ok(json!({ "ms": [since(start)], "bytes": bytes }))
            }
            "write" => {
                let data = vec![b'x'; number(request, "bytes")?];
                self.of(request)?.fs().write(text(request, "path")?, data).await?;
                Ok(json!({ "ms": [since(start)] }))
            }
            "read" => {
                let data = self.of(request)?.fs().read(text(request, "path")?).await?;
                Ok(json!({ "ms": [since(start)], "bytes": data.len() }))
            }
            "small" => {
                let sandbox = self.of(request)?;
                let path = text(request, "path")?;
                sandbox.fs().mkdir(path).await?;
                for index in 0..number(request, "count")? {
                    sandbox.fs().write(&format!("{path}/{index}"), [b'x'; 1024]).await?;
                }
                let wrote = since(start);
                for index in 0..number(request, "count")? {
                    sandbox.fs().read(&format!("{path}/{index}")).await?;
                }
                Ok(json!({ "ms": [since(start)], "wrote": wrote }))
            }
            "interrupt" => {
                let sandbox = self.of(request)?;
                let mut took = Vec::new();
                for _ in 0..number(request, "count")? {
                    let mut program = sandbox.exec_stream(text(request, "command")?, texts(request, "args")).await?;
                    while !matches!(program.recv().await, None | Some(ExecEvent::Started { .. })) {}
                    let start = Instant::now();
                    program.kill().await?;
                    program.wait().await?;
                    took.push(since(start));
                }
                Ok(json!({ "ms": took }))
            }
            other => Err(format!("no operation {other}").into()),
        }
    }
}

async fn ran(sandbox: &Sandbox) -> Result<()> {
    let output = sandbox.exec("true", Vec::<String>::new()).await?;
    if output.status().success { Ok(()) } else { Err("`true` failed".into()) }
}
