//! What a guest may reach and how, and the secrets that leave in its name: plain data, and its way into the engine's builder.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use microsandbox::MicrosandboxResult;
use microsandbox::sandbox::{
    Nameserver, NetworkAction, NetworkConfig, NetworkPolicy, NetworkRule, SandboxBuilder, SecretBuilder, SecretSource,
    SecretViolationAction,
};
use microsandbox::size::Bytes;
use microsandbox_network::builder::{DnsBuilder, NetworkBuilder, RateLimiterBuilder, TlsBuilder};
use microsandbox_network::policy::{Destination, DestinationGroup, Direction, DomainName, PortRange, Protocol};
use napi_derive::napi;

use crate::failure::Failure;
use crate::options::{Given, absolute, check_exists, invalid, mistake, parse, words};

/// The network of a sandbox.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct NetworkOptions {
    pub policy: Option<PolicyOptions>,
    pub dns: Option<DnsOptions>,
    pub tls: Option<TlsOptions>,
    pub proxy: Option<ProxyOptions>,
    pub egress_limit: Option<RateLimitOptions>,
    pub ingress_limit: Option<RateLimitOptions>,
    /// Zero is no limit.
    pub max_tcp_connections: Option<u32>,
    /// Zero is no limit.
    pub max_udp_connections: Option<u32>,
    pub strict: Option<bool>,
    pub trust_host_cas: Option<bool>,
    pub interface: Option<InterfaceOptions>,
}

/// What a guest may reach, and who may reach it.
#[napi(object, object_to_js = false)]
pub struct PolicyOptions {
    #[napi(ts_type = "'allow' | 'deny'")]
    pub default_egress: String,
    #[napi(ts_type = "'allow' | 'deny'")]
    pub default_ingress: String,
    pub rules: Vec<RuleOptions>,
}

/// One rule of a policy. No protocols are all of them, and no ports too.
#[napi(object, object_to_js = false)]
pub struct RuleOptions {
    #[napi(ts_type = "'allow' | 'deny'")]
    pub action: String,
    #[napi(ts_type = "'egress' | 'ingress' | 'any'")]
    pub direction: String,
    pub destination: DestinationOptions,
    #[napi(ts_type = "Array<'tcp' | 'udp' | 'icmpv4' | 'icmpv6'>")]
    pub protocols: Vec<String>,
    pub ports: Vec<PortRangeOptions>,
}

/// The other side of a packet.
#[napi(object, object_to_js = false)]
pub struct DestinationOptions {
    #[napi(ts_type = "'any' | 'ip' | 'cidr' | 'domain' | 'domain-suffix' | 'group'")]
    pub kind: String,
    /// Empty for any.
    pub value: String,
}

/// Ports, both ends included.
#[napi(object, object_to_js = false)]
pub struct PortRangeOptions {
    pub from: u16,
    pub to: u16,
}

/// Who answers questions for names.
#[napi(object, object_to_js = false)]
pub struct DnsOptions {
    pub nameservers: Option<Vec<String>>,
    pub rebind_protection: Option<bool>,
    pub query_timeout_ms: Option<u32>,
}

/// Opening the guest's TLS on this machine.
#[napi(object, object_to_js = false)]
pub struct TlsOptions {
    pub ports: Option<Vec<u16>>,
    pub bypass: Option<Vec<String>>,
    pub verify_upstream: Option<bool>,
    pub verify_upstream_for: Option<BTreeMap<String, bool>>,
    pub block_quic: Option<bool>,
    pub upstream_ca_certs: Option<Vec<String>>,
    pub upstream_ca_certs_for: Option<BTreeMap<String, Vec<String>>>,
    pub intercept_ca: Option<InterceptCaOptions>,
}

/// The files of a certificate and its key.
#[napi(object, object_to_js = false)]
pub struct InterceptCaOptions {
    pub cert: String,
    pub key: String,
}

/// A proxy for what the guest sends.
#[napi(discriminant = "_tag", object_to_js = false)]
pub enum ProxyOptions {
    Socks4 { address: String, user_id: Option<String> },
    Socks5 { address: String, credentials: Option<ProxyCredentials> },
}

/// Who asks a proxy. The password is in a variable of this process.
#[napi(object, object_to_js = false)]
pub struct ProxyCredentials {
    pub username: String,
    pub password_variable: String,
}

