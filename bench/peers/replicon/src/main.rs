//! Walking entities over bevy_replicon: one server and its clients in this process, in lockstep, nothing but bevy_replicon's
//! own messages between them.
//!
//! Every client sends one position a tick and the server gives it to everybody who may see it. What is measured is the
//! processor time of the server's update, by the process's own clock: the clients do not run meanwhile, and nobody else's work
//! on the machine is in it. No transport is in it either. `cargo xtask bench peers` runs it.

mod walk;

use anyhow::{Context, Result, ensure};
use bevy::prelude::*;
use bevy::state::app::StatesPlugin;
use bevy::time::TimeUpdateStrategy;
use bevy_replicon::prelude::*;
use bevy_replicon::server::visibility::client_visibility::ClientVisibility;
use bevy_replicon::server::visibility::filters_mask::FilterBit;
use bevy_replicon::server::visibility::registry::FilterRegistry;
use bevy_replicon::shared::replication::registry::ReplicationRegistry;
use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use walk::Walk;

/// Ticks a second.
const HZ: u32 = 20;
/// Ticks until everybody knows everybody, not measured.
const SETTLE_TICKS: u32 = 5 * HZ;
/// What fits into a packet, for messages that may be lost.
const PACKET_BYTES: usize = 1_200;

/// Walking entities over bevy_replicon, measured.
#[derive(Debug, Parser)]
struct Cli {
    /// Clients, each with one entity that walks
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    players: u32,
    /// Seconds of virtual time to measure
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Clients see what is so near, metres; everything without it
    #[arg(long)]
    interest_m: Option<f32>,
    /// Everybody walks within this distance of the origin at first, metres
    #[arg(long, default_value_t = 40.0)]
    radius_m: f32,
}

/// What replicates: where an entity is, and the number of the message that said so.
#[derive(Debug, Clone, Copy, PartialEq, Component, Serialize, Deserialize)]
struct Position {
    x: f32,
    y: f32,
    z: f32,
    sequence: u16,
}

/// What each client sends in each tick.
#[derive(Debug, Clone, Copy, Message, Serialize, Deserialize)]
struct Step(Position);

/// The number of a client's entity among [`Walkers`].
#[derive(Component)]
struct Owns(usize);

/// Which of [`Walkers`] a client sees.
#[derive(Component)]
struct Seen(Vec<bool>);

/// All entities that walk.
#[derive(Resource)]
struct Walkers(Vec<Entity>);

/// How far clients see, and what hides an entity from one.
#[derive(Resource)]
struct Interest {
    metres: f32,
    hidden: FilterBit,
}

/// What came of it, as the parent reads it.
#[derive(Serialize)]
struct Figures {
    players: u32,
    seconds: u32,
    in_view: f64,
    server_cpu_s: f64,
    us_per_client_tick: f64,
    updates_per_s: f64,
    bytes_per_update: f64,
    down_bytes_per_s: f64,
}

struct Peer {
    app: App,
    walk: Walk,
    /// What the server calls it.
    entity: Entity,
}

