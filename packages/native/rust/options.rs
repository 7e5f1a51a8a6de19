//! What a sandbox is made of: plain data from JavaScript, and its way into the engine's builder.
//!
//! TypeScript has checked the options by then. What is refused here is what only the engine can know.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use microsandbox::backend::default_backend;
use microsandbox::sandbox::{
    CpuPlacement, DeploymentProfile, DiskImageFormat, FlatClone, HostPermissions, IntoImage, MountBuilder,
    NetworkConfig, OwnedVolumeBuilder, PullPolicy, RlimitResource, RootDiskBuilder, RootfsSource, Sandbox,
    SandboxBuilder, SecurityProfile, StatVirtualization, TransparentHugePagePolicy,
};
use microsandbox::size::Mebibytes;
use microsandbox::{LogLevel, MicrosandboxError, MicrosandboxResult, RegistryAuth};
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;

use crate::owner::CREATION_LABEL;
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
    pub network_interface: Option<InterfaceOptions>,
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

/// How to talk to a registry. Not `Debug`: it holds a password.
#[napi(object, object_to_js = false)]
pub struct RegistryOptions {
    pub auth: Option<AuthOptions>,
    pub insecure: bool,
    pub ca_certs: Option<Buffer>,
}

impl RegistryOptions {
    /// For a pull of our own. Who asks is in the configuration that the pull is for.
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

/// How the sandbox that has the name is ended first.
#[napi(object, object_to_js = false)]
pub struct ReplaceOptions {
    pub timeout_ms: Option<f64>,
}

/// What the guest's network interface has instead of what the engine picks.
#[napi(object, object_to_js = false)]
pub struct InterfaceOptions {
    pub mac: Option<Vec<u8>>,
    pub mtu: Option<u16>,
    pub ipv4: Option<String>,
    pub ipv4_pool: Option<String>,
    pub ipv6: Option<String>,
    pub ipv6_pool: Option<String>,
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

/// The engine stores paths as they are, and a later start may come from another working directory.
fn absolute(path: impl AsRef<Path>) -> MicrosandboxResult<PathBuf> {
    Ok(std::path::absolute(path)?)
}

fn mib(size: u32) -> Mebibytes {
    size.into()
}

/// Gives the builder what was given; what was not stays as it is.
trait Given: Sized {
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

/// Must run inside the backend's scope: a builder takes its defaults from it.
pub(crate) fn build(options: &SandboxOptions, creation: &str) -> MicrosandboxResult<SandboxBuilder> {
    let builder = Sandbox::builder(&options.name).image(&options.image);
    let builder = resources(builder, options)?;
    let builder = guest(builder, options)?;
    let builder = network(builder, options)?;
    let builder = storage(builder, options)?;
    let builder = lifecycle(builder, options)?;
    Ok(builder.label(CREATION_LABEL, creation).detached(options.on_close == Ending::Detach))
}

/// The ceilings come after what they are above: the builder raises a ceiling that is not there yet.
fn resources(builder: SandboxBuilder, options: &SandboxOptions) -> MicrosandboxResult<SandboxBuilder> {
    let placement = options.cpu_placement.as_deref().map(cpu_placement).transpose()?;
    let huge_pages = options.transparent_huge_pages.as_deref().map(huge_pages).transpose()?;
    if let Some(name) = &options.placement_profile {
        check_placement_profile(name)?;
    }
    Ok(builder
        .given(options.cpus, SandboxBuilder::cpus)
        .given(options.max_cpus, SandboxBuilder::max_cpus)
        .given(options.memory_mib, SandboxBuilder::memory)
        .given(options.max_memory_mib, SandboxBuilder::max_memory)
        .given(placement, SandboxBuilder::cpu_placement)
        .given(options.placement_profile.as_deref(), SandboxBuilder::placement_profile)
        .given(huge_pages, SandboxBuilder::thp))
}

/// The engine leaves this to the VM process, which only fails to start.
fn check_placement_profile(name: &str) -> MicrosandboxResult<()> {
    match default_backend().as_local() {
        Some(local) if !local.config().runtime.placement_profiles.contains_key(name) => {
            Err(invalid(format!("placement profile {name:?} is not in the backend's runtime.placement_profiles")))
        }
        _ => Ok(()),
    }
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
        builder = builder.rlimit_range(resource(&limit.resource)?, units(limit.soft), units(limit.hard));
    }
    Ok(builder)
}

/// TypeScript lets whole numbers through, and infinity, which the kernel spells as the greatest number.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn units(limit: f64) -> u64 {
    limit as u64
}

fn network(mut builder: SandboxBuilder, options: &SandboxOptions) -> MicrosandboxResult<SandboxBuilder> {
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
    if let Some(interface) = &options.network_interface {
        builder = network_interface(builder, interface)?;
    }
    Ok(builder.when(options.without_network, SandboxBuilder::disable_network))
}

fn network_interface(builder: SandboxBuilder, options: &InterfaceOptions) -> MicrosandboxResult<SandboxBuilder> {
    // The type of the overrides has no public path in the engine's crate.
    let mut overrides = NetworkConfig::default().interface;
    if let Some(mac) = &options.mac {
        let mac = <[u8; 6]>::try_from(mac.as_slice());
        overrides.mac = Some(mac.map_err(|_| invalid("a MAC address has six bytes".to_owned()))?);
    }
    overrides.mtu = options.mtu;
    overrides.ipv4_address = options.ipv4.as_deref().map(|text| parse(text, "IPv4 address")).transpose()?;
    overrides.ipv4_pool = options.ipv4_pool.as_deref().map(|text| parse(text, "IPv4 pool")).transpose()?;
    overrides.ipv6_address = options.ipv6.as_deref().map(|text| parse(text, "IPv6 address")).transpose()?;
    overrides.ipv6_pool = options.ipv6_pool.as_deref().map(|text| parse(text, "IPv6 pool")).transpose()?;
    Ok(builder.network(|network| network.interface(overrides)))
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
        if let Some(AuthOptions { username, password }) = &options.auth {
            registry = registry.auth(RegistryAuth::Basic { username: username.clone(), password: password.clone() });
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

fn invalid(message: String) -> MicrosandboxError {
    MicrosandboxError::InvalidConfig(message)
}

fn parse<T: std::str::FromStr>(text: &str, what: &str) -> MicrosandboxResult<T> {
    text.parse().map_err(|_| invalid(format!("{what} {text:?}")))
}

enum VolumeMode {
    Existing,
    Create,
    EnsureExists,
}

/// The words of the border, each with the engine's value.
macro_rules! words {
    ($($function:ident: $what:literal => $type:ty { $($word:literal => $value:expr),+ $(,)? })+) => {$(
        pub(crate) fn $function(word: &str) -> MicrosandboxResult<$type> {
            match word {
                $($word => Ok($value),)+
                _ => Err(invalid(format!("{} {word:?}", $what))),
            }
        }
    )+};
}

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
