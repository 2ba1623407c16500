//! What rigid bodies cost on the wire: a scene of them, a sender with the states that its one client acknowledged, and that client
//! behind a link that loses datagrams. It measures the packets of `vsekai_schema::wire::body` and their baselines; the game's simulation
//! has no rigid bodies yet, and the shard sends none.

mod simulation;

use anyhow::{Context, Result, ensure};
use simulation::{HZ, Random, Scene, Simulation};
use std::collections::VecDeque;
use vsekai_schema::units::Position;
use vsekai_schema::wire::MOTION_BYTES_MAX;
use vsekai_schema::wire::body::{
    BASE_AGE_MAX, Baseline, Before, Body, BodyHead, BodyWriter, EXPECT_TICKS_MAX, QUANTUM_MM, Update, decode_bodies,
};
use vsekai_schema::wire::motion::{Acks, HISTORY_TICKS, widen};
use vsekai_schema::wire::pose::Rotation;

/// Seconds until a scene is in motion and the client knows all of it.
const SETTLE_S: u32 = 5;
/// A place and a quaternion, plain.
const RAW_BYTES: u64 = 7 * 4;

/// What the client may be wrong about a body before it is told.
#[derive(Debug, Clone, Copy)]
struct Tolerance {
    mm: f64,
    degrees: f64,
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    scene: Scene,
    /// `None`: every change is told.
    tolerance: Option<Tolerance>,
    /// Acknowledgements are there so many ticks after what they acknowledge was sent.
    ack_ticks: u32,
    /// Size of a quantum of place.
    quantum_mm: i32,
}

const YARD: Case = Case {
    name: "yard, one ball",
    scene: Scene::Yard { stirrers: 1 },
    tolerance: None,
    ack_ticks: 3,
    quantum_mm: QUANTUM_MM,
};
const ASTEROIDS: Case = Case { name: "asteroids", scene: Scene::Asteroids, ..YARD };
const NEAR: Option<Tolerance> = Some(Tolerance { mm: 10.0, degrees: 0.5 });
const CASES: [Case; 9] = [
    YARD,
    Case { name: "yard, three balls", scene: Scene::Yard { stirrers: 3 }, ..YARD },
    Case { name: "yard, told when 10 mm or 0.5° off", tolerance: NEAR, ..YARD },
    ASTEROIDS,
    Case { name: "asteroids, told when 10 mm or 0.5° off", tolerance: NEAR, ..ASTEROIDS },
    Case {
        name: "asteroids, told when 20 mm or 1° off",
        tolerance: Some(Tolerance { mm: 20.0, degrees: 1.0 }),
        ..ASTEROIDS
    },
    Case { name: "asteroids, quanta of 10 mm", quantum_mm: 10, ..ASTEROIDS },
    Case { name: "asteroids, acknowledged after 1 tick", ack_ticks: 1, ..ASTEROIDS },
    Case { name: "asteroids, both", quantum_mm: 10, ack_ticks: 1, ..ASTEROIDS },
];

/// A table: bytes, and how right the client's picture is, by case and loss.
pub fn run(bodies: usize, seconds: u32, seed: u64) -> Result<()> {
    println!(
        "| {bodies} bodies, {HZ} Hz | lost | awake | B/s, heads included | updates/s | B per update | without expecting | \
         off at most | p99 | raw, those awake, B/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for case in CASES {
        for loss_percent in [0, 2] {
            let run = measure(&case, loss_percent, bodies, seconds, seed)?;
            let per_second = |count: u64| count as f64 / f64::from(seconds);
            let unexpected = run.bytes as f64 + (run.bits_unexpected as f64 - run.bits as f64) / 8.0;
            let ((most_mm, most_degrees), (mm, degrees)) = (run.off(1.0), run.off(0.99));
            println!(
                "| {} | {loss_percent} % | {:.0} % | {:.0} | {:.0} | {:.2} | {:.2} | {most_mm:.0} mm, {most_degrees:.2}° | \
                 {mm:.0} mm, {degrees:.2}° | {:.0} |",
                case.name,
                run.awake as f64 * 100.0 / (bodies as f64 * f64::from(seconds * HZ)),
                per_second(run.bytes),
                per_second(run.updates),
                run.bytes as f64 / run.updates.max(1) as f64,
                unexpected / run.updates.max(1) as f64,
                per_second(run.awake * RAW_BYTES),
            );
        }
    }
    println!("\nAll {bodies} raw, awake or not: {} B/s.", bodies as u64 * RAW_BYTES * u64::from(HZ));
    Ok(())
}

