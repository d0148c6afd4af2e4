use super::*;

fn made_for() -> MadeFor {
    MadeFor {
        program: "0.1.0".into(),
        cudnn: "9.10.0".into(),
        cublaslt: "13.0.0".into(),
        device: "a device".into(),
        multiprocessors: 100,
        precision: Precision::Tf32,
        convolution_workspace: 256 << 20,
        product_workspace: 32 << 20,
    }
}

fn shape() -> ConvShape {
    ConvShape {
        n: 4,
        c: 8,
        k: 64,
        h: 32,
        w: 48,
        kernel: 3,
    }
}

fn product() -> Product {
    Product {
        factors: Element::Bf16,
        result: Element::F32,
        m: 4,
        n: 4096,
        k: 25088,
        a: Factor::Plain,
        b: Factor::Transposed,
        finish: Finish::BiasRelu,
    }
}

fn file() -> PlanFile {
    let engine = EngineChoice {
        engine: 38,
        knobs: vec![[1, 7], [4, 0]],
    };
    let convolution = ConvChoice::new(ConvPass::Forward { relu: true }, shape(), engine);
    let words = [0x42, u64::MAX, 3, 4, 5, 6, 7, 8];
    PlanFile::new(
        made_for(),
        vec![convolution],
        vec![ProductChoice::new(product(), words)],
    )
}

#[test]
fn a_file_says_what_was_decided() {
    let read = PlanFile::parse(&file().to_json(), "p.json").unwrap();
    assert_eq!(read, file());
    let (key, engine) = read.convolutions().next().unwrap();
    assert_eq!(key, (ConvPass::Forward { relu: true }, shape()));
    assert_eq!(engine.to_string(), "engine 38 with knobs 1=7, 4=0");
    let (found, words) = read.products().next().unwrap().unwrap();
    assert_eq!((found, words), (product(), [0x42, u64::MAX, 3, 4, 5, 6, 7, 8]));
}

#[test]
fn every_pass_and_product_survives_the_way_to_the_file_and_back() {
    let engine = EngineChoice {
        engine: 1,
        knobs: Vec::new(),
    };
    for pass in [
        ConvPass::Forward { relu: false },
        ConvPass::Forward { relu: true },
        ConvPass::DataGradient,
        ConvPass::FilterGradient,
    ] {
        assert_eq!(
            ConvChoice::new(pass, shape(), engine.clone()).key(),
            (pass, shape())
        );
    }
    for finish in [Finish::None, Finish::Bias, Finish::BiasRelu] {
        for (a, b) in [
            (Factor::Plain, Factor::Transposed),
            (Factor::Transposed, Factor::Plain),
        ] {
            let product = Product {
                a,
                b,
                finish,
                ..product()
            };
            assert_eq!(ProductChoice::new(product, [9; 8]).decode().unwrap().0, product);
        }
    }
}

#[test]
fn torn_and_changed_files_are_refused() {
    let text = file().to_json();
    let said = |text: &str| {
        let error = PlanFile::parse(text, "p.json").unwrap_err();
        assert_eq!(error.exit_code(), 3);
        error.to_string()
    };
    for length in [0, 1, text.len() / 2, text.len() - 3] {
        assert!(said(&text[..length]).contains("a whole plan file"), "{length}");
    }
    assert!(said(&text.replace("\"engine\": 38", "\"engine\": 39")).contains("field sha256"));
    assert!(
        said(&text.replace("\"format\": 1", "\"format\": 2")).contains("field format: expected 1, found 2")
    );
    assert!(said(&text.replace("\"engine\"", "\"motor\"")).contains("a whole plan file"));
}

#[test]
fn a_file_holds_only_where_it_was_made() {
    let file = file();
    file.holds_for(&made_for()).unwrap();
    let said = |here: MadeFor| file.holds_for(&here).unwrap_err().to_string();
    let other = MadeFor {
        cudnn: "9.28.0".into(),
        ..made_for()
    };
    let words = "field cudnn: expected \"9.10.0\", found \"9.28.0\"";
    assert!(said(other.clone()).contains(words), "{}", said(other));
    let other = MadeFor {
        multiprocessors: 99,
        ..made_for()
    };
    assert!(said(other).contains("field multiprocessors: expected 100, found 99"));
    let other = MadeFor {
        precision: Precision::Fp32,
        ..made_for()
    };
    assert!(said(other).contains("field precision"));
}

#[test]
fn digits_that_are_no_algorithm_are_refused() {
    for digits in ["", "12", &"g".repeat(128), &"é".repeat(64)] {
        let mut choice = ProductChoice::new(product(), [0; 8]);
        choice.algorithm = digits.into();
        let said = choice.decode().unwrap_err().to_string();
        assert!(said.contains("128 hexadecimal digits"), "{said}");
    }
}
