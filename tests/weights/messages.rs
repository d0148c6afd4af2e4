//! What is said of files that are not read: what is wrong with them and what to do, short, and nothing for a terminal.

use std::path::Path;

use verydeep::network::Extent;
use verydeep::weights::{Array, Format, Model, write_arrays, write_safetensors};

use super::archive::{archive, member, text};
use super::golden::file;
use super::proto::Message;

fn import(name: &str, bytes: &[u8], format: Option<Format>) -> verydeep::Result<Model> {
    Model::import_from(Path::new(name), bytes, format, None, Extent::Whole)
}

/// What is said: never much, and no control characters.
fn said(name: &str, bytes: &[u8], format: Option<Format>) -> String {
    let error = import(name, bytes, format).err().expect("a refusal");
    let said = error.to_string();
    assert_eq!(error.exit_code(), 3, "{said}");
    assert!(said.len() < 600, "{} bytes: {:.300}", said.len(), said);
    assert!(!said.chars().any(char::is_control), "{said:?}");
    said
}

fn pickled(pickle: &[u8]) -> String {
    let bytes = archive(&[member("a/data.pkl", pickle), member("a/data/0", &[0; 16])]);
    said("x.pth", &bytes, None)
}

#[test]
fn foreign_words_are_short_and_harmless() {
    let nones = vec![b'N'; 1_000_000];
    for (pickle, word) in [
        ([b"\x80\x02(", &nones[..], b"tNa."].concat(), "a tuple of 1000000"),
        (
            [b"\x80\x02](", &nones[..], b"eNNs."].concat(),
            "a list of 1000000",
        ),
        (
            [b"\x80\x02}((", &nones[..900_000], b"tNu."].concat(),
            "a tuple of 900000",
        ),
        (
            [b"\x80\x02c", &vec![b'A'; 1_000_000][..], b"\nB\n."].concat(),
            "more than 256 bytes",
        ),
        (
            b"\x80\x02c\x1b[31mos\x1b]0;pwn\x07\nsys\rtem\n.".to_vec(),
            "\\u{1b}[31mos",
        ),
    ] {
        let said = pickled(&pickle);
        assert!(said.contains(word), "{word}: {said}");
    }
    let evil = "\x1b[31mEvil\x07".to_string();
    for name in [evil, "A".repeat(3_000_000)] {
        let layer = Message::default().text(1, &name).text(2, &name);
        let caffe = Message::default().message(100, &layer.message(7, &Message::default()));
        said("x", &caffe.bytes(), Some(Format::Caffe));
        let node = Message::default()
            .text(1, "image")
            .text(2, "y")
            .text(3, &name)
            .text(4, &name);
        let graph = Message::default()
            .message(1, &node)
            .message(11, &Message::default().text(1, "image"));
        let said = said(
            "x",
            &Message::default().message(7, &graph).bytes(),
            Some(Format::Onnx),
        );
        assert!(said.contains("no node of a VGG network"), "{said}");
    }
    // Where a number is expected, a message is not shown.
    let huge = Message::default().message(106, &Message::default().text(5, &"A".repeat(1_000_000)));
    said(
        "x",
        &Message::default().message(2, &huge).bytes(),
        Some(Format::Caffe),
    );
}

