// What is needed of FAISS and is not in its C API. Nothing here throws across the border: a function that can fail returns 0 where it did
// not, and writes what FAISS said to the caller's buffer where it did.

#include <algorithm>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <typeinfo>
#include <vector>

#include <malloc.h>
#include <omp.h>
#include <sys/mman.h>

#include <faiss/IndexFlat.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIDMap.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFFlat.h>
#include <faiss/IndexIVFPQ.h>
#include <faiss/IndexNNDescent.h>
#include <faiss/IndexNSG.h>
#include <faiss/IndexPQ.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/impl/AuxIndexStructures.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/io.h>
#include <faiss/impl/zerocopy_io.h>
#include <faiss/index_io.h>
#include <faiss/utils/distances.h>

#include "faiss_graph.hpp"
#include "faiss_products.hpp"

// BLAS, as FAISS's own utils/distances.cpp declares it.
extern "C" int sgemm_(
        const char* transa,
        const char* transb,
        int* m,
        int* n,
        int* k,
        const float* alpha,
        const float* a,
        int* lda,
        const float* b,
        int* ldb,
        float* beta,
        float* c,
        int* ldc);

// As in FAISS 1.12's impl/NSG.cpp, whose header only declares it; `faiss-sys` is pinned to that version.
namespace faiss::nsg {

struct Node {
    int32_t id;
    float distance;

    Node() = default;
    Node(int id, float distance) : id(id), distance(distance) {}

    inline bool operator<(const Node& other) const {
        return distance < other.distance;
    }

    inline bool operator<(int other) const {
        return id < other;
    }
};

} // namespace faiss::nsg

namespace {

template <class Body>
int guarded(char* error, size_t error_bytes, Body body) noexcept {
    const char* what = "an exception that is no std::exception";
    try {
        body();
        return 0;
    } catch (const std::exception& e) {
        what = e.what();
        std::strncpy(error, what, error_bytes - 1);
    } catch (...) {
        std::strncpy(error, what, error_bytes - 1);
    }
    error[error_bytes - 1] = 0;
    return 1;
}

// What is behind the transforms.
faiss::Index* core(faiss::Index* index) {
    auto* transformed = dynamic_cast<faiss::IndexPreTransform*>(index);
    return transformed ? transformed->index : index;
}

// Rows that are hidden are no members. A page has 65,536 rows, one bit each; a page without a hidden row is null or behind the last one.
struct NotHidden final : faiss::IDSelector {
    const uint64_t* const* pages;
    size_t count;

    NotHidden(const uint64_t* const* pages, size_t count) : pages(pages), count(count) {}

    bool is_member(faiss::idx_t id) const override {
        size_t page = size_t(id) >> 16;
        if (page >= count || !pages[page]) {
            return true;
        }
        return !(pages[page][(id & 0xffff) >> 6] >> (id & 63) & 1);
    }
};

// Flat storage over rows that are already where they stay: adding only counts.
struct RowsElsewhere final : faiss::IndexFlat {
    size_t rows_max;

    RowsElsewhere(faiss::idx_t d, faiss::MetricType metric, const float* rows, size_t count)
            : IndexFlat(d, metric), rows_max(count) {
        codes = decltype(codes)::create_view(const_cast<float*>(rows), count * code_size, nullptr);
    }

    void add(faiss::idx_t n, const float*) override {
        if (n < 0 || size_t(ntotal + n) > rows_max) {
            throw std::length_error("more rows than there are");
        }
        ntotal += n;
    }
};

// Copies all that it reads.
struct MemoryReader final : faiss::IOReader {
    const uint8_t* data;
    size_t left;

    MemoryReader(const uint8_t* data, size_t bytes) : data(data), left(bytes) {}

    size_t operator()(void* to, size_t size, size_t items) override {
        if (size == 0 || items == 0) {
            return 0;
        }
        if (items > left / size) {
            return 0;
        }
        std::memcpy(to, data, size * items);
        data += size * items;
        left -= size * items;
        return items;
    }
};

struct Writer final : faiss::IOWriter {
    void* context;
    int (*put)(void*, const uint8_t*, size_t);

    Writer(void* context, int (*put)(void*, const uint8_t*, size_t)) : context(context), put(put) {}

