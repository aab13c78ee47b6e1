//! The load of `contrib/keyserver/load`: what the token can do by itself, and what many clients get of it through the server.
//!
//! Bare, as many threads as there are sessions do at the token what the server has it do for one call: generate, decrypt or convert, the signatures of the
//! answer, and that of the audit record. Over TLS, each client keeps a connection and has one call under way. One operation is measured at a time; a
//! first part of each measurement, in which connections are made, does not count.
//!
//! ```text
//! keyserver_load --bare RESULT …           with no server running; writes rates into RESULT
//! keyserver_load --url URL --against RESULT …
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Parser;
use envelopefs::api::{InstanceId, Operation, Tenant, VolumeName};
use envelopefs::server::config::Config;
use envelopefs::server::hsm::{Cluster, CustomerKey, KeyId, Owner, RsaKey, Sealed};
use envelopefs::server::state::State;
use serde_json::{Value, json};

/// Load on a key server, and on its token alone.
#[derive(Parser)]
struct Options {
    /// The server's configuration.
    #[arg(long)]
    config: PathBuf,
    #[arg(long)]
    tenant: Tenant,
    #[arg(long)]
    instance: InstanceId,
    /// Measure the token alone, and write the rates here.
    #[arg(long, conflicts_with = "url")]
    bare: Option<PathBuf>,
    /// The server's base address.
    #[arg(long, requires = "against")]
    url: Option<String>,
    /// Rates that --bare wrote.
    #[arg(long)]
    against: Option<PathBuf>,
    /// The authority of the server's certificate.
    #[arg(long)]
    ca: PathBuf,
    #[arg(long)]
    certificate: PathBuf,
    #[arg(long)]
    key: PathBuf,
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Of each measurement.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Bits of the callers' RSA keys; those of envelopefs and the original's agents have 4096.
    #[arg(long, default_value_t = 4096)]
    rsa_bits: usize,
}

const OPERATIONS: [Operation; 3] = [Operation::Generate, Operation::Decrypt, Operation::Convert];

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match &options.bare {
        Some(result) => bare(&options, &runtime, result),
        None => runtime.block_on(served(&options)),
    }
}

/// A caller's one-time key, DER. One for all: making them is the callers' work and not the server's.
fn one_time_key(bits: usize) -> Result<Vec<u8>> {
    let size = match bits {
        2048 => KeySize::Rsa2048,
        3072 => KeySize::Rsa3072,
        _ => KeySize::Rsa4096,
    };
    let key = PrivateDecryptingKey::generate(size)?;
    Ok(key.public_key().as_der()?.as_ref().to_vec())
}

/// The tenant's key at the token.
struct Bare {
    cluster: Cluster,
    customer: CustomerKey,
    signing: KeyId,
    rsa: RsaKey,
    options: (Tenant, InstanceId),
}

fn bare(options: &Options, runtime: &tokio::runtime::Runtime, result: &Path) -> Result<()> {
    let config = Config::load(&options.config)?;
    let cluster = Cluster::open(&config.hsm)?;
    ensure!(cluster.has_pin(), "the configuration names no PIN that the token takes");
    let (customer, signing) = runtime.block_on(async {
        let state = State::open(&config.state.settings()?).await?;
        let key = state.customer_key(&options.tenant).await?.context("the tenant has no customer key")?;
        let signing = state.signing_key().await?.context("there is no signing key")?;
        state.close().await;
        let key = CustomerKey { version: key.version, domain: KeyId(key.domain), wrapped: key.wrapped };
        anyhow::Ok((key, KeyId(signing.id)))
    })?;
    let rsa = RsaKey::from_spki(&one_time_key(options.rsa_bits)?)?;
    let bare = Bare { cluster, customer, signing, rsa, options: (options.tenant.clone(), options.instance.clone()) };
    let threads = bare.cluster.sessions();
    println!("The token alone: {threads} threads, as many as sessions, RSA-{}", options.rsa_bits);
    println!("{:<10} {:>9}", "", "calls/s");
    let mut rates = serde_json::Map::new();
    for operation in OPERATIONS {
        let sealed = bare.generate(&volume(0))?;
        let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let (calls, time) = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| -> Result<u64> {
                        let mut calls = 0;
                        while !stop.load(Ordering::Relaxed) {
                            bare.call(operation, &sealed)?;
                            calls += u64::from(begun.load(Ordering::Relaxed));
                        }
                        Ok(calls)
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_secs(1));
            begun.store(true, Ordering::Relaxed);
            let start = Instant::now();
            std::thread::sleep(Duration::from_secs(options.seconds));
            stop.store(true, Ordering::Relaxed);
            let time = start.elapsed();
            let calls =
                workers.into_iter().map(|worker| worker.join().expect("a thread of this program")).sum::<Result<u64>>();
            calls.map(|calls| (calls, time))
        })?;
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let rate = calls as f64 / time.as_secs_f64();
        println!("{:<10} {rate:>9.0}", short(operation));
        rates.insert(short(operation).into(), json!(rate));
    }
    std::fs::write(result, Value::Object(rates).to_string())?;
    Ok(())
}

impl Bare {
    fn generate(&self, volume: &VolumeName) -> Result<Vec<u8>> {
        let owner = Owner { tenant: &self.options.0, instance: &self.options.1, volume };
        Ok(self.cluster.generate(&self.customer, &owner, &self.rsa)?.sealed)
    }

