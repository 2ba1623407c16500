//! Ticks the world as long as there is room for its frames, and hands them to storage.
//!
//! When the journal's disk is nearly full, or too much waits for the store, the world stands still: no frame is made that
//! could not be kept. It goes on by itself once there is room. Nobody waits here: network and HTTP are answered meanwhile.

use anyhow::{Context, Result};
use std::time::Instant;
use vsekai_sim::Simulation;
use vsekai_sim::port::TickOutput;
use vsekai_storage::{Error as StorageError, Storage};

/// The storage, and whether the world moves.
pub struct Keeper {
    /// Where frames go.
    pub storage: Storage,
    /// A frame that was made, and for which there was no room then.
    waiting: Option<TickOutput>,
    standing: Option<Standing>,
}

struct Standing {
    reason: String,
    since: Instant,
}

impl Keeper {
    /// The world moves.
    pub fn new(storage: Storage) -> Self {
        Keeper { storage, waiting: None, standing: None }
    }

    /// Why the world stands still, if it does.
    pub fn standing(&self) -> Option<&str> {
        self.standing.as_ref().map(|standing| standing.reason.as_str())
    }

    /// The last frame of `simulation` that storage took.
    pub fn kept_frame(&self, simulation: &Simulation) -> u64 {
        simulation.frame() - u64::from(self.waiting.is_some())
    }

    /// Makes the next frame and hands it over; `feed` gives the simulation its inputs before. `None`: the world stands still,
    /// and nothing may be told of a frame.
    ///
    /// # Errors
    /// When storage has failed for good.
    pub fn tick(
        &mut self,
        simulation: &mut Simulation,
        feed: impl FnOnce(&mut Simulation),
    ) -> Result<Option<TickOutput>> {
        let output = match self.waiting.take() {
            Some(waiting) => waiting,
            None => {
                if let Err(error) = self.storage.check_room() {
                    return self.stand(error).map(|()| None);
                }
                feed(simulation);
                simulation.tick()
            }
        };
        match self.storage.append(output.frame, output.record.clone()) {
            Ok(()) => {
                self.go_on(output.frame);
                Ok(Some(output))
            }
            Err(error) => {
                let frame = output.frame;
                self.waiting = Some(output);
                self.stand(error).with_context(|| format!("frame {frame} cannot be kept")).map(|()| None)
            }
        }
    }

