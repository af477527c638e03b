//! The queue of one endpoint's posts: the waiting posts, in order, and the posts in flight. Pure.
//!
//! Posts are made in the order of their events, several at a time, but never two about the same recipient: a post about
//! a busy recipient waits until the earlier one has ended, and later posts overtake it. An event about a message as a
//! whole is about all of its recipients.

use std::collections::{HashMap, HashSet, VecDeque};

use uuid::Uuid;

use super::post::{Post, Subject};

/// The queue of one endpoint.
#[derive(Debug, Default)]
pub(super) struct OrderedQueue {
    /// All events up to this `seq` have been read.
    read: i64,
    waiting: VecDeque<Post>,
    in_flight: HashMap<u64, InFlightPost>,
    /// The number of posts started so far; each post's number is the value after its start.
    started: u64,
}

/// A post in flight.
#[derive(Debug)]
pub(super) struct InFlightPost {
    /// The `seq` of each of its events.
    pub seqs: Vec<i64>,
    /// The number of attempts before this one.
    pub attempts: i16,
    subjects: Vec<Subject>,
}

impl OrderedQueue {
    /// Creates a queue of the events above `cursor`.
    pub fn after(cursor: i64) -> Self {
        Self { read: cursor, ..Self::default() }
    }

    /// Returns the `seq` up to which events have been read.
    pub fn read(&self) -> i64 {
        self.read
    }

    /// Returns the number of waiting posts.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the `seq` of the first event of each retry that waits or is in flight.
    pub fn retries(&self) -> Vec<i64> {
        let waiting = self.waiting.iter().filter(|post| post.attempts > 0).map(Post::seq);
        let in_flight = self.in_flight.values().filter(|post| post.attempts > 0).map(InFlightPost::seq);
        waiting.chain(in_flight).collect()
    }

    /// Appends new events, and records that all events up to `read` have been read.
    pub fn extend(&mut self, posts: impl Iterator<Item = Post>, read: i64) {
        self.waiting.extend(posts);
        self.read = read;
    }

    /// Inserts a post that failed before, by the `seq` of its first event.
    pub fn insert(&mut self, post: Post) {
        let position = self.waiting.partition_point(|other| other.seq() < post.seq());
        self.waiting.insert(position, post);
    }

    /// Takes the posts that may start now, at most `max_posts` with at most `batch` events each. Returns each with its
    /// number.
    pub fn take(&mut self, max_posts: usize, batch: usize) -> Vec<(u64, Post)> {
        let mut posts = Vec::new();
        if max_posts == 0 || self.waiting.is_empty() {
            return posts;
        }
        let mut busy = Busy::default();
        self.in_flight.values().for_each(|post| busy.add(post.subjects.iter()));
        let mut skipped = VecDeque::new();
        while posts.len() < max_posts
            && let Some(mut post) = self.waiting.pop_front()
        {
            if busy.blocks(&post) {
                busy.add(post.items.iter().map(|item| &item.subject));
                skipped.push_back(post);
                continue;
            }
            self.fill(&mut post, &busy, batch);
            busy.add(post.items.iter().map(|item| &item.subject));
            posts.push((self.start(&post), post));
        }
        skipped.append(&mut self.waiting);
        self.waiting = skipped;
        posts
    }

    /// Adds the next waiting events to a post, up to `batch` events, until one of them cannot join it.
    fn fill(&mut self, post: &mut Post, busy: &Busy, batch: usize) {
        while post.items.len() < batch
            && let Some(next) = self.waiting.pop_front()
        {
            let joined = if busy.blocks(&next) { Err(next) } else { post.join(next, batch) };
            if let Err(next) = joined {
                return self.waiting.push_front(next);
            }
        }
    }

    fn start(&mut self, post: &Post) -> u64 {
        self.started += 1;
        let subjects = post.items.iter().map(|item| item.subject).collect();
        let in_flight = InFlightPost { seqs: post.seqs(), attempts: post.attempts, subjects };
        self.in_flight.insert(self.started, in_flight);
        self.started
    }

    /// Removes a finished post.
    pub fn finish(&mut self, number: u64) -> Option<InFlightPost> {
        self.in_flight.remove(&number)
    }

    /// Returns the `seq` up to which every event has had its first attempt.
    pub fn cursor(&self) -> i64 {
        let waiting = self.waiting.iter().filter(|post| post.attempts == 0).map(Post::seq);
        let in_flight = self.in_flight.values().filter(|post| post.attempts == 0).map(InFlightPost::seq);
        waiting.chain(in_flight).min().map_or(self.read, |first| first - 1)
    }
}

impl InFlightPost {
    /// Returns the `seq` of its first event.
    pub fn seq(&self) -> i64 {
        self.seqs.first().copied().unwrap_or(0)
    }
}

/// The subjects of posts in flight or waiting: later posts about them must wait.
#[derive(Default)]
struct Busy {
    /// Messages that are busy as a whole, or that have a busy recipient.
    any: HashSet<Uuid>,
    /// Messages that are busy as a whole.
    whole: HashSet<Uuid>,
    recipients: HashSet<(Uuid, Uuid)>,
}

