//! Server and clients on the loopback interface, with a real HTTP server between them.

use super::link::{Link, LinkEvent, Outbox};
use super::*;
use crate::flood::{IntakeRates, Rates};
use crate::porter::Ticket;
use crate::transport::{EventSink, Offence, PeerId, RECEIVE_BYTES_MAX, TransportCommand, TransportEvent};
use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use axum::routing::any;
use futures_util::{SinkExt, StreamExt};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use str0m::Rtc;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use vsekai_schema::wire::{CHANNEL_COMMAND, CHANNEL_STATE};

/// Nothing here takes a tenth of it, unless it fails.
const PATIENCE: Duration = Duration::from_secs(20);

struct Shard {
    server: WebRtcServer,
    address: SocketAddr,
    events: mpsc::UnboundedReceiver<TransportEvent>,
    http: JoinHandle<()>,
}

impl Shard {
    async fn start(config: WebRtcConfig) -> Shard {
        let (sender, events) = mpsc::unbounded_channel();
        Shard::start_with_sink(config, Arc::new(move |event| sender.send(event).is_ok()), events).await
    }

    async fn start_with_sink(
        config: WebRtcConfig,
        sink: EventSink,
        events: mpsc::UnboundedReceiver<TransportEvent>,
    ) -> Shard {
        let server = WebRtcServer::start(config, sink).unwrap();
        let router = Router::new()
            .route("/", any(let_in))
            .route("/{room}", any(let_in))
            .with_state(server.clone())
            .into_make_service_with_connect_info::<SocketAddr>();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let http = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Shard { server, address, events, http }
    }

    fn url(&self) -> String {
        format!("ws://{}/room?next=2", self.address)
    }

    async fn connect(&mut self) -> (Connection, PeerId) {
        let connection = connect(&self.url(), PATIENCE).await.unwrap();
        match self.event().await {
            TransportEvent::Connected { peer, .. } => (connection, peer),
            other => panic!("{other:?}"),
        }
    }

    async fn event(&mut self) -> TransportEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("the server runs")
    }

    fn send(&self, peer: PeerId, channel: usize, bytes: Vec<u8>) {
        self.server.commands().send(vec![TransportCommand::Send { peer, channel, bytes }]).unwrap();
    }

    /// Sends back and forth on both channels; datagrams are repeated until one arrives.
    async fn check_alive(&mut self, connection: &mut Connection, peer: PeerId) {
        for channel in [CHANNEL_STATE, CHANNEL_COMMAND] {
            assert!(connection.outgoing.try_send(channel, b"ping".to_vec()));
            let ping = TransportEvent::Message { peer, channel, bytes: b"ping".to_vec() };
            assert_eq!(self.event().await, ping);
            self.send(peer, channel, b"pong".to_vec());
            assert_eq!(receive(connection).await, Some((channel, b"pong".to_vec())));
        }
    }

    async fn stop(self) {
        self.http.abort();
        let server = self.server;
        timeout(PATIENCE, tokio::task::spawn_blocking(move || server.stop())).await.expect("stops in time").unwrap();
    }

    async fn wait_for(&self, what: &str, condition: impl Fn(Metrics) -> bool) {
        let counters = self.server.counters();
        let waiting = async {
            while !condition(counters.metrics()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}: {:?}", counters.metrics()));
    }
}

/// Everybody may come; what they show is passed on.
async fn let_in(
    socket: WebSocketUpgrade,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    State(server): State<WebRtcServer>,
) -> Response {
    upgrade(socket, address.ip(), Some(TICKET), server).await
}

const TICKET: Ticket = Ticket::Token([9; 16]);

async fn receive(connection: &mut Connection) -> Option<(usize, Vec<u8>)> {
    timeout(PATIENCE, connection.incoming.recv()).await.expect("a message in time")
}

