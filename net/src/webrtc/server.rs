//! The WebRTC server as the shard sees it: start, commands in, events out through the sink, numbers, stop.
//!
//! Each worker is a thread with a UDP port of its own (about 20 µs a message: see [`super::worker`]); peers are dealt out to
//! them in turn, and everything that names a peer goes to its worker.

use super::error::StartError;
use super::signalling::{Admission, Door, Refused};
use super::worker::{Addresses, Control, Worker};
use crate::flood::{IntakeRates, Rates};
use crate::transport::{EventSink, PeerId, RECEIVE_BYTES_MAX, TransportCommand};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

/// Batches of commands that wait for the worker: many seconds of a caller that sends one per tick.
const COMMAND_BATCHES_MAX: usize = 1_024;
/// Signalling messages that wait for the worker; the WebSockets wait when it is full.
const CONTROLS_MAX: usize = 256;
/// What the kernel is asked to hold of packets that nobody read yet: some 50 ms of a thousand players.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// How the server is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebRtcConfig {
    /// UDP address of the first worker; those after it have the ports that follow. Port 0 takes any for each.
    pub bind: SocketAddr,
    /// Threads that serve players, each with a port of its own.
    pub workers: usize,
    /// The address that clients are told instead of the bound one, for a server behind 1:1 NAT. Without it, a server bound to
    /// `0.0.0.0` tells them 127.0.0.1 and the machine's primary address.
    pub public_address: Option<IpAddr>,
    /// Most connections at a time, those still connecting included.
    pub connections_max: usize,
    /// Most connections from one IP address.
    pub connections_per_address_max: usize,
    /// Most connections from one IP address whose channels are not open yet.
    pub handshakes_per_address_max: usize,
    /// How long a client may take from its WebSocket to open channels.
    pub handshake_timeout: Duration,
    /// Longest message that is passed on; a longer one is an offence.
    pub message_bytes_max: usize,
    /// How much a client may send before the rest is dropped here; `None` passes everything on.
    pub rates: Option<Rates>,
    /// How much a client may send before raw packets are dropped, unread; `None` reads everything.
    pub intake: Option<IntakeRates>,
}

impl Default for WebRtcConfig {
    fn default() -> WebRtcConfig {
        WebRtcConfig {
            bind: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            workers: 1,
            public_address: None,
            connections_max: 2_000,
            connections_per_address_max: 1_200,
            handshakes_per_address_max: 600,
            handshake_timeout: Duration::from_secs(10),
            message_bytes_max: RECEIVE_BYTES_MAX,
            rates: None,
            intake: None,
        }
    }
}

/// What the server counted since it started; read with [`Counters::metrics`].
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) connections_open: AtomicU64,
    pub(super) connections_total: AtomicU64,
    pub(super) handshakes_failed: AtomicU64,
    pub(super) packets_in: AtomicU64,
    pub(super) packets_out: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) packets_refused: AtomicU64,
    pub(super) packets_flooded: AtomicU64,
    pub(super) messages_dropped: AtomicU64,
    pub(super) messages_flooded: AtomicU64,
}

impl Counters {
    /// All numbers, read one after the other.
    pub fn metrics(&self) -> Metrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Metrics {
            connections_open: read(&self.connections_open),
            connections_total: read(&self.connections_total),
            handshakes_failed: read(&self.handshakes_failed),
            packets_in: read(&self.packets_in),
            packets_out: read(&self.packets_out),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
            packets_refused: read(&self.packets_refused),
            packets_flooded: read(&self.packets_flooded),
            messages_dropped: read(&self.messages_dropped),
            messages_flooded: read(&self.messages_flooded),
            ..Metrics::default()
        }
    }

    pub(super) fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(amount as u64, Ordering::Relaxed);
    }
}

/// A reading of [`Counters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metrics {
    /// Connections with both channels open now.
    pub connections_open: u64,
    /// Connections that ever opened.
    pub connections_total: u64,
    /// Clients that came to signalling and never connected.
    pub handshakes_failed: u64,
    /// UDP packets received.
    pub packets_in: u64,
    /// UDP packets sent.
    pub packets_out: u64,
    /// Bytes in the received packets, without IP and UDP headers.
    pub bytes_in: u64,
    /// Bytes in the sent packets, without IP and UDP headers.
    pub bytes_out: u64,
    /// Received packets that belonged to no connection, and packets that the kernel did not take.
    pub packets_refused: u64,
    /// Received packets dropped unread because their sender sent too many or too much.
    pub packets_flooded: u64,
    /// Datagrams that were not sent or not passed on because a queue was full, and messages to peers that were gone.
    pub messages_dropped: u64,
    /// Messages dropped because their sender sent too many or too long ones.
    pub messages_flooded: u64,
    /// Clients at the door whose channels are not open yet. Zero from [`Counters::metrics`].
    pub handshakes_open: u64,
    /// Clients that found no room at the door. Zero from [`Counters::metrics`].
    pub refused_at_door: u64,
}

