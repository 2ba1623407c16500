//! A light WebRTC client for synthetic players: one task and one UDP socket each, hundreds to a runtime. Speaks the same
//! protocol as an unmodified matchbox client.

use super::error::ClientError;
use super::link::{Link, LinkEvent, Outbox};
use super::signalling::{PeerEvent, PeerRequest, PeerSignal, READ_BUFFER_BYTES, SIGNAL_BYTES_MAX};
use super::worker::make_certificate;
use futures_util::{SinkExt, StreamExt};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use str0m::config::DtlsCert;
use str0m::{Rtc, RtcConfig};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tokio_tungstenite::tungstenite::Error as WebSocketError;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use uuid::Uuid;
use vsekai_schema::wire::CHANNEL_STATE;

/// Messages that wait to be read by the owner, and to be sent.
const QUEUE_MAX: usize = 1_024;
/// As matchbox does.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a client that closes waits for the server to acknowledge what was sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Packets received before something else is looked at.
const PACKETS_PER_TURN: usize = 32;
const PACKET_BYTES_MAX: usize = 2_048;
/// No timer fires earlier than this after it was set.
const TIMER_MIN: Duration = Duration::from_millis(1);
/// Longest sleep; the library says "never" by a time far away.
const TIMER_MAX: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A connection to a shard. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    /// Whole messages with their channel, oldest first; ends when the connection is over. When 1,024 wait, a datagram is
    /// dropped, and a reliable message ends the connection.
    pub incoming: mpsc::Receiver<(usize, Vec<u8>)>,
    /// Sends.
    pub outgoing: Outgoing,
    stop: oneshot::Sender<()>,
    task: JoinHandle<String>,
}

/// Sends on a [`Connection`]; cheap to clone.
#[derive(Debug, Clone)]
pub struct Outgoing {
    queue: mpsc::Sender<(usize, Vec<u8>)>,
}

impl Outgoing {
    /// Queues one message for `channel` without waiting. False when the connection is over or 1,024 messages wait.
    pub fn try_send(&self, channel: usize, bytes: Vec<u8>) -> bool {
        self.queue.try_send((channel, bytes)).is_ok()
    }
}

impl Connection {
    /// A connection that is carried by something else than this client, such as another library. `drive` gets where messages
    /// that come go to, where those to be sent come from, and what says that it shall end; it returns why it ended.
    pub fn driven<F>(
        drive: impl FnOnce(mpsc::Sender<(usize, Vec<u8>)>, mpsc::Receiver<(usize, Vec<u8>)>, oneshot::Receiver<()>) -> F,
    ) -> Connection
    where
        F: Future<Output = String> + Send + 'static,
    {
        let (incoming_sender, incoming) = mpsc::channel(QUEUE_MAX);
        let (outgoing_sender, outgoing) = mpsc::channel(QUEUE_MAX);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(drive(incoming_sender, outgoing, stopped));
        Connection { incoming, outgoing: Outgoing { queue: outgoing_sender }, stop, task }
    }

    /// Ends the connection once the server acknowledged what was sent on the command channel, within a second. Returns why
    /// it ended: this call, or what came before it.
    pub async fn close(self) -> String {
        let Connection { incoming, outgoing, stop, task } = self;
        // Fails when the connection is over already.
        let _ = stop.send(());
        drop(outgoing);
        let reason = task.await.unwrap_or_else(|error| error.to_string());
        drop(incoming);
        reason
    }

    /// Ends it without a word to anybody, as when a network goes away.
    pub fn abandon(self) {
        self.task.abort();
    }

    /// Is it over?
    pub fn is_closed(&self) -> bool {
        self.task.is_finished()
    }
}

/// Connects to the signalling address `url`, `ws://host:port/path`, and returns when both channels are open.
pub async fn connect(url: &str, deadline: Duration) -> Result<Connection, ClientError> {
    let mut waiting_for = "reaching the server";
    match tokio::time::timeout(deadline, handshake(url, &mut waiting_for)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ClientError::Deadline { deadline, waiting_for }),
    }
}

