//! Answers that go on: what happens, and lines as they come (server-sent events).

use super::{Shared, refuse};
use crate::engine::{Happened, logs_folder};
use crate::log::Line;
use crate::log::read::{Follower, tail};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// The board is sent this often at most; what happens is sent at once.
const BOARD_INTERVAL: Duration = Duration::from_millis(200);
/// New lines are looked for this often.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(150);

/// `GET /api/events`.
pub async fn events(State(shared): State<Shared>) -> Response {
    let Ok(permit) = shared.streams.clone().try_acquire_owned() else { return too_many() };
    let mut board = shared.engine.board.clone();
    board.mark_changed();
    let state = Events { board, events: shared.engine.events.subscribe(), board_at: Instant::now(), _permit: permit };
    sse(stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((Ok(event), state))
    }))
}

fn too_many() -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "too many streams are open")
}

fn sse(stream: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}

struct Events {
    board: watch::Receiver<Arc<crate::engine::Board>>,
    events: broadcast::Receiver<Arc<Happened>>,
    /// When the next board may go.
    board_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Events {
    /// `None` when the supervisor ends.
    async fn next(&mut self) -> Option<Event> {
        let board_at = self.board_at;
        let board = async {
            sleep_until(board_at).await;
            self.board.changed().await
        };
        tokio::select! {
            biased;
            happened = self.events.recv() => match happened {
                Ok(happened) => Event::default().event("happened").json_data(&*happened).ok(),
                // The board has the newest again.
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    Some(Event::default().event("missed").data(count.to_string()))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            },
            changed = board => {
                changed.ok()?;
                self.board_at = Instant::now() + BOARD_INTERVAL;
                let board = self.board.borrow_and_update().clone();
                Event::default().event("board").json_data(&*board).ok()
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowQuery {
    from: Option<u64>,
}

/// `GET /api/children/{name}/follow`.
pub async fn follow(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Query(query): Query<FollowQuery>,
) -> Response {
    let folder = match shared.folder(&name) {
        Ok(folder) => logs_folder(&folder),
        Err(answer) => return *answer,
    };
    let Ok(permit) = shared.streams.clone().try_acquire_owned() else { return too_many() };
    let from = match query.from {
        Some(from) => from,
        None => {
            let folder = folder.clone();
            let last = tokio::task::spawn_blocking(move || tail(&folder, 1, u64::MAX)).await.unwrap_or_default();
            last.last().map_or(1, |line| line.number + 1)
        }
    };
    let state = (Some(Follower::new(&folder, from)), VecDeque::<Line>::new(), permit);
    sse(stream::unfold(state, |(mut follower, mut lines, permit)| async move {
        loop {
            if let Some(line) = lines.pop_front() {
                let event = Event::default().event("line").id(line.number.to_string()).json_data(&line).ok()?;
                return Some((Ok(event), (follower, lines, permit)));
            }
            let mut reading = follower.take()?;
            // A disk may be slow: not on the thread that serves everybody.
            let (back, read) = tokio::task::spawn_blocking(move || {
                let read = reading.read();
                (reading, read)
            })
            .await
            .ok()?;
            follower = Some(back);
            lines.extend(read.unwrap_or_default());
            if lines.is_empty() {
                sleep(FOLLOW_INTERVAL).await;
            }
        }
    }))
}
