//! A volume comes back with its credentials, and nothing in its description can be changed unnoticed.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::crypto::kdf::ArgonCost;
use crate::crypto::secret::Passphrase;
use crate::keys::{FileId, KeyFile, PassphraseProvider, ProviderError};

fn passphrase(text: &str) -> PassphraseProvider {
    let cost = ArgonCost::new(8, 1, 1).unwrap();
    PassphraseProvider::with_cost(Passphrase::new(text.as_bytes()).unwrap(), cost)
}

fn with(provider: impl KeyProvider + 'static) -> Vec<Box<dyn KeyProvider>> {
    vec![Box::new(provider)]
}

/// A volume with slot 1 for the passphrase "one" and slot 2 for the key file `key`.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Fixture { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(fixture.backing()).unwrap();
        let key_file = KeyFile::create(&fixture.key_path()).unwrap();
        let slots =
            [NewSlot { provider: &passphrase("one"), label: "desk" }, NewSlot { provider: &key_file, label: "" }];
        Volume::create(&fixture.backing(), &slots).unwrap();
        fixture
    }

    fn backing(&self) -> PathBuf {
        self.dir.path().join("backing")
    }

    fn key_path(&self) -> PathBuf {
        self.dir.path().join("key")
    }

    fn toml(&self) -> PathBuf {
        self.backing().join(CONTROL_DIR).join(DESCRIPTION_FILE)
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.toml()).unwrap()
    }

    fn key_file(&self) -> Vec<Box<dyn KeyProvider>> {
        with(KeyFile::read(&self.key_path()).unwrap())
    }

    fn unlock(&self, credentials: &Credentials) -> Result<Unlocked> {
        Volume::open(&self.backing())?.unlock(credentials, None)
    }

    /// What opening and unlocking with either credential says of a changed description.
    fn unlock_changed(&self, text: impl AsRef<[u8]>) -> [Result<Unlocked>; 2] {
        std::fs::write(self.toml(), text).unwrap();
        [self.unlock(&self.key_file()), self.unlock(&with(passphrase("one")))]
    }
}

#[test]
fn each_credential_unlocks_the_same_keys() {
    let fixture = Fixture::new();
    let volume = Volume::open(&fixture.backing()).unwrap();
    let one = volume.unlock(&with(passphrase("one")), None).unwrap();
    let two = volume.unlock(&fixture.key_file(), Some(volume.description().uuid())).unwrap();
    assert_eq!((one.slot(), two.slot()), (1, 2));
    let (file, dek) = (FileId::random(), Secret::random());
    let wrapped = one.ring().wrap_dek(&file, &dek);
    assert_eq!(two.ring().unwrap_dek(&file, &wrapped).unwrap().expose(), dek.expose());
    assert_eq!(one.ring().names().seal(b"dir", b"name"), two.ring().names().seal(b"dir", b"name"));
    assert_eq!(one.ring().volume(), volume.description().uuid());
}

#[test]
fn only_the_owner_gets_at_the_description() {
    let fixture = Fixture::new();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&fixture.backing().join(CONTROL_DIR)), 0o700);
    assert_eq!(mode(&fixture.toml()), 0o600);
    let names: std::collections::BTreeSet<_> =
        std::fs::read_dir(fixture.toml().parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), [LOCK_FILE, DESCRIPTION_FILE]);
}

#[test]
fn an_error_says_which_credential_was_wrong() {
    let fixture = Fixture::new();
    let error = fixture.unlock(&with(passphrase("two"))).unwrap_err();
    assert!(matches!(error, VolumeError::NoneOpens { .. }));
    assert_eq!(error.to_string(), "wrong passphrase: it opens none of the key slots of its kind (1)");
    let other = fixture.dir.path().join("other");
    let error = fixture.unlock(&with(KeyFile::create(&other).unwrap())).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("wrong key file {}: it opens none of the key slots of its kind (2)", other.display())
    );
    let error = fixture.unlock(&[]).unwrap_err();
    assert_eq!(error.to_string(), "the volume has no key slot for no credential at all; it has: passphrase, key-file");
}

#[test]
fn a_kind_without_a_slot_is_named() {
    let dir = tempfile::tempdir().unwrap();
    Volume::create(dir.path(), &[NewSlot { provider: &passphrase("one"), label: "" }]).unwrap();
    let key = KeyFile::create(&dir.path().join("key")).unwrap();
    let error = Volume::open(dir.path()).unwrap().unlock(&with(key), None).unwrap_err();
    assert_eq!(error.to_string(), "the volume has no key slot for key-file; it has: passphrase");
}

