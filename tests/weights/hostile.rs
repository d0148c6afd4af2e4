//! Files made to do harm: nothing is executed, nothing panics, nothing grows; each is refused with a reason.

use std::path::Path;

use verydeep::weights::{Format, Model, write_safetensors};

use super::archive::{Member, archive, member, tensor, text};
use super::golden::file;
use super::proto::{Message, Value};

/// What is said to a file; it must be refused, exit 3.
fn refused(bytes: &[u8], format: Option<Format>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    let error = Model::import(&path, format, None).err().expect("a refusal");
    assert_eq!(error.exit_code(), 3, "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    error.to_string()
}

fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    archive(&[member("a/data.pkl", pickle), member("a/data/0", &[0; 16])])
}

/// A dictionary with one tensor.
fn one(name: &str, tensor: &[u8]) -> Vec<u8> {
    [&b"\x80\x02}"[..], &text(name), tensor, b"s."].concat()
}

#[test]
fn pickles_that_would_run_something_are_refused_without_running_it() {
    let marker = Path::new("/tmp/verydeep-was-here");
    let shell = text(&format!("touch {}", marker.display()));
    let call = |name: &[u8]| [&b"\x80\x02"[..], name, &shell, b"\x85R."].concat();
    for pickle in [
        call(b"cos\nsystem\n"),
        call(b"cposix\nsystem\n"),
        call(b"c__builtin__\neval\n"),
        call(b"cbuiltins\nexec\n"),
        call(b"csubprocess\nPopen\n"),
        call(b"ctorch\nload\n"),
        // By the opcodes of later protocols, of instances and of extensions.
        [&b"\x80\x04\x8c\x02os\x8c\x06system\x93"[..], &shell, b"\x85R."].concat(),
        [&b"(ios\nsystem\n"[..], &shell, b"o."].concat(),
        b"\x80\x02\x82\x01.".to_vec(),
        // A call of what a call gave.
        b"\x80\x02ccollections\nOrderedDict\n)R)R.".to_vec(),
        b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\0\0\0aK\x01tb.".to_vec(),
    ] {
        let said = refused(&with_pickle(&pickle), None);
        assert!(said.contains("state dict"), "{said}");
        assert!(!marker.exists());
    }
}

#[test]
fn pickles_that_would_grow_are_refused() {
    let nested = [vec![b'('; 100_000], b".".to_vec()].concat();
    let bomb = {
        // Each list holds the one before twice.
        let mut pickle = b"\x80\x02]q\0".to_vec();
        for _ in 0..200 {
            pickle.extend(b"](h\0h\0eq\0");
        }
        [&pickle[..], b"."].concat()
    };
    // Many names for one storage: a small file that would become a large one.
    let mut shared = b"\x80\x02}(".to_vec();
    for i in 0..100 {
        shared.extend(text(&format!("features.{i}.weight")));
        shared.extend(tensor("0", 4, 0, &[2, 2], &[2, 1]));
    }
    shared.extend(b"u.");
    for pickle in [nested, bomb, shared, vec![b'N'; 2 << 20], text(&"a".repeat(1000))] {
        refused(&with_pickle(&pickle), None);
    }
}

#[test]
fn tensors_that_lie_are_refused() {
    let max = u32::MAX >> 1;
    for (tensor, word) in [
        (tensor("0", 400, 0, &[2, 2], &[2, 1]), "storage of 16 bytes"),
        (tensor("0", 4, 2, &[2, 2], &[2, 1]), "elements from 2"),
        (tensor("0", 4, max, &[2, 2], &[2, 1]), "elements from"),
        (tensor("0", 4, 0, &[2, 2], &[0, 0]), "strides"),
        (tensor("0", 4, 0, &[2, 2], &[1, 2]), "strides"),
        (tensor("0", 4, 0, &[max, max, max], &[1, 1, 1]), "more numbers"),
        (tensor("0", 4, 0, &[2, 2], &[1]), "stride"),
        (tensor("../../etc/passwd", 4, 0, &[2, 2], &[2, 1]), "passwd"),
        (tensor("7", 4, 0, &[2, 2], &[2, 1]), "data/7"),
        (tensor("0", u32::MAX, 0, &[2, 2], &[2, 1]), "storage"),
    ] {
        let said = refused(&with_pickle(&one("features.0.weight", &tensor)), None);
        assert!(said.contains(word), "{word}: {said}");
    }
    let said = refused(
        &with_pickle(&one("x", &tensor("0", 4, 0, &[2, 2], &[2, 1]))),
        None,
    );
    assert!(said.contains("VGG"), "{said}");
}

