#![allow(clippy::unwrap_used)]

use crate::data::{DataError, Dataset};
use medley_common::config::{DataConfig, DataFormat};
use std::fs;

/// Loads `content` as a file of this name, with a configuration changed by `change`. Returns the error's text with
/// the file's directory taken out.
fn load_with(name: &str, content: impl AsRef<[u8]>, change: impl FnOnce(&mut DataConfig)) -> Result<Dataset, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    let mut config = DataConfig { path, ..DataConfig::default() };
    change(&mut config);
    let prefix = format!("{}/", directory.path().display());
    Dataset::load(&config).map_err(|error| {
        let text = error.to_string();
        assert!(!text.contains('\n'), "one line: {text}");
        text.replace(&prefix, "")
    })
}

fn load(name: &str, content: impl AsRef<[u8]>) -> Result<Dataset, String> {
    load_with(name, content, |_| {})
}

fn names(dataset: &Dataset) -> Vec<(String, Vec<String>)> {
    dataset
        .user_names
        .iter()
        .zip(&dataset.sequences)
        .map(|(user, sequence)| {
            let items = sequence.iter().map(|&item| dataset.item_names[item as usize].clone()).collect();
            (user.clone(), items)
        })
        .collect()
}

/// Two users in every format, the second one first.
fn expected() -> Vec<(String, Vec<String>)> {
    let strings = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect();
    vec![("7".into(), strings(&["30", "10", "30", "20"])), ("3".into(), strings(&["20", "10", "40"]))]
}

const USER_ITEM: &str = "7 30\n7 10\n3 20\n7 30\n3 10\n7 20\n3 40\n";
const SEQUENCES: &str = "7 30 10 30 20\n3 20 10 40\n";
const MOVIELENS: &str =
    "7::20::5::400\n7::30::4::100\n3::20::1::5\n7::10::3::200\n7::30::2::300\n3::40::1::7\n3::10::1::6\n";
const RECBOLE: &str = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t30\t5\t1\n7\t20\t4\t4\n7\t10\t3\t2.5\n7\t30\t1\t3\n3\t20\t4\t1\n3\t40\t4\t1e3\n3\t10\t4\t2\n";
const CSV: &str =
    "stars,item,\"when\",user\n5,30,1,7\n4,20,4,7\n3,\"10\",2,7\n2,30,3,7\n1,20,1,3\n1,40,3,3\n1,10,2,3\n";

fn timed(config: &mut DataConfig) {
    config.timestamp_column = Some("when".into());
}

#[test]
fn every_format_is_detected_and_read() {
    for (name, content, format) in [
        ("data.txt", USER_ITEM, DataFormat::UserItem),
        ("data.txt", SEQUENCES, DataFormat::Sequences),
        ("ratings.dat", MOVIELENS, DataFormat::Movielens),
        ("data.txt", MOVIELENS, DataFormat::Movielens),
        ("x.inter", RECBOLE, DataFormat::Recbole),
        ("x.txt", RECBOLE, DataFormat::Recbole),
    ] {
        let dataset = load(name, content).unwrap();
        assert_eq!(dataset.report.format, format);
        assert_eq!(names(&dataset), expected(), "{format:?}");
    }
    for (name, content, format) in [
        ("x.csv", CSV.to_owned(), DataFormat::Csv),
        ("x.txt", CSV.to_owned(), DataFormat::Csv),
        ("x.tsv", CSV.replace(',', "\t"), DataFormat::Tsv),
        ("x.txt", CSV.replace(',', "\t"), DataFormat::Tsv),
    ] {
        let dataset = load_with(name, content, timed).unwrap();
        assert_eq!(dataset.report.format, format);
        assert_eq!(names(&dataset), expected(), "{format:?}");
    }
}

#[test]
fn items_are_numbered_by_first_appearance_in_the_file() {
    let dataset = load("data.txt", USER_ITEM).unwrap();
    assert_eq!(dataset.item_names, ["30", "10", "20", "40"]);
    assert_eq!(dataset.sequences, [vec![0, 1, 0, 2], vec![2, 1, 3]]);
    let dataset = load("ratings.dat", MOVIELENS).unwrap();
    assert_eq!(dataset.item_names, ["20", "30", "10", "40"]);
}

