//! What a tenant allows: how callers identify themselves, who may take over, how many calls, which evidence is demanded.
//!
//! Stored as JSON with the tenant. Unknown names are errors: a demand that this program does not know is not met, so such a tenant's
//! callers are refused.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::api::InstanceId;

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
}
