//! The commands that ask a running supervisor, and how their answers are shown.

use crate::client::{Client, Failure};
use crate::engine::crash::CrashReport;
use crate::engine::{Board, ChildView};
use crate::log::Line;
use crate::log::utc;
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Where the supervisor is.
#[derive(Debug, Args)]
pub struct Where {
    /// The configuration of the supervisor, which says where it listens
    #[arg(long, value_name = "FILE", default_value = "supervisor.toml", global = true)]
    pub config: PathBuf,
    /// Its Unix socket
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,
    /// Its address: http://HOST:PORT
    #[arg(long, value_name = "URL", global = true)]
    pub url: Option<String>,
    /// The file with the token for it
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// Answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What can be asked of a running supervisor.
#[derive(Debug, Subcommand)]
pub enum Request {
    /// How the children are
    Status,
    /// A child's last lines
    Logs {
        /// Which
        child: String,
        /// How many
        #[arg(short = 'n', long, default_value_t = 50, value_name = "N")]
        lines: usize,
        /// And those that come
        #[arg(short, long)]
        follow: bool,
    },
    /// Start children, also those in quarantine
    Start {
        /// Which
        #[arg(required = true)]
        children: Vec<String>,
    },
    /// Stop children
    Stop {
        /// Which
        #[arg(required = true)]
        children: Vec<String>,
    },
    /// Stop and start children
    Restart {
        /// Which
        #[arg(required = true)]
        children: Vec<String>,
    },
    /// Let children finish by themselves; then they stay down
    Drain {
        /// Which
        #[arg(required = true)]
        children: Vec<String>,
    },
    /// Let a child finish, then start another program, or what the configuration says now
    Upgrade {
        /// Which
        child: String,
        /// The new program
        program: Option<PathBuf>,
    },
    /// Drain all children of a group and hold them
    Maintain {
        /// Which group
        group: String,
    },
    /// End the maintenance of a group
    Release {
        /// Which group
        group: String,
    },
    /// Crash reports: all, a child's, or one by its id
    Crashes {
        /// A child, or the id of a report
        which: Option<String>,
    },
    /// Read the configuration again
    Reload,
    /// End the supervisor; its children go on, and the next supervisor finds them
    Detach,
    /// Stop all children and end the supervisor
    Shutdown,
}

/// Asks, and prints the answer.
///
/// # Errors
/// When there is no answer, or it is no.
pub async fn run(place: &Where, request: Request) -> anyhow::Result<()> {
    let client =
        Client::new(place.url.as_deref(), place.socket.as_deref(), &place.config, place.token_file.as_deref())?;
    let order = async |names: &[String], what: &str| -> Result<(), Failure> {
        for name in names {
            let done = client.post(&format!("/api/children/{}/{what}", escaped(name)), String::new()).await?;
            say(&done);
        }
        Ok(())
    };
    match request {
        Request::Status if place.json => say(&client.text(hyper::Method::GET, "/api/board", String::new()).await?),
        Request::Status => say(&table(&client.get::<Board>("/api/board").await?)),
        Request::Logs { child, lines, follow } => logs(&client, place.json, &escaped(&child), lines, follow).await?,
        Request::Start { children } => order(&children, "start").await?,
        Request::Stop { children } => order(&children, "stop").await?,
        Request::Restart { children } => order(&children, "restart").await?,
        Request::Drain { children } => order(&children, "drain").await?,
        Request::Upgrade { child, program } => {
            let body = match program {
                Some(program) => json!({ "program": std::path::absolute(program)? }).to_string(),
                None => String::new(),
            };
            say(&client.post(&format!("/api/children/{}/upgrade", escaped(&child)), body).await?);
        }
        Request::Maintain { group } => {
            say(&client.post(&format!("/api/groups/{}/maintain", escaped(&group)), String::new()).await?);
        }
        Request::Release { group } => {
            say(&client.post(&format!("/api/groups/{}/release", escaped(&group)), String::new()).await?);
        }
        Request::Crashes { which } => crashes(&client, place.json, which.as_deref()).await?,
        Request::Reload => say(&client.post("/api/reload", String::new()).await?),
        Request::Detach => say(&client.post("/api/detach", String::new()).await?),
        Request::Shutdown => say(&client.post("/api/shutdown", String::new()).await?),
    }
    Ok(())
}

/// Prints. Whoever does not want to read on ends us, quietly.
fn say(text: &str) {
    if writeln!(std::io::stdout(), "{}", text.trim_end()).is_err() {
        std::process::exit(0);
    }
}

/// A name as a part of a path; what is not a name's letter is not sent as anything else.
fn escaped(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'-' | b'_' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

async fn logs(client: &Client, json: bool, child: &str, count: usize, follow: bool) -> Result<(), Failure> {
    let show = |line: &Line| {
        let text = if json {
            serde_json::to_string(line).unwrap_or_default()
        } else {
            format!("{} {} {}", line.time, line.stream, line.text)
        };
        say(&text);
    };
    let lines: Vec<Line> = client.get(&format!("/api/children/{child}/logs?tail={count}")).await?;
    lines.iter().for_each(show);
    if follow {
        let from = lines.last().map(|line| format!("?from={}", line.number + 1)).unwrap_or_default();
        let each = |_: &str, data: &str| {
            if let Ok(line) = serde_json::from_str(data) {
                show(&line);
            }
            true
        };
        client.events(&format!("/api/children/{child}/follow{from}"), each).await?;
    }
    Ok(())
}

async fn crashes(client: &Client, json: bool, which: Option<&str>) -> Result<(), Failure> {
    let board: Board = client.get("/api/board").await?;
    let child = which.filter(|which| board.children.iter().any(|child| child.name == *which));
    let path = match (which, child) {
        (None, _) => "/api/crashes".to_owned(),
        (Some(_), Some(child)) => format!("/api/children/{}/crashes", escaped(child)),
        (Some(id), None) => format!("/api/crashes/{}", escaped(id)),
    };
    if json {
        say(&client.text(hyper::Method::GET, &path, String::new()).await?);
        return Ok(());
    }
    if which.is_some() && child.is_none() {
        say(&report(&client.get::<CrashReport>(&path).await?));
        return Ok(());
    }
    let reports: Vec<CrashReport> = client.get(&path).await?;
    let mut rows = vec![["ID", "WHEN", "UPTIME", "TICK", "CAUSE"].map(str::to_owned)];
    rows.extend(reports.into_iter().map(|report| {
        let tick = report.tick.map_or_else(|| "–".to_owned(), |tick| tick.to_string());
        [report.id, utc(report.at_unix_ms), time(report.uptime_ms), tick, report.cause]
    }));
    say(&columns(&rows));
    Ok(())
}

fn report(report: &CrashReport) -> String {
    let mut text = format!(
        "{}  {}\n  when     {}\n  uptime   {}\n  process  {}\n  tick     {}\n  said     {}\n  command  {}\n",
        report.id,
        report.cause,
        utc(report.at_unix_ms),
        time(report.uptime_ms),
        report.pid.map_or_else(|| "–".to_owned(), |pid| pid.to_string()),
        report.tick.map_or_else(|| "–".to_owned(), |tick| tick.to_string()),
        report.status,
        report.command.join(" "),
    );
    if !report.backtrace.is_empty() {
        text += "\nBacktrace\n";
        report.backtrace.iter().for_each(|line| text += &format!("  {line}\n"));
    }
    text += "\nLast lines\n";
    report.lines.iter().for_each(|line| text += &format!("  {} {} {}\n", line.time, line.stream, line.text));
    text
}

fn table(board: &Board) -> String {
    let head = ["NAME", "STATE", "PID", "UPTIME", "RESTARTS", "HZ", "PLAYERS", "BACKLOG", "MEMORY", "WHY"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(board.children.iter().map(row));
    let mut text = columns(&rows);
    if let Some(store) = &board.store {
        let ms = |us: u64| us as f64 / 1_000.0;
        let health = match (store.answer_us, &store.last_error) {
            (Some(us), _) if store.reachable => format!("answers in {:.1} ms", ms(us)),
            (_, Some(error)) => format!("does not answer: {error}"),
            _ => "has not answered yet".to_owned(),
        };
        text += &format!(
            "\n\nThe store {health}; {} commits, p99 {:.1} ms, {} clients, {} in journals",
            store.commits,
            ms(store.commit_p99_us),
            store.clients,
            bytes(store.backlog_bytes)
        );
    }
    text
}

fn row(child: &ChildView) -> [String; 10] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let why = child.reason.clone().or_else(|| (!child.status.is_empty()).then(|| child.status.clone()));
    [
        child.name.clone(),
        child.state.clone(),
        or_dash(child.pid.map(|pid| pid.to_string())),
        or_dash(child.uptime_ms.map(time)),
        child.restarts.to_string(),
        or_dash(child.tick_hz.map(|hz| format!("{hz:.1}"))),
        or_dash(child.players.map(|players| players.to_string())),
        or_dash(child.backlog_bytes.map(bytes)),
        bytes(child.sample.rss_bytes),
        why.unwrap_or_default(),
    ]
}

/// Columns as wide as their widest cell; the last one is as long as it is.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn time(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..60 => format!("{}.{} s", s, ms % 1_000 / 100),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3_600 % 24),
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0 => "–".to_owned(),
        1..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_people_read_them() {
        assert_eq!(
            [time(900), time(61_000), time(7_260_000), time(180_000_000)],
            ["0.9 s", "1 min 1 s", "2 h 1 min", "2 d 2 h"]
        );
        assert_eq!([bytes(0), bytes(10), bytes(2_048), bytes(3 << 20)], ["–", "10 B", "2.0 KiB", "3.0 MiB"]);
        assert_eq!(columns(&[["a", "b"].map(str::to_owned), ["long", "c"].map(str::to_owned)]), "a     b\nlong  c");
        assert_eq!(escaped("a-b_1.x/../ü"), "a-b_1.x%2F..%2F%C3%BC");
    }
}
