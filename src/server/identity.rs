//! Who a caller is: a certificate, a token, an address or a trusted gateway; never anything in a request's body.
//!
//! What was presented must be right as a whole: a certificate or token that does not count is refused even beside another that does, two that
//! disagree are refused, and so is one that the tenant's policy does not name. Who presents nothing is nobody (401), unless an
//! `insecure_address_map` knows the address. Everything else that fails is 403.
//!
//! A certificate is looked at for each request, not in the handshake, which only proves that the caller has its key: which authority
//! counts depends on the tenant, a refusal must be an answer and a record rather than a TLS alert, and a list of revoked certificates or
//! a disabled tenant has to act on connections that are open. The instance id is a SAN: a dNSName, or the URI `urn:envelopefs:instance:ID`; equal to
//! that in the path but for ASCII case; wildcards are not expanded.
//!
//! Tenants may be many, so candidates for a certificate or an address come from a copy of at most a second's age. Whoever is found is read again from
//! the database: what is decided with is never old.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder,
};
use zeroize::Zeroizing;

use super::config::{Fingerprint, Gateway};
use super::policy::{BadPolicy, Policy, Source};
use super::state::{State, StateError, TenantRecord};
use crate::api::{InstanceId, Tenant, hex};
use crate::crypto::sha256;

/// Oldest list of tenants in which candidates are looked for.
const FRESH: Duration = Duration::from_secs(1);
/// The same, after a look that found nobody: a tenant may have been added since.
const FRESHER: Duration = Duration::from_millis(50);
/// Most authorities and lists of one tenant.
const MAX_AUTHORITIES: usize = 64;
/// Longest bearer token.
const MAX_TOKEN: usize = 1024;
/// What precedes an instance id in a URI of a certificate.
const URN: &str = "urn:envelopefs:instance:";

/// What a request shows of its caller, as it came.
#[derive(Debug)]
pub struct Presented {
    /// The TCP peer.
    pub peer: IpAddr,
    /// The certificates of the handshake, which proved that the peer has the key of the first.
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
    /// Bearer tokens from all `Authorization` lines; lines of other schemes are dropped.
    pub tokens: Vec<Zeroizing<String>>,
    /// Values of `x-amzn-vpc-id`.
    pub gateway_tenants: Vec<String>,
    /// Addresses of `X-Forwarded-For`, all lines, in order.
    pub forwarded_for: Vec<String>,
}

/// A caller who is known.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Whose.
    pub tenant: TenantRecord,
    /// What it allows.
    pub policy: Arc<Policy>,
    /// Where the call came from.
    pub ip: IpAddr,
    /// How he showed who he is, for records: a fingerprint or hash.
    pub how: String,
}

/// Why a caller is not let in.
#[derive(Debug)]
pub enum Denied {
    /// He showed nothing.
    Nobody,
    /// He may not. The tenant is named if he is its own beyond doubt; the word is for records alone.
    Refused {
        /// Of which tenant.
        tenant: Option<Box<TenantRecord>>,
        /// Why.
        code: &'static str,
        /// How he tried to show who he is.
        how: Option<String>,
    },
    /// Nobody can tell now.
    Unknown(StateError),
}

impl From<StateError> for Denied {
    fn from(error: StateError) -> Self {
        Denied::Unknown(error)
    }
}

fn refused<T>(tenant: Option<&TenantRecord>, code: &'static str, how: Option<&str>) -> Result<T, Denied> {
    Err(Denied::Refused { tenant: tenant.cloned().map(Box::new), code, how: how.map(str::to_owned) })
}

/// A policy with its certificates read.
#[derive(Debug)]
struct Compiled {
    json: serde_json::Value,
    policy: Arc<Policy>,
    authorities: Vec<Roots>,
}

#[derive(Debug)]
struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    lists: Vec<CertRevocationList<'static>>,
}

/// Looks whether a policy can be used, its certificates included.
///
/// # Errors
/// [`BadPolicy`].
pub fn check(json: &serde_json::Value) -> Result<(), BadPolicy> {
    Compiled::new(json).map(|_| ())
}

