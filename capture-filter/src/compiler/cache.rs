//! Answers by text, the latest used ones.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{Filter, FilterError};

/// What a text led to.
pub(crate) type Answer = Result<Arc<Filter>, FilterError>;

/// Most texts that are remembered.
const MAX_ENTRIES: usize = 1024;
/// Most memory that they take, in bytes: a text can become 4,096 instructions.
const MAX_BYTES: usize = 8 << 20;

#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<Arc<str>, Entry>,
    /// Counts uses: the smallest `used` is the one to forget.
    clock: u64,
    bytes: usize,
}

struct Entry {
    answer: Answer,
    used: u64,
    bytes: usize,
}

impl Cache {
    pub(crate) fn get(&mut self, text: &str) -> Option<Answer> {
        self.clock += 1;
        let entry = self.entries.get_mut(text)?;
        entry.used = self.clock;
        Some(entry.answer.clone())
    }

    pub(crate) fn insert(&mut self, text: &str, answer: Answer) {
        self.clock += 1;
        let bytes = cost(text, &answer);
        let entry = Entry { answer, used: self.clock, bytes };
        self.bytes += bytes;
        if let Some(old) = self.entries.insert(text.into(), entry) {
            self.bytes -= old.bytes;
        }
        while self.entries.len() > MAX_ENTRIES || (self.bytes > MAX_BYTES && self.entries.len() > 1) {
            let Some(oldest) =
                self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(text, _)| text.clone())
            else {
                break;
            };
            self.bytes -= self.entries.remove(&oldest).map_or(0, |entry| entry.bytes);
        }
    }
}

fn cost(text: &str, answer: &Answer) -> usize {
    let program = match answer {
        Ok(filter) => {
            text.len()
                + size_of_val(filter.classic().instructions())
                + size_of_val(filter.translation().code.as_slice())
        }
        // A message of bounded length.
        Err(_) => 0,
    };
    size_of::<Entry>() + 512 + text.len() + program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;

    fn refused() -> Answer {
        Err(FilterError::Protochain)
    }

    #[test]
    fn the_least_lately_used_text_is_forgotten_first() {
        let mut cache = Cache::default();
        for number in 0..MAX_ENTRIES {
            cache.insert(&number.to_string(), refused());
        }
        assert_eq!(cache.get("0"), Some(refused()));
        cache.insert("new", refused());
        assert_eq!(cache.entries.len(), MAX_ENTRIES);
        assert_eq!(cache.get("0"), Some(refused()));
        assert_eq!(cache.get("1"), None);
        assert_eq!(cache.get("new"), Some(refused()));
    }

    #[test]
    fn large_programs_do_not_pile_up() {
        let list: Vec<String> = (0..150).map(|number| format!("host 10.0.{number}.1")).collect();
        let expression = list.join(" or ");
        let filter = Arc::new(Filter::from_classic("", compile(&expression).unwrap()).unwrap());
        let mut cache = Cache::default();
        for number in 0..MAX_ENTRIES {
            cache.insert(&number.to_string(), Ok(filter.clone()));
        }
        assert!(cache.bytes <= MAX_BYTES, "{}", cache.bytes);
        assert!(cache.entries.len() < MAX_ENTRIES && cache.entries.len() > 50, "{}", cache.entries.len());
        assert!(cache.get("1023").is_some());
    }

    #[test]
    fn the_same_text_counts_once() {
        let mut cache = Cache::default();
        cache.insert("tcp", refused());
        let bytes = cache.bytes;
        cache.insert("tcp", refused());
        assert_eq!((cache.entries.len(), cache.bytes), (1, bytes));
    }
}
