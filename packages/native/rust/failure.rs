//! Every way in which the engine fails, as data.
//!
//! One variant for each variant of the crate's `MicrosandboxError`, with its fields, and a few that
//! the crate leaves to text. That text is read here, once, and nowhere else.

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Duration;

use microsandbox::{MicrosandboxError, UnsupportedReason};
use microsandbox_agent_client::AgentClientError;
use microsandbox_image::{ImageError, Platform};
use napi_derive::napi;
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};

use crate::cloud::{is_answer, scrub};
use crate::outcome::Stop;

/// The `msb` that crate 0.7.2 knows how to launch (`lib/runtime/launch_contract.rs`).
pub(crate) const RUNTIME_VERSION: &str = "0.7.2";

/// Why a call failed. `message` is the engine's own sentence.
#[napi(discriminant = "_tag", object_from_js = false)]
#[derive(Debug)]
pub enum Failure {
    // What the crate's error type has.
    Io {
        message: String,
        kind: String,
        errno: Option<i32>,
    },
    Http {
        message: String,
        status: Option<u16>,
        timeout: bool,
        connect: bool,
    },
    CloudHttp {
        message: String,
        status: u16,
        code: Option<String>,
    },
    LibkrunfwNotFound {
        message: String,
    },
    RuntimeNotInstalled {
        message: String,
    },
    RuntimeIncomplete {
        message: String,
    },
    Database {
        message: String,
    },
    InvalidConfig {
        message: String,
        field: Option<String>,
    },
    NoDefaultCommand {
        message: String,
    },
    SandboxNotFound {
        message: String,
        sandbox: String,
    },
    SandboxAlreadyExists {
        message: String,
        sandbox: String,
    },
    SandboxReplaced {
        message: String,
        sandbox: String,
        expected: String,
        actual: String,
    },
    SandboxStillRunning {
        message: String,
        sandbox: String,
    },
    SandboxNotRunning {
        message: String,
    },
    SandboxStopTimedOut {
        message: String,
        sandbox: String,
        timeout_ms: f64,
    },
    Runtime {
        message: String,
    },
    StopTimeout {
        message: String,
        sandbox: String,
        timeout_ms: f64,
    },
    BootStart {
        message: String,
        sandbox: String,
        stage: String,
        errno: Option<i32>,
    },
    Json {
        message: String,
    },
    Protocol {
        message: String,
    },
    AgentClient {
        message: String,
        kind: String,
    },
    ControlClient {
        message: String,
        delivery: String,
    },
    ControlStateChanged {
        message: String,
    },
    ControlSecretBatch {
        message: String,
        applied_count: u32,
        failed_index: u32,
    },
    Nix {
        message: String,
        errno: i32,
    },
    ExecTimeout {
        message: String,
        timeout_ms: f64,
        stdout: String,
        stderr: String,
    },
    ExecFailed {
        message: String,
        kind: String,
        errno: Option<i32>,
        errno_name: Option<String>,
        stage: Option<String>,
    },
    Terminal {
        message: String,
    },
    SandboxFsOps {
        message: String,
        errno: Option<i32>,
    },
    ImageNotFound {
        message: String,
        reference: String,
    },
    ImageInUse {
        message: String,
    },
    VolumeNotFound {
        message: String,
        volume: String,
    },
    VolumeAlreadyExists {
        message: String,
        volume: String,
    },
    NetworkBuilder {
        message: String,
    },
    PatchFailed {
        message: String,
    },
    SnapshotNotFound {
        message: String,
        reference: String,
    },
    SnapshotAlreadyExists {
        message: String,
        reference: String,
    },
    SnapshotSandboxRunning {
        message: String,
        sandbox: String,
    },
    SnapshotImageMissing {
        message: String,
    },
    SnapshotIntegrity {
        message: String,
    },
    SnapshotSourceRecovery {
        message: String,
        source_sandbox: String,
        checkpoint_id: String,
        checkpoint_path: String,
        artifact_path: Option<String>,
        detail: String,
        publication_error: Option<String>,
    },
    SnapshotMigration {
        message: String,
        code: String,
        phase: String,
        artifact: String,
        detail: String,
    },
    MetricsDisabled {
        message: String,
        sandbox: String,
    },
    MetricsUnavailable {
        message: String,
        sandbox: String,
    },
    MissedRotation {
        message: String,
        dropped_from_offset: f64,
    },
    InvalidCursor {
        message: String,
    },
    Unsupported {
        message: String,
        operation: String,
        reason: String,
        hint: String,
    },
    Custom {
        message: String,
    },
    // `MicrosandboxError::Image`, one variant for each of `ImageError`.
    ImageRegistry {
        message: String,
    },
    ImagePlatformNotFound {
        message: String,
        reference: String,
        os: String,
        arch: String,
    },
    ImageManifestInvalid {
        message: String,
    },
    ImageConfigInvalid {
        message: String,
    },
    ImageDigestMismatch {
        message: String,
        digest: String,
        expected: String,
        actual: String,
    },
    ImageMaterialize {
        message: String,
        digest: String,
    },
    ImageCache {
        message: String,
        path: String,
        errno: Option<i32>,
    },
    ImageNotCached {
        message: String,
        reference: String,
    },
    ImageCertificateInvalid {
        message: String,
    },
    // What `ImageError` has for everything that a registry answers, by what a user would do about it.
    ImageUnauthorized {
        message: String,
        reference: String,
    },
    ImageRateLimited {
        message: String,
        reference: String,
    },
    ImageTls {
        message: String,
        reference: String,
    },
    ImageArchiveInvalid {
        message: String,
        path: String,
    },
    DiskFull {
        message: String,
        path: Option<String>,
    },
    // What the crate says only in words.
    RuntimeVersionMismatch {
        message: String,
        expected: String,
        actual: String,
        path: Option<String>,
    },
    KillTimeout {
        message: String,
    },
    AgentReadyTimeout {
        message: String,
    },
    ExecSessionLost {
        message: String,
    },
    OutputOverflow {
        message: String,
        limit_bytes: f64,
        stdout: String,
        stderr: String,
    },
    StdinFailed {
        message: String,
        errno: Option<i32>,
    },
    MetricsNotReady {
        message: String,
    },
    TunnelRefused {
        message: String,
        host: String,
        port: u16,
        errno: Option<i32>,
    },
    TunnelLost {
        message: String,
        errno: Option<i32>,
    },
    // What an SSH server, or the way to it, is the reason of.
    SshConnectFailed {
        message: String,
        errno: Option<i32>,
    },
    SshHostKeyMismatch {
        message: String,
        expected: Vec<String>,
        actual: String,
    },
    SshLoginRefused {
        message: String,
        user: String,
    },
    SshRequestRefused {
        message: String,
        request: String,
    },
    SshConnectionLost {
        message: String,
    },
    SshNoExitStatus {
        message: String,
    },
    // What this addon finds before the engine does, or after it.
    HomePathTooLong {
        message: String,
        path: String,
        limit: u32,
    },
    HomeNotWritable {
        message: String,
        path: String,
        errno: Option<i32>,
    },
    HomeWithoutXattrs {
        message: String,
        path: String,
        errno: Option<i32>,
    },
    RootfsNotFound {
        message: String,
        path: String,
    },
    RuntimeArchiveInvalid {
        message: String,
        path: String,
    },
    RollbackIncomplete {
        message: String,
        sandbox: String,
    },
    SandboxBusy {
        message: String,
        sandbox: String,
    },
    SandboxPaused {
        message: String,
    },
    CaptureUnsupported {
        message: String,
    },
    VolumeInUse {
        message: String,
        volume: String,
        sandbox: Option<String>,
    },
    FileFailed {
        message: String,
        path: String,
        errno: Option<i32>,
        errno_name: Option<String>,
    },
    ChangeRefused {
        message: String,
        field: String,
    },
    RestartRequired {
        message: String,
        field: String,
    },
    HostIo {
        message: String,
        operation: String,
        path: String,
        errno: Option<i32>,
    },
    UnsafeName {
        message: String,
        name: String,
        path: String,
    },
    TransferConflict {
        message: String,
        path: String,
        expected: String,
        found: String,
    },
    TransferLimit {
        message: String,
        limit: String,
        maximum: f64,
        path: String,
    },
    TransferRefused {
        message: String,
        path: String,
        why: String,
    },
    EngineClosed {
        message: String,
    },
    HandleClosed {
        message: String,
        kind: String,
    },
}

