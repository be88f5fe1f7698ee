//! Every environment variable that Medley reads, in one place.

/// The worker binary that `medley run` starts; by default `medley-worker` beside `medley`, then on `PATH`.
pub const WORKER_BINARY: &str = "MEDLEY_WORKER";

/// The token by which a launched worker proves to the coordinator that it was launched by it.
pub const LAUNCH_TOKEN: &str = "MEDLEY_LAUNCH_TOKEN";

/// Directory of a worker's certificates.
pub const CERTIFICATES: &str = "MEDLEY_CERTIFICATES";

/// Log filter, in the syntax of `tracing-subscriber`; default `info`.
pub const LOG_FILTER: &str = "RUST_LOG";

/// How long threads of OpenMP, on which libtorch's products run, spin before they sleep. OpenMP reads it, not Medley,
/// which sets it for the workers that it starts.
pub const OPENMP_SPIN_COUNT: &str = "GOMP_SPINCOUNT";

/// How threads of OpenMP wait, where somebody has set it: `active` or `passive`. Medley then leaves both as they are.
pub const OPENMP_WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// Directory of loss fixtures that `cargo test -p medley-worker --test loss_fixtures` checks.
pub const FIXTURES: &str = "MEDLEY_FIXTURES";

/// Set for the tests: that etcd cannot be installed is an error, and no reason to skip those that need it.
pub const REQUIRE_ETCD: &str = "MEDLEY_REQUIRE_ETCD";

/// Set for the tests: that network namespaces or mounts cannot be made is an error, and no reason to skip those that need
/// them.
pub const REQUIRE_HOSTS: &str = "MEDLEY_REQUIRE_HOSTS";

/// How many random schedules the test `simulation` plays.
pub const SIMULATION_SCHEDULES: &str = "MEDLEY_SIMULATION_SCHEDULES";

/// The one schedule that it plays, with all that happens in it.
pub const SIMULATION_SEED: &str = "MEDLEY_SIMULATION_SEED";

/// How many leaders the test `failover` kills.
pub const CHAOS_KILLS: &str = "MEDLEY_CHAOS_KILLS";

/// For how many seconds the test `links` cuts links.
pub const CHAOS_SECONDS: &str = "MEDLEY_CHAOS_SECONDS";

/// The file that the figures of both go to.
pub const CHAOS_REPORT: &str = "MEDLEY_CHAOS_REPORT";

/// How the variables begin that say where a bucket of checkpoints is and as whom to ask it: AWS_ENDPOINT_URL,
/// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION and, for a server without TLS,
/// AWS_ALLOW_HTTP=true. The crate `object_store` reads them.
pub const BUCKET_PREFIX: &str = "AWS_";

/// Faults that a worker does to itself, for the tests of recovery: a JSON list of [`crate::faults::Fault`].
pub const FAULTS: &str = "MEDLEY_FAULTS";
