//! Logging in: OAuth 2.0 at any provider, and what a user's token allows at the update service.
//!
//! - `provider`: discovery, and requests to the provider's endpoints.
//! - `login`: the two flows: PKCE with a redirect to loopback (RFC 7636, RFC 8252) and devices (RFC 8628).
//! - `tokens`: where the tokens lie, and how they are refreshed when they have run out; `keyring`: the desktop's.
//! - `verify`: the service's side: a token's scopes, by the provider's keys (RFC 9068), by asking it (RFC 7662), or from a list.

mod keyring;
mod login;
mod provider;
mod tokens;
mod verify;

pub use login::{Login, login};
pub use provider::Provider;
pub(crate) use provider::{agent, check_address};
pub use tokens::{Keep, Place, Tokens, access_token, ask_for_place, logout, saved};
pub use verify::{Allowed, Denial, Verifier, VerifierConfig};
