//! A digest of points that does not depend on where, in which order and in which files they are kept.

use std::fmt;

use twox_hash::XxHash3_128;

use super::Rows;

/// The sum, modulo 2^128, of a hash of each point: so points can be added in any order, and taken out again.
///
/// The hash of a point is the XXH3-128 of 48 bytes: the XXH3-128 of its id, of its metadata's text, and of its values as little-endian f32, each
/// little endian too. Contents that differ have different digests but by an accident of 1 in 2^128. It is no cryptographic hash: who wants to can make
/// two contents of one digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest(u128);

/// Memory that is used again from row to row.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    id: Vec<u8>,
    metadata: Vec<u8>,
    vector: Vec<f32>,
}

impl Digest {
    /// Adds the point of a row. Gives 64 bits of the hash of its id.
    pub(crate) fn add(&mut self, rows: &Rows, position: usize, scratch: &mut Scratch) -> u64 {
        let (id, point) = point_hash(rows, position, scratch);
        self.0 = self.0.wrapping_add(point);
        id
    }

    /// Takes out the point of a row that was added.
    pub(crate) fn take_out(&mut self, rows: &Rows, position: usize, scratch: &mut Scratch) {
        self.0 = self.0.wrapping_sub(point_hash(rows, position, scratch).1);
    }

    /// That of both contents together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// 64 bits of the hash of the id, and the hash of the point.
fn point_hash(rows: &Rows, position: usize, scratch: &mut Scratch) -> (u64, u128) {
    let Scratch { id, metadata, vector } = scratch;
    let (id, metadata) = match rows {
        Rows::Sealed(sealed) => (sealed.id(position), sealed.metadata(position)),
        Rows::Growing(growing) => {
            id.clear();
            metadata.clear();
            growing.id(position, id);
            growing.metadata(position, metadata);
            (&**id, &**metadata)
        }
    };
    let values = bytemuck::cast_slice(rows.floats(position..position + 1).to_slice(vector));
    let parts = [id, metadata, values].map(XxHash3_128::oneshot);
    (parts[0] as u64, XxHash3_128::oneshot(bytemuck::cast_slice(&parts.map(u128::to_le_bytes))))
}
