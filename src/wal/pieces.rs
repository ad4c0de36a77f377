//! From frames to operations: a frame holds several whole ones, or a piece of one.

use std::borrow::Cow;
use std::ops::{ControlFlow, RangeInclusive};

use super::operation::Operation;
use crate::error::{Error, Result};
use crate::format::frame::{FrameKind, OPERATION_BYTES_MAX};
use crate::types::Lsn;

/// The pieces so far of an operation that spans frames.
#[derive(Debug, Default)]
pub(super) struct Pieces(Vec<u8>);

impl Pieces {
    /// The whole operations that there are with this frame: its own, or one of which it is the last piece.
    pub(super) fn add<'a>(&mut self, kind: FrameKind, payload: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, Problem> {
        match kind {
            FrameKind::Marker => Ok(None),
            FrameKind::Operations => Ok(Some(Cow::Borrowed(payload))),
            FrameKind::Part | FrameKind::LastPart => {
                if self.0.len() + payload.len() > OPERATION_BYTES_MAX {
                    return Err(Problem::Bytes("an operation is larger than any may be".to_owned()));
                }
                self.0.extend_from_slice(payload);
                Ok((kind == FrameKind::LastPart).then(|| Cow::Owned(std::mem::take(&mut self.0))))
            }
        }
    }

    /// Bytes of the pieces so far.
    #[cfg(feature = "server")]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets pieces of an operation whose end is missing: nobody was told of it.
    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

/// Gives the operations of these LSNs to `each`, in order, until it breaks off. They are all of `payload`.
pub(super) fn operations(
    mut payload: &[u8],
    lsns: RangeInclusive<Lsn>,
    each: &mut dyn FnMut(Lsn, &Operation<'_>) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>, Problem> {
    for lsn in lsns {
        let (operation, rest) = Operation::decode(payload).map_err(Problem::Bytes)?;
        if each(lsn, &operation).map_err(Problem::Caller)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        payload = rest;
    }
    if payload.is_empty() {
        Ok(ControlFlow::Continue(()))
    } else {
        Err(Problem::Bytes("a frame holds more operations than LSNs".to_owned()))
    }
}

pub(super) enum Problem {
    /// Of the frame.
    Bytes(String),
    /// Of who looks at the operations.
    Caller(Error),
}

impl Problem {
    pub(super) fn at(self, damaged: &dyn Fn(String) -> Error) -> Error {
        match self {
            Self::Bytes(problem) => damaged(problem),
            Self::Caller(error) => error,
        }
    }
}
