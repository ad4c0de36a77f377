#![no_main]

#[path = "../../tests/support/driven.rs"]
mod driven;
#[path = "../../tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    driven::run(bytes);
});
