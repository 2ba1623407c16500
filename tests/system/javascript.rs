//! The page's own arithmetic against the golden vectors, in a real JavaScript engine: Chromium loads a page that imports the client's
//! modules from the source tree, and prints what the page found.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use vsekai_tests::browser::CHROMIUM;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Runs `script`, a module's text, and gives what it handed to `report`.
fn run(script: &str) -> String {
    assert!(Path::new(CHROMIUM).is_file(), "there is no {CHROMIUM}: apt-get install chromium");
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let text = format!(
        "<!doctype html><meta charset=utf-8><pre id=report></pre><script>
        const report = (text) => (document.getElementById('report').textContent = `<<${{text}}>>`);
        addEventListener('error', (event) => report(`error: ${{event.message}}`));
        addEventListener('unhandledrejection', (event) => report(`error: ${{event.reason}}`));
        </script><script type=module>{script}</script>"
    );
    std::fs::write(&page, text).unwrap();
    let output = Command::new(CHROMIUM)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"])
        // Modules from files, and time that goes on only while the page has something to do.
        .args(["--allow-file-access-from-files", "--virtual-time-budget=60000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.split_once("&lt;&lt;").and_then(|(_, rest)| rest.split_once("&gt;&gt;"));
    let complaint = || format!("no report: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    found.map(|(report, _)| report.replace("&amp;", "&")).unwrap_or_else(|| panic!("{}", complaint()))
}

#[test]
fn the_page_walks_and_reconciles_to_the_millimetre() {
    let root = repository();
    let vectors = std::fs::read_to_string(root.join("schema/fixtures/movement_v1.json")).unwrap();
    let script = format!(
        "import {{ step, Predictor, ClockSync, Pacer }} from 'file://{root}/net/web/prediction.js';
        import {{ Terrain }} from 'file://{root}/net/web/terrain.js';
        const walks = {vectors};
        {CHECK}",
        root = root.display()
    );
    assert_eq!(run(&script), "1050 steps, 0 wrong; 7 predictors: agreed 336, corrected 7, wrong 0; clock ok; pacer ok");
}

/// Every step by itself; then a predictor per walk, which is confirmed every third input six inputs late, and once told another
/// place, from which it must walk on as the vectors' step does.
const CHECK: &str = r"
let steps = 0, wrong = 0, agreed = 0, corrected = 0, astray = 0;
for (const walk of walks) {
  const ground = { terrain: new Terrain(BigInt(walk.seed)), halfMm: walk.half_mm };
  const gait = { walkMmS: walk.walk_mm_s, sprintMmS: walk.sprint_mm_s, climbMmPerM: walk.climb_mm_per_m };
  const [x, y, z, yaw] = walk.from;
  const inputs = walk.inputs_and_poses.map(([directionX, directionZ, yaw, sprint], at) => ({ sequence: at + 1, directionX, directionZ, yaw, sprint }));
  const poses = walk.inputs_and_poses.map(([, , yaw, , x, y, z]) => ({ x, y, z, yaw }));
  const same = (a, b) => a.x === b.x && a.y === b.y && a.z === b.z && a.yaw === b.yaw;
  inputs.forEach((input, at) => {
    const from = at === 0 ? { x, y, z, yaw } : poses[at - 1];
    steps += 1;
    if (!same(step(ground, gait, walk.tick_hz, from, input), poses[at])) wrong += 1;
  });
  const predictor = new Predictor(ground, gait, walk.tick_hz, { x, y, z, yaw });
  inputs.forEach((input, at) => {
    predictor.advance(input);
    if (!same(predictor.pose, poses[at])) astray += 1;
    if (at % 3 === 2 && at >= 6) {
      const error = predictor.reconcile(at - 5, poses[at - 6]);
      if (error === 0) agreed += 1;
    }
  });
  // The last snapshot has the player a millimetre off: what follows is walked again from there.
  const other = { ...poses[147], x: poses[147].x + (poses[147].x > 0 ? -1 : 1) };
  const shown = predictor.shown;
  if (predictor.reconcile(148, other) > 0 || predictor.counts.corrected === 1) corrected += 1;
  const again = [148, 149].reduce((pose, at) => step(ground, gait, walk.tick_hz, pose, inputs[at]), other);
  if (!same(predictor.pose, again) || predictor.reconcile(148, other) !== null || predictor.unconfirmed !== 2) astray += 1;
  if (Math.hypot(predictor.shown.x - shown.x, predictor.shown.z - shown.z) > 0) astray += 1;
}
const clock = new ClockSync(60);
for (let n = 0; n < 40; n += 1) {
  const held = n % 3 === 0 ? (17 * n) % 500 : n % 2;
  clock.pong(n * 100, n * 100 + 50 + held, 6_000 + Math.floor(((n * 100 + 25) * 60) / 1_000));
}
const clockRight = Math.abs(clock.tickAt(5_000) - 6_300) < 0.6 && clock.roundTrip === 50;
const pacer = new Pacer(60);
let made = 0;
for (let now = 0; now <= 10_000; now += 7) made += pacer.due(now);
const steady = made;
pacer.feedback(10_000, -9);
const leapt = pacer.due(10_000);
for (let now = 11_007; now <= 21_007; now += 7) { pacer.feedback(now, 0); made += pacer.due(now); }
const faster = made - steady;
const pacerRight = Math.abs(steady - 600) <= 1 && leapt === 10 && faster > 610 && faster < 645;
report(`${steps} steps, ${wrong} wrong; ${walks.length} predictors: agreed ${agreed}, corrected ${corrected}, wrong ${astray}; clock ${clockRight ? 'ok' : 'wrong'}; pacer ${pacerRight ? 'ok' : `${steady} ${leapt} ${faster}`}`);
";

/// The entries of a fixture file as a JavaScript object: name → bytes.
fn golden(file: &str) -> String {
    let text = std::fs::read_to_string(repository().join("schema/fixtures").join(file)).unwrap();
    let entry = |line: &str| {
        let (name, digits) = line.rsplit_once(' ').unwrap();
        format!("{name:?}: bytes({digits:?})")
    };
    format!("{{ {} }}", text.lines().map(entry).collect::<Vec<_>>().join(", "))
}

#[test]
fn the_page_reads_and_writes_the_golden_packets() {
    let script = format!(
        "import * as wire from 'file://{root}/net/web/wire.js';
        const bytes = (digits) => Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16));
        const messages = {messages}, datagrams = {datagrams}, motion = {motion}, views = {views}, server = {server};
        {GOLDEN}",
        messages = golden("wire_v2_client_message.txt"),
        datagrams = golden("wire_v2_client_datagram.txt"),
        motion = golden("wire_v2_motion.txt"),
        views = golden("wire_v2_view.txt"),
        server = golden("wire_v2_server_message.txt"),
        root = repository().display()
    );
    let motion = r#"{"kind":"motion","number":9,"tick":65535,"newestInput":300,"own":{"x":-123456,"z":2000000000,"yaw":40000,"y":-7},"updates":[{"slot":2,"age":0,"state":{"x":-1000,"z":5000,"yaw":3,"y":null}},{"slot":3,"age":3,"state":{"dx":0,"dz":0,"yaw":null,"y":null}},{"slot":7,"age":3,"state":{"dx":15,"dz":0,"yaw":null,"y":null}},{"slot":11,"age":4,"state":{"dx":0,"dz":100,"yaw":200,"y":null}},{"slot":15,"age":4,"state":{"dx":2000,"dz":0,"yaw":null,"y":-90}},{"slot":65535,"age":0,"state":{"x":-1000,"z":5000,"yaw":3,"y":40}}]}"#;
    let view = "leave_chunk forget_chunk enter:chunk spawn:chunk enter_mover:65535 spawn_mover:0 own change \
                despawn leave recall_chunk; components 1:2 300:0";
    let told = r#"{"kind":"welcome","protocol":2,"tickHz":60,"tick":99999,"player":1048576,"seed":"18446744073709551615","worldHalfMm":512000,"lastCommand":12,"content":"{}"} {"kind":"result","sequence":5,"frame":600,"outcome":{"kind":"done","items":[{"item":7,"count":3},{"item":0,"count":-4}],"entity":9}} {"kind":"resumed","tick":99999,"received":77}"#;
    let expected = format!(
        "{motion} 0 | 70 {view} | pong 5 72 | 12 of 12 | {told} | 21 rejections, 17 refusals as they are called | cut or longer, 0 of 384 taken"
    );
    assert_eq!(run(&script), expected);
}

/// What is read, and how many of what is written are the very bytes.
const GOLDEN: &str = r"
const packet = wire.decodeServerDatagram(motion.packet);
const empty = wire.decodeServerDatagram(motion.empty);
const place = (o) => (o.chunk ? ':chunk' : o.slot !== undefined ? `:${o.slot}` : '');
const view = wire.decodeView(views.view);
const parts = view.operations[7].components.map(([tag, body]) => `${tag}:${body.length}`).join(' ');
const pong = wire.decodeServerDatagram(views.pong);
const same = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);
const step = (sequence) => ({ sequence, directionX: 127, directionZ: 0, yaw: 300, sprint: true });
const message = wire.encodeClientMessage;
const command = (made) => message({ kind: 'command', sequence: 77, command: made });
const turned = { sequence: 300, directionX: -127, directionZ: 5, yaw: 49_152, sprint: true };
const written = [
  [message({ kind: 'hello', protocol: wire.PROTOCOL_VERSION, token: 'a-token-of-16-by', name: 'Ännchen', tickHz: 60 }), messages.hello],
  [message({ kind: 'goodbye' }), messages.goodbye],
  [message({ kind: 'resume', protocol: 2, secret: new Uint8Array(16).fill(0xab), results: 300 }), messages.resume],
  [message({ kind: 'seen', results: 16 }), messages.seen],
  [command({ kind: 'harvest', node: 5_000_000_000 }), messages.harvest],
  [command({ kind: 'craft', recipe: 3 }), messages.craft],
  [command({ kind: 'build', piece: 200, column: -7, row: 1_000, level: 2, turn: 3 }), messages.build],
  [command({ kind: 'demolish', structure: 1_024 }), messages.demolish],
  [command({ kind: 'move_items', from: 0, to: 23, count: 300 }), messages['move items']],
  [wire.encodeClientDatagram({ kind: 'ping', nonce: 0xffff_ffff, acks: null }), datagrams.ping],
  [wire.encodeClientDatagram({ kind: 'move', step: turned, acks: { newest: 300, before: 0xdead_beef } }), datagrams.move],
  [wire.encodeSteps([97, 98, 99, 100].map(step), null), [3, 100, 4, 127, 0, 44, 1, 1, 0, 0, 0, 0]],
];
const right = written.filter(([made, golden]) => same(made, golden)).length;
const plain = (_, value) => (typeof value === 'bigint' ? String(value) : value);
const told = ['welcome', 'done', 'resumed'].map((name) => JSON.stringify(wire.decodeServerMessage(server[name]), plain)).join(' ');
const called = (name, found) => wire.decodeServerMessage(server[name]).kind && found(wire.decodeServerMessage(server[name])) === name;
const rejections = Object.keys(wire.REJECTIONS).filter((name) => called(name, (read) => read.outcome.value)).length;
const refusals = Object.keys(wire.REFUSALS).filter((name) => called(name, (read) => read.reason)).length;
// Whatever is cut short or has a byte too many is refused.
const whole = [[motion.packet, wire.decodeServerDatagram], [views.pong, wire.decodeServerDatagram]];
for (const bytes of Object.values(server)) whole.push([bytes, wire.decodeServerMessage]);
let tried = 0, taken = 0;
for (const [bytes, decode] of whole) {
  for (const other of [...bytes.keys()].map((end) => bytes.slice(0, end)).concat([Uint8Array.of(...bytes, 0)])) {
    tried += 1;
    try {
      decode(other);
      taken += 1;
    } catch {
      // As it should be.
    }
  }
}
report(`${JSON.stringify(packet)} ${empty.updates.length} | ${view.tick} ${view.operations.map((o) => `${o.kind}${place(o)}`).join(' ')}; components ${parts} | ${pong.kind} ${pong.nonce} ${pong.tick} | ${right} of ${written.length} | ${told} | ${rejections} rejections, ${refusals} refusals as they are called | cut or longer, ${taken} of ${tried} taken`);
";

