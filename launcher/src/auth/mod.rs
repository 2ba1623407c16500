//! Logging in: OAuth 2.0 at any provider, and what a user's token allows at the update service.
//!
//! - `provider`: discovery, and requests to the provider's endpoints.
//! - `login`: the two flows: PKCE with a redirect to loopback (RFC 7636, RFC 8252) and devices (RFC 8628).
//! - `tokens`: the tokens' file, refreshed when they have run out.
//! - `verify`: the service's side: a token's scopes, by the provider's keys (RFC 9068), by asking it (RFC 7662), or from a list.

mod login;
mod provider;
mod tokens;
mod verify;

pub use login::{Login, login};
pub use provider::Provider;
pub(crate) use provider::{agent, check_address};
pub use tokens::{Tokens, access_token, logout, saved};
pub use verify::{Allowed, Denial, Verifier, VerifierConfig};
