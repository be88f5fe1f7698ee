//! Configurations, interaction files and manifests.

use super::{Inputs, named};
use medley_common::config::{self, RunConfig};
use medley_common::hash;
use medley_common::manifest::{FORMAT, Manifest, ManifestFile, TrainingState};
use medley_fuzz::manifest::{INSIDE, OUTSIDE};
use serde_json::Value;
use std::collections::BTreeSet;

pub fn configurations() -> Inputs {
    let mut all = RunConfig::default();
    all.data.path = "toys.txt".into();
    let minimal = "[data]\npath = \"toys.txt\"\n";
    let methods = ["single", "dml", "hail", "peerrec", "rce", "popularity"];
    let mut inputs = vec![
        named("minimal", minimal),
        named("every-default", config::to_toml(&all)),
        named("dotted", "data.path = \"x\"\ntrain.steps = 9\nevaluation.protocols = [\"full\"]\n"),
        named("inline", "data = { path = \"x\", separator = \";\" }\nnetwork = { heads = 2, dimension = 64 }\n"),
        named("unknown-key", "[data]\npath = \"x\"\nmin_lenght = 5\n"),
        named("wrong-type", "[data]\npath = 5\n"),
        named("not-toml", "[data\npath = x"),
        named("large-number", format!("{minimal}[train]\nsteps = 9223372036854775807\n")),
        named("not-a-number", format!("{minimal}[optimizer]\nlearning_rate = nan\nweight_decay = -inf\n")),
        named("overrides", format!("{minimal}\0train.steps=7\0name=2026\0data.user_column=u")),
        named("override-of-a-table", format!("{minimal}\0train=3\0train.steps=7")),
        named("override-unknown", format!("{minimal}\0method.bta=0.1")),
        named("quoted-key", "\"da\\nta\" = 1\n"),
        named("schedule", format!("{minimal}[train]\nsteps = 100\nevaluate_every = 10\npatience = 2\n")),
        named("timeouts", format!("{minimal}[launch]\nheartbeat_ms = 50\ndeath_ms = 150\njoin_ms = 150\n")),
    ];
    for method in methods {
        let peers = if ["dml", "hail", "peerrec", "rce"].contains(&method) { 2 } else { 1 };
        let text = format!("{minimal}[cohort]\npeers = {peers}\n[method]\nname = \"{method}\"\n");
        inputs.push(named(format!("method-{method}"), text));
    }
    inputs
}

/// Every key and every name of a value, as libFuzzer reads them.
pub fn words_of_configurations() -> String {
    let mut words = BTreeSet::new();
    collect(&config::schema(), &mut words);
    words.iter().map(|word| format!("\"{word}\"\n")).collect()
}

fn collect(schema: &Value, words: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), member) {
                    ("properties", Value::Object(properties)) => words.extend(properties.keys().cloned()),
                    ("const", Value::String(word)) => words.extend([word.clone()]),
                    ("enum", Value::Array(all)) => {
                        words.extend(all.iter().filter_map(Value::as_str).map(str::to_owned))
                    }
                    _ => {}
                }
                collect(member, words);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| collect(element, words)),
        _ => {}
    }
}

/// Formats as `medley_fuzz::dataset` numbers them.
const AUTO: u8 = 0;
const USER_ITEM: u8 = 1;
const SEQUENCES: u8 = 2;
const MOVIELENS: u8 = 3;
const RECBOLE: u8 = 4;
const CSV: u8 = 5;
const TSV: u8 = 6;

/// Settings as `medley_fuzz::dataset` numbers them.
const SEMICOLON: u8 = 1;
const TIMES: u8 = 4;
const STARS: u8 = 8 | 16;
const FILTERS: u8 = 32 | 64;

