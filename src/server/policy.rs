//! What a tenant allows: how callers identify themselves, who may take over, how many calls, which evidence is demanded.
//!
//! Stored as JSON with the tenant. Unknown names are errors: a demand that this program does not know is not met, so such a tenant's
//! callers are refused.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::api::InstanceId;
use crate::attest::report::{hex, unhex};
use crate::attest::verify::MinimumTcb;
use crate::attest::{Demands, Product};

/// A tenant's policy.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// How callers may show who they are; without any, nobody can.
    #[serde(default)]
    pub identities: Vec<Source>,
    /// Whose secrets may be taken over. Default: nobody's but one's own.
    #[serde(default)]
    pub convert: Convert,
    /// Calls a second of all its callers together. Default: the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// How many may come at once after a pause. Default: the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// What a caller's secure processor has to show for each call. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Attestation>,
}

/// What SEV-SNP reports must say. A guest is known by its launch measurement, or by the author key of its ID block; of neither list nobody is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// Launch measurements that are allowed.
    #[serde(default)]
    pub measurements: Vec<Hex<48>>,
    /// Digests of author keys that are allowed, where the next three hold too.
    #[serde(default)]
    pub author_keys: Vec<Hex<48>>,
    /// Least security version of a guest known by its author key.
    #[serde(default)]
    pub minimum_guest_svn: u32,
    /// Family id of a guest known by its author key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family_id: Option<Hex<16>>,
    /// Image id of a guest known by its author key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<Hex<16>>,
    /// HOST_DATA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_data: Option<Hex<32>>,
    /// Chips that are allowed; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chip_ids: Vec<Hex<64>>,
    /// Least firmware, reported, committed and at launch. With it, only the generations that it names are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_tcb: Option<Generations>,
    /// Privilege level.
    #[serde(default)]
    pub vmpl: u32,
    /// Bits that the guest's policy must have.
    #[serde(default)]
    pub policy_set: u64,
    /// Bits that it must not have.
    #[serde(default)]
    pub policy_clear: u64,
    /// Bits that the description of the platform must have.
    #[serde(default)]
    pub platform_set: u64,
    /// Takes guests that their host may debug.
    #[serde(default)]
    pub insecure_debug: bool,
    /// Takes guests that a migration agent may move.
    #[serde(default)]
    pub allow_migration: bool,
    /// Takes reports signed by a cloud provider's key (VLEK).
    #[serde(default)]
    pub allow_vlek: bool,
    /// Takes reports of version 2, which do not say which generation of processor they are from.
    #[serde(default)]
    pub allow_version_2: bool,
    /// How long a challenge counts, in seconds: 5 to 3600.
    #[serde(default = "default_window")]
    pub window_seconds: u32,
}

/// Least firmware of each generation of processors, as `bootloader=3,snp=8,microcode=115`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
#[allow(missing_docs)]
pub struct Generations {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milan: Option<Firmware>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub genoa: Option<Firmware>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turin: Option<Firmware>,
}

/// Least firmware, and how it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Firmware(MinimumTcb, String);

impl TryFrom<String> for Firmware {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Ok(Firmware(text.parse()?, text))
    }
}

impl From<Firmware> for String {
    fn from(firmware: Firmware) -> String {
        firmware.1
    }
}

/// Bytes, written in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> TryFrom<String> for Hex<N> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        unhex(&text).map(Hex).ok_or_else(|| format!("it has not {} hexadecimal digits ({N} bytes)", 2 * N))
    }
}

impl<const N: usize> From<Hex<N>> for String {
    fn from(bytes: Hex<N>) -> String {
        hex(&bytes.0)
    }
}

fn default_window() -> u32 {
    120
}

