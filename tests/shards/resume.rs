//! `pack` that was killed, or that failed, goes on after the shards that are whole, and nothing else of it is believed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use verydeep::Error;
use verydeep::data::bad::MaxBad;
use verydeep::data::loader::OnBad;
use verydeep::data::pack::{PackOptions, PackProgress, PackReport, Source, pack};
use verydeep::rng::{Purpose, Stream};

use super::imagenet::with_odd_files;
use super::{contents, options, photos, png, said, seed, write};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verydeep"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A pack of `photos` that is to die or to fail, and what an undisturbed one makes.
struct Photos {
    root: tempfile::TempDir,
    images: PathBuf,
    expected: BTreeMap<String, Vec<u8>>,
}

impl Photos {
    /// Three of the images are bad, the last one of the order of packing among them: it comes after the last shard.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let images = photos(root.path());
        write(&images, "train/dog/bad.jpg", b"no image");
        write(&images, "train/cat/a PNG.JPEG", &png(9));
        write(&images, "val/cat/cut.png", &png(7)[..60]);
        write(&images, "val/eel/zz.png", b"no image");
        let photos = Self {
            expected: BTreeMap::new(),
            images,
            root,
        };
        photos.again(&options()).unwrap();
        let expected = contents(&photos.out());
        fs::remove_dir_all(photos.out()).unwrap();
        Photos { expected, ..photos }
    }

    fn out(&self) -> PathBuf {
        self.root.path().join("shards")
    }

    fn unfinished(&self) -> PathBuf {
        self.root.path().join(".shards.unfinished")
    }

    /// Dies at the `at`th request for a path with `part` in it.
    fn die(&self, at: usize, part: &str) {
        let status = program()
            .args(["pack", "--shard-size", "10", "--images"])
            .arg(&self.images)
            .arg("--out")
            .arg(self.out())
            .env("VERYDEEP_FAULT", format!("die@{at}:{part}"))
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(libc::SIGABRT));
        assert!(self.unfinished().exists() && !self.out().exists());
    }

    /// Packs with the library; gives what it said besides how far it is.
    fn again(&self, options: &PackOptions) -> Result<(PackReport, Vec<PackProgress>), Error> {
        let source = Source::Folder {
            images: self.images.clone(),
        };
        let told = Mutex::new(Vec::new());
        let tell = |progress| match progress {
            PackProgress::Listed { .. } | PackProgress::Checked { .. } | PackProgress::Packed { .. } => {}
            other => told.lock().unwrap().push(other),
        };
        let report = pack(&source, &self.out(), options, &tell);
        let told = told.into_inner().unwrap();
        assert_eq!(
            report.is_err() && self.unfinished().exists(),
            told.iter()
                .any(|progress| matches!(progress, PackProgress::Stays { .. }))
        );
        report.map(|report| (report, told))
    }

    /// Packs again, and must go on after `shards` of them, with the bytes of an undisturbed one. Gives why others were not
    /// used.
    fn goes_on_after(&self, shards: usize, why: &str) -> Option<String> {
        let (report, told) = self.again(&options()).unwrap();
        assert_eq!(report.taken_over, shards, "{why}: {told:?}");
        assert_eq!((report.bad.len(), report.odd.len()), (3, 1), "{why}");
        assert!(contents(&self.out()) == self.expected, "{why}");
        assert!(!self.unfinished().exists(), "{why}");
        fs::remove_dir_all(self.out()).unwrap();
        let mut reasons = told.into_iter().filter_map(|progress| match progress {
            PackProgress::NotUsed { reason, .. } => Some(reason),
            _ => None,
        });
        reasons.next()
    }
}

/// Which file a path is, and when it was written.
fn identity(path: &Path) -> (u64, i64, i64) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
}

