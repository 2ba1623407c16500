//! Attacks on the UDP port by whoever was never at signalling: floods from many sources, and what is answered to whom.

use super::mutant::{Call, client_hello, send};
use anyhow::{Context, Result};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use str0m::crypto::from_feature_flags;
use str0m::ice::{StunMessage, TransId};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use vsekai_bench::webrtc::token;
use vsekai_net::webrtc::signalling::PeerSignal;

/// Sockets that a flood comes from, each with an address and a port of its own.
const SOURCES: usize = 200;
/// Different packets of a flood.
const PACKETS: usize = 2_048;
/// How many packets of each kind are probed.
const PROBES: usize = 200;
/// How long answers to probes are waited for.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// What was sent, and what came back.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Exchange {
    pub(super) packets: u64,
    pub(super) sent_bytes: u64,
    pub(super) answered_bytes: u64,
}

impl Exchange {
    /// Bytes answered for each byte sent.
    pub(super) fn amplification(&self) -> f64 {
        self.answered_bytes as f64 / self.sent_bytes.max(1) as f64
    }
}

/// The user name of a connection at the shard and its password, for checks.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) user: String,
    password: String,
    /// As long as it lives, they are good.
    _websocket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// Those of a connection that was answered and is never checked; they are good until its handshake fails.
pub(super) async fn credentials(url: &str, secret: &str) -> Result<Credentials> {
    let token = token(url, secret).await?;
    let mut call = Call::make(&format!("{url}?token={token}")).await?.context("the door is shut")?;
    let (_, _, answer) = call.answer(from_feature_flags(), SocketAddr::from((Ipv4Addr::LOCALHOST, 9)))?;
    let fragments = [line(&call.offer, "a=ice-ufrag:")?, line(&answer, "a=ice-ufrag:")?];
    let (user, password) = (fragments.join(":"), line(&call.offer, "a=ice-pwd:")?.to_string());
    send(&mut call.websocket, call.server, PeerSignal::Answer(answer)).await?;
    Ok(Credentials { user, password, _websocket: call.websocket })
}

/// The value of a line of SDP.
fn line<'s>(sdp: &'s str, name: &str) -> Result<&'s str> {
    sdp.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("there is no {name}"))
}

/// A STUN binding request, with the integrity that `password` gives.
fn check(user: &str, password: Option<&str>) -> Result<Vec<u8>> {
    let hmac = from_feature_flags().sha1_hmac_provider;
    let request = StunMessage::binding_request(user, TransId::new(), true, 7, 1_853_817_087, true);
    let mut packet = vec![0; 512];
    let length = request
        .to_bytes(password.map(str::as_bytes), &mut packet, |key, parts| hmac.sha1_hmac(key, parts))
        .map_err(|error| anyhow::anyhow!("no STUN: {error:?}"))?;
    packet.truncate(length);
    Ok(packet)
}

fn random(rng: &mut impl Rng, longest: usize) -> Vec<u8> {
    let mut packet = vec![0; rng.random_range(1..longest)];
    rng.fill_bytes(&mut packet);
    packet
}

/// Packets of the kinds that the port tells apart, in equal parts: noise, RTP, STUN of nobody, STUN of somebody under a wrong
/// password (for which the shard has to compute a MAC), hellos of DTLS true and false.
fn flood_packets(rng: &mut impl Rng, somebody: &str) -> Result<Vec<Vec<u8>>> {
    let hello = client_hello()?;
    let mut packets = Vec::with_capacity(PACKETS);
    for number in 0..PACKETS {
        let mut packet = random(rng, 300);
        match number % 6 {
            0 => {}
            1 => packet[0] = 0x80,
            2 => packet = check("nobody:at-all", Some("a-password"))?,
            3 => packet = check(somebody, Some("a-wrong-password"))?,
            4 => packet.clone_from(&hello),
            _ => {
                let head = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0];
                packet.splice(0..0, head);
            }
        }
        packets.push(packet);
    }
    Ok(packets)
}

/// A flood that flows until it is stopped.
#[derive(Debug)]
pub(super) struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Exchange>>,
}

impl Flood {
    /// Sends `per_s` packets a second to `target` from many sources.
    pub(super) fn start(target: SocketAddr, per_s: u32, seed: u64, somebody: &str) -> Result<Flood> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let packets = flood_packets(&mut rng, somebody)?;
        let mut sockets = Vec::with_capacity(SOURCES);
        for _ in 0..SOURCES {
            let from = Ipv4Addr::new(127, rng.random(), rng.random(), rng.random_range(1..255));
            let socket = UdpSocket::bind((from, 0))?;
            socket.set_nonblocking(true)?;
            sockets.push(socket);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let begin = Instant::now();
            let mut exchange = Exchange::default();
            while !stopped.load(Ordering::Relaxed) {
                let due = (begin.elapsed().as_secs_f64() * f64::from(per_s)) as u64;
                while exchange.packets < due {
                    let number = exchange.packets as usize;
                    let packet = &packets[number % PACKETS];
                    // A packet that the system does not take is none that was sent.
                    if sockets[number % SOURCES].send_to(packet, target).is_ok() {
                        exchange.sent_bytes += packet.len() as u64;
                    }
                    exchange.packets += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(ANSWER_WAIT);
            exchange.answered_bytes = sockets.iter().map(read_all).sum();
            Ok(exchange)
        });
        Ok(Flood { stop, thread })
    }

    /// Ends it and says what came of it.
    pub(super) fn stop(self) -> Result<Exchange> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("a flood panicked"))?
    }
}

fn read_all(socket: &UdpSocket) -> u64 {
    let mut buffer = [0; 2_048];
    let received = std::iter::from_fn(|| socket.recv_from(&mut buffer).ok());
    received.map(|(length, _)| length as u64).sum()
}

/// What the port answers to each kind of packet of somebody who shows nothing; the last kind is that of somebody who was let in by
/// signalling, and whose check is in order.
pub(super) fn probe(target: SocketAddr, seed: u64, known: &Credentials) -> Result<Vec<(&'static str, Exchange)>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let Credentials { user, password, .. } = known;
    let hello = client_hello()?;
    let mut make = |kind: &str| {
        Ok::<_, anyhow::Error>(match kind {
            "check of nobody" => check("nobody:at-all", Some("a-password"))?,
            "check without integrity" => check(user, None)?,
            "check with a wrong integrity" => check(user, Some("a-wrong-password"))?,
            "DTLS hello" => hello.clone(),
            KNOWN => check(user, Some(password))?,
            _ => random(&mut rng, 1_200),
        })
    };
    let kinds =
        ["random", "check of nobody", "check without integrity", "check with a wrong integrity", "DTLS hello", KNOWN];
    let mut sockets = Vec::new();
    for kind in kinds {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_nonblocking(true)?;
        let mut exchange = Exchange::default();
        for _ in 0..PROBES {
            let packet = make(kind)?;
            socket.send_to(&packet, target)?;
            exchange.packets += 1;
            exchange.sent_bytes += packet.len() as u64;
            std::thread::sleep(Duration::from_micros(500));
        }
        sockets.push((kind, socket, exchange));
    }
    std::thread::sleep(ANSWER_WAIT);
    let answered = |(kind, socket, exchange): (&'static str, UdpSocket, Exchange)| {
        (kind, Exchange { answered_bytes: read_all(&socket), ..exchange })
    };
    Ok(sockets.into_iter().map(answered).collect())
}

/// The kind of probe that is let in.
pub(super) const KNOWN: &str = "check in order";
