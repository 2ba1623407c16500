//! A WebRTC peer that is in order in all layers but one. It is str0m, as an ordinary bot is; what is spoiled is spoiled on the way
//! out: STUN and DTLS where packets are sent, SCTP between the association and the encryption, under a true checksum.

use super::Tally;
use super::spoil::{garble, garble_sctp, hold_back_acknowledgements, never_end};
use super::udp::Exchange;
use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use str0m::change::SdpOffer;
use str0m::channel::{ChannelConfig, ChannelId, Reliability};
use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion};
use str0m::crypto::{CryptoError, from_feature_flags};
use str0m::net::{DatagramRecv, Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc};
use tokio::net::{TcpStream, UdpSocket};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use uuid::Uuid;
use vsekai_bench::webrtc::token;
use vsekai_net::client::Client;
use vsekai_net::webrtc::signalling::{PeerEvent, PeerRequest, PeerSignal};
use vsekai_schema::id::RecipeId;
use vsekai_schema::wire::{CHANNEL_COMMAND, CHANNEL_STATE, Command};

/// How long signalling may take to make its offer.
const OFFER_DEADLINE: Duration = Duration::from_secs(10);
/// How often a mutant that is connected says something.
const SPEAK_INTERVAL: Duration = Duration::from_millis(20);
/// Of the packets of a spoiled layer, so many are spoiled: a handshake that never gets anywhere tests little.
const SPOILED: f64 = 0.3;
/// Before each packet of STUN and DTLS go so many spoiled copies.
const SPOILED_COPIES: u64 = 8;
/// A mutant whose association acknowledges nothing first lets so much time pass, to get in.
const ACKNOWLEDGES_FOR: Duration = Duration::from_secs(2);
/// The longest message that WebRTC lets anybody send.
const LARGEST: usize = 65_536;

/// What a mutant does against the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vice {
    /// Spoils its STUN checks.
    Stun,
    /// Spoils its DTLS handshake, and later the encrypted records.
    Dtls,
    /// Spoils SCTP inside an established DTLS session.
    Sctp,
    /// Says garbage on both channels, before the hello or after it.
    Messages,
    /// Sends messages of 65,536 bytes as fast as they go.
    Large,
    /// Sends the like without ever ending one.
    Endless,
    /// Plays, acknowledges nothing, and keeps its window shut.
    Deaf,
}

impl Vice {
    /// Those that send what cannot be read.
    pub(super) const GARBAGE: [Vice; 4] = [Vice::Stun, Vice::Dtls, Vice::Sctp, Vice::Messages];
    /// Those that hold memory.
    pub(super) const HEAVY: [Vice; 3] = [Vice::Large, Vice::Endless, Vice::Deaf];

    fn provider(self) -> CryptoProvider {
        static SCTP: Spoiling = Spoiling(Vice::Sctp);
        static ENDLESS: Spoiling = Spoiling(Vice::Endless);
        static DEAF: Spoiling = Spoiling(Vice::Deaf);
        let usual = from_feature_flags();
        let dtls_provider: &'static dyn DtlsProvider = match self {
            Vice::Sctp => &SCTP,
            Vice::Endless => &ENDLESS,
            Vice::Deaf => &DEAF,
            Vice::Stun | Vice::Dtls | Vice::Messages | Vice::Large => usual.dtls_provider,
        };
        CryptoProvider { dtls_provider, ..usual }
    }
}