/// Failures of this addon's own making.
impl Failure {
    pub(crate) fn engine_closed() -> Self {
        Self::EngineClosed { message: "the engine is closed: its Native layer's scope has ended".into() }
    }

    pub(crate) fn handle_closed(kind: &str) -> Self {
        Self::HandleClosed { message: format!("this {kind} handle is closed: its scope has ended"), kind: kind.into() }
    }

    pub(crate) fn exec_session_lost(why: Option<&str>) -> Self {
        let lost = "the connection to the guest ended before the process did";
        Self::ExecSessionLost { message: why.map_or_else(|| lost.into(), |why| format!("{lost}: {why}")) }
    }

    /// The relay answers for a guest that is paused.
    pub(crate) fn exec_refused(sandbox: &str, why: &str) -> Self {
        if why.contains("sandbox is paused") {
            return Self::sandbox_paused(sandbox);
        }
        Self::Protocol { message: format!("the guest's agent refused to start a program: {why}") }
    }

    /// `text` is the guest's agent's own.
    pub(crate) fn tunnel_refused(text: String, host: &str, port: u16) -> Self {
        Self::TunnelRefused { errno: os_error(&text), message: text, host: host.into(), port }
    }

    pub(crate) fn tunnel_lost(text: &str) -> Self {
        Self::TunnelLost { message: text.into(), errno: os_error(text) }
    }

    pub(crate) fn ssh_refused(request: &str, why: &str) -> Self {
        Self::SshRequestRefused { message: format!("{request}: {why}"), request: request.into() }
    }

    pub(crate) fn ssh_lost(why: &str) -> Self {
        Self::SshConnectionLost { message: format!("the connection to the SSH server has ended: {why}") }
    }

    pub(crate) fn ssh_no_exit_status() -> Self {
        Self::SshNoExitStatus {
            message: "the server closed the program's session without an exit status or a signal".into(),
        }
    }

    pub(crate) fn home_path_too_long(home: &Path, limit: usize) -> Self {
        let path = home.display().to_string();
        Self::HomePathTooLong {
            message: format!(
                "home {path} is {} bytes long; the sockets below it leave room for {limit}",
                home.as_os_str().len()
            ),
            path,
            limit: u32::try_from(limit).unwrap_or_default(),
        }
    }

    pub(crate) fn home_not_writable(home: &Path, error: &io::Error) -> Self {
        let path = home.display().to_string();
        Self::HomeNotWritable {
            message: format!("home {path} cannot be written: {error}"),
            path,
            errno: error.raw_os_error(),
        }
    }

    pub(crate) fn home_without_xattrs(home: &Path, error: &io::Error) -> Self {
        let path = home.display().to_string();
        Self::HomeWithoutXattrs {
            message: format!("home {path} is on a file system without user extended attributes: {error}"),
            path,
            errno: error.raw_os_error(),
        }
    }

    pub(crate) fn rootfs_not_found(path: &str) -> Self {
        Self::RootfsNotFound { message: format!("no root file system at {path}"), path: path.into() }
    }

    pub(crate) fn runtime_archive_invalid(path: &Path, what: &str) -> Self {
        let path = path.display().to_string();
        Self::RuntimeArchiveInvalid { message: format!("{path} is no archive of a runtime pair: {what}"), path }
    }

    pub(crate) fn runtime_incomplete(message: String) -> Self {
        Self::RuntimeIncomplete { message }
    }

    pub(crate) fn rollback_incomplete(name: &str, detail: &str, cause: &Stop) -> Self {
        let cause = match cause {
            Stop::Failed(failure) => format!("{failure:?}"),
            Stop::Cancelled => "cancelled".to_owned(),
        };
        Self::RollbackIncomplete {
            message: format!(
                "sandbox {name:?} was not created ({cause}), and what was begun could not be removed: {detail}"
            ),
            sandbox: name.into(),
        }
    }

    pub(crate) fn exec_timeout(limit: Duration, (stdout, stderr): (String, String)) -> Self {
        let message = format!("the program did not end within {limit:?} and was killed");
        Self::ExecTimeout { message, timeout_ms: millis(limit), stdout, stderr }
    }

    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn output_overflow(limit: usize, (stdout, stderr): (String, String)) -> Self {
        let message = format!("the program printed more than the {limit} bytes that may be held, and was killed");
        Self::OutputOverflow { message, limit_bytes: limit as f64, stdout, stderr }
    }

    pub(crate) fn kill_timeout(limit: Duration) -> Self {
        Self::KillTimeout { message: format!("the end was not confirmed within {limit:?} of a kill") }
    }

    pub(crate) fn agent_timeout(limit: Duration) -> Self {
        Self::AgentReadyTimeout { message: format!("the guest's agent did not answer within {limit:?}") }
    }

    pub(crate) fn sandbox_busy(name: &str, limit: Duration) -> Self {
        Self::SandboxBusy {
            message: format!("sandbox {name:?} is busy: another operation has held its name for {limit:?}"),
            sandbox: name.into(),
        }
    }

    pub(crate) fn metrics_not_ready(limit: Duration, why: &Self) -> Self {
        let why = match why {
            Self::MetricsNotReady { message } | Self::SandboxNotRunning { message } => message.as_str(),
            _ => "",
        };
        Self::MetricsNotReady { message: format!("no sample within {limit:?}: {why}") }
    }

    pub(crate) fn sandbox_paused(name: &str) -> Self {
        Self::SandboxPaused { message: format!("sandbox {name:?} is paused, and starts nothing") }
    }

    pub(crate) fn directory_root(name: &str, root: &Path) -> Self {
        Self::CaptureUnsupported {
            message: format!(
                "the root of sandbox {name:?} is the directory {}, which is outside of what can be captured",
                root.display()
            ),
        }
    }

