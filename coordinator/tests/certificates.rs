//! What `medley certs` makes, and what is refused when it is used.

#![allow(clippy::unwrap_used)]

use medley_common::certificates::{AUTHORITY, Certificates, Description, Role, load, tls};
use medley_coordinator::certificates::{Authority, MakeError, Order, show};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

fn init(directory: &Path) {
    Authority::init(directory, &["trainer.example.org".into(), "10.0.0.5".into()], 365, 3650).unwrap();
}

fn describe(path: &Path) -> Description {
    let certificates = load::certificates(&std::fs::read(path).unwrap()).unwrap();
    Description::of(&certificates[0]).unwrap()
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn init_makes_every_role_and_writes_over_nothing() {
    let outside = tempfile::tempdir().unwrap();
    let directory = outside.path().join("new/certificates");
    init(&directory);
    let mode = |name: &str| std::fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
    let is_leaf = |role: Role| {
        let said = describe(&directory.join(role.certificate_file()));
        assert_eq!((said.role, said.is_authority), (Some(role), false));
        assert!((364..=365).contains(&said.days_left(load::now())));
        assert_eq!(mode(&role.key_file()), 0o600);
        assert_eq!(Certificates::load(&directory, role).unwrap().warnings(), [""; 0]);
        said
    };
    let [coordinator, worker, _] = Role::ALL.map(is_leaf);
    for host in ["trainer.example.org", "10.0.0.5", "localhost", "127.0.0.1", "::1"] {
        assert!(coordinator.names.iter().any(|name| name == host), "{host}: {:?}", coordinator.names);
        tls::check_host(&Certificates::load(&directory, Role::Coordinator).unwrap(), host).unwrap();
    }
    assert!(worker.names.is_empty());
    let authority = describe(&directory.join(AUTHORITY));
    assert_eq!((authority.role, authority.is_authority), (None, true));
    assert_eq!(worker.issuer, authority.subject);
    assert_eq!(mode("authority.key"), 0o600);

    let before = std::fs::read(directory.join("worker.key")).unwrap();
    std::fs::remove_file(directory.join("authority.pem")).unwrap();
    let error = Authority::init(&directory, &[], 365, 3650).unwrap_err();
    assert!(matches!(&error, MakeError::Exists(path) if path.ends_with("authority.key")), "{error}");
    assert!(!directory.join("authority.pem").exists(), "nothing was begun");
    assert_eq!(std::fs::read(directory.join("worker.key")).unwrap(), before);
}

#[test]
fn certificates_are_issued_for_other_machines() {
    let (home, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    init(home.path());
    let authority = Authority::open(home.path()).unwrap();
    let order = Order { role: Role::Worker, names: vec!["node-3".into()], days: 30 };
    let written = authority.issue(away.path(), &order).unwrap();
    assert_eq!(written.len(), 3, "with the authority's certificate, without its key: {written:?}");
    let issued = Certificates::load(away.path(), Role::Worker).unwrap();
    assert_eq!(issued.description().subject, "medley worker node-3");
    assert!(authority.issue(away.path(), &order).is_err_and(|error| matches!(error, MakeError::Exists(_))));

    let other = tempfile::tempdir().unwrap();
    init(other.path());
    let client = Order { role: Role::Client, ..order };
    let mixed = Authority::open(other.path()).unwrap().issue(away.path(), &client).unwrap_err();
    assert!(mixed.to_string().contains("another authority"), "{mixed}");

    let nameless = Order { names: vec!["not a host".into()], ..client };
    let error = authority.issue(away.path(), &nameless).unwrap_err();
    assert!(error.to_string().contains("--name not a host"), "{error}");
    let error = Authority::open(away.path()).err().unwrap();
    assert!(error.to_string().contains("authority.key"), "{error}");
}

#[test]
fn a_new_authority_replaces_the_old_one_without_a_break() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    init(old.path());
    init(new.path());
    let both = std::fs::read_to_string(new.path().join(AUTHORITY)).unwrap()
        + &std::fs::read_to_string(old.path().join(AUTHORITY)).unwrap();
    for directory in [old.path(), new.path()] {
        std::fs::write(directory.join(AUTHORITY), &both).unwrap();
        Certificates::load(directory, Role::Worker).unwrap();
        // Of the two, the one whose key is there issues.
        let out = tempfile::tempdir().unwrap();
        let order = Order { role: Role::Worker, names: Vec::new(), days: 1 };
        Authority::open(directory).unwrap().issue(out.path(), &order).unwrap();
        Certificates::load(out.path(), Role::Worker).unwrap();
    }
}

#[test]
fn what_does_not_fit_together_is_refused_in_one_line() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    init(home.path());
    init(other.path());
    let refused = |role: Role, says: &[&str]| {
        let message = Certificates::load(home.path(), role).unwrap_err().to_string();
        assert_eq!(message.lines().count(), 1, "{message}");
        for part in says {
            assert!(message.contains(part), "{part}: {message}");
        }
    };
    copy(other.path(), home.path(), &["worker.key"]);
    refused(Role::Worker, &["worker.key", "not the key of", "worker.pem"]);
    copy(other.path(), home.path(), &["worker.pem"]);
    refused(Role::Worker, &["worker.pem", "none of the authorities", "authority.pem", "medley certs issue"]);
    for (from, to) in [("client.pem", "coordinator.pem"), ("client.key", "coordinator.key")] {
        std::fs::copy(home.path().join(from), home.path().join(to)).unwrap();
    }
    refused(Role::Coordinator, &["coordinator.pem", "client \"medley client\"", "role coordinator is needed"]);
    std::fs::write(home.path().join("client.key"), "nothing").unwrap();
    refused(Role::Client, &["client.key", "no private key"]);
    std::fs::copy(other.path().join("worker.pem"), home.path().join(AUTHORITY)).unwrap();
    refused(Role::Client, &["authority.pem", "no authority"]);
    std::fs::remove_file(home.path().join(AUTHORITY)).unwrap();
    refused(Role::Client, &["authority.pem", "cannot read", "medley certs init"]);
}

