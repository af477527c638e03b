//! The posts of one endpoint that wait, in order, and those that are under way. Pure.
//!
//! Posts go in the order of their events, several at a time, but never two about the same recipient: what is about one waits
//! until what came before has arrived, and those behind go past it. An event about a message as a whole is about all of its
//! recipients.

use std::collections::{HashMap, HashSet, VecDeque};

use uuid::Uuid;

use super::post::{Post, Subject};

/// The line.
#[derive(Debug, Default)]
pub(super) struct OrderedQueue {
    /// All events up to this number have been read.
    read: i64,
    waiting: VecDeque<Post>,
    flying: HashMap<u64, Flight>,
    flights: u64,
}

/// What is remembered of a post under way.
#[derive(Debug)]
pub(super) struct Flight {
    /// Its events.
    pub seqs: Vec<i64>,
    /// Tries before this one.
    pub tries: i16,
    subjects: Vec<Subject>,
}

impl OrderedQueue {
    /// A line of events above `cursor`.
    pub fn after(cursor: i64) -> Self {
        Self { read: cursor, ..Self::default() }
    }

    /// From where to read on.
    pub fn read(&self) -> i64 {
        self.read
    }

    /// Posts that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The first events of the retries that wait or are under way.
    pub fn retries(&self) -> Vec<i64> {
        let waiting = self.waiting.iter().filter(|post| post.tries > 0).map(Post::seq);
        let flying = self.flying.values().filter(|flight| flight.tries > 0).map(Flight::seq);
        waiting.chain(flying).collect()
    }

    /// Takes events that were read; all up to `read` have been.
    pub fn extend(&mut self, posts: impl Iterator<Item = Post>, read: i64) {
        self.waiting.extend(posts);
        self.read = read;
    }

    /// Takes a post that failed before, at its place.
    pub fn insert(&mut self, post: Post) {
        let place = self.waiting.partition_point(|other| other.seq() < post.seq());
        self.waiting.insert(place, post);
    }

    /// The posts that may start now, at most `most` with at most `batch` events each.
    pub fn take(&mut self, most: usize, batch: usize) -> Vec<(u64, Post)> {
        let mut posts = Vec::new();
        if most == 0 || self.waiting.is_empty() {
            return posts;
        }
        let mut busy = Busy::default();
        self.flying.values().for_each(|flight| busy.add(flight.subjects.iter()));
        let mut passed = VecDeque::new();
        while posts.len() < most
            && let Some(mut post) = self.waiting.pop_front()
        {
            let is_held = busy.holds(&post);
            if is_held {
                busy.add(post.items.iter().map(|item| &item.subject));
                passed.push_back(post);
                continue;
            }
            self.fill(&mut post, &busy, batch);
            busy.add(post.items.iter().map(|item| &item.subject));
            posts.push((self.start(&post), post));
        }
        passed.append(&mut self.waiting);
        self.waiting = passed;
        posts
    }

    /// Takes what follows into the same post.
    fn fill(&mut self, post: &mut Post, busy: &Busy, batch: usize) {
        while post.items.len() < batch
            && let Some(next) = self.waiting.pop_front()
        {
            let joined = if busy.holds(&next) { Err(next) } else { post.join(next, batch) };
            if let Err(next) = joined {
                return self.waiting.push_front(next);
            }
        }
    }

    fn start(&mut self, post: &Post) -> u64 {
        self.flights += 1;
        let subjects = post.items.iter().map(|item| item.subject).collect();
        self.flying.insert(self.flights, Flight { seqs: post.seqs(), tries: post.tries, subjects });
        self.flights
    }

    /// A post has come to its end.
    pub fn land(&mut self, flight: u64) -> Option<Flight> {
        self.flying.remove(&flight)
    }

    /// The number up to which every event has had its first try.
    pub fn cursor(&self) -> i64 {
        let waiting = self.waiting.iter().filter(|post| post.tries == 0).map(Post::seq);
        let flying = self.flying.values().filter(|flight| flight.tries == 0).map(Flight::seq);
        waiting.chain(flying).min().map_or(self.read, |first| first - 1)
    }
}

impl Flight {
    /// The number of its first event.
    pub fn seq(&self) -> i64 {
        self.seqs.first().copied().unwrap_or(0)
    }
}

/// What is being told about.
#[derive(Default)]
struct Busy {
    /// Messages of which a recipient is, or all are.
    any: HashSet<Uuid>,
    /// Messages as a whole.
    whole: HashSet<Uuid>,
    recipients: HashSet<(Uuid, Uuid)>,
}

impl Busy {
    fn holds(&self, post: &Post) -> bool {
        post.items.iter().any(|item| match item.subject {
            Subject::Nothing => false,
            Subject::Message(message) => self.any.contains(&message),
            Subject::Recipient(message, recipient) => {
                self.whole.contains(&message) || self.recipients.contains(&(message, recipient))
            }
        })
    }