    size_t operator()(const void* from, size_t size, size_t items) override {
        if (size == 0 || items == 0) {
            return items;
        }
        return put(context, static_cast<const uint8_t*>(from), size * items) == 0 ? items : 0;
    }
};

// Asks for large pages for memory that nothing was written to yet: a graph's search jumps all over it, and each page is looked up.
void prefer_large_pages(void* first, size_t bytes) {
#ifdef MADV_HUGEPAGE
    constexpr uintptr_t page = 2 << 20;
    uintptr_t begin = (reinterpret_cast<uintptr_t>(first) + page - 1) / page * page;
    uintptr_t end = (reinterpret_cast<uintptr_t>(first) + bytes) / page * page;
    if (begin < end) {
        // Advice only.
        (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
    }
#endif
}

// A copy in memory of its own, where FAISS was about to read from the middle of a file.
template <class T>
void own(faiss::MaybeOwnedVector<T>& vector) {
    if (!vector.is_owned) {
        std::vector<T> copy;
        copy.reserve(vector.size());
        prefer_large_pages(copy.data(), vector.byte_size());
        copy.resize(vector.size());
        std::memcpy(copy.data(), vector.data(), vector.byte_size());
        vector = faiss::MaybeOwnedVector<T>(std::move(copy));
    }
}

// FAISS asks one object of the process whether to stop; this one asks on whose behalf: searches are never stopped.
thread_local const uint8_t* stop_flag = nullptr;

struct StopFlag final : faiss::InterruptCallback {
    bool want_interrupt() override {
        return stop_flag && __atomic_load_n(stop_flag, __ATOMIC_RELAXED);
    }
};

// FAISS reads flat indexes as another class than its factory makes.
const std::type_info& type_of(const faiss::Index& index) {
    return dynamic_cast<const faiss::IndexFlat*>(&index) ? typeid(faiss::IndexFlat) : typeid(index);
}

// The `index.GK` nearest rows of each row, without itself; -1 where there are no more.
std::vector<faiss::idx_t> neighbours(faiss::IndexNSG& index, faiss::idx_t n, const float* x) {
    size_t k = size_t(index.GK);
    std::vector<faiss::idx_t> result(size_t(n) * k, -1);
    if (index.build_type == 1) {
        faiss::IndexNNDescent descent(index.storage, index.GK);
        descent.own_fields = false;
        descent.nndescent.S = index.nndescent_S;
        descent.nndescent.R = index.nndescent_R;
        descent.nndescent.L = std::max(index.nndescent_L, index.GK + 50);
        descent.nndescent.iter = index.nndescent_iter;
        // Adds to the storage too.
        descent.add(n, x);
        std::copy_n(descent.nndescent.final_graph.begin(), result.size(), result.begin());
        return result;
    }
    index.storage->add(n, x);
    std::vector<faiss::idx_t> nearest(size_t(n) * (k + 1));
    index.storage->assign(n, x, nearest.data(), faiss::idx_t(k) + 1);
    for (size_t row = 0; row < size_t(n); row++) {
        size_t count = 0;
        for (size_t at = 0; at <= k && count < k; at++) {
            faiss::idx_t id = nearest[row * (k + 1) + at];
            if (id >= 0 && id != faiss::idx_t(row)) {
                result[row * k + count++] = id;
            }
        }
    }
    return result;
}

// What `IndexNSG::add` does, but for its end: where FAISS ties rows to the graph that cannot be reached, it draws a row with room for another
// link at random until it finds one, and so for ever where every row that can be reached is full, as equal rows are.
void add_nsg(faiss::IndexNSG& index, faiss::idx_t n, const float* x) {
    if (index.is_built || index.ntotal != 0) {
        throw std::logic_error("NSG takes all rows at once");
    }
    auto& nsg = index.nsg;
    int count = int(n);
    // A smaller graph never fills the pool of its own building.
    if (count <= nsg.L || count <= index.GK) {
        throw std::invalid_argument("too few rows for NSG");
    }
    std::vector<faiss::idx_t> nearest = neighbours(index, n, x);
    index.ntotal = n;
    faiss::nsg::Graph<faiss::idx_t> knn(nearest.data(), count, index.GK);
    nsg.ntotal = count;
    nsg.init_graph(index.storage, knn);
    std::vector<int> degrees(size_t(count), 0);
    {
        faiss::nsg::Graph<faiss::nsg::Node> linked(count, nsg.R);
        nsg.link(index.storage, knn, linked, false);
        nsg.final_graph = std::make_shared<faiss::nsg::Graph<int32_t>>(count, nsg.R);
        std::fill_n(nsg.final_graph->data, size_t(count) * size_t(nsg.R), -1);
        for (int row = 0; row < count; row++) {
            for (int at = 0; at < nsg.R; at++) {
                int id = linked.at(row, at).id;
                if (id >= 0) {
                    nsg.final_graph->at(row, degrees[row]++) = id;
                }
            }
        }
    }
    faiss::VisitedTable reached(count);
    int reached_count = nsg.dfs(reached, nsg.enterpoint, 0);
    int unlinked = 0;
    int with_room = 0;
    while (reached_count < count) {
        while (reached.get(unlinked)) {
            unlinked++;
        }
        auto can_take = [&](faiss::idx_t row) { return row >= 0 && reached.get(int(row)) && degrees[row] < nsg.R; };
        // One of its own neighbours, else any row: each is passed over once, since a row that is full stays so.
        const faiss::idx_t* own = nearest.data() + size_t(unlinked) * size_t(index.GK);
        const faiss::idx_t* near = std::find_if(own, own + index.GK, can_take);
        faiss::idx_t parent = near == own + index.GK ? -1 : *near;
        if (parent < 0) {
            for (int looked = 0; looked < count && parent < 0; looked++) {
                if (can_take(with_room)) {
                    parent = with_room;
                } else {
                    with_room = (with_room + 1) % count;
                }
            }
        }
        if (parent < 0) {
            throw std::runtime_error("too many rows are alike: the graph falls apart");
        }
        nsg.final_graph->at(int(parent), degrees[parent]++) = unlinked;
        reached_count = nsg.dfs(reached, unlinked, reached_count);
    }
    nsg.check_graph();
    nsg.is_built = true;
    index.is_built = true;
}

void use_threads(int threads) noexcept {
    static std::once_flag once;
    std::call_once(once, [] {
        // Not every BLAS has it.
        if (void* symbol = dlsym(RTLD_DEFAULT, "openblas_set_num_threads")) {
            reinterpret_cast<void (*)(int)>(symbol)(1);
        }
    });
    if (omp_get_max_threads() != threads) {
        omp_set_num_threads(threads);
    }
}

// Whether the index is a graph over whole vectors, which was searched then.
bool search_graph(
        const faiss::Index* index,
        uint32_t ef,
        const float* queries,
        size_t query_count,
        const uint64_t* const* pages,
        size_t page_count,
        size_t k,
        float* distances,
        int64_t* labels) {
    auto* transformed = dynamic_cast<const faiss::IndexPreTransform*>(index);
    auto* hnsw = dynamic_cast<const faiss::IndexHNSW*>(transformed ? transformed->index : index);
    auto* storage = hnsw ? dynamic_cast<const faiss::IndexFlat*>(hnsw->storage) : nullptr;
    if (!storage || !hnsw->hnsw.search_bounded_queue || !hnsw->hnsw.check_relative_distance) {
        return false;
    }
    std::unique_ptr<const float[]> made;
    if (transformed) {
        const float* x = transformed->apply_chain(faiss::idx_t(query_count), queries);
        if (x != queries) {
            made.reset(x);
        }
        queries = x;
    }
    NotHidden not_hidden(pages, page_count);
    bool is_product = faiss::is_similarity_metric(hnsw->metric_type);
    for (size_t query = 0; query < query_count; query++) {
        const float* x = queries + query * size_t(hnsw->d);
        float* d = distances + query * k;
        int64_t* l = labels + query * k;
        auto search = [&](auto is_shown) {
            is_product ? graph::search<true>(*hnsw, *storage, x, k, ef, is_shown, d, l)
                       : graph::search<false>(*hnsw, *storage, x, k, ef, is_shown, d, l);
        };
        if (pages) {
            search([&](uint32_t row) { return not_hidden.is_member(row); });
        } else {
            search([](uint32_t) { return true; });
        }
    }
    return true;
}

void settle(faiss::IndexIVF* ivf, uint32_t nprobe) {
    ivf->nprobe = nprobe;
    if (auto* hnsw = dynamic_cast<faiss::IndexHNSW*>(ivf->quantizer)) {
        hnsw->hnsw.efSearch = int(nprobe) * 2 > 64 ? int(nprobe) * 2 : 64;
    }
}

} // namespace

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

// The same for the rows at some positions, which are fetched ahead: most of the time would be spent waiting for memory.
extern "C" void faiss_proxy_distances_of(
        int inner_product,
        const float* query,
        const float* rows,
        size_t dimension,
        const size_t* positions,
        size_t count,
        float* out) noexcept {
    constexpr size_t ahead = 4;
    for (size_t i = 0; i < count + ahead; i++) {
        if (i < count) {
            graph::fetch(rows + positions[i] * dimension, dimension * sizeof(float));
        }
        if (i >= ahead) {
            faiss_proxy_distances(inner_product, query, rows + positions[i - ahead] * dimension, dimension, 1, out + i - ahead);
        }
    }
}

// Arenas of malloc at most, for the whole process and for Rust too, from now on. Other libraries than glibc have none.
extern "C" void faiss_proxy_limit_arenas([[maybe_unused]] int arenas) noexcept {
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, arenas);
#endif
}

