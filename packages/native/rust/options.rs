//! What a sandbox is made of: plain data from JavaScript, and its way into the engine's builder.
//!
//! TypeScript has checked the options by then. What is refused here is what only the engine can know.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use microsandbox::LocalBackend;
use microsandbox::sandbox::{
    CpuPlacement, DeploymentProfile, DiskImageFormat, FlatClone, HostPermissions, IntoImage, MountBuilder,
    OwnedVolumeBuilder, PullPolicy, RlimitResource, RootDiskBuilder, RootfsSource, Sandbox, SandboxBuilder,
    SecurityProfile, StatVirtualization, TransparentHugePagePolicy,
};
use microsandbox::size::Mebibytes;
use microsandbox::{LogLevel, MicrosandboxError, MicrosandboxResult, RegistryAuth};
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;

use crate::failure::Failure;
use crate::network::{self, NetworkOptions, SecretOptions};
use crate::owner::CREATION_LABEL;
use crate::patches::{self, PatchOptions};
use crate::pull::RegistryOverrides;
use crate::sandbox::Ending;

/// What a sandbox is made of.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct SandboxOptions {
    pub name: String,
    pub image: ImageOptions,
    pub root_disk: Option<RootDiskOptions>,
    pub cpus: Option<u8>,
    pub max_cpus: Option<u8>,
    pub memory_mib: Option<u32>,
    pub max_memory_mib: Option<u32>,
    #[napi(ts_type = "'inherit' | 'auto' | 'spread' | 'compact'")]
    pub cpu_placement: Option<String>,
    pub placement_profile: Option<String>,
    #[napi(ts_type = "'always' | 'madvise' | 'never'")]
    pub transparent_huge_pages: Option<String>,
    pub env: Option<BTreeMap<String, String>>,
    pub labels: Option<BTreeMap<String, String>>,
    pub workdir: Option<String>,
    pub shell: Option<String>,
    pub user: Option<String>,
    pub hostname: Option<String>,
    pub scripts: Option<BTreeMap<String, String>>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub init: Option<InitOptions>,
    pub ports: Option<Vec<PortOptions>>,
    pub mounts: Option<Vec<MountOptions>>,
    pub vsock: Option<Vec<VsockOptions>>,
    pub rlimits: Option<Vec<RlimitOptions>>,
    #[napi(ts_type = "'always' | 'if-missing' | 'never'")]
    pub pull_policy: Option<String>,
    pub registry: Option<RegistryOptions>,
    #[napi(ts_type = "'quiet' | 'error' | 'warn' | 'info' | 'debug' | 'trace'")]
    pub log_level: Option<String>,
    /// Zero switches sampling off.
    pub metrics_interval_ms: Option<u32>,
    #[napi(ts_type = "'default' | 'restricted'")]
    pub security: Option<String>,
    #[napi(ts_type = "'single-tenant' | 'multi-tenant'")]
    pub deployment_profile: Option<String>,
    pub max_duration_secs: Option<u32>,
    pub idle_timeout_secs: Option<u32>,
    pub ephemeral: Option<bool>,
    pub replace: Option<ReplaceOptions>,
    /// Has no network device at all.
    pub without_network: Option<bool>,
    pub network: Option<NetworkOptions>,
    pub secrets: Option<Vec<SecretOptions>>,
    #[napi(ts_type = "'block' | 'block-and-log' | 'block-and-terminate'")]
    pub secret_violation: Option<String>,
    pub patches: Option<Vec<PatchOptions>>,
    pub on_close: Ending,
}

/// Where the root file system comes from.
#[napi(discriminant = "_tag", object_to_js = false)]
pub enum ImageOptions {
    /// A reference, or a path by the engine's own rule: a disk by its extension, or else a directory.
    Text {
        text: String,
    },
    Oci {
        reference: String,
    },
    Directory {
        path: String,
        follow_root_symlinks: bool,
    },
    Disk {
        path: String,
        #[napi(ts_type = "'raw' | 'qcow2' | 'vmdk'")]
        format: String,
        fstype: Option<String>,
    },
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self::Text { text: String::new() }
    }
}

/// The writable layer over an image.
#[napi(discriminant = "_tag", object_to_js = false)]
pub enum RootDiskOptions {
    Managed {
        size_mib: Option<u32>,
    },
    Tmpfs {
        size_mib: Option<u32>,
    },
    Flat {
        size_mib: Option<u32>,
        #[napi(ts_type = "'auto' | 'copy' | 'reflink'")]
        clone_strategy: Option<String>,
        fstype: Option<String>,
    },
    Disk {
        path: String,
        #[napi(ts_type = "'raw' | 'qcow2'")]
        format: String,
        fstype: Option<String>,
    },
}

/// The guest's first process.
#[napi(object, object_to_js = false)]
pub struct InitOptions {
    pub command: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
}

/// A port of the host that leads to one of the guest.
#[napi(object, object_to_js = false)]
pub struct PortOptions {
    /// An address of the host.
    pub bind: String,
    pub host: u16,
    pub guest: u16,
    pub udp: bool,
}

/// Something at a path of the guest.
#[napi(object, object_to_js = false)]
pub struct MountOptions {
    pub guest: String,
    pub source: MountSource,
    pub readonly: Option<bool>,
    pub noexec: Option<bool>,
    pub nosuid: Option<bool>,
    pub nodev: Option<bool>,
    #[napi(ts_type = "'strict' | 'relaxed' | 'off'")]
    pub stat_virtualization: Option<String>,
    #[napi(ts_type = "'private' | 'mirror'")]
    pub host_permissions: Option<String>,
    pub follow_root_symlinks: Option<bool>,
    pub owner: Option<OwnerOptions>,
}

/// The guest's owner of files that the host made.
#[napi(object, object_to_js = false)]
pub struct OwnerOptions {
    pub uid: u32,
    pub gid: u32,
}

/// What is mounted.
#[napi(discriminant = "_tag", object_to_js = false)]
pub enum MountSource {
    Bind {
        path: String,
        quota_mib: Option<u32>,
    },
    /// A disk when it has a size, or else a directory.
    Owned {
        size_mib: Option<u32>,
        quota_mib: Option<u32>,
    },
    /// When it is made, it is a disk if it has a size, or else a directory.
    Named {
        name: String,
        #[napi(ts_type = "'existing' | 'create' | 'ensure-exists'")]
        mode: String,
        size_mib: Option<u32>,
        quota_mib: Option<u32>,
        labels: BTreeMap<String, String>,
    },
    Tmpfs {
        size_mib: Option<u32>,
    },
    Disk {
        path: String,
        #[napi(ts_type = "'raw' | 'qcow2' | 'vmdk'")]
        format: Option<String>,
        fstype: Option<String>,
    },
}

/// A socket of the host that the guest reaches by a vsock port.
#[napi(object, object_to_js = false)]
pub struct VsockOptions {
    pub path: String,
    pub port: u32,
    pub datagram: bool,
}

