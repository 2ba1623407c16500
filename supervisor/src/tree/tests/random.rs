//! Random commands, all decided by a seed.

use crate::tree::command::{Check, Command, Operation, Put, Target, Transaction};
use crate::tree::condition::{Compare, Condition, Payload};
use crate::tree::path::{NodePath, Pattern};

/// `VSEKAI_TREE_SEED` replays the run of one seed; otherwise these are run, and one that nobody has seen.
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("VSEKAI_TREE_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => {
            let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            (0..count).chain([since_epoch.as_nanos() as u64]).collect()
        }
    }
}

/// Runs `body` for each seed, and says which one it was when that panics.
pub fn for_seeds(count: u64, body: impl Fn(&mut Random)) {
    for seed in seeds(count) {
        let shown = Shown(seed);
        body(&mut Random(seed));
        std::mem::forget(shown);
    }
}

struct Shown(u64);

impl Drop for Shown {
    fn drop(&mut self) {
        eprintln!("replay this with VSEKAI_TREE_SEED={}", self.0);
    }
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    pub fn pick<'t>(&mut self, from: &[&'t str]) -> &'t str {
        from[self.below(from.len() as u64) as usize]
    }

    pub fn path(&mut self) -> NodePath {
        // `a-` lies between `a` and what is below it, in the order of the text.
        let depth = self.below(4);
        let text: String = (0..depth).map(|_| format!("/{}", self.pick(&["a", "a-", "b", "ä"]))).collect();
        if text.is_empty() { NodePath::root() } else { text.parse().unwrap() }
    }

    pub fn pattern(&mut self) -> Pattern {
        let depth = self.below(5);
        let text: String = (0..depth).map(|_| format!("/{}", self.pick(&["a", "a-", "b", "*", "**", "**"]))).collect();
        if text.is_empty() { "/".parse().unwrap() } else { text.parse().unwrap() }
    }

    fn payload(&mut self) -> Option<Payload> {
        match self.below(5) {
            0 => None,
            1 => Some(Payload::from(&[0xff, 0, 0x80][..])),
            _ => Some(Payload::from(self.pick(&["", "x", "long \"and\" strange \u{7}", "ü"]))),
        }
    }

    fn compare(&mut self) -> Compare {
        let number = self.below(4);
        match self.below(6) {
            0 => Compare::Eq(number),
            1 => Compare::Ne(number),
            2 => Compare::Lt(number),
            3 => Compare::Le(number),
            4 => Compare::Gt(number),
            _ => Compare::Ge(number),
        }
    }

    fn condition(&mut self, depth: u64) -> Condition {
        let combined = depth > 0;
        match self.below(if combined { 13 } else { 7 }) {
            0 | 1 => Condition::Exists(!self.one_in(3)),
            2 => Condition::HasPayload(!self.one_in(3)),
            3 => Condition::PayloadVersion(self.compare()),
            4 => Condition::ChildListLength(self.compare()),
            5 => Condition::ChildListVersion(self.compare()),
            6 => match self.payload() {
                Some(payload) => Condition::PayloadIs(payload),
                None => Condition::Created(self.compare()),
            },
            7 => Condition::All((0..self.below(3)).map(|_| self.condition(depth - 1)).collect()),
            8 => Condition::Any((0..self.below(3)).map(|_| self.condition(depth - 1)).collect()),
            9 => Condition::Not(Box::new(self.condition(depth - 1))),
            _ => Condition::At(self.path(), Box::new(self.condition(depth - 1))),
        }
    }

    /// Mostly one that makes chains.
    fn keep_while(&mut self) -> Condition {
        match self.below(3) {
            0 => self.condition(3),
            _ => Condition::At(self.path(), Box::new(Condition::Exists(true))),
        }
    }

    fn put(&mut self, sessions: &[u64]) -> Put {
        let session = sessions.get(self.below(sessions.len() as u64 * 4 + 4) as usize).copied();
        Put {
            path: self.path(),
            payload: self.payload(),
            condition: self.one_in(6).then(|| self.condition(2)),
            keep_while: self.one_in(3).then(|| self.keep_while()),
            session: if self.one_in(40) { Some(7_777_777) } else { session },
            ttl_ms: self.one_in(8).then(|| 10 + self.below(200)),
        }
    }

    fn operation(&mut self, sessions: &[u64]) -> Operation {
        match self.below(12) {
            0 => Operation::Create(self.put(sessions)),
            1 => Operation::Update(self.put(sessions)),
            2 => Operation::CompareAndSwap { payload_version: 1 + self.below(3), put: self.put(sessions) },
            3 | 4 => {
                Operation::Delete(Target { path: self.path(), condition: self.one_in(4).then(|| self.condition(2)) })
            }
            5 => Operation::Get(Target { path: self.path(), condition: None }),
            _ => Operation::Put(self.put(sessions)),
        }
    }

    pub fn command(&mut self, sessions: &[u64]) -> Command {
        let known = sessions.get(self.below(sessions.len() as u64 + 1) as usize).copied().unwrap_or(3);
        match self.below(20) {
            0 => Command::OpenSession { ttl_ms: 20 + self.below(300) },
            1 => Command::RenewSession { session: known },
            2 => Command::CloseSession { session: known },
            3 | 4 => Command::Expire,
            5 if self.one_in(4) => Command::RenewAllSessions,
            _ => {
                let checks = if self.one_in(5) {
                    vec![Check { path: self.path(), condition: self.condition(2) }]
                } else {
                    Vec::new()
                };
                let operations = (0..1 + self.below(3)).map(|_| self.operation(sessions)).collect();
                Command::Transaction(Transaction { checks, operations })
            }
        }
    }
}
