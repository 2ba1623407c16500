//! How servers are known by https: whose certificates are believed, and which one this machine shows.

use crate::error::{Exit, TaskError, shown};
use crate::settings::Settings;
use crate::whole;
use std::path::Path;
use std::sync::Arc;
use ureq::tls::{ClientCert, PemItem, RootCerts, TlsConfig, parse_pem};

const FILE_BYTES_MAX: u64 = 1 << 20;

/// For this address: the settings `ca_file` and `client_certificate`, else the authorities that browsers believe, and no certificate.
///
/// # Errors
/// When the files are not there, or are not what they should be.
pub fn config(address: &str) -> Result<TlsConfig, TaskError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = TlsConfig::builder().unversioned_rustls_crypto_provider(provider).root_certs(RootCerts::WebPki);
    if !address.starts_with("https://") {
        return Ok(config.build());
    }
    let settings = Settings::load()?;
    let config = match &settings.ca_file {
        None => config,
        Some(file) => {
            let certificates: Vec<_> = items(file)?
                .into_iter()
                .filter_map(|item| if let PemItem::Certificate(certificate) = item { Some(certificate) } else { None })
                .collect();
            if certificates.is_empty() {
                return Err(damaged(file, "has no certificate"));
            }
            config.root_certs(certificates.into())
        }
    };
    let config = match &settings.client_certificate {
        None => config,
        Some(file) => {
            let (mut chain, mut key) = (vec![], None);
            for item in items(file)? {
                match item {
                    PemItem::Certificate(certificate) => chain.push(certificate),
                    PemItem::PrivateKey(found) => key = Some(found),
                    _ => {}
                }
            }
            let key = key.filter(|_| !chain.is_empty());
            let key = key.ok_or_else(|| damaged(file, "must have a certificate and its private key"))?;
            config.client_cert(Some(ClientCert::new_with_certs(&chain, key)))
        }
    };
    Ok(config.build())
}

fn damaged(file: &str, why: &str) -> TaskError {
    TaskError::new(Exit::Damaged, format!("{}: {why}, as PEM", shown(Path::new(file))))
}

fn items(file: &str) -> Result<Vec<PemItem<'static>>, TaskError> {
    let path = Path::new(file);
    let missing = || TaskError::unreadable(path, std::io::ErrorKind::NotFound.into());
    let bytes = whole::read(path, FILE_BYTES_MAX)?.ok_or_else(missing)?;
    // The parser's message could quote a key.
    parse_pem(&bytes).collect::<Result<_, _>>().map_err(|_| damaged(file, "is broken"))
}