impl Busy {
    fn blocks(&self, post: &Post) -> bool {
        post.items.iter().any(|item| match item.subject {
            Subject::NoMessage => false,
            Subject::Message(message) => self.any.contains(&message),
            Subject::Recipient(message, recipient) => {
                self.whole.contains(&message) || self.recipients.contains(&(message, recipient))
            }
        })
    }

    fn add<'a>(&mut self, subjects: impl Iterator<Item = &'a Subject>) {
        for subject in subjects {
            match *subject {
                Subject::NoMessage => {}
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

    fn queue(subjects: &[Subject]) -> OrderedQueue {
        let mut queue = OrderedQueue::after(0);
        let posts = (1..).zip(subjects).map(|(seq, subject)| Post::about(seq, *subject, 10));
        queue.extend(posts, i64::try_from(subjects.len()).unwrap());
        queue
    }

    fn take(queue: &mut OrderedQueue, most: usize, batch: usize) -> Vec<(u64, Vec<i64>)> {
        queue.take(most, batch).into_iter().map(|(number, post)| (number, post.seqs())).collect()
    }

    #[test]
    fn posts_about_one_recipient_go_in_order_and_others_overtake() {
        let mut queue = queue(&[A, A1, A2, B1, A1]);
        assert_eq!(take(&mut queue, 10, 1), [(1, vec![1]), (2, vec![4])]);
        assert_eq!((take(&mut queue, 10, 1), queue.cursor()), (vec![], 0));
        queue.finish(1);
        assert_eq!(take(&mut queue, 10, 1), [(3, vec![2]), (4, vec![3])]);
        assert_eq!(queue.cursor(), 1);
        queue.finish(3);
        assert_eq!((take(&mut queue, 10, 1), queue.cursor()), (vec![(5, vec![5])], 2));
        for number in [2, 4, 5] {
            queue.finish(number);
        }
        assert_eq!((queue.cursor(), queue.len()), (5, 0));
    }

    #[test]
    fn event_about_a_message_waits_for_its_recipients() {
        let mut queue = queue(&[A1, A]);
        assert_eq!(take(&mut queue, 10, 1).len(), 1);
        assert_eq!(take(&mut queue, 10, 1).len(), 0);
        queue.finish(1);
        assert_eq!(take(&mut queue, 10, 1), [(2, vec![2])]);
    }

    #[test]
    fn batch_may_contain_one_recipient_twice_and_ends_at_a_busy_one() {
        let mut queue = queue(&[A1, A1, B1, A2, B1]);
        assert_eq!(take(&mut queue, 1, 2), [(1, vec![1, 2])]);
        assert_eq!(take(&mut queue, 1, 1), [(2, vec![3])]);
        queue.finish(1);
        assert_eq!(take(&mut queue, 1, 10), [(3, vec![4])], "5 is about B1");
    }

    #[test]
    fn retries_go_first_and_do_not_move_the_cursor() {
        let mut queue = OrderedQueue::after(10);
        queue.extend(std::iter::once(Post::about(11, B1, 1)), 12);
        queue.insert(Post { attempts: 2, ..Post::about(4, A1, 1) });
        queue.insert(Post { attempts: 1, ..Post::about(3, A2, 1) });
        assert_eq!((queue.cursor(), queue.retries()), (10, vec![3, 4]));
        assert_eq!(take(&mut queue, 10, 10), [(1, vec![3]), (2, vec![4]), (3, vec![11])]);
        queue.finish(3);
        assert_eq!(queue.cursor(), 12, "all events up to 12 were read");
    }

    proptest! {
        #[test]
        fn each_event_is_taken_once_in_order_of_its_recipient(
            subjects in prop::collection::vec(prop::sample::select(vec![A, A1, A2, B1, Subject::NoMessage]), 1..60),
            most in 1_usize..5, batch in 1_usize..4, ends in prop::collection::vec(any::<prop::sample::Index>(), 200)
        ) {
            let mut queue = queue(&subjects);
            let (mut in_flight, mut finished) = (Vec::new(), Vec::<i64>::new());
            for end in ends {
                in_flight.extend(take(&mut queue, most.saturating_sub(in_flight.len()), batch));
                if in_flight.is_empty() {
                    break;
                }
                let (number, seqs) = in_flight.swap_remove(end.index(in_flight.len()));
                queue.finish(number);
                finished.extend(seqs);
                let cursor = queue.cursor();
                prop_assert!((1..=cursor).all(|seq| finished.contains(&seq)));
            }
            prop_assert_eq!(finished.len(), subjects.len());
            for (position, seq) in finished.iter().enumerate() {
                let subject = |seq: &i64| subjects[usize::try_from(*seq).unwrap() - 1];
                let mut busy = Busy::default();
                busy.add(std::iter::once(&subject(seq)));
                let later = finished[position..].iter().filter(|later| *later < seq);
                prop_assert!(later.copied().all(|later| !busy.blocks(&Post::about(later, subject(&later), 1))));
            }
        }
    }
}
