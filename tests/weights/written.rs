//! What is written is read again, with all that travels; and nothing else.

use std::path::Path;

use verydeep::network::{Config, Extent, Spec};
use verydeep::weights::{Format, Model, write_onnx, write_safetensors};

use super::golden::{file, scores};
use super::proto::{Message, Value};

#[test]
fn safetensors_keep_weights_and_preprocessing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    for name in ["vgg11.pth", "vgg11_bn.pth"] {
        let model = Model::import(&file(name), None, None).unwrap();
        write_safetensors(&path, &model).unwrap();
        let again = Model::open(&path).unwrap();
        assert_eq!(again.weights_sha256, model.weights_sha256);
        assert_eq!(again.about, model.about);
        assert_eq!(scores(&again, 2, None), scores(&model, 2, None));
        // The same without what we say about it: names and shapes suffice, and torchvision's preprocessing is assumed.
        let imported = Model::import(&path, None, None).unwrap();
        assert_eq!(imported.about, model.about);

        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = Model::open(&path).err().unwrap();
        assert!(error.to_string().contains("weights_sha256"), "{error}");
    }
}

/// Through the weights of every kind of layer; A-LRN has the constants of its normalisation in the graph.
#[test]
fn onnx_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.onnx");
    for name in ["vgg11.pth", "vgg11_bn.pth"] {
        let mut model = Model::import(&file(name), None, None).unwrap();
        let mut specs = vec![model.spec.clone()];
        if !model.spec.batch_norm {
            specs.push(Spec {
                config: Config::ALrn,
                ..model.spec.clone()
            });
        }
        for spec in specs {
            // The same arrays, one after the other.
            model.network = spec.build().unwrap();
            model.spec = spec.clone();
            model.about.as_mut().unwrap().spec = spec.clone();
            write_onnx(&path, &model).unwrap();
            let again = Model::import(&path, None, None).unwrap();
            assert_eq!(again.spec, spec);
            assert_eq!(again.weights, model.weights);
            assert_eq!(again.about, model.about);
        }
    }
}

/// A network as a run makes it: with names, a crop and a scale of its own, and another preprocessing than torchvision's.
fn run() -> Model {
    let mut model = Model::import(&file("vgg11.pth"), None, None).unwrap();
    let about = model.about.as_mut().unwrap();
    about.class_names = (0..10).map(|i| format!("class {i}")).collect();
    about.scale = 73;
    about.preprocess.shift = [-1.0, -2.0, -3.0];
    about.spec.dropout = 0.25;
    model.spec = about.spec.clone();
    model
}

/// Whatever is said of the format, and of the whole and of its convolutions.
#[test]
fn what_travels_comes_back_from_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let (onnx, tensors) = (
        folder.path().join("net.onnx"),
        folder.path().join("net.safetensors"),
    );
    for model in [run(), run().trunk().unwrap()] {
        write_onnx(&onnx, &model).unwrap();
        write_safetensors(&tensors, &model).unwrap();
        for (path, format) in [
            (&onnx, None),
            (&onnx, Some(Format::Onnx)),
            (&tensors, None),
            (&tensors, Some(Format::Safetensors)),
        ] {
            let again = Model::import(path, format, Some(Config::A)).unwrap();
            assert_eq!(
                (&again.spec, &again.weights, &again.about),
                (&model.spec, &model.weights, &model.about)
            );
            let trunk = Model::import_part(path, format, None, Extent::Trunk).unwrap();
            let about = trunk.about.unwrap();
            assert_eq!(
                (about.scale, trunk.spec.crop, about.class_names),
                (73, 64, vec![])
            );
        }
    }
}

fn refused(path: &Path, format: Format, word: &str) {
    for extent in [Extent::Whole, Extent::Trunk] {
        let error = Model::import_part(path, Some(format), None, extent)
            .err()
            .expect(word);
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

/// Weights that were changed, and metadata that is none, lies, or is of another network.
#[test]
fn what_does_not_match_its_metadata_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net");
    let mut other = run();
    other.weights[0] += 1.0;
    write_onnx(&path, &other).unwrap();
    refused(&path, Format::Onnx, "weights_sha256");
    write_safetensors(&path, &other).unwrap();
    refused(&path, Format::Safetensors, "weights_sha256");

    write_onnx(&path, &run()).unwrap();
    let whole = Message::of(&std::fs::read(&path).unwrap());
    let with = |change: &dyn Fn(&str) -> String, keep_hash: bool| {
        let mut changed = whole.clone();
        changed.change(14, |entries| {
            if !keep_hash {
                entries.truncate(1);
            }
            let text = entries[0].texts(2).concat();
            entries[0].0[1].1 = Value::Bytes(change(&text).into());
        });
        std::fs::write(&path, changed.bytes()).unwrap();
    };
    with(&str::to_string, false); // as earlier builds wrote it
    assert_eq!(
        Model::import(&path, Some(Format::Onnx), None).unwrap().about,
        run().about
    );
    for (from, to, word) in [
        ("", "junk", "the metadata that this program writes"),
        ("[-1.0,", "[1e38,", "scale that vanishes"),
        (r#""class 3","#, "", "names of 10 classes"),
        (r#""classes":10"#, r#""classes":999999"#, "metadata describes"),
        (
            r#""config":"A""#,
            r#""config":"A-LRN""#,
            "lrn1_1 (lrn) behind relu1_1",
        ),
    ] {
        let change = |text: &str| {
            assert!(text.contains(from), "{from}: {text}");
            text.replacen(from, to, 1)
        };
        with(&change, false);
        refused(&path, Format::Onnx, word);
        with(&change, true);
        refused(&path, Format::Onnx, "the metadata that this program writes");
    }
}