impl Compiled {
    fn new(json: &serde_json::Value) -> Result<Compiled, BadPolicy> {
        let policy = Policy::parse(json)?;
        let wrong = |what: &str| BadPolicy(format!("{what} of a certificate identity cannot be read as PEM"));
        let mut authorities = Vec::new();
        for source in &policy.identities {
            let Source::Certificate(authority) = source else { continue };
            let mut roots = Roots { anchors: Vec::new(), lists: Vec::new() };
            for certificate in CertificateDer::pem_slice_iter(authority.ca.as_bytes()).take(MAX_AUTHORITIES) {
                let certificate = certificate.map_err(|_| wrong("the ca"))?;
                let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(|_| wrong("the ca"))?;
                roots.anchors.push(anchor.to_owned());
            }
            if roots.anchors.is_empty() {
                return Err(wrong("the ca"));
            }
            if let Some(crl) = &authority.crl {
                for list in CertificateRevocationListDer::pem_slice_iter(crl.as_bytes()).take(MAX_AUTHORITIES) {
                    let list = list.map_err(|_| wrong("the crl"))?;
                    let list = OwnedCertRevocationList::from_der(&list).map_err(|_| wrong("the crl"))?;
                    roots.lists.push(list.into());
                }
                if roots.lists.is_empty() {
                    return Err(wrong("the crl"));
                }
            }
            authorities.push(roots);
        }
        Ok(Compiled { json: json.clone(), policy: Arc::new(policy), authorities })
    }

    fn takes(&self, possible: impl Fn(&Source) -> bool) -> bool {
        self.policy.identities.iter().any(possible)
    }

    /// Whether a chain is this tenant's.
    fn vouches(&self, chain: &[CertificateDer<'static>]) -> Chain {
        self.authorities.iter().map(|roots| roots.vouch(chain)).max().unwrap_or(Chain::Foreign)
    }

    /// Whether the map has the address, for an instance if one is asked for.
    fn maps(&self, ip: IpAddr, instance: Option<&InstanceId>) -> bool {
        self.takes(|source| match source {
            Source::InsecureAddressMap(mappings) => mappings.iter().any(|mapping| {
                mapping.cidr.contains(&ip) && instance.is_none_or(|instance| mapping.instance == *instance)
            }),
            _ => false,
        })
    }
}

/// What becomes of a chain, the better the larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Chain {
    /// No business of this authority.
    Foreign,
    /// The authority's, but it does not count.
    Bad(&'static str),
    /// It counts.
    Good,
}

impl Roots {
    fn vouch(&self, chain: &[CertificateDer<'static>]) -> Chain {
        let Some((first, rest)) = chain.split_first() else { return Chain::Foreign };
        let Ok(end) = EndEntityCert::try_from(first) else { return Chain::Foreign };
        let verify = |time| {
            let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
            let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
                options
                    .with_depth(RevocationCheckDepth::EndEntity)
                    .with_expiration_policy(ExpirationPolicy::Enforce)
                    .build()
            });
            let usage = KeyUsage::client_auth();
            end.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &self.anchors, rest, time, usage, revocation, None)
                .map(|_| ())
        };
        match verify(UnixTime::now()) {
            Ok(()) => Chain::Good,
            // The time is looked at before the issuer: at another time it shows whose it is.
            Err(webpki::Error::CertExpired { not_after, .. }) => match verify(not_after) {
                Ok(()) => Chain::Bad("certificate-expired"),
                Err(_) => Chain::Foreign,
            },
            Err(webpki::Error::CertNotValidYet { not_before, .. }) => match verify(not_before) {
                Ok(()) => Chain::Bad("certificate-not-yet-valid"),
                Err(_) => Chain::Foreign,
            },
            Err(webpki::Error::CertRevoked) => Chain::Bad("certificate-revoked"),
            Err(webpki::Error::CrlExpired { .. }) => Chain::Bad("revocation-list-expired"),
            Err(webpki::Error::UnknownRevocationStatus) => Chain::Bad("revocation-unknown"),
            Err(_) => Chain::Foreign,
        }
    }
}

/// Whether a certificate names an instance.
fn names(certificate: &CertificateDer<'_>, instance: &InstanceId) -> bool {
    let Ok(end) = EndEntityCert::try_from(certificate) else { return false };
    let is = |text: &str| text.eq_ignore_ascii_case(instance.as_str());
    let urn = |uri: &str| match (uri.get(..URN.len()), uri.get(URN.len()..)) {
        (Some(head), Some(id)) => head.eq_ignore_ascii_case(URN) && is(id),
        _ => false,
    };
    end.valid_dns_names().any(is) || end.valid_uri_names().any(urn)
}

/// The tenants, and who may speak for them.
pub struct Identities {
    state: State,
    gateways: Vec<Gateway>,
    known: ArcSwap<Known>,
    refresh: tokio::sync::Mutex<()>,
}

struct Known {
    at: Option<Instant>,
    tenants: HashMap<Tenant, Arc<Compiled>>,
}

