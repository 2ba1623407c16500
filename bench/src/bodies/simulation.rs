//! A small simulation of rigid bodies, to have something to send: cubes of 1 m that collide as spheres, with impulses,
//! friction and spin. Deterministic: one seed gives the same run everywhere, for it only adds, multiplies, divides and takes square
//! roots. It is no part of the game.

/// Ticks a second.
pub const HZ: u32 = 30;
const SUBSTEPS: u32 = 4;
const STEP_S: f64 = 1.0 / (HZ * SUBSTEPS) as f64;
/// Of the sphere by which a cube of 1 m collides.
const RADIUS_M: f64 = 0.5;
/// Of a cube of 1 m, for each kilogram.
const INERTIA: f64 = 1.0 / 6.0;
const FRICTION: f64 = 0.5;
/// Of the speed at which two meet, what is left behind a bump; slow ones do not bounce.
const BOUNCE: f64 = 0.3;
const BOUNCE_FROM_M_S: f64 = 0.5;
/// One that is slower than this for so many ticks, and lies on something, sleeps.
const SLEEP_M_S: f64 = 0.12;
const SLEEP_TICKS: u32 = 12;
/// A sleeping one wakes when it is hit faster than this.
const WAKE_M_S: f64 = 0.25;

/// Half a side of the walled yard.
const YARD_M: f64 = 12.0;
const STIRRER_HEIGHT_M: f64 = 0.7;
const STIRRER_M: f64 = 4.0;
const STIRRER_M_S: f64 = 6.0;

/// Of the hollow sphere in which asteroids fly, and of the planetoid in its middle.
const HOLLOW_M: f64 = 25.0;
const PLANETOID_M: f64 = 6.0;

type Vector = [f64; 3];

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// Gravity, a floor with walls, and balls of force that move about and stir what lies there.
    Yard {
        /// How many balls.
        stirrers: usize,
    },
    /// No gravity: asteroids in a hollow sphere with a planetoid in its middle speed up and slow down all the time and
    /// collide, as in the open benchmark of KinematicSoup. None ever rests.
    Asteroids,
}

/// One body.
#[derive(Debug, Clone, Copy)]
pub struct Rigid {
    /// East, up, south; metres.
    pub at: Vector,
    /// A unit quaternion (x, y, z, w).
    pub turn: [f64; 4],
    velocity: Vector,
    spin: Vector,
    /// For how many ticks it has been slow.
    slow_ticks: u32,
    touches: bool,
    target_m_s: f64,
}

impl Rigid {
    /// It sleeps until it is hit.
    pub fn at_rest(&self) -> bool {
        self.slow_ticks >= SLEEP_TICKS
    }
}

/// All bodies of a scene.
#[derive(Debug)]
pub struct Simulation {
    /// The bodies.
    pub bodies: Vec<Rigid>,
    scene: Scene,
    random: Random,
    /// Where each ball of force is, and where it goes.
    stirrers: Vec<(Vector, Vector)>,
}

/// Splitmix64 (G. Steele, D. Lea, C. Flood, 2014).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Between 0 and 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + self.unit() * (most - least)
    }

    fn inside_sphere(&mut self) -> Vector {
        loop {
            let vector = [0; 3].map(|_| self.between(-1.0, 1.0));
            if dot(vector, vector) <= 1.0 {
                return vector;
            }
        }
    }
}

impl Simulation {
    /// `count` bodies at their beginning.
    pub fn new(scene: Scene, count: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut bodies: Vec<Rigid> = Vec::with_capacity(count);
        while bodies.len() < count {
            let number = bodies.len();
            let (at, velocity, spin) = match scene {
                Scene::Yard { .. } => {
                    // Layers of 12 by 12 that fall down.
                    let (layer, column, row) = (number / 144, number % 12, number / 12 % 12);
                    let place =
                        |index: usize, random: &mut Random| index as f64 * 1.8 - 9.9 + random.between(-0.3, 0.3);
                    (
                        [place(column, &mut random), 1.0 + 1.6 * layer as f64, place(row, &mut random)],
                        [0.0; 3],
                        [0.0; 3],
                    )
                }
                Scene::Asteroids => {
                    let at = scale(random.inside_sphere(), HOLLOW_M - 1.0);
                    if dot(at, at).sqrt() < PLANETOID_M + 1.0 {
                        continue;
                    }
                    (at, scale(random.inside_sphere(), 4.0), scale(random.inside_sphere(), 1.0))
                }
            };
            let free = |other: &Rigid| dot(minus(other.at, at), minus(other.at, at)) > 4.0 * RADIUS_M * RADIUS_M;
            if bodies.iter().all(free) {
                let target_m_s = random.between(1.0, 6.0);
                let turn = [0.0, 0.0, 0.0, 1.0];
                bodies.push(Rigid { at, turn, velocity, spin, slow_ticks: 0, touches: false, target_m_s });
            }
        }
        let stirrers = match scene {
            Scene::Yard { stirrers } => vec![([0.0, STIRRER_HEIGHT_M, 0.0], [0.0, STIRRER_HEIGHT_M, 0.0]); stirrers],
            Scene::Asteroids => Vec::new(),
        };
        Simulation { bodies, scene, random, stirrers }
    }

