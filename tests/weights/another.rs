//! Graphs with the weights of a VGG network that compute something else are refused, by the layer that differs.

use std::path::Path;

use verydeep::network::{Config, Extent, Spec};
use verydeep::weights::{Format, Model, write_onnx};

use super::golden::file;
use super::proto::{Message, Value};

fn import(bytes: &[u8], format: Format) -> verydeep::Result<Model> {
    Model::import_from(Path::new("x"), bytes, Some(format), None, Extent::Whole)
}

/// The error has these words.
fn assert_refused(bytes: &[u8], format: Format, words: &[&str]) {
    let error = import(bytes, format).err().unwrap_or_else(|| panic!("{words:?}"));
    let said = error.to_string();
    assert_eq!(error.exit_code(), 3, "{said}");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
}

/// A graph of net A or A-LRN that nobody's metadata describes.
fn onnx(config: Config) -> Message {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.onnx");
    let mut model = Model::import(&file("vgg11.pth"), None, None).unwrap();
    model.spec = Spec { config, ..model.spec };
    model.network = model.spec.build().unwrap();
    model.about = None;
    write_onnx(&path, &model).unwrap();
    Message::of(&std::fs::read(&path).unwrap())
}

fn nodes(model: &mut Message, change: impl FnOnce(&mut Vec<Message>)) {
    model.change(7, |graph| graph[0].change(1, change));
}

fn name(node: &Message) -> String {
    node.texts(3).concat()
}

fn kind(node: &Message) -> String {
    node.texts(4).concat()
}

/// Takes out the nodes of a kind: whoever reads them reads what they read.
fn without(nodes: &mut Vec<Message>, wanted: &str) {
    while let Some(at) = nodes.iter().position(|node| kind(node) == wanted) {
        let node = nodes.remove(at);
        let (input, output) = (node.texts(1).swap_remove(0), node.texts(2).concat());
        nodes
            .iter_mut()
            .for_each(|other| other.replace(1, &output, &input));
    }
}

fn ints(name: &str, values: &[u64]) -> Message {
    let attribute = Message::default().text(1, name);
    let values = values.iter();
    values
        .fold(attribute, |attribute, value| attribute.number(8, *value))
        .number(20, 7)
}

fn int(name: &str, value: u64) -> Message {
    Message::default().text(1, name).number(3, value).number(20, 2)
}

/// Adds an attribute to the first node of a kind.
fn with(nodes: &mut [Message], wanted: &str, attribute: &Message) {
    let node = nodes.iter_mut().find(|node| kind(node) == wanted).unwrap();
    *node = std::mem::take(node).message(5, attribute);
}