// Threads of OpenMP that the calling thread uses from now on; OpenBLAS gets one, for the whole process.
extern "C" void faiss_proxy_set_threads(int threads) noexcept {
    use_threads(threads);
}

// The inner products of `query_count` queries with `count` rows, all of `dimension` floats, one after the other, those of the first query first;
// and, where `squared_norms` is not null, those of the rows.
extern "C" void faiss_proxy_products(
        const float* queries,
        size_t query_count,
        const float* rows,
        size_t count,
        size_t dimension,
        float* products,
        float* squared_norms) noexcept {
#ifdef FAISS_PROXY_STREAMS
    if (query_count > 0 && query_count <= products::queries_floats_max / dimension) {
        return products::all(queries, query_count, rows, count, dimension, products, squared_norms);
    }
#endif
    use_threads(1);
    if (squared_norms) {
        faiss::fvec_norms_L2sqr(squared_norms, rows, dimension, count);
    }
    if (query_count > INT_MAX || count > INT_MAX || dimension > INT_MAX) {
        std::abort();
    }
    if (query_count == 0 || count == 0) {
        return;
    }
    int m = int(count), n = int(query_count), k = int(dimension);
    float one = 1, zero = 0;
    sgemm_("Transposed", "Not transposed", &m, &n, &k, &one, rows, &k, queries, &k, &zero, products, &m);
}