/// Gives commands to the server; cheap to clone.
#[derive(Debug, Clone)]
pub struct Commands {
    workers: Arc<[mpsc::Sender<Vec<TransportCommand>>]>,
}

impl Commands {
    /// Queues a batch without waiting and wakes each worker concerned once. What a worker's queue does not take, or when the
    /// server stopped, comes back in its order: nothing that must arrive is lost silently.
    pub fn send(&self, commands: Vec<TransportCommand>) -> Result<(), Vec<TransportCommand>> {
        if commands.is_empty() {
            return Ok(());
        }
        let [one] = &*self.workers else { return self.deal(commands) };
        one.try_send(commands).map_err(|refused| refused.into_inner())
    }

    fn deal(&self, commands: Vec<TransportCommand>) -> Result<(), Vec<TransportCommand>> {
        let mut batches: Vec<Vec<TransportCommand>> = self.workers.iter().map(|_| Vec::new()).collect();
        for command in commands {
            let (TransportCommand::Send { peer, .. } | TransportCommand::Disconnect { peer }) = &command;
            batches[worker_of(*peer, self.workers.len())].push(command);
        }
        let mut refused = Vec::new();
        for (worker, batch) in self.workers.iter().zip(batches).filter(|(_, batch)| !batch.is_empty()) {
            if let Err(error) = worker.try_send(batch) {
                refused.append(&mut error.into_inner());
            }
        }
        if refused.is_empty() { Ok(()) } else { Err(refused) }
    }
}

/// Which of `workers` serves a peer.
fn worker_of(peer: PeerId, workers: usize) -> usize {
    (peer.0 % workers as u64) as usize
}

/// A running server; cheap to clone. Give it to axum as state for [`super::signalling::upgrade`]. It stops when
/// [`WebRtcServer::stop`] is called or the last clone is dropped.
#[derive(Debug, Clone)]
pub struct WebRtcServer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: Uuid,
    next_peer: AtomicU64,
    door: Arc<Door>,
    stopped: AtomicBool,
    counters: Arc<Counters>,
    commands: Commands,
    workers: Vec<WorkerHandle>,
}

#[derive(Debug)]
struct WorkerHandle {
    address: SocketAddr,
    control: mpsc::Sender<Control>,
    stop: Arc<Notify>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl WebRtcServer {
    /// Binds the UDP ports and starts the workers. Events go to `sink`, called on the workers' threads: it must not block.
    ///
    /// # Errors
    /// When a port is taken, or the system gives no thread.
    pub fn start(config: WebRtcConfig, sink: EventSink) -> Result<WebRtcServer, StartError> {
        let id = Uuid::new_v4();
        let counters = Arc::new(Counters::default());
        // All ports first: a worker that runs already would have to be stopped.
        let sockets = (0..config.workers.max(1)).map(|number| bind(&config, number));
        let sockets = sockets.collect::<Result<Vec<_>, StartError>>()?;
        let mut workers = Vec::with_capacity(sockets.len());
        let mut senders = Vec::with_capacity(sockets.len());
        for socket in sockets {
            let (worker, commands) = start_worker(id, socket, &config, Arc::clone(&sink), Arc::clone(&counters))?;
            workers.push(worker);
            senders.push(commands);
        }
        Ok(WebRtcServer {
            shared: Arc::new(Shared {
                id,
                next_peer: AtomicU64::new(1),
                door: Arc::new(Door::new(&config)),
                stopped: AtomicBool::new(false),
                counters,
                commands: Commands { workers: Arc::from(senders) },
                workers,
            }),
        })
    }

    /// Where commands go.
    pub fn commands(&self) -> Commands {
        self.shared.commands.clone()
    }

    /// What was counted.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// What was counted, and what is at the door now.
    pub fn metrics(&self) -> Metrics {
        let (handshakes_open, refused_at_door) = self.shared.door.counts();
        Metrics { handshakes_open, refused_at_door, ..self.shared.counters.metrics() }
    }

    /// The bound UDP address of the first worker.
    pub fn local_address(&self) -> SocketAddr {
        self.shared.workers[0].address
    }

    /// The bound UDP addresses of all workers.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.shared.workers.iter().map(|worker| worker.address).collect()
    }

    /// The id under which the server takes part in signalling.
    pub fn id(&self) -> Uuid {
        self.shared.id
    }

