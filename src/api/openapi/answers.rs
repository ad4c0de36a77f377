//! What a call is answered where it fails: a problem document, of a status and one of its words.

use serde_json::json;
use utoipa::openapi::schema::{AllOf, Object, ObjectBuilder, Ref, Schema, Type};
use utoipa::openapi::{Content, Header, RefOr, Response, ResponseBuilder};

/// A status, what it means, and the words that `code` may have with it.
pub struct Failure {
    pub status: u16,
    meaning: &'static str,
    codes: &'static [&'static str],
}

pub const FAILURES: &[Failure] = &[
    Failure { status: 400, meaning: "The body is no JSON, or ended early.", codes: &["invalid_json", "body_incomplete"] },
    Failure { status: 401, meaning: "There is no API key, or none that is good.", codes: &["unauthorized"] },
    Failure {
        status: 403,
        meaning: "The key's role is less than the call needs; `tenant_id` is not the key's tenant; or the tenant's quota of indices or its largest \
                  dimension is reached.",
        codes: &["role", "wrong_tenant", "quota_exceeded"],
    },
    Failure {
        status: 404,
        meaning: "There is no such index, or it is another tenant's; or there is no such point.",
        codes: &["index_not_found", "vector_not_found"],
    },
    Failure { status: 408, meaning: "The body came too slowly.", codes: &["body_timeout"] },
    Failure { status: 409, meaning: "The state of the index, or of the server, does not allow it.", codes: &["conflict"] },
    Failure {
        status: 410,
        meaning: "The state of that LSN is no longer kept; `oldest_lsn` is the oldest that is.",
        codes: &["lsn_gone"],
    },
    Failure { status: 412, meaning: "A condition does not hold.", codes: &["precondition_failed"] },
    Failure { status: 413, meaning: "The body is too large: by default, larger than 64 MiB.", codes: &["body_too_large"] },
    Failure {
        status: 415,
        meaning: "The media type of the body is none that the call takes.",
        codes: &["unsupported_media_type"],
    },
    Failure {
        status: 422,
        meaning: "A value is wrong; `detail` begins with the name of its field, its parameter or its header.",
        codes: &[
            "batch_too_large",
            "conflicting_fields",
            "idempotency_key_reused",
            "invalid_batch",
            "invalid_body",
            "invalid_condition",
            "invalid_cursor",
            "invalid_dimension",
            "invalid_durability",
            "invalid_encoding",
            "invalid_filter",
            "invalid_id",
            "invalid_idempotency_key",
            "invalid_index_type",
            "invalid_k",
            "invalid_limit",
            "invalid_location",
            "invalid_lsn",
            "invalid_metadata",
            "invalid_metric",
            "invalid_name",
            "invalid_option",
            "invalid_order",
            "invalid_params",
            "invalid_points",
            "invalid_timeout",
            "invalid_type",
            "invalid_value",
            "lsn_ahead",
            "metadata_too_deep",
            "metadata_too_large",
            "missing_field",
            "not_finite",
            "too_many_items",
            "too_many_matches",
            "too_many_training_rows",
            "unsupported_index_type",
            "wrong_dimension",
            "wrong_length",
            "zero_vector",
        ],
    },
    Failure {
        status: 429,
        meaning: "A queue is full, or the tenant's quota of calls is used up: try again after `Retry-After`.",
        codes: &["busy"],
    },
    Failure {
        status: 500,
        meaning: "The server made a mistake; its log has the reason under the `request_id`.",
        codes: &["internal"],
    },
    Failure {
        status: 503,
        meaning: "The index refuses, or takes no more writes; or a disk or a repository of backups fails. `outcome_unknown`: perhaps it was done. `holders_unreachable`: no node of a cluster that has the index answers. `memory_full`: it takes no more points for now, and `Retry-After` is there.",
        codes: &[
            "backup_damaged",
            "closed",
            "holders_unreachable",
            "index_refused",
            "io_error",
            "log_damaged",
            "memory_full",
            "outcome_unknown",
        ],
    },
    Failure {
        status: 504,
        meaning: "Its turn did not come within `X-Request-Timeout`; nothing was done.",
        codes: &["deadline_exceeded"],
    },
    Failure { status: 507, meaning: "The disk is full; nothing was stored.", codes: &["disk_full"] },
];

impl Failure {
    /// Under which its response and its schema stand in the document's components.
    pub fn name(status: u16) -> String {
        format!("Problem{status}")
    }

    /// A problem document of these words.
    pub fn schema(&self) -> Schema {
        let code = ObjectBuilder::new().property("code", word(self.codes)).build();
        let mut schema = AllOf::new();
        schema.items = vec![Ref::from_schema_name("Problem").into(), RefOr::T(Schema::Object(code))];
        Schema::AllOf(schema)
    }

    pub fn response(&self) -> Response {
        let content = Content::new(Some(Ref::from_schema_name(Self::name(self.status))));
        let response = response(self.meaning).content("application/problem+json", content);
        let response = match self.status {
            401 => response.header("WWW-Authenticate", text_header("The ways to send a key.")),
            429 | 503 => response.header("Retry-After", number_header("Seconds after which it is worth trying again.")),
            _ => response,
        };
        response.build()
    }
}

fn word(words: &[&str]) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words.iter().map(|word| json!(word)))).build()
}

/// One with the header that each has.
pub fn response(description: &str) -> ResponseBuilder {
    let id =
        text_header("Under which the request is in the server's log: the client's own where it sent one that is safe to repeat.");
    ResponseBuilder::new().description(description).header("X-Request-Id", id)
}

pub fn text_header(description: &str) -> Header {
    header(Type::String, description)
}

pub fn number_header(description: &str) -> Header {
    header(Type::Integer, description)
}

fn header(of: Type, description: &str) -> Header {
    let mut header = Header::new(ObjectBuilder::new().schema_type(of).build());
    header.description = Some(description.to_owned());
    header
}
