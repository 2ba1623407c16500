//! What machines ask: health and metrics.

use super::{Shared, refuse};
use crate::engine::{Board, ChildView};
use crate::log::unix_ms;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::fmt::Write;

/// An engine that has shown nothing for this long is not well; it does so every second.
const UNHEALTHY_AFTER_MS: u64 = 5_000;

/// `GET /healthz`.
pub async fn health(State(shared): State<Shared>) -> Response {
    let board = shared.engine.board.borrow().clone();
    let age = unix_ms().saturating_sub(board.at_unix_ms);
    if age > UNHEALTHY_AFTER_MS {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("the engine was last seen {age} ms ago"));
    }
    let running = board.children.iter().filter(|child| child.state == "running").count();
    format!("ok, {running} of {} children run\n", board.children.len()).into_response()
}

/// `GET /metrics`.
pub async fn metrics(State(shared): State<Shared>) -> Response {
    let board = shared.engine.board.borrow().clone();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text(&board)).into_response()
}

type Column = (&'static str, &'static str, &'static str, fn(&ChildView) -> Option<f64>);

const COLUMNS: &[Column] = &[
    ("up", "gauge", "1 when the child is ready", |child| Some(f64::from(u8::from(child.state == "running")))),
    ("quarantined", "gauge", "1 when it failed too often", |child| {
        Some(f64::from(u8::from(child.state == "quarantined")))
    }),
    ("restarts_total", "counter", "Restarts after failures", |child| Some(child.restarts as f64)),
    ("run", "counter", "Number of its run", |child| Some(child.run as f64)),
    ("uptime_seconds", "gauge", "How long it has been running", |child| child.uptime_ms.map(|ms| ms as f64 / 1_000.0)),
    ("resident_bytes", "gauge", "Memory of it and those it started", |child| Some(child.sample.rss_bytes as f64)),
    ("keeper_resident_bytes", "gauge", "Memory of its keeper", |child| Some(child.sample.keeper_rss_bytes as f64)),
    ("open_files", "gauge", "Descriptors of its process", |child| Some(child.sample.open_files as f64)),
    ("processes", "gauge", "It and those it started", |child| Some(child.sample.processes as f64)),
    ("tick", "counter", "The tick that it told", |child| child.tick.map(|tick| tick as f64)),
    ("players", "gauge", "Players that it told", |child| child.players.map(f64::from)),
    ("journal_waits", "gauge", "1 when its journal could not be brought into the store yet", |child| {
        let journal = child.journal.as_ref()?;
        Some(f64::from(u8::from(matches!(&journal.state[..], "waiting" | "failed"))))
    }),
    ("backlog_bytes", "gauge", "Bytes not in the database yet, as it told or as its journal says", |child| {
        child.backlog_bytes.map(|bytes| bytes as f64)
    }),
    ("log_lines_total", "counter", "Lines kept", |child| Some(child.log_lines as f64)),
    ("log_lost_total", "counter", "Lines of this run lost", |child| Some(child.log_lost as f64)),
];

fn text(board: &Board) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail. Names of children and groups are letters that need no escape.
    for (name, kind, help, value) in COLUMNS {
        let _ = writeln!(text, "# HELP vsekai_child_{name} {help}\n# TYPE vsekai_child_{name} {kind}");
        for child in &board.children {
            if let Some(value) = value(child) {
                let _ =
                    writeln!(text, "vsekai_child_{name}{{child=\"{}\",group=\"{}\"}} {value}", child.name, child.group);
            }
        }
    }
    let own = &board.supervisor;
    for (name, help, value) in [
        ("resident_bytes", "Memory", own.rss_bytes as f64),
        ("open_files", "Descriptors", own.open_files as f64),
        ("uptime_seconds", "How long it has been running", own.uptime_ms as f64 / 1_000.0),
    ] {
        let _ = writeln!(
            text,
            "# HELP vsekai_supervisor_{name} {help} of the supervisor\n# TYPE vsekai_supervisor_{name} gauge"
        );
        let _ = writeln!(text, "vsekai_supervisor_{name} {value}");
    }
    if let Some(store) = &board.store {
        let seconds = |us: u64| us as f64 / 1_000_000.0;
        for (name, kind, help, value) in [
            ("up", "gauge", "1 when the store answers", Some(f64::from(u8::from(store.reachable)))),
            ("answer_seconds", "gauge", "How long it took to answer", store.answer_us.map(seconds)),
            ("commit_seconds", "gauge", "How long the last group of commits took", Some(seconds(store.commit_last_us))),
            ("commit_p99_seconds", "gauge", "99th percentile of that", Some(seconds(store.commit_p99_us))),
            ("commits_total", "counter", "Commits answered", Some(store.commits as f64)),
            ("clients", "gauge", "Connections", Some(f64::from(store.clients))),
            ("backlog_bytes", "gauge", "Bytes in journals that it does not have yet", Some(store.backlog_bytes as f64)),
        ] {
            if let Some(value) = value {
                let _ = writeln!(text, "# HELP vsekai_store_{name} {help}\n# TYPE vsekai_store_{name} {kind}");
                let _ = writeln!(text, "vsekai_store_{name} {value}");
            }
        }
    }
    text
}
