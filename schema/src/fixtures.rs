//! Every shipped wire and record version keeps a fixture: the bytes of one message or record of each kind, committed in
//! `schema/fixtures/`. They must decode to these values for ever, and this build must still write them so. A new version adds
//! a file; `VSEKAI_WRITE_FIXTURES=1` writes one that is not there yet, and never overwrites.

use crate::codec::from_bytes;
use crate::id::{EntityId, ItemId, PieceId, PlayerKey, RecipeId, Tag};
use crate::record::{
    ChangeRecord, EntitiesReader, EntitiesWriter, EntityRecord, FrameReader, FrameWriter, Home, HomeHead, HomeRecord,
    IdBlock, LeaseRecord, OwnRecord, Packing,
};
use crate::units::{ChunkKey, Position};
use crate::wire::body::{
    self, Baseline, Before, Body, BodyHead, BodyWriter, Change, PlaceChange, RotationChange, decode_bodies,
};
use crate::wire::motion::{Acks, Motion, MotionHead, MotionWriter, OwnPose, Step, Update};
use crate::wire::pose::{BodyPose, Layer, Part, PoseDecoder, PoseEncoder, Rotation, Tracked};
use crate::wire::view::{
    ComponentsWriter, Entrance, Operation, Place, ServerDatagram, ViewWriter, decode_server_datagram, decode_view,
    write_pong,
};
use crate::wire::{
    ClientDatagram, ClientMessage, Command, Input, ItemChange, MoveInput, Outcome, PlayerInput, Refusal, Rejection,
    ServerMessage, encode,
};
use std::fmt::Debug;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The lines `name hex` of a fixture file must be exactly `made`.
fn check(file: &str, made: &[(&str, Vec<u8>)]) -> Vec<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(file);
    let text: String = made.iter().map(|(name, bytes)| format!("{name} {}\n", hex(bytes))).collect();
    if !path.exists() && std::env::var_os("VSEKAI_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    for (line, (name, bytes)) in committed.lines().zip(made) {
        assert_eq!(line, format!("{name} {}", hex(bytes)), "{file}: this build writes {name} differently");
    }
    assert_eq!(committed, text, "{file} has other entries than this test");
    read(&committed)
}

/// The entries of a file that this build writes no more.
fn kept(file: &str) -> Vec<Vec<u8>> {
    read(&std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(file)).unwrap())
}

fn read(lines: &str) -> Vec<Vec<u8>> {
    let byte = |digits: &str| u8::from_str_radix(digits, 16).unwrap();
    let read = |line: &str| {
        let digits = line.rsplit_once(' ').unwrap().1;
        (0..digits.len() / 2).map(|at| byte(&digits[2 * at..2 * at + 2])).collect()
    };
    lines.lines().map(read).collect()
}

fn step() -> MoveInput {
    MoveInput { sequence: 300, direction_x: -127, direction_z: 5, yaw: 49_152, sprint: true }
}

fn commands() -> Vec<(&'static str, Command)> {
    vec![
        ("harvest", Command::Harvest { node: EntityId(5_000_000_000) }),
        ("craft", Command::Craft { recipe: RecipeId(3) }),
        ("build", Command::Build { piece: PieceId(200), column: -7, row: 1_000, level: 2, turn: 3 }),
        ("demolish", Command::Demolish { structure: EntityId(1_024) }),
        ("move items", Command::MoveItems { from: 0, to: 23, count: 300 }),
    ]
}

fn same<T: Debug + PartialEq + for<'a> serde::Deserialize<'a>>(bytes: &[u8], value: &T) {
    assert_eq!(from_bytes::<T>(bytes).as_ref(), Ok(value));
}

#[test]
fn wire_version_2_from_the_client() {
    let hello =
        ClientMessage::Hello { protocol: 2, token: "a-token-of-16-by".into(), name: "Ännchen".into(), tick_hz: 60 };
    let mut messages = vec![("hello", hello), ("goodbye", ClientMessage::Goodbye)];
    messages
        .extend(commands().into_iter().map(|(name, command)| (name, ClientMessage::Command { sequence: 77, command })));
    messages.push(("resume", ClientMessage::Resume { protocol: 2, secret: [0xab; 16], results: 300 }));
    messages.push(("seen", ClientMessage::Seen { results: 16 }));
    let made: Vec<_> = messages.iter().map(|(name, message)| (*name, encode(message))).collect();
    for (bytes, (_, message)) in check("wire_v2_client_message.txt", &made).iter().zip(&messages) {
        same(bytes, message);
    }
    let datagrams = [
        ("move", ClientDatagram::Move { step: step(), acks: Some(Acks { newest: 300, before: 0xdead_beef }) }),
        ("ping", ClientDatagram::Ping { nonce: u32::MAX, acks: None }),
    ];
    let made: Vec<_> = datagrams.iter().map(|(name, datagram)| (*name, encode(datagram))).collect();
    for (bytes, (_, datagram)) in check("wire_v2_client_datagram.txt", &made).iter().zip(&datagrams) {
        same(bytes, datagram);
    }
}

