//! Bots over real WebRTC: one task each, with a connection of its own.

use crate::bot::{Bot, Style};
use crate::loopback::THINK_INTERVAL;
use crate::report::{Latency, Report};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use vsekai_net::webrtc::connect;

/// How long a bot tries to connect; then it tries once more.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(15);

/// One bot's life.
#[derive(Debug)]
pub struct Life {
    /// The bot as it was at the end.
    pub bot: Bot,
    /// From connecting to the welcome, if it came.
    pub join_time: Option<Duration>,
    /// Why the connection ended before its time.
    pub lost: Option<String>,
    /// Bytes of messages sent.
    pub up_bytes: u64,
    /// Bytes of messages received.
    pub down_bytes: u64,
}

/// Plays one bot on the shard at `url` (`ws://host:port/`) until `stop` becomes true or the connection ends.
pub async fn play(url: String, mut bot: Bot, mut stop: watch::Receiver<bool>) -> Life {
    let begin = Instant::now();
    let mut connection = None;
    let mut lost = None;
    for _ in 0..2 {
        tokio::select! {
            connected = connect(&url, CONNECT_DEADLINE) => match connected {
                Ok(one) => {
                    connection = Some(one);
                    break;
                }
                Err(error) => lost = Some(error.to_string()),
            },
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    let Some(mut connection) = connection else {
        return Life { bot, join_time: None, lost, up_bytes: 0, down_bytes: 0 };
    };
    let (mut up_bytes, mut down_bytes) = (0, 0);
    let mut join_time = None;
    let mut think = tokio::time::interval(THINK_INTERVAL);
    think.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let lost = loop {
        for (channel, bytes) in bot.client.take_outgoing() {
            up_bytes += bytes.len() as u64;
            // A full queue drops a movement; the command channel is far from full with one command under way.
            connection.outgoing.try_send(channel, bytes);
        }
        tokio::select! {
            biased;
            message = connection.incoming.recv() => {
                let Some((channel, bytes)) = message else {
                    break Some(bot.refused.clone().unwrap_or_else(|| "the connection ended".into()));
                };
                down_bytes += bytes.len() as u64;
                if let Err(error) = bot.receive(begin.elapsed(), channel, &bytes) {
                    break Some(error.to_string());
                }
                if join_time.is_none() && bot.is_playing() {
                    join_time = Some(begin.elapsed());
                }
            }
            _ = think.tick() => bot.step(begin.elapsed()),
            _ = stop.wait_for(|stop| *stop) => break None,
        }
    };
    if lost.is_none() {
        connection.close().await;
    }
    Life { bot, join_time, lost, up_bytes, down_bytes }
}

/// Plays `players` bots of `seed` for `duration`, and reports. Bots start a few milliseconds apart.
pub async fn run(url: &str, players: usize, seed: u64, style: Style, duration: Duration) -> (Report, Vec<Life>) {
    let bots = (0..players).map(|number| Bot::new(seed, number, style)).collect();
    let (lives, played) = run_bots(url, bots, tokio::time::sleep(duration)).await;
    (report(&lives, players, seed, played), lives)
}

/// Plays bots until `end`. Their lives come back in the same order.
pub async fn run_bots(url: &str, bots: Vec<Bot>, end: impl Future<Output = ()>) -> (Vec<Life>, Duration) {
    let (stop, stopped) = watch::channel(false);
    let begin = Instant::now();
    let tasks: Vec<_> = bots
        .into_iter()
        .enumerate()
        .map(|(number, bot)| {
            let (url, stopped) = (url.to_string(), stopped.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(4) * number as u32).await;
                play(url, bot, stopped).await
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
pub fn report(lives: &[Life], players: usize, seed: u64, played: Duration) -> Report {
    let per_player_second = players.max(1) as f64 * played.as_secs_f64().max(0.001);
    let mut report = Report {
        players,
        lost: lives.iter().filter(|life| life.lost.is_some()).count(),
        first_loss: lives.iter().find_map(|life| life.lost.clone()),
        seconds: played.as_secs_f64(),
        seed,
        transport: "WebRTC".into(),
        join: Latency::of(lives.iter().filter_map(|life| life.join_time)),
        up_bytes_per_s: lives.iter().map(|life| life.up_bytes).sum::<u64>() as f64 / per_player_second,
        down_bytes_per_s: lives.iter().map(|life| life.down_bytes).sum::<u64>() as f64 / per_player_second,
        ..Report::default()
    };
    report.add_bots(lives.iter().map(|life| &life.bot));
    report
}
