//! A real browser on the shard's page: Chromium without a window, driven by real key presses and mouse clicks.

use fantoccini::Locator;
use fantoccini::actions::{InputSource, KeyAction, KeyActions, MOUSE_BUTTON_LEFT, MouseActions, PointerAction};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;
use vsekai_bench::bot::Style;
use vsekai_bench::process::ShardProcess;
use vsekai_tests::browser::Browser;
use vsekai_tests::harness::{Bots, eventually};

const PATIENCE: Duration = Duration::from_secs(30);
/// So many that one of them is nearby when the picture is taken.
const WALKERS: usize = 10;
const SCREENSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/artefacts/browser.png");

/// The shard's page in a browser.
struct Page(Browser);

impl Page {
    /// What the page knows, see `window.vsekai` in `net/web/main.js`. Null while it does not know that much.
    async fn debug(&self) -> Value {
        self.0.evaluate("window.vsekai?.debug()").await
    }

    /// Waits until `look` finds something in what the page knows.
    async fn see<T>(&self, what: &str, mut look: impl FnMut(&Value) -> Option<T>) -> T {
        eventually(what, PATIENCE, async || look(&self.debug().await)).await
    }

    /// Waits until the player stands, also where the shard has it, and says where.
    async fn standing(&self) -> (f64, f64) {
        let (mut last, mut unchanged) = (None, 0);
        self.see("the player to stand", |debug| {
            let now = position(debug);
            unchanged = if now == last { unchanged + 1 } else { 0 };
            last = now;
            now.filter(|_| unchanged >= 10)
        })
        .await
    }

    async fn element(&self, test_id: &str) -> fantoccini::elements::Element {
        self.0.client.find(Locator::Css(&format!("[data-testid='{test_id}']"))).await.unwrap()
    }

    async fn press(&self, actions: impl IntoIterator<Item = KeyAction>) {
        let keys = actions.into_iter().fold(KeyActions::new("keyboard".into()), KeyActions::then);
        self.0.client.perform_actions(keys).await.unwrap();
    }

    /// Clicks with the mouse, as a hand does: moves there, presses, lets go.
    async fn click_at(&self, (x, y): (f64, f64)) {
        let mouse = MouseActions::new("mouse".into())
            .then(PointerAction::MoveTo { duration: Some(Duration::from_millis(40)), x: x.round(), y: y.round() })
            .then(PointerAction::Down { button: MOUSE_BUTTON_LEFT })
            .then(PointerAction::Pause { duration: Duration::from_millis(30) })
            .then(PointerAction::Up { button: MOUSE_BUTTON_LEFT });
        self.0.client.perform_actions(mouse).await.unwrap();
    }

    /// Where a point of the world is on the page, once the camera stands still.
    async fn screen(&self, x_mm: f64, z_mm: f64) -> (f64, f64) {
        let mut before = (f64::NAN, f64::NAN);
        eventually("the camera to stand still", PATIENCE, async || {
            let point = self.0.evaluate(&format!("window.vsekai.screen({x_mm}, {z_mm})")).await;
            let point = (point["x"].as_f64().unwrap(), point["y"].as_f64().unwrap());
            let still = (point.0 - before.0).hypot(point.1 - before.1) < 0.2;
            before = point;
            still.then_some(point)
        })
        .await
    }

    /// Walks by keys until the player is within `near_mm` of where `target` says.
    async fn walk_to(&self, near_mm: f64, mut target: impl FnMut(&Value) -> Option<(f64, f64)>) {
        let mut held = BTreeSet::new();
        eventually("the way there", PATIENCE * 2, async || {
            let debug = self.debug().await;
            let (x, z) = position(&debug)?;
            let (to_x, to_z) = target(&debug)?;
            let arrived = (to_x - x).hypot(to_z - z) < near_mm;
            let mut wanted = BTreeSet::new();
            if !arrived {
                // One key alone, too, when the other direction is nearly right.
                let slack = near_mm / 2.0;
                wanted.extend((to_x - x > slack).then_some('d').or((x - to_x > slack).then_some('a')));
                wanted.extend((to_z - z > slack).then_some('s').or((z - to_z > slack).then_some('w')));
            }
            let up = held.difference(&wanted).map(|key| KeyAction::Up { value: *key });
            let down = wanted.difference(&held).map(|key| KeyAction::Down { value: *key });
            let changes: Vec<_> = up.chain(down).collect();
            if !changes.is_empty() {
                self.press(changes).await;
            }
            held = wanted;
            arrived.then_some(())
        })
        .await;
    }