fn main() -> Result<()> {
    let figures = measure(&Cli::parse())?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

fn measure(cli: &Cli) -> Result<Figures> {
    let mut server = server(cli);
    let mut peers: Vec<Peer> = (0..cli.players).map(|number| join(&mut server, number, cli)).collect();
    let (mut cpu, mut bytes, mut updates) = (Duration::ZERO, 0, 0);
    for tick in 0..SETTLE_TICKS + cli.seconds * HZ {
        for peer in &mut peers {
            say(&mut server, peer);
        }
        let begin = cpu_time();
        server.update();
        let used = cpu_time().saturating_sub(begin);
        let sent = deliver(&mut server, &mut peers)?;
        if tick >= SETTLE_TICKS {
            cpu += used;
            bytes += sent;
            updates += pairs(&mut server);
        }
        for peer in &mut peers {
            peer.app.update();
        }
    }
    for peer in &mut peers {
        check(&mut server, peer)?;
    }
    let (clients, ticks) = (f64::from(cli.players), f64::from(cli.seconds * HZ));
    Ok(Figures {
        players: cli.players,
        seconds: cli.seconds,
        in_view: updates as f64 / ticks / clients - 1.0,
        server_cpu_s: cpu.as_secs_f64(),
        us_per_client_tick: cpu.as_secs_f64() * 1e6 / clients / ticks,
        updates_per_s: updates as f64 / clients / f64::from(cli.seconds),
        bytes_per_update: bytes as f64 / updates as f64,
        down_bytes_per_s: bytes as f64 / clients / f64::from(cli.seconds),
    })
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // Both are positive, and nanoseconds below a second.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What server and clients must have in common.
fn app() -> App {
    let mut app = App::new();
    app.add_plugins((MinimalPlugins, StatesPlugin, RepliconPlugins.set(ServerPlugin::new(PostUpdate))))
        .insert_resource(TimeUpdateStrategy::ManualDuration(Duration::from_secs(1) / HZ))
        .replicate::<Position>()
        .add_client_message::<Step>(Channel::Unreliable);
    app
}

fn server(cli: &Cli) -> App {
    let mut app = app();
    app.add_systems(Update, take_steps);
    if let Some(metres) = cli.interest_m {
        let hidden = app.world_mut().resource_scope(|world, mut filters: Mut<FilterRegistry>| {
            world.resource_scope(|world, mut registry: Mut<ReplicationRegistry>| {
                filters.register_scope::<Entity>(world, &mut registry, ScopeLifetime::WhileVisible)
            })
        });
        app.insert_resource(Interest { metres, hidden }).add_systems(Update, look_around.after(take_steps));
    }
    app.finish();
    let nowhere = Position { x: 0.0, y: 0.0, z: 0.0, sequence: 0 };
    let walkers = (0..cli.players).map(|_| app.world_mut().spawn((Replicated, nowhere)).id()).collect();
    app.insert_resource(Walkers(walkers));
    app.world_mut().resource_mut::<NextState<ServerState>>().set(ServerState::Running);
    app.update();
    app
}

fn join(server: &mut App, number: u32, cli: &Cli) -> Peer {
    let seen = Seen(vec![true; cli.players as usize]);
    let client = (ConnectedClient { max_size: PACKET_BYTES }, Owns(number as usize), seen);
    let entity = server.world_mut().spawn(client).id();
    let mut app = app();
    app.finish();
    app.world_mut().resource_mut::<NextState<ClientState>>().set(ClientState::Connected);
    app.update();
    Peer { app, walk: Walk::new(number, cli.radius_m), entity }
}

/// The server takes what its clients say of themselves.
fn take_steps(
    mut steps: MessageReader<FromClient<Step>>,
    clients: Query<&Owns>,
    walkers: Res<Walkers>,
    mut positions: Query<&mut Position>,
) {
    for FromClient { client_id, message: Step(position) } in steps.read() {
        let Some(Ok(Owns(number))) = client_id.entity().map(|client| clients.get(client)) else { continue };
        if let Ok(mut own) = positions.get_mut(walkers.0[*number]) {
            *own = *position;
        }
    }
}

/// Everybody sees what is near. Only what changes is told to bevy_replicon: that is the cheapest way it has.
fn look_around(
    interest: Res<Interest>,
    walkers: Res<Walkers>,
    positions: Query<&Position>,
    mut clients: Query<(&Owns, &mut Seen, &mut ClientVisibility)>,
) {
    let places: Vec<(f32, f32)> =
        walkers.0.iter().map(|walker| positions.get(*walker).map_or((0.0, 0.0), |at| (at.x, at.z))).collect();
    let range = interest.metres * interest.metres;
    for (Owns(own), mut seen, mut visibility) in &mut clients {
        let (x, z) = places[*own];
        for (number, (seen, (other_x, other_z))) in seen.0.iter_mut().zip(&places).enumerate() {
            let (dx, dz) = (other_x - x, other_z - z);
            let is_near = dx * dx + dz * dz <= range;
            if *seen != is_near {
                *seen = is_near;
                visibility.set(walkers.0[number], interest.hidden, is_near);
            }
        }
    }
}

/// A client takes a step, says so, and everything it has to say reaches the server.
fn say(server: &mut App, peer: &mut Peer) {
    let world = peer.app.world_mut();
    let mut server_messages = server.world_mut().resource_mut::<ServerMessages>();
    for (channel, message) in world.resource_mut::<ClientMessages>().drain_sent() {
        server_messages.insert_received(peer.entity, channel, message);
    }
    // Sent by the update that follows: what the server gets now is the last one.
    world.write_message(Step(peer.walk.step()));
}

/// What the server has to say reaches its clients. Gives back how many bytes it was.
fn deliver(server: &mut App, peers: &mut [Peer]) -> Result<u64> {
    let mut bytes = 0;
    let places: bevy::ecs::entity::EntityHashMap<usize> =
        peers.iter().enumerate().map(|(place, peer)| (peer.entity, place)).collect();
    for (client, channel, message) in server.world_mut().resource_mut::<ServerMessages>().drain_sent() {
        bytes += message.len() as u64;
        let place = places.get(&client).context("a message to nobody")?;
        peers[*place].app.world_mut().resource_mut::<ClientMessages>().insert_received(channel, message);
    }
    Ok(bytes)
}

/// How many entities all clients together see now.
fn pairs(server: &mut App) -> u64 {
    let mut clients = server.world_mut().query::<&Seen>();
    let seen = |Seen(seen): &Seen| seen.iter().filter(|seen| **seen).count() as u64;
    clients.iter(server.world()).map(seen).sum()
}

/// A client must show exactly what the server lets it see, or the figures are of something else.
fn check(server: &mut App, peer: &mut Peer) -> Result<()> {
    let world = server.world();
    let seen = world.get::<Seen>(peer.entity).context("a client has gone")?;
    let walkers = &world.resource::<Walkers>().0;
    let visible = walkers.iter().zip(&seen.0).filter(|(_, seen)| **seen);
    let mut expected: Vec<Position> =
        visible.filter_map(|(walker, _)| world.get::<Position>(*walker)).copied().collect();
    let mut positions = peer.app.world_mut().query_filtered::<&Position, With<Remote>>();
    let mut shown: Vec<Position> = positions.iter(peer.app.world()).copied().collect();
    for list in [&mut expected, &mut shown] {
        list.sort_by(|a, b| (a.x, a.z).partial_cmp(&(b.x, b.z)).unwrap_or(std::cmp::Ordering::Equal));
    }
    ensure!(
        shown == expected && shown.iter().any(|position| position.sequence > 0),
        "a client shows {} entities, not the {} that it may see",
        shown.len(),
        expected.len()
    );
    Ok(())
}