/// What came of one run.
#[derive(Debug, Default)]
struct Run {
    awake: u64,
    bytes: u64,
    updates: u64,
    /// Of the states in all updates, and what they would be without expecting bodies to go on.
    bits: u64,
    bits_unexpected: u64,
    /// How far off the client's picture was: of each awake body in each tick.
    off_mm: Vec<f32>,
    off_degrees: Vec<f32>,
}

impl Run {
    /// The error that this share of the samples does not exceed.
    fn off(&self, share: f64) -> (f32, f32) {
        let at =
            |values: &[f32]| values.get(((values.len().max(1) - 1) as f64 * share) as usize).copied().unwrap_or(0.0);
        (at(&self.off_mm), at(&self.off_degrees))
    }
}

fn measure(case: &Case, loss_percent: u32, bodies: usize, seconds: u32, seed: u64) -> Result<Run> {
    let Case { scene, tolerance, ack_ticks, quantum_mm, .. } = *case;
    let mut simulation = Simulation::new(scene, bodies, seed);
    let mut link = Random(seed ^ 0x10_55);
    let mut lost = || link.unit() * 100.0 < f64::from(loss_percent);
    let mut sender = Sender { slots: vec![Slot::default(); bodies], tolerance, number: 0 };
    let mut client = Client { slots: vec![VecDeque::new(); bodies], acks: None, heard: 0 };
    // What the client says is on its way for as long as both ways take.
    let mut on_way: VecDeque<Option<Acks>> = VecDeque::from(vec![None; ack_ticks as usize - 1]);
    let mut run = Run::default();
    for tick in 1..=(SETTLE_S + seconds) * HZ {
        if tick == SETTLE_S * HZ + 1 {
            run = Run::default();
        }
        simulation.tick();
        let truth = simulation.bodies.iter().map(|body| quantised(body, quantum_mm)).collect::<Result<Vec<Body>>>()?;
        for packet in sender.packets(tick, &truth, &mut run) {
            run.bytes += packet.len() as u64;
            if !lost() {
                client.take(&packet)?;
            }
        }
        for (slot, body) in truth.iter().enumerate() {
            if body.at_rest() && client.slots[slot].back().is_some_and(|(_, known)| known.state == *body) {
                continue;
            }
            run.awake += u64::from(!body.at_rest());
            if let Some((mm, degrees)) = client.off(slot, tick, body, tolerance.is_some()) {
                run.off_mm.push(mm as f32 * quantum_mm as f32 / QUANTUM_MM as f32);
                run.off_degrees.push(degrees as f32);
            }
        }
        on_way.push_back(client.acks.filter(|_| !lost()));
        if let Some(acks) = on_way.pop_front().flatten() {
            sender.acknowledged(acks);
        }
    }
    run.off_mm.sort_by(f32::total_cmp);
    run.off_degrees.sort_by(f32::total_cmp);
    if tolerance.is_none() && loss_percent == 0 {
        ensure!(run.off(1.0) == (0.0, 0.0), "nothing was lost, and yet the client is {:?} off", run.off(1.0));
    }
    Ok(run)
}

