//! The provider `hsm-api` of envelopefs in a simulated guest, at this server over HTTP: what the one makes as evidence, the other's policy judges.

use std::future::pending;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use tokio::task::block_in_place;

use super::*;
use crate::attest::{GuestError, KeyRequest, SnpGuest};
use crate::crypto::secret::Secret;
use crate::keys::contract::PLACE;
use crate::keys::hsm_api::{HsmApi, TakeOver};
use crate::keys::server::{Call, Reply, Server};
use crate::keys::{KeyProvider, ProviderError, SlotData};
use crate::server::http::routes::Api;
use crate::server::http::{self, Handler};

/// What becomes of calls on their way.
#[derive(Clone, Copy)]
enum Way {
    /// Each call arrives twice, and the second answer comes back.
    Replayed,
    /// Somebody who is in the way puts a key of his own in the place of the caller's.
    KeySwapped,
}

/// The service on a socket.
async fn serve(service: &Arc<Service>) -> SocketAddr {
    let text = "[listen]\naddress = \"127.0.0.1:0\"\ninsecure_plain_http = true\n[admin]\nlisten = [\"127.0.0.1:0\"]\n[hsm]\n[[hsm.token]]\nuri = \"pkcs11:token=t\"\nmodule = \"/m.so\"\n[audit]\nserver_id = \"n\"\n";
    let config = Config::parse(text, Path::new("/test")).unwrap();
    let api = Api::new(Arc::clone(service), config.limits.clone(), config.listen.answer_options, "{}");
    let api: Arc<dyn Handler> = Arc::new(api);
    let server = http::Server::bind(&config, Arc::clone(&api), api).await.unwrap();
    let address = server.address().unwrap();
    tokio::spawn(server.run(pending()));
    address
}

