//! Micro-benchmarks of what every tick does. `cargo bench -p vsekai-bench`.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use vsekai_bench::bot::Style;
use vsekai_bench::loopback::LoopbackShard;
use vsekai_bench::world;
use vsekai_net::loopback::Faults;
use vsekai_schema::record::FrameReader;
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

criterion_group!(all, benches);
criterion_main!(all);
