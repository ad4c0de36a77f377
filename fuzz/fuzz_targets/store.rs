#![no_main]

#[path = "../../tests/support/script.rs"]
mod script;
#[path = "../../tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    script::run(bytes);
});
