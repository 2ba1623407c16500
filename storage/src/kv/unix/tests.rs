use super::protocol::{
    Answer, CLIENT_HELLO_BYTES, ClientHello, Facts, MESSAGE_BYTES_MAX, PROTOCOL_VERSION, Request, SERVER_HELLO_BYTES,
    ServerHello, Verdict, read_message,
};
use super::*;
use crate::error::Error;
use crate::kv::operation::{Atomic, CommitRequest, Committed, Mutation};
use crate::kv::{Database, Fault, RandomFaults, RangeRead, Store, TRANSACTION_BYTES_MAX};
use crate::proof::Subject;
use crate::proof::conformance::{self, GROUPS};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything takes that is expected.
const LONG: Duration = Duration::from_secs(30);
/// As long as it is watched that something does not happen.
const SHORT: Duration = Duration::from_millis(100);

/// A served store, and a client of it.
struct Served {
    client: Database,
    /// The server's own handle.
    engine: Database,
    server: Option<StoreServer>,
    directory: TempDir,
}

impl Served {
    fn new(url: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let engine = Database::open(url).unwrap();
        let server = serve(engine.clone(), &directory.path().join("socket")).unwrap();
        let client = open(&directory.path().join("socket"));
        Served { client, engine, server: Some(server), directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn server(&self) -> &StoreServer {
        self.server.as_ref().unwrap()
    }

    fn stop(&mut self) {
        self.server.take().unwrap().stop();
    }

    /// A connection of its own that has said hello.
    fn raw(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let hello = ClientHello { version: PROTOCOL_VERSION, session: uuid::Uuid::new_v4().into_bytes() };
        stream.write_all(&hello.encode()).unwrap();
        assert_eq!(server_hello(&mut stream).verdict, Verdict::Accepted);
        stream
    }
}

fn open(socket: &Path) -> Database {
    Database::open(&format!("unix:{}", socket.display())).unwrap()
}

/// A client that gives up on reads soon.
fn impatient(socket: &Path) -> Database {
    Database(Arc::new(Store::Unix(RemoteStore::open_with(socket, Duration::from_millis(200)).unwrap())))
}

fn server_hello(stream: &mut UnixStream) -> ServerHello {
    let mut bytes = [0; SERVER_HELLO_BYTES];
    stream.read_exact(&mut bytes).unwrap();
    ServerHello::decode(&bytes).unwrap()
}

fn ask(stream: &mut UnixStream, number: u64, request: &Request) -> Answer {
    stream.write_all(&request.encode(number).unwrap()).unwrap();
    let mut message = Vec::new();
    assert!(read_message(stream, &mut message).unwrap(), "the server hung up");
    let (answered, answer) = Answer::decode(&message).unwrap();
    assert_eq!(answered, number);
    answer
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < LONG, "{what}: never");
        std::thread::yield_now();
    }
}

fn put(database: &Database, key: &str, value: &str) {
    database
        .run(|transaction| {
            transaction.set(key.as_bytes(), value);
            Ok(())
        })
        .unwrap();
}

fn value(database: &Database, key: &str) -> Option<String> {
    let value = database.begin().unwrap().get(key.as_bytes()).unwrap();
    value.map(|value| String::from_utf8(value).unwrap())
}

/// Commits one write in another thread; its outcome comes out of the channel.
fn commit_elsewhere(database: &Database, key: &str) -> mpsc::Receiver<Result<Committed, Error>> {
    let (sender, receiver) = mpsc::channel();
    let mut transaction = database.begin().unwrap();
    transaction.set(key.as_bytes(), "1");
    std::thread::spawn(move || sender.send(transaction.commit()));
    receiver
}

#[test]
fn it_is_like_the_store_in_process() {
    let served = Served::new("mem:");
    let subject = Subject { database: &served.client, engine: Some(&served.engine), prefix: b"t/", long: false };
    let report = conformance::run(subject, GROUPS);
    assert!(report.passed > 40, "{report}");
}

