//! Pulling an image: what the engine's create does for a missing image, with progress, and with an end when it is cancelled.
//!
//! The engine downloads and unpacks each layer in a task that goes on when the pull is dropped. Here these tasks are on a
//! runtime of the pull's own, which ends with it. After a pull, create finds the image in the cache.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use microsandbox::RegistryAuth;
use microsandbox::backend::Backend as EngineBackend;
use microsandbox::config::OciSandboxDefaults;
use microsandbox::sandbox::{PullPolicy, RootDisk, RootfsSource, SandboxConfig};
use microsandbox::{LocalBackend, MicrosandboxError, MicrosandboxResult};
use microsandbox_image::{
    GlobalCache, ImageError, Platform, PullOptions, PullProgress, Reference, Registry, RootfsMaterialization,
    progress_channel,
};
use napi_derive::napi;
use tokio::sync::mpsc::Receiver;

use crate::backend::Backend;
use crate::cancel::{Cancel, CancelToken};
use crate::failure::Failure;
use crate::image::{self, ImageInfo};
use crate::leftovers;
use crate::options::RegistryOptions;
use crate::outcome::{Outcome, Stop};
use crate::progress::{Progress, Watch};
use crate::threads::{Threads, blocking, joined};

/// Threads of a pull: layers are unpacked side by side.
const THREADS: usize = 2;

/// How long the end of a pull waits for a file that is being written, which cannot be interrupted.
pub(crate) const SETTLE: Duration = Duration::from_secs(30);

/// How long it waits for threads of which it does not know what they do: most end at once.
const GRACE: Duration = Duration::from_secs(1);

/// Between two looks.
const POLL: Duration = Duration::from_millis(10);

/// How to reach a registry, on top of the home's own settings.
#[derive(Default)]
pub(crate) struct RegistryOverrides {
    /// Default: what the home or the user's Docker has for that registry.
    pub(crate) auth: Option<RegistryAuth>,
    /// Plain HTTP.
    pub(crate) insecure: bool,
    /// More certificates to trust, as PEM.
    pub(crate) ca_certs: Vec<Vec<u8>>,
}

/// What to pull.
pub(crate) struct PullRequest {
    pub(crate) reference: String,
    pub(crate) policy: PullPolicy,
    pub(crate) materialization: RootfsMaterialization,
    pub(crate) registry: RegistryOverrides,
    /// Default: the host's.
    pub(crate) platform: Option<Platform>,
}

impl PullRequest {
    /// What the engine's create would pull for a sandbox; nothing when its root is no image. Not for a sandbox that is
    /// made from a snapshot: its image is the very one of the snapshot, whatever the tag means now.
    pub(crate) fn of(
        config: &SandboxConfig,
        defaults: &OciSandboxDefaults,
        registry: RegistryOverrides,
    ) -> Option<Self> {
        let RootfsSource::Oci(oci) = &config.spec.image else { return None };
        let root_disk = oci.root_disk.as_ref().or(defaults.root_disk.as_ref());
        Some(Self {
            reference: oci.reference.clone(),
            policy: config.spec.pull_policy,
            materialization: match root_disk {
                Some(RootDisk::Flat { .. }) => RootfsMaterialization::Flat,
                _ => RootfsMaterialization::Layered,
            },
            registry: RegistryOverrides { auth: registry.auth.or_else(|| config.registry_auth.clone()), ..registry },
            platform: None,
        })
    }

    fn options(&self) -> PullOptions {
        PullOptions {
            pull_policy: match self.policy {
                PullPolicy::IfMissing => microsandbox_image::PullPolicy::IfMissing,
                PullPolicy::Always => microsandbox_image::PullPolicy::Always,
                PullPolicy::Never => microsandbox_image::PullPolicy::Never,
            },
            materialization: self.materialization,
            ..PullOptions::default()
        }
    }
}

/// A pull that has something to do.
pub(crate) struct Pull {
    backend: Arc<dyn EngineBackend>,
    reference: Reference,
    request: PullRequest,
}

