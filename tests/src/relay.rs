//! A bad network between clients and a shard: the shard announces the relay's address instead of its own, so that every packet
//! of every client passes through here, is delayed, and is lost now and then.
//!
//! UDP: one socket faces the clients, and each source gets a socket of its own towards the shard, as a NAT does it.
//! Signalling: TCP with the same delay; what the kernel would send again is not lost here.
//!
//! Losses follow from a seed, in the order in which packets come; that order is the network's.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Packets under way in each direction; more are lost.
const PACKETS_MAX: usize = 4_096;
/// Sources that have a socket towards the shard; packets of more are lost.
const SOURCES_MAX: usize = 500;
/// A source that the shard says nothing to for so long loses its socket.
const SOURCE_IDLE: Duration = Duration::from_secs(15);
const PACKET_BYTES_MAX: usize = 2_048;
/// Pieces of a TCP stream under way in each direction; the sender waits when there are more.
const PIECES_MAX: usize = 64;
const PIECE_BYTES_MAX: usize = 16 * 1_024;

/// How bad the network is, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// UDP packets lost, per thousand.
    pub loss_permille: u32,
    /// How long each packet takes.
    pub delay: Duration,
}

/// What passed in one direction, or did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets that came.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that were lost on purpose.
    pub lost: u64,
    /// Packets that found no room: none in a test that means anything.
    pub overflowed: u64,
    /// Bytes handed on.
    pub passed_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    packets: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    overflowed: AtomicU64,
    passed_bytes: AtomicU64,
}

impl Counters {
    fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            packets: read(&self.packets),
            bytes: read(&self.bytes),
            lost: read(&self.lost),
            overflowed: read(&self.overflowed),
            passed_bytes: read(&self.passed_bytes),
        }
    }
}