#[test]
fn counters_of_many_threads_add_up() {
    const THREADS: u32 = 64;
    const TIMES: u32 = 10;
    let directory = TempDir::new().unwrap();
    let served = Served::new(&format!("local:{}", directory.path().display()));
    let other = open(&served.socket());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let database = if thread % 2 == 0 { &served.client } else { &other };
            scope.spawn(move || {
                let shared_key = format!("shared {}", thread % 8);
                for _ in 0..TIMES {
                    let count = |database: &Database| {
                        database.run(|transaction| {
                            let before = transaction.get(shared_key.as_bytes())?.map_or(0, |bytes| bytes[0]);
                            transaction.set(shared_key.as_bytes(), [before + 1]);
                            transaction.atomic(Atomic::Add, b"all", &1u32.to_le_bytes());
                            Ok(())
                        })
                    };
                    count(database).unwrap();
                }
            });
        }
    });
    let mut transaction = served.engine.begin().unwrap();
    for counter in 0..8 {
        let found = transaction.get(format!("shared {counter}").as_bytes()).unwrap().unwrap();
        assert_eq!(u32::from(found[0]), THREADS / 8 * TIMES);
    }
    assert_eq!(transaction.get(b"all").unwrap().unwrap(), (THREADS * TIMES).to_le_bytes());
    let status = served.server().status();
    assert!(status.commits >= u64::from(THREADS * TIMES), "{status:?}");
    assert!(status.commit_groups * 2 < status.commits, "they are not committed in groups: {status:?}");
}

#[test]
fn an_unknown_result_comes_only_when_the_commit_is_over() {
    let served = Served::new("mem:");
    put(&served.client, "before", "1");
    let commits = served.server().status().commits;
    served.engine.hold_commits(true);
    let outcome = commit_elsewhere(&served.client, "a");
    wait_until("the commit is in flight", || served.server().status().commits > commits);
    served.client.break_connection();
    // Reads go on over a new connection, and do not see it; the commit waits.
    assert_eq!(value(&served.client, "a"), None);
    assert!(matches!(outcome.recv_timeout(SHORT), Err(mpsc::RecvTimeoutError::Timeout)));
    // Not even a second break makes it give up.
    served.client.break_connection();
    assert!(matches!(outcome.recv_timeout(SHORT), Err(mpsc::RecvTimeoutError::Timeout)));
    served.engine.hold_commits(false);
    let outcome = outcome.recv_timeout(LONG).unwrap();
    assert!(matches!(outcome, Err(Error::CommitUnknownResult)), "{outcome:?}");
    assert_eq!(value(&served.client, "a").as_deref(), Some("1"), "it was in flight, so it happened");
    assert_eq!(served.server().status().connections, 1, "those that were broken are forgotten");
}

#[test]
fn what_an_unknown_result_finds_stays_so() {
    const THREADS: usize = 8;
    const TIMES: usize = 60;
    let served = Served::new("mem:");
    let over = AtomicBool::new(false);
    let unknown = AtomicU32::new(0);
    let found: Vec<BTreeSet<String>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (client, unknown) = (&served.client, &unknown);
                scope.spawn(move || {
                    let mut happened = BTreeSet::new();
                    for time in 0..TIMES {
                        let key = format!("{thread} {time}");
                        let mut transaction = client.begin().unwrap();
                        transaction.set(key.as_bytes(), "1");
                        match transaction.commit() {
                            Ok(_) => drop(happened.insert(key)),
                            Err(Error::CommitUnknownResult) => {
                                unknown.fetch_add(1, Ordering::Relaxed);
                                if read_again(client, &key).is_some() {
                                    happened.insert(key);
                                }
                            }
                            Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error}"),
                        }
                    }
                    happened
                })
            })
            .collect();
        let (client, over) = (&served.client, &over);
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                // A few requests go through in between.
                (0..20).for_each(|_| drop(read_again(client, "x")));
                client.break_connection();
            }
        });
        let found = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        found
    });
    let stored = served.engine.begin().unwrap().get_range(&RangeRead::new(b"", b"z")).unwrap();
    let stored: BTreeSet<String> = stored.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect();
    assert_eq!(stored, found.into_iter().flatten().collect::<BTreeSet<String>>());
    assert!(unknown.load(Ordering::Relaxed) > 0, "no connection broke under a commit");
}

