//! What a supervisor does about all its children, as a pure state machine: events and time in, actions out.
//!
//! Each child has a *phase*, which is what is known of its processes, and a *goal*, which is what is wanted of it. Every event
//! changes one or the other; then [`Fleet::settle`] says what follows, for all children alike:
//!
//! ```text
//!        Start        ready              Stop, Abort
//!  Idle ──────▶ Starting ──▶ Running ──────────────────▶ Stopping ──ended──▶ Clearing ──gone──▶ Idle
//!                   │            │└─drain─▶ Draining ──time──▲  │                 ▲
//!                   └────────────┴─────────────┴──ended─────────┼─────────────────┘
//!                                                               └─grace over: Kill
//! ```
//!
//! Those who are started together make a batch: each begins when the one before it is ready, or has failed for the first time.
//! Those who are stopped together make one, too, in reverse. Restart intensity is Erlang/OTP's; it is counted for each child of
//! a one-for-one group, and for the group as a whole otherwise.
//!
//! Invariants, tested with arbitrary events: no child ever has two processes, and none is started before everybody of its
//! former run is gone; no window holds more restarts than allowed; a stop comes to its end; nothing follows [`Action::Finish`].

mod cause;
#[cfg(test)]
mod tests;

pub use cause::{Cause, Illness, Why};

use crate::link::Ending;
use crate::policy::{Jitter, backoff};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Whoever has not ended is killed again this often.
const KILL_INTERVAL: Duration = Duration::from_secs(1);

/// Which ends are failures to restart from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Restart {
    /// Each end is.
    Permanent,
    /// Each but exit code 0.
    Transient,
    /// None is.
    Temporary,
}

/// Who else is restarted with a child that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Nobody.
    OneForOne,
    /// All that come after it in its group.
    RestForOne,
    /// All of its group.
    OneForAll,
}

/// What holds for a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildRules {
    /// Which group it belongs to, an index.
    pub group: usize,
    /// Which ends are failures.
    pub restart: Restart,
    /// Time between stop and kill.
    pub grace: Duration,
    /// How long it may take to become ready.
    pub start_timeout: Duration,
    /// Time between abort and kill.
    pub abort_timeout: Duration,
    /// How long it may take to end by itself when drained.
    pub drain_timeout: Duration,
}

/// What holds for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRules {
    /// Who is restarted with whom.
    pub strategy: Strategy,
    /// Most restarts in any window; the failure after that is quarantined.
    pub restarts_max: u32,
    /// Length of that window. A child that ran this long has proved itself: its backoff begins anew.
    pub window: Duration,
}

/// What happened. Children are meant by their index, which is their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Before [`Event::Begin`]: this child runs already, and is ready or not.
    Adopted(usize, bool),
    /// Before [`Event::Begin`]: this child is to stay down.
    KeptDown(usize, Why),
    /// Start those that are to run.
    Begin,
    /// The child serves.
    Ready(usize),
    /// The child's process has ended, or there never was one.
    Ended(usize, Ending),
    /// After that, nobody of it is left.
    Gone(usize),
    /// What the child's last run left is being brought into the database until then at the longest (`Some`), or no more (`None`): it
    /// is not started in between. Before [`Event::Gone`] of that run, or [`Event::Begin`].
    Journal(usize, Option<Duration>),
    /// The child asks for time to become ready, until then.
    MoreTime(usize, Duration),
    /// The child is not well.
    Unwell(usize, Illness),
    /// Somebody asks to start the child: also one in quarantine, and at once if it was waiting.
    Start(usize),
    /// Somebody asks to stop the child.
    Stop(usize),
    /// Somebody asks to stop and start the child.
    Restart(usize),
    /// Somebody asks to let the child finish by itself, and then this.
    Drain(usize, AfterDrain),
    /// Somebody ends the maintenance of a child.
    Release(usize),
    /// Stop everybody and finish.
    StopAll,
    /// Time has passed; too early or too often does no harm.
    TimePassed,
}

/// What becomes of a drained child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterDrain {
    /// It stays down.
    Stop,
    /// It is started again.
    Start,
    /// It is held for maintenance.
    Hold,
}

/// What to do, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the child; its end is reported, and that everybody of it is gone.
    Start(usize),
    /// Ask the child to end, with SIGTERM to its process group.
    Stop(usize),
    /// End the child with SIGABRT, so that it leaves a trace of where it hung.
    Abort(usize),
    /// Kill everybody of the child.
    Kill(usize),
    /// Ask the child to finish by itself.
    Drain(usize),
    /// Tell people: a child failed; it is started again after this long, if at all.
    Failed {
        /// Which.
        child: usize,
        /// Why.
        cause: Cause,
        /// `None`: not again.
        delay: Option<Duration>,
    },
    /// Tell people: a child failed too often.
    Quarantined(usize, Why),
    /// Everybody is gone; nothing follows.
    Finish,
}

