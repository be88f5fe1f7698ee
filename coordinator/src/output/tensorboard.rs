//! TensorBoard event files: one sub-run a peer, so that peers lie over one another in the same chart, one for each
//! baseline, and `cohort` for what all peers share.
//!
//! The format is TensorFlow's record file (`tensorflow/core/lib/io/record_writer.h`: length, masked CRC-32C of the
//! length, data, masked CRC-32C of the data, little-endian) of `Event` messages (`tensorflow/core/util/event.proto`),
//! of which only the few fields declared here are written.

use super::event_log::seconds_since_epoch;
use crate::job::Observer;
use medley_common::events::{Event, StepEvent};
use medley_common::run_directory;
use medley_common::summary::Evaluation;
use prost::Message;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// `tensorflow.Event`.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Scalars>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Scalars {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    // Optional so that a zero is written: it is a member of a `oneof`.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// `tensorflow.SessionLog`.
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.START`: from this step on, what earlier files say is void.
const SESSION_START: i32 = 1;

/// Writes what happens to a run's TensorBoard files. A disk that fails is reported once; training goes on.
pub struct TensorBoard {
    directory: PathBuf,
    file_name: Option<String>,
    resumed_from: Option<u64>,
    started: Vec<String>,
    is_failing: bool,
}

impl TensorBoard {
    /// The TensorBoard files of a run directory; made with the first value.
    pub fn new(run_directory: &Path) -> Self {
        Self {
            directory: run_directory.join(run_directory::TENSORBOARD),
            file_name: None,
            resumed_from: None,
            started: Vec::new(),
            is_failing: false,
        }
    }

    fn step(&mut self, time: f64, event: &StepEvent) -> io::Result<()> {
        let cohort = [
            ("learning_rate", event.learning_rate),
            ("gradient_norm", event.gradient_norm),
            ("step_seconds", event.seconds),
            ("rows", event.rows as f64),
            ("truncated_rows", event.truncated_rows as f64),
            ("bytes_sent", event.bytes_sent as f64),
        ];
        self.write("cohort", time, event.step, named(cohort))?;
        for (peer, losses) in &event.losses {
            let values = [
                ("loss/total", losses.total),
                ("loss/cross_entropy", losses.cross_entropy),
                ("loss/positive", losses.positive),
                ("loss/negative", losses.negative),
                ("loss/divergence", losses.divergence),
            ];
            self.write(&format!("peer-{peer}"), time, event.step, named(values))?;
        }
        Ok(())
    }

    fn evaluation(&mut self, time: f64, evaluation: &Evaluation) -> io::Result<()> {
        let Evaluation { subject, split, protocol, step, .. } = evaluation;
        let values: BTreeMap<String, f64> = evaluation
            .metrics
            .iter()
            .map(|(metric, estimate)| (format!("{split}/{metric} ({protocol})"), estimate.mean))
            .collect();
        self.write(subject, time, *step, values)
    }

    /// Appends values to a sub-run's file. The file is closed in between: a cohort may have more peers than a
    /// process may have files.
    fn write(
        &mut self,
        sub_run: &str,
        time: f64,
        step: u64,
        values: impl IntoIterator<Item = (String, f64)>,
    ) -> io::Result<()> {
        let file_name = self
            .file_name
            .get_or_insert_with(|| {
                let process = std::process::id();
                format!("events.out.tfevents.{:010}.medley.{process}", time as u64)
            })
            .clone();
        let directory = self.directory.join(sub_run);
        let mut bytes = Vec::new();
        let is_new = !self.started.iter().any(|started| started == sub_run);
        if is_new {
            fs::create_dir_all(&directory)?;
            frame(&mut bytes, &header(time));
            if let Some(from) = self.resumed_from {
                frame(&mut bytes, &void_from(time, from + 1));
            }
        }
        let value = values.into_iter().map(|(tag, value)| Scalar { tag, simple_value: Some(value as f32) }).collect();
        let record =
            Record { wall_time: time, step: step as i64, summary: Some(Scalars { value }), ..Record::default() };
        frame(&mut bytes, &record.encode_to_vec());
        OpenOptions::new().create(true).append(true).open(directory.join(file_name))?.write_all(&bytes)?;
        if is_new {
            self.started.push(sub_run.to_owned());
        }
        Ok(())
    }
}

fn named<const N: usize>(values: [(&str, f64); N]) -> [(String, f64); N] {
    values.map(|(name, value)| (name.to_owned(), value))
}

fn header(time: f64) -> Vec<u8> {
    let record = Record { wall_time: time, file_version: Some("brain.Event:2".into()), ..Record::default() };
    record.encode_to_vec()
}

fn void_from(time: f64, step: u64) -> Vec<u8> {
    let record = Record {
        wall_time: time,
        step: step as i64,
        session_log: Some(SessionLog { status: SESSION_START }),
        ..Record::default()
    };
    record.encode_to_vec()
}

/// Appends one record with its length and checksums.
fn frame(bytes: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&masked_crc(&length).to_le_bytes());
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(&masked_crc(data).to_le_bytes());
}

/// A CRC of data that holds CRCs is weak, so the format rotates it and adds a constant (`crc32c.h`).
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

impl Observer for TensorBoard {
    fn event(&mut self, time: SystemTime, event: &Event) {
        let time = seconds_since_epoch(time);
        let written = match event {
            Event::JobStarted { resumed_from, .. } => {
                self.resumed_from = *resumed_from;
                Ok(())
            }
            Event::Step(step) => self.step(time, step),
            Event::Evaluation(evaluation) => self.evaluation(time, evaluation),
            _ => Ok(()),
        };
        if let Err(error) = written
            && !std::mem::replace(&mut self.is_failing, true)
        {
            tracing::warn!("cannot write TensorBoard files to {}: {error}; training goes on", self.directory.display());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medley_common::events::Losses;
    use medley_common::summary::Estimate;
    use std::time::{Duration, UNIX_EPOCH};

    /// CRC-32C bit by bit, from its polynomial: not the implementation under test.
    fn plain_crc(data: &[u8]) -> u32 {
        !data.iter().fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
        })
    }

    fn unmasked(masked: u32) -> u32 {
        masked.wrapping_sub(0xa282_ead8).rotate_left(15)
    }

    /// The records of a file, every length and checksum compared.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let length = number(0) as usize;
            assert_eq!(number(4), 0, "a record of 4 GiB");
            assert_eq!(unmasked(number(8)), plain_crc(&bytes[..8]));
            let data = &bytes[12..12 + length];
            assert_eq!(unmasked(number(12 + length)), plain_crc(data));
            records.push(data.to_vec());
            bytes = &bytes[16 + length..];
        }
        records
    }

    /// The fields of a protobuf message by number: the payloads of length-delimited ones, the bytes of others.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let length = match key & 7 {
                0 => {
                    fields.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => varint(&mut bytes) as usize,
                5 => 4,
                wire_type => panic!("wire type {wire_type}"),
            };
            fields.push((key >> 3, bytes[..length].to_vec()));
            bytes = &bytes[length..];
        }
        fields
    }

    fn field(bytes: &[u8], number: u64) -> Option<Vec<u8>> {
        fields(bytes).into_iter().find(|(at, _)| *at == number).map(|(_, value)| value)
    }

    /// (step, tag, value) of every scalar of a sub-run's only file.
    fn scalars(run: &Path, sub_run: &str) -> Vec<(u64, String, f32)> {
        let mut files = fs::read_dir(run.join("tensorboard").join(sub_run)).unwrap();
        let path = files.next().unwrap().unwrap().path();
        assert!(path.to_str().unwrap().contains("tfevents"));
        let records = records(&fs::read(path).unwrap());
        assert_eq!(field(&records[0], 3).unwrap(), b"brain.Event:2");
        let mut scalars = Vec::new();
        for record in &records[1..] {
            let step = u64::from_le_bytes(field(record, 2).unwrap().try_into().unwrap());
            for (_, value) in fields(&field(record, 5).unwrap_or_default()) {
                let tag = String::from_utf8(field(&value, 1).unwrap()).unwrap();
                let number = f32::from_le_bytes(field(&value, 2).unwrap().try_into().unwrap());
                scalars.push((step, tag, number));
            }
        }
        scalars
    }

    fn step(number: u64, total: f64) -> Event {
        Event::Step(StepEvent {
            step: number,
            stage: "train".into(),
            learning_rate: 0.5,
            gradient_norm: 2.0,
            rows: 64,
            truncated_rows: 0,
            seconds: 0.25,
            bytes_sent: 300,
            losses: BTreeMap::from([(0, Losses { total, ..Losses::default() }), (1, Losses::default())]),
        })
    }

    #[test]
    fn every_value_is_found_again_by_an_independent_decoder() {
        let run = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::new(run.path());
        let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        board.event(time, &step(300, 1.5));
        board.event(time, &step(310, f64::NAN));
        board.event(
            time,
            &Event::Evaluation(Evaluation {
                subject: "peer-0".into(),
                step: 310,
                split: "valid".into(),
                protocol: "uniform99".into(),
                candidates_hash: None,
                users: 10,
                metrics: BTreeMap::from([("NDCG@10".into(), Estimate { mean: 0.25, half_width: 0.1 })]),
            }),
        );
        let peer = scalars(run.path(), "peer-0");
        assert_eq!(peer[0], (300, "loss/total".into(), 1.5));
        assert_eq!(peer[1], (300, "loss/cross_entropy".into(), 0.0), "a zero is written");
        assert!(peer[5].2.is_nan());
        assert_eq!(peer[10], (310, "valid/NDCG@10 (uniform99)".into(), 0.25));
        assert_eq!(scalars(run.path(), "peer-1").len(), 10);
        let cohort = scalars(run.path(), "cohort");
        assert_eq!(cohort[0], (300, "learning_rate".into(), 0.5));
        assert_eq!(cohort[5], (300, "bytes_sent".into(), 300.0));
    }

    #[test]
    fn a_resumed_run_voids_the_steps_that_it_trains_again() {
        let run = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::new(run.path());
        let started = Event::JobStarted {
            job: "j".into(),
            version: "0".into(),
            method: "hail".into(),
            peers: 2,
            workers: 2,
            threads: 1,
            cores: 2,
            gpus: 0,
            resumed_from: Some(40),
            trained_before: Default::default(),
        };
        board.event(UNIX_EPOCH, &started);
        board.event(UNIX_EPOCH, &step(50, 1.0));
        let mut files = fs::read_dir(run.path().join("tensorboard/peer-0")).unwrap();
        let records = records(&fs::read(files.next().unwrap().unwrap().path()).unwrap());
        assert_eq!(field(&records[1], 2).unwrap(), 41_u64.to_le_bytes());
        assert_eq!(field(&field(&records[1], 7).unwrap(), 1).unwrap(), 1_u64.to_le_bytes());
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        // RFC 3720, appendix B.4: 32 bytes of zeros.
        assert_eq!(plain_crc(&[0; 32]), 0x8a91_36aa);
        assert_eq!(unmasked(masked_crc(&[0; 32])), 0x8a91_36aa);
    }
}
