use super::*;

fn example() -> Manifest {
    let shard = |file: &str, split, labels: Vec<u32>| ShardEntry {
        file: file.to_string(),
        split,
        samples: labels.len(),
        bytes: 10240,
        sha256: hex(&Sha256::digest(file)),
        crc32: labels.iter().map(|label| 0x0800_0000 >> label).collect(),
        labels,
    };
    let mut manifest = Manifest::new(
        "pets".into(),
        vec!["cat".into(), "dog".into()],
        Stored::Original,
        1,
    );
    manifest.mean_rgb = [123.456_789_012, 0.1, 255.0];
    manifest.shards = vec![
        shard("pets-train-0000.tar", Split::Train, vec![1, 0, 1]),
        shard("pets-train-0001.tar", Split::Train, vec![0]),
        shard("pets-validation-0000.tar", Split::Validation, vec![]),
    ];
    manifest
}

#[test]
fn a_manifest_reads_back_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = example();
    manifest.save(folder.path()).unwrap();
    let read = Manifest::load(folder.path()).unwrap();
    assert_eq!(read, manifest);
    assert_eq!(read.sha256(), manifest.sha256());
    assert_eq!(read.samples(Split::Train), 4);
    let text = std::fs::read_to_string(folder.path().join(MANIFEST)).unwrap();
    assert!(text.contains(r#""crc32": "040000000800000004000000""#), "{text}");
    for wrong in ["04000000080000000400000", "0400000008000000040000xx"] {
        let path = folder.path().join(MANIFEST);
        std::fs::write(&path, text.replacen("040000000800000004000000", wrong, 1)).unwrap();
        assert!(
            matches!(Manifest::load(folder.path()), Err(Error::Invalid(_))),
            "{wrong}"
        );
    }
}

#[test]
fn others_find_the_splits_in_info_json() {
    let info = example().info();
    assert_eq!(info["splits"]["train"]["num_samples"], 4);
    assert_eq!(
        info["splits"]["train"]["shard_lengths"],
        serde_json::json!([3, 1])
    );
    assert_eq!(
        info["splits"]["validation"]["filenames"],
        serde_json::json!(["pets-validation-0000.tar"])
    );
}

#[test]
fn the_identity_covers_what_training_reads_and_nothing_else() {
    let identity = example().sha256();
    let changes: [fn(&mut Manifest); 6] = [
        |m| m.classes[1] = "dot".into(),
        |m| m.mean_rgb[1] = f64::from_bits(m.mean_rgb[1].to_bits() + 1),
        |m| m.pca_rgb.eigenvectors[2][0] = 0.5,
        |m| m.shards.swap(0, 1),
        |m| m.shards[0].labels[0] = 0,
        |m| m.shards[1].sha256.replace_range(0..1, "x"),
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut changed = example();
        change(&mut changed);
        assert_ne!(changed.sha256(), identity, "change {i}");
    }
    let mut noted = example();
    noted.shards[0].crc32.clear(); // as older versions wrote it
    noted.odd.push(Note {
        source: "a".into(),
        key: "b".into(),
        reason: "c".into(),
    });
    assert_eq!(noted.sha256(), identity);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let changes: [fn(&mut Manifest); 9] = [
        |m| m.format = "verydeep shards 2".into(),
        |m| m.classes.clear(),
        |m| m.classes.swap(0, 1),
        |m| m.mean_rgb[0] = 256.0,
        |m| m.shards[0].file = "../x.tar".into(),
        |m| m.shards[0].file = "pets-train-0001.tar".into(),
        |m| m.shards[0].samples = 4,
        |m| m.shards[0].labels[1] = 2,
        |m| m.shards[0].crc32.truncate(2),
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut changed = example();
        change(&mut changed);
        changed.save(folder.path()).unwrap();
        assert!(
            matches!(Manifest::load(folder.path()), Err(Error::Invalid(_))),
            "change {i}"
        );
    }
    std::fs::write(folder.path().join(MANIFEST), "{\"format\":").unwrap();
    assert!(matches!(Manifest::load(folder.path()), Err(Error::Invalid(_))));
    std::fs::remove_file(folder.path().join(MANIFEST)).unwrap();
    let error = Manifest::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("verydeep pack"), "{error}");
}