/// What is known of a child's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// There are none.
    Idle,
    /// Started, not ready.
    Starting {
        /// Since when.
        since: Duration,
    },
    /// Ready.
    Running {
        /// When it was started.
        since: Duration,
    },
    /// Told to finish by itself.
    Draining {
        /// As long as it may take.
        until: Duration,
    },
    /// Told to end.
    Stopping {
        /// When it is killed.
        kill_at: Duration,
        /// When it was started.
        since: Duration,
        /// Why, if not because somebody asked.
        illness: Option<Illness>,
    },
    /// Its process has ended; others of it may still be there.
    Clearing {
        /// When those are killed.
        kill_at: Duration,
    },
}

/// One child as it stands.
#[derive(Debug, Clone)]
pub struct Member {
    rules: ChildRules,
    /// What is known of its processes.
    pub phase: Phase,
    /// `None`: it is to run. Else why not.
    pub down: Option<Why>,
    /// It has to end before it may run on.
    again: bool,
    /// Who it is started or stopped together with.
    batch: u64,
    /// The others of its batch wait for it to be ready, or to fail.
    awaited: bool,
    /// Its next start counts as a restart.
    counted: bool,
    /// It may take until then to become ready, whatever its rules say.
    ready_until: Duration,
    /// It is not started before.
    pub not_before: Duration,
    /// Its journal is being brought into the database: it is not started before that is over, or this time has come.
    pub held_until: Option<Duration>,
    /// The newest failure.
    pub last_failure: Option<Cause>,
    /// How often it was started again after a failure.
    pub restarts: u64,
}

impl Member {
    fn alive(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Running { .. } | Phase::Draining { .. })
    }

    fn leaving(&self) -> bool {
        self.phase != Phase::Idle && (self.down.is_some() || self.again)
    }

    /// It is not started before.
    fn starts_at(&self) -> Duration {
        self.not_before.max(self.held_until.unwrap_or_default())
    }

    fn ready_by(&self, since: Duration) -> Duration {
        since.saturating_add(self.rules.start_timeout).max(self.ready_until)
    }

    /// Who is told to go now has no time to finish.
    fn end_drain(&mut self, now: Duration) {
        if let Phase::Draining { until } = &mut self.phase {
            *until = now;
        }
    }

    fn since(&self) -> Option<Duration> {
        match self.phase {
            Phase::Starting { since } | Phase::Running { since } | Phase::Stopping { since, .. } => Some(since),
            Phase::Idle | Phase::Draining { .. } | Phase::Clearing { .. } => None,
        }
    }
}

/// What restarts are counted for: a child or a group.
#[derive(Debug, Clone, Default)]
struct Scope {
    /// When the restarts of the current window were; at most `restarts_max`.
    restarts: VecDeque<Duration>,
    /// Failures since somebody last ran for a whole window.
    streak: u32,
}

/// The state machine.
#[derive(Debug, Clone)]
pub struct Fleet {
    members: Vec<Member>,
    groups: Vec<GroupRules>,
    /// First of the children, then of the groups.
    scopes: Vec<Scope>,
    jitter: Jitter,
    now: Duration,
    batches: u64,
    begun: bool,
    finishing: bool,
    finished: bool,
}

impl Fleet {
    /// All children down, before [`Event::Begin`]. The same seed and events give the same actions.
    pub fn new(children: Vec<ChildRules>, groups: Vec<GroupRules>, seed: u64) -> Fleet {
        let scopes = vec![Scope::default(); children.len() + groups.len()];
        let member = |rules| Member {
            rules,
            phase: Phase::Idle,
            down: None,
            again: false,
            batch: 0,
            awaited: false,
            counted: false,
            ready_until: Duration::ZERO,
            not_before: Duration::ZERO,
            held_until: None,
            last_failure: None,
            restarts: 0,
        };
        Fleet {
            members: children.into_iter().map(member).collect(),
            groups,
            scopes,
            jitter: Jitter::new(seed),
            now: Duration::ZERO,
            batches: 0,
            begun: false,
            finishing: false,
            finished: false,
        }
    }

