// What is needed of FAISS and is not in its C API. Nothing here throws across the border.

#include <cstddef>

#include <faiss/utils/distances.h>

// Squared L2 distances (`inner_product` 0) or inner products (1) between `query` and `count` vectors, one after the other at `rows`,
// all of `dimension` floats; `out` takes `count` floats. FAISS's own kernels, a row at a time as its flat index calls them: they neither
// allocate nor throw. (Those that take four rows at once are slower here: 2.2 times, by `benches/search.rs`.)
extern "C" void faiss_proxy_distances(
        int inner_product,
        const float* query,
        const float* rows,
        size_t dimension,
        size_t count,
        float* out) noexcept {
    for (size_t i = 0; i < count; i++) {
        const float* y = rows + i * dimension;
        out[i] = inner_product ? faiss::fvec_inner_product(query, y, dimension)
                               : faiss::fvec_L2sqr(query, y, dimension);
    }
}
