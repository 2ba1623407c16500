//! The output gate: what a player is told about something of value waits here until the frame that did it is durable.
//!
//! Invariant: an entry leaves the gate only when its frame is durable, in the order in which it came.

use std::collections::VecDeque;

/// Entries of type `T`, waiting for their frames.
#[derive(Debug)]
pub struct OutputGate<T> {
    waiting: VecDeque<(u64, T)>,
    durable: u64,
}

impl<T> Default for OutputGate<T> {
    fn default() -> Self {
        OutputGate { waiting: VecDeque::new(), durable: 0 }
    }
}

impl<T> OutputGate<T> {
    /// Holds `entry` until `frame` is durable. Frames must not go backwards.
    pub fn hold(&mut self, frame: u64, entry: T) {
        debug_assert!(self.waiting.back().is_none_or(|(last, _)| *last <= frame), "frames go forwards");
        self.waiting.push_back((frame, entry));
    }

    /// All frames up to `frame` are durable now.
    pub fn durable(&mut self, frame: u64) {
        self.durable = self.durable.max(frame);
    }

    /// The next entry that may go out.
    pub fn release(&mut self) -> Option<(u64, T)> {
        self.waiting.pop_front_if(|(frame, _)| *frame <= self.durable)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_before_its_frame_is_durable() {
        let mut gate = OutputGate::default();
        for (frame, entry) in [(1, "a"), (2, "b"), (2, "c"), (5, "d")] {
            gate.hold(frame, entry);
        }
        assert_eq!(gate.release(), None);
        gate.durable(2);
        let released: Vec<_> = std::iter::from_fn(|| gate.release()).collect();
        assert_eq!(released, [(1, "a"), (2, "b"), (2, "c")]);
        gate.durable(1);
        assert_eq!((gate.release(), gate.len()), (None, 1));
        gate.durable(9);
        assert_eq!(gate.release(), Some((5, "d")));
    }
}
