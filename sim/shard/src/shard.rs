//! The running shard: one thread that ticks, and the queues between it and network and disk.
//!
//! The loop waits for whatever comes first: an event of a transport, a frame that became durable, or the next tick.
//! What a player is told of value is held by the server until its frame is durable; the loop wakes up for that at once, so an
//! answer does not wait for the next tick.

use crate::access::{Order, TokenRates};
use crate::bans::Bans;
use crate::config::Config;
use crate::content;
use crate::heartbeat::{Heartbeat, TickNumber};
use crate::http::{self, ExportAnswer, Shared};
use crate::keeper::Keeper;
use crate::status::{Items, Journal, Net, Outage, Recovered, Status, Store, TickTimes};
use crate::token;
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use vsekai_net::porter::Porter;
use vsekai_net::server::{Server, WorldFacts};
use vsekai_net::transport::{TransportCommand, TransportEvent};
use vsekai_net::webrtc::{Commands, WebRtcServer};
use vsekai_schema::content::ContentFiles;
use vsekai_schema::id::EntityId;
use vsekai_schema::wire::{CHANNEL_STATE, Input, PlayerInput, Refusal};
use vsekai_sim::Simulation;
use vsekai_sim::port::QueueFull;
use vsekai_sim::record::component_hash;
use vsekai_storage::{Event as StorageEvent, Exporter, NewWorld, Opened, SavedWorld, Storage};

/// Transport events that wait for the loop. A client that fills it loses datagrams; see the transport.
const EVENTS_MAX: usize = 65_536;

/// When fewer ids than this are left, the store is asked for the next block.
const IDS_LOW: u64 = 1 << 19;

/// The transport's queue is full and takes nothing for this long: its thread hangs.
const TRANSPORT_STALL_MAX: Duration = Duration::from_secs(5);

/// Most messages that wait for a transport whose queue is full; beyond it, state is dropped: the next snapshot has it again.
const UNSENT_MAX: usize = 100_000;

/// Longest catalogue that fits one message of the welcome, bytes: clients take no more than 64 KiB.
const CATALOGUE_BYTES_MAX: usize = 60 * 1024;

/// A shard that was asked to stop waits this long for its last frames to become durable, to tell players their results.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// A loop that is behind by more than this many ticks gives them up rather than run ever faster.
const TICKS_BEHIND_MAX: u32 = 5;

/// Between two turns of the loop that somebody asked for passes at least this time: what comes meanwhile is taken together, and answered
/// together. It is all that it may add to a pose or a result.
const TURN_MIN: Duration = Duration::from_micros(500);

/// Transport events taken in one turn, so that the tick is not late for them.
const EVENTS_PER_TURN: usize = 4_096;

/// Wakes the loop. What comes of an event only at the next tick does without: a wake costs as much as ten movements.
#[derive(Clone)]
struct Bell(Thread);

impl Bell {
    /// Of the calling thread, which runs the loop.
    fn here() -> Bell {
        Bell(std::thread::current())
    }

    fn ring(&self) {
        self.0.unpark();
    }
}

/// What storage and the operator said last. Kept apart from the event queue, so that a flood of packets cannot crowd it out.
#[derive(Default)]
pub struct Mailbox {
    durable_frame: u64,
    granted: Vec<vsekai_schema::record::IdBlock>,
    failed: Option<String>,
    stop: Option<&'static str>,
    /// What operators want.
    pub orders: Vec<Order>,
    /// Somebody wants the world in a file; the answer goes there.
    pub export: Option<oneshot::Sender<ExportAnswer>>,
}

impl Mailbox {
    /// Ends the shard in order; the first reason counts.
    pub fn stop(&mut self, reason: &'static str) {
        self.stop.get_or_insert(reason);
    }
}

