//! What an index type needs before FAISS is asked for it: bounds, rows to train on, and bytes.

use super::grammar::{Code, Shape, Transform, Tree};

/// Bytes of one table that a type may bring beside its rows: codebooks, centres, distance tables.
const TABLE_BYTES_MAX: u64 = 1 << 30;

/// Bytes of a transform's matrix.
const MATRIX_BYTES_MAX: u64 = 256 << 20;

const LISTS_MAX: u32 = 1 << 20;
const LINKS_MAX: u32 = 512;

/// FAISS calls more "not practical"; its training takes hours long before.
const CODE_BITS_MAX: u32 = 16;

/// FAISS chooses the links of an NSG graph among the 64 nearest of each row, and in a search for as many rows as there are links and 32: in a
/// smaller segment, that search would not end.
const NSG_ROWS_MIN: u64 = 128;
const NSG_POOL_ROWS: u64 = 32;

/// Rows for each centre under which FAISS warns that they are few.
const ROWS_PER_CENTRE: u64 = 39;

/// FAISS's `precomputed_table_max_bytes`: beyond it, IVF with a product quantiser does without the table.
const PRECOMPUTED_BYTES_MAX: u64 = 2 << 30;

/// Dimensions, as they change on the way into the index.
impl Tree {
    /// Floats that come out of the transforms.
    fn dimension_out(&self, dimension: u64) -> u64 {
        self.transforms.iter().fold(dimension, |dimension, transform| transform.out(dimension))
    }

    /// To how many floats a scalar quantiser's input is padded, which turns on FAISS's SIMD kernels; `None` where nothing is.
    pub(super) fn padded(&self, dimension: u64) -> Option<u64> {
        let out = self.dimension_out(dimension);
        (matches!(self.code, Code::Scalar(_)) && !out.is_multiple_of(16)).then(|| out.next_multiple_of(16))
    }

    /// Floats that the index itself sees.
    fn dimension_inside(&self, dimension: u64) -> u64 {
        self.padded(dimension).unwrap_or_else(|| self.dimension_out(dimension))
    }

    /// Refuses, before FAISS is asked, what it would allocate absurdly for, or take hours over, or refuse in worse words.
    pub(super) fn check(&self, dimension: u64) -> Result<(), String> {
        let mut inside = dimension;
        for transform in &self.transforms {
            transform.check(inside)?;
            inside = transform.out(inside);
        }
        inside = self.dimension_inside(dimension);
        match self.shape {
            Shape::Scan => {}
            Shape::Hnsw { links } | Shape::Nsg { links } => check_links(links)?,
            Shape::Ivf { lists, graph } => {
                within("lists of an IVF index", lists, 1, LISTS_MAX)?;
                table("the lists' centres", u64::from(lists) * inside * 4)?;
                graph.map_or(Ok(()), check_links)?;
            }
        }
        check_code(self.code, self.is_graph(), inside)
    }

    pub(super) fn is_graph(&self) -> bool {
        matches!(self.shape, Shape::Hnsw { .. } | Shape::Nsg { .. })
    }

    /// Rows without which FAISS refuses to train or to build; 0 where it takes any.
    pub(super) fn train_rows_min(&self) -> u64 {
        let transforms = self.transforms.iter().map(|transform| transform.train_rows_min());
        let build = match self.shape {
            Shape::Nsg { links } => NSG_ROWS_MIN.max(2 * (u64::from(links) + NSG_POOL_ROWS)),
            _ => 0,
        };
        transforms.chain([self.centres(), self.code.train_rows_min(), build]).max().unwrap_or(0)
    }

    /// Rows from which on FAISS does not call them few.
    pub(super) fn train_rows_advised(&self, dimension: u64) -> u64 {
        let clusters = self.centres().max(match self.code {
            Code::Product { .. } | Code::ProductFastScan { .. } | Code::Additive { .. } => self.code.train_rows_min(),
            _ => 0,
        });
        let transforms = self.transforms.iter().map(|transform| match transform {
            Transform::Rotation { .. } => 0,
            Transform::Opq { .. } => ROWS_PER_CENTRE * 256,
            Transform::Pca { .. } | Transform::Itq { .. } => 10 * dimension,
        });
        transforms.chain([self.train_rows_min(), clusters * ROWS_PER_CENTRE]).max().unwrap_or(0)
    }

    fn centres(&self) -> u64 {
        if let Shape::Ivf { lists, .. } = self.shape { lists.into() } else { 0 }
    }

    /// Estimated bytes in memory for this many rows; raw vectors are counted where a search reads them.
    pub(super) fn bytes(&self, dimension: u64, rows: u64) -> u64 {
        let inside = self.dimension_inside(dimension);
        let (code, mut tables) = self.code.bytes(inside);
        let mut before = dimension;
        for transform in &self.transforms {
            tables += transform.matrix_bytes(before);
            before = transform.out(before);
        }
        let row = code
            + match self.shape {
                Shape::Scan => 0,
                // Both directions on the lowest level, a share of the levels above, the level and where the links begin.
                Shape::Hnsw { links } => u64::from(links) * 2 * 4 + 16,
                Shape::Nsg { links } => u64::from(links) * 4,
                Shape::Ivf { .. } => 8,
            };
        match (self.shape, self.code) {
            (Shape::Ivf { lists, graph }, code) => {
                tables += u64::from(lists) * (inside * 4 + u64::from(graph.unwrap_or(0)) * 8);
                if let Code::Product { parts, bits } = code {
                    let precomputed = u64::from(lists) * u64::from(parts) * (4 << bits);
                    tables += if precomputed > PRECOMPUTED_BYTES_MAX { 0 } else { precomputed };
                }
            }
            (Shape::Hnsw { .. } | Shape::Nsg { .. }, Code::Product { parts, bits }) => {
                tables += u64::from(parts) * (4 << (2 * bits))
            }
            _ => {}
        }
        rows.saturating_mul(row).saturating_add(tables)
    }
}