/// Lives as a mutant at the shard that is reached at `url`, until `end` or until the shard will have no more of it.
pub(super) async fn live(url: &str, secret: &str, vice: Vice, seed: u64, end: Instant, tally: &Tally) -> Result<()> {
    let client = Client::new(&token(url, secret).await?, "mutant");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let Some(call) = Call::make(&client.signalling_url(url)).await? else {
        tally.turned_away.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    };
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let local = socket.local_addr()?;
    let (mut rtc, channels, answer) = call.answer(vice.provider(), local)?;
    let mut websocket = call.websocket;
    send(&mut websocket, call.server, PeerSignal::Answer(answer)).await?;
    tally.mutants.fetch_add(1, Ordering::Relaxed);
    // Half of those that send garbage do so before they have joined.
    let joins = vice != Vice::Messages || rng.random();
    let mut mutant = Mutant { vice, client, rng, channels, open: 0, joins, begin: Instant::now(), due: None };
    let mut buffer = [0; 2_048];
    while let Some(timeout) = mutant.drain(&mut rtc, &socket, tally) {
        let now = Instant::now();
        if now >= end {
            break;
        }
        let wake = timeout.min(mutant.due.unwrap_or(end)).min(end).max(now + Duration::from_millis(1));
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, source)) = received else { continue };
                if let Ok(contents) = DatagramRecv::try_from(&buffer[..length]) {
                    let receive = Receive { proto: Protocol::Udp, source, destination: local, contents };
                    // What it cannot read itself is of no interest.
                    let _ = rtc.handle_input(Input::Receive(Instant::now(), receive));
                }
            }
            () = tokio::time::sleep_until(wake.into()) => {
                let _ = rtc.handle_input(Input::Timeout(Instant::now()));
            }
        }
        mutant.speak(&mut rtc, tally);
    }
    Ok(())
}

/// What a holder of a token gets sent to an address that it only pretends to have: its check is in order, for which it need not hear
/// anything, it begins DTLS, and then it is silent until `end`.
pub(super) async fn begin_and_vanish(url: &str, secret: &str, end: Instant) -> Result<Exchange> {
    let token = token(url, secret).await?;
    let call = Call::make(&format!("{url}?token={token}")).await?.context("the door is shut")?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let local = socket.local_addr()?;
    let (mut rtc, _, answer) = call.answer(from_feature_flags(), local)?;
    let mut websocket = call.websocket;
    send(&mut websocket, call.server, PeerSignal::Answer(answer)).await?;
    let mut exchange = Exchange::default();
    let mut vanished = false;
    let mut buffer = [0; 2_048];
    while Instant::now() < end {
        let mut wake = end;
        while !vanished {
            match rtc.poll_output()? {
                Output::Timeout(timeout) => {
                    wake = timeout.min(end);
                    break;
                }
                Output::Transmit(packet) => {
                    socket.send_to(&packet.contents, packet.destination).await?;
                    exchange.packets += 1;
                    exchange.sent_bytes += packet.contents.len() as u64;
                    vanished = packet.contents.first().is_some_and(|first| *first > 3);
                }
                Output::Event(_) => {}
            }
        }
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let (length, source) = received?;
                exchange.answered_bytes += length as u64;
                if vanished {
                    continue;
                }
                if let Ok(contents) = DatagramRecv::try_from(&buffer[..length]) {
                    let receive = Receive { proto: Protocol::Udp, source, destination: local, contents };
                    rtc.handle_input(Input::Receive(Instant::now(), receive))?;
                }
            }
            () = tokio::time::sleep_until(wake.into()) => {
                if !vanished {
                    rtc.handle_input(Input::Timeout(Instant::now()))?;
                }
            }
        }
    }
    ensure!(vanished, "DTLS never began");
    Ok(exchange)
}

/// A call to signalling that was answered by an offer.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) websocket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(super) server: Uuid,
    pub(super) offer: String,
}