impl Identities {
    /// Over the tenants of a database, with the gateways of the configuration.
    pub fn new(state: State, gateways: Vec<Gateway>) -> Identities {
        let known = ArcSwap::from_pointee(Known { at: None, tenants: HashMap::new() });
        Identities { state, gateways, known, refresh: tokio::sync::Mutex::new(()) }
    }

    /// Where a request came from: the peer, or, if that is a trusted gateway, the last address of `X-Forwarded-For` that is none.
    pub fn address(&self, shown: &Presented) -> IpAddr {
        let peer = shown.peer.to_canonical();
        if !self.is_gateway(shown) {
            return peer;
        }
        let trusted =
            |ip: &IpAddr| self.gateways.iter().any(|gateway| gateway.address.is_some_and(|net| net.contains(ip)));
        let addresses = shown.forwarded_for.iter().rev().map(|text| text.parse::<IpAddr>().map(|ip| ip.to_canonical()));
        // What stands before something unreadable was written by nobody knows whom.
        addresses.map_while(Result::ok).find(|ip| !trusted(ip)).unwrap_or(peer)
    }

    fn is_gateway(&self, shown: &Presented) -> bool {
        let fingerprint = shown.certificates.first().map(|der| Fingerprint(sha256(der)));
        let peer = shown.peer.to_canonical();
        self.gateways.iter().any(|gateway| {
            gateway.address.is_none_or(|net| net.contains(&peer))
                && gateway.certificate_sha256.is_none_or(|wanted| Some(wanted) == fingerprint)
        })
    }

    /// Who calls, for which instance if there is one in the path.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn identify(&self, shown: &Presented, instance: Option<&InstanceId>) -> Result<Identity, Denied> {
        let (ip, gateway) = (self.address(shown), self.is_gateway(shown));
        let mut found: Option<(Tenant, String)> = None;
        let mut claim = |tenant: Tenant, how: String| match &mut found {
            None => {
                found = Some((tenant, how));
                Ok(())
            }
            Some((other, _)) if *other != tenant => refused(None, "identities-disagree", Some(&how)),
            Some((_, all)) => {
                all.push(',');
                all.push_str(&how);
                Ok(())
            }
        };

        let by_certificate = shown.certificates.first().filter(|_| !gateway || shown.gateway_tenants.is_empty());
        if let Some(certificate) = by_certificate {
            let how = format!("certificate:{}", hex(&sha256(certificate)));
            claim(self.certified(shown, &how).await?, how)?;
        }
        if let Some((token, more)) = shown.tokens.split_first() {
            if more.iter().any(|other| other != token) {
                return refused(None, "two-tokens", None);
            }
            let hash = sha256(token.as_bytes());
            let how = format!("token:{}", hex(&hash));
            claim(self.bearer(token, &hash, &how, instance).await?, how)?;
        }
        if gateway && let Some((tenant, more)) = shown.gateway_tenants.split_first() {
            let Some(tenant) = tenant.parse::<Tenant>().ok().filter(|_| more.iter().all(|other| other == tenant))
            else {
                return refused(None, "gateway-tenant", None);
            };
            claim(tenant, format!("gateway:{}", shown.peer.to_canonical()))?;
        }
        let (tenant, how) = match found {
            Some(found) => found,
            None => (self.mapped(ip, instance).await?, "address".to_owned()),
        };

