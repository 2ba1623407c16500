//! The page's own arithmetic against the golden vectors, in a real JavaScript engine: Chromium loads a page that imports the client's
//! modules from the source tree, and prints what the page found.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CHROMIUM: &str = "/usr/bin/chromium";

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
