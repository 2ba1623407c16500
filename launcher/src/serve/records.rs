//! What the service remembers in the project's key-value store: uploads that are under way, who published what and when, and what was
//! taken away.
//!
//! Keys begin with `service/1/`, then `upload/ID`, `release/BUILD/VERSION`, `gone/BUILD/VERSION`; values are JSON. Whoever may
//! publish is decided by signatures and tokens, never by what stands here.

use super::problem::Problem;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vsekai_storage::kv::{Database, RangeRead};

const PREFIX: &str = "service/1/";
/// Pairs that are read at a time.
const PAGE: usize = 256;

/// An upload that has begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upload {
    /// In the repository: `packs/HASH`, …
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Whose it is.
    pub user: String,
    /// When it began, seconds since 1970.
    pub begun: u64,
}

/// A release as it was published.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Published {
    /// By whom.
    pub user: String,
    /// Seconds since 1970.
    pub at: u64,
}

/// A release that was taken out of its catalogue: its files stay for clients in flight.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gone {
    /// By whom.
    pub user: String,
    /// Seconds since 1970.
    pub at: u64,
    /// Its manifest's name.
    pub manifest: String,
    /// Its deltas' names.
    pub deltas: Vec<String>,
}

/// The store. Its calls block.
#[derive(Debug, Clone)]
pub struct Records(pub Database);

fn failed(error: vsekai_storage::Error) -> Problem {
    Problem::internal("the store failed", error)
}

impl Records {
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Problem> {
        let key = format!("{PREFIX}{key}");
        let bytes = self.0.run(|transaction| transaction.get(key.as_bytes())).map_err(failed)?;
        bytes
            .map(|bytes| {
                serde_json::from_slice(&bytes).map_err(|error| Problem::internal("a record is damaged", error))
            })
            .transpose()
    }

    /// Sets and clears, all at once.
    pub fn write(&self, set: &[(String, serde_json::Value)], clear: &[String]) -> Result<(), Problem> {
        let written = self.0.run_idempotent(|transaction| {
            for (key, value) in set {
                transaction.set(format!("{PREFIX}{key}").as_bytes(), value.to_string().into_bytes());
            }
            for key in clear {
                transaction.clear(format!("{PREFIX}{key}").as_bytes());
            }
            Ok(())
        });
        written.map_err(failed)
    }

    /// All records below `folder` (which ends with `/`), by the rest of their keys.
    pub fn list<T: DeserializeOwned>(&self, folder: &str) -> Result<Vec<(String, T)>, Problem> {
        let prefix = format!("{PREFIX}{folder}");
        // `0` is the character after `/`.
        let end = format!("{}0", prefix.trim_end_matches('/'));
        let mut begin = prefix.clone().into_bytes();
        let mut found = Vec::new();
        loop {
            let page =
                self.0.run(|transaction| transaction.get_range(&RangeRead::new(&begin, end.as_bytes()).limit(PAGE)));
            let page = page.map_err(failed)?;
            let Some((last, _)) = page.last() else { return Ok(found) };
            begin = [last.as_slice(), &[0]].concat();
            for (key, value) in page {
                let rest = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
                let value =
                    serde_json::from_slice(&value).map_err(|error| Problem::internal("a record is damaged", error))?;
                found.push((rest, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn records_are_listed_by_their_folder_in_pages() {
        let records = Records(Database::open("mem:").unwrap());
        let set: Vec<_> =
            (0..600).map(|n| (format!("release/game/{n:04}"), json!({ "user": "anna", "at": n }))).collect();
        records.write(&set, &[]).unwrap();
        records
            .write(&[("release/game-2/1".into(), json!({ "user": "bert", "at": 1 }))], &["release/game/0007".into()])
            .unwrap();
        let listed = records.list::<Published>("release/game/").unwrap();
        assert_eq!(listed.len(), 599);
        assert_eq!((listed[7].0.as_str(), listed[7].1.at), ("0008", 8));
        assert_eq!(records.list::<Published>("release/game-2/").unwrap()[0].1.user, "bert");
        assert!(records.get::<Published>("release/game/0007").unwrap().is_none());
    }
}
