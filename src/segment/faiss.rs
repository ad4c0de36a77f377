//! All that is called of FAISS. The only file with FFI: the `faiss` crate makes, trains, fills and frees an index, and `faiss_shim.cpp` does
//! what its C API has no functions for.
#![expect(unsafe_code, reason = "FAISS is C++: what its C API lacks is reached through C functions of our own shim")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use faiss::index::{FromInnerPtr, Index as _, IndexImpl};
use faiss::{MetricType, index_factory};

use super::positions::Page;
use super::sealed::Sealed;

#[cfg(test)]
mod tests;

/// Bytes of what FAISS says of an error; the rest is cut.
const MESSAGE_BYTES: usize = 512;

/// Takes bytes; 0 where it took them all.
type Put = extern "C" fn(context: *mut c_void, bytes: *const u8, count: usize) -> c_int;

unsafe extern "C" {
    fn faiss_proxy_distances(
        inner_product: i32,
        query: *const f32,
        rows: *const f32,
        dimension: usize,
        count: usize,
        out: *mut f32,
    );
    fn faiss_proxy_distances_of(
        inner_product: i32,
        query: *const f32,
        rows: *const f32,
        dimension: usize,
        positions: *const usize,
        count: usize,
        out: *mut f32,
    );
    fn faiss_proxy_products(
        queries: *const f32,
        query_count: usize,
        rows: *const f32,
        count: usize,
        dimension: usize,
        products: *mut f32,
        squared_norms: *mut f32,
    );
    fn faiss_proxy_below(
        products: *const f32,
        factors: *const f32,
        terms: *const f32,
        count: usize,
        bound: f32,
        out: *mut u32,
    ) -> usize;
    fn faiss_proxy_set_threads(threads: c_int);
    fn faiss_proxy_initialise();
    fn faiss_proxy_watch(flag: *const u8);
    fn faiss_proxy_prepare(
        index: *mut c_void,
        ef_construction: c_int,
        nn_descent: c_int,
        rows: *const f32,
        count: usize,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
    fn faiss_proxy_add_nsg(index: *mut c_void, count: usize, rows: *const f32, error: *mut c_char, error_bytes: usize) -> c_int;
    fn faiss_proxy_set_defaults(index: *mut c_void, ef: u32, nprobe: u32);
    fn faiss_proxy_search(
        index: *const c_void,
        kind: c_int,
        ef: u32,
        nprobe: u32,
        queries: *const f32,
        query_count: usize,
        pages: *const *const u64,
        page_count: usize,
        k: usize,
        distances: *mut f32,
        labels: *mut i64,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
    fn faiss_proxy_write(index: *const c_void, context: *mut c_void, put: Put, error: *mut c_char, error_bytes: usize) -> c_int;
    fn faiss_proxy_read(
        data: *const u8,
        bytes: usize,
        flat_graph: c_int,
        rows: *const f32,
        count: usize,
        error: *mut c_char,
        error_bytes: usize,
    ) -> *mut c_void;
    fn faiss_proxy_same_type(a: *const c_void, b: *const c_void) -> c_int;
}

// Only the program reads what others wrote, and says how the whole process is to allocate.
#[cfg(feature = "server")]
unsafe extern "C" {
    fn faiss_proxy_limit_arenas(arenas: c_int);
    fn faiss_proxy_vectors_open(
        path: *const c_char,
        dimension: *mut usize,
        count: *mut usize,
        has_ids: *mut c_int,
        error: *mut c_char,
        error_bytes: usize,
    ) -> *mut c_void;
    fn faiss_proxy_vectors_next(
        vectors: *mut c_void,
        rows: usize,
        values: *mut f32,
        ids: *mut i64,
        given: *mut usize,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
    fn faiss_proxy_vectors_close(vectors: *mut c_void);
}

/// Which of FAISS's kernels compares two vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Squared Euclidean distance.
    L2,
    InnerProduct,
}

/// Vectors one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Floats<'a> {
    /// Of a file that never changes.
    Mapped(&'a [f32]),
    /// The bits of floats, in memory that a writer is adding to *behind* these.
    Growing(&'a [AtomicU32]),
}

impl<'a> Floats<'a> {
    fn len(&self) -> usize {
        match self {
            Self::Mapped(floats) => floats.len(),
            Self::Growing(words) => words.len(),
        }
    }

    fn as_ptr(&self) -> *const f32 {
        match self {
            Self::Mapped(floats) => floats.as_ptr(),
            Self::Growing(words) => words.as_ptr().cast(),
        }
    }

    /// All of them as they are, or copied into `scratch` where a writer is at work behind them.
    pub(crate) fn to_slice(self, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Self::Mapped(floats) => floats,
            Self::Growing(_) => {
                scratch.clear();
                scratch.extend(self.iter());
                scratch
            }
        }
    }

    /// Multiplies each of `out` by its float here.
    pub(crate) fn multiply_into(self, out: &mut [f32]) {
        match self {
            Self::Mapped(floats) => out.iter_mut().zip(floats).for_each(|(x, float)| *x *= float),
            Self::Growing(words) => {
                out.iter_mut().zip(words).for_each(|(x, word)| *x *= f32::from_bits(word.load(Relaxed)));
            }
        }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = f32> + 'a {
        let (mapped, growing): (&[f32], &[AtomicU32]) = match self {
            Self::Mapped(floats) => (floats, &[]),
            Self::Growing(words) => (&[], words),
        };
        mapped.iter().copied().chain(growing.iter().map(|word| f32::from_bits(word.load(Relaxed))))
    }
}

/// Writes the distance between `query` and each of the `out.len()` vectors in `rows`.
///
/// # Panics
/// Where `rows` is not `out.len()` vectors of the query's dimension.
pub(crate) fn distances(kernel: Kernel, query: &[f32], rows: Floats<'_>, out: &mut [f32]) {
    assert_eq!(rows.len(), query.len() * out.len(), "rows are whole vectors of the query's dimension");
    let first = rows.as_ptr();
    // SAFETY: `query` and `out` are slices. `first` points to `rows.len()` floats, which were just seen to be what the kernel reads:
    // `count * dimension`. Any 32 bits are a float, and `AtomicU32` has the size of `f32` and at least its alignment. The kernel reads
    // growing memory without atomic loads: that is no data race, because the words of a row are written once, before the row is published
    // (`engine/apply.rs` stores the View with release order, and the caller has these rows from a View), and never again. The shim is
    // `noexcept` and keeps no pointer.
    unsafe {
        faiss_proxy_distances(
            i32::from(kernel == Kernel::InnerProduct),
            query.as_ptr(),
            first,
            query.len(),
            out.len(),
            out.as_mut_ptr(),
        );
    }
}

/// Writes the distance between `query` and the vectors in `rows` at each of the positions.
///
/// # Panics
/// Where `rows` are not whole vectors of the query's dimension, one of them has no such position, or `out` has not a place for each.
pub(crate) fn distances_of(kernel: Kernel, query: &[f32], rows: Floats<'_>, positions: &[usize], out: &mut [f32]) {
    let count = rows.len() / query.len();
    assert_eq!(rows.len(), query.len() * count, "rows are whole vectors of the query's dimension");
    assert!(positions.iter().all(|&position| position < count), "there is a row at each position");
    assert_eq!(positions.len(), out.len(), "each distance has its place");
    // SAFETY: as in `distances`; the shim reads no vectors but those at the `out.len()` positions, which were just seen to be there.
    unsafe {
        faiss_proxy_distances_of(
            i32::from(kernel == Kernel::InnerProduct),
            query.as_ptr(),
            rows.as_ptr(),
            query.len(),
            positions.as_ptr(),
            out.len(),
            out.as_mut_ptr(),
        );
    }
}

/// Writes the inner product of each of the queries, one after the other, with each of the `count` vectors in `rows`, those of the
/// first query first; and the squared norms of the rows, where `squared_norms` has room for them. On the calling thread alone: the order of its sums is its
/// own, so that a product differs, by rounding, from what [`distances`] gives.
///
/// # Panics
/// Where `queries` or `rows` are not whole vectors of `dimension`, `products` has not room for each pair, or `squared_norms` for each row.
pub(crate) fn products(
    dimension: usize,
    queries: &[f32],
    rows: Floats<'_>,
    products: &mut [f32],
    squared_norms: Option<&mut [f32]>,
) {
    let (query_count, count) = (queries.len() / dimension, rows.len() / dimension);
    assert_eq!(queries.len(), query_count * dimension, "queries are whole vectors");
    assert_eq!(rows.len(), count * dimension, "rows are whole vectors");
    assert_eq!(products.len(), query_count * count, "each pair has a product");
    assert!(squared_norms.as_ref().is_none_or(|norms| norms.len() == count), "each row has a norm");
    // SAFETY: as in `distances`; the shim reads `query_count` and `count` vectors and writes so many products, and norms where it is given where to, which
    // were just seen to be there.
    unsafe {
        faiss_proxy_products(
            queries.as_ptr(),
            query_count,
            rows.as_ptr(),
            count,
            dimension,
            products.as_mut_ptr(),
            squared_norms.map_or(ptr::null_mut(), <[f32]>::as_mut_ptr),
        );
    }
}

/// Writes the places at which `products[i] * factors[i] + terms[i]` is at most `bound`, rising, to the beginning of `places`; how many they are. What is no
/// number is at most nothing.
///
/// # Panics
/// Where they are not of one length.
pub(crate) fn below(products: &[f32], factors: &[f32], terms: &[f32], bound: f32, places: &mut [u32]) -> usize {
    let count = products.len();
    assert_eq!((factors.len(), terms.len(), places.len()), (count, count, count), "there is one of each for each product");
    // SAFETY: the shim reads `count` numbers of each and writes at most as many places, which were just seen to be there.
    unsafe { faiss_proxy_below(products.as_ptr(), factors.as_ptr(), terms.as_ptr(), count, bound, places.as_mut_ptr()) }
}

/// How an index is searched, beside the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SearchKind {
    /// FAISS's type takes no parameters, and throws where it gets some.
    Bare,
    /// No parameter but which rows to leave out.
    Selected,
    Hnsw {
        ef: u32,
    },
    Ivf {
        nprobe: u32,
    },
    /// IVF whose lists are found by a graph, itself searched with `ef`.
    IvfByGraph {
        nprobe: u32,
        ef: u32,
    },
}

/// A FAISS index. Searches may run beside each other; what changes it takes `&mut self`.
#[derive(Debug)]
pub(crate) struct Index {
    native: IndexImpl,
    /// What `native` may read vectors of without a copy: declared behind it, so that it is dropped after it.
    rows: Option<Arc<Sealed>>,
}

impl Index {
    /// An empty index.
    ///
    /// # Errors
    /// FAISS's reason, for a person. So for all methods here.
    pub(crate) fn new(factory: &str, dimension: usize, inner_product: bool) -> Result<Self, String> {
        initialise();
        let metric = if inner_product { MetricType::InnerProduct } else { MetricType::L2 };
        let dimension = u32::try_from(dimension).map_err(|_| "too many dimensions".to_owned())?;
        Ok(Self { native: index_factory(dimension, factory, metric).map_err(reason)?, rows: None })
    }

    pub(crate) fn dimension(&self) -> usize {
        self.native.d() as usize
    }

    pub(crate) fn len(&self) -> usize {
        self.native.ntotal() as usize
    }

    pub(crate) fn is_inner_product(&self) -> bool {
        self.native.metric_type() == MetricType::InnerProduct
    }

    /// Whether both are of the same FAISS classes.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        // SAFETY: both pointers are to live indexes, which are only looked at. The shim is `noexcept`.
        unsafe { faiss_proxy_same_type(self.pointer(), other.pointer()) != 0 }
    }

    /// Before training and adding: how many candidates an HNSW graph keeps for a new row, whether the neighbours that an NSG graph begins with
    /// are found by NN-descent and not by comparing all pairs, and, for a graph over flat storage, the rows that will be added, all of them
    /// and in order: FAISS then reads them where they are.
    pub(crate) fn prepare(&mut self, ef_construction: u32, nn_descent: bool, rows: Option<Arc<Sealed>>) -> Result<(), String> {
        assert_eq!(self.len(), 0, "an index is prepared before rows are added");
        let (first, count) = self.floats_of(rows.as_ref());
        let ef_construction = ef_construction.min(i32::MAX as u32) as c_int;
        // SAFETY: the index is ours alone (`&mut`). `first` is null or points to `count` vectors of the index's dimension in the map of
        // `rows`, which never changes; `self.rows` keeps it for longer than the native index lives. The shim never writes through it.
        let outcome = call(|error, bytes| unsafe {
            faiss_proxy_prepare(self.pointer(), ef_construction, c_int::from(nn_descent), first, count, error, bytes)
        });
        // Also after an error: the storage may have been replaced by then.
        self.rows = rows;
        outcome
    }

    /// Trains on rows, one after the other; no training is needed again. Ends early, with an error, soon after `stop` is set.
    pub(crate) fn train(&mut self, rows: &[f32], stop: &AtomicBool) -> Result<(), String> {
        let _watch = Watch::new(stop);
        self.native.train(rows).map_err(reason)
    }

    /// Adds rows, one after the other. Ends as [`Index::train`] does; it is of no use then.
    pub(crate) fn add(&mut self, rows: &[f32], stop: &AtomicBool) -> Result<(), String> {
        let _watch = Watch::new(stop);
        self.native.add(rows).map_err(reason)
    }

    /// Adds all rows to an NSG index, which FAISS's own function may never finish where many rows are alike.
    pub(crate) fn add_nsg(&mut self, rows: &[f32], stop: &AtomicBool) -> Result<(), String> {
        let _watch = Watch::new(stop);
        let count = rows.len() / self.dimension();
        assert_eq!(rows.len(), count * self.dimension(), "rows are whole vectors");
        // SAFETY: the index is ours alone, and `rows` are `count` vectors of its dimension. The shim catches what FAISS throws.
        call(|error, bytes| unsafe { faiss_proxy_add_nsg(self.pointer(), count, rows.as_ptr(), error, bytes) })
    }

    /// What a search takes that brings no parameters of its own.
    pub(crate) fn set_defaults(&mut self, ef: u32, nprobe: u32) {
        // SAFETY: the index is ours alone. The shim is `noexcept`.
        unsafe { faiss_proxy_set_defaults(self.pointer(), ef.min(i32::MAX as u32), nprobe.max(1)) }
    }

    /// The nearest rows to each of the queries, one after the other: `k` positions for each, -1 where there is none, and FAISS's distances. Rows of
    /// `hidden`, page by page, are left out; an empty slice hides none. On the calling thread alone, which has one OpenMP thread afterwards.
    pub(crate) fn search(
        &self,
        kind: SearchKind,
        queries: &[f32],
        k: usize,
        hidden: &[Option<&Page>],
        distances: &mut [f32],
        labels: &mut [i64],
    ) -> Result<(), String> {
        let query_count = queries.len() / self.dimension();
        assert_eq!(queries.len(), query_count * self.dimension(), "queries are whole vectors");
        assert_eq!((distances.len(), labels.len()), (query_count * k, query_count * k), "each result has its place");
        let (number, ef, nprobe) = match kind {
            SearchKind::Bare => (0, 0, 0),
            SearchKind::Selected => (1, 0, 0),
            SearchKind::Hnsw { ef } => (2, ef, 0),
            SearchKind::Ivf { nprobe } => (3, 0, nprobe),
            SearchKind::IvfByGraph { nprobe, ef } => (4, ef, nprobe),
        };
        let pages: *const *const u64 = if hidden.is_empty() { ptr::null() } else { hidden.as_ptr().cast() };
        // SAFETY: FAISS's searches are safe beside each other, and nothing else runs with `&self`. `queries` are `query_count` vectors of the index's
        // dimension, `labels` and `distances` have room for `k` results of each. `Option<&Page>` is a pointer to 1,024 words or null, as the shim reads it, and it reads
        // no page but the `hidden.len()`. The shim catches what FAISS throws and keeps no pointer.
        call(|error, bytes| unsafe {
            faiss_proxy_search(
                self.pointer(),
                number,
                ef.clamp(1, i32::MAX as u32),
                nprobe.max(1),
                queries.as_ptr(),
                query_count,
                pages,
                hidden.len(),
                k,
                distances.as_mut_ptr(),
                labels.as_mut_ptr(),
                error,
                bytes,
            )
        })
    }

    /// Gives the bytes of FAISS's file format to `put`, part by part, until it does not take one.
    pub(crate) fn write(&self, mut put: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), String> {
        /// `context` is a `&mut &mut dyn FnMut(&[u8]) -> bool`.
        extern "C" fn relay(context: *mut c_void, bytes: *const u8, count: usize) -> c_int {
            // SAFETY: `write` below passes this function with a pointer to its own `put`, which is borrowed for as long as the shim runs and
            // used by nobody else meanwhile; FAISS gives `count` readable bytes. A panic here aborts, and does not unwind into C++.
            let (put, bytes) =
                unsafe { (&mut *context.cast::<&mut dyn FnMut(&[u8]) -> bool>(), std::slice::from_raw_parts(bytes, count)) };
            c_int::from(!put(bytes))
        }
        let context: *mut &mut dyn FnMut(&[u8]) -> bool = &raw mut put;
        // SAFETY: the index is only read. `context` is what `relay` takes it for, and outlives the call. The shim catches what FAISS throws.
        call(|error, bytes| unsafe { faiss_proxy_write(self.pointer(), context.cast(), relay, error, bytes) })
    }

    /// Reads what [`Index::write`] gave. FAISS trusts what it reads: the caller has compared a checksum. `flat_graph` says that it is a graph
    /// over flat storage; where `rows` are the same vectors, the index reads them there and keeps no copy.
    pub(crate) fn read(bytes: &[u8], flat_graph: bool, rows: Option<Arc<Sealed>>) -> Result<Self, String> {
        initialise();
        let first = rows.as_deref().map_or(ptr::null(), first_float);
        let count = rows.as_deref().map_or(0, Sealed::len);
        let mut pointer = ptr::null_mut();
        // SAFETY: `bytes` is a slice, and the shim keeps no pointer into it: what FAISS would leave there it copies. `first` points to `count`
        // vectors that never change and that `rows` keeps for as long as the index; the shim compares their bytes in number with the
        // storage's. It catches what FAISS throws.
        call(|error, error_bytes| unsafe {
            pointer = faiss_proxy_read(bytes.as_ptr(), bytes.len(), c_int::from(flat_graph), first, count, error, error_bytes);
            c_int::from(pointer.is_null())
        })?;
        // SAFETY: the shim made this index for us alone, and it is none of GPU.
        let index = Self { native: unsafe { IndexImpl::from_inner_ptr(pointer.cast()) }, rows };
        match &index.rows {
            // Before a search could read behind them.
            Some(rows) if rows.dimension() != index.dimension() => Err("the rows are of another dimension".to_owned()),
            _ => Ok(index),
        }
    }

    fn pointer(&self) -> *mut c_void {
        self.native.inner_ptr().cast()
    }

    /// Where the vectors of `rows` are and how many; null and 0 without rows.
    fn floats_of(&self, rows: Option<&Arc<Sealed>>) -> (*const f32, usize) {
        let Some(rows) = rows else { return (ptr::null(), 0) };
        assert_eq!(rows.dimension(), self.dimension(), "rows are of the index's dimension");
        (first_float(rows), rows.len())
    }
}

