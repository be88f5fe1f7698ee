//! `medley certs`.

use super::{CliError, print};
use crate::certificates::{self, Authority, MakeError, Order, authority};
use medley_common::certificates::Role;
use medley_common::exit;
use std::io::Write;
use std::path::PathBuf;

/// Make, issue and look at the certificates of a cluster
///
/// A cluster has a private authority. Whoever takes part holds a certificate of it that gives one role: coordinator,
/// worker or client. With `security.certificates = "DIR"` in a configuration every connection is encrypted, both ends
/// show a certificate, and each checks the role of the other.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum CertsCommand {
    /// Make an authority, and a certificate of each role
    ///
    /// Writes authority.pem/.key, coordinator.pem/.key, worker.pem/.key and client.pem/.key; keys are readable for their
    /// owner alone. The coordinator's certificate is for localhost, 127.0.0.1 and ::1, and every --name. Keep
    /// authority.key away from machines that train: only `medley certs issue` needs it.
    #[command(after_help = INIT_EXAMPLES)]
    Init {
        /// Directory to write into; made where it is missing
        #[arg(long, value_name = "DIR", default_value = "certificates")]
        out: PathBuf,
        /// Host name or address under which others reach the coordinator; may be given many times
        #[arg(long = "name", value_name = "HOST_OR_IP")]
        names: Vec<String>,
        /// Days for which certificates are valid
        #[arg(long, value_name = "N", default_value_t = authority::DAYS)]
        days: u32,
        /// Days for which the authority is valid
        #[arg(long, value_name = "N", default_value_t = authority::AUTHORITY_DAYS)]
        authority_days: u32,
    },
    /// Issue another certificate of an authority
    ///
    /// Writes ROLE.pem, ROLE.key, and authority.pem where it is missing: all that a machine of that role needs.
    #[command(after_help = ISSUE_EXAMPLES)]
    Issue {
        /// What its holder may be: coordinator, worker or client
        #[arg(long, value_name = "ROLE")]
        role: Role,
        /// Host name or address of the holder; may be given many times. A coordinator is checked against it, for
        /// others it is what logs call them
        #[arg(long = "name", value_name = "HOST_OR_IP")]
        names: Vec<String>,
        /// Directory with authority.pem and authority.key
        #[arg(long, value_name = "DIR", default_value = "certificates")]
        authority: PathBuf,
        /// Directory to write into; by default the authority's
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Days for which the certificate is valid; no longer than the authority is
        #[arg(long, value_name = "N", default_value_t = authority::DAYS)]
        days: u32,
    },
    /// Say whose certificates these are, what they allow, for which hosts and how long
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// A directory of certificates, or one file
        #[arg(value_name = "PATH", default_value = "certificates")]
        path: PathBuf,
    },
}

const EXAMPLES: &str = "\
Examples:
  medley certs init                                         Certificates for jobs on this machine
  medley run job.toml --set security.certificates=certificates
  medley certs issue --role worker --name node-3 --out for-node-3
  medley certs show certificates

docs/THREATS.md says what each key allows, what a stolen one gives, and how to replace them.";

const INIT_EXAMPLES: &str = "\
Examples:
  medley certs init
  medley certs init --out certificates --name trainer.example.org --name 10.0.0.5
  medley certs init --days 30";

const ISSUE_EXAMPLES: &str = "\
Examples:
  medley certs issue --role worker --name node-3 --out for-node-3
  medley certs issue --role coordinator --name trainer-2 --name 10.0.0.6 --out for-trainer-2
  medley certs issue --role client --name alice --out for-alice --days 30";

const SHOW_EXAMPLES: &str = "\
Examples:
  medley certs show
  medley certs show certificates/worker.pem";

/// Runs a `medley certs` command.
pub fn run(command: CertsCommand) -> Result<i32, CliError> {
    let text = text(command).map_err(|error| CliError::bad_input(&error))?;
    print(&text)?;
    Ok(exit::SUCCESS)
}

fn text(command: CertsCommand) -> Result<String, MakeError> {
    let (written, closing) = match command {
        CertsCommand::Init { out, names, days, authority_days } => {
            let written = Authority::init(&out, &names, days, authority_days)?;
            let closing = format!(
                "use them with: medley run job.toml --set security.certificates={}\nkeep authority.key apart: whoever has it can make certificates\n",
                out.display()
            );
            (written, closing)
        }
        CertsCommand::Issue { role, names, authority, out, days } => {
            let out = out.unwrap_or_else(|| authority.clone());
            let written = Authority::open(&authority)?.issue(&out, &Order { role, names, days })?;
            (written, String::new())
        }
        CertsCommand::Show { path } => {
            let shown = certificates::show(&path)?;
            for warning in shown.warnings {
                let _ = writeln!(std::io::stderr(), "warning: {warning}");
            }
            return Ok(shown.text);
        }
    };
    let lines: String = written.iter().map(|path| format!("wrote {}\n", path.display())).collect();
    Ok(lines + &closing)
}
