//! The state tree on a real store and a simulated disk, over HTTP, and from the command line.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic where it stands")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use vsekai_storage::disk::{CrashChoice, Disk, SimulatedDisk};
use vsekai_storage::kv::{Database, Fault};
use vsekai_supervisor::tree::client::{Question, ServerEvent, Target, ask};
use vsekai_supervisor::tree::command::{At, Command, Effect, Operation, Put, Reply, Transaction};
use vsekai_supervisor::tree::condition::{Condition, Payload};
use vsekai_supervisor::tree::error::StoreError;
use vsekai_supervisor::tree::http::router;
use vsekai_supervisor::tree::machine::Machine;
use vsekai_supervisor::tree::openapi::openapi_paths;
use vsekai_supervisor::tree::path::{NodePath, Pattern};
use vsekai_supervisor::tree::store::TreeStore;
use vsekai_supervisor::tree::{Limits, TreeError, TreeHandle, cli};

/// Longer than anything takes that is expected.
const LONG: Duration = Duration::from_secs(30);

fn path(text: &str) -> NodePath {
    text.parse().unwrap()
}

fn put(at: &str, payload: &str) -> Operation {
    Operation::Put(Put::new(path(at), Some(Payload::from(payload))))
}

fn transaction(operations: Vec<Operation>) -> Command {
    Command::Transaction(Transaction { checks: Vec::new(), operations })
}

fn open(directory: &Path) -> TreeHandle {
    let database = Database::open(&format!("local:{}", directory.display())).unwrap();
    TreeHandle::open(database, Limits::default()).unwrap()
}

fn in_memory(limits: Limits) -> TreeHandle {
    TreeHandle::open(Database::open("mem:").unwrap(), limits).unwrap()
}

fn payload(tree: &TreeHandle, at: &str) -> Option<String> {
    let at = path(at);
    let payload = tree.read_blocking(move |machine| machine.get(&at)).unwrap()?.payload?;
    Some(String::from_utf8(payload.0.to_vec()).unwrap())
}

#[test]
fn what_was_answered_is_there_after_reopening() {
    let directory = TempDir::new().unwrap();
    let tree = open(directory.path());
    for number in 0..50 {
        tree.apply_blocking(transaction(vec![put(&format!("/n/{number}"), "x")])).unwrap();
    }
    tree.apply_blocking(Command::OpenSession { ttl_ms: 60_000 }).unwrap();
    let seen = |tree: &TreeHandle| {
        let changes = |machine: &Machine| machine.changes_after(7, &Pattern::all()).unwrap();
        tree.read_blocking(move |m| (m.snapshot().to_text(), m.facts(), m.hash(), changes(m))).unwrap()
    };
    let before = seen(&tree);
    drop(tree);
    let tree = open(directory.path());
    let after = seen(&tree);
    // The session has its whole time again, which is a revision without changes.
    assert_eq!(after.1.revision, before.1.revision + 1);
    assert_eq!(after.3.revisions, before.3.revisions);
    let nodes = |text: &str| text.split("\"nodes\"").nth(1).unwrap().to_owned();
    assert_eq!(nodes(&after.0), nodes(&before.0));
    assert_eq!(payload(&tree, "/n/49"), Some("x".into()));
}

/// Not a test of its own: what [`kill_minus_nine_leaves_a_commands_boundary`] kills.
#[test]
fn writer_to_be_killed() {
    let Some(directory) = std::env::var_os("VSEKAI_TREE_WRITER") else { return };
    let tree = open(Path::new(&directory));
    let begin: u64 = payload(&tree, "/first").map_or(0, |text| text.parse().unwrap());
    for number in begin + 1.. {
        let text = number.to_string();
        // Large enough that a revision now and then has to be staged.
        let large = "x".repeat(60_000);
        let mut operations = vec![put("/first", &text), put("/by/second", &text)];
        if number % 20 == 0 {
            operations.extend((0..80).map(|n| put(&format!("/large/{n}"), &format!("{number} {large}"))));
        }
        tree.apply_blocking(transaction(operations)).unwrap();
        println!("acknowledged {number}");
    }
}

