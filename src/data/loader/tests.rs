mod pressure;

use super::*;
use crate::data::augment::ScaleRange;
use crate::data::manifest::PcaRgb;
use crate::data::order::Order;
use crate::data::testing::{between, fresh_seed, picture, png, stream};
use crate::error::BadSample;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CROP: usize = 8;

/// What a sample of the test source does when it is read.
#[derive(Debug, Clone)]
enum Image {
    Good(Vec<u8>),
    Garbage,
    Unreadable,
    ShardGone,
    /// Its shard is taken away between reading and the end of rendering.
    TakenAway(Vec<u8>),
    Panics,
    /// Waits until the gate opens.
    Stalled(Arc<pressure::Gate>, Vec<u8>),
}

#[derive(Debug)]
struct Memory {
    images: Vec<Image>,
    delay: Duration,
    reads: AtomicUsize,
}

impl Source for Memory {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn label(&self, sample: usize) -> u32 {
        sample as u32
    }

    fn read<'a>(&'a self, sample: usize, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.delay);
        match &self.images[sample] {
            Image::Good(bytes) | Image::TakenAway(bytes) => {
                scratch.clear();
                scratch.extend_from_slice(bytes);
                Ok(scratch)
            }
            Image::Stalled(gate, bytes) => {
                gate.wait();
                scratch.clear();
                scratch.extend_from_slice(bytes);
                Ok(scratch)
            }
            Image::Garbage => Ok(b"not an image"),
            Image::Unreadable => Err(Error::Sample(Box::new(self.bad_sample(sample, "header".into())))),
            Image::ShardGone => Err(Error::invalid(format!("shard of {sample}"), "its length", "less")),
            Image::Panics => panic!("the planted panic"),
        }
    }

    fn confirm(&self, sample: usize) -> Result<()> {
        match &self.images[sample] {
            Image::TakenAway(_) => Err(Error::invalid(format!("shard of {sample}"), "its length", "less")),
            _ => Ok(()),
        }
    }

    fn bad_sample(&self, sample: usize, reason: String) -> BadSample {
        BadSample {
            shard: "memory".into(),
            offset: sample as u64,
            key: format!("key{sample}"),
            reason,
        }
    }
}

fn good(seed: u64, samples: usize) -> Vec<Image> {
    let mut stream = stream(seed);
    let mut image = || {
        let (width, height) = (between(&mut stream, 9, 40), between(&mut stream, 9, 40));
        let pixels = picture(&mut stream, width, height);
        Image::Good(png(&pixels, width, height, ::png::ColorType::Rgb))
    };
    (0..samples).map(|_| image()).collect()
}

fn source(images: Vec<Image>) -> Arc<Memory> {
    Arc::new(Memory {
        images,
        delay: Duration::ZERO,
        reads: AtomicUsize::new(0),
    })
}

fn train(seed: u64, threads: usize, positions: Positions, samples: usize, on_bad: OnBad) -> Config {
    let colours = PcaRgb {
        eigenvalues: [0.2, 0.02, 0.005],
        eigenvectors: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    };
    let scales = ScaleRange::new(CROP, 2 * CROP).expect("a range");
    Config {
        threads,
        slots: 3,
        positions,
        views: Views::augmented(seed, CROP, scales, colours).expect("a small crop"),
        mode: Mode::Train {
            order: Order::new(seed, samples).expect("samples"),
            on_bad,
        },
    }
}

fn evaluate(threads: usize, positions: Positions, on_bad: OnBad) -> Config {
    let views = Views::centred(CROP, CROP).expect("a small crop");
    Config {
        threads,
        slots: 2,
        positions,
        views,
        mode: Mode::Evaluate { on_bad },
    }
}

fn positions(start: u64, micro_batch: usize) -> Positions {
    Positions::from(start, micro_batch).expect("a micro-batch")
}