#[test]
fn archives_that_lie_are_refused() {
    let pickle = one("features.0.weight", &tensor("0", 4, 0, &[2, 2], &[2, 1]));
    let good = [member("a/data.pkl", &pickle), member("a/data/0", &[0; 16])];
    let change = |change: &dyn Fn(&mut Vec<Member>)| {
        let mut members = good.to_vec();
        change(&mut members);
        archive(&members)
    };
    let mut other_bytes = archive(&good);
    let place = other_bytes
        .windows(8)
        .position(|window| window == b"a/data/0")
        .unwrap();
    other_bytes[place + 8] ^= 1;
    for (bytes, word) in [
        (change(&|members| members[1].method = 8), "compressed"),
        (
            change(&|members| members[1].more = 1 << 30),
            "more than the file has",
        ),
        (change(&|members| members[1].moved = 1 << 30), "no header"),
        (change(&|members| members[0].more = 64), "overlap"),
        (
            change(&|members| members[1].name = "a/data.pkl".into()),
            "two members",
        ),
        (
            change(&|members| members[1].name = "a/../../x".into()),
            "member called",
        ),
        (
            change(&|members| members[1].name = "/etc/passwd".into()),
            "member called",
        ),
        (
            change(&|members| members[0].name = "a/other".into()),
            "without data.pkl",
        ),
        (other_bytes, "checksum"),
    ] {
        let said = refused(&bytes, None);
        assert!(said.contains(word), "{word}: {said}");
    }
}

/// 3,000 tensors in one storage of 16 MB, and a blob of two million sides of 1: small work for small files.
#[test]
fn nothing_takes_the_square_of_its_size() {
    let start = std::time::Instant::now();
    let storage = vec![0; 16 << 20];
    let mut pickle = b"\x80\x02}(".to_vec();
    for i in 0..3000 {
        pickle.extend(text(&format!("features.{i}.weight")));
        pickle.extend(tensor("0", 4 << 20, i, &[1], &[1]));
    }
    pickle.extend(b"u.");
    let said = refused(
        &archive(&[member("a/data.pkl", &pickle), member("a/data/0", &storage)]),
        None,
    );
    assert!(said.contains("3000 other arrays"), "{said}");

    let shape = Message::default().message(7, &Message(vec![(1, Value::Number(1)); 2_000_000]));
    let layer = Message::default()
        .text(2, "Convolution")
        .message(7, &shape.float(5, 1.0));
    let said = refused(
        &Message::default().message(100, &layer).bytes(),
        Some(Format::Caffe),
    );
    assert!(said.contains("of 2000000 sides"), "{said}");
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

/// A field of a protocol buffer: a message, a text or packed numbers of less than 128 bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let tag = (u16::from(number) << 3) | 2;
    let tag = if tag < 128 {
        vec![tag as u8]
    } else {
        vec![tag as u8 | 0x80, (tag >> 7) as u8]
    };
    [&tag[..], &[bytes.len() as u8], bytes].concat()
}

/// Beside a side of 0 the others cost nothing, whatever they say. Found by `tools/fuzz caffemodel`.
#[test]
fn arrays_without_elements_are_refused_whatever_their_sides_say() {
    const HUGE: [u8; 9] = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40]; // 2^62
    for sides in [
        [&[4, 3, 0, 0][..], &[]].concat(),
        [&HUGE[..], &[3, 3, 0]].concat(),
        [&[0], &HUGE[..], &HUGE[..], &HUGE[..]].concat(),
    ] {
        let blob = field(7, &field(7, &field(1, &sides)));
        let caffe = field(
            100,
            &[field(1, b"conv1_1"), field(2, b"Convolution"), blob].concat(),
        );
        let said = refused(&caffe, Some(Format::Caffe));
        assert!(said.contains("0 numbers"), "{said}");

        let node = [
            field(1, b"image"),
            field(1, b"w"),
            field(2, b"y"),
            field(4, b"Conv"),
        ]
        .concat();
        let tensor = [field(1, &sides), vec![2 << 3, 1], field(8, b"w")].concat();
        let graph = [field(1, &node), field(5, &tensor), field(11, &field(1, b"image"))].concat();
        let said = refused(&field(7, &graph), Some(Format::Onnx));
        assert!(said.contains("0 numbers"), "{said}");
    }
    let huge = usize::MAX / 4;
    let shapes = [
        ("features.0.weight", vec![huge, 0, 3, 3]),
        ("classifier.0.weight", vec![0, huge]),
        ("classifier.6.weight", vec![0, huge]),
    ];
    let entries: Vec<_> = shapes
        .map(|(name, dims)| {
            format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":{dims:?},\"data_offsets\":[0,0]}}")
        })
        .into();
    let header = format!("{{{}}}", entries.join(","));
    refused(&safetensors(&header, &[]), Some(Format::Safetensors));
}

