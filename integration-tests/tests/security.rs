//! Whole jobs with certificates: they learn what jobs in plain text learn, bit for bit, and nobody else takes part.

use medley_common::{exit, run_directory};
use medley_integration_tests::{Bench, difference, events, processes_with, text};
use std::path::Path;

const TWO_WORKERS: [&str; 4] = ["cohort.peers=2", "cohort.workers=2", "train.threads=1", "method.beta=0.1"];

fn init(bench: &Bench, directory: &str) {
    let output = bench.medley(&["certs", "init", "--out", directory]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Every file of a run's last checkpoint that holds parameters, with its bytes.
fn parameters(run: &Path) -> Vec<(String, Vec<u8>)> {
    let checkpoint = run_directory::checkpoint(run, 50);
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(checkpoint)
        .expect("the last checkpoint is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .map(|path| {
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            (name, std::fs::read(path).expect("a readable file"))
        })
        .collect();
    files.sort();
    files
}

/// A run is refused with one line that has all these parts, exit code 2, nothing written and nobody left.
fn assert_refused(bench: &Bench, settings: &[&str], says: &[&str]) {
    let mut arguments = vec!["run", "job.toml", "--out", "refused"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let output = bench.medley(&arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit::BAD_INPUT), "{settings:?}: {message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{settings:?}: {message}");
    for part in says {
        assert!(message.contains(part), "{settings:?} should mention {part:?}: {message}");
    }
    assert!(!bench.path().join("refused").exists());
}

#[test]
fn a_job_with_certificates_learns_the_same_bits() {
    let bench = Bench::small();
    init(&bench, "certificates");
    let plain = bench.run("plain", &TWO_WORKERS);
    let mut settings = TWO_WORKERS.to_vec();
    settings.push("security.certificates=certificates");
    let encrypted = bench.run("encrypted", &settings);
    assert_eq!(difference(&plain, &encrypted), 0.0);
    let (plain, encrypted) = (parameters(&plain), parameters(&encrypted));
    assert!(plain.len() >= 3, "shared parameters and those of two peers: {}", plain.len());
    for ((name, bytes), (other_name, other_bytes)) in plain.iter().zip(&encrypted) {
        assert_eq!(name, other_name);
        assert!(bytes == other_bytes, "{name} differs");
    }
    assert_eq!(plain.len(), encrypted.len());
    let log = std::fs::read_to_string(bench.path().join("encrypted/logs/worker-0.log")).expect("a worker's log");
    assert!(!log.contains("PRIVATE KEY"));
}

#[test]
fn a_run_goes_on_with_certificates_that_it_did_not_begin_with() {
    let bench = Bench::small();
    init(&bench, "certificates");
    let run = bench.run("run", &["cohort.peers=2", "cohort.workers=2", "train.steps=4", "train.checkpoint_every=2"]);
    std::fs::remove_dir_all(run.join("checkpoints/step-4")).expect("the last checkpoint is there");
    let output = bench.medley(&["run", "--resume", "run", "--set", "security.certificates=certificates"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn certificates_that_do_not_fit_are_refused_before_anything_is_written() {
    let bench = Bench::small();
    init(&bench, "certificates");
    init(&bench, "foreign");
    let at = |path: &str| bench.path().join(path);
    let certificates = "security.certificates=certificates";
    assert_refused(&bench, &["security.certificates=nowhere"], &["security.certificates", "nowhere/authority.pem"]);
    let elsewhere = [certificates, "launch.listen=127.0.0.2:0"];
    assert_refused(&bench, &elsewhere, &["coordinator.pem", "not for 127.0.0.2", "--name 127.0.0.2"]);
    for name in ["worker.pem", "worker.key"] {
        std::fs::copy(at("foreign").join(name), at("certificates").join(name)).expect("copied");
    }
    assert_refused(&bench, &[certificates], &["worker.pem", "none of the authorities"]);
    assert_refused(&bench, &["launch.listen=0.0.0.0:0"], &["launch.listen", "plain text", "security.plaintext"]);
    let allowed = bench.run("allowed", &["launch.listen=0.0.0.0:0", "security.plaintext=true", "train.steps=2"]);
    assert!(events(&allowed).len() > 2);
}

/// A worker that somebody starts by hand, with the token of the job but other certificates.
#[test]
fn a_worker_of_another_authority_gets_one_clear_line() {
    let bench = Bench::small();
    init(&bench, "certificates");
    init(&bench, "foreign");
    let listen = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("an address").to_string()
    };
    let (listen_setting, long) = (format!("launch.listen={listen}"), "train.steps=1000000");
    let settings = ["security.certificates=certificates", &listen_setting, long, "train.checkpoint_every=0"];
    let mut arguments = vec!["run", "job.toml", "--out", "run"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let mut job = bench.start(&arguments);
    let trains = || {
        bench.path().join("run/events.jsonl").is_file()
            && std::fs::read_to_string(bench.path().join("run/events.jsonl"))
                .is_ok_and(|text| text.contains("\"step\""))
    };
    medley_integration_tests::until("the job trains", trains);
    let url = format!("https://{listen}");
    let join = |address: &str, certificates: Option<&str>| {
        let mut command = std::process::Command::new(medley_integration_tests::binary("medley-worker"));
        command.args(["work", "--coordinator", address, "--job", "j", "--standalone", "--token", "t"]);
        // What is said of certificates is final at once; that nobody there speaks in plain text, or at all, might pass.
        let lasts = !address.starts_with("http:") && !address.contains(',');
        command.args(["--patience-seconds", if lasts { "600" } else { "2" }]);
        command.current_dir(bench.path()).env_remove("MEDLEY_CERTIFICATES");
        if let Some(directory) = certificates {
            command.args(["--certificates", directory]);
        }
        let output = command.output().expect("medley-worker starts");
        assert!(!output.status.success());
        let message = text(&output.stderr);
        let errors: Vec<String> =
            message.lines().filter(|line| line.starts_with("error: ")).map(str::to_owned).collect();
        assert_eq!(errors.len(), 1, "{message}");
        errors[0].clone()
    };
    // Its authority is not the coordinator's: it leaves before it has said anything.
    let foreign = join(&url, Some("foreign"));
    assert!(foreign.contains("its certificate is of another authority"), "{foreign}");
    assert_eq!(foreign.matches(&url).count(), 1, "{foreign}");
    // So does one that has nobody else to turn to, where the reason that can be mended is the one to tell.
    let nobody = format!("{url},https://127.0.0.1:1");
    let several = join(&nobody, Some("foreign"));
    assert!(several.contains("its certificate is of another authority"), "{several}");
    // It trusts the coordinator, which does not trust it.
    let both = ["foreign", "certificates"].map(|directory| {
        std::fs::read_to_string(bench.path().join(directory).join("authority.pem")).expect("an authority")
    });
    bench.write("foreign/authority.pem", both.concat());
    let untrusted = join(&url, Some("foreign"));
    assert!(untrusted.contains("does not know the authority of this side's certificate"), "{untrusted}");
    let without = join(&url, None);
    assert!(without.contains("--certificates"), "{without}");
    let plain = join(&format!("http://{listen}"), None);
    assert!(plain.contains("does it have certificates"), "{plain}");
    let mismatch = join(&format!("http://{listen}"), Some("certificates"));
    assert!(mismatch.contains("use https://"), "{mismatch}");
    // The right certificate alone is no way in.
    let token = join(&url, Some("certificates"));
    assert!(token.contains("the token is not the one"), "{token}");
    assert!(job.try_wait().expect("the job can be looked at").is_none(), "none of them hindered the job");
    job.kill().expect("the job can be killed");
    job.wait().expect("the job ends");
    medley_integration_tests::until("its workers are gone", || processes_with(&listen).is_empty());
}
