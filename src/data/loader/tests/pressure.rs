//! When things are slow, stand still or break: the same stream, no more memory than the ring, no thread that stays.

use super::*;
use std::sync::{Condvar, Mutex};

/// Holds whoever waits until it is opened.
#[derive(Debug, Default)]
pub(super) struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(super) fn wait(&self) {
        let open = self.open.lock().expect("no panic");
        drop(self.opened.wait_while(open, |open| !*open).expect("no panic"));
    }

    fn open(&self) {
        *self.open.lock().expect("no panic") = true;
        self.opened.notify_all();
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < patience, "{what}: never");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until nobody holds the source any more: every worker has left.
fn all_left(source: Arc<Memory>) {
    until("the last worker leaves", || Arc::strong_count(&source) == 1);
}

fn stalled(images: &mut [Image], sample: usize) -> Arc<Gate> {
    let gate = Arc::new(Gate::default());
    let Image::Good(bytes) = images[sample].clone() else {
        panic!("a good image");
    };
    images[sample] = Image::Stalled(Arc::clone(&gate), bytes);
    gate
}

#[test]
fn one_worker_that_stands_still_holds_up_the_stream_and_nothing_grows() {
    let seed = fresh_seed();
    let mut images = good(seed, 40);
    let config = || evaluate(4, positions(0, 5).until(40), OnBad::Skip);
    let expected = contents(&source(images.clone()), config(), 9);
    let gate = stalled(&mut images, 2);
    let source = source(images);
    let consumer = std::thread::spawn({
        let source = Arc::clone(&source);
        move || contents(&source, config(), 9)
    });
    let reads = || source.reads.load(Ordering::Relaxed);
    until("both slots are claimed", || reads() == 10);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(reads(), 10, "two slots of five");
    assert!(!consumer.is_finished(), "the first slot is not filled");
    gate.open();
    assert!(consumer.join().expect("no panic") == expected, "seed {seed}");
    all_left(source);
}

#[test]
fn a_loader_that_is_dropped_waits_for_the_worker_that_stands_still() {
    let mut images = good(1, 20);
    let gate = stalled(&mut images, 7);
    let source = source(images);
    let config = evaluate(3, positions(0, 5).until(20), OnBad::Skip);
    let mut loader = Loader::new(Arc::clone(&source) as Arc<dyn Source>, config).expect("good");
    drop(loader.next_slot().expect("no error"));
    until("the eighth image is being read", || {
        source.reads.load(Ordering::Relaxed) >= 8
    });
    let dropping = std::thread::spawn(move || drop(loader));
    std::thread::sleep(Duration::from_millis(30));
    assert!(!dropping.is_finished());
    gate.open();
    dropping.join().expect("no panic");
    all_left(source);
}

#[test]
fn a_slow_source_and_many_more_workers_than_cores_give_the_same_stream() {
    let seed = fresh_seed();
    let images = good(seed, 30);
    let expected = contents(
        &source(images.clone()),
        train(seed, 1, positions(0, 6), 30, OnBad::Skip),
        20,
    );
    for (threads, delay) in [
        (64, Duration::ZERO),
        (64, Duration::from_millis(3)),
        (2, Duration::from_millis(1)),
    ] {
        let slow = Arc::new(Memory {
            images: images.clone(),
            delay,
            reads: AtomicUsize::new(0),
        });
        let found = contents(&slow, train(seed, threads, positions(0, 6), 30, OnBad::Skip), 20);
        assert!(found == expected, "seed {seed}, {threads} threads, {delay:?}");
        assert!(
            slow.reads.load(Ordering::Relaxed) <= 6 * (20 + 3),
            "no more than a ring ahead"
        );
        all_left(slow);
    }
}

#[test]
fn a_consumer_that_dies_with_a_slot_in_its_hands_leaves_no_thread() {
    let source = source(good(1, 30));
    let config = train(1, 4, positions(0, 5), 30, OnBad::Skip);
    let consumer = std::thread::spawn({
        let source = Arc::clone(&source);
        move || {
            let mut loader = Loader::new(source as Arc<dyn Source>, config).expect("good");
            let _first = loader.next_slot().expect("no error");
            let _held = loader.next_slot().expect("no error");
            panic!("the planted end of the consumer");
        }
    });
    assert!(consumer.join().is_err());
    all_left(source);
}

#[test]
fn workers_that_panic_all_at_once_leave_no_thread_and_no_wait() {
    for threads in [1, 4, 16] {
        let mut images = good(1, 40);
        images[6..].fill(Image::Panics);
        let source = source(images);
        let config = evaluate(threads, positions(0, 4).until(40), OnBad::Skip);
        let error = first_error(Arc::clone(&source), config).to_string();
        assert!(error.contains("the planted panic"), "{error}");
        all_left(source);
    }
}

/// What was rendered from bytes that are not the file's is never served, and never counts as a bad image.
#[test]
fn a_shard_that_is_taken_away_ends_the_stream_by_name() {
    let images = good(1, 20);
    for (sample, rubbish) in [(9, false), (9, true)] {
        let mut images = images.clone();
        let bytes = match &images[sample] {
            Image::Good(bytes) if !rubbish => bytes.clone(),
            _ => b"zeros".to_vec(),
        };
        images[sample] = Image::TakenAway(bytes);
        for threads in [1, 3] {
            let config = evaluate(threads, positions(0, 4).until(20), OnBad::Skip);
            let source = source(images.clone());
            let error = first_error(Arc::clone(&source), config).to_string();
            assert!(error.contains("shard of 9"), "{error}");
            all_left(source);
        }
    }
}