#[test]
fn onnx_graphs_of_other_networks_are_refused() {
    type Change = fn(&mut Vec<Message>);
    let changes: [(Change, &[&str]); 13] = [
        (
            |nodes| without(nodes, "Relu"),
            &["node pool1 (MaxPool)", "relu1_1 (relu) behind conv1_1"],
        ),
        (
            |nodes| without(nodes, "MaxPool"),
            &[
                "node conv2_1 (Conv)",
                "pool1 (max_pool) behind relu1_1, as in net A",
            ],
        ),
        (
            |nodes| with(nodes, "MaxPool", &ints("dilations", &[2, 2])),
            &["node pool1 (MaxPool)", "dilations [2, 2]"],
        ),
        (
            |nodes| with(nodes, "MaxPool", &int("ceil_mode", 1)),
            &["node pool1", "ceil_mode 1"],
        ),
        (
            |nodes| {
                let same = Message::default().text(1, "auto_pad").text(4, "SAME_UPPER");
                with(nodes, "MaxPool", &same);
            },
            &["node pool1", "auto_pad SAME_UPPER"],
        ),
        (
            |nodes| with(nodes, "Conv", &int("group", 2)),
            &["node conv1_1 (Conv)", "group 2"],
        ),
        (
            |nodes| {
                nodes
                    .iter_mut()
                    .find(|node| kind(node) == "Relu")
                    .unwrap()
                    .replace(4, "Relu", "Softmax")
            },
            &["node relu1_1 (Softmax)", "relu1_1 (relu)", "found softmax"],
        ),
        (
            |nodes| {
                nodes
                    .iter_mut()
                    .find(|node| kind(node) == "Relu")
                    .unwrap()
                    .replace(4, "Relu", "Tanh")
            },
            &["node relu1_1 (Tanh)", "no node of a VGG network"],
        ),
        (
            |nodes| {
                let node = nodes.iter_mut().find(|node| kind(node) == "Relu").unwrap();
                *node = std::mem::take(node).text(7, "com.example");
            },
            &["node relu1_1", "ONNX's own"],
        ),
        (
            |nodes| with(nodes, "Flatten", &int("axis", 2)),
            &["axis 2", "--trunk"],
        ),
        (
            |nodes| {
                let at = nodes.iter().position(|node| name(node) == "relu6").unwrap();
                nodes[at].replace(4, "Relu", "Softmax");
            },
            &[
                "net A, and behind them softmax where relu6 (relu) behind fc6",
                "--trunk",
            ],
        ),
        (
            |nodes| {
                let relu = Message::default()
                    .text(1, "scores")
                    .text(2, "end")
                    .text(3, "last")
                    .text(4, "Relu");
                nodes.push(relu);
            },
            &["nothing behind fc8", "relu"],
        ),
        (
            |nodes| {
                // A number for each column, not for each channel.
                let at = nodes.iter().position(|node| name(node) == "relu1_1").unwrap();
                nodes[at].replace(1, "conv1_1", "added");
                let add = Message::default().text(1, "conv1_1").text(1, "features.0.bias");
                nodes.push(add.text(2, "added").text(3, "add").text(4, "Add"));
            },
            &["node add (Add)", "[4] added to 4 channels"],
        ),
    ];
    for (change, words) in changes {
        let mut model = onnx(Config::A);
        assert_eq!(
            import(&model.bytes(), Format::Onnx).unwrap().spec.config,
            Config::A
        );
        nodes(&mut model, change);
        assert_refused(&model.bytes(), Format::Onnx, words);
    }
}

/// Net A-LRN normalises once, behind the first convolution.
#[test]
fn onnx_graphs_that_normalise_elsewhere_are_refused() {
    let mut model = onnx(Config::ALrn);
    assert_eq!(
        import(&model.bytes(), Format::Onnx).unwrap().spec.config,
        Config::ALrn
    );
    nodes(&mut model, |nodes| {
        let lrn = nodes.iter().find(|node| kind(node) == "LRN").unwrap().clone();
        without(nodes, "LRN");
        for node in nodes.iter_mut() {
            node.replace(1, "relu2_1", "moved");
        }
        let mut lrn = lrn;
        let (input, output) = (lrn.texts(1).swap_remove(0), lrn.texts(2).concat());
        lrn.replace(1, &input, "relu2_1");
        lrn.replace(2, &output, "moved");
        nodes.push(lrn);
    });
    assert_refused(
        &model.bytes(),
        Format::Onnx,
        &[
            "node pool1 (MaxPool)",
            "lrn1_1 (lrn) behind relu1_1, as in net A-LRN",
        ],
    );
}

/// What follows the fifth pooling is no part of a trunk, whatever it is.
#[test]
fn a_trunk_is_compared_to_its_last_pooling() {
    let trunk = |model: &Message| {
        Model::import_from(
            Path::new("x"),
            &model.bytes(),
            Some(Format::Onnx),
            None,
            Extent::Trunk,
        )
    };
    let mut model = onnx(Config::A);
    nodes(&mut model, |nodes| {
        let at = nodes.iter().position(|node| name(node) == "relu6").unwrap();
        nodes[at].replace(4, "Relu", "Tanh");
    });
    assert_eq!(trunk(&model).unwrap().spec.extent, Extent::Trunk);
    nodes(&mut model, |nodes| without(nodes, "Relu"));
    assert!(trunk(&model).is_err());
}

