//! A backend that is a control plane somewhere else: how it is opened, and what is different about its sandboxes. Nothing of
//! them is on this host: each look at one is a request, and the control plane goes on with one that nobody waits for.

use std::sync::{Arc, Weak};
use std::time::Duration;

use microsandbox::backend::Backend as EngineBackend;
use microsandbox::sandbox::{SandboxHandle, SandboxId, SandboxSpec, SandboxStatus};
use microsandbox::{CloudBackend, MicrosandboxError, MicrosandboxResult};
use microsandbox_types::CloudCreateSandboxRequest;
use napi_derive::napi;
use parking_lot::Mutex;

use crate::failure::Failure;
use crate::outcome::Stop;
use crate::owner::Labels;
use crate::sandbox::{SETTLE, StopOptions, can_start, milliseconds};

/// How long a request that nobody waits for any more may take to show what comes of it.
pub(crate) const LATE: Duration = Duration::from_secs(3);

/// How often in a row a look may fail for a reason that may pass.
const MISSES: u32 = 5;

/// A key that is shorter is in too many words to be looked for in them.
const SHORTEST: usize = 8;

/// Where a control plane is, and as whom to ask.
#[napi(object, object_to_js = false)]
pub struct CloudOptions {
    /// The engine's own when absent.
    pub url: Option<String>,
    pub api_key: String,
    /// How long one request may take, its answer included; the engine's 30 seconds when absent.
    pub request_timeout_ms: Option<f64>,
}

/// A client of it. Nothing is sent.
pub(crate) fn client(options: &CloudOptions) -> MicrosandboxResult<CloudBackend> {
    let mut builder = CloudBackend::builder().api_key(options.api_key.as_str());
    if let Some(url) = &options.url {
        builder = builder.url(url);
    }
    if let Some(timeout) = options.request_timeout_ms {
        builder = builder.request_timeout(milliseconds(timeout));
    }
    builder.build()
}

/// The keys of the backends that are open, and the secrets of what is being asked for.
static KEYS: Mutex<Vec<Weak<str>>> = Mutex::new(Vec::new());

/// The id by which the control plane knows a sandbox. The engine says whose it is too.
pub(crate) fn id_of(id: &SandboxId) -> String {
    let id = id.as_str();
    id.strip_prefix("cloud:").unwrap_or(id).to_owned()
}

/// Keep a key out of what is told, for as long as this lives: a server may say in its answer what it was sent.
pub(crate) fn hide(key: &str) -> Arc<str> {
    let key: Arc<str> = key.trim().into();
    let mut keys = KEYS.lock();
    keys.retain(|key| key.strong_count() > 0);
    keys.push(Arc::downgrade(&key));
    key
}

/// A text without the keys that are hidden.
pub(crate) fn scrub(text: String) -> String {
    let hidden = KEYS.lock().iter().filter_map(Weak::upgrade).collect::<Vec<_>>();
    hidden
        .iter()
        .filter(|key| key.len() >= SHORTEST && text.contains(&***key))
        .fold(text.clone(), |text, key| text.replace(&**key, "<redacted>"))
}

/// What a sandbox is made of, as far as its backend says it.
pub(crate) fn spec_of(handle: &SandboxHandle) -> Option<SandboxSpec> {
    if handle.cloud().is_none() {
        return handle.config().ok().map(|config| config.spec);
    }
    let request: Option<CloudCreateSandboxRequest> = serde_json::from_str(handle.config_json()).ok()?;
    SandboxSpec::try_from(request?).ok()
}

/// Its labels, in the same way. A control plane may show them without the rest.
pub(crate) fn labels_of(handle: &SandboxHandle) -> Option<Labels> {
    if handle.cloud().is_none() {
        return handle.config().ok().map(|config| config.spec.labels);
    }
    let shown: serde_json::Value = serde_json::from_str(handle.config_json()).ok()?;
    serde_json::from_value(shown.get("labels")?.clone()).ok()
}

/// Whether a backend is no local one.
pub(crate) fn is_cloud(backend: &Arc<dyn EngineBackend>) -> bool {
    backend.as_local().is_none()
}

/// Between two looks: soon at first, and seldom later.
pub(crate) struct Pace(Duration);

impl Pace {
    pub(crate) const fn new() -> Self {
        Self(Duration::from_millis(50))
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(2));
    }
}

/// What may be another answer when it is asked again.
pub(crate) fn may_pass(error: &MicrosandboxError) -> bool {
    match error {
        MicrosandboxError::Http(_) => true,
        MicrosandboxError::CloudHttp { status, .. } => *status == 429 || *status >= 500,
        // A gateway's.
        MicrosandboxError::Runtime(text) => is_answer(text),
        _ => false,
    }
}

/// What a control plane has answered begins with what it was asked.
pub(crate) fn is_answer(text: &str) -> bool {
    ["GET ", "POST ", "PUT ", "DELETE ", "volume filesystem request"].iter().any(|begin| text.starts_with(begin))
}

/// Whether it was said that nothing was done, or nothing was sent.
pub(crate) fn was_refused(stop: &Stop) -> bool {
    match stop {
        Stop::Failed(
            Failure::Unsupported { .. }
            | Failure::InvalidConfig { .. }
            | Failure::SandboxAlreadyExists { .. }
            | Failure::SandboxNotFound { .. }
            | Failure::SnapshotNotFound { .. }
            | Failure::VolumeAlreadyExists { .. }
            | Failure::VolumeNotFound { .. }
            | Failure::Http { connect: true, .. },
        ) => true,
        Stop::Failed(Failure::CloudHttp { status, .. }) => (400..500).contains(status) && *status != 408,
        _ => false,
    }
}

