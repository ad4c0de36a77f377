//! FAISS factory strings: those that are taken, as a tree, and back to text.
//!
//! FAISS matches such strings with regular expressions, allocates while it does, and takes many that make no sense here. So a string is first
//! read by this whitelist, its numbers are bounded, and FAISS gets the text that is written from the tree.

use std::fmt;

use crate::error::quoted;

/// Bytes of a factory string. The longest one that makes sense has some forty.
pub(super) const STRING_BYTES_MAX: usize = 256;

/// Transforms before an index: FAISS recommends one at most, and two are seen.
const TRANSFORMS_MAX: usize = 4;

/// A factory string, read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tree {
    pub(super) transforms: Vec<Transform>,
    pub(super) shape: Shape,
    pub(super) code: Code,
}

/// What is done to a vector before it is indexed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Transform {
    /// A rotation that suits a product quantiser of `parts`.
    Opq {
        parts: u32,
        out: Option<u32>,
    },
    Pca {
        rotate: bool,
        out: u32,
    },
    Rotation {
        out: Option<u32>,
    },
    Itq {
        out: Option<u32>,
    },
}

/// How rows are found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shape {
    /// By looking at all of them.
    Scan,
    Hnsw {
        links: u32,
    },
    Nsg {
        links: u32,
    },
    /// `graph`: the links of an HNSW graph over the lists' centres.
    Ivf {
        lists: u32,
        graph: Option<u32>,
    },
}

/// How a row is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Code {
    Flat,
    Scalar(Scalar),
    Product {
        parts: u32,
        bits: u32,
    },
    ProductFastScan {
        parts: u32,
    },
    Additive {
        kind: Additive,
        /// Of the product quantisers; else 1.
        splits: u32,
        steps: u32,
        bits: u32,
    },
    Lsh {
        bits: Option<u32>,
        rotate: bool,
        thresholds: bool,
    },
    RaBitQ,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Bits4,
    Bits6,
    Bits8,
    Fp16,
    Bf16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Additive {
    Residual,
    LocalSearch,
    ProductResidual,
    ProductLocalSearch,
}

impl Tree {
    /// # Errors
    /// Why the text is none that is taken, for a person.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > STRING_BYTES_MAX {
            return Err(format!("a factory string has 1 to {STRING_BYTES_MAX} bytes, and this one {}", text.len()));
        }
        if let Some(why) = built_in(text) {
            return Err(why.to_owned());
        }
        let mut parts: Vec<&str> = text.split(',').collect();
        let transforms: Vec<Transform> = parts.iter().map_while(|part| transform(part)).collect();
        if transforms.len() > TRANSFORMS_MAX {
            return Err(format!("{} transforms, and {TRANSFORMS_MAX} are the most", transforms.len()));
        }
        parts.drain(..transforms.len());
        let (&first, rest) = parts.split_first().ok_or("a transform alone is no index")?;
        let unknown = |part: &str| format!("{} is no part of a factory string that this server knows", quoted(part));
        let (shape, code) = match (shape(first), rest) {
            (Some((shape, None)), []) if !matches!(shape, Shape::Ivf { .. }) => (shape, Code::Flat),
            (Some((shape, Some(code_text))), []) | (Some((shape, None)), &[code_text]) => {
                (shape, code(code_text, shape).ok_or_else(|| unknown(code_text))?)
            }
            (Some((Shape::Ivf { .. }, None)), []) => return Err(format!("{first} needs a code behind it, as in {first},Flat")),
            (None, []) => (Shape::Scan, code(first, Shape::Scan).ok_or_else(|| unknown(first))?),
            (None, _) => return Err(unknown(first)),
            (Some(_), _) => return Err(unknown(&rest.join(","))),
        };
        Ok(Self { transforms, shape, code })
    }
}

