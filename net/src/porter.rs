//! Who may come in: tokens that serve once, sessions that can be resumed, players that are banned.
//!
//! Asked twice about everybody: before the WebSocket is upgraded (on an HTTP thread) and at the hello (by the server, which
//! alone spends tokens). All times are the shard's own clock; the porter knows what Unix time it began at.
//!
//! Bounds: at most [`SPENT_MAX`] used tokens are remembered, each until it expires; at most [`BANS_MAX`] bans. What is asked
//! for beyond them is refused.

use crate::token::{Claims, TokenError, TokenId, TokenKey, from_hex};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use vsekai_schema::id::PlayerKey;
use vsekai_schema::wire::{Refusal, ResumeSecret};

/// Most used tokens that are remembered: an hour at seventy joins a second.
pub const SPENT_MAX: usize = 1 << 18;
/// Most players that are banned at a time.
pub const BANS_MAX: usize = 100_000;
/// Longest reason of a kick or ban, characters.
pub const REASON_CHARS_MAX: usize = 200;

/// What somebody showed before the connection was made; the hello must agree with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ticket {
    /// A token of this id.
    Token(TokenId),
    /// A session to be resumed.
    Session(ResumeSecret),
}

/// What somebody shows at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown<'a> {
    /// A join token.
    Token(&'a str),
    /// The secret of a session, 32 hexadecimal digits.
    Session(&'a str),
    /// Nothing.
    Nothing,
}

/// Why somebody is turned away.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Turned {
    /// Neither token nor session was shown.
    #[error("a join token is needed: ?token=…")]
    NothingShown,
    /// The token is no good.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token served already.
    #[error("the token was used already")]
    Spent,
    /// Too many used tokens have not expired.
    #[error("too many players joined lately; try again in a minute")]
    TooMany,
    /// The hello shows something else than what signalling was reached with.
    #[error("the hello shows another token than the connection was made with")]
    Other,
    /// The session is over, or never was.
    #[error("the session cannot be resumed any more")]
    NoSession,
    /// An operator banned the player.
    #[error("banned: {0}")]
    Banned(String),
    /// The shard is about to end: who is in may stay until then, nobody else comes in.
    #[error("the shard lets nobody in any more: {0}")]
    Closed(String),
}

impl Turned {
    /// As a refusal of the wire.
    pub fn refusal(&self) -> Refusal {
        match self {
            Turned::Banned(_) => Refusal::Banned,
            Turned::NoSession => Refusal::NotResumable,
            Turned::TooMany => Refusal::ServerFull,
            Turned::Closed(_) => Refusal::ShuttingDown,
            Turned::NothingShown | Turned::Token(_) | Turned::Spent | Turned::Other => Refusal::BadToken,
        }
    }
}

/// A list that takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{BANS_MAX} players are banned already")]
pub struct BansFull;

/// The porter. Shared by HTTP and the server; every call is short.
#[derive(Debug)]
pub struct Porter {
    key: TokenKey,
    unix_at_start: Duration,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// Ordered by expiry.
    spent: BTreeSet<(u64, TokenId)>,
    sessions: HashMap<ResumeSecret, PlayerKey>,
    sessions_opened: u64,
    bans: BTreeMap<PlayerKey, String>,
    turned_away: u64,
    /// Why nobody comes in any more.
    closed: Option<String>,
}

impl Porter {
    /// For tokens signed with `key`; the shard's clock was zero at `unix_at_start`.
    pub fn new(key: TokenKey, unix_at_start: Duration) -> Porter {
        Porter { key, unix_at_start, books: Mutex::default() }
    }

    /// Issues a token for `player` that is good for `lifetime` from `now` on; `id` must be new.
    pub fn issue(&self, now: Duration, player: PlayerKey, id: TokenId, lifetime: Duration) -> String {
        self.key.issue(&Claims { player, id, expires_s: self.unix_s(now + lifetime) })
    }

    /// Looks at what somebody shows before connecting. Uses nothing up.
    ///
    /// # Errors
    /// Why not.
    pub fn look(&self, now: Duration, shown: Shown<'_>) -> Result<Ticket, Turned> {
        let looked = match shown {
            Shown::Token(token) => self.read(now, None, token).map(|claims| Ticket::Token(claims.id)),
            Shown::Session(secret) => {
                let secret = from_hex(secret.as_bytes()).ok_or(Turned::NoSession);
                secret.and_then(|secret| self.find(None, secret).map(|_| Ticket::Session(secret)))
            }
            Shown::Nothing => Err(Turned::NothingShown),
        };
        if looked.is_err() {
            self.books().turned_away += 1;
        }
        looked
    }