#[test]
fn a_byte_order_mark_crlf_and_blank_lines_change_nothing() {
    for (name, content) in [
        ("data.txt", USER_ITEM),
        ("data.txt", SEQUENCES),
        ("ratings.dat", MOVIELENS),
        ("x.inter", RECBOLE),
        ("x.csv", CSV),
    ] {
        let change = |config: &mut DataConfig| {
            if name == "x.csv" {
                timed(config);
            }
        };
        let plain = load_with(name, content, change).unwrap();
        let windows = format!("\u{feff}{}\r\n\r\n", content.trim_end().replace('\n', "\r\n"));
        let other = load_with(name, windows, change).unwrap();
        assert_eq!(plain, other, "{name}");
    }
}

#[test]
fn other_separators_and_columns_can_be_chosen() {
    let separated = load_with("data.txt", USER_ITEM.replace(' ', " ; "), |config| {
        config.separator = Some(";".into());
    });
    assert_eq!(names(&separated.unwrap()), expected());
    let renamed = CSV.replace("item", "song").replace("user", "who").replace(',', ";");
    let dataset = load_with("x.csv", renamed, |config| {
        timed(config);
        config.separator = Some(";".into());
        config.user_column = "who".into();
        config.item_column = "song".into();
    });
    assert_eq!(names(&dataset.unwrap()), expected());
    for column in ["item_id", "item_id:token"] {
        let dataset = load_with("x.inter", RECBOLE, |config| config.item_column = column.into());
        assert_eq!(names(&dataset.unwrap()), expected());
    }
}

#[test]
fn quoted_fields_may_hold_separators_and_quotes() {
    let csv = "user,item\na,\"x, \"\"y\"\"\"\na,z\na,\"x, \"\"y\"\"\"\n";
    let dataset = load("x.csv", csv).unwrap();
    assert_eq!(dataset.item_names, ["x, \"y\"", "z"]);
    assert_eq!(dataset.sequences, [vec![0, 1, 0]]);
}

#[test]
fn ratings_filter_and_leave_short_users_out() {
    let dataset = load_with("ratings.dat", MOVIELENS, |config| config.min_rating = Some(3.0)).unwrap();
    assert_eq!(dataset.user_names, ["7"]);
    assert_eq!(dataset.interactions(), 3);
    assert_eq!(dataset.report.interactions_read, 7);
    assert_eq!(dataset.report.interactions_rated_lower, 4);
    let recbole = load_with("x.inter", RECBOLE, |config| config.min_rating = Some(2.0)).unwrap();
    assert_eq!(recbole.interactions(), 6);
    let csv = load_with("x.csv", CSV, |config| {
        config.min_rating = Some(3.0);
        config.rating_column = Some("stars".into());
    });
    assert_eq!(csv.unwrap().interactions(), 3);
}

#[test]
fn the_core_filter_counts_what_it_removes() {
    let content = "a 1 2 3 9\nb 2 1 3\nc 3 2 1\nd 7 8\n";
    let dataset = load_with("data.txt", content, |config| config.k_core = 3).unwrap();
    assert_eq!(dataset.user_names, ["a", "b", "c"]);
    assert_eq!(dataset.item_names, ["1", "2", "3"]);
    assert_eq!(dataset.report.users_below_k_core, 1);
    assert_eq!(dataset.report.items_removed, 3);
    let least = load_with("data.txt", content, |config| config.min_length = 4).unwrap();
    assert_eq!(least.user_names, ["a"]);
    assert_eq!(least.report.users_below_min_length, 3);
}

#[test]
fn the_hash_changes_if_and_only_if_the_content_does() {
    let base = load("data.txt", USER_ITEM).unwrap().hash;
    assert_eq!(base.len(), 64);
    assert_eq!(base, load("other.txt", USER_ITEM.replace('\n', "\r\n")).unwrap().hash);
    let filtered = format!("{USER_ITEM}5 30\n5 10\n");
    let filtered = load_with("data.txt", filtered, |config| config.k_core = 1).unwrap();
    assert_eq!(filtered.report.users_below_min_length, 1);
    assert_eq!(base, filtered.hash);
    for (from, to) in [("7 10\n", "7 11\n"), ("3 40\n", "3 41\n"), ("7 ", "8 "), ("3 40\n", ""), ("3 40\n", "3 20\n")] {
        // Dropping a line leaves a user with two items, so a filter has to allow it.
        let other = load_with("data.txt", USER_ITEM.replace(from, to), |config| config.k_core = 1);
        assert_ne!(base, other.unwrap().hash, "{from:?}");
    }
}