fn first_float(rows: &Sealed) -> *const f32 {
    rows.floats(0..rows.len()).as_ptr()
}

/// The vectors of an index that somebody else wrote, one after the other. FAISS trusts what it reads: only for a process that may be killed by it.
#[cfg(feature = "server")]
#[derive(Debug)]
pub(crate) struct Vectors {
    pointer: ptr::NonNull<c_void>,
    pub(crate) dimension: usize,
    pub(crate) count: u64,
    /// Whether FAISS knows the rows by other numbers than their positions.
    pub(crate) has_ids: bool,
}

#[cfg(feature = "server")]
impl Vectors {
    /// # Errors
    /// FAISS's reason, or which types are read.
    pub(crate) fn open(path: &CStr) -> Result<Self, String> {
        let (mut pointer, mut dimension, mut count, mut has_ids) = (ptr::null_mut(), 0, 0, 0);
        // SAFETY: `path` ends with a zero, and the four places outlive the call. The shim catches what FAISS throws. What FAISS does with a file that is
        // damaged is not in our hands, nor in the hands of this function's callers: they are in a process that does nothing else.
        call(|error, bytes| unsafe {
            pointer = faiss_proxy_vectors_open(path.as_ptr(), &mut dimension, &mut count, &mut has_ids, error, bytes);
            c_int::from(pointer.is_null())
        })?;
        let pointer = ptr::NonNull::new(pointer).expect("seen not to be null");
        Ok(Self { pointer, dimension, count: count as u64, has_ids: has_ids != 0 })
    }

