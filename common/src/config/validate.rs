//! What cannot work is refused before anything is started or written.

use super::{ExchangeMode, NewPeers, Precision, RunConfig, StoreConfig, StoreKind};
use crate::method::{METRICS, MethodName};

/// A value that cannot work.
pub struct Fault {
    pub key: &'static str,
    pub message: String,
}

/// The first fault of a configuration.
pub fn check(config: &RunConfig) -> Result<(), Fault> {
    name(config)?;
    data(config)?;
    samples(config)?;
    network(config)?;
    cohort(config)?;
    method(config)?;
    optimizer(config)?;
    evaluation(config)?;
    train(config)?;
    precision(config)?;
    rest(config)?;
    ladder(config)?;
    store(&config.store, config.security.plaintext)?;
    security(config)
}

fn require(holds: bool, key: &'static str, message: impl FnOnce() -> String) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(Fault { key, message: message() }) }
}

fn name(config: &RunConfig) -> Result<(), Fault> {
    let name = &config.name;
    let is_file_name =
        !name.is_empty() && !name.starts_with('.') && !name.contains(|c: char| c == '/' || c == '\\' || c.is_control());
    require(is_file_name, "name", || {
        format!("is {name:?}, but it names the run directory; use letters, digits, - and _")
    })
}

fn data(config: &RunConfig) -> Result<(), Fault> {
    let data = &config.data;
    require(!data.path.as_os_str().is_empty(), "data.path", || {
        "no data file is named; set it, or make one with `medley data generate FILE`".into()
    })?;
    require(data.min_length >= 3, "data.min_length", || {
        format!(
            "is {}, but the last two items of a user are held out for validation and test; use 3 or more",
            data.min_length
        )
    })?;
    require(
        data.min_rating.is_none() || data.rating_column.is_some() || !has_named_columns(config),
        "data.min_rating",
        || "needs data.rating_column, which says where the ratings are".into(),
    )?;
    require(data.min_rating.is_none_or(f64::is_finite), "data.min_rating", || "must be a finite number".into())?;
    require(
        data.separator.as_ref().is_none_or(|separator| separator.len() == 1 && separator.is_ascii()),
        "data.separator",
        || "must be one ASCII character, for example \";\"".into(),
    )
}

fn has_named_columns(config: &RunConfig) -> bool {
    use super::DataFormat::{Csv, Recbole, Tsv};
    matches!(config.data.format, Csv | Tsv | Recbole)
}

fn samples(config: &RunConfig) -> Result<(), Fault> {
    let samples = &config.samples;
    require((2..=100_000).contains(&samples.max_length), "samples.max_length", || {
        format!("is {}; use 2 to 100000 items", samples.max_length)
    })?;
    require((0.0..1.0).contains(&samples.window_overlap), "samples.window_overlap", || {
        format!("is {}; use a share in [0, 1)", samples.window_overlap)
    })?;
    require(samples.mask_share > 0.0 && samples.mask_share <= 1.0, "samples.mask_share", || {
        format!("is {}; use a share in (0, 1]", samples.mask_share)
    })?;
    require(samples.max_masks >= 1, "samples.max_masks", || "is 0; at least one item must be masked".into())?;
    require(samples.copies >= 1 || samples.last_item_copy, "samples.copies", || {
        "is 0 and samples.last_item_copy is false, so there would be no samples; set one of them".into()
    })
}

fn network(config: &RunConfig) -> Result<(), Fault> {
    let network = &config.network;
    require((1..=65_536).contains(&network.dimension), "network.dimension", || {
        format!("is {}; use 1 to 65536", network.dimension)
    })?;
    require(network.heads >= 1 && network.dimension % network.heads == 0, "network.heads", || {
        format!("is {}, which does not divide network.dimension = {}", network.heads, network.dimension)
    })?;
    require((1..=256).contains(&network.layers), "network.layers", || format!("is {}; use 1 to 256", network.layers))?;
    require((1..=1 << 20).contains(&network.feed_forward), "network.feed_forward", || {
        format!("is {}; use 1 or more", network.feed_forward)
    })?;
    require((0.0..1.0).contains(&network.dropout), "network.dropout", || {
        format!("is {}; use a share in [0, 1)", network.dropout)
    })
}