impl Transform {
    fn out(&self, dimension: u64) -> u64 {
        match *self {
            Self::Opq { out, .. } | Self::Rotation { out } | Self::Itq { out } => out.map_or(dimension, u64::from),
            Self::Pca { out, .. } => out.into(),
        }
    }

    fn check(&self, dimension: u64) -> Result<(), String> {
        let out = self.out(dimension);
        let may_grow = matches!(self, Self::Opq { .. } | Self::Rotation { .. });
        if out == 0 || (out > dimension && !may_grow) {
            return Err(format!("{self} cannot make {out} dimensions of {dimension}"));
        }
        if let Self::Opq { parts, .. } = *self {
            check_parts(parts, out)?;
        }
        let side = dimension.max(out);
        let bytes = side.saturating_mul(side).saturating_mul(4);
        if bytes > MATRIX_BYTES_MAX {
            let (has, most) = (bytes >> 20, MATRIX_BYTES_MAX >> 20);
            return Err(format!("{self} needs a matrix of {side} x {side}, {has} MiB, and {most} MiB is the most"));
        }
        Ok(())
    }

    fn matrix_bytes(&self, dimension: u64) -> u64 {
        dimension * self.out(dimension) * 4
    }

    fn train_rows_min(&self) -> u64 {
        match *self {
            Self::Opq { .. } => 256,
            Self::Pca { out, .. } => out.into(),
            Self::Rotation { .. } => 0,
            Self::Itq { out } => out.map_or(1, u64::from),
        }
    }
}

impl Code {
    fn train_rows_min(self) -> u64 {
        match self {
            Self::Flat => 0,
            Self::Scalar(scalar) => u64::from(scalar.is_trained()),
            Self::Product { bits, .. } | Self::Additive { bits, .. } => 1 << bits,
            Self::ProductFastScan { .. } => 16,
            Self::Lsh { thresholds, .. } => u64::from(thresholds),
            Self::RaBitQ => 1,
        }
    }

    /// Of a row, and of the tables beside all rows.
    fn bytes(self, dimension: u64) -> (u64, u64) {
        match self {
            Self::Flat => (dimension * 4, 0),
            Self::Scalar(scalar) => ((dimension * scalar.bits()).div_ceil(8), dimension * 8),
            Self::Product { parts, bits } => ((u64::from(parts) * u64::from(bits)).div_ceil(8), dimension * (4 << bits)),
            Self::ProductFastScan { parts, .. } => (u64::from(parts).div_ceil(2), dimension * 64),
            Self::Additive { splits, steps, bits, .. } => {
                let books = u64::from(splits) * u64::from(steps);
                let entries = u64::from(steps) << bits;
                // The codebooks, and for residual quantisers the products between all their entries. A norm is kept with each code.
                (
                    (books * u64::from(bits)).div_ceil(8) + 4,
                    books * (4 << bits) * dimension + u64::from(splits) * entries * entries * 4,
                )
            }
            Self::Lsh { bits, .. } => {
                let bits = bits.map_or(dimension, u64::from);
                (bits.div_ceil(8), bits * dimension * 4)
            }
            // A bit for each float, and two floats.
            Self::RaBitQ => (dimension.div_ceil(8) + 8, dimension * 4),
        }
    }
}

fn check_code(code: Code, in_graph: bool, dimension: u64) -> Result<(), String> {
    match code {
        Code::Flat | Code::Scalar(_) | Code::RaBitQ => Ok(()),
        Code::Product { parts, bits } => {
            check_parts(parts, dimension)?;
            within("bits of a PQ code", bits, 1, CODE_BITS_MAX)?;
            table("the codebooks", dimension * (4 << bits))?;
            // A graph keeps the distances between all entries of each codebook.
            if in_graph { table("the tables of distances", u64::from(parts) * (4 << (2 * bits))) } else { Ok(()) }
        }
        Code::ProductFastScan { parts, .. } => check_parts(parts, dimension),
        Code::Additive { splits, steps, bits, .. } => {
            within("splits", splits, 1, 256)?;
            within("steps of an additive quantiser", steps, 1, 64)?;
            within("bits of an additive quantiser", bits, 1, 12)?;
            if !dimension.is_multiple_of(splits.into()) {
                return Err(format!("{dimension} dimensions cannot be split into {splits} equal parts"));
            }
            table("the codebooks", code.bytes(dimension).1)
        }
        Code::Lsh { bits, .. } => {
            within("bits of LSH", bits.unwrap_or(dimension as u32), 1, 1 << 16)?;
            table("the rotation", code.bytes(dimension).1)
        }
    }
}

fn check_links(links: u32) -> Result<(), String> {
    within("links of a graph's row", links, 2, LINKS_MAX)
}

fn check_parts(parts: u32, dimension: u64) -> Result<(), String> {
    if parts == 0 || !dimension.is_multiple_of(parts.into()) {
        return Err(format!(
            "a product quantiser of {parts} parts needs a dimension that is a multiple of {parts}, and not {dimension}"
        ));
    }
    Ok(())
}

fn within(what: &str, number: u32, min: u32, max: u32) -> Result<(), String> {
    if (min..=max).contains(&number) { Ok(()) } else { Err(format!("{what}: {number} is not in {min} to {max}")) }
}

fn table(what: &str, bytes: u64) -> Result<(), String> {
    if bytes <= TABLE_BYTES_MAX {
        return Ok(());
    }
    Err(format!("{what} would take {} MiB, and {} MiB is the most", bytes >> 20, TABLE_BYTES_MAX >> 20))
}
