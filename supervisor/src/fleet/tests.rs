//! The fleet driven by hand, and by a simulated machine with arbitrary events.

use super::*;
use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Generates;

const CRASH: Ending = Ending::Exited(1);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn rules(group: usize, restart: Restart) -> ChildRules {
    ChildRules {
        group,
        restart,
        grace: ms(1_000),
        start_timeout: ms(60_000),
        abort_timeout: ms(500),
        drain_timeout: ms(2_000),
    }
}

fn group(strategy: Strategy) -> GroupRules {
    GroupRules { strategy, restarts_max: 5, window: ms(10_000) }
}

/// A fleet and the machine it runs on: which child has a process (false once it has ended but is not gone).
struct World {
    fleet: Fleet,
    now: Duration,
    processes: Vec<Option<bool>>,
    finished: bool,
    /// When each restart after a failure was, by child.
    restarts: Vec<(usize, Duration)>,
    failed: Vec<bool>,
    /// Whose journal is being drained, and until when that is waited for.
    held: Vec<Option<Duration>>,
}

impl World {
    fn new(children: Vec<ChildRules>, groups: Vec<GroupRules>) -> World {
        let count = children.len();
        World {
            fleet: Fleet::new(children, groups, 7),
            now: Duration::ZERO,
            processes: vec![None; count],
            finished: false,
            restarts: Vec::new(),
            failed: vec![false; count],
            held: vec![None; count],
        }
    }

    /// So many permanent children in one group, all ready.
    fn running(count: usize, strategy: Strategy) -> World {
        let mut world = World::new(vec![rules(0, Restart::Permanent); count], vec![group(strategy)]);
        assert_eq!(world.step(Event::Begin), [Action::Start(0)]);
        for child in 0..count {
            let next = if child + 1 < count { vec![Action::Start(child + 1)] } else { vec![] };
            assert_eq!(world.step(Event::Ready(child)), next, "the next begins when the one before is ready");
        }
        world
    }

    /// Steps, holds the actions against what must always be true, and carries them out.
    fn step(&mut self, event: Event) -> Vec<Action> {
        match &event {
            Event::Ended(child, _) => self.processes[*child] = Some(false),
            Event::Gone(child) => self.processes[*child] = None,
            Event::Journal(child, until) => self.held[*child] = *until,
            _ => {}
        }
        let actions = self.fleet.step(self.now, event);
        for action in &actions {
            assert!(!self.finished, "{action:?} after the finish");
            match action {
                Action::Start(child) => {
                    assert_eq!(self.processes[*child], None, "two processes of child {child}");
                    let held = self.held[*child].take();
                    assert!(held.is_none_or(|until| self.now >= until), "child {child} is started beside its drain");
                    assert!(!self.fleet.finishing, "child {child} is started while everybody is stopped");
                    self.processes[*child] = Some(true);
                    if std::mem::take(&mut self.failed[*child]) {
                        self.restarts.push((*child, self.now));
                    }
                }
                Action::Stop(child) => {
                    assert_eq!(self.processes[*child], Some(true), "stop of child {child}, which does not live");
                    let later = self.processes.iter().skip(child + 1).all(Option::is_none);
                    assert!(later || !self.fleet.finishing, "child {child} is stopped before those after it");
                }
                Action::Abort(child) | Action::Drain(child) => assert_eq!(self.processes[*child], Some(true)),
                Action::Kill(child) => assert!(self.processes[*child].is_some()),
                Action::Failed { child, delay, .. } => self.failed[*child] = delay.is_some(),
                Action::Quarantined(..) => {}
                Action::Finish => {
                    assert!(self.processes.iter().all(Option::is_none), "finished with somebody left");
                    self.finished = true;
                }
            }
        }
        actions
    }

    fn at(&mut self, now: Duration) -> &mut World {
        self.now = now;
        self
    }

    /// Ends a child, and everybody of it.
    fn end(&mut self, child: usize, ending: Ending) -> Vec<Action> {
        let mut actions = self.step(Event::Ended(child, ending));
        actions.extend(self.step(Event::Gone(child)));
        actions
    }

    fn wake(&mut self) -> Vec<Action> {
        self.now = self.fleet.wakes_at().expect("something is due");
        self.step(Event::TimePassed)
    }

    fn stop_of(&self, child: usize) -> Option<&Why> {
        self.fleet.members()[child].down.as_ref()
    }
}