#[test]
fn a_file_that_is_not_there_or_not_readable_is_named() {
    let config = DataConfig { path: "no/such/file.txt".into(), ..DataConfig::default() };
    assert_eq!(
        Dataset::load(&config).unwrap_err().to_string(),
        "no/such/file.txt: does not exist; check data.path (relative paths start at the working directory)"
    );
    let directory = tempfile::tempdir().unwrap();
    let config = DataConfig { path: directory.path().into(), ..DataConfig::default() };
    assert!(matches!(Dataset::load(&config), Err(DataError::NotAFile { kind: "directory", .. })));
    let config = DataConfig { path: "/dev/zero".into(), ..DataConfig::default() };
    assert!(matches!(Dataset::load(&config), Err(DataError::NotAFile { kind: "device", .. })));
    let pipe = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let config = DataConfig { path: pipe, ..DataConfig::default() };
    assert!(matches!(Dataset::load(&config), Err(DataError::NotAFile { kind: "pipe", .. })), "and nobody waits for it");
}

#[test]
fn an_empty_file_is_refused_in_every_format() {
    for (name, content) in [
        ("data.txt", ""),
        ("data.txt", "\n \n"),
        ("ratings.dat", ""),
        ("x.inter", ""),
        ("x.csv", ""),
        ("x.csv", "user,item\n"),
    ] {
        assert_eq!(
            load(name, content).unwrap_err(),
            format!("{name}: holds no interactions; give a file with at least one line of data")
        );
    }
}

#[test]
fn a_missing_column_lists_the_ones_there_are() {
    let error = load("x.csv", "who,item,when\na,b,1\n").unwrap_err();
    assert_eq!(error, "x.csv:1: there is no column \"user\"; set data.user_column to one of: who, item, when");
    let error = load_with("x.inter", RECBOLE, |c| c.timestamp_column = Some("t".into())).unwrap_err();
    assert_eq!(
        error,
        "x.inter:1: there is no column \"t\"; set data.timestamp_column to one of: user_id, item_id, rating, timestamp"
    );
    let error = load_with("x.csv", CSV, |config| config.min_rating = Some(1.0)).unwrap_err();
    assert_eq!(error, "x.csv: data.min_rating needs data.rating_column; set it to one of: stars, item, when, user");
    let error = load_with("data.txt", USER_ITEM, |config| config.min_rating = Some(1.0)).unwrap_err();
    assert!(error.starts_with("data.txt: data.min_rating is set, but the file's format has no ratings;"));
}

#[test]
fn bytes_that_are_not_utf_8_are_located() {
    for (name, content) in [
        ("data.txt", &b"1 2\n1 \xff\n"[..]),
        ("ratings.dat", b"1::2::3::4\n1::\xff::3::4\n"),
        ("x.csv", b"user,item\n1,\xff\n"),
    ] {
        let error = load(name, content).unwrap_err();
        assert!(error.starts_with(&format!("{name}:2: is not UTF-8 text;")), "{error}");
    }
}

#[test]
fn malformed_lines_are_located() {
    for (name, content, start) in [
        ("data.txt", "1 2\n1 3\n1\n", "data.txt:3: has 1 field(s) where 2 (user, item) are expected;"),
        ("data.txt", "1 2\n1 3\n1 4 5\n", "data.txt:3: has 3 field(s) where 2 (user, item) are expected;"),
        ("data.txt", "1 2 3 4\n2 3 4\n3\n", "data.txt:3: has 1 field(s) where at least 2"),
        ("ratings.dat", "1::2::3::4\n\n1::2::3\n", "ratings.dat:3: has 3 field(s) where 4"),
        ("x.csv", "user,item\r\na,b\r\n\r\na,b,c\r\n", "x.csv:4: has 3 field(s) where 2 (as in the header)"),
        ("x.csv", "user,item\na,b\na,\n", "x.csv:3: the item is empty;"),
        ("ratings.dat", "1::2::good::4\n", "ratings.dat:1: rating \"good\" is not a finite number;"),
        ("ratings.dat", "1::2::3::NaN\n", "ratings.dat:1: timestamp \"NaN\" is not a finite number;"),
    ] {
        let error = load(name, content).unwrap_err();
        assert!(error.starts_with(start), "{error}");
    }
    let error = load_with("x.csv", CSV.replace(",4,7", ",noon,7"), timed).unwrap_err();
    assert_eq!(
        error,
        "x.csv:3: timestamp \"noon\" is not a finite number; mend the line (times are numbers such as Unix seconds)"
    );
}