fn cohort(config: &RunConfig) -> Result<(), Fault> {
    let peers = config.cohort.peers;
    let name = config.method.name;
    require(peers >= 1, "cohort.peers", || "is 0; a cohort has at least one peer, mutual methods take two".into())?;
    require(peers <= 4096, "cohort.peers", || format!("is {peers}; at most 4096 are supported"))?;
    require(!name.is_mutual() || peers >= 2, "cohort.peers", || {
        format!(
            "is 1, but in method.name = \"{name}\" peers learn from one another; use 2 or more, or method.name = \"single\""
        )
    })?;
    require(name.is_mutual() || peers == 1, "cohort.peers", || {
        format!("is {peers}, but method.name = \"{name}\" trains one network; use 1")
    })?;
    require(config.cohort.workers <= peers, "cohort.workers", || {
        format!(
            "is {}, more than cohort.peers = {peers}; a worker hosts at least one peer (0: as suits the machine)",
            config.cohort.workers
        )
    })?;
    schedule(config)
}

fn schedule(config: &RunConfig) -> Result<(), Fault> {
    let cohort = &config.cohort;
    let key = "cohort.schedule";
    let mut before = 0;
    for change in &cohort.schedule {
        let (step, peers) = (change.step, change.peers);
        require(step > before, key, || {
            format!("has step {step} after step {before}; list changes in order, each once")
        })?;
        require((1..=4096).contains(&peers), key, || format!("asks for {peers} peers at step {step}; use 1 to 4096"))?;
        require(config.method.name.is_mutual() && peers >= 2, key, || {
            format!(
                "asks for {peers} peers at step {step}; only mutual methods change T, and in them two peers at least learn from one another"
            )
        })?;
        before = step;
    }
    require((0.0..=1.0).contains(&cohort.copy_noise), "cohort.copy_noise", || {
        format!("is {}; use a share in [0, 1]", cohort.copy_noise)
    })?;
    let copied = cohort.copy_of as usize;
    require(cohort.new_peers == NewPeers::Fresh || copied < cohort.peers, "cohort.copy_of", || {
        format!("is {copied}, but peers are numbered from 0 to {}", cohort.peers - 1)
    })
}

fn method(config: &RunConfig) -> Result<(), Fault> {
    let method = &config.method;
    require((0.0..=1.0).contains(&method.alpha), "method.alpha", || {
        format!("is {}; use a weight in [0, 1]", method.alpha)
    })?;
    require((0.0..1.0).contains(&method.beta), "method.beta", || {
        format!("is {}; use a share in [0, 1): at 1 every row would be noise", method.beta)
    })?;
    require(method.gamma.is_finite() && (0.0..=100.0).contains(&method.gamma), "method.gamma", || {
        format!("is {}; use an exponent in [0, 100]", method.gamma)
    })?;
    require(method.rank_base <= 1, "method.rank_base", || format!("is {}; use 0 or 1", method.rank_base))?;
    require((0.0..=1.0).contains(&method.stage_1_share), "method.stage_1_share", || {
        format!("is {}; use a share in [0, 1]", method.stage_1_share)
    })?;
    require((0.0..=10.0).contains(&method.rce_exponent), "method.rce_exponent", || {
        format!("is {}; use an exponent in [0, 10]", method.rce_exponent)
    })
}

fn optimizer(config: &RunConfig) -> Result<(), Fault> {
    let optimizer = &config.optimizer;
    require(optimizer.learning_rate.is_finite() && optimizer.learning_rate > 0.0, "optimizer.learning_rate", || {
        format!("is {}; use a number above 0", optimizer.learning_rate)
    })?;
    require((0.0..1.0).contains(&optimizer.beta_1), "optimizer.beta_1", || "must lie in [0, 1)".into())?;
    require((0.0..1.0).contains(&optimizer.beta_2), "optimizer.beta_2", || "must lie in [0, 1)".into())?;
    require(optimizer.epsilon.is_finite() && optimizer.epsilon > 0.0, "optimizer.epsilon", || {
        "must be above 0".into()
    })?;
    require(optimizer.weight_decay.is_finite() && optimizer.weight_decay >= 0.0, "optimizer.weight_decay", || {
        "must be 0 or more".into()
    })?;
    require(optimizer.clip_norm.is_finite() && optimizer.clip_norm >= 0.0, "optimizer.clip_norm", || {
        "must be 0 (no clipping) or more".into()
    })
}

fn train(config: &RunConfig) -> Result<(), Fault> {
    let train = &config.train;
    require(train.steps > 0 || train.epochs > 0 || !config.method.name.is_trained(), "train.steps", || {
        "and train.epochs are both 0; set one of them".into()
    })?;
    require((1..=1 << 20).contains(&train.batch_size), "train.batch_size", || {
        format!("is {}; use 1 or more sequences", train.batch_size)
    })?;
    require(METRICS.contains(&train.metric.as_str()), "train.metric", || {
        format!("is \"{}\"; use one of {}", train.metric, METRICS.join(", "))
    })?;
    let protocol = config.metric_protocol();
    require(config.evaluation.protocols.contains(&protocol), "train.metric_protocol", || {
        format!("is \"{protocol}\", which is not among evaluation.protocols; add it there")
    })?;
    require(train.patience == 0 || train.evaluate_every > 0, "train.patience", || {
        "stops early on validations, but train.evaluate_every is 0; set it".into()
    })?;
    require(train.patience == 0 || !config.data.train_on_validation, "train.patience", || {
        "stops early on the validation item, but data.train_on_validation trains on it; drop one of them".into()
    })
}