    /// What the guest's agent says about a file; the number at the end of its sentence is the guest kernel's.
    pub(crate) fn file(path: &str, text: String) -> Self {
        let full = text.contains("too many open filesystem handles");
        let errno = if full { Some(EMFILE) } else { os_error(&text) };
        Self::FileFailed {
            message: text,
            path: path.into(),
            errno,
            errno_name: errno.and_then(errno_name).map(str::to_owned),
        }
    }

    /// A failure that this addon finds, by the number that the kernel would have given it.
    pub(crate) fn file_errno(path: &str, errno: i32, text: &str) -> Self {
        let errno_name = errno_name(errno).map(str::to_owned);
        Self::FileFailed { message: text.into(), path: path.into(), errno: Some(errno), errno_name }
    }

    pub(crate) fn volume_in_use(volume: &str, sandbox: &str) -> Self {
        Self::VolumeInUse {
            message: format!("volume {volume:?} is mounted in sandbox {sandbox:?}"),
            volume: volume.into(),
            sandbox: Some(sandbox.into()),
        }
    }

    pub(crate) fn volume_is_disk() -> Self {
        Self::Unsupported {
            message: "the files of a disk volume are inside its image, which only a guest can read".into(),
            operation: "volume.fs".into(),
            reason: "MountIntoSandbox".into(),
            hint: "mount it in a sandbox, and use that sandbox's files".into(),
        }
    }

    pub(crate) fn change_refused(field: &str, reason: &str) -> Self {
        Self::ChangeRefused { message: format!("{field} cannot be changed so: {reason}"), field: field.into() }
    }

    pub(crate) fn restart_required(field: &str, reason: Option<&str>) -> Self {
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        Self::RestartRequired { message: format!("{field} changes with a restart only{reason}"), field: field.into() }
    }

    pub(crate) fn host_io(operation: &str, path: &Path, error: &io::Error) -> Self {
        let path = path.display().to_string();
        let message = format!("{operation} {path:?} on the host: {error}");
        if has_no_room(error) {
            return Self::DiskFull { message, path: Some(path) };
        }
        Self::HostIo { message, operation: operation.into(), path, errno: error.raw_os_error() }
    }

    pub(crate) fn unsafe_name(name: &str, path: &str) -> Self {
        Self::UnsafeName {
            message: format!("{name:?}, an entry of {path:?}, is no name of a file"),
            name: name.into(),
            path: path.into(),
        }
    }