#[test]
fn weights_of_other_formats_are_to_be_converted() {
    for (name, found) in [
        ("vgg11.pth", "a zip archive"),
        ("channels_last.onnx", "ONNX"),
        ("current.caffemodel", "a caffemodel"),
    ] {
        let said = Model::open(&file(name)).err().unwrap().to_string();
        for word in [name, found, "verydeep convert"] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}

#[test]
fn what_lies_in_place_of_weights_is_named() {
    let old = std::fs::read(file("old.pth")).unwrap();
    let protocol_1 = b"L119547037146038801333356L\n.M\xe9\x03.".to_vec();
    let protocol_4 = [&b"\x80\x04\x95\x0d\0\0\0\0\0\0\0"[..], &old[2..]].concat();
    for (name, bytes, words) in [
        ("x.pth", &b""[..], ["an empty file", "again"]),
        ("x.onnx", b"", ["an empty file", "again"]),
        (
            "x.pth",
            b"version https://git-lfs.github.com/spec/v1\noid",
            ["git LFS", "git lfs pull"],
        ),
        (
            "x.caffemodel",
            b"\n <!DOCTYPE html><p>404",
            ["a web page", "browser"],
        ),
        ("x.pth", b"<html><body>404</body>", ["a web page", "browser"]),
        ("x.pth", &protocol_1, ["older format", "torch.save(torch.load("]),
        ("x.pth", &protocol_4, ["older format", "torch.save(torch.load("]),
        (
            "o'; rm -rf x; '.pth",
            &old,
            ["older format", r"'o'\''; rm -rf x; '\''.pth'"],
        ),
        (
            "x.pth",
            b"\x80\x04\x95\x10\0\0\0\0\0\0\0}.",
            ["a bare pickle", "model.state_dict()"],
        ),
    ] {
        for format in [None, Some(Format::Torch)] {
            let said = said(name, bytes, format);
            for word in words {
                assert!(said.contains(word), "{word}: {said}");
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let error = Model::import(folder.path(), Some(Format::Torch), None)
        .err()
        .unwrap();
    assert!(error.to_string().contains("found a folder"), "{error}");
}

/// A whole model or a checkpoint of torchvision's training is not damaged: it is more than weights.
#[test]
fn more_than_weights_comes_with_the_line_that_saves_them() {
    for pickle in [
        b"\x80\x02cargparse\nNamespace\n)\x81.".to_vec(),
        b"\x80\x02ctorch.nn.modules.container\nSequential\n.".to_vec(),
        [&b"\x80\x02}"[..], &text("epoch"), b"K\x03s."].concat(),
    ] {
        let said = pickled(&pickle);
        assert!(said.contains("torch.save(model.state_dict()"), "{said}");
        assert!(!said.contains("damaged"), "{said}");
    }
    let tensor = super::archive::tensor("0", 4, 0, &[2, 2], &[1, 2]);
    let said = pickled(&[&b"\x80\x02}"[..], &text("x"), &tensor, b"s."].concat());
    assert!(
        said.contains(".contiguous()") && !said.contains("damaged"),
        "{said}"
    );
}

type Arrays = Vec<(String, Vec<usize>, Vec<f32>)>;

/// A safetensors file with the arrays of a small VGG-11, changed.
fn changed(change: impl FnOnce(&mut Arrays)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    let model = Model::import(&file("vgg11.pth"), None, None).unwrap();
    let parameters = model.network.parameters.iter();
    let mut arrays: Arrays = parameters
        .map(|p| (p.name.clone(), p.dims.clone(), model.weights[p.range()].to_vec()))
        .collect();
    change(&mut arrays);
    let arrays: Vec<_> = arrays
        .iter()
        .map(|(name, dims, values)| Array {
            name: name.clone(),
            dims: dims.clone(),
            values,
        })
        .collect();
    write_arrays(&path, &[], &arrays).unwrap();
    std::fs::read(&path).unwrap()
}

/// Whichever array is missing, even those that say how large the network is.
#[test]
fn one_array_too_few_or_too_many_is_named() {
    let whole = Model::import(&file("vgg11.pth"), None, None).unwrap();
    for parameter in &whole.network.parameters {
        if parameter.name == "classifier.0.weight" {
            continue; // the crop is what it alone says
        }
        let bytes = changed(|arrays| arrays.retain(|(name, ..)| *name != parameter.name));
        let said = said("x", &bytes, Some(Format::Safetensors));
        for word in [
            &parameter.name,
            "no such array",
            "all others fit --config A --width 0.0625",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
    let extra = |name: &str| {
        let name = name.to_string();
        changed(|arrays| arrays.push((name, vec![2], vec![0.0; 2])))
    };
    let words = said("x", &extra("extra"), Some(Format::Safetensors));
    assert!(
        words.contains("array extra: expected none, found shape [2]"),
        "{words}"
    );
    assert!(!words.contains("--trunk"), "{words}");
    said("x", &extra("x\x1b[31m"), Some(Format::Safetensors));
}

#[test]
fn numbers_that_are_none_are_named_as_what_they_are() {
    let nan = changed(|arrays| arrays[3].2[1] = f32::NAN);
    let words = said("x", &nan, Some(Format::Safetensors));
    assert!(
        words.contains("features.3.bias") && words.contains("NaN at element 1"),
        "{words}"
    );
    assert!(!words.contains("checkpoint"), "{words}");

    let header = r#"{"features.0.weight":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#;
    let double = [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &1e300f64.to_le_bytes(),
    ]
    .concat();
    let words = said("x", &double, Some(Format::Safetensors));
    assert!(
        words.contains("features.0.weight: 1e300, a number beyond those of f32"),
        "{words}"
    );
}

/// Foreign numbers opened as our own: it is not the configuration that is wrong.
#[test]
fn other_precisions_are_to_be_converted() {
    let model = Model::import(&file("vgg11.pth"), None, None).unwrap();
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for parameter in &model.network.parameters {
        let start = data.len();
        for value in &model.weights[parameter.range()] {
            data.extend(half::bf16::from_f32(*value).to_le_bytes());
        }
        entries.push(format!(
            "\"{}\":{{\"dtype\":\"BF16\",\"shape\":{:?},\"data_offsets\":[{start},{}]}}",
            parameter.name,
            parameter.dims,
            data.len()
        ));
    }
    let header = format!("{{{}}}", entries.join(","));
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    let error = Model::open_from(Path::new("x"), bytes.clone())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("BF16") && error.contains("convert"), "{error}");
    assert!(!error.contains("another configuration"), "{error}");
    assert!(import("x", &bytes, None).is_ok());
}

/// A file of ours that is not what is wanted: the first layer that differs, as of anybody's.
#[test]
fn our_own_weights_of_another_configuration_are_named_by_a_layer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    let model = Model::import(&file("vgg11.pth"), None, None).unwrap();
    write_safetensors(&path, &model).unwrap();
    let wanted = Some(verydeep::network::Config::D);
    let error = Model::import(&path, None, wanted).err().unwrap().to_string();
    for word in [
        "layer conv1_2 (conv3x3)",
        "pool1 (max_pool) in its place",
        "--config A",
    ] {
        assert!(error.contains(word), "{word}: {error}");
    }
}

/// Millions of names, or a header of a hundred megabytes, are no network's.
#[test]
fn headers_are_bounded() {
    let entry = |i: usize| format!("\"{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}");
    let names: Vec<_> = (0..5000).map(entry).collect();
    let of = |header: &str| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let many = of(&format!("{{{}}}", names.join(",")));
    let long = of(&format!("{{{}}}", " ".repeat(1 << 24)));
    for (bytes, word) in [(many, "at most 4096 arrays"), (long, "at most 16777216 bytes")] {
        let said = said("x", &bytes, Some(Format::Safetensors));
        assert!(said.contains(word), "{said}");
        let error = Model::open_from(Path::new("x"), bytes).err().unwrap();
        assert!(error.to_string().contains(word), "{error}");
    }
}
