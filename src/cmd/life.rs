//! `envelopefs key rotate, status, retire, destroy, rebind`: the life of a master key (NIST SP 800-57 part 1, section 7).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::headers::{self, Pace, Reach, Walked};
use super::{Code, Exit, Failure, Result, credentials, harden, key};
use crate::audit::{self, Event, Operation};
use crate::cli::{KeyDestroy, KeyRebind, KeyRetire, KeyRotate, KeyStatus, Walk};
use crate::fs::rewrap::Task;
use crate::keys::{Credentials, KeyId};
use crate::volume::{Description, KeyState, MasterKey, NewSlot, Rotation, Unlocked, Volume, VolumeError};

fn pace(options: &Walk) -> Pace {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    Pace {
        threads: options.threads.unwrap_or_else(processors),
        rate: options.rate.unwrap_or(0),
        quiet: options.quiet || options.json,
    }
}

fn say(json: bool, text: &str) {
    if !json {
        println!("{text}");
    }
}

/// Versions that still unwrap and are not the active one.
fn older(description: &Description) -> impl Iterator<Item = &MasterKey> {
    description.keys().iter().filter(|key| key.state.unwraps() && key.state != KeyState::Active)
}

pub(super) fn rotate(args: KeyRotate) -> Result<Exit> {
    harden()?;
    let mut volume = Volume::open(&args.backing)?;
    let credentials = credentials::existing(&args.credentials)?;
    let mut unlocked = audit::unlock(&volume, Operation::Rotate, &credentials, args.volume_id)?;
    // Before anything is changed: the way to the headers.
    let reach = Reach::find(&volume, &args.backing)?;
    let (pace, json) = (pace(&args.walk), args.walk.json);
    if args.dry_run {
        return foretell(&volume, &reach, &unlocked, pace, json, args.resume);
    }
    let mut left_behind = Vec::new();
    if !args.resume {
        let rotation = new_version(&mut volume, &unlocked, &credentials, &args)?;
        let event = Event::new(Operation::Rotate).slot(unlocked.slot()).version(rotation.version);
        audit::note(&volume, Some(&rotation.unlocked), event);
        say(json, &format!("Master key version {} is in force.", rotation.version));
        for slot in &rotation.left_behind {
            say(json, &format!("Key slot {slot} stays with the old version: it does not open the new one."));
        }
        (unlocked, left_behind) = (rotation.unlocked, rotation.left_behind);
    }
    reach.adopt(&volume.handover(&unlocked)?)?;
    let walked = reach.walk(&unlocked.ring(), Task::Rewrap, pace)?;
    let active = unlocked.ring().active();
    let proven = walked.counts.failed == 0 && walked.by_key.keys().all(|key| *key == active);
    let mut retired = Vec::new();
    if proven {
        let versions: Vec<u32> =
            older(volume.description()).filter(|key| key.retired.is_none()).map(|key| key.version).collect();
        for version in versions {
            let done = volume.retire(&unlocked, version, false);
            audit::noted(&volume, &unlocked, Event::new(Operation::Retire).version(version), done)?;
            retired.push(version);
        }
    }
    let version = unlocked.versions().first().copied();
    report(
        &walked,
        json,
        json!({"version": version, "complete": proven, "retired": retired, "left_behind": left_behind}),
    );
    if !proven {
        return Err(not_all(&walked, "the headers named still need an old master key, which stays"));
    }
    for version in retired {
        say(
            json,
            &format!(
                "No header needs version {version} any more. Destroy it when its backups are too old to matter: envelopefs key destroy {} {version}",
                args.backing.display()
            ),
        );
    }
    Ok(Exit::SUCCESS)
}

/// Makes the new version of the master key, with the slots that credentials are there for.
fn new_version(
    volume: &mut Volume,
    unlocked: &Unlocked,
    credentials: &Credentials,
    args: &KeyRotate,
) -> Result<Rotation> {
    let made = match volume.rotate(unlocked, credentials, false) {
        Err(VolumeError::SlotsLeft { slots }) if args.leave_slots_behind => {
            let gone: Vec<u32> = slots.iter().map(|(slot, _)| *slot).collect();
            let outlives = |gone: &[u32]| key::outlives(volume.description(), gone);
            if !args.insecure_no_recovery_slot && outlives(&[]) && !outlives(&gone) {
                return Err(credentials::no_recovery());
            }
            volume.rotate(unlocked, credentials, true)
        }
        made => made,
    };
    made.map_err(|error| {
        audit::note(volume, Some(unlocked), Event::new(Operation::Rotate).failed(&error));
        error.into()
    })
}

/// What a rotation would do.
fn foretell(volume: &Volume, reach: &Reach, unlocked: &Unlocked, pace: Pace, json: bool, resume: bool) -> Result<Exit> {
    let walked = reach.walk(&unlocked.ring(), Task::Count, pace)?;
    let headers = walked.counts.skipped();
    let current = walked.by_key.get(&unlocked.ring().active()).copied().unwrap_or(0);
    let to_rewrap = if resume { headers.saturating_sub(current) } else { headers };
    report(&walked, json, json!({"dry_run": true, "would_rewrap": to_rewrap}));
    let versions = volume.description().keys().len();
    say(
        json,
        &format!(
            "Dry run, nothing was changed: {to_rewrap} headers would be rewrapped; there are {versions} versions of the master key."
        ),
    );
    Ok(Exit::SUCCESS)
}