fn local() -> WebRtcConfig {
    WebRtcConfig { bind: "127.0.0.1:0".parse().unwrap(), ..WebRtcConfig::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_channels_carry_messages_both_ways() {
    let mut shard = Shard::start(local()).await;
    let mut connections = Vec::new();
    for _ in 0..5 {
        connections.push(shard.connect().await);
    }
    for (connection, peer) in &mut connections {
        shard.check_alive(connection, *peer).await;
    }
    let metrics = shard.server.counters().metrics();
    assert_eq!((metrics.connections_open, metrics.connections_total), (5, 5));
    assert!(metrics.packets_in > 0 && metrics.bytes_out > metrics.packets_out);
    assert_eq!((metrics.handshakes_failed, metrics.messages_dropped), (0, 0));
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_bound_to_all_addresses_is_found() {
    let mut shard = Shard::start(WebRtcConfig::default()).await;
    assert!(shard.server.local_address().ip().is_unspecified());
    let (mut connection, peer) = shard.connect().await;
    shard.check_alive(&mut connection, peer).await;
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_messages_and_a_long_backlog_arrive_whole_and_in_order() {
    let mut shard = Shard::start(local()).await;
    let (mut connection, peer) = shard.connect().await;
    let long: Vec<u8> = (0..60 * 1024).map(|i| (i % 251) as u8).collect();
    assert!(long.len() <= RECEIVE_BYTES_MAX);
    for _ in 0..3 {
        assert!(connection.outgoing.try_send(CHANNEL_COMMAND, long.clone()));
        let message = TransportEvent::Message { peer, channel: CHANNEL_COMMAND, bytes: long.clone() };
        assert_eq!(shard.event().await, message);
    }
    // 3 MiB at once: most of it must wait its turn in the worker. Datagrams get through meanwhile.
    let mut batch: Vec<TransportCommand> = (0..192u8)
        .map(|i| TransportCommand::Send { peer, channel: CHANNEL_COMMAND, bytes: vec![i; 16 * 1024] })
        .collect();
    batch.push(TransportCommand::Send { peer, channel: CHANNEL_STATE, bytes: b"now".to_vec() });
    shard.server.commands().send(batch).unwrap();
    let mut reliable = 0u8;
    let mut reliable_before_datagram = None;
    while reliable < 192 || reliable_before_datagram.is_none() {
        match receive(&mut connection).await.expect("still connected") {
            (CHANNEL_COMMAND, bytes) => {
                assert_eq!(bytes, vec![reliable; 16 * 1024]);
                reliable += 1;
            }
            (_, bytes) => {
                assert_eq!(bytes, b"now");
                reliable_before_datagram = Some(reliable);
            }
        }
    }
    assert!(reliable_before_datagram < Some(64), "{reliable_before_datagram:?}");
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_is_seen_after_its_last_message() {
    let mut shard = Shard::start(local()).await;
    let (connection, peer) = shard.connect().await;
    assert!(connection.outgoing.try_send(CHANNEL_COMMAND, b"goodbye".to_vec()));
    assert_eq!(connection.close().await, "closed");
    let goodbye = TransportEvent::Message { peer, channel: CHANNEL_COMMAND, bytes: b"goodbye".to_vec() };
    assert_eq!(shard.event().await, goodbye);
    assert!(matches!(shard.event().await, TransportEvent::Disconnected { peer: who, .. } if who == peer));

    let (connection, peer) = shard.connect().await;
    drop(connection);
    assert!(matches!(shard.event().await, TransportEvent::Disconnected { peer: who, .. } if who == peer));
    shard.wait_for("all are gone", |metrics| metrics.connections_open == 0).await;
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disconnected_client_gets_what_was_sent_before() {
    let mut shard = Shard::start(local()).await;
    let (mut connection, peer) = shard.connect().await;
    let (mut other, other_peer) = shard.connect().await;
    let mut batch: Vec<TransportCommand> =
        (0..20).map(|i| TransportCommand::Send { peer, channel: CHANNEL_COMMAND, bytes: vec![i; 10_000] }).collect();
    batch.push(TransportCommand::Disconnect { peer });
    // This one comes too late.
    batch.push(TransportCommand::Send { peer, channel: CHANNEL_COMMAND, bytes: vec![99] });
    shard.server.commands().send(batch).unwrap();
    for i in 0..20 {
        assert_eq!(receive(&mut connection).await, Some((CHANNEL_COMMAND, vec![i; 10_000])));
    }
    assert_eq!(receive(&mut connection).await, None);
    assert!(matches!(shard.event().await, TransportEvent::Disconnected { peer: who, .. } if who == peer));
    shard.check_alive(&mut other, other_peer).await;
    assert_eq!(shard.server.counters().metrics().messages_dropped, 1);
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_too_slow_for_its_backlog_is_disconnected() {
    let mut shard = Shard::start(local()).await;
    let (_connection, peer) = shard.connect().await;
    let batch = vec![TransportCommand::Send { peer, channel: CHANNEL_COMMAND, bytes: vec![0; 64 * 1024] }; 80];
    shard.server.commands().send(batch).unwrap();
    match shard.event().await {
        TransportEvent::Disconnected { peer: who, reason } => {
            assert_eq!((who, reason.as_str()), (peer, "messages were not read fast enough"));
        }
        other => panic!("{other:?}"),
    }
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caps_refuse_with_a_clear_status_and_places_are_given_back() {
    for (config, expected) in [
        (WebRtcConfig { connections_max: 2, ..local() }, 503),
        (WebRtcConfig { connections_per_address_max: 2, ..local() }, 429),
    ] {
        let mut shard = Shard::start(config).await;
        let (first, _) = shard.connect().await;
        let (mut second, second_peer) = shard.connect().await;
        match connect(&shard.url(), PATIENCE).await {
            Err(ClientError::Refused { status, message }) => {
                assert_eq!(status, expected);
                assert!(message.contains("full") || message.contains("too many"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        shard.check_alive(&mut second, second_peer).await;
        first.close().await;
        assert!(matches!(shard.event().await, TransportEvent::Disconnected { .. }));
        let third = async {
            loop {
                match connect(&shard.url(), PATIENCE).await {
                    Ok(connection) => return connection,
                    // The place is given back once the WebSocket closed, too.
                    Err(ClientError::Refused { .. }) => tokio::time::sleep(Duration::from_millis(2)).await,
                    Err(other) => panic!("{other}"),
                }
            }
        };
        timeout(PATIENCE, third).await.expect("a place becomes free");
        shard.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_disturbs_nobody() {
    let mut shard = Shard::start(local()).await;
    let (mut connection, peer) = shard.connect().await;
    let nobody = uuid::Uuid::new_v4();
    let server = shard.server.id();
    let garbage: Vec<Message> = vec![
        Message::text(""),
        Message::text("{"),
        Message::text("\"KeepAliv\""),
        Message::text("[".repeat(10_000)),
        Message::text(format!(r#"{{"Signal":{{"receiver":"{nobody}","data":{{"Answer":"x"}}}}}}"#)),
        Message::text(format!(r#"{{"Signal":{{"receiver":"{server}","data":{{"Answer":"garbage"}}}}}}"#)),
        Message::text(format!(r#"{{"Signal":{{"receiver":"{server}","data":{{"Answer":"v=0\r\nm=x"}}}}}}"#)),
        Message::text(format!(r#"{{"Signal":{{"receiver":"{server}","data":{{"Offer":"v=0"}}}}}}"#)),
        Message::binary(vec![0; 100]),
        Message::text("x".repeat(100_000)),
    ];
    for round in 0..20 {
        for message in &garbage {
            let (mut websocket, _) = connect_async(shard.url()).await.unwrap();
            websocket.send(message.clone()).await.unwrap();
            // The server closes each of them; what it says on the way does not matter.
            let closed = async { while let Some(Ok(_)) = websocket.next().await {} };
            timeout(PATIENCE, closed).await.unwrap_or_else(|_| panic!("round {round}: {message:?}"));
        }
    }
    shard.check_alive(&mut connection, peer).await;

    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut state = 1u32;
    for i in 0..1_000usize {
        let mut packet: Vec<u8> = (0..i % 1_300)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        // Some that look like STUN with its magic cookie and a right length, some like DTLS.
        match i % 3 {
            0 if packet.len() >= 20 => {
                packet.truncate(packet.len() & !3);
                let length = (packet.len() - 20) as u16;
                packet[..2].copy_from_slice(&[0, 1]);
                packet[2..4].copy_from_slice(&length.to_be_bytes());
                packet[4..8].copy_from_slice(&0x2112_a442_u32.to_be_bytes());
            }
            1 if packet.len() >= 3 => packet[..3].copy_from_slice(&[22, 254, 253]),
            _ => {}
        }
        socket.send_to(&packet, shard.server.local_address()).await.unwrap();
        if i % 50 == 0 {
            shard.check_alive(&mut connection, peer).await;
        }
    }
    shard.wait_for("garbage is refused", |metrics| metrics.packets_refused >= 990).await;
    shard.check_alive(&mut connection, peer).await;
    let mut answer = [0; 100];
    assert!(socket.try_recv_from(&mut answer).is_err(), "garbage gets no answer");
    shard.wait_for("the others failed", |metrics| metrics.handshakes_failed == 200).await;
    assert_eq!(shard.server.counters().metrics().connections_open, 1);
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_answers_loses_its_place() {
    let shard = Shard::start(WebRtcConfig { handshake_timeout: Duration::from_millis(300), ..local() }).await;
    let (mut websocket, _) = connect_async(shard.url()).await.unwrap();
    let closed = async { while let Some(Ok(_)) = websocket.next().await {} };
    timeout(PATIENCE, closed).await.expect("the server closes it");
    assert_eq!(shard.server.counters().metrics().handshakes_failed, 1);
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_outlives_its_websocket() {
    let mut shard = Shard::start(local()).await;
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", relay.local_addr().unwrap());
    let target = shard.address;
    let relaying = tokio::spawn(async move {
        let (mut client, _) = relay.accept().await.unwrap();
        let mut server = TcpStream::connect(target).await.unwrap();
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    });
    let mut connection = connect(&url, PATIENCE).await.unwrap();
    let TransportEvent::Connected { peer, .. } = shard.event().await else {
        panic!("not connected");
    };
    relaying.abort();
    assert!(relaying.await.unwrap_err().is_cancelled());
    for _ in 0..20 {
        shard.check_alive(&mut connection, peer).await;
    }
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_sink_costs_the_connection_but_not_its_end() {
    let (sender, events) = mpsc::unbounded_channel();
    let full = Arc::new(AtomicBool::new(false));
    let full_of_sink = Arc::clone(&full);
    let sink: EventSink = Arc::new(move |event| !full_of_sink.load(Ordering::SeqCst) && sender.send(event).is_ok());
    let mut shard = Shard::start_with_sink(local(), sink, events).await;
    let (connection, peer) = shard.connect().await;
    full.store(true, Ordering::SeqCst);
    assert!(connection.outgoing.try_send(CHANNEL_STATE, vec![1]));
    shard.wait_for("a datagram is dropped", |metrics| metrics.messages_dropped == 1).await;
    assert_eq!(shard.server.counters().metrics().connections_open, 1);
    assert!(connection.outgoing.try_send(CHANNEL_COMMAND, vec![2]));
    shard.wait_for("the peer is disconnected", |metrics| metrics.connections_open == 0).await;
    full.store(false, Ordering::SeqCst);
    assert!(matches!(shard.event().await, TransportEvent::Disconnected { peer: who, .. } if who == peer));
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_disconnects_everybody_and_lets_nobody_in() {
    let mut shard = Shard::start(local()).await;
    let (mut connection, peer) = shard.connect().await;
    let server = shard.server.clone();
    tokio::task::spawn_blocking(move || server.stop()).await.unwrap();
    assert_eq!(receive(&mut connection).await, None);
    assert!(matches!(shard.event().await, TransportEvent::Disconnected { peer: who, .. } if who == peer));
    let refused = connect(&shard.url(), PATIENCE).await;
    assert!(matches!(refused, Err(ClientError::Refused { status: 503, .. })), "{refused:?}");
    let batch = vec![TransportCommand::Disconnect { peer }];
    assert_eq!(shard.server.commands().send(batch.clone()), Err(batch));
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_says_why_it_did_not_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("ws://{}/", listener.local_addr().unwrap());
    let outcome = connect(&silent, Duration::from_millis(100)).await;
    assert!(matches!(outcome, Err(ClientError::Deadline { .. })), "{outcome:?}");
    drop(listener);
    let outcome = connect(&silent, PATIENCE).await;
    assert!(matches!(outcome, Err(ClientError::Unreachable { .. })), "{outcome:?}");
    let outcome = connect("shard", PATIENCE).await;
    assert!(matches!(outcome, Err(ClientError::Url { .. })), "{outcome:?}");

    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = WebRtcConfig { bind: taken.local_addr().unwrap(), ..local() };
    let outcome = WebRtcServer::start(config, Arc::new(|_| true));
    assert!(matches!(outcome, Err(StartError::Bind { .. })), "{outcome:?}");
}

/// Moves packets between two connections in memory, and time on by a millisecond; returns what both reported.
fn pump(now: &mut Instant, ends: [(&mut Link, SocketAddr); 2]) -> [Vec<LinkEvent>; 2] {
    let [(a, a_address), (b, b_address)] = ends;
    let mut out = [Outbox::default(), Outbox::default()];
    *now += Duration::from_millis(1);
    a.tick(*now, &mut out[0]);
    b.tick(*now, &mut out[1]);
    while out.iter().any(|out| !out.packets.is_empty()) {
        for packet in std::mem::take(&mut out[0].packets) {
            b.receive(*now, a_address, b_address, &packet.contents, &mut out[1]);
        }
        for packet in std::mem::take(&mut out[1].packets) {
            a.receive(*now, b_address, a_address, &packet.contents, &mut out[0]);
        }
    }
    out.map(|out| out.events)
}

/// A channel whose greeting went with offer and answer is open before anybody has shown an address or a certificate.
#[test]
fn a_connection_is_not_open_before_it_is_secured() {
    let mut now = Instant::now();
    let [server_address, client_address]: [SocketAddr; 2] =
        ["10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap()];
    let config = Rtc::builder().set_ice_lite(true).set_snap_enabled(true).clear_codecs();
    let (mut server, offer) = Link::offer(config, &[server_address], now).unwrap();
    let (mut client, answer) = Link::answer(Rtc::builder().clear_codecs(), client_address, &offer, now).unwrap();
    assert!(answer.contains("a=sctp-init:"), "{answer}");
    let mut alone = Outbox::default();
    server.accept_answer(&answer, &mut alone);
    for _ in 0..2_000 {
        now += Duration::from_millis(1);
        server.tick(now, &mut alone);
    }
    assert!(alone.events.is_empty(), "{:?}", alone.events);
    assert!(!server.send(CHANNEL_STATE, vec![1], &mut alone), "it sends to nobody");
    let mut opened = [0; 2];
    for _ in 0..2_000 {
        let events = pump(&mut now, [(&mut server, server_address), (&mut client, client_address)]);
        for (opened, events) in opened.iter_mut().zip(events) {
            *opened += events.iter().filter(|event| matches!(event, LinkEvent::Open)).count();
        }
    }
    assert_eq!(opened, [1; 2]);
}

#[test]
fn packets_forged_with_the_peers_address_do_not_end_the_connection() {
    let mut now = Instant::now();
    let [server_address, client_address]: [SocketAddr; 2] =
        ["10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap()];
    let config = Rtc::builder().set_ice_lite(true).clear_codecs();
    let (mut server, offer) = Link::offer(config, &[server_address], now).unwrap();
    let (mut client, answer) = Link::answer(Rtc::builder().clear_codecs(), client_address, &offer, now).unwrap();
    server.accept_answer(&answer, &mut Outbox::default());
    let mut open = [false; 2];
    for _ in 0..5_000 {
        let events = pump(&mut now, [(&mut server, server_address), (&mut client, client_address)]);
        for (open, events) in open.iter_mut().zip(events) {
            *open |= events.iter().any(|event| matches!(event, LinkEvent::Open));
        }
    }
    assert_eq!(open, [true; 2]);

    // Each kind of DTLS record and then anything, alerts and application data included.
    for kind in 0..=255u8 {
        for length in [0, 1, 12, 13, 14, 40, 1_200] {
            let mut forged = vec![kind, 254, 253, 0, 1, 0, 0, 0, 0, 0, 9, (length >> 8) as u8, length as u8];
            forged.resize(13 + length, kind ^ 0x5a);
            let mut out = Outbox::default();
            server.receive(now, client_address, server_address, &forged, &mut out);
            client.receive(now, server_address, client_address, &forged, &mut out);
            assert!(out.events.is_empty(), "kind {kind} length {length}: {:?}", out.events);
        }
    }
    for channel in [CHANNEL_STATE, CHANNEL_COMMAND] {
        let mut out = Outbox::default();
        assert!(client.send(channel, vec![7; 20], &mut out));
        let packets = std::mem::take(&mut out.packets);
        for packet in packets {
            server.receive(now, client_address, server_address, &packet.contents, &mut out);
        }
        match out.events.as_slice() {
            [LinkEvent::Message { channel: on, bytes }] => assert_eq!((*on, bytes.len()), (channel, 20)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_workers_share_the_peers() {
    let mut shard = Shard::start(WebRtcConfig { workers: 3, ..local() }).await;
    let ports: HashSet<u16> = shard.server.local_addresses().iter().map(SocketAddr::port).collect();
    assert_eq!(ports.len(), 3);
    let mut connections = Vec::new();
    for _ in 0..7 {
        connections.push(shard.connect().await);
    }
    // One batch for all of them: each message finds its peer, and the order of each is kept.
    let send = |number: u8| {
        connections.iter().map(move |(_, peer)| TransportCommand::Send {
            peer: *peer,
            channel: CHANNEL_COMMAND,
            bytes: vec![number, peer.0 as u8],
        })
    };
    let batch: Vec<TransportCommand> = (0..20).flat_map(send).collect();
    shard.server.commands().send(batch).unwrap();
    for (connection, peer) in &mut connections {
        for number in 0..20 {
            assert_eq!(receive(connection).await, Some((CHANNEL_COMMAND, vec![number, peer.0 as u8])));
        }
    }
    for (connection, peer) in &mut connections {
        shard.check_alive(connection, *peer).await;
    }
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pinned_ports_follow_each_other() {
    // Three free ports in a row, found by asking for one.
    let free = (0..50).find_map(|_| {
        let first = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let taken = |port: u16| std::net::UdpSocket::bind(("127.0.0.1", port)).is_err();
        (first < 65_000 && !(0..3).any(|more| taken(first + more))).then_some(first)
    });
    let first = free.expect("three free ports in a row");
    let bind = SocketAddr::from(([127, 0, 0, 1], first));
    let shard = Shard::start(WebRtcConfig { workers: 3, bind, ..local() }).await;
    let ports: Vec<u16> = shard.server.local_addresses().iter().map(SocketAddr::port).collect();
    assert_eq!(ports, [first, first + 1, first + 2]);
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_ends_at_the_worker() {
    let rates = Rates { moves_per_s: 10, commands_per_s: 10, pings_per_s: 10, others_per_s: 10 };
    let config = WebRtcConfig { rates: Some(rates), message_bytes_max: 512, ..local() };
    let mut shard = Shard::start(config).await;
    let (connection, peer) = shard.connect().await;
    // Twenty pass, and some for the time it takes; two hundred more are dropped; then the peer is reported and muted.
    for _ in 0..900 {
        connection.outgoing.try_send(CHANNEL_STATE, vec![0, 1]);
    }
    let mut passed = 0;
    let offence = loop {
        match shard.event().await {
            TransportEvent::Message { .. } => passed += 1,
            other => break other,
        }
    };
    assert_eq!(offence, TransportEvent::Offence { peer, offence: Offence::Flooding });
    assert!((20..60).contains(&passed), "{passed} messages reached the tick");
    shard.server.commands().send(vec![TransportCommand::Disconnect { peer }]).unwrap();
    assert!(matches!(shard.event().await, TransportEvent::Disconnected { .. }));
    assert!(shard.server.metrics().messages_flooded > 200);

    let (connection, peer) = shard.connect().await;
    assert!(connection.outgoing.try_send(CHANNEL_COMMAND, vec![1; 513]));
    assert!(connection.outgoing.try_send(CHANNEL_COMMAND, vec![1; 5]));
    assert_eq!(shard.event().await, TransportEvent::Offence { peer, offence: Offence::TooLarge(513) });
    shard.server.commands().send(vec![TransportCommand::Disconnect { peer }]).unwrap();
    assert!(matches!(shard.event().await, TransportEvent::Disconnected { .. }), "a muted peer was heard");
    shard.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_too_many_packets_is_read_in_part_and_stays_connected() {
    let config = WebRtcConfig { intake: Some(IntakeRates { packets_per_s: 100, bytes_per_s: 64_000 }), ..local() };
    let mut shard = Shard::start(config).await;
    let (loud, loud_peer) = shard.connect().await;
    let (calm, calm_peer) = shard.connect().await;
    // A thousand a second, too long for two of them to share a packet.
    let mut sent = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    while shard.server.metrics().packets_flooded <= 20 {
        pace.tick().await;
        sent += usize::from(loud.outgoing.try_send(CHANNEL_STATE, vec![0; 800]));
        assert!(sent < 20_000, "all are read");
    }
    assert!(calm.outgoing.try_send(CHANNEL_COMMAND, vec![7]));
    let mut datagrams = 0;
    let heard = loop {
        match shard.event().await {
            TransportEvent::Message { peer, channel: CHANNEL_STATE, .. } if peer == loud_peer => datagrams += 1,
            other => break other,
        }
    };
    assert_eq!(heard, TransportEvent::Message { peer: calm_peer, channel: CHANNEL_COMMAND, bytes: vec![7] });
    assert!(datagrams < sent, "{datagrams} of {sent} were read");
    assert_eq!(shard.server.metrics().connections_open, 2);
    shard.stop().await;
}
