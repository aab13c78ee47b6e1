//! `envelopefs attest`: a report of this guest or of a file, verified against AMD's roots and what the caller demands.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use super::{Code, Exit, Failure, Result};
use crate::attest::certificate::{self, Certificate};
use crate::attest::report::{LEN, hex, unhex};
use crate::attest::{
    CertificateError, Demands, DeviceGuest, Endorsement, Report, RevocationList, Roots, Signer, SnpGuest,
    VerifiedReport, verify,
};
use crate::cli::Attest;
#[cfg(feature = "network")]
use crate::keys::http::{Http, HttpOptions, Request};

pub(super) fn run(args: Attest) -> Result<Exit> {
    let nonce = args.nonce.as_deref().map(|text| bytes::<64>("--nonce", text)).transpose()?;
    let mut demands = Demands {
        report_data: nonce,
        vmpl: args.vmpl,
        allow_debug: args.allow_debug,
        allow_migration: args.allow_migration,
        allow_version_2: args.allow_version_2,
        allow_vlek: args.allow_vlek,
        policy_set: args.policy_set,
        policy_clear: args.policy_clear,
        platform_set: args.platform_set,
        minimum_tcb: args.minimum_tcb.clone().unwrap_or_default(),
        measurements: args.measurement.iter().map(|text| bytes("--measurement", text)).collect::<Result<_>>()?,
        author_keys: args.author_key.iter().map(|text| bytes("--author-key", text)).collect::<Result<_>>()?,
        minimum_guest_svn: args.minimum_guest_svn,
        host_data: args.host_data.as_deref().map(|text| bytes("--host-data", text)).transpose()?,
        revocations: args.crl.iter().map(|path| revocation_list(path)).collect::<Result<_>>()?,
    };
    let report = match &args.report {
        Some(path) => read(path, LEN)?,
        None => {
            // Without a nonce of the caller's one of our own: the report is of now.
            let mut data = nonce.unwrap_or([0; 64]);
            if nonce.is_none() {
                crate::crypto::random(&mut data);
                demands.report_data = Some(data);
            }
            DeviceGuest.report(&data, args.vmpl).map_err(|error| {
                Failure::new(Code::Provider, "the secure processor gives no report")
                    .because(&error)
                    .remedy("run in an SEV-SNP guest as root, with /dev/sev-guest; or read a report with --report")
            })?
        }
    };
    if let Some(path) = &args.output {
        std::fs::write(path, &report).map_err(|error| file("write", path, &error))?;
    }
    let parsed = Report::parse(&report).map_err(|error| refused(&error))?;
    let endorsement = endorsement(&args, &parsed)?;
    let now = args.at.unwrap_or_else(Timestamp::now);
    let verified =
        verify::verify(&report, &endorsement, &Roots::amd(), now, &demands).map_err(|error| refused(&error))?;
    if args.json {
        println!("{}", as_json(&verified, &demands))
    } else {
        print(&verified, &demands)
    }
    Ok(Exit::SUCCESS)
}

fn refused(error: &dyn std::error::Error) -> Failure {
    Failure::new(Code::Attestation, "the report is not accepted").because(error)
}

fn file(doing: &str, path: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::new(Code::Failure, format!("cannot {doing} {}", path.display())).because(error)
}

/// Reads a file of at most so many bytes.
fn read(path: &Path, most: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let opened = File::open(path).map_err(|error| file("read", path, &error))?;
    // One more than there may be, so that a longer file does not pass for its beginning.
    opened.take(most as u64 + 1).read_to_end(&mut bytes).map_err(|error| file("read", path, &error))?;
    Ok(bytes)
}

fn bytes<const N: usize>(option: &str, text: &str) -> Result<[u8; N]> {
    unhex(text)
        .ok_or_else(|| Failure::new(Code::Usage, format!("{option} is not {} hexadecimal digits ({N} bytes)", 2 * N)))
}

fn revocation_list(path: &Path) -> Result<RevocationList> {
    let bytes = read(path, certificate::MAX_INPUT)?;
    RevocationList::from_der(&bytes).map_err(|error| file("use", path, &error))
}

/// The certificates, from wherever the caller has them.
fn endorsement(args: &Attest, report: &Report) -> Result<Endorsement> {
    let parse = |path: &Path| {
        let bytes = read(path, certificate::MAX_INPUT)?;
        Certificate::read_all(&bytes).map_err(|error| file("use", path, &error))
    };
    let mut all = Vec::new();
    for path in args.vek.iter().chain(&args.cert_chain) {
        all.extend(parse(path)?);
    }
    if let Some(path) = &args.cert_table {
        let bytes = read(path, certificate::MAX_INPUT)?;
        all.extend(certificate::read_table(&bytes).map_err(|error| file("use", path, &error))?);
    }
    if let Some(directory) = &args.cert_dir {
        // By chip and firmware version, which is what AMD's key distribution server asks for.
        let (chip, tcb) = (hex(report.hardware_id()), report.reported_tcb());
        let path = directory.join("vcek").join(chip).join(format!("{tcb}_vcek.der"));
        #[cfg(feature = "network")]
        if args.fetch && !path.exists() {
            fetch(args, report, &path)?;
        }
        all.extend(parse(&path)?);
        let chain = directory.join("cert_chain.pem");
        if chain.exists() {
            all.extend(parse(&chain)?);
        }
    }
    Endorsement::among(all).map_err(|error| {
        let whose = if report.signer() == Signer::Vlek { "VLEK" } else { "VCEK" };
        let failure = Failure::new(Code::Failure, format!("there is no certificate of the report's {whose}"));
        let failure = if error == CertificateError::Empty { failure } else { failure.because(&error) };
        let ways = "name its file with --vek, a directory with --cert-dir, or the table of the host (auxblob of configfs-tsm) with --cert-table";
        failure.remedy(match report.vcek_address() {
            Some(address) => format!("{ways}; AMD gives it out at {address}, from where --fetch has it"),
            None => ways.into(),
        })
    })
}