/// The summary of a walk, for people or as one JSON object.
fn report(walked: &Walked, json: bool, more: Value) {
    let counts = walked.counts;
    let seconds = walked.elapsed.as_secs_f64();
    if json {
        let failures: Vec<Value> =
            walked.failures.iter().map(|(path, what)| json!({"path": path, "reason": what})).collect();
        let mut object = json!({
            "files": counts.files, "empty": counts.empty, "headers": counts.files - counts.empty.min(counts.files),
            "rewrapped": counts.rewrapped, "skipped": counts.skipped(), "failed": counts.failed,
            "seconds": seconds, "failures": failures,
        });
        if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
            object.extend(more);
        }
        println!("{object}");
        return;
    }
    println!(
        "Headers: {} in all, {} rewrapped, {} skipped, {} failed; {} empty files have none. {:.1} s.",
        counts.files.saturating_sub(counts.empty),
        counts.rewrapped,
        counts.skipped(),
        counts.failed,
        counts.empty,
        seconds,
    );
    for (path, what) in &walked.failures {
        println!("failed: /{}: {}", path.escape_debug(), what.escape_debug());
    }
}

fn not_all(walked: &Walked, fact: &str) -> Failure {
    let failed = walked.counts.failed;
    Failure::new(Code::Failure, format!("{failed} headers could not be dealt with; {fact}"))
        .remedy("see what is wrong with these files (envelopefs check), then run: envelopefs key rotate --resume")
}

pub(super) fn status(args: KeyStatus) -> Result<Exit> {
    harden()?;
    let volume = Volume::open(&args.backing)?;
    let unlocked =
        audit::unlock(&volume, Operation::Unlock, &credentials::existing(&args.credentials)?, args.volume_id)?;
    let reach = Reach::find(&volume, &args.backing)?;
    let walked = reach.walk(&unlocked.ring(), Task::Count, pace(&args.walk))?;
    let keys = volume.description().keys();
    let needed = |key: &MasterKey| walked.by_key.get(&key.id).copied().unwrap_or(0);
    if args.walk.json {
        let versions: Vec<Value> = keys
            .iter()
            .map(|key| {
                json!({
                    "version": key.version, "id": key.id.to_string(), "state": key.state.to_string(), "headers": needed(key),
                    "created": key.created.to_string(), "deactivated": key.deactivated.map(|at| at.to_string()),
                    "retired": key.retired.map(|at| at.to_string()), "destroyed": key.destroyed.map(|at| at.to_string()),
                })
            })
            .collect();
        report(&walked, true, json!({"versions": versions}));
    } else {
        for key in keys {
            print!("Version {}: {}, {} headers, made {}", key.version, key.state, needed(key), key.created);
            let dates = [("deactivated", key.deactivated), ("retired", key.retired), ("destroyed", key.destroyed)];
            dates.iter().for_each(|(what, at)| at.iter().for_each(|at| print!(", {what} {at}")));
            println!();
        }
        report(&walked, false, Value::Null);
    }
    match walked.counts.failed {
        0 => Ok(Exit::SUCCESS),
        _ => Err(not_all(&walked, "they may need any version")),
    }
}

/// Makes sure that a version exists and is not the active one, before anything costly.
fn inactive(volume: &Volume, version: u32) -> Result<MasterKey> {
    use crate::volume::VolumeError::{Active, Destroyed, NoSuchVersion};
    let key = volume.description().keys().iter().find(|key| key.version == version).ok_or(NoSuchVersion(version))?;
    match key.state {
        KeyState::Active => Err(Active(version).into()),
        KeyState::Destroyed => Err(Destroyed(version).into()),
        KeyState::PreActive | KeyState::Deactivated | KeyState::Compromised => Ok(key.clone()),
    }
}

/// The number of headers that need a version, or that nobody could tell of.
fn needed_by(walked: &Walked, key: &MasterKey) -> u64 {
    walked.by_key.get(&key.id).copied().unwrap_or(0) + walked.counts.failed
}

fn still_needed(count: u64, version: u32) -> Failure {
    Failure::new(Code::Failure, format!("{count} headers need master key version {version}, or could not be read"))
        .remedy("rewrap them first: envelopefs key rotate --resume")
}