impl Pull {
    /// Nothing to do is `None`: the image is in the cache and may be taken from there, or the backend pulls by itself.
    pub(crate) fn needed(
        backend: &Arc<dyn EngineBackend>,
        request: PullRequest,
        watch: &Watch,
    ) -> MicrosandboxResult<Option<Self>> {
        let Some(local) = backend.as_local() else { return Ok(None) };
        let reference: Reference = request
            .reference
            .parse()
            .map_err(|error| MicrosandboxError::InvalidConfig(format!("invalid image reference: {error}")))?;
        let cache = GlobalCache::new(&local.cache_dir())?;
        let cached = Registry::pull_cached(&cache, &reference, &request.options())?;
        match cached {
            Some((_, metadata)) => {
                let name: Arc<str> = reference.to_string().into();
                watch.pull(PullProgress::Resolving { reference: name.clone() });
                watch.pull(PullProgress::Resolved {
                    reference: name.clone(),
                    manifest_digest: metadata.manifest_digest.into(),
                    layer_count: metadata.layers.len(),
                    total_download_bytes: metadata
                        .layers
                        .iter()
                        .filter_map(|layer| layer.size_bytes)
                        .reduce(|a, b| a + b),
                });
                watch.pull(PullProgress::Complete { reference: name, layer_count: metadata.layers.len() });
                Ok(None)
            }
            None => Ok(Some(Self { backend: backend.clone(), reference, request })),
        }
    }

    /// Pull. When this is cancelled no connection to the registry is left, and nothing writes to the cache.
    pub(crate) async fn run(self, watch: &Watch, cancel: &Cancel) -> Result<(), Stop> {
        if self.request.policy == PullPolicy::Never {
            let missing = ImageError::NotCached { reference: self.reference.to_string() };
            return Err(MicrosandboxError::from(missing).into());
        }
        watch.stage("pull", async { self.run_on(Threads::new("msb-pull", THREADS)?, watch, cancel).await }).await
    }

    async fn run_on(self, threads: Threads, watch: &Watch, cancel: &Cancel) -> Result<(), Stop> {
        let reference = self.request.reference.clone();
        let directory = self.backend.as_local().map(LocalBackend::cache_dir).unwrap_or_default();
        let (handle, sender) = progress_channel();
        let mut task = pin!(joined(threads.runtime().spawn(async move {
            let Some(local) = self.backend.as_local() else { return Ok(()) };
            let options = self.request.options();
            let platform = self.request.platform.unwrap_or_default();
            let registry = registry(local, &self.reference, platform, self.request.registry).await?;
            match registry.pull_with_sender(&self.reference, &options, sender).await {
                Ok(pulled) => Ok(pulled.map(|_| ())?),
                Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                Err(_) => Err(MicrosandboxError::Custom("the pull was ended".into())),
            }
        })));
        let mut events = Events { receiver: handle.into_receiver(), writing: BTreeSet::new() };
        let result = loop {
            tokio::select! {
                biased;
                () = cancel.requested() => break Err(Stop::Cancelled),
                pulled = &mut task => {
                    break pulled.map_err(|error| Failure::from(error).of_image(&reference).into());
                }
                Some(event) = events.receiver.recv() => events.see(event, watch),
            }
        };
        events.end(threads, watch).await;
        if let (Err(stop), Ok(cache)) = (&result, GlobalCache::new(&directory)) {
            leftovers::remove_work(&cache);
            if let Stop::Failed(Failure::ImageDigestMismatch { digest, .. }) = stop {
                leftovers::remove_part(&cache, digest);
            }
        }
        result
    }
}

/// A client as the engine's create makes it.
async fn registry(
    local: &LocalBackend,
    reference: &Reference,
    platform: Platform,
    overrides: RegistryOverrides,
) -> MicrosandboxResult<Registry> {
    let config = local.config();
    let auth = match overrides.auth {
        Some(auth) => auth,
        None => config.resolve_registry_auth(reference.registry())?,
    };
    let mut ca_certs = config.resolve_ca_certs().await?;
    ca_certs.extend(overrides.ca_certs);
    let mut insecure = config.insecure_registries();
    if overrides.insecure {
        insecure.push(reference.registry().to_owned());
    }
    let cache = GlobalCache::new_async(&local.cache_dir()).await?;
    Ok(Registry::builder(platform, cache)
        .auth(auth)
        .extra_ca_certs(ca_certs)
        .add_insecure_registries(insecure)
        .build()?)
}

/// The events of a pull, and what they say is being written to the cache now.
struct Events {
    receiver: Receiver<PullProgress>,
    /// Layers by index; `None` is the merged view.
    writing: BTreeSet<Option<usize>>,
}

impl Events {
    fn see(&mut self, event: PullProgress, watch: &Watch) {
        match &event {
            PullProgress::LayerMaterializeWriting { layer_index } => {
                self.writing.insert(Some(*layer_index));
            }
            PullProgress::LayerMaterializeComplete { layer_index, .. } => {
                self.writing.remove(&Some(*layer_index));
            }
            PullProgress::StitchWritingFsmeta | PullProgress::StitchWritingVmdk => {
                self.writing.insert(None);
            }
            PullProgress::StitchComplete => {
                self.writing.remove(&None);
            }
            _ => {}
        }
        watch.pull(event);
    }