/// Reads however often the connection breaks.
fn read_again(database: &Database, key: &str) -> Option<Vec<u8>> {
    loop {
        match database.begin().unwrap().get(key.as_bytes()) {
            Ok(value) => return value,
            Err(error) => assert!(matches!(error, Error::Unavailable(_) | Error::TooOld), "{error}"),
        }
    }
}

#[test]
fn a_client_finds_the_server_that_was_started_anew() {
    let directory = TempDir::new().unwrap();
    let url = format!("local:{}", directory.path().display());
    let mut served = Served::new(&url);
    put(&served.client, "a", "1");
    let mut reader = served.client.begin().unwrap();
    reader.get(b"a").unwrap();
    let mut writer = served.client.begin().unwrap();
    writer.get(b"a").unwrap();
    writer.set(b"a", "2");
    let impatient = impatient(&served.socket());

    let socket = served.socket();
    served.stop();
    assert!(!socket.exists() && !socket.with_file_name("socket.lock").exists());
    let error = impatient.begin().unwrap().get(b"a").unwrap_err().to_string();
    assert!(error.contains("no store server is at") && error.contains("vsekai-supervisor store --store"), "{error}");
    let mut transaction = impatient.begin().unwrap();
    transaction.set(b"a", "3");
    let error = transaction.commit().unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");

    // The server's store was closed with its last handle.
    let Served { client, engine, directory: _socket_directory, .. } = served;
    drop(engine);
    let server = serve(Database::open(&url).unwrap(), &socket).unwrap();
    assert_eq!(value(&impatient, "a").as_deref(), Some("1"));
    // What the old server knew of a transaction, this one does not.
    assert!(matches!(reader.get(b"b"), Err(Error::TooOld)));
    assert!(matches!(writer.commit(), Err(Error::TooOld)));
    assert_eq!(value(&client, "a").as_deref(), Some("1"));
    put(&client, "a", "4");
    assert_eq!(value(&impatient, "a").as_deref(), Some("4"));
    server.stop();
}

#[test]
fn a_stopping_server_finishes_what_is_in_flight() {
    let mut served = Served::new("mem:");
    let commits = served.server().status().commits;
    served.engine.hold_commits(true);
    let outcome = commit_elsewhere(&served.client, "a");
    wait_until("the commit is in flight", || served.server().status().commits > commits);
    let server = served.server.take().unwrap();
    let (sender, stopped) = mpsc::channel();
    std::thread::spawn(move || {
        server.stop();
        sender.send(())
    });
    assert!(stopped.recv_timeout(SHORT).is_err(), "it has stopped with a commit in flight");
    assert!(outcome.try_recv().is_err());
    served.engine.hold_commits(false);
    assert!(outcome.recv_timeout(LONG).unwrap().is_ok(), "the answer is sent before the server hangs up");
    stopped.recv_timeout(LONG).unwrap();
    assert_eq!(value(&served.engine, "a").as_deref(), Some("1"));
}

#[test]
fn a_commit_that_loses_a_stopping_server_waits_for_its_end() {
    let mut served = Served::new("mem:");
    let commits = served.server().status().commits;
    served.engine.hold_commits(true);
    let outcome = commit_elsewhere(&served.client, "a");
    wait_until("the commit is in flight", || served.server().status().commits > commits);
    let server = served.server.take().unwrap();
    let stopping = std::thread::spawn(move || server.stop());
    served.client.break_connection();
    assert!(outcome.recv_timeout(SHORT).is_err(), "it can still happen");
    served.engine.hold_commits(false);
    stopping.join().unwrap();
    // Its answer may have come before the connection broke.
    let outcome = outcome.recv_timeout(LONG).unwrap();
    assert!(matches!(outcome, Err(Error::CommitUnknownResult)), "{outcome:?}");
    assert_eq!(value(&served.engine, "a").as_deref(), Some("1"));
}