/// A limit of every process in the guest; infinity is none.
#[napi(object, object_to_js = false)]
pub struct RlimitOptions {
    pub resource: String,
    pub soft: f64,
    pub hard: f64,
}

impl RlimitOptions {
    pub(crate) fn units(&self) -> (u64, u64) {
        (units(self.soft), units(self.hard))
    }
}

/// How to talk to a registry. Not `Debug`: it holds a password.
#[napi(object, object_to_js = false)]
pub struct RegistryOptions {
    pub auth: Option<AuthOptions>,
    pub insecure: bool,
    pub ca_certs: Option<Buffer>,
}

impl RegistryOptions {
    /// For a pull that is for itself.
    pub(crate) fn overrides_with_auth(&self) -> RegistryOverrides {
        RegistryOverrides { auth: self.auth.as_ref().map(AuthOptions::basic), ..self.overrides() }
    }

    /// For the pull of a sandbox. Who asks is in the configuration that the pull is for.
    pub(crate) fn overrides(&self) -> RegistryOverrides {
        RegistryOverrides {
            auth: None,
            insecure: self.insecure,
            ca_certs: self.ca_certs.iter().map(|certs| certs.to_vec()).collect(),
        }
    }
}

/// Who asks a registry. Not `Debug`: it holds a password.
#[napi(object, object_to_js = false)]
pub struct AuthOptions {
    pub username: String,
    pub password: String,
}

impl AuthOptions {
    fn basic(&self) -> RegistryAuth {
        RegistryAuth::Basic { username: self.username.clone(), password: self.password.clone() }
    }
}

/// How the sandbox that has the name is ended first.
#[napi(object, object_to_js = false)]
pub struct ReplaceOptions {
    pub timeout_ms: Option<f64>,
}

impl ImageOptions {
    /// What an error names.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text { text } => text,
            Self::Oci { reference } => reference,
            Self::Directory { path, .. } | Self::Disk { path, .. } => path,
        }
    }

    /// Where it is on this machine, when it is.
    pub(crate) fn local_path(&self) -> Option<&Path> {
        match self {
            Self::Text { text } => local_path(text),
            Self::Oci { .. } => None,
            Self::Directory { path, .. } | Self::Disk { path, .. } => Some(Path::new(path)),
        }
    }
}

impl IntoImage for &ImageOptions {
    fn into_rootfs_source(self) -> MicrosandboxResult<RootfsSource> {
        match self {
            ImageOptions::Text { text } => match local_path(text) {
                Some(path) => absolute(path)?.into_rootfs_source(),
                None => Ok(RootfsSource::oci(text)),
            },
            ImageOptions::Oci { reference } => Ok(RootfsSource::oci(reference)),
            ImageOptions::Directory { path, follow_root_symlinks } => {
                Ok(RootfsSource::Bind { path: absolute(path)?, follow_root_symlinks: *follow_root_symlinks })
            }
            ImageOptions::Disk { path, format, fstype } => Ok(RootfsSource::DiskImage {
                path: absolute(path)?,
                format: disk_format(format)?,
                fstype: fstype.clone(),
            }),
        }
    }
}

/// The engine's own rule for telling a path from an image reference.
fn local_path(text: &str) -> Option<&Path> {
    let local = matches!(text, "." | "..") || ["/", "./", "../"].iter().any(|prefix| text.starts_with(prefix));
    local.then(|| Path::new(text))
}

/// The engine stores paths as they are, and a later start may come from another working directory. Its walk to a path
/// takes no `..`, which goes as it does in Node: by the text.
pub(crate) fn absolute(path: impl AsRef<Path>) -> MicrosandboxResult<PathBuf> {
    let mut whole = PathBuf::new();
    for part in std::path::absolute(path)?.components() {
        if part == Component::ParentDir {
            whole.pop();
        } else {
            whole.push(part);
        }
    }
    Ok(whole)
}

fn mib(size: u32) -> Mebibytes {
    size.into()
}

/// Gives the builder what was given; what was not stays as it is.
pub(crate) trait Given: Sized {
    fn given<T>(self, value: Option<T>, apply: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => apply(self, value),
            None => self,
        }
    }

    fn when(self, flag: Option<bool>, apply: impl FnOnce(Self) -> Self) -> Self {
        if flag == Some(true) { apply(self) } else { self }
    }
}

impl Given for SandboxBuilder {}
impl Given for MountBuilder {}
impl Given for RootDiskBuilder {}
impl Given for OwnedVolumeBuilder {}