/// Why a string is not taken of which FAISS knows every part, where that is better said than "unknown".
fn built_in(text: &str) -> Option<&'static str> {
    let has = |name: &str| text.split([',', '(', ')']).any(|part| part.starts_with(name));
    if has("IDMap") {
        Some("IDMap is not needed: every index here has ids of its own, and any string may be one")
    } else if has("RFlat") || has("Refine") {
        Some("refinement is built in: results of quantised types are ranked again by the raw vectors (params.rescore)")
    } else if has("L2norm") || has("L2Norm") {
        Some("normalising is built in: use metric \"cosine\"")
    } else if has("Pad") {
        Some("padding is built in: scalar quantisers pad to a multiple of 16 by themselves")
    } else if text.ends_with("x4fsr") {
        // IndexIVFPQFastScan::compute_LUT makes them for the index's own nprobe, and the scan reads as many as the search's.
        Some("this FAISS reads beyond its tables where a search says nprobe: use x4fs without r")
    } else if has("PCAW") {
        Some("PCA with whitening changes the distances: use PCA or PCAR")
    } else if ["BFlat", "BHNSW", "BIVF", "BHash"].iter().any(|name| has(name)) {
        Some("binary indexes are not supported: vectors here are floats")
    } else if has("SQ8_direct") {
        Some("SQ8_direct takes bytes and no floats: use SQ8")
    } else if has("MinMax") || has("ZnLattice") || has("Residual") {
        Some("FAISS can encode with this type and not search it")
    } else if text.contains(['(', ')']) {
        Some("an index within an index is not supported: no parentheses")
    } else {
        None
    }
}

/// Reads from the front of a text.
struct Reader<'a>(&'a str);

impl Reader<'_> {
    fn word(&mut self, word: &str) -> bool {
        self.0.strip_prefix(word).map(|rest| self.0 = rest).is_some()
    }

    fn number(&mut self) -> Option<u32> {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = self.0.split_at(digits);
        // No number with a leading zero: the text is written again from the tree.
        let number = number.parse().ok().filter(|_| !number.starts_with('0') || digits == 1)?;
        self.0 = rest;
        Some(number)
    }

    fn end<T>(&self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

fn transform(text: &str) -> Option<Transform> {
    let mut reader = Reader(text);
    if reader.word("OPQ") {
        let parts = reader.number()?;
        let out = if reader.word("_") { Some(reader.number()?) } else { None };
        reader.end(Transform::Opq { parts, out })
    } else if reader.word("PCA") {
        let rotate = reader.word("R");
        let out = reader.number()?;
        reader.end(Transform::Pca { rotate, out })
    } else if reader.word("RR") {
        let out = reader.number();
        reader.end(Transform::Rotation { out })
    } else if reader.word("ITQ") {
        let out = reader.number();
        reader.end(Transform::Itq { out })
    } else {
        None
    }
}

/// The shape, and the text of its code where that stands in the same part (`HNSW32_SQ8`, as older FAISS wrote it).
fn shape(text: &str) -> Option<(Shape, Option<&str>)> {
    let mut reader = Reader(text);
    let graph: Option<fn(u32) -> Shape> = if reader.word("HNSW") {
        Some(|links| Shape::Hnsw { links })
    } else if reader.word("NSG") {
        Some(|links| Shape::Nsg { links })
    } else {
        None
    };
    if let Some(graph) = graph {
        let shape = graph(reader.number().unwrap_or(32));
        let code = reader.word("_").then_some(reader.0);
        return if code.is_some() { Some((shape, code)) } else { reader.end((shape, None)) };
    }
    if !reader.word("IVF") {
        return None;
    }
    let lists = reader.number()?;
    let unit = if reader.word("k") {
        1 << 10
    } else if reader.word("M") {
        1 << 20
    } else {
        1
    };
    let graph = reader.word("_HNSW").then(|| reader.number().unwrap_or(32));
    // Too many to be counted are too many to be taken.
    let lists = lists.saturating_mul(unit);
    reader.end((Shape::Ivf { lists, graph }, None))
}

fn code(text: &str, shape: Shape) -> Option<Code> {
    let is_ivf = matches!(shape, Shape::Ivf { .. });
    let is_graph = matches!(shape, Shape::Hnsw { .. } | Shape::Nsg { .. });
    if text == "Flat" {
        return Some(Code::Flat);
    }
    if let Some(&(scalar, _)) = SCALARS.iter().find(|(_, name)| *name == text) {
        return Some(Code::Scalar(scalar));
    }
    let mut reader = Reader(text);
    if reader.word("PQ") {
        let parts = reader.number()?;
        if !is_graph && reader.word("x4fs") {
            return reader.end(Code::ProductFastScan { parts });
        }
        let bits = if reader.word("x") { reader.number()? } else { 8 };
        // Polysemous training is never done: it is for a search that is not used.
        reader.word("np");
        return reader.end(Code::Product { parts, bits });
    }
    if is_graph {
        return None;
    }
    if let Some(&(kind, name)) = ADDITIVES.iter().find(|(_, name)| text.starts_with(name)) {
        reader.word(name);
        let splits = if kind.is_product() { reader.number().filter(|_| reader.word("x"))? } else { 1 };
        let steps = reader.number().filter(|_| reader.word("x"))?;
        let bits = reader.number()?;
        return reader.end(Code::Additive { kind, splits, steps, bits });
    }
    if text == "RaBitQ" {
        return Some(Code::RaBitQ);
    }
    if !is_ivf && reader.word("LSH") {
        let bits = reader.number();
        let rotate = reader.word("r");
        let thresholds = reader.word("t");
        return reader.end(Code::Lsh { bits, rotate, thresholds });
    }
    None
}

const SCALARS: [(Scalar, &str); 5] =
    [(Scalar::Bits4, "SQ4"), (Scalar::Bits6, "SQ6"), (Scalar::Bits8, "SQ8"), (Scalar::Fp16, "SQfp16"), (Scalar::Bf16, "SQbf16")];

const ADDITIVES: [(Additive, &str); 4] = [
    (Additive::Residual, "RQ"),
    (Additive::LocalSearch, "LSQ"),
    (Additive::ProductResidual, "PRQ"),
    (Additive::ProductLocalSearch, "PLSQ"),
];

impl Additive {
    fn is_product(self) -> bool {
        matches!(self, Self::ProductResidual | Self::ProductLocalSearch)
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for transform in &self.transforms {
            write!(f, "{transform},")?;
        }
        write!(f, "{}", Core(self.shape, self.code))
    }
}

impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Opq { parts, out: None } => write!(f, "OPQ{parts}"),
            Self::Opq { parts, out: Some(out) } => write!(f, "OPQ{parts}_{out}"),
            Self::Pca { rotate, out } => write!(f, "PCA{}{out}", if rotate { "R" } else { "" }),
            Self::Rotation { out } => write!(f, "RR{}", Optional(out)),
            Self::Itq { out } => write!(f, "ITQ{}", Optional(out)),
        }
    }
}

