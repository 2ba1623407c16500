use super::*;
use crate::scenario::Scenario;
use vsekai_schema::wire::Command;

/// A builder with plenty of everything, who stands in the middle of a cell on flat ground.
struct Site {
    scene: Scenario,
    player: EntityId,
    cell: Cell,
}

impl Site {
    fn new() -> Self {
        let mut scene = Scenario::new();
        let player = scene.join("builder");
        let ground = *scene.world().resource::<Ground>();
        let tuning = scene.world().resource::<GameContent>().0.tuning.clone();
        let flat = (-20..20)
            .flat_map(|column| (-20..20).map(move |row| Cell { column, row }))
            .find(|cell| ground_height(&ground, *cell, 0, &tuning).is_ok());
        let cell = flat.expect("the land has a flat place");
        let (x, z) = cell.centre(tuning.grid_mm).unwrap();
        scene.place(player, ground.at(x, z));
        for (item, count) in [("plank", 400), ("brick", 100), ("campfire_kit", 5), ("rope", 10)] {
            scene.give(player, item, count);
        }
        Site { scene, player, cell }
    }

    fn command(&mut self, piece: &str, east: i32, level: u8, turn: u8) -> Command {
        let piece = self.scene.piece(piece);
        Command::Build { piece, column: self.cell.column + east, row: self.cell.row, level, turn }
    }

    fn build(&mut self, piece: &str, level: u8, turn: u8) -> EntityId {
        let command = self.command(piece, 0, level, turn);
        self.scene.done(self.player, command)
    }

    fn refused(&mut self, piece: &str, east: i32, level: u8, turn: u8) -> Rejection {
        let command = self.command(piece, east, level, turn);
        self.scene.rejected(self.player, command)
    }

    fn demolish(&mut self, structure: EntityId) -> Result<EntityId, Rejection> {
        match self.scene.run(self.player, Command::Demolish { structure }) {
            Outcome::Done { entity, .. } => Ok(entity),
            Outcome::Rejected(rejection) => Err(rejection),
        }
    }
}

#[test]
fn a_hut_goes_up_in_order_and_comes_down_in_reverse() {
    let mut site = Site::new();
    assert_eq!(site.refused("wall", 0, 0, 0), Rejection::NotSupported);
    let foundation = site.build("foundation", 0, 0);
    assert_eq!(site.refused("stone_foundation", 0, 0, 0), Rejection::SpaceTaken);
    assert_eq!(site.refused("floor", 0, 1, 0), Rejection::NotSupported);
    let wall = site.build("wall", 0, 1);
    let upper = site.build("floor", 1, 0);
    let fire = site.build("campfire", 1, 0);
    let y = |site: &mut Site, id| site.scene.get::<Placement>(id).position.y;
    assert_eq!(y(&mut site, upper) - y(&mut site, foundation), 2_500);
    for carrying in [foundation, wall, upper] {
        assert_eq!(site.demolish(carrying), Err(Rejection::SupportsOthers));
    }
    for free in [fire, upper, wall, foundation] {
        assert_eq!(site.demolish(free), Ok(free));
    }
    assert_eq!(site.demolish(foundation), Err(Rejection::NoSuchEntity));
    // 4 + 3 + 4 planks spent, 2 + 1 + 2 given back.
    assert_eq!(site.scene.count(site.player, "plank"), 400 - 11 + 5);
    assert_eq!(site.scene.count(site.player, "campfire_kit"), 4);
    assert_eq!(site.scene.simulation.entity_counts()["structure"], 0);
    site.scene.check_ledger();
}