fn precision(config: &RunConfig) -> Result<(), Fault> {
    let holds = config.train.precision == Precision::Float32 || config.exchange.mode == ExchangeMode::Hidden;
    require(holds, "train.precision", || {
        "is \"bf16\", in which only exchange.mode = \"hidden\" computes the prediction layer; use that mode, or \"float32\""
            .into()
    })
}

fn evaluation(config: &RunConfig) -> Result<(), Fault> {
    let evaluation = &config.evaluation;
    require(!evaluation.protocols.is_empty(), "evaluation.protocols", || {
        "is empty; name at least one, for example [\"uniform99\", \"full\"]".into()
    })?;
    let protocols = &evaluation.protocols;
    let twice = (1..protocols.len()).find(|&at| protocols[..at].contains(&protocols[at]));
    require(twice.is_none(), "evaluation.protocols", || {
        let protocol = twice.map_or("", |at| protocols[at].as_str());
        format!("names \"{protocol}\" twice; name each protocol once")
    })?;
    require(evaluation.batch_size >= 1, "evaluation.batch_size", || "is 0; use 1 or more".into())?;
    require(
        evaluation.baselines.iter().all(|name| matches!(name, MethodName::Popularity | MethodName::OwnFrequency)),
        "evaluation.baselines",
        || {
            "may name \"popularity\" and \"own-frequency\", which need no training; anything else is a run of its own"
                .into()
        },
    )
}

fn rest(config: &RunConfig) -> Result<(), Fault> {
    let launch = &config.launch;
    require(
        config.exchange.deadline_seconds.is_finite() && (0.1..=86_400.0).contains(&config.exchange.deadline_seconds),
        "exchange.deadline_seconds",
        || format!("is {}; use 0.1 to 86400 seconds", config.exchange.deadline_seconds),
    )?;
    let checkpoints = &config.output.checkpoints;
    let bucket = checkpoints.strip_prefix("s3://");
    require(bucket.is_none_or(|rest| !rest.is_empty() && !rest.starts_with('/')), "output.checkpoints", || {
        format!("is \"{checkpoints}\", which names no bucket; write s3://BUCKET/PREFIX, or a directory")
    })?;
    let has_scheme = checkpoints.split_once("://").is_some();
    require(bucket.is_some() || !has_scheme, "output.checkpoints", || {
        format!("is \"{checkpoints}\"; of URLs only s3://BUCKET/PREFIX is understood")
    })?;
    require(config.output.log_every >= 1, "output.log_every", || "is 0; use 1 or more steps".into())?;
    require(launch.listen.parse::<std::net::SocketAddr>().is_ok(), "launch.listen", || {
        format!("is \"{}\"; use an address and port such as 127.0.0.1:0", launch.listen)
    })
}

/// Timeouts form one ladder: whoever waits longer learns first from whoever waits less. ARCHITECTURE.md has it whole.
fn ladder(config: &RunConfig) -> Result<(), Fault> {
    let (launch, recovery) = (&config.launch, &config.recovery);
    let collective_ms = (config.exchange.deadline_seconds * 1000.0).ceil() as u64;
    require(launch.heartbeat_ms >= 1, "launch.heartbeat_ms", || "is 0; use 1 or more milliseconds".into())?;
    require(launch.death_ms >= 3 * launch.heartbeat_ms, "launch.death_ms", || {
        format!("is {}; use at least three heartbeats ({} ms)", launch.death_ms, 3 * launch.heartbeat_ms)
    })?;
    require(collective_ms > launch.death_ms, "exchange.deadline_seconds", || {
        format!(
            "is {}; use more than launch.death_ms ({} ms), so that a dead worker is named before others tire of it",
            config.exchange.deadline_seconds, launch.death_ms
        )
    })?;
    require(recovery.reform_ms > collective_ms, "recovery.reform_ms", || {
        format!(
            "is {}; use more than exchange.deadline_seconds ({collective_ms} ms), within which survivors notice a loss",
            recovery.reform_ms
        )
    })?;
    require(launch.join_ms > recovery.reform_ms, "launch.join_ms", || {
        format!("is {}; use more than recovery.reform_ms ({} ms)", launch.join_ms, recovery.reform_ms)
    })?;
    require(recovery.replace_ms <= launch.join_ms, "recovery.replace_ms", || {
        format!("is {}; use at most launch.join_ms ({})", recovery.replace_ms, launch.join_ms)
    })
}