/// Wait until nothing of a sandbox runs. The control plane may be out of reach for a moment.
pub(crate) async fn ended(handle: &SandboxHandle) -> MicrosandboxResult<SandboxStatus> {
    let (mut pace, mut misses) = (Pace::new(), 0);
    loop {
        match handle.refresh().await {
            Ok(now) if can_start(now.status_snapshot()) => return Ok(now.status_snapshot()),
            Ok(_) => misses = 0,
            Err(error) if may_pass(&error) && misses < MISSES => misses += 1,
            Err(error) => return Err(error),
        }
        pace.wait().await;
    }
}

/// Ask a sandbox that was just looked up to stop, and wait until it has.
async fn stop_within(handle: &SandboxHandle, patience: Duration) -> Result<(), Failure> {
    if can_start(handle.status_snapshot()) {
        return Ok(());
    }
    let stopped = async {
        let mut pace = Pace::new();
        // One that is just starting, or saving its disk, may be asked a moment later.
        while let Err(error) = handle.request_stop().await {
            if !matches!(error, MicrosandboxError::CloudHttp { status: 409, .. }) {
                return Err(error);
            }
            pace.wait().await;
        }
        ended(handle).await
    };
    match tokio::time::timeout(patience, stopped).await {
        Ok(stopped) => {
            stopped?;
            Ok(())
        }
        Err(_) => Err(stop_timeout(handle, patience)),
    }
}

fn stop_timeout(handle: &SandboxHandle, timeout: Duration) -> Failure {
    MicrosandboxError::StopTimeout { name: handle.name().to_owned(), identity: handle.id().to_string(), timeout }.into()
}

/// Stop a sandbox that was just looked up. There is no kill: where one is allowed, there is more patience instead.
pub(crate) async fn stop(handle: &SandboxHandle, options: &StopOptions) -> Result<(), Failure> {
    let grace = milliseconds(options.grace_ms);
    if options.then_kill {
        return stop_within(handle, grace.max(SETTLE)).await;
    }
    // As for a local one: no time to stop is no request.
    if grace.is_zero() && !can_start(handle.status_snapshot()) {
        return Err(stop_timeout(handle, grace));
    }
    stop_within(handle, grace).await
}

/// Remove a sandbox that has stopped, as soon as the control plane lets it go. One that has gone is no failure.
pub(crate) async fn remove(handle: &SandboxHandle) -> Result<(), Failure> {
    let removed = async {
        let mut pace = Pace::new();
        loop {
            match handle.remove().await {
                Err(MicrosandboxError::CloudHttp { status: 409, .. }) => pace.wait().await,
                Err(MicrosandboxError::SandboxNotFound(_)) => return Ok(()),
                other => return other,
            }
        }
    };
    match tokio::time::timeout(SETTLE, removed).await {
        Ok(removed) => Ok(removed?),
        Err(_) => Err(Failure::sandbox_busy(handle.name(), SETTLE)),
    }
}

/// Stop and remove a sandbox, whatever it is doing.
pub(crate) async fn destroy(handle: &SandboxHandle) -> Result<(), Failure> {
    match stop_within(handle, SETTLE).await {
        Ok(()) => remove(handle).await,
        Err(Failure::SandboxNotFound { .. } | Failure::SandboxReplaced { .. }) => Ok(()),
        failed => failed,
    }
}

/// Wait until a start that nobody waits for any more has come so far that it can be taken back, or no longer.
pub(crate) async fn until_started(handle: &SandboxHandle) {
    let started = async {
        let mut pace = Pace::new();
        while handle.refresh().await.is_ok_and(|now| can_start(now.status_snapshot())) {
            pace.wait().await;
        }
    };
    let _ = tokio::time::timeout(LATE, started).await;
}

/// Stop what was started.
pub(crate) async fn take_back_start(handle: &SandboxHandle) {
    if let Ok(now) = handle.refresh().await {
        let _ = stop_within(&now, SETTLE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_hidden_for_as_long_as_its_backend_is_open() {
        let key = hide(" msb_test_of_the_scrubber ");
        assert_eq!(scrub("no such key: msb_test_of_the_scrubber!".into()), "no such key: <redacted>!");
        drop(key);
        assert_eq!(scrub("msb_test_of_the_scrubber".into()), "msb_test_of_the_scrubber");
        let _short = hide("e");
        assert_eq!(scrub("the end".into()), "the end");
    }

    #[test]
    fn what_was_refused_left_nothing() {
        let refused = |error| was_refused(&Stop::Failed(Failure::from(error)));
        let status = |status| MicrosandboxError::CloudHttp { status, code: None, message: String::new() };
        assert!(refused(status(401)) && refused(status(429)) && refused(MicrosandboxError::InvalidConfig("a".into())));
        assert!(refused(MicrosandboxError::SandboxAlreadyExists("a".into())));
        assert!(!refused(status(500)) && !refused(status(408)) && !was_refused(&Stop::Cancelled));
        // Made, and not started.
        assert!(!refused(MicrosandboxError::Runtime("cloud sandbox \"a\" failed to start: no".into())));
    }
}
