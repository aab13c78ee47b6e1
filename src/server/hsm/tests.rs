//! Clusters of real SoftHSM tokens, and of modules that fail as ordered. Each test is a process of its own (tests/common/softhsm.rs).

use aws_lc_rs::rsa::KeySize;

use super::softhsm::{self, SoftHsm};
use super::testing::{Caller, Hsm};
use super::*;

macro_rules! own_process {
    ($(#[$meta:meta])* $name:ident, |$softhsm:ident| $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            softhsm::in_child(concat!("server::hsm::tests::", stringify!($name)), |$softhsm: &SoftHsm| $body);
        }
    };
}

/// Names that an owner borrows.
struct Names(Tenant, InstanceId, VolumeName);

impl Names {
    fn new(tenant: &str, instance: &str, volume: &str) -> Names {
        Names(tenant.parse().unwrap(), instance.parse().unwrap(), volume.parse().unwrap())
    }

    fn owner(&self) -> Owner<'_> {
        Owner { tenant: &self.0, instance: &self.1, volume: &self.2 }
    }
}

own_process!(a_secret_comes_back_for_its_owner_and_for_nobody_else, |softhsm| {
    let Hsm { cluster, domain, signing } = Hsm::new(softhsm);
    let (ours, caller) = (Names::new("t-1", "i-1", "Vol"), Caller::new(KeySize::Rsa2048));
    let rsa = cluster.rsa_key(&caller.spki).unwrap();
    let key = cluster.make_customer_key(domain, &ours.0, 1).unwrap();
    let made = cluster.generate(&key, &ours.owner(), &rsa).unwrap();
    let secret = caller.open(&made.wrapped);
    assert_eq!((secret.len(), made.sealed.len(), key.wrapped.len()), (32, 84, 100));
    let sealed = Sealed::parse(&made.sealed).unwrap();
    let again = cluster.decrypt(&key, &sealed, &Names::new("t-1", "I-1", "vOL").owner(), &rsa).unwrap();
    assert_eq!(caller.open(&again), secret, "case does not count");
    for other in [("t-2", "i-1", "vol"), ("t-1", "i-2", "vol"), ("t-1", "i-1", "vo")] {
        let other = Names::new(other.0, other.1, other.2);
        assert!(matches!(cluster.decrypt(&key, &sealed, &other.owner(), &rsa), Err(HsmError::WrongContext)));
    }
    let key_of_cluster = cluster.signing_key(signing).unwrap();
    let signature = cluster.sign(signing, b"text").unwrap();
    key_of_cluster.verify(b"text", &signature, Padding::Minimal).unwrap();
    cluster.probe().unwrap();
});
