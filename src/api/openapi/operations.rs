//! What is particular to each call, by method and path.

use super::answers::{number_header, response, text_header};
use super::call::{Call, Group};
use super::parameters::{
    AsOf, AtLeast, Atomic, Conditional, Durable, Erasing, Explaining, Following, Idempotent, InIndex, IndexListing, OfPoint,
    PointListing, Resuming,
};
use super::schemas::{Compacted, IndexChange};
use crate::api::backups::BackupBody;
use crate::api::changes::Page as ChangePage;
use crate::api::indices::{CreateBody, Done, IndexDocument, Page as IndexPage, Total};
use crate::api::search::{BatchBody, Found, FoundTogether, FoundWithin, RangeBody, SearchBody};
use crate::api::service::{Greeting, Health, Metrics, Ready};
use crate::api::vectors::{CountBody, Counted, Fetched, IdsBody, Listed, PointDocument};
use crate::api::writes::{AddBody, Added, DeleteBody, DeletedDocument, PatchBody, Patched};
use crate::backup::BackupReport;

/// `None`: there is no such call, or nobody has described it.
pub fn call(method: &str, path: &str) -> Option<Call> {
    if let Some(path) = path.strip_prefix("/v1/index/{index_id}") {
        let call = in_index(method, path)?.takes::<InIndex>();
        let is_read =
            method == "GET" || matches!(path, "/search" | "/search/batch" | "/range_search" | "/count" | "/vectors/fetch");
        return Some(if is_read { call.takes::<AtLeast>() } else { call });
    }
    Some(match (method, path) {
        ("GET", "/") => Call::new("root", Group::Service, "Is this the server?", "").answers::<Greeting>(200, "It is."),
        ("GET", "/docs") => Call::new("docs", Group::Service, "This document, to read and to try", "")
            .answers_other(200, page(response("The page."), "text/html; charset=utf-8")),
        ("GET", "/openapi.json") => Call::new("openapi", Group::Service, "This document", "")
            .answers_other(200, page(response("OpenAPI 3.1."), "application/json")),
        ("GET", "/v1/health") => {
            Call::new("health", Group::Service, "Does the process live?", "").answers::<Health>(200, "It does.")
        }
        ("GET", "/v1/health/ready") => Call::new(
            "ready",
            Group::Service,
            "Does it serve?",
            "How many indices serve, were not opened yet, and refuse. With a key: those of its tenant, and which refuse, and why.",
        )
        .more_with_a_key()
        .answers::<Ready>(200, "The start is over."),
        ("GET", "/v1/metrics") => {
            Call::new("metrics", Group::Service, "Figures of the machine and of the tenant", "").answers::<Metrics>(200, "They are these.")
        }
        ("GET", "/metrics") => Call::new(
            "prometheus",
            Group::Service,
            "Figures for Prometheus",
            "Of the process, its queues and the steps of its work, and of the tenant's own indices: `docs/metrics.md`.",
        )
        .answers_other(200, page(response("They are these."), "text/plain")),
        ("GET", "/v1/index") => Call::new("list_indices", Group::Indices, "List indices, oldest first", "")
            .takes::<IndexListing>()
            .answers::<IndexPage>(200, "A page.")
            .failing(&[507]),
        ("POST", "/v1/index") => Call::new(
            "create_index",
            Group::Indices,
            "Create an index",
            "`docs/index-types.md` has the types. What FAISS cannot build is refused here, and not at the first insert.",
        )
        .takes::<Idempotent>()
        .body::<CreateBody>()
        .answers::<IndexDocument>(201, "The index.")
        .failing(&[507]),
        _ => return None,
    })
}