    fn add<'a>(&mut self, subjects: impl Iterator<Item = &'a Subject>) {
        for subject in subjects {
            match *subject {
                Subject::Nothing => {}
                Subject::Message(message) => {
                    self.any.insert(message);
                    self.whole.insert(message);
                }
                Subject::Recipient(message, recipient) => {
                    self.any.insert(message);
                    self.recipients.insert((message, recipient));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Subject = Subject::Message(Uuid::from_u128(1));
    const A1: Subject = Subject::Recipient(Uuid::from_u128(1), Uuid::from_u128(1));
    const A2: Subject = Subject::Recipient(Uuid::from_u128(1), Uuid::from_u128(2));
    const B1: Subject = Subject::Recipient(Uuid::from_u128(2), Uuid::from_u128(1));

    fn line(subjects: &[Subject]) -> OrderedQueue {
        let mut line = OrderedQueue::after(0);
        let posts = (1..).zip(subjects).map(|(seq, subject)| Post::about(seq, *subject, 10));
        line.extend(posts, i64::try_from(subjects.len()).unwrap());
        line
    }

    fn take(line: &mut OrderedQueue, most: usize, batch: usize) -> Vec<(u64, Vec<i64>)> {
        line.take(most, batch).into_iter().map(|(flight, post)| (flight, post.seqs())).collect()
    }

    #[test]
    fn those_about_the_same_recipient_go_one_after_the_other_and_others_past_them() {
        let mut line = line(&[A, A1, A2, B1, A1]);
        assert_eq!(take(&mut line, 10, 1), [(1, vec![1]), (2, vec![4])]);
        assert_eq!((take(&mut line, 10, 1), line.cursor()), (vec![], 0));
        line.land(1);
        assert_eq!(take(&mut line, 10, 1), [(3, vec![2]), (4, vec![3])]);
        assert_eq!(line.cursor(), 1);
        line.land(3);
        assert_eq!((take(&mut line, 10, 1), line.cursor()), (vec![(5, vec![5])], 2));
        for flight in [2, 4, 5] {
            line.land(flight);
        }
        assert_eq!((line.cursor(), line.len()), (5, 0));
    }

    #[test]
    fn a_message_as_a_whole_waits_for_its_recipients() {
        let mut line = line(&[A1, A]);
        assert_eq!(take(&mut line, 10, 1).len(), 1);
        assert_eq!(take(&mut line, 10, 1).len(), 0);
        line.land(1);
        assert_eq!(take(&mut line, 10, 1), [(2, vec![2])]);
    }

    #[test]
    fn a_batch_may_tell_of_one_recipient_twice_and_stops_at_what_must_wait() {
        let mut line = line(&[A1, A1, B1, A2, B1]);
        assert_eq!(take(&mut line, 1, 2), [(1, vec![1, 2])]);
        assert_eq!(take(&mut line, 1, 1), [(2, vec![3])]);
        line.land(1);
        assert_eq!(take(&mut line, 1, 10), [(3, vec![4])], "5 is about B1");
    }

    #[test]
    fn retries_go_first_and_do_not_move_the_cursor() {
        let mut line = OrderedQueue::after(10);
        line.extend(std::iter::once(Post::about(11, B1, 1)), 12);
        line.insert(Post { tries: 2, ..Post::about(4, A1, 1) });
        line.insert(Post { tries: 1, ..Post::about(3, A2, 1) });
        assert_eq!((line.cursor(), line.retries()), (10, vec![3, 4]));
        assert_eq!(take(&mut line, 10, 10), [(1, vec![3]), (2, vec![4]), (3, vec![11])]);
        line.land(3);
        assert_eq!(line.cursor(), 12, "all up to 12 was read");
    }

    proptest! {
        #[test]
        fn whatever_happens_each_is_taken_once_in_order_of_its_recipient(
            subjects in prop::collection::vec(prop::sample::select(vec![A, A1, A2, B1, Subject::Nothing]), 1..60),
            most in 1_usize..5, batch in 1_usize..4, lands in prop::collection::vec(any::<prop::sample::Index>(), 200)
        ) {
            let mut line = line(&subjects);
            let (mut flying, mut landed) = (Vec::new(), Vec::<i64>::new());
            for land in lands {
                flying.extend(take(&mut line, most.saturating_sub(flying.len()), batch));
                if flying.is_empty() {
                    break;
                }
                let (flight, seqs) = flying.swap_remove(land.index(flying.len()));
                line.land(flight);
                landed.extend(seqs);
                let cursor = line.cursor();
                prop_assert!((1..=cursor).all(|seq| landed.contains(&seq)));
            }
            prop_assert_eq!(landed.len(), subjects.len());
            for (place, seq) in landed.iter().enumerate() {
                let of = |seq: &i64| subjects[usize::try_from(*seq).unwrap() - 1];
                let mut busy = Busy::default();
                busy.add(std::iter::once(&of(seq)));
                let later = landed[place..].iter().filter(|later| *later < seq);
                prop_assert!(later.copied().all(|later| !busy.holds(&Post::about(later, of(&later), 1))));
            }
        }
    }
}