/// Everything that a slot says, for comparison.
fn content<B: SlotMemory>(slot: &Slot<B>) -> String {
    let pixels = slot.pixels.as_ref();
    let Slot {
        flips,
        colours,
        labels,
        positions,
        samples,
        bad,
        ..
    } = slot;
    format!("{flips:?} {colours:?} {labels:?} {positions:?} {samples} {bad:?} {pixels:?}")
}

fn contents(source: &Arc<Memory>, config: Config, slots: usize) -> Vec<String> {
    let mut loader =
        Loader::new(Arc::clone(source) as Arc<dyn Source>, config).expect("a good configuration");
    let next = |_| loader.next_slot().expect("no error").map(|slot| content(&slot));
    (0..slots).map_while(next).collect()
}

/// Takes slots until one fails.
fn first_error(source: Arc<Memory>, config: Config) -> Error {
    let mut loader = Loader::new(source, config).expect("a good configuration");
    loop {
        match loader.next_slot() {
            Ok(slot) => assert!(slot.is_some(), "the stream ended without the error"),
            Err(error) => {
                assert!(loader.next_slot().is_err(), "a failed loader goes on");
                return error;
            }
        }
    }
}

#[test]
fn the_stream_does_not_depend_on_threads_or_on_where_it_starts() {
    let seed = fresh_seed();
    let mut images = good(seed, 23);
    images[5] = Image::Garbage;
    images[6] = Image::Unreadable;
    let source = source(images);
    let run = |threads, start, slots| {
        contents(
            &source,
            train(seed, threads, positions(start, 6), 23, OnBad::Skip),
            slots,
        )
    };
    let expected = run(1, 12, 12);
    assert_eq!(expected.len(), 12);
    for threads in [2, 3, 8] {
        assert!(run(threads, 12, 12) == expected, "seed {seed}, {threads} threads");
    }
    assert!(run(2, 12 + 6 * 5, 7) == expected[5..], "seed {seed}: resumed");
    let share = Positions::share(12 + 6, 18, 2, 6).expect("two of three micro-batches");
    let shared = contents(&source, train(seed, 2, share, 23, OnBad::Skip), 6);
    let own: Vec<&String> = expected
        .iter()
        .enumerate()
        .filter(|(i, _)| i % 3 != 0)
        .map(|(_, s)| s)
        .collect();
    assert!(
        shared.iter().zip(own).all(|(a, b)| a == b),
        "seed {seed}: a replica's share"
    );
}

#[test]
fn slots_hold_what_the_order_and_the_views_say() {
    let seed = fresh_seed();
    let source = source(good(seed, 10));
    let config = train(seed, 2, positions(7, 4), 10, OnBad::Fail);
    let views = config.views.clone();
    let order = Order::new(seed, 10).expect("samples");
    let mut loader = Loader::new(source, config).expect("a good configuration");
    for k in 0..10 {
        let slot = loader.next_slot().expect("no error").expect("an endless stream");
        assert_eq!((slot.samples, slot.counted(), slot.bad.len()), (4, 4, 0));
        for row in 0..4 {
            let position = 7 + 4 * k + row as u64;
            let view = views.at(position);
            assert_eq!(slot.positions[row], position);
            assert_eq!(slot.labels[row] as usize, order.sample(position), "seed {seed}");
            assert_eq!(
                (slot.flips[row], slot.colours[row]),
                (view.flip, view.colour),
                "seed {seed}"
            );
            assert!(slot.image(row).iter().any(|&value| value != 0));
        }
    }
    let stats = loader.stats();
    assert!(
        stats.images >= 40 && stats.bytes > 0 && stats.decode > Duration::ZERO,
        "{stats:?}"
    );
}

