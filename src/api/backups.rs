//! `POST /v1/index/{id}/backup`, and the schedule: what is new of an index to where the operator wants backups.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;
use utoipa::ToSchema;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Server;
use super::admission::Turn;
use super::decode;
use super::indices::index_id;
use super::reply::{Problem, json};
use super::request::Request;
use crate::backup::{BackupReport, Location, Throttle, backup};
use crate::engine::Store;
use crate::error::{Error, Result};
use crate::types::{IndexId, TenantId};

/// Where backups go, and when.
#[derive(Clone, Debug)]
pub struct BackupConfig {
    /// A client may name a place below it, and no other: it must never choose a path on the server's disk.
    pub to: Location,
    /// How long after a round of scheduled backups the next one begins; `None`: there is no schedule.
    pub every: Option<Duration>,
    /// What one backup reads and writes at most; `None`: as fast as it goes.
    pub bytes_per_second: Option<NonZeroU64>,
}

impl BackupConfig {
    /// Where a client wants it.
    ///
    /// # Errors
    /// 422 naming `to`: it is not below.
    fn place(&self, to: Option<&str>) -> Result<Location> {
        let whole = self.to.to_string();
        let part = match to {
            None => "",
            Some(to) => to
                .strip_prefix(&whole)
                .and_then(|rest| rest.strip_prefix('/').or(Some(rest).filter(|r| r.is_empty())))
                .unwrap_or(to),
        };
        self.to.below("to", part)
    }

    fn back_up(&self, store: &Store, tenant: &TenantId, id: IndexId, to: &Location) -> Result<BackupReport> {
        let index = store.index(tenant, id)?;
        let repository = to.open("to")?;
        backup(&index, &*repository, &Throttle::new(self.bytes_per_second))
    }
}

#[derive(Deserialize, ToSchema)]
#[schema(as = BackupPlace, example = json!({"to": "nightly"}))]
pub(super) struct BackupBody<'a> {
    /// A place below the operator's; where it is absent, that one.
    #[serde(borrow)]
    #[schema(value_type = Option<String>)]
    to: Option<&'a RawValue>,
}

/// Backs the index up, and answers when that is done.
pub async fn make(server: Arc<Server>, turn: Turn, id: String, mut request: Request) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let Some(config) = server.config.backups.clone() else {
        let detail =
            "this server makes no backups: start it with --backup-to, or use 'faiss-proxy backup' while it is not running";
        return Err(Error::Conflict(detail.to_owned()).into());
    };
    let body = request.json_body(&server).await?;
    let call = Arc::clone(&server);
    let work = move || {
        let text = if body.bytes().is_empty() { "{}" } else { body.text()? };
        let body: BackupBody = decode::body(text)?;
        let to = body.to.map(|raw| decode::string(raw, "to")).transpose()?;
        let to = config.place(to.as_deref())?;
        let made = config.back_up(&call.store, &tenant, id, &to);
        call.metrics.backed_up(made.is_ok());
        Ok(json(StatusCode::OK, &made?))
    };
    server.backups.run(turn, work).await
}

/// Backs every index up, again and again, until the server ends. One that fails is told of in the log, and tried again in the next round.
pub async fn keep(server: Arc<Server>, mut ending: watch::Receiver<bool>) {
    let Some((config, every)) = server.config.backups.clone().and_then(|config| config.every.map(|every| (config, every))) else {
        return;
    };
    let config = Arc::new(config);
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = ending.wait_for(|ends| *ends) => return,
        }
        for tenant in server.store.tenants() {
            for index in server.store.list(&tenant).unwrap_or_default() {
                let (call, config, tenant) = (Arc::clone(&server), Arc::clone(&config), tenant.clone());
                let turn = Turn { tenant: tenant.clone(), deadline: None };
                let work = move || {
                    let made = config.back_up(&call.store, &tenant, index.id, &config.to);
                    if !matches!(made, Err(Error::NotFound(_))) {
                        call.metrics.backed_up(made.is_ok());
                    }
                    match made {
                        Ok(report) if report.is_new => {
                            let BackupReport { seq, lsn, bytes_moved, .. } = report;
                            tracing::info!(%tenant, index = %index.id, seq, lsn, bytes_moved, "backed up");
                        }
                        // Deleted meanwhile.
                        Ok(_) | Err(Error::NotFound(_)) => {}
                        Err(error) => tracing::error!(%tenant, index = %index.id, %error, "a scheduled backup failed"),
                    }
                    Ok(())
                };
                tokio::select! {
                    // Where too many wait already, the next round has it.
                    _ = server.backups.run(turn, work) => {}
                    _ = ending.wait_for(|ends| *ends) => return,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_s_place_is_the_operator_s_or_one_below_it() {
        for whole in ["/backups", "s3://bucket/prefix"] {
            let config = BackupConfig { to: Location::parse("to", whole).unwrap(), every: None, bytes_per_second: None };
            let place = |to: Option<&str>| config.place(to).map(|place| place.to_string());
            assert_eq!(place(None).unwrap(), whole);
            assert_eq!(place(Some(whole)).unwrap(), whole);
            assert_eq!(place(Some("a/b")).unwrap(), format!("{whole}/a/b"));
            assert_eq!(place(Some(&format!("{whole}/a"))).unwrap(), format!("{whole}/a"));
            for wrong in
                ["/etc", "..", "a/../../b", "/backups-of-others", "s3://other/prefix", "file:///etc", &format!("{whole}/../x")]
            {
                assert!(matches!(place(Some(wrong)), Err(Error::Invalid { field, .. }) if field == "to"), "{wrong}");
            }
        }
    }
}
