//! The configuration that the engine keeps of a sandbox, as data.

use std::collections::BTreeMap;

use microsandbox::sandbox::{RootfsSource, SandboxSpec, VolumeMount};
use napi_derive::napi;

use crate::owner::visible;

/// What a sandbox is made of, as the engine keeps it. Values of secrets are not part of it.
#[napi(object, object_from_js = false)]
pub struct SandboxConfig {
    pub image: String,
    pub cpus: u8,
    pub max_cpus: u8,
    pub memory_mib: u32,
    pub max_memory_mib: u32,
    pub env: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub workdir: Option<String>,
    pub shell: Option<String>,
    pub user: Option<String>,
    pub hostname: Option<String>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    /// By name.
    pub scripts: BTreeMap<String, String>,
    pub ports: Vec<PublishedPort>,
    pub mounts: Vec<MountedVolume>,
    pub rlimits: Vec<ResourceLimit>,
    pub pull_policy: String,
    pub security: String,
    pub log_level: Option<String>,
    pub network: bool,
    /// None: no samples are taken.
    pub metrics_interval_ms: Option<f64>,
    pub ephemeral: bool,
    pub max_duration_secs: Option<f64>,
    pub idle_timeout_secs: Option<f64>,
}

#[napi(object, object_from_js = false)]
pub struct PublishedPort {
    pub host: u16,
    pub guest: u16,
    pub protocol: String,
    pub bind: String,
}

#[napi(object, object_from_js = false)]
pub struct MountedVolume {
    pub guest: String,
    pub kind: String,
    /// The host path, or the name of the volume.
    pub source: Option<String>,
    pub readonly: bool,
}

#[napi(object, object_from_js = false)]
pub struct ResourceLimit {
    pub resource: String,
    pub soft: f64,
    pub hard: f64,
}

impl SandboxConfig {
    pub(crate) fn of(spec: SandboxSpec) -> Self {
        let sampled = !spec.runtime.disable_metrics_sample;
        Self {
            image: match spec.image {
                RootfsSource::Bind { path, .. } | RootfsSource::DiskImage { path, .. } => path.display().to_string(),
                RootfsSource::Oci(source) => source.reference,
            },
            cpus: spec.resources.cpus,
            max_cpus: spec.resources.max_cpus,
            memory_mib: spec.resources.memory_mib,
            max_memory_mib: spec.resources.max_memory_mib,
            env: spec.env.into_iter().map(|variable| (variable.key, variable.value)).collect(),
            labels: visible(spec.labels),
            workdir: spec.runtime.workdir,
            shell: spec.runtime.shell,
            user: spec.runtime.user,
            hostname: spec.runtime.hostname,
            entrypoint: spec.runtime.entrypoint,
            cmd: spec.runtime.cmd,
            scripts: spec.runtime.scripts,
            ports: spec
                .network
                .ports
                .into_iter()
                .map(|port| PublishedPort {
                    host: port.host_port,
                    guest: port.guest_port,
                    protocol: name(port.protocol),
                    bind: port.host_bind,
                })
                .collect(),
            mounts: spec.mounts.into_iter().map(MountedVolume::of).collect(),
            rlimits: spec
                .rlimits
                .into_iter()
                .map(|limit| ResourceLimit {
                    resource: name(limit.resource),
                    soft: number(limit.soft),
                    hard: number(limit.hard),
                })
                .collect(),
            pull_policy: name(spec.pull_policy),
            security: name(spec.security_profile),
            log_level: spec.runtime.log_level.map(name),
            network: spec.network.enabled,
            metrics_interval_ms: spec.runtime.metrics_sample_interval_ms.filter(|_| sampled).map(number),
            ephemeral: spec.lifecycle.ephemeral,
            max_duration_secs: spec.lifecycle.max_duration_secs.map(number),
            idle_timeout_secs: spec.lifecycle.idle_timeout_secs.map(number),
        }
    }
}

impl MountedVolume {
    fn of(mount: VolumeMount) -> Self {
        let (guest, kind, source, options) = match mount {
            VolumeMount::Owned { guest, options, .. } => (guest, "owned", None, options),
            VolumeMount::Bind { host, guest, options, .. } => {
                (guest, "bind", Some(host.display().to_string()), options)
            }
            VolumeMount::Named { name, guest, options, .. } => (guest, "named", Some(name), options),
            VolumeMount::Tmpfs { guest, options, .. } => (guest, "tmpfs", None, options),
            VolumeMount::DiskImage { host, guest, options, .. } => {
                (guest, "disk", Some(host.display().to_string()), options)
            }
        };
        Self { guest, kind: kind.to_owned(), source, readonly: options.readonly }
    }
}

/// The name of a variant as this SDK's options spell it: lower case, words joined by hyphens.
pub(crate) fn name(variant: impl std::fmt::Debug) -> String {
    let mut name = String::new();
    for letter in format!("{variant:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// Exact up to 2^53; limits above that, such as "unlimited", are rounded to the nearest number that JavaScript has.
#[allow(clippy::cast_precision_loss)]
fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::name;
    use microsandbox::sandbox::PullPolicy;

    #[test]
    fn names_are_spelled_as_the_options_spell_them() {
        assert_eq!(name(PullPolicy::IfMissing), "if-missing");
        assert_eq!(name(PullPolicy::Never), "never");
    }
}
