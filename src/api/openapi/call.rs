//! A call of the API, put together from what is particular to it. What calls have in common follows from that: who takes a body can be told that it is no
//! JSON, who names an index that there is none.

use std::collections::BTreeMap;

use utoipa::openapi::path::{Operation, OperationBuilder, Parameter, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{Components, KnownFormat, ObjectBuilder, Ref, Schema, SchemaFormat, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Content, RefOr, Required, Response, ResponseBuilder};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::answers::{self, Failure};
use super::parameters::Timeout;
use crate::api::auth::Role;
use crate::api::binary;
use crate::api::routes::Access;

const JSON: &str = "application/json";

/// Names of the ways to send a key.
pub const SCHEMES: [&str; 2] = ["ApiKey", "Bearer"];

/// The groups of the page.
#[derive(Clone, Copy)]
pub enum Group {
    Indices,
    Vectors,
    Search,
    Service,
}

impl Group {
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Indices, "Indices of a tenant: what is created, looked at, changed and deleted as a whole."),
        (Self::Vectors, "Points of an index: an id, a vector, and metadata."),
        (Self::Search, "The nearest points, and those that match."),
        (Self::Service, "The server itself."),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Indices => "Indices",
            Self::Vectors => "Vectors",
            Self::Search => "Search",
            Self::Service => "Service",
        }
    }
}

/// What is said of a call so far.
pub struct Call {
    operation: OperationBuilder,
    description: &'static str,
    parameters: Vec<Parameter>,
    body: Option<RequestBody>,
    answers: BTreeMap<String, Response>,
    failures: Vec<u16>,
    /// Of a call that is open: none, or keys that are no condition.
    security: Vec<SecurityRequirement>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Call {
    /// `id` is what a generator of clients calls its function. `description` may be empty.
    pub fn new(id: &str, group: Group, summary: &str, description: &'static str) -> Self {
        Self {
            operation: OperationBuilder::new().operation_id(Some(id)).tag(group.name()).summary(Some(summary)),
            description,
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            failures: Vec::new(),
            security: Vec::new(),
            schemas: Vec::new(),
        }
    }

    pub fn takes<P: IntoParams>(mut self) -> Self {
        self.parameters.extend(P::into_params(|| None));
        self
    }

    /// A body of JSON.
    pub fn body<T: ToSchema>(mut self) -> Self {
        let body = RequestBodyBuilder::new().required(Some(Required::True));
        self.body = Some(body.content(JSON, self.content::<T>()).build());
        self.failing(&[400, 408, 413, 415])
    }

    /// A body of JSON, which may be left out.
    pub fn optional_body<T: ToSchema>(self) -> Self {
        let mut call = self.body::<T>();
        if let Some(body) = &mut call.body {
            body.required = Some(Required::False);
        }
        call
    }

    /// A body of JSON or of the binary form.
    pub fn vectors_body<T: ToSchema>(self) -> Self {
        let mut call = self.body::<T>();
        if let Some(body) = &mut call.body {
            body.content.insert(binary::MEDIA_TYPE.to_owned(), RefOr::T(binary_content()));
        }
        call
    }

    /// Answers JSON.
    pub fn answers<T: ToSchema>(self, status: u16, description: &str) -> Self {
        self.answers_with::<T>(status, answers::response(description))
    }

    /// The same, with a header or more beside those that all have.
    pub fn answers_with<T: ToSchema>(mut self, status: u16, response: ResponseBuilder) -> Self {
        let content = self.content::<T>();
        let mut response = response.build();
        // First of all: generators of clients take the first that they know.
        response.content.shift_insert(0, JSON.to_owned(), RefOr::T(content));
        self.answers.insert(status.to_string(), response);
        self
    }

    /// Answers JSON, or the binary form to who accepts it.
    pub fn answers_vectors<T: ToSchema>(self, response: ResponseBuilder) -> Self {
        let vary = answers::text_header("`accept`: who names `application/octet-stream` there is answered in the binary form.");
        self.answers_with::<T>(200, response.header("Vary", vary).content(binary::MEDIA_TYPE, binary_content()))
    }

    /// Answers what is no JSON of a schema.
    pub fn answers_other(mut self, status: u16, response: ResponseBuilder) -> Self {
        self.answers.insert(status.to_string(), response.build());
        self
    }

    /// Fails with these too.
    pub fn failing(mut self, statuses: &[u16]) -> Self {
        self.failures.extend(statuses);
        self
    }

    /// Is open, and answers more to who has a key.
    pub fn more_with_a_key(mut self) -> Self {
        self.security = [vec![SecurityRequirement::default()], security()].concat();
        self.takes::<Timeout>().failing(&[422, 429, 500, 504])
    }

    fn content<T: ToSchema>(&mut self) -> Content {
        let name = T::name().into_owned();
        T::schemas(&mut self.schemas);
        self.schemas.push((name.clone(), <T as PartialSchema>::schema()));
        Content::new(Some(Ref::from_schema_name(name)))
    }

    /// The operation; its schemas and parameters go among the components.
    pub fn build(mut self, access: Access, components: &mut Components) -> Operation {
        let mut description = self.description.to_owned();
        match access {
            Access::Open => self.operation = self.operation.securities(Some(self.security.clone())),
            Access::Key(role) => {
                self = self.takes::<Timeout>().failing(&[401, 422, 429, 500, 503, 504]);
                if role > Role::Reader {
                    self.failures.push(403);
                }
                description = format!("{description}\n\nRole: `{}`.", role.as_str()).trim_start().to_owned();
            }
        }
        if self.parameters.iter().any(|parameter| parameter.name == "index_id") {
            // An index that nobody has used yet is opened by the call, which may write.
            self = self.failing(&[404, 507]);
        }
        let mut operation = self.operation.build();
        operation.description = Some(description).filter(|text| !text.is_empty());
        operation.request_body = self.body.map(RefOr::T);
        for (status, response) in self.answers {
            operation.responses.responses.insert(status, RefOr::T(response));
        }
        for status in self.failures {
            let failure = Ref::from_response_name(Failure::name(status));
            operation.responses.responses.insert(status.to_string(), RefOr::Ref(failure));
        }
        let mut parameters = Vec::new();
        for parameter in self.parameters {
            // A query parameter's name means something else elsewhere.
            parameters.push(if parameter.parameter_in == ParameterIn::Query {
                RefOr::T(parameter)
            } else {
                let place = RefOr::Ref(Ref::new(format!("#/components/parameters/{}", parameter.name)));
                components.parameters.insert(parameter.name.clone(), RefOr::T(parameter));
                place
            });
        }
        operation.parameters = Some(parameters).filter(|parameters| !parameters.is_empty());
        components.schemas.extend(self.schemas);
        operation
    }
}

/// The ways to send a key.
pub fn security() -> Vec<SecurityRequirement> {
    SCHEMES.map(|scheme| SecurityRequirement::new(scheme, [""; 0])).to_vec()
}

/// JSON with vectors behind it: `docs/binary.md`.
fn binary_content() -> Content {
    let binary = SchemaFormat::KnownFormat(KnownFormat::Binary);
    Content::new(Some(ObjectBuilder::new().schema_type(Type::String).format(Some(binary)).build()))
}