// Writes the places at which `products[i] * factors[i] + terms[i]` is at most `bound`, rising, and returns how many they are. All have `count` numbers, and
// `out` has room for as many.
extern "C" size_t faiss_proxy_below(
        const float* products, const float* factors, const float* terms, size_t count, float bound, uint32_t* out) noexcept {
    size_t found = 0, at = 0;
#ifdef FAISS_PROXY_STREAMS
    found = products::below(products, factors, terms, count, bound, out, at);
#endif
    for (; at < count; at++) {
        if (products[at] * factors[at] + terms[at] <= bound) {
            out[found++] = uint32_t(at);
        }
    }
    return found;
}

// Before the first index is made: every search looks at what this sets, without a lock.
extern "C" void faiss_proxy_initialise() noexcept {
    static std::once_flag once;
    std::call_once(once, [] { faiss::InterruptCallback::instance.reset(new StopFlag); });
}

// What FAISS does on the calling thread from now on ends with an exception soon after the byte at `flag` is not 0. Null: it is not asked.
extern "C" void faiss_proxy_watch(const uint8_t* flag) noexcept {
    stop_flag = flag;
}

// Before training and adding. `rows`, where it is not null, are the `count` rows that will be added, in order, where they stay: a graph over
// flat storage keeps no copy of them.
extern "C" int faiss_proxy_prepare(
        void* index,
        int ef_construction,
        int nn_descent,
        const float* rows,
        size_t count,
        char* error,
        size_t error_bytes) noexcept {
    return guarded(error, error_bytes, [&] {
        faiss::Index* inner = core(static_cast<faiss::Index*>(index));
        faiss::Index** storage = nullptr;
        if (auto* hnsw = dynamic_cast<faiss::IndexHNSW*>(inner)) {
            hnsw->hnsw.efConstruction = ef_construction;
            storage = &hnsw->storage;
        } else if (auto* nsg = dynamic_cast<faiss::IndexNSG*>(inner)) {
            nsg->build_type = nn_descent ? 1 : 0;
            storage = &nsg->storage;
        }
        // Polysemous codes are for a search by Hamming distance, which is not used, and take most of the training's time.
        auto* pq = dynamic_cast<faiss::IndexPQ*>(storage ? *storage : inner);
        if (pq) {
            pq->do_polysemous_training = false;
        }
        // FAISS says on stderr that it wants more rows; that is known, and said elsewhere.
        if (auto* ivf = dynamic_cast<faiss::IndexIVF*>(inner)) {
            ivf->cp.min_points_per_centroid = 1;
        }
        if (auto* ivfpq = dynamic_cast<faiss::IndexIVFPQ*>(inner)) {
            ivfpq->do_polysemous_training = false;
            ivfpq->pq.cp.min_points_per_centroid = 1;
        }
        if (pq) {
            pq->pq.cp.min_points_per_centroid = 1;
        }
        if (rows) {
            if (inner != index || !storage || !dynamic_cast<faiss::IndexFlat*>(*storage)) {
                throw std::logic_error("only a graph over flat storage can leave its rows elsewhere");
            }
            std::unique_ptr<faiss::Index> elsewhere(new RowsElsewhere((*storage)->d, (*storage)->metric_type, rows, count));
            delete *storage;
            *storage = elsewhere.release();
        }
    });
}