impl Call {
    /// Calls; `None` when the door is shut.
    pub(super) async fn make(url: &str) -> Result<Option<Call>> {
        let (mut websocket, _) = match tokio_tungstenite::connect_async(url).await {
            Ok(connected) => connected,
            Err(tokio_tungstenite::tungstenite::Error::Http(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let wait = async {
            loop {
                match websocket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        if let PeerEvent::Signal { sender, data: PeerSignal::Offer(offer) } =
                            serde_json::from_str(&text)?
                        {
                            return Ok((sender, offer));
                        }
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => bail!("signalling ended without an offer"),
                }
            }
        };
        let (server, offer) = tokio::time::timeout(OFFER_DEADLINE, wait).await.context("no offer came")??;
        Ok(Some(Call { websocket, server, offer }))
    }

    /// The other end of the connection, and what it answers.
    pub(super) fn answer(&self, provider: CryptoProvider, local: SocketAddr) -> Result<(Rtc, [ChannelId; 2], String)> {
        let mut rtc = Rtc::builder().clear_codecs().set_crypto_provider(Arc::new(provider)).build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, Protocol::Udp)?);
        let answer = rtc.sdp_api().accept_offer(SdpOffer::from_sdp_string(&self.offer)?)?;
        let channels = [CHANNEL_STATE, CHANNEL_COMMAND].map(|channel| {
            let reliability = match channel {
                CHANNEL_COMMAND => Reliability::Reliable,
                _ => Reliability::MaxRetransmits { retransmits: 0 },
            };
            rtc.direct_api().create_data_channel(ChannelConfig {
                label: format!("matchbox_socket_{channel}"),
                ordered: channel == CHANNEL_COMMAND,
                reliability,
                negotiated: Some(channel as u16),
                protocol: String::new(),
            })
        });
        Ok((rtc, channels, answer.to_sdp_string()))
    }
}

/// Says something to the server by signalling.
pub(super) async fn send(
    websocket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>,
    receiver: Uuid,
    data: PeerSignal,
) -> Result<()> {
    let text = serde_json::to_string(&PeerRequest::Signal { receiver, data })?;
    Ok(websocket.send(Message::text(text)).await?)
}

struct Mutant {
    vice: Vice,
    client: Client,
    rng: ChaCha8Rng,
    channels: [ChannelId; 2],
    /// How many channels are open.
    open: usize,
    joins: bool,
    begin: Instant,
    /// When it wants to speak again; never before the channels are open.
    due: Option<Instant>,
}