    /// The next rows, at most so many, in place of what the two held; none at the end.
    pub(crate) fn next(&mut self, rows: usize, values: &mut Vec<f32>, ids: &mut Vec<i64>) -> Result<(), String> {
        values.resize(rows * self.dimension, 0.0);
        ids.resize(rows, 0);
        let mut given = 0;
        // SAFETY: the pointer is ours alone (`&mut`) until `drop`. `values` and `ids` have room for `rows` rows, of which the shim writes no more. It
        // catches what FAISS throws and keeps no pointer.
        call(|error, bytes| unsafe {
            let (values, ids) = (values.as_mut_ptr(), ids.as_mut_ptr());
            faiss_proxy_vectors_next(self.pointer.as_ptr(), rows, values, ids, &mut given, error, bytes)
        })?;
        values.truncate(given * self.dimension);
        ids.truncate(given);
        Ok(())
    }
}

#[cfg(feature = "server")]
impl Drop for Vectors {
    fn drop(&mut self) {
        // SAFETY: `open` made it, and nobody has it after this.
        unsafe { faiss_proxy_vectors_close(self.pointer.as_ptr()) }
    }
}

/// Sets, once, what FAISS keeps for the whole process.
fn initialise() {
    // SAFETY: the shim does it once, and is `noexcept`. No FAISS index exists before, since every one is made behind this call.
    unsafe { faiss_proxy_initialise() }
}

