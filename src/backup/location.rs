//! Where backups go, as an operator writes it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use super::repository::{Directory, Repository};
use crate::error::{Error, Result, quoted};
use crate::io::os::OsIo;

/// A directory, one file, or a place in an object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A path, or `file://` and one. It is synced as the store itself is, which the crate for object stores would not do.
    Directory(PathBuf),
    /// A path that ends with `.tar.zst`: one full backup.
    Archive(PathBuf),
    /// `s3://`, `gs://` or `az://`, a bucket or container, and a prefix.
    Objects(String),
}

impl Location {
    /// # Errors
    /// [`Error::Invalid`] naming `field`.
    pub fn parse(field: &'static str, text: &str) -> Result<Self> {
        let invalid = |detail: String| Error::invalid(field, "invalid_location", detail);
        let path = match text.split_once("://") {
            None => text.to_owned(),
            Some(("file", path)) if path.starts_with('/') => {
                percent_decode_str(path).decode_utf8().map_err(|_| invalid(format!("{} is no UTF-8", quoted(text))))?.into_owned()
            }
            Some(("s3" | "gs" | "az", rest)) if !rest.is_empty() && !rest.starts_with('/') => {
                return Ok(Self::Objects(text.trim_end_matches('/').to_owned()));
            }
            Some(_) => {
                let detail = format!("{} is none of a path, file:///path, s3://bucket/prefix, gs://… and az://…", quoted(text));
                return Err(invalid(detail));
            }
        };
        if path.is_empty() {
            return Err(invalid("is empty".to_owned()));
        }
        let path = PathBuf::from(path);
        let is_archive = path.to_str().is_some_and(|path| path.ends_with(".tar.zst"));
        Ok(if is_archive { Self::Archive(path) } else { Self::Directory(path) })
    }

    /// The same place, or one below it: `part` is of names with `/` between them.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `field`: it would lead elsewhere.
    pub fn below(&self, field: &'static str, part: &str) -> Result<Self> {
        let is_name = |name: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            !name.is_empty() && !name.starts_with('.') && name.len() <= 255 && name.bytes().all(is_plain)
        };
        if part.is_empty() {
            return Ok(self.clone());
        }
        if part.split('/').count() > 8 || !part.split('/').all(is_name) {
            let detail = format!("{} must be names of a-z, A-Z, 0-9, '.', '_' and '-' with '/' between them", quoted(part));
            return Err(Error::invalid(field, "invalid_location", detail));
        }
        match self {
            Self::Directory(path) => Ok(Self::Directory(path.join(part))),
            Self::Objects(url) => Ok(Self::Objects(format!("{url}/{part}"))),
            Self::Archive(_) => Err(Error::invalid(field, "invalid_location", "there is nothing below one file")),
        }
    }

    /// Opens what is no archive.
    ///
    /// # Errors
    /// [`Error::Invalid`]: it is one, or this program was built without what it needs. [`Error::Io`]: the object store cannot be configured.
    pub fn open(&self, field: &'static str) -> Result<Box<dyn Repository>> {
        match self {
            Self::Directory(path) => Ok(Box::new(Directory::new(Arc::new(OsIo), path))),
            #[cfg(feature = "cloud")]
            Self::Objects(url) => Ok(Box::new(super::objects::Objects::open(field, url)?)),
            #[cfg(not(feature = "cloud"))]
            Self::Objects(_) => {
                let detail = "this program was built without object stores: build it with --features cloud";
                Err(Error::invalid(field, "invalid_location", detail))
            }
            Self::Archive(_) => {
                let detail = "one file is one full backup, made and restored by hand: give a directory or an object store here";
                Err(Error::invalid(field, "invalid_location", detail))
            }
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) | Self::Archive(path) => Path::display(path).fmt(f),
            Self::Objects(url) => f.write_str(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location> {
        Location::parse("to", text)
    }

    #[test]
    fn a_location_is_a_path_a_file_or_a_url() {
        let directory = |path: &str| Location::Directory(path.into());
        assert_eq!(parse("/a/b").unwrap(), directory("/a/b"));
        assert_eq!(parse("a").unwrap(), directory("a"));
        assert_eq!(parse("file:///a%20b/c").unwrap(), directory("/a b/c"));
        assert_eq!(parse("x.tar.zst").unwrap(), Location::Archive("x.tar.zst".into()));
        assert_eq!(parse("file:///x.tar.zst").unwrap(), Location::Archive("/x.tar.zst".into()));
        for url in ["s3://bucket", "gs://bucket/a/b", "az://container/a"] {
            assert_eq!(parse(&format!("{url}/")).unwrap(), Location::Objects(url.into()));
        }
        for wrong in ["", "file://a/b", "ftp://a", "s3://", "s3:///a", "http://a", "file:///%ff"] {
            assert!(matches!(parse(wrong), Err(Error::Invalid { field, .. }) if field == "to"), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_below_a_location_never_leads_out_of_it() {
        let (directory, objects) = (parse("/a").unwrap(), parse("s3://b").unwrap());
        assert_eq!(directory.below("to", "x/y-1_2.z").unwrap(), parse("/a/x/y-1_2.z").unwrap());
        assert_eq!(objects.below("to", "x").unwrap(), parse("s3://b/x").unwrap());
        assert_eq!(directory.below("to", "").unwrap(), directory);
        for wrong in
            ["..", "x/../y", "/etc", "x//y", "x/", ".x", "x/.y", "a b", "é", "a\0", "a\\b", "%2e%2e", "a/a/a/a/a/a/a/a/a"]
        {
            assert!(directory.below("to", wrong).is_err() && objects.below("to", wrong).is_err(), "{wrong:?}");
        }
        assert!(parse("/a.tar.zst").unwrap().below("to", "x").is_err());
    }
}