#[test]
fn kill_minus_nine_leaves_a_commands_boundary() {
    let directory = TempDir::new().unwrap();
    let mut acknowledged = 0;
    for round in 0..6 {
        let mut writer = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_to_be_killed", "--nocapture"])
            .env("VSEKAI_TREE_WRITER", directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        // Around a command that is staged, at times.
        let until = acknowledged - acknowledged % 20 + 19 + round % 3;
        let mut number = |line: String| {
            let number = line.strip_prefix("acknowledged ").map(|number| number.parse().unwrap());
            acknowledged = number.unwrap_or(acknowledged);
            acknowledged
        };
        while number(lines.next().unwrap().unwrap()) < until {}
        kill_process(Pid::from_child(&writer), Signal::KILL).unwrap();
        writer.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            number(line);
        }

        let tree = open(directory.path());
        let first: u64 = payload(&tree, "/first").unwrap().parse().unwrap();
        assert!(
            (acknowledged..=acknowledged + 1).contains(&first),
            "{first} is there, {acknowledged} was acknowledged"
        );
        assert_eq!(payload(&tree, "/by/second"), Some(first.to_string()));
        let staged = (first - first % 20).to_string();
        for n in (0..80).filter(|_| first >= 20) {
            let found = payload(&tree, &format!("/large/{n}")).unwrap();
            assert_eq!(found.split(' ').next(), Some(&*staged), "/large/{n} at {first}");
        }
        let (hash, audited) = tree.read_blocking(|machine| (machine.hash(), machine.audit())).unwrap();
        assert_eq!(audited, (hash, None));
    }
}

/// What the disk script does, in order.
fn script() -> Vec<Command> {
    let kept = |at: &str| {
        let keep_while = Some(Condition::At(path("/a"), Box::new(Condition::Exists(true))));
        Operation::Put(Put { keep_while, ..Put::new(path(at), Some(Payload::from("kept"))) })
    };
    let delete = |at: &str| Operation::Delete(serde_json::from_value(json!({ "path": at })).unwrap());
    vec![
        transaction(vec![put("/a", "1"), put("/b/c", "2")]),
        transaction((0..12).map(|n| kept(&format!("/k/{n}"))).collect()),
        transaction(vec![put("/b/c", "3")]),
        Command::OpenSession { ttl_ms: 1_000 },
        // Takes all of /k with it.
        transaction(vec![delete("/a"), put("/d", "4")]),
        transaction(vec![put("/a", "5")]),
    ]
}

/// Applies the script from where the store is; counts what was acknowledged.
fn play(disk: &SimulatedDisk, stage_beyond: usize, acknowledged: &mut usize) -> Result<(), StoreError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (mut store, mut machine) = TreeStore::load(Database::open_on_disk("local:/tree", &disk)?, Limits::default())?;
    store.stage_beyond(stage_beyond);
    for command in script().into_iter().skip(*acknowledged) {
        let at = At { index: machine.revision() + 1, now_ms: 5 };
        for effect in machine.apply(at, command).effects {
            if let Effect::Persist(writes) = effect {
                store.commit(&writes)?;
            }
        }
        *acknowledged += 1;
    }
    Ok(())
}

