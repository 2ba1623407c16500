//! The HTTP requests about who may play: tokens for players, the list of players, kicks and bans for operators.

use crate::http::{Shared, is_operator, locked};
use crate::token;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::sync::oneshot;
use vsekai_net::porter::{REASON_CHARS_MAX, Shown, Turned};
use vsekai_net::server::PlayerLine;
use vsekai_schema::id::PlayerKey;
use vsekai_schema::wire::Refusal;

/// Most bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 4 * 1024;
/// Longest time between a drain's beginning and the shard's end, seconds.
const DRAIN_S_MAX: u32 = 3_600;
/// Orders of operators that wait for the tick loop.
const ORDERS_MAX: usize = 64;
/// Addresses whose tokens are counted. Beyond it, those are forgotten that could have all at once again.
const ADDRESSES_MAX: usize = 4_096;
/// So many seconds' worth of tokens an address may have at once.
const BURST_S: f64 = 60.0;

/// What operators want of the tick loop.
#[derive(Debug)]
pub enum Order {
    /// Remove a player; the answer is whether there was one.
    Remove {
        /// Who.
        player: PlayerKey,
        /// Kicked or banned.
        refusal: Refusal,
        /// What the player is told.
        reason: String,
        /// Whether the player was there.
        answer: oneshot::Sender<bool>,
    },
    /// List the players.
    Players(oneshot::Sender<Vec<PlayerLine>>),
}

/// Counts the tokens of each address.
#[derive(Debug)]
pub struct TokenRates {
    per_s: f64,
    /// What an address may still have, and when that was so.
    left: HashMap<IpAddr, (f64, Duration)>,
}

impl TokenRates {
    /// So many a second.
    pub fn new(per_s: u32) -> TokenRates {
        TokenRates { per_s: per_s.into(), left: HashMap::new() }
    }

    fn take(&mut self, now: Duration, address: IpAddr) -> bool {
        let (per_s, most) = (self.per_s, self.per_s * BURST_S);
        let level = |(left, at): (f64, Duration)| (left + now.saturating_sub(at).as_secs_f64() * per_s).min(most);
        if self.left.len() >= ADDRESSES_MAX && !self.left.contains_key(&address) {
            self.left.retain(|_, left| level(*left) < most);
            if self.left.len() >= ADDRESSES_MAX {
                return false;
            }
        }
        let left = level(self.left.get(&address).copied().unwrap_or((most, now)));
        self.left.insert(address, ((left - 1.0).max(0.0), now));
        left >= 1.0
    }
}

/// What a request to signalling shows: `?token=…`, `?resume=…`, or a token as `Authorization: Bearer …`.
pub fn shown<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Shown<'a> {
    for part in uri.query().unwrap_or_default().split('&') {
        match part.split_once('=') {
            Some(("token", token)) => return Shown::Token(token),
            Some(("resume", secret)) => return Shown::Session(secret),
            _ => {}
        }
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    bearer.map_or(Shown::Nothing, Shown::Token)
}