#[test]
fn one_for_one_restarts_the_failed_child_only() {
    let mut world = World::running(3, Strategy::OneForOne);
    let actions = world.at(ms(50)).end(1, CRASH);
    let [Action::Failed { child: 1, delay: Some(delay), .. }] = actions[..] else { panic!("{actions:?}") };
    assert!(delay > ms(79) && delay <= ms(100), "{delay:?}");
    assert_eq!(world.at(ms(50) + delay - ms(1)).step(Event::TimePassed), []);
    assert_eq!(world.wake(), [Action::Start(1)]);
    assert_eq!(world.fleet.members()[1].restarts, 1);
}

#[test]
fn one_for_all_stops_in_reverse_and_starts_all_in_order() {
    let mut world = World::running(3, Strategy::OneForAll);
    let actions = world.end(1, CRASH);
    assert!(matches!(actions[..], [Action::Failed { child: 1, .. }, Action::Stop(2)]), "{actions:?}");
    assert_eq!(world.end(2, Ending::Signalled(15)), [Action::Stop(0)]);
    assert_eq!(world.end(0, Ending::Exited(3)), [], "the backoff comes first");
    assert_eq!(world.wake(), [Action::Start(0)]);
    assert_eq!(world.step(Event::Ready(0)), [Action::Start(1)]);
    assert_eq!(world.step(Event::Ready(1)), [Action::Start(2)]);
    assert_eq!(world.step(Event::Ready(2)), []);
    assert_eq!(world.restarts.len(), 1, "the others' restarts are not failures");
}

#[test]
fn rest_for_one_leaves_those_before_alone() {
    let mut world = World::running(3, Strategy::RestForOne);
    let actions = world.end(1, CRASH);
    assert!(matches!(actions[..], [Action::Failed { child: 1, .. }, Action::Stop(2)]), "{actions:?}");
    assert_eq!(world.end(2, Ending::Signalled(15)), []);
    assert_eq!(world.wake(), [Action::Start(1)]);
    assert_eq!(world.step(Event::Ready(1)), [Action::Start(2)]);
}

#[test]
fn groups_do_not_share_fates() {
    let children = vec![rules(0, Restart::Permanent), rules(1, Restart::Permanent), rules(0, Restart::Permanent)];
    let mut world = World::new(children, vec![group(Strategy::OneForAll), group(Strategy::OneForAll)]);
    world.step(Event::Begin);
    (0..3).for_each(|child| drop(world.step(Event::Ready(child))));
    let actions = world.end(0, CRASH);
    assert!(matches!(actions[..], [Action::Failed { child: 0, .. }, Action::Stop(2)]), "{actions:?}");
}