/// The power goes off in each operation of the disk; with everything in one transaction, and with what is large staged.
#[test]
fn a_power_cut_anywhere_leaves_a_commands_boundary() {
    let mut hashes = vec![Machine::new(Limits::default()).hash()];
    let mut machine = Machine::new(Limits::default());
    for command in script() {
        machine.apply(At { index: machine.revision() + 1, now_ms: 5 }, command).reply.unwrap();
        hashes.push(machine.hash());
    }
    for stage_beyond in [usize::MAX, 300] {
        let whole = SimulatedDisk::new();
        play(&whole, stage_beyond, &mut 0).unwrap();
        let operations = whole.operation_count();
        let (mut unacknowledged, mut recoveries) = (0, 0);
        for operation in 1..=operations {
            let disk = SimulatedDisk::new();
            disk.crash_at(operation);
            let mut acknowledged = 0;
            // It fails, or only its end does.
            let _ = play(&disk, stage_beyond, &mut acknowledged);
            for choice in [CrashChoice::NoneKept, CrashChoice::AllKept, CrashChoice::Random(operation)] {
                let left: Arc<dyn Disk> = Arc::new(disk.after_crash(choice));
                let database = Database::open_on_disk("local:/tree", &left).unwrap();
                let (store, machine) = TreeStore::load(database, Limits::default()).unwrap();
                let what = format!("crash in {operation} of {operations}, {choice:?}, {acknowledged} acknowledged");
                let next = (acknowledged + 1).min(script().len());
                let found = if machine.hash() == hashes[acknowledged] { acknowledged } else { next };
                assert_eq!(machine.hash(), hashes[found], "{what}");
                assert_eq!(machine.audit(), (machine.hash(), None), "{what}");
                unacknowledged += found - acknowledged;
                recoveries += 1;
                drop((store, machine));
            }
        }
        assert!(recoveries > 100 && unacknowledged > 0, "{recoveries} recoveries, {unacknowledged} ahead");
    }
}

#[test]
fn two_writers_of_one_tree_are_one_too_many() {
    let database = Database::open("mem:").unwrap();
    let [first, second] = [0, 1].map(|_| TreeHandle::open(database.clone(), Limits::default()).unwrap());
    first.apply_blocking(transaction(vec![put("/a", "1")])).unwrap();
    let refused = second.apply_blocking(transaction(vec![put("/b", "2")])).unwrap_err();
    assert!(matches!(&refused, TreeError::Stopped(why) if why.contains("another process")), "{refused}");
    // It says no more, not even what it holds.
    assert!(matches!(second.read_blocking(Machine::revision), Err(TreeError::Stopped(_))));
    first.apply_blocking(transaction(vec![put("/c", "3")])).unwrap();
    assert_eq!(payload(&first, "/b"), None);
}

