//! `envelopefs audit`: what was done with a volume's keys.

use std::io::Write;

use serde_json::json;

use super::{Code, Exit, Failure, Result, credentials, harden};
use crate::audit::{self, Fault, Line};
use crate::cli::{AuditShow, AuditVerify};
use crate::volume::Volume;

pub(super) fn verify(args: AuditVerify) -> Result<Exit> {
    harden()?;
    let volume = Volume::open(&args.backing)?;
    let uuid = volume.description().uuid();
    let key = match args.chain_only {
        true => None,
        // Not noted: who verifies the log should not find it changed.
        false => Some(volume.unlock(&credentials::existing(&args.credentials)?, args.volume_id)?.ring().audit_key()),
    };
    let log = audit::read(&volume).map_err(Fault::from);
    let verified = log.and_then(|log| audit::verify(log, uuid, key.as_deref(), args.head.as_ref(), |_, _| ()));
    let verified = match verified {
        Ok(verified) => verified,
        Err(fault) => {
            if args.json {
                let line = if let Fault::Line { line, .. } = &fault { Some(*line) } else { None };
                println!("{}", json!({"ok": false, "line": line, "fault": fault.to_string()}));
            }
            return Err(faulty(&fault));
        }
    };
    let head = verified.head.as_ref().map(ToString::to_string);
    if args.json {
        let object = json!({
            "ok": true, "events": verified.events, "authenticated": verified.authenticated,
            "unconfirmed": verified.unconfirmed, "torn": verified.torn, "head": head,
        });
        println!("{object}");
        return Ok(Exit::SUCCESS);
    }
    match key {
        Some(_) => println!("Verified {} events, {} of them with a MAC.", verified.events, verified.authenticated),
        None => println!("Verified the chain of {} events, no MAC.", verified.events),
    }
    if key.is_some() && verified.unconfirmed > 0 {
        let count = verified.unconfirmed;
        println!(
            "The last {count} have none: failed attempts, which anybody who can write to the backing directory could have put there."
        );
    }
    for line in &verified.torn {
        println!("Line {line} was not written whole: a crash, a full disk, or somebody cut it.");
    }
    if let Some(head) = head {
        println!("Head: {head}");
        println!("Kept elsewhere and given with --head, it shows whether the end of the log was cut off since.");
    }
    Ok(Exit::SUCCESS)
}

pub(super) fn show(args: AuditShow) -> Result<Exit> {
    let volume = Volume::open(&args.backing)?;
    let mut out = std::io::stdout().lock();
    // A closed pipe is no fault of the log.
    let mut print = |line: &Line, text: &[u8]| {
        let _ = match args.json {
            true => out.write_all(text).and_then(|()| out.write_all(b"\n")),
            false => writeln!(out, "{}", for_people(line)),
        };
    };
    let log = audit::read(&volume).map_err(Fault::from);
    let shown = log.and_then(|log| audit::verify(log, volume.description().uuid(), None, None, &mut print));
    shown.map_err(|fault| faulty(&fault))?;
    Ok(Exit::SUCCESS)
}

fn for_people(line: &Line) -> String {
    use std::fmt::Write;
    let mut text = format!("{:>6}  {}  {:<12}", line.seq, line.time, line.operation);
    let mut add = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(text, "  {what} {}", value.escape_debug());
        }
    };
    add("version", line.key_version.map(|version| version.to_string()));
    add("slot", line.slot.map(|slot| slot.to_string()));
    add("by", line.provider.clone());
    add("user", Some(line.uid.to_string()));
    add("logged in as", line.login_uid.map(|uid| uid.to_string()));
    add("pid", Some(line.pid.to_string()));
    if !line.ok {
        add("FAILED:", Some(line.reason.clone().unwrap_or_default()));
    }
    text
}

fn faulty(fault: &Fault) -> Failure {
    match fault {
        Fault::Io(error) => Failure::new(Code::Failure, "the log of key events cannot be read").because(error),
        Fault::Line { .. } | Fault::Cut(_) => Failure::new(Code::Damaged, "the log of key events was changed")
            .because(fault)
            .remedy("compare with a copy kept elsewhere; if you did not change it, treat the backing directory as tampered with"),
    }
}