#[test]
fn it_goes_on_after_the_last_whole_shard_wherever_it_died() {
    let photos = Photos::new();
    for (part, shards) in [
        (".journal", 0),
        ("train-0000.tar", 0),
        ("train-0002.idx", 2),
        ("train-0002.tar", 2),
        ("validation-0000.tar", 4),
        ("manifest.json", 5),
    ] {
        photos.die(1, part);
        let finished = (0..shards).map(|number| match number {
            4 => "photos-validation-0000.tar".to_string(),
            _ => format!("photos-train-{number:04}.tar"),
        });
        let finished: Vec<_> = finished.collect();
        let before: Vec<_> = finished
            .iter()
            .map(|file| identity(&photos.unfinished().join(file)))
            .collect();
        let (report, told) = photos.again(&options()).unwrap();
        let images = told.iter().find_map(|progress| match progress {
            PackProgress::TakenOver { shards, images } => Some((*shards, *images)),
            _ => None,
        });
        assert_eq!(
            (report.taken_over, images.map(|both| both.0)),
            (shards, (shards > 0).then_some(shards))
        );
        assert!(
            images.is_none_or(|(_, images)| images >= 10 * shards.min(3)),
            "{told:?}"
        );
        let after: Vec<_> = finished
            .iter()
            .map(|file| identity(&photos.out().join(file)))
            .collect();
        assert_eq!(before, after, "{part}: a finished shard was written again");
        assert!(contents(&photos.out()) == photos.expected, "{part}");
        fs::remove_dir_all(photos.out()).unwrap();
    }
}

#[test]
fn a_damaged_shard_index_or_journal_is_noticed_and_packed_again() {
    let photos = Photos::new();
    let seed = seed();
    let mut stream = Stream::new(seed, 0, Purpose::Synthetic, 0);
    for (file, whole, said) in [
        ("photos-train-0000.tar", 0, "SHA-256"),
        ("photos-train-0002.tar", 2, "SHA-256"),
        ("photos-train-0001.idx", 1, "is not its index"),
        (".journal", 4, "journal"),
    ] {
        for damage in ["a bit", "cut", "gone"] {
            photos.die(1, "validation-0000.tar");
            let path = photos.unfinished().join(file);
            let mut bytes = fs::read(&path).unwrap();
            let at = stream.below(bytes.len() as u64) as usize;
            let why = format!("seed {seed}: {file}, {damage}, at {at}");
            match damage {
                "a bit" => bytes[at] ^= 1 << stream.below(8),
                "cut" => bytes.truncate(at),
                _ => {}
            }
            // Records up to the damage are believed: the first is of sources and options.
            let lines = bytes[..at].iter().filter(|byte| **byte == b'\n').count();
            let whole = match (file, damage) {
                (".journal", "gone") => 0,
                (".journal", _) => lines.saturating_sub(1),
                _ => whole,
            };
            match damage {
                "gone" => fs::remove_file(&path).unwrap(),
                _ => fs::write(&path, bytes).unwrap(),
            }
            let reason = photos.goes_on_after(whole, &why).expect(&why);
            let said = if damage == "gone" && file != ".journal" {
                "No such file"
            } else {
                said
            };
            assert!(reason.contains(said), "{why}: {reason}");
        }
    }
}

#[test]
fn other_options_or_images_start_anew_and_say_so() {
    let photos = Photos::new();
    for (other, said) in [
        (
            PackOptions {
                shard_size: 11,
                ..options()
            },
            "--shard-size 10",
        ),
        (PackOptions { seed: 2, ..options() }, "--seed 1"),
    ] {
        photos.die(1, "train-0002.tar");
        let (report, told) = photos.again(&other).unwrap();
        assert_eq!(report.taken_over, 0);
        assert!(
            matches!(&told[..], [PackProgress::NotUsed { shards: 2, reason }] if reason.contains(said)),
            "{told:?}"
        );
        fs::remove_dir_all(photos.out()).unwrap();
        photos.again(&other).unwrap();
        fs::remove_dir_all(photos.out()).unwrap();
    }

    // The same bytes with another time; another size; one more; back to what it was, but for the time.
    let (image, added) = (
        photos.images.join("val/eel/11.png"),
        photos.images.join("val/eel/13.png"),
    );
    let bytes = fs::read(&image).unwrap();
    let changes: [(&str, &dyn Fn()); 4] = [
        ("touched", &|| fs::write(&image, &bytes).unwrap()),
        ("another", &|| fs::write(&image, png(1)).unwrap()),
        ("added", &|| fs::write(&added, png(2)).unwrap()),
        ("as before", &|| {
            fs::remove_file(&added).unwrap();
            fs::write(&image, &bytes).unwrap();
        }),
    ];
    for (what, change) in changes {
        photos.die(1, "validation-0000.tar");
        change();
        let (report, told) = photos.again(&options()).unwrap();
        assert_eq!(report.taken_over, 0, "{what}");
        assert!(
            matches!(&told[..], [PackProgress::NotUsed { shards: 4, reason }] if reason.contains("changed")),
            "{what}: {told:?}"
        );
        let is_as_expected = contents(&photos.out()) == photos.expected;
        assert_eq!(is_as_expected, ["touched", "as before"].contains(&what), "{what}");
        fs::remove_dir_all(photos.out()).unwrap();
    }
}