/// The answer to somebody who is turned away.
pub fn turned_away(turned: &Turned) -> Response {
    let code = match turned {
        Turned::Banned(_) => StatusCode::FORBIDDEN,
        Turned::TooMany | Turned::Closed(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNAUTHORIZED,
    };
    (code, format!("{turned}\n")).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    secret: String,
}

/// `POST /api/token`, in development: a token for the player who knows a secret.
pub async fn issue(
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    State(shared): State<Shared>,
    request: Result<Json<TokenRequest>, JsonRejection>,
) -> Response {
    if !shared.tokens.dev {
        return (StatusCode::NOT_FOUND, "this shard issues no tokens\n").into_response();
    }
    let now = shared.started.elapsed();
    if !locked(&shared.token_rates).take(now, address.ip().to_canonical()) {
        return (StatusCode::TOO_MANY_REQUESTS, "too many tokens for this address\n").into_response();
    }
    let player = match request {
        Ok(Json(TokenRequest { secret })) => token::player_of(&secret),
        Err(rejection) => return (rejection.status(), format!("{}\n", rejection.body_text())).into_response(),
    };
    let player = match player {
        Ok(player) => player,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let lifetime = shared.tokens.lifetime;
    let token = shared.porter.issue(now, player, token::new_id(), lifetime);
    if let Err(turned) = shared.porter.look(now, Shown::Token(&token)) {
        return turned_away(&turned);
    }
    no_store(&json!({ "token": token, "lifetime_s": lifetime.as_secs() }))
}

/// `GET /api/connect`: what a client needs to know before it connects.
pub async fn connect(State(shared): State<Shared>) -> Response {
    no_store(&json!({
        "ice_servers": *shared.ice_servers,
        "tokens": shared.tokens.dev,
        "motion_kbit_s": shared.motion_kbit_s,
        "run": *shared.run,
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    player: String,
    #[serde(default)]
    reason: String,
}

/// `POST /api/kick`.
pub async fn kick(
    address: ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    State(shared): State<Shared>,
    request: Result<Json<RemoveRequest>, JsonRejection>,
) -> Response {
    let (player, reason) = match removal(address, &headers, request) {
        Ok(removal) => removal,
        Err(answer) => return *answer,
    };
    let reason = if reason.is_empty() { Refusal::Kicked.to_string() } else { reason };
    match remove(&shared, player, Refusal::Kicked, reason).await {
        Ok(true) => no_store(&json!({ "player": player.to_string(), "removed": true })),
        Ok(false) => (StatusCode::NOT_FOUND, "there is no such player in the world\n").into_response(),
        Err(answer) => *answer,
    }
}

/// `POST /api/ban`.
pub async fn ban(
    address: ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    State(shared): State<Shared>,
    request: Result<Json<RemoveRequest>, JsonRejection>,
) -> Response {
    let (player, reason) = match removal(address, &headers, request) {
        Ok(removal) => removal,
        Err(answer) => return *answer,
    };
    let (bans, kept) = (shared.bans.clone(), reason.clone());
    // A disk may be slow: not on the threads that serve everybody.
    match tokio::task::spawn_blocking(move || bans.ban(player, &kept)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")).into_response(),
        Err(_) => return (StatusCode::SERVICE_UNAVAILABLE, "the shard is stopping\n").into_response(),
    }
    tracing::info!(%player, reason, "banned");
    let told = Turned::Banned(reason).to_string();
    match remove(&shared, player, Refusal::Banned, told).await {
        Ok(removed) => no_store(&json!({ "player": player.to_string(), "removed": removed })),
        Err(answer) => *answer,
    }
}

/// `DELETE /api/ban/{player}`.
pub async fn unban(
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(player): Path<String>,
    State(shared): State<Shared>,
) -> Response {
    if !is_operator(address, &headers) {
        return for_operators();
    }
    let player = match player.parse::<PlayerKey>() {
        Ok(player) => player,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let bans = shared.bans.clone();
    match tokio::task::spawn_blocking(move || bans.unban(player)).await {
        Ok(Ok(true)) => no_store(&json!({ "player": player.to_string(), "banned": false })),
        Ok(Ok(false)) => (StatusCode::NOT_FOUND, "the player is not banned\n").into_response(),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the shard is stopping\n").into_response(),
    }
}

/// `GET /api/bans`.
pub async fn bans(
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    State(shared): State<Shared>,
) -> Response {
    if is_operator(address, &headers) { no_store(&json!(shared.bans.all())) } else { for_operators() }
}

/// What `POST /api/drain` may be told; all of it may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainRequest {
    /// Seconds that players may still play, up to [`DRAIN_S_MAX`].
    after_s: u32,
    /// What those are told who want to come in meanwhile.
    reason: String,
}

/// `POST /api/drain`: lets nobody in any more and ends the shard, as a signal would: players are told, the state goes into the store.
pub async fn drain(
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    State(shared): State<Shared>,
    body: Bytes,
) -> Response {
    if !is_operator(address, &headers) {
        return for_operators();
    }
    let request = if body.is_empty() { Ok(DrainRequest::default()) } else { serde_json::from_slice(&body) };
    let DrainRequest { after_s, reason } = match request {
        Ok(request) => request,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("the body: {error}\n")).into_response(),
    };
    if after_s > DRAIN_S_MAX || reason.chars().count() > REASON_CHARS_MAX {
        let text = format!("after_s is at most {DRAIN_S_MAX}, reason has at most {REASON_CHARS_MAX} characters\n");
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    shared.porter.close(if reason.is_empty() { "it is about to end" } else { &reason });
    tracing::info!(after_s, reason, "draining");
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(after_s.into())).await;
        locked(&shared.mailbox).stop("drained");
    });
    (StatusCode::ACCEPTED, Json(json!({ "stops_after_s": after_s }))).into_response()
}

/// `GET /api/players`.
pub async fn players(
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    State(shared): State<Shared>,
) -> Response {
    if !is_operator(address, &headers) {
        return for_operators();
    }
    let (sender, answer) = oneshot::channel();
    if !order(&shared, Order::Players(sender)) {
        return busy();
    }
    let Ok(players) = answer.await else { return busy() };
    let line = |line: &PlayerLine| {
        let entity = line.player.map(|player| player.0);
        json!({ "player": line.key.to_string(), "name": line.name, "entity": entity, "away": line.away })
    };
    no_store(&json!(players.iter().map(line).collect::<Vec<_>>()))
}

fn removal(
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    headers: &HeaderMap,
    request: Result<Json<RemoveRequest>, JsonRejection>,
) -> Result<(PlayerKey, String), Box<Response>> {
    if !is_operator(address, headers) {
        return Err(Box::new(for_operators()));
    }
    let bad = |text: String| Box::new((StatusCode::BAD_REQUEST, format!("{text}\n")).into_response());
    let Json(RemoveRequest { player, reason }) = request.map_err(|rejection| bad(rejection.body_text()))?;
    if reason.chars().count() > REASON_CHARS_MAX {
        return Err(bad(format!("a reason has at most {REASON_CHARS_MAX} characters")));
    }
    let player = player.parse().map_err(|error| bad(format!("player: {error}")))?;
    Ok((player, reason))
}

async fn remove(shared: &Shared, player: PlayerKey, refusal: Refusal, reason: String) -> Result<bool, Box<Response>> {
    let (sender, answer) = oneshot::channel();
    if !order(shared, Order::Remove { player, refusal, reason, answer: sender }) {
        return Err(Box::new(busy()));
    }
    answer.await.map_err(|_| Box::new(busy()))
}

fn order(shared: &Shared, order: Order) -> bool {
    let mut mailbox = locked(&shared.mailbox);
    let room = mailbox.orders.len() < ORDERS_MAX;
    if room {
        mailbox.orders.push(order);
    }
    room
}

fn busy() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the shard is busy or stopping\n").into_response()
}

fn for_operators() -> Response {
    let text = "this is for this machine's operators only, not through a proxy or a browser\n";
    (StatusCode::FORBIDDEN, text).into_response()
}

fn no_store(body: &serde_json::Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, format!("{body}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_the_query_or_the_header() {
        let found = |uri: &str, bearer: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.extend(bearer.map(|bearer| (header::AUTHORIZATION, bearer.parse().unwrap())));
            format!("{:?}", shown(&uri.parse().unwrap(), &headers))
        };
        assert_eq!(found("/room?next=2&token=abc", None), "Token(\"abc\")");
        assert_eq!(found("/?resume=abc", Some("Bearer x")), "Session(\"abc\")");
        assert_eq!(found("/", Some("Bearer x")), "Token(\"x\")");
        assert_eq!(found("/?token", Some("Basic x")), "Nothing");
    }

    #[test]
    fn tokens_are_counted_by_address() {
        let mut rates = TokenRates::new(1);
        let anna = IpAddr::from([10, 0, 0, 1]);
        let taken = (0..100).filter(|_| rates.take(Duration::ZERO, anna)).count();
        assert_eq!(taken, 60);
        assert!(rates.take(Duration::ZERO, IpAddr::from([10, 0, 0, 2])));
        assert!(rates.take(Duration::from_secs(1), anna) && !rates.take(Duration::from_secs(1), anna));
        // Addresses without number: those that were here go on, the others wait.
        for number in 0..2 * ADDRESSES_MAX as u32 {
            rates.take(Duration::from_secs(1), IpAddr::from(number.to_be_bytes()));
        }
        assert_eq!(rates.left.len(), ADDRESSES_MAX);
        assert!(rates.take(Duration::from_secs(3), anna));
        assert!(rates.take(Duration::from_secs(3), IpAddr::from([10, 9, 9, 9])), "the others had time to be forgotten");
    }
}
