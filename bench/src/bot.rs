//! A synthetic player: walks to trees and rocks, harvests them, crafts planks, builds and sometimes demolishes.
//!
//! Deterministic: the same seed and the same messages give the same actions. It has at most one command under way, so
//! what it was told adds up: its [`Account`] says what the world must hold of it after any crash.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use vsekai_net::client::{Client, ClientEvent};
use vsekai_schema::content::{Catalogue, Look, Slot, Support};
use vsekai_schema::id::{EntityId, ItemId, NodeId, PieceId, RecipeId};
use vsekai_schema::units::Position;
use vsekai_schema::wire::pose::SLOTS_PER_S;
use vsekai_schema::wire::pose::motion::Motion;
use vsekai_schema::wire::{Command, Outcome, Rejection};
use vsekai_sim::build::{Cell, Place, Structure};
use vsekai_sim::inventory::Inventory;
use vsekai_sim::resource::ResourceNode;
use vsekai_sim::space::{Placement, Pose};

/// How a bot spends its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Walks about all the time and acts about once a second: an ordinary player.
    Mixed,
    /// Acts as soon as the last result is there: a stress for what is of value.
    Builder,
    /// Only walks.
    Walker,
    /// Only walks, and moves head and hands as somebody in VR does.
    Gesturing,
    /// Only walks, and takes no notice of the world: as little load as a client can be for the machine that plays it.
    Blind,
}

/// What a bot was told is done, and what it does not know yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The player's entity.
    pub player: EntityId,
    /// Items that the inventory must hold, from the first inventory seen and every result since.
    pub items: BTreeMap<ItemId, i64>,
    /// Structures that were built and not demolished since.
    pub built: BTreeSet<EntityId>,
    /// Number of the last command with a result that reached a frame.
    pub last_command: u32,
    /// The command under way, if any: it may have happened or not.
    pub under_way: Option<(u32, Command)>,
    /// Commands whose results never came, because the shard died: each may have happened or not.
    pub unsettled: Vec<Command>,
    /// Until the first inventory was seen, and after one of those, the items are what the shard says they are.
    pub learns_items: bool,
    /// How many results said that something was done.
    pub done: u64,
}

/// Counts of one bot's life.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Results that said "done", by kind of command.
    pub done: BTreeMap<&'static str, u64>,
    /// Results that said no, by reason.
    pub rejected: BTreeMap<Rejection, u64>,
    /// Commands without a result within [`RESULT_TIMEOUT`].
    pub failed: u64,
    /// Results of commands that had one already, or were never sent.
    pub unasked: u64,
    /// How often the session went on over a new connection.
    pub resumed: u64,
    /// From sending to the result, by kind.
    pub latencies: Vec<(&'static str, Duration)>,
    /// When each of those results came, on the bot's clock.
    pub answered_at: Vec<Duration>,
    /// Round trips of pings.
    pub round_trips: Vec<Duration>,
}

/// A command without a result for this long counts as failed.
pub const RESULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The name of a command's kind.
pub fn kind_of(command: &Command) -> &'static str {
    match command {
        Command::Harvest { .. } => "harvest",
        Command::Craft { .. } => "craft",
        Command::Build { .. } => "build",
        Command::Demolish { .. } => "demolish",
        Command::MoveItems { .. } => "move items",
    }
}

/// What the catalogue means to a bot.
#[derive(Debug, Clone)]
struct Knowledge {
    trees: BTreeSet<NodeId>,
    plank_recipe: Option<(RecipeId, ItemId, u16)>,
    floor: Option<(PieceId, Vec<(ItemId, u16)>)>,
    edge: Option<(PieceId, Vec<(ItemId, u16)>)>,
    slots: BTreeMap<PieceId, Slot>,
    reach_mm: i32,
    grid_mm: i32,
}

impl Knowledge {
    fn of(catalogue: &Catalogue) -> Self {
        let piece = |slot: Slot, needs: Support| {
            let found = catalogue.pieces.iter().find(|p| p.slot == slot && p.needs == needs && p.key.len() <= 10);
            found.map(|piece| (PieceId(piece.id), piece.cost.clone()))
        };
        let recipe = catalogue.recipes.iter().find(|recipe| recipe.key == "plank");
        Knowledge {
            trees: catalogue.nodes.iter().filter(|node| node.look == Look::Tree).map(|node| NodeId(node.id)).collect(),
            plank_recipe: recipe.and_then(|r| r.inputs.first().map(|(item, count)| (RecipeId(r.id), *item, *count))),
            floor: piece(Slot::Floor, Support::Ground),
            edge: catalogue
                .pieces
                .iter()
                .find(|p| p.key == "wall")
                .map(|piece| (PieceId(piece.id), piece.cost.clone())),
            slots: catalogue.pieces.iter().map(|piece| (PieceId(piece.id), piece.slot)).collect(),
            reach_mm: catalogue.reach_mm,
            grid_mm: catalogue.grid_mm,
        }
    }
}