/// Runs until asked to stop, or until storage fails.
pub fn run(config: Config) -> Result<()> {
    let started = Instant::now();
    let (content, content_origin) = content::load(config.content.as_deref())?;

    // Addresses first: a port that is taken must not cost the store a takeover.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("http")
        .enable_all()
        .build()
        .context("cannot start the HTTP threads")?;
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind(config.http))
        .with_context(|| format!("cannot listen on {} (HTTP)", config.http))?;
    let http_address = listener.local_addr().context("cannot tell the HTTP address")?;
    // Before the first client: `started` is when the porter's clock is zero.
    let porter = Arc::new(token::porter(&config.tokens)?);
    let bans = Arc::new(Bans::load(Arc::clone(&porter), config.bans_file.clone())?);
    let (sender, events) = mpsc::sync_channel(EVENTS_MAX);
    let bell = Bell::here();
    let webrtc = start_webrtc(&config, sender, bell.clone())?;

    let mailbox = Arc::new(Mutex::new(Mailbox::default()));
    let (storage, simulation, recovered) = open_world(&config, &content, &mailbox, bell.clone())?;
    let recovered = recovered.map(|(frame, state_hash, entities)| Recovered {
        frame,
        state_hash: format!("{state_hash:016x}"),
        entities,
        ready_ms: started.elapsed().as_secs_f64() * 1_000.0,
    });
    match &recovered {
        Some(found) => tracing::info!(
            frame = found.frame,
            state_hash = found.state_hash,
            entities = found.entities,
            ready_ms = found.ready_ms,
            "world loaded"
        ),
        None => tracing::info!(seed = simulation.seed(), half_m = simulation.half_mm() / 1_000, "new world made"),
    }

    let status = Arc::new(RwLock::new(Arc::new(Status::default())));
    let catalogue = serde_json::to_string(&simulation.catalogue()).context("cannot write the catalogue")?;
    if catalogue.len() > CATALOGUE_BYTES_MAX {
        bail!(
            "content {content_origin}: the list that players get has {} bytes, at most {CATALOGUE_BYTES_MAX} fit; have fewer \
             entries or shorter names",
            catalogue.len()
        );
    }
    let facts = WorldFacts { seed: simulation.seed(), half_mm: simulation.half_mm(), content: catalogue };
    let mut shard = Shard {
        started,
        server: Server::new(config.server.clone(), facts, Arc::clone(&porter)),
        commands: webrtc.commands(),
        webrtc: webrtc.clone(),
        porter: Arc::clone(&porter),
        simulation,
        keeper: Keeper::new(storage),
        export_dir: config.export_dir.clone(),
        export: None,
        mailbox: Arc::clone(&mailbox),
        unsent: Vec::new(),
        stalled_since: None,
        ids_requested: false,
        times: TickTimes::new(config.simulation.tick_hz),
        late_ticks: 0,
        recovered,
        status: Arc::clone(&status),
        tick_number: TickNumber::default(),
    };
    shard.publish();
    let (tick_number, beat_status) = (Arc::clone(&shard.tick_number), Arc::clone(&status));
    let routes = http::router(Shared {
        status,
        webrtc: webrtc.clone(),
        mailbox: Arc::clone(&mailbox),
        started,
        turns: Arc::clone(&tick_number),
        porter,
        bans,
        tokens: config.tokens.clone(),
        token_rates: Arc::new(Mutex::new(TokenRates::new(config.tokens.per_address_per_s))),
        ice_servers: Arc::new(config.ice_servers.clone()),
        motion_kbit_s: config.server.replication.motion_kbit_s,
        run: vsekai_net::token::to_hex(&crate::token::new_id()).into(),
    });
    runtime.spawn(async move {
        let service = routes.into_make_service_with_connect_info::<SocketAddr>();
        if let Err(error) = axum::serve(listener, service).await {
            tracing::error!(%error, "HTTP stopped");
        }
    });
    // Listen before anybody is told that we run: a signal before that would end the process without a farewell.
    let signals = {
        let _inside = runtime.enter();
        Signals::listen().context("cannot listen for signals")?
    };
    runtime.spawn(signals.await_one(mailbox, bell));
    let udp: Vec<String> = webrtc.local_addresses().iter().map(ToString::to_string).collect();
    let udp = udp.join(",");
    tracing::info!(content = content_origin, udp = %udp, "shard runs at {} Hz", config.simulation.tick_hz);
    // For people and for scripts: on standard output, once everything is ready.
    println!("Open http://{http_address}/ in a browser to walk in the world. Ctrl-C stops the shard.");
    let heartbeat = Heartbeat::start(tick_number, beat_status);

    let end = shard.run_loop(&events);
    heartbeat.stop();
    let reason = match &end {
        Ok(reason) => *reason,
        Err(_) => "failed",
    };
    tracing::info!(reason, "stopping");
    if end.is_ok() {
        shard.tell_last_results();
    }
    shard.server.refuse_all(Refusal::ShuttingDown);
    let told = shard.flush_commands();
    webrtc.stop();
    // An export holds the store open, and asks storage for things: it ends first.
    if end.is_ok() {
        shard.await_export();
    }
    runtime.shutdown_background();
    end.and(told.map(|()| ""))?;
    shard.keeper.storage.close().context("cannot bring the last frames into the store")?;
    if config.storage.store_url == "mem:" {
        let journal = &config.storage.journal_dir;
        std::fs::remove_dir_all(journal).with_context(|| format!("cannot remove {}", journal.display()))?;
    }
    Ok(())
}