#[test]
fn what_a_store_does_not_know_is_found_out() {
    let database = Database::open("mem:").unwrap();
    let tree = TreeHandle::open(database.clone(), Limits::default()).unwrap();
    for (number, fault) in [
        Fault::UnknownButCommitted,
        Fault::UnknownAndLost,
        Fault::Conflict,
        Fault::TooOld,
        Fault::FutureVersion,
        Fault::ProcessBehind,
    ]
    .into_iter()
    .enumerate()
    {
        database.fail_next_commits([fault]);
        tree.apply_blocking(transaction(vec![put("/a", &number.to_string())])).unwrap();
        let reopened = TreeStore::load(database.clone(), Limits::default()).unwrap().1;
        assert_eq!(reopened.hash(), tree.read_blocking(Machine::hash).unwrap(), "{fault:?}");
        assert_eq!(reopened.revision(), number as u64 + 1);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Serves the tree on a port of its own, as the supervisor would.
async fn serve(tree: &TreeHandle) -> Target {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().nest("/api/tree", router(tree.clone()));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Target { address: format!("http://{address}").parse().unwrap(), token: None }
}

/// Status, headers and body of any answer, good or bad.
async fn raw(target: &Target, method: &str, uri: &str, headers: &[(&str, &str)], body: &str) -> (u16, String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let vsekai_supervisor::tree::client::Address::Tcp(host) = &target.address else { panic!() };
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    let mut request = format!("{method} /api/tree{uri} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server that refuses a body may hang up before it has read it.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

fn etag(head: &str) -> String {
    let line = head.lines().find(|line| line.to_lowercase().starts_with("etag:")).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

#[test]
fn nodes_over_http() {
    runtime().block_on(async {
        let tree = in_memory(Limits::default());
        let target = serve(&tree).await;
        let (status, head, body) = raw(&target, "PUT", "/node/shards/a%20b", &[], "hello").await;
        assert_eq!(status, 201, "{body}");
        let first = etag(&head);
        let (status, head, body) = raw(&target, "GET", "/node/shards/a%20b", &[], "").await;
        let node: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &node["payload"], &node["path"]), (200, &json!("hello"), &json!("/shards/a b")));
        assert_eq!(etag(&head), first);
        assert!(head.contains("tree-revision: 1"), "{head}");
        assert_eq!(raw(&target, "GET", "/node/shards/a%20b", &[("If-None-Match", &first)], "").await.0, 304);
        assert_eq!(raw(&target, "GET", "/node/shards/a%20b?raw=true", &[], "").await.2, "hello");

        let put = async |headers: &[(&str, &str)]| raw(&target, "PUT", "/node/shards/a%20b", headers, "two").await;
        assert_eq!(put(&[("If-None-Match", "*")]).await.0, 412);
        let (status, head, _) = put(&[("If-Match", &first)]).await;
        assert_eq!(status, 200);
        assert_ne!(etag(&head), first);
        let (status, _, body) = put(&[("If-Match", &first)]).await;
        let refusal: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &refusal["refusal"]["condition_failed"]["found"]["payload_version"]), (412, &json!(2)));
        assert_eq!(put(&[("If-Match", "\"2\"")]).await.0, 200);
        assert_eq!(put(&[("If-Match", "2")]).await.0, 400);
        assert_eq!(raw(&target, "PUT", "/node/none", &[("If-Match", "*")], "x").await.0, 412);

        assert_eq!(raw(&target, "DELETE", "/node/shards", &[("If-Match", "\"9\"")], "").await.0, 412);
        let (status, _, body) = raw(&target, "DELETE", "/node/shards", &[], "").await;
        assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()["count"].clone()), (200, json!(2)));
        assert_eq!(raw(&target, "DELETE", "/node/shards", &[], "").await.0, 404);
        assert_eq!(raw(&target, "GET", "/node/shards", &[], "").await.0, 404);
        assert_eq!(raw(&target, "GET", "/node/", &[], "").await.0, 200);
        for bad in
            ["/node/a//b", "/node/a*", "/node/%0A", "/node/%ff", "/list?pattern=a", "/list?limit=x", "/count?x=1"]
        {
            assert_eq!(raw(&target, "GET", bad, &[], "").await.0, 400, "{bad}");
        }
        assert_eq!(raw(&target, "PUT", "/node/a?session=99", &[], "x").await.0, 404);
        assert_eq!(raw(&target, "PUT", "/node/a?ttl_ms=0", &[], "x").await.0, 400);
        assert_eq!(raw(&target, "PUT", "/node/a", &[], &"x".repeat(70_000)).await.0, 413);
        assert_eq!(raw(&target, "PUT", "/node/a", &[], &"x".repeat(2 << 20)).await.0, 413);
    });
}