    /// Reads the token of a hello; it must be the one of the ticket, if the transport has seen one.
    ///
    /// # Errors
    /// Why not.
    pub fn read(&self, now: Duration, ticket: Option<Ticket>, token: &str) -> Result<Claims, Turned> {
        let claims = self.key.check(self.unix_s(now), token)?;
        if ticket.is_some_and(|ticket| ticket != Ticket::Token(claims.id)) {
            return Err(Turned::Other);
        }
        let books = self.books();
        if let Some(reason) = &books.closed {
            return Err(Turned::Closed(reason.clone()));
        }
        if books.spent.contains(&(claims.expires_s, claims.id)) {
            return Err(Turned::Spent);
        }
        books.not_banned(claims.player)?;
        Ok(claims)
    }

    /// Uses a token up.
    ///
    /// # Errors
    /// When it served already, or no more can be remembered.
    pub fn spend(&self, now: Duration, claims: &Claims) -> Result<(), Turned> {
        let unix_s = self.unix_s(now);
        let mut books = self.books();
        // An expired one is refused for that.
        while books.spent.first().is_some_and(|(expires_s, _)| *expires_s <= unix_s) {
            books.spent.pop_first();
        }
        if books.spent.len() >= SPENT_MAX {
            return Err(Turned::TooMany);
        }
        if books.spent.insert((claims.expires_s, claims.id)) { Ok(()) } else { Err(Turned::Spent) }
    }

    /// A session of `player` begins; it can be found by the secret until [`Porter::close_session`].
    pub fn open_session(&self, player: PlayerKey) -> ResumeSecret {
        let mut books = self.books();
        books.sessions_opened += 1;
        // With the start's nanoseconds: no secret of a former life of the shard comes again.
        let number = u128::from(books.sessions_opened) << 64 | self.unix_at_start.as_nanos() & u128::from(u64::MAX);
        let secret = self.key.unguessable("resume", number);
        books.sessions.insert(secret, player);
        secret
    }

    /// The session is over.
    pub fn close_session(&self, secret: ResumeSecret) {
        self.books().sessions.remove(&secret);
    }

    /// Whose session is to be resumed; it must be the one of the ticket, if the transport has seen one.
    ///
    /// # Errors
    /// Why not.
    pub fn find(&self, ticket: Option<Ticket>, secret: ResumeSecret) -> Result<PlayerKey, Turned> {
        if ticket.is_some_and(|ticket| ticket != Ticket::Session(secret)) {
            return Err(Turned::Other);
        }
        let books = self.books();
        let player = books.sessions.get(&secret).copied().ok_or(Turned::NoSession)?;
        books.not_banned(player)?;
        Ok(player)
    }

    /// From now on nobody comes in. Who lost the connection may still come back.
    pub fn close(&self, reason: &str) {
        self.books().closed = Some(reason.chars().take(REASON_CHARS_MAX).collect());
    }

    /// Bans a player, or changes the reason.
    ///
    /// # Errors
    /// When the list is full.
    pub fn ban(&self, player: PlayerKey, reason: &str) -> Result<(), BansFull> {
        let mut books = self.books();
        if books.bans.len() >= BANS_MAX && !books.bans.contains_key(&player) {
            return Err(BansFull);
        }
        books.bans.insert(player, reason.chars().take(REASON_CHARS_MAX).collect());
        Ok(())
    }

    /// Lets a player come again; false when there was no ban.
    pub fn unban(&self, player: PlayerKey) -> bool {
        self.books().bans.remove(&player).is_some()
    }

    /// Everybody who is banned, and why.
    pub fn bans(&self) -> BTreeMap<PlayerKey, String> {
        self.books().bans.clone()
    }

    /// How many were turned away before they connected.
    pub fn turned_away(&self) -> u64 {
        self.books().turned_away
    }