async fn handshake(url: &str, waiting_for: &mut &'static str) -> Result<Connection, ClientError> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(SIGNAL_BYTES_MAX))
        .max_frame_size(Some(SIGNAL_BYTES_MAX));
    let (mut websocket, _) =
        connect_async_with_config(url, Some(config), true).await.map_err(|error| websocket_error(url, error))?;
    // The interface that leads to signalling leads to the server, too.
    let MaybeTlsStream::Plain(stream) = websocket.get_ref() else {
        return Err(ClientError::Url { url: url.into() });
    };
    let interface = stream.local_addr().map_err(ClientError::Socket)?.ip();
    let socket = UdpSocket::bind(SocketAddr::new(interface, 0)).await.map_err(ClientError::Socket)?;
    let local = socket.local_addr().map_err(ClientError::Socket)?;

    *waiting_for = "waiting for the server's offer";
    let (server, offer) = loop {
        match read_event(&mut websocket).await? {
            PeerEvent::Signal { sender, data: PeerSignal::Offer(sdp) } => break (sender, sdp),
            PeerEvent::IdAssigned(_) => {}
            other => return Err(ClientError::Signalling(format!("unexpected {other:?}"))),
        }
    };
    let (link, answer) = Link::answer(rtc_config(), local, &offer, Instant::now())?;
    let answer = PeerRequest::Signal { receiver: server, data: PeerSignal::Answer(answer) };
    write_request(&mut websocket, &answer).await.map_err(|error| ClientError::Signalling(error.to_string()))?;

    *waiting_for = "opening the channels";
    let (incoming_sender, incoming) = mpsc::channel(QUEUE_MAX);
    let (outgoing_sender, outgoing) = mpsc::channel(QUEUE_MAX);
    let mut driver = Driver {
        link,
        socket,
        local,
        websocket: Some(websocket),
        server,
        incoming: incoming_sender,
        outgoing,
        outbox: Outbox::default(),
    };
    driver.open().await.map_err(ClientError::Connection)?;
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(driver.run(stopped));
    Ok(Connection { incoming, outgoing: Outgoing { queue: outgoing_sender }, stop, task })
}

/// All clients of a process share a certificate: making one costs more than a handshake.
fn rtc_config() -> RtcConfig {
    static CERTIFICATE: OnceLock<Option<DtlsCert>> = OnceLock::new();
    let config = Rtc::builder().clear_codecs();
    match CERTIFICATE.get_or_init(make_certificate) {
        Some(certificate) => config.set_dtls_cert(certificate.clone()),
        None => config,
    }
}

fn websocket_error(url: &str, error: WebSocketError) -> ClientError {
    match error {
        WebSocketError::Io(source) => ClientError::Unreachable { url: url.into(), source },
        WebSocketError::Http(response) => ClientError::Refused {
            status: response.status().as_u16(),
            message: response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned(),
        },
        WebSocketError::Url(_) | WebSocketError::HttpFormat(_) | WebSocketError::Tls(_) => {
            ClientError::Url { url: url.into() }
        }
        other => ClientError::Signalling(other.to_string()),
    }
}

async fn read_event(websocket: &mut Socket) -> Result<PeerEvent, ClientError> {
    loop {
        match websocket.next().await {
            Some(Ok(Message::Text(text))) => {
                return serde_json::from_str(&text).map_err(|error| ClientError::Signalling(error.to_string()));
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(Some(frame)))) => {
                return Err(ClientError::Signalling(format!("the server closed it: {}", frame.reason)));
            }
            Some(Ok(_)) | None => return Err(ClientError::Signalling("the server closed it".into())),
            Some(Err(error)) => return Err(ClientError::Signalling(error.to_string())),
        }
    }
}

async fn write_request(websocket: &mut Socket, request: &PeerRequest) -> Result<(), WebSocketError> {
    let text = serde_json::to_string(request).expect("strings and ids are always JSON");
    websocket.send(Message::text(text)).await
}

/// What the task owns.
struct Driver {
    link: Link,
    socket: UdpSocket,
    local: SocketAddr,
    /// Gone when the server closed it: the connection does without.
    websocket: Option<Socket>,
    server: Uuid,
    incoming: mpsc::Sender<(usize, Vec<u8>)>,
    outgoing: mpsc::Receiver<(usize, Vec<u8>)>,
    outbox: Outbox,
}

