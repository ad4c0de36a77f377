// What is needed of FAISS and is not in its C API. Nothing here throws across the border.

#include <cstddef>

#include <faiss/utils/distances.h>

// Squared L2 distances (`inner_product` 0) or inner products (1) between `query` and `count` vectors, one after the other at `rows`,
// all of `dimension` floats; `out` takes `count` floats. FAISS's own kernels, four rows at a time as its graph search calls them:
// they neither allocate nor throw.
extern "C" void faiss_proxy_distances(
        int inner_product,
        const float* query,
        const float* rows,
        size_t dimension,
        size_t count,
        float* out) noexcept {
    size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const float* y = rows + i * dimension;
        if (inner_product) {
            faiss::fvec_inner_product_batch_4(
                    query, y, y + dimension, y + 2 * dimension, y + 3 * dimension, dimension,
                    out[i], out[i + 1], out[i + 2], out[i + 3]);
        } else {
            faiss::fvec_L2sqr_batch_4(
                    query, y, y + dimension, y + 2 * dimension, y + 3 * dimension, dimension,
                    out[i], out[i + 1], out[i + 2], out[i + 3]);
        }
    }
    for (; i < count; i++) {
        const float* y = rows + i * dimension;
        out[i] = inner_product ? faiss::fvec_inner_product(query, y, dimension)
                               : faiss::fvec_L2sqr(query, y, dimension);
    }
}
