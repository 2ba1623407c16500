//! Clients connect over a bad network: our own, the unmodified matchbox client, and the page's code in Chromium. The shard
//! announces the address of a relay that delays every packet and loses some, signalling waits as long, and what the shard
//! counts must be what the relay passed on: nothing goes by it.
//!
//! A time is that from opening the signalling socket to the welcome. A client that fails tries once more, as all of them do.

use super::seed;
use crate::browser::Browser;
use crate::harness::wait_for;
use crate::relay::{Relay, Traffic, Weather};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::net::UdpSocket;
use std::time::{Duration, Instant};
use vsekai_bench::process::ShardProcess;
use vsekai_bench::report::Latency;
use vsekai_bench::webrtc::{Library, token};
use vsekai_net::client::{Client, ClientEvent};
use vsekai_net::webrtc::Connection;

/// How long a client may take from the signalling socket to the welcome.
const DEADLINE: Duration = Duration::from_secs(10);
const DELAY: Duration = Duration::from_millis(25);
const LOSS_PERMILLE: u32 = 20;
/// Where the relay is for clients. Any address of this machine but the shard's own serves.
const RELAY_IP: &str = "127.0.0.2";
const PATIENCE: Duration = Duration::from_secs(20);

/// How often each client connects.
#[derive(Debug, Clone, Copy)]
struct Times {
    native: usize,
    browser: usize,
}

/// What connecting came to.
#[derive(Debug, Clone, Default)]
struct Outcome {
    /// How long those took that came in at the first try.
    times: Vec<Duration>,
    /// How many came in at the second.
    second: usize,
    /// Why tries failed.
    failures: Vec<String>,
}

impl Outcome {
    fn text(&self, who: &str, of: usize) -> String {
        let Latency { p50_ms, p99_ms, max_ms, .. } = Latency::of(self.times.iter().copied());
        let second = if self.second > 0 { format!(" (+{} at the second try)", self.second) } else { String::new() };
        format!("{who} {}/{of}{second}, p50 {p50_ms:.0} p99 {p99_ms:.0} max {max_ms:.0} ms", self.times.len())
    }
}

/// 100 connects of each client, with loss and without; short: five of the native ones and two of Chromium, with loss.
pub fn run(short: bool) -> Result<String> {
    let seed = seed(2_500);
    let lossy = Weather { loss_permille: LOSS_PERMILLE, delay: DELAY };
    let run = |weather, times| prove(seed, weather, times).with_context(|| format!("seed {seed}"));
    if short {
        return run(lossy, Times { native: 5, browser: 2 });
    }
    let times = Times { native: 100, browser: 100 };
    let lossless = run(Weather { loss_permille: 0, ..lossy }, times)?;
    println!("connect: {lossless}");
    Ok(format!("{}; {lossless}", run(lossy, times)?))
}

fn prove(seed: u64, weather: Weather, times: Times) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let front = UdpSocket::bind((RELAY_IP, 0)).context("no address for the relay")?;
    // The shard tells clients the relay's address with the port that it has itself.
    let shard_udp = std::net::SocketAddr::from(([127, 0, 0, 1], front.local_addr()?.port()));
    let config = folder.path().join("shard.toml");
    // Who left is gone at once: the next ones find the same world.
    let text = format!("[webrtc]\naddress = \"{shard_udp}\"\npublic_address = \"{RELAY_IP}\"\n[net]\nresume_s = 0\n");
    std::fs::write(&config, text)?;
    let data = folder.path().join("data");
    let shard = ShardProcess::start(&data, &["--config", &config.display().to_string()])?;
    let http = shard.url.trim_start_matches("http://").trim_end_matches('/').parse().context("the shard's address")?;
    let relay = Relay::start(front, shard_udp, http, weather, seed)?;
    let through = format!("ws://{}/", relay.signalling());

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let tokens = shard.signalling_url();
    let (own, matchbox, chromium) = runtime.block_on(async {
        tokio::join!(
            native(Library::Str0m, times.native, &tokens, &through),
            native(Library::Matchbox, times.native, &tokens, &through),
            browsers(times.browser, &tokens, &through),
        )
    });
    let outcomes = [(own, times.native), (matchbox, times.native), (chromium, times.browser)];
    let names = [Library::Str0m.name(), Library::Matchbox.name(), "Chromium"];
    let texts: Vec<String> = names.iter().zip(&outcomes).map(|(name, (outcome, of))| outcome.text(name, *of)).collect();
    for (name, (outcome, of)) in names.iter().zip(&outcomes) {
        // One handshake of matchbox_socket in a hundred never ends, by no fault of the shard's that was found: its second try counts.
        let matchbox = *name == Library::Matchbox.name();
        let in_time = outcome.times.len() + if matchbox { outcome.second } else { 0 };
        ensure!(
            in_time >= of - (of / 100).max(1),
            "{name} did not connect: {:?}; {}",
            outcome.failures,
            texts.join("; ")
        );
    }
    let (up, down) = check_relay(&shard, &relay)?;
    ensure!(shard.stop()?.success(), "the shard did not stop cleanly");
    let share = |traffic: Traffic| traffic.lost as f64 * 100.0 / traffic.packets.max(1) as f64;
    Ok(format!(
        "{} % loss, {} ms each way: {}; all {} packets went through the relay, which lost {:.1} % up and {:.1} % down",
        weather.loss_permille / 10,
        weather.delay.as_millis(),
        texts.join("; "),
        up.packets + down.packets,
        share(up),
        share(down)
    ))
}