#[test]
fn an_edge_between_two_cells_is_one_place_and_either_floor_carries_it() {
    let mut site = Site::new();
    site.build("foundation", 0, 0);
    let wall = site.build("wall", 0, 1);
    // The same edge, named as the west edge of the cell in the east: taken, whatever floor is there.
    assert_eq!(site.refused("wall", 1, 0, 3), Rejection::SpaceTaken);
    assert_eq!(site.refused("wall", 0, 0, 1), Rejection::SpaceTaken);
    // An upper floor in the eastern cell rests on that same wall.
    let command = site.command("floor", 1, 1, 0);
    let upper = site.scene.done(site.player, command);
    assert_eq!(site.demolish(wall), Err(Rejection::SupportsOthers));
    site.demolish(upper).unwrap();
    site.demolish(wall).unwrap();
}

#[test]
fn nonsense_and_strangers_are_refused_and_cost_nothing() {
    let mut site = Site::new();
    let planks = site.scene.count(site.player, "plank");
    assert_eq!(site.refused("foundation", 0, 0, 4), Rejection::OutOfRange);
    assert_eq!(site.refused("foundation", 0, 200, 0), Rejection::OutOfRange);
    assert_eq!(site.refused("foundation", 0, 1, 0), Rejection::NotSupported);
    assert_eq!(site.refused("foundation", 20, 0, 0), Rejection::TooFar);
    let piece = site.scene.piece("foundation");
    for (column, row) in [(i32::MAX, 0), (i32::MIN, i32::MIN), (0, 1_000_000)] {
        let command = Command::Build { piece, column, row, level: 0, turn: 0 };
        assert_eq!(site.scene.rejected(site.player, command), Rejection::OutsideWorld);
    }
    let command = Command::Build { piece: PieceId(77), column: 0, row: 0, level: 0, turn: 0 };
    assert_eq!(site.scene.rejected(site.player, command), Rejection::UnknownPiece);
    assert_eq!(site.scene.count(site.player, "plank"), planks);

    let foundation = site.build("foundation", 0, 0);
    let stranger = site.scene.join("stranger");
    let at = site.scene.get::<Pose>(site.player).position;
    site.scene.place(stranger, at);
    let command = Command::Demolish { structure: foundation };
    assert_eq!(site.scene.rejected(stranger, command), Rejection::NotYours);
    site.scene.check_ledger();
}

#[test]
fn a_chunk_that_is_full_takes_no_more() {
    let mut site = Site::new();
    let key = site.scene.get::<Pose>(site.player).position.chunk();
    let position = Position::new(key.x * 32_000 + 1, 0, key.z * 32_000 + 1);
    let kind = site.scene.node_kind("pine");
    while site.scene.world().resource::<Space>().has_room(key) {
        for _ in 0..200 {
            let id = site.scene.world().resource_mut::<Ids>().allocate().unwrap();
            let node = crate::resource::ResourceNode { kind, left: 1, regrow_at: 0 };
            spawn_with_id(site.scene.world(), id, (Placement { position, yaw: 0 }, node));
        }
        site.scene.tick();
    }
    assert_eq!(site.refused("foundation", 0, 0, 0), Rejection::ChunkFull);
    // A tick's worth of placements counts before its frame is made: as many as fit, and no more.
    let full = key;
    let key = vsekai_schema::units::ChunkKey { x: key.x + 1, z: key.z };
    let position = Position::new(key.x * 32_000 + 1, 0, key.z * 32_000 + 1);
    let mut placed = 0;
    while site.scene.world().resource::<Space>().has_room(key) && placed < 10_000 {
        let id = site.scene.world().resource_mut::<Ids>().allocate().unwrap();
        let node = crate::resource::ResourceNode { kind, left: 1, regrow_at: 0 };
        spawn_with_id(site.scene.world(), id, (Placement { position, yaw: 0 }, node));
        placed += 1;
    }
    assert!(placed < 1_000, "{placed} fit one tick");
    let chunk = site.scene.simulation.payloads().chunks.into_iter().find(|(k, _)| *k == full).unwrap();
    assert!(chunk.1.len() <= vsekai_schema::units::CHUNK_BYTES_MAX, "the payload has {} bytes", chunk.1.len());
}