    pub(crate) fn transfer_conflict(path: &str, expected: &str, found: &str) -> Self {
        Self::TransferConflict {
            message: format!("{path:?} is to be a {expected}, but there is a {found}"),
            path: path.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    pub(crate) fn transfer_limit(limit: &str, maximum: u64, path: &str) -> Self {
        #[allow(clippy::cast_precision_loss)] // exact up to 8 PiB
        let number = maximum as f64;
        Self::TransferLimit {
            message: format!("{path:?} is over the limit {limit} of {maximum}"),
            limit: limit.into(),
            maximum: number,
            path: path.into(),
        }
    }

    pub(crate) fn transfer_refused(path: &str, why: &str) -> Self {
        let what = if path.is_empty() { "what was named".to_owned() } else { format!("{path:?}") };
        Self::TransferRefused {
            message: format!("{what} cannot be transferred as it is: {why}"),
            path: path.into(),
            why: why.into(),
        }
    }

    pub(crate) fn foreign_platform(operation: &str, platform: &str, host: &str) -> Self {
        Self::Unsupported {
            message: format!("{platform} is not the platform of this host, {host}"),
            operation: operation.into(),
            reason: "NotAvailable".into(),
            hint: format!(
                "leave the platform out, or give {host}: the cache has one image for a reference, and runs it"
            ),
        }
    }

    pub(crate) fn archive_invalid(path: &Path, why: &str) -> Self {
        Self::ImageArchiveInvalid {
            message: format!("{} is no archive of images: {why}", path.display()),
            path: path.display().to_string(),
        }
    }

    /// What the engine says while it reads an archive: whatever is wrong with its content is one reason, but a digest.
    pub(crate) fn in_archive(self, path: &Path) -> Self {
        match self {
            Self::ImageManifestInvalid { message } | Self::ImageConfigInvalid { message } => {
                match mismatch_in(&message) {
                    Some((expected, actual)) => {
                        Self::ImageDigestMismatch { message, digest: expected.clone(), expected, actual }
                    }
                    None => Self::archive_invalid(path, &message),
                }
            }
            Self::ImageMaterialize { message, .. } | Self::Io { message, errno: None, .. } => {
                Self::archive_invalid(path, &message)
            }
            other => other,
        }
    }

    /// The registry's answer only has a URL.
    pub(crate) fn of_image(mut self, image: &str) -> Self {
        if let Self::ImageNotFound { reference, .. }
        | Self::ImageUnauthorized { reference, .. }
        | Self::ImageRateLimited { reference, .. }
        | Self::ImageTls { reference, .. }
        | Self::ImagePlatformNotFound { reference, .. } = &mut self
        {
            image.clone_into(reference);
        }
        self
    }

    /// A control plane's answer does not say of which sandbox.
    pub(crate) fn of_sandbox(mut self, name: &str) -> Self {
        if let Self::SandboxNotFound { sandbox, .. } | Self::SandboxAlreadyExists { sandbox, .. } = &mut self
            && sandbox.is_empty()
        {
            name.clone_into(sandbox);
        }
        self
    }

    /// Nor of which volume; and it may say of one what the engine takes for something about a sandbox.
    pub(crate) fn of_volume(self, name: &str) -> Self {
        let volume = name.to_owned();
        match self {
            Self::SandboxAlreadyExists { message, .. } => Self::VolumeAlreadyExists { message, volume },
            Self::VolumeAlreadyExists { message, volume: empty } if empty.is_empty() => {
                Self::VolumeAlreadyExists { message, volume }
            }
            Self::VolumeNotFound { message, volume: empty } if empty.is_empty() => {
                Self::VolumeNotFound { message, volume }
            }
            other => other,
        }
    }

    /// Nor of which snapshot.
    pub(crate) fn of_snapshot(mut self, name: &str) -> Self {
        if let Self::SnapshotNotFound { reference, .. } | Self::SnapshotAlreadyExists { reference, .. } = &mut self
            && reference.is_empty()
        {
            name.clone_into(reference);
        }
        self
    }

    /// Add to the message of a failure what was done before it, where that is a transfer's.
    pub(crate) fn after(mut self, done: &str) -> Self {
        match &mut self {
            Self::HostIo { message, .. }
            | Self::FileFailed { message, .. }
            | Self::UnsafeName { message, .. }
            | Self::TransferConflict { message, .. }
            | Self::TransferLimit { message, .. }
            | Self::TransferRefused { message, .. }
            | Self::AgentClient { message, .. }
            | Self::AgentReadyTimeout { message }
            | Self::Protocol { message } => *message = format!("{message} ({done})"),
            _ => {}
        }
        self
    }

    pub(crate) fn runtime_version_mismatch(actual: &str, path: Option<String>) -> Self {
        let at = path.as_deref().map_or_else(String::new, |path| format!(" at {path}"));
        Self::RuntimeVersionMismatch {
            message: format!("the runtime{at} is version {actual}; this SDK launches exactly {RUNTIME_VERSION}"),
            expected: RUNTIME_VERSION.into(),
            actual: actual.into(),
            path,
        }
    }
}

impl From<MicrosandboxError> for Failure {
    #[allow(clippy::too_many_lines)] // one arm for each variant: the length is the point
    fn from(error: MicrosandboxError) -> Self {
        use MicrosandboxError as E;
        // What a server answers may have in it what it was sent.
        let message = scrub(error.to_string());
        match error {
            E::Io(error) => Self::from(error),
            E::Http(error) => Self::Http {
                message: with_causes(message, &error),
                status: error.status().map(|status| status.as_u16()),
                timeout: error.is_timeout(),
                connect: error.is_connect(),
            },
            E::CloudHttp { status, code, .. } => Self::CloudHttp { message, status, code },
            E::LibkrunfwNotFound(_) => Self::LibkrunfwNotFound { message },
            E::RuntimeNotInstalled(_) => Self::RuntimeNotInstalled { message },
            E::RuntimeIncomplete(_) => Self::RuntimeIncomplete { message },
            E::Database(_) if message.contains(DATABASE_FULL) => Self::DiskFull { message, path: None },
            E::Database(_) => Self::Database { message },
            E::InvalidConfig(text) => from_invalid_config_text(&text, message),
            E::NoDefaultCommand => Self::NoDefaultCommand { message },
            E::SandboxNotFound(text) => Self::SandboxNotFound { message, sandbox: subject(text) },
            E::SandboxAlreadyExists(text) => {
                Self::SandboxAlreadyExists { message, sandbox: first_quoted(subject(text)) }
            }
            E::SandboxReplaced { name, expected, actual } => {
                Self::SandboxReplaced { message, sandbox: name, expected, actual }
            }
            E::SandboxStillRunning(text) => Self::SandboxStillRunning { message, sandbox: first_quoted(text) },
            E::SandboxNotRunning(text) if text.contains("paused") => Self::SandboxPaused { message },
            E::SandboxNotRunning(_) => Self::SandboxNotRunning { message },
            E::SandboxStopTimedOut { name, timeout } => {
                Self::SandboxStopTimedOut { message, sandbox: name, timeout_ms: millis(timeout) }
            }
            E::Runtime(text) => from_runtime_text(&text, message),
            E::StopTimeout { name, timeout, .. } => {
                Self::StopTimeout { message, sandbox: name, timeout_ms: millis(timeout) }
            }
            E::BootStart { name, err } => {
                Self::BootStart { message, sandbox: name, stage: snake_case(&err.stage), errno: err.errno }
            }
            E::Json(_) => Self::Json { message },
            E::Protocol(_) => Self::Protocol { message },
            E::AgentClient(error) if nobody_listens(&error) => Self::SandboxNotRunning { message },
            E::AgentClient(error) => Self::AgentClient { message, kind: agent_client_kind(&error).into() },
            E::ControlClient(error) => Self::ControlClient { message, delivery: format!("{:?}", error.delivery()) },
            E::ControlStateChanged => Self::ControlStateChanged { message },
            E::ControlSecretBatch { applied_count, failed_index, .. } => {
                Self::ControlSecretBatch { message, applied_count, failed_index }
            }
            E::Nix(errno) => Self::Nix { message, errno: errno as i32 },
            E::ExecTimeout(timeout) => Self::exec_timeout(timeout, <_>::default()),
            E::ExecFailed(failed) => Self::from(failed),
            E::Terminal(_) => Self::Terminal { message },
            E::SandboxFsOps(text) => Self::SandboxFsOps { message, errno: os_error(&text) },
            E::ImageNotFound(reference) => Self::ImageNotFound { message, reference },
            E::ImageInUse(_) => Self::ImageInUse { message },
            E::VolumeNotFound(text) => Self::VolumeNotFound { message, volume: subject(text) },
            E::VolumeAlreadyExists(text) => Self::VolumeAlreadyExists { message, volume: subject(text) },
            E::Image(error) => from_image(error, message),
            E::NetworkBuilder(_) => Self::NetworkBuilder { message },
            E::PatchFailed(_) => Self::PatchFailed { message },
            E::SnapshotNotFound(text) => Self::SnapshotNotFound { message, reference: subject(text) },
            E::SnapshotAlreadyExists(text) => Self::SnapshotAlreadyExists { message, reference: subject(text) },
            E::SnapshotSandboxRunning(sandbox) => Self::SnapshotSandboxRunning { message, sandbox },
            E::SnapshotImageMissing(_) => Self::SnapshotImageMissing { message },
            E::SnapshotIntegrity(_) => Self::SnapshotIntegrity { message },
            E::SnapshotSourceRecovery(recovery) => Self::SnapshotSourceRecovery {
                message,
                source_sandbox: recovery.source_sandbox,
                checkpoint_id: recovery.checkpoint_id,
                checkpoint_path: recovery.checkpoint_path.display().to_string(),
                artifact_path: recovery.artifact.map(|artifact| artifact.path.display().to_string()),
                detail: recovery.detail,
                publication_error: recovery.publication_error,
            },
            E::SnapshotMigration { code, phase, artifact, detail } => {
                Self::SnapshotMigration { message, code, phase, artifact, detail }
            }
            E::MetricsDisabled(sandbox) => Self::MetricsDisabled { message, sandbox },
            E::MetricsUnavailable(sandbox) => Self::MetricsUnavailable { message, sandbox },
            #[allow(clippy::cast_precision_loss)] // a file offset: exact up to 8 PiB
            E::MissedRotation { dropped_from_offset } => {
                Self::MissedRotation { message, dropped_from_offset: dropped_from_offset as f64 }
            }
            E::InvalidCursor(_) => Self::InvalidCursor { message },
            E::Unsupported { op, reason } => Self::Unsupported {
                message,
                operation: op.api_path().into(),
                reason: unsupported_reason(&reason).into(),
                hint: reason.hint(),
            },
            // A disk of a volume or of a root is made so.
            E::Custom(text) if matches!(os_error(&text), Some(ENOSPC | EDQUOT)) => {
                Self::DiskFull { message, path: None }
            }
            E::Custom(text) => from_custom_text(&text, message),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let message = error.to_string();
        if has_no_room(&error) {
            return Self::DiskFull { path: at_path(&message), message };
        }
        Self::Io { message, kind: format!("{:?}", error.kind()), errno: error.raw_os_error() }
    }
}

impl From<microsandbox::protocol::exec::ExecFailed> for Failure {
    fn from(failed: microsandbox::protocol::exec::ExecFailed) -> Self {
        Self::ExecFailed {
            message: failed.message,
            kind: format!("{:?}", failed.kind),
            errno: failed.errno,
            errno_name: failed.errno_name,
            stage: failed.stage,
        }
    }
}

fn from_image(error: ImageError, message: String) -> Failure {
    if is_disk_full(&error) {
        let path = match &error {
            ImageError::Cache { path, .. } => Some(path.display().to_string()),
            _ => None,
        };
        return Failure::DiskFull { message, path };
    }
    match error {
        ImageError::Registry(error) => from_registry(&error),
        ImageError::PlatformNotFound { reference, os, arch } => {
            Failure::ImagePlatformNotFound { message, reference, os: os.to_string(), arch: arch.to_string() }
        }
        ImageError::ManifestParse(_) => Failure::ImageManifestInvalid { message },
        ImageError::SnapshotManifest(_) => Failure::SnapshotIntegrity { message },
        ImageError::ConfigParse(_) => Failure::ImageConfigInvalid { message },
        ImageError::DigestMismatch { digest, expected, actual } => {
            Failure::ImageDigestMismatch { message, digest, expected, actual }
        }
        ImageError::Materialize { digest, .. } => Failure::ImageMaterialize { message, digest },
        ImageError::Cache { path, source } => {
            Failure::ImageCache { message, path: path.display().to_string(), errno: source.raw_os_error() }
        }
        ImageError::NotCached { reference } => Failure::ImageNotCached { message, reference },
        ImageError::InvalidCertificate(_) => Failure::ImageCertificateInvalid { message },
        ImageError::Io(error) => match mismatch_behind(&error) {
            Some((expected, actual)) => {
                Failure::ImageDigestMismatch { message, digest: expected.clone(), expected, actual }
            }
            None => Failure::from(error),
        },
    }
}

/// No space is left, or no more is allowed. Where a layer is unpacked the engine keeps only the text.
fn is_disk_full(error: &ImageError) -> bool {
    match error {
        ImageError::Cache { source: error, .. }
        | ImageError::Io(error)
        | ImageError::Registry(OciDistributionError::IoError(error)) => has_no_room(error),
        ImageError::Materialize { message, .. } => matches!(os_error(message), Some(ENOSPC | EDQUOT)),
        _ => false,
    }
}

/// By its kind: an error that names a path too has no number any more.
fn has_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What `tempfile` says behind an error: ` at path "…"`.
fn at_path(text: &str) -> Option<String> {
    let (_, path) = text.rsplit_once(" at path \"")?;
    Some(path.strip_suffix('"')?.to_owned())
}

/// `SQLITE_FULL`, as its client says it.
const DATABASE_FULL: &str = "(code: 13)";

/// What a registry, or the way to it, answered. `pull` knows the reference; the registry's answer only has a URL.
fn from_registry(error: &OciDistributionError) -> Failure {
    let message = with_causes(format!("registry error: {error}"), error);
    let reference = String::new();
    if let Some((expected, actual)) = mismatch(error) {
        return Failure::ImageDigestMismatch { message, digest: expected.clone(), expected, actual };
    }
    match error {
        // The engine's words (`oci-client`, `client.rs`) for an index of other platforms.
        OciDistributionError::ImageManifestNotFoundError(text) if text.starts_with("no entry found in image index") => {
            let host = Platform::host_linux();
            let (os, arch) = (host.os.to_string(), host.arch.to_string());
            Failure::ImagePlatformNotFound { message, reference, os, arch }
        }
        error if is_unknown(error) => Failure::ImageNotFound { message, reference },
        error if is_rate_limit(error) => Failure::ImageRateLimited { message, reference },
        error if is_unauthorized(error) => Failure::ImageUnauthorized { message, reference },
        error if is_tls(error) => Failure::ImageTls { message, reference },
        _ => Failure::ImageRegistry { message },
    }
}

/// The engine's sentence, and the causes that it leaves out: of a request that failed it says nothing but the URL.
fn with_causes(mut text: String, error: &dyn Error) -> String {
    for cause in causes(error) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn causes(error: &dyn Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes
}

/// The status of an answer that the registry gave.
fn status_of(error: &OciDistributionError) -> Option<u16> {
    match error {
        OciDistributionError::RequestError(error) => error.status().map(|status| status.as_u16()),
        OciDistributionError::ServerError { code, .. } => Some(*code),
        OciDistributionError::UnauthorizedError { .. } => Some(401),
        _ => None,
    }
}

fn has_code(error: &OciDistributionError, wanted: impl Fn(&OciErrorCode) -> bool) -> bool {
    match error {
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|error| wanted(&error.code)),
        _ => false,
    }
}

/// The registry knows no such repository or tag.
fn is_unknown(error: &OciDistributionError) -> bool {
    use OciErrorCode::{ManifestUnknown, NameUnknown, NotFound};
    matches!(error, OciDistributionError::ImageManifestNotFoundError(_))
        || matches!(error, OciDistributionError::ServerError { code: 404, .. })
        || has_code(error, |code| matches!(code, ManifestUnknown | NameUnknown | NotFound))
}

/// Of a server of tokens only the text of its answer is left.
fn is_rate_limit(error: &OciDistributionError) -> bool {
    let in_words = |text: &str| text.to_lowercase().replace(' ', "").contains("toomanyrequests");
    status_of(error) == Some(429)
        || has_code(error, |code| *code == OciErrorCode::Toomanyrequests)
        || matches!(error, OciDistributionError::AuthenticationFailure(text) if in_words(text))
}

fn is_unauthorized(error: &OciDistributionError) -> bool {
    matches!(status_of(error), Some(401 | 403))
        || has_code(error, |code| matches!(code, OciErrorCode::Unauthorized | OciErrorCode::Denied))
        || matches!(error, OciDistributionError::AuthenticationFailure(_))
}

/// What `rustls` says of a connection: its type is behind several others, and its texts are its own.
const TLS: [&str; 7] = [
    "invalid peer certificate",
    "peer sent no certificates",
    "peer is incompatible",
    "peer misbehaved",
    "received corrupt message",
    "received fatal alert",
    "tls handshake",
];

fn is_tls(error: &OciDistributionError) -> bool {
    matches!(error, OciDistributionError::RequestError(_))
        && causes(error).iter().any(|cause| TLS.iter().any(|text| cause.contains(text)))
}

/// What was expected and what came, of a manifest, a configuration or a layer.
fn mismatch(error: &OciDistributionError) -> Option<(String, String)> {
    match error {
        OciDistributionError::DigestError(error) => verification(error),
        OciDistributionError::IoError(error) => mismatch_behind(error),
        _ => None,
    }
}

/// Where bytes are streamed, it is inside of an I/O error.
fn mismatch_behind(error: &io::Error) -> Option<(String, String)> {
    verification(error.get_ref()?.downcast_ref()?)
}

fn verification(error: &DigestError) -> Option<(String, String)> {
    match error {
        DigestError::VerificationError { expected, actual } => Some((expected.clone(), actual.clone())),
        _ => None,
    }
}

/// The same of an archive, where the engine has it in words: the first digest is what was expected.
fn mismatch_in(text: &str) -> Option<(String, String)> {
    let (_, rest) = text.split_once("digest mismatch")?;
    let mut digests = rest.match_indices("sha256:").map(|(at, name)| {
        let hex = rest[at + name.len()..].chars().take_while(char::is_ascii_hexdigit);
        format!("{name}{}", hex.collect::<String>())
    });
    Some((digests.next()?, digests.next()?))
}

/// Some of what `InvalidConfig` says is not about options, but about the sandbox that is captured.
fn from_invalid_config_text(text: &str, message: String) -> Failure {
    if text.contains("requires a running or user-paused source") {
        Failure::SandboxNotRunning { message }
    } else if text.contains("requires an OCI-rooted sandbox") || text.starts_with("source uses host-backed") {
        Failure::CaptureUnsupported { message }
    } else if let Some((volume, sandbox)) = attached_volume(text) {
        Failure::VolumeInUse { message, volume, sandbox }
    } else {
        Failure::InvalidConfig { message, field: None }
    }
}

/// The volume, and the sandbox where it is named, of "volume X is attached to active sandbox Y" and "… is currently attached
/// by a running sandbox".
fn attached_volume(text: &str) -> Option<(String, Option<String>)> {
    let (volume, rest) = text.strip_prefix("volume \"")?.split_once("\" is ")?;
    if rest == "currently attached by a running sandbox" {
        return Some((volume.into(), None));
    }
    let sandbox = rest.strip_prefix("attached to active sandbox \"")?.strip_suffix('"')?;
    Some((volume.into(), Some(sandbox.into())))
}

/// What a VM holds that no capture can take, as the runtime says it.
const NOT_CAPTURED: [&str; 4] = [
    "has no handle-state provider",
    "has no immutable-generation provider",
    "uses unsupported checkpoint format",
    "cannot quiesce",
];

/// `Runtime` is the crate's drawer for everything; these are worth a name.
fn from_runtime_text(text: &str, message: String) -> Failure {
    if text.starts_with("timed out observing stopped state") {
        Failure::KillTimeout { message }
    } else if text.contains("startup timed out after") {
        Failure::AgentReadyTimeout { message }
    } else if text.contains("exec session ended without exit event") {
        Failure::ExecSessionLost { message }
    } else if text.contains("sandbox is paused") {
        Failure::SandboxPaused { message }
    } else if NOT_CAPTURED.iter().any(|phrase| text.contains(phrase)) {
        Failure::CaptureUnsupported { message }
    } else if text.starts_with("cloud sandbox \"")
        || text.contains("cloud agent")
        || text.contains("cloud sandbox agent")
    {
        from_cloud_text(text, message)
    } else if let Some(actual) = version_without_contract(text) {
        Failure::runtime_version_mismatch(actual, None)
    } else {
        Failure::Runtime { message }
    }
}

/// What the engine says of the sandboxes of a control plane, and of the way to their agents.
fn from_cloud_text(text: &str, message: String) -> Failure {
    let status = text.strip_prefix("cloud agent websocket: HTTP error: ").and_then(|rest| rest.split(' ').next());
    if let Some(status) = status.and_then(|status| status.parse().ok()) {
        return Failure::CloudHttp { message, status, code: None };
    }
    if text.starts_with("cloud agent websocket: ") {
        return Failure::AgentClient { message, kind: "Connect".into() };
    }
    if text.starts_with("timed out connecting") || text.contains("did not reach running") {
        return Failure::AgentReadyTimeout { message };
    }
    match text.split_once(" failed to start: ") {
        Some((sandbox, _)) => Failure::BootStart {
            message,
            sandbox: first_quoted(sandbox.to_owned()),
            stage: "other".into(),
            errno: None,
        },
        None => Failure::Runtime { message },
    }
}

/// `Custom` covers two states of metrics that pass by themselves, and the answers of a control plane that are none.
fn from_custom_text(text: &str, message: String) -> Failure {
    if text.contains("has no live metrics slot") || text.contains("metrics are unavailable") {
        Failure::MetricsNotReady { message }
    } else if ["failed to decode body", "could not be decoded", "invalid cloud log"].iter().any(|it| text.contains(it))
    {
        Failure::Json { message }
    } else if text.starts_with("volume read failed: ") || text.starts_with("volume read stream failed: ") {
        Failure::Http { message, status: None, timeout: text.contains("timed out"), connect: false }
    } else {
        Failure::Custom { message }
    }
}

/// The version in "no tested sandbox launch contract for runtime X" and "… catalog contract …".
fn version_without_contract(text: &str) -> Option<&str> {
    let rest = &text[text.find("no tested ")?..];
    let (_, version) = rest.split_once("contract for runtime ")?;
    version.split_whitespace().next().map(|version| version.trim_end_matches([',', ';', ':']))
}

/// The number in a message that ends with Rust's "(os error N)", as the guest's agent sends it.
fn os_error(text: &str) -> Option<i32> {
    let (_, rest) = text.rsplit_once("(os error ")?;
    rest.split_once(')')?.0.parse().ok()
}

const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

/// The numbers of Linux, which the guest is, whatever the host is.
const ERRNO_NAMES: [(i32, &str); 32] = [
    (1, "EPERM"),
    (2, "ENOENT"),
    (4, "EINTR"),
    (5, "EIO"),
    (6, "ENXIO"),
    (9, "EBADF"),
    (11, "EAGAIN"),
    (12, "ENOMEM"),
    (13, "EACCES"),
    (16, "EBUSY"),
    (17, "EEXIST"),
    (18, "EXDEV"),
    (19, "ENODEV"),
    (20, "ENOTDIR"),
    (21, "EISDIR"),
    (22, "EINVAL"),
    (23, "ENFILE"),
    (EMFILE, "EMFILE"),
    (25, "ENOTTY"),
    (26, "ETXTBSY"),
    (27, "EFBIG"),
    (ENOSPC, "ENOSPC"),
    (29, "ESPIPE"),
    (30, "EROFS"),
    (31, "EMLINK"),
    (36, "ENAMETOOLONG"),
    (38, "ENOSYS"),
    (39, "ENOTEMPTY"),
    (40, "ELOOP"),
    (75, "EOVERFLOW"),
    (95, "EOPNOTSUPP"),
    (EDQUOT, "EDQUOT"),
];

fn errno_name(errno: i32) -> Option<&'static str> {
    ERRNO_NAMES.iter().find(|(number, _)| *number == errno).map(|(_, name)| *name)
}

/// The name of what an error is about; empty where it is a control plane's answer, which has none.
fn subject(text: String) -> String {
    if is_answer(&text) { String::new() } else { text }
}

/// Some engine sites put a sentence where the name belongs; take the name out of its quotes.
fn first_quoted(text: String) -> String {
    for quote in ['\'', '"'] {
        let mut parts = text.split(quote);
        if let (Some(_), Some(name), Some(_)) = (parts.next(), parts.next(), parts.next()) {
            return name.to_owned();
        }
    }
    text
}

/// The agent's socket is gone, or nobody accepts on it: the VM has ended, though its row may not say so yet.
fn nobody_listens(error: &AgentClientError) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error, AgentClientError::Connect { source, .. } if matches!(source.kind(), NotFound | ConnectionRefused))
}

