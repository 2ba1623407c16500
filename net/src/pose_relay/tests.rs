use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use vsekai_schema::wire::pose::motion::Motion;
use vsekai_schema::wire::pose::{Part, PoseEncoder, Tracked, decode_poses};

const SENDER: EntityId = EntityId(1 << 20);

fn viewer(number: u64) -> EntityId {
    EntityId((1 << 20) + 1 + number)
}

fn at_slot(slot: u32) -> Duration {
    Duration::from_secs(u64::from(slot)) / SLOTS_PER_S
}

/// Senders at their places, each with an encoder, and viewers with a decoder for each sender.
struct Scene {
    relay: PoseRelay,
    places: Vec<(EntityId, Position)>,
    encoders: BTreeMap<EntityId, (Motion, PoseEncoder)>,
    decoders: BTreeMap<(EntityId, EntityId), PoseDecoder>,
    /// Poses that each viewer got of each sender, and bytes that each viewer got.
    got: BTreeMap<(EntityId, EntityId), u32>,
    bytes: BTreeMap<EntityId, usize>,
    unreadable: u32,
}

impl Scene {
    fn new(config: PoseRelayConfig, senders: &[(EntityId, i32)], viewers: &[(EntityId, i32)]) -> Self {
        let place = |(id, x): &(EntityId, i32)| (*id, Position::new(*x, 0, 0));
        Scene {
            relay: PoseRelay::new(config),
            places: senders.iter().chain(viewers).map(place).collect(),
            encoders: senders.iter().map(|(id, _)| (*id, (Motion::new(id.0, None), PoseEncoder::default()))).collect(),
            decoders: BTreeMap::new(),
            got: BTreeMap::new(),
            bytes: BTreeMap::new(),
            unreadable: 0,
        }
    }

    /// Every sender sends the pose of a slot, but for those that are lost.
    fn slot(&mut self, slot: u32, lost: impl Fn(EntityId) -> bool) {
        let now = at_slot(slot);
        self.relay.set_places(now, self.places.iter().copied());
        for (id, (motion, encoder)) in &mut self.encoders {
            let pose = motion.pose(f64::from(slot) / f64::from(SLOTS_PER_S)).unwrap();
            let bytes = encoder.encode(slot as u16, &pose).unwrap();
            if !lost(*id) {
                let _ = self.relay.receive(now, *id, &bytes);
            }
        }
        for (to, datagram) in self.relay.take_datagrams() {
            assert!(datagram.len() <= POSES_BYTES_MAX);
            *self.bytes.entry(to).or_default() += datagram.len();
            for (from, pose) in decode_poses(&datagram).unwrap() {
                assert_ne!(from, to, "nobody gets the own pose back");
                *self.got.entry((to, from)).or_default() += 1;
                if self.decoders.entry((to, from)).or_default().decode(now, pose).is_err() {
                    self.unreadable += 1;
                }
            }
        }
    }

    fn got(&self, to: EntityId, from: EntityId) -> u32 {
        self.got.get(&(to, from)).copied().unwrap_or(0)
    }
}

#[test]
fn the_near_get_every_pose_at_once_the_far_fewer_and_the_farthest_none() {
    let distances = [2_000, 15_000, 30_000, 60_000, 70_000];
    let viewers: Vec<_> = distances.iter().enumerate().map(|(n, x)| (viewer(n as u64), *x)).collect();
    let mut scene = Scene::new(PoseRelayConfig::default(), &[(SENDER, 0)], &viewers);
    for slot in 0..240 {
        scene.slot(slot, |_| false);
        assert_eq!(scene.got(viewer(0), SENDER), slot + 1, "a pose waited");
    }
    let got: Vec<u32> = (0..5).map(|n| scene.got(viewer(n), SENDER)).collect();
    assert_eq!((got, scene.unreadable), (vec![240, 120, 60, 10, 0], 0));
    let pose = Motion::new(SENDER.0, None).pose(239.0 / 60.0).unwrap();
    assert_eq!(scene.relay.newest(SENDER), Some(&pose));
}

