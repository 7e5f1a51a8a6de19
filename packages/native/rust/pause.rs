//! Pausing a sandbox, and knowing when its VM is done with what was asked of it.

use std::sync::Arc;

use microsandbox::backend::{Backend as EngineBackend, with_backend};
use microsandbox::sandbox::{Sandbox as EngineSandbox, SandboxHandle};
use microsandbox::snapshot::GuestFlush;
use microsandbox::{MicrosandboxError, MicrosandboxResult};
use microsandbox_runtime::ipc::sandbox_socket_paths;
use napi_derive::napi;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::backend::Backend;
use crate::cancel::{Cancel, CancelToken};
use crate::outcome::{Outcome, Stop};
use crate::sandbox::{SETTLE, Sandbox};

#[napi]
impl Sandbox {
    /// Suspend the VM, which keeps its memory. One that is paused is no failure. A cancelled pause is taken back.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn pause(
        &self,
        #[napi(ts_arg_type = "'auto' | 'required' | 'skip'")] guest_flush: String,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let handle = cancel.guard(current_for_control(&value.sandbox)).await?;
                pause(value.sandbox.backend(), &handle, &guest_flush, &cancel).await
            })
            .await)
    }

    /// Let a paused VM run on. One that runs is no failure. When this is cancelled, the VM may run or not.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn resume(&self, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .slot
            .run(token, |value, cancel| async move {
                let handle = cancel.guard(current_for_control(&value.sandbox)).await?;
                resume(value.sandbox.backend(), &handle, &cancel).await
            })
            .await)
    }
}

#[napi]
impl Backend {
    /// Suspend the VM of a sandbox, by name, as `pause` of a sandbox does.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn pause_sandbox(
        &self,
        name: String,
        #[napi(ts_arg_type = "'auto' | 'required' | 'skip'")] guest_flush: String,
        token: &CancelToken,
    ) -> napi::Result<Outcome<()>> {
        Ok(self
            .by_name(name, token, |value, handle, cancel| async move {
                pause(&value.backend, &handle, &guest_flush, &cancel).await
            })
            .await)
    }

    /// Let the paused VM of a sandbox run on, by name.
    #[napi(ts_return_type = "Promise<Outcome<void>>")]
    pub async fn resume_sandbox(&self, name: String, token: &CancelToken) -> napi::Result<Outcome<()>> {
        Ok(self
            .by_name(name, token, |value, handle, cancel| async move { resume(&value.backend, &handle, &cancel).await })
            .await)
    }
}

async fn pause(
    backend: &Arc<dyn EngineBackend>,
    handle: &SandboxHandle,
    guest_flush: &str,
    cancel: &Cancel,
) -> Result<(), Stop> {
    let flush = flush_policy(guest_flush)?;
    let before = cancel.guard(handle.pause_state()).await?;
    let paused = cancel.guard(handle.pause_with_guest_flush(flush)).await;
    if matches!(paused, Err(Stop::Cancelled)) && !before.paused {
        settled(backend, handle.name()).await;
        // No more can be done where this fails: the VM is gone, or it wants recovery.
        let _ = tokio::time::timeout(SETTLE, handle.resume()).await;
    }
    paused
}

async fn resume(backend: &Arc<dyn EngineBackend>, handle: &SandboxHandle, cancel: &Cancel) -> Result<(), Stop> {
    let resumed = cancel.guard(handle.resume()).await;
    if matches!(resumed, Err(Stop::Cancelled)) {
        settled(backend, handle.name()).await;
    }
    resumed
}

pub(crate) fn flush_policy(name: &str) -> MicrosandboxResult<GuestFlush> {
    match name {
        "auto" => Ok(GuestFlush::Auto),
        "required" => Ok(GuestFlush::Required),
        "skip" => Ok(GuestFlush::Skip),
        _ => Err(MicrosandboxError::InvalidConfig(format!("guest flush {name:?}"))),
    }
}

/// Wait until a VM has done what it was asked for, when the asking call was dropped: it does one thing after another, and
/// answers this last. A VM that is gone is done too.
pub(crate) async fn settled(backend: &Arc<dyn EngineBackend>, name: &str) {
    let Some(local) = backend.as_local() else { return };
    let socket = sandbox_socket_paths(&local.config().run_dir(), name).control;
    let asked = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(b"{\"op\":\"capabilities\"}\n").await?;
        BufReader::new(stream).read_line(&mut String::new()).await
    };
    let _ = tokio::time::timeout(SETTLE, asked).await;
}

/// The sandbox as a backend has it now, unless another has taken its name.
pub(crate) async fn current(
    sandbox: &EngineSandbox,
    backend: &Arc<dyn EngineBackend>,
) -> MicrosandboxResult<SandboxHandle> {
    same(sandbox, backend.sandboxes().get(backend.clone(), sandbox.name()).await?)
}

/// The same without a look whether it is paused, which takes a round trip to its VM.
pub(crate) async fn current_for_control(sandbox: &EngineSandbox) -> MicrosandboxResult<SandboxHandle> {
    let found = EngineSandbox::get_for_control(sandbox.name());
    same(sandbox, Box::pin(with_backend(sandbox.backend().clone(), found)).await?)
}

fn same(sandbox: &EngineSandbox, found: SandboxHandle) -> MicrosandboxResult<SandboxHandle> {
    if found.id() == sandbox.id() {
        return Ok(found);
    }
    Err(MicrosandboxError::SandboxReplaced {
        name: sandbox.name().to_owned(),
        expected: sandbox.id().to_string(),
        actual: found.id().to_string(),
    })
}