    /// The children.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Changes what holds for a child; it counts from the next event on. Its group stays.
    pub fn set_rules(&mut self, child: usize, rules: ChildRules) {
        let group = self.members[child].rules.group;
        self.members[child].rules = ChildRules { group, ..rules };
    }

    /// When [`Event::TimePassed`] is wanted at the latest; `None` when only other events matter.
    pub fn wakes_at(&self) -> Option<Duration> {
        let at = self.members.iter().filter_map(|member| match &member.phase {
            Phase::Idle => (member.down.is_none() && member.starts_at() > self.now).then(|| member.starts_at()),
            Phase::Starting { since } => Some(member.ready_by(*since)),
            Phase::Running { .. } => None,
            // When everybody goes, its turn is not a matter of time.
            Phase::Draining { until } => (!self.finishing).then_some(*until),
            Phase::Stopping { kill_at, .. } | Phase::Clearing { kill_at } => Some(*kill_at),
        });
        at.min().filter(|_| self.begun && !self.finished)
    }

    /// Takes what happened at `now` and says what to do. Events that mean nothing as things stand do nothing.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.finished {
            return actions;
        }
        self.now = self.now.max(now);
        self.take(event, &mut actions);
        if self.begun {
            self.watch_time(&mut actions);
            self.settle(&mut actions);
        }
        actions
    }

    fn take(&mut self, event: Event, actions: &mut Vec<Action>) {
        let now = self.now;
        match event {
            Event::Adopted(child, ready) if !self.begun => {
                let since = now;
                self.members[child].phase = if ready { Phase::Running { since } } else { Phase::Starting { since } };
            }
            Event::KeptDown(child, why) if !self.begun => self.members[child].down = Some(why),
            Event::Begin if !self.begun => {
                self.begun = true;
                let all = self.members.iter_mut().filter(|m| m.phase == Phase::Idle && m.down.is_none());
                all.for_each(|member| member.awaited = true);
            }
            Event::Adopted(..) | Event::KeptDown(..) | Event::Begin | Event::TimePassed => {}

            Event::Ready(child) => {
                let member = &mut self.members[child];
                if let Phase::Starting { since } = member.phase {
                    member.phase = Phase::Running { since };
                    member.awaited = false;
                }
            }
            Event::Ended(child, ending) => self.ended(child, ending, actions),
            Event::Gone(child) => {
                let member = &mut self.members[child];
                if let Phase::Clearing { .. } = member.phase {
                    member.phase = Phase::Idle;
                    member.again = false;
                }
            }
            Event::Journal(child, until) => self.members[child].held_until = until,
            Event::MoreTime(child, until) => self.members[child].ready_until = until,
            Event::Unwell(child, illness) => self.unwell(child, illness, actions),

            // Whoever is asked for something while everybody is stopped gets it from the next supervisor.
            Event::Start(_) | Event::Restart(_) | Event::Drain(..) | Event::Release(_) if self.finishing => {}
            Event::Start(child) => self.start(child),
            Event::Stop(child) => {
                self.set_down(&[child], &Why::Asked);
                self.members[child].end_drain(now);
            }
            Event::Restart(child) if self.members[child].alive() => {
                let batch = self.next_batch();
                let member = &mut self.members[child];
                member.end_drain(now);
                (member.down, member.again, member.batch, member.awaited) = (None, true, batch, true);
                member.not_before = now;
            }
            Event::Restart(child) => self.start(child),
            Event::Drain(child, after) => self.drain(child, after, actions),
            Event::Release(child) if self.members[child].down == Some(Why::Maintenance) => self.start(child),
            Event::Release(_) => {}
            Event::StopAll => {
                self.finishing = true;
                let all: Vec<usize> = (0..self.members.len()).collect();
                self.set_down(&all, &Why::Shutdown);
            }
        }
    }

    fn next_batch(&mut self) -> u64 {
        self.batches += 1;
        self.batches
    }

    fn set_down(&mut self, children: &[usize], why: &Why) {
        let batch = self.next_batch();
        for &child in children {
            let member = &mut self.members[child];
            (member.down, member.again, member.batch) = (Some(why.clone()), false, batch);
            (member.awaited, member.counted) = (false, false);
        }
    }

    /// By hand: whatever was counted against it is forgiven, and to those who are down on its account.
    fn start(&mut self, child: usize) {
        let batch = self.next_batch();
        let blamed = match &self.members[child].down {
            Some(Why::Quarantined { by, .. }) => Some(*by),
            _ => None,
        };
        let scope = self.scope(child);
        self.scopes[scope] = Scope::default();
        for (index, member) in self.members.iter_mut().enumerate() {
            let same =
                matches!((&member.down, blamed), (Some(Why::Quarantined { by, .. }), Some(blamed)) if *by == blamed);
            if index == child || same {
                // Who is being stopped for another reason ends first, and runs then.
                (member.down, member.batch, member.not_before) = (None, batch, self.now);
                member.counted = false;
                member.awaited = !member.alive();
                member.again |= matches!(member.phase, Phase::Draining { .. });
                // It was asked to end, not found ill.
                if let Phase::Stopping { illness, .. } = &mut member.phase {
                    *illness = None;
                }
            }
        }
    }

    fn drain(&mut self, child: usize, after: AfterDrain, actions: &mut Vec<Action>) {
        let why = match after {
            AfterDrain::Stop => Why::Asked,
            AfterDrain::Hold => Why::Maintenance,
            AfterDrain::Start if matches!(self.members[child].phase, Phase::Draining { .. }) => {
                // It goes on finishing; what follows is another.
                let member = &mut self.members[child];
                (member.down, member.again, member.awaited) = (None, true, true);
                return;
            }
            AfterDrain::Start => {
                self.take(Event::Restart(child), actions);
                self.begin_drain(child, actions);
                return;
            }
        };
        self.set_down(&[child], &why);
        self.begin_drain(child, actions);
    }

    fn begin_drain(&mut self, child: usize, actions: &mut Vec<Action>) {
        let member = &mut self.members[child];
        // Also one that is not ready yet: it may well have something to finish.
        if let Phase::Starting { .. } | Phase::Running { .. } = member.phase {
            member.phase = Phase::Draining { until: self.now.saturating_add(member.rules.drain_timeout) };
            actions.push(Action::Drain(child));
        }
    }

    fn ended(&mut self, child: usize, ending: Ending, actions: &mut Vec<Action>) {
        let now = self.now;
        let member = &mut self.members[child];
        let (since, wanted) = (member.since(), member.down.is_none() && !member.again);
        let (kill_at, asked, illness) = match &mut member.phase {
            Phase::Starting { .. } | Phase::Running { .. } => (now.saturating_add(KILL_INTERVAL), false, None),
            // Whoever outlives its process has what is left of the grace.
            Phase::Stopping { kill_at, illness, .. } => (*kill_at, illness.is_none(), illness.take()),
            Phase::Draining { until } => (*until, true, None),
            Phase::Idle | Phase::Clearing { .. } => return,
        };
        member.phase = Phase::Clearing { kill_at };
        if wanted && !asked {
            let cause = illness.map_or(Cause::Ended(ending), Cause::Unwell);
            self.failed(child, since.unwrap_or(now), cause, actions);
        }
    }

    fn failed(&mut self, child: usize, since: Duration, cause: Cause, actions: &mut Vec<Action>) {
        let now = self.now;
        let member = &mut self.members[child];
        member.last_failure = Some(cause.clone());
        let succeeded = cause == Cause::Ended(Ending::Exited(0));
        let restart = match member.rules.restart {
            Restart::Permanent => true,
            Restart::Transient => !succeeded,
            Restart::Temporary => false,
        };
        if !restart {
            self.set_down(&[child], &Why::Finished(cause.clone()));
            actions.push(Action::Failed { child, cause, delay: None });
            return;
        }
        let group_index = self.members[child].rules.group;
        let group = self.groups[group_index].clone();
        let affected = self.affected(child, group.strategy);
        let scope_index = self.scope(child);
        let announced = affected.iter().filter(|&&other| self.members[other].counted).count();
        let scope = &mut self.scopes[scope_index];
        // Restarts come later than now, so whatever left the window by now is not in theirs either.
        while scope.restarts.front().is_some_and(|&restart| now.saturating_sub(restart) >= group.window) {
            scope.restarts.pop_front();
        }
        let recent = scope.restarts.len() + announced;
        if recent >= group.restarts_max as usize {
            let why = Why::Quarantined { by: child, cause, recent, window_s: group.window.as_secs_f64() };
            self.set_down(&affected, &why);
            actions.push(Action::Quarantined(child, why));
            return;
        }
        if now.saturating_sub(since) >= group.window {
            scope.streak = 0;
        }
        let delay = self.jitter.shorten(backoff(scope.streak));
        scope.streak = scope.streak.saturating_add(1);
        let batch = self.next_batch();
        for other in affected {
            let member = &mut self.members[other];
            member.batch = batch;
            if other != child && member.rules.restart == Restart::Temporary {
                member.down = Some(Why::WithGroup);
                member.awaited = false;
                continue;
            }
            member.again |= member.phase != Phase::Idle;
            member.awaited = true;
            member.not_before = now.saturating_add(delay);
        }
        self.members[child].counted = true;
        actions.push(Action::Failed { child, cause, delay: Some(delay) });
    }

    /// The child and those who share its fate, in order; only those that are to run.
    fn affected(&self, child: usize, strategy: Strategy) -> Vec<usize> {
        let group = self.members[child].rules.group;
        let shares = |&other: &usize| {
            let member = &self.members[other];
            let in_reach = match strategy {
                Strategy::OneForOne => false,
                Strategy::RestForOne => member.rules.group == group && other > child,
                Strategy::OneForAll => member.rules.group == group,
            };
            other == child || in_reach && member.down.is_none()
        };
        (0..self.members.len()).filter(shares).collect()
    }

    fn scope(&self, child: usize) -> usize {
        let group = self.members[child].rules.group;
        match self.groups[group].strategy {
            Strategy::OneForOne => child,
            Strategy::RestForOne | Strategy::OneForAll => self.members.len() + group,
        }
    }

    fn unwell(&mut self, child: usize, illness: Illness, actions: &mut Vec<Action>) {
        let member = &mut self.members[child];
        let Some(since) = member.since().filter(|_| member.down.is_none() && !member.again) else { return };
        if let Phase::Starting { .. } | Phase::Running { .. } = member.phase {
            let (action, time) = if illness.leaves_a_trace() {
                (Action::Abort(child), member.rules.abort_timeout)
            } else {
                (Action::Stop(child), member.rules.grace)
            };
            let kill_at = self.now.saturating_add(time);
            member.phase = Phase::Stopping { kill_at, since, illness: Some(illness) };
            actions.push(action);
        }
    }

    fn watch_time(&mut self, actions: &mut Vec<Action>) {
        let now = self.now;
        for child in 0..self.members.len() {
            let member = &mut self.members[child];
            match &mut member.phase {
                Phase::Starting { since }
                    if now >= since.saturating_add(member.rules.start_timeout).max(member.ready_until) =>
                {
                    let illness = Illness::NotReady { within_s: member.rules.start_timeout.as_secs_f64() };
                    self.unwell(child, illness, actions);
                }
                Phase::Draining { until } if now >= *until && !self.finishing => {
                    // It had its time; now it is asked as others are.
                    let kill_at = now.saturating_add(member.rules.grace);
                    member.phase = Phase::Stopping { kill_at, since: now, illness: None };
                    actions.push(Action::Stop(child));
                }
                Phase::Stopping { kill_at, .. } | Phase::Clearing { kill_at } if now >= *kill_at => {
                    *kill_at = now.saturating_add(KILL_INTERVAL);
                    actions.push(Action::Kill(child));
                }
                _ => {}
            }
        }
    }

    /// Brings phases nearer to goals.
    fn settle(&mut self, actions: &mut Vec<Action>) {
        let now = self.now;
        for child in (0..self.members.len()).rev() {
            let member = &self.members[child];
            // A drained child has its time, unless everybody goes.
            let told = matches!(member.phase, Phase::Draining { .. }) && !self.finishing;
            let batch = member.batch;
            if member.alive()
                && member.leaving()
                && !told
                && !self.members[child + 1..].iter().any(|later| later.batch == batch && later.leaving())
            {
                let member = &mut self.members[child];
                let kill_at = now.saturating_add(member.rules.grace);
                member.phase = Phase::Stopping { kill_at, since: member.since().unwrap_or(now), illness: None };
                actions.push(Action::Stop(child));
            }
        }
        for child in 0..self.members.len() {
            let member = &self.members[child];
            let batch = member.batch;
            let due = member.phase == Phase::Idle && member.down.is_none() && now >= member.starts_at();
            if !due
                || self.members.iter().any(|other| other.batch == batch && other.leaving())
                || self.members[..child].iter().any(|m| m.batch == batch && m.awaited && m.down.is_none())
            {
                continue;
            }
            let member = &mut self.members[child];
            if std::mem::take(&mut member.counted) {
                member.restarts += 1;
                let scope = self.scope(child);
                self.scopes[scope].restarts.push_back(now);
            }
            let member = &mut self.members[child];
            (member.again, member.ready_until, member.held_until) = (false, Duration::ZERO, None);
            member.phase = Phase::Starting { since: now };
            actions.push(Action::Start(child));
        }
        if self.finishing && self.members.iter().all(|member| member.phase == Phase::Idle) {
            self.finished = true;
            actions.push(Action::Finish);
        }
    }
}