#[test]
fn ids_that_64_bits_cannot_hold_are_refused() {
    let most = u64::MAX.to_string();
    let beyond = "18446744073709551616";
    assert!(load("data.txt", format!("{most} 1\n{most} 2\n{most} 3\n")).is_ok());
    for (name, content) in [
        ("data.txt", format!("1 2\n1 {beyond}\n1 3\n")),
        ("data.txt", format!("1 2\n{beyond} 2\n1 3\n")),
        ("data.txt", format!("1 2 3\n2 3 2 {beyond}\n")),
        ("ratings.dat", format!("1::2::3::4\n1::{beyond}::3::4\n")),
    ] {
        let error = load(name, content).unwrap_err();
        assert!(error.starts_with(&format!("{name}:2: id overflow: ")), "{error}");
        assert!(error.contains(beyond), "{error}");
    }
}

#[test]
fn ambiguous_files_are_refused_unless_their_format_is_named() {
    let three = "1 2 3\n4 5 6\n7 8 9\n";
    assert_eq!(
        load("data.txt", three).unwrap_err(),
        "data.txt: cannot tell the file's format: its first lines have 3 field(s) each; set data.format to user-item, sequences, movielens, recbole, csv or tsv"
    );
    assert!(load("data.txt", "1,2\n1,3\n").unwrap_err().contains("cannot tell"));
    assert!(load("data.txt", "1 2 3\n1 2 3 4\n").unwrap_err().contains("cannot tell"));
    let named = load_with("data.txt", "1 2 3 2\n4 2 6 3\n", |c| c.format = DataFormat::Sequences);
    assert_eq!(named.unwrap().interactions(), 6);
}

#[test]
fn a_user_with_one_item_is_refused_unless_a_filter_is_asked_for() {
    let content = "1 2\n1 3\n1 4\n17 2\n";
    assert_eq!(
        load("data.txt", content).unwrap_err(),
        "data.txt:4: user \"17\" has one item, but training, validation and test need 3; remove the user, or set \
         data.k_core: 1 leaves out users below data.min_length, 3 also items with fewer than 3 interactions"
    );
    let two = load("data.txt", format!("{content}17 3\n")).unwrap_err();
    assert!(two.starts_with("data.txt:4: user \"17\" has 2 items,"), "{two}");
    let filtered = load_with("data.txt", content, |config| config.k_core = 1).unwrap();
    assert_eq!(filtered.user_names, ["1"]);
    assert_eq!(filtered.report.users_below_min_length, 1);
}

#[test]
fn nobody_left_and_a_catalogue_of_one_are_refused() {
    let error = load_with("data.txt", USER_ITEM, |config| config.k_core = 5).unwrap_err();
    assert_eq!(
        error,
        "data.txt: no user is left of 2 after data.min_rating, data.k_core = 5 and data.min_length = 3; lower them"
    );
    let error = load_with("ratings.dat", MOVIELENS, |c| c.min_rating = Some(9.0)).unwrap_err();
    assert!(error.starts_with("ratings.dat: no user is left of 0 after"), "{error}");
    assert_eq!(
        load("data.txt", "1 5\n1 5\n1 5\n").unwrap_err(),
        "data.txt: every interaction is with the one item \"5\", so there is nothing to rank; give data with at least two items"
    );
}

#[test]
fn columns_of_several_lines_or_without_number_are_named_on_one_line() {
    let missing = load("x.csv", "\"us\ner\",item\n1,2\n").unwrap_err();
    assert!(missing.ends_with("set data.user_column to one of: us\\ner, item"), "{missing}");
    let wide = load("x.csv", format!("{}\n", "column,".repeat(5_000))).unwrap_err();
    assert!(wide.ends_with("and 4971 more") && wide.len() < 1_000, "{wide}");
}