/// Makes FAISS look at a flag while it works for this thread.
struct Watch<'a>(#[expect(dead_code, reason = "the flag must live as long as this")] &'a AtomicBool);

impl<'a> Watch<'a> {
    fn new(stop: &'a AtomicBool) -> Self {
        // SAFETY: `AtomicBool` is one byte, read atomically by the shim, and lives until `drop` takes the pointer back: this value never
        // leaves the function that made it, so that it is dropped, on the same thread, before the flag can go.
        unsafe { faiss_proxy_watch(stop.as_ptr().cast_const().cast()) };
        Self(stop)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // SAFETY: null is no flag.
        unsafe { faiss_proxy_watch(ptr::null()) };
    }
}

/// How many arenas the allocator of the process has at most, which is FAISS's and Rust's. Those that are there stay.
#[cfg(feature = "server")]
pub(crate) fn limit_arenas(arenas: usize) {
    // SAFETY: a plain number; the shim is `noexcept`, and glibc's `mallopt` takes its own lock.
    unsafe { faiss_proxy_limit_arenas(arenas.clamp(1, 1 << 10) as c_int) }
}

/// How many threads FAISS may use from now on for what the calling thread asks of it. A search sets it back to one.
pub(crate) fn set_threads(threads: usize) {
    // SAFETY: a plain number; the shim is `noexcept`.
    unsafe { faiss_proxy_set_threads(threads.clamp(1, 1 << 10) as c_int) }
}

