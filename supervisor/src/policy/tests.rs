//! The policy driven by hand, by a simulated command, and by arbitrary events.

use super::*;
use proptest::prelude::*;

const CRASH: Cause = Cause::Exited(1);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn limits(restarts_max: u32, window_ms: u64, grace_ms: u64) -> Limits {
    Limits { restarts_max, window: ms(window_ms), grace: ms(grace_ms) }
}

/// A policy whose command was just started at time 0.
fn running(limits: Limits) -> Policy {
    let mut policy = Policy::new(limits, 7);
    assert_eq!(policy.step(Duration::ZERO, Event::Begin), [Action::Start]);
    policy
}

/// Crashes a running command at `now` and returns the announced delay and recent restarts.
fn crash(policy: &mut Policy, now: Duration) -> (Duration, u32) {
    match &policy.step(now, Event::Ended(CRASH))[..] {
        [Action::ClearGroup, Action::AnnounceRestart { cause: CRASH, delay, recent_restarts }] => {
            assert_eq!(policy.wakes_at(), Some(now + *delay));
            (*delay, *recent_restarts)
        }
        other => panic!("not a restart: {other:?}"),
    }
}

fn assert_backoff(delay: Duration, full_ms: u64) {
    assert!(delay <= ms(full_ms) && delay > ms(full_ms * 4 / 5 - 1), "{delay:?} of {full_ms} ms");
}

#[test]
fn success_finishes_and_clears_the_group_first() {
    let mut policy = running(Limits::default());
    assert_eq!(
        policy.step(ms(5), Event::Ended(Cause::Exited(0))),
        [Action::ClearGroup, Action::Finish(Outcome::Succeeded)]
    );
    assert_eq!(policy.wakes_at(), None);
}

#[test]
fn instant_crashes_are_quarantined_after_exactly_the_allowed_restarts() {
    let mut policy = running(Limits::default());
    let mut now = Duration::ZERO;
    for (restart, full_ms) in [100, 200, 400, 800, 1600].into_iter().enumerate() {
        let (delay, recent_restarts) = crash(&mut policy, now);
        assert_backoff(delay, full_ms);
        assert_eq!(recent_restarts as usize, restart);
        now += delay;
        assert_eq!(policy.step(now - ms(1), Event::TimePassed), [], "too early");
        assert_eq!(policy.step(now, Event::TimePassed), [Action::Start]);
    }
    let quarantined = Outcome::Quarantined { cause: CRASH, recent_restarts: 5, window: ms(10_000) };
    assert_eq!(
        quarantined.to_string(),
        "quarantined: the command exited with code 1, with 5 restarts in the last 10 s already"
    );
    assert_eq!(policy.step(now, Event::Ended(CRASH)), [Action::ClearGroup, Action::Finish(quarantined)]);
}

#[test]
fn a_restart_leaves_the_window_exactly_when_it_is_that_old() {
    for (crash_at, quarantined) in [(ms(999), true), (ms(1000), false)] {
        let mut policy = running(limits(1, 1000, 0));
        let (delay, _) = crash(&mut policy, Duration::ZERO);
        assert_eq!(policy.step(delay, Event::TimePassed), [Action::Start]);
        let actions = policy.step(delay + crash_at, Event::Ended(CRASH));
        assert_eq!(matches!(actions[1], Action::Finish(Outcome::Quarantined { .. })), quarantined, "{actions:?}");
    }
}

#[test]
fn no_allowed_restart_quarantines_the_first_failure() {
    let mut policy = running(limits(0, 1000, 0));
    let cause = Cause::Signalled(11);
    let outcome = Outcome::Quarantined { cause: cause.clone(), recent_restarts: 0, window: ms(1000) };
    assert_eq!(policy.step(ms(1), Event::Ended(cause)), [Action::ClearGroup, Action::Finish(outcome)]);
}

#[test]
fn a_command_that_cannot_be_started_has_no_group_to_clear() {
    let mut policy = running(limits(1, 1000, 0));
    let cause = Cause::NotStarted("no such file".into());
    let actions = policy.step(ms(1), Event::Ended(cause.clone()));
    assert!(
        matches!(&actions[..], [Action::AnnounceRestart { cause: announced, .. }] if *announced == cause),
        "{actions:?}"
    );
}

#[test]
fn running_for_a_whole_window_begins_the_backoff_anew() {
    for (run_ms, full_ms) in [(999, 400), (1000, 100)] {
        let mut policy = running(limits(100, 1000, 0));
        let mut now = Duration::ZERO;
        for _ in 0..2 {
            now += crash(&mut policy, now).0;
            assert_eq!(policy.step(now, Event::TimePassed), [Action::Start]);
        }
        assert_backoff(crash(&mut policy, now + ms(run_ms)).0, full_ms);
    }
}

#[test]
fn backoff_doubles_to_its_bound_and_stays_there() {
    let waits: Vec<u128> = (0..12).map(|streak| backoff(streak).as_millis()).collect();
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000]);
    assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
}

