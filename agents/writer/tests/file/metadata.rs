//! Metadata as Python sees it.

use crate::support::*;
use ecs_schemas::value::Value;
use ecs_writer::file::FileSpec;
use serde_json::json;

#[test]
fn metadata_of_every_type_reads_back_as_its_type() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let many: Vec<f64> = (0..100_000).map(f64::from).collect(); // more than an object header holds
    let entries = [
        ("bool", Value::from(true)),
        ("int", (-5_i64).into()),
        ("uint", u64::MAX.into()),
        ("float", 0.25.into()),
        ("text", "Köln 12 keV".into()),
        ("empty text", "".into()),
        ("bools", vec![true, false].into()),
        ("ints", vec![1_i64, -2].into()),
        ("uints", Value::List(vec![1.into(), u64::MAX.into()])),
        ("floats", Value::List(vec![1.into(), 0.5.into()])),
        ("texts", vec!["a", "ö", ""].into()),
        ("many", many.into()),
        ("mixed", Value::List(vec![1.into(), "a".into()])),
        ("inexact", Value::List(vec![((1_i64 << 53) + 1).into(), 0.5.into()])),
        ("none", Value::Null),
        ("empty", Value::List(vec![])),
        ("map", Value::map([("k", 1.into())])),
        ("bytes", Value::Bytes(vec![0, 255])),
        ("a/b.c", 1.into()),
    ];
    let metadata = entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let spec = FileSpec { metadata, ..spec(&output, 1) };
    let mut file = create(&spec, 0);
    write(&mut file, &spec, 0, ALL_RECEIVED);
    file.finish(&done()).unwrap();

    let held = &read_back(&output)["metadata"];
    let typed = |dtype: &str, value: serde_json::Value| json!({"dtype": dtype, "value": value});
    assert_eq!(held["bool"], typed("bool", json!(true)));
    assert_eq!(held["int"], typed("int64", json!(-5)));
    assert_eq!(held["uint"], typed("uint64", json!(u64::MAX)));
    assert_eq!(held["float"], typed("float64", json!(0.25)));
    assert_eq!(held["text"], "Köln 12 keV");
    assert_eq!(held["empty text"], "");
    assert_eq!(held["bools"], typed("bool", json!([true, false])));
    assert_eq!(held["ints"], typed("int64", json!([1, -2])));
    assert_eq!(held["uints"], typed("uint64", json!([1, u64::MAX])));
    assert_eq!(held["floats"], typed("float64", json!([1.0, 0.5])));
    assert_eq!(held["texts"], typed("object", json!(["a", "ö", ""])));
    assert_eq!(held["many"]["value"][99_999], 99_999.0);
    assert_eq!(held["mixed"], r#"[1,"a"]"#);
    assert_eq!(held["inexact"], "[9007199254740993,0.5]");
    assert_eq!(held["none"], "null");
    assert_eq!(held["empty"], "[]");
    assert_eq!(held["map"], r#"{"k":1}"#);
    assert_eq!(held["bytes"], "[0,255]");
    assert_eq!(held["a/b.c"], typed("int64", json!(1)));
    assert_eq!(held.as_object().unwrap().len(), 19);
}