fn store(store: &StoreConfig, may_be_plain: bool) -> Result<(), Fault> {
    let is_etcd = store.kind == StoreKind::Etcd;
    let endpoints = &store.endpoints;
    require(!is_etcd || !endpoints.is_empty(), "store.endpoints", || {
        "is empty, but store.kind = \"etcd\"; name the members, for example [\"https://10.0.0.1:2379\"]".into()
    })?;
    require(is_etcd || endpoints.is_empty(), "store.endpoints", || {
        "names etcd members, but store.kind is \"embedded\"; set it to \"etcd\"".into()
    })?;
    let unusable = endpoints.iter().find(|endpoint| !is_endpoint(endpoint));
    require(unusable.is_none(), "store.endpoints", || {
        let endpoint = unusable.map_or("", String::as_str);
        format!(
            "has \"{endpoint}\"; use URLs with a port such as https://etcd-0:2379, or http://127.0.0.1:2379 on one machine"
        )
    })?;
    let is_https = |endpoint: &String| endpoint.starts_with("https://");
    let secured = endpoints.iter().filter(|endpoint| is_https(endpoint)).count();
    require(secured == 0 || secured == endpoints.len(), "store.endpoints", || {
        "mixes http and https; use one of them for all members".into()
    })?;
    let exposed = endpoints.iter().find(|endpoint| endpoint.starts_with("http://") && !is_on_this_machine(endpoint));
    require(may_be_plain || exposed.is_none(), "store.endpoints", || {
        format!(
            "has \"{}\", over which the job's token and secret go to another machine in plain text; use https:// and store.tls_ca, or security.plaintext = true on a network that you trust",
            exposed.map_or("", String::as_str)
        )
    })?;
    require(secured == 0 || store.tls_ca.is_some(), "store.tls_ca", || {
        "is not set, but store.endpoints are https; name the PEM file of the authority that signed their certificates"
            .into()
    })?;
    let uses_tls = store.tls_ca.is_some() || store.tls_certificate.is_some() || store.tls_key.is_some();
    require(secured > 0 || !uses_tls, "store.endpoints", || {
        "are not https, but store.tls_* is set; use https:// or drop store.tls_*".into()
    })?;
    require(store.tls_key.is_some() == store.tls_certificate.is_some(), "store.tls_key", || {
        "and store.tls_certificate belong together; set both or neither".into()
    })?;
    require(store.password_env.is_some() == store.user.is_some(), "store.password_env", || {
        "and store.user belong together; set both or neither".into()
    })?;
    require(
        (2000..=600_000).contains(&store.lease_ms) && store.lease_ms.is_multiple_of(1000),
        "store.lease_ms",
        || format!("is {}; use 2000 to 600000, in whole seconds, as etcd counts leases in them", store.lease_ms),
    )?;
    require((50..=store.lease_ms / 2).contains(&store.request_ms), "store.request_ms", || {
        format!(
            "is {}; use 50 to half of store.lease_ms ({}), so that a renewal can be tried twice",
            store.request_ms,
            store.lease_ms / 2
        )
    })?;
    require((store.request_ms..=3_600_000).contains(&store.retry_ms), "store.retry_ms", || {
        format!("is {}; use at least store.request_ms ({})", store.retry_ms, store.request_ms)
    })
}

/// Whether a text is `http://HOST:PORT` or `https://HOST:PORT`.
fn is_endpoint(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let host_and_port = rest.and_then(|rest| rest.rsplit_once(':'));
    host_and_port.is_some_and(|(host, port)| {
        let is_host = host.chars().all(|c| c.is_ascii_alphanumeric() || "-._[]:".contains(c));
        !host.is_empty() && is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// Whether what is sent to a URL stays on this machine.
fn is_on_this_machine(endpoint: &str) -> bool {
    let host_and_port = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let host = host_and_port.rsplit_once(':').map_or(host_and_port, |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn security(config: &RunConfig) -> Result<(), Fault> {
    let security = &config.security;
    require(
        security.certificates.as_ref().is_none_or(|path| !path.as_os_str().is_empty()),
        "security.certificates",
        || "is empty; name a directory made by `medley certs init`, or leave the key out".into(),
    )?;
    let listen = &config.launch.listen;
    let is_local = listen.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
    require(is_local || security.certificates.is_some() || security.plaintext, "launch.listen", || {
        format!(
            "is \"{listen}\", which other machines reach, in plain text; set security.certificates (`medley certs init` makes them), or security.plaintext = true on a network that you trust"
        )
    })
}
