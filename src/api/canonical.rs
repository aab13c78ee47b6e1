//! The texts that signatures are made over: of audit records, and of what was asked and answered.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256, Sha512};

use super::{Challenge, ClientNonce, InstanceId, Operation, Tenant, VolumeName, hex};

/// First line of every response context.
const RESPONSE_DOMAIN: &str = "envelopefs-keyserver/response/v1";
/// First line of every text that an attestation report is bound by.
const ATTESTATION_DOMAIN: &str = "envelopefs-keyserver/attestation/v1";
/// First line of every endorsement of a signing key.
const ENDORSEMENT_DOMAIN: &str = "envelopefs-keyserver/signing-key/v1";

/// The canonical text of an audit record, its top-level `signature` left out: lines `name=value`, sorted by their bytes, joined without a
/// line end after the last.
///
/// The members of an object within get its name and a dot in front. Values are lower-cased, names are not. **Lists and numbers
/// with a fraction or exponent are left out, and so not protected**; letter case, and whether a value is a number or text, is not protected either. That is
/// the wire's form; whoever makes records refuses control characters, and keeps to text and integers where it matters.
pub fn audit_text(record: &Map<String, Value>) -> String {
    let mut lines = Vec::new();
    for (name, value) in record.iter().filter(|(name, _)| *name != "signature") {
        flatten(name.clone(), value, &mut lines);
    }
    lines.sort_unstable();
    lines.join("\n")
}

fn flatten(name: String, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Null => lines.push(format!("{name}=")),
        Value::Bool(true) => lines.push(format!("{name}=True")),
        Value::Bool(false) => lines.push(format!("{name}=False")),
        Value::Number(number) if number.is_i64() || number.is_u64() => lines.push(format!("{name}={number}")),
        Value::String(text) => lines.push(format!("{name}={}", text.to_lowercase())),
        Value::Object(members) => {
            for (member, value) in members {
                flatten(format!("{name}.{member}"), value, lines);
            }
        }
        Value::Number(_) | Value::Array(_) => {}
    }
}

/// The text by which one signing key vouches for the next: `key_id` is the SHA-256 of the new key's SubjectPublicKeyInfo. It begins like no audit
/// record's text and no response context.
pub fn endorsement_text(spki: &[u8]) -> String {
    format!("domain={ENDORSEMENT_DOMAIN}\nkey_id={}", hex(&Sha256::digest(spki)))
}

/// What a context signature is over.
#[derive(Debug, Clone, Copy)]
pub struct ResponseContext<'a> {
    /// What was asked.
    pub operation: Operation,
    /// Whose keys were used.
    pub tenant: &'a Tenant,
    /// Who asked, as in the path.
    pub instance: &'a InstanceId,
    /// For which volume.
    pub volume: &'a VolumeName,
    /// The caller's nonce.
    pub nonce: &'a ClientNonce,
    /// The caller's one-time key, DER; empty for convert.
    pub rsa_wrapping_key: &'a [u8],
    /// The sealed secret: the one returned, for decrypt the one sent.
    pub encrypted_secret: &'a [u8],
    /// The secret under the one-time key; empty for convert.
    pub wrapped_secret: &'a [u8],
    /// Number of the audit record.
    pub audit_seq: u64,
    /// When, in RFC 3339.
    pub signed_at: &'a str,
}

impl ResponseContext<'_> {
    /// The text: no value holds anything but hexadecimal digits, decimal digits or a fixed word, so no two contexts share it; and since it begins
    /// with `domain=`, it is no audit record's.
    pub fn text(&self) -> String {
        let text = |text: &str| hex(text.as_bytes());
        [
            ("domain", RESPONSE_DOMAIN.to_owned()),
            ("operation", self.operation.word().to_owned()),
            ("tenant", text(self.tenant.as_str())),
            ("instance_id", text(self.instance.as_str())),
            ("volume_uuid", text(&self.volume.as_str().to_ascii_lowercase())),
            ("client_nonce", hex(&self.nonce.0)),
            ("rsa_wrapping_key_sha256", hash(self.rsa_wrapping_key)),
            ("encrypted_secret_sha256", hash(self.encrypted_secret)),
            ("wrapped_secret_sha256", hash(self.wrapped_secret)),
            ("audit_seq", self.audit_seq.to_string()),
            ("signed_at", text(self.signed_at)),
        ]
        .map(|(name, value)| format!("{name}={value}"))
        .join("\n")
    }
}