#[test]
fn who_walks_nearer_or_away_changes_rate_without_a_pose_that_cannot_be_read() {
    let mut scene = Scene::new(PoseRelayConfig::default(), &[(SENDER, 0)], &[(viewer(0), 80_000)]);
    let mut rates = Vec::new();
    for slot in 0..2_400u32 {
        // Walks there in twenty seconds and back again.
        let x = 80_000 - 66 * if slot < 1_200 { slot } else { 2_400 - slot } as i32;
        scene.places[1].1 = Position::new(x, 0, 0);
        let before = scene.got(viewer(0), SENDER);
        scene.slot(slot, |id| id == SENDER && slot % 41 == 0);
        rates.push(scene.got(viewer(0), SENDER) - before);
    }
    let in_second = |second: usize| rates[second * 60..(second + 1) * 60].iter().sum::<u32>();
    assert_eq!(in_second(0), 0);
    assert!((2..=3).contains(&in_second(7)), "{} far away", in_second(7));
    assert!(in_second(19) > 50 && in_second(20) > 50, "{} and {} near", in_second(19), in_second(20));
    assert_eq!(in_second(39), 0);
    assert_eq!(scene.unreadable, 0);
}

#[test]
fn a_crowd_keeps_within_the_budget_and_the_nearest_lose_nothing() {
    // A hundred in a row of 50 m, half a metre apart; the viewer stands at its end.
    let senders: Vec<_> = (0..100).map(|n| (EntityId(SENDER.0 + 1_000 + n), 500 + 500 * n as i32)).collect();
    let config = PoseRelayConfig::default();
    let mut scene = Scene::new(config, &senders, &[(viewer(0), 0)]);
    let seconds = 10;
    for slot in 0..60 * seconds {
        scene.slot(slot, |_| false);
    }
    let bytes = scene.bytes[&viewer(0)];
    let budget = (seconds * config.viewer_bytes_per_s + config.viewer_bytes_per_s / BUCKET_PARTS) as usize;
    // A datagram's first byte is not counted.
    assert!(bytes <= budget + 60 * seconds as usize * 2 && bytes > budget * 8 / 10, "{bytes} of {budget} bytes");
    assert_eq!(scene.unreadable, 0);
    let nearest: Vec<u32> = senders[..8].iter().map(|(id, _)| scene.got(viewer(0), *id) / seconds).collect();
    assert!(nearest.iter().all(|rate| *rate >= 50), "the nearest eight at {nearest:?} a second");
    let all: u32 = senders.iter().map(|(id, _)| scene.got(viewer(0), *id)).sum();
    println!("viewer of 100: {} B/s, {} poses/s, the nearest eight at {nearest:?} a second", bytes / 10, all / 10);
}