#[test]
fn wire_version_2_from_the_shard() {
    let welcome = ServerMessage::Welcome {
        protocol: 2,
        tick_hz: 60,
        tick: 99_999,
        player: EntityId(1_048_576),
        seed: u64::MAX,
        world_half_mm: 512_000,
        last_command: 12,
        content: "{}".into(),
    };
    let items = vec![ItemChange { item: ItemId(7), count: 3 }, ItemChange { item: ItemId(0), count: -4 }];
    let mut messages = vec![
        ("welcome".to_string(), welcome),
        ("view".into(), ServerMessage::View(vec![1, 2, 3])),
        (
            "done".into(),
            ServerMessage::Result { sequence: 5, frame: 600, outcome: Outcome::Done { items, entity: EntityId(9) } },
        ),
    ];
    for rejection in Rejection::ALL {
        let outcome = Outcome::Rejected(*rejection);
        messages.push((format!("{rejection:?}"), ServerMessage::Result { sequence: 5, frame: 0, outcome }));
    }
    for reason in Refusal::ALL {
        messages.push((format!("{reason:?}"), ServerMessage::Refused { reason: *reason, message: "why".into() }));
    }
    messages.push(("resumable".into(), ServerMessage::Resumable { secret: [0xcd; 16], seconds: 60 }));
    messages.push(("resumed".into(), ServerMessage::Resumed { tick: 99_999, received: 77 }));
    let made: Vec<_> = messages.iter().map(|(name, message)| (name.as_str(), encode(message))).collect();
    for (bytes, (_, message)) in check("wire_v2_server_message.txt", &made).iter().zip(&messages) {
        same(bytes, message);
    }
}

#[test]
fn wire_version_2_views() {
    let mut components = ComponentsWriter::default();
    components.push(Tag(1), &[1, 2]);
    components.push(Tag(300), &[]);
    let (id, key) = (EntityId(1_024), ChunkKey { x: -1, z: 300 });
    let mut view = ViewWriter::default();
    view.leave_chunk(key);
    view.forget_chunk(key);
    view.chunk(key);
    view.standing(Entrance::Enter, id, &components);
    view.standing(Entrance::Spawn, id, &components);
    view.mover(Entrance::Enter, id, 65_535, &components);
    view.mover(Entrance::Spawn, id, 0, &components);
    view.own(id, &components);
    view.change(id, &components);
    view.despawn(id);
    view.leave(id);
    view.recall_chunk(key);
    let read = check("wire_v2_view.txt", &[("view", view.finish(70)), ("pong", write_pong(5, 72))]);
    let components = vec![(Tag(1), &[1u8, 2][..]), (Tag(300), &[][..])];
    let introduce = |how, place| Operation::Introduce { how, id, place, components: components.clone() };
    let decoded = decode_view(&read[0]).unwrap();
    assert_eq!(decoded.tick, 70);
    let expected = [
        Operation::LeaveChunk(key),
        Operation::ForgetChunk(key),
        introduce(Entrance::Enter, Place::Chunk(key)),
        introduce(Entrance::Spawn, Place::Chunk(key)),
        introduce(Entrance::Enter, Place::Slot(65_535)),
        introduce(Entrance::Spawn, Place::Slot(0)),
        introduce(Entrance::Enter, Place::Own),
        Operation::Change { id, components: components.clone() },
        Operation::Despawn(id),
        Operation::Leave(id),
        Operation::RecallChunk(key),
    ];
    assert_eq!(decoded.operations, expected);
    assert_eq!(decode_server_datagram(&read[1]), Ok(ServerDatagram::Pong { nonce: 5, tick: 72 }));
    // Something that stands, in no chunk.
    let mut lost = ViewWriter::default();
    lost.standing(Entrance::Enter, id, &ComponentsWriter::default());
    assert!(decode_view(&lost.finish(1)).is_err());
}

