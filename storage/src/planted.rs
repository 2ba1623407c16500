//! Bugs that can be planted on purpose, in test builds only, to prove that the tests would find them. In every other build
//! [`is_planted`] is `false` and costs nothing.
//!
//! `VSEKAI_PLANT=<name>` plants one for the whole test process; `prove planted-bugs` runs the test that must find it.

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident = $name:literal, $test:literal;)*) => {
        /// What can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Bug {
            $($(#[$doc])* $bug,)*
        }

        #[cfg(test)]
        impl Bug {
            /// All of them: name, and the test that finds it.
            pub(crate) const ALL: &[(Bug, &str, &str)] = &[$((Bug::$bug, $name, $test),)*];
        }
    };
}

bugs! {
    /// The journal's sync is left out.
    JournalSyncSkipped = "journal-sync-skipped", "proof::crash::tests::nothing_reported_is_lost_whenever_the_power_fails";
    /// Frames are acknowledged before they are synced.
    AcknowledgedBeforeSync = "acknowledged-before-sync", "proof::crash::tests::nothing_reported_is_lost_whenever_the_power_fails";
    /// A write does not look at the fence.
    FenceSkipped = "fence-skipped", "register::tests::fence";
    /// The fence is read without a conflict.
    FenceReadUntracked = "fence-read-untracked", "register::tests::fence";
    /// After an unknown result the transaction runs again without a look at its commit id.
    UnknownRetriedBlindly = "unknown-retried-blindly", "register::tests::unknown";
    /// The cursor is written before the homes.
    CursorBeforeHomes = "cursor-before-homes", "proof::crash::tests::nothing_reported_is_lost_whenever_the_power_fails";
    /// Lone entities (players) and chunks are written in two transactions.
    ChunksApart = "chunks-apart", "proof::crash::tests::nothing_reported_is_lost_whenever_the_power_fails";
    /// Old parts are collected before the flip.
    CollectedBeforeFlip = "collected-before-flip", "proof::crash::tests::nothing_reported_is_lost_whenever_the_power_fails";
    /// A large flush reuses the generation that is being read.
    GenerationReused = "generation-reused", "proof::crash::tests::nothing_reported_is_lost_whenever_the_power_fails";
    /// The cursor says one frame more than what was folded.
    CursorAhead = "cursor-ahead", "proof::crash::tests::nothing_reported_is_lost_whenever_the_power_fails";
    /// The last of several frames is not folded, but the cursor counts it.
    FrameSkipped = "frame-skipped", "proof::crash::tests::nothing_reported_is_lost_whenever_the_power_fails";
    /// Journal segments are removed before the store has their frames.
    SegmentsRemovedEarly = "segments-removed-early", "proof::crash::tests::nothing_reported_is_lost_whenever_the_power_fails";
    /// A seized journal is still acknowledged.
    SeizureIgnored = "seizure-ignored", "storage::tests::a_shard_whose_journal_was_seized_acknowledges_nothing_more";
    /// Ids are handed out before their reservation is durable.
    IdsGrantedEarly = "ids-granted-early", "proof::crash::tests::nothing_reported_is_lost_whenever_the_power_fails";
}

/// True when `bug` is planted.
#[cfg(test)]
pub(crate) fn is_planted(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let planted = PLANTED.get_or_init(|| {
        let name = std::env::var("VSEKAI_PLANT").ok()?;
        let found = Bug::ALL.iter().find(|(_, known, _)| *known == name);
        Some(found.unwrap_or_else(|| panic!("no bug is called {name}")).0)
    });
    *planted == Some(bug)
}

/// Never, in this build.
#[cfg(not(test))]
pub(crate) const fn is_planted(_bug: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For `prove planted-bugs`: which bugs there are, and which test finds each.
    #[test]
    fn list() {
        for (_, name, test) in Bug::ALL {
            println!("bug {name} {test}");
        }
        assert!(Bug::ALL.len() >= 10);
    }
}
