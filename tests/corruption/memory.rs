//! The largest allocation while damaged stores are opened.
#![expect(unsafe_code, reason = "an allocator is an unsafe trait; this one only counts, and is in no program")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

static LARGEST_BYTES: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Counts what this thread allocates in `work`: the lists of cases of a long run are not what is in question.
pub fn counted<T>(work: impl FnOnce() -> T) -> T {
    IS_COUNTED.set(true);
    let done = work();
    IS_COUNTED.set(false);
    done
}

fn note(bytes: usize) {
    // A thread that ends allocates when its locals are gone.
    if IS_COUNTED.try_with(Cell::get).unwrap_or(false) {
        LARGEST_BYTES.fetch_max(bytes, Relaxed);
    }
}

/// Of a Rust allocation so far; FAISS, in C++, has its own.
pub fn largest_bytes() -> usize {
    LARGEST_BYTES.load(Relaxed)
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller has it.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller has it.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note(bytes);
        // SAFETY: as the caller has it.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller has it.
        unsafe { System.dealloc(pointer, layout) }
    }
}