#[test]
fn wire_version_2_motion() {
    let own = OwnPose { x: -123_456, z: 2_000_000_000, yaw: 40_000, y: Some(-7) };
    let head = MotionHead { number: 9, tick: 65_535, newest_input: 300, own: Some(own) };
    let base = Motion { x: -1_000, z: 5_000, yaw: 3, y: None };
    let new = [
        base,
        Motion { x: -985, ..base },
        Motion { z: 5_100, yaw: 200, ..base },
        Motion { x: 1_000, y: Some(-90), ..base },
    ];
    let mut writer = MotionWriter::new(head, 3, 0);
    writer.push(2, 0, base.absolute());
    for (number, motion) in new.iter().enumerate() {
        writer.push(3 + 4 * number as u16, 3 + number as u32 / 2, motion.since(base).unwrap());
    }
    writer.push(65_535, 0, Motion { y: Some(40), ..base }.absolute());
    let empty = MotionWriter::new(MotionHead { own: None, ..head }, 0, 0);
    let read = check("wire_v2_motion.txt", &[("packet", writer.finish()), ("empty", empty.finish())]);
    let since = |age, dx, dz, yaw, y| Update::Since { age, step: Step { dx, dz, yaw, y } };
    let updates = vec![
        (2, Update::Absolute(base)),
        (3, since(3, 0, 0, None, None)),
        (7, since(3, 15, 0, None, None)),
        (11, since(4, 0, 100, Some(200), None)),
        (15, since(4, 2_000, 0, None, Some(-90))),
        (65_535, Update::Absolute(Motion { y: Some(40), ..base })),
    ];
    assert_eq!(decode_server_datagram(&read[0]), Ok(ServerDatagram::Motion { head, updates }));
    let head = MotionHead { own: None, ..head };
    assert_eq!(decode_server_datagram(&read[1]), Ok(ServerDatagram::Motion { head, updates: Vec::new() }));
}

#[test]
fn wire_version_2_bodies() {
    let head = BodyHead { number: 9, tick: 65_535 };
    let body = |x: i32, turn: [f64; 4], at_rest| {
        Body::of(Position { x, y: 500 + x / 10, z: -2_000_000_000 }, Rotation::from_real(turn).unwrap(), at_rest)
    };
    let before = body(1_000, [0.0, 0.1, 0.0, 1.0], false);
    let state = body(1_200, [0.0, 0.3, 0.02, 1.0], false);
    let base = Baseline { state, before: Some(Before { state: before, ticks: 2 }) };
    // Three ticks later: unchanged, as expected but for a little, bumped, come to rest, and carried away and turned round.
    let new = [
        state,
        body(1_504, [0.0, 0.62, 0.05, 1.0], false),
        body(1_300, [0.3, 0.2, 0.02, 0.9], false),
        body(1_200, [0.0, 0.3, 0.02, 1.0], true),
        body(-2_000_000_000, [1.0, 0.1, 0.2, -0.4], false),
    ];
    let mut writer = BodyWriter::new(head, 2, 0);
    writer.push(2, 0, state.absolute());
    for (number, body) in new.iter().enumerate() {
        writer.push(3 + 4 * number as u16, 3, body.since(&base, 3));
    }
    // Without a state before it, and after longer than anything is expected, the base is what it was.
    writer.push(900, 100, new[1].since(&base, 100));
    writer.push(65_535, 100, new[1].since(&Baseline::whole(state), 100));
    let empty = BodyWriter::new(head, 0, 0);
    let read = check("wire_v2_body.txt", &[("packet", writer.finish()), ("empty", empty.finish())]);
    let (read_head, updates) = decode_bodies(&read[0]).unwrap();
    assert_eq!((read_head, updates.len()), (head, 8));
    assert_eq!(updates[0], (2, body::Update::Absolute(state)));
    assert_eq!(updates[1], (3, body::Update::Since { age: 3, change: Change::Same }));
    let little =
        Change::Moved { at_rest: false, place: PlaceChange::By([1, 0, 0]), rotation: RotationChange::By([0, -16, -4]) };
    assert_eq!(updates[2], (7, body::Update::Since { age: 3, change: little }));
    let expected = [new.as_slice(), &[new[1], new[1]]].concat();
    for ((slot, update), wanted) in updates[1..].iter().zip(expected) {
        let body::Update::Since { age, change } = update else { panic!("slot {slot} came whole") };
        let base = if *slot == 65_535 { Baseline::whole(state) } else { base };
        assert_eq!(change.from(&base, *age), Ok(wanted), "slot {slot}");
    }
    assert_eq!(decode_bodies(&read[1]), Ok((head, Vec::new())));
}