#[test]
fn transactions_sessions_and_lists_over_http() {
    runtime().block_on(async {
        let tree = in_memory(Limits { queue_max: 64, ..Limits::default() });
        let target = serve(&tree).await;
        let post = async |uri: &str, body: Value| {
            let (status, _, body) = raw(&target, "POST", uri, &[], &body.to_string()).await;
            (status, serde_json::from_str::<Value>(&body).unwrap())
        };
        let (status, session) = post("/session", json!({ "ttl_ms": 60_000 })).await;
        assert_eq!(status, 201);
        let number = session["session"].as_u64().unwrap();
        let swap = json!({
            "checks": [{ "path": "/lock", "if": { "exists": false } }],
            "operations": [
                { "create": { "path": "/lock", "payload": "me", "session": number } },
                { "put": { "path": "/bin", "payload": { "base64": "/wA=" },
                    "keep_while": { "at": ["/lock", { "payload_is": "me" }] } } },
                { "get": { "path": "/bin" } },
            ],
        });
        let (status, reply) = post("/transaction", swap.clone()).await;
        assert_eq!(status, 200, "{reply}");
        assert_eq!(reply["results"][2]["node"]["payload"], json!({ "base64": "/wA=" }));
        let (status, reply) = post("/transaction", swap).await;
        assert_eq!((status, &reply["refusal"]["check_failed"]["found"]["payload"]), (412, &json!("me")));
        let typo = json!({ "operations": [{ "put": { "path": "/a", "paylod": "x" } }] });
        assert_eq!(post("/transaction", typo).await.0, 400);
        let swap = |version: u64| {
            json!({ "operations": [{ "compare_and_swap": {
            "payload_version": version, "put": { "path": "/bin", "payload": "two" } } }] })
        };
        assert_eq!(post("/transaction", swap(2)).await.0, 412);
        assert_eq!(post("/transaction", swap(1)).await.0, 200);

        let get = async |uri: &str| serde_json::from_str::<Value>(&raw(&target, "GET", uri, &[], "").await.2).unwrap();
        let listing = get("/list?pattern=/*&limit=1").await;
        assert_eq!((&listing["nodes"][0]["path"], &listing["next"]), (&json!("/bin"), &json!("/bin")));
        let listing = get("/list?pattern=/*&after=/bin").await;
        assert_eq!((&listing["nodes"][0]["path"], &listing["next"]), (&json!("/lock"), &json!(null)));
        assert_eq!(get("/count").await["count"], 3);
        assert_eq!(get("/session").await["sessions"].as_array().unwrap().len(), 1);
        assert_eq!(raw(&target, "POST", &format!("/session/{number}"), &[], "").await.0, 200);
        assert_eq!(raw(&target, "DELETE", &format!("/session/{number}"), &[], "").await.0, 200);
        assert_eq!(get("/list?pattern=/lock").await["nodes"], json!([]));
        // The put without keep-while has made it stay.
        assert_eq!(get("/count").await["count"], 2);
        assert_eq!(get("/status").await["node_count"], 2);
    });
}

#[test]
fn the_export_over_http_is_the_import() {
    runtime().block_on(async {
        let tree = in_memory(Limits::default());
        let target = serve(&tree).await;
        // Many pieces, and more than any other body may have.
        for number in 0..60 {
            let operation = put(&format!("/many/{number}"), &"ü\"".repeat(20_000));
            tree.operate(operation).await.unwrap();
        }
        let export =
            async || ask(&target, Question::new("GET".parse().unwrap(), "/export")).await.unwrap().bytes().await;
        let text = export().await.unwrap();
        assert!(text.len() > 4 << 20);
        tree.operate(put("/other", "x")).await.unwrap();
        assert_ne!(export().await.unwrap(), text);
        let question = Question::new("POST".parse().unwrap(), "/import").body(text.clone());
        ask(&target, question).await.unwrap();
        assert_eq!(export().await.unwrap(), text);
        assert_eq!(raw(&target, "POST", "/import", &[], "{}").await.0, 422);
        assert_eq!(export().await.unwrap(), text);
    });
}

async fn next(events: &mut vsekai_supervisor::tree::client::Events) -> Option<ServerEvent> {
    tokio::time::timeout(LONG, events.next()).await.unwrap().unwrap()
}

#[test]
fn a_watch_over_http_resumes_where_it_broke_off() {
    runtime().block_on(async {
        let tree = in_memory(Limits::default());
        let target = serve(&tree).await;
        let watch = async |cursor: Option<u64>, last_id: Option<&str>| {
            let mut question = Question::new("GET".parse().unwrap(), "/watch");
            question = question.query("pattern", Some("/n/*")).query("cursor", cursor);
            if let Some(last_id) = last_id {
                question = question.header("last-event-id".parse().unwrap(), last_id);
            }
            ask(&target, question).await.map(|answer| answer.events())
        };
        let mut live = watch(None, None).await.unwrap();
        assert_eq!(next(&mut live).await.unwrap().event, "start");
        let mut seen = Vec::new();
        for number in 0..20 {
            let operations = vec![put(&format!("/n/{number}"), "x"), put("/elsewhere", "y")];
            tree.apply(transaction(operations)).await.unwrap();
            tree.operate(put("/elsewhere", "z")).await.unwrap();
            seen.push(next(&mut live).await.unwrap());
        }
        assert_eq!(tree.watcher_count(), 1);
        let data: Value = serde_json::from_str(&seen[3].data).unwrap();
        assert_eq!(data["changes"].as_array().unwrap().len(), 1);
        assert_eq!((&data["changes"][0]["path"], &data["changes"][0]["kind"]), (&json!("/n/3"), &json!("created")));
        // From a cursor in the query, and from that of the last event, which counts more.
        for (cursor, last_id, from) in [(Some(0), None, 0), (Some(0), seen[4].id.as_deref(), 5)] {
            let mut again = watch(cursor, last_id).await.unwrap();
            assert_eq!(next(&mut again).await.unwrap().event, "start");
            for event in &seen[from..] {
                assert_eq!(next(&mut again).await.as_ref(), Some(event));
            }
        }
        let ahead = watch(Some(1_000), None).await.unwrap_err().to_string();
        assert!(ahead.contains("410") && ahead.contains("read the tree again"), "{ahead}");
    });
}

