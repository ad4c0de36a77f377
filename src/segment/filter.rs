//! The equality filter of a search.

use crate::error::Result;

/// Field-equals-value conditions, all of which a point's metadata must meet.
#[derive(Clone, Debug)]
pub struct Filter {}

impl Filter {
    /// Parses the JSON text of an object `{field: value, …}`.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) naming `filter` where it is no object, or an operator that is not known.
    pub fn parse(_json: &str) -> Result<Self> {
        todo!()
    }
}