    /// Waits for one more result than `before`, and returns it.
    async fn result_after(&self, before: usize) -> Value {
        self.see("the result", |debug| debug["results"].as_array()?.get(before).cloned()).await
    }
}

fn position(debug: &Value) -> Option<(f64, f64)> {
    place(&debug["position"])
}

fn place(value: &Value) -> Option<(f64, f64)> {
    Some((value["x"].as_f64()?, value["z"].as_f64()?))
}

/// Head, left and right hand of one of the others, metres from its feet, if it has trackers.
fn tracked(other: &Value) -> Option<[[f64; 3]; 3]> {
    let place = |part: &Value| Some([part[0].as_f64()?, part[1].as_f64()?, part[2].as_f64()?]);
    let parts = &other["tracked"];
    Some([place(&parts[0])?, place(&parts[1])?, place(&parts[2])?])
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

fn held(debug: &Value, item: &str) -> i64 {
    debug["inventory"][item].as_i64().unwrap_or(0)
}

/// The nearest pine with something left, as `nodes` of the page are sorted by distance.
fn nearest_pine(debug: &Value) -> Option<(String, (f64, f64))> {
    let nodes = debug["nodes"].as_array()?;
    let pine = nodes.iter().find(|node| node["key"] == "pine" && node["left"].as_i64() > Some(0))?;
    Some((pine["id"].to_string(), place(pine)?))
}

/// The port of an address that nobody uses now.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_player_in_chromium_walks_harvests_builds_and_survives_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let http = free_address();
    let shard = ShardProcess::start_at(&http, folder.path(), &[]).unwrap();
    // They only walk and talk with their hands: all that is built here is built by the page.
    let bots = Bots::start(&shard, WALKERS, 41, Style::Gesturing);
    let page = Page(Browser::start().await);

    // Joins as a person does.
    page.0.client.goto(&shard.url).await.unwrap();
    let name = page.element("name").await;
    name.click().await.unwrap();
    name.send_keys("Ada").await.unwrap();
    page.element("join").await.click().await.unwrap();
    let joined = page
        .see("the player in the world", |debug| {
            (debug["connected"] == true && position(debug).is_some() && debug["inventory"] != json!({}))
                .then(|| debug.clone())
        })
        .await;
    assert_eq!((&joined["name"], &joined["inventory"]), (&json!("Ada"), &json!({ "wood": 10, "fibre": 6 })));

    // Walks, in the direction of the key.
    for (key, (east, south)) in [('d', (1.0, 0.0)), ('s', (0.0, 1.0)), ('a', (-1.0, 0.0)), ('w', (0.0, -1.0))] {
        let from = page.standing().await;
        page.press([KeyAction::Down { value: key }]).await;
        let what = format!("a walk of three metres by {key}");
        let along = |to: (f64, f64)| (to.0 - from.0) * east + (to.1 - from.1) * south;
        let across = |to: (f64, f64)| ((to.0 - from.0) * south).abs() + ((to.1 - from.1) * east).abs();
        let to = page.see(&what, |debug| position(debug).filter(|to| along(*to) > 3_000.0)).await;
        page.press([KeyAction::Up { value: key }]).await;
        assert!(across(to) < 300.0, "{key} led from {from:?} to {to:?}");
    }

    // Sees another player move.
    let others =
        page.see("the other players", |debug| debug["others"].as_array().filter(|o| o.len() == WALKERS).cloned()).await;
    let other = &others[0];
    let other_id = other["id"].clone();
    let there = place(other).unwrap();
    let find = |debug: &Value| debug["others"].as_array()?.iter().find(|o| o["id"] == other_id).and_then(place);
    page.see("another player to walk a metre", |debug| {
        find(debug).filter(|now| (now.0 - there.0).hypot(now.1 - there.1) > 1_000.0)
    })
    .await;
    assert!(other["name"].as_str().unwrap().starts_with("bot "), "{other}");

    // Harvests a pine with the mouse.
    let (pine, at) = page.see("a pine", nearest_pine).await;
    page.walk_to(2_500.0, |_| Some(at)).await;
    let before = page.debug().await;
    let results = before["results"].as_array().unwrap().len();
    page.click_at(page.screen(at.0, at.1).await).await;
    let harvest = page.result_after(results).await;
    assert_eq!((&harvest["command"], &harvest["ok"]), (&json!("harvest"), &json!(true)), "{harvest}");
    let text = harvest["text"].as_str().unwrap();
    let gain: i64 = text.strip_prefix('+').and_then(|text| text.strip_suffix(" Wood")).unwrap().parse().unwrap();
    assert!((2..=4).contains(&gain), "{text}");
    let wood = held(&before, "wood") + gain;
    page.see("the wood in the inventory", |debug| (held(debug, "wood") == wood).then_some(())).await;
    let left = |debug: &Value| {
        let nodes = debug["nodes"].as_array().unwrap().clone();
        nodes
            .iter()
            .find(|node| node["id"].as_u64().map(|id| id.to_string()).as_deref() == Some(pine.as_str()))
            .unwrap()["left"]
            .as_i64()
            .unwrap()
    };
    let left_before = left(&before);
    page.see("the pine to be smaller", |debug| (left(debug) == left_before - 1).then_some(())).await;
    let toasts = page.element("toasts").await.text().await.unwrap();
    assert!(toasts.contains(text), "the toasts say {toasts:?}");

    // Saws planks with the button, three times.
    for sawn in 1..=3 {
        page.element("craft-plank").await.click().await.unwrap();
        let wanted = (wood - sawn, 2 * sawn);
        let have = |debug: &Value| (held(debug, "wood"), held(debug, "plank"));
        page.see("the planks", |debug| (have(debug) == wanted).then_some(())).await;
    }

    // Builds a foundation with the mouse: on the first of the cells around where the ground allows it.
    page.element("piece-foundation").await.click().await.unwrap();
    page.see("the foundation in hand", |debug| (debug["tool"] == "foundation").then_some(())).await;
    let (x, z) = page.see("the own position", position).await;
    let cell = |x: f64| (x / 2_000.0).floor();
    let mut built = None;
    for (dx, dz) in [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (1.0, 1.0), (-1.0, 1.0), (0.0, 0.0)] {
        let (column, row) = (cell(x) + dx, cell(z) + dz);
        let results = page.debug().await["results"].as_array().unwrap().len();
        page.click_at(page.screen((column + 0.5) * 2_000.0, (row + 0.5) * 2_000.0).await).await;
        let result = page.result_after(results).await;
        assert_eq!(result["command"], "build");
        if result["ok"] == true {
            assert_eq!(result["text"], "Built Wooden foundation (−4 Plank)");
            built = Some((column as i64, row as i64));
            break;
        }
        assert_eq!(result["text"], "Cannot build: the ground is too steep");
    }
    let (column, row) = built.expect("level ground beside the player");
    let structure = page.see("the structure", |debug| debug["structures"].as_array()?.first().cloned()).await;
    let found = ["key", "column", "row", "level"].map(|key| structure[key].clone());
    assert_eq!(found, [json!("foundation"), json!(column), json!(row), json!(0)]);
    eventually("the status to count the structure", PATIENCE, async || {
        (shard.status().unwrap()["entities"]["structure"] == 1).then_some(())
    })
    .await;
    page.press([KeyAction::Down { value: '\u{e00c}' }, KeyAction::Up { value: '\u{e00c}' }]).await;
    page.see("the tool put away by Escape", |debug| debug["tool"].is_null().then_some(())).await;

    // Goes to see somebody, has a picture taken, and comes home.
    let nearest = |debug: &Value| {
        let (x, z) = position(debug)?;
        let others = debug["others"].as_array()?.iter().filter_map(place);
        others.min_by(|a, b| (a.0 - x).hypot(a.1 - z).total_cmp(&(b.0 - x).hypot(b.1 - z)))
    };
    page.walk_to(7_000.0, nearest).await;
    // The other's head and hands are seen, where a body has them, and the hands move.
    let hands = |debug: &Value| {
        let bodies =
            debug["others"].as_array()?.iter().filter_map(|other| Some((other["id"].clone(), tracked(other)?)));
        Some(bodies.collect::<Vec<_>>()).filter(|bodies| !bodies.is_empty())
    };
    let first = page.see("somebody's head and hands", hands).await;
    for (who, [head, hands @ ..]) in &first {
        assert!((1.2..2.1).contains(&head[1]), "the head of {who} is at {head:?}");
        assert!(hands.iter().all(|hand| distance(*hand, *head) < 1.6), "the hands of {who} are at {hands:?}");
    }
    page.see("a hand to move by two centimetres", |debug| {
        let now = hands(debug)?;
        let moved = |(who, body): &(Value, [[f64; 3]; 3])| {
            first.iter().any(|(other, before)| other == who && distance(body[1], before[1]) > 0.02)
        };
        now.iter().any(moved).then_some(())
    })
    .await;
    let bytes = |debug: &Value| debug["bytes"]["poses"].as_u64().filter(|bytes| *bytes > 0);
    page.see("the bytes of poses to be counted", bytes).await;
    let picture = page.0.client.screenshot().await.unwrap();
    std::fs::create_dir_all(Path::new(SCREENSHOT).parent().unwrap()).unwrap();
    std::fs::write(SCREENSHOT, picture).unwrap();
    let home = ((column as f64 + 0.5) * 2_000.0, (row as f64 + 0.5) * 2_000.0);
    page.walk_to(4_000.0, |_| Some(home)).await;
    let seen = page.debug().await;
    assert_eq!((&seen["frame_errors"], &seen["undecodable"]), (&json!(0), &json!(0)));
    let (shown, damaged) = (seen["poses"]["shown"].as_u64().unwrap(), &seen["poses"]["damaged"]);
    assert!(shown > 20 && damaged == 0, "{}", seen["poses"]);
    // It walks ahead of the server, and the server agrees.
    let count = |name: &str| seen["prediction"][name].as_u64().unwrap();
    let (compared, corrected) = (count("compared"), count("corrected"));
    assert!(compared > 50 && corrected * 4 < compared, "{corrected} of {compared} steps had to be put right");
    // The panel says how much of the budget for motion that takes.
    let motion = page.0.evaluate("document.getElementById('status-motion').textContent").await;
    assert!(motion.as_str().is_some_and(|text| text.contains(" kB/s · ") && text.ends_with(" %")), "{motion}");
    let poses = page.0.evaluate("document.getElementById('status-poses').textContent").await;
    assert!(poses.as_str().is_some_and(|text| text.ends_with(" kB/s")), "{poses}");
    let faults: Vec<_> =
        page.0.console().into_iter().filter(|(level, _)| level != "INFO" && level != "DEBUG").collect();
    assert_eq!(faults, Vec::new(), "the page complained");

    // The shard dies, and the page says so.
    let kept = page.debug().await;
    shard.kill().unwrap();
    let banner = page.element("banner").await;
    eventually("the banner", PATIENCE, async || banner.is_displayed().await.unwrap().then_some(())).await;
    let words = banner.text().await.unwrap();
    assert!(words.starts_with("Connection lost") && words.ends_with("Rejoin"), "{words:?}");
    assert_eq!(page.debug().await["connected"], false);
    bots.stop();

    // It comes back, and so does the player, who need not do anything: same body, same bag, same house.
    let shard = ShardProcess::start_at(&http, folder.path(), &[]).unwrap();
    let again = page
        .see("the player in the world again", |debug| {
            let known = debug["connected"] == true && debug["structures"].as_array().is_some_and(|s| !s.is_empty());
            (known && debug["inventory"] != json!({}) && debug["position"] != Value::Null).then(|| debug.clone())
        })
        .await;
    assert_eq!(again["player"], kept["player"]);
    assert_eq!(again["inventory"], kept["inventory"]);
    assert_eq!(again["structures"], kept["structures"]);
    assert!(!banner.is_displayed().await.unwrap(), "the banner stays");
    assert_eq!(again["frame_errors"], 0);
    // The page asked in vain for the status of the dead shard, and complained of nothing else.
    for (level, text) in page.0.console() {
        let of_the_crash = text.contains("net::ERR_CONNECTION_REFUSED") || text.contains("WebSocket connection to");
        assert!(of_the_crash || level == "INFO" || level == "DEBUG", "{level}: {text}");
    }
    assert_eq!(shard.stop().unwrap().code(), Some(0));
}