// Adds all rows to an NSG index, behind its transforms.
extern "C" int faiss_proxy_add_nsg(void* index, size_t count, const float* rows, char* error, size_t error_bytes) noexcept {
    return guarded(error, error_bytes, [&] {
        auto* outer = static_cast<faiss::Index*>(index);
        auto* transformed = dynamic_cast<faiss::IndexPreTransform*>(outer);
        auto* nsg = dynamic_cast<faiss::IndexNSG*>(core(outer));
        if (!nsg || !outer->is_trained) {
            throw std::logic_error("no trained NSG index");
        }
        const float* seen = transformed ? transformed->apply_chain(faiss::idx_t(count), rows) : rows;
        std::unique_ptr<const float[]> owned(seen == rows ? nullptr : seen);
        add_nsg(*nsg, faiss::idx_t(count), seen);
        outer->ntotal = nsg->ntotal;
    });
}

// What a search takes where nothing says otherwise: in the file, for whoever reads it without us, and for NSG, which has no parameters.
extern "C" void faiss_proxy_set_defaults(void* index, uint32_t ef, uint32_t nprobe) noexcept {
    faiss::Index* inner = core(static_cast<faiss::Index*>(index));
    if (auto* hnsw = dynamic_cast<faiss::IndexHNSW*>(inner)) {
        hnsw->hnsw.efSearch = int(ef);
    } else if (auto* nsg = dynamic_cast<faiss::IndexNSG*>(inner)) {
        nsg->nsg.search_L = int(ef);
    } else if (auto* ivf = dynamic_cast<faiss::IndexIVF*>(inner)) {
        settle(ivf, nprobe);
    }
}

// The `k` nearest rows to each of some queries. `kind`: 0 no parameters and no selector, 1 a selector, 2 HNSW, 3 IVF, 4 IVF whose quantiser is a graph.
// Rows of `pages` are left out; null where there are none, which keeps FAISS's fast paths.
extern "C" int faiss_proxy_search(
        const void* index,
        int kind,
        uint32_t ef,
        uint32_t nprobe,
        const float* queries,
        size_t query_count,
        const uint64_t* const* pages,
        size_t page_count,
        size_t k,
        float* distances,
        int64_t* labels,
        char* error,
        size_t error_bytes) noexcept {
    return guarded(error, error_bytes, [&] {
        if (kind == 2 && search_graph(static_cast<const faiss::Index*>(index), ef, queries, query_count, pages, page_count, k, distances, labels)) {
            return;
        }
        use_threads(1);
        NotHidden not_hidden(pages, page_count);
        faiss::IDSelector* selector = pages ? &not_hidden : nullptr;
        faiss::SearchParameters plain;
        faiss::SearchParametersHNSW hnsw;
        faiss::SearchParametersIVF ivf;
        faiss::SearchParameters* params = nullptr;
        switch (kind) {
            case 1:
                params = selector ? &plain : nullptr;
                break;
            case 2:
                hnsw.efSearch = int(ef);
                params = &hnsw;
                break;
            case 4:
                hnsw.efSearch = int(ef);
                ivf.quantizer_params = &hnsw;
                [[fallthrough]];
            case 3:
                ivf.nprobe = nprobe;
                params = &ivf;
                break;
            default:
                break;
        }
        if (params) {
            params->sel = selector;
        }
        // A pre-transform hands on parameters that are not its own.
        static_cast<const faiss::Index*>(index)->search(faiss::idx_t(query_count), queries, faiss::idx_t(k), distances, labels, params);
    });
}