/// Half a second of a body, by whole numbers only. Each entry's name says what its bytes mean: `slot layer`, then for each part
/// `part=x,y,z/left-out part:the others`.
#[test]
fn pose_version_1() {
    let tracked = |slot: i32, reach: i32, around: [i32; 3]| {
        let wave = |n: i32| (slot * (n + 3) % 23 - 11).abs() * reach - 5 * reach;
        let position = [0, 1, 2].map(|axis| (around[axis as usize] + wave(axis)) as i16);
        // The left-out part changes from w to x on the way.
        let turn = [0.4 + 0.03 * f64::from(slot), 0.1, -0.05 * f64::from(reach), 1.0];
        Tracked { position, rotation: Rotation::from_real(turn).unwrap() }
    };
    let mut encoder = PoseEncoder::default();
    let mut made: Vec<(String, Vec<u8>)> = Vec::new();
    let mut poses = Vec::new();
    for number in 0..30 {
        let mut pose = BodyPose::new(tracked(number, 1, [5, 1_650, -20]))
            .with(Part::LeftHand, tracked(number, 4, [-300, 1_100, -250]))
            .with(Part::RightHand, tracked(number, 60, [300, 1_200, -300]));
        if number >= 28 {
            pose = pose.with(Part::Hips, tracked(number, 2, [0, 950, 0]));
        }
        // From slot 20 on every third is skipped, and slots begin anew behind 65,535.
        let slot = 65_520u16.wrapping_add((number + (number - 20).max(0) / 2) as u16);
        let bytes = encoder.encode(slot, &pose).unwrap();
        let mut name = format!("{slot} {:?}", Layer::of(&bytes).unwrap());
        for (part, Tracked { position: [x, y, z], rotation }) in pose.parts() {
            let [a, b, c] = rotation.parts();
            let _ = write!(name, " {part:?}={x},{y},{z}/{}:{a},{b},{c}", rotation.largest());
        }
        made.push((name, bytes));
        poses.push((slot, pose));
    }
    let made: Vec<_> = made.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let mut decoder = PoseDecoder::default();
    for (bytes, (slot, pose)) in check("pose_v1.txt", &made).iter().zip(poses) {
        let received = decoder.decode(Duration::ZERO, bytes).unwrap();
        assert_eq!((received.slot, received.pose), (slot, pose));
    }
}

#[test]
fn record_version_1() {
    let mut inputs = vec![
        PlayerInput { player: EntityId(7), input: Input::Move(step()) },
        PlayerInput { player: EntityId(7), input: Input::Leave },
        PlayerInput { player: EntityId::WORLD, input: Input::Join { key: PlayerKey([7; 16]), name: "Anna".into() } },
        PlayerInput { player: EntityId::WORLD, input: Input::GrantIds(IdBlock { next: 1 << 20, end: 1 << 21 }) },
    ];
    inputs.extend(
        commands()
            .into_iter()
            .map(|(_, command)| PlayerInput { player: EntityId(8), input: Input::Command { sequence: 3, command } }),
    );
    let chunk = ChunkKey { x: -1, z: 40 };
    let mut frame = FrameWriter::new();
    frame.despawn(EntityId(5), Home::Chunk(chunk));
    frame.write(EntityId(7), Home::Alone, [(Tag(2), &[1u8, 0, 0][..]), (Tag(3), &[][..])].into_iter());
    let mut entities = EntitiesWriter::new();
    entities.push(EntityId(1_024), [(Tag(1), &[1u8, 5][..])].into_iter());
    entities.push(EntityId(1 << 40), [].into_iter());
    let made = [("frame", frame.finish(1_000, 0x0123_4567_89ab_cdef, &inputs)), ("entities", entities.finish())];
    let read = check("record_v1.txt", &made);
    let mut reader = FrameReader::new(&read[0]).unwrap();
    assert_eq!((reader.head.frame, &reader.head.inputs), (1_000, &inputs));
    assert_eq!(reader.next_change().unwrap().unwrap().home, Home::Chunk(chunk));
    assert_eq!(reader.next_change().unwrap().unwrap().components.unwrap()[1], (Tag(3), &[][..]));
    assert_eq!(reader.next_change().unwrap(), None);
    let list = EntitiesReader::new(&read[1]).unwrap().collect().unwrap();
    assert_eq!(list[0], EntityRecord { id: EntityId(1_024), components: vec![(Tag(1), &[1, 5][..])] });
    assert_eq!(list[1].id, EntityId(1 << 40));
}

