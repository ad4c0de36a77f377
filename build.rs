//! Builds the C++ shim against the FAISS headers that `faiss-sys` installed.

fn main() {
    for file in ["faiss_shim.cpp", "faiss_graph.hpp", "faiss_products.hpp"] {
        println!("cargo:rerun-if-changed=src/segment/{file}");
    }
    // Set by cargo because faiss-sys has a `links` key: where its build script installed FAISS.
    let root = std::env::var("DEP_FAISS_C_ROOT").expect("faiss-sys says where it installed FAISS");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("src/segment/faiss_shim.cpp")
        // As a system's headers: their warnings are not ours.
        .flag(format!("-isystem{root}/include"))
        .opt_level(3)
        .flag("-fopenmp")
        .warnings(true)
        .compile("faiss_shim");
}