#[test]
fn a_socket_has_one_server() {
    let mut served = Served::new("mem:");
    let socket = served.socket();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let again = |socket: &Path| serve(Database::open("mem:").unwrap(), socket);
    assert!(matches!(again(&socket), Err(Error::InUse(path)) if path == socket));
    assert_eq!(value(&served.client, "a"), None, "the first goes on");
    served.stop();
    assert!(!socket.exists());
    // What a killed server leaves behind: a socket where nobody listens, and a lock file that nobody has locked.
    drop(UnixListener::bind(&socket).unwrap());
    fs::write(socket.with_file_name("socket.lock"), "").unwrap();
    assert!(Database::open(&format!("unix:{}", socket.display())).is_err());
    let server = again(&socket).unwrap();
    assert_eq!(value(&open(&socket), "a"), None);
    server.stop();
    // Another program's socket, and a file that is none, are left alone.
    let foreign = UnixListener::bind(&socket).unwrap();
    assert!(matches!(again(&socket), Err(Error::InUse(_))));
    drop(foreign);
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "precious").unwrap();
    let error = again(&socket).unwrap_err().to_string();
    assert!(error.contains("no socket") && fs::read(&socket).unwrap() == b"precious", "{error}");
    let error = again(&socket.join("deeper")).unwrap_err().to_string();
    assert!(error.contains("deeper"), "{error}");
    let error = again(&socket.with_file_name("x".repeat(200))).unwrap_err().to_string();
    assert!(error.contains("at most 107 bytes"), "{error}");
}

#[test]
fn only_embedded_stores_are_served() {
    let served = Served::new("mem:");
    let error = serve(served.client.clone(), &served.socket()).unwrap_err();
    assert!(matches!(&error, Error::Config(text) if text.contains("`local:`")), "{error}");
}

#[test]
fn no_server_is_one_clear_line() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("none");
    let error = Database::open(&format!("unix:{}", socket.display())).unwrap_err();
    let expected = format!(
        "no store server is at {0}: start one with `vsekai-supervisor store --store local:DIR --socket {0}`",
        socket.display()
    );
    assert!(matches!(&error, Error::Unavailable(text) if *text == expected), "{error}");
}

#[test]
fn another_version_is_refused_by_name() {
    let served = Served::new("mem:");
    let mut stream = UnixStream::connect(served.socket()).unwrap();
    stream.write_all(&ClientHello { version: 7, session: [7; 16] }.encode()).unwrap();
    let hello = server_hello(&mut stream);
    assert_eq!((hello.version, hello.verdict), (PROTOCOL_VERSION, Verdict::OtherVersion));
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the server goes on with it");

    let answers: [(Vec<u8>, &str); 4] = [
        (
            ServerHello { version: 9, verdict: Verdict::OtherVersion, instance: [0; 16] }.encode().into(),
            "speaks version 9",
        ),
        (ServerHello { version: 1, verdict: Verdict::TooMany, instance: [0; 16] }.encode().into(), "no room"),
        (b"SSH-2.0-OpenSSH_10 and so on".to_vec(), "is no store server"),
        (b"VKVU".to_vec(), "does not say hello"),
    ];
    for (answer, expected) in answers {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            stream.read_exact(&mut [0; CLIENT_HELLO_BYTES]).unwrap();
            stream.write_all(&answer).unwrap();
        });
        let error = Database::open(&format!("unix:{}", socket.display())).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        server.join().unwrap();
    }
}

#[test]
fn garbage_costs_only_who_sends_it() {
    let served = Served::new("mem:");
    put(&served.client, "a", "1");
    let begin = Request::Begin.encode(1).unwrap();
    let garbage: [&[u8]; 6] = [
        &u32::MAX.to_le_bytes(),
        &(MESSAGE_BYTES_MAX as u32 + 1).to_le_bytes(),
        &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 99],
        &[3, 0, 0, 0, 1, 2, 3],
        &[0; 64],
        // The number of a snapshot that there is already.
        &[begin.clone(), begin].concat(),
    ];
    for bytes in garbage {
        let mut stream = served.raw();
        stream.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        // It may have hung up before it has read everything.
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(value(&served.client, "a").as_deref(), Some("1"));
    }
    // Who is silent, or stops in the middle, keeps nobody waiting.
    let silent = UnixStream::connect(served.socket()).unwrap();
    let mut halved = served.raw();
    halved.write_all(&Request::Ping.encode(1).unwrap()[..7]).unwrap();
    assert_eq!(value(&served.client, "a").as_deref(), Some("1"));
    drop((silent, halved));
    wait_until("they are gone", || served.server().status().connections == 1);
    assert_eq!(served.server().status().snapshots, 1, "only the client's last");
}

