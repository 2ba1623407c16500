//! The long proofs, each with a short form that CI runs. `cargo xtask prove NAME [--short]`.

pub mod determinism;
pub mod kill;

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
        name: "determinism",
        shows: "the same seed and inputs give the same state hashes; one changed input changes them",
        run: determinism::run,
    },
];

/// The seed of a proof: `VSEKAI_SEED` if set, to replay a failure, else `usual`.
pub fn seed(usual: u64) -> u64 {
    std::env::var("VSEKAI_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