/// One synthetic player.
#[derive(Debug)]
pub struct Bot {
    /// The protocol.
    pub client: Client,
    /// What it was told.
    pub account: Account,
    /// What it counted.
    pub counts: Counts,
    /// Why the shard ended the connection, if it did.
    pub refused: Option<String>,
    /// Whose head and hands it saw, and of which slot, for who made this a list and empties it.
    pub poses: Option<Vec<(EntityId, u16)>>,
    secret: String,
    name: String,
    rng: ChaCha8Rng,
    style: Style,
    /// How head and hands move.
    gestures: Option<Motion>,
    knowledge: Option<Arc<Knowledge>>,
    heading: (i8, i8),
    heading_until: Duration,
    act_at: Duration,
    ping_at: Duration,
    sent_at: Duration,
    bad_nodes: BTreeMap<EntityId, Duration>,
    knows_items: bool,
    /// Makes one step per tick ahead of the shard, instead of a move whenever it thinks.
    predicts: bool,
}

impl Bot {
    /// A player whose secret, name and behaviour follow from `seed` and `number`. It needs a token to come in:
    /// [`Bot::present`].
    pub fn new(seed: u64, number: usize, style: Style) -> Self {
        let mut bot = Bot {
            client: Client::new("", &format!("bot {number}")),
            secret: Self::secret(seed, number),
            name: format!("bot {number}"),
            account: Account { learns_items: true, ..Account::default() },
            counts: Counts::default(),
            refused: None,
            poses: None,
            rng: ChaCha8Rng::seed_from_u64(seed),
            style,
            gestures: (style == Style::Gesturing).then(|| Motion::new(seed ^ number as u64, None)),
            knowledge: None,
            heading: (0, 0),
            heading_until: Duration::ZERO,
            act_at: Duration::ZERO,
            ping_at: Duration::ZERO,
            sent_at: Duration::ZERO,
            bad_nodes: BTreeMap::new(),
            knows_items: false,
            predicts: style != Style::Blind && number.is_multiple_of(2),
        };
        bot.rng.set_stream(number as u64);
        bot
    }

    /// By which the bot is known where tokens are issued.
    pub fn secret(seed: u64, number: usize) -> String {
        format!("bot-{seed:016x}-{number:06}")
    }

    /// By which this bot is known where tokens are issued.
    pub fn own_secret(&self) -> &str {
        &self.secret
    }

    /// Starts the conversation anew, with a join token.
    pub fn present(&mut self, token: &str) {
        self.client = Client::new(token, &self.name);
        if self.style == Style::Blind {
            self.client.go_blind();
        }
    }

    /// The same player on a new connection, who remembers what it was told before.
    pub fn rejoin(account: Account, seed: u64, number: usize, style: Style) -> Self {
        let mut bot = Bot::new(seed, number, style);
        bot.account = account;
        if let Some((_, command)) = bot.account.under_way.take() {
            bot.account.unsettled.push(command);
            bot.account.learns_items = true;
        }
        if bot.account.learns_items {
            bot.account.items.clear();
        }
        bot.knows_items = !bot.account.learns_items;
        bot
    }

    /// True once the shard has let it in.
    pub fn is_playing(&self) -> bool {
        self.client.welcome().is_some()
    }