    fn unix_s(&self, now: Duration) -> u64 {
        self.unix_at_start.saturating_add(now).as_secs()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn not_banned(&self, player: PlayerKey) -> Result<(), Turned> {
        self.bans.get(&player).map_or(Ok(()), |reason| Err(Turned::Banned(reason.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{LIFETIME_S_MAX, to_hex};

    const ANNA: PlayerKey = PlayerKey([1; 16]);
    const MINUTE: Duration = Duration::from_secs(60);

    fn porter() -> Porter {
        Porter::new(TokenKey::new(&[7; 32]), Duration::from_secs(1_800_000_000))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_serves_once_and_is_forgotten_when_it_expires() {
        let porter = porter();
        let token = porter.issue(at(0), ANNA, [1; 16], MINUTE);
        assert_eq!(porter.look(at(0), Shown::Token(&token)), Ok(Ticket::Token([1; 16])));
        // Looking uses nothing up: a client may have to call twice.
        let claims = porter.read(at(1), Some(Ticket::Token([1; 16])), &token).unwrap();
        assert_eq!(claims.player, ANNA);
        assert_eq!(porter.spend(at(1), &claims), Ok(()));
        assert_eq!(porter.spend(at(1), &claims), Err(Turned::Spent));
        assert_eq!(porter.look(at(59), Shown::Token(&token)), Err(Turned::Spent));
        assert_eq!(porter.look(at(60), Shown::Token(&token)), Err(Turned::Token(TokenError::Expired)));
        let next = porter.issue(at(60), ANNA, [2; 16], MINUTE);
        let next = porter.read(at(60), None, &next).unwrap();
        porter.spend(at(60), &next).unwrap();
        assert_eq!(porter.books().spent.len(), 1, "the expired one is still remembered");
        assert_eq!(porter.turned_away(), 2);
    }

    #[test]
    fn used_tokens_are_remembered_up_to_a_bound() {
        let porter = porter();
        let mut claims = Claims { player: ANNA, id: [0; 16], expires_s: 1_800_000_000 + LIFETIME_S_MAX };
        for number in 0..SPENT_MAX as u128 {
            claims.id = number.to_le_bytes();
            porter.spend(at(0), &claims).unwrap();
        }
        claims.id = [255; 16];
        assert_eq!(porter.spend(at(0), &claims), Err(Turned::TooMany));
        assert_eq!(porter.spend(at(LIFETIME_S_MAX), &claims), Ok(()));
    }

    #[test]
    fn when_it_is_closed_only_those_who_were_in_come_back() {
        let porter = porter();
        let token = porter.issue(at(0), ANNA, [1; 16], MINUTE);
        let secret = porter.open_session(ANNA);
        porter.close("moving house");
        let turned = porter.look(at(0), Shown::Token(&token)).unwrap_err();
        assert_eq!((turned.refusal(), turned.to_string().ends_with("moving house")), (Refusal::ShuttingDown, true));
        assert_eq!(porter.read(at(0), None, &token), Err(Turned::Closed("moving house".into())));
        assert_eq!(porter.find(None, secret), Ok(ANNA));
    }

    #[test]
    fn the_hello_must_show_what_the_door_was_shown() {
        let porter = porter();
        let token = porter.issue(at(0), ANNA, [1; 16], MINUTE);
        let secret = porter.open_session(ANNA);
        assert_eq!(porter.read(at(0), Some(Ticket::Token([2; 16])), &token), Err(Turned::Other));
        assert_eq!(porter.read(at(0), Some(Ticket::Session(secret)), &token), Err(Turned::Other));
        assert_eq!(porter.find(Some(Ticket::Token([1; 16])), secret), Err(Turned::Other));
        assert_eq!(porter.find(Some(Ticket::Session(secret)), secret), Ok(ANNA));
    }

    #[test]
    fn a_session_is_found_until_it_is_closed() {
        let porter = porter();
        let [first, second] = [porter.open_session(ANNA), porter.open_session(ANNA)];
        assert_ne!(first, second);
        let shown = to_hex(&first);
        assert_eq!(porter.look(at(0), Shown::Session(&shown)), Ok(Ticket::Session(first)));
        porter.close_session(first);
        for gone in [&shown[..], "", "zz", "00000000000000000000000000000000"] {
            assert_eq!(porter.look(at(0), Shown::Session(gone)), Err(Turned::NoSession), "{gone:?}");
        }
        assert_eq!(porter.look(at(0), Shown::Nothing), Err(Turned::NothingShown));
    }

    #[test]
    fn who_is_banned_is_told_why_whatever_is_shown() {
        let porter = porter();
        let token = porter.issue(at(0), ANNA, [1; 16], MINUTE);
        let secret = porter.open_session(ANNA);
        porter.ban(ANNA, "griefing").unwrap();
        let banned = Turned::Banned("griefing".into());
        assert_eq!(porter.look(at(0), Shown::Token(&token)), Err(banned.clone()));
        assert_eq!(porter.find(None, secret), Err(banned.clone()));
        assert_eq!((banned.refusal(), banned.to_string()), (Refusal::Banned, "banned: griefing".into()));
        assert!(porter.unban(ANNA) && !porter.unban(ANNA));
        assert!(porter.look(at(0), Shown::Token(&token)).is_ok());
    }
}