impl Attestation {
    /// How long a challenge counts.
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.window_seconds.into())
    }

    /// What a report from a processor of this generation must say, but for who the guest is; none if the generation is not allowed.
    pub fn demands(&self, product: Product, report_data: [u8; 64]) -> Option<Demands> {
        let minimum_tcb = match &self.minimum_tcb {
            None => MinimumTcb::default(),
            Some(least) => {
                let least = match product {
                    Product::Milan => &least.milan,
                    Product::Genoa => &least.genoa,
                    Product::Turin => &least.turin,
                };
                least.as_ref()?.0.clone()
            }
        };
        Some(Demands {
            report_data: Some(report_data),
            vmpl: self.vmpl,
            allow_debug: self.insecure_debug,
            allow_migration: self.allow_migration,
            allow_version_2: self.allow_version_2,
            allow_vlek: self.allow_vlek,
            policy_set: self.policy_set,
            policy_clear: self.policy_clear,
            platform_set: self.platform_set,
            minimum_tcb,
            host_data: self.host_data.map(|Hex(bytes)| bytes),
            ..Demands::default()
        })
    }

    fn check(&self) -> Result<(), BadPolicy> {
        let wrong = |fact: &str| Err(BadPolicy(format!("attestation: {fact}")));
        if self.measurements.is_empty() && self.author_keys.is_empty() {
            return wrong(
                "without measurements or author_keys no guest is allowed; to demand no reports, leave it out",
            );
        }
        if !(5..=3600).contains(&self.window_seconds) {
            return wrong("window_seconds is 5 to 3600");
        }
        if self.minimum_tcb.as_ref() == Some(&Generations::default()) {
            return wrong("minimum_tcb names no generation: milan, genoa or turin");
        }
        Ok(())
    }
}

/// One way to show who one is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A client certificate with the instance id in a subject alternative name.
    Certificate(Authority),
    /// A bearer token.
    Token {},
    /// The address alone: as weak as it sounds.
    InsecureAddressMap(Vec<Mapping>),
    /// A gateway that the configuration trusts names the tenant, and has checked the instance.
    Gateway {},
}

/// Who issues a tenant's certificates.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// Its certificate or certificates, PEM.
    pub ca: String,
    /// What it took back, PEM. With one, a certificate that no list speaks for is refused, and so is everything under a list that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl: Option<String>,
}

/// An instance and where it calls from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Who.
    pub instance: InstanceId,
    /// From where.
    pub cidr: IpNet,
}

/// Whose secrets may be sealed to another instance of the tenant. One's own always may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Convert {
    /// Nobody's.
    #[default]
    Off,
    /// Everybody's, as with the original.
    Any,
    /// These instances'.
    From(Vec<InstanceId>),
}

/// Why JSON is no policy, with the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy is not usable: {0}")]
pub struct BadPolicy(pub String);

impl Policy {
    /// Reads a stored policy. Certificates are looked at by [`identity::check`](super::identity::check).
    ///
    /// # Errors
    /// [`BadPolicy`].
    pub fn parse(json: &serde_json::Value) -> Result<Policy, BadPolicy> {
        // An array would be taken for the members in order.
        if !json.is_object() {
            return Err(BadPolicy("it is no JSON object".into()));
        }
        let policy = Policy::deserialize(json).map_err(|error| BadPolicy(error.to_string()))?;
        if policy.requests_per_second == Some(0) || policy.burst == Some(0) {
            return Err(BadPolicy("requests_per_second and burst are at least 1; to stop a tenant, disable it".into()));
        }
        policy.attestation.as_ref().map_or(Ok(()), Attestation::check)?;
        Ok(policy)
    }
}

