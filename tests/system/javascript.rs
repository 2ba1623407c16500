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
        const messages = {messages}, datagrams = {datagrams}, motion = {motion}, views = {views};
        {GOLDEN}",
        messages = golden("wire_v2_client_message.txt"),
        datagrams = golden("wire_v2_client_datagram.txt"),
        motion = golden("wire_v2_motion.txt"),
        views = golden("wire_v2_view.txt"),
        root = repository().display()
    );
    let motion = r#"{"kind":"motion","number":9,"tick":65535,"newestInput":300,"own":{"x":-123456,"z":2000000000,"yaw":40000,"y":-7},"updates":[{"slot":2,"age":0,"x":-1000,"z":5000,"yaw":3,"y":null},{"slot":3,"age":3,"dx":0,"dz":0,"yaw":null,"y":null},{"slot":7,"age":3,"dx":15,"dz":0,"yaw":null,"y":null},{"slot":11,"age":4,"dx":0,"dz":100,"yaw":200,"y":null},{"slot":15,"age":4,"dx":2000,"dz":0,"yaw":null,"y":-90},{"slot":65535,"age":0,"x":-1000,"z":5000,"yaw":3,"y":40}]}"#;
    let view = "leaveChunk forgetChunk introduce:chunk introduce+:chunk introduce:65535 introduce+:0 introduce:own change \
                despawn leave recallChunk";
    assert_eq!(run(&script), format!("{motion} 0 | 70 {view} | pong 5 72 | 11 of 11"));
}

/// What is read, and how many of what is written are the very bytes.
const GOLDEN: &str = r"
const packet = wire.decodeServerDatagram(motion.packet);
const empty = wire.decodeServerDatagram(motion.empty);
const place = (o) => (o.kind === 'introduce' ? `:${o.chunk ? 'chunk' : (o.slot ?? 'own')}` : '');
const view = wire.decodeView(views.view);
const pong = wire.decodeServerDatagram(views.pong);
const same = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);
const step = (sequence) => ({ sequence, directionX: 127, directionZ: 0, yaw: 300, sprint: true });
const command = (made) => wire.encodeCommand(77, made);
const written = [
  [wire.encodeHello({ token: 'a-token-of-16-by', name: 'Ännchen', tickHz: 60 }), messages.hello],
  [wire.encodeGoodbye(), messages.goodbye],
  [wire.encodeResume({ secret: new Uint8Array(16).fill(0xab), results: 300 }), messages.resume],
  [wire.encodeSeen(16), messages.seen],
  [command({ kind: 'harvest', node: 5_000_000_000 }), messages.harvest],
  [command({ kind: 'craft', recipe: 3 }), messages.craft],
  [command({ kind: 'build', piece: 200, column: -7, row: 1_000, level: 2, turn: 3 }), messages.build],
  [command({ kind: 'demolish', structure: 1_024 }), messages.demolish],
  [command({ kind: 'move_items', from: 0, to: 23, count: 300 }), messages['move items']],
  [wire.encodePing({ nonce: 0xffff_ffff, acks: null }), datagrams.ping],
  [wire.encodeSteps([97, 98, 99, 100].map(step), null), [3, 100, 4, 127, 0, 44, 1, 1, 0, 0, 0, 0]],
];
const right = written.filter(([made, golden]) => same(made, golden)).length;
report(`${JSON.stringify(packet)} ${empty.updates.length} | ${view.tick} ${view.operations.map((o) => `${o.kind}${o.spawned ? '+' : ''}${place(o)}`).join(' ')} | ${pong.kind} ${pong.nonce} ${pong.tick} | ${right} of ${written.length}`);
";