    /// The frame that there was no room for is given up; nobody was told of it.
    pub fn give_up(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            tracing::warn!(frame = waiting.frame, "there was no room for the last frame: it is given up");
        }
    }

    fn stand(&mut self, error: StorageError) -> Result<()> {
        if !matches!(error, StorageError::Backlogged { .. } | StorageError::DiskNearlyFull { .. }) {
            return Err(error.into());
        }
        let reason = error.to_string();
        match &mut self.standing {
            Some(standing) => standing.reason = reason,
            None => {
                tracing::warn!(reason, "the world stands still");
                self.standing = Some(Standing { reason, since: Instant::now() });
            }
        }
        Ok(())
    }

    fn go_on(&mut self, frame: u64) {
        if let Some(standing) = self.standing.take() {
            tracing::warn!(frame, stood_s = standing.since.elapsed().as_secs_f64(), "the world goes on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;
    use vsekai_schema::content::ContentFiles;
    use vsekai_schema::id::{EntityId, PlayerKey};
    use vsekai_schema::wire::{Input, PlayerInput};
    use vsekai_sim::SimConfig;
    use vsekai_storage::disk::{Disk, RealDisk};
    use vsekai_storage::kv::Database;
    use vsekai_storage::{Config, Event, NewWorld, Opened};

    struct Scene {
        keeper: Keeper,
        simulation: Simulation,
        database: Database,
        durable: Arc<AtomicU64>,
        _folder: tempfile::TempDir,
    }

    fn scene(change: impl FnOnce(&mut Config)) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config { flush_interval_ms: 1, ..Config::new("mem:", folder.path()) };
        change(&mut config);
        let content = ContentFiles::parse(vsekai_sim::SHIPPED_CONTENT).unwrap();
        let mut simulation = Simulation::create(&SimConfig { half_m: 32, ..SimConfig::default() }, &content);
        let durable = Arc::new(AtomicU64::new(0));
        let told = durable.clone();
        let sink = Arc::new(move |event| {
            if let Event::Durable { frame } = event {
                told.store(frame, Ordering::Release);
            }
        });
        let database = Database::open("mem:").unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let Opened { storage, .. } = Storage::open_on(database.clone(), config, &disk, sink).unwrap();
        let payloads = simulation.payloads();
        let world = NewWorld {
            frame: payloads.frame,
            state_hash: payloads.state_hash,
            chunks: payloads.chunks,
            alone: payloads.alone,
            ids_used_to: payloads.ids_used_to,
        };
        assert!(simulation.grant_ids(storage.create(world).unwrap()));
        Scene { keeper: Keeper::new(storage), simulation, database, durable, _folder: folder }
    }

    impl Scene {
        /// A tick in which a new player enters, so that its frame has some bytes.
        fn tick(&mut self) -> Option<TickOutput> {
            let key = PlayerKey([self.simulation.frame() as u8; 16]);
            let name = "somebody".to_string();
            let join = PlayerInput { player: EntityId::WORLD, input: Input::Join { key, name } };
            self.keeper.tick(&mut self.simulation, |simulation| simulation.submit(join).unwrap()).unwrap()
        }

        fn tick_until(&mut self, what: &str, wanted: impl Fn(&Option<TickOutput>) -> bool) -> Option<TickOutput> {
            let began = Instant::now();
            loop {
                let output = self.tick();
                if wanted(&output) {
                    return output;
                }
                assert!(began.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_world_whose_store_hangs_stands_still_and_goes_on_with_the_very_next_frame() {
        let mut scene = scene(|config| config.backlog_bytes_max = 8 << 10);
        scene.database.hold_commits(true);
        scene.tick_until("the backlog to fill", Option::is_none);
        let (frame, state_hash) = (scene.simulation.frame(), scene.simulation.state_hash());
        assert!(frame > 3, "it stands still at once");
        let reason = scene.keeper.standing().unwrap().to_string();
        assert!(reason.contains("bytes of frames wait for the store, at most 8192 may"), "{reason}");
        for _ in 0..100 {
            assert!(scene.tick().is_none());
        }
        assert_eq!((scene.simulation.frame(), scene.simulation.state_hash()), (frame, state_hash), "it moved");
        let kept = scene.keeper.kept_frame(&scene.simulation);
        assert!(kept == frame || kept + 1 == frame);
        scene.database.hold_commits(false);
        let output = scene.tick_until("room", Option::is_some).unwrap();
        assert_eq!(output.frame, kept + 1, "a frame is left out or doubled");
        assert_eq!(scene.keeper.standing(), None);
        scene.keeper.storage.close().unwrap();
        assert_eq!(scene.durable.load(Ordering::Acquire), output.frame);
    }

    #[test]
    fn a_disk_with_too_little_room_stops_the_world_before_its_next_frame() {
        // More than any disk has.
        let mut scene = scene(|config| config.min_free_bytes = u64::MAX - 1);
        for _ in 0..10 {
            assert!(scene.tick().is_none());
        }
        assert_eq!(scene.simulation.frame(), 0);
        let reason = scene.keeper.standing().unwrap();
        assert!(reason.starts_with("the disk of the journal has ") && reason.ends_with("the world waits"), "{reason}");
        scene.keeper.give_up();
        assert_eq!(scene.keeper.kept_frame(&scene.simulation), 0);
    }

    #[test]
    fn any_other_failure_ends_the_shard() {
        let mut scene = scene(|_| {});
        scene.simulation.tick();
        let error = scene.keeper.tick(&mut scene.simulation, |_| {}).unwrap_err();
        assert!(format!("{error:#}").contains("frame 2 cannot be kept: frame 2 was appended, 1 is next"), "{error:#}");
    }
}
