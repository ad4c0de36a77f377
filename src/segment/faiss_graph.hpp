// The search of FAISS's HNSW graphs whose vectors are stored whole. It finds what `faiss::HNSW::search` (1.12) with its bounded queue finds, in the
// same order: the test `a_graph_is_searched_as_faiss_searches_it` compares the two. (But where `ef` is less than `k`, FAISS stops early; here it is `k` then.)
// It takes two thirds of the time (`docs/performance.md`):
//
// - A row that will be compared is fetched ahead, as hnswlib does it: most of the time is spent waiting for memory.
// - The best `ef` rows so far are kept in order, so that the next to look at is at hand; FAISS looks for the least of an unordered heap.
// - Which rows were seen is remembered from search to search by a mark that changes; FAISS clears a byte for each row of the index, every time.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include <faiss/IndexFlat.h>
#include <faiss/IndexHNSW.h>
#include <faiss/utils/distances.h>

namespace graph {

// Smaller is nearer: the squared distance, or the negated product.
struct Candidate {
    float key;
    uint32_t row;
};

constexpr size_t line_bytes = 64;

inline void fetch(const void* first, size_t bytes) {
    for (size_t at = 0; at < bytes; at += line_bytes) {
        __builtin_prefetch(static_cast<const char*>(first) + at);
    }
}

// What a search needs and the next one can use again. There are as many as there were searches at one time; each has a byte for each row of the largest
// graph that it was used for.
struct Memory {
    // Rows that have the mark were seen.
    std::vector<uint8_t> seen;
    uint8_t mark = 0;
    // The nearest rows so far, nearest first, and which of them were looked at: as many as `ef` at most, and a place for one more.
    std::vector<Candidate> nearest;
    std::vector<uint8_t> is_done;
    // Rows that are to be compared.
    std::vector<uint32_t> rows;

    void begin(size_t count, size_t ef) {
        if (seen.size() < count) {
            seen.resize(count);
        }
        if (++mark == 0) {
            std::fill(seen.begin(), seen.end(), 0);
            mark = 1;
        }
        nearest.resize(ef + 1);
        is_done.resize(ef + 1);
    }
};

// Takes a `Memory` that nobody uses, for as long as it lives.
class Lent {
    static std::mutex& lock() {
        static std::mutex mutex;
        return mutex;
    }

    static std::vector<std::unique_ptr<Memory>>& free() {
        static std::vector<std::unique_ptr<Memory>> all;
        return all;
    }

    std::unique_ptr<Memory> memory;

public:
    Lent() {
        {
            std::lock_guard<std::mutex> guard(lock());
            if (!free().empty()) {
                memory = std::move(free().back());
                free().pop_back();
            }
        }
        if (!memory) {
            memory = std::make_unique<Memory>();
        }
    }

    ~Lent() {
        try {
            std::lock_guard<std::mutex> guard(lock());
            free().push_back(std::move(memory));
        } catch (...) {
            // The next search makes another.
        }
    }

    Memory& operator*() {
        return *memory;
    }
};

// The first `count` of some candidates that are in order, with room for `max`.
struct Ordered {
    Candidate* all;
    size_t count;
    size_t max;

    bool takes(float key) const {
        return count < max || key < all[max - 1].key;
    }

    // Where it is, behind those that are as near. The last goes where there is no room.
    size_t put(Candidate candidate) {
        auto is_nearer = [](float key, const Candidate& other) { return key < other.key; };
        size_t at = size_t(std::upper_bound(all, all + count, candidate.key, is_nearer) - all);
        size_t kept = std::min(count, max - 1);
        std::memmove(all + at + 1, all + at, (kept - at) * sizeof(Candidate));
        all[at] = candidate;
        count = kept + 1;
        return at;
    }
};

template <bool is_product>
class Search {
    const faiss::HNSW& graph;
    const float* const rows;
    const size_t dimension;
    const float* const query;
    Memory& memory;

    const float* row(uint32_t number) const {
        return rows + size_t(number) * dimension;
    }

    static float key(float distance) {
        float key = is_product ? -distance : distance;
        // What is no number is nearer than nothing.
        return key == key ? key : std::numeric_limits<float>::infinity();
    }

    float measure(uint32_t number) const {
        const float* y = row(number);
        return key(is_product ? faiss::fvec_inner_product(query, y, dimension) : faiss::fvec_L2sqr(query, y, dimension));
    }

