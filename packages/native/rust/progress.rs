//! What a boot is doing: the events of a pull and the stages of the engine, for the one call that they belong to.
//!
//! The engine says how long each stage took in `tracing` events, while the call's own future is polled. A subscriber that
//! wants these and nothing else hands each to the call that is running: a task-local, so that no call sees another's.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use microsandbox_image::PullProgress;
use napi_derive::napi;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::subscriber::Interest;
use tracing_core::{Dispatch, Event, LevelFilter, Metadata, Subscriber, dispatcher};

use crate::cancel::CancelToken;
use crate::outcome::{Outcome, Stop};

/// The engine's target for the times of its stages (`lib/timing.rs` of the crate).
const STAGES: &str = "microsandbox::profiling";

/// What a boot tells: the engine's `PullProgress`, then the stages of the boot.
#[napi(discriminant = "_tag", object_from_js = false)]
#[derive(Clone)]
pub enum ProgressEvent {
    Resolving {
        reference: String,
    },
    Resolved {
        reference: String,
        manifest_digest: String,
        layer_count: u32,
        total_bytes: Option<f64>,
    },
    LayerDownloadProgress {
        layer: u32,
        digest: String,
        bytes: f64,
        total_bytes: Option<f64>,
    },
    LayerDownloadComplete {
        layer: u32,
        digest: String,
        bytes: f64,
    },
    LayerDownloadVerifying {
        layer: u32,
        digest: String,
    },
    LayerMaterializeStarted {
        layer: u32,
        diff_id: String,
    },
    LayerMaterializeProgress {
        layer: u32,
        bytes: f64,
        total_bytes: f64,
    },
    LayerMaterializeWriting {
        layer: u32,
    },
    LayerMaterializeComplete {
        layer: u32,
        diff_id: String,
    },
    StitchMergingTrees {
        layer_count: u32,
    },
    /// The metadata of the merged view.
    StitchWritingFsmeta {},
    /// The descriptor that joins the metadata and the layers.
    StitchWritingVmdk {},
    StitchComplete {},
    PullComplete {
        reference: String,
        layer_count: u32,
    },
    /// A stage has ended.
    BootStage {
        stage: String,
        /// Since the `Progress` was made.
        started_ms: f64,
        duration_ms: f64,
        #[napi(ts_type = "'success' | 'error' | 'cancelled'")]
        outcome: String,
    },
}

/// A stage that has ended.
#[napi(object, object_from_js = false)]
#[derive(Clone)]
pub struct BootStage {
    pub stage: String,
    /// Since the `Progress` was made.
    pub started_ms: f64,
    pub duration_ms: f64,
    #[napi(ts_type = "'success' | 'error' | 'cancelled'")]
    pub outcome: String,
}

/// Where one call that boots a sandbox says what it does.
#[napi]
pub struct Progress {
    watch: Arc<Watch>,
}

#[napi]
impl Progress {
    /// `listens`: somebody will read the events. The stages are kept in any case.
    #[napi(constructor)]
    #[must_use]
    pub fn new(listens: bool) -> Self {
        Self { watch: Arc::new(Watch::new(listens)) }
    }

    /// The next events: waits for one, then takes all that are there. An empty list means that there will be no more.
    #[napi(ts_return_type = "Promise<Outcome<Array<ProgressEvent>>>")]
    pub async fn read(&self, token: &CancelToken) -> napi::Result<Outcome<Vec<ProgressEvent>>> {
        Ok(self.watch.read(token.token()).await.into())
    }

    /// There will be no more events: the call has ended, or was never made.
    #[napi(catch_unwind)]
    pub fn end(&self) {
        self.watch.end();
    }

    /// The stages that have ended, in the order of their ends.
    #[napi(catch_unwind)]
    #[must_use]
    pub fn stages(&self) -> Vec<BootStage> {
        self.watch.state.lock().stages.clone()
    }
}

impl Progress {
    pub(crate) fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }
}

tokio::task_local! {
    static CURRENT: Arc<Watch>;
}

/// The events and stages of one call.
pub(crate) struct Watch {
    began: Instant,
    listens: bool,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    events: VecDeque<ProgressEvent>,
    stages: Vec<BootStage>,
    ended: bool,
}

impl Watch {
    fn new(listens: bool) -> Self {
        Self { began: Instant::now(), listens, state: Mutex::default(), changed: Notify::new() }
    }

    /// Run a call whose stages belong here.
    pub(crate) async fn during<T>(self: Arc<Self>, call: impl Future<Output = T>) -> T {
        CURRENT.scope(self, call).await
    }

    fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_one();
    }

    pub(crate) fn pull(&self, event: PullProgress) {
        if self.listens {
            self.push(event.into());
        }
    }

    /// Run a stage of this addon's own.
    pub(crate) async fn stage<T>(&self, name: &str, work: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
        let started = Instant::now();
        let result = work.await;
        let outcome = match &result {
            Ok(_) => "success",
            Err(Stop::Failed(_)) => "error",
            Err(Stop::Cancelled) => "cancelled",
        };
        self.ended(name, started.elapsed(), outcome);
        result
    }

    fn ended(&self, stage: &str, took: Duration, outcome: &str) {
        let started_ms = millis(self.began.elapsed().saturating_sub(took));
        let (stage, duration_ms, outcome) = (stage.to_owned(), millis(took), outcome.to_owned());
        self.state.lock().stages.push(BootStage {
            stage: stage.clone(),
            started_ms,
            duration_ms,
            outcome: outcome.clone(),
        });
        self.push(ProgressEvent::BootStage { stage, started_ms, duration_ms, outcome });
    }

    /// A newer count of a layer's bytes takes the place of one that nobody has read: what waits here is bounded by the
    /// number of layers, and no change of phase is lost.
    fn push(&self, event: ProgressEvent) {
        if !self.listens {
            return;
        }
        let mut state = self.state.lock();
        match state.events.iter_mut().rev().find(|waiting| same_count(waiting, &event)) {
            Some(waiting) => *waiting = event,
            None => state.events.push_back(event),
        }
        drop(state);
        self.changed.notify_one();
    }

    async fn read(&self, cancelled: CancellationToken) -> Result<Vec<ProgressEvent>, Stop> {
        loop {
            {
                let mut state = self.state.lock();
                if !state.events.is_empty() || state.ended {
                    return Ok(state.events.drain(..).collect());
                }
            }
            tokio::select! {
                biased;
                () = cancelled.cancelled() => return Err(Stop::Cancelled),
                () = self.changed.notified() => {}
            }
        }
    }
}

/// Whether both count the bytes of the same layer in the same phase.
fn same_count(one: &ProgressEvent, other: &ProgressEvent) -> bool {
    use ProgressEvent::{LayerDownloadProgress as Download, LayerMaterializeProgress as Materialize};
    match (one, other) {
        (Download { layer: one, .. }, Download { layer: other, .. })
        | (Materialize { layer: one, .. }, Materialize { layer: other, .. }) => one == other,
        _ => false,
    }
}