fn agent_client_kind(error: &AgentClientError) -> &'static str {
    match error {
        AgentClientError::Client(_) => "Client",
        AgentClientError::Connect { .. } => "Connect",
        AgentClientError::Handshake(_) => "Handshake",
        AgentClientError::SandboxNotFound(_) => "SandboxNotFound",
        AgentClientError::InvalidSandboxName(_) => "InvalidSandboxName",
        AgentClientError::Io(_) => "Io",
        AgentClientError::Protocol(_) => "Protocol",
        AgentClientError::LocalTransport(_) => "LocalTransport",
        AgentClientError::Cbor(_) => "Cbor",
        AgentClientError::InvalidPacket(_) => "InvalidPacket",
        AgentClientError::UnsupportedOperation { .. } => "UnsupportedOperation",
        AgentClientError::ReaderClosed(_) => "ReaderClosed",
        AgentClientError::Closed => "Closed",
        AgentClientError::IdRangeExhausted => "IdRangeExhausted",
        AgentClientError::NotImplemented(_) => "NotImplemented",
    }
}

fn unsupported_reason(reason: &UnsupportedReason) -> &'static str {
    match reason {
        UnsupportedReason::LocalOnly => "LocalOnly",
        UnsupportedReason::CloudOnly => "CloudOnly",
        UnsupportedReason::UseInstead(_) => "UseInstead",
        UnsupportedReason::RequiresUnixHost => "RequiresUnixHost",
        UnsupportedReason::RequiresCrateFeature(_) => "RequiresCrateFeature",
        UnsupportedReason::ConfigField(_) => "ConfigField",
        UnsupportedReason::MountIntoSandbox => "MountIntoSandbox",
        UnsupportedReason::NotAvailable(_) => "NotAvailable",
        // The enum is non-exhaustive; its own sentence still reaches the user as `hint`.
        _ => "Other",
    }
}