#[test]
fn stop_signals_the_group_and_waits_for_all_of_it() {
    let mut policy = running(limits(5, 1000, 500));
    assert_eq!(policy.step(ms(10), Event::Stop(StopSignal::Interrupt)), [Action::Signal(StopSignal::Interrupt)]);
    assert_eq!(policy.wakes_at(), Some(ms(510)));
    // A crash on the way out is not a failure to restart from.
    assert_eq!(policy.step(ms(20), Event::Ended(CRASH)), []);
    assert_eq!(policy.step(ms(509), Event::TimePassed), []);
    assert_eq!(policy.step(ms(509), Event::GroupEmpty), [Action::ClearGroup, Action::Finish(Outcome::Stopped)]);
}

#[test]
fn grace_ends_in_a_kill_and_is_not_prolonged_by_asking_again() {
    let mut policy = running(limits(5, 1000, 500));
    policy.step(ms(10), Event::Stop(StopSignal::Terminate));
    assert_eq!(policy.step(ms(400), Event::Stop(StopSignal::Terminate)), [Action::Signal(StopSignal::Terminate)]);
    assert_eq!(policy.step(ms(509), Event::TimePassed), []);
    assert_eq!(policy.step(ms(510), Event::TimePassed), [Action::KillGroup]);
    assert_eq!(policy.wakes_at(), None);
    assert_eq!(policy.step(ms(511), Event::Stop(StopSignal::Terminate)), [], "already killed");
    assert_eq!(
        policy.step(ms(512), Event::Ended(Cause::Signalled(9))),
        [Action::ClearGroup, Action::Finish(Outcome::Killed)]
    );
}

#[test]
fn those_who_outlive_their_leader_and_the_grace_are_killed() {
    let mut policy = running(limits(5, 1000, 500));
    policy.step(ms(10), Event::Stop(StopSignal::Terminate));
    assert_eq!(policy.step(ms(20), Event::Ended(Cause::Signalled(15))), []);
    assert_eq!(policy.step(ms(510), Event::TimePassed), [Action::ClearGroup, Action::Finish(Outcome::Killed)]);
}

#[test]
fn stop_while_waiting_finishes_at_once() {
    let mut policy = running(Limits::default());
    crash(&mut policy, ms(1));
    assert_eq!(policy.step(ms(2), Event::Stop(StopSignal::Terminate)), [Action::Finish(Outcome::Stopped)]);
    assert_eq!(policy.step(ms(60_000), Event::TimePassed), [], "no restart after the finish");
}

#[test]
fn limits_that_can_never_quarantine_are_told() {
    assert!(Limits::default().quarantine_reachable());
    assert!(limits(0, 1, 0).quarantine_reachable());
    assert!(!limits(20, 10_000, 0).quarantine_reachable());
}

#[test]
fn causes_read_well() {
    assert_eq!(Cause::Signalled(11).to_string(), "was ended by signal 11 (SIGSEGV)");
    assert_eq!(Cause::Signalled(99).to_string(), "was ended by signal 99");
    assert_eq!(Cause::NotStarted("no".into()).to_string(), "could not be started: no");
}

#[test]
fn the_seed_decides_the_jitter() {
    let delays = |seed| {
        let mut jitter = Jitter(seed);
        (0..8).map(|_| jitter.shorten(BACKOFF_MAX)).collect::<Vec<_>>()
    };
    assert_eq!(delays(1), delays(1));
    assert_ne!(delays(1), delays(2));
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (0u32..8, 1u64..20_000, 0u64..5_000).prop_map(|(restarts, window, grace)| limits(restarts, window, grace))
}

fn any_cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        4 => (1i32..256).prop_map(Cause::Exited),
        2 => (1i32..65).prop_map(Cause::Signalled),
        1 => Just(Cause::NotStarted("no such file".into())),
        1 => Just(Cause::Exited(0)),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => Just(Event::Begin),
        4 => any_cause().prop_map(Event::Ended),
        2 => Just(Event::GroupEmpty),
        1 => Just(Event::Stop(StopSignal::Terminate)),
        1 => Just(Event::Stop(StopSignal::Interrupt)),
        6 => Just(Event::TimePassed),
    ]
}