/// Writes the world into a file in `directory` that is named after its frame: twice the same frame is the same file.
fn export(exporter: &Exporter, directory: &Path) -> Result<(PathBuf, vsekai_storage::tools::ExportSummary)> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let unnamed = directory.join("unnamed.vsx");
    if unnamed.exists() {
        std::fs::remove_file(&unnamed).with_context(|| format!("cannot remove {}", unnamed.display()))?;
    }
    let summary = exporter.export(&unnamed, Some(component_hash), &mut |_| {})?;
    let file = directory.join(format!("frame-{:012}.vsx", summary.frame));
    std::fs::rename(&unnamed, &file)
        .and_then(|()| std::fs::File::open(directory)?.sync_all())
        .with_context(|| format!("cannot name {}", file.display()))?;
    Ok((file, summary))
}

/// The stored world, for tools that only read.
pub fn restore_for_reading(config: &Config) -> Result<Simulation> {
    let (content, _) = content::load(config.content.as_deref())?;
    let Opened { storage, world } = Storage::open(config.storage.clone(), Arc::new(|_| {}))?;
    let Some(world) = world else { bail!("there is no world in {}", config.storage.store_url) };
    let simulation = restore(config, &content, world)?;
    storage.close().context("cannot close the store")?;
    Ok(simulation)
}

fn start_webrtc(config: &Config, sender: SyncSender<TransportEvent>, bell: Bell) -> Result<WebRtcServer> {
    let sink = Arc::new(move |event: TransportEvent| {
        let can_wait = event.can_wait();
        let taken = sender.try_send(event).is_ok();
        if !can_wait {
            bell.ring();
        }
        taken
    });
    WebRtcServer::start(config.webrtc.clone(), sink).context("cannot start WebRTC")
}

/// The signals that ask for an orderly stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From here on they no longer end the process by themselves.
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn await_one(mut self, mailbox: Arc<Mutex<Mailbox>>, bell: Bell) {
        let reason = tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
        };
        mailbox.lock().unwrap_or_else(PoisonError::into_inner).stop(reason);
        bell.ring();
    }
}

/// Frame, state hash and number of entities of the world that was found.
type Found = (u64, u64, usize);

fn open_world(
    config: &Config,
    content: &ContentFiles,
    mailbox: &Arc<Mutex<Mailbox>>,
    bell: Bell,
) -> Result<(Storage, Simulation, Option<Found>)> {
    let letters = Arc::clone(mailbox);
    let sink = Arc::new(move |event| {
        let mut mailbox = letters.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            StorageEvent::Durable { frame } => mailbox.durable_frame = frame,
            StorageEvent::IdsGranted(block) => mailbox.granted.push(block),
            StorageEvent::Failed(why) => mailbox.failed = Some(why),
        }
        drop(mailbox);
        bell.ring();
    });
    let Opened { storage, world } = Storage::open(config.storage.clone(), sink)?;
    if let Some(world) = world {
        let (frame, state_hash) = (world.frame, world.state_hash);
        let mut simulation = restore(config, content, world)?;
        if simulation.seed() != config.simulation.seed {
            tracing::warn!(
                stored = simulation.seed(),
                configured = config.simulation.seed,
                "the stored world keeps the seed it was made with"
            );
        }
        let entities = simulation.entity_counts();
        let count = entities["resource"] + entities["structure"] + entities["player"];
        return Ok((storage, simulation, Some((frame, state_hash, count))));
    }
    let mut simulation = Simulation::create(&config.simulation, content);
    let payloads = simulation.payloads();
    let block = storage.create(NewWorld {
        frame: payloads.frame,
        state_hash: payloads.state_hash,
        chunks: payloads.chunks,
        alone: payloads.alone,
        ids_used_to: payloads.ids_used_to,
    })?;
    if !simulation.grant_ids(block) {
        bail!("the store granted ids {}..{} that overlap with those in use", block.next, block.end);
    }
    Ok((storage, simulation, None))
}

fn restore(config: &Config, content: &ContentFiles, world: SavedWorld) -> Result<Simulation> {
    let payloads = world.chunks.iter().map(|(_, payload)| &payload[..]).chain(world.alone.iter().map(|p| &p[..]));
    Simulation::restore(&config.simulation, content, world.frame, world.state_hash, world.ids, payloads)
        .with_context(|| format!("the world in {} cannot be restored", config.storage.store_url))
}