/// The state to be told. The codec has one size of quanta; for another one the world is made larger or smaller.
fn quantised(rigid: &simulation::Rigid, quantum_mm: i32) -> Result<Body> {
    let scale = 1_000.0 * f64::from(QUANTUM_MM) / f64::from(quantum_mm);
    let [x, y, z] = rigid.at.map(|metres| (metres * scale).round() as i32);
    let rotation = Rotation::from_real(rigid.turn).context("the simulation has come apart")?;
    Ok(Body::of(Position { x, y, z }, rotation, rigid.at_rest()))
}

fn off(body: &Body, place: [i32; 3], turn: [f64; 4]) -> (f64, f64) {
    let quantum = f64::from(QUANTUM_MM);
    let squares = body.place().into_iter().zip(place).map(|(a, b)| (f64::from(a - b) * quantum).powi(2));
    (squares.sum::<f64>().sqrt(), body.rotation().angle_to(turn))
}

/// What the sender knows of its client's picture of a body.
#[derive(Debug, Clone, Default)]
struct Slot {
    acknowledged: Option<(u32, Baseline)>,
    /// Sent since, with tick and packet; the client has it or not.
    unsure: Vec<(u32, u16, Baseline)>,
}

#[derive(Debug)]
struct Sender {
    slots: Vec<Slot>,
    tolerance: Option<Tolerance>,
    /// Of the next packet.
    number: u16,
}

impl Sender {
    /// The packets of `tick`.
    fn packets(&mut self, tick: u32, truth: &[Body], run: &mut Run) -> Vec<Vec<u8>> {
        let told: Vec<u16> = (0..self.slots.len())
            .filter(|slot| !self.is_known(*slot, tick, &truth[*slot]))
            .map(|slot| slot as u16)
            .collect();
        let gap = truth.len() / told.len().max(1);
        let mut packets = Vec::new();
        let mut open: Option<(u16, BodyWriter)> = None;
        for number in told {
            let (slot, body) = (&mut self.slots[usize::from(number)], truth[usize::from(number)]);
            let base = slot.acknowledged.filter(|(known, _)| tick - known <= BASE_AGE_MAX);
            let (age, state, baseline) = match base {
                None => (0, body.absolute(), Baseline::whole(body)),
                Some((known, base)) => {
                    let age = tick - known;
                    let before = Some(Before { state: base.state, ticks: age });
                    (age, body.since(&base, age), Baseline { state: body, before })
                }
            };
            run.updates += 1;
            run.bits += u64::from(state.len());
            run.bits_unexpected +=
                u64::from(base.map_or(state, |(_, base)| body.since(&Baseline::whole(base.state), age)).len());
            // A body takes 21 bytes at most, gap and age included.
            if let Some((_, full)) =
                open.take_if(|(_, writer)| writer.len() + 21 > MOTION_BYTES_MAX || !writer.has_room())
            {
                packets.push(full.finish());
            }
            let (packet, writer) = open.get_or_insert_with(|| {
                let head = BodyHead { number: self.number, tick: tick as u16 };
                self.number = self.number.wrapping_add(1);
                (head.number, BodyWriter::new(head, gap, MOTION_BYTES_MAX))
            });
            writer.push(number, age, state);
            slot.unsure.push((tick, *packet, baseline));
        }
        packets.extend(open.map(|(_, writer)| writer.finish()));
        packets
    }

    /// Does the client see the body where it is, whichever packets on the way arrived?
    fn is_known(&self, slot: usize, tick: u32, body: &Body) -> bool {
        let Slot { acknowledged: Some((known, base)), unsure } = &self.slots[slot] else { return false };
        let right = |known: u32, base: &Baseline| match self.tolerance {
            Some(tolerance) if !body.at_rest() && !base.state.at_rest() => {
                // Some tries more before nothing is expected of it any longer: they may be lost.
                if tick - known + 4 > EXPECT_TICKS_MAX {
                    return false;
                }
                let expected = base.expected(tick - known);
                let (mm, degrees) = off(body, expected.place(), expected.turn());
                mm <= tolerance.mm && degrees <= tolerance.degrees
            }
            _ => base.state == *body,
        };
        right(*known, base) && unsure.iter().all(|(known, _, base)| right(*known, base))
    }

