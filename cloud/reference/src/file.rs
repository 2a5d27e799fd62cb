//! The SQLite file by its path.

use std::fmt::Write as _;
use std::path::Path;

use convoy_cloud_core::ports::PortError;

use crate::failure::refused;
use crate::open::Reference;
use crate::secret::VinKey;

impl Reference {
    /// Opens the SQLite database at `path`, creating the file where there is none; otherwise as [`Reference::open`].
    pub async fn open_file(path: &Path, key: &VinKey) -> Result<Self, PortError> {
        let absolute = std::path::absolute(path)
            .map_err(|error| refused(format!("{} is not a usable path: {error}", path.display())))?;
        Self::open(&sqlite_url(&absolute)?, key).await.map_err(|error| with_path(error, path))
    }
}

/// The error with the file's name, which the driver does not tell.
fn with_path(error: PortError, path: &Path) -> PortError {
    let named = |reason| format!("{}: {reason}", path.display());
    match error {
        PortError::Unavailable { service, reason } => {
            PortError::Unavailable { service, reason: named(reason) }
        }
        PortError::Refused { service, reason } => PortError::Refused { service, reason: named(reason) },
        PortError::Conflict { service, reason } => PortError::Conflict { service, reason: named(reason) },
    }
}

/// The url of a SQLite file; all but the characters that no url changes are percent-encoded.
fn sqlite_url(path: &Path) -> Result<String, PortError> {
    let text = path.to_str().ok_or_else(|| refused(format!("{} is not UTF-8", path.display())))?;
    let mut url = String::from("sqlite://");
    for byte in text.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                url.push(char::from(byte))
            }
            _ => write!(url, "%{byte:02X}").expect("a String takes every write"),
        }
    }
    url.push_str("?mode=rwc");
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_with_url_characters_stay_file_names() {
        let url = sqlite_url(Path::new("/srv/a b/100%/x?y#z.sqlite")).unwrap();
        assert_eq!(url, "sqlite:///srv/a%20b/100%25/x%3Fy%23z.sqlite?mode=rwc");
    }

    #[tokio::test]
    async fn file_in_a_missing_folder_is_named_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let error = Reference::open_file(&directory.path().join("missing/r.sqlite"), &VinKey([1; 32])).await;
        assert!(error.unwrap_err().to_string().contains("missing/r.sqlite: "));
    }
}