/// How much may pass in one direction.
#[napi(object, object_to_js = false)]
pub struct RateLimitOptions {
    /// In bytes.
    pub bandwidth: Option<BucketOptions>,
    pub packets: Option<BucketOptions>,
}

/// So many in so long, and once so many more.
#[napi(object, object_to_js = false)]
pub struct BucketOptions {
    pub size: f64,
    pub per_ms: u32,
    pub burst: Option<f64>,
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

/// A secret, and who may have it: a value, or the variable of this process that has it. Not `Debug`.
#[napi(object, object_to_js = false)]
#[allow(clippy::struct_excessive_bools)] // each is a switch of the engine's own
pub struct SecretOptions {
    pub env: String,
    pub value: Option<String>,
    pub variable: Option<String>,
    pub hosts: Vec<String>,
    pub placeholder: Option<String>,
    pub in_headers: bool,
    pub in_query: bool,
    pub in_body: bool,
    pub passthrough_hosts: Vec<String>,
    #[napi(ts_type = "'block' | 'block-and-log' | 'block-and-terminate'")]
    pub on_violation: Option<String>,
    pub require_tls_identity: bool,
}

impl Given for NetworkBuilder {}
impl Given for DnsBuilder {}
impl Given for TlsBuilder {}
impl Given for RateLimiterBuilder {}
impl Given for SecretBuilder {}

/// What the VM process would only write into its log: certificates that are not there, and variables that are not set.
pub(crate) fn check_host(network: Option<&NetworkOptions>, secrets: &[SecretOptions]) -> Result<(), Failure> {
    if let Some(tls) = network.and_then(|network| network.tls.as_ref()) {
        for (index, path) in tls.upstream_ca_certs.iter().flatten().enumerate() {
            check_pem(&format!("network.tls.upstreamCaCerts.{index}"), path)?;
        }
        for (pattern, paths) in tls.upstream_ca_certs_for.iter().flatten() {
            for (index, path) in paths.iter().enumerate() {
                check_pem(&format!("network.tls.upstreamCaCertsFor.{pattern}.{index}"), path)?;
            }
        }
        if let Some(InterceptCaOptions { cert, key }) = &tls.intercept_ca {
            check_pem("network.tls.interceptCa.cert", cert)?;
            check_exists("network.tls.interceptCa.key", key)?;
        }
    }
    if let Some(ProxyOptions::Socks5 { credentials: Some(credentials), .. }) =
        network.and_then(|network| network.proxy.as_ref())
    {
        check_variable("network.proxy.credentials.passwordVariable", &credentials.password_variable)?;
    }
    for (index, secret) in secrets.iter().enumerate() {
        if let Some(variable) = &secret.variable {
            check_variable(&format!("secrets.{index}.variable"), variable)?;
        }
    }
    Ok(())
}

fn check_pem(field: &str, path: &str) -> Result<(), Failure> {
    check_exists(field, path)?;
    let text = std::fs::read(Path::new(path)).unwrap_or_default();
    if String::from_utf8_lossy(&text).contains("-----BEGIN CERTIFICATE-----") {
        Ok(())
    } else {
        Err(mistake(field, &format!("there is no certificate in PEM in {path:?}")))
    }
}

fn check_variable(field: &str, name: &str) -> Result<(), Failure> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(()),
        _ => Err(mistake(field, &format!("this process has no variable {name:?}, or an empty one"))),
    }
}

/// Gives the builder a network, and what leaves it.
pub(crate) fn apply(builder: SandboxBuilder, options: &NetworkOptions) -> MicrosandboxResult<SandboxBuilder> {
    let policy = options.policy.as_ref().map(policy).transpose()?;
    let dns = options.dns.as_ref().map(dns).transpose()?;
    let tls = options.tls.as_ref().map(tls).transpose()?;
    let overrides = options.interface.as_ref().map(interface).transpose()?;
    let builder = builder.network(|network| {
        let network = network
            .given(policy, NetworkBuilder::policy)
            .given(dns, NetworkBuilder::dns)
            .given(tls, NetworkBuilder::tls)
            .given(options.max_tcp_connections, |network, most| network.max_tcp_connections(most as usize))
            .given(options.max_udp_connections, |network, most| network.max_udp_connections(most as usize))
            .given(options.strict, NetworkBuilder::strict)
            .given(options.trust_host_cas, NetworkBuilder::trust_host_cas)
            .given(overrides, NetworkBuilder::interface);
        if options.egress_limit.is_none() && options.ingress_limit.is_none() {
            return network;
        }
        network.rate_limiter(|mut limiter| {
            if let Some(limit) = &options.egress_limit {
                limiter = limiter.egress(|builder| rate_limit(builder, limit));
            }
            if let Some(limit) = &options.ingress_limit {
                limiter = limiter.ingress(|builder| rate_limit(builder, limit));
            }
            limiter
        })
    });
    Ok(builder.given(options.proxy.as_ref(), proxy))
}