/// `BuildVm` as `build_vm`, the spelling of the engine's own `boot-error.json`.
pub(crate) fn snake_case(stage: &impl std::fmt::Debug) -> String {
    let mut name = String::new();
    for letter in format!("{stage:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use oci_client::errors::{OciEnvelope, OciError};

    use super::*;

    /// The texts of crate 0.7.2 that carry what its types do not.
    #[test]
    fn the_engines_texts_become_their_own_variants() {
        let runtime = |text: &str| Failure::from(MicrosandboxError::Runtime(text.into()));
        let custom = |text: &str| Failure::from(MicrosandboxError::Custom(text.into()));
        assert!(matches!(runtime("timed out observing stopped state for sandbox 'a'"), Failure::KillTimeout { .. }));
        assert!(matches!(
            runtime("sandbox \"a\" startup timed out after 180 seconds before agent readiness"),
            Failure::AgentReadyTimeout { .. }
        ));
        assert!(matches!(runtime("exec session ended without exit event"), Failure::ExecSessionLost { .. }));
        assert!(matches!(
            runtime("sandbox is paused; resume it before starting guest work"),
            Failure::SandboxPaused { .. }
        ));
        assert!(matches!(
            runtime("runtime control refused: active virtio-fs resource virtio_fs0 has no handle-state provider"),
            Failure::CaptureUnsupported { .. }
        ));
        assert!(matches!(runtime("anything else"), Failure::Runtime { .. }));
        for text in [
            "no tested sandbox launch contract for runtime 0.7.13",
            "x: no tested catalog contract for runtime 0.7.13; install 0.7.2",
        ] {
            let Failure::RuntimeVersionMismatch { actual, expected, .. } = runtime(text) else { panic!("{text}") };
            assert_eq!((actual.as_str(), expected.as_str()), ("0.7.13", RUNTIME_VERSION));
        }
        assert!(matches!(custom("sandbox a has no live metrics slot"), Failure::MetricsNotReady { .. }));
        assert!(matches!(custom("sandbox a is not running; metrics are unavailable"), Failure::MetricsNotReady { .. }));
        assert!(matches!(custom("anything else"), Failure::Custom { .. }));
        let not_running = |text: &str| Failure::from(MicrosandboxError::SandboxNotRunning(text.into()));
        let paused = "cannot gracefully stop paused sandbox \"a\"; resume it first or explicitly kill it";
        assert!(matches!(not_running(paused), Failure::SandboxPaused { .. }));
        assert!(matches!(not_running("'a' is not running (status: Stopped)"), Failure::SandboxNotRunning { .. }));
        let config = |text: &str| Failure::from(MicrosandboxError::InvalidConfig(text.into()));
        assert!(matches!(config("branch requires a running or user-paused source"), Failure::SandboxNotRunning { .. }));
        assert!(matches!(config("snapshot requires an OCI-rooted sandbox"), Failure::CaptureUnsupported { .. }));
        assert!(matches!(config("anything else"), Failure::InvalidConfig { .. }));
    }

    /// What crate 0.7.2 says of a control plane.
    #[test]
    fn what_a_control_plane_answers_has_its_reason() {
        let runtime = |text: &str| Failure::from(MicrosandboxError::Runtime(text.into()));
        let custom = |text: &str| Failure::from(MicrosandboxError::Custom(text.into()));
        let denied = runtime("cloud agent websocket: HTTP error: 401 Unauthorized");
        assert!(matches!(denied, Failure::CloudHttp { status: 401, .. }));
        let reset = runtime("cloud agent websocket: IO error: Connection reset by peer (os error 104)");
        assert!(matches!(reset, Failure::AgentClient { .. }));
        let late = runtime("timed out connecting to cloud sandbox agent \"a\" after 10s");
        assert!(matches!(late, Failure::AgentReadyTimeout { .. }));
        let slow = runtime("cloud sandbox \"a\" did not reach running before the readiness wait expired");
        assert!(matches!(slow, Failure::AgentReadyTimeout { .. }));
        let broken = runtime("cloud sandbox \"a\" failed to start: no capacity");
        assert!(matches!(broken, Failure::BootStart { sandbox, .. } if sandbox == "a"));
        let garbled = custom("GET /v1/sandboxes: failed to decode body: error decoding response body");
        assert!(matches!(garbled, Failure::Json { .. }));
        let answer = || String::from("GET /v1/sandboxes/by-name/:name: no such sandbox");
        let missing = Failure::from(MicrosandboxError::SandboxNotFound(answer())).of_sandbox("a");
        assert!(matches!(missing, Failure::SandboxNotFound { sandbox, .. } if sandbox == "a"));
        let taken = Failure::from(MicrosandboxError::SandboxAlreadyExists("POST /v1/volumes: taken".into()));
        assert!(matches!(taken.of_volume("v"), Failure::VolumeAlreadyExists { volume, .. } if volume == "v"));
        let local = Failure::from(MicrosandboxError::SandboxNotFound("b".into())).of_sandbox("a");
        assert!(matches!(local, Failure::SandboxNotFound { sandbox, .. } if sandbox == "b"));
    }

    #[test]
    fn what_a_registry_answers_has_its_reason() {
        let registry = |error| Failure::from(MicrosandboxError::Image(ImageError::Registry(error))).of_image("image");
        let server = |code| registry(OciDistributionError::ServerError { code, url: "u".into(), message: "m".into() });
        let envelope = |code| {
            let error = OciError { code, message: "m".into(), detail: <_>::default() };
            registry(OciDistributionError::RegistryError {
                envelope: OciEnvelope { errors: vec![error] },
                url: "u".into(),
            })
        };
        let missing = |text: &str| registry(OciDistributionError::ImageManifestNotFoundError(text.into()));
        let tokens = |text: &str| registry(OciDistributionError::AuthenticationFailure(text.into()));
        for failure in [server(404), missing("i"), envelope(OciErrorCode::NameUnknown)] {
            assert!(matches!(failure, Failure::ImageNotFound { reference, .. } if reference == "image"));
        }
        for failure in [
            server(401),
            server(403),
            registry(OciDistributionError::UnauthorizedError { url: "u".into() }),
            envelope(OciErrorCode::Denied),
            tokens("who?"),
        ] {
            assert!(matches!(failure, Failure::ImageUnauthorized { reference, .. } if reference == "image"));
        }
        for failure in [server(429), envelope(OciErrorCode::Toomanyrequests), tokens("429 Too Many Requests")] {
            assert!(matches!(failure, Failure::ImageRateLimited { reference, .. } if reference == "image"));
        }
        let text = "no entry found in image index manifest matching client's default platform";
        assert!(matches!(missing(text), Failure::ImagePlatformNotFound { os, .. } if os == "linux"));
        assert!(matches!(server(500), Failure::ImageRegistry { .. }));
    }

    #[test]
    fn a_digest_that_is_another_is_told_wherever_it_is_found() {
        let error = || DigestError::VerificationError { expected: "a".into(), actual: "b".into() };
        for error in [
            ImageError::Registry(OciDistributionError::DigestError(error())),
            ImageError::Registry(OciDistributionError::IoError(io::Error::other(error()))),
            ImageError::Io(io::Error::other(error())),
        ] {
            let failure = Failure::from(MicrosandboxError::Image(error));
            let Failure::ImageDigestMismatch { expected, actual, .. } = failure else { panic!("{failure:?}") };
            assert_eq!((expected.as_str(), actual.as_str()), ("a", "b"));
        }
        let archive = |text: &str| {
            Failure::from(MicrosandboxError::Image(ImageError::ManifestParse(text.into()))).in_archive(Path::new("/a"))
        };
        for text in [
            "OCI blob digest mismatch: expected sha256:0a, got sha256:0b",
            "OCI layer digest mismatch: descriptor has sha256:0a, archive has sha256:0b",
            "docker archive layer path blobs/sha256/0a digest mismatch: expected sha256:0a, got sha256:0b",
        ] {
            let failure = archive(text);
            let Failure::ImageDigestMismatch { expected, actual, .. } = failure else { panic!("{failure:?}") };
            assert_eq!((expected.as_str(), actual.as_str()), ("sha256:0a", "sha256:0b"));
        }
        assert!(
            matches!(archive("archive missing manifest.json"), Failure::ImageArchiveInvalid { path, .. } if path == "/a")
        );
    }

    #[test]
    fn a_disk_that_is_full_is_told_wherever_it_is_found() {
        let full = || io::Error::from_raw_os_error(ENOSPC);
        let unpacking =
            |message: &str| ImageError::Materialize { digest: "d".into(), message: message.into(), source: None };
        for error in [
            ImageError::Io(full()),
            ImageError::Cache { path: "/c".into(), source: full() },
            ImageError::Registry(OciDistributionError::IoError(full())),
            unpacking("tar ingestion failed: No space left on device (os error 28)"),
        ] {
            let failure = Failure::from(MicrosandboxError::Image(error));
            assert!(matches!(failure, Failure::DiskFull { .. }), "{failure:?}");
        }
        let named =
            io::Error::new(io::ErrorKind::StorageFull, "No space left on device (os error 28) at path \"/a b\"");
        let named = Failure::from(MicrosandboxError::Io(named));
        assert!(matches!(&named, Failure::DiskFull { path: Some(path), .. } if path == "/a b"), "{named:?}");
        let disk = "failed to create disk.raw: ext4 I/O error: No space left on device (os error 28)";
        assert!(matches!(Failure::from(MicrosandboxError::Custom(disk.into())), Failure::DiskFull { .. }));
        let download = Failure::host_io("write", Path::new("/d"), &full());
        assert!(matches!(&download, Failure::DiskFull { path: Some(path), .. } if path == "/d"), "{download:?}");
        let other = Failure::from(MicrosandboxError::Image(unpacking("Input/output error (os error 5)")));
        assert!(matches!(other, Failure::ImageMaterialize { .. }));
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_a_sandbox_that_does_not_run() {
        let connect = |kind: io::ErrorKind| {
            let (path, source) = ("agent.sock".into(), kind.into());
            Failure::from(MicrosandboxError::AgentClient(AgentClientError::Connect { path, source }))
        };
        assert!(matches!(connect(io::ErrorKind::NotFound), Failure::SandboxNotRunning { .. }));
        assert!(matches!(connect(io::ErrorKind::ConnectionRefused), Failure::SandboxNotRunning { .. }));
        assert!(matches!(connect(io::ErrorKind::PermissionDenied), Failure::AgentClient { .. }));
    }

    #[test]
    fn the_guests_errno_is_read_from_the_end_of_the_text() {
        assert_eq!(os_error("stat: No such file or directory (os error 2)"), Some(2));
        assert_eq!(os_error("open '(os error 1)': Permission denied (os error 13)"), Some(13));
        for text in ["", "(os error", "(os error )", "(os error x)", "os error 2"] {
            assert_eq!(os_error(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_file_that_failed_has_the_name_of_its_number() {
        let file = |text: &str| match Failure::file("/a", text.into()) {
            Failure::FileFailed { errno, errno_name, .. } => (errno, errno_name),
            other => panic!("{other:?}"),
        };
        assert_eq!(file("open: Is a directory (os error 21)"), (Some(21), Some("EISDIR".into())));
        assert_eq!(
            file("open: too many open filesystem handles for relay client: 1024"),
            (Some(24), Some("EMFILE".into()))
        );
        assert_eq!(file("mkdir: what (os error 4095)"), (Some(4095), None));
        assert_eq!(file("invalid handle: 3"), (None, None));
    }

    #[test]
    fn a_name_is_found_in_a_sentence_and_a_bare_name_is_kept() {
        assert_eq!(first_quoted("sandbox 'a b' already exists".into()), "a b");
        assert_eq!(first_quoted("sandbox \"a\" is taken".into()), "a");
        for name in ["plain", "it's", "", "\""] {
            assert_eq!(first_quoted(name.into()), name);
        }
    }

    #[test]
    fn the_runtime_version_is_the_crates_version() {
        let manifest = include_str!("../Cargo.toml");
        assert!(manifest.contains(&format!("microsandbox = {{ version = \"={RUNTIME_VERSION}\"")));
    }
}