    /// One tick.
    pub fn tick(&mut self) {
        for body in &mut self.bodies {
            body.touches = false;
        }
        for _ in 0..SUBSTEPS {
            match self.scene {
                Scene::Yard { .. } => self.stir(),
                Scene::Asteroids => self.drive(),
            }
            self.collide();
            for body in &mut self.bodies {
                body.advance();
            }
        }
        for body in &mut self.bodies {
            let slow = dot(body.velocity, body.velocity) + INERTIA * dot(body.spin, body.spin) < SLEEP_M_S * SLEEP_M_S;
            let may_rest = self.scene != Scene::Asteroids && (body.touches || body.at_rest());
            body.slow_ticks = if slow && may_rest { (body.slow_ticks + 1).min(SLEEP_TICKS) } else { 0 };
            if body.at_rest() {
                (body.velocity, body.spin) = ([0.0; 3], [0.0; 3]);
            }
        }
    }

    /// Gravity, and the balls of force on their way.
    fn stir(&mut self) {
        for (at, to) in &mut self.stirrers {
            let way = minus(*to, *at);
            let distance = dot(way, way).sqrt();
            if distance < 0.5 {
                let most = YARD_M - 1.0;
                *to = [self.random.between(-most, most), STIRRER_HEIGHT_M, self.random.between(-most, most)];
            } else {
                *at = plus(*at, scale(way, STIRRER_M_S * STEP_S / distance));
            }
        }
        for body in &mut self.bodies {
            for (stirrer, _) in &self.stirrers {
                let away = minus(body.at, *stirrer);
                let distance = dot(away, away).sqrt().max(0.1);
                if distance < STIRRER_M {
                    body.slow_ticks = 0;
                    let push = 40.0 * (1.0 - distance / STIRRER_M);
                    body.velocity = plus(body.velocity, scale(away, push * STEP_S / distance));
                }
            }
            if !body.at_rest() {
                body.velocity[1] -= 9.81 * STEP_S;
            }
        }
    }

    /// Each asteroid goes for a speed of its own, which it changes now and then.
    fn drive(&mut self) {
        for body in &mut self.bodies {
            if self.random.unit() < STEP_S / 4.0 {
                body.target_m_s = self.random.between(1.0, 6.0);
            }
            let speed = dot(body.velocity, body.velocity).sqrt().max(0.01);
            let change = (body.target_m_s - speed).clamp(-2.0 * STEP_S, 2.0 * STEP_S);
            body.velocity = scale(body.velocity, 1.0 + change / speed);
        }
    }

    fn collide(&mut self) {
        for first in 0..self.bodies.len() {
            let (before, behind) = self.bodies.split_at_mut(first + 1);
            let a = &mut before[first];
            for b in behind {
                let between = minus(a.at, b.at);
                if between[0].abs() < 2.0 * RADIUS_M && dot(between, between) < 4.0 * RADIUS_M * RADIUS_M {
                    bump(a, b, between);
                }
            }
            match self.scene {
                Scene::Yard { .. } => {
                    a.wall([0.0, 1.0, 0.0], a.at[1] - RADIUS_M);
                    for axis in [0, 2] {
                        for side in [-1.0, 1.0] {
                            let mut normal = [0.0; 3];
                            normal[axis] = side;
                            a.wall(normal, YARD_M - RADIUS_M + side * a.at[axis]);
                        }
                    }
                }
                Scene::Asteroids => {
                    let distance = dot(a.at, a.at).sqrt().max(0.01);
                    let outwards = scale(a.at, 1.0 / distance);
                    a.wall(outwards, distance - PLANETOID_M - RADIUS_M);
                    a.wall(scale(outwards, -1.0), HOLLOW_M - RADIUS_M - distance);
                }
            }
        }
    }
}