#[test]
fn a_slow_watcher_is_cut_off_and_told() {
    runtime().block_on(async {
        let limits = Limits { log_revisions_max: 5, watchers_max: 2, ..Limits::default() };
        let tree = in_memory(limits);
        tree.operate(put("/a", "0")).await.unwrap();
        let mut slow = tree.watch(Pattern::all(), Some(0)).await.unwrap();
        let mut idle = tree.watch("/never".parse().unwrap(), None).await.unwrap();
        let refused = tree.watch(Pattern::all(), None).await.unwrap_err();
        assert_eq!(refused, TreeError::TooManyWatchers { limit: 2 });
        assert_eq!(slow.next().await.unwrap().cursor, 1);
        for number in 0..20 {
            tree.operate(put("/a", &number.to_string())).await.unwrap();
            // One that nothing is for, but that listens, stays.
            let wait = tokio::time::timeout(Duration::from_millis(1), idle.next()).await;
            assert!(wait.is_err(), "{wait:?}");
        }
        let TreeError::Compacted(told) = slow.next().await.unwrap_err() else { panic!() };
        assert_eq!((told.cursor, told.oldest, told.newest), (1, 16, 21));
        drop(slow);
        // Over HTTP it is told at once.
        let target = serve(&tree).await;
        assert_eq!(raw(&target, "GET", "/watch?cursor=3", &[], "").await.0, 410);
        let again = tree.watch(Pattern::all(), Some(16)).await.unwrap();
        assert_eq!(again.cursor(), 16);
    });
}

#[test]
fn a_connection_that_hangs_is_let_go() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    runtime().block_on(async {
        let tree = in_memory(Limits { stall_ms_max: 50, log_bytes_max: 64 << 20, ..Limits::default() });
        let target = serve(&tree).await;
        let vsekai_supervisor::tree::client::Address::Tcp(host) = &target.address else { panic!() };
        let ask_and_hang = async |place: &str| {
            let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
            let request = format!("GET /api/tree/{place} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.read_exact(&mut [0; 100]).await.unwrap();
            stream
        };
        let watcher = ask_and_hang("watch").await;
        assert_eq!(tree.watcher_count(), 1);
        // More than the sockets hold.
        for number in 0..500 {
            tree.operate(put(&format!("/n/{number}"), &"x".repeat(60_000))).await.unwrap();
        }
        let gone = async || {
            while tree.watcher_count() > 0 {
                tokio::task::yield_now().await
            }
        };
        tokio::time::timeout(LONG, gone()).await.unwrap();
        drop(watcher);

        let mut export = ask_and_hang("export").await;
        let importable = async || while raw(&target, "POST", "/import", &[], "{}").await.0 == 503 {};
        tokio::time::timeout(LONG, importable()).await.unwrap();
        // What it got does not look like a whole one: the last chunk of an answer is empty.
        let mut text = Vec::new();
        let _ = export.read_to_end(&mut text).await;
        assert!(!text.ends_with(b"0\r\n\r\n") && text.len() > 100_000);
    });
}