/// The layers of one of the golden files, in one of the two formats.
fn caffe(name: &str, change: impl FnOnce(&mut Vec<Message>)) -> Vec<u8> {
    let mut model = Message::of(&std::fs::read(file(name)).unwrap());
    model.change(if name.starts_with("older") { 2 } else { 100 }, change);
    model.bytes()
}

/// The type of a layer.
fn type_of(layer: &Message) -> String {
    layer.texts(2).concat()
}

fn first<'a>(layers: &'a mut [Message], wanted: &str) -> &'a mut Message {
    layers.iter_mut().find(|layer| type_of(layer) == wanted).unwrap()
}

/// Adds numbers to what the first layer of a type is told.
fn told(layers: &mut [Message], wanted: &str, field: u64, add: &[(u64, u64)]) {
    first(layers, wanted).change(field, |parameters| {
        if parameters.is_empty() {
            parameters.push(Message::default());
        }
        let fields = add.iter().map(|(number, value)| (*number, Value::Number(*value)));
        parameters[0].0.extend(fields);
    });
}

/// What a normalisation is told.
fn normalisation(more: &[(u64, u64)]) -> Message {
    let told = Message::default()
        .number(1, 5)
        .float(2, 5e-4)
        .float(3, 0.75)
        .float(5, 2.0);
    let told = more
        .iter()
        .fold(told, |told, (number, value)| told.number(*number, *value));
    Message::default().text(2, "LRN").message(118, &told)
}

#[test]
fn caffemodels_of_other_networks_are_refused() {
    type Change = fn(&mut Vec<Message>);
    let changes: [(Change, &[&str]); 18] = [
        (
            |layers| layers.retain(|layer| type_of(layer) != "ReLU"),
            &["(Pooling)", "relu1_1 (relu) behind conv1_1, as in net A"],
        ),
        (
            |layers| {
                let pooling = layers.iter().position(|layer| type_of(layer) == "Pooling");
                layers.remove(pooling.unwrap());
            },
            &["(Convolution)", "pool1 (max_pool) behind relu1_1"],
        ),
        (
            |layers| told(layers, "Convolution", 106, &[(6, 2)]),
            &["layer layer (Convolution)", "stride [2, 2], not [1, 1]"],
        ),
        (
            |layers| told(layers, "Convolution", 106, &[(13, 2), (14, 1)]),
            &["stride [2, 1]"],
        ),
        (
            |layers| told(layers, "Convolution", 106, &[(9, 0), (10, 1)]),
            &["pad [0, 1], not [1, 1]"],
        ),
        (
            |layers| told(layers, "Convolution", 106, &[(5, 2)]),
            &["group 2, not 1"],
        ),
        (
            |layers| told(layers, "Convolution", 106, &[(18, 4)]),
            &["dilation [4, 4]"],
        ),
        (
            |layers| told(layers, "Convolution", 106, &[(11, 5), (12, 5)]),
            &["kernel [5, 5], not [3, 3]"],
        ),
        (
            |layers| told(layers, "InnerProduct", 117, &[(6, 1)]),
            &["transpose 1", "--trunk"],
        ),
        (
            |layers| told(layers, "Pooling", 121, &[(1, 1)]),
            &["(Pooling)", "averages"],
        ),
        (
            |layers| told(layers, "Pooling", 121, &[(2, 3)]),
            &["kernel [2, 3], not [2, 2]"],
        ),
        (
            |layers| told(layers, "Pooling", 121, &[(4, 1)]),
            &["pad [1, 1], not [0, 0]"],
        ),
        (
            |layers| {
                let slope = Message::default().float(1, 0.1);
                let relu = first(layers, "ReLU");
                *relu = std::mem::take(relu).message(123, &slope);
            },
            &["(ReLU)", "negative_slope 0.1"],
        ),
        (
            |layers| first(layers, "ReLU").replace(2, "ReLU", "Softmax"),
            &["(Softmax)", "relu1_1"],
        ),
        (
            |layers| first(layers, "ReLU").replace(2, "ReLU", "Sigmoid"),
            &["(Sigmoid)", "found Sigmoid"],
        ),
        (
            |layers| layers.insert(2, normalisation(&[(4, 1)])),
            &["(LRN)", "within a channel"],
        ),
        (
            |layers| layers.insert(5, normalisation(&[])),
            &["(Pooling)", "lrn1_1 (lrn) behind relu1_1, as in net A-LRN"],
        ),
        (
            |layers| {
                let wired = |layer: &mut Message, from: &str, to: &str| {
                    *layer = std::mem::take(layer).text(3, from).text(4, to);
                };
                wired(&mut layers[0], "data", "a");
                wired(&mut layers[1], "a", "b");
                wired(&mut layers[2], "a", "c");
            },
            &[
                "(Pooling)",
                "reads a, which is not what the layer before it gives",
            ],
        ),
    ];
    for (change, words) in changes {
        assert_refused(&caffe("current.caffemodel", change), Format::Caffe, words);
    }
    // The older format has other numbers for the same.
    for (kind, field, add, word) in [
        (4, 10, (6, 2), "stride [2, 2]"),
        (17, 19, (1, 1), "averages"),
        (14, 17, (6, 1), "transpose 1"),
    ] {
        let changed = caffe("older.caffemodel", |layers| {
            let is_it = |layer: &&mut Message| {
                layer.0.iter().any(|(number, value)| {
                    *number == 5 && matches!(value, Value::Number(number) if *number == kind)
                })
            };
            let layer = layers.iter_mut().find(is_it).unwrap();
            *layer = std::mem::take(layer).message(field, &Message::default().number(add.0, add.1));
        });
        assert_refused(&changed, Format::Caffe, &[word]);
    }
    let oldest = Message::default().message(2, &Message::default().message(1, &Message::default()));
    assert_refused(
        &oldest.bytes(),
        Format::Caffe,
        &["first format", "upgrade_net_proto_binary"],
    );
}

