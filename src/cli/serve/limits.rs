//! What clients may ask for, as options: each has the name of the field of [`Limits`] or [`ServerConfig`] that it sets, so that whoever checks them names them.

use std::iter;

use crate::api::ServerConfig;
use crate::config::Limits;
use crate::engine::check_limits;

/// Under which `--help` shows them. In a file they are a table of this name, in small letters.
const HEADING: &str = "Limits";

/// Limits of a client's requests; what is over one is refused, and data that is there already stays.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub struct LimitArguments {
    /// Floats in a vector.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_DIMENSION_MAX", default_value_t = Limits::default().dimension_max)]
    dimension_max: usize,
    /// Bytes of a point's id.
    #[arg(long, value_name = "BYTES", env = "FAISS_PROXY_ID_BYTES_MAX", default_value_t = Limits::default().id_bytes_max)]
    id_bytes_max: usize,
    /// Bytes of a point's metadata, as JSON.
    #[arg(long, value_name = "BYTES", env = "FAISS_PROXY_METADATA_BYTES_MAX", default_value_t = Limits::default().metadata_bytes_max)]
    metadata_bytes_max: usize,
    /// Nesting of a point's metadata; {} is 1.
    #[arg(long, value_name = "DEPTH", env = "FAISS_PROXY_METADATA_DEPTH_MAX", default_value_t = Limits::default().metadata_depth_max)]
    metadata_depth_max: usize,
    /// Points in a batch, ids in a fetch or a delete, and points or changes in a page.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_BATCH_POINTS_MAX", default_value_t = Limits::default().batch_points_max)]
    batch_points_max: usize,
    /// Neighbours that a search may ask for.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_K_MAX", default_value_t = Limits::default().k_max)]
    k_max: usize,
    /// Queries in a batch of searches.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_BATCH_QUERIES_MAX", default_value_t = Limits::default().batch_queries_max)]
    batch_queries_max: usize,
    /// Neighbours that the queries of a batch may ask for together.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_BATCH_HITS_MAX", default_value_t = Limits::default().batch_hits_max)]
    batch_hits_max: usize,
    /// Points that a range search gives.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_RANGE_HITS_MAX", default_value_t = Limits::default().range_hits_max)]
    range_hits_max: usize,
    /// Bytes of the body of a request.
    #[arg(long, value_name = "BYTES", env = "FAISS_PROXY_BODY_BYTES_MAX", default_value_t = ServerConfig::BODY_BYTES_MAX)]
    body_bytes_max: usize,
    /// Bytes of all bodies that are held at one time.
    #[arg(long, value_name = "BYTES", env = "FAISS_PROXY_BODIES_BYTES_MAX", default_value_t = ServerConfig::BODIES_BYTES_MAX)]
    bodies_bytes_max: usize,
}

impl LimitArguments {
    /// `limits` with what these say.
    pub fn set(&self, limits: Limits) -> Limits {
        Limits {
            dimension_max: self.dimension_max,
            id_bytes_max: self.id_bytes_max,
            metadata_bytes_max: self.metadata_bytes_max,
            metadata_depth_max: self.metadata_depth_max,
            batch_points_max: self.batch_points_max,
            k_max: self.k_max,
            batch_queries_max: self.batch_queries_max,
            batch_hits_max: self.batch_hits_max,
            range_hits_max: self.range_hits_max,
            ..limits
        }
    }

    /// `config` with what these say.
    pub fn set_server(&self, config: ServerConfig) -> ServerConfig {
        ServerConfig { body_bytes_max: self.body_bytes_max, bodies_bytes_max: self.bodies_bytes_max, ..config }
    }

    /// What of it cannot be.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let store = check_limits(&self.set(Limits::default())).err().map(|error| error.to_string());
        let bodies = (1..=self.bodies_bytes_max).contains(&self.body_bytes_max);
        let bodies =
            (!bodies).then(|| format!("body_bytes_max: this limit is 1 to bodies_bytes_max ({})", self.bodies_bytes_max));
        iter::empty().chain(store).chain(bodies)
    }
}
