//! `vsekai auth …`

use crate::auth::{self, Login, Provider};
use crate::error::{EXIT_CODES, Exit, TaskError};
use crate::output::say;
use crate::settings::{self, Settings};
use crate::trust::time;
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::{IsTerminal as _, Write as _};

/// Logging in at the provider that the update service believes.
#[derive(Debug, Subcommand)]
pub enum Auth {
    /// Log in: in a browser, or with --device by a code that is typed in elsewhere.
    ///
    /// What is not given is taken from the settings (`auth.…`).
    #[command(after_help = EXIT_CODES)]
    Login(Box<LoginArguments>),
    /// Print a valid access token, refreshed if need be.
    #[command(after_help = EXIT_CODES)]
    Token {
        /// Refresh it though it is still valid.
        #[arg(long)]
        renew: bool,
    },
    /// Make the tokens worthless and forget them.
    #[command(after_help = EXIT_CODES)]
    Logout,
}

/// Of `auth login`.
#[derive(Debug, Args)]
pub struct LoginArguments {
    /// The provider's name for this launcher.
    #[arg(long = "client_id", alias = "client-id")]
    client_id: Option<String>,
    /// The launcher's secret at the provider, if it has one. Other users may see it among the arguments: VSEKAI_CLIENT_SECRET is safer.
    #[arg(long = "client_secret", alias = "client-secret")]
    client_secret: Option<String>,
    /// On loopback, as registered with the provider; without a port, any free one.
    #[arg(long = "redirect_uri", alias = "redirect-uri")]
    redirect_uri: Option<String>,
    /// Scopes to ask for, a blank between two.
    #[arg(long)]
    scope: Option<String>,
    /// The provider's address: its endpoints are discovered.
    #[arg(long)]
    issuer: Option<String>,
    /// Instead of the discovered one.
    #[arg(long = "authorization_endpoint", alias = "authorization-endpoint")]
    authorization_endpoint: Option<String>,
    /// Instead of the discovered one.
    #[arg(long = "token_endpoint", alias = "token-endpoint")]
    token_endpoint: Option<String>,
    /// Instead of the discovered one.
    #[arg(long = "device_endpoint", alias = "device-endpoint")]
    device_endpoint: Option<String>,
    /// Log in with a code that is typed in on another device.
    #[arg(long)]
    device: bool,
    /// Open no browser; its address is printed.
    #[arg(long = "no_browser", alias = "no-browser")]
    no_browser: bool,
}

impl Auth {
    /// Does the task.
    pub fn run(self, json: bool) -> Result<(), TaskError> {
        match self {
            Self::Login(arguments) => arguments.run(json),
            Self::Token { renew } => {
                let (token, place) = auth::access_token(renew)?;
                let scope = auth::saved().map(|(tokens, _)| tokens.scope).unwrap_or_default();
                if !json && std::io::stderr().is_terminal() {
                    // Standard output has the token alone, for scripts.
                    eprintln!("it is kept in {place}");
                }
                let said = json!({ "access_token": token, "scope": scope, "kept_in": place.to_string() });
                say(json, &said, || token.clone())
            }
            Self::Logout => {
                let (told, place) = auth::logout()?;
                let said = json!({ "logged_in": false, "revoked": told, "removed_from": place.to_string() });
                say(json, &said, || {
                    let word =
                        if told { "" } else { "; the provider takes no word of it, so the token runs out by itself" };
                    format!("logged out: removed from {place}{word}")
                })
            }
        }
    }
}

impl LoginArguments {
    fn run(self, json: bool) -> Result<(), TaskError> {
        let saved = Settings::load()?.auth;
        let known = settings::Login {
            issuer: self.issuer.or(saved.issuer),
            client_id: self.client_id.or(saved.client_id),
            scope: self.scope.or(saved.scope),
            redirect_uri: self.redirect_uri.or(saved.redirect_uri),
            authorization_endpoint: self.authorization_endpoint.or(saved.authorization_endpoint),
            token_endpoint: self.token_endpoint.or(saved.token_endpoint),
            device_endpoint: self.device_endpoint.or(saved.device_endpoint),
        };
        let client_id = known
            .client_id
            .clone()
            .ok_or_else(|| TaskError::new(Exit::Usage, "no client id: give --client_id, or set auth.client_id"))?;
        let screen = ["DISPLAY", "WAYLAND_DISPLAY", "BROWSER"].iter().any(|name| std::env::var_os(name).is_some());
        let provider = Provider::of(&known)?;
        // Where nothing can be shown, a code is the way, if the provider has it.
        let headless = !screen && !self.no_browser && provider.device_authorization_endpoint.is_some();
        let login = Login {
            provider,
            client_id,
            client_secret: self.client_secret.or_else(|| std::env::var("VSEKAI_CLIENT_SECRET").ok()),
            redirect_uri: known.redirect_uri.unwrap_or_else(|| "http://127.0.0.1/callback".into()),
            scope: known.scope.unwrap_or_else(|| "openid offline_access release:write release:delete".into()),
            device: self.device || headless,
            browser: screen && !self.no_browser,
        };
        let (tokens, place) = auth::login(&login, &mut |what| {
            let of = |name: &str| what.get(name).and_then(|value| value.as_str()).unwrap_or("");
            // It must be seen before anything is waited for.
            let mut output = std::io::stdout().lock();
            let written = if json {
                writeln!(output, "{what}")
            } else if what.get("code").is_some() {
                writeln!(output, "open {} and enter {}", of("open"), of("code"))
            } else {
                writeln!(output, "open {}", of("open"))
            };
            let _ = written.and_then(|()| output.flush());
        })?;
        let expires = tokens.expires.map(time::format);
        let said =
            json!({ "logged_in": true, "scope": tokens.scope, "expires": expires, "kept_in": place.to_string() });
        say(json, &said, || {
            let scope = if tokens.scope.is_empty() { "no scopes" } else { &tokens.scope };
            format!("logged in: {scope}; kept in {place}")
        })
    }
}