/// Every byte that the shard received or sent is one that the relay passed on or took.
fn check_relay(shard: &ShardProcess, relay: &Relay) -> Result<(Traffic, Traffic)> {
    let mut last = (Value::Null, relay.up(), relay.down());
    // Farewells are still under way.
    wait_for("the shard's counts to be the relay's", PATIENCE, || {
        last = (shard.status().ok()?["net"].take(), relay.up(), relay.down());
        let (net, up, down) = &last;
        (net["connections"] == 0 && net["bytes_in"] == up.passed_bytes && net["bytes_out"] == down.bytes).then_some(())
    });
    let (_, up, down) = last;
    ensure!(up.overflowed == 0 && down.overflowed == 0, "the relay had no room: {up:?}, {down:?}");
    ensure!(up.bytes > 0 && down.bytes > 0, "nothing went through the relay");
    Ok((up, down))
}

/// Native clients of one library, one after the other. Tokens come from `tokens`, without delay.
async fn native(library: Library, times: usize, tokens: &str, through: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for number in 0..times {
        for attempt in 1..=2 {
            let who = format!("connects-by-{}-{number}", library.name());
            let join = async {
                let token = token(tokens, &who).await.map_err(|error| format!("{error:#}"))?;
                let mut client = Client::new(&token, library.name());
                let begin = Instant::now();
                let mut connection = library.connect(&client.signalling_url(through), DEADLINE).await?;
                let left = DEADLINE.saturating_sub(begin.elapsed());
                let welcome = tokio::time::timeout(left, welcome(&mut connection, &mut client)).await;
                let took = begin.elapsed();
                welcome.unwrap_or_else(|_| Err("no welcome in time".into()))?;
                client.leave();
                send(&connection, &mut client);
                // The next one need not wait for its farewell.
                tokio::spawn(connection.close());
                Ok(took)
            };
            match join.await {
                Ok(took) if attempt == 1 => outcome.times.push(took),
                Ok(_) => outcome.second += 1,
                Err(error) => {
                    outcome.failures.push(error);
                    continue;
                }
            }
            break;
        }
    }
    outcome
}

fn send(connection: &Connection, client: &mut Client) {
    for (channel, bytes) in client.take_outgoing() {
        // A full queue or a lost connection shows as a welcome that does not come.
        connection.outgoing.try_send(channel, bytes);
    }
}

/// Says hello, and waits for the welcome.
async fn welcome(connection: &mut Connection, client: &mut Client) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        send(connection, client);
        let (channel, bytes) = connection.incoming.recv().await.ok_or("the connection ended")?;
        client.receive(begin.elapsed(), channel, &bytes).map_err(|error| error.to_string())?;
        match client.poll_event() {
            Some(ClientEvent::Welcome(_)) => return Ok(()),
            Some(ClientEvent::Refused { message, .. }) => return Err(message),
            _ => {}
        }
    }
}

/// The page's own session, without its picture: milliseconds from the call to the welcome, or why there was none.
const JOIN: &str = r"
const [token, deadline, done] = arguments;
import('/web/session.js').then(({ Session }) => {
  const begin = performance.now();
  let session = null;
  let over = false;
  const settle = (outcome) => {
    if (over) return;
    over = true;
    // The welcome's handler is still running.
    setTimeout(() => { session.leave(); done(outcome); });
  };
  setTimeout(() => settle('no welcome in time'), deadline);
  const own = { welcome: () => settle(performance.now() - begin), ended: settle, interrupted: settle };
  const handlers = new Proxy(own, { get: (known, name) => known[name] ?? (() => {}) });
  session = new Session(`ws://${location.host}/`, { name: 'Chromium', token }, handlers);
}).catch((error) => done(String(error)));
";

/// Chromium, whose tab stays the same.
async fn browsers(times: usize, tokens: &str, through: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let browser = Browser::start().await;
    // Any document of the shard's will do, so one with nothing on it.
    let page = format!("{}healthz", through.replacen("ws", "http", 1));
    if let Err(error) = browser.client.goto(&page).await {
        outcome.failures.push(error.to_string());
        return outcome;
    }
    // So that the first is not timed with the loading of the code.
    browser.evaluate("(import('/web/session.js'), 1)").await;
    for number in 0..times {
        for attempt in 1..=2 {
            let token = match token(tokens, &format!("connects-by-chromium-{number}")).await {
                Ok(token) => token,
                Err(error) => {
                    outcome.failures.push(format!("{error:#}"));
                    continue;
                }
            };
            let arguments = vec![json!(token), json!(DEADLINE.as_millis() as u64)];
            match browser.client.execute_async(JOIN, arguments).await {
                Ok(Value::Number(ms)) => {
                    let took = Duration::from_secs_f64(ms.as_f64().unwrap_or_default() / 1_000.0);
                    if attempt == 1 { outcome.times.push(took) } else { outcome.second += 1 }
                }
                Ok(told) => {
                    outcome.failures.push(told.to_string());
                    continue;
                }
                Err(error) => {
                    outcome.failures.push(error.to_string());
                    continue;
                }
            }
            break;
        }
    }
    outcome
}
