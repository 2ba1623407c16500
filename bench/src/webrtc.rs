//! Bots over real WebRTC: one task each, with a connection of its own.

use crate::bot::{Bot, Style};
use crate::loopback::THINK_INTERVAL;
use crate::report::{Latency, Report};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use vsekai_net::webrtc::{Connection, connect};

/// How long a bot tries to connect; then it tries once more.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(15);

/// Which client library carries a bot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Library {
    /// Our own, ten times lighter
    #[default]
    Str0m,
    /// matchbox_socket, as third parties use it
    #[cfg(feature = "matchbox")]
    Matchbox,
}

impl Library {
    /// Connects to the signalling address `url`. The error says what went wrong.
    pub async fn connect(self, url: &str, deadline: Duration) -> Result<Connection, String> {
        match self {
            Library::Str0m => connect(url, deadline).await.map_err(|error| error.to_string()),
            #[cfg(feature = "matchbox")]
            Library::Matchbox => crate::matchbox::connect(url, deadline).await,
        }
    }

    /// As it is known.
    pub fn name(self) -> &'static str {
        match self {
            Library::Str0m => "str0m",
            #[cfg(feature = "matchbox")]
            Library::Matchbox => "matchbox_socket",
        }
    }
}

/// One bot's life.
#[derive(Debug)]
pub struct Life {
    /// The bot as it was at the end.
    pub bot: Bot,
    /// When the bot's clock was zero.
    pub begin: Instant,
    /// From connecting to the welcome, if it came.
    pub join_time: Option<Duration>,
    /// Why the connection ended before its time.
    pub lost: Option<String>,
    /// Bytes of messages sent.
    pub up_bytes: u64,
    /// Bytes of messages received.
    pub down_bytes: u64,
}

/// Asks the shard that is reached at `url` (`ws://host:port/`) for a join token of the player who knows `secret`.
///
/// # Errors
/// When the shard cannot be reached or issues none; the text is what it said.
pub async fn token(url: &str, secret: &str) -> Result<String> {
    let address = format!("{}api/token", url.replacen("ws", "http", 1));
    let body = serde_json::json!({ "secret": secret });
    let ask = move || -> Result<String> {
        let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
        let mut response = agent.post(&address).send_json(body)?;
        if response.status() != 200 {
            bail!("no token: {}", response.body_mut().read_to_string()?.trim());
        }
        let answer: serde_json::Value = response.body_mut().read_json()?;
        Ok(answer["token"].as_str().context("the answer holds no token")?.to_string())
    };
    tokio::task::spawn_blocking(ask).await.context("nobody asks for a token any more")?
}

/// When a bot's connection breaks, for [`play`].
#[derive(Debug)]
pub struct Breaks {
    left: usize,
    rng: ChaCha8Rng,
}