    fn acknowledged(&mut self, acks: Acks) {
        for slot in &mut self.slots {
            let arrived = slot.unsure.iter().filter(|(_, number, _)| acks.has(*number)).max_by_key(|(tick, ..)| *tick);
            let newest = arrived.map(|(tick, _, baseline)| (*tick, *baseline));
            if let Some(newest) = newest.filter(|(tick, _)| slot.acknowledged.is_none_or(|(known, _)| known < *tick)) {
                slot.acknowledged = Some(newest);
            }
            let known = slot.acknowledged.map_or(0, |(tick, _)| tick);
            // What is older than what it has is shown no more; of what is too old to be acknowledged nothing will be heard.
            slot.unsure.retain(|(tick, number, _)| {
                let behind = acks.newest.wrapping_sub(*number) as i16;
                *tick > known && behind <= 32
            });
        }
    }
}

#[derive(Debug)]
struct Client {
    /// The states of each body, with their ticks.
    slots: Vec<VecDeque<(u32, Baseline)>>,
    acks: Option<Acks>,
    /// The tick of the newest packet.
    heard: u32,
}

impl Client {
    fn take(&mut self, packet: &[u8]) -> Result<()> {
        let (head, updates) = decode_bodies(packet)?;
        let tick = widen(head.tick, self.heard.into()) as u32;
        self.heard = self.heard.max(tick);
        for (number, update) in updates {
            let states = self.slots.get_mut(usize::from(number)).context("there is no such slot")?;
            let baseline = match update {
                Update::Absolute(body) => Baseline::whole(body),
                Update::Since { age, change } => {
                    let base = states.iter().rev().find(|(known, _)| known + age == tick);
                    let (_, base) = base.with_context(|| format!("slot {number}: nothing of {age} ticks ago"))?;
                    let before = Some(Before { state: base.state, ticks: age });
                    Baseline { state: change.from(base, age)?, before }
                }
            };
            states.push_back((tick, baseline));
            while states.front().is_some_and(|(known, _)| known + HISTORY_TICKS < tick) && states.len() > 1 {
                states.pop_front();
            }
        }
        self.acks.get_or_insert(Acks::first(head.number)).add(head.number);
        Ok(())
    }

    /// How far off the picture of a body is, millimetres and degrees. `expects`: what is not in a packet went on as it went,
    /// else it has not changed. What is in no packet of this tick, for it was lost, is always taken to have gone on.
    fn off(&self, slot: usize, tick: u32, body: &Body, expects: bool) -> Option<(f64, f64)> {
        let (known, baseline) = self.slots[slot].back()?;
        if *known == tick || (self.heard == tick && !expects) {
            return Some(off(body, baseline.state.place(), baseline.state.rotation().to_real()));
        }
        let expected = baseline.expected(tick - known);
        Some(off(body, expected.place(), expected.turn()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_right_and_nearly_so_when_packets_are_lost() {
        for case in [&CASES[0], &CASES[4]] {
            let run = measure(case, 0, 40, 3, 7).unwrap();
            let (mm, degrees) = run.off(1.0);
            let limit = case.tolerance.map_or((0.0, 0.0), |tolerance| (tolerance.mm, tolerance.degrees));
            assert!(f64::from(mm) <= limit.0 && f64::from(degrees) <= limit.1, "{}: {mm} mm, {degrees}°", case.name);
            assert!(run.updates > 0 && run.bits < run.bits_unexpected);
            let lossy = measure(case, 20, 40, 3, 7).unwrap();
            assert!(lossy.updates >= run.updates && lossy.off(0.5).0 <= 20.0, "{}: {:?}", case.name, lossy.off(0.5));
        }
    }
}