#[test]
fn a_pinned_uuid_is_checked() {
    let fixture = Fixture::new();
    let volume = Volume::open(&fixture.backing()).unwrap();
    let other = Uuid::new_v4();
    let error = volume.unlock(&fixture.key_file(), Some(other)).unwrap_err();
    assert!(matches!(error, VolumeError::OtherVolume { expected, .. } if expected == other));
}

#[test]
fn a_volume_is_made_only_in_an_empty_directory() {
    let fixture = Fixture::new();
    let provider = passphrase("one");
    let slots = [NewSlot { provider: &provider, label: "" }];
    assert!(matches!(Volume::create(&fixture.backing(), &slots), Err(VolumeError::AlreadyAVolume(_))));
    std::fs::write(fixture.backing().join("more"), "").unwrap();
    assert!(matches!(Volume::create(&fixture.backing(), &slots), Err(VolumeError::AlreadyAVolume(_))));
    let error = Volume::create(fixture.dir.path(), &slots).unwrap_err();
    assert!(matches!(error, VolumeError::NotEmpty { .. }), "{error}");
    assert!(!fixture.dir.path().join(CONTROL_DIR).exists());
    let missing = fixture.dir.path().join("missing");
    assert!(matches!(Volume::create(&missing, &slots), Err(VolumeError::Io { .. })));
    assert!(matches!(Volume::open(&missing), Err(VolumeError::Io { .. })));
    assert!(matches!(Volume::open(fixture.dir.path()), Err(VolumeError::NotAVolume(_))));
    assert!(matches!(Volume::open(&fixture.key_path()), Err(VolumeError::WrongKind { .. })));
}

#[test]
fn a_volume_needs_a_slot() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Volume::create(dir.path(), &[]), Err(VolumeError::Malformed(_))));
    assert!(matches!(Volume::open(dir.path()), Err(VolumeError::NotAVolume(_))));
}

#[test]
fn an_interrupted_initialisation_can_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join(CONTROL_DIR);
    std::fs::create_dir(&control).unwrap();
    std::fs::write(control.join("volume.toml.new"), "half").unwrap();
    std::fs::write(control.join(LOCK_FILE), "").unwrap();
    let provider = passphrase("one");
    Volume::create(dir.path(), &[NewSlot { provider: &provider, label: "" }]).unwrap();
    Volume::open(dir.path()).unwrap().unlock(&with(passphrase("one")), None).unwrap();
    assert_eq!(std::fs::metadata(&control).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!control.join("volume.toml.new").exists());
}

#[test]
fn no_symlink_is_followed() {
    let fixture = Fixture::new();
    let elsewhere = Fixture::new();
    let wrong_kind = |result: Result<Volume>| matches!(result, Err(VolumeError::WrongKind { .. }));

    std::fs::remove_file(fixture.toml()).unwrap();
    symlink(elsewhere.toml(), fixture.toml()).unwrap();
    assert!(wrong_kind(Volume::open(&fixture.backing())));
    std::fs::remove_file(fixture.toml()).unwrap();
    std::fs::create_dir(fixture.toml()).unwrap();
    assert!(wrong_kind(Volume::open(&fixture.backing())));

    let control = fixture.backing().join(CONTROL_DIR);
    std::fs::remove_dir_all(&control).unwrap();
    symlink(elsewhere.backing().join(CONTROL_DIR), &control).unwrap();
    assert!(wrong_kind(Volume::open(&fixture.backing())));
    let provider = passphrase("one");
    let slots = [NewSlot { provider: &provider, label: "" }];
    assert!(matches!(Volume::create(&fixture.backing(), &slots), Err(VolumeError::WrongKind { .. })));

    let lock = elsewhere.backing().join(CONTROL_DIR).join(LOCK_FILE);
    std::fs::remove_file(&lock).unwrap();
    symlink(fixture.key_path(), &lock).unwrap();
    assert!(matches!(Volume::open(&elsewhere.backing()).unwrap().lock(), Err(VolumeError::WrongKind { .. })));
}

