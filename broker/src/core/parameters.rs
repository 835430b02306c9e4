//! Parameters of events and calls: how many, how large, and whether they fit a handler's description.

use super::items::check_value;
use crate::limits::PARAMS_MAX;
use ecs_schemas::{
    envelope::VALUE_BYTES_MAX,
    error_code::{ErrorCode, Failure},
    exchange::Params,
    nearest::{nearest, quoted},
    subsystem::Handled,
};

/// Checks number and size of parameters; returns their bytes.
pub(super) fn check_params(params: &Params) -> Result<usize, Failure> {
    let bad = |message: String| Failure::new(ErrorCode::BadParameter, message);
    if params.len() > PARAMS_MAX {
        return Err(bad(format!("{} parameters; at most {PARAMS_MAX}", params.len())));
    }
    params.iter().try_for_each(|(name, value)| check_value(format_args!("parameter {}", quoted(name)), value))?;
    let bytes = params.iter().map(|(name, value)| name.len() + value.content_bytes()).sum();
    if bytes > VALUE_BYTES_MAX {
        return Err(bad(format!("parameters of {bytes} bytes; at most {VALUE_BYTES_MAX}")));
    }
    Ok(bytes)
}

/// Rule X2. A handler that describes no parameters takes any.
pub(super) fn check_against(what: &str, handled: &Handled, params: &Params) -> Result<(), Failure> {
    if handled.params.is_empty() {
        return Ok(());
    }
    let bad = |message: String| Failure::new(ErrorCode::BadParameter, message);
    for (name, value) in params {
        let Some(param) = handled.params.iter().find(|param| param.name == *name) else {
            let near = nearest(name, handled.params.iter().map(|param| param.name.as_str()));
            let failure = bad(format!("{what} has no parameter {}", quoted(name)));
            return Err(match near {
                Some(near) => failure.with_hint(format!("the nearest is {near}")),
                None => failure,
            });
        };
        param.kind.check(format_args!("{what}: parameter {name}"), value)?;
    }
    match handled.params.iter().find(|param| !param.optional && !params.contains_key(&param.name)) {
        Some(missing) => {
            Err(bad(format!("{what}: parameter {} is missing ({})", missing.name, missing.kind.allowed())))
        }
        None => Ok(()),
    }
}