        let Some(record) = self.state.tenant(&tenant).await? else {
            return refused(None, "tenant-unknown", Some(&how));
        };
        if !record.active {
            return refused(Some(&record), "tenant-disabled", Some(&how));
        }
        let Some(compiled) = self.compiled(&record) else {
            return refused(Some(&record), "policy-unusable", Some(&how));
        };
        // With the policy as it is now, not as it was a moment ago.
        if let Some(certificate) = by_certificate {
            match compiled.vouches(&shown.certificates) {
                Chain::Good => {}
                Chain::Bad(code) => return refused(Some(&record), code, Some(&how)),
                Chain::Foreign => return refused(Some(&record), "certificate-unknown", Some(&how)),
            }
            if instance.is_some_and(|instance| !names(certificate, instance)) {
                return refused(Some(&record), "instance", Some(&how));
            }
        }
        let named = |possible: fn(&Source) -> bool| compiled.takes(possible);
        if !shown.tokens.is_empty() && !named(|source| matches!(source, Source::Token {})) {
            return refused(Some(&record), "token-not-allowed", Some(&how));
        }
        if gateway && !shown.gateway_tenants.is_empty() && !named(|source| matches!(source, Source::Gateway {})) {
            return refused(Some(&record), "gateway-not-allowed", Some(&how));
        }
        if how == "address" && !compiled.maps(ip, instance) {
            return refused(Some(&record), "address", Some(&how));
        }
        Ok(Identity { policy: Arc::clone(&compiled.policy), tenant: record, ip, how })
    }

    async fn certified(&self, shown: &Presented, how: &str) -> Result<Tenant, Denied> {
        let mut bad = None;
        for age in [FRESH, FRESHER] {
            let known = self.known(age).await?;
            let mut good = None;
            for (tenant, compiled) in &known.tenants {
                match compiled.vouches(&shown.certificates) {
                    // Whose machine it is nobody can tell, and it must not depend on the order of a table.
                    Chain::Good if good.is_some() => return refused(None, "certificate-ambiguous", Some(how)),
                    Chain::Good => good = Some(tenant),
                    Chain::Bad(code) => bad = Some((tenant.clone(), code)),
                    Chain::Foreign => {}
                }
            }
            if let Some(tenant) = good {
                return Ok(tenant.clone());
            }
            if bad.is_some() {
                break;
            }
        }
        match bad {
            Some((tenant, code)) => refused(self.state.tenant(&tenant).await?.as_ref(), code, Some(how)),
            None => refused(None, "certificate-unknown", Some(how)),
        }
    }

    async fn bearer(
        &self,
        token: &str,
        hash: &[u8; 32],
        how: &str,
        instance: Option<&InstanceId>,
    ) -> Result<Tenant, Denied> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return refused(None, "token-unknown", None);
        }
        let record = self.state.token(hash).await?;
        let same = |stored: &[u8; 32]| aws_lc_rs::constant_time::verify_slices_are_equal(stored, hash).is_ok();
        let Some(record) = record.filter(|record| same(&record.hash)) else {
            return refused(None, "token-unknown", Some(how));
        };
        let code = if record.disabled {
            "token-disabled"
        } else if record.expires_at.is_some_and(|at| at <= jiff::Timestamp::now()) {
            "token-expired"
        } else if instance.is_some_and(|instance| !record.instances.contains(instance)) {
            "instance"
        } else {
            return Ok(record.tenant);
        };
        refused(self.state.tenant(&record.tenant).await?.as_ref(), code, Some(how))
    }

    async fn mapped(&self, ip: IpAddr, instance: Option<&InstanceId>) -> Result<Tenant, Denied> {
        let mut elsewhere = None;
        for age in [FRESH, FRESHER] {
            let known = self.known(age).await?;
            let at = |instance| known.tenants.iter().filter(move |(_, compiled)| compiled.maps(ip, instance));
            let mut found = at(instance).map(|(tenant, _)| tenant.clone());
            match (found.next(), found.next()) {
                (Some(tenant), None) => return Ok(tenant),
                (Some(_), Some(_)) => return refused(None, "address-ambiguous", None),
                (None, _) => elsewhere = at(None).map(|(tenant, _)| tenant.clone()).next(),
            }
        }
        match elsewhere {
            Some(tenant) => refused(self.state.tenant(&tenant).await?.as_ref(), "address", Some("address")),
            None => Err(Denied::Nobody),
        }
    }

    /// All tenants, of at most this age: a flood of strangers costs few queries, whatever its rate.
    async fn known(&self, age: Duration) -> Result<Arc<Known>, StateError> {
        let fresh = |known: &Known| known.at.is_some_and(|at| at.elapsed() < age);
        let known = self.known.load_full();
        if fresh(&known) {
            return Ok(known);
        }
        let _one = self.refresh.lock().await;
        let before = self.known.load_full();
        if fresh(&before) {
            return Ok(before);
        }
        let mut tenants = HashMap::new();
        for record in self.state.tenants().await? {
            let same = before.tenants.get(&record.id).filter(|compiled| compiled.json == record.policy);
            if let Some(compiled) = same.cloned().or_else(|| compile(&record)) {
                tenants.insert(record.id, compiled);
            }
        }
        let known = Arc::new(Known { at: Some(Instant::now()), tenants });
        self.known.store(Arc::clone(&known));
        Ok(known)
    }

    fn compiled(&self, record: &TenantRecord) -> Option<Arc<Compiled>> {
        let known = self.known.load();
        let same = known.tenants.get(&record.id).filter(|compiled| compiled.json == record.policy);
        same.cloned().or_else(|| compile(record))
    }
}

fn compile(record: &TenantRecord) -> Option<Arc<Compiled>> {
    match Compiled::new(&record.policy) {
        Ok(compiled) => Some(Arc::new(compiled)),
        Err(error) => {
            tracing::warn!(tenant = record.id.as_str(), %error, "all callers of this tenant are refused");
            None
        }
    }
}

#[cfg(test)]
mod tests;