/// A snapshot of training has more than the network, and a stripped file less.
#[test]
fn caffemodels_with_more_and_with_less_are_read() {
    let plain = import(&caffe("current.caffemodel", |_| {}), Format::Caffe).unwrap();
    let snapshot = caffe("current.caffemodel", |layers| {
        let layer = |kind: &str| Message::default().text(1, kind).text(2, kind);
        layers.insert(0, layer("Data").text(4, "data").text(4, "label"));
        let split = layer("Split")
            .text(3, "label")
            .text(4, "label_0")
            .text(4, "label_1");
        layers.insert(1, split);
        layers[2] = std::mem::take(&mut layers[2]).text(3, "data").text(4, "conv1_1");
        layers[3] = std::mem::take(&mut layers[3])
            .text(3, "conv1_1")
            .text(4, "conv1_1");
        layers[4] = std::mem::take(&mut layers[4]).text(3, "conv1_1").text(4, "pool1");
        layers.extend(["Accuracy", "SoftmaxWithLoss"].map(layer));
    });
    let bare = |kinds: &[&str]| {
        caffe("current.caffemodel", |layers| {
            layers.retain(|layer| kinds.contains(&type_of(layer).as_str()));
        })
    };
    let weights = bare(&["Convolution", "InnerProduct"]);
    let no_poolings = bare(&["Convolution", "InnerProduct", "ReLU"]);
    for bytes in [snapshot, weights, no_poolings] {
        let model = import(&bytes, Format::Caffe).unwrap();
        assert_eq!(
            (model.spec, model.weights),
            (plain.spec.clone(), plain.weights.clone())
        );
    }
    let lrn = caffe("current.caffemodel", |layers| {
        layers.insert(2, normalisation(&[]))
    });
    assert_eq!(import(&lrn, Format::Caffe).unwrap().spec.config, Config::ALrn);
}
