// Inner products of a few queries with many rows: the rows are streamed past the queries, which stay in the processor's first cache, and each row's sums
// in its registers. For the few searches that wait at one time it is faster than a general matrix product, which copies the rows first
// (`docs/performance.md`).

#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX2__) && defined(__FMA__)
#define FAISS_PROXY_STREAMS 1

#include <algorithm>

#include <immintrin.h>

namespace products {

// Floats of queries that stay in the first cache, beside a row: 16 KiB.
constexpr size_t queries_floats_max = 1 << 12;

constexpr size_t lanes = 8;

// Sums that fit in the registers.
constexpr size_t at_once = 8;

// Longer rows the processor fetches ahead well enough by itself.
constexpr size_t fetched_dimension_max = 256;
constexpr size_t rows_ahead = 12;

// The sum of the lanes of each of four.
inline __m128 sums(const __m256* four) {
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(four[0], four[1]), _mm256_hadd_ps(four[2], four[3]));
    return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}

// The products of a row with `Queries` queries, at `out`, `out + stride` and so on; and with itself, where that is wanted.
template <size_t Queries, bool with_norm>
void of_row(const float* row, const float* queries, size_t dimension, bool fetches, float* out, size_t stride, float* norm) {
    constexpr size_t places = (Queries + with_norm + 3) / 4 * 4;
    __m256 products[places];
    for (__m256& product : products) {
        product = _mm256_setzero_ps();
    }
    size_t at = 0;
    auto add = [&](auto load) {
        __m256 part = load(row + at);
        for (size_t j = 0; j < Queries; j++) {
            products[j] = _mm256_fmadd_ps(part, load(queries + j * dimension + at), products[j]);
        }
        if (with_norm) {
            products[Queries] = _mm256_fmadd_ps(part, part, products[Queries]);
        }
        at += lanes;
    };
    auto whole = [](const float* from) { return _mm256_loadu_ps(from); };
    if (fetches) {
        const float* ahead = row + rows_ahead * dimension;
        while (at + 2 * lanes <= dimension) {
            __builtin_prefetch(ahead + at);
            add(whole);
            add(whole);
        }
    }
    while (at + lanes <= dimension) {
        add(whole);
    }
    if (at < dimension) {
        alignas(32) static const int first[2 * lanes] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
        const auto* mask = reinterpret_cast<const __m256i*>(first + lanes - (dimension - at));
        __m256i rest = _mm256_loadu_si256(mask);
        add([&](const float* from) { return _mm256_maskload_ps(from, rest); });
    }
    alignas(16) float results[places];
    for (size_t j = 0; j < places; j += 4) {
        _mm_store_ps(results + j, sums(products + j));
    }
    for (size_t j = 0; j < Queries; j++) {
        out[j * stride] = results[j];
    }
    if (with_norm) {
        *norm = results[Queries];
    }
}

template <size_t Queries>
void of_some(const float* queries, const float* rows, size_t count, size_t dimension, bool fetches, float* out, float* norms) {
    for (size_t i = 0; i < count; i++) {
        const float* row = rows + i * dimension;
        norms ? of_row<Queries, true>(row, queries, dimension, fetches, out + i, count, norms + i)
              : of_row<Queries, false>(row, queries, dimension, fetches, out + i, count, nullptr);
    }
}

// The products of the first query first; and the rows' squared norms, where `norms` is not null.
inline void all(
        const float* queries,
        size_t query_count,
        const float* rows,
        size_t count,
        size_t dimension,
        float* out,
        float* norms) {
    static constexpr decltype(&of_some<1>) of[at_once] = {
            of_some<1>, of_some<2>, of_some<3>, of_some<4>, of_some<5>, of_some<6>, of_some<7>, of_some<8>};
    for (size_t j = 0; j < query_count; j += at_once) {
        size_t some = std::min(at_once, query_count - j);
        // The second time, the rows are near, and their norms known.
        bool is_first = j == 0;
        bool fetches = is_first && dimension <= fetched_dimension_max;
        of[some - 1](queries + j * dimension, rows, count, dimension, fetches, out + j * count, is_first ? norms : nullptr);
    }
}

// As `faiss_proxy_below`, for the numbers before the last ones; how many of them it looked at is `done`.
inline size_t below(
        const float* products, const float* factors, const float* terms, size_t count, float bound, uint32_t* out, size_t& done) {
    size_t found = 0;
    __m256 most = _mm256_set1_ps(bound);
    for (done = 0; done + lanes <= count; done += lanes) {
        __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(products + done), _mm256_loadu_ps(factors + done));
        __m256 keys = _mm256_add_ps(scaled, _mm256_loadu_ps(terms + done));
        // What is no number is not below.
        unsigned is_below = unsigned(_mm256_movemask_ps(_mm256_cmp_ps(keys, most, _CMP_LE_OQ)));
        for (; is_below != 0; is_below &= is_below - 1) {
            out[found++] = uint32_t(done) + uint32_t(__builtin_ctz(is_below));
        }
    }
    return found;
}

} // namespace products

#endif