#[test]
fn a_request_that_breaks_the_rules_is_refused() {
    let served = Served::new("mem:");
    let mut stream = served.raw();
    let commit = |mutation| Request::Commit(CommitRequest { mutations: vec![mutation], ..CommitRequest::default() });
    let refused = [
        commit(Mutation::SetVersionstampedKey(b"short".to_vec(), 0, vec![])),
        commit(Mutation::SetVersionstampedValue(b"k".to_vec(), vec![0; 20], u32::MAX)),
        commit(Mutation::Set(b"\xff".to_vec(), vec![])),
        commit(Mutation::Set(b"k".to_vec(), vec![0; 100_001])),
        commit(Mutation::Clear((vec![], b"\xff\x00".to_vec()))),
        Request::Commit(CommitRequest {
            mutations: (0..=TRANSACTION_BYTES_MAX / 100_000)
                .map(|_| Mutation::Set(vec![1], vec![0; 100_000]))
                .collect(),
            ..CommitRequest::default()
        }),
        Request::Get { snapshot: 99, key: vec![1] },
        Request::Range { snapshot: 99, begin: vec![1], end: vec![2], limit: 1, reverse: false },
        Request::BeginAt { version: 1 << 60 },
    ];
    for (number, request) in (1..).zip(&refused) {
        let answer = ask(&mut stream, number, request);
        assert!(matches!(answer, Answer::Failed(_)), "{number}: {answer:?}");
    }
    // What does not exist can be let go.
    for request in [Request::Release { snapshot: 99 }, Request::Unwatch { watch: 99 }] {
        stream.write_all(&request.encode(0).unwrap()).unwrap();
    }
    assert!(matches!(ask(&mut stream, 100, &Request::EndSession { session: [9; 16] }), Answer::Done));
    assert!(matches!(ask(&mut stream, 101, &Request::Ping), Answer::Done));
    let unversioned = Request::Commit(CommitRequest::default());
    assert!(matches!(ask(&mut stream, 102, &unversioned), Answer::Committed(_)));
}