impl Rigid {
    /// Something that does not move, `gap` away along `normal`.
    fn wall(&mut self, normal: Vector, gap: f64) {
        if gap >= 0.0 {
            return;
        }
        self.touches = true;
        if self.at_rest() {
            return;
        }
        self.at = plus(self.at, scale(normal, -0.5 * gap));
        let lever = scale(normal, -RADIUS_M);
        let speed = plus(self.velocity, cross(self.spin, lever));
        let impulse = impulse(normal, speed, 1.0, 1.0 / INERTIA);
        self.velocity = plus(self.velocity, impulse);
        self.spin = plus(self.spin, scale(cross(lever, impulse), 1.0 / INERTIA));
        // A cube does not roll as a sphere does.
        self.spin = scale(self.spin, 1.0 - 4.0 * STEP_S);
    }

    fn advance(&mut self) {
        if self.at_rest() {
            return;
        }
        self.at = plus(self.at, scale(self.velocity, STEP_S));
        let ([x, y, z, w], [a, b, c]) = (self.turn, scale(self.spin, STEP_S / 2.0));
        // The derivative of a rotation is half its spin times itself.
        let turned = [
            x + a * w + b * z - c * y,
            y + b * w + c * x - a * z,
            z + c * w + a * y - b * x,
            w - a * x - b * y - c * z,
        ];
        let length = turned.iter().map(|part| part * part).sum::<f64>().sqrt();
        self.turn = turned.map(|part| part / length);
    }
}

/// Two bodies meet; `between` leads from `b` to `a`.
fn bump(a: &mut Rigid, b: &mut Rigid, between: Vector) {
    let distance = dot(between, between).sqrt().max(0.01);
    let normal = scale(between, 1.0 / distance);
    (a.touches, b.touches) = (true, true);
    let speed = minus(a.velocity, b.velocity);
    if a.at_rest() && b.at_rest() {
        return;
    }
    if dot(speed, speed) > WAKE_M_S * WAKE_M_S {
        (a.slow_ticks, b.slow_ticks) = (0, 0);
    }
    // One that sleeps on is as fixed as the ground.
    let shares = [a.at_rest(), b.at_rest()].map(|rests| if rests { 0.0 } else { 1.0 });
    let depth = (2.0 * RADIUS_M - distance) * 0.5 / (shares[0] + shares[1]);
    let levers = [scale(normal, -RADIUS_M), scale(normal, RADIUS_M)];
    let speed = minus(plus(a.velocity, cross(a.spin, levers[0])), plus(b.velocity, cross(b.spin, levers[1])));
    let both = shares[0] + shares[1];
    let impulse = impulse(normal, speed, both, both / INERTIA);
    for (body, share, lever) in [(a, shares[0], levers[0]), (b, -shares[1], levers[1])] {
        body.at = plus(body.at, scale(normal, share * depth));
        body.velocity = plus(body.velocity, scale(impulse, share));
        body.spin = plus(body.spin, scale(cross(lever, impulse), share / INERTIA));
        body.spin = scale(body.spin, 1.0 - share.abs() * 2.0 * STEP_S);
    }
}

/// What two bodies give each other where they touch at `speed`, with Coulomb's friction. `mass` and `inertia` are inverse.
fn impulse(normal: Vector, speed: Vector, mass: f64, inertia: f64) -> Vector {
    let closing = -dot(speed, normal);
    if closing <= 0.0 {
        return [0.0; 3];
    }
    let bounce = if closing > BOUNCE_FROM_M_S { BOUNCE } else { 0.0 };
    let push = closing * (1.0 + bounce) / mass;
    let sliding = plus(speed, scale(normal, closing));
    let slides = dot(sliding, sliding).sqrt();
    if slides < 1e-9 {
        return scale(normal, push);
    }
    let stop = slides / (mass + inertia * RADIUS_M * RADIUS_M);
    plus(scale(normal, push), scale(sliding, -stop.min(FRICTION * push) / slides))
}

fn plus(a: Vector, b: Vector) -> Vector {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

fn minus(a: Vector, b: Vector) -> Vector {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn scale(a: Vector, by: f64) -> Vector {
    a.map(|part| part * by)
}

fn dot(a: Vector, b: Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: Vector, b: Vector) -> Vector {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}