#[test]
fn the_page_reads_the_golden_poses_and_shows_them_a_little_later() {
    let script = format!(
        "import {{ PoseDecoder, TrackedBody, pointing }} from 'file://{root}/net/web/pose.js';
        import {{ POSE_LAYERS, POSE_PARTS }} from 'file://{root}/net/web/wire.js';
        const bytes = (digits) => Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16));
        const poses = {poses};
        {POSES}",
        poses = golden("pose_v1.txt"),
        root = repository().display()
    );
    assert_eq!(
        run(&script),
        "30 of 30 poses; without the anchor 4 of 4 that hang on it are dropped; cut or longer, 0 taken; shown 40 frames, \
         largest step 212 mm, then nobody; north 0.00 1.00, east 1.57 1.00"
    );
}

/// Each entry's name says what its bytes mean. Then the same stream as a page shows it, frame by frame.
const POSES: &str = r"
const words = (name) => name.split('_').map((word) => word[0].toUpperCase() + word.slice(1)).join('');
const inWords = ({ slot, layer, parts }) => {
  const part = (tracked, at) => (tracked ? ` ${words(POSE_PARTS[at])}=${tracked.position}/${tracked.rotation.leftOut}:${tracked.rotation.others}` : '');
  return `${slot} ${words(POSE_LAYERS[layer])}${parts.map(part).join('')}`;
};
const entries = Object.entries(poses);
const decoder = new PoseDecoder();
const right = entries.filter(([name, bytes]) => inWords(decoder.decode(0, bytes)) === name).length;