pub(super) fn retire(args: KeyRetire) -> Result<Exit> {
    harden()?;
    let mut volume = Volume::open(&args.backing)?;
    let unlocked =
        audit::unlock(&volume, Operation::Retire, &credentials::existing(&args.credentials)?, args.volume_id)?;
    let key = inactive(&volume, args.version)?;
    let (reach, json) = (Reach::find(&volume, &args.backing)?, args.walk.json);
    let walked = reach.walk(&unlocked.ring(), Task::Count, pace(&args.walk))?;
    let needed = needed_by(&walked, &key);
    if !args.dry_run {
        if args.compromised {
            let done = volume.mark_compromised(&unlocked, args.version);
            audit::noted(&volume, &unlocked, Event::new(Operation::Retire).version(args.version), done)?;
        }
        if needed == 0 {
            let done = volume.retire(&unlocked, args.version, args.compromised);
            audit::noted(&volume, &unlocked, Event::new(Operation::Retire).version(args.version), done)?;
        }
    }
    report(&walked, json, json!({"version": args.version, "needed_by": needed, "dry_run": args.dry_run}));
    match (needed, args.dry_run) {
        (0, true) => say(json, &format!("Dry run: version {} would be retired.", args.version)),
        (0, false) => say(json, &format!("Version {} is retired: no header needs it.", args.version)),
        (needed, _) => return Err(still_needed(needed, args.version)),
    }
    Ok(Exit::SUCCESS)
}

pub(super) fn destroy(args: KeyDestroy) -> Result<Exit> {
    harden()?;
    let mut volume = Volume::open(&args.backing)?;
    let unlocked =
        audit::unlock(&volume, Operation::Destroy, &credentials::existing(&args.credentials)?, args.volume_id)?;
    let key = inactive(&volume, args.version)?;
    let (reach, json) = (Reach::find(&volume, &args.backing)?, args.walk.json);
    let walked = reach.walk(&unlocked.ring(), Task::Count, pace(&args.walk))?;
    let needed = needed_by(&walked, &key);
    let lost = match needed {
        0 => Vec::new(),
        _ => headers::needing(&args.backing, &unlocked.ring(), vec![key.id])?,
    };
    let lost: Vec<String> = lost.iter().map(|path| format!("/{}", path.display())).collect();
    lost.iter().for_each(|path| say(json, &format!("would be lost: {}", path.escape_debug())));
    report(&walked, json, json!({"version": args.version, "needed_by": needed, "lost": lost, "dry_run": args.dry_run}));
    if !args.lose_data {
        if needed > 0 {
            return Err(still_needed(needed, args.version));
        }
        wait_for_grace(&key, args.grace_days)?;
    }
    if args.dry_run {
        say(json, &format!("Dry run: version {} would be destroyed.", args.version));
        return Ok(Exit::SUCCESS);
    }
    let done = volume.destroy(&unlocked, args.version);
    audit::noted(&volume, &unlocked, Event::new(Operation::Destroy).version(args.version), done)?;
    let kept: Vec<KeyId> = older(volume.description()).map(|key| key.id).collect();
    reach.keep_only(&kept)?;
    say(
        json,
        &format!(
            "Version {} is destroyed: nothing that was wrapped under it alone can be read any more.",
            args.version
        ),
    );
    say(
        json,
        "A copy of the volume's description from before, with a credential of that time, still opens it: destroy such backups too.",
    );
    Ok(Exit::SUCCESS)
}

/// Refuses to destroy a version whose grace period is not over: backups and snapshots may still need it.
fn wait_for_grace(key: &MasterKey, days: u32) -> Result<()> {
    let refuse = |fact: String| {
        Err(Failure::new(Code::Failure, fact).remedy(
        "wait, or say with --grace-days that a shorter time will do: files restored from backups of that time will not open",
    ))
    };
    let Some(retired) = key.retired else {
        return Err(Failure::new(Code::Failure, format!("version {} is not retired", key.version))
            .remedy("retire it first, from when the grace period counts: envelopefs key retire"));
    };
    let over = retired.checked_add(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(Timestamp::MAX);
    if over > Timestamp::now() {
        return refuse(format!("the grace period of version {} lasts until {over}", key.version));
    }
    Ok(())
}

pub(super) fn rebind(args: KeyRebind) -> Result<Exit> {
    harden()?;
    let mut volume = Volume::open(&args.backing)?;
    let unlocked =
        audit::unlock(&volume, Operation::SlotRebind, &credentials::existing(&args.credentials)?, args.volume_id)?;
    let provider = credentials::new_slot(&args.new)?;
    let is_last = !key::outlives(volume.description(), &[args.slot]);
    if provider.is_machine_bound() && !args.new.insecure_no_recovery_slot && is_last {
        return Err(credentials::no_recovery());
    }
    let say_what = |done: &str| {
        let (slot, with) = (args.slot, provider.describe());
        match args.json {
            true => println!("{}", json!({"slot": slot, "provider": with, "dry_run": args.dry_run})),
            false => println!("{done} key slot {slot}: {with}."),
        }
    };
    if args.dry_run {
        if !volume.description().keys().iter().any(|key| key.slots.iter().any(|slot| slot.id == args.slot)) {
            return Err(crate::volume::VolumeError::NoSuchSlot(args.slot).into());
        }
        provider.check()?;
        say_what("Dry run, would rebind");
        return Ok(Exit::SUCCESS);
    }
    let event = Event::new(Operation::SlotRebind).slot(args.slot).provider(provider.kind());
    let done = volume.rebind(&unlocked, args.slot, NewSlot { provider: &*provider, label: &args.new.label });
    audit::noted(&volume, &unlocked, event, done)?;
    say_what("Rebound");
    Ok(Exit::SUCCESS)
}