impl Mutant {
    /// Sends what is to be sent, spoiled, and takes in what came; the next timeout, or `None` when the connection is over.
    fn drain(&mut self, rtc: &mut Rtc, socket: &UdpSocket, tally: &Tally) -> Option<Instant> {
        loop {
            match rtc.poll_output().ok()? {
                Output::Timeout(timeout) => return rtc.is_alive().then_some(timeout),
                Output::Transmit(packet) => {
                    let mut bytes = packet.contents.to_vec();
                    let layer = match bytes.first() {
                        Some(0..=3) => Vice::Stun,
                        _ => Vice::Dtls,
                    };
                    if self.vice == layer {
                        let counter = if layer == Vice::Stun { &tally.stun } else { &tally.dtls };
                        for _ in 0..SPOILED_COPIES {
                            let mut copy = bytes.clone();
                            garble(&mut self.rng, &mut copy);
                            let _ = socket.try_send_to(&copy, packet.destination);
                        }
                        counter.fetch_add(SPOILED_COPIES, Ordering::Relaxed);
                        if self.rng.random_bool(SPOILED) {
                            garble(&mut self.rng, &mut bytes);
                            counter.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    // Lost like any other packet.
                    let _ = socket.try_send_to(&bytes, packet.destination);
                }
                Output::Event(Event::ChannelOpen(..)) => {
                    self.open += 1;
                    self.due = (self.open == 2).then(Instant::now);
                }
                Output::Event(Event::ChannelData(data)) => {
                    let channel = self.channels.iter().position(|id| *id == data.id)?;
                    // Refused: the connection ends by itself.
                    let _ = self.client.receive(self.begin.elapsed(), channel, &data.data);
                    while self.client.poll_event().is_some() {}
                }
                Output::Event(_) => {}
            }
        }
    }

    /// Says what a mutant of its kind says, when it is time.
    fn speak(&mut self, rtc: &mut Rtc, tally: &Tally) {
        if self.due.is_none_or(|due| Instant::now() < due) {
            return;
        }
        self.due = Some(Instant::now() + SPEAK_INTERVAL);
        if self.client.welcome().is_some() {
            let (x, z) = (self.rng.random_range(-127..=127), self.rng.random_range(-127..=127));
            self.client.walk(x, z, self.rng.random(), true);
            if self.vice == Vice::Deaf && self.rng.random_bool(0.3) {
                // As many as are allowed. Every command has a result, and no result is ever acknowledged.
                self.client.command(self.begin.elapsed(), Command::Craft { recipe: RecipeId(u16::MAX) });
            }
        }
        let outgoing = if self.joins { self.client.take_outgoing() } else { Vec::new() };
        for (channel, bytes) in outgoing {
            self.write(rtc, channel, &bytes);
        }
        match self.vice {
            Vice::Messages if !self.joins || self.client.welcome().is_some() => {
                let channel = self.rng.random_range(0..2);
                let mut bytes = vec![0; self.rng.random_range(1..600)];
                self.rng.fill_bytes(&mut bytes);
                bytes[0] %= 6;
                if self.write(rtc, channel, &bytes) {
                    tally.messages.fetch_add(1, Ordering::Relaxed);
                }
            }
            Vice::Large | Vice::Endless => {
                let large = vec![0x55; LARGEST];
                while self.write(rtc, CHANNEL_COMMAND, &large) {
                    tally.large.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => {}
        }
    }

    fn write(&self, rtc: &mut Rtc, channel: usize, bytes: &[u8]) -> bool {
        rtc.channel(self.channels[channel]).is_some_and(|mut channel| channel.write(true, bytes).unwrap_or(false))
    }
}

/// SCTP packets that were spoiled since the program began: a provider of crypto knows no tally.
pub(super) static SPOILED_SCTP: AtomicU64 = AtomicU64::new(0);
/// Tells the sessions apart, so that each has randomness of its own.
static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// DTLS in order, through which SCTP goes out of order.
#[derive(Debug)]
struct Spoiling(Vice);

impl DtlsProvider for Spoiling {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        from_feature_flags().dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        certificate: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let inner = from_feature_flags().dtls_provider.new_dtls(certificate, now, version, mtu)?;
        let rng = ChaCha8Rng::seed_from_u64(SESSIONS.fetch_add(1, Ordering::Relaxed));
        Ok(Box::new(SpoilingSession { inner, vice: self.0, rng, begin: now, held: None }))
    }
}

#[derive(Debug)]
struct SpoilingSession {
    inner: Box<dyn DtlsInstance>,
    vice: Vice,
    rng: ChaCha8Rng,
    begin: Instant,
    /// What the last acknowledgement said that was let through.
    held: Option<u32>,
}

impl DtlsInstance for SpoilingSession {
    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        let spoiled = match self.vice {
            Vice::Sctp => self.rng.random_bool(SPOILED).then(|| garble_sctp(&mut self.rng, data)),
            Vice::Endless => never_end(data),
            Vice::Deaf if self.begin.elapsed() > ACKNOWLEDGES_FOR => hold_back_acknowledgements(data, &mut self.held),
            _ => None,
        };
        let Some(spoiled) = spoiled else { return self.inner.send_application_data(data) };
        SPOILED_SCTP.fetch_add(1, Ordering::Relaxed);
        // Taken whole or not at all, however long it has become.
        Ok(if self.inner.send_application_data(&spoiled)? > 0 { data.len() } else { 0 })
    }

    fn set_active(&mut self, active: bool) {
        self.inner.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.inner.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> DtlsOutput<'a> {
        self.inner.poll_output(buffer)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.inner.handle_timeout(now)
    }

    fn is_active(&self) -> bool {
        self.inner.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.inner.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.inner.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.inner.close()
    }
}

/// The first packet of a DTLS client.
pub(super) fn client_hello() -> Result<Vec<u8>> {
    let provider = from_feature_flags().dtls_provider;
    let certificate = provider.generate_certificate().context("no certificate")?;
    let now = Instant::now();
    let mut dtls = provider.new_dtls(&certificate, now, DtlsVersion::default(), None)?;
    dtls.set_active(true);
    dtls.handle_timeout(now)?;
    let mut buffer = vec![0; 4_096];
    for _ in 0..8 {
        if let DtlsOutput::Packet(packet) = dtls.poll_output(&mut buffer) {
            ensure!(packet.first() == Some(&22), "a DTLS client begins with {:?}", packet.first());
            return Ok(packet.to_vec());
        }
    }
    bail!("a DTLS client says nothing")
}
