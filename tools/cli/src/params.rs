//! Parameters of a job of any service, as they are given on the command line.

use anyhow::{Context, anyhow};
use ecs_schemas::value::Value;
use std::{fs, path::Path};

/// The parameters of `key=value …` and `@file.json`: later ones replace earlier ones of the same key. Nothing
/// at all is nil.
///
/// # Errors
/// Names the file that cannot be read, or the argument that is neither.
pub fn parse(arguments: &[String]) -> anyhow::Result<Value> {
    let mut params = Value::Null;
    for argument in arguments {
        match argument.strip_prefix('@') {
            Some(path) => add_file(&mut params, Path::new(path))?,
            None => {
                let (key, value) = key_value(argument).map_err(|error| anyhow!("{argument:?}: {error}"))?;
                params.insert(&key, value);
            }
        }
    }
    Ok(params)
}

fn add_file(params: &mut Value, path: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON that a job can have", path.display()))?;
    match value {
        Value::Map(entries) => entries.into_iter().for_each(|(key, value)| params.insert(&key, value)),
        _ if *params != Value::Null => {
            return Err(anyhow!("{} is not an object: it can only stand alone", path.display()));
        }
        value => *params = value,
    }
    Ok(())
}

fn key_value(text: &str) -> Result<(String, Value), &'static str> {
    let found = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = found.ok_or("KEY=VALUE or @FILE.json is wanted")?;
    Ok((key.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> anyhow::Result<Value> {
        parse(&arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn values_are_json_where_they_parse_as_json_and_else_text() {
        let params =
            parsed(&["a=1", "b=-2.5", "c=true", "d=null", "e=[1,\"x\"]", "f={\"g\":1}", "h=\"1\"", "i=x=y", "j="]);
        let expected = Value::map([
            ("a", 1.into()),
            ("b", (-2.5).into()),
            ("c", true.into()),
            ("d", Value::Null),
            ("e", Value::List(vec![1.into(), "x".into()])),
            ("f", Value::map([("g", 1.into())])),
            ("h", "1".into()),
            ("i", "x=y".into()),
            ("j", "".into()),
        ]);
        assert_eq!(params.expect("all are parameters"), expected);
        assert_eq!(parsed(&[]).expect("none"), Value::Null);
        for wrong in ["key", "=1", ""] {
            assert!(parsed(&[wrong]).expect_err(wrong).to_string().contains("KEY=VALUE"), "{wrong}");
        }
    }

    #[test]
    fn file_and_later_arguments_replace_earlier_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("written");
            format!("@{}", path.display())
        };
        let file = path("params.json", "{\"a\": 1, \"b\": 2}");
        let params = parsed(&["a=0", &file, "b=3"]).expect("all are parameters");
        assert_eq!(params, Value::map([("a", 1.into()), ("b", 3.into())]));
        let list = path("list.json", "[1]");
        assert_eq!(parsed(&[&list]).expect("alone"), Value::List(vec![1.into()]));
        assert!(parsed(&["a=1", &list]).expect_err("no object").to_string().contains("list.json"));
        let broken = path("broken.json", "{");
        assert!(parsed(&[&broken]).expect_err("no JSON").to_string().contains("broken.json"));
        assert!(parsed(&["@/no/such/file"]).expect_err("no file").to_string().contains("/no/such/file"));
    }
}