/// What must be on this machine before anything is started. The engine would say some of it without the option's name, and
/// leave the rest to a VM that fails to boot.
pub(crate) fn check_host(options: &SandboxOptions, local: &LocalBackend) -> Result<(), Failure> {
    if let Some(root) = options.image.local_path()
        && !root.exists()
    {
        return Err(Failure::rootfs_not_found(options.image.text()));
    }
    if let Some(RootDiskOptions::Disk { path, .. }) = &options.root_disk {
        check_exists("rootDisk.disk", path)?;
    }
    for mount in options.mounts.iter().flatten() {
        match &mount.source {
            MountSource::Bind { path, .. } => check_exists(&format!("mounts.{}.bind", mount.guest), path)?,
            MountSource::Disk { path, .. } => check_exists(&format!("mounts.{}.disk", mount.guest), path)?,
            _ => {}
        }
    }
    network::check_host(options.network.as_ref(), options.secrets.as_deref().unwrap_or_default())?;
    patches::check_host(options.patches.as_deref().unwrap_or_default())?;
    match &options.placement_profile {
        Some(name) if !local.config().runtime.placement_profiles.contains_key(name) => {
            Err(mistake("placementProfile", "is not one of the backend's runtime.placement_profiles"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn check_exists(field: &str, path: &str) -> Result<(), Failure> {
    if Path::new(path).exists() { Ok(()) } else { Err(mistake(field, &format!("there is no {path:?}"))) }
}

pub(crate) fn mistake(field: &str, why: &str) -> Failure {
    Failure::InvalidConfig { message: format!("{field}: {why}"), field: Some(field.to_owned()) }
}

/// Must run inside the backend's scope: a builder takes its defaults from it.
pub(crate) fn build(options: &SandboxOptions, creation: &str) -> MicrosandboxResult<SandboxBuilder> {
    let builder = Sandbox::builder(&options.name).image(&options.image);
    let builder = resources(builder, options)?;
    let builder = guest(builder, options)?;
    let builder = connections(builder, options)?;
    let builder = storage(builder, options)?;
    let builder = patches::apply(builder, options.patches.as_deref().unwrap_or_default())?;
    let builder = lifecycle(builder, options)?;
    Ok(builder.label(CREATION_LABEL, creation).detached(options.on_close == Ending::Detach))
}

/// The ceilings come after what they are above: the builder raises a ceiling that is not there yet.
fn resources(builder: SandboxBuilder, options: &SandboxOptions) -> MicrosandboxResult<SandboxBuilder> {
    let placement = options.cpu_placement.as_deref().map(cpu_placement).transpose()?;
    let huge_pages = options.transparent_huge_pages.as_deref().map(huge_pages).transpose()?;
    Ok(builder
        .given(options.cpus, SandboxBuilder::cpus)
        .given(options.max_cpus, SandboxBuilder::max_cpus)
        .given(options.memory_mib, SandboxBuilder::memory)
        .given(options.max_memory_mib, SandboxBuilder::max_memory)
        .given(placement, SandboxBuilder::cpu_placement)
        .given(options.placement_profile.as_deref(), SandboxBuilder::placement_profile)
        .given(huge_pages, SandboxBuilder::thp))
}

fn guest(builder: SandboxBuilder, options: &SandboxOptions) -> MicrosandboxResult<SandboxBuilder> {
    let security = options.security.as_deref().map(security).transpose()?;
    let mut builder = builder
        .given(options.env.clone(), SandboxBuilder::envs)
        .given(options.labels.clone(), SandboxBuilder::labels)
        .given(options.workdir.as_deref(), SandboxBuilder::workdir)
        .given(options.shell.as_deref(), SandboxBuilder::shell)
        .given(options.user.as_deref(), SandboxBuilder::user)
        .given(options.hostname.as_deref(), SandboxBuilder::hostname)
        .given(options.scripts.clone(), SandboxBuilder::scripts)
        .given(options.entrypoint.as_deref(), |builder, words| builder.entrypoint(words.iter().map(String::as_str)))
        .given(options.cmd.as_deref(), |builder, words| builder.cmd(words.iter().map(String::as_str)))
        .given(options.init.as_ref(), |builder, init| {
            builder.init_with(&init.command, |with| with.args(init.args.clone()).envs(init.env.clone()))
        })
        .given(security, SandboxBuilder::security);
    for limit in options.rlimits.iter().flatten() {
        let (soft, hard) = limit.units();
        builder = builder.rlimit_range(resource(&limit.resource)?, soft, hard);
    }
    Ok(builder)
}

/// TypeScript lets whole numbers through, and infinity, which the kernel spells as the greatest number.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn units(limit: f64) -> u64 {
    limit as u64
}

fn connections(mut builder: SandboxBuilder, options: &SandboxOptions) -> MicrosandboxResult<SandboxBuilder> {
    for port in options.ports.iter().flatten() {
        let bind = parse(&port.bind, "address")?;
        builder = if port.udp {
            builder.port_udp_bind(bind, port.host, port.guest)
        } else {
            builder.port_bind(bind, port.host, port.guest)
        };
    }
    for route in options.vsock.iter().flatten() {
        builder = if route.datagram {
            builder.vsock_dgram(&route.path, route.port)
        } else {
            builder.vsock(&route.path, route.port)
        };
    }
    if let Some(options) = &options.network {
        builder = network::apply(builder, options)?;
    }
    let secrets = options.secrets.as_deref().unwrap_or_default();
    let builder = network::secrets(builder, secrets, options.secret_violation.as_deref())?;
    Ok(builder.when(options.without_network, SandboxBuilder::disable_network))
}

fn storage(mut builder: SandboxBuilder, options: &SandboxOptions) -> MicrosandboxResult<SandboxBuilder> {
    if let Some(disk) = &options.root_disk {
        let configure = root_disk(disk)?;
        builder = builder.root_disk_with(configure);
    }
    for mount in options.mounts.iter().flatten() {
        let configure = volume(mount)?;
        builder = builder.volume(&mount.guest, configure);
    }
    Ok(builder)
}

fn root_disk(options: &RootDiskOptions) -> MicrosandboxResult<impl FnOnce(RootDiskBuilder) -> RootDiskBuilder> {
    let format = match options {
        RootDiskOptions::Disk { format, .. } => Some(disk_format(format)?),
        _ => None,
    };
    let clone = match options {
        RootDiskOptions::Flat { clone_strategy: Some(strategy), .. } => Some(flat_clone(strategy)?),
        _ => None,
    };
    let path = match options {
        RootDiskOptions::Disk { path, .. } => Some(absolute(path)?),
        _ => None,
    };
    Ok(move |disk: RootDiskBuilder| match options {
        RootDiskOptions::Managed { size_mib } => disk.given(size_mib.map(mib), RootDiskBuilder::size),
        RootDiskOptions::Tmpfs { size_mib } => disk.tmpfs().given(size_mib.map(mib), RootDiskBuilder::size),
        RootDiskOptions::Flat { size_mib, fstype, .. } => disk
            .flat()
            .given(size_mib.map(mib), RootDiskBuilder::size)
            .given(clone, RootDiskBuilder::clone_strategy)
            .given(fstype.as_deref(), RootDiskBuilder::fstype),
        RootDiskOptions::Disk { fstype, .. } => disk
            .given(path, RootDiskBuilder::disk_image)
            .given(format, RootDiskBuilder::format)
            .given(fstype.as_deref(), RootDiskBuilder::fstype),
    })
}

fn volume(options: &MountOptions) -> MicrosandboxResult<impl FnOnce(MountBuilder) -> MountBuilder> {
    let stat = options.stat_virtualization.as_deref().map(stat_virtualization).transpose()?;
    let permissions = options.host_permissions.as_deref().map(host_permissions).transpose()?;
    let source = source(&options.source)?;
    Ok(move |mount: MountBuilder| {
        source(mount)
            .when(options.readonly, MountBuilder::readonly)
            .when(options.noexec, MountBuilder::noexec)
            .when(options.nosuid, MountBuilder::nosuid)
            .when(options.nodev, MountBuilder::nodev)
            .given(stat, MountBuilder::stat_virtualization)
            .given(permissions, MountBuilder::host_permissions)
            .given(options.follow_root_symlinks, MountBuilder::follow_root_symlinks)
            .given(options.owner.as_ref(), |mount, owner| mount.owner(owner.uid, owner.gid))
    })
}

type Configure<'a> = Box<dyn FnOnce(MountBuilder) -> MountBuilder + 'a>;

fn source(source: &MountSource) -> MicrosandboxResult<Configure<'_>> {
    Ok(match source {
        MountSource::Bind { path, quota_mib } => {
            let path = absolute(path)?;
            Box::new(move |mount| mount.bind(path).given(quota_mib.map(mib), MountBuilder::quota))
        }
        MountSource::Owned { size_mib, quota_mib } => Box::new(move |mount| {
            mount.owned_with(|owned| {
                owned
                    .given(size_mib.map(mib), |owned, size| owned.disk().size(size))
                    .given(quota_mib.map(mib), OwnedVolumeBuilder::quota)
            })
        }),
        MountSource::Named { name, mode, size_mib, quota_mib, labels } => {
            let mode = volume_mode(mode)?;
            Box::new(move |mount| {
                mount.named_with(name, |volume| {
                    let mut volume = match mode {
                        VolumeMode::Existing => volume.existing(),
                        VolumeMode::Create => volume.create(),
                        VolumeMode::EnsureExists => volume.ensure_exists(),
                    };
                    if let Some(size) = size_mib {
                        volume = volume.disk().size(*size);
                    }
                    if let Some(quota) = quota_mib {
                        volume = volume.quota(*quota);
                    }
                    labels.iter().fold(volume, |volume, (key, value)| volume.label(key, value))
                })
            })
        }
        MountSource::Tmpfs { size_mib } => {
            Box::new(move |mount| mount.tmpfs().given(size_mib.map(mib), MountBuilder::size))
        }
        MountSource::Disk { path, format, fstype } => {
            let path = absolute(path)?;
            let format = format.as_deref().map(disk_format).transpose()?;
            Box::new(move |mount| {
                mount.disk(path).given(format, MountBuilder::format).given(fstype.as_deref(), MountBuilder::fstype)
            })
        }
    })
}

fn lifecycle(builder: SandboxBuilder, options: &SandboxOptions) -> MicrosandboxResult<SandboxBuilder> {
    let policy = options.pull_policy.as_deref().map(pull_policy).transpose()?;
    let profile = options.deployment_profile.as_deref().map(deployment_profile).transpose()?;
    let builder = match options.log_level.as_deref() {
        Some("quiet") => builder.quiet_logs(),
        Some(level) => builder.log_level(log_level(level)?),
        None => builder,
    };
    Ok(builder
        .given(policy, SandboxBuilder::pull_policy)
        .given(options.registry.as_ref(), registry)
        .given(options.metrics_interval_ms, |builder, interval| match interval {
            0 => builder.disable_metrics_sample(),
            _ => builder.metrics_sample_interval(Duration::from_millis(interval.into())),
        })
        .given(profile, SandboxBuilder::deployment_profile)
        .given(options.max_duration_secs.map(u64::from), SandboxBuilder::max_duration)
        .given(options.idle_timeout_secs.map(u64::from), SandboxBuilder::idle_timeout)
        .given(options.ephemeral, SandboxBuilder::ephemeral)
        .given(options.replace.as_ref(), |builder, replace| match replace.timeout_ms {
            Some(timeout) => {
                builder.replace_with_timeout(Duration::try_from_secs_f64(timeout / 1000.0).unwrap_or_default())
            }
            None => builder.replace(),
        }))
}

fn registry(builder: SandboxBuilder, options: &RegistryOptions) -> SandboxBuilder {
    builder.registry(|mut registry| {
        if let Some(auth) = &options.auth {
            registry = registry.auth(auth.basic());
        }
        if options.insecure {
            registry = registry.insecure();
        }
        match &options.ca_certs {
            Some(certs) => registry.ca_certs(certs.to_vec()),
            None => registry,
        }
    })
}

pub(crate) fn invalid(message: String) -> MicrosandboxError {
    MicrosandboxError::InvalidConfig(message)
}

pub(crate) fn parse<T: std::str::FromStr>(text: &str, what: &str) -> MicrosandboxResult<T> {
    text.parse().map_err(|_| invalid(format!("{what} {text:?}")))
}

pub(crate) enum VolumeMode {
    Existing,
    Create,
    EnsureExists,
}

/// The words of the border, each with the engine's value.
macro_rules! words {
    ($($function:ident: $what:literal => $type:ty { $($word:literal => $value:expr),+ $(,)? })+) => {$(
        pub(crate) fn $function(word: &str) -> microsandbox::MicrosandboxResult<$type> {
            match word {
                $($word => Ok($value),)+
                _ => Err($crate::options::invalid(format!("{} {word:?}", $what))),
            }
        }
    )+};
}

pub(crate) use words;

words! {
    cpu_placement: "CPU placement" => CpuPlacement {
        "inherit" => CpuPlacement::Inherit,
        "auto" => CpuPlacement::Auto,
        "spread" => CpuPlacement::Spread,
        "compact" => CpuPlacement::Compact,
    }
    huge_pages: "huge page policy" => TransparentHugePagePolicy {
        "always" => TransparentHugePagePolicy::Always,
        "madvise" => TransparentHugePagePolicy::Madvise,
        "never" => TransparentHugePagePolicy::Never,
    }
    pull_policy: "pull policy" => PullPolicy {
        "always" => PullPolicy::Always,
        "if-missing" => PullPolicy::IfMissing,
        "never" => PullPolicy::Never,
    }
    log_level: "log level" => LogLevel {
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
    }
    security: "security profile" => SecurityProfile {
        "default" => SecurityProfile::Default,
        "restricted" => SecurityProfile::Restricted,
    }
    deployment_profile: "deployment profile" => DeploymentProfile {
        "single-tenant" => DeploymentProfile::SingleTenant,
        "multi-tenant" => DeploymentProfile::MultiTenant,
    }
    disk_format: "disk format" => DiskImageFormat {
        "raw" => DiskImageFormat::Raw,
        "qcow2" => DiskImageFormat::Qcow2,
        "vmdk" => DiskImageFormat::Vmdk,
    }
    flat_clone: "clone strategy" => FlatClone {
        "auto" => FlatClone::Auto,
        "copy" => FlatClone::Copy,
        "reflink" => FlatClone::Reflink,
    }
    stat_virtualization: "stat virtualization" => StatVirtualization {
        "strict" => StatVirtualization::Strict,
        "relaxed" => StatVirtualization::Relaxed,
        "off" => StatVirtualization::Off,
    }
    host_permissions: "host permissions" => HostPermissions {
        "private" => HostPermissions::Private,
        "mirror" => HostPermissions::Mirror,
    }
    volume_mode: "volume mode" => VolumeMode {
        "existing" => VolumeMode::Existing,
        "create" => VolumeMode::Create,
        "ensure-exists" => VolumeMode::EnsureExists,
    }
    resource: "resource" => RlimitResource {
        "cpu" => RlimitResource::Cpu,
        "fsize" => RlimitResource::Fsize,
        "data" => RlimitResource::Data,
        "stack" => RlimitResource::Stack,
        "core" => RlimitResource::Core,
        "rss" => RlimitResource::Rss,
        "nproc" => RlimitResource::Nproc,
        "nofile" => RlimitResource::Nofile,
        "memlock" => RlimitResource::Memlock,
        "as" => RlimitResource::As,
        "locks" => RlimitResource::Locks,
        "sigpending" => RlimitResource::Sigpending,
        "msgqueue" => RlimitResource::Msgqueue,
        "nice" => RlimitResource::Nice,
        "rtprio" => RlimitResource::Rtprio,
        "rttime" => RlimitResource::Rttime,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use microsandbox::backend::{Backend, with_backend};
    use microsandbox::sandbox::{
        HostPattern, NamedVolumeMode, NetworkPolicy, NetworkProfile, NetworkSpec, OwnedVolumeStorage, Patch,
        PortProtocol, RootDisk, SandboxConfig, SecretSource, SecretViolationAction, VolumeMount, VsockSocketType,
    };
    use microsandbox_image::ext4::{Ext4FormatOptions, format_ext4};

    use super::*;
    use crate::network::{
        BucketOptions, DestinationOptions, DnsOptions, InterceptCaOptions, InterfaceOptions, PolicyOptions,
        PortRangeOptions, ProxyOptions, RateLimitOptions, RuleOptions, TlsOptions,
    };

    fn in_backend<T>(work: impl FnOnce(&Path) -> MicrosandboxResult<T>) -> MicrosandboxResult<T> {
        let home = std::env::temp_dir().join(format!("options-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&home).expect("a home");
        let local: Arc<dyn Backend> = LocalBackend::builder().home(&home).try_build_lazy().expect("a backend").into();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let done = runtime.block_on(with_backend(local, async { work(&home) }));
        std::fs::remove_dir_all(&home).expect("removed");
        done
    }

    /// What the engine would store.
    fn config(options: &SandboxOptions) -> MicrosandboxResult<SandboxConfig> {
        in_backend(|_| {
            let builder = build(options, "this")?;
            futures_util::FutureExt::now_or_never(builder.build()).expect("no wait")
        })
    }

    fn options(name: &str, change: impl FnOnce(&mut SandboxOptions)) -> SandboxOptions {
        let image = ImageOptions::Text { text: "alpine".into() };
        let mut options = SandboxOptions { name: name.into(), image, ..Default::default() };
        change(&mut options);
        options
    }

    fn built(change: impl FnOnce(&mut SandboxOptions)) -> SandboxConfig {
        config(&options("a", change)).expect("a config")
    }

    fn owned<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> BTreeMap<String, String> {
        pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
    }

    fn at(guest: &str, source: MountSource) -> MountOptions {
        MountOptions {
            guest: guest.into(),
            source,
            readonly: None,
            noexec: None,
            nosuid: None,
            nodev: None,
            stat_virtualization: None,
            host_permissions: None,
            follow_root_symlinks: None,
            owner: None,
        }
    }

    #[test]
    fn what_is_not_given_is_as_the_engine_has_it() {
        let given = built(|_| {}).spec;
        let engine = in_backend(|_| {
            let builder = Sandbox::builder("a").image("alpine").label(CREATION_LABEL, "this");
            futures_util::FutureExt::now_or_never(builder.build()).expect("no wait")
        });
        assert_eq!(format!("{given:?}"), format!("{:?}", engine.expect("a config").spec));
    }

    #[test]
    fn an_image_is_a_reference_a_directory_or_a_disk() {
        let here = std::env::current_dir().expect("a directory");
        let bind = |path: PathBuf, follow_root_symlinks| RootfsSource::Bind { path, follow_root_symlinks };
        let text = |text: &str| ImageOptions::Text { text: text.into() };
        for (image, expected) in [
            (text("alpine:3.22"), RootfsSource::oci("alpine:3.22")),
            (text(".hidden"), RootfsSource::oci(".hidden")),
            (text("./root"), bind(here.join("root"), false)),
            (text("/root"), bind("/root".into(), false)),
            (text("/a/../../b/./c"), bind("/b/c".into(), false)),
            (text("."), bind(here.clone(), false)),
            (
                text("/disk.qcow2"),
                RootfsSource::DiskImage { path: "/disk.qcow2".into(), format: DiskImageFormat::Qcow2, fstype: None },
            ),
            (ImageOptions::Oci { reference: "a/b".into() }, RootfsSource::oci("a/b")),
            (
                ImageOptions::Directory { path: "root.raw".into(), follow_root_symlinks: true },
                bind(here.join("root.raw"), true),
            ),
            (
                ImageOptions::Disk { path: "/disk".into(), format: "vmdk".into(), fstype: Some("ext4".into()) },
                RootfsSource::DiskImage {
                    path: "/disk".into(),
                    format: DiskImageFormat::Vmdk,
                    fstype: Some("ext4".into()),
                },
            ),
        ] {
            let label = image.text().to_owned();
            let image = built(|options| options.image = image).spec.image;
            assert_eq!(format!("{image:?}"), format!("{expected:?}"), "{label}");
        }
    }

    #[test]
    fn a_root_disk_is_of_its_kind() {
        let size_mib = Some(100);
        for (disk, expected) in [
            (RootDiskOptions::Managed { size_mib }, RootDisk::Managed { size_mib }),
            (RootDiskOptions::Managed { size_mib: None }, RootDisk::Managed { size_mib: None }),
            (RootDiskOptions::Tmpfs { size_mib }, RootDisk::Tmpfs { size_mib }),
            (
                RootDiskOptions::Flat { size_mib, clone_strategy: Some("copy".into()), fstype: Some("ext4".into()) },
                RootDisk::Flat { size_mib, fstype: Some("ext4".into()), clone: FlatClone::Copy },
            ),
            (
                RootDiskOptions::Flat { size_mib: None, clone_strategy: None, fstype: None },
                RootDisk::Flat { size_mib: None, fstype: None, clone: FlatClone::Auto },
            ),
            (
                RootDiskOptions::Disk { path: "/a.img".into(), format: "raw".into(), fstype: Some("xfs".into()) },
                RootDisk::DiskImage { path: "/a.img".into(), format: DiskImageFormat::Raw, fstype: Some("xfs".into()) },
            ),
        ] {
            let spec = built(|options| options.root_disk = Some(disk)).spec;
            assert_eq!(spec.image.oci_root_disk(), Some(&expected));
        }
    }

    #[test]
    fn resources_and_what_the_guest_has_are_stored() {
        let spec = built(|options| {
            (options.cpus, options.max_cpus) = (Some(2), Some(4));
            (options.memory_mib, options.max_memory_mib) = (Some(100), Some(200));
            options.cpu_placement = Some("compact".into());
            options.transparent_huge_pages = Some("never".into());
            options.env = Some(owned([("A", "b")]));
            options.labels = Some(owned([("team", "infra")]));
            options.workdir = Some("/srv".into());
            options.shell = Some("/bin/ash".into());
            options.user = Some("nobody".into());
            options.hostname = Some("h".into());
            options.scripts = Some(owned([("run", "true")]));
            options.entrypoint = Some(vec!["/bin/a".into()]);
            options.cmd = Some(vec![]);
            options.init =
                Some(InitOptions { command: "auto".into(), args: vec!["x".into()], env: owned([("B", "c")]) });
            let limit = |resource: &str, soft, hard| RlimitOptions { resource: resource.into(), soft, hard };
            options.rlimits = Some(vec![limit("nofile", 10.0, 20.0), limit("as", f64::INFINITY, f64::INFINITY)]);
            options.security = Some("restricted".into());
            options.pull_policy = Some("never".into());
        })
        .spec;
        let resources = &spec.resources;
        assert_eq!((resources.cpus, resources.max_cpus), (2, 4));
        assert_eq!((resources.memory_mib, resources.max_memory_mib), (100, 200));
        assert_eq!(resources.cpu_placement, CpuPlacement::Compact);
        assert_eq!(resources.thp, TransparentHugePagePolicy::Never);
        assert_eq!(spec.env.iter().map(|var| (&*var.key, &*var.value)).collect::<Vec<_>>(), [("A", "b")]);
        assert_eq!(spec.labels, owned([("team", "infra"), (CREATION_LABEL, "this")]));
        let runtime = &spec.runtime;
        assert_eq!(runtime.workdir.as_deref(), Some("/srv"));
        assert_eq!(runtime.shell.as_deref(), Some("/bin/ash"));
        assert_eq!(runtime.user.as_deref(), Some("nobody"));
        assert_eq!(runtime.hostname.as_deref(), Some("h"));
        assert_eq!(runtime.scripts, owned([("run", "true")]));
        assert_eq!(runtime.entrypoint.as_deref(), Some(&["/bin/a".to_owned()][..]));
        assert_eq!(runtime.cmd.as_deref(), Some(&[][..]));
        let init = spec.init.expect("an init");
        assert_eq!((&*init.cmd, init.args, init.env), ("auto", vec!["x".into()], vec![("B".into(), "c".into())]));
        let limits: Vec<_> = spec.rlimits.iter().map(|limit| (limit.resource, limit.soft, limit.hard)).collect();
        assert_eq!(limits, [(RlimitResource::Nofile, 10, 20), (RlimitResource::As, u64::MAX, u64::MAX)]);
        assert_eq!(spec.security_profile, SecurityProfile::Restricted);
        assert_eq!(spec.pull_policy, PullPolicy::Never);
    }

    #[test]
    fn ports_sockets_and_the_interface_are_stored() {
        let port = |bind: &str, host, udp| PortOptions { bind: bind.into(), host, guest: 80, udp };
        let spec = built(|options| {
            options.ports = Some(vec![port("127.0.0.2", 1, false), port("::1", 2, true)]);
            let socket = |path: &str, port, datagram| VsockOptions { path: path.into(), port, datagram };
            options.vsock = Some(vec![socket("/a", 1, false), socket("/b", 2, true)]);
            let interface = InterfaceOptions {
                mac: Some(vec![2, 0, 0, 0, 0, 1]),
                mtu: Some(1400),
                ipv4: Some("10.0.0.2".into()),
                ipv4_pool: None,
                ipv6: None,
                ipv6_pool: Some("fd00::/48".into()),
            };
            options.network = Some(NetworkOptions { interface: Some(interface), ..Default::default() });
        })
        .spec;
        let ports: Vec<_> = spec
            .network
            .ports
            .iter()
            .map(|port| (&*port.host_bind, port.host_port, port.guest_port, port.protocol))
            .collect();
        assert_eq!(ports, [("127.0.0.2", 1, 80, PortProtocol::Tcp), ("::1", 2, 80, PortProtocol::Udp)]);
        let routes: Vec<_> = spec.vsock.routes.iter().map(|route| (route.port, route.socket_type)).collect();
        assert_eq!(routes, [(1, VsockSocketType::Stream), (2, VsockSocketType::Dgram)]);
        let interface = spec.network.interface.expect("overrides");
        assert_eq!((interface.mac, interface.mtu), (Some([2, 0, 0, 0, 0, 1]), Some(1400)));
        assert_eq!(interface.ipv4_address, Some([10, 0, 0, 2].into()));
        assert_eq!(interface.ipv6_pool.map(|pool| pool.to_string()).as_deref(), Some("fd00::/48"));
        assert!(spec.network.enabled);
        assert!(!built(|options| options.without_network = Some(true)).spec.network.enabled);
    }

    #[test]
    fn a_pool_that_is_too_small_is_refused() {
        let refused = config(&options("a", |options| {
            let interface = InterfaceOptions {
                mac: None,
                mtu: None,
                ipv4: None,
                ipv4_pool: Some("10.0.0.0/x".into()),
                ipv6: None,
                ipv6_pool: None,
            };
            options.network = Some(NetworkOptions { interface: Some(interface), ..Default::default() });
        }));
        assert!(matches!(refused, Err(MicrosandboxError::InvalidConfig(_))));
    }

    fn rule(action: &str, kind: &str, value: &str) -> RuleOptions {
        RuleOptions {
            action: action.into(),
            direction: "egress".into(),
            destination: DestinationOptions { kind: kind.into(), value: value.into() },
            protocols: vec![],
            ports: vec![],
        }
    }

    fn policy(rules: Vec<RuleOptions>) -> MicrosandboxResult<NetworkPolicy> {
        network::policy(&PolicyOptions { default_egress: "deny".into(), default_ingress: "allow".into(), rules })
    }

    fn network_of(change: impl FnOnce(&mut SandboxOptions)) -> NetworkSpec {
        built(change).spec.network
    }

    /// The names of the policies are TypeScript's, their rules are the engine's.
    #[test]
    fn policies_with_a_name_are_the_engines() {
        let dns = || RuleOptions {
            protocols: vec!["udp".into(), "tcp".into()],
            ports: vec![PortRangeOptions { from: 53, to: 53 }],
            ..rule("allow", "group", "host")
        };
        let public = || rule("allow", "group", "public");
        for (rules, profiles) in [
            (vec![dns(), public()], &[NetworkProfile::Public][..]),
            (
                vec![dns(), public(), rule("allow", "group", "private")],
                &[NetworkProfile::Public, NetworkProfile::Private][..],
            ),
        ] {
            let stored = policy(rules).expect("a policy");
            let expected = NetworkPolicy::from_profiles(profiles.iter().copied());
            assert_eq!(format!("{stored:?}"), format!("{expected:?}"));
        }
    }

    #[test]
    fn rules_are_stored_and_wrong_ones_refused() {
        let rules = vec![
            rule("deny", "ip", "203.0.113.1"),
            rule("allow", "cidr", "fd00::/8"),
            rule("allow", "domain", "Example.com."),
            rule("deny", "domain-suffix", ".example.com"),
            RuleOptions { direction: "any".into(), ..rule("allow", "any", "") },
        ];
        let stored = policy(rules).expect("a policy").rules;
        let text: Vec<_> = stored.iter().map(|rule| format!("{:?} {:?}", rule.action, rule.destination)).collect();
        assert_eq!(text[2], "Allow Domain(DomainName(\"example.com\"))");
        assert_eq!(text[3], "Deny DomainSuffix(DomainName(\"example.com\"))");
        assert_eq!(text[4], "Allow Any");
        for (kind, value) in [
            ("ip", "203.0.113"),
            ("cidr", "10.0.0.0/33"),
            ("domain", "a b"),
            ("domain-suffix", "com"),
            ("group", "x"),
            ("x", ""),
        ] {
            let refused = policy(vec![rule("allow", kind, value)]);
            assert!(matches!(refused, Err(MicrosandboxError::InvalidConfig(_))), "{kind}");
        }
    }

    #[test]
    fn what_else_a_network_is_made_of_is_stored() {
        let stored = network_of(|options| {
            let bucket = |size, burst| BucketOptions { size, per_ms: 500, burst };
            options.network = Some(NetworkOptions {
                dns: Some(DnsOptions {
                    nameservers: Some(vec!["127.0.0.1:5353".into()]),
                    rebind_protection: Some(false),
                    query_timeout_ms: Some(100),
                }),
                tls: Some(TlsOptions {
                    ports: Some(vec![443, 8443]),
                    bypass: Some(vec!["*.bank.example".into()]),
                    verify_upstream: Some(false),
                    verify_upstream_for: Some(BTreeMap::from([("a.example".into(), true)])),
                    block_quic: Some(false),
                    upstream_ca_certs: Some(vec!["/ca.pem".into()]),
                    upstream_ca_certs_for: Some(BTreeMap::from([("b.example".into(), vec!["/b.pem".into()])])),
                    intercept_ca: Some(InterceptCaOptions { cert: "/own.pem".into(), key: "/own.key".into() }),
                }),
                proxy: Some(ProxyOptions::Socks4 { address: "127.0.0.1:1080".into(), user_id: Some("me".into()) }),
                egress_limit: Some(RateLimitOptions { bandwidth: Some(bucket(1024.0, Some(7.0))), packets: None }),
                ingress_limit: Some(RateLimitOptions { bandwidth: None, packets: Some(bucket(9.0, None)) }),
                max_tcp_connections: Some(5),
                max_udp_connections: Some(0),
                strict: Some(true),
                trust_host_cas: Some(true),
                ..Default::default()
            });
        });
        let dns = stored.dns.expect("names");
        assert_eq!((dns.rebind_protection, dns.query_timeout_ms), (false, 100));
        assert_eq!(dns.nameservers, ["127.0.0.1:5353"]);
        let tls = stored.tls.expect("TLS");
        assert!(tls.enabled && !tls.verify_upstream && !tls.block_quic_on_intercept);
        assert_eq!(
            (&tls.intercepted_ports[..], &tls.bypass[..]),
            (&[443, 8443][..], &["*.bank.example".to_owned()][..])
        );
        assert_eq!(tls.upstream_ca_cert, [PathBuf::from("/ca.pem")]);
        assert_eq!(tls.scoped_upstream_ca_cert[0].path, PathBuf::from("/b.pem"));
        assert!(tls.scoped_verify_upstream[0].verify);
        assert_eq!(tls.intercept_ca.key_path, Some("/own.key".into()));
        let proxy = format!("{:?}", stored.outbound_proxy.expect("a proxy"));
        assert_eq!(proxy, "Socks4 { address: \"127.0.0.1:1080\", user_id: Some(\"me\") }");
        let limits = stored.rate_limiter.expect("limits");
        let bandwidth = limits.egress.and_then(|limit| limit.bandwidth).expect("a bandwidth");
        assert_eq!((bandwidth.size, bandwidth.refill_time_ms, bandwidth.one_time_burst), (1024, 500, 7));
        assert_eq!(limits.ingress.and_then(|limit| limit.ops).expect("packets").size, 9);
        assert_eq!(stored.max_tcp_connections, Some(5));
        assert_eq!(stored.max_udp_connections, Some(0));
        assert!(stored.strict && stored.trust_host_cas);
    }

    fn secret(env: &str) -> SecretOptions {
        SecretOptions {
            env: env.into(),
            value: Some("sesame".into()),
            variable: None,
            hosts: vec!["a.example".into(), "*.b.example".into()],
            placeholder: None,
            in_headers: true,
            in_query: false,
            in_body: false,
            passthrough_hosts: vec![],
            on_violation: None,
            require_tls_identity: true,
        }
    }

    #[test]
    fn secrets_are_stored_and_shown_to_nobody() {
        let stored = network_of(|options| {
            options.secrets = Some(vec![
                secret("KEY"),
                SecretOptions {
                    value: None,
                    variable: Some("HOST_TOKEN".into()),
                    hosts: vec!["*".into()],
                    placeholder: Some("here".into()),
                    in_headers: false,
                    in_body: true,
                    passthrough_hosts: vec!["c.example".into()],
                    on_violation: Some("block-and-terminate".into()),
                    require_tls_identity: false,
                    ..secret("TOKEN")
                },
            ]);
            options.secret_violation = Some("block".into());
        });
        assert!(stored.tls.as_ref().is_some_and(|tls| tls.enabled));
        assert!(!format!("{stored:?}").contains("sesame"));
        let secrets = stored.secrets.expect("secrets");
        let [key, token] = &secrets.secrets[..] else { panic!("two") };
        assert_eq!((&*key.placeholder, &**key.value, &key.source), ("$MSB_KEY", "sesame", &None));
        assert_eq!(key.allowed_hosts, [HostPattern::parse("a.example"), HostPattern::parse("*.b.example")]);
        assert_eq!(token.source, Some(SecretSource::Env { var: "HOST_TOKEN".into() }));
        assert_eq!((&*token.placeholder, &**token.value), ("here", ""));
        assert_eq!(token.allowed_hosts, [HostPattern::Any]);
        assert_eq!((token.substitution.headers, token.substitution.body), (false, true));
        assert_eq!(token.violation_action, Some(SecretViolationAction::BlockAndTerminate));
        assert_eq!(secrets.violation_action, SecretViolationAction::Block);
        for wrong in [
            SecretOptions { value: None, ..secret("KEY") },
            SecretOptions { variable: Some("KEY".into()), ..secret("KEY") },
            SecretOptions { hosts: vec![], ..secret("KEY") },
        ] {
            let refused = config(&options("a", |options| options.secrets = Some(vec![wrong])));
            assert!(matches!(refused, Err(MicrosandboxError::InvalidConfig(_))));
        }
    }

    #[test]
    fn patches_are_stored_in_their_order() {
        let patches = built(|options| {
            let (path, content) = ("/a".to_owned(), "b".to_owned());
            options.patches = Some(vec![
                PatchOptions::Text { path: path.clone(), content: content.clone(), mode: Some(0o600), replace: true },
                PatchOptions::CopyDirectory { from: "/x/../c".into(), to: path.clone(), replace: false },
                PatchOptions::Symlink { target: "/t".into(), path: path.clone(), replace: false },
                PatchOptions::MakeDirectory { path: path.clone(), mode: None },
                PatchOptions::Remove { path: path.clone() },
                PatchOptions::Append { path, content },
            ]);
        })
        .spec
        .patches;
        assert_eq!(patches.len(), 6);
        assert!(matches!(&patches[0], Patch::Text { mode: Some(0o600), replace: true, .. }));
        assert!(matches!(&patches[1], Patch::CopyDir { src, .. } if src == Path::new("/c")));
        assert!(matches!(&patches[2], Patch::Symlink { target, link, .. } if target == "/t" && link == "/a"));
        assert!(matches!(&patches[5], Patch::Append { content, .. } if content == "b"));
    }

    #[test]
    fn mounts_are_of_their_kind_and_have_their_options() {
        let named = |name: &str, mode: &str, size_mib, quota_mib| MountSource::Named {
            name: name.into(),
            mode: mode.into(),
            size_mib,
            quota_mib,
            labels: owned([("a", "b")]),
        };
        let spec = built(|options| {
            options.mounts = Some(vec![
                MountOptions {
                    readonly: Some(true),
                    noexec: Some(true),
                    nosuid: Some(true),
                    nodev: Some(true),
                    stat_virtualization: Some("relaxed".into()),
                    host_permissions: Some("mirror".into()),
                    follow_root_symlinks: Some(true),
                    owner: Some(OwnerOptions { uid: 1, gid: 2 }),
                    ..at("/1", MountSource::Bind { path: "data".into(), quota_mib: Some(3) })
                },
                at("/2", named("old", "existing", None, None)),
                at("/3", named("new", "create", Some(100), None)),
                at("/4", named("any", "ensure-exists", None, Some(5))),
                at("/5", MountSource::Owned { size_mib: None, quota_mib: Some(6) }),
                at("/6", MountSource::Owned { size_mib: Some(100), quota_mib: None }),
                at("/7", MountSource::Tmpfs { size_mib: Some(8) }),
            ]);
        })
        .spec;
        let [bind, existing, create, ensure, directory, disk, tmpfs] = &spec.mounts[..] else { panic!("seven") };
        let VolumeMount::Bind {
            host,
            options,
            stat_virtualization,
            host_permissions,
            follow_root_symlinks,
            quota_mib,
            ..
        } = bind
        else {
            panic!("{bind:?}")
        };
        assert_eq!(*host, std::env::current_dir().expect("a directory").join("data"));
        assert!(options.readonly && options.noexec && options.nosuid && options.nodev && *follow_root_symlinks);
        assert_eq!((options.override_uid, options.override_gid, *quota_mib), (Some(1), Some(2), Some(3)));
        assert_eq!((*stat_virtualization, *host_permissions), (StatVirtualization::Relaxed, HostPermissions::Mirror));
        assert!(matches!(existing, VolumeMount::Named { name, create: None, .. } if name == "old"));
        let VolumeMount::Named { create: Some(create), .. } = create else { panic!("{create:?}") };
        assert_eq!(
            (create.mode(), create.capacity_mib(), create.quota_mib()),
            (NamedVolumeMode::Create, Some(100), None)
        );
        assert_eq!(create.labels(), [("a".to_owned(), "b".to_owned())]);
        let VolumeMount::Named { create: Some(ensure), .. } = ensure else { panic!("{ensure:?}") };
        assert_eq!(
            (ensure.mode(), ensure.capacity_mib(), ensure.quota_mib()),
            (NamedVolumeMode::EnsureExists, None, Some(5))
        );
        let storage = |mount: &VolumeMount| match mount {
            VolumeMount::Owned { storage, .. } => storage.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(storage(directory), OwnedVolumeStorage::Directory { quota_mib: Some(6) });
        assert_eq!(storage(disk), OwnedVolumeStorage::Disk { capacity_mib: 100 });
        assert!(matches!(tmpfs, VolumeMount::Tmpfs { size_mib: Some(8), .. }));
    }

    #[test]
    fn what_becomes_of_it_is_stored() {
        let config = built(|options| {
            options.log_level = Some("trace".into());
            options.metrics_interval_ms = Some(250);
            options.deployment_profile = Some("multi-tenant".into());
            (options.max_duration_secs, options.idle_timeout_secs) = (Some(10), Some(5));
            options.ephemeral = Some(true);
            options.replace = Some(ReplaceOptions { timeout_ms: Some(1500.0) });
            let auth = AuthOptions { username: "a".into(), password: "b".into() };
            options.registry = Some(RegistryOptions { auth: Some(auth), insecure: true, ca_certs: None });
        });
        let runtime = &config.spec.runtime;
        assert_eq!(runtime.log_level, Some(LogLevel::Trace));
        assert_eq!((runtime.metrics_sample_interval_ms, runtime.disable_metrics_sample), (Some(250), false));
        assert_eq!(config.spec.deployment_profile, DeploymentProfile::MultiTenant);
        let life = &config.spec.lifecycle;
        assert_eq!((life.max_duration_secs, life.idle_timeout_secs, life.ephemeral), (Some(10), Some(5), true));
        assert!(config.replace_existing);
        assert_eq!(config.replace_with_timeout, Duration::from_millis(1500));
        assert!(format!("{config:?}").contains("insecure: true"));
        assert!(matches!(config.registry_auth, Some(RegistryAuth::Basic { .. })));
        let quiet = built(|options| {
            options.log_level = Some("quiet".into());
            options.metrics_interval_ms = Some(0);
            options.replace = Some(ReplaceOptions { timeout_ms: None });
        });
        assert_eq!((quiet.spec.runtime.log_level, quiet.effective_metrics_interval()), (None, None));
        assert_eq!((quiet.replace_existing, quiet.replace_with_timeout), (true, Duration::from_secs(10)));
    }

    #[test]
    fn words_that_are_not_the_borders_are_refused() {
        let changes: [fn(&mut SandboxOptions); 8] = [
            |options| options.cpu_placement = Some("x".into()),
            |options| options.transparent_huge_pages = Some("x".into()),
            |options| options.pull_policy = Some("x".into()),
            |options| options.log_level = Some("x".into()),
            |options| options.security = Some("x".into()),
            |options| options.deployment_profile = Some("x".into()),
            |options| options.rlimits = Some(vec![RlimitOptions { resource: "x".into(), soft: 1.0, hard: 1.0 }]),
            |options| options.ports = Some(vec![PortOptions { bind: "x".into(), host: 1, guest: 1, udp: false }]),
        ];
        for change in changes {
            assert!(matches!(config(&options("a", change)), Err(MicrosandboxError::InvalidConfig(_))));
        }
    }

    /// `internal/inputs.ts` has the same number.
    #[test]
    fn the_smallest_disk_is_of_68_mebibytes() {
        in_backend(|home| {
            let format = |mebibytes: u64| {
                let size_bytes = mebibytes << 20;
                format_ext4(&home.join("disk"), &Ext4FormatOptions { size_bytes, ..Default::default() }).is_ok()
            };
            let smallest = (1..200).find(|mebibytes| format(*mebibytes));
            assert_eq!(smallest, Some(68));
            Ok(())
        })
        .expect("done");
    }
}
