//! The long proofs, each with a short form that CI runs. `cargo xtask prove NAME [--short]`.

pub mod commands;
pub mod connect;
pub mod determinism;
pub mod disk_faults;
pub mod fencing;
pub mod hostile_clients;
pub mod hostile_updates;
pub mod interop;
pub mod kill;
pub mod planted;
pub mod readopt;
pub mod resume;
pub mod shard_crash;
pub mod store_model;
pub mod store_outage;
pub mod supervise;
pub mod update_crash;

/// A proof by name: what it shows, and how to run it. The text it returns are its figures.
#[derive(Debug, Clone, Copy)]
pub struct Proof {
    /// What `prove` is given.
    pub name: &'static str,
    /// What it shows, in one line.
    pub shows: &'static str,
    /// Runs it, in short form when asked to.
    pub run: fn(short: bool) -> anyhow::Result<String>,
}

/// All proofs.
pub const PROOFS: &[Proof] = &[
    Proof {
        name: "kill",
        shows: "kill -9 of a shard under building bots loses nothing acknowledged and doubles nothing",
        run: kill::run,
    },
    Proof {
        name: "resume",
        shows: "connections that break under building bots are resumed: no command lost or doubled, nobody left behind",
        run: resume::run,
    },
    Proof {
        name: "connect",
        shows: "our client, matchbox_socket and Chromium connect at 2 % loss and 25 ms each way, through a relay that nothing passes by",
        run: connect::run,
    },
    Proof {
        name: "hostile-clients",
        shows: "attacks on every layer cost ordinary players nothing, and the shard neither memory nor an answer to strangers",
        run: hostile_clients::run,
    },
    Proof {
        name: "hostile-updates",
        shows: "every attack of a hostile update server is refused by name; what is installed stays, nothing is written beside it",
        run: hostile_updates::run,
    },
    Proof {
        name: "determinism",
        shows: "the same seed and inputs give the same state hashes; one changed input changes them",
        run: determinism::run,
    },
    Proof {
        name: "disk-faults",
        shows: "a power cut at any disk operation, and any rotten byte or sector, loses nothing acknowledged in silence",
        run: disk_faults::run,
    },
    Proof {
        name: "planted-bugs",
        shows: "bugs planted into the storage are each found by a named test",
        run: planted::run,
    },
    Proof {
        name: "fencing",
        shows: "a shard that hung while another took over can neither write nor acknowledge any more",
        run: fencing::run,
    },
    Proof {
        name: "store-model",
        shows: "random concurrent transactions are strictly serialisable on every store, with faults and without",
        run: store_model::run,
    },
    Proof {
        name: "shard-crash",
        shows: "a supervised shard that is killed under building bots ticks again at once: nothing lost, nothing doubled",
        run: shard_crash::run,
    },
    Proof {
        name: "store-outage",
        shows: "a supervised shard outlives its store's outage and a nearly full disk: the game goes on, or stands still and says why",
        run: store_outage::run,
    },
    Proof {
        name: "interop",
        shows: "files and trees pass between our program and the real casync and desync, every way there is, byte for byte",
        run: interop::run,
    },
    Proof {
        name: "supervise",
        shows: "children that crash, hang, fork away and flood their logs are seen at once, cleared to the last process, and cost nothing",
        run: supervise::run,
    },
    Proof {
        name: "readopt",
        shows: "kill -9 of the supervisor touches no child: same process, no line lost, found again within a second",
        run: readopt::run,
    },
    Proof {
        name: "update-crash",
        shows: "kill -9 at any moment of an update, rollback or repair leaves a whole version that starts, and going on finishes",
        run: update_crash::run,
    },
    Proof {
        name: "commands",
        shows: "every line of the design document's command list does what it says",
        run: commands::run,
    },
];

/// The seed of a proof: `VSEKAI_SEED` if set, to replay a failure, else `usual`.
pub fn seed(usual: u64) -> u64 {
    std::env::var("VSEKAI_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