/// Every place where the description can be changed, one character at a time.
#[test]
fn no_character_can_be_changed() {
    let fixture = Fixture::new();
    let text = fixture.text().into_bytes();
    for at in 0..text.len() {
        for flip in [0x01, 0x10] {
            let mut changed = text.clone();
            changed[at] ^= flip;
            for result in fixture.unlock_changed(&changed) {
                assert!(result.is_err(), "byte {at} changed: {}", String::from_utf8_lossy(&changed));
            }
        }
    }
    for len in (0..text.len()).step_by(7) {
        assert!(fixture.unlock_changed(&text[..len]).iter().all(Result::is_err), "cut to {len}");
    }
    for more in ["\n", " ", "# hello", "[[key]]\n"] {
        let longer = [&text[..], more.as_bytes()].concat();
        assert!(fixture.unlock_changed(&longer).iter().all(Result::is_err), "{more:?} added");
    }
    assert!(fixture.unlock_changed(&text).iter().all(Result::is_ok));
}

/// Every line removed, every field set to the value that another volume has there.
#[test]
fn no_entry_can_be_removed_or_taken_from_another_volume() {
    let (fixture, other) = (Fixture::new(), Fixture::new());
    let (text, other_text) = (fixture.text(), other.text());
    let lines: Vec<_> = text.lines().collect();
    let other_lines: Vec<_> = other_text.lines().collect();
    assert_eq!(lines.len(), other_lines.len());
    let mut foreign = 0;
    for at in 0..lines.len() {
        let mut without = lines.clone();
        without.remove(at);
        for result in fixture.unlock_changed(without.join("\n") + "\n") {
            assert!(result.is_err(), "without line {at}: {}", lines[at]);
        }
        if lines[at] != other_lines[at] {
            foreign += 1;
            let mut with_foreign = lines.clone();
            with_foreign[at] = other_lines[at];
            for result in fixture.unlock_changed(with_foreign.join("\n") + "\n") {
                assert!(result.is_err(), "line {at} from another volume: {}", other_lines[at]);
            }
        }
    }
    // MAC, uuid, key id, volume key, and salt, check and wrapped key of two slots.
    assert!(foreign >= 10, "{foreign} lines differ");
}

/// An attacker with a volume of their own, for which they know the passphrase, grafts parts of ours onto it and the other way round.
#[test]
fn slots_of_another_volume_with_the_same_passphrase_are_refused() {
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    let (our_text, their_text) = (ours.text(), theirs.text());
    let slot = |text: &str| {
        let start = text.find("[[key.slot]]").unwrap();
        text[start..start + text[start + 1..].find("[[key.slot]]").unwrap() + 1].to_owned()
    };
    let grafted = our_text.replace(&slot(&our_text), &slot(&their_text));
    std::fs::write(ours.toml(), grafted).unwrap();
    let error = ours.unlock(&with(passphrase("one"))).unwrap_err();
    assert!(matches!(error, VolumeError::BrokenSlot { slot: 1, source: ProviderError::Unauthentic(_), .. }), "{error}");
    // The other slot is whole; that the description is not shows with it too.
    assert!(matches!(ours.unlock(&ours.key_file()), Err(VolumeError::Changed { slot: 2 })));
}

#[test]
fn slots_exchanged_within_a_volume_are_refused() {
    let fixture = Fixture::new();
    let mut volume = Volume::open(&fixture.backing()).unwrap();
    let keys = volume.unlock(&with(passphrase("one")), None).unwrap();
    volume.add_slot(&keys, NewSlot { provider: &passphrase("three"), label: "" }).unwrap();
    let text =
        fixture.text().replace("id = 1\n", "id = X\n").replace("id = 3\n", "id = 1\n").replace("id = X\n", "id = 3\n");
    std::fs::write(fixture.toml(), text).unwrap();
    for text in ["one", "three"] {
        let error = fixture.unlock(&with(passphrase(text))).unwrap_err();
        assert!(matches!(error, VolumeError::BrokenSlot { .. }), "{error}");
    }
}

/// A changed description for which the attacker also makes the MAC anew, with a key of their own.
#[test]
fn a_mac_by_another_key_is_refused() {
    let fixture = Fixture::new();
    let text = fixture.text();
    let rest = text.split_once('\n').unwrap().1.replace("desk", "disk");
    let mac = BASE64_URL_SAFE_NO_PAD.encode(kdf::mac(&Secret::random(), rest.as_bytes()));
    for result in fixture.unlock_changed(format!("mac = \"{mac}\"\n{rest}")) {
        assert!(matches!(result, Err(VolumeError::Changed { .. })));
    }
}