fn own() -> OwnRecord {
    OwnRecord {
        epoch: 3,
        last_frame: 1_000,
        last_lsn: 900,
        state_hash: 0x0123_4567_89ab_cdef,
        ids_reserved_to: 1 << 21,
        last_commit_id: 44,
        journal: 0,
        journal_place: String::new(),
    }
}

/// What version 1 wrote and this build writes no more must still be read.
#[test]
fn records_of_version_1_that_have_a_successor() {
    let read = kept("record_v1_replaced.txt");
    assert_eq!(OwnRecord::decode(&read[0]).unwrap(), own());
    assert_eq!(HomeRecord::decode(&read[1]).unwrap(), HomeRecord::Version1(&read[1]));
    assert_eq!(EntitiesReader::new(&read[1]).unwrap().collect().unwrap()[0].id, EntityId(1_024));
}

#[test]
fn record_version_2() {
    let own = OwnRecord { journal: 0xfeed_beef_0000_0001, journal_place: "host:/srv/journal".into(), ..own() };
    let head = HomeHead { packing: Packing::Plain, length: 2, hash: 0x0123_4567_89ab_cdef, frame: 300 };
    let whole = HomeRecord::Whole { head, stored: &[1, 0] };
    let head = HomeHead { packing: Packing::Lz4, length: 64_000, hash: 7, frame: 300 };
    let parts = HomeRecord::Parts { head, generation: 45, parts: 7, stored: 30_000 };
    let lease = LeaseRecord { epoch: 3, beat: 1_000, ttl_ms: 2_000, holder: "host:4711".into() };
    let change = ChangeRecord {
        first_frame: 881,
        last_frame: 1_000,
        state_hash: 0x0123_4567_89ab_cdef,
        chunks: vec![5, 1 << 40],
        entities: vec![1_024],
        complete: true,
    };
    let made = [
        ("own", own.encode()),
        ("home_whole", whole.encode()),
        ("home_parts", parts.encode()),
        ("lease", lease.encode()),
        ("change", change.encode()),
    ];
    let read = check("record_v2.txt", &made);
    assert_eq!(OwnRecord::decode(&read[0]).unwrap(), own);
    assert_eq!(HomeRecord::decode(&read[1]).unwrap(), whole);
    assert_eq!(HomeRecord::decode(&read[2]).unwrap(), parts);
    assert_eq!(LeaseRecord::decode(&read[3]).unwrap(), lease);
    assert_eq!(ChangeRecord::decode(&read[4]).unwrap(), change);
}

/// A version from the future is refused by its name, whatever follows.
#[test]
fn unknown_versions_are_named() {
    let future = [9, 1, 2, 3];
    for (error, name) in [
        (OwnRecord::decode(&future).unwrap_err(), "own record"),
        (HomeRecord::decode(&future).unwrap_err(), "home record"),
        (LeaseRecord::decode(&future).unwrap_err(), "lease record"),
        (ChangeRecord::decode(&future).unwrap_err(), "change record"),
        (EntitiesReader::new(&future).unwrap_err(), "entity list"),
        (FrameReader::new(&future).unwrap_err(), "frame"),
    ] {
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("version 9"), "{text}");
    }
}

mod random_bytes {
    use super::*;
    use crate::wire::{decode_client_datagram, decode_client_message, decode_server_message};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Every decoder of the crate takes any bytes and gives a value or an error, never a panic.
        #[test]
        fn no_decoder_panics(kind in 0u8..8, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // A plausible first byte lets random bytes come deeper.
            let bytes = [&[kind][..], &bytes].concat();
            for bytes in [&bytes[..], &bytes[1..]] {
                let _ = decode_client_message(bytes);
                let _ = decode_client_datagram(bytes);
                let _ = decode_server_message(bytes);
                let _ = decode_server_datagram(bytes);
                let _ = decode_view(bytes);
                let _ = decode_bodies(bytes);
                let _ = OwnRecord::decode(bytes);
                let _ = HomeRecord::decode(bytes);
                let _ = LeaseRecord::decode(bytes);
                let _ = ChangeRecord::decode(bytes);
                if let Ok(list) = EntitiesReader::new(bytes) {
                    let _ = list.collect();
                }
                if let Ok(mut frame) = FrameReader::new(bytes) {
                    while let Ok(Some(_)) = frame.next_change() {}
                }
            }
        }
    }
}