impl Convert {
    /// Whether `to` may have the secrets of `from`.
    pub fn allows(&self, from: &InstanceId, to: &InstanceId) -> bool {
        match self {
            _ if from == to => true,
            Convert::Off => false,
            Convert::Any => true,
            Convert::From(instances) => instances.contains(from),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_documented_form_is_read_and_unknown_demands_are_not_passed_over() {
        let policy = Policy::parse(&json!({
            "identities": [{"certificate": {"ca": "PEM"}}, {"token": {}}, {"gateway": {}},
                {"insecure_address_map": [{"instance": "i-1", "cidr": "127.0.0.0/8"}]}],
            "convert": {"from": ["i-1"]}, "requests_per_second": 20, "burst": 100
        }))
        .unwrap();
        assert_eq!(policy.identities.len(), 4);
        assert_eq!(Policy::parse(&serde_json::to_value(&policy).unwrap()).unwrap().burst, Some(100));
        assert_eq!(Policy::parse(&json!({})).unwrap().convert, Convert::Off);
        for wrong in [
            json!({"atestation": {}}),
            json!({"identities": [{"token": {"x": 1}}]}),
            json!({"identities": [{"insecure_address_map": [{"instance": "i/1", "cidr": "::/0"}]}]}),
            json!({"convert": "all"}),
            json!({"burst": 0}),
            json!({"attestation": {}}),
            json!({"attestation": {"measurements": []}}),
            json!({"attestation": {"measurements": ["00"]}}),
            json!({"attestation": {"measurements": ["ab".repeat(48)], "measurement": []}}),
            json!({"attestation": {"measurements": ["ab".repeat(48)], "window_seconds": 4}}),
            json!({"attestation": {"measurements": ["ab".repeat(48)], "minimum_tcb": {}}}),
            json!({"attestation": {"measurements": ["ab".repeat(48)], "minimum_tcb": {"rome": "snp=8"}}}),
            json!({"attestation": {"measurements": ["ab".repeat(48)], "minimum_tcb": {"milan": "snp"}}}),
            json!([]),
        ] {
            Policy::parse(&wrong).unwrap_err();
        }
    }

    #[test]
    fn taking_over_is_allowed_by_name_and_always_from_oneself() {
        let id = |text: &str| text.parse::<InstanceId>().unwrap();
        for (convert, other) in [(Convert::Off, false), (Convert::Any, true), (Convert::From(vec![id("I-1")]), true)] {
            assert_eq!(convert.allows(&id("i-1"), &id("i-2")), other);
            assert!(convert.allows(&id("i-2"), &id("I-2")));
        }
        assert!(!Convert::From(vec![id("i-1")]).allows(&id("i-3"), &id("i-2")));
    }

    #[test]
    fn what_reports_must_say_is_strict_where_nothing_else_is_said() {
        let parse =
            |json: serde_json::Value| Policy::parse(&json!({"attestation": json})).unwrap().attestation.unwrap();
        let least = parse(json!({"measurements": ["AB".repeat(48)]}));
        let demands = least.demands(Product::Milan, [1; 64]).unwrap();
        assert_eq!((demands.report_data, demands.vmpl, least.window().as_secs()), (Some([1; 64]), 0, 120));
        assert!(!(demands.allow_debug || demands.allow_migration || demands.allow_vlek || demands.allow_version_2));
        let full = parse(json!({
            "measurements": [], "author_keys": ["cd".repeat(48)], "minimum_guest_svn": 2, "family_id": "01".repeat(16),
            "image_id": "02".repeat(16), "host_data": "03".repeat(32), "chip_ids": ["04".repeat(64)],
            "minimum_tcb": {"turin": "fmc=1,snp=3"}, "vmpl": 1, "policy_set": 65536, "policy_clear": 1_048_576,
            "platform_set": 32, "insecure_debug": true, "allow_migration": true, "allow_vlek": true,
            "allow_version_2": true, "window_seconds": 30
        }));
        assert_eq!(full.demands(Product::Milan, [1; 64]).map(|_| ()), None, "a generation that is not named");
        let demands = full.demands(Product::Turin, [1; 64]).unwrap();
        assert_eq!(
            (demands.vmpl, demands.policy_set, demands.policy_clear, demands.platform_set),
            (1, 1 << 16, 1 << 20, 32)
        );
        assert_eq!((demands.minimum_tcb, demands.host_data), ("fmc=1,snp=3".parse().unwrap(), Some([3; 32])));
        assert!(demands.allow_debug && demands.allow_migration && demands.allow_vlek && demands.allow_version_2);
        assert_eq!(parse(serde_json::to_value(&full).unwrap()), full);
    }
}