impl Driver {
    /// Drives the handshake until both channels are open; an error is why that failed.
    async fn open(&mut self) -> Result<(), String> {
        self.link.tick(Instant::now(), &mut self.outbox);
        loop {
            if self.settle()? {
                return Ok(());
            }
            self.wait().await?;
        }
    }

    /// Drives the connection until it ends; returns why.
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> String {
        let mut keep_alive = interval(KEEP_ALIVE_INTERVAL);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut flush_deadline = None;
        loop {
            if let Err(reason) = self.settle() {
                return reason;
            }
            if let Some(deadline) = flush_deadline
                && (Instant::now() >= deadline || self.link.is_flushed() && self.outgoing.is_empty())
            {
                self.link.end("closed".into(), &mut self.outbox);
                // Ended is what comes of it.
                return self.settle().err().unwrap_or_default();
            }
            let flush_wake = flush_deadline.unwrap_or_else(|| Instant::now() + TIMER_MAX);
            tokio::select! {
                outcome = self.wait() => {
                    if let Err(reason) = outcome {
                        self.link.end(reason, &mut self.outbox);
                    }
                }
                _ = keep_alive.tick() => self.keep_alive().await,
                // Sent, or the connection was dropped.
                _ = &mut stopped, if flush_deadline.is_none() => {
                    flush_deadline = Some(Instant::now() + FLUSH_TIMEOUT);
                }
                () = sleep_until(flush_wake.into()) => {}
            }
        }
    }

    /// Waits for a packet, a message to send, something from signalling or the time, and takes it in. Can be cancelled
    /// while it waits. An error is why the connection is over.
    async fn wait(&mut self) -> Result<(), String> {
        let now = Instant::now();
        let wake = self.link.timeout().clamp(now + TIMER_MIN, now + TIMER_MAX);
        tokio::select! {
            _ = self.socket.readable() => self.receive(),
            Some((channel, bytes)) = self.outgoing.recv() => {
                self.link.send(channel, bytes, &mut self.outbox);
            }
            event = next_event(&mut self.websocket) => match event {
                Some(PeerEvent::PeerLeft(peer)) if peer == self.server => {
                    return Err("the server ended the connection".into());
                }
                Some(_) => {}
                None => self.websocket = None,
            },
            () = sleep_until(wake.into()) => self.link.tick(Instant::now(), &mut self.outbox),
        }
        Ok(())
    }

    fn receive(&mut self) {
        let mut buffer = [0; PACKET_BYTES_MAX];
        for _ in 0..PACKETS_PER_TURN {
            let Ok((length, source)) = self.socket.try_recv_from(&mut buffer) else {
                return;
            };
            self.link.receive(Instant::now(), source, self.local, &buffer[..length], &mut self.outbox);
        }
    }

    /// Carries out what is in the outbox. True when it says that the channels are open; an error is why the connection is
    /// over.
    fn settle(&mut self) -> Result<bool, String> {
        for packet in self.outbox.packets.drain(..) {
            // Lost like any other packet.
            let _ = self.socket.try_send_to(&packet.contents, packet.destination);
        }
        let mut opened = false;
        let mut overflow = false;
        for event in self.outbox.events.drain(..) {
            match event {
                LinkEvent::Open => opened = true,
                LinkEvent::Message { channel, bytes } => {
                    let full =
                        matches!(self.incoming.try_send((channel, bytes)), Err(mpsc::error::TrySendError::Full(_)));
                    overflow |= full && channel != CHANNEL_STATE;
                }
                LinkEvent::Ended(reason) => return Err(reason),
            }
        }
        if overflow {
            self.link.end("messages were not read fast enough".into(), &mut self.outbox);
            return self.settle();
        }
        Ok(opened)
    }

    async fn keep_alive(&mut self) {
        if let Some(websocket) = &mut self.websocket
            && write_request(websocket, &PeerRequest::KeepAlive).await.is_err()
        {
            self.websocket = None;
        }
    }
}

/// The next event from signalling, or `None` once when it closed.
async fn next_event(websocket: &mut Option<Socket>) -> Option<PeerEvent> {
    match websocket {
        Some(websocket) => read_event(websocket).await.ok(),
        None => std::future::pending().await,
    }
}