#[test]
fn what_is_not_believed_goes_to_nobody_and_says_why() {
    let mut relay = PoseRelay::new(PoseRelayConfig::default());
    let key = |slot: u16, position: [i16; 3]| {
        let tracked = |position| Tracked { position, ..Tracked::default() };
        let pose = BodyPose::new(tracked([0, 1_600, 0])).with(Part::LeftHand, tracked(position));
        PoseEncoder::default().encode(slot, &pose).unwrap()
    };
    let now = Duration::from_secs(1);
    let hand = [0, 1_200, 0];
    assert_eq!(relay.receive(now, SENDER, &key(1, hand)), Err(PoseDropped::NotPlaced));
    let places = [(SENDER, Position::default()), (viewer(0), Position::default())];
    relay.set_places(now, places);
    assert_eq!(relay.receive(now, SENDER, &key(1, hand)), Ok(1));
    let again = relay.receive(now, SENDER, &key(1, hand));
    assert_eq!(again, Err(PoseDropped::Overtaken { slot: 1, newest: 1 }));
    let stretched = relay.receive(now, SENDER, &key(2, [0, 1_600, 1_700]));
    assert!(matches!(stretched, Err(PoseDropped::Impossible(PoseRefusal::OutOfReach { found_mm: 1_700, .. }))));
    let thrown = relay.receive(now, SENDER, &key(2, [0, 1_200, 800]));
    assert!(matches!(thrown, Err(PoseDropped::Impossible(PoseRefusal::TooFast { found_mm: 800, .. }))), "{thrown:?}");
    assert!(matches!(relay.receive(now, SENDER, &[0xff; 200]), Err(PoseDropped::Unreadable(PoseError::Malformed(_)))));
    assert_eq!(relay.newest(SENDER).unwrap().part(Part::LeftHand).unwrap().position, hand);
    // 30 at once, 60 a second after that.
    let mut slots = 2..;
    let mut burst = |now| {
        let slots = slots.by_ref().take(100);
        slots.filter(|slot| relay.receive(now, SENDER, &key(*slot, hand)) != Err(PoseDropped::TooFrequent)).count()
    };
    assert_eq!((burst(now), burst(now + Duration::from_millis(250))), (25, 15));
    relay.set_places(now, [places[1]]);
    assert_eq!(relay.receive(now, SENDER, &key(400, hand)), Err(PoseDropped::NotPlaced));
    assert_eq!(relay.newest(SENDER), None);
}

#[test]
fn an_audience_is_bounded_and_takes_the_nearest() {
    let mut relay = PoseRelay::new(PoseRelayConfig::default());
    let viewers = (0..2_000).map(|n| (viewer(n), Position::new(10 + n as i32, 0, 0)));
    relay.set_places(Duration::ZERO, viewers.chain([(SENDER, Position::default())]));
    let bytes = PoseEncoder::default().encode(1, &Motion::new(1, None).pose(0.0).unwrap()).unwrap();
    assert_eq!(relay.receive(Duration::ZERO, SENDER, &bytes), Ok(AUDIENCE_MAX));
    let datagrams = relay.take_datagrams();
    assert_eq!(datagrams.len(), AUDIENCE_MAX);
    assert!(datagrams.iter().all(|(to, _)| *to < viewer(AUDIENCE_MAX as u64)));
    assert_eq!(relay.take_datagrams(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is lost on the way to the shard and whatever the budget drops: what a viewer gets, it can read, and a viewer gets
    /// no more than the budget.
    #[test]
    fn viewers_can_read_all_they_get(seed: u64, loss in 0u64..30, budget in 500u32..20_000) {
        let senders: Vec<_> = (0..6).map(|n| (EntityId(SENDER.0 + 100 + n), 3_000 * n as i32)).collect();
        let config = PoseRelayConfig { viewer_bytes_per_s: budget, ..PoseRelayConfig::default() };
        let mut scene = Scene::new(config, &senders, &[(viewer(0), 0), (viewer(1), 30_000)]);
        for slot in 0..300u32 {
            let lost = |id: EntityId| {
                let mixed = (seed ^ id.0 << 20 ^ u64::from(slot)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (mixed >> 32) % 100 < loss
            };
            scene.slot(slot, lost);
        }
        prop_assert_eq!(scene.unreadable, 0);
        for bytes in scene.bytes.values() {
            prop_assert!(*bytes <= (5 * budget + budget / BUCKET_PARTS) as usize + 600, "{} bytes", bytes);
        }
    }

    #[test]
    fn random_bytes_are_dropped_or_taken(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..60)) {
        let mut relay = PoseRelay::new(PoseRelayConfig::default());
        relay.set_places(Duration::ZERO, [(SENDER, Position::default()), (viewer(0), Position::default())]);
        for bytes in &datagrams {
            let _ = relay.receive(Duration::ZERO, SENDER, bytes);
        }
        relay.take_datagrams();
    }
}
