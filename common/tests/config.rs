//! What a person sees who writes a configuration: every fault is one line with the place and the remedy.
#![allow(clippy::unwrap_used)]

use medley_common::config::{self, ConfigError, Override, RunConfig};
use std::path::Path;

const MINIMAL: &str = "[data]\npath = \"toys.txt\"\n";

fn parse(text: &str, overrides: &[&str]) -> Result<RunConfig, ConfigError> {
    let overrides: Vec<Override> = overrides.iter().map(|text| text.parse().unwrap()).collect();
    config::parse(text, "job.toml", &overrides)
}

/// The one line that a person sees.
fn fault(text: &str, overrides: &[&str]) -> String {
    let message = parse(text, overrides).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "more than a line: {message}");
    message
}

#[test]
fn the_smallest_configuration_names_the_data_only() {
    let config = parse(MINIMAL, &[]).unwrap();
    assert_eq!(config.data.path, Path::new("toys.txt"));
    assert_eq!(config.cohort.peers, 2);
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one() {
    let cases = [
        (
            "[data]\npath = \"x\"\nmin_lenght = 5\n",
            "job.toml:3: unknown key `data.min_lenght`; did you mean `data.min_length`?",
        ),
        ("sead = 3\n[data]\npath = \"x\"\n", "job.toml:1: unknown key `sead`; did you mean `seed`?"),
        (
            "[data]\npath = \"x\"\n\n[optimiser]\nlearning_rate = 1.0\n",
            "job.toml:4: unknown key `optimiser`; did you mean `optimizer`?",
        ),
        (
            "data = { path = \"x\" }\nmethod = { alpa = 0.1 }\n",
            "job.toml:2: unknown key `method.alpa`; did you mean `method.alpha`?",
        ),
        ("data.path = \"x\"\ntrain.peers = 3\n", "job.toml:2: unknown key `train.peers`; did you mean `cohort.peers`?"),
        (
            "[data]\npath = \"x\"\n[entirely_other]\n",
            "job.toml:3: unknown key `entirely_other`; `medley config schema` lists the known ones",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(fault(text, &[]), expected);
    }
}

#[test]
fn an_unknown_key_of_an_override_names_the_override() {
    assert_eq!(
        fault(MINIMAL, &["method.bta=0.1"]),
        "--set method.bta: unknown key `method.bta`; did you mean `method.beta`?"
    );
    assert_eq!(fault(MINIMAL, &["seed.x=1"]), "--set seed.x: unknown key `seed.x`; did you mean `seed`?");
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_its_line() {
    for (text, start) in [
        ("[data]\npath = \"x\"\n[cohort]\npeers = \"three\"\n", "job.toml:4: invalid type: string \"three\""),
        ("seed = -1\n", "job.toml:1: invalid value: integer `-1`"),
        ("[train]\nsteps = 1.5\n", "job.toml:2: invalid type: floating point `1.5`"),
        ("[method]\nname = \"hale\"\n", "job.toml:2: unknown variant `hale`"),
        ("data = 3\n", "job.toml:1: invalid type: integer `3`"),
    ] {
        let message = fault(text, &[]);
        assert!(message.starts_with(start), "{message}");
    }
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    for (text, start) in [
        ("seed = 1\nseed = 2\n", "job.toml:2: "),
        ("[data\npath = 1\n", "job.toml:1: "),
        ("name = \"open\n", "job.toml:1: "),
        ("[data]\npath = C:\\x\n", "job.toml:2: "),
    ] {
        let message = fault(text, &[]);
        assert!(message.starts_with(start), "{message}");
    }
}

#[test]
fn an_override_of_the_wrong_type_names_the_override() {
    for (change, start) in [
        ("cohort.peers=three", "--set cohort.peers: invalid type: string \"three\""),
        ("train.steps=-5", "--set train.steps: invalid value: integer `-5`"),
        ("exchange.mode=morse", "--set exchange.mode: unknown variant `morse`"),
        ("data=3", "--set data: invalid type: integer `3`"),
    ] {
        let message = fault(MINIMAL, &["seed=2", change]);
        assert!(message.starts_with(start), "{message}");
    }
}

#[test]
fn overrides_win_over_the_file_and_later_ones_over_earlier_ones() {
    let text = "seed = 4\n[data]\npath = \"x\"\n[method]\nalpha = 0.25\n";
    let config = parse(text, &["method.alpha=1", "seed=5", "seed=6"]).unwrap();
    assert_eq!((config.seed, config.method.alpha), (6, 1.0));
}

#[test]
fn an_override_takes_toml_values_and_bare_strings() {
    let config = parse(
        MINIMAL,
        &[
            "data.path=../shared/data/toys.txt",
            "name=\"quoted name\"",
            "evaluation.protocols=[\"full\", \"uniform99\"]",
            "train.evaluate_every=10",
            "output.tensorboard=false",
        ],
    )
    .unwrap();
    assert_eq!(config.data.path, Path::new("../shared/data/toys.txt"));
    assert_eq!(config.name, "quoted name");
    assert_eq!(config.evaluation.protocols.len(), 2);
    assert!(!config.output.tensorboard);
}

#[test]
fn a_string_that_looks_like_another_value_needs_no_quotes() {
    let config = parse(MINIMAL, &["name=2026", "data.path=7", "data.item_column=true"]).unwrap();
    assert_eq!(config.name, "2026");
    assert_eq!(config.data.path, Path::new("7"));
    assert_eq!(config.data.item_column, "true");
}

#[test]
fn an_override_that_is_not_key_and_value_is_refused() {
    for text in ["seed", "=1", "data..path=x", ".seed=1"] {
        let message = text.parse::<Override>().unwrap_err().to_string();
        assert!(message.contains("expected key=value"), "{message}");
    }
}

#[test]
fn every_fault_of_a_value_names_its_key() {
    // (what is set, the key that the message names, what the message says)
    let faults: &[(&[&str], &str, &str)] = &[
        (&["name="], "name", "run directory"),
        (&["name=../elsewhere"], "name", "run directory"),
        (&["data.path="], "data.path", "no data file is named"),
        (&["data.min_length=2"], "data.min_length", "use 3 or more"),
        (&["data.format=csv", "data.min_rating=4"], "data.min_rating", "data.rating_column"),
        (&["data.min_rating=nan"], "data.min_rating", "finite"),
        (&["data.separator=\"::\""], "data.separator", "one ASCII character"),
        (&["samples.max_length=1"], "samples.max_length", "2 to 100000"),
        (&["samples.window_overlap=1"], "samples.window_overlap", "[0, 1)"),
        (&["samples.mask_share=0"], "samples.mask_share", "(0, 1]"),
        (&["samples.max_masks=0"], "samples.max_masks", "at least one"),
        (&["samples.copies=0", "samples.last_item_copy=false"], "samples.copies", "no samples"),
        (&["network.dimension=0"], "network.dimension", "1 to 65536"),
        (&["network.heads=3"], "network.heads", "does not divide"),
        (&["network.heads=0"], "network.heads", "does not divide"),
        (&["network.layers=0"], "network.layers", "1 to 256"),
        (&["network.feed_forward=0"], "network.feed_forward", "1 or more"),
        (&["network.dropout=1.0"], "network.dropout", "[0, 1)"),
        (&["cohort.peers=0"], "cohort.peers", "at least one peer"),
        (&["cohort.peers=5000"], "cohort.peers", "at most 4096"),
        (&["cohort.peers=1"], "cohort.peers", "learn from one another"),
        (&["method.name=single"], "cohort.peers", "trains one network"),
        (&["cohort.workers=3"], "cohort.workers", "at least one peer"),
        (&["method.alpha=1.01"], "method.alpha", "[0, 1]"),
        (&["method.alpha=nan"], "method.alpha", "[0, 1]"),
        (&["method.beta=1"], "method.beta", "every row would be noise"),
        (&["method.gamma=-1"], "method.gamma", "[0, 100]"),
        (&["method.rank_base=2"], "method.rank_base", "0 or 1"),
        (&["method.stage_1_share=2"], "method.stage_1_share", "[0, 1]"),
        (&["method.rce_exponent=11"], "method.rce_exponent", "[0, 10]"),
        (&["optimizer.learning_rate=0"], "optimizer.learning_rate", "above 0"),
        (&["optimizer.beta_1=1"], "optimizer.beta_1", "[0, 1)"),
        (&["optimizer.beta_2=-0.1"], "optimizer.beta_2", "[0, 1)"),
        (&["optimizer.epsilon=0"], "optimizer.epsilon", "above 0"),
        (&["optimizer.weight_decay=inf"], "optimizer.weight_decay", "0 or more"),
        (&["optimizer.clip_norm=-1"], "optimizer.clip_norm", "no clipping"),
        (&["train.epochs=0"], "train.steps", "both 0"),
        (&["train.batch_size=0"], "train.batch_size", "1 or more"),
        (&["train.metric=AUC"], "train.metric", "NDCG@10"),
        (&["train.precision=bf16", "exchange.mode=logits"], "train.precision", "exchange.mode = \"hidden\""),
        (&["train.metric_protocol=uniform1000"], "train.metric_protocol", "evaluation.protocols"),
        (&["train.patience=2"], "train.patience", "train.evaluate_every"),
        (
            &["train.patience=2", "train.evaluate_every=5", "data.train_on_validation=true"],
            "train.patience",
            "data.train_on_validation",
        ),
        (&["evaluation.protocols=[]"], "evaluation.protocols", "at least one"),
        (&["evaluation.protocols=[\"full\",\"uniform99\",\"full\"]"], "evaluation.protocols", "\"full\" twice"),
        (&["evaluation.batch_size=0"], "evaluation.batch_size", "1 or more"),
        (&["evaluation.baselines=[\"hail\"]"], "evaluation.baselines", "run of its own"),
        (&["exchange.deadline_seconds=0"], "exchange.deadline_seconds", "0.1 to 86400"),
        (&["output.log_every=0"], "output.log_every", "1 or more"),
        (&["launch.heartbeat_ms=0"], "launch.heartbeat_ms", "1 or more"),
        (&["launch.death_ms=200"], "launch.death_ms", "three heartbeats"),
        (&["exchange.deadline_seconds=0.5"], "exchange.deadline_seconds", "launch.death_ms (1000 ms)"),
        (&["recovery.reform_ms=20000"], "recovery.reform_ms", "exchange.deadline_seconds (20000 ms)"),
        (&["launch.join_ms=30000"], "launch.join_ms", "recovery.reform_ms (30000 ms)"),
        (&["recovery.replace_ms=60001"], "recovery.replace_ms", "launch.join_ms"),
        (&["cohort.schedule=[{step=5,peers=3},{step=5,peers=2}]"], "cohort.schedule", "each once"),
        (&["cohort.schedule=[{step=5,peers=1}]"], "cohort.schedule", "two peers"),
        (&["cohort.copy_noise=-1.0"], "cohort.copy_noise", "share"),
        (&["cohort.new_peers=copy", "cohort.copy_of=2"], "cohort.copy_of", "from 0 to 1"),
        (&["launch.listen=here"], "launch.listen", "127.0.0.1:0"),
        (&["store.kind=etcd"], "store.endpoints", "name the members"),
        (&["store.endpoints=[\"http://a:1\"]"], "store.endpoints", "set it to \"etcd\""),
        (&["store.kind=etcd", "store.endpoints=[\"http://a:1\", \"a:1\"]"], "store.endpoints", "has \"a:1\""),
        (&["store.kind=etcd", "store.endpoints=[\"http://a:0\"]"], "store.endpoints", "with a port"),
        (&["store.kind=etcd", "store.endpoints=[\"http://a b:1\"]"], "store.endpoints", "with a port"),
        (&["store.kind=etcd", "store.endpoints=[\"http://a:1\",\"https://b:1\"]"], "store.endpoints", "mixes"),
        (
            &["store.kind=etcd", "store.endpoints=[\"http://127.0.0.1:1\",\"http://a:1\"]"],
            "store.endpoints",
            "has \"http://a:1\"",
        ),
        (
            &["store.kind=etcd", "store.endpoints=[\"http://10.0.0.1:1\"]"],
            "store.endpoints",
            "security.plaintext = true",
        ),
        (&["store.kind=etcd", "store.endpoints=[\"https://a:1\"]"], "store.tls_ca", "PEM file"),
        (&["store.tls_ca=ca.pem"], "store.endpoints", "drop store.tls_*"),
        (
            &["store.kind=etcd", "store.endpoints=[\"https://a:1\"]", "store.tls_ca=c", "store.tls_certificate=d"],
            "store.tls_key",
            "both or neither",
        ),
        (&["store.user=medley"], "store.password_env", "both or neither"),
        (&["store.lease_ms=1000"], "store.lease_ms", "2000 to 600000"),
        (&["store.lease_ms=2500"], "store.lease_ms", "whole seconds"),
        (&["store.request_ms=1501"], "store.request_ms", "half of store.lease_ms (1500)"),
        (&["store.request_ms=49"], "store.request_ms", "50 to half"),
        (&["store.retry_ms=999"], "store.retry_ms", "store.request_ms (1000)"),
    ];
    for (overrides, key, says) in faults {
        let message = fault(MINIMAL, overrides);
        let (place, said) = message.split_once(&format!(": {key}: ")).unwrap_or_else(|| {
            panic!("{overrides:?} gave {message:?}, which does not name {key}");
        });
        assert!(said.contains(says), "{overrides:?}: {message}");
        let is_set_here = overrides.iter().any(|change| change.starts_with(&format!("{key}=")));
        assert_eq!(place, if is_set_here { format!("--set {key}") } else { "job.toml".into() });
    }
}

#[test]
fn a_fault_in_the_file_names_its_line() {
    let text = "[data]\npath = \"x\"\n\n[method]\n# how much\nalpha = 1.5\n";
    assert_eq!(fault(text, &[]), "job.toml:6: method.alpha: is 1.5; use a weight in [0, 1]");
}

#[test]
fn what_show_prints_reads_back_as_the_same_configuration() {
    let text = "name = \"a-b\"\nseed = 9\n[data]\npath = \"x.csv\"\nformat = \"csv\"\nrating_column = \"r\"\nmin_rating = 3.5\nseparator = \";\"\ntimestamp_column = \"t\"\n[method]\nname = \"peerrec\"\nteacher = \"mean\"\n[output]\ndirectory = \"out\"\n";
    let config = parse(text, &[]).unwrap();
    let shown = config::to_toml(&config);
    assert_eq!(parse(&shown, &[]).unwrap(), config);
    assert!(shown.contains("deadline_seconds = 20.0"), "defaults are written out: {shown}");
}

#[test]
fn where_the_coordinator_keeps_its_state_is_no_part_of_a_runs_identity() {
    let here = parse(MINIMAL, &[]).unwrap();
    let there = [
        "store.kind=etcd",
        "store.endpoints=[\"https://etcd-0:2379\",\"https://[::1]:2379\"]",
        "store.tls_ca=ca.pem",
        "store.user=u",
        "store.password_env=P",
        "store.lease_ms=5000",
    ];
    let there = parse(MINIMAL, &there).unwrap();
    assert_ne!(here, there);
    assert_eq!(config::identity(&here), config::identity(&there));
    assert_eq!(parse(&config::to_toml(&there), &[]).unwrap(), there, "what is shown reads back");
    assert_ne!(config::identity(&here), config::identity(&parse(MINIMAL, &["seed=2"]).unwrap()));
}

#[test]
fn the_schema_lists_every_key() {
    let mut full = RunConfig::default();
    full.data.separator = Some(";".into());
    full.data.timestamp_column = Some("t".into());
    full.data.rating_column = Some("r".into());
    full.data.min_rating = Some(1.0);
    full.output.directory = Some("out".into());
    full.store.user = Some("u".into());
    full.store.password_env = Some("P".into());
    full.store.tls_ca = Some("ca".into());
    full.store.tls_certificate = Some("c".into());
    full.store.tls_key = Some("k".into());
    let shown: toml::Table = config::to_toml(&full).parse().unwrap();
    let schema = config::schema();
    let mut keys = 0;
    for (name, value) in &shown {
        let property = &schema["properties"][name];
        assert!(property.is_object(), "the schema lacks `{name}`");
        let Some(table) = value.as_table() else {
            continue;
        };
        let definition = property["$ref"].as_str().unwrap().trim_start_matches('#');
        for key in table.keys() {
            keys += 1;
            let entry = &schema.pointer(definition).unwrap()["properties"][key];
            assert!(entry.is_object(), "the schema lacks `{name}.{key}`");
            assert!(entry["description"].is_string(), "`{name}.{key}` is not described");
        }
    }
    assert!(keys > 60, "only {keys} keys were compared");
}

#[test]
fn a_missing_or_unreadable_file_is_named() {
    let message = config::load(Path::new("absent.toml"), &[]).unwrap_err().to_string();
    assert!(message.starts_with("absent.toml: cannot read the configuration: "), "{message}");
}

#[test]
fn every_configuration_of_the_repository_is_valid() {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs"));
    let Ok(entries) = std::fs::read_dir(directory) else {
        println!("no configs directory here: nothing to check");
        return;
    };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "toml") {
            config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn plain_text_beyond_this_machine_is_refused_unless_it_is_allowed() {
    for local in ["127.0.0.1:0", "127.8.8.8:7070", "[::1]:0"] {
        parse(MINIMAL, &[&format!("launch.listen=\"{local}\"")]).unwrap();
    }
    for open in ["0.0.0.0:7070", "10.0.0.5:0", "[::]:0"] {
        let listen = format!("launch.listen=\"{open}\"");
        let message = fault(MINIMAL, &[&listen]);
        for part in ["launch.listen", open, "security.certificates", "medley certs init", "security.plaintext"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        parse(MINIMAL, &[&listen, "security.plaintext=true"]).unwrap();
        let config = parse(MINIMAL, &[&listen, "security.certificates=certificates"]).unwrap();
        assert_eq!(config.security.certificates.as_deref(), Some(Path::new("certificates")));
    }
    assert!(fault(MINIMAL, &["security.certificates=\"\""]).contains("security.certificates"));
}

#[test]
fn certificates_do_not_change_what_is_learned() {
    let plain = parse(MINIMAL, &[]).unwrap();
    let encrypted = parse(MINIMAL, &["security.certificates=here", "security.plaintext=true"]).unwrap();
    assert_eq!(config::identity(&plain), config::identity(&encrypted));
}

#[test]
fn line_ends_in_keys_and_values_do_not_reach_the_message() {
    assert_eq!(fault("\"se\\ned\" = 1\n", &[]), "job.toml:1: unknown key `se\\ned`; did you mean `seed`?");
    let metric = fault("[data]\npath = \"x\"\n[train]\nmetric = \"a\\nb\"\n", &[]);
    assert!(metric.starts_with("job.toml:4: train.metric: is \"a\\nb\""), "{metric}");
    assert!(fault(MINIMAL, &["method.b\nta=0.1"]).starts_with("--set method.b\\nta: unknown key"));
    let no_value = "a\nb".parse::<Override>().unwrap_err().to_string();
    assert_eq!(no_value.lines().count(), 1, "{no_value}");
}
