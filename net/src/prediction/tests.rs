use super::clock::ClockSync;
use super::input::*;
use super::interpolate::{DELAY_MAX, Path, PlaybackClock};
use super::predict::{Predictor, Reconciled};
use super::rewind::{Rewind, RewindRefusal};
use crate::loopback::{Faults, Loopback};
use crate::transport::{TransportCommand, TransportEvent};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;
use vsekai_schema::codec::from_bytes;
use vsekai_schema::id::EntityId;
use vsekai_schema::units::Position;
use vsekai_schema::wire::{CHANNEL_STATE, MoveInput, encode};
use vsekai_sim::port::{Gait, Ground, Pose, Terrain, TickRate, step};

const HZ: u8 = 60;
const GAIT: Gait = Gait { walk_mm_s: 4_000, sprint_mm_s: 7_000, climb_mm_per_m: 900 };

fn ground() -> Ground {
    Ground { terrain: Terrain::new(3), half_mm: 512_000 }
}

fn start() -> Pose {
    Pose { position: ground().at(1_000, -2_000), yaw: 0 }
}

fn input(sequence: u32) -> MoveInput {
    // Turns every third of a second, and stands now and then.
    let turn = (sequence / 20).wrapping_mul(2_654_435_761) >> 16;
    let direction = [(127, 0), (90, 90), (0, -127), (-127, 40), (0, 0), (-90, 90), (60, -60)][turn as usize % 7];
    MoveInput {
        sequence,
        direction_x: direction.0,
        direction_z: direction.1,
        yaw: turn as u16,
        sprint: turn.is_multiple_of(3),
    }
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// What a run of one player over a bad network gave.
#[derive(Debug, Default)]
struct Outcome {
    inputs: u64,
    repeats: u64,
    /// Inputs after which the shard had the player elsewhere than the client had predicted, though they came in time.
    wrong_in_time: u64,
    compared: u64,
    corrected: u64,
    error_sum_mm: u64,
    error_max_mm: i32,
    depth_sum: u64,
    clock_error_max_thousandths: u64,
    still_wrong: bool,
}

/// A shard and a client over the loopback transport, for so many seconds. The first three are for finding the rhythm and not
/// counted.
fn run(seed: u64, faults: Faults, seconds: u64) -> Outcome {
    let mut network = Loopback::new(seed, faults);
    let peer = network.connect();
    let tick = Duration::from_nanos(1_000_000_000 / u64::from(HZ));
    let rate = TickRate(u32::from(HZ));
    let (mut buffer, mut shard_pose, mut shard_tick, mut next_tick) = (InputBuffer::default(), start(), 5_000u64, tick);
    // The client's clock is another one than the shard's.
    let away = ms(77_777);
    let mut clock = ClockSync::new(HZ);
    let mut pacer = Pacer::new(HZ);
    let mut sender = InputSender::new(1);
    let mut predictor = Predictor::new(ground(), GAIT, rate, start());
    let mut predicted: BTreeMap<u32, Pose> = BTreeMap::new();
    let mut outcome = Outcome::default();
    let (mut counts_before, mut repeats_before) = (predictor.counts(), 0);
    let mut calm_until = 0;
    for millisecond in 0..seconds * 1_000 {
        let now = ms(millisecond);
        let counting = millisecond >= 3_000;
        if millisecond == 3_000 {
            (counts_before, repeats_before) = (predictor.counts(), buffer.repeats());
        }
        network.advance(now);
        while let Some(event) = network.poll_server() {
            let TransportEvent::Message { bytes, .. } = event else { continue };
            match from_bytes::<(u64, Vec<MoveInput>)>(&bytes).unwrap() {
                (0, inputs) => drop(buffer.receive(&inputs).unwrap()),
                (ping, _) => {
                    let bytes = encode(&(1u8, ping, shard_tick, 0u32, 0i8, Position::default(), 0u16));
                    network.server_command(TransportCommand::Send { peer, channel: CHANNEL_STATE, bytes });
                }
            }
        }
        if now >= next_tick {
            next_tick += tick;
            shard_tick += 1;
            let due = buffer.due();
            if let Due::Arrived(input) | Due::Repeated(input) = due {
                shard_pose = step(&ground(), GAIT, rate, shard_pose, &input);
                if counting {
                    outcome.inputs += 1;
                    outcome.depth_sum += buffer.depth() as u64;
                    // A correction needs a round trip: until then the client walks on from the wrong place.
                    if matches!(due, Due::Repeated(_)) {
                        calm_until = millisecond + 400;
                    } else if millisecond > calm_until && predicted.get(&input.sequence) != Some(&shard_pose) {
                        outcome.wrong_in_time += 1;
                    }
                }
            }
            if shard_tick.is_multiple_of(3)
                && let Some(InputFeedback { taken, slack }) = buffer.feedback()
            {
                let bytes = encode(&(2u8, 0u64, shard_tick, taken, slack, shard_pose.position, shard_pose.yaw));
                network.server_command(TransportCommand::Send { peer, channel: CHANNEL_STATE, bytes });
            }
        }
        let client_now = now + away;
        while let Some((_, bytes)) = network.poll_client(peer) {
            type Message = (u8, u64, u64, u32, i8, Position, u16);
            let (kind, ping, tick, taken, slack, position, yaw): Message = from_bytes(&bytes).unwrap();
            if kind == 1 {
                clock.pong(ms(ping), client_now, tick);
            } else if predictor.reconcile(taken, Pose { position, yaw }) != Reconciled::Stale {
                pacer.feedback(client_now, InputFeedback { taken, slack });
            }
        }
        let due = pacer.due(client_now);
        for _ in 0..due {
            let number = predicted.last_key_value().map_or(1, |(number, _)| number + 1);
            let input = sender.push(input(number));
            predicted.insert(input.sequence, predictor.advance(input));
        }
        if due > 0 {
            let inputs: Vec<MoveInput> = sender.newest(REDUNDANCY).collect();
            network.client_send(peer, CHANNEL_STATE, encode(&(0u64, inputs)));
        }
        if millisecond % 250 == 0 {
            let ping = client_now.as_millis() as u64;
            network.client_send(peer, CHANNEL_STATE, encode(&(ping, Vec::<MoveInput>::new())));
        }
        if counting && let Some(thousandths) = clock.tick_thousandths(client_now) {
            let exact = shard_tick * 1_000 + (now + tick).saturating_sub(next_tick).as_nanos() as u64 * 60 / 1_000_000;
            outcome.clock_error_max_thousandths = outcome.clock_error_max_thousandths.max(thousandths.abs_diff(exact));
        }
    }
    let counts = predictor.counts();
    outcome.compared = counts.compared - counts_before.compared;
    outcome.corrected = counts.corrected - counts_before.corrected;
    outcome.error_sum_mm = counts.error_sum_mm - counts_before.error_sum_mm;
    outcome.error_max_mm = counts.error_max_mm;
    outcome.repeats = buffer.repeats() - repeats_before;
    let newest = buffer.feedback().unwrap().taken;
    outcome.still_wrong = outcome.repeats == 0 && predicted[&newest] != shard_pose;
    outcome
}

#[test]
fn without_loss_the_client_is_right_to_the_millimetre_all_the_time() {
    for (seed, delay_ms) in [(1, (0, 0)), (2, (25, 25)), (3, (20, 32)), (4, (60, 95))] {
        let outcome = run(seed, Faults { delay_ms, ..Faults::default() }, 30);
        println!("delay {delay_ms:?}: {outcome:?}");
        assert!(outcome.inputs > 1_550, "{outcome:?}");
        assert_eq!((outcome.wrong_in_time, outcome.still_wrong), (0, false), "{outcome:?}");
        // Jitter that the last two seconds did not show may cost an input.
        assert!(outcome.corrected * 1_000 <= outcome.compared * 10, "{outcome:?}");
        // An extra tick for slack, and the jitter: not more.
        let depth_mean = outcome.depth_sum as f64 / outcome.inputs as f64;
        assert!(depth_mean < 3.0 + f64::from(delay_ms.1 - delay_ms.0) * 0.06, "{depth_mean} inputs waited");
    }
}

#[test]
fn at_fifty_milliseconds_and_two_percent_loss_corrections_are_few_and_small() {
    let faults = Faults { delay_ms: (22, 28), loss_permille: 20, ..Faults::default() };
    let mut all = Outcome::default();
    for seed in 1..=5 {
        let outcome = run(seed, faults, 60);
        assert_eq!((outcome.wrong_in_time, outcome.still_wrong), (0, false), "seed {seed}: {outcome:?}");
        all.inputs += outcome.inputs;
        all.repeats += outcome.repeats;
        all.compared += outcome.compared;
        all.corrected += outcome.corrected;
        all.error_sum_mm += outcome.error_sum_mm;
        all.error_max_mm = all.error_max_mm.max(outcome.error_max_mm);
        all.depth_sum += outcome.depth_sum;
        all.clock_error_max_thousandths = all.clock_error_max_thousandths.max(outcome.clock_error_max_thousandths);
    }
    println!("50 ms, 2 % loss, 5 minutes: {all:?}");
    println!(
        "  corrections: {:.3} % of snapshots, mean {:.1} mm, max {} mm; inputs that came late: {:.3} %; {:.2} inputs waited",
        100.0 * all.corrected as f64 / all.compared as f64,
        all.error_sum_mm as f64 / all.corrected.max(1) as f64,
        all.error_max_mm,
        100.0 * all.repeats as f64 / all.inputs as f64,
        all.depth_sum as f64 / all.inputs as f64,
    );
    assert!(all.corrected * 100 <= all.compared * 2, "{all:?}");
    assert!(all.error_max_mm <= 700, "{all:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn whatever_the_network_does_inputs_in_time_are_predicted_exactly(
        seed: u64, low in 0u32..80, spread in 0u32..40, loss in 0u16..80, doubled in 0u16..50, reordered in 0u16..50,
    ) {
        let faults = Faults {
            delay_ms: (low, low + spread),
            loss_permille: loss,
            duplicate_permille: doubled,
            reorder_permille: reordered,
        };
        let outcome = run(seed, faults, 12);
        prop_assert_eq!(outcome.wrong_in_time, 0, "{:?}", outcome);
        prop_assert!(!outcome.still_wrong);
        prop_assert!(outcome.inputs > 400, "{:?}", outcome);
    }

    #[test]
    fn the_buffer_takes_anything(
        datagrams in prop::collection::vec((any::<u32>(), 0usize..10, 0u8..3, any::<bool>()), 0..200),
    ) {
        let mut buffer = InputBuffer::default();
        let mut taken = Vec::new();
        for (number, count, ticks, far) in datagrams {
            let first = if far { number } else { number % 50 };
            let inputs: Vec<MoveInput> = (0..count as u32).map(|n| input(first.wrapping_add(n))).collect();
            let _ = buffer.receive(&inputs);
            prop_assert!(buffer.depth() <= BUFFER_MAX as usize);
            for _ in 0..ticks {
                if let Due::Arrived(input) = buffer.due() {
                    taken.push(input.sequence);
                }
            }
        }
        let _ = (taken, buffer.feedback());
    }
}

#[test]
fn the_buffer_takes_one_input_a_tick_in_order_and_repeats_what_is_missing() {
    let mut buffer = InputBuffer::default();
    assert_eq!(buffer.due(), Due::Nothing);
    assert_eq!(buffer.receive(&[input(7), input(8)]), Ok(1), "it begins with the newest");
    assert_eq!((buffer.due(), buffer.due()), (Due::Nothing, Due::Nothing));
    assert_eq!(buffer.receive(&[input(8), input(9), input(10)]), Ok(2));
    assert_eq!(buffer.receive(&[input(12), input(13)]), Ok(2));
    let numbers: Vec<_> = (0..6).map(|_| buffer.due()).collect();
    let repeated = Due::Repeated(MoveInput { sequence: 11, ..input(10) });
    let wanted = [8, 9, 10].map(|n| Due::Arrived(input(n)));
    assert_eq!(numbers[..3], wanted);
    assert_eq!(numbers[3..], [repeated, Due::Arrived(input(12)), Due::Arrived(input(13))]);
    assert_eq!(buffer.feedback().unwrap().taken, 13);
    // One that comes too late is not taken, and told.
    buffer.due();
    assert_eq!(buffer.receive(&[input(14)]), Ok(0));
    assert_eq!(buffer.receive(&[input(15)]), Ok(1));
    // Silence: half a second of repeats, then nothing.
    assert_eq!(buffer.due(), Due::Arrived(input(15)));
    let repeats = (0..100).filter(|_| matches!(buffer.due(), Due::Repeated(_))).count();
    assert_eq!(repeats, 30);
    assert_eq!(buffer.due(), Due::Nothing);
    assert_eq!(buffer.receive(&[]), Err(InputRefusal::Empty));
    assert_eq!(buffer.receive(&[input(1); 9]), Err(InputRefusal::TooMany(9)));
    let gap = buffer.receive(&[input(20), input(22)]);
    assert_eq!(gap, Err(InputRefusal::NotInRow { found: 20, expected: 21 }));
}

#[test]
fn the_clock_is_right_to_a_tick_and_ignores_slow_pings() {
    let mut clock = ClockSync::new(HZ);
    assert_eq!(clock.tick_thousandths(ms(5)), None);
    for n in 0..40u64 {
        // Every third pong is held up on its way back, by up to half a second.
        let (sent, held) = (n * 100, if n % 3 == 0 { 17 * n % 500 } else { n % 2 });
        let shard_tick = 6_000 + (sent + 25) * 60 / 1_000;
        clock.pong(ms(sent), ms(sent + 50 + held), shard_tick);
    }
    let found = clock.tick_thousandths(ms(5_000)).unwrap();
    let exact = 6_000_000 + 5_000 * 60;
    assert!(found.abs_diff(exact) < 600, "{found} instead of {exact}");
    assert_eq!(clock.round_trip(), Some(ms(50)));
    // What changes changes slowly, and never back in time.
    let mut before = found;
    for n in 0..100 {
        clock.pong(ms(5_000 + n * 10), ms(5_010 + n * 10), 6_000 + (5_000 + n * 10) * 60 / 1_000 - 3);
        let next = clock.tick_thousandths(ms(5_010 + n * 10)).unwrap();
        assert!(next >= before && next - before < 1_000, "from {before} to {next}");
        before = next;
    }
}

#[test]
fn a_correction_puts_the_player_right_and_glides() {
    let mut predictor = Predictor::new(ground(), GAIT, TickRate(60), start());
    let east = |sequence| MoveInput { sequence, direction_x: 127, direction_z: 0, yaw: 9, sprint: false };
    let poses: Vec<Pose> = (1..=10).map(|number| predictor.advance(east(number))).collect();
    assert_eq!(predictor.reconcile(4, poses[3]), Reconciled::Agreed);
    assert_eq!(predictor.reconcile(4, poses[0]), Reconciled::Stale);
    assert_eq!(predictor.unconfirmed(), 6);
    // The shard had it a step behind.
    let shown = predictor.shown();
    let corrected = predictor.reconcile(5, Pose { yaw: 9, ..poses[3] });
    let Reconciled::Corrected { error_mm } = corrected else { panic!("{corrected:?}") };
    assert!((60..=80).contains(&error_mm), "{error_mm} mm");
    assert_eq!(predictor.pose().position, poses[8].position);
    assert_eq!(predictor.shown(), shown, "what is shown does not jump");
    for number in 11..=40 {
        predictor.advance(MoveInput { direction_x: 0, ..east(number) });
    }
    assert_eq!(predictor.shown(), predictor.pose().position, "and comes to be right");
    // Far away: at once.
    predictor.reconcile(40, Pose { position: ground().at(90_000, 0), yaw: 9 });
    assert_eq!(predictor.shown(), ground().at(90_000, 0));
}

#[test]
fn playback_adapts_to_jitter_and_loses_nothing_of_the_way() {
    for (jitter, delay_max) in [(0u64, 60), (30, 100), (120, 190)] {
        let mut clock = PlaybackClock::new(HZ);
        let mut path = Path::default();
        let (mut late, mut before) = (0, 0);
        let mut arrivals: Vec<(u64, u64)> =
            (0..600u64).map(|n| (n * 50 + n.wrapping_mul(2_654_435_761) / 7 % (jitter + 1), n * 3)).collect();
        arrivals.sort_unstable();
        let mut arrivals = arrivals.into_iter().peekable();
        for now in 0..30_000 {
            while let Some((_, tick)) = arrivals.next_if(|(at, _)| *at <= now) {
                clock.arrived(ms(now), tick);
                path.push(tick, Pose { position: Position::new(tick as i32 * 10, 0, 0), yaw: (tick * 100) as u16 });
            }
            let shown = clock.tick_thousandths(ms(now)).unwrap();
            assert!(shown >= before || now < 3_000, "playback runs back");
            before = shown;
            let x = path.at(shown).unwrap().position.x;
            if now > 5_000 && i64::from(x).abs_diff(shown as i64 / 100) > 1 {
                late += 1;
            }
        }
        println!("jitter {jitter} ms: delay {:?}, late in {late} of 25,000 ms", clock.delay());
        assert!(clock.delay() <= ms(delay_max) && late < 1_000, "{:?}, late {late}", clock.delay());
    }
    let mut clock = PlaybackClock::new(HZ);
    (0..20).for_each(|n| clock.arrived(ms(n * 5_000), n));
    assert_eq!(clock.delay(), DELAY_MAX);
}

#[test]
fn a_path_turns_the_shorter_way_and_a_standing_entity_does_not_set_out_early() {
    let at = |x, yaw| Pose { position: Position::new(x, 0, 0), yaw };
    let mut path = Path::default();
    assert_eq!(path.at(0), None);
    path.push(10, at(0, 65_000));
    path.push(12, at(100, 464));
    assert_eq!(path.at(11_000), Some(at(50, 65_500)));
    assert_eq!((path.at(0), path.at(99_000)), (Some(at(0, 65_000)), Some(at(100, 464))));
    (13..60).for_each(|tick| path.unchanged(tick));
    path.push(60, at(200, 464));
    assert_eq!((path.at(50_000), path.at(59_500)), (Some(at(100, 464)), Some(at(150, 464))));
    path.push(11, at(7, 0));
    assert_eq!(path.at(11_000), Some(at(7, 0)));
    // Bounded, the oldest go.
    (100..500).for_each(|tick| path.push(tick, at(tick as i32, 0)));
    path.push(1, at(0, 0));
    assert_eq!(path.at(0).unwrap().position.x, 500 - 32);
}

#[test]
fn rewinding_finds_where_somebody_was_and_no_further_back_than_allowed() {
    let (anna, bert) = (EntityId(1), EntityId(2));
    let place = |x| Position::new(x, 0, 0);
    let mut rewind = Rewind::new(HZ);
    for tick in 1..=100u64 {
        let bert_there = tick <= 95;
        let places = [(anna, place(tick as i32 / 4)), (bert, place(7))];
        rewind.record(tick, places.into_iter().take(if bert_there { 2 } else { 1 }));
    }
    for tick in 88..=100 {
        assert_eq!(rewind.place_at(anna, tick), Ok(place(tick as i32 / 4)));
    }
    assert_eq!(rewind.place_at(anna, 87), Err(RewindRefusal::TooLongAgo { asked: 87, oldest: 88 }));
    assert_eq!(rewind.place_at(anna, 101), Err(RewindRefusal::Future { asked: 101, newest: 100 }));
    assert_eq!((rewind.place_at(bert, 95), rewind.place_at(bert, 96)), (Ok(place(7)), Err(RewindRefusal::NotThere)));
    assert_eq!((rewind.tick_seen(3), rewind.tick_seen(92), rewind.tick_seen(500)), (88, 92, 100));
    // Who was away comes back elsewhere: in between it was nowhere.
    rewind.record(101, [(anna, place(9)), (bert, place(70))]);
    assert_eq!((rewind.place_at(bert, 100), rewind.place_at(bert, 101)), (Err(RewindRefusal::NotThere), Ok(place(70))));
    (102..140).for_each(|tick| rewind.record(tick, [(anna, place(9))]));
    assert_eq!(rewind.place_at(bert, 139), Err(RewindRefusal::NotThere));
    assert_eq!(rewind.place_at(anna, 130), Ok(place(9)));
}