#[test]
fn what_is_held_for_a_client_is_bounded() {
    let served = Served::new("mem:");
    let mut stream = served.raw();
    let mut refused = 0;
    for number in 1..=5_000 {
        match ask(&mut stream, number, &Request::Begin) {
            Answer::Version(0) => {}
            Answer::Failed(Error::ProcessBehind) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((refused, served.server().status().snapshots), (5_000 - 4_096, 4_096));
    drop(stream);
    wait_until("they are let go", || served.server().status().snapshots == 0);

    // Connections beyond the limit are refused, and the others go on.
    let mut streams = Vec::new();
    while let Ok(hello) = {
        let mut stream = UnixStream::connect(served.socket()).unwrap();
        let hello = ClientHello { version: PROTOCOL_VERSION, session: uuid::Uuid::new_v4().into_bytes() };
        // One that is refused may have been hung up on by now.
        let _ = stream.write_all(&hello.encode());
        let hello = server_hello(&mut stream);
        streams.push(stream);
        if hello.verdict == Verdict::Accepted { Ok(hello) } else { Err(hello.verdict) }
    } {
        assert!(streams.len() < 1_000, "{hello:?}");
    }
    assert!(streams.len() > 100, "{} connections", streams.len());
    put(&served.client, "a", "1");
}

#[test]
fn a_client_that_does_not_read_its_answers_keeps_nobody_waiting() {
    let served = Served::new("mem:");
    let value = vec![7; 90_000];
    for key in 0..20u8 {
        let mut transaction = served.engine.begin().unwrap();
        transaction.set(&[key], value.clone());
        transaction.commit().unwrap();
    }
    let mut stream = served.raw();
    assert!(matches!(ask(&mut stream, 1, &Request::Begin), Answer::Version(_)));
    let (begin, end) = (vec![], vec![200]);
    let request = Request::Range { snapshot: 1, begin, end, limit: 1_000, reverse: false }.encode(2).unwrap();
    stream.set_nonblocking(true).unwrap();
    // Until the server reads no more of it.
    let mut requests = 0;
    wait_until("it is not read", || (&stream).write(&request).is_err());
    while (&stream).write(&request).is_ok() {
        requests += 1;
    }
    let began = Instant::now();
    put(&served.client, "a", "1");
    assert!(began.elapsed() < LONG, "after {requests} more requests");
    let sent = served.server().status().bytes_sent;
    assert!(sent < 64 << 20, "{sent} bytes wait for a client that does not read");
}

#[test]
fn dropped_snapshots_and_watches_are_let_go() {
    let served = Served::new("mem:");
    put(&served.client, "a", "1");
    let mut transaction = served.client.begin().unwrap();
    let kept = transaction.watch(b"a").unwrap();
    let dropped = transaction.watch(b"a").unwrap();
    transaction.commit().unwrap();
    assert_eq!(served.server().status().watches, 2);
    drop((dropped, transaction));
    // The next request tells the server.
    let reader = served.client.begin().unwrap().read_version().unwrap();
    assert!(reader > 0);
    let status = served.server().status();
    assert_eq!((status.watches, status.snapshots), (1, 1), "{status:?}");
    put(&served.engine, "a", "2");
    assert!(kept.wait(LONG).unwrap());
    wait_until("a watch that has fired is forgotten", || served.server().status().watches == 0);
}

#[test]
fn a_watch_ends_with_its_connection() {
    let served = Served::new("mem:");
    let mut transaction = served.client.begin().unwrap();
    let watch = transaction.watch(b"a").unwrap();
    transaction.commit().unwrap();
    served.client.break_connection();
    let error = watch.wait(LONG).unwrap_err();
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("was lost")), "{error}");
    let mut transaction = served.client.begin().unwrap();
    let watch = transaction.watch(b"a").unwrap();
    transaction.commit().unwrap();
    put(&served.engine, "a", "1");
    assert!(watch.wait(LONG).unwrap());
}

#[test]
fn a_snapshot_survives_a_broken_connection_while_somebody_holds_it() {
    let served = Served::new("mem:");
    put(&served.client, "a", "1");
    let mut reader = served.client.begin().unwrap();
    assert_eq!(reader.get(b"a").unwrap().unwrap(), b"1");
    let mut holder = served.engine.begin().unwrap();
    holder.read_version().unwrap();
    put(&served.engine, "a", "2");
    put(&served.engine, "b", "2");
    served.client.break_connection();
    assert_eq!(reader.get(b"b").unwrap(), None, "it reads another version");
    drop(holder);
    served.client.break_connection();
    wait_until("the old connection is gone", || served.server().status().snapshots == 0);
    put(&served.engine, "c", "2");
    assert!(matches!(reader.get(b"c"), Err(Error::TooOld)));
}

#[test]
fn faults_strike_where_they_were_put() {
    let served = Served::new("mem:");
    let other = open(&served.socket());
    served.client.fail_next_commits([Fault::Conflict]);
    served.client.fail_next_reads([Fault::TooOld]);
    assert_eq!(value(&other, "a"), None);
    put(&other, "a", "1");
    assert!(matches!(served.client.begin().unwrap().get(b"a"), Err(Error::TooOld)));
    let mut transaction = served.client.begin().unwrap();
    transaction.set(b"a", "2");
    assert!(matches!(transaction.commit(), Err(Error::Conflict)));
    served.client.fail_at_random(Some(RandomFaults { seed: 1, commits_per_mille: 160, reads_per_mille: 0 }));
    let failures = (0..50).filter(|_| {
        let mut transaction = served.client.begin().unwrap();
        transaction.set(b"b", "2");
        transaction.commit().is_err()
    });
    assert!(failures.count() > 20);
    served.client.fail_at_random(None);
    served.engine.fail_next_commits([Fault::UnknownAndLost]);
    let mut transaction = other.begin().unwrap();
    transaction.set(b"c", "1");
    assert!(matches!(transaction.commit(), Err(Error::CommitUnknownResult)));
    assert_eq!(value(&other, "c"), None);
}

