//! A CapturePolicy from a file, created unless there is one of its name: kubectl cannot apply an object together with its
//! own definition, so a Job of the installation does this.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use capture_api::CapturePolicy;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use thiserror::Error;
use tracing::info;

/// How long the definition may take to be known to the API server; the Job tries again after that.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

/// Why there is no policy.
#[derive(Debug, Error)]
pub enum CreatePolicyError {
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no CapturePolicy.
    #[error("{}: {problem}", file.display())]
    Policy {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The API server refused, or cannot be reached.
    #[error("creating the policy: {0}")]
    Api(#[from] kube::Error),
}

/// Creates the policy that `file` (YAML) holds. One of its name that is there stays as it is.
///
/// # Errors
/// The file cannot be read, or the API server does not take the policy.
pub async fn create_policy(file: &Path) -> Result<(), CreatePolicyError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| CreatePolicyError::File { file: file.to_owned(), source })?;
    let policy: CapturePolicy = serde_saphyr::from_str(&text)
        .map_err(|error| CreatePolicyError::Policy { file: file.to_owned(), problem: error.to_string() })?;
    let name = policy.name_any();
    let policies: Api<CapturePolicy> = Api::all(Client::try_default().await?);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match policies.create(&PostParams::default(), &policy).await {
            Ok(_) => info!(name, "created"),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                info!(name, "is there already, and stays as it is")
            }
            // The definition was applied a moment ago.
            Err(kube::Error::Api(status)) if status.code == 404 && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        return Ok(());
    }
}