/// Fetches the certificate of a report's VCEK and keeps it at `path`. It is believed as little as one from any other place.
#[cfg(feature = "network")]
fn fetch(args: &Attest, report: &Report, path: &Path) -> Result<()> {
    let nowhere = || {
        Failure::new(
            Code::Failure,
            "AMD's server has no certificate for this report: its key is no VCEK, or the host masks the chip",
        )
        .remedy("name the certificate's file with --vek, or take the host's table: --cert-table")
    };
    let wanted = report.vcek_path().ok_or_else(nowhere)?;
    let options = HttpOptions { ca_file: args.kds_ca_file.clone(), ..HttpOptions::default() };
    let http = Http::new(format!("key distribution server {}", args.kds), options)?;
    let endpoint = http.endpoint(&args.kds)?;
    let answer = http.exchange(
        http.deadline(),
        &[endpoint],
        |answer| answer.status >= 500,
        |to| Ok(Request::get(to.join(&wanted))),
    )?;
    let certificate = match answer.status {
        200 => Certificate::from_der(&answer.body).map_err(|error| http.answer(error.to_string()))?,
        429 | 500.. => return Err(http.unreachable(format!("status {}", answer.status)).into()),
        status => {
            let remedy = "see whether the report's chip and firmware are AMD's: the server knows no others";
            return Err(http.refused(format!("status {status} for {wanted}"), remedy).into());
        }
    };
    let keep = || {
        let directory = path.parent().unwrap_or(path);
        std::fs::create_dir_all(directory)?;
        // Whole or not at all, whoever else fetches it.
        let unfinished = path.with_extension(format!("der.{}", std::process::id()));
        std::fs::write(&unfinished, certificate.der())?;
        std::fs::rename(&unfinished, path)
    };
    keep().map_err(|error| file("write", path, &error))
}

/// What was verified beside the report's being genuine.
fn not_compared(demands: &Demands) -> Vec<&'static str> {
    let open = [
        (demands.report_data.is_none(), "report data (no nonce given: the report may be an old one)"),
        (demands.measurements.is_empty() && demands.author_keys.is_empty(), "launch measurement and author key"),
        (demands.host_data.is_none(), "HOST_DATA"),
        (demands.minimum_tcb == Default::default(), "firmware versions"),
        (demands.revocations.is_empty(), "revocation lists"),
    ];
    open.into_iter().filter_map(|(is_open, what)| is_open.then_some(what)).collect()
}

fn print(verified: &VerifiedReport, demands: &Demands) {
    let (report, product) = (verified.report(), verified.product());
    let signer = match verified.cloud_provider() {
        Some(provider) => format!("VLEK of {}", provider.escape_debug()),
        None => report.signer().to_string(),
    };
    println!("The report is genuine: signed by a {signer} under AMD's root for {product}.");
    let lines = [
        ("version", report.version().to_string()),
        ("launch measurement", hex(&report.measurement())),
        ("report data", hex(&report.report_data())),
        ("VMPL", report.vmpl().to_string()),
        ("guest policy", format!("{:#x}", report.policy())),
        ("guest SVN", report.guest_svn().to_string()),
        ("family id", hex(&report.family_id())),
        ("image id", hex(&report.image_id())),
        ("ID key digest", hex(&report.id_key_digest())),
        ("author key digest", hex(&report.author_key_digest())),
        ("HOST_DATA", hex(&report.host_data())),
        ("platform", format!("{:#x}", report.platform_info())),
        ("chip", hex(&report.chip_id())),
        ("reported TCB", format!("{} ({})", report.reported_tcb(), report.reported_tcb().describe(product))),
        ("committed TCB", format!("{} ({})", report.committed_tcb(), report.committed_tcb().describe(product))),
        ("launch TCB", format!("{} ({})", report.launch_tcb(), report.launch_tcb().describe(product))),
    ];
    for (name, value) in lines {
        println!("  {name:<19} {value}");
    }
    let open = not_compared(demands);
    if !open.is_empty() {
        println!("Shown, and compared with nothing: {}.", open.join("; "));
    }
}

fn as_json(verified: &VerifiedReport, demands: &Demands) -> serde_json::Value {
    let (report, product) = (verified.report(), verified.product());
    json!({
        "verified": true,
        "product": product.name(),
        "signer": report.signer().to_string(),
        "cloud_provider": verified.cloud_provider(),
        "version": report.version(),
        "measurement": hex(&report.measurement()),
        "report_data": hex(&report.report_data()),
        "vmpl": report.vmpl(),
        "policy": format!("{:#x}", report.policy()),
        "guest_svn": report.guest_svn(),
        "family_id": hex(&report.family_id()),
        "image_id": hex(&report.image_id()),
        "id_key_digest": hex(&report.id_key_digest()),
        "author_key_digest": hex(&report.author_key_digest()),
        "host_data": hex(&report.host_data()),
        "platform_info": format!("{:#x}", report.platform_info()),
        "chip_id": hex(&report.chip_id()),
        "reported_tcb": report.reported_tcb().to_string(),
        "committed_tcb": report.committed_tcb().to_string(),
        "launch_tcb": report.launch_tcb().to_string(),
        "not_compared": not_compared(demands),
    })
}