#[test]
fn time_passes_without_anybody_asking() {
    let tree = in_memory(Limits::default());
    let operation = Operation::Put(Put { ttl_ms: Some(20), ..Put::new(path("/t"), None) });
    runtime().block_on(async {
        let mut changes = tree.watch(Pattern::all(), None).await.unwrap();
        tree.operate(operation).await.unwrap();
        let (came, went) = (changes.next().await.unwrap(), tokio::time::timeout(LONG, changes.next()).await.unwrap());
        assert_eq!(serde_json::to_value(&came.revisions[0].changes[0]).unwrap()["kind"], "created");
        assert_eq!(serde_json::to_value(&went.unwrap().revisions[0].changes[0]).unwrap()["cause"], "ttl");
    });
    assert_eq!(tree.read_blocking(Machine::facts).unwrap().node_count, 1);
}

#[test]
fn a_closed_tree_lets_go_of_watchers_and_store() {
    let directory = TempDir::new().unwrap();
    let tree = open(directory.path());
    let waiting = tree.clone();
    runtime().block_on(async move {
        let target = serve(&tree).await;
        let mut events = ask(&target, Question::new("GET".parse().unwrap(), "/watch")).await.unwrap().events();
        assert_eq!(next(&mut events).await.unwrap().event, "start");
        tree.operate(put("/a", "last")).await.unwrap();
        assert_eq!(next(&mut events).await.unwrap().event, "revision");
        tokio::task::spawn_blocking(move || tree.close()).await.unwrap();
        assert_eq!(next(&mut events).await.unwrap().event, "stopped");
        assert_eq!(next(&mut events).await, None);
    });
    assert!(matches!(waiting.read_blocking(Machine::revision), Err(TreeError::Stopped(_))));
    // Though there is a handle left.
    assert_eq!(payload(&open(directory.path()), "/a"), Some("last".into()));
}

#[test]
fn too_many_requests_are_told_so() {
    let tree = in_memory(Limits { queue_max: 4, ..Limits::default() });
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (began, beginning) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        // A test that fails lets the thread go, too.
        let go = go;
        scope.spawn(|| {
            tree.read_blocking(move |_| {
                began.send(()).unwrap();
                wait.recv().unwrap();
            })
        });
        beginning.recv().unwrap();
        // The thread is held: only so many can wait.
        runtime().block_on(async {
            let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(tree.operate(put("/a", "x")))).collect();
            for one in &mut waiting {
                let polled = std::future::poll_fn(|context| std::task::Poll::Ready(one.as_mut().poll(context))).await;
                assert!(polled.is_pending());
            }
            assert_eq!(tree.operate(put("/a", "x")).await, Err(TreeError::Busy { waiting: 4 }));
            go.send(()).unwrap();
            for one in waiting {
                assert!(matches!(one.await, Ok(Reply::Transaction { .. })));
            }
        });
    });
}

#[derive(clap::Parser)]
struct Line {
    #[command(subcommand)]
    command: cli::TreeCommand,
}

