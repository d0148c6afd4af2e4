//! Files with the convolutions of a VGG network and another head, or none.

use std::path::Path;

use verydeep::network::{Config, Extent, Spec};
use verydeep::weights::{Array, Format, Model, write_arrays, write_onnx, write_safetensors};

use super::golden::file;

fn trunk_of(path: &Path, format: Option<Format>) -> Model {
    Model::import_part(path, format, None, Extent::Trunk).unwrap()
}

/// A file without its head is taken as it is; asked for the convolutions alone, every format gives the same.
#[test]
fn the_convolutions_of_every_format_are_those_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in [
        "vgg11.pth",
        "vgg11_bn.pth",
        "channels_last.onnx",
        "current.caffemodel",
        "older.caffemodel",
    ] {
        let whole = Model::import(&file(name), None, None).unwrap();
        let trunk = trunk_of(&file(name), None);
        let expected = Spec {
            batch_norm: whole.spec.batch_norm,
            width: whole.spec.width,
            ..Spec::trunk(Config::A)
        };
        assert_eq!(trunk.spec, expected, "{name}");
        assert_eq!(trunk.weights[..], whole.weights[..trunk.weights.len()], "{name}");
        assert_eq!(
            trunk.about.as_ref().unwrap().preprocess,
            whole.about.as_ref().unwrap().preprocess
        );
        assert_eq!(whole.trunk().unwrap().weights_sha256, trunk.weights_sha256);

        let (tensors, onnx) = (at("t.safetensors"), at("t.onnx"));
        write_safetensors(&tensors, &trunk).unwrap();
        write_onnx(&onnx, &trunk).unwrap();
        for again in [
            Model::open(&tensors).unwrap(),
            Model::import(&tensors, None, Some(Config::A)).unwrap(),
            Model::import(&onnx, None, Some(Config::A)).unwrap(),
        ] {
            assert_eq!(
                (&again.spec, &again.weights_sha256),
                (&trunk.spec, &trunk.weights_sha256),
                "{name}"
            );
        }
    }
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let place = bytes
        .windows(from.len())
        .position(|window| window == from)
        .unwrap();
    [&bytes[..place], to, &bytes[place + to.len()..]].concat()
}

/// Nothing is left out unasked: the error says what was found and what takes it.
#[test]
fn another_head_is_refused_and_can_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let whole = Model::import(&file("vgg11.pth"), None, None).unwrap();
    let arrays: Vec<_> = whole
        .network
        .parameters
        .iter()
        .map(|parameter| Array {
            name: parameter.name.replace("classifier.0", "head"),
            dims: parameter.dims.clone(),
            values: &whole.weights[parameter.range()],
        })
        .collect();
    write_arrays(&at("head.safetensors"), &[], &arrays).unwrap();
    let onnx = std::fs::read(file("channels_last.onnx")).unwrap();
    std::fs::write(at("head.onnx"), replaced(&onnx, b"MatMul", b"MatMix")).unwrap();
    let caffe = std::fs::read(file("current.caffemodel")).unwrap();
    let less = without_layer(&caffe, caffe_layers(&caffe) - 1);
    std::fs::write(at("head.caffemodel"), less).unwrap();
    for (name, word) in [
        ("head.safetensors", "6 other arrays"),
        ("head.onnx", "MatMix"),
        ("head.caffemodel", "10 other layers"),
    ] {
        let error = Model::import(&at(name), None, None).err().expect(name);
        let said = error.to_string();
        assert_eq!(error.exit_code(), 3, "{said}");
        for word in [word, "convolutions of net A", "--trunk"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        let trunk = trunk_of(&at(name), None);
        assert_eq!(trunk.weights[..], whole.weights[..trunk.weights.len()], "{name}");
    }
}

/// The layers of a caffemodel, as ranges of its bytes.
fn layers(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    let varint = |at: &mut usize| {
        let mut value = 0usize;
        for shift in (0..).step_by(7) {
            let byte = bytes[*at];
            *at += 1;
            value |= usize::from(byte & 127) << shift;
            if byte < 128 {
                return value;
            }
        }
        unreachable!("a number ends")
    };
    while at < bytes.len() {
        let start = at;
        let tag = varint(&mut at);
        let len = varint(&mut at);
        at += len;
        if tag >> 3 == 100 && len > 100 {
            found.push(start..at);
        }
    }
    found
}

fn caffe_layers(bytes: &[u8]) -> usize {
    layers(bytes).len()
}

fn without_layer(bytes: &[u8], index: usize) -> Vec<u8> {
    let layer = &layers(bytes)[index];
    [&bytes[..layer.start], &bytes[layer.end..]].concat()
}

/// Whichever layer is missing: a convolution leaves nothing to take, a fully connected layer the convolutions.
#[test]
fn a_caffemodel_with_a_missing_layer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.caffemodel");
    let bytes = std::fs::read(file("current.caffemodel")).unwrap();
    assert_eq!(caffe_layers(&bytes), 11);
    for missing in 0..11 {
        std::fs::write(&path, without_layer(&bytes, missing)).unwrap();
        let error = Model::import(&path, None, None).err().unwrap();
        let said = error.to_string();
        assert_eq!(error.exit_code(), 3, "{said}");
        assert!(said.contains("10 other layers with weights"), "{missing}: {said}");
        assert_eq!(said.contains("--trunk"), missing >= 8, "{missing}: {said}");
    }
}