pub fn datasets() -> Inputs {
    let pairs = "7 30\n7 10\n3 20\n7 30\n3 10\n7 20\n3 40\n";
    let sequences = "7 30 10 30 20\n3 20 10 40\n";
    let ratings = "7::20::5::400\n7::30::4::100\n3::20::1::5\n7::10::3::200\n3::40::1::7\n3::10::1::6\n";
    let recbole = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t30\t5\t1\n7\t20\t4\t4\n7\t10\t3\t2.5\n3\t20\t4\t1\n3\t40\t4\t1e3\n3\t10\t4\t2\n";
    let csv = "stars,item,time,user\n5,30,1,7\n4,20,4,7\n3,\"10\",2,7\n1,20,1,3\n1,40,3,3\n1,10,2,3\n";
    let file = |name: &str, format: u8, settings: u8, content: &str| {
        named(name, [&[format, settings], content.as_bytes()].concat())
    };
    vec![
        file("pairs", USER_ITEM, 0, pairs),
        file("pairs-detected", AUTO, 0, pairs),
        file("pairs-separated", USER_ITEM, SEMICOLON, &pairs.replace(' ', ";")),
        file("pairs-filtered", USER_ITEM, FILTERS, pairs),
        file("sequences", SEQUENCES, 0, sequences),
        file("sequences-detected", AUTO, 0, sequences),
        file("ratings", MOVIELENS, 0, ratings),
        file("ratings-detected", AUTO, 16, ratings),
        file("recbole", RECBOLE, 0, recbole),
        file("recbole-detected", AUTO, 16, recbole),
        file("csv", CSV, TIMES | STARS, csv),
        file("csv-detected", AUTO, TIMES, csv),
        file("csv-semicolons", CSV, SEMICOLON | TIMES, &csv.replace(',', ";")),
        file("csv-quoted", CSV, 0, "user,item\n\"a\nb\",1\n\"a\nb\",2\n\"a\nb\",\"3\"\"\"\n"),
        file("csv-header-of-lines", CSV, 0, "\"us\ner\",item\n1,2\n"),
        file("csv-ragged", CSV, 0, "user,item\n1,2,3\n"),
        file("tsv", TSV, TIMES, &csv.replace(',', "\t")),
        file("byte-order-mark", AUTO, 0, &format!("\u{feff}{}", pairs.replace('\n', "\r\n\r\n"))),
        file("large-id", USER_ITEM, 0, "99999999999999999999999 1\n"),
        file("not-a-number", MOVIELENS, 0, "1::2::nan::inf\n"),
        file("empty", AUTO, 0, ""),
        named("not-text", [USER_ITEM, 0, b'1', b' ', 0xff, b'\n']),
    ]
}

pub fn manifests() -> Inputs {
    let file = |(name, content): (&str, &[u8])| ManifestFile {
        name: name.into(),
        bytes: content.len() as u64,
        sha256: hash::sha256(content),
    };
    let whole = Manifest {
        format: FORMAT,
        version: "0.1.0".into(),
        job: "job".into(),
        generation: 1,
        step: 4,
        peers: 2,
        config_hash: String::new(),
        data_hash: "data".into(),
        state: TrainingState {
            optimizer_steps: 4,
            best_metric: Some(0.123_456_789_012_345_67),
            best_step: 2,
            evaluations_without_improvement: 1,
            items: 30,
            train_seconds: 1.1,
            rows: 99,
            bytes_sent: 7,
        },
        files: vec![file(INSIDE)],
    };
    let json = |manifest: &Manifest| serde_json::to_vec(manifest).expect("a manifest has string keys only");
    let naming = |name: &str, content: &[u8]| json(&Manifest { files: vec![file((name, content))], ..whole.clone() });
    vec![
        named("whole", json(&whole)),
        named("other-format", json(&Manifest { format: 2, ..whole.clone() })),
        named("no-files", json(&Manifest { files: Vec::new(), ..whole.clone() })),
        named("file-twice", json(&Manifest { files: vec![file(INSIDE), file(INSIDE)], ..whole.clone() })),
        named("file-outside", naming(&format!("../{}", OUTSIDE.0), OUTSIDE.1)),
        named("file-absolute", naming("/dev/null", b"")),
        named("file-of-lines", naming("a\nb", b"")),
        named("file-hidden", naming(".hidden", b"")),
        named("file-itself", naming("manifest.json", b"")),
        named("file-with-zero", naming("a\0b", b"")),
        named("file-changed", naming(INSIDE.0, b"tensorz")),
        named("not-json", "{\"format\":"),
        named("version-of-lines", json(&Manifest { format: 2, version: "1\n2".into(), ..whole })),
    ]
}