/// The rules, with what the engine says of each.
pub(crate) fn policy(options: &PolicyOptions) -> MicrosandboxResult<NetworkPolicy> {
    Ok(NetworkPolicy {
        default_egress: action(&options.default_egress)?,
        default_ingress: action(&options.default_ingress)?,
        rules: options.rules.iter().map(rule).collect::<MicrosandboxResult<_>>()?,
    })
}

fn rule(options: &RuleOptions) -> MicrosandboxResult<NetworkRule> {
    Ok(NetworkRule {
        action: action(&options.action)?,
        direction: direction(&options.direction)?,
        destination: destination(&options.destination)?,
        protocols: options.protocols.iter().map(|word| protocol(word)).collect::<MicrosandboxResult<_>>()?,
        ports: options.ports.iter().map(|ports| PortRange { start: ports.from, end: ports.to }).collect(),
    })
}

fn destination(DestinationOptions { kind, value }: &DestinationOptions) -> MicrosandboxResult<Destination> {
    match &**kind {
        "any" => Ok(Destination::Any),
        "ip" => Ok(Destination::Cidr(parse::<IpAddr>(value, "address")?.into())),
        "cidr" => Ok(Destination::Cidr(parse(value, "network")?)),
        "domain" => Ok(Destination::Domain(parse(value, "domain")?)),
        "domain-suffix" => {
            let suffix = parse::<DomainName>(value, "domain suffix")?.try_into_suffix();
            Ok(Destination::DomainSuffix(suffix.map_err(|error| invalid(error.to_string()))?))
        }
        "group" => Ok(Destination::Group(group(value)?)),
        _ => Err(invalid(format!("destination {kind:?}"))),
    }
}

fn dns(options: &DnsOptions) -> MicrosandboxResult<impl FnOnce(DnsBuilder) -> DnsBuilder> {
    let servers = options.nameservers.iter().flatten();
    let servers: Vec<Nameserver> =
        servers.map(|server| parse(server, "nameserver")).collect::<MicrosandboxResult<_>>()?;
    Ok(move |dns: DnsBuilder| {
        dns.nameservers(servers)
            .given(options.rebind_protection, DnsBuilder::rebind_protection)
            .given(options.query_timeout_ms.map(u64::from), DnsBuilder::query_timeout_ms)
    })
}

fn tls(options: &TlsOptions) -> MicrosandboxResult<impl FnOnce(TlsBuilder) -> TlsBuilder> {
    let mut certificates = Vec::new();
    for path in options.upstream_ca_certs.iter().flatten() {
        certificates.push(absolute(path)?);
    }
    let mut scoped = Vec::new();
    for (pattern, paths) in options.upstream_ca_certs_for.iter().flatten() {
        for path in paths {
            scoped.push((pattern, absolute(path)?));
        }
    }
    let own = match &options.intercept_ca {
        Some(InterceptCaOptions { cert, key }) => Some((absolute(cert)?, absolute(key)?)),
        None => None,
    };
    Ok(move |mut tls: TlsBuilder| {
        for pattern in options.bypass.iter().flatten() {
            tls = tls.bypass(pattern);
        }
        for (pattern, verify) in options.verify_upstream_for.iter().flatten() {
            tls = tls.verify_upstream_for(pattern, *verify);
        }
        for path in certificates {
            tls = tls.upstream_ca_cert(path);
        }
        for (pattern, path) in scoped {
            tls = tls.upstream_ca_cert_for(pattern, path);
        }
        tls.given(options.ports.clone(), TlsBuilder::intercepted_ports)
            .given(options.verify_upstream, TlsBuilder::verify_upstream)
            .given(options.block_quic, TlsBuilder::block_quic)
            .given(own, |tls, (cert, key)| tls.intercept_ca_cert(cert).intercept_ca_key(key))
    })
}