/// A factory string without its transforms.
pub(super) struct Core(pub(super) Shape, pub(super) Code);

impl fmt::Display for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Shape::Scan => return write!(f, "{}", self.1),
            Shape::Hnsw { links } => write!(f, "HNSW{links}")?,
            Shape::Nsg { links } => write!(f, "NSG{links}")?,
            Shape::Ivf { lists, graph: None } => return write!(f, "IVF{lists},{}", self.1),
            Shape::Ivf { lists, graph: Some(links) } => return write!(f, "IVF{lists}_HNSW{links},{}", self.1),
        }
        // A graph over floats is written without its code.
        if self.1 == Code::Flat { Ok(()) } else { write!(f, ",{}", self.1) }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Flat => f.write_str("Flat"),
            Self::Scalar(scalar) => f.write_str(SCALARS.iter().find(|(other, _)| *other == scalar).map_or("", |(_, name)| name)),
            Self::Product { parts, bits: 8 } => write!(f, "PQ{parts}"),
            Self::Product { parts, bits } => write!(f, "PQ{parts}x{bits}"),
            Self::ProductFastScan { parts } => write!(f, "PQ{parts}x4fs"),
            Self::Additive { kind, splits, steps, bits } => {
                f.write_str(ADDITIVES.iter().find(|(other, _)| *other == kind).map_or("", |(_, name)| name))?;
                if kind.is_product() {
                    write!(f, "{splits}x")?;
                }
                write!(f, "{steps}x{bits}")
            }
            Self::Lsh { bits, rotate, thresholds } => {
                write!(f, "LSH{}{}{}", Optional(bits), if rotate { "r" } else { "" }, if thresholds { "t" } else { "" })
            }
            Self::RaBitQ => f.write_str("RaBitQ"),
        }
    }
}

struct Optional(Option<u32>);

impl fmt::Display for Optional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |number| write!(f, "{number}"))
    }
}