#[test]
fn what_is_whole_stays_when_it_fails() {
    let photos = Photos::new();
    // A source that is not there is nothing to go on with, and no reason to throw anything away.
    photos.die(1, "train-0002.tar");
    let elsewhere = photos.root.path().join("elsewhere");
    fs::rename(&photos.images, &elsewhere).unwrap();
    photos.again(&options()).unwrap_err();
    fs::rename(&elsewhere, &photos.images).unwrap();
    assert!(photos.unfinished().join("photos-train-0001.tar").exists());

    // The limit on bad images counts those of the shards that are taken over, and another limit goes on.
    let limited = |limit| PackOptions {
        max_bad: Some(MaxBad::Count(limit)),
        ..options()
    };
    let failed = photos.again(&limited(2)).unwrap_err();
    assert!(matches!(failed, Error::BadData { bad: 3, .. }), "{failed}");
    let strict = PackOptions {
        on_bad: OnBad::Fail,
        ..options()
    };
    let failed = photos.again(&strict).unwrap_err();
    let Error::BadData { bad: 1, first, .. } = failed else {
        panic!("{failed}")
    };
    assert_eq!(first.shard, "train/dog/bad.jpg");
    let (report, _) = photos.again(&limited(3)).unwrap();
    assert_eq!((report.taken_over, report.bad.len()), (4, 3));
    assert!(contents(&photos.out()) == photos.expected);
}

/// A pack in the layout of ImageNet's archives.
fn spawn(root: &Path, out: &Path) -> Child {
    program()
        .args(["pack", "--shard-size", "4", "--out"])
        .arg(out)
        .arg("--ilsvrc-train")
        .arg(root.join("ILSVRC2012_img_train.tar"))
        .arg("--ilsvrc-val")
        .arg(root.join("ILSVRC2012_img_val.tar"))
        .arg("--val-labels")
        .arg(root.join("synsets.txt"))
        .spawn()
        .unwrap()
}

/// Kill -9 at any moment, many times over: no shard that the journal knows is written a second time, and the bytes are those
/// of one that was left in peace.
#[test]
fn kills_at_random_moments_cost_no_finished_shard() {
    let root = tempfile::tempdir().unwrap();
    with_odd_files(root.path(), 20);
    let seed = seed();
    let mut stream = Stream::new(seed, 0, Purpose::Synthetic, 0);
    let undisturbed = root.path().join("undisturbed");
    let begun = Instant::now();
    assert!(spawn(root.path(), &undisturbed).wait().unwrap().success());
    let duration = begun.elapsed();
    let expected = contents(&undisturbed);

    let out = root.path().join("killed");
    let unfinished = root.path().join(".killed.unfinished");
    // Shards that the journal knows, and which files they are.
    let finished = || -> BTreeMap<String, (u64, i64, i64)> {
        let journal = fs::read_to_string(unfinished.join(".journal")).unwrap_or_default();
        let whole = journal.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let shards = whole.skip(1).map(|line| {
            let record: serde_json::Value = serde_json::from_str(&line[9..]).unwrap();
            record["shard"]["file"].as_str().unwrap().to_string()
        });
        let identified = shards.map(|file| (file.clone(), identity(&unfinished.join(file))));
        identified.collect()
    };
    let (mut kills, mut gone_on, mut ended) = (0, 0, 0);
    while kills < said("VERYDEEP_TEST_KILLS", 20) || !out.exists() {
        let before = finished();
        let mut child = spawn(root.path(), &out);
        let wait = stream.below(duration.as_micros() as u64);
        std::thread::sleep(Duration::from_micros(wait));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        kills += u64::from(!status.success());
        assert!(
            status.success() || status.signal() == Some(libc::SIGKILL),
            "seed {seed}"
        );
        gone_on += usize::from(!before.is_empty());
        let folder = if out.exists() { &out } else { &unfinished };
        for (file, which) in before {
            assert_eq!(identity(&folder.join(&file)), which, "seed {seed}: {file}");
        }
        if out.exists() {
            let mut found = contents(&out);
            // What is left where it died after the folder had its name.
            for name in [".lock", ".journal"] {
                found.remove(name);
            }
            assert!(found == expected, "seed {seed}");
            ended += 1;
            if kills < said("VERYDEEP_TEST_KILLS", 20) {
                fs::remove_dir_all(&out).unwrap();
            }
        }
    }
    assert!(gone_on > 0 && ended > 0, "seed {seed}: {kills} kills");
}
