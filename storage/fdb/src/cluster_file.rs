//! What the cluster file says: the library reads it by itself, but waits for ever where it should complain.

use crate::error::Error;
use std::fs;
use std::path::Path;

/// The addresses of the cluster's coordinators, as they stand in the file: `description:id@address,address`.
pub(crate) fn addresses(path: &Path) -> Result<String, Error> {
    let refused = |why: &str| Error::ClusterFile(format!("the cluster file {} {why}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| refused(&format!("cannot be read: {error}")))?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let line = line.ok_or_else(|| refused("is empty; it should say `description:id@address:port`"))?;
    match line.split_once('@') {
        Some((name, addresses)) if name.contains(':') && !addresses.is_empty() => Ok(addresses.to_owned()),
        _ => Err(refused("does not say `description:id@address:port`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_none_is_told_in_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fdb.cluster");
        let error = addresses(&path).unwrap_err().to_string();
        assert!(error.contains("fdb.cluster cannot be read") && !error.contains('\n'), "{error}");
        for (text, expected) in [
            ("", "is empty"),
            ("# only a comment\n", "is empty"),
            ("127.0.0.1:4500", "does not say"),
            ("name:id@", "does not say"),
        ] {
            fs::write(&path, text).unwrap();
            let error = addresses(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        fs::write(&path, "# DO NOT EDIT\n\ndocker:docker@10.0.0.1:4500,10.0.0.2:4500:tls\n").unwrap();
        assert_eq!(addresses(&path).unwrap(), "10.0.0.1:4500,10.0.0.2:4500:tls");
    }
}
