//! What a sandbox uses: one sample at a time, waited for after a boot, with a word for its end.

use std::sync::Arc;
use std::time::Duration;

use microsandbox::all_sandbox_metrics_reports_local;
use microsandbox::backend::Backend as EngineBackend;
use microsandbox::sandbox::SandboxMetrics;
use microsandbox::{MicrosandboxError, MicrosandboxResult, Operation};
use napi_derive::napi;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::cancel::CancelToken;
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::sandbox::Sandbox;

/// Between two looks for a first sample.
const POLL: Duration = Duration::from_millis(50);

/// One sample. Sizes in bytes; 64-bit counters cross as `bigint`, since a number would round them in the end.
#[napi(object, object_from_js = false)]
pub struct MetricsSample {
    /// When the sandbox was sampled, in milliseconds since 1970.
    pub sampled_at: f64,
    pub uptime_ms: f64,
    /// 100 is one processor's whole time.
    pub cpu_percent: f64,
    pub vcpu_time_ns: u64,
    pub memory: u64,
    pub memory_available: Option<u64>,
    pub memory_host_resident: Option<u64>,
    pub memory_limit: u64,
    pub disk_read: u64,
    pub disk_written: u64,
    pub network_received: u64,
    pub network_sent: u64,
    pub upper_used: Option<u64>,
    pub upper_free: Option<u64>,
    pub upper_host_allocated: Option<u64>,
}

/// What came of asking a sandbox for a sample.
#[napi(discriminant = "_tag", object_from_js = false)]
pub enum MetricsReading {
    Running {
        sample: MetricsSample,
    },
    /// The sandbox has stopped, or is no longer there.
    Ended,
}

/// A sample of one of several sandboxes.
#[napi(object, object_from_js = false)]
pub struct NamedSample {
    pub name: String,
    pub sample: MetricsSample,
}

impl From<SandboxMetrics> for MetricsSample {
    #[allow(clippy::cast_precision_loss)] // milliseconds: exact for 285,000 years
    fn from(metrics: SandboxMetrics) -> Self {
        Self {
            sampled_at: metrics.timestamp.timestamp_millis() as f64,
            uptime_ms: metrics.uptime.as_millis() as f64,
            cpu_percent: metrics.cpu_percent.into(),
            vcpu_time_ns: metrics.vcpu_time_ns,
            memory: metrics.memory_bytes,
            memory_available: metrics.memory_available_bytes,
            memory_host_resident: metrics.memory_host_resident_bytes,
            memory_limit: metrics.memory_limit_bytes,
            disk_read: metrics.disk_read_bytes,
            disk_written: metrics.disk_write_bytes,
            network_received: metrics.net_rx_bytes,
            network_sent: metrics.net_tx_bytes,
            upper_used: metrics.upper_used_bytes,
            upper_free: metrics.upper_free_bytes,
            upper_host_allocated: metrics.upper_host_allocated_bytes,
        }
    }
}

/// What a look at a sandbox finds.
enum Look {
    Sample(MetricsSample),
    /// It lives, and the engine has no figures of it yet; with the engine's own words.
    NotYet(Failure),
    Ended,
}

/// With an `id`, a sandbox that is gone or was replaced has ended; without, the name must be there.
async fn look(backend: &Arc<dyn EngineBackend>, name: &str, id: Option<&str>) -> Result<Look, Failure> {
    let handle = match backend.sandboxes().get(backend.clone(), name).await {
        Ok(handle) => handle,
        Err(MicrosandboxError::SandboxNotFound(_)) if id.is_some() => return Ok(Look::Ended),
        Err(error) => return Err(error.into()),
    };
    if id.is_some_and(|id| id != handle.id().as_str()) || !handle.status_snapshot().has_active_runtime_state() {
        return Ok(Look::Ended);
    }
    classify(handle.metrics().await)
}

fn classify(read: MicrosandboxResult<SandboxMetrics>) -> Result<Look, Failure> {
    match read.map_err(Failure::from) {
        Ok(metrics) => Ok(Look::Sample(metrics.into())),
        // Between the boot and the first sample, or between the end and its trace in the catalogue: the next look tells.
        Err(failure @ (Failure::MetricsNotReady { .. } | Failure::SandboxNotRunning { .. })) => {
            Ok(Look::NotYet(failure))
        }
        Err(failure) => Err(failure),
    }
}

/// The sandbox's newest sample; waits for the first one until the deadline.
async fn read(
    backend: &Arc<dyn EngineBackend>,
    name: &str,
    id: Option<&str>,
    deadline_ms: f64,
) -> Result<MetricsReading, Failure> {
    let limit = Duration::try_from_secs_f64(deadline_ms / 1000.0).unwrap_or(Duration::ZERO);
    let deadline = Instant::now() + limit;
    loop {
        match look(backend, name, id).await? {
            Look::Sample(sample) => return Ok(MetricsReading::Running { sample }),
            Look::Ended => return Ok(MetricsReading::Ended),
            Look::NotYet(why) if Instant::now() >= deadline => return Err(Failure::metrics_not_ready(limit, &why)),
            Look::NotYet(_) => tokio::time::sleep_until(deadline.min(Instant::now() + POLL)).await,
        }
    }
}

#[napi]
impl Sandbox {
    /// The newest sample of this sandbox. Waits for the first one, at most until the deadline.
    #[napi(ts_return_type = "Promise<Outcome<MetricsReading>>")]
    pub async fn metrics(&self, deadline_ms: f64, token: &CancelToken) -> napi::Result<Outcome<MetricsReading>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let (sandbox, id) = (&value.sandbox, value.sandbox.id());
                cancel.guard(Box::pin(read(sandbox.backend(), sandbox.name(), Some(id.as_str()), deadline_ms))).await
            })
            .await)
    }
}

#[napi]
impl Backend {
    /// The newest sample of a sandbox, by name. Waits for the first one, at most until the deadline.
    #[napi(ts_return_type = "Promise<Outcome<MetricsReading>>")]
    pub async fn sandbox_metrics(
        &self,
        name: String,
        deadline_ms: f64,
        token: &CancelToken,
    ) -> napi::Result<Outcome<MetricsReading>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                cancel.guard(Box::pin(read(&value.backend, &name, None, deadline_ms))).await
            })
            .await)
    }

    /// The newest samples of all running sandboxes that have been sampled.
    #[napi(ts_return_type = "Promise<Outcome<Array<NamedSample>>>")]
    pub async fn all_metrics(&self, token: &CancelToken) -> napi::Result<Outcome<Vec<NamedSample>>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let Some(local) = value.backend.as_local() else {
                    return Err(MicrosandboxError::local_only(Operation::AllSandboxMetrics).into());
                };
                let reports = cancel.guard(all_sandbox_metrics_reports_local(local, false)).await?;
                Ok(reports
                    .into_iter()
                    .map(|report| NamedSample { name: report.name, sample: report.metrics.into() })
                    .collect())
            })
            .await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_says_of_a_sandbox_without_figures_is_not_yet() {
        for text in [
            "sandbox 1 is not running; metrics are unavailable",
            "sandbox 1 has no live metrics slot",
            "sandbox 1 has no live metrics slot (registry unavailable)",
        ] {
            let found = classify(Err(MicrosandboxError::Custom(text.into())));
            assert!(matches!(found, Ok(Look::NotYet(Failure::MetricsNotReady { .. }))), "{text}");
        }
        let disabled = classify(Err(MicrosandboxError::MetricsDisabled("a".into())));
        assert!(matches!(disabled, Err(Failure::MetricsDisabled { .. })));
    }
}