#[test]
fn large_ranges_come_whole() {
    let served = Served::new("mem:");
    let count = 3_000u32;
    for first in (0..count).step_by(500) {
        let fill = served.engine.run(|transaction| {
            (first..first + 500).for_each(|key| transaction.set(&key.to_be_bytes(), vec![7; 1_500]));
            Ok(())
        });
        fill.unwrap();
    }
    let mut transaction = served.client.begin().unwrap();
    let keys = |pairs: Vec<crate::kv::Pair>| -> Vec<u32> {
        pairs.into_iter().map(|(key, _)| u32::from_be_bytes(key.try_into().unwrap())).collect()
    };
    let (begin, end) = ([], [9]);
    let all = RangeRead::new(&begin, &end);
    assert_eq!(keys(transaction.get_range(&all).unwrap()), (0..count).collect::<Vec<_>>());
    assert_eq!(keys(transaction.get_range(&all.reverse()).unwrap()), (0..count).rev().collect::<Vec<_>>());
    assert_eq!(keys(transaction.get_range(&all.limit(1_001)).unwrap()), (0..1_001).collect::<Vec<_>>());
}

#[test]
fn a_server_says_what_it_serves() {
    let directory = TempDir::new().unwrap();
    let url = format!("local:{}", directory.path().display());
    let served = Served::new(&url);
    let facts = server_facts(&served.socket()).unwrap();
    assert_eq!((facts.store, facts.process), (url, std::process::id()));
    assert!(facts.version.contains(env!("CARGO_PKG_VERSION")), "{}", facts.version);
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..12)
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (bytes(), bytes()).prop_map(|(key, value)| Mutation::Set(key, value)),
        (bytes(), bytes()).prop_map(Mutation::Clear),
        (prop::sample::select(&Atomic::ALL[..]), bytes(), bytes()).prop_map(|(a, k, o)| Mutation::Atomic(a, k, o)),
        (bytes(), any::<u32>(), bytes()).prop_map(|(k, offset, v)| Mutation::SetVersionstampedKey(k, offset, v)),
        (bytes(), bytes(), any::<u32>()).prop_map(|(k, v, offset)| Mutation::SetVersionstampedValue(k, v, offset)),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let ranges = || prop::collection::vec((bytes(), bytes()), 0..4);
    let commit = (any::<u64>(), ranges(), ranges(), prop::collection::vec(mutation(), 0..6));
    prop_oneof![
        Just(Request::Begin),
        any::<u64>().prop_map(|version| Request::BeginAt { version }),
        any::<u64>().prop_map(|snapshot| Request::Release { snapshot }),
        (any::<u64>(), bytes()).prop_map(|(snapshot, key)| Request::Get { snapshot, key }),
        (any::<u64>(), bytes(), bytes(), any::<u64>(), any::<bool>())
            .prop_map(|(snapshot, begin, end, limit, reverse)| Request::Range { snapshot, begin, end, limit, reverse }),
        commit.prop_map(|(read_version, read_conflicts, write_conflicts, mutations)| {
            Request::Commit(CommitRequest { read_version, read_conflicts, write_conflicts, mutations })
        }),
        (bytes(), prop::option::of(bytes())).prop_map(|(key, value)| Request::Watch { key, value }),
        any::<u64>().prop_map(|watch| Request::Unwatch { watch }),
        any::<[u8; 16]>().prop_map(|session| Request::EndSession { session }),
        Just(Request::Ping),
        Just(Request::Facts),
    ]
}

