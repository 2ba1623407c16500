//! Micro-benchmarks of what every tick does. `cargo bench -p vsekai-bench`.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use vsekai_bench::bot::Style;
use vsekai_bench::loopback::LoopbackShard;
use vsekai_bench::world;
use vsekai_net::loopback::Faults;
use vsekai_net::pose_relay::{PoseRelay, PoseRelayConfig};
use vsekai_schema::id::EntityId;
use vsekai_schema::record::FrameReader;
use vsekai_schema::units::Position;
use vsekai_schema::wire::pose::motion::Motion;
use vsekai_schema::wire::pose::{BodyPose, PoseDecoder, PoseEncoder};
use vsekai_sim::terrain::Terrain;

fn benches(criterion: &mut Criterion) {
    let terrain = Terrain::new(7);
    let mut x = 0;
    criterion.bench_function("terrain height", |bencher| {
        bencher.iter(|| {
            x += 137;
            terrain.height(black_box(x), black_box(-x))
        });
    });

    let mut idle = world::large(100_000, 60, 1, true);
    criterion.bench_function("tick, 100,000 entities, nobody there", |bencher| bencher.iter(|| idle.tick()));

    let mut shard = LoopbackShard::new(world::large(100_000, 60, 1, true), 100, 1, Style::Mixed, Faults::default());
    for _ in 0..300 {
        shard.tick();
    }
    criterion.bench_function("tick with network and bots, 100,000 entities, 100 players", |bencher| {
        bencher.iter(|| shard.tick());
    });

    let record = shard.simulation.tick().record;
    criterion.bench_function("decode a frame record", |bencher| {
        bencher.iter(|| {
            let mut reader = FrameReader::new(black_box(&record)).expect("a frame that was just made");
            let mut changes = 0;
            while let Some(change) = reader.next_change().expect("a frame that was just made") {
                changes += change.components.map_or(0, |components| components.len());
            }
            changes
        });
    });

    let mut source = world::large(10_000, 60, 1, true);
    let payloads = source.payloads();
    criterion.bench_function("restore 10,000 entities", |bencher| {
        bencher.iter_batched(
            || (),
            |()| {
                let lists = payloads.chunks.iter().map(|(_, list)| &list[..]);
                let lists = lists.chain(payloads.alone.iter().map(|(_, list)| &list[..]));
                let ids = vsekai_schema::record::IdBlock { next: 1 << 40, end: 1 << 41 };
                let config = vsekai_sim::SimConfig::default();
                let (frame, hash) = (payloads.frame, payloads.state_hash);
                vsekai_sim::Simulation::restore(&config, &world::content(), frame, hash, ids, lists)
                    .expect("a world that was just encoded")
            },
            BatchSize::LargeInput,
        );
    });
}

/// Head and hands: what a sender, a receiver and the shard do for one pose.
fn poses(criterion: &mut Criterion) {
    let motion = Motion::new(1, None);
    let poses: Vec<BodyPose> = (0..1u32 << 16).filter_map(|slot| motion.pose(f64::from(slot) / 60.0)).collect();
    let mut encoder = PoseEncoder::default();
    let packets: Vec<Vec<u8>> =
        (0u16..).zip(&poses).filter_map(|(slot, pose)| encoder.encode(slot, pose).ok()).collect();
    assert_eq!(packets.len(), 1 << 16, "every slot has its pose");

    let (mut encoder, mut slot) = (PoseEncoder::default(), 0u16);
    criterion.bench_function("encode a pose", |bencher| {
        bencher.iter(|| {
            slot = slot.wrapping_add(1);
            encoder.encode(slot, black_box(&poses[usize::from(slot)])).expect("slots grow")
        });
    });
    let (mut decoder, mut slot) = (PoseDecoder::default(), 0u16.wrapping_sub(1));
    criterion.bench_function("decode a pose", |bencher| {
        bencher.iter(|| {
            slot = slot.wrapping_add(1);
            decoder.decode(Duration::ZERO, black_box(&packets[usize::from(slot)])).expect("none was lost")
        });
    });
    for viewers in [8u64, 64, 512] {
        let mut relay = PoseRelay::new(PoseRelayConfig { viewer_bytes_per_s: 1_000_000, ..PoseRelayConfig::default() });
        let places: Vec<_> = (0..=viewers).map(|n| (EntityId(n + 1), Position::new(n as i32 * 15, 0, 0))).collect();
        relay.set_places(Duration::ZERO, places.iter().copied());
        let mut count = 0u64;
        criterion.bench_function(&format!("relay a pose to {viewers} viewers at full rate"), |bencher| {
            bencher.iter(|| {
                let now = Duration::from_secs(1 + count) / 60;
                let _ = relay.receive(now, EntityId(1), &packets[count as usize % packets.len()]);
                count += 1;
                relay.take_datagrams().len()
            });
        });
    }
}

criterion_group!(all, benches, poses);
criterion_main!(all);