    // Calls `each(row, key)` for the rows of `memory.rows`, four by four as FAISS does, which rounds in another way than one by one.
    template <class Each>
    void measure_all(Each each) {
        const std::vector<uint32_t>& all = memory.rows;
        size_t at = 0;
        for (; at + 4 <= all.size(); at += 4) {
            const float *a = row(all[at]), *b = row(all[at + 1]), *c = row(all[at + 2]), *d = row(all[at + 3]);
            float distances[4];
            if (is_product) {
                faiss::fvec_inner_product_batch_4(
                        query, a, b, c, d, dimension, distances[0], distances[1], distances[2], distances[3]);
            } else {
                faiss::fvec_L2sqr_batch_4(query, a, b, c, d, dimension, distances[0], distances[1], distances[2], distances[3]);
            }
            for (size_t i = 0; i < 4; i++) {
                each(all[at + i], key(distances[i]));
            }
        }
        for (; at < all.size(); at++) {
            each(all[at], measure(all[at]));
        }
    }

    // Down to the level above the lowest, always to the nearest neighbour.
    Candidate descend() {
        Candidate nearest{measure(uint32_t(graph.entry_point)), uint32_t(graph.entry_point)};
        for (int level = graph.max_level; level >= 1; level--) {
            for (;;) {
                uint32_t before = nearest.row;
                size_t begin, end;
                graph.neighbor_range(before, level, &begin, &end);
                memory.rows.clear();
                for (size_t at = begin; at < end && graph.neighbors[at] >= 0; at++) {
                    memory.rows.push_back(uint32_t(graph.neighbors[at]));
                    fetch(row(memory.rows.back()), dimension * sizeof(float));
                }
                measure_all([&](uint32_t row, float key) {
                    if (key < nearest.key) {
                        nearest = {key, row};
                    }
                });
                if (nearest.row == before) {
                    break;
                }
            }
        }
        return nearest;
    }

public:
    Search(const faiss::IndexHNSW& index, const faiss::IndexFlat& storage, const float* query, Memory& memory)
            : graph(index.hnsw), rows(storage.get_xb()), dimension(size_t(index.d)), query(query), memory(memory) {}

    // Offers the rows that it comes by to `found(row, key)`, and goes on as long as one of the nearest `ef` was not looked at.
    template <class Found>
    void run(size_t ef, Found found) {
        memory.begin(size_t(graph.levels.size()), ef);
        uint8_t *const seen = memory.seen.data(), *const is_done = memory.is_done.data();
        const uint8_t mark = memory.mark;
        const faiss::HNSW::storage_idx_t* const links = graph.neighbors.data();
        const size_t links_max = size_t(graph.nb_neighbors(0));
        Ordered nearest{memory.nearest.data(), 0, ef};
        Candidate first = descend();
        seen[first.row] = mark;
        found(first.row, first.key);
        nearest.put(first);
        is_done[0] = 0;
        for (size_t at = 0; at < nearest.count;) {
            if (is_done[at]) {
                at++;
                continue;
            }
            is_done[at] = 1;
            const auto* own = links + graph.offsets[nearest.all[at].row];
            const auto* end = std::find_if(own, own + links_max, [](auto link) { return link < 0; });
            std::for_each(own, end, [&](auto link) { __builtin_prefetch(seen + link); });
            memory.rows.clear();
            std::for_each(own, end, [&](auto link) {
                if (seen[link] != mark) {
                    seen[link] = mark;
                    memory.rows.push_back(uint32_t(link));
                    fetch(row(uint32_t(link)), dimension * sizeof(float));
                }
            });
            size_t next = at + 1;
            measure_all([&](uint32_t row, float key) {
                found(row, key);
                if (nearest.takes(key)) {
                    size_t before = nearest.count;
                    size_t place = nearest.put({key, row});
                    std::memmove(is_done + place + 1, is_done + place, std::min(before, ef - 1) - place);
                    is_done[place] = 0;
                    next = std::min(next, place);
                }
            });
            at = next;
        }
    }
};

// The nearest `k` rows that `is_shown` shows, nearest first; -1 behind the last. Distances as FAISS has them.
template <bool is_product, class IsShown>
void search(
        const faiss::IndexHNSW& index,
        const faiss::IndexFlat& storage,
        const float* query,
        size_t k,
        size_t ef,
        IsShown is_shown,
        float* distances,
        int64_t* labels) {
    if (k == 0 || k >= size_t(std::numeric_limits<int32_t>::max())) {
        return;
    }
    Lent memory;
    std::vector<Candidate> best(k + 1);
    Ordered results{best.data(), 0, k};
    if (index.hnsw.entry_point >= 0) {
        Search<is_product> search(index, storage, query, *memory);
        search.run(std::max(ef, k), [&](uint32_t row, float key) {
            if (results.takes(key) && is_shown(row)) {
                results.put({key, row});
            }
        });
    }
    for (size_t at = 0; at < k; at++) {
        bool is_there = at < results.count;
        labels[at] = is_there ? int64_t(best[at].row) : -1;
        distances[at] = is_there ? (is_product ? -best[at].key : best[at].key) : 0;
    }
}

} // namespace graph