proptest! {
    /// A command with any lives and deaths, started as late as 50 ms after the wanted time: the windows hold, the backoff
    /// keeps its bounds, and it is always running, about to run again, or finished for a stated reason.
    #[test]
    fn restarts_stay_within_every_window(
        limits in any_limits(),
        seed: u64,
        lives in prop::collection::vec((0u64..15_000, any_cause(), 0u64..50), 1..200),
    ) {
        let mut policy = Policy::new(limits, seed);
        let mut now = Duration::ZERO;
        prop_assert_eq!(policy.step(now, Event::Begin), [Action::Start]);
        let mut restarts: Vec<Duration> = vec![];
        for (life_ms, cause, late_ms) in lives {
            now += ms(life_ms);
            let actions = policy.step(now, Event::Ended(cause.clone()));
            match actions.last() {
                Some(Action::AnnounceRestart { delay, .. }) => {
                    prop_assert!(*delay >= BACKOFF_MIN * (100 - JITTER_PERCENT) / 100 && *delay <= BACKOFF_MAX);
                    prop_assert_eq!(policy.wakes_at(), Some(now + *delay));
                    now += *delay + ms(late_ms);
                    prop_assert_eq!(policy.step(now, Event::TimePassed), [Action::Start]);
                    restarts.push(now);
                    let in_window = restarts.iter().filter(|&&restart| now - restart < limits.window).count();
                    prop_assert!(in_window <= limits.restarts_max as usize, "{in_window} restarts in one window");
                    prop_assert!(policy.restarts.len() <= limits.restarts_max as usize, "unbounded memory");
                }
                Some(Action::Finish(Outcome::Succeeded)) => {
                    prop_assert_eq!(cause, Cause::Exited(0));
                    return Ok(());
                }
                Some(Action::Finish(Outcome::Quarantined { recent_restarts, .. })) => {
                    let in_window = restarts.iter().filter(|&&restart| now - restart < limits.window).count();
                    prop_assert_eq!(*recent_restarts as usize, in_window);
                    prop_assert_eq!(in_window, limits.restarts_max as usize, "quarantined too early");
                    return Ok(());
                }
                other => prop_assert!(false, "neither running, restarting nor finished: {other:?}"),
            }
        }
    }

    /// A command that always fails at once is quarantined after exactly `restarts_max` restarts, if the limits allow it at all.
    #[test]
    fn crash_loops_end_in_quarantine(limits in any_limits(), seed: u64) {
        prop_assume!(limits.quarantine_reachable());
        let mut policy = Policy::new(limits, seed);
        let mut now = Duration::ZERO;
        let mut starts = policy.step(now, Event::Begin).len();
        loop {
            let actions = policy.step(now, Event::Ended(CRASH));
            if let Some(Action::Finish(outcome)) = actions.last() {
                prop_assert_eq!(outcome.exit_code(), 3);
                break;
            }
            now = policy.wakes_at().expect("a restart is due");
            prop_assert_eq!(policy.step(now, Event::TimePassed), [Action::Start]);
            starts += 1;
            prop_assert!(starts <= limits.restarts_max as usize + 1, "restarted for ever");
        }
        prop_assert_eq!(starts, limits.restarts_max as usize + 1);
    }

    /// Any events in any order: never two processes at once, nothing left uncleared, nothing after the finish, and a stop
    /// always ends within the grace time once the killed process is seen to end.
    #[test]
    fn arbitrary_events_keep_the_invariants(
        limits in any_limits(),
        seed: u64,
        events in prop::collection::vec((0u64..3_000, any_event()), 0..200),
    ) {
        let mut policy = Policy::new(limits, seed);
        let (mut alive, mut uncleared, mut finished) = (false, false, false);
        let mut stop_asked_at = None;
        let mut now = Duration::ZERO;
        for (elapsed_ms, event) in events {
            now += ms(elapsed_ms);
            // The world only tells the truth: what does not live cannot end, and a group with a live leader is not empty.
            match &event {
                Event::Ended(_) if !alive => continue,
                Event::GroupEmpty if alive => continue,
                Event::Ended(cause) => {
                    alive = false;
                    uncleared = !matches!(cause, Cause::NotStarted(_));
                }
                Event::Stop(_) => stop_asked_at = stop_asked_at.or(Some(now)),
                Event::Begin | Event::GroupEmpty | Event::TimePassed => {}
            }
            let actions = policy.step(now, event);
            prop_assert!(!finished || actions.is_empty(), "{actions:?} after the finish");
            for action in actions {
                prop_assert!(!finished, "{action:?} after the finish");
                match action {
                    Action::Start => {
                        prop_assert!(!alive && !uncleared && stop_asked_at.is_none());
                        alive = true;
                    }
                    Action::Signal(_) => prop_assert!(alive || uncleared),
                    Action::KillGroup => prop_assert!(alive),
                    Action::ClearGroup => {
                        prop_assert!(!alive && uncleared);
                        uncleared = false;
                    }
                    Action::AnnounceRestart { .. } => prop_assert!(!alive && !uncleared),
                    Action::Finish(_) => {
                        prop_assert!(!alive && !uncleared);
                        finished = true;
                    }
                }
            }
        }
        if let Some(asked_at) = stop_asked_at && !finished {
            let kill_at = asked_at + limits.grace;
            if alive {
                policy.step(kill_at.max(now), Event::TimePassed);
                policy.step(kill_at.max(now), Event::Ended(Cause::Signalled(9)));
            } else {
                policy.step(kill_at.max(now), Event::TimePassed);
            }
            prop_assert_eq!(policy.state, State::Finished);
        }
    }
}