#[test]
fn a_key_that_others_may_read_is_warned_about() {
    let home = tempfile::tempdir().unwrap();
    init(home.path());
    let key = home.path().join("worker.key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    let loaded = Certificates::load(home.path(), Role::Worker).unwrap();
    assert!(loaded.warnings().iter().any(|line| line.contains("worker.key") && line.contains("640")));
    assert!(!format!("{loaded:?}").contains("PRIVATE"), "keys are not printed");
}

#[test]
fn show_speaks_plainly_and_warns_of_what_ends() {
    let home = tempfile::tempdir().unwrap();
    Authority::init(home.path(), &[], 10, 3650).unwrap();
    let shown = show(home.path()).unwrap();
    for part in ["authority: issues", "coordinator: may lead", "worker: may join", "client: may ask", "localhost"] {
        assert!(shown.text.contains(part), "{part}: {}", shown.text);
    }
    let soon = shown.warnings.iter().filter(|line| line.contains("day(s)")).count();
    assert_eq!(soon, 3, "every certificate but the authority's: {:?}", shown.warnings);

    expire(home.path());
    let shown = show(&home.path().join("worker.pem")).unwrap();
    assert!(shown.text.contains("(over)") && shown.warnings[0].contains("ended on"), "{shown:?}");
    let error = Certificates::load(home.path(), Role::Worker).unwrap_err().to_string();
    assert!(error.contains("worker.pem") && error.contains("expired"), "{error}");

    let empty = tempfile::tempdir().unwrap();
    assert!(show(empty.path()).unwrap_err().to_string().contains("medley certs init"));
}

/// Puts a worker's certificate in the place of the one that is there, of the same authority, which ended a day ago.
fn expire(directory: &Path) {
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    let authority = rcgen::KeyPair::from_pem(&read("authority.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read(AUTHORITY), authority).unwrap();
    let mut params = rcgen::CertificateParams::default();
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(load::now().unsigned_abs());
    params.not_before = now - Duration::from_secs(3 * 24 * 3600);
    params.not_after = now - Duration::from_secs(24 * 3600);
    params.subject_alt_names = vec![rcgen::SanType::URI(Role::Worker.uri().try_into().unwrap())];
    let key = rcgen::KeyPair::from_pem(&read("worker.key")).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(directory.join("worker.pem"), certificate.pem()).unwrap();
}