    /// What the server has the token do for one call, without the state's part.
    fn call(&self, operation: Operation, blob: &[u8]) -> Result<()> {
        let volume = volume(0);
        let owner = Owner { tenant: &self.options.0, instance: &self.options.1, volume: &volume };
        let answers = match operation {
            Operation::Generate => {
                let made = self.cluster.generate(&self.customer, &owner, &self.rsa)?;
                vec![made.sealed, made.wrapped]
            }
            Operation::Decrypt => {
                vec![self.cluster.decrypt(&self.customer, &Sealed::parse(blob)?, &owner, &self.rsa)?]
            }
            Operation::Convert => {
                vec![self.cluster.convert(&self.customer, &Sealed::parse(blob)?, &owner, &self.customer, &owner)?]
            }
        };
        for answer in &answers {
            self.cluster.sign(self.signing, answer)?;
        }
        // The audit record's.
        self.cluster.sign(self.signing, &[0; 1000])?;
        Ok(())
    }
}

fn volume(client: usize) -> VolumeName {
    format!("00000000-0000-4000-8000-{client:012}").parse().expect("a volume's name")
}

fn short(operation: Operation) -> &'static str {
    operation.word().trim_end_matches("-secret")
}

/// A client with a connection of its own.
struct Client {
    http: reqwest::Client,
    base: String,
    instance: InstanceId,
    volume: VolumeName,
    rsa: String,
    blob: String,
}

impl Client {
    async fn call(&mut self, operation: Operation) -> Result<()> {
        let url = format!("{}/{}", self.base.trim_end_matches('/'), operation.path(&self.instance));
        let body = match operation {
            Operation::Generate => json!({"rsa_wrapping_key": self.rsa, "volume_uuid": self.volume}),
            Operation::Decrypt => {
                json!({"rsa_wrapping_key": self.rsa, "volume_uuid": self.volume, "encrypted_secret": self.blob})
            }
            Operation::Convert => {
                json!({"volume_uuid": self.volume, "encrypted_secret": self.blob, "source_instance_id": self.instance})
            }
        };
        let request = self.http.post(url).header("Content-Type", "application/json").body(body.to_string());
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{status}: {text}");
        let answer: Value = serde_json::from_str(&text)?;
        if operation == Operation::Generate {
            self.blob = answer["encrypted_secret"].as_str().context("no encrypted_secret")?.to_owned();
        }
        Ok(())
    }
}

async fn served(options: &Options) -> Result<()> {
    let base = options.url.clone().context("name --bare or --url")?;
    let against = options.against.as_ref().context("name --against")?;
    let against: Value = serde_json::from_str(&std::fs::read_to_string(against)?)?;
    let rsa = BASE64_STANDARD.encode(one_time_key(options.rsa_bits)?);
    let authority = reqwest::Certificate::from_pem_bundle(&std::fs::read(&options.ca)?)?;
    let identity = [std::fs::read(&options.certificate)?, std::fs::read(&options.key)?].concat();
    let clients = (0..options.clients).map(|number| {
        let http = reqwest::Client::builder()
            .tls_certs_only(authority.clone())
            .identity(reqwest::Identity::from_pem(&identity)?)
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()?;
        let client = Client {
            http,
            base: base.clone(),
            instance: options.instance.clone(),
            volume: volume(number),
            rsa: rsa.clone(),
            blob: String::new(),
        };
        anyhow::Ok(client)
    });
    let mut clients = clients.collect::<Result<Vec<_>>>()?;
    println!("\nThrough the server: {} clients, TLS, kept connections, one call each at a time", options.clients);
    println!("{:<10} {:>9} {:>10} {:>10} {:>10}", "", "calls/s", "of bare", "p50 ms", "p99 ms");
    for operation in OPERATIONS {
        let (begun, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut tasks = tokio::task::JoinSet::new();
        for mut client in clients.drain(..) {
            let (begun, stop) = (Arc::clone(&begun), Arc::clone(&stop));
            tasks.spawn(async move {
                let mut times = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    client.call(operation).await?;
                    if begun.load(Ordering::Relaxed) {
                        times.push(start.elapsed());
                    }
                }
                anyhow::Ok((client, times))
            });
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        begun.store(true, Ordering::Relaxed);
        let start = Instant::now();
        tokio::time::sleep(Duration::from_secs(options.seconds)).await;
        stop.store(true, Ordering::Relaxed);
        let time = start.elapsed();
        let mut times = Vec::new();
        while let Some(done) = tasks.join_next().await {
            let (client, of_client) = done??;
            clients.push(client);
            times.extend(of_client);
        }
        times.sort_unstable();
        let at = |part: f64| {
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "for people"
            )]
            let index = (times.len() as f64 * part) as usize;
            times.get(index.min(times.len().saturating_sub(1))).map_or(0.0, Duration::as_secs_f64) * 1000.0
        };
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let rate = times.len() as f64 / time.as_secs_f64();
        let ratio = against[short(operation)].as_f64().map_or(0.0, |bare| rate / bare);
        println!("{:<10} {rate:>9.0} {:>9.0}% {:>10.1} {:>10.1}", short(operation), ratio * 100.0, at(0.50), at(0.99));
    }
    Ok(())
}