/// The same, for calls of one index.
fn in_index(method: &str, path: &str) -> Option<Call> {
    Some(match (method, path) {
        ("GET", "") => Call::new("get_index", Group::Indices, "Describe an index", "").answers::<IndexDocument>(200, "The index."),
        ("PATCH", "") => Call::new("change_index", Group::Indices, "Change the name and the options", "")
            .body::<IndexChange>()
            .answers::<IndexDocument>(200, "The index as it is then.")
            .failing(&[409]),
        ("DELETE", "") => Call::new("delete_index", Group::Indices, "Delete an index with all of its points", "")
            .answers_other(204, response("It is gone.")),
        ("GET", "/ntotal") => {
            Call::new("count_all", Group::Indices, "Count all points", "").answers::<Total>(200, "So many there are.")
        }
        ("POST", "/checkpoint") => Call::new("checkpoint_index", Group::Indices, "Write a checkpoint now", "")
            .answers::<Done>(200, "It is written, or there was nothing new."),
        ("POST", "/compact") => Call::new(
            "compact_index",
            Group::Indices,
            "Rewrite segments without what was deleted",
            "With `erase=true` it answers when no file of the index has a byte of what was deleted; not while a backup is made.",
        )
        .takes::<Erasing>()
        .answers::<Compacted>(200, "It is done.")
        .failing(&[409]),
        ("POST", "/backup") => Call::new(
            "back_up_index",
            Group::Indices,
            "Back up what is new",
            "To where the operator wants backups, or a place below that: `docs/backup.md`.",
        )
        .optional_body::<BackupBody>()
        .answers::<BackupReport>(200, "It is there.")
        .failing(&[409]),
        ("POST", "/train") => Call::new("train_index", Group::Indices, "Build what waits for more rows now", "")
            .answers::<IndexDocument>(200, "It is built.")
            .failing(&[409]),
        ("POST", "/reset") => write(Call::new("reset_index", Group::Indices, "Delete all points, as one mutation", ""))
            .answers::<DeletedDocument>(200, "They are gone."),
        ("GET", "/changes") => Call::new(
            "read_changes",
            Group::Vectors,
            "Read what changed, from an LSN on",
            "Every mutation in order, whole, as far as it is durable. With `Accept: text/event-stream` a stream of server-sent events that goes on \
             with what comes: `docs/changes.md`.",
        )
        .takes::<Following>()
        .takes::<Resuming>()
        .answers_with::<ChangePage>(200, page(response("A page, or a stream."), "text/event-stream"))
        .failing(&[410]),
        ("GET" | "POST", "/search") => searching(method)
            .takes::<Explaining>()
            .vectors_body::<SearchBody>()
            .answers_vectors::<Found>(response("The nearest, best first."))
            .failing(&[410]),
        ("POST", "/search/batch") => Call::new(
            "search_batch",
            Group::Search,
            "Many searches, as of one LSN",
            "A query that is wrong refuses the batch, and is named: `queries[3].vector`.",
        )
        .vectors_body::<BatchBody>()
        .answers_vectors::<FoundTogether>(response("What each found, in the order of the queries."))
        .failing(&[410]),
        ("POST", "/range_search") => Call::new(
            "range_search",
            Group::Search,
            "All points that are near enough",
            "Within `radius`, or with a score of at least `min_score`: one of them. Exact.",
        )
        .vectors_body::<RangeBody>()
        .answers_vectors::<FoundWithin>(response("All, or as many as the limit, best first.")),
        ("POST", "/count") => Call::new("count", Group::Search, "Count the points that match a filter", "")
            .body::<CountBody>()
            .answers::<Counted>(200, "So many match.")
            .failing(&[410]),
        _ => return vectors(method, path.strip_prefix("/vectors")?),
    })
}

/// The same, for points.
fn vectors(method: &str, path: &str) -> Option<Call> {
    Some(match (method, path) {
        ("GET", "") => Call::new("list_points", Group::Vectors, "List points, in pages", "")
            .takes::<PointListing>()
            .answers_vectors::<Listed>(response("A page."))
            .failing(&[410]),
        ("POST", "") => write(Call::new(
            "add_points",
            Group::Vectors,
            "Store points",
            "An id that exists is replaced. A point that is wrong is one of `errors`, and the others are stored. `If-Match` and `If-None-Match` are for a \
             body of one point; in a larger one, each has `if_match` or `if_absent`.",
        ))
        .takes::<Atomic>()
        .takes::<Conditional>()
        .vectors_body::<AddBody>()
        .answers::<Added>(201, "Those that are right are stored, as one mutation.")
        .failing(&[412]),
        ("POST", "/fetch") => Call::new("fetch_points", Group::Vectors, "Read the points of some ids", "Those that do not exist are left out.")
            .body::<IdsBody>()
            .answers_vectors::<Fetched>(response("Those that exist.")),
        ("POST", "/delete") => write(Call::new(
            "delete_points",
            Group::Vectors,
            "Delete the points of some ids, or those that match a filter",
            "As one mutation.",
        ))
        .body::<DeleteBody>()
        .answers::<DeletedDocument>(200, "They are gone."),
        ("GET", "/{vector_id}") => Call::new("get_point", Group::Vectors, "Read a point", "")
            .takes::<AsOf>()
            .takes::<OfPoint>()
            .answers_vectors::<PointDocument>(response("The point.").header("ETag", etag()))
            .failing(&[410]),
        ("PATCH", "/{vector_id}") => write(Call::new("patch_point", Group::Vectors, "Merge into the metadata of a point", "By RFC 7396."))
            .takes::<OfPoint>()
            .takes::<Conditional>()
            .body::<PatchBody>()
            .answers_with::<Patched>(200, response("It is merged.").header("ETag", etag()))
            .failing(&[412]),
        ("DELETE", "/{vector_id}") => write(Call::new("delete_point", Group::Vectors, "Delete a point", ""))
            .takes::<OfPoint>()
            .takes::<Conditional>()
            .answers_other(204, response("It is gone.").header("X-LSN", number_header("The mutation that did it.")))
            .failing(&[412]),
        _ => return None,
    })
}

fn searching(method: &str) -> Call {
    match method {
        "GET" => Call::new(
            "search_by_get",
            Group::Search,
            "Find the nearest points (as the first server's clients ask)",
            "The same as `POST`, for clients that send a body with `GET`.",
        ),
        _ => Call::new(
            "search",
            Group::Search,
            "Find the nearest points",
            "There are `k` results where `k` points match the filter. `docs/search.md` has distances and scores, `docs/filters.md` the filters.",
        ),
    }
}

/// What every write of points takes. One that meets a limit of the index's numbers is a 409.
fn write(call: Call) -> Call {
    call.takes::<Durable>().takes::<Idempotent>().failing(&[409])
}

fn etag() -> utoipa::openapi::Header {
    text_header("The mutation that stored the point: `If-Match` takes it.")
}

fn page(response: utoipa::openapi::ResponseBuilder, media_type: &str) -> utoipa::openapi::ResponseBuilder {
    response.content(media_type, utoipa::openapi::Content::default())
}