/// One request and its answer, as they are.
fn pass_on(to: SocketAddr, call: &Call, body: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(to).unwrap();
    let head = format!(
        "{} {} HTTP/1.1\r\nhost: h\r\nauthorization: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        call.method,
        call.path,
        call.header("authorization"),
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Reply::text(head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

fn relay(to: SocketAddr, way: Way, other_key: Vec<u8>) -> Server {
    Server::new(move |call| {
        let mut body = call.json();
        match way {
            _ if !call.path.ends_with("-secret") => pass_on(to, &call, &call.body),
            Way::Replayed => {
                assert!(matches!(pass_on(to, &call, &call.body), Reply::Is(200, ..)));
                pass_on(to, &call, &call.body)
            }
            Way::KeySwapped => {
                body["rsa_wrapping_key"] = json!(Base64(other_key.clone()));
                pass_on(to, &call, body.to_string().as_bytes())
            }
        }
    })
}

/// A guest whose reports are changed on their way out of the secure processor.
struct Damaged(Chip);

impl SnpGuest for Damaged {
    fn report_within(&self, data: &[u8; 64], vmpl: u32, limit: Duration) -> Result<Vec<u8>, GuestError> {
        let mut report = self.0.report_within(data, vmpl, limit)?;
        // The policy: a guest that its host may debug would like to be another one.
        report[0x0A] ^= 1;
        Ok(report)
    }

    fn derived_key(&self, request: &KeyRequest) -> Result<Secret<32>, GuestError> {
        self.0.derived_key(request)
    }
}

/// Callers with their files, at one address.
struct Callers {
    dir: tempfile::TempDir,
    address: String,
}

impl Callers {
    fn new(world: &World, address: SocketAddr) -> Callers {
        let callers = Callers { dir: tempfile::tempdir().unwrap(), address: format!("http://{address}") };
        callers.write("signing-key", world.cluster.signing_key(world.signing).unwrap().to_pem().as_bytes());
        for number in ["1", "2"] {
            callers.write(&format!("token-{number}"), format!("vpc-1-{number}").as_bytes());
        }
        callers
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn spec(&self, number: &str, more: &str) -> String {
        let (dir, address) = (self.dir.path().display(), &self.address);
        format!(
            "hsm-api:{address}/v1?insecure-plain-http=true&timeout=30&require-context=true&instance-id=i-{number}&token-file={dir}/token-{number}&signing-key={dir}/signing-key{more}"
        )
    }

    /// An instance in a guest, with these certificates.
    fn in_guest(&self, number: &str, guest: impl SnpGuest + 'static, certificates: &[u8]) -> HsmApi {
        self.write("certificates", certificates);
        let more = format!("&evidence=sev-snp&certificates={}/certificates", self.dir.path().display());
        block_in_place(|| HsmApi::in_guest(self.spec(number, &more).parse().unwrap(), guest)).unwrap()
    }
}

fn unwrap(provider: &dyn KeyProvider, slot: &SlotData) -> Result<Secret<32>, ProviderError> {
    block_in_place(|| provider.unwrap(slot, &PLACE)).expect("the slot is this instance's")
}

#[test]
fn the_provider_brings_what_the_policy_demands() {
    softhsm::in_child("server::service::tests::evidence::the_provider_brings_what_the_policy_demands", |softhsm| {
        block_on(async {
            softhsm.token("hsm");
            let chip = Chip::new(Product::Milan, Machine::owned(1));
            let world = World::attested(&testing::settings(softhsm, "hsm"), chip.roots()).await;
            let measured = hex(&Machine::owned(1).measurement);
            world.policy(json!({"convert": "any", "attestation": {"measurements": [measured]}})).await;
            let address = serve(&world.service).await;
            let callers = Callers::new(&world, address);
            let certificates = chip.certificates();
            let first = || callers.in_guest("1", chip.clone(), &certificates);

            let (provider, master) = (first(), Secret::random());
            let slot = block_in_place(|| provider.wrap(&master, &PLACE)).unwrap();
            assert_eq!(unwrap(&first(), &slot).unwrap().expose(), master.expose());
            let takeover = TakeOver::new(callers.in_guest("2", chip.clone(), &certificates), "i-1".parse().unwrap());
            assert_eq!(unwrap(&takeover, &slot).unwrap().expose(), master.expose());
            let records = world.records("vpc-1").await;
            let made: Vec<_> = records.iter().map(|record| record.call.name.as_str()).collect();
            let calls = ["generate-secret", "decrypt-secret", "decrypt-secret", "convert-secret", "decrypt-secret"];
            assert!(made.ends_with(&calls), "{made:?}");
            for record in &records[records.len() - calls.len()..] {
                assert!(record.failure_code.is_none() && record.caller.attestation_sha256.is_some());
                assert_eq!(record.call.parameters.get("attestation_measurement"), Some(measured.as_str()));
            }

            // Without, from elsewhere, changed, replayed, for another's key.
            let bare = block_in_place(|| HsmApi::open(callers.spec("1", "").parse().unwrap())).unwrap();
            let foreign = Chip::new(Product::Milan, Machine::owned(1));
            let through = |way| {
                let relay = relay(address, way, world.key.spki.clone());
                let callers = Callers { address: relay.url(), ..Callers::new(&world, address) };
                (relay, callers.in_guest("1", chip.clone(), &certificates), callers)
            };
            let (replayed, swapped) = (through(Way::Replayed), through(Way::KeySwapped));
            refused(&world, bare, &slot, "attestation-missing", "evidence=sev-snp").await;
            let elsewhere = callers.in_guest("1", foreign.clone(), &foreign.certificates());
            refused(&world, elsewhere, &slot, "attestation-certificates", "failure_code").await;
            let crossed = callers.in_guest("1", foreign, &certificates);
            refused(&world, crossed, &slot, "attestation-signature", "failure_code").await;
            let damaged = callers.in_guest("1", Damaged(chip.clone()), &certificates);
            refused(&world, damaged, &slot, "attestation-signature", "failure_code").await;
            refused(&world, replayed.1, &slot, "attestation-challenge", "failure_code").await;
            refused(&world, swapped.1, &slot, "attestation-report-data", "failure_code").await;
            chip.guest.machine().measurement[0] ^= 1;
            refused(&world, first(), &slot, "attestation-measurement", "failure_code").await;
            chip.guest.machine().measurement[0] ^= 1;
            unwrap(&first(), &slot).unwrap();
        });
    });
}

/// It is refused, with this remedy, and the log has the code.
async fn refused(world: &World, provider: HsmApi, slot: &SlotData, code: &str, remedy: &str) {
    let error = unwrap(&provider, slot).unwrap_err();
    assert!(matches!(error, ProviderError::Refused { .. }), "{code}: {error}");
    assert!(error.remedy().unwrap().contains(remedy), "{code}: {error}");
    assert_eq!(world.last("vpc-1").await.failure_code.as_deref(), Some(code));
}