#[test]
fn the_command_line_does_it_all() {
    let directory = TempDir::new().unwrap();
    let runtime = runtime();
    let tree = in_memory(Limits::default());
    let socket = directory.path().join("socket");
    let listener = {
        let _runtime = runtime.enter();
        tokio::net::UnixListener::bind(&socket).unwrap()
    };
    let app = axum::Router::new().nest("/api/tree", router(tree.clone()));
    runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let target = Target { address: format!("unix:{}", socket.display()).parse().unwrap(), token: Some("t".into()) };
    let attempt = |line: &str, json: bool| {
        let words = std::iter::once("tree").chain(line.split(' '));
        let Line { command } = clap::Parser::try_parse_from(words).unwrap();
        let mut out = Vec::new();
        cli::run(&command, &target, json, &mut out).map(|()| String::from_utf8(out).unwrap())
    };
    let tree_does = |line: &str| attempt(line, false).unwrap();
    let refused = |line: &str| format!("{:#}", attempt(line, false).unwrap_err());

    assert_eq!(tree_does("put /a/b% hello"), "created /a/b%, version 1, revision 1\n");
    assert_eq!(tree_does("put /a/b% two --if-version 1"), "updated /a/b%, version 2, revision 2\n");
    assert!(refused("put /a/b% three --if-version 1").contains("412"));
    assert!(refused("put /a/b% three --create").contains("412"));
    assert!(refused("put /c three --update").contains("412"));
    assert_eq!(tree_does("get /a/b% --raw"), "two");
    assert!(tree_does("get /a/b%").contains("payload   two"));
    let node: Value = serde_json::from_str(&attempt("get /a/b%", true).unwrap()).unwrap();
    assert_eq!(node["payload_version"], 2);
    assert_eq!(tree_does("list --count"), "3 nodes, revision 2\n");
    assert!(tree_does("list /a/*").contains("/a/b%  v2  two"));
    let file = directory.path().join("export.json");
    assert!(tree_does(&format!("export {}", file.display())).contains(" bytes in "));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), tree_does("export"));
    assert_eq!(tree_does("session open"), "3\n");
    assert_eq!(tree_does("put /s --no-payload --session 3"), "created /s, version 1, revision 4\n");
    tree_does("put /k x --keep-while {\"at\":[\"/s\",{\"exists\":true}]}");
    assert_eq!(tree_does("session close 3"), "1 sessions closed, revision 6\n");
    let watched = "6 deleted /k (KeepWhile)\n6 deleted /s (Session)\n";
    assert_eq!(tree_does("watch --cursor 5 --revisions 1"), watched);
    let operations = directory.path().join("operations.json");
    let text = json!({ "operations": [{ "put": { "path": "/tx", "payload": "\u{1b}[31m" } }] });
    std::fs::write(&operations, text.to_string()).unwrap();
    assert!(tree_does(&format!("transaction {}", operations.display())).starts_with("revision 7\n"));
    // Nothing that a terminal would obey.
    assert!(tree_does("list /tx").contains("\\u{1b}[31m"));
    assert_eq!(tree_does("delete /a"), "2 nodes deleted, revision 8\n");
    assert!(refused("get /a").contains("404"));
    assert_eq!(tree_does(&format!("import {} --replace", file.display())), "3 nodes imported, revision 9\n");
    assert_eq!(tree_does("get /a/b% --raw"), "two");
    assert!(refused("watch --cursor 3").contains("read the tree again"));
    assert!(tree_does("status").contains("\"node_count\": 3"));
}

#[test]
fn the_openapi_document_knows_every_route() {
    let paths = openapi_paths();
    let described: Vec<&String> = paths.as_object().unwrap().keys().collect();
    // The router's own text, since a router can't be asked.
    let source = include_str!("../src/tree/http.rs");
    let routes: Vec<&str> = source.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")).collect();
    assert!(routes.len() > 10);
    for route in routes {
        let route = route.split('"').next().unwrap().trim_end_matches('/').replace("{*path}", "{path}");
        // The root of the tree is a node like the others.
        let known = described.iter().any(|path| path.strip_prefix("/api/tree") == Some(&route));
        assert!(known || route == "/node", "{route} is not described");
    }
    for (path, item) in paths.as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            assert!(operation["responses"].as_object().is_some_and(|answers| !answers.is_empty()), "{method} {path}");
        }
    }
}

#[test]
fn addresses_are_told_apart() {
    use vsekai_supervisor::tree::client::Address;
    assert_eq!("http://127.0.0.1:80/".parse(), Ok(Address::Tcp("127.0.0.1:80".into())));
    assert_eq!("http://host".parse(), Ok(Address::Tcp("host:80".into())));
    assert_eq!("unix:/run/x".parse(), Ok(Address::Unix("/run/x".into())));
    for bad in ["", "unix:", "https://x:1", "127.0.0.1:80", "http://", "http://a/b", "http://a:b", "http://u@h:1"] {
        assert!(bad.parse::<Address>().is_err(), "{bad}");
    }
}