/// A running relay; ends when dropped.
#[derive(Debug)]
pub struct Relay {
    signalling: SocketAddr,
    up: Arc<Counters>,
    down: Arc<Counters>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Relays between `front`, where clients send to, and `shard`, where it listens for UDP; and between a TCP port of its own
    /// and `shard_http`.
    ///
    /// # Errors
    /// When the system gives no socket or no thread.
    pub fn start(
        front: UdpSocket,
        shard: SocketAddr,
        shard_http: SocketAddr,
        weather: Weather,
        seed: u64,
    ) -> std::io::Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let signalling = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        front.set_nonblocking(true)?;
        let (up, down) = (Arc::new(Counters::default()), Arc::new(Counters::default()));
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (front, listener) = {
            let _inside = runtime.enter();
            (Arc::new(tokio::net::UdpSocket::from_std(front)?), tokio::net::TcpListener::from_std(listener)?)
        };
        let counters = (Arc::clone(&up), Arc::clone(&down));
        let thread = std::thread::Builder::new().name("relay".into()).spawn(move || {
            runtime.block_on(async {
                // Each direction has dice of its own.
                let up =
                    Way::start(counters.0, weather, seed, |(socket, bytes): (Arc<tokio::net::UdpSocket>, Vec<u8>)| {
                        socket.try_send(&bytes).ok()
                    });
                let to_clients = Arc::clone(&front);
                let down = Way::start(counters.1, weather, !seed, move |(client, bytes): (SocketAddr, Vec<u8>)| {
                    to_clients.try_send_to(&bytes, client).ok()
                });
                tokio::select! {
                    () = from_clients(&front, shard, up, down) => {}
                    () = take_calls(listener, shard_http, weather.delay) => {}
                    // Sent or dropped.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Relay { signalling, up, down, stop: Some(stop), thread: Some(thread) })
    }

    /// Where the shard's HTTP is reached with the delay.
    pub fn signalling(&self) -> SocketAddr {
        self.signalling
    }

    /// What clients sent.
    pub fn up(&self) -> Traffic {
        self.up.traffic()
    }

    /// What the shard sent.
    pub fn down(&self) -> Traffic {
        self.down.traffic()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A relay that panicked shows in the test that it failed.
            let _ = thread.join();
        }
    }
}

/// One direction: loses packets, and sends the others on when their time has come. All take equally long, so that the first to
/// come is the first to go.
#[derive(Debug)]
struct Way<T> {
    counters: Arc<Counters>,
    weather: Weather,
    dice: Mutex<ChaCha8Rng>,
    under_way: mpsc::Sender<(Instant, (T, Vec<u8>))>,
}

impl<T: Send + 'static> Way<T> {
    /// `send` says how many bytes it sent, if it could.
    fn start(
        counters: Arc<Counters>,
        weather: Weather,
        seed: u64,
        send: impl Fn((T, Vec<u8>)) -> Option<usize> + Send + 'static,
    ) -> Arc<Way<T>> {
        let (under_way, mut packets) = mpsc::channel::<(Instant, (T, Vec<u8>))>(PACKETS_MAX);
        let sent = Arc::clone(&counters);
        tokio::spawn(async move {
            while let Some((due, packet)) = packets.recv().await {
                sleep_until(due).await;
                match send(packet) {
                    Some(bytes) => sent.passed_bytes.fetch_add(bytes as u64, Ordering::Relaxed),
                    None => sent.overflowed.fetch_add(1, Ordering::Relaxed),
                };
            }
        });
        Arc::new(Way { counters, weather, dice: Mutex::new(ChaCha8Rng::seed_from_u64(seed)), under_way })
    }

    fn take(&self, target: T, bytes: &[u8]) {
        self.counters.packets.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let roll = self.dice.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..1_000);
        if roll < self.weather.loss_permille {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
        } else if self.under_way.try_send((Instant::now() + self.weather.delay, (target, bytes.to_vec()))).is_err() {
            self.overflow();
        }
    }

    fn overflow(&self) {
        self.counters.overflowed.fetch_add(1, Ordering::Relaxed);
    }
}

type Sources = Arc<Mutex<HashMap<SocketAddr, Arc<tokio::net::UdpSocket>>>>;

/// Takes what clients send, for as long as it is polled.
async fn from_clients(
    front: &tokio::net::UdpSocket,
    shard: SocketAddr,
    up: Arc<Way<Arc<tokio::net::UdpSocket>>>,
    down: Arc<Way<SocketAddr>>,
) {
    let sources: Sources = Arc::default();
    let mut buffer = [0; PACKET_BYTES_MAX];
    loop {
        // An error is an earlier packet that nobody took.
        let Ok((length, client)) = front.recv_from(&mut buffer).await else { continue };
        let known = sources.lock().unwrap_or_else(PoisonError::into_inner).get(&client).cloned();
        let towards_shard = match known {
            Some(socket) => Some(socket),
            None => new_source(client, shard, &sources, &down).await,
        };
        match towards_shard {
            Some(socket) => up.take(socket, &buffer[..length]),
            None => up.overflow(),
        }
    }
}

/// Gives a client a socket towards the shard, and passes on what the shard answers there.
async fn new_source(
    client: SocketAddr,
    shard: SocketAddr,
    sources: &Sources,
    down: &Arc<Way<SocketAddr>>,
) -> Option<Arc<tokio::net::UdpSocket>> {
    if sources.lock().unwrap_or_else(PoisonError::into_inner).len() >= SOURCES_MAX {
        return None;
    }
    let socket = Arc::new(tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.ok()?);
    socket.connect(shard).await.ok()?;
    sources.lock().unwrap_or_else(PoisonError::into_inner).insert(client, Arc::clone(&socket));
    let (answers, sources, down) = (Arc::clone(&socket), Arc::clone(sources), Arc::clone(down));
    tokio::spawn(async move {
        let mut buffer = [0; PACKET_BYTES_MAX];
        while let Ok(received) = timeout(SOURCE_IDLE, answers.recv(&mut buffer)).await {
            match received {
                Ok(length) => down.take(client, &buffer[..length]),
                // The shard is gone.
                Err(_) => break,
            }
        }
        sources.lock().unwrap_or_else(PoisonError::into_inner).remove(&client);
    });
    Some(socket)
}

/// Takes TCP connections, for as long as it is polled.
async fn take_calls(listener: tokio::net::TcpListener, shard: SocketAddr, delay: Duration) {
    loop {
        let Ok((caller, _)) = listener.accept().await else {
            // No file descriptor: there will be one again.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(async move {
            // Its handshake was with this machine. Over the network it would have taken a round trip.
            sleep(delay * 2).await;
            let Ok(shard) = TcpStream::connect(shard).await else { return };
            // Without it small pieces only come later.
            if caller.set_nodelay(true).is_err() || shard.set_nodelay(true).is_err() {
                return;
            }
            // Whoever hangs up first ends it, once what was said has arrived.
            tokio::select! {
                () = pass(&caller, &shard, delay) => {}
                () = pass(&shard, &caller, delay) => {}
            }
        });
    }
}