/// A safetensors file with this header.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Arrays that overlap, leave gaps, lie outside of the file or are not as large as they say; also where we open our own files.
#[test]
fn safetensors_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    let entry = |name: &str, sides: &str, from: usize, to: usize| {
        format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":{sides},\"data_offsets\":[{from},{to}]}}")
    };
    let (first, second) = ("features.0.weight", "features.0.bias");
    let of = |entries: &[String]| safetensors(&format!("{{{}}}", entries.join(",")), &[0; 16]);
    let whole = of(&[entry(first, "[2]", 0, 8), entry(second, "[2]", 8, 16)]);
    for bytes in [
        of(&[entry(first, "[2]", 0, 8), entry(second, "[2]", 4, 12)]),
        of(&[entry(first, "[2]", 0, 8), entry(second, "[2]", 0, 8)]),
        of(&[entry(first, "[1]", 0, 4), entry(second, "[2]", 8, 16)]),
        of(&[entry(first, "[2]", 0, 8), entry(second, "[2]", 16, 24)]),
        of(&[entry(first, "[2]", 8, 0), entry(second, "[2]", 8, 16)]),
        of(&[entry(first, "[3]", 0, 8), entry(second, "[2]", 8, 16)]),
        of(&[
            entry(first, "[4611686018427387904,4]", 0, 8),
            entry(second, "[2]", 8, 16),
        ]),
        whole[..whole.len() - 1].to_vec(),
        [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat(),
        [&whole[..], &[0]].concat(),
    ] {
        let said = refused(&bytes, Some(Format::Safetensors));
        assert!(said.contains("whole safetensors file"), "{said}");
        std::fs::write(&path, &bytes).unwrap();
        let error = Model::open(&path).err().unwrap();
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(error.to_string().contains("whole safetensors file"), "{error}");
    }
    // The same without a lie is only no network.
    assert!(refused(&whole, Some(Format::Safetensors)).contains("VGG"));
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    for (value, shown) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let mut model = Model::import(&file("vgg11.pth"), None, None).unwrap();
        let place = model.network.parameters[3].range().start + 1;
        model.weights[place] = value;
        model.about = None;
        write_safetensors(&path, &model).unwrap();
        for error in [Model::open(&path).err(), Model::import(&path, None, None).err()] {
            let (code, said) = error.map(|error| (error.exit_code(), error.to_string())).unwrap();
            assert_eq!(code, 3, "{said}");
            assert!(said.contains("features.3.bias") && said.contains(shown), "{said}");
        }
    }
}

/// A small file whose metadata, with its hash, says that it is a network of hundreds of gigabytes.
#[test]
fn a_network_that_is_only_described_is_not_allocated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    let mut model = Model::import(&file("half.pth"), None, None).unwrap();
    let mut about = model.about.take().unwrap();
    about.spec.fc = 1 << 20;
    about.spec.classes = 1 << 20;
    about.spec.crop = 4096;
    about.spec.width = 16.0;
    model.about = Some(about);
    write_safetensors(&path, &model).unwrap();
    let said = Model::open(&path).err().unwrap().to_string();
    assert!(said.contains("another configuration"), "{said}");
}

#[test]
fn every_cut_and_many_changes_of_a_good_file_are_refused_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net");
    let members = std::fs::read(file("half.pth")).unwrap();
    let safetensors = {
        let model = Model::import(&file("half.pth"), None, None).unwrap();
        write_safetensors(&path, &model).unwrap();
        std::fs::read(&path).unwrap()
    };
    let mut state = 12345u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % below
    };
    let [onnx, caffe] =
        ["channels_last.onnx", "current.caffemodel"].map(|name| std::fs::read(file(name)).unwrap());
    for (bytes, format) in [
        (&members, Format::Torch),
        (&safetensors, Format::Safetensors),
        (&onnx, Format::Onnx),
        (&caffe, Format::Caffe),
    ] {
        for _ in 0..40 {
            let cut = random(bytes.len());
            refused(&bytes[..cut], Some(format));
        }
        for _ in 0..300 {
            let mut changed = bytes.clone();
            for _ in 0..=random(4) {
                // Structure is at the ends: change it more often than numbers.
                let reach = if random(2) == 0 {
                    changed.len().min(4000)
                } else {
                    changed.len()
                };
                let at = if random(2) == 0 {
                    random(reach)
                } else {
                    changed.len() - 1 - random(reach)
                };
                changed[at] = random(256) as u8;
            }
            std::fs::write(&path, &changed).unwrap();
            if let Err(error) = Model::import(&path, Some(format), None) {
                assert_eq!(error.exit_code(), 3, "{error}");
            }
        }
    }
}