#[test]
fn other_versions_and_unknown_features_are_refused_by_name() {
    let fixture = Fixture::new();
    let text = fixture.text();
    for version in [0, 2, -1, i64::MAX] {
        let [result, _] =
            fixture.unlock_changed(text.replace("format = 1\n", &format!("format = {version}\nnew = 1\n")));
        assert!(matches!(result, Err(VolumeError::UnknownFormat(found)) if found == version));
    }
    let [result, _] = fixture.unlock_changed(text.replace("features = []", "features = [\"time-travel\"]\nnew = 1"));
    let error = result.unwrap_err();
    assert!(matches!(&error, VolumeError::UnknownFeature(name) if name == "time-travel"));
    assert!(error.remedy().unwrap().contains("newer"));
}

#[test]
fn what_breaks_the_rules_is_malformed() {
    let fixture = Fixture::new();
    let text = fixture.text();
    let key = &text[text.find("[[key]]").unwrap()..];
    let slot = &text[text.find("[[key.slot]]").unwrap()..];
    for (what, changed) in [
        ("no active key", text.replace("\"active\"", "\"deactivated\"")),
        ("no such state", text.replace("\"active\"", "\"asleep\"")),
        ("two active keys", format!("{text}{key}")),
        ("the same slots twice", format!("{text}{slot}")),
        ("no slots", text.replace(slot, "")),
        ("an unknown field", text.replace("version = 1", "version = 1\nfoo = 1")),
        ("a label with an escape sequence", text.replace("desk", "\\u001b[31m")),
        ("a long label", text.replace("desk", &"x".repeat(101))),
        ("a provider that is no word", text.replace("\"key-file\"", "\"key file\"")),
        ("a short wrapped key", text.replace("volume_key = \"", "volume_key = \"AAAA")),
        ("a field twice", text.replace("version = 1", "version = 1\nversion = 1")),
        ("no mac", text.split_once('\n').unwrap().1.to_owned()),
        ("a second mac", text.replace("format = 1", "mac = \"\"\nformat = 1")),
        ("nothing", String::new()),
    ] {
        let [result, _] = fixture.unlock_changed(changed);
        assert!(matches!(result, Err(VolumeError::Malformed(_))), "{what}: {result:?}");
    }
    std::fs::write(fixture.toml(), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(matches!(Volume::open(&fixture.backing()), Err(VolumeError::TooLarge(_))));
}

#[test]
fn slots_are_added_and_removed() {
    let fixture = Fixture::new();
    let mut volume = Volume::open(&fixture.backing()).unwrap();
    let keys = volume.unlock(&fixture.key_file(), None).unwrap();
    let new = volume.add_slot(&keys, NewSlot { provider: &passphrase("three"), label: "third" }).unwrap();
    assert_eq!(new, 3);
    assert_eq!(fixture.unlock(&with(passphrase("three"))).unwrap().slot(), 3);

    volume.remove_slot(&keys, 1).unwrap();
    assert!(matches!(fixture.unlock(&with(passphrase("one"))), Err(VolumeError::NoneOpens { .. })));
    assert!(matches!(volume.remove_slot(&keys, 1), Err(VolumeError::NoSuchSlot(1))));
    volume.remove_slot(&keys, 2).unwrap();
    let error = volume.remove_slot(&keys, 3).unwrap_err();
    assert!(matches!(error, VolumeError::LastSlot { slot: 3, version: 1 }));
    assert_eq!(fixture.unlock(&with(passphrase("three"))).unwrap().slot(), 3);
    let ids: Vec<_> = volume.description().keys()[0].slots.iter().map(|slot| (slot.id, slot.label.as_str())).collect();
    assert_eq!(ids, [(3, "third")]);

    let error = volume.add_slot(&keys, NewSlot { provider: &passphrase("x"), label: "a\nb" }).unwrap_err();
    assert!(matches!(error, VolumeError::Malformed(_)));
    assert_eq!(fixture.unlock(&with(passphrase("three"))).unwrap().slot(), 3);
}

#[test]
fn two_that_change_a_volume_at_once_do_not_undo_each_other() {
    let fixture = Fixture::new();
    let (mut first, mut second) =
        (Volume::open(&fixture.backing()).unwrap(), Volume::open(&fixture.backing()).unwrap());
    let keys = first.unlock(&fixture.key_file(), None).unwrap();
    first.add_slot(&keys, NewSlot { provider: &passphrase("three"), label: "" }).unwrap();
    let error = second.add_slot(&keys, NewSlot { provider: &passphrase("four"), label: "" }).unwrap_err();
    assert!(matches!(error, VolumeError::Raced));
    fixture.unlock(&with(passphrase("three"))).unwrap();
}

#[test]
fn keys_of_another_volume_change_nothing() {
    let (fixture, other) = (Fixture::new(), Fixture::new());
    let keys = other.unlock(&with(passphrase("one"))).unwrap();
    let mut volume = Volume::open(&fixture.backing()).unwrap();
    let refused = volume.add_slot(&keys, NewSlot { provider: &passphrase("three"), label: "" });
    assert!(matches!(refused, Err(VolumeError::StillLocked(1))));
    assert!(matches!(volume.remove_slot(&keys, 1), Err(VolumeError::StillLocked(1))));
}

#[test]
fn one_process_at_a_time_has_the_lock() {
    let fixture = Fixture::new();
    let volume = Volume::open(&fixture.backing()).unwrap();
    let mut held = volume.lock().unwrap();
    held.record_pid();
    let again = Volume::open(&fixture.backing()).unwrap();
    let error = again.lock().unwrap_err();
    assert!(matches!(error, VolumeError::InUse { pid: Some(pid) } if pid == std::process::id()), "{error}");
    assert_eq!(error.to_string(), format!("the volume is in use by process {}", std::process::id()));
    drop(held);
    // A file that is left behind, whatever it says, locks nothing.
    std::fs::write(fixture.backing().join(CONTROL_DIR).join(LOCK_FILE), "4711 and more").unwrap();
    let held = again.lock().unwrap();
    drop(held);
    // Slots can be changed while the volume is mounted.
    let _held = volume.lock().unwrap();
    let keys = volume.unlock(&fixture.key_file(), None).unwrap();
    let mut editing = Volume::open(&fixture.backing()).unwrap();
    editing.add_slot(&keys, NewSlot { provider: &passphrase("three"), label: "" }).unwrap();
}

#[test]
fn a_rotation_makes_a_new_version_and_the_old_one_still_unwraps() {
    let fixture = Fixture::new();
    let mut volume = Volume::open(&fixture.backing()).unwrap();
    let keys = volume.unlock(&fixture.key_file(), None).unwrap();
    let (file, dek) = (FileId::random(), Secret::random());
    let wrapped = keys.ring().wrap_dek(&file, &dek);

    // The passphrase's slot would be lost: nothing happens unless that is wanted.
    let before = fixture.text();
    let refused = volume.rotate(&keys, &fixture.key_file(), false).unwrap_err();
    assert!(
        matches!(&refused, VolumeError::SlotsLeft { slots } if slots.len() == 1 && slots[0].1 == "passphrase"),
        "{refused}"
    );
    assert_eq!(fixture.text(), before);
    let rotation = volume.rotate(&keys, &fixture.key_file(), true).unwrap();
    assert_eq!((rotation.version, rotation.left_behind.len(), rotation.unlocked.versions()), (2, 1, vec![2, 1]));

    let rotated = fixture.unlock(&fixture.key_file()).unwrap();
    assert_eq!(rotated.ring().active(), rotation.unlocked.ring().active());
    assert_ne!(rotated.ring().active(), wrapped.key_id);
    assert_eq!(rotated.ring().unwrap_dek(&file, &wrapped).unwrap().expose(), dek.expose());
    // A daemon that runs on the old version's ring takes the new one over.
    let running = keys.ring();
    running.adopt(&volume.handover(&rotated).unwrap()).unwrap();
    let fresh = running.wrap_dek(&file, &dek);
    assert_eq!(rotated.ring().unwrap_dek(&file, &fresh).unwrap().expose(), dek.expose());

    // The passphrase has a slot in the old version only: that opens nothing.
    assert!(matches!(fixture.unlock(&with(passphrase("one"))), Err(VolumeError::NoSlotFor { .. })));
    // Keys from before the rotation change nothing any more.
    assert!(matches!(volume.rotate(&keys, &fixture.key_file(), true), Err(VolumeError::StillLocked(2))));
    // A slot is added to both versions.
    let mut volume = Volume::open(&fixture.backing()).unwrap();
    volume.add_slot(&rotated, NewSlot { provider: &passphrase("three"), label: "" }).unwrap();
    let by_passphrase = fixture.unlock(&with(passphrase("three"))).unwrap();
    assert_eq!(by_passphrase.ring().unwrap_dek(&file, &wrapped).unwrap().expose(), dek.expose());
}

#[test]
fn a_rotation_carries_every_slot_whose_credential_is_given() {
    let fixture = Fixture::new();
    let mut volume = Volume::open(&fixture.backing()).unwrap();
    let mut all = fixture.key_file();
    all.extend(with(passphrase("one")));
    let keys = volume.unlock(&all, None).unwrap();
    let slots = |volume: &Volume, version: usize| -> Vec<_> {
        let key = &volume.description().keys()[version - 1];
        key.slots.iter().map(|slot| (slot.id, slot.provider.clone(), slot.label.clone())).collect()
    };
    let rotation = volume.rotate(&keys, &all, false).unwrap();
    assert!(rotation.left_behind.is_empty());
    let volume = Volume::open(&fixture.backing()).unwrap();
    assert_eq!(slots(&volume, 2), slots(&volume, 1));
    for credentials in [fixture.key_file(), with(passphrase("one"))] {
        assert_eq!(fixture.unlock(&credentials).unwrap().versions(), [2, 1]);
    }
}

#[test]
fn an_old_version_is_retired_and_destroyed_and_the_active_one_is_not() {
    let fixture = Fixture::new();
    let mut volume = Volume::open(&fixture.backing()).unwrap();
    let mut all = fixture.key_file();
    all.extend(with(passphrase("one")));
    let keys = volume.unlock(&all, None).unwrap();
    let (file, dek) = (FileId::random(), Secret::random());
    let wrapped = keys.ring().wrap_dek(&file, &dek);
    for refused in [volume.retire(&keys, 1, false), volume.destroy(&keys, 1), volume.mark_compromised(&keys, 1)] {
        assert!(matches!(refused, Err(VolumeError::Active(1))));
    }
    assert!(matches!(volume.retire(&keys, 7, false), Err(VolumeError::NoSuchVersion(7))));
    let keys = volume.rotate(&keys, &all, false).unwrap().unlocked;

    volume.mark_compromised(&keys, 1).unwrap();
    assert_eq!(
        (volume.description().keys()[0].state, volume.description().keys()[0].retired),
        (KeyState::Compromised, None)
    );
    volume.retire(&keys, 1, false).unwrap();
    let retired = volume.description().keys()[0].retired;
    assert!(retired.is_some());
    assert_eq!(fixture.unlock(&all).unwrap().ring().unwrap_dek(&file, &wrapped).unwrap().expose(), dek.expose());

    volume.destroy(&keys, 1).unwrap();
    let volume = Volume::open(&fixture.backing()).unwrap();
    let old = &volume.description().keys()[0];
    assert_eq!((old.state, old.slots.len(), old.retired), (KeyState::Destroyed, 0, retired));
    let unlocked = fixture.unlock(&all).unwrap();
    assert_eq!(unlocked.versions(), [2]);
    assert!(matches!(unlocked.ring().unwrap_dek(&file, &wrapped), Err(crate::keys::ring::UnwrapError::NoSuchKey(_))));
    let mut volume = Volume::open(&fixture.backing()).unwrap();
    assert!(matches!(volume.destroy(&unlocked, 1), Err(VolumeError::Destroyed(1))));
    assert!(matches!(volume.retire(&unlocked, 1, false), Err(VolumeError::Destroyed(1))));
}

#[test]
fn a_slot_is_rebound_to_another_provider_under_its_number() {
    let fixture = Fixture::new();
    let mut volume = Volume::open(&fixture.backing()).unwrap();
    let mut all = fixture.key_file();
    all.extend(with(passphrase("one")));
    let keys = volume.unlock(&all, None).unwrap();
    let keys = volume.rotate(&keys, &all, false).unwrap().unlocked;
    let slot = volume.description().keys()[1].slots.iter().find(|slot| slot.provider == "passphrase").unwrap().clone();
    volume.rebind(&keys, slot.id, NewSlot { provider: &passphrase("another"), label: "" }).unwrap();
    assert!(matches!(
        volume.rebind(&keys, 99, NewSlot { provider: &passphrase("x"), label: "" }),
        Err(VolumeError::NoSuchSlot(99))
    ));
    assert!(matches!(fixture.unlock(&with(passphrase("one"))), Err(VolumeError::NoneOpens { .. })));
    let unlocked = fixture.unlock(&with(passphrase("another"))).unwrap();
    assert_eq!((unlocked.slot(), unlocked.versions()), (slot.id, vec![2, 1]));
    assert!(
        volume
            .description()
            .keys()
            .iter()
            .all(|key| key.slots.iter().all(|have| have.id != slot.id || have.label == slot.label))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Document::parse(bytes);
    }

    #[test]
    fn any_text_behind_a_mac_is_parsed_or_refused(text in "[a-z0-9=\\[\\]{}\".,# \n]{0,300}") {
        let mac = BASE64_URL_SAFE_NO_PAD.encode([0; 32]);
        let _ = Document::parse(format!("mac = \"{mac}\"\n{text}").into_bytes());
    }
}

#[test]
fn deep_nesting_is_refused_without_harm() {
    let mac = BASE64_URL_SAFE_NO_PAD.encode([0; 32]);
    for deep in [
        "x = ".to_owned() + &"[".repeat(100_000),
        "x = ".to_owned() + &"{a=".repeat(100_000),
        "a.".repeat(100_000) + "b = 1",
    ] {
        assert!(Document::parse(format!("mac = \"{mac}\"\n{deep}\n").into_bytes()).is_err());
    }
}

/// The volume in `tests/vectors/volume-v1` unlocks for ever, and to the same keys.
#[test]
fn a_volume_of_format_version_1_unlocks() {
    let base64 = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (control, key_path) = (dir.path().join(CONTROL_DIR), dir.path().join("key"));
    std::fs::create_dir(&control).unwrap();
    let text = include_str!("../../tests/vectors/volume-v1/volume.toml");
    std::fs::write(control.join(DESCRIPTION_FILE), text).unwrap();
    let key = include_str!("../../tests/vectors/volume-v1/key.hex").trim();
    let key: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&key[2 * i..2 * i + 2], 16).unwrap()).collect();
    std::fs::write(&key_path, key).unwrap();
    std::fs::set_permissions(&key_path, std::fs::Permissions::from_mode(0o600)).unwrap();

    let passphrase =
        PassphraseProvider::new(Passphrase::new("correct horse battery staple \u{e9}".as_bytes()).unwrap());
    for (slot, credentials) in [(1, with(passphrase)), (2, with(KeyFile::read(&key_path).unwrap()))] {
        let uuid = "94dc54a6-f424-4430-a8e9-5aac253d9748".parse().unwrap();
        let keys = Volume::open(dir.path()).unwrap().unlock(&credentials, Some(uuid)).unwrap();
        assert_eq!(keys.slot(), slot);
        let ring = keys.ring();
        assert_eq!(ring.active().to_string(), "bf52f8e4c9b0ecbd60aab9e985648f54");

        let dek = "gheBpMPwDbZ9YByHZZe7y90IaWAq8454YGNpPQYmNe23mlMyQqAbrWE9ToIuTSSP4nseG8aN59WSHdfE";
        let wrapped = aead::WrappedSecret::from_bytes(&base64(dek)).unwrap();
        let wrapped = crate::keys::WrappedDek { key_id: ring.active(), wrapped };
        let dek = ring.unwrap_dek(&FileId([0x11; 16]), &wrapped).unwrap();
        assert_eq!(dek.expose(), &[0x42; 32]);
        let file_key = kdf::file_key(&dek, &[0x11; 16], 3);
        assert_eq!(file_key.expose()[..], base64("qVHXiLpbWOwrquheSHdkGXlBZQF1qsw_QrXObuFm0Dw"));
        assert_eq!(ring.names().seal(&[0x22; 16], b".env"), base64("uxVkosBmx-c2NyY3wdkCbGjHshs"));
        assert_eq!(ring.xattr_names().seal(b"", b"comment"), base64("w0ZdByhWhZ2Xaka9eOnZJOohrCGsk3Y"));
        let target = base64("_TqHcEg5pe2M75j8l2ijKkXPvOuapfZ1v1CZThVbR245kw");
        assert_eq!(aead::open_value(ring.symlink_key(), b"envelopefs symlink v1", &target).unwrap(), b"target");
        let value = base64("kjW_mK3YNOefJRaZ4iC9wVR54RepfuiKiOxqPwZ3e0fa");
        assert_eq!(aead::open_value(ring.xattr_value_key(), b"comment", &value).unwrap(), b"value");
    }
}