#[test]
fn a_child_that_fails_too_often_is_quarantined_and_the_next_still_begins() {
    let mut world = World::new(vec![rules(0, Restart::Permanent); 2], vec![group(Strategy::OneForOne)]);
    world.step(Event::Begin);
    // The next does not wait for more than the first failure.
    let actions = world.end(0, CRASH);
    assert!(matches!(actions[..], [Action::Failed { child: 0, .. }, Action::Start(1)]), "{actions:?}");
    world.step(Event::Ready(1));
    for _ in 0..4 {
        assert_eq!(world.wake(), [Action::Start(0)]);
        assert!(matches!(world.end(0, CRASH)[..], [Action::Failed { child: 0, .. }]));
    }
    assert_eq!(world.wake(), [Action::Start(0)]);
    let actions = world.end(0, Ending::Signalled(11));
    let [Action::Quarantined(0, why)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(why.to_string(), "was ended by signal 11 (SIGSEGV), with 5 restarts in the last 10 s already");
    assert_eq!(world.fleet.wakes_at(), None, "it is not tried again by itself");
    // By hand it is, and what was counted is forgiven.
    assert_eq!(world.step(Event::Start(0)), [Action::Start(0)]);
    assert!(matches!(world.end(0, CRASH)[..], [Action::Failed { delay: Some(_), .. }]));
}

#[test]
fn a_group_that_fails_too_often_is_down_as_a_whole_and_started_as_a_whole() {
    let mut world = World::new(
        vec![rules(0, Restart::Permanent); 2],
        vec![GroupRules { restarts_max: 0, ..group(Strategy::OneForAll) }],
    );
    world.step(Event::Begin);
    (0..2).for_each(|child| drop(world.step(Event::Ready(child))));
    let actions = world.end(0, CRASH);
    assert!(matches!(actions[..], [Action::Quarantined(0, _), Action::Stop(1)]), "{actions:?}");
    assert_eq!(world.end(1, CRASH), []);
    assert!(matches!(world.stop_of(1), Some(Why::Quarantined { by: 0, .. })));
    assert_eq!(world.step(Event::Start(1)), [Action::Start(0)]);
    assert_eq!(world.step(Event::Ready(0)), [Action::Start(1)]);
}

#[test]
fn policies_decide_which_ends_are_failures() {
    for (restart, ending, again) in [
        (Restart::Permanent, Ending::Exited(0), true),
        (Restart::Transient, Ending::Exited(0), false),
        (Restart::Transient, CRASH, true),
        (Restart::Transient, Ending::NotStarted("no".into()), true),
        (Restart::Temporary, CRASH, false),
    ] {
        let mut world = World::new(vec![rules(0, restart)], vec![group(Strategy::OneForOne)]);
        world.step(Event::Begin);
        let actions = world.end(0, ending.clone());
        let [Action::Failed { delay, .. }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(delay.is_some(), again, "{restart:?} {ending:?}");
        assert_eq!(world.stop_of(0).is_none(), again);
    }
}

#[test]
fn a_hung_child_is_aborted_then_killed_and_its_restart_has_the_reason() {
    let mut world = World::running(1, Strategy::OneForOne);
    let hung = Illness::Hung { for_s: 5.0, tick: Some(9) };
    assert_eq!(world.at(ms(10)).step(Event::Unwell(0, hung.clone())), [Action::Abort(0)]);
    assert_eq!(world.step(Event::Unwell(0, hung.clone())), [], "said twice");
    assert_eq!(world.at(ms(509)).step(Event::TimePassed), []);
    assert_eq!(world.at(ms(510)).step(Event::TimePassed), [Action::Kill(0)]);
    let actions = world.end(0, Ending::Signalled(9));
    assert!(matches!(&actions[..], [Action::Failed { cause: Cause::Unwell(illness), .. }] if *illness == hung));
}

#[test]
fn who_is_not_ready_in_time_is_ended() {
    let mut world = World::new(vec![rules(0, Restart::Permanent)], vec![group(Strategy::OneForOne)]);
    world.step(Event::Begin);
    assert_eq!(world.fleet.wakes_at(), Some(ms(60_000)));
    assert_eq!(world.wake(), [Action::Abort(0)]);
}

#[test]
fn grace_ends_in_a_kill_also_of_those_who_outlive_their_process() {
    let mut world = World::running(1, Strategy::OneForOne);
    assert_eq!(world.step(Event::Stop(0)), [Action::Stop(0)]);
    assert_eq!(world.at(ms(400)).step(Event::Ended(0, CRASH)), [], "a crash on the way out is not a failure");
    assert_eq!(world.at(ms(999)).step(Event::TimePassed), []);
    assert_eq!(world.at(ms(1_000)).step(Event::TimePassed), [Action::Kill(0)]);
    assert_eq!(world.step(Event::Gone(0)), []);
    assert_eq!(world.stop_of(0), Some(&Why::Asked));
}

#[test]
fn a_drained_child_has_its_time_and_what_was_asked_for_follows() {
    for (after, down) in
        [(AfterDrain::Stop, Some(Why::Asked)), (AfterDrain::Hold, Some(Why::Maintenance)), (AfterDrain::Start, None)]
    {
        let mut world = World::running(1, Strategy::OneForOne);
        assert_eq!(world.step(Event::Drain(0, after)), [Action::Drain(0)]);
        assert_eq!(world.at(ms(1_999)).step(Event::TimePassed), []);
        let again = if down.is_none() { vec![Action::Start(0)] } else { vec![] };
        assert_eq!(world.end(0, Ending::Exited(0)), again, "{after:?}");
        assert_eq!(world.stop_of(0), down.as_ref());
        assert_eq!(world.restarts, [], "nothing failed");
    }
    let mut world = World::new(vec![rules(0, Restart::Permanent)], vec![group(Strategy::OneForOne)]);
    world.step(Event::Begin);
    assert_eq!(
        world.step(Event::Drain(0, AfterDrain::Hold)),
        [Action::Drain(0)],
        "one that is not ready yet has its time, too"
    );
    assert_eq!(world.step(Event::Drain(0, AfterDrain::Hold)), [], "it has it once");
    assert_eq!(world.wake(), [Action::Stop(0)], "its time is over");
    world.end(0, CRASH);
    assert_eq!(world.step(Event::Release(0)), [Action::Start(0)]);
}

#[test]
fn a_restart_waits_for_the_journal_but_not_for_ever() {
    let fail = |world: &mut World| {
        world.step(Event::Ended(0, CRASH));
        world.step(Event::Journal(0, Some(ms(40_000))));
        assert_eq!(world.step(Event::Gone(0)), []);
    };
    let mut world = World::running(1, Strategy::OneForOne);
    fail(&mut world);
    assert_eq!(world.at(ms(39_999)).step(Event::Start(0)), [], "not by hand, either");
    assert_eq!(world.fleet.wakes_at(), Some(ms(40_000)));
    assert_eq!(world.step(Event::Journal(0, None)), [Action::Start(0)]);

    let mut world = World::running(1, Strategy::OneForOne);
    fail(&mut world);
    assert_eq!(world.wake(), [Action::Start(0)]);
    assert_eq!(world.now, ms(40_000));

    let mut world = World::running(1, Strategy::OneForOne);
    fail(&mut world);
    assert_eq!(world.step(Event::StopAll), [Action::Finish], "a stop does not wait for it");
}

#[test]
fn a_restart_by_hand_is_one_and_counts_against_nobody() {
    let mut world = World::running(2, Strategy::OneForAll);
    for _ in 0..20 {
        assert_eq!(world.step(Event::Restart(0)), [Action::Stop(0)]);
        assert_eq!(world.end(0, Ending::Signalled(15)), [Action::Start(0)]);
        world.step(Event::Ready(0));
    }
    assert_eq!(world.stop_of(0), None);
}

#[test]
fn adopted_children_are_not_started_and_kept_down_ones_stay_down() {
    let mut world = World::new(vec![rules(0, Restart::Permanent); 3], vec![group(Strategy::OneForOne)]);
    world.processes[0] = Some(true);
    world.step(Event::Adopted(0, true));
    world.step(Event::KeptDown(1, Why::Asked));
    assert_eq!(world.step(Event::Begin), [Action::Start(2)]);
    assert!(matches!(world.end(0, CRASH)[..], [Action::Failed { child: 0, delay: Some(_), .. }]));
}

fn any_ending() -> impl Generates<Value = Ending> {
    prop_oneof![
        Just(Ending::Exited(0)),
        (1i32..5).prop_map(Ending::Exited),
        Just(Ending::Signalled(9)),
        Just(Ending::NotStarted("no".into())),
    ]
}

fn any_event(operators: bool) -> impl Generates<Value = Event> {
    let child = 0usize..4;
    let illness =
        prop_oneof![Just(Illness::Hung { for_s: 1.0, tick: None }), Just(Illness::Memory { bytes: 2, max: 1 })];
    let after = prop_oneof![Just(AfterDrain::Stop), Just(AfterDrain::Start), Just(AfterDrain::Hold)];
    let weight = u32::from(operators);
    let journal = (child.clone(), prop::option::of(0u64..60_000));
    let journal = journal.prop_map(|(child, until_ms)| Event::Journal(child, until_ms.map(ms)));
    prop_oneof![
        8 => (child.clone(), any_ending()).prop_map(|(child, ending)| Event::Ended(child, ending)),
        12 => child.clone().prop_map(Event::Gone),
        6 => child.clone().prop_map(Event::Ready),
        3 => (child.clone(), illness).prop_map(|(child, illness)| Event::Unwell(child, illness)),
        // Ten at most with a weight of nothing among them.
        16 => prop_oneof![3 => Just(Event::TimePassed), 1 => journal],
        weight => child.clone().prop_map(Event::Start),
        weight => child.clone().prop_map(Event::Stop),
        weight => child.clone().prop_map(Event::Restart),
        weight => child.clone().prop_map(Event::Release),
        weight => (child, after).prop_map(|(child, after)| Event::Drain(child, after)),
    ]
}

fn any_fleet() -> impl Generates<Value = (Vec<ChildRules>, Vec<GroupRules>)> {
    let restart =
        prop_oneof![3 => Just(Restart::Permanent), 1 => Just(Restart::Transient), 1 => Just(Restart::Temporary)];
    let strategy = prop_oneof![Just(Strategy::OneForOne), Just(Strategy::RestForOne), Just(Strategy::OneForAll)];
    let groups = prop::collection::vec((strategy, 0u32..5, 1u64..10_000), 2);
    let children = prop::collection::vec((0usize..2, restart, 0u64..3_000), 4);
    (children, groups).prop_map(|(children, groups)| {
        let children = children
            .into_iter()
            .map(|(group, restart, grace_ms)| ChildRules { grace: ms(grace_ms), ..rules(group, restart) });
        let groups = groups.into_iter().map(|(strategy, restarts_max, window_ms)| GroupRules {
            strategy,
            restarts_max,
            window: ms(window_ms),
        });
        (children.collect(), groups.collect())
    })
}

/// The world only tells the truth: what does not live cannot end, and what lives is not gone.
fn is_true(world: &World, event: &Event) -> bool {
    match event {
        Event::Ended(child, _) | Event::Ready(child) | Event::Unwell(child, _) => world.processes[*child] == Some(true),
        Event::Gone(child) => world.processes[*child] == Some(false),
        _ => true,
    }
}

proptest! {
    /// Any events in any order keep what `World::step` asserts; after a stop, everything ends, however stubborn the children are.
    #[test]
    fn arbitrary_events_keep_the_invariants(
        (children, groups) in any_fleet(),
        events in prop::collection::vec((0u64..1_500, any_event(true)), 0..300),
        stubborn in prop::collection::vec(any::<bool>(), 4),
    ) {
        let mut world = World::new(children, groups);
        world.step(Event::Begin);
        for (elapsed_ms, event) in events {
            world.now += ms(elapsed_ms);
            if is_true(&world, &event) {
                world.step(event);
            }
        }
        let mut actions = world.step(Event::StopAll);
        let mut steps = 0;
        while !world.finished {
            steps += 1;
            prop_assert!(steps < 200, "the stop does not come to its end: {:?}", world.fleet.members);
            let mut next = Vec::new();
            for action in actions {
                match action {
                    Action::Stop(child) if !stubborn[child] => next.extend(world.end(child, CRASH)),
                    Action::Kill(child) => {
                        if world.processes[child] == Some(true) {
                            next.extend(world.step(Event::Ended(child, Ending::Signalled(9))));
                        }
                        next.extend(world.step(Event::Gone(child)));
                    }
                    _ => {}
                }
            }
            actions = next;
            if actions.is_empty() && !world.finished {
                actions = world.wake();
            }
        }
        prop_assert_eq!(world.fleet.wakes_at(), None);
        prop_assert_eq!(world.step(Event::Start(0)), []);
    }

    /// Without operators, no window holds more restarts than allowed, and nothing is ever forgotten: who is to run and does
    /// not is about to be started.
    #[test]
    fn restarts_stay_within_every_window_and_nobody_is_forgotten(
        (children, groups) in any_fleet(),
        events in prop::collection::vec((0u64..1_500, any_event(false)), 0..400),
    ) {
        let mut world = World::new(children.clone(), groups.clone());
        world.step(Event::Begin);
        for (elapsed_ms, event) in events {
            world.now += ms(elapsed_ms);
            if is_true(&world, &event) {
                world.step(event);
            }
        }
        for (scope, group) in groups.iter().enumerate() {
            for child in 0..children.len() {
                let in_scope = |other: usize| match group.strategy {
                    Strategy::OneForOne => other == child,
                    Strategy::RestForOne | Strategy::OneForAll => children[other].group == scope,
                };
                if children[child].group != scope {
                    continue;
                }
                let times: Vec<Duration> = world.restarts.iter().filter(|(other, _)| in_scope(*other)).map(|(_, at)| *at).collect();
                for begin in &times {
                    let count = times.iter().filter(|at| *at >= begin && **at - *begin < group.window).count();
                    prop_assert!(count <= group.restarts_max as usize, "{count} restarts in one window of {group:?}");
                }
            }
        }
        // Everybody behaves from now on: all that are to run do so in the end.
        for _ in 0..100 {
            for child in 0..children.len() {
                if world.processes[child] == Some(true) && !matches!(world.fleet.members[child].phase, Phase::Starting { .. } | Phase::Running { .. }) {
                    world.step(Event::Ended(child, CRASH));
                }
                if world.processes[child] == Some(false) {
                    world.step(Event::Gone(child));
                }
                if world.processes[child] == Some(true) {
                    world.step(Event::Ready(child));
                }
            }
            world.now += ms(70_000);
            world.step(Event::TimePassed);
        }
        for member in world.fleet.members() {
            let runs = matches!(member.phase, Phase::Running { .. });
            prop_assert_eq!(runs, member.down.is_none(), "{:?}", member);
        }
    }
}
