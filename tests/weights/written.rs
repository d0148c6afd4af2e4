//! What is written is read again.

use verydeep::network::{Config, Spec};
use verydeep::weights::{Model, write_onnx, write_safetensors};

use super::golden::{file, scores};

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
            write_onnx(&path, &model).unwrap();
            let again = Model::import(&path, None, None).unwrap();
            assert_eq!(again.spec, Spec { dropout: 0.5, ..spec });
            assert_eq!(again.weights, model.weights);
            assert_eq!(
                again.about.unwrap().preprocess,
                model.about.as_ref().unwrap().preprocess
            );
        }
    }
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nan.safetensors");
    let mut model = Model::import(&file("vgg11.pth"), None, None).unwrap();
    let parameter = &model.network.parameters[3];
    model.weights[parameter.offset + 1] = f32::NAN;
    model.about = None;
    write_safetensors(&path, &model).unwrap();
    for error in [
        Model::open(&path).err().unwrap(),
        Model::import(&path, None, None).err().unwrap(),
    ] {
        assert_eq!(error.exit_code(), 3);
        let said = error.to_string();
        assert!(
            said.contains(&parameter.name) && said.contains("NaN at element 1"),
            "{said}"
        );
    }
}