impl From<PullProgress> for ProgressEvent {
    fn from(event: PullProgress) -> Self {
        use PullProgress as P;
        match event {
            P::Resolving { reference } => Self::Resolving { reference: reference.to_string() },
            P::Resolved { reference, manifest_digest, layer_count, total_download_bytes } => Self::Resolved {
                reference: reference.to_string(),
                manifest_digest: manifest_digest.to_string(),
                layer_count: count(layer_count),
                total_bytes: total_download_bytes.map(bytes),
            },
            P::LayerDownloadProgress { layer_index, digest, downloaded_bytes, total_bytes } => {
                Self::LayerDownloadProgress {
                    layer: count(layer_index),
                    digest: digest.to_string(),
                    bytes: bytes(downloaded_bytes),
                    total_bytes: total_bytes.map(bytes),
                }
            }
            P::LayerDownloadComplete { layer_index, digest, downloaded_bytes } => Self::LayerDownloadComplete {
                layer: count(layer_index),
                digest: digest.to_string(),
                bytes: bytes(downloaded_bytes),
            },
            P::LayerDownloadVerifying { layer_index, digest } => {
                Self::LayerDownloadVerifying { layer: count(layer_index), digest: digest.to_string() }
            }
            P::LayerMaterializeStarted { layer_index, diff_id } => {
                Self::LayerMaterializeStarted { layer: count(layer_index), diff_id: diff_id.to_string() }
            }
            P::LayerMaterializeProgress { layer_index, bytes_read, total_bytes } => Self::LayerMaterializeProgress {
                layer: count(layer_index),
                bytes: bytes(bytes_read),
                total_bytes: bytes(total_bytes),
            },
            P::LayerMaterializeWriting { layer_index } => Self::LayerMaterializeWriting { layer: count(layer_index) },
            P::LayerMaterializeComplete { layer_index, diff_id } => {
                Self::LayerMaterializeComplete { layer: count(layer_index), diff_id: diff_id.to_string() }
            }
            P::StitchMergingTrees { layer_count } => Self::StitchMergingTrees { layer_count: count(layer_count) },
            P::StitchWritingFsmeta => Self::StitchWritingFsmeta {},
            P::StitchWritingVmdk => Self::StitchWritingVmdk {},
            P::StitchComplete => Self::StitchComplete {},
            P::Complete { reference, layer_count } => {
                Self::PullComplete { reference: reference.to_string(), layer_count: count(layer_count) }
            }
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[allow(clippy::cast_precision_loss)] // exact up to 8 PiB
fn bytes(number: u64) -> f64 {
    number as f64
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Subscribe to the stages, once for the process: the engine's `tracing` is this addon's own copy.
pub(crate) fn install() {
    // Another subscriber can only be ours, of an earlier load.
    let _ = dispatcher::set_global_default(Dispatch::new(Stages));
}

/// Wants the engine's stages. Every other event and span is turned off where it stands, for good.
struct Stages;

impl Subscriber for Stages {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == STAGES
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn event(&self, event: &Event<'_>) {
        let _ = CURRENT.try_with(|watch| {
            let mut stage = Stage::default();
            event.record(&mut stage);
            if let Stage { name: Some(name), took: Some(took), outcome: Some(outcome) } = stage {
                watch.ended(&name, took, &outcome);
            }
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// What an event says of a stage; some events of the target are of something else.
#[derive(Default)]
struct Stage {
    name: Option<String>,
    took: Option<Duration>,
    outcome: Option<String>,
}

impl Visit for Stage {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "stage" => self.name = Some(value.to_owned()),
            "outcome" => self.outcome = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "elapsed_seconds" {
            self.took = Duration::try_from_secs_f64(value).ok();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
    }

    fn download(layer: usize, bytes: u64) -> PullProgress {
        PullProgress::LayerDownloadProgress {
            layer_index: layer,
            digest: "sha256:0".into(),
            downloaded_bytes: bytes,
            total_bytes: None,
        }
    }

    fn shape(events: &[ProgressEvent]) -> Vec<String> {
        events
            .iter()
            .map(|event| match event {
                ProgressEvent::LayerDownloadProgress { layer, bytes, .. } => format!("{layer}: {bytes}"),
                ProgressEvent::LayerDownloadComplete { layer, .. } => format!("{layer}: downloaded"),
                ProgressEvent::BootStage { stage, outcome, .. } => format!("{stage}: {outcome}"),
                _ => "other".to_owned(),
            })
            .collect()
    }

    fn read(watch: &Watch) -> Vec<String> {
        shape(&run(watch.read(CancellationToken::new())).ok().expect("events"))
    }

    #[test]
    fn counts_of_a_layer_coalesce_and_phases_are_kept() {
        let watch = Watch::new(true);
        for bytes in 0..100_000 {
            watch.pull(download(0, bytes));
            watch.pull(download(1, bytes));
        }
        watch.pull(PullProgress::LayerDownloadComplete {
            layer_index: 0,
            digest: "sha256:0".into(),
            downloaded_bytes: 99_999,
        });
        assert_eq!(read(&watch), ["0: 99999", "1: 99999", "0: downloaded"]);
        watch.pull(download(1, 100_000));
        assert_eq!(read(&watch), ["1: 100000"]);
    }

    #[test]
    fn nothing_is_kept_for_nobody_but_the_stages() {
        let watch = Watch::new(false);
        watch.pull(download(0, 1));
        watch.ended("agent_ready", Duration::from_millis(5), "success");
        assert!(watch.state.lock().events.is_empty());
        let stages = watch.state.lock().stages.clone();
        assert_eq!(stages.len(), 1);
        assert!((stages[0].duration_ms - 5.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_waits_is_read_before_the_end() {
        let watch = Watch::new(true);
        watch.pull(download(0, 1));
        watch.end();
        assert_eq!(read(&watch), ["0: 1"]);
        assert_eq!(read(&watch), Vec::<String>::new());
    }

    #[test]
    fn a_reader_is_woken_by_an_event_by_the_end_and_by_a_cancel() {
        run(async {
            let watch = Watch::new(true);
            let token = CancellationToken::new();
            let (woken, ()) = tokio::join!(watch.read(token.clone()), async {
                tokio::task::yield_now().await;
                watch.pull(download(0, 1));
            });
            assert_eq!(woken.ok().map(|events| events.len()), Some(1));
            let (ended, ()) = tokio::join!(watch.read(token.clone()), async { watch.end() });
            assert_eq!(ended.ok().map(|events| events.len()), Some(0));
            let other = Watch::new(true);
            let (cancelled, ()) = tokio::join!(other.read(token.clone()), async { token.cancel() });
            assert!(matches!(cancelled, Err(Stop::Cancelled)));
        });
    }

    #[test]
    fn a_stage_goes_to_the_call_that_it_happened_in() {
        install();
        let say = |stage: &'static str| {
            tracing::trace!(
                target: STAGES,
                sandbox_name = "a",
                stage,
                elapsed_seconds = 0.25,
                outcome = "success",
                "sandbox startup stage finished"
            );
        };
        let (one, other) = (Arc::new(Watch::new(true)), Arc::new(Watch::new(true)));
        run(async {
            tokio::join!(
                one.clone().during(async {
                    say("first");
                    tokio::task::yield_now().await;
                    say("third");
                }),
                other.clone().during(async { say("second") }),
            );
        });
        say("nobody's");
        tracing::trace!(target: STAGES, "not a stage");
        assert_eq!(read(&one), ["first: success", "third: success"]);
        assert_eq!(read(&other), ["second: success"]);
        assert!(!tracing::enabled!(target: "microsandbox", tracing::Level::ERROR));
    }
}
