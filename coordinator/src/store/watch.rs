//! Changes of keys, told so that nobody who listens misses how things are in the end.
//!
//! Whoever watches remembers what it has told ([`View`]). Where changes may have been missed, by a lost connection,
//! a compaction of the store's history or a listener that fell behind, it lists the keys again and tells the
//! difference. What lies between may be left out; the last state never is.

use super::Entries;
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Changes that may wait for a listener.
const WAITING: usize = 64;

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has a new value.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
    },
    /// It is gone.
    Deleted {
        /// The key.
        key: String,
    },
}

/// The changes of the keys below a prefix, those first that tell what was there at the beginning. Dropping it ends
/// the watch.
#[derive(Debug)]
pub struct Watch {
    changes: mpsc::Receiver<Change>,
    teller: JoinHandle<()>,
}

impl Watch {
    /// A watch whose changes the future that `tell` makes sends.
    pub(super) fn start<F>(tell: impl FnOnce(mpsc::Sender<Change>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, changes) = mpsc::channel(WAITING);
        Self { changes, teller: tokio::spawn(tell(sender)) }
    }

    /// The next change; waits for one. `None` once the store is closed. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Change> {
        self.changes.recv().await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.teller.abort();
    }
}

/// What a listener has been told.
#[derive(Debug, Default)]
pub(super) struct View {
    values: BTreeMap<String, Vec<u8>>,
}

impl View {
    /// Takes note of a change; false if it tells nothing new.
    pub fn apply(&mut self, change: &Change) -> bool {
        match change {
            Change::Put { key, value } => self.values.insert(key.clone(), value.clone()).as_ref() != Some(value),
            Change::Deleted { key } => self.values.remove(key).is_some(),
        }
    }

    /// Takes note of all that is there now, and returns by what it differs from what was told.
    pub fn replace(&mut self, present: Entries) -> Vec<Change> {
        let present: BTreeMap<_, _> = present.into_iter().collect();
        let gone = self.values.keys().filter(|key| !present.contains_key(*key));
        let gone = gone.map(|key| Change::Deleted { key: key.clone() });
        let new = present.iter().filter(|(key, value)| self.values.get(*key) != Some(*value));
        let new = new.map(|(key, value)| Change::Put { key: key.clone(), value: value.clone() });
        let changes = gone.chain(new).collect();
        self.values = present;
        changes
    }
}

#[cfg(test)]
impl PartialEq<Entries> for View {
    fn eq(&self, present: &Entries) -> bool {
        self.values.iter().eq(present.iter().map(|(key, value)| (key, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(key: &str, value: &str) -> Change {
        Change::Put { key: key.into(), value: value.into() }
    }

    fn gone(key: &str) -> Change {
        Change::Deleted { key: key.into() }
    }

    #[test]
    fn a_list_tells_only_what_is_new() {
        let mut view = View::default();
        assert!(view.apply(&put("a", "1")) && view.apply(&put("b", "1")));
        assert!(!view.apply(&put("a", "1")) && !view.apply(&gone("c")));
        let present = vec![("b".into(), b"2".to_vec()), ("c".into(), b"1".to_vec())];
        assert_eq!(view.replace(present.clone()), [gone("a"), put("b", "2"), put("c", "1")]);
        assert!(view.replace(present).is_empty());
        assert!(view.apply(&gone("c")));
    }

    proptest! {
        #[test]
        fn whatever_is_missed_a_list_makes_good(
            writes in proptest::collection::vec((0..4u8, proptest::option::of(0..3u8), any::<bool>()), 0..40)
        ) {
            let (mut view, mut truth, mut told) = (View::default(), BTreeMap::new(), BTreeMap::new());
            let tell = |told: &mut BTreeMap<String, Vec<u8>>, change: Change| match change {
                Change::Put { key, value } => { told.insert(key, value); }
                Change::Deleted { key } => { told.remove(&key); }
            };
            for (key, value, is_heard) in writes {
                let key = key.to_string();
                let change = match value {
                    Some(value) => { truth.insert(key.clone(), vec![value]); Change::Put { key, value: vec![value] } }
                    None => { truth.remove(&key); Change::Deleted { key } }
                };
                if is_heard && view.apply(&change) {
                    tell(&mut told, change);
                }
            }
            for change in view.replace(truth.clone().into_iter().collect()) {
                tell(&mut told, change);
            }
            prop_assert_eq!(told, truth);
        }
    }
}