// Writes the index as FAISS's own file format. `put` returns 0 where it took all bytes.
extern "C" int faiss_proxy_write(
        const void* index,
        void* context,
        int (*put)(void*, const uint8_t*, size_t),
        char* error,
        size_t error_bytes) noexcept {
    return guarded(error, error_bytes, [&] {
        Writer writer(context, put);
        faiss::write_index(static_cast<const faiss::Index*>(index), &writer);
    });
}

// Reads an index from memory that may go afterwards; null on an error. `flat_graph`: a graph over flat storage, whose floats are not copied
// from `data` where `rows` (`count` of them) are the same and stay.
extern "C" void* faiss_proxy_read(
        const uint8_t* data,
        size_t bytes,
        int flat_graph,
        const float* rows,
        size_t count,
        char* error,
        size_t error_bytes) noexcept {
    void* result = nullptr;
    guarded(error, error_bytes, [&] {
        std::unique_ptr<faiss::Index> index;
        size_t left;
        if (flat_graph) {
            faiss::ZeroCopyIOReader reader(data, bytes);
            index.reset(faiss::read_index(&reader));
            left = reader.total_ - reader.rp_;
        } else {
            MemoryReader reader(data, bytes);
            index.reset(faiss::read_index(&reader));
            left = reader.left;
        }
        if (!index || left != 0) {
            throw std::runtime_error("the file goes on behind the index");
        }
        if (flat_graph) {
            faiss::Index* inner = core(index.get());
            faiss::Index* storage = nullptr;
            if (auto* hnsw = dynamic_cast<faiss::IndexHNSW*>(inner)) {
                // At any byte of the file: not where an int may be.
                own(hnsw->hnsw.neighbors);
                const auto& graph = hnsw->hnsw;
                size_t n = size_t(hnsw->ntotal);
                if (graph.levels.size() != n || graph.offsets.size() != n + 1 || graph.offsets.back() != graph.neighbors.size() ||
                    graph.entry_point < 0 || size_t(graph.entry_point) >= n) {
                    throw std::runtime_error("the graph is not one of its rows");
                }
                storage = hnsw->storage;
            } else if (auto* nsg = dynamic_cast<faiss::IndexNSG*>(inner)) {
                storage = nsg->storage;
            }
            auto* flat = dynamic_cast<faiss::IndexFlat*>(storage);
            if (!flat || flat->ntotal != inner->ntotal) {
                throw std::runtime_error("no graph over flat storage of its rows");
            }
            if (rows) {
                if (inner != index.get() || flat->codes.size() != count * flat->code_size) {
                    throw std::runtime_error("the storage is not that of the rows");
                }
                flat->codes = decltype(flat->codes)::create_view(const_cast<float*>(rows), count * flat->code_size, nullptr);
            } else {
                own(flat->codes);
            }
        }
        result = index.release();
    });
    return result;
}

// Whether two indexes are of the same classes, behind as many transforms.
extern "C" int faiss_proxy_same_type(const void* a, const void* b) noexcept {
    auto* left = static_cast<const faiss::Index*>(a);
    auto* right = static_cast<const faiss::Index*>(b);
    auto* left_chain = dynamic_cast<const faiss::IndexPreTransform*>(left);
    auto* right_chain = dynamic_cast<const faiss::IndexPreTransform*>(right);
    if (left_chain && right_chain) {
        return left_chain->chain.size() == right_chain->chain.size() && type_of(*left_chain->index) == type_of(*right_chain->index);
    }
    return type_of(*left) == type_of(*right);
}

namespace {

// The vectors of an index that somebody else wrote, and where the next one is. What is said of sizes in the file is compared before it is used: FAISS
// itself compares little.
struct Vectors {
    std::unique_ptr<faiss::Index> index;
    const std::vector<faiss::idx_t>* id_map = nullptr;
    const faiss::IndexFlat* flat = nullptr;
    const faiss::IndexIVFFlat* ivf = nullptr;
    size_t list = 0;
    // In the list, or in the flat storage.
    size_t at = 0;