struct Shard {
    started: Instant,
    server: Server,
    commands: Commands,
    webrtc: WebRtcServer,
    porter: Arc<Porter>,
    simulation: Simulation,
    keeper: Keeper,
    export_dir: PathBuf,
    /// The export that runs.
    export: Option<JoinHandle<()>>,
    mailbox: Arc<Mutex<Mailbox>>,
    /// What the transport has not taken yet.
    unsent: Vec<TransportCommand>,
    stalled_since: Option<Instant>,
    ids_requested: bool,
    times: TickTimes,
    late_ticks: u64,
    recovered: Option<Recovered>,
    status: Arc<RwLock<Arc<Status>>>,
    tick_number: TickNumber,
}

impl Shard {
    fn run_loop(&mut self, events: &Receiver<TransportEvent>) -> Result<&'static str> {
        let interval = Duration::from_secs(1) / self.simulation.tick_hz();
        let mut next_tick = Instant::now() + interval;
        let mut next_second = Instant::now();
        let mut turned = Instant::now();
        let mut is_behind = false;
        loop {
            if !is_behind {
                std::thread::park_timeout(next_tick.saturating_duration_since(Instant::now()));
                std::thread::sleep((turned + TURN_MIN).min(next_tick).saturating_duration_since(Instant::now()));
            }
            turned = Instant::now();
            let mut taken = 0;
            for event in events.try_iter().take(EVENTS_PER_TURN) {
                self.server.receive(self.started.elapsed(), event);
                taken += 1;
            }
            is_behind = taken == EVENTS_PER_TURN;
            if let Some(reason) = self.read_mailbox()? {
                return Ok(reason);
            }
            let now = Instant::now();
            if now >= next_tick {
                if now > next_tick + interval && self.keeper.standing().is_none() {
                    self.late_ticks += 1;
                }
                self.tick()?;
                next_tick = (next_tick + interval).max(now.checked_sub(interval * TICKS_BEHIND_MAX).unwrap_or(now));
            }
            self.flush_commands()?;
            if now >= next_second {
                next_second = now + Duration::from_secs(1);
                self.server.check_silence(self.started.elapsed());
                self.publish();
            }
        }
    }

    /// Acts on what storage said; `Some` when the shard is asked to stop.
    fn read_mailbox(&mut self) -> Result<Option<&'static str>> {
        let mut mailbox = self.mailbox.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = mailbox.failed.take() {
            bail!("storage failed: {why}");
        }
        let durable = mailbox.durable_frame;
        let granted = std::mem::take(&mut mailbox.granted);
        let stop = mailbox.stop;
        let export = mailbox.export.take();
        let orders = std::mem::take(&mut mailbox.orders);
        drop(mailbox);
        for order in orders {
            self.obey(order);
        }
        if let Some(answer) = export {
            self.start_export(answer);
        }
        self.server.frames_durable(durable);
        for block in granted {
            self.ids_requested = false;
            let input = PlayerInput { player: EntityId::WORLD, input: Input::GrantIds(block) };
            // A full queue costs one block of ids; the next request follows in a moment.
            let _ = self.simulation.submit(input);
        }
        Ok(stop)
    }

    fn obey(&mut self, order: Order) {
        // Whoever asked may be gone.
        match order {
            Order::Remove { player, refusal, reason, answer } => {
                let _ = answer.send(self.server.remove(player, refusal, &reason));
            }
            Order::Players(answer) => {
                let _ = answer.send(self.server.players());
            }
        }
    }

    /// Writes the world into a file, on a thread of its own. One at a time: they are large.
    fn start_export(&mut self, answer: oneshot::Sender<ExportAnswer>) {
        if self.export.as_ref().is_some_and(|export| !export.is_finished()) {
            // Whoever asked may be gone.
            let _ = answer.send(Err("an export is running already".into()));
            return;
        }
        let (exporter, directory) = (self.keeper.storage.exporter(), self.export_dir.clone());
        let run = move || {
            let done = export(&exporter, &directory).map_err(|error| format!("{error:#}"));
            match &done {
                Ok((file, _)) => tracing::info!(file = %file.display(), "exported"),
                Err(error) => tracing::warn!(error, "the export failed"),
            }
            let _ = answer.send(done);
        };
        match std::thread::Builder::new().name("export".into()).spawn(run) {
            Ok(thread) => self.export = Some(thread),
            Err(error) => tracing::warn!(%error, "no thread for an export"),
        }
    }

    fn await_export(&mut self) {
        if let Some(export) = self.export.take() {
            // A panic of it harms nobody but whoever asked.
            let _ = export.join();
        }
    }

    /// Waits for the last frame to become durable and tells players the results that waited for it.
    fn tell_last_results(&mut self) {
        let begin = Instant::now();
        self.keeper.give_up();
        let last = self.keeper.kept_frame(&self.simulation);
        while self.keeper.storage.durable_frame() < last && begin.elapsed() < FAREWELL_MAX {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.server.frames_durable(self.keeper.storage.durable_frame());
    }

    fn tick(&mut self) -> Result<()> {
        let begin = Instant::now();
        let server = &mut self.server;
        let output = self.keeper.tick(&mut self.simulation, |simulation| {
            server.take_inputs(|input| simulation.submit(input));
        })?;
        // A world that stands still on purpose is not hung: the number counts turns, not frames.
        self.tick_number.fetch_add(1, Ordering::Relaxed);
        let Some(output) = output else {
            self.refuse_inputs();
            return Ok(());
        };
        self.server.after_tick(&self.simulation.view(), &output);
        if self.simulation.ids_left() < IDS_LOW && !self.ids_requested {
            self.ids_requested = true;
            self.keeper.storage.reserve_ids(vsekai_storage::ID_BLOCK);
        }
        self.times.push(begin.elapsed());
        Ok(())
    }

    /// While the world stands still: commands are answered "busy", movements dropped. Who enters or leaves waits in the
    /// simulation's queue, which is bounded.
    fn refuse_inputs(&mut self) {
        let simulation = &mut self.simulation;
        self.server.take_inputs(|input| match input.input {
            Input::Command { .. } | Input::Move(_) => Err(QueueFull),
            _ => simulation.submit(input),
        });
    }

    /// Hands messages to the transport. What it does not take waits, up to a bound.
    fn flush_commands(&mut self) -> Result<()> {
        self.unsent.append(&mut self.server.take_commands());
        if self.unsent.len() > UNSENT_MAX {
            let state = |command: &TransportCommand| matches!(command, TransportCommand::Send { channel, .. } if *channel == CHANNEL_STATE);
            self.unsent.retain(|command| !state(command));
        }
        match self.commands.send(std::mem::take(&mut self.unsent)) {
            Ok(()) => self.stalled_since = None,
            Err(unsent) => {
                self.unsent = unsent;
                let since = *self.stalled_since.get_or_insert_with(Instant::now);
                if since.elapsed() > TRANSPORT_STALL_MAX || self.unsent.len() > 10 * UNSENT_MAX {
                    bail!("the transport has taken no message for {:.1} s", since.elapsed().as_secs_f64());
                }
            }
        }
        Ok(())
    }

    fn publish(&mut self) {
        let sum = |counts: &[u64]| counts.iter().sum();
        let (minted, consumed, live) = self.simulation.item_totals();
        let storage = self.keeper.storage.status();
        let status = Status {
            published: Some(Instant::now()),
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: self.started.elapsed().as_secs_f64(),
            tick: self.simulation.frame(),
            tick_hz: self.simulation.tick_hz(),
            state_hash: format!("{:016x}", self.simulation.state_hash()),
            durable_frame: storage.durable_frame,
            seed: self.simulation.seed(),
            players: self.server.player_count(),
            entities: self.simulation.entity_counts(),
            items: Items { minted: sum(&minted), consumed: sum(&consumed), live: sum(&live) },
            tick_ms: self.times.percentiles(),
            late_ticks: self.late_ticks,
            journal: Journal {
                backlog_frames: self.simulation.frame().saturating_sub(storage.durable_frame),
                bytes: storage.journal_bytes,
                flushed_frame: storage.flushed_frame,
                syncs: storage.sync_count,
                sync_p99_ms: storage.p99_sync_micros as f64 / 1_000.0,
                // Before the first look, and where the system does not say, storage counts it as plenty.
                free_bytes: Some(storage.free_bytes).filter(|free| *free < u64::MAX),
            },
            standing: self.keeper.standing().map(str::to_string),
            store: Store {
                flushes: storage.flush_count,
                last_flush_ms: storage.last_flush_micros as f64 / 1_000.0,
                flushed_homes: storage.flushed_homes,
                flushed_bytes: storage.flushed_bytes,
                outage: storage.outage.map(|(reason, lasted)| Outage { reason, seconds: lasted.as_secs_f64() }),
            },
            recovered: self.recovered.clone(),
            net: Net {
                away: self.server.away_count(),
                turned_away: self.porter.turned_away(),
                ..Net::of(self.server.counts(), self.webrtc.metrics())
            },
        };
        *self.status.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(status);
    }
}