fn proxy(builder: SandboxBuilder, options: &ProxyOptions) -> SandboxBuilder {
    match options {
        ProxyOptions::Socks4 { address, user_id } => builder.proxy(|proxy| {
            let proxy = proxy.socks4(address);
            match user_id {
                Some(user_id) => proxy.user_id(user_id),
                None => proxy,
            }
        }),
        ProxyOptions::Socks5 { address, credentials } => builder.proxy(|proxy| {
            let proxy = proxy.socks5(address);
            match credentials {
                Some(ProxyCredentials { username, password_variable }) => {
                    proxy.credentials(username, SecretSource::Env { var: password_variable.clone() })
                }
                None => proxy,
            }
        }),
    }
}

fn rate_limit(builder: RateLimiterBuilder, options: &RateLimitOptions) -> RateLimiterBuilder {
    let bytes = |size: f64| Bytes::from(whole(size));
    builder
        .given(options.bandwidth.as_ref(), |builder, bucket| {
            builder
                .bandwidth(bytes(bucket.size), Duration::from_millis(bucket.per_ms.into()))
                .given(bucket.burst, |builder, burst| builder.bandwidth_burst(bytes(burst)))
        })
        .given(options.packets.as_ref(), |builder, bucket| {
            builder
                .ops(whole(bucket.size), Duration::from_millis(bucket.per_ms.into()))
                .given(bucket.burst, |builder, burst| builder.ops_burst(whole(burst)))
        })
}

/// TypeScript lets whole numbers through, of which JavaScript has those up to 2^53.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(number: f64) -> u64 {
    number as u64
}

fn interface(options: &InterfaceOptions) -> MicrosandboxResult<microsandbox_network::config::InterfaceOverrides> {
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
    Ok(overrides)
}

/// Secrets come after the network: they open its TLS, as it is configured.
pub(crate) fn secrets(
    mut builder: SandboxBuilder,
    secrets: &[SecretOptions],
    violation: Option<&str>,
) -> MicrosandboxResult<SandboxBuilder> {
    for options in secrets {
        let on_violation = options.on_violation.as_deref().map(violation_action).transpose()?;
        // The engine's builder panics where it is given less.
        if options.value.is_some() == options.variable.is_some() || options.hosts.is_empty() {
            return Err(invalid(format!("secret {:?}: a value or a variable, and hosts", options.env)));
        }
        builder = builder.secret(|secret| secret_entry(secret, options, on_violation));
    }
    let violation = violation.map(violation_action).transpose()?;
    Ok(builder.given(violation, SandboxBuilder::secret_violation_action))
}

fn secret_entry(
    builder: SecretBuilder,
    options: &SecretOptions,
    on_violation: Option<SecretViolationAction>,
) -> SecretBuilder {
    let mut builder = builder
        .env(&options.env)
        .given(options.value.as_ref(), SecretBuilder::value)
        .given(options.variable.as_ref(), |builder, var| builder.source(SecretSource::Env { var: var.clone() }))
        .given(options.placeholder.as_ref(), SecretBuilder::placeholder)
        .given(on_violation, SecretBuilder::violation_action)
        .substitute_in_headers(options.in_headers)
        .substitute_in_query(options.in_query)
        .substitute_in_body(options.in_body)
        .require_tls_identity(options.require_tls_identity);
    for host in &options.hosts {
        builder = if host == "*" { builder.allow_any_host_dangerous(true) } else { builder.allow(host) };
    }
    for host in &options.passthrough_hosts {
        builder = builder.allow_passthrough_for(host);
    }
    builder
}

words! {
    action: "action" => NetworkAction {
        "allow" => NetworkAction::Allow,
        "deny" => NetworkAction::Deny,
    }
    direction: "direction" => Direction {
        "egress" => Direction::Egress,
        "ingress" => Direction::Ingress,
        "any" => Direction::Any,
    }
    protocol: "protocol" => Protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "icmpv4" => Protocol::Icmpv4,
        "icmpv6" => Protocol::Icmpv6,
    }
    group: "group of addresses" => DestinationGroup {
        "public" => DestinationGroup::Public,
        "private" => DestinationGroup::Private,
        "loopback" => DestinationGroup::Loopback,
        "link-local" => DestinationGroup::LinkLocal,
        "metadata" => DestinationGroup::Metadata,
        "multicast" => DestinationGroup::Multicast,
        "host" => DestinationGroup::Host,
    }
    violation_action: "action" => SecretViolationAction {
        "block" => SecretViolationAction::Block,
        "block-and-log" => SecretViolationAction::BlockAndLog,
        "block-and-terminate" => SecretViolationAction::BlockAndTerminate,
    }
}