    /// Takes one message of the shard.
    ///
    /// # Errors
    /// When the shard sends what the client cannot understand.
    pub fn receive(
        &mut self,
        now: Duration,
        channel: usize,
        bytes: &[u8],
    ) -> Result<(), vsekai_net::client::ClientError> {
        self.client.receive(now, channel, bytes)?;
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Welcome(welcome) => {
                    self.account.player = welcome.player;
                    if !self.knows_items {
                        self.account.last_command = welcome.last_command;
                    }
                    self.knowledge = Some(Arc::new(Knowledge::of(&welcome.catalogue)));
                    self.act_at = now + Duration::from_millis(self.rng.random_range(0..1_000));
                }
                ClientEvent::Resumed => self.counts.resumed += 1,
                ClientEvent::Refused { message, .. } => self.refused = Some(message),
                ClientEvent::Pong { round_trip } => self.counts.round_trips.push(round_trip),
                ClientEvent::Pose { player, received } => {
                    if let Some(poses) = &mut self.poses {
                        poses.push((player, received.slot));
                    }
                }
                ClientEvent::Steps { .. } => {}
                ClientEvent::Result { sequence, command, frame, outcome, latency } => {
                    self.take_result(now, sequence, command, frame, outcome, latency);
                }
            }
        }
        self.learn_items();
        Ok(())
    }

    /// The first inventory is where the account of items begins.
    fn learn_items(&mut self) {
        if self.knows_items || self.client.pending_count() > 0 {
            return;
        }
        if let Some(inventory) = self.client.own().and_then(|own| own.get::<Inventory>()) {
            self.knows_items = true;
            self.account.learns_items = false;
            for stack in inventory.slots.stacks() {
                *self.account.items.entry(stack.item).or_default() += i64::from(stack.count);
            }
        }
    }

    fn take_result(
        &mut self,
        now: Duration,
        sequence: u32,
        command: Option<Command>,
        frame: u64,
        outcome: Outcome,
        latency: Duration,
    ) {
        if command.is_none() {
            self.counts.unasked += 1;
        }
        self.account.under_way = None;
        if frame > 0 {
            self.account.last_command = self.account.last_command.max(sequence);
        }
        let kind = command.as_ref().map_or("unknown", kind_of);
        self.counts.latencies.push((kind, latency));
        self.counts.answered_at.push(now);
        match outcome {
            Outcome::Done { items, entity } => {
                self.account.done += 1;
                *self.counts.done.entry(kind).or_default() += 1;
                for change in items {
                    *self.account.items.entry(change.item).or_default() += i64::from(change.count);
                }
                match command {
                    Some(Command::Build { .. }) => {
                        self.account.built.insert(entity);
                    }
                    Some(Command::Demolish { structure }) => {
                        self.account.built.remove(&structure);
                    }
                    _ => {}
                }
            }
            Outcome::Rejected(rejection) => {
                *self.counts.rejected.entry(rejection).or_default() += 1;
                if let Some(Command::Harvest { node }) = command {
                    self.bad_nodes.insert(node, now + Duration::from_secs(5));
                }
                if rejection == Rejection::SpaceTaken || rejection == Rejection::GroundTooSteep {
                    // Somewhere else, then.
                    self.wander(now, 2_000);
                }
            }
        }
        let pause = match self.style {
            Style::Builder => self.rng.random_range(0..60),
            _ => self.rng.random_range(500..1_500),
        };
        self.act_at = now + Duration::from_millis(pause);
    }

    /// Thinks, about twenty times a second: walks on, and acts when it is time.
    pub fn step(&mut self, now: Duration) {
        let Some(knowledge) = self.knowledge.clone() else { return };
        let position = self.client.own().and_then(|own| own.get::<Pose>()).map(|pose| pose.position);
        if position.is_none() && self.style != Style::Blind {
            return;
        }
        if let Some(pose) = self.gestures.as_ref().and_then(|gestures| gestures.pose(now.as_secs_f64())) {
            let slot = (now.as_micros() * u128::from(SLOTS_PER_S) / 1_000_000) as u16;
            // Refused when this slot has a pose already: then nothing is said.
            let _ = self.client.pose(slot, &pose);
        }
        if now >= self.ping_at {
            self.ping_at = now + Duration::from_secs(1);
            self.client.ping(now);
        }
        if self.client.pending_count() > 0 && now.saturating_sub(self.sent_at) > RESULT_TIMEOUT {
            self.counts.failed += 1;
            self.sent_at = now;
        }
        let idle = self.client.pending_count() == 0 && now >= self.act_at;
        if !matches!(self.style, Style::Walker | Style::Gesturing | Style::Blind)
            && self.knows_items
            && idle
            && let Some(position) = position
            && let Some(command) = self.choose(now, position, &knowledge)
        {
            let sequence = self.client.command(now, command.clone());
            self.sent_at = now;
            self.account.under_way = Some((sequence, command));
        }
        if now >= self.heading_until {
            self.wander(now, 3_000);
        }
        let yaw = self.rng.random::<u16>();
        // Both ways of walking are in use: every second bot goes ahead of the shard.
        if self.predicts {
            self.client.advance(now, self.heading.0, self.heading.1, yaw, false);
        } else {
            self.client.walk(self.heading.0, self.heading.1, yaw, false);
        }
    }

    fn wander(&mut self, now: Duration, longest_ms: u64) {
        self.heading = (self.rng.random_range(-127..=127), self.rng.random_range(-127..=127));
        self.heading_until = now + Duration::from_millis(self.rng.random_range(300..longest_ms));
    }

    fn walk_towards(&mut self, now: Duration, from: Position, to: Position) {
        let (dx, dz) = (f64::from(to.x) - f64::from(from.x), f64::from(to.z) - f64::from(from.z));
        let length = dx.hypot(dz).max(1.0);
        self.heading = ((dx / length * 127.0) as i8, (dz / length * 127.0) as i8);
        let walk_ms = (length / 4.0).clamp(100.0, 2_000.0) as u64;
        self.heading_until = now + Duration::from_millis(walk_ms);
    }

    /// A wall on a floor near by, or a floor here: something that there is no piece at yet and that it has the items for.
    fn choose_piece(
        &mut self,
        now: Duration,
        position: Position,
        knowledge: &Knowledge,
        prefer_wall: bool,
    ) -> Option<Command> {
        let affordable = |cost: &[(ItemId, u16)]| {
            cost.iter().all(|(item, count)| self.account.items.get(item).copied().unwrap_or(0) >= i64::from(*count))
        };
        let wall = knowledge.edge.as_ref().filter(|(_, cost)| affordable(cost)).map(|(piece, _)| *piece);
        let floor = knowledge.floor.as_ref().filter(|(_, cost)| affordable(cost)).map(|(piece, _)| *piece);
        if wall.is_none() && floor.is_none() {
            return None;
        }
        let here =
            Cell { column: position.x.div_euclid(knowledge.grid_mm), row: position.z.div_euclid(knowledge.grid_mm) };
        let structures = self.client.entities().filter_map(|(_, entity)| entity.get::<Structure>());
        let near: Vec<(Cell, Place)> = structures
            .filter(|s| s.column.abs_diff(here.column) <= 2 && s.row.abs_diff(here.row) <= 2)
            .map(|s| {
                let cell = Cell { column: s.column, row: s.row };
                let slot = knowledge.slots.get(&s.piece).copied().unwrap_or(Slot::Inside);
                (cell, Place::new(cell, s.level, slot, s.turn))
            })
            .collect();
        let taken = |place: Place| near.iter().any(|(_, other)| *other == place);
        if let Some(piece) = wall.filter(|_| prefer_wall) {
            let floors = near.iter().filter(|(cell, place)| place.is_floor_of(*cell, 0));
            let reachable =
                floors.filter(|(c, _)| c.column.abs_diff(here.column) <= 1 && c.row.abs_diff(here.row) <= 1);
            let first_turn = self.rng.random_range(0..4);
            let free = reachable
                .flat_map(|(cell, _)| (0..4).map(move |turn| (*cell, (turn + first_turn) % 4)))
                .find(|(cell, turn)| !taken(Place::new(*cell, 0, Slot::Edge, *turn)));
            if let Some((cell, turn)) = free {
                return Some(Command::Build { piece, column: cell.column, row: cell.row, level: 0, turn });
            }
        }
        let piece = floor?;
        if taken(Place::new(here, 0, Slot::Floor, 0)) {
            self.wander(now, 1_500);
            return None;
        }
        Some(Command::Build { piece, column: here.column, row: here.row, level: 0, turn: 0 })
    }

    fn choose(&mut self, now: Duration, position: Position, knowledge: &Knowledge) -> Option<Command> {
        let holds = |counts: &BTreeMap<ItemId, i64>, cost: &[(ItemId, u16)]| {
            cost.iter().all(|(item, count)| counts.get(item).copied().unwrap_or(0) >= i64::from(*count))
        };
        let dice = self.rng.random_range(0..100);
        if dice < 4 {
            let near = self.account.built.iter().find(|id| {
                let known = self.client.entity(**id).and_then(|entity| entity.get::<Placement>());
                known.is_some_and(|placement| placement.position.within(position, knowledge.reach_mm))
            });
            if let Some(structure) = near.copied() {
                return Some(Command::Demolish { structure });
            }
        }
        if dice < 6 {
            let (from, to) = (self.rng.random_range(0..6), self.rng.random_range(0..6));
            return Some(Command::MoveItems { from, to, count: self.rng.random_range(0..3) });
        }
        if let Some(command) = self.choose_piece(now, position, knowledge, dice < 50) {
            return Some(command);
        }
        let craftable = |(_, item, count): &(_, ItemId, u16)| holds(&self.account.items, &[(*item, *count)]);
        if let Some((recipe, ..)) = knowledge.plank_recipe.filter(craftable) {
            return Some(Command::Craft { recipe });
        }
        self.bad_nodes.retain(|_, until| *until > now);
        let nearest = self
            .client
            .entities()
            .filter(|(id, _)| !self.bad_nodes.contains_key(id))
            .filter_map(|(id, entity)| {
                let node = entity
                    .get::<ResourceNode>()
                    .filter(|node| node.left > 0 && knowledge.trees.contains(&node.kind))?;
                let at = entity.get::<Placement>()?.position;
                Some((position.horizontal_distance_squared(at), id, at, node.kind))
            })
            .min_by_key(|(distance, id, ..)| (*distance, *id));
        let (_, node, at, _) = nearest?;
        if position.within(at, knowledge.reach_mm - 300) {
            return Some(Command::Harvest { node });
        }
        self.walk_towards(now, position, at);
        if self.style == Style::Builder {
            self.act_at = now + Duration::from_millis(100);
        }
        None
    }
}