    fn see_all(&mut self, watch: &Watch) {
        while let Ok(event) = self.receiver.try_recv() {
            self.see(event, watch);
        }
    }

    /// End the pull: its tasks are dropped, and with them their connections and locks. A file that is being written is
    /// waited for, because the next pull would write the same one. A thread that waits for a name server or for another
    /// pull's lock gets its grace: it ends by itself, and nothing comes of it.
    async fn end(mut self, threads: Threads, watch: &Watch) {
        let metrics = threads.runtime().metrics();
        let threads = blocking(move || threads.join(SETTLE));
        let settled = async {
            loop {
                let alive = metrics.num_alive_tasks();
                self.see_all(watch);
                if alive == 0 && self.writing.is_empty() {
                    break;
                }
                tokio::time::sleep(POLL).await;
            }
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            () = threads => {}
            () = settled => {}
        }
    }
}

/// An image to pull into the cache of a backend. Not `Debug`: it holds a password.
#[napi(object, object_to_js = false)]
pub struct PullImageOptions {
    pub reference: String,
    #[napi(ts_type = "'always' | 'if-missing' | 'never'")]
    pub pull_policy: Option<String>,
    pub registry: Option<RegistryOptions>,
    /// `os/architecture` or `os/architecture/variant`.
    pub platform: Option<String>,
    /// Make the flat root file system of it, instead of the layered one.
    pub flat: Option<bool>,
}

#[napi]
impl Backend {
    /// Pull an image, and enter it into the catalogue. A cancel ends its downloads; what has come of them is kept for the
    /// next pull.
    #[napi(ts_return_type = "Promise<Outcome<ImageInfo>>")]
    pub async fn pull_image(
        &self,
        options: PullImageOptions,
        progress: &Progress,
        token: &CancelToken,
    ) -> napi::Result<Outcome<ImageInfo>> {
        let watch = progress.watch();
        let call = self.slot.run(token, |value, cancel| {
            let watch = watch.clone();
            async move { pull(&value.backend, options, &watch, &cancel).await }
        });
        Ok(Box::pin(watch.clone().during(call)).await)
    }
}

async fn pull(
    backend: &Arc<dyn EngineBackend>,
    options: PullImageOptions,
    watch: &Watch,
    cancel: &Cancel,
) -> Result<ImageInfo, Stop> {
    let Some(local) = backend.as_local() else { return Err(image::local_only("Image.pull").into()) };
    let policy = options.pull_policy.as_deref().map_or(Ok(PullPolicy::IfMissing), crate::options::pull_policy)?;
    let platform = options.platform.as_deref().map(platform).transpose()?;
    let target = image::Target::new(local, options.reference.clone())?;
    let before = target.cached().await?;
    let request = PullRequest {
        reference: options.reference,
        policy,
        materialization: match options.flat {
            Some(true) => RootfsMaterialization::Flat,
            _ => RootfsMaterialization::Layered,
        },
        registry: options.registry.as_ref().map(RegistryOptions::overrides_with_auth).unwrap_or_default(),
        platform: platform.clone(),
    };
    if let Some(pull) = Pull::needed(backend, request, watch)? {
        pull.run(watch, cancel).await?;
    }
    if let Some(platform) = &platform {
        target.check(platform, before).await?;
    }
    cancel.guard(target.enter()).await
}

/// The cache has one image for a reference, and the catalogue says of each that it is of the host's platform: another's
/// would be taken for it.
fn platform(text: &str) -> Result<Platform, Failure> {
    let host = Platform::host_linux();
    let (os, arch) = (host.os.to_string(), host.arch.to_string());
    let mut parts = text.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(an_os), Some(an_arch), variant, None) if an_os == os && an_arch == arch => {
            Ok(Platform { variant: variant.map(str::to_owned), ..host })
        }
        _ => Err(Failure::foreign_platform("Image.pull", text, &format!("{os}/{arch}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_the_hosts_or_none() {
        let host = Platform::host_linux();
        let own = format!("linux/{}", host.arch);
        assert_eq!(platform(&own).expect("the host's"), host);
        let with_variant = platform(&format!("{own}/v8")).expect("a variant of it");
        assert_eq!(with_variant.variant.as_deref(), Some("v8"));
        for other in ["", "linux", "linux/riscv64", "windows/amd64", "linux//v8", &format!("{own}/v8/x")] {
            assert!(matches!(platform(other), Err(Failure::Unsupported { .. })), "{other:?}");
        }
    }
}