fn failure() -> impl Strategy<Value = Error> {
    const NAMES: [&str; 6] = ["key", "value", "transaction", "list of watches", "message", "list of mutations"];
    prop_oneof![
        Just(()).prop_map(|()| Error::Conflict),
        Just(()).prop_map(|()| Error::TooOld),
        Just(()).prop_map(|()| Error::CommitUnknownResult),
        Just(()).prop_map(|()| Error::FutureVersion),
        Just(()).prop_map(|()| Error::ProcessBehind),
        Just(()).prop_map(|()| Error::Unreadable),
        ".*".prop_map(Error::KeyOutside),
        ".*".prop_map(Error::Unavailable),
        ".*".prop_map(Error::Poisoned),
        ".*".prop_map(Error::Config),
        (prop::sample::select(&NAMES[..]), any::<usize>(), any::<usize>())
            .prop_map(|(what, found, limit)| Error::TooLarge { what, found, limit }),
        (".*", ".*").prop_map(|(place, detail)| Error::Corrupt { place, detail }),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        failure().prop_map(Answer::Failed),
        Just(()).prop_map(|()| Answer::Done),
        any::<u64>().prop_map(Answer::Version),
        prop::option::of(bytes()).prop_map(Answer::Value),
        (prop::collection::vec((bytes(), bytes()), 0..6), any::<bool>())
            .prop_map(|(pairs, more)| Answer::Pairs { pairs, more }),
        (any::<u64>(), prop::option::of(any::<[u8; 10]>()))
            .prop_map(|(version, versionstamp)| Answer::Committed(Committed { version, versionstamp })),
        (".*", any::<u32>(), ".*")
            .prop_map(|(store, process, program_version)| { Answer::Facts(Facts { store, process, program_version }) }),
        prop::option::of(".*").prop_map(|text| Answer::Fired(text.map_or(Ok(()), Err))),
    ]
}

proptest! {
    #[test]
    fn messages_come_back(number: u64, request in request(), answer in answer()) {
        let message = request.encode(number).unwrap();
        prop_assert_eq!(Request::decode(&message[4..]).unwrap(), (number, request));
        let message = answer.encode(number);
        let (found, decoded) = Answer::decode(&message[4..]).unwrap();
        // Errors can't be compared but by what they say.
        prop_assert_eq!((found, format!("{decoded:?}")), (number, format!("{answer:?}")));
    }

    #[test]
    fn no_bytes_panic(random in prop::collection::vec(any::<u8>(), 0..80), kind in 0u8..32) {
        let _ = Request::decode(&random);
        let _ = Answer::decode(&random);
        let with_kind = [&[0; 8], &[kind][..], &random].concat();
        let _ = Request::decode(&with_kind);
        let _ = Answer::decode(&with_kind);
        let mut buffer = Vec::new();
        let _ = read_message(&mut &random[..], &mut buffer);
        prop_assert!(buffer.capacity() < 1 << 16, "{} bytes for {}", buffer.capacity(), random.len());
    }

    #[test]
    fn a_damaged_message_never_panics(request in request(), answer in answer(), at: prop::sample::Index, bits in 1u8..) {
        for mut message in [request.encode(1).unwrap(), answer.encode(1)] {
            let body = &mut message[4..];
            body[at.index(body.len())] ^= bits;
            let _ = Request::decode(body);
            let _ = Answer::decode(body);
            let cut = at.index(body.len());
            prop_assert!(Request::decode(&request.encode(1).unwrap()[4..]).is_ok());
            prop_assert!(Answer::decode(&body[..cut]).is_err() || cut > 8);
        }
    }
}

#[test]
fn a_long_answer_or_count_is_refused_and_not_allocated() {
    let pairs = (0..200).map(|_| (vec![], vec![0; 100_000])).collect();
    let message = Answer::Pairs { pairs, more: false }.encode(3);
    let (number, answer) = Answer::decode(&message[4..]).unwrap();
    assert_eq!(number, 3);
    assert!(matches!(answer, Answer::Failed(Error::TooLarge { what: "message", .. })), "{answer:?}");
    // A commit of two million empty ranges, in four million bytes.
    let mut message = [&1u64.to_le_bytes()[..], &[6, 0]].concat();
    vsekai_schema::codec::write_varint(&mut message, 2_000_000);
    message.extend(std::iter::repeat_n(0, 4_000_002));
    assert!(Request::decode(&message).unwrap_err().to_string().contains("at most 1000000"));
}