    /// Lets nobody in any more, disconnects all peers as [`TransportCommand::Disconnect`] does, and waits for the worker to
    /// end: about a second at most. Blocks: not for async code. Further calls return at once.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        for worker in &self.shared.workers {
            worker.stop.notify_one();
        }
        for worker in &self.shared.workers {
            let thread = worker.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread
                && thread.join().is_err()
            {
                tracing::error!("the WebRTC worker panicked");
            }
        }
    }

    pub(super) fn admit(&self, address: IpAddr) -> Result<Admission, Refused> {
        if self.shared.stopped.load(Ordering::Acquire) {
            return Err(Refused::Stopped);
        }
        self.shared.door.admit(address)
    }

    pub(super) fn next_peer(&self) -> PeerId {
        PeerId(self.shared.next_peer.fetch_add(1, Ordering::Relaxed))
    }

    /// Passes a signalling message on; false when the server stopped.
    pub(super) async fn control(&self, control: Control) -> bool {
        self.worker_of(control.peer()).control.send(control).await.is_ok()
    }

    fn worker_of(&self, peer: PeerId) -> &WorkerHandle {
        &self.shared.workers[worker_of(peer, self.shared.workers.len())]
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.stop.notify_one();
        }
    }
}

fn bind(config: &WebRtcConfig, number: usize) -> Result<UdpSocket, StartError> {
    let mut address = config.bind;
    if address.port() != 0 {
        // The configuration keeps the last port below 65,536.
        address.set_port(address.port().saturating_add(number as u16));
    }
    let bind_error = |source| StartError::Bind { address, source };
    let socket = UdpSocket::bind(address).map_err(bind_error)?;
    socket.set_nonblocking(true).map_err(bind_error)?;
    enlarge_receive_buffer(&socket);
    Ok(socket)
}

fn start_worker(
    id: Uuid,
    socket: UdpSocket,
    config: &WebRtcConfig,
    sink: EventSink,
    counters: Arc<Counters>,
) -> Result<(WorkerHandle, mpsc::Sender<Vec<TransportCommand>>), StartError> {
    let bind_error = |source| StartError::Bind { address: config.bind, source };
    let address = socket.local_addr().map_err(bind_error)?;
    let stop = Arc::new(Notify::new());
    let (control_sender, control) = mpsc::channel(CONTROLS_MAX);
    let (command_sender, commands) = mpsc::channel(COMMAND_BATCHES_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
    let socket = {
        let _inside = runtime.enter();
        tokio::net::UdpSocket::from_std(socket).map_err(bind_error)?
    };
    let worker = Worker::new(id, socket, advertised(address, config.public_address), config, sink, counters)?;
    let stop_of_worker = Arc::clone(&stop);
    let thread = thread::Builder::new()
        .name("webrtc".into())
        .spawn(move || runtime.block_on(worker.run(commands, control, stop_of_worker)))
        .map_err(StartError::Thread)?;
    let handle = WorkerHandle { address, control: control_sender, stop, thread: Mutex::new(Some(thread)) };
    Ok((handle, command_sender))
}

/// The addresses at which clients are told to find `bound`.
fn advertised(bound: SocketAddr, public: Option<IpAddr>) -> Addresses {
    let at = |ip| SocketAddr::new(ip, bound.port());
    if let Some(public) = public {
        return Addresses { main: at(public), loopback: None };
    }
    if !bound.ip().is_unspecified() {
        return Addresses { main: bound, loopback: None };
    }
    let loopback = match bound.ip() {
        IpAddr::V4(_) => at(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(_) => at(Ipv6Addr::LOCALHOST.into()),
    };
    match primary_address(bound.ip()) {
        Some(primary) if !primary.is_loopback() => Addresses { main: at(primary), loopback: Some(loopback) },
        _ => Addresses { main: loopback, loopback: None },
    }
}

/// The address from which this machine reaches the rest of the world. Connecting a UDP socket only asks the routing table;
/// the targets are reserved for documentation (RFC 5737, RFC 3849).
fn primary_address(unspecified: IpAddr) -> Option<IpAddr> {
    let elsewhere: IpAddr = match unspecified {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(unspecified, 0)).ok()?;
    socket.connect(SocketAddr::new(elsewhere, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Asks for a larger receive buffer; a smaller one only means that more packets are lost when the worker is late.
fn enlarge_receive_buffer(socket: &UdpSocket) {
    use rustix::net::sockopt;
    #[cfg(target_os = "linux")]
    if sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER_BYTES).is_ok() {
        return;
    }
    if let Err(error) = sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER_BYTES) {
        tracing::debug!(%error, "the UDP receive buffer keeps its size");
    }
}