#[test]
fn bad_samples_are_replaced_in_training_and_keep_their_view() {
    let seed = fresh_seed();
    let mut images = good(seed, 12);
    images[3] = Image::Garbage;
    images[8] = Image::Unreadable;
    let config = train(seed, 3, positions(0, 12), 12, OnBad::Skip);
    let (views, order) = (config.views.clone(), Order::new(seed, 12).expect("samples"));
    let mut loader = Loader::new(source(images), config).expect("a good configuration");
    let slot = loader.next_slot().expect("no error").expect("an endless stream");
    assert_eq!(slot.counted(), 12);
    for row in 0..12 {
        let first = order.sample(row as u64);
        let is_bad = |sample: usize| sample == 3 || sample == 8;
        let tries = (0..).map(|attempt| order.replacement(row as u64, attempt));
        let expected = std::iter::once(first)
            .chain(tries)
            .find(|&sample| !is_bad(sample));
        assert_eq!(Some(slot.labels[row] as usize), expected, "seed {seed}");
        assert_eq!(slot.flips[row], views.at(row as u64).flip, "seed {seed}");
    }
    assert!(
        slot.bad.len() >= 2 && slot.bad.is_sorted_by_key(|event| event.position),
        "{:?}",
        slot.bad
    );
    for event in &slot.bad {
        assert_eq!(event.action, Action::Replaced);
        assert!(["key3", "key8"].contains(&event.sample.key.as_str()), "{event:?}");
    }
    let json = serde_json::to_value(&slot.bad[0]).expect("plain data");
    assert!(json["key"].is_string() && json["action"] == "replaced", "{json}");
}

#[test]
fn evaluation_counts_every_image_once_and_leaves_bad_ones_out() {
    let seed = fresh_seed();
    let mut images = good(seed, 11);
    images[4] = Image::Garbage;
    let config = evaluate(2, positions(0, 4).until(11), OnBad::Skip);
    let mut loader = Loader::new(source(images), config).expect("a good configuration");
    let (mut labels, mut bad, mut samples) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(slot) = loader.next_slot().expect("no error") {
        assert_eq!(slot.pixels.len(), slot_pixels(4, CROP), "the shape is fixed");
        for row in (0..4).filter(|&row| slot.labels[row] == NO_LABEL) {
            assert!(
                slot.image(row).iter().all(|&value| value == 0),
                "what does not count is zero"
            );
        }
        labels.extend(slot.labels.iter().copied().filter(|&label| label != NO_LABEL));
        samples.push((slot.samples, slot.counted()));
        bad.extend(slot.bad.iter().map(|event| (event.position, event.action)));
    }
    assert_eq!(samples, [(4, 4), (4, 3), (3, 3)]);
    assert_eq!(labels, [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]);
    assert_eq!(bad, [(4, Action::LeftOut)]);
    assert!(
        loader.next_slot().expect("no error").is_none(),
        "the end stays the end"
    );
}

#[test]
fn the_first_failure_of_the_stream_ends_it_whatever_the_threads() {
    let seed = fresh_seed();
    let mut images = good(seed, 40);
    images[13] = Image::Garbage;
    images[14] = Image::Garbage;
    images[30] = Image::ShardGone;
    for threads in [1, 4] {
        let config = evaluate(threads, positions(0, 8).until(40), OnBad::Fail);
        let error = first_error(source(images.clone()), config);
        assert_eq!(error.exit_code(), 7);
        assert!(error.to_string().contains("key13"), "{error}");
        let config = evaluate(threads, positions(0, 8).until(40), OnBad::Skip);
        let error = first_error(source(images.clone()), config).to_string();
        assert!(error.contains("shard of 30"), "{error}");
    }
    let all_bad = vec![Image::Garbage; 5];
    let error = first_error(source(all_bad), train(seed, 2, positions(0, 2), 5, OnBad::Skip));
    assert_eq!(error.exit_code(), 7, "{error}");
    let error = first_error(source(good(seed, 3)), evaluate(1, positions(0, 2), OnBad::Skip)).to_string();
    assert!(error.contains("expected positions below 3"), "{error}");
}

