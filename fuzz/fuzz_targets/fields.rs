#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| faiss_proxy::fuzzing::fields(bytes));