impl Breaks {
    /// So many, at times that follow from the seed.
    pub fn new(count: usize, seed: u64) -> Breaks {
        Breaks { left: count, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    fn next(&mut self) -> Duration {
        if self.left == 0 {
            return Duration::MAX;
        }
        self.left -= 1;
        Duration::from_millis(self.rng.random_range(200..1_500))
    }
}

/// Plays one bot on the shard at `url` (`ws://host:port/`) until `stop` becomes true or the connection ends. It breaks as
/// `breaks` says, and is resumed then.
pub async fn play(
    url: String,
    library: Library,
    mut bot: Bot,
    mut stop: watch::Receiver<bool>,
    mut breaks: Breaks,
) -> Life {
    let begin = Instant::now();
    let life_of =
        |bot, join_time, lost, (up_bytes, down_bytes)| Life { bot, begin, join_time, lost, up_bytes, down_bytes };
    let mut bytes_of = (0, 0);
    let mut join_time = None;
    let mut connection = match come_in(&url, library, &mut bot, &mut stop).await {
        Ok(connection) => connection,
        Err(lost) => return life_of(bot, None, lost, bytes_of),
    };
    let mut think = tokio::time::interval(THINK_INTERVAL);
    think.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut break_in = None;
    let lost = loop {
        for (channel, bytes) in bot.client.take_outgoing() {
            bytes_of.0 += bytes.len() as u64;
            // A full queue drops a movement; the command channel is far from full with one command under way.
            connection.outgoing.try_send(channel, bytes);
        }
        tokio::select! {
            biased;
            message = connection.incoming.recv() => {
                let Some((channel, bytes)) = message else {
                    break Some(bot.refused.clone().unwrap_or_else(|| "the connection ended".into()));
                };
                bytes_of.1 += bytes.len() as u64;
                if let Err(error) = bot.receive(begin.elapsed(), channel, &bytes) {
                    break Some(error.to_string());
                }
                if join_time.is_none() && bot.is_playing() {
                    join_time = Some(begin.elapsed());
                    break_in = begin.elapsed().checked_add(breaks.next());
                }
            }
            _ = think.tick() => bot.step(begin.elapsed()),
            _ = stop.wait_for(|stop| *stop) => break None,
        }
        if break_in.is_some_and(|at| begin.elapsed() >= at) && bot.client.resume() {
            if breaks.rng.random() {
                // As when a network goes away: nobody says a word.
                connection.abandon();
            } else {
                drop(connection);
            }
            tokio::time::sleep(Duration::from_millis(breaks.rng.random_range(0..1_000))).await;
            match connect_twice(&bot.client.signalling_url(&url), library, &mut stop).await {
                Ok(again) => connection = again,
                Err(lost) => return life_of(bot, join_time, lost, bytes_of),
            }
            break_in = begin.elapsed().checked_add(breaks.next());
        }
    };
    if lost.is_none() {
        // A player who says nothing stays in the world for a while.
        bot.client.leave();
        for (channel, bytes) in bot.client.take_outgoing() {
            connection.outgoing.try_send(channel, bytes);
        }
        connection.close().await;
    }
    life_of(bot, join_time, lost, bytes_of)
}

/// Gets a token and connects. The error is why not; `None` when it was stopped.
pub(crate) async fn come_in(
    url: &str,
    library: Library,
    bot: &mut Bot,
    stop: &mut watch::Receiver<bool>,
) -> Result<Connection, Option<String>> {
    let token = token(url, bot.own_secret()).await.map_err(|error| Some(format!("{error:#}")))?;
    bot.present(&token);
    connect_twice(&bot.client.signalling_url(url), library, stop).await
}

async fn connect_twice(
    url: &str,
    library: Library,
    stop: &mut watch::Receiver<bool>,
) -> Result<Connection, Option<String>> {
    let mut lost = None;
    for _ in 0..2 {
        tokio::select! {
            connected = library.connect(url, CONNECT_DEADLINE) => match connected {
                Ok(connection) => return Ok(connection),
                Err(error) => lost = Some(error),
            },
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    Err(lost)
}

/// Plays `players` bots of `seed` for `duration`, and reports. Bots start a few milliseconds apart.
pub async fn run(
    url: &str,
    library: Library,
    players: usize,
    seed: u64,
    style: Style,
    duration: Duration,
) -> (Report, Vec<Life>) {
    let bots = (0..players).map(|number| (Bot::new(seed, number, style), Breaks::new(0, 0))).collect();
    let (lives, played) = run_broken(url, library, bots, tokio::time::sleep(duration)).await;
    (report(&lives, library, players, seed, played), lives)
}

/// Plays bots until `end`. Their lives come back in the same order.
pub async fn run_bots(url: &str, bots: Vec<Bot>, end: impl Future<Output = ()>) -> (Vec<Life>, Duration) {
    let bots = bots.into_iter().map(|bot| (bot, Breaks::new(0, 0))).collect();
    run_broken(url, Library::Str0m, bots, end).await
}

/// Plays bots whose connections break until `end`. Their lives come back in the same order.
pub async fn run_broken(
    url: &str,
    library: Library,
    bots: Vec<(Bot, Breaks)>,
    end: impl Future<Output = ()>,
) -> (Vec<Life>, Duration) {
    let (stop, stopped) = watch::channel(false);
    let begin = Instant::now();
    let tasks: Vec<_> = bots
        .into_iter()
        .enumerate()
        .map(|(number, (bot, breaks))| {
            let (url, stopped) = (url.to_string(), stopped.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(4) * number as u32).await;
                play(url, library, bot, stopped, breaks).await
            })
        })
        .collect();
    end.await;
    let _ = stop.send(true);
    let mut lives = Vec::with_capacity(tasks.len());
    for task in tasks {
        // A task that panicked is a bug of the bench: let it be seen.
        lives.push(task.await.expect("a bot's task does not panic"));
    }
    (lives, begin.elapsed())
}

/// What the lives came to.
pub fn report(lives: &[Life], library: Library, players: usize, seed: u64, played: Duration) -> Report {
    let per_player_second = players.max(1) as f64 * played.as_secs_f64().max(0.001);
    let mut report = Report {
        players,
        lost: lives.iter().filter(|life| life.lost.is_some()).count(),
        first_loss: lives.iter().find_map(|life| life.lost.clone()),
        seconds: played.as_secs_f64(),
        seed,
        transport: format!("WebRTC ({})", library.name()),
        join: Latency::of(lives.iter().filter_map(|life| life.join_time)),
        up_bytes_per_s: lives.iter().map(|life| life.up_bytes).sum::<u64>() as f64 / per_player_second,
        down_bytes_per_s: lives.iter().map(|life| life.down_bytes).sum::<u64>() as f64 / per_player_second,
        ..Report::default()
    };
    report.add_bots(lives.iter().map(|life| &life.bot));
    report
}
