//! Attacks on signalling: garbage in its JSON, SDP and ICE candidates, and calls that are never followed up.

use super::Tally;
use super::mutant::{Call, send};
use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use str0m::crypto::from_feature_flags;
use tokio::net::TcpSocket;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::{Error, Message};
use vsekai_bench::webrtc::token;
use vsekai_net::webrtc::signalling::PeerSignal;

/// From so many addresses come the calls that nothing follows.
const ADDRESSES: usize = 20;
/// A token is good for one hello, and for any number of calls before it.
const CALLS_PER_TOKEN: usize = 100;
/// Within this a call is answered, and within this after the shard's handshake deadline it is ended.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a garbler waits for an answer before it calls again.
const PAUSE: Duration = Duration::from_millis(40);

/// Calls again and again until `end`, and says what cannot be read.
pub(super) async fn garble_signalling(url: &str, secret: &str, seed: u64, end: Instant, tally: &Tally) -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let token = token(url, secret).await?;
    while Instant::now() < end {
        let Some(mut call) = Call::make(&format!("{url}?token={token}")).await? else {
            tally.turned_away.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (_, _, answer) = call.answer(from_feature_flags(), SocketAddr::from((Ipv4Addr::LOCALHOST, 9)))?;
        for _ in 0..rng.random_range(1..10) {
            let said = match rng.random_range(0..3) {
                0 => {
                    tally.json.fetch_add(1, Ordering::Relaxed);
                    call.websocket.send(json(&mut rng, &answer)).await.map_err(anyhow::Error::from)
                }
                1 => {
                    tally.sdp.fetch_add(1, Ordering::Relaxed);
                    let answer = PeerSignal::Answer(spoil_sdp(&mut rng, &answer));
                    send(&mut call.websocket, call.server, answer).await
                }
                _ => {
                    tally.candidates.fetch_add(1, Ordering::Relaxed);
                    let candidate = PeerSignal::IceCandidate(candidate(&mut rng));
                    send(&mut call.websocket, call.server, candidate).await
                }
            };
            if said.is_err() {
                // The shard has had enough of it.
                break;
            }
        }
        // What it answers does not matter, only that it is read.
        let _ = tokio::time::timeout(PAUSE, async { while let Some(Ok(_)) = call.websocket.next().await {} }).await;
    }
    Ok(())
}

fn text(rng: &mut impl Rng, length: usize) -> String {
    (0..length).map(|_| rng.random_range('\u{1}'..'\u{2000}')).collect()
}

/// A frame that is no message of the protocol.
fn json(rng: &mut impl Rng, answer: &str) -> Message {
    let proper = serde_json::json!({ "Signal": { "receiver": uuid::Uuid::from_bytes(rng.random()), "data": { "Answer": answer } } });
    match rng.random_range(0..8) {
        0 => Message::text(text(rng, 300)),
        1 => Message::text("[".repeat(rng.random_range(1..60_000))),
        2 => Message::text(r#"{"Signal":"#.repeat(rng.random_range(1..5_000))),
        3 => Message::text(proper.to_string()),
        4 => {
            let mut cut = proper.to_string();
            let at = rng.random_range(0..cut.len());
            cut.truncate(cut.floor_char_boundary(at));
            Message::text(cut)
        }
        5 => Message::text(format!(r#"{{"Signal":{{"receiver":1e{},"data":null}}}}"#, rng.random::<u32>())),
        6 => {
            let mut bytes = vec![0; rng.random_range(0..2_000)];
            rng.fill_bytes(&mut bytes);
            Message::binary(bytes)
        }
        _ => Message::text(format!(
            r#"{{"Signal":{{"receiver":"","data":{{"Answer":"{}"}}}}}}"#,
            "\\u0000".repeat(9_000)
        )),
    }
}

/// An answer with some of its lines spoiled.
fn spoil_sdp(rng: &mut impl Rng, answer: &str) -> String {
    let mut lines: Vec<String> = answer.lines().map(str::to_string).collect();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..lines.len());
        match rng.random_range(0..8) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => lines.swap(0, at),
            3 => lines[at] = lines[at].replace(|c: char| c.is_ascii_digit(), "99999999999999999999"),
            4 => lines[at] = format!("{}{}", &lines[at][..2.min(lines[at].len())], text(rng, 40)),
            5 => lines.insert(at, format!("a=candidate:{}", text(rng, 60))),
            6 => lines.insert(at, format!("a=sctp-init:{}", "AQAA".repeat(rng.random_range(1..400)))),
            _ => lines.insert(
                at,
                ["a=setup:passive", "a=setup:holdconn", "m=video 9 UDP/TLS/RTP/SAVPF 96"]
                    .choose(rng)
                    .unwrap_or(&"")
                    .to_string(),
            ),
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.join("\r\n") + "\r\n"
}

fn candidate(rng: &mut impl Rng) -> String {
    match rng.random_range(0..5) {
        0 => "null".into(),
        1 => text(rng, 500),
        2 => format!(
            r#"{{"candidate":"candidate:1 1 udp {} 999.1.2.3 99999 typ host","sdpMid":"0"}}"#,
            rng.random::<u64>()
        ),
        3 => r#"{"candidate":"candidate:1 1 udp 1 127.0.0.1 9 typ host","sdpMid":"0","sdpMLineIndex":-1}"#.into(),
        _ => "{".repeat(rng.random_range(1..40_000)),
    }
}

/// Calls `count` times from many addresses of this machine, `per_s` a second, and says nothing any more: neither an answer nor a
/// goodbye. Each call has to be answered, by an offer or by a refusal, and those with an offer have to be ended by the shard.
pub(super) async fn half_open(url: &str, count: usize, per_s: u32, tally: &Arc<Tally>) -> Result<()> {
    let host: SocketAddr = url.trim_start_matches("ws://").trim_end_matches('/').parse().context("no address")?;
    let mut tokens = Vec::new();
    for number in 0..count.div_ceil(CALLS_PER_TOKEN) {
        tokens.push(token(url, &format!("half-open-{number:04}")).await?);
    }
    let mut clock = tokio::time::interval(Duration::from_secs(1) / per_s);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..count {
        clock.tick().await;
        let from = Ipv4Addr::new(127, 0, 1, (1 + number % ADDRESSES) as u8);
        let url = format!("{url}?token={}", tokens[number / CALLS_PER_TOKEN]);
        let tally = Arc::clone(tally);
        calls.spawn(async move { call_and_wait(&url, host, from.into(), &tally).await });
    }
    while let Some(ended) = calls.join_next().await {
        ended.context("a call panicked")?.context("a call that nothing follows")?;
    }
    Ok(())
}

async fn call_and_wait(url: &str, host: SocketAddr, from: IpAddr, tally: &Tally) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let answer = async {
        let stream = socket.connect(host).await?;
        match client_async(url, stream).await {
            Ok((websocket, _)) => Ok(Some(websocket)),
            Err(Error::Http(response)) if matches!(response.status().as_u16(), 429 | 503) => Ok(None),
            Err(error) => Err(anyhow::Error::from(error)),
        }
    };
    let answered = tokio::time::timeout(PATIENCE, answer).await.context("it was not answered")??;
    let Some(mut websocket) = answered else {
        tally.half_open_refused.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    };
    tally.half_open_held.fetch_add(1, Ordering::Relaxed);
    let until_ended = async { while let Some(Ok(_)) = websocket.next().await {} };
    if tokio::time::timeout(PATIENCE, until_ended).await.is_err() {
        bail!("the shard still holds it {PATIENCE:?} later");
    }
    Ok(())
}