#[test]
fn a_panic_becomes_an_error() {
    let mut images = good(1, 20);
    images[9] = Image::Panics;
    for threads in [1, 3] {
        let config = evaluate(threads, positions(0, 4).until(20), OnBad::Skip);
        let error = first_error(source(images.clone()), config).to_string();
        assert!(error.contains("the planted panic"), "{error}");
    }
}

#[test]
fn dropping_a_loader_half_way_stops_its_threads() {
    let images = good(1, 50);
    for slots_taken in 0..3 {
        let memory = Memory {
            images: images.clone(),
            delay: Duration::from_millis(2),
            reads: AtomicUsize::new(0),
        };
        let source = Arc::new(memory);
        let config = train(1, 4, positions(0, 10), 50, OnBad::Skip);
        let mut loader = Loader::new(Arc::clone(&source) as Arc<dyn Source>, config).expect("good");
        let kept: Vec<_> = (0..slots_taken)
            .map(|_| loader.next_slot().expect("no error"))
            .collect();
        drop(loader);
        let reads = source.reads.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(source.reads.load(Ordering::Relaxed), reads, "a thread went on");
        drop(kept);
    }
}

#[test]
fn loading_runs_at_most_a_ring_ahead_and_both_waits_are_counted() {
    let source = source(good(1, 30));
    let config = train(1, 2, positions(0, 5), 30, OnBad::Skip);
    let mut loader = Loader::new(Arc::clone(&source) as Arc<dyn Source>, config).expect("good");
    let held = loader.next_slot().expect("no error").expect("an endless stream");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(source.reads.load(Ordering::Relaxed), 15, "three slots of five");
    drop(held);
    let until = Instant::now() + Duration::from_secs(10);
    while source.reads.load(Ordering::Relaxed) < 20 && Instant::now() < until {
        std::thread::yield_now();
    }
    let stats = loader.stats();
    assert!(stats.workers_waited > Duration::from_millis(20), "{stats:?}");
    assert!(stats.consumer_waited > Duration::ZERO, "{stats:?}");
}

#[test]
fn holding_every_slot_is_an_error_not_a_deadlock() {
    let config = train(1, 2, positions(0, 5), 30, OnBad::Skip);
    let mut loader = Loader::new(source(good(1, 30)), config).expect("a good configuration");
    let held: Vec<_> = (0..3).map(|_| loader.next_slot().expect("no error")).collect();
    let error = loader.next_slot().expect_err("all slots are lent").to_string();
    assert!(error.contains("give slots back"), "{error}");
    drop(held);
    assert!(loader.next_slot().is_ok(), "slots were given back");
}

#[test]
fn the_callers_memory_is_used_and_its_size_checked() {
    let bytes = slot_pixels(5, CROP);
    let buffers = || {
        (0..3)
            .map(|_| vec![0; bytes].into_boxed_slice())
            .collect::<Vec<Box<[u8]>>>()
    };
    let config = || train(1, 2, positions(0, 5), 30, OnBad::Skip);
    let given = buffers();
    let addresses: Vec<*const u8> = given.iter().map(|buffer| buffer.as_ptr()).collect();
    let mut loader = Loader::with_buffers(source(good(1, 30)), config(), given).expect("good");
    for k in 0..7 {
        let slot = loader.next_slot().expect("no error").expect("an endless stream");
        assert_eq!(slot.pixels.as_ptr(), addresses[k % 3]);
    }
    assert!(loader.memory_bytes() >= ring_bytes(3, 5, CROP));
    for wrong in [
        buffers().split_off(1),
        vec![vec![0; bytes - 1].into_boxed_slice(); 3],
    ] {
        let error = Loader::with_buffers(source(good(1, 30)), config(), wrong).expect_err("the wrong size");
        assert!(error.to_string().contains("3 of 960 bytes each"), "{error}");
    }
    let none = Config {
        threads: 0,
        ..config()
    };
    assert!(Loader::new(source(good(1, 30)), none).is_err());
}