/// SHA-256 in hexadecimal digits. Empty stays empty: the hash of nothing would look like a value.
fn hash(bytes: &[u8]) -> String {
    if bytes.is_empty() { String::new() } else { hex(&Sha256::digest(bytes)) }
}

/// What an attestation report is bound to: one call.
#[derive(Debug, Clone, Copy)]
pub struct AttestedCall<'a> {
    /// What is asked.
    pub operation: Operation,
    /// Who asks, as in the path.
    pub instance: &'a InstanceId,
    /// For which volume.
    pub volume: &'a VolumeName,
    /// The caller's one-time key, DER; empty for convert.
    pub rsa_wrapping_key: &'a [u8],
    /// The sealed secret that is sent; empty for generate.
    pub encrypted_secret: &'a [u8],
    /// Of convert: the owner until now.
    pub source: Option<&'a InstanceId>,
}

impl AttestedCall<'_> {
    /// The text, made as that of a [`ResponseContext`]. The tenant is not in it: a caller need not know his, and the server gives a challenge
    /// to one instance of one tenant.
    pub fn text(&self, challenge: &Challenge) -> String {
        let text = |text: &str| hex(text.as_bytes());
        [
            ("domain", ATTESTATION_DOMAIN.to_owned()),
            ("operation", self.operation.word().to_owned()),
            ("instance_id", text(self.instance.as_str())),
            ("volume_uuid", text(&self.volume.as_str().to_ascii_lowercase())),
            ("challenge", hex(&challenge.0)),
            ("rsa_wrapping_key_sha256", hash(self.rsa_wrapping_key)),
            ("encrypted_secret_sha256", hash(self.encrypted_secret)),
            ("source_instance_id", text(self.source.map_or("", InstanceId::as_str))),
        ]
        .map(|(name, value)| format!("{name}={value}"))
        .join("\n")
    }

    /// What the report must hold as REPORT_DATA: SHA-512 of the text.
    pub fn report_data(&self, challenge: &Challenge) -> [u8; 64] {
        Sha512::digest(self.text(challenge)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> String {
        audit_text(&serde_json::from_str(json).unwrap())
    }

    /// Section 14 of the wire's specification.
    #[test]
    fn an_audit_record_has_the_published_text() {
        let record = r#"{"event_version":1,"vpc_op_seq_num":34,"vpc_id":"vpc-0A1B2C3D","op_start":"2026-01-02T03:04:05.678901Z","op_end":"2026-01-02T03:04:06.000002Z","caller":{"type":"INSTANCE","id":"i-0123456789abcdef0","ip":"10.0.0.7","aws_account_id":"123456789012"},"call":{"name":"convert-secret","parameters":{"instance_id":"i-0123456789abcdef0","volume_uuid":"AbC","source_instance_id":"i-0fedcba9876543210"}},"result":"Failed","failure_reason":null,"signature":"AAAA"}"#;
        let text = text(record);
        assert_eq!(text.len(), 420);
        assert_eq!(hex(&Sha256::digest(&text)), "af3e16f14bb3bd80a41788f3bbaa539b70f315684499cf28ef36f67d05b48091");
        let expected = "call.name=convert-secret\ncall.parameters.instance_id=i-0123456789abcdef0\n\
            call.parameters.source_instance_id=i-0fedcba9876543210\ncall.parameters.volume_uuid=abc\n\
            caller.aws_account_id=123456789012\ncaller.id=i-0123456789abcdef0\ncaller.ip=10.0.0.7\ncaller.type=instance\n\
            event_version=1\nfailure_reason=\nop_end=2026-01-02t03:04:06.000002z\nop_start=2026-01-02t03:04:05.678901z\n\
            result=failed\nvpc_id=vpc-0a1b2c3d\nvpc_op_seq_num=34";
        assert_eq!(text, expected);
    }

    /// Section 14 of the wire's specification.
    #[test]
    fn odd_shapes_have_the_published_text() {
        let odd = r#"{"a":{"b":1},"a.b":"X","a-b":null,"aB":true,"ab":{},"l":[1],"f":1.0,"É":"É"}"#;
        assert_eq!(text(odd), "a-b=\na.b=1\na.b=x\naB=True\nÉ=é");
        assert_eq!(text(r#"{"signature":"x","a":{"signature":"Y"}}"#), "a.signature=y");
    }

    #[test]
    fn an_endorsement_names_its_key() {
        let id = hex(&Sha256::digest(b"spki"));
        let expected = format!("domain=envelopefs-keyserver/signing-key/v1\nkey_id={id}");
        assert_eq!(endorsement_text(b"spki"), expected);
        assert_ne!(endorsement_text(b"spkj"), expected);
    }

    #[test]
    fn every_part_of_a_context_is_in_its_text() {
        let (tenant, instance, volume) =
            ("vpc-1".parse().unwrap(), "i-1".parse().unwrap(), "AbC".parse::<VolumeName>().unwrap());
        let base = ResponseContext {
            operation: Operation::Decrypt,
            tenant: &tenant,
            instance: &instance,
            volume: &volume,
            nonce: &ClientNonce([0xab; 32]),
            rsa_wrapping_key: b"key",
            encrypted_secret: b"sealed",
            wrapped_secret: b"wrapped",
            audit_seq: 7,
            signed_at: "2026-01-02T03:04:05Z",
        };
        let key = hex(&Sha256::digest(b"key"));
        let expected = format!(
            "domain=envelopefs-keyserver/response/v1\noperation=decrypt-secret\ntenant=7670632d31\ninstance_id=692d31\n\
            volume_uuid=616263\nclient_nonce={}\nrsa_wrapping_key_sha256={key}\nencrypted_secret_sha256={}\n\
            wrapped_secret_sha256={}\naudit_seq=7\nsigned_at=323032362d30312d30325430333a30343a30355a",
            "ab".repeat(32),
            hex(&Sha256::digest(b"sealed")),
            hex(&Sha256::digest(b"wrapped")),
        );
        assert_eq!(base.text(), expected);
        let (other_tenant, other_instance) = ("vpc-2".parse().unwrap(), "i-2".parse().unwrap());
        let (other_volume, other_case) = ("AbD".parse().unwrap(), "aBc".parse().unwrap());
        for other in [
            ResponseContext { operation: Operation::Generate, ..base },
            ResponseContext { tenant: &other_tenant, ..base },
            ResponseContext { instance: &other_instance, ..base },
            ResponseContext { volume: &other_volume, ..base },
            ResponseContext { nonce: &ClientNonce([0xac; 32]), ..base },
            ResponseContext { rsa_wrapping_key: b"", ..base },
            ResponseContext { encrypted_secret: b"Sealed", ..base },
            ResponseContext { wrapped_secret: b"", ..base },
            ResponseContext { audit_seq: 8, ..base },
            ResponseContext { signed_at: "2026-01-02T03:04:05z", ..base },
        ] {
            assert_ne!(other.text(), expected);
        }
        assert_eq!(ResponseContext { volume: &other_case, ..base }.text(), expected);
    }

    #[test]
    fn a_report_is_bound_to_one_call_by_the_published_text() {
        let (instance, volume) = ("i-0A".parse().unwrap(), "VOL".parse().unwrap());
        let call = AttestedCall {
            operation: Operation::Decrypt,
            instance: &instance,
            volume: &volume,
            rsa_wrapping_key: b"key",
            encrypted_secret: b"blob",
            source: None,
        };
        let challenge = Challenge([7; 32]);
        let text = format!(
            "domain=envelopefs-keyserver/attestation/v1\noperation=decrypt-secret\ninstance_id=692d3041\nvolume_uuid=766f6c\nchallenge={}\n\
             rsa_wrapping_key_sha256=2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683\n\
             encrypted_secret_sha256=fa2c8cc4f28176bbeed4b736df569a34c79cd3723e9ec42f9674b4d46ac6b8b8\nsource_instance_id=",
            "07".repeat(32)
        );
        assert_eq!(call.text(&challenge), text);
        assert_eq!(call.report_data(&challenge)[..], Sha512::digest(text)[..]);
        // Each part counts for itself.
        let (other, elsewhere) = ("i-0B".parse().unwrap(), "VOL2".parse().unwrap());
        let changed = [
            AttestedCall { operation: Operation::Generate, ..call },
            AttestedCall { instance: &other, ..call },
            AttestedCall { volume: &elsewhere, ..call },
            AttestedCall { rsa_wrapping_key: b"kex", ..call },
            AttestedCall { encrypted_secret: b"", ..call },
            AttestedCall { source: Some(&other), ..call },
        ];
        let mut all: Vec<_> = changed.iter().map(|call| call.report_data(&challenge)).collect();
        all.extend([call.report_data(&challenge), call.report_data(&Challenge([8; 32]))]);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 8);
    }
}