/// Calls a function of the shim with room for its message.
fn call(function: impl FnOnce(*mut c_char, usize) -> c_int) -> Result<(), String> {
    let mut message = [0_u8; MESSAGE_BYTES];
    if function(message.as_mut_ptr().cast(), message.len()) == 0 {
        return Ok(());
    }
    let text = CStr::from_bytes_until_nul(&message).unwrap_or_default();
    Err(shortened(&text.to_string_lossy()))
}

fn reason(error: faiss::error::Error) -> String {
    match error {
        faiss::error::Error::Native(native) => shortened(native.msg()),
        other => other.to_string(),
    }
}

/// What FAISS says without where in its source it says so: `Error in <function> at <file>:<line>: Error: '<condition>' failed: <reason>`.
fn shortened(message: &str) -> String {
    let text = message.trim_end_matches('\0').trim();
    let Some((_, after)) = text.strip_prefix("Error in ").and_then(|text| text.split_once(" at ")) else {
        return text.to_owned();
    };
    let after = after.split_once(": ").map_or(after, |(_, said)| said);
    let said = after.strip_prefix("Error: ").unwrap_or(after);
    match said.split_once(" failed: ") {
        Some((_, reason)) if !reason.trim().is_empty() => reason.trim().to_owned(),
        _ => said.trim_end_matches(" failed").trim_end_matches(" failed: ").trim().to_owned(),
    }
}
