//! `vsekai serve`: the update service.

use crate::auth::VerifierConfig;
use crate::error::{Exit, TaskError};
use crate::output::say;
use crate::serve;
use crate::settings::{Purpose, folder};
use clap::Args;
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// The repository's folder.
    #[arg(long)]
    repository: PathBuf,
    /// Where to listen; port 0 for any free one. TLS is a proxy's job.
    #[arg(long, default_value = "127.0.0.1:7480")]
    listen: SocketAddr,
    /// The project's store for release records: local:DIR, unix:SOCKET, fdb:CLUSTER_FILE or mem:; a folder of the launcher's own if none is given.
    #[arg(long)]
    store: Option<String>,
    /// The studio's 1.root.json that uploads must be signed under, for a repository that has none yet.
    #[arg(long = "root_file", alias = "root-file")]
    root_file: Option<PathBuf>,
    /// A folder with the snapshot and timestamp keys, for the service to sign and renew these itself.
    #[arg(long = "online_keys", alias = "online-keys")]
    online_keys: Option<PathBuf>,
    /// A file with the passphrase of those keys; else VSEKAI_KEY_PASSPHRASE.
    #[arg(long = "passphrase_file", alias = "passphrase-file")]
    passphrase_file: Option<PathBuf>,
    /// The login provider whose tokens are taken.
    #[arg(long)]
    issuer: Option<String>,
    /// For whom its signed tokens must be made.
    #[arg(long)]
    audience: Option<String>,
    /// The service's own name at the provider, to ask it about tokens; its secret is VSEKAI_INTROSPECTION_SECRET.
    #[arg(long = "introspection_client", alias = "introspection-client")]
    introspection_client: Option<String>,
    /// A file with a line TOKEN USER SCOPE… for each token that is taken without a provider.
    #[arg(long)]
    tokens: Option<PathBuf>,
    /// A casync store (.castr) to serve under /chunks, for casync's and desync's clients.
    #[arg(long)]
    chunks: Option<PathBuf>,
    /// A folder of indexes for it, served under /chunks, too.
    #[arg(long, requires = "chunks")]
    indexes: Option<PathBuf>,
    /// Hours that files stay after they lost their last release.
    #[arg(long = "grace_hours", alias = "grace-hours", default_value_t = 24, value_parser = clap::value_parser!(u64).range(0..=8_760))]
    grace_hours: u64,
    /// Requests a second that one address may make in the long run; ten times as many at once.
    #[arg(long = "requests_per_second", alias = "requests-per-second", default_value_t = 200.0)]
    requests_per_second: f64,
    /// A proxy, by its address or network (10.0.0.0/8), whose X-Forwarded-For says who asks. May be repeated; none is believed otherwise.
    #[arg(long = "trusted_proxy", alias = "trusted-proxy", value_name = "ADDRESS")]
    trusted_proxy: Vec<serve::Network>,
}

impl Serve {
    /// Serves until it is asked to stop.
    pub fn run(self, json: bool) -> Result<(), TaskError> {
        let introspection = match self.introspection_client {
            None => None,
            Some(client) => {
                let secret = std::env::var("VSEKAI_INTROSPECTION_SECRET").map_err(|_| {
                    TaskError::new(
                        Exit::Usage,
                        "--introspection_client needs its secret in VSEKAI_INTROSPECTION_SECRET",
                    )
                })?;
                Some((client, secret))
            }
        };
        let store = match self.store {
            Some(store) => store,
            None => format!("local:{}", folder(Purpose::State)?.join("service").display()),
        };
        let config = serve::Config {
            repository: self.repository,
            listen: self.listen,
            store,
            verifier: VerifierConfig {
                issuer: self.issuer,
                audience: self.audience,
                introspection,
                tokens: self.tokens,
            },
            root_file: self.root_file,
            online_keys: self.online_keys,
            passphrase: super::keys::passphrase(self.passphrase_file.as_deref())?,
            grace_seconds: self.grace_hours * 3_600,
            chunks: self.chunks.map(|store| (store, self.indexes)),
            requests_per_second: self.requests_per_second,
            trusted_proxies: self.trusted_proxy,
        };
        serve::run(config, |at| {
            let address = format!("http://{at}");
            // Nobody needs to read it.
            let _ = say(json, &json!({ "listening": address }), || format!("serving at {address}"));
        })
    }
}