// The key and, but for the first anchor, what follows up to the second: all that hang on the lost one are dropped.
const lossy = new PoseDecoder();
const got = entries.slice(0, 9).filter((_, at) => at !== 4).map(([, bytes]) => lossy.decode(0, bytes));
const dropped = got.slice(4).filter((pose) => pose === null).length;

let taken = 0;
for (const [, bytes] of entries.slice(0, 5)) {
  for (const other of [...bytes.keys()].map((end) => bytes.slice(0, end)).concat([Uint8Array.of(...bytes, 0)])) {
    const fresh = new PoseDecoder();
    for (const [, before] of entries.slice(0, entries.findIndex(([, one]) => one === bytes))) fresh.decode(0, before);
    try {
      if (fresh.decode(0, other)) taken += 1;
    } catch {
      // As it should be.
    }
  }
}

// Twenty poses that come up to 8 ms late, looked at 120 times a second: the quick hand goes half of its way of 640 mm a frame, at most.
const body = new TrackedBody();
let shown = 0, largest = 0, last = null;
for (let frame = 0; frame < 60; frame += 1) {
  const now = 1_000 + (frame * 1_000) / 120;
  entries.slice(0, 20).forEach(([, bytes], at) => {
    const arrives = 1_000 + (at * 1_000) / 60 + (at % 3) * 4;
    if (arrives <= now && arrives > now - 1_000 / 120) body.take(arrives, bytes);
  });
  const hand = body.at(now)?.[2];
  if (hand && last) largest = Math.max(largest, Math.hypot(...hand.place.map((axis, at) => axis - last.place[at])));
  if (hand && frame < 40) shown += 1;
  last = hand;
}
const gone = body.at(5_000) === null ? 'nobody' : 'somebody';
const way = (turn) => { const { angle, reach } = pointing(turn); return `${angle.toFixed(2)} ${reach.toFixed(2)}`; };
const half = Math.SQRT1_2;
report(`${right} of ${entries.length} poses; without the anchor ${dropped} of ${got.length - 4} that hang on it are dropped; cut or longer, ${taken} taken; shown ${shown} frames, largest step ${Math.round(largest * 1_000)} mm, then ${gone}; north ${way([0, 0, 0, 1])}, east ${way([0, -half, 0, half])}`);
";