/// Passes on everything until `from` ends or `to` takes no more.
async fn pass(from: &TcpStream, to: &TcpStream, delay: Duration) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let read = async move {
        let mut buffer = vec![0; PIECE_BYTES_MAX];
        while from.readable().await.is_ok() {
            match from.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if sender.send((Instant::now() + delay, buffer[..length].to_vec())).await.is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            if write_all(to, &piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    const DELAY: Duration = Duration::from_millis(20);

    /// A "shard" that answers every packet with the source that it saw, and a relay in front of it.
    fn echo(loss_permille: u32) -> (Relay, SocketAddr) {
        let shard = UdpSocket::bind("127.0.0.1:0").unwrap();
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        let front = UdpSocket::bind("127.0.0.2:0").unwrap();
        let (address, http_address) = (shard.local_addr().unwrap(), http.local_addr().unwrap());
        let front_address = front.local_addr().unwrap();
        let weather = Weather { loss_permille, delay: DELAY };
        let relay = Relay::start(front, address, http_address, weather, 5).unwrap();
        // They end with the test's process.
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, source)) = shard.recv_from(&mut buffer) {
                let _ = shard.send_to(source.to_string().as_bytes(), source);
            }
        });
        std::thread::spawn(move || {
            while let Ok((mut call, _)) = http.accept() {
                let mut said = [0; 5];
                call.read_exact(&mut said).unwrap();
                call.write_all(&said).unwrap();
            }
        });
        (relay, front_address)
    }

    fn client() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket
    }

    fn ask(client: &UdpSocket, relay: SocketAddr) -> Option<(String, Duration)> {
        let begin = std::time::Instant::now();
        client.send_to(b"who am I", relay).unwrap();
        let mut buffer = [0; 64];
        let (length, source) = client.recv_from(&mut buffer).ok()?;
        assert_eq!(source, relay);
        Some((String::from_utf8(buffer[..length].to_vec()).unwrap(), begin.elapsed()))
    }

    #[test]
    fn each_client_has_an_address_of_its_own_and_waits_both_ways() {
        let (relay, front) = echo(0);
        let (one, other) = (client(), client());
        let (as_one, took) = ask(&one, front).unwrap();
        assert!(took >= DELAY * 2, "{took:?}");
        assert_ne!(as_one, one.local_addr().unwrap().to_string());
        assert_eq!(ask(&one, front).unwrap().0, as_one);
        assert_ne!(ask(&other, front).unwrap().0, as_one);
        let (up, down) = (relay.up(), relay.down());
        assert_eq!((up.packets, up.bytes, up.passed_bytes, up.lost), (3, 24, 24, 0));
        assert_eq!((down.packets, down.lost, down.overflowed), (3, 0, 0));

        let begin = std::time::Instant::now();
        let mut call = std::net::TcpStream::connect(relay.signalling()).unwrap();
        call.write_all(b"hello").unwrap();
        let mut heard = String::new();
        call.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello");
        assert!(begin.elapsed() >= DELAY * 4, "{:?}", begin.elapsed());
    }

    #[test]
    fn it_loses_what_it_is_told_to() {
        let (relay, front) = echo(1_000);
        assert_eq!(ask(&client(), front), None);
        assert_eq!((relay.up().lost, relay.down().packets), (1, 0));
        let (relay, front) = echo(100);
        let client = client();
        for _ in 0..1_000 {
            client.send_to(b"x", front).unwrap();
            std::thread::sleep(Duration::from_micros(50));
        }
        crate::harness::wait_for("all packets", Duration::from_secs(5), || (relay.up().packets == 1_000).then_some(()));
        assert!((60..140).contains(&relay.up().lost), "{:?}", relay.up());
    }
}
