//! `medley scale`: another T for a running job.

use super::{CliError, print};
use crate::job::Address;
use medley_common::certificates::channel::{ChannelError, Way};
use medley_common::certificates::{Certificates, Role};
use medley_common::proto::control_client::ControlClient;
use medley_common::proto::scale_request::NewPeers;
use medley_common::{config, environment, exit, proto, run_directory};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the coordinator may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Change the number of peers of a running job
///
/// At the next step boundary the cohort goes on with another T, without restarting any worker. A peer that was there
/// before comes back with the state that it left with; another one starts fresh, or as a copy of a peer with noise. A
/// peer that leaves (those with the highest numbers do) is in the checkpoint that is written then. summary.json says
/// which peers took part in which steps.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ScaleArgs {
    /// The run directory of the job, or its name in runs/
    job: PathBuf,
    /// T from the next step on
    #[arg(long, value_name = "N")]
    peers: u32,
    /// Worker processes to host them; by default as many as before
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Option<u32>,
    /// New peers start from their own draw, whatever cohort.new_peers says
    #[arg(long, conflicts_with = "copy_of")]
    fresh: bool,
    /// New peers start from this one's parameters, with noise
    #[arg(long, value_name = "PEER")]
    copy_of: Option<u32>,
    /// The noise on a copied parameter, as a share of the root mean square of its tensor
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, requires = "copy_of")]
    noise: f64,
    /// Directory with client.pem, client.key and authority.pem; by default the run's security.certificates
    #[arg(long, value_name = "DIR", env = environment::CERTIFICATES)]
    certificates: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  medley scale runs/hail-toys --peers 5
  medley scale hail-toys --peers 5 --workers 5
  medley scale hail-toys --peers 4 --copy-of 0 --noise 0.05
  medley scale hail-toys --peers 2                  The peers 2, 3, ... leave; they can come back";

/// Runs `medley scale`.
pub fn run(arguments: &ScaleArgs) -> Result<i32, CliError> {
    let named = PathBuf::from("runs").join(&arguments.job);
    let directory = if arguments.job.is_dir() { &arguments.job } else { &named };
    if !directory.is_dir() {
        let message =
            format!("{}: there is no such run directory, nor one of that name in runs/", arguments.job.display());
        return Err(CliError::bad_input(&message));
    }
    let address = Address::read(directory)
        .map_err(|error| CliError::bad_input(&format!("{}: cannot read its address: {error}", directory.display())))?
        .ok_or_else(|| {
            CliError::bad_input(&format!(
                "{0}: no job runs here now; go on with it by medley run --resume {0}",
                directory.display()
            ))
        })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new(exit::FAILURE, &format!("cannot start the runtime: {error}")))?;
    let of_run = config::load(&directory.join(run_directory::CONFIG), &[]).ok();
    let of_run = of_run.and_then(|config| config.security.certificates);
    let certificates = arguments.certificates.as_ref().or(of_run.as_ref());
    let message = runtime.block_on(ask(address, certificates.map(PathBuf::as_path), arguments))?;
    print(&format!("{message}\n"))?;
    Ok(exit::SUCCESS)
}

/// Why a job's address cannot be used as it is, in the words of this command, whose user has not given the address.
fn unusable(url: &str, has_certificates: bool, error: &ChannelError) -> String {
    match (url.starts_with("https://"), has_certificates) {
        (true, false) => {
            format!("the job's coordinator at {url} takes certificates; give --certificates DIR, which has client.pem")
        }
        (false, true) => {
            format!("the job's coordinator at {url} speaks plain text; leave --certificates out")
        }
        _ => {
            let (ChannelError::Address { reason, .. } | ChannelError::Unreachable { reason, .. }) = error;
            format!("the job's coordinator at {url}: {reason}")
        }
    }
}

async fn ask(address: Address, certificates: Option<&Path>, arguments: &ScaleArgs) -> Result<String, CliError> {
    let Address { url, job, token } = address;
    let unreachable = |error: &dyn std::fmt::Display| {
        CliError::new(exit::FAILURE, &format!("nobody answers at {url}, where the job's coordinator was: {error}"))
    };
    let certificates = certificates.map(|directory| Certificates::load(directory, Role::Client)).transpose();
    let certificates = certificates.map_err(|error| CliError::bad_input(&error))?;
    let way = Way::new(&url, certificates.as_ref())
        .map_err(|error| CliError::bad_input(&unusable(&url, certificates.is_some(), &error)))?;
    let way = way.with(|endpoint| endpoint.connect_timeout(PATIENCE).timeout(PATIENCE));
    let channel = way.connect().await.map_err(|error| unreachable(&error))?;
    let copy = arguments.copy_of.map(|peer| NewPeers::Copy(proto::PeerCopy { peer, rank: 0, noise: arguments.noise }));
    let fresh = arguments.fresh.then_some(NewPeers::Fresh(proto::Fresh {}));
    let request = proto::ScaleRequest {
        job,
        token,
        peers: arguments.peers,
        workers: arguments.workers.unwrap_or(0),
        new_peers: copy.or(fresh),
    };
    let reply = ControlClient::new(channel).scale(request).await.map_err(|status| match status.code() {
        tonic::Code::InvalidArgument => CliError::bad_input(&status.message()),
        _ => CliError::new(exit::FAILURE, &format!("the coordinator refused: {}", way.explain(&status))),
    })?;
    Ok(reply.into_inner().message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_nobody_typed_is_explained_without_the_flag_of_another_command() {
        let error = ChannelError::Address { address: "x".into(), reason: "is no address".into() };
        for (url, has_certificates, says) in [
            ("https://a:1", false, "--certificates DIR"),
            ("http://a:1", true, "leave --certificates out"),
            ("https://a:1", true, "is no address"),
        ] {
            let message = unusable(url, has_certificates, &error);
            assert!(message.contains(says) && message.contains(url) && !message.contains("--coordinator"), "{message}");
        }
    }
}
