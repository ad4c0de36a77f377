//! Arguments, logging, exit code.

use std::env;
use std::process::ExitCode;

use faiss_proxy::cli;

fn main() -> ExitCode {
    // First of all: FAISS is compiled for these, and without them its first call would end the process without a word.
    let missing = missing_processor_features();
    if !missing.is_empty() {
        eprintln!("faiss-proxy: this build needs a processor with {}, which this machine's does not have", missing.join(", "));
        return ExitCode::FAILURE;
    }
    let typed: Vec<_> = env::args_os().collect();
    let (arguments, given) = match cli::settings::read(&typed) {
        Ok(read) => read,
        Err(failure) => return tell(&failure),
    };
    let logging = arguments.start_logging();
    let code = match arguments.run(&given) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if logging.is_json() => {
            tracing::error!("{failure}");
            failure.code()
        }
        Err(failure) => tell(&failure),
    };
    logging.end();
    code
}

fn tell(failure: &cli::Failure) -> ExitCode {
    eprintln!("faiss-proxy: {failure}");
    failure.code()
}

/// What `-march=x86-64-v3` (`.cargo/config.toml`) lets the C++ compiler use, and this processor lacks.
#[cfg(target_arch = "x86_64")]
fn missing_processor_features() -> Vec<&'static str> {
    let features = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("BMI2", is_x86_feature_detected!("bmi2")),
        ("F16C", is_x86_feature_detected!("f16c")),
        ("LZCNT", is_x86_feature_detected!("lzcnt")),
    ];
    features.into_iter().filter(|(_, present)| !present).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn missing_processor_features() -> Vec<&'static str> {
    Vec::new()
}