    explicit Vectors(const char* path) : index(faiss::read_index(path)) {
        faiss::Index* inner = index.get();
        size_t count = size_t(index->ntotal);
        if (index->d <= 0 || index->ntotal < 0) {
            throw std::runtime_error("its sizes cannot be");
        }
        if (auto* mapped = dynamic_cast<faiss::IndexIDMap*>(inner)) {
            id_map = &mapped->id_map;
            inner = mapped->index;
        }
        if (auto* hnsw = dynamic_cast<faiss::IndexHNSW*>(inner)) {
            inner = hnsw->storage;
        }
        flat = dynamic_cast<faiss::IndexFlat*>(inner);
        if (!flat && inner && typeid(*inner) == typeid(faiss::IndexIVFFlat)) {
            ivf = static_cast<faiss::IndexIVFFlat*>(inner);
        }
        if (!flat && !ivf) {
            throw std::runtime_error("it keeps no whole vectors, or is of a type that is not read: Flat, HNSWFlat and IVFFlat are, also behind an IDMap");
        }
        size_t row_bytes = size_t(index->d) * sizeof(float);
        bool right = inner->d == index->d && (!id_map || id_map->size() == count);
        if (flat) {
            right = right && size_t(flat->ntotal) == count && flat->code_size == row_bytes && flat->codes.size() / row_bytes == count &&
                    flat->codes.size() % row_bytes == 0;
        } else {
            right = right && ivf->invlists && ivf->invlists->nlist == ivf->nlist && ivf->invlists->code_size == row_bytes;
            size_t found = 0;
            for (size_t i = 0; right && i < ivf->nlist; i++) {
                size_t size = ivf->invlists->list_size(i);
                right = size <= count - found;
                found += size;
            }
            right = right && found == count;
        }
        if (!right) {
            throw std::runtime_error("its sizes do not agree with each other");
        }
    }

    faiss::idx_t id_of(faiss::idx_t label) const {
        if (!id_map) {
            return label;
        }
        if (label < 0 || size_t(label) >= id_map->size()) {
            throw std::runtime_error("a list names a row that is not there");
        }
        return (*id_map)[size_t(label)];
    }

    // Gives at most `rows` more.
    size_t next(size_t rows, float* values, int64_t* ids) {
        size_t d = size_t(index->d), given = 0;
        for (; given < rows; given++) {
            const float* vector;
            if (flat) {
                if (at == size_t(flat->ntotal)) {
                    break;
                }
                vector = flat->get_xb() + at * d;
                ids[given] = id_of(faiss::idx_t(at));
            } else {
                while (list < ivf->nlist && at == ivf->invlists->list_size(list)) {
                    list++;
                    at = 0;
                }
                if (list == ivf->nlist) {
                    break;
                }
                vector = reinterpret_cast<const float*>(ivf->invlists->get_single_code(list, at));
                ids[given] = id_of(ivf->invlists->get_single_id(list, at));
            }
            std::memcpy(values + given * d, vector, d * sizeof(float));
            at++;
        }
        return given;
    }
};

} // namespace

// Opens a file of FAISS's for its vectors; null on an error. A damaged file can do anything to the process.
extern "C" void* faiss_proxy_vectors_open(
        const char* path,
        size_t* dimension,
        size_t* count,
        int* has_ids,
        char* error,
        size_t error_bytes) noexcept {
    Vectors* result = nullptr;
    guarded(error, error_bytes, [&] {
        result = new Vectors(path);
        *dimension = size_t(result->index->d);
        *count = size_t(result->index->ntotal);
        *has_ids = result->id_map || result->ivf;
    });
    return result;
}

// The next rows, at most so many: their vectors, and the numbers that FAISS knows them by.
extern "C" int faiss_proxy_vectors_next(
        void* vectors,
        size_t rows,
        float* values,
        int64_t* ids,
        size_t* given,
        char* error,
        size_t error_bytes) noexcept {
    return guarded(error, error_bytes, [&] { *given = static_cast<Vectors*>(vectors)->next(rows, values, ids); });
}

extern "C" void faiss_proxy_vectors_close(void* vectors) noexcept {
    delete static_cast<Vectors*>(vectors);
}
